"""Static symmetric S8 Q/DQ: where modelopt would put it, and graphs that have it at exactly the layers asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of, products, replace_nodes
from dmdkit.errors import CalibrationError

__all__ = ["LayerScales", "scales_in", "with_qdq"]

LayerScales = Mapping[str, Mapping[int, float]]
"""Layer name -> operand -> width of one INT8 level, for the operands that are quantised activations."""


def scales_in(quantized: ModelProto) -> dict[str, dict[int, float]]:
    """The layers of a Q/DQ graph whose activations are quantised, with their scales.

    Raises:
        CalibrationError: An activation is quantised in a way that engines for symmetric INT8 do not take.
    """
    producers = {name: node for node in quantized.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    found: dict[str, dict[int, float]] = {}
    for product in products(quantized):
        for operand, name in enumerate(product.node.input[:2]):
            dequantize = producers.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            quantize = producers.get(dequantize.input[0])
            if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.input[0] in constants:
                continue
            scale = numpy_helper.to_array(constants[quantize.input[1]])
            zero = numpy_helper.to_array(constants[quantize.input[2]]) if len(quantize.input) > 2 else np.zeros(1, np.int8)
            if scale.size != 1 or zero.dtype != np.int8 or zero.any():
                raise CalibrationError(f"{product.node.name}: operand {operand} is not quantised per tensor to symmetric INT8")
            found.setdefault(product.node.name, {})[operand] = float(scale.reshape(-1)[0])
    return found


def with_qdq(model: ModelProto, scales: LayerScales) -> ModelProto:
    """A copy of an fp32 graph with Q/DQ pairs in front of these operands; weights are left as they are.

    Raises:
        CalibrationError: A layer is not in the graph, or a scale is not positive.
    """
    unknown = set(scales) - {node.name for node in model.graph.node}
    if unknown:
        raise CalibrationError(
            f"the graph {model.graph.name} has no layer {sorted(unknown)[0]}; quantise the graph it came from"
        )
    model = copy_of(model)
    pairs: dict[tuple[str, float], str] = {}
    nodes: list[NodeProto] = []
    constants = []
    for node in model.graph.node:
        for operand, scale in scales.get(node.name, {}).items():
            if not (np.isfinite(scale) and scale > 0):
                raise CalibrationError(f"{node.name}: scale {scale} of operand {operand}; expected a positive number")
            key = (node.input[operand], scale)
            if key not in pairs:
                base = f"int8.{len(pairs)}"
                constants += [
                    numpy_helper.from_array(np.array(scale, np.float32), f"{base}.scale"),
                    numpy_helper.from_array(np.array(0, np.int8), f"{base}.zero"),
                ]
                parameters = [f"{base}.scale", f"{base}.zero"]
                pairs[key] = f"{base}.dq"
                label = f"{node.name}/operand{operand}"
                nodes += [
                    helper.make_node("QuantizeLinear", [key[0], *parameters], [f"{base}.q"], name=f"{label}/QuantizeLinear"),
                    helper.make_node(
                        "DequantizeLinear", [f"{base}.q", *parameters], [pairs[key]], name=f"{label}/DequantizeLinear"
                    ),
                ]
            node.input[operand] = pairs[key]
        nodes.append(node)
    model.graph.initializer.extend(constants)
    replace_nodes(model, nodes)
    return model
