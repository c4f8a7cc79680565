"""Shapes to multiply-accumulates: one formula an operator, and the closed list of the operators that have none.

Products with padded zeros count, the bias does not. An operator that stands in neither table is uncounted, and said so.
Letters: (N, C, H, W) images; K filters of (C / groups, R, S); matrices (n, k) @ (k, m).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Formula = Callable[[tuple[Any, ...], Any], int]
"""Takes an operator's arguments and its output; gives MACs."""


def convolution(args: tuple[Any, ...], output: Any) -> int:
    """Every output element is a dot product of R·S·C/groups; transposed, every input element meets R·S·K/groups."""
    images, weight, transposed = args[0], args[1], args[6]
    per_element = math.prod(weight.shape[1:])
    return int((images if transposed else output).numel() * per_element)


def mm(args: tuple[Any, ...], output: Any) -> int:
    """(n, k) @ (k, m): each of the n·m outputs sums k products; in a batch, as often."""
    return int(output.numel() * args[0].shape[-1])


def added_mm(args: tuple[Any, ...], output: Any) -> int:
    """Like mm, after the summand."""
    return int(output.numel() * args[1].shape[-1])


def dot(args: tuple[Any, ...], output: Any) -> int:
    """One product an element of what the two spread over each other."""
    return math.prod(torch.broadcast_shapes(args[0].shape, args[1].shape))  # type: ignore[no-untyped-call]


def attention(args: tuple[Any, ...], output: Any) -> int:
    """Q (N, h, t, d) @ K^T (N, h, s, d), then the scores (t, s) @ V (N, h, s, e)."""
    query, key, value = args[:3]
    return _pairs(query, key) * int(query.shape[-1] + value.shape[-1])


def _pairs(query: Any, key: Any) -> int:
    """Scores of Q (..., h, t, d) and K (..., h / groups, s, d): a head of K may serve several of Q."""
    batch = math.prod(torch.broadcast_shapes(query.shape[:-3], key.shape[:-3]))  # type: ignore[no-untyped-call]
    heads = max(math.prod(tensor.shape[-3:-2]) for tensor in (query, key))
    return int(batch * heads * query.shape[-2] * key.shape[-2])


def packed_attention(args: tuple[Any, ...], output: Any) -> int:
    """Attend from (n, h, t, d) to (n, h, s, d) after the projections of nn.MultiheadAttention's fast path.

    Takes query, key, value (N, T, E), E, heads, then the packed (3E, E) and the output (E, E) weights.
    """
    query, key, width, qkv, projection = args[0], args[1], args[3], args[5], args[7]
    batch, tokens, _ = query.shape
    projections = batch * tokens * (qkv.numel() + projection.numel())
    return int(projections + 2 * batch * tokens * key.shape[1] * width)


def encoder_layer(args: tuple[Any, ...], output: Any) -> int:
    """Attention and two linear layers over (N, T, E): nn.TransformerEncoderLayer's fast path."""
    source, width, qkv, projection, first, second = args[0], args[1], args[3], args[5], args[14], args[16]
    batch, tokens, _ = source.shape
    weights = sum(weight.numel() for weight in (qkv, projection, first, second))
    return int(batch * tokens * (weights + 2 * tokens * width))


def recurrent(args: tuple[Any, ...], output: Any) -> int:
    """One layer and direction over (T, N, I): the weights (gates·H, I) and (gates·H, H) at every step."""
    return int(math.prod(args[0].shape[:2]) * (args[1].numel() + args[2].numel()))


