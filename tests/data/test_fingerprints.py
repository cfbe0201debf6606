"""Fingerprints know a sample again where it was rounded, scaled or renamed, and take no other one for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dmdkit.data import Split, load_dataset, sample_dataset
from dmdkit.data.fingerprints import Fingerprints, SeenSamples, counted_by_use, said_of_uses, sample_sketches
from tests.conftest import tiny_dataset


def numbered(split: Split) -> Split:
    return replace(split, ids=tuple(map(str, range(len(split)))))


def changed(split: Split, change) -> Split:
    return replace(numbered(split), **{name: change(array) for name, array in split.features().items()})


CHANGES = {
    "as it was": lambda array: array,
    "half precision": lambda array: array.astype(np.float16).astype(np.float32),
    "scaled": lambda array: array * np.float32(1.00001),
    "extracted anew": lambda array: array * np.float32(0.999),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_sample_is_known_again(how: str):
    train = sample_dataset().splits["train"]
    assert Fingerprints.of(train, ids_are_names=True).stand_in(changed(train, CHANGES[how])).all()


def test_no_generated_sample_is_taken_for_another():
    splits = sample_dataset().splits
    found = Fingerprints.of(splits["train"], ids_are_names=True)
    for name in ("valid", "test"):
        assert not found.stand_in(numbered(splits[name])).any()


def test_no_real_sample_is_taken_for_another(mosi_clean: Path):
    splits = load_dataset(mosi_clean).splits
    found = Fingerprints.of(splits["train"], ids_are_names=True)
    assert (len(splits["train"]), len(splits["test"])) == (469, 209)
    assert not found.stand_in(splits["test"]).any()
    assert not found.stand_in(splits["valid"]).any()
    for change in CHANGES.values():
        assert found.stand_in(changed(splits["train"], change)).all()


@pytest.mark.parametrize("alone", ["text", "audio", "vision"])
def test_no_real_sample_is_taken_for_another_where_one_modality_is_all_there_is(alone: str, mosi_clean: Path):
    splits = load_dataset(mosi_clean).splits

    def reduced(split: Split) -> Split:
        return replace(numbered(split), **{n: a if n == alone else a * 0 for n, a in split.features().items()})

    assert not Fingerprints.of(reduced(splits["train"]), ids_are_names=False).stand_in(reduced(splits["test"])).any()


def test_tokens_stand_for_text_and_other_words_are_another_sample():
    split = numbered(tiny_dataset().splits["test"])
    tokens = np.stack([np.tile(np.arange(100, 108), (60, 1)), np.ones((60, 8), np.int64)], axis=1)
    said = replace(split, tokens=tokens)
    other = tokens.copy()
    other[:, 0, 3] = 2000
    found = Fingerprints.of(said, ids_are_names=False)
    assert found.stand_in(replace(said, text=split.text * 3)).all(), "features of another build of the encoder"
    assert not found.stand_in(replace(said, tokens=other)).any()


def test_names_count_only_where_they_are_names():
    splits = tiny_dataset().splits
    train, other = splits["train"], replace(splits["test"], ids=splits["train"].ids[:60])
    assert Fingerprints.of(train, ids_are_names=True).stand_in(other).all()
    assert not Fingerprints.of(train, ids_are_names=False).stand_in(other).any()
    assert not Fingerprints.of(numbered(train), ids_are_names=True).stand_in(numbered(other)).any()


def test_sketches_are_those_that_were_kept_before():
    ones = np.ones((1, 2, 3), np.float32)
    sketch = sample_sketches(Split(("a",), ones, ones * 0, -ones, np.zeros(1, np.float32)))
    assert sketch.shape == (1, 24)
    assert not sketch[0, 8:16].any()
    assert np.round(sketch[0, :8] / np.log(2) * np.sqrt(6)).astype(int).tolist() == [4, 4, -4, -2, 2, -2, 4, 2]


def test_extreme_values_have_a_sketch():
    train = tiny_dataset().splits["train"]
    extreme = changed(train, lambda array: np.where(array > 1, np.float32(3e38), array))
    assert np.isfinite(sample_sketches(extreme)).all()
    assert Fingerprints.of(extreme, ids_are_names=False).stand_in(extreme).all()


@pytest.mark.parametrize("text", ["AAAA", "no base64!"])
def test_what_is_no_sketch_is_refused(text: str):
    with pytest.raises(ValidationError, match="expected"):
        Fingerprints(ids_are_names=True, samples={"a": text})


def test_each_sample_counts_once_by_the_first_thing_it_did():
    splits = tiny_dataset().splits
    train = Fingerprints.of(splits["train"], ids_are_names=True)
    few = Fingerprints.of(splits["train"].take(np.arange(10)), ids_are_names=True)
    found = SeenSamples(seen={"trained": train, "calibrated": few}).stand_in(numbered(splits["train"]))
    seen, counts = counted_by_use(found, 64)
    assert seen.all()
    assert counts == {"calibrated": 10, "trained": 54}
    assert said_of_uses(counts, "test") == "10 test samples calibrated INT8, 54 test samples trained the model"
