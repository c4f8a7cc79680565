"""The builders against the course's numbers, then rule by rule, so that a failing test tells which rule is broken."""

import copy
import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnprof
from cnnprof.models.classifier import ArgMaxClassifier
from cnnprof.models.cnn import CNN
from cnnprof.models.residual import ResidualBlock, ResidualBottleneckBlock, ResNet

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder for builder in (CNN, ResidualBlock, ResidualBottleneckBlock, ResNet)
}
COURSE = Path(cnnprof.__file__).parent / "verification" / "course.json"
NETWORKS = json.loads(COURSE.read_text())["networks"]
SMALL: dict[str, Any] = {
    "in_size": (3, 8, 8),
    "out_classes": 5,
    "channels": [4, 6],
    "pool_every": 1,
    "hidden_dims": [7],
}
OVERFIT: dict[str, Any] = {
    "in_size": (3, 32, 32), "out_classes": 10, "channels": [32], "pool_every": 1, "hidden_dims": [100],
}  # fmt: skip
BLOCK: dict[str, Any] = {"in_channels": 3, "channels": [4, 5, 6], "kernel_sizes": [3, 1, 5]}


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(0)


def small(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


def kinds(layers: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in layers.children()]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(42)
    return make()


# --- the course's numbers


def built(network: dict[str, Any]) -> nn.Module:
    return seeded(lambda: BUILDERS[network["class"]](**network["arguments"]))


def networks_with(key: str) -> pytest.MarkDecorator:
    chosen = [network for network in NETWORKS if key in network]
    return pytest.mark.parametrize("network", chosen, ids=lambda network: network["name"])


@networks_with("parameters")
def test_parameters_are_the_courses(network: dict[str, Any]) -> None:
    parameters = list(built(network).parameters())
    assert sum(p.numel() for p in parameters) == network["parameters"]
    assert len(parameters) == network["parameter_tensors"]
    total = sum(p.double().sum().item() for p in parameters)  # in float64: only the six printed digits are lost
    assert total == pytest.approx(network["parameter_sum"], rel=0, abs=1e-6)


@networks_with("features")
def test_features_are_the_courses(network: dict[str, Any]) -> None:
    assert built(network).mlp[0].in_features == network["features"]


@networks_with("output")
def test_outputs_are_the_courses(network: dict[str, Any]) -> None:
    model = built(network)
    image = torch.randint(0, 256, (3, 100, 100), dtype=torch.float).unsqueeze(0)
    assert image.sum().item() == network["image_sum"]
    assert (model(image) - torch.tensor([network["output"]])).norm() < 1e-5  # the numbers have six decimals


def test_the_numbers_are_all_there() -> None:
    counts = {key: sum(key in network for network in NETWORKS) for key in ("parameters", "features", "output")}
    assert counts == {"parameters": 7, "features": 5, "output": 3}


# --- CNN


def test_cnn_layers_in_order() -> None:
    model = CNN(**small(channels=[4, 5, 6, 7], pool_every=2, hidden_dims=[9, 8]))
    pair = ["Conv2d", "ReLU"]
    assert [name for name, _ in model.named_children()] == ["feature_extractor", "mlp"]
    assert kinds(model.feature_extractor) == [*pair, *pair, "MaxPool2d"] * 2
    assert kinds(model.mlp) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [(x.in_features, x.out_features) for x in model.mlp if isinstance(x, nn.Linear)] == [(28, 9), (9, 8), (8, 5)]


def test_leftover_convolutions_stay_and_get_no_pool() -> None:
    pair = ["Conv2d", "ReLU"]
    assert kinds(CNN(**small(channels=[4, 5, 6], pool_every=2)).feature_extractor) == [*pair * 2, "MaxPool2d", *pair]
    assert kinds(CNN(**small(channels=[4, 5], pool_every=3)).feature_extractor) == pair * 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("relu", "ReLU"), ("tanh", "Tanh"), ("sigmoid", "Sigmoid"), ("softmax", "Softmax"), ("lrelu", "LeakyReLU"),
        ("logsoftmax", "LogSoftmax"), ("elu", "ELU"), ("gelu", "GELU"), ("silu", "SiLU"), ("none", "Identity"),
    ],
)  # fmt: skip
def test_every_activation_stands_in_both_parts(name: str, kind: str) -> None:
    model = CNN(**small(activation_type=name))
    assert kinds(model.feature_extractor) == ["Conv2d", kind, "MaxPool2d"] * 2
    assert kinds(model.mlp) == ["Linear", kind, "Linear"]
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 5)


