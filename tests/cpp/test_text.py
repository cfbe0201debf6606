"""C++ opens a bundle with a text encoder, takes features, and leaves words to Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dmdkit.runtime import Runtime
from tests.runtime.builders import golden_inputs

pytestmark = pytest.mark.slow


def test_features_give_the_same_score_in_both_languages(native_bin: Path, text_bundle: Path, tmp_path: Path):
    features = golden_inputs(text_bundle)
    save_file(features, tmp_path / "features.safetensors")
    command = [native_bin / "dmdkit-run", text_bundle, "--graph", "fp32", "--input", tmp_path / "features.safetensors"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Runtime.open(text_bundle, graph="fp32") as runtime:
        expected = runtime.predict(**features).score
    found = np.array(json.loads(done.stdout)["score"]["values"], np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_golden_samples_are_replayed_without_the_text_graphs(native_bin: Path, text_bundle: Path):
    command = [str(native_bin / "dmdkit-run"), str(text_bundle), "--self-check", "--every-graph"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {graph["graph"] for graph in json.loads(done.stdout)["graphs"]}
    assert "fusion.fp32" in names
    assert not any(name.startswith("text.") for name in names)
