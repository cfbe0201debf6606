"""Feature files as the commands need them: read as a run says, and checked against the model they are meant for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmdkit.cli.console import note
from dmdkit.cli.requirements import require
from dmdkit.errors import DataError

if TYPE_CHECKING:
    import torch

    from dmdkit.config import ModelShape, RunConfig
    from dmdkit.data import Dataset, Split
    from dmdkit.data.dataset import Task
    from dmdkit.data.values import NanPolicy as FileNanPolicy
    from dmdkit.runtime.bundle import Bundle
    from dmdkit.runtime.manifest import Manifest
    from dmdkit.training.run import Run

__all__ = [
    "LabelRangeOption",
    "NanPolicy",
    "TaskOption",
    "check_fits",
    "dataset_for_bundle",
    "dataset_for_run",
    "load_data",
    "note_changes",
    "other_padding",
    "own_dataset_of_run",
    "split_for_bundle",
    "split_of",
]


class NanPolicy(str, Enum):
    """What to do with NaN and infinities."""

    refuse = "refuse"
    zero = "zero"


class TaskOption(str, Enum):
    """What the labels are."""

    auto = "auto"
    regression = "regression"
    classification = "classification"


LabelRangeOption = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LOW HIGH", help="Range of regression labels, as in -3 3; else the file's, else inferred."),
]


def _load_for_model(
    path: Path,
    *,
    task: Task,
    declared: bool = False,
    label_range: tuple[float, float] | None,
    own_range: tuple[float, float] | None,
    own_sha256: str | None,
    nan_policy: FileNanPolicy,
    labels_needed: bool = True,
) -> Dataset:
    """A feature file for something that is measured with its labels: they are of the model's task and lie in its range.

    The file that the model was trained on is what it is: a range inferred from its training labels need not hold the others.

    Args:
        path: The file.
        task: The model's.
        declared: Whether its training data were read so because that was said, whatever the file says of its labels.
        label_range: The model's, for a regression.
        own_range: What was declared of the model's own file.
        own_sha256: Hash of that file, if known.
        nan_policy: What to do with NaN and infinities.
        labels_needed: Whether a sample without a label is refused.

    Raises:
        DataError: It cannot be read, or its labels are of another task or on another scale.
    """
    from dmdkit.data import load_dataset
    from dmdkit.files import sha256_of_file

    own = own_sha256 is not None and path.is_file() and sha256_of_file(path) == own_sha256
    known = own_range if own and label_range is not None else label_range
    model_task = None if own or declared else task
    return load_dataset(
        path, task=task, model_task=model_task, label_range=known, nan_policy=nan_policy, labels_needed=labels_needed
    )


def load_data(path: str, config: RunConfig) -> Dataset:
    """The feature file ``path``, read as ``config`` says."""
    from dmdkit.data import load_dataset

    data = config.data
    return load_dataset(path, task=data.task, label_range=data.label_range, nan_policy=data.nan_policy)


def dataset_for_run(
    path: Path, run: Run, *, only: Collection[str] | None = None, device: torch.device | str = "cpu"
) -> Dataset:
    """The feature file ``path`` for the model of ``run``; with a text encoder, its text is what that makes of it.

    Args:
        path: The file.
        run: The run.
        only: Splits that are needed; the encoder passes over the others, which are then left out.
        device: Where the encoder runs.

    Raises:
        DataError: It cannot be read, does not fit, or its labels are on another scale than the run's.
    """
    data = run.config.data
    dataset = _load_for_model(
        path,
        task=run.facts.task,
        declared=data.task != "auto",
        label_range=run.facts.label_range,
        own_range=data.label_range,
        own_sha256=data.sha256,
        nan_policy=data.nan_policy,
    )
    dataset = _with_steps(_with_text(dataset, run, only, device), run)
    check_fits(dataset, run.facts.shape, str(run.path))
    sides = {name: facts.padding_side for name, facts in (run.facts.inputs or {}).items()}
    other = other_padding(dataset, sides, str(run.path))
    if other is not None:
        raise DataError(other)
    return dataset


def _with_text(dataset: Dataset, run: Run, only: Collection[str] | None, device: torch.device | str) -> Dataset:
    if run.facts.text is None:
        return dataset
    require("a run with a text encoder", "text", "transformers", "tokenizers")
    from dmdkit.training.encoder_directory import run_dataset

    splits = {name: split for name, split in dataset.splits.items() if only is None or name in only}
    if not splits:
        split_of(dataset, next(iter(only or ("train",))))  # which says that there is no such split
    return run_dataset(run, replace(dataset, splits=splits), device)


def own_dataset_of_run(
    run: Run, *, needed_for: str, only: Collection[str] | None = None, device: torch.device | str = "cpu"
) -> Dataset:
    """The data a run was trained on, from the path in its config, if it is still the same file.

    Raises:
        DataError: It is unknown, gone, or another file by now.
    """
    data = run.config.data
    if data.path is None:
        raise DataError(f"{run.path} does not know its data (it was imported); name a feature file with {needed_for}")
    if not Path(data.path).exists():
        raise DataError(f"{data.path}, the data {run.path} was trained on, is gone; name a feature file with {needed_for}")
    dataset = load_data(data.path, run.config)
    if data.sha256 is not None and dataset.sha256 != data.sha256:
        raise DataError(
            f"{data.path} is not the file {run.path} was trained on (its SHA-256 differs); name one with {needed_for}"
        )
    return _with_steps(_with_text(dataset, run, only, device), run)


def _with_steps(dataset: Dataset, run: Run) -> Dataset:
    if run.facts.steps != "real":
        return dataset
    from dmdkit.data.real_steps import with_real_steps

    return with_real_steps(dataset, run.facts.shape.kernels)


def dataset_for_bundle(
    path: Path,
    bundle: Bundle,
    split: str,
    *,
    nan_policy: NanPolicy,
    for_verdict: bool = True,
    encode: bool = True,
    encode_with: Run | None = None,
) -> Dataset:
    """The feature file ``path`` for a bundle; where that has a text encoder and the file has words, with their tokens.

    Args:
        path: The file.
        bundle: The bundle.
        split: The split that is needed.
        nan_policy: What to do with NaN and infinities.
        for_verdict: Whether something is measured on the split: its labels must be there and lie in the bundle's range, its
            samples must not be those of the training split, and padding must be where it was in training. Without it, padding
            on the other side is a note: a few samples may end in silence.
        encode: Whether text becomes what the encoder makes of the words; else whoever takes the tokens does it.
        encode_with: The run whose PyTorch encoder does that; else the bundle's own ``text.fp32``.

    Raises:
        DataError: It cannot be read, or does not fit.
    """
    from dmdkit.data import refuse_trained_samples
    from dmdkit.data.tokenise import dataset_with_text

    manifest = bundle.manifest
    dataset = _load_for_model(
        path,
        task=manifest.task,
        label_range=manifest.label_range if for_verdict else None,
        own_range=None,
        own_sha256=manifest.source.data_sha256,
        nan_policy=nan_policy.value,
        labels_needed=for_verdict,
    )
    if for_verdict:
        refuse_trained_samples(dataset, split)
    if encode_with is not None:
        dataset = _with_text(dataset, encode_with, (split,), "cpu")
    else:
        dataset = dataset_with_text(bundle, dataset, (split,), encode=encode)
    if manifest.real_steps:
        from dmdkit.data.real_steps import with_real_steps

        dataset = with_real_steps(dataset, manifest.model.kernels)
    found = dataset.splits.get(split)
    lacks_features = not encode and found is not None and found.tokens is not None
    check_fits(dataset, manifest.model, "the bundle", skip=("text",) if lacks_features else ())
    sides = {name: record.padding_side for name, record in manifest.inputs.items()}
    other = other_padding(dataset, sides, "the bundle")
    if other is not None and for_verdict:
        raise DataError(other)
    return dataset if other is None else replace(dataset, notes=(*dataset.notes, f"warning: {other}"))


def split_for_bundle(dataset: Dataset, name: str, manifest: Manifest, option: str = "--split") -> Split:
    """The split ``name`` of a dataset, if it has every modality the bundle needs.

    Raises:
        DataError: There is no such split, or a modality is zero throughout that the model never did without.
    """
    split = split_of(dataset, name, option)
    for modality, features in split.features().items():
        if modality == "text" and split.tokens is not None:
            continue
        if not features.any() and not manifest.inputs[modality].trained_absent:
            raise DataError(
                f"{dataset.source}: {modality} is zero in every {name} sample, and the model never did without it; give it "
                f"{modality}, or train for that: dmdkit train --set training.modality_dropout=0.2"
            )
    return split


def split_of(dataset: Dataset, name: str, option: str = "--split") -> Split:
    """The split ``name`` of a dataset; ``option`` is how another one is named.

    Raises:
        DataError: There is none.
    """
    if name not in dataset.splits:
        raise DataError(f"{dataset.source}: no {name!r} split; name one it has with {option}: {', '.join(dataset.splits)}")
    return dataset.splits[name]


def note_changes(dataset: Dataset, *kinds: str) -> None:
    """Notes on standard error what the reader changed or doubts: those notes of a dataset that hold one of ``kinds``."""
    for text in dataset.notes:
        if any(kind in text for kind in kinds):
            note(text if text.startswith("warning: ") else f"{dataset.source}: {text}")


def other_padding(dataset: Dataset, sides: Mapping[str, str], model: str) -> str | None:
    """What is wrong where a dataset is padded on the other side than a model's training data; None where nothing is.

    A dataset without padding fits any model, and any dataset fits where the model's side is not known.

    Args:
        dataset: The features.
        sides: Modality -> the model's side; other words than "left" and "right" fit anything.
        model: What to call the model.
    """
    opposite = {"left": "right", "right": "left"}
    made_of_words = any(split.tokens is not None for split in dataset.splits.values())
    for name, side in sides.items():
        if side in opposite and dataset.padding_side[name] == opposite[side] and not (name == "text" and made_of_words):
            return (
                f"{dataset.source}: {name} is padded on the {opposite[side]}, {model} was trained with steps of zeros on the "
                f"{side}: the scores would be wrong; move each sample's features to the {opposite[side]} end, its zeros "
                f"then on the {side}, or make the features as those it was trained on"
            )
    return None


def check_fits(dataset: Dataset, shape: ModelShape, model: str, skip: Collection[str] = ()) -> None:
    """Checks that a dataset of a model's task can be fed to it.

    Args:
        dataset: The features and labels.
        shape: The model's sizes.
        model: What to call it.
        skip: Modalities whose features are not used.

    Raises:
        DataError: Other lengths or widths, or more classes.
    """
    widths = shape.feature_dims.as_dict()
    for name, steps in shape.lengths.as_dict().items():
        if name in skip:
            continue
        found = (dataset.lengths[name], dataset.feature_dims[name])
        if found != (steps, widths[name]):
            raise DataError(
                f"{dataset.source}: {name} has {found[0]} steps of {found[1]} features, {model} takes {steps} of "
                f"{widths[name]}; make the features as those it was trained on"
            )
    if dataset.num_outputs > shape.num_outputs:
        raise DataError(
            f"{dataset.source}: the labels are {dataset.num_outputs} classes, {model} gives {shape.num_outputs}; name a file "
            "of its classes"
        )
