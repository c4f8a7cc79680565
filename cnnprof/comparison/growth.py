"""Times that grow with each call, told from a machine that slows down by sessions and by what was timed beside.

No torch.

A session builds its candidates anew, so what a call leaves behind (a list that gets longer, a cache that fills) begins
again in each, while a machine that heats up goes on from one session to the next, and slows down whatever it runs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cnnprof import statistics, units
from cnnprof.records import Candidate, Latency, Mode

LEAST = 0.02
"""Growth, in logs, that is told: of a session from its first round to its last, or of a run."""

CONFIDENCE = 0.998
"""Of both sides: growth of nothing within sessions is taken for some in one of a thousand cases."""

CHANCE = 2e-4
"""Of both sides: so seldom do sessions rank so by chance. A run has many of a round each, and all share its moment."""

LEAST_ALONE = 5
"""Sessions, where nothing was timed beside."""

LEAST_RANKED = 8
"""Sessions whose order is told from chance: one order of 40,320 rises."""

ERRORS = 3
"""Standard errors of the drift from session to session that the growth of one alone must be beyond it."""

MAD = 1.4826
"""Standard deviations in a median absolute deviation, of what is normally distributed."""

STRETCHES = 32
"""A session's rounds are summed up into so many."""


@dataclass(frozen=True)
class Growth:
    """By what factor a call took longer at the end than at the beginning."""

    factor: float
    over: Literal["session", "run"]
    calls: int | None
    """Of a session; None where that was not counted."""
    per_call_s: float | None


def growth(latency: Latency, other: Latency | None = None) -> Growth | None:
    """Return how a time grows with each call; None where it does not, or no more than what was timed `other`wise does.

    Alone, it must grow within sessions by more than from one to the next. Beside another, whose bursts it shared, the
    ratio of both must; or must rise over the whole run, where candidates are not built anew.
    """
    return _within(latency, other) or (_across(latency, other) if other is not None else None)


def _within(latency: Latency, other: Latency | None) -> Growth | None:
    """Look for a rise in each session that the next one begins without."""
    rises = [rise(series) for index in _told_by(latency) if len(series := _series(latency, index)) > 1]
    if len(rises) < (statistics.MIN_SESSIONS if other else LEAST_ALONE):
        return None
    typical = math.log(statistics.center(_rounds(rises)))
    drift, error = _drift(latency)
    if typical - drift < LEAST or (other is None and typical - drift < LEAST + ERRORS * error):
        return None
    if other is None and not _steady_within(latency):
        return None
    beyond = rises if other is None else _ratio_rises(latency, other)
    if len(beyond) < statistics.MIN_SESSIONS or not _surely(beyond):
        return None
    return _told(latency, typical, "session")


def _across(latency: Latency, other: Latency) -> Growth | None:
    """Look for a ratio that rises from session to session, as it does where what a call leaves behind stays."""
    shared = _shared(latency, other)
    if len(shared) < LEAST_RANKED:
        return None
    own = [math.log(latency.session_median_s(index)) for index in shared]
    ratios = [own[place] - math.log(other.session_median_s(index)) for place, index in enumerate(shared)]
    total = rise(ratios)
    if min(total, rise(own)) < LEAST or not _steady(ratios):
        return None
    from scipy.stats import kendalltau  # a second and more, which only needs paying here

    chance = kendalltau(range(len(ratios)), ratios).pvalue
    return _told(latency, total, "run") if chance <= CHANCE else None


def rise(logs: Sequence[float]) -> float:
    """Return by how much values rise from the first to the last, by the median of all slopes between two of them.

    Theil, "A rank-invariant method of linear and polynomial regression analysis", 1950; Sen, JASA 63, 1968: up to 29 %
    of the values may be anything.
    """
    import numpy as np

    stretches = np.asarray(logs)
    if len(logs) > STRETCHES:
        stretches = np.array([np.median(part) for part in np.array_split(logs, STRETCHES)])
    first, second = np.triu_indices(len(stretches), 1)
    slopes = (stretches[second] - stretches[first]) / (second - first)  # scipy.stats takes a second to import
    return float(np.median(slopes)) * (len(stretches) - 1)


