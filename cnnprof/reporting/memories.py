"""A memory profile to rows of text and to sentences. No torch."""

from cnnprof import units
from cnnprof.records import Category, HeldTensor, MemoryProfile, Predicted, Scenario
from cnnprof.reporting.tables import BARS, Table, input_text

_ROWS: tuple[tuple[str, tuple[Category, ...]], ...] = (
    ("weights", ("parameters",)),
    ("gradients", ("gradients",)),
    ("optimizer", ("optimizer_state",)),
    ("buffers and inputs", ("buffers", "inputs")),
    ("activations kept", ("activations",)),
    ("temporary", ("temporaries",)),
)


def title(profile: MemoryProfile) -> str:
    """Say what the page is about."""
    return f"What {profile.model} needs"


def header(profile: MemoryProfile) -> str:
    """torchvision:resnet50 · 3x224x224 · batch 64 · float32 · cpu · predicted, nothing was run."""
    settings = profile.settings
    size = input_text(profile.input_size)
    said = {
        f"batch {profile.batch_size}": profile.batch_size is not None,
        profile.dtype or settings.dtype: True,
        "bfloat16 autocast": settings.amp,
        "channels last": settings.channels_last,
        f"{settings.accumulate} batches a step": settings.accumulate > 1,
        settings.device: True,
        f"{units.plural(profile.machine.threads, 'thread')}": settings.device == "cpu",
    }
    how = "predicted, nothing was run" if profile.measured is None else "predicted and measured"
    how = how if profile.predicted is not None else "measured"
    return " · ".join([profile.model, size, *(text for text, holds in said.items() if holds), how])


def scenario_name(scenario: Scenario) -> str:
    """inference, or training, SGD(momentum=0.9)."""
    return scenario.mode if scenario.optimizer is None else f"{scenario.mode}, {scenario.optimizer}"


def table(profile: MemoryProfile) -> Table | None:
    """Lay out what stands at the peak, by scenario: rows add up to it."""
    scenarios = profile.scenarios
    if not scenarios:
        return None
    sizes = [each.predicted.peak_bytes for each in scenarios]
    unit = units.column_unit(units.BYTES, sizes)
    last = scenarios[-1].predicted
    rows = []
    for label, categories in _ROWS:
        values = [sum(each.predicted.at_peak.get(name, 0) for name in categories) for each in scenarios]
        if any(values):
            cells = (units.in_unit(value, unit, 1) if value else units.UNKNOWN for value in values)
            rows.append((label, *cells, units.bar(values[-1] / last.peak_bytes if last.peak_bytes else 0)))
    rows.append(("peak allocated", *(units.in_unit(size, unit, 1) for size in sizes), ""))
    columns = (f"at the peak, {unit.name}", *map(scenario_name, scenarios), BARS)
    return Table("At the peak", columns, tuple(rows), frozenset({columns[0], BARS}), (BARS,), total=True)


def sentences(profile: MemoryProfile) -> tuple[str, ...]:
    """Say how much it needs, where and when, what comes on top, what was measured, and what fits."""
    return tuple(text for text in (_peak(profile), _on_top(profile), measured_text(profile), fit_text(profile)) if text)


def _peak(profile: MemoryProfile) -> str:
    predicted = profile.predicted
    if predicted is None:
        return ""
    optimizer = profile.scenarios[-1].optimizer if profile.scenarios else None
    what = f"A training step with {optimizer}" if optimizer else "A forward pass"
    return f"{what} needs {units.bytes_(predicted.peak_bytes)} at its peak, {when(predicted)}."


def when(predicted: Predicted) -> str:
    """In backward, at layer4.2.conv3 (convolution_backward)."""
    where = f", at {predicted.peak_path}" if predicted.peak_path else ""
    phase = "in the optimizer's step" if predicted.peak_phase == "optimizer" else f"in {predicted.peak_phase}"
    return f"{phase}{where} ({predicted.peak_operator})"


def _on_top(profile: MemoryProfile) -> str:
    overhead, predicted = profile.overhead, profile.predicted
    if overhead is None or predicted is None:
        return ""
    total = units.bytes_(overhead.of(predicted.peak_bytes))
    on_top = f"{units.bytes_(overhead.fixed_bytes)}" + (f" and {overhead.share:.0%}" if overhead.share else "")
    where = "In nvidia-smi" if profile.settings.device.startswith("cuda") else "As a process"
    return f"{where} about {total}: {on_top} more ({overhead.source})."


