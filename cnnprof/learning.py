"""Models that learn side by side: the same images in the same order, taking turns by the epoch, from several seeds."""

import hashlib
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cnnprof import machine, module_tree, optimizers, origin, statistics, timing, units
from cnnprof.analysis import counts
from cnnprof.errors import Interrupted, NotFiniteError, UsageError, checked_count, said
from cnnprof.inputs import Inputs
from cnnprof.matching import matched
from cnnprof.models import catalog
from cnnprof.records import (
    AccuracyDifference,
    Comparison,
    Count,
    DataSet,
    Depth,
    Doubt,
    Learner,
    Mode,
    Settings,
    Training,
    TrainingConfig,
    TrainingContrast,
    TrainingRun,
)
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import SEEDS, Model, Subject, image_size, settings_of, subject_of, told_apart
from cnnprof.training import checkpoints as files
from cnnprof.training.data import Pictures, batches, load
from cnnprof.training.progress import Tick
from cnnprof.training.sanity import BATCH, Trial, norms, nothing_to_train, unregistered_weights
from cnnprof.training.trainer import ClassifierTrainer, History, scores_of

EPOCHS = 10
"""As long as a run takes where neither epochs nor seconds are given."""


@dataclass(frozen=True)
class Listener:
    """Who hears of training while it goes on: each state of the document, and each tick with its model and seed."""

    update: Callable[[Any], None] | None = None
    """Takes a Training, or the comparison that it stands beside."""
    tick: Callable[[str, int, Tick], None] = lambda name, seed, tick: None


class How(TypedDict, total=False):
    """How models are trained; see `prepared` for the defaults."""

    data: str
    data_dir: str | Path | None
    download: bool
    epochs: int | None
    time_s: float | None
    optimizer: str
    seeds: Sequence[int]
    augment: bool
    device: str
    amp: bool
    channels_last: bool
    compile: bool
    threads: int | None
    checkpoints: str | Path | None


@deep_recursion()
def train(
    models: Mapping[str, Model] | Sequence[Model],
    input_size: Sequence[int] | int | None = None,
    batch_size: int = 64,
    *,
    keep_checkpoints: bool = True,
    listener: Listener | None = None,
    **how: Unpack[How],
) -> Training:
    """Train classifiers from each seed for `epochs` (10 by default) or for `time_s` seconds of training steps a run.

    The first is the baseline; differences of the test accuracy are paired over seeds. `optimizer` is one of torch.optim
    with its arguments: 'sgd(lr=0.1, momentum=0.9)'. `data` is auto, digits, cifar10, cifar100, mnist, fashion-mnist,
    folder:PATH or fake. `checkpoints` is a folder, from which runs that were ended go on; they are kept, or removed
    when all is done. Raises UsageError for unusable input, and Interrupted, with what was learned, at Ctrl-C.
    """
    experiment = prepared(models, input_size, batch_size, **how)
    record = experiment.run(listener or Listener())
    if not keep_checkpoints and not any(run.failure for run in record.runs):
        experiment.remove_checkpoints()
    return record


