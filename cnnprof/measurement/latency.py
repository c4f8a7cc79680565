"""Seconds of calls that are measured together: interleaved bursts, in sessions. Knows no networks.

Two calls timed one after the other differ by whatever the machine did meanwhile; in short bursts, in random order, both
meet the same. A burst's first call is dropped: it finds the caches full of the other candidate, which makes the smaller
of two blocks 4 to 10 % too slow in strict alternation. A round holds one burst of every candidate. What a session
shares (where its memory lies, the machine's mood) is drawn anew in the next one: candidates are built again, between
blocks of random size that shift them (Curtsinger and Berger, "Stabilizer: statistically sound performance evaluation",
ASPLOS 2013: a layout that stays is a bias that no repetition shows).
"""

import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, pairwise
from typing import Any, TypeVar

import torch

from cnnprof import machine
from cnnprof.errors import said
from cnnprof.records import Mode

Call = Callable[[], object]

SESSIONS_WANTED = 5
WARM_UP_S = 0.05
"""A new call is made for as long at least before it is timed: lazy initialisation, clocks rising."""
WARM_UP_BLOCK_S = 0.01
LONGEST_WARM_UP_S = 2.5
SETTLED = 0.98
"""A warm-up ends when a block of calls is no faster than this times the fastest block before it."""
STEADY_S, STEADY_ALONE_S, STEADY_BLOCK_S, STEADY = 1.0, 0.3, 0.05, 1.05
"""The first candidate is warmed up until the blocks of so many seconds lie within this factor: in its first second or
two a process of several threads meets slow spells, while the system finds places for them; one thread has its place."""
BURST_S = 0.1
MAX_SAMPLES = 3
"""A burst keeps calls for about BURST_S, and at most so many, or as long as it drops calls: short bursts meet the same
machine."""
SAMPLE_S = 1e-4
"""Shorter calls are repeated within a sample: a thousand times the clock's resolution."""
MOST_CALLS_AT_ONCE = 1000
"""So many calls take longer than any clock's tick."""
BALLAST_BLOCKS, BALLAST_BYTES = 4, 16 << 20


class ClockError(RuntimeError):
    """The clock stood still, or stepped back."""


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
class Maker:
    """How a candidate's call is made."""

    build: Callable[[], Call]
    threads: int | None = None
    """Of torch, while it runs; None leaves them."""
    anew: bool = True
    """It is built again for every session; else what was built first is kept."""


Candidates = Mapping[Mode, Mapping[str, Maker]]
Key = tuple[str, Mode]
T = TypeVar("T")


@dataclass(frozen=True)
class Sampled:
    """One candidate in one session."""

    bursts_s: tuple[tuple[float, ...], ...]
    """Seconds a call, by burst; the first bursts of all candidates are of one round, and so on."""
    cpu_share: float | None
    waited_share: float | None
    warm_up_s: float
    first_call_s: float
    made_s: float = 0.0
    """Seconds in which the call was made anew."""
    starts_s: tuple[float, ...] = ()
    """When each burst's first sample began, by the clock."""
    calls: int = 0
    """Made from the first burst on, those that were dropped too."""

    @property
    def times_s(self) -> tuple[float, ...]:
        """All of them, in their order."""
        return tuple(chain.from_iterable(self.bursts_s))


@dataclass(frozen=True)
class Session:
    """Every candidate that held out, in every mode, and what the others raised."""

    samples: Mapping[Key, Sampled]
    failures: Mapping[Key, str]
    took_s: float
    """Without what it took to warm up, and to compile."""
    made_s: float = 0.0
    """Of these, in which calls were made anew."""


@dataclass
class _Account:
    """One candidate's times and processor use, while a session goes on."""

    call: Call
    maker: Maker
    warm_up_s: float = 0.0
    made_s: float = 0.0
    first_call_s: float | None = None
    estimate: float = math.inf
    bursts: list[tuple[float, ...]] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0
    calls: int = 0

    def close(self, clock: Clock, waited_share: float | None) -> Sampled:
        threads = self.maker.threads or clock.threads()
        return Sampled(
            tuple(self.bursts),
            self.cpu / self.wall / threads if self.wall else None,
            waited_share,
            self.warm_up_s,
            self.first_call_s or 0.0,
            self.made_s,
            tuple(self.starts),
            self.calls,
        )


