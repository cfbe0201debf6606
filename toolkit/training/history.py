"""What a training writes of its epochs."""

from __future__ import annotations

import csv
import io

__all__ = ["csv_text"]


def csv_text(rows: list[dict[str, float | int | None]]) -> str:
    """The content of ``history.csv``: a line for each epoch."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
