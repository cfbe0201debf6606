"""What the activations of a graph are on the calibration samples, and the INT8 scales that four methods make of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from dmdkit.calibration.graph.analysis import copy_of
from dmdkit.errors import CalibrationError
from dmdkit.parity.int8_report import CalibrationMethod
from dmdkit.runtime.backends.onnxruntime import cpu_session
from dmdkit.runtime.batching import batches

__all__ = ["METHODS", "Statistics", "observe", "scale_of"]

Array = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]

METHODS: tuple[CalibrationMethod, ...] = ("max", "entropy", "percentile", "mse")

_BINS = 2048
_LEVELS = 128
_STRIDE = 16
_PERCENTILE = 99.99
_BATCH = 32
_INT8_MAX = 127


@dataclass(frozen=True)
class Statistics:
    """One tensor over all calibration samples.

    Attributes:
        minimum: Smallest value.
        maximum: Largest value.
        zero_share: Share of exact zeros.
        histogram: Counts of the magnitudes that are not exactly zero, in equal bins from 0 to the largest. An exact zero
            is exact at every scale, and padding would otherwise decide where to clip.
    """

    minimum: float
    maximum: float
    zero_share: float
    histogram: npt.NDArray[np.int64]

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.minimum), abs(self.maximum))

    def percentile(self, percent: float) -> float:
        """The magnitude that so many per cent of the values do not exceed, exact zeros left out."""
        total = np.cumsum(self.histogram)
        if total[-1] == 0:
            return 0.0
        index = int(np.searchsorted(total, percent / 100 * total[-1]))
        return self.largest * (min(index, _BINS - 1) + 1) / _BINS


def observe(model: ModelProto, tensors: Iterable[str], samples: Mapping[str, Array]) -> dict[str, Statistics]:
    """Statistics of the named float tensors of ``model`` over ``samples``.

    Args:
        model: An fp32 graph; it is not changed.
        tensors: Names of values that nodes compute, or of inputs.
        samples: Input name -> (N, ...), N >= 1.

    Raises:
        CalibrationError: A value is not finite.
    """
    names = sorted(set(tensors))
    probe = copy_of(model)
    fed = [name for name in names if name in samples]
    asked = [name for name in names if name not in samples]
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in asked if name not in present
    )
    session = cpu_session(probe.SerializeToString())

    def observed() -> Iterable[dict[str, Array]]:
        for feed in batches(samples, _BATCH):
            found = dict(zip(asked, session.run(asked, feed), strict=True)) if asked else {}
            yield {name: _real(array, feed) for name, array in (found | {name: feed[name] for name in fed}).items()}

    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    zeros, sizes = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for batch in observed():
        for name, array in batch.items():
            if not np.isfinite(array).all():
                raise CalibrationError(f"activation {name} is not finite on a calibration sample; inspect the features")
            low[name], high[name] = min(low[name], float(array.min())), max(high[name], float(array.max()))
            zeros[name] += int(array.size - np.count_nonzero(array))
            sizes[name] += array.size
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for batch in observed():  # again, because the bins are known only now and the values need too much memory to keep
        for name, array in batch.items():
            largest = max(abs(low[name]), abs(high[name]))
            values = np.abs(array[array != 0])
            if largest > 0 and values.size:
                # In float64, because of values as small as 1e-36 the number of bins a unit is beyond float32.
                bins = np.minimum((values * np.float64(_BINS / largest)).astype(np.int64), _BINS - 1)
                counts[name] += np.bincount(bins, minlength=_BINS)
    return {name: Statistics(low[name], high[name], zeros[name] / sizes[name], counts[name]) for name in names}


def _real(array: Array, feed: Mapping[str, npt.NDArray[np.generic]]) -> Array:
    """The values of a tensor (B, C, T) at real steps, where ``feed`` says how many are real; else all of them.

    A projected tensor has k - 1 steps fewer than the input, and as many fewer real ones.
    """
    if "steps" not in feed or array.ndim != 3:
        return array
    steps, total = feed["steps"].astype(np.int64), feed["text"].shape[1]
    fewer = total - array.shape[2]
    if not 0 <= fewer < int(steps.min()):
        return array
    real = np.arange(array.shape[2]) < (steps - fewer)[:, None]
    found: Array = array.transpose(0, 2, 1)[real]
    return found


def _entropy_clip(found: Statistics) -> float:
    """Where to clip so that the clipped distribution loses least in Kullback-Leibler divergence over 128 levels.

    Source: TensorRT's entropy calibrator (S. Migacz, GTC 2017, s7310), on magnitudes, with every 16th of 2048 bins tried.
    """
    histogram = found.histogram.astype(np.float64)
    best, best_divergence = _BINS, np.inf
    for bins in range(_LEVELS, _BINS + 1, _STRIDE):
        kept = histogram[:bins].copy()
        reference = kept.copy()
        reference[-1] += histogram[bins:].sum()
        level = np.minimum(np.arange(bins) * _LEVELS // bins, _LEVELS - 1)
        filled = kept > 0
        mass = np.bincount(level, kept, _LEVELS)
        width = np.maximum(np.bincount(level, filled, _LEVELS), 1)
        candidate = np.where(filled, (mass / width)[level], 0.0)
        where = (reference > 0) & (candidate > 0)
        p, q = reference / reference.sum(), candidate / max(candidate.sum(), 1e-30)
        missing = float(p[(reference > 0) & (candidate <= 0)].sum())  # mass where the candidate has none
        divergence = float((p[where] * np.log(p[where] / q[where])).sum()) + missing
        if divergence < best_divergence:
            best, best_divergence = bins, divergence
    return found.largest * best / _BINS


def _mse_clip(found: Statistics) -> float:
    """Where to clip so that the squared rounding and clipping error together are least."""
    centres = (np.arange(_BINS) + 0.5) * found.largest / _BINS
    best, best_error = found.largest, np.inf
    for share in np.linspace(1.0, 0.2, 81):
        clip = share * found.largest
        scale = clip / _INT8_MAX
        error = float((found.histogram * (np.minimum(np.rint(centres / scale), _INT8_MAX) * scale - centres) ** 2).sum())
        if error < best_error:
            best, best_error = float(clip), error
    return best


def scale_of(found: Statistics, method: CalibrationMethod) -> float:
    """The width of one INT8 level (symmetric, 127 on either side) by ``method``; 1 for a tensor that is all zero."""
    if found.largest == 0 or not found.histogram.any():
        return 1.0
    match method:
        case "max":
            clip = found.largest
        case "percentile":
            clip = found.percentile(_PERCENTILE)
        case "entropy":
            clip = _entropy_clip(found)
        case "mse":
            clip = _mse_clip(found)
    return clip / _INT8_MAX
