"""Reasons to trust a time less: each planted, each told once, with what to do."""

import dataclasses
import os
import random
from dataclasses import replace

import pytest
import torch

from cnnprof import machine, timing
from cnnprof.comparison.doubts import doubts, two_speeds
from cnnprof.comparison.ratios import contrast
from cnnprof.records import ByMode, Candidate, Latency, Machine, Own, Settings, TimeByLayer

HERE = Machine(
    cpu="a processor", physical_cores=2, logical_cores=4, threads=2, memory_bytes=2**33, os="Linux", python="3.11.7",
    torch="2.14.1", device="cpu", device_name=None, cuda=None, load=0.1, allocator="kept", usable_cores=2,
)  # fmt: skip


def candidate(times, name="net", **options):
    sessions = tuple(tuple(session) for session in times)
    waited = (0.0,) * len(sessions)
    given = {name: options.pop(name) for name in ("first_calls_s",) if name in options}
    return Candidate(name, None, latency=ByMode(Latency(sessions, waited, waited, **given)), **options)


def told(*candidates, machine=HERE, settings=None):
    found = doubts(machine, settings or Settings(), candidates, [], partial=False)
    return [f"{doubt.about}: {doubt.message}; {doubt.hint}" for doubt in found]


def steady(seconds=0.01, sessions=6):
    return [[seconds * (1 + 0.001 * number)] * 5 for number in (0, 2, 1, 3, 1, 2)[:sessions]]


def test_a_steady_time_leaves_no_doubt():
    assert told(candidate(steady())) == []


def test_drift():
    slower = [[0.01 * (1 + 0.03 * session)] * 5 for session in range(6)]
    (said,) = told(candidate(slower))
    assert said.startswith("net, the forward pass: it got 1.12x slower while it was measured")
    (said,) = told(candidate(slower[::-1]))
    assert "1.12x faster while it was measured" in said


def test_a_drift_of_one_candidate_alone_is_not_the_machines():
    slower = candidate([[0.01 * (1 + 0.03 * session)] * 5 for session in range(6)], "slower")
    (said,) = told(candidate(steady()), slower)
    assert said.startswith("slower, the forward pass: it got 1.12x slower while it was measured")
    assert "ratios hold" not in said
    assert "the other candidates did not" in said
    alike = told(replace(slower, name="one"), slower)
    assert len(alike) == 2
    assert all("ratios hold" in said for said in alike)


def test_two_speeds():
    draw = random.Random(1)

    def speeds(share, factor):
        return [
            [0.01 * (factor if draw.random() < share else 1) * draw.uniform(0.99, 1.01) for _ in range(20)]
            for _ in range(5)
        ]

    (said,) = told(candidate(speeds(0.3, 1.5)))
    assert "it has two speeds: 10.00 ms, and 15.0 ms in" in said
    low, high, share = two_speeds(candidate(speeds(0.4, 2.0)).latency.inference)
    assert (low, high, share) == pytest.approx((0.01, 0.02, 0.4), rel=0.2)
    assert told(candidate(speeds(0.05, 3.0))) == []  # a few outliers are no second speed
    assert told(candidate(speeds(0.5, 1.05))) == []  # nor are 5 %


@pytest.mark.parametrize("shape", ["uniform", "normal", "lognormal", "exponential"])
def test_one_hump_is_one_speed(shape):
    draw = random.Random(1)
    drawn = {
        "uniform": lambda: draw.uniform(0.01, 0.02),
        "normal": lambda: max(0.001, draw.gauss(0.01, 0.002)),
        "lognormal": lambda: 0.01 * draw.lognormvariate(0, 0.3),
        "exponential": lambda: 0.01 + draw.expovariate(300),
    }[shape]
    times = [[drawn() for _ in range(40)] for _ in range(5)]
    assert two_speeds(candidate(times).latency.inference) is None


def test_slow_first_calls():
    slow = candidate(steady(), first_calls_s=(2.0, 0.01, 0.01, 0.01, 0.01, 0.01))
    (said,) = told(slow)
    assert "its first call took 2 s, 200 times the median; a program that calls it a few times pays that" in said
    assert told(dataclasses.replace(slow, settings=Own(compile=True))) == []  # that is the compiler, and has a row


def test_too_short_for_the_clock():
    (said,) = told(candidate(steady(2e-7)))
    assert "too short for the clock" in said


def test_more_threads_than_cores():
    (said,) = told(candidate(steady()), machine=dataclasses.replace(HERE, threads=3))
    assert said == "latency: 3 threads share 2 cores; --threads 2"
    (said,) = told(candidate(steady(), settings=Own(threads=4)))
    assert said == "latency: 4 threads share 2 cores; --threads 2"


def test_batches_that_differ():
    one, other = candidate(steady(), batch_size=1), candidate(steady(0.04), "other", batch_size=8)
    (said,) = told(one, other)
    assert "times and their ratios are per image" in said
    assert contrast(one, other).latency.ratio == pytest.approx(0.5)


def test_what_is_no_number():
    (said,) = told(candidate(steady(), not_numbers=("training",)))
    assert said.startswith("net, the training step: its loss holds NaN")


def test_a_device_that_idles():
    where = TimeByLayer((), remainder_s=0.0049, profiled_s=0.02)
    on_cuda = dataclasses.replace(HERE, device="cuda", cuda="13.0")
    (said,) = told(candidate(steady(), time=where), machine=on_cuda)
    assert "its device was idle 49 % of the time" in said
    assert told(candidate(steady(), time=where)) == []  # on the CPU that is Python


def test_the_machine_record_says_what_times_depend_on(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    here = machine.describe()
    assert here.environment["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in here.environment
    assert here.usable_cores is None or 1 <= here.usable_cores <= os.cpu_count()
    assert here.instructions
    assert (here.cudnn_benchmark, here.tf32) == (None, None) if here.cuda is None else True


def test_backends_are_set_and_set_back():
    before = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    with timing.surroundings(Settings(cudnn_benchmark=not before[0], tf32=not before[1])):
        assert (torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32) == (not before[0], not before[1])
    assert (torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32) == before
