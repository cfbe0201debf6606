"""Text graphs in INT8: smoothing is exact, integers are what they say, and outliers are what smoothing is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, TensorProto

from dmdkit.calibration.graph_facts import share_computed_int8, share_stored_int8, tables, weight_bytes
from dmdkit.calibration.smoothing import activations_of, best_strengths, smoothed, weight_products
from dmdkit.calibration.text_lowerings import (
    dynamic_products,
    lower_text_for_cpu,
    lower_text_for_tensorrt,
    store_tables_int8,
)
from dmdkit.errors import CalibrationError
from dmdkit.export.onnx_writer import check_contract
from dmdkit.export.text import text_graph
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.training.text import read_encoder_directory
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


def test_smoothing_changes_nothing_in_float(graph: ModelProto):
    activations = activations_of(graph, tokens(20))
    names = [weight.node.name for weight in weight_products(graph)]
    assert len(names) == 8
    for into_values in (False, True):
        same = smoothed(graph, activations, dict.fromkeys(names, 0.8), into_values=into_values)
        np.testing.assert_allclose(run(same, tokens(5, 1)), run(graph, tokens(5, 1)), rtol=0, atol=2e-5)
        assert sum(node.name.endswith("/Smooth") for node in same.graph.node) == (6 if into_values else 8)
    untouched = smoothed(graph, activations, dict.fromkeys(names))
    assert len(untouched.graph.node) == len(graph.graph.node)


def test_the_search_finds_outliers_and_leaves_even_activations_alone():
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(32, 16)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4, w]) for n, w in (("x", 32), ("y", 16))]
    body = helper.make_graph([node], "g", info[:1], info[1:], [numpy_helper.from_array(matrix, "w")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    even = generator.uniform(-1, 1, (16, 4, 32)).astype(np.float32)
    spiky = even.copy()
    spiky[:, :, 3] *= 100
    for dynamic in (True, False):
        errors = {}
        for name, values in (("even", even), ("spiky", spiky)):
            found = activations_of(model, {"x": values})  # type: ignore[dict-item]
            strengths = best_strengths(model, found, dynamic=dynamic)
            lowered = dynamic_products(smoothed(model, found, strengths))
            plain = dynamic_products(model)
            exact = values @ matrix
            errors[name] = [float(np.abs(run(m, {"x": values}) - exact).mean()) for m in (plain, lowered)]
            assert (strengths["product"] is not None) or name == "even"
        assert errors["spiky"][1] < errors["spiky"][0] / 3
        assert errors["even"][1] < errors["even"][0] * 1.2


def test_every_product_runs_in_integers_and_every_table_is_stored_in_them(graph: ModelProto):
    lowering = lower_text_for_cpu(graph, tokens(40))
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


@pytest.mark.parametrize("for_engine", [True, False])
def test_tables_gather_what_they_hold(graph: ModelProto, for_engine: bool):
    stored = store_tables_int8(graph, for_engine=for_engine)
    check_contract(stored)
    assert ("DequantizeLinear" in [node.op_type for node in stored.graph.node]) is for_engine
    np.testing.assert_allclose(run(stored, tokens(5)), run(graph, tokens(5)), rtol=0, atol=0.1)


def test_the_form_for_engines_has_static_ranges(graph: ModelProto):
    lowering = lower_text_for_tensorrt(graph, tokens(40))
    check_contract(lowering.model)
    kinds = {node.op_type for node in lowering.model.graph.node}
    assert "QuantizeLinear" in kinds
    assert not kinds & {"DynamicQuantizeLinear", "MatMulInteger"}
    assert share_stored_int8(lowering.model) == 1.0
    assert lowering.simulated_on_cpu
    found, expected = run(lowering.model, tokens(5, 1), **lowering.session_options), run(graph, tokens(5, 1))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("lower", [lower_text_for_cpu, lower_text_for_tensorrt])
def test_no_samples_are_refused(graph: ModelProto, lower):
    for nothing in ({}, {name: array[:0] for name, array in tokens(1).items()}):
        with pytest.raises(CalibrationError, match="no calibration samples"):
            lower(graph, nothing)
