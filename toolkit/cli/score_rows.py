"""What the scores of samples have in common, of whole samples and step by step: labels, and the file they are written to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from dmdkit.errors import InputError
from dmdkit.files import write_json, write_text

__all__ = ["known_label", "score_heads", "write_rows"]


def known_label(value: Any) -> float | int | None:
    """A label of an array, a whole number where it is a class; None where it says that there is none."""
    label: float | int = value.item()
    unknown = label < 0 if isinstance(label, int) else isnan(label)
    return None if unknown else label


def score_heads(width: int) -> list[str]:
    """Names of the columns of a score of so many numbers."""
    return ["score"] if width == 1 else [f"score_{index}" for index in range(width)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], heads: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """``rows`` as JSON where the name says so, else ``lines`` under ``heads`` as CSV."""
    if path.suffix == ".json":
        write_json(path, list(rows), InputError)
        return
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    write_text(path, stream.getvalue(), InputError)
