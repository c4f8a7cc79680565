"""Data sets: read from files in their real formats, split, converted, and handed out alike to whoever asks."""

import gzip
import hashlib
import multiprocessing
import pickle
import re
import shutil
import struct
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from waiting import wait_for

from cnnprof import UsageError
from cnnprof.training import data

SIZE = (3, 32, 32)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", SIZE)


def collected(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def as_numpy_1_pickled(entry: dict) -> bytes:
    """NumPy 1 wrote a dtype's `align` and `copy` as the integers 0 and 1, which the published files hold."""
    return re.sub(
        rb"(u1q.)\x89\x88", lambda found: found[1] + b"K\x00K\x01", pickle.dumps(entry, protocol=2), flags=re.DOTALL
    )


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 of 20 images a file, whose checksums are told to torchvision; gives its folder."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()

    def written(name, entry):
        (folder / name).write_bytes(as_numpy_1_pickled(entry))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(number):
        pixels = np.full((20, 3072), 40 * number, np.uint8)
        pixels[:, 0] = np.arange(20)  # the upper left pixel, red
        pixels[:, 1] = 77  # the one to its right
        return {"data": pixels, "labels": [place % 10 for place in range(20)]}

    monkeypatch.setattr(
        datasets.CIFAR10, "train_list", [written(f"data_batch_{number}", batch(number)) for number in range(1, 6)]
    )
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [written("test_batch", batch(0))])
    _, md5 = written("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", md5)
    return folder


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """MNIST of 30 and 10 images as it is published, compressed; gives its folder."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    resources = []
    for part, number in (("train", 30), ("t10k", 10)):
        labels = np.arange(number, dtype=np.uint8) % 10
        images = np.broadcast_to(labels[:, None, None] * 20, (number, 28, 28))
        for name, values in ((f"{part}-images-idx3-ubyte.gz", images), (f"{part}-labels-idx1-ubyte.gz", labels)):
            (folder / name).write_bytes(gzip.compress(idx(values)))
            resources.append((name, hashlib.md5((folder / name).read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Write images of two classes, red and blue, into a folder and tell where it is."""

    def written(path=".", classes=("blue", "red"), number=10):
        for name in classes:
            (tmp_path / "pets" / path / name).mkdir(parents=True)
            for place in range(number):
                Image.new("RGB", (20, 12), name).save(tmp_path / "pets" / path / name / f"{place}.png")
        return tmp_path / "pets"

    return written


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UsageError) as refused:
        data.load(*args, **kwargs)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_digits_are_split_with_the_same_shares_of_every_class(digits):
    assert (len(digits.train), len(digits.test), digits.classes) == (1437, 360, 10)
    whole = torch.bincount(torch.cat([digits.train.labels, digits.test.labels]))
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's own description
    assert (torch.bincount(digits.test.labels) - whole / 5).abs().max() < 1
    assert "1,437 images to train on and 360 to test on" in digits.note
    assert "98 %" in digits.note


def test_another_seed_splits_otherwise(digits):
    again, other = data.load("digits", SIZE), data.load("digits", SIZE, seed=1)
    assert torch.equal(again.test.images, digits.test.images)
    assert not torch.equal(other.test.images, digits.test.images)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 32, 32), (1, 28, 20), (4, 5, 5)])
def test_what_is_handed_out_has_the_size_asked_for_and_is_normalised(size):
    images, labels = collected(data.batches(data.load("digits", size), "train", 64))
    assert images.shape == (1437, *size)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * size[0], abs=1e-4)
    assert images.std((0, 2, 3)).tolist() == pytest.approx([1.0] * size[0], abs=1e-3)


def test_colours_are_averaged_and_grey_is_repeated():
    colours = torch.tensor([0, 51, 204], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4)
    assert torch.allclose(data._shaped(colours, (1, 8, 8)), torch.full((1, 1, 8, 8), 1 / 3))
    assert torch.allclose(data._shaped(colours[:, 1:2], (3, 4, 4)), torch.full((1, 3, 4, 4), 0.2))


