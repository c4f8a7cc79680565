"""Operators as they run: what each one does, under every convention, and its output, remembered.

In inference mode the dispatcher shows composite operators (linear, einsum) before those that they are made of. Both
matter: the parts are what is counted, the whole is what a traced graph shows. On meta tensors an operator's effect and
output follow from shapes, strides, dtypes and arguments, so they are worked out once.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn
from torch._C._functorch import peek_interpreter_stack
from torch._ops import HigherOrderOperator
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof.analysis import conventions, costs, higher_order, kinds, packed, shapes, working
from cnnprof.inputs import is_wrapper
from cnnprof.records import Term


@dataclass(frozen=True, slots=True)
class Effect:
    """What one call of an operator does; of a composite, with all that it is made of."""

    operator: str
    calls: int = 1
    """Operators that ran: one, or the parts of a composite."""
    macs: int = 0
    weight_gradient_macs: int = 0
    """Of `macs`, those that a backward operator spends on the gradient of weights."""
    terms: tuple[Term, ...] = ()
    """The products that `macs` are the sum of; none where there is no formula in symbols."""
    activations: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    biases: int = 0
    pooled: int = 0
    products: int = 0
    """Of elements: of complex ones each takes four MACs."""
    torch_macs: int = 0
    """Half of the FLOPs that torch's FlopCounterMode counts."""
    makes_complex: bool = False
    fvcore_flops: int = 0
    fvcore_activations: int = 0
    uncounted: tuple[str, ...] = ()

    def hidden(self) -> "Effect":
        """Return the effect as fvcore sees it where it runs within one operator that fvcore does not know."""
        return replace(self, operator="fused attention", fvcore_flops=0, fvcore_activations=0)


Listener = Callable[[Effect, Sequence[torch.Tensor], Any], None]
"""Hears of each outermost operator, of the tensors that it took, and of its output."""

Output = Any
Remembered = tuple[Effect, Callable[[Sequence[torch.Tensor]], Output]]

LIMIT = 50_000
"""Operators that are remembered, of about 1 KiB each; then all are forgotten."""

_remembered: dict[Any, Remembered] = {}


def clear_caches() -> None:
    """Forget what operators on meta tensors do: the next count works it out again."""
    _remembered.clear()


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells a listener of every operator; with `remember`, runs each kind of call on meta tensors once."""

    def __init__(self, listener: Listener, remember: bool = True, given: Iterable[torch.Tensor] = ()) -> None:
        """Take who listens, whether calls are remembered, and the tensors that the network has or is given."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._listener = listener
        self._remembers = remember
        self._parts: list[list[Effect]] = []
        """Effects of the parts of the composites that are being taken apart, innermost last."""
        self._convolutions: _ComplexConvolutions | None = None
        if any(tensor.is_complex() for tensor in given):
            self._convolutions = _ComplexConvolutions()

    def __enter__(self) -> "Watch":
        if self._convolutions is not None and not self._parts:
            self._convolutions.install()
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)  # type: ignore[no-untyped-call]
        finally:
            if self._convolutions is not None and not self._parts:
                self._convolutions.remove()

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            higher_order.refuse(func)
        if func.namespace == "prim":  # no operator: a fake tensor is asked for its device
            return func(*args, **(kwargs or {}))
        if any(map(is_wrapper, types)):
            return NotImplemented  # its class makes operators on the tensors inside, which come here next
        taken: list[torch.Tensor] = []
        # Under forward-mode AD and torch.func a tensor is more than its shape.
        plain = self._remembers and forward_ad._current_level < 0 and peek_interpreter_stack() is None
        key = _key(func, args, kwargs, taken) if plain else None
        found = _remembered.get(key)
        if found is not None:
            effect, make = found
            output = make(taken)
        else:
            output, effect = self._performed(func, args, kwargs or {}, key is not None)
            if key is not None:
                self._remember(key, effect, output, taken)
        if key is None:
            taken = list(flat(args))
        if self._convolutions is not None:
            effect = self._convolutions.as_part(effect, taken)
        elif effect.makes_complex:
            self._convolutions = _ComplexConvolutions()
            self._convolutions.install()
        if self._parts:
            self._parts[-1].append(effect)
        else:
            self._listener(effect, taken, output)
        return output

    def _performed(self, func: Any, args: Any, kwargs: Any, repeatable: bool) -> tuple[Output, Effect]:
        rule = shapes.RULES.get(func.name()) if repeatable and not kwargs else None
        output = rule(args) if rule is not None else None
        if output is None:
            if is_composite(func) and not kinds.is_whole(func._schema.name):
                return self._taken_apart(func, args, kwargs)
            output = func(*args, **kwargs)
        return output, _effect(func._schema.name, args, output)

    def _taken_apart(self, func: Any, args: Any, kwargs: Any) -> tuple[Output, Effect]:
        parts: list[Effect] = []
        self._parts.append(parts)
        try:
            with self:
                output = func.decompose(*args, **kwargs)
        finally:
            self._parts.pop()
        if func in _CONVOLUTIONS and args[0].is_complex():
            parts = _as_one(parts)
        return output, _together(func._schema.name, parts, args, output)

    def _remember(self, key: Any, effect: Effect, output: Output, taken: Sequence[torch.Tensor]) -> None:
        make = _maker(output, taken)
        if make is not None:
            if len(_remembered) >= LIMIT:
                _remembered.clear()
            _remembered[key] = effect, make


