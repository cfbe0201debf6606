"""A text encoder's INT8 is judged by the score it leads to, explained layer by layer, and softened where it must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from dmdkit.calibration.search.planning import Samples, SearchOptions
from dmdkit.calibration.text.planning import TextPlan, plan_text_int8
from dmdkit.export.text_inference import text_graph
from dmdkit.parity.compare import HopRecord, compare
from dmdkit.training.encoder_directory import read_encoder_directory
from tests.calibration.text.test_lowerings import tokens
from tests.text_builders import MAX_TOKENS

HELD = 60


@pytest.fixture(scope="module")
def graph(text_data: Path) -> ModelProto:
    return text_graph(read_encoder_directory(text_data.parent / "bert").encoder("zero"), MAX_TOKENS)


def score(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    features = outputs["text"]
    weights = np.random.default_rng(3).normal(size=features.shape[2]).astype(np.float32)
    return {"score": (features @ weights)[:, -1:]}


def samples(largest_error: float | None = None) -> Samples:
    """With the usual verdict, or one that fails above ``largest_error``."""

    def judge(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> HopRecord:
        ids = tuple(map(str, range(HELD)))
        hop = compare(
            "fp32", "candidate", before, after, precision="int8-cpu", task="regression", label_range=None, labels=None, ids=ids
        )
        if largest_error is None:
            return hop
        error = float(np.abs(after["score"] - before["score"]).max())
        passed = error <= largest_error
        return hop.model_copy(update={"status": "passed" if passed else "failed", "reason": f"error {error}", "output_sd": 1e9})

    return Samples(tokens(40), tokens(HELD, 1), "validation", judge, score)


def integers(found: TextPlan) -> int:
    return [node.op_type for node in found.for_cpu.model.graph.node].count("MatMulInteger")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_every_product_is_ranked_by_the_score(graph: ModelProto):
    steps: list[str] = []
    from dmdkit.calibration.search.planning import Progress

    found = plan_text_int8(graph, samples(), SearchOptions(method="max"), Progress(steps.append))
    layers = {layer.name: layer for layer in found.plan.layers}
    assert {name for name, layer in layers.items() if layer.graphs == ["text"]} == set(layers)
    ranked = [layer for layer in layers.values() if layer.weight_shape]
    assert len(ranked) == 8
    assert all(layer.score_error is not None and layer.score_error.p99 > 0 for layer in ranked)
    assert all(layer.targets["int8-cpu"].computed == "int8" for layer in ranked)
    assert all(layer.targets["int8-cpu"].computed == "fp32" for layer in layers.values() if not layer.weight_shape)
    assert integers(found) == 8
    assert [record.chosen for record in found.plan.tried["int8-cpu"]] == [True]
    assert found.plan.search is not None
    assert found.plan.search.complete
    assert steps[-2:] == ["text.int8-trt", "text.int8-cpu"]


def test_products_go_back_to_float_until_the_score_bears_it(graph: ModelProto):
    options = SearchOptions(method="max")
    plain = plan_text_int8(graph, samples(), options).plan.tried["int8-cpu"][0]
    found = plan_text_int8(graph, samples(plain.score_error.max * 0.7), options)
    tried = found.plan.tried["int8-cpu"]
    assert [record.status for record in tried] == ["failed"] * (len(tried) - 1) + ["passed"]
    assert [record.layers_in_float for record in tried] == list(range(len(tried)))
    kept = {layer.name for layer in found.plan.layers if "kept in float" in layer.targets["int8-cpu"].reason}
    assert 0 < len(kept) < 8
    assert integers(found) == 8 - len(kept)
    errors = {layer.name: layer.score_error.p99 for layer in found.plan.layers if layer.weight_shape and layer.score_error}
    assert max(errors, key=errors.__getitem__) in kept, "the most harmful goes first"


def test_without_a_search_the_first_form_stands_whatever_it_costs(graph: ModelProto):
    found = plan_text_int8(graph, samples(0.0), SearchOptions(mode="none"))
    assert [record.status for record in found.plan.tried["int8-cpu"]] == ["failed"]
    assert integers(found) == 8
    assert found.plan.search is None


def test_a_score_no_int8_bears_is_reported_as_incomplete(graph: ModelProto):
    found = plan_text_int8(graph, samples(0.0), SearchOptions(method="max"))
    assert integers(found) == 0
    assert found.plan.search is not None
    assert not found.plan.search.complete
