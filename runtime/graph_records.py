"""What a manifest says of one graph: how it is run, what it weighs, whether it was proven; and of the graphs that stream."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from dmdkit.records import Record

__all__ = [
    "OPTIONAL_BACKENDS",
    "Count",
    "GraphKind",
    "GraphRecord",
    "Modality",
    "OptionalBackend",
    "Precision",
    "Sha256",
    "Size",
    "StateRecord",
    "StreamRecord",
    "VerdictRecord",
]

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**31)]
Modality = Literal["text", "audio", "vision"]
Precision = Literal["fp32", "fp16", "int8-cpu", "int8-trt"]
GraphKind = Literal["fusion", "explain", "gd_homo", "gd_hetero", "text", "stream"]
OptionalBackend = Literal["openvino", "native", "native-7bit"]
SessionOption = Literal[
    "optimization.disable_specified_optimizers",
    "session.disable_quant_qdq",
    "session.enable_quant_qdq_cleanup",
    "session.set_denormal_as_zero",
]
"""The entries a bundle may set. Others name files to read or libraries to load, which is not for a bundle to decide."""
OPTIONAL_BACKENDS: tuple[OptionalBackend, ...] = get_args(OptionalBackend)


class VerdictRecord(Record):
    """Whether a graph answers like the model it came from."""

    status: Literal["passed", "failed", "unverified"]
    reason: str
    samples: Count
    data_sha256: Sha256 | None = None


class GraphRecord(Record):
    """One ONNX graph."""

    kind: GraphKind
    precision: Precision
    file: str
    opset: Count
    ir_version: Count
    session_options: dict[SessionOption, str] = Field(
        default_factory=dict, description="ONNX Runtime session config entries; only such as change how a graph is computed"
    )
    simulated_on_cpu: bool = Field(False, description="ONNX Runtime's CPU simulates this lowering; an engine runs it")
    weight_bytes: Count = Field(description="weight matrices with their scales")
    weights_stored_int8: Share = Field(description="share of weight-matrix elements stored as INT8")
    multiply_adds: Count = Field(description="per sample, all matrix products and convolutions")
    multiply_adds_int8: Share = Field(description="share of them computed in INT8")
    verdict: VerdictRecord = Field(description="of the graph in ONNX Runtime")
    backends: dict[OptionalBackend, VerdictRecord] = Field(
        default_factory=dict, description="verdict of the same graph in other backends, where it was measured"
    )

    def runs_in(self, backend: str) -> bool:
        """Whether a CPU backend is asked to run it; native kernels read the weights of a fusion graph, not its nodes."""
        if backend == "native":
            return self.kind == "fusion" and self.precision in ("fp32", "int8-cpu")
        return backend == "onnxruntime" or not self.onnxruntime_only

    @property
    def onnxruntime_only(self) -> bool:
        """Whether other CPU backends are not asked.

        They would simulate engine forms too, and OpenVINO 2026.4 refuses QLinearConv with one weight scale per channel (it
        takes the scales for those of axis 1).
        """
        integers = self.precision == "int8-cpu" and not self.only_stores_int8
        return self.simulated_on_cpu or integers

    @property
    def only_stores_int8(self) -> bool:
        """Whether its weights are INT8 and its arithmetic float, which ONNX Runtime repeats as exactly as an fp32 graph's."""
        return self.precision == "int8-cpu" and self.multiply_adds_int8 == 0


class StateRecord(Record):
    """One tensor of a stream's state: keys or values of one layer, one column a projected step."""

    name: str = Field(description="the step graph's input; its new columns are the output `new_` and this name")
    heads: Size = Field(description="attention heads of all streams of the layer")
    width: Size = Field(description="channels of a head; the tensor is float32 (heads, width, capacity)")


class StreamRecord(Record):
    """The step graphs, which answer step by step, and the state that a host keeps for them (docs/streaming.md)."""

    kernel: Size = Field(description="k, input steps under the projection; the first k - 1 steps have no answer")
    capacity: Size = Field(description="projected steps that a state holds: the model's input steps - k + 1")
    state: list[StateRecord] = Field(description="in the graph's order")
    graphs: dict[Precision, GraphRecord]

    @model_validator(mode="after")
    def _graphs_are_named_rightly(self) -> StreamRecord:
        for precision, graph in self.graphs.items():
            if (graph.kind, graph.precision) != ("stream", precision):
                raise ValueError(f"graphs.{precision} describes {graph.kind}.{graph.precision}")
        return self
