"""A run against a baseline: exact numbers exactly, times by their intervals. No torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from cnnprof import origin, statistics, units
from cnnprof.comparison.doubts import uncounted_text
from cnnprof.comparison.growth import growth
from cnnprof.comparison.growth import text as growth_text
from cnnprof.comparison.joined import differing
from cnnprof.comparison.limits import (
    EXACT,
    OF_LAYERS,
    PEAKS,
    TIMES,
    Limit,
    by_layer,
    is_like,
    refuse_unknown,
    that_hold,
)
from cnnprof.comparison.ratios import TimeRatioOf, batches_known, in_runs_apart, in_two_processes
from cnnprof.errors import UsageError
from cnnprof.records import (
    OWN_TYPE,
    Candidate,
    Doubt,
    Gate,
    GateResult,
    GateTimes,
    GateVerdict,
    Latency,
    LayerChange,
    Machine,
    Run,
    Settings,
    Side,
    TimeRatio,
    Uncounted,
)

Pair = tuple[Candidate, Candidate]
"""A model in the baseline, and now."""
LISTED: tuple[str, ...] = ("params", "macs")
"""What layers' changes are told of."""


@dataclass(frozen=True)
class Terms:
    """How both sides were measured, and so what of them may be compared."""

    time_ratio: TimeRatioOf = in_two_processes
    measured_s: float | None = None
    """Seconds in which times were taken; None where that is not known."""
    why_no_time: str = ""
    """Why times are not compared, where they are not."""
    other_kernels: str = ""
    """What differs between the machines of what a kernel's own memory depends on."""
    settings: tuple[Settings, Settings] | None = None
    """Then and now; None where they are the same."""
    hint: str = ""
    """What adds a model to the baseline."""
    threads: int | None = None
    """Of this run; None where that is not known."""

    def otherwise(self, pair: Pair, names: Sequence[str]) -> str:
        """Name the first setting that a number depends on, and in which both sides differ; else nothing."""
        run = self.settings or (Settings(), Settings())
        sides = tuple(zip(run, pair, strict=True))
        then, now = (vars(each.measured_with(settings)) | {"batch_size": each.batch_size} for settings, each in sides)
        ignored = {"batch_size"} if None in (then["batch_size"], now["batch_size"]) else set()
        if all(settings.of(each.settings).dtype == OWN_TYPE for settings, each in sides):
            ignored |= {"dtype"}  # a change of the model, which is what is asked about
        name = next((name for name in names if name not in ignored and then[name] != now[name]), None)
        return _otherwise(name, then[name], now[name]) if name else ""


_OF_STEPS = ("optimizer", "accumulate", "loss")
_OF_PEAKS = ("batch_size", "device", "dtype", "amp", "channels_last", "compile")
_OF_TIMES = (*_OF_PEAKS, "threads", "allocator", "cudnn_benchmark", "tf32")
OF_NUMBER: Mapping[str, tuple[str, ...]] = {
    "peak_bytes": _OF_PEAKS,
    "training_peak_bytes": (*_OF_PEAKS, *_OF_STEPS),
    "latency": _OF_TIMES,
    "training_latency": (*_OF_TIMES, *_OF_STEPS),
}
"""Settings that a number depends on."""


def of_runs(
    limits: Sequence[Limit],
    baseline: Run | None,
    run: Run,
    against: str,
    measured_s: float | None = None,
    time_ratio: TimeRatioOf = in_runs_apart,
) -> Gate:
    """Hold one run to another, or to nothing yet. Times of machines, or of settings, that differ are not compared."""
    terms = Terms(time_ratio, measured_s, hint="--update adds it")
    if baseline is None:
        gate = held(limits, (), run, against, terms)
        none = Doubt(against, "it is not there yet", "--update writes it")
        return replace(gate, doubts=(none, *_doubts(run)))
    terms = replace(
        terms,
        why_no_time=elsewhere(baseline.machine, run.machine),
        other_kernels=_differing_kernels(baseline.machine, run.machine),
        settings=(baseline.settings, run.settings),
    )
    gate = held(limits, baseline.profiles, run, against, terms)
    sides = {"the baseline": baseline, "this run": run}
    broken_off = [Doubt(name, "measuring it was interrupted") for name, side in sides.items() if side.partial]
    return replace(gate, doubts=(*broken_off, *gate.doubts))


