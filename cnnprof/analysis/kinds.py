"""Operators by kind: counted by a formula, free of multiply-accumulates, or with products that have no formula.

Every operator of torch and torchvision has a kind by its name, or by the rule for the forms of a name:

- a name on one of the lists has that list's kind;
- an in-place form (`add_`) and an out form (`quantized::add_out`) follow their base, formula included;
- one over a list of tensors (`_foreach_add`), one that returns copies (`view_copy`, `normal_functional`), one in which
  an activation follows (`quantized::conv2d_relu`) and the gradient of a free one (`tanh_backward`) follow their base;
- the gradient of a product has products, and no formula but its own;
- an operator of another namespace that torch has for its own use (`prims::abs`, `quantized::add`) is free where
  aten's of the same name is; some namespaces only move data or keep account.

A composite operator that has no kind is taken apart, and is what its parts are. Any other is unknown, and uncounted.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal

from cnnprof.analysis.costs import MACS, Formula

Kind = Literal["counted", "free", "products", "unknown"]

_STANDING_STILL = """
    _coalesced _conj _dimI _dimV _empty_affine_quantized _empty_per_channel_affine_quantized
    _functional_sym_constrain_range _functional_sym_constrain_range_for_size _fused_sdp_choice _fw_primal _indices
    _lazy_clone _local_scalar_dense _make_dep_token _make_dual _neg_view _nested_compute_contiguous_strides_offsets
    _nested_get_jagged_dummy _nested_get_lengths _nested_get_max_seqlen _nested_get_min_seqlen _nested_get_offsets
    _nested_get_ragged_idx _nested_get_values _nested_tensor_size _nested_tensor_storage_offsets _nested_tensor_strides
    _nested_view_from_buffer _nested_view_from_jagged _new_zeros_with_same_feature_meta _nnz _print _reshape
    _reshape_alias _resize_output _sparse_broadcast_to _sparse_compressed_tensor_with_dims _sparse_coo_tensor_with_dims
    _sparse_coo_tensor_with_dims_and_tensors _unsafe_view _use_cudnn_ctc_loss _use_miopen_ctc_loss _values _version
    alias as_strided ccol_indices col_indices crow_indices dense_dim detach diagonal empty empty_like empty_permuted
    empty_quantized empty_strided expand imag indices is_coalesced is_pinned is_same_size is_set_to lift lift_fresh
    new_empty new_empty_strided permute q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale
    q_zero_point qscheme real record_stream resize resize_as resize_as_sparse row_indices select set shallow_copy_data
    slice slice_inverse sparse_compressed_tensor sparse_coo_tensor sparse_dim sparse_resize sparse_resize_and_clear
    split split_with_sizes squeeze swapaxes sym_constrain_range sym_constrain_range_for_size sym_numel sym_size
    sym_storage_offset sym_stride t transpose unbind unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
    values view view_as_complex view_as_real
