"""What streams are worth before a sample ends: the error against the share of it that was heard."""

from __future__ import annotations

from collections.abc import Sequence

from dmdkit.parity.stream_error import HeardError
from dmdkit.report.facts import Facts
from dmdkit.report.markup import Child, Markup, join, tag
from dmdkit.report.numbers import Axis, number, percent, spread, ticks
from dmdkit.report.overview import METRIC_NAMES
from dmdkit.report.parts import Section, figures, table
from dmdkit.report.svg import WIDTH, figure, label, line

__all__ = ["heard_chart", "stream_section"]

_TITLE = "Streams: before a sample ends"


def heard_chart(points: Sequence[HeardError], error: str) -> Markup:
    """The error at each share heard, with both axes named.

    Args:
        points: At least one.
        error: What is drawn upwards, in words.
    """
    height, top, bottom, left, right = 216.0, 26.0, 164.0, 56.0, WIDTH - 20
    low, high = spread([point.error for point in points])
    across, up = Axis(0, 1, left, right), Axis(max(0.0, low), high, bottom, top)
    parts: list[Child] = []
    for value in ticks(up.low, high, 4):
        parts += [line(left, up.at(value), right, up.at(value), "grid")]
        parts += [label(left - 5, up.at(value) + 4, number(value), anchor="end", kind="muted")]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [line(across.at(share), bottom, across.at(share), bottom + 4, "axis")]
        parts += [label(across.at(share), bottom + 16, f"{share:.0%}", anchor="middle", kind="muted")]
    parts.append(line(left, bottom, right, bottom, "axis"))
    places = [(across.at(point.share), up.at(point.error)) for point in points]
    path = " L ".join(f"{x:.1f} {y:.1f}" for x, y in places) + ("" if len(places) > 1 else " h 0.1")
    parts.append(tag("path", d=f"M {path}", class_="edge text", stroke_width=1.8))
    for point, (x, y) in zip(points, places, strict=True):
        said = f"{percent(point.share)} heard: {number(point.error)}, {point.samples} samples"
        parts.append(tag("circle", tag("title", said), cx=x, cy=y, r=3, class_="ring"))
    parts += [label(0, 14, f"↑ {error}", room=WIDTH - 8)]
    parts += [label(right, bottom + 38, "share of the sample's steps heard →", anchor="end")]
    first, last = points[0], points[-1]
    said = f"{error} from {number(first.error)} at {percent(first.share)} to {number(last.error)} at {percent(last.share)}"
    return figure("Error against what was heard", f"Line of the {said} of the steps heard", height, *parts)


def stream_section(facts: Facts) -> Section:
    """The figure, its table, and what a stream over a model that was trained padded costs."""
    ledger = facts.ledger
    if facts.manifest.stream is None:
        return Section(_TITLE, join([]))
    if ledger is None or not ledger.stream_by_share:
        reason = "What streams answer before a sample ends: `dmdkit check --data` measures it on samples with labels."
        return Section(_TITLE, join([]), [reason])
    classes = facts.manifest.task == "classification"
    error = "share of wrong classes" if classes else "mean absolute error"
    against = "the label of its own step" if ledger.stream_own_labels else "the label of the whole sample"
    text = (
        f"Each sample was pushed step by step. At each share of its steps stands the last answer by then, against "
        f"{against}; samples without an answer yet are left out."
    )
    rows: list[list[Child]] = [
        [percent(point.share), number(point.error, 4), str(point.samples)] for point in ledger.stream_by_share
    ]
    parts: list[Child] = [
        tag("p", text),
        figures([heard_chart(ledger.stream_by_share, error)]),
        table("Error by the share heard", ["Heard", error.capitalize(), "Samples"], rows, right=(1, 2)),
    ]
    if ledger.stream_cost:
        names = list(next(iter(ledger.stream_cost.values())))
        known = {name: [number(found.get(name), 4) for found in ledger.stream_cost.values()] for name in names}
        heads: list[Child] = ["Metric", *(f"padded {name}" if name == "windows" else name for name in ledger.stream_cost)]
        lines: list[list[Child]] = [[METRIC_NAMES.get(name, name), *values] for name, values in known.items()]
        said = "The model was trained on padded windows, and a stream computes it on the steps there are. On the same samples:"
        shown = table("What a stream over a padded model costs", heads, lines, right=range(1, len(heads)))
        parts += [tag("p", said), shown]
    return Section(_TITLE, join(parts))
