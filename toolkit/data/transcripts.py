"""What a file says in words: transcripts and BERT tokens, kept where they can be believed and else left out with a note."""

from __future__ import annotations

import numpy as np

from dmdkit.data.dataset import TokenArray
from dmdkit.data.raw import described, rows_of, shortened
from dmdkit.printable import is_utf8

__all__ = ["checked_raw_text", "checked_text_bert"]

_MAX_CHARACTERS = 1 << 20
_MAX_TOKEN = 1 << 31


def checked_raw_text(value: object, count: int, split: str, notes: list[str]) -> tuple[str, ...] | None:
    """``count`` transcripts, or None with a note: who does not need them must not stumble over them.

    Args:
        value: What the file holds; None where it holds none.
        count: Samples in the split.
        split: Its name, for the note.
        notes: Receives why they are left out.
    """
    if value is None:
        return None
    rows = rows_of(value)
    if not isinstance(rows, (list, tuple)) or len(rows) != count:
        notes.append(f"{split} raw_text is not used: expected {count} texts, found {described(value)}")
        return None
    for index, row in enumerate(rows):
        if not isinstance(row, str) or len(row) > _MAX_CHARACTERS or not is_utf8(row):
            notes.append(f"{split} raw_text is not used: expected a text of UTF-8, found {shortened(row)} at index {index}")
            return None
    return tuple(rows)


def checked_text_bert(value: object, count: int, split: str, notes: list[str]) -> TokenArray | None:
    """int64 (count, 3, T) of ids, mask and segments, or None with a note.

    Args:
        value: What the file holds, of any number type; None where it holds none.
        count: Samples in the split.
        split: Its name, for the note.
        notes: Receives why it is left out.
    """
    if value is None:
        return None

    def unused(found: str) -> TokenArray | None:
        notes.append(f"{split} text_bert is not used: expected ({count}, 3, T) token ids, mask and segments, found {found}")
        return None

    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or value.ndim != 3:
        return unused(described(value))
    if value.shape[:2] != (count, 3) or value.shape[2] == 0:
        return unused(f"shape {value.shape}")
    # A NaN compares false with everything, so it is caught here too.
    if not ((value >= 0) & (value < _MAX_TOKEN)).all() or (value != np.floor(value)).any():
        return unused("values that are not whole numbers from 0")
    tokens: TokenArray = value.astype(np.int64)
    if not np.isin(tokens[:, 1:], (0, 1)).all():
        return unused("a mask or segments other than 0 and 1")
    return tokens
