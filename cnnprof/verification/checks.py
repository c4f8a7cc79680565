"""A student's builders against the course's numbers and ours, and the rule that is probably broken.

Facts that differ are explained by variants: networks with one rule broken, else two, that show exactly the student's
facts on every network looked at. Where none does, what differs first is said, and nothing is guessed.
"""

import inspect
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache
from importlib import resources
from itertools import combinations, islice, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from cnnprof import units
from cnnprof.models.classifier import ArgMaxClassifier
from cnnprof.models.cnn import ACTIVATIONS, CNN
from cnnprof.models.residual import ResidualBlock, ResidualBottleneckBlock, ResNet
from cnnprof.records import Check
from cnnprof.verification.facts import (
    ANYTHING,
    DRAWN,
    SEED,
    Builder,
    Fact,
    Probe,
    Protocol,
    Raised,
    Scored,
    Weights,
    agree,
    built,
    count_moved_norms,
    distance,
    first_difference,
    same,
    same_fact,
    told,
)
from cnnprof.verification.misses import RULES, Miss, broken, misses_of

OURS: Mapping[str, Builder] = {
    each.__name__: each for each in (CNN, ResidualBlock, ResidualBottleneckBlock, ResNet, ArgMaxClassifier)
}

# Small networks to look at, chosen so that no two broken rules look alike on all of them: options that are no
# defaults, channel counts that differ, leftovers, batch norm with dropout, groups of every kind.
_LEAKY = {"activation_type": "lrelu", "activation_params": {"negative_slope": 0.3}}
_CNNS: Sequence[dict[str, Any]] = (
    {"in_size": (3, 14, 12), "out_classes": 5, "channels": [4, 6, 5], "pool_every": 2, "hidden_dims": [9, 7], **_LEAKY,
     "conv_params": {"kernel_size": 3, "padding": 2}, "pooling_type": "avg", "pooling_params": {"kernel_size": 3}},
    {"in_size": (2, 21, 19), "out_classes": 4, "channels": [4, 5, 6, 3], "pool_every": 2, "hidden_dims": [8],
     "conv_params": {"kernel_size": 3, "stride": 2, "padding": 2}, "activation_type": "tanh",
     "pooling_type": "max", "pooling_params": {"kernel_size": 2}},
    {"in_size": (3, 9, 9), "out_classes": 3, "channels": [4, 5], "pool_every": 1, "hidden_dims": [6, 8, 7],
     "conv_params": {"kernel_size": 5, "padding": 2}, "pooling_params": {"kernel_size": 3, "stride": 2}},
    {"in_size": (3, 8, 8), "out_classes": 6, "channels": [4, 5], "pool_every": 3, "hidden_dims": [7],
     "conv_params": {"kernel_size": 3, "padding": 1}, "pooling_type": "avg", "pooling_params": {"kernel_size": 2}},
)  # fmt: skip
_BLOCKS: Sequence[dict[str, Any]] = (
    {"in_channels": 3, "channels": [4, 6, 5, 6], "kernel_sizes": [3, 5, 1, 3], "batchnorm": True, "dropout": 0.3,
     **_LEAKY},
    {"in_channels": 4, "channels": [5, 6, 4], "kernel_sizes": [3, 5, 3], "dropout": 0.4, "activation_type": "tanh"},
    {"in_channels": 3, "channels": [5, 4], "kernel_sizes": [5, 3]},
    {"in_channels": 4, "channels": [3, 4], "kernel_sizes": [3, 3], "batchnorm": True, "activation_type": "tanh"},
)  # fmt: skip
_BOTTLENECKS: Sequence[dict[str, Any]] = (
    {"in_out_channels": 8, "inner_channels": [4, 3, 5], "inner_kernel_sizes": [5, 3, 1], "batchnorm": True,
     "dropout": 0.3, **_LEAKY},
    {"in_out_channels": 6, "inner_channels": [4], "inner_kernel_sizes": [5], "dropout": 0.4, "activation_type": "tanh"},
    {"in_out_channels": 6, "inner_channels": [3, 4], "inner_kernel_sizes": [3, 3]},
)  # fmt: skip
_NETS: Sequence[dict[str, Any]] = (
    {"in_size": (3, 12, 10), "out_classes": 5, "channels": [4, 6, 4, 6, 5], "pool_every": 2, "hidden_dims": [9, 7],
     "batchnorm": True, "dropout": 0.3, **_LEAKY, "pooling_type": "avg", "pooling_params": {"kernel_size": 2}},
    {"in_size": (6, 8, 8), "out_classes": 4, "channels": [5, 3, 4, 6, 8, 3, 4, 8, 8, 4, 8], "pool_every": 4,
     "hidden_dims": [7], "batchnorm": True, "dropout": 0.3, **_LEAKY, "bottleneck": True,
     "pooling_type": "max", "pooling_params": {"kernel_size": 2}},
    {"in_size": (4, 8, 8), "out_classes": 3, "channels": [4, 6, 4, 5, 3, 6, 7, 3, 6], "pool_every": 3,
     "hidden_dims": [6], "activation_type": "tanh", "dropout": 0.4, "bottleneck": True,
     "pooling_params": {"kernel_size": 2, "stride": 1}},
    {"in_size": (5, 8, 8), "out_classes": 3, "channels": [6, 5, 4, 5], "pool_every": 2, "hidden_dims": [6],
     "bottleneck": True, "pooling_params": {"kernel_size": 2}},
)  # fmt: skip
"""The first has a leftover of one; in the second, groups start or end as they should not, and the tail is narrow."""

