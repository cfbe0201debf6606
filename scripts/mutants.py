"""Plants faults one at a time and says which of them no test notices.

``mutants.yaml`` beside this file has the list: a file, a text that stands in it once, what takes its place, and the tests
that must fail then. Everything happens in a copy of the project in a temporary folder, so that nothing is ever left
behind here. First the tests run without a fault: they must pass.

    .venv/bin/python scripts/mutants.py [--only NAME ...] [--jobs 2]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("mutants.yaml")
FAILED = 1
"""pytest's exit status where tests ran and some failed; the others say that they could not run."""
TIMEOUT_S = 900


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: What it breaks, in a few words without spaces.
        file: Where, from the project's root.
        old: The text that is replaced; it stands in the file once.
        new: What takes its place.
        tests: pytest arguments, files or node ids, of which one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, root: Path) -> str:
        """The file's text with the fault.

        Raises:
            ValueError: The list is older than the file.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.old)} times {self.old!r}, expected once")
        return text.replace(self.old, self.new)


def read_list(path: Path = LIST) -> list[Mutant]:
    """The mutants of a list; names are unique.

    Raises:
        ValueError: Two have one name.
    """
    found = [
        Mutant(item["name"], item["file"], item["old"], item["new"], tuple(item["tests"]))
        for item in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]
    if len({mutant.name for mutant in found}) < len(found):
        raise ValueError(f"{path}: two mutants have one name")
    return found


def copy_project(root: Path, target: Path) -> None:
    """Copies what git knows and does not ignore, as it is in the working tree, and makes it importable from ``target/site``.

    The environment's editable install points to the original, so the packages are put together again by links.
    """
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode()  # noqa: S603
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    folders = dict(re.findall(r'^"?([\w.]+)"? = "(\w+)"$', _section(root / "pyproject.toml", "package-dir"), re.M))
    package = target / "site" / "dmdkit"
    package.mkdir(parents=True)
    for entry in (target / folders["dmdkit"]).iterdir():
        (package / entry.name).symlink_to(entry)
    for name, folder in folders.items():
        if name != "dmdkit":
            (package / name.removeprefix("dmdkit.")).symlink_to(target / folder)


def _section(path: Path, name: str) -> str:
    return path.read_text(encoding="utf-8").partition(f"[tool.setuptools.{name}]")[2].partition("\n[")[0]


@contextmanager
def planted(mutant: Mutant, root: Path) -> Iterator[None]:
    """The fault stands in the copy ``root`` until this ends."""
    path = root / mutant.file
    before = path.read_bytes()
    text = mutant.planted(root)
    try:
        path.write_text(text, encoding="utf-8")
        yield
    finally:
        path.write_bytes(before)


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Exit status and output of pytest in the copy ``root``; None where it does not end."""
    environment = {
        "DMDKIT_SHARED": str(ROOT.parent / "shared"),
        **os.environ,
        "PYTHONPATH": str(root / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",  # a fault may have the size and the second of what it replaces
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(root / "cache"),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu", *tests]
    try:
        ended = subprocess.run(  # noqa: S603
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None, "did not end"
    return ended.returncode, ended.stdout + ended.stderr


def _judge(mutant: Mutant, root: Path) -> tuple[bool, str]:
    """Whether the fault was noticed, and a line that says so."""
    begin = time.monotonic()
    with planted(mutant, root):
        status, said = run_tests(root, mutant.tests)
    took = f"{time.monotonic() - begin:.0f} s"
    if status in (FAILED, None):
        first = re.search(r"^FAILED (\S+)", said, re.M)
        return True, f"noticed    {mutant.name} ({took}): {first[1] if first else said.strip().splitlines()[-1]}"
    if status == 0:
        return False, f"UNNOTICED  {mutant.name} ({took}): {mutant.file}: {mutant.old!r} -> {mutant.new!r}"
    return False, f"BROKEN     {mutant.name}: the tests cannot run (pytest says {status}):\n{said[-2000:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the list; 1 where a fault goes unnoticed or the tests do not pass without one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time, each in a copy of its own (2)")
    given = parser.parse_args(arguments)
    mutants = [mutant for mutant in read_list() if given.only is None or mutant.name in given.only]
    with tempfile.TemporaryDirectory(prefix="dmdkit-mutants-") as folder:
        free: SimpleQueue[Path] = SimpleQueue()
        for number in range(given.jobs):
            copy = Path(folder) / str(number) / "dmdkit"
            copy_project(ROOT, copy)
            free.put(copy)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        whole = [test for test in tests if test.partition("::")[0] == test or test.partition("::")[0] not in tests]
        status, said = run_tests(copy, whole)
        if status != 0:
            print(f"without a fault the tests do not pass:\n{said[-4000:]}")
            return 1

        def judged(mutant: Mutant) -> bool:
            root = free.get()
            try:
                noticed, line = _judge(mutant, root)
            finally:
                free.put(root)
            print(line, flush=True)
            return noticed

        with ThreadPoolExecutor(given.jobs) as pool:
            noticed = list(pool.map(judged, mutants))
    print(f"{sum(noticed)} of {len(noticed)} faults noticed")
    return 0 if noticed and all(noticed) else 1


if __name__ == "__main__":
    sys.exit(main())
