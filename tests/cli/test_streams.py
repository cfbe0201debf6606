"""Answers go to standard output, progress and advice to standard error, and both arrive in the order they are said."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.helpers import COMMANDS, TINY_FLAGS, in_process
from tests.runtime.builders import set_verdict

ADVICE = re.compile(
    r"next: |wrote |\b(?:choose|name) (?:another|your own|one it has)|\bpass --|\bprove them\b|\bgoes? on from there with\b|"
    r"\bmend the\b|\bopen .* in a browser|^(?:exporting|checking|measuring|calibrating|memory|epoch|\d/5)\b",
    re.M,
)
"""What tells somebody what to do next, what was chosen, and how far the work is."""

FP32 = ["--target", "jetson-agx-orin", "--precision", "fp32", "--dry-run"]
SLOW = {"export", "demo", "add-precision", "bench", "train", "reproduce"}

# Command -> arguments, what it answers (nothing: its answer is what it wrote), whether it has --json, exit codes.
CASES: dict[str, tuple[list[str], str, bool, set[int]]] = {
    "train": (["--data", "{data}", "--out", "{new}", *TINY_FLAGS], r"^mae ", True, {0}),
    "import": (["{weights}", "--heads", "2", "--out", "{new}"], "", False, {0}),
    "evaluate": (["{run}"], r"^acc2_has_zero ", True, {0}),
    "reproduce": (["{run}"], r"^reproduced bit by bit", True, {0}),
    "export": (["{run}", "--out", "{new}"], r"^fusion\.fp32 ", True, {0, 2}),
    "check": (["{bundle}", "--data", "{data}"], r"^verdict: ", True, {0, 2}),
    "predict": (["{bundle}", "--data", "{data}", "--graph", "fp32", "--limit", "2"], r"^test-1 ", True, {0}),
    "inspect": (["{bundle}"], r"^every hash matches", True, {0}),
    "report": (["{bundle}"], "", False, {0}),
    "doctor": ([], r"^backend onnxruntime cpu: works", True, {0}),
    "demo": (["--out", "{new}"], r"^self-check of 8 graphs: passed", False, {0, 2}),
    "bench": (["{bundle}", "--rounds", "3", "--no-memory"], r"^auto takes fusion", True, {0}),
    "targets": ([], r"^jetson-orin-nano ", True, {0}),
    "add-precision": (["{bundle}", "fp16"], r"^fusion\.fp16 ", True, {2}),
    "build": (["{bundle}", *FP32], r"^dry run for jetson-agx-orin", True, {0}),
    "triton": (["{bundle}", "{new}"], "", True, {0}),
    "data inspect": (["{data}"], r"^every feature is finite", True, {0}),
    "data sample": (["--out", "{new}.npz"], "", False, {0}),
    "data convert": (["{data}", "{new}.npz"], "", False, {0}),
}


class Stream(io.TextIOBase):
    """One of two streams that write into one pipe: standard output when it is flushed or full, standard error at once."""

    def __init__(self, name: str, written: list[tuple[str, str]]) -> None:
        self.name, self.written, self.held = name, written, ""

    def write(self, text: str) -> int:
        self.held += text
        if self.name == "err":
            self.flush()
        return len(text)

    def flush(self) -> None:
        if self.held:
            self.written.append((self.name, self.held))
        self.held = ""


@contextlib.contextmanager
def piped() -> Iterator[list[tuple[str, str]]]:
    """What is written, in the order in which it arrives, each part with its stream."""
    written: list[tuple[str, str]] = []
    with contextlib.redirect_stdout(Stream("out", written)), contextlib.redirect_stderr(Stream("err", written)):
        yield written


def said(written: list[tuple[str, str]], stream: str) -> str:
    return "".join(text for name, text in written if name == stream)


@pytest.fixture
def places(tiny_data, tiny_run, bundle_copy, published_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DMDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dmdkit.cli.demo._DEMO_SETTINGS", ["training.epochs=3", "model.width=12", "model.levels=1"])
    set_verdict(bundle_copy, "passed")
    return {"data": tiny_data, "run": tiny_run, "bundle": bundle_copy, "weights": published_weights, "new": tmp_path / "new"}


def test_every_command_has_a_case():
    assert set(CASES) == set(COMMANDS)


@pytest.mark.parametrize("command", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in COMMANDS])
def test_answers_and_advice_go_their_own_ways_and_stay_in_order(command: str, places: dict[str, Path]) -> None:
    arguments, answer, has_json, codes = CASES[command]
    given = [*command.split(), *(part.format(**places) for part in arguments)]
    with piped() as written:
        code = in_process(*given)
    out, err = said(written, "out"), said(written, "err")
    assert code in codes, err
    assert ADVICE.search(out) is None, out
    assert (re.search(answer, out, re.M) is not None) if answer else not out, out
    end = "".join(text for _, text in written).rstrip().splitlines()[-1]
    if (found := re.search(r"^(next: .*|wrote .*)$", err, re.M)) is not None:
        assert end in err.splitlines(), "what comes next is said last"
        place = next(index for index, (_, text) in enumerate(written) if found[1] in text or text.startswith(found[1][:5]))
        assert all(name == "err" for name, _ in written[place:]), "nothing is answered after it"
    if has_json:
        if places["new"].exists():
            places["new"].rename(places["new"].with_name("first"))
        with piped() as written:
            code = in_process(*given, "--json")
        assert code in {*codes, 0}, said(written, "err")
        json.loads(said(written, "out"))
        again = re.search(r"^(?:next: .*|wrote .*)$", said(written, "err"), re.M)
        if again is not None:
            assert written[-1][0] == "err", "the document is written before the advice, although a pipe holds it back"


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_an_error_leaves_standard_output_empty(json_option, tmp_path):
    for command in (["check", tmp_path / "none.dmd"], ["evaluate", tmp_path / "none"], ["build", tmp_path / "none.dmd"]):
        with piped() as written:
            assert in_process(*command, *json_option) == 1
        assert {name for name, _ in written} == {"err"}
