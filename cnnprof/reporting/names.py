"""Names that fit a picture: shortened, and without the letters that XML cannot hold. No matplotlib."""


def elided(name: str, most: int, keep: str = "start") -> str:
    """Shorten a name that would not fit."""
    name = printable(name)
    if len(name) <= most:
        return name
    return f"…{name[1 - most :]}" if keep == "end" else f"{name[: most - 1]}…"


def printable(name: str) -> str:
    """Replace what XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


def printable_lines(text: str) -> str:
    """Replace what XML cannot hold, and keep the lines."""
    return "\n".join(map(printable, text.split("\n")))
