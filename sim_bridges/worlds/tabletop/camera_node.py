"""The cameras and the referee of the live tabletop, as a ROS node.

Renders the state that the physics process shares, stamped with the time of that state; says what the task is
(``/instruction``) and how it goes (``/episode/state``); ``/episode/reset`` brings the arm home through the
executor, then sets the objects up with the next seed. With ``wait_for_reset`` the first episode waits for it too.
The executor obeys one publisher of /action_chunk: this node is one only while it brings the arm home, and only after
every other one has stopped to be (a policy node does so at ``homing``). A person who has the arm and lets it stand
gives it back by the reset.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.contract import load_contract
from lavla_ros.episode import PERSON, SIMULATOR, EpisodePhase, EpisodeState, ExecutorReport
from lavla_ros.ros.diagnostics import Rate, Report, Window
from lavla_ros.ros.inputs import publishers_of
from lavla_ros.ros.lifecycle import LavlaNode, wall_ns
from lavla_ros.ros.messages import (
    CHUNK_QOS,
    IMAGE_QOS,
    LATCHED_INPUT_QOS,
    LATCHED_QOS,
    ImageBuffer,
    chunk_to_trajectory,
)
from lavla_ros.ros.parameters import NodeParameters, ParameterError, parameter
from lavla_ros.ros.process import run_node
from sim_bridges.worlds.tabletop.homing import SOURCE, Homing, require_tabletop_contract
from sim_bridges.worlds.tabletop.names import STATE_FILE, TRAINED_LAYOUT, USUAL_TASK, LayoutName, TaskName
from sim_bridges.worlds.tabletop.plant import SceneState, encode_reset, open_rings
from sim_bridges.worlds.tabletop.render import TabletopRenderer
from sim_bridges.worlds.tabletop.sim import TabletopSim

HOMING_PERIOD_S = 0.5
HOMING_PATIENCE_S = 15.0
"""Longer than any way home takes."""
HOME_TOLERANCE_RAD = 0.02
FRAMES_BEFORE_RUNNING = 3
"""Pictures of a new scene that go out before its episode is announced: no policy shall start from the old one."""


@dataclass(frozen=True, kw_only=True)
class TabletopCameraParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file.")
    state_file: str = parameter(STATE_FILE, "Ring file of the physics process (--state-file).")
    task: str = parameter(USUAL_TASK, "Task of the physics process.", choices=get_args(TaskName))
    layout: str = parameter(TRAINED_LAYOUT, "Layout of the physics process.", choices=get_args(LayoutName))
    instruction: str = parameter("", "What to do, in words; empty: the task's own words.")
    rate_hz: float = parameter(10.0, "Frames per second.", low=0.5, high=60.0)
    episode_s: float = parameter(
        30.0, "Seconds after which an episode without success has failed.", low=1.0, high=3600.0
    )
    wait_for_reset: bool = parameter(False, "Begin the first episode at /episode/reset, not at once.")
    stale_after_s: float = parameter(0.5, "Physics silent for longer: no pictures.", low=0.05, high=10.0, unit="s")


class TabletopCameraNode(LavlaNode):
    """The cameras, and the referee that begins and judges the live episodes."""

    parameters_type = TabletopCameraParameters
    parameters: TabletopCameraParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("tabletop_camera", **options)
        self._executor = ExecutorReport()
        self._rate = Rate()
        self._render_ms = Window()

    def setup(self) -> None:
        self._contract = contract = load_contract(self.parameters.contract)
        require_tabletop_contract(contract)
        made = self.configured
        self._state_ring, self._request_ring = open_rings(Path(self.parameters.state_file))
        for ring in (self._state_ring, self._request_ring):
            made.callback(ring.close)
        layout: Any = self.parameters.layout
        task: Any = self.parameters.task
        self._sim, self._next = TabletopSim(task, layout=layout), TabletopSim(task, layout=layout)
        self._sim.restore(self._read_state().snapshot)
        size = {(c.height, c.width) for c in contract.cameras}
        if len(size) != 1:
            raise ParameterError(f"the tabletop renders all cameras in one size; contract {contract.name} has {size}")
        self._renderer = made.enter_context(closing(TabletopRenderer(self._sim, size.pop())))
        self._buffers = {c.name: ImageBuffer(f"{c.name}_optical_frame") for c in contract.cameras}
        self._images = {c.name: made.publisher(Image, contract.wire(c.topic), IMAGE_QOS) for c in contract.cameras}
        self._instruction = made.publisher(String, contract.wire(contract.instruction_topic), LATCHED_QOS)
        self._episodes = made.publisher(String, topics.EPISODE_STATE, LATCHED_QOS)
        self._hand_back = made.client(Trigger, topics.EXECUTOR_HAND_BACK)
        self._chunks: Any = None

    def start(self) -> None:
        self._episode = self._read_state().episode
        self._frames_left = FRAMES_BEFORE_RUNNING
        self._homing: Homing | None = None
        self._homing_since_ns = 0
        self._begin_ns: int | None = None
        self._state = EpisodePhase.STARTING
        if self.parameters.wait_for_reset:
            self._announce(EpisodePhase.WAITING)
        self.activated.timer(1.0 / self.parameters.rate_hz, self._on_frame)
        self.activated.timer(HOMING_PERIOD_S, self._on_homing)
        self.activated.service(Trigger, topics.EPISODE_RESET, self._on_reset)
        self.activated.subscription(JointTrajectory, topics.ACTION_CHUNK, self._on_chunk, CHUNK_QOS)
        self.activated.subscription(String, topics.EXECUTOR_STATE, self._on_executor, LATCHED_INPUT_QOS)

    def stop(self) -> None:
        self._release()

    def _read_state(self) -> SceneState:
        """The newest state. ParameterError if the physics process is silent."""
        payload = self._state_ring.newest()
        state = SceneState.decode(payload) if payload is not None else None
        if state is None or wall_ns() - state.stamp_ns > self.parameters.stale_after_s * 1e9:
            raise ParameterError(
                f"nothing new in {self.parameters.state_file}; does sim_bridges.worlds.tabletop.live run?"
            )
        return state

    # Pictures.

    def _on_frame(self) -> None:
        try:
            state = self._read_state()
        except ParameterError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        begin = time.perf_counter()
        self._sim.restore(state.snapshot)
        for spec in self._contract.cameras:
            picture = self._renderer.render(spec.name)
            self._images[spec.name].publish(self._buffers[spec.name].fill(picture, state.stamp_ns))
        self._render_ms.add((time.perf_counter() - begin) * 1e3)
        self._rate.tick()
        self._referee(state)

    # Episodes.

    def _referee(self, state: SceneState) -> None:
        if self._state is EpisodePhase.HOMING and self._homing is None:
            self._take_over()
        elif self._state is EpisodePhase.STARTING and state.episode == self._episode:
            self._frames_left -= 1
            if self._frames_left <= 0:
                self._begin_ns = None
                self._instruction.publish(String(data=self._words))
                self._announce(EpisodePhase.RUNNING)
        elif self._state is EpisodePhase.RUNNING:
            if self._sim.outcome().success:
                self._announce(EpisodePhase.SUCCEEDED)
            elif self._begin_ns is not None and wall_ns() - self._begin_ns > self.parameters.episode_s * 1e9:
                self._announce(EpisodePhase.FAILED)

    @property
    def _words(self) -> str:
        return self.parameters.instruction or self._sim.instruction

    def _announce(self, phase: EpisodePhase) -> None:
        self._state = phase
        outcome = self._sim.outcome()
        details = {
            "episode": self._episode,
            "task": self.parameters.task,
            "layout": self.parameters.layout,
            "seed": self._sim.seed,
            "instruction": self._words,
            "score": outcome.score,
            "elapsed_s": (wall_ns() - self._begin_ns) * 1e-9 if self._begin_ns is not None else 0.0,
        }
        self._episodes.publish(String(data=EpisodeState(SIMULATOR, phase, details).to_json()))
        self.get_logger().info(f"episode {self._episode}, seed {self._sim.seed}: {phase}, score {outcome.score:.2f}")

    def _on_chunk(self, _: JointTrajectory) -> None:
        """The clock of an episode starts with its first command: a policy may still be loading."""
        if self._state is EpisodePhase.RUNNING and self._begin_ns is None:
            self._begin_ns = wall_ns()

    def _on_executor(self, message: String) -> None:
        self._executor = ExecutorReport.from_json(message.data)

    def _on_reset(self, _: Any, response: Any) -> Any:
        follow = f"follow {self._episodes.topic_name}"
        if self._state in (EpisodePhase.HOMING, EpisodePhase.STARTING):
            response.success, response.message = False, "a reset is going on already"
            return response
        if self._state is EpisodePhase.WAITING:  # nothing has moved yet
            self._state = EpisodePhase.STARTING
            response.success, response.message = True, f"seed {self._sim.seed}; {follow}"
            return response
        if self._executor.state not in ("holding", "tracking"):
            response.success = False
            response.message = f"the executor cannot bring the arm home: {self._executor.state or 'it is not there'}"
            return response
        if self._executor.commander == PERSON and self._executor.state == "tracking":
            response.success, response.message = False, "a person moves the arm: let go first"
            return response
        self._next.reset(self._sim.seed + 1)
        self._homing_since_ns = wall_ns()
        self._announce(EpisodePhase.HOMING)
        self._take_over()
        response.success, response.message = True, f"homing; then seed {self._next.seed}; {follow}"
        return response

    def _take_over(self) -> None:
        """Begin to command the arm as soon as no other node does, no person has it, and the executor listens."""
        if self._executor.commander == PERSON:
            self._hand_back.call_async(Trigger.Request())
            return
        if self._chunks is None:
            if publishers_of(self, topics.ACTION_CHUNK):
                return
            self._chunks = self.create_publisher(JointTrajectory, topics.ACTION_CHUNK, CHUNK_QOS)
        if self._homing is None and self._chunks.get_subscription_count() > 1:  # the other one is our own
            start, goal = self._sim.joint_position_rad, self._next.joint_position_rad
            self._homing = Homing(begin_ns=wall_ns(), start_rad=start, goal_rad=goal)
            self._on_homing()

    def _release(self) -> None:
        """Command the arm no longer."""
        self._homing = None
        if self._chunks is not None:
            self.destroy_publisher(self._chunks)
            self._chunks = None

    def _on_homing(self) -> None:
        homing, now_ns = self._homing, wall_ns()
        if homing is None:
            return
        here = self._sim.joint_position_rad
        if now_ns > homing.begin_ns + homing.duration_s * 1e9:
            if float(np.abs(here - homing.goal_rad).max()) < HOME_TOLERANCE_RAD:
                self._release()
                self._request_ring.write(encode_reset(self._next.seed))
                self._episode += 1
                self._state, self._frames_left = EpisodePhase.STARTING, FRAMES_BEFORE_RUNNING
                return
            # Not all of it was executed: the arm was held, say, and no chunk that begins elsewhere is taken after that.
            self._homing = homing = replace(homing, begin_ns=now_ns, start_rad=here)
        self._chunks.publish(chunk_to_trajectory(homing.chunk(self._contract, now_ns), SOURCE))

    def diagnose(self, report: Report) -> None:
        report.value("frame_rate_hz", self._rate.take_hz(wall_ns()))
        report.latency("render", self._render_ms)
        if self.active:
            report.value("episode", self._episode)
            report.value("state", self._state)
            if self._state is EpisodePhase.HOMING and wall_ns() > self._homing_since_ns + HOMING_PATIENCE_S * 1e9:
                others = [
                    p.node
                    for p in publishers_of(self, topics.ACTION_CHUNK)
                    if p.node != self.get_fully_qualified_name()
                ]
                cause = "is the executor active?"
                if self._executor.commander == PERSON:
                    cause = "a person has it: let go"
                elif others:
                    cause = f"{', '.join(others)} publishes {self.resolve_topic_name(topics.ACTION_CHUNK)}: end it"
                report.warn(f"the arm does not come home; {cause}")


def main() -> int:
    return run_node(TabletopCameraNode)


if __name__ == "__main__":
    sys.exit(main())
