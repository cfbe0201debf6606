"""Sentences become ids in one layout, whatever a tokenizer's file says of padding; ids of another vocabulary are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmdkit.data.tokenise import tokenised
from dmdkit.errors import BundleError, DataError, InputError
from dmdkit.runtime.text.tokenizer import Layout, SentenceTokenizer, lay_out
from tests.text_builders import VOCABULARY, text_dataset, tokenizer_json

pytest.importorskip("tokenizers", reason="the extra tokens is not installed")

LEFT = Layout(6, 0, "left", len(VOCABULARY))
RIGHT = replace(LEFT, padding_side="right")


def tokenizer(layout: Layout = LEFT) -> SentenceTokenizer:
    return SentenceTokenizer(tokenizer_json().encode(), layout, "tokenizer.json")


def word(text: str) -> int:
    return VOCABULARY.index(text)


def test_a_sentence_is_padded_on_the_side_of_the_layout():
    left, right = tokenizer()(["The film"]), tokenizer(RIGHT)(["The film"])
    ids = [2, word("the"), word("film"), 3]
    assert left.input_ids.tolist() == [[0, 0, *ids]]
    assert left.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1]]
    assert right.input_ids.tolist() == [[*ids, 0, 0]]
    assert left.input_ids.dtype == left.attention_mask.dtype == np.int64
    assert left.truncated == 0


def test_an_empty_sentence_is_its_special_tokens():
    for empty in ("", "   ", "\n\t"):
        assert tokenizer()([empty]).input_ids.tolist() == [[0, 0, 0, 0, 2, 3]]


def test_a_long_sentence_is_cut_keeps_its_last_special_token_and_is_counted():
    batch = tokenizer()(["good " * 50, "good", "a a a a"])
    assert batch.truncated == 1
    assert batch.input_ids[0].tolist() == [2, *[word("good")] * 4, 3]


@pytest.mark.parametrize("value", [None, 3, b"good", ["good"]])
def test_what_is_no_string_is_refused(value):
    with pytest.raises(InputError, match=r"sentence 1 is a .*, expected a str"):
        tokenizer()(["good", value])


def test_strange_text_is_text():
    for text in ("\x00", "😀" * 10, "\u202egood", "ﬁne", "a\u0301"):
        assert tokenizer()([text]).attention_mask.sum() >= 2
    with pytest.raises(InputError, match="cannot be tokenised"):
        tokenizer()(["\ud800"])


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"not json", tokenizer_json().encode()[:-9]])
def test_what_is_no_tokenizer_is_refused(data):
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        SentenceTokenizer(data, LEFT, "tokenizer.json")


def test_a_tokenizer_larger_than_the_encoder_is_refused():
    with pytest.raises(BundleError, match="do not belong together"):
        SentenceTokenizer(tokenizer_json().encode(), replace(LEFT, vocabulary_size=10), "tokenizer.json")


@pytest.mark.parametrize(
    ("row", "message"),
    [([], "0 tokens"), ([1] * 7, "7 tokens, expected 1 to 6"), ([2, 99, 3], "token id 99"), ([-1], "token id -1")],
)
def test_ids_that_do_not_fit_are_refused(row, message):
    with pytest.raises(InputError, match=message):
        lay_out([row], LEFT)


def with_ids(ids: list[list[int]], **change: object):
    split = text_dataset().splits["valid"]
    array = np.zeros((len(split), 3, 9), np.int64)
    for index in range(len(split)):
        row = ids[index % len(ids)]
        array[index, 0, : len(row)], array[index, 1, : len(row)] = row, 1
    return replace(split, text_bert=array, **change)


def own_ids() -> list[list[int]]:
    split, own = text_dataset().splits["valid"], tokenizer(replace(LEFT, max_tokens=9))
    batch = own(split.raw_text)
    return [ids[mask == 1].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def test_a_files_ids_give_the_same_tokens_as_its_transcripts():
    split, wide = with_ids(own_ids()), tokenizer(replace(LEFT, max_tokens=9))
    from_ids = tokenised(split, wide, "file", "text_bert").split.tokens
    np.testing.assert_array_equal(from_ids, tokenised(split, wide, "file", "raw_text").split.tokens)
    np.testing.assert_array_equal(from_ids, tokenised(split, wide, "file").split.tokens)


def test_ids_of_another_vocabulary_are_noticed_by_the_transcripts():
    strange = with_ids([[2, 7, 3]])
    with pytest.raises(DataError, match=r"belong to another vocabulary; tokenise the file's raw_text"):
        tokenised(strange, tokenizer(), "file", "text_bert")


def test_ids_without_transcripts_are_only_believed_of_the_vocabulary_they_are_known_to_have():
    with pytest.raises(DataError, match="bert-base-uncased's vocabulary"):
        tokenised(with_ids(own_ids(), raw_text=None), tokenizer(), "file")


def test_a_file_without_words_says_what_it_lacks():
    split = replace(text_dataset().splits["valid"], raw_text=None)
    with pytest.raises(DataError, match="no usable raw_text"):
        tokenised(split, tokenizer(), "file")
    with pytest.raises(DataError, match="no usable text_bert"):
        tokenised(text_dataset().splits["valid"], tokenizer(), "file", "text_bert")


def test_second_segments_are_refused():
    split = with_ids(own_ids())
    split.text_bert[0, 2, 0] = 1
    with pytest.raises(DataError, match="second segments"):
        tokenised(split, tokenizer(), "file", "text_bert")
