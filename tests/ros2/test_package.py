"""The ROS 2 package as far as it can be checked without ROS: its manifest, its messages, its CMake, where it is installed.

The node itself runs against stand-ins for ROS in dmdkit's own C++ tests (runtime/ros2/stand_in, runtime/ros2/dmdkit_ros/test).
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from catkin_pkg.package import Package, parse_package
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import dmdkit
from tests.conftest import ROOT

PACKAGE = ROOT / "runtime/ros2/dmdkit_ros"
STAND_IN = ROOT / "runtime/ros2/stand_in"
INSTALLED = ROOT / "build/installed"
MESSAGES = ("Emotion", "Explanation", "Features", "Info")
NODE = (PACKAGE / "src/emotion_node.cpp").read_text()
CMAKE = (PACKAGE / "CMakeLists.txt").read_text()


@pytest.fixture(scope="module")
def manifest() -> Package:
    found: list[str] = []
    package = parse_package(PACKAGE / "package.xml", warnings=found)
    assert not found
    package.validate(warnings=found)
    assert not found
    return package


def test_the_manifest_is_valid_and_says_our_version(manifest: Package) -> None:
    assert (manifest.name, manifest.package_format) == ("dmdkit_ros", 3)
    assert manifest.version == dmdkit.__version__
    assert manifest.get_build_type() == "ament_cmake"
    assert [group.name for group in manifest.member_of_groups] == ["rosidl_interface_packages"]


def test_the_manifest_lists_what_cmake_and_the_launch_file_use(manifest: Package) -> None:
    found = set(re.findall(r"find_package\((\w+)", CMAKE)) - {"dmdkit"}  # installed by our own CMake, no ROS package
    assert "find_package(hri_msgs QUIET)" in CMAKE
    found -= {"hri_msgs"}  # used where it is there
    needed = manifest.build_depends + manifest.buildtool_depends + manifest.test_depends
    assert found == {dependency.name for dependency in needed} - {"nlohmann-json-dev"}  # headers alone, found by find_path
    imported = {
        node.module.partition(".")[0]
        for launch in (PACKAGE / "launch").glob("*.py")
        for node in ast.walk(ast.parse(launch.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    assert imported <= {dependency.name for dependency in manifest.exec_depends}


@pytest.fixture(scope="module")
def store():
    types = get_typestore(Stores.ROS2_HUMBLE)
    for name in MESSAGES:
        types.register(get_types_from_msg((PACKAGE / f"msg/{name}.msg").read_text(), f"dmdkit_ros/msg/{name}"))
    return types


def test_the_messages_survive_being_sent(store) -> None:
    kinds = {name: store.types[f"dmdkit_ros/msg/{name}"] for name in MESSAGES}
    time = store.types["builtin_interfaces/msg/Time"](sec=3, nanosec=4)
    header = store.types["std_msgs/msg/Header"](stamp=time, frame_id="face")
    features = np.arange(5, dtype=np.float32)
    empty = np.zeros(0, np.float32)
    edges = [f"{student}<-{teacher}" for student, teacher in ["lv", "la", "vl", "va", "al", "av"]]
    sent = {
        "Features": kinds["Features"](
            header, text=features, audio=empty, vision=features, text_absent=False, audio_absent=True, vision_absent=False
        ),
        "Emotion": kinds["Emotion"](
            header, score=features[:1], latency_ms=1.5, deadline_missed=True, out_of_range=np.zeros(3, np.float32)
        ),
        "Explanation": kinds["Explanation"](
            header,
            modality_order=["text", "vision", "audio"],
            logit_homo=features[:3],
            logit_hetero=features[:3],
            edge_order=edges,
            edges_homo=empty,
            edges_hetero=empty,
        ),
        "Info": kinds["Info"](
            bundle="/face.dmd",
            name="face",
            task="regression",
            outputs=1,
            label_range=np.array([-3, 3], np.float32),
            labels=[],
            modality_order=["text", "audio", "vision"],
            steps=np.array([50, 50, 50], np.uint32),
            features=np.array([768, 5, 20], np.uint32),
            may_be_absent=np.array([False, True, True]),
            edge_order=edges,
            graph="fusion.fp32",
            backend="onnxruntime 1.31.1",
        ),
    }
    for name, message in sent.items():
        data = store.serialize_cdr(message, f"dmdkit_ros/msg/{name}")
        again = store.deserialize_cdr(data, f"dmdkit_ros/msg/{name}")
        assert getattr(again, "header", header) == header
        for field in ("text", "score", "logit_homo", "steps"):
            if hasattr(message, field):
                np.testing.assert_array_equal(getattr(again, field), getattr(message, field))


def test_the_node_fills_every_field_of_its_messages(store) -> None:
    fields = {name: {field for field, _ in store.fielddefs[f"dmdkit_ros/msg/{name}"][1]} for name in MESSAGES}
    used = set(re.findall(r"\bfeatures\.(\w+)", NODE)) - {"hpp"}
    assert used == fields["Features"]
    functions = re.split(r"\n  (?=void \w+\()", NODE)
    for name in ("Emotion", "Explanation", "Info"):
        (code,) = [text for text in functions if f"std::make_unique<msg::{name}>" in text]
        assert set(re.findall(r"\bout->(\w+)", code)) == fields[name]


def packages_found_by_colcon(base: Path) -> list[str]:
    """What colcon's crawl finds: it goes no deeper than a marker or a package."""
    if (base / "COLCON_IGNORE").exists():
        return []
    if any((base / name).exists() for name in ("package.xml", "CMakeLists.txt", "setup.py", "pyproject.toml")):
        return [base.name]
    return [name for folder in sorted(base.iterdir()) if folder.is_dir() for name in packages_found_by_colcon(folder)]


