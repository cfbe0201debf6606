"""A device is sound when each graph still gives what it gave at export, and a tampered graph is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save

from dmdkit.calibration.graph.analysis import share_computed_int8
from dmdkit.calibration.graph.layers import layers_of
from dmdkit.calibration.integer_cpu import Form, can_be_integer
from dmdkit.calibration.lowerings import lower_for_cpu
from dmdkit.calibration.ranges import observe
from dmdkit.errors import BundleError
from dmdkit.runtime import Runtime
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner
from dmdkit.runtime.self_check import SelfCheck, check_outputs
from tests.runtime.builders import edit_manifest, put_file, set_verdict

SCORE = np.linspace(-2, 2, 16).reshape(16, 1).astype(np.float32)
EDGES = np.full((16, 6), 1 / 6, np.float32)


def test_a_fresh_bundle_is_sound_in_every_graph(tiny_bundle: Path):
    with Runtime.open(tiny_bundle) as runtime:
        short, full = runtime.self_check(), runtime.self_check(every_graph=True)
        graphs = set(runtime.manifest.graphs)
    assert short.passed
    assert full.passed
    assert [check.graph.split(".")[0] for check in short.graphs] == ["fusion", "explain"]
    assert {check.graph for check in full.graphs} == graphs
    assert full.samples == 16


def doubled(model: onnx.ModelProto, name: str) -> bytes:
    """The model with the constant ``name`` doubled."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    scale = next(tensor for tensor in changed.graph.initializer if tensor.name == name)
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(2), name))
    return changed.SerializeToString()


def weight_scales(model: onnx.ModelProto) -> list[str]:
    """The scales of its INT8 weights, those of the largest weight first."""
    size = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    places = {"DequantizeLinear": (0, 1), "QLinearConv": (3, 4), "QLinearMatMul": (3, 4)}
    found = {
        node.input[places[node.op_type][1]]: size[node.input[places[node.op_type][0]]]
        for node in model.graph.node
        if node.op_type in places and node.input[places[node.op_type][0]] in size
    }
    return sorted(found, key=lambda name: -found[name])


def with_integers(bundle: Path) -> onnx.ModelProto:
    """Puts a fusion.int8-cpu with static integer arithmetic into a bundle, as a search on a CPU where it is faster would."""
    model = onnx.load(bundle / "graphs/fusion.fp32.onnx")
    layers = layers_of(model)
    inputs = Bundle.open(bundle).golden().inputs_of("fusion")
    ranges = observe(model, {name for layer in layers for name in (*layer.activations.values(), layer.node.output[0])}, inputs)
    forms: dict[str, Form] = {layer.name: "static" for layer in layers if can_be_integer(layer)}
    lowering = lower_for_cpu(model, forms, ranges)
    put_file(bundle, "graphs/fusion.int8-cpu.onnx", lowering.model.SerializeToString())
    edit_manifest(
        bundle,
        lambda values: values["graphs"]["fusion.int8-cpu"].update(multiply_adds_int8=share_computed_int8(lowering.model)),
    )
    with open_runner(Bundle.open(bundle), "fusion.int8-cpu") as runner:
        recorded = runner.infer(inputs)
    golden = load_file(bundle / "golden/golden.safetensors")
    golden["recorded/fusion.int8-cpu/score"] = recorded["score"]
    put_file(bundle, "golden/golden.safetensors", save(golden))
    return lowering.model


def self_check(bundle: Path, precision: str) -> SelfCheck:
    with Runtime.open(bundle, graph=precision) as runtime:
        return runtime.self_check()


@pytest.mark.parametrize("precision", ["int8-cpu", "int8-trt"])
def test_a_doubled_int8_scale_with_its_hash_rewritten_is_noticed(bundle_copy: Path, precision: str):
    name = f"graphs/fusion.{precision}.onnx"
    model = onnx.load(bundle_copy / name)
    put_file(bundle_copy, name, doubled(model, weight_scales(model)[0]))
    found = self_check(bundle_copy, precision)
    assert not found.passed
    assert [check.passed for check in found.graphs] == [False, True]
    assert found.graphs[0].max_error > found.graphs[0].tolerance


def test_every_scale_of_a_graph_that_only_stores_int8_is_noticed(bundle_copy: Path):
    name = "graphs/fusion.int8-cpu.onnx"
    model = onnx.load(bundle_copy / name)
    scales = weight_scales(model)
    assert len(scales) > 20
    missed = []
    for scale in scales:
        put_file(bundle_copy, name, doubled(model, scale))
        if self_check(bundle_copy, "int8-cpu").passed:
            missed.append(scale)
    assert missed == []


