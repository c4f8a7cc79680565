"""Gradient modes of a forward pass in inference: the strictest of torch's in which a network runs.

Force fields, physics-informed networks, energy models and MAML differentiate inside forward. torch.inference_mode()
refuses that, or has torch.autograd.functional return zeros without a word.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

GradientMode = Literal["inference_mode", "no_grad", "enable_grad"]
"""From the strictest on, by the names of torch's own context managers."""

T = TypeVar("T")


class Differentiates(BaseException):  # no error; networks that catch Exception let it pass
    """The network turned gradients on, which inference mode has none of."""


@contextmanager
def gradient_mode(mode: GradientMode) -> Iterator[None]:
    """Enter one of torch's gradient modes, whatever the caller's own is."""
    with torch.inference_mode(mode == "inference_mode"), torch.set_grad_enabled(mode == "enable_grad"):
        yield


def strictest(run: Callable[[GradientMode], T], refusal: type[Exception] | tuple[type[Exception], ...]) -> T:
    """Return a pass's result in the strictest mode in which it runs. Raises the error of the least strict one.

    Args:
        run: Makes the pass; raises Differentiates where the network turned gradients on in inference mode.
        refusal: What `run` raises where the network cannot be run, for whatever reason.

    """
    try:
        return run("inference_mode")
    except Differentiates:
        pass
    except refusal:
        run("enable_grad")  # where this is refused too, it is for another reason
    try:
        return run("no_grad")
    except refusal:
        return run("enable_grad")


def check_operator(mode: GradientMode) -> None:
    """Raise Differentiates where an operator runs with gradients on in a pass that was begun in inference mode."""
    if mode == "inference_mode" and torch.is_grad_enabled():
        raise Differentiates


class GradientCheck(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Checks every operator of a pass."""

    supports_higher_order_operators = True

    def __init__(self, mode: GradientMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode
        self.of_functions = False
        """Whether there was a higher-order operator, which torch compiles where nothing watches."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_operator(self._mode)
        self.of_functions |= isinstance(func, HigherOrderOperator)
        return func(*args, **(kwargs or {}))
