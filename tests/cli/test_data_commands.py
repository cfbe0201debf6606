from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dmdkit.cli.data import app
from dmdkit.data import load_dataset, sample_dataset
from dmdkit.errors import DataError
from tests.conftest import shared_path
from tests.data.builders import mmsa_content, write_pickle


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def pickle_file(tmp_path):
    content = mmsa_content()
    content["train"]["audio"][1, 2, 0] = float("nan")
    return write_pickle(tmp_path / "a.pkl", content)


def test_sample_writes_the_generated_set_and_names_the_next_command(tmp_path):
    out = tmp_path / "sample.npz"
    answer = run("sample", "--out", out)
    assert "next: dmdkit data inspect" in answer
    assert load_dataset(out).sha256 == sample_dataset().sha256


def test_nothing_is_overwritten_without_force(tmp_path):
    out = tmp_path / "sample.npz"
    out.write_text("mine")
    for command in (["sample", "--out", out], ["convert", out, out]):
        with pytest.raises(DataError, match="exists; choose another name or pass --force"):
            run(*command)
    assert out.read_text() == "mine"
    run("sample", "--out", out, "--seed", 5, "--force")
    assert load_dataset(out).sha256 == sample_dataset(5).sha256


def test_inspect_shows_labels_padding_and_the_policy_needed(pickle_file):
    answer = run("inspect", pickle_file)
    for text in (
        "regression, labels from -3 to 3",
        "6 x 6 x 3",
        "1 NaN (0: 1)",
        "-3 to -2",
        "####",
        "--nan-policy zero",
    ):
        assert text in answer
    assert "3 classes" in run("inspect", pickle_file, "--task", "classification")
    assert "labels from -4 to 5" in run("inspect", pickle_file, "--label-range", "-4", "5")


def test_inspect_json_is_one_document(pickle_file):
    report = json.loads(run("inspect", pickle_file, "--json"))
    assert report["splits"]["train"]["modalities"]["audio"]["non_finite"]["nan"] == 1
    assert report["nan_policy_needed"] == "zero"


def test_inspect_says_which_column_of_a_dirty_file(tmp_path):
    assert "458 -inf (7: 458)" in run("inspect", shared_path("data/mosei_pooled_dirty.npz"))


@pytest.mark.parametrize("name", ["b.npz", "b.safetensors"])
def test_convert_refuses_nan_until_told_to_zero_it(pickle_file, tmp_path, name):
    with pytest.raises(DataError, match="--nan-policy zero"):
        run("convert", pickle_file, tmp_path / name)
    assert not (tmp_path / name).exists()
    answer = run("convert", pickle_file, tmp_path / name, "--nan-policy", "zero")
    assert "1 non-finite values replaced" in answer
    assert load_dataset(tmp_path / name).task == "regression"


def test_a_missing_or_corrupted_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run("inspect", tmp_path / "absent.pkl")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(DataError, match="not a readable"):
        run("convert", tmp_path / "broken.npz", tmp_path / "out.npz")


@pytest.mark.parametrize("command", ["inspect", "sample", "convert"])
def test_help_teaches_with_an_example(command):
    assert f"Example: dmdkit data {command}" in run(command, "--help")


def test_importing_the_commands_loads_no_stage():
    code = "import sys, dmdkit.cli.data; print([m for m in ('numpy', 'torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
