"""Gates: limits as they are written, counts against them, times against them. All by hand, nothing is run."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cnnprof
from cnnprof import statistics, units
from cnnprof.comparison import gate, limits
from cnnprof.comparison.ratios import in_two_processes
from cnnprof.errors import UsageError
from cnnprof.records import (
    Analysis,
    ByMode,
    Candidate,
    Latency,
    Layer,
    Machine,
    Memory,
    Own,
    Profile,
    Settings,
    Totals,
    Uncounted,
)
from cnnprof.reporting import gated

MACHINE = Machine("a CPU", 2, 2, 2, 1 << 30, "Linux", "3.11", "2.14", "cpu", None, None, 0.1, "kept")


def candidate(name="net", layers=((10, 100), (20, 200)), model=None, size=(3, 32, 32), batch=1, uncounted=(), **known):
    """A model whose layers have so many parameters and MACs an image."""
    rows = tuple(
        Layer(f"conv{place}", "Conv2d", 1, params, macs * batch, 1, None, None, 4, 4)
        for place, (params, macs) in enumerate(layers)
    )
    params, macs = (sum(getattr(row, each) for row in rows) for each in ("params", "macs"))
    totals = Totals(params, params, 0, macs, len(rows), 4 * params, 8, 8)
    analysis = Analysis(model or name, size, batch, totals, 1.0, tuple(uncounted), rows)
    return Candidate(name, analysis, batch_size=known.pop("call", 8), model=model, **known)


def judged(texts, before, now, **given):
    texts = [texts] if isinstance(texts, str) else texts
    return gate.judged([limits.parsed(text) for text in texts], [before], [now], gate.Terms(**given))


def verdicts(texts, before, now, **given):
    return [result.verdict for result in judged(texts, before, now, **given)]


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_limit_is_read_with_its_model_and_its_layers():
    assert limits.parsed("params:0%") == limits.Limit("params", Fraction(0))
    assert limits.parsed(" peak-bytes : 2.5 % ") == limits.Limit("peak_bytes", Fraction(1, 40))
    assert limits.parsed("resnet50/latency:10%") == limits.Limit("latency", Fraction(1, 10), "resnet50")
    assert limits.parsed("nets/my.py:Net/macs:.5%").where == "nets/my.py:Net"
    assert limits.parsed("*/layer4.*/macs:5%").layers_of("resnet50") == "layer4.*"


@given(st.decimals(0, 1000, places=3), st.sampled_from(limits.METRICS), st.sampled_from(["", "a", "a*/b.*"]))
def test_what_a_limit_says_of_itself_reads_as_the_same_limit(percent, metric, where):
    limit = limits.Limit(metric, Fraction(percent) / 100, where)
    assert limits.parsed(str(limit)) == limit


@pytest.mark.parametrize(
    "text", ["params", "params:5", "params:-5%", "params:five%", ":5%", "", "params:5%%", "latency:5ms"]
)
def test_a_limit_that_cannot_be_read_is_refused_with_the_grammar(text):
    with pytest.raises(UsageError, match=r"\[MODEL/\]\[LAYERS/\]METRIC:PERCENT%"):
        limits.parsed(text)


def test_a_metric_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean latency"):
        limits.parsed("latencyy:5%")


def test_a_model_with_a_limit_of_its_own_is_not_held_to_the_one_of_all():
    found = [limits.parsed(text) for text in ("slim/macs:10%", "macs:0%", "s*/macs:20%", "params:0%")]
    assert {str(limit) for limit in limits.that_hold(found, "slim")} == {"s*/macs:20%", "params:0%"}
    assert {str(limit) for limit in limits.that_hold(found, "wide")} == {"macs:0%", "params:0%"}
    assert [str(limit) for limit in limits.that_hold(found[:2], "slim")] == ["slim/macs:10%"]


def test_a_model_string_with_brackets_is_its_own_pattern():
    assert limits.parsed("cnn(channels=[8, 16])/macs:1%").holds_of("cnn(channels=[8, 16])")


# Counts --------------------------------------------------------------------------------------------------------------


def test_one_parameter_more_fails_where_none_is_allowed_and_names_its_layer():
    (result,) = judged("params:0%", candidate(), candidate(layers=((10, 100), (21, 200))))
    assert (result.verdict, result.layer, result.change) == ("failed", "conv1", pytest.approx(1 / 30))
    assert (result.baseline, result.candidate) == (30, 31)


def test_fewer_pass_and_so_do_as_many():
    assert verdicts("params:0%", candidate(), candidate(layers=((10, 100), (19, 200)))) == ["passed"]
    assert verdicts("params:0%", candidate(), candidate()) == ["passed"]


def test_growth_by_exactly_the_limit_passes_and_by_one_more_does_not():
    hundred = candidate(layers=((100, 1000),))
    assert verdicts("params:5%", hundred, candidate(layers=((105, 1000),))) == ["passed"]
    assert verdicts("params:5%", hundred, candidate(layers=((106, 1000),))) == ["failed"]
    # 0.1 % of 1000 is 1, which no binary fraction is exactly
    assert verdicts("macs:0.1%", hundred, candidate(layers=((100, 1001),))) == ["passed"]


def test_what_grew_from_nothing_fails_without_a_share():
    (result,) = judged("macs:5%", candidate(layers=((10, 0),)), candidate(layers=((10, 5),)))
    assert (result.verdict, result.change) == ("failed", None)


def test_macs_are_per_image_whatever_the_batch():
    assert verdicts("macs:0%", candidate(batch=1), candidate(batch=4)) == ["passed"]


def test_macs_that_are_not_counted_any_more_do_not_pass():
    lost = candidate(layers=((10, 100),), uncounted=[Uncounted("fft", "conv1", 1)])
    (result,) = judged("macs:0%", candidate(), lost)
    assert (result.verdict, result.layer) == ("inconclusive", "conv1")
    assert "fft" in result.message
    assert verdicts("macs:0%", lost, lost) == ["passed"]
    assert verdicts("net/conv*/macs:0%", candidate(), lost) == ["inconclusive"]
    elsewhere = replace(lost, analysis=replace(lost.analysis, uncounted=(Uncounted("fft", "conv0", 1),)))
    assert verdicts("macs:0%", lost, elsewhere) == ["inconclusive"]


def test_macs_that_are_not_counted_any_more_are_no_time_that_may_count_as_passed():
    lost = candidate(layers=((10, 100),), uncounted=[Uncounted("fft", "conv1", 1)])
    found = gate.of_runs([limits.parsed("macs:0%")], run_of(candidate()), run_of(lost), "f")
    assert [replace(found, inconclusive=outcome).exit_code for outcome in (None, "pass", "fail")] == [3, 3, 1]


def test_a_limit_on_layers_holds_for_each_of_them():
    before = candidate(layers=((10, 100), (20, 200)))
    swapped = candidate(layers=((20, 200), (10, 100)))
    assert verdicts("net/params:0%", before, swapped) == ["passed"]
    (result,) = judged("net/conv*/params:50%", before, swapped)
    assert (result.verdict, result.layer, result.change) == ("failed", "conv0", 1.0)


def test_a_limit_on_layers_holds_for_the_models_that_have_them():
    both = [candidate("deep", layers=((1, 1), (2, 2), (3, 3))), candidate("flat", layers=((1, 1),))]
    grown = [candidate("deep", layers=((1, 1), (2, 2), (4, 3))), both[1]]
    results = gate.judged([limits.parsed("*/conv2/params:0%")], both, grown, gate.Terms())
    assert [(each.model, each.layers, each.verdict) for each in results] == [("deep", "conv2", "failed")]


def test_a_layer_that_was_not_there_is_growth_from_nothing():
    (result,) = judged("net/conv2/macs:50%", candidate(), candidate(layers=((10, 100), (20, 200), (1, 1))))
    assert (result.verdict, result.message) == ("failed", "a layer that was not there")


def test_layers_that_changed_are_listed_with_what_they_were():
    changed = gate.changes((candidate(), candidate(layers=((10, 100), (21, 200), (5, 0)))))
    assert [(each.path, each.metric, each.baseline, each.candidate) for each in changed] == [
        ("conv1", "params", 20, 21),
        ("conv2", "params", None, 5),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("other/params:0%", "no model is called 'other'"),
        ("nets/my.py:Net/latency:5%", "no model is called 'nets/my.py:Net'"),
        ("net/nolayer*/params:0%", r"no layer is called 'nolayer\*'"),
        ("net/conv0/latency:5%", "latency is known of a model alone"),
    ],
)
def test_a_limit_that_is_on_nothing_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        judged(text, candidate(), candidate())


def test_a_name_that_layers_are_within_is_told():
    net = candidate()
    layers = tuple(replace(layer, path=f"block.{layer.path}") for layer in net.analysis.layers)
    net = replace(net, analysis=replace(net.analysis, layers=layers))
    with pytest.raises(UsageError, match=r"no layer is called 'block', then or now; block\.\* are those within it"):
        judged("net/block/params:0%", net, net)


@pytest.mark.parametrize("metric", ["latency", "peak_bytes"])
def test_a_number_that_is_on_neither_side_is_refused(metric):
    with pytest.raises(UsageError, match=f"neither the baseline nor this run holds {metric}"):
        judged(f"{metric}:5%", candidate(), candidate())


def test_a_number_that_the_baseline_lacks_is_said():
    (result,) = judged("latency:5%", candidate(), timed(*STEADY))
    assert (result.verdict, result.message) == ("skipped", "not in the baseline")


def test_a_model_whose_measurement_stopped_fails():
    (result,) = judged("latency:5%", timed(*STEADY), candidate(failure="out of memory"))
    assert (result.verdict, result.message) == ("failed", "out of memory")


def test_a_limit_on_a_model_of_the_baseline_alone_is_no_mistake():
    results = gate.judged([limits.parsed("gone/params:0%")], [candidate("gone")], [candidate()], gate.Terms())
    assert results == ()


def test_other_inputs_fail_whatever_the_counts():
    (result,) = judged("params:0%", candidate(), candidate(size=(3, 64, 64)))
    assert result.verdict == "failed"
    assert "3x32x32" in result.message


def test_peaks_of_other_batches_are_not_compared():
    before = candidate(memory=ByMode(inference=Memory(1000, 0)))
    now = replace(candidate(memory=ByMode(inference=Memory(1021, 0, "conv1"))))
    assert [(each.verdict, each.layer) for each in judged("peak_bytes:2%", before, now)] == [("failed", "conv1")]
    assert verdicts("peak_bytes:2%", before, replace(now, batch_size=4)) == ["skipped"]


@pytest.mark.parametrize(
    ("metric", "verdict"), [("peak_bytes", "skipped"), ("latency", "skipped"), ("params", "passed")]
)
def test_what_is_measured_with_other_settings_of_its_own_is_not_compared(metric, verdict):
    before = replace(timed(*STEADY), memory=ByMode(inference=Memory(1000, 0, "")))
    (result,) = judged(f"{metric}:2%", before, replace(before, settings=Own(dtype="bfloat16")))
    assert result.verdict == verdict
    assert ("dtype float32, and now bfloat16" in result.message) == (verdict == "skipped")


def test_a_prediction_is_held_to_what_was_measured_and_that_is_said():
    before, now = (candidate(memory=ByMode(inference=Memory(1000, 0, where))) for where in (None, "conv1"))
    (result,) = judged("peak_bytes:2%", before, now)
    assert (result.verdict, result.message) == ("passed", "the baseline's was measured, this one is predicted")


def test_models_are_matched_by_label_else_by_their_model():
    before = [candidate("a", model="resnet18"), candidate("b", model="resnet50"), candidate("e", model="cnn(width=8)")]
    now = [candidate("b", model="resnet18"), candidate("c", model="resnet18"), candidate("d", model="vgg")]
    found = gate.paired(before, [*now, candidate("f", model="cnn(width=16)")])
    assert {name: each.name for name, each in found.items()} == {"b": "b", "c": "a"}
    doubts = list(gate.without_baseline(before, now, "a hint"))
    assert [(doubt.about, doubt.hint) for doubt in doubts] == [("d", "a hint"), ("e", "")]


def test_a_model_that_fails_before_there_is_a_baseline_does_not_pass():
    found = gate.of_runs([limits.parsed("latency:5%")], None, run_of(candidate(failure="no memory")), "base.json")
    assert [(each.verdict, each.message) for each in found.results] == [("failed", "no memory")]


def test_a_model_that_failed_before_and_does_not_now_is_no_regression():
    (result,) = judged("latency:5%", candidate(failure="no memory"), timed(*STEADY))
    assert (result.verdict, result.message) == ("skipped", "the baseline failed: no memory")


# Times ---------------------------------------------------------------------------------------------------------------


def timed(*medians, waited=0.0, name="net"):
    """A model with a session of one burst for each time."""
    sessions = tuple((each, each, each) for each in medians)
    return candidate(name, latency=ByMode(inference=Latency(sessions, waited_shares=(waited,) * len(sessions))))


STEADY = [1.0] * 8


def slower(by, spread=0.001):
    return [by * (1 + spread * (-1) ** place) for place in range(8)]


@pytest.mark.parametrize(
    ("by", "spread", "verdict"),
    [(1.0, 0.001, "passed"), (1.10, 0.001, "failed"), (1.05, 0.02, "inconclusive"), (0.5, 0.001, "passed")],
)
def test_a_time_is_judged_by_the_side_of_its_limit_that_its_interval_lies_on(by, spread, verdict):
    (result,) = judged("latency:5%", timed(*STEADY), timed(*slower(by, spread)))
    assert result.verdict == verdict
    assert result.ci95[0] < result.change < result.ci95[1]


def test_the_interval_of_two_processes_holds_what_they_do_not_share():
    """Student's t of the sessions' own error, and in squares what pairs of processes differ by, 1.96 times."""
    spread = 0.01
    before, now = timed(*STEADY), timed(*slower(1.0, spread))
    ratio = in_two_processes(before.latency.inference, now.latency.inference, 0.02, 1.0)
    logs = [math.log(each) for each in slower(1.0, spread)]
    mean = sum(logs) / 8
    error = math.sqrt(sum((each - mean) ** 2 for each in logs) / 7 / 8)
    half_width = math.hypot(2.364624 * error, 1.959964 * statistics.PROCESSES_APART)  # t of 7 degrees at 97.5 %
    assert math.log(ratio.ci95[1]) == pytest.approx(mean + half_width, rel=1e-6)


def test_a_starved_time_is_inconclusive_and_no_number_is_given():
    (result,) = judged("latency:5%", timed(*STEADY), timed(*slower(2.0), waited=0.5))
    assert (result.verdict, result.change) == ("inconclusive", None)


@pytest.mark.parametrize("threads", [1, 2])
def test_who_has_one_thread_is_not_told_to_take_one(threads):
    side = timed(*STEADY, waited=0.5)
    (result,) = judged("latency:5%", side, side, threads=threads)
    assert ("--threads 1" in result.message) == (threads > 1)
    assert "close other programs, or give " in result.message


def test_an_undecided_time_says_how_much_longer_would_tell():
    (result,) = judged("latency:5%", timed(*STEADY), timed(*slower(1.02, 0.03)), measured_s=10.0)
    assert result.verdict == "inconclusive"
    assert "--time" in result.message
    wanted = float(result.message.split()[1])
    assert wanted in {15, 20, 30, 40, 50, 70, 100, 200, 500, 1000}


def test_longer_tells_the_fewest_times_as_many_sessions_that_would_do():
    center, half_width = 1.028, 0.03
    bounds = center * math.exp(-half_width), center * math.exp(half_width)
    fixed, away = 1.959964 * statistics.PROCESSES_APART, math.log(1.05 / center)
    assert statistics.longer(center, bounds, 5, 1.05, fixed) == 5
    spread = math.sqrt(half_width**2 - fixed**2) / (2.776445 / math.sqrt(5))  # t of 4 degrees, and below of 24 and 19
    assert math.hypot(spread * 2.063899 / math.sqrt(25), fixed) < away
    assert math.hypot(spread * 2.093024 / math.sqrt(20), fixed) > away
    assert statistics.longer(1.0499, bounds, 5, 1.05, fixed) is None


def test_what_runs_apart_leave_open_names_a_time_where_one_would_tell():
    """However long the new run is, the baseline's half of the interval stays."""

    def said(by):
        texts = [limits.parsed("latency:5%")]
        (result,) = gate.of_runs(
            texts, run_of(timed(*slower(1.0, 0.02))), run_of(timed(*slower(by, 0.02))), "f", 10.0
        ).results
        assert result.verdict == "inconclusive"
        return result.message

    assert said(1.005).startswith("--time ")
    assert "--against REVISION" in said(1.045)


