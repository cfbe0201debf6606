"""Compares each graph's outputs on the golden samples with its own recorded ones: is this device sound?

The one rule for robots, engines and device kits; numpy is all it needs, and a kit carries this file. C++ has it again
(runtime/cpp/src/self_check.cpp), and tests/vectors holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmdkit.metrics import correlation

__all__ = ["FP32_MAX_ERROR", "GraphCheck", "Limit", "SelfCheck", "check_outputs", "limit_of"]

Array = npt.NDArray[np.float32]

FP32_MAX_ERROR = 1e-4
"""fp32 hop: largest error, times max(1, sd of the output): what reordered float sums give, with room."""

FP32_TOLERANCE = 1e-5
"""fp32 outputs moved by 1.5e-7 between ONNX Runtime 1.22 and 1.31; 1e-5 (times max(1, |value|)) leaves room for other CPUs."""

INT8_TOLERANCE_SD = 0.1
"""Integer kernels differ between library versions and CPUs by about 1e-3; in standard deviations of the output. A graph that
only stores INT8 has none of them and is held to what an fp32 graph is: with one weight scale doubled, the score of a model
trained on CMU-MOSI moved by less than a tenth of its sd for 35 of 47 weights, and by 5e-3 or more for every one."""

TEXT_FP32_TOLERANCE = 1e-4
"""A text encoder's features, times max(1, |value|): its layers follow each other without the model's small gains. Measured
1.8e-5 between PyTorch and ONNX Runtime on MiniLM."""

INT8_TEXT_TOLERANCE_SD = 2.0
"""A text encoder's features in INT8, in standard deviations of the features: a rounding that falls otherwise in an early
layer goes through all the later ones, and the largest of 300,000 errors counts. Between ONNX Runtime 1.22 and 1.31 a
fine-tuned MiniLM moved by 0.6 at most; with the scale of one weight matrix doubled (eight were tried) by 4.2 at least."""

INT8_TEXT_MIN_CORRELATION = 0.99
"""Likewise: 0.9990 between those versions, 0.963 at most with one scale doubled."""

INT8_MIN_CORRELATION = 0.999


@dataclass(frozen=True)
class Limit:
    """How far one output may be from what was recorded.

    Attributes:
        largest: The largest error.
        relative: Whether errors count in units of max(1, |value|).
        correlation: The least correlation with it; None: any.
    """

    largest: float
    relative: bool = False
    correlation: float | None = None


@dataclass(frozen=True)
class GraphCheck:
    """One graph against its recorded outputs.

    Attributes:
        graph: Name of the graph.
        worst_output: The output that used most of its tolerance.
        max_error: Its largest error; infinite where its outputs are missing, misshapen or not finite.
        tolerance: Largest error that passes.
        correlation: Of a compressed graph's scores with the recorded ones; None where undefined or not asked for.
        passed: Whether every output is within its tolerance.
    """

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
        """A plain dictionary; an infinite error, which JSON has no number for, is None."""
        value = asdict(self)
        for graph in value["graphs"]:
            graph["max_error"] = graph["max_error"] if np.isfinite(graph["max_error"]) else None
        return value


def check_outputs(
    graph: str,
    precision: str,
    found: Mapping[str, Array],
    recorded: Mapping[str, Array],
    output_sd: float,
    *,
    only_stores_int8: bool = False,
    engine: bool = False,
) -> GraphCheck:
    """Compares a graph's outputs with what it gave when it was exported.

    Args:
        graph: Name of the graph.
        precision: fp32, or a compressed one.
        found: Output name -> array, now.
        recorded: Output name -> array, then.
        output_sd: Standard deviation of the model's score; the unit of the INT8 tolerance.
        only_stores_int8: Whether its arithmetic is fp32's, on the backend that recorded.
        engine: Whether an engine ran it now.
    """
    exact = precision == "fp32" or only_stores_int8
    passed, score_correlation = True, None
    worst_name, worst_error, worst_limit, worst_use = "", 0.0, 0.0, -1.0
    for name in sorted({*recorded, *found}):
        limit = limit_of(name, recorded.get(name), output_sd, exact=exact, engine=engine)
        error = _error(found.get(name), recorded.get(name), relative=limit.relative)
        if limit.correlation is not None and error < np.inf:
            score_correlation = correlation(recorded[name].ravel(), found[name].ravel())
            passed &= score_correlation is None or score_correlation >= limit.correlation
        passed &= error <= limit.largest
        use = error / limit.largest if limit.largest > 0 else (np.inf if error > 0 else 0.0)
        if use > worst_use:
            worst_name, worst_error, worst_limit, worst_use = name, error, limit.largest, use
    return GraphCheck(graph, worst_error, worst_limit, score_correlation, passed and bool(recorded), worst_name)


def limit_of(name: str, then: Array | None, output_sd: float, *, exact: bool, engine: bool = False) -> Limit:
    """How far one output may be from what was recorded.

    Args:
        name: Name of the output.
        then: Recorded values of the output.
        output_sd: Standard deviation of the model's score.
        exact: Whether the graph computes in fp32.
        engine: Whether an engine runs it. A GPU sums in another order than a CPU: in fp32 the fp32 hop's limit holds, not
            that of two CPUs; a text encoder's has room for that.
    """
    if name == "text":
        if exact:
            return Limit(TEXT_FP32_TOLERANCE, relative=True)
        spread = float(then.std()) if then is not None else 0.0
        return Limit(INT8_TEXT_TOLERANCE_SD * spread, correlation=INT8_TEXT_MIN_CORRELATION)
    if exact:
        return Limit(FP32_MAX_ERROR * max(1.0, output_sd) if engine else FP32_TOLERANCE, relative=True)
    # Edges are probabilities, not scores, so their compressed tolerance is not in units of the score.
    unit = 1.0 if name.startswith("edges") else output_sd
    return Limit(INT8_TOLERANCE_SD * unit, correlation=INT8_MIN_CORRELATION if name == "score" else None)


def _error(now: Array | None, then: Array | None, *, relative: bool) -> float:
    """The largest error, of max(1, |value|) where ``relative``; infinite where the arrays cannot be compared."""
    if now is None or then is None or now.shape != then.shape or then.size == 0:
        return float("inf")
    if not (np.isfinite(now).all() and np.isfinite(then).all()):
        return float("inf")
    scale = np.maximum(1.0, np.abs(then)) if relative else 1.0
    return float((np.abs(now.astype(np.float64) - then) / scale).max())
