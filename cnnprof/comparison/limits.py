"""How much a number may grow: limits as people write them, and the numbers that they are on. No torch."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction

from cnnprof.errors import UsageError
from cnnprof.records import Analysis, Candidate, Layer, Memory, Mode

Number = Fraction | None

GRAMMAR = "[MODEL/][LAYERS/]METRIC:PERCENT%, such as params:0%, resnet50/latency:10% or */layer4.*/macs:5%"


@dataclass(frozen=True)
class Limit:
    """The largest growth of a metric that passes."""

    metric: str
    growth: Fraction
    """Of the baseline: 1/20 is 5 %."""
    where: str = ""
    """A pattern of models, or one of models and one of their layers with a slash between; empty: every model."""

    def holds_of(self, model: str) -> bool:
        """Say whether it limits a model as a whole."""
        return not self.where or is_like(model, self.where)

    def layers_of(self, model: str) -> str | None:
        """Return the pattern of the layers that it limits in a model; None where it limits none of them."""
        models, slash, layers = self.where.rpartition("/")
        return layers if slash and not self.holds_of(model) and is_like(model, models) else None

    def __str__(self) -> str:
        """Write it as it is read."""
        place = f"{self.where}/" if self.where else ""
        return f"{place}{self.metric}:{float(100 * self.growth):g}%"


def is_like(name: str, pattern: str) -> bool:
    """Say whether a name goes by a pattern such as layer4.*; brackets, which tests have, stand for themselves."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def parsed(text: str) -> Limit:
    """Read a limit. Raises UsageError for what is none, with the grammar."""
    match = _LIMIT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"limit {text!r}: cannot be read; {GRAMMAR} was expected")
    metric = match["metric"].replace("-", "_")
    if metric not in METRICS:
        near = get_close_matches(metric, METRICS, 1)
        meant = f"did you mean {near[0]}? There" if near else "there"
        raise UsageError(f"limit {text!r}: no metric {match['metric']!r}; {meant} are {', '.join(METRICS)}")
    return Limit(metric, Fraction(match["percent"]) / 100, (match["where"] or "").removesuffix("/"))


_LIMIT = re.compile(r"(?P<where>.+/)?(?P<metric>[A-Za-z_-]+)\s*:\s*(?P<percent>\d+(\.\d*)?|\.\d+)\s*%")


def refuse_unknown(limits: Sequence[Limit], models: Collection[str]) -> None:
    """Raise UsageError for a limit on no model, and for one of layers on what is not known of layers."""
    for limit in limits:
        if any(limit.holds_of(name) for name in models):
            continue
        if all(limit.layers_of(name) is None for name in models):
            known = ", ".join(sorted(models))
            raise UsageError(f"limit {limit}: no model is called {limit.where!r}; there are {known}")
        if limit.metric not in OF_LAYERS:
            raise UsageError(
                f"limit {limit}: {limit.metric} is known of a model alone; of layers, {', '.join(OF_LAYERS)}"
            )


def that_hold(limits: Sequence[Limit], model: str) -> list[Limit]:
    """Return the limits on a model as a whole: of each metric the last that names the model, else the last general one.

    A model of its own limit is not held to the one of all.
    """
    chosen: dict[str, Limit] = {}
    for limit in sorted(limits, key=lambda each: bool(each.where)):
        if limit.holds_of(model):
            chosen[limit.metric] = limit
    return list(chosen.values())


# Metrics -------------------------------------------------------------------------------------------------------------


def _total(name: str) -> Callable[[Candidate], Number]:
    """Take a sum over the network: per image, where it grows with the batch."""

    def taken(candidate: Candidate) -> Number:
        if candidate.analysis is None:
            return None
        return Fraction(getattr(candidate.analysis.totals, name), _images(candidate.analysis, name))

    return taken


def _images(analysis: Analysis, name: str) -> int:
    return analysis.images if name in ("macs", "flops", "activations") else 1


def _peak(mode: Mode) -> Callable[[Candidate], Number]:
    def taken(candidate: Candidate) -> Number:
        memory: Memory | None = candidate.memory[mode]
        return None if memory is None else Fraction(memory.peak_bytes)

    return taken


TOTALS = (
    *("params", "trainable_params", "buffers", "macs", "flops"),
    *("activations", "param_bytes", "read_bytes", "written_bytes"),
)
PEAKS: Mapping[str, Mode] = {"peak_bytes": "inference", "training_peak_bytes": "training"}
TIMES: Mapping[str, Mode] = {"latency": "inference", "training_latency": "training"}
METRICS = (*TOTALS, *PEAKS, *TIMES)
EXACT: Mapping[str, Callable[[Candidate], Number]] = {
    **{name: _total(name) for name in TOTALS},
    **{name: _peak(mode) for name, mode in PEAKS.items()},
}
"""How the numbers are taken that need no clock."""


OF_LAYERS = ("params", "macs", "flops", "activations", "read_bytes", "written_bytes")


def by_layer(candidate: Candidate, metric: str) -> Mapping[str, tuple[Layer, Fraction]]:
    """Return each layer's share of a total; none where the metric is none of layers."""
    analysis = candidate.analysis
    if analysis is None or metric not in OF_LAYERS:
        return {}
    images = _images(analysis, metric)
    return {layer.path: (layer, Fraction(getattr(layer, metric), images)) for layer in analysis.layers}
