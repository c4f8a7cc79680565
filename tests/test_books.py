"""Other tools' books, from our trace: pycls' published figures, fvcore and torch themselves, and the differences."""

import csv
import io
import warnings

import pytest
import timm
import torch
from hard_networks import CASES, PUBLISHED
from torchvision import models

import cnnprof
from cnnprof import UsageError, reporting
from cnnprof.analysis import conventions, costs, counts, opinions
from cnnprof.inputs import Inputs

# The model zoo of pycls: parameters, MACs with bias additions, activations with max pools, at 224.
PYCLS = """\
regnetx_016,9190136,1602850792,7933512
regnetx_120,46106056,12086679016,21366568
regnetx_160,54278536,15940756456,25515496
regnetx_002,2684792,199040872,2164056
regnetx_032,15296552,3176622952,11367432
regnetx_320,107811560,31735930792,36302160
regnetx_040,22118248,3964499816,12201608
regnetx_004,5157512,397678568,3143272
regnetx_064,26209256,6460292264,16369744
regnetx_006,6196040,600891112,3975096
regnetx_080,39572648,7995133416,14059688
regnetx_008,7259656,799700712,5148744
resnet101,44549160,7801406440,16433640
resnet152,60192808,11513627624,22755816
resnet50,25557032,4089185256,11315688
resnext101_32x4d,44177704,7969997800,21426152
resnext50_32x4d,25028904,4230480872,14602216
"""


ROWS = [
    pytest.param(name, list(map(int, published)), marks=[pytest.mark.slow] if int(published[0]) > 20e6 else [], id=name)
    for name, *published in csv.reader(io.StringIO(PYCLS))
]


@pytest.mark.parametrize(("name", "published"), ROWS)
def test_pycls_to_the_last_integer(name, published):
    analysis = cnnprof.analyze(f"timm:{name}", 224)
    book = analysis.conventions["pycls"]
    assert [analysis.params, book["flops"], book["activations"]] == published


def fvcore_says(module, inputs):
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

        found = [tool(module.eval(), inputs) for tool in (FlopCountAnalysis, ActivationCountAnalysis)]
        for tool in found:
            tool.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return [int(tool.total()) for tool in found]


def agrees_with_fvcore(module, size):
    book = cnnprof.analyze(module, size).conventions["fvcore"]
    assert [book["flops"], book["activations"]] == fvcore_says(module, torch.randn(1, *size))


QUICK = [("resnet18", 64), ("mobilenet_v3_small", 64), ("shufflenet_v2_x0_5", 64)]
SLOW = [
    ("efficientnet_b0", 64), ("swin_t", 64), ("convnext_tiny", 64), ("densenet121", 224), ("regnet_y_400mf", 224),
    ("mnasnet1_0", 224), ("swin_v2_t", 224), ("maxvit_t", 224), ("squeezenet1_1", 224), ("alexnet", 224),
    ("vgg11_bn", 224), ("vit_b_16", 224), ("vit_b_32", 224), ("resnet50", 224),
]  # fmt: skip


@pytest.mark.parametrize(("name", "side"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_fvcore_agrees_on_torchvision(name, side):
    agrees_with_fvcore(models.get_model(name, weights=None), (3, side, side))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet50d", "seresnet50", "efficientnetv2_s", "deit_tiny_patch16_224", "convnextv2_atto", "mixer_s32_224",
        "nfnet_l0", "coat_tiny", "levit_128", "botnet26t_256", "halonet26t", "mobilevit_s", "gcvit_xxtiny",
        "poolformer_s12", "tresnet_m", "dla34", "hrnet_w18_small", "xcit_nano_12_p16_224", "cait_xxs24_224",
        "edgenext_xx_small", "volo_d1_224", "twins_svt_small", "crossvit_tiny_240", "resnest14d", "lambda_resnet26t",
    ],
)  # fmt: skip
def test_fvcore_agrees_on_timm(name):
    module = timm.create_model(name)
    agrees_with_fvcore(module, module.pretrained_cfg["input_size"])


