"""The student's building blocks on channel-major tensors, for several blocks of the model ("streams") at a time.

Layout: S streams of e channels and T steps are one tensor (B, S*e, T), a stream's channels and within them a head's
channels contiguous. A linear layer of all streams is then one grouped convolution of kernel 1 whose weight is the left
operand, heads are a view, and nothing is ever transposed but attention scores: on a CPU this form takes half the time of
rows of channels. Weight scales of an INT8 convolution lie on axis 0, the output channels, for all streams alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.export.rewrites import FoldedLayer
from dmdkit.model.transformer import LAYER_NORM_EPS

__all__ = ["MASKED_SCORE", "Attend", "Convolution", "FeedForward", "LastLayer", "UnitNormalise", "grouped", "score_mask"]

MASKED_SCORE = -10000.0
"""Added to a forbidden attention score. Finite, because -inf keeps a Softmax in fp32 and breaks fp16 kernels; exp of it
is exactly 0 in fp32 and fp16 alike."""


def score_mask(forbidden: Tensor) -> Tensor | None:
    """What is added to scores, broadcast where all streams (axis 0) forbid the same; None where nothing is forbidden."""
    if not forbidden.any():
        return None
    forbidden = forbidden[:1] if (forbidden == forbidden[:1]).all() else forbidden
    return forbidden.float() * MASKED_SCORE


class Convolution(nn.Module):
    """A convolution over steps with a constant weight.

    Args:
        weight: (out, in / groups, k); stored in float32.
        bias: (out,) or None.
        groups: Streams (or heads of streams) that do not see each other.
    """

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, T) -> (B, out, T - k + 1)."""
        return F.conv1d(x, self.weight, self.bias, groups=self.groups)


def grouped(weights: Sequence[Tensor], biases: Sequence[Tensor] | None = None) -> Convolution:
    """The linear layers ``weights``, each (out, in), of as many streams, as one: (B, S*in, T) -> (B, S*out, T)."""
    weight = torch.cat(list(weights)).unsqueeze(-1)
    return Convolution(weight, None if biases is None else torch.cat(list(biases)), len(weights))


class UnitNormalise(nn.Module):
    """LayerNorm of centred streams, without its scale and shift: a vector of length at most 1 at every step.

    Safe in fp16: the stream is scaled by 1/sqrt(e), so the sum of squares is LayerNorm's own variance. It overflows only
    beyond a standard deviation of 256, and squares too small for fp16 belong to steps where eps decides anyway.

    Args:
        streams: S.
        width: e.
        any_steps: Whether the graph takes any number of steps of one sample, instead of any number of samples.
    """

    def __init__(self, streams: int, width: int, *, any_steps: bool = False) -> None:
        super().__init__()
        self.streams, self.width, self.any_steps = streams, width, any_steps

    def forward(self, x: Tensor) -> Tensor:
        """(B, S*e, T) -> (B, S*e, T)."""
        batch, steps = (1, -1) if self.any_steps else (-1, x.shape[2])
        apart = x.reshape(batch, self.streams, self.width, steps)
        length = torch.sqrt((apart * apart).sum(dim=2, keepdim=True) + LAYER_NORM_EPS)
        return (apart / length).reshape(batch, self.streams * self.width, steps)


