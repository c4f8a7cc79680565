"""A model's call in the rounds of a benchmark: sessions that build it anew, each beside a fixed piece of work.

Rounds of one network share its place in memory, and its moment; so they are cut into sessions here as well, for a later
run to be compared with by the same rules.
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from cnnprof import footprint, machine, profiling, steps, timing
from cnnprof.errors import UsageError
from cnnprof.measurement import latency
from cnnprof.records import Benchmark, ByMode, Candidate, Latency, Reference, Settings
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import Loss, Subject, of_run

SESSIONS = latency.SESSIONS_WANTED


@deep_recursion()
def benchmarked(
    fixture: Any,
    subject: Subject,
    settings: Settings,
    loss: Loss | str | None,
    seconds: float,
    least_rounds: int,
    clock: latency.Clock | None = None,
) -> Benchmark | None:
    """Let pytest-benchmark's fixture time a model for so many seconds; None where it is disabled: one call is made.

    `settings` has one mode. Raises UsageError for a training step of what has nothing to train.
    """
    (mode,) = settings.modes
    if mode == "training" and not subject.trainable:
        raise UsageError(f'{subject.name} has no parameters that a training step would train; give mode="inference"')
    own = settings.of(subject.own)
    with timing.surroundings(own):
        make = partial(timing.Workbench([subject], settings, loss).step, subject, mode)
        if fixture.disabled:
            fixture.pedantic(make().run)
            return None
        analysis = profiling.analyzed(subject)  # before its rounds: what cannot be counted is not timed in vain
        sessions = _Sessions(make, own, clock or latency.Clock())
        times = sessions.run(fixture, seconds, least_rounds)
        here = machine.describe(own.device, own.allocator)
    found = Candidate(
        name=subject.name,
        analysis=replace(analysis, working=(), structure=None),
        latency=ByMode(**{mode: times}),
        memory=footprint.predicted_peaks(subject, own, [mode], loss),
        batch_size=analysis.batch_size if subject.own_inputs else own.batch_size,
        settings=subject.own,
        model=subject.model,
        dtype=steps.type_name(subject.module, own),
    )
    return Benchmark(found, mode, of_run(own, [subject]), here, Reference(REFERENCE, tuple(sessions.reference_s)))


@dataclass
class _Sessions:
    """What rounds share: the step of their session, and the account of the processors that it got."""

    make: Callable[[], steps.Step]
    settings: Settings
    clock: latency.Clock
    step: steps.Step | None = None
    round: int = 0
    length: int = 0
    """Rounds of a session."""
    reference_s: list[float] = field(default_factory=list)
    accounts: list["_Account"] = field(default_factory=list)
    """At the beginning and at the end of each session, in turn."""

    def run(self, fixture: Any, seconds: float, least_rounds: int) -> Latency:
        """Have the rounds timed, session by session."""
        self.order, self.reference = random.Random(self.settings.seed), _reference(self.settings.device)
        once_s = self._build(steady=True)
        self.length = math.ceil(max(least_rounds, seconds / once_s) / SESSIONS)
        rounds = SESSIONS * self.length
        fixture.pedantic(self._call, setup=self._before_round, rounds=rounds)
        if self.round == rounds:
            self._end()
        self.reference_s.append(self._reference_s())
        times = fixture.stats.stats.data
        sessions = [times[start : start + self.length] for start in range(0, rounds, self.length)]
        spent = list(zip(self.accounts[::2], self.accounts[1::2], strict=True))
        on_cuda = torch.device(self.settings.device).type == "cuda"
        threads = 1 if on_cuda else self.clock.threads()
        return Latency(
            sessions=tuple((statistics.median(session),) for session in sessions),
            cpu_shares=tuple(_cpu_share(*each) / threads for each in spent),
            waited_shares=tuple(_waited_share(*each) for each in spent),
            calls=(self.length,) * len(sessions),
            stretches_s=tuple(map(_stretches, sessions)),
        )

    def _call(self) -> None:
        assert self.step is not None
        self.step.run()
        self.step.wait()

    def _before_round(self) -> None:
        rounds = SESSIONS * self.length
        if self.round % self.length == 0 and self.round <= rounds:
            if self.round:
                self._end()
            if self.round < rounds:  # --benchmark-cprofile asks for more
                self._begin()
        self.round += 1

    def _begin(self) -> None:
        self.reference_s.append(self._reference_s())
        self.held = latency.ballast(self.order)
        if not self.settings.compile:
            self._build(steady=False)
        self.accounts.append(self._account())

    def _end(self) -> None:
        self.accounts.append(self._account())

    def _build(self, steady: bool) -> float:
        """Make the step anew, and call it until it gets no faster; return the seconds of the fastest call."""
        self.step = None
        self.step = self.make()
        return latency.warm_up(self._call, self.clock, latency.wall_timer(self.clock), steady)

    def _reference_s(self) -> float:
        timer = latency.wall_timer(self.clock)
        timer(self.reference, _DROPPED, 1)
        return statistics.median(timer(self.reference, _KEPT, 1))

    def _account(self) -> "_Account":
        return _Account(self.clock.now(), self.clock.cpu_s(), self.clock.waited_s())


STRETCHES = 9
"""Of a session's rounds so many medians are kept: whether they grow shows, and a stored run stays small."""


def _stretches(times: Sequence[float]) -> tuple[float, ...]:
    number = min(STRETCHES, len(times))
    edges = [len(times) * place // number for place in range(number + 1)]
    return tuple(statistics.median(times[start:end]) for start, end in pairwise(edges))


@dataclass(frozen=True)
class _Account:
    """Seconds that have passed, that threads ran, and that they waited for a processor where that is told."""

    wall_s: float
    cpu_s: float
    waited_s: float | None


def _cpu_share(begin: _Account, end: _Account) -> float:
    return (end.cpu_s - begin.cpu_s) / (end.wall_s - begin.wall_s)


def _waited_share(begin: _Account, end: _Account) -> float | None:
    if begin.waited_s is None or end.waited_s is None:
        return None
    waited = max(0.0, end.waited_s - begin.waited_s)  # a thread that ended takes its account along
    running = end.cpu_s - begin.cpu_s + waited
    return waited / running if running else None


# The reference -------------------------------------------------------------------------------------------------------

REFERENCE = "convolution 3x3, 64 to 64 channels, 56x56, float32/1"
"""Its definition never changes: another piece of work takes another number."""
_DROPPED, _KEPT = 3, 9
"""Calls before a session that are not timed, and that are."""


def _reference(device: str) -> latency.Call:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 64, 56, 56, generator=generator).to(device)
    filters = torch.rand(64, 64, 3, 3, generator=generator).to(device)

    def convolution() -> None:
        with torch.inference_mode():
            F.conv2d(image, filters, padding=1)
        if image.is_cuda:
            torch.cuda.synchronize(device)

    return convolution
