"""What passes a network: its first scores and their loss, rectifiers that never fire, differences and gradients."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprof import units
from cnnprof.records import Check
from cnnprof.training.sanity.fit import Fit
from cnnprof.training.sanity.moves import Moved
from cnnprof.training.sanity.trial import (
    NO_LABELS,
    Batch,
    OutOfTimeError,
    Trial,
    check,
    listed,
    main_scores,
    not_finite_gradient,
)
from cnnprof.training.sanity.watch import Rectifier, Watch


@dataclass(frozen=True)
class Start:
    """What one pass over all batches shows before anything is learned."""

    scores: Tensor | None
    """Of all images; None where the network has a loss of its own."""
    relus: Mapping[str, Rectifier]
    not_finite: str
    """The first place at which a number is none; empty where all are."""


def started(trial: Trial) -> Start:
    """Pass all batches, the first one back, too."""
    network = trial.network()
    first, *others = trial.batches
    with Watch(network, layers=False) as watch:
        loss, output = trial.passed(network, first)
    not_finite = watch.not_finite or ("" if math.isfinite(loss) else "the loss") or not_finite_gradient(network)
    outputs = [output, *_outputs(network, watch, others)]
    scores = None if trial.loss is not None else torch.cat([main_scores(each).detach() for each in outputs])
    return Start(scores, watch.relus, not_finite or watch.not_finite)


def _outputs(network: nn.Module, watch: Watch, batches: Iterable[Batch]) -> list[Any]:
    outputs = []
    with torch.no_grad():
        for images, _ in batches:
            with watch:
                outputs.append(network(images))
    return outputs


def at_start(trial: Trial, start: Start) -> Iterator[Check]:
    """Ask whether all classes are as likely at first, and whether scores are raw."""
    if start.scores is None:
        yield check("loss at start", "skipped", None, NO_LABELS)
        yield check("raw scores", "skipped", None, NO_LABELS)
        return
    labels = torch.cat([each for _, each in trial.batches])
    yield _loss_at_start(float(F.cross_entropy(start.scores, labels)), start.scores.shape[1])
    yield _raw_scores(start.scores)


TOLERATED, TOO_MUCH = 1.0, 10.0
"""Nats above ln K. Scores that are normal with deviation s cost about s*s/2 more: 1.0 is s = 1.4, 10 is s = 4.5. Of the
healthy networks that were tried at 32 to 64 pixels none costs more than 1 above."""


def _loss_at_start(loss: float, classes: int) -> Check:
    expected = math.log(classes)
    message = f"{units.decimal(loss, 2)}, ln {units.integer(classes)} = {units.decimal(expected, 2)}"
    above = loss - expected
    if -TOLERATED <= above <= TOLERATED:
        return check("loss at start", "ok", loss, message)
    if above < 0:
        return check("loss at start", "warning", loss, message, "it knows the answers already: is it trained?")
    hint = "scores are large before anything is learned: scale the last layer's initial weights, or the images, down"
    return check("loss at start", "failed" if above > TOO_MUCH else "warning", loss, message, hint)


def _raw_scores(scores: Tensor) -> Check:
    sums, log_sums = scores.sum(1), scores.exp().sum(1)
    if bool((scores >= 0).all()) and _near_1(sums):
        hint = "cross-entropy takes raw scores and has a softmax of its own: leave the network's out"
        return check("raw scores", "failed", 1.0, "each image's are positive and sum to 1: probabilities", hint)
    if _near_1(log_sums):
        hint = (
            "cross-entropy applies one of its own, which changes nothing here: leave the network's out, or use NLLLoss"
        )
        return check("raw scores", "warning", 1.0, "they are logarithms of probabilities", hint)
    if bool((scores >= 0).all()) and bool(scores.any()):
        hint = "is there a sigmoid or a ReLU behind the last layer? cross-entropy takes raw scores: leave it out"
        return check("raw scores", "warning", 0.0, "none is below 0", hint)
    return check("raw scores", "ok", float(sums.mean()), "they are no probabilities")


def _near_1(sums: Tensor) -> bool:
    return torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=1e-3)


def dead_relus(trial: Trial, start: Start, fit: Fit | None) -> Check:
    """Ask whether every rectified unit fires for some image, at the start and behind what was learned."""
    name = "dead ReLUs"
    if not start.relus:
        return check(name, "skipped", None, "the network has none")
    seen = units.integer(sum(len(labels) for _, labels in trial.batches))
    dead = [key for key, relu in start.relus.items() if relu.held_back and not relu.fired.any()]
    silent = {key: int((~relu.fired).sum()) for key, relu in start.relus.items()}
    if dead:
        message = f"no unit of {listed(dead)} fires for any of {seen} images"
        hint = "is a bias far below 0, or the layer before it negative?"
        return check(name, "failed", float(sum(silent.values())), message, hint)
    died = _died(trial, start, fit)
    number = sum(silent.values()) + sum(died.values())
    if any(died.values()):
        message = f"{units.plural(sum(died.values()), 'unit')} died while it learned, {_worst(died, start)} among them"
        return check(name, "warning", float(number), message, "lower the learning rate?")
    if number:
        message = f"{_worst(silent, start)} never fired for {seen} images, {units.plural(number, 'unit')} in all"
        return check(name, "warning", float(number), message, "few, at the start, are common; are its biases low?")
    return check(name, "ok", 0.0, f"all units of {units.plural(len(start.relus), 'rectifier')} fire")


def _died(trial: Trial, start: Start, fit: Fit | None) -> dict[str, int]:
    """Count the units that fired at the start, and do not behind what was learned."""
    if fit is None or fit.not_finite:
        return {}
    watch = Watch(fit.network, layers=False)
    _outputs(fit.network, watch, trial.batches)
    pairs = ((key, relu.fired, start.relus[key].fired) for key, relu in watch.relus.items() if key in start.relus)
    return {key: int((~now & before).sum()) for key, now, before in pairs if now.shape == before.shape}


def _worst(silent: Mapping[str, int], start: Start) -> str:
    worst = max(silent, key=silent.__getitem__)
    return f"{silent[worst]} of {units.integer(len(start.relus[worst].fired))} units of {worst}"


FLAT, STEEP, ALIKE = 1e-5, 1e5, 1e-3
"""Gradients at the first layer over those at the last, and the share of what the last gets that differs between images.
Of 35 healthy networks that were tried at 32 to 64 pixels the first lie between 0.001 and 2,000 and the second above
0.05; 30 convolutions with PyTorch's initialisation and no norm between them have 1e-14 and 1e-8."""


