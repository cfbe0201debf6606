"""Sentences to token ids, laid out as a text encoder takes them; needs the tokenizers library alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError, InputError, MissingDependencyError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Layout", "SentenceTokenizer", "TokenBatch", "lay_out", "read_tokenizer", "without_padding"]

MAX_TOKENIZER_BYTES = 256 << 20
_NEED = "reading sentences (token ids and features need no tokenizer)"

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """How the tokens of a sentence fill the steps of an input.

    Attributes:
        max_tokens: T, tokens of a sentence.
        pad_id: What stands where the mask is 0.
        padding_side: Where a shorter sentence is filled up.
        vocabulary_size: Number of token ids.
    """

    max_tokens: int
    pad_id: int
    padding_side: Literal["left", "right"]
    vocabulary_size: int


@dataclass(frozen=True)
class TokenBatch:
    """Tokens as the text graphs take them.

    Attributes:
        input_ids: int64 (B, T).
        attention_mask: int64 (B, T), 1 where a token stands.
        truncated: How many sentences were longer than T tokens and cut.
    """

    input_ids: Tokens
    attention_mask: Tokens
    truncated: int = 0

    def feed(self) -> dict[str, Tokens]:
        """The two arrays under the graph's names."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def without_padding(row: Sequence[int] | Tokens, pad_id: int) -> list[int]:
    """A sentence's ids without its padding, on whichever side that was; between tokens it is one of them."""
    tokens = [index for index, item in enumerate(row) if item != pad_id]
    return [int(item) for item in row[tokens[0] : tokens[-1] + 1]] if tokens else []


def lay_out(rows: Sequence[Sequence[int]], layout: Layout) -> TokenBatch:
    """Token ids of B sentences, padded to T.

    Args:
        rows: The ids of each sentence, special tokens included, without padding.
        layout: Length, padding side and padding id.

    Raises:
        InputError: No token, too many, or an id that is not in the vocabulary.
    """
    steps = layout.max_tokens
    ids = np.full((len(rows), steps), layout.pad_id, np.int64)
    mask = np.zeros((len(rows), steps), np.int64)
    for index, row in enumerate(rows):
        if not 0 < len(row) <= steps:
            raise InputError(f"sentence {index} has {len(row)} tokens, expected 1 to {steps}; cut it, or pass it as a string")
        if min(row) < 0 or max(row) >= layout.vocabulary_size:
            found = min(row) if min(row) < 0 else max(row)
            raise InputError(
                f"sentence {index} has the token id {found}; this encoder's vocabulary ends at {layout.vocabulary_size - 1}"
            )
        place = slice(steps - len(row), steps) if layout.padding_side == "left" else slice(0, len(row))
        ids[index, place], mask[index, place] = row, 1
    return TokenBatch(ids, mask)


class SentenceTokenizer:
    """The tokenizer of a text encoder; its answers do not depend on what padding or truncation its file declares.

    Args:
        data: A ``tokenizer.json`` in the layout of Hugging Face's tokenizers library.
        layout: How its tokens fill the input.
        source: The file, for messages.

    Raises:
        BundleError: ``data`` is no tokenizer, or not one of this vocabulary.
        MissingDependencyError: The tokenizers library is not installed.
    """

    def __init__(self, data: bytes, layout: Layout, source: str) -> None:
        self._tokenizer = read_tokenizer(data, source)
        self._tokenizer.enable_truncation(layout.max_tokens)
        self.layout = layout
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if size > layout.vocabulary_size:
            raise BundleError(
                f"{source}: the tokenizer has {size} tokens, the encoder {layout.vocabulary_size}; they do not belong together"
            )

    def __call__(self, sentences: Sequence[str]) -> TokenBatch:
        """The tokens of B sentences; one longer than T loses its end, its special tokens stay. May be called from any thread.

        Raises:
            InputError: A sentence is not a string, or holds what is no text.
        """
        rows, truncated = [], 0
        for index, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise InputError(f"sentence {index} is a {type(sentence).__name__}, expected a str")
            try:
                encoding = self._tokenizer.encode(sentence)
            except Exception as cause:  # lone surrogates, and whatever a tokenizer of another kind raises
                raise InputError(f"sentence {index} cannot be tokenised: {cause!s:.200}") from cause
            truncated += bool(encoding.overflowing)
            rows.append(encoding.ids)
        batch = lay_out(rows, self.layout)
        return TokenBatch(batch.input_ids, batch.attention_mask, truncated)

    @cached_property
    def vocabulary_sha256(self) -> str:
        """SHA-256 of the vocabulary as a ``vocab.txt``: its tokens in the order of their ids, one a line."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        lines = sorted(vocabulary, key=vocabulary.__getitem__)
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")).hexdigest()


def read_tokenizer(data: bytes, source: str) -> tokenizers.Tokenizer:
    """A tokenizer without padding or truncation of its own.

    Raises:
        BundleError: ``data`` is no tokenizer.
        MissingDependencyError: The tokenizers library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as cause:
        raise MissingDependencyError("tokenizers", "tokens", _NEED) from cause
    if len(data) > MAX_TOKENIZER_BYTES:
        raise BundleError(f"{source}: larger than {MAX_TOKENIZER_BYTES} bytes, so it is no tokenizer")
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as cause:  # the library raises plain Exception
        raise BundleError(f"{source}: not a tokenizer of the tokenizers library: {cause!s:.200}") from cause
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
