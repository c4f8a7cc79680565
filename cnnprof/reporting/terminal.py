"""Records as text for a terminal: the main table, the tree of layers, a model's screen. Prints nothing. No torch."""

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from cnnprof import units
from cnnprof.records import (
    Analysis,
    Benchmarks,
    Candidate,
    Check,
    Gate,
    MachineReport,
    MemoryProfile,
    Record,
    Run,
    Sanity,
    Status,
    Training,
    Verification,
)
from cnnprof.reporting import benchmarks, checked, drawing, gated, learned, limits, maps, memories, tables, tree

VERDICT_STYLES = {"faster": "green", "fewer": "green", "less": "green", "slower": "red", "more": "red"}


def text(record: Record, width: int = 100) -> str:
    """Render a record as plain text."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable(record))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def renderable(
    record: Record, depth: int = 2, sort: str | None = None, explain: bool = True, show_work: bool = False
) -> RenderableType:
    """Make what rich prints of a record; `depth`, `sort` and `explain` (tools' differences) concern an analysis."""
    if isinstance(record, Analysis):
        return analysis(record, depth, sort, explain, show_work)
    if isinstance(record, MemoryProfile):
        return memory(record)
    if isinstance(record, Verification):
        return verification(record)
    if isinstance(record, Training):
        return training(record)
    if isinstance(record, Sanity):
        return sanity(record)
    if isinstance(record, Gate):
        return gate(record)
    if isinstance(record, Benchmarks):
        return stored_runs(record)
    return machine(record) if isinstance(record, MachineReport) else run(record, show_work)


def run(document: Run, show_work: bool = False) -> RenderableType:
    """The screen of a comparison or of a profile; `show_work`: with the working of each network."""
    parts: list[RenderableType] = [Text(tables.header(document)), Text(), *_summary(document)]
    if len(document.profiles) == 1:
        parts += [Text(), _layers(document)]
    for profile in tables.analyzed(document) if show_work else ():
        assert profile.analysis
        parts += [Text(), Text(profile.name, style="bold"), *working(profile.analysis)]
    parts += [part for profile in document.profiles for part in _limits(profile, len(document.profiles) == 1)]
    parts += [Text(), *_closing_lines(document)]
    if trained := learned.of(document):
        parts += [Text(), Text("Training", style="bold"), Text(learned.conditions(trained)), *_learned(trained)]
    return Group(*parts)


def _limits(candidate: Candidate, alone: bool) -> Iterable[RenderableType]:
    table = limits.roof_table(candidate)
    if table is None:
        return
    yield Text()
    if alone:
        yield Fitted(table)
    yield Text(limits.roof_sentence(candidate))


def machine(report: MachineReport) -> RenderableType:
    """The screen of the doctor."""
    parts: list[RenderableType] = [Text(limits.machine_header(report)), Text()]
    for table in (limits.products_table(report.peaks), limits.bandwidth_table(report.peaks)):
        parts += [Fitted(table), Text()]
    parts += [Text(sentence) for sentence in limits.machine_sentences(report)]
    parts += [doubt_line(doubt.about, doubt.message, doubt.hint) for doubt in report.doubts]
    return Group(*parts)


def memory(profile: MemoryProfile) -> RenderableType:
    """The screen of a memory profile."""
    parts: list[RenderableType] = [Text(memories.header(profile)), Text()]
    table = memories.table(profile)
    if table is not None and profile.predicted is not None:
        parts += [Fitted(table), Text(), Fitted(memories.largest_table(profile.predicted)), Text()]
    parts += [Text(sentence) for sentence in memories.sentences(profile)]
    parts += [doubt_line(doubt.about, doubt.message, doubt.hint) for doubt in profile.doubts]
    return Group(*parts)


def training(record: Training) -> RenderableType:
    """The screen of what was trained."""
    return Group(Text(learned.header(record)), *_learned(record))


def _learned(record: Training) -> Iterable[RenderableType]:
    for table in (learned.table(record), learned.budget_table(record)):
        if table is not None:
            yield from (Text(), Fitted(table))
    yield Text()
    yield from map(Text, learned.sentences(record))
    for doubt in learned.doubts(record):
        yield doubt_line(doubt.about, doubt.message, doubt.hint)


STATUS_STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def verification(record: Verification) -> RenderableType:
    """The screen of a verification: a line a class, and below it the checks that do not hold."""
    *inconclusive, last = checked.sentences(record)
    parts: list[RenderableType] = [Text(checked.header(record)), *map(Text, inconclusive), Text()]
    for kind, checks in checked.by_class(record).items():
        parts.append(Text(f"{kind:<25}{checked.agreeing(checks)}"))
        parts += [_not_ok(kind, checks)] if any(check.status != "ok" for check in checks) else []
    return Group(*parts, Text(), *map(Text, (last, *checked.notes(record))))


def sanity(record: Sanity) -> RenderableType:
    """The screen of sanity: every check, and what to do where one does not hold."""
    sentences = [*map(Text, checked.sanity_sentences(record))]
    first = [*sentences, Text()] if record.not_asked else []
    return Group(Text(checked.sanity_header(record)), Text(), *first, _rows(record.checks), Text(), *sentences)


GATE_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "inconclusive": "yellow",
    "skipped": "dim",
}


