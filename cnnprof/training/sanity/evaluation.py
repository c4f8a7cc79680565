"""Whether a trained network does as well in evaluation mode, on the same images, once statistics had time."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from cnnprof import units
from cnnprof.errors import NotFiniteError, said
from cnnprof.inputs import tensors_in
from cnnprof.records import Check
from cnnprof.training.sanity.fit import COURSE_BATCH, FEW, LOW, Fit
from cnnprof.training.sanity.samples import ROUNDING, difference
from cnnprof.training.sanity.trial import NO_LABELS, Batch, OutOfTimeError, Trial, all_scores, check, listed, named

NAME = "evaluation"
LOST = 0.1
"""Share of images: of 16 more than one. Healthy networks of torchvision and timm at 32x32 lost one at most."""
ABOVE = 0.2
"""Nats above the loss in training mode, or above a learned one: fails where a norm is seen that is to blame.
Alone it is no fault: where maps are 1x1, healthy networks lost up to 2, for variances are those of 16 numbers."""
SURE = 10.0
"""The score of a class where classes are given in place of scores: the loss is then 10 for each image that is wrong."""
PASSES, MORE_PASSES = 20, 60
"""In training mode, without steps: statistics become those of the weights. Norms by hand may need more."""
ROUNDS, FALLS = 10, 0.98
"""More passes are taken as often, while the loss in evaluation falls by a fiftieth or more."""
SOON = 10_000
"""Steps, ten epochs of 50,000 images: norms whose statistics follow by 90 % within them are brought up to date."""
LEAST = 1 - 0.1 ** (1 / SOON)
"""The momentum that does so: 2.3e-4. The lowest of a published network is the 3e-4 of torchvision's MNASNet."""
QUICK = 0.25
"""The momentum of the passes, where a norm's own is lower."""


MOST_CLASSES = 1000


@dataclass(frozen=True)
class Mode:
    """A network's outputs for the images that it learned, in one mode."""

    outputs: list[Tensor]
    right: float
    """Share of the images."""
    loss: float

    def __str__(self) -> str:
        """Say the share and the loss: 100 %, loss 0.38."""
        return f"{units.percent(self.right, 0)} % (loss {units.decimal(self.loss, 2)})"


def evaluated(trial: Trial, fit: Fit | None) -> Check:
    """Ask whether a network that learned gets the same images right in evaluation mode.

    Raises OutOfTimeError, and NotFiniteError.
    """
    if fit is None:
        return check(NAME, "skipped", None, NO_LABELS)
    if fit.undecided:
        raise OutOfTimeError
    if not fit.learned:
        return check(NAME, "skipped", None, "it does not learn")
    network, few = fit.network, trial.few(FEW, COURSE_BATCH) if trial.course else [trial.batches[0]]
    try:
        evaluating = _passed(network.eval(), few)
    except (NotFiniteError, OutOfTimeError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's model may raise anything
        return check(NAME, "failed", None, f"in evaluation mode it stopped: {said(error)}", "it cannot be tested so")
    if evaluating is None:
        return check(NAME, "warning", None, "in evaluation mode it gives no scores: the modes cannot be compared")
    training = _passed(network.train(), few)
    if training and not _differ(training, evaluating):
        return check(NAME, "ok", 100 * evaluating.right, "both modes give the same scores")
    return _compare(trial, network, few)


def _compare(trial: Trial, network: nn.Module, few: Sequence[Batch]) -> Check:
    if _by_chance(network.eval(), few) and not _by_chance(network.train(), few):
        message = "in evaluation mode alone scores are drawn by chance: the same images, twice, differ"
        return check(NAME, "failed", None, message, "is it the wrong way round, training=not self.training?")
    training, evaluating = _settled(trial, network, few)
    message = f"of the same images {training} are right in training mode, {evaluating} in evaluation"
    to_blame = _norms_to_blame(network, few) if evaluating.loss > max(training.loss, LOW) + ABOVE else ""
    if not to_blame and not _lost(training, evaluating):
        return check(NAME, "ok", 100 * evaluating.right, message)
    return check(NAME, "failed", 100 * evaluating.right, message, to_blame or UNKNOWN)


UNKNOWN = "does forward compute otherwise where self.training is False, or is a statistic never updated?"


def _settled(trial: Trial, network: nn.Module, few: Sequence[Batch]) -> tuple[Mode, Mode]:
    """Return both modes when statistics have followed the weights. Raises OutOfTimeError."""
    _settle(trial, network, few, 1, 1.0)  # nothing of what they were at the start
    _settle(trial, network, few, PASSES, QUICK)
    training, evaluating = _both(network, few)
    for _ in range(ROUNDS):
        if not _lost(training, evaluating):
            break
        before = evaluating.loss
        _settle(trial, network, few, MORE_PASSES, QUICK)
        training, evaluating = _both(network, few)
        if evaluating.loss > FALLS * before:
            break
    return training, evaluating


def _lost(training: Mode, evaluating: Mode) -> bool:
    return training.right - evaluating.right > LOST


def _both(network: nn.Module, few: Sequence[Batch]) -> tuple[Mode, Mode]:
    training, evaluating = (_passed(network.train(mode), few) for mode in (True, False))
    assert training is not None
    assert evaluating is not None
    return training, evaluating


def _passed(network: nn.Module, few: Sequence[Batch]) -> Mode | None:
    """Pass images without a step; None where no scores come, nor classes. Raises NotFiniteError."""
    labels = torch.cat([each for _, each in few])
    with torch.no_grad():
        outputs = [_scores_in(network(images)) for images, _ in few]
    scores = [each for each in outputs if each is not None]
    if len(scores) < len(outputs):
        return None
    whole = torch.cat(scores)
    if not whole.isfinite().all():
        raise NotFiniteError(f"an output in {'training' if network.training else 'evaluation'} mode")
    right = float((whole.argmax(1) == labels).float().mean())
    return Mode(scores, right, float(F.cross_entropy(whole.log() if _probabilities(whole) else whole, labels)))


def _probabilities(scores: Tensor) -> bool:
    return bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < ROUNDING).all())


