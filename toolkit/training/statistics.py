"""What training data looks like: the statistics that standardise it and the facts that travel with the model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dmdkit.config import TrainingConfig
from dmdkit.data.dataset import MODALITIES, Dataset, FloatArray, Split
from dmdkit.training.run import InputFacts

__all__ = ["TRAINED_ABSENT_SHARE", "dropped_share", "input_facts", "present_steps", "standardisation"]

TRAINED_ABSENT_SHARE = 0.02
"""A modality counts as trained absent when at least this share of training samples lacked it: below one in fifty a
model has hardly met the case."""

_CONSTANT = 1e-6


def present_steps(features: FloatArray) -> FloatArray:
    """The steps of (N, T, D) that hold anything, as float32 (steps, D)."""
    present: FloatArray = features[(features != 0).any(-1)]
    return present


def standardisation(split: Split) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Per modality the mean and scale, float32 (D_m,), over steps that are not padding; a constant column has scale 1."""
    result = {}
    for name, features in split.features().items():
        steps = present_steps(features).astype(np.float64)
        if len(steps) == 0:
            steps = np.zeros((1, features.shape[2]))
        mean, deviation = steps.mean(0), steps.std(0)
        constant = deviation <= _CONSTANT * np.maximum(1.0, np.abs(mean))
        result[name] = (mean.astype(np.float32), np.where(constant, 1.0, deviation).astype(np.float32))
    return result


def dropped_share(settings: TrainingConfig) -> float:
    """The chance that training zeroes a given modality of a sample: one of three subsets, or three of six."""
    return settings.modality_dropout / (len(MODALITIES) if settings.most_absent == 1 else 2)


def input_facts(dataset: Dataset, dropped: float) -> dict[str, InputFacts]:
    """Range, padding and emptiness of each modality in the training split.

    Args:
        dataset: With a train split.
        dropped: The chance that training zeroes a given modality of a sample, as :func:`dropped_share` gives it.
    """
    split, facts = dataset.splits["train"], {}
    for name in MODALITIES:
        features = split.features()[name]
        steps = present_steps(features)
        if len(steps) == 0:
            steps = np.zeros((1, features.shape[2]), np.float32)
        empty = float(np.mean(~(features != 0).any((1, 2))))
        facts[name] = InputFacts(
            padding_side=dataset.padding_side[name],
            empty_share=empty,
            minimum=[float(v) for v in steps.min(0)],
            maximum=[float(v) for v in steps.max(0)],
            trained_absent=empty + (1 - empty) * dropped >= TRAINED_ABSENT_SHARE,
        )
    return facts
