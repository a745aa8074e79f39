"""LIBERO's suites: the standard protocol, on the package's own environment.

Steps, waiting steps, initial states and the seed are those of OpenVLA-OFT's ``run_libero_eval.py`` and openpi's
``examples/libero/main.py``; a new inference every 8 steps is OpenVLA-OFT's and the paper's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lavla_ros.contract import ActionChunk, Contract, Observation, load_contract
from lavla_ros.resources import config_path
from sim_bridges.episode import ChunksOfOne
from sim_bridges.perturbation import PerturbationOptions, perturbed
from sim_bridges.world import (
    Assets,
    Comparability,
    Disturbance,
    EpisodePlan,
    EpisodeStart,
    EvaluationConditions,
    Expert,
    Outcome,
    Recipes,
    Rules,
    SuiteError,
    judge,
)
from sim_bridges.worlds.libero.assets import find_assets
from sim_bridges.worlds.libero.jobs import NoExpertError, has_expert, read_jobs
from sim_bridges.worlds.libero.tasks import PROTOCOL_SEED, PROTOCOL_TRIALS, STEP_LIMITS, find_task, suite_tasks

if TYPE_CHECKING:
    from sim_bridges.worlds.libero.demonstrations import Demonstrations
    from sim_bridges.worlds.libero.environment import LiberoEnvironment

NO_MOTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
"""The protocol's waiting action: no motion, gripper open."""
WITH_EXPERT = "with_expert"
"""Name for those tasks of a suite that have a scripted expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoOptions(PerturbationOptions):
    """What a suite of LIBERO may be told."""

    assets: str = ""
    """Folder of LIBERO's scene files, if they are not found otherwise."""
    contract: str = "libero"
    """Contract: a shipped name or a YAML file."""
    resolution: int = 256
    """Edge of the simulator's pictures, pixels."""
    demonstrations: str = ""
    """Folder of LIBERO's demonstration files (<task>_demo.hdf5). Episodes begin in their initial states, and the expert
    repeats their actions without the pauses."""


