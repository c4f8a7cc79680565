"""Where a network moves images from row to row: views, and sizes that hold one batch alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from cnnprof import units
from cnnprof.training.sanity.watch import Watch

VIEWS = {"view", "reshape", "flatten", "unflatten"}
SIZED = VIEWS | {"expand", "repeat", "broadcast_to", "tile", "split", "chunk", "full", "empty", "zeros", "ones", "rand"}
SIZED |= {"randn", "new_full", "new_empty", "new_zeros", "new_ones"}
"""Functions whose whole numbers are sizes."""


@dataclass(frozen=True)
class View:
    """A call that takes a batch of images and gives other rows."""

    call: str
    """view(-1, 320) in the network itself (Net)."""
    given: tuple[int, ...]
    rows: int | None = None
    """None where it raised."""
    layer: str = ""
    """The first linear layer behind it, with the length that it takes."""

    def __str__(self) -> str:
        """Describe the call, and say how to keep images apart."""
        images, each = f"{self.given[0]} images, {units.size(self.given)},", math.prod(self.given[1:])
        made = "does not fit" if self.rows is None else f"makes {units.plural(self.rows, 'row')} of"
        layer = f"; {self.layer}" if self.layer else ""
        return f"{self.call} {made} {images} of {each} numbers each: flatten(1) keeps images apart{layer}"


class Reshapes(TorchFunctionMode):
    """Notes the views that move images to other rows, and the sizes that are given in numbers."""

    def __init__(self, watch: Watch, images: int) -> None:
        """`images` is the size of the batch."""
        super().__init__()
        self._watch, self._images = watch, images
        self.view: View | None = None
        """The last that moves images, where none moves them back."""
        self.sizes: dict[int, str] = {}
        """The first call that was given each."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and note how it reshapes the batch."""
        name = getattr(func, "__name__", "")
        if name in SIZED:
            self._note_sizes(name, args, kwargs or {})
        moves = name in VIEWS and args and isinstance(args[0], Tensor) and args[0].ndim > 1
        given = tuple(args[0].shape) if moves else ()
        if given[:1] == (self._images,):
            before, self.view = self.view, View(self._call(name, args, kwargs or {}), given)
            output = func(*args, **(kwargs or {}))
            kept = output.shape[:1] == given[:1]
            rows = len(output) if output.ndim > 1 else 1
            self.view = before if kept else replace(self.view, rows=rows)
            return output
        if name == "linear" and self.view and not self.view.layer and isinstance(args[1], Tensor):
            each, takes = math.prod(self.view.given[1:]), args[1].shape[1]
            if each != takes:
                layer = f"{self._watch.place} then gets {each} numbers and takes {takes}"
                self.view = replace(self.view, layer=layer)
        output = func(*args, **(kwargs or {}))
        if moves and output.shape[:1] == (self._images,):
            self.view = None
        return output

    def _note_sizes(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
        for number in _whole([*args, *kwargs.values()]):
            self.sizes.setdefault(number, self._call(name, args, kwargs))

    def _call(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> str:
        given = [
            *map(str, _whole(args)),
            *(f"{key}={value}" for key, value in kwargs.items() if isinstance(value, int)),
        ]
        return f"{name}({', '.join(given)}) in {self._watch.place}"


def _whole(values: Any) -> Iterator[int]:
    """Yield the whole numbers in arguments, and in sequences of them."""
    for each in values:
        if isinstance(each, int) and not isinstance(each, bool):
            yield each
        elif isinstance(each, list | tuple):
            yield from _whole(each)
