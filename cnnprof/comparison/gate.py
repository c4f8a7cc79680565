"""A run against a baseline: exact numbers exactly, times by their intervals. No torch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from cnnprof import origin, statistics, units
from cnnprof.comparison.doubts import uncounted_text
from cnnprof.comparison.joined import differing
from cnnprof.comparison.limits import EXACT, OF_LAYERS, PEAKS, TIMES, Limit, by_layer, is_like, that_hold
from cnnprof.comparison.ratios import TimeRatioOf, in_runs_apart
from cnnprof.errors import UsageError
from cnnprof.records import Candidate, Doubt, Gate, GateResult, GateTimes, GateVerdict, LayerChange, Run, TimeRatio

Pair = tuple[Candidate, Candidate]
"""A model in the baseline, and now."""
LISTED: tuple[str, ...] = ("params", "macs")
"""What layers' changes are told of."""


def paired(baseline: Sequence[Candidate], candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Find the baseline of each candidate: by its label, else by its MODEL, where only one goes by that."""
    found = {}
    for candidate in candidates:
        named = [each for each in baseline if each.name == candidate.name]
        like = named or [each for each in baseline if _model(each) is not None and _model(each) == _model(candidate)]
        if len(like) == 1:
            found[candidate.name] = like[0]
    return found


def _model(candidate: Candidate) -> str | None:
    return candidate.analysis.model if candidate.analysis else None


def judged(
    limits: Sequence[Limit],
    baseline: Sequence[Candidate],
    candidates: Sequence[Candidate],
    time_ratio: TimeRatioOf,
    measured_s: float | None = None,
    why_no_time: str = "",
) -> tuple[GateResult, ...]:
    """Hold every model that has a baseline against its limits.

    `time_ratio` says how both were timed, for `measured_s` seconds if that is known; where `why_no_time` is given,
    times are not compared, and that is why. A model that is fed otherwise than it was fails. Raises UsageError for a
    limit that is on no model and no layer.
    """
    before = paired(baseline, candidates)
    pairs = [(before[each.name], each) for each in candidates if each.name in before]
    _refuse_idle(limits, [*baseline, *candidates], pairs)
    results = []
    for pair in pairs:
        name = pair[1].name
        other = _other_inputs(*pair)
        for limit in that_hold(limits, name):
            if other:
                unknown = GateResult(name, limit.metric, None, float(limit.growth), None, None, "failed")
                results.append(replace(unknown, message=other))
            elif limit.metric in TIMES:
                results.append(_time(pair, limit, time_ratio, measured_s, why_no_time))
            else:
                results.append(_exact(pair, limit))
        layered = [(limit, pattern) for limit in limits if (pattern := limit.layers_of(name)) is not None]
        results += [_layers(pair, limit, pattern) for limit, pattern in layered]
    return tuple(results)


def of_runs(
    limits: Sequence[Limit],
    baseline: Run | None,
    run: Run,
    against: str,
    measured_s: float | None = None,
    time_ratio: TimeRatioOf = in_runs_apart,
) -> Gate:
    """Hold one run to another, or to nothing yet. Times of machines, or of settings, that differ are not compared."""
    if baseline is None:
        return held(limits, (), run, against, time_ratio)
    machines = differing(baseline.machine, run.machine)
    settings = [name for name in OF_TIMES if getattr(baseline.settings, name) != getattr(run.settings, name)]
    why = f"its machine is another: {', '.join(machines)}" if machines else ""
    why = why or (f"it was measured otherwise: {', '.join(settings)}" if settings else "")
    return held(limits, baseline.profiles, run, against, time_ratio, measured_s, why)


OF_TIMES = (
    *("batch_size", "dtype", "amp", "channels_last", "compile", "threads"),
    *("allocator", "optimizer", "accumulate", "loss"),
)
"""Settings that a time depends on."""


def held(
    limits: Sequence[Limit],
    baseline: Sequence[Candidate],
    run: Run,
    against: str,
    time_ratio: TimeRatioOf,
    measured_s: float | None = None,
    why_no_time: str = "",
) -> Gate:
    """Hold a run to what models were before; see `judged`."""
    before = paired(baseline, run.profiles)
    return Gate(
        command=origin.command(),
        commit=run.commit,
        created=origin.now(),
        against=against,
        models=tuple(candidate.name for candidate in run.profiles),
        limits=tuple(map(str, limits)),
        results=judged(limits, baseline, run.profiles, time_ratio, measured_s, why_no_time),
        changes=changes(baseline, run.profiles),
        times=tuple(
            GateTimes(candidate.name, mode, then, now)
            for candidate in run.profiles
            if candidate.name in before
            for mode, now in candidate.latency.items()
            if (then := before[candidate.name].latency[mode]) is not None
        ),
        machine=run.machine,
        settings=run.settings,
        doubts=(*without_baseline(baseline, run.profiles), *_doubts(run)),
    )


def _doubts(run: Run) -> Iterator[Doubt]:
    for candidate in run.profiles:
        if candidate.analysis and candidate.analysis.uncounted:
            yield Doubt(candidate.name, uncounted_text(candidate.analysis), "its MACs are a lower bound")


def failed_in_time(gate: Gate) -> bool:
    """Say whether a time is beyond its limit."""
    return any(result.verdict == "failed" and result.metric in TIMES for result in gate.results)


def confirmed(gate: Gate, again: Gate) -> Gate:
    """Let a time that failed count as failed where it fails in another, independent measurement as well."""
    pairs = zip(gate.results, again.results, strict=True)
    return replace(gate, results=tuple(_confirmed(*pair) for pair in pairs), times=(*gate.times, *again.times))


def _confirmed(first: GateResult, second: GateResult) -> GateResult:
    if first.verdict != "failed" or first.metric not in TIMES or second.change is None or first.change is None:
        return first
    measured = f"measured twice: {units.change(first.change)} and {units.change(second.change)}"
    if second.verdict == "failed":
        return replace(first, message=measured)
    return replace(second, verdict="inconclusive", message=f"{measured}; the second does not confirm the first")


def without_baseline(baseline: Sequence[Candidate], candidates: Sequence[Candidate]) -> Iterator[Doubt]:
    """Say which models are on one side alone."""
    before = paired(baseline, candidates)
    for candidate in candidates:
        if candidate.name not in before:
            yield Doubt(candidate.name, "the baseline does not hold it: nothing was compared", "--update adds it")
    used = {each.name for each in before.values()}
    for each in baseline:
        if each.name not in used:
            yield Doubt(each.name, "the baseline holds it, but it was not looked at")


def _refuse_idle(limits: Sequence[Limit], everywhere: Sequence[Candidate], pairs: Sequence[Pair]) -> None:
    names = {candidate.name for candidate in everywhere}
    for limit in limits:
        if any(limit.holds_of(name) for name in names):
            if (both := [pair for pair in pairs if limit.holds_of(pair[1].name)]) and not _is_known(both, limit.metric):
                raise UsageError(f"limit {limit}: neither the baseline nor this run holds {limit.metric}")
            continue
        if limit.where.count("/") and limit.metric not in OF_LAYERS:
            raise UsageError(
                f"limit {limit}: {limit.metric} is known of a model alone; of layers, {', '.join(OF_LAYERS)}"
            )
        patterns = {name: pattern for name in names if (pattern := limit.layers_of(name)) is not None}
        if not patterns:
            raise UsageError(f"limit {limit}: no model is called {limit.where!r}; there are {', '.join(sorted(names))}")
        both = [pair for pair in pairs if pair[1].name in patterns]
        if both and not any(_chosen(pair, limit, patterns[pair[1].name]) for pair in both):
            raise UsageError(f"limit {limit}: no layer is called {patterns[both[0][1].name]!r}, then or now")


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


# Exact numbers -------------------------------------------------------------------------------------------------------


def _exact(pair: Pair, limit: Limit) -> GateResult:
    before, now = (EXACT[limit.metric](each) for each in pair)
    name = pair[1].name
    if before is None or now is None:
        side = "the baseline" if before is None else "this run"
        return GateResult(
            name, limit.metric, None, float(limit.growth), None, None, "skipped", message=f"not in {side}"
        )
    batches = {each.batch_size for each in pair}
    if limit.metric in PEAKS and len(batches) > 1:
        said = f"its baseline's batch is {pair[0].batch_size}, here {pair[1].batch_size}"
        return _result(name, limit, None, before, now, "skipped", said)
    verdict: GateVerdict = "failed" if now > before * (1 + limit.growth) else "passed"
    if limit.metric in ("macs", "flops") and verdict == "passed" and (new := _newly_uncounted(*pair)):
        return _result(name, limit, None, before, now, "inconclusive", f"{new} is not counted any more")
    mode = PEAKS.get(limit.metric)
    memory = pair[1].memory[mode] if mode else None
    where = _most_grown(pair, limit.metric) if memory is None else memory.predicted_in if now > before else None
    return _result(name, limit, where, before, now, verdict)


def _result(
    name: str, limit: Limit, layer: str | None, before: Fraction, now: Fraction, verdict: GateVerdict, said: str = ""
) -> GateResult:
    change = float(now / before - 1) if before else None if now else 0.0
    return GateResult(
        *(name, limit.metric, layer, float(limit.growth), change, None, verdict),
        baseline=float(before),
        candidate=float(now),
        message=said,
    )


def _newly_uncounted(before: Candidate, now: Candidate) -> str | None:
    """Name an operator whose MACs are missing that were not missing before."""
    known = {each.operator for each in before.analysis.uncounted} if before.analysis else set()
    return next(
        (each.operator for each in (now.analysis.uncounted if now.analysis else ()) if each.operator not in known), None
    )


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


def _layers(pair: Pair, limit: Limit, pattern: str) -> GateResult:
    """Hold each layer that a pattern names to the limit, and tell of the one that is furthest beyond it."""
    chosen = _chosen(pair, limit, pattern)
    worst = max(chosen, key=lambda path: chosen[path][1] - chosen[path][0] * (1 + limit.growth))
    before, now = chosen[worst]
    failed = now > before * (1 + limit.growth)
    said = "" if before or not now else "a layer that was not there"
    return _result(pair[1].name, limit, worst, before, now, "failed" if failed else "passed", said)


def changes(baseline: Sequence[Candidate], candidates: Sequence[Candidate]) -> tuple[LayerChange, ...]:
    """List the layers whose parameters or MACs are others than they were."""
    before = paired(baseline, candidates)
    pairs = [(before[each.name], each) for each in candidates if each.name in before]
    return tuple(change for pair in pairs for change in _changes(pair))


def _changes(pair: Pair) -> Iterator[LayerChange]:
    for metric in LISTED:
        before, now = (by_layer(each, metric) for each in pair)
        for path in dict.fromkeys([*now, *before]):
            (then, was), (here, is_) = (side.get(path, (None, None)) for side in (before, now))
            layer = here or then
            if was != is_ and (was or is_):
                numbers = (None if each is None else float(each) for each in (was, is_))
                yield LayerChange(pair[1].name, path, layer.kind if layer else "", metric, *numbers)


# Times ---------------------------------------------------------------------------------------------------------------


def _time(pair: Pair, limit: Limit, time_ratio: TimeRatioOf, measured_s: float | None, why_not: str) -> GateResult:
    mode = TIMES[limit.metric]
    before, now = (each.latency[mode] for each in pair)
    unknown = GateResult(pair[1].name, limit.metric, None, float(limit.growth), None, None, "skipped")
    failure = pair[1].failure or pair[0].failure
    if before is None or now is None:
        side = "the baseline" if before is None else "this run"
        return replace(unknown, message=failure or f"not in {side}", verdict="failed" if failure else "skipped")
    unknown = replace(unknown, baseline=before.median_s, candidate=now.median_s)
    if why_not:
        return replace(unknown, message=why_not)
    images = (pair[0].batch_size or 1) / (pair[1].batch_size or 1)
    ratio = time_ratio(before, now, statistics.MARGIN, images)
    if ratio is None or ratio.ratio is None or ratio.ci95 is None or ratio.sessions < statistics.MIN_SESSIONS:
        return replace(unknown, verdict="inconclusive", message=STARVED)
    verdict = _side(ratio.ci95, 1 + float(limit.growth))
    bounds = ratio.ci95[0] - 1, ratio.ci95[1] - 1
    said = "" if verdict != "inconclusive" else _how_much_longer(ratio, 1 + float(limit.growth), measured_s)
    return replace(unknown, change=ratio.ratio - 1, ci95=bounds, verdict=verdict, message=said)


STARVED = "the processes did not get their CPUs; close other programs, or give --threads 1 or a longer --time"


def _side(bounds: statistics.Interval, limit: float) -> GateVerdict:
    """Say on which side of a limit an interval lies."""
    return "passed" if bounds[1] <= limit else "failed" if bounds[0] > limit else "inconclusive"


def _how_much_longer(ratio: TimeRatio, limit: float, measured_s: float | None) -> str:
    assert ratio.ratio is not None
    assert ratio.ci95 is not None
    times = statistics.longer(ratio.ratio, ratio.ci95, ratio.sessions, limit)
    if times is None:
        return "it lies so near its limit that no --time would tell; several gates, or another limit, would"
    if measured_s is None:
        return f"about {units.short(times)} times as long a measurement would tell"
    return f"--time {units.short(math.ceil(times * measured_s))} would probably tell"
