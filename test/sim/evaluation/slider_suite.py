"""A suite small enough for a test and real enough for the harness: a MuJoCo slider that has to stop at a mark.

What it is told by the environment: ``SLIDER_FAULT`` = ``kind:trial`` (its expert then dies, hangs, raises, or commands
nonsense in that trial), ``SLIDER_SLOW`` = seconds per step, ``SLIDER_JOURNAL`` = a file that gets a line for every
episode begun.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from lavla_ros.contract import ActionChunk, Contract, Observation
from lavla_ros.recording import find_bags
from sim_bridges.world import (
    Assets,
    Comparability,
    EpisodePlan,
    EpisodeStart,
    EvaluationConditions,
    Outcome,
    Rules,
    SuiteError,
)

NAME = "slider_suite:SliderSuite"
CONTRACT = Contract.from_dict(
    {
        "name": "slider",
        "robot": "slider",
        "rate_hz": 10,
        "chunk_size": 4,
        "cameras": [{"name": "front", "topic": "/camera/front/image_raw", "width": 32, "height": 32}],
        "state": {"topic": "/joint_states", "fields": [{"name": "x", "unit": "m"}, {"name": "mark", "unit": "m"}]},
        "action": {"topic": "/joint_command", "dims": [{"name": "x", "unit": "m", "low": -1.0, "high": 1.0}]},
        "alignment": {"reference": "front"},
    }
)
SCENE = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="cart"><joint name="x" type="slide" axis="1 0 0" damping="8"/>
      <geom type="box" size=".05 .05 .05" mass="{mass_kg}"/></body>
  </worldbody>
  <actuator><position joint="x" kp="60" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliderOptions:
    broken: str = ""
    mass_kg: float = 1.0


class SliderSuite:
    name = "slider"
    contract = CONTRACT
    tasks: tuple[str, ...] = ("near", "far")
    default_tasks: tuple[str, ...] = ("near", "far")
    rules = Rules(episodes=4, seed=3, max_steps=20, replan_steps=2)
    task_in_process = False

    def __init__(self, options: SliderOptions = SliderOptions()) -> None:
        self._options = options

    def plan(self, task: str, trial: int, seed: int) -> EpisodeStart:
        if trial >= 8:
            raise SuiteError(f"initial state {trial} is out of range: a task has 8")
        return EpisodeStart(seed, trial)

    def environment(self, task: str, *, images: bool) -> Slider:
        if self._options.broken:
            raise SuiteError(f"the slider is broken: {self._options.broken}")
        return Slider(task, self._options.mass_kg)

    def assets(self) -> Assets:
        return Assets(source="drawn in the test")

    def comparability(self, evaluated: EvaluationConditions) -> Comparability:
        return Comparability(comparable=False, statement="Nobody has published anything about sliders.")

    def versions(self) -> tuple[str, ...]:
        return ("mujoco",)


class OneTaskSuite(SliderSuite):
    """One that needs a new process for every task."""

    task_in_process = True


class LiveSuite(SliderSuite):
    """One with a live stack of its own."""

    @property
    def live(self) -> LiveSlider:
        return LiveSlider()


class LiveSlider:
    """Shows the bags of ``SLIDER_BAGS`` as if they were recorded now; a policy from outside stops at once."""

    ran, episode_s = "nothing", 2.0

    def show(
        self, folder: Path, *, task: str, policy: str, episodes: int, seed: int, say: Callable[[str], None]
    ) -> list[Mapping[str, Any]]:
        if "outside" in policy:
            raise SuiteError("the cart is stuck")
        bags = find_bags([Path(os.environ["SLIDER_BAGS"])])[:episodes]
        return [{"seed": seed, "state": "succeeded", "score": 1.0, "elapsed_s": 1.0, "bag": bag} for bag in bags]


class Slider:
    def __init__(self, task: str, mass_kg: float) -> None:
        self._reach = {"near": 0.3, "far": 0.9}[task]
        self._model = mujoco.MjModel.from_xml_string(SCENE.format(mass_kg=mass_kg))
        self._data = mujoco.MjData(self._model)
        self._steps = 0
        self.plan: EpisodePlan | None = None

    def reset(self, plan: EpisodePlan) -> str:
        _note(f"{plan.task} {plan.trial}")
        mujoco.mj_resetData(self._model, self._data)
        rng = np.random.default_rng([plan.seed, plan.trial])
        self.mark = self._reach * rng.uniform(0.5, 1.0) * rng.choice([-1, 1])
        self._data.qpos[0] = rng.normal(0, 0.01)
        self._digest = hashlib.sha256()
        self._steps, self.plan = 0, plan
        return hashlib.sha256(self._data.qpos.tobytes()).hexdigest()[:16]

    def observe(self, *, images: bool) -> Observation:
        return Observation(
            stamp_ns=self._steps * CONTRACT.dt_ns,
            images={"front": self._picture()} if images else {},
            state=np.array([self._data.qpos[0], self.mark], np.float32),
            instruction="stop at the mark",
        )

    def _picture(self) -> np.ndarray:
        """(32, 32, 3) RGB: the mark is a green column, the cart a red one."""
        picture = np.zeros((32, 32, 3), np.uint8)
        for channel, x in ((1, self.mark), (0, self._data.qpos[0])):
            picture[:, round(float(np.clip(15.5 + 15 * x, 0, 31))), channel] = 255
        return picture

    def step(self, chunk: ActionChunk | None) -> None:
        if chunk is not None:
            self._data.ctrl[0] = chunk.actions_HA[0, 0]
        for _ in range(10):
            mujoco.mj_step(self._model, self._data)
        self._digest.update(self._data.qpos.tobytes() + self._data.qvel.tobytes())
        self._steps += 1
        time.sleep(float(os.environ.get("SLIDER_SLOW", 0)))

    def outcome(self) -> Outcome:
        there = abs(self._data.qpos[0] - self.mark) < 0.02 and abs(self._data.qvel[0]) < 0.05
        return Outcome(success=bool(there), score=float(there))

    @property
    def trajectory(self) -> str:
        return self._digest.hexdigest()[:16]

    def expert(self) -> Driver:
        return Driver(self)

    def close(self) -> None:
        pass


class Driver:
    """Drives to the mark, but stays 5 cm short in trial 3, and does what SLIDER_FAULT says."""

    done = False

    def __init__(self, slider: Slider) -> None:
        self._slider = slider
        self._asked = 0

    def reset(self) -> None:
        self._asked = 0

    def chunk(self) -> ActionChunk:
        plan = self._slider.plan
        assert plan is not None
        kind, _, trial = os.environ.get("SLIDER_FAULT", "").partition(":")
        if kind and int(trial) in (plan.trial, -1) and plan.task == "near" and self._asked == 2:
            if kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hang":
                time.sleep(600)
            if kind == "raise":
                raise ValueError("the driver fell asleep")
        else:
            kind = ""
        self._asked += 1
        target = self._slider.mark - (0.05 if plan.trial == 3 else 0.0)
        value = np.nan if kind == "nan" else target
        return ActionChunk(
            stamp_ns=0,
            dt_ns=CONTRACT.dt_ns,
            actions_HA=np.full((1, 2 if kind == "wide" else 1), value),
            names=CONTRACT.action.names,
        )


def _note(line: str) -> None:
    if journal := os.environ.get("SLIDER_JOURNAL"):
        with Path(journal).open("a") as file:
            file.write(line + "\n")
