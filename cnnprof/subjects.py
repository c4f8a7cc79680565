"""What users give to what is measured: models under their names, what they are fed, settings that hold together."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict

import torch
from torch import nn

from cnnprof import module_tree
from cnnprof.analysis.shadow import Shadow, copied
from cnnprof.analysis.trace import has_no_values
from cnnprof.errors import UsageError, checked_count, is_count
from cnnprof.inputs import Inputs, explain_reading, input_type
from cnnprof.models import catalog
from cnnprof.records import MODES, Match, Mode, Own, Settings, Size

Model = nn.Module | str | Match
"""A module, a MODEL string, or one that was made like another."""
Loss = Callable[[Any], torch.Tensor]


class Options(TypedDict, total=False):
    """Settings that may be given by name; see Settings for their meaning and defaults."""

    device: str
    dtype: str
    amp: bool
    channels_last: bool
    compile: bool
    threads: int | None
    roofline: bool
    erf: bool
    processes: bool
    modes: tuple[Mode, ...]
    time_s: float | None
    ci: float
    seed: int
    accumulate: int
    margin: float
    allocator: Literal["kept", "system"]
    cudnn_benchmark: bool | None
    tf32: bool | None


@dataclass(frozen=True)
class Subject:
    """A model under its name, with the inputs it is given."""

    name: str
    resolved: str
    module: nn.Module
    build: Callable[[], nn.Module]
    input_size: Size | None
    own_inputs: Inputs | None
    own: Own
    asked: tuple[Any, ...]
    """What it was made from, so that another process can make it again."""
    matched: Match | None = None
    reading: str = ""
    """How its own inputs were read, where another way may have been meant."""

    @property
    def model(self) -> str | None:
        """Its MODEL string without the label; None of an nn.Module."""
        model = self.asked[1]
        return catalog.parse(model).model if isinstance(model, str) else None

    @property
    def trainable(self) -> bool:
        """Say whether there is anything for a training step to train."""
        return any(parameter.requires_grad for parameter in module_tree.parameters(self.module))

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """Return what it is fed when it is measured."""
        if self.own_inputs is not None:
            return self.own_inputs
        assert self.input_size is not None
        return Inputs.random(self.input_size, batch_size, seed, input_type(self.module))

    def shapes(self, batch_size: int) -> Inputs:
        """Return its inputs where shapes alone matter."""
        if self.own_inputs is not None:
            return self.own_inputs
        assert self.input_size is not None
        return Inputs.without_values(self.input_size, batch_size, input_type(self.module))


def subject_of(
    name: str | None, model: Model, input_size: Sequence[int] | int | None, batch_size: int | None, inputs: Any
) -> Subject:
    """Find a model and what it is fed. Raises UsageError where either is not to be had.

    `batch_size` says how many images `inputs` hold; a MODEL that brings inputs says so by settings of its own.
    """
    if isinstance(model, Match):
        return replace(subject_of(name, model.model, input_size, batch_size, inputs), matched=model)
    lengths = _checked_size(input_size)
    if batch_size is not None:
        checked_count("batch size", batch_size)
    if lengths is not None and inputs is None:
        Inputs.without_values(lengths, batch_size or 1)  # refuses what no tensor holds before a network is made for it
    asked = input_size if isinstance(input_size, int) else lengths
    if isinstance(model, str):
        found = catalog.resolve(model, asked if inputs is None else None)
    elif isinstance(model, nn.Module):
        kind = type(model).__name__
        found = catalog.NamedModel(name or kind, kind, model, lambda: catalog.copied(model), _own_size(model))
    else:
        raise UsageError(f"{model!r} is {type(model).__name__}; a model is an nn.Module or a MODEL string")
    asked = found.settings.input_size or asked
    own = inputs if inputs is not None else found.inputs if asked is None else None
    size = catalog.sized(asked, found.input_size or _own_size(found.module))
    if own is None and size is None:
        own = _example(found.module)
    batch = found.settings.batch_size or (batch_size if inputs is not None else None)
    if own is None and size is None:
        raise UsageError(f"{found.name} does not say what it is fed; give an input size, such as 3x224x224")
    return Subject(
        name or found.name,
        found.resolved,
        found.module,
        partial(_build, found),
        None if own is not None else size,
        None if own is None else Inputs.of(own, batch),
        replace(found.settings, input_size=size) if found.settings.input_size else found.settings,
        (name, model, input_size, batch_size, inputs),
        reading=explain_reading(own),
    )


@contextmanager
def explain_inputs(subject: Subject) -> Iterator[None]:
    """Add to a network's error how its inputs were read."""
    try:
        yield
    except UsageError as error:
        if error.__cause__ is None or not subject.reading:
            raise
        raise UsageError(f"{error}; {subject.reading}") from error.__cause__


def _build(found: catalog.NamedModel) -> nn.Module:
    """Build a model; where that raises, as its __deepcopy__ or a lock does, the one at hand is copied.

    Attributes that are neither modules nor tensors are shared then.
    """
    try:
        return found.build()
    except Exception:  # a builder of the user's may raise anything
        if has_no_values(found.module):
            raise
        return Shadow(found.module, copied, found.module.training).root


