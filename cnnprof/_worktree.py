"""Adds a git worktree, and removes it when whoever asked for it says so, or is gone. A script: nothing of ours is here.

It lives in a session of its own, so that neither Ctrl-C nor a killed process group ends it before the worktree is gone.
"""

import shutil
import subprocess
import sys

READY = "\n"
"""The answer where all went well; else a line says what did not."""


def main(root: str, commit: str, path: str) -> None:
    """Answer, and wait for the end of the input."""
    git = ["git", "-C", root, "-c", "core.hooksPath=/dev/null", "worktree"]
    try:
        added = subprocess.run([*git, "add", "--detach", "--force", path, commit], capture_output=True)
        refused = " ".join(added.stderr.decode(errors="replace").split()) or f"it ended with code {added.returncode}"
        sys.stdout.write(f"{refused}\n" if added.returncode else READY)
        sys.stdout.flush()
        sys.stdin.read()
    except OSError:  # nobody listens any more
        pass
    finally:
        subprocess.run([*git, "remove", "--force", "--force", path], capture_output=True)
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
