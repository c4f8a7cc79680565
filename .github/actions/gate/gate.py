"""Runs cnnprof gate in a GitHub job, and puts its report into the job's summary. Needs Python alone.

The action's inputs come as environment variables, so that no shell ever reads them.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

AUTO = "auto"
"""The input `against` where a workflow gives none."""


class StopError(Exception):
    """A sentence for the summary, and an exit code, where nothing is gated."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def main(given: Mapping[str, str]) -> int:
    """Gate, and return the exit code."""
    try:
        arguments = split(given["ARGUMENTS"])
        enter(given["WORKING_DIRECTORY"])
        against = given["AGAINST"]
        if against == AUTO:
            against = base_of_event(given) or other_baseline(arguments)
        if against:
            arguments = ["--against", fetch(against), *arguments]  # what is typed comes last, and holds
        return gate(arguments)
    except StopError as stop:
        say(str(stop))
        return stop.code


def say(sentence: str) -> None:
    """Put a sentence of ours into the job's log and its summary."""
    sys.stderr.write(f"cnnprof gate: {sentence}\n")
    summarize(f"cnnprof gate: {sentence}\n\n")


def summarize(markdown: str) -> None:
    """Add to the job's summary, where there is one."""
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(markdown)


def split(arguments: str) -> list[str]:
    """Split arguments as a shell does, without its expansions. Raises StopError."""
    try:
        return shlex.split(arguments.replace("\\\n", " "))  # a line that goes on
    except ValueError as error:
        raise StopError(f"these arguments cannot be read: {arguments}: {error}", 2) from None


def enter(folder: str) -> None:
    """Go to the input `working-directory`. Raises StopError."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise StopError(f"working-directory: {folder}: {error.strerror}", 2) from None


# The base ------------------------------------------------------------------------------------------------------------


def base_of_event(given: Mapping[str, str]) -> str:
    """Return the commit that a job's event has as its base, and "" where it has none. Raises StopError.

    That of a pull request is what it was merged into for the job: `pull_request.base.sha` stays as it was when the
    branch that it goes into moves on, so that others' commits would count as its own.
    """
    if base := given["PULL_REQUEST_BASE"]:
        check_checkout()
        return other_parent(given["PULL_REQUEST_HEAD"]) or fork_point(fetch(base))
    before = given["BEFORE"]
    if before and not before.strip("0"):
        raise StopError("there is no commit before this one to compare with.", 0)
    return before


def check_checkout() -> None:
    """Refuse the base's own commit, which pull_request_target checks out by default. Raises StopError."""
    _, commit = git("rev-parse", "HEAD")
    if os.environ.get("GITHUB_EVENT_NAME") == "pull_request_target" and commit.strip() == os.environ.get("GITHUB_SHA"):
        raise StopError("nothing of the pull request is checked out: pull_request_target takes its base alone", 2)


def other_parent(head: str) -> str:
    """Return the other parent of HEAD where that merges a pull request's head; "" where it is the head itself, say."""
    _, commit = git("rev-parse", "HEAD")
    _, text = git("cat-file", "commit", "HEAD")  # a shallow clone's log leaves parents out
    lines = text.partition("\n\n")[0].splitlines()
    parents = [line.removeprefix("parent ") for line in lines if line.startswith("parent ")]
    if len(parents) < 2 or commit.strip() == head:
        return ""
    return next(parent for parent in parents if parent != head)


def fork_point(base: str) -> str:
    """Return where HEAD and a base parted; the base itself, and a sentence, where a shallow clone does not tell."""
    code, commit = git("merge-base", base, "HEAD")
    if code == 0:
        return commit.strip()
    say(f"this clone does not tell where HEAD left {base[:12]}, whose later commits count, too; give it fetch-depth: 0")
    return base


def other_baseline(arguments: list[str]) -> str:
    """Return "" where the arguments or pyproject.toml have a baseline. Raises StopError where neither does."""
    if not any(each.partition("=")[0] == "--against" for each in arguments) and not is_configured(Path.cwd()):
        event = os.environ.get("GITHUB_EVENT_NAME", "this event")
        raise StopError(
            f"{event} has no commit to compare with: the input `against` takes a branch, tag, commit or run.json.", 0
        )
    return ""


def is_configured(folder: Path) -> bool:
    """Say whether the nearest [tool.cnnprof] of a pyproject.toml has a baseline."""
    import tomllib

    for path in (parent / "pyproject.toml" for parent in (folder, *folder.parents)):
        if path.is_file():
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("cnnprof")
            if table is not None:
                return not {"baseline", "against"}.isdisjoint(table)
    return False


def fetch(against: str) -> str:
    """Return a revision that is here, fetched where it was not; a saved run's path as it is."""
    if against.endswith(".json") or Path(against).is_file() or is_here(against):
        return against
    code, _ = git("fetch", "--no-tags", "--depth=1", "origin", against)
    if not code:
        return git("rev-parse", "FETCH_HEAD")[1].strip()
    git("fetch", "--no-tags", "--deepen=1")
    return against


def is_here(revision: str) -> bool:
    """Say whether a revision names a commit of this clone."""
    return git("cat-file", "-e", f"{revision}^{{commit}}")[0] == 0


def git(*arguments: str) -> tuple[int, str]:
    """Return git's exit code and its output; its complaints go to the job's log."""
    done = subprocess.run(["git", *arguments], stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
    return done.returncode, done.stdout


# The gate ------------------------------------------------------------------------------------------------------------


def gate(arguments: list[str]) -> int:
    """Run cnnprof gate, summarize its Markdown, else its complaint, and return its exit code. Raises StopError."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "gate.md")
        try:
            done = subprocess.run(["cnnprof", "gate", *arguments, "-o", str(report)], stderr=subprocess.PIPE)
        except FileNotFoundError:
            raise StopError("there is no command cnnprof; install it in a step before this one", 2) from None
        complaint = done.stderr.decode(errors="replace")
        sys.stderr.write(complaint)
        if report.exists():
            summarize(report.read_text(encoding="utf-8"))
            return done.returncode
    indented = "".join(f"    {line}\n" for line in complaint.splitlines())
    summarize(f"cnnprof gate ended with code {done.returncode}:\n\n{indented}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(os.environ))
