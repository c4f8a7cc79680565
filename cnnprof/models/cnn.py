"""The plain convolutional network, with the tables of parts and the checks of arguments that all builders share.

It builds modules and refuses what cannot be built; it trains nothing, counts nothing and times nothing.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

Options = Mapping[str, Any]
Part = Callable[..., nn.Module]

ACTIVATIONS: Mapping[str, Part] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": partial(nn.Softmax, dim=1),
    "logsoftmax": partial(nn.LogSoftmax, dim=1),
    "lrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "none": nn.Identity,
}
POOLINGS: Mapping[str, Part] = {
    "max": partial(nn.MaxPool2d, kernel_size=2),
    "avg": partial(nn.AvgPool2d, kernel_size=2),
}
CONV_3X3 = partial(nn.Conv2d, kernel_size=3, stride=1, padding=1)

# Channels are for the builder to give, a pool that returns indices too ends the chain, and the rest are no names.
NOT_OPTIONS = {"in_channels", "out_channels", "return_indices", "args", "kwargs"}
LEAST = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0}
BESIDE_NUMBERS = [("stride", None), ("padding", "same"), ("padding", "valid")]
KINDS = {nn.Conv2d: "conv", nn.MaxPool2d: "pool", nn.AvgPool2d: "pool"}


class CNN(nn.Module):
    """[(CONV -> ACT)*P -> POOL]*(N/P) -> (FC -> ACT)*M -> FC: images (N, C, H, W) to raw class scores (N, out_classes).

    In that line N is len(channels), P pool_every and M len(hidden_dims); N % P convolutions at the end get no pool.
    `in_size` is one image's (C, H, W). The `_params` are the options of torch's own modules. Where they name no
    kernel_size, a convolution is 3x3 with stride 1 and padding 1, a pool 2x2, and their other options change that.

    Raises ValueError for a size that is no whole positive number, an empty list, an unknown name or option, and feature
    maps that shrink to nothing: that one names the layer, counted from 1, the HxW that it gets and that it needs.
    """

    def __init__(
        self,
        in_size: Sequence[int],
        out_classes: int,
        channels: Sequence[int],
        pool_every: int,
        hidden_dims: Sequence[int],
        conv_params: Options | None = None,
        activation_type: str = "relu",
        activation_params: Options | None = None,
        pooling_type: str = "max",
        pooling_params: Options | None = None,
    ) -> None:
        super().__init__()
        image, widths, every = sizes("in_size", in_size), sizes("channels", channels), size("pool_every", pool_every)
        if len(image) != 3:
            raise ValueError(f"in_size is {in_size!r}: give the three sizes of one image, (C, H, W)")
        dims = (*sizes("hidden_dims", hidden_dims), size("out_classes", out_classes))
        conv, activation = conv_part(conv_params), activation_part(activation_type, activation_params)
        pool = with_options("pooling_params", look_up("pooling_type", pooling_type, POOLINGS), pooling_params)

        layers: list[nn.Module] = []
        for start in range(0, len(widths), every):
            before, *group = (image[0], *widths)[start : start + every + 1]
            layers += self._group(before, group, conv, activation)
            layers += [pool()] if len(group) == every else []
        self.feature_extractor = nn.Sequential(*layers)
        self.mlp = perceptron((count_features(layers, image), *dims), activation)

    def _group(self, in_channels: int, channels: Sequence[int], conv: Part, activation: Part) -> Iterable[nn.Module]:
        """Make what stands between two pools: (CONV -> ACT)*len(channels)."""
        for pair in pairwise((in_channels, *channels)):
            yield conv(*pair)
            yield activation()

    def forward(self, x: Tensor) -> Tensor:
        """Score images (N, C, H, W): raw class scores (N, out_classes)."""
        scores: Tensor = self.mlp(self.feature_extractor(x).flatten(1))
        return scores


def perceptron(widths: Sequence[int], activation: Part) -> nn.Sequential:
    """Make (FC -> ACT)*(len(widths) - 2) -> FC, from (N, widths[0]) to (N, widths[-1])."""
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


def count_features(layers: Sequence[nn.Module], image: Sequence[int]) -> int:
    """Find C*H*W after `layers` on meta copies in eval mode: no random number is drawn, no running statistic moves."""
    x = torch.empty(1, *image, device="meta")
    for index, layer in enumerate(layers):
        try:
            x = copy.deepcopy(layer).to("meta").eval()(x)
        except (RuntimeError, TypeError) as error:
            _, _, height, width = x.shape
            raise ValueError(refusal(layers[: index + 1], (height, width), error)) from error
    return x.numel()


def refusal(layers: Sequence[nn.Module], found: tuple[int, int], error: Exception) -> str:
    """Say in one line why the last of `layers` does not take maps of `found` (H, W)."""
    layer, needed = layers[-1], least_map(layers[-1])
    nth = sum(type(other) is type(layer) for other in layers)
    who = f"{KINDS.get(type(layer), type(layer).__name__)} {nth} gets {found[0]}x{found[1]}"
    if found[0] >= needed[0] and found[1] >= needed[1]:
        return f"{who}, but {layer} cannot take it: {str(error).splitlines()[0]}"
    where = f"the feature maps shrink to nothing at feature_extractor.{len(layers) - 1}"
    return f"{who} and needs {needed[0]}x{needed[1]}: {where}; take fewer layers, smaller kernels or a larger in_size"


def least_map(layer: nn.Module) -> tuple[int, int]:
    """Find the smallest (H, W) that a convolution or a pool takes: dilation*(kernel - 1) + 1 - 2*padding."""
    asked = (getattr(layer, name, default) for name, default in (("dilation", 1), ("kernel_size", 1), ("padding", 0)))
    dilation, kernel, padding = (value if isinstance(value, Sequence) else (value, value) for value in asked)
    padding = (0, 0) if isinstance(padding, str) else padding
    height, width = (d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True))
    return height, width


def conv_part(options: Options | None) -> partial[nn.Module]:
    """Choose what makes a convolution: torch's own defaults beside a kernel_size, 3x3 ones without."""
    plain = isinstance(options, Mapping) and "kernel_size" in options
    return with_options("conv_params", nn.Conv2d if plain else CONV_3X3, options)


