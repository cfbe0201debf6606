"""What is in a dataset, counted: shapes, labels, padding, absent modalities, values that are not numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dmdkit.data.dataset import Dataset, FloatArray, Split
from dmdkit.data.padding import PaddingSide, padding_side_of
from dmdkit.data.step_labels import is_labelled
from dmdkit.data.values import NonFiniteCounts, count_non_finite

__all__ = ["DatasetReport", "ModalityReport", "SplitReport", "inspect_dataset"]

_MAX_UNIT_BINS = 12


@dataclass(frozen=True)
class ModalityReport:
    """One modality of one split.

    Attributes:
        shape: (N, T, D).
        padding_side: Where steps of zeros are in this split: "left", "right" or "none".
        empty_share: Share of samples, 0 to 1, whose every value is zero.
        non_finite: NaN and infinities, with the columns that have most.
    """

    shape: tuple[int, int, int]
    padding_side: PaddingSide
    empty_share: float
    non_finite: NonFiniteCounts


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        samples: N.
        modalities: By name.
        label_histogram: (class number or interval of labels, samples) in ascending order.
        step_labels: Number of steps with a label of their own.
    """

    samples: int
    modalities: Mapping[str, ModalityReport]
    label_histogram: tuple[tuple[str, int], ...]
    step_labels: int


@dataclass(frozen=True)
class DatasetReport:
    """What ``inspect_dataset`` counted.

    Attributes:
        source: The file.
        sha256: Its content hash.
        task: "regression" or "classification".
        label_range: Of regression.
        num_classes: Of classification.
        padding_side: Per modality over all splits.
        splits: By name.
        nan_policy_needed: "refuse" where all features are finite, else "zero".
        notes: What the reader said.
    """

    source: str
    sha256: str
    task: str
    label_range: tuple[float, float] | None
    num_classes: int | None
    padding_side: Mapping[str, str]
    splits: Mapping[str, SplitReport]
    nan_policy_needed: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain dicts, lists, text and finite numbers."""
        return asdict(self)


def inspect_dataset(dataset: Dataset) -> DatasetReport:
    """Counts what is in ``dataset``; load it with ``nan_policy="keep"`` to see its NaN and infinities."""
    splits = {name: _split_report(dataset, split) for name, split in dataset.splits.items()}
    is_dirty = any(part.non_finite.total for report in splits.values() for part in report.modalities.values())
    return DatasetReport(
        source=dataset.source,
        sha256=dataset.sha256,
        task=dataset.task,
        label_range=dataset.label_range,
        num_classes=dataset.num_classes,
        padding_side=dict(dataset.padding_side),
        splits=splits,
        nan_policy_needed="zero" if is_dirty else "refuse",
        notes=dataset.notes,
    )


def _split_report(dataset: Dataset, split: Split) -> SplitReport:
    return SplitReport(
        samples=len(split),
        modalities={name: _modality_report(array) for name, array in split.features().items()},
        label_histogram=_label_histogram(dataset, split),
        step_labels=0 if split.step_labels is None else int(is_labelled(split.step_labels).sum()),
    )


def _modality_report(array: FloatArray) -> ModalityReport:
    count, steps, width = array.shape
    return ModalityReport(
        shape=(count, steps, width),
        padding_side=padding_side_of([array]),
        empty_share=float((array == 0).all(axis=(1, 2)).mean()),
        non_finite=count_non_finite([array]),
    )


def _label_histogram(dataset: Dataset, split: Split) -> tuple[tuple[str, int], ...]:
    if dataset.num_classes is not None:
        counts = np.bincount(split.labels.astype(np.int64), minlength=dataset.num_classes)
        return tuple((str(number), int(count)) for number, count in enumerate(counts))
    low, high = dataset.label_range or (float(split.labels.min()), float(split.labels.max()))
    width = high - low
    bins = int(width) if width == int(width) and width <= _MAX_UNIT_BINS else 10
    # Float32 labels may lie a hair below the edge they mean; those outside an inferred range are shown at its ends.
    labels = np.clip(np.round(split.labels.astype(np.float64), 6), low, high)
    counts, edges = np.histogram(labels, bins=max(bins, 1), range=(low, high))
    names = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    return tuple((name, int(count)) for name, count in zip(names, counts, strict=True))
