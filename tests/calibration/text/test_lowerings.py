"""Text graphs in INT8: smoothing is exact, integers are what they say, and outliers are what smoothing is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto

from dmdkit.calibration.graph.analysis import share_computed_int8, share_stored_int8, tables, weight_bytes
from dmdkit.calibration.lowerings import Lowering, modelopt_scales
from dmdkit.calibration.text.lowerings import (
    dynamic_products,
    lower_text_for_cpu,
    lower_text_for_tensorrt,
    store_tables_int8,
)
from dmdkit.calibration.text.smoothed_graph import smoothed
from dmdkit.calibration.text.smoothing import OUTLIERS, Preparation, activations_of, best_preparations, weight_products
from dmdkit.errors import CalibrationError
from dmdkit.export.onnx_writer import check_contract
from dmdkit.export.text_inference import text_graph
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.training.encoder_directory import read_encoder_directory
from tests.text_builders import MAX_TOKENS, VOCABULARY


@pytest.fixture(scope="module")
def encoder(text_data: Path) -> TextEncoder:
    return read_encoder_directory(text_data.parent / "bert").encoder("zero")


@pytest.fixture(scope="module")
def graph(encoder: TextEncoder) -> ModelProto:
    return text_graph(encoder, MAX_TOKENS)


def tokens(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    mask = (np.arange(MAX_TOKENS) >= MAX_TOKENS - generator.integers(1, MAX_TOKENS + 1, count)[:, None]).astype(np.int64)
    return {"input_ids": generator.integers(1, len(VOCABULARY), (count, MAX_TOKENS)) * mask, "attention_mask": mask}


def run(model: ModelProto, feed: dict[str, np.ndarray], **options: str) -> np.ndarray:
    settings = ort.SessionOptions()
    for key, value in options.items():
        settings.add_session_config_entry(key, value)
    return ort.InferenceSession(model.SerializeToString(), settings).run(None, feed)[0]


@pytest.mark.parametrize("padded_steps", ["zero", "encoded"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_graph_is_the_encoder(encoder: TextEncoder, padded_steps, activation):
    shape = encoder.shape.model_copy(update={"hidden_act": activation})
    own = TextEncoder.from_weights(shape, padded_steps, encoder.weights(), "here")
    model, feed = text_graph(own, MAX_TOKENS), tokens(5)
    if padded_steps == "encoded":
        feed = {name: np.ascontiguousarray(array[:, ::-1]) for name, array in feed.items()}
    with torch.no_grad():
        expected = own(*(torch.from_numpy(feed[name]) for name in ("input_ids", "attention_mask"))).numpy()
    np.testing.assert_allclose(run(model, feed), expected, rtol=0, atol=2e-6)
    check_contract(model)
    assert [output.name for output in model.graph.output] == ["text"]


def test_preparing_changes_nothing_in_float(graph: ModelProto):
    activations = activations_of(graph, tokens(20))
    names = [weight.node.name for weight in weight_products(graph)]
    assert len(names) == 8
    for preparation in (Preparation(0.8), Preparation(0.8, (1, 5)), Preparation(None, (0, 2, 3))):
        for into_values in (False, True):
            same = smoothed(graph, activations, dict.fromkeys(names, preparation), into_values=into_values)
            check_contract(same)
            np.testing.assert_allclose(run(same, tokens(5, 1)), run(graph, tokens(5, 1)), rtol=0, atol=2e-5)
            for_nothing = into_values and not preparation.outliers
            assert sum(node.name.endswith("/Smooth") for node in same.graph.node) == (6 if for_nothing else 8)
            assert sum(node.name.endswith("/Outliers/Gather") for node in same.graph.node) == (8 if preparation.outliers else 0)
    untouched = smoothed(graph, activations, dict.fromkeys(names, Preparation()))
    assert len(untouched.graph.node) == len(graph.graph.node)


def test_dividing_values_and_outliers_of_the_product_that_makes_them_go_together(graph: ModelProto):
    activations = activations_of(graph, tokens(20))
    names = [weight.node.name for weight in weight_products(graph)]
    both = {name: Preparation(0.8) if "/out/" in name else Preparation(0.5, (1, 5)) for name in names}
    same = smoothed(graph, activations, both, into_values=True)
    assert not any(node.name.endswith("/out/MatMul/Smooth") for node in same.graph.node)
    np.testing.assert_allclose(run(same, tokens(5, 1)), run(graph, tokens(5, 1)), rtol=0, atol=2e-5)


def product_graph(matrix: np.ndarray) -> ModelProto:
    from onnx import helper, numpy_helper

    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    widths = zip(("x", "y"), matrix.shape, strict=True)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4, w]) for n, w in widths]
    body = helper.make_graph([node], "g", info[:1], info[1:], [numpy_helper.from_array(matrix, "w")])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_search_finds_large_channels_and_leaves_even_activations_alone():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(32, 16)).astype(np.float32)
    model = product_graph(matrix)
    even = generator.uniform(-1, 1, (16, 4, 32)).astype(np.float32)
    spiky = even.copy()
    spiky[:, :, 3] *= 100
    for dynamic in (True, False):
        errors = {}
        for name, values in (("even", even), ("spiky", spiky)):
            found = activations_of(model, {"x": values})  # type: ignore[dict-item]
            preparations = best_preparations(model, found, dynamic=dynamic)
            lowered = dynamic_products(smoothed(model, found, preparations), ["product"])
            plain = dynamic_products(model, ["product"])
            exact = values @ matrix
            errors[name] = [float(np.abs(run(m, {"x": values}) - exact).mean()) for m in (plain, lowered)]
            assert (preparations["product"].strength is not None) or name == "even"
        assert errors["spiky"][1] < errors["spiky"][0] / 3
        assert errors["even"][1] < errors["even"][0] * 1.2


def test_single_large_values_stay_in_float_and_nothing_else_does():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(128, 16)).astype(np.float32)
    model = product_graph(matrix)
    values = generator.uniform(-1, 1, (16, 4, 128)).astype(np.float32)
    found = activations_of(model, {"x": values})  # type: ignore[dict-item]
    assert best_preparations(model, found, dynamic=True, outliers=4)["product"].outliers == ()
    values[:, 2, 7] = 300.0  # one step of each sample: dividing the channel would crush its other steps
    found = activations_of(model, {"x": values})  # type: ignore[dict-item]
    errors = []
    for outliers in (0, 4):
        preparations = best_preparations(model, found, dynamic=True, outliers=outliers)
        assert (7 in preparations["product"].outliers) is bool(outliers)
        lowered = dynamic_products(smoothed(model, found, preparations), ["product"])
        errors.append(float(np.abs(run(lowered, {"x": values}) - values @ matrix).mean()))
    assert errors[1] < errors[0] / 2


def test_a_channel_that_slept_through_calibration_may_wake():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(128, 16)).astype(np.float32)
    model = product_graph(matrix)
    awake = generator.uniform(-1, 1, (16, 4, 128)).astype(np.float32)
    awake[:, :, 3] *= 30  # so that smoothing is worth it
    asleep = awake.copy()
    asleep[:, :, 7] = 0
    found = activations_of(model, {"x": asleep})  # type: ignore[dict-item]
    preparations = best_preparations(model, found, dynamic=True)
    assert preparations["product"].strength is not None
    lowered = dynamic_products(smoothed(model, found, preparations), ["product"])
    errors = [float(np.abs(run(lowered, {"x": values}) - values @ matrix).mean()) for values in (asleep, awake)]
    assert errors[1] < 6 * errors[0]


def cpu_form(graph: ModelProto, in_float: list[str]) -> Lowering:
    activations = activations_of(graph, tokens(40))
    preparations = best_preparations(graph, activations, dynamic=True, outliers=OUTLIERS)
    return lower_text_for_cpu(graph, activations, preparations, in_float)


def test_every_product_runs_in_integers_and_every_table_is_stored_in_them(graph: ModelProto):
    lowering = cpu_form(graph, [])
    check_contract(lowering.model)
    kinds = [node.op_type for node in lowering.model.graph.node]
    assert kinds.count("MatMulInteger") == 8
    assert share_stored_int8(lowering.model) == 1.0
    assert share_computed_int8(lowering.model) > 0.8
    assert all(table.data_type == TensorProto.INT8 for _, table in tables(lowering.model))
    assert weight_bytes(lowering.model) < weight_bytes(graph) / 2
    assert not lowering.simulated_on_cpu
    found, expected = run(lowering.model, tokens(5, 1)), run(graph, tokens(5, 1))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_products_kept_in_float_are_stored_in_int8_all_the_same(graph: ModelProto):
    names = [weight.node.name for weight in weight_products(graph)]
    lowering = cpu_form(graph, names[:3])
    check_contract(lowering.model)
    assert [node.op_type for node in lowering.model.graph.node].count("MatMulInteger") == 5
    assert share_stored_int8(lowering.model) == 1.0
    found, expected = run(lowering.model, tokens(5, 1), **lowering.session_options), run(graph, tokens(5, 1))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("for_engine", [True, False])
def test_tables_gather_what_they_hold(graph: ModelProto, for_engine: bool):
    stored = store_tables_int8(graph, for_engine=for_engine)
    check_contract(stored)
    assert ("DequantizeLinear" in [node.op_type for node in stored.graph.node]) is for_engine
    np.testing.assert_allclose(run(stored, tokens(5)), run(graph, tokens(5)), rtol=0, atol=0.1)


def test_the_form_for_engines_has_static_ranges(graph: ModelProto):
    activations = activations_of(graph, tokens(40))
    ready = smoothed(graph, activations, best_preparations(graph, activations, dynamic=False))
    lowering = lower_text_for_tensorrt(ready, modelopt_scales(ready, tokens(40)))
    check_contract(lowering.model)
    kinds = {node.op_type for node in lowering.model.graph.node}
    assert "QuantizeLinear" in kinds
    assert not kinds & {"DynamicQuantizeLinear", "MatMulInteger"}
    assert share_stored_int8(lowering.model) == 1.0
    assert lowering.simulated_on_cpu
    found, expected = run(lowering.model, tokens(5, 1), **lowering.session_options), run(graph, tokens(5, 1))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_no_samples_are_refused(graph: ModelProto):
    for nothing in ({}, {name: array[:0] for name, array in tokens(1).items()}):
        with pytest.raises(CalibrationError, match="no calibration samples"):
            activations_of(graph, nothing)
