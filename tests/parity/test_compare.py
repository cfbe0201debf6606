"""Every verdict rule just inside and just outside its limit, and outputs that cannot be compared at all."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from dmdkit.parity.compare import (
    COMPRESSED_MAE_SHARE,
    COMPRESSED_MIN_AGREEMENT,
    COMPRESSED_MIN_CORRELATION,
    COMPRESSED_P99_ERROR_SD,
    EDGE_MAX_CHANGE,
    MIN_VERIFIED_SAMPLES,
    HopRecord,
    compare,
)
from dmdkit.runtime.self_check import FP32_MAX_ERROR

N = 100
WIDE = (-1e6, 1e6)  # a label range so wide that the rule on MAE never decides
SCORE = np.linspace(-3, 3, N).reshape(N, 1).astype(np.float32)
SD = float(SCORE.std())
Outputs = dict[str, np.ndarray]


def hop(before: Outputs, after: Outputs, precision: str = "int8-cpu", **options: Any) -> HopRecord:
    count = len(before["score"])
    labels = before["score"][:, 0] - 10  # on one side of every score: a shift moves each error by itself
    given: dict[str, Any] = {"task": "regression", "label_range": WIDE, "labels": labels} | options
    return compare("a", "b", before, after, precision=precision, ids=[f"s{i}" for i in range(count)], **given)


def test_the_limits_are_those_of_the_design():
    assert (FP32_MAX_ERROR, COMPRESSED_MIN_CORRELATION, COMPRESSED_P99_ERROR_SD) == (1e-4, 0.995, 0.25)
    assert pytest.approx(0.02) == COMPRESSED_MAE_SHARE * 6
    assert (COMPRESSED_MIN_AGREEMENT, EDGE_MAX_CHANGE, MIN_VERIFIED_SAMPLES) == (0.98, 0.02, 50)


@pytest.mark.parametrize(("factor", "status"), [(0.98, "passed"), (1.02, "failed")])
@pytest.mark.parametrize("scale", [0.1, 50.0])
def test_fp32_may_differ_by_1e_4_times_the_sd_where_that_is_above_one(factor: float, status: str, scale: float):
    before = (SCORE * scale).astype(np.float32)
    before[N // 2] = 0.0
    after = before.copy()
    after[N // 2] = factor * 1e-4 * max(1.0, float(before.std()))
    found = hop({"score": before}, {"score": after}, "fp32")
    assert found.status == status, found.reason
    assert found.worst_sample == f"s{N // 2}"
    assert status == "passed" or "max error" in found.reason


@pytest.mark.parametrize(("error", "status"), [(0.98e-4, "passed"), (1.02e-4, "failed")])
def test_fp32_judges_the_unimodal_logits_too(error: float, status: str):
    before = {"score": SCORE / 3, "logit_homo": np.zeros((N, 3, 1), np.float32)}
    found = hop(before, {**before, "logit_homo": before["logit_homo"] + np.float32(error)}, "fp32")
    assert found.status == status
    assert found.max_error == pytest.approx(error)


@pytest.mark.parametrize(("rho", "status"), [(0.9952, "passed"), (0.9948, "failed")])
def test_compressed_scores_correlate_with_fp32(rho: float, status: str):
    z = (SCORE[:, 0] - SCORE.mean()) / SCORE.std()
    other = np.where(np.arange(N) % 2, 1.0, -1.0)
    other -= z * (z @ other) / (z @ z)
    after = rho * z + math.sqrt(1 - rho**2) * other / other.std()
    found = hop({"score": z[:, None].astype(np.float32)}, {"score": after[:, None].astype(np.float32)})
    assert found.correlation == pytest.approx(rho, abs=1e-5)
    assert found.status == status, found.reason
    assert status == "passed" or found.reason.startswith("correlation")


@pytest.mark.parametrize(("factor", "status"), [(0.999, "passed"), (1.001, "failed")])
def test_compressed_scores_have_a_small_p99_error(factor: float, status: str):
    found = hop({"score": SCORE}, {"score": SCORE + np.float32(factor * 0.25 * SD)})
    assert found.status == status
    assert status == "passed" or found.reason.startswith("p99 error")


@pytest.mark.parametrize(
    ("shift", "status"), [(0.0199, "passed"), (0.0201, "failed"), (-0.0199, "passed"), (-0.0201, "failed")]
)
@pytest.mark.parametrize("width", [6.0, 1.0])
def test_the_interval_of_the_change_in_mae_stays_within_a_share_of_the_label_range(shift: float, status: str, width: float):
    found = hop({"score": SCORE}, {"score": SCORE + np.float32(shift * width / 6)}, label_range=(0.0, width))
    assert found.status == status, found.reason
    assert found.metrics["mae"].interval == pytest.approx((shift * width / 6,) * 2, abs=1e-5)
    assert status == "passed" or found.reason.startswith("change in MAE")


@pytest.mark.parametrize(("flips", "status"), [(2, "passed"), (3, "failed")])
def test_compressed_classes_agree_on_98_of_100(flips: int, status: str):
    before = np.tile(np.array([0.0, 1.0, 0.5], np.float32), (N, 1))
    after = before.copy()
    after[:flips, 0] = 2.0
    labels = np.ones(N, np.int64)
    found = hop({"score": before}, {"score": after}, task="classification", label_range=None, labels=labels)
    assert found.status == status
    assert found.top1_agreement == pytest.approx(1 - flips / N)
    assert found.metrics["accuracy"].after == pytest.approx(1 - flips / N)


@pytest.mark.parametrize(("change", "status"), [(0.0199, "passed"), (0.0201, "failed")])
@pytest.mark.parametrize("precision", ["fp32", "int8-trt"])
@pytest.mark.parametrize("space", ["homo", "hetero"])
def test_no_edge_moves_by_more_than_0_02(change: float, status: str, precision: str, space: str):
    edges = np.full((N, 6), 1 / 6, np.float32)
    moved = edges.copy()
    moved[3, 4] += change
    before = {"score": SCORE, "edges_homo": edges, "edges_hetero": edges}
    found = hop(before, {**before, f"edges_{space}": moved}, precision)
    assert found.status == status
    assert {edge.space: edge.max_change for edge in found.edges}[space] == pytest.approx(change, rel=1e-4)


@pytest.mark.parametrize(("count", "status"), [(49, "unverified"), (50, "passed")])
def test_fewer_than_fifty_samples_prove_nothing(count: int, status: str):
    found = hop({"score": SCORE[:count]}, {"score": SCORE[:count]})
    assert found.status == status
    assert found.samples == count


def test_few_samples_are_enough_to_fail():
    assert hop({"score": SCORE[:5]}, {"score": SCORE[:5] + 1}, "fp32").status == "failed"


@pytest.mark.parametrize(("count", "status"), [(1, "unverified"), (49, "unverified"), (50, "failed")])
def test_few_samples_without_a_spread_say_nothing_either_way(count: int, status: str):
    same = np.full((count, 1), 0.5, np.float32)
    found = hop({"score": same}, {"score": same + np.float32(1e-3)}, labels=np.zeros(count, np.float32))
    assert found.status == status
    far = np.full((count, 6), 0.1, np.float32)
    edges = hop({"score": same, "edges_homo": far}, {"score": same, "edges_homo": far + np.float32(0.1)})
    assert edges.status == "failed", "edges are judged in their own unit"


def test_a_recorded_hop_is_never_passed_but_can_fail():
    assert hop({"score": SCORE}, {"score": SCORE}, "fp32", kind="recorded").status == "unverified"
    assert hop({"score": SCORE}, {"score": SCORE + 1}, "fp32", kind="recorded").status == "failed"


def test_a_simulated_hop_is_judged_like_a_measured_one():
    found = hop({"score": SCORE}, {"score": SCORE}, "int8-trt", kind="simulated")
    assert (found.status, found.kind) == ("passed", "simulated")


def test_compressed_regression_without_labels_is_unverified_because_mae_is_unknown():
    found = hop({"score": SCORE}, {"score": SCORE}, labels=None)
    assert found.status == "unverified"
    assert "labels" in found.reason
    assert found.metrics == {}
    assert hop({"score": SCORE}, {"score": SCORE}, "fp32", labels=None).status == "passed"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", ["score", "logit_homo", "edges_homo", "edges_hetero"])
@pytest.mark.parametrize("precision", ["fp32", "int8-cpu"])
def test_any_output_that_is_not_finite_fails_and_can_be_written_as_json(bad: float, output: str, precision: str):
    edges = np.full((N, 6), 1 / 6, np.float32)
    before = {"score": SCORE, "logit_homo": np.zeros((N, 3, 1), np.float32), "edges_homo": edges, "edges_hetero": edges}
    after = {name: array.copy() for name, array in before.items()}
    after[output][7] = bad
    found = hop(before, after, precision)
    assert found.status == "failed"
    assert f"{output} holds values that are not finite" in found.reason
    assert output != "score" or found.worst_sample == "s7"
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("output", ["score", "logit_hetero", "edges_homo"])
def test_a_missing_output_fails(output: str):
    before = {"score": SCORE, "logit_hetero": np.zeros((N, 3, 1), np.float32), "edges_homo": np.zeros((N, 6), np.float32)}
    found = hop(before, {name: array for name, array in before.items() if name != output})
    assert found.status == "failed"
    assert f"{output} missing from b" in found.reason


def test_an_output_of_another_shape_fails_instead_of_being_broadcast():
    found = hop({"score": SCORE}, {"score": SCORE[:, 0]})
    assert found.status == "failed"
    assert "shape (100,) in b, expected (100, 1)" in found.reason


def test_a_collapsed_score_fails_because_its_correlation_is_undefined():
    constant = np.full((N, 1), 0.1, np.float32)
    found = hop({"score": SCORE}, {"score": constant})
    assert found.status == "failed"
    assert "correlation is undefined" in found.reason


def test_every_missed_limit_is_named():
    found = hop({"score": SCORE}, {"score": -SCORE}, label_range=(-3.0, 3.0))
    assert [part.split(" ")[0] for part in found.reason.split("; ")] == ["correlation", "p99", "change"]
    assert found.sign_flips == N


def test_the_numbers_of_a_hop_are_the_textbooks():
    before, after = np.array([[3.0], [-4.0]], np.float32), np.array([[3.5], [-4.0]], np.float32)
    found = hop({"score": before}, {"score": after})
    assert (found.max_error, found.mean_error) == (0.5, 0.25)
    assert found.p99_error == pytest.approx(0.495)
    assert found.output_sd == 3.5
    assert found.cosine == pytest.approx((3 * 3.5 + 16) / (5 * math.sqrt(3.5**2 + 16)))
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.sign_flips == 0


def test_copies_of_one_sample_are_unverified_although_reordered_sums_give_them_a_spread():
    same = np.full((60, 1), 0.5, np.float32)
    same[32:] += np.float32(1e-7)  # another batch size, another order of sums
    options = {"labels": np.zeros(60, np.float32), "distinct": 1}
    found = hop({"score": same}, {"score": same + np.float32(1e-3)}, **options)
    assert (found.status, found.reason) == ("unverified", "1 different samples among 60, 50 are needed to prove anything")
    assert hop({"score": same}, {"score": same}, "fp32", **options).status == "unverified"
    assert hop({"score": same}, {"score": same + np.float32(1)}, "fp32", **options).status == "failed"


@pytest.mark.parametrize(("distinct", "status"), [(49, "unverified"), (50, "passed")])
def test_only_different_samples_count(distinct: int, status: str):
    assert hop({"score": SCORE}, {"score": SCORE}, distinct=distinct).status == status


def test_labels_on_one_side_of_zero_are_compared_around_the_middle_of_their_range() -> None:
    found = hop({"score": SCORE}, {"score": SCORE}, label_range=(1.0, 5.0))
    assert found.metrics["acc2_midpoint"].interval is not None
    assert "acc2_has_zero" not in found.metrics


ALTERNATING = np.where(np.arange(N) % 2, 1.0, -1.0).reshape(N, 1, 1)


def explained(rng: np.random.Generator) -> Outputs:
    logits = rng.normal(size=(2, N, 3, 1)).astype(np.float32)
    logits[0, :, 1] *= 0.01  # vision hardly says anything alone
    return {"score": SCORE, "logit_homo": logits[0], "logit_hetero": logits[1]}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("logit_homo", lambda x: -5 * x, r"logit_homo\[0\]: rms error"),
        ("logit_hetero", lambda x: 0 * x, r"logit_hetero\[0\]: rms error"),
        ("logit_hetero", lambda x: x[np.arange(N) ^ 1], r"logit_hetero\[0\]: rms error"),
        (
            "logit_homo",
            lambda x: x + 0.3 * np.float32([[1], [0], [0]]) * ALTERNATING,
            r"^logit_homo\[0\]: rms error \S+ > \S+$",
        ),
    ],
    ids=["other scale", "gone", "of another sample", "noise"],
)
def test_compressed_unimodal_logits_are_judged_one_by_one(name: str, change: Any, reason: str):
    before = explained(np.random.default_rng(0))
    found = hop(before, {**before, name: change(before[name]).astype(np.float32)})
    assert found.status == "failed"
    assert re.search(reason, found.reason), found.reason


def test_a_unimodal_logit_that_hardly_varies_may_err_by_little_against_the_score():
    before = explained(np.random.default_rng(0))
    noise = {"logit_homo": before["logit_homo"] + np.array([0.001, 0.02, 0.001], np.float32).reshape(3, 1)}
    found = hop(before, {**before, **noise})
    assert found.status == "passed", found.reason
    (small,) = [change for change in found.logits if change.name == "logit_homo[1]"]
    assert small.rms_error == pytest.approx(0.02, abs=1e-4)
    assert small.sd < 0.02


def test_a_cut_tail_of_a_unimodal_logit_does_not_ruin_the_rest():
    before = explained(np.random.default_rng(0))
    cut = {"logit_hetero": before["logit_hetero"].clip(-2.0, 2.0)}
    assert hop(before, {**before, **cut}).status == "passed"


def test_agreement_on_the_one_class_that_is_ever_predicted_proves_nothing():
    rng = np.random.default_rng(0)
    before = np.stack([rng.normal(3, 0.5, N), rng.normal(-3, 0.5, N)], axis=1).astype(np.float32)
    found = hop(
        {"score": before}, {"score": before * 1e-3}, task="classification", label_range=None, labels=np.zeros(N, np.int64)
    )
    assert found.top1_agreement == 1.0
    assert found.status == "failed"
    assert found.reason.startswith("p99 error")
