"""Labels by step are read from every format, checked, and go with their steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dmdkit.cli import main
from dmdkit.data import Dataset, inspect_dataset, load_dataset, write_dataset
from dmdkit.data.real_steps import prefixes, with_real_steps
from dmdkit.errors import DataError
from dmdkit.records import PerModality
from dmdkit.training.folds import pooled
from tests.conftest import tiny_dataset
from tests.data.builders import flat_content, mmsa_content, write_npz, write_pickle

NAN = np.nan
ONE = PerModality(text=1, audio=1, vision=1)


def aligned() -> dict[str, Any]:
    """A file's content with 4 steps of each modality."""
    content = mmsa_content()
    for split in content.values():
        split |= {name: split[name][:, :4] for name in ("text", "audio", "vision")}
    return content


def labels_of(split: dict[str, Any], key: str = "regression_labels") -> npt.NDArray[np.float64]:
    """A label for the first and the last of every sample's steps."""
    found = np.full(np.shape(split["text"])[:2], NAN)
    found[:, 0], found[:, -1] = 0.5 if key == "regression_labels" else 0, np.reshape(split[key], -1)
    return found


def pickled(folder: Path, key: str = "regression_labels", **changed: Any) -> Path:
    content = aligned()
    for split in content.values():
        split["step_labels"] = labels_of(split, key)
    content["train"] |= changed
    return write_pickle(folder / "a.pkl", content)


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_every_format_holds_them(tmp_path: Path, suffix: str, task: Any) -> None:
    read = load_dataset(pickled(tmp_path, f"{task}_labels"), task=task)
    assert not any("keys not used" in note and "step_labels" in note for note in read.notes)
    out = tmp_path / f"b{suffix}"
    write_dataset(read, out)
    again = load_dataset(out)
    for name, split in read.splits.items():
        assert split.step_labels is not None
        assert split.step_labels.dtype == split.labels.dtype
        np.testing.assert_array_equal(split.step_labels[:, -1], split.labels)
        np.testing.assert_array_equal(split.step_labels[:, 0], 0.5 if task == "regression" else 0)
        np.testing.assert_array_equal(again.splits[name].step_labels, split.step_labels)
    assert inspect_dataset(again).splits["train"].step_labels == 2 * len(read.splits["train"])


def test_a_split_without_them_keeps_having_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = aligned()
    content["train"]["step_labels"] = labels_of(content["train"])
    path = write_pickle(tmp_path / "a.pkl", content)
    assert main(["data", "convert", str(path), str(tmp_path / "b.npz")]) == 0
    assert load_dataset(tmp_path / "b.npz").splits["test"].step_labels is None
    capsys.readouterr()
    assert main(["data", "inspect", str(tmp_path / "b.npz")]) == 0
    assert capsys.readouterr().out.count("12 steps have a label of their own") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found[:, 1:], r"'step_labels': expected \(6, 4\), found float64 \(6, 3\)"),
        (lambda found: np.where(np.isnan(found), np.inf, found), "expected finite labels, NaN where there is none, found inf"),
        (
            lambda found: found + (np.arange(4) == 3) * 0.1,
            r"at a sample's last step its own 'regression_labels', found .* at step 3",
        ),
        (lambda found: np.roll(found, 1, axis=0), "shift them, or mend the labels"),
        (lambda found: found.astype(str), "expected an array of numbers"),
    ],
)
def test_what_is_no_label_of_a_step_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_dataset(pickled(tmp_path, step_labels=change(labels_of(aligned()["train"]))))


def test_a_declared_range_holds_for_them_and_an_inferred_one_is_only_noted(tmp_path: Path) -> None:
    found = labels_of(aligned()["train"])
    found[2, 0] = 90.0
    path = pickled(tmp_path, step_labels=found)
    with pytest.raises(DataError, match="expected labels from -50 to 50, found 90 at step 0 of sample"):
        load_dataset(path, label_range=(-50, 50))
    assert any("train: 1 of step_labels lie outside the inferred label range" in note for note in load_dataset(path).notes)


@pytest.mark.parametrize("wrong", [0.5, 99, -2])
def test_classes_of_steps_are_those_of_the_task(tmp_path: Path, wrong: float) -> None:
    found = labels_of(aligned()["train"], "classification_labels")
    found[1, 1] = wrong
    with pytest.raises(DataError, match=f"expected class numbers from 0 to .*, found {wrong:g} at step 1"):
        load_dataset(pickled(tmp_path, "classification_labels", step_labels=found), task="classification")


def test_modalities_of_other_lengths_have_no_common_steps(tmp_path: Path) -> None:
    content = flat_content()
    content["step_labels"] = np.full(content["text"].shape[:2], NAN)
    with pytest.raises(DataError, match="equally many steps in every modality, found text 4, audio 6"):
        load_dataset(write_npz(tmp_path / "a.npz", content))


def labelled() -> Dataset:
    """The tiny set, left padded by two steps in a fourth of the samples, labelled 0, 0.1, ... by step."""
    dataset = tiny_dataset(train=8, valid=4, test=4)
    splits = {}
    for name, split in dataset.splits.items():
        found = np.tile(np.arange(6, dtype=np.float32) / 10, (len(split), 1))
        found[:, -1] = split.labels
        found[: len(split) // 4, :2] = NAN
        splits[name] = replace(split, step_labels=found)
    return replace(dataset, splits=splits)


def test_labels_at_padding_are_not_used(tmp_path: Path) -> None:
    dataset = labelled()
    for split in dataset.splits.values():
        assert split.step_labels is not None
        split.step_labels[0, 0] = 2.0
    write_dataset(dataset, tmp_path / "a.npz")
    again = load_dataset(tmp_path / "a.npz")
    assert "train: 1 of step_labels stand at steps of padding and are not used" in again.notes
    assert again.splits["train"].step_labels is not None
    assert np.isnan(again.splits["train"].step_labels[0, 0])


def test_labels_move_to_the_front_with_their_steps() -> None:
    train = with_real_steps(labelled(), ONE).splits["train"]
    assert train.step_labels is not None
    np.testing.assert_allclose(train.step_labels[0], [0.2, 0.3, 0.4, train.labels[0], NAN, NAN])
    np.testing.assert_allclose(train.step_labels[7, :3], [0.0, 0.1, 0.2])


def test_a_beginning_has_the_label_of_its_last_step() -> None:
    split = with_real_steps(labelled(), ONE).splits["train"]
    assert split.step_labels is not None
    split.step_labels[7, 2] = NAN
    own, every = prefixes(split, 2, labelled=True), prefixes(split, 2)
    assert own.steps is not None
    assert (len(every), len(own)) == (2 * 3 + 6 * 5, 2 * 3 + 6 * 5 - 1)
    assert every.ids[0] == "train-0 after 2 steps"
    np.testing.assert_allclose(own.labels[:3], [0.3, 0.4, split.labels[0]])
    np.testing.assert_array_equal(own.steps[-5:], [6, 2, 4, 5, 6])
    assert every.labels[-4] == split.labels[7]


def test_folds_keep_them_of_the_split_that_has_some() -> None:
    dataset = labelled()
    half = replace(dataset, splits={**dataset.splits, "valid": replace(dataset.splits["valid"], step_labels=None)})
    train = pooled(half).splits["train"]
    assert train.step_labels is not None
    np.testing.assert_array_equal(train.step_labels[:8], dataset.splits["train"].step_labels)
    assert np.isnan(train.step_labels[8:]).all()
