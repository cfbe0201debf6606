"""Fingerprints of samples: small enough to keep beside a model, and near for a sample that was rounded, scaled or renamed.

They say which samples made a model, so that nothing measured on those passes for a result on held-out ones.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

from dmdkit.data.dataset import Split
from dmdkit.data.overlap import ids_are_row_numbers
from dmdkit.data.sketches import SKETCH_LENGTH, SketchSpace, sample_sketches

__all__ = ["SEEN_AS", "Fingerprints", "Found", "SeenAs", "SeenSamples", "counted_by_use", "said_of_names", "said_of_uses"]

_VOTES = 200
"""As many samples of a known name say whether names are names; more would only take longer."""

SeenAs = Literal["calibrated", "searched", "trained", "validated"]

SEEN_AS: Mapping[SeenAs, str] = {
    "calibrated": "calibrated INT8",
    "searched": "chose the INT8 layers",
    "trained": "trained the model",
    "validated": "chose the best epoch",
}
"""What a sample did for a model, in words; a sample that did several things is told by the first."""


class Fingerprints(BaseModel):
    """Fingerprints of some samples.

    Attributes:
        ids_are_names: Whether an id names one sample, not a row of its split; else only content is compared.
        samples: Id -> sketch of the features (:func:`sample_sketches`), 24 little-endian float32 in base64.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids_are_names: bool
    samples: dict[str, str]

    @field_validator("samples")
    @classmethod
    def _are_sketches(cls, samples: dict[str, str]) -> dict[str, str]:
        for sample, text in samples.items():
            try:
                size = len(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError) as cause:
                raise ValueError(f"sample {sample!r}: expected base64, found {text!r:.50}") from cause
            if size != 4 * SKETCH_LENGTH:
                raise ValueError(f"sample {sample!r}: expected {4 * SKETCH_LENGTH} bytes, found {size}")
        return samples

    @classmethod
    def of(cls, split: Split, *, ids_are_names: bool) -> Fingerprints:
        """Those of the samples of a split."""
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in sample_sketches(split)]
        return cls(ids_are_names=ids_are_names, samples=dict(zip(split.ids, rows, strict=True)))

    def sketches(self) -> npt.NDArray[np.float32]:
        """The sketches as an array, (M, 24)."""
        raw = b"".join(base64.b64decode(text) for text in self.samples.values())
        return np.frombuffer(raw, "<f4").astype(np.float32).reshape(-1, SKETCH_LENGTH)


@dataclass(frozen=True)
class Found:
    """Which samples of a split made a model.

    Attributes:
        uses: What samples did -> per sample of the split, whether it did that.
        named_alike: Per sample of the split, whether it has the name of one that made the model and is not it.
        space: How far apart the known samples are; None where none is known.
    """

    uses: dict[SeenAs, npt.NDArray[np.bool_]]
    named_alike: npt.NDArray[np.bool_]
    space: SketchSpace | None


class SeenSamples(BaseModel):
    """``samples.json`` of a run and ``provenance/samples.json`` of a bundle: which samples made it.

    Attributes:
        seen: What samples did -> their fingerprints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seen: dict[SeenAs, Fingerprints]

    def find(self, split: Split) -> Found:
        """Which samples of a split these are: near in content, or the same by name.

        Ids are left aside where they only count the rows of a split, here or in the file that these came from, and where most
        of the samples with a known name have other features than the known one: then a file was numbered like another.
        """
        known = {use: self.seen[use].sketches() for use in SEEN_AS if use in self.seen}
        pooled = np.concatenate([*known.values(), np.empty((0, SKETCH_LENGTH), np.float32)])
        nobody = np.zeros(len(split), np.bool_)
        if not len(pooled):
            return Found(dict.fromkeys(known, nobody), nobody, None)
        space, sketches = SketchSpace.of(pooled), sample_sketches(split)
        named = dict.fromkeys(known, nobody)
        if not ids_are_row_numbers(split.ids):
            named = {
                use: np.array([prints.ids_are_names and sample in prints.samples for sample in split.ids], np.bool_)
                for use, prints in self.seen.items()
            }
        near = {
            use: np.array([space.is_one_of(sketch, those) for sketch in sketches], np.bool_) for use, those in known.items()
        }
        if not self._names_are_numbers(split.ids, sketches, space, named.values()):
            return Found({use: near[use] | named[use] for use in known}, nobody, space)
        alike = np.logical_or.reduce([*named.values()]) & ~np.logical_or.reduce([*near.values()])
        return Found(near, alike, space)

    def _names_are_numbers(
        self,
        ids: tuple[str, ...],
        sketches: npt.NDArray[np.float32],
        space: SketchSpace,
        named: Iterable[npt.NDArray[np.bool_]],
    ) -> bool:
        """Whether most of the samples with a known name are no nearer to the known one than to others."""
        same = np.flatnonzero(np.logical_or.reduce([*named]))
        if not len(same):
            return False
        known = {
            sample: text for prints in self.seen.values() if prints.ids_are_names for sample, text in prints.samples.items()
        }
        rows = {sample: row for row, sample in enumerate(known)}
        array = Fingerprints(ids_are_names=True, samples=known).sketches()
        same = same[:: -(-len(same) // _VOTES) or 1]
        votes = [space.is_nearest(sketches[index], rows[ids[index]], array) for index in same]
        return 2 * votes.count(False) > len(votes)


def counted_by_use(
    found: Mapping[SeenAs, npt.NDArray[np.bool_]], count: int
) -> tuple[npt.NDArray[np.bool_], dict[SeenAs, int]]:
    """Per sample whether it did anything, and how many did what; each counts once, by the first of :data:`SEEN_AS`.

    Args:
        found: What samples did -> per sample, whether it did that.
        count: How many samples there are.
    """
    seen, counts = np.zeros(count, np.bool_), dict[SeenAs, int]()
    for use in SEEN_AS:
        if use in found:
            new = int((found[use] & ~seen).sum())
            seen |= found[use]
            counts |= {use: new} if new else {}
    return seen, counts


def said_of_uses(counts: Mapping[SeenAs, int], name: str) -> str:
    """``counts`` of the samples of the split ``name`` in words: "64 test samples trained the model, 3 ..."."""
    return ", ".join(f"{count} {name} samples {SEEN_AS[use]}" for use, count in counts.items())


def said_of_names(count: int, name: str) -> str:
    """What to say of ``count`` samples of the split ``name`` that only have the names of samples that made the model."""
    return (
        f"{count} {name} samples have the names of samples that made the model, with other features, and are judged by their "
        "content; where they are those samples, give them the features they had"
    )
