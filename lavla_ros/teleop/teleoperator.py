"""Events of a device and the arm's motion in, chunks out: what a node, a console or a test steps."""

from __future__ import annotations

from collections.abc import Iterable

from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.teleop.config import Mapping, TeleopOptions
from lavla_ros.teleop.motion import ArmMotion, Motion
from lavla_ros.teleop.operator import Event, Operator


class Teleoperator:
    """One person, one device, one arm. Not thread-safe."""

    def __init__(
        self, contract: Contract, config: ExecutorConfig, mapping: Mapping, options: TeleopOptions | None = None
    ) -> None:
        """Raises ConfigError if the device moves what the arm does not have, or its kinematics are missing."""
        options = options or TeleopOptions()
        self.operator = Operator(mapping, options, config.joint_names)
        self._motion = Motion(contract, config, options, self.operator.moves)
        self._hand_back = False
        self.period_s = 1.0 / options.chunk_rate_hz
        """From one :meth:`step` to the next."""

    @property
    def why(self) -> str:
        """Why the arm does not do as the person wishes; empty: it does."""
        return self.operator.why or self._motion.slowed

    @property
    def restarts(self) -> int:
        """How often the steered motion began again where the arm was, since it had run ahead of it."""
        return self._motion.restarts

    def step(
        self, events: Iterable[Event], arm: ArmMotion | None, now_ns: int, blocked: str = ""
    ) -> ActionChunk | None:
        """The chunk to send now, or None.

        ``arm``: its commanded motion; None: not known. ``blocked``: why the arm takes no chunks; the dead-man then has
        to be pressed again once it does.
        """
        if arm is not None:
            self.operator.gripper_is = arm.gripper_open
        self.operator.feed(events, now_ns)
        if arm is None:
            blocked = blocked or "where the arm is is not known: it reports no state"
        if blocked or arm is None:
            if self.operator.held:
                self.operator.release(blocked)
            self._motion.drop()
            self._hand_back |= self.operator.take_hand_back()
            return None
        chunk = self._motion.chunk(self.operator.wish(now_ns), arm, now_ns)
        if self.operator.take_hand_back():
            self._motion.drop()  # a chunk after the hand-back would take the arm again
            self._hand_back = True
        return chunk

    def take_hand_back(self) -> bool:
        """Whether the person has given the arm back since this was asked last: to be told to the executor, after the
        chunk of the same step."""
        asked, self._hand_back = self._hand_back, False
        return asked
