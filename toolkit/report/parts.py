"""Parts that several sections share: tables, verdict marks, collapsible boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dmdkit.report.markup import Child, Markup, join, tag

__all__ = ["Section", "details", "figures", "long_text", "pill", "table"]

_SYMBOLS = {"passed": "✓", "failed": "✗", "unverified": "?"}


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        title: Its heading.
        body: What it shows; empty where there is nothing to show.
        missing: What it cannot show, and why, in sentences.
    """

    title: str
    body: Markup
    missing: list[str] = field(default_factory=list)


def pill(status: str, text: str | None = None) -> Markup:
    """A verdict with a sign of its own, so that colour is never all that tells it."""
    sign = tag("span", _SYMBOLS.get(status, ""), class_="sign", aria_hidden="true")
    return tag("span", sign, " ", text or status, class_=f"pill {status}")


def long_text(text: str) -> Markup:
    """A name of any length that may wrap anywhere."""
    return tag("span", text, class_="long")


def figures(parts: Iterable[Child], kind: str | None = None) -> Markup:
    """Figures side by side where there is room; ``kind`` is a further class of the style sheet."""
    return tag("div", *parts, class_="figures" if kind is None else f"figures {kind}")


def details(summary: Child, *body: Child, deep: bool = False) -> Markup:
    """A box that opens on a click, and is open in print unless it is ``deep``: a table of many pages."""
    return tag("details", tag("summary", summary), *body, class_="deep" if deep else None)


def table(
    caption: str,
    heads: Sequence[Child],
    rows: Sequence[Sequence[Child]],
    *,
    right: Iterable[int] = (),
    hide_caption: bool = False,
) -> Markup:
    """A table that scrolls inside its own box; the first cell of a row is its heading.

    Args:
        caption: What it holds, for screen readers and above the table.
        heads: Column headings.
        rows: Cells.
        right: Columns that hold numbers.
        hide_caption: Whether only screen readers get the caption, because a heading says the same.
    """
    numeric = set(right)

    def cell(index: int, content: Child) -> Markup:
        kind = "num" if index in numeric else None
        return tag("th", content, scope="row") if index == 0 else tag("td", content, class_=kind)

    head = join(tag("th", text, scope="col", class_="num" if i in numeric else None) for i, text in enumerate(heads))
    body = join(tag("tr", *(cell(i, content) for i, content in enumerate(row))) for row in rows)
    whole = tag(
        "table",
        tag("caption", caption, class_="unseen" if hide_caption else None),
        tag("thead", tag("tr", head)),
        tag("tbody", body),
    )
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)
