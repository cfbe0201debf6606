"""What a hop's figures are drawn from: how its errors are spread, which samples are worst, and pairs of scores.

No feature ever enters these records. Where scores and labels are not to leave either, :meth:`Evidence.without_values` keeps
counts, ids and errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ErrorHistogram", "Evidence", "SampleError", "evidence_of"]

Array = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]

WORST_SAMPLES = 5
MAX_POINTS = 400
"""Pairs kept of a larger set; a picture of more shows nothing new, and the ledger stays small."""

MAX_VALUES = 16
"""Entries of a score that are worth writing out; a text encoder's output has hundreds."""

BINS_PER_DECADE = 4
_MAX_DECADES = 12
_SMALLEST = 1e-12
"""Errors below are counted in the lowest bin."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Error = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorHistogram(_Record):
    """How many samples err by how much: the largest absolute error of each sample's score.

    Attributes:
        exact: Number of samples without any error.
        bounds: Ascending, a quarter of a decade apart; one more than ``counts``. The errors' own unit.
        counts: Samples per bin; with ``exact`` they add up to all.
    """

    exact: Count
    bounds: list[Error]
    counts: list[Count]

    @model_validator(mode="after")
    def _fits(self) -> ErrorHistogram:
        if len(self.bounds) != (len(self.counts) + 1 if self.counts else 0):
            raise ValueError(f"{len(self.bounds)} bounds for {len(self.counts)} counts")
        if any(low >= high for low, high in zip(self.bounds, self.bounds[1:], strict=False)):
            raise ValueError("bounds do not ascend")
        return self


class SampleError(_Record):
    """One of the worst samples; values are None where they may not leave or are too many, ``label`` where there is none."""

    id: str
    error: Error
    before: list[Number] | None = None
    after: list[Number] | None = None
    label: Number | None = None


class Evidence(_Record):
    """What the figures of one hop show.

    Attributes:
        histogram: Histogram of every sample's largest error.
        worst: The samples with the largest errors, worst first.
        points: (score before, score after) of up to :data:`MAX_POINTS` samples; for classes, the logit of the class that was
            on top before. Empty where values may not leave.
    """

    histogram: ErrorHistogram
    worst: list[SampleError]
    points: list[tuple[Number, Number]]

    def without_values(self) -> Evidence:
        """What may leave where samples are private: counts, ids and errors."""
        worst = [SampleError(id=sample.id, error=sample.error) for sample in self.worst]
        return Evidence(histogram=self.histogram, worst=worst, points=[])


def _histogram(errors: Float) -> ErrorHistogram:
    found = np.maximum(errors[errors > 0], _SMALLEST)
    exact = int(np.sum(errors == 0))
    if found.size == 0:
        return ErrorHistogram(exact=exact, bounds=[], counts=[])
    position = np.floor(np.log10(found) * BINS_PER_DECADE).astype(np.int64)
    last = int(position.max())
    first = max(int(position.min()), last - _MAX_DECADES * BINS_PER_DECADE + 1)
    counts = np.bincount(np.maximum(position - first, 0), minlength=last - first + 1)
    bounds = [float(f"{10 ** (index / BINS_PER_DECADE):.6g}") for index in range(first, last + 2)]
    return ErrorHistogram(exact=exact, bounds=bounds, counts=[int(count) for count in counts])


def _short(value: float) -> float:
    """Seven digits, which is what float32 holds."""
    return float(f"{float(value):.7g}")


def _values(row: Float) -> list[float] | None:
    return [_short(value) for value in row] if row.size <= MAX_VALUES else None


def _label(labels: npt.NDArray[np.float32] | npt.NDArray[np.int64] | None, index: int) -> float | None:
    value = None if labels is None else _short(float(labels[index]))
    return value if value is not None and math.isfinite(value) else None


def evidence_of(
    before: Array,
    after: Array,
    labels: npt.NDArray[np.float32] | npt.NDArray[np.int64] | None,
    ids: Sequence[str],
) -> Evidence:
    """The evidence of one hop.

    Args:
        before: Finite scores (N, C) of the source.
        after: Scores (N, C) of the target on the same samples.
        labels: (N,), or None.
        ids: N sample names.
    """
    old, new = before.reshape(len(ids), -1).astype(np.float64), after.reshape(len(ids), -1).astype(np.float64)
    errors = np.abs(new - old).max(1)
    worst = [
        SampleError(
            id=ids[index],
            error=_short(errors[index]),
            before=_values(old[index]),
            after=_values(new[index]),
            label=_label(labels, int(index)),
        )
        for index in np.argsort(-errors, kind="stable")[:WORST_SAMPLES]
    ]
    rows = np.unique(np.linspace(0, len(ids) - 1, min(MAX_POINTS, len(ids))).round().astype(np.int64))
    rows = np.union1d(rows, [int(errors.argmax())])  # the worst one is never left out
    top = old.argmax(1)
    points = [(_short(old[row, top[row]]), _short(new[row, top[row]])) for row in rows]
    return Evidence(histogram=_histogram(errors), worst=worst, points=points)
