"""The training objective, term by term, in its published and its paper form (docs/model.md section 6).

Every term is a scalar. ``released`` follows the published code, ``paper`` the article; where they differ the
function has one branch or twin for each and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dmdkit.model.dmd import GRAPH_ORDER, DmdOutput
from dmdkit.model.gd_unit import EDGES, HETERO_PRIOR, HOMO_PRIOR, prior
from dmdkit.model.system import SystemOutput

__all__ = [
    "LossTerms",
    "LossWeights",
    "absence_distance",
    "cosine",
    "distillation_terms",
    "loss_terms",
    "margin",
    "orthogonality",
    "total_loss",
]

MARGIN_SCALE = 0.15
_COSINE_EPS = 1e-12
_REGULARISER_SCALE = 10.0
_REPRESENTATION_SCALE = 10.0

LossRecipe = Literal["released", "paper"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the groups of terms in the total."""

    distillation: float = 0.05
    decoupling: float = 0.1
    margin_and_orthogonality: float = 0.1


@dataclass(frozen=True)
class LossTerms:
    """Named scalar terms; ``distillation`` holds reg, logit and repr of both units (factor 10 included)."""

    task: dict[str, Tensor]
    reconstruction: dict[str, Tensor]
    cycle: dict[str, Tensor]
    orthogonality: dict[str, Tensor]
    margin: Tensor
    distillation: dict[str, dict[str, Tensor]]


def cosine(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Cosine along ``dim``, as the published code's PyTorch computes it: sum xy / sqrt((sum x^2 + e)(sum y^2 + e))."""
    return (x * y).sum(dim) / torch.sqrt((x.square().sum(dim) + _COSINE_EPS) * (y.square().sum(dim) + _COSINE_EPS))


def orthogonality(exclusive: Tensor, common: Tensor, recipe: LossRecipe, present: Tensor | None = None) -> Tensor:
    """Mean of max(0, cos(S, C)) of (B, T', d) parts, over the steps that are ``present`` (B, T') where that is given.

    ``released`` takes the cosine across the batch at each step and channel, which is what the published code does on
    its (T', B, d) layout; ``paper`` takes it across features, per step and sample.
    """
    found = cosine(exclusive, common, 0 if recipe == "released" else -1).clamp_min(0)
    if present is None:
        return found.mean()
    if recipe == "released":  # (T', d): a step counts where any sample has it
        return found.sum() / (present.amax(0).sum() * found.shape[1])
    return (found * present).sum() / present.sum()


def margin(align: dict[str, Tensor], labels: Tensor, recipe: LossRecipe, *, classes: bool) -> Tensor:
    """Triplet margin over the 3B alignment vectors, vectorised over all (anchor, positive, negative).

    Args:
        align: (B, d) per modality.
        labels: (B,).
        recipe: Decides what counts as positive and negative, and the margin.
        classes: Whether labels are classes; margins are then a fixed 0.15.

    Returns:
        The mean over anchors, that have a positive and a negative, of the mean hinge over their pairs; 0 without any.
    """
    vectors = torch.cat([align[m] for m in GRAPH_ORDER])
    batch = labels.shape[0]
    label = labels.repeat(len(GRAPH_ORDER))
    modality = torch.arange(len(GRAPH_ORDER), device=labels.device).repeat_interleave(batch)
    similarity = cosine(vectors.unsqueeze(0), vectors.unsqueeze(1), -1)
    same_label = label.unsqueeze(0) == label.unsqueeze(1)
    same_modality = modality.unsqueeze(0) == modality.unsqueeze(1)
    if recipe == "released":
        positive = same_label & ~torch.eye(len(label), dtype=torch.bool, device=labels.device)
        negative = ~same_label
    else:
        positive, negative = same_label & ~same_modality, ~same_label & same_modality
    scale = torch.full_like(similarity, MARGIN_SCALE)
    if recipe == "released" and not classes:
        scale = MARGIN_SCALE * (label.unsqueeze(0) - label.unsqueeze(1)).abs().type_as(similarity)
    # hinge[a, p, n] = max(0, scale[a, n] - similarity[a, p] + similarity[a, n])
    hinge = ((scale + similarity).unsqueeze(1) - similarity.unsqueeze(2)).clamp_min(0)
    pair = positive.unsqueeze(2) & negative.unsqueeze(1)
    pairs = pair.sum((1, 2))
    per_anchor = (hinge * pair).sum((1, 2)) / pairs.clamp_min(1)
    return per_anchor.sum() / (pairs > 0).sum().clamp_min(1)


def distillation_terms(
    logits: dict[str, Tensor],
    representations: dict[str, Tensor],
    edges: Tensor,
    recipe: LossRecipe,
    space: Literal["homo", "hetero"],
) -> dict[str, Tensor]:
    """reg, logit and repr of one GD-Unit; the teacher is detached inside a distance, the edges are not.

    Args:
        logits: (B, C) per modality.
        representations: (B, r) per modality.
        edges: Normalised edges (B, 6).
        recipe: ``paper`` has no prior in the weights, no reg and no repr.
        space: Decides the prior and the form of repr.
    """
    logit_distance = torch.stack(
        [(logits[student] - logits[teacher].detach()).abs().sum(-1) for student, teacher in EDGES], dim=-1
    )
    if recipe == "paper":
        return {"logit": (logit_distance * edges).mean(0).sum()}
    prior_weights = prior(HOMO_PRIOR if space == "homo" else HETERO_PRIOR).to(edges)
    weights = edges + prior_weights
    if space == "homo":
        distance = torch.stack([(representations[s] - representations[t].detach()).abs().sum(-1) for s, t in EDGES], dim=-1)
    else:
        # Averaged over the batch before weighting: the published code pushes the exclusive representations apart.
        distance = torch.stack(
            [cosine(representations[s], representations[t].detach(), -1).clamp_min(0).mean() for s, t in EDGES]
        )
    return {
        "reg": _REGULARISER_SCALE * (edges.mean(0) - prior_weights).square().sum(),
        "logit": (logit_distance * weights).mean(0).sum(),
        "repr": _REPRESENTATION_SCALE * (distance * weights).mean(0).sum(),
    }


def _task_terms(out: DmdOutput, labels: Tensor, *, classes: bool) -> dict[str, Tensor]:
    predictions = {"output": out.output, "common": out.logit_common}
    predictions |= {f"homo.{m}": out.logit_homo[m] for m in GRAPH_ORDER}
    predictions |= {f"hetero.{m}": out.logit_hetero[m] for m in GRAPH_ORDER}
    if classes:
        return {name: F.cross_entropy(logits, labels) for name, logits in predictions.items()}
    return {name: (value.squeeze(-1) - labels).abs().mean() for name, value in predictions.items()}


def absence_distance(student: Tensor, teacher: Tensor, absent: Tensor) -> Tensor:
    """Distance of the outputs (B, C) of samples that lack a modality from those of the same samples with all of them.

    Args:
        student: Outputs without some modalities.
        teacher: Outputs with all of them; no gradient passes through.
        absent: Which samples lack something, boolean (B,); the others count for nothing.

    Returns:
        The mean over the lacking samples: absolute difference of scores, or KL divergence of classes; 0 without any.
    """
    teacher = teacher.detach()
    if student.shape[1] == 1:
        each = (student - teacher).abs().squeeze(1)
    else:
        each = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True).sum(1)
    share = absent.to(each)
    return (each * share).sum() / share.sum().clamp_min(1)


