"""The gate as it is typed, in a repository of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch

from cnnprof import gating
from cnnprof.comparison import limits
from cnnprof.records import Candidate, Settings
from cnnprof.revisions import Checkout

NET = """
from torch import nn

def Net(width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )
"""
NET_AT = ["net.py:Net", "--input-size", "3x16x16"]


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


@pytest.fixture
def run(typed):
    """The command line, in a repository that holds one network."""
    Path("net.py").write_text(NET)
    git("init", "--quiet", "-b", "main")
    git("config", "user.email", "me@example.com")
    git("config", "user.name", "me")
    git("add", "net.py")
    git("commit", "--quiet", "-m", "a network")
    return typed


def widen():
    Path("net.py").write_text(NET.replace("3, width, 3", "3, width + 1, 3").replace("Linear(width", "Linear(width + 1"))


LIMITS = ["--fail-on", "params:0%", "--fail-on", "macs:0%", "--fail-on", "peak_bytes:2%"]


def test_a_baseline_is_written_kept_to_and_written_anew(run):
    code, out, _ = run("gate", *NET_AT, "--against", "base.json", *LIMITS)
    assert code == 0
    assert "base.json: it is not there yet; --update writes it" in out
    assert not Path("base.json").exists()
    assert run("gate", *NET_AT, "--against", "base.json", *LIMITS, "--update")[0] == 0
    code, out, err = run("gate", "net.py:Net", "--against", "base.json", *LIMITS)
    assert (code, err) == (0, "")
    assert "Passed: 3 passed." in out
    widen()
    code, out, _ = run("gate", "net.py:Net", "--against", "base.json", *LIMITS, "-o", "diff.md")
    assert code == 1
    assert "net.py:Net, parameters: +12.1 %, from 314 to 352; none is allowed; most in layer 0." in " ".join(
        out.split()
    )
    assert "## Layers that changed" in Path("diff.md").read_text()
    assert run("gate", "net.py:Net", "--against", "base.json", *LIMITS, "--update", "--quiet")[0] == 0
    assert run("gate", "net.py:Net", "--against", "base.json", *LIMITS)[0] == 0


def test_two_saved_runs_are_held_to_each_other_without_torch(run, monkeypatch):
    for name, change in (("a.json", lambda: None), ("b.json", widen)):
        change()
        run("gate", *NET_AT, "--against", name, *LIMITS, "--update", "--quiet")
    monkeypatch.setitem(__import__("sys").modules, "cnnprof.gating", None)  # which imports torch
    assert run("gate", "a.json", "--against", "a.json", *LIMITS)[0] == 0
    code, out, _ = run("gate", "b.json", "--against", "a.json", *LIMITS, "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["passed"]) == (1, "cnnprof.gate/1", False)
    assert {"model", "metric", "layer", "limit", "change", "ci95", "verdict"} <= document["results"][0].keys()


def test_the_project_says_what_is_gated(run, monkeypatch):
    Path("pyproject.toml").write_text(
        '[tool.cnnprof]\nmodels = ["slim=net.py:Net(width=4)"]\ninput-size = "3x16x16"\n'
        'baseline = "base.json"\nlimits = ["params:0%", "slim/macs:5%"]\n'
    )
    assert run("gate", "--update", "--quiet")[0] == 0
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    code, out, _ = run("gate", "--json")
    assert code == 0
    assert [(each["model"], each["metric"], each["limit"]) for each in json.loads(out)["results"]] == [
        ("slim", "params", 0.0),
        ("slim", "macs", 0.05),
    ]
    assert run("gate", "--fail-on", "activations:0%", "--json")[0] == 0


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('model = ["a"]', "has no 'model'"),
        ('models = "a"', "models is 'a'; a list of texts was expected"),
        ("batch-size = true", "a whole number was expected"),
        ('inconclusive = "maybe"', "pass or fail was expected"),
        ('input-sizes = ["3x32x32", "3x64x64"]', "one for all, such as 3x224x224"),
        ("models = [", "cannot be read"),
    ],
)
def test_a_table_that_says_something_else_is_refused(run, table, said):
    Path("pyproject.toml").write_text(f"[tool.cnnprof]\n{table}\n")
    code, out, err = run("gate")
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_no_project_s_is_passed_over(run):
    Path("pyproject.toml").write_text("tool = 1\n")
    code, _, err = run("gate")
    assert (code, err.split(" (")[0]) == (2, "cnnprof: gate lacks a MODEL")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gate"], "gate lacks a MODEL (or a RUN.json) and --against FILE (or REF) and --fail-on LIMIT"),
        (["gate", "net.py:Net", "--against", "main", "--fail-on", "speed:5%"], "no metric 'speed'"),
        (["gate", "net.py:Net", "--against", "nosuch", *LIMITS], "neither a file nor a revision"),
        (["gate", "net.py:Net", "--against", "main", *LIMITS, "--update"], "is a revision"),
        (["gate", "a.json", "--against", "main", *LIMITS], "a saved run is held to another, and alone"),
        (["gate", "a.json", "--against", "b.json", *LIMITS], "a.json: cannot be read"),
        (["gate", "net.py:Net", "net.py:Net", "--against", "main", *LIMITS], "is asked for twice"),
        (["gate", "net.py:Net", "--against", "nosuch", "--fail-on", "my/latency:5%"], "no model is called 'my'"),
    ],
)
def test_what_cannot_be_gated_is_said_in_a_line(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_cut_off_is_said(run):
    run("gate", *NET_AT, "--against", "base.json", *LIMITS, "--update", "--quiet")
    path = Path("base.json")
    path.write_text(path.read_text()[:500])
    code, _, err = run("gate", "net.py:Net", "--against", "base.json", *LIMITS)
    assert code == 2
    assert "cut off" in err


def test_one_more_channel_than_in_a_revision_fails_and_names_its_layer(run):
    assert run("gate", *NET_AT, "--against", "main", *LIMITS)[0] == 0
    widen()
    code, out, _ = run("gate", *NET_AT, "--against", "HEAD", *LIMITS, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["commit"].endswith("-dirty")
    assert "not committed" in document["doubts"][0]["message"]
    failed = [each for each in document["results"] if each["verdict"] == "failed"]
    assert [(each["metric"], each["layer"]) for each in failed[:2]] == [("params", "0"), ("macs", "0")]


@pytest.mark.slow
def test_a_model_that_a_revision_does_not_have_is_said_and_others_are_compared(run):
    Path("more.py").write_text(NET)
    git("add", "more.py")
    code, out, _ = run(
        "gate", "net.py:Net", "more.py:Net", "--input-size", "3x16x16", "--against", "HEAD", *LIMITS, "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert {each["model"] for each in document["results"]} == {"net.py:Net"}
    assert [each["about"] for each in document["doubts"]] == ["working tree", "more.py:Net"]


@pytest.mark.slow
def test_what_git_does_not_hold_is_told_of(run):
    Path("pkg").mkdir()
    Path(".gitignore").write_text("_version.py\n")
    Path("pkg/_version.py").write_text("WIDTH = 8\n")
    Path("pkg/__init__.py").write_text(f"from pkg._version import WIDTH\n{NET.replace('width=8', 'width=WIDTH')}")
    git("add", "-A")
    git("commit", "--quiet", "-m", "a package")
    Path("more.py").write_text(NET)
    models = ["pkg:Net", "more.py:Net"]
    code, out, err = run("gate", *models, "--input-size", "3x16x16", "--against", "HEAD", *LIMITS, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert {each["model"]: each["verdict"] for each in document["results"]} == {"pkg:Net": "passed"}
    about = {each["about"]: each["message"] for each in reversed(document["doubts"])}
    assert about["pkg._version"] == "git does not hold it: that of the working tree serves both sides"
    assert about["more.py:Net"] == "git does not hold its file, so that no revision has it"


@pytest.mark.slow
def test_an_argument_that_a_revision_does_not_know_is_that_of_a_new_model(run):
    Path("net.py").write_text(NET.replace("width=8", "width=8, depth=1"))
    models = ["net.py:Net", "deep=net.py:Net(depth=2)"]
    code, out, _ = run("gate", *models, "--input-size", "3x16x16", "--against", "HEAD", *LIMITS, "--json")
    document = json.loads(out)
    assert code == 0
    assert {each["model"] for each in document["results"]} == {"net.py:Net"}
    assert [each["about"] for each in document["doubts"]] == ["working tree", "deep"]


@pytest.mark.slow
def test_a_revision_that_does_not_import_is_said(run):
    Path("net.py").write_text("import nosuchpackage\n")
    git("commit", "--quiet", "-am", "broken")
    Path("net.py").write_text(NET)
    code, _, err = run("gate", *NET_AT, "--against", "HEAD", *LIMITS)
    assert code == 2
    assert "HEAD" in err
    assert "No module named 'nosuchpackage'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_model_that_the_working_tree_does_not_have_is_said(run):
    code, _, err = run("gate", "net.py:Nope", "--input-size", "3x16x16", "--against", "HEAD", *LIMITS)
    assert code == 2
    assert err == "cnnprof: net.py:Nope: net.py has no 'Nope'\n"


def test_a_longer_time_has_more_sessions_and_all_of_it_is_measured():
    def asked(**options):
        return gating.asked(["resnet18", "cnn"], [], options, None, update=False)

    assert [gating._plan(asked(time=time_s)).sessions for time_s in (1.0, 10.0, 45.0)] == [20, 20, 90]
    assert (asked().time_s, asked(time=3.0).time_s, asked().settings.ci) == (10.0, 3.0, 0.0)


def test_a_run_tells_the_threads_that_were_asked_for():
    found = gating._document([Candidate("net", analysis=None)], Settings(threads=3))
    assert found.machine.threads == 3


def test_memory_is_predicted_with_the_threads_that_are_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr(gating, "_described", lambda subject, asked: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(gating, "_document", lambda candidates, settings: None)
    for threads in (1, 2):
        gating.taken(gating.asked(["cnn"], [limits.parsed("params:0%")], {"threads": threads}, None, update=False))
    assert seen == [1, 2]


def test_nothing_is_timed_for_a_baseline_of_another_machine(run):
    limit = [limits.parsed("latency:5%")]

    def is_timed(baseline, update=False):
        found = gating.taken(
            gating.asked(["net.py:Net"], limit, {"input_size": (3, 8, 8), "time": 0.2}, baseline, update)
        )
        return found.profiles[0].latency.inference is not None

    here = gating._document([Candidate("net.py:Net", analysis=None)], Settings())
    there = replace(here, machine=replace(here.machine, cpu="another CPU"))
    assert [is_timed(None), is_timed(here), is_timed(there, update=True), is_timed(there)] == [True, True, True, False]


def test_a_whole_path_is_looked_for_in_a_checkout(tmp_path):
    for name in ("app", "srv/app"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "app")
    working = Checkout(tmp_path / "app", tmp_path / "app", "")
    there = Checkout(tmp_path / "there", tmp_path / "there", "")

    def moved(file):
        asked = gating.asked([f"a={file}:Net(width=3)@b=2"], [], {"loss": f"{file}:loss"}, None, update=False)
        within = gating._within(asked, working, there)
        return within.models[0][1], within.loss

    elsewhere = f"{tmp_path}/srv/app/net.py"
    for name in ("app", "link"):
        expected = f"a={tmp_path}/there/net.py:Net(width=3)@b=2", f"{tmp_path}/there/net.py:loss"
        assert moved(f"{tmp_path}/{name}/net.py") == expected
    assert moved(elsewhere) == (f"a={elsewhere}:Net(width=3)@b=2", f"{elsewhere}:loss")
    assert moved("net.py") == ("a=net.py:Net(width=3)@b=2", "net.py:loss")


def test_a_device_that_is_not_here_is_left_open():
    cuda = gating._here(Settings(device="cuda:99"))
    assert (cuda.device, gating._here(Settings(device="cpu")).device) == ("auto", "cpu")


def test_a_model_that_brings_other_inputs_is_held_to_its_parameters_alone(run):
    source = NET.replace("    return ", "    net = ", 1) + "    return net, torch.zeros(3, 3, 16, 16)\n"
    Path("net.py").write_text(f"import torch\n{source}")
    assert run("gate", "net.py:Net", "--against", "base.json", *LIMITS, "--update", "--quiet")[0] == 0
    assert json.loads(Path("base.json").read_text())["profiles"][0]["batch_size"] is None
    Path("net.py").write_text(Path("net.py").read_text().replace("zeros(3,", "zeros(6,"))
    code, out, _ = run("gate", "net.py:Net", "--against", "base.json", *LIMITS)
    assert (code, "it was fed otherwise: 3x3x16x16, and now 6x3x16x16" in " ".join(out.split())) == (0, True)


def test_a_model_that_names_the_batch_of_its_inputs_is_held_by_the_image(run):
    source = NET.replace("    return ", "    net = ", 1) + "    return net, torch.zeros(3, 3, 16, 16)\n"
    Path("net.py").write_text(f"import torch\n{source}")
    assert run("gate", "net=net.py:Net@b=3", "--against", "base.json", *LIMITS, "--update", "--quiet")[0] == 0
    assert json.loads(Path("base.json").read_text())["profiles"][0]["batch_size"] == 3
    Path("net.py").write_text(Path("net.py").read_text().replace("zeros(3,", "zeros(6,"))
    code, out, _ = run("gate", "net=net.py:Net@b=6", "--against", "base.json", *LIMITS)
    assert (code, "it was measured otherwise: batch_size 3, and now 6" in " ".join(out.split())) == (0, True)


def test_a_baseline_loses_no_model_and_keeps_no_failure(run):
    arguments = ["net.py:Net", "wide=net.py:Net(width=9)", "--input-size", "3x16x16", "--against", "base.json", *LIMITS]
    assert run("gate", *arguments, "--update", "--quiet")[0] == 0
    before = Path("base.json").read_bytes()
    code, _, err = run("gate", *NET_AT, "--against", "base.json", *LIMITS, "--update")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "holds wide, too" in err
    document = json.loads(Path("base.json").read_text())
    Path("partial.json").write_text(json.dumps(document | {"partial": True}))
    code, _, err = run("gate", "partial.json", "--against", "new.json", *LIMITS, "--update")
    assert (code, "was interrupted" in err) == (2, True)
    Path("net.py").write_text(NET.replace("def Net(width=8):", "def Net(width=8):\n    return Broken()\n") + BROKEN)
    code, _, err = run("gate", *NET_AT, "--against", "new.json", "--fail-on", "latency:5%", "--time", "0.1", "--update")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "not measured to its end" in err
    assert (Path("base.json").read_bytes(), Path("new.json").exists()) == (before, False)


BROKEN = """

