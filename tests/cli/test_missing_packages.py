"""A command whose optional package is missing exits with 3 and names the extra, before it does anything."""

from __future__ import annotations

import json

import pytest

from tests.cli.helpers import TINY_FLAGS, python
from tests.conftest import ROOT
from tests.training.helpers import tree

# Runs a command in a Python that cannot find the packages of argv[1], whatever is installed.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from dmdkit.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def places(tiny_data, tiny_run, tiny_bundle, published_weights, tmp_path):
    return {"data": tiny_data, "run": tiny_run, "bundle": tiny_bundle, "weights": published_weights, "out": tmp_path / "out"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packages", "command", "extra"),
    [
        ("torch", ["train", "--data", "{data}", "--out", "{out}", *TINY_FLAGS], "train"),
        ("torch", ["train"], "train"),
        ("lightning_fabric", ["train", "--data", "{data}", "--out", "{out}"], "train"),
        ("torch", ["import", "{weights}", "--heads", "2", "--out", "{out}"], "train"),
        ("torch", ["evaluate", "{run}"], "train"),
        ("torch", ["check", "{bundle}", "--data", "{data}", "--run", "{run}"], "train"),
        ("torch", ["demo", "--out", "{out}"], "all"),
        ("modelopt", ["demo", "--out", "{out}"], "all"),
        ("torch", ["export", "{run}", "--out", "{out}"], "export"),
        ("onnx", ["export", "{run}", "--out", "{out}"], "export"),
        ("onnxscript", ["export", "{run}", "--out", "{out}"], "export"),
        ("modelopt", ["export", "{run}", "--int8", "--out", "{out}"], "quantize"),
        ("onnx_graphsurgeon", ["export", "{run}", "--int8", "--out", "{out}"], "quantize"),
        ("onnx", ["build", "{bundle}", "--target", "rtx-ada", "--precision", "fp32", "--dry-run"], "export"),
        ("onnx", ["build", "{bundle}", "--target", "jetson-orin-nano", "--precision", "fp32", "--kit", "{out}"], "export"),
        ("torch", ["add-precision", "{bundle}", "fp16"], "quantize"),
        ("modelopt", ["add-precision", "{bundle}", "fp16"], "quantize"),
        ("tensorrt_rtx", ["build", "{bundle}", "--target", "rtx-ada", "--precision", "fp16"], "rtx"),
        ("tensorrt_rtx,onnx,torch", ["build", "{bundle}", "--target", "rtx-ada", "--precision", "fp32"], "rtx"),
    ],
)
def test_the_extra_to_install_is_named(packages, command, extra, places, tmp_path):
    ended = python(WITHOUT, packages, *(part.format(**places) for part in command), cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert packages.partition(",")[0] in ended.stderr
    assert ended.stderr.rstrip().endswith(f"pip install 'dmdkit[{extra}]'")
    assert tree(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{bundle}", "--data", "{data}", "--graph", "fp32"],
        ["check", "{bundle}", "--data", "{data}"],
        ["inspect", "{bundle}"],
        ["inspect", "{run}"],
        ["doctor"],
        ["data", "inspect", "{data}"],
        ["data", "sample"],
        ["targets"],
    ],
)
def test_what_a_robot_runs_needs_no_optional_package(command, places, tmp_path, bundle_copy):
    places["bundle"] = bundle_copy
    absent = "torch,lightning_fabric,onnx,onnxscript,modelopt,onnx_graphsurgeon"
    ended = python(WITHOUT, absent, *(part.format(**places) for part in command), cwd=tmp_path)
    assert ended.returncode in ((0, 2) if command[0] == "check" else (0,)), ended.stderr


@pytest.mark.slow
def test_export_without_modelopt_still_gives_the_fp32_bundle(places, tmp_path):
    ended = python(
        WITHOUT, "modelopt,onnx_graphsurgeon,lightning_fabric", "export", places["run"], "--out", places["out"], "--json"
    )
    assert ended.returncode == 0, ended.stderr
    assert "fusion.fp32" in json.loads(ended.stdout)["graphs"]


@pytest.mark.slow
def test_import_needs_no_trainer(places, tmp_path):
    arguments = ["import", places["weights"], "--heads", "2", "--out", places["out"]]
    assert python(WITHOUT, "lightning_fabric", *arguments).returncode == 0


@pytest.mark.slow
def test_what_the_extra_rtx_brings_is_enough_to_add_fp16_graphs_and_check_them(places, bundle_copy, tmp_path):
    absent = "lightning_fabric,transformers,tokenizers,openvino,cuda,tensorrt"
    added = python(WITHOUT, absent, "add-precision", bundle_copy, "fp16", "--json")
    assert added.returncode == 2, added.stderr
    assert json.loads(added.stdout)["graphs"]["fusion.fp16"]["verdict"]["status"] == "unverified"
    ended = python(WITHOUT, absent, "build", bundle_copy, "--target", "rtx-ada", "--precision", "fp16", "--dry-run", "--json")
    assert ended.returncode in (0, 2), ended.stderr
    assert json.loads(ended.stdout)["target"] == "rtx-ada"


def test_the_extra_rtx_holds_what_fp16_graphs_are_made_with():
    line = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("rtx = "))
    assert '"dmdkit[quantize]"' in line
