"""Small classifiers of 3x32x32, each with one fault: what a check of sanity is there to find."""

import random
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def features(width: int = 8) -> nn.Sequential:
    convs = (nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*convs, nn.AvgPool2d(2), nn.Flatten())


class Healthy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = features()
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class LoudHead(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return 300 * super().forward(x)


class SoftmaxTwice(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class SigmoidHead(Healthy):
    """Its scores lie between 0 and 1: no loss is below ln(1 + 9/e) = 1.46."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


class MeanColour(nn.Module):
    """Sees three means of an image, which are alike for grey ones: no line tells ten classes apart by them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class AllZero(Healthy):
    def __init__(self) -> None:
        super().__init__()
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class Detached(Healthy):
    """Its second branch feels no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.other = features()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x) + self.other(x).detach())


class NeverCalled(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(4, 4)


class BatchSoftmax(Healthy):
    """Weighs features by a softmax over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found * (1 + found.softmax(0)))


class BatchMean(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class WrongView(nn.Module):
    """Means to put channels last, and mixes images instead."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().permute(1, 0, 2, 3).reshape(len(x), -1))


class MakesNan(Healthy):
    """The root of what may be below 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.sqrt()))


class MakesNanBackwards(Healthy):
    """A distance from itself: the root of 0 is 0, and its slope is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found + (found - found).square().sqrt())


class RawTensor(Healthy):
    """Its weights need a gradient, and are in no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = (0.06 * torch.randn(256, 256)).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(self.features(x), self.weight))


class BufferOfWeights(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", (0.06 * torch.randn(256, 256)).requires_grad_())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(self.features(x), self.get_buffer("weight")))


class Scaled(Healthy):
    """Holds the product of a parameter, and the parameter nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(256, 256)) * 0.01

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(self.features(x), self.weight))


class PlainList(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(256, 256), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers[1](self.layers[0](self.features(x))))


class PlainDict(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.layers = {"middle": nn.Sequential(nn.Linear(256, 256))}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers["middle"](self.features(x)))


class Closure(Healthy):
    def __init__(self) -> None:
        super().__init__()
        middle = nn.Linear(256, 256)
        self.middle = lambda x: middle(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.features(x)))


class MadeInForward(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.Linear(256, 256)(self.features(x)))


class Checkpointed(PlainList):
    """Hides its layer from the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.layers[0], self.features(x), use_reentrant=True))


class DropoutInForward(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.Dropout(0.5)(self.features(x)))


class NormInList(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.norms = [nn.BatchNorm1d(256, affine=False)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norms[0](self.features(x)))


class AllInList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [features(), nn.Linear(256, 10)]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x))


class Teacher(Healthy):
    """Not sick: hides a network from which nothing is to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [Healthy()]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            aim = self.teacher[0](x)
        return super().forward(x) + 0 * aim


class FrozenInList(Healthy):
    """Not sick: its layer is not to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(256, 256).requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers[0](self.features(x)))


class Penalised(Healthy):
    """Not sick: its images need a gradient, as for a penalty; what it keeps of a pass is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.features.__dict__["owner"] = [self]

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.features(x.detach().requires_grad_())
        return self.head(self.kept)


class DeadLayer(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Sequential(nn.Linear(256, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)
        nn.init.constant_(self.middle[0].bias, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.features(x)))


class Deep(nn.Module):
    """Thirty convolutions as PyTorch initialises them, and no norm."""

    def __init__(self, depth: int = 30, width: int = 8) -> None:
        super().__init__()
        convs = [nn.Conv2d(3, width, 3, 4, 1), nn.ReLU()]
        for _ in range(depth - 1):
            convs += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*convs, nn.Flatten())
        self.head = nn.Linear(width * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Whole(Healthy):
    """Computes with whole numbers, which are large and have no slope."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x * 10).mul(100).long().float())


class Rounded(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mul(10).round())


