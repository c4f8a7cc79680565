"""The fused inference path of torch.nn's attention layers, taken apart into the operators that its kernels call.

Fake tensors have no rule for nested tensors, and none for the workspaces of these kernels. The CPU's order of
allocations and releases is that of aten/src/ATen/native/transformers/{attention,transformer}.cpp and of
aten/src/ATen/native/nested/NestedTensorMath.cpp. A batch with padding masked is a nested tensor there: its sequences
lie one behind another.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scaled dot-product attention of (N, heads, length, width)."""


class Nested(torch.Tensor):
    """Sequences of different lengths (N, longest, width), as one buffer without padding."""

    is_nested = True
    buffer: Tensor
    lengths: tuple[int, ...]

    @staticmethod
    def __new__(cls, buffer: Tensor, lengths: Sequence[int]) -> "Nested":
        """Wrap a buffer (sum of lengths, width)."""
        shape = (len(lengths), max(lengths), buffer.shape[-1])
        made: Nested = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=buffer.dtype, device=buffer.device)
        made.buffer, made.lengths = buffer, tuple(lengths)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse: the operators that take it stand in `decompositions`."""
        raise NotImplementedError(f"{func} of a nested tensor")

    def like(self, buffer: Tensor) -> "Nested":
        """Return sequences of the same lengths that hold something else."""
        return Nested(buffer, self.lengths)


def is_left_aligned(mask: Tensor) -> bool:
    """Say whether every row of a mask (N, length) with values holds its ones first."""
    return torch.equal(mask.long().cummin(1).values.bool(), mask)


OF_MASKS: Mapping[Any, Callable[[Tensor], Any]] = {
    torch.ops.aten._nested_tensor_from_mask_left_aligned.default: is_left_aligned,
    torch.ops.aten._nested_tensor_from_mask.default: lambda mask: mask.sum(1).tolist(),
}
"""Functions of a mask (N, length), the second argument of these operators: a truth, or the sequences' lengths."""


def nest(sequences: Tensor, lengths: Sequence[int]) -> Nested:
    """Leave padding (N, length, width) out."""
    return Nested(_without_padding(sequences, lengths), lengths)


def pad(sequences: Nested, padding: float = 0.0, size: Sequence[int] | None = None) -> Tensor:
    """Fill sequences up to one length, each alone, and stack them."""
    longest = max(sequences.lengths)
    rows = torch.split(sequences.buffer, list(sequences.lengths))
    filled = [F.pad(row, (0, 0, 0, longest - len(row)), value=padding) for row in rows]
    stacked = torch.stack(filled)
    return stacked if size is None else F.pad(stacked, (0, 0, 0, size[1] - longest), value=padding)


def encoder_layer(
    source: Tensor,
    width: int,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    gelu: bool,
    norm_first: bool,
    eps: float,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
    attend: Attend | None = None,
) -> Tensor:
    """Take aten::_transformer_encoder_layer_fwd apart."""

    def norm(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(values, (width,), weight, bias, eps)

    packed = source.buffer if isinstance(source, Nested) else source
    x = norm(packed, norm1_weight, norm1_bias) if norm_first else packed
    taken = source.like(x) if isinstance(source, Nested) else x
    out = attention(taken, taken, taken, width, heads, qkv_weight, qkv_bias, out_weight, out_bias, mask, False, True,
                    mask_type, attend)[0]  # fmt: skip
    del taken
    x = out.buffer if isinstance(out, Nested) else out
    del out
    x.add_(packed)
    if not norm_first:
        x = norm(x, norm1_weight, norm1_bias)
    before = x
    if norm_first:
        x = norm(x, norm2_weight, norm2_bias)
    hidden = torch.addmm(bias1, x.reshape(-1, width), weight1.t())  # the activation is in place
    x = torch.addmm(bias2, hidden, weight2.t()).view(before.shape)
    del hidden
    x.add_(before)
    del before
    if not norm_first:
        x = norm(x, norm2_weight, norm2_bias)
    return source.like(x) if isinstance(source, Nested) else x


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
    attend: Attend | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Take aten::_native_multi_head_attention of a sequence with itself apart."""
    del key, value, mask_type
    packed = query.buffer if isinstance(query, Nested) else query
    if attend is not None and mask is None and not need_weights and width // heads % 8 == 0 and packed is query:
        parts = F.linear(query, qkv_weight, qkv_bias).view(*query.shape[:-1], 3, heads, -1).permute(2, 0, 3, 1, 4)
        return F.linear(attend(*parts).transpose(1, 2).flatten(2), out_weight, out_bias), None
    parts = _split(torch.matmul(packed, qkv_weight.t()), query, heads)
    scores = _scores(parts, query, mask)
    context = torch.bmm(scores.flatten(0, 1), parts[2].flatten(0, 1), out=parts[0].flatten(0, 1))
    weights = scores if need_weights else None
    del scores
    context = context.view(parts.shape[1:]).transpose(1, 2).contiguous().flatten(2)
    if isinstance(query, Nested):
        context = _without_padding(context, query.lengths)
    out = torch.addmm(out_bias, context.view(-1, width), out_weight.t()).view(*context.shape[:-1], width)
    del context
    if weights is not None and average_attn_weights:
        weights = weights.sum(1).div_(heads)
    return query.like(out) if isinstance(query, Nested) else out, weights


def _split(projected: Tensor, query: Tensor, heads: int) -> Tensor:
    """Return query, key and value (3, N, heads, length, width of a head) in new memory, the query scaled."""
    if isinstance(query, Nested):
        projected = pad(query.like(projected))
    batch, length, width = projected.shape
    return projected.new_empty(3, batch, heads, length, width // 3 // heads)


def _scores(parts: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
    """Return weights (N, heads, length, length): in place without a mask, else in new memory."""
    queries, keys, _ = parts.flatten(1, 2)
    scores = torch.bmm(queries, keys.transpose(1, 2)).view(*parts.shape[1:4], -1)
    if mask is not None:
        kept = mask.to(torch.bool)
        weights = torch.empty_like(scores)
        del kept
        return weights
    if not isinstance(query, Nested):
        return scores
    weights = torch.empty_like(scores)
    for row, length in zip(scores, query.lengths, strict=True):
        shown = row[:, :length, :length].contiguous()
        weights[0, :, :length, :length].copy_(torch.empty_like(shown))
    return weights


def _without_padding(sequences: Tensor, lengths: Sequence[int]) -> Tensor:
    """Select all but padding, by a mask of every element, counted in integers of eight bytes."""
    longest, width = sequences.shape[1:]
    ones = (torch.ones(length, width, dtype=torch.bool, device=sequences.device) for length in lengths)
    masks = [F.pad(one, (0, 0, 0, longest - len(one))) for one in ones]
    mask = torch.stack(masks)
    mask.long()
    kept = sequences.new_empty(sum(lengths), width)
    if mask.numel() >= GRAIN and torch.get_num_threads() > 1:  # masked_select in aten/native/cpu/IndexKernel.cpp
        places = mask.long(), mask.long()
        del places
    return kept


GRAIN = 32768
"""From so many elements on the CPU selects with several threads, by sums of what is kept before (GRAIN_SIZE)."""


def decompositions(attend: Attend | None = None) -> Mapping[Any, Callable[..., Any]]:
    """Return replacements of the fused operators; on CUDA, with the kernel that attends without a mask."""
    return {
        torch.ops.aten._transformer_encoder_layer_fwd.default: partial(encoder_layer, attend=attend),
        torch.ops.aten._native_multi_head_attention.default: partial(attention, attend=attend),
        torch.ops.aten.to_padded_tensor.default: pad,
    }
