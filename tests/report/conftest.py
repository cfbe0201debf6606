"""Reports of bundles in every state, and one browser for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmdkit.parity.ledger import measure, record
from dmdkit.report.facts import Facts, read_facts
from dmdkit.runtime.bundle import Bundle
from tests.conftest import tiny_dataset
from tests.report.browser import Browser, find_chromium

HOSTILE = (
    '"><script>document.title="run"</script><img src="http://127.0.0.1:9/x" onerror="document.title=1">'
    + "\u202e\x07"
    + "long" * 40
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is here to open the report with (apt-get install chromium, or set DMDKIT_CHROMIUM)")
    found = Browser(program)
    yield found
    found.close()


@pytest.fixture(scope="session")
def checked_bundle(searched_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, checked on samples of which one has a hostile name; tests must not change it."""
    bundle = Path(shutil.copytree(searched_bundle, tmp_path_factory.mktemp("report") / "tiny.dmd"))
    split = tiny_dataset().splits["test"]
    ids = list(split.ids)
    opened = Bundle.open(bundle)
    score = {}
    for name in ("fusion.fp32", "fusion.int8-cpu"):
        from dmdkit.parity.ledger import run_graph

        score[name] = run_graph(opened, name, split.features(), lambda: None)["score"]
    worst = int(np.abs(score["fusion.fp32"] - score["fusion.int8-cpu"]).max(1).argmax())
    ids[worst] = HOSTILE
    held_out = type(split)(tuple(ids), split.text, split.audio, split.vision, split.labels)
    ledger = measure(opened, split=held_out, split_name="test", source="tiny.npz", data_sha256="a" * 64)
    record(bundle, opened.manifest, ledger)
    return bundle


@pytest.fixture(scope="session")
def facts(checked_bundle: Path) -> Facts:
    return read_facts(checked_bundle)
