"""What a reader found in a file, before any of it is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.errors import DataError

__all__ = ["MAX_ARRAY_BYTES", "RawFile", "RawSplit", "array_from", "data_error", "described", "rows_of", "shortened"]

MAX_ARRAY_BYTES = 16 << 30  # no feature array of a published set comes near; a damaged header claims anything


@dataclass(frozen=True)
class RawSplit:
    """The values of one split, of any type and shape.

    Attributes:
        ids: Sample names.
        features: By modality.
        labels: Labels; None where there are none and none are needed.
        lengths: By modality, where the file has them.
        raw_text: Transcripts, where the file has them.
        text_bert: Tokens, where the file has them.
        step_labels: Labels by step, where the file has them.
    """

    ids: object
    features: Mapping[str, object]
    labels: object
    lengths: Mapping[str, object]
    raw_text: object = None
    text_bert: object = None
    step_labels: object = None


@dataclass
class RawFile:
    """The values of one file, and the keys they were found under, so that a message can name them.

    Attributes:
        source: The file as the user named it.
        sha256: SHA-256 of the file.
        splits: By name, in the order train, valid, test.
        labels_key: The key of the labels.
        ids_key: The key of the sample names.
        labels_are_classes: What the file says of its labels, or None when only their dtype tells.
        labels_needed: Whether every sample must have one; else NaN and an absent key say that there is none.
        label_range: A declared range, of any type.
        notes: What the reader has to say.
    """

    source: str
    sha256: str
    splits: Mapping[str, RawSplit]
    labels_key: str
    ids_key: str
    labels_are_classes: bool | None = None
    labels_needed: bool = True
    label_range: object = None
    notes: list[str] = field(default_factory=list)


def rows_of(value: object) -> object:
    """A one-dimensional array as a list, and any other value as it is; so is text with characters that no Unicode has."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        try:
            return value.tolist()
        except (SystemError, ValueError):
            return value
    return value


def shortened(value: object, limit: int = 60) -> str:
    """``value`` quoted, cut to ``limit`` characters."""
    text = repr(value) if not isinstance(value, (list, tuple, dict)) else described(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def described(value: object) -> str:
    """What ``value`` is, for an error message: dtype and shape of an array, length of a container."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def data_error(source: str, split: str | None, key: str | None, expected: str, found: str, advice: str) -> DataError:
    """The error of a value that breaks the schema: where it is, what belongs there, what is there, what to do."""
    where = ", ".join(part for part in (f"split {split!r}" if split else "", f"key {key!r}" if key else "") if part)
    return DataError(f"{source}: {where + ': ' if where else ''}expected {expected}, found {found}; {advice}")


def array_from(source: str, split: str, key: str, value: object) -> npt.NDArray[Any]:
    """``value`` as an array of numbers; lists of numbers or of equally shaped arrays are stacked.

    Raises:
        DataError: ``value`` is ragged, is not made of numbers, or is larger than MAX_ARRAY_BYTES.
    """
    if isinstance(value, np.ndarray):
        array = value
    elif isinstance(value, list) and value and all(isinstance(item, (np.ndarray, list)) for item in value):
        rows = [array_from(source, split, key, item) for item in value]
        different = next((index for index, row in enumerate(rows) if row.shape != rows[0].shape), None)
        if different is not None:
            raise data_error(
                source, split, key, "samples of one shape",
                f"a ragged list: shape {rows[0].shape} at index 0 and {rows[different].shape} at index {different}",
                f"pad every sample with zero steps to the same length and give the true lengths in '{key}_lengths'",
            )  # fmt: skip
        if len(rows) * rows[0].nbytes > MAX_ARRAY_BYTES:
            raise data_error(source, split, key, "at most 16 GiB", f"{len(rows)} rows of {rows[0].nbytes} bytes", "split it")
        array = np.stack(rows)
    elif isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
        array = np.array(value)
    else:
        raise data_error(source, split, key, "an array of numbers", described(value), "save it as a numpy array")
    if array.dtype.kind not in "iufb" or math.prod(array.shape) * array.itemsize > MAX_ARRAY_BYTES:
        raise data_error(source, split, key, "an array of numbers", described(array), "save it as float32")
    return array
