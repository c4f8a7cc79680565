"""Records to and from JSON, under a schema with a number. Files appear whole or not at all.

Derived numbers (medians, intervals, FLOPs) are written for whoever reads the file, and worked out again on reading.
"""

import dataclasses
import functools
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnprof import records
from cnnprof.errors import UsageError, first_line

VERSION = 1


class NotWholeError(UsageError):
    """A document of a known schema in which something is missing, or is no value of its kind."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.reason = reason


KINDS: dict[str, type[records.Record]] = {
    "analysis": records.Analysis,
    "comparison": records.Comparison,
    "profile": records.Profile,
    "machine": records.MachineReport,
    "memory": records.MemoryProfile,
    "verification": records.Verification,
    "training": records.Training,
    "sanity": records.Sanity,
    "gate": records.Gate,
    "benchmarks": records.Benchmarks,
}
PARTS: dict[str, type] = {"benchmark": records.Benchmark}
"""What stands in documents of others under a schema of ours."""
DERIVED: dict[type, tuple[str, ...]] = {
    records.Layer: ("flops",),
    records.Totals: ("flops",),
    records.Opinion: ("unexplained",),
    records.LayerRoof: ("intensity", "flops_per_s", "bytes_per_s", "share"),
    records.Moment: ("total_bytes",),
    records.Candidate: ("kept_bytes",),
    records.Match: ("ratio",),
    records.Cell: ("won", "training_won"),
    records.MemoryProfile: ("error",),
    records.Verification: ("passed",),
    records.TrainingRun: ("train_s", "epoch_s", "images_seen"),
    records.Sanity: ("passed",),
    records.Gate: ("passed",),
    records.Latency: ("median_s", "ci95_s", "cpu_share"),
    records.Benchmark: (
        *("model", "input_size", "batch_size", "params", "macs", "peak_bytes"),
        *("cpu_share", "got_share", "reference_ratio", "ci95_s"),
    ),
}


def kind_of(record: object) -> str:
    """Name the kind of a record. Raises UsageError for what is none."""
    for kind, cls in KINDS.items():
        if isinstance(record, cls):
            return kind
    known = ", ".join(cls.__name__ for cls in KINDS.values())
    raise UsageError(f"{type(record).__name__} is no record of cnnprof; those are {known}")


def to_document(record: records.Record) -> dict[str, Any]:
    """Turn a record into what its JSON document holds. Raises UsageError for what is no record."""
    return {"schema": f"cnnprof.{kind_of(record)}/{VERSION}", **_plain(record)}


def as_part(part: records.Benchmark) -> dict[str, Any]:
    """Turn a record into what stands of it in a document of others."""
    kind = next(kind for kind, cls in PARTS.items() if isinstance(part, cls))
    return {"schema": f"cnnprof.{kind}/{VERSION}", **_plain(part)}


def from_document(document: Any, source: str = "the document") -> records.Record:
    """Turn a JSON document back into its record; keys that this version does not know are passed over.

    Raises UsageError for another schema, and for what is no document of ours.
    """
    return typing.cast(records.Record, _from_document(document, source, KINDS))


def part_of(document: Any, source: str) -> records.Benchmark:
    """Turn a part of another program's document back into its record.

    Raises UsageError as `from_document` does, and NotWholeError where the schema is known.
    """
    return typing.cast(records.Benchmark, _from_document(document, source, PARTS))


def _from_document(document: Any, source: str, kinds: Mapping[str, type]) -> object:
    schema = document.get("schema") if isinstance(document, dict) else None
    kind, _, version = str(schema).removeprefix("cnnprof.").partition("/")
    if not str(schema).startswith("cnnprof.") or kind not in kinds:
        usual, theirs = f"cnnprof.{next(iter(kinds))}/{VERSION}", _writer(document)
        found = f"it looks like JSON of {theirs}" if theirs else f"its schema is {schema!r}"
        also = "; report reads stored runs of pytest-benchmark, too" if theirs else ""
        raise UsageError(f"{source}: {found}; one such as {usual} was expected{also}")
    if version != str(VERSION):
        raise UsageError(f"{source}: schema {schema} is not of this cnnprof, which reads cnnprof.{kind}/{VERSION}")
    try:
        return _build(kinds[kind], document)
    except (TypeError, ValueError) as error:
        raise NotWholeError(source, f"not a whole cnnprof.{kind}/{VERSION} document: {first_line(error)}") from None


_OTHERS: tuple[tuple[str, set[str], str, set[str]], ...] = (
    ("pytest-benchmark", {"machine_info", "benchmarks"}, "", set()),
    ("hyperfine", {"results"}, "results", {"command", "mean"}),
    ("asv", {"results", "commit_hash"}, "", set()),
    ("asv", {"arch", "cpu", "machine", "os", "ram"}, "", set()),
    ("pyperf", {"benchmarks", "version"}, "benchmarks", {"runs"}),
    ("google-benchmark", {"context", "benchmarks"}, "", set()),
    ("torch.profiler", {"traceEvents"}, "", set()),
)
"""Programs whose JSON may be taken for ours: keys of their documents, and of the first item of a list in them."""


def _writer(document: Any) -> str | None:
    """Name the program that wrote a document; None where that is not known."""
    if not isinstance(document, dict):
        return None
    for name, keys, within, of_item in _OTHERS:
        items = document.get(within) or [None]
        item = items[0] if isinstance(items, list) else None
        if keys <= document.keys() and (not within or (isinstance(item, dict) and of_item <= item.keys())):
            return name
    return None


def read(path: Path) -> records.Record:
    """Read a saved record. Raises UsageError where the file cannot be read or is not one."""
    return from_document(document_in(path), str(path))


def document_in(path: Path) -> Any:
    """Read a file's JSON as Python, and others' programs, write it: with NaN, Infinity or a byte order mark.

    Raises UsageError where there is none.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON, or cut off: {error}") from None


