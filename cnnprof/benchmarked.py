"""pytest-benchmark's JSON to records: its own numbers, and what the fixture left beside them. No torch."""

import datetime
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from cnnprof import store
from cnnprof.errors import UsageError, said
from cnnprof.records import Benchmarked, BenchmarkRun, Benchmarks

KEY = "cnnprof"
"""Of a benchmark's extra_info, what is ours."""


def is_stored_run(document: Any) -> bool:
    """Say whether a document is one of pytest-benchmark."""
    return isinstance(document, dict) and {"benchmarks", "machine_info"} <= document.keys()


def read(document: Mapping[str, Any], source: str) -> Benchmarks:
    """Turn a stored run into a record of it alone. Raises UsageError where it is empty, or not whole."""
    run = run_of(document, source)
    if not run.benchmarks:
        raise UsageError(f"{source}: a run of pytest-benchmark in which nothing was timed")
    return Benchmarks((run,))


def run_of(document: Mapping[str, Any], source: str) -> BenchmarkRun:
    """Turn a stored run into a record. A model of ours in it that is not whole is left out, and its times are kept.

    Raises UsageError where the run itself is not whole, or a model is of another schema.
    """
    try:
        commit = document.get("commit_info") or {}
        return BenchmarkRun(
            source=Path(source).name,
            created=str(document["datetime"]),
            commit=commit.get("id"),
            committed=commit.get("time"),
            dirty=bool(commit.get("dirty")),
            machine=_machine(document["machine_info"]),
            benchmarks=tuple(_benchmarked(each, source) for each in document["benchmarks"]),
        )
    except UsageError:
        raise
    except KeyError as error:
        raise UsageError(f"{source}: not a whole run of pytest-benchmark: it lacks {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{source}: not a whole run of pytest-benchmark: {said(error)}") from None


def _benchmarked(entry: Mapping[str, Any], source: str) -> Benchmarked:
    stats, extra = entry["stats"], entry.get("extra_info")
    ours = extra.get(KEY) if isinstance(extra, dict) else None
    timed = Benchmarked(entry["fullname"], _seconds(stats["median"]), _seconds(stats["iqr"]), int(stats["rounds"]))
    if not ours:
        return timed
    try:
        return replace(timed, found=store.part_of(ours, f"{source}, {entry['name']}"))
    except store.NotWholeError as error:
        return replace(timed, left_out=error.reason)


def left_out(record: Benchmarks) -> Iterator[str]:
    """Yield a sentence for each model that was stored and cannot be read, though its times can."""
    for run in record.runs:
        for timed in run.benchmarks:
            if timed.left_out:
                yield f"{run.source}, {timed.test}: {timed.left_out}: its model is left out, its times are kept"


def _seconds(value: Any) -> float | None:
    """Read a time; None where it is not finite, as a clock of the user's own may make it."""
    return seconds if math.isfinite(seconds := float(value)) else None


def _machine(info: Mapping[str, Any]) -> str:
    """Name processor, system and Python, without the host; of what a hook put there instead, what is known of it."""
    cpu = info.get("cpu") or {}
    brand = cpu if isinstance(cpu, str) else cpu.get("brand_raw") or cpu.get("brand")
    python = info.get("python_version") or info.get("python")
    parts = (
        brand or info.get("processor") or info.get("machine"),
        f"{info.get('system') or info.get('os') or ''} {info.get('release', '')}".strip(),
        python and f"Python {python}",
    )
    return ", ".join(part for part in parts if part) or "an unknown machine"


def together(found: Iterable[tuple[Path, Benchmarks]]) -> Benchmarks:
    """Put stored runs into one record, by the time of their commit, else by their own.

    Files of one name have as much of their path as tells them apart.
    """
    read = list(found)
    named = names([path.as_posix() for path, _ in read])
    runs: list[BenchmarkRun] = []
    for path, run in ((path, run) for path, record in read for run in record.runs):
        source = named[path.as_posix()] if run.source == path.name else run.source
        if all(replace(run, source=other.source) != other for other in runs):  # there may be a report of other files
            runs.append(replace(run, source=source))
    runs.sort(key=lambda run: (_moment(run.committed or run.created), _moment(run.created)))
    return Benchmarks(tuple(runs))


def _moment(text: str) -> float:
    """Turn a date with its offset, or of UTC, into seconds; what is no date comes first."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        return -math.inf
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()


def names(tests: Collection[str]) -> dict[str, str]:
    """tests/test_speed.py::test_net -> test_net, with as much of its path as tells it from the other tests."""
    shared = Counter(end for test in tests for end in endings(test))
    return {test: next((end for end in endings(test) if shared[end] == 1), test) for test in tests}


def endings(test: str) -> tuple[str, ...]:
    """tests/test_speed.py::test_net -> test_net, test_speed.py::test_net, and the whole: what one may call a test."""
    path, bracket, argument = test.partition("[")
    *before, last = re.split("(?<=/)|(?<=::)", path)
    parts = [f"{last}{bracket}{argument}", *reversed(before)]
    return tuple(accumulate(parts, lambda end, part: part + end))
