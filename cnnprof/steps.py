"""The calls that are measured and predicted: a forward pass, and a training step. Times and counts nothing."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cnnprof import module_tree, optimizers
from cnnprof.errors import UsageError
from cnnprof.gradients import GradientCheck, GradientMode, gradient_mode, strictest
from cnnprof.inputs import Inputs, floating_types, tensors_in, torch_name, unregistered
from cnnprof.records import OWN_TYPE, Mode, Settings

Loss = Callable[[Any], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """One call to measure, and the tensors that stand before it."""

    run: Callable[[], object]
    module: nn.Module
    standing: Callable[[], Iterator[torch.Tensor]]
    release: Callable[[], None]
    """Let go of what the last call left behind: gradients."""
    optimizer: torch.optim.Optimizer | None = None
    compiled: bool = False
    """Its operators are fused across modules."""
    device: str = "cpu"

    @property
    def on_cuda(self) -> bool:
        """Say whether a call returns before its work is done."""
        return torch.device(self.device).type == "cuda"

    def wait(self) -> None:
        """Wait for what a call has queued on its device."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)


def prepare(
    module: nn.Module,
    inputs: Inputs,
    mode: Mode,
    settings: Settings,
    loss: Loss | None = None,
    make_optimizer: optimizers.Maker | None = None,
) -> Step:
    """Move a new network and its inputs to where they are measured, and make the call.

    `module` is trained on and kept: give one that nobody else holds. `make_optimizer` stands for the settings' one.
    """
    dtype = asked_type(settings)
    _move(module, torch.device(settings.device))
    for tensor in module_tree.tensors(module):
        if dtype is not None and tensor.is_floating_point():  # Module.to(dtype) would make complex ones real
            tensor.data = tensor.data.to(dtype)
    inputs = inputs.to(settings.device, dtype)
    if settings.channels_last:
        module.to(memory_format=torch.channels_last)
        inputs = inputs.channels_last()
    if any(map(nn.parameter.is_lazy, module_tree.parameters(module))):  # the first call gives them their shapes
        with torch.no_grad():
            module(*inputs.args, **inputs.kwargs)
    return made(module, inputs, mode, settings, loss, make_optimizer)


def asked_type(settings: Settings) -> torch.dtype | None:
    """Return the type that floating tensors are brought to; None where they keep their own."""
    return None if settings.dtype == OWN_TYPE else getattr(torch, settings.dtype)


def type_name(module: nn.Module, settings: Settings) -> str:
    """Name the types that a module is measured in: float32 and bfloat16."""
    asked = asked_type(settings)
    types = floating_types(module)
    found = types if asked is None else [asked if dtype.is_floating_point else dtype for dtype in types]
    return " and ".join(dict.fromkeys(map(torch_name, found)))


def _move(module: nn.Module, device: torch.device) -> None:
    """Move a module, unless it is there: one that has attributes of torch's own names may fail."""
    standing = module_tree.tensors(module)
    if device.type != "cpu" or any(tensor.device != device for tensor in standing):
        module.to(device)


def _set_mode(module: nn.Module, training: bool) -> None:
    """Set training or eval mode, part by part where the module's own method fails."""
    try:
        (module.train if training else module.eval)()
    except (Exception, SystemExit):  # noqa: BLE001  # a network may raise anything
        for part in module_tree.modules(module):
            object.__setattr__(part, "training", training)


def made(
    module: nn.Module,
    inputs: Inputs,
    mode: Mode,
    settings: Settings,
    loss: Loss | None = None,
    make_optimizer: optimizers.Maker | None = None,
    gradients: GradientMode | None = None,
) -> Step:
    """Make the call of a network and of inputs that are where they should be.

    In inference it has the gradient mode that is given; without one the first call finds the strictest.
    """
    called: Callable[..., Any] = _compiled(module) if settings.compile else module
    if mode == "inference":
        return _forward(module, called, inputs, settings, gradients)
    optimizer = (make_optimizer or optimizers.maker(settings.optimizer))(module)
    return _training_step(module, called, inputs, settings, loss, optimizer)


def _compiled(module: nn.Module) -> Callable[..., Any]:
    logging.getLogger("torch").setLevel(logging.ERROR)  # the compiler warns of what the user cannot mend
    return torch.compile(module)


