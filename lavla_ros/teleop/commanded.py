"""How the arm is commanded to move now, from what is published of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lavla_ros.contract import Contract
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.teleop.motion import ArmMotion
from lavla_ros.typing import NS_PER_S, FloatArray

COMMAND_S = 0.1
"""A command older than this is over: the arm is where it is measured, and stands."""


class Commanded:
    """Keeps the newest command and state. Names that are not the arm's are left out; incomplete ones are not used."""

    def __init__(self, contract: Contract, config: ExecutorConfig) -> None:
        self._joints = config.joint_names
        self._grippers = {d.name: d for d in (*contract.state.fields, *contract.action.dims) if d.kind == "gripper"}
        self._command: tuple[int, FloatArray] | None = None
        self._before: tuple[int, FloatArray] | None = None
        self._state: tuple[int, FloatArray] | None = None
        self._gripper = 1.0
        self._gripper_ns = 0

    def measured(self, names: Sequence[str], values: Sequence[float], stamp_ns: int) -> None:
        """A joint state. Its gripper counts while nothing is commanded."""
        joints, gripper = self._taken(names, values)
        if joints is not None:
            self._state = stamp_ns, joints
        if gripper is not None and stamp_ns - self._gripper_ns > COMMAND_S * NS_PER_S:
            self._gripper = gripper

    def commanded(self, names: Sequence[str], values: Sequence[float], due_ns: int) -> None:
        """A command, and when it is due."""
        joints, gripper = self._taken(names, values)
        if joints is not None and (self._command is None or due_ns > self._command[0]):
            self._before, self._command = self._command, (due_ns, joints)
        if gripper is not None:
            self._gripper, self._gripper_ns = gripper, due_ns

    def motion(self, now_ns: int, quiet_s: float) -> ArmMotion | None:
        """The commanded motion; at rest where the arm is measured if nothing is commanded; None if neither is known."""
        if self._command is not None and now_ns - self._command[0] <= COMMAND_S * NS_PER_S:
            at_ns, joints = self._command
            velocity = np.zeros(len(joints))
            if self._before is not None and 0 < at_ns - self._before[0] <= COMMAND_S * NS_PER_S:
                velocity = (joints - self._before[1]) / ((at_ns - self._before[0]) / NS_PER_S)
            return ArmMotion(at_ns=at_ns, position_rad=joints, velocity_rad_s=velocity, gripper_open=self._gripper)
        if self._state is not None and now_ns - self._state[0] <= quiet_s * NS_PER_S:
            at_ns, joints = self._state
            still = np.zeros(len(joints))
            return ArmMotion(at_ns=at_ns, position_rad=joints, velocity_rad_s=still, gripper_open=self._gripper)
        return None

    def _taken(self, names: Sequence[str], values: Sequence[float]) -> tuple[FloatArray | None, float | None]:
        found = dict(zip(names, values, strict=False))
        joints = [found.get(name, np.nan) for name in self._joints]
        opening = None
        for name, gripper in self._grippers.items():
            if name in found and np.isfinite(found[name]):
                opening = float((found[name] - gripper.low) / (gripper.high - gripper.low) >= 0.5)
        return (np.array(joints) if np.isfinite(joints).all() else None), opening
