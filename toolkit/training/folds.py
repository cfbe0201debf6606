"""Cross-validation: how many epochs to train where no validation split can tell, and what to expect of unseen samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from dmdkit.config import RunConfig
from dmdkit.data.dataset import Dataset, Split
from dmdkit.data.step_labels import without_labels
from dmdkit.errors import ConfigError, DataError, RunError
from dmdkit.files import write_json
from dmdkit.training.finished_folds import FinishedFolds
from dmdkit.training.planning import folds_of, schedule_of
from dmdkit.training.run import FOLDS_FILE

__all__ = ["FoldsRecord", "cross_validate", "fold_numbers", "pooled", "read_folds", "require_samples", "with_chosen_epochs"]

_WINDOW_STEPS = 24


class FoldsRecord(BaseModel):
    """What a cross-validation found.

    Attributes:
        fold_of_sample: The fold of each training sample, from 0.
        loss_by_epoch: Mean loss over all samples, each by the model that did not see it.
        chosen: The epoch of least loss, averaged over its neighbours; epochs of the folds' trainings, from 1.
        epochs: As many optimiser steps in epochs of all samples.
        predictions: The outputs for each sample at the chosen epoch, of the model that did not see it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    fold_of_sample: list[int]
    loss_by_epoch: list[float]
    chosen: int
    epochs: int
    predictions: list[list[float]]

    def outputs(self) -> npt.NDArray[np.float32]:
        """``predictions`` as (N, C)."""
        return np.asarray(self.predictions, np.float32)


def require_samples(config: RunConfig, dataset: Dataset) -> None:
    """Checks that ``dataset`` has the splits and samples that training ``config`` needs.

    Raises:
        DataError: A split is missing, or there is too little to train on.
        ConfigError: Folds cannot go with what else the recipe says.
    """
    folds = folds_of(config.training, len(dataset.splits.get("valid", ())))
    for name in ("train",) if folds else ("train", "valid"):
        if name not in dataset.splits:
            raise DataError(
                f"{dataset.source}: training needs a {name} split, found {', '.join(dataset.splits)}; "
                + ("" if name == "train" else "validation chooses the best epoch, unless folds do: --folds 5")
            )
    if len(dataset.splits["train"]) < 2:
        raise DataError(f"{dataset.source}: the train split has one sample; training needs at least 2")
    samples = sum(len(dataset.splits[name]) for name in ("train", "valid") if name in dataset.splits)
    if samples < 2 * folds:
        raise DataError(
            f"{dataset.source}: {samples} samples are too few for {folds} folds; expected two a fold; give --folds less"
        )
    if folds and config.text_encoder is not None and config.text_encoder.fine_tune:
        raise ConfigError(
            f"training.folds={config.training.folds} and text_encoder.fine_tune=true: every fold would train the encoder "
            "anew; give --folds 0, or keep the encoder as it is with --set text_encoder.fine_tune=false"
        )


def _joined(first: Split, second: Split) -> Split:
    """The samples of both; what only one of them has is left out, but for labels by step."""
    values: dict[str, Any] = {}
    for field in fields(Split):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name == "step_labels" and (one is None) != (other is None):
            one, other = (
                without_labels(split.text.shape[:2], split.labels.dtype) if found is None else found
                for split, found in ((first, one), (second, other))
            )
        if one is None or other is None:
            values[field.name] = None
        else:
            values[field.name] = (*one, *other) if isinstance(one, tuple) else np.concatenate([one, other])
    return Split(**values)


def pooled(dataset: Dataset) -> Dataset:
    """``dataset`` whose validation samples, where there are any, are training samples."""
    splits = dict(dataset.splits)
    if "valid" in splits:
        splits["train"] = _joined(splits["train"], splits.pop("valid"))
    return replace(dataset, splits=splits)


def fold_numbers(samples: int, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each sample, (N,): sizes differ by at most one."""
    numbers = np.arange(samples) % folds
    return np.random.default_rng((seed, folds)).permutation(numbers)


def _chosen(losses: npt.NDArray[np.float64], steps_per_epoch: int) -> int:
    """The index of the least loss, averaged over epochs of about 24 steps, at most a fifth of all, around each."""
    reach = min(_WINDOW_STEPS // steps_per_epoch // 2, len(losses) // 10)
    smoothed = [losses[max(0, i - reach) : i + reach + 1].mean() for i in range(len(losses))]
    return int(np.argmin(smoothed))


def cross_validate(
    config: RunConfig,
    dataset: Dataset,
    place: Path,
    curve_of: Callable[[Dataset], tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]],
    on_fold: Callable[[int, int], None],
) -> None:
    """Cross-validates and writes ``folds.json``; folds that were finished before a kill are not trained again.

    Args:
        config: The recipe, with numbers.
        dataset: With the training samples and no validation split.
        place: The run directory.
        curve_of: Trains on a data set's training split and gives, for each epoch, the loss of each validation sample,
            (epochs, N), and the outputs, (epochs, N, C).
        on_fold: Called with the number of each fold, from 1, and how many there are.
    """
    train, folds = dataset.splits["train"], config.training.folds
    assert isinstance(folds, int)
    of_sample = fold_numbers(len(train), folds, config.training.seed)
    losses, outputs = None, None
    finished = FinishedFolds(place, config, train)
    for fold in range(folds):
        held = np.flatnonzero(of_sample == fold)
        found = finished.of(fold)
        if found is None:
            on_fold(fold + 1, folds)
            splits = {"train": train.take(np.flatnonzero(of_sample != fold)), "valid": train.take(held)}
            found = curve_of(replace(dataset, splits=splits))
            finished.add(*found)
        fold_losses, fold_outputs = found
        if losses is None or outputs is None:
            losses = np.zeros((len(fold_losses), len(train)))
            outputs = np.zeros((len(fold_losses), len(train), fold_outputs.shape[2]), np.float32)
        losses[:, held], outputs[:, held] = fold_losses, fold_outputs
    assert losses is not None
    assert outputs is not None
    schedule, means = schedule_of(config.training, len(train), 0), losses.mean(1)
    complete = config.training.incomplete_group == "drop"
    rest = len(train) - len(train) // folds
    in_fold = schedule.steps_per_epoch(rest, complete_groups=complete)
    best = _chosen(means, in_fold)
    epochs = max(1, round((best + 1) * in_fold / schedule.steps_per_epoch(len(train), complete_groups=complete)))
    record = FoldsRecord(
        fold_of_sample=of_sample.tolist(),
        loss_by_epoch=means.tolist(),
        chosen=best + 1,
        epochs=epochs,
        predictions=outputs[best].tolist(),
    )
    write_json(place / FOLDS_FILE, record.model_dump(mode="json"), RunError)


def with_chosen_epochs(config: RunConfig, place: Path) -> RunConfig:
    """``config`` with the number of epochs that the cross-validation of the run directory ``place`` chose."""
    return config.model_copy(update={"training": config.training.model_copy(update={"epochs": read_folds(place).epochs})})


def read_folds(place: Path) -> FoldsRecord:
    """What the cross-validation of a run found.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        return FoldsRecord.model_validate_json((place / FOLDS_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as cause:
        problem = " ".join(str(cause).split())
        raise RunError(f"{place / FOLDS_FILE}: missing or damaged: {problem:.200}; train anew with --force") from cause
