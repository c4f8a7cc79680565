"""What models hold and are fed, in types, layouts and sharing of any kind: what is predicted, against a real step."""

import threading
from collections import UserDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from cnnprof import ClassifierTrainer, UsageError, analyze, predict_memory, profile, store
from cnnprof.inputs import Inputs
from cnnprof.measurement import kernels

WITHIN = 0.003
pytestmark = [  # torch tells of these once a process
    pytest.mark.filterwarnings("ignore:Sparse"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, one_thread):
    """Try kernels in a cache of these tests alone."""
    place = tmp_path_factory.getbasetemp() / "kernels.json"
    monkeypatch.setattr(kernels, "_place", lambda: place)
    monkeypatch.setattr("cnnprof.footprint._process_peak", lambda job: None)  # another process takes seconds


class Calling(nn.Module):
    """A network of named parts and buffers whose forward is a function of it and its inputs."""

    def __init__(self, forward, buffers=None, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            self.add_module(name, part)
        for name, tensor in (buffers or {}).items():
            self.register_buffer(name, tensor)

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


@dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


def convolutions(width=8, out=4):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, out, 3, padding=1))


def images(batch=4, side=64, **options):
    return torch.rand(batch, 3, side, side, **options)


def entries(number, side):
    """Return a coalesced COO tensor of so many entries, no two in one cell."""
    cells = torch.arange(number) * (side * side // number)
    return torch.sparse_coo_tensor(
        torch.stack([cells // side, cells % side]), torch.ones(number), (side, side)
    ).coalesce()


# Types ---------------------------------------------------------------------------------------------------------------


def linears(dtype, first=torch.float32):
    return nn.Sequential(nn.Linear(64, 64).to(first), To(dtype), nn.Linear(64, 64).to(dtype))


class To(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


class OfBytes(nn.Module):
    """Weights of 8 bits, which the forward pass widens."""

    def __init__(self, dtype=torch.float8_e4m3fn):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(256, 256).to(dtype), requires_grad=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


def pair(dtype):
    return nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)).to(dtype)


@pytest.mark.parametrize(
    ("model", "size", "parameters", "named"),
    [  # elements x bytes of each
        (pair(torch.float32), 1024, 2 * (1024 * 1024 + 1024) * 4, "float32"),
        (pair(torch.bfloat16), 1024, 2 * (1024 * 1024 + 1024) * 2, "bfloat16"),
        (pair(torch.float16), 1024, 2 * (1024 * 1024 + 1024) * 2, "float16"),
        (pair(torch.float64), 1024, 2 * (1024 * 1024 + 1024) * 8, "float64"),
        (OfBytes(), 256, 256 * 256, "float8_e4m3fn"),
        (linears(torch.bfloat16), 64, (64 * 64 + 64) * (4 + 2), "float32 and bfloat16"),
        (linears(torch.float64, torch.float16), 64, (64 * 64 + 64) * (2 + 8), "float16 and float64"),
    ],
)
def test_a_model_is_predicted_in_its_own_types(model, size, parameters, named):
    found = predict_memory(model, (size,), 8, mode="inference")
    assert found.predicted.at_peak["parameters"] == parameters
    assert found.dtype == named
    assert f" · {named} · " in str(found).replace("\n", " ")
    assert store.from_document(store.to_document(found)) == found


def test_a_type_is_changed_where_that_is_asked():
    found = predict_memory(pair(torch.bfloat16), (1024,), 8, mode="inference", dtype="float32")
    assert found.predicted.at_peak["parameters"] == 2 * (1024 * 1024 + 1024) * 4
    assert (found.dtype, found.settings.dtype) == ("float32", "float32")


def test_a_profile_is_of_the_model_in_its_own_types():
    options = {"time_s": 0.2, "modes": ("inference",)}
    found = profile(linears(torch.bfloat16), (64,), 2, **options)
    (only,) = found.profiles
    assert only.failure is None
    assert only.dtype == "float32 and bfloat16"
    assert "float32 and bfloat16" in str(found)
    assert only.memory.inference.before_bytes == (64 * 64 + 64) * (4 + 2) + 2 * 64 * 4


def test_a_document_without_types_of_its_own_loads():
    document = store.to_document(predict_memory(nn.Linear(8, 8), (8,), 2))
    del document["dtype"]
    document["settings"]["dtype"] = "float32"
    assert " · float32 · " in str(store.from_document(document)).replace("\n", " ")


def test_inputs_of_several_types_are_analyzed_as_they_are():
    model = Calling(lambda net, x, y: net.a(x) + net.b(y), a=nn.Linear(8, 8), b=nn.Linear(8, 8).double())
    assert analyze(model, inputs=(torch.rand(2, 8), torch.rand(2, 8).double())).macs == 2 * 2 * 8 * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_is_trained_in_its_own_type(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(dtype)
    seen = []
    model.register_forward_hook(lambda module, given, output: seen.append((given[0].dtype, output.dtype)))
    trainer = ClassifierTrainer(model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1))
    trainer.train_epoch([(torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))], verbose=False)
    assert seen == [(dtype, dtype)]


# Sparse tensors ------------------------------------------------------------------------------------------------------

COO_BYTES = 199_149 * (2 * 8 + 4)
"""Two indices of 8 bytes and a value of 4 for each entry: 200,000 random cells of 25 million, those met twice once."""


def spread(of, net, x):
    return net.last(torch.sparse.mm(of, x))


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(
    ("layout", "held"),
    [
        (torch.sparse_coo, COO_BYTES),
        (torch.sparse_csr, 199_149 * (8 + 4) + 5001 * 8),
        (torch.sparse_csc, 199_149 * (8 + 4) + 5001 * 8),
    ],
)
def test_sparse_buffers_weigh_their_indices_and_values(layout, held, mode):
    table = entries(199_149, 5000).to_sparse(layout=layout)
    model = Calling(lambda net, x: net.last(x), {"table": table}, last=nn.Linear(16, 16))
    found = predict_memory(model, inputs=torch.rand(50, 16), mode=mode, measure=True)
    assert found.predicted.at_peak["buffers"] == held
    assert found.measured.before_bytes == pytest.approx(
        held + 50 * 64 + 17 * 64 + 50 * 8 * (mode == "training"), abs=450
    )
    assert found.error == pytest.approx(0, abs=WITHIN)


def test_sparse_buffers_of_the_readme_size():
    assert COO_BYTES == 3_982_980


def test_a_buffer_that_shows_no_storage_is_doubted():
    model = Calling(lambda net, x: net.last(x), {"table": torch.rand(8, 8).to_mkldnn()}, last=nn.Linear(8, 8))
    found = predict_memory(model, (8,), 2, mode="inference")
    assert found.measured is not None
    assert any("mkldnn" in doubt.message.lower() for doubt in found.doubts)


# Usages --------------------------------------------------------------------------------------------------------------


def given(model, *args, mode="training", **options):
    return model, {"inputs": args, "mode": mode, **options}


def penalty(net, x):
    out = net.body(x)
    (gradient,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return out.mean() + (gradient.square().sum() - 1).square()


def adversarial(net, x):
    (gradient,) = torch.autograd.grad(net.body(x).mean(), x)
    return net.body((x + 0.1 * gradient.sign()).detach())


def itself(output):
    return output


def squares(output):
    return output.square().sum()


def shared_views():
    whole = images(side=48)
    return whole, whole[:, :, 8:40]


def siamese(net, a, b):
    return net.body(a) - net.body(b)


def expanded(net, x):
    return net.body(x * 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(500, 32)
        self.head = nn.Linear(32, 500, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("first", self.embedding.weight.data[:100])

    def forward(self, x):
        return self.head(self.embedding(x))


image = images()
sequence = torch.rand(4, 64, 32)
USAGES = {
    "bfloat16 convolutions": lambda: given(convolutions().bfloat16(), images().bfloat16()),
    "bfloat16 layers": lambda: given(linears(torch.bfloat16, torch.bfloat16), torch.rand(16, 64).bfloat16()),
    "float16 layers": lambda: given(linears(torch.float16), torch.rand(16, 64), mode="inference"),
    "float64 convolutions": lambda: given(convolutions().double(), images().double()),
    "float64 layers": lambda: given(linears(torch.float64, torch.float64), torch.rand(16, 64).double()),
    "mixed types": lambda: given(linears(torch.bfloat16), torch.rand(16, 64)),
    "float32 before float64": lambda: given(linears(torch.float64), torch.rand(16, 64)),
    "float8 weights": lambda: given(OfBytes(), torch.rand(16, 256), mode="inference"),
    "int8 weights": lambda: given(OfBytes(torch.int8), torch.rand(16, 256), mode="inference"),
    "asked for bfloat16": lambda: given(convolutions(), images(), dtype="bfloat16"),
    "asked for float32": lambda: given(convolutions().bfloat16(), images().bfloat16(), dtype="float32"),
    "autocast": lambda: given(convolutions(), images(), amp=True),
    "bytes as images": lambda: given(
        Calling(lambda net, x: net.body(x / 255), body=convolutions()), (images() * 255).to(torch.uint8)
    ),
    "COO product": lambda: given(
        Calling(lambda net, x: spread(net.table, net, x), {"table": entries(20000, 1000)}, last=nn.Linear(16, 16)),
        torch.rand(1000, 16),
    ),
    "CSR product": lambda: given(
        Calling(
            lambda net, x: spread(net.table, net, x),
            {"table": entries(20000, 1000).to_sparse_csr()},
            last=nn.Linear(16, 16),
        ),
        torch.rand(1000, 16),
        mode="inference",
    ),
    "COO input": lambda: given(
        Calling(lambda net, a, x: spread(a, net, x), last=nn.Linear(16, 16)), entries(20000, 1000), torch.rand(1000, 16)
    ),
    "CSR input": lambda: given(
        Calling(lambda net, a, x: spread(a, net, x), last=nn.Linear(16, 16)),
        entries(20000, 1000).to_sparse_csr(),
        torch.rand(1000, 16),
        mode="inference",
    ),
    "COO made dense": lambda: given(
        Calling(lambda net, a, x: net.last(a.to_dense() @ x), last=nn.Linear(16, 16)),
        entries(20000, 1000),
        torch.rand(1000, 16),
    ),
    "sparse gradients": lambda: given(
        Calling(lambda net, x: net.table(x).sum(2), table=nn.Embedding(500, 32, sparse=True)), torch.arange(64)[None]
    ),
    "image that requires a gradient": lambda: given(convolutions(), images(requires_grad=True)),
    "the same in inference": lambda: given(convolutions(), images(requires_grad=True), mode="inference"),
    "the same, batches accumulated": lambda: given(convolutions(), images(requires_grad=True), accumulate=3),
    "one of two requires a gradient": lambda: given(
        Calling(siamese, body=convolutions()), images(requires_grad=True), images()
    ),
    "gradient penalty": lambda: given(
        Calling(penalty, body=nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))),
        torch.rand(256, 64, requires_grad=True),
        loss=itself,
    ),
    "adversarial step": lambda: given(Calling(adversarial, body=convolutions()), images(requires_grad=True)),
    "reentrant checkpoint": lambda: given(
        Calling(lambda net, x: checkpoint(net.body, x, use_reentrant=True), body=convolutions()),
        images(requires_grad=True),
    ),
    "checkpoint": lambda: given(
        Calling(lambda net, x: checkpoint(net.body, x, use_reentrant=False), body=convolutions()),
        images(requires_grad=True),
    ),
    "siamese": lambda: given(Calling(siamese, body=convolutions()), image, image),
    "siamese that requires a gradient": lambda: given(
        Calling(siamese, body=convolutions()), *(images(requires_grad=True),) * 2
    ),
    "channels last, given twice": lambda: given(
        Calling(siamese, body=convolutions()), image, image, channels_last=True, mode="inference"
    ),
    "self-attention": lambda: given(nn.MultiheadAttention(32, 4, batch_first=True), sequence, sequence, sequence),
    "keyword arguments": lambda: given(Calling(siamese, body=convolutions()), {"a": image, "b": image}),
    "a nest": lambda: given(
        Calling(lambda net, x: siamese(net, x["a"][0], x["a"][1]), body=convolutions()), {"a": [image, (image)]}, {}
    ),
    "a dataclass": lambda: given(
        Calling(lambda net, x: siamese(net, x.first, x.second), body=convolutions()), Pair(image, image)
    ),
    "a mapping": lambda: given(
        Calling(lambda net, x: siamese(net, x["a"], x["b"]), body=convolutions()), UserDict(a=image, b=image)
    ),
    "views that overlap": lambda: given(Calling(siamese_of_crops, body=convolutions()), *shared_views()),
    "two halves": lambda: given(Calling(siamese, body=convolutions()), *images(8).chunk(2)),
    "two halves of each row": lambda: given(Calling(siamese, body=convolutions()), *images(4, 128).chunk(2, 3)),
    "an expanded image": lambda: given(Calling(expanded, body=convolutions()), images(1).expand(8, -1, -1, -1)),
    "a few images of many": lambda: given(convolutions(), images(64)[4:8]),
    "every other image": lambda: given(convolutions(), images(8)[::2]),
    "real and complex in one": lambda: given(
        Calling(lambda net, x, y: net.body(x) + y.real.sum(), body=nn.Linear(32, 8)), *real_and_complex()
    ),
    "tied weights and a view": lambda: given(Tied(), torch.arange(64)[None]),
    "frozen half, trained head": lambda: given(
        Calling(
            lambda net, x: net.head(net.body(x.bfloat16()).float().mean((2, 3))),
            body=convolutions().bfloat16().requires_grad_(False),
            head=nn.Linear(4, 10),
        ),
        images(),
    ),
    "buffers expanded": lambda: given(
        Calling(lambda net, x: net.last(x + net.bias), {"bias": torch.zeros(1).expand(64)}, last=nn.Linear(64, 64)),
        torch.rand(256, 64),
    ),
}


def siamese_of_crops(net, whole, crop):
    return net.body(whole).mean((2, 3)) + net.body(crop).mean((2, 3))


def real_and_complex():
    made = torch.rand(64, 32)
    return made, torch.view_as_complex(made.view(64, 16, 2))


DOUBTED = {
    "bfloat16 layers": "mm",
    "mixed types": "mm",
    "CSR product": "_sparse_addmm of sparse tensors",
    "CSR input": "_sparse_addmm of sparse tensors",
    "sparse gradients": "tensors that are sparse_coo",
}
"""Products in half precision pack their operands; products of compressed tensors convert their indices."""


@pytest.mark.parametrize("usage", USAGES)
def test_what_is_predicted_is_measured_or_doubted(usage):
    model, options = USAGES[usage]()
    found = predict_memory(model, measure=True, **options)
    known = abs(found.error) <= WITHIN
    named = [doubt for doubt in found.doubts if usage in DOUBTED and DOUBTED[usage] in doubt.message]
    assert known or named, (found.error, found.doubts)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_step_of_the_caller_s_own_takes_as_much(requires_grad):
    net, image = nn.Conv2d(3, 4, 3, padding=1), torch.rand(8, 3, 128, 128, requires_grad=requires_grad)

    def step():
        net.zero_grad()
        image.grad = None
        net(image).mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= 0.001 * parameter.grad

    step()
    net.zero_grad()
    image.grad = None
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocations = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    standing = image.nbytes + sum(parameter.nbytes for parameter in net.parameters())
    taken = standing + max(accumulate(allocations, initial=0))
    found = predict_memory(net, inputs=image, measure=True)
    assert found.predicted.peak_bytes == pytest.approx(taken, rel=WITHIN)
    assert found.measured.peak_bytes == pytest.approx(taken, rel=WITHIN)


def test_a_tensor_stands_once_however_often_it_is_given():
    found = predict_memory(nn.MultiheadAttention(32, 4, batch_first=True), inputs=(sequence, sequence, sequence))
    assert found.predicted.at_peak["inputs"] == sequence.nbytes
    whole, crop = shared_views()
    found = predict_memory(Calling(siamese_of_crops, body=convolutions()), inputs=(whole, crop))
    assert found.predicted.at_peak["inputs"] == whole.nbytes + len(whole) * 8  # and a label for each image


def test_inputs_keep_what_they_share_and_what_they_require():
    leaf = torch.rand(2, 3, 8, 8, requires_grad=True)
    whole = torch.rand(4, 6)
    given = Inputs.of((leaf, whole, whole[:, 2:4], {"again": leaf}))
    made = [given.cloned(), given.to("cpu"), given.to("cpu", torch.float64), given.channels_last(), given.mapped(abs)]
    for inputs in made:
        first, left, _ = inputs.args
        assert first is inputs.kwargs["again"]
        assert first is not leaf
        assert first.requires_grad
        assert first.is_leaf
        assert not left.requires_grad
    copy = made[0]
    copy.args[1].zero_()
    assert not copy.args[2].any()
    assert whole.all()


def test_the_caller_s_inputs_get_no_gradient():
    leaf = images(2, 8, requires_grad=True)
    found = profile(convolutions(), inputs=leaf, time_s=0.2, modes=("training",))
    assert found.profiles[0].failure is None
    assert found.profiles[0].memory.training is not None
    assert leaf.grad is None


# What cannot be copied, sent or followed -----------------------------------------------------------------------------


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise ValueError("no copies")


def holding(value):
    net = nn.Linear(8, 8)
    net.extra = value
    return net


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (nn.Linear(8, 8), {"loss": lambda output: output.square().sum()}),
        (holding(lambda: 1), {}),
        (holding(threading.Lock()), {}),
        (holding(Path(__file__).open()), {}),  # noqa: SIM115
        (holding(i for i in range(3)), {}),
        (Uncopied(8, 8), {}),
    ],
)
def test_what_a_model_holds_stops_no_measurement(model, options):
    found = predict_memory(model, (8,), 4, measure=True, **options)
    assert found.error == pytest.approx(0, abs=WITHIN)
    assert all(doubt.about == "process" for doubt in found.doubts), found.doubts


