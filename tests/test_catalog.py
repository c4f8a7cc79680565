"""MODEL strings: what they name, how they are taken apart, what is said where they are wrong."""

import json
import os
import py_compile
import re
import time

import pytest
import torch
from torch import nn

import cnnprof
from cnnprof import UsageError
from cnnprof.models import catalog, zoo
from cnnprof.records import Own
from cnnprof.subjects import subject_of


def test_the_listing_is_what_the_builders_make():
    assert [entry.name for entry in zoo.CATALOG] == list(catalog.CATALOG)
    for entry in zoo.CATALOG:
        analysis = cnnprof.analyze(entry.name)
        assert (analysis.params, analysis.input_size) == (entry.params, entry.input_size)
        assert round(analysis.macs / 1e9, 3) == entry.gmacs


@pytest.mark.parametrize(
    ("text", "label", "name", "args", "kwargs"),
    [
        ("regular", None, "regular", (), {}),
        ("slim=bottleneck(channels=512, reduction=8)", "slim", "bottleneck", (), {"channels": 512, "reduction": 8}),
        ("torchvision:resnet50", None, "torchvision:resnet50", (), {}),
        ("dir/net.py:build(3, 'x')", None, "dir/net.py:build", (3, "x"), {}),
        ("my net=pkg.mod:Net([1, 2], on=True)", "my net", "pkg.mod:Net", ([1, 2],), {"on": True}),
        ("resnet-bottleneck()", None, "resnet-bottleneck", (), {}),
        ("a=f.py:b(x='(=)')", "a", "f.py:b", (), {"x": "(=)"}),
        ("cnn(channels=[32]*4)", None, "cnn", (), {"channels": [32, 32, 32, 32]}),
        ("cnn(channels=[32, 64]*3)", None, "cnn", (), {"channels": [32, 64, 32, 64, 32, 64]}),
        ("cnn(conv_params=dict(kernel_size=3))", None, "cnn", (), {"conv_params": {"kernel_size": 3}}),
        ("f.py:b(2 * (8, 4), [64] * 2 + [128])", None, "f.py:b", ((8, 4, 8, 4), [64, 64, 128]), {}),
        ("f.py:b(2**5, 7 // 2, 7 % 4, 3 - 5, -3 * 2, -2**2)", None, "f.py:b", (32, 3, 3, -2, -6, -4), {}),
        ("f.py:b(tuple([1, 2]), list((3,)), dict([('a', 1)]))", None, "f.py:b", ((1, 2), [3], {"a": 1}), {}),
        ("f.py:b([dict(k=[0] * (2 + 1))] * 2)", None, "f.py:b", ([{"k": [0, 0, 0]}] * 2,), {}),
        ("f.py:b(-1.5, 1 + 2j, {1, 2}, [0] * -1)", None, "f.py:b", (-1.5, 1 + 2j, {1, 2}, []), {}),
    ],
)
def test_grammar(text, label, name, args, kwargs):
    spec = catalog.parse(text)
    assert (spec.label, spec.name, spec.args, spec.kwargs) == (label, name, args, kwargs)


