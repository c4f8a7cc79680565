"""What one output element of a network can combine: how far it sees, and through how few channels.

Index intervals are carried through the operators: output element i of a tensor depends on the input elements from
jump·i + low to jump·i + high, at unbounded size (Araujo et al., "Computing receptive fields of convolutional neural
networks", Distill 2019). Sums and concatenations take the union. What an unknown operator gives is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof.analysis.operators import is_composite
from cnnprof.analysis.shadow import Shadow, on_meta, undisturbed
from cnnprof.inputs import Inputs, first_floating, tensors_in
from cnnprof.records import Mixing

UNKNOWN = Mixing(receptive_field=None, narrowest_channels=None, carried_past=None)


@dataclass(frozen=True)
class _Window:
    """Input elements from jump·i + low to jump·i + high."""

    jump: int
    low: int
    high: int

    def through(self, kernel: int, stride: int, padding: int, dilation: int) -> "_Window":
        """Return the window behind a sliding kernel."""
        return _Window(
            self.jump * stride,
            self.low - self.jump * padding,
            self.high + self.jump * (dilation * (kernel - 1) - padding),
        )


@dataclass(frozen=True)
class _Reach:
    """What an element of a tensor depends on."""

    windows: tuple[_Window, ...] | Literal["all"] | None
    narrowest: int | None
    """Fewest channels on the narrowest path from the input; None before any convolution."""
    widest: int
    """Fewest channels on the widest path from the input."""
    flat: bool = False
    """Channels and space lie in one dimension: the next matrix product sees them all."""


def mixing(module: nn.Module, inputs: Inputs) -> Mixing:
    """Follow a forward pass on meta tensors; unknown where there is more than one image, or it does not run on them."""
    fed = inputs.to("meta")
    images = list(tensors_in((fed.args, dict(fed.kwargs))))
    if len(images) != 1 or images[0].ndim < 3:
        return UNKNOWN
    shadow = Shadow(module, on_meta)
    fed = fed.to("meta", first_floating(module).dtype)
    image = next(tensors_in((fed.args, dict(fed.kwargs))))
    follow = _Follow(image)
    try:
        with undisturbed(), follow:
            output = shadow.root(*fed.args, **fed.kwargs)
    except (Exception, SystemExit):  # noqa: BLE001  # whatever a network raises on meta tensors, its mixing is unknown then
        return UNKNOWN
    reach = follow.reach_of(next(tensors_in(output), None))
    return UNKNOWN if reach is None else _as_mixing(reach)


def _as_mixing(reach: _Reach) -> Mixing:
    windows = reach.windows
    field = tuple(w.high - w.low + 1 for w in windows) if isinstance(windows, tuple) else windows
    past = reach.widest if reach.narrowest is not None and reach.widest > reach.narrowest else None
    return Mixing(receptive_field=field, narrowest_channels=reach.narrowest, carried_past=past)


class _Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries reaches from an operator's inputs to its outputs."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        channels, space = image.shape[1], image.ndim - 2
        start = _Reach((_Window(1, 0, 0),) * space, None, channels)
        self._reaches = {id(image): (image, start)}  # the tensor beside it, so that its identity is not given again

    def reach_of(self, tensor: torch.Tensor | None) -> _Reach | None:
        """Return what is known of a tensor; None where it does not depend on the image."""
        return self._reaches[id(tensor)][1] if id(tensor) in self._reaches else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        output = func(*args, **(kwargs or {}))
        sources = [(tensor, reach) for tensor in tensors_in((args, kwargs)) if (reach := self.reach_of(tensor))]
        if sources:
            name = func._schema.name.removeprefix("aten::").removesuffix("_")
            reach = _step(name, args, output, [reach for _, reach in sources], sources[0][0])
            for tensor in tensors_in(output):
                self._reaches[id(tensor)] = (tensor, reach)
        return output


def _step(name: str, args: Sequence[Any], output: Any, reaches: Sequence[_Reach], source: torch.Tensor) -> _Reach:
    """Return the reach of one operator's output."""
    joined = _union(reaches)
    if name == "convolution":
        return _through_convolution(args, joined)
    if name in _POOLS:
        return replace(joined, windows=_through_pool(name, args, joined.windows))
    if name in _SAME_PLACE:
        return joined
    if name == "cat":
        along_channels = (args[1] if len(args) > 1 else 0) == 1
        return joined if along_channels else _lost(joined)
    if name in _GLOBAL or (name in _MAYBE_GLOBAL and _one_place(output)):
        return replace(joined, windows="all")
    if name in _RESHAPES:
        return _reshaped(joined, source, output)
    if name in _PRODUCTS:
        return replace(joined, windows="all", flat=False) if joined.flat or joined.windows == "all" else _lost(joined)
    return _lost(joined)


