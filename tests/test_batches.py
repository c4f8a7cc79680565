"""Whose batch is known: figures of an image where it is, of a call where inputs are brought and nobody says."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import cnnprof
from cnnprof import store
from cnnprof.comparison import gate, limits
from cnnprof.comparison.doubts import doubts
from cnnprof.comparison.ratios import contrast
from cnnprof.records import Candidate, Settings
from cnnprof.reporting import as_html, as_markdown, tables


class Detector(nn.Module):
    """A list of images in, a number for each out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images):
        return [self.conv(image[None]).mean() for image in images]


class MaskFirst(nn.Module):
    """A table stands before the batch of vectors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, mask, x):
        return self.linear(x) * mask


class Graph(nn.Module):
    """Nodes and edges of one graph, without a batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, nodes, edges):
        return self.linear(nodes)[edges[0]] + self.linear(nodes)[edges[1]]


IMAGE = torch.rand(3, 20, 20)
CONV = 8 * 18 * 18 * 3 * 3 * 3
LSTM = 4 * (16 * 32 + 32 * 32)
"""A step's products: four gates, of the input and of the state."""
CALLS = {
    "a list of one image": (Detector, ([IMAGE],), CONV),
    "a list of two": (Detector, ([IMAGE, IMAGE],), 2 * CONV),
    "an image without a batch": (lambda: nn.Conv2d(3, 8, 3), IMAGE, CONV),
    "a sequence first": (lambda: nn.LSTM(16, 32), torch.rand(50, 4, 16), 50 * 4 * LSTM),
    "a mask first": (MaskFirst, (torch.ones(8), torch.rand(4, 16)), 4 * 16 * 8),
    "a graph": (Graph, (torch.rand(30, 16), torch.randint(0, 30, (2, 90))), 2 * 30 * 16 * 8),
    "one vector": (lambda: nn.Linear(16, 8), torch.rand(16), 16 * 8),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_inputs_bring_is_counted_as_a_call(call):
    build, inputs, macs = call
    analysis = cnnprof.analyze(build(), inputs=inputs)
    assert (analysis.batch_size, analysis.macs) == (None, macs)
    assert store.to_document(analysis)["batch_size"] is None
    shown = str(analysis)
    assert "FLOPs a call" in shown
    for form in (shown, as_markdown(analysis), as_html(analysis)):
        assert "image" not in form.replace("how many images its inputs hold", "").replace("N: images", "")
        assert "batch 3" not in form


def test_a_detectors_call_is_that_of_its_image():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    shown = str(cnnprof.analyze(net, inputs=([torch.rand(3, 800, 800)],)))
    said = next(line for line in shown.splitlines() if "FLOPs" in line)
    # torchvision's own count of it, with other proposals: 134.38 GMACs, 268.76 GFLOPs
    giga = float(said.split(" GFLOPs a call")[0].rpartition(" ")[2])
    assert giga == pytest.approx(268.76, rel=0.015)


def test_a_batch_that_is_named_divides():
    named = cnnprof.analyze(nn.LSTM(16, 32), inputs=torch.rand(50, 4, 16), batch_size=4)
    assert (named.batch_size, named.macs) == (4, 200 * LSTM)
    assert "614.4 kFLOPs an image" in str(named)  # 2 x 50 steps x 6,144 products


def test_a_model_of_a_file_names_the_batch_of_what_it_brings(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n    return nn.LSTM(16, 32), torch.rand(50, 4, 16)\n"
    )
    path = f"{tmp_path}/net.py:net"
    assert cnnprof.analyze(path, batch_size=7).batch_size is None
    assert cnnprof.analyze(f"{path}@b=4").batch_size == 4


def measured(batch_size=None):
    return cnnprof.profile(Detector(), inputs=([IMAGE, IMAGE],), batch_size=batch_size, time_s=0.1, threads=1)


def test_a_profile_of_a_call_names_no_batch():
    run = measured()
    document = json.loads(store.to_json(run))
    (profile,) = document["profiles"]
    assert document["settings"]["batch_size"] is profile["batch_size"] is profile["analysis"]["batch_size"] is None
    for form in (str(run), as_markdown(run), as_html(run)):
        assert "MACs a call" in form
        assert "per image" not in form
        assert "batch 2" not in form
    assert store.from_document(document) == run


def test_a_profile_of_a_named_batch_is_of_an_image():
    run = measured(batch_size=2)
    assert run.analysis.macs / run.analysis.images == CONV
    assert "its own inputs · batch 2" in str(run)
    assert "MACs per image" in str(run)


def test_memory_of_a_call_names_no_batch():
    found = cnnprof.predict_memory(Detector(), inputs=([IMAGE],), mode="inference", measure=True)
    assert found.batch_size is found.measured.batch_size is found.settings.batch_size is None
    assert found.error == pytest.approx(0, abs=0.003)
    assert "batch" not in str(found)
    named = cnnprof.predict_memory(Detector(), inputs=([IMAGE],), batch_size=1, mode="inference", measure=True)
    assert "batch 1" in str(named)


# Side by side --------------------------------------------------------------------------------------------------------


def of_conv(batch, call=None, own=True):
    """A convolution counted on so many images, which nobody named where the batch is None."""
    inputs = torch.rand(batch or 2, 3, 20, 20)
    analysis = cnnprof.analyze(nn.Conv2d(3, 8, 3), inputs=inputs, batch_size=batch)
    return Candidate("conv", replace(analysis, input_size=None if own else (3, 20, 20)), batch_size=call or batch)


def test_a_known_batch_beside_an_unknown_one_is_compared_as_a_call():
    of_images, of_call = of_conv(1, call=8, own=False), of_conv(None)
    assert contrast(of_images, of_call).macs.ratio == 2 / 8  # two images that nobody told of, against eight
    assert contrast(of_call, of_images).macs.ratio == 8 / 2
    assert contrast(of_images, of_conv(2)).macs.ratio == 1


def test_a_batch_that_is_not_known_is_doubted_beside_others():
    run = cnnprof.compare(
        {"linear": nn.Linear(16, 8), "files": nn.Linear(16, 8)}, (16,), time_s=0.1, modes=("inference",), threads=1
    )
    first, second = run.profiles
    own = replace(second, analysis=replace(second.analysis, input_size=None, batch_size=None), batch_size=None)
    (doubt,) = (
        each for each in doubts(run.machine, run.settings, [first, own], [], False) if each.about == "batch size"
    )
    assert "how many images the inputs of files hold is not known" in doubt.message
    shown = str(replace(run, profiles=(first, own)))
    assert "MACs a call" in shown
    assert "per image" not in shown


def test_a_gate_holds_calls_to_calls():
    """A baseline of an earlier version has the first length as its batch."""
    before, now = of_conv(2), of_conv(None)
    (result,) = gate.judged([limits.parsed("macs:0%")], [before], [now], gate.Terms())
    assert (result.verdict, result.baseline, result.candidate) == ("passed", 2 * CONV, 2 * CONV)
    terms = gate.Terms(settings=(Settings(batch_size=2), Settings(batch_size=None)))
    assert terms.otherwise((before, now), ("batch_size",)) == ""
    assert terms.otherwise((of_conv(2), of_conv(1)), ("batch_size",)) != ""


def test_a_profile_that_nobody_named_a_batch_of_is_told_in_calls():
    run = measured()
    (said,) = tables.headline(run)
    assert "MACs a call" in said
    assert "runs a call in" in said
