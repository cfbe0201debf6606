"""Replays the golden samples and compares each graph with its own recorded outputs: is this device sound?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.metrics import correlation

__all__ = ["GraphCheck", "SelfCheck", "check_outputs"]

Array = npt.NDArray[np.float32]

FP32_TOLERANCE = 1e-5
"""fp32 outputs moved by 1.5e-7 between ONNX Runtime 1.22 and 1.31; 1e-5 (times max(1, |value|)) leaves room for other CPUs."""

INT8_TOLERANCE_SD = 0.1
"""Integer kernels differ between library versions and CPUs by about 1e-3; in standard deviations of the output."""

INT8_MIN_CORRELATION = 0.999


@dataclass(frozen=True)
class GraphCheck:
    """One graph against its recorded outputs."""

    graph: str
    max_error: float
    tolerance: float
    correlation: float | None
    passed: bool
    worst_output: str


@dataclass(frozen=True)
class SelfCheck:
    """The result of a self-check."""

    passed: bool
    samples: int
    graphs: tuple[GraphCheck, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def check_outputs(
    graph: str, precision: str, found: Mapping[str, Array], recorded: Mapping[str, Array], output_sd: float
) -> GraphCheck:
    """Compares a graph's outputs with what it gave when it was exported.

    Args:
        graph: Its name.
        precision: fp32, or a compressed one.
        found: Output name -> array, now.
        recorded: Output name -> array, then.
        output_sd: Standard deviation of the model's score; the unit of the INT8 tolerance.
    """
    exact = precision == "fp32"
    tolerance = FP32_TOLERANCE if exact else INT8_TOLERANCE_SD * output_sd
    worst, worst_name, lowest = 0.0, "", None
    passed = bool(recorded)
    for name, then in recorded.items():
        now = found.get(name)
        if now is None or now.shape != then.shape or not np.isfinite(now).all():
            return GraphCheck(graph, float("inf"), tolerance, None, passed=False, worst_output=name)
        scale = np.maximum(1.0, np.abs(then)) if exact else 1.0
        # Edges are probabilities, not scores, so their compressed tolerance is not in units of the score.
        error = float((np.abs(now.astype(np.float64) - then) / scale).max())
        limit = tolerance if exact or not name.startswith("edges") else INT8_TOLERANCE_SD
        if name == "score" and not exact:
            lowest = correlation(then, now)
            passed &= lowest is None or lowest >= INT8_MIN_CORRELATION
        passed &= error <= limit
        if error >= worst:
            worst, worst_name = error, name
    return GraphCheck(graph, worst, tolerance, lowest, passed, worst_name)
