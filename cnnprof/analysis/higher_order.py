"""Higher-order operators, which take functions: cond, while_loop, scan, map and flex_attention as a pass runs them.

torch compiles each on its own, and has no rule for modes that watch operators. Here their functions run as they are, so
that the operators in them are seen, and the modules that call those. Attention becomes one operator that knows how many
scores it works out.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch._higher_order_ops.flex_attention import sdpa_dense
from torch._ops import HigherOrderOperator
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

Doubted = Callable[[str], None]
"""Takes a sentence about an uncertain count."""
MacsOf = Callable[[Callable[[], Any]], int]
"""Tells the MACs of a call that leaves no trace."""

MOST_TURNS = 1_000
"""Of a while_loop that could go on for ever."""


class HigherOrderMode(BaseTorchFunctionMode):
    """Runs the functions of higher-order operators in their place."""

    def __init__(self, doubted: Doubted, macs_of: MacsOf) -> None:
        super().__init__()
        self._doubted, self._macs_of = doubted, macs_of

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace a call that stands in the table."""
        rule = _RULES.get(name_of(func)) if isinstance(func, HigherOrderOperator) else None
        if rule is None:
            return func(*args, **(kwargs or {}))
        with self:
            return rule(self._doubted, self._macs_of, *args)


def refuse(func: HigherOrderOperator) -> None:
    """Raise NotImplementedError for an operator without a rule."""
    raise NotImplementedError(f"torch's higher-order operator {name_of(func)} cannot be followed")


def run_for_memory(func: HigherOrderOperator, args: Sequence[Any], doubted: Doubted) -> Any:
    """Run an operator's functions without gradients, for the tensors that they make; both branches of a cond.

    Its name is doubted: what torch compiles may take less, or more. Attention is worked out as where it is not
    compiled. Raises NotImplementedError for what has no rule.
    """
    name = name_of(func)
    if name not in _RULES:
        refuse(func)
    doubted(name)
    if name == "flex_attention":
        return sdpa_dense(*args)
    return _RULES[name](lambda said: None, lambda call: len((call(),)), *args)


def name_of(func: HigherOrderOperator) -> str:
    """Return an operator's name."""
    return str(func._name)


def _cond(
    doubted: Doubted,
    macs_of: MacsOf,
    wanted: Any,
    if_true: Callable[..., Any],
    if_false: Callable[..., Any],
    given: Any,
) -> Any:
    """Run the branch with more MACs: which one is taken depends on values."""
    first, second = macs_of(lambda: if_true(*given)), macs_of(lambda: if_false(*given))
    if first != second:
        doubted("torch.cond is counted by its larger branch, whichever is taken")
    return (if_true if first >= second else if_false)(*given)


def _while_loop(
    doubted: Doubted,
    macs_of: MacsOf,
    goes_on: Callable[..., Any],
    body: Callable[..., Any],
    carried: Sequence[Any],
    more: Sequence[Any] = (),
) -> Any:
    """Turn as often as the condition says; once where that depends on values."""
    for _ in range(MOST_TURNS):
        wanted = _value(goes_on(*carried, *more))
        if wanted is None:
            doubted("while_loop is counted by one turn: how often it turns depends on values")
            return tuple(body(*carried, *more))
        if not wanted:
            return tuple(carried)
        carried = body(*carried, *more)
    doubted(f"while_loop is counted by {MOST_TURNS:,} turns: it did not end before")
    return tuple(carried)


def _value(condition: Any) -> bool | None:
    """Return the truth of a condition; None where it is a tensor without values."""
    try:
        return bool(condition)
    except RuntimeError:  # NotImplementedError too
        return None


def _scan(
    doubted: Doubted,
    macs_of: MacsOf,
    combine: Callable[..., Any],
    first: Sequence[Any],
    given: Sequence[torch.Tensor],
    more: Sequence[Any] = (),
) -> list[Any]:
    """Combine the carried state with each element in turn."""
    carried, rows = list(first), []
    for place in range(given[0].shape[0]):
        made = list(combine(*carried, *(each[place] for each in given), *more))
        carried = made[: len(first)]
        rows.append(made[len(first) :])
    return [*carried, *map(torch.stack, zip(*rows, strict=True))]


