"""Stores weight matrices as INT8 behind a DequantizeLinear: the file shrinks fourfold, the arithmetic does not change.

Scales are symmetric and one per output channel; a scale along the axis a product sums over would be wrong in integer
arithmetic, so :func:`check_scales` refuses it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import Weight, copy_of, replace_nodes, weights
from dmdkit.calibration.graph.cleanup import drop_unused
from dmdkit.errors import CalibrationError

__all__ = ["check_scales", "quantize_per_channel", "store_weights_int8"]

Float = npt.NDArray[np.float32]
_INT8_MAX = 127


def quantize_per_channel(weight: Float, axis: int) -> tuple[npt.NDArray[np.int8], Float]:
    """Symmetric INT8 of ``weight`` and its scales, float32 (channels,), along ``axis``; an all-zero channel has scale 1."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(others)
    scale = np.where(largest > 0, largest / _INT8_MAX, 1.0).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    rounded = np.clip(np.rint(weight / scale.reshape(shape)), -_INT8_MAX, _INT8_MAX)
    return rounded.astype(np.int8), scale


def store_weights_int8(model: ModelProto, only: Collection[str] | None = None) -> ModelProto:
    """A copy in which weight matrices in float are INT8 behind a DequantizeLinear, one scale per output channel.

    ``only``: the products whose weights these are; None: all.
    """
    model = copy_of(model)
    dequantize: dict[str, NodeProto] = {}
    for weight in list(weights(model)):
        if weight.initializer.data_type != TensorProto.FLOAT or (only is not None and weight.node.name not in only):
            continue
        name = weight.initializer.name
        if name not in dequantize:
            axis = weight.channel_axis
            stored, scale = quantize_per_channel(numpy_helper.to_array(weight.initializer), axis)
            model.graph.initializer.append(numpy_helper.from_array(stored, f"{name}.int8"))
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            dequantize[name] = helper.make_node(
                "DequantizeLinear",
                [f"{name}.int8", f"{name}.scale"],
                [f"{name}.dq"],
                name=f"{weight.node.name}/DequantizeWeight",
                axis=axis,
            )
        weight.node.input[weight.operand] = dequantize[name].output[0]
    # Dequantised weights depend on nothing, so they may all come first.
    replace_nodes(model, [*dequantize.values(), *model.graph.node])
    drop_unused(model)
    return model


def _scale_axis(weight: Weight, constants: dict[str, TensorProto]) -> int | None:
    assert weight.dequantize is not None
    scale = constants[weight.dequantize.input[1]]
    if int(np.prod(scale.dims)) <= 1:
        return None
    axis = next((a.i for a in weight.dequantize.attribute if a.name == "axis"), 1)
    return axis % len(weight.initializer.dims)


def check_scales(model: ModelProto) -> None:
    """Checks that no INT8 weight has its scales along an axis that its product sums over.

    Raises:
        CalibrationError: Naming the product.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for weight in weights(model):
        if weight.dequantize is None:
            continue
        axis = _scale_axis(weight, constants)
        if axis is not None and axis in weight.reduction_axes:
            raise CalibrationError(
                f"{weight.node.name}: the scales of its weight {tuple(weight.initializer.dims)} lie on axis {axis}, "
                "over which the product sums; integer arithmetic with them would be wrong"
            )
