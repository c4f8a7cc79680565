"""What bench/README shows is what a run of pytest-benchmark saved. Nothing is measured here."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def readme(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("readme")


def benchmark(suite, group, what, median, iqr=0.0, rounds=5, **extra_info):
    stats = {"median": median, "iqr": iqr, "rounds": rounds, "total": median * rounds}
    name = f"test_{suite}.py::test_{suite}[{group}-{what}]"
    return {"fullname": name, "group": group, "params": {"what": what}, "stats": stats, "extra_info": extra_info}


def cells(text, first):
    """The cells of the only line of a table that begins so, as they are shown."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip().removeprefix("\\") for cell in line.strip("|").split("|")]


def test_medians_stand_side_by_side_with_ratios_to_the_first_column(readme):
    found = [
        benchmark("counting", "resnet50", "bare", 0.040),
        benchmark("counting", "resnet50", "cnnprof", 0.010),
        benchmark("counting", "alexnet", "cnnprof", 0.002),
    ]
    text = readme.side_by_side(found)
    assert cells(text, "resnet50") == ["resnet50", "40.0 ms", "10.0 ms (0.25x)"]
    assert cells(text, "alexnet") == ["alexnet", "-", "2.00 ms"]


def test_the_least_steady_benchmark_is_what_is_told_of_the_spread(readme):
    found = [benchmark("counting", "a", "b", 0.2, iqr=0.002), benchmark("counting", "a", "c", 2.0, iqr=0.5, rounds=12)]
    assert readme.spread(found) == "Medians of 5 to 12 rounds; the middle half of them spans 25 % at most."


def test_networks_stand_with_their_counts_and_each_mode(readme):
    found = [
        benchmark("networks", "cnn", mode, median, params=1234, macs=2.5e6, peak_bytes=peak, reference_ratio=ratio)
        for mode, median, peak, ratio in (("inference", 0.002, 3 << 20, 2.5), ("training", 0.006, 5 << 20, 7.0))
    ]
    told = ["cnn", "1,234", "2.50 M", "2.00 ms", "3.00 MiB", "2.5", "6.00 ms", "5.00 MiB", "7"]
    assert cells(readme.networks(found), "cnn") == told


def test_what_timing_costs_is_the_time_outside_the_calls(readme):
    told = {"asked_s": 1.5, "said_s": 0.001}
    # four rounds of 2.5 s, of which the calls took 9 of the 10 seconds
    known = benchmark("times", "calls", "ours", 2.5, rounds=4, in_calls_s=9.0, **told)
    empty = benchmark("times", "empty", "ours", 2.5, rounds=4, in_calls_s=None, **told)
    text = readme.costs([known, empty])
    assert cells(text, "calls")[2:] == ["1.50 s", "2.50 s", "10.0 %", "1.00 ms"]
    assert cells(text, "empty")[4] == "-"


def test_predicted_peaks_are_off_by_their_share_of_the_measured_one(readme):
    mebi = 2**20
    peaks = {
        "predicted again": {"inference": 100 * mebi, "training": 202 * mebi},
        "MemTracker": {"inference": 90 * mebi, "training": 200 * mebi},
        "the steps themselves": {"inference": 100 * mebi, "training": 200 * mebi},
    }
    text = readme.peaks([benchmark("memory", "vgg11", what, 1.0, **found) for what, found in peaks.items()])
    assert cells(text, "vgg11") == ["vgg11", "100.0 MiB", "0 %", "-10.0 %", "200.0 MiB", "+1.0 %", "0 %"]


def gate(verdict, low=0.0, high=0.06, **more):
    latency = {"verdict": verdict, "ci95": None if verdict == "inconclusive" else [low, high]}
    results = {"latency": latency, "params": {"verdict": "passed"}}
    return {"results": results, "turns": 60, "bursts": 80, "took_s": 20.0, "worktrees_left": 0, **more}


GATES = {"unchanged": [gate("passed"), gate("passed", high=0.02), gate("inconclusive", worktrees_left=2)]}


def test_a_study_of_gates_counts_verdicts_and_turns(readme):
    text = importlib.import_module("gates").table({"gates": GATES})
    assert cells(text, "unchanged") == ["unchanged", "3", "2", "0", "1", "0", "+-2.0 %", "1.5", "20"]


def test_every_suite_is_found():
    arguments = ["-q", "-c", str(BENCH / "pytest.ini"), str(BENCH), "--collect-only", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    found = {Path(line.partition("::")[0]).name for line in done.stdout.splitlines() if "::" in line}
    assert found == {path.name for path in BENCH.glob("test_*.py")}


def test_a_page_says_when_and_where_it_was_measured_and_leaves_out_what_was_not_run(readme):
    run = {
        "machine_info": {
            "cpu": "A Processor", "logical_cores": 2, "memory_bytes": 2**34, "os": "Linux 1", "python": "3.11.7",
            "torch": "2.14.1", "fvcore": "0.1.5",
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "benchmarks": [benchmark("counting", "resnet50", "bare", 0.040)],
        "datetime": "2026-01-02T03:04:05+00:00",
        "version": "5.3.1",
    }  # fmt: skip
    study = json.loads((BENCH / "honesty_quiet.json").read_text(encoding="utf-8"))
    text = readme.page(run, study, study, {"date": "2026-01-03", "threads": 2, "torch": "2.14.1", "gates": GATES})
    assert "2026-01-02, commit 0123456789ab with changes: A Processor, 2 cores, 16.0 GiB, Linux 1, " in text
    assert "## Counting" in text
    assert "## Memory" not in text
    assert "Worktrees that were left behind: 2." in text
