"""Bundles that an earlier version wrote open in C++, and answer as they did."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest
from safetensors.numpy import load_file, save_file

from tests.older_files import BUNDLES, GRAPHS, assert_same_as_then, inputs_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "precision"), GRAPHS)
def test_a_bundle_of_0_1_gives_the_same_bits(native_bin: Path, tmp_path: Path, name: str, precision: str) -> None:
    save_file(inputs_of(name), tmp_path / "inputs.safetensors")
    options = ["--graph", precision, "--batch", "8", "--threads", "1", "--device", "cpu", "--explain"]
    files = ["--input", str(tmp_path / "inputs.safetensors"), "--output", str(tmp_path / "answers.safetensors")]
    command = [str(native_bin / "dmdkit-run"), str(BUNDLES / name), *options, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if json.loads(done.stdout)["backend"] != f"onnxruntime {ort.__version__}":
        pytest.skip("C++ and Python have different versions of ONNX Runtime here")
    found = load_file(tmp_path / "answers.safetensors")
    assert set(found) >= {"score", "explain_score", "logit_homo", "logit_hetero", "edges_homo", "edges_hetero"}
    assert_same_as_then(name, precision, found)
