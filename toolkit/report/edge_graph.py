"""A GD-Unit as the paper draws it: three modalities, six directed edges, thick where much is taught."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dmdkit.report.markup import Markup, join, tag
from dmdkit.report.svg import figure, label

__all__ = ["edge_graph"]

_NODES = {"text": (160.0, 34.0), "audio": (40.0, 230.0), "vision": (280.0, 230.0)}
_RADIUS = 29.0
_BOW = 15.0
"""How far the middle of an edge stands off the straight line: the four edges at a node are then 30 degrees apart."""

_NUMBER_AT = 0.36
"""Where along an edge its number stands: before the middle, so that the two edges of a pair never write on one another."""

_THINNEST, _PER_WEIGHT = 0.8, 26.0
"""Width of an edge: the thinnest, plus this per unit of weight; six equal edges (1/6) are then 5 wide."""


def _curve(start: tuple[float, float], end: tuple[float, float], weight: float) -> tuple[str, str, tuple[float, float]]:
    """Stroke, arrow head and the place of the number, of an edge that bows to its own left."""
    (x1, y1), (x2, y2) = start, end
    length = math.hypot(x2 - x1, y2 - y1)
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    nx, ny = uy, -ux
    cx, cy = (x1 + x2) / 2 + 2 * _BOW * nx, (y1 + y2) / 2 + 2 * _BOW * ny

    def towards(x: float, y: float, by: float) -> tuple[float, float]:
        """A point ``by`` away from (x, y) on the way to the control point."""
        distance = math.hypot(cx - x, cy - y)
        return x + (cx - x) / distance * by, y + (cy - y) / distance * by

    width = _THINNEST + _PER_WEIGHT * weight
    head = 7.0 + width
    ax, ay = towards(x1, y1, _RADIUS + 2)
    tip_x, tip_y = towards(x2, y2, _RADIUS + 2)
    base_x, base_y = towards(x2, y2, _RADIUS + 2 + head)
    dx, dy = (base_x - tip_x) / head, (base_y - tip_y) / head
    side = width / 2 + 4.0
    stroke = f"M{ax:.1f} {ay:.1f}Q{cx:.1f} {cy:.1f} {base_x:.1f} {base_y:.1f}"
    corners = ((tip_x, tip_y), (base_x - dy * side, base_y + dx * side), (base_x + dy * side, base_y - dx * side))
    arrow = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"
    a, b, c = (1 - _NUMBER_AT) ** 2, 2 * (1 - _NUMBER_AT) * _NUMBER_AT, _NUMBER_AT**2
    return stroke, arrow, (a * ax + b * cx + c * base_x, a * ay + b * cy + c * base_y)


def edge_graph(caption: str, order: Sequence[tuple[str, str]], weights: Sequence[float], samples: int) -> Markup:
    """The mean edges of one space as a graph; an arrow goes from the teacher to the student, in the teacher's colour.

    Args:
        caption: Space and graph.
        order: (student, teacher) per edge.
        weights: Normalised edges, each in [0, 1].
        samples: How many they were averaged over.
    """
    parts = []
    numbers = []
    for (student, teacher), weight in zip(order, weights, strict=True):
        stroke, arrow, (x, y) = _curve(_NODES[teacher], _NODES[student], min(1.0, max(0.0, weight)))
        said = tag("title", f"{teacher} teaches {student}: {weight:.4f}")
        width = _THINNEST + _PER_WEIGHT * min(1.0, max(0.0, weight))
        parts += [
            tag("path", said, d=stroke, stroke_width=width, class_=f"edge {teacher}"),
            tag("path", d=arrow, class_=f"arrow {teacher}"),
        ]
        numbers.append(label(x, y + 4, f"{weight:.3f}", anchor="middle", kind="halo value"))
    for name, (x, y) in _NODES.items():
        parts.append(tag("circle", cx=x, cy=y, r=_RADIUS, class_=f"node {name}"))
        parts.append(label(x, y + 4, name, anchor="middle", kind="node-name"))
    ranked = sorted(zip(weights, order, strict=True), reverse=True)
    listed = ", ".join(f"{teacher} teaches {student} {weight:.3f}" for weight, (student, teacher) in ranked)
    return figure(caption, f"{caption}, mean of {samples} samples: {listed}", 272, join(parts), join(numbers))