class Broken(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 3)

    def forward(self, x):
        if not x.is_meta and type(x).__name__ == "Tensor":
            raise RuntimeError("no such luck")
        return super().forward(x)
"""


def test_a_model_that_fails_on_first_use_does_not_pass(run):
    Path("net.py").write_text(NET.replace("def Net(width=8):", "def Net(width=8):\n    return Broken()\n") + BROKEN)
    code, out, _ = run("gate", *NET_AT, "--against", "base.json", "--fail-on", "latency:5%", "--time", "0.1")
    assert code == 1
    assert "no such luck" in out


def test_a_run_that_is_gated_is_no_place_for_a_report(run):
    run("gate", *NET_AT, "--against", "base.json", *LIMITS, "--update", "--quiet")
    before = Path("base.json").read_bytes()
    Path("run.json").write_bytes(before)
    Path("sub").mkdir()
    for name in ("base.json", "sub/../base.json", "run.json"):
        code, _, err = run("gate", "run.json", "--against", "base.json", *LIMITS, "-o", name)
        assert (code, Path("base.json").read_bytes(), Path("run.json").read_bytes()) == (2, before, before)
        assert "and stays" in err


def test_a_report_that_cannot_be_written_is_said_before_anything_is_run(run):
    Path("file").write_text("")
    code, out, err = run("gate", *NET_AT, "--against", "main", *LIMITS, "-o", "file/gate.md")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_branch_is_one_though_a_file_has_its_name(run):
    Path("main").write_text("no run\n")
    assert run("gate", *NET_AT, "--against", "main", *LIMITS)[0] == 0


def test_a_baseline_of_another_device_still_holds_counts(run):
    run("gate", *NET_AT, "--against", "base.json", *LIMITS, "--update", "--quiet")
    path = Path("base.json")
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    code, out, _ = run("gate", *NET_AT, "--against", "base.json", *LIMITS, "--json")
    verdicts = {each["metric"]: each["verdict"] for each in json.loads(out)["results"]}
    assert (code, verdicts) == (0, {"params": "passed", "macs": "passed", "peak_bytes": "skipped"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[tool.cnnprof]\nmodels = []\nlimits = []\n", "gate lacks a MODEL"),
        ("[[tool.cnnprof]]\n", "a table [tool.cnnprof] was expected"),
    ],
)
def test_a_table_without_anything_in_it_is_refused(run, table, said):
    Path("pyproject.toml").write_text(table)
    code, _, err = run("gate", "--against", "main")
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err


def test_what_is_typed_is_looked_for_where_it_is_typed(run, monkeypatch):
    Path("pyproject.toml").write_text('[tool.cnnprof]\nlimits = ["params:0%"]\nbaseline = "base.json"\n')
    Path("sub").mkdir()
    Path("sub/other.py").write_text(NET)
    monkeypatch.chdir("sub")
    assert run("gate", "other.py:Net", "--input-size", "3x16x16", "--update", "--quiet")[0] == 0
    assert Path("../base.json").is_file()
    assert run("gate", "other.py:Net", "--against", "here.json", "--update", "--quiet", *NET_AT[1:])[0] == 0
    assert Path("here.json").is_file()


@pytest.mark.slow
def test_code_of_elsewhere_is_told_or_refused(run, monkeypatch):
    site = Path("site-packages").resolve()
    site.mkdir()
    Path(".gitignore").write_text("site-packages\n")
    (site / "nets.py").write_text(NET)
    monkeypatch.setenv("PYTHONPATH", str(site))
    arguments = ["nets:Net", "--input-size", "3x16x16", "--against", "main", *LIMITS, "--json"]
    code, out, _ = run("gate", *arguments)
    assert code == 0
    assert [doubt["about"] for doubt in json.loads(out)["doubts"]] == ["nets:Net"]
    assert "both sides are the same code" in json.loads(out)["doubts"][0]["message"]
    Path("src").mkdir()
    Path("src/nets.py").write_text(NET)
    Path("uses.py").write_text("from nets import Net\n")
    git("add", "src", "uses.py")
    code, _, err = run("gate", *arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "nets was imported from where it is installed" in err
    code, out, _ = run("gate", "uses.py:Net", *arguments[1:])
    told = {doubt["about"]: doubt["message"] for doubt in json.loads(out)["doubts"]}
    assert (code, told["nets"]) == (0, "the repository holds it, but it was imported from elsewhere, by both sides")


@pytest.mark.slow
def test_a_model_with_nothing_to_train_has_no_training_step_to_compare(run):
    frozen = NET.replace("    return nn.Sequential", "    return frozen(nn.Sequential").replace(
        "10)\n    )", "10)\n    ))"
    )
    Path("net.py").write_text(frozen + "\ndef frozen(net):\n    return net.requires_grad_(False)\n")
    git("commit", "--quiet", "-am", "frozen")
    limits = ["--fail-on", "training_latency:500%", "--fail-on", "latency:500%", "--time", "1"]
    code, out, _ = run("gate", *NET_AT, "--against", "HEAD", *limits, "--json")
    verdicts = {each["metric"]: each["verdict"] for each in json.loads(out)["results"]}
    assert verdicts.pop("training_latency") == "skipped"
    assert (code, verdicts["latency"]) in {(0, "passed"), (3, "inconclusive")}


@pytest.mark.slow
def test_what_is_compiled_is_compiled_once(run):
    """Sessions of a call that is made anew each time would leave time for three alone."""
    arguments = [*NET_AT, "--compile", "--against", "HEAD", "--fail-on", "latency:500%", "--time", "2", "--json"]
    _, out, _ = run("gate", *arguments)
    (times, *_) = json.loads(out)["times"]
    assert len(times["baseline"]["sessions"]) >= 5


def threads_at_work(pid):
    """Count the threads that have computed for a while in the processes that one has started."""
    found = 0
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # git's end at any moment
            found += sum(each.user_time > 0.5 for each in child.threads())
    return found


@pytest.mark.slow
def test_a_loss_of_the_repository_is_that_of_each_state(run):
    Path("loss.py").write_text("def total(output):\n    return output.sum()\n")
    git("add", "loss.py")
    git("commit", "--quiet", "-m", "a loss")
    Path("sub").mkdir()
    Path("pyproject.toml").write_text(
        '[tool.cnnprof]\nmodels = ["net.py:Net"]\ninput-size = "3x16x16"\nbaseline = "HEAD"\nloss = "loss.py:total"\n'
        'limits = ["training_peak_bytes:0%"]\n'
    )
    root = Path.cwd()
    code, _, err = run("gate")
    assert (code, err) == (0, "")
    for typed in ([], ["--loss", "../loss.py:total"]):
        os.chdir(root / "sub")
        assert run("gate", *typed)[0] == 0


@pytest.mark.slow
def test_ctrl_c_shows_what_was_counted_by_then(run):
    arguments = [
        "gate",
        *NET_AT,
        "--against",
        "HEAD",
        "--fail-on",
        "params:0%",
        "--fail-on",
        "latency:1%",
        "--time",
        "60",
    ]
    # A shell's background jobs ignore SIGINT, and so does what they start: pytest itself may be one.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    starting = f"{heeding}; from cnnprof.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", starting, *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        ends = time.monotonic() + 120
        at_work = 2 * min(2, torch.get_num_threads())  # of the two that measure
        while threads_at_work(process.pid) < at_work and time.monotonic() < ends:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    document = json.loads(out)
    assert (process.returncode, document["partial"]) == (130, True)
    assert "interrupted" in err
    assert {each["metric"]: each["verdict"] for each in document["results"]}["params"] == "passed"
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 1


@pytest.mark.slow
def test_both_processes_are_timed_in_turn(run):
    limits = ["--fail-on", "latency:500%", "--fail-on", "training_latency:500%", "--time", "3"]
    code, out, _ = run("gate", *NET_AT, "--against", "HEAD", *limits, "--json")
    document = json.loads(out)
    assert code in (0, 3)  # a busy machine decides nothing
    assert len(set(document["processes"])) == 2
    assert {times["mode"] for times in document["times"]} == {"inference", "training"}
    for times in document["times"]:
        sides = [
            [start for starts in times[side]["starts_s"] for start in starts] for side in ("baseline", "candidate")
        ]
        order = [side for _, side in sorted((start, side) for side in (0, 1) for start in sides[side])]
        changes = sum(one != other for one, other in pairwise(order))
        assert len(sides[0]) == len(sides[1])
        assert changes >= len(sides[0]) - 1  # a round holds a burst of each


@pytest.mark.slow
def test_a_slower_revision_of_the_same_counts_is_found(run):
    slow = NET.replace("from torch import nn", "import time\nfrom torch import nn") + (
        "\n\nclass Slow(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.net = Net()\n"
        "    def forward(self, x):\n        time.sleep(0.004)\n        return self.net(x)\n"
    )
    fast = slow.replace("        time.sleep(0.004)\n", "")
    Path("net.py").write_text(fast)
    git("commit", "--quiet", "-am", "fast")
    Path("net.py").write_text(slow)
    arguments = ["net.py:Slow", "--input-size", "3x16x16", "--threads", "1", "--time", "3"]
    code, out, _ = run(
        "gate", *arguments, "--against", "HEAD", "--fail-on", "latency:50%", "--fail-on", "macs:0%", "--json"
    )
    by_metric = {each["metric"]: each for each in json.loads(out)["results"]}
    assert by_metric["macs"]["verdict"] == "passed"
    assert (code, by_metric["latency"]["verdict"]) in {
        (1, "failed"),
        (3, "inconclusive"),
    }  # busy machines decide nothing
    if code == 1:
        assert "measured twice" in by_metric["latency"]["message"]
