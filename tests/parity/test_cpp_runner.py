"""The hop to C++: what a program named by --runner may do wrong, and what its answers prove. The real one: tests/cpp."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from dmdkit.cli import main
from dmdkit.errors import RunnerError
from dmdkit.parity.cpp_runner import CppRunner, NativeAnswers, cpp_hop
from dmdkit.parity.ledger import run_graph
from dmdkit.runtime.bundle import Bundle
from tests.runtime.builders import golden_inputs

HERE = f"onnxruntime {ort.__version__}"
ANSWER = """
from safetensors.numpy import load_file, save_file
import numpy as np
given = load_file(sys.argv[sys.argv.index("--input") + 1])
output = sys.argv[sys.argv.index("--output") + 1]
score = np.zeros((len(given["text"]), 1), np.float32)
"""
GOOD = f'print(\'{{"backend": "{HERE}"}}\')'


def program(folder: Path, body: str, *, mode: int = 0o755, first_line: str = f"#!{sys.executable}") -> Path:
    path = folder / "runner"
    path.write_text(f"{first_line}\nimport os, signal, sys, time\n{body}\n")
    path.chmod(mode)
    return path


def run(bundle: Path, tool: Path, *, graph: str = "fusion.fp32", timeout_s: float = 60.0) -> NativeAnswers:
    return CppRunner(tool, timeout_s=timeout_s).run(Bundle.open(bundle), graph, golden_inputs(bundle), batch=4)


def test_a_missing_runner_and_one_that_may_not_run_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"no such runner; build one with `make native`"):
        CppRunner(tmp_path / "none")
    with pytest.raises(RunnerError, match="no such runner"):
        CppRunner(tmp_path)
    with pytest.raises(RunnerError, match="not executable"):
        CppRunner(program(tmp_path, "", mode=0o644))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('dmdkit-run: no such bundle')", "failed on fusion.fp32 with exit code 1: dmdkit-run: no such bundle"),
        ("sys.exit(3)", "exit code 3: it said nothing"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV while it ran fusion.fp32"),
        ("pass", "printed '' for fusion.fp32; expected JSON with 'backend'"),
        ("print('[' * 100000)", "expected JSON with 'backend'"),
        ("print('[1]')", "expected JSON with 'backend'"),
        (GOOD, "its answers for fusion.fp32 cannot be read: No such file"),
        (GOOD + ANSWER + "open(output, 'w').close()", "are damaged"),
        (GOOD + ANSWER + "save_file({'score': score}, output); os.truncate(output, 70)", "are damaged"),
        (GOOD + ANSWER + "open(output, 'w').truncate(2 << 30)", "are larger than"),
        (GOOD + ANSWER + "save_file({'score': score.astype(np.float64)}, output)", "hold 'score' as float64"),
    ],
)
def test_whatever_goes_wrong_is_one_error(tiny_bundle: Path, tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(RunnerError, match=words) as error:
        run(tiny_bundle, program(tmp_path, body))
    assert "\n" not in str(error.value)


def test_a_program_for_another_machine_is_one_error(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="cannot be run: No such file"):
        run(tiny_bundle, program(tmp_path, "", first_line="#!/no/such/interpreter"))
    (tmp_path / "elf").write_bytes(b"\x7fELF of another kind")
    (tmp_path / "elf").chmod(0o755)
    with pytest.raises(RunnerError, match="cannot be run: Exec format error; build it for this machine"):
        run(tiny_bundle, tmp_path / "elf")


def test_a_runner_that_hangs_is_ended_with_what_it_started(tiny_bundle: Path, tmp_path: Path) -> None:
    note = tmp_path / "child"
    body = f"child = os.fork()\nif child: open({str(note)!r}, 'w').write(str(child))\ntime.sleep(600)"
    with pytest.raises(RunnerError, match=r"did not finish fusion.fp32 within 2 s; allow more with --runner-timeout"):
        run(tiny_bundle, program(tmp_path, body), timeout_s=2.0)
    state = Path(f"/proc/{note.read_text()}/status")
    assert not state.exists() or "zombie" in state.read_text()


def test_no_temporary_space_is_one_error(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        RunnerError, match="no temporary folder for --runner: No such file or directory; free space or set TMPDIR"
    ):
        run(tiny_bundle, program(tmp_path, GOOD))


def hop_of(bundle: Path, graph: str, change: float, backend: str = HERE):
    opened = Bundle.open(bundle)
    features = {name: np.tile(array, (8, 1, 1))[:60] for name, array in golden_inputs(bundle).items()}
    here = run_graph(opened, graph, features, lambda: None)
    there = {name: array.copy() for name, array in here.items()}
    last = list(there)[-1]
    there[last][7] += np.float32(change)
    count = len(here["score"])
    ids = [f"s{i}" for i in range(count)]
    return cpp_hop(graph, here, NativeAnswers(backend, there), manifest=opened.manifest, labels=None, ids=ids), count


@pytest.mark.parametrize("graph", ["fusion.fp32", "explain.fp32", "explain.int8-cpu"])
def test_a_hop_between_languages_allows_a_millionth_on_every_output(tiny_bundle: Path, graph: str) -> None:
    same, count = hop_of(tiny_bundle, graph, 0.0)
    assert count >= 50
    assert (same.status, same.max_error) == ("passed", 0.0)
    assert same.reason == f"within every limit; {HERE} in both"
    assert same.target == f"{graph}@cpp"
    off, _ = hop_of(tiny_bundle, graph, 1e-5)
    assert off.status == "failed"
    assert "max error" in off.reason
    assert off.reason.endswith(f"> 1e-06; {HERE} in both")


def test_two_versions_of_onnxruntime_prove_nothing_and_say_so(tiny_bundle: Path) -> None:
    for change in (0.0, 1e-5):
        hop, _ = hop_of(tiny_bundle, "fusion.fp32", change, "onnxruntime 1.2.3")
        assert hop.status == "unverified"
        assert f"C++ has onnxruntime 1.2.3, Python {HERE}" in hop.reason
    broken, _ = hop_of(tiny_bundle, "fusion.fp32", np.nan, "onnxruntime 1.2.3")
    assert broken.status == "failed"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("save_file({'score': score * np.nan}, output)", "score holds values that are not finite"),
        ("save_file({'score': np.zeros((len(score), 2), np.float32)}, output)", "score has shape"),
        ("save_file({'other': score}, output)", "score missing from fusion.fp32@cpp"),
    ],
)
def test_answers_that_cannot_be_compared_fail_the_check(
    bundle_copy: Path, tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str, words: str
) -> None:
    tool = program(tmp_path, GOOD + ANSWER + body)
    command = ["check", str(bundle_copy), "--data", str(tiny_data), "--backend", "onnxruntime", "--runner", str(tool), "--json"]
    assert main(command) == 2
    ledger = json.loads(capfd.readouterr().out)
    reasons = {hop["target"]: hop["reason"] for hop in ledger["hops"] if hop["status"] == "failed"}
    assert words in reasons["fusion.fp32@cpp"]
    verdicts = {name: graph.verdict.status for name, graph in Bundle.open(bundle_copy).manifest.graphs.items()}
    assert verdicts["fusion.fp32"] == "passed", "what C++ does is no verdict about the graph"


def test_a_missing_runner_stops_the_check_before_it_measures(
    bundle_copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (bundle_copy / "report/parity.json").read_bytes()
    assert main(["check", str(bundle_copy), "--runner", os.fspath(tmp_path / "none")]) == 1
    assert "no such runner" in capfd.readouterr().err
    assert (bundle_copy / "report/parity.json").read_bytes() == before
