"""Layers switched to INT8 in one session give what a graph lowered for real gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.graph.qdq import with_qdq
from dmdkit.calibration.lowerings import SIMULATE_QDQ, modelopt_scales, static_int8
from dmdkit.calibration.ranges import METHODS, Statistics, observe, scale_of
from dmdkit.calibration.search.layer_toggles import LayerToggles
from dmdkit.calibration.search.sensitivity import LayerError, error_figures, rank, sensitivity
from dmdkit.errors import CalibrationError
from dmdkit.parity.int8_report import ErrorFigures
from dmdkit.runtime.backends.onnxruntime import cpu_session
from tests.conftest import tiny_dataset

Array = npt.NDArray[np.float32]
OUTPUTS = ["score", "edges_homo"]


@pytest.fixture(scope="module")
def explain(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "graphs/explain.fp32.onnx")


@pytest.fixture(scope="module")
def samples() -> dict[str, Array]:
    return tiny_dataset().splits["test"].features()


@pytest.fixture(scope="module")
def placed(explain: onnx.ModelProto) -> dict[str, dict[int, float]]:
    return modelopt_scales(explain, tiny_dataset().splits["train"].features())


@pytest.fixture(scope="module")
def board(explain: onnx.ModelProto, placed: dict[str, dict[int, float]]) -> LayerToggles:
    return LayerToggles(explain, placed, OUTPUTS)


def run(model: onnx.ModelProto, samples: dict[str, Array]) -> dict[str, Array]:
    session = cpu_session(model.SerializeToString(), SIMULATE_QDQ)
    return dict(zip(OUTPUTS, session.run(OUTPUTS, samples), strict=True))


def by_tensor(explain: onnx.ModelProto, placed: dict[str, dict[int, float]]) -> dict[str, float]:
    layers = {layer.name: layer for layer in layers_of(explain)}
    return {layers[name].activations[o]: scale for name, operands in placed.items() for o, scale in operands.items()}


def test_with_every_switch_off_it_is_the_fp32_graph(board, explain, samples):
    for name, found in board.run(samples).items():
        np.testing.assert_allclose(found, run(explain, samples)[name], atol=2e-6)


def test_with_every_switch_on_it_is_the_static_int8_graph(board, explain, samples, placed):
    found = board.run(samples, stored=board.stored, computed=board.computed, scales=by_tensor(explain, placed))
    lowered = run(static_int8(explain, placed).model, samples)
    for name in OUTPUTS:
        # A float that lies half way between two levels may round either way, so a few samples move by a level.
        assert np.percentile(np.abs(found[name] - lowered[name]), 90) < 2e-3, name
    assert np.abs(found["score"] - board.run(samples)["score"]).max() > 1e-3, "INT8 must do something"


def test_our_max_scales_are_modelopts(explain, placed):
    layers = {layer.name: layer for layer in layers_of(explain)}
    tensors = {layers[name].activations[operand] for name, operands in placed.items() for operand in operands}
    found = observe(explain, tensors, tiny_dataset().splits["train"].features())
    for tensor, scale in by_tensor(explain, placed).items():
        assert scale_of(found[tensor], "max") == pytest.approx(scale, rel=1e-4)


def test_a_layer_alone_moves_the_answer_less_than_all_and_an_unused_one_not_at_all(board, explain, samples, placed):
    scales = by_tensor(explain, placed)
    errors = sensitivity(board, samples, scales, layers=board.stored)
    assert set(errors) == set(board.stored)
    heads = [name for name in errors if name.startswith("/homo_head")]
    assert heads, "the explain graph has heads that the score does not need"
    assert all(errors[name].score.max == 0.0 for name in heads)
    assert any(errors[name].edges.max > 0 for name in heads if errors[name].edges)
    assert any(error.score.max > 0 for error in errors.values())


def test_known_layers_are_not_measured_again_and_no_time_measures_nothing(board, explain, samples, placed):
    scales, first = by_tensor(explain, placed), board.stored[0]
    known = {first: LayerError(ErrorFigures(max=9.0, p99=9.0), None)}
    heard: list[str] = []
    found = sensitivity(board, samples, scales, layers=board.stored[:3], known=known, found=lambda n, _: heard.append(n))
    assert found[first] == known[first]
    assert heard == list(board.stored[1:3])
    assert sensitivity(board, samples, scales, layers=board.stored, deadline=0.0) == {}


def test_ranking_weighs_score_and_edges_by_their_limits():
    def error(score: float, edges: float | None) -> LayerError:
        figures = ErrorFigures(max=edges, p99=edges) if edges is not None else None
        return LayerError(ErrorFigures(max=score, p99=score), figures)

    errors = {"a": error(0.1, None), "b": error(0.01, 0.02), "c": error(0.0, 0.0)}
    assert rank(errors, score_limit=0.2, edge_limit=0.02) == ["b", "a", "c"]


def test_an_answer_that_is_not_finite_ranks_as_the_worst():
    figures = error_figures(np.ones((2, 1), np.float32), np.array([[1.0], [np.nan]], np.float32))
    assert figures.max >= 1e29


def test_layers_and_scales_that_do_not_fit_are_refused(explain):
    with pytest.raises(CalibrationError, match="has no layer /nowhere"):
        with_qdq(explain, {"/nowhere": {0: 1.0}})
    name = layers_of(explain)[0].name
    for scale in (0.0, float("nan"), -1.0):
        with pytest.raises(CalibrationError, match="expected a positive number"):
            with_qdq(explain, {name: {0: scale}})


def statistics(values: Array) -> Statistics:
    largest = np.abs(values).max()
    counts, _ = np.histogram(np.abs(values[values != 0]), bins=2048, range=(0, largest))
    return Statistics(float(values.min()), float(values.max()), float((values == 0).mean()), counts)


def test_methods_clip_a_lonely_outlier_and_max_does_not():
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    values[0] = 40.0
    scales = {method: scale_of(statistics(values), method) for method in METHODS}
    assert scales["max"] == pytest.approx(40 / 127)
    assert scales["mse"] < scales["max"], "one value of 20,000 outweighs many small errors, but not all of them"
    for method in ("entropy", "percentile"):
        assert scales[method] < 0.6 * scales["max"], method
        assert scales[method] * 127 > 2.0, "it must not clip the bulk"


def test_a_tensor_of_zeros_has_a_harmless_scale():
    zero = Statistics(0.0, 0.0, 1.0, np.zeros(2048, np.int64))
    assert {scale_of(zero, method) for method in METHODS} == {1.0}


@pytest.mark.parametrize("scale", [1e-36, 1e-42])
def test_activations_next_to_zero_are_counted_like_others(explain, scale):
    features = tiny_dataset().splits["train"].features()
    small = {name: array * np.float32(scale) for name, array in features.items()}
    found, usual = (observe(explain, {"audio"}, given)["audio"].histogram for given in (small, features))
    assert found.sum() == usual.sum() == np.count_nonzero(features["audio"])
    assert found[-1] >= 1, "the largest stands in the last bin"
    if scale == 1e-36:
        assert np.abs(found - usual).sum() <= 0.01 * usual.sum()


def test_a_calibration_activation_that_is_not_finite_is_refused(explain):
    features = tiny_dataset().splits["train"].features()
    features["audio"][0, 0, 0] = np.inf
    tensors = {name for layer in layers_of(explain) for name in layer.activations.values()}
    with pytest.raises(CalibrationError, match="not finite"):
        observe(explain, tensors, features)
