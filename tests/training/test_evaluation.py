"""Metrics with only some modalities there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.cli import main
from dmdkit.data import load_dataset
from dmdkit.training.evaluation import load_system, predict, task_metrics
from dmdkit.training.run import Run


def test_evaluate_measures_all_seven_subsets(tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny_run), "--subsets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["subsets"]) == [
        "text",
        "audio",
        "vision",
        "text+audio",
        "text+vision",
        "audio+vision",
        "text+audio+vision",
    ]
    assert found["subsets"]["text+audio+vision"] == {k: v for k, v in found.items() if k in found["subsets"]["text"]}
    split = load_dataset(tiny_data).splits["test"]
    without = replace(split, audio=np.zeros_like(split.audio))
    expected = task_metrics(predict(load_system(Run.open(tiny_run)), without), split.labels, "regression", (-3.0, 3.0))
    assert found["subsets"]["text+vision"]["mae"] == pytest.approx(expected["mae"])
    assert main(["evaluate", str(tiny_run), "--subsets"]) == 0
    assert "audio+vision" in capsys.readouterr().out
