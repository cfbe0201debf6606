"""Which of the samples that are given for a verdict made the model: a verdict never rests on those."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from dmdkit.data.dataset import Split
from dmdkit.data.fingerprints import SeenAs, SeenSamples, counted_by_use
from dmdkit.data.hashing import sample_hashes
from dmdkit.data.overlap import ids_are_row_numbers
from dmdkit.errors import BundleError
from dmdkit.runtime.bundle import Bundle

__all__ = ["CALIBRATION_FILE", "SEEN_FILE", "CalibrationSamples", "HeldOut", "held_out"]

CALIBRATION_FILE = "calibration/samples.json"
SEEN_FILE = "provenance/samples.json"

_Record = TypeVar("_Record", bound=BaseModel)


class CalibrationSamples(BaseModel):
    """``calibration/samples.json``, a listed file.

    Attributes:
        ids_are_names: Whether an id names one sample, not a row of its split; else only content is compared.
        samples: Id -> SHA-256 of the features (:func:`dmdkit.data.sample_hashes`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids_are_names: bool
    samples: dict[str, str]


@dataclass(frozen=True)
class HeldOut:
    """What a verdict may rest on.

    Attributes:
        split: The samples that neither trained, chose nor calibrated anything.
        left_out: What the others did -> how many did that; each counts once.
    """

    split: Split
    left_out: dict[SeenAs, int] = field(default_factory=dict)


def _listed(bundle: Bundle, name: str, record: type[_Record]) -> _Record | None:
    """The listed file ``name``; None where the bundle has none."""
    if name not in bundle.manifest.files:
        return None
    try:
        return record.model_validate_json(bundle.read(name))
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_input=False)[0]
        raise BundleError(f"{bundle.path}: {name}: damaged: {first['msg']:.200}; export it again") from cause


def _calibration_samples(bundle: Bundle) -> CalibrationSamples | None:
    """What is known of them; a bundle of version 0.1 keeps their ids alone."""
    listed, found = _listed(bundle, CALIBRATION_FILE, CalibrationSamples), bundle.manifest.calibration
    if listed is not None or found is None:
        return listed
    return CalibrationSamples(ids_are_names=True, samples=dict.fromkeys(found.sample_ids, ""))


def _calibrated(known: CalibrationSamples, split: Split) -> npt.NDArray[np.bool_]:
    """Per sample, whether it calibrated, by id and by exact content.

    Ids are left aside where they only count the rows of a split, here or in the file that calibrated.
    """
    by_name = known.ids_are_names and not ids_are_row_numbers(split.ids)
    contents = set(known.samples.values())
    out = [
        content in contents or (by_name and sample in known.samples)
        for sample, content in zip(split.ids, sample_hashes(split), strict=True)
    ]
    return np.array(out, np.bool_)


def held_out(bundle: Bundle, split: Split) -> HeldOut:
    """``split`` without the samples that a bundle's model was trained, selected, searched or calibrated on.

    Raises:
        BundleError: The record of those samples is damaged.
    """
    seen = _listed(bundle, SEEN_FILE, SeenSamples)
    found = seen.stand_in(split) if seen is not None else {}
    known = _calibration_samples(bundle)
    if known is not None:
        found["calibrated"] = _calibrated(known, split) | found.get("calibrated", np.zeros(len(split), np.bool_))
    out, counts = counted_by_use(found, len(split))
    return HeldOut(split.take(np.flatnonzero(~out)), counts)
