"""Where the runtime must live: without torch, with the base dependencies alone, and with the oldest ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BASE_PYTHON = ROOT / "build/envs/base/bin/python"
OLD_ORT = ROOT / "build/envs/onnxruntime-1.22.1"
HEAVY = ("torch", "onnx", "onnxscript", "modelopt", "lightning_fabric", "typer", "rich", "scipy")

USE_A_BUNDLE = """
import json, sys
import numpy as np
import dmdkit.runtime
from dmdkit.runtime import Runtime
with Runtime.open(sys.argv[1]) as runtime:
    sample = {n: np.zeros((r.steps, r.features), np.float32) + 0.1 for n, r in runtime.manifest.inputs.items()}
    runtime.predict(**sample), runtime.explain(**sample)
    sound = runtime.self_check(every_graph=True)
print(json.dumps({"passed": sound.passed, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

COMPARE_WITH_GOLDEN = """
import json, sys
import onnxruntime as ort
import safetensors.numpy
from pathlib import Path
bundle = Path(sys.argv[1])
manifest = json.loads((bundle / "manifest.json").read_text())
golden = safetensors.numpy.load((bundle / manifest["golden"]["file"]).read_bytes())
worst = {}
for name, graph in manifest["graphs"].items():
    options = ort.SessionOptions()
    for key, value in graph["session_options"].items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(str(bundle / graph["file"]), options, providers=["CPUExecutionProvider"])
    prefix = f"input/{graph['kind']}/" if graph["kind"].startswith("gd_") else "input/"
    feed = {node.name: golden[prefix + node.name] for node in session.get_inputs()}
    outputs = [node.name for node in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, feed)))
    worst[name] = max(float(abs(found[o] - golden[f"recorded/{name}/{o}"]).max()) for o in outputs)
print(json.dumps({"version": ort.__version__, "worst": worst, "sd": manifest["output_sd"]}))
"""


def run(python: Path | str, code: str, *arguments: str, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COV_CORE_SOURCE")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(python), "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtime_loads_neither_torch_nor_onnx_nor_the_command_line(tiny_bundle: Path):
    found = json.loads(run(sys.executable, USE_A_BUNDLE, str(tiny_bundle)))
    assert found["passed"]
    assert not set(found["modules"]) & set(HEAVY)


def test_importing_dmdkit_alone_loads_nothing_heavy():
    code = "import dmdkit, sys; print(' '.join(sys.modules))"
    assert not {name.partition(".")[0] for name in run(sys.executable, code).split()} & {*HEAVY, "numpy", "onnxruntime"}


@pytest.mark.skipif(not BASE_PYTHON.exists(), reason="build/envs/base is not here; `make test` builds it")
def test_the_runtime_works_in_an_environment_of_base_dependencies(tiny_bundle: Path):
    run(BASE_PYTHON, "import dmdkit.runtime")
    assert (
        run(BASE_PYTHON, "import importlib.util as u; print([u.find_spec(n) for n in ('torch', 'onnx')])") == "[None, None]\n"
    )
    assert json.loads(run(BASE_PYTHON, USE_A_BUNDLE, str(tiny_bundle)))["passed"]


@pytest.mark.skipif(not BASE_PYTHON.exists(), reason="build/envs/base is not here; `make test` builds it")
def test_the_report_is_drawn_in_an_environment_of_base_dependencies(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # What this machine measured of the same bundle, in other tests, belongs in a page too; here there is none of it.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = "import sys; from dmdkit.cli import main; sys.exit(main(['report', sys.argv[1]]))"
    page, drawn = bundle_copy / "report/report.html", []
    for python in (sys.executable, BASE_PYTHON):
        page.unlink()
        run(python, draw, str(bundle_copy))
        drawn.append(page.read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1]


@pytest.mark.skipif(not OLD_ORT.exists(), reason="build/envs/onnxruntime-1.22.1 is not here; `make test` builds it")
def test_the_oldest_onnx_runtime_gives_the_recorded_outputs_of_every_graph(tiny_bundle: Path):
    found = json.loads(run(sys.executable, COMPARE_WITH_GOLDEN, str(tiny_bundle), path=OLD_ORT))
    assert found["version"] == "1.22.1"
    assert len(found["worst"]) == 8
    for name, error in found["worst"].items():
        assert error <= (1e-5 if name.endswith("fp32") else 0.1 * found["sd"]), name


@pytest.mark.skipif(not OLD_ORT.exists(), reason="build/envs/onnxruntime-1.22.1 is not here; `make test` builds it")
def test_the_runtime_finds_a_bundle_sound_with_the_oldest_onnx_runtime(tiny_bundle: Path):
    assert json.loads(run(sys.executable, USE_A_BUNDLE, str(tiny_bundle), path=OLD_ORT))["passed"]
