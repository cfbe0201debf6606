"""Measured tables name the commit they were measured at, and what became stale since is found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.stale import changes_since, every_table, main
from tests.conftest import ROOT

MEASUREMENTS = {"README.md", *(f"docs/{name}.md" for name in ("accuracy", "performance", "int8", "text", "data"))}
"""Pages whose tables of decimals are measurements; elsewhere they may be versions."""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(commit: str, paths: str) -> str:
    return f"# T\n\nMeasured at `{commit}`: {paths}.\n\n| a | b |\n|---|---|\n| x | 0.5 |\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    for name in ("code.py", "other.py", "README.md"):
        (tmp_path / name).write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    (tmp_path / "docs/speed.md").write_text(table(git(tmp_path, "rev-parse", "--short", "HEAD"), "`code.py`"))
    return tmp_path


def commit_change(folder: Path, name: str) -> None:
    (folder / name).write_text("changed")
    git(folder, "add", name)
    git(folder, "commit", "-qm", f"Change {name}")


def test_every_measured_table_names_its_commit_and_paths_that_exist():
    known = every_table()
    without = [f"{found.file}:{found.line}" for found in known if found.measured and found.commit is None and not found.exempt]
    assert [place for place in without if place.partition(":")[0] in MEASUREMENTS] == [], "put `Measured at` above them"
    named = [found for found in known if found.commit is not None]
    assert {found.file for found in named} >= MEASUREMENTS - {"README.md"}
    for found in named:
        assert found.paths
        assert all((ROOT / path).exists() for path in found.paths), found


def test_a_table_is_stale_once_the_code_it_names_changed_and_not_when_other_code_did(repository: Path, capsys):
    assert main(repository) == 0
    assert "docs/speed.md:5: measured at" in capsys.readouterr().out
    commit_change(repository, "other.py")
    assert main(repository) == 0
    commit_change(repository, "code.py")
    assert main(repository) == 2
    said = capsys.readouterr().out
    assert "STALE, 1 commits since to code.py; last:" in said
    assert "1 tables are older than the code they measure" in said


def test_a_commit_that_git_does_not_know_is_said_and_counts(repository: Path, capsys):
    (repository / "docs/speed.md").write_text(table("0123456789abcdef", "`code.py`"))
    assert main(repository) == 2
    assert "git does not know that commit" in capsys.readouterr().out


def test_a_mark_is_of_the_next_table_only(repository: Path):
    path = repository / "docs/speed.md"
    path.write_text(path.read_text() + "\n| c | d |\n|---|---|\n| y | 0.7 |\n")
    first, second = every_table(repository)
    assert (first.measured, second.measured, second.commit) == (True, True, None)
    assert changes_since(first, repository) == []
    assert changes_since(second, repository) is None
