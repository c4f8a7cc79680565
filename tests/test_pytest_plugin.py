"""pytest's plugin: what the fixture stores, what limits let pass, and that nothing of it is there without its peer."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.special  # noqa: F401  # pytester forgets what its runs were the first to import; this cannot come twice
from torch import nn

from cnnprof import benchmarked, machine, profiling, rounds, statistics, store
from cnnprof.comparison.benchmarks import held
from cnnprof.comparison.limits import parsed
from cnnprof.errors import UsageError
from cnnprof.measurement import latency
from cnnprof.records import Benchmark, ByMode, Candidate, Gate, Latency, Memory, Reference, Settings
from cnnprof.reporting import load, terminal  # noqa: F401
from cnnprof.reporting.benchmarks import sentences
from cnnprof.steps import Step

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
NET = """
from torch import nn
def net(channels={channels}):
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * channels, 2))
"""
TEST = """
def test_net(cnnprof_benchmark):
    cnnprof_benchmark("net.py:net", (3, 8, 8), batch_size=2, threads=1)
"""
CONFTEST = """
def pytest_benchmark_generate_machine_info():
    return {"cpu": {"brand_raw": "a processor"}, "system": "Linux", "release": "6", "python_version": "3.11.7"}
"""
PARAMS = {channels: 3 * channels * 9 + channels + 64 * channels * 2 + 2 for channels in (4, 5)}
MACS = 64 * 4 * 27 + 64 * 4 * 2
BENCHMARK, PLUGIN = ("-p", "pytest_benchmark.plugin"), ("-p", "cnnprof.pytest_plugin")


class Suite:
    """A folder with a network and its test."""

    def __init__(self, pytester):
        self.pytester, self.folder = pytester, pytester.path

    def __call__(self, *arguments, plugins=(*PLUGIN, *BENCHMARK)):
        """Run pytest there."""
        few = ("--benchmark-max-time=0.01",) if "pytest_benchmark.plugin" in plugins else ()
        return self.pytester.runpytest_inprocess("-W", "default", *plugins, *few, *arguments)

    @property
    def stored(self) -> list[Path]:
        return sorted(self.folder.glob(".benchmarks/*/*.json"))

    def was_stored(self, change=lambda found: None) -> None:
        """Store what an earlier run of the same left, changed."""
        if not _stored:
            assert self("--benchmark-autosave").ret == 0
            (first,) = self.stored
            _stored.append((first.relative_to(self.folder), first.read_text()))
        path, text = _stored[0]
        document = json.loads(text)
        change(document["benchmarks"][0]["extra_info"]["cnnprof"])
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(json.dumps(document))

    def write(self, **files: str) -> None:
        self.pytester.makepyfile(**files)


_stored: list[tuple[Path, str]] = []
"""Written once: every run of pytest takes a second."""


@pytest.fixture
def suite(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(latency, "WARM_UP_S", 0.0)
    monkeypatch.setattr(rounds, "_waited_share", lambda begin, end: 0.0)  # whatever else runs here
    pytester.makepyfile(net=NET.format(channels=4), test_it=TEST)
    pytester.makeconftest(CONFTEST)
    return Suite(pytester)


# What is there, and when ---------------------------------------------------------------------------------------------


def in_new_process(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_pytest_loads_the_plugin_without_torch(tmp_path):
    plugins = ["-p", "cnnprof.pytest_plugin", "-p", "pytest_benchmark.plugin"]
    code = f"import sys, pytest; pytest.main({[*plugins, '--fixtures']}); print('torch' in sys.modules)"
    done = in_new_process(code, tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "cnnprof_benchmark" in done.stdout
    assert done.stdout.endswith("False\n")


def test_pytest_finds_the_plugin_by_its_entry_point(tmp_path):
    info = tmp_path / "site" / "cnnprof_plugin-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cnnprof-plugin\nVersion: 1\n")
    entry = (ROOT / "pyproject.toml").read_text().partition("[project.entry-points.pytest11]\n")[2].partition("\n")[0]
    (info / "entry_points.txt").write_text(f"[pytest11]\n{entry}\n".replace('"', ""))
    code = "import pytest; raise SystemExit(pytest.main(['--fixtures', '-W', 'error']))"
    done = in_new_process(code, tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{info.parent}")
    assert "cnnprof_benchmark" in done.stdout
    assert done.returncode == 0


def test_without_pytest_benchmark_nothing_of_it_is_there(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    code = (
        "import sys, pytest; sys.modules['pytest_benchmark'] = None\n"
        "raise SystemExit(pytest.main(['-p', 'cnnprof.pytest_plugin', '-W', 'error']))"
    )
    done = in_new_process(code, tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert (done.returncode, "1 passed" in done.stdout) == (0, True)


def test_where_pytest_benchmark_is_turned_off_nothing_of_it_is_there(suite):
    assert "cnnprof_benchmark" not in suite("--fixtures", plugins=PLUGIN).stdout.str()
    assert "unrecognized arguments: --cnnprof" in suite("--cnnprof-fail-on=params:0%", plugins=PLUGIN).stderr.str()


@pytest.mark.parametrize("plugins", [(*PLUGIN, *BENCHMARK), (*BENCHMARK, *PLUGIN)])
def test_plugins_may_come_in_any_order(suite, plugins):
    assert "cnnprof_benchmark" in suite("--fixtures", plugins=plugins).stdout.str()


def test_a_conftest_may_name_the_plugin(suite):
    suite.write(conftest='pytest_plugins = ["cnnprof.pytest_plugin"]')
    assert suite("--cnnprof-fail-on=params:0%", "--benchmark-disable", plugins=BENCHMARK).ret == 0


# What the fixture stores ---------------------------------------------------------------------------------------------


def test_the_fixture_stores_what_was_found(suite):
    suite.was_stored()
    document = json.loads(suite.stored[0].read_text())["benchmarks"][0]
    found = document["extra_info"]["cnnprof"]
    assert document["extra_info"].items() >= {name: found[name] for name in ("params", "macs", "peak_bytes")}.items()
    assert document["extra_info"]["machine"] == found["machine"]
    assert found["schema"] == "cnnprof.benchmark/1"
    assert (found["model"], found["mode"], found["input_size"]) == ("net.py:net", "inference", [3, 8, 8])
    assert (found["batch_size"], found["settings"]["threads"]) == (2, 1)
    assert (found["params"], found["macs"]) == (PARAMS[4], MACS)
    assert found["peak_bytes"] >= 4 * (PARAMS[4] + 2 * 3 * 64 + 2 * 4 * 64)  # weights, images, the first output
    sessions = [times[0] for times in found["profile"]["latency"]["inference"]["sessions"]]
    assert len(sessions) == 5
    assert document["stats"]["min"] <= min(sessions) <= document["stats"]["median"] <= max(sessions)
    assert document["stats"]["rounds"] % 5 == 0
    of_reference = sorted(found["reference"]["times_s"])
    assert len(of_reference) == 6
    between = (of_reference[2] + of_reference[3]) / 2
    assert found["reference_ratio"] == pytest.approx(sorted(sessions)[2] / between)
    assert 0 < found["cpu_share"] < 1.5
    assert found["got_share"] == 1
    assert found["machine"]["cpu"] == machine.describe().cpu
    again = store.part_of(found, "it")
    assert isinstance(again, Benchmark)
    assert store.as_part(again) == found


def test_modules_training_steps_and_marks_are_taken_too(suite):
    suite.write(
        test_it="import pytest\nimport torch\nfrom torch import nn\n"
        "@pytest.mark.benchmark(max_time=0.001, min_rounds=10)\n"
        "def test_net(cnnprof_benchmark, benchmark):\n"
        "    cnnprof_benchmark(nn.Conv2d(3, 4, 3), (3, 8, 8), mode='training', batch_size=1)\n"
        "    found = benchmark.extra_info['cnnprof']\n"
        "    assert (found['mode'], found['model'], found['params']) == ('training', 'Conv2d', 112)\n"
        "    assert benchmark.stats['rounds'] >= 10\n"
        "    assert benchmark.stats['rounds'] % 5 == 0\n"
        "def test_inputs(cnnprof_benchmark, benchmark):\n"
        "    cnnprof_benchmark(nn.Linear(3, 4), inputs=(torch.rand(5, 3),))\n"
        "    found = benchmark.extra_info['cnnprof']\n"
        "    assert (found['batch_size'], found['macs'], found['input_size']) == (None, 60, None)\n"
        "def test_inputs_of_a_batch(cnnprof_benchmark, benchmark):\n"
        "    cnnprof_benchmark(nn.Linear(3, 4), inputs=(torch.rand(5, 3),), batch_size=5)\n"
        "    found = benchmark.extra_info['cnnprof']\n"
        "    assert (found['batch_size'], found['macs'], found['input_size']) == (5, 12, None)\n"
    )
    suite().assert_outcomes(passed=3)


GROWING = """
import time
import pytest
from torch import nn

