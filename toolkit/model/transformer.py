"""The one transformer block DMD uses everywhere: a pre-norm encoder whose queries and source may differ.

Source: docs/model.md section 3 (Vaswani encoder as in MulT). Layout is (B, T, e) throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.model.dropout import dropout

__all__ = ["LAYER_NORM_EPS", "BlockDropout", "EncoderBlock", "attention_mask", "position_table"]

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class BlockDropout:
    """Dropout probabilities of one block."""

    attention: float = 0.0
    embed: float = 0.0
    residual: float = 0.0
    relu: float = 0.0


def position_table(steps: int, width: int) -> Tensor:
    """Sinusoidal positions, float32 (steps + 1, width); row 0 is all zeros, row t + 1 belongs to step t.

    The frequency of column j is ``exp(-j ln(10000) / (width // 2 - 1))``; sines first, then cosines; an odd width
    gets one zero column.
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1)))
    angle = torch.arange(steps + 1, dtype=torch.float32).unsqueeze(1) * frequency
    table = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
    table = F.pad(table, (0, width - 2 * half))
    table[0] = 0.0
    return table


def attention_mask(query_steps: int, source_steps: int) -> Tensor:
    """Boolean (query_steps, source_steps), true where attention is forbidden: ``j > i + |source_steps - query_steps|``."""
    return torch.ones(query_steps, source_steps, dtype=torch.bool).triu(1 + abs(source_steps - query_steps))


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with one packed, biased in-projection (rows q, k, v; heads contiguous)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _heads_first(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, forbidden: Tensor) -> Tensor:
        """Attends from ``query`` (B, T_q, e) to ``key`` and ``value`` (B, T_k, e); ``forbidden`` is boolean (T_q, T_k)."""
        if query is key and key is value:
            q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        elif key is value:
            width = query.shape[-1]
            q = F.linear(query, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = F.linear(key, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        else:
            parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
            q, k, v = (F.linear(x, weight, bias) for x, weight, bias in parts)
        q, k, v = self._heads_first(q * self.head_dim**-0.5), self._heads_first(k), self._heads_first(v)
        scores = (q @ k.transpose(-2, -1)).masked_fill(forbidden, -math.inf)
        weights = F.dropout(torch.softmax(scores.float(), dim=-1).type_as(scores), self.dropout, self.training)
        mixed: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(-2))
        return mixed


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward of inner width 4e, each on a normalised input and added back."""

    def __init__(self, width: int, heads: int, dropout: BlockDropout) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = MultiheadAttention(width, heads, dropout.attention)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(2)])
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, source: tuple[Tensor, Tensor] | None, forbidden: Tensor) -> Tensor:
        """One layer on ``x`` (B, T_q, e); ``source`` holds what keys and values are made of, or is None (self-attention)."""
        attention_norm, feed_forward_norm = self.layer_norms
        normed = attention_norm(x)
        key = normed if source is None else attention_norm(source[0])
        value = key if source is None or source[1] is source[0] else attention_norm(source[1])
        attended = self.self_attn(normed, key, value, forbidden)
        x = x + F.dropout(attended, self.dropout.residual, self.training)
        hidden = F.dropout(F.relu(self.fc1(feed_forward_norm(x))), self.dropout.relu, self.training)
        return x + F.dropout(self.fc2(hidden), self.dropout.residual, self.training)


class EncoderBlock(nn.Module):
    """Scales, adds positions where channel 0 is not exactly zero, and runs the layers and a final LayerNorm.

    Args:
        width: e, channels; a multiple of ``heads``.
        heads: H, attention heads.
        levels: Layers.
        steps: T_q, query steps.
        source_steps: T_k, source steps of a cross-modal block; None for self-attention.
        dropout: The block's probabilities.
    """

    forbidden: Tensor
    positions: Tensor

    def __init__(
        self, width: int, heads: int, levels: int, steps: int, source_steps: int | None, dropout: BlockDropout
    ) -> None:
        super().__init__()
        self.width = width
        self.embed_dropout = dropout.embed
        self.layers = nn.ModuleList([EncoderLayer(width, heads, dropout) for _ in range(levels)])
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        keys = steps if source_steps is None else source_steps
        self.register_buffer("positions", position_table(max(steps, keys), width), persistent=False)
        self.register_buffer("forbidden", attention_mask(steps, keys), persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """``x`` (..., T, e) scaled, with positions where channel 0 is not exactly zero, and dropped while training."""
        present = (x[..., :1] != 0).type_as(x)
        embedded = math.sqrt(self.width) * x + present * self.positions[1 : x.shape[-2] + 1]
        return dropout(embedded, self.embed_dropout, self.training)

    def forbidden_among(self, x: Tensor, source: Tensor | None) -> Tensor:
        """The mask (T_q, T_k) for the steps there are: a batch of short samples is cut to its longest."""
        steps = x.shape[-2], (x if source is None else source).shape[-2]
        return self.forbidden if steps == self.forbidden.shape else self.forbidden[: steps[0], : steps[1]]

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Returns (B, T_q, e) from ``x`` (B, T_q, e) and, in a cross-modal block, ``source`` (B, T_k, e)."""
        x = self.embed(x)
        # Keys and values are dropped apart, as published: two draws of one sequence.
        parts = None
        if source is not None:
            key = self.embed(source)
            parts = key, self.embed(source) if self.training else key
        forbidden = self.forbidden_among(x, source)
        for layer in self.layers:
            x = layer(x, parts, forbidden)
        normed: Tensor = self.layer_norm(x)
        return normed
