"""A fair pair: the value of one integer argument that brings a model's count nearest to a baseline's.

Nothing is run and no weights are made. A count nearly always rises, or falls, with a width: it is followed by doubling
until it has passed the baseline's, then by halving; around that place every value is looked at, since whole divisions
make steps, and some of them lead back.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch

from cnnprof import module_tree, units
from cnnprof.analysis import counts
from cnnprof.errors import UsageError
from cnnprof.models import catalog
from cnnprof.records import COUNTS, Count, Match
from cnnprof.recursion import deep_recursion
from cnnprof.subjects import Model, Subject, subject_of

AROUND = 32
"""Values looked at on either side of the place where the count passes the baseline's."""

LARGEST, SETTLED = 2**16, 2**10
"""Values go up to the first; what has not changed the count by the second, or was refused so far, is given up."""

FIXED = ("num_classes", "out_classes", "in_chans", "in_channels")
"""Integer arguments that the task decides: they are varied only where they are named."""

WHAT = {"params": "parameters", "macs": "MACs"}

Counted = Callable[[int], int | None]
"""The count by the value of an argument; None where that value is refused."""


@deep_recursion()
def matched(
    baseline: Model,
    candidate: Model,
    by: Count = "params",
    vary: str | None = None,
    input_size: Sequence[int] | int | None = None,
) -> Match:
    """Find the value of one integer argument of a MODEL string that brings its count nearest to the baseline's.

    `by` is `params`, or `macs` of one image. `vary` names the argument: by default `channels`, else the first integer
    argument that changes the count. Of equally near values it is the smallest; those that the model refuses are passed
    over. Raises UsageError where no value is accepted, or none changes the count.
    """
    if by not in COUNTS:
        raise UsageError(f"match {by!r}: {' or '.join(COUNTS)} was expected")
    if not isinstance(candidate, str):
        raise UsageError(f"match {by}: {type(candidate).__name__} is no MODEL string, whose arguments can be varied")
    wanted = _count(subject_of(None, baseline, input_size, 1, None), by)
    if not wanted:
        raise UsageError(f"match {by}: the baseline has no {WHAT[by]}")
    if vary:
        catalog.refuse_unknown(candidate, {vary: 1})
    family = _Family(candidate, vary or _default(candidate, by, input_size), by, input_size)
    value = _nearest(family, wanted)
    return Match(family.text(value), by, family.argument, value, family.count(value), wanted)


def _count(subject: Subject, by: Count) -> int:
    if by == "params":
        return module_tree.count_parameters(subject.module)
    analysis = counts.analyze(subject.module, subject.shapes(1), model=subject.resolved, with_weights=subject.build)
    return analysis.macs // analysis.images


@dataclass(frozen=True)
class _Family:
    """A MODEL string with any value of one of its arguments."""

    of: str
    argument: str
    by: Count
    input_size: Any

    def text(self, value: int) -> str:
        return catalog.with_argument(self.of, self.argument, value)

    def count(self, value: int) -> int:
        """Raise UsageError where that value is refused."""
        with torch.device("meta"):
            subject = subject_of(None, self.text(value), self.input_size, 1, None)
        return _count(subject, self.by)

    def counted(self) -> Counted:
        """Return its count as a function that remembers."""

        @functools.cache
        def counted(value: int) -> int | None:
            try:
                return self.count(value)
            except UsageError:
                return None

        return counted


def _default(candidate: str, by: Count, input_size: Any) -> str:
    """Return `channels` where a model takes that as a whole number, else the first argument that changes the count.

    What an input size in full decides is not varied.
    """
    found = catalog.resolve(candidate)
    fixed = {*FIXED, *(found.made_for(tuple(input_size)) if isinstance(input_size, Sequence) else ())}
    whole = {name: value for name, value in found.arguments.items() if type(value) is int and name not in fixed}
    for name in sorted(whole, key=lambda name: name != "channels"):
        counted = _Family(candidate, name, by, input_size).counted()
        if len({counted(value) for value in (whole[name], whole[name] + 1, 2 * whole[name])} - {None}) > 1:
            return name
    raise UsageError(f"{candidate}: no whole number among its arguments changes its {WHAT[by]}; name one to vary")


def _nearest(family: _Family, wanted: int) -> int:
    counted = family.counted()
    points = _followed(counted, wanted)
    if not points:
        family.count(1)  # which says why it is refused
    if len({counted(point) for point in points}) == 1 < len(points):
        raise UsageError(
            f"{family.of}: {family.argument} does not change its {WHAT[family.by]}: it has "
            f"{units.integer(counted(points[0]))} of the {units.integer(wanted)} that were wanted"
        )
    places = _places(counted, points, wanted)
    tried = {*points, *(value for place in places for value in range(max(1, place - AROUND), place + AROUND + 1))}
    numbers = {value: number for value in tried if (number := counted(value)) is not None}
    best = min(numbers, key=lambda value: (abs(numbers[value] - wanted), value))
    others = [point for point in points if point < best and counted(point) != counted(best)]
    return _border(max(others), best, counted)[1] if others else best


def _followed(counted: Counted, wanted: int) -> list[int]:
    """Return the first accepted value of each octave, until the count has passed what is wanted or leads away."""
    points: list[int] = []
    numbers: list[int] = []
    for start in (2**power for power in range(LARGEST.bit_length())):
        value = next((value for value in range(start, 2 * start) if counted(value) is not None), None)
        if value is not None:
            points.append(value)
            numbers.append(counted(value) or 0)
        away = [abs(number - wanted) for number in numbers[-3:]]
        passed = len({number > wanted for number in numbers}) > 1
        if passed or (len(away) == 3 and away[0] < away[1] < away[2]) or (points and value is None):
            break
        if start >= SETTLED and len(set(numbers)) < 2:
            break
    return points


def _places(counted: Counted, points: Sequence[int], wanted: int) -> set[int]:
    """Return the values where the count passes what is wanted, or else the last one that is accepted."""

    def passed(value: int) -> bool | None:
        number = counted(value)
        return None if number is None else number > wanted

    for low, high in pairwise(points):
        if passed(low) != passed(high):
            return {*_border(low, high, passed)}
    beyond = 1 << points[-1].bit_length()
    return {_border(points[-1], beyond, lambda value: counted(value) is None)[0]}


def _border(low: int, high: int, kind: Callable[[int], object]) -> tuple[int, int]:
    """Halve what lies between two values of different kinds until no value of any kind lies between them."""
    while True:
        middle = max((low + high) // 2, low + 1)
        outwards = chain(range(middle, high), range(middle - 1, low, -1))
        known = next((value for value in outwards if kind(value) is not None), None)
        if known is None:
            return low, high
        low, high = (low, known) if kind(known) == kind(high) else (known, high)
