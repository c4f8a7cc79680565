"""Memory predicted and measured, on the CPU: prints a table of networks, each with the seconds that either took."""

import statistics
import time

from cnnprof import predict_memory, steps
from cnnprof.inputs import Inputs
from cnnprof.measurement import memory, operators
from cnnprof.models import catalog
from cnnprof.records import MODES, Mode, Settings

BATCH = 8
NETWORKS = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet1_0",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "swin_t",
    "vgg11",
    "vit_b_16",
    "wide_resnet50_2",
    "regular",
    "bottleneck",
)


def measured_bytes(name: str, mode: Mode) -> int:
    """Run a step twice, the second time under the allocator's events."""
    settings = Settings(batch_size=BATCH, optimizer="adamw")
    found = catalog.resolve(name)
    assert isinstance(found.input_size, tuple)
    step = steps.prepare(found.build(), Inputs.random(found.input_size, BATCH, 0), mode, settings)
    before = memory.standing_bytes(step.standing())
    seen = operators.profiled(step, time_s=None)
    return memory.peak(before + seen.kept_bytes, seen.allocations).peak_bytes


def figures(name: str, mode: Mode) -> tuple[int, int, float, float]:
    """Return the bytes predicted and measured, and the seconds that either took."""
    started = time.perf_counter()
    predicted = predict_memory(name, None, BATCH, mode=mode, optimizer="adamw").predicted
    between = time.perf_counter()
    measured = measured_bytes(name, mode)
    assert predicted
    return predicted.peak_bytes, measured, between - started, time.perf_counter() - between


def main() -> None:
    """Print the table, then the errors over it."""
    columns = [f"{mode}: predicted, MiB | measured | error" for mode in MODES]
    print(f"| network | {' | '.join(columns)} | predicted in, s | measured in, s |")
    print("|---|" + "---:|" * 8)
    errors: dict[str, list[float]] = {mode: [] for mode in MODES}
    for name in NETWORKS:
        cells, spent = [], [0.0, 0.0]
        for mode in MODES:
            predicted, measured, *seconds = figures(name, mode)
            error = predicted / measured - 1
            errors[mode].append(abs(error))
            cells += [f"{predicted / 2**20:,.1f}", f"{measured / 2**20:,.1f}", f"{100 * error:+.2f} %"]
            spent = [total + each for total, each in zip(spent, seconds, strict=True)]
        print(f"| {name} | {' | '.join(cells)} | {spent[0]:.2f} | {spent[1]:.2f} |", flush=True)
    print()
    for mode in MODES:
        found = errors[mode]
        print(f"{mode}: median error {statistics.median(found):.4%}, worst {max(found):.4%}.")


if __name__ == "__main__":
    main()
