"""Networks named for the trouble they make to a counter, with their MACs worked out by hand.

Convolution: outputs x filter elements a output channel; product (n, k) @ (k, m): n·k·m; biases, norms, activations: 0.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Case:
    """A network, the shapes of its inputs, and its MACs."""

    name: str
    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    macs: int

    def inputs(self):
        dtype = next((p.dtype for p in self.module.parameters() if not nn.parameter.is_lazy(p)), torch.float32)
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.rand(shape, generator=generator).to(dtype) for shape in self.shapes)


class Net(nn.Module):
    """A forward pass written as a function of the module, its parts and the inputs."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._run = forward

    def forward(self, *inputs):
        return self._run(self, *inputs)


class ConvSubclass(nn.Conv2d):
    """A subclass, whatever its name."""


class Product(torch.autograd.Function):
    @staticmethod
    def forward(context, x, weight):
        context.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(context, gradient):
        x, weight = context.saved_tensors
        return gradient @ weight.T, x.T @ gradient


def weight(*shape):
    return nn.Parameter(torch.randn(*shape))


def conv(channels=3, out=8, **options):
    return nn.Conv2d(channels, out, 3, padding=1, **options)


def attend(query, key=None, **options):
    key = query if key is None else key
    return F.scaled_dot_product_attention(query, key, key, **options)


def shared_by_two():
    shared = conv(8, 8)
    return Net(lambda net, x: net.b(net.a(x)), a=nn.Sequential(shared), b=nn.Sequential(shared))


def encoder(**options):
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)


IMAGE, TOKENS, HEADS = (1, 3, 16, 16), (1, 16, 32), (1, 4, 16, 8)

PUBLISHED = [
    Case("conv_nobias", conv(bias=False), (IMAGE,), 55_296),
    Case("conv_bias", conv(), (IMAGE,), 55_296),
    Case("conv_batch4", conv(bias=False), ((4, 3, 16, 16),), 221_184),
    Case("depthwise", conv(8, groups=8), ((1, 8, 8, 8),), 4_608),
    Case("transposed_stride2", nn.ConvTranspose2d(8, 8, 3, stride=2), ((1, 8, 8, 8),), 36_864),
    Case("transposed_groups4", nn.ConvTranspose2d(8, 8, 3, stride=2, groups=4), ((1, 8, 8, 8),), 9_216),
    Case("same_even_kernel", nn.Conv2d(3, 8, 4, padding="same"), (IMAGE,), 98_304),
    Case("same_odd_kernel", nn.Conv2d(3, 8, 3, padding="same"), (IMAGE,), 55_296),
    Case("linear_2d", nn.Linear(16, 32), ((2, 16),), 1_024),
    Case("linear_3d", nn.Linear(16, 32), ((1, 10, 16),), 5_120),
    Case("functional_conv", Net(lambda n, x: F.conv2d(x, n.w, padding=1), w=weight(8, 3, 3, 3)), (IMAGE,), 55_296),
    Case("raw_matmul", Net(lambda n, x: x @ n.w, w=weight(16, 32)), ((1, 10, 16),), 5_120),
    Case("einsum", Net(lambda n, x: torch.einsum("btc,cd->btd", x, n.w), w=weight(16, 32)), ((1, 10, 16),), 5_120),
    Case("sdpa", Net(lambda n, q: attend(q)), (HEADS,), 16_384),
    Case(
        "multihead_attention",
        Net(lambda n, x: n.a(x, x, x), a=nn.MultiheadAttention(32, 4, batch_first=True, bias=False)),
        (TOKENS,),
        81_920,
    ),
    Case("encoder_layer", encoder(), (TOKENS,), 147_456),
    Case("shared_two_parents", shared_by_two(), ((1, 8, 8, 8),), 73_728),
    Case("reused_twice", Net(lambda n, x: n.c(n.c(x)), c=conv(8, 8)), ((1, 8, 8, 8),), 73_728),
    Case("dot_forward", Net(lambda n, x: n.c.forward(x), c=conv()), (IMAGE,), 55_296),
    Case("unused_output", Net(lambda n, x: (n.a(x), n.b(x))[0], a=conv(), b=conv()), (IMAGE,), 110_592),
    Case("conv_subclass", ConvSubclass(3, 8, 3, padding=1), (IMAGE,), 55_296),
    Case("lstm", nn.LSTM(16, 32, batch_first=True, bias=False), ((1, 10, 16),), 61_440),
    Case("dict_output", Net(lambda n, x: {"y": n.l(x)}, l=nn.Linear(16, 32)), ((1, 10, 16),), 5_120),
    Case("norm_only", nn.BatchNorm2d(3), (IMAGE,), 0),
    Case("relu_only", nn.ReLU(), (IMAGE,), 0),
]

