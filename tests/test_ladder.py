"""Every rung of the ladder, forced on every hard case, gives the same counts; remembering operators changes nothing."""

import contextlib
import copy
import dataclasses
import functools
import gc
import random
import sys
import threading
import warnings

import numpy
import psutil
import pytest
import torch
from hard_networks import CASES, MAKES_TENSORS, READS_VALUES, Case, Net, conv, lazy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models, ops

import cnnprof
from cnnprof import UsageError
from cnnprof.analysis import counts, operators, shapes
from cnnprof.analysis.trace import RUNGS
from cnnprof.inputs import Inputs
from cnnprof.recursion import FRAMES, deep_recursion


def analyzed(case, **options):
    return counts.analyze(case.module, Inputs(case.inputs()), model=case.name, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_rung_counts_what_was_worked_out(case):
    found = {rung: analyzed(case, rungs=[rung]) for rung in RUNGS}
    for rung, analysis in found.items():
        assert (analysis.rung, analysis.macs, analysis.uncounted) == (rung, case.macs, ())
        assert (analysis.params, analysis.activations) == (found["cpu"].params, found["cpu"].activations)
        assert analysis.conventions == found["cpu"].conventions
        assert [layer.macs for layer in analysis.layers] == [layer.macs for layer in found["cpu"].layers]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_memory_of_operators_changes_nothing(case):
    without = analyzed(case, remember=False)
    cnnprof.clear_caches()
    assert analyzed(case) == without
    assert analyzed(case) == without


@pytest.mark.parametrize(
    ("case", "rung"),
    [
        (MAKES_TENSORS, "fake"),
        (READS_VALUES, "cpu"),
        (Case("lazy", lazy(), ((1, 3, 8, 8),), 8 * 27 * 36 + 288 * 4), "cpu"),
        (Case("nms", Net(lambda n, x: ops.nms(x.cumsum(1), x[:, 0], 0.5)), ((5, 4),), 0), "cpu"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_it_stands_on_the_first_rung_that_holds(case, rung):
    analysis = analyzed(case)
    assert (analysis.rung, analysis.macs, analysis.uncounted) == (rung, case.macs, ())


def test_lazy_layers_of_the_callers_stay_lazy():
    module = lazy()
    hooks = [len(part._forward_pre_hooks) for part in module.modules()]
    analysis = cnnprof.analyze(module, (3, 8, 8))
    assert analysis.params == 8 * 27 + 8 + 16 + 288 * 4 + 4
    assert [layer.kind for layer in analysis.layers[1:]] == ["Conv2d", "BatchNorm2d", "Flatten", "Linear"]
    analysis = cnnprof.analyze(module, (3, 8, 8), 2, mode="training")
    assert analysis.totals.weight_gradient_macs == 2 * (8 * 27 * 36 + 288 * 4)
    assert any(nn.parameter.is_lazy(parameter) for parameter in module.parameters())
    assert [len(part._forward_pre_hooks) for part in module.modules()] == hooks
    module(torch.randn(1, 3, 8, 8))  # and still work
    assert not any(nn.parameter.is_lazy(parameter) for parameter in module.parameters())


def test_a_size_that_does_not_fit_the_memory_is_not_tried_on_the_cpu():
    with pytest.raises(UsageError, match=r"refused its input 1x4x10000000x10000000"):
        cnnprof.analyze(nn.Conv2d(3, 8, 3), (4, 10_000_000, 10_000_000))


def test_a_refusal_is_not_logged_too(caplog):
    with pytest.raises(UsageError, match=r"refused its input 1x3x5: "):
        cnnprof.analyze(nn.Sequential(nn.Linear(4, 2)), (3, 5))
    assert caplog.records == []


def tries_and_goes_on(net, x):
    with contextlib.suppress(RuntimeError):
        net.tried(x)
    made = net.then(x[:, :4]).exp()
    made.mul_(2)  # which exp would need, going backward
    return made


def test_a_module_that_caught_an_error_is_not_named():
    net = Net(tries_and_goes_on, tried=nn.Linear(5, 2), then=nn.Linear(4, 2))
    assert cnnprof.analyze(net, (4,)).macs == 8
    with pytest.raises(UsageError, match=r"layer 'then' \(Linear\) refused its input 1x3"):
        cnnprof.analyze(net, (3,))
    with pytest.raises(UsageError, match=r"^Net: its backward pass raised on its input 1x4: .*inplace"):
        cnnprof.analyze(net, (4,), mode="training")


def nested(depth):
    """A linear layer of 16 products, so many modules deep."""
    module = nn.Linear(4, 4)
    for _ in range(depth):
        module = nn.Sequential(module)
    return module


def test_a_tree_as_deep_as_a_forward_pass_may_be():
    module, limit = nested(220), sys.getrecursionlimit()
    module(torch.zeros(1, 4))
    assert cnnprof.analyze(module, (4,)).macs == 16
    assert cnnprof.analyze(module, (4,), mode="training").totals.weight_gradient_macs == 16
    memory = cnnprof.predict_memory(module, (4,), 2, measure=True)
    assert memory.predicted.peak_bytes == memory.measured.peak_bytes
    assert cnnprof.profile(module, (4,), 2, time_s=0.1, modes=("inference",)).profiles[0].analysis.macs == 16
    assert sys.getrecursionlimit() == limit


def test_a_network_that_calls_itself_without_end_is_refused_in_one_line():
    with pytest.raises(UsageError, match="maximum recursion depth exceeded"):
        cnnprof.analyze(Net(lambda net, x: net(x)), (4,))


def test_the_recursion_limit_is_the_callers_again_when_the_last_thread_leaves():
    limit, go_on, inside = sys.getrecursionlimit(), threading.Event(), threading.Event()

    def stay():
        with deep_recursion():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait(10)
    with deep_recursion():
        assert sys.getrecursionlimit() == FRAMES * limit
    assert sys.getrecursionlimit() == FRAMES * limit
    go_on.set()
    thread.join()
    assert sys.getrecursionlimit() == limit


# Three states --------------------------------------------------------------------------------------------------------


@pytest.fixture
def newly_registered():
    library = torch.library.Library("cnnprof_tests", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    yield torch.ops.cnnprof_tests.twice
    library._destroy()


@pytest.mark.parametrize("rung", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("forward", "operator"),
    [
        (lambda n, x: torch.fft.rfft2(x).real, "fft_rfft2"),
        (lambda n, x: torch.linalg.svd(x)[1], "linalg_svd"),
        (lambda n, x: torch.linalg.inv(x), "linalg_inv"),
    ],
    ids=["fft", "svd", "inv"],
)
def test_what_has_no_formula_is_named(forward, operator, rung):
    case = Case("x", nn.Sequential(Net(forward), nn.ReLU()), ((1, 1, 6, 6),), 0)
    analysis = analyzed(case, rungs=[rung])
    (found,) = analysis.uncounted
    assert (found.operator, found.path, found.calls) == (operator, "0", 1)
    assert 0 < analysis.coverage < 1


def test_free_operators_that_stand_alone():
    for forward in (lambda n, x: nn.functional.hardshrink(x), lambda n, x: torch.addr(x, x[0], x[0])):
        analysis = analyzed(Case("x", Net(forward), ((3, 3),), 0))
        assert (analysis.macs, analysis.uncounted) == (0, ())


def test_a_newly_registered_operator_is_uncounted(newly_registered):
    analysis = analyzed(Case("x", Net(lambda n, x: newly_registered(newly_registered(x))), ((2, 3),), 0))
    assert [(found.operator, found.calls) for found in analysis.uncounted] == [("cnnprof_tests::twice", 2)]
    assert "1 operator not counted: cnnprof_tests::twice in the model (2 calls)" in str(analysis)


# Nothing is left behind ----------------------------------------------------------------------------------------------


def test_a_thousand_counts_some_of_which_fail_leave_no_trace():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.Linear(144, 2)))
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    keys = {path: set(part.__dict__) for path, part in module.named_modules()}
    good, wrong = Inputs((torch.randn(1, 3, 8, 8),)), Inputs((torch.randn(1, 4, 8, 8),))
    random = torch.get_rng_state()
    expected = counts.analyze(module, good, model="x")
    process, used = psutil.Process(), 0
    for turn in range(1000):
        if turn % 10 == 9:
            with pytest.raises(UsageError):
                counts.analyze(module, wrong, model="x")
        else:
            assert counts.analyze(module, good, model="x") == expected
        if turn == 300:
            gc.collect()
            used = process.memory_info().rss
    gc.collect()
    assert process.memory_info().rss - used < 16 << 20
    assert {path: set(part.__dict__) for path, part in module.named_modules()} == keys
    assert [part.training for part in module.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.utils._python_dispatch._get_current_dispatch_mode_stack() == []


class Helper:
    def __init__(self, layer):
        self.layer = layer


@dataclasses.dataclass
class Batch:
    image: torch.Tensor


class Tangled(nn.Module):
    """Reaches its layers in every way but by their names, keeps what it saw, and draws from every generator."""

    __slots__ = ("factor",)

    def __init__(self, reads_values=False):
        super().__init__()
        memo = {}
        self.a, self.b, self.c, self.d = (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(4))
        self.seen = 0
        self.through_closure = lambda x: memo.setdefault("last", self.a(x))
        self.through_partial = functools.partial(Tangled.through, self)
        self.through_object, self.through_set = Helper(self.c), {self.d}
        self.reads_values = reads_values
        self.factor = 2.0

    def through(self, x):
        self.seen += 1
        return self.b(x)

    def forward(self, batch):
        batch.image.add_(1)
        x = self.through_partial(self.through_closure(batch.image))
        x = next(iter(self.through_set))(self.through_object.layer(x))
        if self.reads_values and x.sum().item() > 1e9:
            return x
        return x * (random.random() + numpy.random.rand() + torch.rand(())) * self.factor


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("reads_values", [False, True], ids=["meta", "cpu"])
def test_however_a_network_reaches_its_parts_they_are_the_clones(reads_values, mode):
    net, batch = Tangled(reads_values).train(), Batch(torch.zeros(2, 4))
    before = copy.deepcopy(net.state_dict())
    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    for _ in range(2):
        analysis = cnnprof.analyze(net, inputs=batch, mode=mode)
        assert analysis.uncalled == ()
        forward = 4 * 2 * 16
        assert analysis.macs == (forward if mode == "inference" else 2 * forward + 3 * 2 * 16)
        assert analysis.totals.weight_gradient_macs == (None if mode == "inference" else forward)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert (net.seen, net.factor, int(batch.image.sum())) == (0, 2.0, 0)
    assert net.through_closure.__closure__[0].cell_contents == {}
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_what_two_modules_share_they_share_in_the_count():
    class Puts(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.shared = shared

        def forward(self, x):
            self.shared.append(x)
            return x

    class Takes(Puts):
        def forward(self, x):
            return self.shared.pop() @ x.mT

    shared = []
    assert cnnprof.analyze(nn.Sequential(Puts(shared), Takes(shared)), (3, 4), 2).macs == 2 * 3 * 4 * 3
    assert shared == []


@pytest.mark.parametrize("rung", RUNGS)
def test_gradients_of_inputs_follow_what_was_given(rung):
    layer, image = nn.Linear(4, 4), torch.randn(2, 4, requires_grad=True)
    analysis = counts.analyze(layer, Inputs((image * 1,)), model="x", mode="training", rungs=[rung])
    assert (analysis.totals.weight_gradient_macs, analysis.totals.input_gradient_macs) == (32, 32)
    assert image.grad is None


@pytest.mark.parametrize(
    "view", [lambda w: w.chunk(2)[0], lambda w: w.narrow(0, 0, 4), lambda w: w.flatten(0).view(8, 4)]
)
def test_views_of_parameters_are_the_same_every_time(view):
    case = Case(
        "x", Net(lambda n, x: nn.functional.linear(x, view(n.w)), w=nn.Parameter(torch.randn(8, 4))), ((2, 4),), 0
    )
    assert analyzed(case, rungs=["meta"]) == analyzed(case, rungs=["meta"]) == analyzed(case, remember=False)


def test_forward_mode_counts_the_same_every_time():
    net = Net(lambda n, x: torch.func.jvp(n.l, (x,), (torch.ones_like(x),))[1], l=nn.Linear(4, 4))
    cnnprof.clear_caches()
    first, second = (cnnprof.analyze(net, (4,)) for _ in range(2))
    assert (first.macs, first.coverage, first.uncounted) == (second.macs, second.coverage, second.uncounted)


def test_what_cannot_be_stood_in_for_is_one_line():
    with warnings.catch_warnings(action="ignore"):
        values = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(UsageError, match=r"^ReLU: it holds what cannot be stood in for: "):
        counts.analyze(nn.ReLU(), Inputs((values,)), model="ReLU", rungs=["meta"])


def test_another_thread_may_run_the_module_meanwhile():
    module = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8)).train()
    image, stop, failures, turns = torch.randn(1, 3, 16, 16), threading.Event(), [], []

    def run():
        while not stop.is_set():
            out = module(image)
            turns.append(1)
            if out.is_meta or not module.training or not out.requires_grad:
                failures.append(out)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        found = {cnnprof.analyze(module, (3, 16, 16)).macs for _ in range(100)}
    finally:
        stop.set()
        thread.join()
    assert found == {8 * 27 * 256 + 8 * 72 * 256}
    assert turns
    assert not failures


def test_the_memory_of_operators_is_bounded(monkeypatch):
    monkeypatch.setattr(operators, "LIMIT", 5)
    cnnprof.clear_caches()
    for side in range(8, 20):
        cnnprof.analyze(nn.Conv2d(3, 4, 3), (3, side, side))
        assert len(operators._remembered) <= 5


# Outputs that are worked out -----------------------------------------------------------------------------------------


class BesideTheirKernels(TorchDispatchMode):
    """Puts every rule beside the operator that it stands for."""

    def __init__(self):
        super().__init__()
        self.checked = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        rule = None if kwargs else shapes.RULES.get(func.name())
        made = rule(args) if rule is not None else None
        output = func(*args, **(kwargs or {}))
        if made is not None:
            self.checked.add(func.name())
            assert described(made) == described(output), func.name()
        elif operators.is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return output


def described(output):
    outputs = output if isinstance(output, tuple) else (output,)
    return [(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in outputs]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "convnext_tiny", "densenet121"])
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        (torch.float32, torch.contiguous_format),
        pytest.param(torch.float32, torch.channels_last, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, torch.contiguous_format, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, torch.channels_last, marks=pytest.mark.slow),
    ],
)
def test_rules_give_what_kernels_give(name, dtype, layout):
    with torch.device("meta"):
        module = models.get_model(name, weights=None).eval().to(dtype).to(memory_format=layout)
    image = torch.empty(2, 3, 64, 64, device="meta", dtype=dtype).to(memory_format=layout)
    beside = BesideTheirKernels()
    with torch.inference_mode(), beside, warnings.catch_warnings(action="ignore"):
        module(image)
    assert beside.checked


