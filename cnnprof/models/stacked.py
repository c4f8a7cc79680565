"""A small residual network made of one kind of block, so that blocks can be trained side by side. It trains nothing."""

from collections.abc import Callable

from torch import Tensor, nn

from cnnprof.models.cnn import size


class StackedNet(nn.Module):
    """STEM -> (BLOCK*(N/3) -> POOL)*2 -> BLOCK*(N/3) -> MEAN -> FC: images (N, C, H, W) to scores (N, out_classes).

    The stem is a 3x3 convolution to `channels` and a ReLU; every block keeps their number, and H and W. `blocks` that
    three stages do not share evenly go to the later ones. Raises ValueError for sizes that are no whole positive
    numbers, and for images too small for two pools.
    """

    def __init__(
        self,
        in_size: tuple[int, int, int],
        out_classes: int,
        channels: int,
        blocks: int,
        block: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        image_channels, *sides = in_size
        if min(sides) < 4:
            raise ValueError(f"in_size is {in_size}: two pools of 2x2 need images of 4x4 or more")
        width, number = size("channels", channels), size("blocks", blocks)
        layers: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1), nn.ReLU()]
        for stage in range(3):
            layers += [nn.MaxPool2d(2)] if stage else []
            layers += [block(width) for _ in range((number + stage) // 3)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, size("out_classes", out_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Score images: (N, C, H, W) to (N, out_classes)."""
        scores: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores
