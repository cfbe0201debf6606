"""INT8 on the page: a sentence per target, layers ranked, calibration covered, and gaps named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from dmdkit.parity.int8_report import Int8Report
from dmdkit.report import render
from dmdkit.report.facts import Facts
from dmdkit.report.int8_section import calibration_section, layers_section, targets_section
from tests.report.test_page import elements, text


def layer(name: str, error: float | None, computed: str = "int8", **change: Any) -> dict[str, Any]:
    figures = None if error is None else {"max": 2 * error, "p99": error, "sqnr_db": 40.0}
    choice = {"stored": "int8", "computed": computed, "reason": f"because of {name}", "latency_ratio": 1.25}
    scale = {"operand": 0, "minimum": -1.5, "maximum": 2.5, "p99_9": 2.0, "zero_share": 0.25, "scale": 0.02}
    return {
        "name": name,
        "kind": "Conv",
        "graphs": ["fusion", "explain"],
        "weight_shape": [8, 7, 1],
        "multiply_adds": 336_000,
        "score_error": figures,
        "edge_error": figures,
        "activations": [scale],
        "targets": {"int8-trt": choice},
        **change,
    }


def target(graph: str = "fusion.int8-cpu", **change: Any) -> dict[str, Any]:
    score = {"max": 0.2, "p99": 0.1, "sqnr_db": 30.0}
    candidate = {
        "what": "percentile, 3 layers in float",
        "score_error": score,
        "status": "passed",
        "reason": "within every limit",
        "chosen": True,
    }
    return {
        "graph": graph,
        "precision": graph.partition(".")[2],
        "candidates": [candidate],
        "size_bytes": 290,
        "fp32_size_bytes": 1000,
        "stored_int8": 1.0,
        "computed_int8": 0.92,
        "latency": {"status": "measured", "ratio": 0.8, "interval": [0.75, 0.85], "rounds": 200, "machine": {"cpu": "Big CPU"}},
        "metrics": [{"name": "mae", "before": 0.9, "after": 0.91, "interval": [0.001, 0.02]}],
        "parity": "passed",
        "samples": 209,
        "worth_it": True,
        "sentence": "use it: 0.29 of the size",
        **change,
    }


COVERAGE = {
    "samples": 100,
    "available": 400,
    "strata": [
        {"low": -3.0, "high": -1.0, "available": 100, "chosen": 50},
        {"low": -1.0, "high": 3.0, "available": 300, "chosen": 50},
    ],
    "modalities": {
        name: {"range_share": share, "extremes": 3, "empty_available": 4, "empty_chosen": 2}
        for name, share in (("text", 1.0), ("audio", 0.5), ("vision", 0.75))
    },
}


def report(**change: Any) -> Int8Report:
    layers = [layer("/small", 0.001), layer("/large", 0.5, "fp32"), layer("/unknown", None)]
    search = {"mode": "auto", "split": "valid", "samples": 74, "budget_s": 60.0, "seconds": 60.5, "complete": False}
    given = {"created": "2026-01-01", "calibration": COVERAGE, "search": search, "layers": layers, "targets": [target()]}
    return Int8Report.model_validate({**given, **change})


def with_int8(facts: Facts, **change: Any) -> Facts:
    return dataclasses.replace(facts, int8=report(**change))


@pytest.mark.parametrize(
    ("worth", "mark", "sentence", "said"),
    [
        (True, "✓ use it", "use it: 0.29 of the size", "0.29 of the size"),
        (False, "✗ not worth it here", "not worth it here: too slow", "too slow"),
        (None, "? open", "cannot be said yet: not proven", "cannot be said yet: not proven"),
    ],
)
def test_each_target_has_its_sentence(facts: Facts, worth: bool | None, mark: str, sentence: str, said: str):
    shown = text(targets_section(with_int8(facts, targets=[target(worth_it=worth, sentence=sentence)])).body)
    assert f"fusion.int8-cpu {mark} {said}" in shown


def test_the_target_table_shows_both_shares_and_names_the_machine(facts: Facts):
    shown = text(targets_section(with_int8(facts)).body)
    assert "0.29× 100 % / 92 %" in shown
    assert "0.80× [0.750, 0.850] measured on Big CPU, 200 rounds" in shown
    assert "+0.0100 [+0.0010, +0.0200]" in shown
    assert "percentile, 3 layers in float chosen" in shown
    assert "fp16" not in shown


def test_a_measured_ratio_stands_in_for_a_latency_that_was_not_measured_here(facts: Facts):
    page = text(render(dataclasses.replace(with_int8(facts), latencies=[])))
    assert "0.80× the latency of fp32 fusion.int8-cpu, median of 200 paired rounds on Big CPU" in page


def test_fp16_stands_beside_int8_where_the_bundle_has_it(facts: Facts):
    half = target(fp16_size_bytes=510, fp16_metrics=[{"name": "mae", "before": 0.9, "after": 0.9}])
    shown = text(targets_section(with_int8(facts, targets=[half])).body)
    assert "fp16: size" in shown
    assert "0.51×" in shown


def test_layers_are_drawn_most_harmed_first_in_the_colour_of_their_arithmetic(facts: Facts):
    body = layers_section(with_int8(facts)).body
    shown = text(body)
    assert shown.index("large") < shown.index("small")
    assert body.index('class="bar float"') < body.index('class="bar int8"')
    assert body.count('class="bar ') == 2  # what was not measured has no bar
    assert "Ranked on 74 samples (valid)" in shown
    assert "The time ran out" in shown
    assert "because of /unknown; INT8 takes 1.25× the time of float" in shown
    assert "−1.50 2.50 2.00 25 % 0.0200" in shown


def test_no_more_layers_are_drawn_than_a_page_holds_and_the_table_has_all(facts: Facts):
    many = [layer(f"/block/{index}/" + "deep/" * 20, 1.0 / (index + 1)) for index in range(60)]
    body = layers_section(with_int8(facts, layers=many)).body
    assert body.count('class="bar ') == 20
    assert "All 60 layers" in body


def test_a_text_encoders_layers_have_figures_of_their_own(facts: Facts):
    own = [layer(f"/layers/{index}/up", 0.5, graphs=["text"]) for index in range(12)]
    body = layers_section(with_int8(facts, layers=[layer("/student/a", 0.01), *own])).body
    assert "Layers 1 to 1 of 1, most harmed first" in body
    assert "Layers 11 to 12 of 12 of the text encoder, most harmed first" in body
    assert "text: layers/0/up" in body


def test_without_a_search_the_missing_chart_is_named(facts: Facts):
    found = layers_section(with_int8(facts, search=None, layers=[layer("/a", None)]))
    assert "<svg" not in found.body
    assert "not ranked" in found.missing[0]


def test_calibration_shows_strata_and_ranges(facts: Facts):
    body = calibration_section(with_int8(facts)).body
    shown = text(body)
    assert "labels −3 to −1 50 of 100" in shown
    assert body.count('class="mark"') == 2
    assert "audio 50 % 3 2 of 4" in shown
    assert calibration_section(with_int8(facts)).missing == []


def test_calibration_without_coverage_says_so_and_draws_nothing(facts: Facts):
    found = calibration_section(with_int8(facts, calibration=None))
    assert "<svg" not in found.body
    assert "coverage is not drawn" in found.missing[0]


def test_classes_are_strata_of_one_value(facts: Facts):
    strata = [{"low": 2.0, "high": 2.0, "available": 9, "chosen": 3}]
    assert "class 2 3 of 9" in text(calibration_section(with_int8(facts, calibration={**COVERAGE, "strata": strata})).body)


def test_names_from_the_file_are_escaped(facts: Facts):
    bad = "<script>x</script>"
    page = render(
        with_int8(facts, layers=[layer(bad, 0.1)], targets=[target(bad + ".int8", sentence=bad)], calibration=COVERAGE)
    )
    assert "<script" not in page
    elements(page)