def test_activation_parameters_reach_the_mlp_and_softmax_sums_over_channels() -> None:
    model = CNN(**small(activation_type="lrelu", activation_params={"negative_slope": 0.3}))
    slopes = [x.negative_slope for x in model.modules() if isinstance(x, nn.LeakyReLU)]
    assert slopes == [0.3, 0.3, 0.3]
    for name in ("softmax", "logsoftmax"):
        assert CNN(**small(activation_type=name)).mlp[1].dim == 1
    assert CNN(**small(activation_type="softmax", activation_params={"dim": -1})).mlp[1].dim == -1


def test_forward_is_the_mlp_of_the_flat_features() -> None:
    model, images = CNN(**SMALL), torch.rand(4, 3, 8, 8)
    scores = model(images)
    assert torch.equal(scores, model.mlp(model.feature_extractor(images).flatten(1)))
    assert scores.shape == (4, 5)
    nn.init.constant_(model.mlp[-1].bias, -10.0)
    assert model(images).max() < -5  # what a softmax, a ReLU or a tanh at the end could not give


def test_without_options_it_is_the_courses_small_network() -> None:
    model = seeded(lambda: CNN(**OVERFIT))
    spelled = seeded(
        lambda: CNN(
            **OVERFIT,
            conv_params={"kernel_size": 3, "stride": 1, "padding": 1},
            pooling_params={"kernel_size": 2},
        )
    )
    assert sum(p.numel() for p in model.parameters()) == 821_206
    assert repr(model) == repr(spelled)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), spelled.parameters(), strict=True))


def test_options_change_the_defaults_one_by_one_and_a_kernel_size_leaves_torchs() -> None:
    conv = CNN(**small(conv_params={"bias": False, "padding": 2})).feature_extractor[0]
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (2, 2), None)
    conv = CNN(**small(pool_every=3, conv_params={"kernel_size": (3, 1)})).feature_extractor[0]
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 1), (1, 1), (0, 0))
    pool = CNN(**small(pooling_type="avg", pooling_params={"stride": 1})).feature_extractor[2]
    assert (type(pool), pool.kernel_size, pool.stride) == (nn.AvgPool2d, 2, 1)
    assert CNN(**small(pooling_params={"kernel_size": [2, 1]})).feature_extractor[2].stride == [2, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"kernel_size": 3, "padding": "valid"},
        {"dilation": 2},
        {"stride": 2},
        {"padding_mode": "circular"},
    ],
    ids=str,
)
def test_feature_count_follows_every_option(options: dict[str, Any]) -> None:
    model = CNN(**small(in_size=(3, 21, 14), channels=[4, 5], conv_params=options, pooling_params={"ceil_mode": True}))
    assert model(torch.rand(2, 3, 21, 14)).shape == (2, 5)


def test_construction_draws_only_the_layers_own_initialisation() -> None:
    seeded(lambda: CNN(**small(channels=[4, 6, 8], pool_every=2)))
    state = torch.get_rng_state()

    def by_hand() -> nn.Module:
        convolutions = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 3)]
        return nn.Sequential(*convolutions, nn.Linear(8 * 4 * 4, 7), nn.Linear(7, 5))

    seeded(by_hand)
    assert torch.equal(state, torch.get_rng_state())


