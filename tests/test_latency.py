"""The method of timing, on a clock that moves only when told: exact, instant, never flaky."""

import dataclasses
import random
from functools import partial

import pytest
import torch

from cnnprof import profiling, timing
from cnnprof.errors import Interrupted
from cnnprof.measurement import latency
from cnnprof.measurement.latency import Maker
from cnnprof.records import Candidate, Settings


def sessions(fake_clock, seconds, number=3, session_s=1.0, **options):
    def maker(name):
        return lambda: lambda: fake_clock.spend(seconds[name], name)

    makers = {"inference": {name: Maker(maker(name)) for name in seconds}}
    stream = latency.sessions(makers, session_s=session_s, seed=1, clock=fake_clock.clock(), **options)
    return [next(stream) for _ in range(number)]


def test_finds_the_times_that_were_planted(fake_clock):
    for session in sessions(fake_clock, {"a": 0.2, "b": 0.033}):
        assert all(time == pytest.approx(0.2) for time in session.samples["a", "inference"].times_s)
        assert all(time == pytest.approx(0.033) for time in session.samples["b", "inference"].times_s)
        assert session.samples["a", "inference"].cpu_share == pytest.approx(1.0)
        assert session.samples["a", "inference"].waited_share == pytest.approx(0.0)


def test_the_first_call_of_a_burst_is_dropped(fake_clock):
    def cold_after_another(name):
        def call():
            cold = not fake_clock.calls or fake_clock.calls[-1] != name
            fake_clock.spend(0.2 if cold else 0.1, name)

        return lambda: call

    makers = {"inference": {name: Maker(cold_after_another(name)) for name in "ab"}}
    stream = latency.sessions(makers, session_s=2.0, seed=1, clock=fake_clock.clock())
    samples = next(stream).samples
    assert all(time == pytest.approx(0.1) for sampled in samples.values() for time in sampled.times_s)


def test_a_slow_start_is_warmed_up(fake_clock):
    def warming():
        left = iter([0.03, 0.015])

        def call():
            fake_clock.spend(next(left, 0.01))

        return call

    stream = latency.sessions({"inference": {"a": Maker(warming)}}, session_s=1.0, seed=1, clock=fake_clock.clock())
    assert all(time == pytest.approx(0.01) for time in next(stream).samples["a", "inference"].times_s)


def test_candidates_are_interleaved_in_changing_order(fake_clock):
    makers = {"inference": {name: Maker(lambda name=name: lambda: fake_clock.spend(0.1, name)) for name in "ab"}}
    stream = latency.sessions(makers, session_s=2.0, seed=1, clock=fake_clock.clock())
    next(stream)
    fake_clock.calls.clear()  # the first session warms up
    for _ in range(3):
        next(stream)
    bursts = [name for name, before in zip(fake_clock.calls, [None, *fake_clock.calls], strict=False) if name != before]
    assert len(bursts) > 10
    assert {"aba", "bab"} <= {"".join(bursts[i : i + 3]) for i in range(len(bursts))}
    longest = max(len(run) for run in "".join(fake_clock.calls).replace("ab", "a b").replace("ba", "b a").split())
    assert longest <= 2 * (1 + latency.MAX_SAMPLES)


def test_short_calls_are_repeated_within_a_sample(fake_clock):
    (session,) = sessions(fake_clock, {"a": 1e-6}, number=1, session_s=0.1)
    before = len(fake_clock.calls)
    assert session.samples["a", "inference"].times_s[0] == pytest.approx(1e-6)
    assert before > 100 * len(session.samples["a", "inference"].times_s)


def test_every_session_builds_anew(fake_clock):
    built = []

    def make():
        built.append(1)
        return lambda: fake_clock.spend(0.1)

    stream = latency.sessions({"inference": {"a": Maker(make)}}, session_s=0.1, seed=1, clock=fake_clock.clock())
    for _ in range(3):
        next(stream)
    assert len(built) == 3


def test_starved_sessions_are_told(fake_clock):
    fake_clock.share = 0.6
    (session,) = sessions(fake_clock, {"a": 0.1}, number=1)
    assert session.samples["a", "inference"].cpu_share == pytest.approx(0.6)
    assert session.samples["a", "inference"].waited_share == pytest.approx(0.4)


def test_where_waiting_is_not_told_it_is_unknown(fake_clock):
    clock = dataclasses.replace(fake_clock.clock(), waited_s=lambda: None)
    makers = {"inference": {"a": Maker(lambda: lambda: fake_clock.spend(0.1))}}
    session = next(latency.sessions(makers, session_s=0.1, seed=1, clock=clock))
    assert session.samples["a", "inference"].waited_share is None


def test_one_that_raises_is_left_out_and_the_others_go_on(fake_clock):
    calls = []

    def breaks():
        calls.append(1)
        fake_clock.spend(0.1)
        if len(calls) > 12:
            raise RuntimeError("out of memory\nand more")

    makers = {"inference": {"good": Maker(lambda: lambda: fake_clock.spend(0.1)), "bad": Maker(lambda: breaks)}}
    stream = latency.sessions(makers, session_s=0.5, seed=1, clock=fake_clock.clock())
    found = [next(stream) for _ in range(4)]
    assert ("bad", "inference") in found[0].samples
    assert found[-1].failures == {("bad", "inference"): "RuntimeError: out of memory"}
    assert all(("good", "inference") in session.samples for session in found)


