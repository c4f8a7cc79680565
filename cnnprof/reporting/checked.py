"""Checks to rows of text and to sentences. No torch."""

from collections import Counter
from collections.abc import Sequence

from cnnprof import units
from cnnprof.records import Check, Verification
from cnnprof.reporting.tables import Table


def title(record: Verification) -> str:
    """Say what the page is about."""
    return f"{record.file} against the course"


def header(record: Verification) -> str:
    """my_cnn.py · imported as pytest would, so its code ran · torch 2.14.1."""
    return f"{record.file} · imported as pytest would, so its code ran · torch {record.torch}"


def sentences(record: Verification) -> tuple[str, ...]:
    """Say how many checks hold, and why it ended early, if it did."""
    ended = (f"Ended early: {record.failure}.",) if record.failure else ()
    return (f"{'Passed' if record.passed else 'Not passed'}: {counts(record.checks)}.", *ended)


def counts(checks: Sequence[Check]) -> str:
    """9 ok, 1 failed, 1 skipped."""
    by_status = Counter(check.status for check in checks)
    return ", ".join(f"{units.integer(number)} {status}" for status, number in by_status.items())


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
