"""The native backend in commands and runtime: proven like every backend, chosen by measurement, and one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dmdkit.cli import main
from dmdkit.errors import AnswerError, BundleError, InputError, MissingLibraryError
from dmdkit.runtime import Runtime, choice
from dmdkit.runtime.backends import backend_version, installed_backends, proof_name
from dmdkit.runtime.backends.native import LIBRARY_VARIABLE, NativeKernelsRunner, library_path
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.latency import MedianLatency, write_latencies
from dmdkit.runtime.manifest import read_manifest

pytestmark = pytest.mark.slow
FP32, INT8 = "fusion.fp32", "fusion.int8-cpu"


@pytest.fixture
def library(native_library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(native_library))
    return native_library


@pytest.fixture
def proven(library: Path, bundle_copy: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    assert library.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "native"]) in (0, 2)
    return bundle_copy


def test_check_proves_the_fusion_graphs_on_the_native_kernels(proven: Path) -> None:
    graphs = read_manifest(proven).graphs
    assert graphs[FP32].backends["native"].status == graphs[FP32].verdict.status
    assert proof_name("native", "int8-cpu") in graphs[INT8].backends
    assert not graphs["explain.fp32"].backends
    targets = [hop["target"] for hop in json.loads((proven / "report/parity.json").read_text())["hops"]]
    assert f"{FP32}@native" in targets


def test_a_graph_asked_for_by_name_runs_there_and_explains_in_onnx_runtime(
    library: Path, tiny_bundle: Path, test_samples: dict[str, np.ndarray]
) -> None:
    assert "native" in installed_backends()
    for graph, tolerance in (("fp32", 1e-5), ("int8-cpu", 0.05)):
        with Runtime.open(tiny_bundle, backend="native", graph=graph) as native, Runtime.open(tiny_bundle, graph="fp32") as ort:
            assert native.backend == backend_version("native")
            np.testing.assert_allclose(native.predict(**test_samples).score, ort.predict(**test_samples).score, atol=tolerance)
            assert native.self_check().passed
            assert native.explain(**test_samples).score.shape == ort.explain(**test_samples).score.shape
            with pytest.raises(InputError):
                native.predict(**{name: np.full_like(array, np.nan) for name, array in test_samples.items()})


def test_an_overflow_is_refused_as_in_onnx_runtime(
    library: Path, tiny_bundle: Path, test_samples: dict[str, np.ndarray]
) -> None:
    """Rectifiers and gates that take a number for what is none would hide it."""
    huge = {name: np.full_like(array[0], 3.4e38) for name, array in test_samples.items()}
    for backend in ("onnxruntime", "native"):
        with (
            Runtime.open(tiny_bundle, backend=backend, graph="fp32") as runtime,
            pytest.raises(AnswerError, match="not finite"),
        ):
            runtime.predict(**huge)


def test_measured_latencies_choose_it_only_once_proven(
    proven: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    slow, fast = MedianLatency(5.0, 200, (4.9, 5.1)), MedianLatency(1.0, 200, (0.9, 1.1))
    for bundle in (proven, tiny_bundle):
        manifest = read_manifest(bundle)
        ours = [name for name in (FP32, INT8) if choice.has_passed(manifest.graphs[name], "onnxruntime")]
        here = {(name, "onnxruntime"): slow for name in ours} | {(FP32, "native"): fast}
        write_latencies(manifest, 1, here)  # type: ignore[arg-type]
    if not choice.has_passed(read_manifest(proven).graphs[FP32], "native"):
        pytest.skip("the tiny model proves nothing on so few samples")
    with Runtime.open(proven) as runtime:
        assert runtime.backend.startswith("native")
    with Runtime.open(tiny_bundle) as runtime:
        assert runtime.backend.startswith("onnxruntime")
    monkeypatch.setattr("dmdkit.runtime.open_graph.repeats_golden", lambda *_: False)
    with Runtime.open(proven) as runtime:
        assert runtime.backend.startswith("onnxruntime")
        assert "does not repeat the golden samples" in runtime.notes[0]


def test_the_cpp_runtime_predicts_there_and_explains_in_onnx_runtime(
    native_bin: Path, library: Path, tiny_bundle: Path, samples_file: Path, test_samples: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert library.exists()
    out = tmp_path / "answers.safetensors"
    command = [native_bin / "dmdkit-run", tiny_bundle, "--backend", "native", "--input", samples_file, "--explain"]
    done = subprocess.run([*command, "--graph", "fp32", "--output", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backend"] == backend_version("native")
    checked = [native_bin / "dmdkit-run", tiny_bundle, "--backend", "native", "--graph", "int8-cpu", "--self-check"]
    assert json.loads(subprocess.run(checked, capture_output=True, text=True, check=False).stdout)["passed"]
    with Runtime.open(tiny_bundle, graph="fp32") as runtime:
        np.testing.assert_allclose(load_file(out)["score"], runtime.predict(**test_samples).score, atol=1e-5)
    unproven = subprocess.run([*command, "--output", out], capture_output=True, text=True, check=False)
    assert unproven.returncode != 0
    assert "--backend native" in unproven.stderr


def test_without_the_library_everything_else_goes_on_and_asking_for_it_is_one_error(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert library_path() == tmp_path / "none.so"
    assert "native" not in installed_backends()
    with Runtime.open(tiny_bundle, graph="fp32") as runtime:
        assert runtime.backend.startswith("onnxruntime")
    with pytest.raises(MissingLibraryError, match="make native"):
        Runtime.open(tiny_bundle, backend="native", graph="fp32")
    assert main(["check", str(tiny_bundle), "--backend", "native"]) == 3
    assert "make native" in capsys.readouterr().err


def test_what_it_cannot_run_is_one_error(library: Path, tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="runs on CPUs"):
        Runtime.open(tiny_bundle, backend="native", device="cuda")
    with pytest.raises(BundleError, match="int8-cpu graph of fusion alone"):
        Runtime.open(tiny_bundle, backend="native", graph="int8-trt")
    bundle = Bundle.open(tiny_bundle)
    with pytest.raises(BundleError, match="export the bundle again"):
        NativeKernelsRunner("gd_homo.fp32", bundle.read(bundle.manifest.graphs["gd_homo.fp32"].file))


def test_an_instruction_set_this_cpu_lacks_is_one_error(library: Path, tiny_bundle: Path) -> None:
    code = f"from dmdkit.runtime import Runtime; Runtime.open({str(tiny_bundle)!r}, backend='native', graph='fp32')"
    environment = {LIBRARY_VARIABLE: str(library), "DMDKIT_NATIVE_ISA": "sse9", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert "DMDKIT_NATIVE_ISA=sse9: this CPU can use" in done.stderr
    assert "portable" in done.stderr