def test_times_of_another_machine_are_not_compared_but_counts_are():
    before, now = (
        Profile("", None, "", MACHINE, Settings(), (each,)) for each in (timed(*STEADY), timed(*slower(2.0)))
    )
    texts = [limits.parsed(text) for text in ("params:0%", "latency:5%")]
    assert [each.verdict for each in gate.of_runs(texts, before, now, "f").results] == ["passed", "failed"]
    elsewhere = replace(now, machine=replace(MACHINE, cpu="another CPU"))
    found = gate.of_runs(texts, before, elsewhere, "f")
    assert [each.verdict for each in found.results] == ["passed", "skipped"]
    assert "cpu" in found.results[1].message
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("machine", "verdict"),
    [
        ({}, "failed"),
        ({"memory_bytes": 1 << 31, "python": "3.12"}, "failed"),
        ({"threads": 8}, "inconclusive"),
        ({"cpu": "another CPU", "instructions": "AVX512"}, "inconclusive"),
    ],
)
def test_a_larger_peak_on_another_machine_may_be_that_of_its_kernels(machine, verdict):
    peaks = (candidate(memory=ByMode(inference=Memory(peak, 0, "conv1"))) for peak in (100, 110))
    before, now = (Profile("", None, "", MACHINE, Settings(), (each,)) for each in peaks)
    now = replace(now, machine=replace(MACHINE, **machine))
    (result,) = gate.of_runs([limits.parsed("peak_bytes:5%")], before, now, "f").results
    assert result.verdict == verdict
    assert all(name in result.message for name in machine if verdict == "inconclusive")
    on_cuda = [replace(run, machine=replace(run.machine, device="cuda")) for run in (before, now)]
    (result,) = gate.of_runs([limits.parsed("peak_bytes:5%")], *on_cuda, "f").results
    assert result.verdict == "failed"
    (result,) = gate.of_runs([limits.parsed("peak_bytes:10%")], before, now, "f").results
    assert result.verdict == "passed"


