"""Models to profiles, measured together: the only place where models, analysis and measurement meet.

models -> analyzed on shapes -> measured in sessions -> looked into once by the profiler -> a document
"""

import dataclasses
import datetime
import itertools
import math
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import nn

from cnnprof import machine, statistics
from cnnprof.analysis import counts
from cnnprof.analysis.mixing import mixing
from cnnprof.analysis.opinions import TOOLS, Tool
from cnnprof.comparison.doubts import doubts
from cnnprof.comparison.ratios import contrast, time_ratio
from cnnprof.errors import UsageError, said
from cnnprof.inputs import Inputs
from cnnprof.measurement import latency, memory, operators, steps
from cnnprof.models import catalog
from cnnprof.models.residual import ResNet
from cnnprof.records import (
    MODES,
    Analysis,
    ByMode,
    Candidate,
    Comparison,
    Doubt,
    Latency,
    Machine,
    Memory,
    Mode,
    Profile,
    Run,
    Settings,
    Size,
    TimeByLayer,
)

Model = nn.Module | str
"""A module, or a MODEL string."""


class Options(TypedDict, total=False):
    """Settings that may be given by name; see Settings for their meaning and defaults."""

    device: str
    dtype: str
    amp: bool
    channels_last: bool
    compile: bool
    threads: int | None
    modes: tuple[Mode, ...]
    time_s: float | None
    ci: float
    seed: int
    margin: float
    allocator: Literal["kept", "system"]


@dataclass(frozen=True)
class Listener:
    """Who hears of a run while it goes on: each state of the document, and the share of the time that is spent."""

    update: Callable[[Run], None] = lambda run: None
    progress: Callable[[float], None] = lambda share: None


@dataclass(frozen=True)
class Instruments:
    """What is measured with: the clock, and the profiler of operators and allocations; tests put in their own."""

    clock: latency.Clock = field(default_factory=latency.Clock)
    profiled: Callable[[steps.Step], operators.Pass] = operators.profiled


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while measuring; `run` holds what had been measured by then."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run


# What users call -----------------------------------------------------------------------------------------------------


def analyze(
    model: Model,
    input_size: Sequence[int] | int | None = None,
    batch_size: int = 1,
    *,
    inputs: Any = None,
    mode: Mode = "inference",
    tools: Sequence[Tool] = (),
) -> Analysis:
    """Count a model's parameters, MACs, activations and bytes by layer, on shapes alone.

    `mode` is `inference`, the forward pass in eval mode, or `training`: forward and backward, in training mode. `tools`
    ("fvcore", "torch") run beside, on the CPU, and their difference is itemised in `opinions`; forward passes only.
    `input_size` is (C, H, W) without the batch, or the side of a square image; `inputs` a tensor or a tuple, whose last
    item may be a dict of keyword arguments, batch included. The model is left as it is. Raises UsageError where it
    refuses the input, naming the layer and its input's shape.
    """
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: {' or '.join(MODES)} was expected")
    unknown = [tool for tool in tools if tool not in TOOLS]
    if unknown or (tools and mode != "inference"):
        raise UsageError(f"second opinion of {tools!r}: {' or '.join(TOOLS)} of a forward pass was expected")
    subject = _subject(None, model, input_size, batch_size, inputs)
    return _analyzed(subject, batch_size, mode, tools)


def profile(
    model: Model,
    input_size: Sequence[int] | int | None = None,
    batch_size: int = 8,
    *,
    inputs: Any = None,
    loss: steps.Loss | None = None,
    listener: Listener | None = None,
    instruments: Instruments | None = None,
    **options: Unpack[Options],
) -> Profile:
    """Analyze and measure one model: its forward pass and training step, their memory, and where the time goes.

    Raises UsageError for unusable input, and Interrupted, with what was measured, at Ctrl-C.
    """
    settings = _settings(input_size, batch_size, options, loss)
    subject = _subject(None, model, input_size, batch_size, inputs)
    run = _measured([subject], settings, loss, listener or Listener(), instruments or Instruments(), alone=True)
    assert isinstance(run, Profile)
    return run


