"""The plan for dmdkit's own CPU kernels: which initialiser of a fusion graph is which weight of the model.

It is one text in the ONNX file's ``metadata_props``, beside the weights it names. There because a backend is given that file
and nothing else, because the file's hash then covers both, and because every other reader of the file, ONNX Runtime and older
versions of this one included, passes over such a text. The format is in docs/native.md; the C++ side reads it strictly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from onnx import ModelProto, NodeProto, TensorProto, helper

from dmdkit.config import ModelShape
from dmdkit.errors import ExportError
from dmdkit.export.stream_groups import Stream, group_lengths, group_streams
from dmdkit.model.dmd import GRAPH_ORDER

__all__ = ["PLAN_KEY", "PLAN_VERSION", "plan_of", "replan", "with_plan", "with_step_plan"]

PLAN_KEY = "dmdkit.plan"
PLAN_VERSION = 1
_SIZES = ("width", "heads", "outputs", "levels", "memory_levels")
_ANCHOR = "/readout/gate/Conv"
"""A node that every fusion graph has once: what stands before it is the scope of the student."""


@dataclass(frozen=True)
class _Sizes:
    """What the plan says of the model as a whole, and what the groups follow from."""

    model: dict[str, int]
    modalities: dict[str, dict[str, int]]
    real_steps: bool = False

    @classmethod
    def of(cls, shape: ModelShape, real_steps: bool) -> _Sizes:
        model = dict(zip(_SIZES, (shape.width, shape.heads, shape.num_outputs, shape.levels, shape.memory_levels), strict=True))
        steps, features, kernels = (part.as_dict() for part in (shape.lengths, shape.feature_dims, shape.kernels))
        modalities = {m: {"steps": steps[m], "features": features[m], "kernel": kernels[m]} for m in GRAPH_ORDER}
        return cls(model, modalities, real_steps)

    @classmethod
    def read(cls, plan: str) -> _Sizes:
        """The sizes in a plan that :func:`with_plan` wrote."""
        numbers = {
            words[0]: int(words[1]) for line in plan.splitlines()[1:] if len(words := line.split()) == 2 and "=" not in line
        }
        modalities = {m: {name: numbers[f"{m}.{name}"] for name in ("steps", "features", "kernel")} for m in GRAPH_ORDER}
        return cls({name: numbers[name] for name in _SIZES}, modalities, "real_steps" in numbers)

    def lines(self) -> Iterator[str]:
        yield from (f"{name} {value}" for name, value in self.model.items())
        if self.real_steps:
            yield "real_steps 1"
        for modality, sizes in self.modalities.items():
            yield from (f"{modality}.{name} {value}" for name, value in sizes.items())

    def groups(self) -> Iterator[tuple[int, list[str], list[Stream]]]:
        """Number, targets and streams of every group, in the order in which its weights are stacked."""
        lengths = group_lengths({m: sizes["steps"] - sizes["kernel"] + 1 for m, sizes in self.modalities.items()})
        totals = dict.fromkeys(lengths[m].total for m in GRAPH_ORDER)
        for number, total in enumerate(totals):
            targets = [m for m in GRAPH_ORDER if lengths[m].total == total]
            yield number, targets, group_streams(targets, lengths)


class _Graph:
    """Finds the constants behind the nodes of a fusion graph, whatever their INT8 form."""

    def __init__(self, model: ModelProto) -> None:
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: dict[str, NodeProto] = {node.name: node for node in model.graph.node}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        scopes = [
            name[: -len(_ANCHOR)]
            for name in (n.removesuffix("/integer/ConvInteger") for n in self._layers())
            if name.endswith(_ANCHOR)
        ]
        if len(scopes) != 1:
            raise ExportError(f"no plan for the native kernels: the graph has {len(scopes)} nodes *{_ANCHOR}, expected 1")
        self.scope = scopes[0]

    def _layers(self) -> Iterator[str]:
        yield from (name.replace("/integer/QLinearConv", "/integer/ConvInteger") for name in self.nodes)

    def _need(self, name: str, found: object) -> None:
        if not found:
            raise ExportError(f"no plan for the native kernels: {name} is not in the graph as expected")

    def has(self, layer: str) -> bool:
        """Whether the graph has the convolution ``layer``, in floats or integers."""
        name = f"{self.scope}/{layer}/Conv"
        return any(n in self.nodes for n in (name, f"{name}/integer/ConvInteger", f"{name}/integer/QLinearConv"))

    def layer(self, layer: str, op: str = "Conv") -> str:
        """``weight=... scale=... bias=...`` of a linear layer or convolution."""
        name = f"{self.scope}/{layer}/{op}"
        if name in self.nodes:
            return self._float_layer(self.nodes[name])
        integer = {
            kind: self.nodes.get(f"{name}/integer/{kind}")
            for kind in ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
        }
        words = []
        if (node := integer["ConvInteger"] or integer["MatMulInteger"]) is not None:
            scale = self.nodes[f"{name}/integer/Scale"].input[1]
            bias = self.nodes.get(f"{name}/integer/Add")
            words = [f"weight={node.input[1]}", f"scale={scale}"] + ([f"bias={bias.input[1]}"] if bias is not None else [])
        elif (node := integer["QLinearConv"] or integer["QLinearMatMul"]) is not None:
            words = [f"weight={node.input[3]}", f"scale={node.input[4]}"]
            bias = self.nodes.get(f"{name}/integer/Add")
            if node.op_type == "QLinearConv" and len(node.input) > 8:
                words += [f"bias={node.input[8]}", f"bias_scale={node.input[1]}"]
            elif bias is not None:
                words.append(f"bias={bias.input[1]}")
        self._need(name, words)
        if node is not None and "MatMul" in node.op_type:
            words.append("transposed=1")
        return " ".join(words)

    def _float_layer(self, node: NodeProto) -> str:
        weight = node.input[1]
        words = [f"weight={weight}"]
        producer = self.producers.get(weight)
        if producer is not None and producer.op_type == "DequantizeLinear":
            words = [f"weight={producer.input[0]}", f"scale={producer.input[1]}"]
        self._need(node.name, all(word.partition("=")[2] in self.constants for word in words))
        if len(node.input) > 2:
            words.append(f"bias={node.input[2]}")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm" and not attributes.get("transB", 0):
            words.append("transposed=1")
        return " ".join(words)

    def constants_of(self, scope: str, op: str) -> list[str]:
        """Constants that the nodes ``op`` directly in a scope read, in order."""
        start = f"{self.scope}/{scope}/{op}"
        names = [n for n in self.nodes if n == start or (n.startswith(start + "_") and "/" not in n[len(start) :])]
        return [i for name in names for i in self.nodes[name].input if i in self.constants]


def _layer_lines(graph: _Graph, scope: str, place: int, width: int, span: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """The parts of one layer of the stream at ``place`` of a group; ``span``: number of its span and its place in that."""
    number, place_in_span = span
    for part, name, at, rows in (
        ("query", "query", place, width),
        ("key", f"spans/{number}/key", place_in_span, width),
        ("value", f"spans/{number}/value", place_in_span, width),
        ("out", "out", place, width),
        ("fc1", "feed_forward/fc1", place, 4 * width),
        ("fc2", "feed_forward/fc2", place, width),
    ):
        yield part, f"{graph.layer(f'{scope}/{name}')} row={at * rows}"


def _last_lines(graph: _Graph, scope: str, place: int, width: int, heads: int) -> Iterator[tuple[str, str]]:
    for part, name, rows in (
        ("query", "query", width),
        ("query_for_source", "query_for_source", heads * width),
        ("value", "value", width),
        ("out", "out", width),
        ("fc1", "feed_forward/fc1", 4 * width),
        ("fc2", "feed_forward/fc2", width),
    ):
        yield part, f"{graph.layer(f'{scope}/{name}')} row={place * rows}"


def _spans(streams: list[Stream]) -> list[tuple[int, int]]:
    """Of every stream, the number of its span in the group and its place in that."""
    spans = groupby(streams, key=lambda stream: stream.keys.total)
    return [(number, place) for number, (_, group) in enumerate(spans) for place, _ in enumerate(group)]


def _front_lines(graph: _Graph) -> Iterator[str]:
    for modality in GRAPH_ORDER:
        scope = f"front/decouple/{modality}"
        if graph.has(f"{scope}/project"):
            yield f"{modality}.project {graph.layer(f'{scope}/project')}"
        yield f"{modality}.encode {graph.layer(f'{scope}/encode')}"
        means, factors = graph.constants_of(scope, "Sub"), graph.constants_of(scope, "Mul")
        if means:
            yield f"{modality}.mean weight={means[0]}"
            yield f"{modality}.inverse_scale weight={factors[0]}"
        yield f"{modality}.positions weight={factors[-1]}"


def _lane_lines(graph: _Graph, sizes: _Sizes) -> Iterator[str]:
    width, heads, levels = (sizes.model[name] for name in ("width", "heads", "levels"))
    for number, targets, streams in sizes.groups():
        group, crossed = f"groups/{number}", [stream for stream in streams if stream.source is not None]
        for level in range(levels):
            last = level == levels - 1
            here, scope = (crossed, f"{group}/last_crossed") if last else (streams, f"{group}/layers/{level}")
            for place, (stream, span) in enumerate(zip(here, _spans(here), strict=True)):
                name = f"self.{stream.target}" if stream.source is None else f"cross.{stream.target}.{stream.source}"
                yield from (f"{name}.{level}.{part} {found}" for part, found in _layer_lines(graph, scope, place, width, span))
        (positions,) = graph.constants_of(group, "Add")
        shared = graph.constants[positions].dims[0] == 1
        for place, target in enumerate(targets):
            lines = _last_lines(graph, f"{group}/last_self", place, width, heads)
            yield from (f"self.{target}.last.{part} {found}" for part, found in lines)
            yield f"memory.{target}.input {graph.layer(f'{group}/into_memory')} row={2 * width * place}"
            yield f"memory.{target}.positions weight={positions} row={0 if shared else 2 * width * place}"
            for level in range(sizes.model["memory_levels"] - 1):
                lines = _layer_lines(graph, f"{group}/memory/{level}", place, 2 * width, (0, place))
                yield from (f"memory.{target}.{level}.{part} {found}" for part, found in lines)
            lines = _last_lines(graph, f"{group}/last_memory", place, 2 * width, heads)
            yield from (f"memory.{target}.last.{part} {found}" for part, found in lines)


def _readout_lines(graph: _Graph, sizes: _Sizes) -> Iterator[str]:
    for place, modality in enumerate(GRAPH_ORDER):
        yield f"gate.{modality} {graph.layer('readout/gate')} row={2 * sizes.model['width'] * place}"
    for name, layer in (("gate.common", "common_gate"), ("readout.hidden", "proj1"), ("readout.out", "out")):
        yield f"{name} {graph.layer(f'readout/{layer}', 'Gemm')}"


def _with(model: ModelProto, sizes: _Sizes) -> ModelProto:
    graph = _Graph(model)
    lines = [
        f"dmdkit plan {PLAN_VERSION}",
        *sizes.lines(),
        *_front_lines(graph),
        *_lane_lines(graph, sizes),
        *_readout_lines(graph, sizes),
    ]
    helper.set_model_props(model, {PLAN_KEY: "\n".join(lines) + "\n"})
    return model


def plan_of(model: ModelProto) -> str | None:
    """The plan in a graph, or None."""
    found: Mapping[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    return found.get(PLAN_KEY)


def with_plan(model: ModelProto, shape: ModelShape, *, real_steps: bool = False) -> ModelProto:
    """``model``, a fusion graph of a model of this shape, with its plan written into it.

    Args:
        model: The graph; it is changed.
        shape: The model's sizes.
        real_steps: Whether the graph takes ``steps`` and reads the last real one.

    Raises:
        ExportError: The graph is not one that the exporter wrote.
    """
    return _with(model, _Sizes.of(shape, real_steps))


def _head_lines(graph: _Graph) -> Iterator[str]:
    (scale,), (shift,) = graph.constants_of("heads", "Mul"), graph.constants_of("heads", "Add")
    for place, modality in enumerate(GRAPH_ORDER):
        yield f"hetero.{modality}.scale weight={scale} row={place}"
        yield f"hetero.{modality}.shift weight={shift} row={place}"
        for name, layer in (("first", "proj1"), ("second", "proj2"), ("out", "out")):
            yield f"hetero.{modality}.{name} {graph.layer(f'heads/head/{modality}/{layer}', 'Gemm')}"
    if f"{graph.scope}/heads/unit/logit/MatMul" not in graph.nodes:
        return
    for name in ("logit", "representation", "edge"):
        (bias,) = graph.constants_of(f"heads/unit/{name}", "Add")
        yield f"unit.{name} {graph.layer(f'heads/unit/{name}', 'MatMul')} bias={bias} transposed=1"
        if name == "logit":
            yield f"unit {graph.constants[bias].dims[0]}"


def with_step_plan(model: ModelProto) -> ModelProto:
    """``model``, a step graph, with a plan of what no fusion graph has: the heads that say what each modality says alone.

    Raises:
        ExportError: The graph is not one that the exporter wrote.
    """
    lines = [f"dmdkit plan of steps {PLAN_VERSION}", *_head_lines(_Graph(model))]
    helper.set_model_props(model, {PLAN_KEY: "\n".join(lines) + "\n"})
    return model


def replan(model: ModelProto, origin: ModelProto) -> ModelProto:
    """``model``, an INT8 form of the fusion graph ``origin``, with a plan of its own; unchanged if ``origin`` has none."""
    plan = plan_of(origin)
    return model if plan is None else _with(model, _Sizes.read(plan))