def test_times_of_other_settings_are_not_compared():
    before, now = (
        Profile("", None, "", MACHINE, Settings(threads=threads), (timed(*STEADY),)) for threads in (None, 1)
    )
    (result,) = gate.of_runs([limits.parsed("latency:5%")], before, now, "f").results
    assert (result.verdict, result.message) == ("skipped", "it was measured otherwise: threads None, and now 1")
    now = replace(now, machine=replace(MACHINE, threads=1))
    found = gate.of_runs([limits.parsed("latency:5%")], before, now, "f")
    assert found.results[0].message == "it was measured otherwise: threads 2, and now 1"
    assert gated.headline(found) == "Nothing was compared: 1 skipped."
    assert gated.sentences(found) == ("net, forward: it was measured otherwise: threads 2, and now 1.",)


def test_a_gate_that_is_cut_short_leaves_open_what_had_not_passed():
    found = gate.cut_short(one_of(1.2))
    assert found.partial
    assert [(each.verdict, each.message) for each in found.results] == [
        ("passed", ""),
        ("inconclusive", "measuring it was interrupted"),
    ]
    assert gate.cut_short(one_of(1.0)).results == one_of(1.0).results


def test_what_a_new_baseline_would_lose_is_named():
    peak = Memory(100, 0)
    before = run_of(timed(*STEADY, name="a"), candidate("b", memory=ByMode(training=peak)), candidate("c"))
    now = run_of(candidate("a", memory=ByMode(inference=peak)), candidate("b", memory=ByMode(training=peak)))
    assert gate.lost(before, now) == ("c", "latency of a")
    assert gate.lost(now, now) == ()


