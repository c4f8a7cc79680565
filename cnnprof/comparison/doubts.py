"""Reasons to trust a run less, as data with a hint that knows what was already tried. No torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from cnnprof import statistics, units
from cnnprof.comparison.growth import growing
from cnnprof.comparison.growth import text as growth_text
from cnnprof.comparison.ratios import batches_known
from cnnprof.records import Analysis, Candidate, Contrast, Doubt, Latency, Machine, Match, Mode, RatioMap, Settings

WHAT = {"inference": "the forward pass", "training": "the training step"}


def doubts(
    machine: Machine,
    settings: Settings,
    candidates: Sequence[Candidate],
    contrasts: Sequence[Contrast],
    partial: bool,
    map: RatioMap | None = None,
) -> tuple[Doubt, ...]:
    """Collect every doubt about a run; of a map, its pairs are what is compared."""
    names = {candidate.name: candidate for candidate in candidates}
    together = [[names[cell.baseline], names[cell.contrast.name]] for cell in map.cells] if map else [candidates]
    return (
        *_about_the_run(partial, candidates),
        *_about_the_machine(machine, settings, candidates),
        *(doubt for candidate in candidates for doubt in _about(candidate)),
        *(doubt for candidate in candidates for doubt in _about_times(candidate)),
        *dict.fromkeys(doubt for group in together for doubt in _about_drifts(group)),
        *(doubt for candidate in candidates for doubt in _about_the_device(machine, candidate)),
        *dict.fromkeys(doubt for group in together for doubt in _about_inputs(settings, group)),
        *(doubt for candidate in candidates if candidate.matched for doubt in _about_match(settings, candidate)),
        *(_about_cells(map) if map else (doubt for contrast in contrasts for doubt in _about_ratios(contrast))),
    )


def _about_the_run(partial: bool, candidates: Sequence[Candidate]) -> Iterator[Doubt]:
    if partial:
        yield Doubt("run", "measuring was interrupted: this is what had been measured by then", "run the command again")
    for candidate in candidates:
        if candidate.failure:
            yield Doubt(candidate.name, f"its measurement stopped: {candidate.failure}")


def starved_share(candidates: Sequence[Candidate]) -> float | None:
    """Return what the process got of its processors in starved sessions; None where enough others were left."""
    waited = [
        latency.waited_shares[index]
        for candidate in candidates
        for _, latency in candidate.latency.items()
        if 2 * len(latency.counted) < len(latency.sessions) or len(latency.counted) < min(3, len(latency.sessions))
        for index in range(len(latency.sessions))
        if latency.starved(index)
    ]
    known = [share for share in waited if share is not None]
    return 1 - median(known) if known else None


def cpu_hint(machine: Machine, settings: Settings) -> str:
    """Say how a process gets its CPUs: by fewer threads where it has several."""
    return "close other programs" + ("" if 1 in (settings.threads, machine.threads) else " or --threads 1")


def _about_the_machine(machine: Machine, settings: Settings, candidates: Sequence[Candidate]) -> Iterator[Doubt]:
    share = starved_share(candidates)
    if share is not None:
        said = f"this process got {units.percent(share, 0)} % of its CPUs"
        yield Doubt("latency", said, cpu_hint(machine, settings))
    elif machine.load is not None and machine.logical_cores and machine.load > machine.logical_cores:
        yield Doubt(
            "latency",
            f"the machine was busy before: load {machine.load:.1f}, {units.plural(machine.logical_cores, 'core')}",
            cpu_hint(machine, settings),
        )
    threads = max([machine.threads, *(candidate.settings.threads or 0 for candidate in candidates)])
    usable = machine.usable_cores or machine.logical_cores
    if usable and threads > usable:
        yield Doubt("latency", f"{threads} threads share {units.plural(usable, 'core')}", f"--threads {usable}")
    latencies = [latency for candidate in candidates for _, latency in candidate.latency.items()]
    if latencies and all(latency.got_share is None for latency in latencies):
        yield Doubt(
            "latency",
            "this system does not tell how long threads waited for a processor: a busy machine would go unnoticed",
            "close other programs",
        )


def _about(candidate: Candidate) -> Iterator[Doubt]:
    analysis = candidate.analysis
    if analysis is None:
        return
    for doubt in analysis.doubts:
        yield Doubt(candidate.name, doubt.message, doubt.hint)
    if analysis.uncounted:
        yield Doubt(candidate.name, uncounted_text(analysis), "its MACs are a lower bound")
    if analysis.uncalled:
        yield Doubt(candidate.name, f"the forward pass never reached {_listed(analysis.uncalled)}")
    if analysis.rung == "cpu":
        yield Doubt(candidate.name, "it does not run on shapes alone: one forward pass was run on the CPU to count it")


LONG_FIRST_CALL_S, LONG_FIRST_CALLS = 0.5, 10
DRIFT = 0.05
SHORTEST_S = 1e-6
"""The loop that repeats a shorter call takes a share of it: an empty one about 20 ns in Python."""


def _about_times(candidate: Candidate) -> Iterator[Doubt]:
    for mode in candidate.not_numbers:
        what = "output" if mode == "inference" else "loss"
        yield Doubt(
            f"{candidate.name}, {WHAT[mode]}",
            f"its {what} holds NaN, and what is not a number may take another time",
            "other inputs, or --dtype float32",
        )
    for mode, latency in candidate.latency.items():
        about = f"{candidate.name}, {WHAT[mode]}"
        first = latency.first_calls_s[0] if latency.first_calls_s else 0.0
        if latency.median_s < SHORTEST_S:
            yield Doubt(
                about,
                f"a call takes {units.seconds(latency.median_s)}: too short for the clock, the loop around it counts",
                "time several at once",
            )
        compiled = candidate.settings.compile
        if not compiled and first >= LONG_FIRST_CALL_S and first >= LONG_FIRST_CALLS * latency.median_s:
            yield Doubt(
                about,
                f"its first call took {units.seconds(first)}, {first / latency.median_s:.0f} times the median",
                "a program that calls it a few times pays that",
            )
        speeds = two_speeds(latency)
        if speeds is not None:
            low, high, share = speeds
            yield Doubt(
                about,
                f"it has two speeds: {units.seconds(low)}, and {units.seconds(high)} in {share:.0%} of calls",
                "the median is one of them; look at the dots of the report",
            )


GROWS = "no single number stands for it: look for what a call leaves behind, such as a list that gets longer"


def _about_drifts(candidates: Sequence[Candidate]) -> Iterator[Doubt]:
    """Tell times that grow with each call from a machine that got slower, or faster, for all."""
    grown = {(each.name, mode): found for each, mode, found in growing(candidates)}
    for candidate in candidates:
        for mode, latency in candidate.latency.items():
            about, found = f"{candidate.name}, {WHAT[mode]}", grown.get((candidate.name, mode))
            drift = _drift(latency)
            if found is not None:
                yield Doubt(about, growth_text(found), GROWS)
            elif drift is not None and _trend(latency) and abs(drift - 1) > DRIFT:
                said = f"it got {units.versus(drift, 'faster', 'slower')} while it was measured"
                yield Doubt(about, said, _why_drifting(drift, candidate, candidates, mode))


def _why_drifting(drift: float, candidate: Candidate, candidates: Sequence[Candidate], mode: Mode) -> str:
    beside = [latency for each in candidates if each is not candidate and (latency := each.latency[mode])]
    if not beside:
        return "a processor that heats up, a neighbour, or calls that leave something behind"
    others = [other for latency in beside if (other := _drift(latency)) is not None]
    if all(abs(math.log(drift / other)) <= DRIFT for other in others):
        return "a processor that heats up, or a neighbour; ratios hold, as all candidates met the same"
    return "the other candidates did not: its ratio is that of the time in which it was measured"


def _drift(latency: Latency) -> float | None:
    """Return by what factor calls got slower from the first third of the sessions to the last; None of few."""
    medians = [latency.session_median_s(index) for index in latency.counted]
    third = len(medians) // 3
    return median(medians[-third:]) / median(medians[:third]) if len(medians) >= LEAST_SESSIONS else None


def _trend(latency: Latency) -> bool:
    """Say whether sessions and their times rank nearly alike: Spearman's correlation of 0.9."""
    medians = [latency.session_median_s(index) for index in latency.counted]
    ranks = {index: rank for rank, index in enumerate(sorted(range(len(medians)), key=medians.__getitem__))}
    differences = sum((index - ranks[index]) ** 2 for index in ranks)
    correlation = 1 - 6 * differences / (len(medians) * (len(medians) ** 2 - 1))
    return abs(correlation) >= TREND


