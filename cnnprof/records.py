"""The nouns: frozen values that every room passes on. No torch.

Raw first: times are kept by session, and medians and intervals are worked out when asked. Seconds, bytes and counts
stand in the names; text is made in units and reporting alone. Unknown is None; 0 means zero.
"""

import math
import statistics as stdlib_statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from cnnprof import statistics
from cnnprof.statistics import Interval, Verdict

Mode = Literal["inference", "training"]
MODES: tuple[Mode, ...] = ("inference", "training")

Size = tuple[int, ...]
Rung = Literal["meta", "fake", "cpu"]

T = TypeVar("T")


class Shown:
    """What is printed as the terminal's table and shown as the report's pieces in a notebook."""

    def __str__(self) -> str:
        """Return the terminal's table."""
        from cnnprof.reporting import as_text

        return as_text(self)  # type: ignore[arg-type]  # only records derive from it

    def _repr_html_(self) -> str:
        from cnnprof.reporting import as_html_fragment

        return as_html_fragment(self)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Doubt:
    """A reason to trust a number less, beside what to do about it."""

    about: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Layer:
    """What one module does outside its children: rows are exclusive and add up to the totals.

    `params` counts each tensor once, at the first module that holds it. Shapes are those of the first call and have the
    batch: (N, C, H, W).
    """

    path: str
    kind: str
    calls: int
    params: int
    macs: int
    activations: int
    input_shape: Size | None
    output_shape: Size | None
    read_bytes: int
    written_bytes: int
    detail: str = ""
    weight_gradient_macs: int | None = None
    """Of `macs`, those that make the gradients of weights; None in inference."""
    input_gradient_macs: int | None = None
    """Of `macs`, those that carry gradients back to the layer's input; None in inference."""

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs


@dataclass(frozen=True)
class Term:
    """A product in symbols, and its factors in numbers: k·k·C_in·C_out, (3, 3, 256, 256)."""

    symbols: str
    factors: Size

    @property
    def value(self) -> int:
        """What it makes."""
        return math.prod(self.factors)


@dataclass(frozen=True)
class Working:
    """How a layer's numbers come about, as sums of products; none where there is no number, or no formula for it."""

    path: str
    params: tuple[Term, ...]
    """A product for each parameter tensor that the layer owns."""
    macs: tuple[Term, ...]
    """A product for each operator of the given batch, equal ones taken together."""
    biases: int = 0
    """Of its parameters, those that are added: one-dimensional tensors that are named so, shifts of norms too."""


@dataclass(frozen=True)
class Node:
    """A place of a network's structure: what feeds it, and what it is called in a drawing."""

    kind: Literal["input", "box", "junction", "activation"]
    """A box has MACs: an operator, or a stage; a junction joins paths; an activation follows a junction."""
    label: str
    before: tuple[int, ...]
    """The nodes that feed it, by their place in the structure; all stand before it."""
    path: str = ""
    channels: int | None = None
    """Of its output; the length of a vector where there are no channels."""
    macs: int = 0
    output_shape: Size | None = None
    """Of a stage, with the batch."""
    times: int = 1
    """Stages alike, each of which feeds the next, that it stands for."""


@dataclass(frozen=True)
class Structure:
    """How data flows through a network, as the forward pass showed it."""

    nodes: tuple[Node, ...]
    shows: Literal["operators", "stages", "chain"]
    """Every operator that has MACs; or stages with what connects them; or stages in their order, without skips."""

    def __post_init__(self) -> None:
        """Raise ValueError where there are no nodes, or a node is fed by none that stands before it."""
        if not self.nodes or any(not 0 <= s < place for place, node in enumerate(self.nodes) for s in node.before):
            raise ValueError("its nodes are none, or not in their order")


@dataclass(frozen=True)
class Uncounted:
    """An operator that has no formula and is not known to be free of multiply-accumulates."""

    operator: str
    path: str
    calls: int


@dataclass(frozen=True)
class Totals:
    """Sums over a network, for the batch that was given."""

    params: int
    trainable_params: int
    buffers: int
    macs: int
    activations: int
    param_bytes: int
    read_bytes: int
    written_bytes: int
    weight_gradient_macs: int | None = None
    input_gradient_macs: int | None = None
    complex_params: int = 0
    """Of `params`, those of complex type: each is one element, of two real numbers."""

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs


@dataclass(frozen=True)
class Gap:
    """One cause of a difference, in one layer: what another tool counts more (or less) there, in its own unit."""

    path: str
    cause: str
    amount: int


@dataclass(frozen=True)
class Opinion:
    """What another tool says of the same forward pass, and why it says otherwise. All in that tool's unit."""

    tool: str
    ours: int
    theirs: int | None
    """None where the tool failed."""
    gaps: tuple[Gap, ...]
    failure: str | None = None

    @property
    def unexplained(self) -> int | None:
        """What the gaps leave over."""
        return None if self.theirs is None else self.theirs - self.ours - sum(gap.amount for gap in self.gaps)

    @property
    def by_cause(self) -> Mapping[str, int]:
        """Sum the differences over the layers, the largest first."""
        causes: dict[str, int] = {}
        for gap in self.gaps:
            causes[gap.cause] = causes.get(gap.cause, 0) + gap.amount
        return dict(sorted(causes.items(), key=lambda entry: -abs(entry[1])))


Books = Mapping[str, Mapping[str, int | None]]
"""What other tools say: by tool, their flops and activations; None is unknown."""


