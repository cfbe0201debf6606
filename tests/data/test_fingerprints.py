"""Fingerprints know a sample again where it was rounded, scaled or renamed, and take no other one for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dmdkit.data import Split, load_dataset, sample_dataset
from dmdkit.data.fingerprints import Fingerprints, SeenSamples, counted_by_use, said_of_uses
from dmdkit.data.overlap import distinct_samples
from dmdkit.data.sketches import sample_sketches
from tests.conftest import tiny_dataset


def numbered(split: Split) -> Split:
    return replace(split, ids=tuple(map(str, range(len(split)))))


def changed(split: Split, change) -> Split:
    return replace(numbered(split), **{name: change(array) for name, array in split.features().items()})


def found_in(known: Split, split: Split, *, ids_are_names: bool = False) -> np.ndarray:
    """Per sample of ``split``, whether it is one of ``known``."""
    prints = Fingerprints.of(known, ids_are_names=ids_are_names)
    return SeenSamples(seen={"trained": prints}).find(split).uses["trained"]


CHANGES = {
    "as it was": lambda array: array,
    "half precision": lambda array: array.astype(np.float16).astype(np.float32),
    "scaled": lambda array: array * np.float32(1.00001),
    "extracted anew": lambda array: array * np.float32(0.999),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_sample_is_known_again(how: str):
    train = sample_dataset().splits["train"]
    assert found_in(train, changed(train, CHANGES[how])).all()


def test_no_generated_sample_is_taken_for_another():
    splits = sample_dataset().splits
    for name in ("valid", "test"):
        assert not found_in(splits["train"], numbered(splits[name])).any()


def test_no_real_sample_is_taken_for_another(mosi_clean: Path):
    splits = load_dataset(mosi_clean).splits
    assert (len(splits["train"]), len(splits["test"])) == (469, 209)
    assert not found_in(splits["train"], splits["test"]).any()
    assert not found_in(splits["train"], splits["valid"]).any()
    for change in CHANGES.values():
        assert found_in(splits["train"], changed(splits["train"], change)).all()


@pytest.mark.parametrize("alone", ["text", "audio", "vision"])
def test_no_real_sample_is_taken_for_another_where_one_modality_is_all_there_is(alone: str, mosi_clean: Path):
    splits = load_dataset(mosi_clean).splits

    def reduced(split: Split) -> Split:
        return replace(numbered(split), **{n: a if n == alone else a * 0 for n, a in split.features().items()})

    assert not found_in(reduced(splits["train"]), reduced(splits["test"])).any()


def test_tokens_stand_for_text_and_other_words_are_another_sample():
    split = numbered(tiny_dataset().splits["test"])
    tokens = np.stack([np.tile(np.arange(100, 108), (60, 1)), np.ones((60, 8), np.int64)], axis=1)
    said = replace(split, tokens=tokens)
    other = tokens.copy()
    other[:, 0, 3] = 2000
    assert found_in(said, replace(said, text=split.text * 3)).all(), "features of another build of the encoder"
    assert not found_in(said, replace(said, tokens=other)).any()


def test_names_count_only_where_they_are_names():
    train = tiny_dataset().splits["train"]
    anew = replace(train.take(np.arange(30)), text=train.text[:30] * np.float32(1.5), vision=train.vision[:30] ** 3)
    assert found_in(train, anew, ids_are_names=True).all(), "extracted in another way"
    assert not found_in(train, anew, ids_are_names=False).any()
    assert not found_in(numbered(train), numbered(anew), ids_are_names=True).any()


@pytest.mark.parametrize("alike", [60, 12])
def test_names_of_training_samples_with_features_of_others_are_numbering(alike: int):
    splits = tiny_dataset().splits
    train, test = splits["train"], splits["test"]
    other = replace(test, ids=(*train.ids[:alike], *test.ids[alike:]))
    found = SeenSamples(seen={"trained": Fingerprints.of(train, ids_are_names=True)}).find(other)
    assert not found.uses["trained"].any()
    assert found.named_alike.tolist() == [True] * alike + [False] * (60 - alike)


def landmarks(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pixels: means of 200 to 440, which the head moves by an sd of 20 and expressions by 3."""
    return rng.uniform(200, 440, 20) + rng.normal(0, 20, (count, 1, 1)) + rng.normal(0, 3, (count, 6, 20))


