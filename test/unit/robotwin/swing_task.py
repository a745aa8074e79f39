"""A task with RoboTwin's interface, small enough for a test: two arms that move as their drives say, without dynamics.

The goal: the first joint of each arm at its mark, both grippers open. The expert goes there, except that it finds no
plan for seeds that end in 7, stops short for those that end in 5, and the scene of those that end in 3 is unstable.
As RoboTwin's, it does not check commands, and does nothing at the step limit or after success.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lavla_ros.contract import Contract
from sim_bridges.world import Disturbance
from sim_bridges.worlds.robotwin.environment import RobotwinEnvironment, RobotwinError
from sim_bridges.worlds.robotwin.suite import RobotwinSuite, StandinOptions
from sim_bridges.worlds.robotwin.task_source import Instructions, Provenance

NAME = "swing_task:SwingSuite"
SPEED = 0.002
"""Radians a physics step."""
LIMIT = 60
ARM = 7


class UnStableError(Exception):
    """RoboTwin's name."""


class SwingScene:
    def __init__(self) -> None:
        self.joints, self.targets = np.zeros(14), np.zeros(14)
        self.ball = SimpleNamespace(p=np.zeros(3), q=np.array([1.0, 0.0, 0.0, 0.0]))

    def step(self) -> None:
        self.joints += np.clip(self.targets - self.joints, -SPEED, SPEED)
        self.ball.p[2] += 1e-3

    def get_all_actors(self) -> list[Any]:
        return [SimpleNamespace(get_pose=lambda: self.ball)]


class SwingRobot:
    def __init__(self, scene: SwingScene) -> None:
        self._scene = scene
        limits = SimpleNamespace(get_limits=lambda: np.array([[-2.0, 2.0]], np.float32))
        self.left_arm_joints = self.right_arm_joints = [limits] * 6

    def get_left_arm_jointState(self) -> list[float]:
        return list(self._scene.targets[:ARM])

    def get_right_arm_jointState(self) -> list[float]:
        return list(self._scene.targets[ARM:])

    def get_left_arm_real_jointState(self) -> list[float]:
        return [*self._scene.joints[: ARM - 1], self._scene.targets[ARM - 1]]

    def get_right_arm_real_jointState(self) -> list[float]:
        return [*self._scene.joints[ARM:-1], self._scene.targets[-1]]


class SwingTask:
    """``fault``: ``get_obs`` or ``take_action`` raises; the ``expert`` solves nothing, or has its process ``die`` or
    ``hang``."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.setups: list[dict[str, Any]] = []
        self.caches_cleared: list[bool] = []

    def setup_demo(self, **kwargs: Any) -> None:
        self.setups.append(kwargs)
        seed = int(kwargs["seed"])
        if seed % 10 == 3:
            raise UnStableError(f"Objects is unstable in seed({seed})")
        self.scene = SwingScene()
        self.robot = SwingRobot(self.scene)
        self._marks = np.random.default_rng(seed).uniform(0.1, 0.4, 2) * [1, -1]
        self.scene.ball.p[:2] = self._marks
        self._seed = seed
        self.take_action_cnt, self.step_lim = 0, LIMIT if kwargs.get("eval_mode") else None
        self.eval_success, self.plan_success = False, True
        self._instruction: str | None = None

    def get_obs(self) -> dict[str, Any]:
        if self.fault == "get_obs":
            raise RuntimeError("ErrorDeviceLost")
        pictures = {}
        for index, camera in enumerate(("head_camera", "left_camera", "right_camera")):
            rgb = np.full((240, 320, 3), 40 * index, np.uint8)
            column = int(160 + 300 * self.scene.joints[0 if index < 2 else ARM])
            rgb[:, max(0, column - 8) : column + 8] = (250, 120, 10)
            pictures[camera] = {"rgb": rgb, "intrinsic_cv": np.diag([358.6, 358.6, 1.0])}
        return {
            "observation": pictures,
            "joint_action": {"vector": self.scene.targets.copy()},
            "endpose": {
                "left_endpose": [0.1, 0.2, 0.3, 1.0, 0.0, 0.0, 0.0],
                "right_endpose": [0.4, 0.5, 0.6, 0.5, 0.1, 0.2, 0.3],
            },
        }

    def take_action(self, action: Any, action_type: str = "qpos") -> None:
        if self.take_action_cnt == self.step_lim or self.eval_success:
            return
        self.take_action_cnt += 1
        if self.fault == "take_action":
            raise RuntimeError("TOPP is out of order")
        self.scene.targets[:] = action  # a short one raises here, after the counter has moved
        distance = float(np.abs(self.scene.targets - self.scene.joints).max())
        for _ in range(max(3, int(np.ceil(distance / SPEED)))):
            self.scene.step()
            if self.check_success():
                self.eval_success = True
                return

    def check_success(self) -> bool:
        there = np.abs(self.scene.joints[[0, ARM]] - self._marks).max() < 0.01
        return bool(there and min(self.scene.targets[[ARM - 1, -1]]) > 0.8)

    def play_once(self) -> dict[str, Any]:
        if self.fault == "die":
            os._exit(3)
        if self.fault == "hang":
            time.sleep(600)
        self.plan_success = self._seed % 10 != 7 and self.fault != "expert"
        if self.plan_success:
            goal = np.zeros(14)
            goal[[0, ARM]] = self._marks * (0.5 if self._seed % 10 == 5 else 1.0)
            goal[[ARM - 1, -1]] = 1.0
            for part in np.linspace(0.0, 1.0, 250):
                self.scene.targets[:] = goal * part
                self.scene.step()
            for _ in range(20):
                self.scene.step()
        return {"info": {"{A}": "left mark", "{B}": "right mark"}}

    def set_instruction(self, instruction: str | None = None) -> None:
        self._instruction = instruction

    def get_instruction(self, instruction: str | None = None) -> str | None:
        return self._instruction

    def close_env(self, clear_cache: bool = False) -> None:
        self.caches_cleared.append(clear_cache)


class SwingSource:
    suite = "swing"
    tasks = ("swing", "swing_again")
    distributions = ("numpy",)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def step_limit(self, task: str) -> int:
        return LIMIT

    def environment(self, task: str, contract: Contract) -> RobotwinEnvironment:
        return RobotwinEnvironment(SwingTask(self.fault), {"eval_mode": True}, name=task, contract=contract)

    def instruction(self, task: str, seed: int, info: Mapping[str, Any], kind: Instructions) -> str:
        verb = np.random.default_rng(seed).choice(["Swing to", "Reach", "Go to"])
        return f"{verb} the {info['{A}']} and the {info['{B}']} ({kind})."

    def disturbance(self, seed: int) -> Disturbance:
        raise RobotwinError("it plays by itself")

    def provenance(self) -> Provenance:
        return Provenance(source="drawn in the test", hash="swing", comparable=not self.fault, statement="It swings.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SwingOptions(StandinOptions):
    fault: str = ""


class SwingSuite(RobotwinSuite):
    """Two tasks of a few dozen commands."""

    def __init__(self, options: SwingOptions = SwingOptions(), **more: Any) -> None:
        super().__init__(SwingSource(options.fault), default_tasks=("swing",), options=options, **more)


def goal_of(task: SwingTask) -> np.ndarray:
    """The command that solves the scene."""
    command = np.zeros(14)
    command[[0, ARM]] = task._marks
    command[[ARM - 1, -1]] = 1.0
    return command
