"""Rows of interleaved timings: quantiles of wall time, and ratios by the clock and by processor time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dmdkit.parity.timing import RoundTimes


def rows(times: Mapping[str, RoundTimes], base: str) -> list[dict[str, Any]]:
    """Medians, spread, and ratios to ``base`` of the medians of both clocks."""
    reference = {clock: float(np.median(getattr(times[base], clock))) for clock in ("wall", "cpu")}
    result = []
    for name, found in times.items():
        p10, p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(found.wall, (10, 50, 90, 99)))
        cpu = float(np.median(found.cpu))
        result.append(
            {
                "name": name,
                "p50_ms": p50,
                "p10_ms": p10,
                "p90_ms": p90,
                "p99_ms": p99,
                "cpu_ms": cpu * 1e3,
                "ratio": p50 / 1e3 / reference["wall"],
                "cpu_ratio": cpu / reference["cpu"],
                "rounds": len(found.wall),
            }
        )
    return result
