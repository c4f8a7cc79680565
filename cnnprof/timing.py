"""Candidates timed together until the time is spent or their intervals are narrow, here or in other processes."""

import dataclasses
import itertools
import multiprocessing
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cnnprof import machine, statistics, steps
from cnnprof.comparison.ratios import contrast
from cnnprof.errors import UsageError, said
from cnnprof.inputs import Inputs
from cnnprof.measurement import latency
from cnnprof.models import catalog
from cnnprof.records import MODES, ByMode, Candidate, Contrast, Latency, Mode, Settings
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import SEEDS, Loss, Subject, subject_of

Candidates = Mapping[str, Candidate]
Stream = Callable[..., Iterator[latency.Session]]
"""Sessions, as latency.sessions yields them for its settings."""


@dataclass(frozen=True)
class Plan:
    """How the time is cut into sessions."""

    sessions: int = 10
    """Fewer where a round takes longer."""
    followed_by: float = 1.5
    """What comes after the sessions, and belongs to the same time, as a multiple of one."""
    making_counts: bool = True
    """Calls are made anew within the time; else beside it, as far as that takes no longer than to measure them."""

    def spent_s(self, sessions: Sequence[latency.Session]) -> float:
        """Return how much of the time is used up."""
        if self.making_counts:
            return sum(session.took_s for session in sessions)
        return sum(max(session.took_s - session.made_s, session.took_s / 2) for session in sessions)


OF_CALLS = Plan(sessions=60, followed_by=0.5)
"""A session of calls that are not made anew costs nothing to begin: each may be a single round."""


def timed(
    candidates: Candidates,
    stream: Stream,
    settings: Settings,
    clock: latency.Clock,
    plan: Plan,
    progress: Callable[[float], None],
) -> Iterator[Candidates]:
    """Yield the candidates with their latencies, and why they failed, after each session.

    Until the time is spent, or all intervals are as narrow as the settings ask.
    """
    time_s = settings.time_s or max(10.0, 5.0 * len(candidates))
    on_cuda = torch.device(settings.device).type == "cuda"
    started = clock.now()
    sessions = stream(
        session_s=time_s / plan.sessions / len(settings.modes),
        seed=settings.seed,
        clock=dataclasses.replace(clock, threads=lambda: 1) if on_cuda else clock,
        timer=latency.cuda_timer(settings.device) if on_cuda else None,
        progress=lambda: progress(min(1.0, (clock.now() - started) / time_s)),
    )
    measured: list[latency.Session] = []
    for session in sessions:
        measured.append(session)
        candidates = {
            name: dataclasses.replace(
                candidate, latency=_by_mode(name, measured), failure=_failure(name, session.failures)
            )
            for name, candidate in candidates.items()
        }
        yield candidates
        spent = plan.spent_s(measured)
        if len(measured) >= statistics.MIN_SESSIONS and spent * (1 + plan.followed_by / len(measured)) >= time_s:
            return
        if len(measured) in _LOOKS and _narrow(list(candidates.values()), settings):
            return


_LOOKS = (5, 6, 7, 8, 9, 10, 14, 20, 28, 40)
"""After so many sessions it is asked whether the intervals are narrow. Seldom: processors that idle start slowly."""


def _by_mode(name: str, measured: Sequence[latency.Session]) -> ByMode[Latency]:
    return ByMode(**{mode: _latency(name, mode, measured) for mode in MODES})


def _latency(name: str, mode: Mode, measured: Sequence[latency.Session]) -> Latency | None:
    samples = [session.samples[name, mode] for session in measured if (name, mode) in session.samples]
    if not samples:
        return None
    return Latency(
        sessions=tuple(sample.times_s for sample in samples),
        cpu_shares=tuple(sample.cpu_share for sample in samples),
        waited_shares=tuple(sample.waited_share for sample in samples),
        bursts=tuple(tuple(map(len, sample.bursts_s)) for sample in samples),
        first_calls_s=tuple(sample.first_call_s for sample in samples),
        warm_up_s=samples[0].warm_up_s,
        starts_s=tuple(sample.starts_s for sample in samples),
        calls=tuple(sample.calls for sample in samples),
    )


def _failure(name: str, failures: Mapping[latency.Key, str]) -> str | None:
    """Say why a candidate failed, in both modes at once where it is the same."""
    reasons: dict[str, list[str]] = {}
    for (failed, mode), why in failures.items():
        if failed == name:
            reasons.setdefault(why, []).append(mode)
    return "; ".join(f"{' and '.join(modes)}: {why}" for why, modes in reasons.items()) or None


def _narrow(candidates: Sequence[Candidate], settings: Settings) -> bool:
    """Say whether every interval is as narrow as was asked, over sessions enough."""
    found = _intervals(candidates, settings.margin)
    return bool(found) and all(
        bounds is not None and number >= latency.SESSIONS_WANTED and statistics.half_width(bounds) <= settings.ci
        for bounds, number in found
    )


def _intervals(candidates: Sequence[Candidate], margin: float) -> list[tuple[statistics.Interval | None, int]]:
    """Return the intervals of the ratios to the first, and their sessions; of the times where there is no ratio."""
    contrasts = [contrast(candidates[0], other, margin) for other in candidates[1:]]
    ratios = [ratio for each in contrasts for ratio in _time_ratios(each) if ratio is not None]
    latencies = [latency_ for candidate in candidates for _, latency_ in candidate.latency.items()]
    return [(ratio.ci95, ratio.sessions) for ratio in ratios] or [
        (latency_.ci95_s, len(latency_.counted)) for latency_ in latencies
    ]


