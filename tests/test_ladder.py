"""Every rung of the ladder, forced on every hard case, gives the same counts; remembering operators changes nothing."""

import copy
import gc
import threading
import warnings

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
    assert any(nn.parameter.is_lazy(parameter) for parameter in module.parameters())
    assert [len(part._forward_pre_hooks) for part in module.modules()] == hooks
    module(torch.randn(1, 3, 8, 8))  # and still work
    assert not any(nn.parameter.is_lazy(parameter) for parameter in module.parameters())


def test_a_size_that_does_not_fit_the_memory_is_not_tried_on_the_cpu():
    with pytest.raises(UsageError, match=r"refused its input 1x4x10000000x10000000"):
        cnnprof.analyze(nn.Conv2d(3, 8, 3), (4, 10_000_000, 10_000_000))


def test_a_module_that_caught_an_error_is_not_named():
    def forward(net, x):
        try:
            net.tried(x)
        except RuntimeError:
            return net.then(x) if x.shape[1] != 7 else x

    net = Net(forward, tried=nn.Linear(5, 2), then=nn.Linear(4, 2))
    assert cnnprof.analyze(net, (4,)).macs == 8
    with pytest.raises(UsageError, match=r"layer 'then' \(Linear\) refused its input 1x6"):
        cnnprof.analyze(net, (6,))
    with pytest.raises(UsageError, match=r"its forward \(Net\) refused its input 1x7: no output has a gradient"):
        cnnprof.analyze(net, (7,), mode="training")


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
        (lambda n, x: torch.fft.rfft2(x).real, "_fft_r2c"),
        (lambda n, x: torch.linalg.svd(x)[1], "_linalg_svd"),
        (lambda n, x: torch.cdist(x, x), "_cdist_forward"),
        (lambda n, x: ops.deform_conv2d(x, x.new_zeros(1, 18, 4, 4), x.new_ones(2, 1, 3, 3)), "deform_conv2d"),
    ],
    ids=["fft", "svd", "cdist", "deform_conv2d"],
)
def test_what_has_no_formula_is_named(forward, operator, rung):
    case = Case("x", nn.Sequential(Net(forward), nn.ReLU()), ((1, 1, 6, 6),), 0)
    analysis = analyzed(case, rungs=[rung])
    (found,) = analysis.uncounted
    assert (found.operator.removeprefix("torchvision::"), found.path, found.calls) == (operator, "0", 1)
    assert 0 < analysis.coverage < 1


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
    assert layout is torch.channels_last or beside.checked


@settings(deadline=None, max_examples=60)
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