"""

_FREE = """
    __ilshift__ __irshift__ __lshift__ __rshift__ _adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _aminmax
    _amp_foreach_non_finite_check_and_unscale _amp_update_scale _assert_async _assert_scalar _assert_tensor_metadata
    _batch_norm_no_update _batch_norm_with_update _chunk_cat _coalesce _conj_physical _convert_indices_from_coo_to_csr
    _convert_indices_from_csr_to_coo _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu _copy_from
    _copy_from_and_resize _cslt_compress _ctc_loss _cudnn_ctc_loss _cudnn_init_dropout_state _cudnn_rnn_flatten_weight
    _cummax_helper _cummin_helper _dirichlet_grad _dyn_quant_pack_4bit_weight _efficientzerotensor _embedding_bag
    _embedding_bag_dense_backward _embedding_bag_forward_only _embedding_bag_per_sample_weights_backward
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fill_mem_eff_dropout_mask_ _foobar _foreach_powsum
    _functional_assert_async _functional_assert_scalar _fused_adagrad _fused_adam _fused_adamw _fused_dropout
    _fused_moving_avg_obs_fq_helper _fused_rms_norm _fused_sgd _grid_sampler_2d_cpu_fallback _has_same_storage_numel
    _histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors _index_put_impl _is_all_true
    _is_any_true _jagged_to_padded_dense_forward _linalg_check_errors _log_softmax _logcumsumexp
    _make_per_channel_quantized_tensor _make_per_tensor_quantized_tensor _masked_scale _masked_softmax _mkldnn_reshape
    _mkldnn_transpose _native_batch_norm_legit _native_batch_norm_legit_no_training _nested_from_padded
    _nested_from_padded_and_nested_example _nested_from_padded_tensor _nested_select_backward _nested_sum_backward
    _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned _nested_tensor_from_tensor_list
    _nested_tensor_softmax_with_shape _pack_padded_sequence _padded_dense_to_jagged_forward _philox_key_fold_in
    _philox_key_split _philox_normal _philox_uniform _pin_memory _prelu_kernel _safe_softmax _sample_dirichlet
    _segment_reduce_backward _softmax _sparse_csr_prod _sparse_csr_sum _sparse_log_softmax _sparse_mask_projection
    _sparse_semi_structured_apply _sparse_semi_structured_apply_dense _sparse_semi_structured_tile _sparse_softmax
    _sparse_sum _spdiags _stack _standard_gamma _standard_gamma_grad _test_autograd_multiple_dispatch
    _test_autograd_multiple_dispatch_view _test_functorch_fallback _test_optional_filled_intlist
    _test_optional_floatlist _test_optional_intlist _test_parallel_materialize _test_warn_in_autograd
    _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy _to_dense _to_sparse _to_sparse_bsc _to_sparse_bsr
    _to_sparse_csc _to_sparse_csr _to_sparse_semi_structured _transform_bias_rescale_qkv _unique _unique2 _unsafe_index
    _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d _validate_compressed_sparse_indices _weight_norm_interface abs acos acosh
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d add addcdiv
    addcmul addr affine_grid_generator all allclose amax amin aminmax angle any arange argmax argmin argsort
    as_strided_scatter asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d bartlett_window batch_norm
    batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
    batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_update_stats bernoulli binary_cross_entropy
    binary_cross_entropy_with_logits bincount binomial bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor blackman_window block_diag bucketize cat cauchy ceil celu channel_shuffle clamp
    clamp_max clamp_min clone col2im complex conj_physical constant_pad_nd copy copy_sparse_to_sparse copysign cos cosh
    count_nonzero cudnn_affine_grid_generator cudnn_batch_norm cudnn_grid_sampler cummax cummin cumprod cumsum deg2rad
    dequantize diag diag_embed diagonal_scatter digamma dist div elu embedding embedding_dense_backward embedding_renorm
    eq equal erf erfc erfinv exp exp2 expm1 exponential eye fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask fft_fftfreq fft_rfftfreq fill flip floor floor_divide fmax fmin fmod frac
    fractional_max_pool2d fractional_max_pool3d frexp from_file full full_like gather gcd ge gelu geometric glu
    glu_backward_jvp glu_jvp grid_sampler_2d grid_sampler_3d gt hamming_window hann_window hardshrink hardsigmoid
    hardswish hardtanh hash_tensor heaviside histc histogram huber_loss hypot i0 igamma igammac im2col index index_add
    index_fill index_put index_reduce index_select int_repr isfinite isin isinf isnan isneginf isposinf kaiser_window
    kthvalue lcm ldexp le leaky_relu lerp lgamma linalg__powsum linalg_cross linalg_vector_norm linspace log log10 log1p
    log2 log_normal log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or
    logical_xor logit logspace logsumexp lt lu_unpack masked_fill masked_scatter masked_select max max_pool2d_backward
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median min minimum
    miopen_batch_norm miopen_ctc_loss mish mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mkldnn_max_pool3d
    mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight mode mse_loss mul multi_margin_loss
    multilabel_margin_loss_forward multinomial mvlgamma nan_to_num nanmedian nansum narrow_copy native_batch_norm
    native_channel_shuffle native_dropout native_group_norm native_layer_norm native_norm ne neg new_full new_ones
    new_zeros nextafter nll_loss2d_forward nll_loss_forward nonzero nonzero_static norm normal one_hot ones ones_like
    pixel_shuffle pixel_unshuffle poisson polar polygamma pow prod put quantize_per_channel quantize_per_tensor
    quantize_per_tensor_dynamic quantized_batch_norm quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d
    rad2deg rand rand_like randint randint_like randn randn_like random randperm range reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d roll rot90 round rrelu_with_noise rsqrt rsub scalar_tensor scatter scatter_add scatter_reduce
    searchsorted segment_reduce select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh slice_scatter
    smooth_l1_loss soft_margin_loss softmax softplus softshrink sort sparse_mask special_airy_ai special_bessel_j0
    special_bessel_j1 special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u
    special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_entr special_erfcx
    special_hermite_polynomial_h special_hermite_polynomial_he special_i0e special_i1 special_i1e
    special_laguerre_polynomial_l special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_ndtri
    special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t
    special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w
    special_spherical_bessel_j0 special_xlog1py special_zeta sqrt square stack std std_mean sub sum take tan tanh
    threshold to_mkldnn to_padded_tensor topk trace tril tril_indices triu triu_indices trunc uniform unique_consecutive
    unique_dim unique_dim_consecutive upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d value_selecting_reduction_backward var var_mean where
    xlogy zero zeros zeros_like
