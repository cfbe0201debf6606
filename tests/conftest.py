"""Fixtures shared by all tests; data outside the project is looked for in one place and skipped with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("DMDKIT_SHARED", ROOT.parent / "shared"))


def shared_path(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{relative} is not here (set DMDKIT_SHARED to the folder that holds it)")
    return path


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    return shared_path("reference")


@pytest.fixture(scope="session")
def mosi_clean() -> Path:
    return shared_path("data/mosi_clean.pkl")
