"""Adds a git worktree, and removes it when whoever asked for it says so, or is gone. A script: nothing of ours is here.

Submodules of the working tree are in it, too, at the commits that the revision records, where those are here. It lives
in a session of its own, so that neither Ctrl-C nor a killed process group ends it before the worktree is gone.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

READY = "\n"
"""The answer where all went well; else a line says what did not."""


def main(root: str, commit: str, path: str) -> None:
    """Answer, and wait for the end of the input."""
    try:
        added = _git(root, "worktree", "add", "--detach", "--force", path, commit)
        if not added.returncode:
            _add_submodules(Path(root), Path(path))
        refused = " ".join(added.stderr.decode(errors="replace").split()) or f"it ended with code {added.returncode}"
        sys.stdout.write(f"{refused}\n" if added.returncode else READY)
        sys.stdout.flush()
        sys.stdin.read()
    except OSError:  # nobody listens any more
        pass
    finally:
        _remove(Path(root), Path(path))


LISTING = ("ls-files", "--stage", "-z")
"""Arguments of git, whose output `submodules` reads."""


def submodules(listed: str) -> dict[Path, str]:
    """Return a working tree's submodules by their path in it, and the commit that is recorded of each."""
    links = (entry.split("\t", 1) for entry in listed.split("\0") if entry.startswith("160000 "))
    return {Path(path): facts.split()[1] for facts, path in links}


def is_checked_out(folder: Path) -> bool:
    """Say whether a submodule is there; else git leaves an empty folder."""
    return (folder / ".git").exists()


def _add_submodules(root: Path, path: Path) -> None:
    for name, commit in _submodules(path).items():
        if is_checked_out(root / name):
            _git(str(root / name), "worktree", "add", "--detach", "--force", str(path / name), commit)
        if is_checked_out(path / name):
            _add_submodules(root / name, path / name)


def _remove(root: Path, path: Path) -> None:
    for name in _submodules(path):
        if is_checked_out(path / name):
            _remove(root / name, path / name)
    _git(str(root), "worktree", "remove", "--force", "--force", str(path))
    shutil.rmtree(path, ignore_errors=True)


def _submodules(path: Path) -> dict[Path, str]:
    return submodules(os.fsdecode(_git(str(path), *LISTING).stdout))


def _git(folder: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", folder, "-c", "core.hooksPath=/dev/null", *arguments], capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
