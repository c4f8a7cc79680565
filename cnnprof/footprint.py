"""How much memory a model's step takes: predicted on shapes, measured where asked, and the batch that fits.

followed on fake tensors -> what kernels take is added -> the highest point; the largest batch by a few predictions
"""

import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypedDict, Unpack

import torch

from cnnprof import machine, module_tree, optimizers, origin, steps, timing, units
from cnnprof.analysis import memory as following
from cnnprof.analysis import packed
from cnnprof.errors import UsageError, said
from cnnprof.measurement import kernels, latency, memory, operators
from cnnprof.models import catalog
from cnnprof.records import (
    ByMode,
    Doubt,
    Fit,
    LayerMemory,
    MeasuredMemory,
    Memory,
    MemoryProfile,
    Mode,
    Overhead,
    Predicted,
    Scenario,
    Settings,
)
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import (
    Loss,
    Model,
    Options,
    Subject,
    checked,
    explain_inputs,
    of_run,
    parsed_device,
    settings_of,
    subject_of,
)

Optimizer = str | torch.optim.Optimizer


class MemoryOptions(TypedDict, total=False):
    """Settings that a prediction takes by name; see Settings for their meaning and defaults."""

    dtype: str
    amp: bool
    channels_last: bool
    threads: int | None
    seed: int
    accumulate: int


@deep_recursion()
def predict_memory(
    model: Model,
    input_size: Sequence[int] | int | None = None,
    batch_size: int | None = None,
    *,
    inputs: Any = None,
    mode: Mode = "training",
    optimizer: Optimizer = "sgd",
    beside: Sequence[tuple[Mode, str | None]] = (),
    loss: Loss | str | None = None,
    device: str = "cpu",
    measure: bool = False,
    fits: str | None = None,
    **options: Unpack[MemoryOptions],
) -> MemoryProfile:
    """Predict the memory of a forward pass, or of a training step as it is once others went before it.

    `batch_size` is 32 by default; beside `inputs` it says how many images they hold. `optimizer` is a name of
    torch.optim with arguments ("adamw(lr=0.1)") or one that holds the model's parameters; `beside` names other modes
    and optimizers to predict as well; `measure` runs the step, too; `fits` is a capacity ("24GiB", or "auto": this
    device's), for which the largest batch is found. The model is run where that is asked for, and where shapes alone
    do not tell: then at a small batch, and a doubt says so. Raises UsageError for unusable input.
    """
    question = asked = _Question.of(model, input_size, batch_size, inputs, mode, optimizer, loss, device, options)
    doubts: list[Doubt] = []
    predicted, scenarios = None, []
    overhead = _overhead(question.settings.device)
    with latency.torch_threads(question.settings.threads):
        try:
            scenarios = [Scenario(*other, question.like(*other).predicted()) for other in beside]
            predicted = question.predicted(whole_curve=measure)
        except following.Unpredictable as error:
            if fits is not None:
                raise UsageError(f"--fits: {question.subject.name} cannot be predicted: {error}") from None
            scenarios = []
            question = question.instead()
            doubts.append(_measured_instead(question, str(error)))
        measured = None
        if measure or predicted is None:
            try:
                measured, process = _measured(question)
                doubts += process
            except _StoppedError as stopped:  # what was predicted is kept
                if predicted is None or isinstance(stopped.__cause__, UsageError):
                    raise UsageError(f"{question.subject.name}: {stopped}") from stopped.__cause__
                doubts.append(Doubt("measured", str(stopped)))
        fit = _largest_batch(question, fits, overhead) if fits is not None and predicted is not None else None
    if predicted is not None:
        scenarios.append(Scenario(mode, question.optimizer_name, predicted))
        doubts += _doubts(question, predicted)
    return MemoryProfile(
        command=origin.command(),
        created=origin.now(),
        model=question.subject.resolved,
        input_size=question.subject.input_size,
        batch_size=asked.batch_size,
        mode=mode,
        settings=of_run(question.settings, [question.subject]),
        machine=machine.describe("cpu" if not torch.cuda.is_available() else question.settings.device, "system"),
        predicted=predicted,
        measured=measured,
        scenarios=tuple(scenarios),
        overhead=overhead,
        fit=fit,
        doubts=tuple(doubts),
        dtype=steps.type_name(question.subject.module, question.settings),
    )


