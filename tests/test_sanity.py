"""`sanity`: each check has a network that fails it alone, healthy ones fail none, and nothing is left changed."""

import copy
import functools
import itertools
import json
import math
import random
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sick_networks
import torch
from sick_networks import SICK, WELL
from torch import nn

import cnnprof
from cnnprof import store
from cnnprof.errors import UsageError
from cnnprof.models.cnn import CNN
from cnnprof.records import Check
from cnnprof.training import data
from cnnprof.training import sanity as questions
from cnnprof.training.sanity import evaluation, fit, moves, samples, signals, unregistered
from cnnprof.training.sanity.fit import Fit

IMAGE = (3, 32, 32)
FILE = Path(sick_networks.__file__)
SLOW = {
    "SoftmaxTwice",
    "SigmoidHead",
    "Deep",
    "Dropped",
    "OneUnit",
    "Squashed",
    "Sigmoids",
    "Detached",
    "BatchSoftmax",
    "Cut",
    *("SlowNorms", "NeverUpdated", "StopsInEvaluation"),
    *("BufferOfWeights", "PlainDict", "Closure", "MadeInForward", "Checkpointed", "NormInList"),
}
"""The first try every rate in vain, the others are much like some that are not slow."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def look(name, seed=42, **options):
    return cnnprof.sanity(f"{FILE}:{name}", IMAGE, seed=seed, **options)


def check(record, name) -> Check:
    (found,) = (each for each in record.checks if each.name == name)
    return found


def failed(record):
    return [each.name for each in record.checks if each.status == "failed"]


@pytest.mark.parametrize("name", [name for name in SICK if name not in SLOW])
def test_a_fault_fails_its_own_check_alone(name):
    record = look(name)
    assert failed(record) == [SICK[name]]
    assert not record.passed
    assert check(record, SICK[name]).hint


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", SICK)
def test_a_fault_fails_its_own_check_alone_under_any_seed(name, seed):
    assert failed(look(name, seed)) == [SICK[name]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", WELL)
def test_what_is_unusual_and_healthy_fails_no_check(name, seed):
    assert not failed(look(name, seed))


class NanOfFewImages(sick_networks.Healthy):
    """Goes wrong in a batch smaller than those that it learns."""

    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training and len(x) < 16 else 1.0)


def test_a_number_that_is_none_fails_whatever_question_meets_it():
    record = cnnprof.sanity(NanOfFewImages(), IMAGE)
    assert failed(record) == ["finite"]
    assert "while asking for samples independent" in check(record, "finite").message


class NanInEvaluation(sick_networks.Healthy):
    def forward(self, x):
        return super().forward(x) * (1.0 if self.training else float("nan"))


def test_an_output_that_is_no_number_in_evaluation_fails():
    record = cnnprof.sanity(NanInEvaluation(), IMAGE)
    assert failed(record) == ["finite"]
    assert "an output in evaluation mode" in check(record, "finite").message


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.head = sick_networks.features(), nn.LazyLinear(10)

    def forward(self, x):
        return self.head(self.features(x))


def test_lazy_layers_get_their_shapes_first():
    assert cnnprof.sanity(Lazy(), IMAGE).passed


class Rectified(sick_networks.Healthy):
    def forward(self, x):
        return super().forward(x).relu()


def test_scores_that_are_never_below_0_are_remarked_on():
    assert check(cnnprof.sanity(Rectified(), IMAGE), "raw scores").message == "none is below 0"


class Slow(sick_networks.Healthy):
    def forward(self, x):
        return super().forward(x) * 0.02


def test_labels_that_are_not_learned_yet_say_nothing_of_the_data():
    found = check(cnnprof.sanity(Slow(), IMAGE), "shuffled labels")
    assert (found.status, found.message) == ("skipped", "neither is learned in 10 epochs")


def test_the_checks_name_the_place():
    assert "the input of features (Sequential)" in check(look("MakesNan"), "finite").message
    assert "middle.1" in check(look("DeadLayer"), "dead ReLUs").message
    moving = check(look("NeverCalled"), "all parameters move")
    assert moving.message == "6 of 8 tensors: no gradient reaches forgotten.weight, forgotten.bias"


def test_zero_weights_cost_exactly_ln_10_and_explain_what_follows():
    record = look("AllZero")
    assert check(record, "loss at start").value == pytest.approx(math.log(10), rel=1e-6)
    assert check(record, "all parameters move").value == 1  # the last bias alone
    follows = check(record, "overfits a batch")
    assert (follows.status, follows.hint) == ("warning", "")
    assert follows.message.endswith("follows from: all parameters move")


def test_batch_norm_mixes_samples_by_design():
    record = look("WithBatchNorm")
    assert record.passed
    assert check(record, "samples independent").status == "ok"
    norm = check(record, "batch norm")
    assert (norm.status, norm.value) == ("warning", 1)  # the other keeps no running statistics
    assert check(look("Healthy"), "batch norm").message == "the network has none"


def test_logarithms_of_probabilities_are_harmless():
    record = look("LogScores")
    assert record.passed
    assert check(record, "raw scores").status == "warning"


def test_the_courses_network_learns_fifty_images_in_the_courses_way():
    network = CNN(IMAGE, 10, channels=[32], pool_every=1, hidden_dims=[100])
    record = cnnprof.sanity(network, IMAGE)
    assert record.passed
    assert record.params == 821_206
    overfits = check(record, "overfits 50 images")
    assert overfits.status == "ok"
    assert overfits.value >= 90
    assert record.protocol == "SGD lr 0.01"


def test_thirty_layers_without_a_norm_are_flagged():
    torch.manual_seed(0)
    build = sick_networks.Deep
    trial = questions.Trial(build, [(torch.randn(16, *IMAGE), torch.arange(16) % 10)])
    moved = moves.moved(trial)
    learned = Fit(1.0, 0.0, 1, 0.01, moved.network)
    not_learned = Fit(0.2, 2.0, 200, 0.01, moved.network)
    assert signals.depth(moved, not_learned).status == "failed"
    assert signals.depth(moved, learned).status == "warning"


def test_norms_by_depth_follow_the_gains():
    """Six maps x -> x / 2: outputs halve on their way up, gradients on their way down."""
    layers = [nn.Linear(12, 12, bias=False) for _ in range(6)]
    for layer in layers:
        nn.init.eye_(layer.weight).data.mul_(0.5)
    network = nn.Sequential(nn.Flatten(), *layers)
    images = torch.randn(16, 3, 2, 2)
    trial = questions.Trial(lambda: network, [(images, torch.arange(16) % 10)])
    norms = questions.norms(trial)
    assert [each.path for each in norms] == ["1", "2", "3", "4", "5", "6"]
    for depth, each in enumerate(norms, 1):
        assert each.activation == pytest.approx(float(images.square().mean().sqrt()) * 0.5**depth, rel=1e-5)
        assert each.gradient == pytest.approx(norms[-1].gradient * 0.5 ** (6 - depth), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "status"),
    [(0.1, "warning"), (math.log(10), "ok"), (3.0, "ok"), (3.6, "warning"), (12.0, "warning"), (13.0, "failed")],
)
def test_what_is_tolerated_of_the_first_loss(loss, status):
    assert signals._loss_at_start(loss, 10).status == status


def test_frozen_parameters_are_named_and_not_failed():
    network = sick_networks.Healthy()
    network.features[0].weight.requires_grad_(False)
    moving = check(cnnprof.sanity(network, IMAGE), "all parameters move")
    assert (moving.status, moving.message) == (
        "ok",
        "5 of 5 tensors; frozen: 216 parameters in 1 tensor, features.0.weight",
    )


class Unheard(sick_networks.Healthy):
    """Multiplies a branch by 0, as attention over a single place does with what chooses it."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(256, 256)

    def forward(self, x):
        found = self.features(x)
        return self.head(found + 0 * self.query(found))


