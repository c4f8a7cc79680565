"""A stand-in for a network, in which nothing of the caller's can be changed, and the state of torch that it runs in.

The module's tree is cloned shallowly; the clones have containers of their own, and what a rung puts in place of their
tensors: tensors without storage, or the weights themselves.
"""

import copy
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, NoneType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

StandIn = Callable[[torch.Tensor], torch.Tensor]


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape, strides and type on the meta device."""
    if tensor.layout is not torch.strided:
        return tensor.detach().to("meta")
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def shared_or_copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a parameter's own values, which a pass reads; a copy of anything else, which it may write."""
    return tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone()


class Shadow:
    """A shallow clone of a module's tree with other tensors, all of it in training or in eval mode.

    `originals` and `clones` are the modules by path. `unregistered` are parameters that a forward pass may use though
    no module has them as its own: they hang in a list, or on an attribute that is no parameter.
    """

    def __init__(self, module: nn.Module, stand_in: StandIn, training: bool = False) -> None:
        self._stand_in, self._training = stand_in, training
        self._made: dict[int, Any] = {}
        """What stands for the caller's, by its identity: what is shared there stays shared here."""
        self._parameters: dict[int, nn.Parameter] = {}
        self.originals = dict(module.named_modules())
        self.root = self._clone(module)
        self.clones = {path: self._clone(part) for path, part in self.originals.items()}
        tensors = [tensor for part in self.originals.values() for tensor in part._parameters.values()]
        self.is_lazy = any(map(nn.parameter.is_lazy, tensors))
        registered = set(map(id, tensors))
        self.unregistered = tuple(tensor for key, tensor in self._parameters.items() if key not in registered)

    def _clone(self, part: nn.Module) -> nn.Module:
        if id(part) in self._made:
            clone: nn.Module = self._made[id(part)]
        elif isinstance(part, torch.jit.ScriptModule):  # its insides are not of Python
            clone = self._made[id(part)] = copy.deepcopy(part).train(self._training)
        else:
            clone = self._made[id(part)] = object.__new__(type(part))
            held, own = clone.__dict__, self._own
            for name, value in part.__dict__.items():
                kind = type(value)
                if kind in _PLAIN:
                    held[name] = value
                else:  # most are hooks that nobody has registered
                    held[name] = own(value) if kind not in _BUILT_IN or value else kind()
            clone.__dict__["training"] = self._training
            clone.__dict__.pop("_compiled_call_impl", None)  # compiled code would call the original
            if isinstance(part, torch._dynamo.OptimizedModule):
                clone.__dict__["forward"] = clone._orig_mod
        return clone

    def _own(self, value: Any) -> Any:
        """Replace what a forward pass could change, and what leads back to the caller's modules."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._clone(value)
        if kind is MethodType and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self._clone(value.__self__))
        if kind is RemovableHandle:  # of a hook: to be removed from the clone's
            handle = RemovableHandle.__new__(RemovableHandle)
            handle.__setstate__((self._own(value.hooks_dict_ref()), value.id))
            return handle
        if isinstance(value, tuple):
            items = [self._own(item) for item in value]
            return kind(*items) if hasattr(value, "_fields") else tuple(items)
        return value

    def _container(self, value: Any) -> Any:
        if id(value) not in self._made:
            made = self._made[id(value)] = copy.copy(value)
            entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            for key, item in entries:
                made[key] = self._own(item)
        return self._made[id(value)]

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._made:
            self._made[id(tensor)] = self._made_of(tensor)
            if isinstance(tensor, nn.Parameter):
                self._parameters[id(tensor)] = tensor
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


_PLAIN = frozenset({bool, int, float, str, NoneType, FunctionType, torch.dtype, torch.device, torch.Size, type})
_CONTAINERS = (dict, list, set, deque, bytearray)
_BUILT_IN = frozenset({dict, OrderedDict, list, set})


@contextmanager
def undisturbed(training: bool = False) -> Iterator[None]:
    """Run a network whatever the caller's own modes are, and leave his random state as it is.

    Nothing is compiled, and what the network warns of is not passed on. Without training it is inference mode, in which
    composite operators are seen.
    """
    with (
        torch.inference_mode(not training),
        torch.set_grad_enabled(training),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(action="ignore"),
        torch.compiler.set_stance("force_eager"),
    ):
        yield
