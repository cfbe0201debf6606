"""The front of every graph: raw features to embedded exclusive and common streams, and what counts as padding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.export.channel_major import Convolution
from dmdkit.export.rewrites import centre, compose_projection, worth_composing
from dmdkit.model.dmd import GRAPH_ORDER, Dmd, Standardise
from dmdkit.model.transformer import EncoderBlock

__all__ = ["Decouple", "Decoupled", "Decoupling", "Length", "PadMask", "centred_positions", "encoder_weights"]


class PadMask(nn.Module):
    """Which projected steps hold anything: 1.0 where any raw value under the kernel is not exactly zero.

    A module of its own, because fp16 conversion must leave it in fp32: a raw value of 1e-9 is not padding.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw features (B, T, D) -> float32 (B, 1, T) for raw steps and (B, 1, T') for projected ones."""
        step = (x.abs().amax(dim=-1) > 0).to(torch.float32).unsqueeze(1)
        return step, step if self.kernel == 1 else F.max_pool1d(step, self.kernel, stride=1)


def encoder_weights(dmd: Dmd, modality: str) -> tuple[Tensor | None, Tensor, Tensor]:
    """How one modality is decoupled: the projection (d, D, k) or None, then the exclusive and the common encoder.

    Where composing projection and encoders pays, there is no projection and the encoders, (d, D, k) each, read the features;
    else they read the projection and are (d, d, 1).
    """
    projection = cast(Tensor, dmd.projection[modality].weight).detach()
    encoders = [cast(Tensor, e.weight).detach().squeeze(-1) for e in (dmd.exclusive_encoder[modality], dmd.common_encoder)]
    if worth_composing(projection, sum(encoder.shape[0] for encoder in encoders)):
        exclusive, common = (compose_projection(projection, encoder) for encoder in encoders)
        return None, exclusive, common
    exclusive, common = (encoder.double().unsqueeze(-1) for encoder in encoders)
    return projection, exclusive, common


@dataclass(frozen=True)
class Length:
    """Steps of a stream: ``steps`` of the model after ``empty`` ones that only make streams equally long.

    Empty steps are in front, so that the last step is the last one of every stream. Nothing attends to them and nothing
    reads them; what they hold is finite and without meaning.
    """

    steps: int
    empty: int = 0

    @property
    def total(self) -> int:
        """Steps in the graph's tensors."""
        return self.steps + self.empty


def centred_positions(block: EncoderBlock, steps: int) -> Tensor:
    """The positions of ``steps`` steps as they enter the centred stream, float64 (e, steps)."""
    return centre(block.positions[1 : steps + 1].T)


class Decouple(nn.Module):
    """One modality from raw features to its embedded exclusive and common stream.

    Args:
        dmd: The trained model.
        modality: text, audio or vision.
        empty: Steps to put in front of its streams.
    """

    def __init__(self, dmd: Dmd, modality: str, empty: int = 0) -> None:
        super().__init__()
        projection, *encoders = encoder_weights(dmd, modality)
        self.width, self.empty = dmd.shape.width, empty
        self.project = Convolution(projection) if projection is not None else None
        # The blocks embed sqrt(d) times their input (docs/model.md section 3), so the convolution gives that.
        scale = math.sqrt(self.width)
        self.encode = Convolution(torch.cat([centre(encoder * scale) for encoder in encoders]))
        # The exclusive and the common part of a step get the same position.
        positions = centred_positions(cast(EncoderBlock, dmd.self_block[modality]), dmd.shape.projected_lengths[modality])
        self.register_buffer("positions", positions.repeat(2, 1).float(), persistent=False)
        standardise = dmd.standardise[modality] if len(dmd.standardise) else None
        self.standardised = isinstance(standardise, Standardise)
        if isinstance(standardise, Standardise):
            self.register_buffer("mean", standardise.mean.clone().unsqueeze(-1))
            self.register_buffer("inverse_scale", (1 / standardise.scale).unsqueeze(-1))

    def forward(
        self, x: Tensor, step_present: Tensor, present: Tensor, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Raw (B, T, D), presence (B, 1, T) and (B, 1, T') -> centred S, C (B, d, T' + empty), what their encoder reads.

        ``places``: int64 (T'), each projected step's number in the sequence; None: 0, 1, 2, ...
        """
        x = x.transpose(1, 2)
        if self.standardised:
            x = (x - cast(Tensor, self.mean)) * cast(Tensor, self.inverse_scale) * step_present
        source = x if self.project is None else self.project(x)
        positions = cast(Tensor, self.positions)
        embedded = self.encode(source) + present * (positions if places is None else positions.index_select(1, places))
        if self.empty:
            embedded = F.pad(embedded, (self.empty, 0))
        exclusive, common = embedded.split(self.width, dim=1)
        return exclusive, common, source


@dataclass(frozen=True)
class Decoupled:
    """What the front gives, by modality.

    Attributes:
        exclusive, common: Embedded S_m and C_m, centred, (B, d, T'), after their empty steps.
        source: What the encoders read: projected (B, d, T') or raw, perhaps standardised, features (B, D, T).
    """

    exclusive: dict[str, Tensor]
    common: dict[str, Tensor]
    source: dict[str, Tensor]


class Decoupling(nn.Module):
    """All three modalities.

    Args:
        dmd: The trained model.
        lengths: Each modality's projected steps, and the empty ones in front of them.
    """

    def __init__(self, dmd: Dmd, lengths: dict[str, Length]) -> None:
        super().__init__()
        kernels = dmd.shape.kernels.as_dict()
        self.pad_mask = nn.ModuleDict({m: PadMask(kernels[m]) for m in GRAPH_ORDER})
        self.decouple = nn.ModuleDict({m: Decouple(dmd, m, lengths[m].empty) for m in GRAPH_ORDER})

    def forward(self, features: dict[str, Tensor], places: Tensor | None = None) -> Decoupled:
        """Raw features (B, T_m, D_m) by modality -> :class:`Decoupled`; ``places`` as in :class:`Decouple`."""
        parts = {m: self.decouple[m](features[m], *self.pad_mask[m](features[m]), places) for m in GRAPH_ORDER}
        exclusive, common, source = ({m: part[i] for m, part in parts.items()} for i in range(3))
        return Decoupled(exclusive, common, source)