class LiberoSuite:
    """See :class:`sim_bridges.world.Suite`."""

    task_in_process = False

    def __init__(self, name: str, options: LiberoOptions = LiberoOptions()) -> None:  # frozen
        """Raises LiberoError if LIBERO is not installed."""
        self.name = name
        self.contract: Contract = load_contract(options.contract)
        self.tasks = tuple(task.name for task in suite_tasks(name))
        self.default_tasks = self.tasks
        self.rules = Rules(episodes=PROTOCOL_TRIALS, seed=PROTOCOL_SEED, max_steps=STEP_LIMITS[name], replan_steps=8)
        self._assets, self._resolution = options.assets, options.resolution
        self._perturbations = options
        self._demonstrations = Path(options.demonstrations) if options.demonstrations else None
        self.recipes = Recipes(
            action=config_path("latent/action_libero_tiny.yaml"),
            image=config_path("latent/image_libero_tiny.yaml"),
            policy=config_path("training/libero_tiny.yaml"),
            episodes=20,
        )

    @cached_property
    def task_sets(self) -> Mapping[str, tuple[str, ...]]:
        return {WITH_EXPERT: tuple(task.name for task in suite_tasks(self.name) if has_expert(task))}

    def require_expert(self, task: str) -> None:
        """Raises NoExpertError if the task has no scripted expert: it says why, and which tasks have one."""
        if self._demonstrations is not None:
            return
        try:
            read_jobs(find_task(self.name, task))
        except NoExpertError as error:
            others = [str(self.tasks.index(name)) for name in self.task_sets[WITH_EXPERT]]
            raise NoExpertError(
                f"{self.name} task {self.tasks.index(task)}: {error}; tasks that have one ({WITH_EXPERT}): "
                f"{', '.join(others)}"
            ) from None

    def plan(self, task: str, trial: int, seed: int) -> EpisodeStart:
        """The seed is the simulator's for every trial; what differs is the initial state."""
        demonstrated = self.demonstrated(task)
        count = PROTOCOL_TRIALS if demonstrated is None else len(demonstrated.names)
        if not 0 <= trial < count:
            raise SuiteError(
                f"initial state {trial} of {self.name} is out of range: a task has {count}, 0 to {count - 1}, so "
                f"--episodes is {count} at most"
            )
        return EpisodeStart(seed, trial)

    def demonstrated(self, task: str) -> Demonstrations | None:
        """The recorded demonstrations of a task, if the options name some. Raises LiberoError for unusable files."""
        if self._demonstrations is None:
            return None
        from sim_bridges.worlds.libero.demonstrations import read_demonstrations

        return read_demonstrations(self._demonstrations, find_task(self.name, task))

    def describe(self, plan: EpisodePlan) -> dict[str, Any]:
        assets = self.assets()
        scene = {
            "suite": self.name,
            "task": self.tasks.index(plan.task),
            "initial_state": plan.state_index,
            "seed": plan.seed,
            "assets": assets.hash,
            "comparable": not assets.stand_ins,
        }
        demonstrated = self.demonstrated(plan.task)
        if demonstrated is not None and plan.state_index is not None:
            scene["demonstration"] = f"{demonstrated.file.name}:{demonstrated.names[plan.state_index]}"
        return scene | perturbed(self._perturbations)

    def environment(self, task: str, *, images: bool) -> LiberoTaskEnvironment:
        from sim_bridges.worlds.libero.environment import LiberoEnvironment

        cameras = None if images else ()
        demonstrated = self.demonstrated(task)
        environment = LiberoEnvironment(
            self.name,
            task,
            resolution=self._resolution,
            assets=find_assets(self._assets),
            cameras=cameras,
            contract=self.contract,
            initial_states=None if demonstrated is None else demonstrated.initial_states,
            perturbations=self._perturbations,
        )
        return LiberoTaskEnvironment(environment, self.contract, demonstrated)

    def assets(self) -> Assets:
        found = find_assets(self._assets).provenance
        return Assets(
            source=f"{found.folder} ({found.found_by})",
            hash=found.hash,
            stand_ins=len(found.stand_ins) + len(found.altered),
            statement=found.statement,
        )

    def comparability(self, evaluated: EvaluationConditions) -> Comparability:
        rules, assets = self.rules, self.assets()
        reasons = []
        if assets.stand_ins:
            reasons.append(f"{assets.stand_ins} of the scenes' files are not LIBERO's own but stand-ins")
        if changed := perturbed(self._perturbations):
            reasons.append("the scenes are perturbed: " + ", ".join(f"{k} {v}" for k, v in changed.items()))
        if self._demonstrations is not None:
            reasons.append("the episodes begin in the initial states of demonstrations")
        if evaluated.tasks != self.tasks:
            reasons.append(f"{len(evaluated.tasks)} of the suite's {len(self.tasks)} tasks")
        for word, ours, theirs in (
            ("episodes a task", evaluated.episodes, rules.episodes),
            ("steps at most", evaluated.max_steps, rules.max_steps),
            ("as the seed", evaluated.seed, rules.seed),
            ("steps between inferences", evaluated.replan_steps, rules.replan_steps),
        ):
            if ours != theirs:
                reasons.append(f"{ours} {word} in place of {theirs}")
        return judge("LIBERO", evaluated, reasons, assets.statement)

    def bench(self, task: str, actions_NA: NDArray[np.float64]) -> dict[str, Any]:
        """LIBERO's own environment, drawn on every step, with the same actions."""
        from sim_bridges.worlds.libero.speed import Episode, compare_speed

        return compare_speed(
            Episode(
                suite=self.name, task=task, assets=self._assets, actions_NA=actions_NA, every=self.rules.replan_steps
            )
        )

    def versions(self) -> tuple[str, ...]:
        return ("hf-libero", "robosuite", "bddl", "mujoco")


