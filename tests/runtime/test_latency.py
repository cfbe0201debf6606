"""Measured latencies: kept per bundle, machine, thread count and version, and used only to choose among proven graphs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dmdkit.errors import BundleError, InputError
from dmdkit.parity.timing import Target, footprint, measure_latency, median_interval, summarise, targets, timed_rounds
from dmdkit.runtime import Runtime, choice, latency
from dmdkit.runtime.backends.registry import backend_version
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.choice import Choice, choose, has_passed
from dmdkit.runtime.latency import (
    MedianLatency,
    bundle_key,
    cache_directory,
    latency_file,
    read_latencies,
    write_latencies,
)
from dmdkit.runtime.manifest import GraphRecord, Manifest, read_manifest
from tests.runtime.builders import edit_manifest, put_file, set_verdict, timed

FP32, INT8, TRT = "fusion.fp32", "fusion.int8-cpu", "fusion.int8-trt"
ORT = "onnxruntime"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def manifest(bundle_copy: Path) -> Manifest:
    set_verdict(bundle_copy, "passed")
    return read_manifest(bundle_copy)


@pytest.fixture(autouse=True)
def only_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "installed_backends", lambda: [ORT])


def measured(manifest: Manifest, fp32: float, int8: float, threads: int = 1) -> Path:
    path = write_latencies(manifest, threads, {(FP32, ORT): timed(fp32), (INT8, ORT): timed(int8), (TRT, ORT): timed(0.001)})
    assert path is not None
    return path


def chosen(manifest: Manifest, threads: int = 1) -> str:
    return choose(manifest, "fusion", None, backend="auto", device="cpu", threads=threads).graph


def test_what_was_written_is_read(manifest: Manifest, cache: Path) -> None:
    path = measured(manifest, 2.0, 3.0)
    assert path.is_relative_to(cache / "dmdkit")
    assert read_latencies(manifest, 1) == {(FP32, ORT): timed(2.0), (INT8, ORT): timed(3.0), (TRT, ORT): timed(0.001)}


def test_without_measurements_the_fixed_order_chooses(manifest: Manifest) -> None:
    assert chosen(manifest) == INT8


@pytest.mark.parametrize(("fp32", "int8", "expected"), [(2.0, 3.0, FP32), (3.0, 2.0, INT8)])
def test_the_fastest_measured_graph_is_chosen(manifest: Manifest, fp32: float, int8: float, expected: str) -> None:
    measured(manifest, fp32, int8)
    assert chosen(manifest) == expected


def test_runtime_opens_the_fastest_measured_graph(bundle_copy: Path, manifest: Manifest) -> None:
    measured(manifest, 1.0, 2.0)
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.graph == FP32
    measured(manifest, 2.0, 1.0)
    with Runtime.open(bundle_copy) as runtime:
        assert runtime.graph == INT8
    with Runtime.open(bundle_copy, graph="fp32") as runtime:
        assert runtime.graph == FP32


def test_a_simulated_lowering_is_never_chosen(bundle_copy: Path, manifest: Manifest) -> None:
    set_verdict(bundle_copy, "failed", FP32, INT8)
    measured(read_manifest(bundle_copy), 1.0, 1.0)
    with pytest.raises(BundleError, match="has passed parity"):
        chosen(read_manifest(bundle_copy))


@pytest.mark.parametrize("status", ["failed", "unverified"])
def test_the_fastest_graph_is_not_chosen_unless_it_passed(bundle_copy: Path, manifest: Manifest, status: str) -> None:
    measured(manifest, 1.0, 2.0)
    set_verdict(bundle_copy, status, FP32)
    assert chosen(read_manifest(bundle_copy)) == INT8


def test_intervals_that_meet_are_no_difference(manifest: Manifest) -> None:
    close = {(FP32, ORT): timed(1.0, spread=0.1), (INT8, ORT): timed(1.15, spread=0.1), (TRT, ORT): timed(0.001)}
    write_latencies(manifest, 1, close)
    assert chosen(manifest) == INT8
    write_latencies(manifest, 1, close | {(INT8, ORT): timed(1.3, spread=0.1)})
    assert chosen(manifest) == FP32


def test_a_median_of_too_few_rounds_chooses_nothing(manifest: Manifest) -> None:
    write_latencies(manifest, 1, {(FP32, ORT): MedianLatency(0.1, 5, None), (INT8, ORT): MedianLatency(9.0, 5, None)})
    assert chosen(manifest) == INT8


@pytest.mark.parametrize(
    ("kept", "new", "replaced"),
    [(200, 3, False), (200, 99, False), (200, 100, True), (200, 200, True), (60, 59, False), (60, 60, True), (3, 4, True)],
)
def test_few_rounds_do_not_replace_many(manifest: Manifest, kept: int, new: int, replaced: bool) -> None:
    first = {(FP32, ORT): timed(1.0, rounds=kept), (INT8, ORT): timed(2.0, rounds=kept)}
    second = {(FP32, ORT): timed(2.0, rounds=new), (INT8, ORT): timed(1.0, rounds=new)}
    path = write_latencies(manifest, 1, first)
    assert write_latencies(manifest, 1, second) == path
    assert read_latencies(manifest, 1) == (second if replaced else first)
    assert chosen(manifest) == (INT8 if replaced else FP32)


def test_many_rounds_with_another_version_are_replaced_by_few(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    write_latencies(manifest, 1, {(FP32, ORT): timed(1.0, rounds=200)})
    monkeypatch.setattr(latency, "backend_version", lambda _: "99.0")
    write_latencies(manifest, 1, {(FP32, ORT): timed(2.0, rounds=3)})
    assert read_latencies(manifest, 1) == {(FP32, ORT): timed(2.0, rounds=3)}


@pytest.mark.parametrize("status", ["failed", "unverified"])
def test_a_backend_counts_as_proven_only_with_a_verdict_that_passed(bundle_copy: Path, manifest: Manifest, status: str) -> None:
    def judge(word: str) -> GraphRecord:
        verdict = {"status": word, "reason": "a test", "samples": 60, "data_sha256": "0" * 64}
        edit_manifest(bundle_copy, lambda values: values["graphs"][FP32].update(backends={"openvino": verdict}))
        return read_manifest(bundle_copy).graphs[FP32]

    assert manifest.graphs[FP32].backends == {}
    assert not has_passed(manifest.graphs[FP32], "openvino")
    assert not has_passed(judge(status), "openvino")
    assert has_passed(judge("passed"), "openvino")
    set_verdict(bundle_copy, status, FP32)  # nor does a pass in one backend stand for another
    assert not has_passed(read_manifest(bundle_copy).graphs[FP32], "onnxruntime")
    assert has_passed(read_manifest(bundle_copy).graphs[FP32], "openvino")


@pytest.mark.parametrize("status", ["failed", "unverified"])
def test_a_backend_that_did_not_pass_is_never_chosen_however_fast(
    bundle_copy: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(choice, "installed_backends", lambda: [ORT, "openvino"])
    monkeypatch.setattr(latency, "backend_version", lambda _: "1.0")
    verdict = {"status": "passed", "reason": "a test", "samples": 60, "data_sha256": "0" * 64}
    edit_manifest(bundle_copy, lambda values: values["graphs"][FP32].update(backends={"openvino": verdict}))
    proven = read_manifest(bundle_copy)
    write_latencies(proven, 1, {(FP32, ORT): timed(2.0), (INT8, ORT): timed(2.0), (FP32, "openvino"): timed(0.1)})
    assert choose(proven, "fusion", None, backend="auto", device="cpu", threads=1) == Choice(FP32, "openvino")
    verdict["status"] = status
    edit_manifest(bundle_copy, lambda values: values["graphs"][FP32].update(backends={"openvino": verdict}))
    assert choose(read_manifest(bundle_copy), "fusion", None, backend="auto", device="cpu", threads=1) == Choice(INT8, ORT)
    with pytest.raises(BundleError, match="has passed parity in OpenVINO"):
        choose(read_manifest(bundle_copy), "fusion", None, backend="openvino", device="cpu", threads=1)


def test_without_a_figure_for_the_preferred_graph_it_stays(manifest: Manifest) -> None:
    write_latencies(manifest, 1, {(FP32, ORT): timed(0.1)})
    assert chosen(manifest) == INT8


def test_another_thread_count_has_figures_of_its_own(manifest: Manifest) -> None:
    measured(manifest, 1.0, 2.0, threads=4)
    assert chosen(manifest, threads=1) == INT8
    assert chosen(manifest, threads=4) == FP32


def test_another_machine_has_figures_of_its_own(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    here = measured(manifest, 1.0, 2.0)
    board = {"architecture": "aarch64", "cpu": "Some board", "cores": "4", "system": "Linux"}
    monkeypatch.setattr(latency, "machine_facts", lambda: board)
    assert read_latencies(manifest, 1) == {}
    there = latency_file(manifest, 1)
    assert there is not None
    there.write_bytes(here.read_bytes())  # even under the right name, the content says where it is from
    assert read_latencies(manifest, 1) == {}


def test_a_changed_graph_has_no_figures(bundle_copy: Path, manifest: Manifest) -> None:
    measured(manifest, 1.0, 2.0)
    put_file(bundle_copy, "graphs/fusion.fp32.onnx", b"something else")
    assert read_latencies(read_manifest(bundle_copy), 1) == {}


def test_a_new_verdict_keeps_the_figures(bundle_copy: Path, manifest: Manifest) -> None:
    measured(manifest, 1.0, 2.0)
    set_verdict(bundle_copy, "unverified")
    assert read_latencies(read_manifest(bundle_copy), 1)


def test_another_version_of_a_backend_has_no_figures(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(manifest, 1.0, 2.0)
    monkeypatch.setattr(latency, "backend_version", lambda _: "99.0")
    assert read_latencies(manifest, 1) == {}


def _damaged(valid: dict[str, object]) -> dict[str, bytes]:
    entry = {"graph": FP32, "backend": ORT, "version": str(backend_version("onnxruntime"))} | {
        "p50_ms": 1.0,
        "rounds": 200,
        "interval_ms": [0.9, 1.1],
    }

    def entries(**changes: object) -> bytes:
        return json.dumps({**valid, "entries": [{**entry, **changes}]}).encode()

    return {
        "empty": b"",
        "cut short": json.dumps(valid).encode()[:-20],
        "not UTF-8": b"\xff\xfe\x00",
        "not an object": b"[]",
        "nested deeply": b"[" * 60_000,
        "too large": b" " * (1 << 20),
        "another format": json.dumps({**valid, "format": 1}).encode(),
        "unknown key": json.dumps({**valid, "more": 1}).encode(),
        "too many entries": json.dumps({**valid, "entries": [entry] * 100}).encode(),
        "zero": entries(p50_ms=0.0),
        "negative": entries(p50_ms=-1.0),
        "NaN": entries(p50_ms=float("nan")),
        "infinite": entries(p50_ms=float("inf")),
        "a string for a number": entries(p50_ms="1.0"),
        "true for a number": entries(p50_ms=True),
        "no rounds": entries(rounds=0),
        "half an interval": entries(interval_ms=[0.9]),
        "an interval of text": entries(interval_ms=["0.9", "1.1"]),
        "an unknown backend": entries(backend="../../evil"),
        "a graph that is none": entries(graph="../../../etc/passwd"),
    }


@pytest.mark.parametrize("name", list(_damaged({})))
def test_a_file_that_cannot_be_believed_is_ignored(manifest: Manifest, name: str) -> None:
    path = measured(manifest, 1.0, 2.0)
    path.write_bytes(_damaged(json.loads(path.read_text()))[name])
    assert read_latencies(manifest, 1) == {}
    assert chosen(manifest) == INT8


def test_what_is_no_file_is_ignored(manifest: Manifest) -> None:
    path = measured(manifest, 1.0, 2.0)
    path.unlink()
    path.mkdir()
    assert read_latencies(manifest, 1) == {}
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    assert read_latencies(manifest, 1) == {}
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read_latencies(manifest, 1) == {}


def test_a_cache_that_cannot_be_written_is_no_error(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert write_latencies(manifest, 1, {(FP32, ORT): timed(1.0)}) is None
    assert read_latencies(manifest, 1) == {}


def test_a_relative_cache_directory_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "dmdkit"


def test_the_key_is_of_the_content_not_of_the_place(bundle_copy: Path, tiny_bundle: Path) -> None:
    assert bundle_key(read_manifest(bundle_copy)) == bundle_key(read_manifest(tiny_bundle))


def test_a_backend_that_is_none_is_refused(bundle_copy: Path) -> None:
    with pytest.raises(InputError, match="expected auto, onnxruntime, openvino"):
        Runtime.open(bundle_copy, backend="tensorflow")


def test_a_graph_asked_for_by_name_runs_in_onnxruntime(manifest: Manifest) -> None:
    write_latencies(manifest, 1, {(FP32, ORT): timed(5.0), (INT8, ORT): timed(1.0)})
    assert choose(manifest, "fusion", "fp32", backend="auto", device="cpu", threads=1) == Choice(FP32, "onnxruntime")


def test_rounds_are_interleaved_and_every_call_is_timed() -> None:
    said: list[str] = []
    times = timed_rounds({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, 5)
    assert {name: len(found.wall) for name, found in times.items()} == {"a": 5, "b": 5}
    rounds = ["".join(sorted(said[start : start + 2])) for start in range(6, 16, 2)]
    assert rounds == ["ab"] * 5


def test_time_running_out_ends_the_rounds_early() -> None:
    assert len(timed_rounds({"a": lambda: None}, 1000, seconds=0.0)["a"].wall) == 3


def test_a_summary_has_the_quantiles_in_milliseconds() -> None:
    found = summarise([0.001, 0.002, 0.003, 0.004, 0.010])
    assert (found.rounds, found.p50_ms, found.max_ms, found.mean_ms) == (5, 3.0, 10.0, 4.0)
    assert found.p50_interval_ms is None


def test_the_interval_of_a_median_comes_from_ranks() -> None:
    assert median_interval(range(5)) is None
    assert median_interval(range(6)) == (0, 5)
    assert median_interval(range(100)) == (40, 60)
    heavy = np.random.default_rng(0).standard_cauchy((2000, 25))  # its median is 0, its mean does not exist
    holds = [low <= 0 <= high for low, high in map(median_interval, heavy)]  # type: ignore[misc]
    assert np.mean(holds) >= 0.95


def test_a_graph_that_cannot_run_is_a_row_of_its_own(bundle_copy: Path) -> None:
    put_file(bundle_copy, "graphs/fusion.fp32.onnx", b"not a graph")
    bundle = Bundle.open(bundle_copy)
    found, failed = measure_latency(bundle, [Target(FP32, "onnxruntime"), Target(INT8, "onnxruntime")], rounds=3)
    assert {target.graph for target in found} == {INT8}
    assert {target.graph: "cannot load" in reason for target, reason in failed.items()} == {FP32: True}


def test_every_graph_is_a_target_in_onnxruntime(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    names = {target.graph for target in targets(bundle) if target.backend == "onnxruntime"}
    assert names == set(bundle.manifest.graphs)


@pytest.mark.slow
def test_a_footprint_is_of_a_process_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    ballast = bytearray(os.urandom(1 << 20) * 400)  # more than the child needs, and none of its own
    found = footprint(tiny_bundle, Target(FP32, "onnxruntime"))
    assert found is not None
    assert 20e6 < found.peak_bytes < len(ballast)
    assert footprint(tmp_path / "absent", Target(FP32, "onnxruntime")) is None


@pytest.mark.slow
def test_a_footprint_runs_nothing_of_the_current_directory(tiny_bundle: Path, tmp_path: Path, monkeypatch) -> None:
    for name in ("json", "numpy", "onnxruntime", "dmdkit"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w'); raise ImportError")
    monkeypatch.chdir(tmp_path)
    assert footprint(tiny_bundle, Target(FP32, "onnxruntime")) is not None
    assert not (tmp_path / "ran").exists()
