"""Starts the node, then configures and activates it: ros2 launch dmdkit_ros emotion.launch.py bundle:=/path/face.dmd."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    """The node with its parameters, brought to the active state."""
    node = LifecycleNode(
        package="dmdkit_ros",
        executable="emotion_main",
        name="emotion",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("parameters"), {"bundle": LaunchConfiguration("bundle")}],
        output="screen",
    )

    def transition(which: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=which))

    configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[transition(Transition.TRANSITION_ACTIVATE)],
    )
    defaults = PathJoinSubstitution([FindPackageShare("dmdkit_ros"), "config", "emotion.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="A bundle directory."),
            DeclareLaunchArgument("namespace", default_value=""),
            DeclareLaunchArgument("parameters", default_value=defaults, description="A YAML file of parameters."),
            RegisterEventHandler(configured),
            node,
            transition(Transition.TRANSITION_CONFIGURE),
        ]
    )
