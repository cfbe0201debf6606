"""The student fusion path: what the score needs and nothing else, rewritten exactly for inference.

Each rewrite is one small function, so that the algebra can be read and tested by itself:

* :func:`compose_projection` one convolution per modality for projection and both encoders;
* :func:`fold_layer_norm` LayerNorm's scale and shift into the linear that follows;
* :func:`fold_query_scale` head_dim^-0.5 into the query rows;
* :class:`SourceKeysValues` keys and values of every layer, of both targets, from one product per source;
* the last layer of self and memory blocks computes only the last query;
* :class:`PadMask` decides once, from the raw input, which steps have a position (MODEL.md section 10).
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.model.dmd import CROSS_PAIRS, GRAPH_ORDER, Dmd, Standardise
from dmdkit.model.transformer import LAYER_NORM_EPS, EncoderBlock, EncoderLayer, attention_mask

__all__ = [
    "MASKED_SCORE",
    "Decoupled",
    "PadMask",
    "StudentModule",
    "compose_projection",
    "fold_layer_norm",
    "fold_query_scale",
]

MASKED_SCORE = -10000.0
"""Added to a forbidden attention score. Finite, because -inf keeps a Softmax in fp32 and breaks fp16 kernels; exp of it
is exactly 0 in fp32 and fp16 alike."""


def compose_projection(projection: Tensor, encoder: Tensor) -> Tensor:
    """The convolution equal to ``encoder`` (out, d, 1) after ``projection`` (d, D, k): (out, D, k)."""
    return torch.einsum("od,dik->oik", encoder.squeeze(-1).double(), projection.double()).float()


def fold_layer_norm(weight: Tensor, bias: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias (out,) that act on the bare normalised vector as the given ones act on LayerNorm's output."""
    folded = weight.double() * norm.weight.double()
    shift = bias.double() + weight.double() @ norm.bias.double()
    return folded.float(), shift.float()


def fold_query_scale(weight: Tensor, bias: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Query rows scaled by head_dim^-0.5, bias included, so that the graph need not scale."""
    scale = head_dim**-0.5
    return weight * scale, bias * scale


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


class Normalise(nn.Module):
    """LayerNorm without scale and shift; they were folded into the linear that follows."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)


class PadMask(nn.Module):
    """Which projected steps hold anything: 1.0 where any raw value under the kernel is not exactly zero.

    A module of its own, because fp16 conversion must leave it in fp32: a raw value of 1e-9 is not padding.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw features (B, T, D) -> float32 (B, T, 1) per raw step and (B, T', 1) per projected step."""
        step = (x.abs().amax(dim=-1, keepdim=True) > 0).to(torch.float32)
        if self.kernel == 1:
            return step, step
        return step, F.max_pool1d(step.transpose(1, 2), self.kernel, stride=1).transpose(1, 2)


class _ProjectSteps(nn.Module):
    """A convolution over steps without bias on (B, T, D); with a kernel of one step it is a plain product."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.one_step = weight.shape[2] == 1
        self.weight = nn.Parameter(weight.squeeze(-1) if self.one_step else weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T', out)."""
        if self.one_step:
            return F.linear(x, self.weight)
        return F.conv1d(x.transpose(1, 2), self.weight).transpose(1, 2)


class Decouple(nn.Module):
    """One modality from raw features to its scaled exclusive and common part, by one convolution.

    Args:
        dmd: The trained model.
        modality: Which one.
    """

    def __init__(self, dmd: Dmd, modality: str) -> None:
        super().__init__()
        projection = cast(Tensor, dmd.projection[modality].weight)
        encoders = torch.cat([cast(Tensor, dmd.exclusive_encoder[modality].weight), dmd.common_encoder.weight])
        self.width = dmd.shape.width
        # The blocks want sqrt(d) times their input (MODEL.md section 3), so the convolution gives that.
        weight = (compose_projection(projection, encoders) * math.sqrt(self.width)).detach()
        self.project = _ProjectSteps(weight)
        standardise = dmd.standardise[modality] if len(dmd.standardise) else None
        self.standardised = standardise is not None
        if isinstance(standardise, Standardise):
            self.register_buffer("mean", standardise.mean.clone())
            self.register_buffer("inverse_scale", 1 / standardise.scale)

    def forward(self, x: Tensor, step_present: Tensor) -> tuple[Tensor, Tensor]:
        """Raw (B, T, D) and presence (B, T, 1) -> sqrt(d) S_m and sqrt(d) C_m, each (B, T', d)."""
        if self.standardised:
            x = (x - cast(Tensor, self.mean)) * cast(Tensor, self.inverse_scale) * step_present
        parts = self.project(x)
        exclusive, common = parts.split(self.width, dim=-1)
        return exclusive, common


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, e) -> (B, H, T, e / H)."""
    return x.reshape(-1, x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


class Attention(nn.Module):
    """Scores, softmax, weighted sum and output projection on ready-made q, k, v."""

    mask: Tensor | None

    def __init__(self, layer: EncoderLayer, query_steps: int, source_steps: int) -> None:
        super().__init__()
        self.heads = layer.self_attn.heads
        self.out_proj = _linear(layer.self_attn.out_proj.weight, layer.self_attn.out_proj.bias)
        forbidden = attention_mask(query_steps, source_steps)
        self.register_buffer("mask", forbidden.float() * MASKED_SCORE if forbidden.any() else None, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q (B, T_q, e), k and v (B, T_k, e) -> (B, T_q, e)."""
        scores = _heads(q, self.heads) @ _heads(k, self.heads).transpose(-2, -1)
        if self.mask is not None:
            scores = scores + self.mask
        mixed = torch.softmax(scores, dim=-1) @ _heads(v, self.heads)
        mixed = mixed.transpose(1, 2).reshape(-1, q.shape[1], q.shape[2])
        return cast(Tensor, self.out_proj(mixed))


