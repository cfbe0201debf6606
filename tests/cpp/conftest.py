"""The C++ tools, built once (incrementally, where `make native` builds them) for the tests that compare languages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT, tiny_dataset

SDK = ROOT / "build/onnxruntime-sdk"
BUILD = ROOT / "build/native"


@pytest.fixture(scope="session")
def native_bin() -> Path:
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if not (SDK / "lib").is_dir():
        pytest.skip("no ONNX Runtime SDK in build/ (make native assembles it)")
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), f"-Donnxruntime_ROOT={SDK}"]
    for command in (configure, ["cmake", "--build", str(BUILD), "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return BUILD / "bin"


@pytest.fixture(scope="session")
def native_library() -> Path:
    """The native kernels alone, which need no ONNX Runtime."""
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    build = BUILD if BUILD.is_dir() else ROOT / "build/native-kernels"
    options = [] if BUILD.is_dir() else ["-DDMDKIT_BUILD_ONNXRUNTIME=OFF"]
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), *options]
    for command in (configure, ["cmake", "--build", str(build), "--parallel", "2", "--target", "dmdkit_native"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return build / "lib/libdmdkit_native.so"


@pytest.fixture(scope="session")
def test_samples() -> dict[str, np.ndarray]:
    split = tiny_dataset().splits["test"]
    return {"text": split.text, "audio": split.audio, "vision": split.vision}


@pytest.fixture(scope="session")
def samples_file(test_samples: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "test.safetensors"
    save_file(test_samples, path)
    return path