PROBES: Mapping[str, Sequence[Probe | Scored]] = {
    "CNN": [Probe(each, each["in_size"]) for each in _CNNS],
    "ResidualBlock": [Probe(each, (each["in_channels"], 11, 10)) for each in _BLOCKS],
    "ResidualBottleneckBlock": [Probe(each, (each["in_out_channels"], 11, 10)) for each in _BOTTLENECKS],
    "ResNet": [Probe(each, each["in_size"]) for each in _NETS],
    "ArgMaxClassifier": [Scored(1.0), Scored(100.0)],
}


@cache
def course() -> Sequence[Mapping[str, Any]]:
    """Return the course's networks and numbers."""
    text = resources.files("cnnprof.verification").joinpath("course.json").read_text(encoding="utf-8")
    networks: list[Mapping[str, Any]] = json.loads(text)["networks"]
    return networks


def checks_of(
    kind: str, builder: Builder, before: dict[str, "Cause"], early: Callable[[Sequence[Check]], None] | None = None
) -> Iterator[Check]:
    """Compare a student's class with the course's numbers and with our builder, and explain what differs.

    `before` holds what was found of the classes that this one is made of; what is found here is added. Where it
    differs, `early` is given the checks without their explanation before that is searched for.
    """
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        looks = [Look.at(probe, builder, OURS[kind]) for probe in PROBES[kind]]
        protocols = [Look.at(Protocol(each), builder, OURS[kind]) for each in course() if each["class"] == kind]
        if early and any(look.difference for look in (*looks, *protocols)):
            early([*_comparisons(kind, looks, protocols, NOT_SEARCHED)])
        cause = explained(kind, looks, before)
        if cause == RIGHT and any(look.difference for look in protocols):
            cause = explained(kind, protocols, before)
        before[kind] = cause = _likeliest(kind, cause, protocols, before)
        yield from _comparisons(kind, looks, protocols, cause)
        yield from _statistics_checks(kind, builder)
        if cause == RIGHT and kind in ("CNN", "ResidualBlock"):
            yield _activation_check(kind, builder)


def _comparisons(kind: str, looks: Sequence["Look"], protocols: Sequence["Look"], cause: "Cause") -> Iterator[Check]:
    for look in protocols:
        yield _course_check(kind, look, cause)
    yield _other_check(kind, looks, cause)