TREND, LEAST_SESSIONS = 0.9, 5
APART, LEAST_SHARE, LEAST_STEP = 5.0, 0.2, 0.1


def two_speeds(latency: Latency) -> tuple[float, float, float] | None:
    """Return two speeds in seconds, and the share of calls that have the second; None where times have but one.

    Times are cut in two where that leaves least variance (Otsu, "A threshold selection method", IEEE Trans. SMC 9,
    1979); Ashman's D (Astronomical Journal 108, 1994) tells whether the two are apart: above 2 for two normal humps,
    while one flat hump, cut in half, has 3.5.
    """
    import numpy as np

    logs = np.sort(np.log([time for index in latency.counted for time in latency.sessions[index]]))
    least = max(2, math.ceil(LEAST_SHARE * len(logs)))
    if len(logs) < 20:
        return None
    sizes = np.arange(1, len(logs))
    sums, squares = np.cumsum(logs)[:-1], np.cumsum(logs**2)[:-1]
    below = squares - sums**2 / sizes
    above = (np.sum(logs**2) - squares) - (np.sum(logs) - sums) ** 2 / (len(logs) - sizes)
    cut = least + int(np.argmin((below + above)[least - 1 : len(logs) - least]))
    low, high = logs[:cut], logs[cut:]
    spread = math.sqrt(float(np.var(low) + np.var(high))) or 1e-12
    step = float(high.mean() - low.mean())
    if step < LEAST_STEP or math.sqrt(2) * step / spread < APART:
        return None
    return math.exp(float(np.median(low))), math.exp(float(np.median(high))), len(high) / len(logs)


