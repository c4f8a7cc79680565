"""Intervals and verdicts against hand-worked numbers, and the interval's coverage by simulation."""

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cnnprof import statistics


def test_interval_of_known_values():
    # logs 0 and ln 4: mean ln 2, standard deviation ln 4 / sqrt 2, over sqrt 2: ln 2; t(0.975, df 1) = 12.7062
    low, high = statistics.interval([[1.0], [4.0]], resemblance=0)
    assert low == pytest.approx(2 * 2**-12.7062, rel=1e-4)
    assert high == pytest.approx(2 * 2**12.7062, rel=1e-4)
    assert statistics.center([[1.0], [4.0]]) == pytest.approx(2.0)


def test_sessions_that_resemble_each_other_tell_less():
    # the variance of a mean of 4 values with a correlation of 0.25 is 1 + 3 x 0.25 times that of independent ones
    sessions = [[1.0], [1.1], [1.2], [1.3]]
    (low, high), (lower, higher) = (statistics.interval(sessions, resemblance) for resemblance in (0.0, 0.25))
    assert math.log(higher / lower) == pytest.approx(math.sqrt(1.75) * math.log(high / low))


def test_a_session_is_the_median_of_its_rounds():
    assert statistics.center([[1.0, 1.0, 50.0], [2.0, 4.0, 0.1]]) == pytest.approx(math.sqrt(2))


def test_many_sessions_are_trimmed_by_hand():
    # ten logs 0..9: 2 cut at either end; mean 4.5; winsorized 2 2 2 3 4 5 6 7 7 7, sum of squares 42.5 over 6 x 5
    sessions = [[math.exp(value)] for value in (9, 0, 1, 2, 3, 4, 5, 6, 7, 8)]
    low, high = statistics.interval(sessions, resemblance=0)
    assert math.log(statistics.center(sessions)) == pytest.approx(4.5)
    assert (math.log(high) - math.log(low)) / 2 == pytest.approx(2.5706 * math.sqrt(42.5 / 30), rel=1e-4)
    spoiled = [[1e9], *sessions[1:]]  # the largest, larger still
    assert statistics.interval(spoiled, resemblance=0) == pytest.approx((low, high))


@given(st.floats(0.1, 10))
def test_unlikeness_is_the_same_either_way(ratio):
    assert statistics.unlikeness(ratio) == pytest.approx(statistics.unlikeness(1 / ratio))
    assert 0 <= statistics.unlikeness(ratio) <= 1


def test_a_few_percent_are_alike_and_a_factor_of_two_is_not():
    assert statistics.unlikeness(1.03) < 0.02
    assert statistics.unlikeness(2.0) > 0.99


def test_one_session_has_no_interval():
    assert statistics.interval([[1.0]]) is None
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
    assume(abs(statistics.half_width(bounds) - statistics.MARGIN / 2) > 1e-9)  # where rounding decides
    reciprocal = (1 / bounds[1], 1 / bounds[0])
    assert statistics.verdict(reciprocal) == other[statistics.verdict(bounds)]


def test_two_measurements_are_pooled_by_their_arms_in_squares():
    first, second = (1.10, (1.10 / 1.02, 1.10 * 1.03)), (1.12, (1.12 / 1.03, 1.12 * 1.04))
    ratio, (low, high) = statistics.pooled(first, second)
    assert ratio == pytest.approx(math.sqrt(1.10 * 1.12))
    assert math.log(ratio / low) == pytest.approx(math.hypot(math.log(1.02), math.log(1.03)) / 2)
    assert math.log(high / ratio) == pytest.approx(math.hypot(math.log(1.03), math.log(1.04)) / 2)


def test_two_measurements_that_share_a_baseline_make_no_interval_narrower():
    ratio, bounds = statistics.pooled((1.10, (1.05, 1.15)), (1.10, (1.05, 1.15)), independent=False)
    assert (ratio, *bounds) == pytest.approx((1.10, 1.05, 1.15))


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(1.0001, 1.1))
def test_what_is_pooled_reaches_both_centers(one, other, arm):
    _, (low, high) = statistics.pooled((one, (one / arm, one * arm)), (other, (other / arm, other * arm)))
    assert low <= min(one, other) * (1 + 1e-9)
    assert high >= max(one, other) * (1 - 1e-9)


def test_a_wider_margin_calls_more_equal():
    assert statistics.verdict((1.03, 1.04)) == "slower"
    assert statistics.verdict((1.03, 1.04), margin=0.05) == "equal"


@pytest.mark.parametrize("sessions", [5, 10, 20])
def test_interval_covers_the_truth_in_95_percent(sessions):
    draw = random.Random(1)
    hits = 0
    for _ in range(2000):
        rounds = [[math.exp(draw.gauss(math.log(0.2), 0.05)) for _ in range(3)] for _ in range(sessions)]
        low, high = statistics.interval(rounds, resemblance=0)
        hits += low <= 0.2 <= high
    # 95 % of 2,000 within four standard errors
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_interval_covers_the_truth_of_many_runs():
    # what a run adds to all its sessions has half the standard deviation that tells its sessions apart
    draw = random.Random(1)
    hits = 0
    for _ in range(2000):
        run = draw.gauss(0, 0.02)
        low, high = statistics.interval([[0.2 * math.exp(run + draw.gauss(0, 0.04))] for _ in range(7)])
        hits += low <= 0.2 <= high
    assert hits / 2000 >= 0.93
