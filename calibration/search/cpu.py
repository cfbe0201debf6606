"""Which layers ONNX Runtime's CPU computes faster in integers here: timed alone, then proven in the whole graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of
from dmdkit.calibration.graph.layers import Layer, layers_of
from dmdkit.calibration.integer_cpu import FORMS, Form, can_be_integer, integer_nodes
from dmdkit.calibration.ranges import Statistics
from dmdkit.calibration.search.state import SearchState
from dmdkit.parity.int8_report import CandidateRecord
from dmdkit.parity.paired_latency import PairedRatio, paired_ratio
from dmdkit.parity.timing import timed_rounds
from dmdkit.runtime.backends.onnxruntime import cpu_session

__all__ = ["CpuChoice", "choose_cpu_arithmetic", "layer_latencies"]

Array = npt.NDArray[np.float32]

_LAYER_ROUNDS = 40
_WHOLE_ROUNDS = 120
_WHOLE_SECONDS = 8.0
_SESSIONS = 3
WORTH_TRYING = 0.95
"""A layer is tried in integers when alone it takes at most this part of its float time: less is within the noise."""

WORTH_TAKING = 0.98
"""The whole graph keeps integers when its latency over float arithmetic is surely (95 %) at most this."""


@dataclass(frozen=True)
class CpuChoice:
    """What was found.

    Attributes:
        forms: Layers to compute in integers, and how; empty where float is as fast.
        latencies: Layer -> form -> its latency over float, alone.
        tried: What was tried in the whole graph.
        whole: Latency of the whole graph with the layers that were worth trying, over float arithmetic; None: none was.
    """

    forms: dict[str, Form]
    latencies: Mapping[str, Mapping[str, float]]
    tried: list[CandidateRecord] = field(default_factory=list)
    whole: PairedRatio | None = None


def _inputs_at_batch_one(model: ModelProto, tensors: Sequence[str], sample: Mapping[str, Array]) -> dict[str, Array]:
    probe = copy_of(model)
    names = sorted({name for name in tensors if name not in sample})
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n not in present)
    session = cpu_session(probe.SerializeToString())
    return dict(zip(names, session.run(names, dict(sample)), strict=True)) | dict(sample)


def _call(session: ort.InferenceSession, feed: dict[str, Array]) -> Callable[[], object]:
    return lambda: session.run(None, feed)


def _alone(
    layer: Layer, model: ModelProto, nodes: list[NodeProto], constants: list[TensorProto], x: Array
) -> ort.InferenceSession:
    source, target = layer.node.input[0], layer.node.output[0]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, None)],
        constants,
    )
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return cpu_session(made.SerializeToString())


def layer_latencies(
    model: ModelProto,
    sample: Mapping[str, Array],
    ranges: Mapping[str, Statistics],
    *,
    state: SearchState | None = None,
    deadline: float = math.inf,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, dict[str, float]]:
    """Median latency of each form of integer arithmetic over float, for every layer alone, on its real input.

    A form that cannot run here is left out. Layers that were measured earlier (``state``) are not measured again.
    """
    layers = [layer for layer in layers_of(model) if can_be_integer(layer)]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, dict[str, float]] = dict(state.latencies) if state is not None else {}
    missing = [layer for layer in layers if layer.name not in found]
    values = _inputs_at_batch_one(model, [layer.node.input[0] for layer in missing], sample) if missing else {}
    for number, layer in enumerate(missing):
        if time.monotonic() > deadline:
            break
        x = values[layer.node.input[0]]
        own = [stored[name] for name in layer.node.input if name in stored]
        sessions = {"float": _alone(layer, model, [layer.node], own, x)}
        for form in FORMS:
            try:
                pieces = integer_nodes(layer, constants, form, ranges)
                sessions[form] = _alone(layer, model, pieces.nodes, pieces.constants, x)
                sessions[form].run(None, {layer.node.input[0]: x})
            except Exception:  # a kernel that is not there is an answer: this form does not exist here
                sessions.pop(form, None)
        feed = {layer.node.input[0]: x}
        times = timed_rounds({name: _call(session, feed) for name, session in sessions.items()}, _LAYER_ROUNDS)
        base = float(np.median(times.pop("float").wall))
        found[layer.name] = {form: float(np.median(found_times.wall)) / base for form, found_times in times.items()}
        if state is not None:
            state.latencies = found
            state.save()
        on_progress(number + 1, len(missing))
    return {layer.name: found[layer.name] for layer in layers if layer.name in found}


def _whole_ratio(
    integer: tuple[bytes, dict[str, str]], plain: tuple[bytes, dict[str, str]], sample: dict[str, Array]
) -> PairedRatio:
    """Several sessions of each, because two of the same graph already differ by per cents, by where their memory lies."""
    calls = {}
    for number in range(_SESSIONS):
        for name, (data, options) in (("integer", integer), ("float", plain)):
            session = cpu_session(data, options)
            calls[f"{name}{number}"] = _call(session, sample)
    times = timed_rounds(calls, _WHOLE_ROUNDS, seconds=_WHOLE_SECONDS)
    sums = {n: np.sum([times[f"{n}{number}"].wall for number in range(_SESSIONS)], axis=0) for n in ("integer", "float")}
    return paired_ratio(sums["integer"].tolist(), sums["float"].tolist())


def _winners(latencies: Mapping[str, Mapping[str, float]]) -> dict[str, Form]:
    best: dict[str, Form] = {}
    for name, ratios in latencies.items():
        form = min(FORMS, key=lambda form: ratios.get(form, math.inf))
        if ratios.get(form, math.inf) <= WORTH_TRYING:
            best[name] = form
    return best


def choose_cpu_arithmetic(
    timed: ModelProto,
    sample: Mapping[str, Array],
    latencies: Mapping[str, Mapping[str, float]],
    lower: Callable[[Mapping[str, Form]], tuple[bytes, dict[str, str]]],
    accept: Callable[[Mapping[str, Form]], CandidateRecord],
    *,
    deadline: float = math.inf,
) -> CpuChoice:
    """Takes the layers that are faster in integers if the whole graph is, and answers like fp32.

    Alone, a layer does not lose what fusing it with its neighbours gains in float, so the whole graph decides: first with
    all layers that won alone, then with the half of them that saves most, and so on.

    Args:
        timed: The fp32 graph whose latency counts.
        sample: Input name -> (1, ...), one sample.
        latencies: From :func:`layer_latencies`.
        lower: Forms -> the INT8 graph with them as bytes, and its session options; no forms: float arithmetic.
        accept: Forms -> how far the answers are from fp32.
        deadline: ``time.monotonic()`` after which nothing further is tried.
    """
    work = {layer.name: layer.multiply_adds for layer in layers_of(timed)}
    winners = {name: form for name, form in _winners(latencies).items() if name in work}
    saved = {name: work[name] * (1 - latencies[name][form]) for name, form in winners.items()}
    order = sorted(winners, key=lambda name: -saved[name])
    tried: list[CandidateRecord] = []
    whole: PairedRatio | None = None
    while order and time.monotonic() < deadline:
        forms = {name: winners[name] for name in order}
        record = accept(forms)
        whole = _whole_ratio(lower(forms), lower({}), dict(sample))
        faster = whole.high <= WORTH_TAKING
        shown = f"{whole.ratio:.3f} [{whole.low:.3f}, {whole.high:.3f}] of the latency of float arithmetic"
        tried.append(record.model_copy(update={"what": f"{record.what}: {shown}"}))
        if faster and record.status != "failed":
            return CpuChoice(forms, latencies, tried, whole)
        order = order[: len(order) // 2]
    return CpuChoice({}, latencies, tried, whole)
