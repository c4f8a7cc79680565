"""Products by their formulas: complex, quantized, sparse, grouped, deformed; and what stays uncounted, in every form.

MACs are worked out by hand: (n, k) @ (k, m) takes n·k·m, a complex product four real ones, a sparse matrix what it
stores times the columns of the other.
"""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from hard_networks import Net
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_dynamic
from torchvision import models, ops

import cnnprof
from cnnprof import reporting, store
from cnnprof.analysis import costs

COMPLEX = torch.complex64


def cx(*shape):
    return torch.randn(*shape, dtype=COMPLEX)


def counted(forward, *inputs, mode="inference"):
    module = forward if isinstance(forward, nn.Module) else Net(lambda net, *given: forward(*given))
    analysis = cnnprof.analyze(module, inputs=inputs, mode=mode)
    assert analysis.uncounted == ()
    return analysis.macs


# Complex -------------------------------------------------------------------------------------------------------------


class ByHand(nn.Module):
    """(a + bi)(c + di) of real tensors, as four real products."""

    def __init__(self):
        super().__init__()
        self.real, self.imaginary = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)

    def forward(self, x):
        a, b = x.real, x.imag
        return torch.complex(self.real(a) - self.imaginary(b), self.real(b) + self.imaginary(a))


COMPLEX_CASES = {
    "by hand": (ByHand(), (cx(2, 8),), 2 * 8 * 16),
    "linear": (nn.Linear(8, 16, bias=False, dtype=COMPLEX), (cx(2, 8),), 2 * 8 * 16),
    "double": (
        nn.Linear(8, 16, dtype=torch.complex128), (torch.randn(2, 8, dtype=torch.complex128),), 2 * 8 * 16,
    ),
    "1x1 convolution": (nn.Conv2d(8, 16, 1, bias=False, dtype=COMPLEX), (cx(2, 8, 1, 1),), 2 * 8 * 16),
    "with a bias": (nn.Conv2d(8, 16, 1, dtype=COMPLEX), (cx(2, 8, 1, 1),), 2 * 8 * 16),
    "over time": (nn.Conv1d(2, 4, 3, dtype=COMPLEX), (cx(1, 2, 5),), 4 * 3 * 2 * 3),
    "same padding": (nn.Conv1d(2, 4, 3, padding="same", dtype=COMPLEX), (cx(1, 2, 5),), 4 * 5 * 2 * 3),
    "in groups": (nn.Conv2d(4, 4, 3, groups=4, dtype=COMPLEX), (cx(1, 4, 5, 5),), 4 * 9 * 9),
    "transposed": (nn.ConvTranspose1d(8, 16, 3, dtype=COMPLEX), (cx(2, 8, 5),), 2 * 8 * 5 * 16 * 3),
    "mm": (torch.mm, (cx(2, 3), cx(3, 4)), 24),
    "bmm": (torch.bmm, (cx(2, 2, 3), cx(2, 3, 4)), 48),
    "addmm": (torch.addmm, (cx(4), cx(2, 3), cx(3, 4)), 24),
    "addmm in place": (lambda s, a, b: s.addmm_(a, b), (cx(2, 4), cx(2, 3), cx(3, 4)), 24),
    "baddbmm": (torch.baddbmm, (cx(1), cx(2, 2, 3), cx(2, 3, 4)), 48),
    "mv": (torch.mv, (cx(2, 3), cx(3)), 6),
    "dot": (torch.dot, (cx(3), cx(3)), 3),
    "vdot": (torch.vdot, (cx(3), cx(3)), 3),
    "vecdot": (torch.linalg.vecdot, (cx(2, 3), cx(2, 3)), 6),
    "einsum": (lambda a, b: torch.einsum("ij,jk->ik", a, b), (cx(2, 3), cx(3, 4)), 24),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 1), (cx(2, 3), cx(3, 4)), 24),
    "promoted": (lambda a, b: a @ b.to(COMPLEX), (cx(2, 3), torch.randn(3, 4)), 24),
    "bilinear": (nn.Bilinear(3, 4, 5, dtype=COMPLEX), (cx(2, 3), cx(2, 4)), 2 * 5 * 3 * 4),
    "recurrent": (nn.RNN(3, 4, dtype=COMPLEX), (cx(5, 2, 3),), 10 * (4 * 3 + 4 * 4)),
    "attention": (F.scaled_dot_product_attention, (cx(1, 2, 3, 4),) * 3, 2 * 3 * 3 * (4 + 4)),
    "a chain": (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), (cx(2, 3), cx(3, 4), cx(4, 5)), 24 + 40),
}  # fmt: skip
"""With the complex products of each."""


