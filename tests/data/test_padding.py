from __future__ import annotations

import numpy as np
import pytest

from dmdkit.data import load_dataset
from dmdkit.data.padding import padding_side_of
from dmdkit.errors import DataError
from tests.data.builders import SIZES, STEPS, mmsa_content, write_pickle


def padded(side: str, lengths: list[int], steps: int = 4) -> np.ndarray:
    array = np.zeros((len(lengths), steps, 2), np.float32)
    for row, length in enumerate(lengths):
        array[row, steps - length :] = 1 if side == "left" else array[row, steps - length :]
        if side == "right":
            array[row, :length] = 1
    return array


@pytest.mark.parametrize(
    ("array", "side"),
    [
        (padded("left", [1, 3, 4]), "left"),
        (padded("right", [1, 3, 4]), "right"),
        (padded("left", [4, 4]), "none"),
        (padded("left", [0, 4]), "none"),
        (padded("left", [0]), "none"),
        (padded("left", [1, 0], steps=1), "none"),
        (np.concatenate([padded("left", [1, 2]), padded("right", [3])]), "left"),
    ],
)
def test_the_side_with_more_zero_steps_is_the_padding_side(array, side):
    assert padding_side_of([array]) == side


def content_with_lengths(lengths: dict[str, list[int]], modality: str = "audio"):
    content = mmsa_content()
    for name, values in lengths.items():
        content[name][f"{modality}_lengths"] = values
    return content


FULL = {name: [STEPS["audio"]] * size for name, size in SIZES.items()}


def test_lengths_mean_the_last_steps_under_left_padding(tmp_path):
    content = content_with_lengths(FULL | {"train": [2, 6, 6, 6, 6, 6]})
    content["train"]["audio"][0, :3] = 0  # one non-zero step lies outside the last two
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", content))
    audio = dataset.splits["train"].audio
    assert dataset.padding_side["audio"] == "left"
    assert not audio[0, :4].any()
    assert audio[0, 4:].all()
    assert "audio: 3 non-zero values outside audio_lengths (left padding) were set to 0" in dataset.notes


def test_lengths_mean_the_first_steps_under_right_padding(tmp_path):
    content = content_with_lengths(FULL | {"valid": [2, 6, 6]})
    content["valid"]["audio"][0, 3:] = 0
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", content))
    assert dataset.padding_side["audio"] == "right"
    assert dataset.splits["valid"].audio[0, :2].all()
    assert not dataset.splits["valid"].audio[0, 2:].any()


def test_without_zero_steps_lengths_are_taken_as_right_padding(tmp_path):
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", content_with_lengths(FULL | {"test": [0, 3, 6, 6]})))
    assert dataset.padding_side["audio"] == "right"
    assert not dataset.splits["test"].audio[0].any()
    assert any("taken as right padding" in note for note in dataset.notes)


def test_lengths_outvote_silence_at_the_other_end(tmp_path):
    content = content_with_lengths({"train": [5, 5, 5, 5, 5, 5]})
    content["train"]["audio"][:, 5:] = 0
    content["train"]["audio"][0, :4] = 0
    content["train"]["audio"][1, :4] = 0
    before = content["train"]["audio"].copy()
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", content))
    assert dataset.padding_side["audio"] == "right"
    np.testing.assert_array_equal(dataset.splits["train"].audio, before)


def test_full_lengths_change_nothing(tmp_path):
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", content_with_lengths(FULL)))
    assert dataset.padding_side["audio"] == "none"
    assert not [note for note in dataset.notes if "audio" in note]


def test_nan_in_declared_padding_is_no_nan(tmp_path):
    content = content_with_lengths({"train": [2, 6, 6, 6, 6, 6]})
    content["train"]["audio"][0, 2:] = np.nan
    assert np.isfinite(load_dataset(write_pickle(tmp_path / "a.pkl", content)).splits["train"].audio).all()


@pytest.mark.parametrize(
    "lengths",
    [[1, 2], [7, 6, 6, 6, 6, 6], [-1, 6, 6, 6, 6, 6], [1.5, 6, 6, 6, 6, 6], [float("nan")] * 6, "abc", [[1]] * 5],
)
def test_wrong_lengths_are_refused(tmp_path, lengths):
    with pytest.raises(DataError, match="split 'train', key 'audio_lengths': expected"):
        load_dataset(write_pickle(tmp_path / "a.pkl", content_with_lengths({"train": lengths})))


def test_one_step_per_sample_works(tmp_path):
    content = mmsa_content()
    for split in content.values():
        for modality in ("text", "audio", "vision"):
            split[modality] = split[modality][:, :1]
            split[f"{modality}_lengths"] = np.ones((len(split["id"]), 1), np.int64)
    dataset = load_dataset(write_pickle(tmp_path / "a.pkl", content))
    assert dataset.lengths == {"text": 1, "audio": 1, "vision": 1}
    assert set(dataset.padding_side.values()) == {"none"}
