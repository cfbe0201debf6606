"""Prepares products for INT8, exactly in float, so that it loses less of activations with a few very large channels.

One scale for a whole tensor leaves the other channels of a BERT's activations a handful of levels. Two remedies, chosen for
each product by the error it makes on samples:

*Smoothing* divides large channels and multiplies their weight rows (SmoothQuant, arXiv 2211.10438). How far is searched, as AWQ
does (arXiv 2306.00978): a single strength for all products is wrong for some (measured on a fine-tuned MiniLM: 0.5 fails parity
where the search passes with room).

*Outliers* that stay too large even so are taken out and multiplied in float (LLM.int8(), arXiv 2208.07339). Four channels are
enough where they help: the squared error of what follows a GELU in MiniLM's first layers falls to a tenth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import Weight, copy_of, weights
from dmdkit.calibration.graph.weight_storage import quantize_per_channel
from dmdkit.errors import CalibrationError
from dmdkit.runtime.backends.onnxruntime import cpu_session

__all__ = [
    "ATTENTION_OUTPUT",
    "OUTLIERS",
    "Activations",
    "Preparation",
    "Tokens",
    "activations_of",
    "best_preparations",
    "smoothing_factor",
    "weight_products",
]

Tokens = Mapping[str, npt.NDArray[np.int64]]
Float = npt.NDArray[np.float32]

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""What the search tries, besides no smoothing at all."""

ATTENTION_OUTPUT = "/out/"
"""In the name :mod:`dmdkit.export.text_inference` gives the product that attention hands its output to."""

SEARCH_SAMPLES = 16
SEARCH_ROWS = 16
"""Steps of each of them whose error is summed; ranges are taken from all."""

OUTLIERS = 4
"""Channels that may stay in float. With 16 or 48 the errors of a fine-tuned MiniLM fall by a tenth to a third more."""

OUTLIERS_WORTH = 0.25
"""They are a small product more, so the squared error has to fall to this part of what it is without. On two fine-tuned MiniLM
3 or 4 of 18 products are worth it, which costs no measurable time; with 0.5 it is 9, for 4 % of the latency."""

OUTLIERS_OF = 64
"""At most one channel in so many."""

SLEEPING = 0.1
"""Channels smaller than this part of the median channel are divided as if they were that large."""

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


@dataclass(frozen=True)
class Preparation:
    """What is done to a product before it becomes INT8.

    Attributes:
        strength: 0 leaves a channel's size to the activation as far as the weights allow, 1 moves all of it into the weights;
            None leaves it alone.
        outliers: Channels that are multiplied in float.
    """

    strength: float | None = None
    outliers: tuple[int, ...] = ()


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
    session = cpu_session(watched.SerializeToString())
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


def smoothing_factor(matrix: Float, maxima: Float, strength: float) -> Float:
    """What each channel is divided by, float32 (K,); only the differences between channels matter."""
    rows = np.maximum(np.abs(matrix).max(1), _TINY)
    # A channel that calibration hardly woke must not be blown up: in the field it would widen the range of all others.
    sizes = np.maximum(maxima, max(SLEEPING * float(np.median(maxima)), _TINY))
    factor = sizes**strength / rows ** (1 - strength)
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


def _error(matrix: Float, found: Activations, factor: Float, outliers: Sequence[int], *, dynamic: bool) -> float:
    """Summed squared error of the product in INT8 on the kept samples."""
    rows = np.linspace(0, found.samples.shape[1] - 1, min(SEARCH_ROWS, found.samples.shape[1])).round().astype(np.int64)
    left, kept = np.array(matrix), list(outliers)
    left[kept] = 0
    stored, scale = quantize_per_channel(left * factor[:, None], 1)
    scaled = found.samples / factor
    scaled[..., kept] = 0
    inputs = _rounded(scaled, dynamic=dynamic)[:, rows]
    error = inputs @ (stored.astype(np.float32) * scale) - found.samples[:, rows] @ left
    return float(np.square(error, dtype=np.float64).sum())


def _best(
    matrix: Float, found: Activations, factors: Mapping[float | None, Float], outliers: int, *, dynamic: bool
) -> tuple[float, Preparation]:
    """The strength with the smallest error, when the channels that are largest after it stay in float."""
    tried = []
    for strength, factor in factors.items():
        largest = tuple(sorted(np.argsort(-found.maxima / factor, kind="stable")[:outliers].tolist()))
        tried.append((_error(matrix, found, factor, largest, dynamic=dynamic), Preparation(strength, largest)))
    return min(tried, key=lambda pair: pair[0])


def best_preparations(
    model: ModelProto, activations: Mapping[str, Activations], *, dynamic: bool, outliers: int = 0
) -> dict[str, Preparation]:
    """For each product the preparation that leaves the smallest error in INT8.

    Args:
        model: The fp32 graph.
        activations: Node name -> statistics of the product's input.
        dynamic: Whether activations get their range from each call, or one for all.
        outliers: Largest number of channels that stay in float, where that is worth it.
    """
    chosen: dict[str, Preparation] = {}
    for weight in weight_products(model):
        name, matrix, found = weight.node.name, numpy_helper.to_array(weight.initializer), activations[weight.node.name]
        factors: dict[float | None, Float] = {None: np.ones(len(matrix), np.float32)}
        factors |= {strength: smoothing_factor(matrix, found.maxima, strength) for strength in STRENGTHS}

        error, preparation = _best(matrix, found, factors, 0, dynamic=dynamic)
        # Attention's output is smoothed where it is made, so its outliers are not there to be taken out.
        count = min(outliers, len(matrix) // OUTLIERS_OF)
        if count and ATTENTION_OUTPUT not in name:
            less, other = _best(matrix, found, factors, count, dynamic=dynamic)
            preparation = other if less < OUTLIERS_WORTH * error else preparation
        chosen[name] = preparation
    return chosen
