"""Whether a model can learn at all: the questions of training.sanity, put to it on real images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cnnprof import errors, machine, module_tree, origin, units
from cnnprof.errors import UsageError
from cnnprof.measurement.latency import torch_threads
from cnnprof.models import catalog
from cnnprof.models.cnn import CNN
from cnnprof.records import Sanity
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import Loss, Model, Subject, image_size, settings_of, subject_of
from cnnprof.training import data as pictures
from cnnprof.training.checkpoints import RandomState
from cnnprof.training.sanity import BATCH, COURSE_RATE, RATES, Trial, classes_of, examine

BATCHES = 8
"""Of 16 images each that it is tried on."""
TIMEOUT_S = 1800.0
"""A ResNet-50 at 3x224x224 that does not learn takes as long for all its steps, on two cores."""


@deep_recursion()
def sanity(
    model: Model,
    input_size: Sequence[int] | int | None = None,
    *,
    data: str = "auto",
    data_dir: str | Path | None = None,
    device: str = "auto",
    seed: int = 42,
    loss: Loss | str | None = None,
    threads: int | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[float], None] = lambda share: None,
) -> Sanity:
    """Find out whether a classifier of images (N, C, H, W) -> (N, K) can learn at all, in some ten checks.

    It is tried on new networks, or on copies of a given module, which stays as it is; so do random states. Without
    labels, which is where a `loss` of the output alone is given, images are random and what needs labels is skipped.
    Checks that `timeout_s` seconds leave no time for are in `not_asked`; otherwise no verdict depends on time.
    Raises UsageError for what is no classifier, has fewer outputs than the data have classes, or refuses its images.
    """
    started = time.monotonic()
    if not timeout_s > 0:
        raise UsageError(f"timeout {timeout_s!r}: a number of seconds above 0 was expected")
    settings = settings_of(None, BATCH, {"device": device, "seed": seed, "threads": threads}, loss)
    subject = subject_of(None, model, input_size, BATCH, None)
    size = image_size(subject)
    found = catalog.load_callable(loss) if isinstance(loss, str) else loss
    with torch_threads(settings.threads):
        try:
            trial, said = _trial(subject, found, data, data_dir, seed, settings.device)
            findings = examine(replace(trial, ends=started + timeout_s), progress, subject.module)
            with RandomState.kept():  # built anew, for lazy layers have no sizes before they are called
                params = module_tree.count_parameters(trial.network())
        except UsageError as error:
            raise UsageError(f"{subject.name}: {error}") from error
        except (Exception, SystemExit) as error:  # a user's model may raise anything
            raise UsageError(f"{subject.name}: its training stopped: {errors.said(error)}") from error
        described = machine.describe(settings.device, "system")
    rates = f"{units.short(max(RATES))} to {units.short(min(RATES))}"
    return Sanity(
        command=origin.command(),
        created=origin.now(),
        model=subject.resolved,
        params=params,
        input_size=size,
        data=said,
        protocol=f"SGD lr {units.short(COURSE_RATE)}" if trial.course else f"Adam lr {rates}",
        seed=seed,
        machine=described,
        took_s=time.monotonic() - started,
        checks=findings.checks,
        norms=findings.norms,
        not_asked=findings.not_asked,
    )


def _trial(
    subject: Subject, loss: Loss | None, data: str, data_dir: str | Path | None, seed: int, device: str
) -> tuple[Trial, str]:
    """Bring a model and its data together, and say what the data are: random ones where labels have no use."""
    size = image_size(subject)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(BATCH, *size, generator=generator).to(device) for _ in range(BATCHES)]
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    trial = Trial(subject.build, [(images, labels) for images in drawn], loss, seed, device)
    classes = classes_of(trial)
    if classes is None:
        return trial, f"random images of {units.size(size)}"
    known = pictures.load(data, size, data_dir=data_dir, seed=seed)
    if classes < known.classes:
        raise UsageError(
            f"it scores {units.plural(classes, 'class')} and {known.name} have {known.classes}; build it with "
            f"{known.classes} outputs or more: out_classes, num_classes, or its last Linear"
        )
    batches = pictures.batches(known, "train", BATCH, seed=seed, device=device, limit=BATCH * BATCHES)
    return replace(trial, batches=list(batches), course=type(subject.module) is CNN), known.note.partition(";")[0]
