"""The trainer against hand-worked steps, itself interrupted, files that are damaged, and a plain loop."""

import errno
import io
import itertools
import os
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from cnnprof import CNN, ClassifierTrainer, EpochResult, FitResult, UsageError
from cnnprof.errors import NotFiniteError
from cnnprof.training import trainer as module
from cnnprof.training.trainer import scores_of

CROSS_ENTROPY = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks of a few weights gain nothing by more, and lose much where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def mean_of_squares(scores, labels):
    """A loss with a gradient that is easily worked out by hand."""
    return ((scores - F.one_hot(labels, scores.shape[1])) ** 2).sum(1).mean()


def blobs(samples: int = 24, classes: int = 3, seed: int = 7) -> TensorDataset:
    """Small images whose mean tells their class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    images = torch.randn(samples, 1, 4, 4, generator=draw) + labels[:, None, None, None]
    return TensorDataset(images, labels)


def network(seed: int = 0) -> nn.Module:
    """Everything that has a state: dropout, batch norm."""
    torch.manual_seed(seed)
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(convolutions, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 3))


def linear(weights: list[list[float]]) -> nn.Module:
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    layer.weight.data = torch.tensor(weights)
    return layer


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def trainer_of(model: nn.Module, optimizer=sgd, loss=CROSS_ENTROPY, **options) -> ClassifierTrainer:
    return ClassifierTrainer(model, loss, optimizer(model), **options)


def fitted(epochs: int, optimizer=sgd, loaders=None, seed: int = 0, **options) -> tuple[FitResult, dict]:
    """Train a new network; return its curves and its weights."""
    model = network(seed)
    random.seed(seed)
    np.random.seed(seed)
    loaders = loaders() if loaders else (DataLoader(blobs(), 5, shuffle=True), DataLoader(blobs(seed=8), 10))
    result = trainer_of(model, optimizer).fit(*loaders, epochs, verbose=False, **options)
    return result, model.state_dict()


def check_same(one: tuple[FitResult, dict], other: tuple[FitResult, dict]) -> None:
    assert one[0] == other[0]
    for name, tensor in one[1].items():
        assert torch.equal(tensor, other[1][name]), name


# By hand -------------------------------------------------------------------------------------------------------------


def test_one_step_is_the_step_by_hand():
    # scores (1, 2) of x = (1, 2) under the unit matrix; label 1: residuals (1, 1), loss 2, gradient 2 r x^T
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    trainer = trainer_of(model, lambda model: torch.optim.SGD(model.parameters(), lr=0.25), mean_of_squares)
    result = trainer.train_epoch([(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))], verbose=False)
    assert result == EpochResult([2.0], 100.0)
    assert torch.equal(model.weight, torch.tensor([[0.5, -1.0], [-0.5, 0.0]]))


def test_losses_are_one_a_batch_and_the_accuracy_is_percent_of_the_samples():
    # Of the labels 0, 0, 1 | 1 the highest score is at 0, 1, 1 | 1: 3 of 4; the means of batches would give 83.3.
    images = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    trainer = trainer_of(linear([[1.0, 0.0], [0.0, 1.0]]), loss=mean_of_squares)
    losses, accuracy = trainer.test_epoch(DataLoader(TensorDataset(images, labels), 3), verbose=False)
    assert losses == [1.0, 0.0]  # (1 + 2 + 0) / 3 and 0
    assert accuracy == 75.0


def test_an_epoch_s_loss_is_the_mean_over_its_samples():
    images = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    loader = DataLoader(TensorDataset(images, torch.tensor([0, 0, 1, 1])), 3)
    trainer = trainer_of(
        linear([[1.0, 0.0], [0.0, 1.0]]), lambda model: torch.optim.SGD(model.parameters(), lr=0.0), mean_of_squares
    )
    result = trainer.fit(loader, loader, 2, verbose=False)
    assert result == FitResult(2, [0.75] * 2, [75.0] * 2, [0.75] * 2, [75.0] * 2)  # (1 + 2 + 0 + 0) / 4


def test_an_epoch_is_what_a_plain_loop_does():
    loader = DataLoader(blobs(), 5)
    mine, plain = network(), network()
    optimizer = sgd(plain)
    torch.manual_seed(1)
    got = [trainer.train_epoch(loader, verbose=False) for trainer in [trainer_of(mine)] for _ in range(2)]
    torch.manual_seed(1)
    for epoch in got:
        hits = 0
        for loss, (images, labels) in zip(epoch.losses, loader, strict=True):
            optimizer.zero_grad()
            scores = plain(images)
            expected = CROSS_ENTROPY(scores, labels)
            expected.backward()
            optimizer.step()
            hits += int((scores.argmax(1) == labels).sum())
            assert loss == expected.item()
        assert epoch.accuracy == 100 * hits / 24
    assert all(torch.equal(one, other) for one, other in zip(mine.parameters(), plain.parameters(), strict=True))


def test_results_unpack_as_the_course_s():
    loader = DataLoader(blobs(), 5)
    trainer = trainer_of(network())
    losses, accuracy = trainer.train_epoch(loader, verbose=False)
    assert (len(losses), isinstance(accuracy, float)) == (5, True)
    num_epochs, train_loss, train_acc, test_loss, test_acc = trainer.fit(loader, loader, 3, verbose=False)
    assert num_epochs == 3
    assert [*map(len, (train_loss, train_acc, test_loss, test_acc))] == [3] * 4
    assert all(isinstance(curve, list) for curve in (losses, train_loss, train_acc, test_loss, test_acc))


# Loaders and models of every kind ------------------------------------------------------------------------------------


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(blobs())


@pytest.mark.parametrize(
    "batches",
    [
        lambda: DataLoader(blobs(), 5),
        lambda: [[images, labels] for images, labels in DataLoader(blobs(), 5)],
        lambda: (batch for batch in DataLoader(blobs(), 5)),
        lambda: DataLoader(Streamed(), 5),
    ],
    ids=["loader", "list", "generator", "stream"],
)
@pytest.mark.parametrize(("max_batches", "seen"), [(None, 5), (1, 1), (3, 3), (9, 5)])
def test_a_pass_takes_as_many_batches_as_there_are_or_are_allowed(batches, max_batches, seen):
    ticks = []
    trainer = trainer_of(network(), listener=ticks.append)
    for one_pass in (trainer.train_epoch, trainer.test_epoch):
        assert len(one_pass(batches(), max_batches, verbose=False).losses) == seen
        assert (ticks[-1].batches, ticks[-1].total) == (seen, seen)


def test_a_pass_without_a_batch_is_told():
    with pytest.raises(UsageError, match="no batch"):
        trainer_of(linear([[1.0, 0.0]])).train_epoch([], verbose=False)


IMAGES, LABELS = torch.ones(2, 1, 4, 4), torch.tensor([0, 2])
NUMPY = IMAGES.numpy(), LABELS.numpy()


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        (blobs(), r"DataLoader\(dataset, batch_size=64\); found TensorDataset$"),
        (None, "found NoneType$"),
        (
            [{"image": IMAGES, "label": LABELS}],
            r"dict of 'image': Tensor \(2, 1, 4, 4\) float32, 'label': Tensor \(2,\)",
        ),
        ([(IMAGES, LABELS, LABELS)], r"found tuple of Tensor \(2, 1, 4, 4\) float32, Tensor \(2,\) int64, Tensor"),
        ([NUMPY], r"found tuple of ndarray \(2, 1, 4, 4\) float32, ndarray \(2,\) int64$"),
        ([(IMAGES, LABELS), (IMAGES[:0], LABELS[:0])], r"of equal, positive length.* Tensor \(0, 1, 4, 4\) float32"),
        ([(IMAGES[0], LABELS[0])], r"Tensor \(1, 4, 4\) float32, Tensor \(\) int64$"),
        ([(IMAGES, LABELS[:1])], r"Tensor \(1,\) int64$"),
        ([IMAGES], r"found Tensor \(2, 1, 4, 4\) float32$"),
        ([[IMAGES] * 9], r"Tensor \(2, 1, 4, 4\) float32, \.\.\.$"),
        ([(IMAGES, LABELS + 1)], "labels run from 1 to 3, the model scores 3 classes: Target 3 is out of bounds"),
        ([(IMAGES, LABELS.float())], r"scores Tensor \(2, 3\) float32 with labels Tensor \(2,\) float32: expected"),
        ([(IMAGES, F.one_hot(LABELS))], r"with labels Tensor \(2, 3\) int64: Expected floating"),
    ],
)
def test_batches_of_another_form_are_told_in_a_line(batches, told):
    trainer = trainer_of(network())
    for one_pass in (trainer.train_epoch, trainer.test_epoch):
        with pytest.raises(UsageError, match=told) as refusal:
            one_pass(batches, verbose=False)
        assert "\n" not in str(refusal.value)


def test_a_loader_to_test_on_is_looked_at_before_anything_is_trained():
    trainer = trainer_of(network(), listener=lambda tick: pytest.fail("it trained"))
    with pytest.raises(UsageError, match="found TensorDataset"):
        trainer.fit(DataLoader(blobs(), 5), blobs(), 1)


def test_labels_may_be_probabilities_of_classes():
    images, labels = next(iter(DataLoader(blobs(), 24)))
    by_class, by_probability = (
        trainer_of(network()).test_epoch([(images, given)], verbose=False)
        for given in (labels, F.one_hot(labels).float())
    )
    assert by_probability.accuracy == by_class.accuracy
    assert by_probability.losses == pytest.approx(by_class.losses)


@pytest.mark.parametrize(
    ("loss", "labels", "told"),
    [
        (lambda scores, labels: scores.sum(), LABELS[:, None], r"labels Tensor \(2, 1\) int64 are neither classes"),
        (nn.CrossEntropyLoss(reduction="none"), LABELS, r"gives one number, as a tensor; found Tensor \(2,\) float32"),
        (lambda scores, labels: 1.0, LABELS, "gives one number, as a tensor; found float"),
    ],
)
def test_what_a_loss_gives_and_labels_hold_is_looked_at(loss, labels, told):
    with pytest.raises(UsageError, match=told):
        trainer_of(network(), loss=loss).test_epoch([(IMAGES, labels)], verbose=False)


def test_memory_that_a_loss_lacks_is_no_mistake_in_its_use():
    def greedy(scores, labels):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        trainer_of(network(), loss=greedy).test_epoch([(IMAGES, LABELS)], verbose=False)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("num_epochs", count) for count in (0, -1, 2.5, True, None)),
        *(("early_stopping", count) for count in (0, -1, 2.5)),
        *(("max_batches", count) for count in (0, -1, 2.5)),
    ],
)
def test_counts_that_are_none_are_refused(name, count):
    given = {"num_epochs": 1, name: count}
    with pytest.raises(UsageError, match=rf"^{name} {count}: a whole number of at least 1 was expected$"):
        trainer_of(network()).fit(DataLoader(blobs(), 5), DataLoader(blobs(), 5), verbose=False, **given)


def test_the_total_of_a_tick_is_known_where_the_loader_knows_it(monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0.0)
    totals = {}
    for name, batches, max_batches in [
        ("loader", DataLoader(blobs(), 5), None),
        ("fewer", DataLoader(blobs(), 5), 2),
        ("more", DataLoader(blobs(), 5), 7),
        ("stream", DataLoader(Streamed(), 5), None),
        ("some of a stream", DataLoader(Streamed(), 5), 2),
    ]:
        ticks = []
        trainer_of(network(), listener=ticks.append).train_epoch(batches, max_batches)
        totals[name] = ticks[0].total
    assert totals == {"loader": 5, "fewer": 2, "more": 5, "stream": None, "some of a stream": 2}


@pytest.mark.parametrize(
    "wrapped",
    [lambda scores: (scores, 1), lambda scores: [scores], lambda scores: {"logits": scores, "loss": None}],
    ids=["tuple", "list", "dict"],
)
def test_of_several_outputs_the_first_holds_the_scores(wrapped):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            return wrapped(self.inner(images))

    loader = DataLoader(blobs(), 5)
    torch.manual_seed(1)
    expected = trainer_of(network()).train_epoch(loader, verbose=False)
    assert trainer_of(Several()).train_epoch(loader, verbose=False) == expected


@pytest.mark.parametrize(
    ("output", "told"), [(torch.zeros(2, 3, 4), r"\(2, 3, 4\)"), ("scores", "str"), ((), "tuple"), (None, "NoneType")]
)
def test_what_is_no_classifier_is_told(output, told):
    with pytest.raises(UsageError, match=told):
        scores_of(output)


@pytest.mark.parametrize("options", [{"channels_last": True}, {"device": "cpu"}, {}])
def test_layout_and_device_change_where_numbers_lie_and_not_what_is_learned(options):
    layouts = []

    class Watched(nn.Sequential):
        def forward(self, images):
            layouts.append(images.is_contiguous(memory_format=torch.channels_last))
            return super().forward(images)

    torch.manual_seed(0)
    model = Watched(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    images = blobs().tensors[0].expand(-1, 2, -1, -1).contiguous()
    trainer = trainer_of(model, **options)
    result = trainer.train_epoch(DataLoader(TensorDataset(images, blobs().tensors[1]), 5), verbose=False)
    assert set(layouts) == {"channels_last" in options}
    assert trainer.device == torch.device("cpu")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    expected = trainer_of(plain).train_epoch(DataLoader(TensorDataset(images, blobs().tensors[1]), 5), verbose=False)
    assert result.losses == pytest.approx(expected.losses, rel=1e-4)


def test_channels_last_leaves_alone_what_has_no_channels():
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    result = trainer_of(model, loss=mean_of_squares, channels_last=True).test_epoch(
        [(torch.tensor([[1.0, 2.0]]), torch.tensor([1]))], verbose=False
    )
    assert result == EpochResult([2.0], 100.0)


def test_amp_computes_scores_in_bfloat16_and_learns_in_float32():
    kinds = []
    model = network()
    model.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    result, exact = (
        trainer_of(each, amp=amp).train_epoch(DataLoader(blobs(), 24), verbose=False)
        for each, amp in ((model, True), (network(), False))
    )
    assert kinds == [torch.bfloat16]
    assert {tensor.grad.dtype for tensor in model.parameters()} == {torch.float32}
    assert result.losses == pytest.approx(exact.losses, rel=0.5)


def test_an_optimizer_that_calls_a_closure_shows_the_loss_that_the_batch_met():
    # (w - 1)^2 with w = 3 at first: 4; LBFGS finds the minimum of a parabola, so that the next loss is 0.
    model = linear([[3.0]])
    trainer = trainer_of(
        model,
        lambda model: torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe"),
        lambda scores, labels: ((scores - 1) ** 2).mean(),
    )
    batch = (torch.ones(1, 1), torch.tensor([0]))
    losses, _ = trainer.train_epoch([batch, batch], verbose=False)
    assert losses == pytest.approx([4.0, 0.0], abs=1e-6)


def test_a_test_changes_neither_weights_nor_statistics_nor_the_mode():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for mode in (True, False):
        model.train(mode)
        trainer_of(model).test_epoch(DataLoader(blobs(), 5), verbose=False)
        assert model.training is mode
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.grad is None for tensor in model.parameters())


@pytest.mark.slow
def test_a_compiled_model_learns_what_a_plain_one_does():
    loader = DataLoader(blobs(), 5)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    torch.manual_seed(0)
    compiled = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    expected = trainer_of(plain).fit(loader, loader, 2, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's own
        result = trainer_of(compiled, compile=True).fit(loader, loader, 2, verbose=False)
    assert result.train_loss == pytest.approx(expected.train_loss, rel=1e-4)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


# The loop does not wait ----------------------------------------------------------------------------------------------


class Fetches(TorchDispatchMode):
    """Counts the numbers that are fetched from tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batches", [1, 40])
