"""``dmdkit data``: look into a feature file, make a sample one, convert between formats."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmdkit.cli import console
from dmdkit.cli.feature_files import LabelRangeOption, NanPolicy, TaskOption
from dmdkit.errors import DataError

if TYPE_CHECKING:
    from dmdkit.data.inspection import DatasetReport, SplitReport
    from dmdkit.data.values import NonFiniteCounts

__all__ = ["app"]

app = typer.Typer(
    name="data",
    help="Look into a feature file, make a sample one, convert between formats. Begin with: dmdkit data sample",
    no_args_is_help=True,
)

_BAR_CHARACTERS = 40


_Task = Annotated[TaskOption, typer.Option(help="What the labels are; auto goes by the file.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An MMSA .pkl, an .npz or a .safetensors.")],
    task: _Task = TaskOption.auto,
    label_range: LabelRangeOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Show shapes, labels, padding, absent modalities, and NaN or infinite values.

    Example: dmdkit data inspect mosi.pkl
    """
    from dmdkit.data import inspect_dataset, load_dataset

    dataset = load_dataset(file, task=task.value, label_range=label_range, nan_policy="keep")
    report = inspect_dataset(dataset)
    if json:
        console.print_json(report.to_json())
        return
    _print_report(report)


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="File to write; .npz or .safetensors chooses the format.")] = Path("sample.npz"),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    force: _Force = False,
) -> None:
    """Write a small generated data set in which every modality helps.

    Example: dmdkit data sample --out sample.npz
    """
    _refuse_existing(out, force)
    from dmdkit.data import SAMPLE_DESCRIPTION, sample_dataset, write_dataset

    write_dataset(sample_dataset(seed), out)
    if seed == 0:
        console.note(SAMPLE_DESCRIPTION)
    console.finish(str(out), f"dmdkit data inspect {shlex.quote(str(out))}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An MMSA .pkl, an .npz or a .safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, .npz or .safetensors.")],
    nan_policy: Annotated[
        NanPolicy, typer.Option(help="Refuse NaN and infinite features, or replace them by zero.")
    ] = NanPolicy.refuse,
    task: _Task = TaskOption.auto,
    label_range: LabelRangeOption = None,
    force: _Force = False,
) -> None:
    """Write a feature file in another format, checked and with padding set to zero.

    Example: dmdkit data convert mosi.pkl mosi.npz --nan-policy zero
    """
    _refuse_existing(target, force)
    from dmdkit.data import load_dataset, write_dataset

    dataset = load_dataset(source, task=task.value, label_range=label_range, nan_policy=nan_policy.value)
    write_dataset(dataset, target)
    for note in dataset.notes:
        console.note(f"note: {note}")
    console.finish(str(target), f"dmdkit data inspect {shlex.quote(str(target))}")


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise DataError(f"{path} exists; choose another name or pass --force to replace it")


def _print_report(report: DatasetReport) -> None:
    labels = f"{report.num_classes} classes"
    if report.label_range is not None:
        labels = f"labels from {report.label_range[0]:g} to {report.label_range[1]:g}"
    console.say(f"{report.source}: {report.task}, {labels}")
    console.say(f"sha256 {report.sha256}")
    _print_features(report)
    for name, split in report.splits.items():
        _print_histogram(name, split)
        if split.step_labels:
            console.say(f"  {split.step_labels} steps have a label of their own (step_labels)")
    for note in report.notes:
        console.say(f"note: {note}")
    if report.nan_policy_needed == "zero":
        console.say("not every feature is finite: training and converting refuse this file as it is")
        console.note("mend the features, or pass --nan-policy zero to them")
    else:
        console.say("every feature is finite")


def _print_features(report: DatasetReport) -> None:
    rows = []
    for name, split in report.splits.items():
        for modality, part in split.modalities.items():
            size = " x ".join(str(length) for length in part.shape)
            rows.append([name, modality, size, part.padding_side, f"{part.empty_share:.1%}", _non_finite(part.non_finite)])
    heads = ["split", "modality", "N x T x D", "padding", "empty", "not finite (worst columns)"]
    console.print_table(heads, rows, right=["empty"])


def _non_finite(counts: NonFiniteCounts) -> str:
    kinds = {"NaN": counts.nan, "+inf": counts.positive_inf, "-inf": counts.negative_inf}
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    columns = ", ".join(f"{column}: {count}" for column, count in counts.worst_columns[:3])
    return f"{found} ({columns})" if found else "0"


def _print_histogram(name: str, split: SplitReport) -> None:
    most = max(count for _, count in split.label_histogram)
    width = max(len(label) for label, _ in split.label_histogram)
    console.say(f"{name} labels")
    for label, count in split.label_histogram:
        bar = "#" * round(_BAR_CHARACTERS * count / max(most, 1))
        console.say(f"  {label:>{width}} {count:>6} {bar}".rstrip())
