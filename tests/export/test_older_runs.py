"""Runs that an earlier version finished open, and export."""

from pathlib import Path

import pytest

from dmdkit.cli import main
from dmdkit.data import write_dataset
from dmdkit.runtime import Runtime
from dmdkit.training.run import Run
from tests.conftest import tiny_dataset
from tests.older_files import RUNS, assert_same_as_then, inputs_of


@pytest.mark.parametrize("name", ["features", "words"])
def test_a_run_of_0_1_opens(name: str) -> None:
    run = Run.open(RUNS / name)
    assert run.facts.task == "regression"
    assert (run.facts.text is not None) == (name == "words")


@pytest.mark.slow
def test_a_run_of_0_1_exports_to_the_answers_of_then(tmp_path: Path) -> None:
    write_dataset(tiny_dataset(), tmp_path / "tiny.npz")
    command = ["export", str(RUNS / "features"), "--parity-data", str(tmp_path / "tiny.npz"), "--out", str(tmp_path / "b")]
    assert main(command) in (0, 2)
    samples = inputs_of("features")
    with Runtime.open(tmp_path / "b", graph="fp32", backend="onnxruntime", device="cpu") as runtime:
        assert_same_as_then("features", "fp32", {"score": runtime.predict(**samples).score})