def test_construction_leaves_no_trace_in_batch_norm_mode_or_gradients() -> None:
    model = ResNet(**small(channels=[4] * 4, pool_every=2, batchnorm=True, dropout=0.5))
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 2
    for norm in norms:
        assert norm.num_batches_tracked == 0
        assert torch.equal(norm.running_mean, torch.zeros(4))
        assert torch.equal(norm.running_var, torch.ones(4))
    assert all(layer.training for layer in model.modules())
    assert all(p.grad is None and p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_batch_norm_over_a_single_pixel_can_be_built() -> None:
    """Batch norm in train mode refuses one value a channel, which a batch of several images does not have."""
    model = ResNet(
        **small(in_size=(3, 2, 2), channels=[4] * 4, pool_every=2, pooling_params={"ceil_mode": True}, batchnorm=True)
    )
    assert model(torch.rand(2, 3, 2, 2)).shape == (2, 5)


# --- residual blocks


def test_block_order_is_conv_dropout_batchnorm_activation_and_nothing_after_the_last() -> None:
    block = ResidualBlock(
        **BLOCK, batchnorm=True, dropout=0.3, activation_type="lrelu", activation_params={"inplace": True}
    )
    between = ["Dropout2d", "BatchNorm2d", "LeakyReLU"]
    assert [name for name, _ in block.named_children()] == ["main_path", "shortcut_path"]
    assert kinds(block.main_path) == ["Conv2d", *between, "Conv2d", *between, "Conv2d"]
    assert (block.main_path[1].p, block.main_path[2].num_features, block.main_path[3].inplace) == (0.3, 4, True)
    assert kinds(ResidualBlock(**BLOCK).main_path) == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]


def test_block_convolutions_keep_height_and_width_and_have_a_bias() -> None:
    convolutions = [layer for layer in ResidualBlock(**BLOCK).main_path if isinstance(layer, nn.Conv2d)]
    assert [conv.kernel_size for conv in convolutions] == [(3, 3), (1, 1), (5, 5)]
    assert [conv.padding for conv in convolutions] == [(1, 1), (0, 0), (2, 2)]
    assert all(conv.stride == (1, 1) and conv.bias is not None for conv in convolutions)
    assert ResidualBlock(**BLOCK)(torch.rand(2, 3, 9, 7)).shape == (2, 6, 9, 7)


def test_block_shortcut_projects_without_bias_only_where_channels_differ() -> None:
    projection = ResidualBlock(3, [4], [3]).shortcut_path
    assert isinstance(projection, nn.Conv2d)
    assert (projection.kernel_size, projection.padding, projection.bias) == ((1, 1), (0, 0), None)
    assert projection.weight.shape == (4, 3, 1, 1)
    identity, x = ResidualBlock(4, [6, 4], [3, 3]).shortcut_path, torch.rand(1, 4, 5, 5)
    assert not list(identity.parameters())
    assert torch.equal(identity(x), x)


def test_block_draws_its_main_path_before_its_shortcut() -> None:
    torch.manual_seed(42)
    main, shortcut = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1, bias=False)
    block = seeded(lambda: ResidualBlock(3, [4], [3]))
    assert torch.equal(block.main_path[0].weight, main.weight)
    assert torch.equal(block.shortcut_path.weight, shortcut.weight)


@pytest.mark.parametrize("name", ["tanh", "none", "lrelu"])
def test_block_ends_with_a_relu_whatever_its_activation(name: str) -> None:
    block, x = ResidualBlock(**BLOCK, activation_type=name), torch.randn(2, 3, 6, 6)
    total = block.main_path(x) + block.shortcut_path(x)
    assert torch.equal(block(x), total.clamp(min=0))
    assert total.min() < 0
    assert total.max() > 0.1


