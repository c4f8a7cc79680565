"""The report room: one hand-made run with round numbers, and what goes wrong in runs, as HTML, Markdown and figures."""

import functools
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cnnprof import profiling
from cnnprof.records import (
    Analysis,
    ByMode,
    Candidate,
    Comparison,
    Contrast,
    Doubt,
    Latency,
    Layer,
    LayerTime,
    Machine,
    Memory,
    Profile,
    Ratio,
    Record,
    Run,
    Settings,
    TimeByLayer,
    TimeRatio,
    Totals,
    Uncounted,
)
from cnnprof.reporting import figures, html, load, markdown, tables

page_of = functools.cache(html.render)

MIB = 2**20
NASTY = "<b>&"
MACHINE = Machine(
    cpu="a processor", physical_cores=2, logical_cores=2, threads=2, memory_bytes=8 * 2**30, os="Linux",
    python="3.11.7", torch="2.14.1", device="cpu", device_name=None, cuda=None, load=0.1, allocator="kept",
)  # fmt: skip


def layer(path: str, params: int, macs: int) -> Layer:
    shape = (1, 4, 8, 8)
    return Layer(path, "Conv2d", 1, params, macs, 256, shape, shape, 1024, 1024, "3x3")


def analysis(name: str, *layers: Layer) -> Analysis:
    params, macs = sum(part.params for part in layers), sum(part.macs for part in layers)
    totals = Totals(params, params, 0, macs, 256 * len(layers), 4 * params, 2048, 2048)
    return Analysis(name, (4, 8, 8), 1, totals, 1.0, (), layers)


def latency(median_s: float, waited: tuple[float | None, ...] = (0.0, 0.0, 0.0)) -> Latency:
    times = tuple((median_s * mood * 0.99, median_s * mood, median_s * mood * 1.01) for mood in (0.999, 1.0, 1.001))
    return Latency(times, (1.0, 1.0, 1.0), waited)


def candidate(name: str, share: float) -> Candidate:
    layers = (layer("conv1", int(1000 * share), int(2e9 * share)), layer("conv2", int(3000 * share), int(6e9 * share)))
    time = TimeByLayer(
        (LayerTime("conv1", "Conv2d", 0.02 * share, 0.03), LayerTime("(loss)", "", 0.001, None)), 0.01, 0.1
    )
    memory = ByMode(Memory(int(80 * MIB * share), MIB), Memory(int(100 * MIB * share), MIB))
    return Candidate(
        name, analysis(name, *layers), None, ByMode(latency(0.2 * share), latency(0.4 * share)), memory, time=time
    )


def contrast(name: str) -> Contrast:
    half, twice = Ratio(0.5), TimeRatio(0.5, (0.48, 0.52), "faster", 3)
    return Contrast(name, twice, twice, half, half, half, half)


def comparison(*others: str) -> Comparison:
    candidates = (candidate("plain", 1.0), *(candidate(name, 0.5) for name in others))
    contrasts = tuple(contrast(name) for name in others)
    return Comparison(
        "cnnprof compare", None, "2026-11-23T10:42:20+00:00", MACHINE, Settings(), "plain", candidates, contrasts
    )


def profile() -> Profile:
    return Profile(
        "cnnprof profile", None, "2026-11-23T10:42:20+00:00", MACHINE, Settings(), (candidate("plain", 1.0),)
    )


def uncounted() -> Analysis:
    return replace(candidate("spectral", 1.0).analysis, uncounted=(Uncounted("fft_rfft2", "filter", 12),))


def without_measurements() -> Comparison:
    run = comparison("slim")
    bare = tuple(replace(each, latency=ByMode(), memory=ByMode(), time=None) for each in run.profiles)
    nothing = replace(run.comparisons[0], latency=None, training_latency=TimeRatio(None, None, "inconclusive", 0),
                      peak_bytes=Ratio(None), training_peak_bytes=Ratio(None))  # fmt: skip
    return replace(run, profiles=bare, comparisons=(nothing,))


