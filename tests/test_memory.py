"""Memory that is predicted on shapes, against what a real step takes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cnnprof import UsageError, analyze, machine, predict_memory, reporting, steps, store, units
from cnnprof.analysis import memory as following
from cnnprof.inputs import Inputs
from cnnprof.measurement import kernels, memory, operators
from cnnprof.models import catalog
from cnnprof.records import CATEGORIES, Kernel, Laid, Settings


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Try kernels in a cache of these tests alone."""
    place = tmp_path_factory.getbasetemp() / "kernels.json"
    monkeypatch.setattr(kernels, "_place", lambda: place)


def measured(build, inputs: Inputs, mode: str, settings: Settings) -> int:
    step = steps.prepare(build(), inputs, mode, settings)
    before = memory.standing_bytes(step.standing())
    seen = operators.profiled(step, time_s=None)
    return memory.peak(before + seen.kept_bytes, seen.allocations).peak_bytes


def both(model, size, batch, mode="training", optimizer="sgd", inputs=None, **options) -> tuple[int, int]:
    """Return what is predicted, and what is measured."""
    found = predict_memory(model, size, batch, mode=mode, optimizer=optimizer, inputs=inputs, **options)
    settings = Settings(batch_size=batch, optimizer=optimizer, **options)
    build = catalog.resolve(model).build if isinstance(model, str) else lambda: catalog.copied(model)
    fed = Inputs.of(inputs) if inputs is not None else Inputs.random(found.input_size, batch, 0)
    return found.predicted.peak_bytes, measured(build, fed, mode, settings)


# Networks named for the trouble they make ----------------------------------------------------------------------------


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(256, 512), nn.Linear(512, 10)

    def forward(self, x):
        return self.last(F.dropout(F.dropout(self.first(x), 0.5, self.training), 0.2, self.training))


class Attending(nn.Module):
    def __init__(self, width: int = 32, heads: int = 2):
        super().__init__()
        self.heads, self.project = heads, nn.Linear(width, 3 * width)

    def forward(self, x):
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Checkpointed(nn.Module):
    def __init__(self, again: bool):
        super().__init__()
        self.again = again
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64)) for _ in range(6))

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again and self.training else block(x)
        return x


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        y = F.relu_(self.a(x))
        return self.b(y).add_(y)[:, ::2].flatten(1)


class Gating(nn.Module):
    """SiLU's backward operator could be taken apart, and is not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = F.silu(self.conv(x))
        return y * torch.sigmoid(y) + y.mean((2, 3), keepdim=True) * y


class Meeting(nn.Module):
    """Gradients of several branches meet, and are added where the first one lies."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 4096)

    def forward(self, x):
        y = self.first(x)
        return torch.stack([(y * scale).sum(1) for scale in range(2, 6)], 1)


class Permuted(nn.Module):
    """Linear layers of tensors that are not contiguous add their bias where the product lies."""

    def __init__(self):
        super().__init__()
        self.linear, self.recurrent = nn.Linear(16, 256), nn.GRU(256, 128, batch_first=True)

    def forward(self, x):
        return self.recurrent(self.linear(x.permute(0, 2, 3, 1)).flatten(1, 2))[0]


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.relu(self.conv(x)))


class Caching(nn.Module):
    """Keeps a table from its first call on."""

    def __init__(self):
        super().__init__()
        self.linear, self.table = nn.Linear(64, 64), None

    def forward(self, x):
        if self.table is None:
            self.table = torch.ones(1000, 64)
        return self.linear(x) + self.table.mean(0)


