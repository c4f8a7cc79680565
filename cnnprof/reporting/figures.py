"""A run to pictures: SVG text that sits inside a page and takes its colours from it. No torch, no pyplot.

Every picture is 5.2 inches wide with 10 point text, so that it can still be read on a phone. Colours are names that a
page may set (`--cnnprof-1`), each with a fallback; letters are text in the page's own font. The same run gives the same
bytes.
"""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from cnnprof import units
from cnnprof.comparison.ratios import batches_known
from cnnprof.records import (
    CATEGORIES,
    COUNTS,
    Bandwidth,
    Benchmark,
    Candidate,
    Category,
    Cell,
    Contrast,
    Depth,
    Latency,
    MemoryProfile,
    Mode,
    Moment,
    Peaks,
    Predicted,
    RatioMap,
    Run,
    TimeRatio,
    Training,
    TrainingRun,
)
from cnnprof.reporting import benchmarks, learned, limits, maps, tables
from cnnprof.reporting.names import elided, printable

WIDTH = 5.2

# Okabe and Ito's colours, which colour-blind readers tell apart; the baseline is grey.
PALETTE = ("#7a828e", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

# matplotlib takes no CSS, so pictures are drawn in stand-in colours, which are replaced in the finished SVG.
INK, MUTED, LINE = "#010203", "#010204", "#010205"
_STAND_INS = tuple(f"#0103{index:02x}" for index in range(len(PALETTE)))
_CSS = {
    INK: "currentColor",
    MUTED: "var(--cnnprof-muted, #757d88)",
    LINE: "var(--cnnprof-line, #c9ced6)",
    **{stand_in: f"var(--cnnprof-{i}, {PALETTE[i]})" for i, stand_in in enumerate(_STAND_INS)},
}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cnnprof",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}


def colour_index(index: int, of: int = 2) -> int:
    """Return the colour of the candidate at a place: grey is the baseline's alone, the others come round again."""
    if of == 1:
        return 1
    return index if index < len(PALETTE) else 1 + (index - 1) % (len(PALETTE) - 1)


def _colour(index: int) -> str:
    return _STAND_INS[colour_index(index)]


# How many times better -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    """A dot of the ratio figure: how many times better, its interval, and the words beside it."""

    candidate: int
    better: float
    interval: tuple[float, float] | None
    words: str
    hollow: bool = False


_METRICS = (
    ("parameters", "params", "fewer", "more"),
    ("MACs", "macs", "fewer", "more"),
    ("forward", "latency", "faster", "slower"),
    ("training step", "training_latency", "faster", "slower"),
    ("peak, inference", "peak_bytes", "less", "more"),
    ("peak, training", "training_peak_bytes", "less", "more"),
)


def ratios(run: Run) -> str | None:
    """Draw how many times better each candidate is than the baseline: log axis, a dot, and the interval of a time."""
    contrasts = tables.contrasts(run)
    rows = [(label, _marks(contrasts, name, less, more)) for label, name, less, more in _METRICS]
    rows = [(label, marks) for label, marks in rows if marks]
    if not rows:
        return None
    baseline = run.profiles[0].name
    with _canvas() as draw:
        legend = 0.34 if len(contrasts) > 1 else 0.0
        pitch = 0.27 if len(contrasts) > 1 else 0.4
        heights = [pitch * len(marks) + (0.2 if len(contrasts) > 1 else 0.0) for _, marks in rows]
        below, above = 0.58, 0.36 + legend
        figure = Figure(figsize=(WIDTH, sum(heights) + below + above))
        axes = _axes(figure, 1.24, below, 3.9, sum(heights))
        _draw_rows(axes, rows, heights, pitch)
        _log_axis(axes, [mark for _, marks in rows for mark in marks])
        axes.set_ylim(sum(heights), 0)
        axes.set_xlabel(f"times better than {elided(baseline, 26)}  (log scale)", labelpad=6, color=MUTED)
        axes.text(1, -0.09, f"{elided(baseline, 18)} = 1", ha="center", va="bottom", color=MUTED)
        if legend:
            _legend(figure, [(i, contrast.name) for i, contrast in enumerate(contrasts, 1)])
        names = ", ".join(contrast.name for contrast in contrasts)
        return draw(figure, f"How many times better than {baseline}: {names}")


def _marks(contrasts: Sequence[Contrast], name: str, less: str, more: str) -> list[_Mark]:
    found = [_mark(index, getattr(contrast, name), less, more) for index, contrast in enumerate(contrasts, 1)]
    return [mark for mark in found if mark is not None]


def _mark(index: int, ratio: object, less: str, more: str) -> _Mark | None:
    value = getattr(ratio, "ratio", None)
    if not value or not math.isfinite(value):
        return None
    if not isinstance(ratio, TimeRatio):
        return _Mark(index, 1 / value, None, units.versus(value, less, more))
    words = ratio.verdict if ratio.verdict in ("equal", "inconclusive") else units.versus(value, less, more, ratio.ci95)
    return _Mark(index, 1 / value, units.reciprocal(ratio.ci95), words, hollow=ratio.verdict == "inconclusive")


def _draw_rows(axes: Axes, rows: Sequence[tuple[str, Sequence[_Mark]]], heights: Sequence[float], pitch: float) -> None:
    axes.axvline(1, color=MUTED, linewidth=1.1, zorder=1)
    top, centers = 0.0, []
    for number, ((_, marks), height) in enumerate(zip(rows, heights, strict=True)):
        if number:
            axes.axhline(top, color=LINE, linewidth=0.6, zorder=0)
        first = top + (height - pitch * (len(marks) - 1)) / 2
        for place, mark in enumerate(marks):
            _draw_mark(axes, mark, first + place * pitch)
        centers.append(top + height / 2)
        top += height
    axes.set_yticks(centers, [label for label, _ in rows])


def _draw_mark(axes: Axes, mark: _Mark, y: float) -> None:
    colour = _colour(mark.candidate)
    axes.plot([1, mark.better], [y, y], color=colour, linewidth=1.4, alpha=0.35, zorder=2)
    right = mark.better
    if mark.interval is not None:
        axes.plot(mark.interval, [y, y], color=colour, linewidth=2.2, zorder=3)
        axes.plot(mark.interval, [y, y], "|", color=colour, markersize=11, markeredgewidth=1.2, zorder=3)
        right = max(right, mark.interval[1])
    face = "none" if mark.hollow else colour
    axes.plot([mark.better], [y], "o", color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.4, zorder=4)
    right = max(right, 1.0)  # the words of what is worse stand right of the line at 1, clear of the dots
    axes.annotate(mark.words, (right, y), (9, 0), textcoords="offset points", va="center", fontweight="bold")


def _log_axis(axes: Axes, marks: Sequence[_Mark]) -> None:
    """Set limits that leave room for the words right of the last dot, and ticks at 1, 2, 5, 10."""
    ends = [end for mark in marks for end in (mark.better, *(mark.interval or ()))]
    low, high = min(0.9, *ends) if ends else 0.9, max(1.6, *ends) if ends else 1.6
    span = math.log(high / low)
    axes.set_xscale("log")
    axes.set_xlim(math.exp(math.log(low) - 0.06 * span), math.exp(math.log(high) + 0.5 * span))
    ticks = _log_ticks(low, high)
    axes.set_xticks(ticks, [units.count(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", zorder=0)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades < 2.2 else (1,)
    every = max(1, math.ceil(decades / 6))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
    return [tick for tick in candidates if low * 0.999 <= tick <= high * 1.001]


# MACs and time by layer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bars:
    """One layer's row: its label, MACs (None where it is no layer), seconds forward and backward."""

    label: str
    macs: float | None
    forward_s: float
    backward_s: float

    @property
    def time_s(self) -> float:
        return self.forward_s + self.backward_s


MOST_ROWS, FEWEST_ROWS = 16, 4


def by_layer(candidate: Candidate, colour: int = 1) -> str | None:
    """Draw MACs and time by layer, or by block where layers are many; `colour` is the candidate's."""
    rows = _summed(_layer_rows(candidate))
    has_macs, has_time = any(row.macs for row in rows), any(row.time_s for row in rows)
    if not has_macs and not has_time:
        return None
    with _canvas() as draw:
        backward = any(row.backward_s for row in rows)
        height, above, below = 0.26 * len(rows), 0.36, 0.34 if backward else 0.06
        figure = Figure(figsize=(WIDTH, height + above + below))
        left, gap = 1.5, 0.16
        width = (WIDTH - left - gap) / 2 if has_macs and has_time else WIDTH - left
        if has_macs:
            axes = _axes(figure, left, below, width, height)
            _draw_macs(axes, rows, _STAND_INS[colour], units.per_image(batches_known(candidate)))
            _label_rows(axes, [row.label for row in rows])
        if has_time:
            axes = _axes(figure, left + (width + gap if has_macs else 0), below, width, height)
            _draw_times(axes, rows, _STAND_INS[colour], backward)
            _label_rows(axes, [] if has_macs else [row.label for row in rows])
        return draw(figure, f"MACs and time by layer of {candidate.name}")


def _layer_rows(candidate: Candidate) -> list[_Bars]:
    analysis = candidate.analysis
    macs = {layer.path: layer.macs / analysis.images for layer in analysis.layers} if analysis else {}
    times = {layer.path: layer for layer in candidate.time.layers} if candidate.time else {}
    rows = []
    for path in dict.fromkeys([*macs, *times]):
        time = times.get(path)
        forward_s, backward_s = (time.forward_s, time.backward_s or 0.0) if time else (0.0, 0.0)
        label = {"": "(itself)", "(loss)": "loss", "(optimizer)": "optimizer step"}.get(path, path)
        rows.append(_Bars(label, macs.get(path), forward_s, backward_s))
    return [row for row in rows if row.macs or row.time_s > 0]


def _summed(rows: Sequence[_Bars]) -> list[_Bars]:
    """Sum layers up into the blocks that hold them, at the deepest level that leaves few enough, and some."""
    deepest = max((row.label.count(".") for row in rows), default=0) + 1
    for depth in range(deepest, 0, -1):
        blocks = _blocks(rows, depth)
        if len(blocks) <= MOST_ROWS:
            return blocks if depth == deepest or len(blocks) >= FEWEST_ROWS else _largest(rows)
    return _largest(rows)


def _blocks(rows: Sequence[_Bars], depth: int) -> list[_Bars]:
    groups: dict[str, list[_Bars]] = {}
    for row in rows:
        groups.setdefault(".".join(row.label.split(".")[:depth]), []).append(row)
    return [_total(label, group) for label, group in groups.items()]


def _largest(rows: Sequence[_Bars]) -> list[_Bars]:
    """Keep the largest rows in the network's order and sum up the rest."""
    macs, time_s = sum(row.macs or 0.0 for row in rows) or 1.0, sum(row.time_s for row in rows) or 1.0
    ranked = sorted(range(len(rows)), key=lambda i: -max((rows[i].macs or 0.0) / macs, rows[i].time_s / time_s))
    kept = set(ranked[: MOST_ROWS - 1])
    others = [row for i, row in enumerate(rows) if i not in kept]
    return [row for i, row in enumerate(rows) if i in kept] + [_total(units.plural(len(others), "other"), others)]


def _total(label: str, rows: Sequence[_Bars]) -> _Bars:
    known = [row.macs for row in rows if row.macs is not None]
    forward_s, backward_s = sum(row.forward_s for row in rows), sum(row.backward_s for row in rows)
    return _Bars(label, sum(known) if known else None, forward_s, backward_s)


def _draw_macs(axes: Axes, rows: Sequence[_Bars], colour: str, of: str) -> None:
    unit = units.gigas([sum(row.macs or 0.0 for row in rows)])
    axes.barh(range(len(rows)), [row.macs or 0.0 for row in rows], 0.62, color=colour)
    _bar_values(axes, [row.macs for row in rows], lambda value: units.in_unit(value, unit, 3))
    axes.set_title(f"{unit.name}MACs {of}", loc="left", fontsize=10, color=MUTED, pad=6)


def _draw_times(axes: Axes, rows: Sequence[_Bars], colour: str, backward: bool) -> None:
    unit = units.column_unit(units.SECONDS, [sum(row.time_s for row in rows)])
    forward = [row.forward_s for row in rows]
    axes.barh(range(len(rows)), forward, 0.62, color=colour)
    axes.barh(range(len(rows)), [row.backward_s for row in rows], 0.62, left=forward, color=colour, alpha=0.45)
    _bar_values(axes, [row.time_s for row in rows], lambda value: units.in_unit(value, unit, 1))
    axes.set_title(f"{'time' if backward else 'forward'}, {unit.name}", loc="left", fontsize=10, color=MUTED, pad=6)
    for text, alpha, x in (("forward", 1.0, 0.0), ("backward", 0.45, 0.82)) if backward else ():
        _swatch(axes, x, colour, alpha)
        at = (72 * (x + 0.15), -15)
        axes.annotate(text, (0, 0), at, xycoords="axes fraction", textcoords="offset points", va="center", color=MUTED)


def _swatch(axes: Axes, x: float, colour: str, alpha: float) -> None:
    """Draw a small square below the axes, `x` inches from their left edge."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    width, height = figure.get_size_inches()
    box = axes.get_position()
    corner = (box.x0 + x / width, box.y0 - 0.26 / height)
    square = Rectangle(corner, 0.1 / width, 0.1 / height, transform=figure.transFigure)
    square.set(color=colour, alpha=alpha, linewidth=0)
    figure.add_artist(square)


def _bar_values(axes: Axes, values: Sequence[float | None], text: Callable[[float], str]) -> None:
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(0, 1.45 * (max(value or 0.0 for value in values) or 1.0))
    for y, value in enumerate(values):
        if value is None:
            continue
        words = text(value) if value else units.integer(0)
        axes.annotate(words, (value, y), (4, 0), textcoords="offset points", va="center", color=INK if value else MUTED)


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [elided(label, 19, keep="end") for label in labels])
    axes.set_xticks([])
    axes.spines["left"].set_visible(True)


# Raw times -----------------------------------------------------------------------------------------------------------

MOST_DOTS = 300
"""Of a session with more times, this many are drawn, evenly by rank, the fastest and the slowest among them."""


def times(run: Run, mode: Mode) -> str | None:
    """Draw every time that was measured, by session: starved sessions hollow, a line at the median."""
    colours = [colour_index(i, len(run.profiles)) for i in range(len(run.profiles))]
    latencies = [(colour, p.name, p.latency[mode]) for colour, p in zip(colours, run.profiles, strict=True)]
    found = [(colour, name, latency) for colour, name, latency in latencies if latency is not None]
    if not found:
        return None
    with _canvas() as draw:
        above, below = 0.38, 0.38
        heights = [0.19 * max(2, len(latency.sessions)) for _, _, latency in found]
        total = sum(heights) + (above + below) * len(heights) + 0.14
        figure = Figure(figsize=(WIDTH, total))
        unit = units.column_unit(units.SECONDS, [latency.median_s for _, _, latency in found])
        bottom = total
        for (colour, name, latency), height in zip(found, heights, strict=True):
            bottom -= above + height
            axes = _axes(figure, 1.0, bottom, WIDTH - 1.2, height)
            _draw_strip(axes, latency, unit, _STAND_INS[colour])
            axes.set_title(elided(name, 17), loc="left", fontsize=10.5, fontweight="bold", pad=7)
            axes.set_title(_median_words(latency, unit), loc="right", fontsize=10, color=MUTED, pad=7)
            bottom -= below
        axes.set_xlabel(f"{unit.name} a call, each dot one", color=MUTED, labelpad=4)
        names = ", ".join(name for _, name, _ in found)
        return draw(figure, f"Every measured time by session, {mode}: {names}")


def _draw_strip(axes: Axes, latency: Latency, unit: units.Unit, colour: str) -> None:
    axes.axvline(latency.median_s, color=INK, linewidth=1.1, zorder=1)
    bounds = latency.ci95_s
    if bounds is not None:
        axes.axvspan(*bounds, color=colour, alpha=0.15, linewidth=0, zorder=0)
    for session, values in enumerate(latency.sessions):
        drawn = _thinned(values)
        face = "none" if latency.starved(session) else colour
        axes.plot(drawn, [session] * len(drawn), "o", color=colour, markerfacecolor=face, markersize=4.6, alpha=0.7)
    labels = [
        f"{number + 1}" + (" starved" if latency.starved(number) else "") for number in range(len(latency.sessions))
    ]
    labels[0] = f"session {labels[0]}" if not latency.starved(0) else labels[0]
    axes.set_yticks(range(len(labels)), labels, color=MUTED)
    axes.set_ylim(max(1, len(labels) - 1) + 0.6, -0.6)
    everything = [time for values in latency.sessions for time in values] + list(bounds or ())
    _time_axis(axes, min(everything), max(everything), unit)


def _thinned(values: Sequence[float]) -> Sequence[float]:
    if len(values) <= MOST_DOTS:
        return values
    ranked = sorted(values)
    return [ranked[round(place * (len(ranked) - 1) / (MOST_DOTS - 1))] for place in range(MOST_DOTS)]


def _time_axis(axes: Axes, low: float, high: float, unit: units.Unit) -> None:
    pad = 0.04 * (high - low) or 0.05 * high or 1.0
    axes.set_xlim(low - pad, high + pad)
    places = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values((low - pad) / unit.size, (high + pad) / unit.size)
    step = float(places[1] - places[0])
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    shown = [float(place) * unit.size for place in places if low - pad <= place * unit.size <= high + pad]
    axes.set_xticks(shown, [units.in_unit(place, unit, decimals) for place in shown])
    axes.grid(axis="x", zorder=0)


def _median_words(latency: Latency, unit: units.Unit) -> str:
    decimals = max(1, min(1 if unit.name != "s" else 2, units.decimals_for(unit, [latency.median_s])))
    words = f"median {units.with_unit(latency.median_s, unit, decimals)}"
    bounds = latency.ci95_s
    if bounds is None:
        return words
    return f"{words} {units.span((bounds[0] / unit.size, bounds[1] / unit.size), decimals)}"


# Against the limit ---------------------------------------------------------------------------------------------------

_MARKS = {"compute": "o", "memory": "s", "overhead": "^"}


def roofline(candidate: Candidate, peaks: Peaks, dtype: str, colour: int = 1) -> str | None:
    """Draw layers under the machine's roofs: FLOPs a second over FLOPs a byte, both logarithmic; area is time."""
    roofs = limits.achieved(candidate.roofline)
    product = peaks.flops_per_s(dtype)
    if not roofs or product is None:
        return None
    with _canvas() as draw:
        figure = Figure(figsize=(WIDTH, 3.3))
        axes = _axes(figure, 0.6, 0.55, WIDTH - 0.8, 2.4)
        places = [roof.intensity or 1.0 for roof in roofs]
        low, high = min(0.1, *places) / 1.5, max(300.0, *places) * 1.5
        whole = sum(roof.time_s for roof in roofs)
        for curve, style in ((peaks.bandwidths[-1], "-"), (max(peaks.bandwidths, key=_bytes_per_s), (0, (4, 3)))):
            ridge = product / curve.bytes_per_s
            axes.plot([low, ridge, high], [low * curve.bytes_per_s, product, product], color=MUTED, lw=1.1, ls=style)
        for roof in roofs:
            look: Any = {"markersize": 3 + 14 * math.sqrt(roof.time_s / whole), "alpha": 0.55, "markeredgewidth": 0}
            place = ([roof.intensity or 1.0], [roof.flops_per_s])
            axes.plot(*place, _MARKS[roof.bound], color=_STAND_INS[colour], **look)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        achieved = [roof.flops_per_s for roof in roofs]
        axes.set_ylim(min(*achieved, product / 100) / 1.5, product * 2.2)
        _decades(axes)
        words = f"{units.count(product)}FLOP/s, {dtype}"
        axes.annotate(words, (high, product), (-2, 4), textcoords="offset points", ha="right", color=MUTED)
        axes.set_xlabel("FLOPs a byte", color=MUTED, labelpad=4)
        axes.set_title("FLOPs a second", loc="left", fontsize=10, color=MUTED, pad=6)
        return draw(figure, f"Layers of {candidate.name} under the machine's roofs")


def bandwidth(peaks: Peaks) -> str:
    """Draw the bandwidth over the working set."""
    with _canvas() as draw:
        figure = Figure(figsize=(WIDTH, 2.6))
        axes = _axes(figure, 0.72, 0.55, WIDTH - 0.92, 1.7)
        sizes = [each.working_set_bytes for each in peaks.bandwidths]
        copied = [each.copy_bytes_per_s for each in peaks.bandwidths]
        updated = [each.update_bytes_per_s for each in peaks.bandwidths]
        for colour, values in ((1, copied), (2, updated)):
            axes.plot(sizes, values, "o-", color=_STAND_INS[colour], markersize=4, linewidth=1.4)
        axes.set_xscale("log", base=2)
        ticks = sizes[:: max(1, len(sizes) // 5)]
        axes.set_xticks(ticks, [_round(tick, units.BYTES) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0, None)
        places = MaxNLocator(4).tick_values(0, max(each.bytes_per_s for each in peaks.bandwidths))
        axes.set_yticks(places, [_round(place) if place else "0" for place in places])
        axes.grid(axis="y", zorder=0)
        axes.set_xlabel("working set", color=MUTED, labelpad=4)
        axes.set_title("bytes a second", loc="left", fontsize=10, color=MUTED, pad=6)
        for x, colour, words in ((0.62, 1, "copy"), (0.8, 2, "update")):
            axes.text(x, 1.07, f"● {words}", transform=axes.transAxes, color=_STAND_INS[colour])
        return draw(figure, "Bandwidth over the working set")


def _bytes_per_s(each: Bandwidth) -> float:
    return each.bytes_per_s


def _round(tick: float, of: tuple[units.Unit, ...] = units.COUNTS) -> str:
    """1e11 -> 100 G."""
    unit = next((unit for unit in of if tick >= unit.size), of[-1])
    return f"{tick / unit.size:g} {unit.name}".strip()


def _decades(axes: Axes) -> None:
    """Label both logarithmic axes at powers of ten."""
    for (low, high), set_ticks in ((axes.get_xlim(), axes.set_xticks), (axes.get_ylim(), axes.set_yticks)):
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        ticks = [10.0**power for power in powers]
        set_ticks(ticks, [_round(tick) for tick in ticks])
        set_ticks([], minor=True)
    axes.grid(zorder=0)


# What a central output feels -----------------------------------------------------------------------------------------


def effective_field(candidate: Candidate, colour: int) -> str | None:
    """Draw how strongly the centre feels each input place; a frame is the theoretical field."""
    felt = candidate.effective_field
    if felt is None:
        return None
    with _canvas() as draw:
        rows, columns = len(felt.cells), len(felt.cells[0])
        figure = Figure(figsize=(WIDTH, 2.9))
        axes = _axes(figure, 0.1, 0.1, 2.7, 2.7)
        for y, row in enumerate(felt.cells):
            for x, share in enumerate(row):
                look: Any = {"color": _STAND_INS[colour], "alpha": round(share, 3), "linewidth": 0}
                axes.add_patch(Rectangle((x, y), 1, 1, **look))
        axes.add_patch(Rectangle((0, 0), columns, rows, fill=False, edgecolor=MUTED, linewidth=0.8))
        axes.set_xlim(-0.5, max(rows, columns) + 0.5)
        axes.set_ylim(max(rows, columns) + 0.5, -0.5)
        axes.set_xticks([])
        axes.set_yticks([])
        where = felt.path or "its output"
        lines = (
            f"{rows * felt.cell} x {columns * felt.cell} places are felt at all;",
            f"the strong ones fill {felt.side:.1f} x {felt.side:.1f}",
            f"at the centre of {elided(where, 20, keep='end')}",
            f"over {felt.images} random images",
        )
        for number, line in enumerate(lines):
            axes.text(1.08, 0.75 - 0.11 * number, line, transform=axes.transAxes, color=INK if number < 2 else MUTED)
        return draw(figure, f"Effective receptive field of {candidate.name}")


# Over the batch ------------------------------------------------------------------------------------------------------


def over_batches(run: Run, mode: Mode) -> str | None:
    """Draw milliseconds of a batch and images a second over the batch size, for models timed at several."""
    series = _series(run, mode)
    if not series:
        return None
    with _canvas() as draw:
        legend = 0.34 if len(series) > 1 else 0.0
        figure = Figure(figsize=(WIDTH, 2.6 + legend))
        width = (WIDTH - 1.55) / 2
        panels = (_axes(figure, 0.62, 0.6, width, 1.62), _axes(figure, 0.62 + width + 0.75, 0.6, width, 1.62))
        times = [latency.median_s for _, points in series for _, latency in points]
        unit = units.column_unit(units.SECONDS, times)
        batches = sorted({batch for _, points in series for batch, _ in points})
        for place, (_, points) in enumerate(series, 1):
            colour = _STAND_INS[colour_index(place)]
            xs = [batch for batch, _ in points]
            panels[0].plot(
                xs, [latency.median_s / unit.size for _, latency in points], "o-", color=colour, markersize=5
            )
            panels[1].plot(
                xs, [batch / latency.median_s for batch, latency in points], "o-", color=colour, markersize=5
            )
            for batch, latency in points:
                if latency.ci95_s:
                    low, high = latency.ci95_s
                    panels[0].plot([batch] * 2, [low / unit.size, high / unit.size], color=colour, linewidth=2)
                    panels[1].plot([batch] * 2, [batch / high, batch / low], color=colour, linewidth=2)
        for axes, words in zip(panels, (f"{unit.name} a batch", "images a second"), strict=True):
            axes.set_xscale("log", base=2)
            axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
            axes.set_xticks([], minor=True)
            axes.set_ylim(0, None)
            places = [place for place in MaxNLocator(4).tick_values(*axes.get_ylim()) if place >= 0]
            axes.set_yticks(places, [f"{place:,g}" for place in places])
            axes.grid(axis="y", zorder=0)
            axes.set_title(words, loc="left", fontsize=10, color=MUTED, pad=6)
            axes.set_xlabel("images in a batch", color=MUTED, labelpad=4)
        if legend:
            _legend(figure, [(place, name) for place, (name, _) in enumerate(series, 1)])
        return draw(figure, f"Time and throughput over the batch size, {mode}")


def _series(run: Run, mode: Mode) -> list[tuple[str, list[tuple[int, Latency]]]]:
    """Group candidates that differ in their batch alone, each with two sizes or more."""
    groups: dict[object, list[tuple[int, Latency]]] = {}
    names: dict[object, str] = {}
    for profile in run.profiles:
        latency = profile.latency[mode]
        if profile.analysis is None or profile.batch_size is None or latency is None:
            continue
        key = (profile.analysis.model, profile.analysis.totals, replace(profile.settings, batch_size=None))
        groups.setdefault(key, []).append((profile.batch_size, latency))
        names.setdefault(key, re.sub(r"@?(?:,?(?:b|batch-size)=\d+)", "", profile.name))
    return [
        (names[key], sorted(points, key=lambda point: point[0]))
        for key, points in groups.items()
        if len({batch for batch, _ in points}) > 1
    ]


# Ratios over two values ----------------------------------------------------------------------------------------------


def ratio_map(drawn: RatioMap, mode: Mode) -> str:
    """Draw a cell for each combination of values: how much faster it is, of how much fewer MACs it has.

    The fuller a cell, the more is won of what MACs promise; a slower one has another colour, an unknown one none.
    """
    down, across = _map_axes(drawn)
    rows, columns = drawn.axes[down], drawn.axes[across] if across else ("",)
    with _canvas() as draw:
        left, side, above = 1.0, 0.56, 0.52 if across else 0.3
        figure = Figure(figsize=(WIDTH, side * len(rows) + above))
        axes = _axes(figure, left, 0.0, WIDTH - left, side * len(rows))
        for cell in drawn.cells:
            values = dict(zip(drawn.axes, cell.values, strict=True))
            _draw_cell(axes, cell, mode, columns.index(values.get(across, "")), rows.index(values[down]))
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.xaxis.tick_top()
        axes.set_yticks([row + 0.5 for row in range(len(rows))], [elided(value, 12) for value in rows])
        most = int((WIDTH - left) / len(columns) / 0.085)
        ticks = [elided(value, most) for value in columns]
        axes.set_xticks([column + 0.5 for column in range(len(ticks))], ticks, color=INK)
        height = figure.get_figheight()
        figure.text(0, 1 - (above - 0.14) / height, elided(down, 12), color=MUTED, va="center")
        figure.text(left / WIDTH, 1 - 0.14 / height, across, color=MUTED, va="center")
        what = {"inference": "Forward pass", "training": "Training step"}[mode]
        return draw(figure, f"{what} of {drawn.candidate} against {drawn.baseline}, over {' and '.join(drawn.axes)}")


def _map_axes(drawn: RatioMap) -> tuple[str, str]:
    """Return the axis that goes down and the one that goes across, which is the shorter; empty where there is none."""
    first, second = (*drawn.axes, "")[:2]
    return (second, first) if second and len(drawn.axes[second]) > len(drawn.axes[first]) else (first, second)


def _draw_cell(axes: Axes, cell: Cell, mode: Mode, column: int, row: int) -> None:
    ratio, macs, share = maps.time(cell, mode), cell.contrast.macs.ratio, maps.won(cell, mode)
    colour = _STAND_INS[2 if ratio and ratio.verdict == "slower" else 1]
    fill: Any = "none" if share is None else (colour, 0.08 + 0.5 * min(share, 1.0))
    axes.add_patch(Rectangle((column + 0.015, row + 0.03), 0.97, 0.94, facecolor=fill, edgecolor=LINE, linewidth=0.8))
    words = "?" if ratio else ""
    if ratio and ratio.ratio and share is not None:
        words = units.factor(1 / ratio.ratio)
    axes.text(column + 0.5, row + 0.34, words, ha="center", va="center", fontweight="bold")
    promised = f"of {units.factor(1 / macs)}" if macs else ""
    axes.text(column + 0.5, row + 0.7, promised, ha="center", va="center", fontsize=8.5, color=MUTED)


# Memory over a step --------------------------------------------------------------------------------------------------

_STACKED: tuple[tuple[str, tuple[Category, ...], int], ...] = (
    ("weights", ("parameters", "buffers", "inputs"), 0),
    ("optimizer", ("optimizer_state",), 4),
    ("gradients", ("gradients",), 5),
    ("activations kept", ("activations",), 1),
    ("temporary", ("temporaries",), 2),
)


def memory(profile: MemoryProfile) -> str | None:
    """Draw what stands over a step, stacked by what it is for, with the peak marked and what was measured as dots."""
    predicted = profile.predicted
    if predicted is None or not predicted.timeline:
        return None
    moments = predicted.timeline
    unit = units.column_unit(units.BYTES, [predicted.peak_bytes])
    length = max(1, moments[-1].churn_bytes)
    xs = [moment.churn_bytes / length for moment in moments]
    with _canvas() as draw:
        figure = Figure(figsize=(WIDTH, 3.3))
        axes = _axes(figure, 0.62, 0.82, WIDTH - 0.82, 2.1)
        shown = []
        below = [0.0] * len(moments)
        for label, categories, colour in _STACKED:
            places = [CATEGORIES.index(category) for category in categories]
            sizes = [sum(moment.sizes_bytes[place] for place in places) / unit.size for moment in moments]
            if not any(sizes):
                continue
            above = [low + size for low, size in zip(below, sizes, strict=True)]
            axes.fill_between(xs, below, above, color=_STAND_INS[colour], alpha=0.75, linewidth=0, step="post")
            below = above
            shown.append((colour, label))
        _mark_peak(axes, predicted, xs, unit)
        if profile.measured is not None and profile.error is not None and profile.measured.curve_bytes:
            curve = profile.measured.curve_bytes
            axes.plot(
                [place / max(1, len(curve) - 1) for place in range(len(curve))],
                [size / unit.size for size in curve],
                ".",
                color=INK,
                markersize=1.6,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.16 * predicted.peak_bytes / unit.size)
        phases = _phases(moments, length)
        axes.set_xticks([start for _, start in phases], [name for name, _ in phases], ha="left")
        axes.set_yticks(places_ := [p for p in MaxNLocator(4).tick_values(*axes.get_ylim()) if p >= 0][:-1])
        axes.set_yticklabels([f"{place:,g}" for place in places_])
        axes.grid(axis="y", zorder=0)
        axes.set_title(unit.name, loc="left", fontsize=10, color=MUTED, pad=6)
        _legend_below(figure, shown)
        return draw(figure, f"Memory over a step of {profile.model}, by what it is for")


def _mark_peak(axes: Axes, predicted: Predicted, xs: Sequence[float], unit: units.Unit) -> None:
    place = max(range(len(xs)), key=lambda index: predicted.timeline[index].total_bytes)
    height = predicted.peak_bytes / unit.size
    axes.plot([xs[place]] * 2, [0, height], color=INK, linewidth=1)
    side = "right" if xs[place] > 0.5 else "left"
    axes.text(xs[place], height * 1.02, f"peak {units.bytes_(predicted.peak_bytes)}", ha=side, va="bottom", color=INK)


def _phases(moments: Sequence[Moment], length: int) -> list[tuple[str, float]]:
    """Return where each phase begins, those that are too short to be named left out."""
    found: list[tuple[str, float]] = []
    for moment in moments:
        start = moment.churn_bytes / length
        known = [name for name, _ in found]
        if moment.phase not in known and (not found or start - found[-1][1] > 0.2) and start < 0.84:
            found.append((moment.phase, start))
    return found


def _legend_below(figure: Figure, entries: Sequence[tuple[int, str]]) -> None:
    axes = _axes(figure, 0.62, 0.0, WIDTH - 0.82, 0.45)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for place, (colour, label) in enumerate(entries):
        x, y = (place % 3) / 3, 0.72 - 0.5 * (place // 3)
        axes.add_patch(Rectangle((x, y - 0.13), 0.022, 0.26, color=_STAND_INS[colour], alpha=0.75, linewidth=0))
        axes.text(x + 0.035, y, label, va="center", color=INK)


# What is learned -----------------------------------------------------------------------------------------------------

# Told apart without colours too.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_ACROSS = 3
"""Names in a line of a legend."""

_PANELS: tuple[tuple[str, learned.Budget, Callable[[TrainingRun], Sequence[float]]], ...] = (
    ("test accuracy, %", "epochs", learned.test_percent),
    ("train loss", "epochs", learned.train_loss),
    ("test accuracy, %", "seconds", learned.test_percent),
    ("test accuracy, %", "macs", learned.test_percent),
)


def curves(training: Training) -> str | None:
    """Draw what models learn against epochs, seconds and MACs: a line is the mean over seeds, a band holds them all."""
    trained = learned.learners(training)
    if not trained:
        return None
    names = [learner.name for learner in training.models]
    looks = {learner.name: _look(names, learner.name) for learner in trained}
    with _canvas() as draw:
        legend = _legend_height(looks)
        figure = Figure(figsize=(WIDTH, 4.6 + legend))
        width, height = (WIDTH - 1.15) / 2, 1.5
        for number, (what, budget, of) in enumerate(_PANELS):
            axes = _axes(
                figure, 0.45 + number % 2 * (width + 0.6), 0.5 + (1 - number // 2) * (height + 0.8), width, height
            )
            found = [(looks[each.name], learned.curve(training, each, budget, of)) for each in trained]
            unit = _spending(budget, [points[-1].spent for _, points in found])
            for look, points in found:
                _draw_curve(axes, points, unit, look)
            _few_ticks(axes, whole=budget == "epochs")
            axes.set_title(what, loc="left", fontsize=10, color=MUTED, pad=6)
            axes.set_xlabel(f"{unit.name}MACs" if budget == "macs" else unit.name, color=MUTED, labelpad=3)
        _line_legend(figure, looks)
        return draw(figure, f"What is learned over epochs, seconds and MACs: {', '.join(looks)}")


def _look(names: Sequence[str], name: str) -> dict[str, Any]:
    place = names.index(name)
    return {
        "color": _STAND_INS[colour_index(place, len(names))],
        "linestyle": _DASHES[place % len(_DASHES)],
        "linewidth": 1.6,
    }


def _spending(budget: learned.Budget, amounts: Sequence[float]) -> units.Unit:
    if budget == "epochs":
        return units.Unit("epochs", 1.0)
    return units.column_unit(units.SECONDS if budget == "seconds" else units.COUNTS, amounts)


def _draw_curve(axes: Axes, points: Sequence[learned.Point], unit: units.Unit, look: dict[str, Any]) -> None:
    xs = [point.spent / unit.size for point in points]
    lows, highs = [point.low for point in points], [point.high for point in points]
    axes.fill_between(xs, lows, highs, color=look["color"], alpha=0.16, linewidth=0)
    dot = "o" if len(points) == 1 else ""  # a line needs two
    axes.plot(xs, [point.mean for point in points], **look, marker=dot, markersize=4)


def _few_ticks(axes: Axes, whole: bool) -> None:
    """Label both axes at round numbers, the lower one at whole ones alone where it counts."""
    ends = ((axes.get_xlim(), axes.set_xticks, whole), (axes.get_ylim(), axes.set_yticks, False))
    for (low, high), set_ticks, integer in ends:
        places = MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer, min_n_ticks=1).tick_values(low, high)
        ticks = [float(place) for place in places if low <= place <= high]
        set_ticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.grid(axis="y", zorder=0)


def _legend_height(looks: Mapping[str, Any]) -> float:
    return 0.24 * math.ceil(len(looks) / _ACROSS) + 0.1 if len(looks) > 1 else 0.0


def _line_legend(figure: Figure, looks: Mapping[str, dict[str, Any]]) -> None:
    """Name lines by a piece of each along the top."""
    if len(looks) < 2:
        return
    height = _legend_height(looks)
    axes = _axes(figure, 0.1, figure.get_figheight() - height, WIDTH - 0.1, height)
    axes.set_axis_off()
    axes.set_xlim(0, _ACROSS)
    axes.set_ylim(height, 0)
    for place, (name, look) in enumerate(looks.items()):
        x, y = place % _ACROSS, 0.12 + 0.24 * (place // _ACROSS)
        axes.plot([x, x + 0.2], [y, y], **look)
        axes.text(x + 0.25, y, elided(name, 14), va="center")


def by_depth(depths: Sequence[Depth], names: Sequence[str]) -> str | None:
    """Draw the size of activations and of gradients by layer, on a logarithmic scale; `names` are of all models."""
    known = {depth.model: depth.layers for depth in depths if len(depth.layers) > 1}
    if not known:
        return None
    looks = {name: _look(names, name) for name in known}
    with _canvas() as draw:
        legend = _legend_height(looks)
        figure = Figure(figsize=(WIDTH, 2.45 + legend))
        width = (WIDTH - 1.35) / 2
        for number, (what, measure) in enumerate((("activation", "rms"), ("gradient", "norm"))):
            axes = _axes(figure, 0.55 + number * (width + 0.7), 0.5, width, 1.6)
            for name, layers in known.items():
                sizes = [getattr(layer, what) or math.nan for layer in layers]  # 0 has no place on the scale
                axes.plot(range(1, len(sizes) + 1), sizes, **looks[name])
            axes.set_yscale("log")
            _powers(axes)
            axes.set_title(f"{what}, {measure}", loc="left", fontsize=10, color=MUTED, pad=6)
            axes.set_xlabel("layer", color=MUTED, labelpad=3)
        _line_legend(figure, looks)
        return draw(figure, f"Activations and gradients by depth: {', '.join(looks)}")


def _powers(axes: Axes) -> None:
    """Label a logarithmic axis at a few powers of ten, a decade at the least."""
    low, high = (math.log10(end) for end in axes.get_ylim())
    first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    powers = range(first, last + 1, max(1, (last - first) // 4))
    axes.set_ylim(10.0**first, 10.0**last)
    axes.set_yticks([10.0**power for power in powers], [f"1e{power}" if power else "1" for power in powers])
    axes.set_yticks([], minor=True)
    end = axes.get_xlim()[1]
    ticks = [tick for tick in MaxNLocator(4, integer=True).tick_values(1, end) if 1 <= tick <= end]
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.grid(axis="y", zorder=0)


# Tests over commits --------------------------------------------------------------------------------------------------

_LABELS = 6
"""Commits that are named along the axis."""


@dataclass(frozen=True)
class _Panel:
    """A plot in points of 1/72 inch: runs go to the right, heights from `low` to `high`."""

    runs: int
    top: float
    tall: float
    low: float
    high: float

    left, wide = 44.6, 315.4

    @classmethod
    def over(cls, heights: Iterable[float], runs: int, top: float, tall: float) -> "_Panel":
        """Leave room around heights, so that a constant is drawn level, not its last digits."""
        known = list(heights) or [0.0]
        low, high = min(known), max(known)
        room = max(0.15 * (high - low), 0.02 * abs(high)) or 0.5
        return cls(runs, top, tall, low - room, high + room)

    def x(self, run: int) -> float:
        """Place a run."""
        return self.left + self.wide * (run + 0.4) / (self.runs - 0.2)

    def y(self, height: float) -> float:
        """Place a height."""
        return self.top + self.tall * (self.high - height) / (self.high - self.low)

    def at(self, run: int, height: float) -> str:
        """Place both."""
        return f"{self.x(run):.1f} {self.y(height):.1f}"

    def frame(self, title: str) -> Iterator[str]:
        """Draw the title, and a line and a label at round heights."""
        yield _text(self.left, self.top - 6, title, MUTED)
        places = MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=1).tick_values(self.low, self.high)
        ticks = [float(place) for place in places if self.low <= place <= self.high]
        yield _path("".join(f"M{self.left} {self.y(tick):.1f}h{self.wide}" for tick in ticks), LINE, 0.6)
        yield from (_text(self.left - 3.5, self.y(tick) + 3.5, f"{tick:,g}", INK, "end") for tick in ticks)


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" style="text-anchor: {anchor}; fill: {colour}">{escape(words)}</text>'


def _path(places: str, colour: str, width: float, dashes: str = "") -> str:
    dashed = f"; stroke-dasharray: {dashes}" if dashes else ""
    return f'<path d="{places}" style="fill: none; stroke: {colour}; stroke-width: {width}{dashed}"/>'


def over_commits(points: Sequence[benchmarks.Point]) -> str | None:
    """Draw one test over commits: counts above, where it times a model, and times below, a line a machine.

    Written by hand, for a report may have hundreds: a tenth of matplotlib's time and a third of its letters.
    """
    if len(points) < 2:
        return None
    models = [(place, point.timed.found) for place, point in enumerate(points) if point.timed.found]
    unit = units.column_unit(units.SECONDS, [point.timed.median_s for point in points])
    top = 133.2 if models else 28.8
    title = "time, as a multiple of the reference" if models else f"median, {unit.name}"
    drawn = [*_svg_counts(models, len(points)), *_svg_times(points, None if models else unit, top, title)]
    svg = "".join(drawn)
    for stand_in, css in _CSS.items():
        svg = svg.replace(stand_in, css)
    label = escape(printable(f"{points[0].timed.test} over {len(points)} runs"), quote=True)
    look = 'stroke-linejoin="round" style="width: 100%; height: auto; font: 10px system-ui, sans-serif"'
    head = f'<svg class="cnnprof-figure" role="img" aria-label="{label}" {look} xmlns="http://www.w3.org/2000/svg"'
    return f'{head} viewBox="0 0 {WIDTH * 72:g} {top + 136.8:g}">{svg}</svg>'


def _svg_counts(models: Sequence[tuple[int, Benchmark]], runs: int) -> Iterator[str]:
    """Draw parameters and MACs as multiples of the first run's, each until the next."""
    if not models:
        return
    first = models[0][1]
    lines = [
        [(place, getattr(found, name) / (getattr(first, name) or 1)) for place, found in models] for name in COUNTS
    ]
    panel = _Panel.over((height for line in lines for _, height in line), runs, 39.6, 61.2)
    yield from panel.frame("as a multiple of the first run's")
    for colour, (line, label) in enumerate(zip(lines, ("parameters", "MACs"), strict=True), 1):
        steps = "".join(f"H{panel.x(place):.1f}V{panel.y(height):.1f}" for place, height in line[1:])
        look = (_STAND_INS[colour], 1.8, "" if colour == 1 else "6.7 2.9")
        yield _path(f"M{panel.at(*line[0])}{steps}", *look)
        x = 7 + (colour - 1) * 122
        yield _path(f"M{x} 10h24", *look)
        yield _text(x + 31, 13.5, label, INK)


def _svg_times(points: Sequence[benchmarks.Point], unit: units.Unit | None, top: float, title: str) -> Iterator[str]:
    """Draw times in a unit, or as multiples of the reference where there is none, and name some of the runs."""
    marks = [mark for place, point in enumerate(points) if (mark := _time(place, point, unit)) is not None]
    panel = _Panel.over((end for mark in marks for end in (mark.height, *mark.ends)), len(points), top, 100.8)
    yield from panel.frame(title)
    every = math.ceil(len(points) / _LABELS)
    for place in range(0, len(points), every):
        yield _text(panel.x(place), top + 112, elided(points[place].label, 14), MUTED, "middle")
    machines = list(dict.fromkeys(point.machine for point in points))
    for machine in machines:
        mine = [mark for mark in marks if mark.machine == machine]
        yield from _svg_machine(panel, mine, machine, len(machines) > 1)


@dataclass(frozen=True)
class _Time:
    """A time of one run: its height, its interval's, and whether it stands for the machine."""

    place: int
    machine: int
    height: float
    ends: tuple[float, ...]
    hollow: bool


def _time(place: int, point: benchmarks.Point, unit: units.Unit | None) -> _Time | None:
    found, median_s = point.timed.found, point.timed.median_s
    if unit is not None:
        return None if median_s is None else _Time(place, point.machine, median_s / unit.size, (), False)
    if found is None:
        return None
    height, bounds = found.reference_ratio, found.ci95_s
    ends = tuple(height * end / found.latency.median_s for end in bounds or ())
    return _Time(place, point.machine, height, ends, not bounds)


def _svg_machine(panel: _Panel, marks: Sequence[_Time], machine: int, named: bool) -> Iterator[str]:
    """Join one machine's times by a line, with their intervals, and dots that are hollow where it was too busy."""
    if not marks:
        return
    colour = _STAND_INS[3 + machine % 4]
    yield _path("M" + "L".join(panel.at(mark.place, mark.height) for mark in marks), colour, 1.2)
    bars = (f"M{panel.at(mark.place, mark.ends[0])}V{panel.y(mark.ends[1]):.1f}" for mark in marks if mark.ends)
    if spans := "".join(bars):
        yield _path(spans, colour, 2.2)
    if dots := "".join(f"M{panel.at(mark.place, mark.height)}h0" for mark in marks if not mark.hollow):
        yield f'<path d="{dots}" style="fill: {colour}; stroke: {colour}; stroke-width: 6; stroke-linecap: round"/>'
    for mark in marks:
        if mark.hollow:
            x, y = panel.x(mark.place), panel.y(mark.height)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill: none; stroke: {colour}"/>'
    if named:
        last = marks[-1]
        yield _text(panel.x(last.place) + 7, panel.y(last.height) - 2, benchmarks.letter(machine), INK)


# From matplotlib to a piece of a page --------------------------------------------------------------------------------

Draw = Callable[[Figure, str], str]


@contextmanager
def _canvas() -> Iterator[Draw]:
    """Lend this room's style, whatever the caller's is, and a function from a figure and its description to SVG."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are drawn by the page's fonts.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield _svg


def _svg(figure: Figure, description: str) -> str:
    out = io.StringIO()
    figure.patch.set_visible(False)
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # a rule for `*`, which would reach the whole page
    for stand_in, css in _CSS.items():
        svg = svg.replace(stand_in, css)
    svg = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1system-ui, sans-serif", svg)
    svg = _own_ids(svg, hashlib.sha256((description + svg).encode()).hexdigest()[:8])
    label = escape(printable(description), quote=True)
    look = 'stroke-linejoin="round" style="width: 100%; height: auto"'
    head = f'<svg class="cnnprof-figure" role="img" aria-label="{label}" {look}'
    return re.sub(r"<svg ([^>]*?)>", lambda match: f"{head} {_without_size(match[1])}>", svg, count=1)


def _without_size(attributes: str) -> str:
    return re.sub(r"\b(?:width|height)=\"[^\"]*\"\s*", "", attributes)


def _own_ids(svg: str, prefix: str) -> str:
    """Drop the ids that nothing refers to, and make the others this picture's own."""
    used = set(re.findall(r"#([\w.-]+)\)|href=\"#([\w.-]+)\"", svg))
    wanted = {name for pair in used for name in pair if name}
    svg = re.sub(r" id=\"([^\"]*)\"", lambda match: f' id="{prefix}-{match[1]}"' if match[1] in wanted else "", svg)
    svg = re.sub(r"url\(#([\w.-]+)\)", rf"url(#{prefix}-\1)", svg)
    return re.sub(r"href=\"#([\w.-]+)\"", rf'href="#{prefix}-\1"', svg)


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes without a frame at a place in inches."""
    whole_width, whole_height = figure.get_size_inches()
    axes = figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_axisbelow(True)
    return axes


def _legend(figure: Figure, entries: Iterable[tuple[int, str]]) -> None:
    """Name the candidates by a dot each along the top, as many as fit."""
    named = list(entries)
    each = min(1.7, (WIDTH - 0.2) / len(named))
    width, height = figure.get_size_inches()
    for place, (index, name) in enumerate(named):
        x, y = 0.14 + place * each, height - 0.17
        figure.text(x / width, y / height, "●", color=_colour(index), ha="center", va="center")
        most = max(4, int((each - 0.25) / 0.085))
        figure.text((x + 0.12) / width, y / height, elided(name, most), ha="left", va="center")
