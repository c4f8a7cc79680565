"""Models that tests timed against those of a stored run, by the gate's rules. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from cnnprof import benchmarked, origin
from cnnprof.comparison.doubts import uncounted_text
from cnnprof.comparison.gate import of_runs
from cnnprof.comparison.growth import Growth, growth
from cnnprof.comparison.limits import PEAKS, TIMES, Limit, by_layer, is_like
from cnnprof.comparison.ratios import in_short_runs_apart
from cnnprof.errors import UsageError
from cnnprof.records import Benchmark, Doubt, Gate, GateResult, LayerChange, Profile

ByTest = Mapping[str, Benchmark]
"""By pytest's name of the test, with its file."""


def held(
    limits: Sequence[Limit],
    stored: ByTest,
    found: ByTest,
    against: str,
    inconclusive: Literal["pass", "fail"],
) -> Gate:
    """Hold each model to what the same test found of it then.

    A limit names models, or tests. Raises UsageError for one that names nothing, then or now.
    """
    _refuse_idle(limits, stored, found)
    names = {test: f"{found[test].model} in {name}" for test, name in benchmarked.names(found).items()}
    both = {test: now for test, now in found.items() if test in stored}
    gates = [_held(limits, test, names[test], stored[test], now, against) for test, now in both.items()]
    return Gate(
        command=origin.command(),
        commit=origin.commit(),
        created=origin.now(),
        against=against,
        models=tuple(names.values()),
        limits=tuple(map(str, limits)),
        results=tuple(result for gate in gates for result in gate.results),
        changes=tuple(_changes([now.model for now in both.values()], gates)),
        inconclusive=inconclusive,
        doubts=tuple(_doubts(limits, stored, found, names)),
    )


def growing(found: ByTest) -> Iterator[tuple[str, Growth]]:
    """Yield the tests whose model's time grows with each call, by their short names."""
    for test, name in benchmarked.names(found).items():
        if (grown := growth(found[test].latency)) is not None:
            yield name, grown


def _changes(models: Sequence[str], gates: Sequence[Gate]) -> Iterator[LayerChange]:
    """List the layers that changed once a model, where all tests of that name saw the same; else test by test."""
    seen: dict[str, dict[tuple[LayerChange, ...], Gate]] = {}
    for model, gate in zip(models, gates, strict=True):
        alike = tuple(replace(each, model=model) for each in gate.changes)
        seen.setdefault(model, {}).setdefault(alike, gate)
    for found in seen.values():
        for alike, gate in found.items():
            yield from alike if len(found) == 1 else gate.changes


def _held(limits: Sequence[Limit], test: str, name: str, before: Benchmark, now: Benchmark, against: str) -> Gate:
    mine = [each for limit in limits if (each := _of(limit, test, (before, now), name)) is not None]
    gate = of_runs(mine, _document(before, name), _document(now, name), against, time_ratio=in_short_runs_apart)
    return replace(gate, results=tuple(_hinted(result, now.machine.threads) for result in gate.results))


def _hinted(result: GateResult, threads: int) -> GateResult:
    """Say what would tell, where a time is inconclusive: more rounds would not."""
    if result.verdict != "inconclusive" or result.metric not in TIMES or result.grows:
        return result
    return replace(result, message=_starved(threads) if result.ci95 is None else _APART)


def _starved(threads: int) -> str:
    fewer = "" if threads == 1 else ", or give the fixture threads=1"
    return f"the process did not get its CPUs, then or now; close other programs{fewer}"


_APART = "runs apart differ by more; cnnprof gate --against REVISION times both side by side"


def _of(limit: Limit, test: str, sides: Sequence[Benchmark], name: str) -> Limit | None:
    """Put a limit on one test's model by its name here; None where it is on others, or no side has such a number."""
    *_, now = sides
    if {**PEAKS, **TIMES}.get(limit.metric, now.mode) != now.mode:
        return None
    if limit.metric in PEAKS and all(side.peak_bytes is None for side in sides):  # shapes do not tell
        return None
    if not limit.where:
        return limit
    called = (now.model, *benchmarked.endings(test))
    if any(map(limit.holds_of, called)):
        return replace(limit, where=name)
    layers = next(filter(None, map(limit.layers_of, called)), None)
    if not layers or not any(is_like(path, layers) for side in sides for path in by_layer(side.profile, limit.metric)):
        return None
    return replace(limit, where=f"{name}/{layers}")


def _refuse_idle(limits: Sequence[Limit], stored: ByTest, found: ByTest) -> None:
    known = {**stored, **found}
    sides = {test: [side[test] for side in (stored, found) if test in side] for test in known}
    for limit in limits:
        if limit.where and not any(_of(limit, test, each, "") for test, each in sides.items()):
            short = benchmarked.names(known)
            there = ", ".join(dict.fromkeys(name for test, each in known.items() for name in (each.model, short[test])))
            raise UsageError(f"limit {limit}: no model, test or layer of that name has one; there are {there}")


def _document(benchmark: Benchmark, name: str) -> Profile:
    return Profile(
        command="",
        commit=None,
        created="",
        machine=benchmark.machine,
        settings=benchmark.settings,
        profiles=(replace(benchmark.profile, name=name),),
    )


def _doubts(limits: Sequence[Limit], stored: ByTest, found: ByTest, names: Mapping[str, str]) -> Iterator[Doubt]:
    for test in found:
        if test not in stored:
            yield Doubt(names[test], "the stored run does not hold it: nothing was compared")
    for limit in limits:
        if not any(_of(limit, test, [now], "") for test, now in found.items()):
            yield Doubt(f"limit {limit}", "no model that was timed is held to it")
    for test, now in found.items():
        analysis = now.profile.analysis
        if analysis is not None and analysis.uncounted:
            yield Doubt(names[test], uncounted_text(analysis), "its MACs are a lower bound")
