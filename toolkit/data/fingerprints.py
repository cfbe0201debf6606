"""Fingerprints of samples: small enough to keep beside a model, and near for a sample that was rounded, scaled or renamed.

They say which samples made a model, so that nothing measured on those passes for a result on held-out ones.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

from dmdkit.data.dataset import Split
from dmdkit.data.overlap import ids_are_row_numbers

__all__ = [
    "SEEN_AS",
    "Fingerprints",
    "SeenAs",
    "SeenSamples",
    "counted_by_use",
    "said_of_uses",
    "sample_sketches",
]

SKETCH_NEAR = 0.01
"""Largest difference of two sketches of one sample, over the largest number in them, in every modality. Rounded to half
precision, samples of CMU-MOSI differ by at most 0.0013; two different ones by at least 0.30 in some modality, and by at least
0.03 in any one alone (1,209 training against 990 held-out utterances)."""

_PROJECTIONS = 8
_MODALITIES = 3
_LENGTH = _PROJECTIONS * _MODALITIES
_HASH_FACTOR, _HASH_RANGE = 2654435761, 1 << 32

SeenAs = Literal["calibrated", "searched", "trained", "validated"]

SEEN_AS: Mapping[SeenAs, str] = {
    "calibrated": "calibrated INT8",
    "searched": "chose the INT8 layers",
    "trained": "trained the model",
    "validated": "chose the best epoch",
}
"""What a sample did for a model, in words; a sample that did several things is told by the first."""


def _signs(seed: int, size: int) -> npt.NDArray[np.float32]:
    """+1 and -1, (size, projections): the raw bits of PCG64, which numpy promises to keep."""
    words = np.random.PCG64(seed).random_raw(-(-size * _PROJECTIONS // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8))[: size * _PROJECTIONS]
    return bits.reshape(size, _PROJECTIONS).astype(np.float32) * 2 - 1


def _values(split: Split, modality: str) -> npt.NDArray[np.float64]:
    """What is projected, (N, values): logarithms, as one column of large values would drown the others; of tokens, hashes."""
    if modality == "text" and split.tokens is not None:
        hashes = (split.tokens[:, 0] * _HASH_FACTOR % _HASH_RANGE + 1) / _HASH_RANGE
        return np.asarray(hashes * split.tokens[:, 1], np.float64)
    values = split.features()[modality].reshape(len(split), -1).astype(np.float64)
    return np.asarray(np.copysign(np.log1p(np.abs(values)), values))


def sample_sketches(split: Split) -> npt.NDArray[np.float32]:
    """Seeded projections of each sample's features, (N, 24): eight a modality, near one another where the features are."""
    parts = []
    for seed, modality in enumerate(split.features()):
        values = _values(split, modality)
        parts.append(values @ _signs(seed, values.shape[1]) / np.sqrt(values.shape[1]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _near(sketch: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> bool:
    """Whether a sketch is that of one of ``known``, (M, 24)."""
    one, others = sketch.reshape(1, _MODALITIES, -1), known.reshape(-1, _MODALITIES, _PROJECTIONS)
    size = np.maximum(np.abs(one).max(axis=2), np.abs(others).max(axis=2))
    return bool((np.abs(one - others).max(axis=2) <= SKETCH_NEAR * size).all(axis=1).any())


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
            if size != 4 * _LENGTH:
                raise ValueError(f"sample {sample!r}: expected {4 * _LENGTH} bytes, found {size}")
        return samples

    @classmethod
    def of(cls, split: Split, *, ids_are_names: bool) -> Fingerprints:
        """Those of the samples of a split."""
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in sample_sketches(split)]
        return cls(ids_are_names=ids_are_names, samples=dict(zip(split.ids, rows, strict=True)))

    def stand_in(self, split: Split) -> npt.NDArray[np.bool_]:
        """Per sample of ``split``, whether it is one of these: near in content, or the same by name.

        Ids are left aside where they only count the rows of a split, here or in the file that these came from.
        """
        by_name = self.ids_are_names and not ids_are_row_numbers(split.ids)
        raw = b"".join(base64.b64decode(text) for text in self.samples.values())
        known = np.frombuffer(raw, "<f4").astype(np.float32).reshape(-1, _LENGTH)
        return np.array(
            [
                (by_name and sample in self.samples) or _near(sketch, known)
                for sample, sketch in zip(split.ids, sample_sketches(split), strict=True)
            ],
            np.bool_,
        )


class SeenSamples(BaseModel):
    """``samples.json`` of a run and ``provenance/samples.json`` of a bundle: which samples made it.

    Attributes:
        seen: What samples did -> their fingerprints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seen: dict[SeenAs, Fingerprints]

    def stand_in(self, split: Split) -> dict[SeenAs, npt.NDArray[np.bool_]]:
        """What samples did -> per sample of ``split``, whether it did that."""
        return {use: self.seen[use].stand_in(split) for use in SEEN_AS if use in self.seen}


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
