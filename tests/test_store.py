"""Documents: what is written is read again, what is not ours is refused."""

import json

import pytest

from cnnprof import UsageError, profiling, store
from cnnprof.records import Comparison


@pytest.fixture
def run(fake_clock) -> Comparison:
    calls = {"a": lambda: fake_clock.spend(0.2), "b": lambda: fake_clock.spend(0.1)}
    return profiling.compare_calls(calls, time_s=3.0, instruments=fake_clock.instruments())


def test_round_trip(run, tmp_path):
    store.write_text(tmp_path / "run.json", store.to_json(run))
    again = store.read(tmp_path / "run.json")
    assert again == run
    analysis = profiling.analyze("cnn")
    assert store.from_document(json.loads(store.to_json(analysis))) == analysis


def test_keys_of_the_contract(run):
    document = store.to_document(run)
    assert document["schema"] == "cnnprof.comparison/1"
    keys = "command commit created machine settings baseline profiles comparisons doubts"
    assert set(keys.split()) <= set(document)
    latency = document["profiles"][0]["latency"]["inference"]
    assert {"sessions", "median_s", "ci95_s", "cpu_share"} <= set(latency)
    assert latency["median_s"] == pytest.approx(0.2)
    assert {"ratio", "ci95", "verdict"} <= set(document["comparisons"][0]["latency"])
    analysis = store.to_document(profiling.analyze("cnn"))
    keys = "schema model input_size batch_size totals conventions coverage uncounted layers"
    assert set(keys.split()) <= set(analysis)
    keys = "params trainable_params buffers macs flops activations param_bytes read_bytes written_bytes"
    assert set(keys.split()) <= set(analysis["totals"])
    keys = "path kind calls params macs flops activations input_shape output_shape read_bytes written_bytes"
    assert set(keys.split()) <= set(analysis["layers"][0])
    assert analysis["conventions"]["torch"]["flops"] == 2 * analysis["totals"]["macs"]


def test_keys_that_are_new_are_passed_over(run):
    document = store.to_document(run) | {"added_later": 1}
    document["profiles"][0]["added_later"] = {}
    assert store.from_document(document) == run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON, or cut off"),
        ("[]", "its schema is None"),
        ('{"schema": "cnnprof.comparison/2"}', "reads cnnprof.comparison/1"),
        ('{"schema": "other/1"}', "its schema is 'other/1'"),
        ('{"schema": "cnnprof.comparison/1"}', "not a whole cnnprof.comparison/1 document"),
    ],
)
def test_what_is_not_ours_is_refused(text, said, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json: ") as caught:
        store.read(tmp_path / "run.json")
    assert said in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        store.read(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        store.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_host_user_or_home_in_a_document(run):
    import getpass
    import platform
    from pathlib import Path

    text = store.to_json(run)
    assert str(Path.home()) not in text
    assert f'"{getpass.getuser()}"' not in text
    assert f'"{platform.node()}"' not in text