@dataclass(frozen=True)
class Analysis(Shown):
    """What shapes alone tell of a network. Printed, it is the table of its layers."""

    model: str
    input_size: Size | None
    batch_size: int | None
    """Images that were counted; None for inputs of its own whose batch nobody named."""
    totals: Totals
    coverage: float
    uncounted: tuple[Uncounted, ...]
    layers: tuple[Layer, ...]
    uncalled: tuple[str, ...] = ()
    """Modules with parameters that the forward pass never reached."""
    rung: Rung = "meta"
    """`meta` and `fake`: nothing was run; `cpu`: what the network does depends on values, so one pass ran."""
    mode: Mode = "inference"
    """`training`: MACs are those of the forward and the backward pass."""
    conventions: Books = field(default_factory=dict, hash=False)
    """The same network in other tools' books."""
    opinions: tuple[Opinion, ...] = ()
    """Other tools that were asked."""
    doubts: tuple[Doubt, ...] = ()
    working: tuple[Working, ...] = ()
    """How the numbers of the layers that have some come about."""
    structure: Structure | None = None
    """None where nothing has MACs, in training, and where a pass was run with values."""

    @property
    def images(self) -> int:
        """The divisor of figures per image; 1 where the batch is not known: then they are of the call."""
        return self.batch_size or 1

    @property
    def known_macs(self) -> int | None:
        """`macs`; None where they are 0 because something was not counted."""
        return self.macs if self.macs or not self.uncounted else None

    @property
    def uncounted_paths(self) -> frozenset[str]:
        """Paths of the layers in which something was not counted."""
        return frozenset(entry.path for entry in self.uncounted)

    def uncounted_in(self, path: str) -> tuple[str, ...]:
        """Return the operators of one layer that were not counted."""
        return tuple(entry.operator for entry in self.uncounted if entry.path == path)

    @property
    def params(self) -> int:
        """Elements of all parameter tensors, shared ones once."""
        return self.totals.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the given batch."""
        return self.totals.macs

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return self.totals.flops

    @property
    def activations(self) -> int:
        """Elements of the outputs of all operators that have MACs."""
        return self.totals.activations


@dataclass(frozen=True)
class LayerReach:
    """What one element behind a layer can combine of the network's input, at unbounded size."""

    path: str
    kind: str
    receptive_field: Size | Literal["all"] | None
    stride: tuple[float, ...] | None
    """Input elements from one element to the next, by spatial dimension; below 1 behind upsampling."""
    padding: Size | None
    """Elements before the input's first that element 0 would see."""
    channels_combined: int | None
    """Input channels that a channel here depends on: of the channel that depends on most."""


@dataclass(frozen=True)
class Mixing:
    """What one output element can combine."""

    receptive_field: Size | Literal["all"] | None
    """Input elements in reach by spatial dimension, at unbounded size; `all` behind a global operator."""
    narrowest_channels: int | None
    """Channels at the narrowest place of the path that is narrowest."""
    carried_past: int | None
    """Channels that a shorter path carries past that place; None where there is no such path."""
    channels_combined: tuple[int, int] | None = None
    """Input channels that an output channel depends on: of the channel with the fewest, and of that with the most."""
    input_channels: int | None = None
    rank: int | None = None
    """Rank of the map between channels along the narrowest path, activations taken out; None where it has none."""
    rank_with_skips: int | None = None
    """The same rank with all paths."""
    layers: tuple[LayerReach, ...] = ()


@dataclass(frozen=True)
class EffectiveField:
    """How strongly the centre of a layer's output feels each input place: by gradients, averaged."""

    path: str
    """The layer; empty: the network's own output."""
    side: float
    """Of a square of as many places as are felt by more than 4.55 % of the strongest."""
    images: int
    """Over as many random images it was averaged."""
    cell: int
    """Input places along the side of a cell."""
    cells: tuple[tuple[float, ...], ...] = field(repr=False, hash=False)
    """What is felt at all (rows, columns); the strongest is 1."""


@dataclass(frozen=True)
class Latency:
    """Seconds of one batch, raw, by session, beside the processors that the process got meanwhile."""

    sessions: tuple[tuple[float, ...], ...]
    cpu_shares: tuple[float | None, ...] = ()
    """CPU time / wall / threads, by session."""
    waited_shares: tuple[float | None, ...] = ()
    """Share of the time its threads could run that they waited for a processor, by session; None where not told."""
    bursts: tuple[tuple[int, ...], ...] = ()
    """How many of a session's times are of its first burst, its second and so on; none: one burst holds all."""
    first_calls_s: tuple[float, ...] = ()
    """Seconds of a session's first call, which is no sample."""
    warm_up_s: float = 0.0
    """What was spent in the first session until calls got no faster."""
    starts_s: tuple[tuple[float, ...], ...] = ()
    """When each burst of a session began, by the clock that they were timed with; it has no zero of its own."""
    calls: tuple[int, ...] = ()
    """Calls that a session made from its first burst on, those that are no samples too."""
    stretches_s: tuple[tuple[float, ...], ...] = ()
    """Of sessions whose times are not kept one by one, the medians of a few stretches, in their order."""

    def __post_init__(self) -> None:
        """Raise ValueError where there is nothing to take a median of, or an account of other sessions."""
        if not self.sessions or not all(times and min(times) > 0 for times in self.sessions):
            raise ValueError("sessions hold no times above 0")
        by_session = (self.cpu_shares, self.waited_shares, self.calls, self.stretches_s)
        if any(len(each) not in (0, len(self.sessions)) for each in by_session):
            raise ValueError("cpu_shares, waited_shares, calls or stretches_s are not those of its sessions")
        if not all(times and min(times) > 0 for times in self.stretches_s):
            raise ValueError("stretches_s hold no times above 0")
        if self.bursts and [sum(lengths) for lengths in self.bursts] != [len(times) for times in self.sessions]:
            raise ValueError("bursts are not those of its sessions")

    def burst_medians_s(self, session: int) -> tuple[float, ...]:
        """Return the median of each burst of one session: one a round."""
        times = iter(self.sessions[session])
        lengths = self.bursts[session] if self.bursts else (len(self.sessions[session]),)
        return tuple(stdlib_statistics.median(islice(times, length)) for length in lengths)

    def starved(self, session: int) -> bool:
        """Say whether the process did not get its processors in that session."""
        waited = self.waited_shares[session] if self.waited_shares else None
        return waited is not None and waited > statistics.MAX_WAITED

    @property
    def counted(self) -> tuple[int, ...]:
        """The sessions in which the process got its processors."""
        return tuple(index for index in range(len(self.sessions)) if not self.starved(index))

    def session_median_s(self, session: int) -> float:
        """Return the median of one session's times."""
        return stdlib_statistics.median(self.sessions[session])

    @property
    def median_s(self) -> float:
        """The median of the raw times of the sessions that count; of all where none does."""
        kept = self.counted or range(len(self.sessions))
        return stdlib_statistics.median(time for index in kept for time in self.sessions[index])

    @property
    def ci95_s(self) -> Interval | None:
        """95 % interval of the time over the sessions that count."""
        return statistics.interval([self.burst_medians_s(index) for index in self.counted])

    @property
    def cpu_share(self) -> float | None:
        """The median over all sessions of the share of its processors that the process used."""
        return _median(self.cpu_shares)

    @property
    def got_share(self) -> float | None:
        """The median over all sessions of what the process got of the processors that it could have used."""
        waited = _median(self.waited_shares)
        return None if waited is None else 1 - waited


