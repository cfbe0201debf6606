"""Labels: which task they are, their range or number of classes, and what may not be among them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import LabelArray, Task
from dmdkit.data.raw import RawFile, array_from, data_error, described, shortened
from dmdkit.errors import DataError

__all__ = ["CheckedLabels", "checked_labels", "refuse_other_task"]

_MAX_CLASSES = 1000


@dataclass(frozen=True)
class CheckedLabels:
    """Labels of all splits and what they mean.

    Attributes:
        task: "regression" or "classification".
        by_split: float32 (N,) or int64 (N,).
        label_range: (low, high) of regression; None where nothing is labelled.
        num_classes: Of classification; None where nothing is labelled.
    """

    task: Task
    by_split: Mapping[str, LabelArray]
    label_range: tuple[float, float] | None = None
    num_classes: int | None = None


def refuse_other_task(raw: RawFile, task: Task) -> None:
    """Refuses labels that cannot be those of a model's task: class numbers are no scores, and scores no class numbers.

    Integers are classes and floats scores, as everywhere, unless their values can only be the other: a negative number is no
    class, and whole floats from 0 may be classes.

    Args:
        raw: What the reader found.
        task: What the model was trained for.

    Raises:
        DataError: The labels are of the other task.
    """
    found = [
        array_from(raw.source, name, raw.labels_key, split.labels)
        for name, split in raw.splits.items()
        if split.labels is not None
    ]
    values = np.concatenate([array.reshape(-1) for array in found]) if found else np.empty(0)
    known = values[np.isfinite(values)]
    if not known.size:
        return
    can_be_classes = bool((known >= 0).all() and (known == np.floor(known)).all())
    are_classes = bool(raw.labels_are_classes) and can_be_classes
    if task == "classification" and (can_be_classes and raw.labels_are_classes is not False):
        return
    if task == "regression" and not are_classes:
        return
    labels = f"{raw.labels_key!r} from {known.min():g} to {known.max():g}"
    without = "" if raw.labels_needed else f", or one without {raw.labels_key!r}"
    if task == "regression":
        shown = shlex.quote(raw.source)
        raise DataError(
            f"{raw.source}: expected scores, for the model was trained for regression; found class numbers, {labels}: "
            f"classification; name a file of the model's task{without}, or, if they are scores in whole numbers, say so: "
            f"dmdkit data convert {shown} OUT.npz --task regression"
        )
    raise DataError(
        f"{raw.source}: expected class numbers, for the model was trained for classification; found scores, {labels}: "
        f"regression; name a file of the model's task{without}"
    )


def checked_labels(
    raw: RawFile,
    ids: Mapping[str, Sequence[str]],
    *,
    task: str,
    label_range: tuple[float, float] | None,
    notes: list[str],
) -> CheckedLabels:
    """The labels as float32 in their range, or as class numbers.

    Args:
        raw: What the reader found.
        ids: Sample names by split.
        task: "auto", "regression" or "classification". Auto goes by the file's key, else by dtype.
        label_range: The range the caller declares; else the file's; else inferred from the training labels.
        notes: Receives what was inferred or looks odd.

    Raises:
        DataError: A label is NaN, out of range, negative or no whole number, or the range is no range.
    """
    labels = {name: _label_column(raw, name, split.labels, len(ids[name])) for name, split in raw.splits.items()}
    if not raw.labels_needed:
        return _some_labels(raw, ids, labels, task=task, label_range=label_range, notes=notes)
    return _all_labels(raw, ids, labels, task=task, label_range=label_range, notes=notes)


def _are_classes(raw: RawFile, task: str) -> bool:
    """Whether the labels are class numbers: as ``task`` says, else as the file does."""
    return task == "classification" or (task == "auto" and bool(raw.labels_are_classes))


def _some_labels(
    raw: RawFile,
    ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, npt.NDArray[np.float64]],
    *,
    task: str,
    label_range: tuple[float, float] | None,
    notes: list[str],
) -> CheckedLabels:
    """The labels that there are, checked like all others; NaN or -1 for a sample without one."""
    unknown = {name: np.isnan(column) for name, column in labels.items()}
    known = np.concatenate([column[~unknown[name]] for name, column in labels.items()])
    if not known.size:
        if _are_classes(raw, task):
            return CheckedLabels("classification", {name: np.full(len(c), -1, np.int64) for name, c in labels.items()})
        return CheckedLabels("regression", {name: np.full(len(c), np.nan, np.float32) for name, c in labels.items()})
    filled = {name: np.where(unknown[name], known[0], column) for name, column in labels.items()}
    found = _all_labels(raw, ids, filled, task=task, label_range=label_range, notes=notes)
    for name, column in found.by_split.items():
        column[unknown[name]] = -1 if found.task == "classification" else np.nan
    return found


def _all_labels(
    raw: RawFile,
    ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, npt.NDArray[np.float64]],
    *,
    task: str,
    label_range: tuple[float, float] | None,
    notes: list[str],
) -> CheckedLabels:
    for name, column in labels.items():
        _refuse_where(raw, name, ids[name], column, ~np.isfinite(column), "a finite label", "drop or mend the sample")
    every = np.concatenate(list(labels.values()))
    if every.min() == every.max():
        notes.append(f"every label is {every[0]:g}: there is nothing to learn from this file")
    if _are_classes(raw, task):
        if label_range is not None:
            raise DataError(f"{raw.source}: a label range belongs to regression, and these labels are classes; leave it out")
        return _classes(raw, ids, labels, notes)
    if task == "auto" and raw.labels_are_classes is None and (every == np.round(every)).all() and every.min() >= 0:
        notes.append(
            "the labels are whole numbers stored as floats, read as regression; "
            "classes need: dmdkit train --task classification"
        )
    return _regression(raw, ids, labels, label_range, notes)


def _label_column(raw: RawFile, name: str, value: object, count: int) -> npt.NDArray[np.float64]:
    if value is None and not raw.labels_needed:
        return np.full(count, np.nan)
    array: npt.NDArray[Any] = array_from(raw.source, name, raw.labels_key, value)
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        advice = f"give one label for each of the {count} entries of {raw.ids_key!r}"
        raise data_error(raw.source, name, raw.labels_key, f"({count},) or ({count}, 1)", described(array), advice)
    return array.astype(np.float64)


def _refuse_where(
    raw: RawFile,
    name: str,
    ids: Sequence[str],
    labels: npt.NDArray[np.float64],
    is_wrong: npt.NDArray[np.bool_],
    expected: str,
    advice: str,
) -> None:
    if is_wrong.any():
        index = int(is_wrong.argmax())
        found = f"{labels[index]:g} for sample {shortened(ids[index])} ({np.count_nonzero(is_wrong)} such labels)"
        raise data_error(raw.source, name, raw.labels_key, expected, found, advice)


def _classes(
    raw: RawFile, ids: Mapping[str, Sequence[str]], labels: Mapping[str, npt.NDArray[np.float64]], notes: list[str]
) -> CheckedLabels:
    for name, column in labels.items():
        is_wrong = (column < 0) | (column != np.floor(column)) | (column >= _MAX_CLASSES)
        expected = f"class numbers from 0 to at most {_MAX_CLASSES - 1}"
        advice = "number the classes from 0, or train on them as they are: dmdkit train --task regression"
        _refuse_where(raw, name, ids[name], column, is_wrong, expected, advice)
    num_classes = int(max(column.max() for column in labels.values())) + 1
    if "train" in labels:
        absent = sorted(set(range(num_classes)) - {int(label) for label in labels["train"]})
        if absent:
            shown = ", ".join(str(label) for label in absent[:20])
            notes.append(f"no training sample has class {shown}")
    if raw.label_range is not None:
        notes.append("the file's label_range is not used: the labels are classes")
    return CheckedLabels(
        task="classification",
        by_split={name: column.astype(np.int64) for name, column in labels.items()},
        num_classes=num_classes,
    )


def _regression(
    raw: RawFile,
    ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, npt.NDArray[np.float64]],
    label_range: tuple[float, float] | None,
    notes: list[str],
) -> CheckedLabels:
    by_split = {name: _as_float32(raw, name, ids[name], column) for name, column in labels.items()}
    declared = label_range if label_range is not None else raw.label_range
    if declared is not None:
        low, high = _checked_range(raw, declared)
        margin = 1e-6 * (high - low)  # labels are float32, the range need not be
        for name, column in labels.items():
            is_wrong = (column < low - margin) | (column > high + margin)
            advice = "mend them, or declare the range they have: dmdkit train --label-range LOW HIGH"
            _refuse_where(raw, name, ids[name], column, is_wrong, f"labels from {low:g} to {high:g}", advice)
    else:
        known = labels["train"] if "train" in labels else np.concatenate(list(labels.values()))
        low, high = _inferred_range(float(known.min()), float(known.max()))
        basis = "the training labels" if "train" in labels else "all labels"
        notes.append(
            f"label range {low:g} to {high:g} inferred from {basis}; declare it with: dmdkit train --label-range LOW HIGH"
        )
        for name, column in labels.items():
            outside = int(np.count_nonzero((column < low) | (column > high)))
            if outside:
                notes.append(f"{name}: {outside} labels lie outside the inferred label range")
    return CheckedLabels(task="regression", by_split=by_split, label_range=(low, high))


def _as_float32(raw: RawFile, name: str, ids: Sequence[str], column: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    too_large = np.abs(column) > np.finfo(np.float32).max
    _refuse_where(raw, name, ids, column, too_large, "a label within float32", "rescale the labels")
    return column.astype(np.float32)


def _inferred_range(lowest: float, highest: float) -> tuple[float, float]:
    """Rounded outward to whole numbers, symmetric about zero where labels of both signs occur."""
    if lowest < 0 < highest:
        bound = float(math.ceil(max(-lowest, highest)))
        return -bound, bound
    low, high = float(math.floor(lowest)), float(math.ceil(highest))
    return (low, high) if low < high else (low - 1.0, high + 1.0)


def _checked_range(raw: RawFile, declared: object) -> tuple[float, float]:
    array = array_from(raw.source, "", "label_range", list(declared) if isinstance(declared, tuple) else declared)
    advice = "declare the lowest and the highest possible label: dmdkit data convert IN OUT.npz --label-range -3 3"
    if array.size == 1:
        bound = abs(float(array.reshape(())))
        low, high = -bound, bound
    elif array.shape == (2,):
        low, high = float(array[0]), float(array[1])
    else:
        raise data_error(raw.source, None, "label_range", "two numbers low < high", described(array), advice)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise data_error(raw.source, None, "label_range", "two numbers low < high", f"{low:g} and {high:g}", advice)
    return low, high