class FeedForward(nn.Module):
    """LayerNorm, linear, ReLU, linear, added back."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.fc1 = _linear(*fold_layer_norm(layer.fc1.weight, layer.fc1.bias, cast(nn.LayerNorm, layer.layer_norms[1])))
        self.fc2 = _linear(layer.fc2.weight, layer.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, e) -> (B, T, e)."""
        return x + cast(Tensor, self.fc2(F.relu(self.fc1(self.normalise(x)))))


def _folded_in_projection(layer: EncoderLayer) -> tuple[Tensor, Tensor]:
    """Packed in-projection (3e, e) and bias (3e,) with LayerNorm and the query scale folded in."""
    attention = layer.self_attn
    weight, bias = fold_layer_norm(attention.in_proj_weight, attention.in_proj_bias, cast(nn.LayerNorm, layer.layer_norms[0]))
    width = attention.out_proj.weight.shape[0]
    q_weight, q_bias = fold_query_scale(weight[:width], bias[:width], attention.head_dim)
    return torch.cat([q_weight, weight[width:]]), torch.cat([q_bias, bias[width:]])


class SelfLayer(nn.Module):
    """A layer of a self-attention block; with ``last_only`` it returns the last step alone."""

    def __init__(self, layer: EncoderLayer, steps: int, *, last_only: bool) -> None:
        super().__init__()
        weight, bias = _folded_in_projection(layer)
        self.width, self.last_only = layer.fc2.weight.shape[0], last_only
        self.normalise = Normalise()
        if last_only:
            self.query = _linear(weight[: self.width], bias[: self.width])
            self.key_value = _linear(weight[self.width :], bias[self.width :])
        else:
            self.query_key_value = _linear(weight, bias)
        # The last query may attend everywhere (its row of the causal mask is free).
        self.attention = Attention(layer, 1 if last_only else steps, 1 if last_only else steps)
        self.feed_forward = FeedForward(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, e) -> (B, T, e), or (B, 1, e) with ``last_only``."""
        normed, e = self.normalise(x), self.width
        if self.last_only:
            k, v = self.key_value(normed).split(e, dim=-1)
            x, q = x[:, -1:], self.query(normed[:, -1:])
        else:
            q, k, v = self.query_key_value(normed).split(e, dim=-1)
        attended = self.attention(q, k, v)
        return cast(Tensor, self.feed_forward(x + attended))


class SelfBlock(nn.Module):
    """A self or memory block on an embedded sequence; returns its last step."""

    def __init__(self, block: EncoderBlock, steps: int) -> None:
        super().__init__()
        layers = [cast(EncoderLayer, layer) for layer in block.layers]
        self.layers = nn.ModuleList([SelfLayer(layer, steps, last_only=i == len(layers) - 1) for i, layer in enumerate(layers)])
        self.norm = block.layer_norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, e) -> (B, e)."""
        for layer in self.layers:
            x = layer(x)
        return cast(Tensor, self.norm(x[:, 0]))