@pytest.mark.parametrize(
    "argument",
    [
        *("open('x')", "range(3)", "[i for i in (1,)]", "lambda: 0", "x", "list", "().__class__", "dict.fromkeys([1])"),
        *("[1][0]", "f'{1}'", "1 << 3", "1 / 2", "0.1 * 3", "2 ** -1", "True * 3", "'a' * 3", "dict(**{'a': 1})"),
        *("[*[1]]", "1 if 1 else 2", "1 < 2", "not 1", "~1", "list(5)", "max(1, 2)", "[1] * [2]", "[1] + (2,)"),
    ],
)
def test_nothing_else_is_taken_as_an_argument(argument):
    with pytest.raises(UsageError, match="only Python literals, whole-number arithmetic"):
        catalog.parse(f"cnn(channels={argument})")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("9**9**9", "more than 64 bits"),
        ("2**64", "more than 64 bits"),
        ("10**18 * 10**18", "more than 64 bits"),
        ("[0] * 10**9", "more than 10,000"),
        ("[[[0] * 1000] * 1000] * 1000", "more than 10,000"),  # 3,000 places in memory, 10**9 items where it is read
        ("tuple([[0] * 9000] * 1) + tuple([[0] * 9000])", "more than 10,000"),
        ("[[0] * 9000, dict(a=[0] * 9000)]", "more than 10,000"),
        ("1 // 0", "by zero"),
        ("1 % 0", "by zero"),
        ("-" * 5000 + "1", "cannot be read"),
        ("+".join(["[]"] * 5000), "cannot be read"),
    ],
)
def test_no_argument_eats_memory_or_time(argument, said):
    began = time.process_time()
    with pytest.raises(UsageError, match=re.escape(said)):
        catalog.parse(f"cnn(channels={argument})")
    assert time.process_time() - began < 1


