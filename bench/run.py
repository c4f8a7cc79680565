"""Writes bench/README.md: whole commands, each beside its floor; counting and timing beside their peers.

The study of timing takes the better part of an hour: `make honesty` runs it, and here its saved results are shown.
Commands of a pair run in turn, A B A B, after one warm-up of each; the ratio is taken pair by pair.
"""

import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import honesty

from cnnprof import machine, units

HERE = Path(__file__).parent
PYTHON = sys.executable
CNNPROF = str(Path(PYTHON).with_name("cnnprof"))

PAIRS = {
    "cnnprof --help": ([CNNPROF, "--help"], [PYTHON, "-c", "pass"], 9),
    "cnnprof models": ([CNNPROF, "models"], [PYTHON, "-c", "pass"], 9),
    "cnnprof analyze resnet50": ([CNNPROF, "analyze", "resnet50"], [PYTHON, "-c", "import torch, torchvision"], 9),
    "cnnprof compare regular bottleneck": (
        [CNNPROF, "compare", "regular", "bottleneck"],
        [PYTHON, "-c", "import torch"],
        3,
    ),
}
FLOORS = {"pass": "python -c pass", "import torch": "import torch", "import torch, torchvision": "the two imports"}


def seconds(command: list[str], folder: str) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def row(name: str, command: list[str], floor: list[str], runs: int) -> str:
    """One line of the table: median and range of both, and of their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(seconds(command, folder), seconds(floor, folder)) for _ in range(runs + 1)][1:]
    own, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    print(f"{name}: {own:.2f} s, floor {bare:.2f} s", flush=True)
    spread = f"{min(a for a, _ in pairs):.2f} to {max(a for a, _ in pairs):.2f}"
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| `{name}` | {own:.2f} | {spread} | `{FLOORS[floor[-1]]}` {bare:.2f} | {ratio} | {runs} |"


def printed(script: str) -> str:
    """Run another script of this folder."""
    said = subprocess.run([PYTHON, str(HERE / script)], check=True, capture_output=True, text=True).stdout.strip()
    print(said, flush=True)
    return said


HONESTY = """## Do the verdicts hold?

Pairs of calls whose truth is known, each tool on the same callables in the same {trials} fresh processes a condition
({date}), in the usual order, reversed, beside a third candidate and after a larger batch in turn; 1.5 s a pair. Busy:
one endless loop on each core. A claim holds if its interval contains the median of the quiet trials.
torch.utils.benchmark (blocked_autorange, medians) and pytest-benchmark (means, rule `mean:5%`) give no intervals of a
ratio: theirs is held against the median of their own quiet trials. A busy machine is told by the time that threads wait
for a processor, and nothing is claimed there: a process that shares its core meets cold caches, and even its CPU time
is another (a memory-bound call took 2.4 times as much).

"""

QUIET = """Of the claims on unlike pairs above, {held} of {claims} hold: their intervals took the sessions of a run to
resemble each other by {before}; since that study it is {now} (`statistics.RESEMBLANCE`), which makes them 1.4 times as
wide. {note} Again, in {trials} new processes on a quiet machine ({date}), without the peers:

"""

LAYERS = """## Time by layer, and roofs

The forward pass and the training step: the median latency, and what is left of it when the times of all layers, which
are medians of profiled passes, are taken off. The layer that comes nearest to its roof, or exceeds it, is named.

"""


MEMORY = """## Memory

The allocator's peak of a forward pass and of a training step with AdamW at batch 8 on the CPU, predicted on shapes and
measured; both columns of seconds are for the two modes together, the first with what kernels take tried where it was
not known yet.

"""

TRAINING = """## Training

Images a second of `ClassifierTrainer.train_epoch` and of a bare loop of the same network (zero_grad, forward, loss,
backward, step; no accuracy) at 3x32x32 and batch 64 with SGD, on one thread: the two in turn, in random order, in five
sessions of five rounds. One linear layer is the worst case: its step is so short that every call beside it shows.

"""


def again(study: dict) -> str:
    """Show the later, quiet study, and what became of the first."""
    later = json.loads((HERE / "honesty_quiet.json").read_text(encoding="utf-8"))
    held, claims = honesty.held(study["results"])
    said = QUIET.format(
        held=held,
        claims=claims,
        before=study["resemblance"],
        now=later["resemblance"],
        note=study.get("note", ""),
        trials=later["trials"],
        date=later["date"],
    )
    held, claims = honesty.held(later["results"])
    return f"{said}{honesty.table(later['results'])}\n\n{held} of {claims} claims on unlike pairs hold."


def main() -> None:
    """Time every pair and write the table."""
    here = machine.describe()
    scripts = ("counting.py", "layers.py", "memory.py", "training.py")
    counted, layers, needed, trained = map(printed, scripts)
    study = json.loads((HERE / "honesty.json").read_text(encoding="utf-8"))
    rows = [row(name, *pair) for name, pair in PAIRS.items()]
    table = "\n".join(
        [
            "| command | median, s | range, s | floor, s | ratio, median (range) | runs |",
            "|---|---:|---:|---|---:|---:|",
            *rows,
        ]
    )
    text = (
        "# Figures\n\nWritten by `make bench`.\n\n"
        "## Commands\n\nWall time of whole processes, each in turn with its floor.\n\n"
        f"{table}\n\n"
        "## Counting\n\nMilliseconds of one count at 1x3x224x224, from the caller's real module, in one process on one "
        "thread. In each of 15 turns every counter runs once; medians, and in brackets that of the ratio to the bare "
        "pass.\n\n"
        f"{counted}\n\n"
        f"{HONESTY.format(trials=study['trials'], date=study['date'])}{honesty.table(study['results'])}\n\n"
        f"{again(study)}\n\n"
        f"{LAYERS}{layers}\n\n"
        f"{MEMORY}{needed}\n\n"
        f"{TRAINING}{trained}\n\n"
        f"{here.cpu}, {units.plural(here.logical_cores or 0, 'core')}, {here.os}, Python {here.python}, "
        f"torch {here.torch}, {datetime.datetime.now(datetime.UTC).date()}.\n"
    )
    (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
