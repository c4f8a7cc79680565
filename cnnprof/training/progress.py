"""The bar of a training run: loss, accuracy, images a second, time left. It goes to standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


@contextmanager
def bar(what: str) -> Iterator[Callable[[Tick], None]]:
    """Show a bar as long as a pass goes on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    screen = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=screen, auto_refresh=False) as progress:
        task = progress.add_task(what, total=None, text="")

        def shown(tick: Tick) -> None:
            progress.update(task, completed=tick.batches, total=tick.total, text=tick.text, refresh=True)

        yield shown
