"""Shapes to multiply-accumulates: one formula an operator. Which operators need none is in kinds.py.

Products with padded zeros count, the bias does not; of a sparse matrix only what it stores. Formulas count products of
elements: one of complex elements is four of real ones (`REAL_PRODUCTS`), whose operands are alike, as torch multiplies
no complex matrix by a real one.
Letters: (N, C, H, W) images; K filters of (C / groups, R, S); matrices (n, k) @ (k, m).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from cnnprof.analysis import packed
from cnnprof.inputs import SPARSE

Formula = Callable[[tuple[Any, ...], Any], int | None]
"""Takes an operator's arguments and its output; gives products of elements, None where they depend on lost values."""

REAL_PRODUCTS = 4
"""Of a complex product: (a + bi)(c + di) takes ac, bd, ad and bc."""


def convolution(args: tuple[Any, ...], output: Any) -> int:
    """Every output element is a dot product of R·S·C/groups; transposed, every input element meets R·S·K/groups."""
    images, weight, transposed = args[0], args[1], args[6]
    per_element = math.prod(weight.shape[1:])
    return int((images if transposed else output).numel() * per_element)


def plain_convolution(args: tuple[Any, ...], output: Any) -> int:
    """A convolution of a backend of its own, never transposed: takes (N, C, ...) and the filters."""
    return int(output.numel() * math.prod(args[1].shape[1:]))


def transposed_convolution(args: tuple[Any, ...], output: Any) -> int:
    """A transposed convolution of a backend of its own: C filters of (K / groups, R, S)."""
    return int(args[0].numel() * math.prod(args[1].shape[1:]))


def packed_convolution(args: tuple[Any, ...], output: Any) -> int:
    """A quantized convolution, whose filters are packed with their geometry."""
    held = packed.among(args)[0]
    rule = transposed_convolution if held.transpose() else plain_convolution
    return rule((args[0], packed.tensors(held)["weight"]), output)


def deformed_convolution_backward(args: tuple[Any, ...], output: Any) -> int:
    """The gradients of the sampled columns and of the filters: takes the output's gradient, images and filters."""
    return 2 * plain_convolution(args[1:], args[0])


def deformed_weight_gradient(args: tuple[Any, ...], output: Any) -> int:
    """The part of the filters' gradient."""
    return plain_convolution(args[1:], args[0])


def mm(args: tuple[Any, ...], output: Any) -> int | None:
    """(n, k) @ (k, m): each of the n·m outputs sums k products; in a batch, as often."""
    left, right = args[0], args[1]
    if SPARSE.keys().isdisjoint({left.layout, getattr(right, "layout", torch.strided)}):
        return dense_mm(args, output)
    return _sparse_mm(left, right)


