"""Whether every parameter gets a gradient and moves, in a few steps of Adam."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from cnnprof import units
from cnnprof.records import Check, LayerNorms
from cnnprof.training.sanity.fit import Fit
from cnnprof.training.sanity.trial import OutOfTimeError, Trial, adam, check, listed, not_finite_gradient
from cnnprof.training.sanity.watch import Watch

NAME = "all parameters move"
STEPS = 6
"""At most, until every parameter has moved: what lies behind a gain that starts at zero moves from the second on."""
FELT = 1e-6
"""A gradient well above Adam's epsilon, 1e-8: what it belongs to is moved by a step."""
ALIKE = 1e-5
"""Of a weight: rows that differ by less do so by rounding."""


@dataclass(frozen=True)
class Moved:
    """A network after a few steps, in which gains that start at zero have moved."""

    check: Check
    network: nn.Module
    norms: tuple[LayerNorms, ...] = ()
    steps: int = 0
    not_finite: str = ""
    at_zero: bool = False
    """All parameters are used; the gradients of some are 0."""
    rounds: bool = False
    """Gradients end at whole numbers."""
    still: frozenset[str] = frozenset()
    """Parameters and buffers that are after all steps what they were after the first pass."""


def moved(trial: Trial) -> Moved:
    """Ask whether every parameter gets a gradient and moves."""
    network = trial.network()
    largest = {name: -1.0 for name, each in network.named_parameters() if each.requires_grad}  # no gradient at all yet
    optimizer = adam(network, 1e-3)
    first: dict[str, Tensor] = {}
    for step in range(1, STEPS + 1):
        loss, _ = trial.passed(network, trial.batches[step % len(trial.batches)])
        first = first or {name: each.detach().clone() for name, each in _state(network)}
        optimizer.step()
        if place := not_finite_gradient(network) if math.isfinite(loss) else "the loss":
            return Moved(check(NAME, "skipped", None, NOT_FINITE), network, (), step, f"{place}, in step {step}")
        for name, each in network.named_parameters():
            if each.grad is not None and name in largest:
                largest[name] = max(largest[name], float(each.grad.abs().max()))
        if step > 1 and min(largest.values()) > 0:
            break
    with Watch(network) as watch:
        trial.passed(network, trial.batches[0])
    still = frozenset(name for name, each in _state(network) if name in first and torch.equal(each, first[name]))
    found = _all_move(network, largest, still, watch.ended)
    at_zero = min(largest.values()) == 0
    return Moved(found, network, tuple(watch.norms()), step, "", at_zero, _rounds(watch.ended), still)


NOT_FINITE = "numbers are not finite"


def _state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(network.named_parameters(), network.named_buffers())


def _all_move(network: nn.Module, largest: Mapping[str, float], still: frozenset[str], ended: str) -> Check:
    place = f"; gradients end at {ended}" if ended else ""
    whole = "whole numbers have no slope: leave them out of what is trained" if _rounds(ended) else ""
    kept = [name for name in largest if largest[name] > FELT and name in still]
    reasons = {
        f"no gradient reaches {{}}{place}": (
            [name for name, gradient in largest.items() if gradient < 0],
            whole or "is it used in forward, and is nothing detached or under no_grad?",
        ),
        f"the gradient of {{}} is 0{place}": (
            [name for name, gradient in largest.items() if gradient == 0],
            whole or "are weights initialised to zero, or multiplied by zero, or what they get?",
        ),
        "{} gets a gradient and stays as it is": (kept, "is it set anew in forward?"),
        "the units of {} stay alike": (
            [name for name in _alike(network) if largest.get(name, 0) > 0 and name not in kept],
            "all its rows are the same and learn the same: initialise them at random",
        ),
    }
    found = {words.format(listed(names)): hint for words, (names, hint) in reasons.items() if names}
    move = len(largest) - sum(len(names) for names, _ in reasons.values())
    message = f"{move} of {units.plural(len(largest), 'tensor')}{': ' if found else ''}{'; '.join(found)}"
    hint = " ".join(dict.fromkeys(found.values()))
    return check(NAME, "failed" if found else "ok", float(move), message + _frozen(network), hint)


def _rounds(ended: str) -> bool:
    return bool(ended) and not ended.startswith("detach")


def _frozen(network: nn.Module) -> str:
    frozen = {name: each.numel() for name, each in network.named_parameters() if not each.requires_grad}
    count = f"{units.plural(sum(frozen.values()), 'parameter')} in {units.plural(len(frozen), 'tensor')}"
    return f"; frozen: {count}, {listed([*frozen])}" if frozen else ""


def _alike(network: nn.Module) -> Iterator[str]:
    """Yield the weights whose rows are all the same: they get the same gradients, and stay so."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and len(module.weight) > 1:
            apart = (module.weight - module.weight[:1]).abs().max()
            if apart <= ALIKE * module.weight.abs().max():
                yield f"{path}.weight".lstrip(".")


def excused(found: Moved, fit: Fit | None, heard: bool) -> Check:
    """Warn alone of gradients of 0 in a network that learns and hears the image: attention over one place has such.

    Raises OutOfTimeError.
    """
    if found.check.status != "failed" or not found.at_zero or fit is None or not heard:
        return found.check
    if fit.undecided:
        raise OutOfTimeError
    if not fit.learned:
        return found.check
    hint = "is a map 1x1 there, so that attention has nothing to choose from? a larger --input-size tells"
    return replace(found.check, status="warning", hint=hint)