LAUNCH_BOUND = 0.3


def _about_the_device(machine: Machine, candidate: Candidate) -> Iterator[Doubt]:
    where = candidate.time
    latency = candidate.latency[where.mode] if where else None
    if machine.cuda is None or where is None or latency is None or where.remainder_s is None:
        return
    idle = where.remainder_s / latency.median_s
    if idle > LAUNCH_BOUND:
        said = f"its device was idle {units.percent(idle, 0)} % of the time: kernels take less than their launch does"
        yield Doubt(f"{candidate.name}, {WHAT[where.mode]}", said, "a larger batch, --compile, or CUDA graphs")


def uncounted_text(analysis: Analysis) -> str:
    """Say which operators were not counted: '1 operator not counted: fft_rfft2 in filter (12 calls)'."""
    entries = analysis.uncounted
    named = _listed(
        [f"{entry.operator} in {entry.path or 'the model'} ({units.plural(entry.calls, 'call')})" for entry in entries]
    )
    return f"{units.plural(len(entries), 'operator')} not counted: {named}"


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _about_inputs(settings: Settings, candidates: Sequence[Candidate]) -> Iterator[Doubt]:
    analyses = {candidate.name: candidate.analysis for candidate in candidates if candidate.analysis}
    sizes = {analysis.input_size for analysis in analyses.values() if analysis.input_size is not None}
    of_images = {size[1:] for size in sizes}
    meant = len(of_images) == 1 and any(candidate.matched for candidate in candidates)
    if len(sizes) > 1 and not meant:
        yield Doubt(
            "input size",
            f"the candidates were given different input sizes: {', '.join(sorted(map(units.size, sizes)))}",
            "--input-size gives all the same" if len(of_images) > 1 else "",
        )
    yield from _about_batches(settings, candidates, analyses)


def _about_batches(
    settings: Settings, candidates: Sequence[Candidate], analyses: Mapping[str, Analysis]
) -> Iterator[Doubt]:
    batches = dict.fromkeys(candidate.batch_size for candidate in candidates if candidate.batch_size)
    unknown = [name for name, analysis in analyses.items() if analysis.batch_size is None]
    if unknown and len(unknown) < len(analyses):
        said = f"how many images the inputs of {_listed(unknown)} hold is not known: figures side by side are of a call"
        yield Doubt("batch size", said, "@b=N at the end of its MODEL, or batch_size= beside inputs=, names it")
    elif len(batches) > 1:
        yield Doubt("batch size", "batches differ: times and their ratios are per image, memory is of the whole batch")
    for name, analysis in analyses.items():
        if analysis.input_size is None and analysis.batch_size not in (None, settings.batch_size):
            said = f"it brings its own inputs, of batch {analysis.batch_size}: they were measured as they are"
            yield Doubt(name, said)


def _about_ratios(contrast: Contrast) -> Iterator[Doubt]:
    for mode, ratio in (("inference", contrast.latency), ("training", contrast.training_latency)):
        if ratio is None or ratio.verdict != "inconclusive" or ratio.ratio is None:
            continue
        about = f"{contrast.name}, {WHAT[mode]}"
        if ratio.sessions < statistics.MIN_SESSIONS:
            yield Doubt(about, f"only {units.plural(ratio.sessions, 'session')} were measured", "a longer --time")
        elif ratio.ci95 is not None:
            spread = statistics.half_width(ratio.ci95)
            yield Doubt(about, f"its sessions differ too much for a verdict: +-{spread:.1%}", "a longer --time")


def match_text(candidate: Candidate, match: Match) -> str:
    """Say what was chosen: channels=1055 comes nearest, with 1,179,032 parameters, 0.10 % fewer than ..."""
    what = {"params": "parameters", "macs": f"MACs {units.an_image(batches_known(candidate))}"}[match.by]
    near = units.difference(match.ratio, "fewer than", "more than")
    chosen = f"{match.argument}={match.value} comes nearest, with {units.integer(match.count)} {what}"
    return f"{chosen}, {near} the {units.integer(match.wanted)} to match"


def _about_match(settings: Settings, candidate: Candidate) -> Iterator[Doubt]:
    match = candidate.matched
    if match is not None and abs(match.ratio - 1) > settings.margin:
        yield Doubt(candidate.name, f"it is no match: {match_text(candidate, match)}", "--vary another argument")


def _about_cells(map: RatioMap) -> Iterator[Doubt]:
    for mode in WHAT:
        ratios = [
            cell.contrast.latency if mode == "inference" else cell.contrast.training_latency for cell in map.cells
        ]
        known = [ratio for ratio in ratios if ratio is not None]
        unsure = sum(ratio.verdict == "inconclusive" for ratio in known)
        if unsure:
            said = f"{unsure} of {units.plural(len(known), 'ratio')} are inconclusive"
            yield Doubt(WHAT[mode], said, "a longer --time, or fewer values")
