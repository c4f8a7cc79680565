"""What pytest-benchmark stored, to reports: one run, tests over commits, others' benchmarks, and what is no run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cnnprof import UsageError, benchmarked, cli, reporting, store
from cnnprof.records import (
    Analysis,
    Benchmark,
    Benchmarks,
    ByMode,
    Candidate,
    Latency,
    Machine,
    Memory,
    Reference,
    Settings,
    Totals,
)
from cnnprof.reporting import benchmarks, figures

MACHINE = Machine(
    cpu="a processor", physical_cores=2, logical_cores=2, threads=2, memory_bytes=8 * 2**30, os="Linux",
    python="3.11.7", torch="2.14.1", device="cpu", device_name=None, cuda=None, load=0.1, allocator="kept",
)  # fmt: skip


def model(params: int, macs: int, median_s: float, machine: Machine = MACHINE, waited: float = 0.0) -> Benchmark:
    totals = Totals(params, params, 0, macs, 64, 4 * params, 1024, 1024)
    times = Latency(((median_s,),) * 5, (0.9,) * 5, (waited,) * 5)
    found = Candidate(
        "net", Analysis("net", (3, 8, 8), 1, totals, 1.0, (), ()), latency=ByMode(times),
        memory=ByMode(Memory(3 * 2**20, 0)), batch_size=4,
    )  # fmt: skip
    return Benchmark(found, "inference", Settings(batch_size=4), machine, Reference("a product/1", (0.002,) * 6))


def entry(name: str, median_s: float, found: Benchmark | None = None) -> dict[str, object]:
    extra = {"theirs": 1} | ({"cnnprof": store.as_part(found)} if found else {})
    stats = {"median": median_s, "iqr": median_s / 10, "rounds": 50, "min": median_s, "mean": median_s}
    return {"name": name, "fullname": f"tests/test_it.py::{name}", "extra_info": extra, "stats": stats}


def document(day: int, *entries, commit: str = "", dirty: bool = False) -> dict[str, object]:
    return {
        "machine_info": {
            "node": "hostname-of-mine", "system": "Linux", "release": "6.1", "python_version": "3.11.7",
            "cpu": {"brand_raw": "a processor"},
        },
        "commit_info": {"id": commit or f"{day:x}" * 40, "time": f"2026-11-{day:02}T10:00:00+01:00", "dirty": dirty},
        "benchmarks": list(entries),
        "datetime": f"2026-12-{31 - day:02}T10:00:00+00:00",
        "version": "5.3.1",
    }  # fmt: skip


def history(**other) -> Benchmarks:
    """The network grows by a tenth at the second commit; the third ran on another machine."""
    elsewhere = replace(MACHINE, torch="2.15.0")
    runs = [
        document(1, entry("test_net", 0.004, model(1000, 5000, 0.004)), entry("test_sum", 1e-5)),
        document(2, entry("test_net", 0.005, model(1100, 6000, 0.005)), entry("test_sum", 1.1e-5), dirty=True),
        document(3, entry("test_net", 0.003, model(1100, 6000, 0.003, elsewhere)), entry("test_sum", 1.2e-5)),
    ]
    found = [Benchmarks((benchmarked.run_of(each, f"{i:04}_run.json"),)) for i, each in enumerate(runs, 1)]
    return together(found[::-1])  # in whatever order files are named


def together(found) -> Benchmarks:
    return benchmarked.together([(Path(record.runs[0].source), record) for record in found])


def saved(tmp_path, *documents):
    for number, each in enumerate(documents, 1):
        (tmp_path / f"{number:04}_run.json").write_text(json.dumps(each))
    return tmp_path


def row(table, first: str) -> dict[str, str]:
    return dict(zip(table.columns, next(cells for cells in table.rows if cells[0] == first), strict=True))


def test_one_run_is_a_table_of_its_tests(tmp_path):
    times = [entry("test_net", 0.004, model(1000, 5000, 0.004)), entry("test_sum", 1e-5)]
    path = saved(tmp_path, document(1, *times)) / "0001_run.json"
    record = reporting.load(path)
    assert isinstance(record, Benchmarks)
    table = benchmarks.table(record)
    net, other = row(table, "test_net"), row(table, "test_sum")
    assert (net["model"], net["parameters"], net["MACs"], net["peak"]) == ("net", "1,000", "5.00 k", "3.00 MiB")
    assert (net["median, ms"], net["IQR, ms"], net["relative"]) == ("4.000", "0.400", "2.0x")  # 4 ms over 2 ms
    assert (net["CPU, %"], net["got, %"], net["batch"]) == ("90", "100", "4")
    assert (other["model"], other["parameters"], other["median, ms"], other["relative"]) == ("-", "-", "0.010", "-")
    for text in (reporting.as_markdown(record), reporting.as_html(record), reporting.as_text(record)):
        assert "test_sum" in text
        assert "1 of 2 tests time a model" in " ".join(text.split())
        assert "hostname-of-mine" not in text


def test_tests_of_one_name_are_told_apart_by_what_differs_in_their_paths():
    names = [
        *(
            "tests/a/test_it.py::test_net[3x3::p/8]",
            "tests/b/test_it.py::test_net[3x3::p/8]",
            "tests/a/test_it.py::test_sum",
        ),
        *("test_it.py::TestOld::test_net", "test_it.py::TestNew::test_net"),
    ]
    run = benchmarked.run_of(document(1, *({**entry("", 1.0), "fullname": name} for name in names)), "it")
    assert [cells[0] for cells in benchmarks.table(Benchmarks((run,))).rows] == [
        *("a/test_it.py::test_net[3x3::p/8]", "b/test_it.py::test_net[3x3::p/8]", "test_sum"),
        *("TestOld::test_net", "TestNew::test_net"),
    ]


def test_runs_stand_in_the_order_of_their_commits():
    assert [run.source for run in history().runs] == ["0001_run.json", "0002_run.json", "0003_run.json"]


def test_a_step_of_parameters_and_macs_is_told_with_its_commit():
    record = history()
    assert "test_net: parameters +10.0 %, from 1,000 to 1,100; MACs +20.0 %, from 5,000 to 6,000, at 22222222+." in (
        benchmarks.sentences(record)
    )
    points = benchmarks.series(record)["tests/test_it.py::test_net"]
    second = row(benchmarks.over_commits(points), "22222222+")
    assert (second["parameters"], second["MACs"]) == ("1,100 (+10.0 %)", "6.00 k (+20.0 %)")
    assert (second["when"], second["relative"], second["machine"]) == ("2 Nov 2026", "2.5x", "A")
    assert row(benchmarks.over_commits(points), "33333333")["machine"] == "B"
    assert "A: torch 2.14.1; B: torch 2.15.0" in benchmarks.machines_note(points)


def test_tests_that_changed_alike_share_a_sentence_and_the_oldest_changes_are_counted():
    def run(day):
        models = [entry(f"test_{name}", 0.004, model(1000 + day, 5000, 0.004)) for name in "abcd"]
        return benchmarked.run_of(document(day, *models, entry("test_e", 0.004, model(10 + day, 50, 0.004))), "it")

    _, *told, earlier = benchmarks.sentences(Benchmarks(tuple(map(run, range(1, 6)))))
    assert told[0] == "test_a and 3 other tests: parameters +0.100 %, from 1,004 to 1,005, at 55555555."
    assert (len(told), earlier) == (6, "The tables below have 2 earlier changes.")


def lines_of(picture: str) -> list[int]:
    """Count the places that each coloured line of the lower panel joins."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--cnnprof-[3-6]', picture)
    return [path.count("L") + 1 for path in paths]


