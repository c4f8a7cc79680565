"""A gate to rows of text and to sentences. No torch."""

from collections.abc import Sequence

from cnnprof import units
from cnnprof.comparison.limits import PEAKS, TIMES
from cnnprof.records import OWN_TYPE, Gate, GateResult
from cnnprof.reporting.tables import Table

LABELS = {
    "params": "parameters",
    "trainable_params": "trainable parameters",
    "macs": "MACs",
    "flops": "FLOPs",
    "activations": "conv outputs",
    "param_bytes": "weights",
    "read_bytes": "bytes read",
    "written_bytes": "bytes written",
    "peak_bytes": "peak, inference",
    "training_peak_bytes": "peak, training",
    "latency": "forward",
    "training_latency": "training step",
}
_WORDS = {1: "Not passed", 3: "Inconclusive"}


def outcome(record: Gate) -> str:
    """Say in a word or two what came out."""
    verdicts = {result.verdict for result in record.results}
    if record.partial:
        return "Interrupted"
    if record.exit_code in _WORDS:
        return _WORDS[record.exit_code]
    if verdicts <= {"skipped"}:
        return "Nothing was compared"
    return "Passed, as what is inconclusive passes" if "inconclusive" in verdicts else "Passed"


def title(record: Gate) -> str:
    """Say what came out, and for which models."""
    decisive = ["failed"] * (record.exit_code == 1)
    if record.exit_code == 3 or record.inconclusive == "fail":
        decisive.append("inconclusive")
    concerned = dict.fromkeys(result.model for result in record.results if result.verdict in decisive)
    models = [*concerned] or [*record.models]
    named = ", ".join(models) if len(models) <= _MOST_NAMED else units.plural(len(models), "model")
    return f"{outcome(record)}: {named} against {record.against}"


_MOST_NAMED = 4


def header(record: Gate) -> str:
    """Against main (1a2b3c4d5e6f) · now 5f6e7d-dirty · batch 8 · cpu, 2 threads."""
    parts = [f"against {record.against}"]
    if record.commit:
        parts.append(f"now {record.commit}")
    if record.settings and any(result.metric in {**PEAKS, **TIMES} for result in record.results):
        parts += [f"batch {record.settings.batch_size}"] if record.settings.batch_size else []
        parts += [record.settings.dtype] if record.settings.dtype != OWN_TYPE else []
    if record.machine and record.times:
        parts.append(f"{record.machine.device}, {units.plural(record.machine.threads, 'thread')}")
    return " · ".join(parts)


def headline(record: Gate) -> str:
    """Not passed: 5 passed, 1 failed."""
    if not record.results:
        return f"{outcome(record)}: {'before anything was compared' if record.partial else 'every number passes'}."
    return f"{outcome(record)}: {counts(record.results)}."


def sentences(record: Gate) -> tuple[str, ...]:
    """Say what failed, is open or was not compared, each in a sentence; models that share a reason share one."""
    found: dict[str, list[str]] = {}
    for verdict in ("failed", "inconclusive", "skipped"):
        for result in record.results:
            if result.verdict == verdict:
                found.setdefault(_said(result), []).append(result.model)
    return tuple(f"{', '.join(models)}, {said}" for said, models in found.items())


def counts(results: Sequence[GateResult]) -> str:
    """5 passed, 1 failed, 1 skipped."""
    verdicts = [result.verdict for result in results]
    return ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(sorted(verdicts, key=_ORDER.index)))


_ORDER = ("passed", "failed", "inconclusive", "skipped")


def _said(result: GateResult) -> str:
    """parameters: +0.6 %, from 25,557,032 to 25,700,000; none is allowed; most in layer3.0.conv1."""
    layer = _limited(result)
    about = f"{layer}, {label(result.metric)}" if layer else label(result.metric)
    numbers = f"from {value(result.metric, result.baseline)} to {value(result.metric, result.candidate)}"
    why = "; ".join(filter(None, (_where(result), result.message)))
    if result.change is None:
        known = "" if result.metric in TIMES or None in (result.baseline, result.candidate) else numbers
        return f"{about}: {'; '.join(filter(None, (known, why)))}."
    change = units.change(result.change, result.ci95)
    limit = f"{units.change(result.limit)} is the limit" if result.limit else "none is allowed"
    return f"{about}: {'; '.join(filter(None, (f'{change}, {numbers}', limit, why)))}."


