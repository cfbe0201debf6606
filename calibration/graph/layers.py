"""The layers of a graph that INT8 is about: every product, its weight if it has one, and where its activations come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from onnx import ModelProto, NodeProto

from dmdkit.calibration.graph.analysis import Weight, products, weights

__all__ = ["Kind", "Layer", "layers_of"]

Kind = Literal["MatMul", "Gemm", "Conv"]


@dataclass(frozen=True)
class Layer:
    """A matrix product or convolution of an fp32 graph.

    Attributes:
        name: Name of its node.
        kind: ONNX operator, such as MatMul.
        node: The product in the graph.
        weight: Its constant operand; None where both operands are activations.
        activations: Operand -> name of the tensor, for the operands that are computed.
        multiply_adds: Multiply-adds for one sample.
    """

    name: str
    kind: Kind
    node: NodeProto
    weight: Weight | None
    activations: dict[int, str]
    multiply_adds: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the stored weight; empty without one."""
        return tuple(self.weight.initializer.dims) if self.weight is not None else ()


def layers_of(model: ModelProto) -> list[Layer]:
    """The products of an fp32 graph, in the order they are computed.

    The interface is the same for any graph (fusion, explain, a text encoder): nothing is known about names.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    by_node: dict[str, Weight] = {weight.node.name: weight for weight in weights(model)}
    layers = []
    for product in products(model):
        node = product.node
        activations = {operand: name for operand, name in enumerate(node.input[:2]) if name not in constant}
        layers.append(
            Layer(node.name, cast(Kind, node.op_type), node, by_node.get(node.name), activations, product.multiply_adds)
        )
    return layers
