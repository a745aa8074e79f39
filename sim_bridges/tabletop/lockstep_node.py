"""The tabletop as topics in lock-step: simulated time waits for whoever commands the arm.

Each contract step the node publishes the observation of simulated time t, gets the chunk for t, publishes the
command that takes effect by t + dt, and advances the physics by dt with the executor that also drives the real
arm. The commander is the scripted expert in this process (demonstrations), or a policy node on ``/action_chunk``,
which is awaited at every replanning step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import rclpy
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.contract import ActionChunk, Contract, load_contract
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
from lavla_ros.episode import EpisodePhase
from lavla_ros.ros.client import ServiceError, call, spinning
from lavla_ros.ros.messages import chunk_to_trajectory
from sim_bridges.lockstep_topics import DEPTH, BridgeError, LockstepTopics
from sim_bridges.tabletop.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.tabletop.expert import ScriptedExpert
from sim_bridges.tabletop.lockstep import LockstepSession
from sim_bridges.tabletop.render import TabletopRenderer
from sim_bridges.tabletop.sim import TabletopSim
from sim_bridges.tabletop.tasks import LayoutName, TaskName


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """One lock-step bridge."""

    task: TaskName = "pick_place"
    layout: LayoutName = "id"
    contract: str = "jaka_minicobo"
    commander: Literal["expert", "topic"] = "expert"
    replan_steps: int = 10
    """commander topic: a chunk is awaited every so many steps."""
    max_steps: int = 150
    disturb: bool = False
    """Short bursts of offsets on the executed targets; the published commands stay clean (DART)."""
    timeout_s: float = 10.0
    """How long to wait for a chunk, a subscriber or a service."""


@dataclass(frozen=True, kw_only=True)
class BridgeEpisode:
    seed: int
    success: bool
    score: float
    steps: int
    trajectory: str
    """See :attr:`LockstepSession.trajectory`."""


class LockstepBridge(Node):  # type: ignore[misc]  # rclpy is untyped
    """Publishes one simulator; :meth:`run_episode` is called from a thread of its own."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__("tabletop_lockstep")
        self.config = config
        self.contract: Contract = load_contract(config.contract)
        self.sim = TabletopSim(config.task, layout=config.layout)
        executor = ChunkExecutor(self.contract, ExecutorConfig.from_contract(self.contract))
        self.session = LockstepSession(self.sim, executor, self.contract, TabletopRenderer(self.sim))
        self.expert = ScriptedExpert(self.sim, self.contract)
        self._seed = 0
        commanded = config.commander == "topic"
        self.topics = LockstepTopics(self, self.contract, timeout_s=config.timeout_s, commanded=commanded)
        self._chunks = None if commanded else self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, DEPTH)

    def prepare(self, seed: int) -> None:
        """Reset to ``seed`` and say so. Raises BridgeError where a subscriber takes no message."""
        self._seed = seed
        self.session.reset(seed)
        about = {"task": self.config.task, "layout": self.config.layout, "seed": seed}
        self.topics.prepare(self.sim.instruction, first_ns=self.sim.time_ns, **about)

    def run_episode(self) -> BridgeEpisode:
        """Run what was prepared to success or ``max_steps``. Raises BridgeError when no chunk comes."""
        config, seed = self.config, self._seed
        disturbance = DisturbanceSource(DisturbanceConfig(), seed) if config.disturb else None
        self.expert.reset()
        self.topics.begin()
        outcome, steps = self.sim.outcome(), 0
        while steps < config.max_steps and not outcome.success:
            replan = config.commander == "expert" or steps % config.replan_steps == 0
            self._publish_observation(render=replan)
            chunk = self._next_chunk() if replan else None
            if chunk is not None:
                self._publish_command(chunk)
            self.session.step(disturbance.apply(chunk) if disturbance is not None and chunk is not None else chunk)
            steps += 1
            outcome = self.sim.outcome()
        # The last command takes effect at this time: without this observation its outcome would be unseen.
        self._publish_observation(render=True)
        self.topics.announce(EpisodePhase.SUCCEEDED if outcome.success else EpisodePhase.FAILED)
        return BridgeEpisode(
            seed=seed,
            success=bool(outcome.success),
            score=float(outcome.score),
            steps=steps,
            trajectory=self.session.trajectory,
        )

    def _publish_observation(self, *, render: bool) -> None:
        observation = self.session.observe(render=render)
        self.topics.observe(self.sim.time_ns, observation.state, observation.images)

    def _next_chunk(self) -> ActionChunk:
        if self.config.commander == "topic":
            return self.topics.chunk(self.sim.time_ns, steps=self.config.replan_steps)
        return self.expert.chunk()

    def _publish_command(self, chunk: ActionChunk) -> None:
        """The target of this step, as commanded: what a disturbance adds in the executed one is not the label."""
        if self._chunks is not None:
            self._chunks.publish(chunk_to_trajectory(replace(chunk, stamp_ns=self.topics.stamp_ns(self.sim.time_ns))))
        self.topics.command(self.sim.time_ns, chunk.actions_HA[0])


def record(bridge: LockstepBridge, seeds: Sequence[int], on_episode: Callable[[BridgeEpisode, str], None]) -> None:
    """Record one bag per seed through the recorder node's services; failed episodes are marked as such."""
    start, stop = (bridge.create_client(Trigger, name) for name in (topics.EPISODE_START, topics.EPISODE_STOP))
    mark = bridge.create_client(SetBool, topics.EPISODE_MARK)
    timeout_s = bridge.config.timeout_s
    bridge.topics.wait_for_listeners(recorded=True)
    for seed in seeds:
        bridge.prepare(seed)
        call(start, Trigger.Request(), timeout_s)
        episode = bridge.run_episode()
        call(mark, SetBool.Request(data=episode.success), timeout_s)
        on_episode(episode, call(stop, Trigger.Request(), timeout_s))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="pick_place", choices=("pick_place", "stack_bowls"))
    parser.add_argument("--layout", default="id", choices=("id", "ood"))
    parser.add_argument("--contract", default="jaka_minicobo")
    parser.add_argument("--commander", default="expert", choices=("expert", "topic"))
    parser.add_argument("--replan-steps", type=int, default=10)
    parser.add_argument("--max-steps", type=int, default=150)
    parser.add_argument("--disturb", action="store_true")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for a chunk or a service")
    parser.add_argument("--record", action="store_true", help="record every episode through the recorder node")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--progress", type=Path, help="append one JSON line per episode to this file")
    options = parser.parse_args(argv)
    config = BridgeConfig(
        task=options.task,
        layout=options.layout,
        contract=options.contract,
        commander=options.commander,
        replan_steps=options.replan_steps,
        max_steps=options.max_steps,
        disturb=options.disturb,
        timeout_s=options.timeout,
    )
    enter_ros()
    rclpy.init()
    bridge = LockstepBridge(config)

    def on_episode(episode: BridgeEpisode, message: str = "") -> None:
        line = json.dumps({**asdict(episode), "recorder": message})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if options.progress is not None:
            with options.progress.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    try:
        with spinning(bridge):
            if options.record:
                record(bridge, options.seeds, on_episode)
                return 0
            if config.commander == "topic":
                bridge.topics.wait_for_listeners()
            for seed in options.seeds:
                bridge.prepare(seed)
                on_episode(bridge.run_episode())
    except (BridgeError, ServiceError, ValueError) as error:
        print(f"tabletop_lockstep: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        bridge.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
