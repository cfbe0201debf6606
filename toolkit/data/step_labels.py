"""Labels by step: what is right for a sample that ends there, for training and scoring on the beginnings of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import FloatArray, LabelArray
from dmdkit.data.labels import CheckedLabels
from dmdkit.data.raw import RawFile, array_from, data_error, described, shortened

__all__ = ["checked_step_labels", "is_labelled", "own_steps", "without_labels"]

_KEY = "step_labels"
_SAME = 1e-6
"""Difference of two labels, as a share of their range, that float32 explains."""


def is_labelled(labels: LabelArray) -> npt.NDArray[np.bool_]:
    """Where there is a label: neither NaN nor, of classes, -1."""
    found: npt.NDArray[np.bool_] = labels >= 0 if labels.dtype.kind == "i" else ~np.isnan(labels)
    return found


def without_labels(shape: tuple[int, ...], dtype: np.dtype[np.float32] | np.dtype[np.int64]) -> LabelArray:
    """An array of labels that are not there."""
    return cast(LabelArray, np.full(shape, -1 if dtype.kind == "i" else np.nan, dtype))


def own_steps(features: Mapping[str, FloatArray]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each sample, the first of its own steps and their number, (N,) each; modalities have equally many steps.

    Steps at either end that are zero in every modality are padding; a silence inside a sample is not.
    """
    count, total = next(iter(features.values())).shape[:2]
    filled = np.zeros((count, total), bool)
    for array in features.values():
        filled |= (array != 0).any(axis=2)
    first = filled.argmax(axis=1)
    return first, np.where(filled.any(axis=1), total - filled[:, ::-1].argmax(axis=1) - first, 0)


def checked_step_labels(
    raw: RawFile,
    name: str,
    ids: Sequence[str],
    features: Mapping[str, FloatArray],
    labels: CheckedLabels,
    *,
    declared: bool,
    notes: list[str],
) -> LabelArray | None:
    """The labels by step of one split, float32 or int64 (N, T); None where there are none.

    Args:
        raw: What the reader found.
        name: The split.
        ids: Its sample names.
        features: Its features by modality.
        labels: The checked labels of the samples.
        declared: Whether the labels' range was given, and not inferred.
        notes: Receives what is not used or looks odd.

    Raises:
        DataError: Another shape, a value that is no label of the task, or a last step whose label is not the sample's.
    """
    value = raw.splits[name].step_labels
    if value is None:
        return None
    steps = {modality: array.shape[1] for modality, array in features.items()}
    if len(set(steps.values())) > 1:
        said = ", ".join(f"{modality} {count}" for modality, count in steps.items())
        advice = f"align the modalities step by step, or leave {_KEY!r} out"
        raise data_error(raw.source, name, _KEY, "equally many steps in every modality", said, advice)
    array = array_from(raw.source, name, _KEY, value)
    shape = (len(ids), steps["text"])
    if array.shape != shape:
        advice = "give one label a step of each sample, NaN where there is none"
        raise data_error(raw.source, name, _KEY, f"{shape}", described(array), advice)
    column = array.astype(np.float64)
    classes = labels.task == "classification"
    known = ~np.isnan(column) & ~((column == -1) & classes)
    first, count = own_steps(features)
    places = np.arange(shape[1])
    outside = known & ((places < first[:, None]) | (places >= (first + count)[:, None]))
    if outside.any():
        notes.append(f"{name}: {np.count_nonzero(outside)} of {_KEY} stand at steps of padding and are not used")
    known &= ~outside
    if not known.any():
        return None

    def refuse(wrong: npt.NDArray[np.bool_], expected: str, advice: str) -> None:
        if (wrong & known).any():
            sample, step = np.argwhere(wrong & known)[0]
            found = f"{column[sample, step]:g} at step {step} of sample {shortened(ids[sample])}"
            raise data_error(raw.source, name, _KEY, expected, found, advice)

    found = without_labels(shape, np.dtype(np.int64) if classes else np.dtype(np.float32))
    if classes:
        most = labels.num_classes or 0
        wrong = (column != np.floor(column)) | (column < 0) | (column >= most)
        refuse(wrong, f"class numbers from 0 to {most - 1}, -1 or NaN where there is none", "number them as the labels are")
    else:
        refuse(np.isinf(column), "finite labels, NaN where there is none", "mend them")
        low, high = labels.label_range or (-np.inf, np.inf)
        margin = _SAME * (high - low) if labels.label_range else 0.0
        wrong = (column < low - margin) | (column > high + margin)
        if declared:
            refuse(
                wrong,
                f"labels from {low:g} to {high:g}",
                "mend them, or declare the range they have: dmdkit train --label-range LOW HIGH",
            )
        elif (wrong & known).any():
            notes.append(f"{name}: {np.count_nonzero(wrong & known)} of {_KEY} lie outside the inferred label range")
    found[known] = column[known]
    _check_last(raw, name, ids, found, labels.by_split[name], first + count - 1)
    return found


def _check_last(
    raw: RawFile, name: str, ids: Sequence[str], found: LabelArray, labels: LabelArray, last: npt.NDArray[np.int64]
) -> None:
    """The label at a sample's last own step is that of the sample, or labels and steps do not go together."""
    at_last = found[np.arange(len(found)), np.maximum(last, 0)]
    both = is_labelled(at_last) & is_labelled(labels) & (last >= 0)
    differ = both & (np.abs(at_last - labels) > _SAME * np.maximum(1, np.abs(labels)))
    if differ.any():
        sample = int(differ.argmax())
        place = f"step {last[sample]}, the last of sample {shortened(ids[sample])}"
        text = f"{at_last[sample]:g} at {place}, which is labelled {labels[sample]:g}"
        advice = "a step's label is that of a sample which ends there: shift them, or mend the labels"
        raise data_error(raw.source, name, _KEY, f"at a sample's last step its own {raw.labels_key!r}", text, advice)