def test_times_of_different_machines_are_not_joined_by_a_line():
    points = benchmarks.series(history())["tests/test_it.py::test_net"]
    apart = figures.over_commits(points)
    assert max(lines_of(apart)) == 2  # the first two runs; intervals join two ends as well
    assert ">A<" in apart
    assert ">B<" in apart
    together = figures.over_commits([replace(point, machine=0) for point in points])
    assert max(lines_of(together)) == 3
    assert ">A<" not in together


def test_others_tests_have_a_figure_too():
    points = benchmarks.series(history())["tests/test_it.py::test_sum"]
    picture = figures.over_commits(points)
    assert max(lines_of(picture)) == 3
    assert "median, µs" in picture
    assert "parameters" not in picture
    assert "parameters" not in benchmarks.over_commits(points).columns


def test_a_run_that_was_starved_is_drawn_hollow():
    def drawn(waited: float) -> str:
        runs = [document(day, entry("test_net", 0.004, model(10, 10, 0.004, waited=waited))) for day in (1, 2)]
        record = together([Benchmarks((benchmarked.run_of(each, "it"),)) for each in runs])
        (points,) = benchmarks.series(record).values()
        assert (points[0].timed.found.ci95_s is None) == (waited > 0.1)
        return figures.over_commits(points)

    assert "fill: var(--cnnprof-3" in drawn(0.0)
    assert "fill: var(--cnnprof-3" not in drawn(0.3)


