"""Whether the bridge's environment is LIBERO, bit for bit: states, success, state vector and pictures.

``python -m sim_bridges.worlds.libero.exactness`` steps LIBERO's own ``OffScreenRenderEnv``, as its users' evaluations
do (both pictures drawn on every step), and :class:`LiberoEnvironment` with the same actions, each in a process of its
own, for 5 tasks of each of the paper's suites, and compares everything.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import mujoco
import numpy as np
import tyro
from numpy.typing import NDArray

from lavla_ros.typing import FloatArray
from sim_bridges.worlds.libero.assets import find_assets
from sim_bridges.worlds.libero.environment import WAIT_ACTION, WAIT_STEPS, LiberoEnvironment
from sim_bridges.worlds.libero.initial_states import read_initial_states
from sim_bridges.worlds.libero.package import import_libero
from sim_bridges.worlds.libero.pictures import CAMERAS
from sim_bridges.worlds.libero.tasks import find_task

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Episodes of one task, one after another in the same process."""

    suite: str
    task: int
    assets: str = ""
    initial_states: tuple[int, ...] = (0, 13)
    seed: int = 7
    steps: int = 48
    every: int = 8
    """Number of steps between two pictures that are compared."""
    resolution: int

    @property
    def actions(self) -> FloatArray:
        """(steps, 7): smooth random motion, mostly downwards so that things are touched; the gripper moves too."""
        rng = np.random.default_rng([self.task, self.steps])
        knots = rng.uniform(-1.0, 1.0, (self.steps // 6 + 2, 7))
        at = np.linspace(0.0, len(knots) - 1.0, self.steps)
        actions = np.stack([np.interp(at, np.arange(len(knots)), knots[:, i]) for i in range(7)], axis=1)
        actions[:, 2] = np.clip(actions[:, 2] - 0.5, -1.0, 1.0)
        actions[:, 6] = np.sign(actions[:, 6])
        return actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything that a policy or a judge could see of a case."""

    states: list[FloatArray] = field(default_factory=list)
    done: list[bool] = field(default_factory=list)
    seen: list[FloatArray] = field(default_factory=list)
    """(8,) end effector, axis-angle, fingers."""
    pictures: list[NDArray[np.uint8]] = field(default_factory=list)


def direct(case: Case) -> Trace:
    """LIBERO's own environment, as the evaluations that figures are published from step it."""
    trace = Trace()
    for index in case.initial_states:
        # A new one for every episode: what LIBERO draws depends on how often an environment was reset before.
        env, observed = begun(case.suite, case.task, case.assets, index, case.seed, case.resolution)
        to_axis_angle = importlib.import_module("robosuite.utils.transform_utils").quat2axisangle
        for step, action in enumerate(case.actions):
            trace.seen.append(
                np.concatenate(
                    [
                        observed["robot0_eef_pos"],
                        to_axis_angle(np.array(observed["robot0_eef_quat"])),
                        observed["robot0_gripper_qpos"],
                    ]
                )
            )
            if step % case.every == 0:
                trace.pictures.extend(np.array(observed[f"{camera}_image"]) for camera in CAMERAS.values())
            observed, _, done, _ = env.step(action)
            trace.states.append(np.array(env.get_sim_state()))
            trace.done.append(bool(done))
        env.close()
    return trace


def begun(
    suite: str, task: int | str, assets: str, initial_state: int, seed: int, resolution: int
) -> tuple[Any, dict[str, Any]]:
    """LIBERO's own environment where an episode begins, after the protocol's waiting steps, and what it observes."""
    found = find_task(suite, task)
    envs = import_libero(find_assets(assets).folder)
    draw_linear_colours()
    env = envs.OffScreenRenderEnv(
        bddl_file_name=str(found.bddl_file), camera_heights=resolution, camera_widths=resolution
    )
    env.seed(seed)
    env.reset()
    observed = env.set_init_state(read_initial_states(found.initial_states_file)[initial_state])
    for _ in range(WAIT_STEPS):
        observed = env.step(list(WAIT_ACTION))[0]
    return env, observed


def bridged(case: Case) -> Trace:
    """The same through :class:`LiberoEnvironment`."""
    environment = LiberoEnvironment(case.suite, case.task, assets=case.assets, resolution=case.resolution)
    trace = Trace()
    for index in case.initial_states:
        environment.reset(index, case.seed)
        for step, action in enumerate(case.actions):
            trace.seen.append(environment.state())
            if step % case.every == 0:
                raw = environment.raw_images()
                trace.pictures.extend(raw[camera] for camera in CAMERAS)
            trace.done.append(environment.step(action))
            trace.states.append(environment.states())
    environment.close()
    return trace


def differences(expected: Trace, found: Trace) -> list[str]:
    """What is not equal bit for bit, in words; empty where everything is."""
    lines = []
    for name in ("states", "done", "seen", "pictures"):
        left, right = getattr(expected, name), getattr(found, name)
        if len(left) != len(right):
            lines.append(f"{name}: {len(left)} against {len(right)}")
            continue
        unequal = [i for i, (a, b) in enumerate(zip(left, right, strict=True)) if not np.array_equal(a, b)]
        if unequal:
            first = unequal[0]
            apart = np.abs(np.asarray(left[first], np.float64) - np.asarray(right[first], np.float64)).max()
            lines.append(f"{name}: {len(unequal)} of {len(left)} differ, first number {first}, by up to {apart:.3g}")
    return lines


def each(function: Callable[[Case], Trace], cases: Sequence[Case]) -> list[Trace]:
    """The cases one after another in this process."""
    return [function(case) for case in cases]


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """robosuite allows one environment that draws at a time per process: two would draw garbage."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


@functools.cache
def draw_linear_colours() -> None:
    """Let robosuite draw the colours that LIBERO's demonstrations have (see :mod:`.pictures`)."""
    contexts = importlib.import_module("robosuite.utils.binding_utils").MjRenderContext
    make = contexts._set_mujoco_context_and_buffers

    def make_linear(self: Any) -> None:
        self.model._model.tex_colorspace[:] = int(mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR)
        make(self)

    contexts._set_mujoco_context_and_buffers = make_linear


@dataclass(frozen=True, kw_only=True)
class ExactnessConfig:
    """What to compare."""

    suites: tuple[str, ...] = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    tasks: tuple[int, ...] = (0, 2, 4, 6, 8)
    steps: int = 48
    resolution: int = 128
    assets: Path | None = None


def main() -> int:
    config = tyro.cli(ExactnessConfig, description=__doc__)
    unequal = 0
    for suite in config.suites:
        first = Case(
            suite=suite, task=0, assets=str(config.assets or ""), steps=config.steps, resolution=config.resolution
        )
        cases = [replace(first, task=task) for task in config.tasks]
        of_both = (in_own_process(each, function, cases) for function in (direct, bridged))
        for case, expected, found in zip(cases, *of_both, strict=True):
            lines = differences(expected, found)
            unequal += bool(lines)
            count = f"{len(expected.states)} states, {len(expected.pictures)} pictures"
            print(f"{suite} {case.task}: {'; '.join(lines) or f'equal bit for bit ({count})'}", flush=True)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
