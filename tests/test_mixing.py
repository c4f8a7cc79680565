"""Receptive fields and waists against closed forms and published values."""

import pytest
import torch
from torch import nn
from torchvision import models

from cnnprof.analysis.mixing import mixing
from cnnprof.inputs import Inputs
from cnnprof.models import catalog


def mixed(module, size=(3, 224, 224)):
    return mixing(module, Inputs.without_values(size, 1))


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


@pytest.mark.parametrize(
    ("network", "field"),
    [
        (lambda: models.alexnet().features, 195),
        (lambda: models.vgg16().features, 212),
        (lambda: nn.Sequential(*list(models.resnet50().children())[:-2]), 427),
    ],
)
def test_published_fields(network, field):
    with torch.device("meta"):
        assert mixed(network()).receptive_field == (field, field)


def test_branches_of_unequal_length_reach_as_far_as_the_longest():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.short, self.long = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 7, padding=3, dilation=1)

        def forward(self, x):
            return torch.cat([self.short(x), self.long(x)], dim=1)

    assert mixed(Branches()).receptive_field == (7, 7)


def test_dilation_and_stride():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2), nn.MaxPool2d(3, 2), nn.Conv2d(3, 3, 3, dilation=2))
    assert mixed(net).receptive_field == (23, 23)  # 3, + 2·2, + 4·(3 - 1)·2


def test_global_operators_see_all_and_unknown_ones_are_unknown():
    assert mixed(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1))).receptive_field == "all"
    assert mixed(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 222 * 222, 2))).receptive_field == "all"
    assert mixed(nn.Upsample(scale_factor=2)).receptive_field is None
