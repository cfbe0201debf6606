"""The list of faults fits the sources, and planting them leaves the project as it was."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def mutants() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts/mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["mutants"]


def test_every_fault_can_be_planted_and_names_tests_that_exist(mutants: ModuleType) -> None:
    found = mutants.read_list()
    assert len(found) >= 22
    for mutant in found:
        assert mutant.planted(ROOT) != (ROOT / mutant.file).read_text()
        compile(mutant.planted(ROOT), mutant.file, "exec")
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            file, _, function = test.partition("::")
            assert f"def {function.partition('[')[0]}" in (ROOT / file).read_text(), test


def project(folder: Path) -> Path:
    """A project of one module and one test that notices one of two faults."""
    files = {
        "pyproject.toml": '[tool.pytest.ini_options]\nmarkers = ["slow", "gpu"]\n\n'
        '[tool.setuptools.package-dir]\ndmdkit = "toolkit"\n"dmdkit.part" = "part"\n\n[tool.other]\nx = "y"\n',
        "toolkit/__init__.py": "",
        "part/__init__.py": "def twice(x):\n    return 2 * x\n\n\ndef never_called():\n    return 3\n",
        "test_part.py": "from dmdkit.part import twice\n\n\ndef test_twice():\n    assert twice(2) == 4\n",
        "ignored/big": "x",
        ".gitignore": "ignored\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.fixture
def small(tmp_path: Path, mutants: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = project(tmp_path / "small")
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutants, "read_list", lambda: _list(mutants))
    return root


def _list(mutants: ModuleType) -> list[object]:
    return [
        mutants.Mutant("seen", "part/__init__.py", "2 * x", "3 * x", ("test_part.py",)),
        mutants.Mutant("unseen", "part/__init__.py", "return 3", "return 4", ("test_part.py",)),
    ]


def test_noticed_and_unnoticed_faults_are_told_apart_and_nothing_changes_here(
    small: Path, mutants: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file() and ".git" not in path.parts}
    assert mutants.main(["--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert "noticed    seen" in said
    assert "UNNOTICED  unseen" in said
    assert "1 of 2 faults noticed" in said
    assert mutants.main(["--jobs", "1", "--only", "seen"]) == 0
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file() and ".git" not in path.parts} == before


def test_tests_that_fail_or_cannot_run_without_a_fault_prove_nothing(
    small: Path, mutants: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "test_part.py").write_text("def test_wrong():\n    assert False\n")
    assert mutants.main(["--jobs", "1"]) == 1
    assert "without a fault the tests do not pass" in capsys.readouterr().out


def test_the_file_is_whole_again_whatever_happens_while_the_fault_stands(small: Path, mutants: ModuleType) -> None:
    (mutant, _), path = _list(mutants), small / "part/__init__.py"
    before = path.read_bytes()

    class StoppedError(Exception):
        pass

    def stop() -> None:
        with mutants.planted(mutant, small):
            assert b"3 * x" in path.read_bytes()
            raise StoppedError

    with pytest.raises(StoppedError):
        stop()
    assert path.read_bytes() == before


def test_a_list_older_than_its_file_is_refused(small: Path, mutants: ModuleType) -> None:
    old = mutants.Mutant("gone", "part/__init__.py", "5 * x", "6 * x", ("test_part.py",))
    with pytest.raises(ValueError, match="expected once"):
        old.planted(small)
