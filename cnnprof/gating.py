"""Models against a saved run or a revision: makes what is compared, here or in two processes that take turns."""

import os
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cnnprof import footprint, machine, origin, profiling, steps, timing
from cnnprof.comparison.gate import Terms, cut_short, elsewhere, held, is_open, of_runs, settled, unsettled
from cnnprof.comparison.limits import PEAKS, TIMES, Limit, refuse_unknown, that_hold
from cnnprof.comparison.ratios import contrast
from cnnprof.errors import ElsewhereError, Interrupted, NoSuchModelError, UsageError
from cnnprof.measurement import latency
from cnnprof.models import catalog
from cnnprof.records import BATCH_SIZE, Candidate, Comparison, Doubt, Gate, Machine, Mode, Profile, Run, Settings
from cnnprof.remote import Worker
from cnnprof.revisions import Checkout, checked_out, missing_submodules, root_of, tracked, working_tree
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
    machine: Machine | None = None
    """The baseline's: on another one nothing is timed. None: always."""

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
        return self.settings.time_s or self.usual_time_s

    @property
    def usual_time_s(self) -> float:
        """Seconds that are measured where none are asked for."""
        return max(10.0, 5.0 * len(self.models))

    def subject(self, name: str, model: str, root: Path, working: Path) -> Subject:
        """Build a model in a checkout. Raises UsageError; a submodule whose files it needs and lacks is named."""
        try:
            return subject_of(name, model, self.settings.input_size, self.settings.batch_size, None)
        except UsageError as error:
            missing, sought = missing_submodules(root, working), list(_sought(error, model, root))
            needed = next((each for each in missing if any(path.is_relative_to(each) for path in sought)), None)
            if needed is None:
                raise
            said = f"the submodule {needed.relative_to(root)} is not checked out; {missing[needed]}"
            raise UsageError(f"{error}: {said}") from None


def asked(
    models: Sequence[str], limits: Sequence[Limit], options: Mapping[str, Any], baseline: Run | None, update: bool
) -> Asked:
    """Put options together; what is not given is as it was for the baseline, which may be for an update.

    Raises UsageError for a limit on no model.
    """
    usual = Settings(device="auto") if baseline is None else _here(baseline.settings)
    size = options.get("input_size") or usual.input_size
    batch = options.get("batch_size", usual.batch_size or BATCH_SIZE)
    given: Any = {name: options.get(name, getattr(usual, name)) for name in _KEPT}
    loss = options.get("loss")
    given["time_s"] = options.get("time")
    settings = settings_of(size, batch, given, loss)
    compared = None if baseline is None or update else baseline.machine
    question = Asked(named(models), tuple(limits), settings, loss, compared)
    names = [name for name, _ in question.models]
    refuse_unknown(limits, [*names, *(each.name for each in baseline.profiles)] if baseline else names)
    modes = question.times or settings.modes
    return replace(question, settings=replace(settings, modes=modes, time_s=question.time_s, ci=_WHOLE_TIME))


_WHOLE_TIME = 0.0
"""No interval is so narrow that measuring ends early."""


def _here(settings: Settings) -> Settings:
    """Leave the device open where this machine does not have it: what needs no clock is compared all the same."""
    asked = torch.device(settings.device)
    there = asked.type == "cpu" or (asked.index or 0) < torch.cuda.device_count()
    return settings if there else replace(settings, device="auto")


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
    """Hold models to a saved run, and return what was found of them. Where a time fails they are timed once more.

    Raises Interrupted, with the gate of what was known by then.
    """
    try:
        run = taken(asked, progress)
    except Interrupted as interrupted:
        gate = of_runs(asked.limits, baseline, interrupted.run, source, asked.time_s)
        raise Interrupted(cut_short(gate)) from None
    gate = of_runs(asked.limits, baseline, run, source, asked.time_s)
    if is_open(gate, ("failed",)):
        gate = _settled(gate, lambda: of_runs(asked.limits, baseline, _taken_apart(asked), source, asked.time_s), False)
    return gate, run


def _settled(gate: Gate, measure: Callable[[], Gate], independent: bool = True) -> Gate:
    """Measure once more; what ends that leaves the gate as it is."""
    try:
        return settled(gate, measure(), independent)
    except KeyboardInterrupt:
        raise Interrupted(cut_short(gate)) from None
    except (UsageError, ElsewhereError) as error:
        return unsettled(gate, str(error))


