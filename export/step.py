"""The step graph: the student path for new steps alone, on keys and values of the steps before (docs/streaming.md).

It is made of the same folded layers as the window's graph. With equal projected lengths everything behind the projection is
causal, so what a step gives is the same whether its predecessors are computed again or were kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dmdkit.config import ModelShape
from dmdkit.errors import ExportError
from dmdkit.export.channel_major import MASKED_SCORE, FeedForward, UnitNormalise, grouped
from dmdkit.export.decoupling import Decoupling, Length
from dmdkit.export.rewrites import FoldedLayer
from dmdkit.export.stream_groups import fold_block, group_streams, memory_input, memory_positions
from dmdkit.export.student import ReadOut
from dmdkit.model.dmd import GRAPH_ORDER
from dmdkit.model.system import DmdSystem
from dmdkit.model.transformer import EncoderBlock
from dmdkit.records import streams_problem

__all__ = ["StateTensor", "StepModule", "state_of", "step_inputs", "step_output_names"]


class StateTensor(NamedTuple):
    """One tensor of a stream's state: keys or values of one layer, float32 (heads, their width, steps).

    Attributes:
        name: The input that holds it; ``new_`` and this name is the output with the new columns.
        heads: Attention heads of all streams of the layer, a stream's side by side.
        width: Channels of a head.
    """

    name: str
    heads: int
    width: int


def state_of(shape: ModelShape) -> list[StateTensor]:
    """The state, in the graph's order: nine streams of width d at each level, then three of width 2d."""
    width = shape.width // shape.heads
    levels = [
        StateTensor(f"{part}_{i}", 9 * shape.heads, width) for i in range(1, shape.levels + 1) for part in ("keys", "values")
    ]
    parts = ("memory_keys", "memory_values")
    memory_levels = range(1, shape.memory_levels + 1)
    return [*levels, *(StateTensor(f"{part}_{i}", 3 * shape.heads, 2 * width) for i in memory_levels for part in parts)]


def step_output_names(shape: ModelShape, *, gd_units: bool) -> list[str]:
    """Names of the step graph's outputs, in order."""
    edges = ["edges_hetero"] if gd_units else []
    return ["score", "logit_hetero", *edges, *(f"new_{tensor.name}" for tensor in state_of(shape))]


def step_inputs(shape: ModelShape, count: int) -> list[tuple[str, Tensor]]:
    """Seeded inputs of the step graph with ``count`` new steps and an empty state, by name, in order."""
    generator = torch.Generator().manual_seed(0)
    dims, kernel = shape.feature_dims.as_dict(), shape.kernels.text
    new = [(m, torch.randn(count, dims[m], generator=generator)) for m in dims]
    kept = [(f"recent_{m}", torch.randn(kernel - 1, dims[m], generator=generator)) for m in dims] if kernel > 1 else []
    capacity = shape.projected_lengths["text"]
    state = [(tensor.name, torch.zeros(tensor.heads, tensor.width, capacity)) for tensor in state_of(shape)]
    return [*new, *kept, ("steps", torch.zeros(1, dtype=torch.int64)), *state]