def test_a_constant_channel_is_not_divided_by_nothing():
    black = data.Held(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), (1, 2, 2))
    assert data._moments(black) == ((0.0,), (1.0,))


@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_depends_on_seed_and_epoch_alone(digits, augment):
    def epoch(number, seed=42):
        batches = data.batches(digits, "train", 100, seed=seed, augment=augment, limit=250)
        batches.set_epoch(number)
        return collected(batches)[0]

    first = epoch(3)
    torch.manual_seed(7)
    assert torch.equal(epoch(3), first)
    assert not torch.equal(epoch(4), first)
    assert not torch.equal(epoch(3, seed=43), first)
    assert not torch.equal(epoch(2, seed=43), first)  # nor is it the sum of both


def test_a_pass_can_be_repeated_and_broken_off(digits):
    batches = data.batches(digits, "train", 100, augment=True, limit=250)
    first = collected(batches)[0]
    next(iter(batches))
    assert torch.equal(collected(batches)[0], first)


def test_the_global_generators_are_left_alone(digits, folder):
    pictures = data.load(f"folder:{folder()}", SIZE)
    torch.manual_seed(1)
    np.random.seed(1)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    data.load("fake", SIZE)
    for each in (digits, pictures):
        collected(data.batches(each, "train", 100, augment=True, limit=250))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before


def test_every_image_is_seen_once_an_epoch_under_its_label(cifar):
    pictures = data.load("cifar10", SIZE, data_dir=cifar.parent)
    images, labels = collected(data.batches(pictures, "train", 7))
    red = torch.round((images[:, 0, 0, 0] * pictures.std[0] + pictures.mean[0]) * 255).int()
    file = torch.round((images[:, 2, 5, 5] * pictures.std[2] + pictures.mean[2]) * 255 / 40).int()
    seen = sorted(zip(file.tolist(), red.tolist(), labels.tolist(), strict=True))
    assert seen == [(number, place, place % 10) for number in range(1, 6) for place in range(20)]


def test_the_test_split_is_neither_shuffled_nor_augmented(digits):
    plain = data.batches(digits, "test", 50)
    augmented = data.batches(digits, "test", 50, augment=True)
    augmented.set_epoch(9)
    images, labels = collected(augmented)
    assert torch.equal(images, collected(plain)[0])
    assert torch.equal(labels, digits.test.labels)


@pytest.mark.parametrize(
    ("part", "limit", "size", "expected"),
    [
        ("train", 10, 4, [4, 4, 2]),
        ("train", 9, 4, [4, 4]),
        ("test", 9, 4, [4, 4, 1]),
        ("train", 3, 1, [1, 1, 1]),
        ("train", 1, 4, [1]),
        ("test", None, 200, [200, 160]),
        ("test", 5000, 200, [200, 160]),
    ],
)
def test_a_single_image_at_the_end_is_left_out_of_training(digits, part, limit, size, expected):
    batches = data.batches(digits, part, size, limit=limit)
    assert [len(labels) for _, labels in batches] == expected
    assert len(batches) == len(expected)


def test_a_limit_takes_the_first_images(digits):
    images = data.batches(digits, "train", 10, limit=10)
    assert sorted(next(iter(images))[1].tolist()) == sorted(digits.train.labels[:10].tolist())


def test_channels_last_is_a_layout(digits):
    images, _ = next(iter(data.batches(digits, "test", 8, channels_last=True)))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, next(iter(data.batches(digits, "test", 8)))[0])


@pytest.mark.parametrize("mirrored", [False, True])
def test_augmenting_shifts_by_an_eighth_and_mirrors_where_that_is_the_same_thing(mirrored):
    image = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    image[0, 0, 16, 15:18] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    shifted = data._augmented(image.expand(2000, 1, 32, 32), np.random.default_rng(0), mirrored)[:, 0]
    _, rows, columns = (shifted == 2).nonzero(as_tuple=True)
    assert len(rows) == 2000
    assert sorted(set(rows.tolist())) == list(range(12, 21))
    assert sorted(set((columns).tolist())) == list(range(11 if mirrored else 12, 21))  # the mirror of 16 is 15
    turned = (shifted.flatten(1).argmax(1) % 32 < columns).float().mean()
    assert float(turned) == pytest.approx(0.5 if mirrored else 0.0, abs=0.05)