def test_a_time_far_below_the_reference_is_no_zero():
    run = benchmarked.run_of(document(1, entry("test_net", 2.5e-6, model(10, 10, 2.5e-6))), "it")
    assert row(benchmarks.table(Benchmarks((run,))), "test_net")["relative"] == "0.00125x"  # 2.5 µs over 2 ms


def test_several_runs_make_one_report(typed, tmp_path):
    folder = tmp_path / "machine"
    folder.mkdir()
    saved(folder, *(document(day, entry("test_net", 0.004, model(10 * day, 10, 0.004))) for day in (1, 2)))
    code, out, _ = typed("report", tmp_path)
    assert code == 0
    assert "benchmarks.html" in out
    assert "10 (+" not in (tmp_path / "benchmarks.md").read_text()
    assert "20 (+100.0 %)" in (tmp_path / "benchmarks.md").read_text()
    assert "<svg" in (tmp_path / "benchmarks.html").read_text()
    files = sorted(folder.glob("0*.json"))
    assert typed("report", *files, "-o", tmp_path / "both.csv")[0] == 0
    rows = (tmp_path / "both.csv").read_text().splitlines()
    assert len(rows) == 3
    assert typed("report", files[0])[0] == 0
    assert (folder / "0001_run.html").exists()


def test_runs_of_a_folder_are_joined_in_one_file_as_others_are(typed, tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("cnn", "resnet"):
        assert typed("profile", name, "--time", "0.1", "-o", tmp_path / "runs" / f"{name}.json", "--quiet")[0] == 0
    assert typed("report", tmp_path / "runs", "-o", tmp_path / "all.md")[0] == 0
    text = (tmp_path / "all.md").read_text()
    assert "| cnn" in text
    assert "resnet" in text


def test_a_run_of_a_folder_that_is_cut_off_is_left_out_and_that_is_said(typed, tmp_path):
    saved(tmp_path, *(document(day, entry("test_net", 0.004, model(10, 10, 0.004))) for day in (1, 2)))
    (tmp_path / "0003_run.json").write_text((tmp_path / "0002_run.json").read_text()[:99])
    code, _, err = typed("report", tmp_path)
    assert (code, err.count("\n")) == (0, 1)
    assert "0003_run.json: not JSON, or cut off" in err
    assert "Benchmarks over 2 runs" in (tmp_path / "benchmarks.md").read_text()


# Others' documents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # Windows' shells write the last two
def test_one_number_that_is_none_does_not_lose_a_run(typed, tmp_path, encoding):
    odd = entry("test_odd", 0.003) | {"extra_info": {"loss": float("nan"), "scale": float("-inf")}}
    odd["stats"] |= {"stddev": float("nan"), "iqr": float("nan"), "ops": float("inf")}
    broken = entry("test_broken", float("nan"))
    saved(tmp_path, document(1, odd, broken, entry("test_sum", 1e-3) | {"extra_info": ["a list"]}))
    text = (tmp_path / "0001_run.json").read_text()
    (tmp_path / "0001_run.json").write_text(text, encoding=encoding)
    code, _, err = typed("report", tmp_path / "0001_run.json", "-o", tmp_path / "all.json")
    assert (code, err) == (0, "")
    table = benchmarks.table(store.read(tmp_path / "all.json"))
    assert (row(table, "test_odd")["median, ms"], row(table, "test_odd")["IQR, ms"]) == ("3.00", "-")
    assert row(table, "test_broken")["median, ms"] == "-"
    assert row(table, "test_sum")["median, ms"] == "1.00"


def test_a_model_of_ours_with_a_number_that_is_none_is_left_out_alone(typed, tmp_path):
    odd = entry("test_net", 0.004, model(1000, 5000, 0.004))
    odd["extra_info"]["cnnprof"]["reference"]["times_s"][0] = float("nan")
    saved(tmp_path, document(1, odd, entry("test_same", 0.005, model(1000, 5000, 0.005))))
    code, _, err = typed("report", tmp_path / "0001_run.json", "-o", tmp_path / "all.json")
    said = "times_s is nan, not a finite number: its model is left out, its times are kept"
    assert (code, err.count("\n")) == (0, 1)
    assert "0001_run.json, tests/test_it.py::test_net" in err
    assert said in err
    record = store.read(tmp_path / "all.json")
    table = benchmarks.table(record)
    assert (row(table, "test_net")["median, ms"], row(table, "test_net")["parameters"]) == ("4.00", "-")
    assert (row(table, "test_same")["median, ms"], row(table, "test_same")["parameters"]) == ("5.00", "1,000")
    assert said in " ".join(benchmarks.sentences(record))
    assert str(tmp_path) not in store.to_json(record)


def test_a_median_that_is_no_number_is_not_drawn():
    runs = [document(day, entry("test_sum", each)) for day, each in ((1, 1e-3), (2, float("inf")), (3, 2e-3))]
    record = together([Benchmarks((benchmarked.run_of(each, f"{day}.json"),)) for day, each in enumerate(runs)])
    (points,) = benchmarks.series(record).values()
    assert max(lines_of(figures.over_commits(points))) == 2
    assert row(benchmarks.over_commits(points), "22222222")["median, ms"] == "-"


def test_a_document_of_ours_has_numbers_alone(tmp_path):
    text = store.to_json(history()).replace('"iqr_s": 0.0004', '"iqr_s": NaN')
    assert "NaN" in text
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match="iqr_s is nan, not a finite number"):
        reporting.load(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ("hyperfine", {"results": [{"command": "ls", "mean": 0.1, "times": [0.1]}]}),
        (
            "asv",
            {"commit_hash": "1a2b", "env_name": "py3", "params": {}, "results": {"time_it": [[0.1]]}, "version": 2},
        ),
        ("asv", {"arch": "x86_64", "cpu": "", "machine": "m", "num_cpu": "2", "os": "Linux", "ram": "1", "version": 1}),
        ("pyperf", {"benchmarks": [{"runs": [{"values": [0.1]}]}], "metadata": {}, "version": "1.0"}),
        ("google-benchmark", {"context": {"num_cpus": 2}, "benchmarks": [{"name": "BM_it", "real_time": 1e9}]}),
        ("torch.profiler", {"schemaVersion": 1, "traceEvents": []}),
    ],
)
def test_json_of_other_programs_is_named(typed, tmp_path, theirs, found):
    (tmp_path / "run.json").write_text(json.dumps(found))
    for command in (["report"], ["gate", "--fail-on", "params:0%", "--against", tmp_path / "baseline.json"]):
        code, _, err = typed(*command, tmp_path / "run.json")
        assert (code, err.count("\n")) == (2, 1)
        said = f"run.json: it looks like JSON of {theirs}; one such as cnnprof.analysis/1 was expected; report reads "
        assert said in err


