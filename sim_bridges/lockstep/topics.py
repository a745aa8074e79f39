"""The topics of a simulator in lock-step: simulated time stands still until the one who acts has answered.

Shared by every bridge, and by evaluations whose policy is a node. Simulated stamps start at one second and keep rising
over the episodes of a process, so that subscribers never see time run backwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from lavla_ros import topics
from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.episode import SIMULATOR, EpisodePhase, EpisodeState, ExecutorReport
from lavla_ros.errors import UserError
from lavla_ros.recording.stream_stats import raw_stamp_ns
from lavla_ros.ros.lifecycle import set_stamp, stamp_to_ns
from lavla_ros.ros.messages import (
    IMAGE_QOS,
    LATCHED_QOS,
    ImageBuffer,
    joint_state,
    single_point,
    trajectory_to_chunk,
)
from lavla_ros.ros.scope import Scope
from lavla_ros.typing import NS_PER_S

DEPTH = 200
"""Lock-step loses nothing: a slow subscriber may fall this many messages behind."""

DISCOVERY_S = 10.0


class BridgeError(UserError, RuntimeError):
    """The episode cannot go on: the other side of a topic is not there or silent, or it was stopped."""


class LockstepTopics:
    """Publishers and subscriptions on a node that spins in another thread than the one that calls here."""

    def __init__(
        self,
        scope: Scope,
        contract: Contract,
        *,
        timeout_s: float,
        commanded: bool,
        recorded: bool = False,
        prepared: bool = False,
        two_commanders: bool = False,
        ended: Callable[[], str] = lambda: "",
    ) -> None:
        """``scope`` makes the publishers and the subscription, and ends them. ``timeout_s``: longest wait for a chunk
        or a subscriber. ``commanded``: a node answers on /action_chunk. ``recorded``: a recorder node listens.
        ``prepared``: pictures are the contract's and go past the camera node, to /observation/<camera>.
        ``two_commanders``: :meth:`commanded_by` says who acts. ``ended``: why the wait is over, or "" (see
        :meth:`wake`).
        """
        self._node, self._contract, self._timeout_s = scope.node, contract, timeout_s
        self._commanded, self._recorded, self._ended = commanded, recorded, ended
        self._chunk_topic = scope.node.resolve_topic_name(topics.ACTION_CHUNK)
        self._cameras = {
            c.name: scope.publisher(Image, contract.wire(c.observation_topic if prepared else c.topic), DEPTH)
            for c in contract.cameras
        }
        self._buffers = {c.name: ImageBuffer(c.name) for c in contract.cameras}
        self._states = scope.publisher(JointState, contract.wire(contract.state.topic), DEPTH)
        self._clock = scope.publisher(Clock, topics.CLOCK, 10)
        self._instruction = scope.publisher(String, contract.wire(contract.instruction_topic), LATCHED_QOS)
        self._episode = scope.publisher(String, topics.EPISODE_STATE, LATCHED_QOS)
        self._executor = scope.publisher(String, topics.EXECUTOR_STATE, LATCHED_QOS) if two_commanders else None
        self._commands = (
            None if prepared else scope.publisher(JointTrajectory, contract.wire(contract.action.topic), DEPTH)
        )
        self._state_message = joint_state(contract.state.names)
        self._command_message = single_point(contract.action.names, contract.dt_ns)
        self._chunk: JointTrajectory | None = None
        self._changed = threading.Condition()
        if commanded:
            scope.subscription(JointTrajectory, topics.ACTION_CHUNK, self._on_chunk, 10)
        self._shown_ns: dict[str, int] = {}
        """Topic → stamp of the newest picture that the camera node has prepared."""
        self._prepared = [c.observation_topic for c in contract.cameras] if recorded and not prepared else []
        """Topics of pictures that a camera node, if there is one, prepares for a recording."""
        self._followed: list[str] = []
        """Those of a camera node that is there."""
        for topic in self._prepared:
            scope.subscription(Image, contract.wire(topic), partial(self._on_prepared, topic), IMAGE_QOS, raw=True)
        self._offset_ns, self._last_ns = NS_PER_S, 0
        self._about: dict[str, Any] = {}

    def stamp_ns(self, time_ns: int) -> int:
        """The stamp of a simulator's time in the present episode."""
        return time_ns + self._offset_ns

    def describe(self, **about: Any) -> None:
        """What the next episode is about (JSON-ready): a part of all that is said of it on /episode/state."""
        self._about = about

    def prepare(self, instruction: str, *, first_ns: int = 0) -> None:
        """Publish the instruction, and ``resetting`` on /episode/state, for a recorder to begin its bag with.
        ``first_ns``: simulator's time of the first observation.

        Raises BridgeError if a subscriber takes no message.
        """
        # Further apart than any replanning interval: a late picture of one episode must not silence the next.
        gap_ns = self._contract.chunk_size * self._contract.dt_ns if self._last_ns else 0
        self._offset_ns = self._last_ns + gap_ns + NS_PER_S - first_ns
        self._about = {**self._about, "instruction": instruction}
        self._instruction.publish(String(data=instruction))
        self.announce(EpisodePhase.RESETTING)
        self._wait_until_taken()

    def announce(self, phase: EpisodePhase, **more: Any) -> None:
        """Say on /episode/state how the episode stands."""
        self._episode.publish(String(data=EpisodeState(SIMULATOR, phase, {**self._about, **more}).to_json()))

    def begin(self) -> None:
        """Announce ``running``. Raises BridgeError if a subscriber takes no message."""
        self.announce(EpisodePhase.RUNNING)
        self._wait_until_taken()  # pictures must not overtake it: a policy would take them for the episode before

    def observe(self, time_ns: int, state: ArrayLike, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Publish /clock, the state (S,) in the contract's order, and what was drawn: camera → (H, W, 3) RGB.

        Raises BridgeError if pictures are recorded past a camera node, and it does not keep up.
        """
        self._last_ns = stamp_ns = self.stamp_ns(time_ns)
        clock = Clock()
        set_stamp(clock.clock, stamp_ns)
        self._clock.publish(clock)
        set_stamp(self._state_message.header.stamp, stamp_ns)
        self._state_message.position = [float(v) for v in np.asarray(state)]
        self._states.publish(self._state_message)
        for name, image in images.items():
            self._cameras[name].publish(self._buffers[name].fill(image, stamp_ns))
        if images:
            self._wait_until_shown(stamp_ns)

    def command(self, time_ns: int, action: ArrayLike) -> None:
        """Publish the action (A,) of the step from ``time_ns``, which takes effect within it."""
        assert self._commands is not None
        set_stamp(self._command_message.header.stamp, self.stamp_ns(time_ns))
        self._command_message.points[0].positions = [float(v) for v in np.asarray(action)]
        self._commands.publish(self._command_message)

    def commanded_by(self, commander: str, time_ns: int) -> None:
        """Say on /executor/state, as an arm's executor does, whose the actions from ``time_ns`` on are: policy or
        person. Raises BridgeError if a subscriber takes no message."""
        assert self._executor is not None
        # what is due at that time is still the other's
        report = ExecutorReport(state="tracking", commander=commander, commander_since_ns=self.stamp_ns(time_ns) + 1)
        self._executor.publish(String(data=report.to_json()))
        self._wait_until_taken()

    def chunk(self, time_ns: int, *, steps: int) -> ActionChunk:
        """Await the chunk for the observation just published, of at least ``steps`` actions; in the simulator's time.

        Raises BridgeError if none comes in time or it is too short, MessageError for one that is not the contract's.
        """
        wanted_ns = self.stamp_ns(time_ns)
        with self._changed:
            self._changed.wait_for(lambda: bool(self._ended()) or self._newest_ns() == wanted_ns, self._timeout_s)
            message, newest_ns = self._chunk, self._newest_ns()
        if why := self._ended():
            raise BridgeError(why)
        if message is None or newest_ns != wanted_ns:
            last = "none came" if message is None else f"the newest is of {newest_ns} ns"
            raise BridgeError(
                f"no {self._chunk_topic} for the observation of {wanted_ns} ns within {self._timeout_s:g} s ({last}); "
                "does the policy node run, active, on the same contract, with use_sim_time and the same replan_steps?"
            )
        chunk = trajectory_to_chunk(message, self._contract)
        if chunk.horizon < steps:
            raise BridgeError(f"the chunk has {chunk.horizon} steps; {steps} are executed before the next one")
        return replace(chunk, stamp_ns=time_ns)

    def wait_for_listeners(self) -> None:
        """Wait until every stream that an episode needs has a listener: what is published before would not arrive.
        Finding one another takes a while on a busy machine, so that this waits for ``DISCOVERY_S`` at the least.

        Raises BridgeError naming what is missing.
        """
        needed = [*self._cameras.values(), self._states, self._instruction] if self._commanded or self._recorded else []
        needed += [self._commands, self._episode] if self._recorded else []
        timeout_s = max(self._timeout_s, DISCOVERY_S)
        deadline = time.monotonic() + timeout_s
        while True:
            missing = [f"subscriber of {p.topic_name}" for p in needed if p.get_subscription_count() == 0]
            if self._commanded and self._node.count_publishers(topics.ACTION_CHUNK) == 0:
                missing.append(f"publisher of {self._chunk_topic}")
            if not missing:
                self._followed = [t for t in self._prepared if self._node.count_publishers(self._contract.wire(t)) > 0]
                return
            if why := self._ended():
                raise BridgeError(why)
            if time.monotonic() > deadline:
                who = " and ".join(["camera and policy node"] * self._commanded + ["recorder"] * self._recorded)
                raise BridgeError(
                    f"no {', no '.join(missing)} after {timeout_s:g} s; do {who} run, active, in this ROS domain?"
                )
            time.sleep(0.05)

    def wake(self) -> None:
        """Let the thread that waits for a chunk look at ``ended`` again."""
        with self._changed:
            self._changed.notify_all()

    def _wait_until_shown(self, stamp_ns: int) -> None:
        """Until the camera node has prepared these pictures: it keeps a few only, so a recording waits for it."""

        def late() -> list[str]:
            return [topic for topic in self._followed if self._shown_ns.get(topic, 0) < stamp_ns]

        with self._changed:
            self._changed.wait_for(lambda: bool(self._ended()) or not late(), self._timeout_s)
            missing = late()
        if missing:
            raise BridgeError(
                self._ended()
                or f"no {', no '.join(missing)} for the observation of {stamp_ns} ns within {self._timeout_s:g} s; "
                "does the camera node run, on the same contract?"
            )

    def _wait_until_taken(self) -> None:
        for publisher in filter(None, (self._instruction, self._episode, self._executor)):
            if not publisher.wait_for_all_acked(Duration(seconds=self._timeout_s)):
                raise BridgeError(
                    f"a subscriber of {publisher.topic_name} takes no message within {self._timeout_s:g} s"
                )

    def _newest_ns(self) -> int | None:
        return None if self._chunk is None else stamp_to_ns(self._chunk.header.stamp)

    def _on_prepared(self, topic: str, raw: bytes) -> None:
        with self._changed:
            self._shown_ns[topic] = raw_stamp_ns(raw)
            self._changed.notify_all()

    def _on_chunk(self, message: JointTrajectory) -> None:
        with self._changed:
            self._chunk = message
            self._changed.notify_all()
