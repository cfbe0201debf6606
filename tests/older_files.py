"""What dmdkit 0.1 wrote, kept as it was: two small bundles with the answers they gave then, and the runs they came from.

``features`` takes features and has the INT8 forms; ``words`` has a text encoder and fp32 alone. Python and C++ gave the same
bits. No later version may rewrite these files: they stand for bundles on robots.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.conftest import ROOT

BUNDLES = ROOT / "tests/fixtures/bundles/0.1"
RUNS = ROOT / "tests/fixtures/finished_runs/0.1"
GRAPHS = [("features", "fp32"), ("features", "int8-cpu"), ("words", "fp32")]
WORDS = ["the film very good", "awful plot"]
"""What the answer ``score_of_words`` was given, with audio and vision of the first two samples."""

_KERNELS = {"avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "amx_int8", "amx_tile"}


def inputs_of(name: str) -> dict[str, np.ndarray]:
    """Modality -> the eight samples that were answered: five golden ones, three that leave their ranges."""
    return {m: _answers(name)[f"inputs/{m}"] for m in ("text", "audio", "vision")}


def assert_same_as_then(name: str, precision: str, found: dict[str, np.ndarray]) -> None:
    """The same bits with the ONNX Runtime and the kind of CPU of then; elsewhere sums may be taken in another order."""
    then = _answers(name)
    with safe_open(BUNDLES / f"{name}.answers.safetensors", "np") as file:
        recorded = file.metadata()
    same_arithmetic = recorded["onnxruntime"] == ort.__version__ and recorded["cpu"] == _kernels()
    for output, values in found.items():
        expected = then[f"{precision}/{output}"]
        if same_arithmetic:
            assert np.array_equal(values, expected), f"{name} {precision}: {output} has other bits"
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5, err_msg=f"{name} {precision}: {output}")


def _answers(name: str) -> dict[str, np.ndarray]:
    return load_file(BUNDLES / f"{name}.answers.safetensors")


def _kernels() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return " ".join(sorted(_KERNELS.intersection(flags)))