def _taken_apart(asked: Asked) -> Run:
    """Do the same in a new process. Raises UsageError where that is killed, and as `Worker.result` does."""
    here = Checkout(Path.cwd(), Path.cwd(), "this once more")
    worker = Worker(here, here)
    try:
        run: Run = worker.call(taken, asked)
        return run
    finally:
        worker.close()


def taken(asked: Asked, progress: Progress = _silent) -> Run:
    """Count models, predict their memory and time them, where that is asked for: what later ones are held to.

    Raises Interrupted, with the run as far as it is known.
    """
    root = root_of(Path.cwd())
    subjects = [asked.subject(*each, root, root) for each in asked.models]
    with timing.surroundings(asked.settings):
        candidates: Mapping[str, Candidate] = {subject.name: _described(subject, asked) for subject in subjects}
        if asked.times and not (asked.machine and elsewhere(asked.machine, _machine(asked.settings))):
            stream = timing.Workbench(subjects, asked.settings, asked.loss).sessions()
            try:
                for known in timing.timed(candidates, stream, asked.settings, latency.Clock(), _plan(asked), progress):
                    candidates = known
            except KeyboardInterrupt:
                raise Interrupted(_document(list(candidates.values()), asked.settings)) from None
        return _document(list(candidates.values()), asked.settings)


def _plan(asked: Asked) -> timing.Plan:
    """Cut the time into sessions as long as those of the usual time, so that a longer one has more of them."""
    sessions = round(SESSIONS * max(1.0, asked.time_s / asked.usual_time_s))
    return timing.Plan(sessions, followed_by=0.0, making_counts=False)


SESSIONS = 20
"""In the usual time."""


def _described(subject: Subject, asked: Asked) -> Candidate:
    """Tell what needs no clock."""
    own, analysis = asked.settings.of(subject.own), profiling.analyzed(subject)
    return Candidate(
        name=subject.name,
        analysis=analysis,
        batch_size=analysis.batch_size if subject.own_inputs else own.batch_size,
        settings=subject.own,
        memory=footprint.predicted_peaks(subject, own, asked.peaks, asked.loss),
        model=subject.model,
        dtype=steps.type_name(subject.module, own),
    )


def _document(candidates: Sequence[Candidate], settings: Settings) -> Run:
    first, *others = candidates
    start: dict[str, Any] = {
        "command": origin.command(),
        "commit": origin.commit(),
        "created": origin.now(),
        "machine": _machine(settings),
        "settings": settings if any(each.batch_size for each in candidates) else replace(settings, batch_size=None),
    }
    if not others:
        return Profile(**start, profiles=(first,))
    contrasts = tuple(contrast(first, other, settings.margin) for other in others)
    return Comparison(**start, baseline=first.name, profiles=(first, *others), comparisons=contrasts)


def _machine(settings: Settings) -> Machine:
    described = machine.describe(settings.device, settings.allocator)
    return replace(described, threads=settings.threads or described.threads)


# Against a revision --------------------------------------------------------------------------------------------------


def against_revision(asked: Asked, revision: str, progress: Progress = _silent) -> Gate:
    """Hold the models of the working tree to those of a revision; what is timed takes turns in two processes.

    Times that one measurement does not settle are taken once more, in two new processes. Raises UsageError for a
    revision that is none, and where a model that it holds cannot be made there; Interrupted, with the gate of what was
    known by then.
    """
    working = working_tree()
    with checked_out(revision) as there:
        gate = _compared(asked, revision, there, working, progress)
        if is_open(gate):
            gate = _settled(gate, lambda: _compared(asked, revision, there, working, progress))
    return gate


