"""How far the steps that a stream's answers rest on leave the training range: what predict says of the same window."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dmdkit.runtime.inputs import RangeGuard

__all__ = ["HeardRanges"]


class HeardRanges:
    """Totals, by step, of the values outside the training range among the newest steps of a stream.

    Args:
        guard: The runtime's range guard.
        limit: Steps that one answer can rest on.
    """

    def __init__(self, guard: RangeGuard, limit: int) -> None:
        self._guard = guard
        self._totals = {name: deque([(0, 0)], maxlen=limit + 1) for name in guard.guarded}

    def hear(self, rows: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Counts pushed rows, modality -> (m, D)."""
        for name, totals in self._totals.items():
            by_step = self._guard.counts_by_step(name, rows[name])
            for outside, present in zip(*(column.tolist() for column in by_step), strict=True):
                totals.append((totals[-1][0] + outside, totals[-1][1] + present))

    def alarms(self, steps: int) -> dict[str, float]:
        """The modalities to report, with the share of values outside, over the newest ``steps`` steps.

        After a restore these are the steps pushed since then: a snapshot keeps no raw steps.
        """
        found = {}
        for name, totals in self._totals.items():
            before = totals[-1 - min(steps, len(totals) - 1)]
            share = self._guard.alarm(name, totals[-1][0] - before[0], totals[-1][1] - before[1])
            if share is not None:
                found[name] = share
        return found

    def clear(self) -> None:
        """Forgets every step."""
        for totals in self._totals.values():
            totals.clear()
            totals.append((0, 0))
