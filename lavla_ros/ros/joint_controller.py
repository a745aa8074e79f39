"""A controller of ros2_control and the measured positions of its joints, for drivers in the servo process.

It has a ROS context of its own, and nothing spins: what has arrived is taken at each tick, so that no thread of Python
takes the interpreter from the servo loop.

What is sent is safe by what the controllers document. A ``joint_trajectory_controller`` replaces its trajectory by
each message; a stamp of zero is "now"; a point without velocities ends at rest, there to be held: if the stream ends,
the joints stand at the last command. A ``forward_position_controller`` holds the last command. Names, never places, say
which joint a number is of: the controller is asked for its joints, and refused if they are others than ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_system_default
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.bringup.environment import enter_ros
from lavla_ros.control.arm import DriverError
from lavla_ros.control.gripper_options import FORWARD_POSITION, JOINT_TRAJECTORY, command_topic
from lavla_ros.ros.inputs import publishers_of
from lavla_ros.ros.joint_states import StateReader, StatesByName
from lavla_ros.ros.messages import single_point
from lavla_ros.ros.process import secured

_log = logging.getLogger(__name__)
_POLL_S = 0.005
LOOK_TICKS = 25
"""The graph is looked at once in so many ticks: whether the controller listens, and to us alone."""
_DEPTH = 32
"""Messages of several publishers that may wait for one tick."""
# Best effort hears reliable publishers too.
_INPUT_QOS = QoSProfile(depth=_DEPTH, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
_RCL_ERROR = rclpy_implementation.RCLError


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSpec:
    """One controller, where its joints' states are, and how long one waits for either."""

    controller: str
    """With its namespace."""
    kind: str
    """joint_trajectory or forward_position."""
    names: tuple[str, ...]
    """Its joints, in the order of the positions that :meth:`JointController.send` takes."""
    named: bool = False
    """A person named the joints in the controller's order: one that does not tell its joints is believed to have it."""
    reach_ns: int
    """Time that a joint_trajectory_controller is given to reach a command."""
    state_topic: str
    state_timeout_s: float
    """Older measured positions are stale."""
    arrival_stamps: bool = False
    """A measured position is as old as its arrival says, not as its stamp: for a clock that is not ours."""
    connect_timeout_s: float


