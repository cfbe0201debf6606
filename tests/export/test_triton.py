"""The Triton repository: every config is parsed with Triton's own protobuf classes, every graph is the bundle's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from dmdkit.cli import main
from dmdkit.errors import BundleError, ExportError
from dmdkit.export.triton import write_triton
from dmdkit.files import sha256_of_bytes
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines.record import EngineRecord
from dmdkit.runtime.manifest import FileRecord
from tests.conftest import ROOT
from tests.runtime.builders import set_verdict
from tests.runtime.engines.test_choose import add_engine

TRITON_PYTHON = ROOT / "build/envs/triton/bin/python"
PARSE = """
import json, sys
from pathlib import Path
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
parsed = {}
for path in Path(sys.argv[1]).glob("*/config.pbtxt"):
    config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    parsed[path.parent.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
print(json.dumps(parsed))
"""

PROVEN = {
    "flavour": "tensorrt",
    "version": "10.13.0.35",
    "target": "h100",
    "gpu": "NVIDIA H100",
    "compute_capabilities": ["9.0"],
    "plan": "h100.fusion.fp32.plan",
    "batch": [1, 8, 64],
    "check": {"passed": True, "samples": 16, "max_error": 0.0, "tolerance": 1e-4, "worst_output": "score"},
    "precision": {
        "layout": "tensorrt-10",
        "layers": {},
        "expected_int8": 0.0,
        "found_int8": 0.0,
        "status": "passed",
        "reason": "",
    },
}


@pytest.fixture
def proven(bundle_copy: Path) -> Path:
    """A bundle whose fp32 graphs passed, whatever a tiny model's numbers are."""
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    for graph in manifest["graphs"].values():
        graph["verdict"]["status"] = "passed"
    path.write_text(json.dumps(manifest))
    return bundle_copy


def configs(repository: Path) -> dict[str, Any]:
    """Model name -> its config as Triton's own classes read it; an unknown field or a wrong type raises there."""
    if not TRITON_PYTHON.is_file():
        pytest.skip("Triton's protobuf classes are not here: make build/envs/triton/.ready")
    done = subprocess.run([str(TRITON_PYTHON), "-I", "-c", PARSE, str(repository)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def dims(tensors: list[dict[str, Any]]) -> dict[str, tuple[str, list[int]]]:
    return {item["name"]: (item["data_type"], [int(size) for size in item["dims"]]) for item in tensors}


def assert_ensemble_is_wired(parsed: dict[str, Any]) -> None:
    """Every input of a step is an input of the ensemble or an earlier step's output, and every output is made once."""
    ensemble = parsed["emotion"]
    known = {item["name"] for item in ensemble["input"]}
    used: set[str] = set()
    for step in ensemble["ensemble_scheduling"]["step"]:
        model = parsed[step["model_name"]]
        assert set(step["input_map"]) == set(dims(model["input"]))
        assert set(step["input_map"].values()) <= known
        used |= set(step["input_map"].values())
        assert set(step["output_map"]) <= set(dims(model["output"]))
        assert known.isdisjoint(step["output_map"].values())
        known |= set(step["output_map"].values())
        assert ensemble["max_batch_size"] <= model["max_batch_size"]
    assert {item["name"] for item in ensemble["input"]} <= used
    assert {item["name"] for item in ensemble["output"]} <= known


def test_every_config_parses_and_says_what_the_manifest_says(proven: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(proven)
    out = tmp_path / "models"
    assert write_triton(bundle, out) == ["fusion", "explain", "emotion"]
    parsed = configs(out)
    assert set(parsed) == {"fusion", "explain", "emotion"}
    for kind in ("fusion", "explain"):
        config = parsed[kind]
        assert (config["name"], config["platform"]) == (kind, "onnxruntime_onnx")
        assert dims(config["input"]) == {
            name: ("TYPE_FP32", [record.steps, record.features]) for name, record in bundle.manifest.inputs.items()
        }
        wanted = ["score"] if kind == "fusion" else list(bundle.manifest.outputs)
        assert dims(config["output"]) == {n: ("TYPE_FP32", bundle.manifest.outputs[n].shape[1:]) for n in wanted}
        served = (out / kind / "1" / config["default_model_filename"]).read_bytes()
        assert served == bundle.read(bundle.graph(f"{kind}.fp32").file)


def test_numbers_of_steps_are_sent_as_a_column_and_reshaped_by_the_models(real_bundle: Path, tmp_path: Path) -> None:
    """Triton refuses an input without a size behind the batch; the graphs take (batch)."""
    out, bundle = tmp_path / "models", Path(shutil.copytree(real_bundle, tmp_path / "real.dmd"))
    set_verdict(bundle, "passed")
    write_triton(Bundle.open(bundle), out)
    parsed = configs(out)
    assert_ensemble_is_wired(parsed)
    assert all(item["dims"] for config in parsed.values() for item in (*config["input"], *config["output"]))
    steps = {name: next(item for item in config["input"] if item["name"] == "steps") for name, config in parsed.items()}
    sent = {"name": "steps", "data_type": "TYPE_INT64", "dims": ["1"]}
    assert steps == {"fusion": {**sent, "reshape": {}}, "explain": {**sent, "reshape": {}}, "emotion": sent}


def test_the_ensemble_connects_every_output_once_to_a_model_that_has_it(proven: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    write_triton(Bundle.open(proven), out)
    parsed = configs(out)
    assert parsed["emotion"]["platform"] == "ensemble"
    assert list((out / "emotion/1").iterdir()) == []
    assert_ensemble_is_wired(parsed)
    assert set(dims(parsed["emotion"]["output"])) == set(Bundle.open(proven).manifest.outputs)


def with_text_encoder(path: Path, width: int) -> Bundle:
    """The bundle with a graph from tokens to text features, in memory."""
    tokens = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", 6]) for n in ("input_ids", "attention_mask")]
    made = helper.make_tensor_value_info("text", TensorProto.FLOAT, ["batch", 6, width])
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["values", "axis"], ["column"]),
        helper.make_node("Tile", ["column", "repeats"], ["text"]),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
        helper.make_tensor("repeats", TensorProto.INT64, [3], [1, 1, width]),
    ]
    graph = helper.make_graph(nodes, "text", tokens, [made], constants)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    (path / "graphs/text.fp32.onnx").write_bytes(data)
    bundle = Bundle.open(path)
    record = bundle.graph("fusion.fp32").model_copy(update={"kind": "text", "file": "graphs/text.fp32.onnx"})
    update = {
        "graphs": bundle.manifest.graphs | {"text.fp32": record},
        "files": bundle.manifest.files | {record.file: FileRecord(sha256=sha256_of_bytes(data), size_bytes=len(data))},
    }
    return Bundle(path, bundle.manifest.model_copy(update=update))


def test_with_a_text_encoder_the_ensemble_takes_tokens(proven: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    bundle = with_text_encoder(proven, Bundle.open(proven).manifest.inputs["text"].features)
    assert write_triton(bundle, out) == ["fusion", "explain", "text", "emotion"]
    parsed = configs(out)
    assert dims(parsed["text"]["input"]) == {"input_ids": ("TYPE_INT64", [6]), "attention_mask": ("TYPE_INT64", [6])}
    assert set(dims(parsed["emotion"]["input"])) == {"input_ids", "attention_mask", "audio", "vision"}
    assert_ensemble_is_wired(parsed)


def test_a_text_encoder_of_another_width_is_refused(proven: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"text\.fp32 gives text \[6, 3\]; fusion takes text \[6, 7\]"):
        write_triton(with_text_encoder(proven, 3), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_proven_tensorrt_plan_becomes_a_model_of_its_own(proven: Path, tmp_path: Path) -> None:
    add_engine(proven, **PROVEN)
    out = tmp_path / "models"
    assert "fusion_h100" in write_triton(Bundle.open(proven), out)
    config = configs(out)["fusion_h100"]
    assert (config["platform"], config["max_batch_size"]) == ("tensorrt_plan", 64)
    assert config["optimization"]["cuda"]["graphs"]
    assert config["parameters"]["dmdkit_built_with"]["string_value"] == "tensorrt 10.13.0.35 on NVIDIA H100"
    assert (out / "fusion_h100/1/model.plan").is_file()


def test_a_sidecars_words_cannot_change_a_config(proven: Path, tmp_path: Path) -> None:
    add_engine(proven, **PROVEN | {"gpu": 'H100" } }\nmax_batch_size: 9 \u2028\x00'})
    out = tmp_path / "models"
    write_triton(Bundle.open(proven), out)
    config = configs(out)["fusion_h100"]
    assert config["max_batch_size"] == 64
    assert config["parameters"]["dmdkit_built_with"]["string_value"].endswith('on H100" } }?max_batch_size: 9 ??')


@pytest.mark.parametrize("target", ["../../outside", "/etc/x", "a/b", "", ".."])
def test_a_sidecars_target_is_a_plain_name(target: str, proven: Path) -> None:
    record = add_engine(proven, **PROVEN).record.model_dump(mode="json")
    with pytest.raises(ValueError, match="target"):
        EngineRecord.model_validate(record | {"target": target})


@pytest.mark.parametrize(
    "change", [{"check": None}, {"precision": None}, {"flavour": "tensorrt_rtx"}, {"graph_sha256": "1" * 64}]
)
def test_a_plan_that_is_not_proven_or_not_tritons_is_left_out(change: dict[str, object], proven: Path, tmp_path: Path) -> None:
    add_engine(proven, **{**PROVEN, **change})
    assert write_triton(Bundle.open(proven), tmp_path / "models") == ["fusion", "explain", "emotion"]


@pytest.mark.parametrize(("status", "served"), [("passed", True), ("unverified", False), ("failed", False)])
def test_a_proven_plan_of_a_graph_that_has_not_passed_is_left_out(
    status: str, served: bool, proven: Path, tmp_path: Path
) -> None:
    add_engine(proven, "fusion", "int8-trt", **PROVEN)
    set_verdict(proven, status, "fusion.int8-trt")
    assert ("fusion_h100" in write_triton(Bundle.open(proven), tmp_path / "models")) == served


def test_a_graph_that_has_not_passed_is_not_served(proven: Path, tmp_path: Path) -> None:
    path = proven / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["graphs"]["explain.fp32"]["verdict"] |= {"status": "unverified", "reason": "too few samples"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match=r"explain\.fp32 of .* is unverified \(too few samples\); prove it first"):
        write_triton(Bundle.open(proven), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_damaged_graph_leaves_nothing_behind(proven: Path, tmp_path: Path) -> None:
    graph = proven / "graphs/fusion.fp32.onnx"
    bundle = Bundle.open(proven)
    graph.write_bytes(b"\0" * graph.stat().st_size)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        write_triton(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_the_command_writes_a_repository_from_a_bundle_and_keeps_what_is_not_one(
    proven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert main(["triton", str(proven), str(out)]) == 0
    assert f"tritonserver --model-repository={out}" in " ".join(capsys.readouterr().err.split())
    assert main(["triton", str(proven), str(out)]) == 1
    assert "exists; choose another OUT, or pass --force to replace a repository" in " ".join(capsys.readouterr().err.split())
    assert main(["triton", str(proven), str(out), "--force"]) == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    assert main(["triton", str(proven), str(mine), "--force"]) == 1
    assert main(["triton", str(tmp_path / "none.dmd"), str(tmp_path / "x")]) == 1
    capsys.readouterr()
    assert main(["triton", str(proven), str(out), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["fusion", "explain", "emotion"]


@pytest.mark.parametrize("theirs", ["yolo/config.pbtxt", "fusion/2/model.onnx", "emotion/labels.txt", "text/1/model.onnx"])
def test_a_repository_with_models_of_others_is_left_alone(
    proven: Path, tmp_path: Path, theirs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert main(["triton", str(proven), str(out)]) == 0
    (out / theirs).parent.mkdir(parents=True, exist_ok=True)
    (out / theirs).write_text('name: "x"')
    assert main(["triton", str(proven), str(out), "--force"]) == 1
    assert f"holds what dmdkit did not write ({theirs}), so it is left alone" in " ".join(capsys.readouterr().err.split())
    assert (out / theirs).read_text() == 'name: "x"'


def test_a_run_in_a_bundles_place_is_one_line(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["triton", str(tiny_run), str(tmp_path / "models")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tiny_run) in line
    assert not (tmp_path / "models").exists()


def test_export_has_no_second_way_to_it(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tiny_run), "--triton", str(tmp_path / "models")]) == 1
    assert "No such option: --triton" in capsys.readouterr().err
