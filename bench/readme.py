"""Writes bench/README.md from a saved run of the suites, and from the saved studies of verdicts. Measures nothing.

    python bench/readme.py [RUN.json [README.md]]     the newest run that `make bench` saved, where none is named

Of what pytest-benchmark saves of a test, its group is a row, and its parameter `what` a column.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import gates
import honesty
import jinja2

from cnnprof import units
from cnnprof.records import MODES
from cnnprof.reporting.markdown import grid
from cnnprof.reporting.tables import Table

HERE = Path(__file__).parent
SUITES = ("commands", "counting", "networks", "times", "layers", "memory", "training", "reporting")
Benchmark = dict[str, Any]


def page(run: dict[str, Any], study: dict[str, Any], later: dict[str, Any], gated: dict[str, Any]) -> str:
    """Render everything; a suite that the run is without leaves its section out."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tables = (side_by_side, spread, networks, costs, peaks, layers, shares)
    environment.filters |= {each.__name__: each for each in tables}
    environment.globals |= {"verdicts": honesty.table, "held": honesty.held, "gates": gates.table}
    suites: dict[str, list[Benchmark]] = {name: [] for name in SUITES}
    for each in run["benchmarks"]:
        suites[Path(each["fullname"].partition("::")[0]).stem.removeprefix("test_")].append(each)
    return environment.get_template("template.md").render(
        suites, measured=measured(run), study=study, later=later, gated=gated
    )


def measured(run: dict[str, Any]) -> str:
    """Say when a run was made, of which revision, and where."""
    machine, commit = run["machine_info"], run["commit_info"]
    words = (
        f"{run['datetime'][:10]}, commit {commit['id'][:12]}{' with changes' * commit['dirty']}: {machine['cpu']}",
        units.plural(machine["logical_cores"], "core"),
        units.bytes_(machine["memory_bytes"]),
        machine["os"],
        f"Python {machine['python']}",
        f"torch {machine['torch']}",
        f"fvcore {machine['fvcore']}",
        f"pytest-benchmark {run['version']}",
    )
    return ", ".join(words)


# Tables --------------------------------------------------------------------------------------------------------------


def side_by_side(found: list[Benchmark]) -> str:
    """Lay medians out, with their ratios to those of the first column."""
    first, *others = dict.fromkeys(each["params"]["what"] for each in found)
    rows = []
    for group, by_what in by_group(found).items():
        medians = {what: each["stats"]["median"] for what, each in by_what.items()}
        beside = (time_beside(medians.get(what), medians.get(first)) for what in others)
        rows.append((group, units.seconds(medians.get(first)), *beside))
    return grid(Table("", ("", first, *others), tuple(rows)))


def time_beside(took_s: float | None, first_s: float | None) -> str:
    """0.0147 beside 0.0397 -> 14.7 ms (0.37x)."""
    said = units.seconds(took_s)
    return said if took_s is None or first_s is None else f"{said} ({units.factor(took_s / first_s)})"


def spread(found: list[Benchmark]) -> str:
    """Say how many rounds the medians are of, and how far the rounds of the least steady one lie apart."""
    stats = [each["stats"] for each in found]
    rounds = units.integers([each["rounds"] for each in stats])
    widest = max(each["iqr"] / each["median"] for each in stats)
    return f"Medians of {rounds} rounds; the middle half of them spans {units.percent(widest, 0)} % at most."


def networks(found: list[Benchmark]) -> str:
    """Lay out networks with the median of each mode, also in reference convolutions."""
    columns = [f"{mode}{what}" for mode in MODES for what in ("", ": peak", ": in convolutions")]
    rows = []
    for network, by_what in by_group(found).items():
        counts = by_what["inference"]["extra_info"]
        cells = [network, units.integer(counts["params"]), units.count(counts["macs"])]
        for mode in MODES:
            own = by_what[mode]["extra_info"]
            cells += [units.seconds(by_what[mode]["stats"]["median"]), units.bytes_(own["peak_bytes"])]
            cells.append(units.short(own["reference_ratio"]))
        rows.append(tuple(cells))
    return grid(Table("", ("", "parameters", "MACs, an image", *columns), tuple(rows)))