def recurrent_stack(args: tuple[Any, ...], output: Any) -> int:
    """Every weight matrix at every step: the input (T, N, I), or packed (steps, I), then its list of weights."""
    images, lists = args[0], [value for value in args if isinstance(value, list | tuple)]
    matrices = sum(weight.numel() for weight in lists[-1] if weight.ndim == 2)
    return int(images.numel() // images.shape[-1] * matrices)


def trilinear(args: tuple[Any, ...], output: Any) -> int:
    """Sum x1_i W_kij x2_j over i and j for every n and k: as many terms as the three spread over each other have."""
    spread = [_unsqueezed(tensor.shape, dims) for tensor, dims in zip(args[:3], args[3:6], strict=True)]
    return math.prod(max(lengths) for lengths in zip(*spread, strict=True))


def _unsqueezed(shape: Any, dims: Any) -> list[int]:
    lengths = list(shape)
    for dim in dims:
        lengths.insert(dim, 1)
    return lengths


def batch_summed(args: tuple[Any, ...], output: Any) -> int:
    """Sum of (n, k) @ (k, m) over a batch."""
    return int(args[1].numel() * args[2].shape[-1])


def convolution_over_time(args: tuple[Any, ...], output: Any) -> int:
    """Filters (taps, C, K) over (T, N, C)."""
    return int(output.numel() * math.prod(args[1].shape[:2]))


def recurrent_backward(args: tuple[Any, ...], output: Any) -> int:
    """The gradients of the weights, those carried back from step to step, and those of the input where it has one."""
    images, from_input, from_state = args[:3]
    steps, batch = images.shape[:2]
    carried = (steps - 1) * batch * from_state.numel()
    to_input = steps * batch * from_input.numel() if images.requires_grad else 0
    return int(recurrent(args, output) + carried + to_input)


def convolution_backward(args: tuple[Any, ...], output: Any) -> int:
    """As much as the forward pass for the gradient of the input, and again for that of the weight, where asked for."""
    wanted = args[-1]
    return _forward_of(args) * (bool(wanted[0]) + bool(wanted[1]))


def convolution_weight_gradient(args: tuple[Any, ...], output: Any) -> int:
    """The part of the weight's gradient."""
    return _forward_of(args) * bool(args[-1][1])


def _forward_of(args: tuple[Any, ...]) -> int:
    gradient, images, weight, transposed = args[0], args[1], args[2], args[7]
    return convolution((images, weight, None, None, None, None, transposed), gradient)


def attention_backward(args: tuple[Any, ...], output: Any) -> int:
    """The scores again, then the gradients of V, of the scores, of Q and of K: 5 products, the forward pass has 2.

    Takes the output's gradient, then Q, K, V.
    """
    _, query, key, value = args[:4]
    return _pairs(query, key) * int(3 * query.shape[-1] + 2 * value.shape[-1])


MACS: Mapping[str, Formula] = {
    "aten::convolution": convolution,
    "aten::_convolution": convolution,
    "aten::mm": mm,
    "aten::bmm": mm,
    "aten::mv": mm,
    "aten::addmm": added_mm,
    "aten::addmv": added_mm,
    "aten::baddbmm": added_mm,
    "aten::addmm_": added_mm,
    "aten::addmv_": added_mm,
    "aten::baddbmm_": added_mm,
    "aten::addbmm_": batch_summed,
    "aten::_addmm_activation": added_mm,
    "aten::_int_mm": mm,
    "aten::_scaled_mm": mm,
    "aten::addbmm": batch_summed,
    "aten::conv_tbc": convolution_over_time,
    "aten::_trilinear": trilinear,
    "aten::mkldnn_rnn_layer": recurrent,
    "aten::_native_multi_head_attention": packed_attention,
    "aten::_transformer_encoder_layer_fwd": encoder_layer,
    "aten::scaled_dot_product_attention": attention,
    "aten::lstm": recurrent_stack,
    "aten::gru": recurrent_stack,
    "aten::rnn_tanh": recurrent_stack,
    "aten::rnn_relu": recurrent_stack,
    "aten::linalg_vecdot": dot,
    "aten::dot": dot,
    "aten::vdot": dot,
    "aten::_scaled_dot_product_flash_attention": attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
    "aten::_scaled_dot_product_efficient_attention": attention,
    "aten::_scaled_dot_product_cudnn_attention": attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": attention,
    "aten::mkldnn_rnn_layer_backward": recurrent_backward,
    "aten::convolution_backward": convolution_backward,
    "aten::_scaled_dot_product_flash_attention_backward": attention_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": attention_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": attention_backward,
    "aten::_scaled_dot_product_cudnn_attention_backward": attention_backward,
}

WEIGHT_GRADIENTS: Mapping[str, Formula] = {
    "aten::convolution_backward": convolution_weight_gradient,
    "aten::mkldnn_rnn_layer_backward": recurrent,
}
"""Of backward operators that make more than one gradient, the part of the weight's; products make one each."""


def without_bias(operator: str, taken: Sequence[Any]) -> Sequence[Any]:
    """Return the operands of a product: a convolution's image and weight, what is multiplied in addmm and its like."""
    if operator == "aten::convolution":
        return taken[:2]
    return taken[1:] if "add" in operator and len(taken) > 2 else taken


_STANDING_STILL = """
    alias as_strided as_strided_ detach detach_ diagonal empty empty_like empty_strided expand lift lift_fresh
    new_empty new_empty_strided permute real imag resize_ select slice split split_with_sizes squeeze squeeze_
    sym_numel sym_size sym_storage_offset sym_stride is_same_size t transpose transpose_ t_ swapaxes unbind unfold
    unsqueeze unsqueeze_ view view_as_complex view_as_real _reshape_alias _unsafe_view _conj is_pinned
    _local_scalar_dense _version set_ unsafe_split unsafe_chunk unsafe_split_with_sizes
"""

_MOVING = """
    abs abs_ add add_ addcdiv addcdiv_ addcmul addcmul_ all amax amin aminmax any arange argmax argmin argsort
    atan atan2 bernoulli bernoulli_ bitwise_and bitwise_not bitwise_or bitwise_xor bitwise_and_ bitwise_or_
    bitwise_left_shift bitwise_right_shift bincount bucketize
    cat ceil celu celu_ clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clone col2im complex
    constant_pad_nd copy copy_ cos cos_ count_nonzero cummax cummin cumprod cumsum deg2rad
    diag diag_embed div div_ elu elu_ embedding _embedding_bag eq eq_ equal erf erf_ erfc exp exp_ exp2 expm1
    exponential_ eye fill fill_ flip floor floor_ floor_divide fmax fmin fmod frac full full_like gather ge
    gelu gelu_ gt glu hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_
    histc im2col index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_
    index_select isfinite isinf isin isnan isneginf isposinf kthvalue le leaky_relu leaky_relu_ lerp lerp_
    linspace log log10 log1p log2 log_ log_sigmoid_forward _log_softmax logaddexp logical_and logical_and_
    logical_not logical_or logical_xor logit logsumexp lt masked_fill masked_fill_ masked_scatter masked_select max
    maximum max_pool2d_with_indices max_pool3d_with_indices mean median min minimum mish mish_
    mode mul mul_ multinomial nan_to_num nan_to_num_ nansum ne neg neg_ new_full new_ones new_zeros nonzero norm
    linalg_vector_norm normal normal_ normal_functional one_hot ones ones_like polar pow pow_ prod rand rand_like
    randint randint_like randn randn_like randperm random random_ reciprocal reciprocal_ relu relu_ _prelu_kernel
    remainder repeat repeat_interleave roll round rrelu_with_noise rsqrt rsqrt_ rsub scalar_tensor scatter
    scatter_ scatter_add scatter_add_ scatter_reduce searchsorted select_scatter selu selu_ sgn sigmoid sigmoid_
    sign silu silu_ sin sin_ slice_scatter softplus softshrink _softmax _safe_softmax sort sqrt sqrt_ square stack std
    std_mean sub sub_ sum tan tanh tanh_ threshold threshold_ _to_copy topk trace tril tril_ triu triu_ tril_indices
    triu_indices trunc uniform uniform_ unique_consecutive _unique2 unique_dim var var_mean where xlogy zero zero_
    zeros zeros_like
    avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
    fractional_max_pool2d max_unpool2d
    batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_no_update
    _batch_norm_with_update cudnn_batch_norm batch_norm_elemt batch_norm_stats native_layer_norm native_group_norm
    _fused_rms_norm renorm native_channel_shuffle channel_shuffle pixel_shuffle pixel_unshuffle native_dropout
    _fused_dropout _weight_norm_interface
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d
    upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sampler_2d grid_sampler_3d affine_grid_generator
    nll_loss_forward nll_loss2d_forward binary_cross_entropy binary_cross_entropy_with_logits mse_loss
    smooth_l1_loss huber_loss
    _assert_async _assert_tensor_metadata _linalg_check_errors _has_same_storage_numel _efficientzerotensor addr
"""

_BACKWARD = """
    _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward
    adaptive_max_pool3d_backward avg_pool2d_backward avg_pool3d_backward max_pool2d_with_indices_backward
    max_pool3d_with_indices_backward fractional_max_pool2d_backward
    native_batch_norm_backward batch_norm_backward cudnn_batch_norm_backward native_layer_norm_backward
    native_group_norm_backward _fused_rms_norm_backward _weight_norm_interface_backward
    threshold_backward sigmoid_backward tanh_backward gelu_backward silu_backward hardswish_backward
    hardsigmoid_backward hardtanh_backward leaky_relu_backward elu_backward mish_backward glu_backward
    softplus_backward softshrink_backward hardshrink_backward log_sigmoid_backward logit_backward
    rrelu_with_noise_backward _prelu_kernel_backward
    _softmax_backward_data _log_softmax_backward_data native_dropout_backward _masked_softmax_backward
    select_backward slice_backward as_strided_scatter diagonal_backward unfold_backward index_select_backward
    embedding_dense_backward embedding_backward _embedding_bag_backward _embedding_bag_dense_backward
    value_selecting_reduction_backward masked_select_backward
    reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward
    replication_pad2d_backward replication_pad3d_backward
    upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
    _upsample_nearest_exact2d_backward upsample_linear1d_backward upsample_bilinear2d_backward
    upsample_bicubic2d_backward upsample_trilinear3d_backward _upsample_bilinear2d_aa_backward
    _upsample_bicubic2d_aa_backward grid_sampler_2d_backward grid_sampler_3d_backward
    nll_loss_backward nll_loss2d_backward mse_loss_backward smooth_l1_loss_backward huber_loss_backward
    binary_cross_entropy_backward
"""

STANDING_STILL = frozenset(f"aten::{name}" for name in _STANDING_STILL.split())
"""Free of multiply-accumulates, and of traffic: views, sizes, memory that nothing is written to."""

_OTHERS = frozenset(
    {
        "torchvision::nms",
        "torchvision::roi_align",
        "torchvision::roi_pool",
        "profiler::_record_function_enter",
        "profiler::_record_function_enter_new",
        "profiler::_record_function_exit",
    }
)

FREE = STANDING_STILL | frozenset(f"aten::{name}" for name in (_MOVING + _BACKWARD).split()) | _OTHERS
"""Free of multiply-accumulates by name: elementwise work, normalisation, pooling, reductions, copies."""

WHOLE = FREE | frozenset(MACS)
"""Composite operators among these are not taken apart: what they are made of differs from device to device."""
