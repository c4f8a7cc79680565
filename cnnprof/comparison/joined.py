"""Saved runs side by side, in one comparison. No torch."""

import dataclasses
from collections.abc import Iterator, Sequence

from cnnprof import units
from cnnprof.comparison.ratios import TimeRatioOf, contrast, in_runs_apart, on_machines_apart, together
from cnnprof.errors import UsageError
from cnnprof.records import Candidate, Comparison, Contrast, Doubt, Machine, Own, Run, Settings

_OF_THE_MOMENT = {"load"}
"""What differs between two runs of one machine."""


def joined(runs: Sequence[Run]) -> Comparison:
    """Put runs into one comparison, with the first run's first model as the baseline.

    Times of one machine are compared with the interval that runs apart have; times of machines that differ are not
    divided, and a doubt names what differs. Raises UsageError for fewer than two models.
    """
    first = runs[0]
    named = list(_named(runs))
    if len(named) < 2:
        raise UsageError(f"{units.plural(len(named), 'model')} in {units.plural(len(runs), 'run')}: nothing to compare")
    baseline = named[0][1]
    contrasts = tuple(_contrast(baseline, candidate, first, run) for run, candidate in named[1:])
    return Comparison(
        command="; ".join(dict.fromkeys(run.command for run in runs)),
        commit=first.commit if len({run.commit for run in runs}) == 1 else None,
        created=max(run.created for run in runs),
        machine=first.machine,
        settings=first.settings,
        baseline=baseline.name,
        profiles=tuple(candidate for _, candidate in named),
        comparisons=contrasts,
        doubts=(*dict.fromkeys(doubt for run in runs for doubt in run.doubts), *_doubts(runs)),
        partial=any(run.partial for run in runs),
        peaks=first.peaks,
    )


def _named(runs: Sequence[Run]) -> Iterator[tuple[Run, Candidate]]:
    """Yield every model with its run; of equal names the later ones are numbered, and keep their run's settings."""
    seen: dict[str, int] = {}
    for run in runs:
        for profile in run.profiles:
            seen[profile.name] = seen.get(profile.name, 0) + 1
            number = seen[profile.name]
            name = profile.name if number == 1 else f"{profile.name} ({number})"
            own = _own(runs[0].settings, run.settings.of(profile.settings))
            yield run, dataclasses.replace(profile, name=name, settings=own)


def _own(usual: Settings, given: Settings) -> Own:
    """Return what a candidate's settings are beside those of the document that it comes into."""
    names = [each.name for each in dataclasses.fields(Own)]
    return Own(**{name: getattr(given, name) for name in names if getattr(given, name) != getattr(usual, name)})


def _contrast(baseline: Candidate, candidate: Candidate, first: Run, run: Run) -> Contrast:
    how: TimeRatioOf = together if run is first else in_runs_apart
    if differing(first.machine, run.machine):
        how = on_machines_apart
    return contrast(baseline, candidate, first.settings.margin, how)


def differing(here: Machine, there: Machine) -> tuple[str, ...]:
    """Name what differs of the fields that a time depends on."""
    names = [each.name for each in dataclasses.fields(Machine) if each.name not in _OF_THE_MOMENT]
    return tuple(name for name in names if getattr(here, name) != getattr(there, name))


def _doubts(runs: Sequence[Run]) -> Iterator[Doubt]:
    first = runs[0]
    apart = [(run, differing(first.machine, run.machine)) for run in runs[1:]]
    if any(not fields for _, fields in apart):
        yield Doubt(
            "latency",
            "the runs were measured apart: their ratios have wider intervals than those of one comparison",
            "cnnprof compare measures models together",
        )
    for name in ("loss", "optimizer"):
        if len({getattr(run.settings, name) for run in runs}) > 1:
            yield Doubt("training step", f"the runs differ in their {name}: training steps are not like each other")
    for run, fields in apart:
        if fields:
            of = ", ".join(profile.name for profile in run.profiles)
            differ = ", ".join(f"{name} {_said(first.machine, name)} and {_said(run.machine, name)}" for name in fields)
            yield Doubt("latency", f"the times of {of} are not divided: its machine differs ({differ})")


def _said(machine: Machine, name: str) -> str:
    value = getattr(machine, name)
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{key}={text}" for key, text in value.items()) or "none"