def sessions(
    candidates: Candidates,
    *,
    session_s: float,
    seed: int,
    clock: Clock | None = None,
    timer: Timer | None = None,
    dropping: Timer | None = None,
    settle_s: float = 0.0,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Session]:
    """Yield sessions for as long as they are asked for.

    A session of a mode takes `session_s` seconds, or one round where that takes longer. A candidate that raises in a
    mode is left out of it from then on. What a burst drops is made by `dropping`, if that is another timer, and takes
    `settle_s` seconds at least.
    """
    clock = clock or Clock()
    timer = timer or wall_timer(clock)
    rig = _Rig(clock, timer, random.Random(seed), progress, dropping or timer, settle_s)
    while any((name, mode) not in rig.failures for mode, names in candidates.items() for name in names):
        samples: dict[Key, Sampled] = {}
        started = clock.now()
        for mode, makers in candidates.items():
            samples |= rig.measure(mode, makers, session_s)
        took_s = clock.now() - started - sum(sample.warm_up_s for sample in samples.values())
        made_s = sum(sample.made_s for sample in samples.values())
        yield Session(samples, dict(rig.failures), took_s, made_s)


@dataclass
class _Rig:
    """What sessions share: the clock, the order of chance, and who failed."""

    clock: Clock
    timer: Timer
    order: random.Random
    progress: Callable[[], None]
    dropping: Timer
    settle_s: float
    failures: dict[Key, str] = field(default_factory=dict)
    warmed: set[Key] = field(default_factory=set)
    kept: dict[Key, Call] = field(default_factory=dict)

    def measure(self, mode: Mode, makers: Mapping[str, Maker], session_s: float) -> dict[Key, Sampled]:
        """Build what is measured, and go through rounds of bursts until the time is spent."""
        held = ballast(self.order)
        accounts: dict[Key, _Account] = {}
        living = [name for name in makers if (name, mode) not in self.failures]
        for name in self._shuffled(living):  # the order of building, too, decides where memory lies
            self._attempt(accounts, (name, mode), lambda key: self._start(accounts, key, makers[key[0]]))
        started, done = self.clock.now(), False
        cpu_s, waited_s = self.clock.cpu_s(), self.clock.waited_s()
        while accounts and (not done or self.clock.now() - started < session_s):
            for key in self._shuffled(accounts):
                self._attempt(accounts, key, lambda key: self._burst(accounts[key]))
                self.progress()
            done = True
        waited_share = self._waited_share(cpu_s, waited_s)
        del held
        return {key: account.close(self.clock, waited_share) for key, account in accounts.items()}

    def _waited_share(self, cpu_s: float, waited_s: float | None) -> float | None:
        """Return the share of the time that threads could run since then in which they waited for a processor."""
        now_s = self.clock.waited_s()
        if waited_s is None or now_s is None:
            return None
        waited = max(0.0, now_s - waited_s)  # a thread that ended takes its account along
        running = self.clock.cpu_s() - cpu_s + waited
        return waited / running if running else None

    def _shuffled(self, keys: Iterable[T]) -> list[T]:
        shuffled = list(keys)
        self.order.shuffle(shuffled)
        return shuffled

    def _attempt(self, accounts: dict[Key, _Account], key: Key, do: Callable[[Key], None]) -> None:
        try:
            do(key)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a candidate may raise anything; the others go on
            self.failures[key] = said(error)
            accounts.pop(key, None)

    def _start(self, accounts: dict[Key, _Account], key: Key, maker: Maker) -> None:
        """Make the call; the first of its kind is warmed up, later ones by the calls that their bursts drop."""
        started = self.clock.now()
        account = _Account(self.kept.get(key) or maker.build(), maker)
        built = self.clock.now()
        if key not in self.warmed:
            with torch_threads(maker.threads):
                if not self.warmed:
                    _steady(account, self.clock, self.timer)
                _warm_up(account, self.clock, self.timer)
            self.warmed.add(key)
        if maker.anew:
            account.made_s = built - started
        elif key not in self.kept:
            self.kept[key] = account.call
            account.warm_up_s += built - started
        accounts[key] = account

    def _burst(self, account: _Account) -> None:
        """Drop the first call (a block of calls, of what was made anew), then keep as many as the burst has room for.

        Where dropping takes a while, as many are kept as take that long.
        """
        with torch_threads(account.maker.threads):
            self._drop(account)
            estimate = min(max(account.estimate, 1e-9), BURST_S)
            repeats = math.ceil(SAMPLE_S / estimate)
            sample_s = estimate * repeats
            samples = max(1, min(int(BURST_S / sample_s), max(MAX_SAMPLES, int(self.settle_s / sample_s))))
            began, cpu_s = self.clock.now(), self.clock.cpu_s()
            times = tuple(time for time in self.timer(account.call, samples, repeats) if time > 0)
            if not times:
                raise ClockError(_STILL)
            account.calls += samples * repeats
            account.bursts.append(times)
            account.starts.append(began)
            account.wall += self.clock.now() - began
            account.cpu += self.clock.cpu_s() - cpu_s

    def _drop(self, account: _Account) -> None:
        anew = account.maker.anew and not account.bursts
        started = self.clock.now()
        drop_until = started + max(self.settle_s, WARM_UP_BLOCK_S if anew else 0.0)
        for number in count(1):
            dropped = _once(account, self.dropping)
            account.calls += 1
            _check(self.clock, started, number)
            account.first_call_s = dropped if account.first_call_s is None else account.first_call_s
            if not started <= self.clock.now() < drop_until:
                break


