"""Stored runs of pytest-benchmark to rows of text and to sentences: one run, or tests over commits. No torch."""

import datetime
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import PurePosixPath

from cnnprof import benchmarked, units
from cnnprof.comparison.benchmarks import growing
from cnnprof.comparison.gate import OF_NUMBER
from cnnprof.comparison.growth import text as growth_text
from cnnprof.records import Benchmark, Benchmarked, BenchmarkRun, Benchmarks, Machine
from cnnprof.reporting.tables import Table, known_columns


@dataclass(frozen=True)
class Place:
    """What a time depends on: a machine, or what pytest-benchmark knows of it, and a model's settings."""

    machine: Machine | str
    settings: tuple[tuple[str, object], ...] = ()

    @property
    def facts(self) -> dict[str, object]:
        """Return all of it by name."""
        machine = {"": self.machine} if isinstance(self.machine, str) else vars(self.machine)
        return {**machine, **dict(self.settings)}


@dataclass(frozen=True)
class Point:
    """One test in one run."""

    name: str
    """Of the test, as short as it is still its own."""
    run: BenchmarkRun
    timed: Benchmarked
    place: Place
    machine: int
    """Of its place among those of the test, from 0: times of two are not joined."""
    number: int
    """Of its run, from 0, the oldest first."""
    label: str
    """Of its run."""


def series(record: Benchmarks) -> dict[str, list[Point]]:
    """Return each test's runs, the oldest first."""
    found: dict[str, list[Point]] = {}
    places: dict[str, dict[Place, int]] = {}
    named, labelled = _names(record), labels(record.runs)
    for number, (run, label) in enumerate(zip(record.runs, labelled, strict=True)):
        for timed in run.benchmarks:
            place, known = _place(run, timed), places.setdefault(timed.test, {})
            machine = known.setdefault(place, len(known))
            point = Point(named[timed.test], run, timed, place, machine, number, label)
            found.setdefault(timed.test, []).append(point)
    return found


def labels(runs: Sequence[BenchmarkRun]) -> list[str]:
    """Label runs: 1a2b3c4d, with a + where files differed from that commit; a file's number where there is none.

    Of several that go by that, each has what tells it from the others, too: of its file, its machine, or its time.
    """
    short = [_label(run) for run in runs]
    found = list(short)
    for label in {each for each in short if short.count(each) > 1}:
        alike = [number for number, each in enumerate(short) if each == label]
        for number, words in zip(alike, _differing([runs[number] for number in alike]), strict=True):
            found[number] = f"{label} {words}".rstrip()
    return found


def _label(run: BenchmarkRun) -> str:
    if not re.fullmatch("[0-9a-f]{8,}", run.commit or ""):
        return PurePosixPath(run.source).stem.partition("_")[0]
    return f"{(run.commit or '')[:8]}{'+' if run.dirty else ''}"


def _differing(runs: Sequence[BenchmarkRun]) -> list[str]:
    """Return the shortest words that tell runs apart; their place among them where none do."""
    facts = (
        [re.split("[/_-]", run.source.removesuffix(".json")) for run in runs],
        [run.machine.split(", ") for run in runs],
        [[_day(run.created), *_clock(run.created)] for run in runs],
    )
    for words in facts:
        shared = set.intersection(*map(set, words))
        own = [" ".join(each for each in line if each not in shared) for line in words]
        columns = list(zip(*words, strict=True)) if len({*map(len, words)}) == 1 else []
        for column in (*columns, own):
            if len({*column}) == len(runs):
                return list(column)
    return [f"({number})" for number in range(1, len(runs) + 1)]


def _place(run: BenchmarkRun, timed: Benchmarked) -> Place:
    """Say where a test ran, without the load of the moment, and how its model was called."""
    found = timed.found
    if found is None:
        return Place(run.machine)
    settings = {name: getattr(found.settings, name) for name in OF_NUMBER["training_latency"]}
    settings |= {
        "input size": found.input_size,
        "batch_size": found.input_size and found.batch_size,
        "mode": found.mode,
    }
    return Place(replace(found.machine, load=None), tuple(settings.items()))


def last(record: Benchmarks) -> list[Point]:
    """Return the newest run of each test, those of the newest run first."""
    newest = [points[-1] for points in series(record).values()]
    return sorted(newest, key=lambda point: -point.number)


def _names(record: Benchmarks) -> dict[str, str]:
    return benchmarked.names({timed.test for run in record.runs for timed in run.benchmarks})


