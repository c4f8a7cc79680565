"""The rank of the map between channels: how many directions a network can tell apart, by number.

Activations are taken out (the identity stands in their place) and constants, so that a network of convolutions and sums
is linear. Fed e^(a·x) in one channel after another, every convolution gives the same again, times a matrix between
channels; the matrix of the whole is read at one output element whose window lies within the image, in float64. A waist
of so many channels bounds its rank, whatever kernels stand around it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnprof.analysis.mixing import Follow, followed
from cnnprof.analysis.reaches import Reach, is_pointwise
from cnnprof.analysis.shadow import Shadow, undisturbed
from cnnprof.inputs import Inputs, first_floating, tensors_in

MOST_MACS = 2e10
"""Larger networks are left out: this takes about a second."""


class _NotLinear(Exception):  # noqa: N818  # a turn of the road: such a network has no rank
    """The network holds more than convolutions, sums and activations."""


def ranks(build: Callable[[], nn.Module], module: nn.Module, inputs: Inputs, macs: int) -> tuple[int, int] | None:
    """Return the rank of the map between channels along the narrowest paths, and along all of them.

    `module` is looked at, on meta tensors if it lies there, `build` gives one with weights, `macs` are those of
    `inputs`. None for what is not linear without its activations, sees all of its input, or is large.
    """
    reach, _ = followed(module, inputs)
    if reach is None or not isinstance(reach.seen, tuple) or any(window.period > 1 for window in reach.seen):
        return None
    (image,) = inputs.args
    channels, places = image.shape[1], math.prod(image.shape[2:])
    elements = [-(window.bounds[0][0] // window.advance) for window in reach.seen]
    lengths = [window(element)[1] + 1 for window, element in zip(reach.seen, elements, strict=True)]
    if channels * macs * math.prod(lengths) / places > MOST_MACS:
        return None
    fed = _exponentials(channels, lengths)
    try:
        network = build()
        alone, was_cut = _rank(network, fed, elements, alone=True)
        return alone, _rank(network, fed, elements, alone=False)[0] if was_cut else alone
    except (Exception, SystemExit):  # noqa: BLE001  # _NotLinear, or whatever a network raises on what it is fed
        return None


def _exponentials(channels: int, lengths: list[int]) -> torch.Tensor:
    """Return images (channels + 1, channels, *lengths): the n-th has e^(a·x) in channel n, the last has nothing."""
    wave = torch.ones((), dtype=torch.float64)
    for number, length in enumerate(lengths):
        slope = 1 / (number + 1.5) / length  # another one along each axis
        wave = wave.unsqueeze(-1) * torch.exp(slope * torch.arange(length, dtype=torch.float64))
    images = torch.zeros(channels + 1, channels, *lengths, dtype=torch.float64)
    images[range(channels), range(channels)] = wave
    return images


def _rank(network: nn.Module, fed: torch.Tensor, elements: list[int], alone: bool) -> tuple[int, bool]:
    """Return the rank of the matrix (input channels, output channels), and whether a path was left out."""
    shadow = Shadow(network, lambda tensor: tensor.detach().double() if tensor.is_floating_point() else tensor.clone())
    fed = fed.clone()
    linear = _Linear(fed, alone)
    with undisturbed(), linear:
        output = shadow.root(fed)
    at = output[(..., *elements)]
    rounding = torch.finfo(first_floating(network).dtype).eps  # of the weights: what is smaller may be no direction
    return int(np.linalg.matrix_rank((at[:-1] - at[-1]).numpy(), rtol=rounding)), linear.was_cut


class _Linear(Follow):  # type: ignore[no-untyped-call]
    """Runs a network with the identity in place of activations; `alone`: of paths that meet, the narrowest."""

    def __init__(self, image: torch.Tensor, alone: bool) -> None:
        super().__init__(image)
        self._alone = alone
        self.was_cut = False

    def perform(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Make a call, or what stands in its place. Raises _NotLinear."""
        known = [reach for tensor in tensors_in((args, kwargs)) if (reach := self.reach_of(tensor))]
        operator = name.removesuffix("_")
        if operator in ("add", "sub") and len(known) == 2 and self._alone:
            return self._narrower(func, args, kwargs, known)
        if not known or operator in _SUMS or (operator in _LINEAR and len(known) == 1):
            return super().perform(func, name, args, kwargs)
        if len(known) == 1 and is_pointwise(func, operator):
            return args[0]
        raise _NotLinear(name)

    def _narrower(self, func: Any, args: Any, kwargs: Any, reaches: list[Reach]) -> Any:
        """Take the path of fewer channels alone; both where they are alike."""
        fewest = [math.inf if reach.narrowest is None else reach.narrowest for reach in reaches]
        if fewest[0] == fewest[1]:
            return func(*args, **kwargs)
        self.was_cut = True
        kept = args[fewest.index(min(fewest))]
        return kept if not func._schema.name.endswith("_") else args[0].copy_(kept)


_SUMS = frozenset({"add", "sub", "cat", "stack"})
_LINEAR = _SUMS | {
    *("convolution", "linear", "mm", "bmm", "addmm", "baddbmm", "matmul", "mul", "div", "mean", "sum"),
    *("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training", "_batch_norm_no_update"),
    *("avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "native_dropout"),
    *("constant_pad_nd", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d", "upsample_bilinear2d"),
    *("_to_copy", "copy", "clone", "detach", "alias", "expand", "contiguous", "permute", "transpose", "t"),
    *("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze", "unsqueeze", "flatten", "unflatten"),
    *("select", "slice", "split", "split_with_sizes", "chunk", "unbind"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
}
