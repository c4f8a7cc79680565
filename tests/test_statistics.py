"""Intervals and verdicts against hand-worked numbers, and the interval's coverage by simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnprof import statistics


def test_interval_of_known_values():
    # logs 0 and ln 4: mean ln 2, standard deviation ln 4 / sqrt 2, over sqrt 2: ln 2; t(0.975, df 1) = 12.7062
    low, high = statistics.interval([1.0, 4.0])
    assert low == pytest.approx(2 * 2**-12.7062, rel=1e-4)
    assert high == pytest.approx(2 * 2**12.7062, rel=1e-4)
    assert statistics.center([1.0, 4.0]) == pytest.approx(2.0)


def test_one_session_has_no_interval():
    assert statistics.interval([1.0]) is None
    assert statistics.verdict(None) == "inconclusive"


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((0.995, 1.005), "equal"),
        ((0.985, 0.999), "equal"),  # excludes 1, but lies inside the margin: equal comes first
        ((0.97, 0.989), "faster"),
        ((1.011, 1.03), "slower"),
        ((0.5, 0.9), "faster"),  # wide, but wholly beyond the margin
        ((1.03, 2.0), "slower"),
        ((0.9, 0.99), "inconclusive"),  # excludes 1, but is wider than half the margin and reaches into it
        ((0.985, 1.015), "inconclusive"),  # inside the margin, but its half-width is above half of it
        ((1.012, 1.0301), "slower"),
        ((0.9, 1.1), "inconclusive"),
    ],
)
def test_verdicts(bounds, verdict):
    assert statistics.verdict(bounds) == verdict


@given(st.floats(0.2, 5), st.floats(1.0001, 1.5))
def test_the_other_order_gets_the_reciprocal_verdict(center, spread):
    other = {"faster": "slower", "slower": "faster", "equal": "equal", "inconclusive": "inconclusive"}
    bounds = (center / spread, center * spread)
    reciprocal = (1 / bounds[1], 1 / bounds[0])
    assert statistics.verdict(reciprocal) == other[statistics.verdict(bounds)]


def test_a_wider_margin_calls_more_equal():
    assert statistics.verdict((1.03, 1.04)) == "slower"
    assert statistics.verdict((1.03, 1.04), margin=0.05) == "equal"


def test_interval_covers_the_truth_in_95_percent():
    draw = random.Random(1)
    hits = 0
    for _ in range(2000):
        low, high = statistics.interval([math.exp(draw.gauss(math.log(0.2), 0.05)) for _ in range(5)])
        hits += low <= 0.2 <= high
    # 95 % of 2,000 within four standard errors
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