def test_digits_are_not_mirrored_and_pictures_are(digits, cifar):
    assert not data.batches(digits, "train", 8, augment=True).mirrored
    pictures = data.load("cifar10", SIZE, data_dir=cifar.parent)
    assert data.batches(pictures, "train", 8, augment=True).mirrored


def test_cifar_is_read_as_it_is_published(cifar):
    pictures = data.load("cifar10", SIZE, data_dir=cifar.parent)
    assert (len(pictures.train), len(pictures.test), pictures.classes) == (100, 20, 10)
    assert pictures.train.images[43, :, 0, 0].tolist() == [3, 120, 120]  # the fourth image of the third file
    assert int(pictures.train.images[43, 0, 0, 1]) == 77
    assert int(pictures.train.labels[43]) == 3
    assert pictures.mean[2] == pytest.approx(120 / 255)
    assert pictures.note == "CIFAR-10: 100 images to train on and 20 to test on, 10 classes, 3x32x32"


def test_auto_takes_cifar_where_it_lies_and_digits_elsewhere(cifar, tmp_path):
    there = data.load("auto", SIZE, data_dir=cifar.parent)
    assert there.name == "cifar10"
    assert there.note.endswith("taken because it is there")
    elsewhere = data.load("auto", SIZE, data_dir=tmp_path / "none")
    assert elsewhere.name == "digits"
    assert "CIFAR-10 is not there" in elsewhere.note
    assert str(tmp_path) not in elsewhere.note + there.note


def test_mnist_is_read_as_it_is_published(mnist, tmp_path):
    pictures = data.load("mnist", SIZE, data_dir=tmp_path, download=True)  # unpacks; all is there
    assert (len(pictures.train), len(pictures.test)) == (30, 10)
    assert pictures.train.labels.tolist() == list(range(10)) * 3
    assert int(pictures.test.images[7, 0, 14, 14]) == 140
    assert pictures.mean == pytest.approx((90 / 255,) * 3)
    assert "resized to 3x32x32" in pictures.note


def test_missing_data_says_where_it_looked(tmp_path):
    assert refusal("cifar100", SIZE, data_dir=tmp_path) == (
        f"cifar100: {tmp_path / 'cifar-100-python'} is not there; --download fetches it"
    )


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_damaged_cifar_is_refused(cifar, damage):
    file = cifar / "data_batch_4"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-1])
    for name in ("cifar10", "auto"):
        said = refusal(name, SIZE, data_dir=cifar.parent)
        assert f"files in {cifar} are missing or damaged" in said
        assert "--download" in said


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train-images-idx3-ubyte", b""),
        ("train-images-idx3-ubyte", idx(np.zeros((30, 28, 28), np.uint8))[:-5]),
        ("t10k-labels-idx1-ubyte", b"\0\0\x0a\x01"),
        ("t10k-labels-idx1-ubyte", b"not an idx file, by far"),
        ("train-labels-idx1-ubyte", idx(np.zeros(29, np.uint8))),
        ("train-labels-idx1-ubyte", idx(np.full(30, 10, np.uint8))),
    ],
)
def test_damaged_mnist_is_refused(mnist, tmp_path, file, content):
    data.load("mnist", SIZE, data_dir=tmp_path, download=True)
    (mnist / file).write_bytes(content)
    assert "are missing or damaged" in refusal("mnist", SIZE, data_dir=tmp_path)
    assert "remove" in refusal("mnist", SIZE, data_dir=tmp_path, download=True)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_without_network_is_refused(tmp_path, monkeypatch, name):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    said = refusal(name, SIZE, data_dir=tmp_path, download=True)
    assert said.startswith(f"{name}: cannot be fetched to {tmp_path}: ")
    assert "check the network" in said


