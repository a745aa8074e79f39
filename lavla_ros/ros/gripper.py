"""A gripper that a ros2_control controller moves, as a part of any driver's arm; it runs in the servo process.

The gripper is watched as its arm is: a state that is stale, a controller that does not listen, or a second one who
commands it is a fault of the arm, latched from servo mode on until a person acknowledges it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from lavla_ros.control.arm import ArmDriver, ArmState, DriverError
from lavla_ros.control.gripper_options import GripperOptions
from lavla_ros.ros.joint_controller import LOOK_TICKS, ControllerSpec, JointController
from lavla_ros.typing import FloatArray

_log = logging.getLogger(__name__)


def with_gripper(
    driver: ArmDriver,
    options: GripperOptions,
    *,
    timeout_s: float,
    connect_timeout_s: float,
    concern_s: float | None = None,
) -> ArmDriver:
    """The driver, with the gripper of its options if they name one.

    ``timeout_s``: age at which the gripper's state is stale; ``concern_s``: age at which the motion is brought to rest.
    """
    if not options.has_gripper:
        return driver
    spec = ControllerSpec(
        controller=options.gripper_controller,
        kind=options.gripper_type,
        names=(options.gripper_joint,),
        reach_ns=round(options.gripper_time_s * 1e9),
        state_topic=options.gripper_state_topic,
        state_timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
    )
    return _WithGripper(driver, options, spec, concern_s)


class _WithGripper:
    """Implements :class:`lavla_ros.control.arm.ArmDriver`: the arm's driver in all but the gripper."""

    def __init__(
        self, driver: ArmDriver, options: GripperOptions, spec: ControllerSpec, concern_s: float | None
    ) -> None:
        self._driver, self._options, self._concern_s = driver, options, concern_s
        self._gripper = JointController(spec, "servo_gripper", first_look=LOOK_TICKS // 2)
        self._servo_mode = False
        self._fault: str | None = None

    # ---- set-up: the gripper first, since looking at it does nothing to the arm ----

    def connect(self) -> None:
        self._open()
        try:
            self._driver.connect()
        except DriverError:
            self._gripper.close()
            raise

    def power_on(self) -> None:
        self._driver.power_on()

    def enable(self) -> None:
        self._driver.enable()

    def enter_servo(self) -> None:
        if self._fault is not None:
            raise DriverError(f"the fault must be acknowledged first: {self._fault}")
        self._require_ready()
        self._driver.enter_servo()
        self._servo_mode = True

    def exit_servo(self) -> None:
        self._servo_mode = False
        self._driver.exit_servo()

    def close(self) -> None:
        self._servo_mode = False
        try:
            self._driver.close()
        finally:
            self._gripper.close()

    def clear_fault(self) -> None:
        """Raises DriverError while the cause is there, of the gripper's fault before the arm's."""
        self._open()
        self._require_ready()
        self._driver.clear_fault()
        self._fault = None

    # ---- every cycle ----

    def read(self) -> ArmState:
        """As the arm's driver says it, and stamped as the arm is: a gripper's states may come less often."""
        state, gripper = self._driver.read(), self._gripper
        gripper.take()
        fault = gripper.problem(commanding=self._servo_mode)
        if fault is not None:
            fault = f"gripper: {fault}"
            if self._servo_mode:
                self._latch(fault)
        fault = state.fault or self._fault or fault
        late = None if self._concern_s is None or not self._servo_mode else gripper.stale(self._concern_s)
        return replace(
            state,
            gripper=self._opening(),
            fault=fault,
            servo_mode=state.servo_mode and fault is None,
            concern=state.concern or (None if late is None else f"gripper: {late}"),
        )

    def command(self, position_rad: FloatArray) -> None:
        self._driver.command(position_rad)

    def set_gripper(self, open_fraction: float) -> None:
        """1 open, 0 closed."""
        if not self._gripper.opened:
            return  # read() says so
        o = self._options
        problem = self._gripper.send([o.gripper_closed + open_fraction * (o.gripper_open - o.gripper_closed)])
        if problem is not None:
            self._latch(f"gripper: {problem}")

    def report(self) -> dict[str, int]:
        gripper = {f"gripper_{name}": value for name, value in self._gripper.report().items()}
        return {**self._driver.report(), **gripper}

    # ---- inside ----

    def _open(self) -> None:
        try:
            self._gripper.open()
        except DriverError as error:
            raise DriverError(f"gripper: {error}") from error

    def _require_ready(self) -> None:
        """Raises DriverError unless the gripper can be commanded."""
        try:
            self._gripper.wait_for_states()
            self._gripper.require(self._gripper.why_not_ours())
        except DriverError as error:
            raise DriverError(f"gripper: {error}") from error

    def _opening(self) -> float:
        """0 to 1; fully open before anything is known."""
        o, position = self._options, float(self._gripper.states.position[0])
        opening = (position - o.gripper_closed) / (o.gripper_open - o.gripper_closed)
        return min(max(opening, 0.0), 1.0) if opening == opening else 1.0

    def _latch(self, fault: str) -> None:
        if self._fault is None:
            self._fault = fault
            _log.error("%s", fault)
