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
from dmdkit.data.overlap import distinct_samples, ids_are_row_numbers
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
        split: The samples that neither trained, chose nor calibrated anything; None where there is none.
        left_out: What the others did -> how many did that; each counts once.
        named_alike: How many of them have the name of a sample that made the model, with other features.
        distinct: How many of them differ in content; None where there is none.
    """

    split: Split | None
    left_out: dict[SeenAs, int] = field(default_factory=dict)
    named_alike: int = 0
    distinct: int | None = None


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


def _calibrated(known: CalibrationSamples, split: Split, *, by_name: bool) -> npt.NDArray[np.bool_]:
    """Per sample, whether it calibrated, by exact content and, if ``by_name``, by id.

    Ids are left aside where they only count the rows of a split, here or in the file that calibrated.
    """
    by_name = by_name and known.ids_are_names and not ids_are_row_numbers(split.ids)
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
    seen = _listed(bundle, SEEN_FILE, SeenSamples) or SeenSamples(seen={})
    found = seen.find(split)
    uses, known = dict(found.uses), _calibration_samples(bundle)
    if known is not None:  # fingerprints say more of names than hashes do: whether the features are those of another sample
        exact = _calibrated(known, split, by_name="calibrated" not in uses)
        uses["calibrated"] = exact | uses.get("calibrated", np.zeros(len(split), np.bool_))
    out, counts = counted_by_use(uses, len(split))
    if out.all():
        return HeldOut(None, counts)
    kept = split.take(np.flatnonzero(~out))
    return HeldOut(kept, counts, int((found.named_alike & ~out).sum()), distinct_samples(kept, found.space))