def _compared(asked: Asked, revision: str, there: Checkout, working: Checkout, progress: Progress) -> Gate:
    """Compare both states once, in two processes of their own."""
    with ExitStack() as stack:
        workers = [Worker(checkout, working) for checkout in (there, working)]
        for worker in workers:
            stack.callback(worker.close)
            worker.start(_open, _within(asked, working, worker.checkout), str(worker.checkout.root), str(working.root))
        try:
            here: _Opened = workers[1].result()
        except ElsewhereError as error:
            raise UsageError(str(error)) from None
        try:
            then: _Opened = workers[0].result()
        except (UsageError, ElsewhereError) as error:
            raise UsageError(f"{revision}, of which there is what git holds: {error}") from None
        before, now = then.described, here.described
        calls = {key: how for key, how in here.timed.items() if key in then.timed}
        times: Times = {}, {}
        interrupted = False
        try:
            for times in _timed(asked, calls, workers, progress) if calls else ():  # noqa: B007
                pass
        except KeyboardInterrupt:
            interrupted = True
    before, now = (_with(*each) for each in zip((before, now), times, strict=True))
    run = _document(now, asked.settings)
    gate = held(asked.limits, before, run, f"{revision} ({there.commit})", Terms(measured_s=asked.time_s))
    doubts = (*_about(here, then, working), *gate.doubts)
    gate = replace(gate, commit=working.commit, doubts=doubts, processes=tuple(worker.pid for worker in workers))
    if interrupted:
        raise Interrupted(cut_short(gate))
    return gate


Times = tuple[Mapping[str, Candidate], Mapping[str, Candidate]]
"""Of both states, by the models' names."""


def _about(here: "_Opened", then: "_Opened", working: Checkout) -> Iterator[Doubt]:
    """Say what of both states is not what it seems."""
    if working.commit.endswith("-dirty"):
        said = "it has changes that are not committed, which are part of what was held to the limits"
        yield Doubt("working tree", said)
    for name in here.strangers:
        yield Doubt(name, "it is not of this repository: both sides are the same code")
    for name in then.borrowed:
        yield Doubt(name, "git does not hold it: that of the working tree serves both sides")
    for name in here.copies:
        yield Doubt(name, "the repository holds it, but it was imported from elsewhere, by both sides", _EDITABLE)
    compared = {candidate.name for candidate in then.described}
    for name in here.unheld:
        if name not in compared:
            said = "git does not hold its file, so that no revision has it"
            yield Doubt(name, said, "commit it")


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

    def moved(text: str, name: str) -> str:
        file = name.rpartition(":")[0]
        paths = Path(os.path.abspath(file)), Path(file).resolve()  # noqa: PTH100  # as it is called, else where it lies
        ways = (path for path in paths if path.is_relative_to(working.root))
        inside = next(ways, None) if Path(file).is_absolute() else None
        return text.replace(file, str(checkout.root / inside.relative_to(working.root)), 1) if inside else text

    loss = None if asked.loss is None else moved(asked.loss, asked.loss)
    models = tuple((name, moved(model, catalog.parse(model).name)) for name, model in asked.models)
    return replace(asked, models=models, loss=loss)


def _timed(
    asked: Asked, calls: Mapping[latency.Key, "_How"], workers: Sequence[Worker], progress: Progress
) -> Iterator[Times]:
    """Time both states of each model in interleaved bursts, whichever process they are in; yield what is known."""
    names = list(dict.fromkeys(name for name, _ in calls))
    makers: latency.Candidates = {
        mode: {
            f"{place} {name}": latency.Maker(partial(_Far.made, worker, name, mode), *calls[name, mode])
            for place, worker in enumerate(workers)
            for name in names
            if (name, mode) in calls
        }
        for mode in asked.settings.modes
    }
    turns = _Turns()
    clock = latency.Clock(
        cpu_s=lambda: turns.cpu_s,
        waited_s=lambda: turns.waited_s,
        threads=lambda: workers[0].call(torch.get_num_threads),
    )

    def stream(**options: Any) -> Iterator[latency.Session]:
        far: dict[str, Any] = {"timer": turns.kept, "dropping": turns.dropped, "settle_s": SPIN_S, "clock": clock}
        return latency.sessions(makers, **{**options, **far})

    nothing = {f"{place} {name}": Candidate(name, analysis=None) for place in range(len(workers)) for name in names}
    for known in timing.timed(nothing, stream, asked.settings, clock, _plan(asked), progress):
        before, now = ({name: known[f"{place} {name}"] for name in names} for place in range(len(workers)))
        yield before, now


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


