"""The OpenVINO backend: the same answers, the same contract, and chosen only where its own hop passed."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.errors import BundleError, InputError, MissingDependencyError
from dmdkit.parity.ledger import measure, record
from dmdkit.runtime import Runtime
from dmdkit.runtime.backends.openvino import OpenVinoRunner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.latency import write_latencies
from dmdkit.runtime.manifest import read_manifest
from dmdkit.runtime.open_graph import open_runner
from dmdkit.telemetry import import_openvino
from tests.runtime.builders import golden_inputs, one_sample, put_file, set_verdict, timed

FP32 = "fusion.fp32"


def test_a_missing_package_names_the_extra(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"dmdkit\[openvino\]"):
        open_runner(Bundle.open(tiny_bundle), FP32, backend="openvino")


def test_asking_for_a_backend_that_is_not_installed_names_the_extra(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dmdkit.runtime.choice.installed_backends", lambda: ["onnxruntime"])
    with pytest.raises(MissingDependencyError, match=r"dmdkit\[openvino\]"):
        Runtime.open(tiny_bundle, backend="openvino")
    assert main(["check", str(tiny_bundle), "--backend", "openvino"]) == 3
    assert "dmdkit[openvino]" in capsys.readouterr().err


def test_openvino_has_no_cuda(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="runs on CPUs"):
        Runtime.open(tiny_bundle, backend="openvino", device="cuda")


@pytest.fixture
def openvino() -> Any:
    try:
        return import_openvino()
    except ImportError:
        pytest.skip("openvino is not installed (pip install 'dmdkit[openvino]')")


@pytest.fixture
def runner(tiny_bundle: Path, openvino: Any) -> Any:
    with open_runner(Bundle.open(tiny_bundle), FP32, backend="openvino") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def proven(bundle_copy: Path, tiny_data: Path, openvino: Any) -> Path:
    """A bundle whose graphs all pass in ONNX Runtime, and were checked in OpenVINO too."""
    set_verdict(bundle_copy, "passed")
    assert main(["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "openvino"]) in (0, 2)
    return bundle_copy


@pytest.mark.parametrize("graph", ["fusion.fp32", "explain.fp32"])
@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_gives_the_answers_of_onnxruntime(tiny_bundle: Path, openvino: Any, graph: str, batch: int) -> None:
    bundle = Bundle.open(tiny_bundle)
    feed = {name: array[:batch].copy() for name, array in golden_inputs(tiny_bundle).items()}
    with open_runner(bundle, graph) as ours, open_runner(bundle, graph, backend="openvino") as theirs:
        expected, found = ours.infer(feed), theirs.infer(feed)
        assert [spec.shape for spec in theirs.inputs] == [spec.shape for spec in ours.inputs]
        assert list(theirs.outputs) == list(ours.outputs)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, atol=1e-5, rtol=0)


def test_a_model_of_real_steps_answers_as_in_onnxruntime(real_bundle: Path, openvino: Any) -> None:
    bundle = Bundle.open(real_bundle)
    feed = {name: array[:2].copy() for name, array in golden_inputs(real_bundle).items()}
    for array in feed.values():
        array[1, -2:] = 0.0
    for graph in ("fusion.fp32", "explain.fp32"):
        with open_runner(bundle, graph) as ours, open_runner(bundle, graph, backend="openvino") as theirs:
            assert set(theirs.inputs) == set(ours.inputs)
            found = theirs.infer(feed)
            for name, array in ours.infer(feed).items():
                np.testing.assert_allclose(found[name], array, atol=1e-5, rtol=0)


def test_batches_of_changing_size_are_all_right(runner: Any, tiny_bundle: Path) -> None:
    inputs = golden_inputs(tiny_bundle)
    whole = runner.infer(inputs)["score"]
    for batch in (1, 4, 1, 2, 16, 1):
        part = runner.infer({name: array[:batch].copy() for name, array in inputs.items()})["score"]
        np.testing.assert_allclose(part, whole[:batch], atol=1e-5)


def test_a_later_call_leaves_earlier_answers_alone(runner: Any, tiny_bundle: Path) -> None:
    samples = [{n: a[None] for n, a in one_sample(tiny_bundle, index).items()} for index in (0, 1)]
    first = runner.infer(samples[0])["score"]
    kept = first.copy()
    assert not np.array_equal(runner.infer(samples[1])["score"], kept)
    np.testing.assert_array_equal(first, kept)


def test_threads_do_not_mix_their_answers(runner: Any, tiny_bundle: Path) -> None:
    inputs = golden_inputs(tiny_bundle)
    expected = runner.infer(inputs)["score"]

    def score(index: int) -> float:
        row = index % len(expected)
        return float(runner.infer({n: a[row : row + 1].copy() for n, a in inputs.items()})["score"][0, 0])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(score, range(200)))
    np.testing.assert_allclose(found, [expected[i % len(expected), 0] for i in range(200)], atol=1e-5)


def test_openvino_computes_in_float32(runner: Any) -> None:
    (compiled,) = (held._model for held in runner._compiled.values())
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert str(compiled.get_property("NUM_STREAMS")) == "1"


def test_wrong_inputs_and_a_closed_runner_are_refused(tiny_bundle: Path, openvino: Any) -> None:
    feed = {name: array[:1].copy() for name, array in golden_inputs(tiny_bundle).items()}
    with open_runner(Bundle.open(tiny_bundle), FP32, backend="openvino") as opened:
        with pytest.raises(InputError, match="expected float32"):
            opened.infer({**feed, "text": feed["text"].astype(np.float64)})
        with pytest.raises(InputError, match="is missing"):
            opened.infer({"text": feed["text"]})
    with pytest.raises(InputError, match="closed"):
        opened.infer(feed)
    opened.close()


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x0a\x12"])
def test_a_damaged_graph_is_one_error(content: bytes, openvino: Any) -> None:
    with pytest.raises(BundleError, match=r"OpenVINO .* cannot load fusion\.fp32"):
        OpenVinoRunner(FP32, content)


def test_a_graph_of_another_shape_is_refused(bundle_copy: Path, openvino: Any) -> None:
    put_file(bundle_copy, "graphs/fusion.fp32.onnx", (bundle_copy / "graphs/gd_homo.onnx").read_bytes())
    with pytest.raises(BundleError, match="not what the manifest says"):
        open_runner(Bundle.open(bundle_copy), FP32, backend="openvino")


def test_check_adds_a_hop_for_each_graph_and_keeps_its_verdict(proven: Path) -> None:
    graphs = read_manifest(proven).graphs
    for name in ("fusion.fp32", "fusion.int8-cpu", "explain.fp32", "explain.int8-cpu"):
        assert graphs[name].backends["openvino"].status == "passed", name
    assert graphs["fusion.int8-trt"].backends == {}
    text = (proven / "report/parity.json").read_text()
    assert '"fusion.fp32@openvino"' in text
    assert "int8-trt@openvino" not in text


def test_a_check_without_openvino_keeps_its_verdicts(proven: Path, tiny_data: Path) -> None:
    assert main(["check", str(proven), "--data", str(tiny_data), "--backend", "onnxruntime"]) in (0, 2)
    assert read_manifest(proven).graphs[FP32].backends["openvino"].status == "passed"


@pytest.mark.slow
def test_auto_takes_openvino_where_it_is_measured_faster_and_proven(proven: Path) -> None:
    manifest = read_manifest(proven)
    names = ("fusion.fp32", "fusion.int8-cpu")
    slow = {(name, "onnxruntime"): timed(2.0) for name in names}
    write_latencies(manifest, 1, slow | {(FP32, "openvino"): timed(1.0), ("fusion.int8-cpu", "openvino"): timed(1.5)})
    sample = one_sample(proven)
    with Runtime.open(proven) as runtime, Runtime.open(proven, graph="fp32") as reference:
        assert (runtime.graph, runtime.backend.split()[0]) == (FP32, "openvino")
        assert reference.backend.startswith("onnxruntime")
        np.testing.assert_allclose(runtime.predict(**sample).score, reference.predict(**sample).score, atol=1e-5)
        np.testing.assert_allclose(runtime.explain(**sample).score, reference.explain(**sample).score, atol=1e-5)
        assert runtime.self_check(every_graph=True).passed
    with Runtime.open(proven, backend="onnxruntime") as runtime:
        assert runtime.backend.startswith("onnxruntime")


def test_auto_never_takes_openvino_unproven(bundle_copy: Path, openvino: Any) -> None:
    set_verdict(bundle_copy, "passed")
    manifest = read_manifest(bundle_copy)
    names = ("fusion.fp32", "fusion.int8-cpu")
    slow = {(name, "onnxruntime"): timed(2.0) for name in names}
    write_latencies(manifest, 1, slow | {(name, "openvino"): timed(0.1) for name in names})
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.backend.startswith("onnxruntime")
    with pytest.raises(BundleError, match="has passed parity in OpenVINO"):
        Runtime.open(bundle_copy, backend="openvino")
    with Runtime.open(bundle_copy, backend="openvino", graph="fp32") as runtime:
        assert runtime.backend.startswith("openvino")


@pytest.mark.slow
def test_wrong_answers_in_openvino_fail_there_and_nowhere_else(
    proven: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = OpenVinoRunner._infer
    monkeypatch.setattr(OpenVinoRunner, "_infer", lambda self, feed: {n: a + 0.01 for n, a in honest(self, feed).items()})
    assert main(["check", str(proven), "--data", str(tiny_data)]) == 2
    found = read_manifest(proven).graphs[FP32]
    assert (found.verdict.status, found.backends["openvino"].status) == ("passed", "failed")
    write_latencies(read_manifest(proven), 1, {("fusion.int8-cpu", "onnxruntime"): timed(2.0), (FP32, "openvino"): timed(0.1)})
    with Runtime.open(proven) as runtime:
        assert runtime.backend.startswith("onnxruntime")


@pytest.mark.slow
def test_an_unproven_base_makes_openvino_unproven(bundle_copy: Path, tiny_data: Path, openvino: Any) -> None:
    set_verdict(bundle_copy, "unverified")
    assert main(["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "openvino"]) == 2
    verdict = read_manifest(bundle_copy).graphs[FP32].backends["openvino"]
    assert verdict.status == "unverified"
    assert verdict.reason.startswith("fusion.fp32: ")


def test_golden_samples_prove_nothing_in_openvino(proven: Path) -> None:
    bundle = Bundle.open(proven)
    ledger = measure(
        bundle,
        split=None,
        split_name="golden",
        source="golden samples",
        data_sha256=None,
        backends=["onnxruntime", "openvino"],
    )
    hop = next(hop for hop in ledger.hops if hop.target == "fusion.fp32@openvino")
    assert (hop.source, hop.status) == (FP32, "unverified")
    assert record(proven, bundle.manifest, ledger).graphs[FP32].backends["openvino"].status == "passed"
