"""Workspaces of kernels on the CPU: the memory that they take while they run, beyond their outputs.

A convolution copies input, weight and output into blocked layouts; which, only oneDNN knows, and torch lets nobody ask.
So each kind of call is made once under the allocator's events, and kept in the user's cache: with two small batches, or
where it is large at two smaller sizes, from which it is extrapolated, for copies of inputs and outputs grow linearly;
copies of weights, and scratch by thread, stay. Where a source tells a kernel's workspace, no call is made.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch.utils._pytree import tree_leaves

from cnnprof import machine, store
from cnnprof.errors import UsageError
from cnnprof.measurement.memory import storage_bytes
from cnnprof.records import Kernel, Laid

Events = Sequence[int]
"""Bytes, negative where released, in the order of time."""
Key = str

_RESIZED = (
    *(f"upsample_{how}" for how in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d")),
    "upsample_trilinear3d",
    *(f"_upsample_{how}_aa" for how in ("bilinear2d", "bicubic2d")),
)
BATCHED: Mapping[str, Mapping[int, int]] = {
    "aten::convolution": {0: 0},
    "aten::convolution_backward": {0: 0, 1: 0},
    "aten::native_layer_norm": {0: 0},
    "aten::native_layer_norm_backward": {0: 0, 1: 0, 3: 0, 4: 0},
    **{f"aten::{name}": {0: 0} for name in _RESIZED},
    **{f"aten::{name}_backward": {0: 0, 2: 0} for name in _RESIZED},
}
"""Operators that are tried: which of their arguments hold a batch, and in which dimension."""

EXACT = 8
"""Up to this batch a call is tried as it is; beyond, it is extended from two smaller ones."""
PAIRS = ((4, 8), (2, 4))
KEPT_BYTES = 1 << 20
"""After a larger call its memory is given back at once."""
TRIED_BYTES = 4 << 20
"""The larger pair is tried where its arguments take no more than this."""
MOST_BYTES = 128 << 20
"""No call is made that may take more."""
MULTIPLIED = 16
"""The most that an unknown operator may take, as a multiple of its arguments' size."""
BUDGET_BYTES = 4 << 30
"""All calls of a prediction together: so much takes about a second. Beyond, calls are doubted by name."""
_TRIED_SHARE = 0.45
"""Of the most, for calls that are cut: two are made for each length."""
MOST_AXES = 4
LEAST_ROWS = 8
"""Of a convolution's output beyond its window."""
_ROUNDING = 64
"""Bytes by which extrapolated outputs may miss those that were seen."""
MANY = 16
"""From this batch on oneDNN gets 1x1 convolutions of one thread, too (use_mkldnn in aten/native/Convolution.cpp)."""


def hidden_bytes(kernels: Sequence[Kernel]) -> dict[Kernel, int | None]:
    """Return what each call takes beyond its outputs; None where trying it fails, or would take too much."""
    known = _known()
    found = Tries({**known}, BUDGET_BYTES)
    with torch.random.fork_rng(devices=[]):
        hidden = {kernel: _hidden(kernel, found) for kernel in kernels}
    if len(found.known) > len(known):
        _keep(found.known)
    return hidden


def _hidden(kernel: Kernel, tries: "Tries") -> int | None:
    if kernel.operator in FORMULAS:
        return FORMULAS[kernel.operator](kernel.arguments)
    if kernel.operator.startswith(_UNKNOWN):
        return None
    events = tries.events(kernel)
    if events is None or (kernel.outputs_bytes is not None and abs(events[0] - kernel.outputs_bytes) > _ROUNDING):
        return None  # what is extended is not the call that was asked about
    return excess(events[1:], events[0])


def at_most(kernel: Kernel, outputs_bytes: int) -> float:
    """Bound what a call takes beyond its outputs, without making it; infinite where nothing is known.

    A convolution copies each of its tensors once, channels padded to blocks of 16; where oneDNN does not take it, it
    unfolds the larger side once for each position of its window (slow_conv2d in aten/native/ConvolutionMM2d.cpp).
    """
    if "convolution" not in kernel.operator:
        return math.inf
    return (2 + math.prod(_weight(kernel).shape[2:])) * (_nbytes(kernel) + outputs_bytes)


