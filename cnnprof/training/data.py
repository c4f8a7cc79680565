"""Pictures to learn from: found, split, and handed out in batches that depend on the seed and the epoch alone.

Images keep their own size until they are handed out: CIFAR-10 at 3x224x224 would be 7 GiB.
"""

import dataclasses
import difflib
import http.client
import itertools
import math
import os
import tarfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets

from cnnprof import units
from cnnprof.errors import UsageError, first_line

DATA_DIR = Path("~/.pytorch-datasets")
"""Where the published data sets lie, or are fetched to, unless told otherwise."""

ImageSize = tuple[int, int, int]
"""C, H, W."""

_TEST_SHARE = 0.2
_MEASURED_IMAGES = 2000
"""So many images tell mean and deviation of a channel to within 1 % of the range, and are soon decoded."""
_REACH = 1 / 8
"""How far an image is shifted, of its sides: the 4 of 32 pixels of He et al. 2016, section 4.2."""
_MIRRORED_DIFFER = {"digits", "mnist"}
"""Data sets whose mirrored images are other signs, or none."""
_WORTH_WORKERS = 1000
"""Images below which starting processes takes longer than decoding."""
_MOST_WORKERS = 4
_KEPT_BYTES = 2**30
"""Decoded images of a split that a common machine has room for: 7,000 of 3x224x224."""


@dataclass(frozen=True)
class Held:
    """Images (N, C, H, W) of uint8 in memory, of their own size, and their labels (N,) of int64."""

    images: torch.Tensor
    labels: torch.Tensor
    size: ImageSize
    """What they are handed out in."""

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, device: str) -> "Held":
        """Return them in the memory of a device: the largest that is held takes 176 MiB."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def read(self, chosen: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the images (N, C, H, W) of uint8 that each index tensor (N,) chooses."""
        for places in chosen:
            yield self.images[places.to(self.images.device)]


