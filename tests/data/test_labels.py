from __future__ import annotations

import numpy as np
import pytest

from dmdkit.data import load_dataset
from dmdkit.errors import DataError
from tests.data.builders import flat_content, mmsa_content, write_npz, write_pickle


def load_labels(tmp_path, labels, **options):
    content = flat_content()
    content["labels"] = np.resize(np.asarray(labels), len(content["ids"]))
    return load_dataset(write_npz(tmp_path / "a.npz", content), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_no_number_is_refused_with_its_sample(tmp_path, value):
    with pytest.raises(DataError, match=r"split 'train', key 'labels': expected a finite label.*'train_3'"):
        load_labels(tmp_path, [0.5] * 3 + [value] + [0.5] * 9)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([-2.4, 1.0], (-3.0, 3.0)),
        ([0.2, 0.9], (0.0, 1.0)),
        ([-0.9, -0.2], (-1.0, 0.0)),
        ([2.0, 2.0], (1.0, 3.0)),
        ([1.0, 5.0], (1.0, 5.0)),
    ],
)
def test_the_range_is_inferred_outward_to_whole_numbers(tmp_path, labels, expected):
    dataset = load_labels(tmp_path, labels)
    assert dataset.label_range == expected
    assert any("inferred from the training labels" in note for note in dataset.notes)


def test_other_splits_outside_the_inferred_range_are_noted(tmp_path):
    dataset = load_labels(tmp_path, [-0.5, 0.5] * 6 + [7.0])
    assert dataset.label_range == (-1.0, 1.0)
    assert any(note.startswith("test: 1 labels lie outside") for note in dataset.notes)


def test_labels_outside_a_declared_range_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected labels from -1 to 1, found 1\.5 for sample 'train_1'"):
        load_labels(tmp_path, [0.5, 1.5], label_range=(-1, 1))


@pytest.mark.parametrize("label_range", [(1, 1), (3, -3), (0, float("nan")), (0, float("inf"))])
def test_a_range_that_is_none_is_refused(tmp_path, label_range):
    with pytest.raises(DataError, match="two numbers low < high"):
        load_labels(tmp_path, [0.5], label_range=label_range)


@pytest.mark.parametrize("labels", [np.array([-1, 0, 1]), np.array([0.5, 1.0]), np.array([0, 10**9]), np.array([0.0, np.nan])])
def test_labels_that_are_no_class_numbers_are_refused(tmp_path, labels):
    with pytest.raises(DataError, match="key 'labels'"):
        load_labels(tmp_path, labels, task="classification")


def test_classes_take_no_range(tmp_path):
    with pytest.raises(DataError, match="belongs to regression"):
        load_labels(tmp_path, [0, 1], label_range=(0, 1))


def test_constant_labels_and_classes_absent_from_training_are_noted(tmp_path):
    assert any("every label is 1" in note for note in load_labels(tmp_path, [1.0]).notes)
    notes = load_labels(tmp_path, [0] * 12 + [2]).notes
    assert "no training sample has class 1, 2" in notes


@pytest.mark.parametrize("shape", [(13, 2), (13, 1, 1), (12,)])
def test_labels_of_a_wrong_shape_are_refused(tmp_path, shape):
    content = flat_content() | {"labels": np.zeros(shape)}
    with pytest.raises(DataError, match="key 'labels': expected"):
        load_dataset(write_npz(tmp_path / "a.npz", content))


def test_a_label_beyond_float32_is_refused(tmp_path):
    with pytest.raises(DataError, match="within float32"):
        load_labels(tmp_path, [1e300, 0.5])


@pytest.mark.parametrize("task", ["regression", "classification", "auto"])
def test_labels_that_are_not_needed_may_be_absent(tmp_path, task):
    content = mmsa_content()
    for split in content.values():
        del split["regression_labels"], split["classification_labels"]
    flat = {key: value for key, value in flat_content().items() if key != "labels"}
    for path in (write_pickle(tmp_path / "a.pkl", content), write_npz(tmp_path / "a.npz", flat)):
        with pytest.raises(DataError, match="labels': expected this key"):
            load_dataset(path, task=task)
        found = load_dataset(path, task=task, labels_needed=False)
        assert found.task == ("classification" if task == "classification" else "regression")
        unknown = [-1] * 4 if task == "classification" else [np.nan] * 4
        np.testing.assert_array_equal(found.splits["test"].labels, unknown)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_labels_that_are_there_are_kept_and_checked_beside_those_that_are_not(tmp_path, task):
    content = mmsa_content()
    for key in ("regression_labels", "classification_labels"):
        content["test"][key][1] = np.nan
    path = write_pickle(tmp_path / "a.pkl", content)
    with pytest.raises(DataError, match="a finite label"):
        load_dataset(path, task=task)
    found = load_dataset(path, task=task, labels_needed=False).splits
    wanted = content["test"][f"{task}_labels"]
    wanted = np.where(np.isnan(wanted), -1, wanted) if task == "classification" else wanted
    np.testing.assert_array_equal(found["test"].labels, wanted)
    np.testing.assert_array_equal(found["train"].labels, content["train"][f"{task}_labels"])
    content["test"][f"{task}_labels"][2] = np.inf
    with pytest.raises(DataError, match="a finite label"):
        load_dataset(write_pickle(tmp_path / "b.pkl", content), task=task, labels_needed=False)


@pytest.mark.parametrize(
    ("task", "labels", "said"),
    [
        ("regression", np.array([0, 1, 2]), r"trained for regression; found class numbers.*from 0 to 2: classification"),
        ("classification", np.array([-2.4, 1.0]), r"trained for classification; found scores.*from -2\.4 to 1: regression"),
        ("classification", np.array([0.5, 1.0]), r"trained for classification; found scores"),
        ("classification", np.array([-1, 0, 1]), r"trained for classification; found scores"),
    ],
)
def test_labels_of_another_task_than_a_models_are_refused_with_both_tasks(tmp_path, task, labels, said):
    with pytest.raises(DataError, match=said):
        load_labels(tmp_path, labels, model_task=task)
    with pytest.raises(DataError, match="or one without 'labels'"):
        load_labels(tmp_path, labels, model_task=task, labels_needed=False)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("regression", np.array([0.0, 1.0, 2.0])),
        ("regression", np.array([-1, 0, 1])),
        ("classification", np.array([0.0, 1.0, 2.0])),
        ("classification", np.array([0, 1, 2])),
    ],
)
def test_labels_that_may_be_of_a_models_task_are_read_so(tmp_path, task, labels):
    dataset = load_labels(tmp_path, labels, model_task=task)
    assert dataset.task == task
    assert dataset.splits["train"].labels[:3].tolist() == np.resize(labels, 3).tolist()


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_of_a_file_with_labels_of_both_tasks_a_model_takes_its_own(tmp_path, task):
    content = mmsa_content()
    dataset = load_dataset(write_pickle(tmp_path / "both.pkl", content), model_task=task)
    assert dataset.task == task
    for split in content.values():
        del split[f"{task}_labels"]
    other = {"regression": "classification", "classification": "regression"}[task]
    only_other = write_pickle(tmp_path / "other.pkl", content)
    with pytest.raises(DataError, match=f"the labels are of {other}, the model was trained for {task}"):
        load_dataset(only_other, model_task=task)
    unlabelled = load_dataset(only_other, model_task=task, labels_needed=False)
    assert not (unlabelled.splits["test"].labels >= 0).any()
