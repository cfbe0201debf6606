from __future__ import annotations

import numpy as np
import pytest

from dmdkit.data import load_dataset
from dmdkit.data.values import apply_nan_policy, count_non_finite
from dmdkit.errors import DataError
from tests.data.builders import mmsa_content, write_pickle


@pytest.fixture
def dirty(tmp_path):
    content = mmsa_content()
    content["valid"]["vision"][1, 2, 3] = np.nan
    content["test"]["vision"][:, 0, 1] = np.inf
    content["test"]["audio"][2, 5, 0] = -np.inf
    return write_pickle(tmp_path / "dirty.pkl", content)


def test_refusing_names_sample_split_column_and_step(dirty):
    with pytest.raises(DataError) as error:
        load_dataset(dirty)
    message = str(error.value)
    assert "dirty.pkl: expected finite features, found -inf in split 'test', sample 'test_2', audio column 0, step 5" in message
    assert "audio 0 NaN, 0 +inf, 1 -inf" in message
    assert "vision 1 NaN, 4 +inf, 0 -inf, mostly in column 1 (4)" in message
    assert "--nan-policy zero" in message


def test_zero_replaces_and_says_how_many(dirty):
    dataset = load_dataset(dirty, nan_policy="zero")
    assert dataset.splits["valid"].vision[1, 2, 3] == 0
    assert "audio: 1 non-finite values replaced by 0 (0 NaN, 0 +inf, 1 -inf)" in dataset.notes
    assert "vision: 5 non-finite values replaced by 0 (1 NaN, 4 +inf, 0 -inf)" in dataset.notes


def test_keep_leaves_them_for_inspection(dirty):
    dataset = load_dataset(dirty, nan_policy="keep")
    assert np.isnan(dataset.splits["valid"].vision[1, 2, 3])
    assert any("kept" in note for note in dataset.notes)


def test_counts_name_the_worst_columns_first():
    array = np.zeros((3, 2, 4), np.float32)
    array[:, :, 2] = np.nan
    array[0, 0, 1] = np.inf
    counts = count_non_finite([array, np.zeros((1, 2, 4), np.float32)])
    assert (counts.nan, counts.positive_inf, counts.negative_inf, counts.total) == (6, 1, 0, 7)
    assert counts.worst_columns == ((2, 6), (1, 1))
    assert count_non_finite([np.zeros((1, 1, 1), np.float32)]).total == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_policy_zero_replaces_whatever_is_not_a_number_and_nothing_else(value):
    features = {"train": {name: np.ones((2, 3, 4), np.float32) for name in ("text", "audio", "vision")}}
    features["train"]["audio"][1, 2, 3] = value
    notes: list[str] = []
    apply_nan_policy("a file", features, {"train": ["a", "b"]}, "zero", notes)
    expected = np.ones((2, 3, 4), np.float32)
    expected[1, 2, 3] = 0
    np.testing.assert_array_equal(features["train"]["audio"], expected)
    np.testing.assert_array_equal(features["train"]["text"], np.ones((2, 3, 4), np.float32))
    assert len(notes) == 1
    assert "audio: 1 non-finite values replaced by 0" in notes[0]
