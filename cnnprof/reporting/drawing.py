"""A network's structure to pictures: SVG for a page, lines of text for a terminal and Markdown. No torch.

Data flows from left to right. A box is as wide across the flow as its output has channels, and as dark as it has MACs,
on one scale for all networks that are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cnnprof import units
from cnnprof.records import Analysis, Layer, Node, Structure
from cnnprof.reporting import workings
from cnnprof.reporting.layout import Layout, Path, layout
from cnnprof.reporting.names import elided, printable, printable_lines

CAPTION = "A box's height: the channels of its output; its ink: its MACs. Point at it for the working."
_NOT_DRAWN = {
    "operators": "",
    "stages": " What skips within a stage is not drawn.",
    "chain": " Skips are not drawn: they are too many.",
}


def caption(analyses: Sequence[Analysis]) -> str:
    """Say how to read the drawings, and what they leave out."""
    shown = {analysis.structure.shows for analysis in analyses if analysis.structure}
    return CAPTION + "".join(words for shows, words in _NOT_DRAWN.items() if shows in shown)


# Words ---------------------------------------------------------------------------------------------------------------

LONGEST_LABEL = 22


def label(node: Node) -> str:
    """3x3 256, 3 x Bottleneck, (+)."""
    said = f"{node.times} x {node.label}" if node.times > 1 else node.label
    return f"({said})" if node.kind == "junction" else elided(said, LONGEST_LABEL)


def _hover(node: Node, analysis: Analysis) -> str:
    """Tell where a box is, and the working of its numbers where it is all that happens there."""
    where = node.path or "(itself)"
    if node.times > 1:
        where = f"{node.times} of them, from {where}"
    macs = f"{units.integer(node.macs)} MACs"
    inside = [layer for layer in analysis.layers if _is_in(layer, node)]
    own = [layer for layer in inside if layer.path == node.path]
    if len(inside) == 1 and own and own[0].macs == node.macs:
        params = [each.numbers for each in workings.sums(analysis, "params") if node.path in each.paths]
        products = [each.numbers for each in workings.sums(analysis, "macs") if node.path in each.paths]
        return "\n".join([where, *(f"{said} parameters" for said in params), *(f"{said} MACs" for said in products)])
    if node.output_shape is not None and node.times == 1:
        macs = f"{units.integer(sum(layer.params for layer in inside))} parameters\n{macs}"
    return f"{where}\n{macs}"


def _is_in(layer: Layer, node: Node) -> bool:
    return layer.path == node.path or layer.path.startswith(f"{node.path}." if node.path else "")


# SVG -----------------------------------------------------------------------------------------------------------------

BOX, JUNCTION = 44.0, 11.0
"""Width of a box, radius of a junction, in pixels."""
TALLEST, FLATTEST = 72.0, 3.0
GAP, LINE, LETTER = 22.0, 15.0, 6.9
"""Between columns; of a line of text; of a letter, at 12 pixels."""
PALEST = 0.04


@dataclass(frozen=True)
class Scale:
    """What the tallest and the darkest box stand for."""

    channels: int
    macs: int

    @classmethod
    def over(cls, analyses: Sequence[Analysis]) -> "Scale":
        """Take the largest of several networks."""
        nodes = [node for analysis in analyses if analysis.structure for node in analysis.structure.nodes]
        boxes = [node for node in nodes if node.kind == "box"]
        return cls(max([1, *(node.channels or 1 for node in boxes)]), max([1, *(node.macs for node in boxes)]))

    def height(self, node: Node) -> float:
        """Pixels for its channels."""
        return max(FLATTEST, TALLEST * (node.channels or 1) / self.channels)

    def ink(self, node: Node) -> float:
        """Opacity for its MACs."""
        return PALEST + (1 - PALEST) * node.macs / self.macs


@dataclass(frozen=True)
class Mark:
    """A node in a picture: its middle, its size, and the lines of text that are in it or below."""

    node: Node
    x: float
    y: float
    width: float
    height: float
    ink: float
    lines: tuple[tuple[float, str], ...]
    """By the height of their base line."""
    hover: str


@dataclass(frozen=True)
class Picture:
    """All that the template of a drawing needs."""

    width: float
    height: float
    colour: int
    description: str
    wires: tuple[str, ...]
    """SVG paths."""
    skips: tuple[tuple[float, float], ...]
    """Where the word stands."""
    marks: tuple[Mark, ...]


def picture(analysis: Analysis, scale: Scale, name: str, colour: int) -> Picture | None:
    """Lay a network's structure out in pixels; None where it is not known."""
    if analysis.structure is None:
        return None
    nodes = analysis.structure.nodes
    plan = layout(nodes)
    columns = _Columns.of(nodes, plan.columns)
    ys, height = _lane_middles(nodes, plan, scale)
    marks = tuple(
        _mark(node, columns.middle(plan.columns[place]), ys[plan.lanes[place]], scale, analysis)
        for place, node in enumerate(nodes)
    )
    parts = tuple(columns.behind(column) for column in plan.columns)
    wires = [wire for path, lane in plan.paths for wire in _wires(path, ys[lane], marks, parts)]
    skips = [
        ((parts[path.start] + marks[path.end].x) / 2, ys[lane] - 4)
        for path, lane in plan.paths
        if _is_skip(path, nodes) and path.start is not None and path.end is not None
    ]
    width = columns.lefts[-1] + columns.widths[-1]
    description = f"The structure of {printable(name)}: {', '.join(map(label, nodes))}"
    return Picture(width, height, colour, description, tuple(wires), tuple(skips), marks)