# Complex convolutions -------------------------------------------------------------------------------------------------

_CONVOLUTIONS = {
    getattr(getattr(torch.ops.aten, name), overload): getattr(torch, name)
    for kind in ("conv", "conv_transpose")
    for n in (1, 2, 3)
    for name in (f"{kind}{n}d",)
    for overload in getattr(torch.ops.aten, name).overloads()
}
"""Operators of convolutions, and their calls in Python. torch makes a complex one of three real ones."""


def _for_all_three(effect: Effect) -> Effect:
    """Return the first of the three for the whole: four real products for each of its."""
    real = costs.REAL_PRODUCTS
    return replace(
        effect,
        macs=real * effect.macs,
        weight_gradient_macs=real * effect.weight_gradient_macs,
        terms=working.complex_terms(effect.terms, real),
    )


def _without_products(effect: Effect) -> Effect:
    """Return another of the three, whose products and outputs count with the first; torch and fvcore count each."""
    return replace(effect, macs=0, weight_gradient_macs=0, terms=(), products=0, activations=0, biases=0)


def _as_one(parts: Sequence[Effect]) -> list[Effect]:
    """Give the first part that multiplies the products of the whole."""
    changes = chain([_for_all_three], repeat(_without_products))
    return [next(changes)(part) if part.macs else part for part in parts]


class _ComplexConvolutions(TorchFunctionMode):
    """Recognizes the three real convolutions of a complex one, and their gradients: autograd never shows it whole."""

    def __init__(self) -> None:
        super().__init__()
        self._inside: int | None = None
        """How many of the three were seen of the one that runs."""
        self._places: dict[int, int] = {}
        """Which of the three a node of autograd is of, by its number."""

    def install(self) -> None:
        """Enter below every other mode, so that those may end in their order: complex tensors may come late."""
        self._stack([self, *self._others()])

    def remove(self) -> None:
        """Leave the others as they are."""
        self._stack(self._others())

    def _others(self) -> list[TorchFunctionMode]:
        return [mode for mode in _get_current_function_mode_stack() if mode is not self]  # type: ignore[no-untyped-call]

    def _stack(self, modes: Sequence[TorchFunctionMode]) -> None:
        for _ in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
            _pop_mode()  # type: ignore[no-untyped-call]
        for mode in modes:
            _push_mode(mode)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            torch.is_inference_mode_enabled()
            or func not in _CALLS
            or not (args[0] if args else kwargs["input"]).is_complex()
        ):
            return func(*args, **kwargs)
        self._inside = 0
        try:
            return func(*args, **kwargs)
        finally:
            self._inside = None

    def as_part(self, effect: Effect, taken: Sequence[torch.Tensor]) -> Effect:
        """Return an operator's effect, forward or backward, as it counts where it is part of a complex convolution."""
        node = torch._C._current_autograd_node()
        place = None
        if self._inside is not None and effect.macs:
            place, self._inside = self._inside, self._inside + 1
            if any(tensor.requires_grad for tensor in taken):
                self._places[torch._C._autograd._get_sequence_nr() - 1] = place
        elif self._inside is None and node is not None:
            place = self._places.get(node._sequence_nr())
        if place is None or not effect.macs:
            return effect
        return _without_products(effect) if place else _for_all_three(effect)


