"""Runs a student's file in a process of its own, under a limit of time, and puts its checks together. No torch."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from cnnprof import origin, units
from cnnprof.errors import UsageError
from cnnprof.records import Check, Verification

KINDS = ("CNN", "ResidualBlock", "ResidualBottleneckBlock", "ResNet", "ArgMaxClassifier")
OLD_STREAM = Check(
    "the course's dropout outputs",
    "skipped",
    None,
    "four of the course's own seven expected tensors (those of the networks with dropout) depend on an old dropout "
    "stream that no current PyTorch draws: a correct network cannot match them",
)


def verify(path: str | Path, timeout_s: float = 120.0) -> Verification:
    """Check a student's own CNN, blocks, ResNet and classifier against the course's numbers and cnnprof's builders.

    The file is imported, as pytest would: its code runs, in a process of its own that has `timeout_s` seconds. Of each
    class that differs, the checks name the rule of the course that is probably broken. Where time was not enough, the
    record's `failure` says for what: it is inconclusive. Raises UsageError for a file that is none, raises on import or
    does not return from it, or has none of the classes.
    """
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        what = "is a folder" if file.is_dir() else "is no Python file" if file.exists() else "does not exist"
        raise UsageError(f"{path} {what}: verify takes one .py file with {', '.join(KINDS)}")
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise UsageError(f"timeout {timeout_s!r}: seconds above 0 were expected")
    ends = time.monotonic() + timeout_s
    answer = _run(file, KINDS, timeout_s)
    if answer.out_of_time and not answer.importing:
        return _record(file, _skipped(KINDS, NO_TIME), f"cnnprof's own start {answer.stopped}")
    found = left = answer.found(path)
    checks = list(answer.checks)
    while left and answer.stopped is not None and not answer.out_of_time:
        doing = answer.doing or left[0]
        checks.append(Check(doing, "failed", None, f"its process {answer.stopped}"))
        left = left[left.index(doing) + 1 :]
        answer = _run(file, left, ends - time.monotonic())
        checks += answer.checks
    if answer["unusable"]:
        checks += (Check(kind, "failed", None, answer["unusable"]) for kind in left)
    failure = None
    if answer.out_of_time:
        doing = answer.doing or left[0]
        checks += answer.early or [Check(doing, "skipped", None, f"it {answer.stopped}")]
        checks += _skipped(left[left.index(doing) + 1 :], NO_TIME)
        failure = f"the search for what {doing} breaks" if answer.early else doing
        failure += f" {answer.stopped}"
    checks += _skipped([kind for kind in KINDS if kind not in found], "the file has none")
    if set(found) & {"ResidualBlock", "ResidualBottleneckBlock", "ResNet"}:
        checks.append(OLD_STREAM)
    return _record(file, checks, failure)


NO_TIME = "no time was left to look at it"


def _skipped(kinds: Sequence[str], why: str) -> list[Check]:
    return [Check(kind, "skipped", None, why) for kind in kinds]


def _record(file: Path, checks: Sequence[Check], failure: str | None) -> Verification:
    return Verification(origin.command(), origin.now(), file.name, version("torch"), tuple(checks), failure)


@dataclass(frozen=True)
class _Answer:
    """What a process told, and how it ended."""

    lines: Sequence[dict[str, Any]]
    stopped: str | None
    """Why it ended before it was through."""
    out_of_time: bool

    def __getitem__(self, key: str) -> Any:
        return next((line[key] for line in reversed(self.lines) if key in line), None)

    @property
    def checks(self) -> list[Check]:
        return [Check(**line["check"]) for line in self.lines if "check" in line]

    @property
    def doing(self) -> str | None:
        """The class that was looked at when it ended; None when it was through."""
        doing: str | None = self["doing"]
        return doing

    @property
    def early(self) -> list[Check]:
        """The checks of that class as they were before the search for the broken rule, which did not end."""
        since = list(takewhile(lambda line: "doing" not in line, reversed(self.lines)))
        ended = any("check" in line for line in since)
        return [] if ended else [Check(**check) for line in since for check in line.get("early", ())]

    @property
    def importing(self) -> bool:
        """Say whether it reached the import of the file."""
        return self["importing"] is not None

    def found(self, path: str | Path) -> list[str]:
        """Return the classes that the file has. Raises UsageError where it cannot be imported, or has none."""
        if self["unusable"]:
            raise UsageError(f"{path}: {self['unusable']}")
        found: list[str] | None = self["found"]
        if found is None:
            guard = "; keep what trains or runs under if __name__ == '__main__':"
            raise UsageError(f"{path}: importing it {self.stopped}{guard}")
        if not found:
            classes = ", ".join(self["classes"]) or "no class at all"
            raise UsageError(f"{path} has none of {', '.join(KINDS)}; it has {classes}")
        return found


def _run(file: Path, kinds: Sequence[str], timeout_s: float) -> _Answer:
    """Have a process of its own look at classes; nothing that it started outlives this call."""
    command = [sys.executable, "-P", "-c", "from cnnprof.verification.student import tell; tell()"]
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "MPLBACKEND": "agg"}  # so that no window waits
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers"
        answers.touch()
        job = {"file": str(file.resolve()), "kinds": kinds, "answers": str(answers), "timeout_s": timeout_s + 5}
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,
        )
        out_of_time, stopped = False, None
        try:
            process.communicate(json.dumps(job), timeout=max(timeout_s, 0.0))
            stopped = f"ended with exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            out_of_time, stopped = True, f"did not return within {units.seconds(timeout_s)} (--timeout)"
        finally:
            _end(process)
        told = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines(True) if line[-1] == "\n"]
    through = any("unusable" in line or line.get("doing", "") is None for line in told)
    return _Answer(told, None if through else stopped, out_of_time)


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a process, its group and what it started elsewhere."""
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        started = psutil.Process(process.pid).children(recursive=True) if process.returncode is None else []
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with suppress(psutil.Error):
            child.kill()
    process.wait()
