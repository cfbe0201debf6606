from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmdkit.data import Dataset, load_dataset, sample_dataset, write_dataset
from dmdkit.data.loading import format_of
from dmdkit.errors import DataError
from tests.conftest import shared_path
from tests.data.builders import SIZES, STEPS, WIDTHS, flat_content, mmsa_content, write_npz, write_pickle


def assert_is_valid(dataset: Dataset) -> None:
    assert dataset.splits
    for split in dataset.splits.values():
        assert len(split) > 0
        assert len(set(split.ids)) == len(split)
        for name, array in split.features().items():
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert array.shape == (len(split), dataset.lengths[name], dataset.feature_dims[name])
            assert np.isfinite(array).all()
        assert split.labels.shape == (len(split),)
        assert split.labels.dtype == (np.int64 if dataset.task == "classification" else np.float32)


def test_the_content_chooses_the_reader_whatever_the_suffix(tmp_path):
    write_pickle(tmp_path / "a.npz", mmsa_content())
    write_npz(tmp_path / "b.npz", flat_content()).rename(tmp_path / "b.pkl")
    write_dataset(load_dataset(tmp_path / "a.npz"), tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").rename(tmp_path / "c.npz")
    assert [format_of(tmp_path / name) for name in ("a.npz", "b.pkl", "c.npz")] == ["pickle", "npz", "safetensors"]
    loaded = [load_dataset(tmp_path / name) for name in ("a.npz", "b.pkl", "c.npz")]
    for dataset in loaded:
        assert_is_valid(dataset)
        assert {name: len(split) for name, split in dataset.splits.items()} == SIZES
        assert dataset.lengths == STEPS
        assert dataset.feature_dims == WIDTHS
        np.testing.assert_array_equal(dataset.splits["test"].audio, loaded[0].splits["test"].audio)
    assert loaded[0].source == str(tmp_path / "a.npz")


def test_a_safetensors_header_that_begins_like_a_pickle_is_not_taken_for_one(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x04\x00\x00\x00\x00\x00\x00{" + b" " * 1200)
    assert format_of(path) == "safetensors"
    with pytest.raises(DataError, match="not readable as safetensors"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, world", "begins with"),
        (b"\x93NUMPY\x01\x00", r"single \.npy"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"PK\x03\x04 and no more", r"not a readable \.npz"),
    ],
)
def test_a_file_of_no_accepted_format_is_refused(tmp_path, content, message):
    path = tmp_path / "features.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_dataset(path)
    assert "features.bin" in str(error.value)


def test_a_missing_file_a_directory_and_an_unreadable_file_are_said(tmp_path):
    with pytest.raises(DataError, match=r"absent\.pkl does not exist"):
        load_dataset(tmp_path / "absent.pkl")
    with pytest.raises(DataError, match="is a directory"):
        load_dataset(tmp_path)
    path = write_pickle(tmp_path / "locked.pkl", mmsa_content())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads every file")
    with pytest.raises(DataError, match=r"cannot read .*locked\.pkl"):
        load_dataset(path)


@pytest.mark.parametrize("option", [{"task": "ranking"}, {"nan_policy": "ignore"}])
def test_an_unknown_option_is_refused(tmp_path, option):
    with pytest.raises(DataError, match="must be one of"):
        load_dataset(write_pickle(tmp_path / "a.pkl", mmsa_content()), **option)


def test_import_loads_no_framework():
    code = "import sys, dmdkit.data; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", [".npz", ".deflated.npz", ".safetensors"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_load_or_end_in_data_error(tmp_path_factory, suffix, data):
    folder = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    folder.mkdir(exist_ok=True)
    good, path = folder / f"good{suffix}", folder / f"damaged{suffix}"
    if not good.exists():
        if suffix == ".safetensors":
            write_dataset(load_dataset(write_npz(folder / "a.npz", flat_content())), good)
        else:
            (np.savez_compressed if "deflated" in suffix else np.savez)(good, **flat_content())
    content = good.read_bytes()
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for _ in range(data.draw(st.integers(0, 8))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        dataset = load_dataset(path, nan_policy="zero")
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert_is_valid(dataset)


def test_mosi_clean_is_left_padded_regression(mosi_clean):
    dataset = load_dataset(mosi_clean)
    assert_is_valid(dataset)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 469, "valid": 74, "test": 209}
    assert dataset.feature_dims == {"text": 100, "audio": 73, "vision": 100}
    assert set(dataset.padding_side.values()) == {"left"}
    assert dataset.label_range == (-3.0, 3.0)
    assert not [note for note in dataset.notes if "were set to 0" in note]


def test_mosi_full_has_classes_too():
    dataset = load_dataset(shared_path("data/mosi_full.pkl"), task="classification")
    assert_is_valid(dataset)
    assert dataset.num_classes == dataset.num_outputs == 3


def test_youtube_floats_are_classes_when_asked():
    path = shared_path("data/youtube_trimodal.npz")
    assert load_dataset(path, task="classification").num_classes == 3
    plain = load_dataset(path)
    assert plain.task == "regression"
    assert any("--task classification" in note for note in plain.notes)


def test_mosei_pooled_is_refused_by_column_and_loads_with_zero():
    path = shared_path("data/mosei_pooled_dirty.npz")
    with pytest.raises(DataError, match=r"-inf in split 'valid', sample 'valid_0', audio column 7.*--nan-policy zero"):
        load_dataset(path)
    dataset = load_dataset(path, nan_policy="zero")
    assert_is_valid(dataset)
    assert set(dataset.lengths.values()) == {1}
    assert any("653 non-finite values replaced" in note for note in dataset.notes)


def test_an_archive_that_declares_more_than_it_holds_is_refused(tmp_path):
    header, larger = b"'shape': (13, 4, 5)", b"'shape': (99, 4, 5)"
    path = tmp_path / "b.npz"
    with zipfile.ZipFile(write_npz(tmp_path / "a.npz", flat_content())) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name).replace(header, larger))
    with pytest.raises(DataError, match=r"key 'text': expected a shape that agrees with the data"):
        load_dataset(path)


def test_an_archive_with_one_key_twice_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", flat_content())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("text.npy", archive.read("text.npy"))
    with pytest.raises(DataError, match="one array of this name"):
        load_dataset(path)


def test_a_deflated_bomb_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **flat_content())
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("text.npy").file_size
    content = path.read_bytes()
    path.write_bytes(content.replace(size.to_bytes(4, "little"), (1 << 31).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"at most 16 GiB that fit their compressed size|not a readable"):
        load_dataset(path)


def test_the_generated_sample_loads_without_notes(tmp_path):
    write_dataset(sample_dataset(), tmp_path / "a.npz")
    assert load_dataset(tmp_path / "a.npz").notes == ()
