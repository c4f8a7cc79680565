"""The drawing: how tensors flow, against graphs drawn by hand, and what a picture and a line of text show of it."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
import torch
from hard_networks import Net, conv
from torch import nn
from torch.nn import functional as F
from torchvision.models.densenet import _DenseBlock
from torchvision.models.efficientnet import MBConv, MBConvConfig
from torchvision.models.inception import InceptionA
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

import cnnprof
from cnnprof import ResidualBlock, reporting
from cnnprof.records import Node, Structure
from cnnprof.reporting import drawing, html
from cnnprof.reporting.layout import layout


def graph(model, size=None, **options):
    """Each node's name and what feeds it."""
    structure = cnnprof.analyze(model, size, **options).structure
    return [(drawing.label(node), *node.before) for node in structure.nodes]


def downsampled():
    return Bottleneck(64, 32, 2, nn.Sequential(nn.Conv2d(64, 128, 1, 2, bias=False), nn.BatchNorm2d(128)))


def squeezing():
    return MBConv(MBConvConfig(4, 3, 1, 32, 32, 1, 1, 1), 0.0, nn.BatchNorm2d)


BLOCKS = {
    "regular": ("regular", None, [("256",), ("3x3 256", 0), ("3x3 256", 1), ("(+)", 2, 0), ("ReLU", 3)]),
    "bottleneck": (
        "bottleneck", None,
        [("256",), ("1x1 64", 0), ("3x3 64", 1), ("1x1 256", 2), ("(+)", 3, 0), ("ReLU", 4)],
    ),
    "without a skip": (
        "bottleneck(skip=False)", None, [("256",), ("1x1 64", 0), ("3x3 64", 1), ("1x1 256", 2)],
    ),
    "projection": (
        ResidualBlock(16, [32, 32], [3, 3]), (16, 8, 8),
        [("16",), ("3x3 32", 0), ("3x3 32", 1), ("1x1 32", 0), ("(+)", 2, 3), ("ReLU", 4)],
    ),
    "basic": (BasicBlock(8, 8), (8, 4, 4), [("8",), ("3x3 8", 0), ("3x3 8", 1), ("(+)", 2, 0), ("ReLU", 3)]),
    "downsampled": (
        downsampled(), (64, 8, 8),
        [("64",), ("1x1 32", 0), ("3x3 32", 1), ("1x1 128", 2), ("1x1 128", 0), ("(+)", 3, 4), ("ReLU", 5)],
    ),
    "inverted": (
        InvertedResidual(32, 32, 1, 6), (32, 8, 8),
        [("32",), ("1x1 192", 0), ("3x3 192 dw", 1), ("1x1 32", 2), ("(+)", 0, 3)],
    ),
    "squeeze and excite": (
        squeezing(), (32, 8, 8),
        [("32",), ("1x1 128", 0), ("3x3 128 dw", 1), ("1x1 8", 2), ("1x1 128", 3), ("(×)", 4, 2), ("1x1 32", 5),
         ("(+)", 6, 0)],
    ),
    "dense": (
        _DenseBlock(2, 32, 4, 16, 0.0), (32, 8, 8),
        [("32",), ("1x1 64", 0), ("3x3 16", 1), ("(cat)", 0, 2), ("1x1 64", 3), ("3x3 16", 4), ("(cat)", 0, 2, 5)],
    ),
    "inception": (
        InceptionA(192, 32), (192, 9, 9),
        [("192",), ("1x1 64", 0), ("1x1 48", 0), ("5x5 64", 2), ("1x1 64", 0), ("3x3 96", 4), ("3x3 96", 5),
         ("1x1 32", 0), ("(cat)", 1, 3, 6, 7)],
    ),
    "transformer": (
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), (10, 64),
        [("10x64",), ("linear 192", 0), ("attention", 1), ("linear 64", 2), ("(+)", 0, 3), ("linear 128", 4),
         ("linear 64", 5), ("(+)", 4, 6)],
    ),
    "linear": (nn.Linear(16, 4), (16,), [("16",), ("linear 4", 0)]),
    "groups": (nn.Conv2d(32, 64, 3, groups=4), (32, 8, 8), [("32",), ("3x3 64 g4", 0)]),
    "upwards": (nn.ConvTranspose2d(8, 4, 2, 2), (8, 4, 4), [("8",), ("2x2 4 up", 0)]),
    "activation before the next skip": (
        Net(lambda net, x: (y := x + net.a(x)) + net.b(F.relu(y)), a=conv(3, 3), b=conv(3, 3)), (3, 8, 8),
        [("3",), ("3x3 3", 0), ("(+)", 0, 1), ("ReLU", 2), ("3x3 3", 3), ("(+)", 2, 4)],
    ),
    "written in place": (
        Net(lambda net, x: net.a(x).add_(x).relu_(), a=conv(3, 3)), (3, 8, 8),
        [("3",), ("3x3 3", 0), ("(+)", 1, 0), ("ReLU", 2)],
    ),
    "a gate of its own": (Net(lambda net, x: F.silu(y := net.a(x)) * y, a=conv(3, 3)), (3, 8, 8),
                          [("3",), ("3x3 3", 0)]),
}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_drawn_as_by_hand(block):
    model, size, expected = BLOCKS[block]
    assert graph(model, size) == expected