def compare(
    models: Mapping[str, Model] | Sequence[Model],
    input_size: Sequence[int] | int | None = None,
    batch_size: int = 8,
    *,
    inputs: Any = None,
    loss: steps.Loss | None = None,
    listener: Listener | None = None,
    instruments: Instruments | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Analyze and measure models together; the first is the baseline.

    Modules are copied for every session, so yours stay as they are. Raises UsageError for unusable input, and
    Interrupted, with what was measured, at Ctrl-C.
    """
    if isinstance(models, str | nn.Module):
        raise UsageError("compare takes a list or dict of models and was given one model; `profile` looks at one")
    named = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    if len(named) < 2:
        raise UsageError(f"compare takes two models or more and was given {len(named)}; `profile` looks at one")
    settings = _settings(input_size, batch_size, options, loss)
    subjects = _told_apart([_subject(name, model, input_size, batch_size, inputs) for name, model in named])
    run = _measured(subjects, settings, loss, listener or Listener(), instruments or Instruments(), alone=False)
    assert isinstance(run, Comparison)
    return run


# From a model to what is measured ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Subject:
    """A model under its name, with the inputs it is given."""

    name: str
    resolved: str
    module: nn.Module
    build: Callable[[], nn.Module]
    input_size: Size | None
    own_inputs: Inputs | None

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """Return what it is fed when it is measured."""
        if self.own_inputs is not None:
            return self.own_inputs
        assert self.input_size is not None
        return Inputs.random(self.input_size, batch_size, seed)


def _subject(
    name: str | None, model: Model, input_size: Sequence[int] | int | None, batch_size: int, inputs: Any
) -> _Subject:
    if isinstance(model, str):
        found = catalog.resolve(model)
    elif isinstance(model, nn.Module):
        kind = type(model).__name__
        found = catalog.NamedModel(name or kind, kind, model, lambda: catalog.copied(model), _own_size(model))
    else:
        raise UsageError(f"{model!r} is {type(model).__name__}; a model is an nn.Module or a MODEL string")
    own = inputs if inputs is not None else found.inputs if input_size is None else None
    size = _sized(input_size, found.input_size or _own_size(found.module))
    if own is None and size is None:
        own = _example(found.module)
    _checked_count("batch size", batch_size)
    if own is None and size is None:
        raise UsageError(f"{found.name} does not say what it is fed; give --input-size, such as 3x224x224")
    return _Subject(
        name or found.name,
        found.resolved,
        found.module,
        found.build,
        None if own is not None else size,
        None if own is None else Inputs.of(own),
    )


def _own_size(module: nn.Module) -> Size | None:
    """Read the size that a module carries: timm's default_cfg, or the shape of Lightning's example_input_array."""
    config = getattr(module, "default_cfg", None)
    if isinstance(config, dict) and "input_size" in config:
        return tuple(config["input_size"])
    example = getattr(module, "example_input_array", None)
    if not isinstance(example, torch.Tensor) or not example.is_floating_point():
        return None
    return tuple(example.shape[1:])


def _example(module: nn.Module) -> Any:
    """Return Lightning's example_input_array where it is more than an image: several inputs, named ones, integers."""
    example = getattr(module, "example_input_array", None)
    return (example,) if isinstance(example, dict) else example


def _sized(asked: Sequence[int] | int | None, own: Size | None) -> Size | None:
    """Take the size that was asked for, else the model's own; a number alone is the side of a square image."""
    size = _checked_size(asked)
    if size is not None and isinstance(asked, int):
        return (*(own[:-2] if own else (3,)), *size, *size)
    return size or own


def _checked_size(size: Sequence[int] | int | None) -> Size | None:
    if size is None:
        return None
    lengths = tuple(size) if isinstance(size, Iterable) else (size,)
    if not lengths or not all(_is_count(length) for length in lengths):
        raise UsageError(f"input size {size!r}: positive whole numbers without the batch were expected: 3, 224, 224")
    return lengths


def _checked_count(what: str, number: int) -> None:
    if not _is_count(number):
        raise UsageError(f"{what} {number!r}: a whole number of at least 1 was expected")


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _told_apart(subjects: Sequence[_Subject]) -> list[_Subject]:
    """Number the later ones of equal names, so that a model can be compared with itself."""
    seen: dict[str, int] = {}
    apart = []
    for subject in subjects:
        seen[subject.name] = seen.get(subject.name, 0) + 1
        number = seen[subject.name]
        apart.append(subject if number == 1 else dataclasses.replace(subject, name=f"{subject.name} ({number})"))
    return apart


def _settings(
    input_size: Sequence[int] | int | None, batch_size: int, options: Options, loss: steps.Loss | None = None
) -> Settings:
    given: dict[str, Any] = dict(options)
    if loss is not None:
        given["loss"] = getattr(loss, "__qualname__", type(loss).__name__)
    settings = Settings(batch_size=batch_size, input_size=_checked_size(input_size), **given)
    settings = dataclasses.replace(settings, device=_device(given.get("device", "auto")))
    if settings.threads is not None:
        _checked_count("threads", settings.threads)
    if settings.time_s is not None and not 0 < settings.time_s < math.inf:
        raise UsageError(f"time {settings.time_s!r}: a number of seconds above 0 was expected")
    if not 0 < settings.ci < 1:
        raise UsageError(f"ci {settings.ci!r}: a share between 0 and 1 was expected, such as 0.005")
    if not 0 <= settings.seed < SEEDS:
        raise UsageError(f"seed {settings.seed!r}: a whole number from 0 to {SEEDS - 1} was expected")
    if settings.allocator not in ("kept", "system"):
        raise UsageError(f"allocator {settings.allocator!r}: kept or system was expected")
    if settings.dtype not in DTYPES:
        raise UsageError(f"dtype {settings.dtype!r}: one of {', '.join(DTYPES)} was expected")
    unknown = [mode for mode in settings.modes if mode not in MODES]
    if unknown or not settings.modes:
        raise UsageError(f"mode {unknown or settings.modes!r}: {' or '.join(MODES)} was expected")
    return settings


SEEDS = 2**32
"""As many as every generator takes."""
DTYPES = ("float32", "bfloat16", "float16", "float64")


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UsageError(f"device {asked!r}: auto, cpu, cuda or cuda:1 was expected") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "none"
        raise UsageError(f"device {asked!r}: torch {torch.__version__} finds {found} here; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {asked!r}: cnnprof measures on cpu and cuda")
    return asked


# Shapes alone --------------------------------------------------------------------------------------------------------


def _analyzed(subject: _Subject, batch_size: int = 1, mode: Mode = "inference", tools: Sequence[Tool] = ()) -> Analysis:
    analysis = counts.analyze(
        subject.module,
        _shapes(subject, batch_size),
        model=subject.resolved,
        input_size=subject.input_size,
        mode=mode,
        tools=tools,
        with_weights=subject.build,
    )
    residual = [part for part in subject.module.modules() if isinstance(part, ResNet)]
    without_bottleneck = [Doubt(subject.name, part.doubt) for part in residual if part.doubt]
    return dataclasses.replace(analysis, doubts=(*analysis.doubts, *without_bottleneck))


def _shapes(subject: _Subject, batch_size: int) -> Inputs:
    if subject.own_inputs is not None:
        return subject.own_inputs
    assert subject.input_size is not None
    return Inputs.without_values(subject.input_size, batch_size)


# A run ---------------------------------------------------------------------------------------------------------------


def _measured(
    subjects: Sequence[_Subject],
    settings: Settings,
    loss: steps.Loss | None,
    listener: Listener,
    instruments: Instruments,
    alone: bool,
) -> Run:
    """Analyze, measure in sessions, look into one profiled pass of each, and write down every state on the way."""
    exact = {subject.name: _exact(subject, settings) for subject in subjects}
    with _threads(settings.threads), _undisturbed(settings.device):
        start = _Start.of(settings)
        document = start.profile if alone else start.comparison
        candidates = exact
        run = document(candidates, partial=True)
        listener.update(run)
        try:
            with machine.kept_allocator(settings.allocator == "kept"):
                for candidates in _measurements(subjects, exact, settings, loss, listener, instruments):
                    run = document(candidates, partial=True)
                    listener.update(run)
        except KeyboardInterrupt:
            raise Interrupted(run) from None
    return document(candidates, partial=False)


def _exact(subject: _Subject, settings: Settings) -> Candidate:
    analysis = _analyzed(subject)
    if "training" in settings.modes and not _trainable(subject):
        doubt = Doubt(subject.name, "it has no parameter that requires a gradient: no training step was measured")
        analysis = dataclasses.replace(analysis, doubts=(*analysis.doubts, doubt))
    return Candidate(name=subject.name, analysis=analysis, mixing=mixing(subject.module, _shapes(subject, 1)))


def _trainable(subject: _Subject) -> bool:
    return any(parameter.requires_grad for parameter in subject.module.parameters())


@dataclass(frozen=True)
class _Start:
    """What a document says of the moment at which measuring began."""

    command: str
    commit: str | None
    created: str
    machine: Machine
    settings: Settings

    @classmethod
    def of(cls, settings: Settings) -> "_Start":
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(_command(), _commit(), now, machine.describe(settings.device, settings.allocator), settings)

    def comparison(self, candidates: Mapping[str, Candidate], partial: bool) -> Comparison:
        profiles = tuple(candidates.values())
        contrasts = tuple(contrast(profiles[0], profile, self.settings.margin) for profile in profiles[1:])
        return Comparison(
            **vars(self),
            baseline=profiles[0].name,
            profiles=profiles,
            comparisons=contrasts,
            doubts=doubts(self.machine, self.settings, profiles, contrasts, partial),
            partial=partial,
        )

    def profile(self, candidates: Mapping[str, Candidate], partial: bool) -> Profile:
        (only,) = candidates.values()
        about = doubts(self.machine, self.settings, [only], [], partial)
        return Profile(**vars(self), profiles=(only,), doubts=about, partial=partial)


def _command() -> str:
    """Return the command line where it is ours, without the folders of this machine."""
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2] if sys.argv else ""
    return shlex.join(["cnnprof", *sys.argv[1:]]) if name in ("cnnprof", "__main__.py") else "Python"


