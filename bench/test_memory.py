"""Memory of a forward pass and of a training step, predicted and measured on the CPU, beside torch's MemTracker."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

import cnnprof
from cnnprof import steps
from cnnprof.inputs import Inputs
from cnnprof.measurement import memory, operators
from cnnprof.models import catalog
from cnnprof.records import MODES, Settings

BATCH = 8
NETWORKS = ("resnet50", "mobilenet_v3_large", "squeezenet1_1", "vit_b_16", "bottleneck")
"""Convolutions wide, depthwise and joined, attention, a single block; MemTracker takes minutes for densenet121."""


def predicted(network):
    return {mode: predicted_bytes(network, mode) for mode in MODES}


def predicted_bytes(network, mode):
    return cnnprof.predict_memory(network, None, BATCH, mode=mode, optimizer="adamw").predicted.peak_bytes


def measured(network):
    return {mode: measured_bytes(network, mode) for mode in MODES}


def measured_bytes(network, mode):
    """Run a step twice, the second time under the allocator's events."""
    found = catalog.resolve(network)
    images = Inputs.random(found.input_size, BATCH, 0)
    step = steps.prepare(found.build(), images, mode, Settings(batch_size=BATCH, optimizer="adamw"))
    before = memory.standing_bytes(step.standing())
    seen = operators.profiled(step, time_s=None)
    return memory.peak(before + seen.kept_bytes, seen.allocations).peak_bytes


def tracked(network):
    return {mode: tracked_bytes(network, mode) for mode in MODES}


def tracked_bytes(network, mode):
    """Let torch's tracker follow the same step on fake tensors; the second has the optimizer's state."""
    found = catalog.resolve(network)
    with torch.device("meta"):  # on fake tensors, initialisation that looks at values would stop
        module = found.build().train(mode == "training")
    with FakeTensorMode(allow_non_fake_inputs=True):
        module, images = module.to_empty(device="cpu"), torch.randn(BATCH, *found.input_size)
        optimizer = torch.optim.AdamW(module.parameters())
        tracker = MemTracker()
        tracker.track_external(module, optimizer, images)
        with tracker:
            for _ in range(2):
                if mode == "inference":
                    with torch.inference_mode():
                        module(images)
                else:
                    optimizer.zero_grad()
                    loss_of(module(images)).backward()
                    optimizer.step()
                tracker.reset_mod_stats()  # of each module; the peak stays
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def loss_of(output):
    """Take the loss that cnnprof takes: cross-entropy of class scores, else the mean."""
    return F.cross_entropy(output, torch.zeros(BATCH, dtype=torch.long)) if output.dim() == 2 else output.mean()


@pytest.fixture
def forget(monkeypatch, tmp_path_factory):
    """Let the next prediction find no cache, neither in the process nor in the user's folder."""

    def begin_anew():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        cnnprof.clear_caches()

    begin_anew()
    return begin_anew


HOW = {
    "the steps themselves": (measured, {"rounds": 1}),
    "predicted, kernels not known": (predicted, {"rounds": 2}),
    "predicted again": (predicted, {"rounds": 3, "warmup_rounds": 1}),
    "MemTracker": (tracked, {"rounds": 1}),
}


@pytest.mark.parametrize("what", HOW)
@pytest.mark.parametrize("network", [pytest.param(name, marks=pytest.mark.benchmark(group=name)) for name in NETWORKS])
def test_memory(benchmark, forget, network, what):
    find, rounds = HOW[what]
    setup = forget if what == "predicted, kernels not known" else None
    benchmark.extra_info |= benchmark.pedantic(find, (network,), setup=setup, **rounds)
