"""What ``dmdkit.runtime`` offers: every error it documents, and no more than a robot needs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import dmdkit.errors
import dmdkit.runtime
from dmdkit.runtime import Runtime

LOADED = """
import sys
import dmdkit.runtime
print("\\n".join(name for name in sys.modules if name.split(".")[0] == "dmdkit"))
"""


def test_every_documented_error_can_be_imported_from_the_runtime() -> None:
    documented = set()
    for name, member in inspect.getmembers(Runtime, inspect.isfunction) + inspect.getmembers(Runtime, inspect.ismethod):
        if not name.startswith("_"):
            raises = (inspect.getdoc(member) or "").partition("Raises:")[2]
            documented |= set(re.findall(r"^\s+(\w+Error):", raises, re.M))
    assert {"BundleError", "InputError", "AnswerError", "MissingDependencyError"} <= documented
    for name in documented:
        assert getattr(dmdkit.runtime, name) is getattr(dmdkit.errors, name)
        assert name in dmdkit.runtime.__all__


def test_importing_the_runtime_loads_few_modules_and_none_that_proves_or_reads_data() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert len(loaded) <= 22, sorted(loaded)
    rooms = {name.split(".")[1] for name in loaded if "." in name}
    assert not rooms & {"data", "parity", "model", "training", "calibration", "export", "report", "cli", "config"}


def test_nothing_private_is_imported_across_modules() -> None:
    from tests.conftest import ROOT

    private = re.compile(r"^\s*from dmdkit\.\S+ import (?:\([^)]*\b|.*\b)_[a-z]\w*", re.M)
    for folder in ("toolkit", "export", "calibration", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            found = private.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path}: {found[0] if found else ''}"


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    from tests.conftest import ROOT

    for folder in ("toolkit", "export", "calibration", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
