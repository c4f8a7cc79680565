"""A forward pass in which every operator is seen and nothing of the caller's is changed.

The module's tree is cloned shallowly; the clones hold meta tensors in place of weights, or share them, and have hooks
and containers of their own.
"""

import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof.errors import UsageError
from cnnprof.inputs import Inputs, tensors_in


class Shadow:
    """A shallow clone of a module's tree in eval mode; its tensors are meta tensors, or (parameters) shared, or copied.

    `originals` and `clones` are the modules by path. `unregistered` are parameters that a forward pass may use though
    no module has them as its own: they hang in a list, or on an attribute that is no parameter.
    """

    def __init__(self, module: nn.Module, on_meta: bool) -> None:
        tensors = [*module.parameters(), *module.buffers()]
        if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
            raise UsageError(f"{type(module).__name__} has lazy layers without shapes: run it once on an input first")
        floating = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
        self.dtype, self.device = floating.dtype, floating.device
        self._on_meta = on_meta
        self._made: dict[int, Any] = {}
        """What stands for the caller's, by its identity: what is shared there stays shared here."""
        self._parameters: dict[int, nn.Parameter] = {}
        self.originals = dict(module.named_modules())
        self.root = self._clone(module)
        self.clones = {path: self._clone(part) for path, part in self.originals.items()}
        registered = set(map(id, tensors))
        self.unregistered = tuple(tensor for key, tensor in self._parameters.items() if key not in registered)

    def _clone(self, part: nn.Module) -> nn.Module:
        if id(part) in self._made:
            clone: nn.Module = self._made[id(part)]
        elif isinstance(part, torch.jit.ScriptModule):  # its insides are not of Python
            clone = self._made[id(part)] = copy.deepcopy(part).eval()
        else:
            clone = self._made[id(part)] = object.__new__(type(part))
            clone.__dict__.update({name: self._own(value) for name, value in part.__dict__.items()})
            clone.__dict__["training"] = False
            clone.__dict__.pop("_compiled_call_impl", None)  # compiled code would call the original
            if isinstance(part, torch._dynamo.OptimizedModule):
                clone.__dict__["forward"] = clone._orig_mod
        return clone

    def _own(self, value: Any) -> Any:
        """Replace what a forward pass could change, and what leads back to the caller's modules."""
        if isinstance(value, nn.Module):
            return self._clone(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self._clone(value.__self__))
        if isinstance(value, tuple):
            items = [self._own(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if isinstance(value, dict | list | set | deque | bytearray):
            return self._container(value)
        return value

    def _container(self, value: Any) -> Any:
        if id(value) not in self._made:
            made = self._made[id(value)] = copy.copy(value)
            entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            for key, item in entries:
                made[key] = self._own(item)
        return self._made[id(value)]

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, nn.Parameter):
            self._parameters[id(tensor)] = tensor
        if id(tensor) not in self._made:
            self._made[id(tensor)] = self._stand_in(tensor)
        made: torch.Tensor = self._made[id(tensor)]
        return made

    def _stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            return tensor.detach().to("meta") if self._on_meta else tensor.detach().clone()
        if not self._on_meta or tensor.is_meta:
            return tensor
        return nn.Parameter(tensor.detach().to("meta"), tensor.requires_grad)


Seeing = Callable[[Any, Any, Any], Any]
"""Takes an operator, its arguments and keyword arguments; runs it and gives its output."""


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows the operators that others are made of: in inference mode even convolutions would arrive as composites."""

    def __init__(self, see: Seeing) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_composite(func):
            return self._see(func, args, kwargs or {})
        with self:
            return func.decompose(*args, **(kwargs or {}))


@cache
def _is_composite(func: Any) -> bool:
    has_kernel: bool = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return has_kernel


def run(shadow: Shadow, fed: Inputs, see: Seeing) -> Any:
    """Return the output of one forward pass that shows `see` every operator; raises what the network raises.

    The caller's grad modes and random state play no part in it; nothing is compiled, and no warning is passed on.
    """
    with _undisturbed(), _Operators(see):
        return shadow.root(*fed.args, **fed.kwargs)


@contextmanager
def _undisturbed() -> Iterator[None]:
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(action="ignore"),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


def first_shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of the first tensor of any nest."""
    return next((tuple(tensor.shape) for tensor in tensors_in(value)), None)