def depth(moved: Moved, fit: Fit | None) -> Check:
    """Ask whether differences between images reach the last layer, and gradients the first. Raises OutOfTimeError."""
    name = "depth"
    gradients = [each.gradient for each in moved.norms if each.gradient is not None]
    if len(gradients) < 2:
        return check(name, "skipped", None, "fewer than two layers with weights get a gradient")
    if not gradients[0] or not gradients[-1]:
        return check(name, "skipped", None, "a layer's gradient is 0: see what moves, and what is dead")
    ratio = gradients[0] / gradients[-1]
    contrast = next(each.contrast for each in reversed(moved.norms) if each.gradient is not None)
    message = f"over {units.plural(len(gradients), 'layer')} gradients change {units.short(ratio)}x on their way back"
    message += f", images differ by {units.short(100 * contrast)} % before the last"
    if FLAT < ratio < STEEP and contrast > ALIKE:
        return check(name, "ok", ratio, message)
    hint = (
        "put norms between the layers, or skips around them, or initialise for the activation: nn.init.kaiming_normal_"
    )
    if fit is not None and fit.undecided:
        raise OutOfTimeError
    learns = fit is None or fit.learned
    word = "they vanish: " if ratio <= FLAT else "they explode: " if ratio >= STEEP else "images look alike: "
    return check(name, "warning" if learns else "failed", ratio, word + message, hint)
