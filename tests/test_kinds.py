"""Kinds of operators: every one that torch and torchvision register has one, and forms follow their base."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils.rnn import pack_padded_sequence
from torchvision import ops

import cnnprof
from cnnprof.analysis import kinds

LISTED = """
import torch, torchvision
import torch._functorch._activation_offloading.offload_ops, torch._inductor.inductor_prims, torch.nn.attention.varlen
import torch.ao.quantization.fx._decomposed, torch.nn.modules.linear_cross_entropy
is_composite = lambda name: torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
names = torch._C._dispatch_get_all_op_names()
print(*sorted({name.partition(".")[0] for name in names if not is_composite(name)}))
"""
"""Operators that run as a whole; those that torch makes of others are what their parts are."""


@pytest.fixture(scope="module")
def registered():
    """Names as a process knows them that has imported nothing else."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LISTED], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_every_operator_is_counted_free_or_known_to_have_products(registered):
    assert len(registered) > 1500
    assert [name for name in registered if kinds.kind(name) == "unknown"] == []


def test_no_list_names_what_stands_on_another():
    assert not kinds._FREE_NAMES & kinds._PRODUCT_NAMES
    assert not (kinds._FREE_NAMES | kinds._PRODUCT_NAMES) & set(kinds.MACS)


def test_nothing_is_free_whose_name_says_that_it_multiplies(registered):
    products = {"mm", "bmm", "matmul", "linear", "attention", "solve", "convolution"}
    said = [name for name in registered if products & set(name.split("::")[1].split("_"))]
    free = [name for name in said if kinds.kind(name) == "free" and "pack" not in name and "reorder" not in name]
    assert len(said) > 80
    assert free == []


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("aten::add", "free"),
        ("aten::add_", "free"),
        ("aten::_foreach_add_", "free"),
        ("aten::view_copy", "free"),
        ("aten::tanh_backward", "free"),
        ("aten::nll_loss_backward", "free"),
        ("prims::abs", "free"),
        ("quantized::add_relu_out", "free"),
        ("quantized::conv2d_prepack", "free"),
        ("aten::addmm_", "counted"),
        ("quantized::conv2d_relu", "counted"),
        ("quantized::linear_relu", "counted"),
        ("aten::_foreach_mm", "counted"),
        ("aten::_cudnn_rnn_backward", "products"),
        ("aten::linalg_qr", "products"),
        ("aten::not_an_operator", "unknown"),
        ("aten::not_an_operator_backward_", "unknown"),
        ("mine::add", "unknown"),
        ("mine::linear_relu", "unknown"),
    ],
)
def test_a_form_follows_its_base(form, kind):
    assert kinds.kind(form) == kind


def test_only_what_moves_no_data_stands_still():
    assert all(map(kinds.stands_still, ("aten::view", "aten::squeeze_", "aten::t_", "aten::_neg_view")))
    assert not any(map(kinds.stands_still, ("aten::view_copy", "aten::select_backward", "aten::add_", "aten::fill_")))


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call, self.linear = call, nn.Linear(4, 4)

    def forward(self, x):
        return self.call(self.linear(x))


def fake_quantized(x):
    return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)


def unpooled(x):
    pooled, where = F.max_pool3d(x.reshape(1, 1, 4, 2, 2), 2, return_indices=True)
    return F.max_unpool3d(pooled, where, 2)


def ctc(x):
    return F.ctc_loss(x.log_softmax(1)[:, None], torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]))


def whole(x):
    return (8 * x).clamp(0, 7).to(torch.int64)


FREE = {
    "a distribution": lambda x: torch.distributions.Normal(x, 1.0).log_prob(x),
    "packed sequences": lambda x: pack_padded_sequence(x[None], torch.tensor([4]), batch_first=True).data,
    "fake quantization": fake_quantized,
    "its observer": lambda x: FakeQuantize()(x),
    "scatter_reduce_": lambda x: x.scatter_reduce_(0, torch.zeros(4, 4, dtype=torch.int64), x.clone(), "amax"),
    "nanmean": torch.nanmean,
    "quantile": lambda x: torch.quantile(x, 0.5),
    "nanquantile": lambda x: torch.nanquantile(x, 0.5),
    "rot90": lambda x: torch.rot90(x),
    "windows": lambda x: x * torch.hann_window(4) * torch.hamming_window(4) * torch.kaiser_window(4),
    "embedding_bag": lambda x: F.embedding_bag(whole(x), torch.ones(8, 3)),
    "take": lambda x: x.take(whole(x)),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:]),
    "inverse functions": lambda x: x.asin() + x.acos() + x.asinh() + x.acosh() + x.atanh(),
    "hyperbolic functions": lambda x: x.sinh() + x.cosh(),
    "special functions": lambda x: torch.special.i0e(x) + torch.special.ndtri(x) + torch.special.zeta(x, x),
    "in place": lambda x: x.ceil_().trunc_().erfinv_().sinh_().copysign_(x).hypot_(x).heaviside_(x),
    "logical_or_": lambda x: x.logical_or_(x),
    "shifts": lambda x: (whole(x) << 1) >> 1,
    "shifts in place": lambda x: whole(x).bitwise_left_shift_(1).__ilshift__(1),
    "unpooling": unpooled,
    "ps_roi_align": lambda x: ops.ps_roi_align(x.reshape(1, 4, 2, 2), [torch.tensor([[0.0, 0, 1, 1]])], 2),
    "ctc_loss": ctc,
    "lists of tensors": lambda x: torch._foreach_add([x, x], 1.0)[0],
    "lists in place": lambda x: (torch._foreach_lgamma_([x]), x)[1],
    "multilabel_margin_loss": lambda x: F.multilabel_margin_loss(x, whole(x).clamp(max=3)),
    "cumulative": lambda x: x.logcumsumexp(0).cummax(0).values,
    "dist": lambda x: torch.dist(x, x),
    "pdist of another norm": lambda x: F.pdist(x, p=1.0),
    "copies of views": lambda x: torch.view_copy(x, (2, 8)),
    "diagonal_scatter": lambda x: torch.diagonal_scatter(x, x[0]),
    "segment_reduce": lambda x: torch.segment_reduce(x, "max", lengths=torch.tensor([1, 3])),
    "block_diag": lambda x: torch.block_diag(x, x),
    "renorm": lambda x: x.renorm_(2, 0, 1.0),
}


@pytest.mark.parametrize("name", FREE)
def test_what_multiplies_nothing_leaves_everything_counted(name):
    analysis = cnnprof.analyze(Calls(FREE[name]), inputs=torch.rand(4, 4))
    assert (analysis.macs, analysis.uncounted, analysis.coverage) == (64, (), 1.0)


def test_an_encoder_with_padding_leaves_everything_counted():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    mask = torch.tensor([[False, False, True], [False, True, True]])
    assert cnnprof.analyze(encoder, inputs=(torch.rand(2, 3, 8), {"src_key_padding_mask": mask})).uncounted == ()


@pytest.mark.parametrize(
    "call",
    [torch.fft.rfft, torch.linalg.qr, torch.linalg.inv, torch.matrix_exp, lambda x: torch.linalg.solve(x, x)],
    ids=["fft", "qr", "inv", "exp", "solve"],
)
def test_transforms_and_solvers_are_named(call):
    analysis = cnnprof.analyze(Calls(call), inputs=torch.rand(4, 4))
    assert (analysis.macs, len(analysis.uncounted)) == (64, 1)