def prepared(
    models: Mapping[str, Model] | Sequence[Model],
    input_size: Sequence[int] | int | None = None,
    batch_size: int = 64,
    *,
    data: str = "auto",
    data_dir: str | Path | None = None,
    download: bool = False,
    epochs: int | None = None,
    time_s: float | None = None,
    optimizer: str = "adam",
    seeds: Sequence[int] = (42, 43, 44),
    augment: bool = False,
    device: str = "auto",
    amp: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    threads: int | None = None,
    checkpoints: str | Path | None = None,
) -> "Experiment":
    """Check and load all that `train` needs, and train nothing yet."""
    if isinstance(models, str | nn.Module):
        models = [models]
    named = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    if not named:
        raise UsageError("train takes a model or more and was given none")
    if epochs is not None:
        checked_count("epochs", epochs)
    if isinstance(seeds, int) or not seeds:
        raise UsageError(f"seeds {seeds!r}: one whole number or more were expected in a sequence, such as (42, 43, 44)")
    epochs = EPOCHS if epochs is None and time_s is None else epochs
    for seed in seeds:
        if not 0 <= seed < SEEDS:
            raise UsageError(f"seed {seed!r}: a whole number from 0 to {SEEDS - 1} was expected")
    settings = settings_of(
        input_size,
        batch_size,
        {
            "device": device,
            "amp": amp,
            "channels_last": channels_last,
            "compile": compile,
            "threads": threads,
            "time_s": time_s,
        },
    )
    if epochs is not None and time_s is not None:
        asked = f"{units.plural(epochs, 'epoch')} and {units.seconds(time_s)} were asked for"
        raise UsageError(f"{asked}: a run ends after one or the other; leave one out")
    subjects = told_apart([subject_of(name, model, input_size, batch_size, None) for name, model in named])
    config = TrainingConfig(
        batch_size=batch_size,
        optimizer=optimizer,
        epochs=epochs,
        time_s=time_s,
        seeds=tuple(dict.fromkeys(seeds)),
        device=settings.device,
        augment=augment,
        amp=amp,
        channels_last=channels_last,
        compile=compile,
        threads=threads,
    )
    make = optimizers.maker(optimizer, settings.device.startswith("cuda"))
    folder = None if checkpoints is None else Path(checkpoints)
    if folder is not None and folder.is_file():
        raise UsageError(f"checkpoints: {folder} is a file; a folder was expected")
    seen = _pictures(subjects, lambda size: load(data, size, data_dir=data_dir, download=download))
    learners = tuple(_learner(subject, seen[subject.name], make) for subject in subjects)
    fingerprints = {subject.name: _fingerprint(subject) for subject in subjects} if folder is not None else {}
    return Experiment(subjects, learners, seen, config, settings, make, folder, fingerprints)


def of_compared(
    models: Sequence[str], match: Count | None = None, input_size: Sequence[int] | int | None = None, **how: Unpack[How]
) -> "Experiment":
    """Prepare what compared classifiers learn; of blocks, what small networks learn that are made of them.

    Those are `stack`s of each block, as large as the first by `match`, params by default, and one of the first without
    skips. `how` are options of `train`.
    """
    subjects = told_apart([subject_of(None, model, None, 1, None) for model in models])
    names = [subject.name for subject in subjects]
    if all(catalog.parse(model).name in catalog.BLOCKS for model in models):
        return prepared(_stacks(names, models, match or "params"), **how)
    return prepared(dict(zip(names, models, strict=True)), input_size, **how)


def alongside(comparison: Comparison, experiment: "Experiment", listener: "Listener") -> Comparison:
    """Add to a comparison what its models learn. What Interrupted holds at Ctrl-C is the comparison."""

    def told(training: Training) -> None:
        if listener.update is not None:
            listener.update(replace(_with(comparison, training), partial=True))

    try:
        return _with(comparison, experiment.run(replace(listener, update=told)))
    except Interrupted as interrupted:
        raise Interrupted(replace(_with(comparison, interrupted.run), partial=True)) from None
    except KeyboardInterrupt:  # before anything was learned
        raise Interrupted(replace(comparison, partial=True)) from None


def _with(comparison: Comparison, training: Training) -> Comparison:
    first = {run.model: run for run in reversed(training.runs)}
    pairs = zip(comparison.profiles, training.models, strict=False)  # of blocks, the plain network has no profile
    profiles = tuple(replace(profile, training_run=first.get(learner.name)) for profile, learner in pairs)
    return replace(comparison, profiles=profiles, training=training)


PLAIN = "plain"
"""What the first block is called where its skips are left out."""


def _stacks(names: Sequence[str], blocks: Sequence[str], match: Count) -> Mapping[str, Model]:
    """Stack each block, and the first one without its skips, as large as the first stack."""
    first, *others = map(_stack, blocks)
    fair: list[Model] = [first, *(matched(first, other, match, "channels") for other in others)]
    bare = catalog.with_argument(first, "skip", False)
    return {**dict(zip(names, fair, strict=True)), f"{names[0]}, {PLAIN}" if PLAIN in names else PLAIN: bare}


def _stack(block: str) -> str:
    """Write the MODEL string of a small network of a block: with its options, but for its width."""
    spec, given = catalog.parse(block), catalog.resolve(block).arguments
    usual = catalog.resolve(spec.name).arguments
    options = {name: value for name, value in given.items() if value != usual[name] and name != "channels"}
    return f"stack({', '.join(f'{name}={value!r}' for name, value in {'block': spec.name, **options}.items())})"


