"""The effective receptive field: how strongly a central output feels each input place.

Gradients of the outputs at the centre, over random images and weights (Luo et al., "Understanding the effective
receptive field in deep convolutional neural networks", NeurIPS 2016): within the theoretical field most of the weight
lies near the middle, and often like a Gaussian.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cnnprof.records import EffectiveField, Size

SEEDS, IMAGES = 5, 4
TWO_SIGMA = 0.9545
"""Places count whose gradient is above 1 - 95.45 % of the largest, as the paper has it."""
CELLS = 33
"""At most as many are drawn along a side."""


def effective_field(build: Callable[[], nn.Module], size: Size, path: str, seed: int) -> EffectiveField | None:
    """Measure the field of the centre of what the module at `path` returns; None where that is no image.

    `build` makes the network anew, with other weights under another seed where it initialises them. `size` is
    (C, H, W). Raises what the network raises.
    """
    felt = torch.zeros(size[1:], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for number in range(SEEDS):
            torch.manual_seed(seed + number)
            images = torch.randn(IMAGES, *size, requires_grad=True)
            outputs = _outputs(build().eval(), path, images)
            if not isinstance(outputs, torch.Tensor) or outputs.ndim != 4:
                return None
            centre = outputs[:, :, outputs.shape[2] // 2, outputs.shape[3] // 2]
            (gradient,) = torch.autograd.grad(centre.sum(), images)
            felt += gradient.abs().sum((0, 1))
    if not felt.any():
        return None
    felt /= felt.max()
    side = math.sqrt(int((felt > 1 - TWO_SIGMA).sum()))
    return EffectiveField(path, side, SEEDS * IMAGES, *_cells(felt))


def _outputs(network: nn.Module, path: str, images: torch.Tensor) -> Any:
    """Return what the module at a path returns."""
    found: list[Any] = []
    network.get_submodule(path).register_forward_hook(lambda module, inputs, output: found.append(output))
    network(images)
    return found[-1]


def _cells(felt: torch.Tensor) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """Cut out what is felt at all, and average it over squares; return their side and values."""
    rows, columns = felt.any(1).nonzero().flatten(), felt.any(0).nonzero().flatten()
    felt = felt[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = -(-max(felt.shape) // CELLS)
    pooled = nn.functional.avg_pool2d(felt[None], side, ceil_mode=True)[0]
    return side, tuple(tuple(row) for row in (pooled / pooled.max()).tolist())