def test_repetition_builds_the_same_network_and_can_be_varied():
    written = catalog.resolve(
        "cnn(channels=[8, 4]*2, pool_every=2**1, conv_params=dict(kernel_size=3, padding=1))"
    ).module
    spelt = catalog.resolve(
        "cnn(channels=[8, 4, 8, 4], pool_every=2, conv_params={'kernel_size': 3, 'padding': 1})"
    ).module
    assert str(written) == str(spelt)
    varied = catalog.varied("cnn", {"channels": ["[4]*2", "[8]*2"]})
    assert [catalog.parse(text).kwargs["channels"] for text in varied] == [[4, 4], [8, 8]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no MODEL"),
        ("regular(", "is no MODEL"),
        ("regular)x", "is no MODEL"),
        ("regular(channels=)", "cannot be read"),
        ("regular(channels=2*x)", "only Python literals, whole-number arithmetic, repetition, dict()"),
        ("regular(channels=__import__('os').system('true'))", "only Python literals"),
        ("regular(**{'channels': 1})", "cannot be read"),
        ("regular(channel=3)", "unexpected keyword argument 'channel'; it takes (channels"),
        ("regular(channels=-1)", "-1"),
        ("bottleneck(reduction=0)", "reduction=0"),
        ("bottleneck(reduction=512)", "leaves no channels of 256"),
        ("regular@bf61", "there is no setting 'bf61'; nearest: bf16"),
        ("regular@b=x", "b is 'x'; a whole number of at least 1 was expected"),
        ("regular@dtype=int8", "one of float32, fp32"),
        ("regular@", "there is no setting"),
        ("regular@compile=yes", "on or off was expected"),
        ("regular@b=0", "a whole number of at least 1"),
        ("resnet5O", "nearest: resnet50"),
        ("reguler", "nearest: regular"),
        ("torchvision:resnet51", "torchvision has no model 'resnet51'; nearest: resnet"),
        ("timm:resnet50q", "nearest: resnet50"),
        ("nowhere.py:Net", "there is no file nowhere.py"),
        ("no.such.module:Net", "importing no.such.module raised ModuleNotFoundError"),
        ("torch.nn:Convv2d", "has no 'Convv2d'; nearest: Conv2d"),
        ("torch:pi", "'pi' is float"),
        ("torch:empty(3)", "it returned Tensor; an nn.Module or (module, inputs) was expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, said):
    with pytest.raises(UsageError) as caught:
        catalog.resolve(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file(tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nfrom helper import WIDTH\n"
        "class Two(nn.Module):\n"
        "    def __init__(self, out=2):\n        super().__init__()\n        self.linear = nn.Linear(WIDTH, out)\n"
        "    def forward(self, x, y):\n        return self.linear(x * y)\n"
        "def build(out=2):\n    return Two(out), (torch.randn(4, WIDTH), torch.randn(4, WIDTH))\n"
        "def breaks():\n    raise KeyError('why')\n"
        "ready = nn.Linear(3, 3)\n"
    )
    found = catalog.resolve(f"{tmp_path / 'net.py'}:build(out=5)")
    assert isinstance(found.build(), nn.Module)
    assert found.build() is not found.build()
    assert len(found.inputs) == 2
    assert cnnprof.analyze(f"{tmp_path / 'net.py'}:build(out=5)").macs == 4 * 6 * 5
    with pytest.raises(UsageError, match="building it raised KeyError: 'why'"):
        catalog.resolve(f"{tmp_path / 'net.py'}:breaks")
    with pytest.raises(UsageError, match="does not say what it is fed; give an input size, such as 3x224x224"):
        cnnprof.analyze(f"{tmp_path / 'net.py'}:ready")
    monkeypatch.chdir(tmp_path)
    assert cnnprof.analyze("net:build").params == 14


def test_a_file_counts_as_it_stands_whatever_was_compiled_in_the_same_second(tmp_path):
    file = tmp_path / "net.py"
    for width in (3, 6):
        file.write_text(f"from torch import nn\ndef build():\n    return nn.Linear({width}, 1, bias=False)\n")
        os.utime(file, (0, 0))
        assert cnnprof.analyze(f"{file}:build", input_size=(width,)).params == width
        py_compile.compile(str(file))


def test_a_file_knows_where_it_lies_and_is_a_package_where_it_starts_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "width.txt").write_text("4")
    (tmp_path / "net.py").write_text(
        "import os\nfrom torch import nn\nWIDTH = int(open(os.path.dirname(__file__) + '/width.txt').read())\n"
        "def build():\n    return nn.Linear(WIDTH, 1, bias=False)\n"
    )
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("from .blocks import build\n")
    (tmp_path / "pkg" / "blocks.py").write_text((tmp_path / "net.py").read_text().replace("'/", "'/../"))
    for model in ("net.py:build", "pkg/__init__.py:build"):
        assert cnnprof.analyze(model, input_size=(4,)).params == 4


def test_a_file_that_raises_on_import(tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(UsageError, match=r"importing .*bad\.py raised ModuleNotFoundError"):
        catalog.resolve(f"{tmp_path / 'bad.py'}:Net")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UsageError, match="raised SystemExit"):
        catalog.resolve(f"{tmp_path / 'leaves.py'}:Net")


def test_each_build_is_new_and_real():
    found = catalog.resolve("cnn")
    first, second = found.build(), found.build()
    assert first is not second
    assert next(first.parameters()).device.type == "cpu"
    assert next(found.module.parameters()).is_meta


def test_regnet_is_built_though_it_cannot_be_on_meta():
    assert cnnprof.analyze("regnet_x_400mf").params == 5_495_976


def test_a_vision_transformer_takes_its_own_size():
    assert cnnprof.analyze("vit_b_16").input_size == (3, 224, 224)


def test_without_torchvision_only_its_names_fail(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)  # what import then raises ImportError for
    with pytest.raises(UsageError, match="torchvision does not import beside torch"):
        catalog.resolve("resnet18")
    assert cnnprof.analyze("regular").params == 1_180_160


def test_timm_names():
    pytest.importorskip("timm")
    found = catalog.resolve("timm:resnet10t")
    assert found.resolved == "timm:resnet10t"
    assert catalog.resolve("resnet10t").resolved == "timm:resnet10t"  # no such name in torchvision
    assert catalog.resolve("resnet18").resolved == "torchvision:resnet18"
    assert found.input_size == (3, 176, 176)


def test_building_leaves_the_global_generator_alone_when_analyzing():
    state = torch.get_rng_state().clone()
    cnnprof.analyze("regnet_x_400mf")
    cnnprof.analyze("resnet18")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("resnet50@bf16", {"dtype": "bfloat16"}),
        ("resnet50@channels-last,compile", {"channels_last": True, "compile": True}),
        ("a=resnet50(num_classes=3)@b=64, threads=1", {"batch_size": 64, "threads": 1}),
        (
            "resnet50@dtype=fp64,amp=off,input-size=3x64x64",
            {"dtype": "float64", "amp": False, "input_size": (3, 64, 64)},
        ),
        ("net.py:build(x='@')", {}),
    ],
)
def test_settings_after_the_name(text, settings):
    assert catalog.parse(text).settings == Own(**settings)


