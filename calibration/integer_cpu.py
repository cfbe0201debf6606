"""Integer arithmetic for ONNX Runtime's CPU, layer by layer: two ways to write it, and what each costs here.

``dynamic`` reads the range of the activations at every call (DynamicQuantizeLinear, MatMulInteger or ConvInteger), ``static``
takes calibrated ranges for what goes in and what comes out (QLinearMatMul or QLinearConv). Weights are the same INT8 levels
that are stored for float arithmetic, one scale per output channel. Batched 3-D weights run in neither and stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of, replace_nodes
from dmdkit.calibration.graph.cleanup import drop_unused
from dmdkit.calibration.graph.layers import Layer, layers_of
from dmdkit.calibration.graph.weight_storage import quantize_per_channel
from dmdkit.calibration.ranges import Statistics

__all__ = ["FORMS", "Form", "can_be_integer", "integer_nodes", "with_integer_arithmetic"]

Array = npt.NDArray[np.float32]
Form = Literal["dynamic", "static"]
FORMS: tuple[Form, ...] = ("dynamic", "static")


@dataclass(frozen=True)
class _Pieces:
    """What replaces a layer: nodes in order, and their constants."""

    nodes: list[NodeProto]
    constants: list[TensorProto]


def can_be_integer(layer: Layer) -> bool:
    """Whether either form exists for a layer: one constant 2-D weight on the right, or a convolution's."""
    if layer.weight is None or layer.weight.operand != 1:
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in layer.node.attribute}
    if layer.kind == "Gemm":
        plain = all(attributes.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        return plain and not attributes.get("transA", 0)
    return layer.kind == "Conv" or len(layer.weight_shape) == 2


def _asymmetric(found: Statistics) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of unsigned 8-bit levels over the observed range, 0 included."""
    low, high = min(found.minimum, 0.0), max(found.maximum, 0.0)
    scale = (high - low) / 255 or 1.0
    return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, 255))


def integer_nodes(layer: Layer, constants: Mapping[str, Array], form: Form, ranges: Mapping[str, Statistics]) -> _Pieces:
    """A layer in integers, with the same inputs and output.

    Args:
        layer: One that :func:`can_be_integer`.
        constants: Initializers of its graph, as arrays.
        form: The way the integer product is written.
        ranges: Statistics of its input and its output tensor, by name; only ``static`` reads them.
    """
    assert layer.weight is not None
    node, base = layer.node, f"{layer.name}/integer"
    weight = constants[layer.weight.initializer.name]
    if layer.kind == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        weight = np.ascontiguousarray(weight.T)
    axis = 0 if layer.kind == "Conv" else weight.ndim - 1
    levels, scale = quantize_per_channel(weight, axis)
    bias = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    spread = (1, -1) + (1,) * (weight.ndim - 2) if layer.kind == "Conv" else (-1,)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} if layer.kind == "Conv" else {}
    made: list[TensorProto] = []
    nodes: list[NodeProto] = []

    def constant(name: str, array: npt.NDArray[np.generic]) -> str:
        made.append(numpy_helper.from_array(np.asarray(array), f"{base}.{name}"))
        return made[-1].name

    def add(op: str, inputs: list[str], outputs: list[str], label: str = "", **values: Any) -> None:
        nodes.append(helper.make_node(op, inputs, outputs, name=f"{base}/{label or op}", **values))

    source, target = node.input[0], node.output[0]
    stored = constant("weight", levels)
    if form == "dynamic":
        add("DynamicQuantizeLinear", [source], [f"{base}.x", f"{base}.x_scale", f"{base}.x_zero"])
        op = "ConvInteger" if layer.kind == "Conv" else "MatMulInteger"
        add(op, [f"{base}.x", stored, f"{base}.x_zero"], [f"{base}.sum"], **attributes)
        add("Cast", [f"{base}.sum"], [f"{base}.float"], to=TensorProto.FLOAT)
        add("Mul", [f"{base}.x_scale", constant("scale", scale.reshape(spread))], [f"{base}.scale_now"], label="Scale")
        product = f"{base}.product" if bias is not None else target
        add("Mul", [f"{base}.float", f"{base}.scale_now"], [product])
        if bias is not None:
            add("Add", [product, constant("bias", bias.reshape(spread))], [target])
        return _Pieces(nodes, made)
    (x_scale, x_zero), (y_scale, y_zero) = _asymmetric(ranges[source]), _asymmetric(ranges[target])
    x = [constant("x_scale", np.array(x_scale)), constant("x_zero", np.array(x_zero))]
    y = [constant("y_scale", np.array(y_scale)), constant("y_zero", np.array(y_zero))]
    w = [stored, constant("scale", scale), constant("zero", np.zeros(scale.shape, np.int8))]
    add("QuantizeLinear", [source, *x], [f"{base}.x"])
    operands = [f"{base}.x", *x, *w, *y]
    if layer.kind == "Conv":
        if bias is not None:
            operands.append(constant("bias", np.rint(bias / (x_scale * scale)).astype(np.int32)))
        add("QLinearConv", operands, [f"{base}.y"], **attributes)
        add("DequantizeLinear", [f"{base}.y", *y], [target])
        return _Pieces(nodes, made)
    product = f"{base}.product" if bias is not None else target
    add("QLinearMatMul", operands, [f"{base}.y"])
    add("DequantizeLinear", [f"{base}.y", *y], [product])
    if bias is not None:
        add("Add", [product, constant("bias", bias.reshape(spread))], [target])
    return _Pieces(nodes, made)


def with_integer_arithmetic(model: ModelProto, forms: Mapping[str, Form], ranges: Mapping[str, Statistics]) -> ModelProto:
    """A copy of an fp32 graph with these layers in integers.

    Args:
        model: The graph; it is not changed.
        forms: Layer -> how it computes; layers the graph lacks are passed over.
        ranges: Statistics per tensor, for the static form.
    """
    model = copy_of(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {layer.name: layer for layer in layers_of(model) if layer.name in forms}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        layer = layers.get(node.name)
        if layer is None:
            nodes.append(node)
            continue
        pieces = integer_nodes(layer, constants, forms[node.name], ranges)
        nodes += pieces.nodes
        model.graph.initializer.extend(pieces.constants)
    replace_nodes(model, nodes)
    del model.graph.value_info[:]
    drop_unused(model)
    return model
