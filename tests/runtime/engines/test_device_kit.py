"""The kit and ``dmdkit build`` from end to end in their own process, on a machine whose GPU and TensorRT are stand-ins.

Nothing is patched: the script finds a driver, builds, opens, runs, inspects and writes. It shows that every call has the
arguments and the order it should; it shows nothing about a real device.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.files import sha256_of_file
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import read_engine
from tests.conftest import ROOT

VERSIONS = ["10.3.0", "11.4.1.22"]


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process on that machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here, for the stand-in driver")
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests/fake_tensorrt/cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)], check=True)
    shutil.copy(folder / "libcuda.so.1", folder / "libcudart.so")
    path = folder / "packages"
    path.mkdir()
    shutil.copy(ROOT / "tests/fake_tensorrt/tensorrt.py", path)
    cache = str(folder / "cache")
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(path), "DMDKIT_CACHE": cache}


@pytest.fixture(scope="module")
def kit(engine_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "h100"
    assert main(["build", str(engine_bundle), "--target", "h100", "--precision", "int8", "--kit", str(out)]) == 0
    return out


def run(kit: Path, device: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The kit's program on a stand-in device."""
    program = [sys.executable, str(kit / "build_and_check.py")]
    return subprocess.run(program, env=device, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kit_builds_checks_and_writes_what_a_bundle_takes(
    version: str, kit: Path, h100: dict[str, str], engine_bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(kit, tmp_path / "kit"))
    done = run(copy, {**h100, "FAKE_TENSORRT_VERSION": version})
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = Bundle.open(engine_bundle)
    for graph in ("fusion.int8-trt", "explain.int8-trt", "gd_homo.fp32", "gd_hetero.fp32"):
        record = read_engine(copy / f"engines/h100.{graph}.json").record
        assert (record.version, record.gpu, record.compute_capabilities) == (version, "Stand-in H100", ["9.0"])
        assert record.check is not None
        assert record.check.passed
        assert record.precision is not None
        assert record.precision.status == "passed"
        assert record.precision.layout == ("tensorrt-10" if version.startswith("10.") else "tensorrt-11")
        assert record.precision.found_int8 == pytest.approx(bundle.graph(graph).multiply_adds_int8, abs=1e-6)
        assert sum(product.multiply_adds for product in record.products) == bundle.graph(graph).multiply_adds


@pytest.mark.parametrize(("precision", "form"), [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "int8-trt")])
def test_a_text_encoders_kit_builds_and_checks_it_on_the_golden_tokens(
    precision: str, form: str, h100: dict[str, str], text_engine_bundle: Path, tmp_path: Path
) -> None:
    kit, name = tmp_path / "kit", f"text.{form}"
    arguments = ["build", str(text_engine_bundle), "--target", "h100", "--precision", precision, "--kit", str(kit)]
    assert main([*arguments, "--graph", "text"]) == 0
    (graph,) = json.loads((kit / "kit.json").read_text())["graphs"]
    assert graph["inputs"] == {part: f"input/text/{part}" for part in ("attention_mask", "input_ids")}
    assert "--minShapes=attention_mask:1x1,input_ids:1x1" in (kit / "README.md").read_text()
    for version in VERSIONS:
        done = run(kit, {**h100, "FAKE_TENSORRT_VERSION": version})
        assert done.returncode == 0, done.stdout + done.stderr
        record = read_engine(kit / f"engines/h100.{name}.json").record
        assert (record.version, record.graph) == (version, name)
        assert [tensor.dtype for tensor in (*record.inputs, *record.outputs)] == ["INT64", "INT64", "FLOAT"]
        assert record.check is not None
        assert (record.check.passed, record.check.samples, record.check.worst_output) == (True, 16, "text")
        assert record.precision is not None
        assert record.precision.status == "passed"
        share = Bundle.open(text_engine_bundle).graph(name).multiply_adds_int8
        assert record.precision.found_int8 == pytest.approx(share, abs=1e-6)
        assert set(record.latency_ms or {}) == {"p50", "p90", "p95", "p99"}


def test_features_that_are_off_fail_a_text_encoders_kit(h100: dict[str, str], text_engine_bundle: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    assert main(["build", str(text_engine_bundle), "--target", "h100", "--graph", "text", "--kit", str(kit)]) == 0
    with np.load(kit / "golden.npz") as golden:
        arrays = dict(golden)
    recorded = arrays["recorded/text.fp16/text"]
    # Within two standard deviations everywhere, yet partly of other features: only the correlation tells.
    mixed = 0.7 * recorded + np.float32(0.3) * np.roll(recorded, 1, axis=2)
    assert np.abs(mixed - recorded).max() < 1.9 * mixed.std()
    arrays["recorded/text.fp16/text"] = mixed
    np.savez(kit / "golden.npz", allow_pickle=False, **arrays)
    listed = json.loads((kit / "kit.json").read_text())
    listed["files"]["golden.npz"] = sha256_of_file(kit / "golden.npz")
    (kit / "kit.json").write_text(json.dumps(listed))
    done = run(kit, h100)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "golden samples FAILED" in done.stdout


def test_a_device_that_falls_back_to_fp32_fails_the_proof(kit: Path, h100: dict[str, str], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(kit, tmp_path / "kit"))
    done = run(copy, {**h100, "FAKE_TENSORRT_FALLS_BACK": "1"})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "precision failed: 0.0% of the multiply-adds in INT8, the graph asks for" in done.stdout
    record = json.loads((copy / "engines/h100.fusion.int8-trt.json").read_text())
    assert record["precision"]["status"] == "failed"


@pytest.mark.parametrize("version", VERSIONS)
def test_dmdkit_build_on_the_device_builds_and_a_second_call_is_cached(
    version: str, h100: dict[str, str], engine_bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(engine_bundle, tmp_path / "tiny.dmd"))
    arguments = ["build", str(copy), "--target", "h100", "--precision", "fp16", "--graph", "fusion", "--json"]
    for cached in (False, True):
        done = subprocess.run(
            [sys.executable, "-m", "dmdkit.cli", *arguments],
            env={**h100, "FAKE_TENSORRT_VERSION": version, "DMDKIT_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (engine,) = json.loads(done.stdout)["engines"]
        assert engine["cached"] == cached
        assert (engine["version"], engine["gpu"], engine["target"]) == (version, "Stand-in H100", "h100")


def test_another_devices_target_is_refused_on_it(h100: dict[str, str], engine_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(engine_bundle, tmp_path / "tiny.dmd"))
    done = subprocess.run(
        [sys.executable, "-m", "dmdkit.cli", "build", str(copy), "--target", "jetson-orin-nano"],
        env=h100,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "has compute capability 8.7, Stand-in H100 here has 9.0" in " ".join(done.stderr.split())
