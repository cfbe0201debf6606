from __future__ import annotations

import errno

import numpy as np
import pytest

from dmdkit.data import load_dataset, sample_dataset, write_dataset
from dmdkit.errors import DataError
from dmdkit.files import sha256_of_file
from tests.data.builders import mmsa_content, write_pickle


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_what_is_written_is_read_back(tmp_path, suffix, task):
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", mmsa_content()), task=task)
    write_dataset(dataset, tmp_path / f"b{suffix}")
    again = load_dataset(tmp_path / f"b{suffix}")
    assert (again.task, again.label_range, again.num_classes) == (
        dataset.task,
        dataset.label_range,
        dataset.num_classes,
    )
    assert again.padding_side == dataset.padding_side
    assert list(again.splits) == list(dataset.splits)
    for name, split in dataset.splits.items():
        assert again.splits[name].ids == split.ids
        np.testing.assert_array_equal(again.splits[name].labels, split.labels)
        for modality, array in split.features().items():
            np.testing.assert_array_equal(again.splits[name].features()[modality], array)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_same_dataset_gives_the_same_bytes(tmp_path, suffix):
    dataset = sample_dataset()
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        write_dataset(dataset, path)
        assert path.stat().st_mode & 0o777 == 0o644
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".npz":
        assert sha256_of_file(paths[0]) == dataset.sha256 == load_dataset(paths[0]).sha256


def test_numpy_reads_the_npz_without_pickle(tmp_path):
    write_dataset(sample_dataset(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert sorted(file) == ["audio", "ids", "label_range", "labels", "split", "text", "vision"]
        assert file["text"].shape == (600, 20, 32)


def test_an_unknown_suffix_a_directory_and_an_unwritable_place_are_refused(tmp_path):
    dataset = sample_dataset()
    with pytest.raises(DataError, match=r"ending in \.npz or \.safetensors"):
        write_dataset(dataset, tmp_path / "a.pkl")
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        write_dataset(dataset, tmp_path / "b.npz")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_dataset(dataset, tmp_path / "file" / "c.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npz", "file"]


def test_a_full_disk_is_said_of_a_safetensors_too(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError(f"Error while serializing: I/O error: {errno.ENOSPC} No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(DataError, match=r"cannot write .*a\.safetensors: .*No space left on device.*free space"):
        write_dataset(sample_dataset(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
