"""The page in a real browser: it loads nothing, nothing overlaps or sticks out, and it prints."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest

from dmdkit.parity.stream_error import HeardError
from dmdkit.report import render
from dmdkit.report.facts import Facts, Latency
from dmdkit.runtime.manifest import StreamRecord
from tests.report.browser import Browser
from tests.report.conftest import HOSTILE
from tests.report.test_int8_section import layer, report

WIDTHS = (360, 768, 1280)

OPEN_EVERYTHING = "document.querySelectorAll('details').forEach(box => { box.open = true })"

# Boxes of the texts of one drawing that share more than a hair of area; the halo and the tooltips are no text.
OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap((drawing, n) => {
  const texts = [...drawing.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  const found = [];
  texts.forEach(([a, p], i) => texts.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && high > 2.5) found.push(`${n}: "${a}" on "${b}" by ${wide.toFixed(1)} x ${high.toFixed(1)}`);
  }));
  return found;
})
"""

# Texts that stand outside their drawing.
OUTSIDE = """
[...document.querySelectorAll('svg')].flatMap((drawing, n) => {
  const box = drawing.getBoundingClientRect();
  return [...drawing.querySelectorAll('text')]
    .map(text => [text.textContent, text.getBoundingClientRect()])
    .filter(([, p]) => p.left < box.left - 2 || p.right > box.right + 2 || p.top < box.top - 2 || p.bottom > box.bottom + 2)
    .map(([text]) => `${n}: ${text}`);
})
"""

SIZES = (
    "[...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height])"
)

# Anything that is wider than the screen and not inside a box that scrolls.
STICKING_OUT = """
[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') && e.getBoundingClientRect().width
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + ': ' + e.textContent.slice(0, 60))
"""

SMALLEST_TEXT = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"


def long_names(facts: Facts) -> Facts:
    """Every kind of figure, and names as long as they come."""
    assert facts.ledger is not None
    backend = [
        hop.model_copy(update={"target": f"{hop.target}@a-backend-with-a-very-long-name-indeed"})
        for hop in facts.hops
        if hop.source == "fusion.fp32"
    ]
    manifest = facts.manifest.model_copy(update={"name": "A_very_long_bundle_name_" * 8})
    ledger = facts.ledger.model_copy(
        update={
            "hops": [*facts.hops, *backend],
            "data": "folder/" + "x" * 200,
            "out_of_range": {"audio": 0.4},
            "stream_by_share": [HeardError(share=tenth / 10, error=1e-3 * tenth, samples=64) for tenth in range(3, 11)],
            "stream_cost": {"windows": {"mae": 0.9, "corr": None}, "streams": {"mae": 0.95, "corr": 0.5}},
        }
    )
    manifest = manifest.model_copy(update={"stream": StreamRecord(kernel=3, capacity=4, state=[], graphs={})})
    latencies = [Latency(name, "onnxruntime", 1e-3 * (index + 1)) for index, name in enumerate(facts.manifest.graphs)]
    int8 = report(layers=[layer(f"/student/{index}/" + "deep/" * 30 + "Conv", 0.1 / (index + 1)) for index in range(25)])
    return dataclasses.replace(facts, manifest=manifest, ledger=ledger, latencies=latencies, int8=int8)


@pytest.fixture(scope="module", params=["measured", "long names", "bare"])
def page(request: pytest.FixtureRequest, facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    states = {
        "measured": facts,
        "long names": long_names(facts),
        "bare": dataclasses.replace(facts, ledger=None, int8=None, latencies=[]),
    }
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(states[request.param]), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_have_size_and_nothing_overlaps_or_sticks_out(browser: Browser, page: Path, width: int):
    browser.screen(width)
    browser.open(page)
    browser.run(OPEN_EVERYTHING)
    sizes = browser.run(SIZES)
    assert sizes
    assert all(wide >= 180 and high >= 25 for wide, high in sizes), sizes
    assert browser.run(OVERLAPS) == []
    assert browser.run(OUTSIDE) == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(STICKING_OUT) == []
    assert browser.run(SMALLEST_TEXT) >= 10


def test_nothing_is_requested_and_nothing_complains(browser: Browser, page: Path):
    browser.screen(1280)
    browser.open(page)
    browser.run(OPEN_EVERYTHING)
    requested = [event["request"]["url"] for event in browser.said("Network.requestWillBeSent")]
    assert [url for url in requested if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert browser.said("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


def test_the_watch_sees_a_request_and_an_error(browser: Browser, tmp_path: Path):
    """Without this, the test above could pass because it looks at nothing."""
    page = tmp_path / "loud.html"
    page.write_text("<img src=other.png><script>console.error('heard'); missing()</script>")
    browser.open(page)
    requested = [event["request"]["url"] for event in browser.said("Network.requestWillBeSent")]
    assert (tmp_path / "other.png").as_uri() in requested
    assert browser.said("Runtime.consoleAPICalled")
    assert browser.said("Runtime.exceptionThrown")


def test_a_hostile_sample_name_does_not_run(browser: Browser, facts: Facts, tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text(render(facts), encoding="utf-8")
    browser.open(page)
    assert browser.run("document.title") == f"{facts.manifest.name}: parity report"
    assert browser.run("document.querySelectorAll('script, img').length") == 0
    shown = browser.run("document.body.textContent")
    assert HOSTILE.partition("\u202e")[0] in shown


def test_even_a_smuggled_script_is_refused_by_the_pages_own_policy(browser: Browser, facts: Facts, tmp_path: Path):
    page = tmp_path / "report.html"
    evil = "<script>document.title='run'</script><img src='https://127.0.0.1:9/x.png'></main>"
    page.write_text(render(facts).replace("</main>", evil), encoding="utf-8")
    browser.open(page)
    assert browser.run("document.title") != "run"
    assert len(browser.said("Log.entryAdded")) >= 1
    assert not [event for event in browser.said("Network.responseReceived") if "x.png" in event["response"]["url"]]


def test_dark_and_light_differ_and_both_have_contrast(browser: Browser, page: Path):
    def brightness(colour: str) -> float:
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    seen = []
    for dark in (False, True):
        browser.screen(1280, dark=dark)
        browser.open(page)
        ground = brightness(browser.run("getComputedStyle(document.querySelector('main > section')).backgroundColor"))
        for wanted in ("document.body", "document.querySelector('.note, header p')"):
            assert abs(brightness(browser.run(f"getComputedStyle({wanted}).color")) - ground) > 90
        seen.append(ground)
    assert seen[0] - seen[1] > 150
    browser.screen(1280)


def test_headings_descend_by_one_and_boxes_that_scroll_can_be_reached(browser: Browser, page: Path):
    browser.open(page)
    levels = browser.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert browser.run("[...document.querySelectorAll('.scroll')].every(b => b.tabIndex === 0 && b.ariaLabel)")
    assert browser.run("document.documentElement.lang") == "en"


def test_it_prints_on_a4_with_everything_unfolded(browser: Browser, page: Path):
    browser.screen(1280)
    browser.open(page)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 1 <= pages <= 60
    sheets = {tuple(round(float(v)) for v in box.split()) for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", printed)}
    assert sheets == {(0, 0, 595, 842)}
