"""Maps of ratios: what two models win against each other at equal values, by MACs and in time."""

import itertools
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from test_reporting import MACHINE, Page, candidate, comparison, contrast, latency

from cnnprof import profiling, reporting
from cnnprof.comparison.doubts import doubts
from cnnprof.comparison.ratios import filled
from cnnprof.errors import Interrupted
from cnnprof.records import ByMode, Comparison, Latency, RatioMap, Settings
from cnnprof.reporting import figures, maps

AXES = {"channels": ("64", "128"), "input-size": ("7", "14", "28")}
FASTER = (0.5, 1.0, 2.0, 4.0, 5.0, 3.0)
"""By cell, how many times faster the second model is in the forward pass; its MACs are 10 times fewer everywhere."""


def drawn(axes=AXES, faster=FASTER) -> Comparison:
    names = [", ".join(values) for values in itertools.product(*axes.values())]
    # The first model's cells grow, so that a ratio to another cell's would be seen.
    firsts = [candidate(f"plain {name}", 10.0 * (number + 1)) for number, name in enumerate(names)]
    seconds = [
        replace(
            candidate(f"slim {name}", 1.0 * (number + 1)),
            latency=ByMode(latency(2.0 * (number + 1) / times), latency(2.0 * (number + 1))),
        )
        for number, (name, times) in enumerate(zip(names, faster, strict=True))
    ]
    profiles = (*firsts, *seconds)
    map = filled(RatioMap("plain", "slim", axes), profiles)
    return replace(
        comparison(),
        baseline=profiles[0].name,
        profiles=profiles,
        comparisons=tuple(contrast(profile.name) for profile in profiles[1:]),
        doubts=doubts(MACHINE, Settings(), profiles, (), False, map),
        map=map,
    )


def test_each_pair_is_of_equal_values():
    cells = drawn().map.cells
    assert [cell.values for cell in cells] == list(itertools.product(*AXES.values()))
    assert [cell.baseline for cell in cells] == [f"plain {', '.join(cell.values)}" for cell in cells]
    assert [cell.contrast.name for cell in cells] == [f"slim {', '.join(cell.values)}" for cell in cells]
    for cell, times in zip(cells, FASTER, strict=True):
        assert cell.contrast.macs.ratio == cell.contrast.params.ratio == pytest.approx(0.1)
        assert cell.contrast.latency.ratio == pytest.approx(1 / times)
        assert cell.won == pytest.approx(times / 10)
        assert cell.training_won == pytest.approx(2 / 10)  # 4 s against 2 s


def test_nothing_is_won_where_there_is_no_verdict():
    run = drawn()
    cell = run.map.cells[0]
    unsure = replace(cell.contrast.latency, verdict="inconclusive")
    assert replace(cell, contrast=replace(cell.contrast, latency=unsure)).won is None
    assert replace(cell, contrast=replace(cell.contrast, latency=None)).won is None


def test_a_map_is_saved_and_read_again(tmp_path):
    run = drawn()
    path = reporting.save(run, tmp_path / "map.json")
    assert reporting.load(path) == run
    document = json.loads(path.read_text())["map"]
    assert document["axes"] == {name: list(values) for name, values in AXES.items()}
    assert [cell["won"] for cell in document["cells"]] == pytest.approx([times / 10 for times in FASTER])


def test_every_form_says_what_should_be_won_and_what_is():
    run = drawn()
    forms = (str(run), reporting.as_markdown(run), reporting.as_html(run), reporting.as_html_fragment(run))
    for form in forms:
        text = " ".join((Page(form).text if form.startswith("<") else form).split())
        for words in ("10.0x fewer", "5.0", "equal", "2.0", "channels", "input-size"):
            assert words in text
        assert "None" not in text
    for form in forms[:3]:
        text = " ".join((Page(form).text if form.startswith("<") else form).split())
        assert "By MACs slim should win 10.0x over plain." in text
        assert (
            "wins 0.50x to 5.0x: 50 % of that at channels=128, input-size=14, 5 % at channels=64, input-size=7." in text
        )
    assert "Plain or slim, over channels and input-size?" in Page(forms[2]).text


def words_of(svg):
    return [word.strip() for word in ElementTree.fromstring(svg).itertext() if word.strip()]


def test_the_picture_holds_both_numbers_of_each_cell():
    words = words_of(figures.ratio_map(drawn().map, "inference"))
    assert words.count("of 10.0x") == 6
    assert {"0.50x", "1.00x", "2.0x", "4.0x", "5.0x", "3.0x", *AXES, *AXES["channels"], *AXES["input-size"]} <= set(
        words
    )
    one = drawn({"reduction": ("2", "4", "8")}, FASTER[:3])
    assert {"reduction", "2", "4", "8", "0.50x"} <= set(words_of(figures.ratio_map(one.map, "inference")))