def _where(result: GateResult) -> str:
    """Most in layer3.0.conv1; empty where that is not known, or where a layer is what is limited."""
    named = result.verdict == "inconclusive" and result.metric not in PEAKS  # by its message
    if result.layer is None or result.layers or named:
        return ""
    return f"{'its peak is' if result.metric in PEAKS else 'most'} in {_layer(result.layer)}"


def _limited(result: GateResult) -> str:
    """Name the layer that is limited, or else their pattern; empty where it is the model."""
    return _layer(result.layer or result.layers) if result.layers else ""


def _layer(path: str | None) -> str:
    """layer3.0.conv1; layer 3, where a number alone would say nothing."""
    return f"layer {path}" if path and path[0].isdigit() else path or "(the model itself)"


def label(metric: str) -> str:
    """Name a metric as tables do."""
    return LABELS.get(metric, metric.replace("_", " "))


def value(metric: str, number: float | None) -> str:
    """Write a number in its unit."""
    if number is None:
        return units.UNKNOWN
    if metric in TIMES:
        return units.seconds(number)
    if metric.endswith("_bytes"):
        return units.bytes_(number)
    return units.integer(int(number)) if number == int(number) else units.decimal(number, 1)


def table(record: Gate) -> Table:
    """Lay out every number and its limit."""
    columns = ("", "model", "number", "baseline", "now", "change", "limit", "where, why")
    rows = tuple(
        (
            result.verdict,
            f"{result.model}/{result.layers}" if result.layers else result.model,
            label(result.metric),
            value(result.metric, result.baseline),
            value(result.metric, result.candidate),
            units.UNKNOWN if result.change is None else units.change(result.change, result.ci95),
            units.change(result.limit),
            "; ".join(filter(None, (_limited(result), _where(result), result.message))),
        )
        for result in record.results
    )
    return Table("Limits", columns, rows, frozenset({"", "model", "number", "where, why"}), ("where, why", "limit"))


def by_model(record: Gate) -> Table:
    """A row a model: what each number is now, and how far that is from what it was."""
    metrics = list(dict.fromkeys(result.metric for result in record.results))
    rows = []
    for model in dict.fromkeys(result.model for result in record.results):
        mine = [result for result in record.results if result.model == model]
        cells = [_cell([result for result in mine if result.metric == metric]) for metric in metrics]
        rows.append((model, *cells, counts(mine)))
    return Table("Models", ("model", *map(label, metrics), "limits"), tuple(rows), frozenset({"model", "limits"}))


def _cell(results: Sequence[GateResult]) -> str:
    """1.2 MiB (+3.1 % [1.2, 5.0])."""
    if not results:
        return units.UNKNOWN
    first = next((result for result in results if not result.layers), None)
    marks = {"failed": " ✗", "inconclusive": " ?"}
    mark = next((marks[each.verdict] for each in results if each.verdict in marks), "")
    if first is None:
        return f"layers alone{mark}"
    changed = "" if first.change is None else f" ({units.change(first.change, first.ci95)})"
    return f"{value(first.metric, first.candidate)}{changed}{mark}"


def changes(record: Gate) -> Table | None:
    """Lay out the layers that changed; None where none did."""
    columns = ("model", "layer", "kind", "number", "baseline", "now")
    rows = tuple(
        (
            change.model,
            change.path or "(the model itself)",
            change.kind,
            label(change.metric),
            value(change.metric, change.baseline),
            value(change.metric, change.candidate),
        )
        for change in record.changes
    )
    return (
        Table("Layers that changed", columns, rows, frozenset({"model", "layer", "kind", "number"})) if rows else None
    )


def foot(record: Gate) -> tuple[tuple[str, str], ...]:
    """Say how it was found out, and where."""
    timed = (
        "times by 95 % intervals over sessions of interleaved bursts: one fails where its whole interval lies beyond "
        "the limit, and two measurements together say so; where it straddles the limit it is inconclusive"
    )
    method = "counts, and predicted memory on one machine, do not vary and are compared as they are"
    machine = record.machine
    return (
        ("Command", record.command),
        ("When", record.created),
        *((("Machine", f"{machine.cpu}, torch {machine.torch}"),) if machine else ()),
        ("Limits", ", ".join(record.limits)),
        ("Method", f"{method}; {timed}" if record.times else method),
    )
