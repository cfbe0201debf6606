"""One seed on real CMU-MOSI features, end to end: accuracy near the goal and INT8 parity on the test split."""

from pathlib import Path

import pytest

from benchmarks.mosi_accuracy import measure, ridge_baseline
from dmdkit.data import load_dataset


@pytest.mark.slow
def test_one_seed_trains_exports_and_passes_parity(mosi_clean: Path, tmp_path: Path) -> None:
    rows, found, hops = measure(mosi_clean, (2,), tmp_path)
    (metrics,) = found
    # The goal (MAE 0.92, Corr 0.57, Acc-2 0.74) is for the mean of three seeds (benchmarks/RESULTS.md); one seed on another
    # CPU may differ by a little.
    assert metrics["mae"] <= 0.95
    assert metrics["corr"] >= 0.55
    assert metrics["acc2_non_zero"] >= 0.72
    assert {hop["status"] for hop in hops} == {"passed"}
    assert len([row for row in rows if "passed, passed" in row]) == 1


def test_ridge_baseline_is_the_documented_one(mosi_clean: Path) -> None:
    values = ridge_baseline(load_dataset(mosi_clean))
    assert values["mae"] == pytest.approx(0.872, abs=0.02)
    assert values["corr"] == pytest.approx(0.582, abs=0.02)