def test_layers_of_models_that_are_fed_otherwise_have_not_changed():
    larger = candidate(layers=((10, 400), (20, 800)), size=(3, 64, 64))
    found = gate.of_runs([limits.parsed("macs:0%")], run_of(candidate()), run_of(larger), "f")
    assert (found.results[0].verdict, found.changes) == ("failed", ())


def test_layers_of_a_model_that_is_fed_otherwise_fail_their_limit():
    (result,) = judged("*/conv1/macs:0%", candidate(), candidate(layers=((10, 1), (20, 2)), size=(3, 16, 16)))
    assert (result.verdict, result.layers) == ("failed", "conv1")
    assert result.message == "its baseline was taken at 3x32x32, and this is 3x16x16"
    assert gated._said(result).startswith("conv1, MACs: its baseline")
    (deeper,) = judged("*/conv1/macs:0%", candidate(), candidate(layers=((10, 100), (20, 201))))
    gate_of_both = replace(failing(), results=(result, replace(deeper, layer="3", layers="3")))
    assert [row[-1] for row in gated.table(gate_of_both).rows] == [f"conv1; {result.message}", "layer 3"]


def test_a_number_that_a_run_does_not_have_any_more_is_open():
    peak = candidate(memory=ByMode(inference=Memory(100, 0)))
    assert verdicts("peak_bytes:0%", peak, candidate()) == ["inconclusive"]
    assert verdicts("latency:5%", timed(*STEADY), candidate()) == ["inconclusive"]
    assert verdicts("peak_bytes:0%", candidate(), peak) == ["skipped"]
    assert verdicts("latency:5%", candidate(), timed(*STEADY)) == ["skipped"]


