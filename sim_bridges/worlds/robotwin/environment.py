"""One RoboTwin task in this process, under the contract: whatever object has the interface of :mod:`.interface`.

A contract step is one command: RoboTwin has no control rate, every command is a motion from rest to rest that takes as
many physics steps as it takes. Stamps are true simulated time, physics steps × 4 ms since the reset, and so steps are
unevenly far apart; the contract's rate says only how far apart the frames of *demonstrations* are.

Physics steps are counted where they happen: ``scene.step`` is replaced, on the scene object, by one that counts and
calls the original. RoboTwin's methods look it up there at every step, so that none is missed, whichever of them makes
it; a new scene, which every reset has, is counted from zero.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavla_ros.contract import Contract, Observation, load_contract
from lavla_ros.errors import UserError
from lavla_ros.observation.images import prepare_image
from lavla_ros.typing import NS_PER_S, FloatArray
from sim_bridges.worlds.robotwin.interface import (
    ARM_JOINTS,
    COMMAND_SIZE,
    PHYSICS_STEP_NS,
    CommandExpert,
    Scene,
    Task,
)

CAMERAS = {"head": "head_camera", "left_wrist": "left_camera", "right_wrist": "right_camera"}
"""Camera of the contract → RoboTwin's name of it."""
JOINTS = tuple(
    f"{arm}_{name}" for arm in ("left", "right") for name in (*(f"joint_{i + 1}" for i in range(ARM_JOINTS)), "gripper")
)
"""Order of RoboTwin's commands and joint states."""
_ROUNDING = 1e-6


class RobotwinError(UserError, ValueError):
    """RoboTwin cannot do what was asked, or did not do it; the message says what and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that one ``get_obs`` gives, in the contract's names and order."""

    images: Mapping[str, NDArray[np.uint8]]
    """Camera → (H, W, 3) RGB."""
    intrinsics: Mapping[str, FloatArray]
    """Camera → (3, 3)."""
    state: FloatArray
    """(14,) commanded joints."""
    measured: FloatArray
    """(14,) measured joints."""
    endposes: Mapping[str, FloatArray]
    """``left`` and ``right`` → (7,) position (m) and quaternion x, y, z, w, as in ROS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """What the scripted expert made of a scene."""

    solved: bool
    """It could plan everything, and the goal holds: RoboTwin's condition for a seed to count."""
    info: Mapping[str, Any]
    """What the placeholders of the instruction templates stand for."""
    reason: str
    """Why it is not solved; empty if it is."""
    targets_NA: FloatArray
    """(N, 14) commanded joints at every frame, the contract's period apart, the first at the start."""


