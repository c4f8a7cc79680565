"""Optimizers by name and arguments, as in torch.optim, made for a network's parameters."""

import difflib
import inspect
import math
import re
from collections.abc import Callable

import torch
from torch import nn

from cnnprof import module_tree
from cnnprof.calls import literals
from cnnprof.errors import UsageError, first_line

Maker = Callable[[nn.Module], torch.optim.Optimizer]
"""Makes an optimizer for the parameters of a network that require a gradient."""

_CALL = re.compile(r"\s*(?P<name>[\w.]+)\s*(\((?P<arguments>.*)\))?\s*", re.DOTALL)


def known() -> dict[str, type[torch.optim.Optimizer]]:
    """Return torch.optim's optimizers by their names in small letters."""
    found = {name.lower(): value for name, value in vars(torch.optim).items() if inspect.isclass(value)}
    return {name: cls for name, cls in found.items() if issubclass(cls, torch.optim.Optimizer) and name != "optimizer"}


def maker(asked: str, on_cuda: bool = False) -> Maker:
    """Read `sgd`, `adamw(lr=0.1)`. Raises UsageError for what torch.optim does not have or does not take.

    On CUDA torch takes the implementation that works on lists of tensors, `foreach`, unless told otherwise.
    """
    match = _CALL.fullmatch(asked)
    if match is None:
        raise UsageError(f"optimizer {asked!r}: a name of torch.optim was expected, such as 'sgd(momentum=0.9)'")
    names = known()
    cls = names.get(match["name"].lower())
    if cls is None:
        close = difflib.get_close_matches(match["name"].lower(), names, n=3) or sorted(names)
        raise UsageError(f"optimizer {asked!r}: torch.optim has none of that name; nearest: {', '.join(close)}")
    args, kwargs = literals(asked, match["arguments"] or "")
    if on_cuda and "foreach" in inspect.signature(cls).parameters and not {"foreach", "fused"} & kwargs.keys():
        kwargs["foreach"] = True

    def make(module: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in module_tree.parameters(module) if parameter.requires_grad]
        try:
            return cls(trained, *args, **kwargs)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"optimizer {asked!r}: {cls.__name__} refuses it: {first_line(error)}") from None

    return make


def with_arguments(asked: str, **given: object) -> str:
    """Write an optimizer with more arguments: 'sgd' and lr=0.1 -> 'sgd(lr=0.1)'; None is not given."""
    more = {name: value for name, value in given.items() if value is not None}
    match = _CALL.fullmatch(asked)
    if match is None or not more:
        return asked
    args, kwargs = literals(asked, match["arguments"] or "")
    for name, value in more.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name} {value}: a finite number was expected")
    twice = next((name for name in more if name in kwargs), None)
    if twice is not None:
        raise UsageError(f"optimizer {asked!r}: {twice} is given twice, here and as {more[twice]!r}; leave one out")
    named = (f"{name}={value!r}" for name, value in {**kwargs, **more}.items())
    return f"{match['name']}({', '.join([*map(repr, args), *named])})"


def like(optimizer: torch.optim.Optimizer, module: nn.Module) -> Maker:
    """Make optimizers like one that holds parameters of `module`, for copies of that module."""
    places = {id(parameter): place for place, parameter in enumerate(module_tree.parameters(module))}

    def make(other: nn.Module) -> torch.optim.Optimizer:
        parameters = list(module_tree.parameters(other))
        groups = []
        for group in optimizer.param_groups:
            held = [places.get(id(parameter)) for parameter in group["params"]]
            if None in held:
                raise UsageError(f"{type(optimizer).__name__} holds parameters that are not the model's")
            groups.append({**group, "params": [parameters[place] for place in held if place is not None]})
        accepted = inspect.signature(type(optimizer)).parameters
        given = {name: value for name, value in optimizer.defaults.items() if name in accepted}
        try:
            return type(optimizer)(groups, **given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{type(optimizer).__name__} cannot be made again: {first_line(error)}") from None

    return make
