"""A record to rows of text and to sentences, which terminal, Markdown and HTML all show. No torch.

Every sentence is computed from the run. A row has one unit; unknown is a dash.
"""

import dataclasses
import datetime
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cnnprof import statistics, units
from cnnprof.comparison import doubts as doubting
from cnnprof.comparison.growth import growing
from cnnprof.comparison.ratios import batches_known, macs_of
from cnnprof.records import (
    INPUT,
    Analysis,
    Candidate,
    Contrast,
    Doubt,
    Latency,
    LayerMemory,
    LayerTime,
    Machine,
    Mixing,
    Mode,
    Opinion,
    Ratio,
    Run,
    Settings,
    Side,
    Size,
    TimeByLayer,
    TimeRatio,
    Training,
)
from cnnprof.reporting import workings
from cnnprof.statistics import Interval


def convention(analyses: Iterable[Analysis] = ()) -> str:
    """Say what is counted, and whether it is of an image or of a call."""
    known = {analysis.batch_size is not None for analysis in analyses}
    of = "of a call: how many images its inputs hold was not said" if known == {False} else "per image"
    some = " (of a call where an input's batch is not known, and where such a model is compared)" * (len(known) > 1)
    return (
        "MACs are multiply-accumulates of convolutions, linear layers and matrix products, products with padded zeros "
        "included, biases not. FLOPs = 2 x MACs. MACs and conv outputs (elements of the outputs of operators that have "
        f"MACs) are {of}{some}. Each parameter tensor counts once. Rows are exclusive: they add up to the total."
    )


BARS = "share"
"""The column of bars."""


@dataclass(frozen=True)
class Row:
    """One line of the summary: a value for each candidate, and each later one against the first."""

    key: str
    label: str
    values: tuple[str, ...]
    versus: tuple[str, ...]
    note: str = ""
    unit: str = ""
    """Of the values, where the label names it."""


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is words, the others are numbers unless named in `words`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str] = frozenset()
    droppable: tuple[str, ...] = ()
    """Columns to leave out, the first first, where a screen is too narrow."""
    total: bool = False
    """The last row sums up the others."""


# What was run --------------------------------------------------------------------------------------------------------


def contrasts(run: Run) -> tuple[Contrast, ...]:
    """Return the comparisons of a document; a profile has none."""
    return getattr(run, "comparisons", ())


def title(run: Run) -> str:
    """Ask what the run answers, such as `Regular or bottleneck?`."""
    names = [profile.name for profile in run.profiles]
    if len(names) == 1:
        return f"What {names[0]} costs"
    question = f"{', '.join(names[:-1])} or {names[-1]}?"
    return question[:1].upper() + question[1:]


def header(run: Run) -> str:
    """256x56x56 · batch 8 · float32 · cpu, 2 threads (CPU share 1.00) · torch 2.14.1."""
    settings, machine = run.settings, run.machine
    sizes = dict.fromkeys(input_text(profile.analysis.input_size) for profile in run.profiles if profile.analysis)
    device = f"{machine.device} ({machine.device_name})" if machine.device_name else machine.device
    share = cpu_share(run)
    models = any(p.analysis for p in run.profiles)
    parts = [
        " and ".join(sizes) if len(sizes) < 4 else f"{len(sizes)} input sizes",
        _batches(run) if models else "",
        *(_how(run.profiles[0].measured_with(settings)) if models and not settings_differ(run) else ()),
        f"{device}, {units.plural(machine.threads, 'thread')}" + (f" (CPU share {share:.2f})" if share else ""),
        f"torch {machine.torch.partition('+')[0]}",
    ]
    return " · ".join(part for part in parts if part)


def input_text(size: Size | None) -> str:
    """256x56x56, or that a model brings inputs of its own."""
    return units.size(size) if size else "its own inputs"


def batch_sizes(run: Run) -> tuple[int, ...]:
    """Return the different batch sizes of the candidates, in their order."""
    return tuple(dict.fromkeys(profile.batch_size for profile in run.profiles if profile.batch_size))


def _batches(run: Run) -> str:
    asked = (run.settings.batch_size,) if run.settings.batch_size and per_image(run) else ()
    sizes = batch_sizes(run) or asked
    if not sizes:
        return ""
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batches of {sizes[0]:,} to {sizes[-1]:,}"


def settings_differ(run: Run) -> bool:
    """Say whether candidates are measured in different ways, their batch and input size apart."""
    own = (profile.measured_with(run.settings) for profile in run.profiles)
    return len({replace(settings, batch_size=1, input_size=None) for settings in own}) > 1


def _how(settings: Settings) -> list[str]:
    said = {
        settings.dtype: True,
        "bfloat16 autocast": settings.amp,
        "channels last": settings.channels_last,
        "compiled": settings.compile,
    }
    return [words for words, holds in said.items() if holds]


def _settings_row(run: Run) -> Row:
    own = [profile.measured_with(run.settings) for profile in run.profiles]
    threads = len({settings.threads for settings in own}) > 1
    values = tuple(
        ", ".join([*_how(each), *([units.plural(each.threads or run.machine.threads, "thread")] if threads else [])])
        for each in own
    )
    return Row("settings", "settings", values, ("",) * (len(values) - 1))


