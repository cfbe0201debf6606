"""What training optimises and a run stores: the DMD model and its two GD-Units, under one state dictionary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmdkit.config import DropoutConfig, ModelShape
from dmdkit.model.dmd import GRAPH_ORDER, Dmd, DmdOutput
from dmdkit.model.gd_unit import GdUnit

__all__ = ["DmdSystem", "SystemOutput"]


class SystemOutput(NamedTuple):
    """The model's outputs and, where the system has GD-Units, the normalised edges, (B, 6) each."""

    model: DmdOutput
    edges_homo: Tensor | None
    edges_hetero: Tensor | None


class DmdSystem(nn.Module):
    """DMD with its GD-Units.

    Args:
        shape: All sizes.
        dropout: Probabilities, used while training.
        standardised: Whether features are standardised inside the model.
        gd_units: False for a published checkpoint, which never holds them.
    """

    def __init__(
        self,
        shape: ModelShape,
        dropout: DropoutConfig | None = None,
        *,
        standardised: bool = False,
        gd_units: bool = True,
    ) -> None:
        super().__init__()
        self.dmd = Dmd(shape, dropout, standardised=standardised)
        self.homo_gd = GdUnit(shape.num_outputs, shape.width, shape.gd_homo_width) if gd_units else None
        self.hetero_gd = GdUnit(shape.num_outputs, 2 * shape.width, shape.gd_hetero_width) if gd_units else None

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor, steps: Tensor | None = None) -> SystemOutput:
        """Computes every output from float32 features (B, T_m, D_m); ``steps`` as in :class:`Dmd`."""
        model: DmdOutput = self.dmd(text, audio, vision, steps)
        if self.homo_gd is None or self.hetero_gd is None:
            return SystemOutput(model, None, None)
        return SystemOutput(
            model,
            self.homo_gd(stack(model.logit_homo), stack(model.repr_homo)),
            self.hetero_gd(stack(model.logit_hetero), stack(model.repr_hetero)),
        )


def stack(by_modality: dict[str, Tensor]) -> Tensor:
    """Three tensors (B, n) as one (B, 3, n), in graph order."""
    return torch.stack([by_modality[name] for name in GRAPH_ORDER], dim=1)