def gate(record: Gate) -> RenderableType:
    """The screen of a gate: every number against its limit, the layers that changed, and what came out."""
    changes = gated.changes(record)
    parts: list[RenderableType] = [Text(gated.header(record)), Text()]
    if record.results:
        parts += [Fitted(gated.table(record), GATE_STYLES), Text()]
    if changes:
        parts += [Text(changes.title, style="bold"), Fitted(changes), Text()]
    doubts = (doubt_line(doubt.about, doubt.message, doubt.hint) for doubt in record.doubts)
    return Group(*parts, *map(Text, (gated.headline(record), *gated.sentences(record))), *doubts)


def stored_runs(record: Benchmarks) -> RenderableType:
    """The screen of pytest-benchmark's runs: the tests of the newest, and what changed."""
    head = f"{benchmarks.title(record)} · {benchmarks.header(record)}"
    said = map(Text, benchmarks.sentences(record))
    return Group(Text(head), Text(), Fitted(benchmarks.table(record)), Text(), *said)


def _rows(checks: Iterable[Check]) -> Grid:
    grid = Grid(box=None, padding=(0, 0, 0, 2), show_header=False)
    for check in checks:
        grid.add_row(Text(check.status, style=STATUS_STYLES[check.status]), Text(check.name), Text(check.message))
        if check.hint:
            grid.add_row("", "", Text(f"-> {check.hint}", style="dim"))
    return grid


def _not_ok(kind: str, checks: Iterable[Check]) -> Grid:
    grid = Grid(box=None, padding=(0, 0, 0, 2), show_header=False)
    told: set[str] = set()
    for check in checks:
        if check.status != "ok":
            name = check.name.removeprefix(kind).strip()
            grid.add_row(Text(check.status, style=STATUS_STYLES[check.status]), Text(name), Text(check.message))
        if check.hint and check.hint not in told:
            grid.add_row("", "", Text(f"-> {check.hint}", style="dim"))
            told.add(check.hint)
    return grid


def _closing_lines(document: Run) -> Iterable[RenderableType]:
    drawn = maps.of(document)
    won = maps.sentences(document, drawn) if drawn else ()
    for line in (*won, *tables.matches(document), tables.bottom_line(document), limits.why(document)):
        if line:
            yield Text(line)
    if drawn:
        yield Text(maps.METHOD, style="dim")
    yield Text(tables.sessions_text(document), style="dim")
    for doubt in document.doubts:
        yield doubt_line(doubt.about, doubt.message, doubt.hint)


def doubt_line(about: str, message: str, hint: str) -> Text:
    """Name what a doubt is about, what it says, and what to do."""
    said = Text.assemble((f"{about}: ", "bold yellow"), message)
    return said.append(f"; {hint}" if hint else "")


MOST_ACROSS = 3
"""More candidates stand one below the other."""


def _summary(document: Run) -> Iterable[RenderableType]:
    if drawn := maps.of(document):
        yield Fitted(maps.table(document, drawn))
        return
    if len(document.profiles) <= MOST_ACROSS:
        yield summary(document)
        return
    table, same = tables.by_candidate(document)
    yield Fitted(table)
    if same:
        yield Text()
        yield Text(same, style="dim")


