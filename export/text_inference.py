"""A text encoder in inference form: BERT's own algebra, with one product for queries, keys and values, exact otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, helper, numpy_helper, shape_inference
from torch import Tensor, nn

from dmdkit.export.onnx_writer import check_contract, graph_from_module
from dmdkit.model.text_encoder import BertShape, TextEncoder
from dmdkit.runtime.manifest import TEXT_INPUTS

__all__ = ["TextGraph", "text_graph"]

_MASKED = -1e4
"""Added to the scores of steps without a token: exp of it is 0 in fp32, and fp16 can still hold it."""

_EXAMPLE_BATCH = 2


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().float().clone(), requires_grad=False)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = _frozen(weight), _frozen(bias)
    return linear


def _norm(state: Mapping[str, Tensor], name: str, shape: BertShape) -> nn.LayerNorm:
    norm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
    norm.weight, norm.bias = _frozen(state[f"{name}.weight"]), _frozen(state[f"{name}.bias"])
    return norm


class _Layer(nn.Module):
    """One BERT layer (post-norm).

    Args:
        layer: Hugging Face's BertLayer.
        shape: The BERT's sizes.
    """

    def __init__(self, layer: nn.Module, shape: BertShape) -> None:
        super().__init__()
        state = dict(layer.named_parameters())
        self.heads, self.head_width = shape.num_attention_heads, shape.hidden_size // shape.num_attention_heads
        self.activation = shape.hidden_act
        scale = {"query": self.head_width**-0.5, "key": 1.0, "value": 1.0}
        parts = [(state[f"attention.self.{n}.weight"] * s, state[f"attention.self.{n}.bias"] * s) for n, s in scale.items()]
        self.qkv = _linear(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]))
        self.out = _linear(state["attention.output.dense.weight"], state["attention.output.dense.bias"])
        self.up = _linear(state["intermediate.dense.weight"], state["intermediate.dense.bias"])
        self.down = _linear(state["output.dense.weight"], state["output.dense.bias"])
        self.attention_norm = _norm(state, "attention.output.LayerNorm", shape)
        self.output_norm = _norm(state, "output.LayerNorm", shape)

    def _act(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu(x)
        return F.gelu(x, approximate="none" if self.activation == "gelu" else "tanh")

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) and an additive mask (B, 1, 1, T) -> (B, T, D)."""
        batch, steps, width = x.shape
        # Split after the transposition, where the parts lie one behind the other: one reshape and one transposition, not three.
        parts = self.qkv(x).reshape(batch, steps, 3 * self.heads, self.head_width).transpose(1, 2)
        query, key, value = parts.split(self.heads, dim=1)
        weights = torch.softmax(query @ key.transpose(2, 3) + bias, dim=-1)
        context = (weights @ value).transpose(1, 2).reshape(batch, steps, width)
        x = self.attention_norm(x + self.out(context))
        return cast(Tensor, self.output_norm(x + self.down(self._act(self.up(x)))))


class TextGraph(nn.Module):
    """A :class:`~dmdkit.model.text_encoder.TextEncoder` for export; equal to it within rounding.

    Args:
        encoder: The encoder, which is not changed.
        steps: T, tokens of a sentence.
    """

    def __init__(self, encoder: TextEncoder, steps: int) -> None:
        super().__init__()
        shape = encoder.shape
        embeddings = dict(cast(nn.Module, encoder.bert.embeddings).named_parameters())
        self.zeroed = encoder.padded_steps == "zero"
        self.word = _frozen(embeddings["word_embeddings.weight"])
        # A single sentence is all segment 0, so that segment's row goes into every position's.
        rows = embeddings["position_embeddings.weight"][:steps] + embeddings["token_type_embeddings.weight"][0]
        self.position = _frozen(rows)
        self.norm = _norm(embeddings, "LayerNorm", shape)
        layers = cast(nn.ModuleList, cast(nn.Module, encoder.bert.encoder).layer)
        self.layers = nn.ModuleList([_Layer(layer, shape) for layer in layers])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 ids and mask (B, T) -> float32 features (B, T, D)."""
        present = attention_mask.to(torch.float32)
        position: Tensor = self.position
        if self.zeroed:  # tokens stand on the right and take the positions they would have without padding
            # Counted in float, exact at any length of a sentence: TensorRT's parser adds and clips no int64.
            place = (present.cumsum(1) - 1.0).clamp(min=0.0)
            position = F.embedding(place.to(torch.int64), position)
        x: Tensor = self.norm(F.embedding(input_ids, self.word) + position)
        bias = ((1.0 - present) * _MASKED).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            x = layer(x, bias)
        return x * present.unsqueeze(-1) if self.zeroed else x


def text_graph(encoder: TextEncoder, steps: int) -> ModelProto:
    """The graph ``text.fp32`` of an encoder.

    Args:
        encoder: The trained encoder.
        steps: T, tokens of a sentence.

    Raises:
        ExportError: PyTorch could not export it.
    """
    ids = torch.zeros(_EXAMPLE_BATCH, steps, dtype=torch.int64)
    mask = torch.ones(_EXAMPLE_BATCH, steps, dtype=torch.int64)
    model = graph_from_module(TextGraph(encoder, steps), list(zip(TEXT_INPUTS, (ids, mask), strict=True)), ["text"])
    model.graph.name = "text"
    _keep_apart(model)
    check_contract(model)
    return model


def _keep_apart(model: ModelProto) -> None:
    """Keeps ONNX Runtime from fusing the sum of the embeddings with the normalisation after it.

    On a CPU its fused kernel takes about four times as long as the two nodes (1.31.1: 92 us instead of 20 at 50 tokens of 384).
    It fuses only what is known to be of one shape, and behind this Reshape, which costs nothing, the batch is not.
    """
    nodes = model.graph.node
    norm = next(node for node in nodes if node.op_type == "LayerNormalization")
    place, total = next((i, node) for i, node in enumerate(nodes) if norm.input[0] in node.output)
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    known = {value.name: value.type.tensor_type.shape.dim for value in inferred.graph.value_info}
    for operand, name in enumerate(total.input):
        sizes = [dim.dim_value for dim in known.get(name, ())]
        if len(sizes) == 3 and all(sizes[1:]):
            shape = numpy_helper.from_array(np.array([-1, *sizes[1:]], np.int64), "embeddings.shape")
            model.graph.initializer.append(shape)
            total.input[operand] = "embeddings.apart"
            nodes.insert(
                place, helper.make_node("Reshape", [name, shape.name], ["embeddings.apart"], name="/embeddings/Reshape")
            )
            return
