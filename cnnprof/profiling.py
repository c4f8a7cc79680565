"""Models to profiles, measured together: the only place where models, analysis and measurement meet.

models -> analyzed on shapes -> measured in sessions -> looked into once by the profiler -> a document
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import nn

from cnnprof import machine, module_tree, origin, statistics, steps, timing
from cnnprof.analysis import counts
from cnnprof.analysis.mixing import mixing
from cnnprof.analysis.opinions import TOOLS, Tool
from cnnprof.analysis.rank import ranks
from cnnprof.comparison.doubts import doubts
from cnnprof.comparison.ratios import contrast, filled
from cnnprof.comparison.roofline import FLOAT32_BYTES, against_the_roof
from cnnprof.errors import Interrupted, UsageError, said
from cnnprof.footprint import saved_by_layer
from cnnprof.inputs import input_type, tensors_in, torch_name
from cnnprof.matching import matched
from cnnprof.measurement import latency, memory, operators
from cnnprof.measurement.field import effective_field
from cnnprof.models import catalog
from cnnprof.models.residual import ResNet
from cnnprof.peaks import peaks
from cnnprof.records import (
    BATCH_SIZE,
    MODES,
    Analysis,
    ByMode,
    Candidate,
    Comparison,
    Count,
    Doubt,
    EffectiveField,
    Latency,
    LayerRoof,
    Machine,
    MachineReport,
    Memory,
    Mixing,
    Mode,
    Noise,
    Peaks,
    Profile,
    RatioMap,
    Run,
    Settings,
    TimeByLayer,
)
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import (
    Loss,
    Model,
    Options,
    Subject,
    checked,
    explain_inputs,
    of_run,
    settings_of,
    subject_of,
    told_apart,
)
from cnnprof.timing import Candidates, Workbench


@dataclass(frozen=True)
class Listener:
    """Who hears of a run while it goes on: each state of the document, and the share of the time that is spent."""

    update: Callable[[Run], None] | None = None
    progress: Callable[[float], None] = lambda share: None


@dataclass(frozen=True)
class Instruments:
    """What is measured with: the clock, and the profiler of operators and allocations; tests put in their own."""

    clock: latency.Clock = field(default_factory=latency.Clock)
    profiled: Callable[..., operators.Pass] = operators.profiled
    """Takes a step, and `time_s` of None where its times are not wanted."""

    @classmethod
    def tracing(cls, path: Path) -> "Instruments":
        """Save the last profiled pass of a model to a file, too."""
        return cls(profiled=partial(operators.profiled, trace=path))


# What users call -----------------------------------------------------------------------------------------------------


@deep_recursion()
def analyze(
    model: Model,
    input_size: Sequence[int] | int | None = None,
    batch_size: int | None = None,
    *,
    inputs: Any = None,
    mode: Mode = "inference",
    tools: Sequence[Tool] = (),
) -> Analysis:
    """Count a model's parameters, MACs, activations and bytes by layer, on shapes alone.

    `mode` is `inference`, the forward pass in eval mode, or `training`: forward and backward, in training mode. `tools`
    ("fvcore", "torch") run beside, on the CPU, and their difference is itemised in `opinions`; forward passes only.
    `input_size` is (C, H, W) without the batch, or the side of a square image; `inputs` a tensor or a tuple, whose last
    item may be a dict of keyword arguments, batch included; `batch_size` (1 by default) beside them says how many
    images they hold, else figures are of the call. The model is left as it is. Raises UsageError where it refuses the
    input, naming the layer and its input's shape.
    """
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: {' or '.join(MODES)} was expected")
    unknown = [tool for tool in tools if tool not in TOOLS]
    if unknown or (tools and mode != "inference"):
        raise UsageError(f"second opinion of {tools!r}: {' or '.join(TOOLS)} of a forward pass was expected")
    subject = subject_of(None, model, input_size, batch_size, inputs)
    return analyzed(subject, subject.own.batch_size or batch_size or 1, mode, tools)


@deep_recursion()
def profile(
    model: Model,
    input_size: Sequence[int] | int | None = None,
    batch_size: int | None = None,
    *,
    inputs: Any = None,
    loss: Loss | str | None = None,
    listener: Listener | None = None,
    instruments: Instruments | None = None,
    **options: Unpack[Options],
) -> Profile:
    """Analyze and measure one model: its forward pass and training step, their memory, and where the time goes.

    `batch_size` is 8 by default; beside `inputs` it says how many images they hold, else figures are of the call.
    Raises UsageError for unusable input, and Interrupted, with what was measured, at Ctrl-C.
    """
    settings = settings_of(input_size, batch_size or BATCH_SIZE, options, loss)
    subject = subject_of(None, model, input_size, batch_size, inputs)
    run = _measured([subject], settings, loss, listener or Listener(), instruments or Instruments(), alone=True)
    assert isinstance(run, Profile)
    return run


@deep_recursion()
def compare(
    models: Mapping[str, Model] | Sequence[Model],
    input_size: Sequence[int] | int | None = None,
    batch_size: int | None = None,
    *,
    inputs: Any = None,
    over: Mapping[str, Sequence[object]] | None = None,
    match: Count | None = None,
    vary: str | None = None,
    loss: Loss | str | None = None,
    listener: Listener | None = None,
    instruments: Instruments | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Analyze and measure models together; the first is the baseline.

    `batch_size` is 8 by default; beside `inputs` it says how many images they hold, else figures are of the call.
    `over` tries values of settings or arguments of MODEL strings, by name; two models over one or two of them, the
    batch alone apart, make a map of ratios at equal values. `match` brings every later MODEL string as near to the
    first as its argument `vary` does: see `matched`. Modules are copied for every session, so yours stay as they are.
    Raises UsageError for unusable input, and Interrupted, with what was measured, at Ctrl-C.
    """
    if isinstance(models, str | nn.Module):
        raise UsageError("compare takes a list or dict of models and was given one model; `profile` looks at one")
    if vary and not match:
        raise UsageError(f"vary {vary!r}: without a match, params or macs, nothing is varied")
    named = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    rows = [[(name, each) for each in _varied(model, over or {})] for name, model in named]
    plan, number = _plan(models, over or {}), sum(map(len, rows))
    if number < 2:
        raise UsageError(f"compare takes two models or more and was given {number}; `profile` looks at one")
    if number > (2 * MOST if plan else MOST):
        raise UsageError(
            f"compare takes {MOST} models, or a map of {MOST} pairs, at most and was asked for {number} models"
        )
    if match:
        rows[1:] = [_matched(rows[0], row, match, vary, input_size) for row in rows[1:]]
    settings = settings_of(input_size, batch_size or BATCH_SIZE, options, loss)
    each = [subject_of(name, model, input_size, batch_size, inputs) for row in rows for name, model in row]
    run = _measured(
        told_apart(each), settings, loss, listener or Listener(), instruments or Instruments(), alone=False, plan=plan
    )
    assert isinstance(run, Comparison)
    return run


