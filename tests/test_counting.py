"""Counts against hand-worked numbers, published metadata and laws; the caller's module stays as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

import cnnprof
from cnnprof import UsageError


@pytest.mark.parametrize(
    ("model", "params", "macs"),
    [
        # 2 x (3·3·256·256 + 256) and 2 x 3·3·256·256·56·56
        ("regular", 1_180_160, 3_699_376_128),
        # (256·64 + 64) + (3·3·64·64 + 64) + (64·256 + 256) and (16,384 + 36,864 + 16,384)·56·56
        ("bottleneck", 70_016, 218_365_952),
        ("regular(skip=False)", 1_180_160, 3_699_376_128),
        ("bottleneck(skip=False)", 70_016, 218_365_952),
    ],
)
def test_the_two_blocks(model, params, macs):
    analysis = cnnprof.analyze(model)
    assert (analysis.params, analysis.macs, analysis.flops) == (params, macs, 2 * macs)
    assert analysis.coverage == 1.0
    assert analysis.uncounted == ()
    assert analysis.rung == "meta"


@pytest.mark.parametrize(("model", "weights"), [("regular", 1_179_648), ("bottleneck", 69_632)])
def test_the_two_blocks_without_biases(model, weights):
    biases = sum(layer.output_shape[1] for layer in cnnprof.analyze(model).layers if layer.kind == "Conv2d")
    assert cnnprof.analyze(model).params - biases == weights


TEN = [
    "alexnet", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "mobilenet_v3_large",
    "efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "shufflenet_v2_x1_0", "inception_v3", "swin_t",
]  # fmt: skip


@pytest.mark.parametrize("name", TEN)
def test_torchvision_networks_equal_their_published_figures(name):
    published = models.get_model_weights(name).DEFAULT.meta
    analysis = cnnprof.analyze(name)
    assert analysis.params == published["num_params"]
    assert round(analysis.macs / 1e9, 3) == published["_ops"]
    assert analysis.uncounted == ()


# What the published networks were built with, where it is not the builder's default.
BUILT_WITH = {
    "googlenet": "(aux_logits=False)",
    "quantized_googlenet": "(aux_logits=False)",
    "vit_h_14": "(image_size=518)",
    **{f"{kind}_resnet{depth}": "(aux_loss=True)" for kind in ("fcn", "deeplabv3") for depth in (50, 101)},
    "deeplabv3_mobilenet_v3_large": "(aux_loss=True)",
}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["", "quantization", "segmentation", "video"])
def test_the_whole_zoo_equals_its_published_figures(family):
    """Every network of a family; those for detection and flow run on what they find in an image, or on two."""
    names = models.list_models(module=getattr(models, family) if family else models)
    for name in names:
        published = models.get_model_weights(name).DEFAULT.meta
        analysis = cnnprof.analyze(name + BUILT_WITH.get(name, ""))
        figures = analysis.params, round(analysis.macs / 1e9, 3), analysis.uncounted, analysis.rung
        assert (name, *figures) == (name, published["num_params"], published["_ops"], (), "meta")
    assert len(names) >= {"": 80, "quantization": 9, "segmentation": 6, "video": 9}[family]


def test_rows_add_up_to_the_totals():
    analysis = cnnprof.analyze("resnet18", batch_size=2)
    for name in ("params", "macs", "activations", "read_bytes", "written_bytes"):
        assert sum(getattr(layer, name) for layer in analysis.layers) == getattr(analysis.totals, name)
    assert analysis.totals.param_bytes == 4 * analysis.params


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x))


class FunctionalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


class DotForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.c.forward(x)


class NeverCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))

    def forward(self, x):
        return {"y": self.used(x)}


class Attention(nn.Module):
    def forward(self, q):
        return F.scaled_dot_product_attention(q, q, q)


class Filter(nn.Module):
    def forward(self, x):
        return torch.fft.rfft2(x).real


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) if x.sum().item() < 1e9 else x


CASES = [
    (nn.Conv2d(3, 8, 3, padding=1, bias=False), (1, 3, 16, 16), 55_296),
    (nn.Conv2d(3, 8, 3, padding=1), (4, 3, 16, 16), 221_184),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 8, 8), 4_608),
    (nn.ConvTranspose2d(8, 8, 3, stride=2), (1, 8, 8, 8), 36_864),
    (nn.ConvTranspose2d(8, 8, 3, stride=2, groups=4), (1, 8, 8, 8), 9_216),
    (nn.Conv2d(3, 8, 4, padding="same"), (1, 3, 16, 16), 98_304),
    (nn.Linear(16, 32), (1, 10, 16), 5_120),
    (FunctionalConv(), (1, 3, 16, 16), 55_296),
    (DotForward(), (1, 3, 16, 16), 55_296),
    (SharedConv(), (1, 8, 8, 8), 73_728),
    (Attention(), (1, 4, 16, 8), 16_384),
    (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (1, 16, 32), 147_456),
    (nn.LSTM(16, 32, batch_first=True, bias=False), (1, 10, 16), 61_440),
    (NeverCalled(), (1, 4), 16),
    (nn.BatchNorm2d(3), (1, 3, 16, 16), 0),
    (nn.ReLU(), (1, 3, 16, 16), 0),
]


@pytest.mark.parametrize(("module", "shape", "macs"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_hand_worked_cases(module, shape, macs):
    analysis = cnnprof.analyze(module, inputs=torch.randn(shape))
    assert analysis.macs == macs
    assert analysis.uncounted == ()
    assert analysis.rung == "meta"


def test_a_shared_module_counts_once_and_shows_its_calls():
    analysis = cnnprof.analyze(SharedConv(), (8, 8, 8))
    (row,) = [layer for layer in analysis.layers if layer.macs]
    assert (row.path, row.calls, row.params) == ("first", 2, 8 * 8 * 9 + 8)


def test_modules_that_were_never_reached_are_named():
    assert cnnprof.analyze(NeverCalled(), (4,)).uncalled == ("unused",)
    assert cnnprof.analyze("googlenet").uncalled == ("aux1", "aux2")


def test_an_operator_without_a_formula_is_uncounted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = Filter()

        def forward(self, x):
            return self.filter(self.filter(x))

    analysis = cnnprof.analyze(Net(), (1, 8, 8), inputs=torch.randn(1, 1, 8, 8))
    (entry,) = analysis.uncounted
    assert (entry.path, entry.calls) == ("filter", 2)
    assert "fft" in entry.operator
    assert analysis.coverage < 1
    assert "1 operator not counted" in str(analysis)


def test_what_does_not_run_on_shapes_is_run_on_the_cpu():
    analysis = cnnprof.analyze(DataDependent(), (4,))
    assert (analysis.macs, analysis.rung) == (16, "cpu")


def test_a_refused_input_names_the_layer_and_its_shape():
    with pytest.raises(UsageError, match=r"layer '0' \(Conv2d\) refused its input 1x4x8x8: "):
        cnnprof.analyze(nn.Sequential(nn.Conv2d(3, 8, 3)), (4, 8, 8))
    with pytest.raises(UsageError, match=r"'features.2' \(MaxPool2d\) refused its input 1x64x1x1"):
        cnnprof.analyze("alexnet", (3, 8, 8))


def state_of(module):
    return {
        "tensors": {name: (id(value), value._version, value.clone()) for name, value in module.state_dict().items()},
        "training": {name: part.training for name, part in module.named_modules()},
        "dicts": {name: dict(part.__dict__) for name, part in module.named_modules()},
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "random": torch.get_rng_state().clone(),
    }


SEVERAL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())


@pytest.mark.parametrize("module", [SEVERAL, DataDependent()])
def test_nothing_of_the_callers_is_changed(module):
    module.train()
    before = state_of(module)
    inputs = torch.randn(2, 3, 8, 8) if isinstance(module, nn.Sequential) else torch.randn(2, 4)
    wrong = torch.randn(2, 7, 8, 9)
    before["random"] = torch.get_rng_state().clone()
    first, second = (cnnprof.analyze(module, inputs=inputs) for _ in range(2))
    with pytest.raises(UsageError):
        cnnprof.analyze(module, inputs=wrong)
    after = state_of(module)
    assert first == second
    assert torch.equal(before.pop("random"), after.pop("random"))
    for key in ("training", "hooks"):
        assert before[key] == after[key]
    assert before["dicts"].keys() == after["dicts"].keys()
    for name, held in before["dicts"].items():
        assert held.keys() == after["dicts"][name].keys()
    for name, (_, version, value) in before["tensors"].items():
        assert after["tensors"][name][1] == version
        assert torch.equal(after["tensors"][name][2], value)


@pytest.mark.parametrize(
    ("example", "macs", "size"),
    [
        (torch.randn(5, 4), 8, (4,)),
        ((torch.randn(3, 4),), 24, None),
        ({"x": torch.randn(3, 4)}, 24, None),
        (torch.zeros(3, 4, dtype=torch.long), 24, None),
    ],
    ids=["image", "tuple", "dict", "integers"],
)
def test_lightnings_example_inputs_are_taken(example, macs, size):
    class Lightning(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.example_input_array = nn.Linear(4, 2), example

        def forward(self, x):
            return self.linear(x.float())

    analysis = cnnprof.analyze(Lightning())
    assert (analysis.macs, analysis.input_size) == (macs, size)


def test_a_modules_default_cfg_is_taken():
    module = nn.Linear(4, 2)
    module.default_cfg = {"input_size": (3, 4)}
    assert cnnprof.analyze(module).macs == 3 * 8


def test_keyword_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x, other, *, mask):
            return self.linear(x + other) * mask

    inputs = (torch.randn(3, 4), torch.randn(3, 4), {"mask": torch.ones(3, 2)})
    analysis = cnnprof.analyze(Two(), inputs=inputs)
    assert (analysis.macs, analysis.batch_size) == (24, None)


@settings(max_examples=40)
@given(
    kernel=st.integers(1, 4), stride=st.integers(1, 3), dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]),
    space=st.sampled_from([1, 2]), transposed=st.booleans(),
)  # fmt: skip
def test_macs_are_the_nonzeros_of_the_jacobian_of_an_unpadded_layer(
    kernel, stride, dilation, groups, space, transposed
):
    kinds = {(1, False): nn.Conv1d, (2, False): nn.Conv2d, (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d}
    layer = kinds[space, transposed](2, 4, kernel, stride=stride, dilation=dilation, groups=groups)
    with torch.no_grad():
        layer.weight.fill_(1.0)  # products of positive weights cannot cancel
    image = torch.rand(1, 2, *(9,) * space)
    jacobian = torch.func.jacrev(layer)(image)
    nonzeros = int(torch.count_nonzero(jacobian))
    assert cnnprof.analyze(layer, inputs=image).macs == nonzeros


@pytest.mark.parametrize("batch", [1, 3])
def test_macs_are_linear_in_the_batch(batch):
    assert cnnprof.analyze("cnn", batch_size=batch).macs == batch * cnnprof.analyze("cnn").macs


def test_a_module_on_meta_is_counted_as_it_is():
    with torch.device("meta"):
        module = nn.Conv2d(3, 8, 3, padding=1)
    assert cnnprof.analyze(module, (3, 16, 16)).macs == 55_296


def test_a_copy_counts_the_same():
    module = models.mobilenet_v2(weights=None)
    assert cnnprof.analyze(module, (3, 64, 64)).layers == cnnprof.analyze(copy.deepcopy(module), (3, 64, 64)).layers


class KeepsWhatItSaw(nn.Module):
    """Holds a cache, a log, a tensor that is no buffer, and a layer in a plain list that a bound method calls."""

    def __init__(self):
        super().__init__()
        self.cache, self.log, self.scale = {}, [], torch.ones(1)
        self.hidden = [nn.Conv2d(3, 4, 3)]
        self.chosen = self.through_hidden

    def through_hidden(self, x):
        return self.hidden[0](x)

    def forward(self, x):
        self.cache["last"] = x
        self.log.append(x.shape)
        self.scale.mul_(2)
        x.add_(1)
        return self.chosen(x) * self.scale


@pytest.mark.parametrize("rung", ["meta", "cpu"])
def test_containers_and_plain_tensors_of_the_callers_stay_as_they_are(rung):
    class Net(KeepsWhatItSaw):
        def forward(self, x):
            return super().forward(x) if rung == "meta" or x.sum().item() else x

    net, inputs = Net(), torch.ones(1, 3, 5, 5)
    analysis = cnnprof.analyze(net, inputs=inputs)
    assert (analysis.rung, analysis.macs) == (rung, 4 * 27 * 9)
    assert (net.cache, net.log) == ({}, [])
    assert float(net.scale) == 1
    assert torch.equal(inputs, torch.ones(1, 3, 5, 5))
    assert net.chosen.__self__ is net


def test_weights_in_a_plain_list_are_doubted():
    (doubt,) = cnnprof.analyze(KeepsWhatItSaw(), (3, 5, 5)).doubts
    assert "112 weights hang in a plain list or attribute" in doubt.message


def test_a_raw_tensor_that_gradients_end_at_is_doubted():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.randn(4, 8, requires_grad=True)

        def forward(self, x):
            return F.linear(x, self.weight)

    (doubt,) = cnnprof.analyze(Raw(), (8,)).doubts
    assert "32 weights hang in a plain list or attribute" in doubt.message


class Aliased(nn.Module):
    """Reaches a layer of its own by other ways, too, and holds a spare one that it does not use."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        object.__setattr__(self, "alias", self.layer)
        self.listed, self.weights, self.spare = [self.layer], {"w": self.layer.weight}, [nn.Linear(8, 8)]

    def forward(self, x):
        return F.linear(self.listed[0](self.alias(x)), self.weights["w"])