def summary(document: Run) -> Grid:
    """The main table: metrics down, candidates across."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 2), header_style="bold")
    grid.add_column("", no_wrap=True)
    for profile in document.profiles:
        grid.add_column(Text(profile.name, overflow="fold"), justify="right", min_width=9, overflow="fold")
    contrasts = tables.contrasts(document)
    if len(contrasts) == 1:
        grid.add_column(Text(f"{contrasts[0].name} vs {document.profiles[0].name}"), overflow="fold")
    elif not contrasts:
        grid.add_column("")
    for row in tables.summary(document):
        if not contrasts:
            grid.add_row(row.label, *row.values, Text(row.note, style="dim"))
        elif len(contrasts) == 1:
            note = f"  ({row.note})" if row.note else ""
            grid.add_row(row.label, *row.values, coloured(row.versus[0]).append(note, style="dim"))
        else:
            grid.add_row(row.label, *row.values)
            grid.add_row("", Text("1x", style="dim"), *(coloured(words) for words in row.versus))
    return grid


def coloured(words: str) -> Text:
    """Green where the candidate wins, red where it loses."""
    style = next((style for word, style in VERDICT_STYLES.items() if word in words.split()), "")
    return Text(words, style="" if words.startswith(("inconclusive", "-", "equal")) else style)


def _layers(document: Run) -> RenderableType:
    table = tables.layer_table(document.profiles[0])
    return Text() if table is None else Group(Fitted(table), Text(tables.layer_note(document.profiles[0]), style="dim"))


@dataclass(frozen=True)
class Fitted:
    """A table of text that leaves columns out, in its own order, until it fits the screen."""

    table: tables.Table
    styles: Mapping[str, str] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the widest grid that fits."""
        dropped: set[str] = set()
        for column in (None, *self.table.droppable):
            dropped |= {column} if column else set()
            grid = grid_of(self.table, dropped, self.styles)
            if Measurement.get(console, options.update(width=10_000), grid).maximum <= options.max_width:
                break
        yield grid


def grid_of(table: tables.Table, dropped: Collection[str] = (), styles: Mapping[str, str] | None = None) -> Grid:
    """Lay a table of text out, without the columns named in `dropped`; `styles` colour cells by what they say."""
    grid = Grid(box=None, pad_edge=False, padding=(0, 0, 0, 2), header_style="bold")
    kept = [index for index, column in enumerate(table.columns) if column not in dropped]
    for index in kept:
        words = table.columns[index] in table.words
        grid.add_column(table.columns[index].strip(), justify="left" if words else "right", overflow="fold")
    for number, cells in enumerate(table.rows, 1):
        style = "bold" if table.total and number == len(table.rows) else ""
        grid.add_row(*(Text(cells[index], style=(styles or {}).get(cells[index], "")) for index in kept), style=style)
    return grid


# An analysis ---------------------------------------------------------------------------------------------------------


def working(record: Analysis) -> Iterable[RenderableType]:
    """The structure where it fits in lines, and each layer's parameters and MACs in symbols and in numbers."""
    drawn = drawing.text(record.structure)
    if drawn:
        yield Text(f"{drawn}\n", no_wrap=True)
    for table in tables.working_tables(record):
        yield Text(f"{table.title}:", style="dim")
        yield Fitted(table)
        yield Text()
    yield Text(tables.working_note(record), style="dim")


def analysis(record: Analysis, depth: int, sort: str | None, explain: bool, show_work: bool = False) -> RenderableType:
    """The tree of layers, its working if asked for, and what was not counted."""
    size = tables.input_text(record.input_size)
    batch = f" · batch {record.batch_size}" if record.images != 1 else ""
    how = tables.how(record)
    flops = tables.counted(units.count(record.flops / record.images), "FLOPs")
    operations = f"{flops} {tables.an_image(record)} (2 x MACs), " if record.known_macs is not None else ""
    parts: list[RenderableType] = [
        Text(f"{record.model} · {size}{batch} · {how}"),
        Text(),
        Fitted(tree.table(record, depth, sort)),
        *((Text(), *working(record)) if show_work else ()),
        Text(),
        Text(
            f"{tables.not_counted(record)} {operations}"
            f"{units.bytes_(record.totals.param_bytes)} of weights. --depth {depth + 1} shows more."
        ),
    ]
    sayings = (
        tables.complex_text(record),
        tables.training_text(record),
        *(said for said, _ in tables.opinions(record)),
    )
    parts += [Text(said) for said in sayings if said]
    for opinion in record.opinions if explain else ():
        parts += [Text(), Fitted(tables.opinion_table(opinion, record.images, 20))]
    if record.uncalled:
        parts.append(Text(f"Never reached by the forward pass: {', '.join(record.uncalled)}."))
    parts += [doubt_line(doubt.about, doubt.message, doubt.hint) for doubt in record.doubts]
    return Group(*parts)
