"""Times that grow with each call are told; a machine that heats up, is noisy or has spells is not taken for one."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

import cnnprof
from cnnprof import profiling, store
from cnnprof.comparison import gate, limits
from cnnprof.comparison.growth import growth
from cnnprof.comparison.ratios import in_runs_apart, together
from cnnprof.records import Latency
from cnnprof.reporting import as_html, as_markdown, tables

CLOCK = None
HEAT = 0.0
"""By how much the machine is slower a second."""


class Plain(nn.Module):
    """Takes ten milliseconds, times what the machine does to all."""

    def __init__(self, by=0.0):
        super().__init__()
        self.linear = nn.Linear(64, 4, bias=False)
        self.by, self.made = by, 0

    def forward(self, x):
        if CLOCK is not None and not x.is_meta:
            CLOCK.spend(0.01 * (1 + self.by * self.made) * (1 + HEAT * CLOCK.wall))
            self.made += 1
        return self.linear(x)


class Growing(Plain):
    """Takes so much of its first time more with each call, as what sums up a list that it appends to."""


@pytest.fixture
def measure(fake_clock, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CLOCK", fake_clock)
    instruments = fake_clock.instruments({"Plain": (1 << 20,), "Growing": (1 << 20,)})
    options = {"instruments": instruments, "ci": 1e-9, "modes": ("inference",)}

    def measured(*models, **more):
        verb = profiling.compare if len(models) > 1 else profiling.profile
        given = dict(zip("ab", models, strict=False)) if len(models) > 1 else models[0]
        return verb(given, (64,), 2, **{"time_s": 10, **options, **more})

    return measured


def growths(run):
    return [doubt for doubt in run.doubts if "grows with each call" in doubt.message]


def test_a_profile_tells_growth_by_call(measure):
    run = measure(Growing(0.01))
    (doubt,) = growths(run)
    assert doubt.about == "Growing, the forward pass"
    calls = run.latency.inference.calls[5]
    grown = growth(run.latency.inference)
    assert grown.calls == pytest.approx(calls, abs=2)
    assert grown.per_call_s == pytest.approx(1e-4, rel=0.2)  # 1 % of 10 ms
    assert f"{grown.factor:.2f}x over the {grown.calls} calls of a session, about " in doubt.message
    assert doubt.message.endswith(f"{1e6 * grown.per_call_s:.1f} µs a call")
    for form in (str(run), as_markdown(run), as_html(run)):
        assert "grows with each call" in form
    (said,) = tables.headline(run)
    assert "and longer with each call" in said


@pytest.mark.parametrize("time_s", [2, 4, 14])
def test_whatever_the_time(measure, time_s):
    assert growths(measure(Growing(0.01), time_s=time_s))


def test_a_comparison_has_no_verdict_for_it(measure):
    run = measure(Plain(), Growing(0.01))
    ratio = run.comparisons[0].latency
    assert (ratio.ratio, ratio.ci95, ratio.verdict, ratio.grows) == (None, None, "inconclusive", ("candidate",))
    (doubt,) = growths(run)
    assert doubt.about == "b, the forward pass"
    assert "inconclusive: its time grows with each call" in " ".join(str(run).split())
    assert not any("ratios hold" in doubt.hint for doubt in run.doubts)
    document = json.loads(store.to_json(run))
    assert document["comparisons"][0]["latency"]["grows"] == ["candidate"]
    assert store.from_document(document) == run


def test_nor_for_a_baseline_that_grows(measure):
    run = measure(Growing(0.01), Plain())
    assert run.comparisons[0].latency.grows == ("baseline",)
    assert "the baseline's time grows with each call" in " ".join(str(run).split())


def test_a_few_per_cent_a_session_are_growth(measure):
    """Some forty calls a session, a thousandth each."""
    run = measure(Plain(), Growing(0.001))
    assert growth(run.profiles[1].latency.inference, run.profiles[0].latency.inference).factor < 1.06
    assert run.comparisons[0].latency.grows == ("candidate",)


def test_a_machine_that_heats_up_is_not_growth(measure, monkeypatch):
    monkeypatch.setattr(f"{__name__}.HEAT", 0.03)
    run = measure(Plain(), Plain())
    assert not growths(run)
    assert run.comparisons[0].latency.verdict == "equal"
    assert any("ratios hold" in doubt.hint for doubt in run.doubts)
    alone = measure(Plain())
    assert not growths(alone)
    (doubt,) = (each for each in alone.doubts if "slower while it was measured" in each.message)
    assert "ratios hold" not in doubt.hint


def test_growth_on_a_machine_that_heats_up_is_found(measure, monkeypatch):
    monkeypatch.setattr(f"{__name__}.HEAT", 0.03)
    assert measure(Plain(), Growing(0.01)).comparisons[0].latency.grows == ("candidate",)


def test_calls_that_are_kept_grow_over_the_run(fake_clock):
    made = []

    def grows():
        made.append(1)
        fake_clock.spend(0.01 * (1 + 0.001 * len(made)))

    calls = {"a": lambda: fake_clock.spend(0.01), "b": grows}
    run = cnnprof.compare_calls(calls, time_s=3.0, ci=1e-9, instruments=fake_clock.instruments())
    assert run.comparisons[0].latency.grows == ("candidate",)
    (doubt,) = growths(run)
    assert doubt.about == "b, the forward pass"
    assert "over the run" in doubt.message


def test_two_that_grow_alike_have_a_ratio_and_a_doubt_each(measure):
    run = measure(Growing(0.01), Growing(0.01))
    assert run.comparisons[0].latency.grows == ()
    assert [doubt.about for doubt in growths(run)] == ["a, the forward pass", "b, the forward pass"]


KEPT = []


class KeepsAll(Plain):
    """Leaves what it keeps to whatever is built after it."""

    def forward(self, x):
        if CLOCK is not None and not x.is_meta:
            KEPT.append(1)
            CLOCK.spend(0.0002 * len(KEPT))
        return super().forward(x)


@pytest.mark.parametrize("time_s", [2, 10])
def test_what_sessions_do_not_build_anew_grows_too(measure, time_s, monkeypatch, fake_clock):
    monkeypatch.setattr(f"{__name__}.KEPT", [])
    instruments = fake_clock.instruments({"Plain": (1 << 20,), "KeepsAll": (1 << 20,)})
    run = measure(Plain(), KeepsAll(), time_s=time_s, instruments=instruments)
    assert run.comparisons[0].latency.grows == ("candidate",)
    assert not any("ratios hold" in doubt.hint for doubt in run.doubts)


# False and missed ----------------------------------------------------------------------------------------------------


def latency(draw, sessions, rounds, noise, machine, grows=0.0, tails=False):
    """Bursts of three in sessions, whose layout moves each by 2 %; `machine` is in logs, by session and share of it."""
    times = []
    for session in range(sessions):
        at = np.linspace(0, 1, rounds)
        spread = draw.standard_t(2, (rounds, 3)) if tails else draw.normal(0, 1, (rounds, 3))
        trend = np.array([machine(session, u) for u in at]) + grows * at
        logs = draw.normal(0, 0.02) + trend[:, None] + noise * spread
        times.append(tuple((0.01 * np.exp(logs)).ravel().tolist()))
    return Latency(tuple(times), waited_shares=(0.0,) * sessions, bursts=((3,) * rounds,) * sessions)


def spells(draw):
    slow = {}
    return lambda session, u: slow.setdefault((session, int(6 * u)), draw.choice([0.0, 0.0, 0.18]))


MACHINES = {
    "quiet": (0.01, False, lambda draw: lambda session, u: 0.0),
    "noisy": (0.05, False, lambda draw: lambda session, u: 0.0),
    "now and then far off": (0.03, True, lambda draw: lambda session, u: 0.0),
    "slow spells": (0.01, False, spells),
    "heats up, 2 % a session": (0.01, False, lambda draw: lambda session, u: 0.02 * (session + u)),
    "heats up until it is hot": (0.01, False, lambda draw: lambda session, u: 0.4 * (1 - math.exp(-(session + u) / 3))),
}
SHAPES = ((3, 20), (5, 20), (10, 20), (10, 3), (20, 8))
"""Sessions, and rounds in each."""
TRIES = 25


def test_honest_candidates_on_honest_machines_do_not_grow():
    """One in a thousand is what the rule allows itself: of 1,500 beside another, and of as many alone."""
    draw, beside, alone = np.random.default_rng(5), 0, 0
    for noise, tails, make in MACHINES.values():
        for sessions, rounds in SHAPES:
            for _ in range(TRIES):
                machine = make(draw)
                pair = [latency(draw, sessions, rounds, noise, machine, tails=tails) for _ in range(2)]
                beside += sum(growth(*each) is not None for each in (pair, pair[::-1]))
                alone += sum(growth(each) is not None for each in pair)
    number = 2 * len(MACHINES) * len(SHAPES) * TRIES
    assert beside <= 0.003 * number
    assert alone <= 0.003 * number


@pytest.mark.parametrize("name", ["quiet", "heats up, 2 % a session", "heats up until it is hot", "slow spells"])
def test_growth_of_a_few_per_cent_is_found(name):
    """5 % from a session's first round to its last, in ten sessions."""
    noise, tails, make = MACHINES[name]
    draw = np.random.default_rng(6)
    found = 0
    for _ in range(100):
        machine = make(draw)
        one = latency(draw, 10, 20, noise, machine, tails=tails)
        found += growth(latency(draw, 10, 20, noise, machine, grows=0.05, tails=tails), one) is not None
    assert found >= 98


