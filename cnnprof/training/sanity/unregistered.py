"""Weights and layers that a network uses and does not register: no optimizer moves them, no eval() reaches them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from cnnprof import units
from cnnprof.inputs import tensors_in
from cnnprof.records import Check
from cnnprof.training.sanity.trial import Trial, check, listed
from cnnprof.training.sanity.watch import Watch

NAME = "registered"
FEW = 7
"""Images. A leaf of as many rows that no module holds is made of them, as for a gradient penalty: it is no weight."""


@dataclass(frozen=True)
class Weight:
    """A tensor that needs a gradient and is in no parameter."""

    place: str
    """The attribute that holds it, else the function that uses it."""
    numbers: int
    result: bool = False
    """The attribute holds a result computed from a Parameter, which itself is nowhere."""


def registered(trial: Trial, given: nn.Module | None = None) -> Check:
    """Ask whether the network registers every weight that gets a gradient, and every layer that eval() changes."""
    weights, layers = weights_of(trial, given), tuple(dict.fromkeys(_layers_in_training(trial)))
    found = [*filter(None, (describe(weights), f"eval() does not reach {listed(layers)}" if layers else ""))]
    if found:
        return check(NAME, "failed", float(sum(each.numbers for each in weights)), "; ".join(found), hint_of(weights))
    return check(NAME, "ok", 0.0, "every weight that gets a gradient is a parameter")


def describe(weights: Sequence[Weight]) -> str:
    """Say how many weights are in no parameter, and where; nothing where there are none."""
    numbers = units.plural(sum(each.numbers for each in weights), "weight")
    places = listed([*dict.fromkeys(each.place for each in weights)])
    return f"{numbers} in {units.plural(len(weights), 'tensor')} are in no parameter: {places}" if weights else ""


def hint_of(weights: Sequence[Weight]) -> str:
    """Say how a network registers its weights and layers."""
    results = [each.place for each in weights if each.result]
    if results:
        return f"{listed(results)} is made of a Parameter that nothing holds: compute first, nn.Parameter(...) last"
    return "make layers in __init__, held in attributes, nn.ModuleList or nn.ModuleDict, and tensors in nn.Parameter"


def weights_of(trial: Trial, given: nn.Module | None = None) -> tuple[Weight, ...]:
    """Return the weights that get a gradient and are in no parameter.

    `given` is the module that is copied for the trial: a copy holds results of computations as constants.
    """
    network = trial.network()
    held = dict(_held(network))
    lost = [each for _, each in _held(given) if each.result] if given is not None else []
    images, labels = (each[:FEW] for each in trial.batches[0])
    with Watch(network, layers=False) as watch, _Uses(watch) as uses:
        _, output = trial.passed(network, (images, labels))
    leaves = {id(leaf): leaf for leaf in (*_leaves(tensors_in(output)), *uses.with_gradient())}
    for parameter in (*network.parameters(), images):
        leaves.pop(id(parameter), None)
    weights = [
        held.get(key) or Weight(uses.places.get(key, "a tensor in forward"), leaf.numel())
        for key, leaf in leaves.items()
        if key in held or isinstance(leaf, nn.Parameter) or leaf.shape[:1] != (FEW,)
    ]
    return (*weights, *(each for each in lost if each not in weights))


class _Uses(TorchFunctionMode):
    """Notes which function is the last to use a leaf that needs a gradient, and where."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._leaves: dict[int, Tensor] = {}
        self.places: dict[int, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in filter(_is_leaf, tensors_in([*args, *(kwargs or {}).values()])):
            self._leaves[id(leaf)] = leaf
            if (name := getattr(func, "__name__", "")) != "__get__":  # of its shape, say
                self.places[id(leaf)] = f"an argument of {name} in {self._watch.place}"
        return func(*args, **(kwargs or {}))

    def with_gradient(self) -> Iterator[Tensor]:
        """Yield those that a gradient reached: checkpoints hide them from the graph."""
        return (leaf for leaf in self._leaves.values() if leaf.grad is not None)


def _is_leaf(tensor: Tensor) -> bool:
    return tensor.requires_grad and tensor.is_leaf


def _leaves(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the leaves of the graph behind tensors."""
    nodes = [each.grad_fn for each in tensors if each.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        following = [each for each, _ in node.next_functions if each is not None and each not in seen]
        seen.update(following)
        nodes += following


def _held(network: nn.Module) -> Iterator[tuple[int, Weight]]:
    """Yield the leaves in attributes that need a gradient and are in no parameter, by the leaf's id."""
    known = {id(each) for each in (*network.parameters(), *network.modules())}
    for path, module in network.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_modules")}
        for place, tensor in _tensors(own | own.pop("_buffers"), path, known):
            leaves = [tensor] if tensor.is_leaf else [*_leaves([tensor])]
            for leaf in leaves:
                if id(leaf) not in known and (leaf is tensor or isinstance(leaf, nn.Parameter)):
                    yield id(leaf), Weight(place, leaf.numel(), leaf is not tensor)


def _tensors(value: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that need a gradient in lists, dicts and modules, with their places: layers[0].weight."""
    if id(value) in seen:
        return
    seen = seen | {id(value)}
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield place, value
    elif isinstance(value, nn.Module):
        for name, parameter in value.named_parameters():
            yield from _tensors(parameter, f"{place}.{name}", seen)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _tensors(each, f"{place}.{name}".lstrip("."), seen)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _tensors(each, f"{place}[{number}]", seen)


def _layers_in_training(trial: Trial) -> Iterator[str]:
    """Yield the layers that train while the network evaluates: eval() reaches what is registered."""
    network = trial.network().eval()
    known = {id(each) for each in network.modules()}
    found: list[str] = []

    def note(module: nn.Module, inputs: Any) -> None:
        if module.training and id(module) not in known and isinstance(module, _DropoutNd | _NormBase):
            found.append(f"{type(module).__name__} in {watch.place}")

    hook = register_module_forward_pre_hook(note)
    try:
        with torch.no_grad(), Watch(network, layers=False) as watch:
            network(trial.batches[0][0])
    except (Exception, SystemExit):  # noqa: BLE001  # a user's model may raise anything; its evaluation is asked for
        return
    finally:
        hook.remove()
    yield from found
