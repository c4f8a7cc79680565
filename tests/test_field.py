"""The effective receptive field, against gradients that are known."""

import math

import pytest
import torch
from torch import nn

from cnnprof.measurement.field import effective_field


def felt_by(kernel: torch.Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, kernel.shape, bias=False)
    conv.weight = nn.Parameter(kernel[None, None])
    return conv


def test_a_convolution_feels_by_its_weights():
    kernel = torch.tensor([[0.5, -1.0, 0.25], [0.04, 0.0, 0.05]])
    felt = effective_field(lambda: felt_by(kernel), (1, 9, 9), "", 0)
    assert felt.cells[0] == pytest.approx((0.5, 1.0, 0.25))
    assert felt.cells[1] == pytest.approx((0.04, 0.0, 0.05))
    assert felt.side == pytest.approx(math.sqrt(4))  # of six, 0.04 and 0 are below 4.55 % of the strongest


def test_a_classifier_is_asked_where_it_still_has_places():
    build = lambda: nn.Sequential(nn.Conv2d(3, 4, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))  # noqa: E731
    felt = effective_field(build, (3, 16, 16), "0", 0)
    assert (len(felt.cells), felt.path) == (5, "0")
    assert effective_field(build, (3, 16, 16), "", 0) is None


def test_wide_fields_are_averaged_into_cells():
    felt = effective_field(lambda: felt_by(torch.ones(40, 40)), (1, 64, 64), "", 0)
    assert (felt.cell, len(felt.cells), felt.side) == (2, 20, 40)


def test_the_same_seed_gives_the_same_and_the_callers_random_state_stays():
    state = torch.get_rng_state()
    one, other = (effective_field(lambda: nn.Conv2d(2, 2, 3), (2, 9, 9), "", 7) for _ in range(2))
    assert one == other
    assert torch.equal(torch.get_rng_state(), state)
