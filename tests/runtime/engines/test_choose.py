"""Engines at run time, against a stand-in for CUDA and TensorRT: nothing here ran on a GPU.

Preflight, fallback with its reason, buffers, CUDA-graph capture, and what a failed precision proof means.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from dmdkit.errors import EngineError, InputError, MissingDependencyError
from dmdkit.files import sha256_of_bytes
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import choose
from dmdkit.runtime.engines import record as engine_record
from dmdkit.runtime.engines import runner as backend
from dmdkit.runtime.engines.choose import engine_runner
from dmdkit.runtime.engines.cuda import Cuda, load_cuda
from dmdkit.runtime.engines.gpu import Gpu, NoGpuError, find_gpu
from dmdkit.runtime.engines.inspector import prove_precision
from dmdkit.runtime.engines.record import Engine, EngineRecord, machine, preflight, write_engine
from dmdkit.runtime.engines.runner import TensorRtRunner
from tests.runtime.engines.fake_cuda import FakeCudaRuntime, fake_open
from tests.runtime.engines.inspector_answers import PRODUCTS, inspector

ADA = Gpu("NVIDIA GeForce RTX 4090", "8.9", "13.0", integrated=False)
PLAN = b"a plan that nobody but the stand-in opens"
NOTHING_INT8 = json.dumps({"Layers": [], "Bindings": []})


def tensors(bundle: Bundle, kind: str) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    manifest = bundle.manifest
    if kind == "text":
        assert manifest.text is not None
        shape = [-1, manifest.text.max_tokens]
        tokens = [{"name": name, "shape": shape, "dtype": "INT64"} for name in ("input_ids", "attention_mask")]
        given = manifest.inputs["text"]
        return tokens, [{"name": "text", "shape": [-1, given.steps, given.features], "dtype": "FLOAT"}]
    inputs = [{"name": n, "shape": [-1, r.steps, r.features], "dtype": "FLOAT"} for n, r in manifest.inputs.items()]
    names = ["score"] if kind == "fusion" else list(manifest.outputs)
    outputs = [{"name": n, "shape": [-1, *manifest.outputs[n].shape[1:]], "dtype": "FLOAT"} for n in names]
    return inputs, outputs


def add_engine(path: Path, kind: str = "fusion", form: str = "fp32", content: bytes = PLAN, **changes: object) -> Engine:
    bundle = Bundle.open(path)
    graph = f"{kind}.{form}"
    inputs, outputs = tensors(bundle, kind)
    values: dict[str, object] = {
        "target": "rtx-ada",
        "graph": graph,
        "graph_sha256": bundle.manifest.files[bundle.graph(graph).file].sha256,
        "model_sha256": bundle.manifest.source.model_sha256,
        "flavour": "tensorrt_rtx",
        "version": "1.7.1.116",
        "compute_capabilities": ["8.6", "8.9"],
        "platform": machine(),
        "gpu": None,
        "driver": None,
        "plan": f"rtx-ada.{graph}.plan",
        "plan_sha256": sha256_of_bytes(content),
        "plan_bytes": len(content),
        "batch": [1, 1, 4],
        "lengths": engine_record.text_lengths(bundle.manifest) if kind == "text" else None,
        "flags": {},
        "inputs": inputs,
        "outputs": outputs,
        "products": [],
        "cache_key": "0" * 64,
        "built": "2026-01-01T00:00:00+00:00",
        "build_seconds": 1.0,
    }
    return write_engine(path / "engines", EngineRecord.model_validate(values | changes), content, "")


@pytest.fixture
def fp32_bundle(bundle_copy: Path) -> Path:
    return bundle_copy


@pytest.fixture
def version_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_record, "version_of", lambda _: "1.7.1.116")


Made = Callable[..., tuple[TensorRtRunner, FakeCudaRuntime]]


@pytest.fixture
def made(fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    def make(*, capture_fails: bool = False, offset: float = 0.0, mapped: bool = False, allocations: int = 1 << 30):
        cuda = FakeCudaRuntime()
        cuda.capture_fails, cuda.allocations_left = capture_fails, allocations
        bundle = Bundle.open(fp32_bundle)
        monkeypatch.setattr(
            backend, "open_engine", lambda _, __, ___, ____: fake_open(bundle, engine.record, cuda, NOTHING_INT8, offset)
        )
        engine = add_engine(fp32_bundle)
        try:
            return TensorRtRunner("fusion.fp32", engine, mapped=mapped, cuda=Cuda(cuda)), cuda
        except EngineError:
            assert not cuda.memory, "memory is given back when opening fails"
            assert cuda.live_streams == 0
            raise

    return make


def feed_of(path: Path, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    golden = Bundle.open(path).golden()
    return {n: np.ascontiguousarray(a[:count]) for n, a in golden.inputs.items()}, golden.recorded["fusion.fp32"]["score"][
        :count
    ]


def test_buffers_are_bound_once_and_every_batch_gives_the_graphs_answers(fp32_bundle: Path, made: Made) -> None:
    runner, cuda = made()
    allocated = cuda.calls.count("malloc")
    for count in (1, 1, 3, 4, 1, 11):  # more than the largest batch runs in parts
        feed, expected = feed_of(fp32_bundle, count)
        assert np.abs(runner.infer(feed)["score"] - expected).max() < 1e-5
    assert cuda.calls.count("malloc") == allocated == 4
    assert runner.last_latency_ms > 0
    runner.close()
    runner.close()
    assert not cuda.memory
    assert (cuda.live_graphs, cuda.live_streams) == (0, 0)
    with pytest.raises(InputError, match="is closed"):
        runner.infer(feed)


def test_the_second_call_of_a_shape_is_captured_and_later_ones_only_launch(fp32_bundle: Path, made: Made) -> None:
    runner, cuda = made()
    feed, expected = feed_of(fp32_bundle, 1)
    runner.infer(feed)
    assert "CUDA graph" in runner.backend
    copies = cuda.calls.count("copy")
    other, expected_other = {n: a[1:2].copy() for n, a in feed_of(fp32_bundle, 2)[0].items()}, feed_of(fp32_bundle, 2)[1][1:2]
    assert np.abs(runner.infer(feed)["score"] - expected).max() < 1e-5
    assert np.abs(runner.infer(other)["score"] - expected_other).max() < 1e-5, "a replay reads the new inputs"
    assert cuda.calls.count("copy") == copies
    assert cuda.calls.count("launch") == 3
    runner.close()


def test_a_failed_capture_falls_back_to_plain_calls_and_says_so(
    fp32_bundle: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    runner, cuda = made(capture_fails=True)
    feed, expected = feed_of(fp32_bundle, 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert np.abs(runner.infer(feed)["score"] - expected).max() < 1e-5
    assert "running without a CUDA graph: cudaStreamEndCapture failed" in caplog.text
    assert "plain: no CUDA graph" in runner.backend
    assert "launch" not in cuda.calls
    runner.close()


def test_shared_memory_is_mapped_and_nothing_is_copied(fp32_bundle: Path, made: Made) -> None:
    runner, cuda = made(mapped=True)
    feed, expected = feed_of(fp32_bundle, 2)
    assert np.abs(runner.infer(feed)["score"] - expected).max() < 1e-5
    assert {"copy", "malloc"}.isdisjoint(cuda.calls)
    runner.close()
    assert not cuda.memory


@pytest.mark.parametrize("allocations", range(8))
def test_running_out_of_memory_while_opening_leaves_nothing_behind(allocations: int, made: Made) -> None:
    with pytest.raises(EngineError, match=r"cuda(HostAlloc|Malloc) failed: CUDA error 2 \(cudaErrorMemoryAllocation\)"):
        made(allocations=allocations)


@pytest.mark.usefixtures("version_here")
@pytest.mark.parametrize(
    ("changes", "gpu", "message"),
    [
        ({"graph_sha256": "1" * 64}, ADA, "built from another fusion.fp32 than this bundle's"),
        ({"graph": "fusion.fp16"}, ADA, "built from another fusion.fp16"),
        ({"platform": "linux-riscv"}, ADA, "is for linux-riscv, this is"),
        ({}, Gpu("Orin", "8.7", "12.6", integrated=True), r"compiled for compute capability 8.6, 8.9, Orin has 8.7"),
        ({"version": "1.6.0.1"}, ADA, "built by tensorrt_rtx 1.6.0.1, here is 1.7.1.116; build it again"),
        ({"flavour": "tensorrt", "gpu": "NVIDIA L40"}, ADA, "built on NVIDIA L40, this is NVIDIA GeForce RTX 4090"),
        (
            {"check": {"passed": False, "samples": 16, "max_error": None, "tolerance": 1e-4, "worst_output": "score"}},
            ADA,
            "failed its check on the golden samples",
        ),
    ],
)
def test_preflight_names_the_first_thing_that_does_not_fit(
    changes: dict[str, object], gpu: Gpu, message: str, fp32_bundle: Path
) -> None:
    engine = add_engine(fp32_bundle, **changes)
    with pytest.raises(EngineError, match=message):
        preflight(engine, Bundle.open(fp32_bundle), lambda: gpu)


@pytest.mark.usefixtures("version_here")
def test_preflight_passes_what_fits(fp32_bundle: Path) -> None:
    assert preflight(add_engine(fp32_bundle), Bundle.open(fp32_bundle), lambda: ADA) == ADA


def test_a_missing_flavour_is_named_with_its_extra(fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(flavour: str) -> str:
        raise MissingDependencyError(flavour, "rtx", "TensorRT-RTX engines")

    monkeypatch.setattr(engine_record, "version_of", missing)
    with pytest.raises(EngineError, match=r"needs tensorrt_rtx 1.7.1.116: .*dmdkit\[rtx\]"):
        preflight(add_engine(fp32_bundle), Bundle.open(fp32_bundle), lambda: ADA)


@pytest.mark.parametrize("wanted", ["auto", "tensorrt"])
def test_without_a_driver_the_reason_is_given_and_onnxruntime_predicts(
    wanted: str, fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        find_gpu()
        pytest.skip("this machine has a driver")
    except NoGpuError:
        pass
    add_engine(fp32_bundle)
    feed, expected = feed_of(fp32_bundle, 2)
    with caplog.at_level(logging.WARNING), Runtime.open(fp32_bundle, backend=wanted, graph="fp32") as runtime:
        assert np.abs(runtime.predict(**feed).score - expected).max() < 1e-5
        assert runtime.backend.startswith("onnxruntime")
        (note,) = runtime.notes
    assert note == "no NVIDIA driver: libcuda.so.1 cannot be loaded; using onnxruntime"
    assert note in caplog.text


def test_a_bundle_without_engines_says_so_only_when_asked_for_one(fp32_bundle: Path) -> None:
    with Runtime.open(fp32_bundle, graph="fp32") as runtime:
        assert runtime.notes == ()
    with Runtime.open(fp32_bundle, graph="fp32", backend="tensorrt") as runtime:
        assert runtime.notes == ("the bundle has no engine for fusion; make one with `dmdkit build`; using onnxruntime",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda e: e.path.write_text("{"), "not JSON"),
        (lambda e: e.path.with_name(e.record.plan).write_bytes(b"x" * len(PLAN)), "damaged (its SHA-256"),
        (lambda e: e.path.with_name(e.record.plan).unlink(), "cannot be read"),
    ],
)
@pytest.mark.usefixtures("version_here")
def test_a_damaged_sidecar_or_plan_falls_back_with_its_name(
    damage: Callable[[Engine], object], message: str, fp32_bundle: Path
) -> None:
    engine = add_engine(fp32_bundle)
    damage(engine)
    runner, why = engine_runner(
        Bundle.open(fp32_bundle),
        "fusion",
        "fp32",
        gpu=lambda: ADA,
        opener=lambda e, _: TensorRtRunner("fusion.fp32", e, cuda=Cuda(FakeCudaRuntime())),
    )
    assert runner is None
    assert message in why
    assert "rtx-ada.fusion.fp32" in why


@pytest.fixture
def faked_runtime(fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCudaRuntime]:
    """Lets ``Runtime.open`` use the stand-ins."""

    def use(offset: float = 0.0) -> FakeCudaRuntime:
        cuda = FakeCudaRuntime()
        bundle = Bundle.open(fp32_bundle)
        records = {add_engine(fp32_bundle, kind).record.graph: None for kind in ("fusion", "explain")}
        assert len(records) == 2
        monkeypatch.setattr(engine_record, "version_of", lambda _: "1.7.1.116")
        monkeypatch.setattr(choose, "find_gpu", lambda: ADA)

        def opener(engine: Engine, _: Gpu) -> TensorRtRunner:
            monkeypatch.setattr(backend, "open_engine", lambda *_: fake_open(bundle, engine.record, cuda, NOTHING_INT8, offset))
            return TensorRtRunner(engine.record.graph, engine, cuda=Cuda(cuda))

        real = choose.engine_runner
        monkeypatch.setattr(choose, "engine_runner", lambda *a, **k: real(*a, **{**k, "gpu": lambda: ADA, "opener": opener}))
        return cuda

    return use


def test_a_fitting_engine_predicts_explains_and_is_proven_once(
    fp32_bundle: Path, faked_runtime: Callable[..., FakeCudaRuntime]
) -> None:
    cuda = faked_runtime()
    feed, expected = feed_of(fp32_bundle, 3)
    with Runtime.open(fp32_bundle, graph="fp32") as runtime:
        assert runtime.backend.startswith("tensorrt_rtx 1.7.1.116")
        assert runtime.notes == ()
        assert np.abs(runtime.predict(**feed).score - expected).max() < 1e-5
        assert runtime.explain(**feed).edges_homo is not None
        assert runtime.self_check().passed
    assert not cuda.memory
    for kind in ("fusion", "explain"):
        record = json.loads((fp32_bundle / f"engines/rtx-ada.{kind}.fp32.json").read_text())
        assert record["check"]["passed"]
        assert record["precision"]["status"] == "passed"


def test_an_engine_whose_answers_are_off_is_refused_and_remembered(
    fp32_bundle: Path, faked_runtime: Callable[..., FakeCudaRuntime]
) -> None:
    cuda = faked_runtime(offset=0.5)
    with Runtime.open(fp32_bundle, graph="fp32") as runtime:
        assert runtime.backend.startswith("onnxruntime")
        assert "failed its check on the golden samples; using onnxruntime" in runtime.notes[0]
    assert not cuda.memory
    assert not json.loads((fp32_bundle / "engines/rtx-ada.fusion.fp32.json").read_text())["check"]["passed"]


@pytest.mark.usefixtures("version_here")
def test_a_failed_precision_proof_refuses_the_plan(fp32_bundle: Path) -> None:
    proof = prove_precision(inspector("fp32", "fp32", eleven=True), PRODUCTS)
    engine = add_engine(fp32_bundle, precision=asdict(proof))
    with pytest.raises(EngineError, match=r"failed its precision proof: 0\.0% of the multiply-adds in INT8"):
        preflight(engine, Bundle.open(fp32_bundle), lambda: ADA)


def test_cuda_python_is_named_with_its_extra_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"running engines needs .*dmdkit\[tensorrt\]"):
        load_cuda()


def test_an_engine_folder_does_not_disturb_the_bundle(fp32_bundle: Path, tmp_path: Path) -> None:
    add_engine(fp32_bundle)
    moved = Path(shutil.copytree(fp32_bundle, tmp_path / "moved.dmd"))
    Bundle.open(moved).verify()


@pytest.mark.parametrize(("asks_for_int8", "status", "code"), [(False, "passed", 0), (True, "failed", 2)])
def test_a_build_beside_the_gpu_is_proven_at_once_and_a_shortfall_is_exit_code_2(
    asks_for_int8: bool, status: str, code: int, fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmdkit.cli import main
    from dmdkit.runtime.engines import build as engine_build
    from dmdkit.runtime.engines.build import BuildResult

    cuda, bundle = FakeCudaRuntime(), Bundle.open(fp32_bundle)
    engine = add_engine(fp32_bundle, products=[{"name": "/a/MatMul", "multiply_adds": 10, "int8": asks_for_int8}])
    monkeypatch.setattr(choose, "open_checked", lambda e, _: TensorRtRunner(e.record.graph, e, cuda=Cuda(cuda)))
    monkeypatch.setattr(backend, "open_engine", lambda *_: fake_open(bundle, engine.record, cuda, NOTHING_INT8))
    monkeypatch.setattr(engine_record, "preflight", lambda *_: ADA)
    monkeypatch.setattr(engine_build, "build_engine", lambda *_, **__: BuildResult(engine, cached=False, seconds=1.0))
    arguments = ["build", str(fp32_bundle), "--target", "rtx-ada", "--precision", "fp32", "--graph", "fusion"]
    assert main(arguments) == code
    record = json.loads(engine.path.read_text())
    assert record["precision"]["status"] == status
    assert record["check"]["passed"]
    assert not cuda.memory


def test_a_build_names_the_folder_that_holds_the_engine_also_where_that_is_a_cache(
    fp32_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dmdkit.cli import main
    from dmdkit.runtime.engines import build as engine_build
    from dmdkit.runtime.engines.build import BuildResult

    def no_gpu(*_: object) -> Gpu:
        raise NoGpuError("no GPU")

    engine = add_engine(fp32_bundle)
    cached = Engine(path=tmp_path / "cache" / engine.path.name, record=engine.record)
    monkeypatch.setattr(engine_record, "preflight", no_gpu)
    monkeypatch.setattr(engine_build, "build_engine", lambda *_, **__: BuildResult(cached, cached=True, seconds=1.0))
    assert main(["build", str(fp32_bundle), "--target", "rtx-ada", "--precision", "fp32", "--graph", "fusion"]) == 0
    assert f"wrote {tmp_path / 'cache'}/\n" in capsys.readouterr().err
