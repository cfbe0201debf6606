"""``dmdkit bench``: the table, the JSON, and what it keeps for ``Runtime.open``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import ConsoleDimensions

from dmdkit.cli import main
from dmdkit.cli.bench import _print
from dmdkit.runtime import Runtime
from dmdkit.runtime.backends.registry import installed_backends
from dmdkit.runtime.latency import read_latencies, write_latencies
from dmdkit.runtime.manifest import read_manifest
from tests.runtime.builders import put_file, set_verdict, timed

FIELDS = {
    "graph",
    "backend",
    "device",
    "version",
    "verdict",
    "simulated",
    "size_bytes",
    "rounds",
    "mean_ms",
    "p50_ms",
    "p50_interval_ms",
    "p90_ms",
    "p99_ms",
    "max_ms",
    "throughput_per_s",
    "open_ms",
    "peak_bytes",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bench(capsys: pytest.CaptureFixture[str], bundle: Path, *options: str, rounds: int = 3) -> dict[str, object]:
    assert main(["bench", str(bundle), "--rounds", str(rounds), "--json", *options]) == 0
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_json_has_every_graph_on_every_backend(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_verdict(bundle_copy, "passed")
    capsys.readouterr()
    found = bench(capsys, bundle_copy, "--no-memory")
    assert set(found) == {"bundle", "machine", "threads", "batch", "graphs", "failed", "auto", "cache", "cache_rounds"}
    rows = found["graphs"]
    assert isinstance(rows, list)
    graphs = read_manifest(bundle_copy).graphs
    cpu = {(row["graph"], row["backend"]) for row in rows if row["device"] == "cpu"}
    assert {graph for graph, backend in cpu if backend == "onnxruntime"} == set(graphs)
    assert {backend for _, backend in cpu} == set(installed_backends())
    for row in rows:
        assert set(row) == FIELDS
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["rounds"] == 3
    assert found["failed"] == []


def test_what_was_measured_is_kept_and_used(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_verdict(bundle_copy, "passed")
    capsys.readouterr()
    found = bench(capsys, bundle_copy, "--no-memory", rounds=20)
    kept = read_latencies(read_manifest(bundle_copy), 1)
    fp32, int8 = kept["fusion.fp32", "onnxruntime"], kept["fusion.int8-cpu", "onnxruntime"]
    expected = "fusion.fp32" if fp32.surely_below(int8) else "fusion.int8-cpu"
    assert found["auto"] == {"graph": expected, "backend": "onnxruntime"}
    assert found["cache_rounds"] == 20
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.graph == expected


def test_a_quick_measurement_does_not_replace_a_careful_one(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_verdict(bundle_copy, "passed")
    manifest = read_manifest(bundle_copy)
    careful = {("fusion.fp32", "onnxruntime"): timed(1.0), ("fusion.int8-cpu", "onnxruntime"): timed(2.0)}
    write_latencies(manifest, 1, careful)  # type: ignore[arg-type]
    capsys.readouterr()
    assert main(["bench", str(bundle_copy), "--rounds", "3", "--no-memory", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert read_latencies(manifest, 1) == careful
    assert found["auto"] == {"graph": "fusion.fp32", "backend": "onnxruntime"}
    assert found["cache_rounds"] == 200
    assert "keeps medians of 200 rounds, which 3 do not replace" in said.err


@pytest.mark.slow
def test_the_table_says_graph_verdict_and_where_it_is_kept(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_verdict(bundle_copy, "unverified")
    assert main(["bench", str(bundle_copy), "--rounds", "3"]) == 0
    said = capsys.readouterr()
    for text in ("fusion.fp32", "fusion.int8-trt (simulated)", "p99", "unverified", "memory", " MB"):
        assert text in said.out
    assert "round 3 of 3" in said.err
    assert "nothing to choose" in said.err
    assert "kept in" in said.err


@pytest.mark.parametrize("columns", [80, 160])
def test_no_name_is_folded(columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("fusion.fp32", "explain.int8-trt", "gd_hetero.fp32", "text.int8-cpu")
    rows = [
        {
            "graph": name, "backend": "onnxruntime", "device": "cpu", "version": "1.23.2", "simulated": "trt" in name,
            **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "max_ms"), 1234.5678), "throughput_per_s": 1234.5,
            "size_bytes": 123_456_789, "peak_bytes": 1_234_567_890, "open_ms": 1234.5, "verdict": "unverified", "rounds": 3,
        }
        for name in names
    ]  # fmt: skip
    monkeypatch.setattr("dmdkit.cli.console._Console.size", ConsoleDimensions(columns, 25))
    _print({"machine": {"cpu": "a CPU", "cores": 2}, "threads": 1, "batch": 1, "graphs": rows})
    lines = capsys.readouterr().out.splitlines()
    table = lines[1 : 2 + len(rows)]
    assert max(len(line.rstrip()) for line in table) <= columns
    for name, line in zip(names, table[1:], strict=True):
        assert line.split()[0] == name
        assert "onnxruntime" in line
        assert line.split()[-1] == "unverified"
    assert any("simulated" in line for line in lines)


@pytest.mark.slow
def test_other_batches_are_not_kept(tiny_bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, tiny_bundle, "--no-memory", "--batch", "4")
    assert (found["batch"], found["cache"]) == (4, None)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_said(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(["bench", str(tiny_bundle), "--rounds", "3", "--no-memory", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["cache"] is None
    assert "XDG_CACHE_HOME" in said.err


def test_a_graph_that_cannot_load_does_not_hide_the_others(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_file(bundle_copy, "graphs/fusion.fp32.onnx", b"not a graph")
    assert main(["bench", str(bundle_copy), "--rounds", "3", "--no-memory", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert {row["graph"] for row in found["failed"]} == {"fusion.fp32"}
    assert "fusion.int8-cpu" in {row["graph"] for row in found["graphs"]}
    assert "cannot be measured" in said.err


@pytest.mark.parametrize("option", [["--rounds", "0"], ["--threads", "0"], ["--batch", "0"], ["--seconds", "0"]])
def test_impossible_options_are_usage_errors(tiny_bundle: Path, option: list[str]) -> None:
    assert main(["bench", str(tiny_bundle), *option]) == 1


def test_a_missing_or_damaged_bundle_is_one_line(bundle_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "absent.dmd")]) == 1
    with (bundle_copy / "graphs/fusion.fp32.onnx").open("r+b") as stream:
        stream.write(b"xxxx")
    capsys.readouterr()
    assert main(["bench", str(bundle_copy)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "SHA-256" in said
