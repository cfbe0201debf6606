"""Decides how a text encoder becomes INT8 on each target, judged by the score it leads to.

Its products are smoothed first (:mod:`dmdkit.calibration.text.smoothing`), for engines and for a CPU differently. What an
engine computes in INT8 is then planned like the fusion graph's layers (:mod:`dmdkit.calibration.search.planning`); a CPU
computes every weight product in integers unless the score does not bear it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.lowerings import Inputs, Lowering
from dmdkit.calibration.search.planning import Int8Plan, Progress, Samples, SearchOptions, plan_int8
from dmdkit.calibration.search.static import candidate, with_room
from dmdkit.calibration.text.lowerings import lower_text_for_cpu, lower_text_for_tensorrt
from dmdkit.calibration.text.smoothed_graph import smoothed
from dmdkit.calibration.text.smoothing import OUTLIERS, activations_of, best_preparations
from dmdkit.data.tokenise import encode_tokens
from dmdkit.parity.int8_report import CandidateRecord, LayerChoice, LayerRecord
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from dmdkit.runtime.manifest import TEXT_INPUTS

__all__ = ["TextPlan", "plan_text_int8"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TextPlan:
    """The INT8 forms of a text graph.

    Attributes:
        for_cpu: Form for a CPU, ``text.int8-cpu``.
        for_engine: Form for an engine, ``text.int8-trt``.
        plan: The records that explain both.
    """

    for_cpu: Lowering
    for_engine: Lowering
    plan: Int8Plan


def _features(model: ModelProto, options: Mapping[str, str], tokens: Inputs) -> dict[str, Array]:
    """What a text graph makes of tokens."""
    with OnnxRuntimeRunner("text", model.SerializeToString(), options) as runner:
        return {"text": encode_tokens(runner, np.stack([tokens[name] for name in TEXT_INPUTS], axis=1))}


def plan_text_int8(model: ModelProto, samples: Samples, options: SearchOptions, progress: Progress | None = None) -> TextPlan:
    """The INT8 forms of ``text.fp32``.

    Args:
        model: The fp32 text graph.
        samples: Tokens, int64 (N, T) each, to calibrate on and to judge on; ``postprocess`` makes features a score.
        options: Method, time limit and mode of the search.
        progress: Called at every step, and within long ones with (done, total).

    Raises:
        CalibrationError: No samples, or modelopt failed.
        MissingDependencyError: modelopt is not installed.
    """
    progress = progress or Progress()
    deadline = time.monotonic() + options.seconds
    progress.on_step("text smoothing")
    activations = activations_of(model, samples.calibration)
    ready = smoothed(model, activations, best_preparations(model, activations, dynamic=False))
    layers = {layer.name for layer in layers_of(ready)}
    told = Progress(lambda step: progress.on_step(f"text {step}"), progress.on_progress)
    plan = plan_int8(ready, samples, graphs={"text": layers}, options=options, cpu=False, progress=told)
    progress.on_step("text.int8-trt")
    for_engine = lower_text_for_tensorrt(ready, plan.scales)
    progress.on_step("text.int8-cpu")
    preparations = best_preparations(model, activations, dynamic=True, outliers=OUTLIERS)

    def lowered(in_float: list[str]) -> Lowering:
        return lower_text_for_cpu(model, activations, preparations, in_float)

    in_float, for_cpu, tried = _for_cpu(model, lowered, samples, _ranking(plan), options, deadline)
    if plan.search is not None and tried[-1].status == "failed":
        plan = replace(plan, search=plan.search.model_copy(update={"complete": False}))
    records = tuple(_on_cpu(layer, in_float) for layer in plan.layers)
    return TextPlan(for_cpu, for_engine, replace(plan, layers=records, tried={**plan.tried, "int8-cpu": tuple(tried)}))


def _ranking(plan: Int8Plan) -> list[str]:
    """Products with weights, the one that costs the score most first; the unknown come last, in the order they run."""
    found = [layer for layer in plan.layers if layer.weight_shape]
    return [layer.name for layer in sorted(found, key=lambda layer: -(layer.score_error.p99 if layer.score_error else 0.0))]


def _for_cpu(
    model: ModelProto,
    lowered: Callable[[list[str]], Lowering],
    samples: Samples,
    ranking: list[str],
    options: SearchOptions,
    deadline: float,
) -> tuple[list[str], Lowering, list[CandidateRecord]]:
    """Products kept in float, the graph, and what was tried: one product more in float until the verdict holds."""
    assert samples.postprocess is not None
    score: Callable[[dict[str, Array]], dict[str, Array]] = samples.postprocess
    judge = with_room(samples.judge)
    before = score(_features(model, {}, samples.validation))
    in_float: list[str] = []
    tried: list[CandidateRecord] = []
    while True:
        lowering = lowered(in_float)
        after = score(_features(lowering.model, lowering.session_options, samples.validation))
        what = "dynamic ranges, smoothed, outliers in float"
        if in_float:
            what += f", {len(in_float)} product{'s' if len(in_float) > 1 else ''} in float"
        calibrated_on = len(next(iter(samples.calibration.values())))
        hop = judge(before, after)
        tried.append(candidate(what, hop, before, after, calibration_samples=calibrated_on, layers_in_float=len(in_float)))
        out_of_time = time.monotonic() > deadline or len(in_float) == len(ranking)
        if hop.status != "failed" or options.mode == "none" or out_of_time:
            chosen = [record.model_copy(update={"chosen": record is tried[-1]}) for record in tried]
            return in_float, lowering, chosen
        in_float = ranking[: len(in_float) + 1]


def _on_cpu(layer: LayerRecord, in_float: list[str]) -> LayerRecord:
    """``layer`` with what ``text.int8-cpu`` does with it."""
    if not layer.weight_shape:
        choice = LayerChoice(stored="none", computed="fp32", reason="no integer kernel for this product")
    elif layer.name in in_float:
        choice = LayerChoice(stored="int8", computed="fp32", reason="kept in float: with it the parity verdict failed")
    else:
        choice = LayerChoice(stored="int8", computed="int8", reason="integers with a range for each call")
    return layer.model_copy(update={"targets": layer.targets | {"int8-cpu": choice}})