@pytest.mark.parametrize(
    ("text", "over", "texts"),
    [
        ("cnn", {}, ["cnn"]),
        ("cnn", {"batch-size": ["1", "8"]}, ["cnn@batch-size=1", "cnn@batch-size=8"]),
        ("x=cnn(pool_every=2)@bf16", {"b": ["4"]}, ["x, b 4=cnn(pool_every=2)@bf16,b=4"]),
        ("cnn", {"channels": ["[8]", "[16]"]}, ["cnn(channels=[8])", "cnn(channels=[16])"]),
        ("cnn", {"pooling_type": ["max", "'avg'"]}, ["cnn(pooling_type='max')", "cnn(pooling_type='avg')"]),
        ("cnn", {"b": ["1", "2"], "amp": ["on"]}, ["cnn@b=1,amp=on", "cnn@b=2,amp=on"]),
    ],
)
def test_variants(text, over, texts):
    assert catalog.varied(text, over) == texts
    assert [catalog.parse(each).name for each in texts] == ["cnn"] * len(texts)


# --- files where a model is asked for


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "raise SystemExit('it ran')\nfrom torch import nn\nWIDTH = 3\n"
        "class Net(nn.Module):\n    def forward(self, x):\n        return x\n"
        "def make(width=4):\n    return nn.Linear(width, 2)\ndef _part():\n    pass\n"
    )
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "notes.txt").write_text("")
    torch.save(nn.Linear(4, 2).state_dict(), "weights.pth")
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    torch.jit.script(nn.Linear(4, 2)).save("script.pt")


