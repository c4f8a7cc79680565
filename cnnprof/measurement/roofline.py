"""What this machine can do at most: matrix products, bandwidth over the working set, the cost of a call.

A roof is the best of many samples, as a neighbour only ever takes away from it. Times of small working sets are taken
less the cost of the call, which has a roof of its own.
"""

import math
from collections.abc import Callable

import torch

from cnnprof.measurement.latency import Call, Timer, cuda_timer, wall_timer
from cnnprof.measurement.latency import Clock as _Clock
from cnnprof.records import Bandwidth, Peaks, Product

DTYPES = ("float32", "bfloat16", "float16", "float64")
SIDES = {"cpu": (512, 1024, 2048, 3072), "cuda": (4096, 8192)}
"""Of the square matrices, rising: large enough for every core, small enough for seconds."""
WORKING_SETS = tuple(2**power for power in range(16, 31))
"""64 KiB to 1 GiB."""
SAMPLE_S = 1e-3
POINT_S = 0.15
"""Spent on each figure, and at least three samples."""
PATIENCE_S = 0.5
"""A larger product that would take longer is not tried: processors without float16 take minutes for it."""


def peaks(device: str = "cpu", progress: Callable[[float], None] = lambda share: None) -> Peaks:
    """Measure the roofs of a device with the threads that torch has now."""
    kind = torch.device(device).type
    timer = cuda_timer(device) if kind == "cuda" else wall_timer(_Clock())
    steps = len(DTYPES) + len(WORKING_SETS) + 1
    call_s = _call_s(timer, device)
    progress(1 / steps)
    products = []
    for number, dtype in enumerate(DTYPES, 2):
        products.append(_product(timer, device, dtype, SIDES[kind]))
        progress(number / steps)
    bandwidths = []
    for number, size in enumerate(WORKING_SETS, 2 + len(DTYPES)):
        bandwidths.append(_bandwidth(timer, device, size, call_s))
        progress(number / steps)
    return Peaks(device, torch.get_num_threads(), tuple(products), tuple(bandwidths), call_s)


def _best_s(timer: Timer, call: Call) -> float:
    """Return the seconds of the fastest call."""
    call()
    once = max(timer(call, 1, 1)[0], 1e-9)
    repeats = math.ceil(SAMPLE_S / once)
    samples = max(3, int(POINT_S / (once * repeats)))
    return min(once, *timer(call, samples, repeats))


def _call_s(timer: Timer, device: str) -> float:
    number = torch.zeros(1, device=device)
    return _best_s(timer, lambda: number.add_(1))


def _product(timer: Timer, device: str, dtype: str, sides: tuple[int, ...]) -> Product:
    """Multiply square matrices; on a CPU also as convolutions, which another library does.

    Intel's library of products takes half of what a processor of another maker can do, that of convolutions does not.
    """
    ways = (_by_product, _by_convolution) if torch.device(device).type == "cpu" else (_by_product,)
    return max((_fastest(timer, device, dtype, sides, way) for way in ways), key=lambda found: found.flops_per_s)


def _fastest(
    timer: Timer, device: str, dtype: str, sides: tuple[int, ...], way: Callable[[torch.Tensor], Call]
) -> Product:
    """Multiply matrices of N x N in one way, larger and larger: 2 N^3 FLOPs."""
    best = Product(dtype, 0.0, 0)
    for side in sides:
        flops = 2 * side**3
        if best.side and flops > PATIENCE_S * best.flops_per_s:
            break
        call = way(torch.full((side, side), 0.5, dtype=getattr(torch, dtype), device=device))
        best = max(best, Product(dtype, flops / _best_s(timer, call), side), key=lambda found: found.flops_per_s)
    return best


def _by_product(matrix: torch.Tensor) -> Call:
    out = torch.empty_like(matrix)
    return lambda: torch.mm(matrix, matrix, out=out)


def _by_convolution(matrix: torch.Tensor) -> Call:
    """Make of rows the pixels of an image, whose channels come last, and of the other matrix kernels of 1x1."""
    side = len(matrix)
    image, kernels = matrix.view(1, side, 1, side).permute(0, 3, 1, 2), matrix.view(side, side, 1, 1)
    return lambda: torch.nn.functional.conv2d(image, kernels)


def _bandwidth(timer: Timer, device: str, size: int, call_s: float) -> Bandwidth:
    """Copy one half of a working set to the other, and add to all of it in place."""
    numbers = torch.zeros(size // 4, device=device)
    source, target = numbers[: size // 8], numbers[size // 8 :]
    copied_s = _best_s(timer, lambda: target.copy_(source))
    updated_s = _best_s(timer, lambda: numbers.add_(1))
    return Bandwidth(size, size / _less(copied_s, call_s), 2 * size / _less(updated_s, call_s))


def _less(took_s: float, call_s: float) -> float:
    """Take the cost of the call off, of which noise must not leave nothing."""
    return max(took_s - call_s, took_s / 4)