def test_a_run_of_pytest_benchmark_is_no_run_for_a_gate(typed, tmp_path):
    saved(tmp_path, document(1, entry("test_sum", 1.0)))
    code, _, err = typed("gate", "--fail-on", "params:0%", "--against", "baseline.json", tmp_path / "0001_run.json")
    assert code == 2
    assert "it looks like JSON of pytest-benchmark" in err


# Every run and test ---------------------------------------------------------------------------------------------------


def test_tests_of_older_runs_are_in_the_report(typed, tmp_path):
    net = entry("test_net", 0.004, model(1000, 5000, 0.004))
    runs = document(1, net, entry("test_a", 2.005)), document(2, entry("test_b", 144e-9))
    assert typed("report", saved(tmp_path, *runs))[0] == 0
    table = benchmarks.table(together([reporting.load(tmp_path / f"000{i}_run.json") for i in (1, 2)]))
    told = [(cells["test"], cells["run"], cells["median"]) for each in table.rows if (cells := row(table, each[0]))]
    assert told == [
        ("test_b", "22222222", "144.0 ns"),
        ("test_net", "11111111", "4.00 ms"),
        ("test_a", "11111111", "2.00 s"),  # 2.005 lies between two doubles; the nearer is below
    ]
    text = (tmp_path / "benchmarks.md").read_text()
    assert "1 of 3 tests time a model" in text
    assert text in reporting.as_markdown(together([reporting.load(tmp_path / f"000{i}_run.json") for i in (1, 2)]))


