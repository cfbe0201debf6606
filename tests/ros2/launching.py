"""A stand-in for ROS 2's launch, launch_ros and lifecycle_msgs: enough of them to run the package's launch files.

Arguments are keyword-only where the real ones are; a value in a dictionary of parameters is read as YAML unless its type is
given. The "process" of a lifecycle node is a function that says in which state a transition ends.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import yaml


@dataclass
class LaunchConfiguration:
    name: str


@dataclass
class PathJoinSubstitution:
    parts: list[Any]


@dataclass
class FindPackageShare:
    package: str


@dataclass
class ParameterValue:
    value: Any
    _: Any = field(default=None, repr=False)
    value_type: type | None = field(default=None, kw_only=True)


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: Any = field(default=None, kw_only=True)
    description: str = field(default="", kw_only=True)


@dataclass(kw_only=True)
class LogInfo:
    msg: str


@dataclass(kw_only=True)
class Shutdown:
    reason: str = "reason not given"


@dataclass(kw_only=True)
class ChangeState:
    lifecycle_node_matcher: Callable[[Any], bool]
    transition_id: int


@dataclass(kw_only=True)
class EmitEvent:
    event: ChangeState


@dataclass
class RegisterEventHandler:
    event_handler: OnStateTransition


@dataclass(kw_only=True)
class LifecycleNode:
    name: str
    namespace: Any
    package: str
    executable: str
    parameters: list[Any]
    output: str = "log"
    on_exit: Any = None


@dataclass(kw_only=True)
class OnStateTransition:
    entities: list[Any]
    target_lifecycle_node: LifecycleNode
    start_state: str | None = None
    goal_state: str | None = None


@dataclass(kw_only=True)
class ComposableNode:
    package: str
    plugin: str
    name: str
    namespace: Any
    parameters: list[Any]


@dataclass(kw_only=True)
class ComposableNodeContainer:
    name: str
    namespace: Any
    package: str
    executable: str
    composable_node_descriptions: list[ComposableNode]
    output: str = "log"


@dataclass
class LaunchDescription:
    entities: list[Any]


class Transition:
    TRANSITION_CONFIGURE = 1
    TRANSITION_ACTIVATE = 3


STARTS = {Transition.TRANSITION_CONFIGURE: "configuring", Transition.TRANSITION_ACTIVATE: "activating"}

MODULES = {
    "launch": [LaunchDescription],
    "launch.actions": [DeclareLaunchArgument, EmitEvent, LogInfo, RegisterEventHandler, Shutdown],
    "launch.events": [],
    "launch.substitutions": [LaunchConfiguration, PathJoinSubstitution],
    "launch_ros": [],
    "launch_ros.actions": [ComposableNodeContainer, LifecycleNode],
    "launch_ros.descriptions": [ComposableNode],
    "launch_ros.event_handlers": [OnStateTransition],
    "launch_ros.events": [],
    "launch_ros.events.lifecycle": [ChangeState],
    "launch_ros.parameter_descriptions": [ParameterValue],
    "launch_ros.substitutions": [FindPackageShare],
    "lifecycle_msgs": [],
    "lifecycle_msgs.msg": [Transition],
}


@contextmanager
def installed() -> Iterator[None]:
    modules = {}
    for name, contents in MODULES.items():
        modules[name] = ModuleType(name)
        for item in contents:
            setattr(modules[name], item.__name__, item)
    modules["launch.events"].matches_action = lambda action: lambda other: other is action
    with mock.patch.dict(sys.modules, modules):
        yield


class Launched:
    """A launch file that ran: what it started, with which parameters, what it logged, and why it ended (None: it goes on)."""

    def __init__(self, file: Path, arguments: dict[str, str], process: Callable[[str], str] = lambda start: "") -> None:
        self.arguments, self.process = dict(arguments), process
        self.started: list[Any] = []
        self.states: list[str] = []
        self.logged: list[str] = []
        self.ended: str | None = None
        self._handlers: list[OnStateTransition] = []
        with installed():
            description = runpy.run_path(str(file))["generate_launch_description"]()
            for entity in description.entities:
                self._run(entity)

    def parameters(self, node: Any) -> list[Any]:
        """Of the node, as they would reach it: paths of files, and dictionaries."""
        return [
            {name: self._value(value) for name, value in given.items()} if isinstance(given, dict) else self.text(given)
            for given in node.parameters
        ]

    def text(self, value: Any) -> str:
        if isinstance(value, LaunchConfiguration):
            return self.arguments[value.name]
        if isinstance(value, PathJoinSubstitution):
            return "/".join(map(self.text, value.parts))
        return f"share/{value.package}" if isinstance(value, FindPackageShare) else str(value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, ParameterValue):
            return self.text(value.value) if value.value_type is str else self._value(value.value)
        return yaml.safe_load(self.text(value)) if isinstance(value, LaunchConfiguration) else value

    def _run(self, entity: Any) -> None:
        if self.ended is not None:
            return
        if isinstance(entity, DeclareLaunchArgument):
            if entity.name not in self.arguments:
                if entity.default_value is None:
                    raise RuntimeError(f"Required launch argument '{entity.name}' was not provided.")
                self.arguments[entity.name] = self.text(entity.default_value)
        elif isinstance(entity, RegisterEventHandler):
            self._handlers.append(entity.event_handler)
        elif isinstance(entity, LogInfo):
            self.logged.append(entity.msg)
        elif isinstance(entity, Shutdown):
            self.ended = entity.reason
        elif isinstance(entity, EmitEvent):
            self._change(entity.event)
        elif isinstance(entity, LifecycleNode | ComposableNodeContainer):
            self.started.append(entity)
        else:
            raise TypeError(f"{entity!r} is no action")

    def _change(self, event: ChangeState) -> None:
        (node,) = [node for node in self.started if event.lifecycle_node_matcher(node)]
        start = STARTS[event.transition_id]
        goal = self.process(start)
        steps = [(start, goal)]
        if goal == "errorprocessing":
            steps.append((goal, "unconfigured"))
        for before, after in steps:
            self.states.append(after)
            for handler in self._handlers:
                matches = handler.start_state in (None, before) and handler.goal_state in (None, after)
                if handler.target_lifecycle_node is node and matches:
                    for entity in handler.entities:
                        self._run(entity)

    def exit(self, node: LifecycleNode) -> None:
        """The process of the node ended by itself."""
        if node.on_exit is not None:
            self._run(node.on_exit)
