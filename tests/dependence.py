"""What a network's outputs depend on, found by trying: NaN spreads to all that depends on it."""

import torch
from torch import nn


def spread_of_nan(network: nn.Module, size: tuple[int, ...]) -> list[torch.Tensor]:
    """Put NaN into one channel, row or column after another; return what was hit: an axis (its length, *outputs)."""
    network = network.eval().double()
    found = []
    for axis, length in enumerate(size):
        images = torch.rand(length, *size, dtype=torch.double)
        for index in range(length):
            images[index].select(axis, index).fill_(torch.nan)
        with torch.no_grad():
            found.append(network(images).isnan())
    return found


def channels(spread: list[torch.Tensor]) -> torch.Tensor:
    """Return which input channels each output channel depends on: booleans (outputs, inputs)."""
    hit = spread[0]
    return hit.reshape(*hit.shape[:2], -1).any(dim=2).T


def windows(spread: list[torch.Tensor]) -> list[list[tuple[int, int] | None]]:
    """Return by axis the first and last place that each output place depends on."""
    found = []
    for axis, hit in enumerate(spread[1:]):
        along = hit.movedim(2 + axis, 1).reshape(hit.shape[0], hit.shape[2 + axis], -1).any(dim=2)
        places = [column.nonzero().flatten().tolist() for column in along.T]
        found.append([(each[0], each[-1]) if each else None for each in places])
    return found