def _median(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return stdlib_statistics.median(known) if known else None


@dataclass(frozen=True)
class Memory:
    """The allocator's level of one call: the largest sum of live tensor bytes."""

    peak_bytes: int
    before_bytes: int
    """What stood before the call: parameters, buffers, inputs, labels, optimizer state."""
    predicted_in: str | None = None
    """The layer in which a predicted peak is reached, empty outside of layers; None of one that was measured."""


Category = Literal["parameters", "gradients", "optimizer_state", "buffers", "inputs", "activations", "temporaries"]
CATEGORIES: tuple[Category, ...] = (
    "parameters",
    "gradients",
    "optimizer_state",
    "buffers",
    "inputs",
    "activations",
    "temporaries",
)
"""What memory is for. Activations are what the forward pass keeps for the backward one."""

Phase = Literal["forward", "backward", "optimizer"]
INPUT = "(input)"
"""Stands for a layer's path where memory is that of what the model is fed."""


@dataclass(frozen=True)
class Laid:
    """How a tensor argument lies in memory."""

    shape: Size
    stride: Size
    dtype: str
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Of its elements."""
        return math.prod(self.shape) * self.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Say whether its elements lie in the order of its dimensions, without gaps."""
        expected = 1
        for length, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if length != 1 and step != expected:
                return False
            expected *= length
        return True

    @property
    def is_channels_last(self) -> bool:
        """Say whether the elements of (N, C, ...) lie without gaps, and the channels of a place side by side."""
        rank = len(self.shape)
        return rank > 2 and self._permuted((0, *range(2, rank), 1)).is_contiguous

    def transposed(self, one: int, other: int) -> "Laid":
        """Return it with two dimensions swapped."""
        order = list(range(len(self.shape)))
        order[one], order[other] = other, one
        return self._permuted(order)

    def _permuted(self, order: Sequence[int]) -> "Laid":
        return replace(self, shape=tuple(self.shape[i] for i in order), stride=tuple(self.stride[i] for i in order))

    def with_length(self, dimension: int, length: int) -> "Laid":
        """Return it with another length in one dimension, and strides beyond that follow."""
        before, step = self.shape[dimension], self.stride[dimension]
        shape = tuple(length if place == dimension else size for place, size in enumerate(self.shape))
        stride = tuple(each * length // before if each > step else each for each in self.stride)
        return replace(self, shape=shape, stride=stride)


@dataclass(frozen=True)
class Kernel:
    """A call of an operator whose kernel may take memory for itself: tensors as they lie, all else as it is."""

    operator: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...] = ()
    """Keyword arguments."""
    overload: str = "default"
    outputs_bytes: int | None = None
    """Of the new memory that it returned, where that was seen."""

    def mapped(self, change: Callable[[Laid], Laid]) -> "Kernel":
        """Return the call with other tensors, whose outputs are not known."""
        arguments, named = _laid_mapped(self.arguments, change), _laid_mapped(self.named, change)
        return replace(self, arguments=arguments, named=named, outputs_bytes=None)

    def tensors(self) -> Iterator[Laid]:
        """Yield its tensors, those in lists too."""
        yield from _laid_in((self.arguments, self.named))


def _laid_mapped(value: Any, change: Callable[[Laid], Laid]) -> Any:
    if isinstance(value, tuple):
        return tuple(_laid_mapped(item, change) for item in value)
    return change(value) if isinstance(value, Laid) else value


def _laid_in(value: Any) -> Iterator[Laid]:
    if isinstance(value, tuple):
        for item in value:
            yield from _laid_in(item)
    elif isinstance(value, Laid):
        yield value


@dataclass(frozen=True)
class HeldTensor:
    """A tensor's memory, with the module and the operator that made it."""

    size_bytes: int
    shape: Size
    dtype: str
    category: Category
    path: str
    operator: str


@dataclass(frozen=True)
class LayerMemory:
    """What one module holds outside its children; `(input)` is what the model is fed."""

    path: str
    kind: str
    parameter_bytes: int
    activation_bytes: int
    """What its operators keep for the backward pass."""
    at_peak_bytes: int
    """What of it stands when the step is at its peak, gradients and temporaries too."""


@dataclass(frozen=True)
class Moment:
    """What stands while one operator runs."""

    operator: int
    """Its number in the step."""
    churn_bytes: int
    """All that was taken and released by then."""
    phase: Phase
    path: str
    sizes_bytes: tuple[int, ...]
    """By category, in their order."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(self.sizes_bytes)


@dataclass(frozen=True)
class Predicted:
    """The memory of a step, by what it is for."""

    peak_bytes: int
    at_peak: Mapping[str, int] = field(hash=False)
    """Bytes by category; they add up to the peak."""
    peak_path: str
    peak_operator: str
    peak_phase: Phase
    activations_bytes: int
    """All that the forward pass leaves for the backward one."""
    largest: tuple[HeldTensor, ...]
    """The largest tensors that stand at the peak."""
    layers: tuple[LayerMemory, ...]
    timeline: tuple[Moment, ...]
    """The curve over the step: the highest moment of each stretch."""
    not_known: tuple[str, ...] = ()
    """Operators whose kernels take memory that was not predicted."""
    not_drawn: int = 0
    """Kernels, which cannot decide the peak, whose own memory the curve leaves out."""


@dataclass(frozen=True)
class ByMode(Generic[T]):
    """One value for the forward pass, one for the training step; None where a mode was not measured."""

    inference: T | None = None
    training: T | None = None

    def __getitem__(self, mode: Mode) -> T | None:
        """Look a mode up by its name."""
        return self.inference if mode == "inference" else self.training

    def items(self) -> Iterator[tuple[Mode, T]]:
        """Yield the modes that were measured."""
        for mode in MODES:
            value = self[mode]
            if value is not None:
                yield mode, value


@dataclass(frozen=True)
class LayerTime:
    """Seconds of the operators that ran in one module, outside its children."""

    path: str
    kind: str
    forward_s: float
    backward_s: float | None
    forward_operators: int = 0
    """How many operators a forward pass called."""
    transformed: bool = False
    """It ran a kernel that does fewer products than the layer has: Winograd, or FFT."""


@dataclass(frozen=True)
class OperatorTime:
    """Seconds of one operator over all modules."""

    operator: str
    calls: int
    forward_s: float
    backward_s: float | None


@dataclass(frozen=True)
class TimeByLayer:
    """Where the time of a call went, by profiled passes apart from those that are timed: medians over them."""

    layers: tuple[LayerTime, ...]
    remainder_s: float | None
    """The unprofiled latency less the sum of the layers: Python and dispatch; on a device, idle and launch time."""
    profiled_s: float
    """Wall time of a profiled pass."""
    operators: tuple[OperatorTime, ...] = ()
    passes: int = 1
    mode: Mode = "inference"


@dataclass(frozen=True)
class Product:
    """The fastest matrix product of a dtype: FLOPs are 2 N^3."""

    dtype: str
    flops_per_s: float
    side: int
    """Of the square matrices that reached it."""


@dataclass(frozen=True)
class Bandwidth:
    """Bytes read and written a second, over a working set of so many bytes."""

    working_set_bytes: int
    copy_bytes_per_s: float
    """One half is copied to the other."""
    update_bytes_per_s: float
    """All of it is read, changed and written."""

    @property
    def bytes_per_s(self) -> float:
        """The better of both."""
        return max(self.copy_bytes_per_s, self.update_bytes_per_s)


@dataclass(frozen=True)
class Peaks:
    """What a machine can do at most, with so many threads."""

    device: str
    threads: int
    products: tuple[Product, ...]
    bandwidths: tuple[Bandwidth, ...]
    call_s: float
    """What the smallest operator costs."""

    def flops_per_s(self, dtype: str) -> float | None:
        """Return the roof of a dtype; None where it was not measured."""
        return next((product.flops_per_s for product in self.products if product.dtype == dtype), None)

    def bytes_per_s(self, working_set: float) -> float:
        """Return the bandwidth at a working set, between those that were measured; the first and last hold beyond."""
        curve = self.bandwidths
        if working_set <= curve[0].working_set_bytes:
            return curve[0].bytes_per_s
        for below, above in pairwise(curve):
            if working_set <= above.working_set_bytes:
                share = math.log(working_set / below.working_set_bytes) / math.log(
                    above.working_set_bytes / below.working_set_bytes
                )
                return below.bytes_per_s * math.exp(share * math.log(above.bytes_per_s / below.bytes_per_s))
        return curve[-1].bytes_per_s


Bound = Literal["compute", "memory", "overhead"]


@dataclass(frozen=True)
class LayerRoof:
    """The forward pass of one layer against the machine's roofs."""

    path: str
    kind: str
    time_s: float
    flops: int
    moved_bytes: int
    """Of each operator's inputs and outputs, once."""
    attainable_s: float
    bound: Bound
    transformed: bool = False
    """It may be faster than its roof: its kernels do fewer products than it has."""

    @property
    def intensity(self) -> float | None:
        """FLOPs a byte."""
        return self.flops / self.moved_bytes if self.moved_bytes else None

    @property
    def flops_per_s(self) -> float:
        """What it achieved."""
        return self.flops / self.time_s

    @property
    def bytes_per_s(self) -> float:
        """What it achieved."""
        return self.moved_bytes / self.time_s

    @property
    def share(self) -> float:
        """Of its roof."""
        return self.attainable_s / self.time_s


@dataclass(frozen=True)
class Own:
    """Settings of one candidate; None is the run's."""

    batch_size: int | None = None
    input_size: Size | int | None = None
    """A number alone is the side of a square image, until the model is known."""
    dtype: str | None = None
    amp: bool | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    threads: int | None = None


Count = Literal["params", "macs"]
COUNTS: tuple[Count, ...] = ("params", "macs")


@dataclass(frozen=True)
class Match:
    """A model with the value of one argument that brings a count nearest to a baseline's."""

    model: str
    """The MODEL string with that value."""
    by: Count
    argument: str
    value: int
    count: int
    """Its own; MACs are per image."""
    wanted: int
    """The baseline's."""

    @property
    def ratio(self) -> float:
        """Its count over the baseline's."""
        return self.count / self.wanted


@dataclass(frozen=True)
class Candidate:
    """All that is known of one model."""

    name: str
    analysis: Analysis | None
    """None of a plain callable."""
    mixing: Mixing | None = None
    latency: ByMode[Latency] = field(default_factory=ByMode)
    memory: ByMode[Memory] = field(default_factory=ByMode)
    training_run: "TrainingRun | None" = None
    """Of the first seed, where it was trained."""
    time: TimeByLayer | None = None
    not_numbers: tuple[Mode, ...] = ()
    """Modes whose outputs, or loss, hold NaN."""
    failure: str | None = None
    """Why the measurement of this candidate stopped; what had been measured by then is kept."""
    batch_size: int | None = None
    """Images in a call that is timed; None where that is not known."""
    roofline: tuple[LayerRoof, ...] = ()
    """Its forward pass against the machine's roofs, where that was asked for."""
    settings: Own = field(default_factory=Own)
    kept: tuple[LayerMemory, ...] = ()
    """What its layers keep for the backward pass, predicted; none where shapes do not tell, or no step is asked for."""
    effective_field: EffectiveField | None = None
    matched: Match | None = None
    """How it was made like the baseline, where that was asked for."""
    model: str | None = None
    """Its MODEL without the label; None of an nn.Module."""
    dtype: str | None = None
    """The types of its parameters while it is measured: float32 and bfloat16."""

    def measured_with(self, settings: "Settings") -> "Settings":
        """Return the settings that it was measured with in a run: its own before the run's, its types by name."""
        own = settings.of(self.settings)
        return replace(own, dtype=self.dtype or (own.dtype if own.dtype != OWN_TYPE else DEFAULT_TYPE))

    @property
    def kept_bytes(self) -> int | None:
        """All that is kept for the backward pass."""
        return sum(layer.activation_bytes for layer in self.kept) if self.kept else None


Side = Literal["baseline", "candidate"]


@dataclass(frozen=True)
class TimeRatio:
    """Candidate / baseline over sessions of interleaved bursts; None where no ratio can be given."""

    ratio: float | None
    ci95: Interval | None
    verdict: Verdict
    sessions: int
    grows: tuple[Side, ...] = ()
    """Whose time grows with each call, so that no single number stands for it, nor for the ratio."""


@dataclass(frozen=True)
class Ratio:
    """Candidate / baseline of an exact number; None where either is unknown or the baseline is 0."""

    ratio: float | None


@dataclass(frozen=True)
class Contrast:
    """One candidate against the baseline."""

    name: str
    latency: TimeRatio | None
    training_latency: TimeRatio | None
    params: Ratio
    macs: Ratio
    peak_bytes: Ratio
    training_peak_bytes: Ratio
    kept_bytes: Ratio = field(default_factory=lambda: Ratio(None))
    """For the backward pass."""


@dataclass(frozen=True)
class Cell:
    """Two models with the same values of some settings or arguments, the second against the first."""

    values: tuple[str, ...]
    """One of each axis."""
    baseline: str
    """The name of the first one's profile; the contrast has the second one's."""
    contrast: Contrast

    @property
    def won(self) -> float | None:
        """Times better in the forward pass over times better by MACs; None where there is no verdict."""
        return _won(self.contrast.macs, self.contrast.latency)

    @property
    def training_won(self) -> float | None:
        """The same of the training step."""
        return _won(self.contrast.macs, self.contrast.training_latency)


def _won(macs: Ratio, time: TimeRatio | None) -> float | None:
    if macs.ratio is None or time is None or time.ratio is None or time.verdict == "inconclusive":
        return None
    return macs.ratio / time.ratio


@dataclass(frozen=True)
class RatioMap:
    """Two models against each other over the values of one or two settings or arguments."""

    baseline: str
    candidate: str
    axes: Mapping[str, tuple[str, ...]] = field(hash=False)
    """The values by name."""
    cells: tuple[Cell, ...] = ()
    """One for each combination, the last axis moving first."""


@dataclass(frozen=True)
class Machine:
    """What a time depends on, without the names of host and user."""

    cpu: str
    physical_cores: int | None
    logical_cores: int | None
    threads: int
    memory_bytes: int
    os: str
    python: str
    torch: str
    device: str
    device_name: str | None
    cuda: str | None
    load: float | None
    """Runnable processes over the last minute, at the start."""
    allocator: str
    """`kept`: the C library kept its memory while measuring; `system`: as any program has it."""
    usable_cores: int | None = None
    """Of the logical ones, those that this process may run on."""
    instructions: str | None = None
    """The widest vectors that torch's kernels use."""
    cudnn_benchmark: bool | None = None
    """cuDNN tries its algorithms and keeps the fastest; None where there is no CUDA device."""
    tf32: bool | None = None
    """Products of float32 are rounded to 10 bits of mantissa; None where there is no CUDA device."""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What was set of the variables that change times."""


BATCH_SIZE = 8
"""Of measurements, where none is asked for."""
OWN_TYPE = "own"
"""The types that a model has."""
DEFAULT_TYPE = "float32"
"""The type of the tensors that torch makes by default."""


@dataclass(frozen=True)
class Settings:
    """What was asked for; the defaults are those of the command line."""

    batch_size: int | None = BATCH_SIZE
    """None in a document whose models bring inputs of their own, of which nobody named a batch."""
    input_size: Size | None = None
    """(C, H, W) without the batch; None: each model's own."""
    device: str = "cpu"
    dtype: str = OWN_TYPE
    """Of floating tensors."""
    amp: bool = False
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None
    """None: torch's own."""
    modes: tuple[Mode, ...] = MODES
    roofline: bool = False
    """Put layers against the machine's roofs."""
    erf: bool = False
    """Measure effective receptive fields, too."""
    processes: bool = False
    """Every session runs in a process of its own."""
    time_s: float | None = None
    """Seconds of measuring; None: 10, and 5 for each candidate beyond two."""
    ci: float = 0.005
    """Measuring ends early when every interval's half-width is below this."""
    seed: int = 42
    margin: float = statistics.MARGIN
    allocator: Literal["kept", "system"] = "kept"
    cudnn_benchmark: bool | None = None
    """On CUDA; None leaves it as it is."""
    tf32: bool | None = None
    """On CUDA; None leaves it as it is."""
    optimizer: str = "sgd(lr=0.001)"
    """A step of 0.001 keeps values where they are: what grows or dies over the calls would change their time."""
    accumulate: int = 1
    """Batches that a training step goes forward and backward on before the optimizer steps."""
    loss: str = "cross-entropy with random labels for an output (N, C), else the sum of the outputs' means"

    @property
    def images(self) -> int:
        """Images of a batch; 1 where it is not known."""
        return self.batch_size or 1

    def of(self, own: Own) -> "Settings":
        """Return the settings of a candidate that has some of its own."""
        return replace(self, **{name: value for name, value in vars(own).items() if value is not None})


@dataclass(frozen=True)
class Comparison(Shown):
    """Candidates measured together; the first is the baseline. Printed, it is the terminal's table."""

    command: str
    commit: str | None
    created: str
    machine: Machine
    settings: Settings
    baseline: str
    profiles: tuple[Candidate, ...]
    comparisons: tuple[Contrast, ...]
    doubts: tuple[Doubt, ...] = ()
    partial: bool = False
    """Measuring was interrupted."""
    peaks: Peaks | None = None
    """The machine's roofs, where layers were put against them."""
    map: RatioMap | None = None
    """Pairs at equal values, where two models were asked for over several."""
    training: "Training | None" = None
    """What they learn, or small networks made of them, where that was asked for."""

    def __post_init__(self) -> None:
        """Raise ValueError where the first profile is not the baseline, or the others are not compared with it."""
        names = tuple(profile.name for profile in self.profiles)
        if names != (self.baseline, *(contrast.name for contrast in self.comparisons)):
            raise ValueError("its comparisons are not those of its profiles with the baseline")


@dataclass(frozen=True)
class Profile(Shown):
    """One model measured alone: a document like a comparison's, with one entry in `profiles`."""

    command: str
    commit: str | None
    created: str
    machine: Machine
    settings: Settings
    profiles: tuple[Candidate]
    doubts: tuple[Doubt, ...] = ()
    partial: bool = False
    peaks: Peaks | None = None

    @property
    def name(self) -> str:
        """The model as it was named."""
        return self.profiles[0].name

    @property
    def analysis(self) -> Analysis:
        """What shapes alone tell."""
        assert self.profiles[0].analysis is not None
        return self.profiles[0].analysis

    @property
    def latency(self) -> ByMode[Latency]:
        """Times by mode."""
        return self.profiles[0].latency

    @property
    def memory(self) -> ByMode[Memory]:
        """Memory by mode."""
        return self.profiles[0].memory

    @property
    def time(self) -> TimeByLayer | None:
        """Where the time went."""
        return self.profiles[0].time


GateVerdict = Literal["passed", "failed", "inconclusive", "skipped"]


@dataclass(frozen=True)
class LayerChange:
    """A layer whose number is another than it was; None where there is no such layer."""

    model: str
    path: str
    kind: str
    metric: str
    baseline: float | None
    candidate: float | None


@dataclass(frozen=True)
class GateResult:
    """One metric of one model against its limit. Changes are shares of the baseline: 0.05 is 5 % more."""

    model: str
    metric: str
    layer: str | None
    """The layer that grew most; None where none did, or layers are not known."""
    limit: float
    """The largest change that passes."""
    change: float | None
    ci95: Interval | None
    """Of the change of a time."""
    verdict: GateVerdict
    baseline: float | None = None
    """Counts per image (of a call where a batch is not known), bytes, or seconds of a batch."""
    candidate: float | None = None
    message: str = ""
    """Why it is not known, or what decides it."""
    layers: str | None = None
    """The layers that the limit is on, each alone, of which this is the worst; None: it is on the model."""
    grows: tuple[Side, ...] = ()
    """Whose time grows with each call, so that there is no change of it."""


@dataclass(frozen=True)
class GateTimes:
    """Times of one model on both sides, raw."""

    model: str
    mode: Mode
    baseline: Latency
    candidate: Latency


@dataclass(frozen=True)
class Gate(Shown):
    """Models against a baseline, each number against its limit."""

    command: str
    commit: str | None
    created: str
    against: str
    """The baseline's file, without folders, or its revision."""
    models: tuple[str, ...]
    limits: tuple[str, ...]
    results: tuple[GateResult, ...]
    changes: tuple[LayerChange, ...] = ()
    """Of all models; per image."""
    inconclusive: Literal["pass", "fail"] | None = None
    """What an inconclusive time counts as; None: as neither."""
    times: tuple[GateTimes, ...] = ()
    processes: tuple[int, ...] = ()
    """The numbers that the system gave those of the baseline and of the candidate, where there were two."""
    machine: Machine | None = None
    settings: Settings | None = None
    doubts: tuple[Doubt, ...] = ()
    partial: bool = False
    """Measuring was interrupted."""

    @property
    def passed(self) -> bool:
        """Say whether all was measured, nothing failed, and nothing is left open."""
        return self.exit_code == 0 and not self.partial

    @property
    def exit_code(self) -> int:
        """0: passed; 1: something grew beyond its limit; 3: inconclusive.

        That is a time that its interval does not decide, a number that is gone or no longer counted, or a peak that
        another machine's kernels may explain. `inconclusive` lets times alone pass.
        """
        verdicts = {result.verdict for result in self.results}
        if "failed" in verdicts or ("inconclusive" in verdicts and self.inconclusive == "fail"):
            return 1
        passing = ("latency", "training_latency") if self.inconclusive == "pass" else ()
        return 3 if any(each.verdict == "inconclusive" and each.metric not in passing for each in self.results) else 0


@dataclass(frozen=True)
class Noise:
    """What comes of comparing two equal calls: how much a difference must be to be seen here and now."""

    ratio: float | None
    ci95: Interval | None
    verdict: Verdict
    waited_share: float | None
    """Of the time its threads could run they waited for a processor."""


@dataclass(frozen=True)
class MachineReport(Shown):
    """A machine, what it can do at most, and how quiet it is."""

    command: str
    created: str
    machine: Machine
    peaks: Peaks
    noise: Noise | None = None
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """One way to run a model, and what memory that is predicted to take."""

    mode: Mode
    optimizer: str | None
    """None in inference."""
    predicted: Predicted


@dataclass(frozen=True)
class MeasuredMemory:
    """The memory of a real step: allocator, process and device are three numbers."""

    peak_bytes: int
    """The allocator's level: the largest sum of live tensor bytes."""
    before_bytes: int
    """What stood before the step."""
    batch_size: int | None
    curve_bytes: tuple[int, ...] = ()
    """What stood over the step, against all that was taken and released by then: the highest of each stretch."""
    process_peak_bytes: int | None = None
    """The most that a process of its own had resident, the libraries that it loads included."""
    process_before_bytes: int | None = None
    """What that process had resident before the model was built."""
    reserved_bytes: int | None = None
    """On CUDA: what the caching allocator had taken from the device."""


@dataclass(frozen=True)
class Overhead:
    """What a device or a process takes beyond the allocator's level."""

    fixed_bytes: int
    share: float
    """Of the allocator's peak."""
    source: str

    def of(self, peak_bytes: int) -> int:
        """Return a peak with what comes on top of it."""
        return round(peak_bytes * (1 + self.share)) + self.fixed_bytes


@dataclass(frozen=True)
class Fit:
    """The largest batch that a capacity holds, found on predictions alone."""

    capacity_bytes: int
    batch_size: int | None
    """None where not even the smallest batch fits."""
    smallest_batch: int
    peak_bytes: int
    """At that batch, or at the smallest: the allocator's level."""
    needed_bytes: int
    """The same with what comes on top."""


@dataclass(frozen=True)
class MemoryProfile(Shown):
    """The memory of a model's step, predicted, and measured where that was asked for."""

    command: str
    created: str
    model: str
    input_size: Size | None
    batch_size: int | None
    mode: Mode
    settings: Settings
    machine: Machine
    predicted: Predicted | None
    """None where shapes alone do not tell: then it was measured."""
    measured: MeasuredMemory | None = None
    scenarios: tuple[Scenario, ...] = ()
    """What stands side by side; the last one is `predicted`."""
    overhead: Overhead | None = None
    fit: Fit | None = None
    doubts: tuple[Doubt, ...] = ()
    dtype: str | None = None
    """The types of the model's parameters in that step: float32 and bfloat16."""

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1, of the same batch."""
        if self.predicted is None or self.measured is None or self.measured.batch_size != self.batch_size:
            return None
        return self.predicted.peak_bytes / self.measured.peak_bytes - 1


Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that should hold, whether it does, and what to do where it does not."""

    name: str
    status: Status
    value: float | None
    """What was measured: for a verification the norm of a difference, else what its message begins with."""
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Verification(Shown):
    """A student's own builders against the course's numbers and ours."""

    command: str
    created: str
    file: str
    """Its name, without folders."""
    torch: str
    checks: tuple[Check, ...]
    failure: str | None = None
    """The part that time was too short for, so that it is inconclusive; earlier checks are kept."""

    @property
    def passed(self) -> bool:
        """Say whether no check failed, and all of them ended."""
        return self.failure is None and not any(check.status == "failed" for check in self.checks)


@dataclass(frozen=True)
class LayerNorms:
    """How large what passes a layer with weights is, at the start: once a call, in the network's order."""

    path: str
    activation: float
    """The root mean square of its output."""
    gradient: float | None
    """The norm of the loss's gradient to its output; None where none reaches it."""
    contrast: float
    """Of what it gets: the root mean square of the differences between images, over that of the whole."""


@dataclass(frozen=True)
class Sanity(Shown):
    """Whether a network can learn at all, check by check."""

    command: str
    created: str
    model: str
    params: int
    input_size: Size
    data: str
    """What it was tried on, in words."""
    protocol: str
    """How it was trained while it was tried."""
    seed: int
    machine: Machine
    took_s: float
    checks: tuple[Check, ...]
    norms: tuple[LayerNorms, ...] = ()
    """By depth; none where numbers were not finite."""
    not_asked: tuple[str, ...] = ()
    """The checks that no time was left for."""

    @property
    def passed(self) -> bool:
        """Say whether no check failed, and all were asked."""
        return not self.failed and not self.not_asked

    @property
    def failed(self) -> bool:
        """Say whether a check failed: no check that was not asked would change that."""
        return any(check.status == "failed" for check in self.checks)


# Training ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """The images that were trained and tested on."""

    name: str
    note: str
    """What was taken, and how it was made to fit."""
    classes: int
    train_images: int
    test_images: int


@dataclass(frozen=True)
class TrainingConfig:
    """How every model was trained: alike."""

    batch_size: int
    optimizer: str
    """As torch.optim names it, with its arguments."""
    epochs: int | None
    """None: as many as `time_s` allows."""
    time_s: float | None
    """Seconds of training steps for each model and seed; None: as long as `epochs` take."""
    seeds: tuple[int, ...]
    """Of weights, order of images, augmentation and dropout."""
    device: str = "cpu"
    augment: bool = False
    amp: bool = False
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None
    loss: str = "cross-entropy"


@dataclass(frozen=True)
class Learner:
    """A model that was trained."""

    name: str
    model: str
    """What it resolved to."""
    input_size: Size
    params: int
    macs: int
    """Of one image's forward pass."""
    training_macs: int
    """Of one image forward and backward."""


@dataclass(frozen=True)
class TrainingRun:
    """One model trained from one seed, epoch by epoch. Losses are means over an epoch's samples."""

    model: str
    seed: int
    train_loss: tuple[float, ...] = ()
    train_accuracy_percent: tuple[float, ...] = ()
    test_loss: tuple[float, ...] = ()
    test_accuracy_percent: tuple[float, ...] = ()
    images: tuple[int, ...] = ()
    """Trained on, by epoch."""
    step_times_s: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    """Of training steps, waiting for data included, by epoch."""
    test_wrong: tuple[int, ...] = field(default=(), repr=False)
    """The test images, by their place, that it names wrongly after its last epoch."""
    resumed_at: int = 0
    """The epochs that a checkpoint brought."""
    not_saved: str | None = None
    """Why its last checkpoint could not be written."""
    failure: str | None = None
    """Why it stopped before its end."""

    @property
    def train_s(self) -> float:
        """Seconds of training steps."""
        return math.fsum(self.epoch_s)

    @property
    def epoch_s(self) -> tuple[float, ...]:
        """Seconds of training steps by epoch."""
        return tuple(map(math.fsum, self.step_times_s))

    @property
    def images_seen(self) -> int:
        """Trained on, in all epochs."""
        return sum(self.images)

    @property
    def final_percent(self) -> float | None:
        """Test accuracy after the last epoch."""
        return self.test_accuracy_percent[-1] if self.test_accuracy_percent else None


class FitResult(NamedTuple):
    """What each epoch of a trainer gave: losses are means over its samples, accuracies percent."""

    num_epochs: int
    train_loss: list[float]
    train_acc: list[float]
    test_loss: list[float]
    test_acc: list[float]


@dataclass(frozen=True)
class AccuracyDifference:
    """Test accuracy of a candidate less that of the baseline, in percentage points, paired over seeds."""

    difference: float | None
    ci95: Interval | None
    """None where fewer than two seeds carry it."""
    verdict: statistics.AccuracyVerdict
    seeds: int


@dataclass(frozen=True)
class TrainingContrast:
    """A candidate against the baseline."""

    name: str
    test_accuracy_percent: AccuracyDifference


@dataclass(frozen=True)
class Depth:
    """What becomes of activations and gradients on the way through a network."""

    model: str
    layers: tuple[LayerNorms, ...]
    """Layers with weights, in the order in which they run."""


@dataclass(frozen=True)
class Training(Shown):
    """Models trained on the same data in the same order; the first is the baseline."""

    command: str
    commit: str | None
    created: str
    machine: Machine
    data: str
    dataset: DataSet
    config: TrainingConfig
    baseline: str
    models: tuple[Learner, ...]
    runs: tuple[TrainingRun, ...]
    comparisons: tuple[TrainingContrast, ...]
    doubts: tuple[Doubt, ...] = ()
    partial: bool = False
    """It was interrupted."""
    depths: tuple[Depth, ...] = ()

    def runs_of(self, name: str) -> tuple[TrainingRun, ...]:
        """Return a model's runs, a seed each."""
        return tuple(run for run in self.runs if run.model == name)


# Benchmarks of tests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A fixed piece of work, timed beside a benchmark: what it takes tells machines and moments apart."""

    name: str
    """With the number of its definition; another one is another name."""
    times_s: tuple[float, ...]
    """Medians of a few calls: before each session, and after the last."""


@dataclass(frozen=True)
class Benchmark:
    """One model in the rounds of one test, beside what needs no clock. pytest-benchmark's JSON keeps it."""

    profile: Candidate
    """Of its rounds, the median of each session."""
    mode: Mode
    settings: Settings
    machine: Machine
    reference: Reference

    def __post_init__(self) -> None:
        """Raise ValueError where a number is missing that every benchmark has."""
        if self.profile.analysis is None or self.profile.latency[self.mode] is None or not self.reference.times_s:
            raise ValueError("its analysis, its latency or its reference is missing")

    @property
    def model(self) -> str:
        """The model as it was named."""
        return self.profile.name

    @property
    def input_size(self) -> Size | None:
        """(C, H, W) without the batch; None of inputs of its own."""
        return self._analysis.input_size

    @property
    def batch_size(self) -> int | None:
        """Images in a call; None where that is not known."""
        return self.profile.batch_size

    @property
    def params(self) -> int:
        """Elements of all parameter tensors."""
        return self._analysis.params

    @property
    def macs(self) -> float:
        """Multiply-accumulates of a forward pass: per image, or of a call where its batch is not known."""
        return self._analysis.macs / self._analysis.images

    @property
    def peak_bytes(self) -> int | None:
        """The predicted peak of a call; None where shapes do not tell."""
        memory = self.profile.memory[self.mode]
        return memory.peak_bytes if memory else None

    @property
    def latency(self) -> Latency:
        """Its sessions."""
        latency = self.profile.latency[self.mode]
        assert latency is not None
        return latency

    @property
    def cpu_share(self) -> float | None:
        """CPU time / wall / threads over its rounds."""
        return self.latency.cpu_share

    @property
    def got_share(self) -> float | None:
        """What the process got of the processors that it could have used."""
        return self.latency.got_share

    @property
    def ci95_s(self) -> Interval | None:
        """95 % interval of its time, for other runs too."""
        bounds = self.latency.ci95_s
        return bounds and statistics.widened(bounds, self.latency.median_s, statistics.RUNS_APART)

    @property
    def reference_ratio(self) -> float:
        """Median time over that of the reference."""
        return self.latency.median_s / stdlib_statistics.median(self.reference.times_s)

    @property
    def _analysis(self) -> Analysis:
        assert self.profile.analysis is not None
        return self.profile.analysis


@dataclass(frozen=True)
class Benchmarked:
    """One test of a stored run of pytest-benchmark."""

    test: str
    """With its file: tests/test_speed.py::test_forward[resnet18]."""
    median_s: float | None
    """None, like `iqr_s`, where the stored number is not finite."""
    iqr_s: float | None
    """Third quartile less first."""
    rounds: int
    found: Benchmark | None = None
    """None where no model of ours was timed, or it cannot be read."""
    left_out: str = ""
    """Why it cannot be read."""


@dataclass(frozen=True)
class BenchmarkRun:
    """One stored run of pytest-benchmark."""

    source: str
    """Its file, without folders."""
    created: str
    commit: str | None
    committed: str | None
    """When."""
    dirty: bool
    machine: str
    """Processor, system and Python, as pytest-benchmark knows them."""
    benchmarks: tuple[Benchmarked, ...]


@dataclass(frozen=True)
class Benchmarks(Shown):
    """Stored runs of pytest-benchmark, the oldest commit first."""

    runs: tuple[BenchmarkRun, ...]


Run = Comparison | Profile
"""A document of measured models."""

Record = (
    Analysis
    | Comparison
    | Profile
    | MachineReport
    | MemoryProfile
    | Verification
    | Sanity
    | Training
    | Gate
    | Benchmarks
)
"""Whatever is saved, printed and reported."""
