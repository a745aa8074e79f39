"""The tabletop as a suite: simulated time waits for the policy, so results repeat bit for bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, cast, get_args

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from lavla_ros.defaults import BUNDLED_POLICY, DEFAULT_CONTRACT, REPLAN_STEPS
from lavla_ros.resources import config_path
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TabletopOptions:
    """What the tabletop may be told."""

    layout: LayoutName = TRAINED_LAYOUT
    """Object placements like those of the demonstrations (id), or outside of them (ood)."""
    contract: str = DEFAULT_CONTRACT
    """Contract: a shipped name or a YAML file."""


class TabletopSuite:
    """See :class:`sim_bridges.world.Suite`."""

    name = "tabletop"
    tasks: tuple[str, ...] = TASKS
    default_tasks: tuple[str, ...] = (USUAL_TASK,)
    # 20 s without progress (Appendix F.2). A grasp is progress once, so that an episode has two such spans at most.
    rules = Rules(episodes=50, seed=0, max_steps=400, replan_steps=REPLAN_STEPS, patience_steps=200)
    task_in_process = False
    policy = BUNDLED_POLICY
    demonstration_steps = 150
    first_evaluation_seed = EVALUATION_SEED_BASE
    """Recordings use seeds below this."""

    def __init__(self, options: TabletopOptions = TabletopOptions()) -> None:  # frozen
        self.layout = options.layout
        self.scene = {"layout": options.layout}
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
        from sim_bridges.worlds.tabletop.live_episodes import LiveTable

        return LiveTable()

    def plan(self, task: str, trial: int, seed: int) -> EpisodeStart:
        if not 0 <= trial < 10_000:
            raise SuiteError(f"episodes is {trial + 1}; a seed of the tabletop has 10000 layouts")
        return EpisodeStart(EVALUATION_SEED_BASE + seed * 10_000 + trial)

    def describe(self, plan: EpisodePlan) -> dict[str, Any]:
        return {"task": plan.task, "layout": self.layout, "seed": plan.seed}

    def environment(self, task: str, *, images: bool) -> TabletopEnvironment:
        return TabletopEnvironment(cast(TaskName, task), self.layout, self.contract, images=images)

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

    def __init__(self, task: TaskName, layout: LayoutName, contract: Contract, *, images: bool) -> None:
        from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
        from sim_bridges.worlds.tabletop.lockstep import LockstepSession
        from sim_bridges.worlds.tabletop.render import TabletopRenderer
        from sim_bridges.worlds.tabletop.sim import TabletopSim

        self.contract = contract
        self.sim = TabletopSim(task, layout=layout)
        camera = contract.cameras[0]
        # The expert needs no OpenGL.
        self._renderer = TabletopRenderer(self.sim, (camera.height, camera.width)) if images else None
        executor = ChunkExecutor(contract, ExecutorConfig.from_contract(contract))
        self.session = LockstepSession(self.sim, executor, contract, self._renderer)

    def reset(self, plan: EpisodePlan) -> str:
        self.session.reset(plan.seed)
        return hashlib.sha256(self.sim.snapshot().tobytes()).hexdigest()[:16]

    def observe(self, *, images: bool) -> Observation:
        return self.session.observe(render=images)

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
