"""The INT8 forms of a graph: one for TensorRT, one for ONNX Runtime's CPU, from one calibration."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import ModelProto

from dmdkit.calibration.graph.cleanup import canonicalise
from dmdkit.calibration.graph.qdq import LayerScales, scales_in, with_qdq
from dmdkit.calibration.graph.weight_storage import check_scales, store_weights_int8
from dmdkit.calibration.integer_cpu import Form, with_integer_arithmetic
from dmdkit.calibration.ranges import Statistics
from dmdkit.errors import CalibrationError, MissingDependencyError

__all__ = ["SIMULATE_QDQ", "Inputs", "Lowering", "lower_for_cpu", "modelopt_scales", "static_int8"]

Inputs = Mapping[str, npt.NDArray[Any]]
"""Input name -> (N, ...), in the dtypes the graph takes."""

SIMULATE_QDQ = {"session.disable_quant_qdq": "1"}
"""Session option under which ONNX Runtime's CPU folds stored weights to float once, at opening, instead of at every
call (measured latency 1.01 of fp32 instead of 1.26), and runs activation Q/DQ as written."""


@dataclass(frozen=True)
class Lowering:
    """An INT8 form of a graph.

    Attributes:
        model: The INT8 graph.
        session_options: What ONNX Runtime must be told to run it well.
        simulated_on_cpu: Whether a CPU only simulates it.
        calibrated: Whether activation ranges came from calibration samples.
    """

    model: ModelProto
    session_options: dict[str, str]
    simulated_on_cpu: bool
    calibrated: bool


@contextlib.contextmanager
def quiet_logging() -> Iterator[io.StringIO]:
    """Swallows what modelopt prints and logs; the text is there for an error message."""
    said = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("modelopt", "modelopt.onnx", "onnxruntime", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield said
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def lower_for_cpu(
    model: ModelProto, forms: Mapping[str, Form] | None = None, ranges: Mapping[str, Statistics] | None = None
) -> Lowering:
    """INT8 weights; float arithmetic except at the layers that a search found faster in integers on this machine.

    Args:
        model: The fp32 graph; it is not changed.
        forms: Layer -> how it computes in integers; layers the graph lacks are passed over.
        ranges: Statistics per tensor, for the static form.
    """
    held = {node.name for node in model.graph.node} & set(forms or {})
    chosen = {name: form for name, form in (forms or {}).items() if name in held}
    lowered = store_weights_int8(with_integer_arithmetic(model, chosen, ranges or {}) if chosen else model)
    canonicalise(lowered, model.graph.name)
    check_scales(lowered)
    return Lowering(lowered, dict(SIMULATE_QDQ), simulated_on_cpu=False, calibrated="static" in chosen.values())


def static_int8(model: ModelProto, scales: LayerScales) -> Lowering:
    """Static symmetric S8 Q/DQ at these layers, with every weight matrix stored as INT8.

    Args:
        model: The fp32 graph; it is not changed.
        scales: The layers to compute in INT8, as :func:`modelopt_scales` or a plan has them; the others stay in float.
    """
    lowered = store_weights_int8(with_qdq(model, scales))
    canonicalise(lowered, model.graph.name)
    check_scales(lowered)
    return Lowering(lowered, dict(SIMULATE_QDQ), simulated_on_cpu=True, calibrated=bool(scales))


def modelopt_scales(model: ModelProto, samples: Inputs, method: str = "max") -> dict[str, dict[int, float]]:
    """The layers whose activations modelopt would quantise for TensorRT, and its scales for them.

    Args:
        model: The fp32 graph; it is not changed.
        samples: Input name -> (N, ...), N >= 1.
        method: modelopt's calibration method: max or entropy.

    Raises:
        CalibrationError: No samples, or modelopt failed.
        MissingDependencyError: modelopt is not installed.
    """
    if not samples or any(len(array) == 0 for array in samples.values()):
        raise CalibrationError("no calibration samples: modelopt would quantise with random inputs and say nothing")
    with quiet_logging() as said:
        try:
            from modelopt.onnx.quantization import quantize
        except ImportError as cause:
            raise MissingDependencyError(cause.name or "modelopt", "quantize", "INT8 quantisation for TensorRT") from cause
        # modelopt rewrites its input file in place, so it gets a copy in a directory of its own.
        with tempfile.TemporaryDirectory(prefix="dmdkit-int8-") as directory:
            source, target = Path(directory) / "graph.onnx", Path(directory) / "graph.int8.onnx"
            onnx.save(model, source)
            try:
                quantize(
                    str(source),
                    quantize_mode="int8",
                    calibration_data=dict(samples),
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    high_precision_dtype="fp32",
                    op_types_to_quantize=["MatMul", "Gemm", "Conv"],
                    output_path=str(target),
                )
                quantized = onnx.load(target)
            except Exception as cause:  # modelopt raises whatever its parts raise
                tail = said.getvalue().strip().splitlines()[-1:] or [type(cause).__name__]
                raise CalibrationError(f"modelopt could not quantise the graph: {cause} ({tail[0]:.200})") from cause
    return scales_in(quantized)
