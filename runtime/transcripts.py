"""The tokens of a feature file's samples: from its transcripts, or from its BERT ids where those are the encoder's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dmdkit.config import TokensFrom
from dmdkit.data.dataset import Split, TokenArray
from dmdkit.errors import DataError, InputError
from dmdkit.runtime.tokens import SentenceTokenizer, TokenBatch, lay_out

__all__ = ["Tokenised", "tokenised"]

BERT_BASE_UNCASED = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
"""SHA-256 of the vocab.txt of bert-base-uncased, which MMSA's English ``text_bert`` ids belong to."""

_COMPARED = 32
"""So many transcripts are tokenised to see whether a file's ids are this tokenizer's; one vocabulary differs at once."""


@dataclass(frozen=True)
class Tokenised:
    """A split with its tokens.

    Attributes:
        split: The split, ``tokens`` int64 (N, 2, T): ids and mask.
        truncated: How many sentences were cut.
    """

    split: Split
    truncated: int


def tokenised(split: Split, tokenizer: SentenceTokenizer, source: str, tokens_from: TokensFrom = "auto") -> Tokenised:
    """``split`` with the tokens of every sample.

    Args:
        split: Samples with ``raw_text`` or ``text_bert``.
        tokenizer: The encoder's.
        source: The file, for messages.
        tokens_from: What to take; auto prefers ``raw_text``, which is right for any encoder.

    Raises:
        DataError: The file has not what is asked for, or its ids are not this encoder's.
    """
    missing = "the model reads its text from raw_text or text_bert"
    if split.raw_text is None and (tokens_from == "raw_text" or split.text_bert is None):
        raise DataError(f"{source}: no usable raw_text; {missing}, give the file one")
    if tokens_from == "text_bert" and split.text_bert is None:
        raise DataError(f"{source}: no usable text_bert; {missing}, set text_encoder.tokens_from=raw_text")
    try:
        if split.raw_text is not None and tokens_from != "text_bert":
            batch = tokenizer(split.raw_text)
        else:
            assert split.text_bert is not None
            _check_vocabulary(split.text_bert, split.raw_text, tokenizer, source)
            batch = lay_out(_rows(split.text_bert, source), tokenizer.layout)
    except InputError as cause:
        raise DataError(f"{source}: {cause}") from cause
    tokens: TokenArray = np.stack([batch.input_ids, batch.attention_mask], axis=1)
    return Tokenised(replace(split, tokens=tokens), batch.truncated)


def _rows(text_bert: TokenArray, source: str) -> list[list[int]]:
    if text_bert[:, 2].any():
        raise DataError(f"{source}: text_bert has second segments; only single sentences can be read, use raw_text")
    return [sample[0][sample[1] == 1].tolist() for sample in text_bert]


def _check_vocabulary(
    text_bert: TokenArray, raw_text: tuple[str, ...] | None, tokenizer: SentenceTokenizer, source: str
) -> None:
    """Raises unless the ids can be shown to be this tokenizer's: by its own tokens, or by the vocabulary's name."""
    advice = "tokenise the file's raw_text with the encoder's own tokenizer (text_encoder.tokens_from=raw_text)"
    if raw_text is None:
        if tokenizer.vocabulary_sha256 != BERT_BASE_UNCASED:
            raise DataError(
                f"{source}: text_bert holds ids of bert-base-uncased's vocabulary as far as anyone can tell, this encoder has "
                f"another one; {advice}"
            )
        return
    expected = tokenizer(raw_text[:_COMPARED])
    for index, row in enumerate(_rows(text_bert[:_COMPARED], source)):
        own = _tokens_of(expected, index)
        if row[: len(own) - 1] != own[:-1]:  # the file may have cut the sentence elsewhere
            raise DataError(
                f"{source}: text_bert of sample {index} is {row[:6]}..., this encoder's tokenizer gives {own[:6]}...: the ids "
                f"belong to another vocabulary; {advice}"
            )


def _tokens_of(batch: TokenBatch, index: int) -> list[int]:
    kept: list[int] = batch.input_ids[index][batch.attention_mask[index] == 1].tolist()
    return kept