def _autocast(settings: Settings) -> Callable[[], AbstractContextManager[Any]]:
    if not settings.amp:
        return nullcontext
    device_type = torch.device(settings.device).type
    return lambda: torch.autocast(device_type, torch.bfloat16)


def _forward(
    module: nn.Module,
    called: Callable[..., Any],
    inputs: Inputs,
    settings: Settings,
    gradients: GradientMode | None,
) -> Step:
    _set_mode(module, training=False)
    autocast = _autocast(settings)

    def first(mode: GradientMode) -> tuple[GradientMode, Any, bool]:
        check = GradientCheck(mode)
        with gradient_mode(mode), autocast(), torch.compiler.set_stance("force_eager"), check:
            output = module(*inputs.args, **inputs.kwargs)
        return mode, output, check.of_functions

    def forward() -> Any:
        nonlocal gradients
        if gradients is None:
            gradients, output, of_functions = strictest(first, Exception)
            if not (of_functions or settings.compile or _holds_compiled(module)):
                return output
            del output
        with gradient_mode(gradients), autocast():
            return called(*inputs.args, **inputs.kwargs)

    def standing() -> Iterator[torch.Tensor]:
        return chain(_standing_tensors(module), inputs.tensors())

    return Step(forward, module, standing, lambda: None, compiled=settings.compile, device=settings.device)


def _standing_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    return chain(module_tree.tensors(module), unregistered(module))


def _holds_compiled(module: nn.Module) -> bool:
    return any(isinstance(part, torch._dynamo.OptimizedModule) for part in module_tree.modules(module))


def _training_step(
    module: nn.Module,
    called: Callable[..., Any],
    inputs: Inputs,
    settings: Settings,
    loss: Loss | None,
    optimizer: torch.optim.Optimizer,
) -> Step:
    _set_mode(module, training=True)
    autocast = _autocast(settings)
    criterion = loss or DefaultLoss(settings.seed)
    differentiated = [tensor for tensor in inputs.tensors() if tensor.requires_grad]

    def renew_batch() -> None:
        for tensor in differentiated:
            tensor.grad = None

    def release() -> None:
        optimizer.zero_grad(set_to_none=True)
        renew_batch()

    def training_step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        for _ in range(settings.accumulate):
            renew_batch()
            with autocast():  # the output is no name here, so that backward can release it
                value = criterion(called(*inputs.args, **inputs.kwargs))
            if not value.requires_grad:
                raise UsageError(f"its loss has no gradient to any parameter; {_INSTEAD}")
            value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value

    def standing() -> Iterator[torch.Tensor]:
        labels = criterion.labels if isinstance(criterion, DefaultLoss) else ()
        return chain(_standing_tensors(module), inputs.tensors(), tensors_in(dict(optimizer.state)), labels)

    return Step(
        training_step,
        module,
        standing,
        release,
        optimizer,
        compiled=settings.compile,
        device=settings.device,
    )


_INSTEAD = "give another with --loss file.py:fn, or measure --mode inference alone"


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor.float()


class DefaultLoss:
    """Cross-entropy with random labels for an output (N, C), else the sum of the output tensors' means.

    The loss decides how much of a block's training memory is the loss's own, so it is fixed.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.labels: tuple[torch.Tensor, ...] = ()

    def __call__(self, output: Any) -> torch.Tensor:
        """Reduce an output of any structure to one number."""
        if isinstance(output, torch.Tensor) and output.ndim == 2:
            return F.cross_entropy(output.float(), self._labels_for(output))
        numbers = [tensor for tensor in tensors_in(output) if tensor.is_floating_point() or tensor.is_complex()]
        means = [_as_real(tensor).mean() for tensor in numbers]
        if not means:
            raise UsageError(f"its output holds no floating tensor to make a loss of; {_INSTEAD}")
        return torch.stack(means).sum() if len(means) > 1 else means[0]

    def _labels_for(self, output: torch.Tensor) -> torch.Tensor:
        if not self.labels:
            batch, classes = output.shape
            drawn = torch.randint(classes, (batch,), generator=self._generator)
            self.labels = (drawn.to(output.device),)
        return self.labels[0]
