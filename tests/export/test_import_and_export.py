"""A recording's weights, imported and exported: plain ONNX Runtime gives what the published code gave."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from safetensors import safe_open

from dmdkit.cli import main
from tests.conftest import SHARED

RECORDINGS = sorted((SHARED / "reference").glob("*.weights.safetensors"))
COMMON_ZERO_PREFIX = {"mosi_aligned_untrained": 4}
"""All-zero biases and a common zero prefix in all three streams occur only in untrained weights (docs/model.md section 10)."""


@pytest.mark.slow
@pytest.mark.skipif(not RECORDINGS, reason="no recordings here (set DMDKIT_SHARED to the folder that holds reference/)")
@pytest.mark.parametrize("weights", RECORDINGS, ids=lambda path: path.name.split(".")[0])
def test_exported_fusion_and_explain_reproduce_the_recording(weights: Path, tmp_path: Path) -> None:
    with safe_open(weights, "numpy") as stream:
        heads = stream.metadata()["heads"]
    run, bundle = tmp_path / "run", tmp_path / "b.dmd"
    assert main(["import", str(weights), "--heads", heads, "--out", str(run)]) == 0
    assert main(["export", str(run), "--out", str(bundle)]) == 2, "nothing proven without parity data"
    with np.load(weights.with_name(weights.name.replace(".weights.safetensors", ".io.npz"))) as arrays:
        recorded = {name: arrays[name] for name in arrays.files}
    feed = {m: recorded[f"in/{m}"] for m in ("text", "audio", "vision")}
    keep = np.ones(len(feed["text"]), bool)
    if (exception := COMMON_ZERO_PREFIX.get(weights.name.split(".")[0])) is not None:
        keep[exception] = False

    fusion = ort.InferenceSession(bundle / "graphs/fusion.fp32.onnx", providers=["CPUExecutionProvider"])
    (score,) = fusion.run(["score"], feed)
    assert np.abs(score - recorded["out/output_logit"])[keep].max() <= 1e-5
    # One sample at a time gives what the batch gives.
    single = np.concatenate([fusion.run(["score"], {k: v[i : i + 1] for k, v in feed.items()})[0] for i in range(len(keep))])
    assert np.abs(single - score).max() <= 1e-5

    explain = ort.InferenceSession(bundle / "graphs/explain.fp32.onnx", providers=["CPUExecutionProvider"])
    names = ["score", "logit_homo", "logit_hetero", "edges_homo", "edges_hetero"]
    found = dict(zip(names, explain.run(names, feed), strict=True))
    for space in ("homo", "hetero"):
        assert np.abs(found[f"edges_{space}"] - recorded[f"edges/{space}"].T)[keep].max() <= 1e-5
        logits = np.stack([recorded[f"out/logits_{m}_{space}"] for m in "lva"], axis=1)
        assert np.abs(found[f"logit_{space}"] - logits)[keep].max() <= 1e-5
        reprs = np.stack([recorded[f"out/repr_{m}_{space}"] for m in "lva"], axis=1)
        unit = ort.InferenceSession(bundle / f"graphs/gd_{space}.onnx", providers=["CPUExecutionProvider"])
        (edges,) = unit.run(["edges"], {"logits": logits, "representations": reprs})
        assert np.abs(edges - recorded[f"edges/{space}"].T).max() <= 1e-5
