"""Groups: all streams of the student with the same number of steps run through their layers together.

With equal projected lengths there is one group: six cross-modal and three self streams, then three memory streams. Slightly
shorter modalities join it with empty steps in front; much shorter ones have a group of their own, of the streams whose
*target* they are. A group's streams share every linear layer and normalisation; attention, which also depends on the
source's steps, is split into spans of streams whose sources have equally many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.export.channel_major import Attend, FeedForward, LastLayer, UnitNormalise, grouped
from dmdkit.export.decoupling import Length, centred_positions
from dmdkit.export.rewrites import FoldedLayer, centre, fold_layer
from dmdkit.model.dmd import CROSS_PAIRS, GRAPH_ORDER, Dmd
from dmdkit.model.transformer import EncoderBlock, EncoderLayer, attention_mask

__all__ = [
    "Stream",
    "StreamGroup",
    "StreamGroupLayer",
    "fold_block",
    "group_lengths",
    "group_streams",
    "memory_input",
    "memory_positions",
    "stream_groups_of",
]


SHORTEST_IN_LANE = 0.8
"""A modality joins a group if it has at least this share of the group's steps. Empty steps cost their share of the linear
layers and its square of the attention; a group of its own costs about three times the nodes."""


def group_lengths(steps: dict[str, int]) -> dict[str, Length]:
    """Each modality's steps after as many empty ones as bring it to the length of its group."""
    lengths: dict[str, Length] = {}
    total = 0
    for modality in sorted(steps, key=lambda name: -steps[name]):
        if steps[modality] < SHORTEST_IN_LANE * total or not total:
            total = steps[modality]
        lengths[modality] = Length(steps[modality], total - steps[modality])
    return lengths


@dataclass(frozen=True)
class Stream:
    """One block of the model in a group; ``source`` is None for self-attention.

    Attributes:
        target: Modality whose steps are the queries.
        source: Modality whose steps are attended to.
        queries: Number of query steps.
        keys: How many steps they attend to.
    """

    target: str
    source: str | None
    queries: Length
    keys: Length

    def forbidden(self) -> Tensor:
        """Boolean (T_q, T_k) with empty steps: true where a query must not look."""
        mask = attention_mask(self.queries.steps, self.keys.steps)
        mask = F.pad(mask, (self.keys.empty, 0), value=True)
        # What an empty query sees does not matter.
        return torch.cat([mask[:1].expand(self.queries.empty, -1), mask])


def group_streams(targets: Sequence[str], lengths: dict[str, Length]) -> list[Stream]:
    """The cross-modal, then the self streams of ``targets``, those with equally long sources side by side."""
    own = lengths[targets[0]].total
    crossed = [Stream(t, source, lengths[t], lengths[source]) for t in targets for source in CROSS_PAIRS[t]]
    # Sources as long as the targets come last, next to the self streams; else the order is that of the memory blocks.
    seen = list(dict.fromkeys(stream.keys.total for stream in crossed))
    crossed.sort(key=lambda stream: (stream.keys.total == own, seen.index(stream.keys.total)))
    return [*crossed, *(Stream(t, None, lengths[t], lengths[t]) for t in targets)]


def fold_block(block: nn.Module) -> list[FoldedLayer]:
    """The folded layers of a trained :class:`EncoderBlock`."""
    return [fold_layer(cast(EncoderLayer, layer)) for layer in cast(EncoderBlock, block).layers]