def of_callables() -> Comparison:
    run = comparison("slim")
    bare = tuple(Candidate(each.name, None, latency=ByMode(each.latency.inference)) for each in run.profiles)
    unknown = Ratio(None)
    timed = replace(run.comparisons[0], training_latency=None, params=unknown, macs=unknown, peak_bytes=unknown,
                    training_peak_bytes=unknown)  # fmt: skip
    return replace(run, profiles=bare, comparisons=(timed,), settings=Settings(modes=("inference",)))


def failed() -> Comparison:
    run = comparison("slim")
    broken = replace(run.profiles[1], latency=ByMode(), memory=ByMode(), time=None, failure="ValueError: too small")
    nothing = replace(run.comparisons[0], latency=None, training_latency=None,
                      peak_bytes=Ratio(None), training_peak_bytes=Ratio(None))  # fmt: skip
    return replace(run, profiles=(run.profiles[0], broken), comparisons=(nothing,), partial=True)


def starved() -> Comparison:
    run = comparison("slim")
    hungry = replace(run.profiles[0], latency=ByMode(latency(0.2, (0.4, 0.0, None)), None))
    return replace(run, profiles=(hungry, run.profiles[1]))


RECORDS: dict[str, Record] = {
    "two": comparison("slim"),
    "three": comparison("slim", "thin"),
    "eight": comparison(*(f"slim{number}" for number in range(7))),
    "nasty": comparison(NASTY),
    "long": comparison("a_name_that_never_ends_" * 9),
    "odd": comparison("$x_1$ _x 网络 \x00 `|\n|`"),
    "profile": profile(),
    "analysis": uncounted(),
    "empty analysis": analysis("nothing"),
    "without measurements": without_measurements(),
    "callables": of_callables(),
    "failed": failed(),
    "starved": starved(),
}
RUNS = {name: record for name, record in RECORDS.items() if isinstance(record, Comparison | Profile)}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


# HTML to text --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects text, ids and addresses, and checks that what is opened is closed."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "text"):
            self.words.append(data)


# The numbers are there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("render", [html.render, html.fragment, markdown.render])
def test_known_numbers_stand_in_every_form(render):
    source = render(comparison("slim"))
    text = Page(source).text if source.lstrip().startswith("<") else source
    for words in ("Plain or slim?", "23 Nov 2026", "4,000", "2,000", "8.000", "4.000", "200.0", "100.0", "50.0",
                  "2.0x fewer", "2.0x faster [1.9, 2.1]", "2.0x less"):  # fmt: skip
        assert words in text


def test_a_page_has_every_section():
    text = Page(page_of(comparison("slim"))).text
    for words in ("How many times better", "Side by side", "The three questions of a block", "Layers", "Time",
                  "Every session", "Machine, method, what was not counted", "multiply-accumulates"):  # fmt: skip
        assert words in text
    assert "Everything counted." in text


def test_markdown_tables_are_whole():
    for record in RECORDS.values():
        lines = markdown.render(record).splitlines()
        tables_ = "\n".join(lines).split("\n\n")
        for block in (block.splitlines() for block in tables_ if block.startswith("|")):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1
            assert re.fullmatch(r"\|( :?-+:? \|)+", block[1])


def test_markdown_draws_bars():
    assert "█" in markdown.render(comparison("slim"))


def test_three_candidates_are_each_compared():
    run = comparison("slim", "thin")
    for text in (Page(page_of(run)).text, markdown.render(run)):
        assert "Plain, slim or thin?" in text
        assert "thin has 2.0x fewer parameters and MACs" in text
        assert text.count("2.0x faster [1.9, 2.1]") >= 4


def test_a_profile_shows_the_interval_of_its_time():
    text = Page(page_of(profile())).text
    assert "What plain costs" in text
    assert re.search(r"200\.0 \[199\.\d, 200\.\d\]", text)


def test_an_analysis_says_what_it_did_not_count():
    for text in (Page(page_of(uncounted())).text, markdown.render(uncounted())):
        assert "1 operator not counted: fft_rfft2 in filter (12 calls)" in text
        assert "spectral has 4,000 parameters and takes 8.00 GMACs an image." in text
        assert "lower bound" in text


