"""The composite action: its script is run as a runner would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github/actions/gate"
ACTION = yaml.safe_load((FOLDER / "action.yml").read_text(encoding="utf-8"))
ARGUMENTS = "net.py:Net --input-size 3x8x8 --fail-on 'params:0%'"


@pytest.fixture
def act(tmp_path, monkeypatch):
    """Run the action's step; gives its exit code and the job's summary."""
    monkeypatch.chdir(tmp_path)
    return acting(tmp_path, f'exec "{sys.executable}" -m cnnprof "$@"')


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Run the action's step without a model; gives the commit that it would compare with."""
    monkeypatch.chdir(tmp_path)
    run = acting(tmp_path, 'for each; do echo "$each"; done > "$GITHUB_STEP_SUMMARY.asked"')

    def base(words=None, **given):
        run(**given)
        command, against, commit, *others = (tmp_path / "summary.md.asked").read_text().splitlines()
        assert (command, against) == ("gate", "--against")
        assert words in (None, others[:-2])  # what follows is -o FILE
        return commit

    return base


def acting(tmp_path, script):
    """Return what runs the step, with a script as the command cnnprof."""
    summary = tmp_path / "summary.md"
    command = tmp_path / "bin" / "cnnprof"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    (step,) = ACTION["runs"]["steps"]

    def run(
        against="auto", arguments=ARGUMENTS, folder=".", base="", head="", before="", event="pull_request", commit=""
    ):
        given = {"AGAINST": against, "ARGUMENTS": arguments, "WORKING_DIRECTORY": folder}
        given |= {"PULL_REQUEST_BASE": base, "PULL_REQUEST_HEAD": head, "BEFORE": before}
        assert given.keys() == step["env"].keys()
        runner = {
            "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_ACTION_PATH": str(FOLDER),
            "GITHUB_EVENT_NAME": event,
            "GITHUB_SHA": commit,
        }
        environment = {**os.environ, **given, **runner, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        # as GitHub runs it: https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax (shell)
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, env=environment, capture_output=True, text=True)
        return done.returncode, summary.read_text() if summary.exists() else ""

    return run


def git(*arguments, folder="."):
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


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
    said = "cnnprof gate: these arguments cannot be read: net.py:Net --fail-on 'params:0%: No closing quotation\n\n"
    assert (code, summary) == (2, said)


def test_arguments_are_words_and_no_shell_reads_them(act, net):
    code, _ = act("main", "$(touch ran) `touch ran`; touch ran --fail-on '*' > ran")
    assert code == 2
    assert not Path("ran").exists()


def test_arguments_may_go_on_in_the_next_line(base, net):
    words = ["net.py:Net", "--fail-on", "params:0% or so"]
    assert base(against="HEAD", arguments="net.py:Net \\\n  --fail-on\n 'params:0% or so'\n", words=words) == "HEAD"


def test_a_checkout_without_the_pull_request_is_said(act, net):
    commit = git("rev-parse", "HEAD")
    code, summary = act(base=commit, head="1" * 40, event="pull_request_target", commit=commit)
    assert code == 2
    assert "nothing of the pull request is checked out" in summary


def test_the_first_push_of_a_branch_has_nothing_to_compare_with(act):
    code, summary = act(before="0" * 40, event="push")
    assert (code, summary) == (0, "cnnprof gate: there is no commit before this one to compare with.\n\n")


@pytest.mark.slow
def test_the_action_fails_a_network_that_grew_and_says_so_in_the_summary(act, net):
    assert act("main", ARGUMENTS)[0] == 0
    Path("net.py").write_text(net.replace("width=4", "width=5"))
    code, summary = act("main", ARGUMENTS)
    assert code == 1
    assert "140 (+25.0 %)" in summary
    assert "## Layers that changed" in summary


# What a job checks out -----------------------------------------------------------------------------------------------


class Origin:
    """A repository as a forge holds it: main, and a pull request that was opened before main moved on."""

    def __init__(self, folder: Path, before: str, pull: str, main: str, place: str = "") -> None:
        self.folder, self.place = folder, place
        (folder / place).mkdir(parents=True)
        git("init", "-q", "-b", "main", folder=folder)
        git("config", "user.email", "me@example.com", folder=folder)
        git("config", "user.name", "me", folder=folder)
        self.base = self.commit(before)
        git("checkout", "-q", "-b", "pull", folder=folder)
        self.head = self.commit(pull)
        git("checkout", "-q", "main", folder=folder)
        self.moved = self.commit(main)
        git("checkout", "-q", "--detach", folder=folder)
        git("merge", "-q", "--no-ff", "-m", "as a job sees it", "pull", folder=folder)
        git("branch", "merged", folder=folder)

    def commit(self, source: str) -> str:
        (self.folder / self.place / "net.py").write_text(source)
        git("add", "-A", folder=self.folder)
        git("commit", "-q", "-m", "a change", folder=self.folder)
        return git("rev-parse", "HEAD", folder=self.folder)

    def checked_out(self, revision: str, *options: str) -> None:
        """Clone it into the current folder as actions/checkout does, with --depth=1 or without."""
        git("clone", "-q", "--no-single-branch", *options, self.folder.as_uri(), "clone")
        os.chdir("clone")
        git("checkout", "-q", "--detach", f"origin/{revision}")


