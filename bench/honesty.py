"""Do the verdicts hold? Pairs whose truth is known, in fresh processes, on a quiet machine and on a busy one.

    python bench/honesty.py [TRIALS] > bench/honesty.json   runs everything; about 50 minutes for 20 trials
    python bench/honesty.py TRIALS quiet              without a load and without peers; about 12 minutes for 20 trials
    python bench/honesty.py trial THREADS SEED        one process: every pair once, with every tool

Pairs: identical calls; one with 3 % more work; unlike ones. A trial has them in the usual order, reversed, beside a
third candidate, or after a larger batch, in turn. Peers time the same callables in the same process right after, each
with as much time, one callable after the other as they do.
"""

import contextlib
import datetime
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import cnnprof
import cnnprof.statistics
from cnnprof import ResidualBlock, ResidualBottleneckBlock, units

PAIR_S = 1.5
Call = Callable[[], object]


# What is timed -------------------------------------------------------------------------------------------------------


def convolutions(number: int) -> Call:
    """Small convolutions, one after the other."""
    image, weight = torch.randn(1, 32, 28, 28), torch.randn(32, 32, 3, 3)

    def run() -> None:
        for _ in range(number):
            F.conv2d(image, weight, padding=1)

    return run


def block(module: torch.nn.Module, batch: int = 1) -> Call:
    """A residual block's forward pass."""
    image = torch.randn(batch, 256, 56, 56)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return module(image)  # type: ignore[no-any-return]

    return run


def small_kernels() -> Call:
    """Many additions of a thousand numbers."""
    numbers = torch.randn(1000)

    def run() -> torch.Tensor:
        total = numbers
        for _ in range(1000):
            total = total + 1
        return total

    return run


def memory_bound() -> Call:
    """One addition of 16 MB to 16 MB."""
    numbers = torch.randn(4_000_000)
    out = torch.empty_like(numbers)
    return lambda: torch.add(numbers, 1, out=out)


def regular() -> Call:
    return block(ResidualBlock(256, [256, 256], [3, 3]).eval())


def bottleneck() -> Call:
    return block(ResidualBottleneckBlock(256, [64], [3]).eval())


PAIRS: dict[str, tuple[Callable[[], Call], Callable[[], Call]]] = {
    "identical": (lambda: convolutions(33), lambda: convolutions(33)),
    "3 % more": (lambda: convolutions(33), lambda: convolutions(34)),
    "compute / small kernels": (lambda: convolutions(33), small_kernels),
    "compute / memory": (lambda: convolutions(33), memory_bound),
    "regular / bottleneck": (regular, bottleneck),
}
UNLIKE = tuple(PAIRS)[2:]
TRUTH_3 = 34 / 33
VARIANTS = ("as usual", "reversed", "a third candidate", "after a larger batch")


# One process ---------------------------------------------------------------------------------------------------------


def trial(threads: int, seed: int, peers: bool = True) -> list[dict[str, object]]:
    """Judge every pair once, with every tool, or without the peers. A ratio is second / first."""
    torch.set_num_threads(threads)
    variant = VARIANTS[seed % len(VARIANTS)]
    results = []
    for pair, makers in PAIRS.items():
        torch.manual_seed(seed)
        if variant == "after a larger batch":
            block(ResidualBlock(256, [256, 256], [3, 3]).eval(), batch=16)()
        first, second = (make() for make in makers)
        calls = {"first": first, "second": second}
        if variant == "reversed":
            calls = {"second": second, "first": first}
        third = {"third": convolutions(20)} if variant == "a third candidate" else {}
        time_s = PAIR_S * (1.5 if third else 1.0)
        run = cnnprof.compare_calls({**calls, **third}, time_s=time_s, seed=seed)
        found = next(each for each in run.comparisons if each.name != "third").latency
        flip = variant == "reversed"
        bounds = found.ci95 and (tuple(1 / end for end in reversed(found.ci95)) if flip else found.ci95)
        results.append(
            {
                "pair": pair,
                "variant": variant,
                "ratio": found.ratio and (1 / found.ratio if flip else found.ratio),
                "ci95": bounds,
                "verdict": {"faster": "slower", "slower": "faster"}.get(found.verdict, found.verdict)
                if flip
                else found.verdict,
            }
            | (
                {
                    "torch": with_torch(second) / with_torch(first),
                    "pytest": with_pytest_benchmark(second) / with_pytest_benchmark(first),
                }
                if peers
                else {}
            )
        )
    return results


def with_torch(call: Call) -> float:
    """Median of torch.utils.benchmark's blocked_autorange."""
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=PAIR_S / 2).median)


def with_pytest_benchmark(call: Call) -> float:
    """Mean of pytest-benchmark's fixture, which its compare rule `mean:5%` looks at."""
    from pytest_benchmark.fixture import BenchmarkFixture
    from pytest_benchmark.utils import NameWrapper

    quiet = SimpleNamespace(debug=lambda *_, **__: None, warning=lambda *_, **__: None)
    node = SimpleNamespace(name="call", nodeid="call")
    benchmark = BenchmarkFixture(
        node, False, NameWrapper(time.perf_counter), 5, 0.000005, PAIR_S / 2, None, None, False, 100000, 10,
        lambda _: None, quiet, lambda *_, **__: None, False, None, None, None,
    )  # fmt: skip
    benchmark._raw(call)
    return float(benchmark.stats.stats.mean)