def _commit() -> str | None:
    """Return the revision of the working directory, if it is one."""
    ask = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _undisturbed(device: str) -> Iterator[None]:
    """Leave the caller's random state, gradient modes and warnings out of what is measured, and as they are."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


Candidates = dict[str, Candidate]
Prepare = Callable[[_Subject, Mode], steps.Step]


def _measurements(
    subjects: Sequence[_Subject],
    candidates: Candidates,
    settings: Settings,
    loss: steps.Loss | None,
    listener: Listener,
    instruments: Instruments,
) -> Iterator[Candidates]:
    """Yield what is known after each session, then after each candidate's profiled passes."""
    named = {subject.name: subject for subject in subjects}
    drawn = cache(lambda name: named[name].inputs(settings.batch_size, settings.seed))
    seeds = itertools.count(settings.seed)

    def prepare(subject: _Subject, mode: Mode) -> steps.Step:
        torch.manual_seed(next(seeds) % SEEDS)
        return steps.prepare(subject.build(), drawn(subject.name).cloned(), mode, settings, loss)

    makers = {
        mode: {
            subject.name: partial(_call, prepare, subject, mode)
            for subject in subjects
            if mode == "inference" or _trainable(subject)
        }
        for mode in settings.modes
    }
    for latencies, failures in timed(makers, settings, listener, instruments.clock):
        candidates = {
            name: dataclasses.replace(
                candidate, latency=latencies.get(name, ByMode()), failure=_failure(name, failures)
            )
            for name, candidate in candidates.items()
        }
        yield candidates
    for subject in subjects:
        looked = _looked_into(subject, candidates[subject.name], settings, prepare, instruments)
        candidates = {**candidates, subject.name: looked}
        yield candidates


