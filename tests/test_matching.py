"""Fair pairs: the value that brings a count nearest, by brute force and by closed forms, and what cannot be matched."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cnnprof
from cnnprof import UsageError, matching
from cnnprof.models import catalog

# By brute force ------------------------------------------------------------------------------------------------------


def nearest(wanted, counts):
    """The value whose count is nearest; of equally near ones the smallest."""
    return min(counts, key=lambda value: (abs(counts[value] - wanted), value))


def every_count(template, by, values):
    counts = {}
    for value in values:
        try:
            counts[value] = getattr(cnnprof.analyze(template.format(value)), by)
        except UsageError:
            continue
    return counts


def holds_by_brute_force(baseline, candidate, template, by, argument, most):
    counts = every_count(template, by, range(1, most + 1))
    wanted = getattr(cnnprof.analyze(baseline), by)
    match = cnnprof.matched(baseline, candidate, by, argument)
    best = nearest(wanted, counts)
    assert (match.value, match.count, match.wanted) == (best, counts[best], wanted)
    assert match.model == template.format(best)
    return match


@pytest.mark.parametrize(
    ("baseline", "candidate", "template", "by", "argument", "most"),
    [
        ("regular(channels=24)", "bottleneck", "bottleneck(channels={})", "params", "channels", 120),
        ("regular(channels=24)", "bottleneck", "bottleneck(channels={})", "macs", "channels", 120),
        ("bottleneck(channels=200)", "a=regular", "a=regular(channels={})", "params", "channels", 80),
        ("regular(channels=40)", "bottleneck", "bottleneck(reduction={})", "params", "reduction", 256),
        ("bottleneck(reduction=7)", "bottleneck@bf16", "bottleneck(reduction={})@bf16", "macs", "reduction", 256),
        ("regular(channels=99)", "bottleneck", "bottleneck(kernel_size={})", "macs", "kernel_size", 31),
        ("regular(channels=20)", "regular(channels=8)", "regular(channels=8, depth={})", "params", "depth", 40),
        ("regular", "bottleneck(reduction=8)", "bottleneck(reduction={})", "params", "reduction", 256),
        ("resnet", "cnn", "cnn(pool_every={})", "params", "pool_every", 40),
        ("cnn(channels=[24])", "cnn", "cnn(out_classes={})", "params", "out_classes", 100),
    ],
)
def test_it_is_the_nearest_of_all(baseline, candidate, template, by, argument, most):
    holds_by_brute_force(baseline, candidate, template, by, argument, most)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["params", "macs"])
@pytest.mark.parametrize(
    ("baseline", "name", "argument", "most"),
    [("wide_resnet50_2", "resnet50", "width_per_group", 140), ("wide_resnet50_2", "resnet50", "groups", 12)],
)
def test_it_is_the_nearest_of_torchvisions(baseline, name, by, argument, most):
    match = holds_by_brute_force(baseline, name, f"{name}({argument}={{}})", by, argument, most)
    if argument == "width_per_group":
        assert (match.value, match.ratio) == (128, 1)  # what a wide ResNet-50 is


def regular_params(channels):
    return 2 * (9 * channels**2 + channels)


def bottleneck_params(channels):
    inner = channels // 4
    return (channels * inner + inner) + (9 * inner**2 + inner) + (inner * channels + channels)


@pytest.mark.parametrize("channels", [1, 2, 5, 64, 100, 256])
def test_a_bottleneck_as_large_as_a_regular_block(channels):
    match = cnnprof.matched(f"regular(channels={channels})", "bottleneck")
    assert match.wanted == regular_params(channels)
    assert match.value == nearest(match.wanted, {each: bottleneck_params(each) for each in range(4, 1200)})
    assert match.count == bottleneck_params(match.value)


FAMILIES = {
    "whole division": lambda value: bottleneck_params(value) if value >= 4 else None,
    "multiples of 8": lambda value: 9 * value**2 if value % 8 == 0 else None,
    "multiples of 3": lambda value: value**2 if value % 3 == 0 else None,
    "falling": lambda value: 512 * (300 // value) + 9 * (300 // value) ** 2 if value <= 300 else None,
    "wide steps": lambda value: 9 * max(80, (value + 40) // 80 * 80) ** 2,
    "steps that lead back": lambda value: value**2 + 5 * (value % 4),
    "odd": lambda value: 1000 * value**2 if value % 2 else None,
}

COUNTS = {
    name: {value: number for value in range(1, 3000) if (number := counted(value)) is not None}
    for name, counted in FAMILIES.items()
}


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=50)
@given(wanted=st.one_of(st.integers(1, 5000), st.integers(1, 3_000_000)))
def test_steps_and_refusals_lose_nothing(name, wanted):
    class Family:
        counted = staticmethod(lambda: FAMILIES[name])

    assert matching._nearest(Family, wanted) == nearest(wanted, COUNTS[name])


def test_what_is_varied_unless_it_is_said():
    assert cnnprof.matched("regular(channels=16)", "bottleneck").argument == "channels"
    first = "torch.nn:Linear(in_features=4, out_features=2)"  # any value of the first breaks nothing in a count alone
    assert cnnprof.matched(nn.Linear(4, 8), first, input_size=(4,)).argument == "in_features"
    with pytest.raises(UsageError, match="no whole number among its arguments changes its parameters"):
        cnnprof.matched("regular", "resnet18")  # basic blocks take no groups


def test_the_input_follows_the_channels_and_keeps_its_side():
    match = cnnprof.matched("regular(channels=16)", "bottleneck", "macs", input_size=14)
    assert match.wanted == 2 * 9 * 16**2 * 14**2
    inner = match.value // 4
    assert match.count == (2 * match.value * inner + 9 * inner**2) * 14**2
    with pytest.raises(UsageError, match="refused its input 1x16x14x14"):  # what is given in full holds
        cnnprof.matched("bottleneck(channels=32)", "regular", "macs", input_size=(16, 14, 14))


def test_a_callable_of_a_file_that_refuses_most_values(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(width):\n"
        "    if width % 5:\n        raise ValueError('no multiple of 5')\n"
        "    return plain(width)\n"
        "def plain(width=23):\n"
        "    return nn.Linear(width, 7, bias=False), torch.randn(3, width)\n"
    )
    for by, batch in (("params", 1), ("macs", 3)):  # MACs are those of a call on three vectors
        match = cnnprof.matched(f"{tmp_path}/net.py:plain", f"{tmp_path}/net.py:build(width=5)", by, "width")
        assert (match.value, match.count, match.wanted) == (25, 7 * 25 * batch, 7 * 23 * batch)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("regular", "bottleneck", "flops"), "match 'flops': params or macs was expected"),
        (("regular", "bottleneck", "params", "reductoin"), "takes no argument 'reductoin'.*nearest: reduction"),
        (("regular", "cnn", "params", "batchnrm"), "takes no argument 'batchnrm'.*; it takes .*pool_every"),
        (("regular", "cnn", "params", "channels"), r"cnn\(channels=1\): .*not iterable"),
        (
            ("regular", "bottleneck", "params", "skip"),
            "skip does not change its parameters: .* 70,016 of the 1,180,160",
        ),
        (("regular", nn.ReLU()), "ReLU is no MODEL string"),
        ((nn.ReLU(), "regular", "params", None, 4), "the baseline has no parameters"),
    ],
)
def test_what_cannot_be_matched_is_said_in_one_line(arguments, said):
    with pytest.raises(UsageError, match=said) as caught:
        cnnprof.matched(*arguments)
    assert "\n" not in str(caught.value)


# A known pair --------------------------------------------------------------------------------------------------------


def test_the_pair_of_he_2016_has_the_weights_of_its_figure():
    blocks = [catalog.resolve(text) for text in catalog.preset("he2016")]
    weights = [sum(each.numel() for each in block.module.parameters() if each.ndim > 1) for block in blocks]
    assert weights == [73_728, 69_632]  # 2·3·3·64·64, and 256·64 + 3·3·64·64 + 64·256
    assert [block.input_size for block in blocks] == [(64, 56, 56), (256, 56, 56)]


# Where it is seen ----------------------------------------------------------------------------------------------------

QUICK = ["-b", "1", "--mode", "inference", "--time", "0.2"]


def test_compare_says_what_was_matched_and_how_near(typed):
    outputs = ["-o", "x.json", "-o", "x.md", "-o", "x.html"]
    options = ["--match", "params", "--input-size", "4", *QUICK, *outputs]
    code, out, err = typed("compare", "regular(channels=16)", "bottleneck", *options)
    assert (code, err) == (0, "")
    matched = json.loads(Path("x.json").read_text())["profiles"][1]["matched"]
    wanted = regular_params(16)
    value = nearest(wanted, {each: bottleneck_params(each) for each in range(4, 200)})
    count = bottleneck_params(value)
    assert matched == {
        "model": f"bottleneck(channels={value})", "by": "params", "argument": "channels", "value": value,
        "count": count, "wanted": wanted, "ratio": count / wanted,
    }  # fmt: skip
    said = f"channels={value} comes nearest, with {count:,} parameters"
    for text in (" ".join(out.split()), Path("x.md").read_text(), Path("x.html").read_text()):
        assert said in text
    assert "input sizes" not in " ".join(out.split())  # of one side, as meant


def test_a_match_that_is_none_is_doubted(typed):
    options = ["--match", "params", "--vary", "reduction", "--input-size", "4", *QUICK, "--no-report", "--json"]
    code, out, _ = typed("compare", "regular(channels=16)", "bottleneck(channels=16)", *options)
    document = json.loads(out)
    assert code == 0
    assert document["profiles"][1]["name"] == "bottleneck(channels=16, reduction=1)"
    count = (16 * 16 + 16) * 2 + 9 * 16 * 16 + 16
    share = f"{100 * (1 - count / regular_params(16)):.0f} % fewer than the {regular_params(16):,} to match"
    assert any(share in doubt["message"] and "--vary" in doubt["hint"] for doubt in document["doubts"])


def test_a_preset_stands_for_its_models(typed):
    options = ["--input-size", "4", *QUICK, "--no-report", "--json"]
    code, out, _ = typed("compare", "--preset", "he2016", *options)
    document = json.loads(out)
    assert code == 0
    assert [profile["analysis"]["totals"]["params"] for profile in document["profiles"]] == [73_728 + 128, 69_632 + 384]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["regular", "--match", "params"], "two models or more"),
        (["regular", "bottleneck", "--match", "flops"], "'flops' is not one of 'params', 'macs'"),
        (["regular", "bottleneck", "--vary", "channels"], "--match params or --match macs"),
        (["regular", "bottleneck", "--match", "params", "--vary", "chanels"], "nearest: channels"),
        (["regular", "bottleneck", "--over", "chanels=4,8"], "regular takes no argument 'chanels'"),
        (["cnn", "resnet", "--over", "batchsize=1,8"], "nearest: batch-size"),
        (["--preset", "he2015"], "no preset 'he2015'; known: he2016"),
        (["regular", "--preset", "he2016"], "brings its own models"),
        ([], "given none"),
        (["cnn", "cnn", "cnn", "--over", "b=1,2,3,4,5,6,7"], "asked for 21 models"),
        (["cnn"] * 21, "asked for 21 models"),
        (
            ["regular", "bottleneck", "--over", "channels=4,8,12,16,20,24,28", "--over", "b=1,2,3"],
            "asked for 42 models",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(typed, arguments, said):
    code, _, err = typed("compare", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not Path("reports").exists()


def test_a_value_takes_the_place_of_one_that_was_given():
    assert catalog.with_argument("a=regular(8, depth=3)@bf16", "depth", 5) == "a=regular(8, depth=5)@bf16"
    assert catalog.varied("regular(channels=8)", {"channels": ["4"]}) == ["regular(channels=4)"]
    assert catalog.resolve("cnn(pool_every=2)").arguments["pool_every"] == 2
    assert catalog.resolve("resnet50(groups=2, width_per_group=32)").arguments["width_per_group"] == 32
    assert catalog.resolve("resnet50").arguments["width_per_group"] == 64  # of the class that it is passed on to


def test_a_side_keeps_the_channels():
    assert cnnprof.profiling.subject_of(None, "regular(channels=8)@input-size=7", None, 1, None).input_size == (8, 7, 7)


def test_what_the_input_size_decides_is_not_varied():
    """A bottleneck of 64 channels, reduced by r to w = 64 // r, has 130 w + 9 w**2 + 64 parameters, biases included."""
    found = cnnprof.matched("regular", "bottleneck", "params", input_size=(64, 14, 14))
    wanted = 2 * (9 * 64 * 64 + 64)
    counts = {r: (w := 64 // r) * 130 + 9 * w * w + 64 for r in range(1, 65)}
    assert (found.argument, found.wanted) == ("reduction", wanted)
    assert found.count == min(counts.values(), key=lambda count: abs(count - wanted))
