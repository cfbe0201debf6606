"""What a finished training says of itself: metrics, what simpler models reach on the same samples, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.config import TrainingConfig
from dmdkit.data.dataset import Dataset
from dmdkit.data.fingerprints import Fingerprints, SeenAs, SeenSamples
from dmdkit.data.overlap import ids_are_names
from dmdkit.training.baselines import Baselines, compare
from dmdkit.training.checkpoint import TrainingState
from dmdkit.training.evaluation import task_metrics
from dmdkit.training.folds import FoldsRecord
from dmdkit.training.planning import ENOUGH_STEPS, Schedule

__all__ = ["outcome", "seen_samples"]


def outcome(
    state: TrainingState,
    schedule: Schedule,
    settings: TrainingConfig,
    dataset: Dataset,
    outputs: Mapping[str, npt.NDArray[np.float32]],
    folds: FoldsRecord | None = None,
) -> dict[str, Any]:
    """The content of ``metrics.json``.

    Args:
        state: The finished training.
        schedule: What it ran by.
        settings: Its recipe.
        dataset: Its data.
        outputs: The best epoch's, (N, C) for each split to measure.
        folds: The cross-validation that chose the epochs; its outputs for the training samples are measured as ``folds``.
    """
    of_sample = None if folds is None else np.asarray(folds.fold_of_sample)
    baselines = Baselines(dataset, of_sample)
    if folds is not None:
        outputs = {"folds": folds.outputs(), **outputs}
    metrics: dict[str, Any] = {
        "best_epoch": state.best_epoch + 1,
        "epochs": state.next_epoch,
        "stopped_early": state.stopped_early,
        "schedule": schedule.schedule,
        "splits": {},
        "baselines": {},
        "against_ridge": {},
        "warnings": _warnings(state, schedule, settings, len(dataset.splits["train"])),
    }
    for name, predicted in outputs.items():
        if of_sample is not None and name == "folds":
            split, simple = dataset.splits["train"], baselines.out_of_fold(of_sample)
        else:
            split = dataset.splits[name]
            simple = baselines.predictions(split)

        def measured(values: npt.NDArray[np.float32], labels: Any = split.labels) -> dict[str, float | None]:
            return task_metrics(values, labels, dataset.task, dataset.label_range)

        metrics["splits"][name] = {"samples": len(split), **measured(predicted)}
        metrics["baselines"][name] = {kind: measured(values) for kind, values in simple.items()}
        metrics["against_ridge"][name] = {"ridge": baselines.ridge.kind, **compare(predicted, simple, split).as_dict()}
    return metrics


def seen_samples(dataset: Dataset) -> SeenSamples:
    """Fingerprints of the samples that trained and of those that chose the best epoch."""
    uses: dict[SeenAs, str] = {"trained": "train", "validated": "valid"}
    by_name = ids_are_names(dataset.splits)
    return SeenSamples(
        seen={
            use: Fingerprints.of(dataset.splits[name], ids_are_names=by_name)
            for use, name in uses.items()
            if name in dataset.splits
        }
    )


def _warnings(state: TrainingState, schedule: Schedule, settings: TrainingConfig, samples: int) -> list[str]:
    found = []
    taken = state.next_epoch * schedule.steps_per_epoch(samples, complete_groups=settings.incomplete_group == "drop")
    if taken < ENOUGH_STEPS:
        found.append(
            f"only {taken} optimiser steps were taken; below about {ENOUGH_STEPS} a model learns little: lower "
            "training.accumulate_batches, or raise training.epochs and training.early_stop_patience"
        )
    if schedule.schedule == "validation" and state.best_epoch + 1 == state.next_epoch and not state.stopped_early:
        found.append(
            f"the best epoch, {state.best_epoch + 1}, is the last: more may do better; go on with --resume and more --epochs"
        )
    return found
