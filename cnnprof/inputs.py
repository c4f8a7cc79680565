"""What a network is fed: tensors in any nest, moved and made. No networks."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from cnnprof.errors import UsageError
from cnnprof.records import Size

_MOST_ELEMENTS = 2**60
"""Their bytes, at 8 an element, still fit torch's 63 bits."""


@dataclass(frozen=True)
class Inputs:
    """What a network is fed: positional and keyword arguments, batch included."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    """Images that it holds; None where that was not said: no shape tells a batch from a length or a count of boxes."""

    @classmethod
    def of(cls, inputs: Any, batch_size: int | None = None) -> "Inputs":
        """Read a tensor, or a tuple whose last item may be a dict of keyword arguments."""
        if not isinstance(inputs, tuple | list):
            return cls((inputs,), {}, batch_size)
        if inputs and isinstance(inputs[-1], dict):
            return cls(tuple(inputs[:-1]), inputs[-1], batch_size)
        return cls(tuple(inputs), {}, batch_size)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Inputs":
        """Move all tensors, the floating ones to `dtype` too."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return self.mapped(move)

    def with_values(self, seed: int = 0) -> "Inputs":
        """Draw values for tensors that are shapes alone."""
        generator = torch.Generator().manual_seed(seed)

        def drawn(tensor: torch.Tensor) -> torch.Tensor:
            return torch.randn(tensor.shape, generator=generator).to(tensor.dtype) if tensor.is_meta else tensor

        return self.mapped(drawn)

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Inputs":
        """Change every tensor."""
        return Inputs(_mapped(self.args, change), _mapped(dict(self.kwargs), change), self.batch_size)

    def cloned(self) -> "Inputs":
        """Copy all tensors to memory of their own."""
        return self.mapped(torch.Tensor.clone)

    def channels_last(self) -> "Inputs":
        """Lay images (N, C, H, W) out with the channels last."""

        def lay(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        return self.mapped(lay)

    @classmethod
    def random(cls, size: Size, batch_size: int, seed: int) -> "Inputs":
        """Draw one image batch (N, *size) without touching the global generator."""
        generator = torch.Generator().manual_seed(seed)
        return cls((torch.randn(batch_size, *size, generator=generator),), {}, batch_size)

    @classmethod
    def without_values(cls, size: Size, batch_size: int) -> "Inputs":
        """Make one image batch (N, *size) of shapes alone. Raises UsageError where no tensor can be so large."""
        if math.prod((batch_size, *size)) >= _MOST_ELEMENTS:
            raise UsageError(f"a batch of {batch_size} x {size} has more elements than a tensor can hold")
        return cls((torch.empty(batch_size, *size, device="meta"),), {}, batch_size)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, drawn or not."""
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in((self.args, self.kwargs)))


def first_floating(module: nn.Module) -> torch.Tensor:
    """Return the tensor of a module whose device and type its inputs take; one of float32 where it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def changed(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return change(leaf)
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        made = copy.copy(leaf)
        for each in dataclasses.fields(leaf):
            object.__setattr__(made, each.name, _mapped(getattr(leaf, each.name), change))
        return made

    return pytree.tree_map(changed, value)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of any nest of tuples, lists, dicts and dataclass-like outputs."""
    yield from _found(value, set())


def _found(value: Any, around: set[int]) -> Iterator[torch.Tensor]:
    """Yield the tensors of a value that lies within `around`, which a nest may hold again."""
    if isinstance(value, torch.Tensor):
        yield value
    elif id(value) not in around:
        for item in _parts(value):
            yield from _found(item, around | {id(value)})


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple | list):
        return value
    if isinstance(value, Mapping):
        return value.values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, each.name) for each in dataclasses.fields(value)]
    return vars(value).values() if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type) else ()