class Attend(nn.Module):
    """Scores, softmax and weighted sum of every head of every stream, on ready-made q, k, v.

    Args:
        heads: Attention heads of one stream.
        forbidden: Boolean (S, T_q, T_k), true where a stream's query must not look.
    """

    mask: Tensor | None

    def __init__(self, heads: int, forbidden: Tensor) -> None:
        super().__init__()
        self.heads = heads
        self.streams, self.query_steps, self.source_steps = forbidden.shape
        self.register_buffer("mask", score_mask(forbidden.unsqueeze(1)), persistent=False)

    def _heads(self, x: Tensor, steps: int) -> Tensor:
        return x.reshape(-1, self.streams, self.heads, x.shape[1] // (self.streams * self.heads), steps)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q (B, S*e, T_q), k and v (B, S*e, T_k) -> (B, S*e, T_q)."""
        scores = self._heads(q, self.query_steps).transpose(3, 4) @ self._heads(k, self.source_steps)
        if self.mask is not None:
            scores = scores + self.mask
        # Softmax and not a bare exp: that is faster still, but only where scores are provably small, and never in fp16.
        mixed = self._heads(v, self.source_steps) @ torch.softmax(scores, dim=-1).transpose(3, 4)
        return mixed.reshape(-1, q.shape[1], self.query_steps)


class FeedForward(nn.Module):
    """Normalise, linear, ReLU, linear, added back."""

    def __init__(self, layers: Sequence[FoldedLayer], *, any_steps: bool = False) -> None:
        super().__init__()
        self.normalise = UnitNormalise(len(layers), layers[0].fc1.shape[1], any_steps=any_steps)
        self.fc1 = grouped([layer.fc1 for layer in layers], [layer.fc1_bias for layer in layers])
        self.fc2 = grouped([layer.fc2 for layer in layers], [layer.fc2_bias for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        """Centred streams (B, S*e, T) -> (B, S*e, T)."""
        return x + cast(Tensor, self.fc2(F.relu(self.fc1(self.normalise(x)))))


class LastLayer(nn.Module):
    """The last layer of self-attending streams, for the last step alone, and the normalisation after it.

    Keys and values of one query need not be formed: q . (W_k y_j) = (W_k' q) . y_j, and the weighted sum of W_v y_j is W_v
    times the weighted sum of y_j. The last query may attend to every step that is not padding.

    Args:
        layers: One folded layer a stream.
        padding: Boolean (S, T), true where a stream has no step.
    """

    mask: Tensor | None

    def __init__(self, layers: Sequence[FoldedLayer], padding: Tensor) -> None:
        super().__init__()
        self.streams, self.heads, self.width = len(layers), layers[0].heads, layers[0].query.shape[1]
        heads = self.streams * self.heads
        self.normalise = UnitNormalise(self.streams, self.width)
        self.query = grouped([layer.query for layer in layers], [layer.query_bias for layer in layers])
        # One group a head: (h, e) rows of W_k transposed, (h, e) rows of W_v as they are.
        keys = torch.cat([layer.key for layer in layers]).reshape(heads, -1, self.width)
        self.query_for_source = Convolution(keys.transpose(1, 2).reshape(heads * self.width, -1, 1), groups=heads)
        self.value = Convolution(torch.cat([layer.value for layer in layers]).unsqueeze(-1), groups=heads)
        self.out = grouped([layer.out for layer in layers], [layer.out_bias for layer in layers])
        self.feed_forward = FeedForward(layers)
        self.register_buffer("mask", score_mask(padding.unsqueeze(1)), persistent=False)

    def forward(self, x: Tensor, last: Tensor | None = None) -> Tensor:
        """Centred streams (B, S*e, T) -> unit vectors of their last step (B, S*e, 1).

        ``last``: int64 (B,), the number of each sample's last real step; None: the last there is.
        """
        y = self.normalise(x)
        q = self.query_for_source(self.query(_step(y, last))).reshape(-1, self.streams, self.heads, self.width)
        source = y.reshape(-1, self.streams, self.width, x.shape[2])
        scores = q @ source
        if self.mask is not None:
            scores = scores + self.mask
        if last is not None:
            behind = torch.arange(x.shape[2]) > last.reshape(-1, 1, 1, 1)
            scores = scores + behind.float() * MASKED_SCORE
        mixed = torch.softmax(scores, dim=-1) @ source.transpose(2, 3)
        mixed = self.value(mixed.reshape(-1, self.streams * self.heads * self.width, 1))
        return cast(Tensor, self.normalise(self.feed_forward(_step(x, last) + self.out(mixed))))


def _step(x: Tensor, last: Tensor | None) -> Tensor:
    """One step of (B, C, T), (B, C, 1): the last, or each sample's own."""
    return x[:, :, -1:] if last is None else x.gather(2, last.reshape(-1, 1, 1).expand(-1, x.shape[1], 1))
