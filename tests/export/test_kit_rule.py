"""A kit judges by the runtime's own self-check, which it carries and which needs numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dmdkit.runtime.self_check
from dmdkit.export.kit import write_kit
from dmdkit.export.targets import load_target
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.engines import device_kit
from tests.older_files import BUNDLES

GRAPH = "explain.int8-trt"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "kit"
    write_kit(Bundle.open(BUNDLES / "features"), [GRAPH], load_target("jetson-orin-nano"), [], out, force=False)
    return out


def checked(kit: Path, **off: float) -> dict[str, object]:
    """The sidecar's check where one value of each named output is off by so much."""
    listed = json.loads((kit / "kit.json").read_text())
    (graph,) = listed["graphs"]
    _, expected = device_kit.golden_of(listed, graph, kit)
    found = {name: array.copy() for name, array in expected.items()}
    for name, change in off.items():
        found[name].flat[0] += np.float32(change)
    return device_kit.check_of(listed, graph, found, expected)


def test_the_kit_carries_the_file_itself(kit: Path) -> None:
    source = Path(str(dmdkit.runtime.self_check.__file__))
    assert (kit / "lib/dmdkit/runtime/self_check.py").read_bytes() == source.read_bytes()


def test_it_runs_with_numpy_alone(kit: Path) -> None:
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import numpy as np\n"
        "from dmdkit.runtime.self_check import check_outputs\n"
        "print(check_outputs('g', 'fp32', {'score': np.ones((2, 1))}, {'score': np.ones((2, 1))}, 1.0).passed)\n"
        "ours = {n for n in sys.modules if n.split('.')[0] in ('dmdkit', 'pydantic', 'onnxruntime')}\n"
        "print(sorted(ours))\n"
    )
    paths = [str(kit / "lib"), str(Path(np.__file__).parents[1])]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    passed, loaded = done.stdout.splitlines()
    assert passed == "True"
    assert loaded == "['dmdkit', 'dmdkit.metrics', 'dmdkit.runtime', 'dmdkit.runtime.self_check']"


def test_the_output_that_used_most_of_its_tolerance_is_named(kit: Path) -> None:
    spread = Bundle.open(BUNDLES / "features").manifest.output_sd
    assert checked(kit)["passed"] is True
    found = checked(kit, score=0.05 * spread, edges_homo=0.2)
    assert (found["passed"], found["worst_output"], found["tolerance"]) == (False, "edges_homo", 0.1)
    missing = checked(kit, score=float("nan"))
    assert (missing["passed"], missing["worst_output"], missing["max_error"]) == (False, "score", None)
