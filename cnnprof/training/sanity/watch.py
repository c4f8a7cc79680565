"""Follows passes through a network: where numbers stop being finite, which units fire, what the layers get and give."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof.inputs import tensors_in
from cnnprof.records import LayerNorms
from cnnprof.training.sanity.trial import contrast, is_finite, named, numbers_in, rms


@dataclass
class Rectifier:
    """The units of one rectifier that fired, and whether any was held back."""

    fired: Tensor
    held_back: bool
    """Some input was below 0: a rectifier that gets zeros alone is silent through no fault of its own."""


@dataclass
class Layer:
    """One call of a layer with weights."""

    path: str
    width: int
    """Of what it gets: numbers by image."""
    contrast: float
    activation: float
    gradient: float | None = None


class Watch(TorchDispatchMode):
    """Notes what happens in the passes within it; of the last of them, the layers with weights."""

    def __init__(self, network: nn.Module, layers: bool = True) -> None:
        """`layers` says whether layers are measured, which takes as long as many of them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._network, self._measures = network, layers
        self._functions = _Functions(self._called)
        self.relus: dict[str, Rectifier] = {}
        self.layers: list[Layer] = []
        self.not_finite = ""
        self.ended = ""
        """Where a gradient ends, the first such place: detach in features."""
        self.dropout = (0.0, "")
        """The largest share that is dropped, and where."""
        self._inside: list[tuple[str, nn.Module]] = []
        self._calls: dict[str, int] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Watch":
        """Hook the modules."""
        self._calls, self.layers, self._inside = {}, [], [("", self._network)]
        for path, module in self._network.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._entering(path)))
            self._hooks.append(module.register_forward_hook(self._leaving(path)))
        super().__enter__()  # type: ignore[no-untyped-call]
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Leave the modules as they were."""
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def place(self) -> str:
        """Name the innermost module that was entered and not left: after an error, the one that raised it."""
        path, module = self._inside[-1]
        return f"{named(path)} ({type(module).__name__})"

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._inside.append((path, module))
            self._look(inputs, "input")

        return enter

    def _leaving(self, path: str) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self._look(output, "output")
            self._inside.pop()

        return leave

    def _look(self, value: Any, what: str) -> None:
        if not self.not_finite and not all(map(is_finite, numbers_in(value))):
            self.not_finite = f"the {what} of {self.place}"

    # What is called within modules -----------------------------------------------------------------------------------

    def _called(self, name: str, args: Mapping[str | int, Any], output: Any) -> None:
        if name in LAYERS | PRODUCTS:
            tensors = numbers_in(list(args.values()))
            if self._measures and (name in LAYERS or any(map(_own, tensors))):
                self._note(tensors, numbers_in(output))
        elif "dropout" in name and args.get("training", args.get(2, True)):
            self.dropout = max(self.dropout, (float(args.get("p", args.get(1, 0.5))), self.place))
        elif not self.ended and _ends(name, output) and getattr(args.get(0, args.get("input")), "requires_grad", False):
            self.ended = f"{name} in {self.place}"

    def _note(self, tensors: list[Tensor], outputs: list[Tensor]) -> None:
        given = next((each for each in tensors if not _own(each)), None)
        if given is None or not given.ndim or not given.numel() or not outputs:
            return
        path, module = self._inside[-1]
        own = {id(each): name for name, each in module.named_parameters(recurse=False) if name != "weight"}
        name = next((own[id(each)] for each in map(_base, tensors) if id(each) in own and each.ndim > 1), "")
        path = ".".join(filter(None, (path, name if not isinstance(module, nn.RNNBase) else "")))
        given, output = given.detach().float(), outputs[0]
        layer = Layer(named(path), given[0].numel(), contrast(given), rms(output.detach().float()))
        self.layers.append(layer)
        if output.requires_grad:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: setattr(layer, "gradient", float(gradient.float().norm()))
            )

    def norms(self) -> Iterator[LayerNorms]:
        """Yield the layers with weights as the last pass went through them."""
        for each in self.layers:
            if all(map(math.isfinite, (each.activation, each.contrast, each.gradient or 0.0))):
                yield LayerNorms(each.path, each.activation, each.gradient, each.contrast)

    # Rectifiers ------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; of a rectifier, note which units fire."""
        rectifies = RECTIFIERS.get(func.overloadpacket.__name__.rstrip("_"))
        if rectifies is None or not rectifies(*args[1:], **(kwargs or {})):
            return func(*args, **(kwargs or {}))
        held_back = bool((args[0] < 0).any())
        output = func(*args, **(kwargs or {}))
        if output.ndim > 1:
            self._fire(output, held_back)
        return output

    def _fire(self, output: Tensor, held_back: bool) -> None:
        path = named(self._inside[-1][0])
        self._calls[path] = call = self._calls.get(path, 0) + 1
        key = path if call == 1 else f"{path}, call {call}"
        units = output.ndim - 1 if output.ndim == 3 else 1
        fired = (output > 0).transpose(0, units).flatten(1).any(1)
        if (before := self.relus.get(key)) and before.fired.shape == fired.shape:
            fired, held_back = fired | before.fired, held_back or before.held_back
        self.relus[key] = Rectifier(fired, held_back)


class _Functions(TorchFunctionMode):
    """Hears of every function that is called, above autograd: functional layers have no module to hook."""

    def __init__(self, called: Callable[[str, Mapping[str | int, Any], Any], None]) -> None:
        super().__init__()
        self._called = called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and tell of it."""
        output = func(*args, **(kwargs or {}))
        self._called(getattr(func, "__name__", ""), {**dict(enumerate(args)), **(kwargs or {})}, output)
        return output


RECTIFIERS: Mapping[str, Callable[..., bool]] = {
    "relu": lambda: True,
    "hardtanh": lambda low=-1.0, high=1.0: low == 0,  # ReLU6
    "clamp_min": lambda low: low == 0,
    "clamp": lambda low=None, high=None, **named: named.get("min", low) == 0,
}
"""Operators that return 0 for all below it, where their arguments say so."""
LAYERS = {"linear", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu"} | {
    f"conv{transposed}{dims}d" for transposed in ("", "_transpose") for dims in (1, 2, 3)
}
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum"}
"""Layers where a parameter is among their arguments."""
ROUNDED = {"round", "floor", "ceil", "trunc", "sign", "round_", "floor_", "ceil_", "trunc_", "sign_"}
CAST = {"to", "type", "char", "byte", "short", "int", "long"}


def _ends(name: str, output: Any) -> bool:
    """Say whether no gradient passes a function: not back from whole numbers, not where it is cut."""
    whole = name in CAST and not any(each.is_floating_point() for each in tensors_in(output))
    return name in ROUNDED or name == "detach" or whole


def _own(tensor: Tensor) -> bool:
    return isinstance(_base(tensor), nn.Parameter)


def _base(tensor: Tensor) -> Tensor:
    """Return what a transposed or reshaped parameter is a view of."""
    return tensor if tensor._base is None else tensor._base