@pytest.mark.parametrize("name", ["train_epoch", "test_epoch"])
def test_an_epoch_fetches_losses_and_hits_once_however_many_batches(monkeypatch, name, batches):
    lists = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(1) or tolist(tensor))
    monkeypatch.setattr(module.time, "perf_counter", itertools.count(0.0, 1e-6).__next__)
    trainer = trainer_of(network())
    with Fetches() as fetches:
        getattr(trainer, name)([tuple(blobs().tensors)] * batches, verbose=False)
    assert fetches.count == 0
    assert len(lists) == 2


def test_a_look_is_taken_four_times_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def batches():
        for _ in range(20):
            now[0] += 0.0625  # a step of a sixteenth of a second: every fourth is shown
            yield tuple(blobs().tensors)

    ticks = []
    trainer_of(network(), listener=ticks.append).train_epoch(batches())
    assert [tick.batches for tick in ticks] == [4, 8, 12, 16, 20, 20]
    assert {tick.images_per_s for tick in ticks} == {24 * 16}
    assert ticks[-1].text.endswith("384 img/s")


def test_a_run_ends_with_the_step_in_which_its_time_is_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                now[0] += 0.25
                yield batch

    loader = Slow([tuple(blobs().tensors)] * 4)
    *_, history = trainer_of(network()).epochs(loader, loader, None, time_s=2.375, verbose=False)
    assert history.images == (96, 96, 48)  # four steps, four, two: 2.5 s; tests take no time of training
    assert history.train_s == 2.5