def test_a_run_says_beside_its_macs_what_was_not_counted():
    run = comparison("slim")
    run = replace(run, profiles=(run.profiles[0], replace(run.profiles[1], analysis=uncounted())))
    cards = page_of(run).split('class="card"')
    (macs,) = [card for card in cards if "GMACs per image" in card.partition("</h3>")[0]]
    assert "slim: 1 operator not counted: fft_rfft2 in filter (12 calls)" in macs


# Doubts --------------------------------------------------------------------------------------------------------------


def test_doubts_stand_above_the_numbers_with_their_hints():
    doubt = Doubt("latency", "this process got 33 % of its CPUs", "close other programs")
    run = replace(comparison("slim"), doubts=(doubt,))
    for text in (Page(page_of(run)).text, Page(html.fragment(run)).text, markdown.render(run)):
        assert doubt.message in text
        assert doubt.hint in text
        assert text.index(doubt.hint) < text.index("4,000")
    assert Page(page_of(run)).text.count(doubt.message) == 3  # above, and at both times


def test_without_doubts_nothing_is_said_of_them():
    assert "Before you trust" not in page_of(comparison("slim"))
    assert "Before you trust" not in markdown.render(comparison("slim"))


def test_a_failure_is_told_though_no_doubt_speaks_of_it():
    for text in (page_of(failed()), markdown.render(failed())):
        assert "its measurement stopped: ValueError: too small" in text


# What is unknown, and what is odd ------------------------------------------------------------------------------------


@each_record
def test_a_page_is_well_formed_alone_and_offline(record):
    source = page_of(record)
    page = Page(source)
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") and address[1:] in page.ids for address in page.addresses)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", source)
    assert "None" not in page.text


@each_record
def test_a_fragment_leaves_the_notebook_as_it_is(record):
    page = Page(html.fragment(record))
    assert not {"html", "head", "body", "style", "script"} & set(page.tags)


@each_record
def test_markdown_holds_no_none(record):
    assert "None" not in markdown.render(record)


def test_unknown_is_a_dash():
    run = without_measurements()
    assert re.search(r"peak, training.*\| +- +\| +- +\|", markdown.render(run))
    assert "peak, training, MiB - - -" in re.sub(r" +", " ", Page(page_of(run)).text)
    assert "2.0x fewer" in page_of(run)


def test_names_are_escaped():
    run = comparison(NASTY)
    for source in (page_of(run), html.fragment(run), markdown.render(run)):
        assert NASTY not in source
        assert "<b>" not in source
        assert "&lt;b&gt;&amp;" in source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main_path.0", "main_path.0"),
        ("_private_", r"\_private\_"),
        ("__call__", r"\_\_call\_\_"),
        ("a|b", r"a\|b"),
        ("`code`", r"\`code\`"),
        ("2 * 3", r"2 \* 3"),
        ("two\nlines", "two lines"),
        ("# title", r"\# title"),
        ("1. item", r"1\. item"),
        ("[6.1, 6.9]", "[6.1, 6.9]"),
        ("[1](there)", r"[1\](there)"),
        ("-", "-"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("net[$x$-$$y$$]", r"net\[\$x\$-\$\$y\$\$]"),
    ],
)
def test_markdown_is_escaped_and_readable(text, expected):
    assert markdown.escaped(text) == expected


# Figures -------------------------------------------------------------------------------------------------------------


def pictures(run: Run) -> list[str]:
    found = [figures.ratios(run), *(figures.times(run, mode) for mode in ("inference", "training"))]
    found += [figures.by_layer(each, index) for index, each in enumerate(run.profiles[:7])]
    return [picture for picture in found if picture is not None]


@each_run
def test_figures_are_xml_that_takes_the_pages_colours(run):
    for picture in pictures(run):
        root = ElementTree.fromstring(picture)
        assert root.get("aria-label")
        assert root.get("width") is None
        assert "#0102" not in picture
        assert "#0103" not in picture
        assert "currentColor" in picture