ELEMENTWISE = [func for name in shapes.UNARY for func in (f"aten::{name}", f"aten::{name}_")]
OF_TWO = [func for name in shapes.BINARY for func in (f"aten::{name}", f"aten::{name.replace('.', '_.')}")]


@pytest.mark.parametrize("name", [*ELEMENTWISE, *OF_TWO])
def test_every_elementwise_rule_gives_what_its_kernel_gives(name):
    packet, _, overload = name.removeprefix("aten::").partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")
    images = [
        torch.empty(2, 3, 4, 5, device="meta"),
        torch.empty(2, 3, 4, 5, device="meta").to(memory_format=torch.channels_last),
        torch.empty(1, 6, 4, 5, device="meta").chunk(2, 1)[0],  # a length of 1, of any stride
        torch.empty(7, device="meta", dtype=torch.bfloat16),
    ]
    for image in images:
        beside = BesideTheirKernels()
        with torch.inference_mode(), beside:
            func(image, *([image] if name in OF_TWO else []))
        assert beside.checked == {name}


@settings(max_examples=60)
@given(
    sides=st.lists(st.integers(5, 9), min_size=1, max_size=3), kernel=st.integers(1, 3), stride=st.integers(1, 3),
    padding=st.integers(0, 2), dilation=st.integers(1, 2), groups=st.sampled_from([1, 2]), bias=st.booleans(),
)  # fmt: skip
def test_the_rule_of_convolutions(sides, kernel, stride, padding, dilation, groups, bias):
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(sides)]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    layer, beside = kind(4, 6, kernel, device="meta", **options), BesideTheirKernels()
    with torch.inference_mode(), beside:
        layer(torch.empty(2, 4, *sides, device="meta"))
    assert beside.checked == {"aten::convolution"}