MORE = [
    Case("conv1d_dilated", nn.Conv1d(3, 8, 3, dilation=2), ((2, 3, 16),), 2 * 12 * 8 * 9),
    Case("conv3d", nn.Conv3d(3, 8, 3), ((1, 3, 5, 5, 5),), 27 * 8 * 81),
    Case("conv_without_batch", nn.Conv2d(3, 8, 3), ((3, 8, 8),), 36 * 8 * 27),
    Case("conv_bfloat16", conv().bfloat16(), (IMAGE,), 55_296),
    Case("reflect_padding", conv(padding_mode="reflect"), (IMAGE,), 55_296),
    Case("circular_padding", conv(padding_mode="circular"), (IMAGE,), 55_296),
    Case(
        "transposed_output_padding",
        nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1),
        ((1, 8, 8, 8),),
        36_864,
    ),
    Case("transposed_3d", nn.ConvTranspose3d(3, 8, 2), ((1, 3, 5, 5, 5),), 125 * 3 * 8 * 8),
    Case("linear_1d", nn.Linear(16, 32), ((16,),), 512),
    Case("lstm_two_ways", nn.LSTM(16, 32, 2, bidirectional=True), ((10, 1, 16),), 2 * 10 * 128 * (48 + 96)),
    Case("lstm_projected", nn.LSTM(16, 32, proj_size=8), ((10, 1, 16),), 10 * (128 * 24 + 32 * 8)),
    Case("gru", nn.GRU(16, 32, batch_first=True), ((1, 10, 16),), 10 * 96 * 48),
    Case("gru_two_ways", nn.GRU(16, 32, 2, bidirectional=True), ((10, 1, 16),), 2 * 10 * 96 * (48 + 96)),
    Case("rnn", nn.RNN(16, 32), ((10, 1, 16),), 10 * 32 * 48),
    Case("lstm_cell", nn.LSTMCell(16, 32), ((2, 16),), 2 * 128 * 48),
    Case("gru_cell", nn.GRUCell(16, 32), ((2, 16),), 2 * 96 * 48),
    Case("bilinear", nn.Bilinear(3, 4, 5), ((2, 3), (2, 4)), 2 * 3 * 4 * 5),
    Case("matrix_by_vector", Net(lambda n, x: n.w @ x, w=weight(16, 32)), ((32,),), 512),
    Case("batch_by_vector", Net(lambda n, x: x @ n.w, w=weight(16)), ((2, 10, 16),), 320),
    Case("dot", Net(lambda n, x: torch.dot(x, x)), ((32,),), 32),
    Case("vecdot", Net(lambda n, x: torch.linalg.vecdot(x, x)), ((2, 16),), 32),
    Case("vecdot_spread", Net(lambda n, x: torch.linalg.vecdot(x, n.w), w=weight(5, 16)), ((1, 16),), 80),
    Case("baddbmm_in_place", Net(lambda n, x: (x @ x.mT).baddbmm_(x, x.mT)), ((2, 3, 4),), 2 * 72),
    Case("addmm_in_place", Net(lambda n, x: (x @ x.T).addmm_(x, x.T)), ((3, 4),), 2 * 36),
    Case("addmv", Net(lambda n, x: torch.addmv(x[:16], n.w, x), w=weight(16, 32)), ((32,),), 512),
    Case("baddbmm", Net(lambda n, x: torch.baddbmm(x @ x.mT, x, x.mT)), ((2, 3, 4),), 2 * 72),
    Case("addbmm", Net(lambda n, x: torch.addbmm(x[0] @ x[0].T, x, x.mT)), ((2, 3, 4),), 36 + 72),
    Case("broadcast", Net(lambda n, x: x[:, None] @ n.w, w=weight(5, 16, 32)), ((2, 10, 16),), 2 * 5 * 10 * 16 * 32),
    Case("inner", Net(lambda n, x: torch.inner(x, n.w), w=weight(5, 16)), ((2, 10, 16),), 1_600),
    Case("tensordot", Net(lambda n, x: torch.tensordot(x, n.w, 1), w=weight(16, 5)), ((2, 10, 16),), 1_600),
    Case(
        "multi_dot",
        Net(lambda n, x: torch.linalg.multi_dot([x, n.v, n.w]), v=weight(16, 5), w=weight(5, 7)),
        ((2, 16),),
        160 + 70,
    ),
    Case("einsum_scores", Net(lambda n, q: torch.einsum("bhtd,bhsd->bhts", q, q)), (HEADS,), 8_192),
    Case("grouped_query", Net(lambda n, q: attend(q, q[:, :2], enable_gqa=True)), (HEADS,), 16_384),
    Case("spread_attention", Net(lambda n, q, k: attend(q, k)), (HEADS, (5, 4, 16, 8)), 81_920),
    Case("causal", Net(lambda n, q: attend(q, is_causal=True)), (HEADS,), 16_384),
    Case("masked", Net(lambda n, q: attend(q, attn_mask=q.new_ones(16, 16))), (HEADS,), 16_384),
    Case("encoder_norm_first", encoder(norm_first=True), (TOKENS,), 147_456),
    Case("two_encoders", nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False), (TOKENS,), 294_912),
    Case("decoder_layer", nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), (TOKENS, TOKENS), 229_376),
    Case("weight_norm", nn.utils.parametrizations.weight_norm(nn.Linear(16, 8)), ((1, 16),), 128),
    Case("spectral_norm", nn.utils.parametrizations.spectral_norm(nn.Linear(16, 8)), ((1, 16),), 128 + 128 + 8),
    Case("custom_function", Net(lambda n, x: Product.apply(x, n.w), w=weight(16, 8)), ((3, 16),), 384),
    Case(
        "checkpointed",
        Net(lambda n, x: torch.utils.checkpoint.checkpoint(n.l, x, use_reentrant=False), l=nn.Linear(16, 8)),
        ((3, 16),),
        384,
    ),
    Case("graph", torch.fx.symbolic_trace(nn.Sequential(conv(), nn.ReLU())), (IMAGE,), 55_296),
    Case("embedding", Net(lambda n, x: n.e((x > 0).long()), e=nn.Embedding(5, 4)), ((2, 7),), 0),
]

CASES = PUBLISHED + MORE

MAKES_TENSORS = Case("arange", Net(lambda n, x: n.l(x) + torch.arange(4), l=nn.Linear(4, 4)), ((2, 4),), 32)
READS_VALUES = Case("item", Net(lambda n, x: n.l(x) if x.sum().item() < 1e9 else x, l=nn.Linear(4, 4)), ((2, 4),), 32)


def lazy():
    """Layers that take their shapes from the first input."""
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))