def test_the_time_is_spread_over_at_least_three_sessions(fake_clock):
    draw = random.Random(1)

    def count(settings, seconds):
        def maker(mean):
            return Maker(lambda: partial(fake_clock.spend, mean * draw.uniform(0.99, 1.01)))

        stream = partial(latency.sessions, {"inference": {name: maker(mean) for name, mean in seconds.items()}})
        settings = dataclasses.replace(settings, modes=("inference",))
        candidates = {name: Candidate(name, analysis=None) for name in seconds}
        start = fake_clock.wall
        states = timing.timed(candidates, stream, settings, fake_clock.clock(), timing.Plan(), lambda share: None)
        return len(list(states)), fake_clock.wall - start

    number, spent = count(Settings(time_s=10.0, ci=1e-9), {"a": 0.2, "b": 0.03})
    assert 7 <= number <= 10
    assert spent == pytest.approx(10.0, rel=0.2)
    assert count(Settings(time_s=1.0), {"a": 5.0, "b": 5.0})[0] == 3
    number, spent = count(Settings(time_s=100.0, ci=0.02), {"a": 0.2, "b": 0.03})
    assert number == latency.SESSIONS_WANTED  # as narrow as was asked: stops early
    assert spent < 100


def test_compare_calls_finds_planted_times(fake_clock):
    calls = {"a": lambda: fake_clock.spend(0.2), "b": lambda: fake_clock.spend(0.1)}
    run = profiling.compare_calls(calls, time_s=5.0, instruments=fake_clock.instruments())
    assert run.baseline == "a"
    assert run.comparisons[0].latency.ratio == pytest.approx(0.5)
    assert run.comparisons[0].latency.verdict == "faster"
    assert run.profiles[1].latency.inference.median_s == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.33, 0.6])
def test_a_starved_run_has_no_winner(fake_clock, share):
    fake_clock.share = share
    calls = {"a": lambda: fake_clock.spend(0.2), "b": lambda: fake_clock.spend(0.1)}
    run = profiling.compare_calls(calls, time_s=5.0, instruments=fake_clock.instruments())
    ratio = run.comparisons[0].latency
    assert (ratio.ratio, ratio.verdict) == (None, "inconclusive")
    said = f"- inconclusive: this process got {100 * share:.0f} % of its CPUs; close other programs"
    assert said in " ".join(str(run).split())
    assert any(f"got {100 * share:.0f} % of its CPUs" in doubt.message for doubt in run.doubts)


def test_starved_sessions_do_not_count(fake_clock):
    draw = random.Random(1)

    def call(seconds):
        fake_clock.share = 0.5 if 8 < fake_clock.wall < 14 else 1.0
        slowed = 1.0 if fake_clock.share == 1.0 else 0.2 / seconds  # under load both take the same time
        fake_clock.spend(seconds * slowed * draw.uniform(0.999, 1.001))

    calls = {"a": lambda: call(0.2), "b": lambda: call(0.1)}
    run = profiling.compare_calls(calls, time_s=20.0, ci=1e-9, instruments=fake_clock.instruments())
    ratio = run.comparisons[0].latency
    assert ratio.verdict == "faster"
    assert 3 <= ratio.sessions <= len(run.profiles[0].latency.inference.sessions) - 3
    assert ratio.ratio == pytest.approx(0.5, rel=1e-3)


def test_a_process_is_warmed_up_until_it_is_steady(fake_clock):
    # slow spells in its first second, as processes of several threads have them
    def build():
        return lambda: fake_clock.spend(0.015 if int(fake_clock.wall / 0.1) % 3 == 0 and fake_clock.wall < 1 else 0.01)

    session = next(
        latency.sessions({"inference": {"a": Maker(build)}}, session_s=0.1, seed=1, clock=fake_clock.clock())
    )
    sampled = session.samples["a", "inference"]
    assert sampled.warm_up_s > 1
    assert all(time == pytest.approx(0.01) for time in sampled.times_s)


# Noise, planted ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Noise:
    """A machine that makes calls slower by a factor: so much at a time, or by chance."""

    clock: object
    factor: object

    def calls(self, a=0.010, b=0.020):
        return {name: partial(self.call, seconds) for name, seconds in (("a", a), ("b", b))}

    def call(self, seconds):
        self.clock.spend(seconds * self.factor(self.clock.wall))


def judged(fake_clock, factor, a=0.010, b=0.020, **options):
    calls = Noise(fake_clock, factor).calls(a, b)
    return profiling.compare_calls(calls, time_s=3.0, ci=1e-9, instruments=fake_clock.instruments(), **options)


