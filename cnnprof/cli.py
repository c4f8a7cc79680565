"""The command line: reads arguments, shows the screen, sets the exit code. Nothing here computes.

Exit codes: 0 it finished; 1 a failed check (gate, verify, sanity, --strict) or a loss that became NaN (train); 2 wrong
usage or unusable input; 3 a gate, verify or sanity that is inconclusive; 130 Ctrl-C. torch is imported by the commands
that need it, when they run.
"""

import contextlib
import fnmatch
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnnprof._version import __version__
from cnnprof.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from cnnprof.learning import Experiment
    from cnnprof.profiling import Listener
    from cnnprof.records import Comparison, Gate, Record, Run, Training
    from cnnprof.training.progress import Tick

STARTED = time.perf_counter()
REPORTS = Path("reports")

app = typer.Typer(
    name="cnnprof",
    help="What a PyTorch network costs, and how two compare. MODEL is a catalog, torchvision or timm name, "
    "package.module:callable or file.py:callable, with arguments if need be: 'bottleneck(channels=512)'.",
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
)

ClickError: type[Exception] = typer.BadParameter.__mro__[2]
"""What Typer raises for wrong usage; it lives in click, or in the copy of click that newer releases of Typer carry."""


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.stdout is None:  # closed by whoever called us
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # for as long as we run
    try:
        code = _run()
        sys.stdout.flush()
    except UsageError as error:
        code = _complain(str(error), 2)
    except ClickError as error:
        said = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        code = _complain(f"{said}; see cnnprof --help", 2)
    except KeyboardInterrupt:
        code = _complain("interrupted before anything was measured", 130)
    except (BrokenPipeError, SystemExit):  # whoever read our output has gone (rich exits then): nothing is left to say
        code = _without_stdout(0)
    except OSError as error:
        code = _without_stdout(_complain(f"standard output cannot be written: {error.strerror}", 2))
    gc.freeze()  # what is left goes with the process: to search it for garbage takes torch most of a second
    sys.exit(code)