def _scores_in(output: Any) -> Tensor | None:
    """Return the scores (N, K) in an output, or those of its classes (N,)."""
    if found := all_scores(output):
        return found[0].float()
    classes = next((each for each in tensors_in(output) if each.ndim == 1 and each.dtype == torch.int64), None)
    return None if classes is None else SURE * F.one_hot(classes, MOST_CLASSES).float()


def _by_chance(network: nn.Module, few: Sequence[Batch]) -> bool:
    """Say whether the same images, twice, get other scores."""
    one, other = (_passed(network, few[:1]) for _ in range(2))
    return one is not None and other is not None and _differ(one, other)


def _differ(one: Mode, other: Mode) -> bool:
    pairs = zip(one.outputs, other.outputs, strict=True)
    return any(difference(first, second) > ROUNDING for first, second in pairs)


def _settle(trial: Trial, network: nn.Module, few: Sequence[Batch], passes: int, momentum: float) -> None:
    """Bring statistics up to the weights, as many steps would. Raises OutOfTimeError."""
    network.train()
    norms = [(norm, norm.momentum) for _, norm in _norms(network) if norm.momentum and norm.momentum >= LEAST]
    for norm, own in norms:
        norm.momentum = max(own, momentum)
    try:
        with torch.no_grad():
            for images, _ in islice(cycle(few), passes):
                trial.check_time()
                network(images)
    finally:
        for norm, own in norms:
            norm.momentum = own


def _norms(network: nn.Module) -> Iterator[tuple[str, _NormBase]]:
    return ((path, each) for path, each in network.named_modules() if isinstance(each, _NormBase))


def _norms_to_blame(network: nn.Module, few: Sequence[Batch]) -> str:
    """Name the norms to blame: those whose statistics lag, or come from several places."""
    slow = {path: norm.momentum for path, norm in _norms(network) if norm.momentum and norm.momentum < LEAST}
    if slow:
        steps = units.integer(round(math.log(0.1) / math.log1p(-max(slow.values()))))
        return f"the statistics of {listed([*slow])} follow by 90 % after {steps} steps: raise the momentum"
    calls = Counter(_called(network, few[0][0]))
    often = [f"{named(path)} {number} times" for path, number in calls.items() if number > 1]
    if often:
        return f"a pass calls {listed(often)}, and its statistics fit no place: give each place a norm of its own"
    return ""


def _called(network: nn.Module, images: Tensor) -> list[str]:
    """Return the norms that a pass calls, once a call."""
    called: list[str] = []
    hooks = [
        norm.register_forward_pre_hook(lambda module, inputs, path=path: called.append(path))
        for path, norm in _norms(network)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return called