def _distance(x: Tensor, y: Tensor, recipe: LossRecipe, present: Tensor | None) -> Tensor:
    squared = (x - y).square()  # exactly zero where no step is present
    if recipe == "paper":
        return squared.sum((1, 2)).mean()
    return squared.mean() if present is None else squared.sum() / (present.sum() * squared.shape[2])


def loss_terms(
    out: SystemOutput, labels: Tensor, recipe: LossRecipe, *, classes: bool = False, present: Tensor | None = None
) -> LossTerms:
    """Every term of the objective.

    Args:
        out: The system's outputs; without GD-Units there are no distillation terms.
        labels: float32 (B,) or int64 (B,) class numbers.
        recipe: ``released`` or ``paper``.
        classes: Whether the labels are classes.
        present: (B, T'), 1 at real steps, where the model was told how many there are.
    """
    model = out.model
    distillation = {}
    if out.edges_homo is not None and out.edges_hetero is not None:
        distillation = {
            "homo": distillation_terms(model.logit_homo, model.repr_homo, out.edges_homo, recipe, "homo"),
            "hetero": distillation_terms(model.logit_hetero, model.repr_hetero, out.edges_hetero, recipe, "hetero"),
        }
    return LossTerms(
        task=_task_terms(model, labels, classes=classes),
        reconstruction={m: _distance(model.projected[m], model.reconstructed[m], recipe, present) for m in GRAPH_ORDER},
        cycle={m: _distance(model.exclusive[m], model.exclusive_cycle[m], recipe, present) for m in GRAPH_ORDER},
        orthogonality={m: orthogonality(model.exclusive[m], model.common[m], recipe, present) for m in GRAPH_ORDER},
        margin=margin(model.align, labels, recipe, classes=classes),
        distillation=distillation,
    )


def total_loss(terms: LossTerms, recipe: LossRecipe, weights: LossWeights | None = None) -> Tensor:
    """The objective: task + distillation + decoupling, weighted as ``recipe`` says.

    ``released`` leaves the homogeneous representation term out, as the published code does.
    """
    weights = weights or LossWeights()
    zero = terms.margin.new_zeros(())
    distilled = sum(
        (
            value
            for space, unit in terms.distillation.items()
            for name, value in unit.items()
            if (space, name) != ("homo", "repr")
        ),
        start=zero,
    )
    structure = sum(terms.cycle.values(), start=zero) + sum(terms.reconstruction.values(), start=zero)
    separation = terms.margin + sum(terms.orthogonality.values(), start=zero)
    return (
        sum(terms.task.values(), start=zero)
        + weights.distillation * distilled
        + weights.decoupling * (structure + weights.margin_and_orthogonality * separation)
    )
