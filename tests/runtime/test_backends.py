"""The runner contract, and what ONNX Runtime's runner refuses to open or run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner, available_devices


def doubling_graph(shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> bytes:
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.fixture
def runner() -> Runner:
    return OnnxRuntimeRunner("double", doubling_graph(["batch", 2, 3]), {})


def test_a_runner_describes_itself_and_runs(runner: Runner):
    assert [(spec.name, spec.shape) for spec in runner.inputs] == [("x", (-1, 2, 3))]
    assert list(runner.outputs) == ["y"]
    assert runner.backend == f"onnxruntime {ort.__version__}"
    x = np.ones((4, 2, 3), np.float32)
    assert np.array_equal(runner.infer({"x": x})["y"], 2 * x)


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, r"double: input 'x' is missing; it takes x \(batch, 2, 3\)"),
        ({"x": np.ones((1, 2, 3))}, r"'x' is float64 \(1, 2, 3\), expected float32 \(batch, 2, 3\)"),
        ({"x": np.ones((2, 3), np.float32)}, "expected float32"),
        ({"x": np.ones((1, 3, 2), np.float32)}, "expected float32"),
    ],
)
def test_a_runner_refuses_what_the_graph_does_not_take(runner: Runner, feed: dict, message: str):
    with pytest.raises(InputError, match=message):
        runner.infer(feed)


def test_a_closed_runner_says_so_and_closes_twice(runner: Runner):
    with runner:
        pass
    runner.close()
    with pytest.raises(InputError, match="double is closed"):
        runner.infer({"x": np.ones((1, 2, 3), np.float32)})


def test_a_run_that_begins_while_another_thread_closes_says_closed(runner: Runner):
    runner._close()  # the moment between the check and the run
    with pytest.raises(InputError, match="double is closed"):
        runner.infer({"x": np.ones((1, 2, 3), np.float32)})


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"not a protobuf",
        doubling_graph(["batch", 2, 3])[:-9],
        doubling_graph(["batch", "steps", 3]),
        doubling_graph(["batch", 2, 3], TensorProto.DOUBLE),
    ],
    ids=["empty", "text", "truncated", "two dynamic axes", "float64"],
)
def test_a_model_that_is_damaged_or_breaks_the_contract_is_one_line_that_names_the_graph(model: bytes):
    with pytest.raises(BundleError, match=r"cannot load fusion\.fp32: .") as caught:
        OnnxRuntimeRunner("fusion.fp32", model, {})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("options", [{"k" * 5000: "1"}, {"session.x": "v" * 100_000}])
def test_session_options_that_onnx_runtime_refuses_are_a_bundle_error(options: dict[str, str]):
    with pytest.raises(BundleError, match="cannot load double"):
        OnnxRuntimeRunner("double", doubling_graph(["batch", 2, 3]), options)


def test_a_failure_inside_a_run_is_one_readable_error():
    runner = OnnxRuntimeRunner("double", doubling_graph([1, 2, 3]), {})
    with pytest.raises(InputError, match=r"double: ONNX Runtime failed: .") as caught:
        runner.infer({"x": np.ones((2, 2, 3), np.float32)})
    assert "\n" not in str(caught.value)


def test_a_device_that_onnx_runtime_silently_leaves_out_is_an_error(monkeypatch: pytest.MonkeyPatch):
    real = ort.InferenceSession

    def falls_back(model: bytes, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
        assert providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]
        return real(model, options, providers=providers[-1:])

    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    with pytest.raises(BundleError, match="cannot run double on cuda"):
        OnnxRuntimeRunner("double", doubling_graph(["batch", 2, 3]), {}, device="cuda")


def test_the_processor_is_always_a_device():
    assert "cpu" in available_devices()


def test_every_graph_of_a_bundle_has_its_own_first_axis_dynamic_alone(tiny_bundle: Path):
    for path in sorted((tiny_bundle / "graphs").glob("*.onnx")):
        for node in onnx.load(path, load_external_data=False).graph.input:
            dims = node.type.tensor_type.shape.dim
            assert [bool(dim.dim_param) for dim in dims] == [True] + [False] * (len(dims) - 1), path.name