def _run() -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("cnnprof", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as exit_:
        return exit_.exit_code
    return 0


def _without_stdout(code: int) -> int:
    """Let nothing be written any more, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _complain(text: str, code: int) -> int:
    print(f"cnnprof: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    return code


def _version(asked: bool) -> None:
    if asked:
        print(f"cnnprof {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)  # noqa: T201
        raise typer.Exit(2)


# Options that several commands share ---------------------------------------------------------------------------------

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model; see cnnprof models.")]
InputSize = Annotated[
    str | None, typer.Option("--input-size", metavar="CxHxW", help="3x224x224 or 224, without the batch.")
]
Batch = Annotated[int, typer.Option("-b", "--batch-size", help="Images in a batch.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
ModeOption = Annotated[str | None, typer.Option("--mode", help="inference or training; both by default.")]
Dtype = Annotated[
    str, typer.Option("--dtype", "--precision", help="float32, bfloat16, float16, float64, or own: the model's types.")
]
Amp = Annotated[bool, typer.Option("--amp", help="Autocast to bfloat16.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Lay images and weights out with channels last.")]
Compile = Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads; torch's own number by default.")]
Margin = Annotated[str, typer.Option("--margin", help="Candidates whose times differ by less are equal.")]
Processes = Annotated[bool, typer.Option("--processes", help="Run every session in a process of its own.")]
Over = Annotated[
    list[str] | None,
    typer.Option("--over", metavar="NAME=V,V", help="Try values of a setting or an argument: batch-size=1,8,64."),
]
Roofline = Annotated[bool, typer.Option("--roofline", help="Put layers against the machine's limits.")]
Erf = Annotated[bool, typer.Option("--erf", help="Measure the effective receptive field, and draw it.")]
Seconds = Annotated[
    float | None, typer.Option("--time", help="Seconds of measuring: 10, and 5 a model beyond two, by default.")
]
Ci = Annotated[str, typer.Option("--ci", help="Stop early when every interval's half-width is below this.")]
Seed = Annotated[int, typer.Option("--seed", help="Of weights, inputs and the order of bursts.")]
Allocator = Annotated[
    Literal["kept", "system"], typer.Option("--allocator", help="system times what a plain program pays.")
]
CudnnBenchmark = Annotated[
    bool | None,
    typer.Option("--cudnn-benchmark/--no-cudnn-benchmark", help="On CUDA: try algorithms, keep the fastest."),
]
Tf32 = Annotated[bool | None, typer.Option("--tf32/--no-tf32", help="On CUDA: round products of float32.")]
Loss = Annotated[
    str | None, typer.Option("--loss", metavar="FILE.py:FN", help="Output to loss, in place of the fixed one.")
]
Output = Annotated[
    list[str] | None, typer.Option("-o", "--output", metavar="NAME.html|.md|.json|.csv|DIR", help="May be repeated.")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no files.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, and no table.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Times that all images are seen: 10.")]
TrainSeconds = Annotated[
    float | None, typer.Option("--seconds", help="Of training steps, for each model and seed, in place of epochs.")
]
Seeds = Annotated[int, typer.Option("--seeds", help="How many: each model is trained from each.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME",
        help="auto, digits, cifar10, cifar100, mnist, fashion-mnist, folder:PATH, fake; auto: CIFAR-10 or digits.",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where data sets lie: ~/.pytorch-datasets.")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a data set that is not there.")]
ShowWork = Annotated[
    bool, typer.Option("--show-work", help="Show how parameters and MACs come about, in symbols and in numbers.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if an operator was not counted.")]
Depth = Annotated[int, typer.Option("--depth", help="Levels of the tree of layers.")]
Sort = Annotated[str | None, typer.Option("--sort", help="By params, macs or activations.")]


# Commands ------------------------------------------------------------------------------------------------------------


@app.command()
def compare(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL MODEL...", help="The first is the baseline.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A known pair in place of MODELs: he2016.")] = None,
    match: Annotated[
        Literal["params", "macs"] | None, typer.Option("--match", help="Make the others as large as the first.")
    ] = None,
    vary: Annotated[
        str | None, typer.Option("--vary", metavar="NAME", help="The integer argument that --match sets: channels.")
    ] = None,
    input_size: InputSize = None,
    batch_size: Batch = 8,
    device: Device = "auto",
    mode: ModeOption = None,
    dtype: Dtype = "own",
    amp: Amp = False,
    channels_last: ChannelsLast = False,
    compile_: Compile = False,
    threads: Threads = None,
    time_s: Seconds = None,
    ci: Ci = "0.5%",
    margin: Margin = "2%",
    processes: Processes = False,
    over: Over = None,
    roofline: Roofline = False,
    erf: Erf = False,
    show_work: ShowWork = False,
    train: Annotated[
        bool, typer.Option("--train", help="Train them, too; of blocks, small networks made of them.")
    ] = False,
    epochs: Epochs = None,
    train_s: TrainSeconds = None,
    seeds: Seeds = 3,
    data: Data = "auto",
    data_dir: DataDir = None,
    seed: Seed = 42,
    allocator: Allocator = "kept",
    cudnn_benchmark: CudnnBenchmark = None,
    tf32: Tf32 = None,
    loss: Loss = None,
    output: Output = None,
    no_report: NoReport = False,
    as_json: Json = False,
    quiet: Quiet = False,
    strict: Strict = False,
) -> None:
    """Compare models by parameters, MACs, time and memory: the main job."""
    if preset and models:
        raise UsageError(f"--preset {preset!r} brings its own models: {', '.join(models)} cannot stand beside it")
    if not models and not preset:
        raise UsageError(
            "compare takes two models or more, or a --preset, and was given none; cnnprof models lists them"
        )
    if models and len(models) < 2 and (match or not over):
        raise UsageError(f"compare takes two models or more and was given {models[0]!r} alone; try cnnprof profile")
    if train and over:
        raise UsageError(f"--train: with --over {', '.join(over)} there is no one pair to train; leave one of both out")
    if vary and not match:
        raise UsageError(f"--vary {vary!r}: --match params or --match macs says what it is varied for")
    _measure(models or [], locals())


@app.command()
def profile(
    model: ModelArgument,
    input_size: InputSize = None,
    batch_size: Batch = 8,
    device: Device = "auto",
    mode: ModeOption = None,
    dtype: Dtype = "own",
    amp: Amp = False,
    channels_last: ChannelsLast = False,
    compile_: Compile = False,
    threads: Threads = None,
    time_s: Seconds = None,
    ci: Ci = "0.5%",
    margin: Margin = "2%",
    processes: Processes = False,
    over: Over = None,
    roofline: Roofline = False,
    erf: Erf = False,
    show_work: ShowWork = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE.json", help="Save a profiled pass in Chrome's format.")
    ] = None,
    seed: Seed = 42,
    allocator: Allocator = "kept",
    cudnn_benchmark: CudnnBenchmark = None,
    tf32: Tf32 = None,
    loss: Loss = None,
    output: Output = None,
    no_report: NoReport = False,
    as_json: Json = False,
    quiet: Quiet = False,
    strict: Strict = False,
) -> None:
    """Measure one model: where its parameters, MACs, time and memory go."""
    _measure([model], locals())


@app.command()
def analyze(
    model: ModelArgument,
    input_size: InputSize = None,
    batch_size: Batch = 1,
    mode: Annotated[str, typer.Option("--mode", help="inference, or training: forward and backward.")] = "inference",
    depth: Depth = 2,
    sort: Sort = None,
    cross_check: Annotated[bool, typer.Option("--cross-check", help="Ask fvcore, too.")] = False,
    show_work: ShowWork = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", help="Run fvcore or torch, and itemise the difference by layer and cause."),
    ] = None,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
    strict: Strict = False,
) -> None:
    """Count parameters, MACs and activations by layer, on shapes alone."""
    from cnnprof.reporting import tree

    tree.check(depth, sort)
    size = _size(input_size)
    places = _places(output)
    with _only_json_on_stdout(as_json) as console:
        with _torch_loading():
            from cnnprof import profiling

        tools = tuple(dict.fromkeys([*(["fvcore"] if cross_check else []), *([explain] if explain else [])]))
        record = profiling.analyze(model, size, batch_size, mode=mode, tools=tools)  # type: ignore[arg-type]
        targets = _targets(places, _slug(model))
        if not (as_json or quiet):
            from cnnprof.reporting import terminal

            console.print(terminal.renderable(record, depth, sort, explain is not None, show_work))
    if as_json:
        _print_json(record)
    _save(record, targets)
    if strict and record.uncounted:
        raise typer.Exit(_complain(f"--strict: {_not_counted(record.model, record)}", 1))


@app.command()
def memory(
    model: ModelArgument,
    input_size: InputSize = None,
    batch_size: Batch = 32,
    mode: ModeOption = None,
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", help="Of torch.optim: 'sgd(momentum=0.9)'; that and adamw by default.")
    ] = None,
    accumulate: Annotated[int, typer.Option("--accumulate", help="Batches before the optimizer steps.")] = 1,
    measure: Annotated[bool, typer.Option("--measure", help="Run a step, too, and compare.")] = False,
    fits: Annotated[
        str | None, typer.Option("--fits", metavar="24GiB|auto", help="Find the largest batch that fits.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda; cuda needs none to be there.")] = "auto",
    dtype: Dtype = "own",
    amp: Amp = False,
    channels_last: ChannelsLast = False,
    threads: Threads = None,
    seed: Seed = 42,
    loss: Loss = None,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict how much memory a model's step takes, and which batch fits."""
    size, places = _size(input_size), _places(output)
    if mode not in (None, "inference", "training"):
        raise UsageError(f"--mode {mode!r}: inference or training was expected")
    if mode == "inference" and optimizer:
        raise UsageError(f"--optimizer {optimizer!r}: --mode inference has none")
    with _only_json_on_stdout(as_json) as console:
        with _torch_loading():
            import torch

            from cnnprof.footprint import predict_memory
        from cnnprof.reporting import terminal

        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        asked = [*_OPTIMIZERS] if optimizer is None else [optimizer]
        others = [(each, None) for each in ("inference",) if mode is None]
        record = predict_memory(
            model,
            size,
            batch_size,
            mode=mode or "training",  # type: ignore[arg-type]
            optimizer=asked[-1],
            beside=[*others, *(("training", each) for each in asked[:-1] if mode != "inference")],  # type: ignore[list-item]
            loss=loss,
            device=device,
            measure=measure,
            fits=fits,
            dtype=dtype,
            amp=amp,
            channels_last=channels_last,
            threads=threads,
            seed=seed,
            accumulate=accumulate,
        )
        targets = _targets(places, f"{_slug(model)}-memory")
        if not (as_json or quiet):
            console.print(terminal.renderable(record))
    if as_json:
        _print_json(record)
    _save(record, targets)
    if record.fit is not None and record.fit.batch_size is None:
        from cnnprof.reporting import memories

        raise typer.Exit(_complain(memories.fit_text(record), 1))


_OPTIMIZERS = ("sgd(momentum=0.9)", "adamw")


@app.command()
def train(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Classifiers; the first is the baseline.")],
    epochs: Epochs = None,
    time_s: TrainSeconds = None,
    data: Data = "auto",
    data_dir: DataDir = None,
    download: Download = False,
    augment: Annotated[bool, typer.Option("--augment", help="Flip and shift training images at random.")] = False,
    input_size: InputSize = None,
    batch_size: Batch = 64,
    optimizer: Annotated[str, typer.Option("--optimizer", help="Of torch.optim: 'sgd(lr=0.1)'.")] = "adam",
    lr: Annotated[float | None, typer.Option("--lr", help="Its learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", help="Its weight decay.")] = None,
    momentum: Annotated[float | None, typer.Option("--momentum", help="Its momentum, where it has one.")] = None,
    seeds: Seeds = 3,
    seed: Annotated[int, typer.Option("--seed", help="The first of the seeds.")] = 42,
    device: Device = "auto",
    amp: Amp = False,
    channels_last: ChannelsLast = False,
    compile_: Compile = False,
    threads: Threads = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints", metavar="DIR", help="Keep checkpoints there; else in checkpoints/ until it is done."
        ),
    ] = None,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train classifiers side by side, on the same images in the same order, from several seeds."""
    places, size = _places(output), _size(input_size)
    with _only_json_on_stdout(as_json) as console:
        with _torch_loading():
            from cnnprof import learning, optimizers
        from cnnprof.reporting import terminal

        keeper = _Keeper(places, lambda run: f"{_slug('-vs-'.join(each.name for each in run.models))}-training")
        with _training_bar(quiet or as_json) as tick:
            record: Training
            try:
                record = learning.train(
                    models,
                    size,
                    batch_size,
                    data=data,
                    data_dir=data_dir,
                    download=download,
                    epochs=epochs,
                    time_s=time_s,
                    optimizer=optimizers.with_arguments(optimizer, lr=lr, weight_decay=weight_decay, momentum=momentum),
                    seeds=_seeds(seed, seeds),
                    augment=augment,
                    device=device,
                    amp=amp,
                    channels_last=channels_last,
                    compile=compile_,
                    threads=threads,
                    checkpoints=checkpoints or Path("checkpoints"),
                    keep_checkpoints=checkpoints is not None,
                    listener=learning.Listener(keeper.update, tick),
                )
            except Interrupted as interrupted:
                record = interrupted.run
        targets = keeper.finish(record)
        if not (quiet or as_json):
            console.print(terminal.renderable(record))
            if targets:
                console.print(f"Report  {_said(targets)}  {_took()}", highlight=False, soft_wrap=True)
    if as_json:
        _print_json(record)
    raise typer.Exit(_training_code(record))


def _training_code(record: "Training") -> int:
    for run in record.runs:
        if run.not_saved:
            _complain(f"{run.model}, seed {run.seed}: {run.not_saved}", 0)
    if record.partial:
        begun = any(run.images for run in record.runs)
        on = ": the same command goes on from the last whole epochs" if begun else " before an epoch was finished"
        return _complain(f"interrupted{on}", 130)
    failed = [run for run in record.runs if run.failure]
    for run in failed:
        _complain(f"{run.model}, seed {run.seed}: its training stopped: {run.failure}", 1)
    return 1 if failed else 0


@contextlib.contextmanager
def _training_bar(silent: bool) -> Iterator["Callable[[str, int, Tick], None]"]:
    """Show which model is at it, how far its pass has come, and what it has learned, on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield lambda name, seed, tick: None
        return
    from rich.progress import Progress

    from cnnprof.training.progress import columns

    with Progress(*columns(), console=console, transient=True) as progress:
        task = progress.add_task("", total=None, text="")

        def shown(name: str, seed: int, tick: "Tick") -> None:
            progress.update(
                task, description=f"{name}, seed {seed}", completed=tick.batches, total=tick.total, text=tick.text
            )

        yield shown