def decibels(rng: np.random.Generator, count: int) -> np.ndarray:
    return -60 + rng.normal(0, 6, (count, 1, 1)) + rng.normal(0, 8, (count, 10, 40))


def pitch(rng: np.random.Generator, count: int) -> np.ndarray:
    """F0 in Hz, of low and of high voices."""
    return rng.choice([120, 210], (count, 1, 1)) + rng.normal(0, 10, (count, 1, 1)) + rng.normal(0, 5, (count, 6, 1))


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(0, 1, (count, 6, 5))


def heavy(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.clip(rng.standard_cauchy((count, 6, 5)) * 100, -6e4, 6e4)  # which half precision holds


def two_levels(rng: np.random.Generator, count: int) -> np.ndarray:
    return 300 + rng.choice([0.0, 100.0], (count, 1, 1)) + rng.normal(0, 10, (count, 4, 8))


@pytest.mark.parametrize("draw", [landmarks, decibels, pitch, normal, heavy, two_levels])
@pytest.mark.parametrize("where", ["audio", "vision"])
def test_independent_samples_are_told_apart_whatever_their_offset_and_copies_are_known(draw, where: str):
    values = draw(np.random.default_rng(11), 300).astype(np.float32)
    absent = np.zeros((300, 1, 1), np.float32)
    arrays = {"text": absent, "audio": absent, "vision": absent, where: values}
    every = Split(tuple(map(str, range(300))), **arrays, labels=np.zeros(300, np.float32))
    train, held = every.take(np.arange(200)), every.take(np.arange(200, 300))
    assert not found_in(train, held).any()
    for how in ("as it was", "half precision", "scaled"):
        assert found_in(train, changed(train, CHANGES[how])).all(), how
    assert distinct_samples(held) == 100


def test_what_has_no_features_is_nobodys_copy():
    train = tiny_dataset().splits["train"]
    silent = changed(train, lambda array: array * 0)
    assert not found_in(train, silent).any()
    assert not found_in(silent, silent).any(), "all-zero features are those of any sample"
    heard = replace(silent, audio=train.audio)
    assert found_in(heard, heard).all()
    assert not found_in(heard, replace(heard, vision=train.vision)).any(), "a modality that only one of them has"


def test_a_few_near_copies_in_training_hide_none_of_its_samples():
    train = tiny_dataset().splits["train"]
    rows = np.concatenate([np.arange(64), np.arange(8)])
    nearly = changed(
        train.take(rows), lambda array: array * np.where(np.arange(72) < 64, 1, 1.002).reshape(-1, 1, 1).astype("f4")
    )
    assert found_in(nearly, changed(train, CHANGES["half precision"])).all()


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
    assert found_in(extreme, extreme).all()


@pytest.mark.parametrize("text", ["AAAA", "no base64!"])
def test_what_is_no_sketch_is_refused(text: str):
    with pytest.raises(ValidationError, match="expected"):
        Fingerprints(ids_are_names=True, samples={"a": text})


def test_each_sample_counts_once_by_the_first_thing_it_did():
    splits = tiny_dataset().splits
    train = Fingerprints.of(splits["train"], ids_are_names=True)
    few = Fingerprints.of(splits["train"].take(np.arange(10)), ids_are_names=True)
    found = SeenSamples(seen={"trained": train, "calibrated": few}).find(numbered(splits["train"]))
    seen, counts = counted_by_use(found.uses, 64)
    assert seen.all()
    assert counts == {"calibrated": 10, "trained": 54}
    assert said_of_uses(counts, "test") == "10 test samples calibrated INT8, 54 test samples trained the model"
