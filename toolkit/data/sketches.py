"""Sketches of samples: seeded projections, near one another where the features are, and what "near" means among known ones.

Near is a matter of the samples that are known: features with a constant offset (landmarks in pixels, decibels, hertz) are all
alike against zero, and told apart by how they spread around their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.data.dataset import Split

__all__ = ["SKETCH_LENGTH", "SketchSpace", "sample_sketches"]

_PROJECTIONS = 8
_MODALITIES = 3
SKETCH_LENGTH = _PROJECTIONS * _MODALITIES
_HASH_FACTOR, _HASH_RANGE = 2654435761, 1 << 32

_OF_RARE_NEIGHBOURS, _RARE = 0.2, 0.05
_OF_USUAL_NEIGHBOURS = 0.02
_LARGEST_TOLERANCE = 0.1
_COPY = 1e-4
"""Distances in standard deviations of the known samples. A sample is a known one if it is nearer to it than 0.2 of what 5 % of
the known keep between themselves and their nearest neighbour; where one number alone tells samples apart, that takes a few
held-out samples in a hundred for known ones, and none where a dozen do. Not less than 0.02 of the usual distance, so that a few
near copies among the known hide none of them, nor more than 0.1. Nearer than 1e-4 are copies, which say nothing of neighbours.
Measured: CMU-MOSI's training samples rounded to half precision at most 0.0005, its held-out ones at least 0.19; landmarks of
mean 200 to 440 with sd 20 at most 0.018 and at least 0.07; F0 in Hz at most 0.009 and at least 0.018."""

_NEIGHBOURS_OF = 200
_CONSTANT_SPREAD = 1e-5
_CONSTANT_NEAR = 0.01
_LAST_DIGIT = 2e-7

Array = npt.NDArray[np.float64]


def _signs(seed: int, size: int) -> npt.NDArray[np.float32]:
    """+1 and -1, (size, projections): the raw bits of PCG64, which numpy promises to keep."""
    words = np.random.PCG64(seed).random_raw(-(-size * _PROJECTIONS // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8))[: size * _PROJECTIONS]
    return bits.reshape(size, _PROJECTIONS).astype(np.float32) * 2 - 1


def _values(split: Split, modality: str) -> Array:
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


@dataclass(frozen=True)
class SketchSpace:
    """How far apart sketches are among known samples.

    Attributes:
        scale: Standard deviation of each projection over the known samples that have the modality, (3, 8).
        magnitude: Largest number of each modality's known sketches, (3, 1).
        constant: Per modality, whether all known samples have the same there.
        tolerance: Largest distance of two sketches of one sample, in standard deviations.
    """

    scale: Array
    magnitude: Array
    constant: npt.NDArray[np.bool_]
    tolerance: float = _LARGEST_TOLERANCE

    @classmethod
    def of(cls, sketches: npt.NDArray[np.float32]) -> SketchSpace:
        """That of the known samples with these sketches, (M, 24), M at least 1; equal ones count once."""
        known = np.unique(sketches, axis=0)
        parts = known.reshape(-1, _MODALITIES, _PROJECTIONS).astype(np.float64)
        magnitude = np.abs(parts).max(axis=(0, 2))[:, None]
        scale, constant = np.ones((_MODALITIES, _PROJECTIONS)), np.zeros(_MODALITIES, np.bool_)
        for index in range(_MODALITIES):
            there = parts[parts[:, index].any(axis=1), index]
            smallest = _CONSTANT_SPREAD * magnitude[index]
            if len(there) > 1:
                constant[index] = bool((there.std(axis=0) <= smallest).all())
                scale[index] = np.maximum(there.std(axis=0), smallest)
            elif len(there) == 1:  # nothing says how it spreads, so only what is all but equal is the same
                scale[index] = 100 * smallest
        space = cls(scale, magnitude, constant)
        apart = np.array(list(space._to_nearest(known)))
        if not len(apart):
            return space
        tolerance = max(_OF_RARE_NEIGHBOURS * np.quantile(apart, _RARE), _OF_USUAL_NEIGHBOURS * np.median(apart))
        return cls(scale, magnitude, constant, min(float(tolerance), _LARGEST_TOLERANCE))

    def _to_nearest(self, known: npt.NDArray[np.float32]) -> Iterator[float]:
        """The distances of some known samples to the nearest other one."""
        for index in np.unique(np.linspace(0, len(known) - 1, min(len(known), _NEIGHBOURS_OF)).astype(np.int64)):
            others = np.delete(known, index, axis=0)
            apart = np.fmax.reduce(self.distances(known[index], others), axis=1)
            apart = apart[np.isfinite(apart) & (apart > _COPY)]
            if len(apart):
                yield float(apart.min())

    def distances(self, sketch: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> Array:
        """How far a sketch, (24,), is from others, (M, 24), in each modality: (M, 3), in standard deviations.

        NaN where a modality is no evidence: all zero in both, or the same in all known samples and here. Infinite where it is
        all zero in one of them alone, or constant among the known samples and another here.
        """
        one = sketch.reshape(1, _MODALITIES, -1).astype(np.float64)
        others = known.reshape(-1, _MODALITIES, _PROJECTIONS).astype(np.float64)
        apart = np.maximum(np.abs(one - others) - _LAST_DIGIT * self.magnitude, 0)
        found = np.sqrt(((apart / self.scale) ** 2).mean(axis=2))
        agrees = (apart <= _CONSTANT_NEAR * self.magnitude).all(axis=2)
        found = np.where(self.constant, np.where(agrees, np.nan, np.inf), found)
        there = one.any(axis=2), others.any(axis=2)
        return np.where(there[0] != there[1], np.inf, np.where(there[0] | there[1], found, np.nan))

    def _candidates(self, sketch: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Those of ``known`` that can be near at all: no projection may differ by more than all eight together."""
        furthest = self.tolerance * np.sqrt(_PROJECTIONS) * self.scale
        furthest = (
            np.where(self.constant[:, None], _CONSTANT_NEAR * self.magnitude, furthest) + 2 * _LAST_DIGIT * self.magnitude
        )
        rows: npt.NDArray[np.bool_] = (np.abs(sketch - known) <= furthest.reshape(-1).astype(np.float32)).all(axis=1)
        return np.asarray(known[rows], np.float32)

    def is_one_of(self, sketch: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> bool:
        """Whether a sketch is that of one of ``known``, (M, 24): near in every modality that is evidence, if any is."""
        apart = np.fmax.reduce(self.distances(sketch, self._candidates(sketch, known)), axis=1)
        return bool((apart <= self.tolerance).any())

    def distinct(self, sketches: npt.NDArray[np.float32]) -> int:
        """How many of the samples differ from one another."""
        different = np.unique(sketches, axis=0)
        kept = np.ones(len(different), np.bool_)
        for index in range(1, len(different)):
            earlier = self._candidates(different[index], different[:index][kept[:index]])
            apart = np.fmax.reduce(self.distances(different[index], earlier), axis=1)
            kept[index] = (apart > self.tolerance).all()  # what is no evidence of a difference is NaN here
        return int(kept.sum())

    def is_nearest(self, sketch: npt.NDArray[np.float32], index: int, known: npt.NDArray[np.float32]) -> bool | None:
        """Whether ``known[index]`` is among the 5 % of ``known`` that are nearest to a sketch, in any modality.

        None where no modality is evidence, and where no other sample is known.
        """
        found = self.distances(sketch, known)
        own, others = found[index], np.delete(found, index, axis=0)
        evidence = ~np.isnan(own)
        if not evidence.any() or not len(others):
            return None
        nearer = (others[:, evidence] <= own[evidence]).sum(axis=0)
        return bool(((nearer <= _RARE * len(others)) & np.isfinite(own[evidence])).any())