# Many epochs ---------------------------------------------------------------------------------------------------------


def test_a_run_ends_after_so_many_epochs_without_a_higher_test_accuracy(monkeypatch):
    accuracies = iter([50.0, 60.0, 60.0, 55.0, 70.0])

    class Told(module.Epoch):
        @property
        def accuracy(self):
            return next(accuracies)

    monkeypatch.setattr(ClassifierTrainer, "_test", lambda *_: Told((1.0,), (1,), (True,), (0.1,)))
    loader = DataLoader(blobs(), 24)
    result = trainer_of(network()).fit(loader, loader, 5, early_stopping=2, verbose=False)
    assert result.test_acc == [50.0, 60.0, 60.0, 55.0]


def test_early_stopping_holds_across_a_resumption(tmp_path):
    still = {"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.0), "early_stopping": 3}
    name = tmp_path / "run"
    assert fitted(2, checkpoints=name, **still)[0].num_epochs == 2
    assert fitted(9, checkpoints=name, **still)[0].num_epochs == fitted(9, **still)[0].num_epochs == 4


def test_runs_that_take_turns_give_what_each_gives_alone():
    def run(seed):
        model = network(seed)
        loaders = DataLoader(blobs(), 5, shuffle=True), DataLoader(blobs(seed=8), 10, shuffle=True)
        return model, trainer_of(model).epochs(*loaders, 3, verbose=False)

    def ended(seed):
        model, epochs = run(seed)
        *_, history = epochs
        return model, history

    alone = [ended(seed) for seed in (1, 2)]
    # A run's random numbers go on from where they stand at its first step: each is begun by its own seed.
    (one, first), (other, second) = run(1), run(2)
    turns = []
    for number in range(3):
        for seed, epochs in ((1, first), (2, second)):
            if number == 0:
                network(seed)
            turns.append((seed, next(epochs)))
    for model, (expected, history), seed in ((one, alone[0], 1), (other, alone[1], 2)):
        last = [found for which, found in turns if which == seed][-1]
        assert (last.train_loss, last.test_loss) == (history.train_loss, history.test_loss)
        check_same((None, model.state_dict()), (None, expected.state_dict()))


# Resumed -------------------------------------------------------------------------------------------------------------


class Augmented(Dataset):
    """Draws from torch's, NumPy's and Python's generators."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        image, label = blobs()[index]
        return image * (0.5 + random.random()) + np.random.rand() + torch.rand(()), label


def own_generator():
    return (
        DataLoader(blobs(), 5, shuffle=True, generator=torch.Generator().manual_seed(3)),
        DataLoader(blobs(seed=8), 10, shuffle=True, generator=torch.Generator().manual_seed(4)),
    )


def sampler_s_generator():
    draw = torch.Generator().manual_seed(3)
    return DataLoader(blobs(), 5, sampler=WeightedRandomSampler([1.0] * 24, 24, generator=draw)), DataLoader(blobs(), 9)


def batch_sampler_s_generator():
    sampler = RandomSampler(blobs(), generator=torch.Generator().manual_seed(3))
    return DataLoader(blobs(), batch_sampler=BatchSampler(sampler, 5, drop_last=False)), DataLoader(blobs(), 9)


def augmented(workers: int = 0):
    # fork: the start of two interpreters would take seconds
    context = "fork" if workers else None
    loader = DataLoader(Augmented(), 5, shuffle=True, num_workers=workers, multiprocessing_context=context)
    return loader, DataLoader(blobs(seed=8), 10)


class Epochwise(torch.utils.data.Sampler):
    """As DistributedSampler: another order by epoch, if it is told the epoch."""

    epoch = 0

    def __len__(self):
        return 24

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(24, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def told_the_epoch():
    return DataLoader(blobs(), 5, sampler=Epochwise()), DataLoader(blobs(), 9)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)


def lbfgs(model):
    return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)


def numpy_s_rate(model):
    return torch.optim.Adam(model.parameters(), lr=np.logspace(-3, -2, 2)[0])


@pytest.mark.parametrize(
    ("optimizer", "loaders"),
    [
        (sgd, None),
        (adam, None),
        (lbfgs, None),
        (numpy_s_rate, None),
        (sgd, own_generator),
        (sgd, sampler_s_generator),
        (sgd, batch_sampler_s_generator),
        (sgd, told_the_epoch),
        (sgd, augmented),
        pytest.param(sgd, lambda: augmented(workers=2), id="sgd-workers"),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, optimizer, loaders):
    whole = fitted(4, optimizer, loaders)
    fitted(1, optimizer, loaders, checkpoints=tmp_path / "run")
    fitted(3, optimizer, loaders, checkpoints=tmp_path / "run", seed=5)
    check_same(fitted(4, optimizer, loaders, checkpoints=tmp_path / "run.pt", seed=6), whole)
    check_same(fitted(4, optimizer, loaders, checkpoints=tmp_path / "run", seed=7), whole)  # nothing is left to do
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_sampler_is_told_its_epoch_and_goes_on_from_there(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Epochwise, "set_epoch", lambda sampler, epoch: told.append(epoch))
    for epochs in (2, 4):
        fitted(epochs, loaders=told_the_epoch, checkpoints=tmp_path / "run")
    assert [*dict.fromkeys(told)] == [0, 1, 2, 3]


def test_the_history_says_what_a_checkpoint_brought(tmp_path):
    loader = DataLoader(blobs(), 5)
    fitted(2, checkpoints=tmp_path / "run")
    brought, last = trainer_of(network()).epochs(loader, loader, 3, tmp_path / "run", verbose=False)
    assert (brought.epochs, brought.resumed_at) == (2, 2)
    assert (last.epochs, last.resumed_at, last.images) == (3, 2, (24, 24, 24))


# Files that are no checkpoints ---------------------------------------------------------------------------------------


def saved_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, buffer)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["BOMB"])),)


def bomb(pickled) -> bytes:
    buffer = io.BytesIO()
    pickled(Bomb(), buffer)
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    """Turn a bit in the middle of the first tensor, where nothing but a sum can tell."""
    weights = network().state_dict()["0.0.weight"].numpy().tobytes()
    place = data.index(weights[:8]) if weights[:8] in data else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"no checkpoint",
        lambda whole: whole[:-100],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[1000:],
        flipped,
        lambda whole: saved_bytes(),
        lambda whole: pickle.dumps({"schema": "cnnprof.checkpoint/1"}),
        lambda whole: b"\x80\x02R.",
        lambda whole: bomb(torch.save),
        lambda whole: bomb(pickle.dump),
    ],
    ids=["empty", "text", "cut", "half", "headless", "flipped", "alien", "pickle", "opcodes", "bomb", "pickled_bomb"],
)
def test_a_damaged_or_alien_file_is_refused_in_a_line_and_nothing_in_it_runs(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("BOMB", str(tmp_path / "went off"))
    file = tmp_path / "run.pt"
    still = {"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.0)}
    fitted(1, checkpoints=file, **still)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError) as raised:
        fitted(2, checkpoints=file, **still)
    line = str(raised.value)
    assert (
        line == f"{file}: is damaged, or no cnnprof.checkpoint/1; choose another file, or remove this one to begin anew"
    )
    assert not (tmp_path / "went off").exists()


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "run.pt").mkdir()
    with pytest.raises(UsageError, match=r"run.pt: cannot be read: Is a directory; choose another file"):
        fitted(1, checkpoints=tmp_path / "run")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), "its 1.weight is missing, here 3x16"),
        (lambda: nn.Sequential(*network(), nn.Linear(3, 3)), "its 4.weight is missing, here 3x3"),
        (lambda: nn.Sequential(*[*network()][:-1], nn.Linear(64, 5)), "its 3.weight is 3x64, here 5x64"),
        (lambda: nn.Sequential(*network()[:2], nn.Linear(64, 3)), "its 2.weight is missing, here 3x64"),
    ],
)
def test_a_checkpoint_of_another_model_is_told(tmp_path, other, told):
    fitted(1, checkpoints=tmp_path / "run")
    loader = DataLoader(blobs(), 5)
    with pytest.raises(UsageError, match=f"run.pt: is of another model: {told}; choose another file"):
        trainer_of(other()).fit(loader, loader, 2, tmp_path / "run", verbose=False)


def test_a_checkpoint_of_another_optimizer_is_told(tmp_path):
    fitted(1, checkpoints=tmp_path / "run")
    with pytest.raises(UsageError, match=r"run.pt: is of another optimizer: SGD, here Adam; choose another file"):
        fitted(2, adam, checkpoints=tmp_path / "run")
    groups = {"optimizer": lambda model: torch.optim.SGD([{"params": [one]} for one in model.parameters()], lr=0.1)}
    with pytest.raises(UsageError, match=r"run.pt: is of another optimizer: .*; choose another file"):
        fitted(2, **groups, checkpoints=tmp_path / "run")


# What goes wrong on the way ------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    fitted(1, checkpoints=tmp_path / "run")
    whole = (tmp_path / "run.pt").read_bytes()
    sync = os.fsync

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning) as warned:
        result = fitted(3, checkpoints=tmp_path / "run")
    told = "run.pt: epoch {} was not saved: No space left on device; the file stands as it was"
    assert [str(each.message).endswith(told.format(number)) for each, number in zip(warned, (2, 3), strict=True)]
    assert (tmp_path / "run.pt").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    check_same(result, fitted(3))
    monkeypatch.setattr(os, "fsync", sync)
    check_same(fitted(3, checkpoints=tmp_path / "run"), result)


def test_a_warning_is_not_repeated_by_the_checkpoint_that_could_be_written(tmp_path, monkeypatch):
    loader = DataLoader(blobs(), 5)
    epochs = trainer_of(network()).epochs(loader, loader, 2, tmp_path / "run", verbose=False)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        assert "epoch 1 was not saved: full" in next(epochs).not_saved
    assert next(epochs).not_saved is None
    brought, *_ = trainer_of(network()).epochs(loader, loader, 2, tmp_path / "run", verbose=False)
    assert brought.not_saved is None


def diverging(lr: float) -> ClassifierTrainer:
    """A run whose weight, 1 at first, is multiplied by 1 - 2 lr a step; the loss is its square."""
    plain = lambda model: torch.optim.SGD(model.parameters(), lr=lr)  # noqa: E731
    return trainer_of(linear([[1.0]]), plain, lambda scores, labels: (scores**2).mean())


def test_a_loss_that_is_no_number_stops_and_names_its_step():
    # with lr = 5e9 losses are 1, 1e20 and 1e40, which is above float32's 3.4e38
    batch = (torch.ones(1, 1), torch.tensor([0]))
    with pytest.raises(NotFiniteError, match=r"^step 3: the loss became inf; a lower learning rate"):
        diverging(5e9).train_epoch([batch] * 5, verbose=False)
    with pytest.raises(NotFiniteError, match=r"^epoch 2, step 1: the loss became inf"):
        diverging(5e9).fit([batch] * 2, [(torch.zeros(1, 1), torch.tensor([0]))], 3, verbose=False)


def test_weights_that_the_last_step_spoiled_are_not_saved(tmp_path):
    batch = (torch.ones(1, 1), torch.tensor([0]))
    trainer = diverging(0.0)
    epochs = trainer.epochs([batch], [batch], 2, tmp_path / "run", verbose=False)
    next(epochs)
    whole = (tmp_path / "run.pt").read_bytes()
    trainer.optimizer.param_groups[0]["lr"] = 5e19  # the weight becomes -1e20, its square 1e40
    with pytest.raises(NotFiniteError, match=r"^epoch 2, test step 1: the loss became inf"):
        next(epochs)
    assert (tmp_path / "run.pt").read_bytes() == whole


def test_an_interrupted_run_leaves_its_last_whole_checkpoint(tmp_path):
    calls = itertools.count(1)

    def impatient(scores, labels):
        if next(calls) == 12:  # in the second epoch: five batches and three a whole one
            raise KeyboardInterrupt
        return CROSS_ENTROPY(scores, labels)

    model = network()
    loaders = DataLoader(blobs(), 5, shuffle=True), DataLoader(blobs(seed=8), 10)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(model, loss=impatient).fit(*loaders, 3, tmp_path / "run", verbose=False)
    check_same(fitted(3, checkpoints=tmp_path / "run"), fitted(3))


def test_a_bar_shows_loss_accuracy_and_rate_on_standard_error(capsys):
    trainer_of(network()).fit(DataLoader(blobs(), 5), DataLoader(blobs(), 5), 1)
    out, err = capsys.readouterr()
    assert out == ""
    for words in ("train 1", "test 1", "5/5", "loss ", "accuracy ", "img/s"):
        assert words in err


# Whole runs ----------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys, warnings
import torch
sys.path.insert(0, {tests!r})
from test_trainer import fitted
torch.set_num_threads(1)
fitted(1, checkpoints="run")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(fitted(2, checkpoints="run")[0].num_epochs, *(each.message for each in told))
"""

KILLED = """
import os, random, signal, sys
import torch
from torch.utils.data import DataLoader
sys.path.insert(0, {tests!r})
from test_trainer import adam, blobs, fitted, network

def loaders():
    return DataLoader(blobs(900), 5, shuffle=True), DataLoader(blobs(90, seed=8), 10)

def ran(name, dies_s=0.0):  # a fork: no second import, and the moments of a kill fall into the training
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, dies_s)  # of its own processor time, as an unheeded SIGPROF kills
        print(name, *fitted(6, adam, loaders, checkpoints=name)[0], flush=True)
        os._exit(0)
    spent = os.wait4(child, 0)[2]
    return spent.ru_utime + spent.ru_stime

torch.set_num_threads(1)
adam(network())  # what this imports is imported once
draw = random.Random(11)
epoch_s = ran("whole") / 6
for _ in range(10):
    ran("killed", draw.uniform(0, 2) * epoch_s)
    saved = torch.load("killed.pt")["history"]["train_loss"] if os.path.exists("killed.pt") else ()
    print("at", len(saved), flush=True)
ran("killed")
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_the_earlier_one_whole(tmp_path):
    code = FULL_DISK.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2 run.pt: epoch 2 was not saved: File too large; the file stands as it was\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    check_same(fitted(2, checkpoints=tmp_path / "run"), fitted(2))


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_gives_what_an_uninterrupted_one_gives(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    whole, *kills, last = done.stdout.splitlines()
    assert len({line for line in kills if line.startswith("at ")}) > 2, "the kills fell into several epochs"
    assert last.removeprefix("killed") == whole.removeprefix("whole")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, (32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    return (images - images.mean()) / images.std(), torch.tensor(found.target)


def overfitted(seed: int) -> float:
    """The course's own: a network that is large enough learns 25 batches of 2 by heart. Gives the best accuracy."""
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(*digits()), 2)
    model = CNN(in_size=(3, 32, 32), out_classes=10, channels=[32], pool_every=1, hidden_dims=[100])
    trainer = trainer_of(model, lambda model: torch.optim.SGD(model.parameters(), lr=0.01))
    best = 0.0
    for _ in range(25):
        best = max(best, trainer.train_epoch(loader, max_batches=25, verbose=False).accuracy)
        if best >= 90:
            break
    return best


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_the_course_s_network_learns_fifty_digits_by_heart(seed):
    assert overfitted(seed) >= 90
