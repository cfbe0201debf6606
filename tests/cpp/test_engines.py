"""Engine sidecars that Python writes are read by the C++ runtime; the GPU and TensorRT are a stand-in that CMake builds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import CheckRecord, PrecisionRecord
from tests.cpp.test_parity import run_tool
from tests.runtime.builders import golden_inputs
from tests.runtime.engines.test_choose import add_engine

PROVEN = {
    "check": CheckRecord(passed=True, samples=16, max_error=None, tolerance=1e-4, worst_output="score"),
    "precision": PrecisionRecord(
        layout="tensorrt-11", layers={"a": "FP32"}, expected_int8=0.5, found_int8=0.5, status="passed", reason="as asked"
    ),
}


def add_proven_engine(path: Path, **changes: object) -> None:
    """An engine for the stand-in, of the predicting fp32 graph, with every kind of entry in its sidecar."""
    shapes = [f"{name}={record.steps}x{record.features}" for name, record in Bundle.open(path).manifest.inputs.items()]
    plan = f"plan batch=4 score=1 | {' '.join(shapes)}".encode()
    values: dict[str, object] = {
        "flags": {"workspace_mib": 256, "strongly_typed": True, "note": "x"},
        "products": [{"name": "/a", "multiply_adds": 3, "int8": False}],
        "latency_ms": {"p50": 1.0},
        "notes": ["a note"],
    }
    add_engine(path, content=plan, **{**values, **PROVEN, **changes})


def test_cpp_opens_an_engine_by_the_sidecar_that_python_wrote(native_bin: Path, bundle_copy: Path, tmp_path: Path) -> None:
    backends = native_bin.parent / "test-backends"
    options = ("--backend", "fake_engines", "--backend-directory", backends, "--graph", "fp32")
    add_proven_engine(bundle_copy)
    done = run_tool(native_bin / "dmdkit-run", bundle_copy, *options, "--batch", 3)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers["backend"] == "tensorrt_rtx 1.7.1.116 (CUDA graph)"
    inputs = golden_inputs(bundle_copy)
    means = np.concatenate([array.reshape(len(array), -1) for array in inputs.values()], axis=1).mean(1)
    np.testing.assert_allclose(answers["score"]["values"], means, atol=1e-5)
    add_proven_engine(bundle_copy, check=None)  # as built without a GPU
    refused = run_tool(native_bin / "dmdkit-run", bundle_copy, *options)
    assert refused.returncode == 1
    assert "engine rtx-ada.fusion.fp32 has not run anywhere yet" in refused.stderr
