"""The dry run: what a device's parser would refuse, what only the device shows, and what a precision needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dmdkit.cli import main
from dmdkit.errors import BundleError
from dmdkit.export.dry_run import dry_run
from dmdkit.export.targets import load_target
from dmdkit.files import sha256_of_bytes
from dmdkit.runtime.bundle import Bundle
from tests.runtime.builders import no_driver_here, put_file

pytestmark = pytest.mark.slow


def broken(change: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="/fine/Relu")]
    shape: list[object] = ["batch", 4]
    opset, constants = 20, []
    if change == "operator":
        nodes = [helper.make_node("BitwiseNot", ["x"], ["y"], name="/odd/BitwiseNot")]
    if change == "opset":
        opset = 21
    if change == "shape":
        shape = ["batch", "steps"]
    if change == "axes":
        nodes = [helper.make_node("ReduceMax", ["x", "axes"], ["y"], name="/odd/ReduceMax", keepdims=1)]
    kind = TensorProto.DOUBLE if change == "type" else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    if change == "axes":
        inputs.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [1]))
    outputs = [helper.make_tensor_value_info("y", kind, shape)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        ("operator", "operators", "/odd/BitwiseNot (BitwiseNot) is not an operator the parser knows"),
        ("axes", "operators", "its axes are not constant, but axes must be an initializer"),
        ("opset", "opset", "opset 21, the parser reads 9 to 20"),
        ("shape", "shapes", "x has shape [-1, -1]"),
        ("type", "types", "x is DOUBLE"),
    ],
)
def test_the_dry_run_finds_what_the_parser_would_refuse(change: str, check: str, detail: str, engine_copy: Path) -> None:
    data = broken(change).SerializeToString()
    path, file = engine_copy / "manifest.json", engine_copy / "graphs/gd_homo.onnx"
    file.write_bytes(data)
    manifest = json.loads(path.read_text())
    manifest["files"]["graphs/gd_homo.onnx"] = {"sha256": sha256_of_bytes(data), "size_bytes": len(data)}
    path.write_text(json.dumps(manifest))
    findings = dry_run(Bundle.open(engine_copy), ["gd_homo.fp32"], load_target("jetson-thor"), "fp16")
    problems = [finding for finding in findings if finding.status == "problem"]
    assert any(finding.check == check and detail in finding.detail for finding in problems), problems
    out = engine_copy.parent / "kit"
    assert main(["build", str(engine_copy), "--target", "jetson-thor", "--graph", "gd_homo", "--kit", str(out)]) == 1
    assert not out.exists()


def test_the_dry_run_of_a_good_bundle_has_no_problem_and_lists_what_only_the_device_shows(
    engine_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision in ("fp32", "fp16", "int8"):
        arguments = [
            "build",
            str(engine_bundle),
            "--target",
            "jetson-agx-orin",
            "--precision",
            precision,
            "--dry-run",
            "--json",
        ]
        assert main(arguments) == 0
        checks = json.loads(capsys.readouterr().out)["checks"]
        assert {check["status"] for check in checks} == {"ok", "device only"}
    assert not (engine_bundle / "engines").exists()


@pytest.mark.parametrize("target", ["jetson-orin-nano", "jetson-thor", "h100"])
def test_the_dry_run_of_a_text_encoder_has_no_problem(
    target: str, text_engine_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision in ("fp32", "fp16", "int8"):
        arguments = ["build", str(text_engine_bundle), "--target", target, "--precision", precision, "--dry-run", "--json"]
        assert main(arguments) == 0
        checks = json.loads(capsys.readouterr().out)["checks"]
        found = {check["check"]: check["status"] for check in checks if check["graph"].startswith("text.")}
        assert found.keys() >= {"opset", "operators", "types", "shapes", "memory"}
        assert set(found.values()) == {"ok"}


def test_memory_counts_a_dequantised_weight_once_and_activations_for_each_sample(engine_copy: Path) -> None:
    shape = ["batch", 1024]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in "xy")
    constants = [
        numpy_helper.from_array(np.ones((1024, 1024), np.int8), "w"),
        numpy_helper.from_array(np.ones((), np.float32), "scale"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["d"], name="/DequantizeLinear"),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="/MatMul"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    put_file(engine_copy, "graphs/gd_homo.onnx", model.SerializeToString())
    findings = dry_run(Bundle.open(engine_copy), ["gd_homo.fp32"], load_target("jetson-orin-nano"), "fp32")
    (said,) = (finding.detail for finding in findings if finding.check == "memory")
    assert said.startswith("at most 5 MiB: 1.0 MiB of constants"), said  # 4 MiB dequantised, 0.1 MiB in and out at batch 16


def test_an_int8_graph_with_an_fp32_rest_is_a_problem_for_a_device(tiny_bundle: Path) -> None:
    findings = dry_run(Bundle.open(tiny_bundle), ["fusion.int8-trt"], load_target("jetson-orin-nx"), "int8")
    assert any(
        "its remaining layers are fp32; make them fp16 with: dmdkit export RUN --int8 --fp16" in finding.detail
        for finding in findings
    )


def test_a_precision_the_bundle_lacks_is_refused_with_the_command_that_adds_it(
    bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path.relative_to(bundle_copy), path.stat().st_mtime_ns) for path in bundle_copy.rglob("*"))
    name, kit = str(bundle_copy), str(tmp_path / "kit")
    for more in (["--precision", "fp16", "--dry-run", "--json"], ["--precision", "fp16", "--kit", kit], ["--kit", kit]):
        assert main(["build", name, "--target", "jetson-orin-nano", *more]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "has no explain.fp16, fusion.fp16, which engines in fp16 are built from" in said
        assert f"add them with: dmdkit add-precision {name} fp16" in said
        assert ("or name another precision with --precision" in said) == ("--precision" not in more)
    assert sorted((path.relative_to(bundle_copy), path.stat().st_mtime_ns) for path in bundle_copy.rglob("*")) == before
    assert not (tmp_path / "kit").exists()


def test_added_fp16_graphs_are_proven_where_held_out_samples_are_given(
    bundle_copy: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(bundle_copy)
    code = main(["add-precision", name, "fp16", "--parity-data", str(tiny_data), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["added"] == ["explain.fp16", "explain.int8-trt", "fusion.fp16", "fusion.int8-trt"]
    assert found["parity"]["samples"] == 60
    verdicts = {graph["verdict"]["status"] for graph in found["graphs"].values()}
    assert (code == 0) == (verdicts == {"passed"})
    assert main(["build", name, "--target", "jetson-orin-nano", "--precision", "fp16", "--dry-run"]) == 0
    before = {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["add-precision", name, "fp16"]) == 0
    assert "has every fp16 graph already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()} == before


def test_what_cannot_be_built_here_is_said_before_what_the_bundle_lacks(
    bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_driver_here()
    name = str(bundle_copy)
    assert main(["build", name, "--target", "h100", "--precision", "fp16"]) == 1
    assert "add-precision" not in capsys.readouterr().err
    assert main(["build", name, "--target", "auto", "--precision", "fp16"]) == 1
    assert "name the device with --target" in " ".join(capsys.readouterr().err.split())
    for target, said in (("auto", "a kit is for one device"), ("rtx-ada", "built without the device")):
        assert main(["build", name, "--target", target, "--precision", "fp16", "--kit", str(tmp_path / "kit")]) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "kit").exists()


def test_the_dry_run_of_a_missing_graph_names_it(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no graph 'fusion\.fp16'"):
        dry_run(Bundle.open(tiny_bundle), ["fusion.fp16"], load_target("a100"), "fp16")
