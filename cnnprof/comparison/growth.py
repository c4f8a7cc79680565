"""Times that grow with each call, told from a machine that slows down by sessions and by the other candidates.

No torch.

A session builds its candidates anew, so whatever calls pile up (a list that gets longer, a cache that fills) begins
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
"""The least growth that is reported, as a logarithm: of a session from its first round to its last, or of a run."""

CONFIDENCE = 0.998
"""Two-sided: sessions in which nothing grows are taken for growing in one of a thousand cases."""

CHANCE = 2e-4
"""Two-sided: the probability that sessions rank so by chance; low, for all of a run share its moment."""

LEAST_ALONE = 5
"""Sessions, where nothing was timed beside."""

LEAST_RANKED = 8
"""Sessions whose order is told from chance: one order of 40,320 rises."""

ERRORS = 3
"""Standard errors of the drift from session to session that the growth of one alone must be beyond it."""

MAD = 1.4826
"""Standard deviations in a median absolute deviation, of a normal distribution."""

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
    """Return how a time grows with each call; None where it does not, or no more than that of the `other` beside it.

    Alone, it must grow within sessions by more than from one to the next. Beside another, whose bursts it shared, their
    ratio must rise within sessions, or over the run where candidates are not built anew.
    """
    if other is None:
        return _alone(latency)
    return _over_the_run(latency, other) or _beside(latency, other)


def _alone(latency: Latency) -> Growth | None:
    """Look for a steady rise in each session that the next one begins without."""
    rises = _rises(latency)
    if len(rises) < LEAST_ALONE:
        return None
    typical, (drift, error) = _typical(rises), _drift(latency)
    grows = typical - drift >= LEAST + ERRORS * error and _is_significant(rises) and _is_steady_within(latency)
    return _growth(latency, typical, "session") if grows else None


def _beside(latency: Latency, other: Latency) -> Growth | None:
    """Look for a ratio that rises in each session, and a time that does.

    The next session begins without that rise, or the ratio has it from one session to the next as well: else the
    machine slows both down, and the other makes up for it by a cold start.
    """
    rises, beyond = _rises(latency), _ratio_rises(latency, other)
    if min(len(rises), len(beyond)) < statistics.MIN_SESSIONS or not _is_significant(beyond):
        return None
    typical, drift = _typical(rises), _drift(latency)[0]
    if typical - drift >= LEAST and _typical(beyond) >= LEAST:
        return _growth(latency, typical, "session")
    goes_on, sessions = _ratio_drift(latency, other), len(_shared(latency, other))
    grows = goes_on >= _typical(beyond) / 2 and sessions * min(goes_on, drift) >= LEAST
    return _growth(latency, sessions * goes_on, "run") if grows else None


def _over_the_run(latency: Latency, other: Latency) -> Growth | None:
    """Look for a ratio that rises from session to session, as it does where calls pile up something that stays."""
    own, ratios = _levels(latency, _shared(latency, other)), _ratio_levels(latency, other)
    if len(ratios) < LEAST_RANKED:
        return None
    total = rise(ratios)
    if min(total, rise(own)) < LEAST or not _is_steady(ratios):
        return None
    from scipy.stats import kendalltau  # a second and more, which only needs paying here

    chance = kendalltau(range(len(ratios)), ratios).pvalue
    return _growth(latency, total, "run") if chance <= CHANCE else None


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


def _counted(latency: Latency) -> Sequence[int]:
    """Return the sessions that count, as for the median: all where none does."""
    return latency.counted or range(len(latency.sessions))


def _shared(latency: Latency, other: Latency) -> list[int]:
    return sorted(set(_counted(latency)) & set(_counted(other)))


def _ratio_rises(latency: Latency, other: Latency) -> list[float]:
    """Return by how much the ratio to another rises in each session, round by round."""
    pairs = [(_series(latency, index), _series(other, index)) for index in _shared(latency, other)]
    ratios = ([mine - theirs for mine, theirs in zip(*pair, strict=False)] for pair in pairs)
    return [rise(each) for each in ratios if len(each) > 1]


def _rises(latency: Latency) -> list[float]:
    return [rise(series) for index in _counted(latency) if len(series := _series(latency, index)) > 1]


def _typical(rises: Sequence[float]) -> float:
    return math.log(statistics.center(_rounds(rises)))


def _levels(latency: Latency, sessions: Sequence[int]) -> list[float]:
    return [math.log(latency.session_median_s(index)) for index in sessions]


def _ratio_levels(latency: Latency, other: Latency) -> list[float]:
    shared = _shared(latency, other)
    pairs = zip(_levels(latency, shared), _levels(other, shared), strict=True)
    return [mine - theirs for mine, theirs in pairs]


def _ratio_drift(latency: Latency, other: Latency) -> float:
    """Return by how much the ratio rises from one session to the next."""
    levels = _ratio_levels(latency, other)
    return rise(levels) / (len(levels) - 1)


def _rounds(logs: Sequence[float]) -> list[list[float]]:
    return [[math.exp(value)] for value in logs]


def _is_significant(rises: Sequence[float]) -> bool:
    """Say whether rises are too large on the whole, and too much alike, to come of nothing."""
    bounds = statistics.interval(_rounds(rises), resemblance=0.0, confidence=CONFIDENCE)
    return bounds is not None and bounds[0] > 1


def _drift(latency: Latency) -> tuple[float, float]:
    """Return by how much each session is slower than the one before, 0 at least, and the standard error of that."""
    import numpy as np

    levels = np.array(_levels(latency, _counted(latency)))
    number = len(levels)
    slope = rise(list(levels)) / (number - 1)
    left = levels - slope * np.arange(number)
    deviation = MAD * float(np.median(np.abs(left - np.median(left)))) * math.sqrt(number / (number - 2))
    return max(0.0, slope), deviation / math.sqrt(number * (number**2 - 1) / 12)


def _is_steady_within(latency: Latency) -> bool:
    """Say whether sessions rise steadily: a processor that is fast for a moment after a rest is slow from then on."""
    thirds = [_thirds(series) for index in _counted(latency) if len(series := _series(latency, index)) > 2]
    return bool(thirds) and _is_steady([median(third) for third in zip(*thirds, strict=True)])


def _thirds(values: Sequence[float]) -> tuple[float, float, float]:
    third = len(values) // 3
    return median(values[:third]), median(values[third:-third]), median(values[-third:])


def _is_steady(values: Sequence[float]) -> bool:
    """Say whether values rise in the first half and in the second: one step is a neighbour's."""
    first, middle, last = _thirds(values)
    return min(middle - first, last - middle) > (last - first) / 5


def _growth(latency: Latency, logs: float, over: Literal["session", "run"]) -> Growth:
    counts = [latency.calls[index] for index in _counted(latency)] if latency.calls else []
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
    """Yield the candidates whose time grows: beyond that of the baseline, or it beyond theirs, or each by itself."""
    for candidate in candidates:
        for mode, latency in candidate.latency.items():
            beside = candidates[1:] if candidate is candidates[0] else candidates[:1]
            others = [*(each.latency[mode] for each in beside if each.latency[mode]), None]
            known = [found for other in others if (found := growth(latency, other)) is not None]
            if known:
                yield candidate, mode, max(known, key=lambda each: each.factor)
