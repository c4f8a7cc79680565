"""From planted times and allocations to every form of the report, and from real modules to a whole run."""

import json

import pytest
import torch
from torch import nn

import cnnprof
from cnnprof import profiling, reporting

CLOCK = None


class Ticking(nn.Module):
    """A linear layer whose forward takes the time that it is told to, and whose training step takes twice that."""

    seconds: float

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4, bias=False)

    def forward(self, x):
        if CLOCK is not None and not x.is_meta:
            CLOCK.spend(self.seconds * (2 if self.training else 1))
        return self.linear(x)


class Slow(Ticking):
    seconds = 0.4321


class Quick(Ticking):
    seconds = 0.1234


@pytest.fixture
def run(fake_clock, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CLOCK", fake_clock)
    # weight 64·4·4 B and input 2·64·4 B stand before
    instruments = fake_clock.instruments({"Slow": (40 << 20, 2 << 20, -(42 << 20)), "Quick": (10 << 20, -(10 << 20))})
    return profiling.compare({"slow": Slow(), "quick": Quick()}, (64,), 2, time_s=20, instruments=instruments)


def test_planted_values_are_found_again_everywhere(run, tmp_path):
    document = json.loads(cnnprof.save(run, tmp_path / "run.json").read_text())
    slow, quick = document["profiles"]
    assert slow["latency"]["inference"]["median_s"] == pytest.approx(0.4321)
    assert quick["latency"]["training"]["median_s"] == pytest.approx(0.2468)
    assert slow["memory"]["inference"]["peak_bytes"] == 64 * 4 * 4 + 2 * 64 * 4 + (42 << 20)
    assert quick["memory"]["training"]["peak_bytes"] == 64 * 4 * 4 + 2 * 64 * 4 + (10 << 20)
    (contrast,) = document["comparisons"]
    assert contrast["latency"]["ratio"] == pytest.approx(0.1234 / 0.4321)
    assert contrast["latency"]["verdict"] == contrast["training_latency"]["verdict"] == "faster"
    assert contrast["macs"]["ratio"] == 1
    for text in (str(run), reporting.as_markdown(run), reporting.as_html(run), run._repr_html_()):
        for value in ("432.1", "123.4", "864.2", "246.8", "42.0", "10.0", "256"):
            assert value in text
        assert "3.502x faster" in text


def test_profile_finds_them_too(fake_clock, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CLOCK", fake_clock)
    profile = profiling.profile(Slow(), (64,), 2, time_s=20, instruments=fake_clock.instruments({"Slow": (1 << 20,)}))
    assert profile.latency.inference.median_s == pytest.approx(0.4321)
    assert profile.memory.training.peak_bytes == (1 << 20) + 1024 + 512
    assert profile.analysis.macs == 256
    assert profile.time.remainder_s == pytest.approx(0.8642)
    assert "432.1" in str(profile)
    assert "432.1" in reporting.as_html(profile)


def test_two_modules_from_python_stay_as_they_are():
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    first.train(), second.eval()
    before = [value.clone() for module in (first, second) for value in module.state_dict().values()]
    random, threads = torch.get_rng_state().clone(), torch.get_num_threads()
    run = cnnprof.compare({"first": first, "second": second}, (3, 16, 16), 2, time_s=0.5, threads=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert (first.training, second.training) == (True, False)
    after = [value for module in (first, second) for value in module.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in first.parameters())
    assert run.comparisons[0].params.ratio == (16 * 27 + 16) / (8 * 27 + 8 + 16)
    assert run.machine.threads == 1


@pytest.mark.slow
def test_two_torchvision_networks():
    run = cnnprof.compare(["resnet18", "mobilenet_v3_small"], 64, 2, time_s=4)
    assert [profile.analysis.model for profile in run.profiles] == [
        "torchvision:resnet18",
        "torchvision:mobilenet_v3_small",
    ]
    for profile in run.profiles:
        assert profile.failure is None
        spent = sum(layer.forward_s + layer.backward_s for layer in profile.time.layers)
        assert spent + profile.time.remainder_s == pytest.approx(profile.latency.training.median_s)
        assert profile.memory.training.peak_bytes > 8 * profile.analysis.params


def test_a_module_with_nothing_to_train():
    run = cnnprof.profile(nn.ReLU(), (4,), 2, time_s=0.2)
    assert run.latency.training is None
    assert any("no parameter that requires a gradient" in doubt.message for doubt in run.doubts)


class Failing(nn.Linear):
    """Holds out in one mode only."""

    def __init__(self, fails_in_training):
        super().__init__(4, 2)
        self.fails_in_training = fails_in_training

    def forward(self, x):
        if not x.is_meta and self.training is self.fails_in_training:
            raise RuntimeError("out of memory")
        return super().forward(x)


def test_a_mode_that_fails_keeps_the_other():
    profile = cnnprof.profile(Failing(fails_in_training=True), (4,), 2, time_s=0.3)
    (found,) = profile.profiles
    assert found.failure == "training: RuntimeError: out of memory"
    assert len(found.latency.inference.sessions) >= 3
    assert found.memory.inference.peak_bytes > 0
    assert found.latency.training is None
    assert found.time is not None


def test_the_others_are_measured_to_the_end_where_the_baseline_fails(fake_clock):
    def broken():
        raise ValueError("no")

    calls = {"a": broken, "b": lambda: fake_clock.spend(0.2), "c": lambda: fake_clock.spend(0.1)}
    run = profiling.compare_calls(calls, time_s=5.0, instruments=fake_clock.instruments())
    assert all(len(profile.latency.inference.sessions) >= 3 for profile in run.profiles[1:])


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_callers_random_state_and_modes_play_no_part(around):
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))
    random = torch.get_rng_state().clone()
    with around():
        profile = cnnprof.profile(net, (4,), 2, time_s=0.2)
        assert not torch.is_grad_enabled()
    assert profile.profiles[0].failure is None
    assert profile.latency.training is not None
    assert torch.equal(torch.get_rng_state(), random)


def test_own_inputs_stay_as_they_are():
    class WritesItsInput(nn.Linear):
        def forward(self, x):
            return super().forward(x.add_(1))

    mine = torch.zeros(2, 4)
    cnnprof.profile(WritesItsInput(4, 2), inputs=mine, time_s=0.2)
    assert not mine.any()


def test_a_module_that_holds_what_a_pass_made():
    net = nn.Linear(4, 2)
    net.last = net.weight * 2  # no leaf: deepcopy refuses it
    assert cnnprof.profile(net, (4,), 2, time_s=0.2).profiles[0].failure is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": True}, "batch size True: a whole number"),
        ({"time_s": float("inf")}, "time inf: "),
        ({"seed": -1}, "seed -1: "),
        ({"seed": 2**70}, "seed "),
        ({"ci": 0}, "ci 0: a share"),
        ({"allocator": "mine"}, "allocator 'mine': kept or system"),
        ({"dtype": "int8"}, "dtype 'int8': one of float32"),
        ({"modes": ("both",)}, r"mode \['both'\]: inference or training"),
        ({"device": "tpu"}, "device 'tpu'"),
    ],
)
def test_unusable_options_from_python(options, said):
    with pytest.raises(cnnprof.UsageError, match=said):
        cnnprof.profile(nn.ReLU(), (4,), **options)


def test_one_model_to_compare():
    for models in ("cnn", ["cnn"], nn.ReLU()):
        with pytest.raises(cnnprof.UsageError, match="`profile` looks at one"):
            cnnprof.compare(models)
