"""A process of its own that does what it is asked, in one checkout of a repository. No torch."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cnnprof.errors import ElsewhereError, UsageError, said
from cnnprof.revisions import Checkout, is_ignored, tracked

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """A process that keeps its state from one call to the next; functions are passed by name, values by pickle.

    It ends when it is closed, or when whoever started it is gone.
    """

    def __init__(self, checkout: Checkout, working: Checkout) -> None:
        """Start it in a checkout; what Python would import from the working tree comes from there."""
        package = str(Path(__file__).parents[1])
        folders = str(checkout.root), str(working.root)
        load = "import sys; sys.path.insert(0, {!r}); from cnnprof import remote; del sys.path[0]; "
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"{load.format(package)}remote.serve{folders!r}"],
            cwd=checkout.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.checkout = checkout
        self._greeted = False

    @property
    def pid(self) -> int:
        """Its number with the system."""
        return self._process.pid

    def start(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Ask for something, and do not wait for it."""
        assert self._process.stdin is not None
        try:
            pickle.dump((function, args, kwargs), self._process.stdin)
            self._process.stdin.flush()
        except OSError:
            raise UsageError(self._end()) from None

    def result(self) -> Any:
        """Wait for what was asked for.

        Raises what it raised: UsageError, or ElsewhereError in place of any other. UsageError where the process ended.
        """
        assert self._process.stdout is not None
        try:
            if not self._greeted:  # Python's start may print, by sitecustomize for one
                self._greeted = any(line == _GREETING for line in self._process.stdout)
            result, failure = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise UsageError(self._end()) from None
        if failure is not None:
            raise failure
        return result

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask for something, and wait for it."""
        self.start(function, *args, **kwargs)
        result: R = self.result()
        return result

    def _end(self) -> str:
        try:
            code = self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.close()
            return f"the process that measures {self.checkout.commit} does not answer in words of ours"
        how = (
            f"was killed by {signal.Signals(-code).name}, out of memory perhaps"
            if code < 0
            else f"ended with code {code}"
        )
        return f"the process that measures {self.checkout.commit} {how}"

    def close(self) -> None:
        """End it; what it is doing is given up."""
        self._process.kill()
        self._process.communicate()


_GREETING = b"cnnprof listens\n"
"""What follows are answers."""
_ENDS_WITHIN_S = 10.0
"""A process that answers no more is about to end, unless something else printed where its answers go."""


def serve(checkout: str, working: str) -> None:
    """Do what is asked for until nobody asks any more; what others print goes nowhere."""
    _import_from(checkout, working)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    answers.write(b"\n" + _GREETING)
    while True:
        try:
            function, args, kwargs = pickle.load(questions)
        except EOFError:
            return
        try:
            answer: tuple[Any, Exception | None] = function(*args, **kwargs), None
        except UsageError as error:
            answer = None, error
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's code may raise anything; the text passes it on
            answer = None, ElsewhereError(said(error))
        pickle.dump(answer, answers)
        answers.flush()


def _import_from(checkout: str, working: str) -> None:
    """Let what would be imported from a folder of the working tree come from the same folder of a checkout.

    That goes for packages that are installed from there in editable form, too, which are looked for last; what git does
    not hold (a virtual environment within the tree) stays where it is, and so do files that a build writes.
    """
    if checkout == working:
        return
    editable = [
        str(Path(place).parent)
        for finder in sys.meta_path
        for place in getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", {}).values()
    ]
    held = tracked(Path(working))
    moved = (_moved(entry, Path(checkout), Path(working), held) for entry in (*sys.path, *editable))
    sys.path[:] = dict.fromkeys(filter(None, moved))
    sys.meta_path.append(_Built(Path(checkout), Path(working)))


@dataclass(frozen=True)
class _Built:
    """Finds what a checkout lacks because git ignores it: a package's _version.py, compiled extensions."""

    checkout: Path
    working: Path

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Look beside the working tree's own files, last of all."""
        folders = [Path(entry) for entry in (sys.path if path is None else path)]
        twins = [
            str(self.working / folder.relative_to(self.checkout))
            for folder in folders
            if folder.is_relative_to(self.checkout)
        ]
        found = PathFinder.find_spec(name, twins)
        return found if found and found.origin and is_ignored(self.working, Path(found.origin)) else None


def _moved(entry: str, checkout: Path, working: Path, held: Set[Path]) -> str | None:
    """Return a folder as a checkout has it; None where git holds it, but not yet in that one."""
    path = Path(entry).resolve()
    if not path.is_relative_to(working):
        return entry
    there = checkout / path.relative_to(working)
    if there.is_dir():
        return str(there)
    return None if any(file.is_relative_to(path) for file in held) else entry
