"""The cross-built runtime under qemu-user gives the answers of this machine; `make test-aarch64` builds it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dmdkit.parity.compare import compare
from dmdkit.parity.cpp_runner import CppRunner
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.self_check import FP32_TOLERANCE, INT8_TOLERANCE_SD
from tests.conftest import ROOT, tiny_dataset

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


@pytest.mark.parametrize("isa", ["neon_dotprod", "neon"])
def test_native_kernels_repeat_the_golden_samples_and_pass_the_ledger(
    emulated: list[str], tiny_bundle: Path, test_samples: dict[str, np.ndarray], tmp_path: Path, isa: str
) -> None:
    runner = tmp_path / "runner"
    runner.write_text(f'#!/bin/sh\nDMDKIT_NATIVE_ISA={isa} exec {shlex.join(emulated)} "$@" --backend native\n')
    runner.chmod(0o755)
    bundle, split = Bundle.open(tiny_bundle), tiny_dataset().splits["test"]
    with Runtime.open(tiny_bundle, graph="fp32") as runtime:
        expected = {"score": runtime.predict(**test_samples).score}
    for graph in ("fusion.fp32", "fusion.int8-cpu"):
        precision = bundle.manifest.graphs[graph].precision
        command = [str(runner), str(tiny_bundle), "--graph", precision, "--self-check"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["passed"]
        answers = CppRunner(runner).run(bundle, graph, test_samples, batch=20)
        assert answers.backend == f"native 1 ({isa})"
        hop = compare(
            "fusion.fp32",
            f"{graph}@native",
            expected,
            answers.outputs,
            precision=precision,
            task=bundle.manifest.task,
            label_range=bundle.manifest.label_range,
            labels=split.labels,
            ids=split.ids,
        )
        print(f"{isa}, {hop.target}: {hop.status}, largest error {hop.max_error:.2e}; {hop.reason}")
        assert hop.status == "passed", hop.reason