def measured_text(profile: MemoryProfile) -> str:
    """Say what a real step took, by level, and how far off the prediction was."""
    measured = profile.measured
    if measured is None:
        return ""
    off = f", {100 * profile.error:+.2f} % predicted" if profile.error is not None else ""
    batch = f" at batch {measured.batch_size}" if measured.batch_size else ""
    said = [f"Measured{batch}: {units.bytes_(measured.peak_bytes)} allocated{off}"]
    if measured.reserved_bytes is not None:
        said.append(f"{units.bytes_(measured.reserved_bytes)} reserved on the device")
    if measured.process_peak_bytes is not None and measured.process_before_bytes is not None:
        before = units.bytes_(measured.process_before_bytes)
        said.append(
            f"{units.bytes_(measured.process_peak_bytes)} resident in a process of its own, {before} before the step"
        )
    return "; ".join(said) + "."


def fit_text(profile: MemoryProfile) -> str:
    """Say which batch fits."""
    fit = profile.fit
    if fit is None:
        return ""
    capacity = units.bytes_(fit.capacity_bytes)
    needed = f"{units.bytes_(fit.peak_bytes)} allocated, {units.bytes_(fit.needed_bytes)} with what comes on top"
    if fit.batch_size is None:
        return f"Does not fit {capacity}: even a batch of {fit.smallest_batch} needs {needed}."
    return f"Fits {capacity} up to batch {fit.batch_size:,}: {needed}."


def largest_table(predicted: Predicted) -> Table:
    """Lay out the largest tensors that stand at the peak."""
    unit = units.column_unit(units.BYTES, [each.size_bytes for each in predicted.largest])
    rows = tuple(
        (
            each.path or "(outside layers)",
            _words(each),
            units.size(each.shape),
            each.dtype,
            each.operator or units.UNKNOWN,
            units.in_unit(each.size_bytes, unit, 1),
        )
        for each in predicted.largest
    )
    columns = ("layer", "what for", "shape", "type", "made by", unit.name)
    words = frozenset({"layer", "what for", "shape", "type", "made by"})
    return Table("The largest tensors at the peak", columns, rows, words, ("type", "made by", "shape"))


_WORDS = {"parameters": "weight", "gradients": "gradient", "optimizer_state": "optimizer", "buffers": "buffer"}
_WORDS |= {"inputs": "input", "activations": "activation kept", "temporaries": "temporary"}


def _words(tensor: HeldTensor) -> str:
    return _WORDS[tensor.category]


def layers_table(predicted: Predicted, most: int = 1000) -> Table | None:
    """Lay out what each layer keeps for the backward pass, the largest first."""
    kept = sorted(
        (layer for layer in predicted.layers if layer.activation_bytes), key=lambda row: -row.activation_bytes
    )
    if not kept:
        return None
    unit = units.column_unit(units.BYTES, [layer.activation_bytes for layer in kept])
    total = sum(layer.activation_bytes for layer in kept)
    rows = [
        (
            layer.path or "(outside layers)",
            layer.kind,
            units.in_unit(layer.parameter_bytes, unit, 1),
            units.in_unit(layer.activation_bytes, unit, 1),
            units.percent(layer.activation_bytes / total),
            units.bar(layer.activation_bytes / total),
        )
        for layer in kept[:most]
    ]
    rest = sum(layer.activation_bytes for layer in kept[most:])
    if rest:
        rows.append(
            (f"{len(kept) - most:,} more layers", "", "", units.in_unit(rest, unit, 1), units.percent(rest / total), "")
        )
    rows.append(("total", "", "", units.in_unit(total, unit, 1), units.percent(1.0), ""))
    columns = ("layer", "kind", f"weights, {unit.name}", f"kept, {unit.name}", "%", BARS)
    words = frozenset({"layer", "kind", BARS})
    return Table("Kept for the backward pass", columns, tuple(rows), words, ("kind", BARS), total=True)


def foot(profile: MemoryProfile) -> tuple[tuple[str, str], ...]:
    """Command, date and method."""
    method = (
        "The step is followed on tensors without storage: a storage counts from the operator that makes it until "
        "nothing holds it. On the CPU, what kernels copy for themselves is measured once a kind of call, with small "
        "batches, and kept in the user's cache. Peak memory is the allocator's level: the largest sum of live tensor "
        "bytes. The step is one that others went before: optimizer state stands, gradients of the last one are gone."
    )
    if profile.settings.device.startswith("cuda"):
        method += " Blocks are rounded up to 512 bytes; cuBLAS's workspace counts, cuDNN's is not known."
    return (
        ("command", profile.command),
        ("date", profile.created),
        ("loss", profile.settings.loss),
        ("torch", profile.machine.torch),
        ("method", method),
    )