@pytest.mark.parametrize("name", COMPLEX_CASES)
def test_a_complex_product_is_four_real_ones(name):
    module, inputs, products = COMPLEX_CASES[name]
    assert counted(module, *inputs) == 4 * products


@pytest.mark.parametrize("name", ["linear", "1x1 convolution", "with a bias", "transposed", "same padding"])
def test_each_gradient_of_a_complex_layer_takes_as_many(name):
    module, inputs, products = COMPLEX_CASES[name]
    behind = inputs[0].clone().requires_grad_()
    assert counted(module, *inputs, mode="training") == 4 * products * 2  # forward, weights
    inner = nn.Sequential(Net(lambda net, x: net.scale * x, scale=nn.Parameter(cx(1))), module)
    assert counted(inner, behind, mode="training") == 4 * products * 3  # and the layer's input


def test_a_complex_convolution_is_known_wherever_its_numbers_come_from():
    held = Net(lambda net, x: F.conv1d(net.image, net.layer.weight).abs() * x, layer=nn.Conv1d(2, 4, 3, dtype=COMPLEX))
    held.register_buffer("image", cx(1, 2, 5))
    made = Net(
        lambda net, x: F.conv1d(torch.complex(x, x), torch.complex(net.layer.weight, net.layer.weight)),
        layer=nn.Conv1d(2, 4, 3),
    )
    for net, shape in ((held, (3,)), (made, (1, 2, 5))):
        assert counted(net, torch.rand(shape)) == 4 * 72
        assert counted(net, torch.rand(shape), mode="training") == 4 * 72 * 2


def test_modes_of_the_networks_own_end_in_their_order():
    """The first complex tensor comes within one."""

    def forward(net, x):
        with torch.overrides.BaseTorchFunctionMode():
            made = torch.complex(x, x)
        return F.conv1d(made, net.layer.weight)

    net = Net(forward, layer=nn.Conv1d(2, 4, 3, dtype=COMPLEX))
    before = torch.overrides._len_torch_function_stack()
    assert counted(net, torch.rand(1, 2, 5), mode="training") == 4 * 72 * 2
    assert torch.overrides._len_torch_function_stack() == before


def test_other_tools_count_a_complex_product_as_they_do():
    """FlopCounterMode and fvcore count a product of elements once, and the three convolutions that torch makes."""
    for module, inputs, torch_flops in (
        (nn.Linear(8, 16, dtype=COMPLEX), cx(2, 8), 2 * 256),
        (nn.Conv2d(8, 16, 1, dtype=COMPLEX), cx(2, 8, 1, 1), 2 * 3 * 256),
    ):
        analysis = cnnprof.analyze(module, inputs=inputs, tools=("torch", "fvcore"))
        assert analysis.conventions["torch"] == {"flops": torch_flops}
        assert analysis.conventions["fvcore"]["flops"] == torch_flops // 2
        assert analysis.conventions["pycls"] == {"flops": 256 + 32, "activations": 32}
        assert [(opinion.theirs is None, opinion.unexplained) for opinion in analysis.opinions] == [(False, 0)] * 2
        assert analysis.activations == 32


def test_elements_of_complex_parameters_are_said_to_be_complex():
    analysis = cnnprof.analyze(nn.Linear(8, 16, bias=False, dtype=COMPLEX), inputs=cx(2, 8))
    assert (analysis.params, analysis.totals.complex_params, analysis.totals.param_bytes) == (128, 128, 1024)
    assert "All 128 parameters are complex elements, two real numbers each" in str(analysis)
    mixed = nn.Sequential(nn.Linear(8, 16, dtype=COMPLEX), Net(lambda net, x: x.abs()), nn.Linear(16, 2))
    assert "144 of the parameters are complex elements" in " ".join(
        str(cnnprof.analyze(mixed, inputs=cx(2, 8))).split()
    )
    assert "complex" not in str(cnnprof.analyze(nn.Linear(8, 16), (8,)))


