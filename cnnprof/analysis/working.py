"""Numbers to the working behind them: products in symbols, with their factors. Counts nothing itself.

A layer's parameters are the products of its own tensors' shapes; its MACs those of its operators' arguments. Symbols
depend on what a tensor is for; where that is not known, a tensor's own name stands for its product.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cnnprof.analysis import costs
from cnnprof.records import Size, Term

MOST_TERMS = 8
"""A sum of more products explains nothing: then the number stands alone."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

# Parameters ----------------------------------------------------------------------------------------------------------


def of_parameters(module: nn.Module, own: Mapping[str, torch.Tensor]) -> tuple[Term, ...]:
    """Return a product for each of a module's own tensors, by their names."""
    return tuple(_of_tensor(module, name, tuple(tensor.shape)) for name, tensor in own.items())


def _of_tensor(module: nn.Module, name: str, shape: Size) -> Term:
    weight, bias = name == "weight", name == "bias"
    if isinstance(module, _ConvNd) and weight and len(shape) > 2:
        return _filters(shape, module.groups, isinstance(module, _ConvTransposeNd))
    if isinstance(module, _ConvNd) and bias:
        return Term("C_out", shape)
    if isinstance(module, nn.Linear) and (weight or bias):
        return Term("in·out" if weight else "out", shape[::-1])
    if isinstance(module, _NORMS) and len(shape) == 1:
        return Term("C", shape)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and weight:
        return Term("n·d", shape)
    return Term(name, shape)


def _filters(shape: Size, groups: int, transposed: bool) -> Term:
    """Name the lengths of K filters of (C / groups, R, S); transposed, of C filters of (K / groups, R, S)."""
    kernel = shape[2:]
    sides = ["k"] * len(kernel) if len(set(kernel)) == 1 else ["kd", "kh", "kw"][-len(kernel) :]
    per_group = "" if groups == 1 else "/g"
    channels = ("C_in", f"C_out{per_group}") if transposed else (f"C_in{per_group}", "C_out")
    return Term("·".join((*sides, *channels)), (*kernel, *(shape[:2] if transposed else shape[1::-1])))


def is_bias(name: str, tensor: torch.Tensor) -> bool:
    """Say whether a parameter is added: bias, in_proj_bias, bias_hh_l0; a table of biases is none."""
    return tensor.ndim == 1 and "bias" in name.split("_")


# MACs ----------------------------------------------------------------------------------------------------------------


def of_products(terms: Iterable[Term], forward: int, macs: int) -> tuple[Term, ...]:
    """Take equal products together, over calls and over passes; none where they are too many or not all that is done.

    `macs` are those of the forward pass, or of a training step, whose backward pass takes as many for the gradient of
    the weights and again for the input's.
    """
    together = [_times("calls", calls, term) for term, calls in Counter(terms).items()]
    known = forward > 0 and sum(term.value for term in together) == forward
    if not known or macs % forward or len(together) > MOST_TERMS:
        return ()
    return tuple(_times("passes", macs // forward, term) for term in together)


def _times(symbol: str, number: int, term: Term) -> Term:
    return term if number == 1 else Term(f"{symbol}·{term.symbols}", (number, *term.factors))


def complex_terms(terms: tuple[Term, ...], real: int) -> tuple[Term, ...]:
    """Say of products how many real ones each is."""
    return tuple(Term(f"{real}·{term.symbols}", (real, *term.factors)) for term in terms) if real > 1 else terms


def _of_convolution(args: tuple[Any, ...], output: Any) -> tuple[Term, ...]:
    """Every output element takes its filter once; transposed, every input element does."""
    images, weight, transposed, groups = args[0], args[1], args[6], args[8]
    space = tuple((images if transposed else output).shape[2:])
    filters = _filters(tuple(weight.shape), groups, transposed)
    lengths = {1: "L", 2: "H·W", 3: "D·H·W"}[len(space)]
    image = Term(f"{filters.symbols}·{lengths}", (*filters.factors, *space))
    return (_times("N", int(images.shape[0]), image),)


def _of_mm(args: tuple[Any, ...], output: Any) -> tuple[Term, ...]:
    """(n, in) @ (in, out), in a batch of b."""
    *batch, rows, columns = output.shape
    product = _times("n", int(rows), Term("in·out", (int(args[0].shape[-1]), int(columns))))
    return (_times("b", int(batch[0]), product) if batch else product,)


def _of_added_mm(args: tuple[Any, ...], output: Any) -> tuple[Term, ...]:
    return _of_mm(args[1:], output)


def _of_attention(args: tuple[Any, ...], output: Any) -> tuple[Term, ...]:
    """Q (h, t, d) @ K^T (h, s, d), then the scores (t, s) @ V (h, s, e), in a batch of b."""
    query, key, value = args[:3]
    heads = max(math.prod(tensor.shape[-3:-2]) for tensor in (query, key))
    scores = (int(heads), int(query.shape[-2]), int(key.shape[-2]))
    depths = {"d": int(query.shape[-1]), "e": int(value.shape[-1])}
    batch = costs.attention(args, output) // (math.prod(scores) * sum(depths.values()))
    return tuple(_times("b", batch, Term(f"h·t·s·{name}", (*scores, depth))) for name, depth in depths.items())


TERMS: Mapping[str, Callable[[tuple[Any, ...], Any], tuple[Term, ...]]] = {
    "aten::convolution": _of_convolution,
    "aten::mm": _of_mm,
    "aten::bmm": _of_mm,
    "aten::addmm": _of_added_mm,
    "aten::baddbmm": _of_added_mm,
    "aten::scaled_dot_product_attention": _of_attention,
}
"""By operator; its products add up to its MACs. Operators that are not here have no formula in symbols."""