def test_a_model_that_cannot_be_copied_is_left_as_it_is():
    model = Uncopied(8, 8)
    before = model.weight.clone()
    found = profile(model, (8,), 2, time_s=0.2, modes=("training",))
    assert found.profiles[0].failure is None
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None


def test_what_other_processes_cannot_be_given_is_told_before_anything_is_measured():
    with pytest.raises(UsageError, match=r"processes: .*pickle.*; measure in one process"):
        profile(holding(threading.Lock()), (8,), 2, time_s=0.2, modes=("inference",), processes=True)


def test_nested_tensors_of_the_old_layout_are_measured():
    nested = torch.nested.nested_tensor([torch.rand(3, 8), torch.rand(5, 8)], layout=torch.strided)
    found = predict_memory(nn.Linear(8, 8), inputs=(nested,), mode="inference")
    assert found.predicted is None
    assert found.measured.peak_bytes >= (8 * 8 + 8) * 4 + 2 * 8 * 8 * 4  # weights, and both tensors' values twice
    assert any("ested" in doubt.message for doubt in found.doubts)


def test_jagged_tensors_are_predicted():
    nested = torch.nested.nested_tensor([torch.rand(3, 8), torch.rand(5, 8)], layout=torch.jagged)
    found = predict_memory(nn.Linear(8, 8), inputs=(nested,), mode="inference", measure=True)
    assert found.predicted.peak_bytes == found.measured.peak_bytes
    assert found.doubts == ()


