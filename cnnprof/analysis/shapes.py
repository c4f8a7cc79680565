"""Outputs of operators on meta tensors whose own kernels take long: those are Python, 100 to 1,300 microseconds a call.

A rule gives exactly what the operator would, or None, and then the operator is run. The operators that are not here
are run. The tests put every rule beside its operator.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

Rule = Callable[[tuple[Any, ...]], Any]


def _empty(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _dense(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _like(tensor: torch.Tensor) -> torch.Tensor:
    """Lay a dense tensor's shape out anew: where a length is 1, its own stride may be any."""
    layout = torch.contiguous_format if tensor.is_contiguous() else torch.channels_last
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta", memory_format=layout)


def _elementwise(args: tuple[Any, ...]) -> Any:
    """An image in, an image out: of floating point, or the kernel has a say on the type."""
    image = args[0]
    return _like(image) if image.dtype.is_floating_point and _dense(image) else None


def _in_place(args: tuple[Any, ...]) -> Any:
    return args[0] if args[0].dtype.is_floating_point else None


def _of_two(args: tuple[Any, ...]) -> Any:
    """Two alike; else broadcasting and promotion are the kernel's to do."""
    left, right = args[0], args[1]
    if not isinstance(right, torch.Tensor):
        return _elementwise(args) if isinstance(right, int | float) else None
    alike = left.shape == right.shape and left.stride() == right.stride() and left.dtype == right.dtype
    return _elementwise(args) if alike else None


def _of_two_in_place(args: tuple[Any, ...]) -> Any:
    return args[0] if _of_two(args) is not None else None


def _batch_norm(args: tuple[Any, ...]) -> Any:
    """In eval mode: (N, C, ...) as it came."""
    images, channels, training = args[0], args[3], args[5]
    if training or not images.is_contiguous() or images.dtype != torch.float32 or images.ndim < 2:
        return None
    return _like(images) if channels is not None and channels.shape == images.shape[1:2] else None


def _convolution(args: tuple[Any, ...]) -> Any:
    """(N, C, ...) and K filters of (C / groups, ...), not transposed: the formula in torch.nn.Conv2d's text."""
    images, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    space = images.ndim - 2
    if transposed or not (weight.ndim - 2 == len(stride) == len(padding) == len(dilation) == space > 0):
        return None
    if images.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    alike = images.dtype == weight.dtype and (
        bias is None or (bias.dtype, bias.shape) == (weight.dtype, weight.shape[:1])
    )
    if not (alike and images.is_contiguous() and weight.is_contiguous()):
        return None
    sides = zip(images.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    lengths = [(side + 2 * pad - gap * (taps - 1) - 1) // step + 1 for side, taps, step, pad, gap in sides]
    return _empty((images.shape[0], weight.shape[0], *lengths), images.dtype) if min(lengths) > 0 else None


def _layer_norm(args: tuple[Any, ...]) -> Any:
    images, normalized = args[0], args[1]
    if not images.is_contiguous() or images.dtype != torch.float32:
        return None
    kept = images.ndim - len(normalized)
    moments = (*images.shape[:kept], *(1,) * len(normalized))
    return _like(images), _empty(moments, images.dtype), _empty(moments, images.dtype)


def _addmm(args: tuple[Any, ...]) -> Any:
    """(m) + (n, k) @ (k, m)."""
    bias, left, right = args[:3]
    if (
        not (bias.dtype == left.dtype == right.dtype)
        or bias.shape != right.shape[1:]
        or left.shape[1] != right.shape[0]
    ):
        return None
    return _empty((left.shape[0], right.shape[1]), left.dtype)


def _cat(args: tuple[Any, ...]) -> Any:
    """Along one dimension of equal contiguous rest."""
    tensors, dim = args[0], args[1] if len(args) > 1 else 0
    first = tensors[0]
    if not all(t.is_contiguous() and t.dtype == first.dtype and t.ndim == first.ndim >= 1 for t in tensors):
        return None
    dim %= first.ndim
    rest = first.shape[:dim] + first.shape[dim + 1 :]
    if any(t.shape[:dim] + t.shape[dim + 1 :] != rest for t in tensors):
        return None
    return _empty((*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :]), first.dtype)


UNARY = ("relu", "gelu", "silu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "leaky_relu", "elu")
BINARY = ("add.Tensor", "mul.Tensor", "sub.Tensor")

RULES: Mapping[str, Rule] = {
    **{f"aten::{name}": _elementwise for name in UNARY},
    **{f"aten::{name}_": _in_place for name in UNARY},
    **{f"aten::{name}": _of_two for name in BINARY},
    **{f"aten::{name.replace('.', '_.')}": _of_two_in_place for name in BINARY},
    "aten::batch_norm": _batch_norm,
    "aten::convolution": _convolution,
    "aten::native_layer_norm": _layer_norm,
    "aten::addmm": _addmm,
    "aten::cat": _cat,
}
"""By the operator's name with its overload. A composite that stands here is not taken apart: it must be free."""
