"""pytest hooks: a fixture that times a model in pytest-benchmark's rounds, and limits to a stored run. Loads no torch.

PYTEST_DONT_REWRITE
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cnnprof import benchmarked, store
from cnnprof.comparison import benchmarks, limits
from cnnprof.comparison.doubts import GROWS
from cnnprof.comparison.growth import text as growth_text
from cnnprof.errors import UsageError
from cnnprof.records import Benchmark, Benchmarks, Gate, Mode

if TYPE_CHECKING:
    from cnnprof.subjects import Loss, Model


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what limits need, to pytest-benchmark's own options."""
    group = parser.getgroup("benchmark")
    group.addoption(
        "--cnnprof-fail-on",
        action="append",
        default=[],
        metavar="LIMIT",
        help=f"Fail where a model of cnnprof_benchmark grew beyond this since the stored run that --benchmark-compare "
        f"names, else the last that has it: {limits.GRAMMAR.replace('%', '%%')}. MODEL is a pattern of models or of "
        "tests. Can be given several times.",
    )
    group.addoption(
        "--cnnprof-inconclusive",
        choices=("pass", "fail"),
        default="pass",
        help="What a time counts as whose interval straddles its limit. Default: %(default)s",
    )


class Session:
    """What one run of pytest holds to its limits."""

    def __init__(self, config: pytest.Config) -> None:
        self.limits = [limits.parsed(text) for text in config.getoption("cnnprof_fail_on")]
        self.inconclusive = config.getoption("cnnprof_inconclusive")
        self.found: dict[str, Benchmark] = {}
        self.source: dict[str, str] = {}
        """The stored run that each test's model is of."""
        self.disabled = False
        self.stored: dict[str, Benchmark] = {}
        self.said: list[str] = []
        self.gate: Gate | None = None

    def load(self, config: pytest.Config) -> None:
        """Read what pytest-benchmark compares with, before this run may be stored itself; else each test's last run.

        Raises UsageError where a run that is asked for is not there.
        """
        asked = config.getoption("benchmark_compare")
        theirs: Any = config.pluginmanager.get_plugin("pytest-benchmark")
        self.disabled = theirs.disabled
        runs = list(theirs.storage.load(*([asked] if isinstance(asked, str) else [])))
        if isinstance(asked, str):
            runs = runs[-1:]
            if not runs:
                raise UsageError(f"--benchmark-compare={asked}: no stored run goes by that; its number was expected")
        for path, document in reversed(runs):
            if self.stored and all(entry["fullname"] in self.stored for entry in document["benchmarks"]):
                continue  # all of it is superseded
            try:
                run = benchmarked.run_of(document, str(path))
            except UsageError:
                if not self.stored:
                    raise
                continue  # of an older release, say
            source = re.sub("([0-9a-f]{12})[0-9a-f]{28}", r"\1", Path(path).stem)  # as git shortens a revision
            self.said += benchmarked.left_out(Benchmarks((run,)))
            for timed in run.benchmarks:
                if timed.found and timed.test not in self.stored:
                    self.stored[timed.test], self.source[timed.test] = timed.found, source

    def judge(self) -> int:
        """Hold what was found to the limits; return pytest's exit status."""
        if not self.found:
            why = "; benchmarks are disabled, by an option or by pytest-xdist" if self.disabled else ""
            self.said.append(f"no model was timed: nothing was held to them{why}")
        elif not self.found.keys() & self.stored.keys():
            self.said.append("no stored run holds these models: every number passes; --benchmark-autosave stores one")
        else:
            against = ", ".join(dict.fromkeys(self.source[test] for test in self.found if test in self.source))
            self.gate = benchmarks.held(self.limits, self.stored, self.found, against, self.inconclusive)
            return min(1, self.gate.exit_code)  # pytest has no code for what is inconclusive
        return 0


_SESSION = pytest.StashKey[Session]()


