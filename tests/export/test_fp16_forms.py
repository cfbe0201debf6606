"""fp16 forms: inputs and outputs stay float32, the padding mask stays exact, and what stayed in fp32 is named."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from dmdkit.calibration.fp16 import NEAR_ZERO, lower_to_fp16, near_zero_samples
from dmdkit.data import load_dataset
from dmdkit.errors import BundleError, CalibrationError
from dmdkit.export.fp16_forms import add_fp16_graphs, has_fp16_rest
from dmdkit.files import locked_directory
from dmdkit.runtime.bundle import Bundle


def session(bundle: Bundle, name: str) -> ort.InferenceSession:
    record = bundle.graph(name)
    options = ort.SessionOptions()
    for key, value in record.session_options.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(bundle.path / record.file, options, providers=["CPUExecutionProvider"])


def test_export_fp16_adds_both_graphs_with_float32_inputs_and_outputs(engine_bundle: Path) -> None:
    bundle = Bundle.open(engine_bundle)
    bundle.verify()
    for kind in ("fusion", "explain"):
        record = bundle.graph(f"{kind}.fp16")
        model = onnx.load(engine_bundle / record.file)
        assert (record.opset, record.ir_version) == (20, 10)
        assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
        assert has_fp16_rest(model)
        size, base = (bundle.manifest.files[bundle.graph(f"{kind}.{p}").file].size_bytes for p in ("fp16", "fp32"))
        assert size < 0.75 * base, "a tiny model is mostly graph; weights halve"
        assert record.verdict.samples == 60


def test_int8_for_tensorrt_keeps_its_integer_share_when_its_rest_becomes_fp16(engine_bundle: Path, tiny_bundle: Path) -> None:
    mixed, plain = (Bundle.open(path).manifest.graphs["fusion.int8-trt"] for path in (engine_bundle, tiny_bundle))
    assert has_fp16_rest(onnx.load(engine_bundle / mixed.file))
    assert not has_fp16_rest(onnx.load(tiny_bundle / plain.file))
    assert mixed.multiply_adds_int8 == pytest.approx(plain.multiply_adds_int8)
    assert mixed.weights_stored_int8 == plain.weights_stored_int8 == 1.0


def test_the_report_names_every_node_that_stayed_in_fp32(engine_bundle: Path) -> None:
    report = json.loads((engine_bundle / "report/fp16.json").read_text())["graphs"]
    assert set(report) == {"fusion.fp16", "explain.fp16", "fusion.int8-trt", "explain.int8-trt"}
    for facts in report.values():
        assert 0 < len(facts["kept_fp32"]) < facts["nodes"] / 4
        assert any("pad_mask" in name for name in facts["kept_fp32"])


@pytest.mark.parametrize("name", ["fusion.fp16", "fusion.int8-trt"])
def test_inputs_near_1e_9_are_not_taken_for_padding(engine_bundle: Path, name: str) -> None:
    bundle = Bundle.open(engine_bundle)
    probe = near_zero_samples(bundle.golden().inputs)
    assert np.abs(probe["text"][:, 0]).max() == np.float32(NEAR_ZERO)
    exact = session(bundle, "fusion.fp32").run(["score"], probe)[0]
    found = session(bundle, name).run(["score"], probe)[0]
    padded = {key: np.where(np.abs(array) <= NEAR_ZERO * 2, np.float32(0), array) for key, array in probe.items()}
    as_padding = session(bundle, "fusion.fp32").run(["score"], padded)[0]
    assert np.abs(found - exact).max() < 0.25 * bundle.manifest.output_sd
    assert np.abs(found - exact).mean() < np.abs(as_padding - exact).mean() / 2, "taking it for padding would be seen"


def test_samples_are_required(engine_bundle: Path) -> None:
    model = onnx.load(engine_bundle / "graphs/fusion.fp32.onnx")
    with pytest.raises(CalibrationError, match="no samples for the fp16 form"):
        lower_to_fp16(model, {})


@pytest.mark.slow
def test_adding_fp16_to_a_bundle_measures_its_verdict_and_keeps_the_others(bundle_copy: Path, tiny_data: Path) -> None:
    before = Bundle.open(bundle_copy).manifest
    dataset = load_dataset(tiny_data, task="regression", label_range=before.label_range)
    manifest, report = add_fp16_graphs(bundle_copy, parity=(dataset, "test"))
    bundle = Bundle.open(bundle_copy)
    bundle.verify()
    assert bundle.manifest == manifest
    assert "fusion.fp16" in report.graphs
    assert manifest.graphs["fusion.fp16"].verdict.samples == 60
    assert "fusion.fp16" in bundle.golden().recorded
    assert manifest.graphs["fusion.int8-cpu"] == before.graphs["fusion.int8-cpu"]
    assert "fusion.fp16" in (bundle_copy / "report/report.html").read_text(encoding="utf-8")


def test_a_failure_leaves_the_bundle_as_it_was(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle_copy / "manifest.json").read_bytes()
    monkeypatch.setattr("dmdkit.export.fp16_forms.lower_to_fp16", lambda *_: (_ for _ in ()).throw(CalibrationError("no")))
    with pytest.raises(CalibrationError):
        add_fp16_graphs(bundle_copy)
    assert (bundle_copy / "manifest.json").read_bytes() == before
    assert [path.name for path in bundle_copy.parent.iterdir()] == [bundle_copy.name]


def test_a_proven_graph_is_replaced_only_where_the_new_one_is_proven_and_nothing_that_came_meanwhile_is_lost(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for graph in manifest["graphs"].values():
        graph["verdict"]["status"] = "passed"
    path.write_text(json.dumps(manifest))
    trt = {name: record for name, record in Bundle.open(bundle_copy).manifest.files.items() if "int8-trt" in name}

    def checked_meanwhile(_: Path) -> None:
        (bundle_copy / "report/parity.json").write_text("of a check beside this")

    with monkeypatch.context() as patch:
        patch.setattr("dmdkit.export.fp16_forms.write_report", checked_meanwhile)
        with pytest.raises(BundleError, match="was changed while graphs were added, so nothing was added"):
            add_fp16_graphs(bundle_copy)
    assert (bundle_copy / "report/parity.json").read_text() == "of a check beside this"

    def built_meanwhile(_: Path) -> None:
        (bundle_copy / "engines").mkdir()
        (bundle_copy / "engines/a.plan").write_bytes(b"x")

    with monkeypatch.context() as patch:
        patch.setattr("dmdkit.export.fp16_forms.write_report", built_meanwhile)
        after, report = add_fp16_graphs(bundle_copy)
    assert (bundle_copy / "engines/a.plan").read_bytes() == b"x"
    assert sorted(report.graphs) == ["explain.fp16", "fusion.fp16"]
    assert {name: after.files[name] for name in trt} == trt
    assert after.graphs["fusion.int8-trt"].verdict.status == "passed"


def test_a_bundle_that_another_command_is_changing_is_refused(bundle_copy: Path) -> None:
    with locked_directory(bundle_copy), pytest.raises(BundleError, match="another command is changing it; wait for that"):
        add_fp16_graphs(bundle_copy)


def test_a_missing_or_damaged_bundle_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        add_fp16_graphs(tmp_path / "none.dmd")
    graph = bundle_copy / "graphs/fusion.fp32.onnx"
    graph.write_bytes(b"\0" * graph.stat().st_size)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        add_fp16_graphs(bundle_copy)