class CrossLayer(nn.Module):
    """A layer of a cross-modal block; its keys and values come ready-made."""

    def __init__(self, layer: EncoderLayer, steps: int, source_steps: int) -> None:
        super().__init__()
        weight, bias = _folded_in_projection(layer)
        width = layer.fc2.weight.shape[0]
        self.normalise = Normalise()
        self.query = _linear(weight[:width], bias[:width])
        self.attention = Attention(layer, steps, source_steps)
        self.feed_forward = FeedForward(layer)

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """X (B, T_q, e), k and v (B, T_k, e) -> (B, T_q, e)."""
        return cast(Tensor, self.feed_forward(x + self.attention(self.query(self.normalise(x)), k, v)))


class SourceKeysValues(nn.Module):
    """Keys and values of every layer of both blocks that read one source, from one product.

    In cross-modal blocks the source is the same at every layer; only LayerNorm's scale and shift differ, and those
    are folded.
    """

    def __init__(self, blocks: list[EncoderBlock]) -> None:
        super().__init__()
        weights, biases = [], []
        for block in blocks:
            for layer in block.layers:
                weight, bias = _folded_in_projection(cast(EncoderLayer, layer))
                weights.append(weight[block.width :])
                biases.append(bias[block.width :])
        self.width = blocks[0].width
        self.count = len(weights)
        self.normalise = Normalise()
        self.key_value = _linear(torch.cat(weights), torch.cat(biases))

    def forward(self, source: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Embedded source (B, T_k, e) -> (k, v), each (B, T_k, e), block by block and layer by layer."""
        parts = self.key_value(self.normalise(source)).split(self.width, dim=-1)
        return [(parts[2 * i], parts[2 * i + 1]) for i in range(self.count)]


class CrossBlock(nn.Module):
    """A cross-modal block: target queries, ready-made keys and values."""

    def __init__(self, block: EncoderBlock, steps: int, source_steps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([CrossLayer(cast(EncoderLayer, layer), steps, source_steps) for layer in block.layers])
        self.norm = block.layer_norm

    def forward(self, x: Tensor, keys_values: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Embedded target (B, T_q, e) -> (B, T_q, e)."""
        for layer, (k, v) in zip(self.layers, keys_values, strict=True):
            x = layer(x, k, v)
        return cast(Tensor, self.norm(x))


class Decoupled(nn.Module):
    """The shared front of every graph: raw features to embedded exclusive and common parts."""

    def __init__(self, dmd: Dmd) -> None:
        super().__init__()
        kernels, steps, width = dmd.shape.kernels.as_dict(), dmd.shape.projected_lengths, dmd.shape.width
        self.pad_mask = nn.ModuleDict({m: PadMask(kernels[m]) for m in GRAPH_ORDER})
        self.decouple = nn.ModuleDict({m: Decouple(dmd, m) for m in GRAPH_ORDER})
        for m in GRAPH_ORDER:
            table = cast(EncoderBlock, dmd.self_block[m]).positions
            assert table.shape[1] == width
            self.register_buffer(f"positions_{m}", table[1 : steps[m] + 1].clone(), persistent=False)

    def forward(self, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Raw features -> embedded exclusive parts, embedded common parts, and sqrt(d) C_m without positions."""
        exclusive, common, bare = {}, {}, {}
        for m in GRAPH_ORDER:
            step_present, present = self.pad_mask[m](features[m])
            s, c = self.decouple[m](features[m], step_present)
            positions = present * cast(Tensor, getattr(self, f"positions_{m}"))
            exclusive[m], common[m], bare[m] = s + positions, c + positions, c
        return exclusive, common, bare


class StudentModule(nn.Module):
    """The student fusion path in inference form; equal to the full model's ``output`` within rounding.

    Args:
        dmd: The trained model, in evaluation mode; it is not changed.
    """

    def __init__(self, dmd: Dmd) -> None:
        super().__init__()
        steps = dmd.shape.projected_lengths
        self.front = Decoupled(dmd)
        self.keys_values = nn.ModuleDict(
            {
                source: SourceKeysValues(
                    [cast(EncoderBlock, dmd.cross_block[t][source]) for t in self._targets(source)]  # type: ignore[index]
                )
                for source in GRAPH_ORDER
            }
        )
        self.cross = nn.ModuleDict(
            {
                target: nn.ModuleDict(
                    {s: CrossBlock(dmd.cross_block[target][s], steps[target], steps[s]) for s in sources}  # type: ignore[index]
                )
                for target, sources in CROSS_PAIRS.items()
            }
        )
        self.self_attention = nn.ModuleDict(
            {m: SelfBlock(cast(EncoderBlock, dmd.self_block[m]), steps[m]) for m in GRAPH_ORDER}
        )
        self.memory = nn.ModuleDict({m: SelfBlock(cast(EncoderBlock, dmd.memory_block[m]), steps[m]) for m in GRAPH_ORDER})
        for m in GRAPH_ORDER:
            table = cast(EncoderBlock, dmd.memory_block[m]).positions
            self.register_buffer(f"memory_positions_{m}", table[1 : steps[m] + 1].clone(), persistent=False)
        self.levels = dmd.shape.levels
        self.memory_scale = math.sqrt(2 * dmd.shape.width)
        self.gate, self.common_gate, self.readout = dmd.gate, dmd.common_gate, dmd.readout

    @staticmethod
    def _targets(source: str) -> list[str]:
        return [target for target, sources in CROSS_PAIRS.items() if source in sources]

    def fuse(self, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """The score (B, C), h_m (B, 2d) per modality, c (B, 3d), and sqrt(d) C_m (B, T', d) per modality."""
        exclusive, common, bare = self.front(features)
        keys_values = {
            (target, source): pairs
            for source in GRAPH_ORDER
            for target, pairs in zip(
                self._targets(source), _chunks(self.keys_values[source](exclusive[source]), self.levels), strict=True
            )
        }
        hidden = {}
        for target, sources in CROSS_PAIRS.items():
            crossed = [self.cross[target][s](exclusive[target], keys_values[target, s]) for s in sources]  # type: ignore[index]
            # Memory blocks have a position at every step: their input comes out of a LayerNorm, so it is never padding.
            positions = cast(Tensor, getattr(self, f"memory_positions_{target}"))
            hidden[target] = self.memory[target](torch.cat(crossed, dim=-1) * self.memory_scale + positions)
        c = torch.cat([self.self_attention[m](common[m]) for m in GRAPH_ORDER], dim=-1)
        gated = [torch.sigmoid(self.gate[m](hidden[m])) for m in GRAPH_ORDER]
        score, _, _ = self.readout(torch.cat([*gated, torch.sigmoid(self.common_gate(c))], dim=-1))
        return score, hidden, c, bare

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """Raw float32 features (B, T_m, D_m) -> score (B, C)."""
        return self.fuse({"text": text, "audio": audio, "vision": vision})[0]


def _chunks(items: list[tuple[Tensor, Tensor]], size: int) -> list[list[tuple[Tensor, Tensor]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