class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(8, 2), []

    def forward(self, x):
        if not x.is_meta:
            self.seen.append(1)
            time.sleep(2e-3 * len(self.seen))
        return self.linear(x)

@pytest.mark.benchmark(max_time=0.001, min_rounds=100)
def test_grows(cnnprof_benchmark):
    cnnprof_benchmark(Growing(), (8,), batch_size=2, threads=1)
"""


def test_a_time_that_grows_with_each_call_is_told(suite):
    """Two milliseconds a call, in twenty rounds a session: far more than a busy machine adds."""
    suite.write(test_it=GROWING)
    result = suite("--benchmark-autosave")
    result.assert_outcomes(passed=1)
    said = next(line for line in result.stdout.lines if line.startswith("test_grows: its time grows with each call"))
    assert "over the 20 calls of a session" in said
    again = suite("--cnnprof-fail-on", "latency:5%", "--cnnprof-inconclusive", "fail")
    assert again.ret == 1
    found = " ".join(again.stdout.str().split())
    assert "1 inconclusive" in found
    assert "no single number stands for it" in found
    (stored,) = json.loads(suite.stored[-1].read_text())["benchmarks"]
    stretches = stored["extra_info"]["cnnprof"]["profile"]["latency"]["inference"]["stretches_s"]
    assert [len(session) for session in stretches] == [rounds.STRETCHES] * 5
    report = benchmarked.together([(suite.stored[-1], load(suite.stored[-1]))])
    assert any("its time grows with each call" in sentence for sentence in sentences(report))


def test_where_benchmarks_are_disabled_the_model_runs_once(suite):
    suite.write(
        test_it="from torch import nn\n"
        "calls = []\n"
        "class Counted(nn.Module):\n"
        "    def forward(self, x):\n"
        "        calls.append(x.shape)\n"
        "        return x\n"
        "def test_net(cnnprof_benchmark, benchmark):\n"
        "    cnnprof_benchmark(Counted(), (3, 8, 8), batch_size=2)\n"
        "    assert (calls, benchmark.extra_info) == ([(2, 3, 8, 8)], {})\n"
    )
    result = suite("--benchmark-disable", "--cnnprof-fail-on=params:0%")
    result.assert_outcomes(passed=1)
    assert result.ret == 0


def test_benchmarks_may_be_skipped_or_all_there_is(suite):
    suite.write(test_other="def test_other(): pass")
    suite("--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    suite("--benchmark-only").assert_outcomes(passed=1, skipped=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('"no_such_net"', "no_such_net"),
        ('"net.py:net", (3, 8, 8), thread=1', "has no setting 'thread'; there are accumulate, allocator"),
        ('"net.py:net", (3, 8, 8), mode="both"', "inference or training was expected"),
        ('"net.py:net", (3, 8, 8), dtype="float31"', "dtype 'float31'"),
        ('nn.ReLU(), (3, 8, 8), mode="training"', "ReLU has no parameters that a training step would train"),
    ],
)
def test_what_cannot_be_timed_fails_in_one_line(suite, call, said):
    suite.write(test_it=f"from torch import nn\ndef test_net(cnnprof_benchmark):\n    cnnprof_benchmark({call})\n")
    result = suite()
    result.assert_outcomes(failed=1)
    lines = result.stdout.lines
    place = next(place for place, line in enumerate(lines) if "___ test_net ___" in line)
    assert said in lines[place + 1]
    assert lines[place + 2].startswith("====")


class FakeFixture:
    """pytest-benchmark's fixture on a clock that only moves when told."""

    disabled = False

    def __init__(self, clock):
        self.clock, self.stats = clock, self
        self.stats.data = []

    def pedantic(self, target, setup, rounds):
        for _ in range(rounds):
            setup()
            started = self.clock.wall
            target()
            self.data.append(self.clock.wall - started)


