"""The parts every figure is made of. A figure is 320 units wide, which is a phone; on larger screens it grows."""

from __future__ import annotations

from dmdkit.report.markup import Child, Markup, join, tag
from dmdkit.report.numbers import fitted

__all__ = ["FONT", "WIDTH", "figure", "label", "line", "rect"]

WIDTH = 320.0
FONT = 11.0


def label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    kind: str | None = None,
    room: float | None = None,
) -> Markup:
    """One line of text with its baseline at ``y``; wider than ``room`` it is shortened, and a tooltip has it whole.

    Args:
        x: Where it is anchored.
        y: The baseline.
        text: What it says.
        anchor: ``start``, ``middle`` or ``end``.
        kind: A class of the style sheet.
        room: The width it may take.
    """
    shown = text if room is None else fitted(text, room, FONT)
    whole = tag("title", text) if shown != text else None
    side = None if anchor == "start" else anchor
    return tag("text", whole, shown, x=float(x), y=float(y), text_anchor=side, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)


def rect(x: float, y: float, width: float, height: float, kind: str, title: str | None = None) -> Markup:
    """A rectangle; negative sizes become none. ``title`` is what a pointer resting on it reads."""
    inside = None if title is None else tag("title", title)
    return tag("rect", inside, x=float(x), y=float(y), width=max(0.0, width), height=max(0.0, height), class_=kind)


def figure(caption: Child, alt: str, height: float, *parts: Child, note: Child = None) -> Markup:
    """A figure with its caption.

    Args:
        caption: What stands above it.
        alt: What it shows, in words, for those who cannot see it.
        height: In units of :data:`WIDTH`.
        parts: Its content, in SVG.
        note: A line below it.
    """
    drawing = tag("svg", tag("title", alt), join(parts), viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=alt)
    return tag("figure", tag("figcaption", caption), drawing, None if note is None else tag("p", note, class_="note"))