def test_bottleneck_projects_down_and_back_around_every_inner_convolution() -> None:
    block = ResidualBottleneckBlock(
        256,
        [64, 32, 64],
        [3, 5, 3],
        batchnorm=True,
        dropout=0.1,
        activation_type="elu",
        activation_params={"alpha": 0.5},
    )
    convolutions = [layer for layer in block.main_path if isinstance(layer, nn.Conv2d)]
    widths = [256, 64, 64, 32, 64, 256]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == list(pairwise(widths))
    assert [c.kernel_size[0] for c in convolutions] == [1, 3, 5, 3, 1]
    assert kinds(block.main_path) == ["Conv2d", "Dropout2d", "BatchNorm2d", "ELU"] * 4 + ["Conv2d"]
    assert {layer.alpha for layer in block.main_path if isinstance(layer, nn.ELU)} == {0.5}
    assert not list(block.shortcut_path.parameters())


# --- ResNet


def test_resnet_has_a_block_a_group_and_no_pool_after_a_short_one() -> None:
    model = ResNet(**small(channels=[4, 6, 5, 6, 7], pool_every=2))
    assert isinstance(model, CNN)
    assert kinds(model.feature_extractor) == ["ResidualBlock", "MaxPool2d"] * 2 + ["ResidualBlock"]
    first, tail = model.feature_extractor[0], model.feature_extractor[4]
    assert [layer.out_channels for layer in first.main_path if isinstance(layer, nn.Conv2d)] == [4, 6]
    assert kinds(tail.main_path) == ["Conv2d"]
    assert tail.shortcut_path.weight.shape == (7, 6, 1, 1)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnet_gives_its_options_to_both_kinds_of_block(bottleneck: bool) -> None:
    model = ResNet(
        **small(
            channels=[8, 4, 4, 8] * 2, pool_every=4, activation_type="lrelu", activation_params={"negative_slope": 0.2}
        ),
        batchnorm=True,
        dropout=0.25,
        bottleneck=bottleneck,
    )
    assert kinds(model.feature_extractor)[2] == ("ResidualBottleneckBlock" if bottleneck else "ResidualBlock")
    for block in (model.feature_extractor[0], model.feature_extractor[2]):
        assert kinds(block.main_path)[:4] == ["Conv2d", "Dropout2d", "BatchNorm2d", "LeakyReLU"]
        assert block.main_path[1].p == 0.25
        assert block.main_path[3].negative_slope == 0.2