def cpu_share(run: Run) -> float | None:
    """Return the median over candidates and modes of the share of its processors that the process used."""
    shares = [
        latency.cpu_share
        for profile in run.profiles
        for _, latency in profile.latency.items()
        if latency.cpu_share is not None
    ]
    return sorted(shares)[len(shares) // 2] if shares else None


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day(run: Run | Training) -> str:
    """2026-11-23T10:42:20+00:00 -> 23 Nov 2026."""
    try:
        created = datetime.datetime.fromisoformat(run.created)
    except ValueError:
        return run.created
    return f"{created.day} {_MONTHS[created.month - 1]} {created.year}"


def all_doubts(run: Run) -> tuple[Doubt, ...]:
    """Return the doubts of a run, with failures that no doubt speaks of."""
    failed = (
        Doubt(profile.name, f"its measurement stopped: {profile.failure}")
        for profile in run.profiles
        if profile.failure and not any(profile.failure in doubt.message for doubt in run.doubts)
    )
    return (*run.doubts, *failed)


# The summary ---------------------------------------------------------------------------------------------------------


def summary(run: Run) -> tuple[Row, ...]:
    """Return the rows of the main table; those that were not asked for are left out."""
    rows: list[Row] = []
    if any(profile.analysis for profile in run.profiles):
        rows += [_params_row(run), _macs_row(run)]
    modes: Sequence[Mode] = run.settings.modes
    if settings_differ(run):
        rows.insert(0, _settings_row(run))
    if len(batch_sizes(run)) > 1:
        rows.insert(0, _batch_row(run))
    rows += [_time_row(run, mode) for mode in modes]
    if len(batch_sizes(run)) > 1 and per_image(run):
        rows += [_speed_row(run, mode) for mode in modes]
    if any(run.settings.of(profile.settings).compile for profile in run.profiles):
        rows += [_compile_row(run, mode) for mode in modes]
    if any(profile.analysis for profile in run.profiles):
        rows += [_memory_row(run, mode) for mode in modes]
        rows += [_kept_row(run)] if any(profile.kept for profile in run.profiles) else []
        rows += [_field_row(run), _combined_row(run), _channels_row(run)]
    return tuple(rows)


def _params_row(run: Run) -> Row:
    values = tuple(units.integer(p.analysis.params if p.analysis else None) for p in run.profiles)
    return Row("params", "parameters", values, _versus(run, lambda c: c.params, "fewer", "more"))


def per_image(run: Run) -> bool:
    """Say whether the batch of every network is known; else figures that stand side by side are of a call."""
    return batches_known(*run.profiles)


def an_image(analysis: Analysis) -> str:
    """Say whether its figures are of an image or of a call."""
    return units.an_image(analysis.batch_size is not None)


def _macs_row(run: Run) -> Row:
    macs = [macs_of(profile, per_image(run)) for profile in run.profiles]
    unit = units.gigas(macs)
    complete = [not (p.analysis and p.analysis.uncounted) for p in run.profiles]
    values = tuple(units.macs(value, unit, whole) for value, whole in zip(macs, complete, strict=True))
    note = "FLOPs = 2 x MACs" + ("" if all(complete) else "; not all was counted")
    label = f"{unit.name}MACs {units.per_image(per_image(run))}"
    return Row("macs", label, values, _versus(run, lambda c: c.macs, "fewer", "more"), note)


TIME_LABELS = {"inference": "forward", "training": "training step"}


def _batch_row(run: Run) -> Row:
    values = tuple(units.integer(profile.batch_size) for profile in run.profiles)
    return Row("batch_size", "batch size", values, ("",) * (len(values) - 1))


def images_per_s(candidate: Candidate, mode: Mode) -> float | None:
    """Images of a batch over the seconds of a batch."""
    latency = candidate.latency[mode]
    return candidate.batch_size / latency.median_s if latency and candidate.batch_size else None


def _speed_row(run: Run, mode: Mode) -> Row:
    speeds = [images_per_s(profile, mode) for profile in run.profiles]
    decimals = units.decimals_for(units.COUNTS[-1], speeds)
    values = tuple(units.in_unit(speed, units.COUNTS[-1], decimals) for speed in speeds)
    what = "images / s" if mode == "inference" else "images / s, training"
    return Row(f"{mode}_images_per_s", what, values, ("",) * (len(values) - 1))


def _compile_row(run: Run, mode: Mode) -> Row:
    """What is paid once, and is no part of the times."""
    seconds = [
        latency.first_calls_s[0]
        if (latency := profile.latency[mode]) and latency.first_calls_s and run.settings.of(profile.settings).compile
        else None
        for profile in run.profiles
    ]
    values = tuple(units.in_unit(value, units.SECONDS[0], 1) for value in seconds)
    return Row(f"{mode}_compile", f"to compile, {mode}, s", values, ("",) * (len(values) - 1), "once, apart")


def _time_row(run: Run, mode: Mode) -> Row:
    latencies = [profile.latency[mode] for profile in run.profiles]
    divided = len(batch_sizes(run)) > 1 and per_image(run)
    shared = [(profile.batch_size or 1) if divided else 1 for profile in run.profiles]
    medians = [
        latency.median_s / images if latency else None for latency, images in zip(latencies, shared, strict=True)
    ]
    column = _time_column(medians)
    ratios = [c.latency if mode == "inference" else c.training_latency for c in contrasts(run)]
    image = " per image" if divided else ""
    versus = tuple(time_words(ratio, run) for ratio in ratios)
    grown = grows(run)
    alone = _spread(latencies[0], column) if (run.profiles[0].name, mode) not in grown else _GROWS
    note = "" if contrasts(run) else alone
    label, unit = f"{column.heading(TIME_LABELS[mode])}{image}", f"{column.name}{image if column.name else ''}"
    return Row(f"{mode}_s", label, tuple(map(column.text, medians)), versus, note, unit)


_GROWS = "grows with each call"


def grows(run: Run) -> frozenset[tuple[str, Mode]]:
    """Return the candidates and modes whose time no single number stands for."""
    return frozenset((candidate.name, mode) for candidate, mode, _ in growing(run.profiles))


def _spread(latency: Latency | None, column: units.Column) -> str:
    bounds = latency.ci95_s if latency else None
    return column.interval(bounds) if bounds else ""


def time_words(ratio: TimeRatio | None, run: Run) -> str:
    """6.4x faster [6.1, 6.9]; or why there is no verdict."""
    if ratio is None:
        return units.UNKNOWN
    if ratio.grows:
        whose = "both times grow" if len(ratio.grows) > 1 else f"{_WHOSE[ratio.grows[0]]} time grows"
        return f"- inconclusive: {whose} with each call"
    share = doubting.starved_share(run.profiles)
    if ratio.ratio is None:
        hint = doubting.cpu_hint(run.machine, run.settings)
        got = f"this process got {units.percent(share, 0)} % of its CPUs; {hint}"
        reason = got if share is not None else "no sessions yet"
        return f"- inconclusive: {reason}" if ratio.sessions or share is not None else units.UNKNOWN
    text = faster_words(ratio.ratio, ratio.ci95)
    if ratio.verdict == "inconclusive":
        why = "few sessions" if ratio.sessions < statistics.MIN_SESSIONS else "the sessions differ too much"
        return f"inconclusive: {text}; {why}"
    return f"equal: {text}" if ratio.verdict == "equal" else text


_WHOSE: dict[Side, str] = {"baseline": "the baseline's", "candidate": "its"}


def faster_words(ratio: float, interval: Interval | None) -> str:
    """0.156, (0.145, 0.163) -> 6.4x faster [6.1, 6.9]; the interval is of the number that is shown."""
    shown = units.reciprocal(interval) if ratio < 1 else interval
    words = units.versus(ratio, "faster", "slower", interval) if ratio != 1 else "1.00x"
    if shown is None:
        return words
    return f"{words} {units.span(shown, units.factor_decimals(max(ratio, 1 / ratio), shown))}"


def _memory_row(run: Run, mode: Mode) -> Row:
    peaks = [memory.peak_bytes if (memory := profile.memory[mode]) else None for profile in run.profiles]
    column = units.column(units.BYTES, peaks, least=1, most=1)
    versus = _versus(run, lambda c: c.peak_bytes if mode == "inference" else c.training_peak_bytes, "less", "more")
    label, values = column.heading(f"peak, {mode}"), tuple(map(column.text, peaks))
    return Row(f"{mode}_peak", label, values, versus, unit=column.name)


def _kept_row(run: Run) -> Row:
    kept = [profile.kept_bytes for profile in run.profiles]
    column = units.column(units.BYTES, kept, least=1, most=1)
    values = tuple(map(column.text, kept))
    return Row(
        "kept", column.heading("kept for backward"), values, _versus(run, lambda c: c.kept_bytes, "less", "more")
    )


def _versus(run: Run, of: Callable[[Contrast], Ratio], less: str, more: str) -> tuple[str, ...]:
    return tuple(units.versus(of(contrast).ratio, less, more) for contrast in contrasts(run))


def receptive_field(candidate: Candidate) -> str:
    """5x5, all, or a dash."""
    field = candidate.mixing.receptive_field if candidate.mixing else None
    return field if isinstance(field, str) else units.size(field)


def _field_row(run: Run) -> Row:
    fields = [profile.mixing.receptive_field if profile.mixing else None for profile in run.profiles]
    versus = tuple(_field_words(fields[0], field) for field in fields[1:])
    return Row("receptive_field", "receptive field", tuple(map(receptive_field, run.profiles)), versus)


def _field_words(baseline: object, field: object) -> str:
    if baseline is None or field is None:
        return units.UNKNOWN
    if baseline == field:
        return "the same"
    if baseline == "all" or field == "all":
        return "sees everything" if field == "all" else "sees less around a pixel"
    assert isinstance(baseline, tuple)
    assert isinstance(field, tuple)
    if len(baseline) == len(field) and all(a <= b for a, b in zip(field, baseline, strict=True)):
        return "sees less around a pixel"
    return "sees more around a pixel" if len(baseline) == len(field) else units.UNKNOWN


def _combined_row(run: Run) -> Row:
    values = tuple(channels_combined(profile.mixing) for profile in run.profiles)
    return Row("channels_combined", "channels combined", values, ("",) * (len(values) - 1))


def channels_combined(mixing: Mixing | None) -> str:
    """All 256; 64 of 256; 1 to 64 of 256; or a dash."""
    if mixing is None or mixing.channels_combined is None or mixing.input_channels is None:
        return units.UNKNOWN
    fewest, most = mixing.channels_combined
    every = units.integer(mixing.input_channels)
    if fewest == mixing.input_channels:
        return f"all {every}"
    return f"{units.integer(fewest)}{f' to {units.integer(most)}' if most > fewest else ''} of {every}"


def _channels_row(run: Run) -> Row:
    mixings = [profile.mixing for profile in run.profiles]
    values = tuple(units.integer(mixing.narrowest_channels if mixing else None) for mixing in mixings)
    versus = tuple(f"the skip carries {_past(mixing)} past it" if _past(mixing) else "" for mixing in mixings[1:])
    return Row("narrowest_channels", "narrowest channels", values, versus)


def _past(mixing: Mixing | None) -> str:
    """Say how many channels a shorter path carries past the narrowest place: all 256, or 128."""
    if mixing is None or not mixing.carried_past:
        return ""
    every = "all " if mixing.carried_past == mixing.input_channels else ""
    return f"{every}{units.integer(mixing.carried_past)}"


def by_candidate(run: Run) -> tuple[Table, str]:
    """Turn the summary round, a line a candidate, for many of them; and say what is the same for all."""
    names = [profile.name for profile in run.profiles]
    columns: list[tuple[str, tuple[str, ...]]] = []
    same: list[str] = []
    for row in summary(run):
        timed = row.key in ("inference_s", "training_s")
        if len(set(row.values)) == 1 and not timed:
            same.append(f"{row.label} {row.values[0]}")
            continue
        columns.append((row.label, row.values))
        if timed:
            columns.append((f"vs {names[0]}" + " " * len(columns), ("", *row.versus)))
    labels = tuple(label for label, _ in columns)
    rows = tuple((name, *cells) for name, *cells in zip(names, *(values for _, values in columns), strict=True))
    versus = [label for label in labels if label.startswith("vs ")]
    words = frozenset({"model", "settings", *versus})
    kept = {"batch size", *versus, *(label for label in labels if label.startswith(tuple(TIME_LABELS.values())))}
    droppable = tuple(label for label in reversed(labels) if label not in kept)
    said = f"The same for all: {', '.join(same)}." if same else ""
    return Table("Summary", ("model", *labels), rows, words, droppable), said


# Sentences -----------------------------------------------------------------------------------------------------------


def headline(run: Run) -> tuple[str, ...]:
    """Say in a sentence for each candidate what it wins and loses against the baseline, and how it was made like it."""
    if not contrasts(run):
        return tuple(_alone(profile, run) for profile in run.profiles)
    return (*(_against(c, run) for c in contrasts(run)), *matches(run))


def matches(run: Run) -> tuple[str, ...]:
    """Bottleneck: channels=1055 comes nearest, with 1,179,032 parameters, 0.10 % fewer than the 1,180,160 to match."""
    return tuple(
        f"{profile.name}: {doubting.match_text(profile, match)}."
        for profile in run.profiles
        if (match := profile.matched)
    )


def _against(contrast: Contrast, run: Run) -> str:
    parts = []
    counts = [("parameters", contrast.params.ratio), ("MACs", contrast.macs.ratio)]
    by_text: dict[str, list[str]] = {}
    for noun, ratio in counts:
        if ratio is not None:
            by_text.setdefault(units.versus(ratio, "fewer", "more"), []).append(noun)
    for text, nouns in by_text.items():
        parts.append(
            f"has {text} {' and '.join(nouns)}" if text != "the same" else f"has the same {' and '.join(nouns)}"
        )
    parts += _time_clauses(contrast)
    if contrast.training_peak_bytes.ratio is not None:
        memory = units.versus(contrast.training_peak_bytes.ratio, "less", "more")
        parts.append(f"needs {memory} memory to train")
    if not parts:
        return f"{contrast.name}: nothing to compare was measured."
    return f"{contrast.name} {_enumerated(parts)} than {run.profiles[0].name}."


def _time_clauses(contrast: Contrast) -> list[str]:
    clauses = []
    for ratio, what in ((contrast.latency, "runs"), (contrast.training_latency, "trains")):
        if ratio is None or ratio.ratio is None or ratio.verdict == "inconclusive":
            continue
        words = "as fast" if ratio.verdict == "equal" else faster_words(ratio.ratio, ratio.ci95)
        clauses.append(f"{what} {words}")
    return clauses


def _enumerated(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _alone(profile: Candidate, run: Run) -> str:
    parts = [f"has {units.integer(profile.analysis.params)} parameters" if profile.analysis else ""]
    if profile.analysis and profile.analysis.known_macs is not None:
        macs = counted(units.count(profile.analysis.known_macs / profile.analysis.images), "MACs")
        parts.append(f"takes {macs} {an_image(profile.analysis)}")
    latency = profile.latency.inference
    if latency:
        what = "batch" if batches_known(profile) else "call"
        longer = ", and longer with each call" if (profile.name, "inference") in grows(run) else ""
        parts.append(f"runs a {what} in {units.seconds(latency.median_s)}{longer}")
    memory = profile.memory.training
    parts.append(f"needs {units.bytes_(memory.peak_bytes)} to train" if memory else "")
    known = [part for part in parts if part]
    return f"{profile.name} {_enumerated(known)}." if known else f"{profile.name}: nothing was measured."


def bottom_line(run: Run) -> str:
    """17x less arithmetic buys 6.4x in time and 1.4x in training memory; empty where there is nothing to trade."""
    if len(contrasts(run)) != 1:
        return ""
    (contrast,) = contrasts(run)
    macs, time, memory = contrast.macs.ratio, contrast.latency, contrast.training_peak_bytes.ratio
    if not macs or 1 / macs < 1.05 or time is None or time.ratio is None or time.verdict in ("inconclusive", "equal"):
        return ""
    bought = [f"{units.factor(1 / time.ratio)} in time" if time.ratio < 1 else "nothing in time"]
    if memory:
        bought.append(f"{units.factor(1 / memory)} in training memory" if memory < 1 else "nothing in training memory")
    return f"{1 / macs:.{0 if macs < 0.1 else 1}f}x less arithmetic buys {' and '.join(bought)}."


def analyzed(run: Run) -> tuple[Candidate, ...]:
    """Return the candidates whose counts are known; of those that are the same network, the first."""
    known = {(p.analysis.model, p.analysis.totals): p for p in reversed(run.profiles) if p.analysis}
    return tuple(known.values())[::-1]


def answers(run: Run) -> tuple[tuple[str, str], ...]:
    """Answer the three questions of a block with this run's numbers: parameters, operations, what it combines."""
    known = analyzed(run)
    if not known:
        return ()
    return (
        ("Parameters", " ".join(_params_sentence(profile) for profile in known) + _closing(run, "params")),
        ("Operations", " ".join(_macs_sentence(profile) for profile in known) + _closing(run, "macs")),
        ("Combining the input within feature maps", " ".join(_field_sentence(profile) for profile in known)),
        ("Combining the input across feature maps", " ".join(_channels_sentence(profile) for profile in known)),
    )


def _params_sentence(profile: Candidate) -> str:
    assert profile.analysis
    found = workings.sums(profile.analysis, "params")
    without = workings.without_biases(found)
    biases = f" ({units.integer(without)} without biases)" if profile.analysis.working else ""
    return f"{profile.name} has {_worked_out(found, units.integer(profile.analysis.params))}{biases}."


_MOST_QUOTED = 3
"""Sums that a sentence holds."""


def _worked_out(found: Sequence[workings.Sum], whole: str) -> str:
    """Quote the working of a total where it is short, else how it adds up, or the total alone."""
    total = workings.total(found)
    if not 0 < len(found) <= _MOST_QUOTED or not all(each.terms for each in found):
        return f"{total} = {whole}" if total else whole
    quoted = _enumerated([each.said for each in found])
    return quoted if len(found) == 1 else f"{quoted}; together {total} = {whole}"


def _macs_sentence(profile: Candidate) -> str:
    assert profile.analysis
    if profile.analysis.known_macs is None:
        return f"The MACs of {profile.name} are not counted."
    whole = units.integer(round(profile.analysis.known_macs / profile.analysis.images))
    found = workings.sums(profile.analysis, "macs") if profile.analysis.images == 1 else ()
    return f"{profile.name} takes {_worked_out(found, whole) if found else whole} MACs {an_image(profile.analysis)}."


def _closing(run: Run, what: str) -> str:
    said = [
        f"{contrast.name} has {units.versus(getattr(contrast, what).ratio, 'fewer', 'more')}"
        for contrast in contrasts(run)
        if getattr(contrast, what).ratio not in (None, 1)
    ]
    return f" Against {run.profiles[0].name}, {_enumerated(said)}." if said else ""


def _field_sentence(profile: Candidate) -> str:
    field = receptive_field(profile)
    if field == units.UNKNOWN:
        return f"How far an output of {profile.name} sees is not known: it holds operators that cnnprof cannot follow."
    seen = f"{field} input elements of each feature map"
    if field == "all":
        seen = f"the whole input, through a global operator{_before_all(profile)}"
    return f"An output of {profile.name} sees {seen}{_effectively(profile)}."


def _effectively(profile: Candidate) -> str:
    felt = profile.effective_field
    return f", and feels most a square of {felt.side:.1f} a side" if felt else ""


def _before_all(profile: Candidate) -> str:
    """Say how far elements see before the first operator that sees all."""
    assert profile.mixing
    before = list(itertools.takewhile(lambda layer: layer.receptive_field != "all", profile.mixing.layers))
    if not before or before[-1].stride is None or not isinstance(before[-1].receptive_field, tuple):
        return ""
    return f"; before it {units.size(before[-1].receptive_field)}, at a stride of {units.strides(before[-1].stride)}"


def _channels_sentence(profile: Candidate) -> str:
    mixing = profile.mixing
    if mixing is None or mixing.narrowest_channels is None:
        return f"{profile.name} has no convolution to mix feature maps."
    past = f", and a skip carries {_past(mixing)} past it" if _past(mixing) else ""
    waist = f"its narrowest path goes through {units.integer(mixing.narrowest_channels)}{past}.{_rank_sentence(mixing)}"
    combined = channels_combined(mixing)
    if combined == units.UNKNOWN:
        return f"Which input channels an output channel of {profile.name} combines is not known; {waist}"
    return f"An output channel of {profile.name} combines {combined} input channels; {waist}"


def _rank_sentence(mixing: Mixing) -> str:
    """Confirm the waist by number; the rank of the network as it runs is another thing."""
    if mixing.rank is None:
        return ""
    rank, whole = units.integer(mixing.rank), units.integer(mixing.rank_with_skips)
    skips = "" if rank == whole else f" along that path, and {whole} with the skip"
    return f" With its activations taken out, the map between its channels has rank {rank}{skips}."


def reach_table(candidate: Candidate) -> Table | None:
    """What an element behind each layer can combine of the input; None where nothing is known."""
    mixing = candidate.mixing
    if mixing is None or not any(layer.receptive_field for layer in mixing.layers):
        return None
    every = units.integer(mixing.input_channels)
    rows = tuple(
        (
            layer.path or candidate.name,
            layer.kind,
            layer.receptive_field if isinstance(layer.receptive_field, str) else units.size(layer.receptive_field),
            units.strides(layer.stride),
            units.size(layer.padding) if layer.padding else units.UNKNOWN,
            f"{units.integer(layer.channels_combined)} of {every}" if layer.channels_combined else units.UNKNOWN,
        )
        for layer in mixing.layers
    )
    columns = ("layer", "kind", "sees", "stride", "padding", "input channels combined")
    return Table(candidate.name, columns, rows, frozenset({"layer", "kind"}), ("kind", "padding"))


# Layers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """What one layer, or several together, have and take."""

    name: str
    kind: str = ""
    output: str = ""
    params: int = 0
    macs: float = 0.0
    forward_s: float | None = None
    backward_s: float | None = None
    step_s: float | None = None
    """Of a training step: forward, backward and the rest."""
    kept_bytes: int | None = None
    complete: bool = True
    """Whether all its operators were counted."""

    @property
    def spent_s(self) -> float:
        """Seconds of all that was profiled."""
        return (self.forward_s if self.step_s is None else self.step_s) or 0.0


def layer_table(candidate: Candidate, most: int = 24) -> Table | None:
    """Params, MACs and time by layer, exclusive; of more than `most` layers the smallest are summed up in one line.

    The forward column adds up to the forward pass's latency, that of the training step to the training step's.
    """
    analysis = candidate.analysis
    if analysis is None:
        return None
    layers = _lines(analysis, candidate.time, candidate.kept)
    lines = [*_few(layers, most), *_remainder(candidate, layers)]
    total = _sum("total", lines)
    time_unit = units.column_unit(units.SECONDS, [line.spent_s for line in lines])
    macs_unit = units.gigas([line.macs for line in lines])
    kept_unit = units.column_unit(units.BYTES, [line.kept_bytes for line in lines])

    def cells(line: _Line) -> tuple[str, ...]:
        whole, part = (total.spent_s, line.spent_s) if total.spent_s else (total.macs, line.macs)
        return (
            line.name,
            line.kind,
            line.output,
            units.integer(line.params),
            units.macs(line.macs, macs_unit, line.complete),
            _share_of_macs(line, total),
            units.in_unit(line.forward_s, time_unit, 2),
            units.in_unit(line.backward_s, time_unit, 2),
            units.in_unit(line.step_s, time_unit, 2),
            units.in_unit(line.kept_bytes, kept_unit, 1),
            units.bar(part / whole, 12) if whole and line is not total else "",
        )

    kept = f"kept, {kept_unit.name}"
    times = tuple(f"{what}, {time_unit.name}" for what in ("forward", "backward", _STEP))
    columns = ("layer", "kind", "output", "params", f"{macs_unit.name}MACs", "% of MACs", *times, kept, BARS)
    words = frozenset({"layer", "kind", BARS})
    droppable = (BARS, "% of MACs", kept, "output", "kind", times[1])
    table = Table(candidate.name, columns, tuple(map(cells, (*lines, total))), words, droppable, total=True)
    return table if _trained(candidate.time) else known_columns(table)


_STEP = TIME_LABELS["training"]


def _trained(where: TimeByLayer | None) -> bool:
    """Say whether a training step was profiled."""
    return where is not None and any(layer.backward_s is not None for layer in where.layers)


def _share_of_macs(line: _Line, total: _Line) -> str:
    if not line.macs and not line.complete:
        return units.NOT_COUNTED
    return units.percent(line.macs / total.macs) if total.macs else units.UNKNOWN


def _lines(analysis: Analysis, where: TimeByLayer | None, memory: Sequence[LayerMemory]) -> list[_Line]:
    """Put counts, times and kept memory together; layers that have and take nothing are left out."""
    kept = {layer.path: layer.activation_bytes for layer in memory}
    times = {layer.path: layer for layer in where.layers} if where else {}
    uncounted = analysis.uncounted_paths
    lines = [
        _Line(
            layer.path or "(itself)",
            f"{layer.kind} {layer.detail}".strip(),
            units.size(output(analysis, layer.output_shape)) if layer.output_shape else "",
            layer.params,
            layer.macs / analysis.images,
            times[layer.path].forward_s if layer.path in times else None,
            times[layer.path].backward_s if layer.path in times else None,
            _step_s(times[layer.path]) if layer.path in times else None,
            kept.get(layer.path, 0) if kept else None,
            layer.path not in uncounted,
        )
        for layer in analysis.layers
    ]
    if INPUT in kept:
        lines.insert(0, _Line(INPUT, kept_bytes=kept[INPUT]))
    parts = [("(loss)", "loss"), ("(optimizer)", "optimizer step")]
    lines += [
        _Line(name, backward_s=times[path].backward_s, step_s=times[path].forward_s + (times[path].backward_s or 0.0))
        for path, name in parts
        if path in times
    ]
    return [line for line in lines if line.params or line.macs or line.spent_s or line.kept_bytes or not line.complete]


def output(analysis: Analysis, shape: Size | None) -> Size | None:
    """Leave the batch out of a shape, where there is known to be one."""
    return shape if shape is None or analysis.batch_size is None else shape[1:]


def _step_s(layer: LayerTime) -> float | None:
    return None if layer.backward_s is None else layer.forward_s + layer.backward_s


def _remainder(candidate: Candidate, layers: Sequence[_Line]) -> list[_Line]:
    """Return the row that brings each column up to its own latency."""
    where, name = candidate.time, "remainder to the latency"
    if where is None or where.remainder_s is None:
        return []
    if not _trained(where):
        return [_Line(name, forward_s=where.remainder_s)]
    timed = candidate.latency.inference
    forward_s = timed.median_s - sum(line.forward_s or 0.0 for line in layers) if timed else None
    return [_Line(name, forward_s=forward_s, step_s=where.remainder_s)]


def _few(lines: Sequence[_Line], most: int) -> list[_Line]:
    """Sum up the lines that take least time, or fewest MACs where no time is known."""
    if len(lines) <= most:
        return list(lines)
    largest = sorted(lines, key=lambda line: (line.spent_s, line.macs, line.params), reverse=True)[: most - 1]
    rest = [line for line in lines if line not in largest]
    return [*(line for line in lines if line in largest), _sum(f"{len(rest):,} smaller layers", rest)]


def _sum(name: str, lines: Sequence[_Line]) -> _Line:
    forward = [line.forward_s for line in lines if line.forward_s is not None]
    backward = [line.backward_s for line in lines if line.backward_s is not None]
    step = [line.step_s for line in lines if line.step_s is not None]
    kept = [line.kept_bytes for line in lines if line.kept_bytes is not None]
    return _Line(
        name,
        params=sum(line.params for line in lines),
        macs=sum(line.macs for line in lines),
        forward_s=sum(forward) if forward else None,
        backward_s=sum(backward) if backward else None,
        step_s=sum(step) if step else None,
        kept_bytes=sum(kept) if kept else None,
        complete=all(line.complete for line in lines),
    )


def layer_note(candidate: Candidate) -> str:
    """Say what the MACs and the times of the layers leave out."""
    said = not_counted(candidate.analysis) if candidate.analysis else ""
    where = candidate.time
    if where is None or where.remainder_s is None:
        return said
    whole = "its column's median" if _trained(where) else f"{doubting.WHAT[where.mode]}'s median"
    of = f" of {doubting.WHAT[where.mode]}" if _trained(where) else ""
    passes = f"{where.passes} profiled passes{of}"
    below = "; it is below 0 where they took longer than what was timed" if where.remainder_s < 0 else ""
    return (
        f"{said} Times are medians of {passes}; the remainder to {whole} is Python, dispatch and what profiling "
        f"costs{below}."
    )


def operator_table(candidate: Candidate, most: int = 15) -> Table | None:
    """Where the time of a call went by operator; the smallest are summed up, and the remainder has a row."""
    where = candidate.time
    if where is None or not where.operators:
        return None
    rows = [(row.operator, row.calls, row.forward_s, row.backward_s) for row in where.operators]
    if len(rows) > most:
        rest = rows[most - 1 :]
        backward = [back for *_, back in rest if back is not None]
        name = units.plural(len(rest), "smaller operator")
        summed = (name, sum(calls for _, calls, _, _ in rest), sum(s for _, _, s, _ in rest), sum(backward))
        rows = [*rows[: most - 1], summed if backward else (*summed[:3], None)]
    total_s = sum(forward + (backward or 0.0) for _, _, forward, backward in rows) + (where.remainder_s or 0.0)
    unit = units.column_unit(units.SECONDS, [forward + (backward or 0.0) for _, _, forward, backward in rows])
    trained = _trained(where)
    cells = [
        (
            name,
            units.integer(calls),
            units.in_unit(forward, unit, 2),
            units.in_unit(backward, unit, 2),
            units.in_unit(forward + (backward or 0.0) if trained else None, unit, 2),
            units.percent((forward + (backward or 0.0)) / total_s),
        )
        for name, calls, forward, backward in rows
    ]
    if where.remainder_s is not None:
        rest_s = units.in_unit(where.remainder_s, unit, 2)
        remainder = ("", "", rest_s) if trained else (rest_s, "", "")
        cells.append(("remainder to the latency", "", *remainder, units.percent(where.remainder_s / total_s)))
    forward = "forward and optimizer" if trained else "forward"
    times = (f"{forward}, {unit.name}", f"backward, {unit.name}", f"{_STEP}, {unit.name}")
    columns = ("operator", "calls", *times, "% of latency")
    return known_columns(Table(f"{candidate.name} by operator", columns, tuple(cells), frozenset({"operator"})))


def kind_table(candidate: Candidate, most: int = 15) -> Table | None:
    """Where the time of a call went by the type of module, the longest first."""
    where = candidate.time
    if where is None:
        return None
    sums: dict[str, tuple[int, float, float]] = {}
    for layer in where.layers:
        number, forward_s, backward_s = sums.get(layer.kind, (0, 0.0, 0.0))
        spent = (forward_s + layer.forward_s, backward_s + (layer.backward_s or 0.0))
        sums[layer.kind] = (number + bool(layer.forward_s or layer.backward_s), *spent)
    ranked = sorted(((kind, *spent) for kind, spent in sums.items() if spent[0]), key=lambda row: -(row[2] + row[3]))
    unit = units.column_unit(units.SECONDS, [forward_s + backward_s for *_, forward_s, backward_s in ranked])
    trained = _trained(where)
    rows = tuple(
        (
            kind,
            units.integer(number),
            units.in_unit(forward_s, unit, 2),
            units.in_unit(backward_s if trained else None, unit, 2),
        )
        for kind, number, forward_s, backward_s in ranked[:most]
    )
    columns = ("type", "layers", f"forward, {unit.name}", f"backward, {unit.name}")
    return known_columns(Table(f"{candidate.name} by type", columns, rows, frozenset({"type"}))) if rows else None


def known_columns(table: Table, leave_out: str = "") -> Table:
    """Leave out the columns that hold nothing, and one by its name."""
    kept = [
        number
        for number, column in enumerate(table.columns)
        if column != leave_out and any(row[number] not in ("", units.UNKNOWN) for row in table.rows)
    ]
    return dataclasses.replace(
        table,
        columns=tuple(table.columns[number] for number in kept),
        rows=tuple(tuple(row[number] for number in kept) for row in table.rows),
    )


# Times ---------------------------------------------------------------------------------------------------------------


def time_table(run: Run) -> Table | None:
    """Median, interval and processors of each candidate and mode."""
    found = _latencies(run)
    if not found:
        return None
    column = _time_column([latency.median_s for _, _, latency in found])
    grown = grows(run)
    rows = [
        (
            name,
            TIME_LABELS[mode],
            column.text(latency.median_s),
            ("" if (name, mode) in grown else _spread(latency, column)) or units.UNKNOWN,
            units.integer(sum(map(len, latency.sessions))),
            f"{len(latency.counted)} of {len(latency.sessions)}",
            units.percent(latency.cpu_share, 0),
            units.percent(latency.got_share, 0),
        )
        for name, mode, latency in found
    ]
    columns = ("model", "what", column.heading("median"), "95 % interval", "calls", "sessions counted", "CPU share, %",
               "got of its CPUs, %")  # fmt: skip
    return Table("Time", columns, tuple(rows), frozenset({"model", "what"}))


def session_table(run: Run) -> Table | None:
    """Every session: its median and extremes, and whether it counts."""
    found = _latencies(run)
    if not found:
        return None
    column = _time_column([latency.median_s for _, _, latency in found])
    rows = []
    for name, mode, latency in found:
        for number, times in enumerate(latency.sessions):
            shown = (latency.session_median_s(number), min(times), max(times))
            share = latency.cpu_shares[number] if latency.cpu_shares else None
            verdict = "starved, left out" if latency.starved(number) else "counted"
            rows.append((name, TIME_LABELS[mode], units.integer(number + 1), units.integer(len(times)),
                         *map(column.text, shown), units.percent(share, 0),
                         verdict))  # fmt: skip
    columns = ("model", "what", "session", "calls", column.heading("median"), "fastest", "slowest", "CPU share, %", "")
    return Table("Sessions", columns, tuple(rows), frozenset({"model", "what", ""}))


def _latencies(run: Run) -> list[tuple[str, Mode, Latency]]:
    return [(profile.name, mode, latency) for profile in run.profiles for mode, latency in profile.latency.items()]


def _time_column(medians: Sequence[float | None]) -> units.Column:
    seconds = units.column_unit(units.SECONDS, medians) == units.SECONDS[0]
    return units.column(units.SECONDS, medians, least=1, most=2 if seconds else 1)


# The foot ------------------------------------------------------------------------------------------------------------


def foot(run: Run) -> tuple[tuple[str, str], ...]:
    """Command, commit, machine, method, convention and what was not counted."""
    settings = run.settings
    entries = [
        ("command", run.command),
        ("commit", run.commit or units.UNKNOWN),
        ("date", run.created),
        ("machine", machine_text(run.machine)),
        ("method", _method(run)),
    ]
    if any(profile.analysis for profile in run.profiles):
        entries += [
            ("training step", f"forward, loss, backward, optimizer step; {settings.optimizer}; loss: {settings.loss}"),
            ("convention", convention(profile.analysis for profile in run.profiles if profile.analysis)),
            ("not counted", _not_counted(run)),
        ]
    more = getattr(run, "training", None) or getattr(run, "map", None)
    if run.command.startswith("cnnprof compare") and not more:
        entries += [("training", f"not run; {run.command} --train shows what they learn")]
    return tuple(entries)


def machine_text(machine: Machine) -> str:
    """Return its hardware and its software."""
    cores = f"{machine.physical_cores or '?'} cores, {machine.logical_cores or '?'} logical"
    hardware = [machine.cpu, cores, units.bytes_(machine.memory_bytes), machine.device_name or "", machine.os]
    load = "" if machine.load is None else f"load {machine.load:.2f} at the start"
    software = [
        f"Python {machine.python}",
        f"torch {machine.torch}",
        machine.instructions or "",
        f"CUDA {machine.cuda}" if machine.cuda else "",
        f"cudnn.benchmark {'on' if machine.cudnn_benchmark else 'off'}" if machine.cuda else "",
        f"TF32 {'on' if machine.tf32 else 'off'}" if machine.cuda else "",
        *(f"{name}={value}" for name, value in machine.environment.items()),
        load,
    ]
    return ", ".join(part for part in (*hardware, *software) if part)


def sessions_text(run: Run) -> str:
    """Intervals: 95 %, over 5 sessions."""
    counts = [len(latency.sessions) for profile in run.profiles for _, latency in profile.latency.items()]
    if not counts:
        return "no session was measured"
    over = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"intervals: 95 %, over {over} session{'' if max(counts) == 1 else 's'}"


def _method(run: Run) -> str:
    kept = "the C library kept its memory" if run.machine.allocator == "kept" else "the C library's own allocator"
    return (
        f"{sessions_text(run)}, each with candidates and inputs built anew; within a session bursts of every candidate "
        f"in random order, the first call of each dropped; {kept} while measuring; seed {run.settings.seed}. "
        "A ratio is taken round by round, and a session's is their median; the interval is Student's t over the "
        "sessions' logs, trimmed where they are ten or more, and wider for unlike candidates by what runs differ "
        "beyond their sessions. Memory is the allocator's: the largest sum of live tensor bytes. Times by layer come "
        "from profiled passes apart from the timed ones: the durations of a layer's operators, and its waits outside "
        "them from a millisecond on."
    )


def _not_counted(run: Run) -> str:
    said = [
        f"{profile.name}: {doubting.uncounted_text(profile.analysis)}"
        for profile in run.profiles
        if profile.analysis and profile.analysis.uncounted
    ]
    return "; ".join(said) or "every operator was counted or is known to have no multiply-accumulates"


def not_counted(analysis: Analysis) -> str:
    """Say what a total lacks, or that it lacks nothing."""
    return f"{doubting.uncounted_text(analysis)}." if analysis.uncounted else "Everything counted."


# An analysis ---------------------------------------------------------------------------------------------------------


def analysis_headline(analysis: Analysis) -> str:
    """Resnet50 has 25,557,032 parameters and takes 4.09 GMACs an image."""
    params = f"{analysis.model} has {units.integer(analysis.params)} parameters"
    macs = counted(units.count(analysis.macs / analysis.images), "MACs")
    costs = f"takes {macs} {an_image(analysis)}" if analysis.known_macs is not None else "its MACs are not counted"
    return f"{params} and {costs}. {complex_text(analysis)}".strip()


def complex_text(analysis: Analysis) -> str:
    """All 128 parameters are complex elements, two real numbers each; empty where none is."""
    number = analysis.totals.complex_params
    which = f"All {units.integer(number)}" if number == analysis.params else f"{units.integer(number)} of the"
    said = f"{which} parameters are complex elements, two real numbers each; a complex product is 4 MACs."
    return said if number else ""


def counted(count: str, noun: str) -> str:
    """4.09 G, MACs -> 4.09 GMACs; 0, MACs -> 0 MACs."""
    return f"{count}{noun}" if count[-1].isalpha() else f"{count} {noun}"


def analysis_header(analysis: Analysis) -> str:
    """256x56x56 · batch 8 · nothing was run."""
    batch = [f"batch {analysis.batch_size}"] if analysis.batch_size else []
    return " · ".join((input_text(analysis.input_size), *batch, how(analysis)))


def how(analysis: Analysis) -> str:
    """Say what was done to count: nothing was run, or one pass was, or by other tools that were asked."""
    step = "" if analysis.mode == "inference" else "forward and backward · "
    if analysis.rung == "cpu":
        return f"{step}one pass was run on the CPU"
    return step + ("counted on shapes alone" if analysis.opinions else "nothing was run")


def training_text(analysis: Analysis) -> str:
    """Forward 4.09 G, weight gradients 4.09 G, input gradients 3.97 G; empty for a forward pass alone."""
    totals, batch = analysis.totals, analysis.images
    if totals.weight_gradient_macs is None or totals.input_gradient_macs is None:
        return ""
    forward = totals.macs - totals.weight_gradient_macs - totals.input_gradient_macs
    parts = {
        "forward": forward,
        "weight gradients": totals.weight_gradient_macs,
        "input gradients": totals.input_gradient_macs,
    }
    said = ", ".join(f"{name} {units.count(macs / batch)}" for name, macs in parts.items())
    return f"MACs of {an_image(analysis)}'s training step: {said}."


def opinion_text(opinion: Opinion, batch: int) -> str:
    """Fvcore says 4.112 G: the same + batch norm 0.022 + pooling 0.0001; per image of a batch."""
    if opinion.theirs is None:
        return f"{opinion.tool} cannot count it: {opinion.failure}."
    unit = units.gigas([opinion.theirs / batch])
    parts = [*opinion.by_cause.items(), ("unexplained", opinion.unexplained or 0)]
    causes = [_signed(amount / batch, unit, cause) for cause, amount in parts if amount]
    theirs = units.in_unit(opinion.theirs / batch, unit, 3)
    return f"{opinion.tool} says {theirs} {unit.name}: {' '.join(['the same', *causes])}"


def opinions(analysis: Analysis) -> tuple[tuple[str, Table | None], ...]:
    """Return what every tool that was asked says, and the table of its differences, if there are any."""
    batch = analysis.images
    return tuple(
        (opinion_text(opinion, batch), opinion_table(opinion, batch) if opinion.gaps or opinion.unexplained else None)
        for opinion in analysis.opinions
    )


def _signed(amount: float, unit: units.Unit, cause: str = "") -> str:
    decimals = next((places for places in (3, 4, 5) if abs(amount) >= unit.size * 10.0**-places), 6)
    sign = "-" if amount < 0 else "+" if amount else ""
    return " ".join(filter(None, (sign, cause, units.in_unit(abs(amount), unit, decimals))))


def opinion_table(opinion: Opinion, batch: int, most: int = 1000) -> Table:
    """Differences per image by layer and cause, the largest first, the smallest summed up, and what is unexplained."""
    unit = units.gigas([opinion.ours / batch])
    gaps = sorted(opinion.gaps, key=lambda gap: -abs(gap.amount))
    rows = [(gap.path or "(itself)", gap.cause, _signed(gap.amount / batch, unit)) for gap in gaps[:most]]
    if len(gaps) > most:
        others = sum(gap.amount for gap in gaps[most:])
        rows.append((units.plural(len(gaps) - most, "smaller difference"), "", _signed(others / batch, unit)))
    unexplained, whole = units.UNKNOWN, units.UNKNOWN
    if opinion.theirs is not None and opinion.unexplained is not None:
        unexplained = _signed(opinion.unexplained / batch, unit)
        whole = _signed((opinion.theirs - opinion.ours) / batch, unit)
    rows.append(("", "unexplained", unexplained))
    rows.append((f"{opinion.tool} less cnnprof", "", whole))
    columns = ("layer", "cause", f"{unit.name}{'MACs' if opinion.tool == 'fvcore' else 'FLOPs'}")
    return Table(opinion.tool, columns, tuple(rows), frozenset({"layer", "cause"}), total=True)


def analysis_foot(analysis: Analysis) -> tuple[tuple[str, str], ...]:
    """Convention, what was not counted, and what other tools say of the same network."""
    books = [
        f"{tool}: " + ", ".join(f"{units.count(number)} {name}" for name, number in known.items())
        for tool, book in analysis.conventions.items()
        if (known := {name.replace("flops", "FLOPs"): number for name, number in book.items() if number is not None})
    ]
    said = (("other tools' books", "; ".join(books)),) if books else ()
    return (("convention", convention([analysis])), ("not counted", not_counted(analysis)), *said)


# The working ---------------------------------------------------------------------------------------------------------


def working_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Lay the working of the parameters and of the MACs out, a line for equal layers, up to the totals."""
    batch = an_image(analysis) if analysis.images == 1 else f"a batch of {analysis.batch_size}"
    step = "" if analysis.mode == "inference" else ", forward and backward"
    titles: dict[workings.What, str] = {"params": "Parameters", "macs": f"MACs of {batch}{step}"}
    tables = (_working_table(title, workings.sums(analysis, what)) for what, title in titles.items())
    return tuple(table for table in tables if len(table.rows) > 1)


def working_note(analysis: Analysis) -> str:
    """Say how many parameters there are without biases, and what the symbols mean."""
    without = workings.without_biases(workings.sums(analysis, "params"))
    return f"Without biases: {units.integer(without)} parameters. {workings.legend(analysis)}".strip()


def _working_table(title: str, found: Sequence[workings.Sum]) -> Table:
    rows = [
        (
            each.where,
            each.kind,
            f"{each.symbols}\n= {each.numbers}" if each.symbols else f"{each.numbers}, counted by operator",
            units.integer(each.times),
            units.integer(each.together),
            units.integer(each.together - each.times * each.biases),
        )
        for each in found
    ]
    whole = sum(each.together for each in found)
    rows.append(
        ("total", "", workings.total(found), "", units.integer(whole), units.integer(workings.without_biases(found)))
    )
    with_biases = title == "Parameters"
    columns = ("layer", "kind", "working", "times", "together", *(("without biases",) if with_biases else ()))
    cells = tuple(row[: len(columns)] for row in rows)
    words = frozenset({"layer", "kind", "working"})
    return Table(title, columns, cells, words, droppable=("kind", "without biases"), total=True)
