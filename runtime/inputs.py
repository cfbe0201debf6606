"""Checks on what an application hands in: names, shapes, dtypes, finiteness, and the training range."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
from numpy import count_nonzero

from dmdkit.errors import InputError
from dmdkit.records import MODALITIES
from dmdkit.runtime.manifest import InputRecord

__all__ = [
    "OUT_OF_RANGE_SHARE",
    "RANGE_MARGIN",
    "CheckedInputs",
    "RangeGuard",
    "as_array",
    "check_inputs",
    "is_for_text_encoder",
    "plain_ids",
    "refuse_masked",
]

Array = npt.NDArray[np.float32]

RANGE_MARGIN = 0.5
"""A value counts as outside when it leaves the training range of its column by more than this part of the range's
width. Measured on CMU-MOSI, 469 training utterances against 209 of other videos (text, audio, vision): 0.55, 0.61 and
0.10 % of the held-out values leave the bare range, none, 0.006 and 0.006 % this margin."""

OUT_OF_RANGE_SHARE = 0.02
"""A modality is reported when in any sample at least this share of its values (padding left out) lies outside. On the same
data the two rules report none of the 209 samples in any modality (the bare range 8.1, 6.2 and 0.0 % of them), and all of them
once a modality is multiplied by ten. On the 752 test utterances of the full set: none, and 100, 100 and 89 %.
Features ten times too small are seen in audio (100 and 97 %) but not in text or vision, where they stay in range."""

_FLOAT32 = np.dtype(np.float32)
_ROUNDING = 1e-4
"""A column that was constant in training has no width; this part of its value is allowed to differ, for other rounding."""


class CheckedInputs(NamedTuple):
    """Arrays ready for a runner.

    Attributes:
        feed: Modality -> float32 (B, T, D), C-contiguous.
        batched: Whether the caller passed a batch axis.
        ordinary: Modalities whose every value was seen to lie in the training range.
    """

    feed: dict[str, Array]
    batched: bool
    ordinary: tuple[str, ...] = ()


def _check_array(name: str, value: object, record: InputRecord) -> tuple[Array, bool]:
    # What nearly every call brings is recognised without asking numpy much: after a prediction all this runs from cold caches.
    if type(value) is np.ndarray and value.dtype is _FLOAT32 and value.flags.c_contiguous:
        shape = value.shape
        if len(shape) == 3 and shape[1] == record.steps and shape[2] == record.features and shape[0]:
            return value, True
    array = as_array(name, value)
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
    if not batched:
        array = array[None]
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused next
            array = np.ascontiguousarray(array, np.float32)
    return array, batched


def as_array(name: str, value: object) -> npt.NDArray[Any]:
    """``value`` as an array of its own type.

    Raises:
        InputError: It is none, or something in it is masked.
    """
    refuse_masked(name, value)
    try:
        return np.asarray(value)
    except Exception as cause:  # an array-like of any library may refuse in its own way
        raise InputError(f"input {name!r} is no array: {cause}") from cause


def refuse_masked(name: str, value: object) -> None:
    """Refuses values that are marked as missing, which an array without a mask would hold as ordinary ones.

    Raises:
        InputError: ``value``, or a part of it, is a masked array with something masked.
    """
    count = _masked(value)
    if count:
        raise InputError(
            f"input {name!r} has {count} masked values, which a model cannot leave out; fill them before predicting, as "
            "training did (array.filled(0), where its recipe replaced missing values; token ids with the padding's)"
        )


def _masked(value: object) -> int:
    if isinstance(value, np.ma.MaskedArray):
        return int(count_nonzero(np.ma.getmaskarray(value)))
    return sum(map(_masked, value)) if isinstance(value, (list, tuple)) else 0


def _check_finite(name: str, array: Array) -> None:
    # The sum of squares is finite only if every value is, and costs half of looking at each; huge values are looked at.
    if not math.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise InputError(
            f"input {name!r} holds {array[tuple(where)]} at sample {where[0]}, step {where[1]}, feature {where[2]}; "
            "replace it before predicting (training replaced by 0 only if its recipe said so)"
        )


def check_inputs(
    values: Mapping[str, object | None],
    records: Mapping[str, InputRecord],
    guard: RangeGuard | None = None,
    computed: Collection[str] = (),
) -> CheckedInputs:
    """``values`` as arrays a runner takes; an absent modality becomes zeros where the model was trained for that.

    Args:
        values: Modality -> array-like, or None where it is absent.
        records: The manifest's inputs.
        guard: The range guard, asked first, because a value in the training range is finite too: each look at the
            features counts, on caches that the last prediction filled with weights.
        computed: Modalities whose features one of the bundle's own graphs made, so that they are what training saw.

    Raises:
        InputError: Wrong name, dtype, shape, value or batch, or a modality absent that may not be.
    """
    if not values.keys() <= records.keys():
        unknown = values.keys() - records.keys()
        raise InputError(f"unknown input {', '.join(sorted(map(repr, unknown)))}; the bundle takes {', '.join(records)}")
    arrays: dict[str, Array] = {}
    batches: set[tuple[int, bool]] = set()
    ordinary = []
    for name in MODALITIES:
        value = values.get(name)
        if value is not None:
            array, batched = _check_array(name, value, records[name])
            arrays[name] = array
            batches.add((len(array), batched))
            if name in computed or (guard is not None and guard.is_ordinary(name, array)):
                ordinary.append(name)
            else:
                _check_finite(name, array)
        elif not records[name].trained_absent:
            raise InputError(
                f"input {name!r} is absent, but this model was not trained without it; pass its features "
                "(train with training.modality_dropout to allow absence)"
            )
    if not arrays:
        raise InputError("all inputs are absent; pass at least one modality")
    if len(batches) > 1:
        found = (f"{name} {np.asarray(values[name]).shape}" for name in arrays)
        raise InputError(f"inputs disagree on the batch: {', '.join(found)}")
    ((size, has_batch),) = batches
    if len(arrays) < len(MODALITIES):
        zeros = {name: np.zeros((size, records[name].steps, records[name].features), np.float32) for name in MODALITIES}
        arrays = zeros | arrays
    return CheckedInputs(arrays, has_batch, tuple(ordinary))


def is_for_text_encoder(value: object) -> bool:
    """Whether ``value`` is for a text encoder: strings, or token ids, which are whole numbers as features never are.

    What its first sentence is decides; one without a token says nothing.
    """
    if isinstance(value, (str, bytes)):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "US" or (value.dtype.kind in "iu" and value.ndim > 0)
    if not isinstance(value, (list, tuple)):
        return False
    first = next((item for item in value if not _is_row(item) or len(item) > 0), None)
    return isinstance(first[0], (int, np.integer)) if _is_row(first) else isinstance(first, (str, bytes, int, np.integer))


def _is_row(item: object) -> TypeGuard[Sequence[object]]:
    return isinstance(item, (list, tuple)) or (isinstance(item, np.ndarray) and item.ndim > 0)


def plain_ids(value: object) -> object:
    """Token ids of another library (a PyTorch tensor, or a list of them) as NumPy's or Python's; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [plain_ids(item) for item in value] if any(map(_holds_foreign, value)) else value
    if not _is_foreign(value):
        return value
    try:
        array = np.asarray(value)
    except Exception:  # on a GPU, for one; the check of features says so in that library's words
        return value
    if array.dtype.kind not in "iu":
        return value
    return array if array.ndim else int(array)