@dataclass(frozen=True)
class Look:
    """A student's class beside ours, looked at in one way."""

    probe: Probe | Scored | Protocol
    builder: Builder
    ours: Builder
    facts: Sequence[Fact]
    difference: tuple[Fact | None, Fact | None] | None
    """The first facts that differ, the student's and the one expected."""

    @classmethod
    def at(cls, probe: Probe | Scored | Protocol, builder: Builder, ours: Builder) -> "Look":
        """Look at both."""
        facts = list(told(probe.facts(builder)))
        expected = probe.expected(ours) if isinstance(probe, Protocol) else probe.facts(ours)
        return cls(probe, builder, ours, facts, first_difference(facts, expected))

    @property
    def unwritten(self) -> Raised | None:
        """The part that the student has not written yet."""
        raised = [fact.value for fact in self.facts if isinstance(fact.value, Raised)]
        return next((each for each in raised if each.unwritten), None)

    def shows(self, variant: Builder) -> bool:
        """Say whether a variant shows the student's facts: what is raised may be met sooner, or later."""
        its = told(self.probe.facts(variant))
        if not self.facts[-1].name:
            *before, raised = its
            if self.facts[-1].value.asserted and len(before) + 1 != len(self.facts):
                return False
            return same_fact(raised, self.facts[-1]) and all(map(same_fact, self.facts[:-1], before))
        return agree(self.facts, its)

    def shows_weights(self, variant: Builder, weights: Weights) -> bool:
        """Say whether it does with the student's own weights, whatever it draws itself."""
        assert isinstance(self.probe, Probe)
        facts = [fact for fact in self.facts if fact.name not in DRAWN]
        return agree(facts, told(self.probe.facts(variant, weights)))


# Why it differs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """What explains all that was seen: one of several sets of broken rules, and numbers drawn otherwise."""

    alternatives: tuple[tuple[Miss, ...], ...] = ()
    drawn: str = ""
    """How the initial values differ, where no known rule explains them."""
    known: bool = True
    searched: bool = True

    @property
    def text(self) -> str:
        """An activation after the last Linear, together with no pools or average pools."""
        sets = [tuple(miss.what for miss in each) for each in self.alternatives]
        shared = [what for what in sets[0] if all(what in each for each in sets)] if sets else []
        own = dict.fromkeys(" and ".join(what for what in each if what not in shared) for each in sets)
        return ", together with ".join(filter(None, (" and ".join(shared), ", or ".join(own))))

    @property
    def hint(self) -> str:
        """What to do."""
        return "; ".join(dict.fromkeys(miss.hint for each in self.alternatives for miss in each))


RIGHT, NOT_KNOWN, NOT_SEARCHED = Cause(), Cause(known=False), Cause(known=False, searched=False)


def explained(kind: str, looks: Sequence[Look], before: Mapping[str, Cause]) -> Cause:
    """Find the rules whose breaking shows exactly what the student's class shows."""
    looks = sorted(looks, key=lambda look: look.difference is None)  # those that differ tell sooner
    if looks[0].difference is None:
        return RIGHT
    if any(look.unwritten for look in looks):
        return NOT_KNOWN
    known = _broken_before(before)
    for candidates in _candidates(kind, looks[0], known):
        agreeing = _that_show(kind, candidates, looks)
        if agreeing:
            return Cause(agreeing)
    return _with_own_weights(kind, looks, known)


def _broken_before(before: Mapping[str, Cause]) -> list[Miss]:
    return list(dict.fromkeys(miss for cause in before.values() for each in cause.alternatives[:1] for miss in each))


def _that_show(
    kind: str, candidates: Iterable[tuple[Miss, ...]], looks: Sequence[Look]
) -> tuple[tuple[Miss, ...], ...]:
    return tuple(each for each in candidates if all(look.shows(broken(kind, each)) for look in looks))