# A run ---------------------------------------------------------------------------------------------------------------


Key = tuple[str, int]
"""A model's name and a seed."""
Runs = Mapping[Key, TrainingRun]


@dataclass(frozen=True)
class Experiment:
    """Models, what they learn from, and how."""

    subjects: Sequence[Subject]
    learners: Sequence[Learner]
    pictures: Mapping[str, Pictures]
    """What each is shown: the same images, in its own size."""
    config: TrainingConfig
    settings: Settings
    make_optimizer: optimizers.Maker
    checkpoints: Path | None
    fingerprints: Mapping[str, str]
    """What tells each model from one of other code: a checkpoint is that of a model that computes the same."""

    def run(self, listener: "Listener") -> Training:
        """Train all of them; at Ctrl-C, Interrupted holds what was learned."""
        runs: Runs = {}
        with timing.surroundings(self.settings), files.RandomState.kept():
            document = partial(self._document, self._start())
            try:
                for known in itertools.chain([runs], self.epochs(listener)):
                    runs = known
                    if listener.update is not None:
                        listener.update(document(runs, True))
            except KeyboardInterrupt:
                raise Interrupted(document(runs, True)) from None
        return document(runs, False)

    def _start(self) -> Training:
        """Say what holds before anything is learned."""
        seen = self.pictures[self.subjects[0].name]
        return Training(
            command=origin.command(),
            commit=origin.commit(),
            created=origin.now(),
            machine=machine.describe(self.settings.device, self.settings.allocator),
            data=seen.name,
            dataset=DataSet(seen.name, seen.note, seen.classes, len(seen.train), len(seen.test)),
            config=self.config,
            baseline=self.subjects[0].name,
            models=tuple(self.learners),
            runs=(),
            comparisons=(),
            depths=tuple(map(self._depth, self.subjects)),
            doubts=tuple(itertools.chain.from_iterable(map(self._unregistered, self.subjects))),
        )

    def _trial(self, subject: Subject) -> Trial:
        """Make a trial of an untrained model on the first batch."""
        (first, *_) = batches(self.pictures[subject.name], "train", self.config.batch_size, device=self.config.device)
        return Trial(subject.build, [first], seed=self.config.seeds[0], device=self.config.device)

    def _depth(self, subject: Subject) -> Depth:
        """See how large activations and gradients are on the way through a model that has learned nothing."""
        try:
            return Depth(subject.name, norms(self._trial(subject)))
        except (Exception, SystemExit):  # noqa: BLE001  # a model may raise anything; its own training will say so
            return Depth(subject.name, ())

    def _unregistered(self, subject: Subject) -> Iterator[Doubt]:
        """Doubt the results of a model whose weights are not all parameters."""
        try:
            found, hint = unregistered_weights(self._trial(subject), subject.module)
        except (Exception, SystemExit):  # noqa: BLE001  # a model may raise anything; its own training will say so
            return
        if found:
            yield Doubt(subject.name, f"{found}; they do not learn", hint)

    def _document(self, start: Training, runs: Runs, partial: bool) -> Training:
        contrasts = (
            _contrast(subject.name, start.baseline, runs, start.dataset.test_images) for subject in self.subjects[1:]
        )
        return replace(
            start,
            runs=tuple(runs.values()),
            comparisons=tuple(contrasts),
            doubts=(*start.doubts, *_doubts(self, runs)),
            partial=partial,
        )

    def epochs(self, listener: Listener) -> Iterator[Runs]:
        """Yield all runs after each epoch of each: seed by seed, where models take turns."""
        runs: dict[Key, TrainingRun] = {}
        for seed in self.config.seeds:
            trainings = {
                subject.name: self._train(subject, seed, partial(listener.tick, subject.name, seed))
                for subject in self.subjects
            }
            while trainings:
                for name, training in list(trainings.items()):
                    key = name, seed
                    try:
                        runs[key] = _run_of(key, next(training))
                    except StopIteration:
                        del trainings[name]
                        continue
                    except (Exception, SystemExit) as error:  # noqa: BLE001  # a model may raise anything
                        run = runs.get(key, TrainingRun(*key))
                        runs[key] = replace(run, failure=_why(error, run))
                        del trainings[name]
                    yield dict(runs)

    def _train(self, subject: Subject, seed: int, tick: Callable[[Tick], None]) -> Iterator[History]:
        """Build a model from a seed and train it; everything that draws numbers starts from that seed."""
        _seed_all(seed)
        config = self.config
        model = subject.build().to(config.device)
        trainer = ClassifierTrainer(
            model,
            F.cross_entropy,
            self.make_optimizer(model),
            amp=config.amp,
            channels_last=config.channels_last,
            compile=config.compile,
            listener=tick,
        )
        shown = partial(batches, self.pictures[subject.name], device=config.device, channels_last=config.channels_last)
        yield from trainer.epochs(
            shown("train", config.batch_size, seed=seed, augment=config.augment),
            shown("test", 4 * config.batch_size),
            config.epochs,
            checkpoints=self.checkpoint(subject, seed),
            time_s=config.time_s or math.inf,
        )

    def checkpoint(self, subject: Subject, seed: int) -> Path | None:
        """Name the file of a run by all that decides what it gives, but not by how long it goes on."""
        if self.checkpoints is None:
            return None
        seen = self.pictures[subject.name]
        given = replace(self.config, epochs=None, time_s=None, seeds=(seed,))
        decides = (
            f"{self.fingerprints[subject.name]}|{subject.name}|{image_size(subject)}|{seen.name}|{seen.note}|{given}"
        )
        slug = re.sub(r"[^\w.-]+", "-", subject.name).strip("-.")[:60] or "model"
        return self.checkpoints / f"{slug}-seed{seed}-{hashlib.sha256(decides.encode()).hexdigest()[:8]}.pt"

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of all runs, and the folder where nothing else is in it."""
        for subject, seed in itertools.product(self.subjects, self.config.seeds):
            path = self.checkpoint(subject, seed)
            if path is not None:
                path.unlink(missing_ok=True)
        if self.checkpoints is not None:
            with suppress(OSError):  # it was never made, or holds what is not ours
                self.checkpoints.rmdir()


def _seed_all(seed: int) -> None:
    for seeded in (torch.manual_seed, random.seed, np.random.seed):
        seeded(seed)


def _run_of(key: Key, history: History) -> TrainingRun:
    wrong = tuple(place for place, right in enumerate(history.test_right) if not right)
    return TrainingRun(
        *key,
        train_loss=history.train_loss,
        train_accuracy_percent=history.train_accuracy_percent,
        test_loss=history.test_loss,
        test_accuracy_percent=history.test_accuracy_percent,
        images=history.images,
        step_times_s=history.step_times_s,
        test_wrong=wrong,
        resumed_at=history.resumed_at,
        not_saved=history.not_saved,
    )


def _why(error: BaseException, run: TrainingRun) -> str:
    """Say what ended a run, and in which epoch, if not in its first."""
    if isinstance(error, NotFiniteError):
        return str(error)
    return f"epoch {len(run.train_loss) + 1}: {said(error)}" if run.train_loss else said(error)


def _pictures(
    subjects: Sequence[Subject], loaded: Callable[[tuple[int, int, int]], Pictures]
) -> Mapping[str, Pictures]:
    """Load the images once a size."""
    sizes = dict.fromkeys(map(image_size, subjects))
    by_size = {size: loaded(size) for size in sizes}
    return {subject.name: by_size[image_size(subject)] for subject in subjects}


def _learner(subject: Subject, seen: Pictures, make_optimizer: optimizers.Maker) -> Learner:
    size = image_size(subject)

    def macs(mode: Mode) -> int:
        image = Inputs.without_values(size, 2)
        found = counts.analyze(subject.module, image, model=subject.resolved, mode=mode, with_weights=subject.build)
        return found.macs // 2

    forward = macs("inference")  # which says where maps shrink to nothing, before anything runs
    if not subject.trainable:
        images = torch.zeros(BATCH, *size), torch.zeros(BATCH, dtype=torch.int64)
        instead = nothing_to_train(Trial(subject.build, [images]))
        raise UsageError(f"{subject.name} has no parameter that requires a gradient: {instead}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = subject.build().eval()
        try:
            found = scores_of(module(torch.zeros(2, *size))).shape[1]
        except UsageError as error:
            raise UsageError(f"{subject.name}: {error}") from None
    if found != seen.classes:
        raise UsageError(
            f"{subject.name} gives {units.plural(found, 'score')}, {seen.name} has {seen.classes} classes"
            f"{_mended(subject, seen)}"
        )
    make_optimizer(module)
    params = module_tree.count_parameters(module)
    asked = subject.asked[1]
    text = asked.removeprefix(f"{subject.name}=") if isinstance(asked, str) else subject.resolved
    return Learner(subject.name, text, size, params, forward, macs("training"))


def _fingerprint(subject: Subject) -> str:
    """Hash how a model prints, and what it makes of fixed images and weights in both modes."""
    with files.RandomState.kept(), torch.no_grad():
        _seed_all(0)
        model, images = subject.build(), torch.randn(4, *image_size(subject))
        made = []
        with suppress(Exception, SystemExit):  # a model may raise anything; its own training will say so
            made += [scores_of(model.train(mode)(images)).double().numpy().tobytes() for mode in (False, True)]
    return hashlib.sha256(b"".join([repr(model).encode(), *made])).hexdigest()


def _mended(subject: Subject, seen: Pictures) -> str:
    """Say how a model gets as many scores as there are classes."""
    text = subject.asked[1]
    taken = catalog.resolve(text).arguments if isinstance(text, str) else {}
    argument = next((name for name in ("num_classes", "out_classes") if name in taken), None)
    if argument is None:
        return f"; build it with {seen.classes} outputs"
    return f"; try {catalog.with_argument(text, argument, seen.classes)!r}"


# The document --------------------------------------------------------------------------------------------------------


def _contrast(name: str, baseline: str, runs: Runs, test_images: int) -> TrainingContrast:
    """Pair a model with the baseline over the seeds from which both came to their end."""
    ended = {key: run for key, run in runs.items() if run.failure is None and run.final_percent is not None}
    pairs = [
        (run, ended[baseline, seed]) for (of, seed), run in ended.items() if of == name and (baseline, seed) in ended
    ]
    if not pairs:
        return TrainingContrast(name, AccuracyDifference(None, None, "inconclusive", 0))
    differences = [(mine.final_percent or 0.0) - (its.final_percent or 0.0) for mine, its in pairs]
    bounds = statistics.paired(differences, _sampling_error(pairs, test_images))
    mean = math.fsum(differences) / len(differences)
    verdict = statistics.accuracy_verdict(bounds)
    return TrainingContrast(name, AccuracyDifference(mean, bounds, verdict, len(pairs)))


def _sampling_error(pairs: Sequence[tuple[TrainingRun, TrainingRun]], test_images: int) -> float:
    """Return the standard error, in percentage points, that comes of testing on these images and not on others."""
    gained = np.zeros(test_images)
    for mine, its in pairs:
        gained[list(its.test_wrong)] += 1 / len(pairs)
        gained[list(mine.test_wrong)] -= 1 / len(pairs)
    return 100 * float(gained.std()) / math.sqrt(test_images)


def _doubts(experiment: Experiment, runs: Runs) -> Iterator[Doubt]:
    config = experiment.config
    if len(config.seeds) < 2 and len(experiment.subjects) > 1:
        yield Doubt("seeds", "one seed carries no interval: another one may turn the order round", "--seeds 3")
    if len(experiment.subjects) > 1:
        about = f"all models were trained with {config.optimizer}: with a rate of its own each may learn better"
        yield Doubt("learning rate", about, "cnnprof train with another --optimizer or --lr")
    for subject in experiment.subjects:
        if isinstance(subject.asked[1], nn.Module) and len(config.seeds) > 1:
            yield Doubt(subject.name, "it was given as a module: every seed begins with the same weights")
    if len({image_size(subject) for subject in experiment.subjects}) > 1:
        sizes = ", ".join(f"{subject.name} {units.size(image_size(subject))}" for subject in experiment.subjects)
        yield Doubt("input size", f"the images were not of one size: {sizes}", "--input-size")
    for (name, seed), run in runs.items():
        if config.epochs is not None and len(run.train_loss) > config.epochs:
            brought = units.plural(len(run.train_loss), "epoch")
            yield Doubt(name, f"seed {seed}: its checkpoint brought {brought}, more than the {config.epochs} asked for")
        if run.failure:
            yield Doubt(name, f"seed {seed}: it stopped: {run.failure}")
        if run.not_saved:
            yield Doubt(name, f"seed {seed}: {run.not_saved}")