class StepLayer(nn.Module):
    """One layer of several streams for their new steps.

    Args:
        layers: One folded layer a stream.
    """

    def __init__(self, layers: Sequence[FoldedLayer]) -> None:
        super().__init__()
        self.streams, self.heads = len(layers), layers[0].heads
        self.head_width = layers[0].query.shape[1] // self.heads
        self.normalise = UnitNormalise(len(layers), layers[0].query.shape[1], any_steps=True)
        self.query = grouped([layer.query for layer in layers], [layer.query_bias for layer in layers])
        self.key = grouped([layer.key for layer in layers])
        self.value = grouped([layer.value for layer in layers])
        self.out = grouped([layer.out for layer in layers], [layer.out_bias for layer in layers])
        self.feed_forward = FeedForward(layers, any_steps=True)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(self.streams * self.heads, self.head_width, -1)

    def forward(self, x: Tensor, crossed: Tensor | None, past: tuple[Tensor, Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Centred streams (1, S*e, m) and source vectors (1, n*e, m) of the first n -> (1, S*e, m), new keys and values.

        ``past``: keys and values (S*H, e/H, T') of the steps before. ``mask``: what is added to scores, (m, T' + m).
        """
        y = self.normalise(x)
        source = y if crossed is None else torch.cat([crossed, y[:, crossed.shape[1] :]], dim=1)
        keys, values = self._heads(self.key(source)), self._heads(self.value(source))
        # Joining old and new costs less than two products of each.
        scores = self._heads(self.query(y)).transpose(1, 2) @ torch.cat([past[0], keys], dim=2) + mask
        mixed = torch.cat([past[1], values], dim=2) @ torch.softmax(scores, dim=-1).transpose(1, 2)
        x = x + self.out(mixed.reshape(1, self.streams * self.heads * self.head_width, -1))
        return self.feed_forward(x), keys, values


class StepPadMask(nn.Module):
    """:class:`~dmdkit.export.decoupling.PadMask` for any number of steps: the exporter's max-pooling fixes it."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw features (1, T, D) -> float32 (1, 1, T) for raw steps and (1, 1, T') for projected ones."""
        step = (x.abs().amax(dim=-1) > 0).to(torch.float32).unsqueeze(1)
        windows = [step[..., first : first + 1 - self.kernel or None] for first in range(self.kernel)]
        return step, torch.cat(windows, dim=1).amax(dim=1, keepdim=True)


class StepModule(nn.Module):
    """New steps and a state in, what each of those steps answers and its part of the state out.

    Args:
        system: The trained system, in evaluation mode; it is not changed.

    Raises:
        ExportError: The model is not causal behind its projection.
    """

    @torch.no_grad()
    def __init__(self, system: DmdSystem) -> None:
        super().__init__()
        dmd = system.dmd
        shape = dmd.shape
        problem = streams_problem(shape.lengths, shape.kernels)
        if problem:
            raise ExportError(f"this model cannot stream: {problem}")
        self.shape, self.width, self.capacity = shape, shape.width, shape.projected_lengths["text"]
        lengths = {m: Length(self.capacity) for m in GRAPH_ORDER}
        self.front = Decoupling(dmd, lengths)
        self.front.pad_mask = nn.ModuleDict({m: StepPadMask(shape.kernels.text) for m in GRAPH_ORDER})
        self.streams = group_streams(GRAPH_ORDER, lengths)
        self.crossed = [stream for stream in self.streams if stream.source is not None]
        blocks = [dmd.self_block[s.target] if s.source is None else dmd.cross_block[s.target][s.source] for s in self.streams]  # type: ignore[index]
        folded = [fold_block(block) for block in blocks]
        self.normalise_source = UnitNormalise(1, self.width, any_steps=True)
        self.layers = nn.ModuleList([StepLayer([layers[i] for layers in folded]) for i in range(shape.levels)])
        self.normalise = UnitNormalise(len(self.streams), self.width, any_steps=True)
        weights, biases = zip(*(memory_input(dmd, target) for target in GRAPH_ORDER), strict=True)
        self.into_memory = grouped(weights, biases)
        positions = torch.cat([memory_positions(dmd, target, lengths[target]) for target in GRAPH_ORDER])
        self.register_buffer("memory_positions", positions.float(), persistent=False)
        folded = [fold_block(dmd.memory_block[target]) for target in GRAPH_ORDER]
        self.memory = nn.ModuleList([StepLayer([layers[i] for layers in folded]) for i in range(shape.memory_levels)])
        self.normalise_memory = UnitNormalise(len(GRAPH_ORDER), 2 * self.width, any_steps=True)
        self.readout = ReadOut(dmd)
        self.heads = HeteroHeads(system)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs of :func:`step_inputs` -> the outputs of :func:`step_output_names`."""
        given = list(inputs)
        names = ("text", "audio", "vision")
        new = dict(zip(names, given[:3], strict=True))
        state = given[-2 * (len(self.layers) + len(self.memory)) :]
        steps, recent = given[-len(state) - 1], given[3 : -len(state) - 1]
        raw = {m: torch.cat([recent[i], new[m]]) if recent else new[m] for i, m in enumerate(names)}
        count = torch.arange(new["text"].shape[0])
        places = steps + count
        # A query sees what the state holds and, of the new steps, none after its own.
        past = (torch.arange(self.capacity) >= steps).unsqueeze(0).expand(count.shape[0], -1)
        mask = torch.cat([past, count.unsqueeze(0) > count.unsqueeze(1)], dim=1).float() * MASKED_SCORE
        decoupled = self.front({m: value.unsqueeze(0) for m, value in raw.items()}, places)
        sources = {m: self.normalise_source(decoupled.exclusive[m]) for m in GRAPH_ORDER}
        crossed = torch.cat([sources[cast(str, stream.source)] for stream in self.crossed], dim=1)
        own = [decoupled.exclusive[s.target] if s.source is not None else decoupled.common[s.target] for s in self.streams]
        x, rows = torch.cat(own, dim=1), []
        for layer in self.layers:
            x, *new_rows = layer(x, crossed, (state.pop(0), state.pop(0)), mask)
            rows += new_rows
        x = self.normalise(x)
        last_self = x[:, len(self.crossed) * self.width :]
        x = self.into_memory(x[:, : len(self.crossed) * self.width])
        x = x + cast(Tensor, self.memory_positions).index_select(1, places)
        for layer in self.memory:
            x, *new_rows = layer(x, None, (state.pop(0), state.pop(0)), mask)
            rows += new_rows
        # Each of the new steps is the last one of a window of its own.
        last_memory, last_self = (found.permute(2, 1, 0) for found in (self.normalise_memory(x), last_self))
        return self.readout(last_memory, last_self), *self.heads(last_memory), *rows


class HeteroHeads(nn.Module):
    """What each modality's exclusive part says alone, and the edges between them.

    Args:
        system: The trained system; it is not changed.
    """

    def __init__(self, system: DmdSystem) -> None:
        super().__init__()
        dmd = system.dmd
        norms = [cast(EncoderBlock, dmd.memory_block[m]).layer_norm for m in GRAPH_ORDER]
        scale = math.sqrt(2 * dmd.shape.width)
        self.register_buffer("scale", torch.stack([norm.weight for norm in norms]).detach() * scale)
        self.register_buffer("shift", torch.stack([norm.bias for norm in norms]).detach().clone())
        self.head, self.unit = dmd.hetero_head, system.hetero_gd

    def forward(self, last_memory: Tensor) -> tuple[Tensor, ...]:
        """Unit vectors (B, 3*2d, 1) in graph order -> logits (B, 3, C) and, with GD-Units, edges (B, 6)."""
        scale, shift = cast(Tensor, self.scale), cast(Tensor, self.shift)
        hidden = last_memory.reshape(-1, *scale.shape) * scale + shift
        found = [self.head[m](hidden[:, i]) for i, m in enumerate(GRAPH_ORDER)]
        logits = torch.stack([head[0] for head in found], dim=1)
        if self.unit is None:
            return (logits,)
        return logits, self.unit(logits, torch.stack([head[2] for head in found], dim=1))
