"""The task's metrics in MMSA's conventions (docs/model.md section 8), and paired bootstrap intervals; numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = [
    "classification_metrics",
    "correlation",
    "midpoint",
    "paired_bootstrap_interval",
    "regression_metrics",
    "weighted_f1",
]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

BOOTSTRAP_RESAMPLES = 2000
BOOTSTRAP_SEED = 20230321
SENTIMENT_RANGE = (-3.0, 3.0)
"""The scale on which Acc-7, Acc-5 and Acc-3 are defined."""


def correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Pearson correlation, or None where either side is constant or has fewer than two values."""
    a, b = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    # A constant's mean is rounded, so its deviations need not be zero; its extremes are equal.
    if a.size < 2 or a.min() == a.max() or b.min() == b.max():
        return None
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else None


def weighted_f1(predicted: Int, truth: Int) -> float:
    """F1 averaged over the classes present in ``truth``, weighted by their support."""
    total = 0.0
    for label in np.unique(truth):
        hit = float(np.sum((predicted == label) & (truth == label)))
        size = float(np.sum(truth == label))
        total += size * (2 * hit / (float(np.sum(predicted == label)) + size))
    return total / truth.size


def _binary(prefix: str, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    if truth.size == 0:
        return {f"acc2_{prefix}": None, f"f1_{prefix}": None}
    return {
        f"acc2_{prefix}": float(np.mean(predicted == truth)),
        f"f1_{prefix}": weighted_f1(predicted.astype(np.int64), truth.astype(np.int64)),
    }


def midpoint(label_range: tuple[float, float] | None) -> float | None:
    """The middle of a range that does not lie on both sides of zero: there, it divides high from low; else None."""
    if label_range is None or label_range[0] < 0 < label_range[1]:
        return None
    return (label_range[0] + label_range[1]) / 2


def regression_metrics(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, label_range: tuple[float, float] | None = SENTIMENT_RANGE
) -> dict[str, float | None]:
    """All regression metrics of N predictions.

    Args:
        predicted: (N,) finite numbers on the labels' scale.
        truth: (N,) labels.
        label_range: Acc-7, Acc-5 and Acc-3 are reported only for [-3, 3], the scale they are defined on.

    Returns:
        mae, corr, acc2_non_zero, f1_non_zero (labels != 0; positive is > 0), acc2_has_zero, f1_has_zero (>= 0 against
        < 0), and acc7, acc5, acc3; None where a metric is undefined. Labels that do not lie on both sides of zero are
        divided at the middle of their range instead: acc2_midpoint, f1_midpoint.
    """
    p, y = np.asarray(predicted, np.float64).ravel(), np.asarray(truth, np.float64).ravel()
    if p.shape != y.shape or p.size == 0:
        raise ValueError(f"expected as many predictions as labels and at least one, found {p.size} and {y.size}")
    non_zero = y != 0
    result: dict[str, float | None] = {"mae": float(np.abs(p - y).mean()), "corr": correlation(p, y)}
    middle = midpoint(label_range)
    if middle is None:
        result |= _binary("non_zero", p[non_zero] > 0, y[non_zero] > 0)
        result |= _binary("has_zero", p >= 0, y >= 0)
    else:
        result |= _binary("midpoint", p >= middle, y >= middle)
    if label_range is not None and tuple(label_range) == SENTIMENT_RANGE:
        for classes, limit in ((7, 3.0), (5, 2.0), (3, 1.0)):
            rounded = [np.round(np.clip(values, -limit, limit)) for values in (p, y)]
            result[f"acc{classes}"] = float(np.mean(rounded[0] == rounded[1]))
    return result


def classification_metrics(logits: npt.ArrayLike, truth: npt.ArrayLike) -> dict[str, float | None]:
    """accuracy, weighted f1 and mean cross-entropy of (N, C) raw logits against (N,) class numbers."""
    scores, y = np.asarray(logits, np.float64), np.asarray(truth, np.int64).ravel()
    if scores.ndim != 2 or scores.shape[0] != y.size or y.size == 0:
        raise ValueError(f"expected (N, C) logits for N >= 1 labels, found {scores.shape} and {y.size}")
    predicted = scores.argmax(1).astype(np.int64)
    shifted = scores - scores.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return {
        "accuracy": float(np.mean(predicted == y)),
        "f1": weighted_f1(predicted, y),
        "cross_entropy": float(-log_probability[np.arange(y.size), y].mean()),
    }


def paired_bootstrap_interval(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    statistic: Callable[[Float], Float] | None = None,
    *,
    resamples: int = BOOTSTRAP_RESAMPLES,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of statistic(after) - statistic(before) when samples are redrawn in pairs.

    Args:
        before: (N,) per-sample values of the first model (absolute errors, hits).
        after: (N,) the same for the second model.
        statistic: Maps (R, N) resampled values to (R,); the mean by default.
        resamples: R.
        confidence: Mass inside the interval.
    """
    a, b = np.asarray(before, np.float64).ravel(), np.asarray(after, np.float64).ravel()
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"expected pairs and at least one, found {a.size} and {b.size} values")
    draw = np.random.default_rng(BOOTSTRAP_SEED).integers(0, a.size, (resamples, a.size))
    change = (b - a)[draw].mean(1) if statistic is None else statistic(b[draw]) - statistic(a[draw])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(change, [tail, 100 - tail])
    return float(low), float(high)
