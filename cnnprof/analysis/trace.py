"""One forward pass of a network on shapes alone, watched operator by operator. Knows tensors, not catalogs or clocks.

Work is seen at the dispatcher, so functional calls, subclasses and products written by hand count like layers, and is
given to the module that was entered last.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnprof import machine
from cnnprof.analysis import costs
from cnnprof.analysis.shadow import Shadow, first_shape, run
from cnnprof.errors import UsageError, first_line
from cnnprof.inputs import Inputs
from cnnprof.records import Analysis, Doubt, Layer, Rung, Size, Totals, Uncounted


def analyze(
    module: nn.Module,
    inputs: Inputs,
    *,
    model: str,
    input_size: Size | None = None,
    with_weights: Callable[[], nn.Module] | None = None,
) -> Analysis:
    """Count a forward pass in eval mode, on meta tensors where the network runs on them, else on the CPU.

    `with_weights` makes the network anew for that second case, where `module` itself stands on meta tensors. Raises
    UsageError, naming the layer and its input shape, where neither way works.
    """
    try:
        return _counted(module, inputs, "meta", model, input_size)
    except _Refused as refusal:
        if inputs.nbytes > machine.available_bytes():
            raise UsageError(f"{model}: {refusal}") from refusal.__cause__
        real = with_weights() if with_weights and any(p.is_meta for p in module.parameters()) else module
        try:
            return _counted(real, inputs, "cpu", model, input_size)
        except _Refused as refusal:
            raise UsageError(f"{model}: {refusal}") from refusal.__cause__


class _Refused(Exception):  # noqa: N818  # a turn of the road, not an error yet
    """The forward pass raised: where, on what, and what it said."""


@dataclass
class _Row:
    path: str
    kind: str
    detail: str
    calls: int = 0
    params: int = 0
    macs: int = 0
    activations: int = 0
    input_shape: Size | None = None
    output_shape: Size | None = None
    read_bytes: int = 0
    written_bytes: int = 0


def _counted(module: nn.Module, inputs: Inputs, rung: Rung, model: str, input_size: Size | None) -> Analysis:
    shadow = Shadow(module, on_meta=rung == "meta")
    own = _own_parameters(shadow)
    rows = {path: _Row(path, type(part).__name__, detail(part)) for path, part in shadow.originals.items()}
    watch = _Watch(rows[""])
    _watch_modules(shadow, rows, watch)
    _run(shadow, inputs, rung, watch)
    for path, row in rows.items():
        row.params = sum(tensor.numel() for tensor in own[path])
    parameters = [tensor for tensors in own.values() for tensor in tensors]
    return Analysis(
        model=model,
        input_size=input_size,
        batch_size=inputs.batch_size,
        totals=Totals(
            params=sum(row.params for row in rows.values()),
            trainable_params=sum(tensor.numel() for tensor in parameters if tensor.requires_grad),
            buffers=sum(tensor.numel() for tensor in module.buffers()),
            macs=sum(row.macs for row in rows.values()),
            activations=sum(row.activations for row in rows.values()),
            param_bytes=sum(tensor.numel() * tensor.element_size() for tensor in parameters),
            read_bytes=sum(row.read_bytes for row in rows.values()),
            written_bytes=sum(row.written_bytes for row in rows.values()),
        ),
        coverage=1 - sum(watch.uncounted.values()) / watch.operators if watch.operators else 1.0,
        uncounted=tuple(Uncounted(name, path, calls) for (name, path), calls in sorted(watch.uncounted.items())),
        layers=tuple(Layer(**vars(row)) for row in rows.values()),
        uncalled=_uncalled(shadow, rows, watch),
        rung=rung,
        doubts=_unregistered(shadow, model),
    )


def _unregistered(shadow: Shadow, model: str) -> tuple[Doubt, ...]:
    number = sum(tensor.numel() for tensor in shadow.unregistered)
    if not number:
        return ()
    said = f"{number:,} weights hang in a plain list or attribute: they are no parameters of the model, nor counted"
    return (Doubt(model, said, "nn.ModuleList and nn.ParameterList register what they hold"),)


def _run(shadow: Shadow, inputs: Inputs, rung: Rung, watch: "_Watch") -> None:
    fed = inputs if rung == "meta" else inputs.with_values().cloned()
    try:
        run(shadow, fed.to("meta" if rung == "meta" else shadow.device, shadow.dtype), watch.see)
    except (Exception, SystemExit) as error:  # a network may raise anything
        row = watch.stack[-1]
        where = f"layer {row.path!r} ({row.kind})" if row.path else f"its forward ({row.kind})"
        shape = "x".join(map(str, row.input_shape)) if row.input_shape is not None else "without a tensor"
        raise _Refused(f"{where} refused its input {shape}: {first_line(error)}") from error


class _Watch:
    """Gives every operator that runs to the row of the module entered last."""

    def __init__(self, root: _Row) -> None:
        self.stack = [root]
        self.operators = 0
        self.uncounted: Counter[tuple[str, str]] = Counter()
        self.seen: set[int] = set()
        """Identities of the tensors that operators took, to tell parameters that were used."""

    def see(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Count one operator."""
        output = func(*args, **kwargs)
        row = self.stack[-1]
        name = func._schema.name
        self.operators += 1
        formula = costs.MACS.get(name)
        if formula is not None:
            row.macs += formula(args, output)
            row.activations += _first(output).numel()
        elif name not in costs.FREE:
            self.uncounted[name.removeprefix("aten::"), row.path] += 1
        taken = list(_flat(args))
        self.seen.update(map(id, taken))
        if name not in costs.STANDING_STILL:
            row.read_bytes += sum(tensor.numel() * tensor.element_size() for tensor in taken)
            row.written_bytes += sum(tensor.numel() * tensor.element_size() for tensor in _flat((output,)))
        return output


