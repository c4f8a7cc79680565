"""The command line as it is typed: exit codes, what stands where, what bad input is told."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cnnprof import ClassifierTrainer, cli, profiling, store, timing

SMALL = ["--input-size", "256x6x6", "-b", "1", "--time", "0.3"]


@pytest.fixture
def run(typed):
    return typed


def test_compare_writes_and_shows(run):
    code, out, err = run("compare", "regular", "bottleneck", *SMALL)
    assert (code, err) == (0, "")
    assert "1,180,160" in out
    assert "16.9x fewer" in out
    (path,) = Path("reports").glob("*.json")
    assert path.name == "regular-vs-bottleneck-b1-256x6x6-time0.3.json"
    document = json.loads(path.read_text())
    assert document["schema"] == "cnnprof.comparison/1"
    assert document["partial"] is False
    assert document["command"].startswith("cnnprof compare regular bottleneck")
    assert {file.suffix for file in Path("reports").iterdir()} == {".json", ".md", ".html"}
    latency = document["profiles"][1]["latency"]["training"]
    assert len(latency["sessions"]) >= 3
    assert document["profiles"][0]["memory"]["training"]["peak_bytes"] > 1_180_160 * 8
    times = document["profiles"][0]["time"]
    total = sum(row["forward_s"] + row["backward_s"] for row in times["layers"]) + times["remainder_s"]
    assert total == pytest.approx(document["profiles"][0]["latency"]["training"]["median_s"])


def test_json_alone_on_standard_output(run, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nprint('loud')\ndef net():\n    print('louder')\n    return nn.Linear(4, 2)\n"
    )
    code, out, err = run("analyze", "net.py:net", "--input-size", "2x4", "--json")
    assert code == 0
    assert json.loads(out)["totals"]["macs"] == 16
    assert "loud" in err
    options = ["--input-size", "2x4", "--time", "0.2", "--json", "--no-report"]
    code, out, _ = run("compare", "net.py:net", "x=net.py:net", *options)
    assert (code, json.loads(out)["baseline"]) == (0, "net.py:net")
    assert not Path("reports").exists()


def test_outputs_go_where_they_are_asked(run):
    options = ["-b", "1", "--time", "0.2", "-o", "a/x.html", "-o", "y.csv", "--mode", "inference", "--quiet"]
    code, *_ = run("profile", "cnn", *options)
    assert code == 0
    assert sorted(map(str, Path().rglob("*.*"))) == ["a/x.html", "y.csv"]
    assert Path("y.csv").read_text().startswith("model,mode,session,time_s\ncnn,inference,0,")


def test_a_report_of_a_saved_run(run):
    run("compare", "cnn", "small=cnn(channels=[8])", "-b", "1", "--time", "0.2", "-o", "runs/a.json", "--quiet")
    code, out, _ = run("report", "runs/a.json")
    assert code == 0
    assert "runs/a.html  (+ .md)" in out
    assert "821,206" in Path("runs/a.md").read_text()
    code, _, _ = run("report", "runs/a.json", "-o", "elsewhere")
    assert sorted(file.name for file in Path("elsewhere").iterdir()) == ["a.html", "a.json", "a.md"]


def test_two_inputs_from_a_file(run, tmp_path):
    (tmp_path / "two.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Two(nn.Module):\n"
        "    def __init__(self, width):\n        super().__init__()\n        self.a = nn.Linear(8, width)\n"
        "    def forward(self, x, y):\n        return self.a(x + y)\n"
        "def two(width=4):\n    return Two(width), (torch.randn(3, 8), torch.randn(3, 8))\n"
    )
    code, out, err = run("compare", "narrow=two.py:two", "wide=two.py:two(width=16)", "--time", "0.2", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [profile["name"] for profile in document["profiles"]] == ["narrow", "wide"]
    assert document["comparisons"][0]["macs"]["ratio"] == 4
    assert [profile["analysis"]["batch_size"] for profile in document["profiles"]] == [None, None]
    assert document["settings"]["batch_size"] is None


def test_a_loss_from_a_file(run, tmp_path):
    (tmp_path / "loss.py").write_text("def square(output):\n    return (output ** 2).sum()\n")
    options = ["-b", "2", "--time", "0.2", "--json", "--no-report"]
    code, out, _ = run("profile", "cnn", "--loss", "loss.py:square", *options)
    assert (code, json.loads(out)["settings"]["loss"]) == (0, "square")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "regular"], "cnnprof profile"),
        (["compare", "regular", "resnet5O"], "nearest: resnet50"),
        (["compare", "regular", "bottleneck("], "is no MODEL"),
        (["compare", "regular", "bottleneck", "--input-size", "3,224"], "--input-size '3,224'"),
        (["compare", "regular", "bottleneck", "--input-size", "3x0x4"], "--input-size '3x0x4'"),
        (["compare", "regular(channels=256)", "bottleneck", "--input-size", "4x8x8"], "refused its input 1x4x8x8"),
        (["compare", "regular", "bottleneck", "-b", "0"], "batch size 0"),
        (["compare", "regular", "bottleneck", "--threads", "0"], "threads 0"),
        (["compare", "regular", "bottleneck", "--time", "-1"], "time -1.0"),
        (["compare", "regular", "bottleneck", "--ci", "much"], "--ci 'much'"),
        (["compare", "regular", "bottleneck", "--mode", "both"], "inference or training"),
        (["compare", "regular", "bottleneck", "--dtype", "int3"], "dtype 'int3'"),
        (["compare", "regular", "bottleneck", "--device", "tpu"], "device 'tpu'"),
        (["compare", "regular", "bottleneck", "-o", "x.pdf"], "x.pdf"),
        (["compare", "regular", "bottleneck", "-o", "/proc/none"], "cannot be written"),
        (["compare", "regular", "bottleneck", "--loss", "square"], "file.py:name"),
        (["compare", "regular", "bottleneck", "--nonsense"], "--nonsense"),
        (["profile", "nowhere.py:Net"], "no file nowhere.py"),
        (["analyze", "cnn", "--depth", "0"], "depth 0"),
        (["analyze", "cnn", "--sort", "age"], "sort 'age'"),
        (["analyze", "torch.nn:ReLU"], "does not say what it is fed"),
        (["analyze", "cnn", "--input-size", "3x1000000000x1000000000"], "more elements than a tensor can hold"),
        (["analyze", "resnet18(weights='DEFAULT')"], "weights would be downloaded"),
        (["analyze", "timm:resnet18(pretrained=True)"], "pretrained would be downloaded"),
        (["profile", "cnn", "--time", "inf"], "time inf"),
        (["profile", "cnn", "--seed", "9" * 30], "seed 999"),
        (["profile", "cnn", "-o", ""], "-o ''"),
        (["profile", "cnn", "-o", "-"], "--json writes to stdout"),
        (["profile", "cnn", "-o", ".json"], "-o '.json'"),
        (["analyze", "torch.nn:Linear(4,2)", "--input-size", "5"], "refused its input 1x3x5x5"),
        (["models", "zzzz"], "'zzzz'"),
        (["report", "none.json"], "cannot be read"),
        (["train", "cnn", "--lr", "nan"], "lr nan: a finite number was expected"),
        (["train", "cnn", "--lr", "inf"], "lr inf: a finite number was expected"),
        (["train", "cnn", "--lr", "-1"], "optimizer 'adam(lr=-1.0)': Adam refuses it: Invalid learning rate: -1.0"),
        (["train", "cnn", "--epochs", "3", "--seconds", "5"], "3 epochs and 5 s were asked for: a run ends after one"),
        (["train", "cnn", "--checkpoints", __file__], "test_cli.py is a file; a folder was expected"),
        (["frobnicate"], "No such command 'frobnicate'; see"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, said):
    code, _, err = run(*arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("cnnprof: ")
    assert not list(Path().glob("reports/*.json"))


def test_without_a_command_it_says_what_there_is(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Usage: cnnprof" in err
    assert all(command in err for command in ("compare", "profile", "analyze", "models", "report"))


def test_a_folder_may_be_new(run):
    assert run("analyze", "cnn", "--quiet", "-o", "new.dir/")[0] == 0
    assert {path.name for path in Path("new.dir").iterdir()} == {"cnn.json", "cnn.md", "cnn.html"}


def test_out_of_memory_is_one_line(run):
    code, out, err = run("profile", "cnn", "-b", "100000000000", "--time", "0.2")
    assert code == 2
    assert err.count("\n") == 1
    assert "inference and training: RuntimeError: " in err
    assert "821,206" in out


def test_ctrl_c_before_measuring(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(profiling, "analyzed", interrupted)
    assert run("compare", "cnn", "x=cnn") == (130, "", "cnnprof: interrupted before anything was measured\n")


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [("> /dev/full", 2, "standard output cannot be written: No space left"), (">&-", 0, ""), ("| true", 0, "")],
)
def test_standard_output_that_takes_nothing(redirection, code, said):
    command = f"set -o pipefail; {sys.executable} -m cnnprof models {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(run):
    code, _, err = run("profile", "cnn", "--device", "cuda")
    assert code == 2
    assert "finds none here; use cpu" in err


def test_a_model_that_fails_half_way_leaves_the_others_saved(run, tmp_path):
    (tmp_path / "bad.py").write_text(
        "from torch import nn\n"
        "class Bad(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        if self.training:\n            raise MemoryError('too large')\n"
        "        return self.a(x)\n"
        "class Good(Bad):\n    def forward(self, x):\n        return self.a(x)\n"
    )
    code, _, err = run(
        "compare", "good=bad.py:Good", "bad=bad.py:Bad", "other=bad.py:Good", "--input-size", "2x4", "--time", "0.3"
    )  # fmt: skip
    assert code == 2
    assert err == "cnnprof: bad: its measurement stopped: training: MemoryError: too large; the rest is saved\n"
    (path,) = Path("reports").glob("*.json")
    document = json.loads(path.read_text())
    assert document["profiles"][1]["failure"]
    assert document["profiles"][1]["latency"]["inference"]["median_s"] > 0
    assert document["comparisons"][1]["training_latency"] is not None  # without a ratio where the machine is busy
    assert document["profiles"][2]["latency"]["training"]["median_s"] > 0


TRAIN = ["train", "cnn(in_size=(1, 8, 8), channels=[4])", "--data", "fake", "--seeds", "1", "--quiet"]


def test_a_checkpoint_that_could_not_be_written_is_told(run, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = run(*TRAIN, "--epochs", "2")
    assert (code, out) == (0, "")
    told = rf"cnnprof: {re.escape(TRAIN[1])}, seed 42: checkpoints/\S+\.pt: epoch 2 was not saved: No space .*\n"
    assert re.fullmatch(told, err)


@pytest.mark.parametrize(
    ("epochs", "said"),
    [(0, " before an epoch was finished"), (1, ": the same command goes on from the last whole epochs")],
)
def test_ctrl_c_says_what_there_is_to_go_on_from(run, monkeypatch, epochs, said):
    honest = ClassifierTrainer._train

    def until(trainer, dl, max_batches, verbose, number, time_s):
        if number > epochs:
            raise KeyboardInterrupt
        return honest(trainer, dl, max_batches, verbose, number, time_s)

    monkeypatch.setattr(ClassifierTrainer, "_train", until)
    assert run(*TRAIN) == (130, "", f"cnnprof: interrupted{said}\n")


def test_ctrl_c_saves_what_was_measured(run, monkeypatch):
    sessions = []
    whole = timing._by_mode

    def interrupting(name, measured):
        sessions.append(len(measured))
        if sessions[-1] > 1:
            raise KeyboardInterrupt
        return whole(name, measured)

    monkeypatch.setattr(timing, "_by_mode", interrupting)
    code, _, err = run("compare", "cnn", "small=cnn(channels=[8])", "-b", "1", "--time", "0.3", "-o", "out")
    assert code == 130
    assert "marked partial" in err
    document = json.loads(next(Path("out").glob("*.partial.json")).read_text())
    assert document["partial"] is True
    assert len(document["profiles"][0]["latency"]["inference"]["sessions"]) == 1
    assert any("interrupted" in doubt["message"] for doubt in document["doubts"])


def test_a_kill_leaves_the_sessions_measured_so_far(run, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(profiling, "_looked_into", killed)
    monkeypatch.setattr(sys, "argv", ["cnnprof", "compare", "cnn", "x=cnn", "-b", "1", "--time", "0.3", "-o", "out"])
    with pytest.raises(Killed):
        cli.main()
    (path,) = Path("out").iterdir()
    assert path.name.endswith(".partial.json")
    assert len(store.read(path).profiles[0].latency.inference.sessions) >= 3


def test_strict_is_exit_code_1(run, tmp_path):
    (tmp_path / "fft.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Fft(nn.Module):\n    def forward(self, x):\n        return torch.fft.rfft2(x).real\n"
    )
    code, out, err = run("analyze", "fft.py:Fft", "--input-size", "1x8x8", "--strict")
    assert code == 1
    assert "1 operator not counted" in err
    assert "1 operator not counted" in out
    assert run("analyze", "fft.py:Fft", "--input-size", "1x8x8")[0] == 0
    assert run("analyze", "cnn", "--strict")[0] == 0


def test_the_tree_folds_equal_children(run):
    code, out, _ = run("analyze", "resnet50")
    assert code == 0
    assert "layer1  3 x Bottleneck" in out
    assert "25,557,032" in out
    assert "Everything counted." in out
    assert all(len(line) <= 80 for line in out.splitlines())
    first, second = (run("analyze", "resnet50", "--sort", "params")[1].splitlines()[i].split()[0] for i in (3, 4))
    assert (first, second) == ("layer4", "layer3")


def test_a_second_opinion(run):
    code, out, err = run("analyze", "resnet50", "--cross-check")
    assert (code, err) == (0, "")
    assert "fvcore says 4.112 G: the same + batch norm 0.022 + pooling 0.0001" in out
    assert "unexplained" not in out
    code, out, err = run("analyze", "cnn", "--explain", "fvcore", "-o", "x.html", "-o", "x.md", "-o", "x.json")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["unexplained", "0"] in rows
    assert ["fvcore", "less", "cnnprof", "0"] in rows
    assert all("fvcore says 1.705 M: the same" in Path(f"x.{suffix}").read_text() for suffix in ("html", "md"))
    assert json.loads(Path("x.json").read_text())["opinions"][0]["unexplained"] == 0
    assert run("analyze", "cnn", "--explain", "thop")[0] == 2


def test_forward_and_backward(run):
    code, out, err = run("analyze", "bottleneck", "--mode", "training", "--json")
    assert (code, err) == (0, "")
    totals = json.loads(out)["totals"]
    # the first 1x1 convolution's input, 256x56x56, needs no gradient
    assert totals["weight_gradient_macs"] == 218_365_952
    assert totals["input_gradient_macs"] == 218_365_952 - 256 * 64 * 56 * 56
    assert run("analyze", "cnn", "--mode", "both")[0] == 2
    assert run("analyze", "cnn", "--mode", "training", "--cross-check")[0] == 2


def test_models(run):
    code, out, _ = run("models")
    assert code == 0
    assert "regular" in out
    assert "25,557,032" in out
    assert "timm" not in out
    assert "resnet50d" in run("models", "RESNET50*")[1] or not pytest.importorskip("timm")


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_what_needs_no_torch_does_not_import_it(tmp_path, run):
    run("compare", "cnn", "x=cnn", "-b", "1", "--time", "0.2", "-o", "a.json", "--quiet")
    code = (
        "import sys\nfrom cnnprof import cli\n"
        "for text in ('--help', 'compare --help', '--version', 'models res*', 'report a.json'):\n"
        "    sys.argv = ['cnnprof', *text.split()]\n"
        "    try:\n        cli.main()\n    except SystemExit as done:\n        assert not done.code, done.code\n"
        "print('torch' in sys.modules, 'torchvision' in sys.modules, 'timm' in sys.modules)\n"
    )
    out, err = python(code)
    assert out.splitlines()[-1] == "False False False"
    assert err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [[sys.executable, "-m", "cnnprof"], [str(Path(sys.executable).with_name("cnnprof"))]], ids=["-m", "script"]
)
def test_both_ways_to_start_it(start):
    done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("cnnprof 0.1.0\n", "")


def test_settings_of_candidates(run):
    code, out, err = run(
        "compare", "cnn", "cnn@bf16", "cnn@b=2,threads=1", "-b", "1", "--mode", "inference", "--time", "0.3", "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    plain, narrow, larger = document["profiles"]
    assert [profile["batch_size"] for profile in document["profiles"]] == [1, 1, 2]
    assert narrow["settings"]["dtype"] == "bfloat16"
    assert larger["settings"] | {"threads": 1, "batch_size": 2} == larger["settings"]
    assert narrow["memory"]["inference"]["before_bytes"] * 2 == plain["memory"]["inference"]["before_bytes"]
    assert any("per image" in doubt["message"] for doubt in document["doubts"])


def test_several_values_of_an_option(run):
    code, out, err = run(
        "profile", "cnn", "--over", "batch-size=1,2,4", "--mode", "inference", "--time", "0.3", "-o", "over.html",
        "-o", "over.md"
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "images / s" in Path("over.md").read_text()
    page = Path("over.html").read_text()
    assert "Time and throughput over the batch size" in page
    assert "images in a batch" in page
    code, out, _ = run(
        "compare", "cnn", "--over", "channels=[8],[16]", "--time", "0.2", "--mode", "inference", "--json"
    )
    assert [profile["name"] for profile in json.loads(out)["profiles"]] == ["cnn(channels=[8])", "cnn(channels=[16])"]
    for wrong in ("batch-size", "=1", "b="):
        code, _, err = run("profile", "cnn", "--over", wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert "NAME=VALUE,VALUE was expected" in err


def test_many_candidates_stand_one_below_the_other(run):
    names = ["cnn", "cnn@bf16", "cnn@threads=1", "b=cnn(channels=[16])"]
    code, out, _ = run("compare", *names, "-b", "1", "--mode", "inference", "--time", "0.3", "--no-report")
    assert code == 0
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in ("cnn@bf16", "cnn@threads=1"))


@pytest.mark.slow
def test_sessions_in_processes_of_their_own(run):
    options = ["-b", "1", "--mode", "inference", "--time", "0.2", "--processes", "--json"]
    code, out, err = run("compare", "cnn", "small=cnn(channels=[8])", *options)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["settings"]["processes"] is True
    assert len(document["profiles"][0]["latency"]["inference"]["sessions"]) >= 3


def test_a_trace_is_saved(run):
    options = ["--mode", "inference", "--time", "0.1", "--no-report"]
    code, _, err = run("profile", "cnn", "-b", "1", "--trace", "trace.json", *options)
    assert (code, err) == (0, "")
    names = {event["name"] for event in json.loads(Path("trace.json").read_text())["traceEvents"]}
    assert {"aten::conv2d", "cnnprof.module:feature_extractor.0"} <= names


def test_a_network_whose_output_is_not_a_number(run, tmp_path):
    (tmp_path / "nan.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Nan(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.linear = nn.Linear(4, 4)\n"
        "    def forward(self, x):\n        return self.linear(x) * float('nan')\n"
    )
    code, out, _ = run(
        "profile", "nan.py:Nan", "--input-size", "4x1x4", "-b", "2", "--time", "0.1", "--no-report", "--json"
    )
    assert code == 0
    doubts = [doubt["message"] for doubt in json.loads(out)["doubts"]]
    assert any("output holds NaN" in doubt for doubt in doubts)
    assert any("loss holds NaN" in doubt for doubt in doubts)
