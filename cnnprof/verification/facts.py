"""What can be seen of a builder from outside, fact by fact, in an order in which the first difference tells most.

The student's facts, ours and those of every variant are compared one by one, so that what differs early costs little.
"""

import copy
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cnnprof.errors import said

Builder = Callable[..., Any]

SEED = 42
"""The course's; other networks take another one, so that a seed set by a student's own code is met."""
TOLERANCE = 1e-4
"""Of a difference's norm, beside 1 + the norm: sums taken in another order stay a hundred times below it."""
ANYTHING = (Exception, SystemExit, KeyboardInterrupt)
"""What a student's code may raise and is told of."""


class Fact(NamedTuple):
    """One thing seen: a number, shapes, tensors, or what was raised."""

    name: str
    value: Any


@dataclass(frozen=True)
class Raised:
    """What was raised in place of an answer, and the student's line that did it."""

    text: str
    where: str = field(default="", compare=False)
    asserted: bool = field(default=False, compare=False)
    """A student's own assertion: without it Python would raise, in other words."""
    by_torch: bool = field(default=False, compare=False)
    """A RuntimeError: shapes that do not fit."""
    unwritten: bool = field(default=False, compare=False)
    """A template's NotImplementedError that is still there."""

    @classmethod
    def of(cls, error: BaseException) -> "Raised":
        """Tell an error in one line, with no one's home folder in it."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames if not _is_library(each.filename)]
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        by_student = bool(own) and own[-1] is frames[-1]
        if by_student and isinstance(error, NotImplementedError):
            return cls(f"not written yet, line {own[-1].lineno} of {Path(own[-1].filename).name}", unwritten=True)
        asserted = by_student and isinstance(error, AssertionError)
        text = f"AssertionError: {own[-1].line}" if asserted and not str(error) else said(error)
        return cls(text.replace(str(Path.home()), "~"), where, asserted, isinstance(error, RuntimeError))

    def __str__(self) -> str:
        """RuntimeError: it does not fit, at my_cnn.py:34."""
        return f"{self.text}, at {self.where}" if self.where else self.text


_LIBRARIES = (sysconfig.get_path("stdlib"), str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def _is_library(file: str) -> bool:
    """Say whether a line is Python's, an installed package's or ours, not a student's."""
    installed = {"site-packages", "dist-packages"}.intersection(Path(file).parts)
    return bool(installed) or file.startswith(("<frozen", *(f"{folder}{os.sep}" for folder in _LIBRARIES)))


def told(facts: Iterator[Fact]) -> Iterator[Fact]:
    """Pass facts on; the last one is what was raised, if anything."""
    try:
        yield from facts
    except ANYTHING as error:
        yield Fact("", Raised.of(error))


# Making and feeding --------------------------------------------------------------------------------------------------


def built(builder: Builder, arguments: Mapping[str, Any], seed: int = SEED) -> nn.Module:
    """Build from copies of the arguments, whatever a student's code did to torch's settings before.

    Running statistics are those of a new network: the course leaves open how features are counted, and a pass in train
    mode, which moves them, is a remark of its own.
    """
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.manual_seed(seed)
    network = _construct(builder, arguments)
    for norm in _moved_norms(network):
        norm.reset_running_stats()
    return network


def count_moved_norms(builder: Builder, arguments: Mapping[str, Any]) -> int:
    """Count the batch norms whose running statistics passes in train mode move while a network is built."""
    return len(_moved_norms(_construct(builder, arguments)))


def _construct(builder: Builder, arguments: Mapping[str, Any]) -> nn.Module:
    network = builder(**copy.deepcopy(dict(arguments)))
    if not isinstance(network, nn.Module):
        raise TypeError(f"it built {type(network).__name__}; an nn.Module was expected")
    if any(isinstance(each, nn.parameter.UninitializedParameter) for each in network.parameters()):
        raise TypeError("lazy layers draw their parameters in the first forward pass; give in_features")
    return network


def _moved_norms(network: nn.Module) -> list[_NormBase]:
    norms = [each for each in network.modules() if isinstance(each, _NormBase)]
    return [each for each in norms if each.num_batches_tracked is not None and each.num_batches_tracked > 0]


def output(call: Callable[[Tensor], Any], image: Tensor) -> Tensor:
    """Call with a copy of the image, and check that a tensor comes back."""
    given = call(image.clone())
    if not isinstance(given, Tensor):
        raise TypeError(f"it returned {type(given).__name__}; a tensor was expected")
    return given


def in_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Sort copies of tensors by shape and first values: in which order a network registers them is its own business."""
    copies = [each.detach().clone() for each in tensors]
    return sorted(copies, key=lambda each: (tuple(each.shape), each.flatten()[:2].tolist()))


@dataclass(frozen=True)
class Weights:
    """A network's first values, to be put into another one of the same shapes."""

    parameters: Sequence[Tensor]
    buffers: Sequence[Tensor]

    @classmethod
    def of(cls, network: nn.Module) -> "Weights":
        """Copy a network's values."""
        return cls(*([each.detach().clone() for each in kind] for kind in (network.parameters(), network.buffers())))

    def put_into(self, network: nn.Module) -> None:
        """Overwrite a network's values. Raises ValueError and RuntimeError where it has others."""
        with torch.no_grad():
            for parameter, given in zip(network.parameters(), self.parameters, strict=True):
                parameter.copy_(given)
            for buffer, given in zip(network.buffers(), self.buffers, strict=True):
                buffer.copy_(given)


