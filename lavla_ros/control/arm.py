"""The seam between the servo loop and an arm: one state record and one small protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lavla_ros.errors import UserError


class DriverError(UserError, RuntimeError):
    """The arm refused or could not be reached; the message names the cause and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmState:
    """The newest thing known of the arm. Whatever moves an arm (driver or simulator) makes these."""

    stamp_ns: int
    """When the state was measured, on the clock that the executor is ticked with."""
    position_rad: NDArray[np.float64]
    """(dof,) measured joint positions in the order of ``ExecutorConfig.joint_names``."""
    gripper: float
    """1 open, 0 closed: as the arm reports it, not as it was commanded last."""
    enabled: bool
    """Powered on and enabled."""
    servo_mode: bool
    """The controller acts on servo commands. False while commands are wanted is a fault."""
    fault: str | None
    """Why the arm cannot move (protective stop, E-stop, connection lost …), or None. Latched by the driver from
    :meth:`ArmDriver.enter_servo` on, until :meth:`ArmDriver.clear_fault`."""
    powered_on: bool = True
    """The arm has power; the brakes may still be closed (see ``enabled``)."""
    concern: str | None = None
    """The first sign of trouble in the stream of commands (one refused, some unanswered), or None once it is over:
    the motion is brought to rest while that is still possible. A second sign is a ``fault``."""
    commanded_rad: NDArray[np.float64] | None = None
    """(dof,) where the controller itself believes to have been commanded to, or None where it does not say."""
    moving: bool | None = None
    """Whether the controller says that the arm moves, or None where it does not say."""


class ArmDriver(Protocol):
    """An arm that takes one joint position per 8 ms cycle. Called from one thread only.

    ``read``, ``command`` and ``set_gripper`` are called every cycle and must not block; a failure
    in them is reported by ``ArmState.fault``, not by an exception, unless it is a programming error.
    Each of ``power_on``, ``enable``, ``enter_servo`` and ``clear_fault`` does what its name says and nothing
    besides: a person asks for each of them separately.
    """

    def connect(self) -> None:
        """Connect and look at the arm. Powers on and enables only where the driver is configured to.

        An arm without power, disabled or in protective stop is no error: ``read`` says so. Raises DriverError
        naming the cause (never half connected).
        """
        ...

    def power_on(self) -> None:
        """Give the arm power. Blocks until confirmed. Raises DriverError; done already is no error."""
        ...

    def enable(self) -> None:
        """Release the brakes. Blocks until confirmed. Raises DriverError; done already is no error."""
        ...

    def enter_servo(self) -> None:
        """Make the controller act on :meth:`command`. Blocks until confirmed.

        Raises DriverError for an arm that has a fault, is not enabled or moves. Nothing is cleared or switched on.
        """
        ...

    def read(self) -> ArmState:
        """The newest state, without blocking."""
        ...

    def command(self, position_rad: NDArray[np.float64]) -> None:
        """Joint positions (dof,) to be reached at the end of the next cycle."""
        ...

    def set_gripper(self, open_fraction: float) -> None:
        """1 open, 0 closed. Called when the wanted value changes, and again while the arm reports another one."""
        ...

    def report(self) -> dict[str, int]:
        """How the stream of commands goes, by name: counts and measures worth showing. Only what is not 0."""
        ...

    def exit_servo(self) -> None:
        """Leave servo mode; the arm must be at rest. Safe to call when not in servo mode, and after a fault.

        Raises DriverError where servo mode stays on.
        """
        ...

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        ...

    def clear_fault(self) -> None:
        """Clear a latched fault of the controller on a person's request, connecting again where needed.

        Neither powers on nor enables nor enters servo mode. Raises DriverError if the fault stays.
        """
        ...