@app.command()
def gate(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL... | RUN.json", help="Models, or a saved run of them.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FILE|REF", help="A saved run, or a revision of your repository.")
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option("--fail-on", metavar="LIMIT", help="[MODEL/][LAYERS/]METRIC:PERCENT%, such as params:0%."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Write what was found as the new baseline.")] = False,
    inconclusive: Annotated[
        Literal["pass", "fail"] | None, typer.Option("--inconclusive", help="What an undecided time counts as.")
    ] = None,
    input_size: InputSize = None,
    batch_size: Annotated[int | None, typer.Option("-b", "--batch-size", help="Images in a batch: 8.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", "--precision", help="float32, bfloat16 and so on.")] = None,
    amp: Annotated[bool | None, typer.Option("--amp/--no-amp", help="Autocast to bfloat16.")] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last/--no-channels-last", help="Channels last.")
    ] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Run models through torch.compile.")
    ] = None,
    threads: Threads = None,
    time_s: Annotated[float | None, typer.Option("--time", help="Seconds of measuring: 10, and more for many.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, inputs and the order of bursts.")] = None,
    loss: Loss = None,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold models to a baseline: counts exactly, times by their interval.

    What is not given is taken from [tool.cnnprof] of pyproject.toml.
    """
    given = {
        "models": models,
        "against": against,
        "fail_on": fail_on,
        "inconclusive": inconclusive,
        "input_size": input_size,
        "batch_size": batch_size,
        "device": device,
        "dtype": dtype,
        "amp": amp,
        "channels_last": channels_last,
        "compile": compile_,
        "threads": threads,
        "time": time_s,
        "seed": seed,
        "loss": loss,
    }
    targets = _targets([place.absolute() for place in _places(output)], "gate")
    asked = _configured(given)
    taken = {Path(name).resolve() for name in (asked["against"], *asked["models"])}
    lost = next((target for target in targets if target.resolve() in taken), None)
    if lost is not None:
        raise UsageError(f"-o {lost.name}: a run that is gated goes by that, and stays; another name was expected")
    with _only_json_on_stdout(as_json) as console:
        try:
            record, run, file = _gated(asked, update, quiet or as_json)
        except Interrupted as interrupted:
            record, run, file = replace(interrupted.run, inconclusive=asked.get("inconclusive")), None, None
        if not (as_json or quiet):
            from cnnprof.reporting import terminal

            console.print(terminal.renderable(record))
    if as_json:
        _print_json(record)
    _save(record, targets)
    if record.partial:
        raise typer.Exit(_complain("interrupted: what was measured by then is shown, marked partial", 130))
    if not update:
        raise typer.Exit(record.exit_code)
    assert run is not None
    assert file is not None
    with _only_json_on_stdout(as_json) as console:
        console.print(_new_baseline(run, file), soft_wrap=True)


def _configured(given: dict[str, Any]) -> dict[str, Any]:
    """Add to options what pyproject.toml says, and go where its models are meant. Raises UsageError for what lacks."""
    from cnnprof import configuration

    given = {name: value for name, value in given.items() if value not in (None, [])}
    here = Path.cwd()
    folder, configured = configuration.found(here)
    if folder != here and "models" in configured and "models" not in given:
        os.chdir(folder)
        given = configuration.at(here, given)
    elif folder != here:
        configured = configuration.at(folder, configured)
    asked = {**configured, **given}
    lacking = [told for name, told in _GATE_NEEDS.items() if name not in asked]
    if lacking:
        raise UsageError(f"gate lacks {' and '.join(lacking)}; give it, or set it in [tool.cnnprof] of pyproject.toml")
    return asked


_GATE_NEEDS = {
    "models": "a MODEL (or a RUN.json)",
    "against": "--against FILE (or REF)",
    "fail_on": "--fail-on LIMIT (such as params:0%)",
}


def _gated(asked: dict[str, Any], update: bool, silent: bool) -> "tuple[Gate, Run | None, Path | None]":
    """Hold models, or a saved run, to a baseline; return the run, and the file that it may become the baseline in."""
    from cnnprof.comparison.gate import of_runs
    from cnnprof.comparison.limits import parsed
    from cnnprof.configuration import is_run

    names, where, limits = asked["models"], asked["against"], tuple(map(parsed, asked["fail_on"]))
    outcome, file = asked.get("inconclusive"), Path(where)
    is_file = is_run(file)
    saved = [name for name in names if name.endswith(".json")]
    if update and not is_file:
        raise UsageError(f"--update: --against {where!r} is a revision; a file such as baseline.json was expected")
    if saved and (len(names) > 1 or not is_file):
        raise UsageError(f"{saved[0]}: a saved run is held to another, and alone: {saved[0]} --against FILE.json")
    baseline = _saved_run(file) if is_file and file.is_file() else None
    if saved:
        run = _saved_run(Path(saved[0]))
        return replace(of_runs(limits, baseline, run, file.name), inconclusive=outcome), run, file
    with _torch_loading():
        from cnnprof import gating
    question = gating.asked(names, limits, {**asked, "input_size": _size(asked.get("input_size"))}, baseline, update)
    with _screen(silent) as screen:
        progress = screen.progress if screen is not None else lambda share: None
        if is_file:
            record, run = gating.against_run(question, baseline, file.name, progress)
            return replace(record, inconclusive=outcome), run, file
        return replace(gating.against_revision(question, where, progress), inconclusive=outcome), None, None


def _new_baseline(run: "Run", file: Path) -> str:
    """Write a run as the baseline, and say what it holds.

    Raises UsageError where that would lose a model or a number, or hold later ones to one that failed.
    """
    from cnnprof import store, units
    from cnnprof.comparison.gate import lost, measured

    if run.partial:
        raise UsageError(f"--update: this run was interrupted; {file} stays")
    failed = next((each for each in run.profiles if each.failure), None)
    if failed is not None:
        raise UsageError(f"--update: {failed.name} was not measured to its end: {failed.failure}; {file} stays")
    before = ", ".join(lost(_saved_run(file), run)) if file.is_file() else ""
    if before:
        remedy = "name all models, and a limit on each number, or remove it"
        raise UsageError(f"--update: {file} holds {before}, too, which would be lost; {remedy}")
    store.write_text(file, store.to_json(run))
    held = ["counts", *dict.fromkeys(metric for each in run.profiles for metric in measured(each))]
    models = units.plural(len(run.profiles), "model")
    return f"Baseline  {file} written: {', '.join(held)} of {models}, to which later gates are held."


def _saved_run(path: Path) -> "Run":
    """Read a comparison or a profile."""
    from cnnprof import store
    from cnnprof.records import Comparison, Profile

    record = store.read(path)
    if not isinstance(record, Comparison | Profile):
        raise UsageError(f"{path}: holds no run of models; what compare, profile or gate --update wrote was expected")
    return record


@app.command()
def doctor(
    device: Device = "auto",
    threads: Threads = None,
    anew: Annotated[bool, typer.Option("--anew", help="Measure the limits again, though they are known.")] = False,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell what this machine is, what it can do at most, and how quiet it is."""
    places = _places(output)
    with _only_json_on_stdout(as_json) as console:
        with _torch_loading():
            from cnnprof import profiling
        from cnnprof.reporting import terminal

        targets = _targets(places, "machine")
        with _screen(quiet or as_json) as screen:
            progress = screen.progress if screen is not None else lambda share: None
            report = profiling.doctor(device, threads, anew=anew, progress=progress)
        if not (as_json or quiet):
            console.print(terminal.renderable(report))
    if as_json:
        _print_json(report)
    _save(report, targets)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="Your own code: it is imported, and so runs.")],
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Ends it; what is left is inconclusive.")
    ] = 120.0,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a student's own CNN, blocks, ResNet and classifier against the course's numbers.

    The file is imported as pytest would, so its code runs, in a process of its own. Of a class that differs, the rule
    that is probably broken is named.
    """
    from cnnprof.reporting import checked, terminal
    from cnnprof.verification.process import verify as verified

    targets = _targets(_places(output), f"{_slug(file.stem)}-verification")
    record = verified(file, timeout_s)
    if as_json:
        _print_json(record)
    elif not quiet:
        _console().print(terminal.renderable(record))
    _save(record, targets)
    if record.failure:
        raise typer.Exit(_complain(f"{file}: inconclusive: {record.failure}", 3))
    if not record.passed:
        raise typer.Exit(_complain(f"{file}: {checked.counts(record.checks)}", 1))


@app.command()
def sanity(
    model: ModelArgument,
    input_size: InputSize = None,
    data: Data = "auto",
    data_dir: DataDir = None,
    device: Device = "auto",
    seed: Seed = 42,
    loss: Loss = None,
    threads: Threads = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Ends it; what is left is inconclusive.")
    ] = 1800.0,
    output: Output = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find out whether a classifier can learn at all: some ten checks, each with its number and a hint."""
    size, places = _size(input_size), _places(output)
    with _only_json_on_stdout(as_json) as console:
        with _torch_loading():
            from cnnprof import checkup
        from cnnprof.reporting import checked, terminal

        targets = _targets(places, f"{_slug(model)}-sanity")
        with _screen(quiet or as_json) as screen:
            record = checkup.sanity(
                model,
                size,
                data=data,
                data_dir=data_dir,
                device=device,
                seed=seed,
                loss=loss,
                threads=threads,
                timeout_s=timeout_s,
                progress=screen.progress if screen is not None else lambda share: None,
            )
        if not (as_json or quiet):
            console.print(terminal.renderable(record))
    if as_json:
        _print_json(record)
    _save(record, targets)
    if record.failed:
        raise typer.Exit(_complain(f"{model}: {checked.counts(record.checks)}", 1))
    if record.not_asked:
        raise typer.Exit(_complain(f"{model}: inconclusive, no time was left to ask: {checked.not_asked(record)}", 3))


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Part of a name, or a pattern: 'resnet*'.")] = "",
) -> None:
    """List what can be named; timm's names, which are many, only by pattern."""
    from cnnprof import units
    from cnnprof.models import zoo
    from cnnprof.reporting import tables, terminal

    listed = [*zoo.CATALOG, *zoo.torchvision_models().values()]
    if pattern:
        wanted = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
        listed += [zoo.Listed(name, "timm") for name in zoo.timm_names()]
        listed = [entry for entry in listed if fnmatch.fnmatch(entry.name.lower(), wanted.lower())]
    if not listed:
        raise UsageError(f"no model's name holds {pattern!r}; cnnprof models lists the catalog and torchvision's")
    rows = tuple(
        (entry.name, entry.source, units.integer(entry.params), units.size(entry.input_size)) for entry in listed
    )
    columns = ("model", "from", "params", "input size")
    _console().print(terminal.Fitted(tables.Table("models", columns, rows, frozenset({"model", "from"}))))


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN.json...", help="What compare, profile, ... saved; what pytest-benchmark stored, or its folder."
        ),
    ],
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """Make the Markdown and HTML of saved runs again; with -o FILE, of all of them together.

    Of pytest-benchmark's runs there is always one report: its tests over commits.
    """
    places = _places(output)
    with _screen(quiet, "reading") as screen:
        records = list(_loaded(runs, screen.progress if screen is not None else lambda share: None))
    if not records:
        raise UsageError(f"{', '.join(map(str, runs))}: no run is left to report")
    if stored := _stored(records, runs[0]):
        records = [stored]
    elif len(records) > 1 and any(place.suffix for place in places):
        records = [(runs[0], _joined(records))]
    for path, record in records:
        targets = _targets(places, path.stem) or [path.with_suffix(".md"), path.with_suffix(".html")]
        targets = [target for target in targets if target.resolve() != path.resolve()]
        with _screen(quiet, "writing") as screen:
            for number, target in enumerate(targets, 1):
                _save(record, [target])
                if screen is not None:
                    screen.progress(number / len(targets))
        if not quiet:
            _console().print(f"Report  {_said(targets)}", highlight=False, soft_wrap=True)


