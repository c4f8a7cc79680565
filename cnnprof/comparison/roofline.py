"""Layers against what the machine can do at most: which roof bounds each, and how near it comes. No torch.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures",
Communications of the ACM 52, 2009. The bandwidth is that of a layer's own working set; calls cost time of their own.
"""

from collections.abc import Iterable, Sequence

from cnnprof.records import Analysis, Bound, Layer, LayerRoof, LayerTime, Peaks


def against_the_roof(
    analysis: Analysis, times: Sequence[LayerTime], peaks: Peaks, dtype: str, element_bytes: int
) -> tuple[LayerRoof, ...]:
    """Put the forward pass of each layer against its roof; `analysis` counts the batch that was timed, in float32.

    Where it counts another type, `element_bytes` is scaled as much. Layers that neither compute nor move
    anything have no roof, and are left out.
    """
    layers = {layer.path: layer for layer in analysis.layers}
    product = peaks.flops_per_s(dtype)
    if product is None:
        return ()
    return tuple(
        _roof(layer, time, peaks, product, element_bytes)
        for time in times
        if (layer := layers.get(time.path)) and time.forward_s > 0 and time.forward_operators
        if layer.flops or layer.read_bytes or layer.written_bytes
    )


FLOAT32_BYTES = 4


def _roof(layer: Layer, time: LayerTime, peaks: Peaks, flops_per_s: float, element_bytes: int) -> LayerRoof:
    moved = (layer.read_bytes + layer.written_bytes) * element_bytes / FLOAT32_BYTES
    limits: dict[Bound, float] = {
        "compute": layer.flops / flops_per_s,
        "memory": moved / peaks.bytes_per_s(moved / time.forward_operators),
        "overhead": time.forward_operators * peaks.call_s,
    }
    return LayerRoof(
        path=time.path,
        kind=time.kind,
        time_s=time.forward_s,
        flops=layer.flops,
        moved_bytes=round(moved),
        attainable_s=max(limits["compute"], limits["memory"]) + limits["overhead"],
        bound=max(limits, key=limits.__getitem__),
        transformed=time.transformed,
    )


def time_by_bound(roofs: Iterable[LayerRoof]) -> dict[Bound, float]:
    """Sum the seconds of layers by what bounds them."""
    sums: dict[Bound, float] = {"compute": 0.0, "memory": 0.0, "overhead": 0.0}
    for roof in roofs:
        sums[roof.bound] += roof.time_s
    return sums
