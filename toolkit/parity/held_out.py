"""Which of the samples that are given for a verdict INT8 was calibrated on: a verdict never rests on those."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dmdkit.data.dataset import Split
from dmdkit.data.hashing import sample_hashes
from dmdkit.data.overlap import ids_are_row_numbers
from dmdkit.errors import BundleError
from dmdkit.runtime.bundle import Bundle

__all__ = ["CALIBRATION_FILE", "CalibrationSamples", "without_calibration"]

CALIBRATION_FILE = "calibration/samples.json"


class CalibrationSamples(BaseModel):
    """``calibration/samples.json``, a listed file.

    Attributes:
        ids_are_names: Whether an id names one sample, not a row of its split; else only content is compared.
        samples: Id -> SHA-256 of the features (:func:`dmdkit.data.sample_hashes`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids_are_names: bool
    samples: dict[str, str]


def _calibration_samples(bundle: Bundle) -> CalibrationSamples | None:
    """What is known of them; a bundle of version 0.1 keeps their ids alone."""
    if CALIBRATION_FILE in bundle.manifest.files:
        try:
            return CalibrationSamples.model_validate_json(bundle.read(CALIBRATION_FILE))
        except ValidationError as cause:
            first = cause.errors(include_url=False, include_input=False)[0]
            raise BundleError(f"{bundle.path}: {CALIBRATION_FILE}: damaged: {first['msg']:.200}; export it again") from cause
    found = bundle.manifest.calibration
    if found is None:
        return None
    return CalibrationSamples(ids_are_names=True, samples=dict.fromkeys(found.sample_ids, ""))


def without_calibration(bundle: Bundle, split: Split) -> Split:
    """``split`` without the samples that the bundle was calibrated on, by id and by content.

    Ids are left aside where they only count the rows of a split, here or in the file that calibrated.

    Raises:
        BundleError: The record of those samples is damaged.
    """
    known = _calibration_samples(bundle)
    if known is None:
        return split
    by_name = known.ids_are_names and not ids_are_row_numbers(split.ids)
    contents = set(known.samples.values())
    out = [
        content in contents or (by_name and sample in known.samples)
        for sample, content in zip(split.ids, sample_hashes(split), strict=True)
    ]
    return split.take(np.flatnonzero(~np.array(out, np.bool_)))
