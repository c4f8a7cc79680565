"""Calls as users write them: name(arguments), in Python literals. Looks nothing up."""

import ast
from typing import Any

from cnnprof.errors import UsageError


def literals(text: str, arguments: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the arguments of a call; `text` is the whole that was given. Raises UsageError for more than literals."""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        if (
            not isinstance(call, ast.Call)
            or not isinstance(call.func, ast.Name)
            or any(keyword.arg is None for keyword in call.keywords)
        ):
            raise ValueError("one call with plain arguments was expected")
        args = tuple(ast.literal_eval(argument) for argument in call.args)
        return args, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "only Python literals are taken"
        raise UsageError(f"{text!r}: the arguments ({arguments}) cannot be read: {reason}") from None
