"""One session in which every layer of a graph can be switched to INT8 and back.

Ranking and searching evaluate the model hundreds of times with other layers in INT8 each time. Building a graph for each
would spend most of the time in building; here the switches and the activation scales are inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dmdkit.calibration.graph.analysis import copy_of
from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.graph.weight_storage import quantize_per_channel
from dmdkit.runtime.backends.onnxruntime import cpu_session
from dmdkit.runtime.batching import infer_batched

__all__ = ["LayerToggles"]

Array = npt.NDArray[np.float32]
_BATCH = 32
_STORED, _COMPUTED, _SCALES = "int8.stored", "int8.computed", "int8.scales"


class LayerToggles:
    """An fp32 graph with a switch per layer for its weights and one for its activations.

    Args:
        model: The fp32 graph; it is not changed.
        placement: Layer -> operands whose activations may be INT8.
        outputs: The graph outputs to compute.
        postprocess: What is made of them for all samples together; :meth:`run` gives that.
    """

    def __init__(
        self,
        model: ModelProto,
        placement: Mapping[str, Collection[int]],
        outputs: Sequence[str],
        postprocess: Callable[[dict[str, Array]], dict[str, Array]] = dict,
    ) -> None:
        layers = layers_of(model)
        self.outputs = tuple(outputs)
        self._postprocess = postprocess
        self.stored = tuple(layer.name for layer in layers if layer.weight is not None)
        self.computed = tuple(layer.name for layer in layers if placement.get(layer.name))
        self._operands = {layer.name: tuple(sorted(placement.get(layer.name, ()))) for layer in layers}
        slots = sorted({layer.activations[o] for layer in layers for o in self._operands[layer.name]})
        self.tensors = tuple(slots)
        self._session = self._build(copy_of(model))

    def _build(self, model: ModelProto) -> ort.InferenceSession:
        graph = model.graph
        layers = {layer.name: layer for layer in layers_of(model)}
        graph.input.extend(
            [
                helper.make_tensor_value_info(_STORED, TensorProto.BOOL, [len(self.stored)]),
                helper.make_tensor_value_info(_COMPUTED, TensorProto.BOOL, [len(self.computed)]),
                helper.make_tensor_value_info(_SCALES, TensorProto.FLOAT, [len(self.tensors)]),
            ]
        )
        nodes: list[NodeProto] = []

        def constant(name: str, array: npt.NDArray[np.generic]) -> str:
            graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
            return name

        def entry(vector: str, index: int, name: str) -> str:
            nodes.append(helper.make_node("Gather", [vector, constant(f"{name}.index", np.array(index, np.int64))], [name]))
            return name

        rounded: dict[str, str] = {}
        zero = constant("int8.zero", np.array(0, np.int8))
        for node in graph.node:
            layer = layers.get(node.name)
            if layer is None:
                nodes.append(node)
                continue
            base = f"int8.{node.name}"
            if layer.weight is not None:
                weight = numpy_helper.to_array(layer.weight.initializer)
                levels, scale = quantize_per_channel(weight, layer.weight.channel_axis)
                shape = [1] * weight.ndim
                shape[layer.weight.channel_axis] = -1
                stored = constant(f"{base}.weight", levels.astype(np.float32) * scale.reshape(shape))
                switch = entry(_STORED, self.stored.index(node.name), f"{base}.stored")
                operand = layer.weight.operand
                nodes.append(helper.make_node("Where", [switch, stored, node.input[operand]], [f"{base}.chosen"]))
                node.input[operand] = f"{base}.chosen"
            if self._operands[node.name]:
                switch = entry(_COMPUTED, self.computed.index(node.name), f"{base}.computed")
            for operand in self._operands[node.name]:
                tensor = node.input[operand]
                if tensor not in rounded:
                    scale_name = entry(_SCALES, self.tensors.index(tensor), f"int8.scale.{tensor}")
                    rounded[tensor] = f"int8.rounded.{tensor}"
                    nodes += [
                        helper.make_node("QuantizeLinear", [tensor, scale_name, zero], [f"int8.q.{tensor}"]),
                        helper.make_node("DequantizeLinear", [f"int8.q.{tensor}", scale_name, zero], [rounded[tensor]]),
                    ]
                nodes.append(helper.make_node("Where", [switch, rounded[tensor], tensor], [f"{base}.operand{operand}"]))
                node.input[operand] = f"{base}.operand{operand}"
            nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]
        return cpu_session(model.SerializeToString(), {"session.disable_quant_qdq": "1"})

    def run(
        self,
        samples: Mapping[str, Array],
        *,
        stored: Collection[str] = (),
        computed: Collection[str] = (),
        scales: Mapping[str, float] | None = None,
    ) -> dict[str, Array]:
        """The outputs with these layers in INT8.

        Args:
            samples: Input name -> (N, ...).
            stored: Layers whose weights are INT8; the others have their float weights.
            computed: Layers whose activations are INT8 as well; those without a placement are passed over.
            scales: Tensor -> width of an INT8 level; needed for the activations of ``computed``.
        """
        known = scales or {}
        switches = {
            _STORED: np.array([name in stored for name in self.stored], bool),
            _COMPUTED: np.array([name in computed for name in self.computed], bool),
            _SCALES: np.array([known.get(name, 1.0) for name in self.tensors], np.float32),
        }
        asked = {value.name for value in self._session.get_inputs()}
        names = list(self.outputs)

        def infer(feed: dict[str, npt.NDArray[Any]]) -> dict[str, Array]:
            taken = {name: array for name, array in (feed | switches).items() if name in asked}
            return dict(zip(names, self._session.run(names, taken), strict=True))

        return self._postprocess(infer_batched(infer, samples, _BATCH))
