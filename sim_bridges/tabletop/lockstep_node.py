"""The tabletop as topics in lock-step: simulated time waits for whoever commands the arm.

Each contract step the node publishes the observation of simulated time t, gets the chunk for t, publishes the
command that takes effect by t + dt, and advances the physics by dt with the executor that also drives the real
arm. The commander is the scripted expert in this process (demonstrations), or a policy node on ``/action_chunk``,
which is awaited at every replanning step.

Simulated stamps start at one second and keep rising over the episodes of one process, so that subscribers never
see time run backwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import NS_PER_S, ActionChunk, Contract, load_contract
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
from lavla_ros.nodes.client import ServiceError, call, spinning
from lavla_ros.nodes.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.nodes.messages import (
    LATCHED_QOS,
    ImageBuffer,
    chunk_to_trajectory,
    joint_state,
    single_point,
    trajectory_to_chunk,
)
from sim_bridges.tabletop.disturbance import DisturbanceConfig, DisturbanceSource
from sim_bridges.tabletop.expert import ScriptedExpert
from sim_bridges.tabletop.lockstep import LockstepSession
from sim_bridges.tabletop.render import TabletopRenderer
from sim_bridges.tabletop.sim import TabletopSim
from sim_bridges.tabletop.tasks import LayoutName, TaskName

RELIABLE_DEPTH = 200
"""Lock-step loses nothing: a slow subscriber may fall this many messages behind."""


class BridgeError(RuntimeError):
    """The other side of a topic is not there, or did not answer in time."""


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
        self.expert = ScriptedExpert(self.sim)
        self._offset_ns = NS_PER_S
        self._buffers = {c.name: ImageBuffer(c.name) for c in self.contract.cameras}
        self._cameras = {c.name: self.create_publisher(Image, c.topic, RELIABLE_DEPTH) for c in self.contract.cameras}
        self._states = self.create_publisher(JointState, self.contract.state.topic, RELIABLE_DEPTH)
        self._commands = self.create_publisher(JointTrajectory, self.contract.action.topic, RELIABLE_DEPTH)
        self._clock = self.create_publisher(Clock, "/clock", 10)
        self._instruction = self.create_publisher(String, self.contract.instruction_topic, LATCHED_QOS)
        self._episode = self.create_publisher(String, "/episode/state", LATCHED_QOS)
        self._state_message = joint_state(self.contract.state.names)
        self._command_message = single_point(self.contract.action.names, self.contract.dt_ns)
        self._chunk: JointTrajectory | None = None
        self._chunk_arrived = threading.Condition()
        if config.commander == "topic":
            self.create_subscription(JointTrajectory, "/action_chunk", self._on_chunk, 10)
            self._chunks = None
        else:
            self._chunks = self.create_publisher(JointTrajectory, "/action_chunk", RELIABLE_DEPTH)

    def run_episode(self, seed: int) -> BridgeEpisode:
        """Reset to ``seed`` and run to success or ``max_steps``. Raises BridgeError when no chunk comes."""
        config = self.config
        disturbance = DisturbanceSource(DisturbanceConfig(), seed) if config.disturb else None
        # Further apart than any replanning interval: a late picture of one episode must not silence the next.
        self._offset_ns += self.sim.time_ns + self.contract.chunk_size * self.contract.dt_ns
        self.session.reset(seed)
        self._offset_ns -= self.sim.time_ns
        self.expert.reset()
        self._instruction.publish(String(data=self.sim.instruction))
        self._announce("running", seed)
        for publisher in (self._instruction, self._episode):
            # Pictures must not overtake them: a policy would take the first one for the episode before.
            if not publisher.wait_for_all_acked(Duration(seconds=config.timeout_s)):
                raise BridgeError(f"a subscriber of {publisher.topic_name} takes no message ({config.timeout_s} s)")
        outcome, steps = self.sim.outcome(), 0
        while steps < config.max_steps and not outcome.success:
            replan = config.commander == "expert" or steps % config.replan_steps == 0
            self._publish_observation(render=replan)
            chunk = self._next_chunk() if replan else None
            if chunk is not None:
                self._publish_command(chunk)
            pushed = disturbance.sample(chunk) if disturbance is not None and chunk is not None else None
            self.session.step(chunk, pushed)
            steps += 1
            outcome = self.sim.outcome()
        # The last command takes effect at this time: without this observation its outcome would be unseen.
        self._publish_observation(render=True)
        self._announce("succeeded" if outcome.success else "failed", seed)
        return BridgeEpisode(
            seed=seed,
            success=bool(outcome.success),
            score=float(outcome.score),
            steps=steps,
            trajectory=self.session.trajectory,
        )

    def _publish_observation(self, *, render: bool) -> None:
        stamp_ns = self.sim.time_ns + self._offset_ns
        observation = self.session.observe(render=render)
        clock = Clock()
        set_stamp(clock.clock, stamp_ns)
        self._clock.publish(clock)
        set_stamp(self._state_message.header.stamp, stamp_ns)
        self._state_message.position = [float(v) for v in observation.state]
        self._states.publish(self._state_message)
        for name, image in observation.images.items():
            self._cameras[name].publish(self._buffers[name].fill(image, stamp_ns))

    def _next_chunk(self) -> ActionChunk:
        if self.config.commander == "expert":
            chunk: ActionChunk = self.expert.chunk(self.contract, self.sim.time_ns)
            return chunk
        wanted_ns = self.sim.time_ns + self._offset_ns
        with self._chunk_arrived:
            arrived = self._chunk_arrived.wait_for(
                lambda: self._chunk is not None and stamp_to_ns(self._chunk.header.stamp) == wanted_ns,
                self.config.timeout_s,
            )
            message = self._chunk
        if not arrived or message is None:
            last = "none came" if message is None else f"the newest is of {stamp_to_ns(message.header.stamp)} ns"
            raise BridgeError(
                f"no /action_chunk for the observation of {wanted_ns} ns within {self.config.timeout_s} s "
                f"({last}); is the policy node active and on the same contract?"
            )
        chunk = trajectory_to_chunk(message, self.contract)
        return replace(chunk, stamp_ns=chunk.stamp_ns - self._offset_ns)

    def _publish_command(self, chunk: ActionChunk) -> None:
        """The target of this step, as commanded: what a disturbance adds in the executed one is not the label."""
        stamp_ns = self.sim.time_ns + self._offset_ns
        if self._chunks is not None:
            self._chunks.publish(chunk_to_trajectory(replace(chunk, stamp_ns=stamp_ns)))
        set_stamp(self._command_message.header.stamp, stamp_ns)
        self._command_message.points[0].positions = [float(v) for v in chunk.actions_HA[0]]
        self._commands.publish(self._command_message)

    def _announce(self, state: str, seed: int) -> None:
        data = {
            "source": "simulator",
            "state": state,
            "task": self.config.task,
            "layout": self.config.layout,
            "seed": seed,
            "instruction": self.sim.instruction,
        }
        self._episode.publish(String(data=json.dumps(data)))

    def _on_chunk(self, message: JointTrajectory) -> None:
        with self._chunk_arrived:
            self._chunk = message
            self._chunk_arrived.notify_all()

    # The other side.

    def wait_for_listeners(self, *, recorded: bool) -> None:
        """Until somebody listens to every stream, and, where a node commands, until it is found.

        Raises BridgeError naming what is missing: nothing published before would arrive.
        """
        publishers = [*self._cameras.values(), self._states, self._instruction, *([self._commands] if recorded else [])]
        deadline = time.monotonic() + self.config.timeout_s
        while True:
            missing = [f"subscriber of {p.topic_name}" for p in publishers if p.get_subscription_count() == 0]
            if self._chunks is None and self.count_publishers("/action_chunk") == 0:
                missing.append("publisher of /action_chunk")
            if not missing:
                return
            if time.monotonic() > deadline:
                who = " and ".join(["the recorder"] * recorded + ["camera and policy nodes"] * (self._chunks is None))
                raise BridgeError(f"no {', no '.join(missing)} after {self.config.timeout_s} s; do {who} run, active?")
            time.sleep(0.05)


def record(bridge: LockstepBridge, seeds: Sequence[int], on_episode: Callable[[BridgeEpisode, str], None]) -> None:
    """Record one bag per seed through the recorder node's services; failed episodes are marked as such."""
    start, stop = (bridge.create_client(Trigger, f"/episode/{verb}") for verb in ("start", "stop"))
    mark = bridge.create_client(SetBool, "/episode/mark")
    timeout_s = bridge.config.timeout_s
    bridge.wait_for_listeners(recorded=True)
    for seed in seeds:
        call(start, Trigger.Request(), timeout_s)
        episode = bridge.run_episode(seed)
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
    rclpy.init()
    bridge = LockstepBridge(config)

    def on_episode(episode: BridgeEpisode, message: str = "") -> None:
        line = json.dumps({**asdict(episode), "recorder": message})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if options.progress is not None:
            with options.progress.open("a") as file:
                file.write(line + "\n")

    try:
        with spinning(bridge):
            if options.record:
                record(bridge, options.seeds, on_episode)
                return 0
            if config.commander == "topic":
                bridge.wait_for_listeners(recorded=False)
            for seed in options.seeds:
                on_episode(bridge.run_episode(seed))
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