def costs(found: list[Benchmark]) -> str:
    """Lay out what tools took beside what they were asked for."""
    columns = ("", "tool", "asked for", "took", "outside the calls", "a call is said to take")
    rows = []
    for each in found:
        own, stats = each["extra_info"], each["stats"]
        outside = None if own["in_calls_s"] is None else 1 - own["in_calls_s"] / stats["total"]
        rows.append(
            (
                each["group"],
                each["params"]["what"],
                units.seconds(own["asked_s"]),
                units.seconds(stats["median"]),
                units.UNKNOWN if outside is None else f"{units.percent(outside)} %",
                units.seconds(own["said_s"]),
            )
        )
    return grid(Table("", columns, tuple(rows), words=frozenset({"tool"})))


def peaks(found: list[Benchmark]) -> str:
    """Lay out the peaks that were measured, and how far the predictions lie from them."""
    predictions = {"cnnprof": "predicted again", "MemTracker": "MemTracker"}
    columns = [f"{mode}: {name}" for mode in MODES for name in ("measured", *predictions)]
    rows = []
    for network, by_what in by_group(found).items():
        cells = [network]
        for mode in MODES:
            peak, *predicted = (
                by_what[what]["extra_info"][mode] for what in ("the steps themselves", *predictions.values())
            )
            cells += [units.bytes_(peak), *(units.change(round(each / peak - 1, 6)) for each in predicted)]
        rows.append(tuple(cells))
    return grid(Table("", ("", *columns), tuple(rows)))


def layers(found: list[Benchmark]) -> str:
    """Lay out what the layers' times leave of the latency, and the layer nearest to its roof."""
    columns = [f"{mode}{what}" for mode in MODES for what in ("", ": remainder", ": profiled in")]
    rows = []
    for network, by_what in by_group(found).items():
        cells = [network]
        for mode in MODES:
            own = by_what[mode]["extra_info"]
            share = units.change(own["remainder_s"] / own["latency_s"])
            cells += [units.seconds(own["latency_s"]), share, units.seconds(by_what[mode]["stats"]["median"])]
        roof = by_what["inference"]["extra_info"]
        rows.append((*cells, f"{units.percent(roof['roof_share'], 0)} %", roof["roof_layer"]))
    return grid(Table("", ("", *columns, "nearest to its roof", "layer"), tuple(rows), words=frozenset({"layer"})))


def shares(found: list[Benchmark]) -> str:
    """Lay out the speed of the trainer and of the loop."""
    columns = ("", "bare loop, img/s", "train_epoch, img/s", "its share, 95 % interval")
    rows = []
    for each in found:
        own = each["extra_info"]
        rates = (units.integer(round(own[f"{who}_images_per_s"])) for who in ("loop", "trainer"))
        share = f"{units.decimal(own['share'], 3)} {units.span(own['share_ci95'], 3)}"
        rows.append((each["group"], *rates, share))
    return grid(Table("", columns, tuple(rows)))


def by_group(found: list[Benchmark]) -> dict[str, dict[str, Benchmark]]:
    """Sort what was found by its group, and in it by `what`."""
    groups: dict[str, dict[str, Benchmark]] = defaultdict(dict)
    for each in found:
        groups[each["group"]][each["params"]["what"]] = each
    return groups


def newest() -> Path:
    """Return the run that was saved last, whatever system and Python made it."""
    saved = sorted(HERE.glob(".benchmarks/*/*.json"), key=lambda path: path.stat().st_mtime)
    if not saved:
        sys.exit("no run is saved: make bench")
    return saved[-1]


def main() -> None:
    """Read the run and the studies, and write the page."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "README.md"
    documents = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (source, HERE / "honesty.json", HERE / "honesty_quiet.json", HERE / "gates.json")
    )
    target.write_text(page(*documents), encoding="utf-8")


if __name__ == "__main__":
    main()