@dataclass
class _Turns:
    """What the process whose turn it is gets of the processors while its times are kept.

    What comes before is no sign of a busy machine: the other's threads look for work for a while.
    """

    cpu_s: float = 0.0
    waited_s: float | None = 0.0

    def kept(self, call: Any, samples: int, repeats: int) -> list[float]:
        """Time calls that count."""
        times, cpu_s, waited_s = _timed_there(call, samples, repeats)
        self.cpu_s += cpu_s
        self.waited_s = None if self.waited_s is None or waited_s is None else self.waited_s + max(0.0, waited_s)
        return times

    def dropped(self, call: Any, samples: int, repeats: int) -> list[float]:
        """Time calls that do not."""
        return _timed_there(call, samples, repeats)[0]


def _timed_there(call: Any, samples: int, repeats: int) -> "_Spent":
    spent: _Spent = call.worker.call(_times, call.name, call.mode, samples, repeats)
    return spent


_Spent = tuple[list[float], float, float | None]
"""Seconds a call, by sample; the processors' seconds that all of them took, and those that their threads waited for."""

_How = tuple[int | None, bool]
"""A call's threads, and whether it is made anew for every session."""

SPIN_S = 0.012
"""So long after its last call a process's idle threads still spin for work, on processors that the other one needs:
8 to 10 ms of GNU's OpenMP, by its own processor time, on two cores."""


# In a process of its own ---------------------------------------------------------------------------------------------


class _Bench:
    """The models of one checkout, and the calls that are timed."""

    def __init__(self, asked: Asked, checkout: Path, working: Path) -> None:
        self.subjects: list[Subject] = []
        for name, model in asked.models:
            with suppress(NoSuchModelError) if checkout != working else nullcontext():  # it does not have it yet
                self.subjects.append(asked.subject(name, model, checkout, working))
        settings, self.limits = asked.settings, asked.limits
        self.stack = ExitStack()
        self.stack.enter_context(timing.surroundings(settings))
        self.described = [_described(subject, asked) for subject in self.subjects]
        self.makers = timing.Workbench(self.subjects, settings, asked.loss).makers()
        on_cuda = torch.device(settings.device).type == "cuda"
        self.timer = latency.cuda_timer(settings.device) if on_cuda else latency.wall_timer(latency.Clock())
        self.calls: dict[latency.Key, latency.Call] = {}
        self.held: list[torch.Tensor] = []
        self.order = random.Random(settings.seed)

    @property
    def timed(self) -> dict[latency.Key, _How]:
        """Say how the calls are made on which there is a limit; what has nothing to train has no training step."""
        return {
            (name, mode): (maker.threads, maker.anew)
            for mode, makers in self.makers.items()
            for name, maker in makers.items()
            if any(TIMES.get(limit.metric) == mode for limit in that_hold(self.limits, name))
        }

    def make(self, name: str, mode: Mode) -> None:
        """Build a model and its inputs, anew and elsewhere in memory."""
        self.calls.pop((name, mode), None)
        machine.give_back()  # else a process keeps the same pages of memory from session to session
        self.held = latency.ballast(self.order)
        self.calls[name, mode] = self.makers[mode][name].build()

    def times(self, name: str, mode: Mode, samples: int, repeats: int) -> _Spent:
        """Make calls, and tell what they took."""
        with latency.torch_threads(self.makers[mode][name].threads):
            waited_s, cpu_s = machine.waited_s(), time.process_time()
            times = self.timer(self.calls[name, mode], samples, repeats)
            took_s, now_s = time.process_time() - cpu_s, machine.waited_s()
            return times, took_s, None if now_s is None or waited_s is None else now_s - waited_s


_bench: list[_Bench] = []


@dataclass(frozen=True)
class _Opened:
    """What a process found in its checkout."""

    described: list[Candidate]
    timed: dict[latency.Key, _How]
    strangers: list[str]
    """Models whose code is not of the repository."""
    unheld: list[str]
    """Models whose file git does not hold."""
    borrowed: list[str]
    """Modules that a revision lacks, as git does not hold them, and that came from the working tree."""
    copies: list[str]
    """Modules of the repository that came from elsewhere."""