BATCH_SIZE = 32
"""Where none is asked for."""

INSTEAD = 2
"""The batch at which a step that cannot be predicted is measured."""


@dataclass(frozen=True)
class _Question:
    """A model and the step that is asked about."""

    subject: Subject
    mode: Mode
    settings: Settings
    loss: Loss | None
    asked_loss: Loss | str | None
    optimizer: Optimizer

    @classmethod
    def of(
        cls,
        model: Model,
        input_size: Sequence[int] | int | None,
        batch_size: int | None,
        inputs: Any,
        mode: Mode,
        optimizer: Optimizer,
        loss: Loss | str | None,
        device: str,
        options: MemoryOptions,
    ) -> "_Question":
        parsed_device(device)
        subject = subject_of(None, model, input_size, batch_size, inputs)
        given: Options = {**options, "modes": (mode,), "device": "cpu"}  # type: ignore[typeddict-item]
        settings = settings_of(None, batch_size or BATCH_SIZE, given, loss)
        name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
        settings = dataclasses.replace(settings, device=device, optimizer=name, input_size=subject.input_size)
        settings = checked(settings.of(subject.own))
        if mode == "training":
            if not subject.trainable:
                raise UsageError(f"{subject.name} has no parameter that requires a gradient; --mode inference")
            _check_optimizer(optimizer)
        found = catalog.load_callable(loss) if isinstance(loss, str) else loss
        return cls(subject, mode, settings, found, loss, optimizer)

    @property
    def batch_size(self) -> int | None:
        own = self.subject.own_inputs
        return self.settings.batch_size if own is None else own.batch_size

    @property
    def optimizer_name(self) -> str | None:
        return self.settings.optimizer if self.mode == "training" else None

    def at(self, batch_size: int) -> "_Question":
        """Ask about another batch."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, batch_size=batch_size))

    def instead(self) -> "_Question":
        """Ask for what can be measured here: a small batch on the CPU."""
        settings = dataclasses.replace(self.settings, device="cpu", batch_size=min(self.settings.images, INSTEAD))
        return dataclasses.replace(self, settings=settings)

    def like(self, mode: Mode, optimizer: str | None) -> "_Question":
        """Ask about another step of the same model."""
        settings = dataclasses.replace(self.settings, optimizer=optimizer or self.settings.optimizer)
        return dataclasses.replace(self, mode=mode, settings=settings, optimizer=optimizer or self.optimizer)

    def make_optimizer(self) -> optimizers.Maker:
        if isinstance(self.optimizer, str):
            return optimizers.maker(self.optimizer, on_cuda=torch.device(self.settings.device).type == "cuda")
        return optimizers.like(self.optimizer, self.subject.module)

    def predicted(self, whole_curve: bool = False) -> Predicted:
        """Follow the step. Raises Unpredictable, and UsageError where the model refuses its input."""
        on_cpu = torch.device(self.settings.device).type == "cpu"
        try:
            with explain_inputs(self.subject):
                course = following.followed(
                    self.subject.module,
                    self.subject.shapes(self.settings.images),
                    self.mode,
                    self.settings,
                    self.loss,
                    self.make_optimizer() if self.mode == "training" else None,
                    listed=kernels.takes_memory,
                )
        except UsageError as error:
            hint = f"; {LEAST_OF_BATCH_NORM}" if ONE_VALUE in str(error) else ""
            raise UsageError(f"{self.subject.name}: {error}{hint}") from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(text in str(error) for text in NO_ROOM):
                raise
            short = "this process gets no threads or memory for a prediction"
            raise UsageError(f"{self.subject.name}: {short} ({said(error)}): raise its limit") from error
        if not on_cpu:
            return following.predicted(course)
        return following.predicted(course, kernels.hidden_bytes, None if whole_curve else kernels.at_most)


ONE_VALUE = "more than 1 value per channel"
"""What batch norm says of a training batch that leaves it nothing to normalise by."""
NO_ROOM = (os.strerror(errno.EAGAIN), "can't start new thread", "not enough memory")
"""RuntimeErrors of the C++ library, of Python and of torch's allocator where the system gives no more."""
LEAST_OF_BATCH_NORM = "batch norm trains on 2 images or more: -b 2"
_READ_VALUES = {"lbfgs": "calls the model as often as its line search asks", "asgd": "reads values of its state"}


