"""``scripts/gpu_check.sh``: it ends with a table on any machine; on one with a GPU its sections are tests marked ``gpu``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from dmdkit.cli import main
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import choose, gpu, tensorrt_api
from dmdkit.runtime.engines import cuda as cuda_backend
from dmdkit.runtime.engines import runner as backend
from dmdkit.runtime.engines.cuda import Cuda
from dmdkit.runtime.engines.runner import TensorRtRunner
from tests.conftest import ROOT, TINY_SETTINGS, tiny_dataset
from tests.runtime.engines.fake_cuda import FakeCudaRuntime, fake_open
from tests.runtime.engines.test_choose import ADA, NOTHING_INT8, add_engine

BASE_PYTHON = ROOT / "build/envs/base/bin/python"
SECTIONS = [
    "GPU",
    "PyTorch CUDA",
    "train on CUDA",
    "a run",
    "export",
    "PyTorch parity, CUDA against CPU",
    "ONNX Runtime CUDA",
    "engine fp32",
    "engine fp16",
    "engine int8",
    "a text encoder",
    "words, engine fp32",
    "words, engine fp16",
    "words, engine int8",
    "tests marked gpu",
]
PROVEN = {
    "check": {"passed": True, "samples": 16, "max_error": 1e-6, "tolerance": 1e-4, "worst_output": "score"},
    "precision": {
        "layout": "tensorrt-10",
        "layers": {},
        "expected_int8": 0.0,
        "found_int8": 0.0,
        "status": "passed",
        "reason": "0.0% of the multiply-adds in INT8, the graph asks for 0.0%",
    },
}


@pytest.fixture(scope="module")
def sections() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_sections", ROOT / "scripts/gpu_sections.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(output: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[1:]}


def test_where_everything_is_missing_every_section_says_so_and_the_exit_code_is_2(tmp_path: Path) -> None:
    if not BASE_PYTHON.is_file():
        pytest.skip("build/envs/base is not here: make build/envs/base/.ready")
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA driver")
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/gpu_check.sh"), str(tmp_path / "a folder")],
        env={**os.environ, "PYTHON": str(BASE_PYTHON)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    found = table(done.stdout)
    assert list(found) == SECTIONS
    assert {row[0] for row in found.values()} == {"skipped"}
    assert found["train on CUDA"][2] == "torch is not installed (extra 'train')"
    assert found["engine int8"][2].startswith("no bundle")
    assert found["a text encoder"][2].startswith("no NVIDIA driver")
    assert found["words, engine fp16"][2] == "no bundle: the section 'a text encoder' did not make one"
    assert found["tests marked gpu"][2] == "pytest is not installed (extra 'dev')"
    assert len(list((tmp_path / "a folder/logs").iterdir())) == len(SECTIONS)


@pytest.fixture
def work(bundle_copy: Path) -> Path:
    """A folder as ``gpu_check.sh`` leaves it after its export."""
    bundle_copy.rename(bundle_copy.with_name("check.dmd"))
    return bundle_copy.parent


@pytest.fixture
def beside_a_gpu(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A GPU, a driver and an engine that are not there."""

    def use(code: int = 0, flavour: str = "tensorrt_rtx", **changes: object) -> None:
        fake, path = FakeCudaRuntime(), work / "check.dmd"
        engine = add_engine(path, **{**PROVEN, **changes})
        bundle = Bundle.open(path)
        monkeypatch.setattr(gpu, "find_gpu", lambda: ADA)
        monkeypatch.setattr(cuda_backend, "load_cuda", lambda: Cuda(fake))
        monkeypatch.setattr(tensorrt_api, "installed_flavours", lambda: [flavour] if flavour else [])
        monkeypatch.setattr("dmdkit.cli.main", lambda _: code)
        monkeypatch.setattr(backend, "open_engine", lambda *_: fake_open(bundle, engine.record, fake, NOTHING_INT8))
        runner = TensorRtRunner("fusion.fp32", engine, cuda=Cuda(fake))
        monkeypatch.setattr(choose, "engine_runner", lambda *_, **__: (runner, ""))

    return use


