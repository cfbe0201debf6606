"""Streams over real features: every prefix of every test sample; ``make soak`` runs it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.data import load_dataset
from dmdkit.data.real_steps import prefixes, with_real_steps
from dmdkit.parity.compare import COMPRESSED_P99_ERROR_SD
from dmdkit.parity.stream_hops import stream_answers
from dmdkit.runtime.bundle import Bundle
from dmdkit.training.evaluation import load_system, predict
from dmdkit.training.run import Run


@pytest.mark.slow
@pytest.mark.skipif("DMDKIT_SOAK" not in os.environ, reason="two trainings and exports; make soak runs it")
@pytest.mark.parametrize("steps", ["padded", "real"])
def test_every_prefix_of_every_mosi_sample_answers_as_its_window(mosi_clean: Path, tmp_path: Path, steps: str) -> None:
    """Windows of prefixes are those of PyTorch, told how many steps there are; INT8 lies within the limits of its verdict."""
    out, bundle = tmp_path / "run", tmp_path / "mosi.dmd"
    given = ["--config", "small", "--set", f"data.steps={steps}", "--set", "training.epochs=1", "--device", "cpu"]
    assert main(["train", "--data", str(mosi_clean), "--out", str(out), *given]) == 0
    exported = main(["export", str(out), "--stream", "--int8", "--int8-search", "none", "--out", str(bundle)])
    assert exported in (0, 2)
    run = Run.open(out)
    split = with_real_steps(load_dataset(mosi_clean), run.facts.shape.kernels).splits["test"]
    assert split.steps is not None
    windows = prefixes(split, 1)
    assert len(windows) == int(split.steps.sum()) == 1448
    truth, opened = predict(load_system(run), windows), Bundle.open(bundle)
    for precision in ("fp32", "int8-cpu"):
        found = stream_answers(opened, precision, split.features(), split.steps)["score"]
        errors = np.abs(found - truth)
        print(f"{steps}, stream.{precision}: {len(windows)} prefixes, largest error {errors.max():.1e}")
        if precision == "fp32":
            assert errors.max() < 1e-5
        else:
            assert np.quantile(errors, 0.99) <= COMPRESSED_P99_ERROR_SD * truth.std()
