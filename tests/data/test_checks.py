from __future__ import annotations

import numpy as np
import pytest

from dmdkit.data import load_dataset
from dmdkit.errors import DataError
from tests.data.builders import mmsa_content, write_pickle


def load_with(tmp_path, change, **options):
    content = mmsa_content()
    change(content)
    return load_dataset(write_pickle(tmp_path / "a.pkl", content), **options)


def set_value(split, key, value):
    def change(content):
        content[split][key] = value(content[split][key]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_value("train", "text", lambda a: a[:, 0]), r"'train', key 'text': .*found float32 \(6, 5\); pooled"),
        (set_value("train", "audio", lambda a: a[:4]), r"key 'audio': expected float32 \(6, T, D\).*\(4, 6, 3\)"),
        (set_value("valid", "vision", lambda a: a[..., :2]), r"key 'vision': expected \(N, 5, 4\) as in split 'train'"),
        (set_value("test", "text", lambda a: a[:, :0]), r"T and D at least 1.*\(4, 0, 5\)"),
        (set_value("test", "text", lambda a: a[..., :0]), "T and D at least 1"),
        (set_value("train", "text", lambda a: [*a[:-1], a[-1][:2]]), "ragged list.*at index 5"),
        (set_value("train", "text", lambda a: a > 0), "found bool"),
        (set_value("train", "text", lambda a: a.astype(str)), "expected an array of numbers"),
        (set_value("train", "text", ["a"] * 6), "expected an array of numbers"),
        (set_value("train", "id", "abc"), "a list of sample names"),
        (set_value("train", "id", lambda ids: [*ids[:-1], ids[0]]), "'train_0' at indices 0 and 5"),
        (set_value("train", "id", lambda ids: [*ids[:-1], ""]), "1 to 512 characters"),
        (set_value("train", "id", lambda ids: [*ids[:-1], "a" * 600]), "1 to 512 characters"),
        (set_value("train", "id", lambda ids: [*ids[:-1], 2.5]), "1 to 512 characters"),
        (set_value("test", "id", lambda ids: [*ids[:-1], "a\ud800"]), r"'test'.*are UTF-8, found 'a\\ud800' at index 3"),
        (set_value("train", "id", np.full(6, 0x7FFFFFFF, "<u4").view("<U1")), "a list of sample names"),
        (set_value("train", "id", []), "at least one sample"),
        (set_value("train", "id", lambda ids: ids[:-1]), r"expected float32 \(5, T, D\)"),
    ],
)  # fmt: skip
def test_a_broken_schema_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as error:
        load_with(tmp_path, change)
    assert "a.pkl" in str(error.value)
    assert "; " in str(error.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint16])
def test_other_number_types_become_float32(tmp_path, dtype):
    dataset = load_with(tmp_path, set_value("train", "text", lambda a: np.abs(a * 4).astype(dtype)))
    assert dataset.splits["train"].text.dtype == np.float32


def test_a_value_beyond_float32_is_said_and_falls_under_the_nan_policy(tmp_path):
    def change(content):
        content["train"]["text"] = content["train"]["text"].astype(np.float64)
        content["train"]["text"][0, 0, 0] = 1e300

    with pytest.raises(DataError, match=r"found inf .*overflow float32"):
        load_with(tmp_path, change)
    dataset = load_with(tmp_path, change, nan_policy="zero")
    assert any("1 values of float64 overflow float32" in note for note in dataset.notes)
    assert dataset.splits["train"].text[0, 0, 0] == 0


def test_the_same_sample_in_two_splits_is_refused(tmp_path):
    def change(content):
        for key in ("text", "audio", "vision"):
            content["test"][key][1] = content["train"][key][2]
        content["test"]["id"][1] = content["train"]["id"][2]

    with pytest.raises(DataError, match="1 in both 'train' and 'test', such as 'train_2'"):
        load_with(tmp_path, change)


def test_the_same_name_for_different_samples_is_noted(tmp_path):
    dataset = load_with(tmp_path, set_value("test", "id", ["train_0", "b", "c", "d"]))
    assert any("1 ids are in both train and test" in note for note in dataset.notes)


def test_the_same_samples_under_other_names_are_noted_with_counts(tmp_path):
    def change(content):
        for key in ("text", "audio", "vision"):
            content["test"][key][1:3] = content["train"][key][2:4]

    notes = [note for note in load_with(tmp_path, change).notes if "the same features" in note]
    assert notes == [
        "2 of 4 test samples have the same features as train samples under other names, such as 'test_1' and 'train_2': drop "
        "them from one split, or scores on it mean nothing"
    ]


def test_transcripts_that_are_not_utf8_are_left_out_with_a_note(tmp_path):
    dataset = load_with(tmp_path, set_value("train", "raw_text", lambda rows: ["so\udcff", *rows[1:]]))
    assert dataset.splits["train"].raw_text is None
    assert any(r"expected a text of UTF-8, found 'so\udcff' at index 0" in note for note in dataset.notes)


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\\udcff\.pkl: expected a path that is UTF-8"):
        load_dataset(write_pickle(tmp_path / "a\udcff.pkl", mmsa_content()))
