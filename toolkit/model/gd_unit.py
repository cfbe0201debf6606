"""The graph distillation unit (paper, section 3.3; docs/model.md section 5): which modality should teach which."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmdkit.model.dmd import GRAPH_ORDER

__all__ = ["EDGES", "EDGE_TEMPERATURE", "HETERO_PRIOR", "HOMO_PRIOR", "GdUnit", "prior"]

EDGES = tuple((student, teacher) for student in GRAPH_ORDER for teacher in GRAPH_ORDER if student != teacher)
"""The six edges (student, teacher): text<-vision, text<-audio, vision<-text, vision<-audio, audio<-text, audio<-vision."""

EDGE_TEMPERATURE = 1 / 8
HOMO_PRIOR = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0)
HETERO_PRIOR = (0.0, 0.0, 1.0, 0.0, 1.0, 1.0)


def prior(weights: tuple[float, ...]) -> Tensor:
    """softmax(weights / 0.25), float32 (6,), in the order of :data:`EDGES`."""
    return torch.softmax(torch.tensor(weights) / 0.25, dim=0)


class GdUnit(nn.Module):
    """Edge weights from the three modalities' logits and representations.

    Args:
        num_outputs: C, logits per modality.
        representation: r, width of a representation.
        width: g, width of each embedded half.
    """

    students: Tensor
    teachers: Tensor

    def __init__(self, num_outputs: int, representation: int, width: int) -> None:
        super().__init__()
        self.logit = nn.Linear(num_outputs, width)
        self.representation = nn.Linear(representation, width)
        self.edge = nn.Linear(4 * width, 1)
        order = {name: index for index, name in enumerate(GRAPH_ORDER)}
        self.register_buffer("students", torch.tensor([order[s] for s, _ in EDGES]), persistent=False)
        self.register_buffer("teachers", torch.tensor([order[t] for _, t in EDGES]), persistent=False)

    def forward(self, logits: Tensor, representations: Tensor) -> Tensor:
        """Normalised edges, float32 (B, 6), from (B, 3, C) and (B, 3, r), modalities in :data:`GRAPH_ORDER`."""
        z = torch.cat([self.logit(logits), self.representation(representations)], dim=-1)
        pairs = torch.cat([z[:, self.students], z[:, self.teachers]], dim=-1)
        return torch.softmax(EDGE_TEMPERATURE * self.edge(pairs).squeeze(-1), dim=-1)
