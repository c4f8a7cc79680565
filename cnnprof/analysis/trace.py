"""One pass of a network, watched operator by operator, given to the rows of its modules. Knows no catalogs or clocks.

Work is seen at the dispatcher, so functional calls, subclasses and products written by hand count like layers, and is
given to the module that was entered last. The ladder: tensors without storage on the meta device; fake tensors of the
CPU, where the network makes tensors of its own; a real pass, where what it does depends on values.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.overrides import BaseTorchFunctionMode

from cnnprof import machine, module_tree
from cnnprof.analysis import conventions, costs
from cnnprof.analysis import shadow as shadows
from cnnprof.analysis.higher_order import HigherOrderMode, on_any_device
from cnnprof.analysis.operators import Effect, Watch
from cnnprof.analysis.shadow import Shadow, undisturbed
from cnnprof.analysis.structure import Flow
from cnnprof.errors import UsageError, first_line
from cnnprof.gradients import GradientMode, check_operator, strictest
from cnnprof.inputs import SPARSE, Inputs, common_type, first_floating, rebuild, size_of, tensors_in
from cnnprof.records import Mode, Rung, Size

RUNGS: tuple[Rung, ...] = ("meta", "fake", "cpu")


@dataclass
class Row:
    """A module, and what happened in it outside its children."""

    path: str
    kind: str
    detail: str
    module: nn.Module
    calls: int = 0
    input_shape: Size | None = None
    output_shape: Size | None = None
    params: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Its own by their names; of tensors that several modules share, the first has them."""
    effects: list[Effect] = field(default_factory=list)
    backward: list[Effect] = field(default_factory=list)
    weight_gradient_macs: int = 0


@dataclass(frozen=True)
class Call:
    """One operator of a forward pass, with the tensors that it took and made."""

    path: str
    effect: Effect
    taken: tuple[torch.Tensor, ...]
    made: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Trace:
    """The rows of one pass, by path, and the rung it was made on."""

    rows: Mapping[str, Row]
    rung: Rung
    mode: Mode
    buffers: int
    """Elements of the buffers."""
    uncalled: tuple[str, ...]
    """The topmost modules that hold parameters, none of which the pass reached."""
    unregistered: int
    """Elements of parameters that the pass used and no module has as its own."""
    doubted: tuple[str, ...] = ()
    """Sentences on counts that depend on values."""
    calls: Sequence[Call] = ()
    """Every operator of the forward pass in its order, where they were asked for."""
    outputs: Sequence[torch.Tensor] = ()
    flow: Flow | None = None
    """Of a forward pass without values."""

    def used(self) -> Iterator[tuple[Call, bool]]:
        """Yield every call, the last first, and whether what it made reaches an output."""
        wanted = set(map(_storage, self.outputs))
        for call in reversed(self.calls):
            used = any(_storage(tensor) in wanted for tensor in call.made)
            if used:
                wanted.update(map(_storage, call.taken))
            yield call, used


class Refused(Exception):  # noqa: N818  # a turn of the road, not an error yet
    """The forward pass raised: where, on what, and what it said."""


def climbed(
    module: nn.Module,
    inputs: Inputs,
    mode: Mode = "inference",
    with_weights: Callable[[], nn.Module] | None = None,
    rungs: Sequence[Rung] = RUNGS,
    remember: bool = True,
    keep_calls: bool = False,
) -> Trace:
    """Return the trace of the first rung that holds. Raises Refused, with the last rung's words, where none does.

    `with_weights` makes the network anew for a real pass, where `module` itself stands on meta tensors. In inference
    the pass has the strictest gradient mode in which the network runs.
    """
    climb = partial(_first_that_holds, module, inputs, mode, with_weights, rungs, remember, keep_calls)
    return climb("enable_grad") if mode == "training" else strictest(climb, Refused)


def _first_that_holds(
    module: nn.Module,
    inputs: Inputs,
    mode: Mode,
    with_weights: Callable[[], nn.Module] | None,
    rungs: Sequence[Rung],
    remember: bool,
    keep_calls: bool,
    gradients: GradientMode,
) -> Trace:
    refusal = Refused("there is no rung to stand on")
    for rung in rungs:
        if rung == "cpu" and has_no_values(module):
            if with_weights is None:
                break
            module = with_weights()
        if rung == "cpu" and inputs.nbytes > machine.available_bytes():
            break
        try:
            return traced(module, inputs, rung, mode, remember, keep_calls, gradients)
        except Refused as refused:
            refusal = refused
    raise refusal


