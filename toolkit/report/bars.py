"""Horizontal bars, and intervals against the band they must lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmdkit.report.markup import Child, Markup, join
from dmdkit.report.numbers import Axis, change, number, text_width, ticks
from dmdkit.report.svg import FONT, WIDTH, figure, label, line, rect

__all__ = ["Bar", "Interval", "bar_chart", "interval_chart"]

_ROW = 34.0
_INTERVAL_ROW = 56.0
_GAP = 10.0


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: What it stands for.
        value: Its length, at least 0.
        text: The value as it is written, with its unit.
        kind: A class of the style sheet: ``bar``, ``bar int8``, ``bar fp16``, ``bar float``.
        mark: Something to compare it with, drawn as a line across.
    """

    name: str
    value: float
    text: str
    kind: str = "bar"
    mark: float | None = None


def bar_chart(caption: Child, alt: str, bars: Sequence[Bar], *, note: Child = None, most: float | None = None) -> Markup:
    """Bars from zero to ``most``, or else to the largest, each with its name and value on the line above it."""
    most = most or max([bar.value for bar in bars] + [bar.mark or 0.0 for bar in bars], default=0.0) or 1.0
    axis = Axis(0, most, 0, WIDTH - 2)
    parts: list[Child] = []
    for index, bar in enumerate(bars):
        top = index * _ROW
        room = WIDTH - text_width(bar.text, FONT) - _GAP
        parts += [
            label(0, top + 12, bar.name, room=room),
            label(WIDTH, top + 12, bar.text, anchor="end", kind="value"),
            rect(0, top + 17, WIDTH - 2, 9, "track"),
            rect(0, top + 17, max(axis.at(bar.value), 1.0 if bar.value > 0 else 0.0), 9, bar.kind, f"{bar.name}: {bar.text}"),
            None if bar.mark is None else rect(min(axis.at(bar.mark), WIDTH - 3), top + 14, 2, 15, "mark"),
        ]
    listed = "; ".join(f"{bar.name} {bar.text}" for bar in bars)
    return figure(caption, f"{alt}: {listed}", len(bars) * _ROW, *parts, note=note)


@dataclass(frozen=True)
class Interval:
    """A change and its 95 % interval."""

    name: str
    value: float
    low: float
    high: float


def interval_chart(caption: Child, alt: str, rows: Sequence[Interval], limit: float | None, *, note: Child = None) -> Markup:
    """Each change with its interval on a common axis around zero; the band of ``limit`` is shaded.

    Args:
        caption: What stands above the figure.
        alt: What it shows, in words; the numbers are added.
        rows: At least one.
        limit: The interval must lie within +- this; None where it is reported only.
        note: A line below the figure.
    """
    reach = 1.1 * max([abs(bound) for row in rows for bound in (row.low, row.high)] + [limit or 0.0]) or 1.0
    axis = Axis(-reach, reach, 8, WIDTH - 8)
    top, bottom = 4.0, 4.0 + len(rows) * _INTERVAL_ROW
    parts: list[Child] = []
    if limit is not None:
        parts += [
            rect(axis.at(-limit), top, axis.at(limit) - axis.at(-limit), bottom - top, "band", f"within ±{number(limit)}")
        ]
    parts += [line(axis.at(0), top, axis.at(0), bottom, "axis")]
    for index, row in enumerate(rows):
        y = top + index * _INTERVAL_ROW
        text = f"{change(row.value)} [{change(row.low)}, {change(row.high)}]"
        inside = limit is None or max(abs(row.low), abs(row.high)) <= limit
        kind = "interval" if inside else "interval outside"
        parts += [
            label(12, y + 16, row.name, room=WIDTH - 24, kind="halo"),
            label(12, y + 31, text, kind="value halo"),
            line(axis.at(row.low), y + 42, axis.at(row.high), y + 42, kind),
            line(axis.at(row.low), y + 37, axis.at(row.low), y + 47, kind),
            line(axis.at(row.high), y + 37, axis.at(row.high), y + 47, kind),
            rect(axis.at(row.value) - 3, y + 39, 6, 6, f"{kind} dot"),
        ]
    marks = ticks(-reach, reach, 5)
    for value in marks:
        parts += [line(axis.at(value), bottom, axis.at(value), bottom + 4, "axis")]
        parts += [label(axis.at(value), bottom + 16, number(value, 2), anchor="middle", kind="muted")]
    parts.append(line(8, bottom, WIDTH - 8, bottom, "axis"))
    listed = "; ".join(f"{row.name} {change(row.value)}, 95 % interval {change(row.low)} to {change(row.high)}" for row in rows)
    said = f"{alt}: {listed}" + ("" if limit is None else f"; allowed are ±{number(limit)}")
    return figure(caption, said, bottom + 24, join(parts), note=note)
