"""Networks that differentiate inside forward are counted, measured and predicted in inference."""

import pytest
import torch
from hard_networks import Net
from torch import nn

import cnnprof


def energy(net, x):
    return net.b(torch.tanh(net.a(x))).sum()


def force_field(net, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(energy(net, x), x)[0]


def physics_informed(net, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(energy(net, x), x, create_graph=True)[0]


def backward(net, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        torch.autograd.backward(energy(net, x), inputs=[x])
        return x.grad


def leaves_inference_mode(net, x):
    moved = x * 2
    with torch.inference_mode(False), torch.enable_grad():
        moved = moved.requires_grad_()
        return torch.autograd.grad(energy(net, moved), moved)[0]


def jacobian(net, x):
    return torch.autograd.functional.jacobian(lambda moved: energy(net, moved), x)


def vector_product(net, x):
    output, pull_back = torch.func.vjp(lambda moved: energy(net, moved), x)
    return pull_back(torch.ones_like(output))[0]


def value_dependent(net, x):
    return force_field(net, x) if x.sum().item() < 1e9 else x


def gradient(net, x):
    return torch.func.grad(lambda moved: energy(net, moved))(x)


WAYS = [force_field, physics_informed, backward, leaves_inference_mode, jacobian, vector_product, gradient]


def network(way):
    return Net(way, a=nn.Linear(8, 8), b=nn.Linear(8, 1))


# On 2x8: 2·8·8 and 2·8·1 forward, then the gradient to b's input, 2·1·8, and to a's, 2·8·8.
FORWARD, BY_HAND = {"a": 128, "b": 16}, 288


@pytest.mark.parametrize("way", [*WAYS, value_dependent], ids=lambda way: way.__name__)
def test_what_differentiates_inside_forward_is_counted(way):
    analysis = cnnprof.analyze(network(way), (8,), 2)
    assert (analysis.macs, analysis.uncounted) == (BY_HAND, ())
    assert {layer.path: layer.macs for layer in analysis.layers} == {"": BY_HAND - 144, **FORWARD}


SLOW = [pytest.param(way, marks=pytest.mark.slow) for way in WAYS[2:]]


@pytest.mark.parametrize("way", [*WAYS[:2], *SLOW], ids=lambda way: way.__name__)
def test_the_memory_of_what_differentiates_inside_forward_is_what_it_takes(way):
    found = cnnprof.predict_memory(network(way), (8,), 2, mode="inference", measure=True)
    assert found.predicted.peak_bytes == found.measured.peak_bytes
    assert found.doubts == ()


def test_an_adapted_weight_is_counted():
    def adapted(net, x):  # one step of MAML: the loss, the gradient of the weight, the pass with the new weight
        with torch.enable_grad():
            gradient = torch.autograd.grad(net.a(x).sum(), net.a.weight)[0]
            return nn.functional.linear(x, net.a.weight - 0.1 * gradient, net.a.bias)

    assert cnnprof.analyze(Net(adapted, a=nn.Linear(8, 8)), (8,), 2).macs == 3 * 2 * 8 * 8


def test_what_differentiates_inside_forward_is_timed():
    nets = {"field": network(force_field), "informed": network(physics_informed), "jacobian": network(jacobian)}
    compared = cnnprof.compare(nets, (8,), 2, time_s=0.3, modes=("inference",))
    for profile in compared.profiles:
        assert profile.analysis.macs == BY_HAND / 2  # an image
        assert profile.latency.inference.median_s > 0
        assert profile.memory.inference.peak_bytes == profile.memory.inference.before_bytes + AT_PEAK[profile.name]


AT_PEAK = {"field": 200, "informed": 328, "jacobian": 200}
"""As the allocator has it, see above."""


def test_a_refused_input_of_what_differentiates_is_told_in_its_own_words():
    with pytest.raises(cnnprof.UsageError, match=r"layer 'a' \(Linear\) refused its input 2x7: mat1 and mat2"):
        cnnprof.analyze(network(physics_informed), (7,), 2)
    with pytest.raises(cnnprof.UsageError, match=r"layer 'a' refused its input: .*\[?2"):
        cnnprof.predict_memory(network(physics_informed), (7,), 2, mode="inference")


SEEN = []


def test_a_pass_in_inference_mode_stays_in_it():
    net = Net(lambda n, x: SEEN.append(torch.is_inference_mode_enabled()) or n.a(x), a=nn.Linear(8, 8))
    cnnprof.analyze(net, (8,))
    cnnprof.predict_memory(net, (8,), mode="inference")
    assert SEEN == [True, True]