def _open(asked: Asked, checkout: str, working: str) -> _Opened:
    """Build the models that are there, and tell what needs no clock. Raises UsageError where code is of elsewhere."""
    there, here = Path(checkout), Path(working)
    _bench[:] = [_Bench(asked, there, here)]
    held = tracked(here)
    borrowed = _of_working_tree(here) if there != here else {}
    strays = [name for name, file in borrowed.items() if file in held or (there / file.relative_to(here)).exists()]
    if strays:
        raise UsageError(f"{strays[0]} was imported from the working tree, not from the revision; {_EDITABLE}")
    sources = {name: _source(model) for name, model in asked.models}
    ours = {name: file for name, (where, file) in sources.items() if _is_of(there, where, file)}
    return _Opened(
        _bench[0].described,
        _bench[0].timed,
        strangers=[name for name in sources if name not in ours],
        unheld=[name for name, file in ours.items() if there == here and file not in held],
        borrowed=_outermost(borrowed),
        copies=_outermost(_copies(there, here)),
    )


_EDITABLE = "put its folder on PYTHONPATH, or install it in editable form"


def _source(model: str) -> tuple[str, Path | None]:
    """Return where a model's callable is looked for, and the file that was found there."""
    where = catalog.parse(model).name.rpartition(":")[0]
    if where.endswith(".py"):
        return where, Path(where).resolve()
    file = getattr(sys.modules.get(where), "__file__", None)
    return where, Path(file).resolve() if file else None


def _is_of(checkout: Path, where: str, file: Path | None) -> bool:
    """Say whether code is of a checkout. Raises UsageError where that holds it, but another copy was imported."""
    if file is None:
        return False
    if file.is_relative_to(checkout) and not _is_installed(file):
        return True
    if not where.endswith(".py") and _is_held(checkout, where):
        raise UsageError(f"{where} was imported from where it is installed, not from the repository; {_EDITABLE}")
    return False


def _is_installed(file: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _copies(checkout: Path, working: Path) -> list[str]:
    """Name modules that came from elsewhere although a checkout holds them: both sides have the same."""
    named = {path.stem for folder in _roots(checkout) if folder.is_dir() for path in folder.iterdir()}
    return [
        name
        for name, file in _imported().items()
        if name.partition(".")[0] in named
        and (_is_installed(file) or not any(file.is_relative_to(each) for each in (checkout, working, _STANDARD)))
        and _is_held(checkout, name)
    ]


def _is_held(checkout: Path, name: str) -> bool:
    """Say whether a module's file lies where a repository has its packages."""
    parts = _path_of(name)
    files = (parts.with_suffix(".py"), parts / "__init__.py")
    return any((folder / file).is_file() for folder in _roots(checkout) for file in files)


def _path_of(module: str) -> Path:
    return Path(*module.split("."))


def _sought(error: UsageError, model: str, checkout: Path) -> Iterator[Path]:
    """Yield the files that an error may be about: those that a model's code asked for, else its own."""
    where = catalog.parse(model).name.rpartition(":")[0]
    match error.__cause__:
        case OSError(filename=str(file)):
            yield Path(str(file)).resolve()
        case ImportError(name=str(module)):
            yield from _places(module, checkout)
        case _ if where.endswith(".py"):
            yield Path(where).resolve()
        case _:
            yield from _places(where, checkout)


def _places(module: str, checkout: Path) -> Iterator[Path]:
    """Yield where a module may lie."""
    for folder in (*map(str, _roots(checkout)), *sys.path):
        yield Path(folder, _path_of(module)).resolve()


def _roots(checkout: Path) -> tuple[Path, ...]:
    """Return where a repository's packages lie."""
    return checkout, checkout / "src", Path.cwd(), Path.cwd() / "src"


def _of_working_tree(working: Path) -> dict[str, Path]:
    """Return modules that came from the working tree, and their files; an environment within it serves both states."""
    return {
        name: file
        for name, file in _imported().items()
        if file.is_relative_to(working) and not (_is_installed(file) or file.is_relative_to(_STANDARD))
    }


_STANDARD = Path(sysconfig.get_path("stdlib"))


def _imported() -> dict[str, Path]:
    """Return the files of all modules but cnnprof's own, which measure both states."""
    own = Path(__file__).parent
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    paths = {name: Path(file).resolve() for name, file in files.items() if file}
    return {name: path for name, path in paths.items() if not path.is_relative_to(own)}


def _outermost(modules: Collection[str]) -> list[str]:
    """Leave out the modules within one of the others."""
    return [name for name in modules if name.rpartition(".")[0] not in modules]


def _make(name: str, mode: Mode) -> None:
    _bench[0].make(name, mode)


def _times(name: str, mode: Mode, samples: int, repeats: int) -> _Spent:
    return _bench[0].times(name, mode, samples, repeats)