def measured(candidate: Candidate) -> tuple[str, ...]:
    """Name what a run holds of a model beside its counts, which every run has."""
    peaks = [metric for metric, mode in PEAKS.items() if candidate.memory[mode] is not None]
    return (*peaks, *(metric for metric, mode in TIMES.items() if candidate.latency[mode] is not None))


def lost(baseline: Run, run: Run) -> tuple[str, ...]:
    """Name models, and numbers of models, that a baseline holds and a run does not."""
    kept = {before.name: measured(now) for before, now in _pairs(baseline.profiles, run.profiles)}
    models = [each.name for each in baseline.profiles if each.name not in kept]
    numbers = [
        f"{metric} of {each.name}"
        for each in baseline.profiles
        for metric in measured(each)
        if metric not in kept.get(each.name, measured(each))
    ]
    return (*models, *numbers)


def elsewhere(then: Machine, now: Machine) -> str:
    """Say how a machine differs from a baseline's, and in what it was told; empty where it does not."""
    names = differing(then, now)
    if not {"threads", "allocator"}.issuperset(names):
        return f"its machine is another: {', '.join(names)}"
    return "; ".join(_otherwise(name, getattr(then, name), getattr(now, name)) for name in names)


def _differing_kernels(then: Machine, now: Machine) -> str:
    names = ("cpu", "instructions", "threads", "torch") if now.device == "cpu" else ("device_name", "torch")
    return ", ".join(name for name in names if getattr(then, name) != getattr(now, name))


def _otherwise(name: str, then: object, now: object) -> str:
    return f"it was measured otherwise: {name} {then}, and now {now}"


def held(limits: Sequence[Limit], baseline: Sequence[Candidate], run: Run, against: str, terms: Terms) -> Gate:
    """Hold a run to what models were before; see `judged`."""
    pairs = _pairs(baseline, run.profiles)
    return Gate(
        command=origin.command(),
        commit=run.commit,
        created=origin.now(),
        against=against,
        models=tuple(candidate.name for candidate in run.profiles),
        limits=tuple(map(str, limits)),
        results=judged(limits, baseline, run.profiles, replace(terms, threads=run.machine.threads)),
        changes=tuple(
            change
            for pair in pairs
            if not _other_inputs(*pair) and not _other_call(pair, "macs")
            for change in changes(pair)
        ),
        times=tuple(
            GateTimes(now.name, mode, then, latency)
            for before, now in pairs
            for mode, latency in now.latency.items()
            if (then := before.latency[mode]) is not None
        ),
        machine=run.machine,
        settings=run.settings,
        doubts=(*without_baseline(baseline, run.profiles, terms.hint), *_doubts(run)),
    )


