"""Names too long, counts too large, places that are gone: one readable line, never a traceback or another code's meaning."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.config import load_run_config, recipe_path
from dmdkit.data import write_dataset
from dmdkit.errors import ConfigError, InputError, WeightsError
from dmdkit.runtime.open_graph import MAX_THREADS, OpenOptions
from tests.cli.helpers import TINY_FLAGS, in_process, python
from tests.conftest import tiny_dataset

LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ["data", "inspect", LONG],
        ["data", "sample", "--out", f"{LONG}.npz"],
        ["inspect", LONG],
        ["evaluate", LONG],
        ["triton", LONG, "--out", "models"],
        ["predict", LONG, "--data", "a.npz", "--out", f"{LONG}.csv"],
    ],
    ids=lambda command: command[0],
)
def test_a_name_longer_than_the_system_takes_is_one_line(command: list[str], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert in_process(*command) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_torch_is_not_started_in_a_working_directory_that_is_gone(tmp_path: Path):
    code = """
import os, sys
from dmdkit.cli import main
os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
code = main(["evaluate", "/nowhere"])
print(code, "torch" in sys.modules)
"""
    done = python(code, tmp_path / "gone")
    assert done.stdout.split() == ["1", "False"]
    assert done.stderr.strip() == "error: evaluation: the working directory is gone; change to one that is there"


def test_a_test_split_that_cannot_be_measured_does_not_take_the_weights_away(tmp_path: Path, capsys):
    data = tiny_dataset()
    test = data.splits["test"]
    extreme = replace(test, audio=np.where(test.audio != 0, np.float32(3e38), test.audio))
    write_dataset(replace(data, splits={**data.splits, "test": extreme}), tmp_path / "extreme.npz")
    out = tmp_path / "run"
    assert in_process("train", "--data", tmp_path / "extreme.npz", "--out", out, "--device", "cpu", *TINY_FLAGS) == 0
    assert "warning: the test split could not be measured: the model's outputs are not finite" in capsys.readouterr().err
    assert (out / "model.safetensors").is_file()
    assert list(json.loads((out / "metrics.json").read_text())["splits"]) == ["valid"]


@pytest.mark.parametrize("setting", ["training.seed=-1", "training.epochs=many", "model.nosuch=1"])
def test_a_wrong_setting_is_not_blamed_on_the_recipe(setting: str):
    with pytest.raises(ConfigError, match=r"^settings given") as caught:
        load_run_config(recipe_path("small"), [setting])
    assert setting in str(caught.value)
    assert "small.yaml" not in str(caught.value)


def test_a_wrong_recipe_is_blamed_whatever_is_set(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("training: {seed: -1}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*training\.seed"):
        load_run_config(tmp_path / "mine.yaml", ["training.epochs=3"])


@pytest.mark.parametrize("threads", ["2", 2.5, True, 0, 10**9])
def test_threads_that_cannot_be_are_refused(threads: object):
    with pytest.raises(InputError, match="expected a whole number from 1 to 1,024"):
        OpenOptions(threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "most"), [("--threads", MAX_THREADS), ("--batch", 4096)])
def test_bench_takes_no_count_that_would_exhaust_the_machine(option: str, most: int, tmp_path: Path, capsys):
    assert in_process("bench", tmp_path, option, most + 1) == 1
    said = capsys.readouterr().err
    assert option in said
    assert str(most) in said


def test_a_checkpoint_that_would_run_code_is_refused_in_our_words(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from dmdkit.model.published import read_tensors

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"something other than tensors \(posix\.mkdir\), which is never loaded") as caught:
        read_tensors(tmp_path / "evil.pth")
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "made").exists()
