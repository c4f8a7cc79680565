"""Whether a network can learn at all: ten questions, each with its number and a hint. Knows no models.

Each question is put to a network that is made anew, so that none spoils it for the next. What follows from a failure is
named a warning, with the failure it follows from: one cause fails one check.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof import units
from cnnprof.errors import NotFiniteError, UsageError, first_line, said
from cnnprof.inputs import first_floating, tensors_in
from cnnprof.records import Check, LayerNorms, Status
from cnnprof.training.checkpoints import RandomState

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) and labels (N,)."""
Loss = Callable[[Any], Tensor]

BATCH = 16
RATES = (1e-2, 1e-3, 1e-4)
"""Adam's: many a healthy network learns nothing at the first."""
STEPS = 200
PATIENCE = 40
"""Steps after which the first rate, where it did no better than guess by the classes' shares, is given up."""
LOW = 0.5
"""A loss at which more than half of what a softmax gives goes to the right class, on average."""
COURSE_BATCHES, COURSE_BATCH, COURSE_EPOCHS, COURSE_RATE, COURSE_SHARE = 25, 2, 25, 0.01, 0.9
"""The course's own test that its CNN overfits: SGD, and the best epoch's accuracy."""
FEW = 50
"""Images whose labels are shuffled."""


@dataclass(frozen=True)
class Trial:
    """A network that can be made again and again, and what it is tried on."""

    build: Callable[[], nn.Module]
    batches: Sequence[Batch]
    """Of 16 images each, on the device."""
    loss: Loss | None = None
    """Of the output alone; None: cross-entropy with the labels."""
    seed: int = 42
    device: str = "cpu"
    course: bool = False
    """Whether it overfits is asked in the course's way."""
    time_s: float = 10.0
    """Of this thread, spent on learning; overfitting takes at most two thirds."""

    def network(self) -> nn.Module:
        """Make the network under the seed, in training mode."""
        torch.manual_seed(self.seed)
        network = self.build().to(self.device).train()
        if any(map(nn.parameter.is_lazy, network.parameters())):  # the first call gives them their shapes
            with torch.no_grad():
                network(self.batches[0][0])
        return network

    def loss_of(self, output: Any, labels: Tensor) -> Tensor:
        """Return the loss of an output: of auxiliary scores beside the main ones too, so that they get gradients."""
        if self.loss is not None:
            return self.loss(output)
        main, *others = [F.cross_entropy(scores.float(), labels) for scores in _all_scores(output)]
        return main + AUXILIARY * torch.stack(others).sum() if others else main


_clock = time.thread_time
"""A busy machine, on which the wall clock runs on, should change no answer."""
AUXILIARY = 0.3
"""Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 5."""


@dataclass(frozen=True)
class Findings:
    """What the questions brought to light."""

    checks: tuple[Check, ...]
    norms: tuple[LayerNorms, ...]


def examine(trial: Trial, progress: Callable[[float], None] = lambda share: None) -> Findings:
    """Put every question; random states are afterwards as they were before.

    Raises what the network raises while it is trained; what raises elsewhere is skipped, with the reason.
    """
    with RandomState.kept(), torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        start = _start(trial)
        progress(0.1)
        if start.not_finite:
            return Findings(tuple(_all_but_finite(start)), ())
        moved = _moved(trial)
        progress(0.2)
        fit = _fit(trial)
        progress(0.7)
        found = [
            *_at_start(trial, start),
            _overfits(trial, fit),
            _excused(moved, fit),
            _asked("samples independent", lambda: _samples_independent(trial, moved.network)),
            _asked("batch norm", lambda: _batch_norm(trial)),
            _finite(trial, moved, fit),
            _asked("dead ReLUs", lambda: _dead_relus(trial, start, fit)),
            _depth(moved, fit),
            _asked("shuffled labels", lambda: _shuffled(trial, fit)),
            _asked("deterministic", lambda: _deterministic(trial)),
        ]
        progress(1.0)
        return Findings(tuple(_without_consequences(found)), moved.norms)


def norms(trial: Trial) -> tuple[LayerNorms, ...]:
    """Measure what passes the layers with weights before any step: activations, and gradients of the loss."""
    with RandomState.kept(), torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        return _norms(trial, trial.network())


def _asked(name: str, ask: Callable[[], Check]) -> Check:
    try:
        return ask()
    except NotFiniteError as error:
        return _check(name, "skipped", None, f"{NOT_FINITE}: {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's model may raise anything
        return _check(name, "skipped", None, f"the network stopped: {said(error)}")


NOT_FINITE = "numbers are not finite"


IN_COURSE, IN_A_BATCH = "overfits 50 images", "overfits a batch"
OVERFITS = (IN_COURSE, IN_A_BATCH)
ORDER = (
    "loss at start",
    "raw scores",
    *OVERFITS,
    "all parameters move",
    "samples independent",
    "batch norm",
    "finite",
    "dead ReLUs",
    "depth",
    "shuffled labels",
    "deterministic",
)
FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "dead ReLUs": (*OVERFITS, "all parameters move", "depth"),
    "all parameters move": (*OVERFITS, "depth"),
    "depth": OVERFITS,
    "loss at start": OVERFITS,
    "raw scores": OVERFITS,
    "samples independent": OVERFITS,
    "finite": OVERFITS,
}
"""A cause, and what is then no failure of its own."""