def test_it_is_said_which_peak_was_measured():
    def peak(where: str | None) -> Candidate:
        return candidate(memory=ByMode(inference=Memory(100, 0, where)))

    def said(before: str | None, now: str | None) -> str:
        (result,) = judged("peak_bytes:0%", peak(before), peak(now))
        return result.message

    assert said(None, "conv1") == "the baseline's was measured, this one is predicted"
    assert said("conv1", None) == "the baseline's was predicted, this one is measured"
    assert said("conv1", "conv1") == said(None, None) == ""


def test_a_title_names_what_is_open_where_that_fails():
    both = [timed(*STEADY, name=name) for name in ("steady", "starved")]
    now = [timed(*STEADY, name="steady"), timed(*STEADY, name="starved", waited=0.5)]
    found = gate.of_runs([limits.parsed("latency:50%")], run_of(*both), run_of(*now), "main")
    assert gated.title(replace(found, inconclusive="fail")) == "Not passed: starved against main"


def test_an_interruption_before_anything_was_compared_is_said():
    found = gate.cut_short(gate.of_runs([limits.parsed("params:0%")], None, run_of(candidate()), "base.json"))
    assert gated.headline(found) == "Interrupted: before anything was compared."
    limit = [limits.parsed("latency:5%")]
    found = gate.cut_short(gate.of_runs(limit, run_of(candidate()), run_of(candidate()), "base.json", measured_s=10.0))
    assert [(each.verdict, each.message) for each in found.results] == [("skipped", "not in the baseline")]
    found = gate.cut_short(gate.of_runs(limit, run_of(timed(*STEADY)), run_of(candidate()), "f", measured_s=10.0))
    assert [(each.verdict, each.message) for each in found.results] == [
        ("inconclusive", "measuring it was interrupted")
    ]


