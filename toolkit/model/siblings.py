"""Blocks of equal shape run together while training.

The same computation as :mod:`dmdkit.model.transformer`, block by block (a test compares outputs and gradients), in an
order that a processor likes: stacked weights, one product for all siblings, LayerNorms folded into the products behind
them, and the keys and values of every layer of a cross-modal block from one product. Layout is (G, B, T, e) for G
siblings.

PyTorch's own fused attention is not used here: on a CPU it falls back to separate operations as soon as attention
weights are dropped, and at head widths of 5 it is slower than these even where nothing is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dmdkit.model.dropout import draws_of, dropout, kept, scale_of
from dmdkit.model.transformer import LAYER_NORM_EPS, EncoderBlock, EncoderLayer

__all__ = ["run_siblings"]


class _Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(width) + mask), dropped, times v; the softmax in at least single precision.

    Queries, keys and values come as (N, width, T), the mask as (T_q, T_k). ``probabilities`` are the chances to drop a
    weight, each for an equal part of the N. The parts are computed one by one: one part's weights fit into a CPU's cache,
    those of all do not. Products whose result has as many columns as there are steps take a fourth of the time of their
    transposes. Backwards, what a row of weights adds up to with the change of its weights is what its output adds up to with
    the change of its output, so that the softmax needs no pass of its own for it.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, probabilities: tuple[float, ...]) -> Tensor:
        ctx.parts, ctx.scale = len(probabilities), query.shape[1] ** -0.5
        wide = torch.promote_types(query.dtype, torch.float32)
        mask, found, saved = mask.to(query), [], []
        parts = zip(*(x.chunk(len(probabilities)) for x in (query, key, value)), probabilities, strict=True)
        for q, k, v, p in parts:
            scores = torch.baddbmm(mask, q.transpose(1, 2), k, alpha=ctx.scale)
            weights = torch.softmax(scores, -1, dtype=wide).to(q)
            dropped = weights
            if p:
                draws = draws_of(weights.numel(), q.device).view(weights.shape)
                dropped = kept(draws, p, q.dtype).mul_(weights)
            found.append(torch.bmm(v, dropped.transpose(1, 2)))
            saved += [weights, dropped]
        mixed = torch.cat(found)
        ctx.save_for_backward(query, key, value, mixed, *saved)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, *saved = ctx.saved_tensors
        wide = torch.promote_types(query.dtype, torch.float32)
        change = change.to(value)
        along = (change.to(wide) * mixed).sum(1).unsqueeze(2)
        by_query, by_key, by_value = (torch.empty_like(x) for x in (query, key, value))
        inputs = (query, key, value, change, along, by_query, by_key, by_value)
        parts = zip(*(x.chunk(ctx.parts) for x in inputs), saved[::2], saved[1::2], strict=True)
        for q, k, v, upper, d, to_q, to_k, to_v, weights, dropped in parts:
            by_scores = torch.bmm(upper.transpose(1, 2), v).to(wide).mul_(dropped)
            by_scores = by_scores.addcmul_(weights, d, value=-1).to(q)
            torch.bmm(upper, dropped, out=to_v)
            torch.bmm(k, by_scores.transpose(1, 2), out=to_q)
            torch.bmm(q, by_scores, out=to_k)
        return by_query.mul_(ctx.scale), by_key.mul_(ctx.scale), by_value, None, None


class _FeedForward(torch.autograd.Function):
    """relu(x w1^T + b1), dropped, times w2^T, plus b2; x is (G, N, e), and nothing but it and what is left of ReLU is kept.

    What ReLU or the dropout took away is zero, and only that: so the zeros say where no change passes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, p: float) -> Tensor:
        hidden = torch.baddbmm(b1.unsqueeze(1), x, w1.transpose(1, 2)).relu_()
        ctx.scale = 1.0
        if p:
            hidden.mul_(kept(draws_of(hidden.numel(), x.device).view(hidden.shape), p, x.dtype))
            ctx.scale = scale_of(p)
        ctx.save_for_backward(x, w1, w2, hidden)
        return torch.baddbmm(b2.unsqueeze(1), hidden, w2.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, w2, hidden = ctx.saved_tensors
        change = change.to(x)
        by_hidden = torch.ops.aten.threshold_backward(torch.bmm(change, w2 * ctx.scale), hidden, 0)
        by_w2 = torch.bmm(change.transpose(1, 2), hidden)
        by_w1 = torch.bmm(by_hidden.transpose(1, 2), x)
        return torch.bmm(by_hidden, w1), by_w1, by_hidden.sum(1), by_w2, change.sum(1), None


def _feed_forward(x: Tensor, inner: tuple[Tensor, Tensor], outer: tuple[Tensor, Tensor], probability: float) -> Tensor:
    """(G, B, T, e) from ``x`` (G, B, T, e), in the precision that autocast asks for."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    operands = [operand.to(dtype) for operand in (x.flatten(1, 2), *inner, *outer)]
    with torch.autocast(kind, enabled=False):
        out: Tensor = _FeedForward.apply(*operands, probability)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def _heads(x: Tensor, weight_and_bias: tuple[Tensor, Tensor], parts: int, heads: int) -> tuple[Tensor, ...]:
    """``parts`` tensors (G*B*H, width, T), the heads of what a linear (G, parts*e, e) makes of ``x`` (G, B, T, e).

    The product has channels as rows, so that the heads are copied in runs of T values and not one by one: half the time.
    """
    weight, bias = weight_and_bias
    siblings, batch, steps, width = x.shape
    rows = x.reshape(siblings, batch * steps, width)
    together = torch.baddbmm(bias.unsqueeze(2), weight, rows.transpose(1, 2))
    split = together.view(siblings, parts, heads, -1, batch, steps).permute(1, 0, 4, 2, 3, 5)
    return torch.unbind(split.reshape(parts, siblings * batch * heads, -1, steps))


class _Layer:
    """One layer of every sibling: stacked weights, LayerNorms folded into what follows them."""

    def __init__(self, layers: Sequence[EncoderLayer]) -> None:
        first = layers[0]
        self.heads, self.dropout = first.self_attn.heads, first.dropout
        self.attention_dropout = [layer.self_attn.dropout for layer in layers]
        attention_norms, feed_forward_norms = zip(*(layer.layer_norms for layer in layers), strict=True)
        self.attention = _folded(
            attention_norms,
            torch.stack([layer.self_attn.in_proj_weight for layer in layers]),
            torch.stack([layer.self_attn.in_proj_bias for layer in layers]),
        )
        self.out = _stacked([layer.self_attn.out_proj for layer in layers])
        self.fc1 = _folded(feed_forward_norms, *_stacked([layer.fc1 for layer in layers]))
        self.fc2 = _stacked([layer.fc2 for layer in layers])

    def part(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Rows of the packed in-projection, in units of e: queries 0 to 1, keys 1 to 2, values 2 to 3."""
        weight, bias = self.attention
        width = weight.shape[2]
        return weight[:, first * width : last * width], bias[:, first * width : last * width]


def _stacked(linears: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    weights, biases = ([cast(Tensor, getattr(linear, name)) for linear in linears] for name in ("weight", "bias"))
    return torch.stack(weights), torch.stack(biases)


def _folded(norms: Sequence[nn.Module], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The linear (G, out, e), (G, out) that takes what its LayerNorm has only normalised."""
    scale, shift = _stacked(norms)
    return weight * scale.unsqueeze(1), bias + (weight @ shift.unsqueeze(2)).squeeze(2)


def _from_channels(x: Tensor, weight_and_bias: tuple[Tensor, Tensor]) -> Tensor:
    """(G, B, T, out) from ``x`` (G, B, in, T)."""
    weight, bias = weight_and_bias
    siblings, batch, width, steps = x.shape
    rows = x.transpose(1, 2).reshape(siblings, width, batch * steps).transpose(1, 2)
    return torch.baddbmm(bias.unsqueeze(1), rows, weight.transpose(1, 2)).view(siblings, batch, steps, -1)


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)


def run_siblings(
    blocks: Sequence[EncoderBlock], streams: Tensor, sources: Tensor | None = None, *, last_step: bool = False
) -> Tensor:
    """What each of ``blocks`` makes of its stream.

    Args:
        blocks: G blocks of equal width, heads, levels and lengths.
        streams: (G, B, T_q, e), the blocks' inputs.
        sources: (G, B, T_k, e) of cross-modal blocks.
        last_step: Whether only the last step is wanted. The last layer then computes nothing but keys and values of the
            others, which is a fifth of a block of four layers.

    Returns:
        (G, B, T_q, e), or (G, B, 1, e) of the last step.
    """
    first = blocks[0]
    training = first.training
    layers = [_Layer([block.layers[level] for block in blocks]) for level in range(len(first.layers))]  # type: ignore[misc]
    forbidden = first.forbidden_among(streams, sources)
    mask = torch.zeros(forbidden.shape, device=streams.device).masked_fill_(forbidden, -math.inf)
    x = first.embed(streams)
    keys, values = _keys_and_values(first, layers, sources)
    siblings, batch = x.shape[:2]
    for level, layer in enumerate(layers):
        normed = _normalised(x)
        if last_step and level == len(layers) - 1:
            x, mask = x[:, :, -1:], mask[-1:]
        if sources is None and len(mask) < normed.shape[2]:
            (query,) = _heads(normed[:, :, -1:], layer.part(0, 1), 1, layer.heads)
            key, value = _heads(normed, layer.part(1, 3), 2, layer.heads)
        elif sources is None:
            query, key, value = _heads(normed, layer.attention, 3, layer.heads)
        else:
            (query,) = _heads(normed[:, :, -len(mask) :], layer.part(0, 1), 1, layer.heads)
            key, value = keys[level], values[level]
        chances = tuple(layer.attention_dropout) if training else (0.0,) * siblings
        with torch.autocast(query.device.type, enabled=False):
            mixed: Tensor = _Attention.apply(query, key, value, mask, chances)  # type: ignore[no-untyped-call]
        mixed = mixed.view(siblings, batch, -1, x.shape[2])
        x = x + dropout(_from_channels(mixed, layer.out), layer.dropout.residual, training)
        hidden = _feed_forward(_normalised(x), layer.fc1, layer.fc2, layer.dropout.relu if training else 0.0)
        x = x + dropout(hidden, layer.dropout.residual, training)
    scale, shift = _stacked([block.layer_norm for block in blocks])
    return torch.addcmul(shift[:, None, None], _normalised(x), scale[:, None, None])


def _keys_and_values(block: EncoderBlock, layers: list[_Layer], sources: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of every layer, each (G*B*H, width, T_k), of cross-modal blocks: their sources never change."""
    if sources is None:
        return [], []
    found = []
    for part in (1, 2):
        weights, biases = zip(*(layer.part(part, part + 1) for layer in layers), strict=True)
        together = torch.cat(weights, 1), torch.cat(biases, 1)
        found.append(list(_heads(_normalised(block.embed(sources)), together, len(layers), layers[0].heads)))
    return found[0], found[1]
