"""Numbers to text: 1.81 G, 44.6 MiB, 12.3 ms, 1.31x. The only place that formats a number.

A column has one unit, chosen over all its values, or none where one does not show them all, and then each value has its
own; unknown is a dash, n/c was not counted, and 0 is zero.
"""

import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

UNKNOWN = "-"
NOT_COUNTED = "n/c"


class Unit(NamedTuple):
    """A unit of a column: what its numbers are divided by, and its name."""

    name: str
    size: float


SECONDS = (Unit("s", 1.0), Unit("ms", 1e-3), Unit("µs", 1e-6), Unit("ns", 1e-9))
BYTES = (Unit("TiB", 2.0**40), Unit("GiB", 2.0**30), Unit("MiB", 2.0**20), Unit("KiB", 2.0**10), Unit("B", 1.0))
COUNTS = (Unit("T", 1e12), Unit("G", 1e9), Unit("M", 1e6), Unit("k", 1e3), Unit("", 1.0))
FLOPS = tuple(Unit(f"{unit.name}FLOP/s", unit.size) for unit in COUNTS)
BYTES_A_SECOND = tuple(Unit(f"{unit.name}B/s", unit.size) for unit in COUNTS)
_OF_A_KIND = {unit: kind for kind in (SECONDS, BYTES, COUNTS, FLOPS, BYTES_A_SECOND) for unit in kind}

# 2,150 ms and 26 ms read better in one unit than 2.15 s and 0.026 s do: a unit is taken up only when the largest value
# of the column is this many times its size.
_TAKEN_UP_AT = {"s": 10.0, "TiB": 10.0, "GiB": 10.0}


def column_unit(units: tuple[Unit, ...], values: Iterable[float | None]) -> Unit:
    """Choose the unit of a column from its largest value."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    for unit in units:
        if largest >= unit.size * _TAKEN_UP_AT.get(unit.name, 1.0):
            return unit
    return units[-1] if largest else units[len(units) // 2]


def gigas(values: Iterable[float | None]) -> Unit:
    """G where it shows at least three digits of the largest value, else M, k or units."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return next((unit for unit in COUNTS[1:] if largest >= unit.size / 10), COUNTS[-1])


def integer(value: int | None) -> str:
    """1180160 -> 1,180,160."""
    return UNKNOWN if value is None else f"{value:,}"


def in_unit(value: float | None, unit: Unit, decimals: int) -> str:
    """2.091e-1 s in ms with one decimal -> 209.1; a value too small for the column has a unit of its own, 0 stays 0.

    A count below a thousand has no unit that would tell it from the column's: <0.001.
    """
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value / unit.size) < 0.5 * 10.0**-decimals:
        kind = _OF_A_KIND.get(unit, (unit,))
        shown = any(abs(value) >= smaller.size and smaller.name for smaller in kind)
        return _alone(value, kind, " ") if shown else f"<{10.0**-decimals:.{decimals}f}"
    return f"{value / unit.size:,.{0 if unit.size == 1.0 and float(value).is_integer() else decimals}f}"


def with_unit(value: float | None, unit: Unit, decimals: int) -> str:
    """9.41e6 in M -> 9.41 M; 2.1e3 in M -> 2.10 k."""
    text = in_unit(value, unit, decimals)
    return text if not value or text[-1].isalpha() else f"{text} {unit.name}".rstrip()


def macs(value: float | None, unit: Unit, complete: bool) -> str:
    """2.18e8 in M -> 218.000; n/c where nothing is known but that not everything was counted."""
    return in_unit(value, unit, 3) if value or complete else NOT_COUNTED


def decimals_for(unit: Unit, values: Iterable[float | None], digits: int = 3) -> int:
    """Decimals that show `digits` digits of the smallest nonzero value of a column, at most three."""
    smallest = min((abs(value / unit.size) for value in values if value), default=1.0)
    return max(0, min(3, digits - 1 - math.floor(math.log10(smallest))))


class Column(NamedTuple):
    """How a column's values are written: in one unit, which its heading names, else each in its own."""

    kind: tuple[Unit, ...]
    unit: Unit | None
    decimals: int

    @property
    def name(self) -> str:
        """Of its unit; empty where each value has its own."""
        return self.unit.name if self.unit else ""

    def heading(self, name: str) -> str:
        """Median -> median, ms."""
        return f"{name}, {self.unit.name}" if self.unit else name

    def text(self, value: float | None) -> str:
        """2.091e-1 -> 209.1; 209.1 ms where the heading has no unit."""
        return in_unit(value, self.unit, self.decimals) if self.unit else _alone(value, self.kind, " ")

    def interval(self, ends: tuple[float, float]) -> str:
        """(0.038, 0.0412) -> [38.0, 41.2]; [38.0, 41.2] ms where the heading has no unit."""
        own = self.unit or next((unit for unit in self.kind if ends[1] >= unit.size), self.kind[-1])
        decimals = self.decimals if self.unit else _digits(ends[1] / own.size)
        words = span((ends[0] / own.size, ends[1] / own.size), decimals)
        return words if self.unit else f"{words} {own.name}"


