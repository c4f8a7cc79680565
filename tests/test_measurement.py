"""Memory and time by layer from planted events, and from real steps."""

import json
import time

import pytest
import torch
from torch import nn

from cnnprof import UsageError, steps
from cnnprof.inputs import Inputs
from cnnprof.measurement import memory, operators
from cnnprof.measurement.operators import Event
from cnnprof.records import Settings


def test_peak_of_planted_allocations():
    found = memory.peak(1000, [300, 200, -300, 400, -200, -400])
    assert (found.peak_bytes, found.before_bytes) == (1600, 1000)
    assert memory.peak(1000, []).peak_bytes == 1000
    assert memory.peak(1000, [-300, 200]).peak_bytes == 1000


def test_standing_bytes_count_a_storage_once():
    tensor = torch.zeros(10)
    assert memory.standing_bytes([tensor, tensor[2:], tensor.view(2, 5), torch.zeros(3)]) == 52


def test_time_by_layer_of_planted_events():
    events = [
        Event("cnnprof.module:", 0, 1000, is_operator=False),
        Event("cnnprof.module:a", 100, 500, is_operator=False),
        Event("aten::conv2d", 150, 450, sequence=7),
        Event("aten::convolution", 160, 440, sequence=7),
        Event("aten::add", 600, 700, sequence=8),
        Event("aten::mean", 1100, 1150, sequence=9),
        Event("autograd::engine::evaluate_function: MeanBackward0", 1200, 1300, sequence=9, is_operator=False),
        Event("aten::div", 1210, 1230),
        Event("autograd::engine::evaluate_function: ConvolutionBackward0", 1300, 2000, sequence=7, is_operator=False),
        Event("aten::convolution_backward", 1350, 1950),
        Event("Optimizer.step#SGD.step", 2000, 2100, is_operator=False),
        Event("aten::add_", 2010, 2050),
    ]
    times = operators.digest(events)
    rows = {row.path: row for row in operators.by_layer(times, {"": "Net", "a": "Conv2d"}, training=True)}
    assert (rows["a"].forward_s, rows["a"].backward_s) == (pytest.approx(300e-9), pytest.approx(600e-9))
    assert (rows[""].forward_s, rows[""].backward_s) == (pytest.approx(100e-9), 0)
    assert (rows["(loss)"].forward_s, rows["(loss)"].backward_s) == (pytest.approx(50e-9), pytest.approx(20e-9))
    assert rows["(optimizer)"].forward_s == pytest.approx(40e-9)


def step(module, shape, mode, **options):
    return steps.prepare(module, Inputs((torch.randn(shape),)), mode, Settings(**options))


def test_memory_of_a_real_forward_pass():
    # ReLU of 1 MiB: the input stands before, the output comes with it
    found = step(nn.ReLU(), (1, 256, 1024), "inference")
    found.run()
    before = memory.standing_bytes(found.standing())
    assert before == 2**20
    assert memory.peak(before, operators.profiled(found).allocations).peak_bytes == 2 * 2**20


def test_memory_of_a_real_training_step():
    # weight, input, labels before; then the output 4 KiB, its gradient, the weight's gradient
    module = nn.Linear(1024, 256, bias=False)
    found = step(module, (4, 1024), "training")
    found.run()
    found.release()
    before = memory.standing_bytes(found.standing())
    assert before == 4 * (1024 * 256 + 4 * 1024) + 8 * 4
    peak = memory.peak(before, operators.profiled(found).allocations).peak_bytes
    assert peak >= before + 4 * 1024 * 256
    assert peak < before + 1.1 * 4 * 1024 * 256


def test_a_training_step_trains():
    module = nn.Linear(4, 3)
    before = module.weight.detach().clone()
    step(module, (5, 4), "training").run()
    assert not torch.equal(module.weight, before)


def test_a_forward_pass_makes_no_gradient_and_does_not_train():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    found = step(module, (5, 4), "inference")
    assert not found.run().requires_grad
    assert int(module[1].num_batches_tracked) == 0


