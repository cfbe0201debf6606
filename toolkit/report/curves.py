"""Values over epochs: lines in one figure, each named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmdkit.report.markup import Child, Markup, tag
from dmdkit.report.numbers import Axis, number, spread, ticks
from dmdkit.report.svg import FONT, WIDTH, figure, label, line

__all__ = ["Curve", "curve_chart"]

_KINDS = ("text", "audio", "vision")
_HEIGHT = 150.0
_LEFT = 44.0
_BOTTOM = 20.0
_KEY_ROW = 16.0


@dataclass(frozen=True)
class Curve:
    """One line: a value for each epoch from 1, None where there was none."""

    name: str
    values: Sequence[float | None]


def curve_chart(caption: Child, alt: str, curves: Sequence[Curve], *, mark: int | None = None, note: Child = None) -> Markup:
    """Up to three curves over the same epochs.

    Args:
        caption: What stands above it.
        alt: What it shows, in words.
        curves: With at least one value between them.
        mark: An epoch to mark with a vertical line.
        note: A line below it.
    """
    known = [value for curve in curves for value in curve.values if value is not None]
    epochs = max(len(curve.values) for curve in curves)
    low, high = spread(known)
    across, up = Axis(1, max(epochs, 2), _LEFT, WIDTH - 6), Axis(low, high, _HEIGHT - _BOTTOM, 6)
    parts: list[Child] = []
    for tick in ticks(low, high, 4):
        parts += [line(_LEFT, up.at(tick), WIDTH, up.at(tick), "grid")]
        parts += [label(_LEFT - 5, up.at(tick) + 4, number(tick), anchor="end", kind="muted")]
    for tick in ticks(1, max(epochs, 2), 6):
        if tick == int(tick):
            parts.append(label(across.at(tick), _HEIGHT - 5, f"{int(tick)}", anchor="middle", kind="muted"))
    if mark is not None:
        parts.append(line(across.at(mark), 6, across.at(mark), _HEIGHT - _BOTTOM, "limit"))
    for index, (kind, curve) in enumerate(zip(_KINDS, curves, strict=False)):
        path = _path(curve.values, across, up)
        parts.append(tag("path", tag("title", curve.name), d=path, class_=f"edge {kind}", stroke_width=1.8))
        row = _HEIGHT + _KEY_ROW * index + FONT
        parts += [tag("path", d=f"M {_LEFT:g} {row - 4:g} h 18", class_=f"edge {kind}", stroke_width=2.5)]
        last = next((value for value in reversed(curve.values) if value is not None), None)
        parts += [label(_LEFT + 24, row, curve.name, room=WIDTH - _LEFT - 90)]
        parts += [label(WIDTH, row, number(last), anchor="end", kind="value")]
    said = "; ".join(f"{curve.name} from {_ends(curve.values)}" for curve in curves)
    return figure(caption, f"{alt}: {said}", _HEIGHT + _KEY_ROW * len(curves) + 4, *parts, note=note)


def _ends(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{number(known[0])} to {number(known[-1])}" if known else number(None)


def _path(values: Sequence[float | None], across: Axis, up: Axis) -> str:
    """Points joined by lines, interrupted where a value is missing; a lone point is a short dash."""
    commands, joined = [], False
    for epoch, value in enumerate(values, start=1):
        if value is None:
            joined = False
            continue
        commands.append(f"{'L' if joined else 'M'} {across.at(epoch):.1f} {up.at(value):.1f}" + ("" if joined else " h 0.1"))
        joined = True
    return " ".join(commands)