MOST = 20
"""More candidates share the time too thinly, and no table holds them."""


_Named = tuple[str | None, Model]


def _matched(
    firsts: Sequence[_Named], row: Sequence[_Named], by: Count, vary: str | None, size: Sequence[int] | int | None
) -> list[_Named]:
    """Bring each model near to the first one with the same values."""
    pairs = zip(firsts, row, strict=True)
    return [(name, matched(first, model, by, vary, size)) for (_, first), (name, model) in pairs]


def _varied(model: Model, over: Mapping[str, Sequence[object]]) -> Sequence[Model]:
    if not over:
        return [model]
    if not isinstance(model, str):
        raise UsageError(
            f"over {', '.join(over)}: {type(model).__name__} is no MODEL string, whose values can be tried"
        )
    return catalog.varied(model, {name: list(map(str, values)) for name, values in over.items()})


def _plan(models: Mapping[str, Model] | Sequence[Model], over: Mapping[str, Sequence[object]]) -> RatioMap | None:
    """Plan a map of two models over several values, but not over the batch alone, which has a picture of its own."""
    names = list(models)
    axes = {name: tuple(map(str, values)) for name, values in over.items()}
    several = sum(len(values) > 1 for values in axes.values())
    if len(names) != 2 or not several or len(axes) > 2 or set(axes) <= {"b", "batch-size"}:
        return None
    return RatioMap(str(names[0]), str(names[1]), axes)


