"""What the bridge needs of a RoboTwin task: the part of RoboTwin's own interface that its evaluation script uses.

Satisfied by every task of a RoboTwin 2.0 checkout (``envs/<task>.py``, a ``Base_Task``) and by those of the stand-in.
A task object is made once and set up again for every episode. Units: metres, radians; grippers 0 (closed) to 1 (open);
quaternions w, x, y, z; pictures RGB. Physics runs at 250 Hz.

The observation of :meth:`Task.get_obs`, as far as the bridge reads it::

    observation.<camera>.rgb            (240, 320, 3) uint8; head_camera, left_camera, right_camera
    observation.<camera>.intrinsic_cv   (3, 3)
    joint_action.vector                 (14,) left arm, left gripper, right arm, right gripper: drive targets
    endpose.left_endpose, .right_endpose   x, y, z, qw, qx, qy, qz
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

PHYSICS_STEP_NS = 4_000_000
"""Simulated time of one ``scene.step()``."""
ARM_JOINTS = 6
COMMAND_SIZE = 2 * (ARM_JOINTS + 1)


class Joint(Protocol):
    """One joint of an arm."""

    def get_limits(self) -> ArrayLike:
        """(1, 2) lowest and highest position; infinite if there is none."""


class Robot(Protocol):
    """Both arms. Joint states are six joints and the gripper."""

    @property
    def left_arm_joints(self) -> Sequence[Joint]: ...

    @property
    def right_arm_joints(self) -> Sequence[Joint]: ...

    def get_left_arm_jointState(self) -> Sequence[float]:  # RoboTwin's name
        """(7,) where the drives are to go: what the observation's ``joint_action`` is, without drawing a picture."""

    def get_right_arm_jointState(self) -> Sequence[float]: ...

    def get_left_arm_real_jointState(self) -> Sequence[float]:
        """(7,) where the joints are; the gripper is commanded here too."""

    def get_right_arm_real_jointState(self) -> Sequence[float]: ...


class Pose(Protocol):
    @property
    def p(self) -> ArrayLike: ...

    @property
    def q(self) -> ArrayLike: ...


class Actor(Protocol):
    """A rigid body."""

    def get_pose(self) -> Pose: ...


class Scene(Protocol):
    """A SAPIEN scene."""

    def step(self) -> None:
        """One physics step of 4 ms. The bridge replaces it on the object to count."""

    def get_all_actors(self) -> Sequence[Actor]: ...


class CommandExpert(Protocol):
    """A scripted expert that acts through commands. RoboTwin's own does not; the stand-in's does."""

    @property
    def done(self) -> bool:
        """There is nothing left to do, or it cannot go on."""

    def act(self) -> NDArray[np.float64]:
        """The next command (14,), for the scene as it is now."""


class Task(Protocol):
    """One task. Everything but :meth:`setup_demo` needs that first."""

    @property
    def scene(self) -> Scene: ...

    @property
    def robot(self) -> Robot: ...

    @property
    def take_action_cnt(self) -> int:
        """Commands of the episode."""

    @property
    def step_lim(self) -> int | None:
        """Commands after which the episode has failed."""

    @property
    def eval_success(self) -> bool:
        """The goal held at some physics step of a command."""

    @property
    def plan_success(self) -> bool:
        """The expert could plan all of its motions."""

    def setup_demo(self, **kwargs: Any) -> None:
        """Build the scene of ``seed``. Raises where its objects do not come to rest (``UnStableError``)."""

    def get_obs(self) -> Mapping[str, Any]: ...

    def take_action(self, action: ArrayLike, action_type: str = "qpos") -> None:
        """Move to the joint targets (14,), from rest to rest: as many physics steps as that takes. Does nothing at the
        step limit and after success; checks nothing."""

    def check_success(self) -> bool: ...

    def play_once(self) -> Mapping[str, Any]:
        """The scripted expert, to its end. ``["info"]``: what the instruction templates' placeholders stand for."""

    def set_instruction(self, instruction: str | None = None) -> None: ...

    def get_instruction(self, instruction: str | None = None) -> str | None: ...

    def close_env(self, clear_cache: bool = False) -> None: ...
