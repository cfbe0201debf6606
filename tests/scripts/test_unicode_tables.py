"""The tokenizer's Unicode tables are what their script writes, from today's tokenizers library."""

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("tokenizers", reason="the extra tokens is not installed")
pytestmark = pytest.mark.slow


def without_comments(text: str) -> str:
    """The tables alone: the comments say which version of Python's unicodedata they were compared with."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("//"))


def test_the_tables_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import unicode_tables

    found = unicode_tables.files()
    assert set(found) == {path.name for path in Path(unicode_tables.FOLDER).glob("*.inc")}
    for name, content in found.items():
        kept = (unicode_tables.FOLDER / name).read_text()
        assert without_comments(kept) == without_comments(content), f"{name}: run python scripts/unicode_tables.py"
        assert "Unicode " in kept.splitlines()[1]
    sys.modules.pop("unicode_tables")