def _failure(name: str, failures: Mapping[tuple[str, Mode], str]) -> str | None:
    """Say why a candidate failed, in both modes at once where it is the same."""
    reasons: dict[str, list[str]] = {}
    for (failed, mode), why in failures.items():
        if failed == name:
            reasons.setdefault(why, []).append(mode)
    return "; ".join(f"{' and '.join(modes)}: {why}" for why, modes in reasons.items()) or None


def _call(prepare: Prepare, subject: _Subject, mode: Mode) -> latency.Call:
    return prepare(subject, mode).run


# Sessions until the time is spent, or the intervals are narrow -------------------------------------------------------


def timed(
    makers: Mapping[Mode, Mapping[str, Callable[[], latency.Call]]],
    settings: Settings,
    listener: Listener,
    clock: latency.Clock,
) -> Iterator[tuple[dict[str, ByMode[Latency]], Mapping[tuple[str, Mode], str]]]:
    """Yield the latencies by candidate and mode, and what failed in which mode, after each session."""
    names = list(dict.fromkeys(name for mode in makers.values() for name in mode))
    time_s = settings.time_s or max(10.0, 5.0 * len(names))
    on_cuda = torch.device(settings.device).type == "cuda"
    started = clock.now()
    stream = latency.sessions(
        makers,
        session_s=time_s / SESSIONS_AT_MOST / len(makers),
        seed=settings.seed,
        clock=dataclasses.replace(clock, threads=lambda: 1) if on_cuda else clock,
        timer=latency.cuda_timer(settings.device) if on_cuda else None,
        progress=lambda: listener.progress(min(1.0, (clock.now() - started) / time_s)),
    )
    measured: list[latency.Session] = []
    for session in stream:
        measured.append(session)
        latencies = {name: _by_mode(name, measured) for name in names}
        yield latencies, session.failures
        spent = clock.now() - started
        # The passes that follow take about as long as a session: they belong to the same time.
        if len(measured) >= statistics.MIN_SESSIONS and spent * (1 + 1.25 / len(measured)) >= time_s:
            return
        if _narrow(list(latencies.values()), settings):
            return


