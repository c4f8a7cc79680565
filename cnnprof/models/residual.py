"""Residual blocks, regular and bottleneck, and the residual network made of them.

It trains nothing, counts nothing and times nothing. What a ResNet was asked for and did not get is in its `doubt`.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from cnnprof.models.cnn import CNN, CONV_3X3, Options, Part, activation_part, conv_part, size, sizes


class ResidualBlock(nn.Module):
    """relu(main path + shortcut path): maps (N, in_channels, H, W) to (N, channels[-1], H, W).

    The main path is (CONV -> Dropout2d -> BatchNorm2d -> ACT)*(len(channels) - 1) -> CONV, with stride 1 and padding
    that keeps H and W; dropout and batch norm only if asked for. The shortcut is the identity or, where the channel
    counts differ, a 1x1 convolution without bias. After the sum stands a ReLU whatever the `activation_type`.

    Raises ValueError for an empty list, lists of different lengths, an even kernel size, a size that is no whole
    positive number, a dropout outside [0, 1) and an unknown activation.
    """

    main_path: nn.Sequential
    shortcut_path: nn.Module

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        batchnorm: bool = False,
        dropout: float = 0.0,
        activation_type: str = "relu",
        activation_params: Options | None = None,
    ) -> None:
        super().__init__()
        before = size("in_channels", in_channels)
        widths, kernels = check_path("channels", channels, "kernel_sizes", kernel_sizes)
        if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout!r}: give a share from 0 up to, not including, 1")
        activation = activation_part(activation_type, activation_params)

        layers: list[nn.Module] = []
        for (previous, width), kernel in zip(pairwise((before, *widths)), kernels, strict=True):
            if layers:  # so that nothing follows the last convolution
                layers += [nn.Dropout2d(dropout)] if dropout > 0 else []
                layers += [nn.BatchNorm2d(previous)] if batchnorm else []
                layers += [activation()]
            layers += [nn.Conv2d(previous, width, kernel, padding=kernel // 2)]
        same = before == widths[-1]
        self.main_path = nn.Sequential(*layers)
        self.shortcut_path = nn.Identity() if same else nn.Conv2d(before, widths[-1], 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn maps (N, in_channels, H, W) into (N, channels[-1], H, W)."""
        return torch.relu(self.main_path(x) + self.shortcut_path(x))


class ResidualBottleneckBlock(ResidualBlock):
    """A ResidualBlock that is narrow inside: maps (N, in_out_channels, H, W) to maps of the same shape.

    The main path projects down to inner_channels[0] with a 1x1 convolution, goes through every inner convolution with
    its kernel and projects back with another 1x1. `block_options` are ResidualBlock's batchnorm, dropout,
    activation_type and activation_params; the errors are ResidualBlock's too.
    """

    def __init__(
        self,
        in_out_channels: int,
        inner_channels: Sequence[int],
        inner_kernel_sizes: Sequence[int],
        **block_options: Any,
    ) -> None:
        ends = size("in_out_channels", in_out_channels)
        inner, kernels = check_path("inner_channels", inner_channels, "inner_kernel_sizes", inner_kernel_sizes)
        super().__init__(ends, [inner[0], *inner, ends], [1, *kernels, 1], **block_options)


class ResNet(CNN):
    r"""A CNN with a skip around every group: images (N, C, H, W) to raw class scores (N, out_classes).

        [-> (CONV -> ACT)*P -> POOL]*(N/P) -> (FC -> ACT)*M -> FC
         \------- SKIP ------/

    Every P convolutions, and the N % P left over, are one residual block of 3x3 convolutions with stride 1 and padding
    1: `conv_params` do not apply. With `bottleneck`, a group of 3 or more channels that ends with as many as it gets is
    a ResidualBottleneckBlock whose inner channels are those between its first and its last; `doubt` says where that
    could not be. The other arguments and the errors are CNN's and ResidualBlock's.
    """

    def __init__(
        self,
        in_size: Sequence[int],
        out_classes: int,
        channels: Sequence[int],
        pool_every: int,
        hidden_dims: Sequence[int],
        conv_params: Options | None = None,
        activation_type: str = "relu",
        activation_params: Options | None = None,
        pooling_type: str = "max",
        pooling_params: Options | None = None,
        batchnorm: bool = False,
        dropout: float = 0.0,
        bottleneck: bool = False,
    ) -> None:
        # These come first because CNN's constructor calls _group, which reads them.
        self._bottleneck = bottleneck
        self._conv_params = conv_part(conv_params).keywords
        self._block_options: dict[str, Any] = {
            "batchnorm": batchnorm,
            "dropout": dropout,
            "activation_type": activation_type,
            "activation_params": activation_params,
        }
        activation_and_pooling = (activation_type, activation_params, pooling_type, pooling_params)
        super().__init__(in_size, out_classes, channels, pool_every, hidden_dims, conv_params, *activation_and_pooling)

    def _group(self, in_channels: int, channels: Sequence[int], conv: Part, activation: Part) -> Iterable[nn.Module]:
        """Make what stands between two pools: one block."""
        if self._bottleneck and len(channels) >= 3 and in_channels == channels[-1]:
            inner = channels[1:-1]
            return [ResidualBottleneckBlock(in_channels, inner, [3] * len(inner), **self._block_options)]
        return [ResidualBlock(in_channels, channels, [3] * len(channels), **self._block_options)]

    @property
    def doubt(self) -> str | None:
        """What was asked for and not built; None when all was."""
        blocks = [layer for layer in self.feature_extractor if isinstance(layer, ResidualBlock)]
        regular = sum(not isinstance(block, ResidualBottleneckBlock) for block in blocks)
        doubts = []
        if self._bottleneck and regular:
            doubts.append(
                f"bottleneck=True, but {regular} of {len(blocks)} groups stayed regular blocks: "
                "a bottleneck needs 3 or more channels whose last equals the group's input channels"
            )
        if self._conv_params != CONV_3X3.keywords:
            doubts.append(f"conv_params={self._conv_params} do not apply: a ResNet's are always {CONV_3X3.keywords}")
        return "; ".join(doubts) or None

    def extra_repr(self) -> str:
        """Show the doubt where the model is printed."""
        return f"doubt: {self.doubt}" if self.doubt else ""


def check_path(
    of_channels: str, channels: Sequence[int], of_kernels: str, kernels: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Take channels and odd kernel sizes, as many of the one as of the other."""
    widths, odd = sizes(of_channels, channels), sizes(of_kernels, kernels)
    if len(widths) != len(odd):
        raise ValueError(
            f"{of_channels} has {len(widths)} entries and {of_kernels} {len(odd)}: give one kernel size each"
        )
    for index, kernel in enumerate(odd):
        if kernel % 2 == 0:
            raise ValueError(f"{of_kernels}[{index}] is {kernel}: give an odd size, so that padding keeps H and W")
    return widths, odd
