"""Starts the node, then configures and activates it: ros2 launch dmdkit_ros emotion.launch.py bundle:=/path/face.dmd.

If it cannot be configured, or ends, the launch ends.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, RegisterEventHandler, Shutdown
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    """The node with its parameters, brought to the active state."""
    # Always text: a bundle called 2024 would arrive as an integer.
    bundle = ParameterValue(LaunchConfiguration("bundle"), value_type=str)
    node = LifecycleNode(
        package="dmdkit_ros",
        executable="emotion_main",
        name="emotion",
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("parameters"), {"bundle": bundle}],
        output="screen",
        on_exit=Shutdown(reason="dmdkit_ros: the node ended"),
    )

    def transition(which: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=which))

    configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[transition(Transition.TRANSITION_ACTIVATE)],
    )
    failed = [("configuring", "unconfigured"), ("errorprocessing", "unconfigured"), ("errorprocessing", "finalized")]
    problem = "dmdkit_ros: the node could not be configured; its log says why"
    failures = [
        OnStateTransition(
            target_lifecycle_node=node,
            start_state=start,
            goal_state=goal,
            entities=[LogInfo(msg=problem), Shutdown(reason=problem)],
        )
        for start, goal in failed
    ]
    defaults = PathJoinSubstitution([FindPackageShare("dmdkit_ros"), "config", "emotion.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="A bundle directory."),
            DeclareLaunchArgument("namespace", default_value=""),
            DeclareLaunchArgument("parameters", default_value=defaults, description="A YAML file of parameters."),
            RegisterEventHandler(configured),
            *(RegisterEventHandler(failure) for failure in failures),
            node,
            transition(Transition.TRANSITION_CONFIGURE),
        ]
    )
