"""Moves part of a channel's size from an activation into the weight that meets it, exactly, so that INT8 loses less.

A few channels of a BERT's activations are far larger than the rest, and one scale for the whole tensor then leaves the others a
handful of levels. Dividing those channels and multiplying their weight rows changes nothing in float (SmoothQuant, arXiv
2211.10438). How far to go is chosen for each product by the error it makes on samples, as AWQ does (arXiv 2306.00978): the best
strength differs between products, and a single one for all is wrong for some (measured on a fine-tuned MiniLM: 0.5 fails parity
where the search passes with room).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph_facts import Weight, copy_of, weights
from dmdkit.calibration.tidy import drop_unused
from dmdkit.calibration.weight_storage import quantize_per_channel
from dmdkit.errors import CalibrationError

__all__ = ["WORTH", "Activations", "Tokens", "activations_of", "best_strengths", "smoothed", "weight_products"]

Tokens = Mapping[str, npt.NDArray[np.int64]]
Float = npt.NDArray[np.float32]

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""What the search tries, besides no smoothing at all."""

_ATTENTION_OUTPUT = "/out/"
"""In the name :mod:`dmdkit.export.text` gives the product that attention hands its output to."""

SEARCH_SAMPLES = 16
SEARCH_ROWS = 16
"""Steps of each of them whose error is summed; ranges are taken from all."""

WORTH = 0.25
"""Dividing a product's activations is a pass over them at every call, so where it is not free it has to bring the squared
error to this part of what it is without. On a fine-tuned MiniLM 12 of 18 such products are worth it; the rest would cost 2 %
of the latency."""

_TINY = 1e-5


@dataclass(frozen=True)
class Activations:
    """What a product was fed.

    Attributes:
        maxima: float32 (K,), the largest magnitude of each channel over all samples.
        samples: float32 (S, T, K), the first samples.
    """

    maxima: Float
    samples: Float


def weight_products(model: ModelProto) -> list[Weight]:
    """The products with a float weight matrix as their second operand: all that a BERT learns but its tables."""
    return [
        weight
        for weight in weights(model)
        if weight.node.op_type == "MatMul" and weight.operand == 1 and weight.initializer.data_type == TensorProto.FLOAT
    ]


def activations_of(model: ModelProto, samples: Tokens) -> dict[str, Activations]:
    """The activations of every product, by its name.

    Raises:
        CalibrationError: There are no samples.
    """
    if not samples or any(len(array) == 0 for array in samples.values()):
        raise CalibrationError("no calibration samples: nothing says how large the activations are")
    watched = copy_of(model)
    names = {weight.node.name: weight.node.input[0] for weight in weight_products(model)}
    del watched.graph.output[:]
    for name in sorted(set(names.values())):
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    maxima: dict[str, Float] = {}
    kept: dict[str, list[Float]] = {name: [] for name in outputs}
    for index in range(len(next(iter(samples.values())))):
        values = session.run(outputs, {name: array[index : index + 1] for name, array in samples.items()})
        for name, value in zip(outputs, values, strict=True):
            found = np.abs(value).reshape(-1, value.shape[-1]).max(0)
            maxima[name] = np.maximum(maxima[name], found) if name in maxima else found
            if index < SEARCH_SAMPLES:
                kept[name].append(value.reshape(-1, value.shape[-1]))
    return {product: Activations(maxima[name], np.stack(kept[name])) for product, name in names.items()}


def _factor(matrix: Float, maxima: Float, strength: float) -> Float:
    """What each channel is divided by, float32 (K,); only the differences between channels matter."""
    rows = np.maximum(np.abs(matrix).max(1), _TINY)
    factor = np.maximum(maxima, _TINY) ** strength / rows ** (1 - strength)
    result: Float = (factor / np.exp(np.log(factor).mean())).astype(np.float32)
    return result


