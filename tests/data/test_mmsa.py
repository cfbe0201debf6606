from __future__ import annotations

import numpy as np
import pytest

from dmdkit.data import load_dataset
from dmdkit.errors import DataError
from tests.data.builders import mmsa_content, write_pickle


def test_regression_labels_are_the_default_and_classes_come_on_request(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", mmsa_content())
    assert load_dataset(path).task == "regression"
    classes = load_dataset(path, task="classification")
    assert classes.num_classes == 3
    assert classes.label_range is None
    assert any("regression_labels" in note for note in classes.notes)


def test_classes_are_the_default_where_there_is_no_regression_label(tmp_path):
    content = mmsa_content()
    for split in content.values():
        del split["regression_labels"]
    assert load_dataset(write_pickle(tmp_path / "a.pkl", content)).task == "classification"


@pytest.mark.parametrize("key", ["text", "audio", "vision", "id", "regression_labels"])
def test_a_missing_key_is_named(tmp_path, key):
    content = mmsa_content()
    del content["valid"][key]
    with pytest.raises(DataError, match=rf"a\.pkl: split 'valid', key '{key}': expected this key, found only"):
        load_dataset(write_pickle(tmp_path / "a.pkl", content), task="regression")


def test_a_file_without_any_split_names_what_it_has(tmp_path):
    with pytest.raises(DataError, match="at least one split of train, valid, test, found 'dev'"):
        load_dataset(write_pickle(tmp_path / "a.pkl", {"dev": mmsa_content()["valid"]}))
    with pytest.raises(DataError, match="a dict of splits, found a list of 1"):
        load_dataset(write_pickle(tmp_path / "a.pkl", ["train"]))
    with pytest.raises(DataError, match="split 'test': expected a dict of arrays"):
        load_dataset(write_pickle(tmp_path / "a.pkl", {"test": 3}))


def test_a_file_without_train_says_so_and_other_top_level_keys_are_noted(tmp_path):
    content = mmsa_content()
    content["extra"] = content.pop("train")
    notes = load_dataset(write_pickle(tmp_path / "a.pkl", content)).notes
    assert any("no train split" in note for note in notes)
    assert any("top-level keys not used: extra" in note for note in notes)


def test_lists_columns_and_arrays_are_all_accepted(tmp_path):
    content = mmsa_content()
    plain = load_dataset(write_pickle(tmp_path / "a.pkl", content))
    for split in content.values():
        split["text"] = list(split["text"])
        split["audio"] = split["audio"].astype(">f8")
        split["vision"] = np.asfortranarray(split["vision"])
        split["id"] = np.array(split["id"], dtype=object)
        split["regression_labels"] = split["regression_labels"][:, None].tolist()
    other = load_dataset(write_pickle(tmp_path / "b.pkl", content))
    for name, split in plain.splits.items():
        assert split.ids == other.splits[name].ids
        np.testing.assert_array_equal(split.labels, other.splits[name].labels)
        for modality, array in split.features().items():
            np.testing.assert_array_equal(array, other.splits[name].features()[modality])
