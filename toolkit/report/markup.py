"""HTML and SVG built from escaped parts: text can only become text, whatever a file or a person put into it."""

from __future__ import annotations

import html
from collections.abc import Iterable

from dmdkit.printable import visible

__all__ = ["Child", "Markup", "join", "tag"]

_VOID = frozenset({"meta", "link", "br", "hr"})


class Markup(str):
    """A string that is HTML already; only :func:`tag` and :func:`join` make one from parts."""

    __slots__ = ()


Child = str | Markup | None
"""What an element holds: text, which is escaped, or markup; None is left out."""


def _escaped(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(visible(text), quote=True)


def join(parts: Iterable[Child]) -> Markup:
    """The parts one after another."""
    return Markup("".join(_escaped(part) for part in parts if part is not None))


def _attribute(name: str, value: str | float) -> str:
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name.rstrip("_").replace("_", "-")}="{_escaped(shown)}"'


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """One element.

    Args:
        name: Its name; written by us, never from a file.
        children: Its content in order.
        attributes: A trailing underscore is dropped (``class_``), others become hyphens; None is left out. Numbers are
            written with six digits.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    return Markup(f"<{head}>") if name in _VOID else Markup(f"<{head}>{join(children)}</{name}>")
