"""Revisions in folders of their own, and processes that work in them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import alive, wait_for

from cnnprof import remote, revisions
from cnnprof.errors import ElsewhereError, UsageError, said
from cnnprof.remote import Worker


def git(*arguments):
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two commits, in which we stand, with one change that is not committed."""
    root = tmp_path / "repo"
    (root / "sub").mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    git("init", "--quiet", "-b", "main")
    git("config", "user.email", "me@example.com")
    git("config", "user.name", "me")
    for content in ("1", "2"):
        Path("value.py").write_text(f"VALUE = {content}\n")
        Path("sub/other.py").write_text(f"OTHER = {content}\n")
        git("add", "-A")
        git("commit", "--quiet", "-m", content)
    Path("value.py").write_text("VALUE = 3\n")
    return root


def left_over(root):
    return len(git("-C", str(root), "worktree", "list").splitlines()) - 1 + len([*root.parent.glob("cnnprof-*")])


def test_a_revision_stands_in_a_folder_of_its_own_and_is_gone_afterwards(repository):
    with revisions.checked_out("HEAD~1") as there:
        assert (there.root / "value.py").read_text() == "VALUE = 1\n"
        assert Path("value.py").read_text() == "VALUE = 3\n"
        assert left_over(repository) > 0
    assert left_over(repository) == 0


def test_who_stands_in_a_subfolder_stands_there_in_the_revision_too(repository, monkeypatch):
    monkeypatch.chdir(repository / "sub")
    with revisions.checked_out("main~1") as there:
        assert (there.folder / "other.py").read_text() == "OTHER = 1\n"


def test_it_is_gone_after_an_error_too(repository):
    with pytest.raises(RuntimeError), revisions.checked_out("HEAD"):
        raise RuntimeError
    assert left_over(repository) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_is_gone_after_a_kill(repository, how):
    code = (
        "from cnnprof import revisions; import time\n"
        "with revisions.checked_out('HEAD'): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "in\n"
    assert left_over(repository) > 0
    os.killpg(process.pid, how)
    process.communicate()
    wait_for(lambda: left_over(repository) == 0)


def test_what_a_machine_left_that_was_switched_off_is_removed(repository):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = repository.parent / f"cnnprof-worktree-{gone.pid}-x"
    git("worktree", "add", "--quiet", "--detach", str(dead))
    with revisions.checked_out("HEAD"):
        assert not dead.exists()
    assert left_over(repository) == 0


def test_a_hook_of_the_repository_does_not_run(repository):
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {repository}/hook-ran\n")
    hook.chmod(0o755)
    with revisions.checked_out("HEAD"):
        assert not (repository / "hook-ran").exists()


def test_it_works_within_a_hook_too(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / "another-index"))
    with revisions.checked_out("HEAD~1") as there:
        assert (there.root / "value.py").read_text() == "VALUE = 1\n"
    assert not (repository / "another-index").exists()


def test_changes_that_are_not_committed_are_said(repository):
    assert revisions.working_tree().commit.endswith("-dirty")


@pytest.mark.parametrize("revision", ["nosuch", "--help", "HEAD:value.py", ""])
def test_a_revision_that_is_none_is_refused(repository, revision):
    with pytest.raises(UsageError, match="neither a file nor a revision"), revisions.checked_out(revision):
        pass
    assert left_over(repository) == 0


def test_a_folder_is_no_revision(repository):
    (repository / "there").mkdir()
    with pytest.raises(UsageError, match="'there': a folder;"):
        revisions.commit_of("there")


def test_a_repository_without_a_commit_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    with pytest.raises(UsageError, match="has no commit yet"), revisions.checked_out("HEAD"):
        pass


def test_no_repository_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not a git repository"), revisions.checked_out("HEAD"):
        pass


def test_a_folder_that_cannot_be_made_is_said(repository, monkeypatch):
    def full(prefix):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(UsageError, match="No space left on device"), revisions.checked_out("HEAD"):
        pass


def test_no_git_is_said(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="there is no git on this machine"), revisions.checked_out("HEAD"):
        pass


# Processes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(repository, monkeypatch):
    """A process in the first commit, and one in the working tree."""
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), str(here)]))
    with revisions.checked_out("HEAD~1") as there:
        working = revisions.working_tree()
        workers = [Worker(checkout, working) for checkout in (there, working)]
        yield workers
        for worker in workers:
            worker.close()


def value_of(name="value"):
    """Import a module, in whichever process this is called."""
    import importlib

    return importlib.import_module(name).VALUE


def test_each_process_imports_what_its_own_checkout_holds(both):
    assert [worker.call(value_of) for worker in both] == [1, 3]


def test_what_is_raised_there_is_raised_here(both):
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'nosuch'"):
        both[0].call(value_of, "nosuch")
    assert both[0].call(value_of) == 1


def test_what_is_printed_there_disturbs_nothing(both, capfd):
    assert both[0].call(printing) == 5
    assert capfd.readouterr() == ("", "")


def printing():
    sys.stdout.write("noise")
    os.write(1, b"more noise\n")
    return 5