def to_json(record: records.Record) -> str:
    """Turn a record into the text of its document."""
    return json.dumps(to_document(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file by rename. Raises UsageError."""
    try:
        write_bytes(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}; choose another place with -o") from None


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file by rename, so that neither a reader nor a kill meets half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_writable(directory: Path) -> None:
    """Find out before measuring, not after, that a folder cannot be written. Raises UsageError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UsageError(f"{directory}: cannot be written: {error.strerror}; choose another place with -o") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in (*names, *DERIVED.get(type(value), ()))}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _build(kind: Any, value: Any, where: str = "it") -> Any:
    """Build a value of an annotated type from plain JSON; `where` names it in an error."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return (
            None if value is None and type(None) in arguments else _build(_alternative(arguments, value), value, where)
        )
    if origin is tuple:
        _check(isinstance(value, list), where, "a list", value)
        items = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        _check(len(items) == len(value), where, f"{len(items)} of them", value)
        return tuple(_build(item, part, where) for item, part in zip(items, value, strict=True))
    if origin is Mapping:
        _check(isinstance(value, dict), where, "an object", value)
        return {key: _build(arguments[1], item, where) for key, item in value.items()}
    if origin is typing.Literal:
        _check(value in arguments, where, " or ".join(map(str, arguments)), value)
        return value
    cls = origin or kind
    if dataclasses.is_dataclass(cls):
        _check(isinstance(value, dict), where, "an object", value)
        return _record(cls, arguments, value, where)
    wanted = (int, float) if kind is float else (kind,)
    _check(isinstance(value, wanted) and isinstance(value, bool) == (kind is bool), where, kind.__name__, value)
    _check(kind is not float or math.isfinite(value), where, "a finite number", value)
    return value


def _record(cls: Any, arguments: tuple[Any, ...], value: dict[str, Any], where: str) -> Any:
    parameters: tuple[Any, ...] = vars(cls).get("__parameters__", ())
    given = dict(zip(parameters, arguments, strict=True)) if arguments else {}
    hints = _hints(cls)
    fields = dataclasses.fields(cls)
    names = [field.name for field in fields if field.name in value]
    for field in fields:
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            raise ValueError(f"{where} lacks {field.name!r}")
    return cls(**{name: _build(_filled_in(hints[name], given), value[name], name) for name in names})


def _check(holds: bool, where: str, wanted: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{where} is {found!r:.40}, not {wanted}")


def _filled_in(hint: Any, given: dict[Any, Any]) -> Any:
    """Put the argument of a generic record into the annotation of its field: T | None, where there is one parameter."""
    return hint[tuple(given.values())] if given else hint


def _alternative(arguments: tuple[Any, ...], value: Any) -> Any:
    """Choose the part of a union that a plain value can be: a list is the tuple, anything else the rest."""
    tuples = [part for part in arguments if typing.get_origin(part) is tuple]
    others = [part for part in arguments if part is not type(None) and part not in tuples]
    return tuples[0] if tuples and (isinstance(value, list) or not others) else others[0]


_hints = functools.cache(typing.get_type_hints)
