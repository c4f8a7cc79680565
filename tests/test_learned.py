"""The reports of training runs: hand-made runs with round numbers, and what goes wrong in them."""

import functools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from test_reporting import MACHINE, NASTY, Page, comparison

from cnnprof import reporting, store, units
from cnnprof.records import (
    AccuracyDifference,
    DataSet,
    Depth,
    Doubt,
    FitResult,
    LayerNorms,
    Learner,
    Training,
    TrainingConfig,
    TrainingContrast,
    TrainingRun,
)
from cnnprof.reporting import figures, html, learned, markdown

DATA = DataSet("photos", "photos: 100 images to train on and 50 to test on", 10, 100, 50)


def run(model: str, seed: int, *percents: float, epoch_s: float = 2.0, images: int = 100) -> TrainingRun:
    """Epochs of so many images in two steps of half the seconds; losses halve from 2."""
    number = len(percents)
    losses = tuple(2.0 / 2**epoch for epoch in range(number))
    return TrainingRun(
        model, seed, losses, tuple(percent + 1 for percent in percents), losses, percents, (images,) * number,
        ((epoch_s / 2, epoch_s / 2),) * number,
    )  # fmt: skip


def learner(name: str, training_macs: int) -> Learner:
    return Learner(name, name, (3, 8, 8), 1000, training_macs // 3, training_macs)


def difference(*values: float | str | None) -> AccuracyDifference:
    points, low, high, verdict, seeds = values
    return AccuracyDifference(points, None if low is None else (low, high), verdict, seeds)


def training(*names: str, found: AccuracyDifference | None = None, data: DataSet = DATA, **changes) -> Training:
    """Plain: 40, 60, 70 % and 40, 60, 74 %; the other: 50, 70, 78 % and 50, 70, 80 %, at twice the MACs and seconds."""
    plain, *others = names or ("plain", "résnet")
    runs = (run(plain, 0, 40.0, 60.0, 70.0), run(plain, 1, 40.0, 60.0, 74.0))
    for name in others:
        runs += (run(name, 0, 50.0, 70.0, 78.0, epoch_s=4.0), run(name, 1, 50.0, 70.0, 80.0, epoch_s=4.0))
    contrasts = tuple(TrainingContrast(name, found or difference(7.0, 1.5, 12.5, "higher", 2)) for name in others)
    config = TrainingConfig(64, "SGD(lr=0.1, momentum=0.9)", 3, None, (0, 1))
    models = (learner(plain, 3_000_000), *(learner(name, 6_000_000) for name in others))
    made = Training(
        "cnnprof train", None, "2026-11-24T10:42:20+00:00", MACHINE, data.name, data, config, plain, models, runs,
        contrasts,
    )  # fmt: skip
    return replace(made, **changes)


def with_run(changed: TrainingRun, **changes) -> Training:
    """The usual training, with another run of that model and seed."""
    usual = training(**changes)
    same = (changed.model, changed.seed)
    return replace(usual, runs=tuple(changed if (each.model, each.seed) == same else each for each in usual.runs))


def depths() -> tuple[Depth, ...]:
    fading = tuple(LayerNorms(f"layers.{place}", 1.0, 10.0 ** (place - 8), 1.0) for place in range(7))
    steady = tuple(LayerNorms(f"layers.{place}", 1.0, 0.001 * (place + 1), 1.0) for place in range(12))
    return (Depth("plain", fading), Depth("résnet", steady))


FAILED = replace(run("résnet", 1), failure="the loss became NaN at step 37")
LATE = replace(run("plain", 0, 40.0, 60.0), failure="out of memory")
RECORDS = {
    "late": training("plain", runs=(LATE,)),
    "two": training(depths=depths()),
    "alone": training("plain"),
    "many": training("plain", NASTY, "网络", "$x_1$", *(f"slim{number}" for number in range(5))),
    "failed": with_run(FAILED),
    "interrupted": with_run(run("résnet", 1, 50.0), partial=True),
    "nothing": training(runs=(run("plain", 0),)),
    "none at all": training(runs=()),
    "one epoch": training(runs=(run("plain", 0, 40.0), run("résnet", 0, 50.0))),
    "no gradient": training(
        depths=(Depth("plain", (LayerNorms("a", 0.0, 0.0, 0.0), LayerNorms("b", 0.0, None, 0.0))),)
    ),
}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
page_of = functools.cache(html.render)


def row_of(table, name: str) -> dict[str, str]:
    (cells,) = [row for row in table.rows if row[0] == name]
    return dict(zip(table.columns, cells, strict=True))


# The numbers ---------------------------------------------------------------------------------------------------------


def test_a_model_has_the_mean_over_its_seeds_and_what_it_cost():
    row = row_of(learned.table(training()), "résnet")
    assert row == {
        "model": "résnet", "test, %": "79.0", "min to max": "78.0 to 80.0",
        "vs plain, points": "+7.0 [1.5, 12.5], higher", "train, %": "80.0", "params": "1,000", "MMACs": "2.000",
        "epochs": "3", "s": "12", "img/s": "25",
    }  # fmt: skip
    assert row_of(learned.table(training()), "plain")["vs plain, points"] == ""


def test_what_was_built_is_said_where_it_is_not_the_name():
    models = training().models
    built = training(models=(replace(models[0], model="cnn(filters=[8])"), models[1]))
    assert row_of(learned.table(built), "plain")["network"] == "cnn(filters=[8])"


def test_at_equal_budgets_accuracies_lie_between_epochs():
    # All of plain's: 3 x 100 images x 3 MMACs = 900 MMACs; the other had spent 600 and 1200 after one and two epochs,
    # so it is half way from 50 to 70. Plain's 6 s likewise: 4 and 8 s.
    table = learned.budget_table(training())
    assert row_of(table, "plain") == {"model": "plain", "test, % at 900.0 MMACs": "72.0", "test, % at 6 s": "72.0"}
    assert row_of(table, "résnet") == {"model": "résnet", "test, % at 900.0 MMACs": "60.0", "test, % at 6 s": "60.0"}


def test_before_a_first_epoch_nothing_is_known():
    slow = replace(training(), runs=(run("plain", 0, 40.0, epoch_s=1.0), run("résnet", 0, 50.0, epoch_s=9.0)))
    assert learned.percent_at(slow, slow.models[1], "seconds", 1.0) is None
    assert row_of(learned.budget_table(slow), "résnet")["test, % at 1 s"] == units.UNKNOWN


def test_a_curve_holds_the_mean_the_least_and_the_largest_of_the_seeds_that_got_so_far():
    made = training(runs=(run("plain", 0, 40.0, 60.0, epoch_s=2.0), run("plain", 1, 50.0, epoch_s=4.0)))
    made = replace(made, config=replace(made.config, epochs=None, time_s=4.0))
    points = learned.curve(made, made.models[0], "seconds", learned.test_percent)
    assert points == (learned.Point(3.0, 45.0, 40.0, 50.0), learned.Point(4.0, 60.0, 60.0, 60.0))


def test_a_data_frame_has_a_row_for_each_epoch_with_what_was_spent_by_then():
    frame = reporting.to_dataframe(training())
    assert len(frame) == 12
    last = frame[(frame.model == "résnet") & (frame.seed == 1)].iloc[-1]
    assert (last.epoch, last.train_loss, last.test_accuracy_percent) == (3, 0.5, 80.0)
    assert (last.train_s, last.images_seen, last.macs_spent) == (12.0, 300, 1_800_000_000)
    assert reporting.as_csv(training()).count("\n") == 13


def test_what_a_trainer_gives_is_a_row_an_epoch():
    frame = reporting.to_dataframe(FitResult(2, [2.0, 1.0], [41.0, 61.0], [2.5, 1.5], [40.0, 60.0]))
    assert [*frame.columns] == ["epoch", "train_loss", "train_accuracy_percent", "test_loss", "test_accuracy_percent"]
    assert frame.values.tolist() == [[1, 2.0, 41.0, 2.5, 40.0], [2, 1.0, 61.0, 1.5, 60.0]]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (units.points(2.2, (0.4, 4.0)), "+2.2 points [0.4, 4.0]"),
        (units.points(-0.04, (-0.04, 0.0)), "0.0 points [0.0, 0.0]"),
        (units.signed(-1.0), "-1.0"),
        (units.accuracies((80.0, 78.0)), "78.0 to 80.0"),
        (units.accuracies((78.01, 78.02)), "78.0"),
        (units.accuracies(()), "-"),
        (units.integers((10, 8)), "8 to 10"),
        (units.magnitude(1.2), "1.2x"),
        (units.magnitude(6309.6), "6,310x"),
        (units.magnitude(1_234_567), "1e6x"),
    ],
)
def test_numbers_of_training_are_written_alike(made, expected):
    assert made == expected


