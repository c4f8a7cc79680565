"""A map of ratios to rows of text and to sentences: two models against each other at equal values. No torch."""

from collections.abc import Sequence

from cnnprof import units
from cnnprof.records import Cell, Mode, RatioMap, Run, TimeRatio
from cnnprof.reporting import tables

METHOD = (
    "Each ratio is of the two models at the same values. Won is what a time gains of what the MACs promise: times "
    "better in time over times better by MACs."
)


def of(run: Run) -> RatioMap | None:
    """Return the map of a document, where it has one."""
    return getattr(run, "map", None)


def title(drawn: RatioMap) -> str:
    """Regular or bottleneck, over channels and input-size?"""  # noqa: D400
    question = f"{drawn.baseline} or {drawn.candidate}, over {' and '.join(drawn.axes)}?"
    return question[:1].upper() + question[1:]


def time(cell: Cell, mode: Mode) -> TimeRatio | None:
    """Return the ratio of times of a mode."""
    return cell.contrast.latency if mode == "inference" else cell.contrast.training_latency


def won(cell: Cell, mode: Mode) -> float | None:
    """Return what the time of a mode gains of what the MACs promise."""
    return cell.won if mode == "inference" else cell.training_won


def modes(run: Run, drawn: RatioMap) -> Sequence[Mode]:
    """Return the modes of which a cell has a ratio; before anything is measured, those that were asked for."""
    timed = [mode for mode in run.settings.modes if any(time(cell, mode) for cell in drawn.cells)]
    return timed or run.settings.modes


def table(run: Run, drawn: RatioMap) -> tables.Table:
    """A line for each combination of values: what the second model should win, what it wins, and how much that is."""
    shown = modes(run, drawn)
    rows = tuple(
        (
            *cell.values,
            units.versus(cell.contrast.macs.ratio, "fewer", "more"),
            units.versus(cell.contrast.params.ratio, "fewer", "more"),
            *(text for mode in shown for text in (_time_words(time(cell, mode)), units.percent(won(cell, mode), 0))),
        )
        for cell in drawn.cells
    )
    named = [(tables.TIME_LABELS[mode], f"won, %{' ' * number}") for number, mode in enumerate(shown)]
    columns = (*drawn.axes, "MACs", "parameters", *(label for pair in named for label in pair))
    words = frozenset({columns[0], "MACs", "parameters", *(label for label, _ in named)})
    return tables.Table("Map", columns, rows, words, droppable=("parameters",))


def _time_words(ratio: TimeRatio | None) -> str:
    if ratio is None:
        return units.UNKNOWN
    if ratio.ratio is None or ratio.verdict in ("inconclusive", "equal"):
        return ratio.verdict
    return tables.faster_words(ratio.ratio, ratio.ci95)


def sentences(run: Run, drawn: RatioMap) -> tuple[str, ...]:
    """Say what the second model should win by MACs, and what it wins in time, from cell to cell."""
    macs = [1 / ratio for cell in drawn.cells if (ratio := cell.contrast.macs.ratio)]
    if not macs:
        return ()
    promised = f"By MACs {drawn.candidate} should win {_range(macs)} over {drawn.baseline}."
    return (promised, *(said for mode in modes(run, drawn) if (said := _won_sentence(drawn, mode))))


def _won_sentence(drawn: RatioMap, mode: Mode) -> str:
    known = [(share, cell) for cell in drawn.cells if (share := won(cell, mode)) is not None]
    if not known:
        return ""
    (least, worst), (most, best) = (choose(known, key=lambda pair: pair[0]) for choose in (min, max))
    ratios = [ratio for _, cell in known if (ratio := time(cell, mode)) and ratio.ratio]
    times = _range([1 / ratio.ratio for ratio in ratios if ratio.ratio])
    said = f"Its {_NOUNS[mode]} wins {times}: {units.percent(most, 0)} % of that at {_place(drawn, best)}"
    return f"{said}." if len(known) == 1 else f"{said}, {units.percent(least, 0)} % at {_place(drawn, worst)}."


_NOUNS: dict[Mode, str] = {"inference": "forward pass", "training": "training step"}


def _range(factors: Sequence[float]) -> str:
    low, high = units.factor(min(factors)), units.factor(max(factors))
    return low if low == high else f"{low} to {high}"


def _place(drawn: RatioMap, cell: Cell) -> str:
    return ", ".join(map("=".join, zip(drawn.axes, cell.values, strict=True)))