class Span(nn.Module):
    """Attention of neighbouring streams with equally long sources.

    Args:
        layers: Folded layers, one a stream.
        streams: Streams of the span.
        start: The first one's place in the group.
    """

    def __init__(self, layers: Sequence[FoldedLayer], streams: Sequence[Stream], start: int) -> None:
        super().__init__()
        width = layers[0].query.shape[1]
        crossed = sum(stream.source is not None for stream in streams)
        self.channels = slice(start * width, (start + len(streams)) * width)
        self.own = slice((start + crossed) * width, (start + len(streams)) * width)
        self.sources = [stream.source for stream in streams if stream.source is not None]
        self.key = grouped([layer.key for layer in layers])
        self.value = grouped([layer.value for layer in layers])
        self.attend = Attend(layers[0].heads, torch.stack([stream.forbidden() for stream in streams]))

    def forward(self, q: Tensor, y: Tensor, crossed: Tensor | None) -> Tensor:
        """Q and y (B, S*e, T_q) of this span and of the whole group, source vectors (B, n*e, T_k) -> (B, S*e, T_q)."""
        own = [y if self.own == slice(0, y.shape[1]) else y[:, self.own]] if self.own.start < self.own.stop else []
        source = torch.cat([*([] if crossed is None else [crossed]), *own], dim=1)
        return cast(Tensor, self.attend(q, self.key(source), self.value(source)))


class StreamGroupLayer(nn.Module):
    """One layer of every stream of a group: attention, then feed-forward, each added back.

    Args:
        layers: One folded layer a stream.
        streams: The streams, ordered by :func:`group_streams`.
    """

    def __init__(self, layers: Sequence[FoldedLayer], streams: Sequence[Stream]) -> None:
        super().__init__()
        self.normalise = UnitNormalise(len(streams), layers[0].query.shape[1])
        self.query = grouped([layer.query for layer in layers], [layer.query_bias for layer in layers])
        self.spans = nn.ModuleList()
        for _, group in groupby(enumerate(streams), key=lambda item: item[1].keys.total):
            places, members = zip(*group, strict=True)
            self.spans.append(Span([layers[i] for i in places], members, places[0]))
        self.out = grouped([layer.out for layer in layers], [layer.out_bias for layer in layers])
        self.feed_forward = FeedForward(layers)

    @property
    def sources(self) -> list[list[str]]:
        """The modalities each span reads, in order; empty for a span of self streams."""
        return [cast(Span, span).sources for span in self.spans]

    def forward(self, x: Tensor, crossed: Sequence[Tensor | None]) -> Tensor:
        """Centred streams (B, S*e, T) and each span's source vectors (B, n*e, T_k) -> (B, S*e, T)."""
        y = self.normalise(x)
        q = self.query(y)
        spans = [cast(Span, span) for span in self.spans]
        sizes = [span.channels.stop - span.channels.start for span in spans]
        parts = torch.split(q, sizes, dim=1) if len(spans) > 1 else [q]
        attended = [span(part, y, source) for span, part, source in zip(spans, parts, crossed, strict=True)]
        x = x + self.out(torch.cat(attended, dim=1) if len(spans) > 1 else attended[0])
        return cast(Tensor, self.feed_forward(x))