def test_a_session_is_built_anew_and_has_its_own_account(fake_clock, monkeypatch):
    monkeypatch.setattr(rounds, "_reference", lambda device: lambda: fake_clock.spend(0.5))
    built = []

    def make() -> Step:
        number = len(built)
        built.append(number)
        return Step(lambda: fake_clock.spend(0.1 * number if number else 0.1), None, iter, lambda: None)

    fake_clock.share = 0.75
    sessions = rounds._Sessions(make, Settings(), fake_clock.clock())
    found = sessions.run(FakeFixture(fake_clock), seconds=1.0, least_rounds=5)
    assert built == [0, 1, 2, 3, 4, 5]  # the first one says how long a round takes: 0.1 s, so that 10 rounds are made
    assert [times[0] for times in found.sessions] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.cpu_shares == pytest.approx([0.75] * 5)
    assert found.waited_shares == pytest.approx([0.25] * 5)
    assert sessions.reference_s == pytest.approx([0.5] * 6)


# Limits --------------------------------------------------------------------------------------------------------------


def test_one_more_channel_fails_and_names_the_model(suite):
    suite.was_stored()
    suite.write(net=NET.format(channels=5))
    result = suite("--benchmark-autosave", "--benchmark-compare", "--cnnprof-fail-on=params:0%")
    assert result.ret == 1
    result.assert_outcomes(passed=1)
    before, now = PARAMS[4], PARAMS[5]
    growth = f"{100 * (now / before - 1):+.1f} %"
    text = " ".join(result.stdout.str().split())
    told = f"net.py:net in test_net, parameters: {growth}, from {before} to {now}; none is allowed; most in layer 3."
    assert told in text
    assert suite("--cnnprof-fail-on=params:0%").ret == 0  # the last stored run is the one that has just been stored
    assert suite("--cnnprof-fail-on=params:0%", "--benchmark-compare=0001").ret == 1


