"""One forward pass of a network on shapes alone, watched operator by operator. Knows tensors, not catalogs or clocks.

Work is seen at the dispatcher, so functional calls, subclasses and products written by hand count like layers, and is
given to the module that was entered last. The caller's module is neither copied whole nor changed: its tree is cloned
shallowly, and the clones hold meta tensors in place of weights.
"""

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof.analysis import costs
from cnnprof.errors import UsageError, first_line
from cnnprof.inputs import Inputs, tensors_in
from cnnprof.records import Analysis, Layer, Rung, Size, Totals, Uncounted


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
    except _Refused:
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
    )


def _run(shadow: "Shadow", inputs: Inputs, rung: Rung, watch: "_Watch") -> None:
    fed = inputs.to("meta", shadow.dtype) if rung == "meta" else inputs.with_values().to(shadow.device, shadow.dtype)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"), watch:
            shadow.root(*fed.args, **fed.kwargs)
    except Exception as error:  # a network may raise anything
        row = watch.stack[-1]
        where = f"layer {row.path!r} ({row.kind})" if row.path else f"its forward ({row.kind})"
        shape = "x".join(map(str, row.input_shape)) if row.input_shape is not None else "without a tensor"
        raise _Refused(f"{where} refused its input {shape}: {first_line(error)}") from error


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives every operator that runs to the row of the module entered last."""

    def __init__(self, root: _Row) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = [root]
        self.operators = 0
        self.uncounted: Counter[tuple[str, str]] = Counter()
        self.seen: set[int] = set()
        """Identities of the tensors that operators took, to tell parameters that were used."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
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


class Shadow:
    """A shallow clone of a module's tree in eval mode; its parameters and buffers are meta tensors, or shared.

    Nothing of the caller's is swapped or hooked: hooks go onto the clones. Shared, buffers are copied, since a forward
    pass may write them.
    """

    def __init__(self, module: nn.Module, on_meta: bool) -> None:
        self.originals = dict(module.named_modules())
        tensors = [*module.parameters(), *module.buffers()]
        if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
            raise UsageError(f"{type(module).__name__} has lazy layers without shapes: run it once on an input first")
        floating = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
        self.dtype, self.device = floating.dtype, floating.device
        self._tensors: dict[int, Any] = {}
        self._on_meta = on_meta
        self.clones = {path: self._bare(part) for path, part in self.originals.items()}
        by_identity = {id(part): self.clones[path] for path, part in self.originals.items()}
        for clone in self.clones.values():
            children = clone.__dict__["_modules"].items()
            clone.__dict__["_modules"] = {name: child and by_identity[id(child)] for name, child in children}
        self.root = self.clones[""]

    def _bare(self, part: nn.Module) -> nn.Module:
        clone = object.__new__(type(part))
        held = clone.__dict__
        held.update(part.__dict__)
        held["training"] = False
        held["_parameters"] = {name: self._parameter(tensor) for name, tensor in part._parameters.items()}
        held["_buffers"] = {name: self._buffer(tensor) for name, tensor in part._buffers.items()}
        for name, value in part.__dict__.items():
            if isinstance(value, OrderedDict):  # the dictionaries of hooks
                held[name] = value.copy()
        return clone

    def _parameter(self, tensor: nn.Parameter | None) -> nn.Parameter | None:
        if tensor is None or not self._on_meta or tensor.is_meta:
            return tensor
        made: nn.Parameter = self._once(tensor, lambda: nn.Parameter(_without_storage(tensor), tensor.requires_grad))
        return made

    def _buffer(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return tensor
        make = _without_storage if self._on_meta else torch.clone
        made: torch.Tensor = self._once(tensor, lambda: make(tensor.detach()))
        return made

    def _once(self, tensor: torch.Tensor, make: Callable[[], Any]) -> Any:
        """Keep shared tensors shared."""
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = make()
        return self._tensors[id(tensor)]


def _without_storage(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _watch_modules(shadow: Shadow, rows: Mapping[str, _Row], watch: _Watch) -> None:
    """Let each clone name its row while it runs."""
    for path, clone in shadow.clones.items():
        row = rows[path]

        def enter(_: nn.Module, args: Any, kwargs: Any, row: _Row = row) -> None:
            watch.stack.append(row)
            row.calls += 1
            if row.calls == 1:
                row.input_shape = _shape((args, kwargs))

        def leave(_: nn.Module, args: Any, output: Any, row: _Row = row) -> None:
            watch.stack.pop()
            if row.output_shape is None:
                row.output_shape = _shape(output)

        clone.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
        clone.register_forward_hook(leave)


def _shape(value: Any) -> Size | None:
    return next((tuple(tensor.shape) for tensor in tensors_in(value)), None)


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