def _likeliest(kind: str, cause: Cause, protocols: Sequence[Look], before: Mapping[str, Cause]) -> Cause:
    """Keep of several explanations those that the course's networks show, and that agree with the classes before."""
    if len(cause.alternatives) < 2 or cause.drawn:
        return cause
    known = set(_broken_before(before))
    right = {miss.slot for name, its in before.items() if its == RIGHT for miss in misses_of(name)}
    shown = _that_show(kind, cause.alternatives, protocols) or cause.alternatives
    same_as_before = tuple(each for each in shown if known.issuperset(each))
    not_before = tuple(each for each in shown if right.isdisjoint(miss.slot for miss in each))
    return replace(cause, alternatives=same_as_before or not_before or shown)


def _candidates(kind: str, look: Look, known: Sequence[Miss]) -> Iterator[Iterable[tuple[Miss, ...]]]:
    """Yield what may be broken: one rule, then one beside those that the classes before break, then any two."""
    single = misses_of(kind)
    yield ((miss,) for miss in single)
    yield islice(_beside(known, single), MOST_TRIED)
    if look.facts[0].name:  # where nothing could be built, no pair would tell more
        yield islice(_pairs(kind, look, single), MOST_TRIED)


MOST_TRIED = 1000
"""Sets of broken rules of one kind that are tried. A limit in seconds would find less on a busy machine."""


def _beside(known: Sequence[Miss], single: Sequence[Miss]) -> Iterator[tuple[Miss, ...]]:
    bases = [each for size in range(1, len(known) + 1) for each in combinations(known, size)]
    yield from filter(_possible, bases)
    yield from filter(_possible, ((*base, miss) for base in bases for miss in single))


def _possible(misses: Sequence[Miss]) -> bool:
    return len({miss.slot for miss in misses}) == len(misses)


def _pairs(kind: str, look: Look, single: Sequence[Miss]) -> Iterator[tuple[Miss, ...]]:
    """Yield the pairs that may show the student's facts: where one of both changes nothing, the other's facts stay."""

    def facts(*misses: Miss) -> list[Fact]:
        return list(told(look.probe.facts(broken(kind, misses))))

    right, alone = facts(), {miss: facts(miss) for miss in single}
    length = max(map(len, (look.facts, right, *alone.values())))
    kept = _same(look.facts, right, length)
    changing = {miss: [not equal for equal in _same(its, right, length)] for miss, its in alone.items()}
    agreeing = {miss: _same(look.facts, its, length) for miss, its in alone.items()}

    def possible(one: Miss, other: Miss) -> bool:
        for index in range(length):
            changed = [miss for miss in (one, other) if changing[miss][index]]
            if len(changed) == 2:
                return True
            if not (agreeing[changed[0]] if changed else kept)[index]:
                return False
        return True

    return (pair for pair in filter(_possible, combinations(single, 2)) if possible(*pair))


def _same(facts: Sequence[Fact], others: Sequence[Fact], length: int) -> list[bool]:
    pairs = list(zip_longest(facts, others))
    return [same_fact(*pair) for pair in pairs] + [True] * (length - len(pairs))


def _with_own_weights(kind: str, looks: Sequence[Look], known: Sequence[Miss]) -> Cause:
    """Explain all but the initial values: something else draws random numbers, or initialises, while it is built."""
    probes = [(look, look.probe) for look in looks if isinstance(look.probe, Probe)]
    try:
        weights = [probe.weights(look.builder) for look, probe in probes]
    except ANYTHING:
        return NOT_KNOWN
    single = misses_of(kind)
    for candidates in (
        ([()], [(miss,) for miss in single], islice(_beside(known, single), MOST_TRIED)) if probes else ()
    ):
        agreeing = [
            misses
            for misses in candidates
            if all(
                look.shows_weights(broken(kind, misses), its) for (look, _), its in zip(probes, weights, strict=True)
            )
        ]
        if agreeing:
            return Cause(tuple(filter(None, agreeing)), _drawn(looks))
    return NOT_KNOWN


