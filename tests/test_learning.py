"""Models that learn side by side: the same images in the same order, runs that go on, differences over seeds."""

import dataclasses
import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import cnnprof
from cnnprof import learning, statistics, store
from cnnprof.errors import Interrupted, UsageError
from cnnprof.records import TrainingRun

TINY = "cnn(in_size=(1, 8, 8), channels=[4], hidden_dims=[8])"


def trained(models=(TINY,), **how):
    given = {"data": "fake", "epochs": 2, "seeds": (1, 2), **how}
    return cnnprof.train(list(models) if isinstance(models, tuple) else models, **given)


def curves(record):
    return {(run.model, run.seed): (run.train_loss, run.test_accuracy_percent) for run in record.runs}


def test_every_model_is_trained_from_every_seed():
    record = trained({"a": TINY, "b": TINY})
    assert [(run.model, run.seed) for run in record.runs] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert all(len(run.train_loss) == len(run.test_accuracy_percent) == 2 for run in record.runs)
    assert all(run.images_seen == 2 * record.dataset.train_images for run in record.runs)
    steps = math.ceil(record.dataset.train_images / 64)
    assert all([*map(len, run.step_times_s)] == [steps, steps] for run in record.runs)


def test_equal_models_learn_equally_whatever_stands_between_them():
    dropout = "stack(channels=4, blocks=3, in_size=(1, 8, 8), batchnorm=True)"
    together = curves(trained({"a": TINY, "other": dropout, "b": TINY}))
    assert together["a", 1] == together["b", 1] != together["a", 2]
    assert together["a", 1] == curves(trained({"a": TINY}))["a", 1]


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    trained()
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_a_run_that_was_ended_goes_on_where_it_stood(tmp_path):
    whole = curves(trained({"a": TINY, "b": TINY}, epochs=3))

    def ends(record):
        if len(record.runs) == 2 and len(record.runs[0].train_loss) == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as interrupted:
        trained({"a": TINY, "b": TINY}, epochs=3, checkpoints=tmp_path, listener=learning.Listener(ends))
    assert interrupted.value.run.partial
    assert [len(run.train_loss) for run in interrupted.value.run.runs] == [2, 1]
    resumed = trained({"a": TINY, "b": TINY}, epochs=3, checkpoints=tmp_path)
    assert curves(resumed) == whole
    assert [run.resumed_at for run in resumed.runs] == [2, 1, 0, 0]


def test_other_settings_begin_anew_and_more_epochs_do_not(tmp_path):
    trained(checkpoints=tmp_path)
    assert [run.resumed_at for run in trained(checkpoints=tmp_path, epochs=3).runs] == [2, 2]
    assert [run.resumed_at for run in trained(checkpoints=tmp_path, optimizer="sgd(lr=0.1)").runs] == [0, 0]
    same_name = trained({"net": TINY}, checkpoints=tmp_path), trained({"net": f"{TINY[:-1]}, activation_type='tanh')"},
                                                                       checkpoints=tmp_path)  # fmt: skip
    assert [run.resumed_at for record in same_name for run in record.runs] == [0, 0, 0, 0]


def test_a_checkpoint_of_more_epochs_than_asked_for_is_a_doubt(tmp_path):
    trained(checkpoints=tmp_path, epochs=3, seeds=(1,))
    doubts = [doubt.message for doubt in trained(checkpoints=tmp_path, epochs=2, seeds=(1,)).doubts]
    assert doubts == ["seed 1: its checkpoint brought 3 epochs, more than the 2 asked for"]


def test_depths_are_of_networks_that_have_learned_nothing():
    record = trained(("stack(channels=4, in_size=(1, 8, 8), skip=False)",), epochs=1, seeds=(1,))
    (depth,) = record.depths
    assert len(depth.layers) == 20  # the stem, nine blocks of two, the classifier
    assert depth.layers[0].gradient < 1e-4 * depth.layers[-1].gradient
    assert depth == trained(("stack(channels=4, in_size=(1, 8, 8), skip=False)",), epochs=2, seeds=(1,)).depths[0]


def test_a_model_of_other_code_begins_anew(tmp_path):
    file = tmp_path / "net.py"
    code = (
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.linear = nn.Linear(64, 10)\n\n"
        "    def forward(self, x):\n        return self.linear(x.flatten(1))\n"
    )
    resumed = []
    for factor in ("", " * 2", " * 2"):
        file.write_text(f"{code.rstrip()}{factor}\n")
        record = trained((f"{file}:Net",), input_size=(1, 8, 8), checkpoints=tmp_path, seeds=(1,))
        resumed.append(record.runs[0].resumed_at)
    assert resumed == [0, 0, 2]


