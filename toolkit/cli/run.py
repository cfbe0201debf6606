"""``dmdkit train``, ``dmdkit import`` and ``dmdkit evaluate``: the commands that make and measure runs."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmdkit.cli.console import err, finish, note, print_json
from dmdkit.cli.console import out as console_out
from dmdkit.errors import ConfigError, DataError, MissingDependencyError, RunError

if TYPE_CHECKING:
    from dmdkit.config import RunConfig
    from dmdkit.data import Dataset
    from dmdkit.training.run import Run
    from dmdkit.training.trainer import Progress

__all__ = [
    "RUNS_DIR",
    "NanPolicy",
    "dataset_of_run",
    "evaluate",
    "import_weights",
    "require_torch",
    "train",
    "train_run",
]

RUNS_DIR = Path("runs")
SAMPLE_FILE = "dmdkit-sample.npz"


class NanPolicy(str, Enum):
    """What to do with NaN and infinities."""

    refuse = "refuse"
    zero = "zero"


def require_torch(purpose: str) -> None:
    """Checks that PyTorch can be imported.

    Raises:
        MissingDependencyError: It cannot.
    """
    try:
        import torch  # noqa: F401
    except ImportError as cause:
        raise MissingDependencyError("torch", "train", purpose) from cause


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


def load_data(path: str, config: RunConfig) -> Dataset:
    """The feature file ``path``, read as ``config`` says."""
    from dmdkit.data import load_dataset

    data = config.data
    return load_dataset(path, task=data.task, label_range=data.label_range, nan_policy=data.nan_policy)


def dataset_of_run(run: Run, *, needed_for: str) -> Dataset:
    """The data a run was trained on, from the path in its config, if it is still the same file.

    Raises:
        DataError: It is unknown, gone, or another file by now.
    """
    data = run.config.data
    if data.path is None:
        raise DataError(f"{run.path} does not know its data (it was imported); name a feature file for {needed_for}")
    dataset = load_data(data.path, run.config)
    if data.sha256 is not None and dataset.sha256 != data.sha256:
        raise DataError(
            f"{data.path} is not the file {run.path} was trained on (its SHA-256 differs); name one for {needed_for}"
        )
    return dataset


def _sample_file() -> Path:
    from dmdkit.data import SAMPLE_DESCRIPTION, sample_dataset, write_dataset

    path = RUNS_DIR / SAMPLE_FILE
    write_dataset(sample_dataset(0), path)
    note(f"no --data given: training on the embedded sample, written to {path}; name your own file with --data")
    note(SAMPLE_DESCRIPTION)
    return path


def train_run(
    data: Path | None,
    config_name: str,
    out: Path | None,
    assignments: list[str],
    *,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Run:
    """Trains, choosing what was not said and saying what was chosen; see :func:`train`."""
    require_torch("training")
    from dmdkit.config import load_run_config, recipe_path
    from dmdkit.training.run import CONFIG_FILE, read_config
    from dmdkit.training.trainer import train as train_into

    if resume:
        if out is None:
            raise ConfigError("--resume needs the run to go on with: --out RUN")
        if not (out / CONFIG_FILE).is_file():
            raise RunError(f"{out}: nothing to resume: no {CONFIG_FILE}; start it without --resume")
        config = load_run_config(out / CONFIG_FILE, assignments)
        if any(assignment.split("=")[0] != "training.epochs" for assignment in assignments):
            raise ConfigError("--resume goes on with the run's own settings; only --epochs and --device may change")
        if force:
            raise ConfigError("--resume and --force contradict each other; choose one")
        before = read_config(out)
        path = str(data) if data is not None else before.data.path
        if path is None:
            raise RunError(f"{out}: it does not say which data it was trained on; pass --data")
    else:
        path = str(data or _sample_file())
        config = load_run_config(recipe_path(config_name), assignments)
    dataset = load_data(path, config)
    for text in dataset.notes:
        note(f"{path}: {text}")
    recorded = config.data.model_copy(update={"path": str(Path(path).resolve()), "sha256": dataset.sha256})
    if resume and config.data.sha256 not in (None, dataset.sha256):
        raise RunError(f"{path} is not the file the run began with (its SHA-256 differs)")
    config = config.model_copy(update={"data": recorded})
    target = out or _free_name(f"{Path(path).stem}-{Path(config_name).stem}")
    return train_into(config, dataset, target, device=device, force=force, resume=resume, progress=_progress(quiet))


def train(
    data: Annotated[Path | None, typer.Option(help="MMSA .pkl, .npz or .safetensors; without it, the embedded sample.")] = None,
    config: Annotated[str, typer.Option(help="A recipe: small, mosi-aligned, mosei-aligned, or a YAML file.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Run directory; without it, a new one under runs/.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many epochs.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, batches and dropout.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: training.batch_size=32.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out after an interruption.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    nan_policy: Annotated[
        NanPolicy | None,
        typer.Option(help="Refuse NaN and infinite features, or replace them by zero; else the recipe's."),
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
    assignments += [f"data.nan_policy={nan_policy.value}"] if nan_policy is not None else []
    run = train_run(data, config, out, assignments, device=device, resume=resume, force=force, quiet=json)
    from dmdkit.training.run import metrics_of

    metrics = metrics_of(run.path)
    if json:
        print_json({"run": str(run.path), **metrics})
    else:
        _print_metrics(metrics)
    finish(
        f"{run.path}/ (model.safetensors, metrics.json, history.csv)",
        f"dmdkit export {shlex.quote(str(run.path))} --int8",
    )


def _print_metrics(metrics: dict[str, Any]) -> None:
    from rich.table import Table

    names = [name for split in metrics["splits"].values() for name in split]
    table = Table(title=f"best epoch {metrics['best_epoch']} of {metrics['epochs']}" if "best_epoch" in metrics else None)
    table.add_column("split")
    columns = list(dict.fromkeys(names))
    for name in columns:
        table.add_column(name, justify="right")
    for split, values in metrics["splits"].items():
        cells = [values.get(name) for name in columns]
        table.add_row(split, *("-" if v is None else str(v) if isinstance(v, int) else f"{v:.4f}" for v in cells))
    console_out.print(table)


def import_weights(
    weights: Annotated[Path, typer.Argument(help="A published .pth (state_dict) or a .safetensors.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads; no tensor shows them (MOSI 10, MOSEI 6).")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    label_range: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Range of the regression label.")] = (
        -3.0,
        3.0,
    ),
    drop_text_encoder: Annotated[
        bool, typer.Option("--drop-text-encoder", help="Leave a BERT out; the bundle then takes its features as input.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
) -> None:
    """Turn a published DMD checkpoint into a run; all sizes are read from its tensors.

    Example: dmdkit import dmd-mosi.pth --heads 10 --out runs/mosi-published
    """
    require_torch("import")
    from dmdkit.training.importing import import_checkpoint

    run = import_checkpoint(weights, heads, out, label_range=label_range, drop_text_encoder=drop_text_encoder, force=force)
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
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run on a split, with every metric of its task.

    Example: dmdkit evaluate runs/mosi --data mosi.pkl --split test
    """
    require_torch("evaluation")
    from dmdkit.training.evaluation import load_system, predict, task_metrics
    from dmdkit.training.run import Run

    opened = Run.open(run)
    dataset = load_data(str(data), opened.config) if data is not None else dataset_of_run(opened, needed_for="--data")
    part = split_of(dataset, split)
    check_shapes(opened, dataset)
    predicted = predict(load_system(opened, device), part, device)
    metrics = {
        "samples": len(part),
        **task_metrics(predicted, part.labels, opened.facts.task, opened.facts.label_range),
    }
    if json:
        print_json({"run": str(run), "split": split, **metrics})
    else:
        _print_metrics({"splits": {split: metrics}})


def split_of(dataset: Dataset, name: str) -> Any:
    """The split ``name`` of a dataset.

    Raises:
        DataError: There is none.
    """
    if name not in dataset.splits:
        raise DataError(f"{dataset.source}: no {name} split; it has {', '.join(dataset.splits)}")
    return dataset.splits[name]


def check_shapes(run: Run, dataset: Dataset) -> None:
    """Checks that a dataset fits a run.

    Raises:
        DataError: Other lengths, widths or labels.
    """
    shape = run.facts.shape
    for name, steps in shape.lengths.as_dict().items():
        expected = (steps, shape.feature_dims.as_dict()[name])
        found = (dataset.lengths[name], dataset.feature_dims[name])
        if found != expected:
            raise DataError(
                f"{dataset.source}: {name} has {found[0]} steps of {found[1]} features, {run.path} takes "
                f"{expected[0]} of {expected[1]}"
            )
    if dataset.task != run.facts.task or dataset.num_outputs > shape.num_outputs:
        raise DataError(
            f"{dataset.source}: {dataset.task} with {dataset.num_outputs} outputs, {run.path} does {run.facts.task} "
            f"with {shape.num_outputs}"
        )
