"""Small classifiers of 3x32x32, each with one fault: what a check of sanity is there to find."""

import random

import torch
from torch import Tensor, nn


def features(width: int = 8) -> nn.Sequential:
    convs = (nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*convs, nn.AvgPool2d(2), nn.Flatten())


class Healthy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = features()
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class LoudHead(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return 300 * super().forward(x)


class SoftmaxTwice(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class MeanColour(nn.Module):
    """Sees three means of an image, which are alike for grey ones: no line tells ten classes apart by them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class AllZero(Healthy):
    def __init__(self) -> None:
        super().__init__()
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Detached(Healthy):
    """Its second branch feels no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.other = features()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x) + self.other(x).detach())


class NeverCalled(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(4, 4)


class BatchSoftmax(Healthy):
    """Weighs features by a softmax over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found * (1 + found.softmax(0)))


class BatchMean(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class WrongView(nn.Module):
    """Means to put channels last, and mixes images instead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().permute(1, 0, 2, 3).reshape(len(x), -1))


class MakesNan(Healthy):
    """The root of what may be below 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.sqrt()))


class MakesNanBackwards(Healthy):
    """A distance from itself: the root of 0 is 0, and its slope is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found + (found - found).square().sqrt())


class DeadLayer(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Sequential(nn.Linear(256, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)
        nn.init.constant_(self.middle[0].bias, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.features(x)))


class Deep(nn.Module):
    """Thirty convolutions as PyTorch initialises them, and no norm."""

    def __init__(self, depth: int = 30, width: int = 8) -> None:
        super().__init__()
        convs = [nn.Conv2d(3, width, 3, 4, 1), nn.ReLU()]
        for _ in range(depth - 1):
            convs += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*convs, nn.Flatten())
        self.head = nn.Linear(width * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class OwnNoise(Healthy):
    """Draws noise that torch's seed does not reach."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + random.random())


class WithBatchNorm(nn.Module):
    """Not sick: batch norm mixes samples by design, one of them in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        convs = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        more = (nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU())
        self.layers = nn.Sequential(*convs, *more, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class StopsInEvaluation(Healthy):
    """Not sick, and cannot be evaluated; or, the other way round, cannot be trained after its first pass."""

    def __init__(self, error_in: bool = False) -> None:
        super().__init__()
        self.error_in = error_in
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.error_in and self.passes > 3:
            raise RuntimeError("only evaluated")
        if not self.error_in and not self.training:
            raise RuntimeError("only trained")
        return super().forward(x)


class LogScores(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(super().forward(x), 1)


SICK = {
    "LoudHead": "loss at start",
    "SoftmaxTwice": "raw scores",
    "MeanColour": "overfits a batch",
    "AllZero": "all parameters move",
    "Detached": "all parameters move",
    "NeverCalled": "all parameters move",
    "BatchSoftmax": "samples independent",
    "BatchMean": "samples independent",
    "WrongView": "samples independent",
    "MakesNan": "finite",
    "MakesNanBackwards": "finite",
    "DeadLayer": "dead ReLUs",
    "Deep": "depth",
    "OwnNoise": "deterministic",
}
"""The check that fails, and no other."""
