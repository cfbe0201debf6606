"""The native kernels as a platform wheel (`make wheel`): tag, contents, and Python finds what is installed by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.cpp.test_aarch64 import TOOL, emulated

__all__ = ["emulated"]

WHEELS = ROOT / "build/wheel"
pytestmark = pytest.mark.slow


def wheel_for(machine: str) -> Path:
    found = sorted(WHEELS.glob(f"dmdkit_native-*-py3-none-*_{machine}.whl"))
    if not found:
        pytest.skip(f"no wheel for {machine} in build/wheel (make wheel builds it)")
    return found[-1]


@pytest.mark.parametrize(("machine", "elf"), [("x86_64", 62), ("aarch64", 183)])
def test_the_wheel_holds_one_library_for_its_machine_and_the_licence(machine: str, elf: int) -> None:
    wheel = wheel_for(machine)
    assert "manylinux" in wheel.name  # as auditwheel found it
    with zipfile.ZipFile(wheel) as archive:
        files = {
            name: archive.read(name) for name in archive.namelist() if not name.endswith("/") and ".dist-info/" not in name
        }
    assert set(files) == {"dmdkit_native/libdmdkit_native.so", "dmdkit_native/LICENSE"}
    library = files["dmdkit_native/libdmdkit_native.so"]
    assert int.from_bytes(library[18:20], "little") == elf
    assert len(library) < 1 << 20


def test_an_installed_wheel_is_found_without_an_environment_variable(tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel_for("x86_64")) as archive:
        archive.extractall(site)
    code = "from dmdkit.runtime.backends.native import library_path, native_version; print(library_path(), native_version())"
    environment = {name: value for name, value in os.environ.items() if name != "DMDKIT_NATIVE_LIBRARY"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**environment, "PYTHONPATH": str(site)}
    )
    assert done.returncode == 0, done.stderr
    assert f"{site}/dmdkit_native/libdmdkit_native.so native 1 (" in done.stdout


def test_the_wheel_for_aarch64_repeats_the_golden_samples_under_emulation(
    emulated: list[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel_for("aarch64")) as archive:
        archive.extractall(tmp_path)
    backends = tmp_path / "dmdkit_native"
    shutil.copy2(TOOL.parents[1] / "lib/libdmdkit_onnxruntime.so", backends)  # what explains
    options = ["--backend", "native", "--backend-directory", str(backends), "--graph", "fp32", "--self-check"]
    done = subprocess.run([*emulated, str(tiny_bundle), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "native 1 (neon" in done.stdout