def _holds_foreign(value: object) -> bool:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return _is_foreign(value) or _is_foreign(first)


def _is_foreign(value: object) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, (np.ndarray, np.generic))


class RangeGuard:
    """Notices features unlike the training data's, the commonest silent failure on a robot.

    Args:
        records: The manifest's inputs; a modality without a recorded range is not guarded.
    """

    def __init__(self, records: Mapping[str, InputRecord]) -> None:
        self._limits: dict[str, tuple[Array, Array]] = {}
        self._may_be_empty = {name for name, record in records.items() if record.trained_absent}
        largest = float(np.finfo(np.float32).max)
        for name, record in records.items():
            if record.minimum is None or record.maximum is None:
                continue
            low, high = np.asarray(record.minimum, np.float64), np.asarray(record.maximum, np.float64)
            margin = RANGE_MARGIN * (high - low) + _ROUNDING * np.maximum(np.abs(low), np.abs(high))
            limits = np.clip([low - margin, high + margin], -largest, largest).astype(np.float32)
            self._limits[name] = (limits[0], limits[1])

    def is_ordinary(self, name: str, array: Array) -> bool:
        """Whether every value is known to lie in the training range, and is finite, so that counting would find nothing.

        This runs on every prediction, so it only looks. A modality that is not guarded is not known to be ordinary.
        """
        limits = self._limits.get(name)
        if limits is None:
            return False
        batch, steps, width = array.shape
        if not (batch == 1 and array.item((steps - 1) * width)) and not array[:, -1].any(-1).all():  # the last step is padding
            return False
        return bool(count_nonzero(array >= limits[0]) == array.size == count_nonzero(array <= limits[1]))

    @property
    def guarded(self) -> tuple[str, ...]:
        """The modalities with a recorded range."""
        return tuple(self._limits)

    def counts_by_step(self, name: str, array: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Per step of ``array`` (..., T, D), how many values lie outside, and whether it is a step and not padding."""
        low, high = self._limits[name]
        present = (array != 0).any(-1)
        outside = ((array < low) | (array > high)) & present[..., None]
        return outside.sum(-1, dtype=np.int64), present

    def alarm(self, name: str, outside: int, steps: int) -> float | None:
        """The share of values outside, of ``steps`` steps that are no padding, where it is to be reported.

        No step at all counts as wholly outside where the modality was not trained absent: zeros are absence by another name.
        """
        if steps == 0:
            return None if name in self._may_be_empty else 1.0
        share = outside / (steps * len(self._limits[name][0]))
        return share if share >= OUT_OF_RANGE_SHARE else None

    def shares(self, feed: Mapping[str, Array]) -> dict[str, float]:
        """Per guarded modality, the share of all values outside the training range; padding steps do not count."""
        result = {}
        for name in self._limits:
            outside, present = self.counts_by_step(name, feed[name])
            result[name] = float(outside.sum() / max(1, present.sum() * feed[name].shape[-1]))
        return result

    def alarms(self, feed: Mapping[str, Array], ordinary: Collection[str] = ()) -> dict[str, float]:
        """The modalities to report, with the share of values outside in the sample where it is largest.

        Samples are judged one by one, so that a strange one is not hidden by a batch of ordinary ones.
        Those that :meth:`is_ordinary` was already asked about are named in ``ordinary``.
        """
        result = {}
        for name in self._limits:
            if name not in ordinary and not self.is_ordinary(name, feed[name]):
                outside, present = self.counts_by_step(name, feed[name])
                pairs = zip(outside.sum(1).tolist(), present.sum(1).tolist(), strict=True)
                shares = [share for share in (self.alarm(name, *pair) for pair in pairs) if share is not None]
                if shares:
                    result[name] = max(shares)
        return result
