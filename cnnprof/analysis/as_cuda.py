"""What CUDA does otherwise than the CPU, where a network is followed without a CUDA device. Knows operators alone.

Autograd asks a real device for its streams, so without one a backward pass cannot be followed on fake tensors of it;
they are of the CPU then, and the calls whose memory differs are made as CUDA has them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

ROUNDED_TO = 512
"""The caching allocator gives blocks of multiples of so many bytes (kMinBlockSize, c10/cuda/CUDACachingAllocator.h)."""
WORKSPACE_BYTES = 8519680
"""cuBLAS keeps this from its first product on: CUBLAS_WORKSPACE_CONFIG is :4096:2:16:8 unless set; Hopper has 32 MiB
(aten/src/ATen/cuda/CublasHandlePool.cpp)."""
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})


class AsCuda(TorchFunctionMode):
    """Makes some calls as CUDA has them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace a call that stands in the table."""
        return _ON_CUDA.get(func, func)(*args, **(kwargs or {}))


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """One kernel with a mask of a byte an element, where the CPU has one of the input's type."""
    if not training or not p or inplace:
        return F.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, train=True)[0]


def _attention(
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


_ON_CUDA: Mapping[Any, Callable[..., Any]] = {F.dropout: _dropout, F.scaled_dot_product_attention: _attention}