_ELEMENTWISE = """
    add sub rsub mul div neg exp sqrt pow abs maximum minimum clamp clamp_min clamp_max threshold relu hardtanh sigmoid
    tanh gelu silu elu celu selu leaky_relu _prelu_kernel hardswish hardsigmoid mish softplus clone _to_copy detach
    alias copy native_dropout native_batch_norm _native_batch_norm_legit_no_training _batch_norm_no_update
    cudnn_batch_norm
"""
_SAME_PLACE = frozenset(_ELEMENTWISE.split())
_GLOBAL = frozenset({"native_group_norm"})
_MAYBE_GLOBAL = frozenset({"mean", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d"})
_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "slice", "split", "split_with_sizes"}) | {
    "transpose", "unsafe_split", "squeeze", "t",
}  # fmt: skip
_PRODUCTS = frozenset({"addmm", "mm", "bmm", "baddbmm", "mv"})
_POOLS = frozenset(
    {"max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "max_pool2d", "max_pool3d"}
)


def _lost(reach: _Reach) -> _Reach:
    return reach if reach.windows == "all" else replace(reach, windows=None)


def _union(reaches: Sequence[_Reach]) -> _Reach:
    narrow = [reach.narrowest for reach in reaches if reach.narrowest is not None]
    widest = max(reach.widest for reach in reaches)
    windows = [reach.windows for reach in reaches]
    flat = any(reach.flat for reach in reaches)
    together = _Reach(None, min(narrow) if narrow else None, widest, flat)
    if "all" in windows:
        return replace(together, windows="all")
    known = [each for each in windows if isinstance(each, tuple)]
    if len(known) < len(windows) or len({tuple(w.jump for w in each) for each in known}) != 1:
        return together
    return replace(
        together,
        windows=tuple(
            _Window(dims[0].jump, min(w.low for w in dims), max(w.high for w in dims))
            for dims in zip(*known, strict=True)
        ),
    )


def _through_convolution(args: Sequence[Any], reach: _Reach) -> _Reach:
    weight, (stride, padding, dilation, transposed) = args[1], args[3:7]
    if transposed:
        return _lost(reach)
    windows = reach.windows
    if isinstance(windows, tuple):
        space = len(windows)
        sliding = zip(
            windows, weight.shape[2:], *(_spread(value, space) for value in (stride, padding, dilation)), strict=True
        )
        windows = tuple(window.through(*slide) for window, *slide in sliding)
    channels = int(weight.shape[0])
    narrowest = channels if reach.narrowest is None else min(reach.narrowest, channels)
    return _Reach(windows, narrowest, min(reach.widest, channels))


def _through_pool(name: str, args: Sequence[Any], windows: Any) -> Any:
    if not isinstance(windows, tuple):
        return windows
    space = len(windows)
    kernel = _spread(args[1], space)
    stride = _spread(args[2], space) if len(args) > 2 and args[2] else kernel
    padding = _spread(args[3], space) if len(args) > 3 else (0,) * space
    dilation = _spread(args[4], space) if len(args) > 4 and name.startswith("max") else (1,) * space
    sliding = zip(windows, kernel, stride, padding, dilation, strict=True)
    return tuple(window.through(*slide) for window, *slide in sliding)


def _spread(value: Any, space: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * space if len(values) == 1 else values


def _one_place(output: Any) -> bool:
    """Say whether all of space has been drawn into one element."""
    first = next(tensors_in(output))
    return first.ndim == 2 or all(length == 1 for length in first.shape[2:])


def _reshaped(reach: _Reach, source: torch.Tensor, output: Any) -> _Reach:
    """Space stays where the last dimensions do; flattened, the next product sees all of it."""
    after = next(tensors_in(output))
    space = len(reach.windows) if isinstance(reach.windows, tuple) else 0
    if not space:
        return reach
    if after.ndim > space and after.shape[-space:] == source.shape[-space:]:
        return reach
    if after.ndim == 2 and after.shape[0] == source.shape[0]:
        return replace(reach, flat=True)
    return _lost(reach)
