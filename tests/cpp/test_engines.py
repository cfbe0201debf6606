"""Engine sidecars that Python writes are read by the C++ runtime; the GPU and TensorRT are a stand-in that CMake builds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dmdkit.files import sha256_of_bytes
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import CheckRecord, EngineRecord, PrecisionRecord, machine, write_engine
from tests.cpp.test_parity import run_tool
from tests.runtime.builders import golden_inputs

PROVEN = {
    "check": CheckRecord(passed=True, samples=16, max_error=None, tolerance=1e-4, worst_output="score"),
    "precision": PrecisionRecord(
        layout="tensorrt-11", layers={"a": "FP32"}, expected_int8=0.5, found_int8=0.5, status="passed", reason="as asked"
    ),
}


def add_engine(path: Path, **changes: object) -> None:
    bundle = Bundle.open(path)
    shapes = [f"{name}={record.steps}x{record.features}" for name, record in bundle.manifest.inputs.items()]
    plan = f"plan batch=4 score=1 | {' '.join(shapes)}".encode()
    values = {
        "target": "rtx-ada",
        "graph": "fusion.fp32",
        "graph_sha256": bundle.manifest.files["graphs/fusion.fp32.onnx"].sha256,
        "model_sha256": bundle.manifest.source.model_sha256,
        "flavour": "tensorrt_rtx",
        "version": "1.7.1.116",
        "compute_capabilities": ["8.6", "8.9"],
        "platform": machine(),
        "gpu": None,
        "driver": None,
        "plan": "rtx-ada.fusion.fp32.plan",
        "plan_sha256": sha256_of_bytes(plan),
        "plan_bytes": len(plan),
        "batch": (1, 1, 4),
        "flags": {"workspace_mib": 256, "strongly_typed": True, "note": "x"},
        "inputs": [],
        "outputs": [],
        "products": [{"name": "/a", "multiply_adds": 3, "int8": False}],
        "cache_key": "0" * 64,
        "built": "2026-01-01T00:00:00+00:00",
        "build_seconds": 1.0,
        "latency_ms": {"p50": 1.0},
        "notes": ["a note"],
    }
    write_engine(path / "engines", EngineRecord.model_validate({**values, **PROVEN, **changes}), plan, "log")


def test_cpp_opens_an_engine_by_the_sidecar_that_python_wrote(native_bin: Path, bundle_copy: Path, tmp_path: Path) -> None:
    backends = native_bin.parent / "test-backends"
    options = ("--backend", "fake_engines", "--backend-directory", backends, "--graph", "fp32")
    add_engine(bundle_copy)
    done = run_tool(native_bin / "dmdkit-run", bundle_copy, *options, "--batch", 3)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers["backend"] == "tensorrt_rtx 1.7.1.116 (CUDA graph)"
    inputs = golden_inputs(bundle_copy)
    means = np.concatenate([array.reshape(len(array), -1) for array in inputs.values()], axis=1).mean(1)
    np.testing.assert_allclose(answers["score"]["values"], means, atol=1e-5)
    add_engine(bundle_copy, check=None)  # as built without a GPU
    refused = run_tool(native_bin / "dmdkit-run", bundle_copy, *options)
    assert refused.returncode == 1
    assert "engine rtx-ada.fusion.fp32 has not run anywhere yet" in refused.stderr
