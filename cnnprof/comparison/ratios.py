"""Candidate against baseline: exact ratios, and ratios of times with their interval and verdict. No torch."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from cnnprof import statistics
from cnnprof.comparison.growth import Growth, growth
from cnnprof.records import Candidate, Cell, Contrast, Latency, Memory, Ratio, RatioMap, Side, TimeRatio


def contrast(
    baseline: Candidate,
    candidate: Candidate,
    margin: float = statistics.MARGIN,
    time_ratio: "TimeRatioOf | None" = None,
) -> Contrast:
    """Put one candidate against the baseline. Counts are taken per image, times too where batches differ.

    Where the batch of either is not known, both are of a call. Times are those of rounds that they shared, unless
    `time_ratio` says how they were measured.
    """
    time_ratio = time_ratio or together
    by_image = batches_known(baseline, candidate)
    images = (
        (baseline.batch_size or 1) / (candidate.batch_size or 1) if by_image and _batches(baseline, candidate) else 1.0
    )
    return Contrast(
        name=candidate.name,
        latency=time_ratio(baseline.latency.inference, candidate.latency.inference, margin, images),
        training_latency=time_ratio(baseline.latency.training, candidate.latency.training, margin, images),
        params=ratio(_params(baseline), _params(candidate)),
        macs=ratio(macs_of(baseline, by_image), macs_of(candidate, by_image)),
        peak_bytes=ratio(_peak(baseline.memory.inference), _peak(candidate.memory.inference)),
        training_peak_bytes=ratio(_peak(baseline.memory.training), _peak(candidate.memory.training)),
        kept_bytes=ratio(baseline.kept_bytes, candidate.kept_bytes),
    )


def filled(plan: RatioMap, candidates: Sequence[Candidate], margin: float = statistics.MARGIN) -> RatioMap:
    """Put the pairs of a map against each other: `candidates` are one model at all values, then the other at them."""
    half = len(candidates) // 2
    pairs = zip(itertools.product(*plan.axes.values()), candidates[:half], candidates[half:], strict=True)
    cells = (Cell(values, first.name, contrast(first, second, margin)) for values, first, second in pairs)
    return replace(plan, cells=tuple(cells))


def batches_known(*candidates: Candidate) -> bool:
    """Say whether figures of an image can be given of all networks."""
    return all(candidate.analysis.batch_size is not None for candidate in candidates if candidate.analysis)


def macs_of(candidate: Candidate, by_image: bool) -> float | None:
    """Return the MACs of an image, whatever the batch that was counted, or of a call that is timed; None: not known."""
    analysis = candidate.analysis
    if analysis is None or analysis.known_macs is None:
        return None
    return analysis.known_macs / analysis.images * (1 if by_image else candidate.batch_size or 1)


def _batches(*candidates: Candidate) -> bool:
    return all(candidate.batch_size for candidate in candidates)


def _params(candidate: Candidate) -> int | None:
    return candidate.analysis.params if candidate.analysis else None


def _peak(memory: Memory | None) -> int | None:
    return memory.peak_bytes if memory else None


def ratio(baseline: float | None, candidate: float | None) -> Ratio:
    """Candidate / baseline; unknown where either is, or where the baseline is 0 and the candidate is not."""
    if baseline is None or candidate is None:
        return Ratio(None)
    if not baseline:
        return Ratio(None if candidate else 1.0)
    return Ratio(candidate / baseline)


TimeRatioOf = Callable[[Latency | None, Latency | None, float, float], TimeRatio | None]
"""Makes a ratio of two latencies, with the margin, and the baseline's batch over the candidate's."""


def together(baseline: Latency | None, candidate: Latency | None, margin: float, images: float) -> TimeRatio | None:
    """Ratio of the medians round by round, over the sessions in which both got their processors.

    None where either was not measured. With fewer than three such sessions there is no verdict, and no ratio either
    where starved sessions are the reason: then both wait for the same neighbour, and any ratio would be near 1.
    """
    return _by_rounds(
        baseline, candidate, margin, images, lambda ratio: statistics.RESEMBLANCE * statistics.unlikeness(ratio)
    )


def in_two_processes(
    baseline: Latency | None, candidate: Latency | None, margin: float, images: float
) -> TimeRatio | None:
    """Ratio of the medians round by round of two processes that took turns.

    What a process does to its times (where its code and its threads lie) does not cancel in the ratio, and no session
    shows it.
    """
    ratio = _by_rounds(baseline, candidate, margin, images, lambda ratio: 0.0)
    return _widened(ratio, statistics.PROCESSES_APART, margin)


def _by_rounds(
    baseline: Latency | None,
    candidate: Latency | None,
    margin: float,
    images: float,
    resemblance: Callable[[float], float],
) -> TimeRatio | None:
    if baseline is None or candidate is None:
        return None
    shared = range(min(len(baseline.sessions), len(candidate.sessions)))
    fair = [index for index in shared if not baseline.starved(index) and not candidate.starved(index)]
    rounds = [[images * each for each in _by_round(baseline, candidate, index)] for index in fair]
    few = len(fair) < statistics.MIN_SESSIONS
    if not rounds or (few and len(fair) < len(shared)):
        return _unknown(len(fair))
    if grows := _growing(growth(baseline, candidate), growth(candidate, baseline)):
        return replace(_unknown(len(fair)), grows=grows)
    center = statistics.center(rounds)
    bounds = statistics.interval(rounds, resemblance(center / images))
    verdict = "inconclusive" if few else statistics.verdict(bounds, margin)
    return TimeRatio(center, bounds, verdict, len(fair))


def in_runs_apart(
    baseline: Latency | None, candidate: Latency | None, margin: float, images: float
) -> TimeRatio | None:
    """Ratio of the times of two runs of one machine, each with its own interval for other runs like it.

    The two intervals are put together as squares of their arms in logs (Zou and Donner, "Construction of confidence
    limits about effect measures", Statistics in Medicine 27, 2008).
    """
    if baseline is None or candidate is None:
        return None
    sessions = min(len(baseline.counted), len(candidate.counted))
    below, above = baseline.ci95_s, candidate.ci95_s
    if sessions < statistics.MIN_SESSIONS or below is None or above is None:
        return _unknown(sessions)
    if grows := _growing(growth(baseline), growth(candidate)):
        return replace(_unknown(sessions), grows=grows)
    low, middle, high = (math.log(each) for each in (below[0], _center(baseline), below[1]))
    other_low, other_middle, other_high = (math.log(each) for each in (above[0], _center(candidate), above[1]))
    ratio_log = math.log(images) + other_middle - middle
    bounds = (
        math.exp(ratio_log - math.hypot(other_middle - other_low, high - middle)),
        math.exp(ratio_log + math.hypot(other_high - other_middle, middle - low)),
    )
    return TimeRatio(math.exp(ratio_log), bounds, statistics.verdict(bounds, margin), sessions)


def in_short_runs_apart(
    baseline: Latency | None, candidate: Latency | None, margin: float, images: float
) -> TimeRatio | None:
    """Ratio of the times of two runs whose sessions are too short to show what differs from run to run."""
    found = in_runs_apart(baseline, candidate, margin, images)
    return _widened(found, math.sqrt(2) * statistics.RUNS_APART, margin)


def _widened(found: TimeRatio | None, deviation: float, margin: float) -> TimeRatio | None:
    """Let an interval hold what differs from run to run."""
    if found is None or found.ratio is None or found.ci95 is None:
        return found
    bounds = statistics.widened(found.ci95, found.ratio, deviation)
    few = found.sessions < statistics.MIN_SESSIONS
    return replace(found, ci95=bounds, verdict="inconclusive" if few else statistics.verdict(bounds, margin))


def on_machines_apart(
    baseline: Latency | None, candidate: Latency | None, margin: float, images: float
) -> TimeRatio | None:
    """Times of different machines are not divided."""
    return None if baseline is None or candidate is None else _unknown(0)


def _growing(baseline: Growth | None, candidate: Growth | None) -> tuple[Side, ...]:
    sides: tuple[tuple[Side, Growth | None], ...] = (("baseline", baseline), ("candidate", candidate))
    return tuple(side for side, found in sides if found is not None)


def _unknown(sessions: int) -> TimeRatio:
    return TimeRatio(ratio=None, ci95=None, verdict="inconclusive", sessions=sessions)


def _center(latency: Latency) -> float:
    return statistics.center([latency.burst_medians_s(index) for index in latency.counted])


def _by_round(baseline: Latency, candidate: Latency, session: int) -> list[float]:
    """Divide the medians of bursts that stood side by side."""
    pairs = zip(baseline.burst_medians_s(session), candidate.burst_medians_s(session), strict=False)
    return [candidate_s / baseline_s for baseline_s, candidate_s in pairs]
