"""pytest-benchmark's JSON to records: its own numbers, and what the fixture left beside them. No torch."""

from collections.abc import Iterable, Mapping
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
    """Turn a stored run into a record. Raises UsageError where it is not whole, or of another schema."""
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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{source}: not a whole run of pytest-benchmark: {said(error)}") from None


def _benchmarked(entry: Mapping[str, Any], source: str) -> Benchmarked:
    stats, ours = entry["stats"], entry["extra_info"].get(KEY)
    found = store.part_of(ours, f"{source}, {entry['name']}") if ours else None
    return Benchmarked(entry["fullname"], float(stats["median"]), float(stats["iqr"]), int(stats["rounds"]), found)


def _machine(info: Mapping[str, Any]) -> str:
    """Name processor, system and Python, without the host."""
    cpu = info.get("cpu") or {}
    parts = (
        cpu.get("brand_raw") or cpu.get("brand") or info.get("processor") or info.get("machine"),
        f"{info.get('system', '')} {info.get('release', '')}".strip(),
        f"Python {info['python_version']}",
    )
    return ", ".join(part for part in parts if part)


def together(found: Iterable[Benchmarks]) -> Benchmarks:
    """Put stored runs into one record, by the time of their commit, else by their own."""
    runs = [run for each in found for run in each.runs]
    return Benchmarks(tuple(sorted(runs, key=lambda run: (run.committed or run.created, run.created))))
