"""The machine's roofs, measured once and kept in the user's cache under the machine's identity."""

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import platformdirs

from cnnprof import store
from cnnprof.errors import UsageError
from cnnprof.measurement import roofline
from cnnprof.records import Machine, MachineReport, Peaks


def peaks(machine: Machine, anew: bool = False, progress: Callable[[float], None] = lambda share: None) -> Peaks:
    """Return the roofs of this machine with torch's present threads; `anew` measures what was measured before, too."""
    path = _place(machine)
    known = None if anew else _read(path, machine)
    if known is not None:
        return known
    found = roofline.peaks(machine.device, progress)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(UsageError):  # no cache to be had: the next run measures again
        store.write_text(path, store.to_json(MachineReport("peaks", now, machine, found)))
    return found


_IDENTITY = ("cpu", "physical_cores", "logical_cores", "threads", "os", "torch", "device", "device_name", "cuda")


def identity(machine: Machine) -> dict[str, object]:
    """Return what decides a machine's roofs."""
    return {name: getattr(machine, name) for name in _IDENTITY}


_METHOD = 2
"""Of measuring roofs: what another one found is measured again."""


def _place(machine: Machine) -> Path:
    key = hashlib.sha256(json.dumps([_METHOD, identity(machine)], sort_keys=True).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("cnnprof")) / f"machine-{key}.json"


def _read(path: Path, machine: Machine) -> Peaks | None:
    if not path.is_file():
        return None
    try:
        saved = store.read(path)
    except UsageError:  # damaged, or of another version
        return None
    if not isinstance(saved, MachineReport) or identity(saved.machine) != identity(machine):
        return None
    return saved.peaks
