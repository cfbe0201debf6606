"""Text graphs whose length is that of the sentences, not the longest one they may have.

Everything that prepares a graph (smoothing, INT8, fp16, counting its work) sees it at its full length; the last step before it
is written makes the length dynamic. Only where padded steps come out as zeros: what an ``encoded`` graph makes of its padding
is part of its answer.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of
from dmdkit.errors import ExportError

__all__ = ["with_dynamic_length", "with_fixed_length"]

LENGTH = "length"
"""Name of the dynamic axis."""

APART = "/embeddings/Reshape"
"""The node that keeps ONNX Runtime from a slow fusion (:mod:`dmdkit.export.text_inference`), so its length stays unknown."""


def _reshapes(model: ModelProto) -> list[tuple[NodeProto, list[int]]]:
    """The nodes with a constant shape of three axes or more, and that shape."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            sizes = [int(size) for size in numpy_helper.to_array(constants[node.input[1]]).ravel()]
            if len(sizes) >= 3:
                found.append((node, sizes))
    return found


def _reshape_to(model: ModelProto, node: NodeProto, sizes: list[int]) -> None:
    name = "shape." + "x".join("n" if size < 0 else str(size) for size in sizes)
    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    node.input[1] = name
    for attribute in list(node.attribute):
        if attribute.name == "allowzero":  # 0 stands for the size that the input has
            node.attribute.remove(attribute)


def _without_unread(model: ModelProto) -> ModelProto:
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def with_dynamic_length(model: ModelProto, steps: int) -> ModelProto:
    """A copy of a text graph that takes sentences of any length up to ``steps``.

    Args:
        model: A graph of ``steps`` tokens, of any precision.
        steps: T, tokens of a sentence.

    Raises:
        ExportError: The length stands somewhere in the graph where this does not know it.
    """
    model = copy_of(model)
    for node, sizes in _reshapes(model):
        if sizes[:2] != [-1, steps]:
            raise ExportError(f"{node.name} reshapes to {sizes}, expected -1, {steps}, ...: its length cannot be made dynamic")
        rest = sizes[2:] if len(sizes) > 3 else [-1]
        _reshape_to(model, node, [0, -1, sizes[2]] if node.name == APART else [0, 0, *rest])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[1].dim_param = LENGTH
    return _without_unread(model)


def with_fixed_length(model: ModelProto, steps: int) -> ModelProto:
    """A copy of a text graph that takes ``steps`` tokens; one that does already comes out equal."""
    model = copy_of(model)
    if all(value.type.tensor_type.shape.dim[1].dim_param != LENGTH for value in model.graph.input):
        return model
    width = model.graph.output[0].type.tensor_type.shape.dim[2].dim_value
    for node, sizes in _reshapes(model):
        _reshape_to(model, node, [-1, steps, *(width if size < 0 else size for size in sizes[2:])])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = steps
    return _without_unread(model)