def test_the_working_says_that_a_complex_product_is_four():
    analysis = cnnprof.analyze(nn.Linear(8, 16, bias=False, dtype=COMPLEX), inputs=cx(2, 8))
    (working,) = analysis.working
    assert [(term.symbols, term.factors) for term in working.macs] == [("4·n·in·out", (4, 2, 8, 16))]


# Sparse --------------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:.*(Sparse|torch.ao.quantization|deprecated|must run observer)")


def stored(rows, columns, shape):
    """Return a sparse matrix of ones at these places."""
    return torch.sparse_coo_tensor(torch.tensor([rows, columns]), torch.ones(len(rows)), shape, check_invariants=True)


def compressed(kind):
    with warnings.catch_warnings(action="ignore"):
        return getattr(STORED, f"to_sparse_{kind}")()


STORED = stored([0, 1, 1], [2, 0, 2], (2, 3))


class Sparse(nn.Module):
    def __init__(self, matrix, call):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.call, self.scale = call, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.call(self.matrix, self.scale * x)


def times_sparse(matrix, x):
    """Stored at (0, 0), (2, 0) and (2, 1), the right one meets one element of column 0, and two of column 2."""
    return torch.sparse.mm(matrix, stored([0, 2, 2], [0, 0, 1], (3, 2))).to_dense() * x.sum()