def _flat(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an operator's arguments, which nest one level deep."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _first(output: Any) -> torch.Tensor:
    return next(_flat((output,)))


def _watch_modules(shadow: Shadow, rows: Mapping[str, _Row], watch: _Watch) -> None:
    """Let each clone name its row while it runs."""
    for path, clone in shadow.clones.items():
        if isinstance(clone, torch.jit.ScriptModule):  # takes no hooks: its work is its parent's
            continue
        row = rows[path]

        def enter(_: nn.Module, args: Any, kwargs: Any, row: _Row = row) -> None:
            watch.stack.append(row)
            row.calls += 1
            if row.calls == 1:
                row.input_shape = first_shape((args, kwargs))

        def leave(_: nn.Module, args: Any, output: Any, row: _Row = row) -> None:
            watch.stack.pop()
            if row.output_shape is None:
                row.output_shape = first_shape(output)

        clone.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
        clone.register_forward_hook(leave)


def _own_parameters(shadow: Shadow) -> dict[str, list[torch.Tensor]]:
    """Give each parameter tensor to the first module that holds it."""
    seen: set[int] = set()
    own: dict[str, list[torch.Tensor]] = {}
    for path, part in shadow.originals.items():
        own[path] = [tensor for tensor in part._parameters.values() if tensor is not None and id(tensor) not in seen]
        seen.update(map(id, own[path]))
    return own


def _uncalled(shadow: Shadow, rows: Mapping[str, _Row], watch: _Watch) -> tuple[str, ...]:
    """Name the topmost modules that hold parameters, none of which the forward pass reached."""

    def reached(path: str) -> bool:
        held = shadow.clones[path].parameters()
        return any(id(tensor) in watch.seen for tensor in held) or any(
            row.calls for part, row in rows.items() if part == path or part.startswith(f"{path}.")
        )

    found: list[str] = []
    for path, clone in shadow.clones.items():
        if isinstance(clone, torch.jit.ScriptModule):  # it does not tell what it calls
            continue
        if rows[path].calls or any(path.startswith(f"{parent}.") for parent in found):
            continue
        if any(True for _ in clone.parameters()) and not reached(path):
            found.append(path)
    return tuple(found)


def detail(part: nn.Module) -> str:
    """Tell a layer's kernel, stride and groups: 7x7/2, 3x3 g32; empty where it has no kernel."""
    kernel, stride = getattr(part, "kernel_size", None), getattr(part, "stride", 1)
    if not isinstance(kernel, int | tuple) or not isinstance(stride, int | tuple):
        return ""
    window = "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    steps = set(stride) if isinstance(stride, tuple) else {stride}
    step = "" if steps == {1} else "/" + "x".join(map(str, sorted(steps)))
    groups = getattr(part, "groups", 1)
    return window + step + (f" g{groups}" if groups != 1 else "")
