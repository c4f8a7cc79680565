"""Whether a few images can be learned by heart, what was seen where they were not, and whether labels matter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprof import units
from cnnprof.errors import NotFiniteError
from cnnprof.records import Check
from cnnprof.training.sanity.trial import (
    BATCH,
    NO_LABELS,
    Batch,
    OutOfTimeError,
    Trial,
    adam,
    check,
    contrast,
    main_scores,
    trained,
)
from cnnprof.training.sanity.watch import Watch
from cnnprof.training.trainer import ClassifierTrainer

RATES = (1e-3, 1e-2, 1e-4)
"""Adam's own, a bolder one for small networks, and a gentler one for what explodes."""
STEPS, MOST_STEPS = 200, 400
PATIENCE, WAITS = 40, 100
"""Steps after which the first rate, where the loss stays where it was, is given up; and, behind STEPS, any rate whose
lowest loss did not fall in so many: dropout lets losses vary."""
LOW = 0.5
"""A loss at which more than half of what a softmax gives goes to the right class, on average."""
COURSE_BATCH, COURSE_EPOCHS, COURSE_RATE, COURSE_SHARE = 2, 25, 0.01, 0.9
"""The course's own test that its CNN overfits: SGD, and the best epoch's accuracy."""
FEW = 50
"""Images that the course overfits, and whose labels are shuffled."""
IN_COURSE, IN_A_BATCH = "overfits 50 images", "overfits a batch"


@dataclass(frozen=True)
class Fit:
    """How far it came in learning a few images by heart."""

    accuracy: float
    loss: float
    steps: int
    rate: float
    network: nn.Module
    not_finite: str = ""
    """Where a number was none, at which step and rate."""
    out_of_time: bool = False
    """It was ended before it had taken all its steps."""
    epoch: int = 0
    earlier: float = math.inf
    """The loss, PATIENCE steps before."""

    @property
    def learned(self) -> bool:
        """Say whether it learned them, in the course's way where it was asked so."""
        return self.accuracy >= COURSE_SHARE if self.epoch else self.accuracy == 1 and self.loss < LOW

    @property
    def undecided(self) -> bool:
        """Say whether it might have learned them in the time that it did not have."""
        return self.out_of_time and not self.learned


def fitted(trial: Trial) -> Fit | None:
    """Learn a few images by heart, at the first rate that does; None without labels."""
    if trial.loss is not None:
        return None
    if trial.course:
        return _in_course(trial)
    fits: list[Fit] = []
    for rate in RATES:
        if fits and fits[-1].not_finite and rate > fits[-1].rate:
            continue
        fits.append(_in_a_batch(trial, rate))
        if fits[-1].learned or fits[-1].out_of_time:
            break
    best = max(fits, key=lambda fit: (fit.accuracy, -fit.loss))
    not_finite = next((fit.not_finite for fit in fits if fit.not_finite), "")
    return replace(best, not_finite=not_finite, out_of_time=fits[-1].out_of_time)


def _in_a_batch(trial: Trial, rate: float) -> Fit:
    network = trial.network()
    optimizer = adam(network, rate)
    losses = [math.inf] * PATIENCE
    fit = Fit(0.0, math.inf, 0, rate, network)
    for step in range(1, MOST_STEPS + 1):
        try:
            trial.check_time()
        except OutOfTimeError:
            return replace(fit, out_of_time=True)
        loss, right = trial.step(network, optimizer, trial.batches[0])
        if not math.isfinite(loss):
            return replace(fit, steps=step, not_finite=f"the loss in step {step} at a rate of {units.short(rate)}")
        losses.append(loss)
        fit = Fit(right / len(trial.batches[0][1]), loss, step, rate, network, earlier=losses[-1 - PATIENCE])
        stays = loss > FALLS * losses[PATIENCE]
        ended = step >= STEPS and min(losses[-WAITS:]) > FALLS * min(losses[:-WAITS])
        if fit.learned or ended or (step == PATIENCE and stays and rate == RATES[0]):
            break
    return fit


def _guess(labels: Tensor) -> float:
    """Return the loss of a guess by the classes' shares."""
    shares = labels.bincount().float() / len(labels)
    return float(-shares.xlogy(shares).sum())


def _in_course(trial: Trial) -> Fit:
    network = trial.network()
    trainer = ClassifierTrainer(network, F.cross_entropy, torch.optim.SGD(trained(network), COURSE_RATE))
    best = Fit(0.0, math.inf, 0, COURSE_RATE, network)
    few = trial.few(FEW, COURSE_BATCH)
    for epoch in range(1, COURSE_EPOCHS + 1):
        try:
            trial.check_time()
            losses, percent = trainer.train_epoch(few, verbose=False)
        except NotFiniteError as error:
            return replace(best, not_finite=f"epoch {epoch}, {str(error).partition(';')[0]}")
        except OutOfTimeError:
            return replace(best, out_of_time=True)
        if percent / 100 > best.accuracy:
            loss = sum(losses) / len(losses)
            best = Fit(percent / 100, loss, epoch * len(few), COURSE_RATE, network, epoch=epoch)
        if best.learned:
            break
    return best