def _map(
    doubted: Doubted, macs_of: MacsOf, function: Callable[..., Any], given: Sequence[torch.Tensor], more: Sequence[Any]
) -> tuple[Any, ...]:
    """Call a function on each element."""
    rows = [function(*(each[place] for each in given), *more) for place in range(given[0].shape[0])]
    return tuple(map(torch.stack, zip(*rows, strict=True)))


# Attention -----------------------------------------------------------------------------------------------------------


def _flex_attention(
    doubted: Doubted,
    macs_of: MacsOf,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Any,
    block_mask: tuple[Any, ...],
    *rest: Any,
) -> Any:
    """Count the scores of the mask's blocks; all of them where there is no mask."""
    scores = _scores(query, key, block_mask)
    every = query.shape[:3].numel() * key.shape[-2]
    if scores < every:
        doubted(f"flex_attention is counted by the blocks of its mask: {scores:,} of {every:,} scores")
    else:
        doubted("flex_attention is counted as dense attention")
    return _attention(query, key, value, scores)


def _scores(query: torch.Tensor, key: torch.Tensor, block_mask: tuple[Any, ...]) -> int:
    """Count the scores in a BlockMask's blocks, as BlockMask.as_tuple lists them. Raises where these have no values."""
    partial, partial_at, full, full_at, rows, columns = *block_mask[2:6], *block_mask[-3:-1]
    heads, (queries, keys) = query.shape[:2].numel(), (query.shape[-2], key.shape[-2])
    if rows >= queries and columns >= keys:  # one block: there is no mask, or it leaves nothing out
        return heads * queries * keys
    found = [(counts, at) for counts, at in ((partial, partial_at), (full, full_at)) if counts is not None]
    with _disable_current_modes():
        total = sum(_in_blocks(counts, at, (queries, keys), (rows, columns)) for counts, at in found)
    return int(total * heads // partial.shape[:2].numel())


def _in_blocks(counts: torch.Tensor, at: torch.Tensor, lengths: tuple[int, int], sides: tuple[int, int]) -> int:
    """Sum the areas of blocks (batch, heads, rows, place), of which the last ones may stand out over the lengths."""
    counts, at = counts.long(), at.long()
    height, width = (_sides(*each) for each in zip(lengths, sides, strict=True))
    listed = torch.arange(at.shape[-1], device=at.device) < counts[..., None]
    across = torch.where(listed, width.to(at.device)[at.clamp(max=len(width) - 1)], 0).sum(-1)
    return int((across * height.to(at.device)).sum().item())


def _sides(length: int, side: int) -> torch.Tensor:
    return (length - torch.arange(0, length, side)).clamp(max=side)


@torch.library.custom_op("cnnprof::flex_attention", mutates_args=())
def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend densely: later operators depend on values, if at all, as they do without a mask."""
    made = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    row = query.new_zeros(query.shape[:-1], dtype=torch.float32)
    return made.contiguous().clone(), row, row.clone()


@_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: int) -> tuple[torch.Tensor, ...]:
    made = query.new_empty((*query.shape[:-1], value.shape[-1]))
    row = query.new_empty(query.shape[:-1], dtype=torch.float32)
    return made, row, row.new_empty(row.shape)


@torch.library.custom_op("cnnprof::flex_attention_backward", mutates_args=())
def _attention_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)


@_attention_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: int) -> Any:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.scores = inputs[3]


def _differentiate(ctx: Any, gradient: torch.Tensor, *others: torch.Tensor) -> tuple[Any, ...]:
    return *_attention_backward(gradient, *ctx.saved_tensors, ctx.scores), None


_attention.register_autograd(_differentiate, setup_context=_keep)

_RULES: Mapping[str, Callable[..., Any]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "scan": _scan,
    "map_impl": _map,
    "flex_attention": _flex_attention,
}


@contextmanager
def on_any_device() -> Iterator[None]:
    """Let flex_attention take tensors of any device, with gradients: it runs where the network does, not here."""
    module = sys.modules.get("torch.nn.attention.flex_attention")
    checks = module is not None and hasattr(module, "_validate_device")
    with mock.patch.object(module, "_validate_device", return_value=None) if checks else nullcontext():
        yield
