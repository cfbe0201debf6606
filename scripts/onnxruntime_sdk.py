#!/usr/bin/env python3
"""Assembles an ONNX Runtime SDK (headers and library) from the package registries, for those without a release archive.

The library comes from the PyPI wheel of the wanted version and architecture, the official headers (MIT) from the npm package
that carries them. The C API is append-only and dmdkit asks for the lowest API version it needs, so newer headers go with an
older library. Needs pip and npm, and nothing outside the standard library.

    scripts/onnxruntime_sdk.py --arch aarch64 --version 1.22.1 --out build/onnxruntime-sdk
    cmake -S . -B build/native -Donnxruntime_ROOT=$PWD/build/onnxruntime-sdk
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HEADERS_PACKAGE = "com.github.asus4.onnxruntime"
HEADERS_VERSION = "0.4.9"
HEADERS_SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
HEADERS_FOLDER = "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers/"
HEADERS = (
    "onnxruntime_c_api.h",
    "onnxruntime_ep_c_api.h",
    "onnxruntime_error_code.h",
    "onnxruntime_experimental_c_api.h",
    "onnxruntime_session_options_config_keys.h",
    "onnxruntime_run_options_config_keys.h",
)

DEFAULT_VERSION = "1.31.1"
WHEEL_SHA256 = {
    ("1.31.1", "x86_64"): "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
    ("1.31.1", "aarch64"): "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
    ("1.22.1", "x86_64"): "f6effa1299ac549a05c784d50292e3378dbbf010346ded67400193b09ddc2f04",
    ("1.22.1", "aarch64"): "7ae7526cf10f93454beb0f751e78e5cb7619e3b92f9fc3bd51aa6f3b7a8977e5",
}
"""Wheels (cp311) whose content is pinned; another version is accepted with a notice, pip's own checks then being all."""

CONFIG = """# Written by scripts/onnxruntime_sdk.py.
if(NOT TARGET onnxruntime::onnxruntime)
  get_filename_component(_onnxruntime_root "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
  add_library(onnxruntime::onnxruntime SHARED IMPORTED)
  set_target_properties(onnxruntime::onnxruntime PROPERTIES
    IMPORTED_LOCATION "${{_onnxruntime_root}}/lib/libonnxruntime.so.{version}"
    IMPORTED_SONAME "libonnxruntime.so.1"
    INTERFACE_INCLUDE_DIRECTORIES "${{_onnxruntime_root}}/include")
endif()
"""
CONFIG_VERSION = """set(PACKAGE_VERSION "{version}")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
"""


class SdkError(Exception):
    """What went wrong and what to do next."""


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    except FileNotFoundError as cause:
        raise SdkError(f"{command[0]} is not installed; install it, or use an ONNX Runtime release archive") from cause
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SdkError(f"`{' '.join(command)}` failed: {last[0] if last else f'exit {done.returncode}'}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SdkError(f"expected one {pattern}, found {len(found)}")
    return found[0]


def _check_sha256(path: Path, expected: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise SdkError(f"{path.name} has SHA-256 {digest}, expected {expected}: not the file this script was written for")


def _fetch_headers(work: Path, include: Path) -> None:
    _run(["npm", "pack", "--silent", f"{HEADERS_PACKAGE}@{HEADERS_VERSION}"], work)
    archive = _only(work, "*.tgz")
    _check_sha256(archive, HEADERS_SHA256)
    include.mkdir(parents=True)
    wanted = {HEADERS_FOLDER + name for name in HEADERS}
    with tarfile.open(archive) as stream:
        for member in stream:
            if member.name in wanted and (source := stream.extractfile(member)) is not None:
                (include / Path(member.name).name).write_bytes(source.read())
                wanted.discard(member.name)
    if wanted:
        raise SdkError(f"{archive.name} lacks {', '.join(sorted(wanted))}")


def _fetch_library(work: Path, out: Path, version: str, arch: str) -> None:
    platforms = [part for level in ("2_17", "2_27", "2_28", "2_34") for part in ("--platform", f"manylinux_{level}_{arch}")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    target = ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"]
    _run([*pip, *target, *platforms, f"onnxruntime=={version}"], work)
    wheel = _only(work, "onnxruntime-*.whl")
    pinned = WHEEL_SHA256.get((version, arch))
    if pinned is None:
        print(f"note: the wheel of {version} for {arch} is not pinned here")
    else:
        _check_sha256(wheel, pinned)
    library = f"libonnxruntime.so.{version}"
    (out / "lib").mkdir()
    with zipfile.ZipFile(wheel) as stream:
        (out / "lib" / library).write_bytes(stream.read(f"onnxruntime/capi/{library}"))
        (out / "LICENSE").write_bytes(stream.read("onnxruntime/LICENSE"))
        (out / "ThirdPartyNotices.txt").write_bytes(stream.read("onnxruntime/ThirdPartyNotices.txt"))
    (out / "lib" / library).chmod(0o755)
    (out / "lib" / "libonnxruntime.so.1").symlink_to(library)
    (out / "lib" / "libonnxruntime.so").symlink_to("libonnxruntime.so.1")


def assemble(arch: str, version: str, out: Path) -> None:
    """Writes the SDK to ``out``, whole or not at all.

    Raises:
        SdkError: A tool is missing, a download failed or a file is not the expected one.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        work, sdk = Path(name) / "work", Path(name) / "sdk"
        work.mkdir()
        sdk.mkdir(mode=0o755)
        _fetch_headers(work, sdk / "include")
        _fetch_library(work, sdk, version, arch)
        config = sdk / "lib" / "cmake" / "onnxruntime"
        config.mkdir(parents=True)
        (config / "onnxruntimeConfig.cmake").write_text(CONFIG.format(version=version), encoding="utf-8")
        (config / "onnxruntimeConfigVersion.cmake").write_text(CONFIG_VERSION.format(version=version), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        sdk.replace(out)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=("x86_64", "aarch64"), required=True, help="architecture of the library")
    parser.add_argument("--version", default=DEFAULT_VERSION, help="version of ONNX Runtime (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="directory to write; replaced if it is there")
    options = parser.parse_args()
    try:
        assemble(options.arch, options.version, options.out.absolute())
    except (SdkError, OSError, KeyError, tarfile.TarError, zipfile.BadZipFile) as cause:
        print(f"onnxruntime_sdk: {cause}", file=sys.stderr)
        return 1
    print(f"ONNX Runtime {options.version} for {options.arch}: {options.out} (use -Donnxruntime_ROOT={options.out.absolute()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