def run_of(*candidates):
    return Profile("", None, "", MACHINE, Settings(), candidates)


def one_of(by, spread=0.001, waited=0.0):
    texts = [limits.parsed("params:0%"), limits.parsed("latency:5%")]
    now = timed(*slower(by, spread), waited=waited)
    return gate.held(texts, [timed(*STEADY)], run_of(now), "f", gate.Terms())


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((1.2,), (1.2,), "failed"),
        ((1.2,), (1.01,), "inconclusive"),  # nothing confirms it
        ((1.2,), (1.2, 0.001, 0.5), "inconclusive"),
        ((1.04, 0.02), (1.0, 0.02), "passed"),
        ((1.07, 0.02), (1.09, 0.02), "failed"),
        ((1.04, 0.02), (1.05, 0.02), "inconclusive"),
        ((1.0,), (1.2,), "passed"),  # which is settled by then
    ],
)
def test_two_measurements_settle_a_time_together(first, second, verdict):
    found = gate.settled(one_of(*first), one_of(*second))
    assert [each.verdict for each in found.results] == ["passed", verdict]
    assert len(found.times) == 2
    if first != (1.0,):
        assert found.results[1].message.startswith("measured twice: ")


@pytest.mark.parametrize(
    ("second", "verdict"),
    [((1.0,), "passed"), ((1.2,), "inconclusive"), ((1.04, 0.02), "inconclusive"), ((1.0, 0.001, 0.5), "inconclusive")],
)
def test_where_the_first_measurement_was_starved_the_second_stands_alone(second, verdict):
    found = gate.settled(one_of(1.0, 0.001, 0.5), one_of(*second))
    assert found.results[1].verdict == verdict
    assert found.results[1].change == one_of(*second).results[1].change


