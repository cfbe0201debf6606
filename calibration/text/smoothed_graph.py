"""Products rewritten as :mod:`dmdkit.calibration.text.smoothing` plans them: in float, the graph computes the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of, replace_nodes
from dmdkit.calibration.graph.cleanup import drop_unused
from dmdkit.calibration.text.smoothing import ATTENTION_OUTPUT, Activations, Preparation, smoothing_factor, weight_products

__all__ = ["smoothed"]

Float = npt.NDArray[np.float32]


def _divide_values(model: ModelProto, name: str, factor: Float) -> bool:
    """Divides what attention hands to its output product, if ``name`` is one, by dividing the values' weights and bias.

    What the product reads is linear in the values, channel by channel, so nothing has to be divided at run time.
    """
    nodes = {node.name: node for node in model.graph.node}
    values = nodes.get(name.replace(ATTENTION_OUTPUT, "/qkv/")) if ATTENTION_OUTPUT in name else None
    bias = next((n for n in model.graph.node if n.op_type == "Add" and values and values.output[0] in n.input), None)
    if values is None or bias is None:
        return False
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    index = 0 if bias.input[0] in constants else 1
    if values.input[1] not in constants or bias.input[index] not in constants:
        return False
    divisor = np.concatenate([np.ones(2 * len(factor), np.float32), factor])
    places = [(values, 1), (bias, index)]
    if any(constants[node.input[operand]].dims[-1] != len(divisor) for node, operand in places):
        return False
    for node, operand in places:
        array = numpy_helper.to_array(constants[node.input[operand]])
        divided = f"{name}.{node.name}.divided"
        model.graph.initializer.append(numpy_helper.from_array((array / divisor).astype(np.float32), divided))
        node.input[operand] = divided
    return True


def smoothed(
    model: ModelProto,
    activations: Mapping[str, Activations],
    preparations: Mapping[str, Preparation],
    *,
    into_values: bool = False,
) -> ModelProto:
    """A copy that computes the same, its products prepared for INT8; their names stay.

    Args:
        model: The fp32 graph.
        activations: Node name -> statistics of the product's input.
        preparations: By product; an absent one is left alone.
        into_values: Whether attention's output is divided where it is made, for nothing at run time. Not where the product of
            attention weights and values is in INT8 too, with one range for all values: it would lose what is gained here.
    """
    model = copy_of(model)
    left: list[tuple[str, Float, Preparation]] = []
    for weight in weight_products(model):
        name, matrix = weight.node.name, numpy_helper.to_array(weight.initializer)
        preparation = preparations.get(name, Preparation())
        if preparation == Preparation():
            continue
        factor = np.ones(len(matrix), np.float32)
        if preparation.strength is not None:
            factor = smoothing_factor(matrix, activations[name].maxima, preparation.strength)
        if into_values and not preparation.outliers and _divide_values(model, name, factor):
            _set_weight(model, weight.node, matrix * factor[:, None])
        else:
            left.append((name, factor, preparation))
    # Only now, because dividing values changes the weights of products that come before.
    before: dict[str, list[NodeProto]] = {}
    after: dict[str, list[NodeProto]] = {}
    products = {weight.node.name: weight for weight in weight_products(model)}
    for name, factor, preparation in left:
        node, matrix = products[name].node, numpy_helper.to_array(products[name].initializer)
        outliers = np.array(preparation.outliers, np.int64)
        multiplied, divisor = matrix * factor[:, None], 1 / factor
        multiplied[outliers] = divisor[outliers] = 0
        _set_weight(model, node, multiplied)
        names = {part: f"{name}.{part}" for part in ("divided", "divisor")}
        model.graph.initializer.append(numpy_helper.from_array(divisor.astype(np.float32), names["divisor"]))
        inputs, source = [node.input[0], names["divisor"]], node.input[0]
        before[name] = [helper.make_node("Mul", inputs, [names["divided"]], name=f"{name}/Smooth")]
        node.input[0] = names["divided"]
        if len(outliers):
            last = _with_bias(model, node)
            after[last.name] = _in_float(model, node.name, last, source, matrix[outliers], outliers)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += [*before.get(node.name, []), node, *after.get(node.name, [])]
    replace_nodes(model, nodes)
    drop_unused(model)
    return model


def _set_weight(model: ModelProto, node: NodeProto, matrix: Float) -> None:
    name = f"{node.name}.multiplied"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(matrix, np.float32), name))
    node.input[1] = name


def _with_bias(model: ModelProto, product: NodeProto) -> NodeProto:
    """The node that adds the bias of ``product``, which ONNX Runtime fuses with it; else the product itself."""
    constants = {tensor.name for tensor in model.graph.initializer}
    readers: list[NodeProto] = [node for node in model.graph.node if product.output[0] in node.input]
    if len(readers) == 1 and readers[0].op_type == "Add" and constants.intersection(readers[0].input):
        return readers[0]
    return product


def _in_float(
    model: ModelProto, product: str, last: NodeProto, source: str, rows: Float, outliers: npt.NDArray[np.int64]
) -> list[NodeProto]:
    """Nodes that add these channels of ``source``, times ``rows``, to the output of ``last``, which gets another name."""
    names = {part: f"{product}.outliers.{part}" for part in ("index", "rows", "values", "product", "rest")}
    model.graph.initializer.append(numpy_helper.from_array(outliers, names["index"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows), names["rows"]))
    target, last.output[0] = last.output[0], names["rest"]
    base = f"{product}/Outliers"
    return [
        helper.make_node("Gather", [source, names["index"]], [names["values"]], name=f"{base}/Gather", axis=2),
        helper.make_node("MatMul", [names["values"], names["rows"]], [names["product"]], name=f"{base}/MatMul"),
        helper.make_node("Add", [names["rest"], names["product"]], [target], name=f"{base}/Add"),
    ]