def test_gradients_of_zero_are_no_failure_where_it_learns():
    moving = check(cnnprof.sanity(Unheard(), IMAGE), "all parameters move")
    assert moving.status == "warning"
    assert moving.message == "6 of 8 tensors: the gradient of query.weight, query.bias is 0"


class Auxiliary(sick_networks.Healthy):
    """Returns scores of a second head beside the main ones while it trains, as GoogLeNet does."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(256, 10)

    def forward(self, x):
        found = self.features(x)
        return (self.head(found), self.second(found)) if self.training else self.head(found)


def test_auxiliary_scores_get_gradients_too():
    record = cnnprof.sanity(Auxiliary(), IMAGE)
    assert record.passed
    assert check(record, "all parameters move").message == "8 of 8 tensors"


def test_a_loss_of_ones_own_leaves_out_what_needs_labels():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    record = cnnprof.sanity(network, (3, 8, 8), loss=lambda output: output.square().mean())
    assert record.passed
    skipped = {each.name for each in record.checks if "no labels" in each.message}
    assert skipped == {"loss at start", "raw scores", "overfits a batch", "shuffled labels", "evaluation"}
    assert check(record, "all parameters move").status == "ok"
    assert record.data == "random images of 3x8x8"


class Stops(sick_networks.Healthy):
    """Draws from every generator, and raises at the third pass."""

    calls = 0

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        random.random(), np.random.rand(), torch.rand(1)
        Stops.calls += 1
        if self.error and Stops.calls > 2:
            raise self.error
        return super().forward(self.norm(x))


@pytest.mark.parametrize("error", [None, RuntimeError("no more"), KeyboardInterrupt()])
def test_weights_mode_gradients_and_random_states_stay(error):
    Stops.calls = 0
    network = Stops(error).eval()
    network.features[0].bias.requires_grad_(False)
    network.head.weight.grad = torch.ones_like(network.head.weight)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    if error is None:
        cnnprof.sanity(network, IMAGE)
    else:
        with pytest.raises(UsageError if isinstance(error, Exception) else type(error)):
            cnnprof.sanity(network, IMAGE)
    assert Stops.calls > 2
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    assert not any(part.training for part in network.modules())
    assert not network.features[0].bias.requires_grad
    assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))
    assert not any(part._forward_hooks for part in network.modules())


def examined(build, ends=math.inf):
    """Examine a network by a clock that moves on by 1 s whenever it is looked at."""
    images = torch.randn(64, *IMAGE, generator=torch.Generator().manual_seed(0))
    batches = [(each, torch.arange(16) % 10) for each in images.split(16)]
    ticks = itertools.count()
    return questions.examine(questions.Trial(build, batches, ends=ends, clock=lambda: float(next(ticks))))


@pytest.mark.parametrize("network", [sick_networks.Healthy, sick_networks.Deep, sick_networks.SigmoidHead])
def test_what_no_time_was_left_for_is_not_asked(network):
    found = examined(network, ends=20.0)
    by_name = {each.name: each for each in found.checks}
    assert {"overfits a batch", "shuffled labels", "deterministic"} <= set(found.not_asked)
    assert ("depth" in found.not_asked) == (network is sick_networks.Deep)  # whether it learns decides there alone
    assert all(by_name[name].status == "skipped" for name in found.not_asked)
    assert "failed" not in {each.status for each in found.checks}


def test_what_fails_in_time_fails():
    steps = 40 + 200 + 200  # at the first rate the loss of Deep stays where it was
    assert failed(examined(sick_networks.Deep, ends=float(steps))) == ["depth"]


@pytest.mark.parametrize("name", ["Deep", "SigmoidHead", "Healthy"])
def test_no_verdict_depends_on_the_pace_of_time(name, monkeypatch):
    quiet = look(name).checks
    for clock in ("thread_time", "process_time"):
        began, honest = getattr(time, clock)(), getattr(time, clock)
        monkeypatch.setattr(time, clock, lambda began=began, honest=honest: began + 100 * (honest() - began))
    assert cnnprof.sanity(f"{FILE}:{name}", IMAGE).checks == quiet


def test_without_time_it_is_inconclusive(typed):
    code, out, err = typed("sanity", f"{FILE}:Healthy", "--input-size", "3x32x32", "--timeout", "1e-9", "-o", "x/")
    assert code == 3
    assert "inconclusive, no time was left to ask: overfits a batch, shuffled labels, evaluation, deterministic;" in err
    assert re.search(r"\n\nInconclusive: .*\n *ok +loss at start", out, re.DOTALL)  # said first
    (path,) = Path("x").glob("*.json")
    document = json.loads(path.read_text())
    assert (document["passed"], len(document["not_asked"])) == (False, 4)
    assert store.to_document(store.read(path)) == document


def test_a_time_below_0_is_refused():
    with pytest.raises(UsageError, match="timeout 0: a number of seconds above 0"):
        cnnprof.sanity(sick_networks.Healthy(), IMAGE, timeout_s=0)


def test_what_cannot_be_asked_is_skipped_with_the_reason():
    independent = check(cnnprof.sanity(sick_networks.StopsInEvaluation(), IMAGE), "samples independent")
    assert (independent.status, independent.message) == (
        "skipped",
        "the network stopped: RuntimeError: only trained",
    )


def flat(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, outputs))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (flat(5), {}, "it scores 5 classes and digits have 10; build it with 10 outputs or more"),
        (nn.Conv2d(3, 8, 3), {}, "no classifier: of 16 images scores, 16xK, were expected and 16x8x30x30 came"),
        (nn.Sequential(*[nn.MaxPool2d(8)] * 2, nn.Flatten(), nn.Linear(3, 10)), {}, "does not take images of 3x32x32"),
        (nn.Flatten(), {}, "no parameter that requires a gradient"),
        (flat(10), {"data": "cats"}, "'cats'"),
        (flat(10), {"loss": "missing.py:loss"}, "there is no file missing.py"),
        (flat(10), {"loss": lambda output: output}, "one number with a gradient"),
        (flat(10), {"seed": -1}, "seed -1"),
        ("cnn@bf16", {}, "no setting after '@'"),
        (sick_networks.StopsInEvaluation(error_in=True), {}, "its training stopped: RuntimeError: only evaluated"),
    ],
)
def test_bad_input_is_one_line(model, options, said):
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        cnnprof.sanity(model, IMAGE, **options)
    assert "\n" not in str(error.value)


def test_the_command_line(typed):
    code, out, err = typed("sanity", f"{FILE}:Detached", "--input-size", "3x32x32", "-o", "x/", "--seed", "7")
    assert code == 1
    assert "1 failed" in err
    assert re.search(r"failed +all parameters move +6 of 10 tensors", out)
    assert "Not healthy" in out
    (path,) = Path("x").glob("*.json")
    document = json.loads(path.read_text())
    assert document["schema"] == "cnnprof.sanity/1"
    assert document["passed"] is False
    assert [*document["checks"][0]] == ["name", "status", "value", "message", "hint"]
    assert store.to_document(store.read(path)) == document
    statuses = Counter(each["status"] for each in document["checks"])
    html, markdown = path.with_suffix(".html").read_text(), path.with_suffix(".md").read_text()
    assert html.count("<dt>") >= sum(statuses.values())
    assert "<svg" in html
    assert "| failed" in markdown
    assert "## By depth" in markdown
    assert str(Path.cwd()) not in html


def test_a_healthy_network_is_exit_code_0_and_one_document(typed):
    code, out, err = typed("sanity", f"{FILE}:Healthy", "--input-size", "3x32x32", "--json")
    assert (code, err, json.loads(out)["passed"]) == (0, "", True)


def test_nothing_comes_out_of_thin_maps(typed):
    code, _, err = typed("sanity", "cnn(in_size=(3, 2, 2), channels=[4, 4])")
    assert code == 2
    assert "shrink to nothing" in err


HEALTHY = """resnet18 resnet34 mobilenet_v2 mobilenet_v3_small shufflenet_v2_x0_5 squeezenet1_1 efficientnet_b0
regnet_y_400mf mnasnet0_5 densenet121 timm:convnext_atto timm:resnet10t timm:regnetx_002 timm:ghostnet_050
timm:lcnet_050 timm:tinynet_e timm:hardcorenas_a timm:test_resnet timm:mobilenetv4_conv_small timm:dla46_c
timm:repvgg_a0 timm:test_vit(img_size=32) timm:vit_tiny_patch16_224(img_size=32,patch_size=4) resnet resnet-bottleneck
timm:resmlp_12_224(img_size=32)""".split()  # noqa: SIM905  # a list would take a page
AT_64 = [
    "googlenet",
    "alexnet",
    "timm:mobilevit_xxs",
    "timm:efficientvit_b0",
    "timm:efficientvit_m0(img_size=64)",
    "timm:mixer_s32_224(img_size=64)",
    "timm:nf_regnet_b0",
    "timm:fastvit_t8",
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [*((name, 32) for name in HEALTHY), *((name, 64) for name in AT_64)])
def test_healthy_networks_fail_no_check(name, side):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    record = cnnprof.sanity(name, side, timeout_s=20)  # of large ones not all is asked
    assert not failed(record), record


def trial_of(network, size=IMAGE):
    images = torch.randn(16, *size, generator=torch.Generator().manual_seed(0))
    return questions.Trial(lambda: copy.deepcopy(network), [(images, torch.arange(16) % 10)])


class Functional(nn.Module):
    """Has parameters of its own, and no layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(32, 10))

    def forward(self, x):
        found = nn.functional.conv2d(x, self.first, stride=16).relu().flatten(1)
        return found @ self.last


