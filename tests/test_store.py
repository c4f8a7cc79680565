"""Documents: what is written is read again, what is not ours is refused."""

import copy
import json

import pytest

from cnnprof import UsageError, profiling, reporting, store
from cnnprof.records import Comparison, FitResult


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
        ('{"schema": "cnnprof.comparison/1"}', "not a whole cnnprof.comparison/1 document: it lacks 'command'"),
    ],
)
def test_what_is_not_ours_is_refused(text, said, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json: ") as caught:
        store.read(tmp_path / "run.json")
    assert said in str(caught.value)
    assert ("not JSON" in str(caught.value)) == (said == "not JSON, or cut off")


def places_in(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places_in(item, (*path, key))


def put(document, path, value):
    *path, last = path
    for key in path:
        document = document[key]
    document[last] = value


def documents(run):
    return store.to_document(run), store.to_document(profiling.analyze("bottleneck"))


def test_a_document_that_was_edited_is_refused_or_shown(run):
    """Any one value of a document replaced by junk: one line says so, or the report still holds."""
    for document in documents(run):
        for path in list(places_in(document))[1:]:
            for junk in (None, "x", -1, 1.5, [], {}, [[]], True):
                edited = copy.deepcopy(document)
                put(edited, path, junk)
                try:
                    record = store.from_document(edited)
                except UsageError as error:
                    assert "\n" not in str(error)  # noqa: PT017
                else:
                    reporting.as_markdown(record), str(record)


@pytest.mark.parametrize(
    ("path", "junk", "said"),
    [
        (("profiles",), [], "its comparisons are not those of its profiles"),
        (("profiles", 0, "latency", "inference", "sessions"), [], "sessions hold no times above 0"),
        (("profiles", 0, "latency", "inference", "sessions"), [[0.1], []], "sessions hold no times above 0"),
        (("profiles", 0, "latency", "inference", "sessions"), [["x"]], "sessions is 'x', not float"),
        (("comparisons", 0, "latency", "verdict"), "great", "verdict is 'great', not equal or faster"),
        (("settings", "batch_size"), "8", "batch_size is '8', not int"),
        (("settings", "amp"), 1, "amp is 1, not bool"),
        (("machine",), None, "machine is None, not an object"),
    ],
)
def test_what_was_edited_is_named(run, path, junk, said):
    document = store.to_document(run)
    put(document, path, junk)
    with pytest.raises(UsageError) as caught:
        store.from_document(document)
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


@pytest.mark.parametrize("given", [{"a": 1}, 3.0, None, FitResult(1, [2.0], [50.0], [2.0], [40.0])])
@pytest.mark.parametrize("suffix", [".json", ".html", ".md", ".csv"])
def test_what_is_no_record_is_not_saved(given, suffix, tmp_path):
    with pytest.raises(UsageError, match=rf"^{type(given).__name__} is no record of cnnprof; those are Analysis, Comp"):
        reporting.save(given, tmp_path / f"run{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [{"a": 1}, 3.0, None])
def test_what_is_no_record_makes_no_table(given):
    with pytest.raises(UsageError, match=f"^{type(given).__name__} is no record of cnnprof"):
        reporting.to_dataframe(given)
