"""The C++ tools keep the library beneath them from reporting on its use."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.cpp.conftest import SDK
from tests.watch import WAIT_S, Watch


@pytest.mark.slow
def test_the_cpp_tools_look_up_nothing_and_write_nothing(watch: Watch, tiny_bundle: Path, native_bin: Path) -> None:
    begin, rounds = time.monotonic(), 2000
    tool = [native_bin / "dmdkit-run", tiny_bundle]
    watch.run([*tool, "--self-check", "--every-graph"], [*tool, "--bench", "--rounds", str(rounds)])
    while time.monotonic() - begin < WAIT_S:  # until one process has lived long enough to look something up
        began, rounds = time.monotonic(), rounds * 4
        watch.run([*tool, "--bench", "--rounds", str(rounds)])
        if time.monotonic() - began > WAIT_S:
            break
    assert (watch.lookups, watch.written) == (set(), set())


@pytest.mark.slow
def test_the_cpp_plug_in_keeps_telemetry_that_the_user_asked_for(watch: Watch, tiny_bundle: Path, native_bin: Path) -> None:
    if not any(b"ORT_DISABLE_TELEMETRY" in path.read_bytes() for path in (SDK / "lib").glob("*.so")):
        pytest.skip("this ONNX Runtime has no telemetry")
    watch.run([native_bin / "dmdkit-run", tiny_bundle, "--self-check"], ORT_DISABLE_TELEMETRY="0")
    assert watch.written


def test_every_cpp_source_that_loads_onnxruntime_switches_its_telemetry_off() -> None:
    loading = [p for p in (ROOT / "runtime/cpp").rglob("*.cpp") if "CreateEnv(" in p.read_text(encoding="utf-8")]
    assert len(loading) >= 2
    for path in loading:
        assert "switch_off_onnxruntime_telemetry();" in path.read_text(encoding="utf-8"), path
