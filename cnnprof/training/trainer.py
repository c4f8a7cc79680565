"""Trains and tests classifiers: epochs of batches, early stopping, checkpoints that a run goes on from.

The loop never waits for the device: losses and hits stay there, and are fetched at a tick, a few times a second.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnprof import units
from cnnprof.errors import NotFiniteError, UsageError, checked_count, first_line
from cnnprof.inputs import common_type, torch_name
from cnnprof.records import FitResult
from cnnprof.training import checkpoints as files
from cnnprof.training.progress import Tick, bar

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes scores (N, C) and labels, gives one number."""
Batches = Iterable[Sequence[Tensor]]
"""Batches of images (N, ...) and labels (N,), or probabilities (N, C): a DataLoader, or anything like it."""
Listener = Callable[[Tick], None]

TICK_S = 0.25
"""Between two looks at the losses: each waits for the device."""


class EpochResult(NamedTuple):
    """What one pass over the batches gave."""

    losses: list[float]
    """One a batch."""
    accuracy: float
    """Percent of the samples seen."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the batches, whole."""

    losses: tuple[float, ...]
    sizes: tuple[int, ...]
    """Samples by batch."""
    right: tuple[bool, ...]
    """By sample: whether its highest score is its label's."""
    step_times_s: tuple[float, ...]
    """From one step's start to the next one's, waiting for data included."""

    @property
    def loss(self) -> float:
        """The mean over its samples."""
        return sum(loss * size for loss, size in zip(self.losses, self.sizes, strict=True)) / sum(self.sizes)

    @property
    def accuracy(self) -> float:
        """Percent of its samples."""
        return 100 * sum(self.right) / len(self.right)


@dataclass(frozen=True)
class History:
    """All that a run has shown so far, epoch by epoch."""

    train_loss: tuple[float, ...] = ()
    train_accuracy_percent: tuple[float, ...] = ()
    test_loss: tuple[float, ...] = ()
    test_accuracy_percent: tuple[float, ...] = ()
    images: tuple[int, ...] = ()
    """Trained on, by epoch."""
    step_times_s: tuple[tuple[float, ...], ...] = ()
    """Of training steps, by epoch."""
    test_right: tuple[bool, ...] = ()
    """By test sample, of the last epoch."""
    not_saved: str | None = None
    """Why the last checkpoint could not be written."""
    resumed_at: int = 0
    """The epochs that a checkpoint brought."""

    @property
    def epochs(self) -> int:
        """How many there were."""
        return len(self.train_loss)

    @property
    def train_s(self) -> float:
        """Seconds spent on training steps."""
        return sum(map(sum, self.step_times_s))

    def after(self, train: Epoch, test: Epoch) -> "History":
        """Add an epoch."""
        return replace(
            self,
            train_loss=(*self.train_loss, train.loss),
            train_accuracy_percent=(*self.train_accuracy_percent, train.accuracy),
            test_loss=(*self.test_loss, test.loss),
            test_accuracy_percent=(*self.test_accuracy_percent, test.accuracy),
            images=(*self.images, sum(train.sizes)),
            step_times_s=(*self.step_times_s, train.step_times_s),
            test_right=test.right,
            not_saved=None,
        )

    @property
    def since_best(self) -> int:
        """Epochs since the test accuracy was last higher than ever before."""
        accuracies = self.test_accuracy_percent
        return len(accuracies) - 1 - accuracies.index(max(accuracies)) if accuracies else 0


