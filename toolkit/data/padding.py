"""Padding: which side it is on, and what a file's ``*_lengths`` say about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import FloatArray
from dmdkit.data.raw import array_from, data_error, described

__all__ = ["PaddingSide", "apply_lengths", "padding_side_of"]

PaddingSide = Literal["left", "right", "none"]


def padding_side_of(arrays: Iterable[FloatArray]) -> PaddingSide:
    """The side on which steps of zeros are found.

    Samples without any non-zero step say nothing. Where both sides have zero steps, as when a sample begins in silence,
    the side with more of them wins.

    Args:
        arrays: One modality of each split, float32 (N, T, D).

    Returns:
        "left", "right", or "none" when no sample begins or ends with a step of zeros.
    """
    leading = trailing = 0
    for array in arrays:
        is_filled = (array != 0).any(axis=2)
        is_filled = is_filled[is_filled.any(axis=1)]
        leading += int(is_filled.argmax(axis=1).sum())
        trailing += int(is_filled[:, ::-1].argmax(axis=1).sum())
    if leading == trailing == 0:
        return "none"
    return "left" if leading > trailing else "right"


def apply_lengths(
    source: str,
    modality: str,
    arrays: Mapping[str, FloatArray],
    lengths: Mapping[str, object],
    notes: list[str],
) -> PaddingSide | None:
    """Sets the steps outside the declared lengths to zero, in place.

    Lengths n mean the last n steps with left padding and the first n with right padding. The side is the one on which
    zero steps are found, unless only the other side would leave every value as it is.

    Args:
        source: The file, for messages.
        modality: The modality.
        arrays: By split, float32 (N, T, D).
        lengths: By split, for the splits that declare them, N integers from 0 to T.
        notes: Receives what was assumed and changed.

    Returns:
        The side the lengths were applied on, or None where they cut nothing or are absent.

    Raises:
        DataError: Lengths are not N integers from 0 to T.
    """
    checked = {name: _checked_lengths(source, name, modality, value, arrays[name]) for name, value in lengths.items()}
    if all(bool((row == arrays[name].shape[1]).all()) for name, row in checked.items()):
        return None
    found = padding_side_of(arrays.values())
    side: Literal["left", "right"] = "left" if found == "left" else "right"
    changed = _outside(arrays, checked, side)
    if changed:
        other: Literal["left", "right"] = "left" if side == "right" else "right"
        if found != "none" and not _outside(arrays, checked, other):
            side, changed = other, 0
    if found == "none":
        notes.append(f"{modality}: no step of zeros is found; {modality}_lengths are taken as right padding, as MMSA does")
    if changed:
        for name, row in checked.items():
            arrays[name][_padding_mask(arrays[name].shape[1], row, side)] = 0
        notes.append(f"{modality}: {changed} non-zero values outside {modality}_lengths ({side} padding) were set to 0")
    return side


def _checked_lengths(source: str, split: str, modality: str, value: object, array: FloatArray) -> npt.NDArray[np.int64]:
    key, (count, steps, _) = f"{modality}_lengths", array.shape
    expected = f"{count} whole numbers from 0 to {steps}"
    advice = f"correct them, or leave {key!r} out of the file"
    row = array_from(source, split, key, value)
    if row.shape == (count, 1):
        row = row[:, 0]
    if row.shape != (count,) or row.dtype.kind == "b":
        raise data_error(source, split, key, expected, described(row), advice)
    wrong = ~((row >= 0) & (row <= steps) & (row == np.floor(row)))
    if wrong.any():
        index = int(wrong.argmax())
        raise data_error(source, split, key, expected, f"{row[index]} at index {index}", advice)
    return row.astype(np.int64)


def _padding_mask(steps: int, lengths: npt.NDArray[np.int64], side: Literal["left", "right"]) -> npt.NDArray[np.bool_]:
    position = np.arange(steps)[None, :]
    mask: npt.NDArray[np.bool_] = position < steps - lengths[:, None] if side == "left" else position >= lengths[:, None]
    return mask


def _outside(
    arrays: Mapping[str, FloatArray], lengths: Mapping[str, npt.NDArray[np.int64]], side: Literal["left", "right"]
) -> int:
    """Non-zero values that the lengths call padding."""
    return sum(
        int(np.count_nonzero(arrays[name][_padding_mask(arrays[name].shape[1], row, side)])) for name, row in lengths.items()
    )
