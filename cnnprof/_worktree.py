"""Adds a git worktree, and removes it when whoever asked for it says so, or is gone. A script: nothing of ours is here.

It lives in a session of its own, so that neither Ctrl-C nor a killed process group ends it before the worktree is gone.
"""

import shutil
import subprocess
import sys


def main(root: str, commit: str, path: str) -> None:
    """Answer with an empty line, or with why it failed, and wait for the end of the input."""
    git = ["git", "-C", root, "-c", "core.hooksPath=/dev/null", "worktree"]
    added = subprocess.run([*git, "add", "--detach", "--force", path, commit], capture_output=True, text=True)
    try:
        print(" ".join(added.stderr.split()) if added.returncode else "", flush=True)  # noqa: T201
        sys.stdin.read()
    except OSError:  # nobody listens any more
        pass
    finally:
        subprocess.run([*git, "remove", "--force", "--force", path], capture_output=True)
        shutil.rmtree(path, ignore_errors=True)
        subprocess.run([*git, "prune"], capture_output=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
