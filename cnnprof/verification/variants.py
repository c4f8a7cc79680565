"""The course's networks with every decision left open: what they give where a rule is broken, to know a miss by.

The decisions are the fields of Choices, whose defaults are the course's; misses says in words what each other value
means. These networks check no arguments: what is wrong raises what torch raises, as a student's would.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnprof.models.cnn import ACTIVATIONS, POOLINGS

Options = Mapping[str, Any]

BETWEEN = "dropout, batch norm, activation"
"""What stands after every convolution of a block but the last."""


@dataclass(frozen=True)
class Choices:
    """How the networks are built; the defaults are right."""

    # the whole network
    built_first: str = "feature_extractor"
    features: str = "zeros aside"
    activation: str = "asked"
    leftover: str = "kept"
    pools: str = "a group"
    pooling: str = "asked"
    pooling_params: str = "given"
    hidden: str = "given"
    mlp_activation: str = "asked"
    mlp_bias: bool = True
    mlp_dropout: bool = False
    mlp_end: str = "nothing"
    flatten: str = "from 1"
    image: str = "as it is"
    mode: str = "train"
    # the convolutions of a CNN
    pair: str = "CONV -> ACT"
    widths: str = "given"
    conv_params: str = "given"
    conv_bias: bool = True
    conv_activation: str = "asked"
    # a residual block
    path_first: str = "main_path"
    bias: bool = True
    kernels: str = "given"
    padding: str = "kernel_size // 2"
    between: str = BETWEEN
    before_first: str = ""
    after_last: str = ""
    dropout: str = "Dropout2d"
    batch_norm: str = "asked"
    block_activation: str = "asked"
    shortcut: str = "where channels differ"
    shortcut_bias: bool = False
    shortcut_kernel: int = 1
    shortcut_end: str = "nothing"
    sum: str = "main + shortcut"
    end: str = "ReLU"
    # a bottleneck
    inner: str = "between projections"
    bottleneck_options: str = "all"
    # a ResNet's groups
    groups: str = "a block"
    group_kernel: int = 3
    inner_kernel: int = 3
    group_inner: str = "between the ends"
    bottlenecks: str = "where channels allow"
    block_options: str = "all"
    regular_options: str = "all"
    block_end: str = "nothing"
    # a classifier
    scores: str = "raw"
    probabilities: str = "softmax, dim 1"
    classes: str = "argmax, dim 1"
    calls: str = "model"


# Parts ---------------------------------------------------------------------------------------------------------------


def activation_of(chosen: str, asked: str, params: Options) -> nn.Module:
    """Make the activation that was asked for, or what a miss makes of it."""
    if chosen == "none":
        return nn.Identity()
    if chosen == "relu":
        return nn.ReLU()
    return ACTIVATIONS[asked](**(params if chosen == "asked" else {}))


class _DropoutAlways(nn.Dropout2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout2d(x, self.p, training=True)


def _dropout(chosen: str, share: float) -> Iterator[nn.Module]:
    if share > 0 and chosen != "none":
        kinds = {"Dropout": nn.Dropout, "Dropout2d, in eval mode too": _DropoutAlways}
        p = {"0.5": 0.5, "1 - dropout": 1 - share}.get(chosen, share)
        yield kinds.get(chosen, nn.Dropout2d)(p)


# A residual block ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """relu(main path + shortcut path), and what misses make of it."""

    main_path: nn.Module
    shortcut_path: nn.Module

    def __init__(
        self,
        choices: Choices,
        in_channels: int,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        batchnorm: bool = False,
        dropout: float = 0.0,
        activation_type: str = "relu",
        activation_params: Options = {},  # noqa: B006  # read only, as the course has it
    ) -> None:
        super().__init__()
        self._choices = choices
        shared = choices.activation if choices.activation != "asked" else choices.block_activation
        self._activation = partial(activation_of, shared, activation_type, activation_params)
        self._ends: dict[str, Callable[[], nn.Module]] = {
            "ReLU": nn.ReLU,
            "own": self._activation,
            "own, by default": ACTIVATIONS[activation_type],
            "none": nn.Identity,
        }
        self._parts: dict[str, Callable[[int], Iterable[nn.Module]]] = {
            "dropout": lambda width: _dropout(choices.dropout, dropout),
            "batch norm": lambda width: self._norm(width, batchnorm),
            "activation": lambda width: [self._activation()],
        }
        make = {
            "main_path": lambda: nn.Sequential(*self._main(in_channels, channels, kernel_sizes)),
            "shortcut_path": lambda: nn.Sequential(*self._shortcut(in_channels, channels[-1])),
        }
        for name in sorted(make, key=choices.path_first.__ne__):
            setattr(self, name, make[name]())

    def _norm(self, width: int, asked: bool) -> Iterator[nn.Module]:
        chosen = self._choices.batch_norm
        if (asked and chosen != "none") or chosen == "always":
            yield nn.BatchNorm2d(width, affine=chosen != "not affine")

    def _main(self, in_channels: int, channels: Sequence[int], kernels: Sequence[int]) -> Iterator[nn.Module]:
        chosen = self._choices
        number = len(kernels)
        for part in filter(None, chosen.before_first.split(", ")):
            yield from self._parts[part](in_channels)
        ways = {"all 3": [3] * number, "the first": [kernels[0]] * number, "reversed": list(kernels[::-1])}
        sizes = ways.get(chosen.kernels, list(kernels))
        for left, pair in enumerate(pairwise((in_channels, *channels)), 1 - number):  # 0 is the last
            kernel = sizes[left - 1]
            padding = {"0": 0, "1": 1}.get(chosen.padding, kernel // 2)
            yield nn.Conv2d(*pair, kernel, padding=padding, bias=chosen.bias)
            for part in filter(None, (chosen.between if left else chosen.after_last).split(", ")):
                yield from self._parts[part](pair[1])

    def _shortcut(self, before: int, after: int) -> Iterator[nn.Module]:
        chosen = self._choices
        if before != after or chosen.shortcut == "always":
            kernel = chosen.shortcut_kernel
            yield nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=chosen.shortcut_bias)
            if chosen.shortcut_end == "batch norm":
                yield nn.BatchNorm2d(after)
            if chosen.shortcut_end == "activation":
                yield self._activation()

    def forward(self, x: Tensor) -> Tensor:
        """Turn maps (N, C, H, W) into maps (N, K, H, W)."""
        main, how = self.main_path(x), self._choices.sum
        if how == "main alone":
            total = main
        else:
            shortcut = self.shortcut_path(x)
            main = torch.relu(main) if how.startswith("relu(main)") else main
            shortcut = torch.relu(shortcut) if how.endswith("relu(shortcut)") else shortcut
            signed = -shortcut if how == "main - shortcut" else shortcut
            total = main * shortcut if how == "main * shortcut" else main + signed
        end: nn.Module = self._ends[self._choices.end]()
        out: Tensor = end(total)
        return out


_LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "none": ("batchnorm", "dropout", "activation_type", "activation_params"),
    "no batchnorm": ("batchnorm",),
    "no dropout": ("dropout",),
    "no activation": ("activation_type", "activation_params"),
    "no activation_params": ("activation_params",),
}


def _without(options: Options, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in set(names)}


def bottleneck(
    choices: Choices,
    in_out_channels: int,
    inner_channels: Sequence[int],
    inner_kernel_sizes: Sequence[int],
    **block_options: Any,
) -> Block:
    """Make a block that is narrow inside, or what misses make of it."""
    ends, inner, kernels = in_out_channels, [inner_channels[0], *inner_channels[1:]], list(inner_kernel_sizes)
    channels, sizes = {
        "between projections": ([inner[:1], inner, [ends]], [1, *kernels, 1]),
        "not projected down": ([inner, [ends]], [*kernels, 1]),
        "not projected back": ([inner[:1], inner[:-1], [ends]], [1, *kernels]),
        "the first is the projection": ([inner, [ends]], [1, *kernels[1:], 1]),
        "projected to the last": ([inner, inner[-1:], [ends]], [1, *kernels, 1]),
        "projected to the width": ([[ends], inner, [ends]], [1, *kernels, 1]),
        "projected by 3x3": ([inner[:1], inner, [ends]], [3, *kernels, 3]),
    }[choices.inner]
    widths = [width for part in channels for width in part]
    return Block(choices, ends, widths, sizes, **_without(block_options, _LEFT_OUT[choices.bottleneck_options]))


# A whole network -----------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """A CNN, or a ResNet where there are `block_options`, and what misses make of them."""

    def __init__(
        self,
        choices: Choices,
        in_size: Sequence[int],
        out_classes: int,
        channels: Sequence[int],
        pool_every: int,
        hidden_dims: Sequence[int],
        conv_params: Options = {},  # noqa: B006  # read only, as the course has it
        activation_type: str = "relu",
        activation_params: Options = {},  # noqa: B006
        pooling_type: str = "max",
        pooling_params: Options = {},  # noqa: B006
        block_options: Options | None = None,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        self._choices, self._block_options, self._bottleneck = choices, block_options, bottleneck
        self._image_channels = in_size[0]
        self._conv_params, self._activation = conv_params, (activation_type, activation_params)
        self._pooling = {"asked": pooling_type}.get(choices.pooling, choices.pooling), pooling_params
        layers = list(self._layers([in_size[0], *channels], pool_every)) if choices.built_first != "mlp" else []
        features = self._count(layers or self._twin([in_size[0], *channels], pool_every), in_size)
        dims = [features, *self._hidden(list(hidden_dims)), out_classes]
        mlp = nn.Sequential(*self._perceptron(dims))
        layers = layers or list(self._layers([in_size[0], *channels], pool_every))
        self.feature_extractor, self.mlp = nn.Sequential(*layers), mlp
        self.train(choices.mode == "train")

    def _twin(self, widths: Sequence[int], every: int) -> list[nn.Module]:
        """Make the layers without drawing random numbers."""
        with torch.random.fork_rng(devices=[]):
            return list(self._layers(widths, every))

    def _layers(self, widths: Sequence[int], every: int) -> Iterator[nn.Module]:
        chosen = self._choices
        if chosen.widths == "reversed":
            widths = [widths[0], *widths[:0:-1]]
        starts = range(0, len(widths) - 1, every)
        for start in starts:
            before, *group = widths[start : start + every + 1]
            full = len(group) == every
            if not full and chosen.leftover == "dropped":
                return
            pooled = full or chosen.leftover == "pooled"
            pooled = pooled and chosen.pools not in ("none", "before a group", "after the first of a group")
            pooled = pooled and not (chosen.pools == "not the last" and start == starts[-1])
            if chosen.pools == "before a group" and full:
                yield self._pool()
            plain = self._block_options is None or (chosen.leftover == "without skip" and not full)
            layers = list(self._plain(before, group) if plain else self._blocks(before, group, full))
            if pooled and chosen.pair == "CONV -> POOL -> ACT":
                layers[-1:] = [self._pool(), layers[-1]]
            elif pooled and chosen.pools != "a convolution":
                layers.append(self._pool())
            yield from layers

    def _plain(self, before: int, group: Sequence[int]) -> Iterator[nn.Module]:
        chosen = self._choices
        for number, (previous, width) in enumerate(pairwise((before, *group)), 1):
            previous = self._image_channels if chosen.widths == "not chained" else previous
            conv, activation = self._conv(previous, width), self._activated(chosen.conv_activation)
            if chosen.pair == "ACT -> CONV":
                yield from (activation, conv)
            elif chosen.pair == "(CONV)*P -> ACT" and number < len(group):
                yield conv
            elif chosen.pair == "CONV -> BN -> ACT":
                yield from (conv, nn.BatchNorm2d(width), activation)
            else:
                yield from (conv, activation)
            if chosen.pools == "a convolution" or (chosen.pools == "after the first of a group" and number == 1):
                yield self._pool()

    def _conv(self, previous: int, width: int) -> nn.Conv2d:
        params = self._conv_params
        own = {
            "ignored": {"kernel_size": 3, "padding": 1},
            "without stride": _without(params, ["stride"]),
            "without padding": _without(params, ["padding"]),
            "kernel_size alone": {"kernel_size": params["kernel_size"]},
        }.get(self._choices.conv_params, params)
        return nn.Conv2d(previous, width, **{"bias": self._choices.conv_bias, **own})

    def _blocks(self, before: int, group: Sequence[int], full: bool) -> Iterator[nn.Module]:
        chosen = self._choices
        if chosen.groups == "a block a convolution":
            for pair in pairwise((before, *group)):
                yield self._block(pair[0], pair[1:], full)
        else:
            yield self._block(before, group, full)
        if chosen.block_end == "activation":
            yield self._activated("asked")

    def _block(self, before: int, group: Sequence[int], full: bool) -> Block:
        chosen = self._choices
        narrow = {
            "where channels allow": len(group) >= 3 and before == group[-1],
            "never": False,
            "whatever the length": before == group[-1],
            "whatever the channels": len(group) >= 3,
            "where the image's channels allow": len(group) >= 3 and self._image_channels == group[-1],
            "where a group ends as it starts": len(group) >= 3 and group[0] == group[-1],
            "in full groups": len(group) >= 3 and before == group[-1] and full,
        }[chosen.bottlenecks]
        assert self._block_options is not None
        options = _without(self._block_options, _LEFT_OUT[chosen.block_options])
        if not (self._bottleneck and narrow):
            options = _without(options, _LEFT_OUT[chosen.regular_options])
            return Block(chosen, before, group, [chosen.group_kernel] * len(group), **options)
        inner = {
            "whole": group,
            "without the first": group[1:],
            "without the last": group[:-1],
        }.get(chosen.group_inner, group[1:-1])
        kernel = chosen.group_kernel if chosen.inner_kernel == 3 else chosen.inner_kernel
        return bottleneck(chosen, before, inner, [kernel] * len(inner), **options)

    def _activated(self, chosen: str) -> nn.Module:
        shared = self._choices.activation
        return activation_of(chosen if shared == "asked" else shared, *self._activation)

    def _pool(self) -> nn.Module:
        kind, params = self._pooling
        own = {"given": params, "ignored": {}, "stride 1": {**params, "stride": 1}}[self._choices.pooling_params]
        return POOLINGS[kind](**own)

    def _count(self, layers: Sequence[nn.Module], in_size: Sequence[int]) -> int:
        """Count the features of a pass that leaves no trace, or of one that draws numbers or moves statistics."""
        draw, mode = self._choices.features.split()
        net = nn.Sequential(*layers).train(mode == "train")
        with torch.random.fork_rng(devices=[], enabled=mode == "aside"), torch.no_grad():
            image: Tensor = {"rand": torch.rand, "randn": torch.randn, "zeros": torch.zeros}[draw](1, *in_size)
            maps: Tensor = net(image)
        net.train()
        return maps.shape[1] if self._choices.flatten == "mean" else maps.numel()

    def _hidden(self, dims: list[int]) -> list[int]:
        return {
            "reversed": dims[::-1],
            "the first alone": dims[:1],
            "the last alone": dims[-1:],
            "none": [],
            "one more": [*dims, dims[-1]],
        }.get(self._choices.hidden, dims)

    def _perceptron(self, dims: Sequence[int]) -> Iterator[nn.Module]:
        chosen = self._choices
        for number, pair in enumerate(pairwise(dims), 2):
            yield nn.Linear(*pair, bias=chosen.mlp_bias)
            if number < len(dims):
                yield self._activated(chosen.mlp_activation)
                yield from _dropout("Dropout", (self._block_options or {}).get("dropout", 0.5) * chosen.mlp_dropout)
        if chosen.mlp_end in ("activation", "default parameters"):
            yield self._activated(chosen.mlp_activation if chosen.mlp_end == "activation" else chosen.mlp_end)
        elif chosen.mlp_end != "nothing":
            yield ACTIVATIONS[chosen.mlp_end]()

    def forward(self, x: Tensor) -> Tensor:
        """Score images (N, C, H, W)."""
        maps = self.feature_extractor(x / 255 if self._choices.image == "divided by 255" else x)
        flat = {
            "from 1": lambda: maps.flatten(1),
            "from 0": maps.flatten,
            "none": lambda: maps,
            "mean": lambda: maps.mean((2, 3)),
            "channels last": lambda: maps.permute(0, 2, 3, 1).flatten(1),
        }[self._choices.flatten]()
        scores: Tensor = self.mlp(flat)
        return scores


def residual_network(
    choices: Choices,
    *,
    batchnorm: bool = False,
    dropout: float = 0.0,
    bottleneck: bool = False,
    activation_type: str = "relu",
    activation_params: Options = {},  # noqa: B006
    conv_params: Options | None = None,
    **arguments: Any,
) -> Network:
    """Make a ResNet, or what misses make of it."""
    activation: dict[str, Any] = {"activation_type": activation_type, "activation_params": activation_params}
    block_options = {"batchnorm": batchnorm, "dropout": dropout, **activation}
    conv_params = {"kernel_size": 3, "padding": 1}
    return Network(
        choices, **activation, conv_params=conv_params, block_options=block_options, bottleneck=bottleneck, **arguments
    )


# A classifier --------------------------------------------------------------------------------------------------------


CALLS = {
    "model": ("model", "model"),
    "forward": ("forward", "forward"),
    "predict_proba": ("model", "predict_proba"),
    "each other": ("forward", "predict_proba"),
}
"""What predict_proba and classify call: all of these are right, but carry a miss on in unlike ways."""


class Classifier(nn.Module):
    """An ArgMaxClassifier, and what misses make of it."""

    def __init__(self, choices: Choices, model: nn.Module) -> None:
        super().__init__()
        self._choices, self.model = choices, model

    def _called(self, name: str, x: Tensor) -> Tensor:
        scores: Tensor = getattr(self, name)(x)
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Score a batch: (N, C)."""
        scores = self._called("model", x)
        ways: dict[str, Callable[[], Tensor]] = {
            "raw": lambda: scores,
            "softmax": lambda: scores.softmax(1),
            "log-softmax": lambda: scores.log_softmax(1),
            "sigmoid": scores.sigmoid,
            "classes": lambda: scores.argmax(1),
        }
        return ways[self._choices.scores]()

    def predict_proba(self, x: Tensor) -> Tensor:
        """Turn a batch into probabilities (N, C)."""
        scores = self._called(CALLS[self._choices.calls][0], x)
        ways: dict[str, Callable[[], Tensor]] = {
            "softmax, dim 1": lambda: scores.softmax(1),
            "softmax, dim 0": lambda: scores.softmax(0),
            "log-softmax": lambda: scores.log_softmax(1),
            "sigmoid": scores.sigmoid,
            "scores": lambda: scores,
            "overflow": lambda: scores.exp() / scores.exp().sum(1, keepdim=True),
            "the highest alone": lambda: scores.softmax(1).amax(1),
            "divided by the sum": lambda: scores / scores.sum(1, keepdim=True),
        }
        return ways[self._choices.probabilities]()

    def classify(self, x: Tensor) -> Tensor:
        """Name the class of each sample: (N,), int64."""
        scores = self._called(CALLS[self._choices.calls][1], x)
        ways: dict[str, Callable[[], Tensor]] = {
            "argmax, dim 1": lambda: scores.argmax(1),
            "argmax, dim 0": lambda: scores.argmax(0),
            "argmax of all": scores.argmax,
            "argmin": lambda: scores.argmin(1),
            "column": lambda: scores.argmax(1, keepdim=True),
            "float": lambda: scores.argmax(1).float(),
            "int32": lambda: scores.argmax(1).int(),
            "as given": lambda: scores,
            "softmax": lambda: scores.softmax(1),
            "highest": lambda: scores.amax(1),
            "highest softmax": lambda: scores.softmax(1).amax(1),
            "one-hot": lambda: functional.one_hot(scores.argmax(1), scores.shape[1]),
        }
        return ways[self._choices.classes]()


REFERENCES: Mapping[str, Callable[..., nn.Module]] = {
    "CNN": Network,
    "ResidualBlock": Block,
    "ResidualBottleneckBlock": bottleneck,
    "ResNet": residual_network,
    "ArgMaxClassifier": Classifier,
}
