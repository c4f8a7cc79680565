"""Profiled calls: which operators ran, for how long, in which module, and what they allocated.

Passes apart from those that are timed, since profiling costs time of its own. A layer's time is the sum of the
durations of its operators; the ranges around modules only name it, as their own times are 1.1 to 1.6 times too long.
What a module does outside operators counts where it takes long: a wait, or Python that works on numbers.
"""

import bisect
import json
import os
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnprof import module_tree
from cnnprof.machine import available_bytes
from cnnprof.records import LayerTime, OperatorTime
from cnnprof.steps import Step

_PASS, _RANGE = "cnnprof.pass", "cnnprof.module:"
_BACKWARD = "autograd::engine::evaluate_function:"
_OPTIMIZER = "Optimizer."
OPTIMIZER_PATH, LOSS_PATH = "(optimizer)", "(loss)"
OUTSIDE = "(outside operators)"

LEAST_PASSES, MOST_PASSES = 3, 20
GAP_NS = 1_000_000
"""A module's time between operators counts from here on: dispatch and the profiler itself take microseconds."""
MOST_TRACED = 100_000
_TRANSFORM = re.compile("winograd|fft", re.IGNORECASE)
"""Names of CUDA's kernels that do fewer products than a convolution has."""


@dataclass(frozen=True)
class Event:
    """Something that ran: an operator, a kernel on a device, or a range that names what ran in it."""

    name: str
    start_ns: int
    end_ns: int
    sequence: int = -1
    """The number that autograd gives a forward operator and its backward one; -1 where it has none."""
    is_operator: bool = True
    thread: int = 0
    correlation: int = 0
    """What a kernel shares with the operator that launched it; 0 where there is none."""
    on_device: bool = False


@dataclass(frozen=True)
class Spent:
    """Nanoseconds of one operator in one module, in one pass."""

    calls: int = 0
    forward_ns: float = 0
    backward_ns: float = 0
    transformed: bool = False


Digest = Mapping[tuple[str, str], Spent]
"""By module path and operator."""


@dataclass(frozen=True)
class Pass:
    """What the profiler saw of one step, called several times."""

    times: Digest
    allocations: tuple[int, ...]
    """Bytes, negative where released, in the order of time."""
    wall_s: float
    """Median of the profiled passes."""
    kept_bytes: int = 0
    """What an earlier call had left standing beyond the parameters, inputs and the like: labels, caches."""
    passes: int = 1
    result: Any = None
    """What the last call returned."""


def profiled(step: Step, time_s: float | None = 1.0, trace: Path | None = None) -> Pass:
    """Run a step under torch.profiler: to warm up, for its allocations, then for about `time_s` for its times, if any.

    The warm-up is watched too, so that every release in the second call is one of a known allocation. `trace` is a file
    for the last pass, in Chrome's format.
    """
    # The profiler's log lines are not ours; it reads this when it first starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with _watching(step, profile_memory=True) as warming:
        step.run()
        step.release()
    with _watching(step, profile_memory=True) as remembering:
        result = step.run()
    if time_s is None:
        return Pass({}, _allocations(remembering), 0.0, sum(_allocations(warming)), 0, result)
    del result
    _touch(max(accumulate(_allocations(remembering), initial=0)))
    with nullcontext() if step.compiled else _named_ranges(step.module), _watching(step) as profiler:
        result = _passes(step, time_s)
    passes = _apart(_events(profiler))
    if trace is not None:
        save_trace(passes[-1], trace)
    return Pass(
        typical([digest(events) for events in passes]),
        _allocations(remembering),
        statistics.median(_wall_s(events) for events in passes),
        sum(_allocations(warming)),
        len(passes),
        result,
    )


def _touch(size: int) -> None:
    """Have so many bytes of free memory mapped, where the C library keeps it.

    The profiler's own small blocks lie between tensors, which then move to memory that was never touched: without this
    a training step of resnet50 meets 20,000 page faults and is a quarter slower.
    """
    if size < available_bytes() / 4:
        torch.empty(size, dtype=torch.uint8).fill_(0)


def _passes(step: Step, time_s: float) -> Any:
    """Call a step several times, each in a range, and return what the last call returned."""
    started, done, result = time.perf_counter(), 0, None
    while done <= LEAST_PASSES or (done <= MOST_PASSES and time.perf_counter() - started < time_s):
        del result  # its memory is the next call's, as it is where calls are timed
        with torch.profiler.record_function(_PASS):
            result = step.run()
            step.wait()
        done += 1
    return result


