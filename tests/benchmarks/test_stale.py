"""Measured tables name the commit they were measured at, and what became stale since is found."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.stale import RESULTS, changes_since, every_table, main
from tests.conftest import ROOT

DATE = r"\b20\d\d-\d\d-\d\d\b"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(commit: str, paths: str) -> str:
    return f"# T\n\nMeasured at `{commit}`: {paths}.\n\n| a | b |\n|---|---|\n| x | 0.5 |\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "benchmarks").mkdir()
    for name in ("code.py", "other.py", "README.md"):
        (tmp_path / name).write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    (tmp_path / RESULTS).write_text(table(git(tmp_path, "rev-parse", "--short", "HEAD"), "`code.py`"))
    return tmp_path


def commit_change(folder: Path, name: str) -> None:
    (folder / name).write_text("changed")
    git(folder, "add", name)
    git(folder, "commit", "-qm", f"Change {name}")


def test_every_measured_table_names_its_commit_and_paths_that_exist():
    known = every_table()
    without = [f"{found.file}:{found.line}" for found in known if found.measured and found.commit is None and not found.exempt]
    assert without == [], "put `Measured at` above them"
    named = [found for found in known if found.commit is not None]
    assert named
    for found in named:
        assert found.paths
        assert all((ROOT / path).exists() for path in found.paths), found


def test_every_section_of_results_has_a_command_and_a_date():
    whole = (ROOT / RESULTS).read_text(encoding="utf-8")
    sections = re.split(r"^#{2,3} ", whole, flags=re.M)[1:]
    with_tables = [section for section in sections if "|---" in section]
    assert with_tables
    parent = ""
    for section in sections:
        parent = section if f"\n## {section}" in whole else parent
        if section in with_tables and "Not measured at a commit:" not in section:
            told = section if re.search(DATE, section) else parent
            assert re.search(DATE, told), section[:200]
            assert re.search(r"`(?:dmdkit|make|python -m|cmake)\b[^`]*`", told), section[:200]


def test_measurements_stand_in_one_place():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert "Measured at `" not in document.read_text(encoding="utf-8"), f"{document.name}: move the table to {RESULTS}"


def test_a_table_is_stale_once_the_code_it_names_changed_and_not_when_other_code_did(repository: Path, capsys):
    assert main(repository) == 0
    assert f"{RESULTS}:5: measured at" in capsys.readouterr().out
    commit_change(repository, "other.py")
    assert main(repository) == 0
    commit_change(repository, "code.py")
    assert main(repository) == 2
    said = capsys.readouterr().out
    assert "STALE, 1 commits since to code.py; last:" in said
    assert "1 tables are older than the code they measure" in said


def test_a_commit_that_git_does_not_know_is_said_and_counts(repository: Path, capsys):
    (repository / RESULTS).write_text(table("0123456789abcdef", "`code.py`"))
    assert main(repository) == 2
    assert "git does not know that commit" in capsys.readouterr().out


def test_a_mark_is_of_the_next_table_only(repository: Path):
    path = repository / RESULTS
    path.write_text(path.read_text() + "\n| c | d |\n|---|---|\n| y | 0.7 |\n")
    first, second = every_table(repository)
    assert (first.measured, second.measured, second.commit) == (True, True, None)
    assert changes_since(first, repository) == []
    assert changes_since(second, repository) is None
