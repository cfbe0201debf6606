"""The student fusion path: what the score needs and nothing else, rewritten exactly for inference.

The algebra is in :mod:`dmdkit.export.rewrites`, the layout in :mod:`dmdkit.export.channel_major`; this file says how the
parts make the model: decouple, run every group of streams, read out.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmdkit.export.channel_major import UnitNormalise, grouped
from dmdkit.export.decoupling import Decoupled, Decoupling
from dmdkit.export.rewrites import fold_layer_norm, fold_residual_head
from dmdkit.export.stream_groups import StreamGroup, group_lengths, stream_groups_of
from dmdkit.model.dmd import GRAPH_ORDER, Dmd
from dmdkit.model.transformer import EncoderBlock

__all__ = ["Fused", "ReadOut", "StudentModule"]


class Fused(NamedTuple):
    """What the student path computes on the way to its score.

    Attributes:
        score: (B, C).
        last_memory: (B, 3*2d, 1) unit vectors of the memory blocks' last step, in graph order: h_m before the final
            LayerNorm's sqrt(2d), scale and shift.
        decoupled: Output of the decoupling front.
    """

    score: Tensor
    last_memory: Tensor
    decoupled: Decoupled


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    linear.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return linear


class ReadOut(nn.Module):
    """Gates on the last steps, then the output head; final LayerNorms are folded into the gates.

    Args:
        dmd: The trained model.
    """

    def __init__(self, dmd: Dmd) -> None:
        super().__init__()
        gates = [
            fold_layer_norm(cast(Tensor, dmd.gate[m].weight), cast(Tensor, dmd.gate[m].bias), _final_norm(dmd.memory_block[m]))
            for m in GRAPH_ORDER
        ]
        self.gate = grouped([weight for weight, _ in gates], [bias for _, bias in gates])
        columns = torch.split(dmd.common_gate.weight, dmd.shape.width, dim=1)
        nothing = torch.zeros_like(dmd.common_gate.bias)
        parts = [fold_layer_norm(w, nothing, _final_norm(dmd.self_block[m])) for w, m in zip(columns, GRAPH_ORDER, strict=True)]
        shift = torch.stack([shift for _, shift in parts]).sum(dim=0)
        self.common_gate = _linear(torch.cat([weight for weight, _ in parts], dim=1), dmd.common_gate.bias.double() + shift)
        self.proj1 = _linear(dmd.readout.proj1.weight, dmd.readout.proj1.bias)
        self.out = _linear(*fold_residual_head(dmd.readout.proj2, dmd.readout.out))

    def forward(self, last_memory: Tensor, last_self: Tensor) -> Tensor:
        """Unit vectors (B, 3*2d, 1) and (B, 3*d, 1) in graph order -> score (B, C)."""
        gated = [self.gate(last_memory).flatten(1), self.common_gate(last_self.flatten(1))]
        z = torch.sigmoid(torch.cat(gated, dim=1))
        return cast(Tensor, self.out(torch.cat([F.relu(self.proj1(z)), z], dim=1)))


def _final_norm(block: nn.Module) -> nn.LayerNorm:
    return cast(EncoderBlock, block).layer_norm


class StudentModule(nn.Module):
    """The student fusion path in inference form; equal to the full model's ``output`` within rounding.

    Args:
        dmd: The trained model, in evaluation mode; it is not changed.
    """

    @torch.no_grad()
    def __init__(self, dmd: Dmd) -> None:
        super().__init__()
        lengths = group_lengths(dmd.shape.projected_lengths)
        self.front = Decoupling(dmd, lengths)
        self.groups = nn.ModuleList(stream_groups_of(dmd, lengths))
        self.normalise = nn.ModuleDict({m: UnitNormalise(1, dmd.shape.width) for m in GRAPH_ORDER})
        self.readout = ReadOut(dmd)
        self.kernel = dmd.shape.kernels.text

    def fuse(self, features: dict[str, Tensor], steps: Tensor | None = None) -> Fused:
        """Raw float32 features (B, T_m, D_m) by modality -> the score and what explains it.

        ``steps``: int64 (B,), how many real steps stand in front; None: all are the model's.
        """
        last_step = None if steps is None else steps - self.kernel
        decoupled = self.front(features)
        sources = {m: self.normalise[m](decoupled.exclusive[m]) for m in GRAPH_ORDER}
        last_memory: dict[str, Tensor] = {}
        last_self: dict[str, Tensor] = {}
        for group in self.groups:
            targets = cast(StreamGroup, group).targets
            memory, own = group(decoupled.exclusive, decoupled.common, sources, last_step)
            last_memory |= zip(targets, memory.chunk(len(targets), dim=1), strict=True)
            last_self |= zip(targets, own.chunk(len(targets), dim=1), strict=True)
        memory, own = (torch.cat([last[m] for m in GRAPH_ORDER], dim=1) for last in (last_memory, last_self))
        return Fused(self.readout(memory, own), memory, decoupled)

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor, steps: Tensor | None = None) -> Tensor:
        """Raw float32 features (B, T_m, D_m), perhaps how many steps are real -> score (B, C)."""
        return self.fuse({"text": text, "audio": audio, "vision": vision}, steps).score
