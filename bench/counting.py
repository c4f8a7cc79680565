"""Counting beside its peers, in one process on one thread, from the caller's real module: milliseconds a count.

Each turn runs every counter once, in turn; the ratio to a bare forward pass on meta tensors is taken turn by turn.
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import cnnprof

NETWORKS = ("resnet50", "resnet152", "mobilenet_v3_large", "densenet121")
SIZE = (3, 224, 224)
TURNS = 15


def counters(module: nn.Module) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    from fvcore.nn import FlopCountAnalysis

    on_meta, shape, image = (
        copy.deepcopy(module).to("meta"),
        torch.empty(1, *SIZE, device="meta"),
        torch.randn(1, *SIZE),
    )

    def bare() -> None:
        with torch.no_grad():
            on_meta(shape)

    def flop_counter_mode() -> None:
        with torch.no_grad(), FlopCounterMode(display=False):
            on_meta(shape)

    def fvcore() -> None:
        analysis = FlopCountAnalysis(module, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        with torch.no_grad():
            analysis.total()

    def with_an_empty_cache() -> None:
        cnnprof.clear_caches()
        cnnprof.analyze(module, SIZE)

    def repeated() -> None:
        cnnprof.analyze(module, SIZE)

    return {
        "bare forward on meta": bare,
        "cnnprof, empty cache": with_an_empty_cache,
        "cnnprof, repeated": repeated,
        "FlopCounterMode on meta": flop_counter_mode,
        "fvcore": fvcore,
    }


def row(network: str) -> str:
    """One line of the table: medians, and ratios to the bare pass."""
    named = counters(models.get_model(network, weights=None).eval())
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(TURNS + 1):
        for name, count in named.items():
            started = time.perf_counter()
            count()
            times[name].append(1e3 * (time.perf_counter() - started))
    kept = {name: each[1:] for name, each in times.items()}
    bare = kept["bare forward on meta"]

    def cell(name: str) -> str:
        ratio = statistics.median(a / b for a, b in zip(kept[name], bare, strict=True))
        return f"{statistics.median(kept[name]):.1f}" + ("" if kept[name] is bare else f" ({ratio:.2f}x)")

    return " | ".join([f"| {network}", *map(cell, kept)]) + " |"


def table() -> str:
    """Return the table as Markdown."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = "bare forward on meta, ms", "cnnprof, empty cache", "cnnprof, repeated", "FlopCounterMode on meta", "fvcore"
    head = ["| network | " + " | ".join(names) + " |", "|---" + "|---:" * len(names) + "|"]
    return "\n".join([*head, *map(row, NETWORKS)])


if __name__ == "__main__":
    print(table())
