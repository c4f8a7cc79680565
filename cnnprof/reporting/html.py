"""A record to one HTML file that needs nothing else, or to the piece of it that a notebook shows. No torch.

Templates hold the markup, tables and units the text, figures the pictures; here they are put into a page's order.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup, escape

from cnnprof import units
from cnnprof.records import (
    Analysis,
    Benchmarks,
    Candidate,
    Depth,
    Gate,
    GateVerdict,
    MachineReport,
    MemoryProfile,
    Mode,
    RatioMap,
    Record,
    Run,
    Sanity,
    Status,
    Training,
    Verification,
)
from cnnprof.reporting import checked, drawing, figures, learned, limits, maps, markdown, memories, tables, tree


@dataclass(frozen=True)
class Entry:
    """One candidate's line of a card."""

    name: str
    colour: int
    value: str
    versus: str
    tone: str


@dataclass(frozen=True)
class Card:
    """One number of the first screen, by candidate; the unit stands beside each value."""

    title: str
    unit: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    """Doubts about this number, and what it leaves out."""


@dataclass(frozen=True)
class Section:
    """The layers of one candidate."""

    name: str
    colour: int
    table: tables.Table
    figure: Markup | None
    counted: str
    complete: bool


@dataclass(frozen=True)
class Drawings:
    """The structures of networks by name and colour, and how to read them."""

    drawn: tuple[tuple[str, int, Markup], ...]
    caption: str


def render(record: Record) -> str:
    """Render the whole page."""
    if isinstance(record, Analysis):
        return _templates().get_template("analysis.html").render(_analysis_view(record))
    if isinstance(record, MachineReport):
        return _templates().get_template("machine.html").render(_machine_view(record))
    if isinstance(record, MemoryProfile):
        return _templates().get_template("memory.html").render(_memory_view(record))
    if isinstance(record, Training):
        return _templates().get_template("training.html").render(_training_view(record))
    if isinstance(record, Verification):
        return _templates().get_template("checks.html").render(_verification_view(record))
    if isinstance(record, Sanity):
        return _templates().get_template("checks.html").render(_sanity_view(record))
    if isinstance(record, Gate):
        return _templates().get_template("gate.html").render(markdown.gate_view(record), tones=_GATE_TONES)
    if isinstance(record, Benchmarks):
        return _templates().get_template("benchmarks.html").render(markdown.benchmarks_view(record))
    if drawn := maps.of(record):
        return _templates().get_template("map.html").render(_map_view(record, drawn))
    return _templates().get_template("report.html").render(_run_view(record))