@dataclass(frozen=True)
class Files(Dataset[torch.Tensor]):
    """Image files, decoded when they are handed out for the first time, and their labels (N,) of int64."""

    paths: tuple[str, ...]
    labels: torch.Tensor
    size: ImageSize
    """What they are handed out in."""
    kept: torch.Tensor | None
    """What was decoded (N, 3, H, W), where there is room for all."""
    decoded: torch.Tensor
    """Whether each was (N,)."""
    ranges: "Ranges"

    @classmethod
    def of(cls, paths: Sequence[str], labels: torch.Tensor, size: ImageSize, ranges: "Ranges") -> "Files":
        """Decode none yet."""
        shape = (len(paths), 3, *size[1:])
        kept = torch.empty(shape, dtype=torch.uint8) if math.prod(shape) <= _KEPT_BYTES else None
        return cls(tuple(paths), labels, size, kept, torch.zeros(len(paths), dtype=torch.bool), ranges)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        """Decode one image (3, H, W) of uint8. Raises UsageError for what is none."""
        _, height, width = self.size
        with _opened(self.paths[place]) as image:
            image.draft("RGB", (width, height))  # a JPEG of twice the size or more is decoded at half of it
            resized = _to_8_bits(image, self.ranges).resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).movedim(2, 0)

    def on(self, device: str) -> "Files":
        """Return them with their labels on a device."""
        return dataclasses.replace(self, labels=self.labels.to(device))

    def read(self, chosen: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the images (N, 3, H, W) of uint8 of each index tensor (N,); from files ahead where it is worth it.

        Raises UsageError for a file that is no image.
        """
        if self.kept is not None and self.decoded[torch.cat([*chosen])].all():
            yield from (self.kept[places] for places in chosen)
            return
        loader = DataLoader(
            dataclasses.replace(self, kept=None),  # no worker needs it
            batch_sampler=[places.tolist() for places in chosen],
            num_workers=_workers(sum(map(len, chosen))),
            pin_memory=self.labels.is_cuda,
            generator=torch.Generator(),  # without one it draws from the global generator
        )
        try:
            for places, images in zip(chosen, loader, strict=True):
                if self.kept is not None:
                    self.kept[places], self.decoded[places] = images, True
                yield images
        except UsageError as error:  # a worker's comes with its traceback as text, our line at the end
            # torch's frames hold the loader's iterator in a cycle, and where the garbage collector ends it, the files
            # of its workers are closed twice: the second time it may be somebody else's file.
            traceback.clear_frames(error.__traceback__)
            raise UsageError(str(error).rpartition("UsageError: ")[2].strip()) from None


Split = Held | Files
Ranges = Mapping[str, tuple[float, float]]
"""The lowest and the highest number in files that hold integers of more than 8 bits, I, and in those of floats, F."""


def _to_8_bits(image: Image.Image, ranges: Ranges) -> Image.Image:
    """Return an image in RGB; one of more than 8 bits is scaled, where PIL would clip it to 0..255."""
    if image.mode[0] not in _DEEP:
        return image.convert("RGB")
    low, high = ranges.get(image.mode[0]) or _extremes(image)
    numbers = np.nan_to_num(np.asarray(image, np.float64), nan=low, posinf=high, neginf=low)
    scaled = (numbers.clip(low, high) - low) * (255 / ((high - low) or 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


_DEEP = "IF"
"""How PIL's modes of more than 8 bits begin: I, I;16, I;16B, F."""


def _ranges(paths: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Measure the ranges of files; of other kinds of files there is none."""
    ranges: dict[str, tuple[float, float]] = {}
    for path in paths:
        with _opened(path) as image:
            if image.mode[0] in _DEEP:
                low, high = _extremes(image)
                lowest, highest = ranges.get(image.mode[0], (low, high))
                ranges[image.mode[0]] = min(low, lowest), max(high, highest)
    return ranges


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and the highest finite number of an image; 0 where none is."""
    numbers = np.asarray(image, np.float64)
    finite = numbers[np.isfinite(numbers)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


@dataclass(frozen=True)
class Pictures:
    """A data set, split."""

    name: str
    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    """Of each channel of the train split, as it is handed out, scaled to 0..1."""
    std: tuple[float, ...]
    note: str
    """One sentence: what was taken, how many images, how resized, and why."""


@dataclass
class Batches:
    """Batches of (images float32 (N, C, H, W), labels int64 (N,)), any number of times.

    The order and the augmentation of an epoch depend on the seed and the epoch alone, not on torch's global generator.
    """

    split: Split
    chosen: int
    batch_size: int
    mean: torch.Tensor
    std: torch.Tensor
    seed: int
    shuffled: bool
    augmented: bool
    mirrored: bool
    channels_last: bool
    epoch: int = 0

    def __len__(self) -> int:
        return len(self._split(torch.empty(self.chosen)))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next pass, as torch's DistributedSampler does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = torch.from_numpy(draw.permutation(self.chosen)) if self.shuffled else torch.arange(self.chosen)
        chosen = self._split(order)
        labels = self.split.labels
        for places, images in zip(chosen, self.split.read(chosen), strict=True):
            images = images.to(labels.device, non_blocking=True)
            if self.augmented:
                images = _augmented(images, draw, self.mirrored)
            yield self._normalised(images), labels[places.to(labels.device)]

    def _split(self, order: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cut into batches, without a last one that batch norm cannot train on."""
        batches = torch.split(order, self.batch_size)
        alone = self.shuffled and len(batches) > 1 and self.chosen % self.batch_size == 1
        return batches[:-1] if alone else batches

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        images = (_shaped(images, self.split.size) - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


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
    """Hand out a split, or its first `limit` images, in batches on a device.

    The train split is shuffled anew every epoch and, with `augment`, shifted and mirrored; the test split never is.
    A last batch is smaller, and left out of the train split where it would hold a single image.
    """
    split = (pictures.train if part == "train" else pictures.test).on(device)
    return Batches(
        split,
        chosen=len(split) if limit is None else min(limit, len(split)),
        batch_size=batch_size,
        mean=torch.tensor(pictures.mean, device=device)[:, None, None],
        std=torch.tensor(pictures.std, device=device)[:, None, None],
        seed=seed,
        shuffled=part == "train",
        augmented=augment and part == "train",
        mirrored=pictures.name not in _MIRRORED_DIFFER,
        channels_last=channels_last,
    )


def _augmented(images: torch.Tensor, draw: np.random.Generator, mirrored: bool) -> torch.Tensor:
    """Shift every image (C, H, W) by up to an eighth of its sides, black moving in, and mirror every other one."""
    number, channels, height, width = images.shape

    def places(side: int) -> tuple[int, torch.Tensor]:
        reach = max(1, round(side * _REACH))
        return reach, torch.arange(side) + torch.from_numpy(draw.integers(0, 2 * reach, (number, 1), endpoint=True))

    (above, rows), (beside, columns) = places(height), places(width)
    if mirrored:
        columns = torch.where(torch.from_numpy(draw.random((number, 1)) < 0.5), columns.flip(1), columns)
    padded = F.pad(images, (beside, beside, above, above))
    rows, columns = rows.to(images.device)[:, None, :, None], columns.to(images.device)[:, None, None, :]
    taken = padded.gather(2, rows.expand(-1, channels, -1, padded.shape[3]))
    return taken.gather(3, columns.expand(-1, channels, height, -1))


def _shaped(images: torch.Tensor, size: ImageSize) -> torch.Tensor:
    """Scale images (N, C, H, W) of uint8 to 0..1 and give them the size that is asked for."""
    channels, *area = size
    scaled = images.float() / 255
    if images.shape[1] != channels:
        scaled = scaled.mean(1, keepdim=True)
    if list(images.shape[2:]) != area:
        scaled = F.interpolate(scaled, area, mode="bilinear", antialias=True)
    return scaled.expand(-1, channels, -1, -1)


def load(
    name: str, input_size: ImageSize, *, data_dir: str | Path | None = None, download: bool = False, seed: int = 42
) -> Pictures:
    """Find a data set by name, and split it where its makers did not.

    `auto` is CIFAR-10 where it lies in `data_dir` or may be fetched, else scikit-learn's digits.
    Raises UsageError for an unknown name, for data that is missing, damaged or cannot be fetched, and for a folder
    that does not hold images by class.
    """
    if len(input_size) != 3:
        raise UsageError(f"input size {units.size(input_size)}: data sets hold images, such as 3x32x32")
    folder = Path(data_dir or DATA_DIR).expanduser()
    name, reason = _chosen(name, folder, download)
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        found = _folder(path, input_size, seed)
    elif name in _PUBLISHED:
        found = _published(name, input_size, folder, download)
    elif name in _MADE:
        found = _MADE[name](input_size, seed)
    else:
        raise _unknown(name)
    for split, use in ((found.train, "train"), (found.test, "test")):
        if _is_single_colour(split):
            images = f"{units.plural(len(split), 'image')} to {use} on"
            raise UsageError(f"{name}: the {images} show a single colour, which tells no classes apart; see the files")
    mean, std = _moments(found.train)
    return Pictures(kind, found.train, found.test, found.classes, mean, std, found.note + reason)


def _chosen(name: str, data_dir: Path, download: bool) -> tuple[str, str]:
    """Return the name that is meant, and for `auto` why."""
    if name != "auto":
        return name, ""
    if download or (data_dir / _PUBLISHED["cifar10"].folder).exists():
        return "cifar10", "; taken because it is there"
    return "digits", "; CIFAR-10 is not there, --download fetches it"


def _unknown(name: str) -> UsageError:
    known = ["auto", *_MADE, *_PUBLISHED, "folder:PATH"]
    close = difflib.get_close_matches(name, known, n=1)
    nearest = f"; nearest: {close[0]}" if close else ""
    return UsageError(f"there is no data set {name!r}{nearest}; known: {', '.join(known)}")


@dataclass(frozen=True)
class _Found:
    title: str
    train: Split
    test: Split
    classes: int
    remark: str = ""

    @property
    def note(self) -> str:
        parts = f"{units.plural(len(self.train), 'image')} to train on and {len(self.test):,} to test on"
        return f"{self.title}: {parts}, {self.classes} classes, {self._size}{self.remark}"

    @property
    def _size(self) -> str:
        asked, own = self.train.size, self.train.images.shape[1:] if isinstance(self.train, Held) else None
        return units.size(asked) if own == asked else f"resized to {units.size(asked)}"


def _digits(size: ImageSize, seed: int) -> _Found:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16)).to(torch.uint8)[:, None]  # they go from 0 to 16
    labels = torch.from_numpy(digits.target).long()
    train, test = (Held(images[part], labels[part], size) for part in _parts(labels, seed))
    remark = "; they saturate near 98 % and cannot tell good architectures apart"
    return _Found("digits", train, test, 10, remark)


def _fake(size: ImageSize, seed: int) -> _Found:
    """Draw images of at most 32 pixels a side: noise is noise at any size."""
    draw = torch.Generator().manual_seed(seed)
    channels, height, width = size

    def drawn(number: int) -> Held:
        shape = (number, channels, min(height, 32), min(width, 32))
        images = torch.randint(256, shape, dtype=torch.uint8, generator=draw)
        return Held(images, torch.randint(10, (number,), generator=draw), size)

    return _Found("fake, noise with random labels", drawn(512), drawn(128), 10, "; nothing in it generalises")


_MADE: dict[str, Callable[[ImageSize, int], _Found]] = {"digits": _digits, "fake": _fake}
"""Data sets that need no files."""


def _parts(labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the places of a train and a test part, in which the classes have the same shares. Raises ValueError."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(range(len(labels)), test_size=_TEST_SHARE, random_state=seed, stratify=labels)
    return torch.tensor(train), torch.tensor(test)


@dataclass(frozen=True)
class _Publication:
    title: str
    classes: int
    dataset: Callable[..., Any]
    folder: str


_PUBLISHED = {
    "cifar10": _Publication("CIFAR-10", 10, datasets.CIFAR10, "cifar-10-batches-py"),
    "cifar100": _Publication("CIFAR-100", 100, datasets.CIFAR100, "cifar-100-python"),
    "mnist": _Publication("MNIST", 10, datasets.MNIST, "MNIST"),
    "fashion-mnist": _Publication("Fashion-MNIST", 10, datasets.FashionMNIST, "FashionMNIST"),
}

_UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError),  # what torchvision's readers raise
    *(http.client.HTTPException, tarfile.TarError, EOFError, zlib.error),  # what comes of half a download
)


def _published(name: str, size: ImageSize, data_dir: Path, download: bool) -> _Found:
    publication = _PUBLISHED[name]
    folder = data_dir / publication.folder
    if not download and not folder.exists():
        raise UsageError(f"{name}: {folder} is not there; --download fetches it")
    try:
        train, test = (_part(publication, data_dir, train, download, size) for train in (True, False))
    except _UNREADABLE as error:
        if download:
            advice = f"check the network, or remove {folder} if it is damaged"
            raise UsageError(f"{name}: cannot be fetched to {data_dir}: {first_line(error)}; {advice}") from None
        raise UsageError(
            f"{name}: files in {folder} are missing or damaged; remove it and fetch it again with --download"
        ) from None
    return _Found(publication.title, train, test, publication.classes)


def _part(publication: _Publication, data_dir: Path, train: bool, download: bool, size: ImageSize) -> Held:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4 deprecates how NumPy 1 pickled CIFAR's arrays
        part = publication.dataset(data_dir, train=train, download=download)
    images, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets)
    if len(images) != len(labels) or labels.max() >= publication.classes:
        raise ValueError(f"{len(images):,} images have {len(labels):,} labels up to {labels.max()}")
    images = images.movedim(3, 1) if images.ndim == 4 else images[:, None]
    return Held(images.contiguous(), labels.long(), size)


def _folder(asked: str, size: ImageSize, seed: int) -> _Found:
    path = Path(asked).expanduser()
    if not path.is_dir():
        found = "it is a file" if path.exists() else "there is no such folder"
        raise UsageError(f"folder:{asked}: {found}; one with a subfolder of images a class was expected")
    held = [part for part in ("train", "test", "val") if (path / part).is_dir()]
    if "train" in held[:-1]:
        whole, others = _album(path / "train"), _album(path / held[1])
        differ = ", ".join(sorted(set(whole.classes) ^ set(others.classes)))
        if differ:
            raise UsageError(f"folder:{asked}: train and {held[1]} must have the same classes; one alone has {differ}")
        albums = [part.choose(_mixed(len(part.paths), seed)) for part in (whole, others)]
    elif held and _subfolders(path / held[0]):
        alone = f"has {held[0]} alone, where train and test were expected"
        raise UsageError(f"folder:{asked}: {alone}; add the other, or name {path / held[0]}, which is then split")
    else:
        whole = _album(path)
        albums = [whole.choose(part) for part in _divided(whole, path, seed)]
    ranges = _ranges(albums[1].paths[:_MEASURED_IMAGES]) | _ranges(albums[0].paths[:_MEASURED_IMAGES])
    train, test = (Files.of(album.paths, album.labels, size, ranges) for album in albums)
    return _Found(f"the folder {path.resolve().name}", train, test, len(whole.classes))


@dataclass(frozen=True)
class _Album:
    """The image files of a folder, class by class."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: torch.Tensor

    def choose(self, places: torch.Tensor) -> "_Album":
        """Choose some of them."""
        return _Album(self.classes, tuple(self.paths[place] for place in places.tolist()), self.labels[places])


def _album(path: Path) -> _Album:
    """Find the images of a folder by class. Raises UsageError where there are none, or files that are no images."""
    by_class = {folder.name: _images(folder) for folder in _subfolders(path)}
    if len(by_class) < 2:
        found = ", ".join(by_class) or f"{units.plural(len(_images(path)), 'image')} in none"
        raise UsageError(f"{path}: a subfolder of images for each of two classes or more was expected; found {found}")
    for name, files in by_class.items():
        if not files:
            kinds = ", ".join(datasets.folder.IMG_EXTENSIONS)
            raise UsageError(f"{path / name}: holds no image ({kinds}); add some, or remove the folder")
    paths = [file for files in by_class.values() for file in files]
    for file in paths:
        with _opened(file):
            pass
    numbers = torch.tensor([len(files) for files in by_class.values()])
    return _Album(tuple(by_class), tuple(paths), torch.arange(len(by_class)).repeat_interleave(numbers))


def _visible(folder: Path) -> list[Path]:
    """Return what is in a folder, by name, but hidden ones, such as .git. Raises UsageError."""
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from None


def _subfolders(folder: Path) -> list[Path]:
    return [each for each in _visible(folder) if each.is_dir()]


def _images(folder: Path) -> list[str]:
    """Return the image files in a folder, then those in its subfolders."""
    kinds = datasets.folder.IMG_EXTENSIONS
    here = [str(each) for each in _visible(folder) if each.suffix.lower() in kinds and each.is_file()]
    return here + [file for deeper in _subfolders(folder) for file in _images(deeper)]


def _divided(album: _Album, path: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split into train and test. Raises UsageError where there are too few images for each class to be in both."""
    try:
        return _parts(album.labels, seed)
    except ValueError:
        images, least = units.plural(len(album.paths), "image"), torch.bincount(album.labels).min()
        raise UsageError(
            f"{path}: {images} of {len(album.classes)} classes, {least} of one, are too few to test on a fifth; "
            "five a class or more were expected, or folders train and test"
        ) from None


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open an image, which reads its header alone. Raises UsageError for what is none, now or when it is decoded."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:  # of transparency, metadata, size
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        raise UsageError(f"{path}: not an image, or a damaged one; mend or remove it") from None


def _mixed(number: int, seed: int) -> torch.Tensor:
    """Draw an order, so that the first images of a folder are not of one class."""
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))


def _workers(images: int) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_WORKERS, usable - 1) if images >= _WORTH_WORKERS else 0


def _is_single_colour(split: Split) -> bool:
    """Say whether no pixel of any image differs from the others; the first that does ends the search."""
    images = (next(split.read([torch.tensor([place])]))[0] for place in range(len(split)))
    first = next(images)
    colour = first[:, :1, :1]
    return all(bool((image == colour).all()) for image in itertools.chain([first], images))


def _moments(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure mean and standard deviation of each channel, over the first images; 1 for a channel that is constant."""
    places = torch.split(torch.arange(min(len(split), _MEASURED_IMAGES)), 100)
    sums = squares = torch.zeros(split.size[0], dtype=torch.float64)
    for images in split.read(places):
        shaped = _shaped(images, split.size).double()
        sums, squares = sums + shaped.sum((0, 2, 3)), squares + shaped.square().sum((0, 2, 3))
    number = sum(map(len, places)) * split.size[1] * split.size[2]
    mean = sums / number
    std = (squares / number - mean.square()).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(std.where(std > 1e-6, 1.0).tolist())
