"""What a training run needs to go on where it stopped, in one file that is whole or not there.

The file holds tensors, numbers and words alone, and is read with `weights_only`: nothing in it can run.
"""

import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnprof import store, units
from cnnprof.errors import UsageError

SCHEMA = "cnnprof.checkpoint/1"


@dataclass(frozen=True)
class RandomState:
    """Where every generator stands that training can draw from."""

    states: Mapping[str, Any]

    @classmethod
    def now(cls, generators: Iterable[torch.Generator] = ()) -> "RandomState":
        """Take the states of torch, CUDA, Python and NumPy, and of a loader's own generators."""
        name, keys, *rest = np.random.get_state(legacy=True)
        return cls(
            {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "python": random.getstate(),
                "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
                "generators": [generator.get_state() for generator in generators],
            }
        )

    @classmethod
    @contextmanager
    def kept(cls) -> Iterator[None]:
        """Leave every generator as it is found."""
        before = cls.now()
        try:
            yield
        finally:
            before.restore()

    def restore(self, generators: Iterable[torch.Generator] = ()) -> None:
        """Put all of them back."""
        torch.set_rng_state(self.states["torch"])
        if torch.cuda.is_available() and self.states["cuda"]:
            torch.cuda.set_rng_state_all(self.states["cuda"][: torch.cuda.device_count()])
        random.setstate(self.states["python"])
        name, keys, *rest = self.states["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        for generator, state in zip(generators, self.states["generators"], strict=False):
            generator.set_state(state)


def path_of(name: str | Path) -> Path:
    """Return the file that a name without an ending stands for: NAME.pt."""
    path = Path(name)
    return path if path.suffix == ".pt" else path.with_name(f"{path.name}.pt")


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint by rename: the earlier one stands until the new one is whole. Raises OSError."""
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, buffer)
    store.write_bytes(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None where there is none. Raises UsageError for a file that is no checkpoint of ours."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; {_INSTEAD}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            whole = parts.testzip() is None  # torch does not look at every part's sum
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True) if whole else None
    except _UNREADABLE:  # torch's own words advise to trust the file
        state = None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise UsageError(f"{path}: is damaged, or no {SCHEMA}; {_INSTEAD}")
    return state


_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError, EOFError),
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError),
)
"""What zipfile, pickle and torch raise of damaged files; memory that does not suffice is another matter."""


def check_is_of(path: Path, saved: Mapping[str, Any], model: Mapping[str, Tensor]) -> None:
    """Raise UsageError where the tensors of a checkpoint are not those of a model."""
    for name in (*model, *saved):
        mine, its = (_shape(state.get(name)) for state in (model, saved))
        if mine != its:
            raise UsageError(f"{path}: is of another model: its {name} is {_told(its)}, here {_told(mine)}; {_INSTEAD}")


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's kind and state, in plain numbers: those of NumPy cannot be read with `weights_only`."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group.update({name: value.item() for name, value in group.items() if isinstance(value, np.generic)})
    return {"kind": type(optimizer).__name__, **state}


def load_optimizer(path: Path, saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Put an optimizer where a checkpoint left it. Raises UsageError where that is one of another kind or model."""
    kind = type(optimizer).__name__
    if saved["kind"] != kind:
        raise UsageError(f"{path}: is of another optimizer: {saved['kind']}, here {kind}; {_INSTEAD}")
    try:
        optimizer.load_state_dict({name: value for name, value in saved.items() if name != "kind"})
    except ValueError as error:
        raise UsageError(f"{path}: is of another optimizer: {error}; {_INSTEAD}") from None


def _told(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else units.size(shape) or "a number"


_INSTEAD = "choose another file, or remove this one to begin anew"