def _series(latency: Latency, session: int) -> list[float]:
    """Return the logs of a session's times in their order: a burst's median, or each where bursts are not known."""
    if latency.stretches_s:
        return [math.log(time) for time in latency.stretches_s[session]]
    times = latency.burst_medians_s(session) if latency.bursts else latency.sessions[session]
    return [math.log(time) for time in times]


def _told_by(latency: Latency) -> Sequence[int]:
    """Return the sessions that count, as for the median: all where none does."""
    return latency.counted or range(len(latency.sessions))


def _shared(latency: Latency, other: Latency) -> list[int]:
    return sorted(set(_told_by(latency)) & set(_told_by(other)))


def _ratio_rises(latency: Latency, other: Latency) -> list[float]:
    """Return by how much the ratio to another rises in each session, round by round."""
    pairs = [(_series(latency, index), _series(other, index)) for index in _shared(latency, other)]
    ratios = ([mine - theirs for mine, theirs in zip(*pair, strict=False)] for pair in pairs)
    return [rise(each) for each in ratios if len(each) > 1]


def _rounds(logs: Sequence[float]) -> list[list[float]]:
    return [[math.exp(value)] for value in logs]


def _surely(rises: Sequence[float]) -> bool:
    """Say whether rises are too large on the whole, and too much alike, to come of nothing."""
    bounds = statistics.interval(_rounds(rises), resemblance=0.0, confidence=CONFIDENCE)
    return bounds is not None and bounds[0] > 1 and statistics.center(_rounds(rises)) >= math.exp(LEAST)


def _drift(latency: Latency) -> tuple[float, float]:
    """Return by how much each session is slower than the one before, 0 at least, and the standard error of that."""
    import numpy as np

    levels = np.log([latency.session_median_s(index) for index in _told_by(latency)])
    number = len(levels)
    slope = rise(list(levels)) / (number - 1)
    left = levels - slope * np.arange(number)
    deviation = MAD * float(np.median(np.abs(left - np.median(left)))) * math.sqrt(number / (number - 2))
    return max(0.0, slope), deviation / math.sqrt(number * (number**2 - 1) / 12)


def _steady_within(latency: Latency) -> bool:
    """Say whether sessions rise steadily: a processor that is fast for a moment after a rest is slow from then on."""
    thirds = [_thirds(series) for index in _told_by(latency) if len(series := _series(latency, index)) > 2]
    return bool(thirds) and _steady([median(third) for third in zip(*thirds, strict=True)])


def _thirds(values: Sequence[float]) -> tuple[float, float, float]:
    third = len(values) // 3
    return median(values[:third]), median(values[third:-third]), median(values[-third:])


def _steady(values: Sequence[float]) -> bool:
    """Say whether values rise in the first half and in the second: one step is a neighbour's."""
    first, middle, last = _thirds(values)
    return min(middle - first, last - middle) > (last - first) / 5


def _told(latency: Latency, logs: float, over: Literal["session", "run"]) -> Growth:
    counts = [latency.calls[index] for index in _told_by(latency)] if latency.calls else []
    calls = round(median(counts)) if counts else None
    made = calls and (calls if over == "session" else sum(counts))
    rise_s = 2 * latency.median_s * math.sinh(logs / 2)
    return Growth(math.exp(logs), over, calls, rise_s / made if made else None)


def text(found: Growth) -> str:
    """Say its time grows with each call: 1.9x over the 310 calls of a session, about 1.2 µs a call."""
    calls = f"the {units.plural(found.calls, 'call')} of a session" if found.calls else "a session"
    over = calls if found.over == "session" else "the run"
    each = f", about {units.seconds(found.per_call_s)} a call" if found.per_call_s else ""
    return f"its time grows with each call: {units.factor(found.factor)} over {over}{each}"


# Of a run ------------------------------------------------------------------------------------------------------------


def growing(candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Mode, Growth]]:
    """Yield the candidates whose time grows: beyond the baseline's, or it beyond theirs; of one alone, by itself."""
    for candidate in candidates:
        for mode, latency in candidate.latency.items():
            beside = candidates[1:] if candidate is candidates[0] else candidates[:1]
            others = [each.latency[mode] for each in beside if each.latency[mode]] or [None]
            known = [found for other in others if (found := growth(latency, other)) is not None]
            if known:
                yield candidate, mode, max(known, key=lambda each: each.factor)