def test_a_second_measurement_that_does_not_come_leaves_open_what_it_would_have_settled():
    failed = gate.unsettled(one_of(1.2), "its process was killed")
    assert [each.verdict for each in failed.results] == ["passed", "inconclusive"]
    assert failed.results[1].message == "measured twice: +20.0 %, and then nothing: its process was killed"
    assert gate.unsettled(one_of(1.0), "its process was killed") == one_of(1.0)


@pytest.mark.parametrize(("side", "verdict"), [("baseline", "inconclusive"), ("candidate", "failed")])
def test_where_one_side_breaks_in_the_second_measurement_the_first_does_not_pass(side, verdict):
    broken = candidate(failure="no memory")
    sides = {"baseline": timed(*STEADY), "candidate": timed(*STEADY)} | {side: broken}
    again = gate.held([limits.parsed("latency:5%")], [sides["baseline"]], run_of(sides["candidate"]), "f", gate.Terms())
    found = gate.settled(one_of(1.2), again).results[1]
    assert (found.verdict, "no memory" in found.message) == (verdict, True)


def test_only_a_time_that_was_measured_is_worth_a_second_look():
    assert gate.is_open(one_of(1.2))
    assert gate.is_open(one_of(1.2, 0.001, 0.5))
    assert gate.is_open(one_of(1.04, 0.02))
    assert not gate.is_open(one_of(1.04, 0.02), ("failed",))
    assert not gate.is_open(one_of(1.0))
    assert not gate.is_open(failing())


def test_a_run_that_was_interrupted_is_said():
    found = gate.of_runs(
        [limits.parsed("params:0%")], replace(run_of(candidate()), partial=True), run_of(candidate()), "f"
    )
    assert [doubt.about for doubt in found.doubts] == ["the baseline"]


