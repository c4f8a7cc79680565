"""What is tried and on what: a network that can be made again and again, its steps and its scores."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprof.inputs import tensors_in
from cnnprof.records import Check, Status

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) and labels (N,)."""
Loss = Callable[[Any], Tensor]


class OutOfTimeError(Exception):
    """No time is left for a question."""


BATCH = 16
AUXILIARY = 0.3
"""Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 5."""


@dataclass(frozen=True)
class Trial:
    """A network that can be made again and again, and what it is tried on."""

    build: Callable[[], nn.Module]
    batches: Sequence[Batch]
    """Of 16 images each, on the device."""
    loss: Loss | None = None
    """Of the output alone; None: cross-entropy with the labels."""
    seed: int = 42
    device: str = "cpu"
    course: bool = False
    """Whether it overfits is asked in the course's way."""
    ends: float = math.inf
    """By the clock: a question that is open then is not asked. Steps are counted, so that no verdict depends on it."""
    clock: Callable[[], float] = time.monotonic

    def check_time(self) -> None:
        """Raise OutOfTimeError where no time is left."""
        if self.clock() > self.ends:
            raise OutOfTimeError

    def network(self) -> nn.Module:
        """Make the network under the seed, in training mode."""
        torch.manual_seed(self.seed)
        network = self.build().to(self.device).train()
        if any(map(nn.parameter.is_lazy, network.parameters())):  # the first call gives them their shapes
            with torch.no_grad():
                network(self.batches[0][0])
        return network

    def loss_of(self, output: Any, labels: Tensor) -> Tensor:
        """Return the loss of an output: of auxiliary scores beside the main ones too, so that they get gradients."""
        if self.loss is not None:
            return self.loss(output)
        main, *others = [F.cross_entropy(scores.float(), labels) for scores in all_scores(output)]
        return main + AUXILIARY * torch.stack(others).sum() if others else main

    def passed(self, network: nn.Module, batch: Batch) -> tuple[float, Any]:
        """Pass a batch forwards and back; return the loss and the output. Nothing goes back from what is detached."""
        images, labels = batch
        network.zero_grad(set_to_none=True)
        output = network(images)
        loss = self.loss_of(output, labels)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), output

    def step(self, network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> tuple[float, int]:
        """Take one step; return the loss before it and how many images were right."""
        loss, output = self.passed(network, batch)
        optimizer.step()
        return loss, 0 if self.loss is not None else int((main_scores(output).argmax(1) == batch[1]).sum())

    def few(self, images: int, size: int) -> list[Batch]:
        """Cut the first images into batches of another size."""
        pictures, labels = (torch.cat(parts)[:images] for parts in zip(*self.batches, strict=True))
        return list(zip(torch.split(pictures, size), torch.split(labels, size), strict=True))


def adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    """Return Adam for what is trained, in one kernel where it has one: half the time of large networks was Adam's."""
    parameters = trained(network)
    return torch.optim.Adam(parameters, rate, fused=all(map(torch.is_floating_point, parameters)))


def trained(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def all_scores(output: Any) -> list[Tensor]:
    """Return the scores (N, K) in an output: the main ones come first, auxiliary ones after them."""
    found = [each for each in numbers_in(output) if each.ndim == 2]
    return [each for each in found if each.shape == found[0].shape]


def main_scores(output: Any) -> Tensor:
    """Return the first scores (N, K) in an output."""
    return all_scores(output)[0].float()


def numbers_in(value: Any) -> list[Tensor]:
    """Return the floating tensors in any nest."""
    return [each for each in tensors_in(value) if each.is_floating_point()]


def is_finite(tensor: Tensor) -> bool:
    """Say whether all its numbers are; a sum tells at once, where it does not overflow."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def not_finite_gradient(network: nn.Module) -> str:
    """Name the last parameter whose gradient is not finite: the one the backward pass meets first."""
    gradients = [(name, each.grad) for name, each in network.named_parameters() if each.grad is not None]
    return next((f"the gradient of {name}" for name, each in reversed(gradients) if not is_finite(each)), "")


def rms(tensor: Tensor) -> float:
    """Return the root mean square."""
    return float(tensor.square().mean().sqrt())


def contrast(tensor: Tensor) -> float:
    """Return the share of it that differs between images: between 0, where all are the same, and about 1."""
    return rms(tensor - tensor.mean(0)) / (rms(tensor) or 1.0)


def named(path: str) -> str:
    """Name a module."""
    return path or "the network itself"


def listed(names: Sequence[str], most: int = 3) -> str:
    """A, b, c and 2 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def norms_in(network: nn.Module) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """Yield batch norms by path."""
    for path, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield path, module


def check(name: str, status: Status, value: float | None, message: str, hint: str = "") -> Check:
    """Make a check; a value that is no number of JSON is unknown."""
    return Check(name, status, value if value is not None and math.isfinite(value) else None, message, hint)


NO_LABELS = "the images are random and have no labels: --loss is the user's own"