# What is said --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            difference(7.0, 1.5, 12.5, "higher", 2),
            "résnet learns better than plain: 79.0 % against 72.0 %, +7.0 points [1.5, 12.5] over 2 seeds.",
        ),
        (
            difference(7.0, -1.5, 15.5, "inconclusive", 2),
            "Whether résnet learns better than plain is inconclusive: 79.0 % against 72.0 %, "
            "+7.0 points [-1.5, 15.5] over 2 seeds.",
        ),
        (
            difference(7.0, None, None, "inconclusive", 1),
            "Whether résnet learns better than plain is inconclusive: 79.0 % against 72.0 %, "
            "+7.0 points with one seed, which carries no interval.",
        ),
        (difference(None, None, None, "inconclusive", 0), "résnet is not compared with plain: they share no seed."),
    ],
)
def test_the_headline_says_what_the_seeds_carry(found, said):
    assert learned.headline(training(found=found)) == (said,)


def test_the_accuracies_of_a_headline_are_of_the_seeds_that_both_have():
    found = difference(8.0, None, None, "inconclusive", 1)
    (said,) = learned.headline(with_run(FAILED, found=found))
    assert "78.0 % against 70.0 %, +8.0 points with one seed" in said


def test_a_model_alone_is_compared_with_nothing():
    alone = training("plain")
    assert learned.headline(alone) == (
        "plain gets 72.0 % of the test images right, 70.0 to 74.0 over 2 seeds, after 3 epochs.",
    )
    assert learned.budget_table(alone) is None
    assert "vs" not in " ".join(learned.table(alone).columns)