def _check_optimizer(asked: Optimizer) -> None:
    """Refuse optimizers whose memory shapes do not tell. Raises UsageError."""
    if isinstance(asked, str):
        optimizers.maker(asked)
    name = asked.partition("(")[0].strip().lower() if isinstance(asked, str) else type(asked).__name__.lower()
    if name in _READ_VALUES:
        raise UsageError(f"optimizer {name!r} {_READ_VALUES[name]}: its memory cannot be told from shapes")


def predicted_peaks(
    subject: Subject, settings: Settings, modes: Sequence[Mode], loss: Loss | str | None = None
) -> ByMode[Memory]:
    """Predict the peaks of a model's steps; none where shapes alone do not tell, or there is nothing to train."""
    found = catalog.load_callable(loss) if isinstance(loss, str) else loss
    peaks = {}
    for mode in modes:
        if mode == "training" and not subject.trainable:
            continue
        question = _Question(subject, mode, settings, found, loss, settings.optimizer)
        with suppress(following.Unpredictable):
            known = question.predicted()
            before = known.timeline[0].total_bytes if known.timeline else 0
            peaks[mode] = Memory(known.peak_bytes, before, known.peak_path)
    return ByMode(**peaks)


def saved_by_layer(subject: Subject, settings: Settings) -> tuple[LayerMemory, ...]:
    """Return what each layer keeps for the backward pass; nothing where shapes alone do not tell."""
    question = _Question(subject, "training", settings.of(subject.own), None, None, settings.optimizer)
    try:
        inputs = subject.shapes(question.settings.images)
        course = following.followed(subject.module, inputs, "training", question.settings)
    except (following.Unpredictable, UsageError):
        return ()
    return following.predicted(course).layers


# Measured ------------------------------------------------------------------------------------------------------------


class _StoppedError(Exception):
    """A measurement stopped, and while doing what; the cause is the error."""


@contextmanager
def _stopped_by(doing: str) -> Iterator[None]:
    """Tell whose an error is. Raises _StoppedError."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a model may raise anything
        raise _StoppedError(f"{doing} stopped: {said(error)}") from error


def _measured(question: _Question) -> tuple[MeasuredMemory, list[Doubt]]:
    """Run the step here under the allocator's events, and again in a process of its own. Raises _StoppedError."""
    settings = question.settings
    if torch.device(settings.device).type == "cuda" and not torch.cuda.is_available():
        raise UsageError("--measure on cuda: torch finds no CUDA device here; --device cpu")
    with timing.surroundings(settings):
        with _stopped_by("making the step ready"):
            step = _step(question)
        with _stopped_by("its step"):
            if step.on_cuda:
                return _on_cuda(step, question.batch_size), []
            before = memory.standing_bytes(step.standing())
            seen = operators.profiled(step, time_s=None)
    hidden = memory.not_shown(step.standing())
    standing = list(accumulate(seen.allocations, initial=before + seen.kept_bytes))
    churn = list(accumulate(map(abs, seen.allocations), initial=0))
    highest = tuple(max(standing[index] for index in stretch) for stretch in following.stretches(churn))
    measured = MeasuredMemory(max(standing), before, question.batch_size, highest)
    measured, doubts = _with_process(measured, question)
    if hidden:
        doubts.append(Doubt("measured", f"tensors that are {' and '.join(hidden)} show no memory: it is left out"))
    return measured, doubts


