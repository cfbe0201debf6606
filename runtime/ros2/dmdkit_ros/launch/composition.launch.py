"""Loads the node into a container of its own: ros2 launch dmdkit_ros composition.launch.py bundle:=/path/face.dmd.

It configures and activates itself (autostart). Whether that went well is in its log and on /diagnostics: other nodes of the
container go on.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    """A container that holds the node, to which others can be added."""
    bundle = ParameterValue(LaunchConfiguration("bundle"), value_type=str)
    node = ComposableNode(
        package="dmdkit_ros",
        plugin="dmdkit_ros::EmotionNode",
        name="emotion",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("parameters"), {"bundle": bundle, "autostart": True}],
    )
    container = ComposableNodeContainer(
        package="rclcpp_components",
        executable="component_container",
        name="emotion_container",
        namespace=LaunchConfiguration("namespace"),
        composable_node_descriptions=[node],
        output="screen",
    )
    defaults = PathJoinSubstitution([FindPackageShare("dmdkit_ros"), "config", "emotion.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="A bundle directory."),
            DeclareLaunchArgument("namespace", default_value=""),
            DeclareLaunchArgument("parameters", default_value=defaults, description="A YAML file of parameters."),
            container,
        ]
    )
