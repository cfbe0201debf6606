"""Checks on what an application hands in: names, shapes, dtypes, finiteness, and the training range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import MODALITIES
from dmdkit.errors import InputError
from dmdkit.runtime.manifest import InputRecord

__all__ = ["OUT_OF_RANGE_SHARE", "RANGE_MARGIN", "CheckedInputs", "RangeGuard", "check_inputs"]

Array = npt.NDArray[np.float32]

RANGE_MARGIN = 0.5
"""A value counts as outside when it leaves the training range of its column by more than this part of the range's
width. Held-out recordings do leave the bare range; see docs/bundle.md for the measured shares."""

OUT_OF_RANGE_SHARE = 0.02
"""A modality is reported when at least this share of its values (padding left out) lies outside."""


@dataclass(frozen=True)
class CheckedInputs:
    """Arrays ready for a runner.

    Attributes:
        feed: Modality -> float32 (B, T, D), C-contiguous.
        batched: Whether the caller passed a batch axis.
    """

    feed: dict[str, Array]
    batched: bool


def _check_array(name: str, value: object, record: InputRecord) -> tuple[Array, bool]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise InputError(f"input {name!r} has dtype {array.dtype}, expected float32")
    expected = (record.steps, record.features)
    if array.shape == expected:
        batched = False
    elif array.ndim == 3 and array.shape[1:] == expected and array.shape[0] > 0:
        batched = True
    else:
        raise InputError(
            f"input {name!r} has shape {array.shape}, expected {expected} or (batch, {record.steps}, {record.features})"
        )
    array = np.ascontiguousarray(array if batched else array[None], np.float32)
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise InputError(
            f"input {name!r} holds {array[tuple(where)]} at sample {where[0]}, step {where[1]}, feature {where[2]}; "
            "replace it before predicting (training replaced by 0 only if its recipe said so)"
        )
    return array, batched


def check_inputs(values: Mapping[str, object | None], records: Mapping[str, InputRecord]) -> CheckedInputs:
    """``values`` as arrays a runner takes; an absent modality becomes zeros where the model was trained for that.

    Raises:
        InputError: Wrong name, dtype, shape, value or batch, or a modality absent that may not be.
    """
    unknown = set(values) - set(records)
    if unknown:
        raise InputError(f"unknown input {', '.join(sorted(map(repr, unknown)))}; the bundle takes {', '.join(records)}")
    arrays: dict[str, Array] = {}
    batched: dict[str, bool] = {}
    for name in MODALITIES:
        value = values.get(name)
        if value is not None:
            arrays[name], batched[name] = _check_array(name, value, records[name])
        elif not records[name].trained_absent:
            raise InputError(
                f"input {name!r} is absent, but this model was not trained without it; pass its features "
                "(train with training.modality_dropout to allow absence)"
            )
    if not arrays:
        raise InputError("all inputs are absent; pass at least one modality")
    sizes = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1 or len(set(batched.values())) > 1:
        raise InputError(f"inputs disagree on the batch: {', '.join(f'{n} {a.shape}' for n, a in arrays.items())}")
    size = next(iter(sizes.values()))
    for name in MODALITIES:
        if name not in arrays:
            arrays[name] = np.zeros((size, records[name].steps, records[name].features), np.float32)
    return CheckedInputs({name: arrays[name] for name in MODALITIES}, next(iter(batched.values())))


class RangeGuard:
    """Notices features unlike the training data's, the commonest silent failure on a robot.

    Args:
        records: The manifest's inputs; a modality without a recorded range is not guarded.
    """

    def __init__(self, records: Mapping[str, InputRecord]) -> None:
        self._limits: dict[str, tuple[Array, Array]] = {}
        for name, record in records.items():
            if record.minimum is None or record.maximum is None:
                continue
            low, high = np.asarray(record.minimum, np.float64), np.asarray(record.maximum, np.float64)
            margin = RANGE_MARGIN * (high - low)
            self._limits[name] = ((low - margin).astype(np.float32), (high + margin).astype(np.float32))

    def shares(self, feed: Mapping[str, Array]) -> dict[str, float]:
        """Per guarded modality, the share of values outside the training range; padding steps do not count."""
        result = {}
        for name, (low, high) in self._limits.items():
            array = feed[name]
            present = (array != 0).any(-1)
            count = int(present.sum()) * array.shape[-1]
            outside = ((array < low) | (array > high)) & present[..., None]
            result[name] = float(outside.sum()) / count if count else 0.0
        return result

    def alarms(self, feed: Mapping[str, Array]) -> dict[str, float]:
        """The modalities to report, with their share of values outside."""
        return {name: share for name, share in self.shares(feed).items() if share >= OUT_OF_RANGE_SHARE}
