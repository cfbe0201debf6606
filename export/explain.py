"""The explaining graph: the score, what each modality says alone, and which modality teaches which."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from dmdkit.export.channel_major import Convolution
from dmdkit.export.decoupling import encoder_weights
from dmdkit.export.student import StudentModule
from dmdkit.model.dmd import GRAPH_ORDER
from dmdkit.model.system import DmdSystem
from dmdkit.model.transformer import EncoderBlock

__all__ = ["ExplainModule", "explain_output_names"]


def explain_output_names(*, gd_units: bool) -> list[str]:
    """Names of the explain graph's outputs, in order."""
    return ["score", "logit_homo", "logit_hetero", *(["edges_homo", "edges_hetero"] if gd_units else [])]


class ExplainModule(nn.Module):
    """The student path with the homogeneous and heterogeneous heads and, where there are any, both GD-Units.

    Args:
        system: The trained system, in evaluation mode; it is not changed.
    """

    @torch.no_grad()
    def __init__(self, system: DmdSystem) -> None:
        super().__init__()
        dmd = system.dmd
        self.student = StudentModule(dmd)
        # The homogeneous heads want C_m itself, and the student's streams are centred: their mean is gone.
        self.common = nn.ModuleDict({m: Convolution(encoder_weights(dmd, m)[2]) for m in GRAPH_ORDER})
        norms = [cast(EncoderBlock, dmd.memory_block[m]).layer_norm for m in GRAPH_ORDER]
        scale = math.sqrt(2 * dmd.shape.width)
        self.register_buffer("memory_scale", torch.stack([norm.weight for norm in norms]).detach() * scale)
        self.register_buffer("memory_shift", torch.stack([norm.bias for norm in norms]).detach().clone())
        self.homo_head, self.hetero_head = dmd.homo_head, dmd.hetero_head
        self.homo_gd, self.hetero_gd = system.homo_gd, system.hetero_gd

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor, steps: Tensor | None = None) -> tuple[Tensor, ...]:
        """Raw float32 features (B, T_m, D_m), perhaps the number of real steps -> outputs as :func:`explain_output_names`."""
        fused = self.student.fuse({"text": text, "audio": audio, "vision": vision}, steps)
        scale, shift = cast(Tensor, self.memory_scale), cast(Tensor, self.memory_shift)
        hidden = fused.last_memory.reshape(-1, *scale.shape) * scale + shift
        # The heads on the common part flatten time-major.
        parts = {m: self.common[m](fused.decoupled.source[m]) for m in GRAPH_ORDER}
        if steps is not None:  # behind the real steps C_m is zero before anything flattens it
            places = torch.arange(parts["text"].shape[2])
            real = (places <= (steps - self.student.kernel).reshape(-1, 1, 1)).float()
            parts = {m: parts[m] * real for m in GRAPH_ORDER}
        common = {m: parts[m].transpose(1, 2).flatten(1) for m in GRAPH_ORDER}
        homo = [self.homo_head[m](common[m]) for m in GRAPH_ORDER]
        hetero = [self.hetero_head[m](hidden[:, i]) for i, m in enumerate(GRAPH_ORDER)]
        logit_homo = torch.stack([head[0] for head in homo], dim=1)
        logit_hetero = torch.stack([head[0] for head in hetero], dim=1)
        if self.homo_gd is None or self.hetero_gd is None:
            return fused.score, logit_homo, logit_hetero
        return (
            fused.score,
            logit_homo,
            logit_hetero,
            self.homo_gd(logit_homo, torch.stack([head[1] for head in homo], dim=1)),
            self.hetero_gd(logit_hetero, torch.stack([head[2] for head in hetero], dim=1)),
        )
