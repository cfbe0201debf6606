"""``dmdkit train``, ``dmdkit import`` and ``dmdkit evaluate``: the commands that make and measure runs."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from json import dumps as json_dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmdkit.cli.console import err, finish, note, print_json, print_table
from dmdkit.cli.feature_files import (
    LabelRangeOption,
    NanPolicy,
    TaskOption,
    dataset_for_run,
    load_data,
    own_dataset_of_run,
    split_of,
)
from dmdkit.cli.requirements import require
from dmdkit.errors import ConfigError, ExitCode, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.utils.tensorboard import SummaryWriter

    from dmdkit.config import RunConfig
    from dmdkit.training.run import Run
    from dmdkit.training.trainer import Progress

__all__ = ["RUNS_DIR", "evaluate", "import_weights", "print_metrics", "train", "train_run"]

RUNS_DIR = Path("runs")
SAMPLE_FILE = "dmdkit-sample.npz"
DEFAULT_RECIPE = "small"


class TrainingInterruptedError(RunError):
    """The user stopped a training; its run can go on."""

    exit_code = ExitCode.INTERRUPTED


def _progress(quiet: bool) -> Progress:
    from dmdkit.training.trainer import SilentProgress

    if quiet:
        return SilentProgress()
    from dmdkit.cli.training_progress import BarProgress, LineProgress

    return BarProgress() if err.is_terminal else LineProgress()


def _free_name(stem: str) -> Path:
    for number in range(1, 10_000):
        path = RUNS_DIR / f"{stem}-{number}"
        if not path.exists():
            return path
    raise RunError(f"{RUNS_DIR}/ has 9,999 runs called {stem}; name one with --out")


def _sample_file() -> Path:
    from dmdkit.data import SAMPLE_DESCRIPTION, sample_dataset, write_dataset

    path = RUNS_DIR / SAMPLE_FILE
    write_dataset(sample_dataset(0), path)
    note(f"no --data given: training on the embedded sample, written to {path}; name your own file with --data")
    note(f"it is {SAMPLE_DESCRIPTION.partition('. ')[0]}; see it with: dmdkit data inspect {path}")
    return path


def _resumed_config(out: Path | None, config_name: str | None, assignments: Sequence[str], *, force: bool) -> RunConfig:
    """The config of the run to go on with; only the number of epochs may differ."""
    from dmdkit.config import load_run_config
    from dmdkit.training.run import CONFIG_FILE
    from dmdkit.training.run_directory import check_resumable

    if out is None:
        raise ConfigError("--resume needs the run to go on with: --out RUN")
    if force:
        raise ConfigError("--resume and --force contradict each other; choose one")
    if config_name is not None or any(assignment.partition("=")[0] != "training.epochs" for assignment in assignments):
        raise ConfigError("--resume goes on with the run's own settings; only --epochs, --data and --device may be given")
    return load_run_config(check_resumable(out) / CONFIG_FILE, assignments)


def _began(path: Path) -> tuple[Path, int, int] | None:
    """What tells the latest training of a run directory from one that began before: its config file, as it is on disk."""
    from dmdkit.training.run import CONFIG_FILE
    from dmdkit.training.run_directory import training_directory

    config = training_directory(path) / CONFIG_FILE
    try:
        return config, config.stat().st_ino, config.stat().st_mtime_ns
    except OSError:
        return None


@contextmanager
def _told_how_to_go_on(out: Path, *, resume: bool) -> Iterator[None]:
    """Ends an interruption, and a disk that fills, with the command that goes on, where the training had begun."""
    from dmdkit.training.run import CHECKPOINT_FILE, MODEL_FILE
    from dmdkit.training.run_directory import training_directory

    before = None if resume else _began(out)
    go_on = f"go on with: dmdkit train --resume --out {shlex.quote(str(out))}"
    try:
        yield
    except KeyboardInterrupt as cause:
        if _began(out) == before:
            raise TrainingInterruptedError("interrupted") from cause
        kept = training_directory(out) != out and (out / MODEL_FILE).is_file()
        told = f"interrupted; {out} is still the run it was; " if kept else "interrupted; "
        raise TrainingInterruptedError(told + go_on) from cause
    except RunError as cause:
        left = (training_directory(out) / CHECKPOINT_FILE).is_file() and _began(out) != before
        if isinstance(cause.__cause__, OSError) and left:
            raise RunError(f"{cause}; then {go_on}") from cause
        raise


def _event_writer(directory: Path) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(directory))
    except OSError as cause:
        raise ConfigError(f"--tensorboard {directory}: cannot be written: {cause.strerror or cause}; name another") from cause


def train_run(
    data: Path | None,
    config_name: str | None,
    out: Path | None,
    assignments: Sequence[str],
    *,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    events: Path | None = None,
) -> Run:
    """Trains, choosing what was not said and saying what was chosen; see :func:`train`.

    Everything that can be wrong with the request is found before anything is written.
    """
    require("training", "train", "torch", "lightning_fabric")
    if events is not None:
        require("--tensorboard", "tensorboard", "tensorboard")
    from dmdkit.config import load_run_config, recipe_path
    from dmdkit.training.devices import checked_device
    from dmdkit.training.planning import resolved
    from dmdkit.training.run_directory import check_target
    from dmdkit.training.trainer import train as train_into

    if resume:
        config = _resumed_config(out, config_name, assignments, force=force)
    else:
        config = load_run_config(recipe_path(config_name or DEFAULT_RECIPE), assignments)
    checked_device(device)
    if out is not None and not resume:
        check_target(out, force=force)
    if data is None and config.data.path is None and resume:
        raise RunError(f"{out}: it does not say which data it was trained on; pass --data")
    path = str(data or config.data.path or _sample_file())
    dataset = load_data(path, config)
    for text in dataset.notes:
        note(f"{path}: {text}")
    for name, array in dataset.splits["train"].features().items() if "train" in dataset.splits else ():
        if not array.any():
            note(f"{path}: {name} is zero in every training sample: the model learns to do without it")
    own = data is None or resume  # the file the config means, not another one for the same settings
    if own and config.data.sha256 not in (None, dataset.sha256):
        began = "the run began with" if resume else "this config was used with"
        raise RunError(f"{path} is not the file {began} (its SHA-256 differs); name the right one with --data")
    planned = []
    if "train" in dataset.splits and not resume:
        planned = resolved(config, *(len(dataset.splits.get(name, ())) for name in ("train", "valid")))[1]
    recorded = config.data.model_copy(update={"path": str(Path(path).resolve()), "sha256": dataset.sha256})
    config = config.model_copy(update={"data": recorded})
    if config.text_encoder is not None:
        require("training with a text encoder", "text", "transformers", "tokenizers")
    target = out or _free_name(f"{Path(path).stem}-{Path(config_name or DEFAULT_RECIPE).stem}")
    from dmdkit.cli.training_progress import Announced, WithEvents

    with _told_how_to_go_on(target, resume=resume):
        progress: Progress = Announced(_progress(quiet), planned)
        if events is not None:
            progress = WithEvents(progress, _event_writer(events))
        return train_into(config, dataset, target, device=device, force=force, resume=resume, progress=progress)


def train(
    data: Annotated[Path | None, typer.Option(help="MMSA .pkl, .npz or .safetensors; without it, the embedded sample.")] = None,
    config: Annotated[
        str | None,
        typer.Option(help="A recipe: small, mosi-aligned, mosei-aligned, or a YAML file.", show_default=DEFAULT_RECIPE),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; without it, a new one under runs/.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many epochs.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, batches and dropout.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    folds: Annotated[
        int | None,
        typer.Option(min=0, help="Folds of a cross-validation that chooses the epochs; then all samples train. 0: none."),
    ] = None,
    text_encoder: Annotated[
        Path | None,
        typer.Option(help="Directory of a BERT in Hugging Face layout, trained with the model on the file's transcripts."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: training.batch_size=32.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out after an interruption.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out, once this one has finished.")] = False,
    nan_policy: Annotated[
        NanPolicy | None,
        typer.Option(help="Refuse NaN and infinite features, or replace them by zero; else the recipe's."),
    ] = None,
    task: Annotated[TaskOption | None, typer.Option(help="What the labels are; else the recipe's.")] = None,
    label_range: LabelRangeOption = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Also write every epoch's losses and metrics as TensorBoard events into this directory.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train a full DMD model with its GD-Units into a run directory.

    The best epoch is chosen on the validation split; the test split chooses nothing. Every epoch is saved, so an
    interrupted training goes on with --resume to the same bytes.

    Examples: dmdkit train --data mosi.pkl --config mosi-aligned --out runs/mosi

    dmdkit train --data mosi.pkl --set training.learning_rate=3e-4 --seed 2
    """
    assignments = list(set_ or [])
    assignments += [f"training.epochs={epochs}"] if epochs is not None else []
    assignments += [f"training.seed={seed}"] if seed is not None else []
    assignments += [f"training.folds={folds}"] if folds is not None else []
    assignments += [f"text_encoder.path={json_dumps(str(text_encoder))}"] if text_encoder is not None else []
    assignments += [f"data.nan_policy={nan_policy.value}"] if nan_policy is not None else []
    assignments += [f"data.task={task.value}"] if task is not None else []
    assignments += [f"data.label_range=[{label_range[0]}, {label_range[1]}]"] if label_range is not None else []
    run = train_run(data, config, out, assignments, device=device, resume=resume, force=force, quiet=json, events=tensorboard)
    from dmdkit.training.run import metrics_of

    metrics = metrics_of(run.path)
    if json:
        print_json({"run": str(run.path), **metrics})
    else:
        print_metrics(metrics)
        for split, comparison in metrics.get("against_ridge", {}).items():
            note(f"{split}: {comparison['sentence']}")
    for text in metrics.get("warnings", []):
        note(f"warning: {text}")
    finish(
        f"{run.path}/ (model.safetensors, metrics.json, history.csv)",
        f"dmdkit export {shlex.quote(str(run.path))} --int8",
    )


