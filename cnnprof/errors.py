"""The one error that is the user's to mend: one line that says what was asked, what was found, what to do."""


class UsageError(ValueError):
    """Unusable input: the command line prints its text as it is and exits with code 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