def test_a_doubled_scale_of_integer_arithmetic_on_the_cpu_is_noticed(bundle_copy: Path):
    model = with_integers(bundle_copy)
    integer = {node.op_type: node.input[4] for node in model.graph.node if node.op_type.startswith("QLinear")}
    assert "QLinearConv" in integer
    assert self_check(bundle_copy, "int8-cpu").passed
    scales = weight_scales(model)
    convolution = next(name for name in scales if name in {n.input[4] for n in model.graph.node if n.op_type == "QLinearConv"})
    put_file(bundle_copy, "graphs/fusion.int8-cpu.onnx", doubled(model, convolution))
    found = self_check(bundle_copy, "int8-cpu")
    assert [check.passed for check in found.graphs] == [False, True]
    assert found.graphs[0].tolerance == pytest.approx(0.1 * Bundle.open(bundle_copy).manifest.output_sd)


def test_an_unproven_explain_graph_is_left_out_of_the_short_check(bundle_copy: Path):
    set_verdict(bundle_copy, "failed", "explain.fp32", "explain.int8-cpu")
    with Runtime.open(bundle_copy) as runtime:
        assert len(runtime.self_check().graphs) == 1


def test_a_graph_that_disappears_after_opening_is_an_error(bundle_copy: Path):
    with Runtime.open(bundle_copy) as runtime:
        (bundle_copy / "graphs/explain.int8-cpu.onnx").unlink()
        with pytest.raises(BundleError, match="cannot be read"):
            runtime.self_check()


@pytest.mark.parametrize(("factor", "passed"), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_fp32_stays_within_1e_5_of_what_was_recorded_relative_above_one(factor: float, passed: bool, scale: float):
    recorded = np.full((16, 1), scale)
    found = check_outputs("g", "fp32", {"score": recorded + factor * 1e-5 * scale}, {"score": recorded}, 1.0)
    assert found.passed is passed


@pytest.mark.parametrize(("factor", "passed"), [(0.99, True), (1.01, False)])
def test_int8_stays_within_a_tenth_of_the_output_sd(factor: float, passed: bool):
    now = SCORE + np.float32(factor * 0.1 * 1.5)
    found = check_outputs("g", "int8-cpu", {"score": now}, {"score": SCORE}, 1.5)
    assert found.passed is passed
    assert found.correlation == pytest.approx(1.0)
    assert found.tolerance == pytest.approx(0.15)


def test_int8_scores_correlate_with_what_was_recorded():
    noise = np.where(np.arange(16) % 2, 0.09, -0.09).reshape(16, 1).astype(np.float32)
    found = check_outputs("g", "int8-cpu", {"score": SCORE + noise}, {"score": SCORE}, 1.0)
    assert found.max_error < found.tolerance
    assert found.correlation is not None
    assert found.correlation < 0.999
    assert not found.passed


@pytest.mark.parametrize(("change", "passed"), [(0.09, True), (0.11, False)])
def test_int8_edges_are_judged_as_probabilities_whatever_the_scores_unit(change: float, passed: bool):
    recorded = {"score": SCORE, "edges_homo": EDGES}
    found = check_outputs("g", "int8-cpu", {"score": SCORE, "edges_homo": EDGES + np.float32(change)}, recorded, 50.0)
    assert found.passed is passed
    assert found.worst_output == "edges_homo"
    assert found.tolerance == pytest.approx(0.1)


def test_the_reported_output_is_the_one_that_used_most_of_its_tolerance():
    recorded = {"edges_homo": EDGES, "score": SCORE}
    found = check_outputs(
        "g", "int8-cpu", {"edges_homo": EDGES + np.float32(0.05), "score": SCORE + np.float32(0.01)}, recorded, 0.05
    )
    assert (found.worst_output, found.passed) == ("score", False)


@pytest.mark.parametrize(
    ("found", "recorded"),
    [
        ({}, {}),
        ({"score": SCORE}, {}),
        ({}, {"score": SCORE}),
        ({"score": SCORE, "edges_homo": EDGES}, {"score": SCORE}),
        ({"score": SCORE}, {"score": SCORE, "edges_homo": EDGES}),
        ({"score": SCORE[:, 0]}, {"score": SCORE}),
        ({"score": SCORE * np.float32("nan")}, {"score": SCORE}),
        ({"score": SCORE}, {"score": SCORE * np.float32("nan")}),
        ({"score": SCORE + np.float32("inf")}, {"score": SCORE}),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8-cpu"])
def test_outputs_that_cannot_be_compared_do_not_pass(found: dict, recorded: dict, precision: str):
    check = check_outputs("g", precision, found, recorded, 1.0)
    assert not check.passed
    json.dumps(SelfCheck(passed=False, samples=16, graphs=(check,)).to_json(), allow_nan=False)
