"""What a tensor's elements depend on of a network's input, and how operators carry that on.

Every tensor knows what its dimensions are (channels, axes of space), which input elements its own depend on along each
axis (windows), and which input channels, as it would be at unbounded size; normalisations that look at more than one
place count as looking. What an operator without a rule gives is unknown, and said to be.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch

from cnnprof.analysis import windows
from cnnprof.analysis.windows import Window
from cnnprof.inputs import tensors_in

Array = Any
CHANNELS: Final = "channels"
MIXED: Final = "mixed"
"""Channels and space in one dimension."""
Space = tuple[tuple[int, int], ...]
"""The axes that lie in a dimension, the outermost first, each with its length."""
Role = Literal["channels", "mixed"] | Space | None
"""What a dimension is: None where it is neither, as the batch."""
PART = -1
"""Stands for the axis of a dimension that holds parts of others."""
Seen = tuple[Window, ...] | Literal["all", "places"] | None
"""A window for each axis; everything; some places, no matter which; or unknown."""


@dataclass(frozen=True)
class Reach:
    """What the elements of a tensor depend on: those of the channel that sees most.

    A part of the channels is taken to see what the whole does.
    """

    roles: tuple[Role, ...]
    seen: Seen
    channels: Array | None
    """Booleans: (each channel dimension's length, ..., input channels). None where unknown."""
    narrowest: int | None = None
    """Fewest channels on the narrowest path from the input; None before any convolution."""
    widest: int = 0
    """Fewest channels on the widest path from the input."""
    axes: int = 0
    """How many axes of space the input has."""

    @property
    def spread(self) -> bool:
        """Say whether it still lies in space: more than one place."""
        return any(length > 1 for role in self.roles if isinstance(role, tuple) for _, length in role)

    def lost(self) -> "Reach":
        """Forget what is where, as an unknown operator does; what held for all still holds."""
        return replace(self, seen=self.seen if self.seen == "all" else None, channels=self.channels_as(()))

    def channels_as(self, lengths: Sequence[int]) -> Array | None:
        """Lay channels out anew; where that cannot be, each may still depend on all."""
        if self.channels is None:
            return None
        inputs = self.channels.shape[-1]
        if math.prod(lengths) == math.prod(self.channels.shape[:-1]):
            return self.channels.reshape(*lengths, inputs)
        return np.ones((*lengths, inputs), dtype=bool) if self.channels.all() else None

    def across(self, dimensions: Sequence[int]) -> "Reach":
        """Let every element see all the others along some dimensions, as a sum over them does.

        Along some axes alone, or along parts of them, it sees neither all of space nor a window.
        """
        roles = [self.roles[dimension] for dimension in dimensions]
        covered = {axis for role in roles if isinstance(role, tuple) for axis, _ in role}
        seen = self.seen
        if seen is not None and (MIXED in roles or covered == set(range(self.axes))):
            seen = "all"
        elif seen != "all" and covered:
            seen = None
        if MIXED in roles:
            return replace(self, seen=seen, channels=self._any_channels(range(self._channel_dimensions)))
        places = [self._place(dimension) for dimension in dimensions if self.roles[dimension] == CHANNELS]
        return replace(self, seen=seen, channels=self._any_channels(places))

    def _any_channels(self, places: Sequence[int]) -> Array | None:
        if self.channels is None or not places:
            return self.channels
        return np.broadcast_to(self.channels.any(axis=tuple(places), keepdims=True), self.channels.shape)

    @property
    def _channel_dimensions(self) -> int:
        return 0 if self.channels is None else self.channels.ndim - 1

    def _place(self, dimension: int) -> int:
        """Return which of the channel dimensions a dimension is."""
        return sum(role == CHANNELS for role in self.roles[:dimension])


@dataclass(frozen=True)
class Call:
    """One call of an operator, with what is known of its tensors."""

    reach_of: Callable[[Any], Reach | None]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    output: Any

    def arg(self, place: int, default: Any = None) -> Any:
        """Return an argument by its place, or what it is by default."""
        return self.args[place] if len(self.args) > place else default

    def reach(self, place: int = 0) -> Reach | None:
        """Return what an argument depends on."""
        return self.reach_of(self.arg(place))

    @property
    def source(self) -> Reach:
        """The first of its tensors that depends on the image."""
        return next(reach for reach in map(self.reach_of, tensors_in((self.args, self.kwargs))) if reach)

    @property
    def result(self) -> torch.Tensor:
        """The first of its outputs."""
        return next(tensors_in(self.output))

    def dimension(self, value: int, of: torch.Tensor | None = None) -> int:
        """Count a dimension from the front."""
        return int(value) % max(1, (self.arg(0) if of is None else of).ndim)


Rule = Callable[[Call], Reach | list[Reach]]


def unknown(call: Call) -> Reach:
    """Keep what holds for all elements, whatever the operator did with them."""
    reach = replace(call.source.lost(), **_paths([call.source]))
    return reach if call.result.ndim == len(reach.roles) else without_roles(reach, call.result)


def _paths(reaches: Sequence[Reach], gated: bool = False) -> dict[str, Any]:
    """Return the fewest channels on the narrowest and on the widest of several paths that meet.

    Of factors, one gates what the other carries: the wider is the path.
    """
    narrow = [reach.narrowest for reach in reaches if reach.narrowest is not None]
    narrowest = None if not narrow else max(narrow) if gated else min(narrow)
    return {"narrowest": narrowest, "widest": max(reach.widest for reach in reaches), "axes": reaches[0].axes}


def without_roles(reach: Reach, tensor: torch.Tensor) -> Reach:
    """Forget what the dimensions are."""
    return replace(reach.lost(), roles=(None,) * tensor.ndim)


# Elementwise, and where paths meet -----------------------------------------------------------------------------------


def elementwise(call: Call, gated: bool = False) -> Reach:
    """Unite what an operator's tensors depend on, element by element."""
    tensors = [tensor for tensor in tensors_in((call.args, call.kwargs)) if call.reach_of(tensor)]
    return _met(call, tensors, call.result.shape, gated)


def _met(call: Call, tensors: Sequence[torch.Tensor], shape: Sequence[int], gated: bool = False) -> Reach:
    """Unite what several tensors depend on, aligned at their last dimensions."""
    reaches = [reach for tensor in tensors if (reach := call.reach_of(tensor))]
    ndim = len(shape)
    aligned = [(None,) * (ndim - len(reach.roles)) + reach.roles for reach in reaches]
    roles = tuple(_one_role([reach_roles[place] for reach_roles in aligned], shape[place]) for place in range(ndim))
    seen = _seen_together([_broadcast(reach, own, shape) for reach, own in zip(reaches, aligned, strict=True)])
    united = Reach(roles, seen, None, **_paths(reaches, gated))
    if any(role == "conflict" for role in roles):
        lost = [reach.channels_as(()) for reach in reaches]
        return replace(
            united.lost(), roles=(None,) * ndim, channels=None if any(each is None for each in lost) else lost[0]
        )
    lengths = [length for role, length in zip(roles, shape, strict=True) if role == CHANNELS]
    return replace(united, channels=_channels_together(reaches, aligned, roles, lengths))


def _broadcast(reach: Reach, roles: Sequence[Role], shape: Sequence[int]) -> Seen:
    """Return what a tensor sees where it is repeated along space: its places, though no longer one beside the other."""
    repeated = any(
        isinstance(role, tuple) and math.prod(each for _, each in role) < length
        for role, length in zip(roles, shape, strict=True)
    )
    return "places" if repeated and isinstance(reach.seen, tuple) else reach.seen


def _one_role(roles: Sequence[Any], length: int) -> Any:
    """Return what a dimension is in which tensors meet: that of the longest, where one is broadcast."""
    known = [role for role in roles if role is not None]
    if not known:
        return None
    longest = max(known, key=lambda role: math.prod(each for _, each in role) if isinstance(role, tuple) else 1)
    kinds = {role if isinstance(role, str) else tuple(axis for axis, _ in role) for role in known}
    return longest if len(kinds) == 1 else "conflict" if length > 1 else None


def _channels_together(
    reaches: Sequence[Reach], aligned: Sequence[Sequence[Role]], roles: Sequence[Role], lengths: Sequence[int]
) -> Array | None:
    if any(reach.channels is None for reach in reaches):
        return None
    places = [place for place, role in enumerate(roles) if role == CHANNELS]
    parts = []
    for reach, own in zip(reaches, aligned, strict=True):
        held = iter(reach.channels.shape[:-1])  # type: ignore[union-attr]
        shape = [next(held) if own[place] == CHANNELS else 1 for place in places]
        parts.append(reach.channels.reshape(*shape, reach.channels.shape[-1]))  # type: ignore[union-attr]
    together = np.logical_or.reduce(np.broadcast_arrays(*parts))
    return np.broadcast_to(together, (*lengths, together.shape[-1]))


def _seen_together(seen: Sequence[Seen]) -> Seen:
    if "all" in seen:
        return "all"
    if None in seen:
        return None
    if "places" in seen:
        return "places"
    united = [windows.united(axis) for axis in zip(*seen, strict=True)]
    known = tuple(window for window in united if window is not None)
    return known if len(known) == len(united) else "places"


def _as_it_is(call: Call) -> Reach:
    return call.source


def _expanded(call: Call) -> Reach:
    return _met(call, [call.arg(0)], call.result.shape)


def _copied(call: Call) -> Reach:
    """Return what is copied; of something that does not depend on the image, no one keeps account."""
    return call.source.lost() if call.reach(1) is None else _met(call, [call.arg(1)], call.result.shape)


def _cat(call: Call) -> Reach:
    tensors = list(tensors_in(call.arg(0)))
    dimension = call.dimension(call.arg(1, call.kwargs.get("dim", 0)), call.result)
    known = [reach for tensor in tensors if (reach := call.reach_of(tensor))]
    role = known[0].roles[dimension]
    if role != CHANNELS:
        met = _met(call, tensors, call.result.shape)
        length = call.result.shape[dimension]
        roles = (*met.roles[:dimension], _longer(role, length), *met.roles[dimension + 1 :])
        return replace(met, roles=roles, seen=met.seen if met.seen in ("all", None) else "places")
    if any(reach.roles[dimension] != CHANNELS for reach in known):
        return unknown(call)
    united = _seen_together([reach.seen for reach in known])
    parts = [_channels_of(call, tensor, known[0]) for tensor in tensors]
    laid = [part for part in parts if part is not None]
    channels: Array | None = np.concatenate(laid, axis=known[0]._place(dimension)) if len(laid) == len(parts) else None
    return Reach(known[0].roles, united, channels, **_paths(known))


def _stack(call: Call) -> Reach:
    tensors = list(tensors_in(call.arg(0)))
    met, place = _met(call, tensors, tensors[0].shape), call.dimension(call.arg(1, 0), call.result)
    return replace(met, roles=(*met.roles[:place], None, *met.roles[place:]))


def _longer(role: Role, length: int) -> Role:
    """Return the role of a dimension that has become longer: it still holds its axes, in no order."""
    return (*((axis, 1) for axis, _ in role[:-1]), (role[-1][0], length)) if isinstance(role, tuple) else role


def _channels_of(call: Call, tensor: torch.Tensor, like: Reach) -> Array | None:
    """Return a tensor's channels; of one that does not depend on the image, as laid out in another: none."""
    reach = call.reach_of(tensor)
    if reach is not None or like.channels is None:
        return reach and reach.channels
    lengths = [length for length, role in zip(tensor.shape, like.roles, strict=True) if role == CHANNELS]
    return np.zeros((*lengths, like.channels.shape[-1]), dtype=bool)


# Sliding -------------------------------------------------------------------------------------------------------------


def _behind(reach: Reach, first: int, kernels: Sequence[Window | None], output: torch.Tensor) -> Reach:
    """Put a window upon each of the last dimensions, which begin at `first`."""
    axes = [role[0][0] if isinstance(role, tuple) and len(role) == 1 else None for role in reach.roles[first:]]
    roles = (*reach.roles[:first], *(
        role if axis is None else ((axis, length),)
        for role, axis, length in zip(reach.roles[first:], axes, output.shape[first:], strict=True)
    ))  # fmt: skip
    if not isinstance(reach.seen, tuple):
        return replace(reach, roles=roles)
    seen = list(reach.seen)
    for axis, kernel, role in zip(axes, kernels, reach.roles[first:], strict=True):
        if axis is not None and kernel is not None:
            seen[axis] = kernel.behind(seen[axis])
        elif kernel != windows.PLACE:  # along what is no axis of space, or one that is lost
            return replace(reach, roles=roles, seen=None, channels=None if role == CHANNELS else reach.channels)
    return replace(reach, roles=roles, seen=tuple(seen))


def _spread(value: Any, space: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * space if len(values) == 1 else values


def _convolution(call: Call) -> Reach:
    weight, (stride, padding, dilation, is_transposed, _, groups) = call.args[1], call.args[3:9]
    reach, space = call.source, call.result.ndim - 2
    if reach.roles[1] not in (CHANNELS, None) or CHANNELS in reach.roles[2:]:
        return unknown(call)
    slides = zip(weight.shape[2:], *(_spread(each, space) for each in (stride, padding, dilation)), strict=True)
    kernels = [windows.transposed(*slide) if is_transposed else windows.sliding(*slide) for slide in slides]
    outputs = call.result.shape[1]
    behind = _behind(reach, 2, kernels, call.result)
    channels = _grouped(reach, groups, outputs)
    roles = (behind.roles[0], CHANNELS, *behind.roles[2:])
    return _through_channels(replace(behind, roles=roles, channels=channels), outputs)


def _grouped(reach: Reach, groups: int, outputs: int) -> Array | None:
    """Let each output channel depend on all of its group's inputs."""
    if reach.channels is None or reach.channels.ndim != 2:
        return reach.channels_as((outputs,)) if reach.channels is not None and reach.channels.ndim == 1 else None
    by_group = reach.channels.reshape(groups, -1, reach.channels.shape[-1]).any(axis=1)
    return np.repeat(by_group, outputs // groups, axis=0)


def _through_channels(reach: Reach, channels: int) -> Reach:
    """Count the channels of a place that all goes through, while there are feature maps."""
    if not reach.spread:
        return reach
    narrowest = channels if reach.narrowest is None else min(reach.narrowest, channels)
    return replace(reach, narrowest=narrowest, widest=min(reach.widest, channels))


def _pool(call: Call) -> Reach:
    source = call.arg(0)
    space = len(call.arg(1)) if isinstance(call.arg(1), list | tuple) else source.ndim - 2
    space = space if space > 1 or source.ndim == 3 else source.ndim - 2
    kernel = _spread(call.arg(1), space)
    stride = _spread(call.arg(2), space) if call.arg(2) else kernel
    padding = _spread(call.arg(3, 0), space)
    has_dilation = isinstance(call.output, tuple)  # maxima come with their places
    dilation = _spread(call.arg(4, 1), space) if has_dilation else (1,) * space
    kernels = [windows.sliding(*slide) for slide in zip(kernel, stride, padding, dilation, strict=True)]
    return _behind(call.source, source.ndim - space, kernels, call.result)


def _adaptive_pool(call: Call) -> Reach:
    """Pools to a size: everything where that is one place, a sliding window where lengths divide."""
    space = len(call.arg(1))
    before, after = call.arg(0).shape[-space:], call.result.shape[-space:]
    reach = call.source
    if all(length == 1 for length in after):
        pooled = reach.across(range(len(reach.roles) - space, len(reach.roles)))
        return _behind(pooled, len(reach.roles) - space, [None] * space, call.result)
    if any(long % short for long, short in zip(before, after, strict=True)):
        return _behind(
            replace(reach, seen=reach.seen if reach.seen == "all" else None),
            len(reach.roles) - space,
            [None] * space,
            call.result,
        )
    ratios = [long // short for long, short in zip(before, after, strict=True)]
    return _behind(reach, len(reach.roles) - space, [windows.sliding(each, each) for each in ratios], call.result)


def _resize(call: Call, taps: tuple[int, int], nearest: bool = False) -> Reach:
    lengths = list(zip(call.arg(0).shape[2:], call.result.shape[2:], strict=True))
    given = [each for arg in call.args[2:] for each in (arg if isinstance(arg, list | tuple) else [arg])]
    factors = [each for each in given if isinstance(each, float)] or [after / before for before, after in lengths]
    kernels = [
        windows.resized(each, taps, nearest) if each[0] * factor == each[1] else None  # else steps are of other lengths
        for each, factor in zip(lengths, factors, strict=True)
    ]
    return _behind(call.source, 2, kernels, call.result)


def _interpolated(call: Call, taps: tuple[int, int] = (0, 1)) -> Reach:
    """Interpolate; where corners are aligned, the step depends on the lengths, and places are lost."""
    aligned = call.arg(2) is True
    return _behind(call.source, 2, [None] * (call.result.ndim - 2), call.result) if aligned else _resize(call, taps)


def _pad(call: Call) -> Reach:
    """Padding moves elements, and what it adds depends on nothing new."""
    amounts = call.arg(1)
    reach, ndim = call.source, call.result.ndim
    before = [0] * (ndim - len(amounts) // 2) + list(amounts[::2])[::-1]
    after = [0] * (ndim - len(amounts) // 2) + list(amounts[1::2])[::-1]
    channels = reach.channels
    for dimension, role in enumerate(reach.roles):
        if role == CHANNELS and channels is not None and (before[dimension] or after[dimension]):
            channels = _padded(channels, reach._place(dimension), before[dimension], after[dimension])
    first = next((place for place, role in enumerate(reach.roles) if isinstance(role, tuple)), ndim)
    kernels = [windows.sliding(1, 1, amount) for amount in before[first:]]
    return _behind(replace(reach, channels=channels), first, kernels, call.result)


def _padded(channels: Array, place: int, before: int, after: int) -> Array:
    widths = [(0, 0)] * channels.ndim
    low, high = max(0, -before), channels.shape[place] - max(0, -after)
    widths[place] = (max(0, before), max(0, after))
    return np.pad(np.take(channels, range(low, high), axis=place), widths)


# Along dimensions ----------------------------------------------------------------------------------------------------


def _reduction(call: Call, at: int = 1) -> Reach:
    """Sums, means and maxima over dimensions, all of them where none is named."""
    asked, tensor = call.arg(at, call.kwargs.get("dim")), call.arg(0)
    asked = [asked] if isinstance(asked, int) and not isinstance(asked, bool) else asked
    dimensions = sorted({call.dimension(each) for each in asked} if asked else range(tensor.ndim))
    reach = call.source.across(dimensions)
    kept = call.result.ndim == tensor.ndim
    for dimension in reversed(dimensions):
        reach = _shortened(reach, dimension) if kept else _selected(reach, dimension, 0)
    return reach


def _shortened(reach: Reach, dimension: int) -> Reach:
    """Leave one element of a dimension."""
    role = reach.roles[dimension]
    channels = reach.channels
    if role == CHANNELS and channels is not None:
        channels = np.take(channels, [0], axis=reach._place(dimension))
    role = tuple((axis, 1) for axis, _ in role) if isinstance(role, tuple) else role
    return replace(reach, channels=channels, roles=_with(reach.roles, dimension, [role]))


def _selected(reach: Reach, dimension: int, index: int) -> Reach:
    """Take one element of a dimension, which goes with it."""
    role, channels = reach.roles[dimension], reach.channels
    if role == CHANNELS and channels is not None:
        channels = np.take(channels, index, axis=reach._place(dimension))
    return replace(reach, channels=channels, roles=_with(reach.roles, dimension, []))


def _with(roles: Sequence[Role], dimension: int, new: Sequence[Role]) -> tuple[Role, ...]:
    return (*roles[:dimension], *new, *roles[dimension + 1 :])


def _along(call: Call, at: int = 1) -> Reach:
    """Softmax and the like: each element sees its whole dimension."""
    asked = call.arg(at)
    dimensions = [asked] if isinstance(asked, int) else asked
    return call.source.across([call.dimension(each) for each in dimensions])


def _layer_norm(call: Call) -> Reach:
    ndim = call.arg(0).ndim
    return call.source.across(range(ndim - len(call.arg(1)), ndim))


def _group_norm(call: Call) -> Reach:
    """Each group of channels is normalised over all of space."""
    reach, groups = call.source, call.arg(6)
    over_space = reach.across(range(2, len(reach.roles)))
    if reach.channels is None or reach.channels.ndim != 2:
        return over_space
    return replace(over_space, channels=_grouped(reach, groups, len(reach.channels)))


def _batch_norm(call: Call) -> Reach:
    """In training, as instance norm has it, over all of space; else every element by itself."""
    reach = call.source
    return reach.across(range(2, len(reach.roles))) if call.arg(5) is True else reach


# Views ---------------------------------------------------------------------------------------------------------------


def _permuted(call: Call) -> Reach:
    return _in_order(call.source, [call.dimension(each) for each in call.arg(1)])


def _transposed(call: Call) -> Reach:
    order = list(range(call.arg(0).ndim))
    one, other = (call.dimension(call.arg(place, place - 1)) for place in (1, 2))
    order[one], order[other] = order[other], order[one]
    return _in_order(call.source, order)


def _swapped(call: Call) -> Reach:
    return _in_order(call.source, list(range(call.arg(0).ndim))[::-1])


def _in_order(reach: Reach, order: Sequence[int]) -> Reach:
    channels = reach.channels
    if channels is not None:
        places = [reach._place(dimension) for dimension in order if reach.roles[dimension] == CHANNELS]
        channels = channels.transpose(*places, channels.ndim - 1)
    return replace(reach, roles=tuple(reach.roles[dimension] for dimension in order), channels=channels)


def _unsqueezed(call: Call) -> Reach:
    reach, place = call.source, call.dimension(call.arg(1), call.result)
    return replace(reach, roles=(*reach.roles[:place], None, *reach.roles[place:]))


def _select(call: Call) -> Reach:
    reach, dimension = call.source, call.dimension(call.arg(1, 0))
    found = _selected(reach, dimension, call.arg(2, 0))
    if isinstance(reach.roles[dimension], tuple) and isinstance(reach.seen, tuple):
        return replace(found, seen="places")
    return found


def _slice(call: Call) -> Reach:
    dimension = call.dimension(call.arg(1, 0))
    length = call.arg(0).shape[dimension]
    start = min(max((call.arg(2) or 0) + (length if (call.arg(2) or 0) < 0 else 0), 0), length)
    return _cut(call.source, dimension, start, call.result.shape[dimension], call.arg(4, 1))


def _cut(reach: Reach, dimension: int, start: int, length: int, step: int = 1) -> Reach:
    """Take `length` elements of a dimension, from `start` on."""
    role, channels = reach.roles[dimension], reach.channels
    if role == CHANNELS and channels is not None:
        channels = np.take(channels, range(start, start + length * step, step), axis=reach._place(dimension))
    if not isinstance(role, tuple):
        lost = role == MIXED
        return reach.lost() if lost else replace(reach, channels=channels)
    roles = _with(reach.roles, dimension, [tuple((axis, length) for axis, _ in role)])
    if not isinstance(reach.seen, tuple):
        return replace(reach, roles=roles)
    if len(role) > 1:
        return replace(reach, roles=roles, seen="places")
    seen = list(reach.seen)
    seen[role[0][0]] = Window(step, ((start, start),)).behind(seen[role[0][0]])
    return replace(reach, roles=roles, seen=tuple(seen))


def _split(call: Call) -> list[Reach]:
    dimension = call.dimension(call.arg(2, call.kwargs.get("dim", 0)))
    found, start = [], 0
    for part in tensors_in(call.output):
        found.append(_cut(call.source, dimension, start, part.shape[dimension]))
        start += part.shape[dimension]
    return found


def _unbind(call: Call) -> list[Reach]:
    dimension = call.dimension(call.arg(1, 0))
    seen = call.source.seen
    if isinstance(call.source.roles[dimension], tuple) and isinstance(seen, tuple):
        seen = "places"
    source = replace(call.source, seen=seen)
    return [_selected(source, dimension, index) for index, _ in enumerate(tensors_in(call.output))]


def _viewed(call: Call) -> Reach:
    """Dimensions that are split or merged keep their meaning where each piece holds one kind."""
    source, before, after = call.source, call.arg(0).shape, call.result.shape
    roles: list[Role] = []
    lost = mixed = cut = False
    for old, new in _pieces(before, after):
        held = [(source.roles[place], before[place]) for place in old if before[place] != 1]
        kinds = {role if isinstance(role, str) or role is None else "space" for role, _ in held}
        lengths = [after[place] for place in new]
        if len(kinds) > 1:  # channels with space, or with the batch
            mixed |= len(new) == 1 and None not in kinds
            lost |= len(new) != 1 or None in kinds
            whole = {axis for role, _ in held if isinstance(role, tuple) for axis, _ in role} == set(range(source.axes))
            roles += [MIXED if None not in kinds and whole and len(new) == 1 else None] * len(new)
            cut |= not whole
        elif kinds == {"space"}:
            axes = tuple(pair for role, _ in held if isinstance(role, tuple) for pair in role)
            spread = _axes_over(axes, lengths)
            lost |= spread is None
            roles += spread or [((PART, length),) if length > 1 else None for length in lengths]
        else:
            channels_alone = kinds == {CHANNELS}
            cut |= kinds == {MIXED} and len(new) > 1
            roles += [CHANNELS if channels_alone and length != 1 else None for length in lengths]
    lengths = [length for role, length in zip(roles, after, strict=True) if role == CHANNELS]
    channels = source.channels if mixed else source.channels_as(lengths)
    seen: Seen = "places" if lost and isinstance(source.seen, tuple) else source.seen
    seen = None if cut and seen != "all" else seen
    return replace(source, roles=tuple(roles), seen=seen, channels=channels)


def _axes_over(axes: Space, lengths: Sequence[int]) -> list[Role] | None:
    """Lay axes over new dimensions, whole ones each; None where one would be cut."""
    roles: list[Role] = []
    left = list(axes)
    for length in lengths:
        taken: list[tuple[int, int]] = []
        while (
            left
            and math.prod(each for _, each in taken) * left[0][1] <= length
            and math.prod(each for _, each in taken) < length
        ):
            taken.append(left.pop(0))
        if math.prod(each for _, each in taken) != length:
            return None
        roles.append(tuple(taken) or None)
    return None if left else roles


def _pieces(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the smallest runs of old and new dimensions that hold equally many elements."""
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(old), j + len(new)
        while math.prod(before[place] for place in old) != math.prod(after[place] for place in new):
            if math.prod(before[place] for place in old) < math.prod(after[place] for place in new):
                old, i = [*old, i], i + 1
            else:
                new, j = [*new, j], j + 1
        found.append((old, new))
    return found


def _pixel_shuffle(call: Call) -> Reach:
    """Blocks of channels become places."""
    factor, reach = int(call.arg(1)), call.source
    finer = Window(1, ((0, 0),) * factor)
    behind = _behind(reach, 2, [finer, finer], call.result)
    channels = reach.channels
    if channels is not None:
        channels = channels.reshape(-1, factor * factor, channels.shape[-1]).any(axis=1)
    return replace(behind, channels=channels)


def _pixel_unshuffle(call: Call) -> Reach:
    factor, reach = int(call.arg(1)), call.source
    behind = _behind(reach, 2, [windows.sliding(factor, factor)] * 2, call.result)
    channels = reach.channels
    return replace(behind, channels=None if channels is None else np.repeat(channels, factor * factor, axis=0))


def _channel_shuffle(call: Call) -> Reach:
    reach, groups = call.source, int(call.arg(1))
    if reach.channels is None or reach.channels.ndim != 2:
        return reach
    shuffled = reach.channels.reshape(groups, -1, reach.channels.shape[-1]).swapaxes(0, 1)
    return replace(reach, channels=shuffled.reshape(reach.channels.shape))


# Products ------------------------------------------------------------------------------------------------------------


def _multiplication(call: Call) -> Reach:
    reach = call.reach(0)
    return unknown(call) if reach is None else _multiplied(reach, call.result.shape)


def _product(call: Call) -> Reach:
    """Multiply two matrices, of which one or both depend on the image."""
    operands = call.args[-2:] if len(call.args) > 2 and isinstance(call.args[2], torch.Tensor) else call.args[:2]
    left, right = (call.reach_of(tensor) for tensor in operands)
    ndim = call.result.ndim
    if left is not None and right is None:
        return _multiplied(left, call.result.shape)
    if right is not None and left is None:
        last = len(right.roles) - 1
        swapped = _in_order(right, [*range(last - 1), last, last - 1])
        found = _multiplied(swapped, (*call.result.shape[:-2], call.result.shape[-1], call.result.shape[-2]))
        return _in_order(found, [*range(ndim - 2), ndim - 1, ndim - 2])
    if left is None or right is None:
        return unknown(call)
    met = [left.across([len(left.roles) - 1]), right.across([len(right.roles) - 2])]
    roles = (*left.roles[:-1], right.roles[-1])
    seen = _seen_together([reach.seen for reach in met])
    channels = _features_of(met, [n for n, role in zip(call.result.shape, roles, strict=True) if role == CHANNELS])
    return Reach(roles, "places" if isinstance(seen, tuple) else seen, channels, **_paths(met, gated=True))


def _features_of(reaches: Sequence[Reach], lengths: Sequence[int]) -> Array | None:
    """Let each channel depend on all that any of several tensors' channels do."""
    if any(reach.channels is None for reach in reaches):
        return None
    every = np.logical_or.reduce([reach.channels.any(axis=tuple(range(reach.channels.ndim - 1))) for reach in reaches])  # type: ignore[union-attr]
    return np.broadcast_to(every, (*lengths, len(every)))


def _multiplied(reach: Reach, shape: Sequence[int]) -> Reach:
    """Multiply with a matrix that does not depend on the image, from the right."""
    *_, role = reach.roles
    if role is None:
        return reach.lost()
    last = len(reach.roles) - 1
    summed = _selected(reach.across([last]), last, 0)
    if isinstance(role, tuple):
        same = shape[-1] == math.prod(length for _, length in role)
        return replace(summed, roles=(*summed.roles, role if same else _longer(role, shape[-1])))
    roles = (*summed.roles, CHANNELS)
    lengths = [length for length, each in zip(shape, roles, strict=True) if each == CHANNELS]
    return _through_channels(replace(summed, roles=roles, channels=_features_of([reach], lengths)), shape[-1])


def _attention(call: Call) -> Reach:
    """Each query sees all keys and values."""
    tensors = [reach for tensor in call.args[:3] if (reach := call.reach_of(tensor))]
    like = call.reach(0) or tensors[-1]
    lengths = [n for n, role in zip(call.result.shape, like.roles, strict=True) if role == CHANNELS]
    seen = _seen_together([reach.across([len(reach.roles) - 2]).seen for reach in tensors])
    return replace(like, seen=seen, channels=_features_of(tensors, lengths), **_paths(tensors, gated=True))


_SIZES = (1, 2, 3)
_POOLS = ("avg_pool2d", "avg_pool3d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
_ADAPTIVE_POOLS = (
    *(f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (2, 3)),
    *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
)
_PADS = ("constant_pad_nd", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in _SIZES))
_REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "prod", "argmax", "argmin")
_ALONG = ("_softmax", "_log_softmax", "sort", "_fft_r2c", "_fft_c2r", "_fft_c2c")
_ATTENTIONS = ("scaled_dot_product_attention", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")
_WITHOUT_TAG = ("hardswish", "hardsigmoid", "mish", "softplus", "where", "masked_fill")
"""Pointwise operators that not every torch marks as such."""
_SAME = ("native_dropout", "_native_batch_norm_legit_no_training", "_batch_norm_no_update", "_prelu_kernel")
_COPIES = ("_to_copy", "detach", "alias", "lift_fresh")
_SPLITS = ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk")
_VIEWS = ("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze", "flatten", "unflatten")

RULES: Mapping[str, Rule] = {
    "convolution": _convolution,
    "linear": _multiplication,
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "matmul"), _product),
    **dict.fromkeys(_ATTENTIONS, _attention),
    **dict.fromkeys(("mul", "div"), partial(elementwise, gated=True)),
    **dict.fromkeys((*_SAME, *_COPIES), _as_it_is),
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm"), _batch_norm),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_ADAPTIVE_POOLS, _adaptive_pool),
    **{f"upsample_nearest{n}d": partial(_resize, taps=(0, 0), nearest=True) for n in _SIZES},
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), _interpolated),
    "upsample_bicubic2d": partial(_interpolated, taps=(-1, 2)),
    **dict.fromkeys(_PADS, _pad),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "linalg_vector_norm": partial(_reduction, at=2),
    **dict.fromkeys(_ALONG, _along),
    "expand": _expanded,
    "copy": _copied,
    "cat": _cat,
    "stack": _stack,
    "permute": _permuted,
    "transpose": _transposed,
    "t": _swapped,
    "unsqueeze": _unsqueezed,
    **dict.fromkeys(_VIEWS, _viewed),
    "select": _select,
    "slice": _slice,
    **dict.fromkeys(_SPLITS, _split),
    "unbind": _unbind,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _channel_shuffle),
}
"""How operators carry reaches; those that are pointwise, and named here nowhere, unite what they take."""


def is_pointwise(func: Any, operator: str) -> bool:
    """Say whether an operator works element by element; `operator` is its name, whether in place or not."""
    return operator in _WITHOUT_TAG or torch.Tag.pointwise in func.tags