def _without_consequences(checks: Iterable[Check]) -> Iterator[Check]:
    """Yield checks in their order; a failure that another one explains is a warning which says so."""
    by_name = {check.name: check for check in checks}
    late = next((check for check in by_name.values() if check.message.startswith(f"{NOT_FINITE}: ")), None)
    if late is not None and by_name["finite"].status == "ok":
        message = f"first not finite: {late.message.removeprefix(f'{NOT_FINITE}: ')}, while asking for {late.name}"
        by_name["finite"] = _check("finite", "failed", None, message, HINT_FINITE)
    causes: dict[str, str] = {}
    for cause, consequences in FOLLOWS.items():
        if cause not in causes and by_name[cause].status == "failed":
            causes = {**dict.fromkeys(consequences, cause), **causes}
    for name in filter(by_name.__contains__, ORDER):
        check = by_name[name]
        if check.status == "failed" and name in causes:
            check = replace(check, status="warning", message=f"{check.message}; follows from: {causes[name]}", hint="")
        yield check


# What the network returns --------------------------------------------------------------------------------------------


def _all_scores(output: Any) -> list[Tensor]:
    """Return the scores (N, K) in an output: the main ones come first, auxiliary ones after them."""
    found = [each for each in tensors_in(output) if each.ndim == 2 and each.is_floating_point()]
    return [each for each in found if each.shape == found[0].shape]


def _scores(output: Any) -> Tensor:
    return _all_scores(output)[0].float()


def classes_of(trial: Trial) -> int | None:
    """Return how many classes the network scores; None where it has a loss of its own.

    Raises UsageError for what no question can be put to.
    """
    with RandomState.kept(), torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        return _classes_of(trial)


def _classes_of(trial: Trial) -> int | None:
    network, (images, labels) = trial.network(), trial.batches[0]
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UsageError("it has no parameter that requires a gradient: there is nothing to train")
    try:
        output = network(images)
    except (Exception, SystemExit) as error:  # a user's model may raise anything
        size = units.size(tuple(images.shape[1:]))
        raise UsageError(
            f"it does not take images of {size}: {first_line(error)}; give another --input-size"
        ) from error
    if trial.loss is not None:
        _refuse_loss(trial, output, labels)
        return None
    scores = _all_scores(output)
    if not scores or len(scores[0]) != len(images):
        shapes = ", ".join(units.size(tuple(each.shape)) for each in tensors_in(output)) or type(output).__name__
        raise UsageError(
            f"it is no classifier: of {len(images)} images scores, {len(images)}xK, were expected and {shapes} came; "
            "give what it is trained on with --loss file.py:fn"
        )
    return scores[0].shape[1]


