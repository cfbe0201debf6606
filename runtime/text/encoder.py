"""The text encoder of a bundle: strings or token ids in, the features of the input ``text`` out."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dmdkit.errors import BundleError, InputError
from dmdkit.runtime.bundle import Bundle
from dmdkit.runtime.inputs import refuse_masked
from dmdkit.runtime.manifest import Manifest, TextRecord
from dmdkit.runtime.text.lengths import encode
from dmdkit.runtime.text.tokenizer import Layout, SentenceTokenizer, TokenBatch, lay_out, without_padding

if TYPE_CHECKING:
    from dmdkit.runtime.backends.base import Runner

__all__ = [
    "TextFeatures",
    "TextStage",
    "layout_of",
    "require_text",
    "tokenizer_of",
]

Array = npt.NDArray[np.float32]


def layout_of(record: TextRecord) -> Layout:
    """How tokens fill the text graphs' inputs."""
    return Layout(record.max_tokens, record.pad_id, record.padding_side, record.vocabulary_size)


def tokenizer_of(bundle: Bundle) -> SentenceTokenizer:
    """The bundle's tokenizer.

    Raises:
        BundleError: The file is damaged.
        MissingDependencyError: The tokenizers library is not installed.
    """
    record = bundle.manifest.text
    assert record is not None, "only a bundle with a text encoder is asked for its tokenizer"
    return SentenceTokenizer(bundle.read(record.tokenizer), layout_of(record), f"{bundle.path}/{record.tokenizer}")


@dataclass(frozen=True)
class TextFeatures:
    """What the encoder made of words.

    Attributes:
        features: float32 (B, T, D), or (T, D) for a single sentence.
        truncated: How many sentences were longer than T tokens and cut.
    """

    features: Array
    truncated: int


class TextStage:
    """A tokenizer and an opened text graph. Calls from several threads at once are safe.

    Args:
        bundle: A bundle with a text encoder.
        runner: One of its text graphs.
    """

    def __init__(self, bundle: Bundle, runner: Runner) -> None:
        assert bundle.manifest.text is not None
        self._bundle, self.runner, self._record = bundle, runner, bundle.manifest.text
        self._lock = threading.Lock()
        self._tokenizer: SentenceTokenizer | None = None

    def _sentence_tokenizer(self) -> SentenceTokenizer:
        with self._lock:
            if self._tokenizer is None:  # ids alone need no tokenizers library
                self._tokenizer = tokenizer_of(self._bundle)
            return self._tokenizer

    def tokens(self, value: object) -> tuple[TokenBatch, bool]:
        """The tokens of strings or ids, and whether the caller passed a batch.

        Raises:
            InputError: It is neither.
            MissingDependencyError: A string came and the tokenizers library is not installed.
        """
        refuse_masked("text", value)
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()  # one sentence, whose letters are not sentences
        if isinstance(value, str):
            return self._sentence_tokenizer()([value]), False
        if isinstance(value, bytes):
            raise InputError("input 'text' is bytes, expected a str; decode it")
        rows: list[object] = value.tolist() if isinstance(value, np.ndarray) else list(value)  # type: ignore[call-overload]
        if not rows:
            raise InputError("input 'text' is empty; pass at least one sentence")
        first = next((row for row in rows if not isinstance(row, (list, tuple)) or row), rows[0])
        if isinstance(first, str):
            return self._sentence_tokenizer()(rows), True  # type: ignore[arg-type]
        batched = isinstance(rows[0], (list, tuple, np.ndarray))
        return lay_out([self._ids(row) for row in (rows if batched else [rows])], layout_of(self._record)), batched

    def _ids(self, row: object) -> list[int]:
        """One sentence's ids without its padding, on whichever side that was."""
        if not isinstance(row, (list, tuple, np.ndarray)) or (isinstance(row, np.ndarray) and row.ndim != 1):
            raise InputError(f"input 'text' mixes sentences with a {type(row).__name__}")
        for item in row:
            if isinstance(item, bool) or not isinstance(item, (int, np.integer)):
                raise InputError(f"input 'text' holds {item!r:.40} among token ids, expected whole numbers")
        return without_padding(row, self._record.pad_id)

    def features(self, value: object) -> TextFeatures:
        """The features of strings or ids.

        Raises:
            InputError: It is neither, or an id is not in the vocabulary.
        """
        batch, batched = self.tokens(value)
        found = encode(self.runner, batch)
        return TextFeatures(found if batched else found[0], batch.truncated)


def require_text(manifest: Manifest, source: object) -> None:
    """Raises unless the bundle has a text encoder.

    Raises:
        BundleError: It has none.
    """
    if manifest.text is None:
        raise BundleError(
            f"{source}: the bundle has no text encoder, so text is features, float32 (T, D), not strings or token ids; export "
            "a run that was trained with one (docs/text.md)"
        )
