"""Raw samples to medians, intervals and verdicts. No torch, no clock.

A session is the unit of repetition: times within one share its memory layout and the machine's mood, so the error of a
median or a ratio is taken over sessions (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013:
repeat at the level that varies). Ratios and times are positive and multiply, so means and intervals are taken of logs.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

Interval = tuple[float, float]
Verdict = Literal["equal", "faster", "slower", "inconclusive"]

MARGIN = 0.02
"""Candidates whose ratio lies within this of 1, either way, are called equal."""

CONFIDENCE = 0.95

MIN_SESSIONS = 3
"""Fewer sessions carry no verdict: with two, Student's t is 12.7."""

MAX_WAITED = 0.1
"""A session counts if its threads spent less than this share of the time they could run waiting for a processor.
Measured on two cores: 0.003 to 0.02 when quiet, 0.31 to 0.45 with one busy loop beside two threads."""


def center(values: Sequence[float]) -> float:
    """Return the geometric mean of one value a session."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Return Student's t interval of the mean of the logs of one value a session; None of fewer than two."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a quarter of a second that only needs paying here

    logs = [math.log(value) for value in values]
    quantile = float(stdtrit(len(logs) - 1, (1 + confidence) / 2))
    half_width = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    mean = statistics.fmean(logs)
    return math.exp(mean - half_width), math.exp(mean + half_width)


def half_width(bounds: Interval) -> float:
    """Return half the relative width of an interval: (0.99, 1.01) -> 0.01."""
    return math.sqrt(bounds[1] / bounds[0]) - 1


def verdict(bounds: Interval | None, margin: float = MARGIN) -> Verdict:
    """Judge an interval of a ratio candidate / baseline of times.

    The margin is taken as a factor, so that the two orders of a pair get reciprocal verdicts.
    """
    if bounds is None:
        return "inconclusive"
    low, high = bounds
    factor = 1 + margin
    beyond = low > factor or high < 1 / factor
    if not beyond and half_width(bounds) > margin / 2:
        return "inconclusive"
    if low >= 1 / factor and high <= factor:
        return "equal"
    return "faster" if high < 1 else "slower" if low > 1 else "inconclusive"