def _refuse_loss(trial: Trial, output: Any, labels: Tensor) -> None:
    try:
        loss = trial.loss_of(output, labels)
    except (Exception, SystemExit) as error:  # a user's loss may raise anything
        raise UsageError(f"--loss: it raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise UsageError("--loss: one number with a gradient was expected of it, made from the network's output")


# At the start --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Start:
    """What one pass over all batches shows before anything is learned."""

    outputs: tuple[Tensor, ...]
    """Scores by batch; none where the network has a loss of its own."""
    relus: Mapping[str, "_Relu"]
    not_finite: str
    """The first place at which a number is none; empty where all are."""


def _start(trial: Trial) -> _Start:
    network = trial.network()
    watch = _Watch(network)
    (images, labels), *others = trial.batches
    with watch:
        output = network(images)
        loss = trial.loss_of(output, labels)
        loss.backward()  # type: ignore[no-untyped-call]
    watch.not_finite = watch.not_finite or ("" if _is_finite(loss) else "the loss") or _gradient_not_finite(network)
    outputs = [output]
    with torch.no_grad():
        for images, _ in others:
            with watch:
                outputs.append(network(images))
    scores = [] if trial.loss is not None else [_scores(each).detach() for each in outputs]
    return _Start(tuple(scores), watch.relus, watch.not_finite)


def _gradient_not_finite(network: nn.Module) -> str:
    """Name the last parameter in the network whose gradient is not finite: the one the backward pass meets first."""
    gradients = [(name, each.grad) for name, each in network.named_parameters() if each.grad is not None]
    return next((f"the gradient of {name}" for name, each in reversed(gradients) if not _is_finite(each)), "")


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


@dataclass
class _Relu:
    """The units of one rectifier that fired, and whether any was held back."""

    fired: Tensor
    held_back: bool
    """Some input was below 0: a rectifier that gets zeros alone is silent through no fault of its own."""


class _Watch(TorchDispatchMode):
    """Follows passes: where numbers stop being finite, which units fire and, if asked, how large activations are."""

    def __init__(self, network: nn.Module, norms: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._network = network
        self._with_norms = norms
        self.relus: dict[str, _Relu] = {}
        self.not_finite = ""
        self._activations: list[tuple[str, float, float]] = []
        self._gradients: dict[int, float] = {}
        self._path: list[str] = [""]
        self._calls: dict[str, int] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "_Watch":
        """Hook the modules."""
        self._calls, self._activations, self._gradients = {}, [], {}
        for path, module in self._network.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._entering(path)))
            self._hooks.append(module.register_forward_hook(self._leaving(path, module)))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the modules as they were."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        while self._hooks:
            self._hooks.pop().remove()

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._path.append(path)
            self._look(inputs, f"the input of {_named(path)} ({type(module).__name__})")

        return enter

    def _leaving(self, path: str, module: nn.Module) -> Callable[..., None]:
        weighs = self._with_norms and not list(module.children())
        weighs = weighs and any(each.ndim > 1 for each in module.parameters(recurse=False))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._path.pop()
            self._look(output, f"the output of {_named(path)} ({type(module).__name__})")
            given, made = _numbers(inputs), _numbers(output)
            if weighs and given and made:
                self._note(path, given[0].detach().float(), made[0])

        return leave

    def _look(self, value: Any, name: str) -> None:
        if not self.not_finite and not all(map(_is_finite, _numbers(value))):
            self.not_finite = name

    def _note(self, path: str, given: Tensor, output: Tensor) -> None:
        place = len(self._activations)
        contrast = _rms(given - given.mean(0)) / (_rms(given) or 1.0)
        self._activations.append((path, _rms(output.detach().float()), contrast))
        if output.requires_grad:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._gradients.__setitem__(place, float(gradient.float().norm()))
            )

    def norms(self) -> Iterator[LayerNorms]:
        """Yield the layers with weights as the last pass went through them."""
        for place, (path, activation, contrast) in enumerate(self._activations):
            gradient = self._gradients.get(place)
            if all(map(math.isfinite, (activation, contrast, gradient or 0.0))):
                yield LayerNorms(path, activation, gradient, contrast)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; of a rectifier, note which units fire."""
        rectifies = RECTIFIERS.get(func.overloadpacket.__name__.rstrip("_"))
        if rectifies is None or not rectifies(*args[1:], **(kwargs or {})):
            return func(*args, **(kwargs or {}))
        held_back = bool((args[0] < 0).any())
        output = func(*args, **(kwargs or {}))
        self._fire(output, held_back)
        return output

    def _fire(self, output: Tensor, held_back: bool) -> None:
        if output.ndim < 2:
            return
        path = _named(self._path[-1])
        self._calls[path] = call = self._calls.get(path, 0) + 1
        key = path if call == 1 else f"{path}, call {call}"
        units_ = output.ndim - 1 if output.ndim == 3 else 1
        fired = (output > 0).transpose(0, units_).flatten(1).any(1)
        if (before := self.relus.get(key)) and before.fired.shape == fired.shape:
            fired, held_back = fired | before.fired, held_back or before.held_back
        self.relus[key] = _Relu(fired, held_back)


RECTIFIERS: Mapping[str, Callable[..., bool]] = {
    "relu": lambda: True,
    "hardtanh": lambda low=-1.0, high=1.0: low == 0,  # ReLU6
    "clamp_min": lambda low: low == 0,
    "clamp": lambda low=None, high=None, **named: named.get("min", low) == 0,
}
"""Operators that return 0 for all below it, where their arguments say so."""


def _numbers(value: Any) -> list[Tensor]:
    return [each for each in tensors_in(value) if each.is_floating_point()]


def _named(path: str) -> str:
    return path or "the network itself"


def _rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())


def _check(name: str, status: Status, value: float | None, message: str, hint: str = "") -> Check:
    """Make a check; a value that is no number of JSON is unknown."""
    return Check(name, status, value if value is not None and math.isfinite(value) else None, message, hint)


NO_LABELS = "the images are random and have no labels: --loss is the user's own"


def _at_start(trial: Trial, start: _Start) -> Iterator[Check]:
    """Ask whether all classes are as likely at first, and whether scores are raw."""
    if trial.loss is not None:
        yield _check("loss at start", "skipped", None, NO_LABELS)
        yield _check("raw scores", "skipped", None, NO_LABELS)
        return
    labels = torch.cat([each for _, each in trial.batches])
    scores = torch.cat(start.outputs)
    yield _loss_at_start(float(F.cross_entropy(scores, labels)), scores.shape[1])
    yield _raw_scores(scores)


TOLERATED, TOO_MUCH = 1.0, 10.0
"""Nats above ln K. Scores that are normal with deviation s cost about s*s/2 more: 1.0 is s = 1.4, 10 is s = 4.5. Of the
healthy networks that were tried at 32 to 64 pixels none costs more than 1 above."""


def _loss_at_start(loss: float, classes: int) -> Check:
    expected = math.log(classes)
    message = f"{units.decimal(loss, 2)}, ln {units.integer(classes)} = {units.decimal(expected, 2)}"
    above = loss - expected
    if -TOLERATED <= above <= TOLERATED:
        return _check("loss at start", "ok", loss, message)
    if above < 0:
        return _check("loss at start", "warning", loss, message, "it knows the answers already: is it trained?")
    hint = "scores are large before anything is learned: scale the last layer's initial weights, or the images, down"
    return _check("loss at start", "failed" if above > TOO_MUCH else "warning", loss, message, hint)


def _raw_scores(scores: Tensor) -> Check:
    sums, log_sums = scores.sum(1), scores.exp().sum(1)
    if bool((scores >= 0).all()) and _near_1(sums):
        hint = "cross-entropy takes raw scores and has a softmax of its own: leave the network's out"
        return _check("raw scores", "failed", 1.0, "each image's are positive and sum to 1: probabilities", hint)
    if _near_1(log_sums):
        hint = (
            "cross-entropy applies one of its own, which changes nothing here: leave the network's out, or use NLLLoss"
        )
        return _check("raw scores", "warning", 1.0, "they are logarithms of probabilities", hint)
    if bool((scores >= 0).all()):
        hint = "is there a sigmoid or a ReLU behind the last layer? cross-entropy takes raw scores: leave it out"
        return _check("raw scores", "warning", 0.0, "none is below 0", hint)
    return _check("raw scores", "ok", float(sums.mean()), "they are no probabilities")


def _near_1(sums: Tensor) -> bool:
    return torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=1e-3)


# Learning ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """How far it came in learning a few images by heart."""

    accuracy: float
    loss: float
    steps: int
    rate: float
    network: nn.Module
    not_finite: str = ""
    """Where a number was none, at which step and rate."""
    out_of_time: bool = False
    epoch: int = 0

    @property
    def learned(self) -> bool:
        """Say whether it learned them, in the course's way where it was asked so."""
        return self.accuracy >= COURSE_SHARE if self.epoch else self.accuracy == 1 and self.loss < LOW


