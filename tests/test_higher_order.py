"""Higher-order operators are counted by the functions that they take, and attention by the scores of its blocks."""

import pytest
import torch
from hard_networks import Net
from torch import nn
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch._higher_order_ops.map import map as torch_map
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import cnnprof
from cnnprof import UsageError


def causal(batch, head, query, key):
    return query >= key


def windowed(batch, head, query, key):
    return (query - key).abs() <= 16


def masked(length, mask=causal, batch=None, heads=None):
    return create_block_mask(mask, batch, heads, length, length, device="cpu")


def attends(**options):
    return Net(lambda net, x: flex_attention(x, x, x, **options))


class KeepsMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask = masked(256)

    def forward(self, x):
        return flex_attention(x, x, x, block_mask=self.mask)


def projected(net, x):
    """Makes queries, keys and values of two heads, and the mask in the pass itself."""
    query, key, value = net.layer(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
    mask = create_block_mask(causal, None, None, x.shape[1], x.shape[1], device=x.device)
    return flex_attention(query, key, value, block_mask=mask)


ALIBI = torch.rand(2)
# Two heads of 256 positions: 2·256² scores, of 8 + 8 products each. A causal mask leaves 3 of 4 blocks of 128².
# 200 positions: 128² and 72² on the diagonal, 72·128 below it.
DENSE = 2 * 256**2


@pytest.mark.parametrize(
    ("net", "length", "scores", "said"),
    [
        (attends(), 256, DENSE, "as dense attention"),
        (attends(score_mod=lambda score, b, h, q, k: score + ALIBI[h] * (k - q)), 256, DENSE, "as dense attention"),
        (attends(block_mask=masked(256)), 256, DENSE * 3 // 4, "98,304 of 131,072 scores"),
        (attends(block_mask=masked(256, causal, 1, 2)), 256, DENSE * 3 // 4, "98,304 of 131,072 scores"),
        (attends(block_mask=masked(512, windowed)), 512, 2 * 10 * 128**2, "327,680 of 524,288 scores"),
        (attends(block_mask=masked(200)), 200, 2 * (128**2 + 72**2 + 72 * 128), "61,568 of 80,000 scores"),
        (KeepsMask(), 256, DENSE * 3 // 4, "98,304 of 131,072 scores"),
        (torch.compile(attends(block_mask=masked(256))), 256, DENSE * 3 // 4, "98,304 of 131,072 scores"),
    ],
    ids=["dense", "scored", "causal", "by head", "windowed", "odd", "kept", "compiled"],
)
def test_flexible_attention(net, length, scores, said):
    analysis = cnnprof.analyze(net, inputs=(torch.rand(1, 2, length, 8),))
    assert (analysis.macs, analysis.uncounted) == (scores * 16, ())
    (doubt,) = analysis.doubts
    assert said in doubt.message


def test_flexible_attention_of_fewer_heads():
    net = Net(lambda net, q, k: flex_attention(q, k, k, enable_gqa=True))
    assert cnnprof.analyze(net, inputs=(torch.rand(1, 4, 64, 8), torch.rand(1, 2, 64, 8))).macs == 4 * 64**2 * 16


def test_the_backward_pass_of_flexible_attention():
    net = Net(projected, layer=nn.Linear(16, 48))
    analysis = cnnprof.analyze(net, inputs=(torch.rand(1, 256, 16),), mode="training")
    attention, layer = DENSE * 3 // 4 * 16, 256 * 16 * 48
    assert analysis.macs == attention + layer + attention * 5 // 2 + layer  # the layer's input has no gradient
    assert analysis.totals.weight_gradient_macs == layer


def branches(net, x):
    return torch.cond(x.sum() > 0, net.small, net.large, (x,))


def counted_turns(net, x):
    return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, net.small(x)), (torch.tensor(0), x))[1]


def unknown_turns(net, x):
    return while_loop(lambda x: x.sum() < 1e9, lambda x: (net.small(x) + 1e9,), (x,))[0]


def endless_turns(net, x):
    return while_loop(lambda i, x: i > -1, lambda i, x: (i + 1, net.small(x)), (torch.tensor(0), x))[1]


def recurrent(net, x):
    def step(state, row):
        state = torch.tanh(net.small(state) + row)
        return state, state.clone()

    return scan(step, x, x[None].expand(5, 5, 8), dim=0)[1]


def nested(net, x):
    return torch.cond(x.sum() > 0, lambda x: branches(net, x), net.small, (x,))


def products(net, x):
    square = x[:4, :4].expand(4, 4, 4)
    return associative_scan(torch.matmul, square, 0, combine_mode="generic")


# On 5x8: the small layer has 5·8·8 products, the large ones 5·8·32 each.
SMALL, LARGE = 320, 2_560
ONE_TURN = "while_loop is counted by one turn: how often it turns depends on values"
LARGER = "torch.cond is counted by its larger branch, whichever is taken"
CASES = [
    (branches, LARGE, (LARGER,)),
    (nested, LARGE, (LARGER,)),
    (counted_turns, 3 * SMALL, ()),
    (unknown_turns, SMALL, (ONE_TURN,)),
    (endless_turns, 1_000 * SMALL, ("while_loop is counted by 1,000 turns: it did not end before",)),
    (recurrent, 5 * SMALL, ()),
    (products, 4 * 64, ()),  # of four matrices in a tree: two pairs, then two more for what lies between
    (lambda net, x: torch_map(net.small, x), SMALL, ()),
]
NAMES = ["cond", "nested", "counted", "unknown", "endless", "scan", "associative", "map"]


def network(way):
    return Net(way, small=nn.Linear(8, 8), large=nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8)))


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize(("way", "macs", "doubts"), CASES, ids=NAMES)
def test_functions_are_counted_where_they_run(way, macs, doubts, compiled):
    net = torch.compile(network(way)) if compiled else network(way)
    analysis = cnnprof.analyze(net, inputs=(torch.rand(5, 8),))
    assert (analysis.macs, analysis.uncounted) == (macs, ())
    assert tuple(doubt.message for doubt in analysis.doubts) == doubts


def test_modules_in_a_branch_have_their_own_rows():
    analysis = cnnprof.analyze(network(branches), inputs=(torch.rand(5, 8),))
    assert {layer.path: (layer.calls, layer.macs) for layer in analysis.layers if layer.macs} == {
        "large.0": (1, 1_280),
        "large.1": (1, 1_280),
    }
    assert analysis.uncalled == ()  # the smaller branch is reached where the condition is false


@pytest.mark.parametrize(
    ("way", "backward"),
    [
        (branches, LARGE + 1_280),  # all weights, and the input of the second layer
        (counted_turns, 3 * SMALL + 2 * SMALL),  # the input of the second and third turn
        (recurrent, 5 * SMALL + 4 * SMALL),
    ],
    ids=["cond", "while_loop", "scan"],
)
def test_the_backward_pass_goes_through_the_functions(way, backward):
    forward = cnnprof.analyze(network(way), inputs=(torch.rand(5, 8),)).macs
    assert cnnprof.analyze(network(way), inputs=(torch.rand(5, 8),), mode="training").macs == forward + backward


@pytest.mark.parametrize("way", [branches, unknown_turns, recurrent], ids=["cond", "while_loop", "scan"])
def test_the_memory_of_functions_is_predicted_and_doubted(way):
    found = cnnprof.predict_memory(network(way), inputs=(torch.rand(5, 8),), mode="inference")
    assert found.predicted.peak_bytes > 4 * 8 * 9
    (doubt,) = found.doubts
    name = {branches: "cond", unknown_turns: "while_loop", recurrent: "scan"}[way]
    assert doubt.message == f"the memory of {name} beyond what can be followed is not known"


def test_training_memory_is_measured_where_the_backward_pass_is_made_at_run_time():
    found = cnnprof.predict_memory(network(branches), inputs=(torch.rand(5, 8),))
    (doubt,) = found.doubts
    assert found.measured.peak_bytes > 0
    assert "torch's higher-order operator cond cannot be followed" in doubt.message


@pytest.mark.parametrize("net", [network(branches), attends(block_mask=masked(256))], ids=["cond", "flex"])
def test_functions_are_timed(net):
    image = torch.rand(5, 8) if hasattr(net, "small") else torch.rand(1, 2, 256, 8)
    (profile,) = cnnprof.profile(net, inputs=(image,), time_s=0.1, modes=("inference",)).profiles
    assert profile.latency.inference.median_s > 0


def test_what_has_no_rule_is_refused_without_addresses():
    from torch._higher_order_ops.invoke_subgraph import invoke_subgraph

    def run(net, x):
        return invoke_subgraph(net.small, "small", x)

    with pytest.raises(UsageError, match=r"torch's higher-order operator invoke_subgraph cannot be followed$"):
        cnnprof.analyze(network(run), inputs=(torch.rand(5, 8),))
    assert _get_current_dispatch_mode_stack() == []