def _on_cuda(step: steps.Step, batch_size: int | None) -> MeasuredMemory:
    found = memory.cuda_peak(step, step.device)
    reserved = torch.cuda.max_memory_reserved(step.device)
    return MeasuredMemory(found.peak_bytes, found.before_bytes, batch_size, reserved_bytes=reserved)


def _with_process(measured: MeasuredMemory, question: _Question) -> tuple[MeasuredMemory, list[Doubt]]:
    """Add the resident memory of a process of its own, where the model can be sent to one."""
    if not isinstance(question.optimizer, str):
        return measured, []
    job = (question.subject.asked, question.mode, question.settings, question.asked_loss, question.optimizer)
    try:
        sent = pickle.dumps((sys.path, job))
    except Exception as error:  # noqa: BLE001  # what a model holds may raise anything
        why = f"it cannot be sent to a process of its own, whose resident memory stays unknown: {said(error)}"
        return measured, [Doubt("process", why)]
    peak, before = _process_peak(sent) or (None, None)
    return dataclasses.replace(measured, process_peak_bytes=peak, process_before_bytes=before), []


def _step(question: _Question) -> steps.Step:
    subject, settings = question.subject, question.settings
    torch.manual_seed(settings.seed)
    inputs = subject.inputs(settings.images, settings.seed).with_values().cloned()
    maker = question.make_optimizer() if question.mode == "training" else None
    return steps.prepare(subject.build(), inputs, question.mode, settings, question.loss, maker)


def _process_peak(job: bytes) -> tuple[int, int] | None:
    """Return what a process of its own had resident at most, and before; None where none can be had.

    Not through multiprocessing, which would run a script again that calls this outside `if __name__ == "__main__"`.
    """
    command = [sys.executable, "-c", "from cnnprof.footprint import tell_resident; tell_resident()"]
    try:
        told = subprocess.run(command, input=job, capture_output=True, check=True).stdout
        peak, before = json.loads(told.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError):
        return None  # it was killed, or the model cannot be made there
    return peak, before


@deep_recursion()
def tell_resident() -> None:
    """Do what another process sent, and print the bytes that this one had resident: at most, and before."""
    path, job = pickle.load(sys.stdin.buffer)  # from our own parent
    sys.path[:] = path
    asked, mode, settings, loss, optimizer = job
    found = catalog.load_callable(loss) if isinstance(loss, str) else loss
    question = _Question(subject_of(*asked), mode, settings, found, loss, optimizer)
    before = machine.resident_bytes()
    with latency.torch_threads(settings.threads):
        step = _step(question)
        step.run()
        step.run()
    print(json.dumps([machine.peak_resident_bytes(), before]))  # noqa: T201


def _measured_instead(question: _Question, why: str) -> Doubt:
    batch = f" at batch {question.batch_size}" if question.batch_size else ""
    ran = f"a step{batch} was run and measured on the CPU"
    return Doubt("predicted", f"shapes alone do not tell ({why}): {ran}")


def _doubts(question: _Question, predicted: Predicted) -> list[Doubt]:
    found = []
    if predicted.not_known:
        named = ", ".join(predicted.not_known)
        found.append(Doubt("temporaries", f"the memory of {named} beyond what can be followed is not known"))
    parts = module_tree.modules(question.subject.module)
    beside = sum(packed.stored_bytes(each) for part in parts for each in packed.of_module(part).values())
    if beside:
        kept = f"{units.bytes_(beside)} of packed weights stand beside it, in memory of the kernels' own"
        found.append(Doubt("parameters", kept))
    if predicted.not_drawn:
        left_out = f"away from the peak the curve leaves out what {predicted.not_drawn} kernels take for themselves"
        found.append(Doubt("timeline", left_out, "--measure tries them all"))
    if question.settings.compile or any(
        isinstance(part, _COMPILED) for part in module_tree.modules(question.subject.module)
    ):
        found.append(Doubt("predicted", "it is predicted as it runs uncompiled; compiled operators keep less"))
    if torch.device(question.settings.device).type == "cuda":
        hint = "--measure on the device tells"
        found.append(Doubt("temporaries", "workspaces that cuDNN takes for convolutions are not predicted", hint))
        if not torch.cuda.is_available():
            here = "torch finds no CUDA device here: attention and dropout are followed as CUDA has them"
            found.append(Doubt("predicted", f"{here}, all else as the CPU has it, without the CPU's own copies"))
    return found


