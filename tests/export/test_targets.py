"""Target files: every one follows the schema, and a wrong one is refused with the key to correct."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dmdkit.errors import ConfigError
from dmdkit.export.targets import load_target, target_names
from tests.conftest import ROOT

CAPABILITIES = {
    "jetson-orin-nano": ["8.7"],
    "jetson-orin-nx": ["8.7"],
    "jetson-agx-orin": ["8.7"],
    "jetson-thor": ["11.0"],
    "rtx-turing": ["7.5"],
    "rtx-ampere": ["8.6"],
    "rtx-ada": ["8.9"],
    "rtx-blackwell": ["12.0", "12.1"],
    "rtx-portable": ["8.6", "8.9", "12.0"],
    "a100": ["8.0"],
    "h100": ["9.0"],
    "h200": ["9.0"],
    "auto": [],
}


def test_every_promised_target_is_there_and_valid() -> None:
    assert {name: load_target(name).compute_capabilities for name in target_names()} == CAPABILITIES


@pytest.mark.parametrize("name", CAPABILITIES)
def test_every_allowed_precision_says_why_and_every_target_names_sources(name: str) -> None:
    target = load_target(name)
    assert all(reason.strip() for reason in (*target.precisions.values(), *target.refused.values()))
    assert target.sources
    assert target.precision(None) == target.preferred


def test_only_rtx_targets_are_built_off_the_device() -> None:
    for name in target_names():
        target = load_target(name)
        assert (target.build == "anywhere") == name.startswith("rtx-")


def test_a_precision_the_device_lacks_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"--precision int8: target rtx-turing allows fp16; .*no INT8"):
        load_target("rtx-turing").precision("int8")
    with pytest.raises(ConfigError, match="allows fp32, fp16, int8; Orin has no FP8"):
        load_target("jetson-orin-nx").precision("fp8")


@pytest.mark.parametrize("name", ["jetson-xavier", "../targets/a100", ""])
def test_an_unknown_target_is_answered_with_the_list(name: str) -> None:
    with pytest.raises(ConfigError, match="no such target; choose one of a100, auto"):
        load_target(name)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("jetson-orin-nan", "jetson-orin-nano"), ("RTX-Ada", "rtx-ada"), ("jetson_thor", "jetson-thor"), ("h10", "h100")],
)
def test_a_slip_in_a_targets_name_is_answered_with_what_was_meant(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"no such target; did you mean {meant}\? choose one of a100"):
        load_target(typed)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colour", "green", "colour: Extra inputs"),
        ("name", "other", "name is 'other', expected 'rtx-ada'"),
        ("preferred", "fp8", "preferred"),
        ("compute_capabilities", ["8.7"], "TensorRT-RTX compiles for"),
        ("batch", {"min": 2, "opt": 1, "max": 4}, "min <= opt <= max"),
        ("sources", [], "sources"),
        ("refused", {"fp16": "twice"}, "fp16 is also among precisions"),
        ("flavour", "tensorrt", "builds on the device only"),
    ],
)
def test_a_target_file_with_a_wrong_key_is_refused_by_its_name(key: str, value: object, message: str, tmp_path: Path) -> None:
    values = yaml.safe_load(Path(load_target.__globals__["_FOLDER"], "rtx-ada.yaml").read_text(encoding="utf-8"))
    (tmp_path / "rtx-ada.yaml").write_text(yaml.safe_dump(values | {key: value}), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_target("rtx-ada", tmp_path)


def test_a_target_file_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rtx-ada.yaml").write_text("name: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML"):
        load_target("rtx-ada", tmp_path)


def test_targets_load_without_torch_or_onnx() -> None:
    code = "import sys, dmdkit.export.targets as t; t.load_target('a100'); assert not {'torch', 'onnx'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_guide_lists_every_target_with_its_capabilities_precisions_and_place() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/engines.md").read_text(encoding="utf-8"), re.M
    )
    assert {name for name, *_ in rows} == set(target_names())
    for name, capabilities, where, precisions in rows:
        target = load_target(name)
        assert re.findall(r"\d+\.\d", capabilities) == target.compute_capabilities
        assert where.startswith("anywhere" if target.build == "anywhere" else "on the device")
        assert precisions.split(", ") == list(target.precisions)
        if target.flavour != "auto":
            assert f" {target.tensorrt_from}" in where


def test_the_gpu_guide_names_every_section_and_says_not_yet_run() -> None:
    guide = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    assert "not yet run" in guide.lower()
    script = (ROOT / "scripts/gpu_check.sh").read_text(encoding="utf-8")
    for name in re.findall(r'^section "([^"]+)"', script, re.M):
        assert f"| {name} |" in guide
