"""What a project says of itself: [tool.cnnprof] of the nearest pyproject.toml. No torch."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnprof.errors import UsageError, is_count


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("a list of texts")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _size(value: Any) -> str:
    """Read 3x224x224, 224, or a list of three."""
    if isinstance(value, str):
        return value
    numbers = value if isinstance(value, list) else [value]
    if not all(map(is_count, numbers)):
        raise TypeError("one for all, such as 3x224x224 or 224 (of one model: MODEL@input-size=3x32x32)")
    return "x".join(map(str, numbers))


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _outcome(value: Any) -> str:
    if value not in ("pass", "fail"):
        raise TypeError("pass or fail")
    return str(value)


KINDS: Mapping[str, Callable[[Any], Any]] = {
    "models": _texts,
    "against": _text,
    "fail_on": _texts,
    "inconclusive": _outcome,
    "input_size": _size,
    "batch_size": _whole,
    "device": _text,
    "dtype": _text,
    "amp": _switch,
    "channels_last": _switch,
    "compile": _switch,
    "threads": _whole,
    "time": _number,
    "seed": _whole,
    "loss": _text,
}
"""Options by name, and how their values are read."""
ALIASES = {"limits": "fail_on", "baseline": "against", "input_sizes": "input_size"}


def found(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Read the options in the nearest pyproject.toml that has some, and return its folder, which its paths start from.

    Raises UsageError for what is no option.
    """
    for parent in (folder, *folder.resolve().parents):
        path = parent / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool")
        except (OSError, ValueError) as error:
            raise UsageError(f"{path.name}: cannot be read: {error}") from None
        tool = tools.get("cnnprof") if isinstance(tools, dict) else None
        if isinstance(tool, dict):
            return parent, {_name(name): _value(name, value) for name, value in tool.items() if value != []}
        if tool is not None:
            raise UsageError(f"{path.name}: tool.cnnprof is {tool!r}; a table [tool.cnnprof] was expected")
    return folder, {}


def at(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write a folder's files among options as they are called from elsewhere; models keep their names."""
    return {name: _file_at(folder, value) if name in ("against", "loss") else value for name, value in options.items()}


def _file_at(folder: Path, value: str) -> str:
    """Put a folder before baseline.json, or file.py:loss; a revision, or package.module:loss, is no file."""
    file, colon, rest = value.partition(":")
    is_file = file.endswith(".py") if colon else is_run(folder / file)
    return f"{(folder / file).resolve()}{colon}{rest}" if is_file else value


def is_run(path: Path) -> bool:
    """Say whether a baseline is a saved run, there or yet to be written; else it is a revision."""
    return path.suffix == ".json" or (path.is_file() and path.read_bytes()[:1] == b"{")


def _name(key: str) -> str:
    name = key.replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in KINDS:
        known = ", ".join(each.replace("_", "-") for each in (*KINDS, "limits", "baseline"))
        raise UsageError(f"pyproject.toml: [tool.cnnprof] has no {key!r}; known: {known}")
    return name


def _value(key: str, value: Any) -> Any:
    try:
        return KINDS[_name(key)](value)
    except TypeError as error:
        raise UsageError(f"pyproject.toml: [tool.cnnprof] {key} is {value!r}; {error} was expected") from None
