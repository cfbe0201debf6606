"""Decides which layers compute in INT8 on which target: calibrates, ranks, and says why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from dmdkit.calibration.layers import Layer, layers_of
from dmdkit.calibration.lowerings import modelopt_scales
from dmdkit.calibration.qdq import LayerScales
from dmdkit.calibration.ranges import Statistics, observe, scale_of
from dmdkit.calibration.sensitivity import LayerError, sensitivity
from dmdkit.calibration.switchboard import Switchboard
from dmdkit.runtime.int8_report import (
    ActivationRange,
    CalibrationMethod,
    LayerChoice,
    LayerRecord,
    SearchRecord,
)

__all__ = ["DEFAULT_SEARCH_SECONDS", "Int8Plan", "SearchOptions", "plan_int8"]

Array = npt.NDArray[np.float32]
Mode = Literal["auto", "none"]

DEFAULT_SEARCH_SECONDS = 60.0


@dataclass(frozen=True)
class SearchOptions:
    """How to look.

    Attributes:
        mode: auto ranks the layers and searches; none takes what modelopt proposes.
        seconds: No further step begins after so long.
        method: The calibration method; None: the one with the best parity on the search samples.
    """

    mode: Mode = "auto"
    seconds: float = DEFAULT_SEARCH_SECONDS
    method: CalibrationMethod | None = None


@dataclass(frozen=True)
class Int8Plan:
    """What to lower, and the records that explain it.

    Attributes:
        scales: The layers that ``int8-trt`` computes in INT8, with the scales of their activations.
        method: The calibration method of those scales.
        layers: One record per layer.
        search: How it was searched; None without a search.
    """

    scales: LayerScales
    method: CalibrationMethod
    layers: tuple[LayerRecord, ...]
    search: SearchRecord | None


def plan_int8(
    model: ModelProto,
    calibration: Mapping[str, Array],
    held: Mapping[str, Array],
    *,
    held_name: str,
    graphs: Mapping[str, set[str]],
    options: SearchOptions,
    advance: Callable[[str], None] = lambda _: None,
) -> Int8Plan:
    """The plan for a graph and every graph that holds a part of its layers.

    Args:
        model: The fp32 graph (explain, or a text encoder); its first output is the one whose error counts.
        calibration: Input name -> (N, ...), training samples.
        held: Samples to rank on: neither calibration nor parity samples.
        held_name: What they are, for the record.
        graphs: Graph kind -> names of the layers it holds.
        options: How to look.
        advance: Hears each step before its work.
    """
    begin = time.monotonic()
    advance("int8 placement")
    layers = layers_of(model)
    placed = modelopt_scales(model, calibration)
    advance("int8 activation ranges")
    statistics = observe(model, {name for layer in layers for name in layer.activations.values()}, calibration)
    method: CalibrationMethod = options.method or "max"
    by_tensor = {name: scale_of(found, method) for name, found in statistics.items()}
    by_layer = {layer.name: layer for layer in layers}
    scales = {
        name: {operand: by_tensor[by_layer[name].activations[operand]] for operand in operands}
        for name, operands in placed.items()
    }
    errors: dict[str, LayerError] = {}
    search: SearchRecord | None = None
    if options.mode == "auto":
        advance("int8 sensitivity")
        board = Switchboard(model, placed, [value.name for value in model.graph.output])
        names = [layer.name for layer in layers if layer.weight is not None or layer.name in placed]
        errors = sensitivity(
            board, held, by_tensor, layers=names, output=model.graph.output[0].name, deadline=begin + options.seconds
        )
        search = SearchRecord(
            mode="auto",
            split=held_name,
            samples=len(next(iter(held.values()))),
            budget_s=options.seconds if math.isfinite(options.seconds) else 0.0,
            seconds=time.monotonic() - begin,
            complete=len(errors) == len(names),
        )
    records = tuple(
        LayerRecord(
            name=layer.name,
            kind=layer.kind,
            graphs=sorted(kind for kind, held_layers in graphs.items() if layer.name in held_layers),
            weight_shape=list(layer.weight_shape),
            multiply_adds=layer.multiply_adds,
            score_error=errors[layer.name].score if layer.name in errors else None,
            edge_error=errors[layer.name].edges if layer.name in errors else None,
            activations=_activations(layer, statistics, scales.get(layer.name, {})),
            targets=_choices(layer, scales),
        )
        for layer in layers
    )
    return Int8Plan(scales, method, records, search)


def _activations(layer: Layer, statistics: Mapping[str, Statistics], scales: Mapping[int, float]) -> list[ActivationRange]:
    return [
        ActivationRange(
            operand=1 if operand else 0,
            minimum=statistics[name].minimum,
            maximum=statistics[name].maximum,
            p99_9=statistics[name].percentile(99.9),
            zero_share=statistics[name].zero_share,
            scale=scales.get(operand),
        )
        for operand, name in layer.activations.items()
    ]


def _choices(layer: Layer, scales: LayerScales) -> dict[str, LayerChoice]:
    stored: Literal["int8", "none"] = "int8" if layer.weight is not None else "none"
    if layer.name in scales:
        trt = LayerChoice(stored=stored, computed="int8", reason="parity holds with it")
    else:
        trt = LayerChoice(stored=stored, computed="fp32", reason="modelopt leaves it in float: a dimension is under 16")
    cpu = LayerChoice(stored=stored, computed="fp32", reason="float arithmetic on INT8 weights")
    return {"int8-cpu": cpu, "int8-trt": trt}