def test_what_was_cut_short_is_not_compared():
    short = training(runs=(*training().runs[:2], run("résnet", 0, 50.0)), partial=True)
    assert learned.headline(short) == ("résnet is not compared with plain: résnet was stopped after 1 of 3 epochs.",)
    assert row_of(learned.table(short), "résnet")["vs plain, points"] == units.UNKNOWN


def test_runs_that_failed_or_were_cut_short_do_not_count_where_others_are_whole():
    whole = run("résnet", 1, 10.0, 10.0, 10.0)
    for odd in (replace(whole, failure="the loss became NaN"), run("résnet", 1, 10.0)):
        assert row_of(learned.table(with_run(odd)), "résnet")["test, %"] == "78.0"


def test_a_model_whose_runs_all_failed_is_not_compared():
    lost = training(runs=(*training().runs[:2], FAILED))
    assert learned.headline(lost) == ("résnet is not compared with plain: there is no finished run of résnet.",)


def test_what_a_run_learned_before_it_failed_is_shown_where_there_is_no_other():
    late = RECORDS["late"]
    assert learned.headline(late) == (
        "plain gets 60.0 % of the test images right, after 2 epochs: plain failed in epoch 3 (seed 0).",
    )
    assert row_of(learned.table(late), "plain")["test, %"] == "60.0"
    assert [row[1] for row in learned.epoch_table(late).rows] == ["40.0", "60.0"]
    assert figures.curves(late)
    beside = training(runs=(LATE, replace(LATE, seed=1), *training().runs[2:]))
    why = "plain failed in epoch 3 (seed 0), epoch 3 (seed 1)"
    assert learned.headline(beside) == (f"résnet is not compared with plain: {why}.",)
    assert row_of(learned.table(with_run(replace(LATE, seed=1))), "plain")["test, %"] == "70.0"


def test_where_one_failed_the_data_are_not_said_to_tell_none_apart():
    alike = training(runs=(LATE, run("résnet", 0, 50.0, 59.5, 60.5)), found=difference(None, None, None, "equal", 0))
    assert "does not separate" not in " ".join(learned.headline(alike))


def test_a_run_without_an_epoch_has_dashes():
    (row, *_) = learned.run_table(RECORDS["nothing"]).rows
    assert row == ("plain", "0", *[units.UNKNOWN] * 5, "not one epoch done")


def test_nothing_finished_is_said_to_be_nothing():
    assert learned.headline(RECORDS["nothing"]) == ("No epoch was finished.",)
    assert row_of(learned.table(RECORDS["nothing"]), "plain")["test, %"] == units.UNKNOWN
    assert figures.curves(RECORDS["nothing"]) is None


def test_data_that_cannot_tell_models_apart_are_said_to_be_that_once():
    digits = replace(DATA, name="digits")
    runs = (run("plain", 0, 60.0, 98.0, 97.5), run("résnet", 0, 60.0, 90.0, 97.1))
    equal = difference(-0.4, -0.9, 0.1, "equal", 2)
    assert "All come above 97.0 %" in learned.headline(training(runs=runs, data=digits, found=equal))[-1]
    assert "All lie within 1.0 point of each other" in learned.headline(training(runs=runs, found=equal))[-1]
    already = replace(digits, note="digits; they saturate near 98 %")
    assert len(learned.headline(training(runs=runs, data=already, found=equal))) == 1
    told_apart = difference(-0.4, -0.7, -0.1, "lower", 2)
    assert len(learned.headline(training(runs=runs, found=told_apart))) == 1


def test_a_gradient_that_fades_is_named_beside_one_that_does_not():
    # 1e-8 to 1e-2 are 1e6; 0.001 to 0.012 are 12.
    said = "Before training plain's gradient falls 1e6x from its last to its first layer, résnet's 12x."
    assert learned.depth_sentence(training(depths=depths())) == said
    assert learned.depth_sentence(training(depths=depths()[1:])) == ""


