"""Whole commands, each a process of its own beside its floor: what Python, or its imports, take without us."""

import subprocess
import sys
from pathlib import Path

import pytest

CNNPROF = Path(sys.executable).with_name("cnnprof")
COMMANDS = {
    "cnnprof --help": ("pass", 9),
    "cnnprof models": ("pass", 9),
    "cnnprof analyze resnet50": ("import torch, torchvision", 5),
    "cnnprof compare regular bottleneck": ("import torch", 2),
}
"""What Python runs as the floor of each, and how often both are run."""


@pytest.mark.parametrize("what", ["floor", "cnnprof"])
@pytest.mark.parametrize(
    "command", [pytest.param(command, marks=pytest.mark.benchmark(group=command)) for command in COMMANDS]
)
def test_command(benchmark, tmp_path, command, what):
    program, rounds = COMMANDS[command]
    words = [sys.executable, "-c", program] if what == "floor" else [CNNPROF, *command.split()[1:]]
    options = {"cwd": tmp_path, "check": True, "capture_output": True}
    benchmark.pedantic(subprocess.run, (words,), options, rounds=rounds, warmup_rounds=rounds > 2)