def _drawn(looks: Sequence[Look]) -> str:
    """Say from where on the initial values are others."""
    for look in looks:
        assert isinstance(look.probe, Probe)
        mine, its = (built(each, look.probe.arguments) for each in (look.builder, look.ours))
        again = built(look.builder, look.probe.arguments, seed=SEED + 1)
        if all(map(same, mine.parameters(), again.parameters())):
            return "initial values that the seed does not change: the constructor sets a seed, or values, itself"
        for (name, value), other in zip(mine.named_parameters(), its.parameters(), strict=False):
            if not same(value.detach(), other.detach()):
                return f"other initial values from {name} on: something draws before it, or initialises it otherwise"
        if not all(map(same, mine.buffers(), its.buffers())):
            return "buffers of other values than a new network's"
    return "random numbers drawn after the last layer was built"


# What is said --------------------------------------------------------------------------------------------------------


def _course_check(kind: str, look: Look, cause: Cause) -> Check:
    assert isinstance(look.probe, Protocol)
    network = look.probe.network
    name = f"{kind} {network['name']}"
    if look.difference:
        return _failed(kind, name, look, cause)
    counts = (
        f"{units.integer(network['parameters'])} parameters in {network['parameter_tensors']} tensors and their sum"
    )
    if "output" not in network:
        return Check(name, "ok", None, f"{counts} agree; outputs in both modes agree with cnnprof's")
    output = next(fact.value for fact in look.facts if fact.name == "output")
    missed = distance(output, torch.tensor([network["output"]]))
    return Check(name, "ok", missed, f"{counts} agree; so does the output, within {units.distance(missed)}")


def _other_check(kind: str, looks: Sequence[Look], cause: Cause) -> Check:
    differing = [look for look in looks if look.difference]
    name = kind if kind == "ArgMaxClassifier" else f"{kind} others"
    if differing:
        return _failed(kind, name, differing[0], cause)
    agree_in = "scores, probabilities and classes"
    if kind != "ArgMaxClassifier":
        agree_in = "parameters, outputs in both modes, running statistics and gradients"
    more = f" of {units.plural(len(looks), 'more network')}" if kind != "ArgMaxClassifier" else ""
    return Check(name, "ok", None, f"{agree_in}{more} agree with cnnprof's")


def _statistics_checks(kind: str, builder: Builder) -> Iterator[Check]:
    """Remark on running statistics that move while a network is built: the course's own test does not see it."""
    probe = PROBES[kind][0]
    try:
        moved = count_moved_norms(builder, probe.arguments) if isinstance(probe, Probe) else 0
    except ANYTHING:
        return  # the other checks tell of it
    if moved:
        said = f"a pass in train mode while it is built moves those of {units.plural(moved, 'batch norm')}"
        yield Check(f"{kind} running statistics", "warning", None, said, _COUNT_ASIDE)


_COUNT_ASIDE = "count features in eval mode, on the meta device, or by arithmetic: these leave running statistics alone"


def _activation_check(kind: str, builder: Builder) -> Check:
    """Look at every activation by name; one that a student's class does not know is no failure."""
    name, probe = f"{kind} activations", PROBES[kind][-1]
    assert isinstance(probe, Probe)
    wrong: list[str] = []
    unknown: list[str] = []
    for activation in ACTIVATIONS:
        look = Look.at(Probe({**probe.arguments, "activation_type": activation}, probe.maps), builder, OURS[kind])
        if look.difference:
            (unknown if isinstance(look.facts[-1].value, Raised) else wrong).append(activation)
    if wrong:
        said = f"{', '.join(wrong)}: the outputs differ from cnnprof's"
        hint = "the softmax and the log-softmax are over dim 1" if set(wrong) <= {"softmax", "logsoftmax"} else ""
        return Check(name, "failed", None, said, hint)
    if unknown:
        return Check(name, "warning", None, f"{', '.join(unknown)}: not known to it; the course's networks need none")
    return Check(name, "ok", None, f"{', '.join(ACTIVATIONS)} agree")


