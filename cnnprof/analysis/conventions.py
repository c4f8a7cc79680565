"""The same operator in other tools' books: what fvcore counts of a traced graph, and what pycls counts.

fvcore (and timm's benchmark, which uses it) reads the operators of torch.jit.trace: composite operators whole, apart
from convolutions. Its rules are those of fvcore 0.1.5, nn/flop_count.py, activation_count.py and jit_handles.py; what
stands in none of them is 0 there. pycls counts MACs and bias additions, and max pools among activations
(pycls/models/blocks.py, conv2d_cx, linear_cx, pool2d_cx).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from cnnprof.analysis import costs

Rule = Callable[[tuple[Any, ...], Any], int]
"""Takes an operator's arguments and its output; gives what a tool counts."""


def _product(args: tuple[Any, ...], output: Any) -> int:
    left, right = args[0], args[1]
    return int(left.numel() * right.shape[-1])


def _linear(args: tuple[Any, ...], output: Any) -> int:
    return int(args[0].numel() * args[1].shape[0])


def _convolution(args: tuple[Any, ...], output: Any) -> int:
    images, weight, transposed = args[0], args[1], args[6]
    return int(images.shape[0] * weight.numel() * math.prod((images if transposed else output).shape[2:]))


def _einsum(args: tuple[Any, ...], output: Any) -> int:
    """Half of what numpy's best order of contraction takes, which counts a multiplication and an addition as two."""
    import numpy

    equation, operands = args[0], [numpy.broadcast_to(0.0, tuple(operand.shape)) for operand in args[1]]
    report = numpy.einsum_path(equation, *operands, optimize="optimal")[1]
    line = next(line for line in report.splitlines() if "optimized flop" in line.lower())
    return math.floor(float(line.rpartition(":")[2]) / 2)


def _batch_norm(args: tuple[Any, ...], output: Any) -> int:
    images, weight, training = args[0], args[1], args[5]
    return int(images.numel() * ((4 if training else 1) + (weight is not None)))


def _norm(weight_at: int) -> Rule:
    def rule(args: tuple[Any, ...], output: Any) -> int:
        affine = len(args) > weight_at and args[weight_at] is not None
        return int(args[0].numel() * (5 if affine else 4))

    return rule


def _elements(of_input: int, of_output: int) -> Rule:
    def rule(args: tuple[Any, ...], output: Any) -> int:
        return int(of_input * args[0].numel() + of_output * output.numel())

    return rule


FVCORE_FLOPS: Mapping[str, Rule] = {
    "aten::convolution": _convolution,
    "aten::linear": _linear,
    "aten::addmm": lambda args, output: _product(args[1:], output),
    "aten::mm": _product,
    "aten::bmm": _product,
    "aten::matmul": _product,
    "aten::einsum": _einsum,
    "aten::batch_norm": _batch_norm,
    "aten::group_norm": _norm(2),
    "aten::layer_norm": _norm(2),
    "aten::instance_norm": _norm(1),
    "aten::upsample_nearest2d": _elements(0, 1),
    "aten::upsample_bilinear2d": _elements(0, 4),
    "aten::adaptive_avg_pool2d": _elements(1, 0),
    "aten::grid_sampler": _elements(0, 4),
}

FVCORE_ACTIVATIONS = frozenset(
    {"aten::convolution", "aten::linear", "aten::addmm", "aten::bmm", "aten::matmul", "aten::einsum"}
)
"""The operators whose outputs it counts."""

_TORCH_KNOWS = """
    convolution _convolution cudnn_convolution convolution_overrideable _slow_conv2d_forward convolution_backward
    _scaled_mm _scaled_dot_product_efficient_attention _scaled_dot_product_efficient_attention_backward
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_backward
    _scaled_dot_product_cudnn_attention _scaled_dot_product_cudnn_attention_backward
"""

_TORCH_SEES_APART = """
    scaled_dot_product_attention lstm gru rnn_tanh rnn_relu mkldnn_rnn_layer mkldnn_rnn_layer_backward
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention_for_cpu_backward
    _scaled_dot_product_fused_attention_overrideable _native_multi_head_attention _transformer_encoder_layer_fwd
    _addmm_activation
"""

TORCH_MACS: Mapping[str, costs.Formula] = {
    **{f"aten::{name}": costs.MACS[f"aten::{name}"] for name in (_TORCH_KNOWS + _TORCH_SEES_APART).split()},
    **dict.fromkeys(("aten::mm", "aten::bmm"), costs.dense_mm),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm"), costs.dense_added_mm),
    "cnnprof::flex_attention": costs.attention,
    "cnnprof::flex_attention_backward": costs.attention_backward,
}
"""Half of an operator's FLOPs in torch.utils.flop_counter: by its flop_registry, or of its parts.

A complex product is one there, a sparse matrix a dense one, and a mask of blocks hides nothing.
Products that are not here it does not know.
"""

CAUSES: Mapping[str, str] = {
    "batch_norm": "batch norm",
    "layer_norm": "layer norm",
    "group_norm": "group norm",
    "instance_norm": "instance norm",
    "avg_pool": "pooling",
    "upsample": "upsampling",
    "grid_sampler": "grid sampling",
    "attention": "attention",
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn": "RNN",
    "einsum": "rounding of einsum",
}
"""What a difference at an operator is called, by part of its name."""

TAKEN_APART = frozenset(
    f"aten::{name}"
    for name in (
        *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
        *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    )
)
"""Composite operators that a traced graph shows by their parts (DONT_RECORD_TRACE of torch's gen_trace_type.py)."""

BIASES: Mapping[str, Callable[[tuple[Any, ...]], bool]] = {
    "aten::convolution": lambda args: args[2] is not None,
    "aten::addmm": lambda args: bool(args[0].ndim == 1),
}
"""Operators that add a bias, and whether a call does."""

MAX_POOLS = frozenset({"aten::max_pool2d_with_indices", "aten::max_pool3d_with_indices"})


def fuses_attention(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether a call of nn.MultiheadAttention is one operator on the CPU, in eval mode, which fvcore does not know.

    The conditions of torch 2.14, torch/nn/modules/activation.py; a call that gives its tensors by name is not read.
    """
    if not isinstance(module, nn.MultiheadAttention) or len(args) < 3:
        return False
    query, key, value = args[:3]
    masks = [*args[3:4], *args[5:6], kwargs.get("key_padding_mask"), kwargs.get("attn_mask")]
    plain = (
        module.batch_first
        and module._qkv_same_embed_dim
        and module.in_proj_bias is not None
        and module.num_heads % 2 == 0
        and module.bias_k is None
        and module.bias_v is None
        and not module.add_zero_attn
    )
    floating = any(isinstance(mask, torch.Tensor) and mask.is_floating_point() for mask in masks)
    return plain and query.ndim == 3 and query is key and key is value and not floating