def _nbytes(kernel: Kernel) -> int:
    return sum(laid.nbytes for laid in kernel.tensors())


def _is_pointwise(kernel: Kernel) -> bool:
    return "convolution" in kernel.operator and set(_weight(kernel).shape[2:]) == {1}


def _weight(convolution: Kernel) -> Laid:
    weight: Laid = convolution.arguments[_source(convolution) + 1]
    return weight


@dataclass
class Tries:
    """Calls that were made, and others that are extrapolated from them."""

    known: dict[Key, list[int]]
    """Bytes of the outputs, then the allocator's events."""
    left_bytes: int

    def events(self, call: Kernel, axes: Sequence["Axis"] | None = None) -> list[int] | None:
        """Make a call; or two smaller ones, which are extended. None where that cannot be done."""
        axes = _axes(call) if axes is None else axes
        for place, axis in enumerate(axes):
            if axis.is_extended(call):
                return self._extended(call, axis, axes[place + 1 :])
        return None if is_large(call) else self._made(call)

    def _extended(self, call: Kernel, axis: "Axis", others: Sequence["Axis"]) -> list[int] | None:
        low, high = axis.pair(call)
        first, second = (self.events(axis.cut(call, length), others) for length in (low, high))
        if first is None or second is None:
            return None

        def extend(small: int, large: int) -> int:
            return small + (large - small) * (axis.length - low) // (high - low)

        return [extend(first[0], second[0]), *at_batch(first[1:], second[1:], extend, axis.length / high)]

    def _made(self, call: Kernel) -> list[int] | None:
        key = json.dumps([call.operator, call.overload, call.arguments, call.named], default=_text)
        if key in self.known:
            return self.known[key]
        self.left_bytes -= expected_bytes(call)
        if self.left_bytes < 0:
            return None
        events = _tried(call)
        if events is not None and _is_repeatable((call.arguments, call.named)):
            self.known[key] = events
        return events


def _text(value: Any) -> Any:
    return vars(value) if isinstance(value, Laid) else str(value)


def _is_repeatable(value: Any) -> bool:
    """Say whether a value's text tells it: weights that are packed are objects without one."""
    if isinstance(value, tuple):
        return all(map(_is_repeatable, value))
    return not isinstance(value, torch.ScriptObject | torch.Generator)