def test_drift_cancels_in_the_ratio_and_is_told(fake_clock):
    run = judged(fake_clock, lambda wall: 1 + 0.1 * wall)
    ratio = run.comparisons[0].latency
    assert ratio.ratio == pytest.approx(2.0, rel=0.01)
    assert ratio.ci95[0] <= 2.0 <= ratio.ci95[1]
    assert any("slower" in doubt.message and "while it was measured" in doubt.message for doubt in run.doubts)


def test_two_speeds_are_told(fake_clock):
    draw = random.Random(1)
    run = judged(fake_clock, lambda wall: draw.choice([1.0, 1.5]) * draw.uniform(0.99, 1.01))
    assert run.comparisons[0].latency.ci95[0] <= 2.0 <= run.comparisons[0].latency.ci95[1]
    assert any("two speeds" in doubt.message for doubt in run.doubts)


def test_one_outlier_changes_nothing(fake_clock):
    draw, hit = random.Random(1), []

    def factor(wall):
        if wall > 1.5 and not hit:
            hit.append(wall)
            return 30.0
        return draw.uniform(0.999, 1.001)

    ratio = judged(fake_clock, factor, b=0.010).comparisons[0].latency
    assert hit
    assert ratio.verdict == "equal"


def test_a_slow_first_round_changes_nothing(fake_clock):
    draw = random.Random(1)
    ratio = judged(fake_clock, lambda wall: 3.0 if wall < 0.2 else draw.uniform(0.999, 1.001), b=0.010)
    assert ratio.comparisons[0].latency.verdict == "equal"


def test_slow_spells_of_the_machine_make_no_difference_of_equals(fake_clock):
    # autocorrelated: the machine is slower for 40 ms at a time
    draw, spells = random.Random(1), {}

    def factor(wall):
        return spells.setdefault(int(wall / 0.04), draw.choice([1.0, 1.0, 1.2])) * draw.uniform(0.999, 1.001)

    verdicts = [judged(fake_clock, factor, b=0.010, seed=seed).comparisons[0].latency.verdict for seed in range(20)]
    assert set(verdicts) <= {"equal", "inconclusive"}


def test_interval_of_the_whole_method_covers_the_truth(fake_clock):
    draw = random.Random(2)
    found = [judged(fake_clock, lambda wall: draw.lognormvariate(0, 0.05), seed=seed) for seed in range(200)]
    hits = [run.comparisons[0].latency.ci95[0] <= 2.0 <= run.comparisons[0].latency.ci95[1] for run in found]
    assert sum(hits) / len(hits) >= 0.95


def test_both_orders_give_reciprocal_ratios(fake_clock):
    draw = random.Random(3)

    def ratio(a, b):
        found = judged(fake_clock, lambda wall: draw.lognormvariate(0, 0.02), a, b).comparisons[0].latency
        return found.ratio, found.verdict

    (there, verdict), (back, other) = ratio(0.01, 0.02), ratio(0.02, 0.01)
    assert (verdict, other) == ("slower", "faster")
    assert there * back == pytest.approx(1.0, rel=0.02)


def test_a_clock_that_steps_back_loses_those_samples(fake_clock):
    def stepping():
        fake_clock.spend(0.01)
        if len(fake_clock.calls) % 50 == 0:
            fake_clock.wall -= 0.2

    calls = {"a": stepping, "b": lambda: fake_clock.spend(0.01)}
    run = profiling.compare_calls(calls, time_s=3.0, instruments=fake_clock.instruments())
    assert run.profiles[0].failure is None
    assert run.comparisons[0].latency.ratio == pytest.approx(1.0, rel=0.01)


def test_a_clock_that_stands_still_is_a_failure(fake_clock):
    run = profiling.compare_calls({"a": lambda: None, "b": lambda: None}, 1.0, instruments=fake_clock.instruments())
    assert all("the clock stood still" in profile.failure for profile in run.profiles)


def test_candidates_run_on_their_own_threads():
    before, seen = torch.get_num_threads(), set()

    def build():
        return lambda: seen.add(torch.get_num_threads())

    next(latency.sessions({"inference": {"a": Maker(build, threads=before + 1)}}, session_s=0.01, seed=1))
    assert seen == {before + 1}
    assert torch.get_num_threads() == before


def test_a_callable_that_raises_keeps_the_others(fake_clock):
    def broken():
        raise ValueError("no")

    calls = {"a": lambda: fake_clock.spend(0.2), "b": broken, "c": lambda: fake_clock.spend(0.1)}
    run = profiling.compare_calls(calls, time_s=5.0, instruments=fake_clock.instruments())
    assert run.profiles[1].failure == "inference: ValueError: no"
    assert run.comparisons[0].latency is None
    assert run.comparisons[1].latency.ratio == pytest.approx(0.5)


def test_ctrl_c_keeps_what_was_measured(fake_clock):
    def interrupted():
        fake_clock.spend(0.1)
        if fake_clock.wall > 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        profiling.compare_calls({"a": interrupted, "b": interrupted}, time_s=10.0, instruments=fake_clock.instruments())
    assert caught.value.run.partial
    assert caught.value.run.profiles[0].latency.inference.median_s == pytest.approx(0.1)