def _is_skip(path: Path, nodes: Sequence[Node]) -> bool:
    return not path.nodes and path.end is not None and nodes[path.end].label == "+"


@dataclass(frozen=True)
class _Columns:
    """Of a picture: where each begins, and how wide it is."""

    lefts: tuple[float, ...]
    widths: tuple[float, ...]

    @classmethod
    def of(cls, nodes: Sequence[Node], columns: Sequence[int]) -> "_Columns":
        widths = [0.0] * (1 + max(columns))
        for column, node in zip(columns, nodes, strict=True):
            widths[column] = max(widths[column], _width(node), *(LETTER * len(line) for line in _lines(node)))
        lefts = tuple(sum(widths[:column]) + GAP * column for column in range(len(widths)))
        return cls(lefts, tuple(widths))

    def middle(self, column: int) -> float:
        return self.lefts[column] + self.widths[column] / 2

    def behind(self, column: int) -> float:
        """Where paths part."""
        return self.lefts[column] + self.widths[column] + GAP / 2


def _lines(node: Node) -> tuple[str, ...]:
    if node.output_shape is not None:
        return label(node), units.size(node.output_shape[1:])
    return (node.label if node.kind == "junction" else label(node),)


def _width(node: Node) -> float:
    return {"box": BOX, "junction": 2 * JUNCTION}.get(node.kind, LETTER * len(label(node)))


def _lane_middles(nodes: Sequence[Node], plan: Layout, scale: Scale) -> tuple[list[float], float]:
    """Put lanes below each other, each as high as its boxes with the text below them."""
    middles, bottom = [], 2.0
    for lane in range(1 + max(lane for _, lane in plan.paths)):
        inside = [nodes[place] for place, where in plan.lanes.items() if where == lane]
        above = max((_height(node, scale) / 2 for node in inside), default=LINE)
        texts = [_height(node, scale) / 2 + LINE * len(_lines(node)) for node in inside if node.kind == "box"]
        middles.append(bottom + above)
        bottom += above + max([above if inside else 2.0, *texts]) + 6
    return middles, bottom


def _height(node: Node, scale: Scale) -> float:
    return scale.height(node) if node.kind == "box" else 2 * JUNCTION


def _mark(node: Node, x: float, y: float, scale: Scale, analysis: Analysis) -> Mark:
    height = _height(node, scale)
    first = y + height / 2 + LINE - 2 if node.kind == "box" else y + 4
    lines = tuple((first + LINE * number, line) for number, line in enumerate(_lines(node)))
    box = node.kind == "box"
    hover = printable_lines(_hover(node, analysis)) if box else ""
    return Mark(node, x, y, _width(node), height, scale.ink(node) if box else 0.0, lines, hover)