def test_bottleneck_group_keeps_only_what_is_between_its_ends() -> None:
    block = ResNet(**small(in_size=(8, 8, 8), channels=[8, 4, 2, 8], pool_every=4), bottleneck=True).feature_extractor[
        0
    ]
    convolutions = [layer for layer in block.main_path if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [4, 4, 2, 8]
    assert [conv.kernel_size[0] for conv in convolutions] == [1, 3, 3, 1]


@pytest.mark.parametrize(
    ("channels", "every", "regular"),
    [
        ([8, 4, 8] * 3, 3, "1 of 3"),
        ([8, 8, 8, 8], 2, "2 of 2"),
        ([8, 4, 6], 3, "1 of 1"),
        ([8, 4, 8, 8, 4, 8, 8], 3, "2 of 3"),
    ],
)
def test_resnet_says_which_bottlenecks_it_could_not_build(channels: list[int], every: int, regular: str) -> None:
    model = ResNet(**small(channels=channels, pool_every=every), bottleneck=True)
    assert model.doubt is not None
    assert model.doubt.startswith(
        f"bottleneck=True, but {regular} groups stayed regular blocks: a bottleneck needs 3 or"
    )
    assert f"doubt: {model.doubt}\n" in repr(model)
    assert ResNet(**small(channels=channels, pool_every=every)).doubt is None


def test_resnet_has_no_doubt_when_all_was_built() -> None:
    model = ResNet(**small(in_size=(8, 8, 8), channels=[8, 4, 8] * 2, pool_every=3), bottleneck=True)
    assert model.doubt is None
    assert "doubt" not in repr(model)
    with pytest.raises(AttributeError):
        model.doubt = "none"


def test_resnet_says_that_conv_params_do_not_apply() -> None:
    model = ResNet(**small(conv_params={"kernel_size": 5, "padding": 2}))
    assert model.doubt is not None
    assert model.doubt.startswith("conv_params={'kernel_size': 5, 'padding': 2} do not apply")
    assert {conv.kernel_size for conv in model.modules() if isinstance(conv, nn.Conv2d)} == {(3, 3), (1, 1)}
    assert ResNet(**small(conv_params={"kernel_size": 3, "stride": 1, "padding": 1})).doubt is None
    both = ResNet(**small(conv_params={"kernel_size": 5}), bottleneck=True).doubt
    assert both is not None
    assert both.startswith("bottleneck=True")
    assert "; conv_params=" in both


# --- what is accepted, and where


@pytest.mark.parametrize("sequence", [list, tuple, torch.Size])
def test_lists_tuples_and_sizes_are_alike(sequence: Callable[[list[int]], Any]) -> None:
    sizes = {"in_size": sequence([3, 8, 8]), "channels": sequence([4, 6]), "hidden_dims": sequence([7])}
    for builder in (CNN, ResNet):
        assert repr(builder(**small(**sizes))) == repr(builder(**SMALL))
    assert repr(ResidualBlock(3, sequence([4, 5, 6]), sequence([3, 1, 5]))) == repr(ResidualBlock(**BLOCK))
    bottlenecks = [ResidualBottleneckBlock(8, make([4, 2]), make([3, 5])) for make in (list, sequence)]
    assert repr(bottlenecks[0]) == repr(bottlenecks[1])


def test_arguments_are_left_as_they_were() -> None:
    arguments = small(conv_params={"padding": 1}, activation_params={}, pooling_params={"kernel_size": 2})
    before = copy.deepcopy(arguments)
    ResNet(**arguments)
    CNN(**arguments)
    assert arguments == before


@pytest.mark.parametrize("builder", [CNN, ResNet])
def test_builds_on_meta(builder: Callable[..., CNN]) -> None:
    arguments = small(channels=[4, 6, 6], pool_every=2) | (
        {"batchnorm": True, "dropout": 0.1} if builder is ResNet else {}
    )
    with torch.device("meta"):
        model = builder(**arguments)
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 5)
    assert [p.shape for p in model.parameters()] == [p.shape for p in builder(**arguments).parameters()]


@pytest.mark.parametrize("builder", [CNN, ResNet])
def test_can_be_copied_and_pickled(builder: Callable[..., CNN]) -> None:
    model, x = builder(**SMALL).eval(), torch.rand(1, 3, 8, 8)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


# --- what is refused: one line that names what was asked, what was found and what to do