@pytest.mark.parametrize(
    "normed",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        lambda layer: layer,
    ],
)
def test_layers_count_by_depth_whatever_makes_their_weights(normed):
    network = nn.Sequential(normed(nn.Conv2d(3, 4, 3, 4)), nn.ReLU(), nn.Flatten(), normed(nn.Linear(256, 10)))
    found = questions.norms(trial_of(network))
    assert [each.path for each in found] == ["0", "3"]
    assert all(each.gradient for each in found)


def test_functional_layers_count_by_their_parameters_names():
    assert [each.path for each in questions.norms(trial_of(Functional()))] == ["first", "last"]


class Sparse(sick_networks.Healthy):
    """One layer gets no image at all, and an argument is given by its name."""

    def forward(self, x):
        found = self.features(x)
        return self.head(found) + self.head(found[:0]).sum() + torch.round(input=found).sum(1, keepdim=True)


def test_empty_batches_and_named_arguments_are_followed():
    assert [each.path for each in questions.norms(trial_of(Sparse()))] == ["features.0", "features.2", "head"]


def test_whole_numbers_are_the_cause_of_a_large_loss():
    record = look("Whole")
    moving = check(record, "all parameters move")
    assert "gradients end at long in the network itself (Whole)" in moving.message
    assert "whole numbers have no slope" in moving.hint
    start = check(record, "loss at start")
    assert start.value > math.log(10) + 10
    assert start.status == "warning"
    assert start.message.endswith("follows from: all parameters move")


