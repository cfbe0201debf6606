"""Nothing that dmdkit opens looks up a host, or writes outside dmdkit's own cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.watch import QUIETING, WAIT_S, Watch

OPEN_AND_PREDICT = """
import sys, time
import numpy as np
from dmdkit.runtime import Runtime
for backend in sys.argv[2:]:
    with Runtime.open(sys.argv[1], graph="fp32", backend=backend) as runtime:
        sample = {n: np.ones((r.steps, r.features), np.float32) for n, r in runtime.manifest.inputs.items()}
        runtime.predict(**sample), runtime.explain(**sample), runtime.self_check()
"""
COMMANDS = """
import sys, time
from dmdkit.cli import main
for command in " ".join(sys.argv[1:]).split(" ; "):
    assert main(command.split(" ")) in (0, 2), command
"""
WAIT = f"time.sleep({WAIT_S})\n"
# What ONNX Runtime and OpenVINO would do left alone: without this the tests could pass because the watch sees nothing.
LEFT_ALONE = """
import sys, time
import numpy as np
import {library}
from dmdkit.runtime import Runtime
Runtime.open(sys.argv[1], graph="fp32", backend="{library}")
"""


BACKENDS = [name for name in ("onnxruntime", "openvino") if find_spec(name) is not None]


def test_opening_and_predicting_writes_nothing_into_the_home(watch: Watch, tiny_bundle: Path) -> None:
    watch.run([sys.executable, "-c", OPEN_AND_PREDICT, tiny_bundle, *BACKENDS])
    assert (watch.lookups, watch.written) == (set(), set())


@pytest.mark.slow
def test_no_command_looks_up_a_host_or_writes_outside_our_cache(
    watch: Watch, tiny_bundle: Path, bundle_copy: Path, tiny_run: Path, tiny_data: Path
) -> None:
    check = f"check {bundle_copy} --data {tiny_data}"
    measure = f"{check} ; bench {bundle_copy} --rounds 3 ; predict {bundle_copy} --data {tiny_data} --graph fp32 ; doctor"
    export = f"export {tiny_run} --int8 --out {watch.folder / 'new.dmd'} --parity-data {tiny_data}"
    watch.run(
        [sys.executable, "-c", OPEN_AND_PREDICT + WAIT, tiny_bundle, *BACKENDS],
        [sys.executable, "-c", COMMANDS + WAIT, measure],
        [sys.executable, "-c", COMMANDS + WAIT, export],
    )
    assert (watch.lookups, watch.written) == (set(), set())
    assert (watch.folder / "home/cache/dmdkit").is_dir()  # the watched home was the one they used


@pytest.mark.slow
@pytest.mark.parametrize("library", BACKENDS)
def test_the_watch_sees_what_a_library_does_that_is_left_alone(watch: Watch, tiny_bundle: Path, library: str) -> None:
    package = find_spec(library)
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent
    if library == "onnxruntime" and not any(b"ORT_DISABLE_TELEMETRY" in p.read_bytes() for p in folder.glob("capi/*.so*")):
        pytest.skip("this ONNX Runtime has no telemetry")
    watch.run([sys.executable, "-c", LEFT_ALONE.format(library=library) + WAIT, tiny_bundle])
    assert watch.lookups
    assert watch.written


@pytest.mark.parametrize(
    ("before", "after"), [(None, "1"), ("", "1"), ("1", "1"), ("true", "1"), ("0", "0"), ("off", "off"), ("False", "False")]
)
def test_only_a_user_who_sets_the_switch_to_no_keeps_telemetry(before: str | None, after: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in QUIETING}
    environment |= {} if before is None else {"ORT_DISABLE_TELEMETRY": before}
    script = "import os, dmdkit; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == after


@pytest.mark.skipif("openvino" not in BACKENDS, reason="openvino is not installed")
@pytest.mark.parametrize(("consent", "loaded"), [(None, False), ("0", False), ("1", True)])
def test_openvino_sends_only_after_an_opt_in(watch: Watch, consent: str | None, loaded: bool) -> None:
    if consent is not None:
        (watch.folder / "home/intel").mkdir()
        (watch.folder / "home/intel/openvino_telemetry").write_text(consent)
    script = (
        "import sys; from dmdkit.telemetry import import_openvino; import_openvino(); "
        "print('openvino_telemetry' in sys.modules); import openvino_telemetry"
    )
    process = watch.start(sys.executable, "-c", script)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (0, str(loaded))
    assert ("www.google-analytics.com" in watch.lookups) == loaded


def test_openvino_is_imported_in_one_place_only() -> None:
    found = set()
    for folder in ("toolkit", "export", "calibration", "runtime", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if re.search(r"^\s*(import|from) openvino\b|importorskip\(.openvino.", path.read_text(encoding="utf-8"), re.M):
                found.add(str(path.relative_to(ROOT)))
    assert found == {"toolkit/telemetry.py"}
