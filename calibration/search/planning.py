"""Decides which layers compute in INT8 on which target: calibrates, ranks, searches, and says why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.graph.qdq import LayerScales
from dmdkit.calibration.integer_cpu import Form
from dmdkit.calibration.lowerings import Inputs, lower_for_cpu, modelopt_scales
from dmdkit.calibration.ranges import METHODS, Statistics, observe
from dmdkit.calibration.search.cpu import CpuChoice, choose_cpu_arithmetic, layer_latencies
from dmdkit.calibration.search.layer_records import Decisions, layer_record
from dmdkit.calibration.search.layer_toggles import LayerToggles
from dmdkit.calibration.search.sensitivity import LayerError, rank, sensitivity
from dmdkit.calibration.search.state import SearchState
from dmdkit.calibration.search.static import Judge, candidate, choose_method, keep_in_float, with_room
from dmdkit.parity.compare import COMPRESSED_P99_ERROR_SD, EDGE_MAX_CHANGE
from dmdkit.parity.int8_report import CalibrationMethod, CandidateRecord, LayerRecord, SearchRecord
from dmdkit.runtime.backends.onnxruntime import cpu_session
from dmdkit.runtime.batching import infer_batched

__all__ = ["DEFAULT_SEARCH_SECONDS", "Int8Plan", "Progress", "Samples", "SearchOptions", "plan_int8"]

Array = npt.NDArray[np.float32]
Mode = Literal["auto", "none"]

DEFAULT_SEARCH_SECONDS = 60.0
_BATCH = 32


@dataclass(frozen=True)
class SearchOptions:
    """How to look.

    Attributes:
        mode: auto ranks the layers and searches; none takes what modelopt proposes, and float arithmetic on the CPU.
        seconds: No further step begins after so long.
        method: The calibration method; None: with ``auto`` the one with the best parity on the search samples, else max.
    """

    mode: Mode = "auto"
    seconds: float = DEFAULT_SEARCH_SECONDS
    method: CalibrationMethod | None = None


@dataclass(frozen=True)
class Samples:
    """What to plan with.

    Attributes:
        calibration: Input name -> (N, ...), training samples.
        validation: The same for the samples to rank and judge on: neither calibration nor parity samples.
        validation_name: Name of those samples, for the record.
        judge: Parity verdict on the validation samples.
        postprocess: What is made of a graph's outputs on ``validation`` before they are judged; a text encoder's features
            become a score.
    """

    calibration: Inputs
    validation: Inputs
    validation_name: str
    judge: Judge
    postprocess: Callable[[dict[str, Array]], dict[str, Array]] | None = None


@dataclass(frozen=True)
class Progress:
    """Callbacks of a long computation: the name of each step before its work, and (done, total) within the long ones."""

    on_step: Callable[[str], None] = lambda _: None
    on_progress: Callable[[int, int], None] = lambda *_: None


@dataclass(frozen=True)
class Int8Plan:
    """What to lower, and the records that explain it.

    Attributes:
        scales: The layers that ``int8-trt`` computes in INT8, with the scales of their activations.
        method: The calibration method of those scales.
        cpu_forms: The layers that ``int8-cpu`` computes in integers, and how.
        ranges: Statistics per tensor, for the static ones of these.
        layers: One record per layer.
        tried: Precision -> records of every candidate.
        search: How it was searched; None without a search.
    """

    scales: LayerScales
    method: CalibrationMethod
    cpu_forms: Mapping[str, Form]
    ranges: Mapping[str, Statistics]
    layers: tuple[LayerRecord, ...]
    tried: Mapping[str, tuple[CandidateRecord, ...]] = field(default_factory=dict)
    search: SearchRecord | None = None


def plan_int8(
    model: ModelProto,
    samples: Samples,
    *,
    graphs: Mapping[str, set[str]],
    options: SearchOptions,
    timed: ModelProto | None = None,
    cpu: bool = True,
    progress: Progress | None = None,
) -> Int8Plan:
    """The plan for a graph and every graph that holds a part of its layers.

    Args:
        model: The fp32 graph (explain, or a text encoder); its first output is the one whose error counts, or ``score`` where
            ``samples.postprocess`` makes it.
        samples: To calibrate and judge with.
        graphs: Graph kind -> names of the layers it holds.
        options: Method, time limit and mode of the search.
        timed: The graph whose latency on the CPU counts; None: ``model``.
        cpu: Whether integers are tried layer by layer on this CPU, if anything is searched.
        progress: Called at every step, and within long ones with (done, total).
    """
    progress = progress or Progress()
    samples = replace(samples, judge=with_room(samples.judge))
    timed = timed if timed is not None else model
    layers = layers_of(model)
    by_name = {layer.name: layer for layer in layers}
    output = "score" if samples.postprocess is not None else model.graph.output[0].name
    progress.on_step("int8 placement")
    placed = modelopt_scales(model, samples.calibration)
    progress.on_step("int8 activation ranges")
    tensors = {name for layer in layers for name in (*layer.activations.values(), layer.node.output[0])}
    ranges = observe(model, tensors, samples.calibration)
    count = len(next(iter(samples.calibration.values())))
    toggles = LayerToggles(model, placed, [value.name for value in model.graph.output], samples.postprocess or dict)
    methods = METHODS if options.method is None and options.mode == "auto" else (options.method or "max",)
    progress.on_step("int8 calibration method")
    choice = choose_method(
        toggles, ranges, samples.validation, samples.judge, methods, calibration_samples=count, output=output
    )
    best = next(record for record in choice.tried if record.method == choice.method)
    tried: dict[str, list[CandidateRecord]] = {"int8-trt": list(choice.tried), "int8-cpu": []}
    kept: list[str] = []
    on_cpu: CpuChoice | None = None
    state: SearchState | None = None
    search: SearchRecord | None = None
    if options.mode == "auto":
        before = toggles.run(samples.validation)  # in the key they stand for what ``samples.postprocess`` is
        known = {"calibration": samples.calibration, "held": samples.validation, "fp32": before}
        state, deadline = SearchState(model, known, choice.method), time.monotonic() + options.seconds
        names = [layer.name for layer in layers if layer.weight is not None or layer.name in placed]
        progress.on_step("int8 sensitivity")
        _rank_into(state, toggles, samples.validation, choice.scales, names, output, deadline, progress)
        if best.status == "failed":
            progress.on_step("int8 search")
            spread = float(before[output].std())
            order = rank(state.errors, COMPRESSED_P99_ERROR_SD * spread, EDGE_MAX_CHANGE)
            kept, more = keep_in_float(
                toggles,
                samples.validation,
                samples.judge,
                choice,
                order,
                output=output,
                deadline=deadline,
                on_progress=progress.on_progress,
            )
            tried["int8-trt"] += more
            best = more[-1] if more else best
        if cpu:
            progress.on_step("int8 on this CPU")
            on_cpu = _cpu_choice(model, timed, samples, ranges, output, state, deadline, progress)
            tried["int8-cpu"] += on_cpu.tried
        state.save(now=True)
        measured = all(name in state.errors for name in names)
        search = SearchRecord(
            mode="auto",
            split=samples.validation_name,
            samples=len(next(iter(samples.validation.values()))),
            budget_s=options.seconds if math.isfinite(options.seconds) else 0.0,
            seconds=state.seconds,
            complete=measured and best.status != "failed",
        )
    scales = {
        name: {operand: choice.scales[by_name[name].activations[operand]] for operand in operands}
        for name, operands in placed.items()
        if name not in kept
    }
    decided = Decisions(placed, scales, on_cpu, state.errors if state is not None else {})
    tried["int8-trt"] = [r.model_copy(update={"chosen": r is best}) for r in tried["int8-trt"]]
    return Int8Plan(
        scales=scales,
        method=choice.method,
        cpu_forms=on_cpu.forms if on_cpu is not None else {},
        ranges=ranges,
        layers=tuple(layer_record(layer, graphs, ranges, decided) for layer in layers),
        tried={precision: tuple(records) for precision, records in tried.items()},
        search=search,
    )


def _rank_into(
    state: SearchState,
    toggles: LayerToggles,
    validation: Mapping[str, Array],
    scales: Mapping[str, float],
    names: list[str],
    output: str,
    deadline: float,
    progress: Progress,
) -> None:
    """Measures the layers that ``state`` lacks, and lets it save them as they come."""

    def found(name: str, error: LayerError) -> None:
        state.errors[name] = error
        state.save()
        progress.on_progress(len(state.errors), len(names))

    known = dict(state.errors)
    sensitivity(toggles, validation, scales, layers=names, output=output, deadline=deadline, known=known, found=found)


def _cpu_choice(
    model: ModelProto,
    timed: ModelProto,
    samples: Samples,
    ranges: Mapping[str, Statistics],
    output: str,
    state: SearchState,
    deadline: float,
    progress: Progress,
) -> CpuChoice:
    sample = {name: np.ascontiguousarray(array[:1]) for name, array in samples.validation.items()}
    before = _outputs(model.SerializeToString(), {}, samples.validation)

    def lowered(graph: ModelProto, forms: Mapping[str, Form]) -> tuple[bytes, dict[str, str]]:
        lowering = lower_for_cpu(graph, forms, ranges)
        return lowering.model.SerializeToString(), lowering.session_options

    def accept(forms: Mapping[str, Form]) -> CandidateRecord:
        after = _outputs(*lowered(model, forms), samples.validation)
        what = f"integers in {len(forms)} layer{'s' if len(forms) > 1 else ''}" if forms else "INT8 weights, float arithmetic"
        return candidate(
            what,
            samples.judge(before, after),
            before,
            after,
            output=output,
            calibration_samples=len(next(iter(samples.calibration.values()))) if "static" in forms.values() else 0,
            layers_in_float=len(layers_of(model)) - len(forms),
        )

    plain = accept({})
    latencies = layer_latencies(timed, sample, ranges, state=state, deadline=deadline, on_progress=progress.on_progress)
    found = choose_cpu_arithmetic(timed, sample, latencies, lambda forms: lowered(timed, forms), accept, deadline=deadline)
    records = [plain, *found.tried]
    chosen = records[-1] if found.forms else plain
    marked = [record.model_copy(update={"chosen": record is chosen}) for record in records]
    return CpuChoice(found.forms, found.latencies, marked, found.whole)


def _outputs(data: bytes, options: Mapping[str, str], samples: Mapping[str, Array]) -> dict[str, Array]:
    session = cpu_session(data, options)
    names = [value.name for value in session.get_outputs()]
    return infer_batched(lambda feed: dict(zip(names, session.run(names, feed), strict=True)), samples, _BATCH)
