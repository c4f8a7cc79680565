"""A trace to an Analysis: sums by layer, totals, what was not counted, other tools' books."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from cnnprof.analysis import packed, working
from cnnprof.analysis.operators import Effect
from cnnprof.analysis.opinions import Tool, opinion
from cnnprof.analysis.structure import structure
from cnnprof.analysis.trace import RUNGS, Refused, Row, Trace, climbed, has_no_values
from cnnprof.errors import UsageError
from cnnprof.inputs import Inputs
from cnnprof.records import Analysis, Books, Doubt, Layer, Mode, Rung, Size, Totals, Uncounted, Working


def analyze(
    module: nn.Module,
    inputs: Inputs,
    *,
    model: str,
    input_size: Size | None = None,
    mode: Mode = "inference",
    with_weights: Callable[[], nn.Module] | None = None,
    tools: Sequence[Tool] = (),
    rungs: Sequence[Rung] = RUNGS,
    remember: bool = True,
) -> Analysis:
    """Count a forward pass in eval mode, or a forward and backward pass in training mode.

    `with_weights` makes the network anew for a real pass, where `module` itself stands on meta tensors; `tools` are
    asked for their opinion of the forward pass. Raises UsageError, naming the layer and its input shape, where no rung
    holds.
    """
    try:
        trace = climbed(module, inputs, mode, with_weights, rungs, remember, keep_calls=bool(tools))
    except (Refused, UsageError) as refusal:
        raise UsageError(f"{model}: {refusal}") from refusal.__cause__
    real = with_weights() if tools and with_weights and has_no_values(module) else module
    owned = _own_tensors(trace)
    layers = tuple(_layer(row, owned[row.path], mode) for row in trace.rows.values())
    return Analysis(
        model=model,
        input_size=input_size,
        batch_size=inputs.batch_size,
        totals=_totals(trace, layers, owned),
        coverage=_coverage(trace),
        uncounted=_uncounted(trace),
        layers=layers,
        uncalled=trace.uncalled,
        rung=trace.rung,
        mode=mode,
        conventions=_books(trace),
        opinions=tuple(opinion(tool, trace, real, inputs) for tool in tools),
        doubts=(*_unregistered(trace, model), *(Doubt(model, said) for said in trace.doubted)),
        structure=structure(trace.flow.nodes, layers) if trace.flow else None,
        working=tuple(
            _working(row, layer, owned[row.path])
            for row, layer in zip(trace.rows.values(), layers, strict=True)
            if layer.params or layer.macs
        ),
    )


Tensors = Mapping[str, torch.Tensor]


def _own_tensors(trace: Trace) -> dict[str, Tensors]:
    """Return the parameters of every row by name, and the packed weights that stand in place of parameters.

    Packed weights of a module that is never called belong to the nearest module above it that is.
    """
    owned: dict[str, Tensors] = {path: row.params for path, row in trace.rows.items()}
    for path, row in trace.rows.items():
        if found := packed.of_module(row.module):
            holder = _called(path, trace)
            own = {f"{path.removeprefix(holder).lstrip('.')}.{name}".lstrip("."): each for name, each in found.items()}
            owned[holder] = {**owned[holder], **own}
    return owned


def _called(path: str, trace: Trace) -> str:
    while path and not trace.rows[path].calls:
        path = path.rpartition(".")[0]
    return path


def _layer(row: Row, own: Tensors, mode: Mode) -> Layer:
    effects = [*row.effects, *row.backward]
    backward_macs = sum(effect.macs for effect in row.backward)
    trained = mode == "training"
    return Layer(
        path=row.path,
        kind=row.kind,
        calls=row.calls,
        params=sum(tensor.numel() for tensor in own.values()),
        macs=sum(effect.macs for effect in effects),
        activations=sum(effect.activations for effect in row.effects),
        input_shape=row.input_shape,
        output_shape=row.output_shape,
        read_bytes=sum(effect.read_bytes for effect in effects),
        written_bytes=sum(effect.written_bytes for effect in effects),
        detail=row.detail,
        weight_gradient_macs=row.weight_gradient_macs if trained else None,
        input_gradient_macs=backward_macs - row.weight_gradient_macs if trained else None,
    )


def _working(row: Row, layer: Layer, own: Tensors) -> Working:
    terms = [term for effect in row.effects for term in effect.terms]
    return Working(
        path=row.path,
        params=working.of_parameters(row.module, own),
        macs=working.of_products(terms, sum(effect.macs for effect in row.effects), layer.macs),
        biases=sum(tensor.numel() for name, tensor in own.items() if working.is_bias(name, tensor)),
    )


def _totals(trace: Trace, layers: Sequence[Layer], owned: Mapping[str, Tensors]) -> Totals:
    parameters = [tensor for own in owned.values() for tensor in own.values()]
    return Totals(
        params=sum(layer.params for layer in layers),
        trainable_params=sum(
            tensor.numel() for row in trace.rows.values() for tensor in row.params.values() if tensor.requires_grad
        ),
        buffers=trace.buffers,
        macs=sum(layer.macs for layer in layers),
        activations=sum(layer.activations for layer in layers),
        param_bytes=sum(map(packed.stored_bytes, parameters)),
        read_bytes=sum(layer.read_bytes for layer in layers),
        written_bytes=sum(layer.written_bytes for layer in layers),
        weight_gradient_macs=_sum(layer.weight_gradient_macs for layer in layers),
        input_gradient_macs=_sum(layer.input_gradient_macs for layer in layers),
        complex_params=sum(tensor.numel() for tensor in parameters if tensor.is_complex()),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _effects(trace: Trace) -> list[Effect]:
    return [effect for row in trace.rows.values() for effect in (*row.effects, *row.backward)]


def _coverage(trace: Trace) -> float:
    effects = _effects(trace)
    calls = sum(effect.calls for effect in effects)
    return 1 - sum(len(effect.uncounted) for effect in effects) / calls if calls else 1.0


def _uncounted(trace: Trace) -> tuple[Uncounted, ...]:
    found = Counter(
        (operator, row.path)
        for row in trace.rows.values()
        for effect in (*row.effects, *row.backward)
        for operator in effect.uncounted
    )
    return tuple(Uncounted(operator, path, calls) for (operator, path), calls in sorted(found.items()))


def _books(trace: Trace) -> Books:
    """The same pass as torch's FlopCounterMode, fvcore and pycls count it; the latter two know no backward pass."""
    effects = _effects(trace)
    products = sum(effect.products for effect in effects)
    activations = sum(effect.activations for effect in effects)
    forward = trace.mode == "inference"
    return {
        "torch": {"flops": 2 * sum(effect.torch_macs for effect in effects)},
        "fvcore": {
            "flops": sum(effect.fvcore_flops for effect in effects) if forward else None,
            "activations": sum(effect.fvcore_activations for effect in effects) if forward else None,
        },
        "pycls": {
            "flops": products + sum(effect.biases for effect in effects) if forward else None,
            "activations": activations + sum(effect.pooled for effect in effects) if forward else None,
        },
    }


def _unregistered(trace: Trace, model: str) -> tuple[Doubt, ...]:
    if not trace.unregistered:
        return ()
    said = f"{trace.unregistered:,} weights hang in a plain list or attribute: they are no parameters, nor counted"
    return (Doubt(model, said, "nn.ModuleList and nn.ParameterList register what they hold"),)