def test_an_unknown_name_is_told_the_nearest():
    assert "nearest: cifar10;" in refusal("cifar-10", SIZE)
    assert "known: auto, digits, fake, cifar10, " in refusal("zzzz", SIZE)
    assert "nearest: folder:PATH" in refusal("folder:", SIZE)


def test_inputs_that_are_no_images_are_refused():
    assert "input size 784: data sets hold images" in refusal("digits", (784,))


def test_a_folder_is_split_evenly(folder):
    pictures = data.load(f"folder:{folder()}", (3, 8, 8))
    assert pictures.name == "folder"
    assert (len(pictures.train), len(pictures.test), pictures.classes) == (16, 4, 2)
    assert torch.bincount(pictures.test.labels).tolist() == [2, 2]
    assert pictures.mean == pytest.approx((0.5, 0.0, 0.5))
    assert pictures.std == pytest.approx((0.5, 1.0, 0.5))
    assert pictures.note == ("the folder pets: 16 images to train on and 4 to test on, 2 classes, resized to 3x8x8")
    for images, labels in data.batches(pictures, "train", 5):
        assert images.shape[1:] == (3, 8, 8)
        assert torch.equal(images[:, 0, 4, 4] > 0, labels == 1)  # red


@pytest.mark.parametrize("tested", ["test", "val"])
def test_a_folder_that_is_split_stays_so(folder, tested):
    folder("train")
    pictures = data.load(f"folder:{folder(tested, number=3)}", (1, 8, 8))
    assert (len(pictures.train), len(pictures.test)) == (20, 6)
    assert pictures.train.labels.tolist() != sorted(pictures.train.labels.tolist())  # a limit meets both classes
    images, _ = next(iter(data.batches(pictures, "test", 6)))
    assert images.shape == (6, 1, 8, 8)


def test_train_and_test_of_a_folder_must_agree(folder):
    folder("train")
    said = refusal(f"folder:{folder('test', classes=('blue', 'green'))}", SIZE)
    assert said.endswith("one alone has green, red")


def test_a_folder_without_classes_to_tell_apart_is_refused(folder, tmp_path):
    assert "there is no such folder" in refusal(f"folder:{tmp_path}/none", SIZE)
    (tmp_path / "bare").mkdir()
    assert refusal(f"folder:{tmp_path}/bare", SIZE).endswith("two classes or more was expected; found 0 images in none")
    path = folder(classes=("red",))
    assert refusal(f"folder:{path}", SIZE).endswith("two classes or more was expected; found red")
    assert refusal(f"folder:{path}/red", SIZE).endswith("two classes or more was expected; found 10 images in none")
    assert "it is a file; one with a subfolder" in refusal(f"folder:{path}/red/0.png", SIZE)
    (path / "empty").mkdir()
    assert f"{path}/empty: holds no image (.jpg, .jpeg, .png" in refusal(f"folder:{path}", SIZE)


def test_too_few_images_to_split_are_told(folder):
    path = folder()
    for file in path.glob("red/[1-9].png"):
        file.unlink()
    assert "pets: 11 images of 2 classes, 1 of one, are too few to test on a fifth; five" in refusal(
        f"folder:{path}", SIZE
    )


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_part_of_a_folder_alone_is_told(folder, part):
    path = folder(part)
    told = f"has {part} alone, where train and test were expected; add the other, or name {path}/{part}, which"
    assert told in refusal(f"folder:{path}", SIZE)


def test_train_and_test_without_classes_are_no_classes(folder):
    path = folder()
    (path / "blue").rename(path / "train")
    (path / "red").rename(path / "test")
    assert f"{path}/train: a subfolder of images for each" in refusal(f"folder:{path}", SIZE)


def test_a_class_may_be_called_train(folder):
    path = folder()
    (path / "red").rename(path / "train")
    assert data.load(f"folder:{path}", SIZE).classes == 2