# The batch that fits -------------------------------------------------------------------------------------------------

_COMPILED = torch._dynamo.OptimizedModule
CONTEXT_BYTES, FRAGMENTATION = 512 << 20, 0.03


def _overhead(device: str) -> Overhead:
    """Return what comes on top of the allocator's peak."""
    if torch.device(device).type == "cuda":
        source = (
            "context and loaded kernels of one process, about 0.5 GiB from Volta to Hopper; 3 % for blocks that the "
            "caching allocator cannot reuse"
        )
        return Overhead(CONTEXT_BYTES, FRAGMENTATION, source)
    source = "what this process, with torch loaded, has resident now; the C library may keep more of what was freed"
    return Overhead(machine.resident_bytes(), 0.0, source)


def capacity_bytes(text: str, device: str) -> int:
    """Read a capacity; `auto` is this device's. Raises UsageError."""
    if text == "auto":
        if torch.device(device).type == "cuda":
            if not torch.cuda.is_available():
                raise UsageError("--fits auto: torch finds no CUDA device here; give a size such as 24GiB")
            return int(torch.cuda.get_device_properties(device).total_memory)
        return machine.available_bytes() + machine.resident_bytes()
    try:
        return units.read_bytes(text)
    except ValueError as error:
        raise UsageError(f"--fits {error}") from None


LARGEST = 1 << 24


def _largest_batch(question: _Question, fits: str, overhead: Overhead) -> Fit:
    """Find the largest batch whose predicted need a capacity holds.

    Peaks grow with the batch nearly linearly: each guess is where the line through the last two meets the capacity.
    """
    capacity = capacity_bytes(fits, question.settings.device)
    if question.subject.own_inputs is not None:
        raise UsageError(f"{question.subject.name} brings its own inputs: --fits can change no batch of theirs")
    peaks: dict[int, int] = {}

    def peak(batch: int) -> int:
        if batch not in peaks:
            peaks[batch] = question.at(batch).predicted().peak_bytes
        return peaks[batch]

    smallest = _smallest_batch(peak)
    if overhead.of(peak(smallest)) > capacity:
        return Fit(capacity, None, smallest, peak(smallest), overhead.of(peak(smallest)))
    low, high = smallest, None
    guess = max(question.settings.images, 2 * smallest)
    while high is None or high - low > 1:
        if overhead.of(peak(guess)) <= capacity:
            low = guess
        else:
            high = guess
        guess = _next_guess(peaks, overhead, capacity, low, high)
        if low >= LARGEST:
            break
    return Fit(capacity, low, smallest, peak(low), overhead.of(peak(low)))


def _smallest_batch(peak: Callable[[int], int]) -> int:
    """Return the least batch that the model takes: batch norm does not train on one image of one pixel."""
    try:
        peak(1)
    except UsageError as error:
        if ONE_VALUE not in str(error):
            raise
        return 2
    return 1


def _next_guess(peaks: dict[int, int], overhead: Overhead, capacity: int, low: int, high: int | None) -> int:
    """Follow the line through the two batches nearest to the capacity; keep within what is known."""
    below = sorted(batch for batch in peaks if batch <= low)[-2:]
    near = (*below, high) if high is not None else tuple(below)
    first, last = near[-2:] if len(near) > 1 else (low, low)
    slope = (overhead.of(peaks[last]) - overhead.of(peaks[first])) / (last - first) if last != first else 0.0
    meets = int(low + (capacity - overhead.of(peaks[low])) / slope) if slope > 0 else 2 * low
    if high is None:
        return min(max(meets, low + 1), 16 * low, LARGEST)
    return min(max(meets, low + 1), high - 1)
