"""One profiled call: which operators ran, for how long, in which module, and what they allocated.

A pass apart from those that are timed, since profiling costs time of its own. A layer's time is the sum of the
durations of its operators; the ranges around modules only name it.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from cnnprof.measurement.steps import Step
from cnnprof.records import LayerTime

_RANGE = "cnnprof.module:"
_BACKWARD = "autograd::engine::evaluate_function:"
_OPTIMIZER = "Optimizer."
OPTIMIZER_PATH, LOSS_PATH = "(optimizer)", "(loss)"


@dataclass(frozen=True)
class Event:
    """Something that ran: an operator, or a range that names what ran in it."""

    name: str
    start_ns: int
    end_ns: int
    sequence: int = -1
    """The number that autograd gives a forward operator and its backward one; -1 where it has none."""
    is_operator: bool = True


@dataclass(frozen=True)
class Pass:
    """What the profiler saw of one call."""

    events: tuple[Event, ...]
    allocations: tuple[int, ...]
    """Bytes, negative where released, in the order of time."""
    wall_s: float
    kept_bytes: int = 0
    """What an earlier call had left standing beyond the parameters, inputs and the like: labels, caches."""


def profiled(step: Step) -> Pass:
    """Run a step twice under torch.profiler, on the CPU, the second time with a range around every module's forward.

    The first warms up. It is watched too, so that every release in the second is one of a known allocation.
    """
    # The profiler's log lines are not ours; it reads this when it first starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    # acc_events: older releases of torch warn where it is not given.
    watching = partial(profile, activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
    with watching() as warming:
        step.run()
        step.release()
    with nullcontext() if step.compiled else _named_ranges(step.module), watching() as profiler:
        started = time.perf_counter()
        step.run()
        wall_s = time.perf_counter() - started
    events, allocations = _seen(profiler)
    return Pass(events, allocations, wall_s, kept_bytes=sum(_seen(warming)[1]))


def _seen(profiler: Any) -> tuple[tuple[Event, ...], tuple[int, ...]]:
    """Return the events of a profiler, and the allocations in the order of time."""
    raw = profiler.profiler.kineto_results.events()
    memory = sorted((event for event in raw if event.name() == "[memory]"), key=lambda event: event.start_ns())
    events = tuple(_event(event) for event in raw if event.name() != "[memory]")
    return events, tuple(event.nbytes() for event in memory)


_FUNCTION_SCOPE = 0


def _event(raw: Any) -> Event:
    is_operator = raw.scope() == _FUNCTION_SCOPE and not raw.name().startswith(_BACKWARD)
    return Event(raw.name(), raw.start_ns(), raw.start_ns() + raw.duration_ns(), raw.sequence_nr(), is_operator)


@contextmanager
def _named_ranges(module: nn.Module) -> Iterator[None]:
    """Put a range that bears a module's path around its forward; `module` is our own copy."""
    handles = []
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):  # takes no hooks: its time is its parent's
            continue
        open_ranges: list[Any] = []

        def enter(_: nn.Module, args: Any, path: str = path, open_ranges: list[Any] = open_ranges) -> None:
            open_ranges.append(torch.profiler.record_function(_RANGE + path))
            open_ranges[-1].__enter__()

        def leave(_: nn.Module, args: Any, output: Any, open_ranges: list[Any] = open_ranges) -> None:
            open_ranges.pop().__exit__(None, None, None)

        handles += [part.register_forward_pre_hook(enter, prepend=True), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_layer(events: Iterable[Event], kinds: Mapping[str, str], training: bool) -> tuple[LayerTime, ...]:
    """Sum the durations of outermost operators by module, in the order of `kinds` (path to class name).

    A backward operator belongs to the module whose forward operator has its sequence number: of several that bear a
    number the last one made the node. The loss and the optimizer have rows of their own.
    """
    forward_ns: Counter[str] = Counter()
    backward_ns: Counter[str] = Counter()
    made_by: dict[int, str] = {}
    placed = list(_placed(events))
    for event, path, node, _ in placed:
        if node is None and event.sequence >= 0 and event.is_operator:
            made_by[event.sequence] = path
    for event, path, node, outermost in placed:
        if not (event.is_operator and outermost):
            continue
        if node is None:
            forward_ns[path] += event.end_ns - event.start_ns
        else:
            backward_ns[made_by.get(node, LOSS_PATH)] += event.end_ns - event.start_ns
    rows = dict(kinds) | ({LOSS_PATH: "loss", OPTIMIZER_PATH: "optimizer"} if training else {})
    return tuple(
        LayerTime(path, kind, forward_ns[path] / 1e9, backward_ns[path] / 1e9 if training else None)
        for path, kind in rows.items()
    )


def _placed(events: Iterable[Event]) -> Iterator[tuple[Event, str, int | None, bool]]:
    """Yield each event with the module, or part of the step, that it ran in, the backward node, and if it is outermost.

    Events nest as their intervals do. A node without a number gathers gradients: that is the loss's row.
    """
    around: list[Event] = []
    for event in sorted(events, key=lambda event: (event.start_ns, -event.end_ns)):
        while around and around[-1].end_ns <= event.start_ns:
            around.pop()
        path = next((found for outer in reversed(around) if (found := _part(outer.name)) is not None), LOSS_PATH)
        node = next((outer.sequence for outer in reversed(around) if outer.name.startswith(_BACKWARD)), None)
        outermost = not any(outer.is_operator for outer in around)
        yield event, path, node, outermost
        around.append(event)


def _part(name: str) -> str | None:
    if name.startswith(_RANGE):
        return name.removeprefix(_RANGE)
    return OPTIMIZER_PATH if name.startswith(_OPTIMIZER) else None