def labelled(tmp_path, documents) -> list[str]:
    """Store documents by their paths, and label what is read of them, in the order of the paths."""
    for path, each in documents.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(each))
    record = benchmarked.together([(tmp_path / path, reporting.load(tmp_path / path)) for path in documents])
    by_day = sorted(range(len(record.runs)), key=lambda number: record.runs[number].source)
    found = benchmarks.labels(record.runs)
    return [found[number] for number in by_day]


def run(day: int, moment: str = "", **other) -> dict[str, object]:
    """A run without a commit."""
    found = document(day, entry("test_sum", 1e-3 * day))
    return found | {"commit_info": {}} | ({"datetime": moment} if moment else {}) | other


SAME = {"id": "1a2b3c4d" * 5, "time": "2026-11-02T10:00:00+01:00", "dirty": False}


@pytest.mark.parametrize(
    ("documents", "labels"),
    [
        ({"0001_a.json": run(1), "0002_b.json": run(2)}, ["0001", "0002"]),
        (
            {"Linux-CPython-3.11-64bit/0001_a.json": run(1), "Windows-CPython-3.11-64bit/0001_a.json": run(2)},
            ["0001 Linux", "0001 Windows"],
        ),
        (
            {f"ci/{each}/0001_benchmark.json": run(day) for day, each in enumerate(("one", "two", "x"), 1)},
            ["0001 one", "0001 two", "0001 x"],
        ),
        ({"0001_before.json": run(1), "0001_after_it.json": run(2)}, ["0001 after it", "0001 before"]),
        (
            {"0001_a.json": run(1, commit_info=SAME), "0002_a.json": run(2, commit_info=SAME), "0003_b.json": run(3)},
            ["1a2b3c4d 0001", "1a2b3c4d 0002", "0003"],
        ),
    ],
)  # fmt: skip
def test_every_run_has_a_label_of_its_own(tmp_path, documents, labels):
    assert labelled(tmp_path, documents) == labels


def test_runs_of_one_file_name_and_commit_are_told_apart_by_their_machine_or_time():
    first = benchmarked.run_of(run(1, "2026-12-01T10:00:00+00:00"), "0001_a.json")
    assert benchmarks.labels([first, replace(first, machine="a processor, Windows 11, Python 3.11.7")]) == [
        *("0001 Linux 6.1", "0001 Windows 11"),
    ]
    assert benchmarks.labels([first, replace(first, created="2026-12-01T10:07:00+00:00")]) == [
        "0001 10:00",
        "0001 10:07",
    ]
    assert benchmarks.labels([first, replace(first, created="2026-12-03T10:00:00+00:00")]) == [
        *("0001 1 Dec 2026", "0001 3 Dec 2026"),
    ]
    assert benchmarks.labels([first, first]) == ["0001 (1)", "0001 (2)"]