def test_what_did_not_change_passes(suite):
    suite.was_stored()
    result = suite("--cnnprof-fail-on=params:0%", "--cnnprof-fail-on=macs:0%", "--cnnprof-fail-on=peak-bytes:0%")
    assert result.ret == 0
    assert "Passed: 3 passed." in result.stdout.str()


def test_without_a_stored_run_everything_passes_and_it_is_said(suite):
    result = suite("--benchmark-autosave", "--cnnprof-fail-on=params:0%")
    assert result.ret == 0
    assert "no stored run holds these models: every number passes; --benchmark-autosave" in result.stdout.str()


def test_times_of_another_machine_are_not_compared_but_counts_are(suite):
    def elsewhere(found):
        found["machine"]["cpu"] = "another"
        found["profile"]["latency"]["inference"]["sessions"] = [[1e-9]] * 5

    suite.was_stored(elsewhere)
    suite.write(net=NET.format(channels=5))
    result = suite("--cnnprof-fail-on=latency:5%", "--cnnprof-fail-on=params:0%")
    assert result.ret == 1
    assert "Not passed: 1 failed, 1 skipped." in result.stdout.str()


@pytest.mark.parametrize(("option", "code"), [("pass", 0), ("fail", 1)])
def test_an_inconclusive_time_passes_unless_it_is_to_fail(suite, option, code):
    def starved(found):
        found["profile"]["latency"]["inference"]["waited_shares"] = [0.4] * 5

    suite.was_stored(starved)
    result = suite("--cnnprof-fail-on=latency:10%", f"--cnnprof-inconclusive={option}")
    assert result.ret == code
    said = " ".join(result.stdout.str().split())
    assert "the process did not get its CPUs, then or now; close other programs" in said
    assert "threads=1" not in said  # which the test has


