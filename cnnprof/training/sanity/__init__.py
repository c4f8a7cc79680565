"""Whether a network can learn at all: some ten questions, each with its number and a hint. Knows no models.

Most questions are put to a network of their own, so that none spoils it for the next. A consequence of a failure is a
warning that names it: one cause fails one check.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprof import units
from cnnprof.errors import NotFiniteError, UsageError, first_line, said
from cnnprof.inputs import tensors_in
from cnnprof.records import Check, LayerNorms
from cnnprof.training.checkpoints import RandomState
from cnnprof.training.sanity import evaluation, moves, samples, signals, unregistered
from cnnprof.training.sanity.fit import COURSE_RATE, IN_A_BATCH, IN_COURSE, RATES, Fit, fitted, overfits, shuffled
from cnnprof.training.sanity.moves import NOT_FINITE, Moved
from cnnprof.training.sanity.reshapes import Reshapes
from cnnprof.training.sanity.signals import Start
from cnnprof.training.sanity.trial import BATCH, OutOfTimeError, Trial, all_scores, check, trained
from cnnprof.training.sanity.watch import Watch

__all__ = ["BATCH", "COURSE_RATE", "RATES", "Findings", "Trial", "classes_of", "examine", "norms"]


@dataclass(frozen=True)
class Findings:
    """What the questions brought to light."""

    checks: tuple[Check, ...]
    norms: tuple[LayerNorms, ...]
    not_asked: tuple[str, ...] = ()
    """Checks that no time was left for."""


def examine(
    trial: Trial, progress: Callable[[float], None] = lambda share: None, given: nn.Module | None = None
) -> Findings:
    """Put every question; random states are afterwards as they were before.

    `given` is the module that the trial copies; it is looked at alone.
    Raises what the network raises while it is trained; what raises elsewhere is skipped, with the reason.
    """
    with _quietly():
        start = signals.started(trial)
        progress(0.1)
        if start.not_finite:
            finite = _not_finite(f"{start.not_finite}, at the start")
            return Findings(tuple(_all_but(finite, NOT_FINITE)), ())
        registered = _asked(unregistered.NAME, lambda: unregistered.registered(trial, given))
        try:
            moved = moves.moved(trial)
            progress(0.2)
            fit = fitted(trial)
            progress(0.7)
        except (Exception, SystemExit) as error:  # a user's model may raise anything
            if registered is None or registered.status != "failed":
                raise
            return Findings(tuple(_all_but(registered, f"the network stopped: {said(error)}")), ())
        answers = {unregistered.NAME: registered, **_answers(trial, start, moved, fit)}
        progress(1.0)
        not_asked = tuple(name for name in ORDER if name in answers and answers[name] is None)
        found = [answer or check(name, "skipped", None, NO_TIME) for name, answer in answers.items()]
        rounds = moved.rounds and moves.NAME in (each.name for each in found if each.status == "failed")
        checks = _without_consequences(found, ROUNDED if rounds else FOLLOWS)
        return Findings(tuple(checks), moved.norms, not_asked)


NO_TIME = "not asked: no time was left"


def _answers(trial: Trial, start: Start, moved: Moved, fit: Fit | None) -> Mapping[str, Check | None]:
    """Answer the questions about passes and fits; None where no time was left."""
    independent = _asked("samples independent", lambda: samples.independent(trial, moved.network))
    heard = independent is not None and independent.message != samples.NOT_HEARD
    questions: Mapping[str, Callable[[], Check]] = {
        IN_COURSE if trial.course else IN_A_BATCH: lambda: overfits(trial, fit),
        moves.NAME: lambda: moves.excused(moved, fit, heard),
        "finite": lambda: _finite(moved, fit),
        "dead ReLUs": lambda: signals.dead_relus(trial, start, fit),
        "depth": lambda: signals.depth(moved, fit),
        "shuffled labels": lambda: shuffled(trial, fit),
        "deterministic": lambda: samples.deterministic(trial),
        evaluation.NAME: lambda: evaluation.evaluated(trial, fit),  # the last: statistics of what was fitted change
    }
    at_start = {each.name: each for each in (*signals.at_start(trial, start), samples.batch_norm(moved))}
    answers = {name: _asked(name, question) for name, question in questions.items()}
    return {**at_start, "samples independent": independent, **answers}


def norms(trial: Trial) -> tuple[LayerNorms, ...]:
    """Measure what passes the layers with weights before any step: activations, and gradients of the loss."""
    with _quietly():
        network = trial.network()
        with Watch(network) as watch:
            trial.passed(network, trial.batches[0])
        return tuple(watch.norms())


def _quietly() -> AbstractContextManager[object]:
    stack = ExitStack()
    stack.enter_context(RandomState.kept())
    stack.enter_context(torch.enable_grad())
    stack.enter_context(warnings.catch_warnings(action="ignore"))
    return stack


def _asked(name: str, ask: Callable[[], Check]) -> Check | None:
    try:
        return ask()
    except OutOfTimeError:
        return None
    except NotFiniteError as error:
        return check(name, "skipped", None, f"{NOT_FINITE}: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's model may raise anything
        return check(name, "skipped", None, f"the network stopped: {said(error)}")


# What is finite ------------------------------------------------------------------------------------------------------


def _finite(moved: Moved, fit: Fit | None) -> Check:
    """Ask whether all numbers were finite in the steps that were run. Raises OutOfTimeError."""
    if moved.not_finite:
        return _not_finite(moved.not_finite)
    if fit and fit.not_finite and fit.undecided:
        raise OutOfTimeError
    if fit and fit.not_finite:
        gentler = fit.learned
        message = f"first not finite: {fit.not_finite}" + ("; at a gentler rate all are" if gentler else "")
        return check("finite", "warning" if gentler else "failed", None, message, "lower the learning rate")
    steps = moved.steps + (fit.steps if fit else 0)
    return check("finite", "ok", float(steps), f"no NaN, no Inf in {units.plural(steps, 'step')}")


def _not_finite(place: str) -> Check:
    hint = "look there for a division by 0, a logarithm or a root of what is not above 0, or an exponential"
    return check("finite", "failed", None, f"first not finite: {place}", hint)


def _all_but(found: Check, why: str) -> Iterator[Check]:
    """Skip all questions but one: a network that makes NaN, or stops, answers none."""
    for name in ORDER:
        if name == found.name:
            yield found
        elif name != IN_COURSE:
            yield check(name, "skipped", None, why)


# What follows from what ----------------------------------------------------------------------------------------------

OVERFITS = (IN_COURSE, IN_A_BATCH)
ORDER = (
    "loss at start",
    "raw scores",
    *OVERFITS,
    unregistered.NAME,
    moves.NAME,
    "samples independent",
    "batch norm",
    "finite",
    "dead ReLUs",
    "depth",
    "shuffled labels",
    evaluation.NAME,
    "deterministic",
)
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    unregistered.NAME: (*OVERFITS, moves.NAME, "samples independent", "depth", "deterministic", evaluation.NAME),
    "dead ReLUs": (*OVERFITS, moves.NAME, "depth"),
    moves.NAME: (*OVERFITS, "depth"),
    "depth": OVERFITS,
    "loss at start": OVERFITS,
    "raw scores": OVERFITS,
    "samples independent": (*OVERFITS, evaluation.NAME),
    "finite": (*OVERFITS, evaluation.NAME),
}
"""A cause, and what is then no failure of its own."""
ROUNDED = {moves.NAME: (*OVERFITS, "loss at start", "dead ReLUs", "depth")}
"""Where gradients end at whole numbers: what is made of these is of their size, and 0 where they are small."""


def _without_consequences(checks: Iterable[Check], follows: Mapping[str, tuple[str, ...]]) -> Iterator[Check]:
    """Yield checks in their order; a failure that another one explains is a warning which says so."""
    by_name = {each.name: each for each in checks}
    late = next((each for each in by_name.values() if each.message.startswith(f"{NOT_FINITE}: ")), None)
    if late is not None and by_name["finite"].status == "ok":
        by_name["finite"] = _not_finite(f"{late.message.removeprefix(f'{NOT_FINITE}: ')}, while asking for {late.name}")
    causes: dict[str, str] = {}
    for cause, consequences in follows.items():
        if cause not in causes and by_name[cause].status == "failed":
            causes = {**dict.fromkeys(consequences, cause), **causes}
    for name in filter(by_name.__contains__, ORDER):
        found = by_name[name]
        if found.status == "failed" and name in causes:
            found = replace(found, status="warning", message=f"{found.message}; follows from: {causes[name]}", hint="")
        yield found


def unregistered_weights(trial: Trial, given: nn.Module | None = None) -> tuple[str, str]:
    """Say which weights get a gradient and are in no parameter, and what to do; nothing where there are none.

    `given` is the module that the trial copies. Raises what the network raises while it is trained.
    """
    with _quietly():
        weights = unregistered.weights_of(trial, given)
    return unregistered.describe(weights), unregistered.hint_of(weights)


def nothing_to_train(trial: Trial) -> str:
    """Say why a network has no parameters that require a gradient: it may not register its weights."""
    try:
        found, hint = unregistered_weights(trial)
    except (Exception, SystemExit):  # noqa: BLE001  # a user's model may raise anything
        found = hint = ""
    return f"{found}; {hint}" if found else "there is nothing to train"


# What can be asked at all --------------------------------------------------------------------------------------------

OTHER_SIDES = (28, 32, 64, 224)
"""Pixels, tried where a network refuses its images."""


def classes_of(trial: Trial) -> int | None:
    """Return how many classes the network scores; None where it has a loss of its own.

    Raises UsageError for what no question can be put to.
    """
    with _quietly():
        network, (images, labels) = trial.network(), trial.batches[0]
        if not trained(network):
            raise UsageError(f"it has no parameter that requires a gradient: {nothing_to_train(trial)}")
        watch = Watch(network)
        reshapes = Reshapes(watch, len(images))
        try:
            with watch, reshapes:
                output = network(images)
        except (Exception, SystemExit) as error:  # a user's model may raise anything
            raise UsageError(_refusal(network, images, reshapes, f"{watch.place}: {said(error)}")) from error
        if output is None:
            raise UsageError("its forward returns None: is a return missing?")
        if trial.loss is not None:
            _refuse_loss(trial, output, labels)
            return None
        scores = all_scores(output)
        if (not scores or len(scores[0]) != len(images)) and reshapes.view:
            side = _side(network, images)
            raise UsageError(f"{reshapes.view}{f', or give --input-size {side}' if side else ''}")
        if not scores or len(scores[0]) != len(images):
            shapes = ", ".join(units.size(tuple(each.shape)) for each in tensors_in(output)) or type(output).__name__
            raise UsageError(
                f"it is no classifier: of {len(images)} images scores, {len(images)}xK, were expected and {shapes} "
                "came; give what it is trained on with --loss file.py:fn"
            )
        return scores[0].shape[1]


def _refusal(network: nn.Module, images: Tensor, reshapes: Reshapes, why: str) -> str:
    """Say what a network stopped at, and at which size, of a batch or an image, or in which mode alone, it does not."""
    size = units.size(tuple(images.shape[1:]))
    if _takes(network.eval(), images):
        return f"it takes images of {size} in evaluation alone; in training it stopped at {why}"
    batch = next((number for number in reshapes.sizes if _takes_batch(network.train(), images, number)), None)
    if batch:
        fixed = f"of {batch} images alone, by {reshapes.sizes[batch]}: take the size from x.shape[0], or flatten(1)"
        return f"it stopped at {len(images)} images of {size}, and takes batches {fixed}"
    if side := _side(network, images):
        return f"it does not take images of {size}: {why}; it takes {side}: give --input-size"
    if reshapes.view:
        return f"{reshapes.view}; it stopped at {why}" if reshapes.view.rows else str(reshapes.view)
    sides = ", ".join(str(side) for side in OTHER_SIDES if images.shape[2:] != (side, side))
    return f"it stopped at images of {size}, and of {sides} pixels, too: {why}"


def _side(network: nn.Module, images: Tensor) -> str:
    """Return the first other size of images that a network takes."""
    sizes = [(images.shape[1], side, side) for side in OTHER_SIDES if images.shape[2:] != (side, side)]
    taken = (size for size in sizes if _takes(network.train(), images.new_zeros(len(images), *size)))
    return next(map(units.size, taken), "")


MOST_NUMBERS = 2**24
"""In a batch that is tried: 111 images of 3x224x224."""


def _takes_batch(network: nn.Module, images: Tensor, number: int) -> bool:
    sound = 0 < number * images[0].numel() <= MOST_NUMBERS and number != len(images)
    return sound and _takes(network, images.new_zeros(number, *images.shape[1:]))


def _takes(network: nn.Module, images: Tensor) -> bool:
    """Say whether a network runs, and gives scores for each image where it gives any."""
    try:
        with torch.no_grad():
            scores = all_scores(network(images))
    except (Exception, SystemExit):  # noqa: BLE001  # a user's model may raise anything
        return False
    return not scores or len(scores[0]) == len(images)


def _refuse_loss(trial: Trial, output: Any, labels: Tensor) -> None:
    try:
        loss = trial.loss_of(output, labels)
    except (Exception, SystemExit) as error:  # a user's loss may raise anything
        raise UsageError(f"--loss: it raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise UsageError("--loss: one number with a gradient was expected of it, made from the network's output")