class Called(nn.Module):
    """Calls a layer with weights of its own in place of the layer's."""

    def __init__(self):
        super().__init__()
        self.base, self.weights = [nn.Linear(8, 8)], nn.ParameterList([nn.Linear(8, 8).weight])

    def forward(self, x):
        return torch.func.functional_call(self.base[0], {"weight": self.weights[0], "bias": x[0]}, x)


@pytest.mark.parametrize(
    ("make", "params", "macs"),
    [
        (Aliased, 72, 3 * 64),
        (Called, 64, 64),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), 80, 64),
        (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 8))), 72, 64),
        (lambda: create_feature_extractor(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), ["0"]), 72, 64),
    ],
    ids=["aliased", "called", "parametrized", "traced", "cut"],
)
def test_weights_that_are_registered_or_not_used_are_not_doubted(make, params, macs):
    analysis = cnnprof.analyze(make(), (8,))
    assert (analysis.params, analysis.macs, analysis.doubts) == (params, macs, ())


def test_a_feature_extractor_has_the_weights_of_its_own_layers():
    whole = models.resnet18()
    own = (whole.conv1, whole.bn1, whole.layer1, whole.layer2)
    analysis = cnnprof.analyze(create_feature_extractor(whole, ["layer2"]), (3, 64, 64))
    assert analysis.params == sum(tensor.numel() for part in own for tensor in part.parameters())
    assert analysis.doubts == ()