@pytest.mark.parametrize("limit", ["params", "parms:5%", "params:-1%"])
def test_a_limit_that_cannot_be_read_is_wrong_usage_in_one_line(suite, limit):
    result = suite(f"--cnnprof-fail-on={limit}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.stderr.lines if line]
    assert len(lines) == 1
    assert f"limit '{limit}'" in lines[0]


def test_a_stored_run_of_another_schema_is_refused_in_one_line(suite):
    suite.was_stored(lambda found: found.update(schema="cnnprof.benchmark/9"))
    result = suite("--cnnprof-fail-on=params:0%")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cnnprof.benchmark/9 is not of this cnnprof" in result.stderr.str()


def test_a_stored_model_that_cannot_be_read_is_told(suite):
    suite.was_stored(lambda found: found["reference"].update(times_s=[float("nan")]))
    result = suite("--cnnprof-fail-on=params:0%")
    assert result.ret == 0
    text = " ".join(result.stdout.str().split())
    assert "times_s is nan, not a finite number: its model is left out, its times are kept" in text
    assert "no stored run holds these models" in text


def test_a_limit_on_layers_that_are_not_there_is_wrong_usage(suite):
    suite.was_stored()
    result = suite("--cnnprof-fail-on=net.py:net/7/params:0%")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no model, test or layer of that name has one" in " ".join(result.stdout.str().split())


@pytest.mark.parametrize("first", ["benchmark(sum, [1])", "cnnprof_benchmark('net.py:net', (3, 8, 8))"])
def test_a_second_model_in_one_test_is_refused_in_a_line(suite, first):
    (suite.folder / "test_it.py").write_text(
        f"def test_net(benchmark, cnnprof_benchmark):\n    {first}\n    cnnprof_benchmark('net.py:net', (3, 8, 8))\n"
    )
    result = suite()
    result.assert_outcomes(failed=1)
    assert "this test has timed something already" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    assert "rounds.py" not in result.stdout.str()


def test_a_stored_run_that_is_not_there_is_wrong_usage(suite):
    suite.was_stored()
    result = suite("--cnnprof-fail-on=params:0%", "--benchmark-compare=0042")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--benchmark-compare=0042: no stored run goes by that" in result.stderr.str()


def test_a_later_run_without_the_model_leaves_its_last_one(suite):
    suite.was_stored()
    suite.write(net=NET.format(channels=5), test_it=f"{TEST}\ndef test_other(benchmark): benchmark(int)\n")
    assert suite("--benchmark-autosave", "-k", "other").ret == 0
    result = suite("--cnnprof-fail-on=params:0%")
    assert result.ret == 1
    assert "against 0001_" in result.stdout.str()


def test_a_limit_on_layers_holds_for_the_tests_whose_models_have_them(suite):
    suite.write(
        test_it=f"{TEST}\nfrom torch import nn\n"
        "def test_flat(cnnprof_benchmark): cnnprof_benchmark(nn.Linear(3, 4), (3,))\n"
    )
    assert suite("--benchmark-autosave").ret == 0
    suite.write(net=NET.format(channels=5))
    result = suite("--cnnprof-fail-on=*/3/params:0%")
    assert result.ret == 1
    assert "Not passed: 1 failed." in result.stdout.str()


def test_macs_that_are_not_counted_are_told_and_do_not_pass(suite):
    def uncounted(found):
        found["profile"]["analysis"]["uncounted"] = []

    suite.was_stored(uncounted)
    suite.write(
        net="import torch\n" + NET.format(channels=4) + "class Odd(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = plain()\n"
        "    def forward(self, x):\n        return self.net(torch.fft.fft(x).real)\n"
    )
    source = (suite.folder / "net.py").read_text()
    (suite.folder / "net.py").write_text(f"{source.replace('def net(', 'def plain(')}\ndef net():\n    return Odd()\n")
    result = suite("--cnnprof-fail-on=macs:0%")
    assert result.ret == 1
    assert "is not counted" in result.stdout.str()


def test_a_clock_that_is_none_of_the_wall_is_refused(suite):
    result = suite("--benchmark-timer=time.process_time", "-W", "error")
    result.assert_outcomes(failed=1)
    assert "timer process_time: a wall clock" in result.stdout.str()


@pytest.mark.parametrize(
    "options",
    [
        ("--benchmark-json=out.json", "--benchmark-save=named", "--benchmark-save-data"),
        ("--benchmark-cprofile=tottime", "--benchmark-cprofile-loops=3", "--benchmark-disable-gc"),
        ("--benchmark-compare", "--benchmark-compare-fail=min:500000%", "--benchmark-group-by=func"),
        ("--benchmark-columns=median,iqr", "--benchmark-sort=name", "--benchmark-time-unit=us", "--benchmark-verbose"),
        ("--benchmark-min-rounds=997", "--benchmark-warmup=on", "--benchmark-timer=time.time"),
        ("--benchmark-enable", "--benchmark-disable", "--benchmark-storage=elsewhere"),
    ],
)
def test_options_of_pytest_benchmark_hold_beside_ours(suite, options):
    suite.was_stored()
    result = suite("--benchmark-autosave", "--cnnprof-fail-on=params:0%", "--cnnprof-fail-on=macs:0%", *options)
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    if "--benchmark-json=out.json" in options:
        (stored,) = json.loads((suite.folder / "out.json").read_text())["benchmarks"]
        assert stored["extra_info"]["params"] == PARAMS[4]
        assert len(stored["stats"]["data"]) == stored["stats"]["rounds"]
        assert any("named" in path.name for path in suite.stored)
    if "--benchmark-min-rounds=997" in options:
        (stored,) = json.loads(suite.stored[-1].read_text())["benchmarks"]
        assert stored["stats"]["rounds"] == 1000  # a tenth of them is what its time is enough for


def benchmark(channels: int, median_s: float = 0.01) -> Benchmark:
    """A hand-made one: five sessions that differ by 1 %."""
    net = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * channels, 2))
    times = tuple((median_s * mood,) for mood in (0.99, 0.995, 1.0, 1.005, 1.01))
    found = Candidate(
        "net", profiling.analyze(net, (3, 8, 8)), latency=ByMode(Latency(times, waited_shares=(0.0,) * 5)), batch_size=2
    )
    reference = Reference("a product/1", (0.002,) * 6)
    return Benchmark(found, "inference", Settings(batch_size=2), machine.describe(), reference)