def column(kind: tuple[Unit, ...], values: Iterable[float | None], least: int = 0, most: int = 3) -> Column:
    """Choose a column's unit and its decimals, `least` to `most`; no unit where that hides a second digit."""
    known = [abs(value) for value in values if value]
    unit = column_unit(kind, known)
    decimals = max(least, min(most, decimals_for(unit, known)))
    fits = min(known, default=unit.size) / unit.size >= 10.0 ** min(0, 1 - decimals)
    return Column(kind, unit if fits else None, decimals)


def seconds(value: float | None) -> str:
    """0.0123 -> 12.3 ms."""
    return _alone(value, SECONDS, " ")


def bytes_(value: float | None) -> str:
    """46784512 -> 44.6 MiB."""
    return _alone(value, BYTES, " ")


_SIZE = re.compile(r"\s*(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<prefix>[kmgt]?)(?P<binary>i?)b?\s*", re.IGNORECASE)
_PREFIXES = "kmgt"


def read_bytes(text: str) -> int:
    """24GiB -> 25769803776; GB is a power of ten, a number alone is bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None or (match["binary"] and not match["prefix"]):
        raise ValueError(f"{text!r}: a size was expected, such as 24GiB, 24GB or 800MiB")
    power = _PREFIXES.index(match["prefix"].lower()) + 1 if match["prefix"] else 0
    size = int(float(match["number"]) * (1024 if match["binary"] else 1000) ** power)
    if size < 1:
        raise ValueError(f"{text!r}: a size above 0 was expected")
    return size


def count(value: float | None) -> str:
    """1814000000 -> 1.81 G."""
    return _alone(value, COUNTS, " ")


def _alone(value: float | None, units: tuple[Unit, ...], space: str) -> str:
    if value is None:
        return UNKNOWN
    unit = next((unit for unit in units if abs(value) >= unit.size), units[-1])
    if not value:
        unit = next(unit for unit in units if unit.size == 1.0)
    number = value / unit.size
    text = f"{number:,.0f}" if unit.size == 1.0 and float(value).is_integer() else f"{number:,.{_digits(number)}f}"
    return f"{text}{space}{unit.name}".rstrip()


def _digits(number: float) -> int:
    return 2 if abs(number) < 10 else 1 if abs(number) < 1000 else 0


def decimal(value: float, decimals: int) -> str:
    """2.3071 -> 2.31."""
    return f"{value:,.{decimals}f}"


def short(value: float) -> str:
    """0.00012345 -> 0.000123, 1.5e-14 -> 1.5e-14: a number of any size in three digits."""
    return f"{value:.3g}"


def percent(share: float | None, decimals: int = 1) -> str:
    """0.163 -> 16.3."""
    return UNKNOWN if share is None else f"{100 * share:.{decimals}f}"


def accuracy(percent: float | None) -> str:
    """96.123 -> 96.1."""
    return UNKNOWN if percent is None else f"{percent:.1f}"


def accuracies(percents: Sequence[float]) -> str:
    """95.12, 96.08 -> 95.1 to 96.1."""
    return _range([accuracy(percent) for percent in sorted(percents)])


def integers(values: Sequence[int]) -> str:
    """10, 8 -> 8 to 10; one where all are the same."""
    return _range([integer(value) for value in sorted(values)])


def _range(rising: Sequence[str]) -> str:
    if not rising:
        return UNKNOWN
    return rising[0] if rising[0] == rising[-1] else f"{rising[0]} to {rising[-1]}"


def signed(points: float, interval: tuple[float, float] | None = None, noun: str = "") -> str:
    """2.2, (0.4, 4.0) -> +2.2 [0.4, 4.0]; no -0.0."""
    shown, *ends = (round(value, 1) + 0.0 for value in (points, *(interval or ())))
    words = f"{shown:+.1f}{noun}" if shown else f"{shown:.1f}{noun}"
    return f"{words} {span((ends[0], ends[1]), 1)}" if ends else words


def points(difference: float, interval: tuple[float, float] | None = None) -> str:
    """2.2, (0.4, 4.0) -> +2.2 points [0.4, 4.0]."""
    return signed(difference, interval, " points")


def change(share: float, interval: tuple[float, float] | None = None) -> str:
    """0.0312, (0.012, 0.05) -> +3.1 % [1.2, 5.0]; one decimal, or as many as show it, or the width of its interval."""
    shown = abs(share) if interval is None else interval[1] - interval[0]
    decimals = 1 if not shown or shown >= 0.001 else min(9, 1 - math.floor(math.log10(shown * 100)))
    rounded = round(100 * share, decimals)
    words = f"{rounded:+,.{decimals}f} %" if rounded else "0 %"
    return words if interval is None else f"{words} {span((100 * interval[0], 100 * interval[1]), decimals)}"


def magnitude(ratio: float) -> str:
    """1234567 -> 1e6x; below ten thousand 1,234x, 12x, 1.2x."""
    if ratio < 1e4:
        return f"{ratio:,.{1 if ratio < 10 else 0}f}x"
    return f"1e{round(math.log10(ratio))}x"


def factor(ratio: float, interval: tuple[float, float] | None = None) -> str:
    """16.856 -> 16.9x; with more decimals where the interval's ends would look alike."""
    return f"{ratio:,.{factor_decimals(ratio, interval)}f}x"


