"""report/int8.json where fp16 forms stand beside INT8: at export, and when they are added later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dmdkit.calibration.search.planning import Int8Plan
from dmdkit.export.fp16_forms import add_fp16_graphs
from dmdkit.export.int8_export import calibration_method
from dmdkit.parity.int8_report import CalibrationMethod, Int8Report, read_int8_report
from dmdkit.runtime.bundle import Bundle
from tests.runtime.builders import set_verdict


@pytest.fixture
def later(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle without fp16 forms, to which they were added without new parity data."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "later.dmd"))
    set_verdict(path, "unverified", "fusion.int8-trt", "explain.int8-trt")  # a proven one would stay as it is
    add_fp16_graphs(path)
    return path


def report_of(path: Path) -> Int8Report:
    report = read_int8_report(path)
    assert report is not None
    return report


def test_int8_is_compared_with_fp16_and_the_float_rest_is_called_what_it_is(engine_bundle: Path) -> None:
    report, manifest = report_of(engine_bundle), Bundle.open(engine_bundle).manifest
    for target in report.targets:
        half = manifest.graphs[f"{target.graph.split('.')[0]}.fp16"]
        assert target.fp16_size_bytes == manifest.files[half.file].size_bytes
        assert {metric.name for metric in target.fp16_metrics} >= {"mae"}
        if target.parity == "passed":
            assert "(fp16 0." in target.sentence
    computed = {layer.targets["int8-trt"].computed for layer in report.layers}
    assert "fp16" in computed
    assert {layer.targets["int8-cpu"].computed for layer in report.layers} <= {"fp32", "int8"}


def test_fp16_forms_that_come_later_are_in_the_report_and_known_metrics_stay(later: Path, tiny_bundle: Path) -> None:
    before, after = report_of(tiny_bundle), report_of(later)
    assert all(target.fp16_size_bytes is None for target in before.targets)
    assert all(target.fp16_size_bytes is not None for target in after.targets)
    manifest = Bundle.open(later).manifest
    for old, new in zip(before.targets, after.targets, strict=True):
        assert new.size_bytes == manifest.files[manifest.graphs[new.graph].file].size_bytes
        assert new.metrics == old.metrics, "golden samples have no labels, so nothing newer is known"
    assert "fp16" in {layer.targets["int8-trt"].computed for layer in after.layers}


def test_the_manifest_names_both_methods_where_the_text_encoders_is_another() -> None:
    def plan(method: CalibrationMethod, scales: dict[str, dict[int, float]]) -> Int8Plan:
        return Int8Plan(scales, method, {}, {}, ())

    layer = {"layer": {0: 0.1}}
    assert calibration_method([plan("mse", layer)]) == "mse"
    assert calibration_method([plan("mse", layer), plan("mse", layer)]) == "mse"
    assert calibration_method([plan("mse", layer), plan("max", layer)]) == "mse, text: max"
    assert calibration_method([plan("mse", layer), plan("max", {})]) == "mse", "no layer of it has a static range"
