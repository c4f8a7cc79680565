"""What one output element of a network can combine: how far it sees, which channels, and through how few of them.

A forward pass is followed on meta tensors, and every tensor carries its reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprof.analysis import windows
from cnnprof.analysis.operators import is_composite, writes_in_place
from cnnprof.analysis.reaches import (
    CHANNELS,
    RULES,
    Call,
    Reach,
    Role,
    elementwise,
    is_pointwise,
    unknown,
    without_roles,
)
from cnnprof.analysis.shadow import Shadow, on_meta, undisturbed
from cnnprof.inputs import Inputs, common_type, tensors_in
from cnnprof.records import LayerReach, Mixing

UNKNOWN = Mixing(receptive_field=None, narrowest_channels=None, carried_past=None)


def mixing(module: nn.Module, inputs: Inputs) -> Mixing:
    """Say what an output element combines; unknown where there is more than one image, or no pass on meta tensors."""
    reach, layers = followed(module, inputs)
    return UNKNOWN if reach is None else _as_mixing(reach, layers)


def followed(module: nn.Module, inputs: Inputs) -> tuple[Reach | None, list[LayerReach]]:
    """Follow a forward pass on meta tensors; return the output's reach, and those behind layers."""
    images = list(tensors_in((inputs.args, dict(inputs.kwargs))))
    if len(images) != 1 or images[0].ndim < 3 or images[0].is_nested:
        return None, []
    shadow = Shadow(module, on_meta)
    fed = inputs.to("meta", common_type(module))
    follow = Follow(next(tensors_in((fed.args, dict(fed.kwargs)))))
    shadow.announce(follow.stack)
    try:
        with undisturbed(), follow:
            output = shadow.root(*fed.args, **fed.kwargs)
    except (Exception, SystemExit):  # noqa: BLE001  # whatever a network raises on meta tensors, its mixing is unknown then
        return None, []
    kinds = {path: type(part).__name__ for path, part in shadow.clones.items()}
    return follow.reach_of(next(tensors_in(output), None)), follow.layers(kinds)


def _as_mixing(reach: Reach, layers: Sequence[LayerReach]) -> Mixing:
    past = reach.widest if reach.narrowest is not None and reach.widest > reach.narrowest else None
    combined = None if reach.channels is None else reach.channels.reshape(-1, reach.channels.shape[-1]).sum(axis=1)
    return Mixing(
        receptive_field=_field(reach),
        narrowest_channels=reach.narrowest,
        carried_past=past,
        channels_combined=None if combined is None else (int(combined.min()), int(combined.max())),
        input_channels=None if reach.channels is None else reach.channels.shape[-1],
        layers=tuple(layers),
    )


def _field(reach: Reach) -> tuple[int, ...] | Literal["all"] | None:
    if isinstance(reach.seen, tuple):
        return tuple(window.field for window in reach.seen)
    return "all" if reach.seen == "all" else None


# Following a pass ----------------------------------------------------------------------------------------------------


class Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries reaches from an operator's inputs to its outputs."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        channels, space = image.shape[1], image.shape[2:]
        roles: tuple[Role, ...] = (None, CHANNELS, *(((axis, length),) for axis, length in enumerate(space)))
        start = Reach(roles, (windows.PLACE,) * len(space), np.eye(channels, dtype=bool), None, channels, len(space))
        self._reaches = {id(image): (image, start)}  # the tensor beside it, so that its identity is not given again
        self._written: dict[int, tuple[torch.Tensor, Reach]] = {}
        """By storage: what was written into it by another name."""
        self._rows: dict[str, Reach] = {}
        self.stack: list[str] = [""]

    def reach_of(self, tensor: Any) -> Reach | None:
        """Return what is known of a tensor; None where it does not depend on the image."""
        found = self._reaches.get(id(tensor))
        if found is None and self._written and isinstance(tensor, torch.Tensor):
            found = self._written.get(_storage(tensor))
            return found and without_roles(found[1], tensor)
        return found and found[1]

    def layers(self, kinds: Mapping[str, str]) -> list[LayerReach]:
        """Return what elements behind each layer that moves or mixes can see, in the order of their first calls."""
        return [_row(path, kinds.get(path, ""), reach) for path, reach in self._rows.items()]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        rule = RULES.get(name)
        if rule is None and is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        output = self.perform(func, name, args, kwargs)
        self.carry(func, name, args, kwargs, output)
        return output

    def perform(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Make the call."""
        return func(*args, **kwargs)

    def carry(self, func: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """Note what the outputs of an operator that ran depend on."""
        of_shape_alone = name.startswith("new_") or name.endswith("_like")
        if of_shape_alone or not any(self.reach_of(tensor) for tensor in tensors_in((args, kwargs))):
            return
        call = Call(self.reach_of, args, kwargs, output)
        operator = name.removesuffix("_")
        rule = RULES.get(operator, elementwise if is_pointwise(func, operator) else unknown)
        found = rule(call)
        results = list(tensors_in(output))
        for tensor, reach in zip(results, found if isinstance(found, list) else [found] * len(results), strict=True):
            fits = len(reach.roles) == tensor.ndim
            self._reaches[id(tensor)] = tensor, reach if fits else without_roles(reach, tensor)
        if writes_in_place(func) and len(list(tensors_in(call.args))) > 1:
            self._forget_others(call.args[0])
        if name in _LISTED and results:
            self._rows[self.stack[-1]] = self._reaches[id(results[0])][1]

    def _forget_others(self, written: torch.Tensor) -> None:
        """Of other tensors that lie where one was written it is not followed which element depends on what now."""
        storage = _storage(written)
        for key, (tensor, _) in list(self._reaches.items()):
            if tensor is not written and _storage(tensor) == storage:
                del self._reaches[key]
        self._written[storage] = written, replace(self._reaches[id(written)][1], seen=None, channels=None)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _row(path: str, kind: str, reach: Reach) -> LayerReach:
    seen = reach.seen if isinstance(reach.seen, tuple) else None
    combined = None if reach.channels is None else int(reach.channels.sum(axis=-1).max())
    return LayerReach(
        path=path,
        kind=kind,
        receptive_field=_field(reach),
        stride=None if seen is None else tuple(float(window.stride) for window in seen),
        padding=None if seen is None else tuple(window.padding for window in seen),
        channels_combined=combined,
    )


_LISTED = frozenset({"convolution", "linear", "scaled_dot_product_attention", "_native_multi_head_attention"}) | {
    name for name in RULES if "pool" in name or name.startswith("upsample")
}
"""Operators whose layers stand in the table."""
