"""Weights as INT8 behind DequantizeLinear: what is stored, axes of the scales, bytes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from dmdkit.calibration import check_scales, store_weights_int8
from dmdkit.calibration.graph.analysis import (
    multiply_adds,
    share_computed_int8,
    share_stored_int8,
    weight_bytes,
    weights,
)
from dmdkit.calibration.graph.weight_storage import quantize_per_channel
from dmdkit.calibration.lowerings import SIMULATE_QDQ, modelopt_scales, static_int8
from dmdkit.errors import CalibrationError

GENERATOR = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], out: list[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def matmul() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    return model_of(nodes, {"w": normal(24, 16)}, [5, 24], [5, 16])


def gemm(transposed: int) -> onnx.ModelProto:
    w = normal(16, 24) if transposed else normal(24, 16)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "product", transB=transposed)]
    return model_of(nodes, {"w": w, "b": normal(16)}, [24], [16])


def conv(group: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "product", group=group, kernel_shape=[3])]
    return model_of(nodes, {"w": normal(16, 24 // group, 3), "b": normal(16)}, [24, 9], [16, 7])


MODELS = {
    "MatMul": (matmul(), 1, 5 * 24 * 16),
    "Gemm": (gemm(0), 1, 24 * 16),
    "Gemm transposed": (gemm(1), 0, 24 * 16),
    "Conv": (conv(1), 0, 7 * 16 * 24 * 3),
    "grouped Conv": (conv(4), 0, 7 * 16 * 6 * 3),
}


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    for key, value in SIMULATE_QDQ.items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def input_of(model: onnx.ModelProto) -> np.ndarray:
    return normal(3, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))


@pytest.mark.parametrize("name", MODELS)
def test_stored_weights_compute_what_their_dequantised_values_compute(name: str) -> None:
    model, axis, _ = MODELS[name]
    x, stored = input_of(model), store_weights_int8(model)
    weight = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w"))
    levels, scale = quantize_per_channel(weight, axis)
    rounded = (levels * scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])).astype(np.float32)
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    next(t for t in exact.graph.initializer if t.name == "w").CopyFrom(numpy_helper.from_array(rounded, "w"))
    np.testing.assert_allclose(run(stored, x), run(exact, x), atol=1e-5)
    assert np.abs(rounded - weight).max() <= scale.max() / 2 + 1e-7
    check_scales(stored)


@pytest.mark.parametrize("name", MODELS)
def test_coverage_counts_elements_bytes_and_work(name: str) -> None:
    model, _, work = MODELS[name]
    stored = store_weights_int8(model)
    assert share_stored_int8(model) == 0.0
    assert share_stored_int8(stored) == 1.0
    assert multiply_adds(model) == multiply_adds(stored) == work
    assert share_computed_int8(stored) == 0.0, "the arithmetic stays in float"
    elements = next(weights(model)).elements
    assert weight_bytes(model) == 4 * elements
    assert weight_bytes(stored) == elements + 4 * 16


def test_a_shared_weight_is_stored_once() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "one"), helper.make_node("MatMul", ["m", "w"], ["y"], "two")]
    stored = store_weights_int8(model_of(nodes, {"w": normal(8, 8)}, [4, 8], [4, 8]))
    assert [t.data_type for t in stored.graph.initializer if len(t.dims) == 2] == [TensorProto.INT8]
    assert sum(node.op_type == "DequantizeLinear" for node in stored.graph.node) == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_scale_on_a_reduction_axis_is_refused(name: str) -> None:
    model, axis, _ = MODELS[name]
    weight = next(t for t in model.graph.initializer if t.name == "w")
    wrong = 1 - axis
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    levels, scale = quantize_per_channel(numpy_helper.to_array(weight), wrong)
    broken.graph.initializer.append(numpy_helper.from_array(levels, "w8"))
    broken.graph.initializer.append(numpy_helper.from_array(scale, "s"))
    broken.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w8", "s"], ["wd"], "dq", axis=wrong))
    broken.graph.node[1].input[1] = "wd"
    with pytest.raises(CalibrationError, match="over which the product sums"):
        check_scales(broken)


def test_a_batched_weight_may_have_scales_on_its_last_axis_only() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "s"], ["w"], "dq", axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    levels, scale = quantize_per_channel(normal(3, 8, 6), 1)
    model = model_of(nodes, {"w8": levels, "s": scale}, [3, 5, 8], [3, 5, 6])
    with pytest.raises(CalibrationError, match="axis 1"):
        check_scales(model)


def test_an_all_zero_channel_has_scale_one_and_stays_zero() -> None:
    weight = normal(6, 4)
    weight[:, 2] = 0
    levels, scale = quantize_per_channel(weight, 1)
    assert scale[2] == 1.0
    assert not levels[:, 2].any()


def test_quantising_without_samples_is_refused_because_modelopt_would_use_random_ones() -> None:
    with pytest.raises(CalibrationError, match="random inputs"):
        modelopt_scales(matmul(), {})
    with pytest.raises(CalibrationError, match="random inputs"):
        modelopt_scales(matmul(), {"x": np.zeros((0, 5, 24), np.float32)})


@pytest.mark.slow
def test_static_lowering_computes_in_int8_and_leaves_its_input_alone() -> None:
    model = matmul()
    before = model.SerializeToString()
    samples = {"x": normal(40, 5, 24)}
    lowered = static_int8(model, modelopt_scales(model, samples))
    assert model.SerializeToString() == before
    assert share_computed_int8(lowered.model) == 1.0
    assert lowered.simulated_on_cpu
    found, exact = run(lowered.model, samples["x"]), run(model, samples["x"])
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.999
