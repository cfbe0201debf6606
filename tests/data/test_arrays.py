from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from dmdkit.data import load_dataset
from dmdkit.data.arrays import METADATA_KEY
from dmdkit.errors import DataError
from tests.data.builders import flat_content, write_npz


@pytest.mark.parametrize("key", ["text", "audio", "vision", "labels", "split", "ids"])
def test_a_missing_key_is_named(tmp_path, key):
    content = flat_content()
    del content[key]
    with pytest.raises(DataError, match=rf"key '{key}': expected this key"):
        load_dataset(write_npz(tmp_path / "a.npz", content))


def test_integer_labels_are_classes_and_floats_a_regression(tmp_path):
    content = flat_content()
    assert load_dataset(write_npz(tmp_path / "a.npz", content)).task == "regression"
    content["labels"] = np.arange(len(content["ids"])) % 4
    dataset = load_dataset(write_npz(tmp_path / "b.npz", content))
    assert (dataset.task, dataset.num_classes) == ("classification", 4)
    assert load_dataset(tmp_path / "b.npz", task="regression").label_range == (0.0, 3.0)


@pytest.mark.parametrize("label_range", [np.array([-4.0, 4.0]), np.array(4)])
def test_a_declared_label_range_is_used(tmp_path, label_range):
    path = write_npz(tmp_path / "a.npz", flat_content() | {"label_range": label_range})
    assert load_dataset(path).label_range == (-4.0, 4.0)
    assert load_dataset(path, label_range=(-3, 5)).label_range == (-3.0, 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array(["a", "b"])}, "key 'ids': expected 13 samples"),
        ({"text": np.zeros((5, 4, 5), np.float32)}, "key 'text': expected 13 samples"),
        ({"split": np.array(["dev"] * 13)}, "train, valid or test for every sample, found 'dev' at sample 0"),
        ({"split": np.zeros((2, 2))}, "one text per sample"),
        ({"audio": np.array(["a"] * 13)}, "key 'audio': expected an array of numbers"),
        ({"text": np.array([None] * 13)}, "save it without pickled objects"),
        ({"labels": np.zeros(13, dtype="M8[s]")}, "an array of numbers or text"),
        ({"label_range": np.array([1.0, 2.0, 3.0])}, "two numbers low < high"),
        ({"label_range": np.array(["low", "high"])}, "label_range"),
        ({"split": np.array([], dtype=str)}, "samples"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_dataset(write_npz(tmp_path / "a.npz", flat_content() | change))


def test_an_archive_of_no_samples_is_refused(tmp_path):
    content = {key: value[:0] for key, value in flat_content().items()}
    with pytest.raises(DataError, match="at least one sample"):
        load_dataset(write_npz(tmp_path / "a.npz", content))


def test_bytes_and_numbers_serve_as_names_and_unused_keys_are_noted(tmp_path):
    content = flat_content() | {"more": np.zeros(3)}
    content["split"] = content["split"].astype("S")
    content["ids"] = np.arange(13)
    dataset = load_dataset(write_npz(tmp_path / "a.npz", content))
    assert dataset.splits["train"].ids[:2] == ("0", "1")
    assert "keys not used: more" in dataset.notes


def tensors() -> dict[str, np.ndarray]:
    return {key: value for key, value in flat_content().items() if key not in ("ids", "split")}


def names(**change: object) -> dict[str, str]:
    content = flat_content()
    value = {"format": 1, "ids": content["ids"].tolist(), "split": content["split"].tolist()} | change
    return {METADATA_KEY: json.dumps(value)}


def test_safetensors_take_names_from_one_metadata_key(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors", metadata=names())
    assert load_dataset(tmp_path / "a.safetensors").splits["valid"].ids == ("valid_0", "valid_1", "valid_2")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {METADATA_KEY: "no json"},
        {METADATA_KEY: "[" * 100_000},
        names(format=2),
        names(ids=3),
        names(split=[1] * 13),
        names(ids=["a"]),
    ],
)
def test_wrong_safetensors_metadata_is_refused(tmp_path, metadata):
    save_file(tensors(), tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(DataError, match=r"a\.safetensors"):
        load_dataset(tmp_path / "a.safetensors")
