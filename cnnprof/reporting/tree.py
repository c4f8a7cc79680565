"""The layers of an analysis summed into a tree of a given depth, with equal repeated blocks named once. No torch."""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cnnprof import units
from cnnprof.errors import UsageError
from cnnprof.records import Analysis, Layer, Size
from cnnprof.reporting.tables import BARS, Table, output


@dataclass(frozen=True)
class Branch:
    """A module with all that lies below it, or what it does itself beside its children."""

    path: str
    kind: str
    output_shape: Size | None
    params: int
    macs: int
    activations: int
    complete: bool = True
    """Whether every operator of it was counted."""


SORTS = ("params", "macs", "activations")


def check(depth: int, sort: str | None) -> None:
    """Raise UsageError for a depth below 1 and an unknown sort."""
    if depth < 1:
        raise UsageError(f"depth {depth}: a number of at least 1 was expected")
    if sort is not None and sort not in SORTS:
        raise UsageError(f"sort {sort!r}: one of {', '.join(SORTS)} was expected")


def branches(analysis: Analysis, depth: int, sort: str | None = None) -> tuple[Branch, ...]:
    """Cut the tree at `depth` levels, of which the model itself is the first. The branches add up to the totals."""
    check(depth, sort)
    groups: dict[str, list[Layer]] = {}
    for layer in analysis.layers:
        groups.setdefault(".".join(layer.path.split(".")[: depth - 1]), []).append(layer)
    uncounted = analysis.uncounted_paths
    found = [_branch(path, layers, uncounted, cut=path.count(".") == depth - 2) for path, layers in groups.items()]
    kept = [each for each in found if each.params or each.macs or each.activations or not each.complete]
    return tuple(sorted(kept, key=lambda branch: -getattr(branch, sort))) if sort else tuple(kept)


def _branch(path: str, layers: Sequence[Layer], uncounted: AbstractSet[str], cut: bool) -> Branch:
    top = layers[0]
    return Branch(
        path=path,
        kind=_kind(path, layers) if cut and path else f"{top.kind} {top.detail}".strip(),
        output_shape=top.output_shape,
        params=sum(layer.params for layer in layers),
        macs=sum(layer.macs for layer in layers),
        activations=sum(layer.activations for layer in layers),
        complete=uncounted.isdisjoint(layer.path for layer in layers),
    )


def _kind(path: str, layers: Sequence[Layer]) -> str:
    """Name a container by its children where they are alike: 3 x Bottleneck."""
    level = path.count(".") + 1
    children = Counter(layer.kind for layer in layers if layer.path.count(".") == level)
    top = layers[0]
    if len(children) == 1 and top.kind in ("Sequential", "ModuleList"):
        ((kind, number),) = children.items()
        return f"{number} x {kind}" if number > 1 else kind
    return f"{top.kind} {top.detail}".strip()


def table(analysis: Analysis, depth: int, sort: str | None = None) -> Table:
    """Lay the tree out as a table of text, with shares of the totals; counts are per image where the batch is known."""
    found, batch, totals = branches(analysis, depth, sort), analysis.images, analysis.totals
    macs_unit = units.gigas([totals.macs / batch])
    outputs_unit = units.gigas([totals.activations / batch])
    rows = [
        (
            f"{branch.path or '(itself)'}  {branch.kind}",
            units.size(output(analysis, branch.output_shape)),
            units.integer(branch.params),
            _share(branch.params, totals.params),
            units.macs(branch.macs / batch, macs_unit, branch.complete),
            _share(branch.macs, totals.macs) if branch.macs or branch.complete else units.NOT_COUNTED,
            units.with_unit(branch.activations / batch, outputs_unit, 2),
            units.bar(branch.macs / totals.macs if totals.macs else 0.0, 16),
        )
        for branch in found
    ]
    outputs = units.with_unit(totals.activations / batch, outputs_unit, 2)
    macs = units.macs(totals.macs / batch, macs_unit, not analysis.uncounted)
    rows.append(("total", "", units.integer(totals.params), "", macs, "", outputs, ""))
    columns = ("layer", "output", "params", "%", f"{macs_unit.name}MACs", "% ", "conv outputs", BARS)
    words = frozenset({"layer", BARS})
    return Table(analysis.model, columns, tuple(rows), words, droppable=(BARS, "%", "% ", "output"), total=True)


def _share(part: int, whole: int) -> str:
    return units.percent(part / whole) if whole else units.UNKNOWN
