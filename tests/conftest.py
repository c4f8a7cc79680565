"""What several test files share: a clock that only moves when told, and records of known values."""

import os
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # what a test takes depends on what else runs
settings.load_profile("untimed")
for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):  # of the terminal that pytest was started in
    os.environ.pop(name, None)


@dataclass
class FakeClock:
    """Time that passes only where a test lets it: by `spend`, wall time, on so many of the threads."""

    wall: float = 0.0
    cpu: float = 0.0
    waited: float = 0.0
    threads: int = 2
    share: float = 1.0
    """What the process gets of the processors it could use."""
    calls: list[str] = field(default_factory=list)

    def spend(self, seconds: float, name: str = "") -> None:
        self.wall += seconds
        self.cpu += seconds * self.threads * self.share
        self.waited += seconds * self.threads * (1 - self.share)
        self.calls.append(name)

    def clock(self):
        from cnnprof.measurement.latency import Clock

        return Clock(
            now=lambda: self.wall, cpu_s=lambda: self.cpu, waited_s=lambda: self.waited, threads=lambda: self.threads
        )

    def instruments(self, allocations: dict[str, tuple[int, ...]] | None = None):
        """Instruments with this clock, and allocator events by the class name of the module that runs."""
        from cnnprof.measurement.operators import Pass
        from cnnprof.profiling import Instruments

        planted = allocations or {}

        def profiled(step, time_s=1.0):
            return Pass({}, planted[type(step.module).__name__], wall_s=0.5)

        return Instruments(self.clock(), profiled)


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def soon_steady(request, monkeypatch):
    """Spend no second on a steady process where a test runs real calls: no test looks at how long they take."""
    from cnnprof.measurement import latency

    if "fake_clock" not in request.fixturenames:
        monkeypatch.setattr(latency, "STEADY_S", 0.0)
        monkeypatch.setattr(latency, "STEADY_ALONE_S", 0.0)
        monkeypatch.setattr(latency, "STEADY_BLOCK_S", 0.005)


@pytest.fixture
def one_thread():
    """Compute on one thread: the memory of two adds up only where both run at once, which a busy machine decides."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def typed(monkeypatch, tmp_path, capsys):
    """Run the command line in an empty folder; gives exit code, standard output and standard error."""
    from cnnprof import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cnnprof", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run
