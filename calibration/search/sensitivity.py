"""How much each layer costs in accuracy when it alone computes in INT8."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.calibration.search.layer_toggles import LayerToggles
from dmdkit.parity.int8_report import ErrorFigures

__all__ = ["LayerError", "edges_of", "error_figures", "rank", "sensitivity"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerError:
    """Errors of the whole model when only one layer is INT8; ``edges`` is None where the graph has none."""

    score: ErrorFigures
    edges: ErrorFigures | None


def error_figures(before: Array, after: Array) -> ErrorFigures:
    """Absolute errors and SQNR of ``after`` against ``before``; not finite counts as very large."""
    old, new = before.astype(np.float64).ravel(), after.astype(np.float64).ravel()
    error = np.nan_to_num(np.abs(new - old), nan=1e30, posinf=1e30)
    power, noise = float((old**2).mean()), float((error**2).mean())
    ratio = 10 * math.log10(power / noise) if power > 0 and noise > 0 else None
    return ErrorFigures(max=float(error.max()), p99=float(np.percentile(error, 99)), sqnr_db=ratio)


def edges_of(outputs: Mapping[str, Array]) -> Array | None:
    """All GD-Unit edges, (N, 6) or (N, 12); None where the graph has none."""
    found = [array for name, array in outputs.items() if name.startswith("edges_")]
    return np.concatenate(found, 1) if found else None


def sensitivity(
    toggles: LayerToggles,
    samples: Mapping[str, Array],
    scales: Mapping[str, float],
    *,
    layers: Sequence[str],
    output: str = "score",
    deadline: float = math.inf,
    known: Mapping[str, LayerError] | None = None,
    found: Callable[[str, LayerError], None] = lambda *_: None,
) -> dict[str, LayerError]:
    """Errors per layer against the fp32 graph, with that layer alone in INT8: its weights, and its activations if placed.

    Args:
        toggles: The graph with its switches.
        samples: Input name -> (N, ...).
        scales: Tensor -> width of an INT8 level.
        layers: Which to measure, in this order.
        output: The output whose error counts; edges are taken from outputs named ``edges_*``.
        deadline: ``time.monotonic()`` after which no further layer is begun.
        known: Results of an earlier attempt; those layers are not measured again.
        found: Called with each new result.
    """
    results = dict(known or {})
    base: dict[str, Array] | None = None
    for name in layers:
        if name in results:
            continue
        if time.monotonic() > deadline:
            break
        if base is None:
            base = toggles.run(samples)
        after = toggles.run(samples, stored={name}, computed={name}, scales=scales)
        edges = (edges_of(base), edges_of(after))
        results[name] = LayerError(
            error_figures(base[output], after[output]),
            error_figures(edges[0], edges[1]) if edges[0] is not None and edges[1] is not None else None,
        )
        found(name, results[name])
    return results


def rank(errors: Mapping[str, LayerError], score_limit: float, edge_limit: float) -> list[str]:
    """Layer names, the one that uses most of its limits first; the limits are those of the parity verdict."""

    def use(error: LayerError) -> float:
        edges = error.edges.max / edge_limit if error.edges is not None and edge_limit > 0 else 0.0
        return max(error.score.p99 / score_limit if score_limit > 0 else 0.0, edges)

    return sorted(errors, key=lambda name: (-use(errors[name]), name))