class SetAnew(Healthy):
    """Its first weights are the same in every pass, whatever they learn."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.features[0].weight.copy_(torch.linspace(-0.2, 0.2, 216).view(8, 3, 3, 3))
        return super().forward(x)


class Alike(Healthy):
    """All units of a layer begin as one, and nothing tells them apart; the loss falls all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(256, 64)
        self.head = nn.Linear(64, 10)
        nn.init.constant_(self.middle.weight, 0.02)
        nn.init.constant_(self.middle.bias, 0.0)
        nn.init.constant_(self.head.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.features(x)))


class Cut(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Flipped(Healthy):
    """Scores another image than the one that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(0))


class Dropped(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.99)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x)))


class OneUnit(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.head = nn.Linear(256, 1), nn.Linear(1, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.narrow(self.features(x)))


class Squashed(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh() * 0.01


class Sigmoids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        hidden = [part for _ in range(15) for part in (nn.Linear(64, 64), nn.Sigmoid())]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.Sigmoid(), *hidden, nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OwnNoise(Healthy):
    """Draws noise that torch's seed does not reach."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + random.random())


class WithBatchNorm(nn.Module):
    """Not sick: batch norm mixes samples by design, one of them in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        convs = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        more = (nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU())
        self.layers = nn.Sequential(*convs, *more, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Normed(nn.Module):
    """Not sick."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        widths = (3, 16, 32, 32)
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3, 2, 1) for pair in pairwise(widths))
        self.norms = nn.ModuleList(self.norm(width, momentum) for width in widths[1:])
        self.head = nn.Linear(512, 10)

    def norm(self, width: int, momentum: float | None) -> nn.Module:
        return nn.BatchNorm2d(width, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        return self.head(x.flatten(1))


class LoudWhileTrained(Normed):
    """Its first norm takes the difference out while it trains alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(100 * x + 30 if self.training else x)


class OneNorm(Normed):
    """One norm at three depths: its statistics are those of none."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(16)
        self.convs = nn.ModuleList(nn.Conv2d(*pair, 3, 2, 1) for pair in pairwise((3, 16, 16, 16)))
        self.norms, self.head = nn.ModuleList([norm, norm, norm]), nn.Linear(256, 10)


class SlowNorms(Normed):
    def __init__(self) -> None:
        super().__init__(momentum=1e-4)


class OwnNorm(nn.Module):
    """A norm by hand."""

    def __init__(self, width: int, momentum: float | None) -> None:
        super().__init__()
        self.momentum = momentum or 0.0
        self.register_buffer("mean", torch.zeros(width, 1, 1))
        self.register_buffer("variance", torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        if self.training:
            now = x.mean((0, 2, 3), keepdim=True)[0], x.var((0, 2, 3), keepdim=True)[0]
            mean.lerp_(now[0].detach(), self.momentum), variance.lerp_(now[1].detach(), self.momentum)
            mean, variance = now
        return (x - mean) / (variance + 1e-5).sqrt()


class OwnNorms(Normed):
    """Not sick."""

    def norm(self, width: int, momentum: float | None) -> nn.Module:
        return OwnNorm(width, momentum)


class NeverUpdated(OwnNorms):
    def __init__(self) -> None:
        super().__init__(momentum=None)


class DropoutReversed(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.features(x), training=not self.training))


class Dropouts(Normed):
    """Not sick: drops half of it before a norm and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Sequential(
            self.drop, nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), self.drop, nn.Linear(64, 10)
        )


class Probabilities(Normed):
    """Not sick: gives probabilities, or classes, where it is not trained."""

    def __init__(self, classes: bool = False) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        if self.training:
            return scores
        return scores.argmax(1) if self.classes else scores.softmax(1)


class StopsInEvaluation(Healthy):
    """Learns, and cannot be evaluated; or, the other way round, cannot be trained after its first pass."""

    def __init__(self, error_in: bool = False) -> None:
        super().__init__()
        self.error_in = error_in
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.error_in and self.passes > 3:
            raise RuntimeError("only evaluated")
        if not self.error_in and not self.training:
            raise RuntimeError("only trained")
        return super().forward(x)


class LogScores(Healthy):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(super().forward(x), 1)


class Residual(nn.Module):
    """Its branch begins at zero: the last batch norm's gain does."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        self.branch = nn.Sequential(conv[0], nn.BatchNorm2d(width), nn.ReLU(), conv[1], nn.BatchNorm2d(width))
        nn.init.zeros_(self.branch[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)).relu()


def convolved(*parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), *parts, nn.Flatten(), nn.Linear(16 * 64, 10))