def image_size(subject: Subject) -> tuple[int, int, int]:
    """Return the (C, H, W) of what learns from images. Raises UsageError for other inputs, and for settings of its own.

    How models are trained is one for all of them.
    """
    size = subject.input_size
    if size is None or len(size) != 3:
        raise UsageError(f"{subject.name} takes no single image (C, H, W); give its size, such as 3x32x32")
    own = [name for name, value in vars(subject.own).items() if value is not None and name != "input_size"]
    if own:
        raise UsageError(f"{subject.name}: what learns takes no setting after '@' but input-size, it has {own[0]}")
    return size[0], size[1], size[2]


def _attribute(module: nn.Module, name: str) -> Any:
    """Return an attribute of a module; None where it has none, or raises when it is asked for."""
    try:
        return getattr(module, name, None)
    except Exception:  # noqa: BLE001  # a property may raise anything
        return None


def _own_size(module: nn.Module) -> Size | None:
    """Read the size that a module carries: timm's default_cfg, or the shape of Lightning's example_input_array."""
    config = _attribute(module, "default_cfg")
    size = config.get("input_size") if isinstance(config, dict) else None
    if isinstance(size, tuple | list) and size and all(map(is_count, size)):
        return tuple(size)
    example = _attribute(module, "example_input_array")
    if not isinstance(example, torch.Tensor) or not example.is_floating_point():
        return None
    return tuple(example.shape[1:])


def _example(module: nn.Module) -> Any:
    """Return Lightning's example_input_array where it is more than an image: several inputs, named ones, integers."""
    example = _attribute(module, "example_input_array")
    return (example,) if isinstance(example, dict) else example


def _checked_size(size: Sequence[int] | int | None) -> Size | None:
    if size is None:
        return None
    lengths = tuple(size) if isinstance(size, Iterable) else (size,)
    if not lengths or not all(is_count(length) for length in lengths):
        raise UsageError(f"input size {size!r}: positive whole numbers without the batch were expected: 3, 224, 224")
    return lengths


def told_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """Number the later ones of equal names, so that a model can be compared with itself."""
    seen: dict[str, int] = {}
    apart = []
    for subject in subjects:
        seen[subject.name] = seen.get(subject.name, 0) + 1
        number = seen[subject.name]
        apart.append(subject if number == 1 else replace(subject, name=f"{subject.name} ({number})"))
    return apart


def of_run(settings: Settings, subjects: Sequence[Subject]) -> Settings:
    """Return settings as a document has them: without a batch where no model has one that is known."""
    known = any(subject.own_inputs is None or subject.own_inputs.batch_size for subject in subjects)
    return settings if known else replace(settings, batch_size=None)


def settings_of(
    input_size: Sequence[int] | int | None, batch_size: int, options: Options, loss: Loss | str | None = None
) -> Settings:
    """Put options together. Raises UsageError where one is out of its range."""
    given: dict[str, Any] = dict(options)
    if loss is not None:
        given["loss"] = _name_of(loss)
    settings = Settings(batch_size=batch_size, input_size=_checked_size(input_size), **given)
    return checked(replace(settings, device=_device(given.get("device", "auto"))))


def _name_of(loss: Loss | str) -> str:
    """Return a loss by its name alone, without the folders of this machine."""
    return loss.rpartition(":")[2] if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__)


def checked(settings: Settings) -> Settings:
    """Return settings as they are. Raises UsageError where one is out of its range."""
    checked_count("batch size", settings.images)
    checked_count("accumulate", settings.accumulate)
    if settings.threads is not None:
        checked_count("threads", settings.threads)
        if settings.threads > MOST_THREADS:
            raise UsageError(f"threads {settings.threads}: at most {MOST_THREADS:,} was expected")
    if settings.time_s is not None and not 0 < settings.time_s < math.inf:
        raise UsageError(f"time {settings.time_s!r}: a number of seconds above 0 was expected")
    if not 0 < settings.ci < 1:
        raise UsageError(f"ci {settings.ci!r}: a share between 0 and 1 was expected, such as 0.005")
    if not 0 <= settings.seed < SEEDS:
        raise UsageError(f"seed {settings.seed!r}: a whole number from 0 to {SEEDS - 1} was expected")
    if settings.allocator not in ("kept", "system"):
        raise UsageError(f"allocator {settings.allocator!r}: kept or system was expected")
    if settings.dtype not in catalog.DTYPES:
        raise UsageError(f"dtype {settings.dtype!r}: one of {', '.join(catalog.DTYPES)} was expected")
    unknown = [mode for mode in settings.modes if mode not in MODES]
    if unknown or not settings.modes:
        raise UsageError(f"mode {unknown or settings.modes!r}: {' or '.join(MODES)} was expected")
    return settings


MOST_THREADS = 4096
"""Thread pools of tens of thousands end the process."""
SEEDS = 2**32
"""As many as every generator takes."""


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = parsed_device(asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "none"
        raise UsageError(f"device {asked!r}: torch {torch.__version__} finds {found} here; use cpu")
    return asked


def parsed_device(asked: str) -> torch.device:
    """Read a device's name. Raises UsageError for what is none, or none of ours."""
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UsageError(f"device {asked!r}: auto, cpu, cuda or cuda:1 was expected") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {asked!r}: cnnprof measures on cpu and cuda")
    return device