def ballast(order: random.Random) -> list[torch.Tensor]:
    """Take memory in blocks of random size, which are never touched, so that what comes after lies elsewhere."""
    sizes = [int(BALLAST_BYTES ** order.random()) for _ in range(BALLAST_BLOCKS)]
    return [torch.empty(size, dtype=torch.uint8) for size in sizes]


def warm_up(call: Call, clock: Clock, timer: Timer, steady: bool) -> float:
    """Make calls until they get no faster, and return the seconds of the fastest; `steady`: the process is new, too."""
    account = _Account(call, Maker(lambda: call))
    if steady:
        _steady(account, clock, timer)
    _warm_up(account, clock, timer)
    return account.estimate


def _steady(account: _Account, clock: Clock, timer: Timer) -> None:
    """Make calls until they take the same time for a while."""
    started = clock.now()
    account.first_call_s = _once(account, timer)
    while_s = STEADY_S if (account.maker.threads or clock.threads()) > 1 else STEADY_ALONE_S
    blocks: deque[float] = deque(maxlen=max(3, round(while_s / max(STEADY_BLOCK_S, account.first_call_s))))
    while 0 <= clock.now() - started < LONGEST_WARM_UP_S:
        blocks.append(statistics.median(_block(account, clock, timer, STEADY_BLOCK_S)))
        if len(blocks) == blocks.maxlen and max(blocks) <= STEADY * min(blocks):
            break
    account.warm_up_s += clock.now() - started


def _warm_up(account: _Account, clock: Clock, timer: Timer) -> None:
    """Make calls until they get no faster, for at least WARM_UP_S and at most LONGEST_WARM_UP_S."""
    started = clock.now()
    if account.first_call_s is None:
        account.first_call_s = _once(account, timer)
    while True:
        fastest_before = account.estimate
        fastest = min(_block(account, clock, timer, WARM_UP_BLOCK_S))
        took_s = clock.now() - started
        settled = fastest >= SETTLED * fastest_before and took_s >= WARM_UP_S
        if settled or not 0 <= took_s < LONGEST_WARM_UP_S:
            break
    account.warm_up_s += took_s


def _block(account: _Account, clock: Clock, timer: Timer, seconds: float) -> list[float]:
    """Make calls for so long, at least one."""
    started = clock.now()
    calls: list[float] = []
    while not calls or clock.now() - started < seconds:
        calls.append(_once(account, timer))
        _check(clock, started, len(calls))
    return calls


def _once(account: _Account, timer: Timer) -> float:
    """Make one call, and remember the fastest."""
    (took,) = timer(account.call, 1, 1)
    account.estimate = min(account.estimate, took) if took > 0 else account.estimate
    return took


_STILL = "the clock stood still or stepped back"


def _check(clock: Clock, since: float, calls: int) -> None:
    """Raise ClockError where so many calls took no time at all."""
    if calls >= MOST_CALLS_AT_ONCE and clock.now() == since:
        raise ClockError(_STILL)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let torch use so many threads within the block; None leaves them as they are."""
    before = torch.get_num_threads()
    if number is not None and number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
