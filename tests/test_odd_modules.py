"""Modules and inputs of unusual classes: what is registered counts, whatever a class makes of nn.Module's methods."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import cnnprof
from cnnprof import UsageError, module_tree


class Two(nn.Module):
    """Two linear layers: 32 products an image, 40 parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.b(self.a(x))


class NoNamedModules(Two):
    def named_modules(self, *args, **kwargs):
        return []


class OtherNamedModules(Two):
    def named_modules(self):
        yield "self", self


class NoModules(Two):
    def modules(self):
        return []


class NoChildren(Two):
    def children(self):
        return []

    def named_children(self):
        raise NotImplementedError


class SomeParameters(Two):
    def parameters(self, recurse=True):
        return [self.a.weight]


class NamedParameters(Two):
    def parameters(self):
        return {"a": self.a.weight}

    def named_parameters(self):
        return 3


class OursAreAttributes(Two):
    def __init__(self):
        super().__init__()
        for name in ("modules", "children", "parameters", "buffers", "named_modules", "path", "kind", "root", "clones"):
            self.__dict__[name] = 7


class Unhashable(Two):
    __hash__ = None

    def __eq__(self, other):
        raise ValueError


class NoTruth(Two):
    def __bool__(self):
        raise ValueError

    def __len__(self):
        return 0

    def __iter__(self):
        raise ValueError


class Locked(Two):
    def __init__(self):
        super().__init__()
        self.__dict__["is_locked"] = True

    def __setattr__(self, name, value):
        if self.__dict__.get("is_locked"):
            raise AttributeError(f"{name} is locked")
        super().__setattr__(name, value)


class NoTrain(Two):
    def train(self, mode=True):
        raise RuntimeError("it is not to be trained")


class MovesToNothing(Two):
    def to(self, *args, **kwargs):
        return None


class OddGetattr(Two):
    def __getattr__(self, name):
        if name in ("a", "b"):
            return super().__getattr__(name)
        raise KeyError(name)


class OddProperties(Two):
    @property
    def example_input_array(self):
        raise NotImplementedError("set it")

    @property
    def default_cfg(self):
        raise ValueError("no")


class OddKernel(Two):
    def __init__(self):
        super().__init__()
        self.kernel_size, self.stride, self.groups = 3, 1, torch.ones(2)


ODD = [NoNamedModules, OtherNamedModules, NoModules, NoChildren, SomeParameters, NamedParameters, OursAreAttributes]
ODD += [Unhashable, NoTruth, Locked, NoTrain, MovesToNothing, OddGetattr, OddProperties, OddKernel]


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_what_is_registered_is_counted(kind):
    analysis = cnnprof.analyze(kind(), (4,), 2)
    assert (analysis.macs, analysis.params, len(analysis.layers)) == (2 * 32, 40, 5)
    assert cnnprof.analyze(kind(), (4,), mode="training").totals.weight_gradient_macs == 32


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_what_is_registered_takes_memory(kind):
    found = cnnprof.predict_memory(kind(), (4,), 2).predicted
    assert found.at_peak["parameters"] == 4 * 40
    of_attributes = 2 * 4 if kind is OddKernel else 0  # two numbers that no module registers
    assert found.peak_bytes == cnnprof.predict_memory(Two(), (4,), 2).predicted.peak_bytes + of_attributes


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (SomeParameters, Locked, NoTrain, MovesToNothing)]


@pytest.mark.parametrize("kind", [OursAreAttributes, *SLOW], ids=lambda kind: kind.__name__)
def test_what_is_registered_is_measured(kind):
    found = cnnprof.predict_memory(kind(), (4,), 2, measure=True)
    assert found.predicted.peak_bytes == found.measured.peak_bytes
    (profile,) = cnnprof.profile(kind(), (4,), 2, time_s=0.1).profiles
    assert profile.latency.inference.median_s > 0
    assert profile.latency.training.median_s > 0


