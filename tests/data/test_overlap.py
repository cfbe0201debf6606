"""When two samples are the same, and when a name says anything about that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmdkit.data import Split, refuse_trained_samples, same_samples
from dmdkit.data.overlap import distinct_samples, ids_are_names, ids_are_row_numbers, stands_in
from dmdkit.data.sketches import SketchSpace, sample_sketches
from dmdkit.errors import DataError
from tests.conftest import tiny_dataset


def split_of(name: str) -> Split:
    return tiny_dataset().splits[name]


def renamed(split: Split) -> Split:
    return replace(split, ids=tuple(f"other-{index}" for index in range(len(split))))


def test_samples_are_the_same_by_content_whatever_they_are_called():
    train = split_of("train")
    copies = renamed(train.take(np.array([5, 2])))
    assert same_samples(train, copies) == [("train-5", "other-0"), ("train-2", "other-1")]
    assert same_samples(train, split_of("test")) == []
    copies.audio[0, 3, 1] += 1
    assert same_samples(train, copies) == [("train-2", "other-1")]


def test_of_several_equal_samples_the_one_with_the_same_name_is_named():
    train = split_of("train").take(np.array([1, 1, 1]))
    first, second = replace(train, ids=("a", "b", "c")), replace(train, ids=("x", "b", "y"))
    assert same_samples(first, second) == [("a", "x"), ("b", "b"), ("a", "y")]


def test_where_the_text_features_are_zero_transcripts_tell_samples_apart():
    train = split_of("train").take(np.arange(3))
    silent = replace(
        train,
        text=np.zeros_like(train.text),
        audio=np.zeros_like(train.audio),
        vision=np.zeros_like(train.vision),
        raw_text=("one", "two", "three"),
    )
    assert same_samples(silent, replace(silent, ids=("x", "y", "z"), raw_text=("four", "two", "five"))) == [("train-1", "y")]
    spoken = replace(train, raw_text=("one", "two", "three"))
    assert len(same_samples(spoken, replace(spoken, raw_text=("ONE", "TWO", "THREE")))) == 3


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [(("0", "1", "2"), True), (("1", "2", "3"), True), (("1", "0", "2"), False), (("a", "b"), False), (("7", "8"), False)],
)
def test_ids_that_only_count_the_rows_are_no_names(ids: tuple[str, ...], numbers: bool):
    assert ids_are_row_numbers(ids) is numbers


def test_ids_are_names_where_each_names_one_sample():
    splits = dict(tiny_dataset().splits)
    assert ids_are_names(splits)
    assert not ids_are_names({**splits, "test": replace(splits["test"], ids=(*splits["test"].ids[1:], "train-3"))})


def test_a_sample_stands_in_another_split_by_content_and_by_name_only_where_asked():
    train, test = split_of("train").take(np.arange(3)), split_of("test").take(np.arange(3))
    both = replace(test, ids=("train-0", "b", "c"))
    both.text[2], both.audio[2], both.vision[2] = train.text[1], train.audio[1], train.vision[1]
    assert stands_in(both, train, by_name=True).tolist() == [True, False, True]
    assert stands_in(both, train, by_name=False).tolist() == [False, False, True]


def test_copies_count_once():
    assert distinct_samples(split_of("train").take(np.zeros(60, np.int64))) == 1
    assert distinct_samples(split_of("train")) == 64


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-5])
@pytest.mark.parametrize("rows", [[3, 7], [5], [1, 2, 3, 4]])
def test_near_copies_count_once(noise: float, rows: list[int]):
    copies = split_of("test").take(np.repeat(rows, 60 // len(rows)))
    rng = np.random.default_rng(0)
    shaken = {
        name: (array + (array != 0) * rng.normal(0, noise, array.shape)).astype(np.float32)
        for name, array in copies.features().items()
    }
    if noise < 1e-5:
        assert distinct_samples(replace(copies, **shaken)) == len(rows), "alone, they say little about what is near"
    known = SketchSpace.of(sample_sketches(split_of("train")))
    assert distinct_samples(replace(copies, **shaken), known) == len(rows)


def test_a_split_made_of_training_samples_is_refused_and_the_training_split_is_what_it_is():
    data = tiny_dataset()
    copied = renamed(data.splits["train"].take(np.arange(60)))
    leaky = replace(data, splits={**data.splits, "test": copied})
    with pytest.raises(DataError, match=r"tiny: 60 of 60 test samples have the same features as training samples"):
        refuse_trained_samples(leaky, "test")
    refuse_trained_samples(leaky, "train")
    refuse_trained_samples(leaky, "valid")
    refuse_trained_samples(data, "test")
