"""The course's rules in words, and what breaking them is called: the fields of Choices and their wrong values."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

from torch import nn

from cnnprof.verification.variants import BETWEEN, CALLS, REFERENCES, Choices


@dataclass(frozen=True)
class Miss:
    """One broken rule: a field of Choices, its wrong value, what that is in words."""

    slot: str
    value: Any
    what: str
    calls: str = "model"
    """In a classifier, what its methods call."""

    @property
    def hint(self) -> str:
        """The rule."""
        return RULES[self.slot]


def misses_of(kind: str) -> list[Miss]:
    """Return the rules that a class can break."""
    return [
        Miss(slot, value, what, calls)
        for calls in (CALLS if kind == "ArgMaxClassifier" else ("model",))
        for part in _PARTS[kind]
        for slot, wrong in WRONG[part].items()
        for value, what in wrong.items()
    ]


def broken(kind: str, misses: Iterable[Miss]) -> Callable[..., nn.Module]:
    """Return what builds a class with these rules broken; none: as it should be."""
    chosen: dict[str, Any] = {}
    for miss in misses:
        chosen |= {miss.slot: miss.value, "calls": miss.calls}
    return partial(REFERENCES[kind], Choices(**chosen))


_PARTS = {
    "CNN": ("network", "convolutions"),
    "ResidualBlock": ("block",),
    "ResidualBottleneckBlock": ("block", "bottleneck"),
    "ResNet": ("network", "block", "bottleneck", "groups"),
    "ArgMaxClassifier": ("classifier",),
}
_WRONG_ORDERS = [order for each in permutations(BETWEEN.split(", ")) if (order := ", ".join(each)) != BETWEEN]
_TRAILS = ["dropout", "batch norm", "activation", "dropout, batch norm", "batch norm, activation"]
_TRAILS += ["dropout, activation", "activation, dropout", "batch norm, dropout", BETWEEN]
_OPTIONS = {
    "none": "block options (batchnorm, dropout, activation) that do not",
    "no batchnorm": "a batchnorm that does not",
    "no dropout": "a dropout that does not",
    "no activation": "an activation type that does not",
    "no activation_params": "activation_params that do not",
}

RULES: Mapping[str, str] = {
    "built_first": "build feature_extractor first, then mlp",
    "features": "count features on the meta device, or by arithmetic: neither draws random numbers or moves statistics",
    "activation": "give every activation activation_type and activation_params",
    "leftover": "what N % P leaves over stays, in a ResNet as a block of its own, and gets no pool",
    "pools": "a pool after every pool_every-th convolution, and nowhere else",
    "pooling": "take the pool that pooling_type names",
    "pooling_params": "give pools their pooling_params; a pool's own stride is its kernel",
    "hidden": "one Linear for each of hidden_dims, in their order, then one to out_classes",
    "mlp_activation": "the MLP's activations have the type and parameters of the convolutions'",
    "mlp_bias": "Linear layers have a bias",
    "mlp_dropout": "the MLP has no dropout",
    "mlp_end": "the network gives raw scores: end the MLP with its last Linear",
    "flatten": "forward is mlp(feature_extractor(x).flatten(1))",
    "image": "feed images as they are",
    "mode": "leave the network in train mode",
    "pair": "CONV -> ACT, P times, then POOL",
    "widths": "take channels in their order",
    "conv_params": "give every convolution all of conv_params",
    "conv_bias": "convolutions have a bias",
    "conv_activation": "the convolutions' activations have activation_type and activation_params",
    "path_first": "build main_path first",
    "bias": "convolutions of the main path have a bias",
    "kernels": "convolution i has kernel_sizes[i]",
    "padding": "padding=kernel_size // 2 keeps H and W",
    "between": "CONV -> Dropout2d -> BatchNorm2d -> ACT, and nothing after the last convolution",
    "before_first": "CONV -> Dropout2d -> BatchNorm2d -> ACT, and nothing after the last convolution",
    "after_last": "CONV -> Dropout2d -> BatchNorm2d -> ACT, and nothing after the last convolution",
    "dropout": "Dropout2d(dropout) where dropout > 0",
    "batch_norm": "BatchNorm2d where batchnorm is set, with torch's own options",
    "block_activation": "a block's activations have activation_type and activation_params",
    "shortcut": "an identity where the channel counts agree, else Conv2d(in, out, 1, bias=False)",
    "shortcut_bias": "the shortcut convolution is Conv2d(in, out, 1, bias=False) and nothing else",
    "shortcut_kernel": "the shortcut convolution is Conv2d(in, out, 1, bias=False) and nothing else",
    "shortcut_end": "the shortcut convolution is Conv2d(in, out, 1, bias=False) and nothing else",
    "sum": "a block's output is relu(main + shortcut), whatever its own activation",
    "end": "a block's output is relu(main + shortcut), whatever its own activation",
    "inner": "ResidualBlock(in_out, [inner[0], *inner, in_out], [1, *inner_kernel_sizes, 1])",
    "bottleneck_options": "pass **block_options on to ResidualBlock",
    "groups": "one block a group",
    "group_kernel": "[3] * len(group)",
    "inner_kernel": "a bottleneck's inner kernels are [3] * len(group[1:-1])",
    "group_inner": "a bottleneck's inner channels are group[1:-1]",
    "bottlenecks": "a bottleneck where len(group) >= 3 and the group's input channels equal its last channels",
    "block_options": "batchnorm, dropout, activation_type and activation_params go to both kinds of block",
    "regular_options": "batchnorm, dropout, activation_type and activation_params go to both kinds of block",
    "block_end": "nothing stands between a block and its pool",
    "scores": "forward gives raw scores",
    "probabilities": "predict_proba is torch.softmax(scores, dim=1)",
    "classes": "classify is torch.argmax(scores, dim=1): (N,), int64",
}
"""What is right, by the field of Choices that says otherwise."""

WRONG: Mapping[str, Mapping[str, Mapping[Any, str]]] = {
    "network": {
        "built_first": {"mlp": "an MLP built before the features"},
        "features": {
            "rand train": "a feature count found by a pass over random numbers, which draws them",
            "rand eval": "a feature count found by a pass over random numbers, which draws them",
            "randn train": "a feature count found by a pass over random numbers, which draws them",
            "randn eval": "a feature count found by a pass over random numbers, which draws them",
        },
        "activation": {
            "default parameters": "activation_params that are used nowhere",
            "relu": "ReLUs where another activation_type was asked for",
            "none": "no activation anywhere",
        },
        "leftover": {
            "pooled": "a pool after the leftover convolutions",
            "dropped": "leftover convolutions that are dropped",
        },
        "pools": {
            "none": "no pools",
            "before a group": "pools before the groups, not after them",
            "not the last": "no pool at the end of the last group",
        },
        "pooling": {
            "max": "max pools where average pools were asked for",
            "avg": "average pools where max pools were asked for",
        },
        "pooling_params": {
            "ignored": "pooling_params that are not used",
            "stride 1": "pools with stride 1",
        },
        "hidden": {
            "reversed": "hidden_dims in reversed order",
            "the first alone": "the first of hidden_dims alone",
            "the last alone": "the last of hidden_dims alone",
            "none": "an MLP without hidden layers",
            "one more": "one hidden layer too many",
        },
        "mlp_activation": {
            "default parameters": "an activation with default parameters in the MLP",
            "relu": "ReLUs in the MLP where another activation_type was asked for",
            "none": "an MLP without activations",
        },
        "mlp_bias": {False: "Linear layers without bias"},
        "mlp_dropout": {True: "dropout in the MLP"},
        "mlp_end": {
            "activation": "an activation after the last Linear",
            "default parameters": "an activation with default parameters after the last Linear",
            "relu": "a ReLU after the last Linear",
            "tanh": "a tanh after the last Linear",
            "softmax": "a softmax after the last Linear",
            "logsoftmax": "a log-softmax after the last Linear",
            "sigmoid": "a sigmoid after the last Linear",
        },
        "flatten": {
            "none": "no flattening",
            "from 0": "a flattening that takes the batch in, too",
            "mean": "a mean over H and W in place of the flattening",
            "channels last": "a flattening with channels last",
        },
        "image": {"divided by 255": "images divided by 255"},
        "mode": {"eval": "a network left in eval mode when it is built"},
    },
    "convolutions": {
        "pair": {
            "ACT -> CONV": "activations before the convolutions",
            "(CONV)*P -> ACT": "one activation a group, not one a convolution",
            "CONV -> POOL -> ACT": "pools before the activation",
            "CONV -> BN -> ACT": "batch norm in a CNN",
        },
        "pools": {
            "a convolution": "a pool after every convolution",
            "after the first of a group": "a pool after the first convolution of a group, not the last",
        },
        "widths": {
            "reversed": "channels in reversed order",
            "not chained": "convolutions that all take the image's channels",
        },
        "conv_params": {
            "ignored": "conv_params that are not used (3x3, padding 1)",
            "without stride": "convolutions that do not get their stride",
            "without padding": "convolutions that do not get their padding",
            "kernel_size alone": "convolutions that get their kernel_size alone",
        },
        "conv_bias": {False: "convolutions without bias"},
        "conv_activation": {
            "default parameters": "an activation with default parameters after the convolutions",
            "relu": "ReLUs after the convolutions where another activation_type was asked for",
            "none": "convolutions without activations",
        },
    },
    "block": {
        "path_first": {"shortcut_path": "a shortcut built before the main path"},
        "bias": {False: "convolutions without bias in blocks"},
        "kernels": {
            "all 3": "3x3 kernels in place of kernel_sizes",
            "the first": "the first of kernel_sizes for every convolution",
            "reversed": "kernel_sizes in reversed order",
        },
        "padding": {
            "0": "convolutions without padding in blocks",
            "1": "padding 1 whatever the kernel",
        },
        "between": {
            **{order: f"the order {order} after a block's convolutions" for order in _WRONG_ORDERS},
            "dropout, batch norm, activation, dropout": "a second dropout after the activation",
            "batch norm, dropout, batch norm, activation": "a second batch norm before the dropout",
        },
        "before_first": {
            "activation": "activation before a block's first convolution",
            "batch norm": "batch norm before a block's first convolution",
            "batch norm, activation": "batch norm, activation before a block's first convolution",
        },
        "after_last": {trail: f"{trail} after a block's last convolution" for trail in _TRAILS},
        "dropout": {
            "Dropout": "plain Dropout in place of Dropout2d",
            "none": "no dropout in blocks",
            "0.5": "Dropout2d of 0.5 in place of the share asked for",
            "1 - dropout": "Dropout2d of 1 - dropout",
            "Dropout2d, in eval mode too": "dropout in eval mode, too",
        },
        "batch_norm": {
            "none": "no batch norm in blocks",
            "always": "batch norm where it was not asked for",
            "not affine": "batch norm without weight and bias",
        },
        "block_activation": {
            "default parameters": "an activation with default parameters in blocks",
            "relu": "ReLUs in blocks where another activation_type was asked for",
            "none": "blocks without activations",
        },
        "shortcut": {"always": "a 1x1 shortcut convolution where channels do not change"},
        "shortcut_bias": {True: "a shortcut convolution with bias"},
        "shortcut_kernel": {3: "a 3x3 shortcut convolution"},
        "shortcut_end": {
            "batch norm": "batch norm after the shortcut convolution",
            "activation": "an activation after the shortcut convolution",
        },
        "sum": {
            "main alone": "a block without its skip",
            "main * shortcut": "main path and shortcut multiplied, not added",
            "main - shortcut": "the shortcut subtracted, not added",
            "relu(main) + shortcut": "a ReLU of the main path before the sum",
            "relu(main) + relu(shortcut)": "ReLUs of both paths before the sum",
        },
        "end": {
            "own": "the block's own activation at its end in place of the ReLU",
            "own, by default": "the block's own activation, with default parameters, at its end",
            "none": "no ReLU at the end of a block",
        },
    },
    "bottleneck": {
        "inner": {
            "not projected down": "a bottleneck without the 1x1 projection down",
            "not projected back": "a bottleneck without the 1x1 projection back",
            "the first is the projection": "a first inner convolution that is the 1x1 projection",
            "projected to the last": "inner convolutions that are one channel count ahead",
            "projected to the width": "a first projection that keeps the full width",
            "projected by 3x3": "3x3 projections in place of 1x1 ones",
        },
        "bottleneck_options": {value: f"{what} reach bottleneck blocks" for value, what in _OPTIONS.items()},
    },
    "groups": {
        "features": {
            "zeros train": "a feature count found by a pass in train mode, which draws masks and moves statistics",
        },
        "groups": {"a block a convolution": "a block for every convolution"},
        "group_kernel": {
            1: "1x1 kernels in groups",
            5: "5x5 kernels in groups",
        },
        "inner_kernel": {1: "1x1 kernels inside bottlenecks", 5: "5x5 kernels inside bottlenecks"},
        "group_inner": {
            "whole": "the whole group as a bottleneck's inner channels",
            "without the first": "group[1:] as a bottleneck's inner channels",
            "without the last": "group[:-1] as a bottleneck's inner channels",
        },
        "bottlenecks": {
            "never": "no bottleneck blocks",
            "whatever the length": "bottlenecks of groups with fewer than 3 entries",
            "whatever the channels": "bottlenecks where the channels do not allow them",
            "where the image's channels allow": "bottlenecks chosen by the image's channels, not the group's input",
            "where a group ends as it starts": "bottlenecks chosen by group[0] == group[-1]",
            "in full groups": "a leftover group that is never a bottleneck",
        },
        "block_options": {value: f"{what} reach the blocks" for value, what in _OPTIONS.items()},
        "regular_options": {value: f"{what} reach regular blocks" for value, what in _OPTIONS.items()},
        "leftover": {"without skip": "leftover convolutions without a skip"},
        "block_end": {"activation": "an activation after blocks"},
    },
    "classifier": {
        "scores": {
            "softmax": "a softmax in forward",
            "log-softmax": "a log-softmax in forward",
            "sigmoid": "a sigmoid in forward",
            "classes": "an argmax in forward",
        },
        "probabilities": {
            "softmax, dim 0": "a softmax over dim 0 in predict_proba",
            "log-softmax": "a log-softmax in predict_proba",
            "sigmoid": "a sigmoid in predict_proba",
            "scores": "raw scores in predict_proba",
            "overflow": "an exp without subtracting the maximum in predict_proba, which overflows",
            "the highest alone": "the highest probability alone in predict_proba",
            "divided by the sum": "scores divided by their sum in predict_proba",
        },
        "classes": {
            "argmax, dim 0": "an argmax over dim 0 in classify",
            "argmax of all": "an argmax over all scores at once in classify",
            "argmin": "an argmin in classify",
            "column": "a column (N, 1) from classify",
            "float": "classes as floats from classify",
            "int32": "classes of int32 from classify",
            "as given": "scores or probabilities from classify, not classes",
            "softmax": "scores or probabilities from classify, not classes",
            "highest": "the highest score or probability from classify, not its class",
            "highest softmax": "the highest score or probability from classify, not its class",
            "one-hot": "one-hot vectors from classify",
        },
    },
}
"""What is wrong, by the part of a network, the field of Choices, and its value."""