def has_no_values(module: nn.Module) -> bool:
    """Say whether a module stands on meta tensors."""
    return any(parameter.is_meta for parameter in module_tree.parameters(module))


def traced(
    module: nn.Module,
    inputs: Inputs,
    rung: Rung,
    mode: Mode = "inference",
    remember: bool = True,
    keep_calls: bool = False,
    gradients: GradientMode = "inference_mode",
) -> Trace:
    """Trace a pass on one rung. Raises Refused where the network does, and Differentiates in inference mode.

    Calls that are kept hold their tensors, and are not remembered ones, whose outputs are never views.
    """
    training = mode == "training"
    if rung != "cpu" and any(map(nn.parameter.is_lazy, module_tree.parameters(module))):
        raise Refused("its lazy layers have no shapes yet")
    with _unusual_tensors_refused():
        given = _given(inputs, rung, module)
    with _STAGES[rung]() as stand_in, _plain_attention() if training else nullcontext():
        with _unusual_tensors_refused():
            shadow, fed = Shadow(module, stand_in, training), _fed(given, stand_in)
        if shadow.is_lazy:
            _Walk(shadow, _rows(shadow)).shape(fed)
        flow = None if training or rung == "cpu" else Flow(tensors_in((fed.args, dict(fed.kwargs))))
        walk = _Walk(shadow, rows := _rows(shadow), flow)
        walk.enter_modules()
        listener = walk.heard_in_training if training else walk.kept if keep_calls else walk.heard
        tensors = chain(fed.tensors(), module_tree.tensors(shadow.root))
        watch = Watch(listener, remember and rung == "meta" and not keep_calls, tensors)
        output = walk.run(fed, watch, training, gradients)
    _own_parameters(shadow, rows)
    return Trace(
        rows=rows,
        rung=rung,
        mode=mode,
        buffers=sum(tensor.numel() for tensor in module_tree.buffers(shadow.root)),
        uncalled=walk.uncalled(),
        doubted=tuple(dict.fromkeys(walk.doubted)),
        unregistered=sum(tensor.numel() for tensor in shadow.unregistered if walk.has_used(tensor)),
        calls=walk.calls,
        outputs=tuple(tensors_in(output)) if keep_calls else (),
        flow=flow,
    )


def _rows(shadow: Shadow) -> dict[str, Row]:
    return {path: Row(path, type(part).__name__, detail(part), part) for path, part in shadow.clones.items()}


# Rungs ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _fake_tensors() -> Iterator[shadows.StandIn]:
    """Tensors that know the device they would be on, and have no storage."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout in SPARSE:
            raise TypeError("what a sparse tensor stores is not told by its shape")
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

    with FakeTensorMode(allow_non_fake_inputs=True), _unfused(), unlogged(FakeTensorMode.__module__):
        yield fake


@contextmanager
def unlogged(name: str) -> Iterator[None]:
    """Keep a logger of torch quiet, which logs what it raises, traceback and all."""
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _values() -> Iterator[shadows.StandIn]:
    with _unfused():
        yield shadows.shared_or_copied


def _plain_attention() -> AbstractContextManager[Any]:
    """Take attention apart on every rung: fused kernels would work its scores out again, going backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def _unfused() -> AbstractContextManager[Any]:
    """Keep attention off its fused path on the CPU, so that it is made of the same operators on every rung.

    torch.nn's modules take it where no torch function mode is on; this one does nothing.
    """
    return BaseTorchFunctionMode()


_STAGES: Mapping[Rung, Callable[[], AbstractContextManager[shadows.StandIn]]] = {
    "meta": lambda: nullcontext(shadows.on_meta),
    "fake": _fake_tensors,
    "cpu": _values,
}


@contextmanager
def _unusual_tensors_refused() -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:  # torch, copy and the network's own classes may raise anything
        raise Refused(f"it holds what cannot be stood in for: {first_line(error)}") from error