def _fit(trial: Trial) -> _Fit | None:
    """Learn a few images by heart, at the gentlest rate that is needed; None without labels."""
    if trial.loss is not None:
        return None
    ends = _clock() + trial.time_s * 2 / 3
    if trial.course:
        return _fit_course(trial, ends)
    fits: list[_Fit] = []
    for rate in RATES:
        left = (ends - _clock()) / (1 if rate == RATES[-1] else 2)
        fits.append(_fit_batch(trial, rate, _clock() + left))
        if fits[-1].learned:
            break
    best = max(fits, key=lambda fit: (fit.accuracy, -fit.loss))
    return replace(best, not_finite=next((fit.not_finite for fit in fits if fit.not_finite), ""))


def _fit_batch(trial: Trial, rate: float, ends: float) -> _Fit:
    network = trial.network()
    optimizer = torch.optim.Adam(_trained(network), rate)
    guessing, best = _guessing(trial.batches[0][1]), math.inf
    fit = _Fit(0.0, math.inf, 0, rate, network)
    for step in range(1, STEPS + 1):
        loss, right = _step(trial, network, optimizer, trial.batches[0])
        if not math.isfinite(loss):
            return replace(fit, steps=step, not_finite=f"the loss in step {step} at a rate of {units.short(rate)}")
        fit = _Fit(right / len(trial.batches[0][1]), loss, step, rate, network)
        best = min(best, loss)
        if fit.learned or (step == PATIENCE and best > guessing and rate == RATES[0]):
            break
        if _clock() > ends:
            return replace(fit, out_of_time=step < STEPS)
    return fit


def _guessing(labels: Tensor) -> float:
    """Return the loss of a guess by the classes' shares."""
    shares = labels.bincount().float() / len(labels)
    return float(-shares.xlogy(shares).sum())


def _fit_course(trial: Trial, ends: float) -> _Fit:
    network = trial.network()
    optimizer = torch.optim.SGD(_trained(network), COURSE_RATE)
    best = _Fit(0.0, math.inf, 0, COURSE_RATE, network)
    few = _few(trial, COURSE_BATCH)[:COURSE_BATCHES]
    for epoch in range(1, COURSE_EPOCHS + 1):
        losses, right = zip(*(_step(trial, network, optimizer, batch) for batch in few), strict=True)
        steps = epoch * len(few)
        if not all(map(math.isfinite, losses)):
            place = next(place for place, loss in enumerate(losses, 1) if not math.isfinite(loss))
            return replace(best, not_finite=f"the loss in step {steps - len(few) + place}")
        accuracy = sum(right) / sum(len(labels) for _, labels in few)
        if accuracy > best.accuracy:
            best = _Fit(accuracy, sum(losses) / len(losses), steps, COURSE_RATE, network, epoch=epoch)
        if best.learned:
            break
        if _clock() > ends:
            return replace(best, out_of_time=True)
    return best