def test_units_that_stay_alike_are_named():
    moving = check(look("Alike"), "all parameters move")
    assert moving.message == "7 of 8 tensors: the units of middle.weight stay alike"


def registered(build):
    return unregistered.registered(replace(trial_of(build()), build=build))


@pytest.mark.parametrize(
    ("network", "weights", "place"),
    [
        (sick_networks.RawTensor, 256 * 256, "1 tensor are in no parameter: weight"),
        (sick_networks.BufferOfWeights, 256 * 256, "1 tensor are in no parameter: weight"),
        (sick_networks.Scaled, 256 * 256, "1 tensor are in no parameter: weight"),
        (sick_networks.PlainList, 257 * 256, "2 tensors are in no parameter: layers[0]."),
        (sick_networks.PlainDict, 257 * 256, "2 tensors are in no parameter: layers.middle.0."),
        (sick_networks.Closure, 257 * 256, "an argument of linear in the network itself (Closure)"),
        (sick_networks.MadeInForward, 257 * 256, "an argument of linear in the network itself (MadeInForward)"),
        (sick_networks.Checkpointed, 257 * 256, "2 tensors are in no parameter: layers[0]."),
        (sick_networks.DropoutInForward, 0, "eval() does not reach Dropout in the network itself (DropoutInForward)"),
        (sick_networks.NormInList, 0, "eval() does not reach BatchNorm1d in the network itself (NormInList)"),
    ],
)
def test_weights_in_no_parameter_are_counted_and_named(network, weights, place):
    found = registered(network)
    assert (found.status, found.value) == ("failed", weights)
    assert place in found.message
    assert found.message.startswith(f"{weights:,} weights in " if weights else "eval()")