def _given(inputs: Inputs, rung: Rung, module: nn.Module) -> Inputs:
    """Inputs in the network's own type, cut off from any graph: with values on the CPU, else of shapes alone."""
    own, device = common_type(module), first_floating(module).device
    drawn, device = (inputs.with_values(), device) if rung == "cpu" else (inputs, torch.device("meta"))

    def given(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(device, own if tensor.is_floating_point() else None)

    return drawn.mapped(given)


def _fed(given: Inputs, stand_in: shadows.StandIn) -> Inputs:
    return given.mapped(lambda tensor: rebuild(tensor, stand_in))


# A walk through the modules ------------------------------------------------------------------------------------------


class _Walk:
    """Where a pass is, and what it leaves in the rows."""

    def __init__(self, shadow: Shadow, rows: Mapping[str, Row], flow: Flow | None = None) -> None:
        self._shadow, self._rows, self._flow = shadow, rows, flow
        self._stack = [rows[""]]
        self.calls: list[Call] = []
        self.doubted: list[str] = []
        """Sentences on counts that depend on values."""
        self._tried: list[Effect] | None = None
        """Effects of a call that leaves no trace; None outside of one."""
        self._gradients: GradientMode = "enable_grad"
        self._hidden = False
        """Whether what runs is part of one operator on the CPU, which fvcore does not see into."""
        self._doing = f"its forward ({rows[''].kind}) refused"
        self._raised: tuple[BaseException, Row] | None = None
        """What was raised last, and in which module first."""
        self._used: set[int] = set()
        """Identities of the tensors that operators took, to tell parameters that were used."""
        self._made_by: dict[int, tuple[Row, int]] = {}
        """By autograd's number of a forward operator: its row, and how many of its operands were weights."""
        self._weights: dict[int, torch.Tensor] = {}
        """Parameters, buffers and what is made without the network's input, by the identity of their storage."""

    def shape(self, fed: Inputs) -> None:
        """Run a pass that only gives lazy layers their shapes."""
        with self._named_failures(), undisturbed("no_grad"):
            self._shadow.root(*fed.args, **fed.kwargs)

    def run(self, fed: Inputs, watch: Watch, training: bool, gradients: GradientMode) -> Any:
        """Run the pass, in training also backward from every output that has a gradient; return its output."""
        self._gradients = gradients
        if training:
            own = module_tree.tensors(self._shadow.root)
            self._weights = {_storage(tensor): tensor for tensor in own}
        functions = HigherOrderMode(self.doubted.append, self._macs_of)
        with self._named_failures(), undisturbed(gradients), on_any_device(), watch, functions:
            output = self._shadow.root(*fed.args, **fed.kwargs)
            if training:
                self._doing = "its backward pass raised on"
                _backward(output)
            return output

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Make what the network raises a Refused that names the innermost module."""
        try:
            yield
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # a network may raise anything
            row = self._raised[1] if self._raised and self._raised[0] is error else self._stack[0]
            where = f"layer {row.path!r} ({row.kind}) refused its input" if row.path else f"{self._doing} its input"
            shape = "x".join(map(str, row.input_shape)) if row.input_shape is not None else "without a tensor"
            raise Refused(f"{where} {shape}: {first_line(error)}") from error

    def enter_modules(self) -> None:
        """Let each clone name its row while it runs."""
        for path, clone in self._shadow.clones.items():
            if not isinstance(clone, torch.jit.ScriptModule):  # its work is its parent's
                # The slot that Module.__call__ looks in before _call_impl: hooks of the network's own stay inside.
                clone.__dict__["_compiled_call_impl"] = self._entering(clone, self._rows[path])

    def _entering(self, clone: nn.Module, row: Row) -> Callable[..., Any]:
        stack, call = self._stack, clone._call_impl

        def entered(*args: Any, **kwargs: Any) -> Any:
            if self._tried is not None:
                return call(*args, **kwargs)  # type: ignore[no-untyped-call]
            row.calls += 1
            if row.calls == 1:
                row.input_shape = _shape(args[0] if args and isinstance(args[0], torch.Tensor) else (args, kwargs))
            hidden = self._hidden
            self._hidden = hidden or conventions.fuses_attention(clone, args, kwargs)
            stack.append(row)
            try:
                output = call(*args, **kwargs)  # type: ignore[no-untyped-call]
            except BaseException as error:
                if self._raised is None or self._raised[0] is not error:
                    self._raised = error, row
                raise
            finally:
                stack.pop()
                self._hidden = hidden
            if row.output_shape is None:
                row.output_shape = _shape(output)
            return output

        return entered

    def _macs_of(self, call: Callable[[], Any]) -> int:
        """Return the MACs of a call that leaves no trace."""
        before, self._tried = self._tried, []
        try:
            with torch.no_grad():
                call()
            return sum(effect.macs for effect in self._tried)
        finally:
            self._tried = before

    def heard(self, effect: Effect, taken: Sequence[torch.Tensor], output: Any) -> None:
        """Give an operator to the module that was entered last."""
        self._used.update(map(id, taken))  # of either branch of a cond: the pass may reach both
        if self._tried is not None:
            self._tried.append(effect)
            return
        check_operator(self._gradients)
        self._stack[-1].effects.append(effect.hidden() if self._hidden else effect)
        if self._flow is not None:
            self._flow.heard(self._stack[-1].path, effect, taken, output)

    def kept(self, effect: Effect, taken: Sequence[torch.Tensor], output: Any) -> None:
        """Give an operator to its module, and keep it with its tensors."""
        self.heard(effect, taken, output)
        if self._tried is not None:
            return
        row = self._stack[-1]
        self.calls.append(Call(row.path, row.effects[-1], tuple(taken), tuple(tensors_in(output))))

    def heard_in_training(self, effect: Effect, taken: Sequence[torch.Tensor], output: Any) -> None:
        """Give a backward operator to the module whose forward operator made its node."""
        node = torch._C._current_autograd_node()
        if node is None or torch.is_grad_enabled():  # going backward it is not, but where a block is recomputed
            self._heard_forward(effect, taken, output)
            return
        row, weights = self._made_by.get(node._sequence_nr(), (self._stack[0], 0))
        row.backward.append(effect)
        if weights == _ALL:
            row.weight_gradient_macs += effect.macs
        elif weights and effect.operator in costs.WEIGHT_GRADIENTS:
            row.weight_gradient_macs += effect.weight_gradient_macs
        elif weights and not any(map(self._is_weight, taken)):
            row.weight_gradient_macs += effect.macs

    def _heard_forward(self, effect: Effect, taken: Sequence[torch.Tensor], output: Any) -> None:
        self.heard(effect, taken, output)
        made = {_storage(tensor): tensor for tensor in tensors_in(output)}
        if all(map(self._is_weight, taken)):
            self._weights.update(made)
        else:  # what was written into is no longer made of weights alone
            for key in made:
                self._weights.pop(key, None)
        if any(tensor.requires_grad for tensor in taken):
            # The last number that autograd gave is this operator's, or, where it has no gradient, of one heard before.
            number = torch._C._autograd._get_sequence_nr() - 1
            operands = costs.without_bias(effect.operator, taken)
            weights = sum(map(self._is_weight, operands))
            self._made_by.setdefault(number, (self._stack[-1], _ALL if weights == len(operands) else weights))

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return _storage(tensor) in self._weights

    def has_used(self, tensor: torch.Tensor) -> bool:
        """Say whether an operator took a tensor that stands to the end of the pass."""
        return id(tensor) in self._used

    def uncalled(self) -> tuple[str, ...]:
        """Name the topmost modules that hold parameters, none of which the pass reached."""
        found: list[str] = []
        for path, clone in self._shadow.clones.items():
            silent = isinstance(clone, torch.jit.ScriptModule)  # it does not tell what it calls
            if silent or self._rows[path].calls or any(path.startswith(f"{parent}.") for parent in found):
                continue
            if any(True for _ in module_tree.parameters(clone)) and not self._reached(path, clone):
                found.append(path)
        return tuple(found)

    def _reached(self, path: str, clone: nn.Module) -> bool:
        inside = (row for part, row in self._rows.items() if part.startswith(f"{path}."))
        return any(map(self.has_used, module_tree.parameters(clone))) or any(row.calls for row in inside)


def _backward(output: Any) -> None:
    made = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
    if not made:
        raise UsageError("no output has a gradient to any parameter")
    torch.autograd.backward(made, [torch.ones_like(tensor) for tensor in made])


_ALL = -1
"""All operands were weights: every gradient is one of a weight."""


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else id(tensor)


def _shape(value: Any) -> Size | None:
    if isinstance(value, torch.Tensor):
        return size_of(value)
    return next((size_of(tensor) for tensor in tensors_in(value)), None)


def _own_parameters(shadow: Shadow, rows: Mapping[str, Row]) -> None:
    """Give each parameter tensor to the first module that holds it."""
    seen: set[int] = set()
    for path, clone in shadow.clones.items():
        named = clone._parameters.items()
        own = {name: tensor for name, tensor in named if tensor is not None and id(tensor) not in seen}
        rows[path].params = own
        seen.update(map(id, own.values()))


def detail(part: nn.Module) -> str:
    """Tell a layer's kernel, stride and groups: 7x7/2, 3x3 g32; empty where it has no kernel."""
    kernel, stride, groups = (vars(part).get(name, 1) for name in ("kernel_size", "stride", "groups"))
    if "kernel_size" not in vars(part) or not all(map(_is_lengths, (kernel, stride, groups))):
        return ""
    window = "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    steps = set(stride) if isinstance(stride, tuple) else {stride}
    step = "" if steps == {1} else "/" + "x".join(map(str, sorted(steps)))
    return window + step + (f" g{groups}" if groups != 1 else "")


def _is_lengths(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, tuple) and all(isinstance(length, int) for length in value))
