"""What can be said about an engine for a device that is not here: every check that needs no GPU, and the rest by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import yaml
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference

from dmdkit.calibration.graph.weight_storage import check_scales
from dmdkit.errors import CalibrationError, ExportError
from dmdkit.export.fp16_forms import has_fp16_rest
from dmdkit.export.targets import Target
from dmdkit.export.text_lengths import with_fixed_length
from dmdkit.runtime.bundle import Bundle

__all__ = ["Finding", "dry_run"]

_TABLE = Path(__file__).with_name("parser") / "tensorrt-10.1.yaml"
_MIB = 1 << 20
_TYPES = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
ONLY_THE_DEVICE = (
    "whether its TensorRT builds the graph, and how long that takes",
    "which precision each layer really runs in (engine inspector)",
    "parity with the golden samples",
    "latency, and under which power mode",
)


@dataclass(frozen=True)
class Finding:
    """One check of one graph."""

    graph: str
    check: str
    status: Literal["ok", "problem", "device only"]
    detail: str

    def to_json(self) -> dict[str, str]:
        """A plain dictionary."""
        return asdict(self)


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return found


class _Graph:
    """A graph with its types and shapes inferred."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constant_nodes = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
        self.types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        self.shapes: dict[str, list[int]] = {}
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
            self.types[value.name] = value.type.tensor_type.elem_type
            self.shapes[value.name] = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]

    def is_constant(self, name: str) -> bool:
        return not name or name in self.constants or name in self.constant_nodes


def _limit_broken(graph: _Graph, node: NodeProto, limit: str) -> str | None:
    """What a node does against a limit of the parser, for the limits that can be read off the graph."""
    text = limit.lower()
    if "axes must be" in text and len(node.input) > 1 and not all(map(graph.is_constant, node.input[1:])):
        return "its axes are not constant"
    if "zero_point must be" in text and len(node.input) > 2 and node.input[2]:
        tensor = graph.constants.get(node.input[2])
        if tensor is None or numpy_helper.to_array(tensor).any():
            return "its zero point is not 0"
    if "only the first output" in text and any(node.output[1:]):
        return "it has more than one output"
    if "2d or 3d pooling only" in text:
        kernel = next((list(item.ints) for item in node.attribute if item.name == "kernel_shape"), [])
        if len(kernel) not in (2, 3):
            return f"its kernel has {len(kernel)} axes"
    return None


def _operators(graph: _Graph) -> Iterator[str]:
    operators = _table()["operators"]
    for node in graph.model.graph.node:
        entry = operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if entry is None:
            yield f"{node.name} ({node.op_type}) is not an operator the parser knows"
            continue
        broken = _limit_broken(graph, node, entry.get("limit", ""))
        if broken is not None:
            yield f"{node.name} ({node.op_type}): {broken}, but {entry['limit']}"
        kind = graph.types.get(node.input[0]) if node.input else None
        name = _TYPES.get(kind) if kind is not None else None
        if name is not None and entry["types"] and name not in entry["types"]:
            yield f"{node.name} ({node.op_type}) works on {name}, the parser takes {', '.join(entry['types'])}"


def _other_types(graph: _Graph) -> Iterator[str]:
    for name, kind in graph.types.items():
        if kind and kind not in _TYPES:
            yield f"{name} is {TensorProto.DataType.Name(kind)}"


def _dynamic(graph: _Graph) -> Iterator[str]:
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        shape = graph.shapes[value.name]
        if any(size < 1 for size in shape[1:]):
            yield f"{value.name} has shape {shape}"


def _memory(graph: _Graph, target: Target) -> str:
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in graph.constants.values())
    size = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.INT8: 1, TensorProto.BOOL: 1, TensorProto.INT64: 8}
    activations = 0
    for name, shape in graph.shapes.items():
        if name not in graph.constants:
            once = int(np.prod([abs(part) for part in shape], dtype=np.int64)) * size.get(graph.types.get(name, 1), 4)
            # A dequantised weight is there once, whatever the batch.
            activations += once * (target.batch.max if -1 in shape else 1)
    return (
        f"at most {(weights + activations) / _MIB:.0f} MiB: {weights / _MIB:.1f} MiB of constants and, if no two "
        f"intermediate values shared memory, {activations / _MIB:.0f} MiB at batch {target.batch.max}; "
        f"workspace limit {target.workspace_mib} MiB"
    )


def _finding(graph: str, check: str, problems: list[str], fine: str) -> Finding:
    if not problems:
        return Finding(graph, check, "ok", fine)
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return Finding(graph, check, "problem", "; ".join(problems[:3]) + more)


def _check(name: str, model: ModelProto, target: Target, precision: str) -> list[Finding]:
    graph = _Graph(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    low, high = _table()["opsets"]
    nodes = len(model.graph.node)
    found = [
        _finding(
            name, "opset", [] if low <= opset <= high else [f"opset {opset}, the parser reads {low} to {high}"], str(opset)
        ),
        _finding(
            name, "operators", list(_operators(graph)), f"{nodes} nodes, all read by the parser of TensorRT 10.1 and later"
        ),
        _finding(name, "types", list(_other_types(graph)), "only types that TensorRT computes with"),
        _finding(name, "shapes", list(_dynamic(graph)), "static but for the batch"),
    ]
    if precision == "int8":
        try:
            check_scales(model)
            advice = "its remaining layers are fp32; make them fp16 with: dmdkit export RUN --int8 --fp16"
            rest = [] if has_fp16_rest(model) else [advice]
        except CalibrationError as cause:
            rest = [str(cause)]
        found.append(_finding(name, "int8", rest, "scales lie along output channels; the remaining layers are fp16"))
    if precision == "fp16" and not has_fp16_rest(model):
        found.append(Finding(name, "fp16", "problem", "no fp16 constant: strong typing would build it in fp32"))
    found.append(Finding(name, "memory", "ok", _memory(graph, target)))
    return found


def dry_run(bundle: Bundle, graphs: list[str], target: Target, precision: str) -> list[Finding]:
    """Checks graphs of a bundle for a device that is not here.

    Args:
        bundle: An opened bundle.
        graphs: Names of its graphs.
        target: The device.
        precision: What is to be built; GD-Units are fp32 in any case.

    Raises:
        ExportError: A graph is not an ONNX file.
        BundleError: A graph is missing or damaged.
    """
    found = []
    for name in graphs:
        record = bundle.graph(name)
        try:
            model = onnx.load_from_string(bundle.read(record.file))
        except Exception as cause:  # protobuf's own errors have no common base that is public
            raise ExportError(f"{bundle.path}/{record.file}: not an ONNX file: {cause!s:.200}") from cause
        if record.kind == "text" and bundle.manifest.text is not None:  # sizes are known at the largest
            model = with_fixed_length(model, bundle.manifest.text.max_tokens)
        found += _check(name, model, target, "fp32" if record.kind.startswith("gd_") else precision)
    return found + [Finding("every graph", "on the device", "device only", what) for what in ONLY_THE_DEVICE]
