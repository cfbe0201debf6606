"""NaN and infinities in features: refused by name, replaced by zero, or kept to be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dmdkit.data.dataset import MODALITIES, FloatArray
from dmdkit.errors import DataError

__all__ = ["NanPolicy", "NonFiniteCounts", "apply_nan_policy", "count_non_finite"]

NanPolicy = Literal["refuse", "zero", "keep"]


@dataclass(frozen=True)
class NonFiniteCounts:
    """How many values of an array are not numbers.

    Attributes:
        nan: NaN values.
        positive_inf: +inf values.
        negative_inf: -inf values.
        worst_columns: Up to five (feature column, non-finite values in it), most first.
    """

    nan: int = 0
    positive_inf: int = 0
    negative_inf: int = 0
    worst_columns: tuple[tuple[int, int], ...] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return self.nan + self.positive_inf + self.negative_inf

    def __str__(self) -> str:
        return f"{self.nan} NaN, {self.positive_inf} +inf, {self.negative_inf} -inf"


def count_non_finite(arrays: Sequence[FloatArray]) -> NonFiniteCounts:
    """Counts NaN and infinities over arrays (N, T, D) of one width D."""
    per_column = sum(np.count_nonzero(~np.isfinite(array), axis=(0, 1)) for array in arrays)
    columns = np.atleast_1d(np.asarray(per_column, dtype=np.int64))
    if not columns.any():
        return NonFiniteCounts()
    worst = [int(column) for column in np.argsort(-columns, kind="stable")[:5] if columns[column]]
    return NonFiniteCounts(
        nan=sum(int(np.count_nonzero(np.isnan(array))) for array in arrays),
        positive_inf=sum(int(np.count_nonzero(np.isposinf(array))) for array in arrays),
        negative_inf=sum(int(np.count_nonzero(np.isneginf(array))) for array in arrays),
        worst_columns=tuple((column, int(columns[column])) for column in worst),
    )


def apply_nan_policy(
    source: str,
    features: Mapping[str, Mapping[str, FloatArray]],
    ids: Mapping[str, Sequence[str]],
    policy: NanPolicy,
    notes: list[str],
) -> None:
    """Refuses, zeroes in place, or keeps NaN and infinities.

    Args:
        source: The file, for messages.
        features: By split and modality, float32 (N, T, D).
        ids: Sample names by split.
        policy: What to do.
        notes: Receives what was replaced or kept.

    Raises:
        DataError: The policy is "refuse" and there is one; the message names sample, split, modality, step and column.
    """
    counts = {m: count_non_finite([arrays[m] for arrays in features.values()]) for m in MODALITIES}
    dirty = {modality: count for modality, count in counts.items() if count.total}
    if dirty and policy == "refuse":
        raise DataError(_refusal(source, features, ids, dirty, notes))
    for modality, count in dirty.items():
        if policy == "keep":
            notes.append(f"{modality}: {count.total} non-finite values kept ({count})")
            continue
        for arrays in features.values():
            array = arrays[modality]
            array[~np.isfinite(array)] = 0
        notes.append(f"{modality}: {count.total} non-finite values replaced by 0 ({count})")


def _refusal(
    source: str,
    features: Mapping[str, Mapping[str, FloatArray]],
    ids: Mapping[str, Sequence[str]],
    dirty: Mapping[str, NonFiniteCounts],
    notes: Sequence[str],
) -> str:
    modality = next(iter(dirty))
    name = next(name for name, arrays in features.items() if not np.isfinite(arrays[modality]).all())
    array = features[name][modality]
    sample, step, column = (int(index) for index in np.unravel_index(int((~np.isfinite(array)).argmax()), array.shape))
    totals = "; ".join(
        f"{key} {count}, mostly in column {count.worst_columns[0][0]} ({count.worst_columns[0][1]})"
        for key, count in dirty.items()
    )
    overflow = "".join(f" ({note})" for note in notes if "overflow" in note)
    sample_name, value = ids[name][sample], array[sample, step, column]
    return (
        f"{source}: expected finite features, found {value} in split {name!r}, sample {sample_name!r}, {modality} "
        f"column {column}, step {step}; in all: {totals}{overflow}; mend the features, or put zeros in their place "
        "with nan_policy='zero', as does: dmdkit data convert IN OUT.npz --nan-policy zero"
    )
