"""Features of a frozen text encoder are computed once, and never taken for those of other sentences or weights."""

from __future__ import annotations

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


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(encoder_and_split, tmp_path) -> None:
    encoder, split = encoder_and_split
    (tmp_path / "dmdkit").write_text("not a directory")
    assert np.array_equal(kept_or_encoded(replace(split), encoder).text, encoded_split(split, encoder).text)