def factor_decimals(ratio: float, interval: tuple[float, float] | None = None) -> int:
    """Decimals of a factor: two below 2, one below 100, none above, one more for a narrow interval."""
    decimals = 2 if ratio < 2 else 1 if ratio < 100 else 0
    if interval is not None:
        while decimals < 3 and round(interval[1] - interval[0], decimals) <= 10.0**-decimals:
            decimals += 1
    return decimals


def versus(ratio: float | None, less: str, more: str, interval: tuple[float, float] | None = None) -> str:
    """A ratio candidate / baseline in words: 0.0593 -> 16.9x fewer."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    if ratio == 1:
        return "the same"
    if ratio == 0:
        return "none"
    if interval is None and factor(max(ratio, 1 / ratio)) == "1.00x":
        return difference(ratio, less, more)
    if ratio < 1:
        return f"{factor(1 / ratio, reciprocal(interval))} {less}"
    return f"{factor(ratio, interval)} {more}"


def difference(ratio: float, less: str, more: str) -> str:
    """How far a ratio is from 1: 0.999 -> 0.10 % fewer."""
    if ratio == 1:
        return "as many as"
    return f"{percent(abs(ratio - 1), 2 if abs(ratio - 1) < 0.1 else 0)} % {less if ratio < 1 else more}"


def reciprocal(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """The interval of 1 / x."""
    return None if interval is None else (1 / interval[1], 1 / interval[0])


def span(interval: tuple[float, float], decimals: int) -> str:
    """(6.12, 6.91) -> [6.1, 6.9]."""
    return f"[{interval[0]:,.{decimals}f}, {interval[1]:,.{decimals}f}]"


def size(shape: tuple[int, ...] | None) -> str:
    """(256, 56, 56) -> 256x56x56."""
    return UNKNOWN if shape is None else "x".join(str(length) for length in shape) or "scalar"


def strides(steps: tuple[float, ...] | None) -> str:
    """(32.0, 32.0) -> 32; (2.0, 1.0) -> 2x1; behind upsampling (0.5, 0.5) -> 1/2."""
    if steps is None:
        return UNKNOWN
    said = [str(Fraction(step).limit_denominator(1000)) for step in steps]
    return said[0] if len(set(said)) == 1 else "x".join(said)


def product(factors: tuple[int, ...]) -> str:
    """(3, 3, 256, 256) -> 3·3·256·256."""
    return "·".join(map(str, factors)) or "1"


_TIMES = {1: "once", 2: "twice"}


def times(number: int) -> str:
    """2 -> twice, 3 -> 3 times."""
    return _TIMES.get(number, f"{number:,} times")


def bar(share: float | None, width: int = 20) -> str:
    """A share of 1 as a bar of eighths of a block, so that a text shows what a figure would."""
    if not share or share < 0:
        return ""
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def distance(value: float) -> str:
    """0.6536656 -> 0.653666; what six decimals do not show, 1.2e-07."""
    return f"{value:.6f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}"


def per_image(known: bool) -> str:
    """Say of which a figure is: of an image, or of a call where the batch is not known."""
    return "per image" if known else "a call"


def an_image(known: bool) -> str:
    """Say the same in a sentence."""
    return "an image" if known else "a call"


def plural(number: int, noun: str) -> str:
    """1 operator, 2 operators, 2 classes."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def loss(value: float | None) -> str:
    """0.69314 -> 0.693; below a thousandth 1.2e-05."""
    if value is None:
        return UNKNOWN
    return f"{value:.3f}" if not 0 < abs(value) < 1e-3 else f"{value:.1e}"