def _loaded(paths: Sequence[Path], progress: Callable[[float], None]) -> "Iterator[tuple[Path, Record]]":
    """Read files, and those of folders; in folders, a file that is no whole run is left out with a complaint."""
    from cnnprof import benchmarked, reporting
    from cnnprof.records import Benchmarks

    files = [(path, file) for path in paths for file in _saved(path)]
    for number, (path, file) in enumerate(files, 1):
        try:
            record = reporting.load(file)
            for sentence in benchmarked.left_out(record) if isinstance(record, Benchmarks) else ():
                _complain(sentence, 0)
            yield file, record
        except UsageError as error:
            if file == path:
                raise
            _complain(f"{error}: it is left out", 0)
        progress(number / len(files))


def _saved(path: Path) -> list[Path]:
    """Return the JSON files of a folder; a file as it is."""
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.json"))
    if not files:
        raise UsageError(f"{path}: a folder without a saved run; pytest --benchmark-autosave stores some")
    return files


def _stored(records: "Sequence[tuple[Path, Record]]", asked: Path) -> "tuple[Path, Record] | None":
    """Put what pytest-benchmark stored into one record, beside the name of its report; None where there is more."""
    from cnnprof.benchmarked import together
    from cnnprof.records import Benchmarks

    stored = [(path, record) for path, record in records if isinstance(record, Benchmarks)]
    if len(stored) < len(records):
        return None
    if asked.is_dir():
        return asked / "benchmarks.json", together(stored)
    return (asked if len(stored) == 1 else asked.with_name("benchmarks.json")), together(stored)


