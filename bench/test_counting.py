"""Counting beside its peers, in one process on one thread, from the caller's real module."""

import copy
import functools

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

import cnnprof

NETWORKS = ("resnet50", "resnet152", "mobilenet_v3_large", "densenet121")
SIZE = (3, 224, 224)


@functools.cache
def module(network):
    return models.get_model(network, weights=None).eval()


def bare(network):
    on_meta, shape = copy.deepcopy(module(network)).to("meta"), torch.empty(1, *SIZE, device="meta")

    def run():
        with torch.no_grad():
            on_meta(shape)

    return run


def with_an_empty_cache(network):
    def run():
        cnnprof.clear_caches()
        cnnprof.analyze(module(network), SIZE)

    return run


def repeated(network):
    return lambda: cnnprof.analyze(module(network), SIZE)


def flop_counter_mode(network):
    forward = bare(network)

    def run():
        with FlopCounterMode(display=False):
            forward()

    return run


def fvcore(network):
    image = torch.randn(1, *SIZE)

    def run():
        analysis = FlopCountAnalysis(module(network), image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        with torch.no_grad():
            analysis.total()

    return run


COUNTERS = {
    "bare forward on meta": bare,
    "cnnprof, empty cache": with_an_empty_cache,
    "cnnprof, repeated": repeated,
    "FlopCounterMode on meta": flop_counter_mode,
    "fvcore": fvcore,
}


@pytest.mark.parametrize("what", COUNTERS)
@pytest.mark.parametrize("network", [pytest.param(name, marks=pytest.mark.benchmark(group=name)) for name in NETWORKS])
def test_counting(benchmark, one_thread, network, what):
    benchmark(COUNTERS[what](network))
