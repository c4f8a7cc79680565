"""Values of small tensors that follow from a model's inputs and buffers, kept beside tensors without storage.

A mask or a table of positions decides which way a network goes, or how long a sequence is; it is known where it is an
input or a buffer, or made of numbers. A tensor computed from a weight, or from an image without values, is not.
"""

import math
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils import _pytree as pytree

MOST_ELEMENTS = 1 << 22
"""Of one tensor: a mask of 2,048 positions by as many."""
MOST_BYTES = 64 << 20
"""Of all tensors together."""


class Values:
    """Real storages of the fake tensors whose values are known; the same is written into both."""

    def __init__(self) -> None:
        self._known: dict[int, torch.Tensor] = {}
        """By a fake storage's identity, a real tensor of that storage's length."""
        self._ends: dict[int, Any] = {}
        self._bytes = 0

    def learn(self, made: torch.Tensor, tensor: torch.Tensor) -> None:
        """Keep the values of the tensor that a fake one was made for, unless that is a parameter."""
        if isinstance(tensor, torch.nn.Parameter) or tensor.is_meta or tensor.layout is not torch.strided:
            return
        if isinstance(made, FakeTensor) and _fills_its_storage(made):
            with unset_fake_temporarily():
                self._keep(made, tensor.detach().to(made.dtype))

    def read(self, function: Callable[[torch.Tensor], Any], tensor: torch.Tensor) -> Any:
        """Apply a function to a tensor's values; NotImplemented where they are not known."""
        try:
            with unset_fake_temporarily():
                return function(self.of(tensor))
        except KeyError:
            return NotImplemented

    def of(self, value: Any) -> Any:
        """Return an argument with its values; raises KeyError where a tensor's are not known."""
        if not isinstance(value, torch.Tensor):
            return value
        if not isinstance(value, FakeTensor):
            if value.is_meta or value.numel() > MOST_ELEMENTS:
                raise KeyError("values")
            return value.detach().clone()
        if value.constant is not None:
            return value.constant
        known = self._known[value.untyped_storage()._cdata]
        return known.view(value.dtype).as_strided(value.shape, value.stride(), value.storage_offset())

    def follow(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Work out an operator's output, or the values that it wrote, where all its arguments are known."""
        writes = func._schema.is_mutable
        made = output if isinstance(output, torch.Tensor) and not writes else None
        if not writes and (made is None or not self._is_new(made)):
            return
        try:
            found = self._run(func, args, kwargs)
        except _UNKNOWN:
            if writes:
                self._forget_written(func, args, kwargs)
            return
        if made is not None and isinstance(found, torch.Tensor) and found.shape == made.shape:
            self._keep(made, found)

    def answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on values; NotImplemented where they are not known."""
        try:
            found = self._run(func, args, kwargs)
        except _UNKNOWN:
            return NotImplemented
        return pytree.tree_map_only(torch.Tensor, self._stand_in, found)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise KeyError(func)
        with unset_fake_temporarily(), torch.no_grad():
            taken, named = pytree.tree_map(self.of, (args, {**kwargs}))
            if "device" in named:
                named["device"] = "cpu"
            return func(*taken, **named)

    def _stand_in(self, found: torch.Tensor) -> torch.Tensor:
        made = torch.empty_strided(found.shape, found.stride(), dtype=found.dtype)
        self._keep(made, found)
        return made

    def _is_new(self, made: torch.Tensor) -> bool:
        if made.layout is not torch.strided or made.untyped_storage()._cdata in self._known:
            return False
        return made.numel() <= MOST_ELEMENTS and made.nbytes <= MOST_BYTES - self._bytes

    def _keep(self, made: torch.Tensor, found: torch.Tensor) -> None:
        if not isinstance(made, FakeTensor) or not self._is_new(made):
            return
        storage = made.untyped_storage()
        with unset_fake_temporarily():
            known = torch.zeros(storage.nbytes() // found.element_size(), dtype=made.dtype)
            once = tuple(slice(None) if step else slice(1) for step in made.stride())  # an expanded row is one row
            known.as_strided(made.shape, made.stride(), made.storage_offset())[once].copy_(found[once])
        self._known[storage._cdata] = known
        self._bytes += known.nbytes
        self._ends[storage._cdata] = weakref.ref(storage, partial(self._forget, storage._cdata))

    def _forget(self, key: int, _: Any = None) -> None:
        if key in self._known:
            self._bytes -= self._known.pop(key).nbytes
            del self._ends[key]

    def _forget_written(self, func: Any, args: Any, kwargs: Any) -> None:
        for tensor in _written(func, args, kwargs):
            self._forget(tensor.untyped_storage()._cdata)


_UNKNOWN = (KeyError, RuntimeError, TypeError, ValueError, IndexError)
"""Raised where values are missing, or where the real call is refused."""


def _fills_its_storage(made: torch.Tensor) -> bool:
    """Say whether no bytes of a storage are others' alone, whose values would stay unknown."""
    lengths = (length for length, step in zip(made.shape, made.stride(), strict=True) if step)
    return math.prod(lengths) * made.element_size() == made.untyped_storage().nbytes()


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))
