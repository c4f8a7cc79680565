"""The source files say what the packages themselves say once they are imported, and importing is not needed."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from cnnprof.models import zoo
from cnnprof.models.zoo import Listed, timm_names, torchvision_models

SIZES_BY_PRESET = {
    "ImageClassification": lambda preset: (3, *preset.crop_size, *preset.crop_size),
    "SemanticSegmentation": lambda preset: (3, *preset.resize_size, *preset.resize_size),
    "VideoClassification": lambda preset: (3, 16, *preset.crop_size),
    "ObjectDetection": lambda preset: (3, 512, 512),
    "OpticalFlow": lambda preset: None,
}


def default_weights(name):
    return models.get_model_weights(name).DEFAULT


def test_torchvision_names_are_those_it_registers():
    assert list(torchvision_models()) == models.list_models()


def test_torchvision_metadata_is_that_of_the_default_weights():
    published = {name: default_weights(name).meta for name in models.list_models()}
    assert {name: (network.params, network.gmacs) for name, network in torchvision_models().items()} == {
        name: (meta["num_params"], meta["_ops"]) for name, meta in published.items()
    }


def test_torchvision_sizes_are_those_the_presets_hand_on():
    presets = {name: default_weights(name).transforms() for name in models.list_models()}
    sizes = {name: SIZES_BY_PRESET[type(preset).__name__](preset) for name, preset in presets.items()}
    assert {name: network.input_size for name, network in torchvision_models().items()} == sizes


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mobilenet_v3_small", {}),
        ("inception_v3", {"init_weights": False}),
        ("vit_b_32", {}),
        ("quantized_mobilenet_v2", {}),
        ("lraspp_mobilenet_v3_large", {"weights_backbone": None}),
        ("fcn_resnet50", {"weights_backbone": None, "aux_loss": True}),  # as the weights have it
        ("mc3_18", {}),
        ("s3d", {}),
    ],
)
def test_published_macs_are_those_of_the_input_size(name, arguments):
    network = torchvision_models()[name]
    with torch.device("meta"):
        model, x = models.get_model(name, **arguments).eval(), torch.empty(1, *network.input_size)
    assert count_gmacs(model, x) == network.gmacs


def test_published_macs_of_a_detector_are_those_of_the_input_size():
    network = torchvision_models()["ssdlite320_mobilenet_v3_large"]
    model = models.get_model(network.name, weights_backbone=None).eval()
    assert count_gmacs(model, [torch.rand(network.input_size)]) == network.gmacs


def count_gmacs(model, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return round(counter.get_total_flops() / 2e9, 3)


def test_timm_names_are_those_it_registers():
    timm = pytest.importorskip("timm")
    assert set(timm_names()) == set(timm.list_models())
    assert list(timm_names()) == sorted(set(timm_names()))


def test_listing_imports_none_of_the_packages():
    program = (
        "import sys; from cnnprof.models.zoo import timm_names, torchvision_models\n"
        "assert torchvision_models(); timm_names()\n"
        "print(*{'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    imported = subprocess.check_output([sys.executable, "-c", program], cwd=Path(__file__).parents[1])
    assert imported.split() == []


def test_a_package_that_is_not_installed_lists_nothing(monkeypatch):
    monkeypatch.setattr(zoo, "find_spec", lambda package: None)
    assert torchvision_models.__wrapped__() == {}
    assert timm_names.__wrapped__() == ()


UNREADABLE = """
def size(): return 224

COMMON = {**COMMON, **FOREIGN, "num_params": 1, size(): 2, **{"_ops": 0.25}}

class Readable(WeightsEnum):
    OLD = Weights(meta={"num_params": 3})
    NEW = Weights(transforms=partial(ImageClassification, crop_size=8), meta={**COMMON, "num_params": 2})
    DEFAULT = NEW
class Computed(WeightsEnum):
    DEFAULT = Weights(transforms=partial(ImageClassification, crop_size=size()), meta={"num_params": 1 * 2, "_ops": X})
class NewPreset(WeightsEnum):
    DEFAULT = Weights(transforms=partial(DepthEstimation, crop_size=8), meta=make_meta())
class Memberless(WeightsEnum):
    pass
class Circular(WeightsEnum):
    DEFAULT = DEFAULT

@register_model()
def readable(*, weights: Optional[Union[Readable, Computed]] = None): ...
@other
@register_model("renamed")
def given_by_position(*, weights: Readable | None = None): ...
@register_model()
def computed(*, weights: Optional[Computed] = None): ...
@register_model(name="new")
def new_preset(*, weights: Optional[NewPreset] = None): ...
@register_model()
def memberless(*, weights: Optional[Memberless] = None): ...
@register_model()
def circular(*, weights: Optional[Circular] = None): ...
@register_model()
def imported(*, weights: Optional[FromElsewhere] = None): ...
@register_model()
def weightless(**kwargs): ...
@unregistered()
def helper(*, weights: Optional[Readable] = None): ...
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    def write(text):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "odd.py").write_text(text)
        monkeypatch.setattr(zoo, "find_spec", lambda package: SimpleNamespace(submodule_search_locations=[tmp_path]))

    return write


def test_timm_names_stand_below_other_decorators_too(install):
    install("@register_model\n@other(1)\ndef stacked(): ...\n\n@other\ndef helper(): ...\n")
    assert timm_names.__wrapped__() == ("stacked",)


def test_what_cannot_be_read_is_listed_with_none(install):
    install(UNREADABLE)
    readable = {name: Listed(name, "torchvision", 2, (3, 8, 8), 0.25) for name in ("readable", "renamed")}
    unreadable = ("circular", "computed", "imported", "memberless", "new", "weightless")
    assert torchvision_models.__wrapped__() == readable | {name: Listed(name, "torchvision") for name in unreadable}
