"""The DMD model, its GD-Units and its objective, in PyTorch."""

from dmdkit.model.dmd import CROSS_PAIRS, GRAPH_ORDER, Dmd, DmdOutput
from dmdkit.model.gd_unit import EDGES, GdUnit
from dmdkit.model.losses import LossTerms, LossWeights, absence_distance, loss_terms, total_loss
from dmdkit.model.system import DmdSystem, SystemOutput

__all__ = [
    "CROSS_PAIRS",
    "EDGES",
    "GRAPH_ORDER",
    "Dmd",
    "DmdOutput",
    "DmdSystem",
    "GdUnit",
    "LossTerms",
    "LossWeights",
    "SystemOutput",
    "absence_distance",
    "loss_terms",
    "total_loss",
]