def test_what_is_hidden_in_a_folder_is_not_seen(folder):
    path = folder()
    before = data.load(f"folder:{path}", SIZE)
    for hidden in (path / ".git", path / ".ipynb_checkpoints", path / "red" / ".ipynb_checkpoints"):
        hidden.mkdir()
        (hidden / "0-checkpoint.png").write_bytes((path / "red" / "0.png").read_bytes())
    (path / "red" / "._0.png").write_text("what macOS leaves")
    assert data.load(f"folder:{path}", SIZE).train.paths == before.train.paths


def test_images_lie_in_a_class_however_deep(folder):
    path = folder()
    (path / "red" / "more").mkdir()
    Image.new("RGB", (4, 4)).save(path / "red" / "more" / "10.PNG")
    pictures = data.load(f"folder:{path}", SIZE)
    assert len(pictures.train) + len(pictures.test) == 21


def test_an_image_of_which_its_reader_warns_is_read_in_silence(folder, recwarn):
    path = folder()
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0] * 256)
    palette.save(path / "red" / "0.png", transparency=bytes([0, 128]))
    pictures = data.load(f"folder:{path}", SIZE)
    assert all(len(split[place]) == 3 for split in (pictures.train, pictures.test) for place in range(len(split)))
    assert not recwarn.list


def test_a_file_that_is_no_image_is_named(folder):
    path = folder()
    (path / "red" / "notes.jpg").write_text("no image")
    assert f"{path}/red/notes.jpg: not an image" in refusal(f"folder:{path}", SIZE)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_that_is_cut_off_is_named_when_it_is_decoded(folder, monkeypatch, workers):
    monkeypatch.setattr(data, "_workers", lambda images: workers)
    path = folder()
    pictures = data.load(f"folder:{path}", SIZE)
    for file in path.glob("red/*.png"):
        file.write_bytes(file.read_bytes()[:45])
    with pytest.raises(UsageError) as refused:
        collected(data.batches(pictures, "test", 4))
    assert str(refused.value).startswith(f"{path}/red/")
    assert "\n" not in str(refused.value)
    wait_for(lambda: not multiprocessing.active_children())  # not for the garbage collector


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 40, 24)])
def test_files_are_read_once_and_kept_where_there_is_room(folder, monkeypatch, size):
    path = folder()
    for number, file in enumerate(sorted(path.glob("*/*.png"))):
        noise = np.random.default_rng(number).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    opened = []
    honest = data._opened
    monkeypatch.setattr(data, "_opened", lambda file: opened.append(file) or honest(file))

    def epochs(room: int) -> list[torch.Tensor]:
        monkeypatch.setattr(data, "_KEPT_BYTES", room)
        pictures = data.load(f"folder:{path}", size)
        opened.clear()
        return [collected(data.batches(pictures, part, 4))[0] for part in ("train", "test", "train", "test")]

    kept = epochs(16 * 3 * size[1] * size[2])
    assert len(opened) == 4  # those of the test split: the others were measured before
    read = epochs(4 * 3 * size[1] * size[2] - 1)
    assert len(opened) == 2 * 20
    assert all(torch.equal(one, other) for one, other in zip(kept, read, strict=True))


def deep(numbers, kind):
    """Write numbers of 8 bits in another type: 16 bits have 257 as their 1, floats 1/255."""
    scaled = {"uint16": numbers * 257, "int32": numbers * 1000 - 70_000, "float32": numbers / 255, "uint8": numbers}
    return Image.fromarray(scaled[kind].astype(kind))