def test_checkpoints_that_need_not_be_kept_are_removed(tmp_path):
    trained(checkpoints=tmp_path / "new", keep_checkpoints=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").write_text("mine")
    trained(checkpoints=tmp_path, keep_checkpoints=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_loss_that_is_no_number_ends_its_own_model_alone():
    record = trained({"a": TINY, "b": "cnn(in_size=(1, 8, 8), channels=[4], activation_type='none')"},
                     optimizer="sgd(lr=1e30)", seeds=(1,))  # fmt: skip
    assert all("the loss became" in (run.failure or "") and "epoch 1, step" in run.failure for run in record.runs)
    assert record.comparisons[0].test_accuracy_percent.verdict == "inconclusive"
    assert record.comparisons[0].test_accuracy_percent.difference is None
    assert any("it stopped" in doubt.message for doubt in record.doubts)


class Sulks(nn.Module):
    """Raises in its first training step."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        if self.training and len(x) == 64:
            raise RuntimeError("I will not")
        return self.linear(x.flatten(1))


def test_a_model_that_raises_is_left_behind():
    record = trained({"a": TINY, "b": Sulks()}, input_size=(1, 8, 8))
    assert [run.failure for run in record.runs] == [None, "RuntimeError: I will not"] * 2


class Tires(nn.Module):
    """Raises in the second training step of its third epoch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps > 2 * 512 / 64 + 1:
            raise torch.OutOfMemoryError("it does not fit")
        return self.linear(x.flatten(1))


def test_a_run_that_fails_late_keeps_its_epochs_and_names_the_one_it_failed_in():
    record = trained({"a": Tires()}, input_size=(1, 8, 8), epochs=5, seeds=(1,))
    (run,) = record.runs
    assert (len(run.train_loss), run.failure) == (2, "epoch 3: OutOfMemoryError: it does not fit")
    assert "a failed in epoch 3 (seed 1)" in str(record)


def test_seconds_end_a_run_within_an_epoch():
    record = trained(epochs=None, time_s=1e-6, seeds=(1,))
    assert [*map(len, record.runs[0].step_times_s)] == [1]
    assert record.runs[0].images_seen == 64


def test_a_run_is_read_back_as_it_was_saved(tmp_path):
    record = trained({"a": TINY, "b": TINY})
    document = json.loads(store.to_json(record))
    assert document["schema"] == "cnnprof.training/1"
    assert set(document) >= {"data", "config", "runs", "comparisons"}
    assert {"model", "seed", "train_loss", "train_accuracy_percent", "test_loss", "test_accuracy_percent", "train_s",
            "images_seen"} <= set(document["runs"][0])  # fmt: skip
    assert set(document["comparisons"][0]) == {"name", "test_accuracy_percent"}
    assert store.from_document(document) == record


@pytest.mark.parametrize(
    ("models", "how", "words"),
    [
        ((), {}, "given none"),
        ((TINY,), {"epochs": 0}, "epochs 0: a whole number"),
        ((TINY,), {"time_s": -1.0}, "seconds above 0"),
        ((TINY,), {"seeds": (-1,)}, "seed -1"),
        ((TINY,), {"seeds": ()}, "seeds (): one whole number or more"),
        ((TINY,), {"optimizer": "adm"}, "nearest: adam"),
        ((TINY,), {"optimizer": "adam(momentum=1)"}, "refuses it"),
        ((TINY,), {"data": "cifar11"}, "nearest: cifar10"),
        (("cnn(out_classes=7)",), {}, "gives 7 scores, fake has 10 classes; try 'cnn(out_classes=10)'"),
        (("resnet18",), {"input_size": 32}, "try 'resnet18(num_classes=10)'"),
        (("regular(channels=4)",), {}, "a classifier gives scores (N, C); the model gave (2, 4, 56, 56)"),
        (("alexnet",), {"input_size": 16}, "Output size is too small"),
        (("r3d_18",), {}, "takes no single image"),
        ((TINY,), {"seeds": 2}, "seeds 2: one whole number or more"),
        (("cnn@bf16",), {}, "no setting after '@' but input-size, it has dtype"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(models, how, words):
    with pytest.raises(UsageError) as refusal:
        trained(models, **how)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


# Differences ---------------------------------------------------------------------------------------------------------


def run(model, seed, wrong, images=100):
    return TrainingRun(
        model, seed, (1.0,), (50.0,), (1.0,), (100.0 * (1 - len(wrong) / images),), test_wrong=tuple(wrong)
    )


def contrast_of(*runs, images=100):
    named = {(each.model, each.seed): each for each in runs}
    return learning._contrast("b", "a", named, images).test_accuracy_percent


def test_a_difference_is_paired_over_seeds():
    found = contrast_of(run("a", 1, range(10)), run("b", 1, range(4)), run("a", 2, range(12)), run("b", 2, range(4)))
    assert found.difference == pytest.approx(7.0)  # 6 and 8 points
    assert found.seeds == 2
    gained = np.zeros(100)
    gained[4:10], gained[10:12] = 1, 0.5  # by image, the mean over both seeds
    half = math.hypot(12.706 * 1.0, 1.95996 * 100 * gained.std() / 10)  # t of one degree; s / sqrt(2) is 1
    assert found.ci95 == pytest.approx((7 - half, 7 + half), rel=1e-4)
    assert found.verdict == "inconclusive"


def test_seeds_that_agree_exactly_still_carry_the_test_sets_own_error():
    runs = [run(model, seed, wrong) for seed in (1, 2, 3) for model, wrong in (("a", range(3)), ("b", range(1)))]
    found = contrast_of(*runs)
    assert found.difference == pytest.approx(2.0)
    half = 1.95996 * 100 * math.sqrt(0.02 * 0.98) / 10
    assert found.ci95 == pytest.approx((2 - half, 2 + half), rel=1e-4)
    assert found.verdict == "inconclusive"


def test_one_seed_carries_no_interval():
    found = contrast_of(run("a", 1, range(90)), run("b", 1, ()))
    assert (found.ci95, found.verdict, found.seeds) == (None, "inconclusive", 1)


def test_a_run_that_stopped_is_in_no_pair():
    stopped = dataclasses.replace(run("b", 2, range(90)), failure="the loss became nan")
    found = contrast_of(run("a", 1, range(9)), run("b", 1, range(9)), run("a", 2, ()), stopped)
    assert (found.difference, found.seeds) == (0.0, 1)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((0.5, 3.0), "higher"),
        ((-3.0, -0.5), "lower"),
        ((-0.9, 0.9), "equal"),
        ((0.1, 0.9), "equal"),
        ((-0.5, 1.5), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_a_verdict_says_no_more_than_its_interval(bounds, verdict):
    assert statistics.accuracy_verdict(bounds) == verdict


def test_intervals_of_equal_models_hold_zero_as_often_as_they_say():
    random_ = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = random_.normal(0, 1.0, 3) + random_.normal(0, 0.5)
        low, high = statistics.paired(noise.tolist(), 0.5)
        held += low <= 0 <= high
    assert held / 400 >= 0.93


# Beside a comparison -------------------------------------------------------------------------------------------------


def test_blocks_are_stacked_as_large_as_the_first_and_once_without_skips():
    experiment = learning.of_compared(["regular", "narrow=bottleneck(reduction=2)"], data="fake")
    regular, narrow, bare = experiment.learners
    assert [each.name for each in experiment.learners] == ["regular", "narrow", "plain"]
    assert regular.model == "stack(block='regular')"
    assert narrow.model.startswith("stack(block='bottleneck', reduction=2, channels=")
    assert bare.params == regular.params
    assert abs(narrow.params / regular.params - 1) < 0.05


def test_classifiers_are_trained_as_they_are():
    experiment = learning.of_compared(["cnn", "resnet"], data="fake")
    assert [each.model for each in experiment.learners] == ["cnn", "resnet"]


def test_a_comparison_carries_what_its_models_learned():
    names = [TINY, TINY.replace("[4]", "[2]")]
    comparison = cnnprof.compare(names, time_s=0.2)
    experiment = learning.of_compared(names, data="fake", epochs=1, seeds=(1,))
    states = []
    found = learning.alongside(comparison, experiment, learning.Listener(states.append))
    assert found.training.baseline == names[0]
    assert [profile.training_run.seed for profile in found.profiles] == [1, 1]
    assert all(state.partial for state in states)
    assert store.from_document(json.loads(store.to_json(found))).training == found.training


def test_ctrl_c_before_anything_is_learned_keeps_the_comparison(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    comparison = cnnprof.compare([TINY, TINY], time_s=0.2)
    experiment = learning.of_compared([TINY, TINY], data="fake", epochs=1, seeds=(1,))
    monkeypatch.setattr(learning, "norms", interrupted)
    with pytest.raises(Interrupted) as caught:
        learning.alongside(comparison, experiment, learning.Listener())
    assert caught.value.run == dataclasses.replace(comparison, partial=True)


def test_an_optimizers_arguments_may_stand_beside_it():
    from cnnprof.optimizers import with_arguments

    assert with_arguments("sgd", lr=0.1, momentum=None) == "sgd(lr=0.1)"
    assert with_arguments("sgd(momentum=0.9)", lr=0.1) == "sgd(momentum=0.9, lr=0.1)"
    with pytest.raises(UsageError, match="lr is given twice"):
        with_arguments("sgd(lr=0.2)", lr=0.1)