def _joined(records: "Sequence[tuple[Path, Record]]") -> "Run":
    from cnnprof.comparison.joined import joined
    from cnnprof.records import Comparison, Profile

    runs = []
    for path, record in records:
        if not isinstance(record, Comparison | Profile):
            raise UsageError(f"{path}: holds no measured models, and is not put together with others; name a folder")
        runs.append(record)
    return joined(runs)


# Measuring -----------------------------------------------------------------------------------------------------------


def _measure(names: Sequence[str], options: dict[str, Any]) -> None:
    """Run compare or profile: check what can be checked first, measure, save, show."""
    places = [] if options["no_report"] else _places(options["output"]) or [REPORTS]
    size = _size(options["input_size"])
    over = _over(options["over"])
    settings: dict[str, Any] = {name: options[name] for name in _SETTINGS} | {
        "compile": options["compile_"],
        "ci": _share("--ci", options["ci"]),
        "margin": _share("--margin", options["margin"]),
        "modes": _modes(options["mode"]),
    }
    with _only_json_on_stdout(options["as_json"]) as console:
        with _torch_loading():
            from cnnprof import profiling
            from cnnprof.models import catalog
            from cnnprof.records import Comparison
        from cnnprof.reporting import terminal

        names = catalog.preset(preset) if (preset := options.get("preset")) else names
        experiment = _experiment(names, size, options) if options.get("train") else None
        keeper = _Keeper(places, _stem)
        with _screen(options["quiet"] or options["as_json"]) as screen:
            listener = _both(keeper, screen)
            arguments = {
                "input_size": size,
                "batch_size": options["batch_size"],
                "loss": options["loss"],
                "listener": listener,
            }
            run: Run
            try:
                if len(names) > 1 or any(len(values) > 1 for values in over.values()):
                    fair: dict[str, Any] = {"over": over, "match": options.get("match"), "vary": options.get("vary")}
                    run = profiling.compare(list(names), **fair, **arguments, **settings)
                else:
                    (name,) = catalog.varied(names[0], over)
                    instruments = profiling.Instruments.tracing(trace) if (trace := options.get("trace")) else None
                    run = profiling.profile(name, instruments=instruments, **arguments, **settings)
            except Interrupted as interrupted:
                run = interrupted.run
        if experiment is not None and not run.partial:
            assert isinstance(run, Comparison)
            run = _trained(run, experiment, options["quiet"] or options["as_json"], keeper)
        targets = keeper.finish(run)
        if not (options["quiet"] or options["as_json"]):
            console.print(terminal.renderable(run, show_work=options["show_work"]))
            if targets:
                console.print(f"Report  {_said(targets)}  {_took()}", highlight=False, soft_wrap=True)
    if options["as_json"]:
        _print_json(run)
    raise typer.Exit(_code(run, options["strict"]))