@pytest.mark.parametrize(
    "network",
    [
        *(sick_networks.Healthy, sick_networks.Teacher, sick_networks.FrozenInList, sick_networks.Penalised),
        *(sick_networks.Quantised, sick_networks.Recurrent, sick_networks.Gated, Lazy),
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(3072, 10))),
    ],
)
def test_registered_weights_and_those_that_are_not_to_learn_are_well(network):
    assert registered(network).status == "ok"


def test_a_copy_does_not_hide_weights_in_no_parameter():
    """A copy holds the product as a constant."""
    network = sick_networks.Scaled()
    record = cnnprof.sanity(network, IMAGE)
    assert failed(record) == ["registered"]
    assert check(record, "registered").value == 256 * 256
    assert check(record, "registered").hint.startswith("weight is made of a Parameter that nothing holds")


def test_a_network_of_unregistered_layers_alone_is_told_which():
    told = "no parameter that requires a gradient: 3,962 weights in 6 tensors are in no parameter: layers["
    with pytest.raises(UsageError, match=re.escape(told)):
        cnnprof.sanity(sick_networks.AllInList(), IMAGE)
    with pytest.raises(UsageError, match=re.escape(told)):
        cnnprof.train([sick_networks.AllInList()], IMAGE, data="fake", epochs=1)


