"""Layers against roofs: planted peaks by hand, real ones on real layers, and what is kept between runs."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import cnnprof
from cnnprof import cli, machine, peaks, store
from cnnprof.comparison.roofline import against_the_roof, time_by_bound
from cnnprof.measurement import roofline
from cnnprof.records import Bandwidth, LayerTime, MachineReport, Noise, Peaks, Product
from cnnprof.reporting import as_html, as_markdown, as_text, limits, to_dataframe

PLANTED = Peaks(
    device="cpu",
    threads=2,
    products=(Product("float32", 1e9, 1024), Product("bfloat16", 4e9, 1024)),
    bandwidths=(Bandwidth(1 << 16, 8e9, 4e9), Bandwidth(1 << 20, 2e9, 2e9), Bandwidth(1 << 30, 0.5e9, 1e9)),
    call_s=1e-6,
)


def test_bandwidth_between_what_was_measured():
    assert PLANTED.bytes_per_s(1 << 10) == 8e9  # below the first
    assert PLANTED.bytes_per_s(1 << 16) == 8e9  # the better of copy and update
    assert PLANTED.bytes_per_s(1 << 18) == pytest.approx(4e9)  # half way in logs between 8 and 2
    assert PLANTED.bytes_per_s(1 << 20) == pytest.approx(2e9)
    assert PLANTED.bytes_per_s(1 << 40) == 1e9
    assert PLANTED.flops_per_s("float64") is None


def planted_roofs(dtype="float32", element_bytes=4):
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Dropout())
    analysis = cnnprof.analyze(net, (8, 32, 32), batch_size=2)
    times = [
        LayerTime("", "Sequential", 0.0, None),
        LayerTime("0", "Conv2d", 0.01, None, 1),
        LayerTime("1", "ReLU", 0.001, None, 1),
        LayerTime("2", "Flatten", 1e-6, None, 1),
        LayerTime("3", "Dropout", 1e-6, None, 1),
    ]
    return {roof.path: roof for roof in against_the_roof(analysis, times, PLANTED, dtype, element_bytes)}


def test_roofs_by_hand():
    roofs = planted_roofs()
    assert list(roofs) == ["0", "1"]  # what neither computes nor moves has no roof
    conv = roofs["0"]
    flops = 2 * 2 * 16 * 32 * 32 * 8 * 9
    moved = 4 * (2 * 8 * 1024 + 16 * 8 * 9 + 2 * 16 * 1024)
    assert (conv.flops, conv.moved_bytes) == (flops, moved)
    assert conv.bound == "compute"
    assert conv.attainable_s == pytest.approx(flops / 1e9 + 1e-6)
    assert conv.share == pytest.approx((flops / 1e9 + 1e-6) / 0.01)
    assert conv.intensity == pytest.approx(flops / moved)
    relu = roofs["1"]
    moved = 4 * 2 * (2 * 16 * 1024)
    assert (relu.bound, relu.moved_bytes) == ("memory", moved)
    assert relu.attainable_s == pytest.approx(moved / PLANTED.bytes_per_s(moved) + 1e-6)


def test_a_narrow_dtype_moves_fewer_bytes_under_a_higher_roof():
    wide, narrow = planted_roofs()["0"], planted_roofs("bfloat16", 2)["0"]
    assert 2 * narrow.moved_bytes == wide.moved_bytes
    assert narrow.attainable_s == pytest.approx(wide.flops / 4e9 + 1e-6)
    assert planted_roofs("float16") == {}  # no roof was measured


def test_time_by_bound_adds_up():
    sums = time_by_bound(planted_roofs().values())
    assert sums == {"compute": 0.01, "memory": 0.001, "overhead": 0.0}


def test_an_expanded_tensor_is_read_once():
    class Expands(nn.Module):
        def forward(self, x):
            return x.expand(100, 1000) + 1

    (layer,) = cnnprof.analyze(Expands(), inputs=torch.ones(1000)).layers
    assert (layer.read_bytes, layer.written_bytes) == (4_000, 400_000)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Peaks of small matrices and few working sets, kept in a folder of the test's own."""
    monkeypatch.setattr(roofline, "SIDES", {"cpu": (256,), "cuda": (256,)})
    monkeypatch.setattr(roofline, "WORKING_SETS", (1 << 16, 1 << 20, 1 << 24))
    monkeypatch.setattr(roofline, "POINT_S", 0.005)
    monkeypatch.setattr(peaks.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "cnnprof"


def test_peaks_are_kept_under_the_machines_identity(quick, monkeypatch):
    here = machine.describe()
    first = peaks.peaks(here)
    (path,) = quick.iterdir()
    assert store.read(path).peaks == first
    monkeypatch.setattr(roofline, "peaks", None)  # not called again
    assert peaks.peaks(here) == first
    with pytest.raises(TypeError):
        peaks.peaks(dataclasses.replace(here, threads=here.threads + 1))  # another machine, so to speak
    with pytest.raises(TypeError):
        peaks.peaks(here, anew=True)
    path.write_text("{")
    with pytest.raises(TypeError):
        peaks.peaks(here)  # damaged: measured again


def test_no_cache_is_no_fault(quick):
    quick.parent.joinpath("cnnprof").write_text("a file where the folder would be")
    assert peaks.peaks(machine.describe()).products


def test_measured_peaks_are_numbers(quick):
    found = roofline.peaks("cpu")
    assert [product.dtype for product in found.products] == ["float32", "bfloat16", "float16", "float64"]
    assert all(product.flops_per_s > 1e8 for product in found.products)
    assert all(each.bytes_per_s > 1e8 for each in found.bandwidths)
    assert 1e-8 < found.call_s < 1e-3


def test_the_faster_library_makes_the_roof(monkeypatch):
    def fastest(timer, device, dtype, sides, way):
        return Product(dtype, {roofline._by_product: 1.0, roofline._by_convolution: 2.0}[way], sides[0])

    monkeypatch.setattr(roofline, "_fastest", fastest)
    assert roofline._product(None, "cpu", "float32", (8,)).flops_per_s == 2.0
    assert roofline._product(None, "cuda", "float32", (8,)).flops_per_s == 1.0  # its convolutions may be of TF32


def test_a_convolution_is_the_product_of_its_matrices():
    matrix = torch.arange(64.0).view(8, 8)
    found = roofline._by_convolution(matrix)()
    assert torch.equal(found[0, :, :, 0].T, matrix @ matrix.T)


def test_larger_products_are_not_tried_where_they_would_take_long(quick, monkeypatch):
    def sides() -> set[int]:
        return {product.side for product in roofline.peaks("cpu").products}

    monkeypatch.setattr(roofline, "SIDES", {"cpu": (8, 256)})
    monkeypatch.setattr(roofline, "_best_s", lambda timer, call: 1e-6)  # the larger is the faster
    assert sides() == {256}
    monkeypatch.setattr(roofline, "PATIENCE_S", 0.0)
    assert sides() == {8}


def test_a_profile_against_the_roof(quick, tmp_path):
    run = cnnprof.profile("cnn", batch_size=2, modes=("inference",), time_s=0.3, roofline=True)
    (candidate,) = run.profiles
    assert {roof.path for roof in candidate.roofline} >= {"feature_extractor.0", "mlp.0"}
    assert sum(roof.flops for roof in candidate.roofline) == 2 * 2 * candidate.analysis.macs
    assert run.peaks.threads == run.machine.threads
    assert store.from_document(json.loads(store.to_json(run))) == run
    for text in (as_text(run), as_markdown(run), as_html(run)):
        assert "What bounds cnn's forward pass" in " ".join(text.split()).replace("&#39;", "'")


def test_without_roofline_there_is_none():
    run = cnnprof.profile("cnn", batch_size=2, modes=("inference",), time_s=0.1)
    assert (run.peaks, run.profiles[0].roofline) == (None, ())
    assert "roofs" not in as_html(run)


REPORT = MachineReport(
    "cnnprof doctor",
    "2026-11-23T10:00:00+00:00",
    machine.describe(),
    PLANTED,
    Noise(1.004, (0.999, 1.009), "equal", 0.01),
)


def test_a_machine_report_in_every_form():
    assert store.from_document(json.loads(store.to_json(REPORT))) == REPORT
    for text in (as_text(REPORT), as_markdown(REPORT), as_html(REPORT)):
        words = " ".join(text.split())
        assert "Two equal calls came out equal: 1.004x" in words
        assert "bfloat16" in words
        assert "64.0 KiB" in words
    assert list(to_dataframe(REPORT)["working_set_bytes"]) == [1 << 16, 1 << 20, 1 << 30]


def test_doctor(quick):
    report = cnnprof.doctor(time_s=0.3)
    assert report.noise.waited_share is None or 0 <= report.noise.waited_share <= 1
    assert report.peaks == cnnprof.doctor(time_s=0.3).peaks  # measured once


def test_fewer_macs_that_are_not_as_much_faster_are_explained():
    roofs = tuple(planted_roofs().values())
    slower = tuple(dataclasses.replace(roof, flops=roof.flops // 8) for roof in roofs)
    run = cnnprof.compare_calls({"a": lambda: None, "b": lambda: None}, 0.05)
    first, second = run.profiles
    run = dataclasses.replace(
        run, profiles=(dataclasses.replace(first, roofline=roofs), dataclasses.replace(second, roofline=slower))
    )
    assert limits.why(run) == (
        "8.0x fewer MACs are 1.00x in time: arithmetic bounds 91% of b's forward pass (a: 91%), and its FLOPs take "
        "8.0x as long."
    )


@pytest.mark.slow
def test_the_doctor_on_the_command_line(quick, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cnnprof", "doctor", "--threads", "1", "-o", "m.html", "-o", "m.json"])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    out, err = capsys.readouterr()
    assert (exited.value.code, err) == (0, "")
    assert "matrix product" in out
    assert "Two equal calls" in (tmp_path / "m.html").read_text()
    assert store.read(tmp_path / "m.json").peaks.threads == 1
