"""A straight line between the score and the labels of the validation split, put into the read-out's last layer.

Trained on few samples, a model's scores spread too far: their mean absolute error is then larger than their correlation
allows. A line fitted to the validation split, whose samples the weights have not seen, takes most of that away. Its slope and
offset are drawn towards 1 and 0 by the number of samples it was fitted to, so ten samples move it half-way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["ReadoutLine"]

_HALF_WAY = 10
"""Validation samples at which the line lies half-way between none and the least-squares fit."""

_SLOPES = (0.3, 1.5)
_LAYER = "dmd.readout.out"


@dataclass(frozen=True)
class ReadoutLine:
    """score -> slope * score + offset."""

    slope: float
    offset: float

    @classmethod
    def fitted(cls, predicted: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> ReadoutLine:
        """Least squares of ``labels`` (N,) on ``predicted`` (N, 1), drawn towards the identity."""
        x, y = predicted[:, 0].astype(np.float64), labels.astype(np.float64)
        spread = float(np.square(x - x.mean()).sum())
        trust = len(x) / (len(x) + _HALF_WAY)
        slope = float((x - x.mean()) @ (y - y.mean())) / spread if spread > 0 else 1.0
        slope = min(max(1 + trust * (slope - 1), _SLOPES[0]), _SLOPES[1])
        return cls(slope, float(x.mean() + trust * (y.mean() - x.mean()) - slope * x.mean()))

    def applied(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a regression system whose score follows the line; every other output stays as it is."""
        weight, bias = state[f"{_LAYER}.weight"], state[f"{_LAYER}.bias"]
        changed = {f"{_LAYER}.weight": weight * self.slope, f"{_LAYER}.bias": bias * self.slope + self.offset}
        return {**state, **changed}
