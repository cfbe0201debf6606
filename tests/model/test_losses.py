"""Loss terms against slow, literal versions of docs/model.md section 6."""

import itertools
import math

import pytest
import torch

from dmdkit.model import GRAPH_ORDER, DmdSystem, loss_terms, total_loss
from dmdkit.model.gd_unit import EDGES, HOMO_PRIOR, prior
from dmdkit.model.losses import LossWeights, distillation_terms, margin, orthogonality
from tests.model.test_dmd import inputs_of, shape_of


def slow_margin(align: dict[str, torch.Tensor], labels: torch.Tensor, recipe: str, *, classes: bool) -> float:
    vectors = [(m, float(y), v) for m in GRAPH_ORDER for v, y in zip(align[m], labels, strict=True)]
    cos = lambda x, y: float(torch.nn.functional.cosine_similarity(x, y, dim=0))  # noqa: E731
    anchors = []
    for i, (modality, label, vector) in enumerate(vectors):
        others = [(m, y, v) for j, (m, y, v) in enumerate(vectors) if j != i]
        if recipe == "released":
            positives = [v for _, y, v in others if y == label]
            negatives = [(y, v) for _, y, v in others if y != label]
        else:
            positives = [v for m, y, v in others if y == label and m != modality]
            negatives = [(y, v) for m, y, v in others if y != label and m == modality]
        if not positives or not negatives:
            continue
        fixed = recipe == "paper" or classes
        hinges = [
            max(0.0, (0.15 if fixed else 0.15 * abs(label - y)) - cos(vector, p) + cos(vector, n))
            for p, (y, n) in itertools.product(positives, negatives)
        ]
        anchors.append(sum(hinges) / len(hinges))
    return sum(anchors) / len(anchors) if anchors else 0.0


@pytest.mark.parametrize("recipe", ["released", "paper"])
@pytest.mark.parametrize("classes", [False, True])
def test_vectorised_margin_equals_the_literal_triple_loop(recipe: str, classes: bool) -> None:
    torch.manual_seed(3)
    align = {m: torch.randn(6, 5) for m in GRAPH_ORDER}
    labels = torch.tensor([0, 1, 1, 2, 0, 2]) if classes else torch.tensor([0.5, -1.0, -1.0, 2.0, 0.5, 3.0])
    found = margin(align, labels, recipe, classes=classes)
    assert float(found) == pytest.approx(slow_margin(align, labels, recipe, classes=classes), abs=1e-6)


def test_margin_without_any_negative_is_zero_and_has_a_gradient() -> None:
    align = {m: torch.randn(3, 4, requires_grad=True) for m in GRAPH_ORDER}
    found = margin(align, torch.ones(3), "released", classes=False)
    found.backward()
    assert float(found.detach()) == 0.0
    assert torch.isfinite(align["text"].grad).all()


def test_orthogonality_is_across_the_batch_when_released_and_across_features_in_the_paper() -> None:
    torch.manual_seed(0)
    s, c = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    batch = torch.nn.functional.cosine_similarity(s, c, dim=0).clamp_min(0).mean()
    feature = torch.nn.functional.cosine_similarity(s, c, dim=2).clamp_min(0).mean()
    assert float(orthogonality(s, c, "released")) == pytest.approx(float(batch), abs=1e-6)
    assert float(orthogonality(s, c, "paper")) == pytest.approx(float(feature), abs=1e-6)


def test_prior_is_the_softmax_of_the_published_weights() -> None:
    weights = [math.exp(v / 0.25) for v in HOMO_PRIOR]
    assert prior(HOMO_PRIOR).tolist() == pytest.approx([w / sum(weights) for w in weights])


def test_only_the_teacher_is_detached_and_edges_carry_gradient() -> None:
    torch.manual_seed(0)
    logits = {m: torch.randn(4, 1, requires_grad=True) for m in GRAPH_ORDER}
    reprs = {m: torch.randn(4, 5, requires_grad=True) for m in GRAPH_ORDER}
    raw = torch.randn(4, 6, requires_grad=True)
    terms = distillation_terms(logits, reprs, torch.softmax(raw, 1), "released", "homo")
    terms["logit"].backward(retain_graph=True)
    assert raw.grad is not None
    assert raw.grad.abs().sum() > 0
    # d|l_s - l_t| reaches each modality only as a student, with the sign of its own difference.
    weights = torch.softmax(raw.detach(), 1) + prior(HOMO_PRIOR)
    expected = {m: torch.zeros(4, 1) for m in GRAPH_ORDER}
    for k, (student, teacher) in enumerate(EDGES):
        expected[student] += torch.sign(logits[student] - logits[teacher]).detach() * weights[:, k : k + 1] / 4
    for m in GRAPH_ORDER:
        assert torch.allclose(logits[m].grad, expected[m], atol=1e-6)


def test_paper_distillation_has_neither_prior_nor_regulariser_nor_representations() -> None:
    logits = {m: torch.randn(4, 1) for m in GRAPH_ORDER}
    edges = torch.softmax(torch.randn(4, 6), 1)
    terms = distillation_terms(logits, logits, edges, "paper", "hetero")
    slow = sum(float(((logits[s] - logits[t]).abs().squeeze(1) * edges[:, k]).mean()) for k, (s, t) in enumerate(EDGES))
    assert set(terms) == {"logit"}
    assert float(terms["logit"]) == pytest.approx(slow, abs=1e-6)


@torch.no_grad()
def test_released_total_leaves_the_homogeneous_representation_term_out() -> None:
    shape = shape_of()
    system = DmdSystem(shape).eval()
    terms = loss_terms(system(**inputs_of(shape)), torch.tensor([1.0, -1.0, 1.0]), "released")
    d = terms.distillation
    expected = (
        sum(terms.task.values())
        + 0.05 * (d["homo"]["logit"] + d["homo"]["reg"] + sum(d["hetero"].values()))
        + 0.1 * (sum(terms.cycle.values()) + sum(terms.reconstruction.values()))
        + 0.1 * 0.1 * (terms.margin + sum(terms.orthogonality.values()))
    )
    assert float(total_loss(terms, "released")) == pytest.approx(float(expected), rel=1e-6)
    without = total_loss(terms, "released", LossWeights(distillation=0, decoupling=0))
    assert float(without) == pytest.approx(float(sum(terms.task.values())), rel=1e-6)


@torch.no_grad()
def test_paper_reconstruction_is_a_squared_frobenius_norm_per_sample() -> None:
    shape = shape_of()
    out = DmdSystem(shape).eval()(**inputs_of(shape))
    terms = loss_terms(out, torch.tensor([1.0, -1.0, 1.0]), "paper")
    difference = out.model.projected["text"] - out.model.reconstructed["text"]
    assert float(terms.reconstruction["text"]) == pytest.approx(
        float(difference.flatten(1).norm(dim=1).square().mean()), rel=1e-5
    )


@torch.no_grad()
def test_classes_use_cross_entropy_for_all_eight_heads() -> None:
    shape = shape_of(outputs=3)
    out = DmdSystem(shape).eval()(**inputs_of(shape))
    labels = torch.tensor([0, 2, 1])
    terms = loss_terms(out, labels, "released", classes=True)
    assert len(terms.task) == 8
    assert float(terms.task["output"]) == pytest.approx(float(torch.nn.functional.cross_entropy(out.model.output, labels)))