SPARSE_CASES = {
    "torch.sparse.mm": (STORED, torch.sparse.mm, (3, 4), 3 * 4),
    "coo @ dense": (STORED, torch.matmul, (3, 4), 3 * 4),
    "csr @ dense": (compressed("csr"), torch.matmul, (3, 4), 3 * 4),
    "csc @ dense": (compressed("csc"), torch.matmul, (3, 4), 3 * 4),
    "coo @ vector": (STORED, torch.matmul, (3,), 3),
    "dense @ csr": (compressed("csr"), lambda matrix, x: x @ matrix, (4, 2), 3 * 4),
    "addmm": (STORED, lambda matrix, x: torch.sparse.addmm(torch.ones(2, 4), matrix, x), (3, 4), 3 * 4),
    "bmm": (torch.stack([STORED, STORED]).coalesce(), torch.bmm, (2, 3, 4), 6 * 4),
    "reduced": (compressed("csr"), lambda matrix, x: torch.sparse.mm(matrix, x, "sum"), (3, 4), 3 * 4),
    "sampled": (
        compressed("csr"),
        lambda matrix, x: torch.sparse.sampled_addmm(matrix, x, torch.ones(5, 3)).to_dense(), (2, 5), 3 * 5,
    ),
    "sparse @ sparse": (STORED, times_sparse, (1,), 1 * 1 + 2 * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", SPARSE_CASES)
def test_a_sparse_product_takes_what_is_stored(name):
    matrix, call, shape, macs = SPARSE_CASES[name]
    assert counted(Sparse(matrix, call), torch.rand(shape)) == macs


def test_a_sparse_product_in_a_training_step():
    """The gradient to the dense matrix meets what is stored, too."""
    assert counted(Sparse(STORED, torch.sparse.mm), torch.rand(3, 4), mode="training") == 2 * 3 * 4


def test_a_sparse_matrix_is_found_where_it_is_no_buffer():
    net = Net(lambda net, x: net.edges[0] @ net.layer(x), layer=nn.Linear(4, 4))
    net.edges = [STORED]
    assert counted(net, torch.rand(3, 4)) == 3 * 4 * 4 + 3 * 4


def test_what_a_stand_in_stores_is_not_known():
    stand_in = STORED.to("meta")
    assert costs.mm((stand_in, torch.ones(3, 4, device="meta")), torch.ones(2, 4, device="meta")) is None


def test_half_of_a_semi_structured_matrix_is_multiplied():
    half, meta = torch.ones(32, 8), torch.ones(32, 2)
    assert costs.MACS["aten::_sparse_semi_structured_mm"]((half, meta, torch.ones(16, 4)), None) == 32 * 16 * 4 // 2
    assert costs.MACS["aten::_sparse_semi_structured_linear"]((torch.ones(3, 4, 16), half, meta), None) == 12 * 32 * 8


# Grouped, deformed, distances ----------------------------------------------------------------------------------------


def half(*shape):
    return torch.randn(*shape).to(torch.bfloat16)


def bytes_(*shape):
    return torch.ones(shape, dtype=torch.int8)


def offsets(*ends):
    return torch.tensor(ends, dtype=torch.int32)


OTHERS = {
    "groups of rows": (lambda a, b, o: torch._grouped_mm(a, b, offs=o), (half(10, 16), half(3, 16, 8),
                       offsets(2, 6, 10)), 10 * 16 * 8),
    "groups of sums": (lambda a, b, o: torch._grouped_mm(a, b, offs=o), (half(16, 24), half(24, 8), offsets(8, 24)),
                       16 * 24 * 8),
    "groups of columns": (lambda a, b, o: torch._grouped_mm(a, b, offs=o), (half(2, 16, 16), half(16, 24),
                          offsets(8, 24)), 16 * 16 * 24),
    "groups of both": (torch._grouped_mm, (half(3, 10, 16), half(3, 16, 8)), 3 * 10 * 16 * 8),
    "cdist": (torch.cdist, (torch.rand(4, 3), torch.rand(5, 3)), 4 * 5 * 3),
    "cdist by a product": (torch.cdist, (torch.rand(30, 3), torch.rand(40, 3)), 30 * 40 * 3),
    "cdist in a batch": (torch.cdist, (torch.rand(2, 30, 3), torch.rand(2, 40, 3)), 2 * 30 * 40 * 3),
    "cdist of sums": (lambda a, b: torch.cdist(a, b, p=1.0), (torch.rand(4, 3), torch.rand(5, 3)), 0),
    "pdist": (F.pdist, (torch.rand(4, 3),), 6 * 3),
    "addmv": (torch.addmv, (torch.rand(2), torch.rand(2, 3), torch.rand(3)), 6),
    "addbmm": (torch.addbmm, (torch.rand(2, 4), torch.rand(5, 2, 3), torch.rand(5, 3, 4)), 5 * 24),
    "a chain": (lambda a, b, c: torch.chain_matmul(a, b, c), (torch.rand(2, 3), torch.rand(3, 4), torch.rand(4, 5)),
                24 + 40),
    "a power": (lambda a: torch.linalg.matrix_power(a, 3), (torch.rand(3, 3),), 2 * 27),
    "inner": (torch.inner, (torch.rand(2, 3), torch.rand(4, 3)), 24),
    "_int_mm": (torch._int_mm, (bytes_(32, 16), bytes_(16, 8)), 32 * 16 * 8),
    "a list of products": (lambda a, b: torch._foreach_mm([a, a], [b, b])[1], (torch.rand(2, 3), torch.rand(3, 4)), 48),
    "weights of 8 bits": (torch._weight_int8pack_mm, (half(2, 16), bytes_(8, 16), half(8)), 2 * 16 * 8),
    "unfold, multiply, fold": (lambda x: F.fold(torch.ones(4, 9) @ F.unfold(x, 1), 3, 1), (torch.rand(1, 9, 3, 3),),
                               4 * 9 * 9),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_products(name):
    call, inputs, macs = OTHERS[name]
    assert counted(call, *inputs) == macs


def test_products_of_eight_bits():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.rand(16, 16).to(torch.float8_e4m3fn))
            self.register_buffer("scale", torch.ones(()))

        def forward(self, x):
            narrow = x.to(torch.float8_e4m3fn)
            return torch._scaled_mm(narrow, self.weight.t(), self.scale, self.scale, out_dtype=torch.bfloat16)

    assert counted(Scaled(), torch.rand(32, 16)) == 32 * 16 * 16


class Deformed(nn.Module):
    """A deformable convolution behind the one that makes its offsets."""

    def __init__(self):
        super().__init__()
        self.offsets, self.deformed = nn.Conv2d(2, 18, 3), ops.DeformConv2d(2, 4, 3)

    def forward(self, x):
        return self.deformed(x, self.offsets(x))


def test_a_deformable_convolution_takes_as_much_as_a_plain_one():
    """3x3 filters of 2 channels at 4x4 places: 18 of them for the offsets, 4 that are deformed."""
    assert counted(Deformed(), torch.rand(1, 2, 6, 6)) == (18 + 4) * 16 * 18


def test_a_training_step_of_a_deformable_convolution():
    """The filters' gradients, and that of what is sampled, which carries on to the offsets."""
    analysis = cnnprof.analyze(Deformed(), inputs=torch.rand(1, 2, 6, 6), mode="training")
    offset, plain = 18 * 16 * 18, 4 * 16 * 18
    assert analysis.macs == 2 * offset + 3 * plain
    assert analysis.totals.weight_gradient_macs == offset + plain


def test_a_training_step_of_distances_to_learned_centres():
    class Centres(nn.Module):
        def __init__(self):
            super().__init__()
            self.centres = nn.Parameter(torch.rand(5, 3))

        def forward(self, x):
            return torch.cdist(x, self.centres)

    assert counted(Centres(), torch.rand(4, 3), mode="training") == 2 * 60


# Quantized -----------------------------------------------------------------------------------------------------------


def quantized(module, kind):
    return quantize_dynamic(nn.Sequential(module), {kind})


def test_a_quantized_linear_layer():
    analysis = cnnprof.analyze(quantized(nn.Linear(8, 16), nn.Linear), inputs=torch.rand(2, 8))
    (layer,) = [layer for layer in analysis.layers if layer.macs]
    assert (layer.path, layer.macs, layer.params) == ("0", 2 * 8 * 16, 8 * 16 + 16)
    assert (analysis.macs, analysis.params, analysis.totals.trainable_params) == (256, 144, 0)
    assert analysis.totals.param_bytes == 8 * 16 + 4 * 16  # weights of one byte, biases of four
    assert analysis.uncounted == ()


def test_weights_packed_in_half_precision_take_two_bytes():
    module = quantize_dynamic(nn.Sequential(nn.Linear(8, 16)), {nn.Linear}, dtype=torch.float16)
    analysis = cnnprof.analyze(module, inputs=torch.rand(2, 8))
    assert (analysis.macs, analysis.params, analysis.totals.param_bytes) == (256, 144, 2 * 128 + 4 * 16)


@pytest.mark.parametrize(
    ("layer", "shape", "params", "macs"),
    [
        # gates x H x (I + H) weights in the first layer, gates x H x 2H in the second, two biases of gates x H each
        (nn.LSTM(8, 16, 2), (5, 2, 8), 64 * 24 + 128 + 64 * 32 + 128, 10 * 64 * (24 + 32)),
        (nn.GRU(8, 16, bidirectional=True), (5, 2, 8), 2 * (48 * 24 + 96), 10 * 2 * 48 * 24),
        (nn.LSTMCell(8, 16), (2, 8), 64 * 24 + 128, 2 * 64 * 24),
        (nn.GRUCell(8, 16), (2, 8), 48 * 24 + 96, 2 * 48 * 24),
    ],
    ids=["LSTM", "GRU", "LSTM cell", "GRU cell"],
)
def test_quantized_recurrent_layers(layer, shape, params, macs):
    analysis = cnnprof.analyze(quantized(layer, type(layer)), inputs=torch.rand(shape))
    assert (analysis.params, analysis.macs, analysis.uncounted) == (params, macs, ())


@pytest.mark.parametrize(
    ("kind", "config", "size"),
    [
        (nn.Embedding, quantization.float_qparams_weight_only_qconfig, 80),
        (nn.EmbeddingBag, quantization.float_qparams_weight_only_qconfig, 80),
        (nn.EmbeddingBag, quantization.float_qparams_weight_only_qconfig_4bit, 40),
    ],
)
def test_quantized_embeddings_have_parameters_and_no_products(kind, config, size):
    module = nn.Sequential(kind(10, 8))
    module.qconfig = config
    analysis = cnnprof.analyze(
        quantization.convert(quantization.prepare(module)), inputs=(torch.zeros(3, 2, dtype=torch.int64),)
    )
    assert (analysis.params, analysis.macs, analysis.uncounted) == (80, 0, ())
    assert analysis.totals.param_bytes == size


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 8, 3), (1, 4, 9)),
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), (1, 4, 5, 5)),
        (nn.Linear(4, 8), (3, 4)),
    ],
    ids=["1-D", "in groups", "transposed", "linear"],
)
def test_a_layer_quantized_by_observation_counts_as_before(layer, shape, monkeypatch):
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")  # fbgemm takes no transposed ones
    module = nn.Sequential(quantization.QuantStub(), layer, quantization.DeQuantStub()).eval()
    module.qconfig = quantization.get_default_qconfig("qnnpack")
    before = cnnprof.analyze(module, inputs=torch.rand(shape))
    observed = quantization.prepare(module)
    observed(torch.rand(shape))
    analysis = cnnprof.analyze(quantization.convert(observed), inputs=torch.rand(shape))
    assert (analysis.macs, analysis.params, analysis.uncounted) == (before.macs, before.params, ())


