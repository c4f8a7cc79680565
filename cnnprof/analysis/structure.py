"""How data flows through a network: operators that have MACs, and where paths join, from the tensors themselves.

A forward pass is followed tensor by tensor: what an operator takes tells what feeds it. Elementwise work, norms and
pools pass on where their input came from. What is too much for one drawing is cut into stages along the modules.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from cnnprof.analysis.operators import Effect, flat
from cnnprof.records import Layer, Node, Size, Structure

MOST_BOXES = 12
"""Of a drawing that can be taken in at once."""
FEWEST_STAGES = 4
MOST_DETOURS = 6
"""Paths beside the main one; with more, a drawing is a tangle."""

_JUNCTIONS = {"add": "+", "sub": "-", "mul": "×", "div": "÷", "cat": "cat", "stack": "stack"}
_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "leaky_relu": "LeakyReLU",
                "hardswish": "Hardswish", "hardtanh": "Hardtanh", "sigmoid": "Sigmoid", "tanh": "Tanh",
                "mish": "Mish", "prelu": "PReLU"}  # fmt: skip
_ATTENTION = "scaled_dot_product_attention"


class Flow:
    """Hears every operator of a pass, and keeps what feeds what. It holds all tensors, which must have no storage."""

    def __init__(self, fed: Iterable[torch.Tensor]) -> None:
        self.nodes: list[Node] = []
        self._origins: dict[int, _Origin] = {}
        """By the identity of a tensor, which is kept beside so that its identity is not given again."""
        for tensor in fed:
            self._made((tensor,), self._new(Node("input", _input_label(tensor), (), channels=_channels(tensor))))

    def heard(self, path: str, effect: Effect, taken: Sequence[torch.Tensor], output: object) -> None:
        """Place an operator; one that takes nothing of the network's input has no place."""
        origins = [self._origins[id(tensor)] for tensor in taken if id(tensor) in self._origins]
        before = tuple(dict.fromkeys(origin.node for origin in origins))
        if not before:
            return
        made = tuple(flat((output,)))
        name = effect.operator.removeprefix("aten::").removesuffix("_")
        node: int | None = None
        if effect.macs:
            node = self._new(_box(path, name, effect.macs, before, taken, made[0]))
        elif len(before) > 1:
            node = self._new(Node("junction", _JUNCTIONS.get(name, name), before, path))
        elif name in _ACTIVATIONS and origins[0].fresh and self.nodes[before[0]].kind == "junction":
            node = self._new(Node("activation", _ACTIVATIONS[name], before, path))
        self._made(made, before[0] if node is None else node, fresh=node is not None)

    def _new(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _made(self, tensors: Iterable[torch.Tensor], node: int, fresh: bool = True) -> None:
        self._origins.update({id(tensor): _Origin(tensor, node, fresh) for tensor in tensors})


@dataclass(frozen=True, slots=True)
class _Origin:
    """Which node a tensor comes from, and whether it is that node's own output."""

    tensor: torch.Tensor
    node: int
    fresh: bool


def _box(
    path: str, name: str, macs: int, before: tuple[int, ...], taken: Sequence[torch.Tensor], made: torch.Tensor
) -> Node:
    """Name an operator by what it does: 3x3 256, 3x3 256 dw, linear 1000."""
    if name.startswith("conv") and len(taken) > 1 and taken[1].ndim == made.ndim > 2:
        images, weight, channels = taken[0], taken[1], int(made.shape[1])
        kernel = "x".join(map(str, weight.shape[2:]))
        groups = 1 if "transpose" in name else int(images.shape[1] // weight.shape[1])
        kind = "" if groups == 1 else " dw" if weight.shape[1] == 1 else f" g{groups}"
        up = " up" if "transpose" in name else ""
        return Node("box", f"{kernel} {channels}{kind}{up}", before, path, channels, macs)
    length = int(made.shape[-1]) if made.ndim else 1
    if name in ("linear", "addmm", "mm") and len(before) == 1:
        return Node("box", f"linear {length}", before, path, length, macs)
    said = "attention" if name == _ATTENTION else "product" if len(before) > 1 else name
    return Node("box", said, before, path, length, macs)


def _input_label(tensor: torch.Tensor) -> str:
    return str(_channels(tensor)) if tensor.ndim > 3 else "x".join(map(str, tensor.shape[1:])) or "input"


def _channels(tensor: torch.Tensor) -> int | None:
    return int(tensor.shape[1 if tensor.ndim > 3 else -1]) if tensor.ndim else None


# What is drawn -------------------------------------------------------------------------------------------------------


def structure(nodes: Sequence[Node], layers: Sequence[Layer]) -> Structure | None:
    """Return what can be drawn: operators where they are few, else stages; None where nothing has MACs."""
    if not any(node.macs for node in nodes):
        return None
    if _boxes(nodes) <= MOST_BOXES and not _is_tangled(nodes):
        return Structure(tuple(nodes), "operators")
    stages = _staged(nodes, _Modules(layers))
    if _is_tangled(stages):
        return Structure(_in_order(stages), "chain")
    return Structure(tuple(stages), "stages")


def _boxes(nodes: Iterable[Node]) -> int:
    return sum(node.kind == "box" for node in nodes)


def _is_tangled(nodes: Sequence[Node]) -> bool:
    """Say whether there are more detours than a drawing bears, or nodes that are fed by later ones."""
    edges = [(place, source) for place, node in enumerate(nodes) for source in node.before]
    detours = len(edges) - sum(bool(node.before) for node in nodes)
    return detours > MOST_DETOURS or any(source >= place for place, source in edges)


def _in_order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return the boxes in the order in which they first ran, behind the first input."""
    kept = [nodes[0], *(node for node in nodes if node.kind == "box")]
    return tuple(replace(node, before=(place - 1,) if place else ()) for place, node in enumerate(kept))


# Stages --------------------------------------------------------------------------------------------------------------


class _Modules:
    """The modules of a network: rows by path, and the paths right below each."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.rows = {layer.path: layer for layer in layers}
        self._below: dict[str, list[str]] = {}
        for path in self.rows:
            if path:
                self._below.setdefault(path.rpartition(".")[0], []).append(path)

    def below(self, path: str) -> Sequence[str]:
        return self._below.get(path, ())

    def name(self, path: str) -> str:
        """Name a container by its children where they are alike, 3 x Bottleneck, else by its own name."""
        row, below = self.rows[path], self.below(path)
        if row.kind not in ("Sequential", "ModuleList") or not below:
            return f"{row.kind} {row.detail}".strip()
        kinds = {self.rows[child].kind for child in below}
        if len(kinds) > 1:
            own = path.rpartition(".")[2]
            return row.kind if own.isdecimal() else own
        return f"{len(below)} x {kinds.pop()}" if len(below) > 1 else self.name(below[0])


def _staged(nodes: Sequence[Node], modules: _Modules) -> Sequence[Node]:
    """Cut a network along its modules: at the topmost, and deeper where that leaves few stages and not too many."""
    cut = frozenset(modules.below(""))
    stages = _cut(nodes, cut, modules)
    while _boxes(stages) < FEWEST_STAGES:
        deeper = ((finer, _cut(nodes, finer, modules)) for finer in _finer(nodes, cut, modules))
        found = next(((finer, made) for finer, made in deeper if _boxes(made) <= MOST_BOXES), None)
        if found is None:
            break
        cut, stages = found
    return stages


def _finer(nodes: Sequence[Node], cut: frozenset[str], modules: _Modules) -> Iterable[frozenset[str]]:
    """Yield the cuts that take all modules of one kind apart, the kind with most MACs first."""
    macs: Counter[str] = Counter()
    for node in nodes:
        stage = _stage_of(node, cut)
        if stage is not None:
            macs[modules.rows[stage].kind] += node.macs
    for kind, _ in macs.most_common():
        parts = {path for path in cut if modules.rows[path].kind == kind and modules.below(path)}
        if parts:
            yield cut - parts | frozenset(chain.from_iterable(map(modules.below, parts)))


def _stage_of(node: Node, cut: frozenset[str]) -> str | None:
    """Return which module of a cut a node lies in."""
    path = node.path
    while path and path not in cut:
        path = path.rpartition(".")[0]
    return path or None


def _cut(nodes: Sequence[Node], cut: frozenset[str], modules: _Modules) -> Sequence[Node]:
    """Put what lies in one module of the cut together where it has MACs, and then equal stages that follow another."""
    stage_of = [_stage_of(node, cut) for node in nodes]
    working = {stage for stage, node in zip(stage_of, nodes, strict=True) if node.macs}
    groups: dict[str | int, list[int]] = {}
    for place, stage in enumerate(stage_of):
        groups.setdefault(stage if stage in working and stage is not None else place, []).append(place)
    place_of = {member: place for place, members in enumerate(groups.values()) for member in members}
    found = []
    for place, (key, members) in enumerate(groups.items()):
        fed = chain.from_iterable(nodes[member].before for member in members)
        before = tuple(dict.fromkeys(place_of[source] for source in fed if place_of[source] != place))
        if isinstance(key, str):
            found.append(_stage(key, [nodes[member] for member in members], before, modules))
        else:
            found.append(replace(nodes[members[0]], before=before))
    return _alike_together(found)


def _stage(path: str, members: Sequence[Node], before: tuple[int, ...], modules: _Modules) -> Node:
    shape, macs = modules.rows[path].output_shape, sum(node.macs for node in members)
    channels = _channels_of(shape, [node for node in members if node.kind == "box"][-1])
    return Node("box", modules.name(path), before, path, channels, macs, shape)


def _channels_of(shape: Size | None, last: Node) -> int | None:
    """Find a stage's channels where its last operator has its own; else where a convolution has them, or a product."""
    if shape is None or last.channels in shape[1:]:
        return last.channels
    return shape[1] if len(shape) > 3 else shape[-1]


def _alike_together(nodes: Sequence[Node]) -> Sequence[Node]:
    """Draw stages of one kind and output, each of which feeds the next alone, as one; a tangle stays as it is."""
    if any(source >= place for place, node in enumerate(nodes) for source in node.before):
        return nodes
    feeds = Counter(chain.from_iterable(node.before for node in nodes))
    place_of: list[int] = []
    kept: list[Node] = []
    for node in nodes:
        moved = replace(node, before=tuple(place_of[source] for source in node.before))
        before = kept[moved.before[0]] if len(moved.before) == 1 and feeds[node.before[0]] == 1 else None
        if before is not None and node.kind == "box" and _look(node) == _look(before):
            kept[moved.before[0]] = replace(before, times=before.times + 1, macs=before.macs + node.macs)
            place_of.append(moved.before[0])
        else:
            place_of.append(len(kept))
            kept.append(moved)
    return kept


def _look(node: Node) -> tuple[str, str, Size | None]:
    return node.kind, node.label, node.output_shape