def _few(trial: Trial, size: int) -> list[Batch]:
    """Cut the first 50 images into batches of another size."""
    images, labels = (torch.cat(parts)[:FEW] for parts in zip(*trial.batches, strict=True))
    return list(zip(torch.split(images, size), torch.split(labels, size), strict=True))


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _step(trial: Trial, network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> tuple[float, int]:
    """Take one step; return the loss before it and how many images were right."""
    images, labels = batch
    optimizer.zero_grad(set_to_none=True)
    output = network(images)
    loss = trial.loss_of(output, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    right = 0 if trial.loss is not None else int((_scores(output).argmax(1) == labels).sum())
    return loss.item(), right


def _overfits(trial: Trial, fit: _Fit | None) -> Check:
    """Ask whether a few images can be learned by heart, which any network that can learn at all does."""
    name = IN_COURSE if trial.course else IN_A_BATCH
    if fit is None:
        return _check(name, "skipped", None, NO_LABELS)
    accuracy = f"{units.percent(fit.accuracy, 0)} %"
    if trial.course:
        asked = f"of {COURSE_EPOCHS} (asked: {units.percent(COURSE_SHARE, 0)} %)"
        message = f"{accuracy} in epoch {fit.epoch} {asked}"
    else:
        steps = units.plural(fit.steps, "step")
        message = (
            f"{accuracy} of {BATCH} images, loss {units.decimal(fit.loss, 2)}, after {steps} of Adam at a rate of "
        )
        message += units.short(fit.rate)
    if fit.learned:
        return _check(name, "ok", 100 * fit.accuracy, message)
    if fit.out_of_time:
        return _check(name, "warning", 100 * fit.accuracy, f"{message}: no time was left for more")
    message += "" if trial.course else f", the best of {len(RATES)} rates"
    hint = "does every layer see what it needs to tell images apart?"
    return _check(name, "failed", 100 * fit.accuracy, message, hint)


MOVES = 6
"""Steps until every parameter has moved: what lies behind a gain that starts at zero moves from the second on."""


@dataclass(frozen=True)
class _Moved:
    """A network after a few steps, in which gains that start at zero have moved."""

    check: Check
    network: nn.Module
    norms: tuple[LayerNorms, ...] = ()
    not_finite: str = ""
    at_zero: bool = False
    """All parameters are used; the gradients of some are 0."""


def _moved(trial: Trial) -> _Moved:
    """Ask whether every parameter gets a gradient and moves."""
    network = trial.network()
    named = {name: each for name, each in network.named_parameters() if each.requires_grad}
    frozen = [name for name, each in network.named_parameters() if not each.requires_grad]
    before = {name: each.detach().clone() for name, each in named.items()}
    largest = dict.fromkeys(named, -1.0)  # no gradient at all yet
    optimizer = torch.optim.Adam(named.values(), 1e-3)
    for step in range(MOVES):
        loss, _ = _step(trial, network, optimizer, trial.batches[step % len(trial.batches)])
        place = _gradient_not_finite(network) if math.isfinite(loss) else "the loss"
        if place:
            check = _check("all parameters move", "skipped", None, "numbers are not finite")
            return _Moved(check, network, (), f"{place}, in step {step + 1}")
        for name, each in named.items():
            if each.grad is not None:
                largest[name] = max(largest[name], float(each.grad.abs().max()))
    check = _all_move(named, before, largest, frozen)
    return _Moved(check, network, _norms(trial, network), at_zero=min(largest.values()) == 0)


def _excused(moved: _Moved, fit: _Fit | None) -> Check:
    """Warn alone of gradients of 0 in a network that learns: attention over one place has such, for one."""
    if moved.check.status != "failed" or not moved.at_zero or fit is None or not fit.learned:
        return moved.check
    hint = "is a map 1x1 there, so that attention has nothing to choose from? a larger --input-size tells"
    return replace(moved.check, status="warning", hint=hint)


def _norms(trial: Trial, network: nn.Module) -> tuple[LayerNorms, ...]:
    """Measure activations and gradients by depth."""
    watch = _Watch(network, norms=True)
    images, labels = trial.batches[0]
    with watch:
        trial.loss_of(network(images), labels).backward()  # type: ignore[no-untyped-call]
    return tuple(watch.norms())


FELT = 1e-6
"""A gradient well above Adam's epsilon, 1e-8: what it belongs to is moved by a step."""


def _all_move(
    named: Mapping[str, Tensor], before: Mapping[str, Tensor], largest: Mapping[str, float], frozen: Sequence[str]
) -> Check:
    without = [name for name, gradient in largest.items() if gradient < 0]
    at_zero = [name for name, gradient in largest.items() if gradient == 0]
    still = [name for name, each in named.items() if largest[name] > FELT and torch.equal(each, before[name])]
    share = f"{len(named) - len(without) - len(at_zero) - len(still)} of {units.plural(len(named), 'tensor')}"
    kept = f"; frozen: {_listed(frozen)}" if frozen else ""
    reasons = {
        "no gradient reaches {}": (without, "is it used in forward, and is nothing detached or under no_grad?"),
        "the gradient of {} is 0": (at_zero, "are weights initialised to zero, or multiplied by zero?"),
        "{} gets a gradient and stays as it is": (still, "is it set anew in forward?"),
    }
    found = {words.format(_listed(names)): hint for words, (names, hint) in reasons.items() if names}
    moved = float(len(named) - len(without) - len(at_zero) - len(still))
    if not found:
        return _check("all parameters move", "ok", moved, f"{share}{kept}")
    return _check(
        "all parameters move", "failed", moved, f"{share}: {'; '.join(found)}{kept}", " ".join(found.values())
    )


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _finite(trial: Trial, moved: _Moved, fit: _Fit | None) -> Check:
    """Ask whether all numbers were finite in the steps that were run."""
    steps = MOVES + (fit.steps if fit else 0)
    if moved.not_finite:
        return _check("finite", "failed", None, f"first not finite: {moved.not_finite}", HINT_FINITE)
    if fit and fit.not_finite:
        gentler = fit.learned
        message = f"first not finite: {fit.not_finite}" + ("; at a gentler rate all are" if gentler else "")
        return _check("finite", "warning" if gentler else "failed", None, message, "lower the learning rate")
    return _check("finite", "ok", float(steps), f"no NaN, no Inf in {units.plural(steps, 'step')}")


HINT_FINITE = "look there for a division by 0, a logarithm or a root of what is not above 0, or an exponential"


def _all_but_finite(start: _Start) -> Iterator[Check]:
    """Skip all questions but one: what is made of NaN answers none."""
    for name in ORDER:
        if name == "finite":
            yield _check(name, "failed", None, f"first not finite: {start.not_finite}, at the start", HINT_FINITE)
        elif name != IN_COURSE:
            yield _check(name, "skipped", None, "numbers are not finite")


# Between samples -----------------------------------------------------------------------------------------------------

MIXED = 1e-6
"""Of the largest gradient to a sample's own input: rounding stays below."""
APART = 6
"""Samples that are looked at."""


def _samples_independent(trial: Trial, network: nn.Module) -> Check:
    """Ask whether a sample's scores depend on other samples of its batch, batch norm's statistics left out."""
    name = "samples independent"
    images = trial.batches[0][0][:APART]
    evaluating, training = (_mixing(network.train(training), images) for training in (False, True))
    if evaluating is None or training is None:
        return _check(name, "skipped", None, "no gradient of the output reaches an image")
    if evaluating > MIXED:
        hint = "look for a view or reshape that moves the batch, a softmax over dim 0, a mean over the batch"
        message = f"a sample's output depends on others: {units.short(evaluating)} of the gradient to itself"
        return _check(name, "failed", evaluating, message, hint)
    if training > MIXED:
        message = f"in training mode alone, a sample's output depends on others: {units.short(training)}"
        return _check(name, "warning", training, message, "a norm over the batch of your own does that by design")
    norms = ", batch norm's statistics apart" if any(map(_is_batch_norm, network.modules())) else ""
    return _check(name, "ok", max(evaluating, training), f"no gradient across the batch{norms}")


def _batch_norm(trial: Trial) -> Check:
    """Ask whether batch norms see enough numbers to take statistics of, and keep them for evaluation."""
    name = "batch norm"
    network = trial.network()
    norms = {path: each for path, each in network.named_modules() if _is_batch_norm(each)}
    if not norms:
        return _check(name, "skipped", None, "the network has none")
    before = {path: each.running_mean.clone() for path, each in norms.items() if each.running_mean is not None}
    with torch.no_grad():
        network(trial.batches[0][0])
    still = [path for path, mean in before.items() if torch.equal(mean, norms[path].running_mean)]
    kept = len(before)
    if still:
        message = f"running statistics of {_listed(still)} stay as they are in training mode"
        return _check(name, "warning", float(kept - len(still)), message, "are they frozen, or never called?")
    if kept < len(norms):
        message = f"{len(norms) - kept} of {len(norms)} keep no running statistics: evaluation depends on the batch"
        return _check(name, "warning", float(kept), message, "is track_running_stats=False meant?")
    return _check(name, "ok", float(kept), f"running statistics of {units.plural(kept, 'norm')} follow the data")


def _mixing(network: nn.Module, images: Tensor) -> float | None:
    """Return the largest gradient to another sample's input, over that to its own; None where there is none at all."""
    network = _without_batch_statistics(network)
    own = across = 0.0
    for place in (0, len(images) // 2, len(images) - 1):
        leaf = images.clone().requires_grad_()
        outputs = [each for each in _numbers(network(leaf)) if each.requires_grad]
        if not all(map(_is_finite, outputs)):
            raise NotFiniteError(f"an output in {'training' if network.training else 'evaluation'} mode")
        felt = [each[place].float() for each in outputs if each.ndim and len(each) == len(images)]
        if not felt:
            return None
        weights = [torch.randn(each.shape, device=each.device) for each in felt]  # a softmax's sum has no gradient
        total = torch.stack([(each * weight).sum() for each, weight in zip(felt, weights, strict=True)]).sum()
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        if gradient is None:
            return None
        sizes = gradient.float().flatten(1).abs().amax(1)
        own = max(own, float(sizes[place]))
        sizes[place] = 0
        across = max(across, float(sizes.max()))
    return across / own if own else (math.inf if across else None)


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _without_batch_statistics(network: nn.Module) -> nn.Module:
    """Have batch norms use running statistics: they mix samples by design."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if module.running_mean is None:  # it keeps none, and would use the batch's in any mode
                module.running_mean = torch.zeros(module.num_features, device=first_floating(network).device)
                module.running_var = torch.ones_like(module.running_mean)
    return network


def _deterministic(trial: Trial) -> Check:
    """Ask whether the same seed makes the same network, and the same steps."""
    name = "deterministic"
    one, other = _few_steps(trial), _few_steps(trial)
    steps = f"the same steps under seed {trial.seed}, twice"
    apart = max(map(_apart, one, other))
    if apart == 0:
        return _check(name, "ok", 0.0, f"{steps}: the same to the last bit")
    message = f"{steps}: losses or parameters differ by {units.short(apart)} of their size"
    if apart < ROUNDING:
        status: Status = "warning" if trial.device == "cpu" else "ok"
        return _check(name, status, apart, f"{message}: rounding", "torch.use_deterministic_algorithms(True) names it")
    hint = "draw random numbers from torch alone: its seed does not reach random, NumPy or generators of your own"
    return _check(name, "failed", apart, message, hint)


ROUNDING = 1e-5
"""Of float32's 24 bits, what a few sums in another order may change."""


def _few_steps(trial: Trial) -> list[Tensor]:
    """Return parameters and buffers before some steps and after them, and the losses."""
    network = trial.network()
    before = [each.detach().clone() for each in (*network.parameters(), *network.buffers())]
    optimizer = torch.optim.SGD(_trained(network), 1e-3)
    losses = [torch.tensor(_step(trial, network, optimizer, batch)[0]) for batch in trial.batches[:2]]
    return [*before, *(each.detach() for each in (*network.parameters(), *network.buffers())), *losses]


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    if torch.equal(one, other):
        return 0.0
    size = float(one.double().norm())
    difference = float((one.double() - other.double()).norm())
    return difference / size if size else difference


# Signals -------------------------------------------------------------------------------------------------------------


def _dead_relus(trial: Trial, start: _Start, fit: _Fit | None) -> Check:
    """Ask whether every rectified unit fires for some image, at the start and behind what was learned."""
    name = "dead ReLUs"
    if not start.relus:
        return _check(name, "skipped", None, "the network has none")
    seen = units.integer(sum(len(labels) for _, labels in trial.batches))
    dead = [key for key, relu in start.relus.items() if relu.held_back and not relu.fired.any()]
    silent = {key: int((~relu.fired).sum()) for key, relu in start.relus.items() if not relu.fired.all()}
    number = float(sum(silent.values()))
    if dead:
        message = f"no unit of {_listed(dead)} fires for any of {seen} images"
        return _check(name, "failed", number, message, "is a bias far below 0, or the layer before it negative?")
    learned = _relus_after(trial, fit.network) if fit and not fit.not_finite else {}
    died = {
        key: int((~relu.fired & start.relus[key].fired).sum())
        for key, relu in learned.items()
        if key in start.relus and relu.fired.shape == start.relus[key].fired.shape
    }
    died = {key: count for key, count in died.items() if count}
    if died:
        worst = max(died, key=died.__getitem__)
        share = f"{died[worst]} of {units.integer(len(start.relus[worst].fired))} units of {worst}"
        total = sum(died.values())
        message = f"{units.plural(total, 'unit')} died while it learned, {share} among them"
        return _check(name, "warning", number + total, message, "lower the learning rate?")
    if silent:
        worst = max(silent, key=silent.__getitem__)
        share = f"{silent[worst]} of {units.integer(len(start.relus[worst].fired))} units of {worst}"
        message = f"{share} never fired for {seen} images, {units.plural(int(number), 'unit')} in all"
        return _check(name, "warning", number, message, "few, at the start, are common; are its biases low?")
    return _check(name, "ok", 0.0, f"all units of {units.plural(len(start.relus), 'rectifier')} fire")


def _relus_after(trial: Trial, network: nn.Module) -> Mapping[str, _Relu]:
    watch = _Watch(network)
    with torch.no_grad():
        for images, _ in trial.batches:
            with watch:
                network(images)
    return watch.relus


FLAT, STEEP, ALIKE = 1e-5, 1e5, 1e-3
"""Gradients at the first layer over those at the last, and the share of what the last gets that differs between images.
Of 35 healthy networks that were tried at 32 to 64 pixels the first lie between 0.001 and 2,000 and the second above
0.05; 30 convolutions with PyTorch's initialisation and no norm between them have 1e-14 and 1e-8."""


def _depth(moved: _Moved, fit: _Fit | None) -> Check:
    """Ask whether differences between images reach the last layer, and gradients the first."""
    name = "depth"
    known = [each for each in moved.norms if each.gradient is not None]
    if len(known) < 2:
        return _check(name, "skipped", None, "fewer than two layers with weights get a gradient")
    first, last = known[0], known[-1]
    assert first.gradient is not None
    assert last.gradient is not None
    if not first.gradient or not last.gradient:
        return _check(name, "skipped", None, "a layer's gradient is 0: see what moves, and what is dead")
    ratio = first.gradient / last.gradient
    layers = units.plural(len(known), "layer")
    message = f"over {layers} gradients change {units.short(ratio)}x on their way back"
    message += f", images differ by {units.short(100 * last.contrast)} % before the last"
    if FLAT < ratio < STEEP and last.contrast > ALIKE:
        return _check(name, "ok", ratio, message)
    hint = (
        "put norms between the layers, or skips around them, or initialise for the activation: nn.init.kaiming_normal_"
    )
    learns = fit is not None and (fit.learned or fit.out_of_time)
    word = "they vanish: " if ratio <= FLAT else "they explode: " if ratio >= STEEP else "images look alike: "
    return _check(name, "warning" if learns or fit is None else "failed", ratio, word + message, hint)


def _shuffled(trial: Trial, fit: _Fit | None) -> Check:
    """Ask whether true labels are learned sooner than shuffled ones, or tell of other images more than they do."""
    name = "shuffled labels"
    if fit is None:
        return _check(name, "skipped", None, NO_LABELS)
    if not fit.learned:
        return _check(name, "skipped", None, "it does not learn the true ones")
    few = _few(trial, FEW // 2)
    labels = torch.cat([labels for _, labels in few])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(trial.seed))
    shuffled = torch.split(labels[order.to(labels.device)], FEW // 2)
    true = _learned(trial, few, EPOCHS, _clock() + trial.time_s / 6)
    wrong = [(images, each) for (images, _), each in zip(few, shuffled, strict=True)]
    other = _learned(trial, wrong, true.epochs, math.inf)
    message = (
        f"mean loss over {units.plural(true.epochs, 'epoch')} of {len(labels)} images: "
        f"{units.decimal(true.loss, 2)} with true labels, {units.decimal(other.loss, 2)} with shuffled ones; then "
        f"{units.percent(true.of_others, 0)} % and {units.percent(other.of_others, 0)} % of other images are right"
    )
    ratio = other.loss / true.loss if true.loss else math.inf
    if min(true.loss, other.loss) > SLOW * _guessing(torch.cat([labels for _, labels in few])):
        return _check(name, "skipped", None, f"neither is learned in {units.plural(true.epochs, 'epoch')}")
    if ratio > 1 or true.of_others > other.of_others + TELLS:
        return _check(name, "ok", ratio, message)
    return _check(name, "warning", ratio, message, "do images and labels belong together?")


EPOCHS = 10
SLOW = 0.9
"""Of the loss of a guess by the classes' shares: what stays above it has hardly begun to learn."""
TELLS = 0.1
"""Large networks with batch norm learn fifty images of any labels as fast; then the true ones should tell of others."""


@dataclass(frozen=True)
class _Learned:
    """What a few images taught."""

    loss: float
    """The mean over all epochs."""
    epochs: int
    of_others: float
    """The share of images never seen that it gets right, in training mode."""


def _learned(trial: Trial, few: Sequence[Batch], epochs: int, ends: float) -> _Learned:
    """Learn a few images; time may cut the epochs."""
    network = trial.network()
    optimizer = torch.optim.Adam(_trained(network), 1e-3)
    losses: list[float] = []
    for _ in range(epochs):
        losses += [_step(trial, network, optimizer, batch)[0] for batch in few]
        if not math.isfinite(losses[-1]):
            raise NotFiniteError(f"a loss in step {len(losses)}")
        if _clock() > ends:
            break
    others = trial.batches[-(-FEW // BATCH) :]
    with torch.no_grad():
        right = [_scores(network(images)).argmax(1) == labels for images, labels in others]
    share = float(torch.cat(right).float().mean()) if right else 0.0
    return _Learned(sum(losses) / len(losses), len(losses) // len(few), share)
