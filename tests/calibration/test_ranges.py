"""What the four methods make of activations: where each clips, and that both sides of zero count."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from dmdkit.calibration.ranges import Statistics, observe, scale_of

LEVELS = 127
BINS = 2048


def histogram(counts: dict[int, int], largest: float = 1.0) -> Statistics:
    """Statistics of so many magnitudes in some of the bins."""
    found = np.zeros(BINS, np.int64)
    for index, count in counts.items():
        found[index] = count
    return Statistics(-largest, largest, 0.0, found)


@pytest.mark.parametrize(("outliers", "clipped"), [(5, True), (50, False), (500, False)])
def test_the_percentile_method_gives_up_one_value_in_ten_thousand_and_no_more(outliers: int, clipped: bool) -> None:
    found = histogram({1023: 100_000 - outliers, BINS - 1: outliers})
    assert scale_of(found, "percentile") * LEVELS == pytest.approx(0.5 if clipped else 1.0)


def test_the_mse_method_weighs_what_it_clips_against_what_it_rounds() -> None:
    even = histogram(dict.fromkeys(range(BINS), 10))
    assert scale_of(even, "mse") * LEVELS > 0.9, "clipping a fifth of all values costs more than it gains"
    lonely = histogram({**dict.fromkeys(range(400), 10_000), BINS - 1: 1})
    assert scale_of(lonely, "mse") * LEVELS < 0.9, "one value in four million is not worth five times coarser levels"


def test_the_entropy_method_keeps_a_tail_that_is_a_part_of_the_distribution() -> None:
    tail = histogram({**dict.fromkeys(range(256), 100), **dict.fromkeys(range(1792, BINS), 100)})
    assert scale_of(tail, "entropy") * LEVELS > 0.8, "half of the values lie there"


def test_both_sides_of_zero_count_and_zeros_do_not() -> None:
    identity = helper.make_node("Identity", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([identity], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    samples = np.array([[-4.0, 0.0, 1.0, 2.0]] * 40, np.float32)  # more than one batch
    for name, found in observe(model, ["x", "y"], {"x": samples}).items():
        assert (found.minimum, found.maximum, found.largest, found.zero_share) == (-4.0, 2.0, 4.0, 0.25), name
        assert np.flatnonzero(found.histogram).tolist() == [BINS // 4, BINS // 2, BINS - 1], name
        assert found.histogram.sum() == 120, name
        assert scale_of(found, "max") == pytest.approx(4.0 / LEVELS)
