"""Checks to rows of text and to sentences. No torch."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from cnnprof import units
from cnnprof.records import Check, Sanity, Status, Verification
from cnnprof.reporting.tables import Table


def title(record: Verification) -> str:
    """Say what the page is about."""
    return f"{record.file} against the course"


def header(record: Verification) -> str:
    """my_cnn.py · imported as pytest would, so its code ran · torch 2.14.1."""
    return f"{record.file} · imported as pytest would, so its code ran · torch {record.torch}"


def sentences(record: Verification) -> tuple[str, ...]:
    """Say how many checks hold, and before that why it is inconclusive, if it is."""
    if record.failure:
        return (f"Inconclusive: {record.failure}.", f"{counts(record.checks)}.")
    return (f"{'Passed' if record.passed else 'Not passed'}: {counts(record.checks)}.",)


def counts(checks: Sequence[Check]) -> str:
    """9 ok, 1 failed, 1 skipped."""
    by_status = Counter(check.status for check in checks)
    return ", ".join(f"{units.integer(by_status[status])} {status}" for status in get_args(Status) if by_status[status])


def by_class(record: Verification) -> dict[str, list[Check]]:
    """Put the checks of each class together; what concerns no class is left to the notes."""
    classes: dict[str, list[Check]] = {}
    for check in record.checks:
        if check.name not in NOTES:
            classes.setdefault(check.name.split()[0], []).append(check)
    return classes


NOTES = ("the course's dropout outputs",)


def notes(record: Verification) -> list[str]:
    """Return what holds of every file."""
    return [f"{check.message[0].upper()}{check.message[1:]}." for check in record.checks if check.name in NOTES]


def agreeing(checks: Sequence[Check]) -> str:
    """2 of 3 agree."""
    looked_at = [check for check in checks if check.status != "skipped"]
    agree = sum(check.status == "ok" for check in looked_at)
    return f"{agree} of {len(looked_at)} agree" if looked_at else "not looked at"


def table(checks: Sequence[Check]) -> Table:
    """Lay checks out."""
    columns = ("", "check", "what was found", "what to do")
    rows = tuple((check.status, check.name, check.message, check.hint) for check in checks)
    return Table("Checks", columns, rows, frozenset(columns))


def sanity_title(record: Sanity) -> str:
    """Ask what the page answers."""
    return f"Can {record.model} learn?"


def sanity_header(record: Sanity) -> str:
    """Name what was tried, and on what: cnn (821,206 parameters) · digits, 1,797 images · SGD lr 0.01 · seed 42."""
    named = f"{record.model} ({units.integer(record.params)} parameters)"
    return f"{named} · {record.data} · {record.protocol} · seed {record.seed} · {record.machine.device}"


def sanity_sentences(record: Sanity) -> tuple[str, ...]:
    """Healthy: 9 ok, 1 warning, 1 skipped, 4.1 s. Weights, mode and random state restored."""
    otherwise = "Not healthy" if record.failed else "Inconclusive"
    word = "Healthy" if record.passed else otherwise
    left = f" No time was left to ask: {not_asked(record)}." if record.not_asked else ""
    restored = "Weights, mode and random state restored."
    return (f"{word}: {counts(record.checks)}, {units.seconds(record.took_s)}.{left} {restored}",)


def not_asked(record: Sanity) -> str:
    """Name the checks that no time was left for, and the option that gives more."""
    return f"{', '.join(record.not_asked)}; give more with --timeout"


def norms_table(record: Sanity) -> Table:
    """Lay out what passes each layer with weights."""
    columns = ("layer", "activation", "differs between images, %", "gradient")
    rows = tuple(
        (
            norms.path,
            units.short(norms.activation),
            units.percent(norms.contrast, 2),
            units.UNKNOWN if norms.gradient is None else units.short(norms.gradient),
        )
        for norms in record.norms
    )
    return Table("By depth", columns, rows, frozenset({"layer"}))


NORMS = (
    "Behind the first steps: the root mean square of each layer's output, the share of its input that differs between "
    "images, and the norm of the loss's gradient to its output."
)


def sanity_foot(record: Sanity) -> tuple[tuple[str, str], ...]:
    """Say how it was found out, and where."""
    return (
        ("Command", record.command),
        ("When", record.created),
        (
            "Machine",
            f"{record.machine.cpu}, {units.plural(record.machine.threads, 'thread')}, torch {record.machine.torch}",
        ),
        (
            "Method",
            "most questions are put to a network of their own, made anew under the seed. Samples are independent where "
            "no gradient goes from one's scores to another's image, with batch norms on running statistics. What "
            "follows from a failed check is a warning that says so",
        ),
    )


def foot(record: Verification) -> tuple[tuple[str, str], ...]:
    """Say how it was found out."""
    return (
        ("Command", record.command),
        ("When", record.created),
        (
            "Method",
            "the course's networks are built at seed 42 and compared with the course's numbers; what those do not "
            "tell, and more small networks, with cnnprof's own builders on the same random numbers. Where they differ, "
            "networks with one broken rule, then with two, are tried until one shows exactly the same",
        ),
    )