class RobotwinEnvironment:
    """One task. Not thread-safe."""

    def __init__(
        self,
        task: Task,
        arguments: Mapping[str, Any],
        *,
        name: str = "",
        folder: Path | None = None,
        contract: Contract | str = "robotwin_aloha",
    ) -> None:
        """``arguments``: of ``setup_demo``, besides the seed. ``folder``: of a checkout, whose code looks for its files
        from there.

        Raises RobotwinError for a contract that is not RoboTwin's.
        """
        self.contract = load_contract(contract) if isinstance(contract, str) else contract
        _check_contract(self.contract)
        self.task = task
        self.name = name or type(task).__name__
        self.steps = 0
        """Commands of the present episode."""
        self._arguments, self._folder = dict(arguments), folder
        self._resets = 0
        self._counter: _PhysicsSteps | None = None
        self._began = 0
        self._limits_A2: FloatArray = np.empty((0, 2))
        self._broken = ""
        self._digest = hashlib.sha256()

    # The present episode.

    @property
    def step_limit(self) -> int:
        """RoboTwin's own for this task. Raises RobotwinError if the task was not set up for evaluation."""
        if self.task.step_lim is None:
            raise RobotwinError(f"{self.name} has no step limit: it is set up without eval_mode")
        return self.task.step_lim

    @property
    def instruction(self) -> str:
        return str(self.task.get_instruction() or "")

    @property
    def physics_steps(self) -> int:
        """Of the present episode, so far."""
        return 0 if self._counter is None else self._counter.count - self._began

    @property
    def time_ns(self) -> int:
        """Simulated time since the reset."""
        return self.physics_steps * PHYSICS_STEP_NS

    @property
    def success(self) -> bool:
        """The goal held at some physics step: RoboTwin's own check."""
        return bool(self.task.eval_success)

    @property
    def trajectory(self) -> str:
        """Hash over joints, bodies and time after every command: equal episodes, equal hashes."""
        return self._digest.hexdigest()[:16]

    def reset(self, seed: int, *, instruction: str = "") -> None:
        """Set up the scene of ``seed``. Raises RobotwinError if RoboTwin refuses to, naming its reason."""
        self._counter = None
        if seed < 0:
            raise RobotwinError(f"the seed is {seed}; expected an integer >= 0")
        frequency = int(self._arguments.get("clear_cache_freq", 5))
        try:
            with self._inside():
                if self._resets:
                    self.task.close_env(clear_cache=self._resets % frequency == 0)
                self._resets += 1
                self.task.setup_demo(now_ep_num=0, seed=seed, is_test=True, **self._arguments)
        except Exception as error:
            raise RobotwinError(f"the scene of {self.name} with seed {seed} cannot be set up: {_why(error)}") from error
        self.task.set_instruction(instruction=instruction)
        self._counter = _PhysicsSteps.of(self.task.scene)
        self._began = self._counter.count
        self._limits_A2 = _joint_limits(self.task)
        self.steps, self._broken = 0, ""
        self._digest = hashlib.sha256(self.states().tobytes())

    def step(self, action: ArrayLike) -> bool:
        """One command (14,) of :data:`JOINTS`: joint targets in rad, grippers 0 (closed) to 1. Returns the success.

        Raises RobotwinError, and nothing has moved or been counted, before a reset, after success, at the step limit,
        and for a command of another size, not finite, or out of the joints' limits; or where RoboTwin itself raises:
        the state of the scene is unknown then, and the episode cannot go on.
        """
        self._require_reset()
        values = self.check_command(action)
        if self.success or self.task.take_action_cnt >= self.step_limit:
            why = "the goal is reached" if self.success else f"the limit of {self.step_limit} steps is reached"
            raise RobotwinError(f"the episode is over after {self.steps} steps: {why}; reset before the next command")
        try:
            with self._inside():
                self.task.take_action(values, action_type="qpos")
        except Exception as error:
            self._broken = f"command {self.steps} of {self.name} failed in RoboTwin: {_why(error)}"
            raise RobotwinError(self._broken) from error
        self.steps += 1
        self._digest.update(self.states().tobytes())
        return self.success

    def check_command(self, action: ArrayLike) -> FloatArray:
        """The command as an array (14,). Raises RobotwinError naming every joint that is wrong."""
        values = np.asarray(action, np.float64)
        if values.shape != (COMMAND_SIZE,):
            raise RobotwinError(f"the command has shape {values.shape}; expected ({COMMAND_SIZE},) for {list(JOINTS)}")
        limits = self._limits_A2 if len(self._limits_A2) else np.tile([-np.inf, np.inf], (COMMAND_SIZE, 1))
        fine = np.isfinite(values) & (values >= limits[:, 0] - _ROUNDING) & (values <= limits[:, 1] + _ROUNDING)
        if not fine.all():
            bad = {
                JOINTS[i]: f"{values[i]:g} not in [{limits[i, 0]:g}, {limits[i, 1]:g}]" for i in np.flatnonzero(~fine)
            }
            raise RobotwinError(f"the command has {bad}; joints are in rad, grippers 0 (closed) to 1 (open)")
        return values

    def view(self) -> View:
        """Draw all cameras. Raises RobotwinError if ``get_obs`` raises or gives something else."""
        self._require_reset()
        try:
            seen = self.task.get_obs()
            cameras = {name: seen["observation"][theirs] for name, theirs in CAMERAS.items()}
            images = {name: np.asarray(camera["rgb"]) for name, camera in cameras.items()}
            intrinsics = {name: np.asarray(camera["intrinsic_cv"], np.float64) for name, camera in cameras.items()}
            state = np.asarray(seen["joint_action"]["vector"], np.float64)
            endposes = {
                arm: np.asarray(seen["endpose"][f"{arm}_endpose"], np.float64)[[0, 1, 2, 4, 5, 6, 3]]
                for arm in ("left", "right")
            }
        except Exception as error:
            raise RobotwinError(
                f"get_obs of {self.name} failed after {self.steps} commands: {_why(error)}; reset to go on"
            ) from error
        for name, image in images.items():
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise RobotwinError(
                    f"camera {CAMERAS[name]} of {self.name} gives {image.shape} {image.dtype}; expected (H, W, 3) uint8"
                )
        if state.shape != (COMMAND_SIZE,) or not np.isfinite(state).all():
            raise RobotwinError(
                f"joint_action.vector of {self.name} is {state}; expected {COMMAND_SIZE} finite numbers"
            )
        return View(images=images, intrinsics=intrinsics, state=state, measured=self.measured(), endposes=endposes)

    def observe(self, images: bool = True) -> Observation:
        """The contract's observation now. ``images`` False: none is drawn."""
        view = self.view() if images else None
        stamp = self.time_ns
        raw = view.images if view is not None else {}
        names = [name for name in self.contract.camera_names if name in raw]
        return Observation(
            stamp_ns=stamp,
            images={n: np.ascontiguousarray(prepare_image(raw[n], self.contract.camera(n))) for n in names},
            state=(self.commanded() if view is None else view.state).astype(np.float32),
            instruction=self.instruction,
            capture_ns=dict.fromkeys((*names, "state"), stamp),
        )

    def commanded(self) -> FloatArray:
        """(14,) where the drives are to go: the state that RoboTwin's policies see."""
        self._require_reset()
        robot = self.task.robot
        return _both(robot.get_left_arm_jointState(), robot.get_right_arm_jointState())

    def measured(self) -> FloatArray:
        """(14,) where the joints are; RoboTwin has no measurement of the grippers, theirs are the commands."""
        self._require_reset()
        robot = self.task.robot
        return _both(robot.get_left_arm_real_jointState(), robot.get_right_arm_real_jointState())

    def states(self) -> FloatArray:
        """Time, measured joints and the poses of all bodies: what tells two episodes apart."""
        bodies = [np.concatenate([np.ravel(pose.p), np.ravel(pose.q)]) for pose in self._poses()]
        return np.concatenate([[float(self.physics_steps)], self.measured(), *bodies]).astype(np.float64)

    # The expert.

    @property
    def has_commands_of_an_expert(self) -> bool:
        """Whether the expert acts through commands (the stand-in's); RoboTwin's plays by itself."""
        return hasattr(self.task, "expert")

    def commands_of_expert(self) -> CommandExpert:
        """The expert of this episode, from where the scene is now. Raises RobotwinError if there is none."""
        self._require_reset()
        if not self.has_commands_of_an_expert:
            raise RobotwinError(f"the expert of {self.name} does not act through commands: demonstrate() plays it")
        return cast(CommandExpert, cast(Any, self.task).expert())

    def demonstrate(self, on_frame: Callable[[], None] | None = None) -> Demonstration:
        """Let the expert act in the scene that was just reset; a failure of it is told, not raised.

        ``on_frame`` is called at every frame, one contract period apart to the nearest physics step, beginning with the
        first: RoboTwin's own demonstrations are sampled so. What it raises ends the demonstration and is raised here.
        """
        self._require_reset()
        assert self._counter is not None
        frames = _Frames(self, on_frame)
        try:
            with self._inside(), self._counter.watched(frames.step):
                frames.step()
                played = self.task.play_once()
                solved = bool(self.task.plan_success) and bool(self.task.check_success())
                frames.finish()  # advance the clock only, so that the last frame gets its label
        except _Interrupted as interruption:
            raise interruption.cause from None
        except Exception as error:  # noqa: BLE001  # RoboTwin: whatever the expert raises, the seed does not count
            return Demonstration(solved=False, info={}, reason=_why(error), targets_NA=frames.targets_NA)
        reason = "" if solved else "the goal does not hold" if self.task.plan_success else "no plan was found"
        info = dict(played["info"]) if isinstance(played, Mapping) and "info" in played else {}
        return Demonstration(solved=solved, info=info, reason=reason, targets_NA=frames.targets_NA)

    def close(self) -> None:
        """Free the scene; calling it again does nothing."""
        if self._resets:
            self._resets, self._counter = 0, None
            with self._inside():
                self.task.close_env(clear_cache=True)

    def _poses(self) -> list[Any]:
        return [actor.get_pose() for actor in self.task.scene.get_all_actors()]

    def _require_reset(self) -> None:
        if self._counter is None:
            raise RobotwinError(f"{self.name} was not reset yet")
        if self._broken:
            raise RobotwinError(f"{self._broken}; reset to go on")

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """A checkout's code finds its files from its root, and what it prints must not mix with our own output."""
        if self._folder is None:
            yield
            return
        with contextlib.chdir(self._folder), contextlib.redirect_stdout(sys.stderr):
            yield


