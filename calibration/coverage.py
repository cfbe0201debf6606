"""Which training samples calibrate: every part of the labels, the extremes of every modality, and what is empty."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dmdkit.data import Split
from dmdkit.parity.int8_report import CoverageRecord, ModalityCoverage, StratumRecord

__all__ = ["cover", "label_strata", "observed_share"]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_STRATA = 7
_PART = 16
"""At most one sample in so many is taken for the extremes of a modality, and as many because the modality is empty."""


def label_strata(labels: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> list[tuple[float, float, npt.NDArray[np.bool_]]]:
    """Low end, high end and members of each part of the labels: the classes, or seven intervals of equal width."""
    if labels.dtype.kind == "i":
        return [(float(label), float(label), labels == label) for label in np.unique(labels)]
    low, high = float(labels.min()), float(labels.max())
    if low == high:
        return [(low, high, np.ones(len(labels), bool))]
    edges = np.linspace(low, high, _STRATA + 1)
    part = np.clip(np.searchsorted(edges, labels, side="right") - 1, 0, _STRATA - 1)
    return [(float(edges[i]), float(edges[i + 1]), part == i) for i in range(_STRATA)]


def _ranges(array: Array) -> tuple[Array, Array]:
    """Per column the smallest and largest value on steps that are not padding; zeros where there are none."""
    steps = array.reshape(-1, array.shape[-1])
    present = steps[(steps != 0).any(1)]
    if not len(present):
        return np.zeros(array.shape[-1], np.float32), np.zeros(array.shape[-1], np.float32)
    return present.min(0), present.max(0)


def observed_share(array: Array, minimum: npt.ArrayLike, maximum: npt.ArrayLike) -> float:
    """How much of these column ranges ``array`` (N, T, D) shows, averaged over the columns that have a width; 1 without any."""
    low, high = np.asarray(minimum, np.float64), np.asarray(maximum, np.float64)
    found_low, found_high = _ranges(array)
    shared = np.minimum(found_high, high) - np.maximum(found_low, low)
    wide = high > low
    if not wide.any():
        return 1.0
    return float(np.clip(shared[wide] / (high - low)[wide], 0.0, 1.0).mean())


def _extreme(array: Array, count: int) -> Indices:
    """The samples that hold the smallest or largest value of most columns."""
    low, high = array.min(1), array.max(1)  # (N, D)
    holds = np.bincount(np.concatenate([low.argmin(0), high.argmax(0)]), minlength=len(array))
    order = np.argsort(-holds, kind="stable")[:count]
    return order[holds[order] > 0].astype(np.int64)


def _evenly(indices: Indices, count: int) -> Indices:
    if count <= 0 or not len(indices):
        return indices[:0]
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(np.int64))]


def cover(split: Split, count: int) -> tuple[Indices, CoverageRecord]:
    """At most ``count`` indices into ``split``, sorted, and what they cover.

    First the samples that hold most column extremes of each modality, then samples where a modality is empty, then the rest
    evenly along the sorted labels, so that every part of the label range is there. The same split gives the same samples.
    """
    count = min(count, len(split))
    by_label = np.argsort(split.labels, kind="stable").astype(np.int64)
    chosen: set[int] = set()
    extremes: dict[str, Indices] = {}
    empties: dict[str, Indices] = {}
    for name, array in split.features().items():
        extremes[name] = _extreme(array, max(1, count // _PART))
        empty = np.logical_not(array.any((1, 2)))
        empties[name] = by_label[np.asarray(empty)[by_label]]
        chosen.update(map(int, extremes[name]))
    for indices in empties.values():
        chosen.update(map(int, _evenly(indices, max(1, count // _PART))))
    chosen = set(sorted(chosen)[:count])
    rest = np.array([index for index in by_label if int(index) not in chosen], np.int64)
    chosen.update(map(int, _evenly(rest, count - len(chosen))))
    indices = np.array(sorted(chosen), np.int64)
    return indices, _record(split, indices, extremes, empties)


def _record(split: Split, indices: Indices, extremes: Mapping[str, Indices], empties: Mapping[str, Indices]) -> CoverageRecord:
    taken = np.zeros(len(split), bool)
    taken[indices] = True
    return CoverageRecord(
        samples=len(indices),
        available=len(split),
        strata=[
            StratumRecord(low=low, high=high, available=int(members.sum()), chosen=int((members & taken).sum()))
            for low, high, members in label_strata(split.labels)
        ],
        modalities={
            name: ModalityCoverage(
                range_share=observed_share(array[indices], *_ranges(array)),
                extremes=int(taken[extremes[name]].sum()),
                empty_available=len(empties[name]),
                empty_chosen=int(taken[empties[name]].sum()),
            )
            for name, array in split.features().items()
        },
    )