def test_figures_are_the_same_every_time():
    assert pictures(comparison("slim", "thin")) == pictures(comparison("slim", "thin"))


def test_figures_ignore_the_callers_style():
    import matplotlib

    before = figures.ratios(comparison("slim"))
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30.0, "svg.fonttype": "path"}):
        assert figures.ratios(comparison("slim")) == before
        assert matplotlib.rcParams["font.size"] == 30.0


def test_figures_say_what_they_show():
    words = "".join(ElementTree.fromstring(figures.ratios(comparison("slim")) or "").itertext())
    for expected in ("parameters", "2.0x fewer", "2.0x faster", "2.0x less", "times better than plain"):
        assert expected in words


def test_nothing_to_draw_is_none():
    run = without_measurements()
    assert figures.times(run, "inference") is None
    assert figures.ratios(profile()) is None
    assert figures.by_layer(Candidate("bare", None)) is None


def test_layers_beyond_sixteen_are_summed():
    many = analysis("deep", *(layer(f"conv{number}", 10, (number + 1) * 10**9) for number in range(20)))
    words = list(ElementTree.fromstring(figures.by_layer(Candidate("deep", many)) or "").itertext())
    assert "5 others" in words
    assert "15.000" in words  # 1 + 2 + 3 + 4 + 5


def test_many_layers_are_summed_into_their_blocks():
    layers = [layer(f"stage{stage}.{number}.conv", 10, 10**9) for stage in range(5) for number in range(stage + 2)]
    words = list(
        ElementTree.fromstring(figures.by_layer(Candidate("deep", analysis("deep", *layers))) or "").itertext()
    )
    assert [f"stage{stage}" for stage in range(5)] == [word for word in words if word.startswith("stage")]
    assert {"2.000", "3.000", "4.000", "5.000", "6.000"} <= set(words)


def test_a_starved_session_is_named():
    words = "".join(ElementTree.fromstring(figures.times(starved(), "inference") or "").itertext())
    assert "1 starved" in words


def test_a_long_session_is_thinned_but_keeps_its_extremes():
    values = [0.001 * (1 + number) for number in range(5000)]
    drawn = figures._thinned(values)
    assert len(drawn) == figures.MOST_DOTS
    assert (drawn[0], drawn[-1]) == (values[0], values[-1])


def test_worse_is_said_in_words():
    run = comparison("fat")
    worse = replace(run.comparisons[0], params=Ratio(2.0), latency=TimeRatio(1.5, (1.4, 1.6), "slower", 3))
    words = "".join(ElementTree.fromstring(figures.ratios(replace(run, comparisons=(worse,))) or "").itertext())
    assert "2.0x more" in words
    assert "1.50x slower" in words


def test_arithmetic_that_differs_by_nothing_to_speak_of_buys_nothing():
    def said(macs: float) -> str:
        run = comparison("slim")
        traded = replace(run.comparisons[0], macs=Ratio(macs), latency=TimeRatio(1.5, (1.4, 1.6), "slower", 3))
        return tables.bottom_line(replace(run, comparisons=(traded,)))

    assert said(0.5).startswith("2.0x less arithmetic buys nothing in time")
    assert said(0.97) == ""


# The room ------------------------------------------------------------------------------------------------------------


