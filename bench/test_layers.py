"""Do the layers' times add up to the latency, and do any exceed their roof? And what a profile takes."""

import pytest
from torch import nn

import cnnprof
from cnnprof.records import MODES

NETWORKS = {
    "resnet18": ("resnet18", None, 8),
    "mobilenet_v3_large": ("mobilenet_v3_large", None, 8),
    "bottleneck": ("bottleneck", None, 8),
    "a product of 3,072 x 3,072": (nn.Linear(3072, 3072, bias=False), (3072,), 3072),
}
TIME_S = 5


@pytest.mark.parametrize("what", MODES)
@pytest.mark.parametrize("network", [pytest.param(name, marks=pytest.mark.benchmark(group=name)) for name in NETWORKS])
def test_layers(benchmark, network, what):
    options = {"modes": (what,), "time_s": TIME_S, "roofline": what == "inference"}
    run = benchmark.pedantic(cnnprof.profile, NETWORKS[network], options)
    roofs = [roof for roof in run.profiles[0].roofline if not roof.transformed]
    nearest = max(roofs, key=lambda roof: roof.share, default=None)
    benchmark.extra_info |= {
        "latency_s": run.latency[what].median_s,
        "remainder_s": run.time.remainder_s,
        "roof_share": nearest and nearest.share,
        "roof_layer": nearest and (nearest.path or nearest.kind),
    }