def network(comment: str = "#", blocks: int = 1, width: int = 8) -> str:
    """A network that one change a line does not bring into conflict."""
    lines = ["from torch import nn", "", "", comment, "", "", "", f"BLOCKS = {blocks}", "", "", "", f"WIDTH = {width}"]
    body = "nn.Sequential(nn.Conv2d(3, WIDTH, 3), *(nn.Conv2d(WIDTH, WIDTH, 3) for _ in range(BLOCKS)))"
    return "\n".join([*lines, "", "", "", "def Net():", f"    return {body}"]) + "\n"


CLONES = pytest.mark.parametrize("options", [("--depth=1",), ()], ids=["shallow", "whole"])


@pytest.mark.slow
def test_what_main_did_since_is_not_the_pull_requests(act, tmp_path):
    origin = Origin(tmp_path / "origin", network(), network("# said"), network(width=16))
    origin.checked_out("merged", "--depth=1")
    code, summary = act(base=origin.base, head=origin.head)
    assert code == 0
    assert origin.moved[:12] in summary


@pytest.mark.slow
def test_what_main_took_away_does_not_hide_what_a_pull_request_adds(act, tmp_path):
    """Main went from 16 channels to 8, of which the pull request has one convolution more."""
    origin = Origin(tmp_path / "origin", network(width=16), network(blocks=2, width=16), network(width=8))
    origin.checked_out("merged")
    code, summary = act(base=origin.base, head=origin.head)
    # 3 to 8 channels: 3*8*9 + 8 = 224; 8 to 8: 8*8*9 + 8 = 584; 808 of one block, 1,392 of two
    assert code == 1
    assert "1,392 (+72.3 %)" in summary


@CLONES
def test_the_base_of_a_merge_is_what_it_was_merged_into(base, tmp_path, options):
    origin = Origin(tmp_path / "origin", network(), network("# said"), network(width=16))
    origin.checked_out("merged", *options)
    assert base(base=origin.base, head=origin.head) == origin.moved


def test_the_base_of_a_head_is_where_it_left_main(base, tmp_path):
    origin = Origin(tmp_path / "origin", network(), network("# said"), network(width=16))
    origin.checked_out("pull")
    assert base(base=origin.moved, head=origin.head) == origin.base


def test_the_base_of_a_head_that_merged_main_itself_is_not_its_own_commit_before(base, tmp_path):
    origin = Origin(tmp_path / "origin", network(), network(blocks=2), network("# said"))
    origin.checked_out("merged")
    git("checkout", "-q", "--detach", "origin/pull")
    git("merge", "-q", "-m", "main", "origin/main")
    assert base(base=origin.moved, head=git("rev-parse", "HEAD")) == origin.moved


def test_a_shallow_clone_that_does_not_tell_where_a_head_left_main_says_so(base, tmp_path):
    origin = Origin(tmp_path / "origin", network(), network("# said"), network(width=16))
    origin.checked_out("pull", "--depth=1")
    assert base(base=origin.moved, head=origin.head) == origin.moved
    assert f"does not tell where HEAD left {origin.moved[:12]}" in (tmp_path / "summary.md").read_text()


@CLONES
def test_a_merge_queue_has_a_base_of_its_own(base, tmp_path, options):
    origin = Origin(tmp_path / "origin", network(), network(blocks=2), network(width=16))
    origin.checked_out("merged", *options)
    assert base(before=origin.moved, event="merge_group") == origin.moved


def test_a_push_is_compared_with_the_commit_before_it(base, tmp_path):
    origin = Origin(tmp_path / "origin", network(), network("# said"), network(width=16))
    origin.checked_out("main", "--depth=1")
    assert base(before=origin.base, event="push") == origin.base


