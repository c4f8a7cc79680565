"""Revisions of the user's own git repository, each in a folder of its own for as long as it is looked at. No torch."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cnnprof import _worktree
from cnnprof.errors import UsageError


@dataclass(frozen=True)
class Checkout:
    """One state of a repository's files."""

    root: Path
    folder: Path
    """Where the user stands, within it."""
    commit: str
    """Its revision, and whether there are changes beyond it."""


def working_tree() -> Checkout:
    """Return the working tree that the current folder is in. Raises UsageError where there is none."""
    folder = Path.cwd().resolve()
    root = Path(_git(folder, "rev-parse", "--show-toplevel")).resolve()
    try:
        commit = _git(folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except _RefusedError:
        raise UsageError(f"--against a revision: {root} has no commit yet; a run's .json was expected") from None
    return Checkout(root, folder, commit)


def commit_of(revision: str) -> str:
    """Return the commit that a revision names. Raises UsageError where there is none."""
    try:
        return _git(Path.cwd(), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except _RefusedError:
        is_folder = revision and Path(revision).is_dir()
        found = "a folder" if is_folder else "neither a file nor a revision of this repository"
        expected = "a run's .json, or a branch, tag or commit that is here"
        raise UsageError(
            f"--against {revision!r}: {found}; {expected} was expected (in a shallow clone: git fetch it first)"
        ) from None


@contextmanager
def checked_out(revision: str) -> Iterator[Checkout]:
    """Put a revision into a worktree, which is removed at the end of the block, and after a kill as well.

    Its submodules are in it where the working tree has them, with their commits; files that git does not hold are not.
    """
    working, commit = working_tree(), commit_of(revision)
    try:
        _remove_left_over(working.root)
        path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")).resolve()
    except OSError as error:
        raise UsageError(f"--against {revision!r}: no folder can be made for it: {error}; see TMPDIR") from None
    keeper = subprocess.Popen(
        [sys.executable, "-I", _worktree.__file__, str(working.root), commit, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        text=True,
        start_new_session=True,
    )
    try:
        assert keeper.stdout is not None
        answer = keeper.stdout.readline()
        if answer != _worktree.READY:
            said = answer.strip() or "the process that does so ended"
            raise UsageError(f"--against {revision!r}: git cannot check it out: {said}")
        folder = path / working.folder.relative_to(working.root)
        folder.mkdir(parents=True, exist_ok=True)  # where models by a relative path are then not to be found
        yield Checkout(path, folder, commit[:12])
    finally:
        keeper.communicate()


_PREFIX = "cnnprof-worktree-"


def _remove_left_over(root: Path) -> None:
    """Remove what is left of processes that ended together with their keeper: a machine that was switched off.

    Other worktrees are left alone: one that is not there now may be on a disk that is not mounted.
    """
    listed = _git(root, "worktree", "list", "--porcelain").splitlines()
    for path in (Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")):
        if _is_left_over(path):
            with suppress(_RefusedError):
                _git(root, "worktree", "remove", "--force", "--force", str(path))
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_left_over(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_left_over(path: Path) -> bool:
    owner = path.name.removeprefix(_PREFIX).partition("-")[0]
    return path.name.startswith(_PREFIX) and owner.isdigit() and not psutil.pid_exists(int(owner))


def tracked(root: Path) -> set[Path]:
    """Return the files of a working tree that git holds, and those of its submodules that are checked out."""
    return {root / name for name in _git(root, "ls-files", "-z", "--recurse-submodules").split("\0") if name}


def root_of(folder: Path) -> Path:
    """Return the root of the working tree that a folder is in; itself where it is in none."""
    try:
        return Path(_git(folder, "rev-parse", "--show-toplevel")).resolve()
    except UsageError:
        return folder.resolve()


def missing_submodules(root: Path, working: Path) -> dict[Path, str]:
    """Return the submodules that a checkout lacks, by their folders, and what would bring them into the working tree.

    A folder that is in no repository lacks none.
    """
    try:
        recorded = _worktree.submodules(_git(root, *_worktree.LISTING))
    except UsageError:
        return {}
    missing: dict[Path, str] = {}
    for name, commit in recorded.items():
        if _worktree.is_checked_out(root / name):
            missing |= missing_submodules(root / name, working / name)
        elif _worktree.is_checked_out(working / name):
            missing[root / name] = f"git -C {name} fetch origin {commit}"
        else:
            missing[root / name] = "git submodule update --init --recursive"
    return missing


def is_ignored(root: Path, path: Path) -> bool:
    """Say whether a working tree's git ignores a file, as it does what a build writes."""
    try:
        _git(root, "check-ignore", "--quiet", str(path))
    except _RefusedError:
        return False
    return True


class _RefusedError(UsageError):
    """What git says."""


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, env=_environment(), capture_output=True)
    except FileNotFoundError:
        raise UsageError("--against a revision: there is no git on this machine; a run's .json was expected") from None
    if done.returncode:
        said = " ".join(os.fsdecode(done.stderr).split()) or "git refused"
        raise _RefusedError(f"--against a revision: {said}; a run's .json, or a git repository around, was expected")
    return os.fsdecode(done.stdout).strip()


def _environment() -> dict[str, str]:
    """Return the environment without what a git hook sets: it names another repository, index and folder."""
    return {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}


_OF_A_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}
"""Of `git rev-parse --local-env-vars`, all but configuration."""
