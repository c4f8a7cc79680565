"""A module's tree as torch registers it: its parts, their parameters and buffers.

nn.Module's own walks call each other through `self`, so that a network which overrides named_modules() or parameters(),
has an attribute of such a name, or cannot be hashed, breaks or hides what is registered.
"""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def named_modules(module: "nn.Module") -> "Iterator[tuple[str, nn.Module]]":
    """Yield a module and all below it once, each before its children, by their paths; the module's own is empty."""
    seen: set[int] = set()
    stack = [("", module)]
    while stack:
        path, part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield path, part
        children = [(name, child) for name, child in part._modules.items() if child is not None]
        stack += [(f"{path}.{name}" if path else name, child) for name, child in reversed(children)]


def modules(module: "nn.Module") -> "Iterator[nn.Module]":
    """Yield a module and all below it, each once."""
    return (part for _, part in named_modules(module))


def parameters(module: "nn.Module") -> "Iterator[nn.Parameter]":
    """Yield the parameters of a module's tree, each tensor once."""
    found = (tensor for part in modules(module) for tensor in part._parameters.values() if tensor is not None)
    return iter({id(tensor): tensor for tensor in found}.values())


def buffers(module: "nn.Module") -> "Iterator[torch.Tensor]":
    """Yield the buffers of a module's tree, each tensor once."""
    found = (tensor for part in modules(module) for tensor in part._buffers.values() if tensor is not None)
    return iter({id(tensor): tensor for tensor in found}.values())


def tensors(module: "nn.Module") -> "Iterator[torch.Tensor]":
    """Yield the parameters of a module's tree, then its buffers."""
    return chain(parameters(module), buffers(module))


def count_parameters(module: "nn.Module") -> int:
    """Count the elements of a module's parameters."""
    return sum(parameter.numel() for parameter in parameters(module))