def test_what_grows_and_what_is_lost_are_named_too():
    growing = tuple(LayerNorms(str(place), 10.0**place, 0.0, 1.0) for place in range(5))
    assert learned.depth_sentence(training(depths=(Depth("plain", growing),))) == (
        "Before training plain's activation grows 1e4x from its first to its last; "
        "plain's gradient is 0 at 5 of 5 layers."
    )


# In every form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("render", [html.render, html.fragment, markdown.render, reporting.as_text])
def test_known_numbers_stand_in_every_form(render):
    source = render(RECORDS["two"])
    text = Page(source).text if source.lstrip().startswith("<") else source
    text = " ".join(text.split())
    for words in ("photos: 100 images", "SGD(lr=0.1, momentum=0.9)", "batch 64", "3 epochs", "seeds 0, 1", "2 threads",
                  "résnet learns better than plain", "+7.0 points [1.5, 12.5]", "78.0 to 80.0"):  # fmt: skip
        assert words in text


def test_pages_and_markdown_have_all_there_is():
    for text in (Page(page_of(RECORDS["two"])).text, markdown.render(RECORDS["two"])):
        for words in ("What they learn", "At equal budgets", "900.0 MMACs", "Epoch by epoch", "Every run",
                      "falls 1e6x", "Every layer of plain", "1.0e-08", "1,000x or more", "Machine and method",
                      "a processor"):  # fmt: skip
            assert words in text


@each_record
def test_a_page_is_well_formed_alone_and_offline(record):
    page = Page(page_of(record))
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "None" not in page.text
    assert "nan" not in page_of(record).lower().replace("became nan", "")
    for svg in re.findall(r"<svg.*?</svg>", page_of(record), re.DOTALL):
        ElementTree.fromstring(svg)


@each_record
def test_text_markdown_and_json_hold_every_record(record):
    assert "None" not in markdown.render(record)
    assert "None" not in reporting.as_text(record)
    assert store.from_document(store.to_document(record) | {}) is not None
    assert len(reporting.to_dataframe(record)) == sum(len(each.images) for each in record.runs)


@pytest.mark.parametrize("record", [RECORDS["two"], RECORDS["nothing"]])
def test_a_fragment_leaves_the_notebook_as_it_is(record):
    assert not {"html", "head", "body", "style", "script"} & set(Page(html.fragment(record)).tags)


def test_lines_are_told_apart_without_colours():
    svg = figures.curves(RECORDS["two"])
    assert svg == figures.curves(RECORDS["two"])
    assert "stroke-dasharray" in svg
    assert svg.count(">résnet<") == 1  # one legend


def test_names_are_escaped():
    for source in (page_of(RECORDS["many"]), markdown.render(RECORDS["many"])):
        assert NASTY not in source
        assert "&lt;b&gt;&amp;" in source


def test_failures_interruptions_and_checkpoints_are_doubts_unless_one_speaks_of_them():
    odd = with_run(FAILED, partial=True)
    odd = replace(odd, runs=(replace(odd.runs[0], resumed_at=2), *odd.runs[1:]))
    for text in (Page(page_of(odd)).text, markdown.render(odd), " ".join(reporting.as_text(odd).split())):
        for words in ("it was interrupted", "stopped: the loss became NaN at step 37", "went on from a checkpoint"):
            assert words in text
    said = Doubt("training", "it was interrupted; the loss became NaN at step 37; from a checkpoint")
    assert learned.doubts(replace(odd, doubts=(said,))) == (said,)
    assert learned.doubts(training()) == ()


def test_epochs_are_labelled_at_whole_numbers():
    assert ">0.95<" not in figures.curves(RECORDS["one epoch"])


# Within a comparison -------------------------------------------------------------------------------------------------


def test_a_comparison_has_a_section_of_what_was_trained():
    both = replace(comparison("slim"), training=with_run(FAILED, depths=depths()))
    for text in (Page(html.render(both)).text, markdown.render(both), " ".join(reporting.as_text(both).split())):
        for words in ("Training", "photos: 100 images", "résnet learns better than plain", "at 900.0 MMACs",
                      "falls 1e6x", "the loss became NaN at step 37"):  # fmt: skip
            assert words in text
        assert "cnnprof train" not in text  # the comparison's own command stands at its foot
    assert "résnet learns better than plain" in Page(html.fragment(both)).text


def test_without_training_a_comparison_says_nothing_of_it():
    for text in (Page(html.render(comparison("slim"))).text, markdown.render(comparison("slim"))):
        assert "learns" not in text
        assert "At equal budgets" not in text
