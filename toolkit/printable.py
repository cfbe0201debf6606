"""Text from files and users, made safe to show."""

from __future__ import annotations

__all__ = ["is_utf8", "one_line", "visible"]


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: it holds no lone surrogate, as Python makes of a file name's other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible(text: str) -> str:
    """``text`` with every character that could steer a terminal or a page written out as Python would escape it.

    Control characters, line breaks, bidirectional overrides and lone surrogates are such; letters of any script are not.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str, limit: int = 200) -> str:
    """The first ``limit`` characters of ``text`` on one line, each run of white space a space, the rest made visible."""
    return visible(" ".join(text.split())[:limit])
