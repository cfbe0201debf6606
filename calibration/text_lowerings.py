"""The INT8 forms of a text encoder's graph.

A BERT's products are wide, so integer arithmetic pays on a CPU, unlike in the fusion graph; and a few channels of its
activations are far larger than the rest, so one static scale for a whole tensor loses the others. Two answers to that, both
exact in float: ranges taken from each input (:func:`dynamic_products`), and moving part of a channel's size from the activation
into the weight that meets it (:func:`smoothed`, after SmoothQuant, arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph_facts import Weight, copy_of, tables, weights
from dmdkit.calibration.lowerings import Lowering, lower_for_tensorrt
from dmdkit.calibration.tidy import drop_unused, tidied
from dmdkit.calibration.weight_storage import check_scales, quantize_per_channel
from dmdkit.errors import CalibrationError

__all__ = ["dynamic_products", "lower_text_for_cpu", "lower_text_for_tensorrt", "smoothed", "store_tables_int8"]

Tokens = Mapping[str, npt.NDArray[np.int64]]

CPU_SMOOTHING = 0.5
TENSORRT_SMOOTHING = 0.5
_TINY = 1e-5


def _replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _products(model: ModelProto) -> list[Weight]:
    """The products with a float weight matrix as their second operand: all that a BERT learns but its tables."""
    return [
        weight
        for weight in weights(model)
        if weight.node.op_type == "MatMul" and weight.operand == 1 and weight.initializer.data_type == TensorProto.FLOAT
    ]


def activation_maxima(model: ModelProto, samples: Tokens) -> dict[str, npt.NDArray[np.float32]]:
    """Per product, the largest magnitude of each input channel over the samples, float32 (K,).

    Raises:
        CalibrationError: There are no samples.
    """
    if not samples or any(len(array) == 0 for array in samples.values()):
        raise CalibrationError("no calibration samples: nothing says how large the activations are")
    watched = copy_of(model)
    names = {weight.node.name: weight.node.input[0] for weight in _products(model)}
    for name in sorted(set(names.values())):
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    largest: dict[str, npt.NDArray[np.float32]] = {}
    for index in range(len(next(iter(samples.values())))):
        values = session.run(outputs, {name: array[index : index + 1] for name, array in samples.items()})
        for name, value in zip(outputs, values, strict=True):
            found = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            largest[name] = np.maximum(largest[name], found) if name in largest else found
    return {product: largest[name] for product, name in names.items()}


def smoothed(model: ModelProto, samples: Tokens, strength: float) -> ModelProto:
    """A copy that computes the same, in which large activation channels are divided and their weight rows multiplied.

    Args:
        model: The fp32 graph.
        samples: Tokens to calibrate on.
        strength: 0 leaves all to the activations, 1 moves all into the weights.
    """
    maxima = activation_maxima(model, samples)
    model = copy_of(model)
    before: dict[str, NodeProto] = {}
    for weight in _products(model):
        node, matrix = weight.node, numpy_helper.to_array(weight.initializer)
        rows = np.maximum(np.abs(matrix).max(1), _TINY)
        factor = np.maximum(maxima[node.name], _TINY) ** strength / rows ** (1 - strength)
        factor = (factor / np.exp(np.log(factor).mean())).astype(np.float32)  # only the differences matter
        names = f"{node.name}.divided", f"{node.name}.divisor", f"{node.name}.multiplied"
        model.graph.initializer.append(numpy_helper.from_array((1 / factor).astype(np.float32), names[1]))
        model.graph.initializer.append(numpy_helper.from_array((matrix * factor[:, None]).astype(np.float32), names[2]))
        before[node.name] = helper.make_node("Mul", [node.input[0], names[1]], [names[0]], name=f"{node.name}/Smooth")
        node.input[0], node.input[1] = names[0], names[2]
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.name in before:
            nodes.append(before[node.name])
        nodes.append(node)
    _replace_nodes(model, nodes)
    drop_unused(model)
    return model


def dynamic_products(model: ModelProto, *, levels: int = 127, keep: Collection[str] = ()) -> ModelProto:
    """A copy whose weight products run in integers: U8 activations ranged anew for each call, S8 weights per output channel.

    Args:
        model: The fp32 graph.
        levels: The largest weight: 127, or 63 where a CPU without VNNI must not saturate its 16-bit sums.
        keep: Names of products that stay in float.
    """
    model = copy_of(model)
    replaced: dict[str, list[NodeProto]] = {}
    quantized: dict[str, tuple[list[str], NodeProto]] = {}
    for weight in _products(model):
        node = weight.node
        if node.name in keep:
            continue
        source = node.input[0]
        if source not in quantized:
            names = [f"{source}.{part}" for part in ("u8", "scale", "zero")]
            quantized[source] = (names, helper.make_node("DynamicQuantizeLinear", [source], names, name=f"{source}/Quantize"))
        names, quantize = quantized[source]
        stored, scale = quantize_per_channel(numpy_helper.to_array(weight.initializer), 1, levels)
        own = {part: f"{node.name}.{part}" for part in ("int8", "weight_scale", "sum", "float", "scale")}
        model.graph.initializer.append(numpy_helper.from_array(stored, own["int8"]))
        model.graph.initializer.append(numpy_helper.from_array(scale, own["weight_scale"]))
        nodes = [quantize] if not any(quantize in group for group in replaced.values()) else []
        nodes += [
            helper.make_node("MatMulInteger", [names[0], own["int8"], names[2]], [own["sum"]], name=f"{node.name}/Integer"),
            helper.make_node("Cast", [own["sum"]], [own["float"]], name=f"{node.name}/Cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [names[1], own["weight_scale"]], [own["scale"]], name=f"{node.name}/Scale"),
            helper.make_node("Mul", [own["float"], own["scale"]], [node.output[0]], name=f"{node.name}/Dequantize"),
        ]
        replaced[node.name] = nodes
    _replace_nodes(model, [new for node in model.graph.node for new in replaced.get(node.name, [node])])
    drop_unused(model)
    return model


def store_tables_int8(model: ModelProto, *, for_engine: bool) -> ModelProto:
    """A copy whose embedding tables are INT8 with a scale for each row.

    Args:
        model: The graph.
        for_engine: True: behind a DequantizeLinear in front of the Gather, which engines read. False: the rows are gathered
            as INT8 and only those become float, so that the table stays small in memory.
    """
    model = copy_of(model)
    replaced: dict[str, list[NodeProto]] = {}
    for node, table in tables(model):
        if table.data_type != TensorProto.FLOAT:
            continue
        stored, scale = quantize_per_channel(numpy_helper.to_array(table), 0)
        names = {part: f"{table.name}.{part}" for part in ("int8", "scale", "dq", "row", "float", "row_scale")}
        model.graph.initializer.append(numpy_helper.from_array(stored, names["int8"]))
        kept = scale if for_engine else scale[:, None]
        model.graph.initializer.append(numpy_helper.from_array(kept, names["scale"]))
        if for_engine:
            name = f"{node.name}/DequantizeWeight"
            dequantize = helper.make_node("DequantizeLinear", [names["int8"], names["scale"]], [names["dq"]], name=name, axis=0)
            gather = helper.make_node("Gather", [names["dq"], node.input[1]], list(node.output), name=node.name, axis=0)
            replaced[node.name] = [dequantize, gather]
            continue
        replaced[node.name] = [
            helper.make_node("Gather", [names["int8"], node.input[1]], [names["row"]], name=node.name, axis=0),
            helper.make_node("Cast", [names["row"]], [names["float"]], name=f"{node.name}/Cast", to=TensorProto.FLOAT),
            helper.make_node(
                "Gather", [names["scale"], node.input[1]], [names["row_scale"]], name=f"{node.name}/Scale", axis=0
            ),
            helper.make_node("Mul", [names["float"], names["row_scale"]], list(node.output), name=f"{node.name}/Dequantize"),
        ]
    _replace_nodes(model, [new for node in model.graph.node for new in replaced.get(node.name, [node])])
    drop_unused(model)
    return model


def lower_text_for_cpu(model: ModelProto, samples: Tokens, *, strength: float = CPU_SMOOTHING) -> Lowering:
    """Dynamic INT8 with smoothed activations and INT8 tables: what ONNX Runtime's CPU runs fastest.

    Args:
        model: The fp32 graph; it is not changed.
        samples: Tokens of training samples, int64 (N, T) each, N >= 1.
        strength: See :func:`smoothed`.

    Raises:
        CalibrationError: No samples.
    """
    lowered = store_tables_int8(dynamic_products(smoothed(model, samples, strength)), for_engine=False)
    tidied(lowered, model.graph.name)
    check_scales(lowered)
    return Lowering(lowered, {}, simulated_on_cpu=False, calibrated=True)


def lower_text_for_tensorrt(
    model: ModelProto, samples: Tokens, method: str = "max", *, strength: float = TENSORRT_SMOOTHING
) -> Lowering:
    """Static symmetric Q/DQ for TensorRT, activations smoothed first, tables INT8 too.

    Raises:
        CalibrationError: No samples, or modelopt failed.
        MissingDependencyError: modelopt is not installed.
    """
    lowering = lower_for_tensorrt(smoothed(model, samples, strength), samples, method)
    lowered = store_tables_int8(lowering.model, for_engine=True)
    tidied(lowered, model.graph.name)
    check_scales(lowered)
    return Lowering(lowered, lowering.session_options, lowering.simulated_on_cpu, calibrated=True)
