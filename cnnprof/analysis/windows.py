"""Which elements of an input an output element depends on, along one dimension of unbounded size.

An output element i depends on input elements low(i) to high(i). Sliding kernels move these bounds by the same number
with each element; after upsampling they repeat in periods: element i + period depends on what i does, `advance` further
(after Araujo et al., "Computing receptive fields of convolutional neural networks", Distill 2019).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Bounds = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The bounds of the elements 0, 1, ... of a period."""

    advance: int
    bounds: tuple[Bounds, ...]

    @classmethod
    def of(cls, at: Callable[[int], Bounds], period: int, advance: int) -> "Window":
        """Take down one period of bounds."""
        return cls(advance, tuple(map(at, range(period))))

    @property
    def period(self) -> int:
        """Elements until the bounds repeat."""
        return len(self.bounds)

    @property
    def stride(self) -> Fraction:
        """Input elements from one output element to the next, on average."""
        return Fraction(self.advance, self.period)

    @property
    def field(self) -> int:
        """Input elements in reach of the output element that sees most."""
        return max(high - low + 1 for low, high in self.bounds)

    @property
    def padding(self) -> int:
        """Elements before the input's first that output element 0 would see."""
        return max(0, -self.bounds[0][0])

    def __call__(self, element: int) -> Bounds:
        """Return the bounds of any element."""
        periods, place = divmod(element, self.period)
        low, high = self.bounds[place]
        return low + periods * self.advance, high + periods * self.advance

    def behind(self, source: "Window") -> "Window":
        """Put this window behind another, whose elements it sees."""
        rounds = source.period // math.gcd(self.advance, source.period)
        advance = source.advance * self.advance * rounds // source.period

        def at(element: int) -> Bounds:
            low, high = self(element)
            return _hull([source(place) for place in range(low, high + 1)])

        return Window.of(at, self.period * rounds, advance)


PLACE = Window(1, ((0, 0),))
"""Every element depends on its own place."""


def sliding(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Window:
    """Return the window of a convolution or a pool."""
    return Window(stride, ((-padding, dilation * (kernel - 1) - padding),))


def transposed(kernel: int, stride: int, padding: int, dilation: int) -> Window | None:
    """Return the window of a transposed convolution; None where some output elements see nothing.

    Input element j adds to the outputs stride·j - padding + dilation·k, for each k of the kernel.
    """

    def at(element: int) -> Bounds:
        hits = [place for k in range(kernel) if not (place := element + padding - dilation * k) % stride]
        return (min(hits) // stride, max(hits) // stride) if hits else NOTHING

    window = Window.of(at, stride, 1)
    return None if NOTHING in window.bounds else window


NOTHING = (0, -1)


def resized(lengths: tuple[int, int], taps: Bounds, nearest: bool) -> Window:
    """Return the window of an interpolation from one length to another (UpSample.h), its taps around each source."""
    before, after = lengths
    step = Fraction(before, after)

    def at(element: int) -> Bounds:
        source = element * step if nearest else (element + Fraction(1, 2)) * step - Fraction(1, 2)
        base = math.floor(source)
        low, high = (0, 0) if source == base else taps  # upon an element, the others weigh nothing
        return base + low, base + high

    return Window.of(at, step.denominator, step.numerator)


def united(windows: Sequence[Window]) -> Window | None:
    """Return what sums and concatenations see; None where their sources move apart, as with unequal strides."""
    if len({window.stride for window in windows}) != 1:
        return None
    period = math.lcm(*(window.period for window in windows))
    advance = int(windows[0].stride * period)

    return Window.of(lambda element: _hull([window(element) for window in windows]), period, advance)


def _hull(seen: Sequence[Bounds]) -> Bounds:
    return min(low for low, _ in seen), max(high for _, high in seen)