def test_two_inputs_flow_together():
    net = Net(lambda net, x, y: net.a(x) + net.b(y), a=conv(3, 4), b=conv(5, 4))
    found = graph(net, inputs=(torch.empty(1, 3, 8, 8), torch.empty(1, 5, 8, 8)))
    assert found == [("3",), ("5",), ("3x3 4", 0), ("3x3 4", 1), ("(+)", 2, 3)]


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc1, self.enc2, self.mid = self.twice(3, 8), self.twice(8, 16), self.twice(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.dec2, self.dec1 = self.twice(32, 16), self.twice(16, 8)
        self.head = nn.Sequential(conv(8, 8), conv(8, 2))

    @staticmethod
    def twice(before, after):
        return nn.Sequential(conv(before, after), nn.BatchNorm2d(after), nn.ReLU(), conv(after, after), nn.ReLU())

    def forward(self, x):
        first = self.enc1(x)
        second = self.enc2(F.max_pool2d(first, 2))
        y = self.mid(F.max_pool2d(second, 2))
        y = self.dec2(torch.cat([self.up2(y), second], 1))
        return self.head(self.dec1(torch.cat([self.up1(y), first], 1)))


STAGES = {
    "torchvision:resnet50": [
        ("3",), ("Conv2d 7x7/2", 0), ("3 x Bottleneck", 1), ("4 x Bottleneck", 2), ("6 x Bottleneck", 3),
        ("3 x Bottleneck", 4), ("Linear", 5),
    ],
    "resnet18": [
        ("3",), ("Conv2d 7x7/2", 0), ("2 x BasicBlock", 1), ("2 x BasicBlock", 2), ("2 x BasicBlock", 3),
        ("2 x BasicBlock", 4), ("Linear", 5),
    ],
    "vit_b_16": [("3",), ("Conv2d 16x16/16", 0), ("12 x EncoderBlock", 1), ("Linear", 2)],
    "vgg16": [
        ("3",), ("2 x Conv2d 3x3", 0), ("2 x Conv2d 3x3", 1), ("3 x Conv2d 3x3", 2), ("3 x Conv2d 3x3", 3),
        ("3 x Conv2d 3x3", 4), ("2 x Linear", 5), ("Linear", 6),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_networks_are_drawn_by_their_stages(name):
    assert graph(name) == STAGES[name]
    analysis = cnnprof.analyze(name)
    assert analysis.structure.shows == "stages"
    assert sum(node.macs for node in analysis.structure.nodes) == analysis.macs


def test_stages_have_the_channels_of_their_output():
    def channels(name):
        return [node.channels for node in cnnprof.analyze(name).structure.nodes]

    assert channels("torchvision:resnet50") == [3, 64, 256, 512, 1024, 2048, 1000]
    assert channels("torchvision:convnext_tiny") == [3, 96, 96, 192, 192, 384, 384, 768, 768, 1000]
    assert channels("swin_t") == [3, 96, 96, 192, 192, 384, 384, 768, 768, 1000]  # channels last


def test_skips_between_stages_are_drawn():
    assert graph(UNet(), (3, 32, 32)) == [
        ("3",), ("enc1", 0), ("enc2", 1), ("mid", 2), ("ConvTranspose2d 2x2/2", 3), ("(cat)", 4, 2), ("dec2", 5),
        ("ConvTranspose2d 2x2/2", 6), ("(cat)", 7, 1), ("dec1", 8), ("2 x Conv2d", 9),
    ]  # fmt: skip


class GoesBack(nn.Module):
    """Leaves both parts and comes back to them, so that no order of them is that of the data."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.ModuleList(conv(*ends) for _ in range(7)) for ends in ((3, 4), (4, 3)))

    def forward(self, x):
        for one, other in zip(self.a, self.b, strict=True):
            x = other(one(x))
        return x


def test_a_tangle_of_stages_is_a_chain_and_says_so():
    analysis = cnnprof.analyze(GoesBack(), (3, 8, 8))
    assert analysis.structure.shows == "chain"
    assert all(node.before == ((place - 1,) if place else ()) for place, node in enumerate(analysis.structure.nodes))
    assert sum(node.macs for node in analysis.structure.nodes) == analysis.macs
    assert "Skips are not drawn" in reporting.as_html(analysis)


def test_what_has_no_macs_or_ran_with_values_is_not_drawn():
    assert cnnprof.analyze(nn.ReLU(), (3, 8, 8)).structure is None
    assert cnnprof.analyze("regular", mode="training").structure is None
    reads = Net(lambda net, x: net.a(x) if x.sum().item() < 1e9 else x, a=conv(3, 3))
    assert cnnprof.analyze(reads, (3, 8, 8)).structure is None
    assert '<svg class="drawing"' not in reporting.as_html(cnnprof.analyze(reads, (3, 8, 8)))


# Text ----------------------------------------------------------------------------------------------------------------

TEXTS = {
    "regular": """
256 ─┬─[3x3 256]─[3x3 256]─(+)─ReLU
     └──────── skip ────────┘
""",
    "bottleneck": """
256 ─┬─[1x1 64]─[3x3 64]─[1x1 256]─(+)─ReLU
     └──────────── skip ────────────┘
""",
    "downsampled": """
64 ─┬─[1x1 32]──[3x3 32]─[1x1 128]─(+)─ReLU
    └─[1x1 128]─────────────────────┘
""",
    "squeeze and excite": """
32 ─┬─[1x1 128]─[3x3 128 dw]─┬─[1x1 8]─[1x1 128]─(×)─[1x1 32]─(+)
    │                        └────────────────────┘            │
    └────────────────────────── skip ──────────────────────────┘
""",
    "inception": """
192 ─┬─[1x1 64]─[3x3 96]─[3x3 96]─(cat)
     ├─[1x1 64]─────────────────────┤
     ├─[1x1 48]─[5x5 64]────────────┤
     └─[1x1 32]─────────────────────┘
""",
    "linear": "16 ─[linear 4]",
    "dense": "",  # its lines would cross
}


@pytest.mark.parametrize("block", TEXTS)
def test_blocks_are_drawn_in_lines(block):
    model, size, _ = BLOCKS[block]
    assert drawing.text(cnnprof.analyze(model, size).structure) == TEXTS[block].strip("\n")


def test_networks_have_no_lines():
    assert drawing.text(cnnprof.analyze("resnet18").structure) == ""


def test_lines_stand_in_the_terminal_and_in_markdown(typed):
    _, out, _ = typed("analyze", "regular", "--show-work")
    assert TEXTS["regular"].strip("\n") in "\n".join(line.rstrip() for line in out.splitlines())
    assert f"```{TEXTS['regular']}```" in reporting.as_markdown(cnnprof.analyze("regular"))


# Pictures ------------------------------------------------------------------------------------------------------------


def drawn(*analyses, name="a name"):
    scale = drawing.Scale.over(analyses)
    return [drawing.picture(analysis, scale, name, 1) for analysis in analyses]


def test_height_is_channels_and_ink_is_macs_on_one_scale():
    regular, bottleneck = drawn(cnnprof.analyze("regular"), cnnprof.analyze("bottleneck"))
    (wide, _), (down, inner, up) = (
        [mark for mark in picture.marks if mark.node.kind == "box"] for picture in (regular, bottleneck)
    )
    assert wide.height == up.height == 4 * down.height == 4 * inner.height
    assert wide.ink == pytest.approx(1)
    pale = drawing.PALEST
    assert (down.ink - pale) / (1 - pale) == pytest.approx(51_380_224 / 1_849_688_064)


def test_a_box_tells_the_working_when_pointed_at():
    (picture,) = drawn(cnnprof.analyze("regular"))
    assert picture.marks[1].hover == (
        "main_path.0\n3·3·256·256 + 256 = 590,080 parameters\n3·3·256·256·56·56 = 1,849,688,064 MACs"
    )
    (picture,) = drawn(cnnprof.analyze("torchvision:resnet50"))
    assert picture.marks[2].hover == "layer1\n215,808 parameters\n667,942,912 MACs"
    (picture,) = drawn(cnnprof.analyze(BLOCKS["transformer"][0], (10, 64)))
    assert picture.marks[1].hover == "self_attn\n122,880 MACs"  # one of several operators there


@pytest.mark.parametrize("block", BLOCKS)
def test_nodes_stand_apart_and_lines_reach_them(block):
    model, size, _ = BLOCKS[block]
    analysis = cnnprof.analyze(model, size)
    plan = layout(analysis.structure.nodes)
    places = [(column, plan.lanes[node]) for node, column in enumerate(plan.columns)]
    assert len(set(places)) == len(places)
    steps = set()
    for path, _ in plan.paths:
        known = [node for node in (path.start, *path.nodes, path.end) if node is not None]
        steps |= set(pairwise(known))
    assert steps == {(s, place) for place, node in enumerate(analysis.structure.nodes) for s in node.before}


def pictures_of(page):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg class=\"drawing\".*?</svg>", page, re.DOTALL)]


def test_a_users_names_are_escaped_in_a_picture_that_is_xml():
    class Nasty(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<b>&\"'\x00", nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 3)))
            self.rest = nn.ModuleList(conv(3, 3) for _ in range(12))

        def forward(self, x):
            x = x + self._modules["<b>&\"'\x00"](x)
            for part in self.rest:
                x = part(x)
            return x

    analysis = dataclasses.replace(cnnprof.analyze(Nasty(), (3, 8, 8)), model="<i>&")
    page = html.render(analysis)
    (picture,) = pictures_of(page)
    assert "<b>&" not in page
    assert any("<b>&\"' " in text for text in picture.itertext())
    assert picture.attrib["aria-label"].startswith("The structure of <i>&: 3,")


def test_a_page_of_two_draws_both_once(monkeypatch):
    from test_reporting import comparison

    run = comparison("slim")
    names = ("regular", "bottleneck")
    profiles = tuple(
        dataclasses.replace(p, analysis=cnnprof.analyze(name)) for p, name in zip(run.profiles, names, strict=True)
    )
    page = html.render(dataclasses.replace(run, profiles=profiles))
    assert len(pictures_of(page)) == 2
    same = tuple(dataclasses.replace(p, analysis=profiles[0].analysis) for p in profiles)
    assert len(pictures_of(html.render(dataclasses.replace(run, profiles=same)))) == 1


def test_a_structure_out_of_order_is_refused():
    with pytest.raises(ValueError, match="not in their order"):
        Structure((Node("box", "a", (1,)), Node("box", "b", ())), "operators")
    with pytest.raises(ValueError, match="are none"):
        Structure((), "operators")