# Shapes alone --------------------------------------------------------------------------------------------------------


def analyzed(subject: Subject, batch_size: int = 1, mode: Mode = "inference", tools: Sequence[Tool] = ()) -> Analysis:
    """Count on shapes alone."""
    with explain_inputs(subject):
        analysis = counts.analyze(
            subject.module,
            subject.shapes(batch_size),
            model=subject.resolved,
            input_size=subject.input_size,
            mode=mode,
            tools=tools,
            with_weights=subject.build,
        )
    residual = [part for part in module_tree.modules(subject.module) if isinstance(part, ResNet)]
    without_bottleneck = [Doubt(subject.name, part.doubt) for part in residual if part.doubt]
    return dataclasses.replace(analysis, doubts=(*analysis.doubts, *without_bottleneck))


# A run ---------------------------------------------------------------------------------------------------------------


def _measured(
    subjects: Sequence[Subject],
    settings: Settings,
    loss: Loss | str | None,
    listener: Listener,
    instruments: Instruments,
    alone: bool,
    plan: RatioMap | None = None,
) -> Run:
    """Analyze, measure in sessions, look into profiled passes of each, and write down every state on the way."""
    for subject in subjects:
        checked(settings.of(subject.own))
    exact = {subject.name: _exact(subject, settings) for subject in subjects}
    bench = Workbench(subjects, settings, loss)
    with timing.surroundings(settings):
        start = _Start.of(of_run(settings, subjects))
        states = _measurements(bench, start, exact, listener, instruments, by_layer=plan is None)
        document = start.profile if alone else partial(start.comparison, plan=plan)
        return _written_down(document, exact, states, listener)


def _written_down(
    document: "Callable[[Candidates, bool], Run]", known: Candidates, states: Iterator[Candidates], listener: Listener
) -> Run:
    """Tell the listener each state; at Ctrl-C the last one is what was measured.

    Where nobody listens no documents are made on the way: processors that idle meanwhile start slowly again.
    """
    try:
        for state in chain([known], states):
            known = state
            if listener.update is not None:
                listener.update(document(known, True))
    except KeyboardInterrupt:
        raise Interrupted(document(known, True)) from None
    return document(known, False)


def _exact(subject: Subject, settings: Settings) -> Candidate:
    analysis = analyzed(subject)
    if "training" in settings.modes and not subject.trainable:
        doubt = Doubt(subject.name, "it has no parameter that requires a gradient: no training step was measured")
        analysis = dataclasses.replace(analysis, doubts=(*analysis.doubts, doubt))
    return Candidate(
        name=subject.name,
        analysis=analysis,
        batch_size=analysis.batch_size if subject.own_inputs else settings.of(subject.own).batch_size,
        settings=subject.own,
        mixing=(found := _mixing(subject, analysis)),
        effective_field=_effective_field(subject, found, settings) if settings.erf else None,
        kept=saved_by_layer(subject, settings) if "training" in settings.modes and subject.trainable else (),
        matched=subject.matched,
        model=subject.model,
        dtype=steps.type_name(subject.module, settings.of(subject.own)),
    )


def _effective_field(subject: Subject, mixing: Mixing, settings: Settings) -> EffectiveField | None:
    """Measure at the last layer that does not see all of the input; None where it is fed more than an image."""
    layers = [layer.path for layer in mixing.layers if isinstance(layer.receptive_field, tuple)]
    if subject.input_size is None or len(subject.input_size) != 3 or not layers:
        return None
    path = "" if isinstance(mixing.receptive_field, tuple) else layers[-1]
    try:
        return effective_field(subject.build, subject.input_size, path, settings.seed)
    except (Exception, SystemExit):  # noqa: BLE001  # a model may raise anything; its own measurement will say so
        return None