def activation_part(name: str, options: Options | None) -> Part:
    """Choose what makes one activation each time that it is called."""
    return with_options("activation_params", look_up("activation_type", name, ACTIVATIONS), options)


def look_up(what: str, name: str, table: Mapping[str, Part]) -> Part:
    """Find the part called `name`; the ValueError lists the names that are known."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{what} is {name!r}, which is not known: take one of {', '.join(table)}")
    return table[name]


def with_options(what: str, part: Part, options: Options | None) -> partial[nn.Module]:
    """Set the `options` of `part`; the ValueError for an unknown one lists those that are known."""
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"{what} is {options!r}: give a dict of options")
    known = [name for name in inspect.signature(part).parameters if name not in NOT_OPTIONS]
    for name, value in options.items():
        if name not in known and part is not nn.Identity:  # which takes any option and uses none
            raise ValueError(f"{what} has {name!r}, which is not known: known are {', '.join(known) or 'none'}")
        if name in LEAST and (name, value) not in BESIDE_NUMBERS:
            check_pair(f"{what}[{name!r}]", value, LEAST[name])
    return partial(part, **options)


def check_pair(what: str, value: object, least: int) -> None:
    """Refuse all but one whole number for both directions or two for (H, W)."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        size(what, value, least)
    elif len(sizes(what, value, least)) != 2:
        raise ValueError(f"{what} is {value!r}: give one whole number or two, (H, W)")


def sizes(what: str, values: object, least: int = 1) -> tuple[int, ...]:
    """Take a list, a tuple or a torch.Size of whole numbers, as a tuple."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{what} is {values!r}: give a list with at least one whole number")
    return tuple(size(f"{what}[{index}]", value, least) for index, value in enumerate(values))


def size(what: str, value: object, least: int = 1) -> int:
    """Take a whole number that is large enough; True and 3.0 are none."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{what} is {value!r}: give a whole number from {least} up")
    return int(value)
