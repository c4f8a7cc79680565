"""A record to Markdown as GitHub shows it, complete without pictures. No torch.

Templates hold the order; whatever a user may have named passes through `md`, which escapes what Markdown would take for
markup.
"""

import functools
import re
from collections.abc import Sequence

import jinja2

from cnnprof.records import (
    Analysis,
    Benchmarks,
    Gate,
    MachineReport,
    MemoryProfile,
    RatioMap,
    Record,
    Run,
    Sanity,
    Training,
    Verification,
)
from cnnprof.reporting import benchmarks, checked, drawing, gated, learned, limits, maps, memories, tables, tree


def render(record: Record) -> str:
    """Render the whole report."""
    if isinstance(record, Analysis):
        return _templates().get_template("analysis.md").render(_analysis_view(record))
    if isinstance(record, MachineReport):
        return _templates().get_template("machine.md").render(_machine_view(record))
    if isinstance(record, MemoryProfile):
        return _templates().get_template("memory.md").render(_memory_view(record))
    if isinstance(record, Training):
        return _templates().get_template("training.md").render(_training_view(record))
    if isinstance(record, Verification):
        return _templates().get_template("checks.md").render(_verification_view(record))
    if isinstance(record, Sanity):
        return _templates().get_template("checks.md").render(_sanity_view(record))
    if isinstance(record, Gate):
        return _templates().get_template("gate.md").render(gate_view(record))
    if isinstance(record, Benchmarks):
        return _templates().get_template("benchmarks.md").render(benchmarks_view(record))
    if drawn := maps.of(record):
        return _templates().get_template("map.md").render(_map_view(record, drawn))
    return _templates().get_template("report.md").render(_run_view(record))


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=False,  # this is no HTML: `md` escapes
        loader=jinja2.PackageLoader("cnnprof.reporting"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escaped
    environment.filters["grid"] = grid
    return environment


def gate_view(record: Gate) -> dict[str, object]:
    """What the page of a gate shows, in Markdown and in HTML."""
    return {
        "title": gated.title(record),
        "header": gated.header(record),
        "headline": (gated.headline(record),),
        "sentences": gated.sentences(record),
        "bottom_line": "",
        "doubts": record.doubts,
        "table": gated.table(record),
        "models": gated.by_model(record),
        "changes": gated.changes(record),
        "foot": gated.foot(record),
    }


def benchmarks_view(record: Benchmarks) -> dict[str, object]:
    """What the page of stored runs shows, in Markdown and, with pictures, in HTML."""
    return {
        "title": benchmarks.title(record),
        "header": benchmarks.header(record),
        "headline": benchmarks.sentences(record),
        "bottom_line": "",
        "doubts": (),
        "table": benchmarks.table(record),
        "tests": [
            {
                "name": test,
                "points": points,
                "caption": benchmarks.caption(points),
                "table": benchmarks.over_commits(points),
                "note": benchmarks.machines_note(points),
            }
            for test, points in benchmarks.series(record).items()
            if len(points) > 1
        ],
        "foot": benchmarks.foot(record),
    }


def _run_view(run: Run) -> dict[str, object]:
    trained = learned.of(run)
    return {
        "title": tables.title(run),
        "header": f"{tables.header(run)} · {tables.day(run)}",
        "headline": (*tables.headline(run), *(learned.headline(trained) if trained else ())),
        "bottom_line": tables.bottom_line(run),
        "doubts": (*tables.all_doubts(run), *(learned.doubts(trained) if trained else ())),
        "summary": summary(run),
        "sessions_text": tables.sessions_text(run),
        "answers": tables.answers(run),
        "reaches": [reach for profile in run.profiles if (reach := tables.reach_table(profile))],
        "workings": [
            (
                profile.name,
                drawing.text(profile.analysis.structure),
                tables.working_tables(profile.analysis),
                tables.working_note(profile.analysis),
            )
            for profile in tables.analyzed(run)
            if profile.analysis and profile.analysis.working
        ],
        "layers": [
            {
                "name": profile.name,
                "table": tables.known_columns(table),
                "counted": tables.layer_note(profile),
            }
            for profile in run.profiles
            if profile.analysis and (table := tables.layer_table(profile, most=10_000))
        ],
        "time": (table := tables.time_table(run)) and tables.known_columns(table),
        "sessions": tables.session_table(run),
        "operators": [
            (profile.name, operators, tables.kind_table(profile))
            for profile in run.profiles
            if (operators := tables.operator_table(profile))
        ],
        "limits": [
            (limits.roof_sentence(profile), roofs)
            for profile in run.profiles
            if (roofs := limits.roof_table(profile, most=1000))
        ],
        "why": limits.why(run),
        "training": trained and _learned(trained),
        "foot": tables.foot(run),
    }


def _map_view(run: Run, drawn: RatioMap) -> dict[str, object]:
    return {
        "title": maps.title(drawn),
        "header": f"{tables.header(run)} · {tables.day(run)}",
        "headline": maps.sentences(run, drawn),
        "doubts": tables.all_doubts(run),
        "table": maps.table(run, drawn),
        "method": maps.METHOD,
        "sessions_text": tables.sessions_text(run),
        "matches": tables.matches(run),
        "time": tables.time_table(run),
        "foot": tables.foot(run),
    }


def _analysis_view(analysis: Analysis) -> dict[str, object]:
    return {
        "title": f"What {analysis.model} costs",
        "header": tables.analysis_header(analysis),
        "headline": tables.analysis_headline(analysis),
        "counted": tables.not_counted(analysis),
        "training": tables.training_text(analysis),
        "opinions": tables.opinions(analysis),
        "doubts": analysis.doubts,
        "table": tree.table(analysis, depth=1000),
        "drawing": drawing.text(analysis.structure),
        "working": tables.working_tables(analysis) if analysis.working else (),
        "working_note": tables.working_note(analysis),
        "uncounted": analysis.uncounted,
        "uncalled": analysis.uncalled,
        "foot": tables.analysis_foot(analysis),
    }


def _machine_view(report: MachineReport) -> dict[str, object]:
    return {
        "title": "This machine",
        "header": limits.machine_header(report),
        "headline": limits.machine_sentences(report),
        "doubts": report.doubts,
        "products": limits.products_table(report.peaks),
        "bandwidths": limits.bandwidth_table(report.peaks),
        "foot": limits.machine_foot(report),
    }


def _memory_view(profile: MemoryProfile) -> dict[str, object]:
    predicted = profile.predicted
    return {
        "title": memories.title(profile),
        "header": memories.header(profile),
        "headline": memories.sentences(profile),
        "doubts": profile.doubts,
        "table": memories.table(profile),
        "largest": predicted and memories.largest_table(predicted),
        "layers": predicted and memories.layers_table(predicted),
        "foot": memories.foot(profile),
    }


def _verification_view(record: Verification) -> dict[str, object]:
    return {
        "title": checked.title(record),
        "header": checked.header(record),
        "headline": checked.sentences(record),
        "table": checked.table(record.checks),
        "norms": None,
        "foot": checked.foot(record),
    }


def _training_view(training: Training) -> dict[str, object]:
    return {
        "title": learned.title(training),
        "header": f"{learned.header(training)} · {tables.day(training)}",
        "headline": learned.headline(training),
        "doubts": learned.doubts(training),
        "training": _learned(training),
        "foot": learned.foot(training),
    }


def _learned(training: Training) -> dict[str, object]:
    return {
        "conditions": learned.conditions(training),
        "table": learned.table(training),
        "budgets": learned.budget_table(training),
        "budget_note": learned.BUDGET_NOTE,
        "details": [table for table in (learned.epoch_table(training), learned.run_table(training)) if table],
        "depths": [learned.depth_table(depth) for depth in training.depths],
        "depth_note": learned.DEPTH_NOTE,
        "depth_sentence": learned.depth_sentence(training),
        "method": learned.METHOD,
    }


def _sanity_view(record: Sanity) -> dict[str, object]:
    return {
        "title": checked.sanity_title(record),
        "header": checked.sanity_header(record),
        "headline": checked.sanity_sentences(record),
        "table": checked.table(record.checks),
        "norms": checked.norms_table(record) if record.norms else None,
        "caption": checked.NORMS,
        "foot": checked.sanity_foot(record),
    }


def summary(run: Run) -> tables.Table:
    """Turn the rows of the summary into a table: one candidate's comparison in a column, more in lines of their own."""
    names = [profile.name for profile in run.profiles]
    rows = tables.summary(run)
    if len(names) == 2 and tables.contrasts(run):
        columns = ("", *names, f"{names[1]} vs {names[0]}")
        cells = [(_label(row), *row.values, row.versus[0].removeprefix("- ")) for row in rows]
        return tables.Table("Summary", columns, tuple(cells), frozenset(columns[-1:]))
    cells = []
    for row in rows:
        cells.append((_label(row), *row.values))
        if row.versus:
            cells.append((f"vs {names[0]}", "", *(words.removeprefix("- ") for words in row.versus)))
    return tables.Table("Summary", ("", *names), tuple(cells))


def _label(row: tables.Row) -> str:
    return f"{row.label} ({row.note})" if row.note else row.label


# Escaping ------------------------------------------------------------------------------------------------------------

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escaped(text: str) -> str:
    """Escape Markdown's markup and mathematics; an underscore within a word is neither, and stays."""
    line = " ".join(text.split())
    line = re.sub(r"[&<>]", lambda match: _ENTITIES[match[0]], line)
    line = re.sub(r"([\\`*|~$]|\[(?!\d)|\](?=\()|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)
    return re.sub(r"^([#+=-](?=.)|\d+[.)](?=\s|$))", lambda match: f"{match[0][:-1]}\\{match[0][-1]}", line)


def grid(table: tables.Table) -> str:
    """Lay a table out, padded so that its source can be read too."""
    cells = [[escaped(cell) for cell in row] for row in (table.columns, *table.rows)]
    if table.total:
        cells[-1] = [f"**{cell}**" if cell else "" for cell in cells[-1]]
    left = [number == 0 or column in table.words for number, column in enumerate(table.columns)]
    widths = [max(3, *(len(row[number]) for row in cells)) for number in range(len(table.columns))]
    rules = [
        f":{'-' * (width - 1)}" if words else f"{'-' * (width - 1)}:" for width, words in zip(widths, left, strict=True)
    ]
    lines = [_line(row, widths, left) for row in cells]
    return "\n".join([lines[0], _line(rules, widths, left), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    padded = (
        cell.ljust(width) if words else cell.rjust(width)
        for cell, width, words in zip(cells, widths, left, strict=True)
    )
    return f"| {' | '.join(padded)} |"
