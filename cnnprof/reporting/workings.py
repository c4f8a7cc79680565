"""The working behind an analysis's parameters and MACs: equal sums said once, with how often, up to the totals.

No torch, no tables: text for whoever lays it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cnnprof import units
from cnnprof.records import Analysis, Layer, Term, Working

What = Literal["params", "macs"]


@dataclass(frozen=True)
class Sum:
    """A sum of products, and the layers that have the same."""

    kind: str
    terms: tuple[Term, ...]
    """None where there is no formula."""
    each: int
    biases: int
    """Of each, where they are parameters."""
    paths: tuple[str, ...]

    @property
    def times(self) -> int:
        """How many layers have it."""
        return len(self.paths)

    @property
    def together(self) -> int:
        """Over its layers."""
        return self.each * self.times

    @property
    def where(self) -> str:
        """Name the layers, the first and the last of many."""
        names = [path or "(itself)" for path in self.paths]
        return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"

    @property
    def symbols(self) -> str:
        """k·k·C_in·C_out + C_out."""
        return " + ".join(term.symbols for term in self.terms)

    @property
    def numbers(self) -> str:
        """3·3·256·256 + 256 = 590,080; the last alone where there is no formula."""
        sides = [" + ".join(units.product(term.factors) for term in self.terms), units.integer(self.each)]
        return " = ".join(side for side in dict.fromkeys(sides) if side)

    @property
    def said(self) -> str:
        """3·3·256·256 + 256 = 590,080, twice: 1,180,160."""
        more = f", {units.times(self.times)}: {units.integer(self.together)}" if self.times > 1 else ""
        return f"{self.numbers}{more}"


def sums(analysis: Analysis, what: What) -> tuple[Sum, ...]:
    """Return the different sums in the order of their first layers; together they are the analysis's total."""
    known = {each.path: each for each in analysis.working}
    alike: dict[tuple[str, tuple[Term, ...], int, int], list[str]] = {}
    for layer in analysis.layers:
        if getattr(layer, what):
            alike.setdefault(_told_by(layer, known, what), []).append(layer.path)
    return tuple(Sum(*key, tuple(paths)) for key, paths in alike.items())


def _told_by(layer: Layer, known: Mapping[str, Working], what: What) -> tuple[str, tuple[Term, ...], int, int]:
    working = known.get(layer.path)
    terms: tuple[Term, ...] = getattr(working, what, ())
    biases = working.biases if working and what == "params" else 0
    return layer.kind, terms, getattr(layer, what), biases


MOST_SUMMANDS = 6


def total(found: Sequence[Sum]) -> str:
    """2·590,080, or 16,448 + 36,928 + 16,640; empty where they are one, or many."""
    alone = len(found) == 1 and found[0].times == 1
    if alone or len(found) > MOST_SUMMANDS:
        return ""
    return " + ".join(f"{each.times}·" * (each.times > 1) + units.integer(each.each) for each in found)


def without_biases(found: Sequence[Sum]) -> int:
    """What is left of the parameters."""
    return sum(each.together - each.times * each.biases for each in found)


_LETTERS = {
    "4": "real products of a complex one",
    "k": "side of a kernel",
    "kd": "its depth",
    "kh": "its height",
    "kw": "its width",
    "C_in": "channels in",
    "C_out": "channels out",
    "g": "groups",
    "L": "length of the output",
    "D": "depth of the output",
    "H": "height of the output",
    "W": "width of the output",
    "in": "length of a vector before a matrix product",
    "out": "and after it",
    "n": "vectors",
    "d": "length of a vector",
    "b": "products in a batch",
    "C": "channels of a norm",
    "h": "heads",
    "t": "vectors that ask",
    "s": "vectors that are asked",
    "e": "length of an answer",
    "N": "images",
    "calls": "calls of a layer",
    "passes": "forward, and backward for weights and for inputs",
}


def legend(analysis: Analysis) -> str:
    """Explain the symbols that are used; empty where there are none."""
    terms = [term for each in analysis.working for term in (*each.params, *each.macs)]
    used = {letter for term in terms for factor in term.symbols.split("·") for letter in factor.split("/")}
    said = "; ".join(f"{letter}: {meaning}" for letter, meaning in _LETTERS.items() if letter in used)
    transposed = "lengths of a transposed convolution are its input's" if _transposed(analysis) else ""
    named = f"{'other symbols' if said else 'symbols'} are parameter tensors' own names"
    parts = [said, transposed, named if used - set(_LETTERS) else ""]
    return f"{'; '.join(filter(None, parts))}." if terms else ""


def _transposed(analysis: Analysis) -> bool:
    return any(layer.macs and "Transpose" in layer.kind for layer in analysis.layers)