def _mixing(subject: Subject, analysis: Analysis) -> Mixing:
    image = subject.shapes(1)
    found = mixing(subject.module, image)
    with torch.random.fork_rng(devices=[]):
        rank = ranks(subject.build, subject.module, image, analysis.macs // analysis.images)
    return found if rank is None else dataclasses.replace(found, rank=rank[0], rank_with_skips=rank[1])


@dataclass(frozen=True)
class _Start:
    """What a document says of the moment at which measuring began."""

    command: str
    commit: str | None
    created: str
    machine: Machine
    settings: Settings
    peaks: Peaks | None

    @classmethod
    def of(cls, settings: Settings) -> "_Start":
        here = machine.describe(settings.device, settings.allocator)
        return cls(
            origin.command(), origin.commit(), origin.now(), here, settings, peaks(here) if settings.roofline else None
        )

    def comparison(self, candidates: Candidates, partial: bool, plan: RatioMap | None = None) -> Comparison:
        profiles = tuple(candidates.values())
        contrasts = tuple(contrast(profiles[0], profile, self.settings.margin) for profile in profiles[1:])
        map = plan and filled(plan, profiles, self.settings.margin)
        return Comparison(
            **vars(self),
            baseline=profiles[0].name,
            profiles=profiles,
            comparisons=contrasts,
            doubts=doubts(self.machine, self.settings, profiles, contrasts, partial, map),
            partial=partial,
            map=map,
        )

    def profile(self, candidates: Mapping[str, Candidate], partial: bool) -> Profile:
        (only,) = candidates.values()
        about = doubts(self.machine, self.settings, [only], [], partial)
        return Profile(**vars(self), profiles=(only,), doubts=about, partial=partial)


def _measurements(
    bench: Workbench, start: _Start, exact: Candidates, listener: Listener, instruments: Instruments, by_layer: bool
) -> Iterator[Candidates]:
    """Yield what is known after each session, then after each candidate's profiled passes."""
    plan, candidates = timing.Plan(), exact
    stream = bench.sessions()
    for candidates in timing.timed(exact, stream, bench.settings, instruments.clock, plan, listener.progress):
        yield candidates
    for subject in bench.subjects:
        with latency.torch_threads(subject.own.threads):
            looked = _looked_into(bench, subject, candidates[subject.name], instruments, start, by_layer)
        candidates = {**candidates, subject.name: looked}
        yield candidates


# A look with the profiler --------------------------------------------------------------------------------------------


def _looked_into(
    bench: Workbench,
    subject: Subject,
    candidate: Candidate,
    instruments: Instruments,
    start: _Start,
    by_layer: bool,
) -> Candidate:
    """Add the peak memory of each mode, where the time of the last one goes, and whether its numbers are numbers."""
    memories: dict[Mode, Memory] = {}
    roofs: tuple[LayerRoof, ...] = ()
    where: TimeByLayer | None = None
    failures = [candidate.failure] if candidate.failure else []
    not_numbers: list[Mode] = []
    *_, last = (None, *(mode for mode, _ in candidate.latency.items()))
    for mode, latency_ in candidate.latency.items():
        try:
            step = bench.step(subject, mode)
            on_cuda = memory.cuda_peak(step, step.device) if step.on_cuda else None
            before = memory.standing_bytes(step.standing())
            wanted = by_layer and (mode == last or (mode == "inference" and bench.settings.roofline))
            seen = instruments.profiled(step) if wanted else instruments.profiled(step, time_s=None)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a model may raise anything; what was measured is kept
            failures.append(f"{mode}, profiled: {said(error)}")
            continue
        memories[mode] = on_cuda or memory.peak(before + seen.kept_bytes, seen.allocations)
        where = None if step.compiled or not wanted else _time_by_layer(step.module, seen, mode, latency_)
        if where is not None and mode == "inference" and start.settings.roofline:
            roofs = _against_the_roof(bench, subject, where, start.machine)
        not_numbers += [mode] if _holds_nan(seen.result) else []
    return dataclasses.replace(
        candidate,
        memory=ByMode(**memories),
        time=where,
        roofline=roofs,
        not_numbers=tuple(not_numbers),
        failure="; ".join(failures) or None,
    )


def _against_the_roof(bench: Workbench, subject: Subject, where: TimeByLayer, here: Machine) -> tuple[LayerRoof, ...]:
    own = bench.own(subject)
    counted = input_type(subject.module)
    dtype = torch.bfloat16 if own.amp else steps.asked_type(own) or counted
    roofs = peaks(dataclasses.replace(here, threads=torch.get_num_threads()))
    analysis = analyzed(subject, own.images)
    element_bytes = FLOAT32_BYTES * dtype.itemsize // counted.itemsize
    return against_the_roof(analysis, where.layers, roofs, torch_name(dtype), element_bytes)


def _holds_nan(result: Any) -> bool:
    return any(tensor.is_floating_point() and bool(tensor.isnan().any()) for tensor in tensors_in(result))


def _time_by_layer(module: nn.Module, seen: operators.Pass, mode: Mode, latency_: Latency) -> TimeByLayer:
    kinds = {path: type(part).__name__ for path, part in module_tree.named_modules(module)}
    training = mode == "training"
    layers = operators.by_layer(seen.times, kinds, training)
    total_s = sum(layer.forward_s + (layer.backward_s or 0.0) for layer in layers)
    return TimeByLayer(
        layers=layers,
        remainder_s=latency_.median_s - total_s,
        profiled_s=seen.wall_s,
        operators=operators.by_operator(seen.times, training),
        passes=seen.passes,
        mode=mode,
    )


# The machine ---------------------------------------------------------------------------------------------------------


def doctor(
    device: str = "auto",
    threads: int | None = None,
    *,
    anew: bool = False,
    time_s: float = 3.0,
    progress: Callable[[float], None] = lambda share: None,
) -> MachineReport:
    """Tell what this machine is, what it can do at most, and how quiet it is.

    Its roofs are measured once, and `anew` where that is asked for; its noise is that of two equal calls, compared for
    `time_s` seconds. Raises UsageError for a device that is not there.
    """
    settings = settings_of(None, 1, {"device": device, "threads": threads})
    with timing.surroundings(settings):
        here = machine.describe(settings.device, settings.allocator)
        roofs = peaks(here, anew, progress)
        equals = _two_equals(time_s)
    ratio, latency_ = equals.comparisons[0].latency, equals.profiles[0].latency.inference
    waited = 1 - latency_.got_share if latency_ and latency_.got_share is not None else None
    noise = Noise(ratio.ratio, ratio.ci95, ratio.verdict, waited) if ratio else None
    return MachineReport(origin.command(), origin.now(), here, roofs, noise, equals.doubts)


def _two_equals(time_s: float) -> Comparison:
    """Compare a convolution with one like it."""

    def convolution() -> latency.Call:
        image, weight = torch.randn(4, 64, 56, 56), torch.randn(64, 64, 3, 3)
        return lambda: torch.nn.functional.conv2d(image, weight, padding=1)

    with torch.random.fork_rng(devices=[]):
        return compare_calls({"one": convolution(), "the other": convolution()}, time_s)


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
    settings = settings_of(
        None, 1, {"time_s": time_s, "ci": ci, "margin": margin, "seed": seed, "allocator": allocator, "device": "cpu"}
    )
    settings = dataclasses.replace(settings, modes=("inference",))
    start = _Start.of(settings)
    candidates = {name: Candidate(name, analysis=None) for name in calls}
    listener, clock = listener or Listener(), (instruments or Instruments()).clock
    with machine.kept_allocator(allocator == "kept"):
        states = timing.timed(candidates, timing.of_calls(calls), settings, clock, timing.OF_CALLS, listener.progress)
        run = _written_down(start.comparison, candidates, states, listener)
    assert isinstance(run, Comparison)
    return run
