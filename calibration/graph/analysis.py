"""What an ONNX graph weighs and computes: its weight matrices, its multiply-adds, and how much of both is INT8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference

__all__ = [
    "Product",
    "Weight",
    "multiply_adds",
    "products",
    "replace_nodes",
    "share_computed_int8",
    "share_stored_int8",
    "tables",
    "weight_bytes",
    "weights",
]

_WEIGHT_AT_3 = frozenset({"QLinearMatMul", "QLinearConv"})
_INTEGER = frozenset({"MatMulInteger", "ConvInteger"}) | _WEIGHT_AT_3
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"}) | _INTEGER
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv"})
_INT8 = (TensorProto.INT8, TensorProto.UINT8)


@dataclass(frozen=True)
class Weight:
    """A constant matrix that a product reads, directly or through a DequantizeLinear.

    Attributes:
        node: The product.
        operand: Which of its inputs it is (0 or 1; 3 where scales stand between the operands).
        initializer: The stored tensor.
        reduction_axes: Axes of the stored tensor over which the product sums.
        dequantize: The DequantizeLinear between them, if any.
    """

    node: NodeProto
    operand: int
    initializer: TensorProto
    reduction_axes: tuple[int, ...]
    dequantize: NodeProto | None

    @property
    def elements(self) -> int:
        """Number of stored elements."""
        return int(np.prod(self.initializer.dims))

    @property
    def channel_axis(self) -> int:
        """The axis along which INT8 scales may vary: the output channels."""
        free = [axis for axis in range(len(self.initializer.dims)) if axis not in self.reduction_axes]
        return 0 if self.node.op_type in _CONVOLUTIONS else free[-1]


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution and its work for one sample."""

    node: NodeProto
    multiply_adds: int
    integer: bool


def _attribute(node: NodeProto, name: str, default: int = 0) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _reduction_axes(node: NodeProto, operand: int, rank: int) -> tuple[int, ...]:
    if node.op_type in _CONVOLUTIONS:
        return tuple(range(1, rank))
    if node.op_type == "Gemm":
        transposed = bool(_attribute(node, "transA" if operand == 0 else "transB"))
        return (0,) if (operand == 0) == transposed else (1,)
    return (rank - 1,) if operand == 0 else (max(rank - 2, 0),)


def _operands(node: NodeProto) -> tuple[int, int]:
    return (0, 3) if node.op_type in _WEIGHT_AT_3 else (0, 1)


def weights(model: ModelProto) -> Iterator[Weight]:
    """The constant matrices of all products; a tensor that several products read comes once for each."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        for operand in _operands(node):
            name = node.input[operand]
            producer = producers.get(name)
            dequantize = producer if producer is not None and producer.op_type == "DequantizeLinear" else None
            tensor = initializers.get(dequantize.input[0] if dequantize is not None else name)
            if tensor is not None and len(tensor.dims) >= 2:
                axes = _reduction_axes(node, operand, len(tensor.dims))
                yield Weight(node, operand, tensor, axes, dequantize)


def tables(model: ModelProto) -> Iterator[tuple[NodeProto, TensorProto]]:
    """The embedding tables: constant matrices whose rows a Gather takes, directly or through a DequantizeLinear.

    A column is no table: so a table's own scales are none.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type != "Gather" or _attribute(node, "axis") != 0:
            continue
        producer = producers.get(node.input[0])
        behind = producer is not None and producer.op_type == "DequantizeLinear"
        tensor = initializers.get(producer.input[0] if behind and producer is not None else node.input[0])
        if tensor is not None and len(tensor.dims) == 2 and tensor.dims[1] > 1:
            yield node, tensor


def weight_bytes(model: ModelProto) -> int:
    """Bytes of the weight matrices and embedding tables together with their scales and zero points."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    seen: dict[str, int] = {}
    for weight in weights(model):
        names = [weight.initializer.name, *(weight.dequantize.input[1:] if weight.dequantize is not None else [])]
        if weight.node.op_type in _WEIGHT_AT_3:
            names += weight.node.input[4:6]
        for name in names:
            if name in initializers:
                seen[name] = numpy_helper.to_array(initializers[name]).nbytes
    for _, table in tables(model):
        seen[table.name] = numpy_helper.to_array(table).nbytes
    return sum(seen.values())


def share_stored_int8(model: ModelProto) -> float:
    """Share of the elements of weight matrices and embedding tables that are stored as 8-bit integers."""
    sizes = {weight.initializer.name: (weight.elements, weight.initializer.data_type in _INT8) for weight in weights(model)}
    sizes |= {table.name: (int(np.prod(table.dims)), table.data_type in _INT8) for _, table in tables(model)}
    total = sum(size for size, _ in sizes.values())
    return sum(size for size, stored in sizes.values() if stored) / total if total else 0.0


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        # An axis without a number is the batch: the work is counted for one sample.
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    return shapes


def products(model: ModelProto) -> list[Product]:
    """Every product with its multiply-adds for one sample, and whether it can run in integers.

    Static Q/DQ counts as integer when both operands come from a DequantizeLinear, which is what an engine fuses.
    """
    shapes = _shapes(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    initializers = {tensor.name for tensor in model.graph.initializer}

    def quantized(name: str) -> bool:
        producer = producers.get(name)
        if producer is None or producer.op_type != "DequantizeLinear":
            return False
        origin = producers.get(producer.input[0])
        return producer.input[0] in initializers or (origin is not None and origin.op_type == "QuantizeLinear")

    found = []
    for node in model.graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        out, left = shapes[node.output[0]], shapes[node.input[0]]
        if node.op_type in _CONVOLUTIONS:
            inner = int(np.prod(shapes[node.input[_operands(node)[1]]][1:]))
        else:
            inner = left[-2] if node.op_type == "Gemm" and _attribute(node, "transA") else left[-1]
        integer = node.op_type in _INTEGER or all(quantized(name) for name in node.input[:2])
        found.append(Product(node, int(np.prod(out)) * inner, integer))
    return found


def multiply_adds(model: ModelProto) -> int:
    """Multiply-adds of all products, for one sample."""
    return sum(product.multiply_adds for product in products(model))


def share_computed_int8(model: ModelProto) -> float:
    """Share of the multiply-adds that run in integers."""
    found = products(model)
    total = sum(product.multiply_adds for product in found)
    return sum(product.multiply_adds for product in found if product.integer) / total if total else 0.0


def replace_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Puts these nodes, in this order, in the place of all that ``model`` has; some of them may be its own."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def copy_of(model: ModelProto) -> ModelProto:
    """A deep copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
