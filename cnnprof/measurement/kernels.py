"""What kernels on the CPU take for themselves while they run, beyond their outputs.

A convolution copies input, weight and output into blocked layouts; which, only oneDNN knows, and torch lets nobody ask.
So each kind of call is made once, with two small batches, under the allocator's events, and kept in the user's cache.
Copies of inputs and outputs grow with the batch; copies of weights, and scratch by thread, do not. Where a source says
what a kernel takes, no call is made.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import platformdirs
import torch

from cnnprof import machine, store
from cnnprof.errors import UsageError
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
MANY = 16
"""From this batch on oneDNN gets 1x1 convolutions of one thread, too (use_mkldnn in aten/native/Convolution.cpp)."""


def hidden_bytes(kernels: Sequence[Kernel]) -> dict[Kernel, int | None]:
    """Return what each call takes beyond its outputs; None where trying it fails."""
    tried = {kernel: _tries(kernel) for kernel in kernels if kernel.operator in BATCHED}
    known = _known()
    missing = {key: call for calls in tried.values() for key, call in calls if key not in known}
    if missing:
        found = {key: _tried(call) for key, call in missing.items()}
        known |= found
        _keep({key: events for key, events in known.items() if events is not None})  # what failed may succeed later
    hidden: dict[Kernel, int | None] = {}
    for kernel in kernels:
        if kernel in tried:
            hidden[kernel] = _extended([known[key] for key, _ in tried[kernel]], tried[kernel], _batch(kernel))
        else:
            formula = FORMULAS.get(kernel.operator)
            hidden[kernel] = formula(kernel.arguments) if formula else None
    return hidden


def at_most(kernel: Kernel, outputs_bytes: int) -> float:
    """Bound what a call takes beyond its outputs, without making it; infinite where nothing is known.

    A convolution copies each of its tensors once, channels padded to blocks of 16; where oneDNN does not take it, it
    unfolds the larger side once for each position of its window (slow_conv2d in aten/native/ConvolutionMM2d.cpp).
    """
    if "convolution" not in kernel.operator:
        return math.inf
    return (2 + math.prod(_weight(kernel).shape[2:])) * (_nbytes(kernel) + outputs_bytes)


def _tries(kernel: Kernel) -> list[tuple[Key, Kernel]]:
    """Return the calls that are made in its place, each under the name that it is kept by."""
    batch = _batch(kernel)
    calls = [_with_batch(kernel, number) for number in _batches(kernel, batch)]
    return [(json.dumps([call.operator, call.arguments], default=vars), call) for call in calls]


def _batches(kernel: Kernel, batch: int) -> tuple[int, ...]:
    if batch <= EXACT:
        return (batch,)
    if batch >= MANY and torch.get_num_threads() == 1 and _is_pointwise(kernel):
        return MANY, MANY + 2
    larger, smaller = PAIRS
    return larger if _nbytes(_with_batch(kernel, larger[1])) <= TRIED_BYTES else smaller


def _nbytes(kernel: Kernel) -> int:
    return sum(value.nbytes for value in kernel.arguments if isinstance(value, Laid))


def _is_pointwise(kernel: Kernel) -> bool:
    return "convolution" in kernel.operator and set(_weight(kernel).shape[2:]) == {1}


def _weight(convolution: Kernel) -> Laid:
    weight: Laid = convolution.arguments[1 if convolution.operator == "aten::convolution" else 2]
    return weight


def _batch(kernel: Kernel) -> int:
    place, dimension = next(iter(BATCHED[kernel.operator].items()))
    return int(kernel.arguments[place].shape[dimension])


def _with_batch(kernel: Kernel, batch: int) -> Kernel:
    arguments = list(kernel.arguments)
    for place, dimension in BATCHED[kernel.operator].items():
        value = arguments[place]
        if isinstance(value, Laid):
            arguments[place] = value.with_length(dimension, batch)
        elif isinstance(value, tuple):  # a shape
            arguments[place] = (*value[:dimension], batch, *value[dimension + 1 :])
    return Kernel(kernel.operator, tuple(arguments))


def _extended(events: Sequence[Events | None], calls: Sequence[tuple[Key, Kernel]], batch: int) -> int | None:
    """Return the excess at a batch, from the events at others."""
    if any(each is None for each in events):
        return None
    (outputs, *first), *rest = ([*each] for each in events if each is not None)
    if not rest:
        return excess(first, outputs)
    (larger_outputs, *second), low, high = rest[0], _batch(calls[0][1]), _batch(calls[1][1])

    def extend(small: int, large: int) -> int:
        return small + (large - small) * (batch - low) // (high - low)

    return excess(at_batch(first, second, extend, batch / high), extend(outputs, larger_outputs))


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
    arguments = [_made(value) if isinstance(value, Laid) else _listed(value) for value in call.arguments]
    autograd: Any = torch.autograd
    config = autograd.ProfilerConfig(
        autograd.ProfilerState.CPU, False, True, False, False, False, torch._C._profiler._ExperimentalConfig()
    )
    with torch.no_grad():
        try:
            autograd._enable_profiler_legacy(config)
        except RuntimeError:  # the caller's own profiler runs
            return None
        try:
            result = _operator(call)(*arguments)
        except RuntimeError:
            result = None
        finally:
            threads = autograd._disable_profiler_legacy()
    if _nbytes(call) > KEPT_BYTES:
        del arguments
        machine.give_back()
    if result is None:
        return None
    events = [event.cpu_memory_usage() for thread in threads for event in thread if event.kind() == "memory_alloc"]
    return [_new_bytes(result), *events]


def _operator(call: Kernel) -> Callable[..., Any]:
    return getattr(torch.ops.aten, call.operator.removeprefix("aten::")).default  # type: ignore[no-any-return]


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _made(laid: Laid) -> torch.Tensor:
    """Make a tensor of ones that lies so; what is expanded stays so."""
    reach = 1 + sum((length - 1) * step for length, step in zip(laid.shape, laid.stride, strict=True))
    return torch.ones(max(reach, 0), dtype=getattr(torch, laid.dtype)).as_strided(laid.shape, laid.stride)


def _new_bytes(result: Any) -> int:
    tensors = result if isinstance(result, tuple | list) else (result,)
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors if tensor is not None}
    return sum(storage.nbytes() for storage in storages.values())


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
    """In half precision oneDNN packs operands, into how much it does not tell; complex conjugates may be copied."""
    dtypes = {value.dtype for value in arguments if isinstance(value, Laid)}
    return 0 if dtypes <= {"float32", "float64"} else None


FORMULAS: Mapping[str, Callable[[Sequence[Any]], int | None]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda arguments: _attention(arguments, backward=False),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": lambda arguments: _attention(arguments, True),
    "aten::mm": _product,
    "aten::addmm": _product,
    "aten::bmm": _product,
    "aten::baddbmm": _product,
    "aten::roll": _copied_if_strided,  # aten/native/TensorTransformations.cpp
    "aten::native_batch_norm_backward": _copied_if_strided,  # aten/native/Normalization.cpp
}
_UNKNOWN = ("aten::linalg_", "aten::_linalg_", "aten::_fft_", "aten::stft", "aten::mkldnn_rnn_layer")
"""Operators, by how their names begin, that take workspaces which neither a source nor a small batch tells."""


def takes_memory(operator: str) -> bool:
    """Say whether calls of an operator are to be asked about."""
    return operator in BATCHED or operator in FORMULAS or operator.startswith(_UNKNOWN)


# Keeping -------------------------------------------------------------------------------------------------------------


def _place() -> Path:
    """Name the file: what kernels take depends on the processor, on torch, and on its threads."""
    here = machine.describe("cpu", "kept")
    identity = repr((here.cpu, here.instructions, torch.__version__, torch.get_num_threads()))
    name = f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    return Path(platformdirs.user_cache_dir("cnnprof")) / name


def _known() -> dict[Key, list[int] | None]:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(_place().read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    return {}


def _keep(known: Mapping[Key, list[int] | None]) -> None:
    with contextlib.suppress(UsageError):  # no cache to be had: the next prediction tries again
        store.write_text(_place(), json.dumps(known))
