"""What `make fuzz` starts from: every target has seeds, and a dictionary that libFuzzer takes."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.conftest import ROOT


def test_every_fuzz_target_has_seeds_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "runtime/cpp/fuzz"))
    module = importlib.import_module("seeds")
    try:
        targets = module.seeds()
        assert set(targets) == {"manifest", "engine", "safetensors", "snapshot", "tokenizer", "native"}
        for target, first in targets.items():
            assert all(first), target
            assert target in module.WORDLESS or len(module.words(first)) >= 10, target
        assert "weight=" in module.words(targets["native"])
    finally:
        for name in ("seeds", "native_seed"):
            sys.modules.pop(name, None)