def test_a_tree_is_walked_as_torch_walks_it():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Sequential(nn.BatchNorm1d(4), shared), nn.BatchNorm1d(4))
    net[2].weight, net.gone = net[1][0].weight, None
    net.register_module("empty", None)
    assert list(module_tree.named_modules(net)) == list(net.named_modules())
    assert list(map(id, module_tree.parameters(net))) == list(map(id, net.parameters()))
    assert list(map(id, module_tree.buffers(net))) == list(map(id, net.buffers()))


@pytest.mark.parametrize("size", [None, 4, "4", (), (0, 4), (None,)])
def test_a_size_that_is_none_is_not_taken(size):
    net = Two()
    net.default_cfg = {"input_size": size}
    assert cnnprof.analyze(net, (4,)).macs == 32
    with pytest.raises(UsageError, match="Two does not say what it is fed; give an input size"):
        cnnprof.analyze(net)
    net.default_cfg = {"input_size": (4,)}
    assert cnnprof.analyze(net).macs == 32


def test_an_example_that_raises_is_none():
    with pytest.raises(UsageError, match="OddProperties does not say what it is fed"):
        cnnprof.analyze(OddProperties())


# Inputs --------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 8)

    def forward(self, sequences):
        return self.cell(sequences)[0].data


@pytest.mark.parametrize("given", [lambda packed: (packed,), lambda packed: packed], ids=["in a tuple", "alone"])
def test_packed_sequences(given):
    packed = pack_sequence([torch.rand(2, 4), torch.rand(3, 4)], enforce_sorted=False)
    analysis = cnnprof.analyze(Recurrent(), inputs=given(packed))
    assert analysis.macs == 5 * (32 * 4 + 32 * 8)  # five steps in all, of four gates from the input and the state
    assert cnnprof.analyze(Recurrent(), inputs=given(packed), mode="training").totals.weight_gradient_macs == 1_920
    found = cnnprof.predict_memory(Recurrent(), inputs=given(packed), measure=True)
    assert found.predicted.peak_bytes == found.measured.peak_bytes


class KeepsPacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.kept = nn.LSTM(4, 8), pack_sequence([torch.rand(3, 4), torch.rand(2, 4)])

    def forward(self, x):
        return self.cell(self.kept)[0].data.sum() + x


def test_packed_sequences_that_a_module_keeps():
    assert cnnprof.analyze(KeepsPacked(), (4,)).macs == 1_920


def jagged():
    with warnings.catch_warnings(action="ignore"):
        return torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(5, 4)], layout=torch.jagged)


def test_jagged_tensors():
    analysis = cnnprof.analyze(Two(), inputs=(jagged(),))
    assert (analysis.macs, analysis.uncounted) == (8 * 32, ())  # eight rows in all
    assert analysis.layers[1].input_shape == (8, 4)
    assert cnnprof.analyze(Two(), inputs=(jagged(),), mode="training").totals.weight_gradient_macs == 8 * 32
    memory = cnnprof.predict_memory(Two(), inputs=(jagged(),), mode="inference", measure=True)
    assert memory.predicted.peak_bytes == pytest.approx(memory.measured.peak_bytes, abs=16)
    (profile,) = cnnprof.profile(Two(), inputs=(jagged(),), time_s=0.1, modes=("inference",)).profiles
    assert profile.latency.inference.median_s > 0


def test_nested_tensors_of_the_old_layout_are_refused_in_one_line():
    with warnings.catch_warnings(action="ignore"):
        values = torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(5, 4)])
    with pytest.raises(UsageError, match=r"^Two: layer 'a' \(Linear\) refused its input 32: .*doesn't support sizes"):
        cnnprof.analyze(Two(), inputs=(values,))
    with pytest.raises(UsageError, match="Two: "):
        cnnprof.predict_memory(Two(), inputs=(values,))


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: torch.Tensor


class TakesFrozen(Two):
    def forward(self, batch):
        return super().forward(batch.x)


def test_frozen_dataclasses_with_slots():
    assert cnnprof.analyze(TakesFrozen(), inputs=(Frozen(torch.rand(2, 4)),)).macs == 64
