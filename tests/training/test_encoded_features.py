"""Features of a frozen text encoder are computed once, and never taken for those of other sentences or weights."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmdkit.data import load_dataset
from dmdkit.data.dataset import Split
from dmdkit.model.text_encoder import TextEncoder
from dmdkit.training import encoded_features
from dmdkit.training.encoded_features import kept_or_encoded
from dmdkit.training.encoder_directory import encoded_split, read_encoder_directory, with_tokens


@pytest.fixture
def encoder_and_split(text_data: Path, tmp_path, monkeypatch) -> tuple[TextEncoder, Split]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = read_encoder_directory(text_data.parent / "bert")
    dataset = with_tokens(load_dataset(text_data), directory.sentence_tokenizer(8, "zero"), "auto")
    return directory.encoder("zero"), dataset.splits["valid"]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "dmdkit" / "text-features").glob("*"))


def test_the_same_sentences_are_encoded_once(encoder_and_split, tmp_path, monkeypatch) -> None:
    encoder, split = encoder_and_split
    first = kept_or_encoded(split, encoder)
    assert np.array_equal(first.text, encoded_split(split, encoder).text)
    monkeypatch.setattr(encoded_features, "encoded_split", lambda *_: pytest.fail("they were encoded again"))
    assert np.array_equal(kept_or_encoded(split, encoder).text, first.text)
    assert len(files(tmp_path)) == 1


def test_other_sentences_and_other_weights_have_features_of_their_own(encoder_and_split, tmp_path) -> None:
    encoder, split = encoder_and_split
    kept_or_encoded(split, encoder)
    fewer = split.take(np.arange(len(split) - 1))
    assert len(kept_or_encoded(fewer, encoder).text) == len(fewer)
    with torch.no_grad():
        next(iter(encoder.parameters())).add_(0.5)
    changed = kept_or_encoded(split, encoder)
    assert np.array_equal(changed.text, encoded_split(split, encoder).text)
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"garbage"])
def test_damaged_features_are_computed_anew(encoder_and_split, tmp_path, content) -> None:
    encoder, split = encoder_and_split
    first = kept_or_encoded(split, encoder)
    (file,) = files(tmp_path)
    file.write_bytes(content)
    assert np.array_equal(kept_or_encoded(split, encoder).text, first.text)
    assert file.stat().st_size > len(content)


def test_the_cache_is_bounded_and_what_was_not_used_for_longest_goes_first(encoder_and_split, tmp_path, monkeypatch) -> None:
    encoder, split = encoder_and_split
    sizes = [len(split), len(split) - 1, len(split) - 2]
    first, second, third = (split.take(np.arange(size)) for size in sizes)
    kept_or_encoded(first, encoder)
    (of_first,) = files(tmp_path)
    kept_or_encoded(second, encoder)
    (of_second,) = set(files(tmp_path)) - {of_first}
    for age, file in enumerate((of_second, of_first)):
        os.utime(file, (1e9 - age, 1e9 - age))
    kept_or_encoded(first, encoder)  # which is older, and used now
    monkeypatch.setattr(encoded_features, "CACHE_BYTES", 2 * of_first.stat().st_size)
    kept_or_encoded(third, encoder)
    assert of_first in files(tmp_path)
    assert of_second not in files(tmp_path)
    assert len(files(tmp_path)) == 2
    monkeypatch.setattr(encoded_features, "CACHE_BYTES", 1)
    before = files(tmp_path)
    kept_or_encoded(split.take(np.arange(2)), encoder)
    assert files(tmp_path) == before, "what never fits takes nothing else away"


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(encoder_and_split, tmp_path) -> None:
    encoder, split = encoder_and_split
    (tmp_path / "dmdkit").write_text("not a directory")
    assert np.array_equal(kept_or_encoded(replace(split), encoder).text, encoded_split(split, encoder).text)
