"""Forward and backward: closed forms, torch's own counter, weight and input gradients told apart, on every rung."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hard_networks import Net, Product, attend, conv, weight
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import cnnprof
from cnnprof import UsageError
from cnnprof.analysis import counts
from cnnprof.analysis.trace import RUNGS
from cnnprof.inputs import Inputs


def analyzed(module, *shapes, rung="meta"):
    inputs = Inputs(tuple(torch.rand(shape) for shape in shapes))
    return counts.analyze(module, inputs, model="x", mode="training", rungs=[rung])


def split(analysis):
    totals = analysis.totals
    backward = totals.weight_gradient_macs, totals.input_gradient_macs
    return totals.macs - sum(backward), *backward


# Forward, weight gradients, input gradients. A layer's input needs no gradient where it is the network's own.
CASES = {
    # 36 outputs x 27 x 4, then 16 x 36 x 5
    "two_convs": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)), (1, 3, 8, 8), (6768, 6768, 2880)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 3, groups=4)), (1, 4, 6, 6), (1728, 1728, 1152)),
    "transposed": (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ConvTranspose2d(3, 4, 2)), (1, 3, 4, 4), (912, 912, 768)),
    "linears": (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5)), (2, 4), (144, 144, 80)),
    "linear_3d": (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5)), (2, 3, 4), (432, 432, 240)),
    # every step: 4·5 x (4 + 5); nothing flows back into the first state or the input
    "lstm": (nn.LSTM(4, 5), (3, 2, 4), (1080, 1080, 400)),
    "gru": (nn.GRU(4, 5), (3, 2, 4), (810, 810, 300)),
    # scores and values: two products forward, two gradients each backward, none of a weight
    "attention": (
        Net(lambda n, x: (lambda q: (q @ q.mT).softmax(-1) @ q)(n.l(x)), l=nn.Linear(4, 4)),
        (1, 3, 4),
        (48 + 72, 48, 144),
    ),
    # 8·16 of the layer, then 2 heads of 8x4: two products forward, four backward
    "fused_attention": (
        Net(lambda n, x: attend(n.l(x).unflatten(-1, (2, 2)).transpose(1, 2)), l=nn.Linear(4, 4)),
        (1, 8, 4),
        (128 + 512, 128, 1024),
    ),
    # a table of constants and learned queries through a layer: all its gradients are of weights
    "of_a_buffer": (
        Net(lambda n, x: x + n.l(n.table).sum(0), l=nn.Linear(2, 4), table=nn.Buffer(torch.ones(3, 2))),
        (1, 4),
        (24, 24, 0),
    ),
    "of_learned_queries": (
        Net(lambda n, x: n.l(n.queries) + n.l(x), l=nn.Linear(4, 4), queries=weight(3, 4)),
        (1, 4),
        (48 + 16, 2 * 48 + 16, 0),
    ),
    "custom_function": (
        nn.Sequential(nn.Linear(4, 4), Net(lambda n, x: Product.apply(x, n.w), w=weight(4, 8))),
        (3, 4),
        (144, 144, 96),
    ),
    "noisy_weight": (
        Net(lambda n, x: F.linear(n.l(x), n.w + torch.zeros_like(n.w)), l=nn.Linear(4, 4), w=weight(5, 4)),
        (2, 4),
        (72, 72, 40),
    ),
    "weight_norm": (nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))), (3, 4),
                    (108, 108, 60)),
}  # fmt: skip


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("name", CASES)
def test_forward_weight_and_input_gradients(name, rung):
    module, shape, expected = CASES[name]
    analysis = analyzed(module, shape, rung=rung)
    assert split(analysis) == expected
    assert analysis.macs == sum(expected)
    assert analysis.uncounted == ()
    assert (analysis.mode, analysis.rung) == ("training", rung)


def test_rows_say_what_each_layer_takes():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    rows = {layer.path: layer for layer in analyzed(module, (1, 3, 8, 8)).layers}
    assert (rows["0"].macs, rows["0"].weight_gradient_macs, rows["0"].input_gradient_macs) == (2 * 3888, 3888, 0)
    assert (rows["2"].macs, rows["2"].weight_gradient_macs, rows["2"].input_gradient_macs) == (3 * 2880, 2880, 2880)
    assert rows[""].macs == 0


def test_frozen_layers_take_no_weight_gradient():
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    module[0].requires_grad_(False)
    assert split(analyzed(module, (2, 4))) == (144, 80, 0)
    module[1].requires_grad_(False)
    module[0].requires_grad_(True)
    assert split(analyzed(module, (2, 4))) == (144, 64, 80)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_are_counted_as_they_are_recomputed(reentrant):
    block = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    module = Net(
        lambda n, x: checkpoint(n.block, n.first(x), use_reentrant=reentrant), first=nn.Linear(4, 4), block=block
    )
    rows = {layer.path: layer for layer in analyzed(module, (1, 4)).layers}
    assert rows["first"].macs == 2 * 16
    assert rows["block.0"].calls == 2
    # forward, recomputed, and two gradients; what only the block's output needs may be left out
    assert rows["block.0"].macs == 4 * 32
    assert rows["block.1"].macs == (4 if reentrant else 3) * 32
    assert [rows[f"block.{i}"].weight_gradient_macs for i in (0, 1)] == [32, 32]


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "vit_b_32", "googlenet"))]
)
def test_torchs_counter_agrees(name):
    # not on depthwise convolutions: its rule for the weight's gradient leaves the groups out
    with warnings.catch_warnings(action="ignore"):
        module = models.get_model(name, weights=None)
    image = torch.empty(2, 3, 224, 224, device="meta")
    with FlopCounterMode(display=False) as counter:
        outputs = module.to("meta").train()(image)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    analysis = cnnprof.analyze(module, (3, 224, 224), 2, mode="training")
    assert 2 * analysis.macs == counter.get_total_flops()


def test_gradients_of_the_callers_stay_as_they_are():
    module = nn.Sequential(conv(), nn.BatchNorm2d(8))
    for rung in RUNGS:
        analyzed(module, (2, 3, 8, 8), rung=rung)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert int(module[1].num_batches_tracked) == 0


def test_the_books_of_a_backward_pass_are_torchs_alone():
    conventions = analyzed(conv(), (1, 3, 8, 8)).conventions
    assert conventions["fvcore"] == conventions["pycls"] == {"flops": None, "activations": None}
    assert conventions["torch"]["flops"] == 2 * 2 * 8 * 27 * 64


def test_without_anything_to_train_it_says_so():
    with pytest.raises(UsageError, match=r"^ReLU: no output has a gradient to any parameter"):
        cnnprof.analyze(nn.ReLU(), (3,), mode="training")


def test_it_reads_as_three_parts():
    text = str(cnnprof.analyze("bottleneck", mode="training"))
    assert "forward and backward · nothing was run" in text
    assert "forward 218.4 M, weight gradients 218.4 M, input gradients" in " ".join(text.split())
