"""Words through an engine of the text encoder, against stand-ins for CUDA and TensorRT: nothing here ran on a GPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmdkit.errors import EngineError, InputError
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import choose
from dmdkit.runtime.engines import record as engine_record
from dmdkit.runtime.engines import runner as backend
from dmdkit.runtime.engines.choose import engine_runner
from dmdkit.runtime.engines.cuda import Cuda
from dmdkit.runtime.engines.gpu import Gpu, NoGpuError, find_gpu
from dmdkit.runtime.engines.record import Engine, preflight
from dmdkit.runtime.engines.runner import TensorRtRunner
from tests.runtime.builders import golden_inputs, set_verdict
from tests.runtime.engines.fake_cuda import FakeCudaRuntime, fake_open
from tests.runtime.engines.test_choose import ADA, NOTHING_INT8, add_engine

pytestmark = pytest.mark.slow

SENTENCES = ["a very good film", "", "the plot"]
Faked = Callable[..., FakeCudaRuntime]


@pytest.fixture
def faked(text_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Faked:
    """Lets ``Runtime.open`` use the stand-ins; engines whose graph is among ``off`` give answers that are off."""

    def use(*off: str) -> FakeCudaRuntime:
        cuda = FakeCudaRuntime()
        monkeypatch.setattr(engine_record, "version_of", lambda _: "1.7.1.116")

        def opener(engine: Engine, _: Gpu) -> TensorRtRunner:
            offset = 5.0 if engine.record.graph in off else 0.0
            bundle = Bundle.open(text_bundle_copy)
            monkeypatch.setattr(backend, "open_engine", lambda *_: fake_open(bundle, engine.record, cuda, NOTHING_INT8, offset))
            return TensorRtRunner(engine.record.graph, engine, cuda=Cuda(cuda))

        monkeypatch.setattr(
            choose, "engine_runner", lambda *a, **k: engine_runner(*a, **{**k, "gpu": lambda: ADA, "opener": opener})
        )
        return cuda

    return use


def rest(bundle: Path, count: int = len(SENTENCES)) -> dict[str, np.ndarray]:
    return {name: array[:count] for name, array in golden_inputs(bundle).items() if name != "text"}


def on_onnxruntime(bundle: Path, graph: str | None) -> np.ndarray:
    with Runtime.open(bundle, backend="onnxruntime", graph=graph) as runtime:
        return runtime.predict(text=SENTENCES, **rest(bundle)).score


def test_words_go_through_the_engine_and_closing_gives_both_back(text_bundle_copy: Path, faked: Faked) -> None:
    expected = on_onnxruntime(text_bundle_copy, "fp32")
    cuda = faked()
    for kind in ("fusion", "explain", "text"):
        add_engine(text_bundle_copy, kind)
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        assert (runtime.text_graph, runtime.text_backend) == (None, None), "the first words open it"
        for count in (1, 1, 3):  # a warm-up, a captured call, another batch
            found = runtime.predict(text=SENTENCES[:count], **rest(text_bundle_copy, count)).score
            np.testing.assert_allclose(found, expected[:count], rtol=0, atol=1e-5)
        assert runtime.text_graph == "text.fp32"
        assert (runtime.text_backend or "").startswith("tensorrt_rtx 1.7.1.116")
        why = runtime.explain(text=SENTENCES, **rest(text_bundle_copy))
        np.testing.assert_allclose(why.score, expected, rtol=0, atol=1e-5)
        assert runtime.notes == ()
        checked = runtime.self_check()
        assert checked.passed
        assert {check.graph for check in checked.graphs} == {"fusion.fp32", "explain.fp32", "text.fp32"}
    assert not cuda.memory
    assert (cuda.live_graphs, cuda.live_streams) == (0, 0)
    record = json.loads((text_bundle_copy / "engines/rtx-ada.text.fp32.json").read_text())
    assert record["check"]["passed"]
    assert record["precision"]["status"] == "passed"
    with pytest.raises(InputError, match="closed"):
        runtime.predict(text="good", **rest(text_bundle_copy, 1))


def test_an_engine_of_the_encoder_alone_reads_words_for_onnxruntime(text_bundle_copy: Path, faked: Faked) -> None:
    expected = on_onnxruntime(text_bundle_copy, "fp32")
    cuda = faked()
    add_engine(text_bundle_copy, "text")
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        np.testing.assert_allclose(runtime.predict(text=SENTENCES, **rest(text_bundle_copy)).score, expected, atol=1e-5)
        assert runtime.backend.startswith("onnxruntime")
        assert (runtime.text_backend or "").startswith("tensorrt_rtx")
        assert runtime.notes == ("the bundle has no engine for fusion; make one with `dmdkit build`; using onnxruntime",)
        assert runtime.self_check().passed
    assert not cuda.memory


def test_only_a_text_graph_that_passed_reads_words_the_precision_of_the_rest_first(
    text_bundle_copy: Path, faked: Faked
) -> None:
    faked()
    set_verdict(text_bundle_copy, "passed")
    add_engine(text_bundle_copy, "fusion")
    for precision in ("fp32", "int8-trt"):
        add_engine(text_bundle_copy, "text", precision)
    cases = [(None, "text.fp32"), ("text.fp32", "text.int8-trt"), ("text.int8-trt", None)]
    for refused, wanted in cases:
        if refused is not None:
            set_verdict(text_bundle_copy, "failed", refused)
        with Runtime.open(text_bundle_copy) as runtime:
            runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
            if wanted is not None:
                assert (runtime.text_graph, runtime.notes) == (wanted, ())
                assert (runtime.text_backend or "").startswith("tensorrt_rtx")
                continue
            assert runtime.backend.startswith("tensorrt_rtx")
            assert runtime.text_graph == "text.int8-cpu"
            assert runtime.notes == ("text: engine rtx-ada.text.fp32: text.fp32 is failed; using onnxruntime",)


def test_a_graph_asked_for_by_name_takes_the_encoders_engine_of_its_precision(text_bundle_copy: Path, faked: Faked) -> None:
    faked()
    for kind in ("fusion", "text"):
        for precision in ("fp32", "int8-trt"):
            add_engine(text_bundle_copy, kind, precision)
    set_verdict(text_bundle_copy, "failed")
    with Runtime.open(text_bundle_copy, graph="int8-trt") as runtime:
        runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
        assert (runtime.graph, runtime.text_graph, runtime.notes) == ("fusion.int8-trt", "text.int8-trt", ())
        assert runtime.self_check().passed


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda e: e.path.unlink(), "the bundle has no engine for text; make one with `dmdkit build`"),
        (lambda e: e.path.with_name(e.record.plan).write_bytes(b"torn"), "damaged (4 bytes"),
        (lambda e: e.path.write_text(e.path.read_text().replace("1.7.1.116", "1.6.0")), "built by tensorrt_rtx 1.6.0"),
        (lambda e: e.path.write_text(e.path.read_text().replace("INT64", "INT32")), "input_ids is INT32"),
        (lambda e: e.path.write_text(e.path.read_text().replace("[-1, 8]", "[-1, 9]")), "takes or gives"),
    ],
)
def test_where_no_engine_of_the_encoder_opens_onnxruntime_reads_words_and_the_reason_is_said(
    break_it: Callable[[Engine], object], message: str, text_bundle_copy: Path, faked: Faked, caplog: pytest.LogCaptureFixture
) -> None:
    expected = on_onnxruntime(text_bundle_copy, "fp32")
    cuda = faked()
    add_engine(text_bundle_copy, "fusion")
    engine = add_engine(text_bundle_copy, "text")
    engine.path.write_text(json.dumps(json.loads(engine.path.read_text())))
    break_it(engine)
    with caplog.at_level(logging.WARNING), Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        assert runtime.backend.startswith("tensorrt_rtx")
        assert runtime.notes == ()
        np.testing.assert_allclose(runtime.predict(text=SENTENCES, **rest(text_bundle_copy)).score, expected, atol=1e-5)
        runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
        assert (runtime.text_backend or "").startswith("onnxruntime")
        (note,) = runtime.notes
    assert note.startswith("text: ")
    assert message in note
    assert note.endswith("; using onnxruntime")
    assert note in caplog.text
    assert not cuda.memory


def test_an_encoders_engine_whose_features_are_off_is_refused_and_remembered(text_bundle_copy: Path, faked: Faked) -> None:
    cuda = faked("text.fp32")
    for kind in ("fusion", "text"):
        add_engine(text_bundle_copy, kind)
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
        assert runtime.notes == ("text: engine rtx-ada.text.fp32 failed its check on the golden samples; using onnxruntime",)
    assert not cuda.memory
    assert not json.loads((text_bundle_copy / "engines/rtx-ada.text.fp32.json").read_text())["check"]["passed"]


def test_running_out_of_memory_for_the_encoder_leaves_its_buffers_free_and_fusion_running(
    text_bundle_copy: Path, faked: Faked
) -> None:
    cuda = faked()
    for kind in ("fusion", "text"):
        add_engine(text_bundle_copy, kind)
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        held = len(cuda.memory)
        cuda.allocations_left = 3
        runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
        assert "cudaErrorMemoryAllocation" in runtime.notes[0]
        assert len(cuda.memory) == held
        assert runtime.backend.startswith("tensorrt_rtx")
    assert not cuda.memory


def test_one_that_fails_to_close_does_not_keep_the_other(text_bundle_copy: Path, faked: Faked) -> None:
    cuda = faked()
    for kind in ("fusion", "text"):
        add_engine(text_bundle_copy, kind)
    runtime = Runtime.open(text_bundle_copy, graph="fp32")
    runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
    destroy = cuda.cudaStreamDestroy

    def once(stream: int) -> object:
        cuda.cudaStreamDestroy = destroy  # type: ignore[method-assign]
        raise EngineError("the first stream cannot be destroyed")

    cuda.cudaStreamDestroy = once  # type: ignore[method-assign, assignment]
    with pytest.raises(EngineError, match="the first stream"):
        runtime.close()
    assert not cuda.memory
    assert cuda.live_streams == 1, "that of the one that failed"
    runtime.close()


def test_without_engines_nothing_is_said_about_them(text_bundle: Path) -> None:
    with Runtime.open(text_bundle) as runtime:
        runtime.predict(text=SENTENCES, **rest(text_bundle))
        assert runtime.notes == ()
        assert (runtime.text_backend or "").startswith("onnxruntime")


def test_without_a_driver_words_are_still_read(text_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        find_gpu()
        pytest.skip("this machine has a driver")
    except NoGpuError:
        pass
    for kind in ("fusion", "text"):
        add_engine(text_bundle_copy, kind)
    with Runtime.open(text_bundle_copy, graph="fp32") as runtime:
        runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
        reason = "no NVIDIA driver: libcuda.so.1 cannot be loaded; using onnxruntime"
        assert runtime.notes == (reason, f"text: {reason}")


@pytest.mark.usefixtures("faked")
def test_a_sidecar_of_a_graph_that_no_engine_is_built_from_is_passed_over(text_bundle_copy: Path) -> None:
    add_engine(text_bundle_copy, "text", "int8-cpu")
    runner, why = engine_runner(Bundle.open(text_bundle_copy), "text", "int8-cpu", gpu=lambda: ADA)
    assert runner is None
    assert "no engine is built from text.int8-cpu" in why


def test_preflight_checks_what_a_text_plan_takes(text_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_record, "version_of", lambda _: "1.7.1.116")
    bundle = Bundle.open(text_bundle_copy)
    assert preflight(add_engine(text_bundle_copy, "text"), bundle, lambda: ADA) == ADA
    with pytest.raises(EngineError, match=r"takes sentences of None tokens, text.fp32 is for \(1, 8, 8\)"):
        preflight(add_engine(text_bundle_copy, "text", lengths=None), bundle, lambda: ADA)
    tokens = [{"name": "input_ids", "shape": [-1, 8], "dtype": "INT64"}]
    with pytest.raises(EngineError, match=r"its sidecar takes or gives .*input_ids"):
        preflight(add_engine(text_bundle_copy, "text", inputs=tokens), bundle, lambda: ADA)


def test_allow_build_builds_the_encoders_plan_when_the_first_words_come(
    text_bundle_copy: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmdkit.runtime.engines.build import BuildResult

    faked()
    built: list[str] = []

    def build(bundle: Bundle, name: str, *_: object, **__: object) -> BuildResult:
        built.append(name)
        kind, precision = name.split(".")
        return BuildResult(add_engine(bundle.path, kind, precision), cached=False, seconds=1.0)

    monkeypatch.setattr(choose, "build_engine", build)
    monkeypatch.setattr(choose, "installed_flavours", lambda: ["tensorrt_rtx"])
    with Runtime.open(text_bundle_copy, graph="fp32", allow_build=True) as runtime:
        assert built == ["fusion.fp32"]
        runtime.predict(text=SENTENCES, **rest(text_bundle_copy))
        assert built == ["fusion.fp32", "text.fp32"]
        assert (runtime.text_backend or "").startswith("tensorrt_rtx")
