"""What the package's launch files start, with a stand-in for launch (tests/ros2/launching.py)."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.ros2.launching import Launched

LAUNCH = ROOT / "runtime/ros2/dmdkit_ros/launch"
HEALTHY = {"configuring": "inactive", "activating": "active"}


def test_the_node_is_configured_and_then_activated() -> None:
    launched = Launched(LAUNCH / "emotion.launch.py", {"bundle": "/path/face.dmd"}, HEALTHY.__getitem__)
    assert launched.states == ["inactive", "active"]
    assert launched.ended is None
    (node,) = launched.started
    assert launched.parameters(node) == ["share/dmdkit_ros/config/emotion.yaml", {"bundle": "/path/face.dmd"}]


@pytest.mark.parametrize("goal", ["unconfigured", "errorprocessing"])
def test_the_launch_ends_and_says_so_when_the_node_cannot_be_configured(goal: str) -> None:
    launched = Launched(LAUNCH / "emotion.launch.py", {"bundle": "/nowhere"}, {"configuring": goal}.__getitem__)
    assert launched.ended is not None
    assert "could not be configured" in launched.ended
    assert launched.logged == [launched.ended]
    assert launched.states[-1] == "unconfigured"


def test_the_launch_ends_with_the_node() -> None:
    launched = Launched(LAUNCH / "emotion.launch.py", {"bundle": "/path/face.dmd"}, HEALTHY.__getitem__)
    launched.exit(launched.started[0])
    assert launched.ended is not None


def test_the_bundle_is_required_and_always_text() -> None:
    for file in LAUNCH.glob("*.launch.py"):
        with pytest.raises(RuntimeError, match="'bundle' was not provided"):
            Launched(file, {})
    launched = Launched(LAUNCH / "emotion.launch.py", {"bundle": "2024"}, HEALTHY.__getitem__)
    assert launched.parameters(launched.started[0])[1] == {"bundle": "2024"}
    container = Launched(LAUNCH / "composition.launch.py", {"bundle": "2024"}).started[0]
    (node,) = container.composable_node_descriptions
    assert Launched(LAUNCH / "composition.launch.py", {"bundle": "2024"}).parameters(node)[1]["bundle"] == "2024"


def test_the_container_holds_the_registered_component_which_starts_itself() -> None:
    launched = Launched(LAUNCH / "composition.launch.py", {"bundle": "/path/face.dmd", "namespace": "/robot"})
    (container,) = launched.started
    assert (container.package, container.executable) == ("rclcpp_components", "component_container")
    (node,) = container.composable_node_descriptions
    source = (ROOT / "runtime/ros2/dmdkit_ros/src/emotion_node.cpp").read_text()
    assert re.findall(r"RCLCPP_COMPONENTS_REGISTER_NODE\((.+)\)", source) == [node.plugin]
    assert launched.parameters(node)[1] == {"bundle": "/path/face.dmd", "autostart": True}
    assert launched.text(node.namespace) == "/robot"