def test_runs_of_one_day_have_their_time():
    moments = ("2026-12-01T10:00:00", "2026-12-01T17:30:05")
    found = [Benchmarks((benchmarked.run_of(run(1, each), f"000{i}.json"),)) for i, each in enumerate(moments)]
    (points,) = benchmarks.series(together(found)).values()
    assert [cells[1] for cells in benchmarks.over_commits(points).rows] == ["1 Dec 2026 10:00", "1 Dec 2026 17:30"]


# Many runs, and long names -------------------------------------------------------------------------------------------


def test_a_report_of_many_runs_is_light():
    """A figure of 40 runs had 15,000 letters where it timed no model."""
    runs = [
        document(1 + day % 28, entry("test_net", 1e-3, model(10, 10, 1e-3 + day * 1e-6)), entry("test_sum", 1e-3))
        for day in range(40)
    ]
    record = together([Benchmarks((benchmarked.run_of(each, f"{day:04}.json"),)) for day, each in enumerate(runs)])
    net, other = benchmarks.series(record).values()
    assert (len(net), len(other)) == (40, 40)
    assert len(figures.over_commits(net)) < 13_000
    assert len(figures.over_commits(other)) < 5_000


def test_reading_many_files_tells_how_far_it_is(tmp_path):
    saved(tmp_path, *(document(day, entry("test_sum", 1.0)) for day in (1, 2, 3, 4)))
    shares = []
    assert len(list(cli._loaded([tmp_path], shares.append))) == 4
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_a_long_name_wraps_in_a_page():
    names = "test_sum", f"test_{'long_' * 25}"
    run = benchmarked.run_of(document(1, *(entry(name, 1.0) for name in names)), "it.json")
    page = reporting.as_html(Benchmarks((run,)))
    assert f'<th scope="row" class="word">{names[0]}</th>' in page
    assert f'<th scope="row" class="word long">{names[1]}</th>' in page
    assert re.search(r"\.long {[^}]*white-space: normal; overflow-wrap: anywhere", page)


def test_a_record_of_runs_is_read_again():
    record = history()
    assert store.from_document(json.loads(store.to_json(record))) == record


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON, or cut off"),
        (json.dumps(document(1, entry("test_net", 1.0)))[:-40], "not JSON, or cut off"),
        (json.dumps(document(1)), "a run of pytest-benchmark in which nothing was timed"),
        ('{"machine_info": {}, "benchmarks": [{"fullname": "a"}], "datetime": ""}', "it lacks 'stats'"),
        ('{"machine_info": [], "benchmarks": 5, "datetime": ""}', "not a whole run of pytest-benchmark"),
        (
            json.dumps(document(1, entry("a", 1.0) | {"stats": {"median": "x", "iqr": 1, "rounds": 1}})),
            "not a whole run",
        ),
        ('{"benchmarks": []}', "its schema is None"),
        (
            json.dumps(document(1, entry("a", 1.0) | {"extra_info": {"cnnprof": {"schema": "cnnprof.benchmark/2"}}})),
            "cnnprof.benchmark/2 is not of this cnnprof",
        ),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        reporting.load(path)
    assert "\n" not in str(refused.value)


def test_a_folder_without_runs_is_refused(typed, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = typed("report", tmp_path / "empty")
    assert (code, err.count("\n")) == (2, 1)
    assert "a folder without a saved run" in err


def test_names_of_tests_are_no_markup():
    found = benchmarked.run_of(document(1, entry("test[<b>&]", 1.0)), "it")
    assert "<b>&" not in reporting.as_html(Benchmarks((found,)))
    assert "<b>&" not in reporting.as_markdown(Benchmarks((found,)))