@pytest.mark.parametrize("given", [f"{FILE}:PlainList", f"{FILE}:Scaled", sick_networks.Scaled()])
def test_training_doubts_what_weights_in_no_parameter_learn(given):
    record = cnnprof.train({"net": given}, IMAGE, data="fake", epochs=1, seeds=(1,))
    doubt = next(doubt for doubt in record.doubts if doubt.about == "net")
    assert re.match(r"65,\d{3} weights in . tensors? are in no parameter: .*; they do not learn", doubt.message)
    assert "nn.Parameter" in doubt.hint


def evaluated(build):
    trial = digits_trial(build)
    return evaluation.evaluated(trial, fit.fitted(trial))


def digits_trial(build, seed=1):
    batches = [*data.batches(data.load("digits", IMAGE), "train", 16, seed=seed, limit=16)]
    return questions.Trial(build, batches, seed=seed)


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        (sick_networks.LoudWhileTrained, "does forward compute otherwise where self.training is False"),
        (sick_networks.OneNorm, "a pass calls norms.0 3 times, and its statistics fit no place"),
        (sick_networks.SlowNorms, "norms.2 follow by 90 % after 23,025 steps: raise the momentum"),  # ln 0.1/ln 0.9999
        (sick_networks.NeverUpdated, "is a statistic never updated?"),
    ],
)
def test_what_is_learned_and_lost_in_evaluation_fails(network, hint):
    found = evaluated(network)
    assert found.status == "failed"
    assert found.value <= 100 * 15 / 16
    assert "of the same images 100 % (loss 0." in found.message
    assert f"in training mode, {found.value:.0f} % (loss " in found.message
    assert hint in found.hint


def test_chance_in_evaluation_alone_fails():
    found = evaluated(sick_networks.DropoutReversed)
    assert found.status == "failed"
    assert "training=not self.training" in found.hint


def test_what_stops_in_evaluation_fails():
    found = evaluated(sick_networks.StopsInEvaluation)
    assert (found.status, found.message) == ("failed", "in evaluation mode it stopped: RuntimeError: only trained")


@pytest.mark.parametrize("momentum", [0.1, 0.01, 3e-4, None])  # torchvision's MNASNet has 3e-4
def test_statistics_that_follow_in_time_hold_in_evaluation(momentum):
    assert evaluated(lambda: sick_networks.Normed(momentum)).status == "ok"