@pytest.mark.parametrize("builder", [CNN, ResNet])
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"channels": []}, "channels is []: give a list with at least one whole number"),
        ({"channels": 4}, "channels is 4: give a list"),
        ({"channels": "44"}, "channels is '44': give a list"),
        ({"channels": [4, 0]}, "channels[1] is 0: give a whole number from 1 up"),
        ({"channels": [-4]}, "channels[0] is -4: give a whole number"),
        ({"channels": [True]}, "channels[0] is True: give a whole number"),
        ({"channels": [4.0]}, "channels[0] is 4.0: give a whole number"),
        ({"channels": ["4"]}, "channels[0] is '4': give a whole number"),
        ({"hidden_dims": ()}, "hidden_dims is (): give a list"),
        ({"hidden_dims": [7, None]}, "hidden_dims[1] is None: give a whole number"),
        ({"pool_every": 0}, "pool_every is 0: give a whole number from 1 up"),
        ({"pool_every": 1.5}, "pool_every is 1.5: give a whole number"),
        ({"out_classes": 0}, "out_classes is 0: give a whole number"),
        ({"in_size": (8, 8)}, "in_size is (8, 8): give the three sizes of one image, (C, H, W)"),
        ({"in_size": [1, 3, 8, 8]}, "in_size is [1, 3, 8, 8]: give the three sizes"),
        ({"in_size": (3, 0, 8)}, "in_size[1] is 0: give a whole number"),
        ({"in_size": 8}, "in_size is 8: give a list"),
        (
            {"activation_type": "rely"},
            "activation_type is 'rely', which is not known: take one of relu, tanh, sigmoid, softm",
        ),
        ({"activation_type": ["relu"]}, "activation_type is ['relu'], which is not known: take one of relu"),
        ({"pooling_type": "median"}, "pooling_type is 'median', which is not known: take one of max, avg"),
        (
            {"conv_params": {"kernel": 3}},
            "conv_params has 'kernel', which is not known: known are kernel_size, stride, pad",
        ),
        ({"conv_params": {"in_channels": 3}}, "conv_params has 'in_channels', which is not known"),
        ({"conv_params": 3}, "conv_params is 3: give a dict of options"),
        ({"conv_params": {"kernel_size": 0}}, "conv_params['kernel_size'] is 0: give a whole number from 1 up"),
        ({"conv_params": {"kernel_size": None}}, "conv_params['kernel_size'] is None: give a whole number"),
        (
            {"conv_params": {"kernel_size": (3, 3, 3)}},
            "conv_params['kernel_size'] is (3, 3, 3): give one whole number or t",
        ),
        ({"conv_params": {"stride": (1, 0)}}, "conv_params['stride'][1] is 0: give a whole number"),
        ({"conv_params": {"padding": -1}}, "conv_params['padding'] is -1: give a whole number from 0 up"),
        ({"conv_params": {"padding": "some"}}, "conv_params['padding'] is 'some': give a whole number"),
        (
            {"pooling_params": {"size": 2}},
            "pooling_params has 'size', which is not known: known are kernel_size, stride",
        ),
        ({"pooling_params": {"return_indices": True}}, "pooling_params has 'return_indices', which is not known"),
        ({"pooling_params": {"kernel_size": False}}, "pooling_params['kernel_size'] is False: give a whole number"),
        ({"pooling_params": {"padding": 2}}, "pool 1 gets 8x8, but MaxPool2d(kernel_size=2, stride=2, padding=2"),
        ({"activation_params": {"slope": 0.1}}, "activation_params has 'slope', which is not known: known are inplace"),
        (
            {"activation_type": "tanh", "activation_params": {"slope": 0.1}},
            "activation_params has 'slope', which is not known: known are none",
        ),
    ],
    ids=str,
)
def test_network_refuses(builder: Callable[..., CNN], changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is compared below, with its brackets
        builder(**small(**changes))
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("builder", "changes", "line"),
    [
        (CNN, {"in_size": (3, 6, 6), "channels": [4] * 3, "pool_every": 2, "conv_params": {"kernel_size": 3}},
         "conv 3 gets 1x1 and needs 3x3: the feature maps shrink to nothing at feature_extractor.5; take fewer layers"),
        (CNN, {"in_size": (3, 9, 5), "channels": [4] * 4, "pool_every": 4, "conv_params": {"kernel_size": (1, 3)}},
         "conv 3 gets 9x1 and needs 1x3: "),
        (CNN, {"conv_params": {"kernel_size": 3, "dilation": 4, "padding": 0}}, "conv 1 gets 8x8 and needs 9x9: "),
        (CNN, {"conv_params": {"kernel_size": 9, "padding": "valid"}}, "conv 1 gets 8x8 and needs 9x9: "),
        (CNN, {"channels": [4] * 4}, "pool 4 gets 1x1 and needs 2x2: "),
        (CNN, {"pooling_type": "avg", "pooling_params": {"kernel_size": 5}}, "pool 2 gets 1x1 and needs 5x5: "),
        (ResNet, {"channels": [4] * 4}, "pool 4 gets 1x1 and needs 2x2: the feature maps shrink to nothing at"),
    ],
)  # fmt: skip
def test_shrinking_maps_name_the_layer_and_its_size(
    builder: Callable[..., CNN], changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is compared below
        builder(**small(**changes))
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"channels": []}, "channels is []: give a list"),
        ({"kernel_sizes": []}, "kernel_sizes is []: give a list"),
        ({"kernel_sizes": [3, 3]}, "channels has 3 entries and kernel_sizes 2: give one kernel size each"),
        ({"kernel_sizes": [3, 4, 3]}, "kernel_sizes[1] is 4: give an odd size"),
        ({"kernel_sizes": [3, 0, 3]}, "kernel_sizes[1] is 0: give a whole number"),
        ({"kernel_sizes": [3, 3, True]}, "kernel_sizes[2] is True: give a whole number"),
        ({"in_channels": 0}, "in_channels is 0: give a whole number"),
        ({"in_channels": "3"}, "in_channels is '3': give a whole number"),
        ({"dropout": 1.0}, "dropout is 1.0: give a share from 0 up to, not including, 1"),
        ({"dropout": -0.1}, "dropout is -0.1: give a share"),
        ({"dropout": float("nan")}, "dropout is nan: give a share"),
        ({"dropout": False}, "dropout is False: give a share"),
        ({"dropout": "0.1"}, "dropout is '0.1': give a share"),
        ({"activation_type": "swish"}, "activation_type is 'swish', which is not known: take one of relu"),
        ({"activation_params": {"alpha": 1}}, "activation_params has 'alpha', which is not known"),
    ],
    ids=str,
)
def test_block_refuses(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is compared below
        ResidualBlock(**{**BLOCK, **changes})
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((0, [4], [3]), "in_out_channels is 0: give a whole number"),
        ((8, [], []), "inner_channels is []: give a list"),
        ((8, [4, 4], [3]), "inner_channels has 2 entries and inner_kernel_sizes 1: give one kernel size each"),
        ((8, [4], [2]), "inner_kernel_sizes[0] is 2: give an odd size"),
    ],
    ids=str,
)
def test_bottleneck_refuses_in_the_words_of_its_own_arguments(arguments: tuple[Any, ...], line: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is compared below
        ResidualBottleneckBlock(*arguments)
    assert str(refused.value).startswith(line)


# --- ArgMaxClassifier


class TestArgMaxClassifier:
    @pytest.fixture
    def x(self) -> Tensor:
        return torch.randn(6, 3, 8, 8)

    def test_forward_gives_the_networks_scores(self, x: Tensor) -> None:
        model = CNN(**SMALL)
        assert torch.equal(ArgMaxClassifier(model)(x), model(x))

    def test_probabilities_are_the_softmax_of_each_row(self, x: Tensor) -> None:
        classifier = ArgMaxClassifier(CNN(**SMALL))
        probabilities, powers = classifier.predict_proba(x), classifier(x).exp()
        assert probabilities.shape == (6, 5)
        torch.testing.assert_close(probabilities, powers / powers.sum(1, keepdim=True))

    def test_classes_are_the_highest_scores(self) -> None:
        classes = ArgMaxClassifier(nn.Identity()).classify(torch.tensor([[0.0, 3.0, -1.0], [5.0, 3.0, 4.0]]))
        assert (classes.tolist(), classes.dtype, classes.shape) == ([1, 0], torch.int64, (2,))

    def test_takes_part_in_training_as_any_module(self, x: Tensor) -> None:
        classifier = ArgMaxClassifier(CNN(**SMALL))
        classifier.predict_proba(x)[:, 0].sum().backward()
        assert all(p.grad is not None for p in classifier.parameters())
        assert not classifier.eval().model.training
