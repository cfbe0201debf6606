"""The explaining graph: the score, what each modality says alone, and which modality teaches which."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmdkit.export.student import StudentModule
from dmdkit.model.dmd import GRAPH_ORDER
from dmdkit.model.system import DmdSystem

__all__ = ["ExplainModule", "explain_output_names"]


def explain_output_names(*, gd_units: bool) -> list[str]:
    """Names of the explain graph's outputs, in order."""
    return ["score", "logit_homo", "logit_hetero", *(["edges_homo", "edges_hetero"] if gd_units else [])]


class ExplainModule(nn.Module):
    """The student path with the homogeneous and heterogeneous heads and, where there are any, both GD-Units.

    Args:
        system: The trained system, in evaluation mode; it is not changed.
    """

    def __init__(self, system: DmdSystem) -> None:
        super().__init__()
        self.student = StudentModule(system.dmd)
        self.scale = 1 / math.sqrt(system.dmd.shape.width)
        self.homo_head, self.hetero_head = system.dmd.homo_head, system.dmd.hetero_head
        self.homo_gd, self.hetero_gd = system.homo_gd, system.hetero_gd

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> tuple[Tensor, ...]:
        """Raw float32 features (B, T_m, D_m) -> the outputs of :func:`explain_output_names`."""
        score, hidden, _, bare = self.student.fuse({"text": text, "audio": audio, "vision": vision})
        homo = [self.homo_head[m]((bare[m] * self.scale).flatten(1)) for m in GRAPH_ORDER]
        hetero = [self.hetero_head[m](hidden[m]) for m in GRAPH_ORDER]
        logit_homo = torch.stack([head[0] for head in homo], dim=1)
        logit_hetero = torch.stack([head[0] for head in hetero], dim=1)
        if self.homo_gd is None or self.hetero_gd is None:
            return score, logit_homo, logit_hetero
        return (
            score,
            logit_homo,
            logit_hetero,
            self.homo_gd(logit_homo, torch.stack([head[1] for head in homo], dim=1)),
            self.hetero_gd(logit_hetero, torch.stack([head[2] for head in hetero], dim=1)),
        )
