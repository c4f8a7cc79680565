"""Raw samples to medians, intervals and verdicts. No torch, no clock.

Times come in rounds, rounds in sessions. A session is the unit of repetition: what lies within one shares its memory
layout and the machine's mood, so the error of a median or a ratio is taken over sessions (Kalibera and Jones, "Rigorous
benchmarking in reasonable time", ISMM 2013: repeat at the level that varies). Ratios and times are positive and
multiply, so means and intervals are taken of logs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Interval = tuple[float, float]
Verdict = Literal["equal", "faster", "slower", "inconclusive"]
AccuracyVerdict = Literal["equal", "higher", "lower", "inconclusive"]

MARGIN = 0.02
"""Candidates whose ratio lies within this of 1, either way, are called equal."""

CONFIDENCE = 0.95
NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard deviations on either side of a mean that hold so much of what is normally distributed."""

MIN_SESSIONS = 3
"""Fewer sessions carry no verdict: with two, Student's t is 12.7."""

MAX_WAITED = 0.1
"""A session counts if its threads spent less than this share of the time they could run waiting for a processor.
Measured on two cores: 0 to 0.026 when quiet, 0.31 to 0.45 with one busy loop beside two threads, 0.5 with two."""

TRIMMED, TRIMMED_FROM = 0.25, 10
"""Of so many sessions or more, this share is left out at either end: a neighbour wrecks single ones."""

RESEMBLANCE = 0.5
"""How alike the sessions of one run are among those of many runs (their intraclass correlation). Measured on two cores
in twenty processes a pair over an hour, as the ratio's standard deviation between processes beside its sessions' own:
one thread, compute against memory-bound 15 % and 18 % (0.42), regular against bottleneck 5 % and 7 % (0.31); two
threads, 10 % and 20 % (0.21), 5.5 % and 4 % (0.68), against small kernels 7 % and 10 % (0.32)."""

RUNS_APART = 0.035
"""Standard deviation, in logs, of the times of one network in processes apart, a second of rounds each. Measured on two
cores with one thread, of six networks in four to six quiet processes each: 0.025 to 0.049, where the sessions of one
process differed by 0.010 to 0.075. The intervals of 42 of 58 pairs of such runs held 1 without this, of all with it."""

PROCESSES_APART = 0.01
"""Standard deviation, in logs, of the ratio of one network in two processes that take turns, beyond what their sessions
show. Measured on two cores with two threads, a resnet18 at 64 pixels in 23 pairs of processes, in three series: 0.005,
0.007 and 0.010."""

LIKE = 0.25
"""Candidates whose times differ by less than this, in logs, are alike: what a run does to one it does to the other."""

Rounds = Sequence[Sequence[float]]
"""One value a round, by session."""


def center(sessions: Rounds) -> float:
    """Return the geometric mean over sessions, trimmed where they are many, of the median of their rounds."""
    return math.exp(_sessions(sessions).mean)


