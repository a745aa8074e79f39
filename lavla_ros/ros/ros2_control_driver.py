"""A ros2_control arm behind the control layer's ``ArmDriver`` protocol.

This runs in the servo process. It has a ROS context of its own, and nothing spins: what has arrived is taken at each
tick, so that no thread of Python takes the interpreter from the servo loop.

What is sent is safe by what the controllers document. A ``joint_trajectory_controller`` replaces its trajectory by
each message; a stamp of zero is "now"; a point without velocities ends at rest, there to be held: if the stream ends,
the arm stands at the last command. A ``forward_position_controller`` holds the last command. Names, never places, say
which joint a number is of: the controller is asked for its joints, and refused if they are others than ours.

Neither controller tells on a topic of the common messages whether it is active or gave a trajectory up (a tolerance,
an emergency stop). Both show in the arm not following: the executor's tracking error is the fault then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_system_default
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.bringup.environment import enter_ros
from lavla_ros.control.arm import ArmState, DriverError
from lavla_ros.ros.inputs import publishers_of
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.messages import single_point
from lavla_ros.ros.process import secured
from lavla_ros.ros.ros2_control_options import FORWARD_POSITION, JOINT_TRAJECTORY, NONE, Ros2ControlOptions
from lavla_ros.ros.ros2_control_state import StatesByName
from lavla_ros.typing import FloatArray

_log = logging.getLogger(__name__)
_STILL_FOR_S = 0.1
_APART_NS = 4_000_000
_POLL_S = 0.005
_LOOK_TICKS = 25
"""The graph is looked at once in so many ticks: whether the controller listens, and to us alone."""
_DEPTH = 32
"""Messages of several publishers that may wait for one tick."""
# Best effort hears reliable publishers too.
_INPUT_QOS = QoSProfile(depth=_DEPTH, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
_RCL_ERROR = rclpy_implementation.RCLError


class Ros2ControlDriver:
    """Implements :class:`lavla_ros.control.arm.ArmDriver`. One thread at a time."""

    def __init__(self, options: Ros2ControlOptions, names: Sequence[str], period_ns: int) -> None:
        """``names``: of the joints as ROS has them, in the arm's order."""
        self._options, self._names, self._period_ns = options, tuple(names), period_ns
        self._has_gripper = options.gripper_type != NONE
        watched = (*names, options.gripper_joint) if self._has_gripper else self._names
        self._states = StatesByName(watched, arrival_stamps=options.arrival_stamps)
        self._recent: deque[tuple[int, FloatArray]] = deque(maxlen=64)
        """(monotonic time, positions) of the last measurements, 4 ms or more apart."""
        self._context: Context | None = None
        self._node: Any = None
        self._inputs: list[Any] = []
        self._arm: _Commands | None = None
        self._gripper: _Commands | None = None
        self._gripper_sent = 1.0
        self._enabled: bool | None = None if options.enabled_topic else True
        self._servo_mode = False
        self._fault: str | None = None
        self._ticks = 0

    # ---- set-up ----

    def connect(self) -> None:
        """Find the state of every joint and the controller, and compare its joints. Raises DriverError."""
        if self._context is not None:
            return
        try:
            self._open()
        except (DriverError, _RCL_ERROR, InvalidTopicNameException) as error:
            self.close()
            if isinstance(error, DriverError):
                raise
            raise DriverError(f"{self._options.controller}: {' '.join(str(error).split())}") from error

    def power_on(self) -> None:
        self._require_enabled()

    def enable(self) -> None:
        self._require_enabled()

    def enter_servo(self) -> None:
        """Only looks whether the arm may be commanded: its controller is active already, or commands have no effect.

        Raises DriverError for an arm that has a fault, moves, or is commanded by others.
        """
        if self._context is None:
            raise DriverError("enter_servo before connect()")
        if self._fault is not None:
            raise DriverError(f"the fault must be acknowledged first: {self._fault}")
        self._require_enabled()
        since_ns = time.monotonic_ns()
        self._until(lambda: self._span(since_ns) is not None, self._why_no_state)
        span = self._span(since_ns)
        if span is not None and span > self._options.still_rad:
            raise DriverError(
                f"the arm moves: {span:.4f} rad within {_STILL_FOR_S:g} s (still is below {self._options.still_rad} "
                "rad); stop what moves it"
            )
        self._require(self._why_not_ours())
        self._servo_mode = True

    def exit_servo(self) -> None:
        """Send nothing more: the controller holds the last command."""
        self._servo_mode = False

    def close(self) -> None:
        self._servo_mode = False
        node, context, self._node, self._context = self._node, self._context, None, None
        self._inputs, self._arm, self._gripper = [], None, None
        if node is not None:
            node.destroy_node()
        if context is not None:
            context.try_shutdown()

    def clear_fault(self) -> None:
        """Raises DriverError while its cause is there."""
        if self._context is None:
            self.connect()
        self._until(lambda: not self._missing(), self._why_no_state)
        self._require_enabled()
        self._require(self._why_not_ours())
        self._fault = None

    # ---- every cycle ----

    def read(self) -> ArmState:
        """The newest state; never blocks, never raises. From servo mode on the first fault seen is latched."""
        self._take()
        fault = self._present_fault()
        if self._servo_mode and fault is not None and self._fault is None:
            self._fault = fault
            _log.error("%s: %s", self._options.controller, fault)
        fault = self._fault or fault
        joints = len(self._names)
        return ArmState(
            stamp_ns=self._states.stamp_ns(),
            position_rad=self._states.position[:joints].copy(),
            gripper=self._gripper_opening(),
            enabled=self._enabled is True,
            servo_mode=self._servo_mode and fault is None,
            fault=fault,
            moving=None if (span := self._span(0)) is None else span > self._options.still_rad,
        )

    def command(self, position_rad: FloatArray) -> None:
        """Publish one target (dof,), rad. Raises ValueError for one that is not as many finite numbers, RuntimeError
        outside servo mode (programming errors)."""
        if not self._servo_mode or self._arm is None:
            raise RuntimeError("command() outside servo mode: call enter_servo() first")
        if position_rad.shape != (len(self._names),) or not np.isfinite(position_rad).all():
            raise ValueError(f"a target is {len(self._names)} finite numbers (rad), got {position_rad!r}")
        self._send(self._arm, position_rad.tolist())

    def set_gripper(self, open_fraction: float) -> None:
        """1 open, 0 closed; nothing without a gripper of its own."""
        self._gripper_sent = open_fraction
        if self._gripper is not None:
            o = self._options
            self._send(self._gripper, [o.gripper_closed + open_fraction * (o.gripper_open - o.gripper_closed)])

    def report(self) -> dict[str, int]:
        values = {"states_unusable": self._states.unusable, "states_repeated": self._states.repeated}
        return {name: value for name, value in values.items() if value}

    # ---- inside ----

    def _open(self) -> None:
        o = self._options
        enter_ros()
        with secured():
            self._context = Context()
            self._context.init(args=[])
            self._node = node = Node(
                "servo_driver", context=self._context, enable_rosout=False, start_parameter_services=False
            )
        self._inputs = [node.create_subscription(JointState, o.state_topic, self._on_state, _INPUT_QOS)]
        if o.enabled_topic:
            self._inputs.append(node.create_subscription(Bool, o.enabled_topic, self._on_enabled, 1))
        self._until(lambda: not self._missing(), self._why_no_state)
        if o.enabled_topic:
            self._until(
                lambda: self._enabled is not None, lambda: f"nothing arrives on {o.enabled_topic} (enabled_topic)"
            )
        self._arm = self._commands(o.controller_type, o.controller, self._names, o.reach_periods * self._period_ns)
        if self._has_gripper:
            self._gripper = self._commands(
                o.gripper_type, o.gripper_controller, (o.gripper_joint,), o.gripper_time_s * 1e9
            )
        self._require(self._why_not_ours())

    def _commands(self, kind: str, controller: str, names: tuple[str, ...], reach_ns: float) -> _Commands:
        """A publisher for a controller that is there and has these joints. Raises DriverError."""
        order = self._order(kind, controller, names)
        made = _Commands(self._node, kind, controller, names, order, round(reach_ns))
        self._until(lambda: made.listeners > 0, lambda: f"{made.topic} has no subscriber; {_hint(controller)}")
        return made

    def _order(self, kind: str, controller: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """``names`` in the controller's order. Raises DriverError if it has others, or takes no positions."""
        joints = self._parameter(controller, "joints")
        if joints is None:
            if kind == JOINT_TRAJECTORY or self._options.joints or len(names) == 1:
                _log.warning("%s does not tell its joints; taken as %s", controller, list(names))
                return names
            raise DriverError(
                f"{controller} does not tell its parameter joints, and takes positions by their order; "
                f"{_hint(controller)}, or give the names in that order as arm.joints"
            )
        extra, missing = sorted(set(joints) - set(names)), sorted(set(names) - set(joints))
        partly = kind == JOINT_TRAJECTORY and self._parameter(controller, "allow_partial_joints_goal") is True
        if missing or (extra and not partly):
            raise DriverError(
                f"{controller} moves the joints {list(joints)}, and is to be commanded as {list(names)}: missing there "
                f"{missing}, unknown here {extra}; name them in arm.joints, or choose another controller"
            )
        interface = self._parameter(controller, "interface_name") if kind == FORWARD_POSITION else None
        if interface not in (None, "", "position"):
            raise DriverError(f"{controller} takes {interface!r} commands; positions would be taken for those")
        return names if kind == JOINT_TRAJECTORY else tuple(joints)

    def _parameter(self, node_name: str, name: str) -> Any:
        """A parameter of another node; None if it does not say."""
        client = self._node.create_client(GetParameters, f"{node_name}/get_parameters")
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        try:
            if not client.wait_for_service(self._options.connect_timeout_s):
                return None
            future = client.call_async(GetParameters.Request(names=[name]))
            executor.spin_until_future_complete(future, self._options.connect_timeout_s)
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

    def _until(self, reached: Callable[[], bool], why_not: Callable[[], str]) -> None:
        deadline = time.monotonic() + self._options.connect_timeout_s
        self._take()
        while not reached():
            if time.monotonic() > deadline:
                raise DriverError(why_not())
            time.sleep(_POLL_S)
            self._take()

    def _take(self) -> None:
        """Everything that has arrived."""
        for subscription in self._inputs:
            with subscription.handle:
                for _ in range(_DEPTH):
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                    if taken is None:
                        break
                    subscription.callback(taken[0])

    def _on_state(self, message: Any) -> None:
        now_ns = time.monotonic_ns()
        stamp_ns = stamp_to_ns(message.header.stamp)
        new = self._states.take(message.name, message.position, stamp_ns, time.time_ns(), now_ns)
        if new and (not self._recent or now_ns - self._recent[-1][0] >= _APART_NS):
            self._recent.append((now_ns, self._states.position[: len(self._names)].copy()))

    def _on_enabled(self, message: Any) -> None:
        self._enabled = bool(message.data)

    def _missing(self) -> list[str]:
        return self._states.older_than(time.monotonic_ns() - round(self._options.state_timeout_s * 1e9))

    def _why_no_state(self) -> str:
        o = self._options
        publishers = [p.node for p in publishers_of(self._node, o.state_topic)]
        who = f"it is published by {', '.join(publishers)}" if publishers else "no node publishes it"
        seen = f", with the joints {sorted(self._states.seen)}" if self._states.seen else ""
        return (
            f"{o.state_topic} says nothing new of {self._missing() or list(self._names)} within "
            f"{o.state_timeout_s:g} s ({who}{seen}); is joint_state_broadcaster active (ros2 control list_controllers)?"
        )

    def _why_not_ours(self) -> str | None:
        """Why the controllers would not do what we command, as far as the graph tells."""
        for commands in (self._arm, self._gripper):
            if commands is None:
                continue
            if commands.listeners == 0:
                return f"{commands.topic} has no subscriber any more; {_hint(commands.controller)}"
            if commands.writers > 1:
                own = self._node.get_fully_qualified_name()
                others = [p.node for p in publishers_of(self._node, commands.topic) if p.node != own]
                who = " and ".join(others) or "another servo_driver"
                return f"{commands.topic} is published by {who} too: one may command the arm"
        return None

    def _present_fault(self) -> str | None:
        if self._context is None:
            return "not connected"
        if missing := self._missing():
            o = self._options
            return f"{o.state_topic} has told nothing new of {', '.join(missing)} for {o.state_timeout_s:g} s"
        self._ticks += 1
        return self._why_not_ours() if self._servo_mode and self._ticks % _LOOK_TICKS == 0 else None

    def _span(self, since_ns: int) -> float | None:
        """Largest change of a joint over the newest 0.1 s that began after ``since_ns``, rad; None if not known."""
        begin_ns = time.monotonic_ns() - round(_STILL_FOR_S * 1e9)
        if not self._recent or self._recent[0][0] > begin_ns or begin_ns < since_ns:
            return None
        newest = [position for at_ns, position in self._recent if at_ns >= begin_ns]
        if len(newest) < 2:
            return None
        rows = np.array(newest)
        return float((rows.max(axis=0) - rows.min(axis=0)).max())

    def _gripper_opening(self) -> float:
        if not self._has_gripper:
            return self._gripper_sent
        o = self._options
        opening = (self._states.position[-1] - o.gripper_closed) / (o.gripper_open - o.gripper_closed)
        return float(min(max(opening, 0.0), 1.0))

    def _require_enabled(self) -> None:
        if self._enabled is not True:
            raise DriverError(
                f"the arm is not enabled, says {self._options.enabled_topic}: enable it where its own driver is "
                "operated"
            )

    def _require(self, problem: str | None) -> None:
        if problem is not None:
            raise DriverError(problem)

    def _send(self, commands: _Commands, positions: list[float]) -> None:
        try:
            commands.send(positions)
        except _RCL_ERROR as error:
            self._fault = self._fault or f"{commands.topic} could not be published: {' '.join(str(error).split())}"


class _Commands:
    """Positions to one controller."""

    def __init__(
        self, node: Any, kind: str, controller: str, names: tuple[str, ...], order: tuple[str, ...], reach_ns: int
    ) -> None:
        self.controller = controller
        self._node = node
        self._trajectory = kind == JOINT_TRAJECTORY
        self._places = [names.index(name) for name in order]
        message_class = JointTrajectory if self._trajectory else Float64MultiArray
        self._message = single_point(order, reach_ns) if self._trajectory else Float64MultiArray()
        self._publisher = node.create_publisher(
            message_class,
            f"{controller}/{'joint_trajectory' if self._trajectory else 'commands'}",
            qos_profile_system_default,
        )
        self.topic = self._publisher.topic_name

    @property
    def listeners(self) -> int:
        return int(self._publisher.get_subscription_count())

    @property
    def writers(self) -> int:
        """Publishers of the topic, this one included."""
        return int(self._node.count_publishers(self.topic))

    def send(self, positions: list[float]) -> None:
        values = [positions[i] for i in self._places]
        if self._trajectory:
            self._message.points[0].positions = values
        else:
            self._message.data = values
        self._publisher.publish(self._message)


def _hint(controller: str) -> str:
    return f"is {controller} loaded and active (ros2 control list_controllers)?"
