"""Where a document comes from: the command, the revision, the moment. No host, no user, no folders."""

import datetime
import shlex
import subprocess
import sys


def now() -> str:
    """Return the moment in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command() -> str:
    """Return the command line where it is ours, without the folders of this machine."""
    name = sys.argv[0].replace("\\", "/").rpartition("/")[2] if sys.argv else ""
    return shlex.join(["cnnprof", *sys.argv[1:]]) if name in ("cnnprof", "__main__.py") else "Python"


def commit() -> str | None:
    """Return the revision of the working directory, if it is one."""
    ask = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
