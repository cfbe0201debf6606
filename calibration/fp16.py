"""The fp16 form of a graph, for engines: what is safe in half precision becomes it, and the rest is named.

TensorRT takes precision from the graph alone (strongly typed networks), so fp16 means converting the ONNX file. modelopt's
AutoCast does it; this module says what must stay in fp32 and reports what did.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, shape_inference

from dmdkit.calibration.graph.cleanup import canonicalise
from dmdkit.calibration.graph.weight_storage import check_scales
from dmdkit.calibration.lowerings import SIMULATE_QDQ, Inputs, Lowering, quiet_logging
from dmdkit.errors import CalibrationError, MissingDependencyError
from dmdkit.runtime.manifest import TEXT_INPUTS

__all__ = ["NEAR_ZERO", "PAD_MASK", "Fp16Lowering", "lower_to_fp16", "near_zero_samples"]

Array = npt.NDArray[np.float32]

PAD_MASK = "pad_mask"
"""Module path, in node names, of the padding mask: a raw value of 1e-9 is not padding, but is 0 in fp16."""

NEAR_ZERO = 1e-9
"""Magnitude of the inputs that must survive: below fp16's smallest number, 6e-8."""

DATA_MAX = 16384.0
"""Largest magnitude AutoCast lets through. Its own 512 would keep every masked Softmax in fp32, because a forbidden
attention score is -10000; fp16 holds that to within 8, and its exponential is 0 in either format."""

FP16_ON_CPU = {"optimization.disable_specified_optimizers": "NchwcTransformer;MatmulTransposeFusion"}
"""Session option for fp16 graphs: ONNX Runtime 1.31's CPU crashes (segmentation fault) while these two rewrite the explain
graph in fp16; either one switched off helps, and both only order memory differently."""

_BOUNDARIES = frozenset({"Conv", "MatMul", "Gemm", "QuantizeLinear", "DequantizeLinear"})
_NOT_ARITHMETIC = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "Constant", "Shape"})


@dataclass(frozen=True)
class Fp16Lowering(Lowering):
    """An fp16 form of a graph.

    Attributes:
        nodes: How many nodes compute with floats.
        kept_fp32: Names of those that stayed in fp32.
    """

    nodes: int = 0
    kept_fp32: tuple[str, ...] = ()


def near_zero_samples(samples: Mapping[str, Array]) -> dict[str, Array]:
    """``samples`` with the first half of every sequence at :data:`NEAR_ZERO`: present to fp32, zero to fp16."""
    probe = {}
    for name, array in samples.items():
        changed = array.copy()
        half = array.shape[1] // 2
        changed[:, :half] = np.where(np.signbit(array[:, :half]), -NEAR_ZERO, NEAR_ZERO)
        probe[name] = changed.astype(np.float32)
    return probe


def _before_first_product(model: ModelProto) -> list[str]:
    """Nodes that see raw features: their units are the extractor's, and 11 bits may not hold a mean of 1000.3."""
    after: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in _BOUNDARIES or after & set(node.input):
            after.update(node.output)
        else:
            names.append(node.name)
    return names


def _normalisations(model: ModelProto) -> list[str]:
    """LayerNorms, a thousandth of the work: their squares add up over all of a BERT's width, a few channels of which are large.

    TensorRT's own advice is to keep them in fp32.
    """
    return [node.name for node in model.graph.node if node.op_type == "LayerNormalization"]


def _counted(model: ModelProto) -> list[str]:
    """Nodes that count: what becomes a whole number is exact in fp32 up to 16 million, in fp16 up to 2048."""
    producers = {name: node for node in model.graph.node for name in node.output}
    whole = {TensorProto.INT64, TensorProto.INT32}
    waiting = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i in whole]
    found = {node.name: None for node in waiting}
    while waiting:
        for name in waiting.pop().input:
            node = producers.get(name)
            # The cast that turns the mask into numbers is not excluded: AutoCast 0.47 loses it where its readers are of both
            # kinds, and 0 and 1 are exact in fp16.
            if node is not None and node.op_type != "Cast" and node.name not in found:
                found[node.name] = None
                waiting.append(node)
    return list(found)