@pytest.mark.parametrize(
    "network",
    [
        *(sick_networks.OwnNorms, sick_networks.Dropouts, sick_networks.Probabilities, sick_networks.WithBatchNorm),
        lambda: sick_networks.OwnNorms(0.01),
        lambda: sick_networks.Probabilities(classes=True),
    ],
)
def test_dropout_and_norms_hold_in_evaluation(network):
    assert evaluated(network).status == "ok"


def test_what_gives_no_scores_in_evaluation_cannot_be_compared():
    class Maps(sick_networks.Healthy):
        def forward(self, x):
            return super().forward(x) if self.training else self.features[0](x)

    assert evaluated(Maps).status == "warning"


def said_of(network, size=IMAGE):
    trial = trial_of(network, size)
    return fit._seen(trial, Fit(0.2, 2.3, 200, 0.01, network))


class Blind(sick_networks.Healthy):
    def forward(self, x):
        return super().forward(torch.ones_like(x))


def test_hints_name_what_was_seen_and_its_number():
    assert said_of(sick_networks.Dropped().train()).startswith("drop (Dropout) drops 99 % of what it gets")
    assert said_of(sick_networks.OneUnit()).startswith("of each image head gets 1 number, to tell 10 classes apart")
    assert said_of(Blind()).startswith("scores differ by ")
    assert "from what features.0 gets on" in said_of(Blind())


def test_scores_that_lie_close_together_keep_the_loss_up():
    """Of ten scores one is 0.01 and nine are 0: no loss is below ln(1 + 9 exp(-0.01)) = 2.2936."""
    layer = nn.Linear(16, 10)
    layer.weight.data.zero_()[0, 0], layer.bias.data[:] = 0.01, 0.0
    network = nn.Sequential(nn.Flatten(), layer)
    trial = trial_of(network, (1, 4, 4))
    trial.batches[0][0][:, 0, 0, 0] = torch.tensor([1.0, -1.0]).repeat(8)
    hint = fit._seen(trial, Fit(0.2, 2.3, 200, 0.01, network))
    assert hint.startswith("an image's scores lie within 0.01 of each other, where no loss is below 2.29")


def test_a_loss_that_still_falls_is_said_to():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    network[1].weight.data *= 100
    seen = fit._seen(trial_of(network), Fit(0.2, 1.5, 200, 0.01, network, earlier=2.0))
    assert seen == "the loss still falls, from 2.00 40 steps before: it learns slowly"


class HalfKept(sick_networks.Healthy):
    """Of its batch norm's statistics one does not follow."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        found = super().forward(self.norm(x))
        self.norm.running_var = torch.ones(3)
        return found


def test_every_statistic_of_a_batch_norm_is_looked_at():
    norm = samples.batch_norm(moves.moved(trial_of(HalfKept())))
    assert norm.status == "warning"
    assert norm.message == "of 1 norm some statistics stay in training mode: norm.running_var"


def test_an_output_made_of_other_images_alone_has_no_ratio():
    found = samples.independent(trial_of(sick_networks.Flipped()), sick_networks.Flipped())
    assert (found.status, found.value) == ("failed", None)
    assert found.message == "a sample's output depends on others alone"


class NoisyEvaluation(sick_networks.Healthy):
    def forward(self, x):
        return self.head(nn.functional.dropout(self.features(x), 0.5, training=True))


def test_chance_in_evaluation_is_remarked_on():
    found = samples.deterministic(trial_of(NoisyEvaluation()))
    assert found.status == "warning"
    assert found.message.startswith("in evaluation mode the same images, twice, get scores that differ by ")


def test_classes_that_the_data_lack_cost_nothing():
    """Scores that are all 0 tell ten classes apart at ln 10, whatever 990 others there are."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 1000))
    nn.init.zeros_(network[1].weight), nn.init.zeros_(network[1].bias)
    trial = trial_of(network, (3, 4, 4))
    assert fit._learned(trial, trial.batches, epochs=1).loss == pytest.approx(math.log(10), rel=1e-6)


class Missing(sick_networks.Healthy):
    def forward(self, x):
        return self.fc(x)


class NoReturn(sick_networks.Healthy):
    def forward(self, x):
        super().forward(x)


