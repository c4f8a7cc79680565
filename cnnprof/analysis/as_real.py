"""Calls that take other memory on real tensors of the device than on the fake ones that are followed. Operators alone.

Autograd asks a real device for its streams, so without one a backward pass cannot be followed on fake tensors of it;
they are of the CPU then, and the calls whose memory differs are made as CUDA has them. And where torch writes in place,
though not into tensors of a class of its own, it is told to.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

ROUNDED_TO = 512
"""The caching allocator gives blocks of multiples of so many bytes (kMinBlockSize, c10/cuda/CUDACachingAllocator.h)."""
WORKSPACE_BYTES = 8519680
"""cuBLAS keeps this from its first product on: CUBLAS_WORKSPACE_CONFIG is :4096:2:16:8 unless set; Hopper has 32 MiB
(aten/src/ATen/cuda/CublasHandlePool.cpp)."""
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})


aten = torch.ops.aten
IN_PLACE: Mapping[Any, Any] = {
    aten.scatter.src: aten.scatter_.src,
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.index_put.default: aten.index_put_.default,
    aten.index_add.default: aten.index_add_.default,
}
"""How gradients fill zeros of real tensors, not of subclasses (torch/csrc/autograd/FunctionsManual.cpp)."""
BY_VALUES = frozenset({"aten::prod", "aten::cumprod"})
"""Operators whose backward pass differs where there are zeros (the same file)."""


def asked_for(func: Any, args: Sequence[Any], output: Any) -> Any:
    """Leave out the gradients that batch norm's backward operator is not asked for: on shapes alone it makes them."""
    if func is not aten.native_batch_norm_backward.default:
        return output
    return tuple(gradient if asked else None for gradient, asked in zip(output, args[-1], strict=True))


def columns_to_image(
    columns: torch.Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Make an image of columns (N, channels * window, positions) in as much memory as they take (Col2Im.cpp)."""
    columns = columns.contiguous()
    channels = columns.shape[-2] // math.prod(kernel_size)
    return torch.empty_like(columns).resize_(*columns.shape[:-2], channels, *output_size)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {aten.col2im.default: columns_to_image}
"""Operators whose outputs reserve more than their shapes tell."""


class AsReal(TorchFunctionMode):
    """Makes some calls as real tensors have them, of the CPU or of CUDA, and names those that it cannot."""

    def __init__(self, on_cuda: bool, name: Callable[[str], None]) -> None:
        super().__init__()
        self._instead = _ON_CUDA if on_cuda else _ON_CPU
        self._name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace a call that stands in the table."""
        if func in _BY_SELECTION:
            self._name(func.__name__)
        return self._instead.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def allow_fast_path() -> Iterator[None]:
    """Let torch.nn's attention layers take their fast path, which they leave where a mode replaces calls."""
    with mock.patch.object(torch.overrides, "has_torch_function", _overrides):
        yield


def _overrides(tensors: Sequence[Any]) -> bool:
    """Say whether a tensor's class replaces calls, whatever modes there are."""
    plain = (torch.Tensor.__torch_function__, nn.Parameter.__torch_function__)
    return any(getattr(type(tensor), "__torch_function__", plain[0]) not in plain for tensor in tensors)


def adds_bias(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    """Say whether a linear layer's bias is added after the product (aten/native/Linear.cpp)."""
    return bias is not None and input.ndim != 2 and not input.is_contiguous()


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Add a bias in place."""
    if bias is None or not adds_bias(input, weight, bias):
        return F.linear(input, weight, bias)
    return torch.matmul(input, weight.t()).add_(bias)


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """One kernel with a mask of a byte an element, where the CPU has one of the input's type."""
    if not training or not p or inplace:
        return F.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, train=True)[0]


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Flash attention for half precision without a mask, else the memory-efficient one; neither keeps the scores."""
    if enable_gqa or query.ndim != 4 or (attn_mask is not None and attn_mask.requires_grad):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if query.dtype in (torch.bfloat16, torch.float16) and attn_mask is None:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    shape = (*query.shape[:-1], key.shape[-2])
    mask = None if attn_mask is None else attn_mask.to(query.dtype).expand(shape)
    keeps = any(tensor.requires_grad for tensor in (query, key, value))
    return efficient(query, key, value, mask, keeps, dropout_p, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


_BY_SELECTION = frozenset({torch.quantile, torch.nanquantile, torch.Tensor.quantile, torch.Tensor.nanquantile})
"""Real tensors are partly sorted in place, as their number and their ranks have it; shapes alone are sorted whole."""
_ON_CPU: Mapping[Any, Callable[..., Any]] = {F.linear: linear}
_ON_CUDA = {**_ON_CPU, F.dropout: _dropout, F.scaled_dot_product_attention: attention}
