"""The precision proof on inspector JSON of both layouts."""

from __future__ import annotations

import json

import pytest

from dmdkit.errors import EngineError
from dmdkit.runtime.engines.inspector import prove_precision
from tests.runtime.engines.inspector_answers import PRODUCTS, inspector, layer


@pytest.mark.parametrize("eleven", [False, True], ids=["layout of 10", "layout of 11"])
def test_a_plan_that_computes_what_the_graph_asks_for_passes(eleven: bool) -> None:
    proof = prove_precision(inspector("int8", "fp16", eleven=eleven), PRODUCTS)
    assert proof.layout == ("tensorrt-11" if eleven else "tensorrt-10")
    assert (proof.expected_int8, proof.found_int8, proof.status) == (0.9, 0.9, "passed")
    assert proof.layers == {"/a/MatMul": "int8", "/a/MatMul_2": "fp16"}


@pytest.mark.parametrize("eleven", [False, True], ids=["layout of 10", "layout of 11"])
@pytest.mark.parametrize("fell_back_to", ["fp16", "fp32"])
def test_a_plan_whose_int8_share_falls_short_fails(eleven: bool, fell_back_to: str) -> None:
    proof = prove_precision(inspector(fell_back_to, "int8", eleven=eleven), PRODUCTS)
    assert proof.status == "failed"
    assert proof.reason == "10.0% of the multiply-adds in INT8, the graph asks for 90.0%"


def test_an_inspector_that_names_layers_only_proves_nothing() -> None:
    proof = prove_precision(json.dumps({"Layers": ["/a/MatMul", "/a/MatMul_2"], "Bindings": []}), PRODUCTS)
    assert proof.status == "failed"
    assert "tells nothing of 1 products, /a/MatMul among them" in proof.reason


def test_fused_layers_are_found_by_the_nodes_in_their_metadata() -> None:
    fused = layer("fused_0", "int8", eleven=False) | {"Metadata": "[ONNX Layer: /a/MatMul]\x1e[ONNX Layer: /a/Add]"}
    proof = prove_precision(json.dumps({"Layers": [fused], "Bindings": []}), PRODUCTS)
    assert proof.found_int8 == 0.9, "and /a/MatMul is not taken for /a/MatMul_2"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": []}', '{"Bindings": []}', "null"])
def test_what_is_no_inspector_json_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="inspector's answer cannot be read"):
        prove_precision(text, PRODUCTS)
