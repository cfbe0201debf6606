"""The training benchmarks at work: steps that change weights, subsets of what they say."""

from __future__ import annotations

import pytest

from benchmarks.generated_sets import KINDS, RIDGE_CORRELATION, WIDTHS, generated, ridge_correlation
from benchmarks.learning_curve import subset
from benchmarks.training_step import main
from tests.conftest import tiny_dataset


@pytest.mark.slow
def test_the_step_benchmark_measures_every_kind_of_step(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["training_step", "--rounds", "1", "--sizes", "small, 8 steps"])
    main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["published loop", "fp32", "bf16"]
    assert rows[0].endswith("| 1.00 |")


def test_a_subset_has_the_samples_it_names_and_at_most_a_quarter_to_validate_on() -> None:
    whole = tiny_dataset()
    part = subset(whole, 48)
    assert {name: len(split) for name, split in part.splits.items()} == {"train": 48, "valid": 12, "test": 60}
    assert set(part.splits["train"].ids) < set(whole.splits["train"].ids)
    assert subset(whole, 48).splits["train"].ids == part.splits["train"].ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_set_has_the_sizes_it_promises_and_is_as_hard_for_ridge_as_it_says(kind: str) -> None:
    first, other = generated(16, 0, kind, test=60), generated(16, 1, kind, test=60)
    assert {name: len(split) for name, split in first.splits.items()} == {"train": 16, "valid": 10, "test": 60}
    assert first.feature_dims == WIDTHS
    assert 1 <= first.splits["test"].labels.min() < first.splits["test"].labels.max() <= 5
    assert (first.splits["train"].labels != other.splits["train"].labels).any()
    assert ridge_correlation(first) == pytest.approx(RIDGE_CORRELATION, abs=0.15)
