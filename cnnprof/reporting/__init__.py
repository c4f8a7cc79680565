"""Records to what people read: terminal, Markdown, HTML, CSV, data frames. No torch.

What a file's name ends in decides its form: .json, .md, .html or .csv.
"""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnprof import benchmarked, store
from cnnprof.errors import UsageError
from cnnprof.records import (
    CATEGORIES,
    Analysis,
    Benchmark,
    Benchmarked,
    BenchmarkRun,
    Benchmarks,
    FitResult,
    Gate,
    MachineReport,
    MemoryProfile,
    Record,
    Sanity,
    Training,
    Verification,
)

if TYPE_CHECKING:
    import pandas as pd


def as_text(record: Record) -> str:
    """Render a record for a terminal, without colours."""
    from cnnprof.reporting import terminal

    return terminal.text(record)


def as_html_fragment(record: Record) -> str:
    """Render the pieces of a report that a notebook shows."""
    from cnnprof.reporting import html

    return html.fragment(record)


def as_html(record: Record) -> str:
    """Render the whole report as one file that needs nothing else."""
    from cnnprof.reporting import html

    return html.render(record)


def as_markdown(record: Record) -> str:
    """Render the whole report, complete without its pictures."""
    from cnnprof.reporting import markdown

    return markdown.render(record)


def as_csv(record: Record) -> str:
    """Render the data frame of a record."""
    text: str = to_dataframe(record).to_csv(index=False)
    return text


RENDERERS: dict[str, Callable[[Record], str]] = {
    ".json": store.to_json,
    ".md": as_markdown,
    ".html": as_html,
    ".csv": as_csv,
}


def checked_suffix(path: Path) -> str:
    """Return what a file's name ends in. Raises UsageError where it is none of ours."""
    if path.suffix.lower() not in RENDERERS:
        raise UsageError(f"{path}: a name that ends in {', '.join(RENDERERS)} was expected")
    return path.suffix.lower()


def save(record: Record, path: str | Path) -> Path:
    """Write a record to a file in the form that its name ends in. Raises UsageError where it cannot be written."""
    store.kind_of(record)
    path = Path(path)
    store.write_text(path, RENDERERS[checked_suffix(path)](record))
    return path


def load(path: str | Path) -> Record:
    """Read a record that was saved as JSON, or pytest-benchmark's. Raises UsageError where the file is neither."""
    document = store.document_in(Path(path))
    if benchmarked.is_stored_run(document):
        return benchmarked.read(document, str(path))
    return store.from_document(document, str(path))


def to_dataframe(record: Record | FitResult) -> "pd.DataFrame":
    """Return an analysis's layers, a run's raw times, epochs, a machine's bandwidths, memory, checks or limits.

    Raises UsageError for what is no record.
    """
    import pandas as pd

    if isinstance(record, FitResult):
        epochs = range(1, record.num_epochs + 1)
        return pd.DataFrame({"epoch": epochs, **dict(zip(_BY_EPOCH, record[1:], strict=True))})
    store.kind_of(record)
    if isinstance(record, Analysis):
        document = store.to_document(record)
        uncounted = [", ".join(record.uncounted_in(layer.path)) for layer in record.layers]
        return pd.DataFrame(document["layers"]).assign(uncounted=uncounted)
    if isinstance(record, MemoryProfile):
        timeline = record.predicted.timeline if record.predicted else ()
        moments: list[dict[str, Any]] = [
            {"operator": each.operator, "phase": each.phase, "path": each.path}
            | dict(zip(CATEGORIES, each.sizes_bytes, strict=True))
            for each in timeline
        ]
        return pd.DataFrame(moments, columns=["operator", "phase", "path", *CATEGORIES])
    if isinstance(record, MachineReport):
        return pd.DataFrame([vars(each) for each in record.peaks.bandwidths])
    if isinstance(record, Verification | Sanity):
        return pd.DataFrame([vars(each) for each in record.checks])
    if isinstance(record, Gate):
        return pd.DataFrame([vars(each) for each in record.results])
    if isinstance(record, Training):
        return _epochs(record)
    if isinstance(record, Benchmarks):
        return pd.DataFrame([_timed(run, timed) for run in record.runs for timed in run.benchmarks])
    rows = [
        {"model": profile.name, "mode": mode, "session": session, "time_s": time_s}
        for profile in record.profiles
        for mode, latency in profile.latency.items()
        for session, times in enumerate(latency.sessions)
        for time_s in times
    ]
    return pd.DataFrame(rows, columns=["model", "mode", "session", "time_s"])


def _timed(run: BenchmarkRun, timed: Benchmarked) -> dict[str, Any]:
    """Return a test's row: of what is no model, its times alone."""
    numbers = {name: getattr(timed.found, name, None) for name in store.DERIVED[Benchmark]}
    named = {"source": run.source, "created": run.created, "commit": run.commit, "test": timed.test}
    return {**named, **numbers, "median_s": timed.median_s, "iqr_s": timed.iqr_s, "rounds": timed.rounds}


_BY_EPOCH = ("train_loss", "train_accuracy_percent", "test_loss", "test_accuracy_percent")


def _epochs(training: Training) -> "pd.DataFrame":
    """Return a row for each model, seed and epoch: seconds, images and MACs are those spent by its end."""
    import pandas as pd

    from cnnprof.reporting import learned

    rows = [
        (run.model, run.seed, epoch, *values)
        for learner in training.models
        for run in training.runs_of(learner.name)
        for epoch, *values in zip(
            learned.spent(learner, run, "epochs"),
            *(getattr(run, name) for name in _BY_EPOCH),
            learned.spent(learner, run, "seconds"),
            accumulate(run.images),
            learned.spent(learner, run, "macs"),
            strict=True,
        )
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "epoch", *_BY_EPOCH, "train_s", "images_seen", "macs_spent"])