def test_what_python_prints_at_its_start_disturbs_nothing(repository, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    prints = "print('Loading the modules', flush=True)\nprint('and', end=' more', flush=True)\n"
    (tmp_path / "site" / "sitecustomize.py").write_text(prints)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parent)]))
    here = revisions.working_tree()
    worker = Worker(here, here)
    assert [worker.call(printing), worker.call(printing)] == [5, 5]
    worker.close()


def test_a_process_that_is_killed_is_said_in_a_line(both):
    with pytest.raises(UsageError, match="was killed by SIGKILL, out of memory perhaps"):
        both[0].call(os.kill, both[0].pid, signal.SIGKILL)
    with pytest.raises(UsageError, match="was killed"):
        both[0].call(value_of)


def test_what_another_process_raises_is_told_in_its_own_words(both):
    with pytest.raises(ElsewhereError) as raised:
        both[0].call(value_of, "nosuchmodule")
    assert said(raised.value) == "ModuleNotFoundError: No module named 'nosuchmodule'"


def test_a_process_ends_with_whoever_started_it(repository):
    code = (
        "from cnnprof import revisions, remote; import time\nworking = revisions.working_tree()\n"
        "print(remote.Worker(working, working).pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(worker))


def test_a_package_that_is_installed_in_editable_form_comes_from_the_checkout(repository, tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    finder = f"""
import importlib.machinery, pathlib, sys
MAPPING = {{"sub": "{repository / "sub"}"}}
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            return importlib.machinery.PathFinder.find_spec(name, [str(pathlib.Path(MAPPING[name]).parent)])
sys.meta_path.append(Finder)
"""
    (site / "sitecustomize.py").write_text(finder)
    (repository / "sub" / "__init__.py").write_text("VALUE = 'new'\n")
    git("add", "-A")
    git("commit", "--quiet", "-m", "a package")
    (repository / "sub" / "__init__.py").write_text("VALUE = 'newer'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parent)]))
    with revisions.checked_out("HEAD") as there:
        worker = Worker(there, revisions.working_tree())
        assert worker.call(value_of, "sub") == "new"
        worker.close()


def test_what_a_build_wrote_is_found_where_a_revision_lacks_it_and_what_git_holds_is_not(repository, monkeypatch):
    Path(".gitignore").write_text("_version.py\nbuilt.py\n")
    for name in ("sub/__init__.py", "sub/later.py", "sub/_version.py", "built.py"):
        Path(name).write_text("VALUE = 7\n")
    git("add", "sub/__init__.py")
    git("commit", "--quiet", "-m", "a package")
    git("add", "sub/later.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), str(Path(__file__).parent)]))
    with revisions.checked_out("HEAD") as there:
        worker = Worker(there, revisions.working_tree())
        assert [worker.call(value_of, name) for name in ("sub._version", "built")] == [7, 7]
        with pytest.raises(ElsewhereError, match=r"No module named 'sub\.later'"):
            worker.call(value_of, "sub.later")
        worker.close()


def test_worktrees_of_others_stay_even_where_their_disk_is_not_there(repository):
    away = repository.parent / "on-another-disk"
    git("worktree", "add", "--quiet", "--detach", str(away))
    away.rename(repository.parent / "not-mounted")
    with revisions.checked_out("HEAD"):
        pass
    assert str(away) in git("worktree", "list")


def test_a_commit_whose_subject_is_in_another_encoding_is_checked_out(repository):
    git("config", "i18n.logOutputEncoding", "iso-8859-1")
    git("commit", "--quiet", "--allow-empty", "-m", "café")
    with revisions.checked_out("HEAD") as there:
        assert (there.root / "value.py").exists()
    assert left_over(repository) == 0


def test_a_folder_that_a_revision_does_not_have_is_empty_there(repository, monkeypatch):
    (repository / "new").mkdir()
    monkeypatch.chdir(repository / "new")
    with revisions.checked_out("HEAD") as there:
        assert there.folder == there.root / "new"
        assert not [*there.folder.iterdir()]
    assert left_over(repository) == 0


def test_configuration_of_git_by_environment_holds(repository, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.abbrev")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "7")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert revisions._environment().items() >= {("GIT_CONFIG_VALUE_0", "7")}
    assert "GIT_DIR" not in revisions._environment()


def test_a_folder_that_only_the_working_tree_has_is_told_from_what_git_does_not_hold(repository):
    assert revisions.tracked(repository) == {repository / "value.py", repository / "sub" / "other.py"}


def test_modules_are_looked_for_in_the_same_order(monkeypatch, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "src", there / "src", here / ".venv", here / "new"):
        folder.mkdir(parents=True)
    (here / "new" / "nets.py").touch()
    git("init", "-q", str(here))
    git("-C", str(here), "add", "new")
    monkeypatch.setattr(sys, "path", ["/first", *(str(here / name) for name in ("src", "new", ".venv")), "/last"])
    monkeypatch.setattr(sys, "meta_path", [])
    remote._import_from(str(there), str(here))
    assert sys.path == ["/first", str(there / "src"), str(here / ".venv"), "/last"]