def test_the_engine_section_builds_measures_and_quotes_the_proof(
    work: Path, sections: ModuleType, beside_a_gpu: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    beside_a_gpu()
    assert sections.run("engine", work, "fp32") == 0
    said = capsys.readouterr().out
    assert said.startswith("tensorrt_rtx 1.7.1.116 (CUDA graph): p50 ")
    assert "golden error 1.0e-06; 0.0% of the multiply-adds in INT8" in said


@pytest.mark.parametrize(
    ("settings", "result", "message"),
    [
        ({"code": 2}, 1, "dmdkit build ended with 2"),
        ({"precision": None}, 1, "no precision proof"),
        ({"graph": "explain.fp32"}, 1, "no engine was built"),
        ({"flavour": ""}, 77, "neither tensorrt nor tensorrt_rtx is installed"),
    ],
)
def test_an_engine_without_its_proof_is_a_failed_section(
    settings: dict[str, object],
    result: int,
    message: str,
    work: Path,
    sections: ModuleType,
    beside_a_gpu: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    beside_a_gpu(**settings)  # type: ignore[arg-type]
    assert sections.run("engine", work, "fp32") == result
    assert message in capsys.readouterr().out


def test_a_section_that_breaks_is_one_line_and_not_the_end(
    work: Path, sections: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("CUDA error 719\nunspecified launch failure")

    monkeypatch.setitem(sections.SECTIONS, "engine", broken)
    assert sections.run("engine", work) == 1
    assert capsys.readouterr().out == "RuntimeError: CUDA error 719 unspecified launch failure\n"


@pytest.mark.slow
def test_the_sections_for_words_make_a_bundle_and_measure_strings_through_the_encoders_engine(
    sections: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="the extra text is not installed")
    small = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setattr(sections, "ENCODER", sections.ENCODER | small)
    settings = [*TINY_SETTINGS, "text_encoder.max_tokens=8"]
    monkeypatch.setattr(sections, "TEXT_SETTINGS", [part for setting in settings for part in ("--set", setting)])
    monkeypatch.setattr("dmdkit.data.sample.sample_dataset", tiny_dataset)
    monkeypatch.setattr(sections, "ROUNDS", 20)
    monkeypatch.setattr(gpu, "find_gpu", lambda: ADA)
    assert sections.run("text_bundle", tmp_path) == 0, capsys.readouterr()
    assert "text.fp16 " in capsys.readouterr().out.splitlines()[-1]

    fake, path = FakeCudaRuntime(), tmp_path / "words.dmd"
    made = {kind: add_engine(path, kind, "fp16", **PROVEN) for kind in ("fusion", "text")}
    bundle = Bundle.open(path)
    monkeypatch.setattr(cuda_backend, "load_cuda", lambda: Cuda(fake))
    monkeypatch.setattr(tensorrt_api, "installed_flavours", lambda: ["tensorrt_rtx"])
    monkeypatch.setattr("dmdkit.cli.main", lambda _: 0)

    def opened(_: Bundle, kind: str, __: str | None, **___: object) -> tuple[TensorRtRunner, str]:
        engine = made[kind]
        monkeypatch.setattr(backend, "open_engine", lambda *_: fake_open(bundle, engine.record, fake, NOTHING_INT8))
        return TensorRtRunner(engine.record.graph, engine, cuda=Cuda(fake)), ""

    monkeypatch.setattr(choose, "engine_runner", opened)
    assert sections.run("engine", tmp_path, "fp16", "words.dmd") == 0, capsys.readouterr()
    assert capsys.readouterr().out.startswith("text on tensorrt_rtx 1.7.1.116 (CUDA graph): p50 ")
    assert not fake.memory


@pytest.fixture
def gpu_work(tiny_run: Path, tiny_data: Path, tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copytree(tiny_bundle, tmp_path / "check.dmd")
    shutil.copy(tiny_data, tmp_path / "sample.npz")
    return tmp_path


@pytest.mark.gpu
@pytest.mark.parametrize("section", [("torch_parity",), ("onnxruntime_cuda",), ("engine", "fp32"), ("engine", "int8")])
def test_on_a_gpu_every_section_passes(section: tuple[str, ...], sections: ModuleType, gpu_work: Path) -> None:
    name, *arguments = section
    try:
        assert sections.SECTIONS[name](gpu_work, *arguments)
    except sections.Skip as why:
        pytest.skip(str(why))


@pytest.mark.gpu
def test_training_on_cuda_gives_a_run_that_the_cpu_reads(tiny_data: Path, tmp_path: Path, sections: ModuleType) -> None:
    try:
        sections.torch_cuda(tmp_path)
    except sections.Skip as why:
        pytest.skip(str(why))
    run = str(tmp_path / "run")
    arguments = ["--set", "model.width=8", "--set", "model.heads=2", "--set", "model.levels=1", "--epochs", "1"]
    assert main(["train", "--data", str(tiny_data), "--out", run, "--device", "cuda", *arguments]) == 0
    assert main(["evaluate", run, "--data", str(tiny_data), "--device", "cpu"]) == 0
