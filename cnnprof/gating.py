"""Models against a saved run or a revision: makes what is compared, here or in two processes that take turns."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cnnprof import footprint, machine, origin, profiling, statistics, timing
from cnnprof.comparison.gate import confirmed, failed_in_time, held, of_runs
from cnnprof.comparison.limits import PEAKS, TIMES, Limit
from cnnprof.comparison.ratios import contrast, in_two_processes
from cnnprof.errors import NoSuchModelError, UsageError
from cnnprof.measurement import latency
from cnnprof.models import catalog
from cnnprof.records import Candidate, Comparison, Doubt, Gate, Mode, Profile, Run, Settings
from cnnprof.remote import Worker
from cnnprof.revisions import Checkout, checked_out, working_tree
from cnnprof.subjects import Subject, settings_of, subject_of

Progress = Callable[[float], None]


def _silent(share: float) -> None:
    """Tell nobody how far it is."""


Named = tuple[tuple[str, str], ...]
"""Models by name."""


@dataclass(frozen=True)
class Asked:
    """Models, how they are fed, and what is asked of them."""

    models: Named
    limits: tuple[Limit, ...]
    settings: Settings
    loss: str | None = None

    @property
    def peaks(self) -> tuple[Mode, ...]:
        """The modes whose memory is predicted."""
        return self._modes(PEAKS)

    @property
    def times(self) -> tuple[Mode, ...]:
        """The modes that are timed."""
        return self._modes(TIMES)

    def _modes(self, of: Mapping[str, Mode]) -> tuple[Mode, ...]:
        return tuple(dict.fromkeys(of[limit.metric] for limit in self.limits if limit.metric in of))

    @property
    def time_s(self) -> float:
        """Seconds of measuring."""
        return self.settings.time_s or max(10.0, 5.0 * len(self.models))

    def subject(self, name: str, model: str) -> Subject:
        """Build a model."""
        return subject_of(name, model, self.settings.input_size, self.settings.batch_size, None)


def asked(models: Sequence[str], limits: Sequence[Limit], options: Mapping[str, Any], baseline: Run | None) -> Asked:
    """Put options together; what is not given is as it was for the baseline."""
    usual = Settings(device="auto") if baseline is None else baseline.settings
    size, batch = options.get("input_size") or usual.input_size, options.get("batch_size", usual.batch_size)
    given: Any = {name: options.get(name, getattr(usual, name)) for name in _KEPT}
    loss = options.get("loss")
    given["time_s"] = options.get("time")
    settings = settings_of(size, batch, given, loss)
    question = Asked(named(models), tuple(limits), settings, loss)
    return replace(question, settings=replace(settings, modes=question.times or settings.modes, time_s=question.time_s))


_KEPT = ("device", "dtype", "amp", "channels_last", "compile", "threads", "seed", "allocator")
"""Settings that a gate shares with its baseline."""


def named(models: Sequence[str]) -> Named:
    """Put models under their labels, or what they were called. Raises UsageError for two of one name."""
    specs = [catalog.parse(model) for model in models]
    names = [spec.label or spec.text for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice!r} is asked for twice; labels tell models apart: label=MODEL")
    return tuple(zip(names, models, strict=True))


# Against a saved run -------------------------------------------------------------------------------------------------


def against_run(asked: Asked, baseline: Run | None, source: str, progress: Progress = _silent) -> tuple[Gate, Run]:
    """Hold models to a saved run, and return what was found of them. Where a time fails they are timed once more."""
    run = taken(asked, progress)
    gate = of_runs(asked.limits, baseline, run, source, asked.time_s)
    if failed_in_time(gate):
        gate = confirmed(gate, of_runs(asked.limits, baseline, taken(asked, progress), source, asked.time_s))
    return gate, run


def taken(asked: Asked, progress: Progress = _silent) -> Run:
    """Count models, predict their memory and time them, where that is asked for: what later ones are held to."""
    subjects = [asked.subject(*each) for each in asked.models]
    candidates: Mapping[str, Candidate] = {subject.name: _described(subject, asked) for subject in subjects}
    with timing.surroundings(asked.settings):
        if asked.times:
            stream = timing.Workbench(subjects, asked.settings, asked.loss).sessions()
            for known in timing.timed(candidates, stream, asked.settings, latency.Clock(), _PLAN, progress):
                candidates = known
        return _document(list(candidates.values()), asked.settings)


_PLAN = timing.Plan(sessions=20, followed_by=0.0)


def _described(subject: Subject, asked: Asked) -> Candidate:
    """Tell what needs no clock."""
    own = asked.settings.of(subject.own)
    return Candidate(
        name=subject.name,
        analysis=profiling.analyzed(subject),
        batch_size=own.batch_size,
        settings=subject.own,
        memory=footprint.predicted_peaks(subject, own, asked.peaks, asked.loss),
    )


def _document(candidates: Sequence[Candidate], settings: Settings) -> Run:
    first, *others = candidates
    start: dict[str, Any] = {
        "command": origin.command(),
        "commit": origin.commit(),
        "created": origin.now(),
        "machine": machine.describe(settings.device, settings.allocator),
        "settings": settings,
    }
    if not others:
        return Profile(**start, profiles=(first,))
    contrasts = tuple(contrast(first, other, settings.margin) for other in others)
    return Comparison(**start, baseline=first.name, profiles=(first, *others), comparisons=contrasts)


# Against a revision --------------------------------------------------------------------------------------------------


def against_revision(asked: Asked, revision: str, progress: Progress = _silent) -> Gate:
    """Hold the models of the working tree to those of a revision; what is timed takes turns in two processes.

    Where a time fails, it is timed once more in two new processes. Raises UsageError for a revision that is none, and
    where a model that it holds cannot be made there.
    """
    working = working_tree()
    with checked_out(revision) as there:
        gate = _compared(asked, revision, there, working, progress)
        if failed_in_time(gate):
            gate = confirmed(gate, _compared(asked, revision, there, working, progress))
    return gate


def _compared(asked: Asked, revision: str, there: Checkout, working: Checkout, progress: Progress) -> Gate:
    """Compare both states once, in two processes of their own."""
    with ExitStack() as stack:
        workers = [Worker(checkout, working) for checkout in (there, working)]
        for worker in workers:
            stack.callback(worker.close)
            worker.start(_open, _within(asked, working, worker.checkout), str(worker.checkout.root), str(working.root))
        now = list(workers[1].result())
        try:
            before = list(workers[0].result())
        except UsageError as error:
            raise UsageError(f"{revision}: {error}") from None
        names = [candidate.name for candidate in before]
        if asked.times and names:
            times = _timed(asked, names, workers, progress)
            before, now = (_with(*each) for each in zip((before, now), times, strict=True))
    run = _document(now, asked.settings)
    gate = held(asked.limits, before, run, f"{revision} ({there.commit})", in_two_processes, asked.time_s)
    doubts = (*_about(asked, working), *gate.doubts)
    return replace(gate, commit=working.commit, doubts=doubts, processes=tuple(worker.pid for worker in workers))


def _about(asked: Asked, working: Checkout) -> Iterator[Doubt]:
    """Say what of both states is not what it seems."""
    if working.commit.endswith("-dirty"):
        said = "it has changes that are not committed, which are part of what was held to the limits"
        yield Doubt("working tree", said)
    for name, model in asked.models:
        source = catalog.parse(model).name.rpartition(":")[0]
        elsewhere = source.endswith(".py") and not Path(source).resolve().is_relative_to(working.root)
        if elsewhere or source in ("", "torchvision", "timm"):
            yield Doubt(name, "it is not of this repository: both sides are the same code")


def _with(candidates: Sequence[Candidate], times: Mapping[str, Candidate]) -> list[Candidate]:
    """Put what was timed to what needs no clock."""
    return [
        replace(candidate, latency=times[candidate.name].latency, failure=times[candidate.name].failure)
        if candidate.name in times
        else candidate
        for candidate in candidates
    ]


def _within(asked: Asked, working: Checkout, checkout: Checkout) -> Asked:
    """Look for files that are named by their whole path in a checkout, too."""
    moved = ((name, model.replace(f"{working.root}/", f"{checkout.root}/")) for name, model in asked.models)
    return replace(asked, models=tuple(moved))


def _timed(
    asked: Asked, names: Sequence[str], workers: Sequence[Worker], progress: Progress
) -> tuple[Mapping[str, Candidate], ...]:
    """Time both states of each model in interleaved bursts, whichever process they are in."""
    owners = {f"{place} {name}": (worker, name) for place, worker in enumerate(workers) for name in names}
    makers: latency.Candidates = {
        mode: {key: latency.Maker(partial(_Far.made, *owner, mode)) for key, owner in owners.items()}
        for mode in asked.settings.modes
    }
    clock = latency.Clock(
        cpu_s=lambda: sum(worker.call(_cpu_s) for worker in workers),
        waited_s=lambda: _sum([worker.call(machine.waited_s) for worker in workers]),
        threads=lambda: workers[0].call(torch.get_num_threads),
    )

    def stream(**options: Any) -> Iterator[latency.Session]:
        return latency.sessions(makers, **{**options, "timer": _far, "clock": clock})

    known: Mapping[str, Candidate] = {}
    nothing = {key: Candidate(key, analysis=None) for key in owners}
    for known in timing.timed(nothing, stream, asked.settings, clock, _PLAN, progress, partial(_narrow, asked.limits)):  # noqa: B007
        pass
    return tuple({name: known[f"{place} {name}"] for name in names} for place in range(len(workers)))


def _narrow(limits: Sequence[Limit], candidates: Sequence[Candidate], settings: Settings) -> bool:
    """Say whether every interval is as narrow as its limit asks: what it says of the limit has no part in that."""
    half = len(candidates) // 2
    for before, now in zip(candidates[:half], candidates[half:], strict=True):
        for metric, mode in TIMES.items():
            ratio = in_two_processes(before.latency[mode], now.latency[mode], settings.margin, 1.0)
            if ratio is None:
                continue
            wanted = min(float(limit.growth) for limit in limits if limit.metric == metric) * _OF_LIMIT
            if ratio.ci95 is None or ratio.sessions < latency.SESSIONS_WANTED:
                return False
            if statistics.half_width(ratio.ci95) > max(settings.ci, wanted):
                return False
    return True


_OF_LIMIT = 0.2
"""Of a limit, the half-width of an interval at which measuring ends early."""


def _sum(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) if len(known) == len(shares) else None


@dataclass(frozen=True)
class _Far:
    """A call that another process makes."""

    worker: Worker
    name: str
    mode: Mode

    @classmethod
    def made(cls, worker: Worker, name: str, mode: Mode) -> "_Far":
        """Have it made there."""
        worker.call(_make, name, mode)
        return cls(worker, name, mode)

    def __call__(self) -> None:
        """Make the call."""
        self.worker.call(_times, self.name, self.mode, 1, 1)


def _far(call: Any, samples: int, repeats: int) -> list[float]:
    times: list[float] = call.worker.call(_times, call.name, call.mode, samples, repeats)
    return times


# In a process of its own ---------------------------------------------------------------------------------------------


class _Bench:
    """The models of one checkout, and the calls that are timed."""

    def __init__(self, asked: Asked, of_a_revision: bool) -> None:
        self.subjects: list[Subject] = []
        for name, model in asked.models:
            with suppress(NoSuchModelError) if of_a_revision else nullcontext():  # which does not have it yet
                self.subjects.append(asked.subject(name, model))
        settings = asked.settings
        self.described = [_described(subject, asked) for subject in self.subjects]
        self.stack = ExitStack()
        self.stack.enter_context(timing.surroundings(settings))
        self.makers = timing.Workbench(self.subjects, settings, asked.loss).makers()
        on_cuda = torch.device(settings.device).type == "cuda"
        self.timer = latency.cuda_timer(settings.device) if on_cuda else latency.wall_timer(latency.Clock())
        self.calls: dict[tuple[str, Mode], latency.Call] = {}
        self.held: list[torch.Tensor] = []
        self.order = random.Random(settings.seed)

    def make(self, name: str, mode: Mode) -> None:
        """Build a model and its inputs, anew and elsewhere in memory."""
        self.calls.pop((name, mode), None)
        machine.give_back()  # else a process keeps the same pages of memory from session to session
        self.held = latency.ballast(self.order)
        self.calls[name, mode] = self.makers[mode][name].build()

    def times(self, name: str, mode: Mode, samples: int, repeats: int) -> list[float]:
        """Return seconds a call, by sample."""
        with latency.torch_threads(self.makers[mode][name].threads):
            return self.timer(self.calls[name, mode], samples, repeats)


_bench: list[_Bench] = []


def _open(asked: Asked, checkout: str, working: str) -> list[Candidate]:
    """Build the models that are there, and tell what needs no clock. Raises UsageError where code is of elsewhere."""
    _bench[:] = [_Bench(asked, checkout != working)]
    strays = _strays(Path(checkout), Path(working))
    if strays:
        raise UsageError(
            f"{strays[0]} was imported from the working tree, not from the revision; put its folder on PYTHONPATH, or "
            "install it in editable form"
        )
    return _bench[0].described


def _strays(checkout: Path, working: Path) -> list[str]:
    """Name modules that came from the working tree although a checkout holds them; cnnprof's own measure both."""
    if checkout == working:
        return []
    files = {
        name: Path(file).resolve()
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None))
    }
    own = Path(__file__).parent
    return [
        name
        for name, file in files.items()
        if file.is_relative_to(working)
        and not file.is_relative_to(own)
        and (checkout / file.relative_to(working)).exists()
    ]


def _make(name: str, mode: Mode) -> None:
    _bench[0].make(name, mode)


def _times(name: str, mode: Mode, samples: int, repeats: int) -> list[float]:
    return _bench[0].times(name, mode, samples, repeats)


def _cpu_s() -> float:
    return time.process_time()