@pytest.mark.parametrize(
    ("kind", "suffix", "mode"),
    [
        *(("uint16", "png", "I;16"), ("uint16", "tif", "I;16"), ("uint16", "pgm", "I")),
        *(("int32", "tif", "I"), ("float32", "tif", "F")),
    ],
)
def test_images_of_more_than_8_bits_are_handed_out_as_those_of_8(folder, kind, suffix, mode):
    def handed_out(kind, suffix):
        path = folder()
        for number, file in enumerate(sorted(path.glob("*/*.png"))):
            numbers = np.random.default_rng(number).integers(0, 256, (32, 32)).astype(np.int64)
            numbers[0, :2] = 0, 255  # so that each image reaches both ends
            file.unlink()
            deep(numbers, kind).save(file.with_suffix(f".{suffix}"))
        with Image.open(file.with_suffix(f".{suffix}")) as image:
            modes.append(image.mode)
        pictures = data.load(f"folder:{path}", SIZE)
        handed = [collected(data.batches(pictures, part, 4)) for part in ("train", "test")]
        shutil.rmtree(path)
        return handed

    modes = []
    plain, found = handed_out("uint8", "png"), handed_out(kind, suffix)
    assert modes == ["L", mode]
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one[1], other[1])
        assert torch.allclose(one[0], other[0], atol=1e-5)


def test_the_range_is_that_of_all_images(folder):
    """Dark and bright images of 16 bits stay so: each by its own range would be grey."""
    path = folder()
    for file in path.glob("*/*.png"):
        least = 0 if file.parent.name == "blue" else 60_000
        numbers = np.random.default_rng(1).integers(least, least + 5_000, (32, 32)).astype(np.uint16)
        Image.fromarray(numbers).save(file)
    images, labels = collected(data.batches(data.load(f"folder:{path}", SIZE), "train", 4))
    assert images[labels == 0].max() < -0.9 < 0.9 < images[labels == 1].min()


def test_numbers_that_are_none_are_the_lowest(folder):
    path = folder()
    for file in path.glob("*/*.png"):
        numbers = np.linspace(-2, 3, 1024, dtype=np.float32).reshape(32, 32)
        numbers[0, 1] = np.nan
        file.unlink()
        Image.fromarray(numbers).save(file.with_suffix(".tif"))
    split = data.load(f"folder:{path}", SIZE).train
    assert split[0][0, 0].tolist()[:3] == [0, 0, 0]  # of -2, NaN and -1.99
    assert split[0].max() == 255


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_of_a_single_colour_is_refused(folder, part):
    folder("train"), folder("test", number=3)
    path = folder("none").parent / "pets"
    for file in path.glob(f"{part}/*/*.png"):
        Image.new("L", (20, 12), 7).save(file)
    images = {"train": "20 images to train on", "test": "6 images to test on"}[part]
    said = refusal(f"folder:{path}", SIZE)
    assert said == f"folder:{path}: the {images} show a single colour, which tells no classes apart; see the files"


def test_what_an_image_warns_of_is_kept_off_the_screen(folder, recwarn):
    path = folder()
    for file in path.glob("*/*.png"):
        palette = Image.new("P", (20, 12), 1)
        palette.putpalette([0, 0, 0, 255, 9, 9])
        palette.putpixel((0, 0), 0)
        palette.save(file, transparency=b"\x00\x80")
    collected(data.batches(data.load(f"folder:{path}", SIZE), "train", 4))
    assert not recwarn.list


@pytest.mark.slow
def test_workers_change_nothing(folder, monkeypatch):
    path = folder()
    alone = collected(data.batches(data.load(f"folder:{path}", SIZE), "train", 4, augment=True))
    monkeypatch.setattr(data, "_workers", lambda images: 2)
    together = collected(data.batches(data.load(f"folder:{path}", SIZE), "train", 4, augment=True))
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])


def test_noise_is_the_same_noise_for_a_seed():
    first, again, other = (data.load("fake", (3, 64, 64), seed=seed) for seed in (1, 1, 2))
    assert (len(first.train), len(first.test), first.classes) == (512, 128, 10)
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert next(iter(data.batches(first, "test", 4)))[0].shape == (4, 3, 64, 64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_is_fed_the_same(digits, folder):
    for pictures in (digits, data.load(f"folder:{folder()}", SIZE)):
        here, there = (
            collected(data.batches(pictures, "train", 64, augment=True, device=device)) for device in ("cpu", "cuda")
        )
        assert there[0].is_cuda
        assert torch.allclose(there[0].cpu(), here[0], atol=1e-5)
        assert torch.equal(there[1].cpu(), here[1])