def _experiment(names: Sequence[str], size: Any, options: dict[str, Any]) -> "Experiment":
    """Check all that training needs before anything is measured."""
    from cnnprof import learning

    return learning.of_compared(
        names,
        options["match"],
        input_size=size,
        data=options["data"],
        data_dir=options["data_dir"],
        epochs=options["epochs"],
        time_s=options["train_s"],
        seeds=_seeds(options["seed"], options["seeds"]),
        device=options["device"],
        threads=options["threads"],
    )


def _trained(run: "Comparison", experiment: "Experiment", silent: bool, keeper: "_Keeper") -> "Comparison":
    """Add what they learn to what was measured."""
    from cnnprof import learning

    with _training_bar(silent) as tick:
        try:
            return learning.alongside(run, experiment, learning.Listener(keeper.update, tick))
        except Interrupted as interrupted:
            known: Comparison = interrupted.run
            return known


def _seeds(first: int, number: int) -> range:
    if number < 1:
        raise UsageError(f"--seeds {number}: a whole number of at least 1 was expected")
    return range(first, first + number)


def _took() -> str:
    return f"{time.perf_counter() - STARTED:.0f} s"


_SETTINGS = (
    "device",
    "dtype",
    "amp",
    "channels_last",
    "threads",
    "processes",
    "roofline",
    "erf",
    "time_s",
    "seed",
    "allocator",
)


