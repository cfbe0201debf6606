"""Which tables of ``benchmarks/RESULTS.md`` are older than the code they measure: ``python -m benchmarks.stale``.

Above a table of measurements stands one line, ``Measured at `COMMIT`: `PATH`, `PATH`.``: the commit whose code was measured,
and the files and folders that decide the figures. This command asks git what changed there since.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/RESULTS.md"

_MARK = re.compile(r"^Measured at `(?P<commit>[0-9a-f]{7,40})`: (?P<paths>`[^`]+`(?:, `[^`]+`)*)\.$")
_EXEMPT = "Not measured at a commit:"
_DECIMAL = re.compile(r"\d\.\d")


@dataclass(frozen=True)
class Table:
    """A Markdown table and what it says of its origin.

    Attributes:
        file: Where it stands, relative to the repository.
        line: Of its heading row, from 1.
        heading: That row.
        measured: Whether most of its rows hold a decimal figure.
        commit: What it was measured at; None where that is not said.
        paths: What it measures.
        exempt: Whether the text above it says that no commit was measured.
    """

    file: str
    line: int
    heading: str
    measured: bool
    commit: str | None = None
    paths: tuple[str, ...] = ()
    exempt: bool = False


def tables(file: Path, root: Path = ROOT) -> Iterator[Table]:
    """The tables of a Markdown file, each with the mark between it and the table or title above."""
    lines = file.read_text(encoding="utf-8").splitlines()
    mark: re.Match[str] | None = None
    exempt = False
    for index, line in enumerate(lines):
        if line.startswith("#"):
            mark, exempt = None, False
        mark = _MARK.match(line) or mark
        exempt = exempt or line.startswith(_EXEMPT)
        if not line.startswith("|---"):
            continue
        rows = []
        for row in lines[index + 1 :]:
            if not row.startswith("|"):
                break
            rows.append(row)
        paths = tuple(re.findall(r"`([^`]+)`", mark["paths"])) if mark is not None else ()
        yield Table(
            file=str(file.relative_to(root)),
            line=index,
            heading=lines[index - 1],
            measured=2 * sum(bool(_DECIMAL.search(row)) for row in rows) > len(rows),
            commit=mark["commit"] if mark is not None else None,
            paths=paths,
            exempt=exempt,
        )
        mark, exempt = None, False


def every_table(root: Path = ROOT) -> list[Table]:
    """The tables of ``benchmarks/RESULTS.md``, where every measurement stands."""
    return list(tables(root / RESULTS, root))


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)


def changes_since(table: Table, root: Path = ROOT) -> list[str] | None:
    """Commits after the table's own that touched what it measures, newest first; None where git does not know that commit."""
    if table.commit is None or _git(root, "cat-file", "-e", f"{table.commit}^{{commit}}").returncode:
        return None
    found = _git(root, "log", "--no-merges", "--format=%h %cs %s", f"{table.commit}..HEAD", "--", *table.paths)
    return found.stdout.splitlines()


def main(root: Path = ROOT) -> int:
    """Prints a line a table; the answer is the number of tables that are older than their code, as exit code 0 or 2."""
    stale = 0
    for table in every_table(root):
        if table.commit is None:
            continue
        since = changes_since(table, root)
        where = f"{table.file}:{table.line}: measured at {table.commit}"
        if since is None:
            print(f"{where}: git does not know that commit")
        elif since:
            print(f"{where}: STALE, {len(since)} commits since to {', '.join(table.paths)}; last: {since[0]}")
        else:
            print(f"{where}: current")
        stale += since is None or bool(since)
    print(f"{stale} tables are older than the code they measure")
    return 2 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