class ClassifierTrainer:
    """Trains a network with scores (N, C) with any loss and optimizer.

    The optimizer holds the model's parameters. With `device` the model is moved there; else it is trained where it
    lies. `amp` computes in bfloat16 where autocast holds that safe; `compile` runs the model through torch.compile;
    `channels_last` lays weights and images out so.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        optimizer: torch.optim.Optimizer,
        device: str | torch.device | None = None,
        *,
        amp: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        listener: Listener | None = None,
    ) -> None:
        """`listener` hears of every tick in place of the progress bar."""
        self.model = model if device is None else model.to(device)
        self.loss_fn, self.optimizer = loss_fn, optimizer
        first = next(model.parameters(), None)
        self.device = torch.device(device or (first.device if first is not None else "cpu"))
        if channels_last:
            model.to(memory_format=torch.channels_last)
        self._layout = torch.channels_last if channels_last else torch.preserve_format
        self._dtype = common_type(model)
        self._autocast = partial(torch.autocast, self.device.type, torch.bfloat16) if amp else nullcontext
        self._called: Callable[[Tensor], Any] = torch.compile(model) if compile else model
        self._listener = listener
        closure = signature(optimizer.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is closure.empty

    # One epoch -------------------------------------------------------------------------------------------------------

    def train_epoch(self, dl: Batches, max_batches: int | None = None, verbose: bool = True) -> EpochResult:
        """Train on every batch, in train mode. Raises NotFiniteError where the loss is no number any more."""
        epoch = self._train(dl, max_batches, verbose)
        return EpochResult([*epoch.losses], epoch.accuracy)

    def test_epoch(self, dl: Batches, max_batches: int | None = None, verbose: bool = True) -> EpochResult:
        """Test on every batch, in eval mode and without gradients; the mode is put back. Raises NotFiniteError."""
        epoch = self._test(dl, max_batches, verbose)
        return EpochResult([*epoch.losses], epoch.accuracy)

    def _train(
        self, dl: Batches, max_batches: int | None, verbose: bool, number: int = 1, time_s: float = math.inf
    ) -> Epoch:
        self.model.train()
        with self._shown(f"train {number}", verbose) as shown:
            return self._pass(dl, max_batches, self._train_step, shown, time_s)

    def _test(self, dl: Batches, max_batches: int | None, verbose: bool, number: int = 1) -> Epoch:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self._shown(f"test {number}", verbose) as shown:
                return self._pass(dl, max_batches, self._scored, shown, called="test step")
        finally:
            self.model.train(training)

    def _shown(self, what: str, verbose: bool) -> AbstractContextManager[Listener]:
        if self._listener is not None:
            return nullcontext(self._listener)
        return bar(what) if verbose else nullcontext(lambda tick: None)

    def _pass(
        self,
        dl: Batches,
        max_batches: int | None,
        step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        shown: Listener,
        time_s: float = math.inf,
        called: str = "step",
    ) -> Epoch:
        """Take every batch through a step that gives its loss and its hits."""
        _check_batches(dl)
        if max_batches is not None:
            checked_count("max_batches", max_batches)
        seen = _Seen(called)
        total = min(filter(None, (length_hint(dl), max_batches)), default=None)
        watch = _Stopwatch(self.device)
        begun = looked = time.perf_counter()
        for images, labels in map(_pair, islice(dl, max_batches)):
            layout = self._layout if images.ndim == 4 else torch.preserve_format
            dtype = self._dtype if images.is_floating_point() else None
            images = images.to(self.device, dtype, non_blocking=True, memory_format=layout)
            seen.add(*step(images, labels.to(self.device, non_blocking=True)))
            now = time.perf_counter()
            watch.lap()
            if now - looked >= TICK_S:
                seen.fetch()
                shown(seen.tick(total, now - begun))
                looked = time.perf_counter()
            if now - begun >= time_s:
                break
        seen.fetch()
        if not seen.losses:
            raise UsageError("there is no batch to train or test on: the loader is empty, or an iterator used up")
        epoch = seen.epoch(watch.laps_s())
        shown(seen.tick(len(seen.losses), time.perf_counter() - begun))
        return epoch

    def _scored(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast():
            scores = scores_of(self._called(images))
            loss = self._loss(scores, labels)
        return loss, scores.detach().argmax(1) == _classes(labels, scores)

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        try:
            loss = self.loss_fn(scores, labels)
        except torch.OutOfMemoryError:  # a RuntimeError, but nobody's mistake in its use
            raise
        except IndexError as error:
            classes = units.plural(scores.shape[1], "class")
            ran = f"labels run from {labels.min()} to {labels.max()}, the model scores {classes}"
            raise UsageError(f"{ran}: {first_line(error)}") from error
        except (RuntimeError, ValueError, TypeError) as error:
            given = f"scores {_told(scores)} with labels {_told(labels)}"
            raise UsageError(f"the loss does not take {given}: {first_line(error)}") from error
        if not isinstance(loss, Tensor) or loss.ndim:
            raise UsageError(f"a loss gives one number, as a tensor; found {_told(loss)}")
        return loss

    def _train_step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found: list[tuple[Tensor, Tensor]] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss, hits = self._scored(images, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            found.append((loss.detach(), hits))
            return loss

        if self._needs_closure:  # it calls it several times; the first time shows the weights that the batch met
            self.optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            self.optimizer.step()
        return found[0]

    # Many epochs -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        dl_train: Batches,
        dl_test: Batches,
        num_epochs: int,
        checkpoints: str | Path | None = None,
        early_stopping: int | None = None,
        max_batches: int | None = None,
        verbose: bool = True,
    ) -> FitResult:
        """Train and test `num_epochs` times.

        `checkpoints` names a file, NAME.pt, that is written after every epoch; where it is there already, the run goes
        on from it, with the optimizer's settings that it holds, and gives what an uninterrupted one would have given,
        random numbers included (but those of persistent workers and of a data set's own generator). `early_stopping`:
        as many epochs without a higher test accuracy end it. Raises UsageError for batches, labels and counts that it
        does not take and for a checkpoint of another model or optimizer, and NotFiniteError where the loss is no number
        any more; the last checkpoint stands.
        """
        checked_count("num_epochs", num_epochs)
        history = History()
        for history in self.epochs(dl_train, dl_test, num_epochs, checkpoints, early_stopping, max_batches, verbose):
            if history.not_saved:
                warnings.warn(history.not_saved, RuntimeWarning, stacklevel=2)
        return FitResult(
            history.epochs,
            [*history.train_loss],
            [*history.train_accuracy_percent],
            [*history.test_loss],
            [*history.test_accuracy_percent],
        )

    def epochs(
        self,
        dl_train: Batches,
        dl_test: Batches,
        num_epochs: int | None,
        checkpoints: str | Path | None = None,
        early_stopping: int | None = None,
        max_batches: int | None = None,
        verbose: bool = True,
        time_s: float = math.inf,
    ) -> Iterator[History]:
        """Yield the history, as a checkpoint holds it, then after every epoch.

        The run keeps its own random state, so that several can take turns and each gives what it gives alone. It ends
        after `num_epochs`, or with the step in which its training has taken `time_s`.
        """
        _check_batches(dl_test)  # before an epoch is spent
        for name, count in (("num_epochs", num_epochs), ("early_stopping", early_stopping)):
            if count is not None:
                checked_count(name, count)
        generators = _generators(dl_train, dl_test)
        path = files.path_of(checkpoints) if checkpoints is not None else None
        history, state = (path and self._resumed(path)) or (History(), files.RandomState.now(generators))
        if history.epochs:
            yield history
        while not _ended(history, num_epochs, early_stopping, time_s):
            state.restore(generators)
            for each in _with_samplers(dl_train):
                if hasattr(each, "set_epoch"):
                    each.set_epoch(history.epochs)
            number = history.epochs + 1
            try:
                train = self._train(dl_train, max_batches, verbose, number, time_s - history.train_s)
                test = self._test(dl_test, max_batches, verbose, number)
            except NotFiniteError as error:
                raise NotFiniteError(f"epoch {number}, {error}") from None
            history = history.after(train, test)
            state = files.RandomState.now(generators)
            if path is not None:
                history = replace(history, not_saved=self._not_saved(path, history, state))
            yield history

    def _not_saved(self, path: Path, history: History, state: files.RandomState) -> str | None:
        """Write a checkpoint; where that fails, say why: what is learned is worth more than the file."""
        learned = {"model": self.model.state_dict(), "optimizer": files.of_optimizer(self.optimizer)}
        try:
            files.save(path, {**learned, "history": vars(history), "random": state.states})
        except OSError as error:
            return f"{path}: epoch {history.epochs} was not saved: {error.strerror}; the file stands as it was"
        return None

    def _resumed(self, path: Path) -> tuple[History, files.RandomState] | None:
        saved = files.load(path)
        if saved is None:
            return None
        files.check_is_of(path, saved["model"], self.model.state_dict())
        files.load_optimizer(path, saved["optimizer"], self.optimizer)
        self.model.load_state_dict(saved["model"])
        history = History(**saved["history"])
        return replace(history, resumed_at=history.epochs), files.RandomState(saved["random"])


def _ended(history: History, num_epochs: int | None, early_stopping: int | None, time_s: float) -> bool:
    enough = num_epochs is not None and history.epochs >= num_epochs
    stale = early_stopping is not None and history.since_best >= early_stopping
    return enough or stale or history.train_s >= time_s


def _check_batches(dl: object) -> None:
    """Raise UsageError for what is no iterable: a data set, for one."""
    if not isinstance(dl, Iterable):
        given = type(dl).__name__
        raise UsageError(f"batches were expected, such as DataLoader(dataset, batch_size=64); found {given}")


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the images (N, ...) and labels (N, ...) of a batch. Raises UsageError for what else it holds."""
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        images, labels = batch
        if labels.ndim and len(labels) and images.shape[:1] == labels.shape[:1]:
            return images, labels
    expected = "images (N, ...) and labels (N,) in two tensors of equal, positive length"
    raise UsageError(f"a batch has {expected}, as a DataLoader makes them; found {_told(batch)}")


def _classes(labels: Tensor, scores: Tensor) -> Tensor:
    """Return the classes (N,) of labels, which are that, or probabilities (N, C). Raises UsageError for another."""
    classes = labels.argmax(1) if labels.shape == scores.shape else labels
    if classes.ndim != 1:
        raise UsageError(f"labels {_told(labels)} are neither classes (N,) nor probabilities {tuple(scores.shape)}")
    return classes


def _told(value: Any) -> str:
    """Say types and shapes: list of Tensor (64, 3, 32, 32) float32, Tensor (64) int64."""
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {', '.join(f'{name!r}: {_told(part)}' for name, part in value.items())}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(map(_told, value[:4]))}{', ...' * (len(value) > 4)}"
    shape = [tuple(value.shape), torch_name(value.dtype)] if hasattr(value, "dtype") else []
    return " ".join(map(str, (type(value).__name__, *shape)))