def test_what_was_not_decided_is_not_coloured():
    run = drawn()
    wild = Latency(((0.1,), (1.0,), (9.0,)), (1.0,) * 3, (0.0,) * 3)
    profiles = (*run.profiles[:-1], replace(run.profiles[-1], latency=ByMode(wild, wild)))
    map = filled(run.map, profiles)
    assert maps.table(run, map).rows[-1][4:] == ("inconclusive", "-", "inconclusive", "-")
    assert "?" in words_of(figures.ratio_map(map, "inference"))
    (doubt, _) = doubts(MACHINE, Settings(), profiles, (), False, map)[-2:]
    assert doubt.message == "1 of 6 ratios are inconclusive"


def test_before_anything_is_measured_the_exact_columns_stand():
    run = drawn()
    bare = [replace(profile, latency=ByMode(), memory=ByMode()) for profile in run.profiles]
    map = filled(run.map, bare)
    assert {row[2:] for row in maps.table(run, map).rows} == {("10.0x fewer", "10.0x fewer", "-", "-", "-", "-")}
    assert maps.sentences(run, map) == ("By MACs slim should win 10.0x over plain.",)
    assert "of 10.0x" in words_of(figures.ratio_map(map, "inference"))


# A whole run ---------------------------------------------------------------------------------------------------------

QUICK = ["-b", "1", "--mode", "inference", "--time", "0.2"]


def test_two_models_over_two_arguments(typed):
    axes = ["--over", "channels=8,16", "--over", "input-size=3,5"]
    code, out, err = typed("compare", "regular", "bottleneck", *axes, *QUICK)
    assert (code, err) == (0, "")
    (path,) = Path("reports").glob("*.json")
    assert path.name == "regular-vs-bottleneck-over-channels-input-size-b1-inference-time0.2.json"
    document = json.loads(path.read_text())
    sizes = [profile["analysis"]["input_size"] for profile in document["profiles"]]
    assert sizes == 2 * [[8, 3, 3], [8, 5, 5], [16, 3, 3], [16, 5, 5]]
    cells = document["map"]["cells"]
    assert [cell["values"] for cell in cells] == [["8", "3"], ["8", "5"], ["16", "3"], ["16", "5"]]
    # 2·9·C² MACs a pixel against 2·C·C/4 + 9·(C/4)²
    assert {cell["contrast"]["macs"]["ratio"] for cell in cells} == {(1 / 2 + 9 / 16) / 18}
    assert not any("input sizes" in doubt["message"] for doubt in document["doubts"])
    assert "By MACs bottleneck should win 16.9x over regular." in " ".join(out.split())
    assert "4 input sizes · batch 1 · float32" in out


def test_a_match_in_every_cell(typed):
    over = ["--over", "channels=8,16"]
    options = ["--match", "macs", "--input-size", "3", *QUICK, "--no-report", "--json"]
    code, out, _ = typed("compare", "regular", "bottleneck", *over, *options)
    assert code == 0
    matched = [profile["matched"] for profile in json.loads(out)["profiles"]]
    assert [match and match["wanted"] for match in matched] == [None, None, 18 * 8**2 * 9, 18 * 16**2 * 9]
    assert all(abs(match["ratio"] - 1) < 0.1 for match in matched[2:])


def test_the_first_state_is_exact():
    states = []

    def interrupted(run):
        states.append(run)
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        profiling.compare(
            ["regular", "bottleneck"],
            2,
            over={"channels": (4, 8)},
            modes=("inference",),
            listener=profiling.Listener(interrupted),
        )
    assert len(states) == 1
    assert [cell.values for cell in states[0].map.cells] == [("4",), ("8",)]
    assert all(cell.contrast.macs.ratio for cell in states[0].map.cells)
    assert all(cell.contrast.latency is None for cell in states[0].map.cells)


@pytest.mark.parametrize(
    ("models", "over", "is_map"),
    [
        (["a", "b"], {"channels": "12"}, True),
        (["a", "b"], {"channels": "12", "b": "12"}, True),
        (["a", "b"], {"batch-size": "12"}, False),  # which has a picture of its own
        (["a", "b"], {"channels": "1"}, False),
        (["a", "b"], {"x": "12", "y": "12", "z": "12"}, False),
        (["a"], {"channels": "12"}, False),
        (["a", "b", "c"], {"channels": "12"}, False),
    ],
)
def test_what_makes_a_map(models, over, is_map):
    assert (profiling._plan(models, over) is not None) == is_map