NAMED = "nets.py is a file; name a callable of it, nets.py:Net; it has Net, make"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nets.py", NAMED),
        ("mine=nets.py(width=3)@b=2", f"mine=nets.py(width=3)@b=2: {NAMED}"),
        ("nets", f"nets: {NAMED}"),
        ("./nets.py", "./nets.py is a file; name a callable of it, ./nets.py:Net; it has Net, make"),
        ("empty.py", "name a callable of it, empty.py:callable; it has no class and no function"),
        ("broken.py", "it has no class and no function"),
        ("gone.py", "there is no file gone.py"),
        ("weights.pth", "weights.pth holds saved values, no code: name what makes their network, file.py:callable"),
        ("weights.safetensors", "holds saved values, no code: name what makes their network, file.py:callable"),
        ("net.onnx", "is an ONNX graph, which torch does not run"),
        ("gone.pth", "gone.pth is not there"),
        ("script.pt", "is a TorchScript archive: \"torch.jit:load('script.pt')\" loads it"),
        ("runs", "runs is a folder; a model is a name, or file.py:callable"),
        ("notes.txt", "notes.txt is a file; a model is a name, or file.py:callable"),
    ],
)
def test_a_file_given_as_a_model_is_told_what_to_name(text, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        catalog.resolve(text)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("files")
def test_a_torchscript_archive_loads_as_it_is_told():
    assert cnnprof.analyze("torch.jit:load('script.pt')", (4,)).macs == 4 * 2


# --- builders that are made for an input size


@pytest.mark.parametrize(
    ("text", "asked", "spelt"),
    [
        ("cnn", (3, 64, 64), "cnn(in_size=(3, 64, 64))"),
        ("cnn", 64, "cnn(in_size=(3, 64, 64))"),
        ("cnn(channels=[8]*2)", (1, 28, 28), "cnn(in_size=(1, 28, 28), channels=[8, 8])"),
        ("cnn@input-size=48", None, "cnn(in_size=(3, 48, 48))"),
        ("cnn@input-size=3x48x40", (3, 64, 64), "cnn(in_size=(3, 48, 40))"),
        ("resnet", (3, 48, 48), "resnet(in_size=(3, 48, 48))"),
        ("resnet-bottleneck", 40, "resnet-bottleneck(in_size=(3, 40, 40))"),
        ("stack", (1, 8, 8), "stack(in_size=(1, 8, 8))"),
        ("regular", (64, 28, 28), "regular(channels=64)"),
        ("bottleneck(reduction=2)", (64, 28, 28), "bottleneck(channels=64, reduction=2)"),
        ("vit_b_32", (3, 64, 64), "vit_b_32(image_size=64)"),
        ("vit_b_32", 96, "vit_b_32(image_size=96)"),
        ("maxvit_t", (3, 448, 448), "maxvit_t(input_size=(448, 448))"),
        ("timm:vit_tiny_patch16_224", (3, 96, 64), "timm:vit_tiny_patch16_224(img_size=(96, 64))"),
        ("timm:vit_tiny_patch16_224", (1, 32, 32), "timm:vit_tiny_patch16_224(img_size=32, in_chans=1)"),
        ("timm:swin_tiny_patch4_window7_224", 112, "timm:swin_tiny_patch4_window7_224(img_size=112)"),
        ("timm:levit_128s", 96, "timm:levit_128s(img_size=96)"),
        ("timm:resnet18", (1, 28, 28), "timm:resnet18(in_chans=1)"),
    ],
)
def test_a_builder_is_made_for_the_input_size(text, asked, spelt):
    """Both ways give the same shapes, and the network takes an image of that size."""
    found, expected = subject_of(None, text, asked, 1, None), catalog.resolve(spelt)

    def shapes(module):
        return {name: tuple(each.shape) for name, each in module.state_dict().items()}

    assert shapes(found.module) == shapes(expected.module)
    assert shapes(found.build()) == shapes(found.module)
    given = catalog.parse(text).settings.input_size or asked
    assert found.input_size == (given if isinstance(given, tuple) else (3, given, given))
    with torch.device("meta"):
        assert found.module.to("meta").eval()(torch.empty(2, *found.input_size)).shape[0] == 2


def test_an_argument_that_was_written_stays():
    found = subject_of(None, "stack(in_size=(3, 16, 16))", (3, 32, 32), 1, None)
    assert (found.input_size, found.module.features[0].in_channels) == ((3, 32, 32), 3)
    assert subject_of(None, "regular(64)", (64, 8, 8), 1, None).module.main_path[0].in_channels == 64
    written = subject_of(None, "cnn((3, 32, 32))", (3, 64, 64), 1, None).module
    assert str(written) == str(catalog.resolve("cnn").module)


def test_a_network_that_takes_any_size_is_not_built_again(monkeypatch):
    built = []
    make = catalog._resolve
    monkeypatch.setattr(catalog, "_resolve", lambda spec: built.append(spec) or make(spec))
    assert subject_of(None, "resnet18", 64, 1, None).input_size == (3, 64, 64)
    assert len(built) == 1


def test_a_vision_transformer_of_torchvision_takes_squares():
    with pytest.raises(UsageError, match="vit_b_16: it takes square images, 3x64x32 was asked for"):
        subject_of(None, "vit_b_16", (3, 64, 32), 1, None)


@pytest.mark.parametrize(
    ("arguments", "size", "macs"),
    [
        # a 3x3 convolution from 3 to 32 channels, a pool of 2, 100 hidden features, 10 classes
        (["analyze", "cnn", "--input-size", "3x64x64"], [3, 64, 64], 27 * 32 * 64**2 + 32 * 32**2 * 100 + 1000),
        (["analyze", "cnn@input-size=24"], [3, 24, 24], 27 * 32 * 24**2 + 32 * 12**2 * 100 + 1000),
    ],
)
def test_analyze_makes_the_catalogs_networks_for_the_size(typed, arguments, size, macs):
    code, out, err = typed(*arguments, "--json")
    document = json.loads(out)
    assert (code, err, document["input_size"], document["totals"]["macs"]) == (0, "", size, macs)