def judged(limit: str, before: Benchmark, now: Benchmark) -> Gate:
    return held([parsed(limit)], {"test_it.py::test_net[a]": before}, {"test_it.py::test_net[a]": now}, "a run", "pass")


@pytest.mark.parametrize(
    ("limit", "verdicts"),
    [
        ("params:0%", ["failed"]),
        ("params:100%", ["passed"]),
        ("net/params:0%", ["failed"]),
        ("n*/params:0%", ["failed"]),
        ("test_n*/params:0%", ["failed"]),
        ("test_net[a]/params:0%", ["failed"]),
        ("net/0/params:0%", ["failed"]),
        ("test_net*/0/params:0%", ["failed"]),
        ("test_net[*]/params:0%", ["failed"]),
        ("test_it.py::test_*/params:0%", ["failed"]),
        ("test_it.py::test_net[a]/0/params:0%", ["failed"]),
        ("training-peak-bytes:0%", []),
    ],
)
def test_a_limit_names_models_tests_and_layers(limit, verdicts):
    gate = judged(limit, benchmark(4), benchmark(5))
    assert [result.verdict for result in gate.results] == verdicts
    assert gate.models == ("net in test_net[a]",)
    said = [doubt.message for doubt in gate.doubts]
    assert said == ([] if verdicts else ["no model that was timed is held to it"])


@pytest.mark.parametrize("limit", ["other/params:0%", "net/9/params:0%", "test_net[b]/params:0%"])
def test_a_limit_that_names_nothing_is_refused(limit):
    with pytest.raises(UsageError, match="no model, test or layer of that name has one; there are net, test_net"):
        judged(limit, benchmark(4), benchmark(5))


