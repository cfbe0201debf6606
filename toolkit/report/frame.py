"""What every page has around its sections: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from dmdkit.report.markup import Child, Markup, tag

__all__ = ["document"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""A browser that obeys it runs no script and makes no request, whatever a bundle or a run smuggled in."""


def document(title: str, brand: str, name: str, subtitle: str, sections: Sequence[Child]) -> str:
    """A whole page.

    Args:
        title: Of the browser's window.
        brand: What kind of page it is.
        name: Of the bundle or run.
        subtitle: A line below the name.
        sections: The content in order; None is left out.
    """
    from dmdkit import __version__

    style = Markup(files("dmdkit.report").joinpath("report.css").read_text(encoding="utf-8"))
    head = [
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    ]
    body: list[Child] = [
        tag("header", tag("p", brand, class_="brand"), tag("h1", name), tag("p", subtitle)),
        tag("main", *sections),
        tag("footer", tag("p", f"Written by dmdkit {__version__}. This page holds everything it shows and loads nothing.")),
    ]
    page = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return "<!DOCTYPE html>\n" + page + "\n"
