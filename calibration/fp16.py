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

from dmdkit.calibration.lowerings import SIMULATE_QDQ, Lowering, _quietly
from dmdkit.calibration.tidy import tidied
from dmdkit.calibration.weight_storage import check_scales
from dmdkit.errors import CalibrationError, MissingDependencyError

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


def lower_to_fp16(model: ModelProto, samples: Mapping[str, Array]) -> Fp16Lowering:
    """``model`` with its arithmetic in fp16, inputs and outputs still float32.

    Q/DQ pairs of an INT8 graph stay; the layers they leave in float become fp16.

    Args:
        model: An fp32 or ``int8-trt`` graph; it is not changed.
        samples: Input name -> float32 (N, ...), N >= 1, to see which values leave fp16's range.

    Raises:
        CalibrationError: No samples, or modelopt failed.
        MissingDependencyError: modelopt is not installed.
    """
    if not samples or any(len(array) == 0 for array in samples.values()):
        raise CalibrationError("no samples for the fp16 form: modelopt would judge its range by random inputs and say nothing")
    with _quietly() as said:
        try:
            from modelopt.onnx.autocast import convert_to_mixed_precision
        except ImportError as cause:
            raise MissingDependencyError(cause.name or "modelopt", "quantize", "the fp16 form of a graph") from cause
        excluded = [f"^{re.escape(name)}$" for name in _before_first_product(model)]
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
                )
            except Exception as cause:  # modelopt raises whatever its parts raise
                tail = said.getvalue().strip().splitlines()[-1:] or [type(cause).__name__]
                raise CalibrationError(f"modelopt could not convert the graph to fp16: {cause} ({tail[0]:.200})") from cause
    tidied(converted, model.graph.name)
    check_scales(converted)
    nodes, kept = _kept_fp32(converted)
    quantized = any(node.op_type == "DequantizeLinear" for node in converted.graph.node)
    options = (SIMULATE_QDQ if quantized else {}) | FP16_ON_CPU
    # ONNX Runtime's CPU computes most fp16 operators in fp32 and rounds the results: a simulation of an engine.
    return Fp16Lowering(converted, options, simulated_on_cpu=True, calibrated=False, nodes=nodes, kept_fp32=tuple(kept))
