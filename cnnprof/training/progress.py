"""The bar of a training run: loss, accuracy, images a second, time left. It goes to standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from cnnprof import units


@dataclass(frozen=True)
class Tick:
    """How far a pass has come."""

    batches: int
    total: int | None
    loss: float
    """Of the last batch."""
    accuracy_percent: float
    """Of the samples so far."""
    images_per_s: float

    @property
    def text(self) -> str:
        """Loss 0.123, accuracy 96.1 %, 1,234 img/s."""
        rate = units.integer(round(self.images_per_s))
        return f"loss {units.loss(self.loss)}, accuracy {units.percent(self.accuracy_percent / 100)} %, {rate} img/s"


def columns() -> tuple[ProgressColumn, ...]:
    """Return what a bar of training shows: what it does, how far it is, the tick's text, time left."""
    text = TextColumn("{task.fields[text]}")
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn()


@contextmanager
def bar(what: str) -> Iterator[Callable[[Tick], None]]:
    """Show a bar as long as a pass goes on."""
    with Progress(*columns(), console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task(what, total=None, text="")

        def shown(tick: Tick) -> None:
            progress.update(task, completed=tick.batches, total=tick.total, text=tick.text, refresh=True)

        yield shown
