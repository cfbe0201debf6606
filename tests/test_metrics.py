"""Metrics against values worked out by hand and formulas written independently of the code under test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmdkit.metrics import classification_metrics, correlation, paired_bootstrap_interval, regression_metrics, weighted_f1


def test_mean_absolute_error_and_correlation_equal_the_hand_computed_values():
    found = regression_metrics([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["corr"] == pytest.approx(0.5)


def test_rounding_is_half_to_even_as_numpy_does():
    # 0.5 and -0.5 round to 0, 1.5 and 2.5 to 2: half-up rounding would give 0.25 here.
    found = regression_metrics([0.5, -0.5, 1.5, 2.5], [0.0, 0.0, 2.0, 2.0])
    assert found["acc7"] == 1.0


def test_accuracies_clip_at_three_two_and_one():
    found = regression_metrics([5.0, 1.6, 0.4, -9.0], [3.0, 3.0, 1.0, -1.0])
    # acc7: 3=3, 2!=3, 0!=1, -3!=-1; acc5: 2=2, 2=2, 0!=1, -2!=-1; acc3: 1=1, 1=1, 0!=1, -1=-1
    assert (found["acc7"], found["acc5"], found["acc3"]) == (0.25, 0.5, 0.75)


def test_the_two_binary_conventions_differ_on_zeros():
    predicted, truth = [0.5, 0.0, -1.0, -0.1, 2.0], [1.0, 0.0, -2.0, 0.0, 0.0]
    found = regression_metrics(predicted, truth)
    assert found["acc2_non_zero"] == 1.0  # only the labels 1 and -2 count
    assert found["acc2_has_zero"] == pytest.approx(4 / 5)  # -0.1 against a label of 0 is the one miss


def test_a_prediction_of_exactly_zero_is_positive_only_where_zeros_count():
    assert regression_metrics([0.0, 1.0], [1.0, -1.0])["acc2_non_zero"] == 0.0
    assert regression_metrics([0.0, -1.0], [1.0, -1.0])["acc2_has_zero"] == 1.0


def test_weighted_f1_equals_the_hand_computed_value():
    predicted, truth = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    # class 0: precision 1/2, recall 1/2, F1 1/2, support 2; class 1: 2/3, 2/3, 2/3, support 3
    assert weighted_f1(predicted, truth) == pytest.approx((2 * 0.5 + 3 * 2 / 3) / 5)


def test_weighted_f1_of_a_constant_prediction_counts_the_other_class_as_zero():
    assert weighted_f1(np.array([1, 1, 1, 1]), np.array([1, 1, 1, 0])) == pytest.approx(3 / 4 * (2 * 3 / (4 + 3)))


def test_a_class_that_only_the_prediction_has_carries_no_weight():
    assert weighted_f1(np.array([0, 2]), np.array([0, 0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1.7, 1e6 + 0.1])
def test_correlation_of_a_constant_is_undefined_whatever_its_rounding(constant: float):
    # ten times 0.1 has a mean that is not exactly 0.1
    assert correlation([constant] * 10, np.arange(10)) is None
    assert correlation(np.arange(10), [constant] * 10) is None
    assert regression_metrics([constant] * 10, np.arange(10.0))["corr"] is None


def test_correlation_of_one_value_is_undefined():
    assert correlation([1.0], [2.0]) is None


def test_metrics_of_labels_that_are_all_zero_leave_the_non_zero_convention_undefined():
    found = regression_metrics([1.0, -1.0], [0.0, 0.0])
    assert found["acc2_non_zero"] is None
    assert found["f1_non_zero"] is None
    assert found["acc2_has_zero"] == 0.5


@pytest.mark.parametrize("label_range", [None, (0.0, 1.0), (-1.0, 1.0)])
def test_seven_class_accuracy_is_left_out_off_its_scale(label_range: tuple[float, float] | None):
    assert not {"acc7", "acc5", "acc3"} & set(regression_metrics([0.5], [0.5], label_range))


@pytest.mark.parametrize(("predicted", "truth"), [([], []), ([1.0], [1.0, 2.0])])
def test_regression_metrics_refuse_unequal_or_no_samples(predicted: list[float], truth: list[float]):
    with pytest.raises(ValueError, match="as many predictions as labels"):
        regression_metrics(predicted, truth)


def test_classification_metrics_equal_the_hand_computed_values():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]))
    found = classification_metrics(logits, [0, 1, 1])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["cross_entropy"] == pytest.approx(-(np.log(0.7) + np.log(0.5) + np.log(0.3)) / 3)
    assert found["f1"] == pytest.approx((1 * 2 / 3 + 2 * 2 / 3) / 3)


def test_cross_entropy_of_huge_logits_is_finite():
    assert classification_metrics([[1e4, -1e4]], [1])["cross_entropy"] == pytest.approx(2e4)


@pytest.mark.parametrize(("logits", "truth"), [([1.0, 2.0], [0, 1]), ([[1.0, 2.0]], [0, 1]), (np.zeros((0, 2)), [])])
def test_classification_metrics_refuse_wrong_shapes(logits: object, truth: list[int]):
    with pytest.raises(ValueError, match="logits"):
        classification_metrics(logits, truth)  # type: ignore[arg-type]


def test_the_bootstrap_interval_of_no_change_is_zero():
    errors = np.random.default_rng(0).random(40)
    assert paired_bootstrap_interval(errors, errors) == (0.0, 0.0)


def test_the_bootstrap_interval_of_a_constant_shift_is_that_shift():
    errors = np.random.default_rng(0).random(40)
    assert paired_bootstrap_interval(errors, errors + 0.25) == pytest.approx((0.25, 0.25))


def test_the_bootstrap_interval_turns_round_with_the_sign_and_repeats():
    a, b = np.random.default_rng(1).random((2, 60))
    low, high = paired_bootstrap_interval(a, b)
    assert low < (b - a).mean() < high
    assert paired_bootstrap_interval(b, a) == pytest.approx((-high, -low))
    assert paired_bootstrap_interval(a, b) == (low, high)


def test_the_bootstrap_interval_is_as_wide_as_theory_says():
    change = np.random.default_rng(2).normal(size=400)
    low, high = paired_bootstrap_interval(np.zeros(400), change)
    assert high - low == pytest.approx(2 * 1.96 * change.std() / 20, rel=0.1)


def test_the_bootstrap_takes_another_statistic():
    a, b = np.zeros(50), np.r_[np.zeros(49), 1000.0]
    assert paired_bootstrap_interval(a, b, lambda values: np.median(values, axis=1)) == (0.0, 0.0)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0, 2.0], [1.0])])
def test_the_bootstrap_refuses_unequal_or_no_pairs(before: list[float], after: list[float]):
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap_interval(before, after)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-3, 3)), min_size=1, max_size=20))
def test_every_metric_is_a_number_in_its_range_or_none(pairs: list[tuple[float, float]]):
    found = regression_metrics([p for p, _ in pairs], [y for _, y in pairs])
    for name, value in found.items():
        if value is not None and name not in ("mae", "corr"):
            assert 0 <= value <= 1, name
        if name == "corr" and value is not None:
            assert -1 - 1e-9 <= value <= 1 + 1e-9


@pytest.mark.parametrize(("label_range", "middle"), [((1.0, 5.0), 3.0), ((0.0, 1.0), 0.5), ((-4.0, -2.0), -3.0)])
def test_labels_on_one_side_of_zero_are_divided_at_the_middle_of_their_range(label_range, middle):
    low, high = label_range
    found = regression_metrics([low, high, low, high], [low, high, high, middle], label_range)
    assert found["acc2_midpoint"] == 0.75
    assert not any("zero" in name for name in found), "every label has the same sign: such an accuracy would read 1"


def test_labels_on_both_sides_of_zero_keep_the_usual_names():
    found = regression_metrics([1.0, -1.0], [2.0, 3.0], (-1.0, 4.0))
    assert (found["acc2_has_zero"], "acc2_midpoint" in found) == (0.5, False)