def overfits(trial: Trial, fit: Fit | None) -> Check:
    """Ask whether a few images can be learned by heart, which any network that can learn at all does.

    Raises OutOfTimeError.
    """
    name = IN_COURSE if trial.course else IN_A_BATCH
    if fit is None:
        return check(name, "skipped", None, NO_LABELS)
    if fit.undecided:
        raise OutOfTimeError
    message = f"{units.percent(fit.accuracy, 0)} %"
    if trial.course:
        message += f" in epoch {fit.epoch} of {COURSE_EPOCHS} (asked: {units.percent(COURSE_SHARE, 0)} %)"
    else:
        message += f" of {BATCH} images, loss {units.decimal(fit.loss, 2)}, after {units.plural(fit.steps, 'step')}"
        message += f" of Adam at a rate of {units.short(fit.rate)}"
    if fit.learned:
        return check(name, "ok", 100 * fit.accuracy, message)
    message += "" if trial.course else f", the best of {len(RATES)} rates"
    return check(name, "failed", 100 * fit.accuracy, message, "" if fit.not_finite else _seen(trial, fit))


MUCH, NOTHING, FALLS = 0.8, 1e-3, 0.9
"""What is remarked on: shares that are dropped, that differ between images, and that a falling loss keeps."""


def _seen(trial: Trial, fit: Fit) -> str:
    """Say what is unusual in a network that has not learned, with its number: no guess at what was not measured."""
    images, labels = trial.batches[0]
    with torch.no_grad(), Watch(fit.network) as watch:
        scores = main_scores(fit.network(images))
    share, place = watch.dropout
    if share >= MUCH:
        return f"{place} drops {units.percent(share, 0)} % of what it gets: lower its p"
    if (differ := contrast(scores)) < NOTHING:
        lost = next((f", from what {each.path} gets on" for each in watch.layers if each.contrast < NOTHING), "")
        return f"scores differ by {units.short(100 * differ)} % between images{lost}: they hardly depend on the image"
    narrow = min(watch.layers, key=lambda layer: layer.width, default=None)
    if narrow and narrow.width < (classes := len(set(labels.tolist()))):
        numbers = units.plural(narrow.width, "number")
        return (
            f"of each image {narrow.path} gets {numbers}, to tell {classes} classes apart: widen what comes before it"
        )
    reach = float((scores.amax(1) - scores.amin(1)).max())
    least = math.log1p((scores.shape[1] - 1) * math.exp(-reach))
    if least > LOW:
        return (
            f"an image's scores lie within {units.short(reach)} of each other, where no loss is below "
            f"{units.decimal(least, 2)}: is there a tanh, or a small factor, behind the last layer?"
        )
    if fit.loss < FALLS * fit.earlier < math.inf:
        return f"the loss still falls, from {units.decimal(fit.earlier, 2)} {PATIENCE} steps before: it learns slowly"
    return "does every layer see what it needs to tell images apart?"


# Labels --------------------------------------------------------------------------------------------------------------

EPOCHS = 10
SLOW = 0.9
"""Of the loss of a guess by the classes' shares: what stays above it has hardly begun to learn."""
TELLS = 0.1
"""Large networks with batch norm learn fifty images of any labels as fast; then the true ones should tell of others."""


def shuffled(trial: Trial, fit: Fit | None) -> Check:
    """Ask whether true labels are learned sooner than shuffled ones, or tell of other images more than they do.

    Raises OutOfTimeError.
    """
    name = "shuffled labels"
    if fit is None:
        return check(name, "skipped", None, NO_LABELS)
    if fit.undecided:
        raise OutOfTimeError
    if not fit.learned:
        return check(name, "skipped", None, "it does not learn the true ones")
    few = trial.few(FEW, FEW // 2)
    labels = torch.cat([labels for _, labels in few])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(trial.seed))
    mixed = torch.split(labels[order.to(labels.device)], FEW // 2)
    true = _learned(trial, few)
    wrong = [(images, each) for (images, _), each in zip(few, mixed, strict=True)]
    other = _learned(trial, wrong)
    message = (
        f"mean loss over {EPOCHS} epochs of {len(labels)} images: "
        f"{units.decimal(true.loss, 2)} with true labels, {units.decimal(other.loss, 2)} with shuffled ones; then "
        f"{units.percent(true.of_others, 0)} % and {units.percent(other.of_others, 0)} % of other images are right"
    )
    if min(true.loss, other.loss) > SLOW * _guess(labels):
        return check(name, "skipped", None, f"neither is learned in {EPOCHS} epochs")
    ratio = other.loss / true.loss if true.loss else math.inf
    if ratio > 1 or true.of_others > other.of_others + TELLS:
        return check(name, "ok", ratio, message)
    return check(name, "warning", ratio, message, "do images and labels belong together?")


@dataclass(frozen=True)
class _Learned:
    """What a few images taught."""

    loss: float
    """The mean over all epochs, among the classes that the data have: to forget all others takes any labels as long."""
    of_others: float
    """The share of images never seen that it gets right, in training mode."""


def _learned(trial: Trial, few: Sequence[Batch], epochs: int = EPOCHS) -> _Learned:
    """Learn a few images. Raises OutOfTimeError."""
    network = trial.network()
    optimizer = adam(network, 1e-3)
    losses: list[float] = []
    classes = 1 + max(int(labels.max()) for _, labels in trial.batches)
    for _ in range(epochs):
        for batch in few:
            trial.check_time()
            _, output = trial.passed(network, batch)
            optimizer.step()
            losses.append(float(F.cross_entropy(main_scores(output).detach()[:, :classes], batch[1])))
        if not math.isfinite(losses[-1]):
            raise NotFiniteError(f"a loss in step {len(losses)}")
    others = trial.batches[-(-FEW // BATCH) :]
    with torch.no_grad():
        right = [main_scores(network(images)).argmax(1) == labels for images, labels in others]
    share = float(torch.cat(right).float().mean()) if right else 0.0
    return _Learned(sum(losses) / len(losses), share)
