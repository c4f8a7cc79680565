"""Errors that are the user's to mend, in one line: what was asked, what was found, what to do."""

from typing import Any


class UsageError(ValueError):
    """Unusable input: the command line prints its text as it is and exits with code 2."""


class NoSuchModelError(UsageError):
    """A MODEL whose file, module or name in it is not there, or does not take its arguments."""


class ElsewhereError(RuntimeError):
    """What another process raised, in its words: type and text."""


class NotFiniteError(ArithmeticError):
    """A loss that is no number any more."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `run` is the record of what was known by then."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run


def checked_count(what: str, number: int) -> None:
    """Raise UsageError for what is no whole number of at least 1."""
    if not is_count(number):
        raise UsageError(f"{what} {number!r}: a whole number of at least 1 was expected")


def is_count(number: object) -> bool:
    """Return whether it is a whole number of at least 1."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, cut where it grows long, or its type where it says nothing."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


LONGEST = 240
"""Characters of what others say that still read as a line."""


def said(error: BaseException) -> str:
    """Return an error in one line: its type and the first line of its text; our own lines as they are."""
    return (
        str(error) if isinstance(error, UsageError | ElsewhereError) else f"{type(error).__name__}: {first_line(error)}"
    )
