"""Training runs to rows of text and to sentences: who learns better, over seeds and at equal budgets. No torch.

A model's number is the mean over its seeds. Nothing is called better that its seeds do not carry.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Literal

from cnnprof import units
from cnnprof.records import AccuracyDifference, Depth, Doubt, Learner, Run, Training, TrainingRun
from cnnprof.reporting import tables
from cnnprof.reporting.tables import Table
from cnnprof.statistics import ACCURACY_MARGIN

Budget = Literal["epochs", "seconds", "macs"]

SATURATED_PERCENT = 97.0
"""Of the digits: small networks of any kind come there."""

FADES = 1000.0
"""From one end of a network to the other; a learning rate that suits one end is then as far off at the other."""


def of(run: Run) -> Training | None:
    """Return what was trained along with a run."""
    return getattr(run, "training", None)


def title(training: Training) -> str:
    """Which learns better, plain or resnet? What resnet learns."""
    names = [learner.name for learner in training.models]
    if len(names) == 1:
        return f"What {names[0]} learns"
    which = "better" if len(names) == 2 else "best"
    return f"Which learns {which}, {', '.join(names[:-1])} or {names[-1]}?"


def header(training: Training) -> str:
    """Say the data, how they were trained on, and the machine's part that shows in seconds."""
    machine = training.machine
    device = f"{machine.device} ({machine.device_name})" if machine.device_name else machine.device
    threads = units.plural(training.config.threads or machine.threads, "thread")
    return f"{conditions(training)} · {device}, {threads} · torch {machine.torch.partition('+')[0]}"


def conditions(training: Training) -> str:
    """Return what all models share: data, optimizer, batch, length, seeds."""
    config = training.config
    said = {
        training.dataset.note: True,
        config.optimizer: True,
        f"batch {config.batch_size}": True,
        units.plural(config.epochs or 0, "epoch"): config.epochs is not None,
        f"{units.seconds(config.time_s)} each": config.time_s is not None,
        f"seed{'s' * (len(config.seeds) > 1)} {', '.join(map(str, config.seeds))}": True,
        "augmented": config.augment,
        "bfloat16 autocast": config.amp,
        "channels last": config.channels_last,
        "compiled": config.compile,
    }
    return " · ".join(words for words, holds in said.items() if holds)


# Which runs count, and what they had spent ---------------------------------------------------------------------------


def counted(training: Training, name: str) -> tuple[TrainingRun, ...]:
    """Return a model's runs that go into its numbers: whole ones, else those cut short, else those that failed."""
    runs = tuple(run for run in training.runs_of(name) if run.images)
    ended = tuple(run for run in runs if run.failure is None)
    return tuple(run for run in ended if len(run.images) == training.config.epochs) or ended or runs


def learners(training: Training) -> tuple[Learner, ...]:
    """Return the models that have numbers."""
    return tuple(learner for learner in training.models if counted(training, learner.name))


def spent(learner: Learner, run: TrainingRun, budget: Budget) -> tuple[float, ...]:
    """Return what a run had spent by the end of each epoch."""
    if budget == "seconds":
        return tuple(accumulate(run.epoch_s))
    if budget == "macs":
        return tuple(learner.training_macs * images for images in accumulate(run.images))
    return tuple(range(1, len(run.images) + 1))


def largest_for_all(training: Training, budget: Budget) -> float:
    """Return the most that every run had spent."""
    return min(
        spent(learner, run, budget)[-1] for learner in learners(training) for run in counted(training, learner.name)
    )


def percent_at(training: Training, learner: Learner, budget: Budget, amount: float) -> float | None:
    """Return the mean test accuracy when so much was spent, on straight lines between epochs; None before the first."""
    import numpy as np

    found = []
    for run in counted(training, learner.name):
        places = spent(learner, run, budget)
        if amount < places[0]:
            return None
        found.append(float(np.interp(amount, places, run.test_accuracy_percent)))
    return _mean(found)


@dataclass(frozen=True)
class Point:
    """A model after an epoch: the mean over the seeds that got so far, the least and the largest."""

    spent: float
    mean: float
    low: float
    high: float