def _failed(kind: str, name: str, look: Look, cause: Cause) -> Check:
    """Say what differs first, and why, in the words of the rule."""
    found, expected = look.difference or (None, None)
    value, text = _difference(found, expected)
    last = look.facts[-1]
    then = last.value if not last.name else look.unwritten
    text += f", then {then}" if then and str(then) not in text else ""
    if look.unwritten:
        return Check(name, "failed", value, text)
    if cause.known:
        return Check(name, "failed", value, f"{text}: {_why(kind, look, cause)}", cause.hint or _DRAW_NOTHING)
    if not cause.searched:
        return Check(name, "failed", value, f"{text}; no time was left to look for the rule")
    where, rule = _first_layer(kind, look)
    hint = (_hint(kind, str(last.value)) if not last.name else "") or rule
    return Check(name, "failed", value, f"{text}: no rule that was tried, nor two of them, explains it{where}", hint)


_DRAW_NOTHING = "build layers in the course's order, with torch's own initialisation, and draw nothing else"


def _why(kind: str, look: Look, cause: Cause) -> str:
    if cause.drawn:
        return " and ".join(filter(None, (cause.text, cause.drawn)))
    exact = any(look.shows(broken(kind, each)) for each in cause.alternatives)
    return f"exactly as with {cause.text}" if exact else f"probably {cause.text}"


def _hint(kind: str, raised: str) -> str:
    """Say what an error that torch or Python raises mostly comes from."""
    asserted = next((rule for condition, rule in _ASSERTED.get(kind, {}).items() if condition in raised), "")
    if asserted:
        return RULES[asserted]
    if f"{kind}.__init__" in raised:
        return f"the course's arguments: {', '.join(inspect.signature(OURS[kind]).parameters)}"
    return next((hint for text, hint in _ERRORS.items() if text in raised), "")


_ASSERTED: Mapping[str, Mapping[str, str]] = {
    "ResidualBottleneckBlock": {"len(channels) == len(kernel_sizes)": "inner"},
    "ResNet": {
        "len(inner_channels) == len(inner_kernel_sizes)": "inner_kernel",
        "len(channels) == len(kernel_sizes)": "group_kernel",
        "len(inner_channels) > 0": "bottlenecks",
    },
}
"""The rule, by its field of Choices, that breaks an assertion of the course's template."""

_ERRORS = {
    "mat1 and mat2": "count the features that enter the MLP from the feature extractor's own output",
    "Given groups=": "every convolution takes as many channels as the one before it gives",
    "must match the size of tensor": "padding=kernel_size // 2 and stride 1 keep H and W, so that paths can be added",
}


def _difference(found: Fact | None, expected: Fact | None) -> tuple[float | None, str]:
    """Say by how much two values of a fact differ, or in what."""
    if found is None or expected is None:
        return None, f"it shows no {(found or expected or Fact('', 0)).name}"
    name, mine, its = expected.name, found.value, expected.value
    if isinstance(mine, Raised):
        return None, str(mine) if not found.name else f"the {name}: {mine}"
    if isinstance(mine, bool):
        return None, "it is left in eval mode when it is built"
    if isinstance(mine, int):
        return None, f"{units.integer(its)} {name} expected, {units.integer(mine)} found"
    if isinstance(mine, float):
        return abs(mine - its), f"the {name} is {units.distance(mine)}, expected {units.distance(its)}"
    if isinstance(mine, Tensor):
        return _apart(name, [mine], [its])
    if name == "parameters":
        return None, _shapes(mine, its)
    return _apart(name, mine, its)