_CALLS = frozenset(_CONVOLUTIONS.values())

# What an operator does -----------------------------------------------------------------------------------------------


@cache
def _standing_still(name: str) -> Effect:
    return Effect(name, makes_complex=name == "aten::view_as_complex")


def _effect(name: str, args: Any, output: Output) -> Effect:
    if kinds.stands_still(name):
        return _standing_still(name)
    formula, backward = kinds.formula(name), costs.WEIGHT_GRADIENTS.get(name)
    products = formula(args, output) if formula is not None else None
    real = _real_products(args) if products else 1
    size = _first(output).numel() if formula is not None or name in conventions.MAX_POOLS else 0
    adds_bias = conventions.BIASES.get(name)
    in_symbols = working.TERMS.get(name)
    flops, torch_macs = conventions.FVCORE_FLOPS.get(name), conventions.TORCH_MACS.get(name)
    return Effect(
        operator=name,
        macs=real * (products or 0),
        weight_gradient_macs=real * (backward(args, output) if backward is not None else 0),
        terms=working.complex_terms(in_symbols(args, output), real) if in_symbols is not None else (),
        activations=size if formula is not None else 0,
        read_bytes=_bytes(flat(args)) + _packed_bytes(name, args),
        written_bytes=_bytes(flat((output,))),
        biases=size if adds_bias is not None and adds_bias(args) else 0,
        pooled=size if name in conventions.MAX_POOLS else 0,
        products=products or 0,
        torch_macs=_torch_macs(torch_macs, formula, products, args, output),
        makes_complex=any(tensor.is_complex() for tensor in flat((output,))),
        fvcore_flops=flops(args, _first(output)) if flops is not None else 0,
        fvcore_activations=size if name in conventions.FVCORE_ACTIVATIONS else 0,
        uncounted=() if products is not None or kinds.kind(name) == "free" else (name.removeprefix("aten::"),),
    )


def _torch_macs(
    rule: costs.Formula | None, ours: costs.Formula | None, products: int | None, args: Any, output: Output
) -> int:
    """Return torch's count, by its own rule or by ours."""
    if rule is None:
        return 0
    return (products if rule is ours else rule(args, output)) or 0


def _real_products(args: Any) -> int:
    """How many real products one of an operator's is."""
    return costs.REAL_PRODUCTS if any(tensor.is_complex() for tensor in flat(args)) else 1


def _together(name: str, parts: Sequence[Effect], args: Any, output: Output) -> Effect:
    """Add the parts of a composite up; it is uncounted where a part is, and tools that read graphs see it whole."""
    fvcore_flops = sum(part.fvcore_flops for part in parts)
    fvcore_activations = sum(part.fvcore_activations for part in parts)
    if name not in conventions.TAKEN_APART:
        flops = conventions.FVCORE_FLOPS.get(name)
        fvcore_flops = flops(args, _first(output)) if flops is not None else 0
        fvcore_activations = _first(output).numel() if name in conventions.FVCORE_ACTIVATIONS else 0
    return Effect(
        operator=name,
        calls=sum(part.calls for part in parts),
        macs=sum(part.macs for part in parts),
        terms=tuple(chain.from_iterable(part.terms for part in parts)),
        activations=sum(part.activations for part in parts),
        read_bytes=sum(part.read_bytes for part in parts),
        written_bytes=sum(part.written_bytes for part in parts),
        biases=sum(part.biases for part in parts),
        pooled=sum(part.pooled for part in parts),
        products=sum(part.products for part in parts),
        torch_macs=sum(part.torch_macs for part in parts),
        makes_complex=any(part.makes_complex for part in parts),
        fvcore_flops=fvcore_flops,
        fvcore_activations=fvcore_activations,
        uncounted=(name.removeprefix("aten::"),) if any(part.uncounted for part in parts) else (),
    )


