"""The tokens of a feature file's samples: from its transcripts, or from its BERT ids where those are the encoder's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dmdkit.config import TokensFrom
from dmdkit.data.dataset import Dataset, Split, TokenArray
from dmdkit.errors import DataError, InputError
from dmdkit.runtime.backends.base import Runner
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.open_graph import open_runner
from dmdkit.runtime.text.encoder import tokenizer_of
from dmdkit.runtime.text.lengths import encode
from dmdkit.runtime.text.tokenizer import SentenceTokenizer, TokenBatch, lay_out

__all__ = ["Tokenised", "dataset_with_text", "encode_tokens", "tokenised"]

Array = npt.NDArray[np.float32]

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


def encode_tokens(runner: Runner, tokens: npt.NDArray[np.int64]) -> Array:
    """Features (N, T, D) of tokens (N, 2, T), sample by sample: a dynamic INT8 range is that of the whole call."""
    return np.concatenate([encode(runner, TokenBatch(*np.ascontiguousarray(sample[:, None]))) for sample in tokens])


def dataset_with_text(bundle: Bundle, dataset: Dataset, only: Sequence[str], *, encode: bool) -> Dataset:
    """``dataset`` as a bundle with a text encoder takes it, where it has words; else as it is.

    Args:
        bundle: The bundle.
        dataset: A feature file.
        only: Splits that are needed; others are left out, unless none of them is there.
        encode: Whether to put what ``text.fp32`` makes of the tokens into ``text``.

    Raises:
        DataError: The file's ids are not the encoder's.
        BundleError: The graph or the tokenizer is damaged.
        MissingDependencyError: The tokenizers library is not installed.
    """
    wanted = {name: split for name, split in dataset.splits.items() if name in only}
    has_words = all(split.raw_text is not None or split.text_bert is not None for split in wanted.values())
    if bundle.manifest.text is None or not wanted or not has_words:
        return dataset
    tokenizer, notes = tokenizer_of(bundle), list(dataset.notes)
    splits = {}
    for name, split in wanted.items():
        found = tokenised(split, tokenizer, dataset.source)
        splits[name] = found.split
        if found.truncated:
            notes.append(
                f"{name}: {found.truncated} of {len(split)} sentences were cut to {tokenizer.layout.max_tokens} tokens"
            )
    if encode:
        with open_runner(bundle, "text.fp32") as runner:
            for name, split in splits.items():
                assert split.tokens is not None
                splits[name] = replace(split, text=encode_tokens(runner, split.tokens))
    return replace(dataset, splits=splits, notes=tuple(notes))