def curve(
    training: Training, learner: Learner, budget: Budget, of: Callable[[TrainingRun], Sequence[float]]
) -> tuple[Point, ...]:
    """Return a model's points by epoch; `of` takes losses or accuracies from a run."""
    runs = [(spent(learner, run, budget), of(run)) for run in counted(training, learner.name)]
    points = []
    for epoch in range(max((len(values) for _, values in runs), default=0)):
        there = [(places[epoch], values[epoch]) for places, values in runs if epoch < len(values)]
        values = [value for _, value in there]
        points.append(Point(fmean(place for place, _ in there), fmean(values), min(values), max(values)))
    return tuple(points)


def test_percent(run: TrainingRun) -> Sequence[float]:
    """Return its test accuracies."""
    return run.test_accuracy_percent


def train_loss(run: TrainingRun) -> Sequence[float]:
    """Return its training losses."""
    return run.train_loss


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _finals(training: Training, name: str) -> list[float]:
    return [run.test_accuracy_percent[-1] for run in counted(training, name)]


# Tables --------------------------------------------------------------------------------------------------------------


def table(training: Training) -> Table:
    """A line a model: what it costs, what it gets right after the last epoch, against the baseline, how fast."""
    unit = units.gigas([learner.macs for learner in training.models])
    built = any(learner.model != learner.name for learner in training.models)
    compared = len(training.models) > 1
    against = f"vs {training.baseline}, points"
    left_out = {name for name, needed in (("network", built), (against, compared)) if not needed}
    rows = []
    for learner in training.models:
        runs, finals = counted(training, learner.name), _finals(training, learner.name)
        seconds, images = sum(run.train_s for run in runs), sum(run.images_seen for run in runs)
        cells = {
            "model": learner.name,
            "test, %": units.accuracy(_mean(finals)),
            "min to max": units.accuracies(finals),
            against: _versus(training, learner),
            "train, %": units.accuracy(_mean([run.train_accuracy_percent[-1] for run in runs])),
            "network": learner.model,
            "params": units.integer(learner.params),
            f"{unit.name}MACs": units.in_unit(learner.macs, unit, 3),
            "epochs": units.integers([len(run.images) for run in runs]),
            "s": units.in_unit(seconds / len(runs) if runs else None, units.SECONDS[0], 1),
            "img/s": units.integer(round(images / seconds) if seconds else None),
        }
        rows.append({column: text for column, text in cells.items() if column not in left_out})
    droppable = ("train, %", "img/s", "epochs", f"{unit.name}MACs", "min to max", "params", "network")
    words = frozenset({"model", "network", against})
    return Table("What they learn", tuple(rows[0]), tuple(tuple(row.values()) for row in rows), words, droppable)


def _versus(training: Training, learner: Learner) -> str:
    found = next((each for each in training.comparisons if each.name == learner.name), None)
    if found is None:
        return "" if learner.name == training.baseline else units.UNKNOWN
    return verdict_words(training, learner.name, found.test_accuracy_percent)


def verdict_words(training: Training, candidate: str, found: AccuracyDifference) -> str:
    """+2.2 [0.4, 4.0], higher."""
    if found.difference is None or _not_compared(training, candidate):
        return units.UNKNOWN
    words = units.signed(found.difference, found.ci95)
    return f"{words}, {found.verdict if found.ci95 else 'one seed'}"


def _not_compared(training: Training, candidate: str) -> str:
    """Say why a candidate's accuracy is not put against the baseline's; empty where it is."""
    for name in (candidate, training.baseline):
        epochs = max((len(run.images) for run in counted(training, name)), default=0)
        if not epochs:
            return f"there is no finished run of {name}"
        if failed := _failed(training, name):
            return failed
        if training.config.epochs and epochs < training.config.epochs:
            return f"{name} was stopped after {epochs} of {units.plural(training.config.epochs, 'epoch')}"
    return ""