def test_what_fails_before_the_step_is_told_apart():
    class Unmoved(nn.Linear):
        def _apply(self, change, recurse=True):
            raise ValueError("it stays")

    found = predict_memory(Unmoved(8, 8), (8,), 4, measure=True, channels_last=True)
    assert found.predicted is not None
    assert [doubt.message for doubt in found.doubts] == ["making the step ready stopped: ValueError: it stays"]


@torch.library.custom_op("cnnprof_test_inputs::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x + x


LIBRARY = torch.library.Library("cnnprof_test_inputs_too", "DEF")
LIBRARY.define("thrice(Tensor x) -> Tensor")
LIBRARY.impl("thrice", lambda x: torch.add(x, x, alpha=2), "CPU")


@pytest.mark.parametrize(
    ("operator", "named"),
    [
        (twice, "cnnprof_test_inputs::twice"),
        (lambda x: torch.ops.cnnprof_test_inputs_too.thrice(x), "cnnprof_test_inputs_too::thrice"),
    ],
)
def test_an_operator_without_a_rule_for_shapes_is_measured(operator, named):
    found = predict_memory(Calling(lambda net, x: operator(net.a(x)), a=nn.Linear(8, 8)), (8,), 4, mode="inference")
    assert found.predicted is None
    # weights and bias, two images, and the outputs of both operators
    assert found.measured.peak_bytes == (8 * 8 + 8) * 4 + 2 * 8 * 4 + 2 * 2 * 8 * 4
    assert any(named in doubt.message for doubt in found.doubts)