def _looked_up(model: ModelProto) -> list[str]:
    """Lookups of words: AutoCast takes an id of 30000 for a value near fp16's limit, and the table is most of a BERT's size."""
    return [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[1] == TEXT_INPUTS[0]]


def _kept_fp32(model: ModelProto) -> tuple[int, list[str]]:
    inferred = shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    types |= {value.name: value.type.tensor_type.elem_type for value in inferred.graph.input}
    types |= {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    count, kept = 0, []
    for node in model.graph.node:
        if node.op_type in _NOT_ARITHMETIC:
            continue
        kinds = {types.get(name) for name in (*node.input, *node.output)}
        if kinds & {TensorProto.FLOAT, TensorProto.FLOAT16}:
            count += 1
            if TensorProto.FLOAT in kinds:
                kept.append(node.name)
    return count, kept


def lower_to_fp16(model: ModelProto, samples: Inputs) -> Fp16Lowering:
    """``model`` with its arithmetic in fp16, inputs and outputs as they were: float32, or int64 for a text encoder's tokens.

    Q/DQ pairs of an INT8 graph stay; the layers they leave in float become fp16.

    Args:
        model: An fp32 or ``int8-trt`` graph; it is not changed.
        samples: Input name -> (N, ...), N >= 1, in the dtypes the graph takes, to see which values leave fp16's range.

    Raises:
        CalibrationError: No samples, or modelopt failed.
        MissingDependencyError: modelopt is not installed.
    """
    if not samples or any(len(array) == 0 for array in samples.values()):
        raise CalibrationError("no samples for the fp16 form: modelopt would judge its range by random inputs and say nothing")
    with quiet_logging() as said:
        try:
            from modelopt.onnx.autocast import convert_to_mixed_precision
        except ImportError as cause:
            raise MissingDependencyError(cause.name or "modelopt", "quantize", "the fp16 form of a graph") from cause
        # Tokens are whole numbers, so nothing in front of a text encoder's first product has units of its own.
        reads_tokens = {value.name for value in model.graph.input} == set(TEXT_INPUTS)
        exact = [*_normalisations(model), *_counted(model)] if reads_tokens else _before_first_product(model)
        excluded = [f"^{re.escape(name)}$" for name in exact]
        with tempfile.TemporaryDirectory(prefix="dmdkit-fp16-") as directory:
            source, ranges = Path(directory) / "graph.onnx", Path(directory) / "ranges.npz"
            onnx.save(model, source)
            np.savez(ranges, allow_pickle=False, **samples)
            try:
                converted = convert_to_mixed_precision(
                    onnx_path=str(source),
                    low_precision_type="fp16",
                    keep_io_types=True,
                    calibration_data=str(ranges),
                    providers=["cpu"],
                    opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
                    data_max=DATA_MAX,
                    nodes_to_exclude=[f".*/{PAD_MASK}.*", *excluded],
                    nodes_to_include=[f"^{re.escape(name)}$" for name in _looked_up(model)],
                )
            except Exception as cause:  # modelopt raises whatever its parts raise
                tail = said.getvalue().strip().splitlines()[-1:] or [type(cause).__name__]
                raise CalibrationError(f"modelopt could not convert the graph to fp16: {cause} ({tail[0]:.200})") from cause
    canonicalise(converted, model.graph.name)
    check_scales(converted)
    nodes, kept = _kept_fp32(converted)
    quantized = any(node.op_type == "DequantizeLinear" for node in converted.graph.node)
    options = (SIMULATE_QDQ if quantized else {}) | FP16_ON_CPU
    # ONNX Runtime's CPU computes most fp16 operators in fp32 and rounds the results: a simulation of an engine.
    return Fp16Lowering(converted, options, simulated_on_cpu=True, calibrated=False, nodes=nodes, kept_fp32=tuple(kept))
