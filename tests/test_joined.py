"""Runs that were measured apart, in one comparison."""

import dataclasses
import math

import pytest
from typer.testing import CliRunner

from cnnprof import UsageError, cli, profiling, reporting
from cnnprof.comparison.joined import joined
from cnnprof.comparison.ratios import in_runs_apart
from cnnprof.records import Comparison, Latency, Machine, Profile


@pytest.fixture
def run(fake_clock) -> Comparison:
    calls = {"a": lambda: fake_clock.spend(0.2), "b": lambda: fake_clock.spend(0.1)}
    return profiling.compare_calls(calls, time_s=10.0, instruments=fake_clock.instruments())


def elsewhere(run: Comparison, **fields) -> Comparison:
    return dataclasses.replace(run, machine=dataclasses.replace(run.machine, **fields))


def test_models_of_equal_names_are_told_apart_and_compared_with_the_first(run):
    both = joined([run, run])
    assert [profile.name for profile in both.profiles] == ["a", "b", "a (2)", "b (2)"]
    assert both.comparisons[0] == run.comparisons[0]
    assert both.comparisons[1].latency.ratio == pytest.approx(1.0)
    assert both.comparisons[2].latency.ratio == pytest.approx(0.5)
    assert any("measured apart" in doubt.message for doubt in both.doubts)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cpu", "another processor", "another processor"),
        ("threads", 64, "threads"),
        ("torch", "2.0.0", "2.0.0"),
        ("allocator", "system", "allocator kept and system"),
        ("environment", {"OMP_NUM_THREADS": "3"}, "OMP_NUM_THREADS=3"),
    ],
)
def test_times_of_machines_that_differ_are_not_divided(run, field, value, said):
    both = joined([run, elsewhere(run, **{field: value})])
    assert both.comparisons[0].latency.ratio is not None
    for contrast in both.comparisons[1:]:
        assert contrast.latency.ratio is None
        assert contrast.latency.verdict == "inconclusive"
    (doubt,) = [doubt for doubt in both.doubts if "machine differs" in doubt.message]
    assert said in doubt.message
    assert "a, b" in doubt.message


def test_the_load_before_a_run_makes_no_other_machine(run):
    both = joined([run, elsewhere(run, load=17.0)])
    assert both.comparisons[1].latency.ratio == pytest.approx(1.0)


def test_a_run_of_other_settings_keeps_them(run):
    settings = dataclasses.replace(run.settings, dtype="bfloat16", threads=3, loss="mine")
    other = dataclasses.replace(run, settings=settings)
    both = joined([run, other])
    assert both.settings == run.settings
    assert both.profiles[0].settings.dtype is None
    assert both.profiles[2].settings.dtype == "bfloat16"
    assert both.profiles[2].settings.threads == 3
    assert any("differ in their loss" in doubt.message for doubt in both.doubts)


def test_the_interval_of_runs_apart_holds_both_of_theirs():
    def latency(*medians_s: float) -> Latency:
        return Latency(sessions=tuple((median_s,) for median_s in medians_s))

    steady, moving = latency(0.1, 0.1, 0.1, 0.1), latency(0.2, 0.22, 0.18, 0.2)
    found = in_runs_apart(steady, moving, 0.02, 1.0)
    assert found.ratio == pytest.approx(moving.ci95_s[1] / 0.1 / math.sqrt(moving.ci95_s[1] / moving.ci95_s[0]))
    assert found.ci95 == pytest.approx((moving.ci95_s[0] / 0.1, moving.ci95_s[1] / 0.1))
    twice = in_runs_apart(moving, moving, 0.02, 1.0)
    assert math.log(twice.ci95[1]) == pytest.approx(math.sqrt(2) * math.log(found.ci95[1] / found.ratio))
    assert in_runs_apart(latency(0.1, 0.1), moving, 0.02, 1.0).verdict == "inconclusive"


def test_one_model_is_nothing_to_compare(run):
    alone = Profile("Python", None, run.created, run.machine, run.settings, (run.profiles[0],))
    with pytest.raises(UsageError, match="1 model in 1 run"):
        joined([alone])


def test_report_puts_runs_into_one_file(run, tmp_path):
    for name, machine in (("one", run), ("two", elsewhere(run, cpu="another processor"))):
        reporting.save(machine, tmp_path / f"{name}.json")
    runs = [str(tmp_path / "one.json"), str(tmp_path / "two.json")]
    result = CliRunner().invoke(cli.app, ["report", *runs, "-o", str(tmp_path / "both.md")])
    assert result.exit_code == 0
    text = (tmp_path / "both.md").read_text(encoding="utf-8")
    assert "a (2)" in text
    assert "another processor" in text


def test_every_field_of_a_machine_is_asked_but_its_load(run):
    from cnnprof.comparison.joined import differing

    for field in dataclasses.fields(Machine):
        other = dataclasses.replace(run.machine, **{field.name: object()})
        assert differing(run.machine, other) == (() if field.name == "load" else (field.name,))