def _code(run: "Run", strict: bool) -> int:
    if run.partial:
        return _complain("interrupted: what was measured is saved, marked partial", 130)
    failed = [profile for profile in run.profiles if profile.failure]
    for profile in failed:
        _complain(f"{profile.name}: its measurement stopped: {profile.failure}; the rest is saved", 2)
    if failed:
        return 2
    training = getattr(run, "training", None)
    if training is not None and _training_code(training):
        return 1
    uncounted = [profile for profile in run.profiles if profile.analysis and profile.analysis.uncounted]
    if strict and uncounted:
        return _complain(f"--strict: {_not_counted(uncounted[0].name, uncounted[0].analysis)}", 1)
    return 0


def _not_counted(name: str, analysis: Any) -> str:
    from cnnprof.reporting import tables

    return f"{name}: {tables.not_counted(analysis)}"


class _Keeper:
    """Keeps every state of a run on disk, so that a kill loses nothing, until the whole of it is written."""

    def __init__(self, places: Sequence[Path], stem: "Callable[[Any], str]") -> None:
        self._places, self._stem = places, stem
        self._targets: list[Path] = []
        self._partial: Path | None = None

    def update(self, run: "Run | Training") -> None:
        """Check that the results can be written, once, and write what is known."""
        from cnnprof import store

        if not self._places:
            return
        if not self._targets:
            self._targets = _targets(self._places, self._stem(run))
            first = self._targets[0]
            self._partial = first.with_name(f"{first.stem}.partial.json")
        assert self._partial is not None
        store.write_text(self._partial, store.to_json(run))

    def finish(self, run: "Run | Training") -> list[Path]:
        """Write what was asked for, the JSON first, and take the partial file away, but not after an interruption."""
        targets = self._targets
        if run.partial:
            targets = [target.with_name(f"{target.stem}.partial{target.suffix}") for target in targets]
        _save(run, targets)
        if self._partial is not None and self._partial not in targets:
            self._partial.unlink(missing_ok=True)
        return targets


class _Screen:
    """The table as it fills, above a progress bar, on standard error."""

    def __init__(self, live: Any, bar: Any, doing: str) -> None:
        self._live, self._bar = live, bar
        self._task = bar.add_task(doing, total=1.0)

    def update(self, run: "Run") -> None:
        """Show what is known."""
        from rich.console import Group

        from cnnprof.reporting import terminal

        self._live.update(Group(terminal.renderable(run), self._bar))

    def progress(self, share: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=share)


@contextlib.contextmanager
def _screen(silent: bool, doing: str = "measuring") -> Iterator["_Screen | None"]:
    from rich.console import Console

    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield None
        return
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console)
    with Live(bar, console=console, transient=True, refresh_per_second=4) as live:
        yield _Screen(live, bar, doing)


def _both(keeper: _Keeper, screen: "_Screen | None") -> "Listener":
    from cnnprof.profiling import Listener

    def update(run: "Run") -> None:
        keeper.update(run)
        if screen is not None:
            screen.update(run)

    return Listener(update, screen.progress if screen is not None else lambda share: None)


# Files ---------------------------------------------------------------------------------------------------------------


