"""What a model must beat to be worth its weights: the majority, and ridge regression, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import Dataset, FloatArray, Split
from dmdkit.metrics import BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED, correlation

__all__ = ["Baselines", "Comparison", "compare"]

Float = npt.NDArray[np.float64]

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
_SUMMARIES = ("last step", "mean and deviation")
_CONFIDENCE = 0.95


def _last_step(features: FloatArray) -> Float:
    """The last step that holds anything, (N, D); zeros where none does."""
    present = (features != 0).any(-1)
    last = present.shape[1] - 1 - present[:, ::-1].argmax(1)
    steps: Float = features[np.arange(len(features)), last].astype(np.float64)
    return steps


def _mean_and_deviation(features: FloatArray) -> Float:
    """Over the steps that hold anything, (N, 2 D)."""
    present = (features != 0).any(-1, keepdims=True)
    count = np.maximum(present.sum(1), 1)
    mean = features.sum(1, dtype=np.float64) / count
    squares = ((features - mean[:, None]) ** 2 * present).sum(1, dtype=np.float64)
    return np.concatenate([mean, np.sqrt(squares / count)], 1)


def _summary(split: Split, kind: str) -> Float:
    summarised = _last_step if kind == "last step" else _mean_and_deviation
    return np.concatenate([summarised(array) for array in split.features().values()], 1)


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression on one summary of the features; several columns of targets for classes."""

    kind: str
    mean: Float
    deviation: Float
    weights: Float
    centre: Float

    @classmethod
    def fitted(cls, split: Split, targets: Float, kind: str, penalty: float) -> _Ridge:
        x = _summary(split, kind)
        mean, deviation = x.mean(0), x.std(0)
        deviation[deviation <= 1e-9 * np.maximum(1.0, np.abs(mean))] = 1.0
        x, centre = (x - mean) / deviation, targets.mean(0)
        if len(x) < x.shape[1]:
            weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), targets - centre)
        else:
            weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - centre))
        return cls(kind, mean, deviation, weights, centre)

    def predict(self, split: Split) -> Float:
        x = (_summary(split, self.kind) - self.mean) / self.deviation
        result: Float = x @ self.weights + self.centre
        return result


class Baselines:
    """The majority and ridge, learnt on the training split.

    The validation split chooses ridge's penalty and summary; without one, parts of the training split do in turn.

    Args:
        dataset: With the split train, and valid unless ``fold_of_sample`` is given.
        fold_of_sample: The part each training sample belongs to, (N,).
    """

    def __init__(self, dataset: Dataset, fold_of_sample: npt.NDArray[np.int64] | None = None) -> None:
        train = dataset.splits["train"]
        self.classes = dataset.task == "classification"
        if fold_of_sample is None:
            parts = [(train, dataset.splits["valid"])]
        else:
            numbers = range(int(fold_of_sample.max()) + 1)
            rows = [(np.flatnonzero(fold_of_sample != k), np.flatnonzero(fold_of_sample == k)) for k in numbers]
            parts = [(train.take(others), train.take(own)) for others, own in rows]

        def targets(split: Split) -> Float:
            columns = np.eye(dataset.num_outputs)[split.labels.astype(np.int64)] if self.classes else split.labels[:, None]
            return columns.astype(np.float64)

        def error(kind: str, penalty: float) -> float:
            fitted = [(_Ridge.fitted(one, targets(one), kind, penalty), other) for one, other in parts]
            return float(np.mean(np.concatenate([np.abs(ridge.predict(other) - targets(other)) for ridge, other in fitted])))

        wanted = targets(train)
        self.constant = wanted.sum(0) if self.classes else np.array([np.median(train.labels)])
        choices = [(kind, penalty) for kind in _SUMMARIES for penalty in PENALTIES]
        best = min(choices, key=lambda choice: error(*choice))
        self.ridge = _Ridge.fitted(train, wanted, *best)
        self._of_parts = [(_Ridge.fitted(one, targets(one), *best), other) for one, other in parts]

    def predictions(self, split: Split) -> dict[str, npt.NDArray[np.float32]]:
        """Of every baseline by name, float32 (N, C), as a model would give them."""
        return self._named(self.ridge.predict(split))

    def out_of_fold(self, fold_of_sample: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float32]]:
        """Those for the training samples, of a ridge that did not see the part a sample belongs to."""
        outputs = np.zeros((len(fold_of_sample), len(self.constant)))
        for number, (ridge, own) in enumerate(self._of_parts):
            outputs[fold_of_sample == number] = ridge.predict(own)
        return self._named(outputs)

    def _named(self, ridge: Float) -> dict[str, npt.NDArray[np.float32]]:
        found = {"majority": np.repeat(self.constant[None], len(ridge), 0), "ridge": ridge}
        return {name: values.astype(np.float32) for name, values in found.items()}


@dataclass(frozen=True)
class Comparison:
    """A model against a baseline, by one metric of which more is better.

    Attributes:
        metric: corr or accuracy.
        model, baseline: Its values.
        interval: The 95 % interval of their difference, over samples redrawn in pairs; None where it is undefined.
        sentence: What it means.
    """

    metric: str
    model: float | None
    baseline: float | None
    interval: tuple[float, float] | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return {**vars(self), "interval": None if self.interval is None else list(self.interval)}


def _correlations(x: Float, y: Float) -> Float:
    """Row by row, (R,); NaN where a row is constant."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Float = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return result


def _interval(model: Float, baseline: Float, labels: Float, *, classes: bool) -> tuple[float, float] | None:
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(labels), (BOOTSTRAP_RESAMPLES, len(labels)))
    if classes:
        change = ((model == labels).astype(np.float64) - (baseline == labels))[draws].mean(1)
    else:
        change = _correlations(model[draws], labels[draws]) - _correlations(baseline[draws], labels[draws])
    change = change[np.isfinite(change)]
    if len(change) < BOOTSTRAP_RESAMPLES // 2:
        return None
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(change, [tail, 100 - tail])
    return float(low), float(high)


def compare(model: npt.NDArray[np.float32], against: Mapping[str, npt.NDArray[np.float32]], split: Split) -> Comparison:
    """A model's outputs (N, C) on a split against ridge's, by correlation or accuracy.

    Args:
        model: Its outputs.
        against: Those of every baseline; ``ridge`` is compared with.
        split: The samples.
    """
    ridge, labels = against["ridge"], split.labels.astype(np.float64)
    classes = model.shape[1] > 1
    metric, name = ("accuracy", "accuracy") if classes else ("corr", "Corr")
    outputs = [(x.argmax(1) if classes else x[:, 0]).astype(np.float64) for x in (model, ridge)]
    values = [float(np.mean(x == labels)) if classes else correlation(x, labels) for x in outputs]
    interval = _interval(outputs[0], outputs[1], labels, classes=classes)
    if values[0] is None or values[1] is None or interval is None:
        return Comparison(metric, values[0], values[1], None, f"cannot be compared with ridge: {name} is undefined here")
    figures = f"{name} {values[0]:.2f} against {values[1]:.2f}, difference 95 % {interval[0]:+.2f} .. {interval[1]:+.2f}"
    verdict = "better than ridge" if interval[0] > 0 else "worse than ridge" if interval[1] < 0 else "not better than ridge"
    if verdict == "not better than ridge" and values[0] > values[1]:
        verdict = "not shown to be better than ridge"
    return Comparison(metric, values[0], values[1], interval, f"{verdict}: {figures} ({len(labels)} samples)")