class _PhysicsSteps:
    """The counter on a scene."""

    def __init__(self, scene: Scene) -> None:
        self.count = 0
        self._watcher: Callable[[], None] | None = None
        original = scene.step

        def step() -> None:
            original()
            self.count += 1
            if self._watcher is not None:
                self._watcher()

        step.counter = self  # type: ignore[attr-defined]
        try:
            scene.step = step  # type: ignore[method-assign]
        except AttributeError as error:
            raise RobotwinError(f"the physics steps of {type(scene).__name__} cannot be counted: {error}") from None

    @classmethod
    def of(cls, scene: Scene) -> _PhysicsSteps:
        """The scene's, which gets one if it has none."""
        counter = getattr(scene.step, "counter", None)
        return counter if isinstance(counter, cls) else cls(scene)

    @contextlib.contextmanager
    def watched(self, watcher: Callable[[], None]) -> Iterator[None]:
        """``watcher`` is called after every step of the block."""
        self._watcher = watcher
        try:
            yield
        finally:
            self._watcher = None


class _Interrupted(BaseException):
    """What ``on_frame`` raised, on its way through the expert, which may catch exceptions."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class _Frames:
    """Samples a demonstration: frame k at the physics step nearest to k contract periods."""

    def __init__(self, environment: RobotwinEnvironment, on_frame: Callable[[], None] | None) -> None:
        self._environment, self._on_frame = environment, on_frame
        self._period_steps = NS_PER_S / (environment.contract.rate_hz * PHYSICS_STEP_NS)
        self._targets: list[FloatArray] = []
        self._due = environment.physics_steps
        self._first = self._due

    @property
    def targets_NA(self) -> FloatArray:
        return np.reshape(self._targets, (-1, COMMAND_SIZE))

    def step(self) -> None:
        if self._environment.physics_steps != self._due:
            return
        self._targets.append(self._environment.commanded())
        self._due = self._first + round(len(self._targets) * self._period_steps)
        if self._on_frame is not None:
            try:
                self._on_frame()
            except Exception as error:  # noqa: BLE001  # raised again on the other side of the expert
                raise _Interrupted(error) from None

    def finish(self) -> None:
        """Up to the next frame."""
        seen = len(self._targets)
        while len(self._targets) == seen:
            self._environment.task.scene.step()


def _both(left: ArrayLike, right: ArrayLike) -> FloatArray:
    return np.concatenate([np.ravel(left), np.ravel(right)]).astype(np.float64)


def _joint_limits(task: Task) -> FloatArray:
    """(14, 2) of the robot's joints, and 0 to 1 of the grippers."""
    rows = []
    for joints in (task.robot.left_arm_joints, task.robot.right_arm_joints):
        rows += [np.asarray(joint.get_limits(), np.float64).reshape(-1)[:2] for joint in joints]
        rows.append(np.array([0.0, 1.0]))
    if len(rows) != COMMAND_SIZE:
        raise RobotwinError(f"the robot has {len(rows) - 2} arm joints; the bridge is for two arms of {ARM_JOINTS}")
    return np.stack(rows)


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _check_contract(contract: Contract) -> None:
    """Raises RobotwinError if the contract asks for what RoboTwin does not have."""
    unknown = sorted(set(contract.camera_names) - set(CAMERAS))
    if unknown:
        raise RobotwinError(f"contract {contract.name} wants the cameras {unknown}; RoboTwin has {list(CAMERAS)}")
    action = contract.action
    if contract.state.names != JOINTS or action.names != JOINTS or (action.space, action.mode) != ("joint", "absolute"):
        raise RobotwinError(
            f"contract {contract.name} has the state {list(contract.state.names)} and commands {list(action.names)} "
            f"({action.space}, {action.mode}); RoboTwin has {list(JOINTS)} (joint, absolute)"
        )