def linear_loss(args: tuple[Any, ...], output: Any) -> int:
    """Scores (..., k) @ (k, classes), and at once the gradients of the vectors and of the weight, where asked for."""
    vectors, weight, wanted = args[0], args[1], args[12:14]
    return int(vectors.numel() // vectors.shape[-1] * weight.numel()) * (1 + sum(map(bool, wanted)))


def added_mm(args: tuple[Any, ...], output: Any) -> int | None:
    """Like mm, after the summand."""
    return mm(args[1:], output)


def dense_mm(args: tuple[Any, ...], output: Any) -> int:
    """Like mm, zeros included; the right matrix may be packed."""
    return int(output.numel()) * _length(args[0])


def _length(rows: Any) -> int:
    """Return k of (..., k): an element of float4 holds two."""
    return int(rows.shape[-1]) * (2 if rows.dtype is torch.float4_e2m1fn_x2 else 1)


def dense_added_mm(args: tuple[Any, ...], output: Any) -> int:
    """Like dense_mm, after the summand."""
    return dense_mm(args[1:], output)


def _sparse_mm(left: Any, right: Any) -> int | None:
    """Count each stored element once for every column (or row) of a dense matrix; of two sparse ones, equal k meet."""
    if right.layout not in SPARSE:
        columns = right.shape[-1] if right.ndim > 1 else 1
        return _times(_stored(left), columns)
    if left.layout not in SPARSE:
        return _times(_stored(right), left.shape[-2] if left.ndim > 1 else 1)
    if left.is_meta or right.is_meta:
        return None
    ends, starts = left.to_sparse_coo().coalesce().indices()[1], right.to_sparse_coo().coalesce().indices()[0]
    inner = left.shape[1]
    return int((torch.bincount(ends, minlength=inner) * torch.bincount(starts, minlength=inner)).sum())


def _times(stored: int | None, vectors: int) -> int | None:
    return None if stored is None else stored * int(vectors)


def _stored(sparse: Any) -> int | None:
    """Count the stored elements of a sparse matrix; None of a stand-in, which stores none."""
    if sparse.is_meta:
        return None
    return int((sparse._values() if sparse.layout is torch.sparse_coo else sparse.values()).numel())


def sampled_mm(args: tuple[Any, ...], output: Any) -> int | None:
    """(n, k) @ (k, m) only where a sparse matrix, the first argument, stores something."""
    return _times(_stored(args[0]), args[1].shape[-1])


def semi_structured_mm(args: tuple[Any, ...], output: Any) -> int:
    """The stored half (n, k / 2) of a matrix @ (k, m); takes the half, where it was, and the dense matrix."""
    return int(args[0].numel() * args[2].shape[-1])


def semi_structured_added_mm(args: tuple[Any, ...], output: Any) -> int:
    """Like semi_structured_mm, after the summand."""
    return semi_structured_mm(args[1:], output)


def semi_structured_linear(args: tuple[Any, ...], output: Any) -> int:
    """Vectors (..., k) by the stored half (m, k / 2) of the weight."""
    vectors, half = args[0], args[1]
    return int(vectors.numel() // vectors.shape[-1] * half.numel())


def grouped_mm(args: tuple[Any, ...], output: Any) -> int:
    """A product a group: of rows (M, k) @ (G, k, n), of columns (G, m, k) @ (k, N), of (m, K) @ (K, n), or of both.

    The groups take up all of what they divide, as the offsets of a mixture of experts do.
    """
    left, right = args[0], args[1]
    divides_sums = left.ndim == right.ndim == 2
    return int(math.prod(output.shape[1:] if divides_sums else output.shape)) * _length(left)


def mm_of_lists(args: tuple[Any, ...], output: Any) -> int:
    """A product of each two matrices of two lists."""
    return sum(dense_mm((left,), product) for left, product in zip(args[0], output, strict=True))


def distances(args: tuple[Any, ...], output: Any) -> int:
    """A Euclidean distance of d elements sums d squares; takes (n, d), (m, d). Other norms have no products."""
    return int(output.numel() * args[0].shape[-1]) * _is_euclidean(args[2:])


def distances_backward(args: tuple[Any, ...], output: Any) -> int:
    """The gradient of the one side: as many as forward; takes the gradient (n, m), then the sides (n, d), (m, d)."""
    return int(args[0].numel() * args[1].shape[-1]) * _is_euclidean(args[3:])


def distances_within(args: tuple[Any, ...], output: Any) -> int:
    """Distances between the rows of (n, d), each pair once."""
    return int(output.numel() * args[0].shape[-1]) * _is_euclidean(args[1:])


def distances_within_backward(args: tuple[Any, ...], output: Any) -> int:
    """As many for each end of a pair; takes the gradient of the distances, then (n, d)."""
    return int(2 * args[0].numel() * args[1].shape[-1]) * _is_euclidean(args[2:])


def _is_euclidean(norm: Sequence[Any]) -> bool:
    return not norm or norm[0] == 2


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


def packed_stack(args: tuple[Any, ...], output: Any) -> int:
    """Every packed weight matrix of a quantized stack at every step: takes (T, N, I), or packed (steps, I)."""
    images = args[0]
    held = chain.from_iterable(packed.tensors(cell).values() for cell in packed.among(args))
    matrices = sum(tensor.numel() for tensor in held if tensor.ndim > 1)
    return int(images.numel() // images.shape[-1] * matrices)


def recurrent_weights(args: tuple[Any, ...], output: Any) -> int:
    """Every weight matrix at every step: cuDNN's order, (T, N, I) and then the list of weights."""
    return recurrent_stack(args[:2], output)


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


def attention_by_scores(args: tuple[Any, ...], output: Any) -> int:
    """Like attention, of Q, K, V and the number of scores that are worked out."""
    query, _, value, scores = args
    return int(scores * (query.shape[-1] + value.shape[-1]))


def attention_by_scores_backward(args: tuple[Any, ...], output: Any) -> int:
    """Five products, like attention_backward, of the output's gradient, Q, K, V and the number of scores."""
    _, query, _, value, scores = args
    return int(scores * (3 * query.shape[-1] + 2 * value.shape[-1]))


_BACKENDS_CONVOLUTIONS = """
    aten::_conv_depthwise2d aten::_mps_convolution aten::_nnpack_spatial_convolution aten::_slow_conv2d_forward
    aten::conv_depthwise3d aten::cudnn_convolution aten::cudnn_convolution_add_relu aten::miopen_convolution
    aten::miopen_convolution_add_relu aten::miopen_depthwise_convolution aten::mkldnn_convolution
    aten::slow_conv3d_forward aten::slow_conv_dilated2d aten::slow_conv_dilated3d
"""

_BACKENDS_TRANSPOSED_CONVOLUTIONS = """
    aten::_mps_convolution_transpose aten::cudnn_convolution_transpose aten::miopen_convolution_transpose
    aten::slow_conv_transpose2d aten::slow_conv_transpose3d
"""

_PACKED_CONVOLUTIONS = " ".join(
    f"{library}::conv{kind}{form}"
    for library in ("quantized", "_quantized")
    for kind in ("1d", "2d", "3d", "_transpose1d", "_transpose2d", "_transpose3d")
    for form in ("", "_dynamic", "_add")
)

_PACKED_PRODUCTS = """
    quantized::linear quantized::linear_dynamic quantized::linear_dynamic_fp16 quantized::linear_leaky_relu
    quantized::linear_dynamic_fp16_unpacked_weight quantized::linear_relu_dynamic quantized::linear_relu_dynamic_fp16
    quantized::linear_tanh quantized::linear_with_input_q_dq_qweight_dq_output_fp32
    quantized::linear_with_input_q_dq_qweight_dq_relu_output_fp32 quantized::int4mm_packed_weight_cpu
    _quantized::linear _quantized::linear_dynamic _quantized::wrapped_quantized_linear
    _quantized::_wrapped_quantized_linear_prepacked _quantized::wrapped_fbgemm_linear_fp16_weight
    sparse::qlinear sparse::qlinear_dynamic sparse::qlinear_relu_dynamic
    onednn::qlinear_pointwise onednn::linear_dynamic_fp16 onednn::linear_relu_dynamic_fp16
    mkldnn::_linear_pointwise mkl::_mkl_linear aten::mkldnn_linear
    aten::_weight_int4pack_mm aten::_weight_int4pack_mm_for_cpu aten::_weight_int4pack_mm_with_scales_and_zeros
    aten::_weight_int8pack_mm aten::_dyn_quant_matmul_4bit aten::_mixed_dtypes_linear
    aten::_wrapped_quantized_linear_prepacked aten::fbgemm_linear_fp16_weight
    aten::fbgemm_linear_fp16_weight_fp32_activation aten::fbgemm_linear_int8_weight
    aten::fbgemm_linear_int8_weight_fp32_activation
"""
"""Vectors (..., k) by a weight in any layout: the output tells how many rows it has."""


MACS: Mapping[str, Formula] = {
    "cnnprof::flex_attention": attention_by_scores,
    "cnnprof::flex_attention_backward": attention_by_scores_backward,
    "aten::convolution": convolution,
    "aten::_convolution": convolution,
    "aten::convolution_overrideable": convolution,
    **dict.fromkeys(_BACKENDS_CONVOLUTIONS.split(), plain_convolution),
    **dict.fromkeys(_BACKENDS_TRANSPOSED_CONVOLUTIONS.split(), transposed_convolution),
    **dict.fromkeys(_PACKED_CONVOLUTIONS.split(), packed_convolution),
    **dict.fromkeys(_PACKED_PRODUCTS.split(), dense_mm),
    "torchvision::deform_conv2d": plain_convolution,
    "torchvision::_deform_conv2d_backward": deformed_convolution_backward,
    "aten::mm": mm,
    "aten::bmm": mm,
    "aten::mv": mm,
    "aten::addmm": added_mm,
    "aten::addmv": added_mm,
    "aten::baddbmm": added_mm,
    "aten::_addmm_activation": added_mm,
    "aten::_int_mm": mm,
    "aten::_scaled_mm": dense_mm,
    "aten::_scaled_mm_v2": dense_mm,
    "aten::_grouped_mm": grouped_mm,
    "aten::_scaled_grouped_mm": grouped_mm,
    "aten::_scaled_grouped_mm_v2": grouped_mm,
    "aten::addbmm": batch_summed,
    "aten::_foreach_mm": mm_of_lists,
    "torch_nn::_linear_cross_entropy_batch_chunked": linear_loss,
    "torch_nn::_linear_cross_entropy_batch_chunked_no_reduction": linear_loss,
    "quantized::matmul": mm,
    "aten::_sparse_addmm": added_mm,
    "aten::_sparse_sparse_matmul": mm,
    "aten::_sparse_mm_reduce_impl": mm,
    "aten::hspmm": mm,
    "aten::sspaddmm": added_mm,
    "aten::sparse_sampled_addmm": sampled_mm,
    "aten::_sparse_semi_structured_mm": semi_structured_mm,
    "aten::_sparse_semi_structured_addmm": semi_structured_added_mm,
    "aten::_sparse_semi_structured_linear": semi_structured_linear,
    "aten::_cdist_forward": distances,
    "aten::_cdist_backward": distances_backward,
    "aten::_euclidean_dist": distances,
    "aten::_pdist_forward": distances_within,
    "aten::_pdist_backward": distances_within_backward,
    "aten::conv_tbc": convolution_over_time,
    "aten::_trilinear": trilinear,
    "aten::mkldnn_rnn_layer": recurrent,
    "aten::_cudnn_rnn": recurrent_weights,
    "aten::miopen_rnn": recurrent_weights,
    "aten::_lstm_mps": recurrent_stack,
    "aten::_native_multi_head_attention": packed_attention,
    "aten::_transformer_encoder_layer_fwd": encoder_layer,
    "aten::scaled_dot_product_attention": attention,
    "aten::lstm": recurrent_stack,
    "aten::gru": recurrent_stack,
    "aten::rnn_tanh": recurrent_stack,
    "aten::rnn_relu": recurrent_stack,
    "aten::quantized_lstm": packed_stack,
    "aten::quantized_gru": packed_stack,
    **{f"quantized::quantized_{cell}_cell_dynamic": packed_stack for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "aten::linalg_vecdot": dot,
    "aten::dot": dot,
    "aten::vdot": dot,
    "aten::_scaled_dot_product_attention_math_for_mps": attention,
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
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": attention_backward,
}
"""By name without overload; forms that take the same arguments, such as addmm_, follow their base (kinds.formula)."""

WEIGHT_GRADIENTS: Mapping[str, Callable[[tuple[Any, ...], Any], int]] = {
    "aten::convolution_backward": convolution_weight_gradient,
    "torchvision::_deform_conv2d_backward": deformed_weight_gradient,
    "aten::mkldnn_rnn_layer_backward": recurrent,
}
"""Of backward operators that make more than one gradient, the part of the weight's; products make one each."""


def without_bias(operator: str, taken: Sequence[Any]) -> Sequence[Any]:
    """Return the operands of a product: a convolution's image and weight, what is multiplied in addmm and its like."""
    if operator == "aten::convolution":
        return taken[:2]
    return taken[1:] if "add" in operator and len(taken) > 2 else taken
