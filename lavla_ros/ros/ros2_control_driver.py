"""A ros2_control arm behind the control layer's ``ArmDriver`` protocol; it runs in the servo process.

A controller does not tell on a topic of the common messages whether it is active or gave a trajectory up (a tolerance,
an emergency stop). Both show in the arm not following: the executor's tracking error is the fault then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from std_msgs.msg import Bool

from lavla_ros.control.arm import ArmState, DriverError
from lavla_ros.ros.joint_controller import ControllerSpec, JointController
from lavla_ros.ros.ros2_control_options import Ros2ControlOptions
from lavla_ros.typing import FloatArray

_log = logging.getLogger(__name__)
_STILL_FOR_S = 0.1
_APART_NS = 4_000_000


class Ros2ControlDriver:
    """Implements :class:`lavla_ros.control.arm.ArmDriver`, without the gripper. One thread at a time."""

    def __init__(self, options: Ros2ControlOptions, names: Sequence[str], period_ns: int) -> None:
        """``names``: of the joints as ROS has them, in the arm's order."""
        self._options, self._names = options, tuple(names)
        spec = ControllerSpec(
            controller=options.controller,
            kind=options.controller_type,
            names=self._names,
            named=bool(options.joints),
            reach_ns=round(options.reach_periods * period_ns),
            state_topic=options.state_topic,
            state_timeout_s=options.state_timeout_s,
            arrival_stamps=options.arrival_stamps,
            connect_timeout_s=options.connect_timeout_s,
        )
        self._controller = JointController(spec, "servo_driver")
        self._controller.on_new = self._on_new
        self._recent: deque[tuple[int, FloatArray]] = deque(maxlen=64)
        """(monotonic time, positions) of the last measurements, 4 ms or more apart."""
        self._gripper_sent = 1.0
        self._enabled: bool | None = None if options.enabled_topic else True
        self._servo_mode = False
        self._fault: str | None = None

    # ---- set-up ----

    def connect(self) -> None:
        """Find the state of every joint and the controller, and compare its joints. Raises DriverError."""
        topic = self._options.enabled_topic
        self._controller.open(lambda: self._controller.listen(Bool, topic, self._on_enabled, 1) if topic else None)
        if topic:
            try:
                self._controller.until(
                    lambda: self._enabled is not None, lambda: f"nothing arrives on {topic} (enabled_topic)"
                )
            except DriverError:
                self.close()
                raise

    def power_on(self) -> None:
        self._require_enabled()

    def enable(self) -> None:
        self._require_enabled()

    def enter_servo(self) -> None:
        """Only looks whether the arm may be commanded: its controller is active already, or commands have no effect.

        Raises DriverError for an arm that has a fault, moves, or is commanded by others.
        """
        controller = self._controller
        if not controller.opened:
            raise DriverError("enter_servo before connect()")
        if self._fault is not None:
            raise DriverError(f"the fault must be acknowledged first: {self._fault}")
        self._require_enabled()
        since_ns = time.monotonic_ns()
        controller.until(lambda: self._span(since_ns) is not None, controller.why_no_state)
        span = self._span(since_ns)
        if span is not None and span > self._options.still_rad:
            raise DriverError(
                f"the arm moves: {span:.4f} rad within {_STILL_FOR_S:g} s (still is below {self._options.still_rad} "
                "rad); stop what moves it"
            )
        controller.require(controller.why_not_ours())
        self._servo_mode = True

    def exit_servo(self) -> None:
        """Send nothing more: the controller holds the last command."""
        self._servo_mode = False

    def close(self) -> None:
        self._servo_mode = False
        self._controller.close()

    def clear_fault(self) -> None:
        """Raises DriverError while its cause is there."""
        if not self._controller.opened:
            self.connect()
        self._controller.wait_for_states()
        self._require_enabled()
        self._controller.require(self._controller.why_not_ours())
        self._fault = None

    # ---- every cycle ----

    def read(self) -> ArmState:
        """The newest state; never blocks, never raises. From servo mode on the first fault seen is latched."""
        controller = self._controller
        controller.take()
        fault = controller.problem(commanding=self._servo_mode)
        if self._servo_mode and fault is not None:
            self._latch(fault)
        fault = self._fault or fault
        return ArmState(
            stamp_ns=controller.states.stamp_ns(),
            position_rad=controller.states.position.copy(),
            gripper=self._gripper_sent,
            enabled=self._enabled is True,
            servo_mode=self._servo_mode and fault is None,
            fault=fault,
            moving=None if (span := self._span(0)) is None else span > self._options.still_rad,
        )

    def command(self, position_rad: FloatArray) -> None:
        """Publish one target (dof,), rad. Raises ValueError for one that is not as many finite numbers, RuntimeError
        outside servo mode (programming errors)."""
        if not self._servo_mode:
            raise RuntimeError("command() outside servo mode: call enter_servo() first")
        if position_rad.shape != (len(self._names),) or not np.isfinite(position_rad).all():
            raise ValueError(f"a target is {len(self._names)} finite numbers (rad), got {position_rad!r}")
        if (problem := self._controller.send(position_rad.tolist())) is not None:
            self._latch(problem)

    def set_gripper(self, open_fraction: float) -> None:
        """Nothing: a gripper is a controller of its own (:mod:`lavla_ros.ros.gripper`)."""
        self._gripper_sent = open_fraction

    def report(self) -> dict[str, int]:
        return self._controller.report()

    # ---- inside ----

    def _on_new(self, now_ns: int) -> None:
        if not self._recent or now_ns - self._recent[-1][0] >= _APART_NS:
            self._recent.append((now_ns, self._controller.states.position.copy()))

    def _on_enabled(self, message: Any) -> None:
        self._enabled = bool(message.data)

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

    def _require_enabled(self) -> None:
        if self._enabled is not True:
            raise DriverError(
                f"the arm is not enabled, says {self._options.enabled_topic}: enable it where its own driver is "
                "operated"
            )

    def _latch(self, fault: str) -> None:
        if self._fault is None:
            self._fault = fault
            _log.error("%s: %s", self._options.controller, fault)
