"""dmdkit-run built with AddressSanitizer and UndefinedBehaviorSanitizer, with ONNX Runtime loaded; `make sanitize` builds it.

A sanitizer that finds something ends the program with its report, so a clean exit is the finding that counts.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dmdkit.parity.compare import CPP_MAX_ERROR
from dmdkit.runtime import Runtime
from tests.conftest import ROOT
from tests.cpp import test_parity
from tests.cpp.conftest import SDK
from tests.cpp.test_streams import random_rows
from tests.stream_builders import KERNEL, STEPS

TOOL = ROOT / "build/asan/bin/dmdkit-run"
pytestmark = pytest.mark.slow


def run_tool(tool: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    # AddressSanitizer's own dlopen does not look where the plug-in's run path says.
    return test_parity.run_tool(tool, *arguments, LD_LIBRARY_PATH=str(SDK / "lib"))


@pytest.fixture(scope="module")
def sanitized() -> Path:
    if not TOOL.exists():
        pytest.skip("not built with sanitizers (make sanitize does)")
    return TOOL


@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
def test_predicting_and_explaining_is_clean(
    sanitized: Path,
    tiny_bundle: Path,
    samples_file: Path,
    test_samples: dict[str, np.ndarray],
    tmp_path: Path,
    graph: str,
    backend: str,
) -> None:
    out = tmp_path / "out.safetensors"
    options = ("--graph", graph, "--backend", backend, "--threads", 2, "--explain", "--batch", 7)
    done = run_tool(sanitized, tiny_bundle, *options, "--input", samples_file, "--output", out)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr
    with Runtime.open(tiny_bundle, graph=graph) as runtime:
        expected = runtime.predict(**test_samples).score
    int8_apart = backend == "native" and graph == "int8-cpu"  # activations are bytes; others, other batches
    np.testing.assert_allclose(load_file(out)["score"], expected, atol=0.05 if int8_apart else 10 * CPP_MAX_ERROR)


def test_self_check_and_bench_are_clean(sanitized: Path, tiny_bundle: Path) -> None:
    done = run_tool(sanitized, tiny_bundle, "--graph", "fp32", "--self-check", "--every-graph")
    assert done.returncode == 0, done.stderr[-4000:]
    done = run_tool(sanitized, tiny_bundle, "--graph", "fp32", "--bench", "--rounds", 500, "--threads", 2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["count"] == 500


def test_refusals_are_clean(sanitized: Path, bundle_copy: Path) -> None:
    graph = bundle_copy / "graphs/fusion.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    done = run_tool(sanitized, bundle_copy, "--graph", "fp32")
    assert done.returncode == 1, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr


@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
def test_streams_are_clean(sanitized: Path, real_bundle: Path, tmp_path: Path, graph: str, backend: str) -> None:
    samples = {name: np.stack([array, -array]) for name, array in random_rows(STEPS, 7).items()}
    save_file(samples, tmp_path / "samples.safetensors")
    options = ("--input", tmp_path / "samples.safetensors", "--stream", "--graph", graph, "--backend", backend)
    done = run_tool(sanitized, real_bundle, *options)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr
    assert len(done.stdout.splitlines()) == 2 * (STEPS - KERNEL + 1)