def title(record: Benchmarks) -> str:
    """Benchmarks of 1a2b3c4d; over several runs, Benchmarks over 5 runs."""
    if len(record.runs) > 1:
        return f"Benchmarks over {units.plural(len(record.runs), 'run')}"
    return f"Benchmarks of {last(record)[0].label}"


def header(record: Benchmarks) -> str:
    """3 tests · 12 Nov 2026."""
    days = list(dict.fromkeys(_day(moment) for moment in sorted(run.created for run in record.runs)))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{units.plural(len(series(record)), 'test')} · {when}"


def _day(moment: str) -> str:
    parsed = _parsed(moment)
    return f"{parsed.day} {parsed:%b} {parsed.year}" if parsed else moment


def _clock(moment: str) -> tuple[str, ...]:
    """Return hours and minutes, and the same with seconds."""
    parsed = _parsed(moment)
    return (f"{parsed:%H:%M}", f"{parsed:%H:%M:%S}") if parsed else ()


def _parsed(moment: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(moment)
    except ValueError:
        return None


def _when(points: Sequence[Point]) -> list[str]:
    """Tell the day of each run's commit, else its own; with the time of the run where two are of one day."""
    days = [_day(point.run.committed or point.run.created) for point in points]
    if len({*days}) == len(days):
        return days
    return [" ".join((_day(point.run.created), *_clock(point.run.created)[:1])) for point in points]


def sentences(record: Benchmarks) -> tuple[str, ...]:
    """Say how many models there are among the tests, where their parameters or MACs changed, and what is left out."""
    tests = last(record)
    models = sum(point.timed.found is not None for point in tests)
    of = "Every test times" if models == len(tests) else f"{models} of {units.plural(len(tests), 'test')} time"
    said = f"{of} a model{'' if models == len(tests) else '; the times of others stand alone'}."
    steps: dict[tuple[int, str], list[str]] = {}
    for points in series(record).values():
        for number, change in _steps(points):
            steps.setdefault((number, change), []).append(points[0].name)
    newest = sorted(steps.items(), key=lambda step: -step[0][0])
    told = [f"{_together(names)}: {change}." for (_, change), names in newest[:_MOST_STEPS]]
    more = len(steps) - _MOST_STEPS
    found = {point.name: point.timed.found for point in tests if point.timed.found}
    told = [*(f"{test}: {growth_text(grown)}." for test, grown in growing(found)), *told]
    earlier = (f"The tables below have {units.plural(more, 'earlier change')}.",) if more > 0 else ()
    left_out = (f"{sentence}." for sentence in benchmarked.left_out(record))
    return (said, *told, *earlier, *left_out)


_MOST_STEPS = 6


def _together(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} other tests"


def _steps(points: Sequence[Point]) -> Iterator[tuple[int, str]]:
    """Yield a run's number, and parameters +5.8 %, from 5,418 to 5,734, at 1a2b3c4d."""
    known = [(point, point.timed.found) for point in points if point.timed.found]
    for (_, before), (point, now) in pairwise(known):
        changed = [
            f"{label} {_change(then, here)}, from {_count(then)} to {_count(here)}"
            for label, then, here in (("parameters", before.params, now.params), ("MACs", before.macs, now.macs))
            if then != here
        ]
        if changed:
            yield point.number, f"{'; '.join(changed)}, at {point.label}"


def _change(before: float, now: float) -> str:
    return units.change(now / before - 1) if before else units.UNKNOWN


def _count(number: float) -> str:
    return units.integer(int(number)) if number == int(number) else units.decimal(number, 1)


# Tables --------------------------------------------------------------------------------------------------------------


def table(record: Benchmarks) -> Table:
    """Lay every test out as its newest run has it, a row a test."""
    points = last(record)
    times = units.column(units.SECONDS, [point.timed.median_s for point in points])
    columns = (
        *("test", "run", "model", "mode", "batch", "parameters", "MACs", "peak"),
        *(times.heading("median"), times.heading("IQR"), "rounds", "relative", "CPU, %", "got, %"),
    )
    runs = {point.label for point in points}
    rows = tuple(
        (
            point.name,
            point.label if len(runs) > 1 else "",
            *_model(point.timed.found),
            times.text(point.timed.median_s),
            times.text(point.timed.iqr_s),
            units.integer(point.timed.rounds),
            *_processors(point.timed.found),
        )
        for point in points
    )
    droppable = ("rounds", "got, %", "CPU, %", times.heading("IQR"), "batch")
    return known_columns(Table(_heading(record, runs), columns, rows, _WORDS, droppable))


def _heading(record: Benchmarks, runs: Collection[str]) -> str:
    if len(record.runs) == 1:
        return "Tests"
    return f"The newest run, {min(runs)}" if len(runs) == 1 else "The newest run of each test"


_WORDS = frozenset({"test", "run", "model", "mode", "commit", "when", "machine"})


def _model(found: Benchmark | None) -> tuple[str, ...]:
    if found is None:
        return (units.UNKNOWN,) * 6
    counts = *_counts(found, None), units.bytes_(found.peak_bytes)
    return found.model, found.mode, units.integer(found.batch_size), *counts


def _processors(found: Benchmark | None) -> tuple[str, ...]:
    if found is None:
        return (units.UNKNOWN,) * 3
    shares = (units.percent(share, 0) for share in (found.cpu_share, found.got_share))
    return _relative(found), *shares


def _relative(found: Benchmark) -> str:
    ratio = found.reference_ratio
    return units.factor(ratio) if ratio >= 0.1 else f"{units.short(ratio)}x"


def over_commits(points: Sequence[Point]) -> Table:
    """Lay one test out, a row a run; what changed since the run before stands beside the number."""
    apart = len({point.machine for point in points}) > 1
    median = units.column(units.SECONDS, [point.timed.median_s for point in points])
    columns = ("commit", "when", "parameters", "MACs", median.heading("median"), "relative", "machine")
    rows = tuple(
        (
            point.label,
            when,
            *_counts(point.timed.found, before.timed.found if before else None),
            median.text(point.timed.median_s),
            _relative(point.timed.found) if point.timed.found else units.UNKNOWN,
            letter(point.machine) if apart else "",
        )
        for before, point, when in zip((None, *points), points, _when(points), strict=False)
    )
    return known_columns(Table(points[0].name, columns, rows, _WORDS))


def _counts(found: Benchmark | None, before: Benchmark | None) -> tuple[str, str]:
    if found is None:
        return units.UNKNOWN, units.UNKNOWN
    then = before or found
    return (
        f"{units.integer(found.params)}{_since(then.params, found.params)}",
        f"{units.count(found.macs)}{_since(then.macs, found.macs)}",
    )


def _since(before: float, now: float) -> str:
    return f" ({_change(before, now)})" if before != now else ""


# Machines ------------------------------------------------------------------------------------------------------------


def letter(number: int) -> str:
    """0 -> A."""
    return chr(ord("A") + number % 26)


def _files(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}, {len(names)} of them"


def caption(points: Sequence[Point]) -> str:
    """Say how to read the figure of one test."""
    return _OF_MODELS if any(point.timed.found for point in points) else "Medians of the rounds, by run."


_OF_MODELS = (
    "Times are relative to the reference, with 95 % intervals for other runs too; hollow: the process did not get its "
    "processors."
)


def machines_note(points: Sequence[Point]) -> str:
    """Say how machines and settings differ: A: threads 2; B: threads 1. Empty where all runs are of one."""
    places = list(dict.fromkeys(point.place for point in points))
    if len(places) < 2:
        return ""
    told = "; ".join(f"{letter(number)}: {_told(place, places)}" for number, place in enumerate(places))
    return f"Machines or settings, whose times are not compared with each other: {told}."


def _told(place: Place, places: Sequence[Place]) -> str:
    """Say of a place what others of its kind have otherwise."""
    others = [other.facts for other in places if other.facts.keys() == place.facts.keys()]
    differing = {name: value for name, value in place.facts.items() if any(other[name] != value for other in others)}
    return ", ".join(f"{name} {value}".strip() for name, value in differing.items()) or _described(place)


def _described(place: Place) -> str:
    here = place.machine
    if isinstance(here, str):
        return here
    return f"{here.cpu}, {units.plural(here.threads, 'thread')}, {here.os}, Python {here.python}, torch {here.torch}"


# Foot ----------------------------------------------------------------------------------------------------------------


def foot(record: Benchmarks) -> tuple[tuple[str, str], ...]:
    """Say where and how it was timed."""
    points = [point for points in series(record).values() for point in points]
    references = dict.fromkeys(point.timed.found.reference.name for point in points if point.timed.found)
    method = (
        "times are the medians and quartiles of pytest-benchmark's rounds; parameters, MACs (of a forward pass, per "
        "image, or of a call where its batch is not known) and the predicted peak do not vary"
    )
    reference = (
        f"{', '.join(references)}; timed before and after each session of rounds. Relative is a time as a multiple of "
        "it. CPU is the share of its threads that the process used, got what it had of the processors that it could "
        "have used"
    )
    return (
        ("Files", _files([run.source for run in record.runs])),
        ("Machine", "; ".join(dict.fromkeys(_described(point.place) for point in points))),
        ("Method", method),
        *((("Reference", reference),) if references else ()),
    )