def _rounded(values: Float, *, dynamic: bool) -> Float:
    """``values`` (S, T, K) after INT8: U8 with a range for each sample, or symmetric S8 with one range for all."""
    if dynamic:
        low = np.minimum(values.min((1, 2), keepdims=True), 0)
        high = np.maximum(values.max((1, 2), keepdims=True), 0)
        scale = np.maximum((high - low) / 255, 1e-12)
        zero = np.rint(-low / scale)
        rounded: Float = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
        return rounded
    scale = max(float(np.abs(values).max()) / 127, 1e-12)
    return np.asarray(np.clip(np.rint(values / scale), -127, 127) * scale, np.float32)


def _error(matrix: Float, found: Activations, factor: Float, *, dynamic: bool) -> float:
    """Summed squared error of the product in INT8 on the kept samples."""
    rows = np.linspace(0, found.samples.shape[1] - 1, min(SEARCH_ROWS, found.samples.shape[1])).round().astype(np.int64)
    stored, scale = quantize_per_channel(matrix * factor[:, None], 1)
    inputs = _rounded(found.samples / factor, dynamic=dynamic)[:, rows]
    error = inputs @ (stored.astype(np.float32) * scale) - found.samples[:, rows] @ matrix
    return float(np.square(error, dtype=np.float64).sum())


def best_strengths(
    model: ModelProto, activations: Mapping[str, Activations], *, dynamic: bool, worth: float = 1.0
) -> dict[str, float | None]:
    """For each product the strength that makes the smallest error in INT8; None where smoothing is not worth it.

    Args:
        model: The fp32 graph.
        activations: What its products are fed.
        dynamic: Whether activations get their range from each call, or one for all.
        worth: The part of the squared error that may remain where smoothing takes time; 1: any gain is taken.
    """
    chosen: dict[str, float | None] = {}
    for weight in weight_products(model):
        matrix, found = numpy_helper.to_array(weight.initializer), activations[weight.node.name]
        plain = _error(matrix, found, np.ones(len(matrix), np.float32), dynamic=dynamic)
        errors = {s: _error(matrix, found, _factor(matrix, found.maxima, s), dynamic=dynamic) for s in STRENGTHS}
        best = min(errors, key=errors.__getitem__)
        limit = 1.0 if _ATTENTION_OUTPUT in weight.node.name else worth
        chosen[weight.node.name] = best if errors[best] < limit * plain else None
    return chosen


def _divide_values(model: ModelProto, name: str, factor: Float) -> bool:
    """Divides what attention hands to its output product, if ``name`` is one, by dividing the values' weights and bias.

    What the product reads is linear in the values, channel by channel, so nothing has to be divided at run time.
    """
    nodes = {node.name: node for node in model.graph.node}
    values = nodes.get(name.replace(_ATTENTION_OUTPUT, "/qkv/")) if _ATTENTION_OUTPUT in name else None
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
    strengths: Mapping[str, float | None],
    *,
    into_values: bool = False,
) -> ModelProto:
    """A copy that computes the same, in which large activation channels are divided and their weight rows multiplied.

    Args:
        model: The fp32 graph.
        activations: What its products are fed.
        strengths: Product name -> 0 leaves a channel's size to the activation as far as the weights allow, 1 moves all of it
            into the weights; None or absent leaves the product alone.
        into_values: Whether attention's output is divided where it is made, for nothing at run time. Not where the product of
            attention weights and values is in INT8 too, with one range for all values: it would lose what is gained here.
    """
    model = copy_of(model)
    before: dict[str, NodeProto] = {}
    for weight in weight_products(model):
        node, matrix = weight.node, numpy_helper.to_array(weight.initializer)
        strength = strengths.get(node.name)
        if strength is None:
            continue
        factor = _factor(matrix, activations[node.name].maxima, strength)
        names = f"{node.name}.divided", f"{node.name}.divisor", f"{node.name}.multiplied"
        model.graph.initializer.append(numpy_helper.from_array((matrix * factor[:, None]).astype(np.float32), names[2]))
        node.input[1] = names[2]
        if into_values and _divide_values(model, node.name, factor):
            continue
        model.graph.initializer.append(numpy_helper.from_array((1 / factor).astype(np.float32), names[1]))
        before[node.name] = helper.make_node("Mul", [node.input[0], names[1]], [names[0]], name=f"{node.name}/Smooth")
        node.input[0] = names[0]
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.name in before:
            nodes.append(before[node.name])
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused(model)
    return model
