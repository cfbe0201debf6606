"""The benchmark runs and reports; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.timing import rows
from dmdkit.parity.timing import timed_rounds

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--no-compile", "--rounds", "2", "--growth-rounds", "2"]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    text = (out / "tables.md").read_text()
    assert text in done.stdout
    assert "## Latency, batch 1" in text
    value = json.loads((out / "results.json").read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.slow
def test_results_name_the_machine_and_the_versions(results: dict[str, Any]) -> None:
    assert {"cpu", "cores", "architecture", "versions", "python"} <= set(results["machine"])
    assert {"onnxruntime", "torch"} <= set(results["machine"]["versions"])
    assert (results["threads"], results["tiny"]) == (1, True)


@pytest.mark.slow
def test_the_headline_has_both_clocks_and_the_naive_export_of_thousands_of_nodes(results: dict[str, Any]) -> None:
    section = results["sections"]["headline"]
    assert section["nodes"]["naive export"] > 1000 > section["nodes"]["student"]
    names = {row["name"] for row in section["rows"]}
    assert {"naive export, ONNX Runtime", "student fp32, ONNX Runtime", "published model, PyTorch eager"} <= names
    assert "torch.compile" in section["skipped"]
    for row in section["rows"]:
        assert {"p50_ms", "p10_ms", "p90_ms", "p99_ms", "cpu_ms", "ratio", "cpu_ratio", "rounds", "max_error"} <= set(row)
    assert {"what", "ratio", "cpu_ratio", "goal", "met"} == set(section["goals"][0])


@pytest.mark.slow
def test_the_other_sections_have_their_fields(results: dict[str, Any]) -> None:
    sections = results["sections"]
    assert set(sections) == {"headline", "overhead", "growth", "footprint", "profile", "native"}
    assert {row["name"] for row in sections["overhead"]["rows"]} >= {"session.run", "Runtime.predict"}
    assert len(sections["growth"]["by_length"]) == 2
    assert all(row["peak_mb"] > 0 and row["open_ms"] > 0 for row in sections["footprint"]["rows"])
    assert "dmdkit --help" in sections["footprint"]["starts_cpu_s"]
    assert sum(op["share"] for op in sections["profile"]["student"]["ops"]) == pytest.approx(1.0)


def test_every_call_has_its_turn_in_every_round() -> None:
    said: list[str] = []
    times = timed_rounds({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, 4)
    assert [len(found.wall) for found in times.values()] == [4, 4]
    assert ["".join(sorted(said[i : i + 2])) for i in range(6, 14, 2)] == ["ab"] * 4
    table = {row["name"]: row for row in rows(times, "a")}
    assert table["a"]["ratio"] == table["a"]["cpu_ratio"] == 1.0


def test_help_needs_neither_torch_nor_a_model() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert "--rounds" in done.stdout