class OneByOne(sick_networks.Healthy):
    """Its norm gets one number a map, and in training wants more."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(256, track_running_stats=True)

    def forward(self, x):
        return self.head(self.norm(self.features(x)[..., None, None]).flatten(1))


class Convolved(nn.Module):
    """LeNet of two convolutions: of 3x32x32 it makes 20x5x5, 500 numbers; of 3x28x28 20x4x4, 320."""

    def __init__(self, flatten, features=500):
        super().__init__()
        conv = nn.Conv2d(3, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU()
        self.features, self.fc1, self.fc2 = nn.Sequential(*conv), nn.Linear(features, 50), nn.Linear(50, 10)
        self.flatten = flatten

    def forward(self, x):
        return self.fc2(self.fc1(self.flatten(self.features(x))).relu())


class FixedState(nn.Module):
    """Begins with a state for 32 images."""

    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.GRU(96, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2), torch.zeros(1, 32, 8))[0][:, -1])


class FixedToken(nn.Module):
    """Puts a token before each of 8 images."""

    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Parameter(torch.zeros(1, 1, 96)), nn.Linear(96, 10)

    def forward(self, x):
        found = x.permute(0, 2, 1, 3).flatten(2)
        return self.head(torch.cat([self.token.expand(8, -1, -1), found], 1)[:, 0])


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            Convolved(lambda x: x.view(-1, 320), 320),
            "view(-1, 320) in the network itself (Convolved) makes 25 rows of 16 images, 16x20x5x5, of 500 numbers "
            "each: flatten(1) keeps images apart; fc1 (Linear) then gets 500 numbers and takes 320, or give "
            "--input-size 3x28x28",
        ),
        (
            Convolved(lambda x: torch.reshape(x, (-1, 320)), 320),
            "reshape(-1, 320) in the network itself (Convolved) makes 25",
        ),
        (
            Convolved(lambda x: x.view(-1, 300), 300),
            "view(-1, 300) in the network itself (Convolved) does not fit 16 images",
        ),
        (Convolved(torch.flatten, 8000), "flatten() in the network itself (Convolved) makes 1 row of 16 images"),
        (Convolved(nn.Flatten(0, 1), 5), "flatten(0, 1) in flatten (Flatten) makes 320 rows of 16 images"),
        (
            Convolved(lambda x: x.view(64, -1)),
            "takes batches of 64 images alone, by view(64, -1) in the network itself",
        ),
        (
            Convolved(lambda x: x.view(64, 500)),
            "takes batches of 64 images alone, by view(64, 500) in the network itself",
        ),
        (FixedState(), "takes batches of 32 images alone, by zeros(1, 32, 8) in the network itself (FixedState)"),
        (FixedToken(), "takes batches of 8 images alone, by expand(8, -1, -1) in the network itself (FixedToken)"),
        (Convolved(nn.Flatten(), 320), "it takes 3x28x28: give --input-size"),
        (NoReturn(), "its forward returns None: is a return missing?"),
        (flat(1), "it scores 1 class and digits have 10"),
    ],
)
def test_what_moves_images_or_fixes_their_number_is_named(network, said):
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        cnnprof.sanity(network, IMAGE)
    assert "--loss" not in str(error.value)


class Windows(sick_networks.Healthy):
    """Folds places into the batch, and back again."""

    def forward(self, x):
        found = x.view(16, 3, 32, 32) if len(x) == 16 else x
        folded = found.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 3, 8, 8) * 1.0
        return super().forward(folded.view(len(x), 3, 32, 32))


def test_views_that_are_undone_are_no_fault():
    assert questions.classes_of(trial_of(Windows())) == 10


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            Missing(),
            "stopped at images of 3x32x32, and of 28, 64, 224 pixels, too: the network itself (Missing): Attri",
        ),
        (OneByOne(), "takes images of 3x32x32 in evaluation alone; in training it stopped at norm (InstanceNorm2d): "),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10)), "it takes 3x64x64: give --input-size"),
    ],
)
def test_a_refusal_says_where_and_what_would_do(network, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        cnnprof.sanity(network, IMAGE)