"""

_PRODUCTS = """
    _cholesky_solve_helper _compute_linear_combination _cslt_sparse_mm _cslt_sparse_mm_search _cudnn_attention_backward
    _cudnn_attention_forward _cudnn_rnn_backward _efficient_attention_backward _efficient_attention_forward _fft_c2c
    _fft_c2r _fft_r2c _flash_attention_backward _flash_attention_forward _flash_attention_forward_no_dropout_inplace
    _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd
    _slow_conv2d_backward _sparse_mm_reduce_impl_backward _spsolve _triton_multi_head_attention
    _triton_scaled_dot_attention cholesky_inverse cholesky_solve convolution_backward_overrideable geqrf
    linalg_cholesky_ex linalg_eig linalg_eigvals linalg_householder_product linalg_inv_ex linalg_ldl_factor_ex
    linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor_ex linalg_lu_solve linalg_matrix_exp linalg_matrix_sqrth
    linalg_pinv linalg_polar linalg_qr linalg_solve_triangular linear linear_backward lstm_mps_backward matmul_backward
    miopen_rnn_backward mkldnn_linear_backward mkldnn_linear_backward_input mkldnn_linear_backward_weights
    mps_convolution_backward mps_convolution_transpose_backward ormqr triangular_solve
"""
"""Transforms, factorizations and solvers, whose work is their algorithm's; and operators of other devices alone."""

_PRODUCTS_ELSEWHERE = """
    prims::fft_c2c prims::fft_c2r prims::fft_r2c prims::svd
    symm_mem::_async_input_mm symm_mem::fused_all_gather_matmul symm_mem::fused_all_gather_scaled_matmul
    symm_mem::fused_matmul_reduce_scatter symm_mem::fused_scaled_matmul_reduce_scatter
    _native::_foreach_mm_native_1 _native::bmm_triton_0 _native::linalg_polar_native_2
    _native::linalg_polar_out_native_3 onnx::Attention onnx_symbolic::_symbolic onnx_symbolic::_symbolic_multi_out
    mkldnn_prepacked::conv2d_run mkldnn::_convolution_pointwise mkldnn::_convolution_transpose_pointwise
    onednn::qconv_pointwise onednn::qconv1d_pointwise onednn::qconv2d_pointwise onednn::qconv3d_pointwise
    inductor::_mm_plus_mm semi_structured::cutlass_mm semi_structured::cusparselt_mm
    torch_attn::_varlen_attn torch_attn::_varlen_attn_backward torch_attn::_varlen_attn_out
"""