def test_colcon_finds_the_package_where_the_readme_says_and_nothing_at_the_root() -> None:
    assert packages_found_by_colcon(ROOT) == []
    (base,) = set(re.findall(r"--base-paths src/dmdkit/([\w/]+)", (PACKAGE / "README.md").read_text()))
    assert packages_found_by_colcon(ROOT / base) == ["dmdkit_ros"]


def test_the_package_carries_its_licence_and_its_changes(manifest: Package) -> None:
    assert (PACKAGE / manifest.licenses[0].file).read_text() == (ROOT / "LICENSE").read_text()
    assert "Changelog for package dmdkit_ros" in (PACKAGE / "CHANGELOG.rst").read_text()


def cmake(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    return subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """Stand-ins for ROS's packages with a dmdkit of which only the name exists."""
    (tmp_path / "prefix/dmdkit").mkdir(parents=True)
    (tmp_path / "prefix/dmdkit/dmdkitConfig.cmake").write_text(
        "add_library(dmdkit::dmdkit SHARED IMPORTED)\n"
        "set_target_properties(dmdkit::dmdkit PROPERTIES IMPORTED_LOCATION /nowhere/libdmdkit.so)\n"
    )
    return tmp_path / "prefix"


def test_cmake_reads_the_package(stand_ins: Path, tmp_path: Path) -> None:
    done = cmake("-S", PACKAGE, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={stand_ins};{STAND_IN / 'cmake'}")
    assert done.returncode == 0, done.stderr
    assert "registers dmdkit_ros::EmotionNode of dmdkit_ros_node as emotion_main" in done.stdout
    assert "packaged" in done.stdout
    assert not done.stderr


def test_a_package_without_c_is_refused_as_the_message_generators_refuse_it(stand_ins: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(PACKAGE, package)
    (package / "CMakeLists.txt").write_text(CMAKE.replace("LANGUAGES C CXX", "LANGUAGES CXX"))
    done = cmake("-S", package, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={stand_ins};{STAND_IN / 'cmake'}")
    assert done.returncode != 0
    assert "can not determine linker language" in done.stderr


@pytest.mark.slow
def test_the_installed_node_finds_dmdkit_and_its_tests_pass(tmp_path: Path) -> None:
    if not (INSTALLED / "lib/libdmdkit.so").exists():
        pytest.skip("build/installed is missing; run make native")
    build, prefix = tmp_path / "build", tmp_path / "install"
    done = cmake(
        "-S", PACKAGE, "-B", build, f"-DCMAKE_PREFIX_PATH={INSTALLED};{STAND_IN / 'cmake'}", "-DCMAKE_BUILD_TYPE=Debug"
    )
    assert done.returncode == 0, done.stderr
    done = cmake("--build", build, "--parallel", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr
    assert cmake("--install", build, "--prefix", prefix).returncode == 0
    # As after ROS's setup file, which names the package's own library folder and not dmdkit's.
    environment = {**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")}
    command = [str(prefix / "lib/dmdkit_ros/emotion_main")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["ctest", "--test-dir", str(build), "--output-on-failure"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "out of 2" in done.stdout
