"""The ROS 2 package as far as it can be checked without ROS: its manifest, its messages, its CMake, its parameters.

The node's logic is a class without ROS; dmdkit's own CMake builds and tests it (runtime/ros2/dmdkit_ros/test).
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from catkin_pkg.package import Package, parse_package
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import dmdkit
from tests.conftest import ROOT

PACKAGE = ROOT / "runtime/ros2/dmdkit_ros"
MESSAGES = ("Emotion", "Explanation", "Features")
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
    assert found == {dependency.name for dependency in manifest.build_depends + manifest.buildtool_depends}
    launch = (PACKAGE / "launch/emotion.launch.py").read_text()
    imported = {
        node.module.partition(".")[0]
        for node in ast.walk(ast.parse(launch))
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
    }
    for name, message in sent.items():
        data = store.serialize_cdr(message, f"dmdkit_ros/msg/{name}")
        again = store.deserialize_cdr(data, f"dmdkit_ros/msg/{name}")
        assert again.header == header
        for field in ("text", "score", "logit_homo"):
            if hasattr(message, field):
                np.testing.assert_array_equal(getattr(again, field), getattr(message, field))


def test_the_node_uses_only_fields_that_the_messages_have(store) -> None:
    fields = {name: {field for field, _ in store.fielddefs[f"dmdkit_ros/msg/{name}"][1]} for name in MESSAGES}
    used = set(re.findall(r"\bfeatures\.(\w+)", NODE)) - {"hpp"}
    assert used <= fields["Features"]
    assert fields["Features"] <= used
    predicted, _, explained = NODE.partition("void publish_explanation")
    written = {"Emotion": predicted, "Explanation": explained.partition("void publish_diagnostics")[0]}
    for name, code in written.items():
        assert set(re.findall(r"\bout->(\w+)", code)) == fields[name]


def test_every_parameter_is_declared_documented_and_read() -> None:
    declared = set(re.findall(r'declare_parameter<[\w:]+>\("(\w+)"', NODE))
    configured = yaml.safe_load((PACKAGE / "config/emotion.yaml").read_text())["/**"]["ros__parameters"]
    assert declared == {*configured, "bundle"}  # the bundle is an argument of the launch file
    assert declared == set(re.findall(r'(?:get_parameter|positive)\("(\w+)"\)', NODE))


STUBS = {
    "ament_cmake": """
function(ament_export_dependencies)
  message(STATUS "exports ${ARGV}")
endfunction()
function(ament_package)
  message(STATUS "packaged")
endfunction()
""",
    "diagnostic_msgs": "set(diagnostic_msgs_TARGETS stub_target)",
    "std_msgs": "set(std_msgs_TARGETS stub_target)\nadd_library(stub_target INTERFACE)",
    "rclcpp": "add_library(rclcpp::rclcpp INTERFACE IMPORTED)",
    "rclcpp_components": """
add_library(rclcpp_components::component INTERFACE IMPORTED)
function(rclcpp_components_register_node target)
  if(NOT TARGET ${target})
    message(FATAL_ERROR "no target ${target}")
  endif()
  message(STATUS "registers ${ARGN}")
endfunction()
""",
    "rclcpp_lifecycle": "add_library(rclcpp_lifecycle::rclcpp_lifecycle INTERFACE IMPORTED)",
    "rosidl_default_generators": """
function(rosidl_generate_interfaces)
  foreach(word IN LISTS ARGN)
    if(word MATCHES "\\\\.msg$" AND NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${word}")
      message(FATAL_ERROR "no ${word}")
    endif()
  endforeach()
endfunction()
function(rosidl_get_typesupport_target result)
  set(${result} stub_target PARENT_SCOPE)
endfunction()
""",
    "dmdkit": "add_library(dmdkit::dmdkit INTERFACE IMPORTED)",
}


def test_cmake_reads_the_package(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    for name, text in STUBS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}Config.cmake").write_text(text)
    command = ["cmake", "-S", str(PACKAGE), "-B", str(tmp_path / "build"), f"-DCMAKE_PREFIX_PATH={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "registers PLUGIN;dmdkit_ros::EmotionNode;EXECUTABLE;emotion_main" in done.stdout
    assert "packaged" in done.stdout
    assert not done.stderr