def _wires(path: Path, y: float, marks: Sequence[Mark], parts: Sequence[float]) -> Iterator[str]:
    """Draw the line of a path, broken by its nodes: down to its lane, along it, and up to what it feeds."""
    pen = ""
    if path.start is not None:
        pen = f"M{parts[path.start]:.1f} {marks[path.start].y:.1f}V{y:.1f}"
    for mark in (marks[place] for place in path.nodes):
        if pen:
            yield f"{pen}H{mark.x - mark.width / 2:.1f}"
        pen = f"M{mark.x + mark.width / 2:.1f} {y:.1f}"
    if path.end is not None:
        end = marks[path.end]
        below = end.y + end.height / 2 + (LINE * len(end.lines) + 2 if end.node.kind == "box" else 0)
        yield f"{pen}H{end.x:.1f}V{below:.1f}"


# Text ----------------------------------------------------------------------------------------------------------------

WIDEST = 78
_SKIP = " skip "
_LINES = {"LR": "─", "DU": "│", "DLR": "┬", "RU": "└", "DRU": "├", "LU": "┘", "DLU": "┤", "L": "─", "R": "─"}
"""By the arms of a letter: down, left, right, up. All four would be a crossing."""


def text(structure: Structure | None) -> str:
    """Draw operators with lines and brackets; empty where they are too many for a line, or lines would cross."""
    if structure is None or structure.shows != "operators":
        return ""
    nodes, plan = structure.nodes, layout(structure.nodes)
    arms, words = _inked(nodes, plan)
    written = {(row, x + i): letter for row, x, word in words for i, letter in enumerate(word)}
    lines = {place: _LINES.get("".join(sorted(found)), "") for place, found in arms.items() if place not in written}
    if not all(lines.values()) or any("U" in found for place, found in arms.items() if place in written):
        return ""
    letters = lines | written
    rows, columns = (1 + max(places) for places in zip(*letters, strict=True))
    drawn = ["".join(letters.get((row, x), " ") for x in range(columns)).rstrip() for row in range(rows)]
    return "\n".join(drawn) if columns <= WIDEST else ""


_Arms = dict[tuple[int, int], set[str]]
_Words = list[tuple[int, int, str]]


def _inked(nodes: Sequence[Node], plan: Layout) -> tuple[_Arms, _Words]:
    """Return the lines by row and place, as what leaves each place, and the words that stand on them."""
    lefts, parts = _parted(nodes, plan)
    left = [lefts[column] for column in plan.columns]
    middle = [x + len(_word(node)) // 2 for x, node in zip(left, nodes, strict=True)]
    arms: _Arms = {}
    words: _Words = []
    for path, lane in plan.paths:
        first = left[path.nodes[0]] if path.start is None else parts[plan.columns[path.start]]
        last = left[path.nodes[-1]] if path.end is None else middle[path.end]
        _line(arms, [(lane, x) for x in range(first, last + 1)], "RL")
        words += [(lane, left[place], _word(nodes[place])) for place in path.nodes]
        if path.start is not None:
            _line(arms, [(row, first) for row in range(plan.lanes[path.start], lane + 1)], "DU")
        if path.end is not None:
            _line(arms, [(row, last) for row in range(plan.lanes[path.end], lane + 1)], "DU")
        if _is_skip(path, nodes) and last - first > len(_SKIP) + 2:
            words.append((lane, (first + last - len(_SKIP)) // 2 + 1, _SKIP))
    return arms, words


def _line(arms: _Arms, places: Sequence[tuple[int, int]], ways: str) -> None:
    """Draw from place to place: each has an arm to the next, and one back."""
    for here, there in pairwise(places):
        arms.setdefault(here, set()).add(ways[0])
        arms.setdefault(there, set()).add(ways[1])


def _word(node: Node) -> str:
    return {"box": f"[{label(node)}]", "input": f"{label(node)} "}.get(node.kind, label(node))


def _parted(nodes: Sequence[Node], plan: Layout) -> tuple[list[int], list[int]]:
    """Where the words of each column begin, and where paths part behind it."""
    parting = {plan.columns[path.start] for path, _ in plan.paths if path.start is not None}
    lefts, parts = [0], []
    for column in range(1 + max(plan.columns)):
        widest = max(len(_word(node)) for place, node in enumerate(nodes) if plan.columns[place] == column)
        parts.append(lefts[-1] + widest + 1)
        lefts.append(lefts[-1] + widest + (3 if column in parting else 1))
    return lefts, parts
