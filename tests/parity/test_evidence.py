"""The evidence of a hop counts every sample once and can be stripped of what is private."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from dmdkit.parity.compare import compare
from dmdkit.parity.evidence import MAX_POINTS, WORST_SAMPLES, ErrorHistogram, Evidence, evidence_of


def pair(count: int = 60, scale: float = 1e-3, width: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    before = generator.normal(size=(count, width)).astype(np.float32)
    return before, before + (scale * generator.normal(size=(count, width))).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"s{index}" for index in range(count)]


def test_every_sample_is_counted_once_between_the_bounds_that_hold_its_error():
    before, after = pair(200)
    after[:7] = before[:7]
    found = evidence_of(before, after, None, names(200)).histogram
    errors = np.abs(after.astype(np.float64) - before).max(1)
    assert found.exact == 7
    assert sum(found.counts) == 193
    for low, high, count in zip(found.bounds, found.bounds[1:], found.counts, strict=False):
        assert count == np.sum((errors >= low * (1 - 1e-5)) & (errors < high * (1 - 1e-5)))


def test_the_smallest_errors_share_the_lowest_bin_however_far_the_largest_is():
    before = np.zeros((4, 1), np.float32)
    after = np.array([[1e-30], [1e-20], [0], [1e30]], np.float32)
    found = evidence_of(before, after, None, names(4)).histogram
    assert found.exact == 1
    assert sum(found.counts) == 3
    assert len(found.counts) <= 48


def test_without_any_error_there_is_no_histogram_to_draw():
    before, _ = pair()
    found = evidence_of(before, before, None, names(60))
    assert found.histogram == ErrorHistogram(exact=60, bounds=[], counts=[])
    assert [sample.error for sample in found.worst] == [0.0] * WORST_SAMPLES


def test_the_worst_samples_come_first_with_their_values_and_labels():
    before, after = pair()
    after[11], after[42] = before[11] + 2, before[42] - 3
    labels = np.linspace(-3, 3, 60).astype(np.float32)
    worst = evidence_of(before, after, labels, names(60)).worst
    assert [sample.id for sample in worst[:2]] == ["s42", "s11"]
    assert worst[0].error == pytest.approx(3)
    assert worst[0].before == [pytest.approx(float(before[42, 0]), rel=1e-6)]
    assert worst[0].label == pytest.approx(float(labels[42]), rel=1e-6)


def test_a_large_set_is_thinned_and_keeps_its_worst_sample():
    before, after = pair(5000)
    after[1234] = before[1234] + 50
    found = evidence_of(before, after, None, names(5000))
    assert len(found.points) <= MAX_POINTS + 1
    assert max(abs(y - x) for x, y in found.points) == pytest.approx(50, rel=1e-4)
    assert sum(found.histogram.counts) + found.histogram.exact == 5000


def test_classes_give_the_logit_of_the_class_that_was_on_top():
    before = np.array([[0, 5, 1], [7, 2, 3]], np.float32)
    after = before + np.float32(0.5)
    assert evidence_of(before, after, None, names(2)).points == [(5.0, 5.5), (7.0, 7.5)]


def test_an_encoders_wide_output_is_not_written_out():
    before, after = pair(20, width=384)
    found = evidence_of(before, after, None, names(20))
    assert found.worst[0].before is None
    assert len(found.points) == 20
    assert len(found.model_dump_json()) < 4000


def test_without_values_only_counts_ids_and_errors_are_left():
    before, after = pair()
    labels = np.linspace(-3, 3, 60).astype(np.float32)
    found = evidence_of(before, after, labels, names(60)).without_values()
    assert found.points == []
    assert {(s.before, s.after, s.label) for s in found.worst} == {(None, None, None)}
    assert found.worst[0].id.startswith("s")
    text = found.model_dump_json()
    for value in (before[0, 0], after[0, 0], labels[0]):
        assert f"{float(value):.4g}" not in text
    assert Evidence.model_validate_json(text) == found


@pytest.mark.parametrize(
    "damage",
    [
        {"counts": [1, -1]},
        {"bounds": [1.0, 0.1, 2.0]},
        {"bounds": [0.1, 1.0]},
        {"exact": "many"},
        {"bounds": [0.1, 1.0, float("inf")]},
    ],
)
def test_a_damaged_histogram_is_refused(damage: dict[str, object]):
    good = {"exact": 0, "bounds": [0.1, 1.0, 10.0], "counts": [1, 2]}
    ErrorHistogram.model_validate(good)
    with pytest.raises(ValidationError):
        ErrorHistogram.model_validate({**good, **damage})


def test_a_hop_carries_its_limits_and_both_sides_of_its_edges():
    before, after = pair(60, 1e-3)
    edges = np.full((60, 6), 1 / 6, np.float32)
    other = edges.copy()
    other[:, 0] += np.float32(0.01)
    given = {"score": before, "edges_homo": edges}
    found = compare(
        "fusion.fp32",
        "explain.int8-cpu",
        given,
        {"score": after, "edges_homo": other},
        precision="int8-cpu",
        task="regression",
        label_range=(-3.0, 3.0),
        labels=np.zeros(60, np.float32),
        ids=names(60),
    )
    assert found.limits == {
        "correlation": 0.995,
        "p99_error": pytest.approx(0.25 * float(before.std()), rel=1e-5),
        "mae_change": pytest.approx(0.02),
        "edge_change": 0.02,
    }
    assert found.edges[0].before == pytest.approx([1 / 6] * 6)
    assert found.edges[0].after == pytest.approx([1 / 6 + 0.01, *[1 / 6] * 5])
    json.loads(found.model_dump_json(), parse_constant=pytest.fail)
