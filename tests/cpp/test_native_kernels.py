"""The native backend against ONNX Runtime on exported models, through the interface Python calls it by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from dmdkit.calibration import lower_for_cpu
from dmdkit.calibration.integer_cpu import Form
from dmdkit.config import ModelShape
from dmdkit.errors import BundleError, MissingLibraryError
from dmdkit.export.native_plan import replan, with_plan
from dmdkit.export.onnx_writer import graph_from_module
from dmdkit.export.student import StudentModule
from dmdkit.runtime.backends.native import LIBRARY_VARIABLE, NativeKernelsRunner, library_path, native_version
from dmdkit.runtime.backends.onnxruntime import OnnxRuntimeRunner
from tests.export.test_native_plan import system_of
from tests.model.test_dmd import shape_of

FP32_TOLERANCE = 1e-5
INT8_TOLERANCE = 0.02
"""Answers of these untrained models are about 0.5 in size; 7-bit activations cost about 0.005."""

SHAPES = {
    "aligned": shape_of(10, 2, 2, lengths=(20, 20, 20), kernels=(5, 5, 5), dims=(300, 7, 20)),
    "three lengths, classes, standardised": shape_of(
        9, 3, 1, lengths=(12, 60, 33), kernels=(1, 3, 2), dims=(30, 5, 6), outputs=3
    ),
    "one step, wide heads": shape_of(20, 1, 1, lengths=(5, 1, 2), kernels=(5, 1, 1), dims=(3, 2, 70)),
}


def features_of(shape: ModelShape, batch: int = 3) -> dict[str, np.ndarray]:
    generator, dims = np.random.default_rng(0), shape.feature_dims.as_dict()
    feed = {m: generator.normal(size=(batch, t, dims[m])).astype(np.float32) for m, t in shape.lengths.as_dict().items()}
    for array in feed.values():
        array[1:, : array.shape[1] // 3] = 0.0  # left padding
    feed["vision"][-1] = 0.0  # absent
    return feed


@pytest.fixture
def library(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(native_library))
    return native_library


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_native_kernels_give_the_answers_of_onnx_runtime(library: Path, name: str) -> None:
    shape = SHAPES[name]
    student = StudentModule(system_of(shape, standardised="classes" in name).dmd)
    examples = [(m, torch.from_numpy(features_of(shape)[m])) for m in ("text", "audio", "vision")]
    graph = with_plan(graph_from_module(student, examples, ["score"]), shape)
    feed, data = features_of(shape), graph.SerializeToString()
    expected = OnnxRuntimeRunner("fusion.fp32", data, {}).infer(feed)["score"]
    with NativeKernelsRunner("fusion.fp32", data) as native:
        assert native.inputs == OnnxRuntimeRunner("fusion.fp32", data, {}).inputs
        np.testing.assert_allclose(native.infer(feed)["score"], expected, atol=FP32_TOLERANCE)
    forms: dict[str, Form] = {f"/front/decouple/{m}/encode/Conv": "dynamic" for m in feed}
    lowered = replan(lower_for_cpu(graph, forms).model, graph)
    with NativeKernelsRunner("fusion.int8-cpu", lowered.SerializeToString()) as native:
        np.testing.assert_allclose(native.infer(feed)["score"], expected, atol=INT8_TOLERANCE)


def test_the_version_names_the_instruction_set(library: Path) -> None:
    assert library_path() == library
    version = native_version()
    assert version is not None
    assert version.startswith("native 1 (")


def test_a_graph_without_a_plan_is_one_clear_error(library: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])])
    with pytest.raises(BundleError, match=r"fusion\.fp32: .*export the bundle again"):
        NativeKernelsRunner("fusion.fp32", helper.make_model(graph).SerializeToString())


def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    if library_path() is None:
        assert native_version() is None
        with pytest.raises(MissingLibraryError, match=LIBRARY_VARIABLE):
            NativeKernelsRunner("fusion.fp32", b"")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert native_version() is None
    with pytest.raises(MissingLibraryError, match="build it"):
        NativeKernelsRunner("fusion.fp32", b"")