@pytest.mark.parametrize("event", ["workflow_dispatch", "schedule", "release"])
def test_an_event_without_a_base_names_the_input_against_and_passes(act, net, event):
    code, summary = act(event=event)
    assert code == 0
    assert summary == (
        f"cnnprof gate: {event} has no commit to compare with: the input `against` takes a branch, tag, commit or "
        "run.json.\n\n"
    )


def test_an_event_without_a_base_takes_the_baseline_of_pyproject_or_of_the_arguments(act, net):
    Path("pyproject.toml").write_text('[tool.cnnprof]\nbaseline = "nosuch"\n')
    nosuch = "against 'nosuch': neither a file nor a revision"
    assert nosuch in act(event="schedule")[1]
    Path("pyproject.toml").unlink()
    assert nosuch in act(arguments=f"{ARGUMENTS} --against=nosuch", event="schedule")[1]


@pytest.mark.slow
def test_a_network_in_a_folder_of_a_monorepo_is_gated_there(act, tmp_path):
    origin = Origin(tmp_path / "origin", network(), network(blocks=2), network("# said"), "packages/a net")
    origin.checked_out("merged", "--depth=1")
    code, summary = act(folder="packages/a net", base=origin.base, head=origin.head)
    assert code == 1
    assert origin.moved[:12] in summary


def test_a_folder_that_is_not_there_is_said(act, net):
    code, summary = act("main", folder="packages")
    assert (code, summary) == (2, "cnnprof gate: working-directory: packages: No such file or directory\n\n")


@pytest.fixture
def superproject(tmp_path, monkeypatch):
    """A repository that has its networks from a submodule, cloned without it, and the submodule's origin."""
    settings = {"user.email": "me@example.com", "user.name": "me", "protocol.file.allow": "always"}
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (name, value) in enumerate(settings.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    nets = Origin(tmp_path / "nets", network(), network(blocks=2), network("# said"))
    git("checkout", "-q", nets.base, folder=nets.folder)
    whole = tmp_path / "whole"
    git("init", "-q", "-b", "main", str(whole))
    git("submodule", "add", "-q", nets.folder.as_uri(), "libs/nets", folder=whole)
    (whole / "net.py").write_text("from libs.nets.net import Net\n")
    git("add", "-A", folder=whole)
    git("commit", "-q", "-m", "a network", folder=whole)
    git("clone", "-q", whole.as_uri(), "clone")
    os.chdir("clone")
    return nets


@pytest.mark.slow
@pytest.mark.parametrize("model", ["net.py:Net", "libs/nets/net.py:Net", "libs.nets.net:Net"])
def test_a_submodule_that_is_not_checked_out_is_named(act, superproject, model):
    code, summary = act("HEAD", ARGUMENTS.replace("net.py:Net", model))
    assert code == 2
    assert "the submodule libs/nets is not checked out; git submodule update --init --recursive" in summary


@pytest.mark.slow
@pytest.mark.parametrize("model", ["net.py:Net", "libs/nets/net.py:Net"])
def test_a_submodule_that_is_checked_out_is_compared_with_that_of_the_revision(act, superproject, model):
    git("submodule", "update", "-q", "--init")
    git("checkout", "-q", superproject.head, folder="libs/nets")
    git("commit", "-q", "-a", "-m", "more blocks")
    code, summary = act("HEAD~1", ARGUMENTS.replace("net.py:Net", model))
    assert code == 1
    assert "1,392 (+72.3 %)" in summary
    assert git("worktree", "list", folder="libs/nets").count("\n") == 0


@pytest.mark.slow
def test_a_submodules_commit_that_is_not_here_is_named(act, superproject):
    git("submodule", "update", "-q", "--init")
    git("checkout", "-q", superproject.head, folder="libs/nets")
    git("commit", "-q", "-a", "-m", "more blocks")
    git("clone", "-q", Path().resolve().as_uri(), "shallow")
    os.chdir("shallow")
    git("checkout", "-q", superproject.head, folder=superproject.folder)  # what a shallow clone begins with
    git("submodule", "update", "-q", "--init", "--depth=1")
    code, summary = act("HEAD~1", ARGUMENTS.replace("net.py:Net", "libs/nets/net.py:Net"))
    assert code == 2
    assert f"git -C libs/nets fetch origin {superproject.base}" in summary


def test_the_readme_shows_the_action_as_it_is():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "uses: ./.github/actions/gate" in readme or "/.github/actions/gate@" in readme
    shown = yaml.safe_load(readme.split("```yaml")[1].split("```")[0])
    (step,) = (step for step in shown["jobs"]["gate"]["steps"] if "gate" in step.get("uses", ""))
    assert step.get("with", {}).keys() <= ACTION["inputs"].keys()
