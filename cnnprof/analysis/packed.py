"""Weights that quantized modules keep packed for a kernel, in TorchScript's objects, where no parameter holds them."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes


def is_packed(value: Any) -> bool:
    """Say whether a value holds packed weights: of a linear layer, a convolution, a recurrent cell, an embedding."""
    return isinstance(value, torch.ScriptObject) and "Params" in str(value._type())


def among(values: Iterable[Any]) -> list[Any]:
    """Return the packed objects among an operator's arguments, which nest one level deep."""
    flat = chain.from_iterable(value if isinstance(value, list | tuple) else (value,) for value in values)
    return [value for value in flat if is_packed(value)]


def tensors(held: Any) -> Mapping[str, torch.Tensor]:
    """Return the weights and biases of a packed object by their names."""
    with _disable_current_modes():  # unpacking writes, which tensors without storage do not bear
        return _named(_unpacked(held))


def _unpacked(held: Any) -> Mapping[str, torch.Tensor | None]:
    if "CellParams" in str(held._type()):
        return _of_cell(held)
    unpacked = held.unpack()
    both = (unpacked,) if isinstance(unpacked, torch.Tensor) else unpacked  # an embedding has no bias
    return dict(zip(("weight", "bias"), both, strict=False))


def of_module(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the packed weights in a module's own attributes, by attribute and name."""
    if torch.ScriptObject not in map(type, vars(module).values()):
        return {}
    found = {name: tensors(value) for name, value in vars(module).items() if is_packed(value)}
    return {f"{name}.{own}": tensor for name, held in found.items() for own, tensor in held.items()}


def stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a weight's elements, of which two or four may share one."""
    return math.ceil(tensor.numel() * tensor.element_size() / _SHARING.get(tensor.dtype, 1))


_SHARING = {torch.quint4x2: 2, torch.quint2x4: 4}


def _of_cell(held: Any) -> Mapping[str, torch.Tensor | None]:
    """Return the weights (gates·H, I) and (gates·H, H), and the biases, which a cell may hold beside them."""
    _, beside, _, _, matrices = held.__getstate__()[0]
    first, second = (_unpacked(matrix) for matrix in matrices)
    biases = beside[-2:] or [first["bias"], second["bias"]]
    weights = {"weight_ih": first["weight"], "weight_hh": second["weight"]}
    return {**weights, **dict(zip(("bias_ih", "bias_hh"), biases, strict=True))}


def _named(tensors: Mapping[str, torch.Tensor | None]) -> Mapping[str, torch.Tensor]:
    """Leave missing tensors out; a weight that unpacks to float32 is stored in half precision."""
    known = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return {name: tensor.half() if _is_half(name, tensor) else tensor for name, tensor in known.items()}


def _is_half(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith("weight") and not tensor.is_quantized