def _places(output: Sequence[str] | None) -> list[Path]:
    """Check the names given with -o before anything is run; what ends in a slash is a folder."""
    from cnnprof import store
    from cnnprof.reporting import RENDERERS, checked_suffix

    for text in output or ():
        path = Path(text)
        if text in ("", "-") or path.name in RENDERERS:
            raise UsageError(
                f"-o {text!r}: a file such as run.html, or a folder, was expected; --json writes to stdout"
            )
        if text.endswith("/"):
            store.check_writable(path)
        elif path.suffix and not path.is_dir():
            checked_suffix(path)
    return [Path(text) for text in output or ()]


def _targets(places: Sequence[Path], stem: str) -> list[Path]:
    """Turn files and folders into files, the JSON first, and check that they can be written."""
    from cnnprof import store

    named = [
        target
        for place in places
        for target in (
            [place]
            if place.suffix and not place.is_dir()
            else [place / f"{stem}{suffix}" for suffix in (".json", ".md", ".html")]
        )
    ]
    targets = sorted(dict.fromkeys(named), key=lambda target: target.suffix != ".json")
    for folder in dict.fromkeys(target.parent for target in targets):
        store.check_writable(folder)
    return targets


def _save(record: "Record", targets: Sequence[Path]) -> None:
    from cnnprof.reporting import save

    for target in targets:
        save(record, target)


def _said(targets: Sequence[Path]) -> str:
    """reports/a-vs-b.html  (+ .md, .json)."""
    first = next((target for target in targets if target.suffix == ".html"), targets[0] if targets else None)
    others = [target for target in targets if target != first]
    if all(first and target.with_suffix("") == first.with_suffix("") for target in others):
        more = ", ".join(target.suffix for target in reversed(others))
    else:
        more = ", ".join(map(str, others))
    return f"{first}" + (f"  (+ {more})" if more else "")


def _stem(run: "Run") -> str:
    """Name a run's files by its models and by every setting that is not the default."""
    from cnnprof.records import Settings

    given, usual = run.settings, Settings()
    parts = _compared(run)
    settings = {
        f"b{given.batch_size}": given.batch_size not in (None, usual.batch_size),
        "x".join(map(str, given.input_size or ())): given.input_size is not None,
        given.device.replace(":", ""): given.device != usual.device,
        given.dtype: given.dtype != usual.dtype,
        "amp": given.amp,
        "channels-last": given.channels_last,
        "compile": given.compile,
        f"threads{given.threads}": given.threads is not None,
        given.modes[0]: len(given.modes) == 1,
        f"time{given.time_s}": given.time_s is not None,
        f"ci{given.ci}": given.ci != usual.ci,
        f"seed{given.seed}": given.seed != usual.seed,
        f"{given.allocator}-allocator": given.allocator != usual.allocator,
        f"margin{given.margin}": given.margin != usual.margin,
        f"cudnn-benchmark-{given.cudnn_benchmark}": given.cudnn_benchmark is not None,
        f"tf32-{given.tf32}": given.tf32 is not None,
        "processes": given.processes,
        "roofline": given.roofline,
        "erf": given.erf,
        _slug(given.loss): given.loss != usual.loss,
    }
    name = "-".join(["-vs-".join(map(_slug, parts)), *(text for text, differs in settings.items() if differs)])
    if len(name) <= _LONGEST_NAME:
        return name
    import hashlib

    return f"{name[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


_LONGEST_NAME = 120


def _compared(run: "Run") -> list[str]:
    drawn = getattr(run, "map", None)
    if drawn is None:
        return [profile.name for profile in run.profiles]
    return [drawn.baseline, f"{drawn.candidate}-over-{'-'.join(drawn.axes)}"]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


# Reading arguments, writing the screen -------------------------------------------------------------------------------


def _size(text: str | None) -> tuple[int, ...] | int | None:
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if not all(part.strip().isascii() and part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--input-size {text!r}: a size without the batch was expected, such as 3x224x224 or 224")
    return int(parts[0]) if len(parts) == 1 else tuple(int(part) for part in parts)


def _over(texts: Sequence[str] | None) -> dict[str, list[str]]:
    """Read NAME=V,V,...: commas within brackets and quotes are of a value."""
    over: dict[str, list[str]] = {}
    for text in texts or ():
        name, _, values = text.partition("=")
        listed = re.findall(r"(?:[^,()\[\]'\"]|\([^)]*\)|\[[^\]]*\]|'[^']*'|\"[^\"]*\")+", values)
        if not name.strip() or not listed:
            raise UsageError(f"--over {text!r}: NAME=VALUE,VALUE was expected, such as batch-size=1,8,64")
        over[name.strip()] = [value.strip() for value in listed]
    return over


def _share(option: str, text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(f"{option} {text!r}: a share was expected, such as 0.5% or 0.005")
    return share


def _modes(text: str | None) -> tuple[str, ...]:
    from cnnprof.records import MODES

    return MODES if text is None else (text,)


@contextlib.contextmanager
def _torch_loading() -> Iterator[None]:
    """Look for no garbage while torch is imported: it makes none, and the search takes half a second.

    Its C++ log, which it sets up then, holds remarks on a profiled module's own memory: no lines of ours.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


@contextlib.contextmanager
def _only_json_on_stdout(as_json: bool) -> Iterator["Console"]:
    """Send what a user's own code prints to standard error where standard output is to hold one document."""
    console = _console()
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield console


def _print_json(record: "Record") -> None:
    from cnnprof import store

    sys.stdout.write(store.to_json(record))
