"""Where the nodes of a structure stand in a drawing: columns from left to right, lanes from top to bottom. No pictures.

The longest path is the main one and takes lane 0; what goes another way is a detour, which hangs below.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from cnnprof.records import Node


@dataclass(frozen=True)
class Path:
    """Nodes that feed each other in a row, what the first of them is fed by, and what the last of them feeds."""

    start: int | None
    nodes: tuple[int, ...]
    """None of a detour that only passes something on."""
    end: int | None


@dataclass(frozen=True)
class Layout:
    """Columns and lanes of all nodes, and the paths in their lanes; the first path is the main one."""

    columns: tuple[int, ...]
    lanes: Mapping[int, int]
    paths: tuple[tuple[Path, int], ...]


def layout(nodes: Sequence[Node]) -> Layout:
    """Stand every node behind all that feed it, and hang detours below what they leave and join, the shorter higher."""
    columns = _columns(nodes)
    main, *detours = _paths(nodes, columns)
    lanes = dict.fromkeys(main.nodes, 0)
    placed: list[tuple[Path, int]] = [(main, 0)]
    while detours:
        ready = [path for path in detours if {path.start, path.end} - {None} <= lanes.keys()]
        path = min(ready, key=lambda path: _length(path, columns))
        detours.remove(path)
        lane = _free_lane(path, columns, lanes, placed)
        lanes.update(dict.fromkeys(path.nodes, lane))
        placed.append((path, lane))
    return Layout(columns, lanes, tuple(placed))


def _columns(nodes: Sequence[Node]) -> tuple[int, ...]:
    columns: list[int] = []
    for node in nodes:
        columns.append(1 + max((columns[source] for source in node.before), default=-1))
    return tuple(columns)


def _paths(nodes: Sequence[Node], columns: Sequence[int]) -> list[Path]:
    """Take the longest path, then what is left, path by path, from what it feeds back to what is known."""
    last = max(range(len(nodes)), key=columns.__getitem__)
    fed = {source for node in nodes for source in node.before}
    ends: list[tuple[int, int | None]] = [(last, None)]
    ends += [(place, None) for place in range(len(nodes)) if place not in fed and place != last]
    known: set[int] = set()
    drawn: set[tuple[int, int]] = set()
    found = []
    while ends:
        source, end = ends.pop(0)
        if end is not None and (source, end) in drawn:
            continue
        path = _back(nodes, columns, source, end, known)
        found.append(path)
        known.update(path.nodes)
        drawn.update(pairwise(each for each in (path.start, *path.nodes, path.end) if each is not None))
        ends += [(source, node) for node in path.nodes for source in nodes[node].before]
    return found


def _back(nodes: Sequence[Node], columns: Sequence[int], source: int, end: int | None, known: set[int]) -> Path:
    """Go back from a node along the farthest of what feeds it, up to a node that is known."""
    passed: list[int] = []
    start: int | None = source
    while start is not None and start not in known:
        passed.insert(0, start)
        start = max(nodes[start].before, key=columns.__getitem__, default=None)
    return Path(start, tuple(passed), end)


def _reach(path: Path, columns: Sequence[int]) -> tuple[int, int]:
    first = columns[path.nodes[0]] - 1 if path.start is None else columns[path.start]
    return first, columns[path.nodes[-1]] + 1 if path.end is None else columns[path.end]


def _length(path: Path, columns: Sequence[int]) -> int:
    first, last = _reach(path, columns)
    return last - first


def _free_lane(path: Path, columns: Sequence[int], lanes: Mapping[int, int], placed: Iterable[tuple[Path, int]]) -> int:
    """Find the topmost lane below both ends in which nothing stands beside it."""
    first, last = _reach(path, columns)
    ends = [lanes[end] for end in (path.start, path.end) if end is not None]
    reaches = [(*_reach(other, columns), lane) for other, lane in placed]
    taken = {lane for begin, end, lane in reaches if begin < last and first < end}
    return next(lane for lane in count(1 + max(ends, default=0)) if lane not in taken)