# GMACs and activations in millions on the model cards of timm's networks, made with fvcore.
CARDS = {
    "resnet50": (4.1, 11.1), "efficientnet_b0": (0.4, 6.7), "convnext_tiny": (4.5, 13.4), "regnety_032": (3.2, 11.3),
    "swin_tiny_patch4_window7_224": (4.5, 17.1), "vit_base_patch16_224": (16.9, 16.5),
    "vit_small_patch16_224": (4.3, 8.2), "mobilenetv3_large_100": (0.2, 4.4),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_timms_published_figures(name):
    book = cnnprof.analyze(f"timm:{name}").conventions["fvcore"]
    assert (round(book["flops"] / 1e9, 1), round(book["activations"] / 1e6, 1)) == CARDS[name]


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.name)
def test_nothing_is_unexplained_on_the_hard_cases(case):
    analysis = counts.analyze(case.module, Inputs(case.inputs()), model=case.name, tools=opinions.TOOLS)
    for opinion in analysis.opinions:
        assert opinion.failure is None
        assert opinion.unexplained == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "vit_b_16"])
def test_nothing_is_unexplained_on_networks(name):
    analysis = cnnprof.analyze(name, tools=("fvcore", "torch"))
    fvcore, torchs = analysis.opinions
    assert (fvcore.unexplained, torchs.unexplained) == (0, 0)
    assert torchs.theirs == 2 * analysis.macs
    assert fvcore.theirs == analysis.conventions["fvcore"]["flops"] != analysis.macs


def test_resnet50_is_told_as_fvcore_has_it():
    analysis = cnnprof.analyze("resnet50", tools=("fvcore",))
    (opinion,) = analysis.opinions
    assert opinion.unexplained == 0
    assert "fvcore says 4.112 G: the same" in str(cnnprof.analyze("resnet50", batch_size=2, tools=("fvcore",)))
    # 2 an element of every batch norm's input, and an addition an element of the last pool's 2048x7x7
    assert opinion.by_cause == {"batch norm": 22_227_968, "pooling": 2048 * 49}
    assert "fvcore says 4.112 G: the same + batch norm 0.022 + pooling 0.0001" in reporting.as_markdown(analysis)


MISSED = {"matrix_by_vector", "bilinear", "dot", "addmv", "addbmm", "batch_by_vector", "vecdot", "addmm_in_place"}


@pytest.mark.parametrize("name", sorted(MISSED))
def test_what_torch_misses_is_named(name):
    (case,) = [case for case in CASES if case.name == name]
    (opinion,) = counts.analyze(case.module, Inputs(case.inputs()), model="x", tools=["torch"]).opinions
    assert opinion.unexplained == 0
    assert opinion.theirs < opinion.ours
    assert all(cause.endswith("it does not see") for cause in opinion.by_cause)


def test_the_products_that_torch_counts_are_those_of_its_registry():
    from torch.utils.flop_counter import flop_registry

    known = {str(packet).replace(".", "::") for packet in flop_registry}
    composites = {"aten::scaled_dot_product_attention", "aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"}
    on_the_cpu = {
        "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_native_multi_head_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward", "aten::_transformer_encoder_layer_fwd",
        "aten::mkldnn_rnn_layer", "aten::mkldnn_rnn_layer_backward", "aten::_addmm_activation",
        "aten::_scaled_dot_product_fused_attention_overrideable",
    }  # fmt: skip
    of_ours = {"cnnprof::flex_attention", "cnnprof::flex_attention_backward"}  # torch knows flex_attention
    assert set(conventions.TORCH_MACS) == (set(costs.MACS) & known) | composites | on_the_cpu | of_ours


def test_a_tool_that_fails_says_why():
    from torch import nn

    class ByName(nn.Module):
        def forward(self, x, *, scale):
            return x * scale

    analysis = cnnprof.analyze(ByName(), inputs=(torch.ones(2), {"scale": torch.ones(2)}), tools=["fvcore"])
    (opinion,) = analysis.opinions
    assert (opinion.theirs, opinion.unexplained) == (None, None)
    assert opinion.failure == "it takes no keyword arguments"
    assert "fvcore cannot count it: it takes no keyword arguments." in str(analysis)


def test_an_opinion_leaves_the_module_as_it_is():
    module = models.resnet18(weights=None).train()
    before = [tensor.clone() for tensor in module.state_dict().values()]
    random = torch.get_rng_state()
    cnnprof.analyze(module, (3, 64, 64), tools=("fvcore", "torch"))
    assert module.training
    assert all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_unknown_tools_are_refused():
    with pytest.raises(UsageError, match="fvcore or torch of a forward pass"):
        cnnprof.analyze("cnn", tools=["thop"])
    with pytest.raises(UsageError, match="fvcore or torch of a forward pass"):
        cnnprof.analyze("cnn", tools=["fvcore"], mode="training")