def test_exit_codes_are_those_of_what_was_found():
    failing = gate.of_runs([limits.parsed("latency:5%")], run_of(timed(*STEADY)), run_of(timed(*slower(1.2))), "f")
    open_ = gate.of_runs([limits.parsed("latency:5%")], run_of(timed(*STEADY)), run_of(timed(*slower(1.05, 0.02))), "f")
    assert (failing.exit_code, failing.passed) == (1, False)
    assert [replace(open_, inconclusive=outcome).exit_code for outcome in (None, "pass", "fail")] == [3, 0, 1]


def test_without_a_baseline_everything_passes_and_that_is_said():
    found = gate.of_runs([limits.parsed("params:0%")], None, run_of(candidate()), "base.json")
    assert (found.exit_code, found.results) == (0, ())
    assert [each.about for each in found.doubts] == ["base.json"]
    assert "Nothing was compared: every number passes." in str(found)


# What people read ----------------------------------------------------------------------------------------------------


def failing():
    before, now = candidate(), candidate(layers=((10, 100), (21, 200)))
    return gate.of_runs(
        [limits.parsed("params:0%"), limits.parsed("macs:0%")], run_of(before), run_of(now), "base.json"
    )


def test_the_screen_names_model_layer_and_growth():
    said = str(failing())
    assert "net, parameters: +3.3 %, from 30 to 31; none is allowed; most in conv1." in said
    assert "Not passed: 1 passed, 1 failed." in said


def test_the_markdown_has_a_row_a_model_and_the_layers_that_changed(tmp_path):
    text = cnnprof.save(failing(), tmp_path / "diff.md").read_text()
    assert "| net " in text
    assert text.index("| net ") < text.index("- net, parameters: +3.3 %") < text.index("## Layers that changed")
    assert "31 (+3.3 %) ✗" in text
    assert "| conv1 | Conv2d | parameters |" in " ".join(text.split())


@pytest.mark.parametrize("suffix", [".html", ".csv", ".json"])
def test_a_gate_is_saved_in_every_form(tmp_path, suffix):
    path = cnnprof.save(failing(), tmp_path / f"gate{suffix}")
    assert "conv1" in path.read_text()


def test_an_interval_says_as_many_decimals_as_it_is_wide():
    assert units.change(0.00045, (-0.013, 0.01519)) == "0 % [-1.3, 1.5]"
    assert units.change(0.00045) == "+0.045 %"
    assert units.change(0.0004, (0.0003, 0.0005)) == "+0.040 % [0.030, 0.050]"


def test_models_that_share_a_reason_share_a_sentence_and_only_they_are_in_the_title():
    before = [timed(*STEADY, name=name) for name in ("one", "two", "three")]
    now = [timed(*STEADY, name=name, waited=waited) for name, waited in (("one", 0.5), ("two", 0.5), ("three", 0.0))]
    found = gate.held([limits.parsed("latency:5%")], before, run_of(*now), "main", gate.Terms())
    (said,) = gated.sentences(found)
    assert said.startswith("one, two, forward: the processes did not get their CPUs")
    assert gated.title(found) == "Inconclusive: one, two against main"


def test_verdicts_have_colours_in_html(tmp_path):
    page = cnnprof.save(failing(), tmp_path / "gate.html").read_text()
    assert '<th scope="row" class="word worse">failed</th>' in page
    assert '<th scope="row" class="word better">passed</th>' in page


def test_a_gate_that_was_interrupted_did_not_pass():
    found = replace(
        gate.of_runs([limits.parsed("params:0%")], run_of(candidate()), run_of(candidate()), "f"), partial=True
    )
    assert not found.passed
    assert "Interrupted: 1 passed." in str(found)


def test_a_gate_reads_back_as_it_was(tmp_path):
    timed_gate = gate.of_runs([limits.parsed("latency:5%")], run_of(timed(*STEADY)), run_of(timed(*slower(1.2))), "f")
    for record in (failing(), timed_gate):
        assert cnnprof.load(cnnprof.save(record, tmp_path / "gate.json")) == record