def test_a_processor_that_is_fast_after_a_rest_is_not_growth():
    """Each session begins 5 % faster, and is slow from a third on: alone it does not rise steadily, beside all do."""
    draw = np.random.default_rng(7)
    rested = [latency(draw, 10, 20, 0.005, lambda session, u: 0.05 * min(1.0, 3 * u)) for _ in range(2)]
    assert growth(rested[0]) is None
    assert growth(*rested) is None


def test_a_cold_start_of_the_other_is_not_growth():
    draw = np.random.default_rng(8)
    for heat in (0.0, 0.03):  # of the machine, by session
        cold = latency(draw, 10, 4, 0.002, lambda session, u, heat=heat: heat * (session + u) + 0.2 * (1 - u))
        flat = latency(draw, 10, 4, 0.002, lambda session, u, heat=heat: heat * (session + u))
        assert growth(flat, cold) is None


# Ratios, gates and tests ---------------------------------------------------------------------------------------------


def test_runs_apart_have_no_ratio_either():
    draw = np.random.default_rng(9)
    flat, grown = (latency(draw, 10, 20, 0.01, lambda session, u: 0.0, grows=grows) for grows in (0.0, 0.3))
    assert in_runs_apart(flat, grown, 0.02, 1.0).grows == ("candidate",)
    assert in_runs_apart(flat, flat, 0.02, 1.0).grows == ()
    assert together(flat, flat, 0.02, 1.0).grows == ()


def test_a_gate_is_open_and_says_so(measure):
    run = measure(Plain(), Growing(0.01))
    before, now = (replace(each, name="net") for each in run.profiles)
    (result,) = gate.judged([limits.parsed("latency:5%")], [before], [now], gate.Terms())
    assert (result.verdict, result.change, result.grows) == ("inconclusive", None, ("candidate",))
    assert result.message.startswith("its time grows with each call: ")
    assert "a call; no single number stands for it" in result.message
    (result,) = gate.judged([limits.parsed("latency:5%")], [now], [before], gate.Terms())
    assert result.message.startswith("of the baseline, its time grows with each call")
    (result,) = gate.judged([limits.parsed("latency:5%")], [now], [now], gate.Terms())
    assert result.verdict == "passed"  # both grow alike: their ratio holds