def test_the_output_is_released_before_backward():
    import weakref

    seen = []

    class Last(nn.Module):
        def forward(self, x):
            out = x * 2
            seen.append(weakref.ref(out))
            return out

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(seen[0]() is None)
            return gradient

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.last = nn.Linear(4, 4), Last()

        def forward(self, x):
            return self.last(Probe.apply(self.linear(x)))[None]

    step(Net(), (2, 4), "training").run()
    assert seen[1] is True


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torch.full((2, 3, 4), 2.0), 2.0),
        ({"a": torch.full((2, 3, 4), 2.0), "b": (torch.full((1,), 3.0),)}, 5.0),
        (torch.zeros(8, 10), 2.302585),
    ],
)
def test_the_fixed_loss(output, expected):
    assert float(steps.DefaultLoss(0)(output)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "options", [{"dtype": "bfloat16"}, {"dtype": "float64"}, {"amp": True}, {"channels_last": True}]
)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_settings_of_a_step(options, mode):
    found = step(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (2, 3, 8, 8), mode, **options)
    found.run()
    dtype = options.get("dtype", "float32")
    assert next(found.module.parameters()).dtype == getattr(torch, dtype)
    if "channels_last" in options:
        assert found.module[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_time_by_layer_names_the_layer_that_takes_it():
    net = nn.Sequential(nn.Identity(), nn.Linear(8, 8), nn.Identity(), nn.Flatten(0))
    found = step(net, (4, 8), "training")
    kinds = {path: type(part).__name__ for path, part in net.named_modules()}
    rows = {row.path: row for row in operators.by_layer(operators.profiled(found).times, kinds, training=True)}
    assert rows["1"].forward_s > 0
    assert rows["1"].backward_s > 0
    for path in ("", "0", "2"):
        assert (rows[path].forward_s, rows[path].backward_s) == (0, 0)
    assert rows["(loss)"].forward_s > 0
    assert rows["(optimizer)"].forward_s > 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def slept(seconds):
    """Sleep, and return how long that was: longer than asked for where other programs compute."""
    started = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - started


class Sleeps(nn.Module):
    """Waits, without an operator, and does a little work."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.slept_s = seconds, []

    def forward(self, x):
        self.slept_s.append(slept(self.seconds))
        return x.relu()


class SleepsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, slept_s):
        ctx.slept_s = slept_s
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.slept_s.append(slept(0.02))
        return gradient.clone(), None


class WaitsBackward(nn.Module):
    def __init__(self):
        super().__init__()
        self.slept_s = []

    def forward(self, x):
        return SleepsBackward.apply(x, self.slept_s)


def check_stands_alone(rows, path, slept_s):
    """Check that a sleep is in one row, and in no other."""
    assert min(slept_s) <= rows.pop(path) < max(slept_s) + 0.005
    assert all(seconds < min(slept_s) / 2 for seconds in rows.values())


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_sleep_stands_in_its_own_row_at_full_length(mode):
    net = nn.Sequential(nn.Linear(8, 8), nn.Sequential(Sleeps(0.02), nn.ReLU()), Sleeps(0.0), nn.Linear(8, 8))
    seen = operators.profiled(step(net, (4, 8), mode))
    kinds = {path: type(part).__name__ for path, part in net.named_modules()}
    rows = {row.path: row for row in operators.by_layer(seen.times, kinds, mode == "training")}
    check_stands_alone({path: row.forward_s for path, row in rows.items()}, "1.0", net[1][0].slept_s)
    assert next(row for row in operators.by_operator(seen.times, False)).operator == operators.OUTSIDE


def test_a_sleep_in_a_backward_pass_stands_in_its_layers_row():
    net = nn.Sequential(nn.Linear(8, 8), WaitsBackward(), nn.Linear(8, 8))
    seen = operators.profiled(step(net, (4, 8), "training"))
    rows = {row.path: row for row in operators.by_layer(seen.times, {"0": "", "1": "", "2": ""}, training=True)}
    check_stands_alone({path: row.backward_s or 0.0 for path, row in rows.items()}, "1", net[1].slept_s)


def test_a_gap_of_planted_events_counts_where_it_is_long():
    events = [
        Event("cnnprof.module:", 0, 9_000_000, is_operator=False),
        Event("aten::a", 100, 200),
        Event("cnnprof.module:x", 1_000, 6_000_000, is_operator=False),
        Event("aten::b", 2_000_000, 3_000_000),
        Event("aten::c", 3_500_000, 4_000_000),  # half a millisecond after b: dispatch, not counted
    ]
    times = operators.digest(events)
    assert {key: spent.forward_ns for key, spent in times.items()} == {
        ("", "a"): 100,
        ("x", "b"): 1_000_000,
        ("x", "c"): 500_000,
        ("x", operators.OUTSIDE): 1_999_000 + 2_000_000,
        ("", operators.OUTSIDE): 3_000_000,
    }


def test_threads_nest_each_for_itself():
    events = [
        Event("cnnprof.module:a", 0, 1000, is_operator=False, thread=1),
        Event("aten::slow", 100, 900, thread=1),
        Event("aten::other", 200, 300, thread=2),
    ]
    times = operators.digest(events)
    assert times["a", "slow"].forward_ns == 800
    assert times["(loss)", "other"].forward_ns == 100  # outside all modules


def test_kernels_belong_to_the_operator_that_launched_them():
    events = [
        Event("cnnprof.module:a", 0, 1000, is_operator=False),
        Event("aten::conv2d", 100, 900, correlation=1),
        Event("aten::cudnn_convolution", 200, 800, correlation=2),
        Event("implicit_gemm", 5_000, 12_000, is_operator=False, correlation=2, on_device=True),
        Event("bias", 12_000, 13_000, is_operator=False, correlation=1, on_device=True),
        Event("Memset", 14_000, 15_000, is_operator=False, correlation=0, on_device=True),
    ]
    times = operators.digest(events)
    assert {key: spent.forward_ns for key, spent in times.items()} == {
        ("a", "cudnn_convolution"): 7_000,
        ("a", "conv2d"): 1_000,
    }


def test_times_are_medians_over_passes():
    def seen(nanoseconds):
        return {("a", "conv2d"): operators.Spent(1, nanoseconds, 2 * nanoseconds)}

    typical = operators.typical([seen(10), seen(1000), seen(12)])
    assert typical["a", "conv2d"] == operators.Spent(1, 12, 24)
    once = operators.typical([seen(10), {}, {}])  # what one pass alone met is no part of a typical one
    assert once["a", "conv2d"] == operators.Spent(0, 0, 0)


def test_a_trace_is_saved_and_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(operators, "MOST_TRACED", 3)
    operators.profiled(step(nn.Linear(8, 8), (4, 8), "inference"), trace=tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    assert len(document["traceEvents"]) == 3
    assert "later events were left out" in document["otherData"]["cnnprof"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_large", "regular", "bottleneck"])
def test_the_layers_add_up_to_the_latency(model):
    import cnnprof

    found = cnnprof.profile(model, batch_size=4, time_s=4, modes=("inference",))
    layers_s = found.latency.inference.median_s - found.time.remainder_s
    # of the same passes: how near it is to the latency, which is measured before, is shown in bench/README
    assert found.time.profiled_s / 2 < layers_s < found.time.profiled_s


class Caching(nn.Module):
    """Keeps its last output, 1 MiB, until the next call has made another."""

    def forward(self, x):
        self.last = x.relu()
        return self.last


def test_what_a_module_keeps_stands_before_the_call():
    seen = operators.profiled(step(Caching(), (256, 1024), "inference"))
    assert seen.kept_bytes == 2**20
    assert memory.peak(2**20 + seen.kept_bytes, seen.allocations).peak_bytes == 3 * 2**20


@pytest.mark.parametrize("output", [torch.ones(3, dtype=torch.long), None, {"n": 3}])
def test_an_output_without_a_number_asks_for_a_loss(output):
    with pytest.raises(UsageError, match="no floating tensor to make a loss of; give another with --loss"):
        steps.DefaultLoss(0)(output)


def test_a_loss_without_a_gradient_is_told():
    class NoGrad(nn.Linear):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(UsageError, match="its loss has no gradient to any parameter"):
        step(NoGrad(4, 3), (2, 4), "training").run()


def test_the_loss_of_complex_numbers_is_real():
    assert float(steps.DefaultLoss(0)(torch.full((2, 3, 4), 1 + 3j))) == 2.0


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_lazy_layers_take_their_shapes_first(mode):
    found = step(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3)), (2, 3, 5, 5), mode)
    image, weights = 2 * 3 * 5 * 5, (4 * 27 + 4) + (4 * 9 * 3 + 3)
    assert memory.standing_bytes(found.standing()) == 4 * (image + weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_times_and_memory():
    import cnnprof

    run = cnnprof.compare(["regular", "bottleneck"], device="cuda", time_s=4)
    assert run.comparisons[0].latency.ratio < 1
    for profile in run.profiles:
        inference, training = profile.memory.inference, profile.memory.training
        assert training.peak_bytes > inference.peak_bytes > inference.before_bytes
