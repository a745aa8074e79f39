"""The tabletop as a suite: simulated time waits for the policy, so results repeat bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from lavla_ros.resources import config_path
from sim_bridges.evaluation.config import EvaluationConfig
from sim_bridges.evaluation.evaluation import evaluate as evaluate_suite
from sim_bridges.evaluation.policies import policy_hash
from sim_bridges.evaluation.results import EpisodeResult, Results, same_episodes
from sim_bridges.tabletop.tasks import LayoutName, TaskName
from sim_bridges.world import (
    Assets,
    Comparability,
    Disturbance,
    Evaluated,
    Expert,
    Outcome,
    Plan,
    Recipes,
    Rules,
    Start,
    SuiteError,
)

__all__ = ["EVALUATION_SEED_BASE", "TabletopEvaluation", "TabletopSuite", "evaluate", "policy_hash", "same_episodes"]

EVALUATION_SEED_BASE = 1_000_000
"""Evaluation episodes use seeds from here on, recordings stay below: a policy never meets its training layouts."""
TASKS: tuple[TaskName, ...] = ("pick_place", "stack_bowls")


def episode_seed(seed: int, trial: int) -> int:
    """The simulator's seed of a trial of an evaluation."""
    return EVALUATION_SEED_BASE + seed * 10_000 + trial


@dataclass(frozen=True, slots=True, kw_only=True)
class TabletopOptions:
    """What the tabletop may be told."""

    layout: LayoutName = "id"
    """Object placements like those of the demonstrations (id), or outside of them (ood)."""
    contract: str = "jaka_minicobo"
    """Contract: a shipped name or a YAML file."""


class TabletopSuite:
    """See :class:`sim_bridges.world.Suite`."""

    name = "tabletop"
    tasks: tuple[str, ...] = TASKS
    default_tasks: tuple[str, ...] = ("pick_place",)
    rules = Rules(episodes=50, seed=0, max_steps=200, replan_steps=10)  # 20 s, the paper's limit (Appendix F)
    task_in_process = False
    policy = "bundled"

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
            live=True,
        )

    def plan(self, task: str, trial: int, seed: int) -> Start:
        if not 0 <= trial < 10_000:
            raise SuiteError(f"episodes is {trial + 1}; a seed of the tabletop has 10000 layouts")
        return Start(episode_seed(seed, trial))

    def environment(self, task: str, *, images: bool) -> TabletopEnvironment:
        return TabletopEnvironment(cast(TaskName, task), self.layout, self.contract, images=images)

    def assets(self) -> Assets:
        return Assets(source="part of the package")

    def comparability(self, evaluated: Evaluated) -> Comparability:
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
        from sim_bridges.tabletop.lockstep import LockstepSession
        from sim_bridges.tabletop.render import TabletopRenderer
        from sim_bridges.tabletop.sim import TabletopSim

        self.contract = contract
        self.sim = TabletopSim(task, layout=layout)
        camera = contract.cameras[0]
        # The expert needs no OpenGL.
        self._renderer = TabletopRenderer(self.sim, (camera.height, camera.width)) if images else None
        executor = ChunkExecutor(contract, ExecutorConfig.from_contract(contract))
        self.session = LockstepSession(self.sim, executor, contract, self._renderer)

    def reset(self, plan: Plan) -> str:
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
        from sim_bridges.tabletop.expert import ScriptedExpert

        return ScriptedExpert(self.sim, self.contract)

    def disturbance(self, plan: Plan) -> Disturbance:
        from sim_bridges.tabletop.disturbance import DisturbanceConfig, DisturbanceSource

        return DisturbanceSource(DisturbanceConfig(), plan.seed)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()


@dataclass(frozen=True, kw_only=True)
class TabletopEvaluation:
    """An evaluation on one task of the tabletop, in short; see :class:`EvaluationConfig` for the words."""

    task: TaskName = "pick_place"
    policy: str = "bundled"
    contract: str = "jaka_minicobo"
    layout: LayoutName = "id"
    episodes: int = 50
    seed: int = 0
    max_steps: int = 200
    replan_steps: int = 10
    latency_steps: int = 0
    config: EvaluationConfig = field(init=False)

    def __post_init__(self) -> None:
        config = EvaluationConfig(
            suite="tabletop",
            tasks=(self.task,),
            policy=self.policy,
            episodes=self.episodes,
            seed=self.seed,
            max_steps=self.max_steps,
            replan_steps=self.replan_steps,
            latency_steps=self.latency_steps,
            options={"layout": self.layout, "contract": self.contract},
            videos=0,
        )
        object.__setattr__(self, "config", config)

    def episode_seed(self, index: int) -> int:
        return episode_seed(self.seed, index)


def evaluate(
    evaluation: TabletopEvaluation, *, workers: int = 1, on_episode: Callable[[EpisodeResult], None] | None = None
) -> Results:
    """Run all episodes, keeping nothing on disk; the number of workers changes nothing but the wall time."""
    return evaluate_suite(evaluation.config, workers=workers, on_episode=on_episode)
