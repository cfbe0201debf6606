"""The cross-built runtime under qemu-user gives the answers of this machine; `make test-aarch64` builds it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dmdkit.runtime import Runtime
from dmdkit.runtime.self_check import FP32_TOLERANCE, INT8_TOLERANCE_SD
from tests.conftest import ROOT

TOOL = ROOT / "build/aarch64/bin/dmdkit-run"


@pytest.fixture(scope="module")
def emulated() -> list[str]:
    if not TOOL.exists():
        pytest.skip("not cross-built (make test-aarch64 does)")
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    return ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(TOOL)]


def test_self_check_passes_on_aarch64(emulated: list[str], tiny_bundle: Path) -> None:
    command = [*emulated, str(tiny_bundle), "--graph", "fp32", "--self-check", "--every-graph"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(json.dumps({check["graph"]: check["max_error"] for check in json.loads(done.stdout)["graphs"]}))


@pytest.mark.parametrize("graph", ["fp32", "int8-cpu"])
def test_aarch64_gives_the_answers_of_this_machine(
    emulated: list[str], tiny_bundle: Path, samples_file: Path, test_samples: dict[str, np.ndarray], tmp_path: Path, graph: str
) -> None:
    out = tmp_path / "out.safetensors"
    command = [
        *emulated,
        str(tiny_bundle),
        "--graph",
        graph,
        "--input",
        str(samples_file),
        "--batch",
        "20",
        "--output",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Runtime.open(tiny_bundle, graph=graph) as runtime:
        expected = runtime.predict(**test_samples).score
        tolerance = FP32_TOLERANCE if graph == "fp32" else INT8_TOLERANCE_SD * runtime.manifest.output_sd
    error = np.abs(load_file(out)["score"] - expected) / np.maximum(1, np.abs(expected) if graph == "fp32" else 1)
    print(f"{graph}: largest difference {error.max():.2e}")
    assert error.max() <= tolerance