def _generators(*loaders: Batches) -> list[torch.Generator]:
    """Return the generators that loaders draw their order from, where they have their own."""
    found = [getattr(each, "generator", None) for each in _with_samplers(*loaders)]
    return [each for each in dict.fromkeys(found) if isinstance(each, torch.Generator)]


def _with_samplers(*loaders: Any) -> Iterator[Any]:
    """Yield loaders, their samplers, and theirs: a batch sampler has one of its own."""
    for each in loaders:
        if each is not None:
            yield each
            yield from _with_samplers(getattr(each, "sampler", None), getattr(each, "batch_sampler", None))


def scores_of(output: Any) -> Tensor:
    """Return the scores (N, C) of a classifier: of several outputs the first. Raises UsageError for anything else."""
    scores = output
    while not isinstance(scores, Tensor) and isinstance(scores, tuple | list | Mapping) and len(scores):
        scores = next(iter(scores.values() if isinstance(scores, Mapping) else scores))
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise UsageError(f"a classifier gives scores (N, C); the model gave {shape}")
    return scores


class _Seen:
    """Losses and hits of a pass: on the device until they are fetched."""

    def __init__(self, step: str) -> None:
        self._step = step
        self.losses: list[float] = []
        self.right: list[bool] = []
        self.sizes: list[int] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: Tensor, hits: Tensor) -> None:
        self._waiting.append((loss, hits))
        self.sizes.append(len(hits))

    def fetch(self) -> None:
        """Wait for the device. Raises NotFiniteError."""
        if not self._waiting:
            return
        losses, hits = zip(*self._waiting, strict=True)
        self._waiting.clear()
        self.losses += torch.stack(losses).tolist()
        self.right += torch.cat(hits).tolist()
        for number, loss in enumerate(self.losses, 1):
            if not math.isfinite(loss):
                raise NotFiniteError(f"{self._step} {number}: the loss became {loss}; a lower learning rate may help")

    def tick(self, total: int | None, passed_s: float) -> Tick:
        seen = len(self.right)
        return Tick(len(self.losses), total, self.losses[-1], 100 * sum(self.right) / seen, seen / passed_s)

    def epoch(self, laps_s: Sequence[float]) -> Epoch:
        return Epoch(tuple(self.losses), tuple(self.sizes), tuple(self.right), tuple(laps_s))


class _Stopwatch:
    """Time between laps, on the device's own clock where that runs ahead of ours."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []
        self.lap()

    def lap(self) -> None:
        if self._device.type == "cuda":
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._marks[-1].record(torch.cuda.current_stream(self._device))
        else:
            self._marks.append(time.perf_counter())

    def laps_s(self) -> list[float]:
        """Return the time between each two laps. On CUDA all of them must have been waited for."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._device.type == "cuda":
            self._marks[-1].synchronize()
            return [one.elapsed_time(other) / 1e3 for one, other in pairs]
        return [other - one for one, other in pairs]
