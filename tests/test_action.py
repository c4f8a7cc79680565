"""The composite action: its script is run as a runner would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text(encoding="utf-8"))


@pytest.fixture
def act(tmp_path, monkeypatch):
    """Run the action's step; gives its exit code and the job's summary."""
    monkeypatch.chdir(tmp_path)
    summary = tmp_path / "summary.md"
    command = tmp_path / "bin" / "cnnprof"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cnnprof "$@"\n')
    command.chmod(0o755)
    (step,) = ACTION["runs"]["steps"]

    def run(against, arguments):
        given = {"AGAINST": against, "ARGUMENTS": arguments, "GITHUB_STEP_SUMMARY": str(summary)}
        assert given.keys() - {"GITHUB_STEP_SUMMARY"} == step["env"].keys()
        environment = {**os.environ, **given, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        # as GitHub runs it: https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax (shell)
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, env=environment, capture_output=True, text=True)
        return done.returncode, summary.read_text() if summary.exists() else ""

    return run


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


@pytest.fixture
def net():
    """A repository with a network, whose origin has a branch that it does not have itself."""
    source = "from torch import nn\n\ndef Net(width=4):\n    return nn.Conv2d(3, width, 3)\n"
    Path("net.py").write_text(source)
    git("init", "-q", "-b", "main")
    git("config", "user.email", "me@example.com")
    git("config", "user.name", "me")
    git("add", "net.py")
    git("commit", "-q", "-m", "a network")
    git("clone", "-q", "--bare", ".", "origin.git")
    git("--git-dir", "origin.git", "branch", "-q", "release", "main")
    git("remote", "add", "origin", str(Path("origin.git").resolve()))
    return source


ARGUMENTS = "net.py:Net --input-size 3x8x8 --fail-on 'params:0%'"


@pytest.mark.slow
def test_a_branch_that_only_the_origin_has_is_fetched(act, net):
    code, summary = act("release", ARGUMENTS)
    assert code == 0
    assert "against" in summary


@pytest.mark.slow
def test_a_baseline_that_is_not_written_yet_passes(act, net):
    code, summary = act("baseline.json", ARGUMENTS)
    assert code == 0
    assert "Nothing was compared" in summary


@pytest.mark.slow
def test_a_baseline_that_is_typed_among_the_arguments_holds(act, net):
    assert act("main", f"{ARGUMENTS} --against baseline.json --update")[0] == 0
    assert Path("baseline.json").exists()


@pytest.mark.slow
def test_the_baseline_of_pyproject_is_taken_where_none_is_given(act, net):
    Path("pyproject.toml").write_text(
        '[tool.cnnprof]\nmodels = ["net.py:Net"]\nlimits = ["params:0%"]\ninput-size = "3x8x8"\nbaseline = "HEAD"\n'
    )
    assert act("", "")[0] == 0
    Path("net.py").write_text(net.replace("width=4", "width=5"))
    assert act("", "")[0] == 1


@pytest.mark.slow
def test_what_cannot_be_gated_is_said_in_the_summary(act, net):
    code, summary = act("main", "nothing.py:Net --input-size 3x8x8 --fail-on 'params:0%'")
    assert code == 2
    assert summary.startswith("cnnprof gate ended with code 2:\n\n    cnnprof: nothing.py:Net: there is no file ")


def test_arguments_that_cannot_be_read_are_said_in_the_summary(act):
    code, summary = act("main", "net.py:Net --fail-on 'params:0%")
    assert (code, summary) == (2, "cnnprof gate: these arguments cannot be read: net.py:Net --fail-on 'params:0%\n")


def test_the_first_push_of_a_branch_has_nothing_to_compare_with(act):
    code, summary = act("0" * 40, ARGUMENTS)
    assert (code, summary) == (0, "cnnprof gate: there is no commit before this one to compare with.\n")


@pytest.mark.slow
def test_the_action_fails_a_network_that_grew_and_says_so_in_the_summary(act, net):
    assert act("main", ARGUMENTS)[0] == 0
    Path("net.py").write_text(net.replace("width=4", "width=5"))
    code, summary = act("main", ARGUMENTS)
    assert code == 1
    assert "140 (+25.0 %)" in summary
    assert "## Layers that changed" in summary


def test_the_readme_shows_the_action_as_it_is():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "uses: ./.github/actions/gate" in readme or "/.github/actions/gate@" in readme
    shown = yaml.safe_load(readme.split("```yaml")[1].split("```")[0])
    (step,) = (step for step in shown["jobs"]["gate"]["steps"] if "gate" in step.get("uses", ""))
    assert step.get("with", {}).keys() <= ACTION["inputs"].keys()
