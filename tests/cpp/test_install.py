"""The installed package as a stranger uses it: find_package, pkg-config, the versioned library, the C example."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import dmdkit
from tests.conftest import ROOT
from tests.older_files import BUNDLES, inputs_of

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


@pytest.fixture(scope="module")
def without_onnxruntime(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same where ONNX Runtime was left out."""
    folder = tmp_path_factory.mktemp("bare") / "dmdkit"
    shutil.copytree(installed, folder, symlinks=True)
    for path in folder.rglob("libonnxruntime.so*"):
        path.unlink()
    return folder


FEATURES = BUNDLES / "features"


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


def built(source: Path, build: Path, installed: Path) -> Path:
    for command in (("cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={installed}"), ("cmake", "--build", build)):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return build


def test_a_project_of_its_own_finds_builds_and_runs_with_no_environment_variable(installed: Path, tmp_path: Path) -> None:
    program = built(EXAMPLES / "consumer", tmp_path / "b", installed) / "robot"
    done = subprocess.run([program, FEATURES, "fp32"], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"dmdkit {dmdkit.__version__} ready: fusion.fp32\n"


def test_onnxruntime_comes_with_its_licences(installed: Path, libraries: Path) -> None:
    assert (libraries / "libonnxruntime.so.1").is_file()
    found = {str(path.relative_to(installed)) for path in (installed / "share/doc").rglob("*") if path.is_file()}
    assert {f"share/doc/dmdkit/onnxruntime/{name}" for name in ("LICENSE", "ThirdPartyNotices.txt")} < found
    assert "share/doc/dmdkit/LICENSE" in found


def test_onnxruntime_can_be_left_out(native_bin: Path, tmp_path: Path) -> None:
    options = ("TOOLS", "EXAMPLES", "TESTS", "TENSORRT")
    configure = [f"-DDMDKIT_BUILD_{name}=OFF" for name in options] + ["-DDMDKIT_INSTALL_ONNXRUNTIME=OFF"]
    root = f"-Donnxruntime_ROOT={ROOT / 'build/onnxruntime-sdk'}"
    done = run("cmake", "-S", ROOT, "-B", tmp_path / "b", root, *configure)
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "b/runtime/cpp/cmake_install.cmake").read_text()
    assert "libdmdkit_onnxruntime.so" in script
    assert "libonnxruntime.so.1" not in script
    with_it = (native_bin.parent / "runtime/cpp/cmake_install.cmake").read_text()
    assert "libonnxruntime.so.1" in with_it


def test_a_plug_in_outside_the_tree_builds_against_the_installed_header(installed: Path, tmp_path: Path) -> None:
    plug_in = built(ROOT / "tests/cpp/plugin", tmp_path / "b", installed)
    inputs = tmp_path / "inputs.safetensors"
    save_file(inputs_of("features"), inputs)
    command = (next(installed.rglob("dmdkit-run")), FEATURES, "--graph", "fp32", "--input", inputs)
    done = run(*command, "--backend", "constant", "--backend-directory", plug_in)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["backend"] == "constant 1"
    assert answer["score"]["values"] == [0.25] * 8


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


def test_the_c_example_builds_with_pkg_config(installed: Path, libraries: Path, tiny_bundle: Path, tmp_path: Path) -> None:
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
    done = run(program, tiny_bundle, LD_LIBRARY_PATH=str(libraries))
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


def test_without_onnxruntime_the_two_ways_to_mend_it_are_said(without_onnxruntime: Path) -> None:
    program = next(without_onnxruntime.rglob("dmdkit-run"))
    libraries = next(path.parent for path in without_onnxruntime.rglob("libdmdkit.so"))
    done = run(program, FEATURES, "--graph", "fp32", LD_LIBRARY_PATH=str(libraries))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ONNX Runtime's library is not found: libonnxruntime.so" in done.stderr
    assert "put libonnxruntime.so.1 beside libdmdkit_onnxruntime.so" in done.stderr
    assert "or name its folder in LD_LIBRARY_PATH" in done.stderr
    assert done.stderr.count("\n") == 1
    sdk = ROOT / "build/onnxruntime-sdk/lib"
    assert run(program, FEATURES, "--graph", "fp32", LD_LIBRARY_PATH=f"{libraries}:{sdk}").returncode == 0
    shutil.copy(sdk / "libonnxruntime.so.1", libraries)
    assert run(program, FEATURES, "--graph", "fp32", LD_LIBRARY_PATH=str(libraries)).returncode == 0
    (libraries / "libonnxruntime.so.1").unlink()


def test_a_truncated_onnxruntime_is_one_line_and_no_signal(without_onnxruntime: Path, tmp_path: Path) -> None:
    program = next(without_onnxruntime.rglob("dmdkit-run"))
    libraries = next(path.parent for path in without_onnxruntime.rglob("libdmdkit.so"))
    whole = (ROOT / "build/onnxruntime-sdk/lib/libonnxruntime.so.1").resolve()
    broken = tmp_path / "libonnxruntime.so.1"
    for size in (whole.stat().st_size - 1, whole.stat().st_size // 2, 100, 0):
        with whole.open("rb") as source:
            broken.write_bytes(source.read(size))
        done = run(program, FEATURES, "--graph", "fp32", LD_LIBRARY_PATH=f"{libraries}:{tmp_path}")
        assert (done.returncode, done.stdout) == (1, ""), size
        assert done.stderr == f"dmdkit-run: ONNX Runtime's library {broken} is damaged; install it again\n"