def test_time_tables_add_up():
    table = tables.session_table(comparison("slim"))
    assert table is not None
    assert len(table.rows) == 2 * 2 * 3
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_reporting_runs_without_torch():
    script = """
        import sys
        from cnnprof.records import Analysis, Layer, Totals
        from cnnprof.reporting import as_html, as_html_fragment, as_markdown, as_text
        layer = Layer("conv", "Conv2d", 1, 10, 10**9, 1, (1, 1), (1, 1), 1, 1)
        record = Analysis("m", (1,), 1, Totals(10, 10, 0, 10**9, 1, 40, 1, 1), 1.0, (), (layer,))
        assert all(render(record) for render in (as_text, as_markdown))
        assert "matplotlib" not in sys.modules  # it takes longer to import than a short command
        assert all(render(record) for render in (as_html, as_html_fragment))
        assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], check=True)


# Columns of times ----------------------------------------------------------------------------------------------------

EXAMPLE = Path(__file__).parents[1] / "reports" / "examples" / "regular-vs-bottleneck.json"


def columns_of(table: tables.Table) -> dict[str, list[float]]:
    """The numbers of each column of times, in its unit."""
    places = {column.partition(",")[0]: place for place, column in enumerate(table.columns) if ", ms" in column}
    return {
        name: [float(row[place].replace("<", "")) for row in table.rows if row[place] not in ("", "-")]
        for name, place in places.items()
    }


@pytest.mark.parametrize("place", [0, 1])
def test_each_column_of_times_adds_up_to_its_own_latency(place):
    """The bottleneck's forward rows take 24.95 ms of 23.27, its step's 93.71 of 72.82."""
    run = load(EXAMPLE)
    assert isinstance(run, Comparison)
    found = run.profiles[place]
    table = tables.layer_table(found)
    assert table is not None
    remainders = table.rows[-2]
    assert remainders[0] == "remainder to the latency"
    columns = columns_of(table)
    for name, latency_ in (("forward", found.latency.inference), ("training step", found.latency.training)):
        *rows, total = columns[name]
        assert total == pytest.approx(1e3 * latency_.median_s, abs=0.01)
        assert sum(rows) == pytest.approx(total, abs=0.05)
    assert remainders[columns_at(table, "backward")] == "-"  # it has no latency of its own


def columns_at(table: tables.Table, name: str) -> int:
    return next(place for place, column in enumerate(table.columns) if column.startswith(f"{name}, "))


def test_loss_and_optimizer_are_no_part_of_a_forward_pass():
    table = tables.layer_table(candidate("plain", 1.0))
    assert table is not None
    (loss,) = (row for row in table.rows if row[0] == "loss")
    assert loss[columns_at(table, "forward")] == "-"
    assert loss[columns_at(table, "training step")] == "1.00"


def test_without_a_forward_pass_its_column_has_no_remainder():
    only = replace(candidate("plain", 1.0), latency=ByMode(None, latency(0.4)))
    table = tables.layer_table(only)
    assert table is not None
    assert table.rows[-2][columns_at(table, "forward")] == "-"
    assert table.rows[-2][columns_at(table, "training step")] == "10.00"


def test_a_profile_of_a_forward_pass_has_one_column_of_times():
    time = TimeByLayer((LayerTime("conv1", "Conv2d", 0.02, None),), 0.18, 0.1)
    table = tables.layer_table(replace(candidate("plain", 1.0), latency=ByMode(latency(0.2)), time=time))
    assert table is not None
    assert columns_of(table) == {"forward": [20.0, 180.0, 200.0]}


def test_a_remainder_below_zero_is_explained():
    time = TimeByLayer((LayerTime("conv1", "Conv2d", 0.2, 0.3),), -0.1, 0.6, mode="training")
    said = tables.layer_note(replace(candidate("plain", 1.0), time=time))
    assert "below 0 where they took longer than what was timed" in said
    assert "below 0" not in tables.layer_note(candidate("plain", 1.0))


def test_a_time_that_the_others_unit_does_not_show_has_its_own(fake_clock):
    calls = {"long": lambda: fake_clock.spend(0.0402), "short": lambda: fake_clock.spend(40e-6)}
    run = profiling.compare_calls(calls, time_s=3.0, instruments=fake_clock.instruments())
    (row,) = (row for row in tables.summary(run) if row.key == "inference_s")
    assert (row.label, row.values) == ("forward", ("40.2 ms", "40.0 µs"))
    assert [cells[2] for cells in tables.time_table(run).rows] == ["40.2 ms", "40.0 µs"]
    (card,) = (card for card in html._run_cards(run) if card.title == "forward")
    assert (card.unit, [entry.value for entry in card.entries]) == ("", ["40.2 ms", "40.0 µs"])
