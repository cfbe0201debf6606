"""The house itself: packages, versions, documents and commands that must not drift apart."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dmdkit
from dmdkit.cli import main
from dmdkit.runtime.format_version import SCHEMA_MINOR, SCHEMA_VERSION
from tests.conftest import ROOT

PACKAGE_DIRS = {
    "toolkit": "dmdkit",
    "export": "dmdkit.export",
    "calibration": "dmdkit.calibration",
    "runtime": "dmdkit.runtime",
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_pyproject_lists_every_package_in_the_tree() -> None:
    listed = re.search(r"^packages = \[(.*?)\]", read("pyproject.toml"), re.S | re.M)
    assert listed is not None
    found = set()
    for folder, name in PACKAGE_DIRS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if "cpp" not in parts:
                found.add(".".join((name, *parts)))
    assert set(re.findall(r'"([^"]+)"', listed[1])) == found


def test_python_and_cpp_agree_on_the_schema_version() -> None:
    header = read("runtime/cpp/include/dmdkit/version.h.in")
    assert f"DMDKIT_MANIFEST_SCHEMA_VERSION {SCHEMA_VERSION}" in header
    assert f"DMDKIT_MANIFEST_SCHEMA_MINOR {SCHEMA_MINOR}" in header
    assert f"schema version {SCHEMA_VERSION}.{SCHEMA_MINOR}" in read("docs/bundle.md")


def test_readme_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    assert {"demo", "test", "check", "test-all"} <= targets
    commands = set(re.findall(r"\bdmdkit ([a-z-]+)", "\n".join(re.findall(r"```bash\n(.*?)```", read("README.md"), re.S))))
    for command in commands:
        assert main([command, "--help"]) == 0


def test_every_document_that_is_linked_exists() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("command", [["--help"], ["--version"]])
def test_the_module_is_the_command(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "dmdkit.cli", *command], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0
    assert "dmdkit" in done.stdout


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert version("dmdkit") == dmdkit.__version__


def test_no_data_from_outside_is_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    # The fixtures are of generated data: what earlier versions wrote (tests/older_files.py).
    names = [name for name in tracked.stdout.splitlines() if not name.startswith("tests/fixtures/")]
    suffixes = {Path(name).suffix for name in names}
    assert not suffixes & {".pkl", ".npz", ".safetensors", ".onnx", ".pth", ".plan"}