def test_tests_of_one_name_in_two_files_are_told_apart():
    both = {"test_a.py::test_net": benchmark(4), "test_b.py::test_net": benchmark(4)}
    gate = held([parsed("test_b.py::*/params:0%")], both, both, "a run", "pass")
    assert gate.models == ("net in test_a.py::test_net", "net in test_b.py::test_net")
    assert [result.model for result in gate.results] == ["net in test_b.py::test_net"]


def test_a_peak_that_can_no_longer_be_predicted_is_told():
    before, now = benchmark(4), benchmark(4)
    known = replace(before, profile=replace(before.profile, memory=ByMode(inference=Memory(1000, 0, ""))))
    (result,) = judged("peak_bytes:2%", known, now).results
    assert (result.verdict, result.message) == ("inconclusive", "the baseline holds it, and this run does not")


def test_a_layer_that_is_gone_may_be_named():
    before, now = benchmark(4), benchmark(4)
    analysis = now.profile.analysis
    shorter = replace(analysis, layers=tuple(layer for layer in analysis.layers if layer.path != "0"))
    (result,) = judged("net/0/params:0%", before, replace(now, profile=replace(now.profile, analysis=shorter))).results
    assert result.verdict == "passed"


def test_layers_that_changed_are_listed_once_a_model_or_test_by_test_where_they_differ():
    def changed(*grown: int) -> set[tuple[str, str]]:
        tests = [f"test_it.py::test_net[{number}]" for number in range(len(grown))]
        before, now = (dict(zip(tests, map(benchmark, sizes), strict=True)) for sizes in ([4] * len(grown), grown))
        gate = held([parsed("params:0%")], before, now, "a run", "pass")
        assert len(gate.changes) == len(set(gate.changes))
        return {(change.model, change.path) for change in gate.changes}

    assert changed(5, 5) == {("net", "0"), ("net", "3")}
    assert {model for model, _ in changed(5, 6)} == {"net in test_net[0]", "net in test_net[1]"}


def test_the_limit_that_names_a_model_stands_for_the_general_one():
    limits = [parsed("net/params:100%"), parsed("params:0%")]
    test = "test_it.py::test_net"
    assert held(limits, {test: benchmark(4)}, {test: benchmark(5)}, "a run", "pass").exit_code == 0


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [(1.0, "passed"), (1.1, "inconclusive"), (1.25, "inconclusive"), (1.35, "failed"), (0.5, "passed")],
)
def test_times_are_held_by_an_interval_that_knows_of_other_runs(slower, verdict):
    """What runs differ by makes it some 10 % either way, though sessions differ by 0.8 % alone."""
    (result,) = judged("latency:15%", benchmark(4), benchmark(4, 0.01 * slower)).results
    assert result.verdict == verdict
    assert result.change == pytest.approx(slower - 1)
    assert ("times both side by side" in result.message) == (verdict == "inconclusive")


def test_a_model_that_the_stored_run_does_not_hold_is_told():
    gate = held([parsed("params:0%")], {}, {"test_it.py::test_net": benchmark(4)}, "a run", "pass")
    assert (gate.results, gate.exit_code) == ((), 0)
    assert [doubt.message for doubt in gate.doubts] == ["the stored run does not hold it: nothing was compared"]


def test_the_interval_of_short_runs_holds_what_differs_from_run_to_run():
    """Arms in logs are added in squares: 1.96 times the spread for one run, that of two for a ratio."""
    apart = 1.959964 * statistics.RUNS_APART
    assert statistics.widened((2.0, 2.0), 2.0, statistics.RUNS_APART) == pytest.approx(
        (2 * math.exp(-apart), 2 * math.exp(apart))
    )
    low, high = statistics.widened((math.exp(-0.03), math.exp(0.04)), 1.0, math.sqrt(2) * statistics.RUNS_APART)
    both = apart * math.sqrt(2)
    assert (low, high) == pytest.approx((math.exp(-math.hypot(0.03, both)), math.exp(math.hypot(0.04, both))))