def interval(sessions: Rounds, resemblance: float = RESEMBLANCE, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the interval in which `center` lies, for this and other runs; None of fewer than two sessions.

    That is Student's t interval of the sessions' values, of their trimmed mean where they are many (Yuen, "The
    two-sample trimmed t for unequal population variances", Biometrika 61, 1974). `resemblance` is the sessions'
    intraclass correlation: of 1, a run is a single draw, and its interval as wide as sessions differ, however many they
    are (the design effect of clusters: Kish, Survey Sampling, 1965, 5.4).
    """
    if len(sessions) < 2:
        return None
    from scipy.special import stdtrit  # a quarter of a second that only needs paying here

    found = _sessions(sessions)
    error = found.error * math.sqrt(1 + (len(sessions) - 1) * resemblance)
    half_width = float(stdtrit(found.kept - 1, (1 + confidence) / 2)) * error
    return math.exp(found.mean - half_width), math.exp(found.mean + half_width)


def longer(center: float, bounds: Interval, sessions: int, limit: float, fixed: float) -> float | None:
    """Return how many times as long a measurement would tell on which side of a limit a ratio lies.

    The center and how sessions differ are taken to stay as they are; `fixed`, in logs, is what of the half-width no
    time makes smaller. None where a hundred times as long would not do.
    """
    from scipy.special import stdtrit

    def quantile(number: float) -> float:
        return float(stdtrit(number - 1, (1 + CONFIDENCE) / 2)) / math.sqrt(number)

    half_width, away = math.log(bounds[1] / bounds[0]) / 2, abs(math.log(limit / center))
    spread = math.sqrt(max(0.0, half_width**2 - fixed**2)) / quantile(sessions)
    enough = (times for times in _LONGER if math.hypot(spread * quantile(times * sessions), fixed) < away)
    return next(enough, None)


_LONGER = (1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100)


def unlikeness(ratio: float) -> float:
    """Return 0 for candidates that take as long as each other, towards 1 for those that do not.

    Like candidates meet the same: the layout of memory, the cache's and the processor's mood cancel in their ratio.
    """
    return 1 - math.exp(-((math.log(ratio) / LIKE) ** 2))


def widened(bounds: Interval, center: float, deviation: float) -> Interval:
    """Return the interval of a run for other runs, too, whose centers have such a standard deviation, in logs.

    Sessions of one run do not show what differs from run to run: that is added to its arms, in squares.
    """
    apart = NORMAL * deviation
    low, high = (math.hypot(math.log(bound / center), apart) for bound in bounds)
    return center * math.exp(-low), center * math.exp(high)


Measured = tuple[float, Interval]
"""A ratio, and its interval."""


def pooled(first: Measured, second: Measured, independent: bool = True) -> Measured:
    """Return the geometric mean of two measurements of one ratio, and its interval.

    Independent ones' arms add in squares; those that share a baseline may err alike. The interval reaches both centers
    at least: where two measurements disagree by more than they say of themselves, neither is to be believed alone
    (as a mean of what disagrees is widened by its scatter: Birge, "The calculation of errors by the method of least
    squares", Physical Review 40, 1932).
    """
    both = first, second
    centers = [math.log(center) for center, _ in both]
    apart = abs(centers[0] - centers[1]) / 2
    add = math.hypot if independent else lambda *arms: sum(arms)
    low, high = (
        max(apart, add(*(abs(math.log(bounds[side] / center)) for center, bounds in both)) / 2) for side in (0, 1)
    )
    mean = sum(centers) / 2
    return math.exp(mean), (math.exp(mean - low), math.exp(mean + high))


@dataclass(frozen=True)
class _Mean:
    """The mean of the logs of the sessions that are kept, its standard error, and how many they are."""

    mean: float
    error: float
    kept: int


def _sessions(sessions: Rounds) -> _Mean:
    import numpy as np

    logs = np.sort([np.median(np.log(rounds)) for rounds in sessions])
    cut = int(TRIMMED * len(logs)) if len(logs) >= TRIMMED_FROM else 0
    kept = logs[cut : len(logs) - cut]
    winsorized = np.clip(logs, kept[0], kept[-1])
    freedom = len(kept) * (len(kept) - 1)
    error = math.sqrt(float(np.sum((winsorized - winsorized.mean()) ** 2)) / freedom) if freedom else math.inf
    return _Mean(float(kept.mean()), error, len(kept))


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


# Accuracies ----------------------------------------------------------------------------------------------------------

ACCURACY_MARGIN = 1.0
"""Percentage points: accuracies whose difference lies within this of 0, either way, are called equal."""


def paired(differences: Sequence[float], sampling_error: float, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the interval of a mean difference over seeds, on other test samples too; None of fewer than two seeds.

    Two things vary: the seeds (Student's t of their differences), and the samples that the test set happens to hold,
    whose standard error `sampling_error` no number of seeds makes smaller. Their half-widths add in squares.
    """
    number = len(differences)
    if number < 2:
        return None
    import numpy as np
    from scipy.special import ndtri, stdtrit

    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(number)
    tail = (1 + confidence) / 2
    half_width = math.hypot(float(stdtrit(number - 1, tail)) * error, float(ndtri(tail)) * sampling_error)
    return mean - half_width, mean + half_width


def accuracy_verdict(bounds: Interval | None, margin: float = ACCURACY_MARGIN) -> AccuracyVerdict:
    """Judge an interval of a difference candidate - baseline of accuracies, in percentage points."""
    if bounds is None:
        return "inconclusive"
    low, high = bounds
    if -margin <= low and high <= margin:
        return "equal"
    return "higher" if low > 0 else "lower" if high < 0 else "inconclusive"
