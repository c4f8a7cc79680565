"""What the course's networks cost, by the fixture that tests of users have: counts, peaks and times in one run."""

import pytest

from cnnprof.records import MODES

NETWORKS = ("cnn", "resnet", "regular", "bottleneck")


@pytest.mark.parametrize("what", MODES)
@pytest.mark.parametrize("network", [pytest.param(name, marks=pytest.mark.benchmark(group=name)) for name in NETWORKS])
def test_network(cnnprof_benchmark, network, what):
    cnnprof_benchmark(network, mode=what)
