"""The two figures of a hop: how its errors are spread, and its scores before against after."""

from __future__ import annotations

import math

from dmdkit.parity.evidence import ErrorHistogram
from dmdkit.report.markup import Markup, join, tag
from dmdkit.report.numbers import Axis, number, power, spread, text_width, ticks
from dmdkit.report.svg import FONT, WIDTH, figure, label, line, rect

__all__ = ["error_histogram", "score_scatter"]

_LEFT, _RIGHT = 34.0, WIDTH - 8
_MOST_DECADE_LABELS = 6


def _decades(axis: Axis, bottom: float) -> Markup:
    """Marks and names of powers of ten, as many as there is room for."""
    first, last = math.ceil(math.log10(axis.low) - 1e-6), math.floor(math.log10(axis.high) + 1e-6)
    step = max(1, math.ceil((last - first + 1) / _MOST_DECADE_LABELS))
    parts = []
    for exponent in range(first, last + 1, step):
        x = axis.at(10.0**exponent)
        parts += [line(x, bottom, x, bottom + 4, "axis")]
        parts += [label(min(x, WIDTH - 14), bottom + 16, power(exponent), anchor="middle", kind="muted")]
    return join(parts)


def _counts(axis: Axis, high: float, right: float) -> Markup:
    """Grid lines at round counts."""
    marks = [value for value in ticks(0, high, 4) if value == int(value)]
    return join(
        part
        for value in marks
        for part in (
            line(_LEFT, axis.at(value), right, axis.at(value), "grid"),
            label(_LEFT - 5, axis.at(value) + 4, str(int(value)), anchor="end", kind="muted"),
        )
    )


def error_histogram(histogram: ErrorHistogram, name: str, limit: tuple[str, float] | None) -> Markup:
    """How many samples err by how much, on a logarithmic axis, with the limit the verdict rests on.

    Args:
        histogram: With at least one sample that errs.
        name: The graph whose errors these are.
        limit: What the bound says, in words, and the bound, in the errors' unit; None where errors are not limited.
    """
    height, top, bottom = 178.0, 32.0, 132.0
    low, high = histogram.bounds[0], histogram.bounds[-1]
    shown = limit if limit is not None and limit[1] > 0 else None
    if shown is not None:
        low, high = min(low, shown[1] / 2), max(high, shown[1] * 2)
    slot = 24.0 if histogram.exact else 0.0  # exact zeros have no place on a logarithmic axis
    across = Axis(low, high, _LEFT + slot + (8 if slot else 0), _RIGHT, log=True)
    most = max([*histogram.counts, histogram.exact, 1])
    up = Axis(0, most, bottom, top)
    bars = []
    for index, count in enumerate(histogram.counts):
        x1, x2 = across.at(histogram.bounds[index]), across.at(histogram.bounds[index + 1])
        said = f"{count} samples err by {number(histogram.bounds[index])} to {number(histogram.bounds[index + 1])}"
        bars.append(rect(x1 + 0.5, up.at(count), x2 - x1 - 1, bottom - up.at(count), "bar", said) if count else None)
    if slot:
        said = f"{histogram.exact} samples without any error"
        bars.append(rect(_LEFT + 3, up.at(histogram.exact), slot - 6, bottom - up.at(histogram.exact), "bar", said))
        bars.append(label(_LEFT + slot / 2, bottom + 16, "0", anchor="middle", kind="muted"))
    limit_marks = []
    if shown is not None:
        x, said = across.at(shown[1]), f"{shown[0]} {number(shown[1])}"
        half = text_width(said, FONT) / 2
        limit_marks = [line(x, top - 8, x, bottom, "limit")]
        limit_marks += [label(min(max(x, half), WIDTH - half), top - 13, said, anchor="middle", kind="limit-name")]
    samples = sum(histogram.counts) + histogram.exact
    return figure(
        "Errors of single samples",
        f"Histogram of the absolute errors of {name} on {samples} samples, from {number(histogram.bounds[0])} to "
        f"{number(histogram.bounds[-1])}" + (f"; {shown[0]} {number(shown[1])}" if shown else ""),
        height,
        _counts(up, most, _RIGHT),
        join(bars),
        line(_LEFT, bottom, _RIGHT, bottom, "axis"),
        _decades(across, bottom),
        join(limit_marks),
        label((_LEFT + _RIGHT) / 2, bottom + 36, "absolute error of the score (samples upwards)", anchor="middle"),
    )


def score_scatter(points: list[tuple[float, float]], before: str, after: str) -> Markup:
    """Scores after a hop against those before it; without error every point lies on the diagonal.

    Args:
        points: (before, after), at least one.
        before: The version across.
        after: The version upwards.
    """
    height, top, bottom, left, right = 300.0, 24.0, 256.0, 44.0, 276.0
    low, high = spread([value for point in points for value in point])
    across, up = Axis(low, high, left, right), Axis(low, high, bottom, top)
    grid = []
    for value in ticks(low, high, 5):
        grid += [line(across.at(value), top, across.at(value), bottom, "grid")]
        grid += [line(left, up.at(value), right, up.at(value), "grid")]
        grid += [label(across.at(value), bottom + 15, number(value, 2), anchor="middle", kind="muted")]
        grid += [label(left - 5, up.at(value) + 4, number(value, 2), anchor="end", kind="muted")]
    dots = "".join(f"M{across.at(x):.4g} {up.at(y):.4g}h.01" for x, y in points)
    worst = max(points, key=lambda point: abs(point[1] - point[0]))
    error = abs(worst[1] - worst[0])
    said = f"The largest error, {number(error)}: {number(worst[0])} became {number(worst[1])}"
    ring = tag("circle", tag("title", said), cx=across.at(worst[0]), cy=up.at(worst[1]), r=6, class_="ring")
    return figure(
        "Score before and after",
        f"Scatter of {len(points)} scores of {after} against those of {before}, from {number(low)} to {number(high)}; "
        f"the largest distance from the diagonal is {number(error)}",
        height,
        join(grid),
        line(across.at(low), up.at(low), across.at(high), up.at(high), "diagonal"),
        tag("path", d=dots, class_="dots"),
        ring,
        label(left, 14, f"↑ {after}", room=WIDTH - left - 8),
        label(right, bottom + 34, f"{before} →", anchor="end", room=right - 8),
        note="The ring marks the largest error; on the dashed line nothing changed.",
    )
