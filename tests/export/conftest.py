"""A bundle with every form an engine is built from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dmdkit.cli import main


@pytest.fixture(scope="session")
def engine_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with fp32, fp16 and both INT8 forms; tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("engines") / "tiny.dmd"
    assert main(["export", str(tiny_run), "--int8", "--int8-search", "none", "--fp16", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture(scope="session")
def text_engine_bundle(text_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a text encoder; tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("engines") / "words.dmd"
    assert main(["export", str(text_run), "--int8", "--int8-search", "none", "--fp16", "--out", str(out)]) in (0, 2)
    return out


@pytest.fixture
def text_engine_copy(text_engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with an engine cache of its own."""
    monkeypatch.setenv("DMDKIT_CACHE", os.fspath(tmp_path / "cache"))
    return Path(shutil.copytree(text_engine_bundle, tmp_path / "words.dmd"))


@pytest.fixture
def engine_copy(engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle without one, with an engine cache of its own."""
    monkeypatch.setenv("DMDKIT_CACHE", os.fspath(tmp_path / "cache"))
    return Path(shutil.copytree(engine_bundle, tmp_path / "engines.dmd"))
