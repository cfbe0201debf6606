"""Whether an fp16 form of a graph still gives its answers, on ordinary inputs and on those that fp16 holds worst."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmdkit.calibration.fp16 import near_zero_samples
from dmdkit.errors import ExportError
from dmdkit.export.graphs import ExportedGraph
from dmdkit.parity.compare import COMPRESSED_P99_ERROR_SD
from dmdkit.runtime.backends.base import Feed
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner

__all__ = ["Fp16Errors", "mostly_masked", "probed"]

_PROBED = 16

HOSTILE_RMS_SD = {"fp32": 0.05, "int8-trt": 0.25}
"""Root mean square of a text encoder's errors on mostly masked sentences, in standard deviations of its features, by what the
fp16 form was made from. Measured on a fine-tuned MiniLM: 0.001 from fp32 and 0.07 from ``int8-trt``, whose roundings fall
otherwise wherever its rest changes in the last bits (INT8 itself costs 0.13); 0.84 with the attention mask lost, and 0.23 in
the smallest model of the tests. The largest of 300,000 such errors says nothing."""


@dataclass(frozen=True)
class Fp16Errors:
    """Largest errors of an fp16 form against the graph it was made from.

    Attributes:
        ordinary: Largest error on samples as they are.
        hostile: On samples that fp16 holds worst.
        output_sd: Standard deviation of what is compared, the score or a text encoder's features on steps with any.
    """

    ordinary: float
    hostile: float
    output_sd: float


def mostly_masked(tokens: Feed) -> dict[str, npt.NDArray[np.int64]]:
    """``tokens`` with sentence ``i`` keeping ``i`` of its tokens, those at the end without padding; the first keeps none."""
    mask = np.asarray(tokens["attention_mask"], np.int64)
    on_the_left = bool(mask[:, -1].all())
    place = np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] if on_the_left else np.cumsum(mask, axis=1)
    kept = place <= np.arange(len(mask))[:, None]
    return {"input_ids": np.asarray(tokens["input_ids"], np.int64), "attention_mask": np.ascontiguousarray(mask * kept)}


def _runner(graph: ExportedGraph) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(graph.name, graph.model.SerializeToString(), graph.session_options)


def probed(made: ExportedGraph, graph: ExportedGraph, samples: Feed) -> Fp16Errors:
    """Compares ``made`` with ``graph``, which it was made from.

    Args:
        made: The fp16 form.
        graph: In fp32, or INT8 with an fp32 rest.
        samples: Input name -> (N, ...); a text encoder's are tokens.

    Raises:
        ExportError: Hostile inputs break it: its padding or attention mask is not what it was.
    """
    words, output = graph.kind == "text", "text" if graph.kind == "text" else "score"
    probe = {name: np.ascontiguousarray(array[:_PROBED]) for name, array in samples.items()}
    hostile = mostly_masked(probe) if words else near_zero_samples(probe)
    with _runner(made) as after, _runner(graph) as before:
        found, expected = (runner.infer(probe)[output].astype(np.float64) for runner in (after, before))
        found_hostile, expected_hostile = (runner.infer(hostile)[output].astype(np.float64) for runner in (after, before))
    moved = np.abs(found_hostile - expected_hostile)
    finite = bool(np.isfinite(found_hostile).all())
    if words:
        # Steps that are zeros in any case would hide the others. And of a sentence without a token nothing is left but the
        # mask, which each format rounds to an average of its own.
        moved = moved[expected_hostile.any(axis=2) & np.any(hostile["attention_mask"], axis=1, keepdims=True)]
    spread = float(expected[expected.any(axis=2)].std() if words else expected.std())
    errors = Fp16Errors(float(np.abs(found - expected).max()), float(moved.max(initial=0.0)), spread)
    if words:
        limit = HOSTILE_RMS_SD[graph.precision] * spread
        rms = float(np.sqrt(np.mean(moved**2))) if moved.size else 0.0
        if not finite or not rms <= limit:
            raise ExportError(
                f"{made.name}: with nearly every token masked the features "
                + (f"move by {rms:.3g} (rms), more than {limit:.3g}" if finite else "are not finite")
                + "; the attention mask leaves fp16's range: leave the fp16 forms out and report this"
            )
    else:
        limit = COMPRESSED_P99_ERROR_SD * spread
        if not errors.hostile <= max(limit, errors.ordinary):  # NaN fails too
            raise ExportError(
                f"{made.name}: with inputs near 1e-9 the score moves by {errors.hostile:.3g}, more than {limit:.3g}: a feature "
                "varies so little in training that, standardised, these leave fp16's range (is the text encoder right?), "
                "or the padding mask is not kept in fp32; leave the fp16 forms out, and report it if no feature hardly varies"
            )
    return errors