@dataclass(frozen=True)
class Axis:
    """A length along which a call is cut, and along which its memory grows linearly."""

    length: int
    places: Mapping[int, tuple[int, int]]
    """By argument: its dimension, and how much shorter that is for each step; no arguments: all of that length."""
    dimension: int = 0
    least: int = 2
    exact: int | None = None
    """Up to this length it is not cut, where a call so long is small enough; None where only large calls are cut."""

    def is_extended(self, call: Kernel) -> bool:
        """Say whether smaller calls tell."""
        long = self.exact is not None and self.length > self.exact
        return self.length > self.least and (long or is_large(call))

    def pair(self, call: Kernel) -> tuple[int, int]:
        """Return the lengths of two calls; of a batch small ones, else as long as can be tried."""
        if self.exact is None:
            most = max(self.least + 1, int(self.length * _TRIED_SHARE * MOST_BYTES / expected_bytes(call)))
            high = min(most, self.length - 1)
            return max(self.least, high // 2), high
        if self.length >= MANY and torch.get_num_threads() == 1 and _is_pointwise(call):
            return MANY, MANY + 2
        larger, smaller = PAIRS
        if self.length >= larger[1] and _nbytes(self.cut(call, larger[1])) <= TRIED_BYTES:
            return larger
        return smaller if self.length >= smaller[1] else (self.length - 1, self.length)

    def cut(self, call: Kernel, length: int) -> Kernel:
        """Return a call that is shorter."""
        if not self.places:
            return call.mapped(lambda laid: self._cut_where_long(laid, length))
        arguments = list(call.arguments)
        for place, (dimension, step) in self.places.items():
            less = (self.length - length) * step
            value = arguments[place]
            if isinstance(value, Laid):
                arguments[place] = value.with_length(dimension, value.shape[dimension] - less)
            elif isinstance(value, tuple):  # a shape
                arguments[place] = (*value[:dimension], value[dimension] - less, *value[dimension + 1 :])
        return Kernel(call.operator, tuple(arguments), call.named, call.overload)

    def _cut_where_long(self, laid: Laid, length: int) -> Laid:
        fits = len(laid.shape) > self.dimension and laid.shape[self.dimension] == self.length
        return laid.with_length(self.dimension, length) if fits else laid


def _axes(call: Kernel) -> list[Axis]:
    """Return the lengths along which a call can be cut, in the order in which that is done."""
    if call.operator.startswith(_AS_ASKED):
        return []
    batched = BATCHED.get(call.operator)
    if batched is None:
        lengths = dict.fromkeys(
            (dimension, laid.shape[dimension])
            for dimension in range(MOST_AXES if call.operator.startswith("aten::") else 1)
            for laid in sorted(call.tensors(), key=lambda laid: -laid.nbytes)
            if len(laid.shape) > dimension
        )
        return [Axis(length, {}, dimension) for dimension, length in lengths][:MOST_AXES]
    place, dimension = next(iter(batched.items()))
    batch = Axis(call.arguments[place].shape[dimension], {at: (along, 1) for at, along in batched.items()}, exact=EXACT)
    if "convolution" in call.operator:
        window = range(len(_weight(call).shape) - 2) if _grows_by_rows(call) else ()
        spatial = [_window_axis(call, each) for each in window]
        return [batch, *spatial] if batch.length > EXACT else [*spatial, batch]
    channels = [Axis(call.arguments[0].shape[1], dict.fromkeys(batched, (1, 1)), 1)]
    return [batch, *(channels if "upsample" in call.operator else [])]


def _grows_by_rows(convolution: Kernel) -> bool:
    """Say whether rows of an image tell what all take: others go other ways by its size."""
    source = _source(convolution)
    stride, _, dilation, transposed, _, groups = convolution.arguments[source + 3 : source + 9]
    return not transposed and groups == 1 and {*stride, *dilation} == {1}


def _window_axis(convolution: Kernel, spatial: int) -> Axis:
    """Cut a spatial dimension of a convolution of stride one."""
    source, dimension = _source(convolution), 2 + spatial
    places = {source: (dimension, 1), **({0: (dimension, 1)} if source else {})}
    least = _weight(convolution).shape[dimension] + 2 * _of(convolution.arguments[source + 4], spatial) + LEAST_ROWS
    return Axis(convolution.arguments[source].shape[dimension], places, dimension, least)


def _of(lengths: Sequence[int], spatial: int) -> int:
    return lengths[spatial] if len(lengths) > 1 else lengths[0]


def _source(convolution: Kernel) -> int:
    """Say which argument is the input."""
    return 0 if convolution.operator == "aten::convolution" else 1


def is_large(call: Kernel) -> bool:
    """Say whether trying a call may take more than a prediction may."""
    return expected_bytes(call) > MOST_BYTES


def expected_bytes(call: Kernel) -> int:
    """Bound the memory of trying a call, its arguments and outputs included.

    A convolution that oneDNN does not take unfolds an input once for each position of its window, a stride apart.
    """
    if "upsample" in call.operator:
        image = call.arguments[0]
        return 2 * int(image.nbytes + math.prod(image.shape[:2]) * math.prod(call.arguments[1]) * image.itemsize)
    if "convolution" not in call.operator:
        windows = (math.prod(laid.shape[2:]) for laid in list(call.tensors())[1:3])
        others = COPIES if call.operator in BATCHED else MULTIPLIED
        return (min(windows, default=1) + 3 if "deform" in call.operator else others) * _nbytes(call)
    source, weight = _source(call), _weight(call)
    unfolded = 0 if _is_of_onednn(call) else math.prod(weight.shape[2:]) // math.prod(call.arguments[source + 3])
    wider = 0 if source else _growth(call)
    return int((_nbytes(call) - weight.nbytes) * (unfolded + COPIES + wider) + 3 * weight.nbytes)


def _growth(convolution: Kernel) -> int:
    """Return how many times as large as its input a convolution's output is, rounded up."""
    weight = _weight(convolution)
    channels: int = convolution.arguments[0].shape[1]
    stride, transposed, groups = convolution.arguments[3], convolution.arguments[6], convolution.arguments[8]
    if transposed:
        return int(-(-weight.shape[1] * groups * math.prod(stride) // channels))
    return int(-(-weight.shape[0] // (channels * math.prod(stride))))


COPIES = 4
"""Of what a convolution or a norm takes, with gradients, and in blocks of 16 channels."""


def _is_of_onednn(convolution: Kernel) -> bool:
    """Say whether oneDNN takes it, which unfolds nothing (use_mkldnn in aten/native/Convolution.cpp)."""
    dilation, transposed = convolution.arguments[_source(convolution) + 5 : _source(convolution) + 7]
    return _weight(convolution).dtype == "float32" and not (transposed and {*dilation} != {1})


def excess(events: Events, outputs_bytes: int) -> int:
    """Return what stood at most, beyond the outputs."""
    return max(0, max(accumulate(events, initial=0)) - outputs_bytes)


def at_batch(small: Events, large: Events, extend: Callable[[int, int], int], growth: float) -> Events:
    """Extend the events of two batches to a third; where they do not correspond, all grow that are not in both."""
    if [size > 0 for size in small] == [size > 0 for size in large]:
        return [extend(a, b) for a, b in zip(small, large, strict=True)]
    constant = set(map(abs, small))
    return [size if abs(size) in constant else int(size * growth) for size in large]


# Trying --------------------------------------------------------------------------------------------------------------


def _tried(call: Kernel) -> list[int] | None:
    """Make a call; return the bytes of its outputs, then its allocator events. None where it cannot be made.

    This profiler is torch's older one: the newer takes two seconds and 150 MiB to start.
    """
    autograd: Any = torch.autograd
    config = autograd.ProfilerConfig(
        autograd.ProfilerState.CPU, False, True, False, False, False, torch._C._profiler._ExperimentalConfig()
    )
    with torch.no_grad():
        try:
            arguments, named = _real(call.arguments), dict(_real(call.named))
            autograd._enable_profiler_legacy(config)
        except (RuntimeError, MemoryError):  # there is no memory, or the caller's own profiler runs
            return None
        try:
            result = _operator(call)(*arguments, **named)
        except _REFUSED:
            result = NotImplemented
        finally:
            threads = autograd._disable_profiler_legacy()
    given = set(_storages((arguments, list(named.values()))))
    del arguments, named
    if _nbytes(call) > KEPT_BYTES:
        machine.give_back()
    if result is NotImplemented:
        return None
    events = [event.cpu_memory_usage() for thread in threads for event in thread if event.kind() == "memory_alloc"]
    return [sum(size for key, size in _storages(result).items() if key not in given), *events]


_REFUSED = (RuntimeError, MemoryError, TypeError, ValueError, IndexError)


def _operator(call: Kernel) -> Callable[..., Any]:
    namespace, _, name = call.operator.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), name), call.overload)  # type: ignore[no-any-return]


def _real(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_real(item) for item in value]
    return _made(value) if isinstance(value, Laid) else value


def _made(laid: Laid) -> torch.Tensor:
    """Make a tensor that lies so, of ones, or of zeros where it may hold indices; an expanded one stays so."""
    reach = 1 + sum((length - 1) * step for length, step in zip(laid.shape, laid.stride, strict=True))
    dtype = getattr(torch, laid.dtype)
    make = torch.ones if dtype.is_floating_point or dtype.is_complex else torch.zeros
    return make(max(reach, 0), dtype=dtype).as_strided(laid.shape, laid.stride)


def _storages(result: Any) -> dict[int, int]:
    """Return the bytes of each storage in a nest of results."""
    tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
    return storage_bytes(tensors)


# Known from sources --------------------------------------------------------------------------------------------------


def _attention(arguments: Sequence[Any], backward: bool) -> int:
    """Follow aten/native/cpu/FlashAttentionKernel.cpp: blocks of scores, and of outputs, for each thread."""
    query, key, value = arguments[1:4] if backward else arguments[:3]
    length, others, width = query.shape[2], key.shape[2], query.shape[3]
    rows, columns = 256 if length >= 768 else 64 if length >= 192 else 32, min(512, others)
    rows = min(rows, length) if backward else rows
    block = 2 * rows * columns if backward else rows * columns + 2 * rows + rows * width
    copies = 0
    if backward and not arguments[0].transposed(1, 2).is_contiguous:
        copies = arguments[0].nbytes
    if query.dtype in _REDUCED:  # packed for the matrix products
        copies += key.nbytes + value.nbytes + torch.get_num_threads() * rows * columns * 2
    return int(4 * torch.get_num_threads() * block + copies)


_REDUCED = ("bfloat16", "float16")


def _copied_if_strided(arguments: Sequence[Any]) -> int:
    """The kernel works on contiguous memory, and copies what is not."""
    return 0 if arguments[0].is_contiguous else int(arguments[0].nbytes)


def _product(arguments: Sequence[Any]) -> int | None:
    """Copy a matrix that BLAS cannot read as it lies (aten/native/LinearAlgebra.cpp).

    In half precision oneDNN packs operands, into how much it does not tell; complex conjugates may be copied.
    """
    tensors = [value for value in arguments if isinstance(value, Laid)]
    if not {tensor.dtype for tensor in tensors} <= {"float32", "float64"}:
        return None
    first, second = tensors[-2:]
    rows, inner = first.shape[-2:]
    if len(first.shape) == 3 and rows * inner * second.shape[-1] < _BY_LOOPS:
        return 0
    return sum(_copied_for_blas(each) for each in (first, second) if len(each.shape) > 1)


_BY_LOOPS = 400
"""Multiplications of each pair in a batch, below which no BLAS is called (bmm_out_or_baddbmm_ in the same file)."""


def _copied_for_blas(matrices: Laid) -> int:
    """Return the bytes of one matrix that must be copied; those of a batch are copied one after the other."""
    (rows, columns), (down, along) = matrices.shape[-2:], matrices.stride[-2:]
    if (along == 1 and down >= max(1, columns)) or (down == 1 and along >= max(1, rows)):
        return 0
    return rows * columns * matrices.itemsize


def _matrix_by_vector(arguments: Sequence[Any]) -> int:
    """Copy a matrix that gemv cannot read as it lies (aten/native/Blas.cpp)."""
    return 0 if 1 in arguments[0].shape else _copied_for_blas(arguments[0])


def _batch_norm_backward(arguments: Sequence[Any]) -> int:
    """The input's gradient is made twice where both tensors lie alike, else sums by channel are kept."""
    gradient, values = arguments[:2]
    both = gradient, values
    if not (all(each.is_contiguous for each in both) or all(each.is_channels_last for each in both)):
        return int(values.shape[1] * values.itemsize)
    return int(values.nbytes) if arguments[-1][0] else 0


def _batch_norm(arguments: Sequence[Any]) -> int:
    """Keep factors by channel; where channels do not lie apart, sums as well."""
    values = arguments[0]
    apart = values.is_contiguous and math.prod(values.shape[2:]) > 1
    sums = 1 if arguments[5] and not apart else 0
    return int((2 + sums) * values.shape[1] * values.itemsize)


def _group_norm(arguments: Sequence[Any]) -> int:
    """Keep sums by channel and by group where channels lie last; bring other layouts to contiguous memory."""
    values, batch, channels, groups = arguments[0], arguments[3], arguments[4], arguments[6]
    if values.is_contiguous:
        return 0
    return int(2 * batch * (channels + groups) * values.itemsize if values.is_channels_last else values.nbytes)


def _group_norm_backward(arguments: Sequence[Any]) -> int:
    """Bring the gradient to the layout of the input, and keep two sums by channel of each image."""
    gradient, values, batch, channels = arguments[0], arguments[1], arguments[5], arguments[6]
    alike = gradient.is_contiguous if values.is_contiguous else gradient.is_channels_last
    return int(2 * batch * channels * values.itemsize + (0 if alike else gradient.nbytes))


FORMULAS: Mapping[str, Callable[[Sequence[Any]], int | None]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda arguments: _attention(arguments, backward=False),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": lambda arguments: _attention(arguments, True),
    "aten::mm": _product,
    "aten::addmm": _product,
    "aten::bmm": _product,
    "aten::baddbmm": _product,
    "aten::mv": _matrix_by_vector,
    "aten::roll": _copied_if_strided,  # aten/native/TensorTransformations.cpp
    "aten::native_batch_norm": _batch_norm,
    "aten::native_group_norm": _group_norm,  # aten/native/cpu/group_norm_kernel.cpp
    "aten::native_group_norm_backward": _group_norm_backward,
    "aten::native_batch_norm_backward": _batch_norm_backward,  # aten/native/Normalization.cpp
}
_UNKNOWN = ("aten::mkldnn_rnn_layer", "aten::_fft_")
"""Operators, by how their names begin, that take workspaces which neither a source nor a try tells."""
_AS_ASKED = ("aten::linalg_", "aten::_linalg_")
"""Operators that are tried as they are or not at all: their workspaces do not grow linearly with a length."""


def takes_memory(func: Any, args: Sequence[Any]) -> bool:
    """Say whether a call is to be asked about: all but those that are known to take their outputs alone."""
    if torch.Tag.pointwise in func.tags:  # operands of other types are converted (aten/src/ATen/TensorIterator.cpp)
        return len({value.dtype for value in args if isinstance(value, torch.Tensor) and value.ndim}) > 1
    return _takes_memory(func)


@cache
def _takes_memory(func: Any) -> bool:
    name = func._schema.name
    if name in BATCHED or name in FORMULAS or name.startswith(_UNKNOWN):
        return True
    takes = any("Tensor" in str(argument.type) for argument in func._schema.arguments)
    return takes and not _views(func) and name.removeprefix("aten::").removesuffix("_") not in OUTPUTS_ALONE


def _views(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


OUTPUTS_ALONE = frozenset(
    """
    _log_softmax _log_softmax_backward_data _prelu_kernel _prelu_kernel_backward _softmax _softmax_backward_data
    _unsafe_view adaptive_max_pool2d adaptive_max_pool2d_backward arange avg_pool2d avg_pool2d_backward cat
    constant_pad_nd detach embedding embedding_dense_backward empty_like fill full_like gather glu glu_backward
    lift_fresh max_pool2d_with_indices max_pool2d_with_indices_backward mean native_dropout new_empty
    new_empty_strided new_full new_ones new_zeros nll_loss_backward nll_loss_forward ones_like pixel_shuffle
    pixel_unshuffle rand_like randn_like select_backward slice_backward squeeze stack transpose unsqueeze zero
    zeros_like bernoulli normal uniform
    """.split()  # noqa: SIM905  # read at a glance
)
"""Operators of aten, with their forms in place, whose kernels on the CPU were seen to take no more than outputs."""


# Keeping -------------------------------------------------------------------------------------------------------------


def _place() -> Path:
    """Name the file: what kernels take depends on the processor, on torch, and on its threads."""
    here = machine.describe("cpu", "kept")
    identity = repr((here.cpu, here.instructions, torch.__version__, torch.get_num_threads()))
    name = f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    return Path(platformdirs.user_cache_dir("cnnprof")) / name


def _known() -> dict[Key, list[int]]:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(_place().read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    return {}


def _keep(known: Mapping[Key, list[int]]) -> None:
    with contextlib.suppress(UsageError):  # no cache to be had: the next prediction tries again
        store.write_text(_place(), json.dumps(known))