class ZeroGains(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(), convolved(nn.BatchNorm2d(16), *(Residual() for _ in range(4)))


class Grouped(Healthy):
    def __init__(self) -> None:
        super().__init__()
        separable = (nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1))
        self.features, self.head = nn.Sequential(), convolved(nn.GroupNorm(4, 16), nn.GELU(), *separable)


class ZeroHead(Healthy):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class Repeated(Healthy):
    """Takes one layer four times."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.middle = nn.LayerNorm(256), nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        for _ in range(4):
            found = found + self.middle(self.norm(found)).relu()
        return self.head(found)


class Gated(Healthy):
    """Each branch is multiplied by a number that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(256, 256) for _ in range(3)])
        self.gains = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        for branch, gain in zip(self.branches, self.gains, strict=True):
            found = found + gain * branch(found).relu()
        return self.head(found)


class Cosine(Healthy):
    """Scores are cosines times a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 10, bias=False)
        self.temperature = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        found, classes = nn.functional.normalize(self.features(x)), nn.functional.normalize(self.head.weight)
        return found @ classes.T * self.temperature.exp()


class Quantised(Healthy):
    """Rounds forwards, and lets gradients pass straight through."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found + (found.mul(8).round() / 8 - found).detach())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(96, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


class Lines(nn.Module):
    """No activation at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.Linear(64, 64), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


WELL = ("ZeroGains", "Grouped", "ZeroHead", "Repeated", "Gated", "Cosine", "Quantised", "Recurrent", "Lines")
WELL += ("Normed", "OwnNorms", "Dropouts", "Probabilities")
WELL += ("Teacher", "FrozenInList", "Penalised")
"""Unusual, and healthy."""

SICK = {
    "LoudHead": "loss at start",
    "SoftmaxTwice": "raw scores",
    "MeanColour": "overfits a batch",
    "AllZero": "all parameters move",
    "Detached": "all parameters move",
    "NeverCalled": "all parameters move",
    "BatchSoftmax": "samples independent",
    "BatchMean": "samples independent",
    "WrongView": "samples independent",
    "MakesNan": "finite",
    "MakesNanBackwards": "finite",
    "RawTensor": "registered",
    "BufferOfWeights": "registered",
    "Scaled": "registered",
    "PlainList": "registered",
    "PlainDict": "registered",
    "Closure": "registered",
    "MadeInForward": "registered",
    "Checkpointed": "registered",
    "DropoutInForward": "registered",
    "NormInList": "registered",
    "DeadLayer": "dead ReLUs",
    "Deep": "depth",
    "OwnNoise": "deterministic",
    "Whole": "all parameters move",
    "Rounded": "all parameters move",
    "SetAnew": "all parameters move",
    "Alike": "all parameters move",
    "Cut": "all parameters move",
    "Flipped": "samples independent",
    "Dropped": "overfits a batch",
    "OneUnit": "overfits a batch",
    "Squashed": "overfits a batch",
    "SigmoidHead": "overfits a batch",
    "Sigmoids": "depth",
    "LoudWhileTrained": "evaluation",
    "OneNorm": "evaluation",
    "SlowNorms": "evaluation",
    "NeverUpdated": "evaluation",
    "DropoutReversed": "evaluation",
    "StopsInEvaluation": "evaluation",
}
"""The check that fails, and no other."""
