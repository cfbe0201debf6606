"""The search: what goes back to float, what is remembered, and what decides on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.graph.qdq import scales_in
from dmdkit.calibration.integer_cpu import FORMS, can_be_integer, with_integer_arithmetic
from dmdkit.calibration.lowerings import lower_for_cpu, modelopt_scales
from dmdkit.calibration.ranges import observe
from dmdkit.calibration.search.cpu import choose_cpu_arithmetic, layer_latencies
from dmdkit.calibration.search.layer_toggles import LayerToggles
from dmdkit.calibration.search.planning import Progress, SearchOptions, plan_int8
from dmdkit.calibration.search.sensitivity import LayerError
from dmdkit.calibration.search.state import SearchState
from dmdkit.calibration.search.static import choose_method, keep_in_float, with_room
from dmdkit.parity.compare import HopRecord, compare
from dmdkit.parity.int8_report import CandidateRecord, ErrorFigures
from dmdkit.parity.paired_latency import paired_ratio
from dmdkit.runtime.backends.onnxruntime import cpu_session
from tests.calibration.builders import samples_of
from tests.conftest import tiny_dataset

Array = npt.NDArray[np.float32]
OUTPUTS = ["score", "edges_homo", "edges_hetero"]


@pytest.fixture(scope="module")
def explain(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "graphs/explain.fp32.onnx")


@pytest.fixture(scope="module")
def fusion(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "graphs/fusion.fp32.onnx")


@pytest.fixture(scope="module")
def samples():
    data = tiny_dataset()
    return samples_of(data.splits["train"], data.splits["test"])


@pytest.fixture(scope="module")
def ranges(explain: onnx.ModelProto, samples):
    tensors = {name for layer in layers_of(explain) for name in (*layer.activations.values(), layer.node.output[0])}
    return observe(explain, tensors, samples.calibration)


@pytest.fixture(scope="module")
def placed(explain: onnx.ModelProto, samples):
    return modelopt_scales(explain, samples.calibration)


@pytest.fixture(scope="module")
def board(explain: onnx.ModelProto, placed) -> LayerToggles:
    return LayerToggles(explain, placed, OUTPUTS)


def failing_unless(off: set[str], computed_layers: tuple[str, ...]):
    """A judge that passes only once enough layers are in float: it counts what is left."""
    seen: list[int] = []

    def judge(before: dict[str, Array], after: dict[str, Array]) -> HopRecord:
        seen.append(1)
        status = "passed" if len(seen) > len(off) else "failed"
        return HopRecord(
            source="a", target="b", kind="measured", samples=60, worst_sample="x", status=status, reason="as the test says"
        )

    return judge


def test_layers_go_back_to_float_in_the_order_of_the_ranking_until_the_verdict_holds(board, ranges, samples):
    choice = choose_method(board, ranges, samples.validation, samples.judge, ("max",), calibration_samples=64)
    ranking = list(board.computed[:5])
    kept, tried = keep_in_float(board, samples.validation, failing_unless(set(ranking[:2]), board.computed), choice, ranking)
    assert kept == ranking[:3]
    assert [record.layers_in_float for record in tried] == [1, 2, 3]
    assert [record.status for record in tried] == ["failed", "failed", "passed"]
    errors = [record.score_error.p99 for record in tried]
    assert len(set(errors)) > 1, "the graph that is judged must change with the layers"


def test_a_search_without_time_keeps_nothing(board, ranges, samples):
    choice = choose_method(board, ranges, samples.validation, samples.judge, ("max",), calibration_samples=64)
    kept, tried = keep_in_float(board, samples.validation, samples.judge, choice, list(board.computed), deadline=0.0)
    assert (kept, tried) == ([], [])


def test_the_method_with_the_smallest_error_is_taken_and_all_are_reported(board, ranges, samples):
    choice = choose_method(board, ranges, samples.validation, samples.judge, ("max", "entropy", "mse"), calibration_samples=64)
    assert [record.method for record in choice.tried] == ["max", "entropy", "mse"]
    passed = [record for record in choice.tried if record.status != "failed"] or choice.tried
    assert choice.method == min(passed, key=lambda record: record.score_error.p99).method


def test_integer_arithmetic_answers_like_float_in_both_forms(fusion, ranges, samples):
    def score(model: onnx.ModelProto) -> Array:
        return cpu_session(model.SerializeToString()).run(["score"], dict(samples.validation))[0]

    before = score(fusion)
    layers = [layer.name for layer in layers_of(fusion) if can_be_integer(layer)]
    assert len(layers) > 20
    # With every layer forced into static INT8 a tiny model keeps less: 0.948 and 0.965 on two of them, by the same code.
    limits = {"dynamic": 0.99, "static": 0.9}
    for form in FORMS:
        after = score(with_integer_arithmetic(fusion, dict.fromkeys(layers, form), ranges))
        assert np.corrcoef(before[:, 0], after[:, 0])[0, 1] > limits[form], form
        assert np.abs(before - after).max() > 0, form


def test_an_integer_layer_counts_as_computed_and_stored_in_int8(fusion, ranges):
    from dmdkit.calibration.graph.analysis import share_computed_int8, share_stored_int8, weight_bytes

    layers = [layer for layer in layers_of(fusion) if can_be_integer(layer)]
    plain = lower_for_cpu(fusion)
    assert share_computed_int8(plain.model) == 0.0
    assert not plain.calibrated
    for form in FORMS:
        lowering = lower_for_cpu(fusion, {layer.name: form for layer in layers}, ranges)
        expected = sum(layer.multiply_adds for layer in layers) / sum(layer.multiply_adds for layer in layers_of(fusion))
        assert share_computed_int8(lowering.model) == pytest.approx(expected)
        assert share_stored_int8(lowering.model) == 1.0
        assert weight_bytes(lowering.model) < 1.1 * weight_bytes(plain.model)
        assert lowering.calibrated == (form == "static")


def test_products_of_two_activations_stay_in_float(fusion):
    without = [layer for layer in layers_of(fusion) if layer.weight is None]
    assert without
    assert not any(can_be_integer(layer) for layer in without)


def test_every_layer_that_can_be_integer_is_timed_and_remembered(fusion, ranges, samples, explain):
    sample = {name: array[:1] for name, array in samples.validation.items()}
    state = SearchState(explain, {"validation": samples.validation}, "a test")
    found = layer_latencies(fusion, sample, ranges, state=state)
    assert set(found) == {layer.name for layer in layers_of(fusion) if can_be_integer(layer)}
    assert all(ratio > 0 for ratios in found.values() for ratio in ratios.values())
    state.save(now=True)
    again = SearchState(explain, {"validation": samples.validation}, "a test")
    assert again.latencies == found
    assert layer_latencies(fusion, sample, ranges, state=again, deadline=0.0) == found, "nothing is left to measure"


def record(status: str) -> CandidateRecord:
    return CandidateRecord(what="x", score_error=ErrorFigures(max=0.1, p99=0.1), status=status, reason="")


def test_layers_that_lose_alone_are_not_tried_and_a_failed_verdict_is_not_taken(fusion, ranges, samples):
    sample = {name: array[:1] for name, array in samples.validation.items()}
    layers = [layer.name for layer in layers_of(fusion) if can_be_integer(layer)]

    def lower(forms):
        return lower_for_cpu(fusion, forms, ranges).model.SerializeToString(), {}

    def refuse(forms) -> CandidateRecord:
        asked.append(len(forms))
        return record("failed")

    asked: list[int] = []
    slow = {name: {"static": 1.2, "dynamic": 3.0} for name in layers}
    assert choose_cpu_arithmetic(fusion, sample, slow, lower, refuse).forms == {}
    assert asked == []
    fast = {name: {"static": 0.5} for name in layers[:4]}
    assert choose_cpu_arithmetic(fusion, sample, fast, lower, refuse).forms == {}
    assert asked == [4, 2, 1]


def test_an_unreadable_or_foreign_state_is_measured_again(explain, samples):
    first = SearchState(explain, {"validation": samples.validation}, "max")
    first.errors = {"/a": LayerError(ErrorFigures(max=1.0, p99=0.5, sqnr_db=3.0), None)}
    first.save(now=True)
    assert first.path is not None
    assert SearchState(explain, {"validation": samples.validation}, "max").errors == first.errors
    assert SearchState(explain, {"validation": samples.validation}, "entropy").errors == {}
    moved = {name: array + 1 for name, array in samples.validation.items()}
    assert SearchState(explain, {"validation": moved}, "max").errors == {}
    good = json.loads(first.path.read_text())
    for text in ("", "{", "[" * 10_000, json.dumps({**good, "key": "0" * 64}), json.dumps({**good, "seconds": -1})):
        first.path.write_text(text)
        assert SearchState(explain, {"validation": samples.validation}, "max").errors == {}


def test_a_plan_goes_on_where_it_was_interrupted(explain, fusion, samples, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graphs = {"explain": {layer.name for layer in layers_of(explain)}, "fusion": {layer.name for layer in layers_of(fusion)}}

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise StoppedError

    options = SearchOptions(method="max")
    monkeypatch.setattr("dmdkit.calibration.search.state._SAVE_EVERY_S", 0.0)
    with pytest.raises(StoppedError):
        plan_int8(explain, samples, graphs=graphs, options=options, timed=fusion, progress=Progress(on_progress=stop))
    ticks: list[int] = []
    plan = plan_int8(
        explain,
        samples,
        graphs=graphs,
        options=options,
        timed=fusion,
        progress=Progress(on_progress=lambda d, t: ticks.append(d)),
    )
    assert ticks[0] == 6, "five layers were known"
    assert plan.search is not None
    assert plan.search.complete
    assert all(layer.score_error for layer in plan.layers if layer.weight_shape)
    assert set(plan.scales) <= {layer.name for layer in plan.layers}


def test_without_a_search_modelopts_placement_is_taken_as_it_is(explain, fusion, samples, placed):
    graphs = {"explain": {layer.name for layer in layers_of(explain)}}
    plan = plan_int8(explain, samples, graphs=graphs, options=SearchOptions(mode="none"))
    assert plan.search is None
    assert plan.method == "max"
    assert set(plan.scales) == set(placed)
    assert plan.cpu_forms == {}
    assert all(layer.score_error is None for layer in plan.layers)


def test_scales_of_a_lowered_graph_are_read_back(explain, placed):
    from dmdkit.calibration.lowerings import static_int8

    found = scales_in(static_int8(explain, placed).model)
    assert found.keys() == placed.keys()
    for name, operands in placed.items():
        assert found[name] == pytest.approx(operands)


def test_a_paired_ratio_is_the_median_of_the_rounds_and_its_interval_holds_it():
    generator = np.random.default_rng(0)
    slow = generator.uniform(1, 3, 200)  # a machine whose speed wanders
    found = paired_ratio(1.1 * slow, slow)
    assert found.ratio == pytest.approx(1.1)
    assert found.low <= found.ratio <= found.high
    assert found.rounds == 200
    single = paired_ratio([2.0], [1.0])
    assert (single.low, single.ratio, single.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("share", "status"), [(0.3, "passed"), (0.7, "failed")])
@pytest.mark.parametrize("what", ["edges", "score"])
def test_what_passes_only_just_on_few_samples_is_not_taken(share: float, status: str, what: str):
    generator = np.random.default_rng(0)
    before = {
        "score": generator.normal(size=(200, 1)).astype(np.float32),
        "edges_homo": np.full((200, 6), 1 / 6, np.float32),
    }
    after = {name: array.copy() for name, array in before.items()}
    if what == "edges":
        after["edges_homo"][3, 0] += np.float32(share * 0.02)
    else:
        after["score"][:4] += np.float32(share * 0.25 * before["score"].std())  # 2 % of the samples, both ways
        after["score"][4:8] -= np.float32(share * 0.25 * before["score"].std())

    def judge(old, new) -> HopRecord:
        return compare(
            "a", "b", old, new, precision="int8-trt", task="regression", label_range=(-3.0, 3.0),
            labels=before["score"][:, 0], ids=tuple(map(str, range(200))),
        )  # fmt: skip

    assert judge(before, after).status == "passed"
    found = with_room(judge)(before, after)
    assert found.status == status
    assert status == "passed" or "too near the limit" in found.reason
