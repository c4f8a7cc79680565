"""Pictures to learn from: a stand-in that knows digits alone, until the room's own loaders take its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnprof import units
from cnnprof.errors import UsageError
from cnnprof.records import Size


@dataclass(frozen=True)
class Pictures:
    """Images (N, C, H, W) before they are normalised, with their labels."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    mean: float
    std: float
    note: str


def load(
    name: str, input_size: Size, *, data_dir: str | Path | None = None, download: bool = False, seed: int = 42
) -> Pictures:
    """Load pictures by name, resized to (C, H, W). Raises UsageError for an unknown name."""
    if name != "digits":
        raise UsageError(f"data {name!r}: there is no such data; known: digits")
    from sklearn.datasets import load_digits

    digits = load_digits()
    channels, *sides = input_size
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(images[order], size=tuple(sides), mode="bilinear").expand(-1, channels, -1, -1)
    labels = torch.tensor(digits.target)[order]
    note = f"digits, {units.integer(len(images))} images resized to {units.size(input_size)}"
    mean, std = float(images.mean()), float(images.std())
    return Pictures(name, (images[:1500], labels[:1500]), (images[1500:], labels[1500:]), 10, mean, std, note)


@dataclass(frozen=True)
class Batches:
    """Batches of normalised images (N, C, H, W) and labels (N,)."""

    images: Tensor
    labels: Tensor
    batch_size: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches."""
        yield from zip(
            torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size), strict=True
        )


def batches(
    pictures: Pictures,
    part: Literal["train", "test"],
    batch_size: int,
    *,
    seed: int = 42,
    augment: bool = False,
    device: str = "cpu",
    channels_last: bool = False,
    limit: int | None = None,
) -> Batches:
    """Return batches of one part, of at most `limit` images."""
    images, labels = pictures.train if part == "train" else pictures.test
    images = (images[:limit] - pictures.mean) / pictures.std
    return Batches(images.to(device), labels[:limit].to(device), batch_size)
