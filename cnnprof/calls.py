"""Calls as users write them: name(arguments), in literals and whole-number arithmetic. Runs and looks up nothing."""

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cnnprof.errors import UsageError

MOST_ITEMS = 10_000
"""In the lists and tuples of one value, however deep: a repeated list may be repeated again."""
MOST_BITS = 64
"""Of a whole number that arithmetic makes."""

_REFUSED = "only Python literals, whole-number arithmetic, repetition, dict(), list() and tuple() are taken"
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def literals(text: str, arguments: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the arguments of a call; `text` is the whole that was given. Raises UsageError for anything else."""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        if (
            not isinstance(call, ast.Call)
            or not isinstance(call.func, ast.Name)
            or any(keyword.arg is None for keyword in call.keywords)
        ):
            raise ValueError("one call with plain arguments was expected")
        args = tuple(map(_value, call.args))
        kwargs = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords}
        _check_size([*args, *kwargs.values()])
    except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise UsageError(f"{text!r}: the arguments ({arguments}) cannot be read: {_reason(error)}") from None
    except SyntaxError as error:
        raise UsageError(f"{text!r}: the arguments ({arguments}) cannot be read: {error.msg}") from None
    return args, kwargs


def literal(text: str) -> Any:
    """Read one value as it stands in a call; any other text stays a string."""
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return text


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ArithmeticError | _TooLargeError) else _REFUSED


class _TooLargeError(ValueError):
    """A value that would take too much memory or time."""


def _value(node: ast.expr) -> Any:
    """Work out an expression, part by part. Raises ValueError for one that is not taken."""
    match node:
        case ast.List(elts=items):
            return _check_size([_value(item) for item in items])
        case ast.Tuple(elts=items):
            return _check_size(tuple(_value(item) for item in items))
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(filter(None, keys), values, strict=True)
            return _check_size({_value(key): _value(value) for key, value in pairs})
        case ast.UnaryOp(op=ast.USub(), operand=operand) if _is_whole(number := _value(operand)):
            return -number
        case ast.BinOp(left=left, op=op, right=right) if (
            not isinstance(right, ast.Constant) or type(right.value) is int
        ):
            return _computed(_value(left), op, _value(right))
        case ast.Call(func=ast.Name(id="dict" | "list" | "tuple" as name), args=args, keywords=keywords):
            return _made(name, [_value(each) for each in args], keywords)
    return ast.literal_eval(node)


def _made(name: str, args: Iterable[Any], keywords: Iterable[ast.keyword]) -> Any:
    named = {each.arg: _value(each.value) for each in keywords}
    if None in named:
        raise ValueError("** is not taken")
    make: Callable[..., Any] = {"dict": dict, "list": list, "tuple": tuple}[name]
    return _check_size(make(*args, **{str(key): value for key, value in named.items()}))


def _computed(left: Any, op: ast.operator, right: Any) -> Any:
    if _is_whole(left) and _is_whole(right) and type(op) in _OPERATORS:
        return _arithmetic(left, op, right)
    if isinstance(op, ast.Mult) and _is_whole(left):
        left, right = right, left
    if isinstance(op, ast.Mult) and type(left) in (list, tuple) and _is_whole(right):
        if _size(left) * right > MOST_ITEMS:
            raise _TooLargeError(f"{right:,} times {len(left):,} items are more than {MOST_ITEMS:,}")
        return left * right
    if isinstance(op, ast.Add) and type(left) is type(right) and type(left) in (list, tuple):
        return _check_size(left + right)
    raise ValueError(f"{type(left).__name__} and {type(right).__name__} are not taken")


def _arithmetic(left: int, op: ast.operator, right: int) -> int:
    is_power = isinstance(op, ast.Pow)
    if is_power and right < 0:
        raise ValueError("a negative power is no whole number")
    bits = right * left.bit_length() if is_power and abs(left) > 1 else 0
    number = _OPERATORS[type(op)](left, right) if bits <= 2 * MOST_BITS else math.inf
    if number == math.inf or int(number).bit_length() > MOST_BITS:
        raise _TooLargeError(f"a whole number of more than {MOST_BITS} bits")
    return int(number)


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _check_size(value: Any) -> Any:
    size = _size(value)
    if size > MOST_ITEMS:
        raise _TooLargeError(f"{size:,} items are more than {MOST_ITEMS:,}")
    return value


def _size(value: Any) -> int:
    """Count the items of a nest as they are reached, again wherever they are repeated."""
    if isinstance(value, dict):
        return sum(1 + _size(each) for each in value.values())
    return sum(1 + _size(each) for each in value) if isinstance(value, list | tuple) else 0
