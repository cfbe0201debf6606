"""The exact algebra from the trained model to the student, one small function on weights for each rewrite.

None of them changes what the model computes; each has a test of its own. They take and return float64, so that a chain
of them rounds once, when a module of the graph stores the result in float32.

The graph keeps every residual stream *centred and scaled*: where the model has x (e channels), the graph has C x with
C = (I - 11'/e) / sqrt(e). Everything that reads a residual stream is a LayerNorm, which ignores the mean, so this is
exact, and it makes LayerNorm cheap:

    LayerNorm(x) = sqrt(e) * y * scale + shift    with    y = Cx / sqrt(sum((Cx)^2) + eps),    |y| <= 1.

C is folded into what writes the stream (:func:`centre`), sqrt(e), scale and shift into what reads y
(:func:`fold_layer_norm`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dmdkit.model.transformer import EncoderLayer

__all__ = [
    "FoldedLayer",
    "centre",
    "compose",
    "compose_projection",
    "fold_layer",
    "fold_layer_norm",
    "fold_query_scale",
    "fold_residual_head",
    "fold_value_bias",
    "worth_composing",
]


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The matrix (out, in) equal to ``outer`` (out, mid) after ``inner`` (mid, in)."""
    return outer.double() @ inner.double()


def compose_projection(projection: Tensor, encoder: Tensor) -> Tensor:
    """The convolution (out, D, k) equal to the matrix ``encoder`` (out, d) after the convolution ``projection`` (d, D, k)."""
    return torch.einsum("od,dik->oik", encoder.double(), projection.double())


def worth_composing(projection: Tensor, outputs: int) -> bool:
    """Whether one composed convolution costs no more multiply-adds than ``projection`` (d, D, k) and a matrix (outputs, d).

    It does for few features under the kernel (audio, vision); for 768 text features it would double the work.
    """
    width, features, kernel = projection.shape
    return outputs * features * kernel <= width * features * kernel + outputs * width


def centre(rows: Tensor) -> Tensor:
    """``C @ rows`` for rows (e,) or (e, n) that write a residual stream of e channels: see the module's description."""
    rows = rows.double()
    return (rows - rows.mean(dim=0, keepdim=True)) / math.sqrt(rows.shape[0])


def fold_layer_norm(weight: Tensor, bias: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight (out, e) and bias (out,) that act on the unit vector y as the given ones act on LayerNorm's output."""
    weight = weight.double()
    folded = weight * norm.weight.double() * math.sqrt(weight.shape[1])
    return folded, bias.double() + weight @ norm.bias.double()


def fold_query_scale(weight: Tensor, bias: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Query rows scaled by head_dim^-0.5, bias included, so that the graph need not scale."""
    scale = head_dim**-0.5
    return weight.double() * scale, bias.double() * scale


def fold_value_bias(out_weight: Tensor, out_bias: Tensor, value_bias: Tensor) -> Tensor:
    """The output projection's bias that also does the value bias's work: attention weights add up to 1."""
    return out_bias.double() + out_weight.double() @ value_bias.double()


def fold_residual_head(inner: nn.Linear, outer: nn.Linear) -> tuple[Tensor, Tensor]:
    """``outer(x + inner(h))`` as weight (C, hidden + width) and bias (C,) on [h; x]: no hidden matrix is left."""
    weight = outer.weight.double()
    return torch.cat([compose(weight, inner.weight), weight], dim=1), outer.bias.double() + weight @ inner.bias.double()


@dataclass(frozen=True)
class FoldedLayer:
    """One layer of one block in the form the graph computes, float64; ``*_bias`` (out,), the rest (out, in).

    Queries, keys, values and ``fc1`` read the unit vector y; ``out`` and ``fc2`` write the centred stream. Keys have no
    bias, because it adds the same to every score of a query and softmax ignores that; values have none, because it
    moved into ``out_bias``.
    """

    heads: int
    query: Tensor
    query_bias: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    out_bias: Tensor
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor


@torch.no_grad()
def fold_layer(layer: EncoderLayer) -> FoldedLayer:
    """Every rewrite above applied to one trained layer, which is not changed."""
    attention = layer.self_attn
    attention_norm, feed_forward_norm = (cast(nn.LayerNorm, norm) for norm in layer.layer_norms)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    (query, query_bias), (key, _), (value, value_bias) = (
        fold_layer_norm(weight, bias, attention_norm) for weight, bias in zip(weights, biases, strict=True)
    )
    query, query_bias = fold_query_scale(query, query_bias, attention.head_dim)
    out = attention.out_proj
    fc1, fc1_bias = fold_layer_norm(layer.fc1.weight, layer.fc1.bias, feed_forward_norm)
    return FoldedLayer(
        heads=attention.heads,
        query=query,
        query_bias=query_bias,
        key=key,
        value=value,
        out=centre(out.weight),
        out_bias=centre(fold_value_bias(out.weight, out.bias, value_bias)),
        fc1=fc1,
        fc1_bias=fc1_bias,
        fc2=centre(layer.fc2.weight),
        fc2_bias=centre(layer.fc2.bias),
    )
