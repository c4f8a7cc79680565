"""How `inputs` are read, said where a network refuses what was made of them."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

import cnnprof
from cnnprof import UsageError


class OneList(nn.Module):
    def forward(self, images):
        return torch.stack([image.mean() for image in images[0:2] if image.ndim == 3])


class OneDict(nn.Module):
    def forward(self, batch):
        return batch["input_ids"] * 2.0


class Named(nn.Module):
    def forward(self, *, input_ids):
        return input_ids * 2.0


class Batch(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor


class OneBatch(nn.Module):
    def forward(self, batch):
        return batch.image * batch.mask


IMAGE = torch.rand(3, 8, 8)
LIST = "a list is several arguments, one an item: ([...],) is one"
CASES = [
    (OneList, [IMAGE], LIST, ([IMAGE],)),
    (OneList, [IMAGE, IMAGE], LIST, ([IMAGE, IMAGE],)),
    (OneBatch, Batch(IMAGE, IMAGE), "a Batch is several arguments, one an item", (Batch(IMAGE, IMAGE),)),
    (
        OneDict,
        ({"input_ids": IMAGE},),
        "the last dict names arguments: ({...}, {}) gives it as one",
        ({"input_ids": IMAGE}, {}),
    ),
    (OneDict, [{"input_ids": IMAGE}], f"{LIST}; the last dict names arguments", ({"input_ids": IMAGE}, {})),
    (Named, {"input_ids": IMAGE}, "a dict alone is one argument: ({...},) names its items", ({"input_ids": IMAGE},)),
]


@pytest.mark.parametrize("verb", [cnnprof.analyze, cnnprof.predict_memory], ids=["analyze", "memory"])
@pytest.mark.parametrize(("network", "inputs", "said", "meant"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_refusal_says_how_inputs_were_read(verb, network, inputs, said, meant):
    options = {} if verb is cnnprof.analyze else {"mode": "inference"}
    with pytest.raises(UsageError) as caught:
        verb(network(), inputs=inputs, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    verb(network(), inputs=meant, **options)


def test_a_refusal_of_plain_arguments_says_nothing_of_their_reading():
    with pytest.raises(UsageError) as caught:
        cnnprof.analyze(nn.Linear(4, 2), inputs=(torch.rand(2, 5),))
    assert str(caught.value).endswith("(2x5 and 4x2)")


def test_a_callable_that_brings_a_list_is_told_too(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def forward(self, images):\n        return images[0].mean() + images[1].shape[2]\n\n\n"
        "def made():\n    return Net(), [torch.rand(3, 8, 8)]\n"
    )
    with pytest.raises(UsageError, match="a list is several arguments"):
        cnnprof.analyze(f"{tmp_path / 'nets.py'}:made")