SESSIONS_AT_MOST = 10
"""The time is cut into so many sessions; fewer where one burst of every candidate takes longer."""


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
    )


def _narrow(latencies: Sequence[ByMode[Latency]], settings: Settings) -> bool:
    """Say whether every interval is as narrow as was asked, over sessions enough."""
    return all(
        bounds is not None and number >= latency.SESSIONS_WANTED and statistics.half_width(bounds) <= settings.ci
        for mode in MODES
        for bounds, number in _intervals([latency_[mode] for latency_ in latencies], settings.margin)
    )


def _intervals(latencies: Sequence[Latency | None], margin: float) -> list[tuple[statistics.Interval | None, int]]:
    """Return the intervals of the ratios to the first, and their sessions; of the times where there is no ratio."""
    ratios = [time_ratio(latencies[0], other, margin) for other in latencies[1:]]
    found = [(ratio.ci95, ratio.sessions) for ratio in ratios if ratio is not None]
    return found or [(each.ci95_s, len(each.counted)) for each in latencies if each is not None]


# One look with the profiler ------------------------------------------------------------------------------------------


def _looked_into(
    subject: _Subject, candidate: Candidate, settings: Settings, prepare: Prepare, instruments: Instruments
) -> Candidate:
    """Add the peak memory of each mode, and where the time of the last one goes."""
    peaks: dict[Mode, Memory] = {}
    where: TimeByLayer | None = None
    failures = [candidate.failure] if candidate.failure else []
    for mode, latency_ in candidate.latency.items():
        try:
            step = prepare(subject, mode)
            if torch.device(settings.device).type == "cuda":
                peaks[mode] = memory.cuda_peak(step, settings.device)
                continue
            before = memory.standing_bytes(step.standing())
            seen = instruments.profiled(step)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a model may raise anything; what was measured is kept
            failures.append(f"{mode}, profiled: {said(error)}")
            continue
        peaks[mode] = memory.peak(before + seen.kept_bytes, seen.allocations)
        where = _time_by_layer(step.module, seen, mode, latency_)
    return dataclasses.replace(
        candidate,
        memory=ByMode(**peaks),
        time=None if settings.compile else where,
        failure="; ".join(failures) or None,
    )


def _time_by_layer(module: nn.Module, seen: operators.Pass, mode: Mode, latency_: Latency) -> TimeByLayer:
    kinds = {path: type(part).__name__ for path, part in module.named_modules()}
    layers = operators.by_layer(seen.events, kinds, training=mode == "training")
    total_s = sum(layer.forward_s + (layer.backward_s or 0.0) for layer in layers)
    return TimeByLayer(layers=layers, remainder_s=latency_.median_s - total_s, profiled_s=seen.wall_s)


# Any callables -------------------------------------------------------------------------------------------------------


def compare_calls(
    calls: Mapping[str, Callable[[], object]],
    time_s: float | None = None,
    *,
    ci: float = 0.005,
    margin: float = statistics.MARGIN,
    seed: int = 42,
    allocator: Literal["kept", "system"] = "kept",
    listener: Listener | None = None,
    instruments: Instruments | None = None,
) -> Comparison:
    """Time callables without arguments against the first of them, as `compare` times forward passes.

    Their parameters and MACs are not known: the profiles hold times alone. A callable that raises is left out, and its
    profile says why.
    """
    if len(calls) < 2:
        raise UsageError(f"compare_calls takes two callables or more and was given {len(calls)}")
    listener = listener or Listener()
    settings = _settings(
        None, 1, {"time_s": time_s, "ci": ci, "margin": margin, "seed": seed, "allocator": allocator, "device": "cpu"}
    )
    settings = dataclasses.replace(settings, modes=("inference",))
    start = _Start.of(settings)
    candidates: Candidates = {name: Candidate(name, analysis=None) for name in calls}
    makers: dict[Mode, dict[str, Callable[[], latency.Call]]] = {
        "inference": {name: partial(_itself, call) for name, call in calls.items()}
    }
    run = start.comparison(candidates, partial=True)
    try:
        with machine.kept_allocator(allocator == "kept"):
            for latencies, failures in timed(makers, settings, listener, (instruments or Instruments()).clock):
                candidates = {
                    name: Candidate(name, analysis=None, latency=latencies[name], failure=_failure(name, failures))
                    for name in calls
                }
                run = start.comparison(candidates, partial=True)
                listener.update(run)
    except KeyboardInterrupt:
        raise Interrupted(run) from None
    return start.comparison(candidates, partial=False)


def _itself(call: latency.Call) -> latency.Call:
    return call