def test_a_quantized_network_counts_as_the_one_that_it_was_made_of():
    """Its norms are folded into the convolutions: K shifts remain of the four numbers a channel, as biases."""
    narrow = models.quantization.mobilenet_v2(weights=None, quantize=True)
    wide = models.mobilenet_v2(weights=None)
    analysis, before = (cnnprof.analyze(module, (3, 64, 64)) for module in (narrow, wide))
    scales = sum(part.num_features for part in wide.modules() if isinstance(part, nn.BatchNorm2d))
    assert analysis.macs == before.macs
    assert analysis.params == before.params - scales
    assert analysis.uncounted == ()
    convolutions = sum(part.weight.numel() for part in wide.modules() if isinstance(part, nn.Conv2d))
    assert analysis.totals.param_bytes == convolutions + 4 * scales + 1280 * 1000 + 4 * 1000


# What stays uncounted ------------------------------------------------------------------------------------------------


class Transform(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).real


def cells(text, label):
    (line,) = [line for line in text.splitlines() if line.lstrip("| ").startswith(label)]
    return [cell.strip() for cell in line.strip("|").split("|")]


MIXED = nn.Sequential(nn.Conv2d(3, 4, 3), Transform())


def test_a_layer_that_was_not_counted_reads_n_c():
    analysis = cnnprof.analyze(MIXED, (3, 8, 8))
    assert "1  Transform" in str(analysis)
    assert [line.split().count("n/c") for line in str(analysis).splitlines() if "Transform" in line] == [2]
    assert cells(reporting.as_markdown(analysis), "1 Transform")[4:6] == ["n/c", "n/c"]
    assert ">n/c<" in reporting.as_html(analysis)


def test_a_total_of_which_nothing_was_counted_reads_n_c():
    analysis = cnnprof.analyze(nn.Sequential(Transform()), (3, 8, 8))
    assert "0 FLOPs" not in str(analysis)
    assert "its MACs are not counted" in reporting.as_markdown(analysis)
    assert cells(reporting.as_markdown(analysis), "**total**")[4] == "**n/c**"
    assert "n/c" in reporting.as_html(analysis)
    assert analysis.known_macs is None


def test_the_document_names_what_a_zero_lacks():
    analysis = cnnprof.analyze(MIXED, (3, 8, 8))
    document = json.loads(store.to_json(analysis))
    assert document["uncounted"] == [{"operator": "fft_rfft2", "path": "1", "calls": 1}]
    frame = cnnprof.to_dataframe(analysis)
    assert list(frame["uncounted"]) == ["", "", "fft_rfft2"]


def test_zero_stays_zero_where_nothing_multiplies():
    analysis = cnnprof.analyze(nn.Sequential(nn.ReLU()), (3, 8, 8))
    assert "n/c" not in str(analysis)
    assert cells(reporting.as_markdown(analysis), "**total**")[4] == "**0**"
