"""The INT8 forms of a text encoder's graph.

A BERT's products are wide, so integer arithmetic pays on a CPU, unlike in the fusion graph; and a few channels of its
activations are far larger than the rest, so one static scale for a whole tensor loses the others. Two answers to that, both
exact in float: ranges taken from each input (:func:`dynamic_products`), and moving part of a channel's size from the activation
into the weight that meets it (:mod:`dmdkit.calibration.text.smoothing`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of, replace_nodes, tables
from dmdkit.calibration.graph.cleanup import canonicalise, drop_unused
from dmdkit.calibration.graph.qdq import LayerScales
from dmdkit.calibration.graph.weight_storage import check_scales, quantize_per_channel, store_weights_int8
from dmdkit.calibration.integer_cpu import with_integer_arithmetic
from dmdkit.calibration.lowerings import SIMULATE_QDQ, Lowering, static_int8
from dmdkit.calibration.text.smoothed_graph import smoothed
from dmdkit.calibration.text.smoothing import Activations, Preparation

__all__ = [
    "dynamic_products",
    "lower_text_for_cpu",
    "lower_text_for_tensorrt",
    "store_tables_int8",
]


def dynamic_products(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy in which these products run in integers: U8 activations ranged at each call, S8 weights per output channel."""
    return with_integer_arithmetic(model, dict.fromkeys(names, "dynamic"), {})


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
    replace_nodes(model, [new for node in model.graph.node for new in replaced.get(node.name, [node])])
    drop_unused(model)
    return model


def lower_text_for_cpu(
    model: ModelProto,
    activations: Mapping[str, Activations],
    preparations: Mapping[str, Preparation],
    in_float: Collection[str] = (),
) -> Lowering:
    """Dynamic INT8 of prepared products, and INT8 tables: what ONNX Runtime's CPU runs fastest.

    Args:
        model: The fp32 graph; it is not changed.
        activations: Node name -> statistics of the product's input.
        preparations: Node name -> smoothing of the product.
        in_float: Products that compute in float, on INT8 weights.
    """
    integer = {name: preparation for name, preparation in preparations.items() if name not in in_float}
    ready = smoothed(model, activations, integer, into_values=True)
    lowered = store_tables_int8(dynamic_products(ready, integer), for_engine=False)
    if in_float:
        lowered = store_weights_int8(lowered, only=in_float)
    canonicalise(lowered, model.graph.name)
    check_scales(lowered)
    return Lowering(lowered, dict(SIMULATE_QDQ) if in_float else {}, simulated_on_cpu=False, calibrated=True)


def lower_text_for_tensorrt(ready: ModelProto, scales: LayerScales) -> Lowering:
    """Static symmetric Q/DQ for TensorRT, tables INT8 too.

    Args:
        ready: The fp32 graph, prepared; it is not changed.
        scales: The layers to compute in INT8, with the scales of their activations.
    """
    lowering = static_int8(ready, scales)
    lowered = store_tables_int8(lowering.model, for_engine=True)
    canonicalise(lowered, ready.graph.name)
    check_scales(lowered)
    return Lowering(lowered, lowering.session_options, lowering.simulated_on_cpu, lowering.calibrated)
