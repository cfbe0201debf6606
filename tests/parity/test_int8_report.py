"""report/int8.json: what a bundle says of its INT8, and what is not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dmdkit.errors import BundleError
from dmdkit.parity.int8_report import INT8_REPORT, read_int8_report, write_int8_report
from dmdkit.parity.int8_verdict import Tried, judge_targets
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.manifest import VerdictRecord


@pytest.fixture
def bundle_copy(searched_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched_bundle, tmp_path / "copy.dmd"))


def test_an_exported_bundle_explains_every_layer_and_target(searched_bundle: Path):
    report = read_int8_report(searched_bundle)
    assert report is not None
    manifest = Bundle.open(searched_bundle).manifest
    assert {target.graph for target in report.targets} == {n for n in manifest.graphs if ".int8" in n}
    assert all(layer.score_error is not None for layer in report.layers if layer.weight_shape)
    assert all(set(layer.targets) == {"int8-cpu", "int8-trt"} for layer in report.layers)
    for target in report.targets:
        assert target.stored_int8 == manifest.graphs[target.graph].weights_stored_int8
        kind = target.graph.split(".")[0]
        held = [layer for layer in report.layers if kind in layer.graphs]
        computed = sum(i.multiply_adds for i in held if i.targets[target.precision].computed == "int8")
        assert computed / sum(i.multiply_adds for i in held) == pytest.approx(target.computed_int8)
    for precision in ("int8-cpu", "int8-trt"):
        tried = next(target for target in report.targets if target.precision == precision).candidates
        assert sum(candidate.chosen for candidate in tried) == 1
    assert {c.method for t in report.targets if t.precision == "int8-trt" for c in t.candidates} >= {"max", "entropy", "mse"}
    quantised = [layer for layer in report.layers if layer.targets["int8-trt"].computed == "int8"]
    assert quantised
    assert all(any(item.scale for item in layer.activations) for layer in quantised)


def test_writing_and_reading_gives_the_same(bundle_copy: Path):
    report = read_int8_report(bundle_copy)
    assert report is not None
    write_int8_report(bundle_copy, report)
    assert read_int8_report(bundle_copy) == report


def test_a_bundle_without_one_has_none(bundle_copy: Path):
    (bundle_copy / INT8_REPORT).unlink()
    assert read_int8_report(bundle_copy) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("[" * 5000, "damaged"),
        ('{"schema_version": 2}', "schema_version"),
        ("\x00\x1b[31m", "damaged"),
    ],
)
def test_a_damaged_one_is_refused_in_one_readable_line(bundle_copy: Path, text: str, said: str):
    (bundle_copy / INT8_REPORT).write_text(text)
    with pytest.raises(BundleError, match=said) as caught:
        read_int8_report(bundle_copy)
    assert "export the bundle again" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_figure_that_is_not_finite_or_a_name_that_occurs_twice_is_refused(bundle_copy: Path):
    path = bundle_copy / INT8_REPORT
    good = json.loads(path.read_text())
    for change in ("layers", "targets"):
        bad = json.loads(json.dumps(good))
        bad[change].append(bad[change][0])
        path.write_text(json.dumps(bad))
        with pytest.raises(BundleError, match="occurs twice"):
            read_int8_report(bundle_copy)
    path.write_text(json.dumps(good).replace('"seconds": ', '"seconds": NaN, "x": '))
    with pytest.raises(BundleError, match="damaged"):
        read_int8_report(bundle_copy)


def test_a_link_out_of_the_bundle_is_refused(bundle_copy: Path, tmp_path: Path):
    path = bundle_copy / INT8_REPORT
    (tmp_path / "elsewhere.json").write_text(path.read_text())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="leaves it"):
        read_int8_report(bundle_copy)


@pytest.mark.parametrize(
    ("status", "worth_it", "said"),
    [("failed", False, "not worth it here"), ("unverified", None, "cannot be said yet"), ("passed", None, "not measured here")],
)
def test_the_sentence_never_promises_what_was_not_measured(
    searched_bundle: Path, status: str, worth_it: bool | None, said: str
):
    manifest = Bundle.open(searched_bundle).manifest
    verdict = VerdictRecord(status=status, reason="because", samples=60)
    graphs = {name: graph.model_copy(update={"verdict": verdict}) for name, graph in manifest.graphs.items()}
    judged = judge_targets(manifest.model_copy(update={"graphs": graphs}), None, {"fusion.int8-trt": Tried("max")}, {})
    for target in judged:
        assert target.worth_it is worth_it
        assert said in target.sentence
    assert {t.latency.status for t in judged if t.precision == "int8-trt"} == {"simulated"}


def test_integers_on_the_cpu_are_left_to_onnx_runtime(searched_bundle: Path):
    record = Bundle.open(searched_bundle).manifest.graphs["fusion.int8-cpu"]
    assert not record.model_copy(update={"multiply_adds_int8": 0.0}).onnxruntime_only
    assert record.model_copy(update={"multiply_adds_int8": 0.4}).onnxruntime_only