_FREE_ELSEWHERE = """
    prims::_low_memory_max_pool_offsets_to_indices prims::_low_memory_max_pool_with_offsets prims::fma
    prims::inductor_cvt_e8m0_rceil prims::inductor_force_stride_order prims::inductor_lookup_seed
    prims::inductor_rand_eager_offset prims::inductor_rand_eager_offsets prims::inductor_randint prims::inductor_random
    prims::inductor_seed prims::inductor_seeds prims::prepare_softmax_online ao::offload ao::reload ao::wait_tensor
    prims::_make_token prims::_sink_tokens prims::bessel_i0 prims::bessel_i0e prims::bessel_i1 prims::bessel_i1e
    prims::bessel_j0 prims::bessel_j1 prims::broadcast_in_dim prims::cbrt prims::collapse prims::collapse_view
    prims::conj prims::convert_element_type prims::copy_strided prims::copy_to prims::device_put prims::erf_inv
    prims::erfcx prims::imag prims::iota prims::item prims::maximum_value prims::minimum_value prims::ndtri prims::real
    prims::reshape prims::rev prims::shift_left prims::shift_right_arithmetic prims::spherical_bessel_j0
    prims::split_dim prims::view_of prims::view_of_dtype prims::xor_sum prims::zeta
    quantized::add_scalar quantized::batch_norm1d quantized::batch_norm2d quantized::batch_norm3d quantized::dropout
    quantized::embedding_2bit quantized::embedding_4bit quantized::embedding_bag_2bit_rowwise_offsets
    quantized::embedding_bag_4bit quantized::embedding_bag_4bit_rowwise_offsets quantized::embedding_bag_byte
    quantized::embedding_bag_byte_rowwise_offsets quantized::embedding_byte quantized::group_norm
    quantized::instance_norm quantized::layer_norm quantized::make_quantized_cell_params
    quantized::make_quantized_cell_params_dynamic quantized::max_pool1d quantized::max_pool2d quantized::mul_scalar
    quantized::prelu quantized::relu6 _quantized::wrapped_fbgemm_pack_gemm_matrix_fp16
    mkl::_mkl_reorder_linear_weight mkldnn::_get_mkldnn_serialized_md mkldnn::_nbytes
    mkldnn::_reorder_convolution_transpose_weight mkldnn::_reorder_convolution_weight mkldnn::_reorder_linear_weight
    mkldnn::_reorder_mkldnn_rnn_layer_weight mkldnn::data_ptr onednn::qadd onednn::qadd_relu onednn::qbatch_norm2d
    onednn::qmul onnx::RotaryEmbedding flex_lib::zeros_and_scatter _inductor_test::realize
    inductor::_reinterpret_tensor inductor::accumulate_grad_ inductor::resize_storage_bytes_
    inductor_prims::inductor_reserve_rng_state
    quantization::_Bfloat16QuantizedToFloat quantization::_FloatToBfloat16Quantized
    torchvision::_cuda_version torchvision::box_iou_rotated torchvision::nms torchvision::ps_roi_align
    torchvision::ps_roi_pool torchvision::qnms torchvision::qroi_align torchvision::roi_align torchvision::roi_pool
    torchvision::_ps_roi_align_backward torchvision::_ps_roi_pool_backward torchvision::_roi_align_backward
    torchvision::_roi_pool_backward
    symm_mem::_barrier symm_mem::_low_contention_all_gather symm_mem::_low_contention_all_gather_ce_multicast
    symm_mem::_low_contention_reduce_scatter symm_mem::_rendezvous symm_mem::all_to_all_vdev
    symm_mem::all_to_all_vdev_2d symm_mem::all_to_all_vdev_2d_offset symm_mem::get_remote_tensors
    symm_mem::memcpy_to_multicast_ symm_mem::memset32_ symm_mem::multi_root_tile_reduce
    symm_mem::multimem_all_gather_out symm_mem::multimem_all_reduce_ symm_mem::multimem_one_shot_all_reduce
    symm_mem::multimem_one_shot_reduce_out symm_mem::nccl_all_to_all_nd symm_mem::nccl_get symm_mem::nccl_put
    symm_mem::nccl_put_signal symm_mem::nccl_put_with_signal symm_mem::nccl_reduce_scatter_offset
    symm_mem::nccl_wait_for_signal symm_mem::nccl_wait_signal symm_mem::nvshmem_all_to_all symm_mem::nvshmem_broadcast
    symm_mem::nvshmem_get symm_mem::nvshmem_put symm_mem::nvshmem_put_with_signal symm_mem::nvshmem_wait_for_signal
    symm_mem::one_shot_all_reduce symm_mem::reduce_scatter_out symm_mem::stream_write_value32_ symm_mem::tile_reduce
    symm_mem::two_shot_all_reduce_ symm_mem::two_shot_all_reduce_out
"""

