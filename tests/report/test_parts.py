"""Numbers, markup and figures by themselves."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmdkit.parity.evidence import ErrorHistogram
from dmdkit.report.bars import Bar, Interval, bar_chart, interval_chart
from dmdkit.report.edge_graph import edge_graph
from dmdkit.report.hop_figures import error_histogram, score_scatter
from dmdkit.report.markup import Markup, join, tag
from dmdkit.report.numbers import Axis, change, fitted, megabytes, number, percent, power, ticks
from dmdkit.report.svg import WIDTH

EDGES = [("text", "vision"), ("text", "audio"), ("vision", "text"), ("vision", "audio"), ("audio", "text"), ("audio", "vision")]


@given(st.text())
def test_text_never_becomes_markup(text: str):
    made = tag("p", text, title=text)
    assert made.count("<") == 2
    assert made.count('"') == 2
    made.encode("utf-8")


def test_markup_is_nested_and_none_is_left_out():
    inner = tag("b", "a & b")
    assert tag("p", "x < ", inner, None, class_="one", aria_label=None) == '<p class="one">x &lt; <b>a &amp; b</b></p>'
    assert isinstance(join([inner, "<"]), Markup)
    assert join([inner, "<"]) == "<b>a &amp; b</b>&lt;"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0109, "0.0109"),
        (1234.5, "1234"),
        (-2.5, "−2.50"),
        (9.54e-7, "9.5×10⁻⁷"),
        (-3e8, "−3.0×10⁸"),
        (0, "0"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float | None, shown: str):
    assert number(value) == shown


def test_changes_have_a_sign_unless_they_round_to_zero():
    assert [change(value) for value in (0.00041, -0.0008, -1e-9, 0.0, None)] == ["+0.0004", "−0.0008", "0.0000", "0.0000", "–"]


def test_shares_are_not_rounded_to_all_or_nothing():
    assert [percent(share) for share in (0, 0.0001, 0.289, 0.9999, 1)] == ["0 %", "1 %", "29 %", "99 %", "100 %"]
    assert percent(0.123, 1) == "12.3 %"


def test_sizes_and_powers():
    assert [megabytes(size) for size in (0, 9_800, 2_840_000)] == ["0.0 kB", "9.8 kB", "2.84 MB"]
    assert power(-12) == "10⁻¹²"


@given(st.text(min_size=1), st.floats(1, 500))
def test_a_fitted_name_keeps_both_ends_and_its_room(text: str, room: float):
    shown = fitted(text, room, 11)
    assert shown == text or ("…" in shown and len(shown) <= max(3, room / (11 * 0.65)) and shown[0] == text[0])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_and_inside(low: float, span: float, most: int):
    found = ticks(low, low + span, most)
    room = 1e-6 * (span + abs(low))
    assert len(found) <= max(2, most)
    assert all(low - room <= value <= low + span + room for value in found)


def test_an_axis_keeps_everything_on_it():
    assert Axis(0, 10, 5, 105).at(5) == 55
    assert Axis(0, 10, 100, 0).at(20) == 0
    assert Axis(1e-3, 1e1, 0, 40, log=True).at(1e-2) == pytest.approx(10)
    assert Axis(1e-3, 1e1, 0, 40, log=True).at(0) == 0
    assert Axis(2, 2, 7, 9).at(2) == 7


def numbers_of(drawing: str, attribute: str) -> list[float]:
    return [float(value) for value in re.findall(rf' {attribute}="(-?[0-9.e-]+)"', drawing)]


def test_the_histogram_draws_a_bar_a_bin_and_its_limit():
    histogram = ErrorHistogram(exact=3, bounds=[1e-4, 1e-3, 1e-2, 1e-1], counts=[5, 0, 2])
    drawing = error_histogram(histogram, "g", ("99 % must be below", 0.3))
    assert drawing.count('class="bar"') == 3  # exact, and the two bins that hold anything
    assert "99 % must be below 0.300" in drawing
    assert "3 samples without any error" in drawing
    heights = numbers_of(drawing, "height")
    assert max(heights) == pytest.approx(100)
    assert all(0 <= x <= WIDTH for x in numbers_of(drawing, "x"))


@pytest.mark.parametrize("limit", [None, ("99 %", 0.0), ("the largest", 1e-9), ("99 %", 1e6)])
def test_a_histogram_with_any_limit_stays_inside_the_figure(limit: tuple[str, float] | None):
    drawing = error_histogram(ErrorHistogram(exact=0, bounds=[1e-4, 1e-3], counts=[1]), "g", limit)
    assert all(0 <= x <= WIDTH for x in numbers_of(drawing, "x"))
    assert ('class="limit"' in drawing) == (limit is not None and limit[1] > 0)


def test_the_scatter_puts_equal_scores_on_the_diagonal():
    drawing = score_scatter([(-1, -1), (0, 0), (1, 1), (2, 1.5)], "before", "after")
    path = re.search(r' d="([^"]+)"', drawing)
    assert path is not None
    dots = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)", path[1])]
    assert len(dots) == 4
    on = [44 + (276 - 44) * (256 - y) / (256 - 24) for _, y in dots]
    assert [x for x, _ in dots][:3] == pytest.approx(on[:3], abs=0.1)
    assert dots[3][0] - on[3] > 10
    assert "0.500" in drawing


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(3.0, 3.0)] * 4, [(1e30, -1e30)]])
def test_a_scatter_of_anything_finite_is_drawn(points: list[tuple[float, float]]):
    assert "nan" not in score_scatter(points, "a", "b").replace("…", "")


def test_bars_are_as_long_as_their_values_and_zero_has_none():
    bars = [Bar("a", 2, "2 MB"), Bar("b", 1, "1 MB", "bar int8", mark=0.5), Bar("c", 0, "0")]
    drawing = bar_chart("Sizes", "Sizes", bars)
    widths = [float(w) for w in re.findall(r'width="([\d.]+)" height="9" class="bar', drawing)]
    assert widths == [318, 159, 0]
    assert drawing.count('class="mark"') == 1
    assert "a 2 MB; b 1 MB; c 0" in drawing


def test_an_interval_outside_its_limit_is_marked():
    rows = [Interval("in", 0.0, -0.01, 0.01), Interval("out", 0.05, 0.01, 0.09)]
    drawing = interval_chart("Change", "Change", rows, 0.02)
    assert drawing.count("interval outside") == 4
    assert 'class="band"' in drawing
    assert 'class="band"' not in interval_chart("Change", "Change", rows, None)


def test_the_edge_graph_draws_six_arrows_as_thick_as_their_weights():
    weights = [0.05, 0.1, 0.3, 0.25, 0.2, 0.1]
    drawing = edge_graph("explain.fp32", EDGES, weights, 60)
    widths = numbers_of(drawing, "stroke-width")
    assert widths == pytest.approx([0.8 + 26 * weight for weight in weights])
    assert drawing.count('class="arrow') == 6
    assert drawing.count('class="node ') == 3
    # The third edge is vision <- text: it starts at the teacher and has the teacher's colour.
    assert re.search(r"<title>text teaches vision: 0.3000</title></path>", drawing)
    assert drawing.index("text teaches vision 0.300") < drawing.index("vision teaches text 0.050")
    third = re.findall(r'<path d="M([\d.]+) ([\d.]+)Q[^"]*" stroke-width="[\d.]+" class="edge (\w+)"', drawing)[2]
    assert third[2] == "text"
    assert math.hypot(float(third[0]) - 160, float(third[1]) - 34) < 35
