"""A stand-in for a network, in which nothing of the caller's can be changed, and the state of torch that it runs in.

The module's tree is cloned shallowly; the clones have containers of their own, and what a rung puts in place of their
tensors: tensors without storage, or the weights themselves.
"""

import copy
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import CellType, FunctionType, MethodType, NoneType
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from cnnprof import module_tree
from cnnprof.gradients import GradientMode, gradient_mode
from cnnprof.inputs import map_packed

StandIn = Callable[[torch.Tensor], torch.Tensor]


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape, strides and type on the meta device."""
    if tensor.layout is not torch.strided:
        return tensor.detach().to("meta")
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def shared_or_copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter's own values, which a pass reads; a copy of anything else, which it may write."""
    return tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor that requires a gradient where that one is a leaf that does."""
    copy = tensor.detach().clone()
    return copy.requires_grad_() if tensor.requires_grad and tensor.is_leaf else copy


class Shadow:
    """A shallow clone of a module's tree with other tensors, all of it in training or in eval mode.

    `clones` are its modules by path. `unregistered` stand for weights that a forward pass may use though no module
    has them as its own: they hang in a list, or on an attribute that is no parameter. What is reached through a global
    name alone stays the caller's.
    """

    def __init__(self, module: nn.Module, stand_in: StandIn, training: bool = False) -> None:
        self._stand_in, self._training = stand_in, training
        self._made: dict[int, Any] = {}
        """What stands for the caller's, by its identity: what is shared there stays shared here."""
        self._weights: dict[int, torch.Tensor] = {}
        """Parameters, and other tensors that gradients end at."""
        originals = dict(module_tree.named_modules(module))
        self.root = self._clone(module)
        self.clones = {path: self._clone(part) for path, part in originals.items()}
        tensors = list(module_tree.parameters(module))
        self.is_lazy = any(map(nn.parameter.is_lazy, tensors))
        registered = set(map(id, (*tensors, *module_tree.buffers(module))))
        self.unregistered = tuple(self._made[key] for key in self._weights if key not in registered)

    def announce(self, stack: list[str]) -> None:
        """Let each module push its path while it runs; where it raises, the innermost stays to be named."""
        for path, clone in self.clones.items():
            if not isinstance(clone, torch.jit.ScriptModule):
                clone.__dict__["_compiled_call_impl"] = partial(_within, stack, path, clone._call_impl)

    def _clone(self, part: nn.Module) -> nn.Module:
        if id(part) in self._made:
            clone: nn.Module = self._made[id(part)]
        elif isinstance(part, torch.jit.ScriptModule):  # its insides are not of Python
            clone = self._made[id(part)] = copy.deepcopy(part).train(self._training)
        else:
            kind: Any = type(part)
            clone = self._made[id(part)] = object.__new__(kind)
            held, own = clone.__dict__, self._own
            for name, value in part.__dict__.items():
                if type(value) in _PLAIN:
                    held[name] = value
                else:  # most are hooks, of which there are none
                    held[name] = type(value)() if name in _OF_MODULES and not value else own(value)
            for name in _slots(kind):
                if hasattr(part, name):
                    object.__setattr__(clone, name, own(getattr(part, name)))
            clone.__dict__["training"] = self._training
            clone.__dict__.pop("_compiled_call_impl", None)  # compiled code would call the original
            if isinstance(part, torch._dynamo.OptimizedModule):
                clone.__dict__["forward"] = clone._orig_mod
        return clone

    def _own(self, value: Any) -> Any:
        """Replace what a forward pass could change, and what leads back to the caller's modules."""
        kind = type(value)
        if kind in _PLAIN or isinstance(value, torch.fx.Graph):  # a graph leads to the module that it was traced from
            return value
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._clone(value)
        if kind in (FunctionType, MethodType, partial):
            return self._callable(value)
        if kind is RemovableHandle:  # of a hook: to be removed from the clone's
            handle = RemovableHandle.__new__(RemovableHandle)
            handle.__setstate__((self._own(value.hooks_dict_ref()), value.id))
            return handle
        if isinstance(value, PackedSequence):
            return map_packed(value, self._own)
        if isinstance(value, tuple):
            items = [self._own(item) for item in value]
            return kind(*items) if hasattr(value, "_fields") else tuple(items)
        if hasattr(value, "__dict__") and any(
            isinstance(item, nn.Module | torch.Tensor) for item in vars(value).values()
        ):
            return self._object(value)
        return value

    def _object(self, value: Any) -> Any:
        """Copy an object that holds modules or tensors: a helper, a cache."""
        if id(value) not in self._made:
            made = self._made[id(value)] = copy.copy(value)
            made.__dict__.update({name: self._own(item) for name, item in vars(value).items()})
        return self._made[id(value)]

    def _container(self, value: Any) -> Any:
        if id(value) not in self._made:
            made = self._made[id(value)] = copy.copy(value)
            if isinstance(value, set):
                made.clear()
                made.update(map(self._own, value))
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in entries if isinstance(value, dict | list | deque) else ():
                made[key] = self._own(item)
        return self._made[id(value)]

    def _callable(self, value: Any) -> Any:
        """Bind a method, a partial or a closure to the clones."""
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self._own(value.__self__))
        if isinstance(value, partial):
            return partial(self._own(value.func), *map(self._own, value.args), **self._own(value.keywords))
        if value.__closure__ is None:
            return value
        if id(value) not in self._made:
            cells = tuple(CellType() for _ in value.__closure__)
            made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
            made.__kwdefaults__ = value.__kwdefaults__
            self._made[id(value)] = made  # which one of its cells may hold
            for cell, own in zip(value.__closure__, cells, strict=True):
                own.cell_contents = self._own(cell.cell_contents)
        return self._made[id(value)]

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._made:
            self._made[id(tensor)] = self._made_of(tensor)
            if isinstance(tensor, nn.Parameter) or (tensor.requires_grad and tensor.is_leaf):
                self._weights[id(tensor)] = tensor
        made: torch.Tensor = self._made[id(tensor)]
        return made

    def _made_of(self, tensor: torch.Tensor) -> torch.Tensor:
        if nn.parameter.is_lazy(tensor):  # the first pass gives it a shape, on the clone
            options = {"device": self._stand_in(torch.empty(0)).device, "dtype": tensor.dtype}
            lazy: Any = type(tensor)
            made: torch.Tensor = lazy(requires_grad=tensor.requires_grad, **options)
            return made
        made = self._stand_in(tensor)
        if not isinstance(tensor, nn.Parameter):
            return made
        if type(made) is torch.Tensor:  # as nn.Parameter does, without its questions
            return torch.Tensor._make_subclass(nn.Parameter, made, tensor.requires_grad)
        return nn.Parameter(made, tensor.requires_grad)


def _within(stack: list[str], path: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    stack.append(path)
    output = call(*args, **kwargs)
    stack.pop()
    return output


_PLAIN = frozenset({bool, int, float, str, NoneType, torch.dtype, torch.device, torch.Size, type})
_CONTAINERS = (dict, list, set, deque, bytearray)
_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has: containers of hooks, parameters, modules, which belong to it alone."""


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """Name the attributes that a class keeps outside __dict__."""
    declared = (vars(base).get("__slots__", ()) for base in kind.__mro__)
    return tuple(name for names in declared for name in ((names,) if isinstance(names, str) else names))


@contextmanager
def undisturbed(gradients: GradientMode = "inference_mode") -> Iterator[None]:
    """Run a network whatever the caller's own modes are, and leave the random states on the CPU as they are.

    Nothing is compiled, and what the network warns of is not passed on. In inference mode composite operators are seen.
    """
    with (
        gradient_mode(gradients),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(action="ignore"),
        torch.compiler.set_stance("force_eager"),
    ):
        states = random.getstate(), numpy.random.get_state()
        try:
            yield
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])
