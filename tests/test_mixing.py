"""What an output combines, against closed forms, published values, and what NaN spreads to."""

import math

import dependence
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlock
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from cnnprof.analysis.mixing import followed, mixing
from cnnprof.analysis.rank import ranks
from cnnprof.inputs import Inputs
from cnnprof.models import catalog


def mixed(module, size=(3, 224, 224)):
    return mixing(module, Inputs.without_values(size, 1))


class Of(nn.Module):
    """A forward pass as a function of the image and of layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


# Known values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "field", "narrowest", "past"),
    [
        ("regular", (5, 5), 256, None),
        ("bottleneck", (3, 3), 64, 256),
        ("bottleneck(kernel_size=5)", (5, 5), 64, 256),
        ("regular(depth=4)", (9, 9), 256, None),
        ("bottleneck(skip=False)", (3, 3), 64, None),
    ],
)
def test_blocks(model, field, narrowest, past):
    found = mixed(catalog.resolve(model).module, (256, 56, 56))
    assert (found.receptive_field, found.narrowest_channels, found.carried_past) == (field, narrowest, past)
    assert (found.channels_combined, found.input_channels) == ((256, 256), 256)


def resnet50_as_first_published():
    """With the stride on the 1x1 convolution, as He et al. had it in 2015."""
    network = models.resnet50()
    for part in network.modules():
        if isinstance(part, Bottleneck):
            part.conv1.stride, part.conv2.stride = part.conv2.stride, part.conv1.stride
    return network


@pytest.mark.parametrize(
    ("network", "field", "stride"),
    [  # Araujo et al., "Computing receptive fields of convolutional neural networks", Distill 2019
        (models.alexnet, 195, 32),
        (models.vgg16, 212, 32),
        (models.resnet50, 427, 32),
        (resnet50_as_first_published, 483, 32),
    ],
)
def test_published_fields(network, field, stride):
    with torch.device("meta"):
        found = mixed(network())
    assert found.receptive_field == "all"
    before = [layer for layer in found.layers if layer.receptive_field != "all"][-1]
    assert (before.receptive_field, before.stride) == ((field, field), (stride, stride))


def test_every_layer_has_its_field_stride_and_padding():
    found = mixed(nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)))
    rows = [(each.path, each.receptive_field[0], each.stride[0], each.padding[0]) for each in found.layers]
    assert rows == [("0", 7, 2, 3), ("2", 11, 4, 5), ("3", 19, 4, 9)]  # 7, + 2·2, + 4·2; 3, + 2·1, + 4·1


def test_an_interpolated_element_upon_another_sees_that_alone():
    reach, _ = followed(nn.Upsample(scale_factor=3, mode="bilinear"), Inputs.without_values((3, 9, 9), 1))
    assert [reach.seen[0](element) for element in (3, 4, 5)] == [(0, 1), (1, 1), (1, 2)]  # at 2/3, 1 and 4/3


def test_dilation_and_stride():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2), nn.MaxPool2d(3, 2), nn.Conv2d(3, 3, 3, dilation=2))
    assert mixed(net).receptive_field == (23, 23)  # 3, + 2·2, + 4·(3 - 1)·2


@pytest.mark.parametrize(
    ("layers", "combined"),
    [
        ([nn.Conv2d(8, 8, 3, groups=8)], (1, 1)),
        ([nn.Conv2d(8, 8, 1, groups=4)], (2, 2)),
        ([nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 8, 1, groups=4)], (2, 2)),
        ([nn.Conv2d(8, 8, 1, groups=4), nn.ChannelShuffle(4), nn.Conv2d(8, 8, 1, groups=4)], (4, 4)),
        ([nn.Conv2d(8, 8, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(8, 8, 1, groups=2)], (8, 8)),
        ([nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)], (8, 8)),
        ([nn.Conv2d(8, 8, 3, groups=8), nn.InstanceNorm2d(8)], (1, 1)),
        ([nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8)], (4, 4)),
    ],
)
def test_channels_that_an_output_channel_combines(layers, combined):
    assert mixed(nn.Sequential(*layers), (8, 16, 16)).channels_combined == combined


def test_a_gate_is_no_waist():
    found = mixed(
        Of(lambda x, a, g: a(x) * torch.sigmoid(g(x)), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)), (8, 9, 9)
    )
    assert found.narrowest_channels == 8


@pytest.mark.parametrize(
    "network",
    [
        Of(lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2))),
        Of(lambda x, a: a(x).roll(1, 2), nn.Conv2d(8, 8, 3)),
        Of(lambda x: F.interpolate(x, size=(17, 17), mode="bilinear", align_corners=True)),
        Of(lambda x, a, b: a(x) + b(x)[:, :, :4, :4], nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3)),
    ],
)
def test_what_cannot_be_followed_is_unknown(network):
    assert mixed(network, (8, 9, 9)).receptive_field is None


def windowed_attention(x):
    tiles = x.view(-1, 8, 3, 3, 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, 8)
    return F.scaled_dot_product_attention(tiles, tiles, tiles)


def patches_by_hand(x, mix):
    return mix(x.view(-1, 8, 3, 3, 3, 3).permute(0, 2, 4, 3, 5, 1).flatten(3)).mean(-1)


def added_under_another_name(x, conv):
    y = x * 1
    y.view(y.shape).add_(conv(x))
    return y


@pytest.mark.parametrize(
    "network",
    [
        Of(windowed_attention),
        Of(patches_by_hand, nn.Linear(72, 4)),
        Of(lambda x: x - x.mean(3, keepdim=True)),
        Of(lambda x: x.softmax(-1)),
        Of(lambda x, mix: mix(x), nn.Linear(9, 9)),
        nn.LayerNorm(9),
        Of(lambda x: x.cumsum(2)),
        Of(added_under_another_name, nn.Conv2d(8, 8, 3, padding=1)),
        Of(lambda x, conv: conv(x.flatten(1).unflatten(1, (8, 9, 9))), nn.Conv2d(8, 8, 3)),
        Of(lambda x: x + x[:, :, :1]),
        Of(lambda x, conv: conv(x[:, :, :1].expand_as(x)), nn.Conv2d(8, 8, 3)),
        Of(lambda x: F.avg_pool3d(x.unsqueeze(1), (3, 1, 1)).squeeze(1)),
        nn.Upsample(scale_factor=1.3, mode="bilinear"),
    ],
)
def test_part_of_space_is_neither_a_window_nor_all(network):
    assert mixed(network, (8, 9, 9)).receptive_field is None


def test_a_copy_is_what_it_is_copied_from():
    found = mixed(Of(lambda x, conv: x.clone().copy_(conv(x)), nn.Conv2d(8, 8, 5, padding=2)), (8, 9, 9))
    assert (found.receptive_field, found.channels_combined) == ((5, 5), (8, 8))


def test_paths_of_other_layouts_that_meet_stay_what_they_all_are():
    found = mixed(
        Of(lambda x, conv: conv(x).flatten(2) + conv(x).transpose(2, 3).flatten(2), nn.Conv2d(8, 8, 3)), (8, 9, 9)
    )
    assert (found.receptive_field, found.channels_combined) == (None, (8, 8))


def test_a_tensor_that_is_written_into_in_part_is_unknown():
    def interleave(x, conv):
        whole = x.new_zeros(x.shape)
        whole[:, ::2] = x[:, ::2]
        whole[:, 1::2] = conv(x)[:, 1::2]
        return whole + x

    found = mixed(Of(interleave, nn.Conv2d(8, 8, 3, padding=1)), (8, 9, 9))
    assert (found.receptive_field, found.channels_combined) == (None, None)


# Tried ---------------------------------------------------------------------------------------------------------------


def unet(x, down, middle, up):
    left = down(x)
    return up(torch.cat([left, F.interpolate(middle(F.max_pool2d(left, 2)), scale_factor=2)], 1))


def convnext(x, depthwise, norm, wide, narrow):
    return x + narrow(F.gelu(wide(norm(depthwise(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)


def attention(x, project):
    query, key, value = project(x.flatten(2).transpose(1, 2)).chunk(3, -1)
    weights = (query @ key.transpose(1, 2)).softmax(-1)
    return (weights @ value).transpose(1, 2).unflatten(2, x.shape[2:])


def fused_attention(x, project):
    query, key, value = project(x.flatten(2).transpose(1, 2)).chunk(3, -1)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).unflatten(2, x.shape[2:])


def shortcut_without_weights(x, conv):
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)) + conv(x)


def shuffled_by_hand(x, one, other):
    return other(one(x).view(-1, 4, 2, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6))


def squeezed(x, depthwise, gate):
    return depthwise(x) * torch.sigmoid(gate(F.adaptive_avg_pool2d(x, 1)))


TRIED = {
    "rectangular": (nn.Conv2d(3, 4, (3, 5), stride=(1, 2), dilation=(2, 1)), (3, 20, 30)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 12, 12)),
    "pools": (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1)), (3, 40, 40)),
    "one dimension": (nn.Sequential(nn.Conv1d(3, 4, 5, stride=2), nn.MaxPool1d(2), nn.AvgPool1d(3)), (3, 64)),
    "three dimensions": (nn.Sequential(nn.Conv3d(2, 4, 3), nn.MaxPool3d((1, 2, 2))), (2, 5, 20, 20)),
    "transposed": (nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1), (3, 12, 12)),
    "hourglass": (
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Conv2d(4, 3, 3, padding=1)),
        (3, 40, 40),
    ),
    "unet": (
        Of(unet, *(nn.Conv2d(*channels, 3, padding=1) for channels in ((3, 4), (4, 4), (8, 4)))),
        (3, 40, 40),
    ),
    "bilinear": (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(3, 4, 3)), (3, 20, 20)),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), (3, 16, 16)),
    "two thirds": (nn.Sequential(nn.Upsample(size=(8, 8)), nn.Conv2d(3, 3, 2)), (3, 12, 12)),
    "padded": (nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(3, 4, 3)), (3, 20, 20)),
    "cropped": (Of(lambda x, conv: conv(x[:, :, 2:-1, ::2]), nn.Conv2d(3, 4, 3)), (3, 20, 20)),
    "pixel shuffle": (nn.Sequential(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 4, 3)), (3, 20, 20)),
    "space to depth": (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)), (3, 20, 20)),
    "channels split": (
        Of(lambda x, a, b: torch.cat([a(x.chunk(2, 1)[1]), b(x)[:, 3:6]], 1), nn.Conv2d(4, 4, 1), nn.GroupNorm(4, 8)),
        (8, 6, 6),
    ),
    "shuffled by hand": (
        Of(shuffled_by_hand, nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 8, 1, groups=4)),
        (8, 6, 6),
    ),
    "shortcut without weights": (Of(shortcut_without_weights, nn.Conv2d(4, 6, 3, 2, 1, groups=2)), (4, 20, 20)),
    "squeezed": (Of(squeezed, nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.Conv2d(6, 6, 1)), (6, 10, 10)),
    "group norm": (nn.Sequential(nn.Conv2d(6, 6, 1, groups=6), nn.GroupNorm(3, 6)), (6, 8, 8)),
    "batch norm": (nn.Sequential(nn.Conv2d(6, 6, 1, groups=6), nn.BatchNorm2d(6), nn.PReLU()), (6, 8, 8)),
    "channels last": (
        Of(convnext, nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6), nn.Linear(6, 24), nn.Linear(24, 6)),
        (6, 20, 20),
    ),
    "attention": (Of(attention, nn.Linear(4, 12)), (4, 6, 6)),
    "fused attention": (Of(fused_attention, nn.Linear(4, 12)), (4, 6, 6)),
    "mixed over tokens": (Of(lambda x, mix: mix(x.flatten(2)).unflatten(2, (6, 6)), nn.Linear(36, 36)), (4, 6, 6)),
    "repeated channels": (Of(lambda x: torch.cat([x.mean(1, keepdim=True).expand_as(x), x], 1)[:, 1:4]), (4, 6, 6)),
    "maxout": (Of(lambda x, conv: conv(x).unflatten(1, (2, 3)).amax(1), nn.Conv2d(3, 6, 1, groups=3)), (3, 8, 8)),
    "einsum": (Of(lambda x, mix: torch.einsum("nchw,oc->nohw", x, mix.weight), nn.Linear(4, 4)), (4, 8, 8)),
    "classifier": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 64, 5)), (3, 10, 10)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRIED)
def test_reaches_are_what_nan_spreads_to(name):
    check(*TRIED[name])


def check(network, size):
    reach, _ = followed(network, Inputs.without_values(size, 1))
    spread = dependence.spread_of_nan(network, size)
    assert reach.channels.tolist() == dependence.channels(spread).tolist()
    if reach.seen == "all":
        assert all(hit.flatten(1).all(dim=0).any() for hit in spread[1:])
        return
    for window, found, length in zip(reach.seen, dependence.windows(spread), size[1:], strict=True):
        inside = [i for i in range(len(found)) if window(i)[0] >= 0 and window(i)[1] < length]
        assert [window(i) for i in inside] == [found[i] for i in inside]


@st.composite
def graphs(draw):
    """Chains of convolutions, pools and resizings, in two branches that meet, of equal strides and unequal lengths."""
    branch = draw(st.lists(st.sampled_from(["conv", "dilated", "depthwise", "pool"]), max_size=3))
    other = draw(st.lists(st.sampled_from(["conv", "dilated", "depthwise"]), max_size=2))
    stem = draw(st.sampled_from(["conv", "strided", "pool"]))
    tail = draw(st.sampled_from(["conv", "up", "transposed", "strided"]))
    return stem, branch, other, tail, draw(st.booleans())


def layer(kind):
    return {
        "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
        "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        "depthwise": lambda: nn.Conv2d(4, 4, 5, padding=2, groups=4),
        "pool": lambda: nn.MaxPool2d(3, 1, 1),
        "strided": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1),
        "up": lambda: nn.Upsample(scale_factor=2),
        "transposed": lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
    }[kind]()


@settings(max_examples=15)
@given(graphs())
def test_any_graph_of_convolutions_pools_and_sums(graph):
    stem, branch, other, tail, joined = graph
    parts = (layer(stem), nn.Sequential(*map(layer, branch)), nn.Sequential(*map(layer, other)), layer(tail))

    def forward(x, stem, branch, other, tail):
        x = stem(x)
        return tail(torch.cat([branch(x)[:, :2], other(x)[:, 1:3]], 1) if joined else branch(x) + other(x))

    check(Of(forward, *parts), (4, 32, 32))


# Rank ----------------------------------------------------------------------------------------------------------------


def rank_of(network, size):
    macs = sum(parameter.numel() for parameter in network.parameters()) * math.prod(size[1:])
    return ranks(lambda: network, network, Inputs.without_values(size, 1), macs)


def waist_of_rank_one():
    network = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.randn(8, 1, 1, 1) * torch.randn(1, 32, 1, 1))
    return network


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [
        (catalog.regular(channels=32)[0], (32, 14, 14), (32, 32)),
        (catalog.bottleneck(channels=32)[0], (32, 14, 14), (8, 32)),
        (catalog.bottleneck(channels=32, batchnorm=True)[0], (32, 14, 14), (8, 32)),
        (catalog.bottleneck(channels=32, skip=False)[0], (32, 14, 14), (8, 8)),
        (waist_of_rank_one(), (32, 8, 8), (1, 1)),
        (nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 64, 3)), (32, 8, 8), (8, 8)),
        (nn.Sequential(nn.Conv2d(16, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 16, 3, 2)), (16, 32, 32), (6, 6)),
        (Bottleneck(64, 16), (64, 14, 14), (16, 64)),
        (InvertedResidual(16, 16, 1, 6), (16, 14, 14), (16, 16)),
        (nn.Conv2d(16, 16, 3, groups=16), (16, 8, 8), (16, 16)),
    ],
)
def test_the_rank_of_the_map_between_channels(network, size, expected):
    assert rank_of(network, size) == expected


@pytest.mark.slow
def test_the_ranks_of_the_question():
    assert rank_of(catalog.regular()[0], (256, 56, 56)) == (256, 256)
    assert rank_of(catalog.bottleneck()[0], (256, 56, 56)) == (64, 256)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (nn.Sequential(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2)), (8, 16, 16)),
        (CNBlock(8, 1.0, 0.0), (8, 16, 16)),
        (models.squeezenet1_1(num_classes=4), (3, 64, 64)),
        (nn.Upsample(scale_factor=2), (8, 16, 16)),
    ],
)
def test_what_is_not_linear_without_activations_has_no_rank(network, size):
    assert rank_of(network, size) is None