def _time_ratios(found: Contrast) -> tuple[Any, ...]:
    return found.latency, found.training_latency


# Models --------------------------------------------------------------------------------------------------------------


class Workbench:
    """Makes the steps of models that are measured, each with its own settings."""

    def __init__(self, subjects: Sequence[Subject], settings: Settings, loss: Loss | str | None) -> None:
        self.subjects, self.settings, self.asked_loss = subjects, settings, loss
        self._loss = catalog.load_callable(loss) if isinstance(loss, str) else loss
        self._own = {subject.name: settings.of(subject.own) for subject in subjects}
        self._drawn: dict[str, Inputs] = {}
        self._seeds = itertools.count(settings.seed)

    def own(self, subject: Subject) -> Settings:
        """Return the settings that a model is measured with."""
        return self._own[subject.name]

    def step(self, subject: Subject, mode: Mode) -> steps.Step:
        """Build a model and its inputs anew; the inputs' values stay."""
        own = self.own(subject)
        if subject.name not in self._drawn:
            self._drawn[subject.name] = subject.inputs(own.images, own.seed)
        torch.manual_seed(next(self._seeds) % SEEDS)
        return steps.prepare(subject.build(), self._drawn[subject.name].cloned(), mode, own, self._loss)

    def makers(self) -> latency.Candidates:
        """Say how each model's call is made; what was compiled is kept."""
        return {
            mode: {
                subject.name: latency.Maker(
                    partial(self._call, subject, mode), subject.own.threads, anew=not self.own(subject).compile
                )
                for subject in self.subjects
                if mode == "inference" or subject.trainable
            }
            for mode in self.settings.modes
        }

    def _call(self, subject: Subject, mode: Mode) -> latency.Call:
        return self.step(subject, mode).run

    def sessions(self) -> Stream:
        """Measure here, or each session in a process of its own."""
        return self._apart if self.settings.processes else partial(latency.sessions, self.makers())

    def _apart(self, *, seed: int, progress: Callable[[], None], **options: Any) -> Iterator[latency.Session]:
        """Yield sessions that ran in new processes; clock and timer are the processes' own."""
        keys = {(name, mode) for mode, makers in self.makers().items() for name in makers}
        failures: dict[latency.Key, str] = {}
        asked = [(subject.name, *subject.asked[1:]) for subject in self.subjects]
        _check_sent((asked, self.asked_loss))
        for number in itertools.count():
            if keys <= failures.keys():
                return
            job = _Job(asked, self.settings, self.asked_loss, options["session_s"], seed + number, set(failures))
            try:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _ignoring_interrupts) as pool:
                    session = pool.submit(_measured_apart, job).result()
            except BrokenProcessPool:
                session = latency.Session({}, dict.fromkeys(keys, "its process was killed, out of memory perhaps"), 0.0)
            failures |= session.failures
            progress()
            yield dataclasses.replace(session, failures=dict(failures))


@dataclass(frozen=True)
class _Job:
    """What another process needs for one session."""

    asked: Sequence[tuple[Any, ...]]
    settings: Settings
    loss: Loss | str | None
    session_s: float
    seed: int
    left_out: set[latency.Key]


def _check_sent(job: Any) -> None:
    """Raise UsageError where other processes cannot be given the models or the loss."""
    try:
        pickle.dumps(job)
    except Exception as error:  # what a model holds may raise anything
        raise UsageError(f"processes: {said(error)}; measure in one process, or name the models as strings") from error


def _ignoring_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked


@deep_recursion()
def _measured_apart(job: _Job) -> latency.Session:
    subjects = [subject_of(*asked) for asked in job.asked]
    with surroundings(job.settings):
        makers = Workbench(subjects, dataclasses.replace(job.settings, seed=job.seed), job.loss).makers()
        living = {
            mode: {name: maker for name, maker in named.items() if (name, mode) not in job.left_out}
            for mode, named in makers.items()
        }
        timer = latency.cuda_timer(job.settings.device) if "cuda" in job.settings.device else None
        return next(latency.sessions(living, session_s=job.session_s, seed=job.seed, timer=timer))


@contextmanager
def surroundings(settings: Settings) -> Iterator[None]:
    """Set threads and allocator, and leave the caller's random state, gradient modes and warnings as they are."""
    devices = [torch.device(settings.device)] if torch.device(settings.device).type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(latency.torch_threads(settings.threads))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(machine.kept_allocator(settings.allocator == "kept"))
        stack.enter_context(_backends(settings))
        yield


@contextmanager
def _backends(settings: Settings) -> Iterator[None]:
    """Set what decides CUDA's algorithms, and set it back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    if settings.cudnn_benchmark is not None:
        cudnn.benchmark = settings.cudnn_benchmark
    if settings.tf32 is not None:
        cudnn.allow_tf32 = matmul.allow_tf32 = settings.tf32
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def of_calls(calls: Mapping[str, latency.Call]) -> Stream:
    """Measure callables as they are."""
    makers = {name: latency.Maker(partial(_itself, call), anew=False) for name, call in calls.items()}
    return partial(latency.sessions, {"inference": makers})


def _itself(call: latency.Call) -> latency.Call:
    return call