_FREE_NAMESPACES = """
    c10d c10d_functional _c10d_functional _c10d_functional_autograd _dtensor fsdp streams mempool coor image
    profiler debugprims debug_mode_ops rngprims export static_runtime quantized_decomposed prim cuda
"""
"""Communication, streams, files of images, records, random states, copies of views, (de)quantization."""

_NAMESAKES = frozenset({"prims", "quantized", "_quantized", "_test"})
"""Namespaces in which a name says the same as in aten."""

STANDING_STILL = frozenset(f"aten::{name}" for name in _STANDING_STILL.split())
"""Free of multiply-accumulates, and of traffic: views, sizes, memory that nothing is written to."""

_FREE_NAMES = STANDING_STILL | {f"aten::{name}" for name in _FREE.split()} | set(_FREE_ELSEWHERE.split())
_PRODUCT_NAMES = {f"aten::{name}" for name in _PRODUCTS.split()} | set(_PRODUCTS_ELSEWHERE.split())
_MULTIPLY_NOTHING = frozenset(_FREE_NAMESPACES.split())

_SAME_ARGUMENTS = ("_", "_out", "_relu")
"""Endings of forms that take the arguments of their base and do its products."""
_SAME_WORK = ("_copy", "_functional")
_GRADIENTS = ("_backward", "_backward_data", "_backward_impl")
_PACKING = re.compile(r"_(prepack|unpack)(_|$)")
"""Parts of names of operators that lay weights out for a kernel, or back."""


@cache
def kind(name: str) -> Kind:
    """Return the kind of an operator by its name without overload: aten::add, quantized::linear."""
    if formula(name) is not None:
        return "counted"
    if name in _PRODUCT_NAMES:
        return "products"
    if name in _FREE_NAMES or name.partition("::")[0] in _MULTIPLY_NOTHING or _PACKING.search(name):
        return "free"
    followed = set(map(kind, _bases(name)))
    if "free" in followed:
        return "free"
    return "products" if followed & {"counted", "products"} else "unknown"


@cache
def formula(name: str) -> Formula | None:
    """Return an operator's formula: its own, or that of the base whose arguments it takes."""
    if name in MACS:
        return MACS[name]
    found = (formula(base) for base in _without(_SAME_ARGUMENTS, name))
    return next((each for each in found if each is not None), None)


@cache
def stands_still(name: str) -> bool:
    """Say whether an operator moves no data: a view, a size, memory that nothing is written to."""
    return name in STANDING_STILL or name.removesuffix("_") in STANDING_STILL


def is_whole(name: str) -> bool:
    """Say whether a composite operator is not taken apart: its parts differ from device to device."""
    return kind(name) in ("counted", "free")


def _bases(name: str) -> Iterator[str]:
    """Yield the names whose kind a form follows."""
    namespace, _, own = name.partition("::")
    yield from _without(_SAME_ARGUMENTS + _SAME_WORK + _GRADIENTS, name)
    yield from (f"{base}_forward" for base in _without(_GRADIENTS, name))
    if own.startswith("_foreach_"):
        yield f"{namespace}::{own.removeprefix('_foreach_')}"
    if namespace in _NAMESAKES:
        yield f"aten::{own}"


def _without(endings: Iterable[str], name: str) -> Iterator[str]:
    return (name.removesuffix(ending) for ending in endings if name.endswith(ending))
