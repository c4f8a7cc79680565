"""What the suites share: the thread they count on, and the machine as a saved run names it."""

import dataclasses
from importlib.metadata import version

import pytest

from cnnprof import machine
from cnnprof.measurement import latency


@pytest.fixture
def one_thread():
    with latency.torch_threads(1):
        yield


_TELLING = ("cpu", "logical_cores", "memory_bytes", "os", "python", "torch")


def pytest_benchmark_generate_machine_info():
    """Name what a time depends on, and no host; the clock rate and the load, which always differ, would be told as
    another machine by every comparison.
    """
    here = dataclasses.asdict(machine.describe())
    return {name: here[name] for name in _TELLING} | {"fvcore": version("fvcore")}
