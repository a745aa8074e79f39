"""LIBERO as topics in lock-step: simulated time waits for whoever commands the arm.

Each step of 50 ms the node publishes /clock and the state of simulated time t, at every replanning step the pictures
too, and awaits the chunk for t; then, step by step, the command that takes effect by t + dt, which is also what it
executes. The commander is a policy node on ``/action_chunk``, or the scripted expert in this process (demonstrations).

Which episode: the parameters ``suite``, ``task``, ``initial_state`` and ``seed``; those that begin by themselves are
``initial_state`` and the following ones. What becomes of them: :mod:`sim_bridges.episode_node`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.msg import ParameterDescriptor

from lavla_ros.contract import ActionChunk
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import run_node
from lavla_ros.ros.parameters import parameter
from sim_bridges.episode_node import EpisodeNode, EpisodeParameters, Scene
from sim_bridges.libero.assets import find_assets
from sim_bridges.libero.environment import LiberoEnvironment
from sim_bridges.libero.expert import DisturbanceConfig, DisturbanceSource, LiberoExpert, require_expert
from sim_bridges.libero.initial_states import read_initial_states
from sim_bridges.libero.tasks import PROTOCOL_SEED, SUITES, LiberoError, find_task
from sim_bridges.lockstep_topics import BridgeError


@dataclass(frozen=True, kw_only=True)
class LiberoParameters(EpisodeParameters):
    contract: str = parameter("libero", "Contract: a shipped name or a YAML file.")
    assets: str = parameter("", "Folder of LIBERO's scene assets; empty: LAVLA_LIBERO_ASSETS, else found by itself.")
    resolution: int = parameter(256, "Edge of the simulator's pictures.", low=8, high=2048, unit="px")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An episode to be run."""

    suite: str
    task: str
    initial_state: int
    seed: int


class LiberoNode(EpisodeNode):
    """See the module."""

    parameters_type = LiberoParameters
    parameters: LiberoParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("libero", **options)
        any_type = ParameterDescriptor(dynamic_typing=True, description="Task: its number in the suite, or its name.")
        self.declare_parameter("suite", "libero_object", ParameterDescriptor(description=f"One of {list(SUITES)}."))
        self.declare_parameter("task", 0, any_type)
        self.declare_parameter("initial_state", 0, ParameterDescriptor(description="Recorded initial state, from 0."))
        self.declare_parameter("seed", PROTOCOL_SEED, ParameterDescriptor(description="Places of LIBERO's fixtures."))
        self._environment: LiberoEnvironment | None = None
        self._expert: LiberoExpert | None = None

    def request(self, index: int | None = None) -> Request:
        names = ("suite", "task", "initial_state", "seed")
        suite, task, initial_state, seed = (self.get_parameter(name).value for name in names)
        return Request(
            suite=str(suite), task=str(task), initial_state=int(initial_state) + (index or 0), seed=int(seed)
        )

    def check(self, request: Request) -> None:
        """Raises LiberoError for what does not exist."""
        task = find_task(request.suite, request.task)
        count = len(read_initial_states(task.initial_states_file))
        if not 0 <= request.initial_state < count:
            raise LiberoError(
                f"initial state {request.initial_state} of {request.suite} task {task.index} does not exist; "
                f"there are 0 to {count - 1}"
            )
        if request.seed < 0:
            raise LiberoError(f"the seed is {request.seed}; expected an integer >= 0")

    def open(self, first: Request) -> None:
        self._assets = find_assets(self.parameters.assets)
        self.get_logger().info(self._assets.provenance.statement)
        self.check(self.request(max(self.parameters.episodes, 1) - 1))
        self._load(first)

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def describe(self, request: Request) -> Scene:
        task, provenance = find_task(request.suite, request.task), self._assets.provenance
        about = {**asdict(request), "task": task.index, "assets": provenance.hash, "comparable": provenance.comparable}
        return Scene(instruction=task.instruction, about=about)

    def begin(self, request: Request) -> LiberoEnvironment:
        environment = self._load(request)
        environment.reset(request.initial_state, request.seed)
        return environment

    def act(self, request: Request) -> tuple[bool, str]:
        """Steps until the goal holds or the limit is reached. Raises BridgeError where no chunk comes."""
        environment = self._environment
        assert environment is not None
        limit = self.parameters.max_steps or environment.task.step_limit
        commanded = self.parameters.commander == "topic"
        disturbance = None
        expert = None if commanded else self._expert
        if expert is not None:
            expert.reset()
            if self.parameters.disturb:
                disturbance = DisturbanceSource(DisturbanceConfig(), request.seed + request.initial_state)
        actions: NDArray[np.float64] = np.empty((0, 7))
        success = False
        while environment.steps < limit and not success:
            if self.ended:
                raise BridgeError(self.ended)
            since = environment.steps % self.parameters.replan_steps
            # A recording shows every step; a policy looks at the ones that it plans from.
            self._observe(environment, render=self.parameters.record or (commanded and since == 0))
            if commanded and since == 0:
                actions = self.topics.chunk(environment.time_ns, steps=self.parameters.replan_steps).actions_HA
            action = actions[since] if expert is None else expert.act()
            # As commanded: what a disturbance adds in the executed one is not the label.
            self.topics.command(environment.time_ns, action)
            executed = one_action(environment, action)
            executed = executed if disturbance is None else disturbance.apply(executed)
            success = environment.step(executed.actions_HA[0]).success
        # The last command takes effect at this time: without this observation its outcome would be unseen.
        self._observe(environment, render=commanded or self.parameters.record)
        return success, "" if success else f"the limit of {limit} steps is reached"

    def rest(self) -> None:
        if self._environment is not None:
            self._environment.release_pictures()

    def _load(self, request: Request) -> LiberoEnvironment:
        """The environment of the task: the present one, or a new one in its place."""
        task = find_task(request.suite, request.task)
        if self.parameters.commander == "expert":
            require_expert(task.suite)
        environment = self._environment
        if environment is None or environment.task != task:
            if environment is not None:
                self._environment = None
                environment.close()
            environment = LiberoEnvironment(
                task.suite,
                task.index,
                resolution=self.parameters.resolution,
                assets=self._assets,
                contract=self._contract,
            )
            self._environment = environment
            self._expert = None
        if self.parameters.commander == "expert" and self._expert is None:
            self._expert = LiberoExpert(environment)
        return environment

    def _observe(self, environment: LiberoEnvironment, *, render: bool) -> None:
        self.topics.observe(environment.time_ns, environment.state(), environment.raw_images() if render else {})

    def diagnose(self, report: Report) -> None:
        super().diagnose(report)
        environment = self._environment
        if environment is not None:
            report.value("suite", environment.task.suite)
            report.value("task", environment.task.index)
            report.value("steps", environment.steps)
        report.value("assets", self._assets.folder)
        if not self._assets.provenance.comparable:
            report.value("comparable", self._assets.provenance.statement)


def one_action(environment: LiberoEnvironment, action: NDArray[np.float64]) -> ActionChunk:
    contract = environment.contract
    return ActionChunk(
        stamp_ns=environment.time_ns, dt_ns=contract.dt_ns, actions_HA=action[None], names=contract.action.names
    )


def main() -> int:
    return run_node(LiberoNode)


if __name__ == "__main__":
    sys.exit(main())