def _failed(training: Training, name: str) -> str:
    """Plain failed in epoch 5 (seed 42), epoch 7 (seed 43); empty where runs count that did not fail."""
    where = [f"epoch {len(run.images) + 1} (seed {run.seed})" for run in counted(training, name) if run.failure]
    return f"{name} failed in {', '.join(where)}" if where else ""


_BUDGETS: dict[Budget, Callable[[float], str]] = {
    "macs": lambda amount: f"{units.count(amount)}MACs",
    "seconds": units.seconds,
}


def budget_table(training: Training) -> Table | None:
    """Test accuracy at the largest budget of MACs, and of seconds, that every run reached; None of a model alone."""
    trained = learners(training)
    if len(trained) < 2:
        return None
    amounts = {budget: largest_for_all(training, budget) for budget in _BUDGETS}
    rows = tuple(
        (
            learner.name,
            *(units.accuracy(percent_at(training, learner, budget, amount)) for budget, amount in amounts.items()),
        )
        for learner in trained
    )
    columns = ("model", *(f"test, % at {say(amounts[budget])}" for budget, say in _BUDGETS.items()))
    return Table("At equal budgets", columns, rows, frozenset({"model"}))


BUDGET_NOTE = (
    "The budgets are the largest that every run reached: MACs of the forward and backward passes over all images "
    "trained on, and seconds of training steps. Between epochs a straight line is taken; before the first is a dash."
)

CURVES_NOTE = (
    "A line is the mean over the seeds that got so far, the band runs from the least to the largest. MACs are those of "
    "the forward and backward passes over all images trained on; seconds are those of training steps."
)

MOST_EPOCHS = 24


