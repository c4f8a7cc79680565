"""What timing costs: two calls, each tool on the same ones in one process and asked for as long."""

import time
from dataclasses import dataclass

import honesty
import pytest

import cnnprof
from cnnprof.measurement import latency

ROUNDS = 3
SESSION_S = 0.5


@dataclass
class Spin:
    """A call of a millisecond that keeps account of what it took."""

    spent_s: float = 0.0

    def __call__(self):
        started = time.perf_counter()
        while (spent := time.perf_counter() - started) < 1e-3:
            pass
        self.spent_s += spent


def nothing():
    """Return at once."""


def compare_calls(first, second):
    run = cnnprof.compare_calls({"first": first, "second": second}, time_s=honesty.PAIR_S)
    return run.profiles[0].latency["inference"].median_s


def one_after_the_other(timed):
    return lambda first, second: (timed(first), timed(second))[0]


TOOLS = {
    "cnnprof.compare_calls": compare_calls,
    "torch.utils.benchmark": one_after_the_other(honesty.with_torch),
    "pytest-benchmark": one_after_the_other(honesty.with_pytest_benchmark),
}
"""What each says that the first of two calls takes, in seconds."""


@pytest.mark.benchmark(group="two empty calls")
@pytest.mark.parametrize("what", TOOLS)
def test_empty_calls(benchmark, what):
    said_s = benchmark.pedantic(TOOLS[what], (nothing, nothing), rounds=ROUNDS)
    benchmark.extra_info |= {"asked_s": honesty.PAIR_S, "said_s": said_s, "in_calls_s": None}


@pytest.mark.benchmark(group="two calls of 1 ms")
@pytest.mark.parametrize("what", TOOLS)
def test_calls_of_a_millisecond(benchmark, what):
    spins = Spin(), Spin()
    said_s = benchmark.pedantic(TOOLS[what], spins, rounds=ROUNDS)
    in_calls_s = sum(spin.spent_s for spin in spins)
    benchmark.extra_info |= {"asked_s": honesty.PAIR_S, "said_s": said_s, "in_calls_s": in_calls_s}


@pytest.mark.benchmark(group="two calls of 1 ms")
@pytest.mark.parametrize("what", ["a later session of cnnprof's"])
def test_session(benchmark, what):
    spins = {"first": Spin(), "second": Spin()}
    makers = {name: latency.Maker(lambda spin=spin: spin) for name, spin in spins.items()}
    stream = latency.sessions({"inference": makers}, session_s=SESSION_S, seed=1)
    next(stream)
    before_s = sum(spin.spent_s for spin in spins.values())
    benchmark.pedantic(next, (stream,), rounds=ROUNDS)
    in_calls_s = sum(spin.spent_s for spin in spins.values()) - before_s
    benchmark.extra_info |= {"asked_s": SESSION_S, "said_s": None, "in_calls_s": in_calls_s}