class StreamGroup(nn.Module):
    """The cross-modal, self and memory streams of all targets with the same number of steps, empty ones included.

    Args:
        dmd: The trained model.
        targets: Those modalities, in graph order.
        lengths: Projected steps of every modality.
    """

    def __init__(self, dmd: Dmd, targets: Sequence[str], lengths: dict[str, Length]) -> None:
        super().__init__()
        self.targets, self.width = tuple(targets), dmd.shape.width
        streams = group_streams(targets, lengths)
        n = len(streams) - len(targets)
        self.crossed, alone = streams[:n], streams[n:]
        blocks = [dmd.self_block[s.target] if s.source is None else dmd.cross_block[s.target][s.source] for s in streams]  # type: ignore[index]
        folded = [fold_block(block) for block in blocks]
        padding = torch.stack([stream.forbidden()[-1] for stream in alone])
        levels = range(dmd.shape.levels - 1)
        self.layers = nn.ModuleList([StreamGroupLayer([layers[i] for layers in folded], streams) for i in levels])
        # Memory blocks read every step of the cross-modal streams, the read-out only the last one of the self streams.
        self.last_crossed = StreamGroupLayer([layers[-1] for layers in folded[:n]], self.crossed)
        self.last_self = LastLayer([layers[-1] for layers in folded[n:]], padding)
        self.normalise = UnitNormalise(n, self.width)

        places = {(stream.target, stream.source): place for place, stream in enumerate(self.crossed)}
        order = [places[target, source] for target in targets for source in CROSS_PAIRS[target]]
        self.register_buffer("order", None if order == sorted(order) else torch.tensor(order), persistent=False)
        weights, biases = zip(*(memory_input(dmd, target) for target in targets), strict=True)
        self.into_memory = grouped(weights, biases)
        positions = torch.stack([memory_positions(dmd, target, lengths[target]) for target in targets])
        shared = positions[:1] if (positions == positions[:1]).all() else positions
        self.register_buffer("memory_positions", shared.float(), persistent=False)
        folded = [fold_block(dmd.memory_block[target]) for target in targets]
        levels = range(dmd.shape.memory_levels - 1)
        self.memory = nn.ModuleList([StreamGroupLayer([layers[i] for layers in folded], alone) for i in levels])
        self.last_memory = LastLayer([layers[-1] for layers in folded], padding)

    def forward(
        self,
        exclusive: dict[str, Tensor],
        common: dict[str, Tensor],
        sources: dict[str, Tensor],
        last_step: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Centred S_m and C_m, unit vectors of S_m -> those of the last memory (B, n*2d, 1) and self step (B, n*d, 1).

        ``last_step``: as in :class:`LastLayer`.
        """
        crossed = torch.cat([exclusive[stream.target] for stream in self.crossed], dim=1)
        own = torch.cat([common[target] for target in self.targets], dim=1)
        last = self.last_crossed
        # A source is the same at every layer, so its streams are put side by side once.
        read = {tuple(names): torch.cat([sources[name] for name in names], dim=1) for names in last.sources}
        if len(self.layers):
            x = torch.cat([crossed, own], dim=1)
            for layer in self.layers:
                x = layer(x, [read.get(tuple(names)) for names in cast(StreamGroupLayer, layer).sources])
            crossed, own = torch.split(x, [crossed.shape[1], own.shape[1]], dim=1)
        crossed = self.normalise(last(crossed, [read[tuple(names)] for names in last.sources]))
        if self.order is not None:
            apart = crossed.reshape(-1, len(self.crossed), self.width, crossed.shape[2])
            crossed = apart.index_select(1, cast(Tensor, self.order)).reshape(-1, crossed.shape[1], crossed.shape[2])
        x = self.into_memory(crossed)
        embedded = x.reshape(-1, len(self.targets), 2 * self.width, x.shape[2]) + cast(Tensor, self.memory_positions)
        x = embedded.reshape(-1, x.shape[1], x.shape[2])
        for layer in self.memory:
            x = layer(x, [None])
        return self.last_memory(x, last_step), self.last_self(own, last_step)


@torch.no_grad()
def memory_input(dmd: Dmd, target: str) -> tuple[Tensor, Tensor]:
    """What takes unit vectors of a target's two cross-modal streams to its centred memory stream: (2d, 2d) and (2d,).

    The final LayerNorms of both streams, the factor sqrt(2d) and the centring in one.
    """
    norms = [cast(nn.LayerNorm, dmd.cross_block[target][source].layer_norm) for source in CROSS_PAIRS[target]]  # type: ignore[index]
    width = 2 * dmd.shape.width
    scale = torch.cat([norm.weight for norm in norms]).double() * dmd.shape.width**0.5
    shift = torch.cat([norm.bias for norm in norms]).double()
    return centre(torch.diag(scale * width**0.5)), centre(shift * width**0.5)


def memory_positions(dmd: Dmd, target: str, length: Length) -> Tensor:
    """Centred positions of a memory block, float64 (2d, T), zero at empty steps.

    Memory blocks have a position at every step: their input comes out of a LayerNorm, so it is never padding (docs/model.md
    section 10).
    """
    return F.pad(centred_positions(cast(EncoderBlock, dmd.memory_block[target]), length.steps), (length.empty, 0))


def stream_groups_of(dmd: Dmd, lengths: dict[str, Length]) -> list[StreamGroup]:
    """The groups of a model, targets in graph order."""
    totals = dict.fromkeys(lengths[m].total for m in GRAPH_ORDER)
    return [StreamGroup(dmd, [m for m in GRAPH_ORDER if lengths[m].total == total], lengths) for total in totals]
