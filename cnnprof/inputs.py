"""The inputs of networks: tensors in any nest, moved and made, the types they have, and the memory that they share."""

import copy
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from cnnprof import module_tree
from cnnprof.errors import UsageError
from cnnprof.records import Size

_MOST_ELEMENTS = 2**60
"""Their bytes, at 8 an element, still fit torch's 63 bits."""
Place = Callable[[torch.Tensor, int, int], torch.Tensor]
"""Makes the bytes, as uint8, that stand for those from one place to another of a tensor's storage."""


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
        if not isinstance(inputs, tuple | list) or isinstance(inputs, PackedSequence):
            return cls((inputs,), {}, batch_size)
        if inputs and isinstance(inputs[-1], dict):
            return cls(tuple(inputs[:-1]), inputs[-1], batch_size)
        return cls(tuple(inputs), {}, batch_size)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Inputs":
        """Move all tensors, the floating ones to `dtype` too where one is given."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return self.relocate(lambda like, *around: bytes_of(like, *around).to(device), move, dtype is None)

    def with_values(self, seed: int = 0) -> "Inputs":
        """Draw values for tensors that are shapes alone."""
        generator = torch.Generator().manual_seed(seed)

        def drawn(tensor: torch.Tensor) -> torch.Tensor:
            return torch.randn(tensor.shape, generator=generator).to(tensor.dtype) if tensor.is_meta else tensor

        return self.mapped(drawn)

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Inputs":
        """Change every tensor once, however often it is given; those that require a gradient are leaves that do."""
        made: dict[int, torch.Tensor] = {}

        def changed(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in made:
                new = change(tensor)
                made[id(tensor)] = new.detach().requires_grad_() if tensor.requires_grad else new
            return made[id(tensor)]

        return Inputs(_mapped(self.args, changed), _mapped(dict(self.kwargs), changed), self.batch_size)

    def cloned(self) -> "Inputs":
        """Copy all tensors to memory of their own."""
        return self.relocate(lambda like, *around: bytes_of(like, *around).clone(), torch.Tensor.clone)

    def relocate(
        self,
        place: Place,
        change: Callable[[torch.Tensor], torch.Tensor],
        shares: bool = True,
    ) -> "Inputs":
        """Put tensors into other memory, so that those which overlap still do; `change` those without plain memory.

        Where nothing `shares` memory afterwards every tensor is changed by itself.
        """
        reaches = _reaches(filter(is_plain, self.tensors())) if shares else {}
        places: dict[tuple[int, int], torch.Tensor] = {}

        def laid(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in reaches:
                return change(tensor)
            first, last = reaches[id(tensor)]
            key = tensor.untyped_storage()._cdata, first
            if key not in places:
                places[key] = place(tensor, first, last)
            return view_in(places[key], tensor, first)

        return self.mapped(laid)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield all tensors, positional ones first."""
        return tensors_in((self.args, dict(self.kwargs)))

    def channels_last(self) -> "Inputs":
        """Lay images (N, C, H, W) out with the channels last."""

        def lay(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

        return self.mapped(lay)

    @classmethod
    def random(cls, size: Size, batch_size: int, seed: int, dtype: torch.dtype = torch.float32) -> "Inputs":
        """Draw one image batch (N, *size) without touching the global generator."""
        generator = torch.Generator().manual_seed(seed)
        return cls((torch.randn(batch_size, *size, generator=generator).to(dtype),), {}, batch_size)

    @classmethod
    def without_values(cls, size: Size, batch_size: int, dtype: torch.dtype = torch.float32) -> "Inputs":
        """Make one image batch (N, *size) of shapes alone. Raises UsageError where no tensor can be so large."""
        if math.prod((batch_size, *size)) >= _MOST_ELEMENTS:
            raise UsageError(f"a batch of {batch_size} x {size} has more elements than a tensor can hold")
        return cls((torch.empty(batch_size, *size, dtype=dtype, device="meta"),), {}, batch_size)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, drawn or not."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())


def explain_reading(inputs: Any) -> str:
    """Say how inputs are read where one value may have been meant and several arguments are made of it, or not."""
    if isinstance(inputs, dict):
        return "a dict alone is one argument: ({...},) names its items"
    if not isinstance(inputs, tuple | list) or isinstance(inputs, PackedSequence) or not inputs:
        return ""
    parts = []
    if type(inputs) is not tuple:
        kind = type(inputs).__name__
        parts.append(f"a {kind} is several arguments, one an item: ({kind},) is one" if kind != "list" else _A_LIST)
    if isinstance(inputs[-1], dict):
        parts.append("the last dict names arguments: ({...}, {}) gives it as one")
    return "; ".join(parts)


_A_LIST = "a list is several arguments, one an item: ([...],) is one"


def torch_name(value: torch.dtype | torch.layout) -> str:
    """torch.float32 -> float32."""
    return str(value).removeprefix("torch.")


def size_of(tensor: torch.Tensor) -> Size:
    """Return a tensor's lengths; of a nested one, whose rows have lengths of their own, those of all rows together."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    jagged: Any = tensor
    return tuple(jagged._values.shape) if tensor.layout is torch.jagged else (tensor.numel(),)


def rebuild(tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Change the tensors inside one of a class made of others; else the tensor itself."""
    kind: Any = type(tensor)
    if not is_wrapper(kind):
        return change(tensor)
    names, context = kind.__tensor_flatten__(tensor)
    inside = {name: rebuild(getattr(tensor, name), change) for name in names}
    made: torch.Tensor = kind.__tensor_unflatten__(inside, context, tensor.size(), tensor.stride())
    return made


def is_wrapper(kind: type) -> bool:
    """Say whether a class of tensors is made of others, as jagged and torchao's quantised ones are."""
    return hasattr(kind, "__tensor_flatten__")


def first_floating(module: nn.Module) -> torch.Tensor:
    """Return the tensor of a module whose device its inputs take; one of float32 where it has none."""
    tensors = module_tree.tensors(module)
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


def floating_types(module: nn.Module) -> tuple[torch.dtype, ...]:
    """Return the floating and complex types of a module's parameters, else of its buffers, in the order they occur."""
    for tensors in (module_tree.parameters(module), module_tree.buffers(module)):
        found = dict.fromkeys(tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex())
        if found:
            return tuple(found)
    return (torch.float32,)


def input_type(module: nn.Module) -> torch.dtype:
    """Return the type of the images that a module takes: its first floating one that arithmetic is done in."""
    computed = (dtype for dtype in floating_types(module) if dtype.is_floating_point and dtype.itemsize > 1)
    return next(computed, torch.float32)


def common_type(module: nn.Module) -> torch.dtype | None:
    """Return the type that all a module's inputs take; None where it has several, and each keeps its own."""
    return input_type(module) if len(floating_types(module)) == 1 else None


# Memory --------------------------------------------------------------------------------------------------------------


def is_plain(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is no more than a view of its storage."""
    is_view = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided
    return is_view and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())


def _reaches(tensors: Iterable[torch.Tensor]) -> dict[int, tuple[int, int]]:
    """Return, by a tensor's identity, the bytes of its storage that it and those which overlap it lie in."""
    by_storage: dict[int, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_storage.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    return {key: reach for group in by_storage.values() for key, reach in _overlaps(group)}


def _overlaps(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the reach of each tensor of one storage; it begins where every type of those within can begin."""
    ordered = deque(sorted(((*byte_range(tensor), tensor) for tensor in tensors), key=itemgetter(0, 1)))
    while ordered:
        first, last, tensor = ordered.popleft()
        within = [tensor]
        while ordered and ordered[0][0] < last:
            _, reached, tensor = ordered.popleft()
            within.append(tensor)
            last = max(last, reached)
        first -= first % max(tensor.element_size() for tensor in within)
        yield from ((id(tensor), (first, last)) for tensor in within)


def byte_range(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the bytes of its storage between which a tensor lies."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    elements = 1 + sum((int(length) - 1) * int(step) for length, step in steps) if tensor.numel() else 0
    first = int(tensor.storage_offset()) * tensor.element_size()
    return first, first + elements * tensor.element_size()


def bytes_of(tensor: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Return some bytes of a tensor's storage as they lie there."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage(), first, (last - first,), (1,))


def view_in(place: torch.Tensor, like: torch.Tensor, first: int) -> torch.Tensor:
    """Make a tensor that lies in other bytes as one lies in its own from `first` on."""
    offset = place.storage_offset() + like.storage_offset() * like.element_size() - first
    made = torch.empty(0, dtype=like.dtype, device=place.device)
    return made.set_(place.untyped_storage(), offset // like.element_size(), like.shape, like.stride())


_BY_ROWS, _BY_COLUMNS = ("crow_indices", "col_indices", "values"), ("ccol_indices", "row_indices", "values")
SPARSE: Mapping[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: _BY_ROWS,
    torch.sparse_bsr: _BY_ROWS,
    torch.sparse_csc: _BY_COLUMNS,
    torch.sparse_bsc: _BY_COLUMNS,
}
"""Methods that return the component tensors of a sparse tensor, by layout."""


def components(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tensors with a storage that one is made of: indices and values of a sparse one.

    Raises NotImplementedError where it does not tell them.
    """
    if tensor.layout in SPARSE:
        return tuple(getattr(tensor, name)() for name in SPARSE[tensor.layout])
    if is_wrapper(type(tensor)):
        inner = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])  # type: ignore[attr-defined]
        return tuple(part for each in inner for part in components(each))
    if tensor.layout is not torch.strided:
        raise NotImplementedError(f"tensors that are {torch_name(tensor.layout)} show no memory")
    return (tensor,)


# Nests ---------------------------------------------------------------------------------------------------------------


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def changed(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return change(leaf)
        if isinstance(leaf, PackedSequence):
            return map_packed(leaf, change)
        fields = _attributes(leaf)
        if not any(True for _ in tensors_in(fields)):
            return leaf
        made = copy.copy(leaf)
        for name, value in fields.items():
            object.__setattr__(made, name, _mapped(value, change))
        return made

    return pytree.tree_map(changed, value, is_leaf=lambda part: isinstance(part, PackedSequence))


def map_packed(sequences: PackedSequence, change: Callable[[Any], Any]) -> PackedSequence:
    """Change the tensors of packed sequences but their batch sizes: torch reads those on the CPU."""
    data, sizes, order, back = sequences
    return PackedSequence(change(data), sizes, *(index if index is None else change(index) for index in (order, back)))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of any nest of tuples, lists, dicts and dataclass-like outputs."""
    yield from _found(value, set())


def unregistered(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors that only attributes of a tree hold, alone or in containers, of layers in a list too."""
    registered = {*map(id, module_tree.modules(module)), *map(id, module_tree.tensors(module))}
    for part in module_tree.modules(module):
        for leaf in pytree.tree_leaves([value for name, value in vars(part).items() if name not in _REGISTERS]):
            if id(leaf) in registered:
                continue
            if isinstance(leaf, nn.Module):
                yield from module_tree.tensors(leaf)
            elif isinstance(leaf, torch.Tensor):
                yield leaf


_REGISTERS = ("_parameters", "_buffers", "_modules")


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
    return _attributes(value).values()


def _attributes(value: Any) -> Mapping[str, Any]:
    """Return the attributes of an object that is neither a module nor a class, by name."""
    if isinstance(value, nn.Module | type):
        return {}
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return vars(value) if hasattr(value, "__dict__") else {}
