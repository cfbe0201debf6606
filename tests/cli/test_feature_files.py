"""Feature files for a model: what is refused, and what is said, where they are not made as its training data was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmdkit.data import Dataset, write_dataset
from tests.cli.helpers import in_process
from tests.conftest import tiny_dataset

WRONG_SIDE = "text is padded on the right"


def padded_on_the_right() -> Dataset:
    data, splits = tiny_dataset(), {}
    for name, split in data.splits.items():
        moved = {}
        for modality, array in split.features().items():
            moved[modality] = array.copy()
            rows = ~array[:, :2].any(axis=(1, 2))
            moved[modality][rows] = np.roll(array[rows], -2, axis=1)
        splits[name] = replace(split, **moved)
    return replace(data, splits=splits, padding_side=dict.fromkeys(moved, "right"))


@pytest.mark.parametrize("command", ["evaluate", "check"])
def test_features_padded_on_the_other_side_are_not_measured(command, tiny_run: Path, bundle_copy: Path, tmp_path: Path, capsys):
    write_dataset(padded_on_the_right(), tmp_path / "right.npz")
    before = (bundle_copy / "manifest.json").read_bytes()
    model = tiny_run if command == "evaluate" else bundle_copy
    assert in_process(command, model, "--data", tmp_path / "right.npz") == 1
    said = capsys.readouterr().err
    assert WRONG_SIDE in said
    assert "move each sample's features to the right end, its zeros then on the left" in said
    assert (bundle_copy / "manifest.json").read_bytes() == before


def test_predict_warns_of_padding_on_the_other_side(tiny_bundle: Path, tmp_path: Path, capsys):
    write_dataset(padded_on_the_right(), tmp_path / "right.npz")
    assert in_process("predict", tiny_bundle, "--data", tmp_path / "right.npz", "--limit", "1") == 0
    assert f"warning: {tmp_path / 'right.npz'}: {WRONG_SIDE}" in capsys.readouterr().err


def test_a_file_without_padding_fits_either_side(tiny_run: Path, tmp_path: Path):
    data = tiny_dataset()
    test = data.splits["test"].take(np.arange(15, 60))
    write_dataset(replace(data, splits={"test": test}), tmp_path / "full.npz")
    assert in_process("evaluate", tiny_run, "--data", tmp_path / "full.npz") == 0


def test_predict_says_how_many_values_became_zero(tiny_bundle: Path, tmp_path: Path, capsys):
    data = tiny_dataset()
    audio = data.splits["test"].audio.copy()
    audio[3, 4, :3] = np.nan
    write_dataset(replace(data, splits={"test": replace(data.splits["test"], audio=audio)}), tmp_path / "nan.npz")
    call = ("predict", tiny_bundle, "--data", tmp_path / "nan.npz", "--limit", "1", "--nan-policy", "zero")
    assert in_process(*call) == 0
    assert "audio: 3 non-finite values replaced by 0" in capsys.readouterr().err


def test_metrics_on_samples_that_made_the_model_are_said_not_to_be_held_out(tiny_run: Path, tmp_path: Path, capsys):
    data = tiny_dataset()
    train = data.splits["train"]
    leaky = replace(train, ids=tuple(f"new-{i}" for i in range(64)), audio=train.audio.astype(np.float16).astype(np.float32))
    write_dataset(replace(data, splits={"test": leaky}), tmp_path / "leaky.npz")
    assert in_process("evaluate", tiny_run, "--data", tmp_path / "leaky.npz", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["seen_samples"] == {"trained": 64}
    assert "64 test samples trained the model, of 64" in said.err
    assert "not those of held-out data" in said.err
    assert in_process("evaluate", tiny_run, "--split", "valid") == 0
    assert "16 valid samples chose the best epoch, of 16" in capsys.readouterr().err
    assert in_process("evaluate", tiny_run, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["seen_samples"] == {}
    assert "held-out" not in said.err


def test_a_run_made_before_fingerprints_is_measured_as_before(tiny_run: Path, tmp_path: Path, capsys):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "samples.json").unlink()
    assert in_process("evaluate", run, "--split", "train") == 0
    assert "warning" not in capsys.readouterr().err
    (run / "samples.json").write_text("{")
    assert in_process("evaluate", run) == 1
    assert "samples.json: damaged" in capsys.readouterr().err


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of the tiny set under other names and other values, labelled by class."""
    splits = {
        name: replace(
            split,
            ids=tuple(f"other-{one}" for one in split.ids),
            text=split.text * np.float32(1.01),
            labels=(split.labels > 0).astype(np.int64),
        )
        for name, split in tiny_dataset(1).splits.items()
    }
    path = tmp_path_factory.mktemp("classes") / "classes.npz"
    write_dataset(replace(tiny_dataset(1), task="classification", label_range=None, num_classes=2, splits=splits), path)
    return path


@pytest.mark.parametrize("command", ["evaluate", "check", "predict", "export", "convert"])
def test_a_regression_model_refuses_a_file_of_classes(command, tiny_run, bundle_copy, classes, tmp_path, capsys):
    before = (bundle_copy / "manifest.json").read_bytes()
    asked = {
        "evaluate": ["evaluate", tiny_run, "--data", classes],
        "check": ["check", bundle_copy, "--data", classes],
        "predict": ["predict", bundle_copy, "--data", classes],
        "export": ["export", tiny_run, "--parity-data", classes, "--out", tmp_path / "new.dmd"],
    }
    if command in asked:
        assert in_process(*asked[command]) == 1
        said = capsys.readouterr().err
        assert "trained for regression; found class numbers, 'labels' from 0 to 1: classification" in said
        assert "dmdkit data convert" in said
        assert (bundle_copy / "manifest.json").read_bytes() == before
        assert not (tmp_path / "new.dmd").exists()
        return
    assert in_process("data", "convert", classes, tmp_path / "scores.npz", "--task", "regression") == 0
    assert in_process("evaluate", tiny_run, "--data", tmp_path / "scores.npz") == 0


def test_a_run_told_that_whole_numbers_are_scores_takes_them_from_other_files_too(tiny_run, classes, tmp_path):
    told = tmp_path / "told"
    shutil.copytree(tiny_run, told)
    config = told / "config.yaml"
    assert "task: auto" in config.read_text()
    config.write_text(config.read_text().replace("task: auto", "task: regression"))
    assert in_process("evaluate", told, "--data", classes) == 0