def _apart(name: str, mine: Sequence[Tensor], its: Sequence[Tensor]) -> tuple[float | None, str]:
    """Say by what norm tensors differ, or how their shapes or types do."""
    for one, other in zip(mine, its, strict=False):
        if one.shape != other.shape:
            return (
                None,
                f"the {name} has the shape {units.size(tuple(one.shape))}, not {units.size(tuple(other.shape))}",
            )
        if one.dtype != other.dtype:
            return None, f"the {name} is {_dtype(one)}, not {_dtype(other)}"
    if len(mine) != len(its):
        return None, f"the {name}: {len(its)} tensors expected, {len(mine)} found"
    missed = math.hypot(*(distance(one, other) for one, other in zip(mine, its, strict=True)))
    return missed, f"the {name} differ{'' if name.endswith('s') else 's'} by {units.distance(missed)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shapes(mine: Sequence[tuple[int, ...]], its: Sequence[tuple[int, ...]]) -> str:
    """Say which shapes of parameters are missing and which are too many."""
    parts = []
    for word, shapes in (("missing", Counter(its) - Counter(mine)), ("too many", Counter(mine) - Counter(its))):
        listed = ", ".join(
            f"{units.size(shape)}{f' ({times} times)' if times > 1 else ''}" for shape, times in shapes.items()
        )
        parts += [f"{word} {listed}"] if listed else []
    counts = f"{len(its)} parameter tensors expected, {len(mine)} found"
    return f"{counts if len(mine) != len(its) else 'parameters of other shapes'} ({'; '.join(parts)})"


def _first_layer(kind: str, look: Look) -> tuple[str, str]:
    """Name the first layer that does not print as ours does, and the rule for it."""
    if isinstance(look.probe, Scored) and look.difference and look.difference[1]:
        return "", RULES[_RULE_OF[look.difference[1].name]]
    if not isinstance(look.probe, Probe):
        return "", ""
    try:
        mine, its = (_layers(built(each, look.probe.arguments)) for each in (look.builder, look.ours))
    except ANYTHING:
        return "", ""
    for name, layer, other in _paired(mine, its):
        text = f"; the first layer that differs{', ' if name else ''}{name}, is {layer}, cnnprof's is {other}"
        return text, RULES.get(_rule_of(name, layer, other), "")
    gradients_alone = look.difference is not None and look.difference[0] and look.difference[0].name == "gradients"
    return "; its layers print as cnnprof's do: look at forward", "" if gradients_alone else RULES[_RULE_OF[kind]]


def _paired(mine: Sequence[tuple[str, str]], its: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Pair the layers that differ, by how they print: a student may have names of its own, or a layer too many."""
    printed = [[layer for _, layer in layers] for layers in (mine, its)]
    for tag, start, end, others, other_end in SequenceMatcher(a=printed[0], b=printed[1], autojunk=False).get_opcodes():
        if tag != "equal":
            pairs = zip_longest(mine[start:end], printed[1][others:other_end])
            yield from ((*(own or ("", "nothing")), other or "nothing") for own, other in pairs)


def _rule_of(name: str, layer: str, other: str) -> str:
    """Name the rule that a layer breaks which is not as cnnprof's."""
    if "shortcut" in name:
        return "shortcut"
    kind = other.partition("(")[0]
    if layer.replace(", bias=False", "") == other.replace(", bias=True", ""):
        return {"Linear": "mlp_bias", "Conv2d": "bias"}.get(kind, "")
    return _RULE_OF.get(kind, "")


_RULE_OF = {
    "CNN": "flatten",
    "ResNet": "flatten",
    "ResidualBlock": "end",
    "ResidualBottleneckBlock": "end",
    "Dropout2d": "dropout",
    "BatchNorm2d": "batch_norm",
    "MaxPool2d": "pools",
    "AvgPool2d": "pools",
    "Linear": "hidden",
    "LeakyReLU": "activation",
    "Tanh": "activation",
    "ReLU": "activation",
    "output of forward": "scores",
    "output of predict_proba": "probabilities",
    "output of classify": "classes",
}
"""The rule, by its field of Choices, of a layer of ours, of a class's forward, and of a classifier's methods."""


def _layers(network: nn.Module) -> list[tuple[str, str]]:
    """List the layers without layers in them, but for those that do nothing."""
    idle = nn.Identity | nn.Sequential
    return [
        (name, repr(layer))
        for name, layer in network.named_modules()
        if not list(layer.children()) and not isinstance(layer, idle)
    ]
