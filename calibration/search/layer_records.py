"""One record per layer: what INT8 costs it, what its activations were, what each target does with it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dmdkit.calibration.graph.layers import Layer
from dmdkit.calibration.graph.qdq import LayerScales
from dmdkit.calibration.integer_cpu import can_be_integer
from dmdkit.calibration.ranges import Statistics
from dmdkit.calibration.search.cpu import WORTH_TRYING, CpuChoice
from dmdkit.calibration.search.sensitivity import LayerError
from dmdkit.parity.int8_report import ActivationRange, LayerChoice, LayerRecord

__all__ = ["Decisions", "layer_record"]


@dataclass(frozen=True)
class Decisions:
    """What was decided.

    Attributes:
        placed: Layers modelopt would quantise, with the operands.
        scales: Of these, the layers that compute in INT8 for engines, with their scales.
        cpu: What ONNX Runtime's CPU computes in integers; None: it was not searched.
        errors: Layer -> error when it alone is INT8.
    """

    placed: Mapping[str, Mapping[int, float]]
    scales: LayerScales
    cpu: CpuChoice | None
    errors: Mapping[str, LayerError] = field(default_factory=dict)


def layer_record(
    layer: Layer, graphs: Mapping[str, set[str]], statistics: Mapping[str, Statistics], decided: Decisions
) -> LayerRecord:
    """The record of ``layer``.

    Args:
        layer: The product the record is about.
        graphs: Graph kind -> names of the layers it holds.
        statistics: Per tensor, on the calibration samples.
        decided: What was decided for every layer.
    """
    error = decided.errors.get(layer.name)
    scales = decided.scales.get(layer.name, {})
    return LayerRecord(
        name=layer.name,
        kind=layer.kind,
        graphs=sorted(kind for kind, held in graphs.items() if layer.name in held),
        weight_shape=list(layer.weight_shape),
        multiply_adds=layer.multiply_adds,
        score_error=error.score if error is not None else None,
        edge_error=error.edges if error is not None else None,
        activations=[
            ActivationRange(
                operand=1 if operand else 0,
                minimum=statistics[name].minimum,
                maximum=statistics[name].maximum,
                p99_9=statistics[name].percentile(99.9),
                zero_share=statistics[name].zero_share,
                scale=scales.get(operand),
            )
            for operand, name in layer.activations.items()
        ],
        targets={"int8-cpu": _on_cpu(layer, decided), "int8-trt": _on_engine(layer, decided)},
    )


def _stored(layer: Layer) -> Literal["int8", "none"]:
    return "int8" if layer.weight is not None else "none"


def _on_engine(layer: Layer, decided: Decisions) -> LayerChoice:
    if layer.name in decided.scales:
        reason, computed = "answers like fp32 on the search samples", True
    elif layer.name in decided.placed:
        reason, computed = "kept in float: with it the parity verdict failed", False
    else:
        reason, computed = "modelopt leaves it in float: a dimension under 16, or not worth it", False
    return LayerChoice(stored=_stored(layer), computed="int8" if computed else "fp32", reason=reason)


def _on_cpu(layer: Layer, decided: Decisions) -> LayerChoice:
    cpu = decided.cpu
    if cpu is None:
        return LayerChoice(stored=_stored(layer), computed="fp32", reason="float on INT8 weights; integers were not tried")
    if not can_be_integer(layer):
        return LayerChoice(stored=_stored(layer), computed="fp32", reason="no integer kernel for this product")
    ratios = cpu.latencies.get(layer.name)
    if not ratios:
        reason = "not in the graph whose latency counts" if ratios is None else "no integer kernel runs it here"
        return LayerChoice(stored=_stored(layer), computed="fp32", reason=reason)
    form = min(ratios, key=lambda name: ratios[name])
    ratio = ratios[form]
    if layer.name in cpu.forms:
        reason = f"{cpu.forms[layer.name]} integers are faster here"
        return LayerChoice(stored=_stored(layer), computed="int8", reason=reason, latency_ratio=ratio)
    if ratio > WORTH_TRYING:
        reason = f"float is as fast: {form} integers take {ratio:.2f} of its time"
    else:
        reason = f"alone {form} integers take {ratio:.2f} of its time, but the graph as a whole gains nothing"
    return LayerChoice(stored=_stored(layer), computed="fp32", reason=reason, latency_ratio=ratio)