def test_the_callers_grad_modes_play_no_part():
    class Decorated(nn.Sequential):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4)
    expected = cnnprof.analyze(nn.Sequential(*layers), (3, 8, 8)).layers
    assert cnnprof.analyze(Decorated(*layers), (3, 8, 8)).layers[1:] == expected[1:]
    with torch.inference_mode():
        assert cnnprof.analyze(nn.Sequential(*layers), (3, 8, 8)).layers == expected


def net_of(*layers):
    return nn.Sequential(*layers or (nn.Conv2d(3, 8, 3), nn.ReLU()))


def compiled_in_place():
    net = net_of()
    net.compile()
    return net


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.compile(net_of()),
        compiled_in_place,
        lambda: net_of(torch.compile(nn.Conv2d(3, 8, 3))),
        lambda: torch.jit.script(net_of()),
        lambda: torch.jit.trace(net_of(), torch.randn(1, 3, 8, 8)),
        lambda: net_of(torch.jit.script(nn.Conv2d(3, 8, 3)), nn.ReLU()),
    ],
    ids=["compiled", "compiled in place", "compiled child", "scripted", "traced", "scripted child"],
)
def test_compiled_and_scripted_modules(make):
    analysis = cnnprof.analyze(make(), (3, 8, 8))
    assert (analysis.params, analysis.macs, analysis.uncalled) == (224, 8 * 27 * 36, ())


def test_a_network_that_exits_is_refused():
    class Exits(nn.Module):
        def forward(self, x):
            raise SystemExit(3)

    with pytest.raises(UsageError, match=r"its forward \(Exits\) refused its input 1x3: 3"):
        cnnprof.analyze(Exits(), (3,))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_normalised_weights_are_counted(norm):
    analysis = cnnprof.analyze(norm(nn.Linear(16, 8)), (16,))
    # spectral: u (W v), a matrix by a vector and a dot product
    extra = 16 * 8 + 8 if norm is nn.utils.parametrizations.spectral_norm else 0
    assert (analysis.macs, analysis.uncounted) == (16 * 8 + extra, ())


@pytest.mark.parametrize("size", [3.5, True, (3, 0), (3, 2.5), ()])
def test_a_size_of_the_wrong_form(size):
    with pytest.raises(UsageError, match="positive whole numbers without the batch"):
        cnnprof.analyze(nn.ReLU(), size)


def test_an_output_that_holds_itself():
    class Around(nn.Module):
        def forward(self, x):
            found = {}
            found["self"], found["x"] = found, x
            return found

    assert cnnprof.analyze(Around(), (3,)).layers[0].output_shape == (1, 3)
