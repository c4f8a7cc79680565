"""Do gates hold? Many of one network against its own revision: unchanged, quiet and busy, 10 % slower, a channel wider.

    python bench/gates.py NUMBER > bench/gates.json

An hour for a NUMBER of 50, on a machine left alone: each gate measures for 10 s. Half of the unchanged ones meet an
endless loop on each core. The slow network busies itself for a tenth of each forward pass, so that its counts stay.
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
CONDITIONS = {
    "unchanged, quiet": (NETWORK, False),
    "unchanged, busy": (NETWORK, True),
    "10 % slower": (NETWORK.replace("SLOWER = 64, 0.0", "SLOWER = 64, 0.1"), False),
    "one channel more": (NETWORK.replace("WIDTH, SLOWER = 64,", "WIDTH, SLOWER = 65,"), False),
}
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


def gated(folder: Path, network: str, busy: bool) -> dict:
    """Run one gate."""
    (folder / "net.py").write_text(network, encoding="utf-8")
    started = time.perf_counter()
    with loops(psutil.cpu_count() or 1 if busy else 0):
        done = subprocess.run(
            [sys.executable, "-m", "cnnprof", *GATE, *LIMITS], cwd=folder, capture_output=True, text=True
        )
    took_s = time.perf_counter() - started
    document = json.loads(done.stdout)
    results = {
        each["metric"]: {name: each[name] for name in ("verdict", "change", "ci95", "layer")}
        for each in document["results"]
    }
    times = document["times"][0]
    starts = [(start, side) for side in ("baseline", "candidate") for each in times[side]["starts_s"] for start in each]
    order = [side for _, side in sorted(starts)]
    turns = sum(one != other for one, other in pairwise(order))
    left = (
        len(subprocess.run(["git", "worktree", "list"], cwd=folder, capture_output=True, text=True).stdout.splitlines())
        - 1
    )
    return {
        "exit_code": done.returncode,
        "took_s": took_s,
        "results": results,
        "bursts": len(order),
        "turns": turns,
        "left": left,
    }


def table(study: dict) -> str:
    """Lay the study out."""
    lines = [
        "| | gates | time: passed | failed | inconclusive | counts failed | s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, gates in study["gates"].items():
        verdicts = Counter(gate["results"]["latency"]["verdict"] for gate in gates)
        counts = sum(gate["results"]["params"]["verdict"] == "failed" for gate in gates)
        took = sorted(gate["took_s"] for gate in gates)[len(gates) // 2]
        cells = " | ".join(str(verdicts[each]) for each in ("passed", "failed", "inconclusive"))
        lines.append(f"| {name} | {len(gates)} | {cells} | {counts} | {took:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run every condition in turn and print the study as JSON."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    gates: dict[str, list[dict]] = {name: [] for name in CONDITIONS}
    with repository() as folder:
        for turn in range(number):
            for name, condition in CONDITIONS.items():
                if "unchanged" in name or turn < 20:
                    gates[name].append(gated(folder, *condition))
                    print(turn, name, gates[name][-1], file=sys.stderr, flush=True)
    here = machine.describe()
    date = str(datetime.datetime.now(datetime.UTC).date())
    study = {"date": date, "cpu": here.cpu, "threads": here.threads, "torch": here.torch, "gates": gates}
    json.dump(study, sys.stdout, indent=1)
    print(table(study), file=sys.stderr)


if __name__ == "__main__":
    main()