def paired(baseline: Sequence[Candidate], candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Find the baseline of each candidate: by its label, else by its MODEL, where only one goes by that."""
    found = {}
    for candidate in candidates:
        named = [each for each in baseline if each.name == candidate.name]
        like = named or [each for each in baseline if each.model is not None and each.model == candidate.model]
        if len(like) == 1:
            found[candidate.name] = like[0]
    return found


def judged(
    limits: Sequence[Limit], baseline: Sequence[Candidate], candidates: Sequence[Candidate], terms: Terms
) -> tuple[GateResult, ...]:
    """Hold every model that has a baseline against its limits.

    A model that is fed otherwise than it was fails, and so does one that is not measured to its end. Raises UsageError
    for a limit that is on no model and no layer.
    """
    before = paired(baseline, candidates)
    _refuse_idle(limits, [*baseline, *candidates], _pairs(baseline, candidates), terms)
    results: list[GateResult] = []
    for candidate in candidates:
        mine = that_hold(limits, candidate.name)
        if candidate.name not in before:
            broken = [limit for limit in mine if limit.metric in TIMES and candidate.failure]
            results += [_unknown(candidate, limit, "failed", candidate.failure or "") for limit in broken]
            continue
        pair = _comparable(before[candidate.name], candidate)
        results += [_held(pair, limit, terms) for limit in mine]
        results += [each for limit in limits for each in _layers(pair, limit)]
    return tuple(results)


def _held(pair: Pair, limit: Limit, terms: Terms) -> GateResult:
    fed = _other_inputs(*pair)
    if fed:
        return _unknown(pair[1], limit, "failed", fed)
    other = terms.otherwise(pair, OF_NUMBER.get(limit.metric, ())) or _other_call(pair, limit.metric)
    if limit.metric in TIMES:
        return _time(pair, limit, terms, terms.why_no_time or other)
    return _exact(pair, limit, other, terms.other_kernels)


def _unknown(candidate: Candidate, limit: Limit, verdict: GateVerdict, message: str) -> GateResult:
    return GateResult(candidate.name, limit.metric, None, float(limit.growth), None, None, verdict, message=message)


def _doubts(run: Run) -> Iterator[Doubt]:
    for candidate in run.profiles:
        if candidate.failure:
            yield Doubt(candidate.name, f"it was not measured to its end: {candidate.failure}")
        if candidate.analysis and candidate.analysis.uncounted:
            yield Doubt(candidate.name, uncounted_text(candidate.analysis), "its MACs are a lower bound")


OPEN: tuple[GateVerdict, ...] = ("failed", "inconclusive")
"""What one measurement of a time does not settle."""


def is_open(gate: Gate, verdicts: Sequence[GateVerdict] = OPEN) -> bool:
    """Say whether a time that was measured has one of some verdicts."""
    return any(_is_open(result, verdicts) for result in gate.results)


def _is_open(result: GateResult, verdicts: Sequence[GateVerdict] = OPEN) -> bool:
    timed = result.baseline is not None and result.candidate is not None
    return result.metric in TIMES and timed and result.verdict in verdicts


def settled(gate: Gate, again: Gate, independent: bool = True) -> Gate:
    """Let a second measurement have its say where one did not settle a time: both decide together."""
    others = {(each.model, each.metric): each for each in again.results if each.metric in TIMES}
    results = tuple(
        _settled(each, others[each.model, each.metric], independent) if (each.model, each.metric) in others else each
        for each in gate.results
    )
    doubts = tuple(dict.fromkeys((*gate.doubts, *again.doubts)))
    return replace(gate, results=results, times=(*gate.times, *again.times), doubts=doubts)


def cut_short(gate: Gate) -> Gate:
    """Mark a gate partial: times are open where they had not passed by then."""
    said = "measuring it was interrupted"
    results = (
        replace(each, verdict="inconclusive", message=said) if each.metric in TIMES and each.verdict in OPEN else each
        for each in gate.results
    )
    return replace(gate, results=tuple(results), partial=True)


def unsettled(gate: Gate, why: str) -> Gate:
    """Leave open what only a second measurement would have settled, and say why there was none."""
    return replace(gate, results=tuple(_alone(each, why) if _is_open(each) else each for each in gate.results))


def _alone(first: GateResult, why: str, verdict: GateVerdict = "inconclusive") -> GateResult:
    then = first.message if first.change is None else units.change(first.change)
    return replace(first, verdict=verdict, message=f"measured twice: {then}, and then nothing: {why}")


def _settled(first: GateResult, second: GateResult, independent: bool) -> GateResult:
    if not _is_open(first) or first.grows:
        return first
    then, now = _measured(first), _measured(second)
    if now is None:
        broken = second.verdict == "failed"
        starved_twice = then is None and not broken
        return first if starved_twice else _alone(first, second.message, "failed" if broken else "inconclusive")
    if then is None:  # the first time something else had the processors
        unconfirmed = replace(second, verdict="inconclusive", message="no second measurement confirms it")
        return second if second.verdict != "failed" else unconfirmed
    ratio, bounds = statistics.pooled(then, now, independent)
    verdict = _side(bounds, 1 + first.limit)
    said = f"measured twice: {units.change(then[0] - 1)}, and then {units.change(now[0] - 1)}"
    if verdict == "inconclusive":
        said = f"{said}; {first.message or second.message or 'they disagree: another gate would tell'}"
    return replace(
        first,
        change=ratio - 1,
        ci95=(bounds[0] - 1, bounds[1] - 1),
        verdict=verdict,
        baseline=_mean(first.baseline, second.baseline),
        candidate=_mean(first.candidate, second.candidate),
        message=said,
    )


def _pairs(baseline: Sequence[Candidate], candidates: Sequence[Candidate]) -> list[Pair]:
    before = paired(baseline, candidates)
    return [_comparable(before[each.name], each) for each in candidates if each.name in before]


def _comparable(before: Candidate, now: Candidate) -> Pair:
    """Take the counts of both as those of a call where the batch of either is not known."""
    if batches_known(before, now):
        return before, now
    return _of_a_call(before), _of_a_call(now)


def _of_a_call(candidate: Candidate) -> Candidate:
    return replace(candidate, analysis=candidate.analysis and replace(candidate.analysis, batch_size=None))


def _mean(first_s: float | None, second_s: float | None) -> float | None:
    return math.sqrt(first_s * second_s) if first_s and second_s else None


def _measured(result: GateResult) -> statistics.Measured | None:
    if result.change is None or result.ci95 is None:
        return None
    return 1 + result.change, (1 + result.ci95[0], 1 + result.ci95[1])


def without_baseline(baseline: Sequence[Candidate], candidates: Sequence[Candidate], hint: str = "") -> Iterator[Doubt]:
    """Say which models are on one side alone."""
    before = paired(baseline, candidates)
    for candidate in candidates:
        if candidate.name not in before:
            yield Doubt(candidate.name, "the baseline does not hold it: nothing was compared", hint)
    used = {each.name for each in before.values()}
    for each in baseline:
        if each.name not in used:
            yield Doubt(each.name, "the baseline holds it, but it was not looked at")


def _refuse_idle(limits: Sequence[Limit], everywhere: Sequence[Candidate], pairs: Sequence[Pair], terms: Terms) -> None:
    names = {candidate.name for candidate in everywhere}
    refuse_unknown(limits, names)
    for limit in limits:
        if any(limit.holds_of(name) for name in names):
            both = [pair for pair in pairs if limit.holds_of(pair[1].name)]
            measured = terms.measured_s is not None and limit.metric in TIMES  # what it lacks is told of each model
            if both and not measured and not _is_known(both, limit.metric):
                raise UsageError(f"limit {limit}: neither the baseline nor this run holds {limit.metric}")
            continue
        patterns = {name: pattern for name in names if (pattern := limit.layers_of(name)) is not None}
        both = [pair for pair in pairs if pair[1].name in patterns]
        if both and not any(_chosen(pair, limit, patterns[pair[1].name]) for pair in both):
            pattern = patterns[both[0][1].name]
            within = f"; {pattern}.* are those within it" if _chosen(both[0], limit, f"{pattern}.*") else ""
            raise UsageError(f"limit {limit}: no layer is called {pattern!r}, then or now{within}")


def _is_known(pairs: Sequence[Pair], metric: str) -> bool:
    """Say whether any model has a number, or failed on the way to it."""
    everyone = [candidate for pair in pairs for candidate in pair]
    if metric in TIMES:
        return any(candidate.latency[TIMES[metric]] or candidate.failure for candidate in everyone)
    return any(EXACT[metric](candidate) is not None for candidate in everyone)


def _other_inputs(before: Candidate, now: Candidate) -> str | None:
    """Say how two models differ in what they are fed; None where they do not."""
    if before.analysis is None or now.analysis is None:
        return None
    then, here = before.analysis.input_size, now.analysis.input_size
    return None if then == here else f"its baseline was taken at {units.size(then)}, and this is {units.size(here)}"


_OF_A_CALL = (*OF_LAYERS[1:], *PEAKS, *TIMES)
"""Numbers that grow with the inputs of a call."""


def _other_call(pair: Pair, metric: str) -> str:
    """Say how inputs whose batch is not known differ in shape; empty where they do not, or a number is of no call."""
    then, now = (
        each.analysis.layers[0].input_shape if each.analysis and each.analysis.layers else None for each in pair
    )
    if metric not in _OF_A_CALL or batches_known(*pair) or then == now:
        return ""
    return f"it was fed otherwise: {units.size(then)}, and now {units.size(now)}"


# Exact numbers -------------------------------------------------------------------------------------------------------


def _exact(pair: Pair, limit: Limit, why_not: str, other_kernels: str) -> GateResult:
    before, now = (EXACT[limit.metric](each) for each in pair)
    if before is None:
        return _unknown(pair[1], limit, "skipped", "not in the baseline")
    if now is None:
        return _unknown(pair[1], limit, "inconclusive", GONE)
    if why_not:
        return _result(pair, limit, None, before, now, "skipped", why_not)
    verdict: GateVerdict = "failed" if now > before * (1 + limit.growth) else "passed"
    if limit.metric in ARITHMETIC and verdict == "passed" and (new := _newly_uncounted(*pair)):
        return _result(pair, limit, new.path, before, now, "inconclusive", _not_counted(new))
    mode = PEAKS.get(limit.metric)
    if mode is None:
        return _result(pair, limit, _most_grown(pair, limit.metric), before, now, verdict)
    then, here = (each.memory[mode] for each in pair)
    assert then is not None
    assert here is not None
    ways = ["measured" if memory.predicted_in is None else "predicted" for memory in (then, here)]
    said = "" if ways[0] == ways[1] else f"the baseline's was {ways[0]}, this one is {ways[1]}"
    if verdict == "failed" and other_kernels:
        verdict, said = "inconclusive", _KERNELS.format(other_kernels)
    return _result(pair, limit, here.predicted_in if now > before else None, before, now, verdict, said)


_KERNELS = (
    "what kernels take for themselves depends on what differs from the baseline's machine: {}; cnnprof gate "
    "--against REVISION, or a baseline of this machine, would tell"
)
ARITHMETIC = ("macs", "flops")


def _result(
    pair: Pair, limit: Limit, layer: str | None, before: Fraction, now: Fraction, verdict: GateVerdict, said: str = ""
) -> GateResult:
    return GateResult(
        model=pair[1].name,
        metric=limit.metric,
        layer=layer,
        limit=float(limit.growth),
        change=float(now / before - 1) if before else None if now else 0.0,
        ci95=None,
        verdict=verdict,
        baseline=float(before),
        candidate=float(now),
        message=said,
    )


def _newly_uncounted(before: Candidate, now: Candidate, pattern: str = "*") -> Uncounted | None:
    """Find an operator whose MACs are missing now, in a layer where they were not missing before."""
    known = {(each.operator, each.path) for each in before.analysis.uncounted} if before.analysis else set()
    mine = [each for each in (now.analysis.uncounted if now.analysis else ()) if is_like(each.path, pattern)]
    return next((each for each in mine if (each.operator, each.path) not in known), None)


def _not_counted(operator: Uncounted) -> str:
    return f"{operator.operator} in {operator.path or 'the model itself'} is not counted"


def _growths(pair: Pair, metric: str) -> dict[str, tuple[Fraction, Fraction]]:
    """Return each layer's number then and now; a layer that is not there has 0."""
    before, now = (by_layer(each, metric) for each in pair)
    nothing = Fraction(0)
    return {
        path: (before[path][1] if path in before else nothing, now[path][1] if path in now else nothing)
        for path in dict.fromkeys([*now, *before])
    }


def _most_grown(pair: Pair, metric: str) -> str | None:
    growths = {path: after - then for path, (then, after) in _growths(pair, metric).items()}
    worst = max(growths, key=growths.__getitem__, default=None)
    return worst if worst is not None and growths[worst] > 0 else None


def _chosen(pair: Pair, limit: Limit, pattern: str) -> dict[str, tuple[Fraction, Fraction]]:
    return {path: each for path, each in _growths(pair, limit.metric).items() if is_like(path, pattern)}


def _layers(pair: Pair, limit: Limit) -> Iterator[GateResult]:
    """Hold each layer that a limit names to it, and tell of the one that is furthest beyond it."""
    pattern = limit.layers_of(pair[1].name)
    chosen = _chosen(pair, limit, pattern) if pattern is not None else {}
    if pattern is None or not chosen:
        return
    if fed := _other_inputs(*pair):
        yield replace(_unknown(pair[1], limit, "failed", fed), layers=pattern)
        return
    if otherwise := _other_call(pair, limit.metric):
        yield replace(_unknown(pair[1], limit, "skipped", otherwise), layers=pattern)
        return
    worst = max(chosen, key=lambda path: chosen[path][1] - chosen[path][0] * (1 + limit.growth))
    before, now = chosen[worst]
    verdict: GateVerdict = "failed" if now > before * (1 + limit.growth) else "passed"
    said = "" if before or not now else "a layer that was not there"
    if limit.metric in ARITHMETIC and verdict == "passed" and (new := _newly_uncounted(*pair, pattern)):
        worst, verdict, said = new.path, "inconclusive", _not_counted(new)
    yield replace(_result(pair, limit, worst, before, now, verdict, said), layers=pattern)


def changes(pair: Pair) -> Iterator[LayerChange]:
    """List a model's layers whose parameters or MACs are others than they were."""
    for metric in LISTED:
        before, now = (by_layer(each, metric) for each in pair)
        for path in dict.fromkeys([*now, *before]):
            (then, was), (here, is_) = (side.get(path, (None, None)) for side in (before, now))
            layer = here or then
            if was != is_ and (was or is_):
                numbers = (None if each is None else float(each) for each in (was, is_))
                yield LayerChange(pair[1].name, path, layer.kind if layer else "", metric, *numbers)


# Times ---------------------------------------------------------------------------------------------------------------


def _time(pair: Pair, limit: Limit, terms: Terms, why_not: str) -> GateResult:
    mode = TIMES[limit.metric]
    before, now = (each.latency[mode] for each in pair)
    if pair[1].failure:
        return _unknown(pair[1], limit, "failed", pair[1].failure)
    if before is None:
        failure = pair[0].failure
        said = f"the baseline failed: {failure}" if failure else "not in the baseline"
        return _unknown(pair[1], limit, "skipped", said)
    unknown = replace(
        _unknown(pair[1], limit, "skipped", why_not), baseline=before.median_s, candidate=now.median_s if now else None
    )
    if why_not:
        return unknown
    if now is None:
        return replace(unknown, verdict="inconclusive", message=GONE)
    ratio = terms.time_ratio(before, now, statistics.MARGIN, 1.0)
    if ratio is not None and ratio.grows:
        return replace(unknown, verdict="inconclusive", message=_grown(before, now, ratio.grows), grows=ratio.grows)
    if ratio is None or ratio.ratio is None or ratio.ci95 is None or ratio.sessions < statistics.MIN_SESSIONS:
        few = min(len(each.sessions) for each in (before, now)) < statistics.MIN_SESSIONS
        return replace(unknown, verdict="inconclusive", message=FEW if few else _starved(terms.threads))
    verdict = _side(ratio.ci95, 1 + float(limit.growth))
    bounds = ratio.ci95[0] - 1, ratio.ci95[1] - 1
    said = "" if verdict != "inconclusive" else _how_much_longer(ratio, 1 + float(limit.growth), terms)
    return replace(unknown, change=ratio.ratio - 1, ci95=bounds, verdict=verdict, message=said)


def _grown(before: Latency, now: Latency, grows: Sequence[Side]) -> str:
    """Say whose time grows, and by how much a call."""
    side, other = (now, before) if "candidate" in grows else (before, now)
    found = growth(side, other) or growth(side)
    whose = "" if "candidate" in grows else "of the baseline, "
    return f"{whose}{growth_text(found)}; no single number stands for it" if found else ""


GONE = "the baseline holds it, and this run does not"
FEW = f"fewer than {statistics.MIN_SESSIONS} sessions were measured"


def _starved(threads: int | None) -> str:
    fewer = "" if threads == 1 else "--threads 1 or "
    return f"the processes did not get their CPUs; close other programs, or give {fewer}a longer --time"


def _side(bounds: statistics.Interval, limit: float) -> GateVerdict:
    """Say on which side of a limit an interval lies."""
    return "passed" if bounds[1] <= limit else "failed" if bounds[0] > limit else "inconclusive"


NEAR = (
    "processes of the same code differ by as much as lies between it and its limit: no --time would tell; several "
    "gates, or another limit, would"
)
FAR = "no --time would tell: the baseline is as uncertain; --against REVISION times both side by side"


def _how_much_longer(ratio: TimeRatio, limit: float, terms: Terms) -> str:
    assert ratio.ratio is not None
    assert ratio.ci95 is not None
    in_turn = terms.time_ratio is in_two_processes
    fixed = statistics.NORMAL * statistics.PROCESSES_APART if in_turn else _log_width(ratio.ci95) / math.sqrt(8)
    times = statistics.longer(ratio.ratio, ratio.ci95, ratio.sessions, limit, fixed)
    if times is None:
        return NEAR if in_turn else FAR
    if terms.measured_s is None:
        return f"about {units.short(times)} times as long a measurement would tell"
    return f"--time {math.ceil(times * terms.measured_s)} would probably tell"


def _log_width(bounds: statistics.Interval) -> float:
    return math.log(bounds[1] / bounds[0])