def _apart(events: Sequence[Event]) -> list[list[Event]]:
    """Sort events by the pass that they ran in; the first pass warmed up, and is left out."""
    ranges = sorted((event for event in events if event.name == _PASS), key=lambda event: event.start_ns)[1:]
    starts = [event.start_ns for event in ranges]
    passes: list[list[Event]] = [[] for _ in ranges]
    for event in events:
        number = bisect.bisect_right(starts, event.start_ns) - 1
        if number >= 0 and event.start_ns < ranges[number].end_ns:
            passes[number].append(event)
    return passes


def _wall_s(events: Sequence[Event]) -> float:
    return next((event.end_ns - event.start_ns) / 1e9 for event in events if event.name == _PASS)


def _watching(step: Step, profile_memory: bool = False) -> Any:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if step.on_cuda else [])]
    # acc_events: older releases of torch warn where it is not given.
    return profile(activities=activities, profile_memory=profile_memory, acc_events=True)


def _allocations(profiler: Any) -> tuple[int, ...]:
    """Return the allocations in the order of time."""
    raw = profiler.profiler.kineto_results.events()
    memory = sorted((event for event in raw if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return tuple(event.nbytes() for event in memory)


def _events(profiler: Any) -> list[Event]:
    return [_event(raw) for raw in profiler.profiler.kineto_results.events()]


_FUNCTION_SCOPE = 0


def _event(raw: Any) -> Event:
    on_device = raw.device_type().name == "CUDA"
    name, start_ns = raw.name(), raw.start_ns()
    return Event(
        name,
        start_ns,
        start_ns + raw.duration_ns(),
        raw.sequence_nr(),
        is_operator=raw.scope() == _FUNCTION_SCOPE and not name.startswith(_BACKWARD) and not on_device,
        thread=raw.start_thread_id(),
        correlation=raw.linked_correlation_id() if on_device else raw.correlation_id(),
        on_device=on_device,
    )


@contextmanager
def _named_ranges(module: nn.Module) -> Iterator[None]:
    """Put a range that bears a module's path around its forward; `module` is our own copy."""
    handles = []
    for path, part in module_tree.named_modules(module):
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


# From events to times ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Placed:
    """An event, or a gap between events, with the module or part of the step that it belongs to."""

    event: Event
    path: str
    node: int | None
    """The sequence number of the backward node that it ran in; None in the forward pass."""
    outermost: bool


def digest(events: Iterable[Event]) -> Digest:
    """Sum the durations of outermost operators by module and operator.

    A backward operator belongs to the module whose forward operator has its sequence number: of several that bear a
    number the last one made the node. The loss and the optimizer have paths of their own. Where kernels ran on a
    device, an operator's duration is that of the kernels that it launched, as their correlation tells.
    """
    events = list(events)
    kernels: defaultdict[int, int] = defaultdict(int)
    transforming: set[int] = set()
    for event in events:
        if event.on_device and event.correlation:
            kernels[event.correlation] += event.end_ns - event.start_ns
            transforming |= {event.correlation} if _TRANSFORM.search(event.name) else set()
    placed = [found for thread in _by_thread(events) for found in _placed(thread)]
    made_by = {
        found.event.sequence: found.path
        for found in sorted(placed, key=lambda found: found.event.start_ns)
        if found.node is None and found.event.sequence >= 0 and found.event.is_operator
    }
    calls: Counter[tuple[str, str]] = Counter()
    forward: Counter[tuple[str, str]] = Counter()
    backward: Counter[tuple[str, str]] = Counter()
    transformed: set[tuple[str, str]] = set()
    for found in placed:
        if not found.event.is_operator or not (found.outermost or kernels):
            continue
        took_ns = kernels[found.event.correlation] if kernels else found.event.end_ns - found.event.start_ns
        if kernels and not took_ns:
            continue
        path = found.path if found.node is None else made_by.get(found.node, LOSS_PATH)
        key = (path, found.event.name.removeprefix("aten::"))
        calls[key] += 1
        transformed |= {key} if found.event.correlation in transforming else set()
        (forward if found.node is None else backward)[key] += took_ns
    return {key: Spent(calls[key], forward[key], backward[key], key in transformed) for key in calls}


def typical(digests: Sequence[Digest]) -> Digest:
    """Take the median over passes of each operator's times in each module; in a pass that lacks it they are 0."""
    absent = Spent()

    def median(key: tuple[str, str]) -> Spent:
        found = [each.get(key, absent) for each in digests]
        return Spent(
            round(statistics.median(spent.calls for spent in found)),
            statistics.median(spent.forward_ns for spent in found),
            statistics.median(spent.backward_ns for spent in found),
            any(spent.transformed for spent in found),
        )

    return {key: median(key) for key in dict.fromkeys(key for each in digests for key in each)}


def by_layer(times: Digest, kinds: Mapping[str, str], training: bool) -> tuple[LayerTime, ...]:
    """Sum operators up by module, in the order of `kinds` (path to class name), then loss and optimizer."""
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    operators: Counter[str] = Counter()
    transformed: set[str] = set()
    for (path, _), spent in times.items():
        sums[path][0] += spent.forward_ns / 1e9
        sums[path][1] += spent.backward_ns / 1e9
        operators[path] += spent.calls if spent.forward_ns else 0
        transformed |= {path} if spent.transformed else set()
    rows = dict(kinds) | ({LOSS_PATH: "loss", OPTIMIZER_PATH: "optimizer"} if training else {})
    times_of = {path: (sums[path][0], sums[path][1] if training else None) for path in rows}
    return tuple(
        LayerTime(path, kind, *times_of[path], operators[path], path in transformed) for path, kind in rows.items()
    )


def by_operator(times: Digest, training: bool) -> tuple[OperatorTime, ...]:
    """Sum modules up by operator, the longest first."""
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for (_, name), spent in times.items():
        for place, value in enumerate((spent.calls, spent.forward_ns / 1e9, spent.backward_ns / 1e9)):
            sums[name][place] += value
    rows = [
        OperatorTime(name, int(calls), forward_s, backward_s if training else None)
        for name, (calls, forward_s, backward_s) in sums.items()
        if forward_s or backward_s
    ]
    return tuple(sorted(rows, key=lambda row: -(row.forward_s + (row.backward_s or 0.0))))


def _by_thread(events: Iterable[Event]) -> list[list[Event]]:
    threads: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        if not event.on_device:
            threads[event.thread].append(event)
    return [sorted(thread, key=lambda event: (event.start_ns, -event.end_ns)) for thread in threads.values()]


@dataclass
class _Open:
    """An event that has not ended, and up to when its own time is spoken for."""

    event: Event
    until_ns: int


def _placed(events: Iterable[Event]) -> Iterator[_Placed]:
    """Place the events of one thread, which nest as their intervals do, and the long gaps of modules and nodes.

    A node without a number gathers gradients: that is the loss's row.
    """
    around: list[_Open] = []

    def close(until_ns: float) -> Iterator[_Placed]:
        while around and around[-1].event.end_ns <= until_ns:
            ended = around[-1].event
            yield from _gap(around, ended.end_ns)
            around.pop()
            if around:
                around[-1].until_ns = ended.end_ns

    for event in events:
        yield from close(event.start_ns)
        yield from _gap(around, event.start_ns)
        yield _Placed(event, _path(around, event), _node(around), not any(outer.event.is_operator for outer in around))
        around.append(_Open(event, event.start_ns))
    yield from close(float("inf"))


def _gap(around: Sequence[_Open], until_ns: int) -> Iterator[_Placed]:
    """Yield what a range does between operators, where that takes long."""
    if not around or any(outer.event.is_operator for outer in around) or until_ns - around[-1].until_ns < GAP_NS:
        return
    if _node(around) is None and not any(_part(outer.event.name) is not None for outer in around):
        return
    gap = Event(OUTSIDE, around[-1].until_ns, until_ns)
    yield _Placed(gap, _path(around, gap), _node(around), outermost=True)


def _path(around: Sequence[_Open], event: Event) -> str:
    return next((part for outer in reversed(around) if (part := _part(outer.event.name)) is not None), LOSS_PATH)


def _node(around: Sequence[_Open]) -> int | None:
    return next((outer.event.sequence for outer in reversed(around) if outer.event.name.startswith(_BACKWARD)), None)


def _part(name: str) -> str | None:
    if name.startswith(_RANGE):
        return name.removeprefix(_RANGE)
    return OPTIMIZER_PATH if name.startswith(_OPTIMIZER) else None


def save_trace(events: Sequence[Event], path: Path) -> None:
    """Write events in Chrome's trace format, the first MOST_TRACED of them."""
    first = sorted(events, key=lambda event: event.start_ns)[:MOST_TRACED]
    origin = first[0].start_ns if first else 0
    rows = [
        {
            "name": event.name,
            "ph": "X",
            "ts": (event.start_ns - origin) / 1e3,
            "dur": (event.end_ns - event.start_ns) / 1e3,
            "pid": "device" if event.on_device else "host",
            "tid": event.thread,
        }
        for event in first
    ]
    left_out = f"{len(events) - len(first):,} later events were left out"
    path.write_text(json.dumps({"traceEvents": rows, "otherData": {"cnnprof": left_out}}), encoding="utf-8")