# What is looked at ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A small network and the maps (C, H, W) that it is fed, two at a time."""

    arguments: Mapping[str, Any]
    maps: tuple[int, ...]

    def facts(self, builder: Builder, weights: Weights | None = None) -> Iterator[Fact]:
        """Tell what it shows, from shapes to gradients; with `weights`, of those in place of its own."""
        network = built(builder, self.arguments, SEED + 2)
        yield Fact("parameters", sorted(tuple(each.shape) for each in network.parameters()))
        if weights is None:
            yield Fact("initial values", in_order(network.parameters()))
            yield Fact("buffers", in_order(network.buffers()))
            yield Fact("next random number", torch.rand(1))
        else:
            weights.put_into(network)
        yield Fact("train mode when built", all(module.training for module in network.modules()))
        image = torch.rand(2, *self.maps, generator=torch.Generator().manual_seed(SEED)) * 4 - 1
        torch.manual_seed(SEED)
        yield Fact("eval-mode output", output(network.eval(), image).detach())
        torch.manual_seed(SEED)
        scores = output(network.train(), image)
        yield Fact("train-mode output", scores.detach())
        yield Fact("running statistics", in_order(network.buffers()))
        torch.manual_seed(SEED)
        yield Fact("eval-mode output after a training pass", output(network.eval(), image).detach())
        if not scores.requires_grad:
            raise RuntimeError("no gradient reaches the parameters: the output is detached from them")
        parameters = [each for each in network.parameters() if each.requires_grad]
        gradients = torch.autograd.grad(scores.square().sum(), parameters, allow_unused=True)
        yield Fact("gradients", in_order(each for each in gradients if each is not None))

    def weights(self, builder: Builder) -> Weights:
        """Return what a builder draws."""
        return Weights.of(built(builder, self.arguments, SEED + 2))


DRAWN = ("initial values", "buffers", "next random number")
"""Facts that change with the random numbers that were drawn, not with what is computed."""


@dataclass(frozen=True)
class Protocol:
    """One of the course's networks, as the course runs it: seed 42, the network, then an image from the same stream."""

    network: Mapping[str, Any]

    def facts(self, builder: Builder) -> Iterator[Fact]:
        """Tell the course's numbers, and what stands for those that no current torch can give."""
        arguments = self.network["arguments"]
        network = built(builder, arguments)
        parameters = list(network.parameters())
        yield Fact("parameter tensors", len(parameters))
        yield Fact("parameters", sum(each.numel() for each in parameters))
        yield Fact("sum of the parameters", sum(each.double().sum().item() for each in parameters))
        channels = arguments.get("in_channels") or arguments.get("in_out_channels")
        maps = (channels, 16, 16) if channels else arguments["in_size"]
        image = torch.randint(0, 256, tuple(maps), dtype=torch.float).unsqueeze(0)
        with torch.no_grad():
            yield Fact("output", output(network.train(), image))
            if "output" not in self.network:
                yield Fact("eval-mode output", output(network.eval(), image))

    def expected(self, ours: Builder) -> Iterator[Fact]:
        """Tell the course's numbers, and ours where the course's cannot be had."""
        names = {"parameter tensors": "parameter_tensors", "sum of the parameters": "parameter_sum"}
        for fact in self.facts(ours):
            listed = self.network.get(names.get(fact.name, fact.name), fact.value)
            yield Fact(fact.name, torch.tensor([listed]) if isinstance(listed, list) else listed)


@dataclass(frozen=True)
class Scored:
    """Scores (6, 5) for a classifier, as large as `scale`."""

    scale: float

    def facts(self, builder: Builder) -> Iterator[Fact]:
        """Tell what its three methods give; one that raises leaves the others to be seen."""
        scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(SEED)) * self.scale
        classifier = built(builder, {"model": nn.Identity()})
        for name in ("forward", "predict_proba", "classify"):
            try:
                method = classifier if name == "forward" else getattr(classifier, name)
                yield Fact(f"output of {name}", output(method, scores).detach())
            except ANYTHING as error:
                yield Fact(f"output of {name}", Raised.of(error))


# Comparing -----------------------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Say whether two values of a fact are equal, tensors and sums within TOLERANCE.

    An assertion equals any error of Python's own, such as the IndexError that it comes before.
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return distance(one, other) <= TOLERANCE * (1 + float(other.double().nan_to_num().norm()))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE * (1 + abs(other))
    if isinstance(one, Raised) and isinstance(other, Raised):
        return one == other or (one.asserted and not other.by_torch) or (other.asserted and not one.by_torch)
    return bool(one == other)


def distance(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference of two tensors of one shape; NaN counts as 0."""
    return float((one.double().nan_to_num() - other.double().nan_to_num()).norm())


def agree(facts: Iterable[Fact], others: Iterable[Fact]) -> bool:
    """Say whether two builders show the same facts."""
    return first_difference(facts, others) is None


def first_difference(facts: Iterable[Fact], others: Iterable[Fact]) -> tuple[Fact | None, Fact | None] | None:
    """Return the first facts that differ; None where one of both has no more."""
    return next(((one, other) for one, other in zip_longest(facts, others) if not same_fact(one, other)), None)


def same_fact(one: Fact | None, other: Fact | None) -> bool:
    """Say whether two facts are one."""
    return one is not None and other is not None and one.name == other.name and same(one.value, other.value)
