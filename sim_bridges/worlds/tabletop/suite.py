"""The tabletop as a suite: simulated time waits for the policy, so results repeat bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast, get_args

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from lavla_ros.defaults import BUNDLED_POLICY, DEFAULT_CONTRACT, REPLAN_STEPS
from lavla_ros.jaka.limits import JOINT_NAMES
from lavla_ros.resources import config_path
from sim_bridges.perturbation import UNPERTURBED, Perturbation, PerturbationOptions, perturbed, reworded
from sim_bridges.world import (
    Assets,
    Comparability,
    Disturbance,
    EpisodePlan,
    EpisodeStart,
    EvaluationConditions,
    Expert,
    Live,
    Outcome,
    Recipes,
    Rules,
    SuiteError,
)
from sim_bridges.worlds.tabletop.names import TRAINED_LAYOUT, USUAL_TASK, LayoutName, TaskName

EVALUATION_SEED_BASE = 1_000_000
"""Evaluation episodes use seeds from here on, recordings stay below: a policy never meets its training layouts."""
TASKS: tuple[TaskName, ...] = get_args(TaskName)
PAPER_TASKS: tuple[TaskName, ...] = TASKS[1:]
_STEPS = {"stack_3_bowls": (600, 300), "stack_4_bowls": (800, 400), "wipe_stain": (600, 300)}
"""Task → contract steps after which an episode, and an expert's demonstration, has failed. A grasp or a placement is
progress once, so that an episode has only so many spans without."""


def _steps(task: str) -> tuple[int, int]:
    return _STEPS.get(task, (400, 150))


@dataclass(frozen=True, slots=True, kw_only=True)
class TabletopOptions(PerturbationOptions):
    """What the tabletop may be told."""

    layout: LayoutName = TRAINED_LAYOUT
    """Object placements like those of the demonstrations (id), or outside of them (ood)."""
    contract: str = DEFAULT_CONTRACT
    """Contract: a shipped name or a YAML file."""
    scene: str = ""
    """What the arm must not touch (config/scenes, or a YAML file): the executor brakes before it. Empty: anything."""
    obstacles: str = ""
    """A scene whose boxes stand on the table in the physics, unseen by the cameras. Empty: none."""


class TabletopSuite:
    """See :class:`sim_bridges.world.Suite`."""

    name = "tabletop"
    tasks: tuple[str, ...] = TASKS
    default_tasks: tuple[str, ...] = (USUAL_TASK,)
    # The paper's (Appendix F): the stacks, wiping, and what is picked and placed amid clutter.
    task_sets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "paper": PAPER_TASKS,
        "paper_stacks": PAPER_TASKS[:3],
        "paper_places": PAPER_TASKS[4:],
    }
    protocols: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "paper": dict(zip(PAPER_TASKS, (20, 15, 15, 50, 50, 50, 50), strict=True))
    }
    # 20 s without progress (Appendix F.2).
    rules = Rules(
        episodes=50,
        seed=0,
        max_steps=max(most for most, _ in _STEPS.values()),
        replan_steps=REPLAN_STEPS,
        patience_steps=200,
    )
    task_in_process = False
    policy = BUNDLED_POLICY
    demonstration_steps: ClassVar[Mapping[str, int]] = {task: _steps(task)[1] for task in TASKS}
    first_evaluation_seed = EVALUATION_SEED_BASE
    """Recordings use seeds below this."""

    def __init__(self, options: TabletopOptions = TabletopOptions()) -> None:  # frozen
        self.layout = options.layout
        self._perturbations = options
        named = {key: value for key in ("scene", "obstacles") if (value := getattr(options, key))}
        self.scene = {"layout": options.layout} | named | perturbed(options)
        self._shapes, self._obstacles = options.scene, options.obstacles
        self.contract: Contract = load_contract(options.contract)
        self.recipes = Recipes(
            action=config_path("latent/action_tabletop.yaml"),
            image=config_path("latent/image_tabletop.yaml"),
            policy=config_path("training/tabletop_tiny.yaml"),
            episodes=100,
            seed=2,
        )

    @property
    def live(self) -> Live:
        """Raises AttributeError if the scenes are perturbed, which the live stack knows nothing of."""
        if changed := perturbed(self._perturbations):
            raise AttributeError(f"a tabletop with {changed} is not run live")
        from sim_bridges.worlds.tabletop.live_episodes import LiveTable

        return LiveTable()

    def plan(self, task: str, trial: int, seed: int) -> EpisodeStart:
        if not 0 <= trial < 10_000:
            raise SuiteError(f"episodes is {trial + 1}; a seed of the tabletop has 10000 layouts")
        return EpisodeStart(EVALUATION_SEED_BASE + seed * 10_000 + trial, max_steps=_steps(task)[0])

    def describe(self, plan: EpisodePlan) -> dict[str, Any]:
        return {"task": plan.task, "layout": self.layout, "seed": plan.seed} | perturbed(self._perturbations)

    def environment(self, task: str, *, images: bool) -> TabletopEnvironment:
        return TabletopEnvironment(
            cast(TaskName, task),
            self.layout,
            self.contract,
            images=images,
            scene=self._shapes,
            perturbations=self._perturbations,
            obstacles=self._obstacles,
        )

    def assets(self) -> Assets:
        return Assets(source="part of the package")

    def comparability(self, evaluated: EvaluationConditions) -> Comparability:
        return Comparability(
            comparable=False,
            statement="Not comparable with published numbers: this task exists only here. Figures of the tabletop "
            "compare with one another where suite, task, layout and seed are the same.",
        )

    def versions(self) -> tuple[str, ...]:
        return ("mujoco", "ruckig")


class TabletopEnvironment:
    """See :class:`sim_bridges.world.Environment`. Chunks are executed by the real arm's executor."""

    def __init__(
        self,
        task: TaskName,
        layout: LayoutName,
        contract: Contract,
        *,
        images: bool,
        scene: str = "",
        perturbations: PerturbationOptions = UNPERTURBED,
        obstacles: str = "",
    ) -> None:
        from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
        from lavla_ros.control.scene import load_scene
        from lavla_ros.control.servo_config import ServoConfig
        from sim_bridges.worlds.tabletop.lockstep import LockstepSession
        from sim_bridges.worlds.tabletop.render import TabletopRenderer
        from sim_bridges.worlds.tabletop.sim import TabletopSim

        self.contract = contract
        boxes = load_scene(obstacles).boxes if obstacles else ()
        self.sim = TabletopSim(task, layout=layout, obstacles=boxes)
        camera = contract.cameras[0]
        self._wording = perturbations.wording
        self._perturbation = Perturbation(perturbations, self.sim.model, "front")
        # The expert needs no OpenGL.
        self._renderer = TabletopRenderer(self.sim, (camera.height, camera.width)) if images else None
        clearance = ServoConfig(contract=contract.name, scene=scene).clearance(contract)
        executor = ChunkExecutor(contract, ExecutorConfig.from_contract(contract), clearance)
        self.session = LockstepSession(self.sim, executor, contract, self._renderer)

    def reset(self, plan: EpisodePlan) -> str:
        self.session.reset(plan.seed, self._perturbation.start_shift([plan.seed], len(JOINT_NAMES)))
        self._perturbation.move_camera([plan.seed], self.sim.data, self.sim.concerned)
        return hashlib.sha256(self.sim.snapshot().tobytes()).hexdigest()[:16]

    def observe(self, *, images: bool) -> Observation:
        seen = self.session.observe(render=images)
        return replace(seen, instruction=reworded(seen.instruction, self._wording))

    def step(self, chunk: ActionChunk | None) -> None:
        self.session.step(chunk)

    def outcome(self) -> Outcome:
        outcome = self.sim.outcome()
        return Outcome(success=bool(outcome.success), score=float(outcome.score))

    @property
    def trajectory(self) -> str:
        return self.session.trajectory

    def expert(self) -> Expert:
        from sim_bridges.worlds.tabletop.expert import ScriptedExpert

        return ScriptedExpert(self.sim, self.contract)

    def disturbance(self, plan: EpisodePlan) -> Disturbance:
        from sim_bridges.worlds.tabletop.disturbance import DisturbanceConfig, DisturbanceSource

        return DisturbanceSource(DisturbanceConfig(), plan.seed)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