class Branching(nn.Module):
    """Does what its values tell it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


WITHIN = 0.003
CASES = [
    ("regular", (256, 14, 14), 2, {}),
    ("regular", (256, 14, 14), 1, {}),
    ("bottleneck", (256, 14, 14), 8, {}),
    ("bottleneck", (256, 14, 14), 12, {}),
    ("cnn", None, 4, {"optimizer": "sgd(momentum=0.9)"}),
    ("resnet18", (3, 64, 64), 4, {"optimizer": "adamw"}),
    ("resnet18", (3, 64, 64), 4, {"amp": True}),
    ("resnet18", (3, 64, 64), 4, {"channels_last": True}),
    ("mobilenet_v3_small", (3, 64, 64), 12, {"optimizer": "rmsprop(momentum=0.9)"}),
    (Dropping(), (256,), 64, {"optimizer": "adam(foreach=True)"}),
    (Attending(), (2048, 32), 1, {}),
    (Checkpointed(False), (64,), 256, {}),
    (Checkpointed(True), (64,), 256, {}),
    (InPlace(), (3, 32, 32), 4, {}),
    (SharedConv(), (8, 32, 32), 4, {}),
    (Gating(), (8, 64, 64), 4, {}),
    (Meeting(), (8,), 64, {}),
    (Permuted(), (16, 14, 14), 8, {}),
    (Caching(), (64,), 16, {}),
    (transformer(), (16, 32), 4, {}),
]


@pytest.mark.parametrize(("model", "size", "batch", "options"), CASES)
@pytest.mark.parametrize("mode", ["training", "inference"])
def test_predicted_as_measured(model, size, batch, options, mode):
    options = {name: value for name, value in options.items() if mode == "training" or name != "optimizer"}
    predicted, real = both(model, size, batch, mode, **options)
    assert predicted == pytest.approx(real, rel=WITHIN)


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic"])
def test_operators_made_of_others_run_as_in_cpp(mode, how):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Upsample(scale_factor=2, mode=how), nn.Dropout(), nn.Conv2d(8, 2, 1))
    predicted, real = both(net, (3, 32, 32), 4, mode)
    assert predicted == pytest.approx(real, rel=0.01)


def test_weights_that_are_complex_stay_so():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 64, dtype=torch.complex64))

        def forward(self, x):
            return (x.to(torch.complex64) @ self.weight).abs()

    assert predict_memory(Complex(), (64,), 32).predicted.at_peak["parameters"] == 8 * 64 * 64
    settings = Settings(batch_size=2)
    step = steps.prepare(Complex(), Inputs.random((64,), 2, 0), "training", settings)
    assert step.module.weight.is_complex()


@pytest.mark.parametrize(
    ("model", "size", "options", "said"),
    [
        (nn.Sequential(nn.Linear(64, 8)), (64,), {"dtype": "bfloat16"}, "addmm"),
        (torch.compile(nn.Linear(8, 8)), (8,), {}, "uncompiled"),
    ],
)
def test_doubts_of_what_is_not_followed(model, size, options, said):
    found = predict_memory(model, size, 4, **options)
    assert any(said in doubt.message for doubt in found.doubts)


def test_of_many_kernels_those_that_may_decide_the_peak_are_tried():
    model, settings = catalog.resolve("mobilenet_v3_small").module, Settings(batch_size=4)
    images = Inputs.without_values((3, 64, 64), 4)
    course = following.followed(model, images, "training", settings, listed=kernels.takes_memory)
    asked = following.predicted(course, kernels.hidden_bytes, kernels.at_most)
    whole = following.predicted(course, kernels.hidden_bytes)
    assert (asked.peak_bytes, asked.peak_path) == (whole.peak_bytes, whole.peak_path)
    assert asked.not_drawn > 10
    assert not whole.not_drawn


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_a_kernel_takes_no_more_than_its_bound(batch):
    call, outputs = convolution(batch), batch * 16 * 28 * 28 * 4
    assert kernels.hidden_bytes([call])[call] < kernels.at_most(call, outputs) < math.inf


def test_what_is_not_known_is_said():
    found = predict_memory(nn.LSTM(32, 64, batch_first=True), (16, 32), 4)
    assert found.predicted.not_known == ("mkldnn_rnn_layer", "mkldnn_rnn_layer_backward")
    assert any("mkldnn_rnn_layer" in doubt.message for doubt in found.doubts)


def test_several_inputs_and_integers():
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = nn.Embedding(1000, 64), nn.Linear(64, 10)

        def forward(self, words, scale=None):
            return self.last(self.table(words).mean(1) * scale)

    inputs = (torch.arange(64).reshape(4, 16), {"scale": torch.ones(4, 1)})
    predicted, real = both(Embedding(), None, 4, inputs=inputs)
    assert predicted == pytest.approx(real, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny",
        "swin_t",
        "vit_b_16",
        "densenet121",
        "vgg11",
        "shufflenet_v2_x1_0",
        "googlenet",
        "regnet_x_400mf",
    ],
)
def test_predicted_as_measured_of_whole_networks(name, mode):
    predicted, real = both(name, None, 4, mode)
    assert predicted == pytest.approx(real, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regular", "bottleneck"])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_the_two_blocks(name, batch):
    for mode in ("training", "inference"):
        predicted, real = both(name, None, batch, mode)
        assert predicted == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        "sgd(momentum=0.9, nesterov=True)",
        "adam(amsgrad=True)",
        "adagrad",
        "adadelta",
        "nadam",
        "radam",
        "rprop",
        "adamax",
        "adamw(fused=True)",
        "adamw(foreach=True)",
        "SGD(lr=0.1, weight_decay=0.1)",
    ],
)
def test_optimizers_by_name(optimizer):
    predicted, real = both(Dropping(), (256,), 4, optimizer=optimizer)
    assert predicted == pytest.approx(real, rel=WITHIN)


def test_an_optimizer_of_the_users_own():
    net = Dropping()
    groups = [{"params": net.first.parameters()}, {"params": net.last.parameters(), "lr": 1e-4}]
    mine = predict_memory(net, (256,), 4, optimizer=torch.optim.Adam(groups))
    assert mine.predicted.peak_bytes == predict_memory(net, (256,), 4, optimizer="adam").predicted.peak_bytes
    only_last = predict_memory(net, (256,), 4, optimizer=torch.optim.Adam(net.last.parameters()))
    assert only_last.predicted.at_peak["optimizer_state"] == pytest.approx(2 * 4 * 5130, abs=64)
    with pytest.raises(UsageError, match="not the model's"):
        predict_memory(net, (256,), 4, optimizer=torch.optim.Adam(nn.Linear(2, 2).parameters()))


# Laws ----------------------------------------------------------------------------------------------------------------


def test_categories_add_up_to_the_peak_and_the_curve_reaches_it():
    for mode in ("training", "inference"):
        predicted = predict_memory("resnet18", (3, 64, 64), 4, mode=mode, optimizer="adamw").predicted
        assert set(predicted.at_peak) == set(CATEGORIES)
        assert sum(predicted.at_peak.values()) == predicted.peak_bytes
        assert max(moment.total_bytes for moment in predicted.timeline) == predicted.peak_bytes
        assert predicted.peak_bytes >= predicted.at_peak["parameters"] + predicted.at_peak["inputs"]
        assert min(min(moment.sizes_bytes) for moment in predicted.timeline) >= 0


def test_what_grows_with_the_batch_and_what_does_not():
    one, two, four = (
        predict_memory("resnet18", (3, 64, 64), batch, optimizer="adamw").predicted for batch in (2, 4, 8)
    )
    for name in ("parameters", "optimizer_state"):
        assert one.at_peak[name] == two.at_peak[name] == four.at_peak[name]
    by_image = (two.activations_bytes - one.activations_bytes) / 2
    assert four.activations_bytes - two.activations_bytes == pytest.approx(4 * by_image)
    parameters = 4 * analyze("resnet18").params
    assert one.at_peak["parameters"] == parameters
    assert one.at_peak["optimizer_state"] == pytest.approx(2 * parameters, rel=1e-3)


def test_checkpointing_lowers_the_peak_and_raises_the_macs():
    plain, again = (predict_memory(Checkpointed(each), (64,), 1024) for each in (False, True))
    assert again.predicted.peak_bytes < 0.7 * plain.predicted.peak_bytes
    macs = [analyze(Checkpointed(each), (64,), 1024, mode="training").macs for each in (False, True)]
    assert macs[1] > macs[0]


def test_gradients_stand_while_the_next_batch_goes_forward():
    one, three = (predict_memory(Dropping(), (256,), 512, accumulate=number).predicted for number in (1, 3))
    gradients = 4 * analyze(Dropping(), (256,)).params
    assert three.peak_bytes - one.peak_bytes == pytest.approx(gradients, rel=0.1)
    settings = Settings(batch_size=512, optimizer="sgd", accumulate=3)
    real = measured(Dropping, Inputs.random((256,), 512, 0), "training", settings)
    assert three.peak_bytes == pytest.approx(real, rel=WITHIN)


def test_attention_keeps_no_scores():
    scores = 2 * 2048**2 * 4
    assert predict_memory(Attending(), (2048, 32), 1, mode="inference").predicted.peak_bytes < scores / 2


def test_what_the_backward_pass_keeps_of_the_two_blocks():
    from cnnprof import ResidualBlock, ResidualBottleneckBlock
    from cnnprof.footprint import saved_by_layer
    from cnnprof.subjects import subject_of

    image = 8 * 256 * 56 * 56 * 4

    def kept(block: nn.Module) -> float:
        rows = saved_by_layer(subject_of(None, block, (256, 56, 56), 8, None), Settings(batch_size=8))
        return sum(row.activation_bytes for row in rows) / image

    # Input, first activation and output; the bottleneck's two activations are a quarter of its width.
    assert kept(ResidualBlock(256, [256, 256], [3, 3])) == pytest.approx(3, abs=0.01)
    assert kept(ResidualBottleneckBlock(256, [64], [3])) == pytest.approx(2.5, abs=0.01)
    with_norm = kept(ResidualBlock(256, [256, 256], [3, 3], batchnorm=True))
    assert with_norm / kept(ResidualBottleneckBlock(256, [64], [3], batchnorm=True)) == pytest.approx(4 / 3, rel=0.01)


def test_where_the_peak_is_and_what_stands_there():
    net = nn.Sequential(nn.Linear(8, 100_000), nn.ReLU(), nn.Linear(100_000, 2))
    predicted = predict_memory(net, (8,), 64).predicted
    assert predicted.peak_phase == "backward"
    assert predicted.peak_path in ("1", "2")
    assert predicted.largest[0].shape == (64, 100_000)
    assert predicted.largest[0].category in ("activations", "temporaries")
    (row,) = [layer for layer in predicted.layers if layer.path == "1"]
    assert row.activation_bytes == 64 * 100_000 * 4


# As CUDA has it ------------------------------------------------------------------------------------------------------


def test_cuda_without_a_device():
    on_cpu, on_cuda = (predict_memory(Dropping(), (256,), 512, device=device) for device in ("cpu", "cuda"))
    masks = {
        device: sum(layer.activation_bytes for layer in found.predicted.layers if layer.path == "")
        for device, found in (("cpu", on_cpu), ("cuda", on_cuda))
    }
    # Two dropouts of (512, 512): the second one's output is kept by the last layer, the masks by themselves.
    assert masks["cpu"] - masks["cuda"] == pytest.approx(2 * 512 * 512 * 3, abs=8 * 512)  # and rounding
    assert sum(on_cuda.predicted.at_peak.values()) % 512 == 0
    assert on_cuda.predicted.at_peak["buffers"] == 8519680
    assert any("not predicted" in doubt.message for doubt in on_cuda.doubts)
    scores = 2 * 2048**2 * 4
    attending = predict_memory(Attending(), (2048, 32), 1, device="cuda").predicted
    assert attending.peak_bytes - 8519680 < scores / 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_predicted_as_the_device_measures(name):
    found = predict_memory(name, None, 16, device="cuda", optimizer="adamw", measure=True)
    assert found.predicted.peak_bytes == pytest.approx(found.measured.peak_bytes, rel=0.1)


# The batch that fits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", ["1GiB", "1.5 GB", "3000MiB"])
def test_the_largest_batch_fits_and_the_next_does_not(capacity):
    found = predict_memory(Dropping(), (256,), 32, device="cuda", fits=capacity)
    fit = found.fit
    assert fit.capacity_bytes == units.read_bytes(capacity)
    needed = [
        found.overhead.of(predict_memory(Dropping(), (256,), batch, device="cuda").predicted.peak_bytes)
        for batch in (fit.batch_size, fit.batch_size + 1)
    ]
    assert needed[0] == fit.needed_bytes <= fit.capacity_bytes < needed[1]


def test_what_does_not_fit_says_what_it_needs():
    fit = predict_memory(Dropping(), (256,), 32, device="cuda", fits="300MiB").fit
    assert fit.batch_size is None
    assert fit.needed_bytes > fit.capacity_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24GB", 24 * 10**9),
        ("24 gb", 24 * 10**9),
        ("1.5MiB", 1572864),
        ("800", 800),
        ("2T", 2 * 10**12),
    ],
)
def test_sizes_that_can_be_read(text, size):
    assert units.read_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "much", "-3GiB", "24 GiBs", "0", "1e9", "3iB", "24GiB,"])
def test_sizes_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="a size"):
        units.read_bytes(text)


# Kernels -------------------------------------------------------------------------------------------------------------


def convolution(batch: int) -> Kernel:
    def laid(*shape: int) -> Laid:
        like = torch.empty(shape)
        return Laid(shape, like.stride(), "float32", 4)

    arguments = (laid(batch, 16, 28, 28), laid(16, 16, 3, 3), None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    return Kernel("aten::convolution", arguments)


@pytest.mark.parametrize("batch", [1, 3, 9, 32])
def test_what_a_kernel_takes_is_extended_to_other_batches(batch):
    extended = kernels.hidden_bytes([convolution(batch)])[convolution(batch)]
    events = kernels._tried(convolution(batch))
    assert extended == pytest.approx(kernels.excess(events[1:], events[0]), rel=0.01)


def test_a_kernel_is_tried_once(monkeypatch):
    first = kernels.hidden_bytes([convolution(40)])
    monkeypatch.setattr(kernels, "_tried", lambda call: pytest.fail("it was tried again"))
    assert kernels.hidden_bytes([convolution(40)]) == first
    assert kernels.hidden_bytes([convolution(80)])[convolution(80)] is not None


def test_a_cache_that_is_damaged_is_made_again(tmp_path, monkeypatch):
    place = tmp_path / "kernels.json"
    monkeypatch.setattr(kernels, "_place", lambda: place)
    for text in ("{", "[]", '{"a": '):
        place.write_text(text)
        assert kernels.hidden_bytes([convolution(4)])[convolution(4)] is not None
        assert json.loads(place.read_text())


def test_strides_follow_a_shorter_batch():
    laid = Laid((8, 4, 6), (6, 48, 1), "float32", 4)  # laid out as (4, 8, 6)
    assert laid.with_length(0, 2) == Laid((2, 4, 6), (6, 12, 1), "float32", 4)
    expanded = Laid((8, 4), (1, 0), "float32", 4)
    assert kernels._made(expanded.with_length(0, 2)).stride() == (1, 0)


# What users see ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_measured_beside_predicted(tmp_path):
    found = predict_memory("cnn", None, 2, measure=True, beside=[("inference", None)])
    assert found.error == pytest.approx(0, abs=WITHIN)
    assert found.measured.process_peak_bytes > found.measured.process_before_bytes > found.measured.peak_bytes
    assert max(found.measured.curve_bytes) == found.measured.peak_bytes
    document = json.loads(store.to_json(found))
    assert document["schema"] == "cnnprof.memory/1"
    assert set(document["predicted"]["at_peak"]) == set(CATEGORIES)
    assert {"peak_bytes", "at_peak", "timeline"} <= set(document["predicted"])
    assert store.from_document(document) == found
    for suffix in (".html", ".md", ".csv"):
        text = reporting.save(found, tmp_path / f"x{suffix}").read_text(encoding="utf-8")
        assert "nan" not in text.lower().replace("financ", "")
    assert "peak allocated" in str(found)


@pytest.mark.slow
def test_a_script_is_not_run_again_to_measure_its_process(tmp_path):
    (tmp_path / "script.py").write_text(
        "import cnnprof\nprint('once')\nfound = cnnprof.predict_memory('cnn', None, 2, measure=True)\n"
        "assert found.measured.process_peak_bytes\n"
    )
    ran = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ran.returncode, ran.stdout) == (0, "once\n"), ran.stderr


def test_values_decide(typed):
    found = predict_memory(Branching(), (64,), 32)
    assert found.predicted is None
    assert found.measured.batch_size == 2
    assert "shapes alone do not tell" in found.doubts[0].message
    assert "Measured at batch 2" in str(found)


class Stopping(nn.Module):
    """Raises where it has values."""

    def __init__(self, reads: bool):
        super().__init__()
        self.linear, self.reads = nn.Linear(8, 8), reads

    def forward(self, x):
        if self.reads:
            x.sum().item()
        if type(x) is torch.Tensor and not x.is_meta:
            raise MemoryError("no more")
        return self.linear(x)


def test_a_step_that_stops_loses_no_prediction():
    found = predict_memory(Stopping(reads=False), (8,), 4, measure=True)
    assert found.predicted is not None
    assert found.measured is None
    assert any("MemoryError: no more" in doubt.message for doubt in found.doubts)
    with pytest.raises(UsageError, match="its step stopped: MemoryError: no more"):
        predict_memory(Stopping(reads=True), (8,), 4)


def test_the_caller_s_model_is_left_as_it_is():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    predict_memory(net, (8,), 4, optimizer="adam")
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_memory_on_the_command_line(typed, monkeypatch):
    monkeypatch.setattr(machine, "resident_bytes", lambda: 1 << 29)  # the process of the tests may hold more than fits
    code, out, err = typed("memory", "cnn", "-b", "4", "--fits", "2GiB", "-o", "m.html", "-o", "m.json")
    assert (code, err) == (0, "")
    assert "training, adamw" in out
    assert "peak allocated" in out
    assert "Fits 2.00 GiB up to batch" in " ".join(out.split())
    document = json.loads(Path("m.json").read_text())
    assert document["predicted"]["peak_bytes"] == document["scenarios"][-1]["predicted"]["peak_bytes"]
    assert [each["mode"] for each in document["scenarios"]] == ["inference", "training", "training"]
    assert document["command"].startswith("cnnprof memory cnn")
    code, out, _ = typed("memory", "cnn", "--mode", "inference", "--json")
    assert json.loads(out)["mode"] == "inference"
    code, out, _ = typed("memory", "cnn", "--optimizer", "adagrad", "--json")
    assert json.loads(out)["scenarios"][-1]["optimizer"] == "adagrad"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["cnn", "--fits", "much"], 2, "a size was expected, such as 24GiB"),
        (["cnn", "--fits", "1MiB"], 1, "Does not fit 1.00 MiB: even a batch of 1"),
        (["cnn", "--fits", "auto", "--device", "cuda"], 2, "no CUDA device here"),
        (["cnn", "--optimizer", "adamm"], 2, "nearest: adam"),
        (["cnn", "--optimizer", "adam(lr=)"], 2, "cannot be read"),
        (["cnn", "--optimizer", "adam(speed=3)"], 2, "refuses it"),
        (["cnn", "--optimizer", "lbfgs"], 2, "cannot be told from shapes"),
        (["cnn", "--mode", "both"], 2, "inference or training"),
        (["cnn", "--mode", "inference", "--optimizer", "adam"], 2, "has none"),
        (["cnn", "--device", "tpu"], 2, "auto, cpu, cuda or cuda:1 was expected"),
        (["cnn", "--device", "cuda:x"], 2, "auto, cpu, cuda or cuda:1 was expected"),
        (["cnn", "--threads", "100000"], 2, "at most 4,096"),
        (["cnn", "--optimizer", "adamw(fused=True,foreach=True)"], 2, "refuses it"),
        (["cnn", "--optimizer", "sgd()()"], 2, "cannot be read"),
        (["cnn", "--optimizer", ""], 2, "was expected"),
        (["cnn", "--loss", "net.py:wrong"], 2, "the loss or the backward pass raised: no such loss"),
        (["net.py:leaving"], 2, "refused its input"),
        (["net.py:masking", "--fits", "2GiB"], 2, "cannot be predicted"),
        (["cnn", "--device", "cuda", "--measure"], 2, "no CUDA device here"),
        (["cnn", "-b", "0"], 2, "at least 1"),
        (["cnn(in_size=(3, 32, 32))", "--input-size", "1x8x8"], 2, "refused its input"),
        (["net.py:norm", "-b", "1"], 2, "-b 2"),
        (["net.py:frozen"], 2, "--mode inference"),
    ],
)
def test_what_bad_input_is_told(typed, tmp_path, arguments, code, said):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def norm():\n    return nn.BatchNorm1d(8), torch.ones(1, 8)\n"
        "def frozen():\n    return nn.Linear(8, 2).requires_grad_(False), torch.ones(1, 8)\n"
        "def wrong(output):\n    raise ValueError('no such loss')\n"
        "class Leaving(nn.Linear):\n    def forward(self, x):\n        raise SystemExit(5)\n"
        "def leaving():\n    return Leaving(8, 2), torch.ones(1, 8)\n"
        "class Masking(nn.Linear):\n    def forward(self, x):\n        return x[super().forward(x)[:, 0] > 0]\n"
        "def masking():\n    return Masking(8, 2), torch.ones(4, 8)\n"
    )
    if torch.cuda.is_available() and "cuda" in arguments:
        pytest.skip("a CUDA device is here")
    found, _, err = typed("memory", *arguments)
    assert found == code
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_step_of_forty_gibibytes_is_predicted_in_one():
    script = (
        "import torch, torchvision, resource\n"
        "import cnnprof, cnnprof.footprint\n"
        "from cnnprof import machine\n"
        "before = machine.peak_resident_bytes()\n"
        "found = cnnprof.predict_memory('resnet152', None, 256, optimizer='adam')\n"
        "print(found.predicted.peak_bytes, machine.peak_resident_bytes() - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak, took = map(int, ran.stdout.split())
    assert peak > 40 * 2**30
    assert took < 2**30
