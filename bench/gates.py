"""Do gates hold? Many of one network against its own revision: unchanged, quiet and busy, 10 % slower, a channel wider.

    python bench/gates.py > bench/gates.json

An hour and a quarter on a machine left alone: each gate measures for 10 s, and once more where that does not
settle it. What is busy runs an endless loop beside it, or one a core. The slow network busies itself for a tenth of
each forward pass, so that its counts stay.
"""

import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil

from cnnprof import machine

NETWORK = """
import time
from torch import nn
from torchvision.models import resnet18

WIDTH, SLOWER = 64, 0.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = resnet18(num_classes=10)
        self.net.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.net.bn1 = nn.BatchNorm2d(WIDTH)
        self.net.layer1[0].conv1 = nn.Conv2d(WIDTH, 64, 3, 1, 1, bias=False)
        if WIDTH != 64:
            self.net.layer1[0].downsample = nn.Conv2d(WIDTH, 64, 1)

    def forward(self, x):
        started = time.perf_counter()
        x = self.net(x)
        ends = time.perf_counter() + SLOWER * (time.perf_counter() - started)
        while time.perf_counter() < ends:
            pass
        return x
"""
SLOWER = NETWORK.replace("SLOWER = 64, 0.0", "SLOWER = 64, 0.1")
WIDER = NETWORK.replace("WIDTH, SLOWER = 64,", "WIDTH, SLOWER = 65,")
CORES = psutil.cpu_count() or 1
CONDITIONS = {
    "unchanged": (NETWORK, 0, 50),
    "10 % slower": (SLOWER, 0, 20),
    "one channel more": (WIDER, 0, 10),
    "unchanged, one loop beside": (NETWORK, 1, 25),
    "unchanged, a loop a core beside": (NETWORK, CORES, 25),
}
"""The network, how many loops run beside the gate, and how many gates."""
GATE = ["gate", "net.py:Net", "--input-size", "3x64x64", "--against", "HEAD", "--json"]
LIMITS = ["--fail-on", "params:0%", "--fail-on", "macs:0%", "--fail-on", "peak_bytes:2%", "--fail-on", "latency:5%"]


@contextmanager
def loops(number: int) -> Iterator[None]:
    """Keep processors busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@contextmanager
def repository() -> Iterator[Path]:
    """Make a repository with the network."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.py").write_text(NETWORK, encoding="utf-8")
        for command in ("init -q", "add net.py", "-c user.email=a@b.c -c user.name=a commit -q -m net"):
            subprocess.run(["git", *command.split()], cwd=folder, check=True)
        yield Path(folder)


def gated(folder: Path, network: str, beside: int) -> dict:
    """Run one gate."""
    (folder / "net.py").write_text(network, encoding="utf-8")
    started = time.perf_counter()
    with loops(beside):
        done = subprocess.run(
            [sys.executable, "-m", "cnnprof", *GATE, *LIMITS], cwd=folder, capture_output=True, text=True
        )
    took_s = time.perf_counter() - started
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(done.stderr)
    document = json.loads(done.stdout)
    results = {
        each["metric"]: {name: each[name] for name in ("verdict", "change", "ci95", "layer")}
        for each in document["results"]
    }
    times = document["times"][0]
    starts = [(start, side) for side in ("baseline", "candidate") for each in times[side]["starts_s"] for start in each]
    order = [side for _, side in sorted(starts)]
    turns = sum(one != other for one, other in pairwise(order))
    listed = subprocess.run(["git", "worktree", "list"], cwd=folder, capture_output=True, text=True).stdout
    return {
        "exit_code": done.returncode,
        "took_s": took_s,
        "results": results,
        "bursts": len(order),
        "turns": turns,
        "measured": len(document["times"]),
        "worktrees_left": len(listed.splitlines()) - 1,
    }


def table(study: dict) -> str:
    """Lay the study out."""
    lines = [
        "| | gates | time: passed | failed | inconclusive | counts: failed | interval | turns a round | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, gates in study["gates"].items():
        times = [gate["results"]["latency"] for gate in gates]
        verdicts = Counter(each["verdict"] for each in times)
        widths = [each["ci95"][1] - each["ci95"][0] for each in times if each["ci95"]]
        cells = [
            *(verdicts[each] for each in ("passed", "failed", "inconclusive")),
            sum(gate["results"]["params"]["verdict"] == "failed" for gate in gates),
            f"+-{50 * median(widths):.1f} %" if widths else "-",
            f"{median(2 * gate['turns'] / gate['bursts'] for gate in gates):.1f}",
            f"{median(gate['took_s'] for gate in gates):.0f}",
        ]
        lines.append(f"| {name} | {len(gates)} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Run every condition, those of a quiet machine in turn, and print the study as JSON."""
    gates: dict[str, list[dict]] = {name: [] for name in CONDITIONS}
    turns = [(bool(beside), turn, name) for name, (_, beside, number) in CONDITIONS.items() for turn in range(number)]
    with repository() as folder:
        for _, turn, name in sorted(turns):
            network, beside, _ = CONDITIONS[name]
            gates[name].append(gated(folder, network, beside))
            print(turn, name, gates[name][-1], file=sys.stderr, flush=True)
    here = machine.describe()
    date = str(datetime.datetime.now(datetime.UTC).date())
    study = {"date": date, "cpu": here.cpu, "threads": here.threads, "torch": here.torch, "gates": gates}
    json.dump(study, sys.stdout, indent=1)
    print(table(study), file=sys.stderr)


if __name__ == "__main__":
    main()