# The study -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """Keep so many processors busy within the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    for place, loop in enumerate(loops):
        with contextlib.suppress(AttributeError, OSError):  # not on this system: they find their own
            os.sched_setaffinity(loop.pid, {place % (os.cpu_count() or 1)})
    time.sleep(0.5)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def study(trials: int, quiet: bool = False) -> list[dict[str, object]]:
    """Run every condition in turn, so that none has the machine's good hour; with `quiet`, ours on a quiet machine."""
    cores = os.cpu_count() or 1
    results = []
    for seed in range(trials):
        for threads in dict.fromkeys((1, cores)):
            for load in (0,) if quiet else (0, cores):
                with busy(load):
                    command = [sys.executable, __file__, "trial", str(threads), str(seed), *["alone"] * quiet]
                    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found = [{"threads": threads, "load": load, **each} for each in json.loads(said)]
                results += found
                print(seed, threads, load, [each["verdict"] for each in found], file=sys.stderr, flush=True)
    return results


# What it shows -------------------------------------------------------------------------------------------------------


PEERS = {"torch": "torch.utils.benchmark", "pytest": "pytest-benchmark"}


def table(results: list[dict]) -> str:
    """Lay the study out for bench/README."""
    tools = ["cnnprof", *(name for key, name in PEERS.items() if key in results[0])]
    columns = f"| | threads | machine | {' | '.join(tools)} |\n|---|---:|---|{'---|' * len(tools)}"
    rows = []
    for threads in sorted({each["threads"] for each in results}):
        for load in sorted({each["load"] for each in results}):
            here = [each for each in results if (each["threads"], each["load"]) == (threads, load)]
            where = f"{threads} | {'busy' if load else 'quiet'}"
            rows += [f"| {what} | {where} | {' | '.join(cells)} |" for what, cells in lines(here, results, threads)]
    return "\n".join([columns, *rows])


def lines(here: list[dict], results: list[dict], threads: int):
    """Say of each kind of pair what each tool made of it, in the words of the columns."""
    peers = [tool for tool in PEERS if tool in here[0]]
    same = [each for each in here if each["pair"] == "identical"]
    said = Counter(each["verdict"] for each in same)
    different = said["faster"] + said["slower"]
    yield (
        "identical calls",
        (
            f"equal in {said['equal']} of {len(same)}, different in {different}",
            *(alarm([each[tool] for each in same], LIMITS[tool]) for tool in peers),
        ),
    )
    more = [each for each in here if each["pair"] == "3 % more"]
    seen = sum(each["verdict"] == "slower" for each in more)
    yield (
        "3 % more work",
        (
            f"seen in {seen} of {len(more)}",
            *(near([each[tool] for each in more], TRUTH_3, 0.015) for tool in peers),
        ),
    )
    for pair in UNLIKE:
        quiet = [each for each in results if (each["pair"], each["threads"], each["load"]) == (pair, threads, 0)]
        references = {tool: typical(each[tool] for each in quiet) for tool in ("ratio", *peers)}
        reference = references["ratio"]
        found = [each for each in here if each["pair"] == pair]
        claimed = [each["ci95"] for each in found if each["verdict"] != "inconclusive"]
        holding = sum(low <= reference <= high for low, high in claimed)
        widths = sorted(math.sqrt(high / low) - 1 for low, high in claimed)
        width = f", +-{100 * widths[len(widths) // 2]:.0f} %" if widths else ""
        yield (
            f"{pair}: {units.factor(max(reference, 1 / reference))}",
            (
                f"{holding} of {len(claimed)} claims hold{width}; {len(found) - len(claimed)} inconclusive",
                *(near([each[tool] for each in found], references[tool], 0.1) for tool in peers),
            ),
        )


def held(results: list[dict]) -> tuple[int, int]:
    """Count the quiet claims on unlike pairs that contain the median of their quiet trials, and all of them."""
    hits = claims = 0
    for pair in UNLIKE:
        for threads in {each["threads"] for each in results}:
            quiet = [each for each in results if (each["pair"], each["threads"], each["load"]) == (pair, threads, 0)]
            reference = typical(each["ratio"] for each in quiet)
            bounds = [each["ci95"] for each in quiet if each["verdict"] != "inconclusive"]
            hits += sum(low <= reference <= high for low, high in bounds)
            claims += len(bounds)
    return hits, claims


LIMITS = {"torch": 0.03, "pytest": 0.05}
"""Further apart than this is a false alarm: what we ask of others, and the rule that pytest-benchmark's users set."""


def typical(ratios: Iterable[float | None]) -> float:
    """Return the median of the logs of those that are known, as a ratio."""
    return math.exp(statistics.median(math.log(ratio) for ratio in ratios if ratio))


def alarm(ratios: list[float], limit: float) -> str:
    """Count false alarms, and the spread of the ratio."""
    alarms = sum(abs(math.log(ratio)) > limit for ratio in ratios)
    spread = statistics.stdev(math.log(ratio) for ratio in ratios) if len(ratios) > 1 else 0.0
    return f"over {100 * limit:.0f} % apart in {alarms} of {len(ratios)}; sd {100 * spread:.1f} %"


def near(ratios: list[float], truth: float, limit: float) -> str:
    """Count the ratios that come near the truth."""
    hits = sum(abs(math.log(ratio / truth)) <= limit for ratio in ratios)
    return f"within {100 * limit:g} % in {hits} of {len(ratios)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["trial"]:
        print(json.dumps(trial(int(sys.argv[2]), int(sys.argv[3]), peers="alone" not in sys.argv)))
    else:
        trials = int(sys.argv[1]) if len(sys.argv) > 1 else 20
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        results = study(trials, "quiet" in sys.argv)
        said = {"trials": trials, "date": date, "resemblance": cnnprof.statistics.RESEMBLANCE, "results": results}
        print(json.dumps(said))
