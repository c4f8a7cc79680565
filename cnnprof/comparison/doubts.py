"""Reasons to trust a run less, as data with a hint that knows what was already tried. No torch."""

from collections.abc import Iterator, Sequence
from statistics import median

from cnnprof import statistics, units
from cnnprof.records import Analysis, Candidate, Contrast, Doubt, Machine, Settings

WHAT = {"inference": "the forward pass", "training": "the training step"}


def doubts(
    machine: Machine, settings: Settings, candidates: Sequence[Candidate], contrasts: Sequence[Contrast], partial: bool
) -> tuple[Doubt, ...]:
    """Collect every doubt about a run."""
    return (
        *_about_the_run(partial, candidates),
        *_about_the_machine(machine, settings, candidates),
        *(doubt for candidate in candidates for doubt in _about(candidate)),
        *_about_inputs(settings, candidates),
        *(doubt for contrast in contrasts for doubt in _about_ratios(contrast)),
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


def _about_the_machine(machine: Machine, settings: Settings, candidates: Sequence[Candidate]) -> Iterator[Doubt]:
    share = starved_share(candidates)
    hint = "close other programs" + ("" if settings.threads == 1 else " or --threads 1")
    if share is not None:
        yield Doubt("latency", f"this process got {units.percent(share, 0)} % of its CPUs", hint)
    elif machine.load is not None and machine.logical_cores and machine.load > machine.logical_cores:
        yield Doubt(
            "latency",
            f"the machine was busy before: load {machine.load:.1f}, {units.plural(machine.logical_cores, 'core')}",
            hint,
        )
    if machine.logical_cores and machine.threads > machine.logical_cores:
        cores = units.plural(machine.logical_cores, "core")
        yield Doubt("latency", f"{machine.threads} threads share {cores}", f"--threads {machine.logical_cores}")
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
    sizes = {units.size(analysis.input_size) for analysis in analyses.values() if analysis.input_size is not None}
    if len(sizes) > 1:
        yield Doubt(
            "input size",
            f"the candidates were given different input sizes: {', '.join(sorted(sizes))}",
            "--input-size gives all the same",
        )
    for name, analysis in analyses.items():
        if analysis.input_size is None and analysis.batch_size != settings.batch_size:
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