def flat(values: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an operator's arguments, which nest one level deep."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _first(output: Output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else next(flat((output,)))


def _bytes(tensors: Iterator[torch.Tensor]) -> int:
    return sum(_elements(tensor) * tensor.element_size() for tensor in tensors)


def _packed_bytes(name: str, args: Any) -> int:
    if name.startswith("aten::") and not name.startswith("aten::quantized"):
        return 0
    return sum(_bytes(iter(packed.tensors(held).values())) for held in packed.among(args))


def _elements(tensor: torch.Tensor) -> int:
    """Count what lies in memory: the copies of an expanded tensor are one."""
    if tensor.layout is not torch.strided or not tensor.numel():
        return tensor.numel()
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


# What is remembered --------------------------------------------------------------------------------------------------


@cache
def is_composite(func: Any) -> bool:
    """Say whether an operator is made of others, which it can be taken apart into."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


@cache
def has_kernel(func: Any, backend: str) -> bool:
    """Say whether an operator runs as a whole on a backend, such as CPU, though it could be taken apart."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), backend))


@cache
def writes_in_place(func: Any) -> bool:
    """Say whether an operator writes into its first argument, and returns that or nothing."""
    arguments, returns = func._schema.arguments, func._schema.returns
    if not arguments or arguments[0].alias_info is None or not arguments[0].alias_info.is_write:
        return False
    return len(returns) < 2 and torch.Tag.inplace_view not in func.tags


@cache
def _repeatable(func: Any) -> bool:
    """Say whether an operator's effect and output follow from its arguments' shapes, strides, dtypes and values.

    A view keeps what it looks at, and is always run.
    """
    schema = func._schema
    returns_view = any(value.alias_info is not None and not value.alias_info.is_write for value in schema.returns)
    moves_memory = torch.Tag.inplace_view in func.tags or "out" in schema.overload_name
    return not moves_memory and not returns_view


_PLAIN = frozenset({int, float, bool, str, complex, type(None), torch.dtype, torch.device, torch.layout})
_PLAIN |= {torch.memory_format, torch.Size}
_TENSORS = frozenset({torch.Tensor, nn.Parameter})


def _key(func: Any, args: Any, kwargs: Any, taken: list[torch.Tensor]) -> Any:
    """Return what tells a call from another, or None where only running it tells; collect its tensors in `taken`."""
    if not _repeatable(func):
        return None
    parts: list[Any] = [func, torch.get_default_dtype()]
    if not _described(args, parts, taken):
        return None
    if kwargs:
        parts += kwargs
        if not _described(kwargs.values(), parts, taken):
            return None
    return tuple(parts)


def _described(values: Any, parts: list[Any], taken: list[torch.Tensor]) -> bool:
    for value in values:
        kind = type(value)
        if kind in _TENSORS:
            if not value.is_meta or value.dtype.is_complex or value.layout is not torch.strided:
                return False
            taken.append(value)
            parts += (value.shape, value.stride(), value.dtype)
        elif kind in _PLAIN:
            parts += (kind, value)  # 1, 1.0 and True are equal, and promote differently
        elif kind is list or kind is tuple:
            parts += (kind, len(value))
            if not _described(value, parts, taken):
                return False
        else:
            return False
    return True


def _maker(output: Output, taken: Sequence[torch.Tensor]) -> Callable[[Sequence[torch.Tensor]], Output] | None:
    """Return what makes the same output anew of a call's tensors; None where it holds more than meta tensors."""
    if isinstance(output, tuple | list):
        kind, makers = type(output), [_maker(item, taken) for item in output]
        if None in makers or kind not in (tuple, list):
            return None
        return lambda tensors: kind(make(tensors) for make in makers)  # type: ignore[misc]
    if type(output) in _PLAIN:
        return lambda tensors: output
    if type(output) not in _TENSORS or not output.is_meta or output.layout is not torch.strided:
        return None
    place = next((place for place, tensor in enumerate(taken) if tensor is output), None)
    if place is not None:
        return lambda tensors: tensors[place]
    shape, stride, dtype = output.shape, output.stride(), output.dtype
    return lambda tensors: torch.empty_strided(shape, stride, dtype=dtype, device="meta")