def pytest_configure(config: pytest.Config) -> None:
    """Read the limits before anything is run."""
    try:
        config.stash[_SESSION] = Session(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Read the stored run."""
    ours = session.config.stash[_SESSION]
    try:
        if ours.limits:
            ours.load(session.config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let limits decide where all tests passed."""
    ours = session.config.stash[_SESSION]
    if not ours.limits:
        return
    try:
        code = pytest.ExitCode(ours.judge())
    except UsageError as error:
        ours.said.append(str(error))
        code = pytest.ExitCode.USAGE_ERROR
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = code


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show every number and its limit, and times that no number stands for."""
    ours = config.stash[_SESSION]
    grown = [f"{test}: {growth_text(found)}; {GROWS}" for test, found in benchmarks.growing(ours.found)]
    if not ours.limits and not grown:
        return
    terminalreporter.section("cnnprof")
    for sentence in grown:
        terminalreporter.write_line(sentence)
    for sentence in ours.said:
        terminalreporter.write_line(f"limits: {sentence}")
    if ours.gate is not None:
        from cnnprof.reporting import terminal

        terminalreporter.write_line(terminal.text(ours.gate, terminalreporter._tw.fullwidth))


@pytest.fixture
def cnnprof_benchmark(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time a model's forward pass or training step.

    For example `cnnprof_benchmark("resnet18", (3, 224, 224), mode="training", batch_size=8, threads=1)`. `model` is an
    nn.Module or a MODEL string, (C, H, W) comes without the batch, which is 8 by default; `inputs` stand for anything
    else, and a batch beside them says how many images they hold. Settings are those of cnnprof.compare.
    `benchmark.extra_info` has params, macs, peak_bytes, cpu_share, reference_ratio and machine, and all that was found
    as a cnnprof.benchmark/1 document in "cnnprof".
    """

    def measure(
        model: "Model",
        input_size: Sequence[int] | int | None = None,
        mode: Mode = "inference",
        batch_size: int | None = None,
        *,
        inputs: Any = None,
        loss: "Loss | str | None" = None,
        **options: Any,
    ) -> None:
        from pytest_benchmark.fixture import FixtureAlreadyUsed

        from cnnprof.records import BATCH_SIZE
        from cnnprof.rounds import benchmarked as timed
        from cnnprof.subjects import settings_of, subject_of

        found, problem = None, ""
        try:
            subject = subject_of(None, model, input_size, batch_size, inputs)
            settings = settings_of(input_size, batch_size or BATCH_SIZE, _settings(options, mode), loss)
            seconds, rounds = float(_option(request, "max_time")), int(_option(request, "min_rounds"))
            _check_timer(benchmark)
            found = timed(benchmark, subject, settings, loss, seconds, rounds)
        except FixtureAlreadyUsed:
            problem = "cnnprof_benchmark: this test has timed something already; one model a test was expected"
        except UsageError as error:
            problem = str(error)
        if problem:  # out here, so that pytest shows no exception behind it
            benchmark.disabled = True
            with suppress(FixtureAlreadyUsed):
                benchmark.pedantic(lambda: None)  # else pytest-benchmark warns of a fixture that was not used
            pytest.fail(problem, pytrace=False)
        if found is not None:
            document = store.as_part(found)
            benchmark.extra_info.update({name: document[name] for name in _SUMMARY}, **{benchmarked.KEY: document})
            request.config.stash[_SESSION].found[request.node.nodeid] = found

    return measure


_SUMMARY = ("params", "macs", "peak_bytes", "cpu_share", "reference_ratio", "machine")
"""What stands in extra_info itself, where others look for it."""


def _option(request: pytest.FixtureRequest, name: str) -> Any:
    """Return an option of pytest-benchmark, as the test's mark has it, else as the command line does."""
    marker = request.node.get_closest_marker("benchmark")
    usual = request.config.getoption(f"benchmark_{name}")
    return marker.kwargs.get(name, usual) if marker else usual


def _check_timer(benchmark: Any) -> None:
    """Refuse what is no wall clock: the reference beside it, and runs that it is compared with, are of one."""
    timer = benchmark._timer
    if timer not in (time.perf_counter, time.monotonic, time.time):
        name = getattr(timer, "__name__", timer)
        raise UsageError(f"cnnprof_benchmark: timer {name}: a wall clock, such as time.perf_counter, was expected")


def _settings(options: dict[str, Any], mode: Mode) -> Any:
    unknown = options.keys() - _SETTINGS
    if unknown:
        raise UsageError(f"cnnprof_benchmark has no setting {min(unknown)!r}; there are {', '.join(sorted(_SETTINGS))}")
    return {**options, "modes": (mode,)}


_SETTINGS = {
    *("device", "dtype", "amp", "channels_last", "compile", "threads"),
    *("seed", "accumulate", "allocator", "cudnn_benchmark", "tf32"),
}