libero_spatial = partial(LiberoSuite, "libero_spatial")
libero_object = partial(LiberoSuite, "libero_object")
libero_goal = partial(LiberoSuite, "libero_goal")
libero_10 = partial(LiberoSuite, "libero_10")
libero_90 = partial(LiberoSuite, "libero_90")


class LiberoTaskEnvironment:
    """One task as an environment of the harness: chunks of relative actions are executed action by action."""

    def __init__(
        self, environment: LiberoEnvironment, contract: Contract, demonstrated: Demonstrations | None = None
    ) -> None:
        """``demonstrated``: the recorded demonstrations that its expert repeats."""
        self._environment = environment
        self._contract = contract
        self._demonstrated = demonstrated
        self._number = 0
        self._actions = RelativeActions(contract)

    def reset(self, plan: EpisodePlan) -> str:
        assert plan.state_index is not None
        self._number = plan.state_index
        self._environment.reset(plan.state_index, plan.seed)
        self._actions = RelativeActions(self._contract)
        return hashlib.sha256(self._environment.states().tobytes()).hexdigest()[:16]

    def observe(self, *, images: bool) -> Observation:
        return self._environment.observe(images)

    def sense(self, *, images: bool) -> Observation:
        environment = self._environment
        return Observation(
            stamp_ns=environment.time_ns,
            images=environment.raw_images() if images else {},
            state=cast("NDArray[np.float32]", environment.state()),  # float64, as a driver sends it
            instruction=environment.instruction,
        )

    def step(self, chunk: ActionChunk | None) -> None:
        """Raises LiberoError for an action beyond the contract's limits."""
        self._environment.step(self._actions.due(chunk, self._environment.time_ns))

    def outcome(self) -> Outcome:
        success = self._environment.success
        return Outcome(success=success, score=float(success))

    @property
    def trajectory(self) -> str:
        return self._environment.trajectory

    def expert(self) -> Expert:
        if (demonstrated := self._demonstrated) is not None:
            from sim_bridges.worlds.libero.demonstrations import RepeatedActions

            return ChunksOfOne(lambda: RepeatedActions(demonstrated.actions[self._number]), self._environment)
        from sim_bridges.worlds.libero.expert import LiberoExpert

        expert = LiberoExpert(self._environment)

        def begin() -> LiberoExpert:
            expert.reset()
            return expert

        return ChunksOfOne(begin, self._environment)

    def disturbance(self, plan: EpisodePlan) -> Disturbance:
        from sim_bridges.worlds.libero.expert import DisturbanceConfig, DisturbanceSource

        if self._demonstrated is not None:
            raise SuiteError("demonstrations are repeated as they are: leave disturbances out (--no-disturb)")
        assert plan.state_index is not None
        return DisturbanceSource(DisturbanceConfig(), plan.seed + plan.state_index)

    def close(self) -> None:
        self._environment.close()


class RelativeActions:
    """Which action of the newest chunk is due: they are executed one a step, never interpolated or blended.

    A chunk that arrives late begins with the action that is due now. Without one that reaches this far, the arm does
    not move, and the gripper does what it did last.
    """

    def __init__(self, contract: Contract) -> None:
        self._dt_ns = contract.dt_ns
        self._chunk: ActionChunk | None = None
        self._gripper = float(NO_MOTION[-1])

    def due(self, chunk: ActionChunk | None, time_ns: int) -> NDArray[np.float64]:
        """(A,) for the step that begins at ``time_ns``; ``chunk`` if a new one has arrived."""
        if chunk is not None:
            self._chunk = chunk
        number = 0 if self._chunk is None else round((time_ns - self._chunk.stamp_ns) / self._dt_ns)
        if self._chunk is None or number >= self._chunk.horizon:
            still = NO_MOTION.copy()
            still[-1] = self._gripper
            return still
        action: NDArray[np.float64] = self._chunk.actions_HA[number]
        self._gripper = float(action[-1])
        return action