def epoch_table(training: Training) -> Table | None:
    """Mean test accuracy and training loss of every model by epoch; of many epochs some, the last among them."""
    curves = [
        (learner.name, curve(training, learner, "epochs", test_percent), curve(training, learner, "epochs", train_loss))
        for learner in learners(training)
    ]
    longest = max((len(accuracies) for _, accuracies, _ in curves), default=0)
    if not longest:
        return None
    step = -(-longest // MOST_EPOCHS)
    epochs = [epoch for epoch in range(1, longest + 1) if (longest - epoch) % step == 0]
    rows = tuple(
        (
            units.integer(epoch),
            *(
                text
                for _, accuracies, losses in curves
                for text in (
                    units.accuracy(accuracies[epoch - 1].mean) if epoch <= len(accuracies) else units.UNKNOWN,
                    units.loss(losses[epoch - 1].mean) if epoch <= len(losses) else units.UNKNOWN,
                )
            ),
        )
        for epoch in epochs
    )
    columns = ("epoch", *(f"{name}, {what}" for name, _, _ in curves for what in ("test %", "train loss")))
    return Table("Epoch by epoch", columns, rows)


def run_table(training: Training) -> Table:
    """Every run by itself, those too that do not count."""
    rows = tuple(
        (
            run.model,
            str(run.seed),
            units.integer(len(run.images) or None),
            units.accuracy(run.final_percent),
            units.accuracy(max(run.test_accuracy_percent, default=None)),
            units.loss(run.train_loss[-1]) if run.train_loss else units.UNKNOWN,
            units.in_unit(run.train_s if run.images else None, units.SECONDS[0], 1),
            _note(training, run),
        )
        for run in training.runs
    )
    columns = ("model", "seed", "epochs", "test, %", "best, %", "train loss", "s", "note")
    return Table("Every run", columns, rows, frozenset({"model", "note"}))


def _note(training: Training, run: TrainingRun) -> str:
    said = [
        *([f"stopped: {run.failure}"] if run.failure else []),
        *([f"{units.plural(run.resumed_at, 'epoch')} from a checkpoint"] if run.resumed_at else []),
    ]
    if not run.failure and run not in counted(training, run.model):
        said.append("cut short, does not count" if run.images else "not one epoch done")
    return "; ".join(said)


def depth_table(depth: Depth) -> Table:
    """Root mean squares at each layer of a network."""
    rows = tuple((norms.path, units.loss(norms.activation), units.loss(norms.gradient)) for norms in depth.layers)
    return Table(f"Every layer of {depth.model}", ("layer", "activation", "gradient"), rows)


# Sentences -----------------------------------------------------------------------------------------------------------


def sentences(training: Training) -> tuple[str, ...]:
    """Say who learns better, what the data cannot tell, and what depth does."""
    return tuple(sentence for sentence in (*headline(training), depth_sentence(training)) if sentence)


def headline(training: Training) -> tuple[str, ...]:
    """Say who learns better, as far as the seeds carry it, and what the data cannot tell."""
    if not learners(training):
        failed = any(run.failure for run in training.runs)
        return ("No run came to its end." if failed else "No epoch was finished.",)
    if len(training.models) == 1:
        said = [_alone(training, training.models[0])]
    else:
        said = [_against(training, each.name, each.test_accuracy_percent) for each in training.comparisons]
    return tuple(sentence for sentence in (*said, _saturation(training)) if sentence)


def _alone(training: Training, learner: Learner) -> str:
    finals, runs = _finals(training, learner.name), counted(training, learner.name)
    failed = _failed(training, learner.name)
    epochs = units.integers([len(run.images) for run in runs])
    span = f", {units.accuracies(finals)} over {units.plural(len(finals), 'seed')}" if len(finals) > 1 else ""
    return (
        f"{learner.name} gets {units.accuracy(_mean(finals))} % of the test images right{span}, "
        f"after {epochs} epoch{'' if epochs == '1' else 's'}{failed and f': {failed}'}."
    )


_OPENINGS = {
    "higher": "{candidate} learns better than {baseline}:",
    "lower": "{candidate} learns worse than {baseline}:",
    "equal": "{candidate} and {baseline} learn alike:",
    "inconclusive": "Whether {candidate} learns better than {baseline} is inconclusive:",
}


def _against(training: Training, candidate: str, found: AccuracyDifference) -> str:
    names = {"candidate": candidate, "baseline": training.baseline}
    missing = _not_compared(training, candidate) or ("they share no seed" if found.difference is None else "")
    if missing or found.difference is None:
        return f"{candidate} is not compared with {training.baseline}: {missing}."
    opening = _OPENINGS[found.verdict if found.ci95 else "inconclusive"].format(**names)
    mine, theirs = (units.accuracy(percent) for percent in _paired(training, candidate))
    words = f"{mine} % against {theirs} %, {units.points(found.difference, found.ci95)}"
    if found.ci95 is None:
        return f"{opening} {words} with one seed, which carries no interval."
    return f"{opening} {words} over {units.plural(found.seeds, 'seed')}."


def _paired(training: Training, candidate: str) -> tuple[float | None, float | None]:
    """Return the mean accuracies of a candidate and of the baseline over the seeds that both have."""
    mine, theirs = (
        {run.seed: run.test_accuracy_percent[-1] for run in counted(training, name)}
        for name in (candidate, training.baseline)
    )
    both = mine.keys() & theirs.keys()
    return _mean([mine[seed] for seed in both]), _mean([theirs[seed] for seed in both])


def _saturation(training: Training) -> str:
    """Say that the data cannot tell good models apart, where its own note does not."""
    trained = learners(training)
    if not trained or "saturate" in training.dataset.note or any(_failed(training, each.name) for each in trained):
        return ""
    best = [
        max(percent for run in counted(training, learner.name) for percent in run.test_accuracy_percent)
        for learner in trained
    ]
    means = [fmean(_finals(training, learner.name)) for learner in trained]
    if training.dataset.name == "digits" and min(best) > SATURATED_PERCENT:
        return f"All come above {units.accuracy(SATURATED_PERCENT)} %: this data cannot separate good architectures."
    told_apart = {each.test_accuracy_percent.verdict for each in training.comparisons} & {"higher", "lower"}
    if len(means) > 1 and max(means) - min(means) <= ACCURACY_MARGIN and not told_apart:
        return (
            f"All lie within {units.accuracy(ACCURACY_MARGIN)} point of each other: this data, trained on so long, "
            "does not separate these architectures."
        )
    return ""


DEPTH_NOTE = (
    "The root mean square of each layer's output and the norm of the loss's gradient to it, in their order, before "
    f"training. What changes by {units.magnitude(FADES)} or more from one end to the other is named."
)


def depth_sentence(training: Training) -> str:
    """Before training plain's gradient falls 1e6x from its last to its first layer, resnet's 14x; or nothing."""
    fading = (clause for how in _FADING for clause in _fading(training.depths, *how))
    clauses = [*fading, *_without_gradient(training.depths)]
    return f"Before training {'; '.join(clauses)}." if clauses else ""


_FADING: tuple[tuple[str, str, Callable[[float, float], float]], ...] = (
    ("gradient", "falls {} from its last to its first layer", lambda first, last: last / first),
    ("gradient", "grows {} from its last to its first layer", lambda first, last: first / last),
    ("activation", "falls {} from its first to its last", lambda first, last: first / last),
    ("activation", "grows {} from its first to its last", lambda first, last: last / first),
)
"""What is looked at, in which words, and its factor."""


def _fading(depths: Sequence[Depth], what: str, how: str, factor: Callable[[float, float], float]) -> Iterator[str]:
    """Yield a clause where a model has a factor that is worth naming, beside those of the others."""
    factors = {depth.model: factor(*ends) for depth in depths if (ends := _ends(depth, what))}
    fading = [f"{name}'s {what} {how.format(units.magnitude(by))}" for name, by in factors.items() if by >= FADES]
    others = {name: by for name, by in factors.items() if 1 < by < FADES}
    whose = f"{next(iter(others))}'s" if len(others) == 1 else "the others' at most"
    rest = [f"{whose} {units.magnitude(max(others.values()))}"] if others else []
    if fading:
        yield ", ".join((*fading, *rest))


def _without_gradient(depths: Sequence[Depth]) -> Iterator[str]:
    for depth in depths:
        without = sum(layer.gradient == 0 for layer in depth.layers)
        if without:
            yield f"{depth.model}'s gradient is 0 at {without} of {units.plural(len(depth.layers), 'layer')}"


def _ends(depth: Depth, what: str) -> tuple[float, float] | None:
    """Return a size at the first and at the last layer that has one above 0."""
    known = [value for layer in depth.layers if (value := getattr(layer, what))]
    return (known[0], known[-1]) if len(known) > 1 else None


def doubts(training: Training) -> tuple[Doubt, ...]:
    """Return its doubts, with failures, interruptions and checkpoints that none of them speaks of."""
    return (*training.doubts, *_more_doubts(training))


def _more_doubts(training: Training) -> Iterator[Doubt]:
    told = " ".join(doubt.message for doubt in training.doubts)
    if training.partial and "interrupted" not in told:
        yield Doubt("training", "it was interrupted: this is what had been learned by then", "run the command again")
    for run in training.runs:
        where = f"{run.model}, seed {run.seed}"
        if run.failure and run.failure not in told:
            yield Doubt(where, f"its training stopped: {run.failure}; it does not count")
    resumed = sum(run.resumed_at > 0 for run in training.runs)
    if resumed and "checkpoint" not in told:
        runs = units.plural(resumed, "run")
        yield Doubt("seconds", f"{runs} went on from a checkpoint: the seconds are of more than one sitting")


METHOD = (
    "Every model sees the same images in the same order from the same seed; test accuracy is taken after every epoch. "
    "A number is the mean over seeds, and the difference is paired over them: its 95 % interval has the seeds' spread "
    "(Student's t) and the sampling of the test images in it. Seconds are those of training steps, waiting for data "
    "included, testing not."
)


def foot(training: Training) -> tuple[tuple[str, str], ...]:
    """Command, commit, machine, data, method and convention."""
    return (
        ("command", training.command),
        ("commit", training.commit or units.UNKNOWN),
        ("date", training.created),
        ("machine", tables.machine_text(training.machine)),
        ("loss", training.config.loss),
        ("method", METHOD),
        ("convention", tables.convention()),
    )
