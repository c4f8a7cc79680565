"""Seconds of calls that are measured together: interleaved bursts, in sessions. Knows no networks.

Two calls timed one after the other differ by whatever the machine did meanwhile; in short bursts, in random order, both
meet the same. A burst's first call is dropped: it finds the caches full of the other candidate, which makes the smaller
of two blocks 4 to 10 % too slow in strict alternation. What a session shares (its memory layout, the machine's mood) is
drawn anew in the next one.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from cnnprof import machine
from cnnprof.errors import said
from cnnprof.records import Mode

Call = Callable[[], object]

SESSIONS_WANTED = 5
WARM_UP_S = 0.05
"""Calls are dropped for as long at the start of a session: lazy initialisation, clocks rising."""
BURST_S = 0.2
MAX_SAMPLES = 10
"""A burst keeps calls for about BURST_S, and at most so many."""
SAMPLE_S = 1e-4
"""Shorter calls are repeated within a sample: a thousand times the clock's resolution."""


@dataclass(frozen=True)
class Clock:
    """What time is read from; a test puts its own in."""

    now: Callable[[], float] = time.perf_counter
    cpu_s: Callable[[], float] = time.process_time
    waited_s: Callable[[], float | None] = machine.waited_s
    threads: Callable[[], int] = torch.get_num_threads


Timer = Callable[[Call, int, int], list[float]]
"""Takes a call, how many samples, and how many calls a sample; gives seconds a call by sample."""


def wall_timer(clock: Clock) -> Timer:
    """Time calls that have ended when they return."""

    def timed(call: Call, samples: int, repeats: int) -> list[float]:
        times = []
        for _ in range(samples):
            started = clock.now()
            for _ in range(repeats):
                call()
            times.append((clock.now() - started) / repeats)
        return times

    return timed


def cuda_timer(device: str) -> Timer:
    """Time calls that only queue work: events on the device's stream around each sample, one wait a burst."""

    def timed(call: Call, samples: int, repeats: int) -> list[float]:
        marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(samples + 1)]  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(device)
        marks[0].record(stream)
        for mark in marks[1:]:
            for _ in range(repeats):
                call()
            mark.record(stream)
        torch.cuda.synchronize(device)
        return [start.elapsed_time(end) / 1e3 / repeats for start, end in pairwise(marks)]

    return timed


@dataclass(frozen=True)
class Sampled:
    """One candidate in one session."""

    times_s: tuple[float, ...]
    cpu_share: float | None
    waited_share: float | None


@dataclass(frozen=True)
class Session:
    """Every candidate that held out, in every mode, and what the others raised."""

    samples: Mapping[tuple[str, Mode], Sampled]
    failures: Mapping[tuple[str, Mode], str]


@dataclass
class _Account:
    """One candidate's times and processor use, while a session goes on."""

    call: Call
    times: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0
    waited: float | None = 0.0
    estimate: float = math.inf

    def close(self, threads: int) -> Sampled:
        running = self.cpu + (self.waited or 0.0)
        return Sampled(
            tuple(self.times),
            self.cpu / self.wall / threads if self.wall else None,
            self.waited / running if self.waited is not None and running else None,
        )


def sessions(
    candidates: Mapping[Mode, Mapping[str, Callable[[], Call]]],
    *,
    session_s: float,
    seed: int,
    clock: Clock | None = None,
    timer: Timer | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Session]:
    """Yield sessions for as long as they are asked for.

    `candidates` make, by mode, their call and all it needs anew. A session of a mode takes `session_s` seconds, or one
    burst of each candidate where that is longer. A candidate that raises in a mode is left out of it from then on.
    """
    clock = clock or Clock()
    timer = timer or wall_timer(clock)
    order = random.Random(seed)
    failures: dict[tuple[str, Mode], str] = {}
    while any((name, mode) not in failures for mode, names in candidates.items() for name in names):
        samples: dict[tuple[str, Mode], Sampled] = {}
        for mode, makers in candidates.items():
            living = {name: make for name, make in makers.items() if (name, mode) not in failures}
            accounts = _start(living, mode, order, failures)
            started = clock.now()
            while accounts and (not all(a.times for a in accounts.values()) or clock.now() - started < session_s):
                for name in _shuffled(accounts, order):
                    try:
                        _burst(accounts[name], clock, timer)
                    except (Exception, SystemExit) as error:  # noqa: BLE001  # a candidate may raise anything; the others go on
                        failures[name, mode] = said(error)
                        del accounts[name]
                    progress()
            threads = clock.threads()
            samples |= {(name, mode): account.close(threads) for name, account in accounts.items()}
            accounts.clear()
        yield Session(samples, dict(failures))


def _start(
    living: Mapping[str, Callable[[], Call]], mode: Mode, order: random.Random, failures: dict[tuple[str, Mode], str]
) -> dict[str, _Account]:
    """Build every candidate anew, in an order of chance: it decides where their memory lies."""
    accounts: dict[str, _Account] = {}
    for name in _shuffled(living, order):
        try:
            accounts[name] = _Account(living[name]())
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a candidate may raise anything; the others go on
            failures[name, mode] = said(error)
    return accounts


def _shuffled(names: Mapping[str, object], order: random.Random) -> list[str]:
    shuffled = list(names)
    order.shuffle(shuffled)
    return shuffled


def _burst(account: _Account, clock: Clock, timer: Timer) -> None:
    """Drop the first call (calls, at the session's start), then keep as many as the burst has room for."""
    wall, cpu, waited = clock.now(), clock.cpu_s(), clock.waited_s()
    warm_until = wall + (0.0 if account.times else WARM_UP_S)
    while True:
        account.estimate = min(account.estimate, timer(account.call, 1, 1)[0])
        if clock.now() >= warm_until:
            break
    repeats = max(1, math.ceil(SAMPLE_S / max(account.estimate, 1e-9)))
    samples = max(1, min(MAX_SAMPLES, int(BURST_S / max(account.estimate * repeats, 1e-9))))
    account.times += timer(account.call, samples, repeats)
    account.wall += clock.now() - wall
    account.cpu += clock.cpu_s() - cpu
    now_waited = clock.waited_s()
    known = account.waited is not None and waited is not None and now_waited is not None
    # A thread that ended takes its account along: never less than nothing.
    account.waited = account.waited + max(0.0, now_waited - waited) if known else None  # type: ignore[operator]
