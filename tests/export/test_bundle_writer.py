"""Bundles as written: what is in them, what is refused, and that a failure leaves nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dmdkit.cli import main
from dmdkit.data import write_dataset
from dmdkit.errors import BundleError
from dmdkit.export.bundle_files import check_replaceable
from dmdkit.export.bundle_writer import ExportOptions, export_bundle
from dmdkit.files import sha256_of_file
from dmdkit.runtime.bundle import Bundle
from dmdkit.training.evaluation import load_system
from dmdkit.training.run import Run
from tests.conftest import ROOT, tiny_dataset


def test_bundle_holds_what_the_manifest_says_and_nothing_else(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    bundle.verify()
    found = {str(path.relative_to(tiny_bundle)) for path in tiny_bundle.rglob("*") if path.is_file()}
    reports = {"report/parity.json", "report/int8.json", "report/report.html"}
    assert found == {"manifest.json", *reports, *bundle.manifest.files}


def test_manifest_records_model_inputs_calibration_and_source(tiny_bundle: Path, tiny_run: Path) -> None:
    manifest, run = Bundle.open(tiny_bundle).manifest, Run.open(tiny_run)
    assert manifest.model == run.facts.shape
    assert manifest.source.model_sha256 == run.model_sha256
    assert manifest.source.data_sha256 == run.config.data.sha256
    assert manifest.inputs["text"].normalisation == "standardise"
    assert manifest.inputs["audio"].padding_side == "left"
    calibration = manifest.calibration
    assert calibration is not None
    assert len(calibration.sample_ids) == 64
    assert all(sample.startswith("train-") for sample in calibration.sample_ids)
    assert calibration.used_by == ["explain.int8-trt", "fusion.int8-trt"]


def test_int8_weights_are_int8_tensors_and_both_coverages_are_recorded(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    for name in ("fusion.int8-cpu", "fusion.int8-trt", "explain.int8-cpu", "explain.int8-trt"):
        record = manifest.graphs[name]
        model = onnx.load(tiny_bundle / record.file)
        matrices = [t for t in model.graph.initializer if len(t.dims) >= 2 and int(np.prod(t.dims)) >= 64]
        large_floats = [t.name for t in matrices if t.data_type == TensorProto.FLOAT and int(np.prod(t.dims)) > 200]
        stored = [t for t in matrices if t.data_type == TensorProto.INT8]
        assert len(stored) > 20, name
        assert large_floats == [], name
        assert record.weights_stored_int8 == 1.0
    assert manifest.graphs["fusion.int8-cpu"].multiply_adds_int8 == 0.0
    assert manifest.graphs["fusion.int8-trt"].multiply_adds_int8 > 0.5
    assert manifest.graphs["fusion.int8-trt"].simulated_on_cpu


def test_every_graph_carries_a_verdict_with_its_sample_count(tiny_bundle: Path) -> None:
    for name, record in Bundle.open(tiny_bundle).manifest.graphs.items():
        assert record.verdict.status in ("passed", "failed"), name
        assert record.verdict.samples == 60


@pytest.mark.slow
def test_export_without_int8_needs_no_calibration(tiny_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "b.dmd")]) == 0
    manifest = Bundle.open(tmp_path / "b.dmd").manifest
    assert manifest.calibration is None
    assert set(manifest.graphs) == {"fusion.fp32", "explain.fp32", "gd_homo.fp32", "gd_hetero.fp32"}


@pytest.mark.slow
def test_synthetic_golden_samples_keep_recordings_out_of_the_bundle(tiny_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "b.dmd"), "--golden", "synthetic"]) == 0
    bundle = Bundle.open(tmp_path / "b.dmd")
    assert bundle.manifest.golden.kind == "synthetic"
    test = tiny_dataset().splits["test"].text
    golden = bundle.golden().inputs["text"]
    assert not any(np.array_equal(g, t) for g in golden for t in test)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--calib", "{other_width}"], "features"),
        (["--calib", "{scaled}"], "training range"),
        (["--calib", "{few}"], "at least 32"),
        (["--calib", "{held_out_ids}"], "also stands in the test data"),
        (["--calib", "{held_out_content}"], "same features as"),
        (["--calib", "{no_train}"], "no train split"),
        (["--calib", "{silent}"], "all zero in every calibration sample"),
    ],
)
def test_calibration_data_that_would_lie_is_refused_and_leaves_nothing(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    files = _calibration_files(tmp_path)
    out = tmp_path / "b.dmd"
    filled = [argument.format(**files) for argument in arguments]
    parity = ["--parity-data", str(files["good"])]
    assert main(["export", str(tiny_run), "--int8", "--out", str(out), *filled, *parity]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert said in errors[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files.values())


def _calibration_files(tmp_path: Path) -> dict[str, Path]:
    from dataclasses import replace

    def changed(name: str, **splits: object) -> Path:
        data = tiny_dataset()
        kept = {key: value for key, value in {**data.splits, **splits}.items() if value is not None}
        path = tmp_path / f"{name}.npz"
        write_dataset(replace(data, splits=kept), path)
        return path

    data = tiny_dataset()
    train, test = data.splits["train"], data.splits["test"]
    wide = {name: replace(s, text=np.pad(s.text, ((0, 0), (0, 0), (0, 1)))) for name, s in data.splits.items()}
    copied = train.text.copy(), train.audio.copy(), train.vision.copy()
    for target, source in zip(copied, (test.text, test.audio, test.vision), strict=True):
        target[:3] = source[:3]
    few = train.take(np.arange(10))
    return {
        "good": changed("good"),
        "other_width": changed("other_width", **wide),
        "scaled": changed("scaled", train=replace(train, audio=train.audio * 10)),
        "few": changed("few", train=few),
        "held_out_ids": changed("held_out_ids", train=replace(train, ids=(*test.ids, "x", "y", "z", "w")), test=None),
        "held_out_content": changed(
            "held_out_content", train=replace(train, text=copied[0], audio=copied[1], vision=copied[2]), test=None
        ),
        "no_train": changed("no_train", train=None),
        "silent": changed("silent", train=replace(train, vision=np.zeros_like(train.vision))),
    }


def test_an_existing_bundle_is_replaced_only_with_force(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.dmd"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    assert main(["export", str(tiny_run), "--out", str(out)]) == 1
    assert main(["export", str(tiny_run), "--out", str(out), "--force"]) == 1, "not a bundle, so force does not apply"
    assert (out / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize("mine", ["notes.txt", "report/notes.txt", "graphs/mine.onnx", "run/model.safetensors", "golden/.x"])
def test_a_bundle_that_holds_anything_else_is_left_alone(tiny_run: Path, bundle_copy: Path, mine: str, capsys: Any) -> None:
    path = bundle_copy / mine
    path.parent.mkdir(exist_ok=True)
    path.write_text("keep me")
    assert main(["export", str(tiny_run), "--out", str(bundle_copy), "--force"]) == 1
    assert f"holds what is not a bundle's ({mine}), so it is left alone" in " ".join(capsys.readouterr().err.split())
    assert path.read_text() == "keep me"


def test_a_run_in_a_bundle_is_not_replaced_by_its_own_export(tiny_run: Path, bundle_copy: Path) -> None:
    run = shutil.copytree(tiny_run, bundle_copy / "run")
    assert main(["export", str(run), "--out", str(bundle_copy), "--force"]) == 1
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in tiny_run.iterdir())


def test_every_bundle_so_far_may_be_replaced(tiny_bundle: Path) -> None:
    older = ROOT / "tests/fixtures/bundles/0.1"
    for bundle in (tiny_bundle, older / "features", older / "words"):
        check_replaceable(bundle, force=True)


def test_a_bundle_names_the_weights_it_was_made_from(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    made_from = sha256_of_file(run / "model.safetensors")

    def replaced(*arguments: Any, **options: Any) -> Any:
        system = load_system(*arguments, **options)
        (run / "model.safetensors").write_bytes(b"of a later training")
        return system

    monkeypatch.setattr("dmdkit.export.bundle_writer.load_system", replaced)
    manifest, _ = export_bundle(Run.open(run), tmp_path / "b.dmd", ExportOptions())
    assert manifest.source.model_sha256 == made_from


def test_replacing_a_bundle_keeps_its_engines_and_spares_what_appears_meanwhile(
    tiny_run: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle_copy / "engines").mkdir()
    (bundle_copy / "engines/a.plan").write_bytes(b"hours on a device")
    before = (bundle_copy / "manifest.json").read_bytes()
    late = bundle_copy / "notes.txt"

    def reported(directory: Path) -> None:
        late.write_text("keep me")

    with monkeypatch.context() as patch:
        patch.setattr("dmdkit.export.bundle_writer.write_report", reported)
        with pytest.raises(BundleError, match=r"holds what is not a bundle's \(notes.txt\)"):
            export_bundle(Run.open(tiny_run), bundle_copy, ExportOptions(force=True))
    assert late.read_text() == "keep me"
    assert (bundle_copy / "manifest.json").read_bytes() == before
    late.unlink()
    export_bundle(Run.open(tiny_run), bundle_copy, ExportOptions(force=True))
    assert (bundle_copy / "engines/a.plan").read_bytes() == b"hours on a device"
    assert (bundle_copy / "manifest.json").read_bytes() != before


def test_parity_report_names_every_hop(tiny_bundle: Path) -> None:
    report = json.loads((tiny_bundle / "report/parity.json").read_text())
    hops = {(hop["source"], hop["target"]) for hop in report["hops"]}
    for kind in ("fusion", "explain"):
        assert ("pytorch.fp32", f"{kind}.fp32") in hops
        assert (f"{kind}.fp32", f"{kind}.int8-cpu") in hops
        assert (f"{kind}.fp32", f"{kind}.int8-trt") in hops
    assert next(hop for hop in report["hops"] if hop["target"] == "fusion.int8-trt")["kind"] == "simulated"