class JointController:
    """Sends positions and takes states, without ever blocking once it is open. One thread at a time."""

    def __init__(self, spec: ControllerSpec, node_name: str, *, first_look: int = 0) -> None:
        """``first_look``: the graph is looked at so many ticks earlier than else: of two controllers that are
        asked in the same ticks, not both are looked for in one."""
        self.spec = spec
        self.states = StatesByName(spec.names, arrival_stamps=spec.arrival_stamps)
        self.on_new: Callable[[int], None] | None = None
        """Called with the monotonic time, ns, whenever a message told something new."""
        self._node_name = node_name
        self._context: Context | None = None
        self._node: Any = None
        self._inputs: list[Any] = []
        self._reader = StateReader(lambda raw: deserialize_message(raw, JointState))
        self._publisher: Any = None
        self._message: Any = None
        self._places: list[int] = []
        self._ticks = first_look

    @property
    def opened(self) -> bool:
        return self._context is not None

    def open(self, hear: Callable[[], None] = lambda: None) -> None:
        """Find the state of every joint and the controller, and compare its joints. Nothing is open after an error.

        ``hear``: called before anything is waited for, to :meth:`listen` to more. Raises DriverError.
        """
        if self.opened:
            return
        spec = self.spec
        try:
            enter_ros()
            with secured():
                self._context = Context()
                self._context.init(args=[])
                self._node = Node(
                    self._node_name, context=self._context, enable_rosout=False, start_parameter_services=False
                )
            self.listen(JointState, spec.state_topic, self._on_state, _INPUT_QOS, raw=True)
            hear()
            self.wait_for_states()
            self._offer()
            self.require(self.why_not_ours())
        except (DriverError, _RCL_ERROR, InvalidTopicNameException) as error:
            self.close()
            if isinstance(error, DriverError):
                raise
            raise DriverError(f"{spec.controller}: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        """Send nothing more: the controller holds the last command. Safe to call twice."""
        node, context, self._node, self._context = self._node, self._context, None, None
        self._inputs, self._publisher = [], None
        if node is not None:
            node.destroy_node()
        if context is not None:
            context.try_shutdown()

    def listen(self, kind: Any, topic: str, callback: Callable[[Any], None], qos: Any, *, raw: bool = False) -> None:
        """Have ``callback`` called by :meth:`take` with each message; ``raw``: with its bytes."""
        self._inputs.append(self._node.create_subscription(kind, topic, callback, qos, raw=raw))

    def take(self) -> None:
        """Everything that has arrived."""
        for subscription in self._inputs:
            with subscription.handle:
                for _ in range(_DEPTH):
                    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
                    if taken is None:
                        break
                    subscription.callback(taken[0])

    def until(self, reached: Callable[[], bool], why_not: Callable[[], str]) -> None:
        """Take messages until it is so. Raises DriverError, in the words of ``why_not``, if it takes too long."""
        deadline = time.monotonic() + self.spec.connect_timeout_s
        self.take()
        while not reached():
            if time.monotonic() > deadline:
                raise DriverError(why_not())
            time.sleep(_POLL_S)
            self.take()

    def wait_for_states(self) -> None:
        """Until every joint's state is known and fresh. Raises DriverError saying who publishes what instead."""
        self.until(lambda: not self._missing(self.spec.state_timeout_s), self.why_no_state)

    def send(self, positions: list[float]) -> str | None:
        """Publish one target, in the order of the names; why it could not be done, if so."""
        values = [positions[i] for i in self._places]
        if self.spec.kind == JOINT_TRAJECTORY:
            self._message.points[0].positions = values
        else:
            self._message.data = values
        try:
            self._publisher.publish(self._message)
        except _RCL_ERROR as error:
            return f"{self._publisher.topic_name} could not be published: {' '.join(str(error).split())}"
        return None

    # ---- what is wrong ----

    def problem(self, *, commanding: bool) -> str | None:
        """Why the joints cannot be relied on now, or None. To be asked once in every tick.

        ``commanding``: also why the controller would not do what we send, every now and then.
        """
        if not self.opened:
            return "not connected"
        if (stale := self.stale(self.spec.state_timeout_s)) is not None:
            return stale
        self._ticks += 1
        return self.why_not_ours() if commanding and self._ticks % LOOK_TICKS == 0 else None

    def stale(self, timeout_s: float) -> str | None:
        """Which joints nothing new was told of for longer, or None."""
        if missing := self._missing(timeout_s):
            return f"{self.spec.state_topic} has told nothing new of {', '.join(missing)} for {timeout_s:g} s"
        return None

    def why_no_state(self) -> str:
        """In words, with who publishes what instead."""
        topic = self.spec.state_topic
        publishers = [p.node for p in publishers_of(self._node, topic)]
        who = f"it is published by {', '.join(publishers)}" if publishers else "no node publishes it"
        seen = f", with the joints {sorted(self.states.seen)}" if self.states.seen else ""
        return (
            f"{topic} says nothing new of {self._missing(self.spec.state_timeout_s) or list(self.spec.names)} within "
            f"{self.spec.state_timeout_s:g} s ({who}{seen}); is joint_state_broadcaster active "
            "(ros2 control list_controllers)?"
        )

    def why_not_ours(self) -> str | None:
        """Why the controller would not do what we command, as far as the graph tells."""
        topic = self._publisher.topic_name
        if not self._publisher.get_subscription_count():
            return f"{topic} has no subscriber any more; {self._hint}"
        if self._node.count_publishers(topic) > 1:
            own = self._node.get_fully_qualified_name()
            others = [p.node for p in publishers_of(self._node, topic) if p.node != own]
            who = " and ".join(others) or f"another {self._node_name}"
            return f"{topic} is published by {who} too: one may command the arm"
        return None

    def require(self, problem: str | None) -> None:
        """Raises DriverError for a problem."""
        if problem is not None:
            raise DriverError(problem)

    def report(self) -> dict[str, int]:
        """What messages were not used, by name; only what is not 0."""
        values = {"states_unusable": self.states.unusable, "states_repeated": self.states.repeated}
        return {name: value for name, value in values.items() if value}

    # ---- inside ----

    @property
    def _hint(self) -> str:
        return f"is {self.spec.controller} loaded and active (ros2 control list_controllers)?"

    def _missing(self, timeout_s: float) -> list[str]:
        return self.states.older_than(time.monotonic_ns() - round(timeout_s * 1e9))

    def _on_state(self, raw: bytes) -> None:
        now_ns = time.monotonic_ns()
        names, positions, stamp_ns = self._reader.read(raw)
        new = self.states.take(names, positions, stamp_ns, time.time_ns(), now_ns)
        if new and self.on_new is not None:
            self.on_new(now_ns)

    def _offer(self) -> None:
        """Be a publisher for a controller that is there and has these joints. Raises DriverError."""
        spec, order = self.spec, self._order()
        self._places = [spec.names.index(name) for name in order]
        trajectory = spec.kind == JOINT_TRAJECTORY
        self._message = single_point(order, spec.reach_ns) if trajectory else Float64MultiArray()
        kind = JointTrajectory if trajectory else Float64MultiArray
        topic = command_topic(spec.kind, spec.controller)
        self._publisher = publisher = self._node.create_publisher(kind, topic, qos_profile_system_default)
        self.until(
            lambda: publisher.get_subscription_count() > 0,
            lambda: f"{publisher.topic_name} has no subscriber; {self._hint}",
        )

    def _order(self) -> tuple[str, ...]:
        """The names in the controller's order. Raises DriverError if it has others, or takes no positions."""
        spec, names = self.spec, self.spec.names
        joints = self._parameter("joints")
        if joints is None:
            if spec.kind == JOINT_TRAJECTORY or spec.named or len(names) == 1:
                _log.warning("%s does not tell its joints; taken as %s", spec.controller, list(names))
                return names
            raise DriverError(
                f"{spec.controller} does not tell its parameter joints, and takes positions by their order; "
                f"{self._hint}, or give the names in that order as arm.joints"
            )
        extra, missing = sorted(set(joints) - set(names)), sorted(set(names) - set(joints))
        partly = spec.kind == JOINT_TRAJECTORY and self._parameter("allow_partial_joints_goal") is True
        if missing or (extra and not partly):
            raise DriverError(
                f"{spec.controller} moves the joints {list(joints)}, and is to be commanded as {list(names)}: missing "
                f"there {missing}, unknown here {extra}; name them in arm.joints, or choose another controller"
            )
        interface = self._parameter("interface_name") if spec.kind == FORWARD_POSITION else None
        if interface not in (None, "", "position"):
            raise DriverError(f"{spec.controller} takes {interface!r} commands; positions would be taken for those")
        return names if spec.kind == JOINT_TRAJECTORY else tuple(joints)

    def _parameter(self, name: str) -> Any:
        """A parameter of the controller; None if it does not say."""
        timeout_s = self.spec.connect_timeout_s
        client = self._node.create_client(GetParameters, f"{self.spec.controller}/get_parameters")
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        try:
            if not client.wait_for_service(timeout_s):
                return None
            future = client.call_async(GetParameters.Request(names=[name]))
            executor.spin_until_future_complete(future, timeout_s)
            values = future.result().values if future.done() else ()
        finally:
            executor.remove_node(self._node)
            executor.shutdown()
            self._node.destroy_client(client)
        if not values:
            return None
        kinds = {
            ParameterType.PARAMETER_BOOL: "bool_value",
            ParameterType.PARAMETER_STRING: "string_value",
            ParameterType.PARAMETER_STRING_ARRAY: "string_array_value",
        }
        return getattr(values[0], kinds[values[0].type]) if values[0].type in kinds else None