def fragment(record: Record) -> str:
    """Render headline, summary and one figure, styled in place, so that a notebook's own page stays as it is."""
    if isinstance(record, MachineReport | MemoryProfile | Verification | Sanity | Gate | Benchmarks):
        return render(record)
    if isinstance(record, Analysis):
        view = _analysis_view(record)
    elif isinstance(record, Training):
        view = _training_view(record)
    else:
        view = _map_view(record, drawn) if (drawn := maps.of(record)) else _head_view(record)
    return _templates().get_template("fragment.html").render(view)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("cnnprof.reporting"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["strong_factors"] = strong_factors
    environment.filters["tone"] = tone
    environment.filters["said"] = said
    environment.filters["over_commits"] = lambda points: _picture(figures.over_commits(points))
    environment.globals["palette"] = figures.PALETTE
    return environment


# What a page shows ---------------------------------------------------------------------------------------------------


def _head_view(run: Run) -> dict[str, object]:
    """Put together what a page and a notebook both show."""
    trained = learned.of(run)
    return {
        "title": tables.title(run),
        "header": f"{tables.header(run)} · {tables.day(run)}",
        "headline": (*tables.headline(run), *(learned.headline(trained) if trained else ())),
        "names": [(_colour(run, i), profile.name) for i, profile in enumerate(run.profiles)],
        "doubts": (*tables.all_doubts(run), *(learned.doubts(trained) if trained else ())),
        "summary": tables.summary(run),
        "pair": f"{run.profiles[1].name} vs {run.profiles[0].name}" if len(run.profiles) == 2 else "",
        "compared": bool(tables.contrasts(run)),
        **_first_figure(run),
    }


def _first_figure(run: Run) -> dict[str, object]:
    if len(run.profiles) > 1:
        return {"first_title": "How many times better", "first": _picture(figures.ratios(run)), "is_ratio": True}
    layers = figures.by_layer(run.profiles[0], _colour(run, 0))
    return {"first_title": "Where it goes", "first": _picture(layers), "is_ratio": False}


_MODE_TITLES: dict[Mode, str] = {"inference": "Forward pass", "training": "Training step"}


def _run_view(run: Run) -> dict[str, object]:
    table = tables.time_table(run)
    return {
        **_head_view(run),
        "bottom_line": tables.bottom_line(run),
        "cards": _run_cards(run),
        "sessions_text": tables.sessions_text(run),
        "answers": tables.answers(run),
        "fields": [
            {"name": profile.name, "colour": _colour(run, i), "svg": picture}
            for i, profile in enumerate(run.profiles)
            if (picture := _picture(figures.effective_field(profile, _colour(run, i))))
        ],
        "reaches": [
            {"name": profile.name, "colour": _colour(run, i), "table": reach}
            for i, profile in enumerate(run.profiles)
            if (reach := tables.reach_table(profile))
        ],
        "drawings": _drawings(
            [(p.name, p.analysis, _colour(run, run.profiles.index(p))) for p in tables.analyzed(run)]
        ),
        "workings": [
            {
                "name": profile.name,
                "colour": _colour(run, run.profiles.index(profile)),
                "tables": tables.working_tables(profile.analysis),
                "note": tables.working_note(profile.analysis),
            }
            for profile in tables.analyzed(run)
            if profile.analysis and profile.analysis.working
        ],
        "layers": [section for i, profile in enumerate(run.profiles) if (section := _section(run, profile, i))],
        "times": [
            {"label": label, "svg": picture}
            for mode, label in _MODE_TITLES.items()
            if (picture := _picture(figures.times(run, mode)))
        ],
        "batches": [picture for mode in run.settings.modes if (picture := _picture(figures.over_batches(run, mode)))],
        "limits": [
            {
                "name": profile.name,
                "colour": _colour(run, i),
                "sentence": limits.roof_sentence(profile),
                "table": roofs,
                "figure": _picture(figures.roofline(profile, run.peaks, _dtype(run, profile), _colour(run, i))),
            }
            for i, profile in enumerate(run.profiles)
            if run.peaks and (roofs := limits.roof_table(profile, most=1000))
        ],
        "why": limits.why(run),
        "operators": [
            {"name": profile.name, "colour": _colour(run, i), "tables": (operators, tables.kind_table(profile))}
            for i, profile in enumerate(run.profiles)
            if (operators := tables.operator_table(profile))
        ],
        "time_table": table and tables.known_columns(table),
        "session_table": tables.session_table(run),
        "training": (trained := learned.of(run)) and _learned(trained),
        "foot": tables.foot(run),
    }


def _map_view(run: Run, drawn: RatioMap) -> dict[str, object]:
    pictures = [
        {"label": _MODE_TITLES[mode], "svg": _picture(figures.ratio_map(drawn, mode))}
        for mode in maps.modes(run, drawn)
    ]
    return {
        "title": maps.title(drawn),
        "header": f"{tables.header(run)} · {tables.day(run)}",
        "headline": maps.sentences(run, drawn),
        "bottom_line": "",
        "doubts": tables.all_doubts(run),
        "first": pictures[0]["svg"],
        "pictures": pictures,
        "table": maps.table(run, drawn),
        "method": maps.METHOD,
        "sessions_text": tables.sessions_text(run),
        "matches": tables.matches(run),
        "time_table": tables.time_table(run),
        "foot": tables.foot(run),
    }


def _dtype(run: Run, candidate: Candidate) -> str:
    own = candidate.measured_with(run.settings)
    return "bfloat16" if own.amp else own.dtype


def _machine_view(report: MachineReport) -> dict[str, object]:
    return {
        "title": "This machine",
        "header": limits.machine_header(report),
        "headline": limits.machine_sentences(report),
        "bottom_line": "",
        "doubts": report.doubts,
        "products": limits.products_table(report.peaks),
        "bandwidths": limits.bandwidth_table(report.peaks),
        "figure": _picture(figures.bandwidth(report.peaks)),
        "foot": limits.machine_foot(report),
    }


def _memory_view(profile: MemoryProfile) -> dict[str, object]:
    predicted, table = profile.predicted, memories.table(profile)
    return {
        "title": memories.title(profile),
        "header": memories.header(profile),
        "headline": memories.sentences(profile),
        "bottom_line": "",
        "doubts": profile.doubts,
        "table": table and tables.known_columns(table, leave_out=tables.BARS),
        "figure": _picture(figures.memory(profile)),
        "measured": profile.error is not None,
        "largest": predicted and memories.largest_table(predicted),
        "layers": (kept := predicted and memories.layers_table(predicted)) and tables.known_columns(kept, tables.BARS),
        "foot": memories.foot(profile),
    }


def _verification_view(record: Verification) -> dict[str, object]:
    return {
        "title": checked.title(record),
        "header": checked.header(record),
        "headline": checked.sentences(record),
        "bottom_line": "",
        "doubts": (),
        "checks": record.checks,
        "tones": TONES,
        "figure": None,
        "foot": checked.foot(record),
    }


def _training_view(training: Training) -> dict[str, object]:
    view = _learned(training)
    return {
        "title": learned.title(training),
        "header": f"{learned.header(training)} · {tables.day(training)}",
        "headline": learned.headline(training),
        "bottom_line": "",
        "doubts": learned.doubts(training),
        "training": view,
        "table": view["table"],  # a notebook shows these two
        "first": view["curves"],
        "foot": learned.foot(training),
    }


def _learned(training: Training) -> dict[str, object]:
    return {
        "conditions": learned.conditions(training),
        "curves": _picture(figures.curves(training)),
        "curves_note": learned.CURVES_NOTE,
        "table": learned.table(training),
        "budgets": learned.budget_table(training),
        "budget_note": learned.BUDGET_NOTE,
        "details": [table for table in (learned.epoch_table(training), learned.run_table(training)) if table],
        "by_depth": _picture(figures.by_depth(training.depths, [learner.name for learner in training.models])),
        "depths": [learned.depth_table(depth) for depth in training.depths],
        "depth_note": learned.DEPTH_NOTE,
        "depth_sentence": learned.depth_sentence(training),
        "method": learned.METHOD,
    }


_GATE_TONES: dict[GateVerdict, str] = {"passed": "better", "failed": "worse", "inconclusive": "warn"}
TONES: dict[Status, str] = {"ok": "better", "warning": "warn", "failed": "worse", "skipped": ""}


def _sanity_view(record: Sanity) -> dict[str, object]:
    return {
        "title": checked.sanity_title(record),
        "header": checked.sanity_header(record),
        "headline": checked.sanity_sentences(record),
        "bottom_line": "",
        "doubts": (),
        "checks": record.checks,
        "tones": TONES,
        "figure": _picture(figures.by_depth([Depth(record.model, record.norms)], [record.model])),
        "norms": checked.norms_table(record),
        "caption": checked.NORMS,
        "foot": checked.sanity_foot(record),
    }


EVERY_LEVEL = 1000
"""Deeper than modules are nested."""


def _analysis_view(analysis: Analysis) -> dict[str, object]:
    table, every = (tables.known_columns(tree.table(analysis, depth), tables.BARS) for depth in (2, EVERY_LEVEL))
    return {
        "title": f"What {analysis.model} costs",
        "header": tables.analysis_header(analysis),
        "headline": (tables.analysis_headline(analysis),),
        "bottom_line": "",
        "names": [(0, analysis.model)],
        "doubts": analysis.doubts,
        "cards": _analysis_cards(analysis),
        "figure": _picture(figures.by_layer(Candidate(analysis.model, analysis), 1)),
        "table": table,
        "every": every if len(every.rows) > len(table.rows) else None,
        "counted": tables.not_counted(analysis),
        "complete": not analysis.uncounted,
        "drawings": _drawings([(analysis.model, analysis, 1)]),
        "working": tables.working_tables(analysis) if analysis.working else (),
        "working_note": tables.working_note(analysis),
        "training": tables.training_text(analysis),
        "opinions": tables.opinions(analysis),
        "uncounted": analysis.uncounted,
        "uncalled": analysis.uncalled,
        "foot": tables.analysis_foot(analysis),
    }


# Cards ---------------------------------------------------------------------------------------------------------------

_CARDS = {
    "params": "parameters",
    "macs": "",
    "inference_s": "forward",
    "training_s": "training step",
    "training_peak": "training memory",
}


def _run_cards(run: Run) -> list[Card]:
    rows = {row.key: row for row in tables.summary(run)}
    cards = [_run_card(run, rows[key], title) for key, title in _CARDS.items() if key in rows]
    return [card for card in cards if any({entry.value, entry.versus} - {units.UNKNOWN, ""} for entry in card.entries)]


def _run_card(run: Run, row: tables.Row, title: str) -> Card:
    alone = row.key in ("inference_s", "training_s")
    spread = row.note if alone else ""  # the interval of its time
    versus = ("", *row.versus) if row.versus else (spread,) * len(row.values)
    entries = tuple(
        Entry(profile.name, _colour(run, i), value, words, tone(words))
        for i, (profile, value, words) in enumerate(zip(run.profiles, row.values, versus, strict=True))
    )
    notes = tuple(_uncounted(run)) if row.key == "macs" else tuple(_doubts_about(run, row.key))
    return Card(title or row.label, row.unit, entries, notes)


def _drawings(named: Sequence[tuple[str, Analysis | None, int]]) -> Drawings | None:
    """Draw networks side by side, to one scale; None where no structure is known."""
    known = [(name, analysis, colour) for name, analysis, colour in named if analysis and analysis.structure]
    if not known:
        return None
    analyses = [analysis for _, analysis, _ in known]
    scale, template = drawing.Scale.over(analyses), _templates().get_template("drawing.svg")
    drawn = tuple(
        (name, colour, Markup(template.render(picture=drawing.picture(analysis, scale, name, colour))))
        for name, analysis, colour in known
    )
    return Drawings(drawn, drawing.caption(analyses))


EVERYTHING = "Everything counted."


def _uncounted(run: Run) -> Iterator[str]:
    """Say beside the MACs what they lack."""
    known = {profile.name: profile.analysis for profile in run.profiles if profile.analysis}
    for name, analysis in known.items():
        if analysis.uncounted:
            yield f"{name}: {tables.not_counted(analysis)}" if len(known) > 1 else tables.not_counted(analysis)
    if known and not any(analysis.uncounted for analysis in known.values()):
        yield EVERYTHING


_ABOUT = {"inference_s": ("latency", "the forward pass"), "training_s": ("latency", "the training step")}


def _doubts_about(run: Run, key: str) -> Iterator[str]:
    return (doubt.message for doubt in run.doubts for end in _ABOUT.get(key, ()) if doubt.about.endswith(end))


def _analysis_cards(analysis: Analysis) -> list[Card]:
    totals, batch = analysis.totals, analysis.images
    per = units.per_image(analysis.batch_size is not None)
    unit = units.gigas([totals.macs / batch])
    outputs, weights = units.count(totals.activations / batch), units.bytes_(totals.param_bytes)
    numbers = (
        ("parameters", units.integer(totals.params), ""),
        (
            f"{unit.name}MACs {per}",
            units.macs(totals.macs / batch, unit, not analysis.uncounted),
            tables.not_counted(analysis),
        ),
        (f"conv outputs {per}", outputs, ""),
        ("weights", weights, ""),
    )
    return [
        Card(title, "", (Entry(analysis.model, 1, value, "", ""),), (note,) if note else ())
        for title, value, note in numbers
    ]


# Layers --------------------------------------------------------------------------------------------------------------


def _colour(run: Run, index: int) -> int:
    return figures.colour_index(index, len(run.profiles))


def _section(run: Run, candidate: Candidate, index: int) -> Section | None:
    table = tables.layer_table(candidate, most=10_000)
    if table is None or candidate.analysis is None:
        return None
    return Section(
        candidate.name,
        _colour(run, index),
        tables.known_columns(table, leave_out=tables.BARS),
        _picture(figures.by_layer(candidate, _colour(run, index))) if len(run.profiles) > 1 else None,
        tables.layer_note(candidate),
        not candidate.analysis.uncounted,
    )


# Text in a page ------------------------------------------------------------------------------------------------------


def _picture(svg: str | None) -> Markup | None:
    """Let the markup of a figure through: figures escapes what is a user's."""
    return None if svg is None else Markup(svg)


_TONES = {"fewer": "better", "faster": "better", "less": "better", "more": "worse", "slower": "worse"}


def tone(words: str) -> str:
    """Say whether a comparison is good news, by its own words."""
    if words.startswith(("inconclusive", "-", "equal", "sees")):
        return ""
    return next((_TONES[word] for word in words.split() if word in _TONES), "")


def said(words: str) -> Markup:
    """Leave the dash out where words follow that say why there is no number; keep an interval on one line."""
    return Markup(_on_one_line(str(escape(words.removeprefix("- ")))))


def _on_one_line(markup: str) -> str:
    return re.sub(r"(\[-?[\d.,]+, -?[\d.,]+\]|\d %)", r'<span style="white-space: nowrap">\1</span>', markup)


def strong_factors(text: str) -> Markup:
    """16.9x fewer -> the same, in strong letters."""
    factor = r"(?<![\w.])(\d[\d,.]*x (?:fewer|faster|slower|less|more))\b"
    return Markup(_on_one_line(re.sub(factor, r"<strong>\1</strong>", str(escape(text)))))