def print_metrics(metrics: dict[str, Any]) -> None:
    """Prints the metrics of every split, a column a split, and beside it what the majority and ridge reach there."""
    splits = dict[str, Any]()
    for split, values in metrics["splits"].items():
        splits[split] = values
        splits |= {f"{name} ({split})": found for name, found in metrics.get("baselines", {}).get(split, {}).items()}
    if not splits:
        return
    title = None
    if "best_epoch" in metrics:
        best, epochs = metrics["best_epoch"], metrics["epochs"]
        title = f"all {epochs} epochs" if metrics.get("schedule") == "fixed" else f"best epoch {best} of {epochs}"
    rows = []
    for name in dict.fromkeys(name for values in splits.values() for name in values):
        cells = [values.get(name) for values in splits.values()]
        rows.append([name, *("-" if v is None else str(v) if isinstance(v, int) else f"{v:.4f}" for v in cells)])
    print_table(["metric", *splits], rows, title=title, right=list(splits))


def import_weights(
    weights: Annotated[Path, typer.Argument(help="A published .pth (state_dict) or a .safetensors.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads; no tensor shows them (MOSI 10, MOSEI 6).")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    label_range: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Range of the regression label.")] = (
        -3.0,
        3.0,
    ),
    text_encoder: Annotated[
        Path | None, typer.Option(help="Directory of the BERT the checkpoint's was made from, for its config and tokenizer.")
    ] = None,
    drop_text_encoder: Annotated[
        bool, typer.Option("--drop-text-encoder", help="Leave a BERT out; the bundle then takes its features as input.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
) -> None:
    """Turn a published DMD checkpoint into a run; all sizes are read from its tensors.

    Example: dmdkit import dmd-mosi.pth --heads 10 --out runs/mosi-published
    """
    require("import", "train", "torch")
    from dmdkit.training.importing import import_checkpoint

    run = import_checkpoint(
        weights,
        heads,
        out,
        label_range=label_range,
        drop_text_encoder=drop_text_encoder,
        text_encoder=text_encoder,
        force=force,
    )
    shape = run.facts.shape
    note(
        f"width {shape.width}, {shape.heads} heads, {shape.levels} levels, {shape.num_outputs} outputs; "
        + ", ".join(
            f"{m} {shape.lengths.as_dict()[m]}x{shape.feature_dims.as_dict()[m]} kernel {shape.kernels.as_dict()[m]}"
            for m in ("text", "audio", "vision")
        )
    )
    for text in run.facts.notes:
        note(text)
    finish(
        f"{run.path}/",
        f"dmdkit export {shlex.quote(str(run.path))} --int8 --calib FEATURES.pkl --parity-data FEATURES.pkl",
    )


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    data: Annotated[Path | None, typer.Option(help="Feature file; without it, the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Also with only some modalities there, the others all zero: seven in all.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run on a split, with every metric of its task.

    Example: dmdkit evaluate runs/mosi --data mosi.pkl --split test
    """
    require("evaluation", "train", "torch")
    from dmdkit.data.fingerprints import counted_by_use, said_of_names, said_of_uses
    from dmdkit.training.devices import checked_device
    from dmdkit.training.evaluation import load_system, predict, step_metrics, subset_metrics, task_metrics
    from dmdkit.training.run import Run, read_seen

    place = checked_device(device)
    opened = Run.open(run)
    only = (split,)
    if data is not None:
        dataset = dataset_for_run(data, opened, only=only, device=place)
    else:
        dataset = own_dataset_of_run(opened, needed_for="--data", only=only, device=place)
    part = split_of(dataset, split)
    system = load_system(opened, place)
    predicted = predict(system, part, place)
    metrics = {
        "samples": len(part),
        **task_metrics(predicted, part.labels, opened.facts.task, opened.facts.label_range),
    }
    known = read_seen(run)
    made = known.find(part) if known is not None else None
    seen = counted_by_use(made.uses, len(part))[1] if made is not None else {}
    if made is not None and made.named_alike.any():
        note(f"{dataset.source}: {said_of_names(int(made.named_alike.sum()), split)}")
    if seen:
        note(
            f"warning: {dataset.source}: {said_of_uses(seen, split)}, of {len(part)}, by id or by content: these metrics are "
            "not those of held-out data"
        )
    parts = subset_metrics(system, part, opened.facts.task, opened.facts.label_range, place) if subsets else {}
    facts, by_step = opened.facts, dict[str, dict[str, float | None]]()
    if part.steps is not None and part.step_labels is not None:
        by_step = step_metrics(system, part, facts.shape.kernels.text, facts.task, facts.label_range, place)
    if json:
        more = {**({"subsets": parts} if subsets else {}), **({"steps_heard": by_step} if by_step else {})}
        print_json({"run": str(run), "split": split, **metrics, "seen_samples": seen, **more})
        return
    print_metrics({"splits": {split: metrics}})
    if by_step:
        note("after so many steps, against the label of each one's last step:")
        print_metrics({"splits": by_step})
    for there, found in parts.items():
        print_metrics({"splits": {there: found}})
