"""The installed package as a stranger uses it: find_package, pkg-config, the versioned library, the C example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dmdkit
from tests.conftest import ROOT

EXAMPLES = ROOT / "runtime/cpp/examples"
pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def installed(native_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a folder of its own, and moved once: nothing may remember where it was put first."""
    folder = tmp_path_factory.mktemp("opt")
    done = run("cmake", "--install", native_bin.parent, "--prefix", folder / "first")
    assert done.returncode == 0, done.stderr
    (folder / "first").rename(folder / "dmdkit")
    return folder / "dmdkit"


@pytest.fixture(scope="module")
def libraries(installed: Path) -> Path:
    return next(path.parent for path in installed.rglob("libdmdkit.so"))


def runtime_path(native_bin: Path, libraries: Path) -> str:
    return f"{libraries}:{ROOT / 'build/onnxruntime-sdk/lib'}"


def test_the_library_is_versioned_and_shows_only_its_interface(libraries: Path) -> None:
    major_minor = ".".join(dmdkit.__version__.split(".")[:2])
    names = {path.name for path in libraries.glob("libdmdkit.so*")}
    assert names == {"libdmdkit.so", f"libdmdkit.so.{major_minor}", f"libdmdkit.so.{dmdkit.__version__}"}
    dynamic = run("readelf", "-d", libraries / "libdmdkit.so").stdout
    assert f"soname: [libdmdkit.so.{major_minor}]" in dynamic
    needed = set(re.findall(r"\(NEEDED\).*\[(\S+?)\.so", dynamic))
    assert needed <= {"libstdc++", "libgcc_s", "libc", "libm", "libdl", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    shown = run("nm", "-D", "--defined-only", "--demangle", libraries / "libdmdkit.so").stdout
    symbols = [line.split(maxsplit=2)[2] for line in shown.splitlines()]
    assert symbols
    assert [name for name in symbols if not re.search(r"\bdmdkit(_|::)", name)] == []


def test_a_plug_in_shows_nothing_but_its_entry(libraries: Path) -> None:
    plug_ins = [path for path in libraries.glob("libdmdkit_*.so") if not path.is_symlink()]
    assert plug_ins
    for path in plug_ins:
        shown = run("nm", "-D", "--defined-only", path).stdout.split()
        assert shown[2:] == ["dmdkit_backend_entry"], path.name


def test_a_project_of_its_own_finds_builds_and_runs(
    installed: Path, libraries: Path, native_bin: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    configure = ("cmake", "-S", EXAMPLES / "consumer", "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={installed}")
    for command in (configure, ("cmake", "--build", tmp_path / "b")):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    done = run(tmp_path / "b/robot", tiny_bundle, LD_LIBRARY_PATH=runtime_path(native_bin, libraries))
    assert done.returncode == 0, done.stderr
    assert f"dmdkit {dmdkit.__version__} ready: fusion." in done.stdout


def test_a_component_or_version_that_is_not_there_is_said(installed: Path, tmp_path: Path) -> None:
    for wanted, words in (("COMPONENTS openvino", "openvino"), ("9.9", "9.9")):
        folder = tmp_path / wanted.replace(" ", "-")
        folder.mkdir()
        text = (
            f"cmake_minimum_required(VERSION 3.22)\nproject(x LANGUAGES CXX)\nfind_package(dmdkit {wanted} CONFIG REQUIRED)\n"
        )
        (folder / "CMakeLists.txt").write_text(text)
        done = run("cmake", "-S", folder, "-B", folder / "b", f"-DCMAKE_PREFIX_PATH={installed}")
        assert done.returncode != 0
        assert words in done.stderr


def test_the_c_example_builds_with_pkg_config(
    installed: Path, libraries: Path, native_bin: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    flags = run("pkg-config", "--cflags", "--libs", "dmdkit", PKG_CONFIG_PATH=str(libraries / "pkgconfig"))
    assert flags.returncode == 0, flags.stderr
    assert str(installed) in flags.stdout, "the package was moved and knows it"
    version = run("pkg-config", "--modversion", "dmdkit", PKG_CONFIG_PATH=str(libraries / "pkgconfig"))
    assert version.stdout.strip() == dmdkit.__version__
    program = tmp_path / "predict_once"
    source = EXAMPLES / "predict_once.c"
    done = run("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", source, "-o", program, *flags.stdout.split())
    assert done.returncode == 0, done.stderr
    done = run(program, tiny_bundle, LD_LIBRARY_PATH=runtime_path(native_bin, libraries))
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


def test_without_onnxruntime_the_loader_is_told_what_to_find(installed: Path, libraries: Path, tiny_bundle: Path) -> None:
    done = run(next(installed.rglob("dmdkit-run")), tiny_bundle, "--graph", "fp32", LD_LIBRARY_PATH=str(libraries))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ONNX Runtime's library is not found: libonnxruntime.so" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_truncated_onnxruntime_is_one_line_and_no_signal(
    installed: Path, libraries: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    whole = (ROOT / "build/onnxruntime-sdk/lib/libonnxruntime.so.1").resolve()
    broken = tmp_path / "libonnxruntime.so.1"
    for size in (whole.stat().st_size - 1, whole.stat().st_size // 2, 100, 0):
        with whole.open("rb") as source:
            broken.write_bytes(source.read(size))
        done = run(
            next(installed.rglob("dmdkit-run")), tiny_bundle, "--graph", "fp32", LD_LIBRARY_PATH=f"{libraries}:{tmp_path}"
        )
        assert (done.returncode, done.stdout) == (1, ""), size
        assert done.stderr == f"dmdkit-run: ONNX Runtime's library {broken} is damaged; install it again\n"
