"""LIBERO as topics in lock-step: simulated time waits for whoever commands the arm.

Each step of 50 ms the node publishes /clock and the state of simulated time t, at every replanning step the pictures
too, and awaits the chunk for t; then, step by step, the command that takes effect by t + dt, which is also what it
executes. The commander is a policy node on ``/action_chunk``, or the scripted expert in this process (demonstrations).

Which episode: the parameters ``suite``, ``task``, ``initial_state`` and ``seed``, which may be set at any time, take
effect at ``/episode/reset``. With ``episodes`` > 0 so many begin by themselves, from ``initial_state`` on, one after
another. ``/episode/state`` says, latched, as JSON: ``resetting``, ``running``, then ``succeeded``, ``failed`` (the step
limit) or ``error`` (whatever else, with its reason: no chunk in time, a bad one, a stop), which is never a failure.

One process per environment. Simulated stamps start at one second and keep rising over the episodes of a process, so
that subscribers never see time run backwards.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from lavla_ros.contract import NS_PER_S, load_contract
from lavla_ros.nodes.client import ServiceError, call
from lavla_ros.nodes.diagnostics import Report
from lavla_ros.nodes.lifecycle import LavlaNode, run_node, set_stamp, stamp_to_ns
from lavla_ros.nodes.messages import (
    LATCHED_QOS,
    ImageBuffer,
    joint_state,
    single_point,
    trajectory_to_chunk,
)
from lavla_ros.nodes.parameters import NodeParameters, ParameterError, parameter
from sim_bridges.libero.assets import find_assets
from sim_bridges.libero.environment import LiberoEnvironment
from sim_bridges.libero.expert import DisturbanceConfig, DisturbanceSource, LiberoExpert, require_expert
from sim_bridges.libero.initial_states import read_initial_states
from sim_bridges.libero.tasks import PROTOCOL_SEED, SUITES, LiberoError, find_task

RELIABLE_DEPTH = 200
"""Lock-step loses nothing: a slow subscriber may fall this many messages behind."""


class BridgeError(RuntimeError):
    """The episode cannot go on: the other side of a topic is not there or silent, or somebody stopped it."""


@dataclass(frozen=True, kw_only=True)
class LiberoParameters(NodeParameters):
    contract: str = parameter("libero", "Contract: a shipped name or a YAML file.")
    assets: str = parameter("", "Folder of LIBERO's scene assets; empty: LAVLA_LIBERO_ASSETS, else found by itself.")
    resolution: int = parameter(256, "Edge of the simulator's pictures.", low=8, high=2048, unit="px")
    commander: str = parameter("topic", "Who acts: /action_chunk, or the expert.", choices=("topic", "expert"))
    disturb: bool = parameter(False, "Expert: push the arm now and then; the published commands stay clean (DART).")
    replan_steps: int = parameter(8, "Steps between two pictures for the policy.", low=1, high=256)
    max_steps: int = parameter(0, "An episode this long has failed; 0: the suite's official limit.", low=0, high=10_000)
    episodes: int = parameter(0, "Episodes that begin by themselves; 0: only at /episode/reset.", low=0, high=10_000)
    record: bool = parameter(False, "Record every episode through the recorder node's services.")
    progress: str = parameter("", "File that gets one JSON line per episode.")
    timeout_s: float = parameter(10.0, "Wait for a chunk, a subscriber or a service.", low=0.1, high=600.0, unit="s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An episode to be run."""

    suite: str
    task: str
    initial_state: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One that is over."""

    suite: str
    task: int
    initial_state: int
    seed: int
    state: str
    """succeeded, failed or error."""
    reason: str
    steps: int
    trajectory: str
    """See :attr:`LiberoEnvironment.trajectory`."""
    wall_s: float


class LiberoNode(LavlaNode):
    """See the module. Episodes run in a thread of their own, messages arrive in the executor's."""

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
        self._thread: threading.Thread | None = None
        self._requests: queue.SimpleQueue[tuple[int, Request] | None] = queue.SimpleQueue()
        # What is asked for at one time is one batch: a reset, a stop or an error ends all of it.
        self._batch, self._running_batch, self._failed_batch = 0, -1, -1
        self._why_ended = ""
        self._changed = threading.Condition()
        self._chunk: JointTrajectory | None = None
        self._offset_ns, self._last_ns = NS_PER_S, 0
        self._recorder: dict[str, Any] = {}
        self._counts = dict.fromkeys(("succeeded", "failed", "error"), 0)
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    # Lifecycle.

    def setup(self) -> None:
        parameters = self.parameters
        self._contract = contract = load_contract(parameters.contract)
        if parameters.replan_steps > contract.chunk_size:
            raise ParameterError(
                f"replan_steps is {parameters.replan_steps}; a chunk of contract {contract.name} has "
                f"{contract.chunk_size} steps, and nothing is left to do after them"
            )
        self._assets = find_assets(parameters.assets)
        self.get_logger().info(self._assets.provenance.statement)
        first = self._request()
        last = first.initial_state + max(parameters.episodes, 1) - 1
        self._check(replace(first, initial_state=last))
        self._load(first)
        self._cameras = {c.name: self._out(Image, c.topic) for c in contract.cameras}
        self._buffers = {c.name: ImageBuffer(c.name) for c in contract.cameras}
        self._states = self._out(JointState, contract.state.topic)
        self._commands = self._out(JointTrajectory, contract.action.topic)
        self._clock_out = self._out(Clock, "/clock", 10)
        self._instruction = self._out(String, contract.instruction_topic, LATCHED_QOS)
        self._episode = self._out(String, "/episode/state", LATCHED_QOS)
        self._state_message = joint_state(contract.state.names)
        self._command_message = single_point(contract.action.names, contract.dt_ns)

    def start(self) -> None:
        self._requests = queue.SimpleQueue()
        if self.parameters.commander == "topic":
            self._inputs.append(self.create_subscription(JointTrajectory, "/action_chunk", self._on_chunk, 10))
        if self.parameters.record:
            self._recorder = {
                "start": self.create_client(Trigger, "/episode/start"),
                "stop": self.create_client(Trigger, "/episode/stop"),
                "mark": self.create_client(SetBool, "/episode/mark"),
            }
        self._service = self.create_service(Trigger, "/episode/reset", self._on_reset)
        first = self._request()
        for index in range(self.parameters.episodes):
            self._requests.put((self._batch, replace(first, initial_state=first.initial_state + index)))
        self._thread = threading.Thread(target=self._work, name="episodes", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """An episode in progress ends as an error: nobody knows how it would have ended."""
        self._end_batch("the node was deactivated")
        self._requests.put(None)
        if self._thread is not None:
            # The thread may wait for this one to take a message; a step and a picture are all that it may still do.
            self._thread.join(self.parameters.timeout_s + 30.0)
            self._thread = None
            self.destroy_service(self._service)
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        for client in self._recorder.values():
            self.destroy_client(client)
        self._inputs, self._recorder = [], {}

    def teardown(self) -> None:
        for publisher in self._outputs:
            self.destroy_publisher(publisher)
        self._outputs = []
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    # Requests.

    def _request(self) -> Request:
        """What the parameters say now."""
        names = ("suite", "task", "initial_state", "seed")
        suite, task, initial_state, seed = (self.get_parameter(name).value for name in names)
        return Request(suite=str(suite), task=str(task), initial_state=int(initial_state), seed=int(seed))

    def _check(self, request: Request) -> None:
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

    def _on_reset(self, _request: Any, response: Any) -> Any:
        try:
            request = self._request()
            self._check(request)
        except LiberoError as error:
            response.success, response.message = False, str(error)
            return response
        self._end_batch("/episode/reset was called")
        self._requests.put((self._batch, request))
        response.success, response.message = True, json.dumps(asdict(request))
        return response

    def _end_batch(self, reason: str) -> None:
        """Whatever runs or waits to run is over."""
        with self._changed:
            self._batch += 1
            self._why_ended = reason
            self._changed.notify_all()

    def _on_chunk(self, message: JointTrajectory) -> None:
        with self._changed:
            self._chunk = message
            self._changed.notify_all()

    # Episodes: everything below runs in their thread.

    def _work(self) -> None:
        while (item := self._requests.get()) is not None:
            self._running_batch, request = item
            if self._ended or self._running_batch == self._failed_batch:
                continue
            try:
                self._run_episode(request)
            except Exception as error:  # noqa: BLE001  # a thread must not end in silence
                self.fail(f"the episode thread ended: {type(error).__name__}: {error}")
                break
        if self._environment is not None:
            self._environment.release_pictures()

    @property
    def _ended(self) -> str:
        """Why the present batch is over; empty while it is not."""
        return self._why_ended if self._running_batch != self._batch else ""

    def _run_episode(self, request: Request) -> None:
        """One episode to its end, whatever that is; after an error, what was queued behind it waits for a reset."""
        began, state, reason, recording = time.monotonic(), "error", "", False
        begun: LiberoEnvironment | None = None
        index = -1
        try:
            environment = self._load(request)
            index = environment.task.index
            self._announce("resetting", request, index)
            # Further apart than any replanning interval: a late picture of one episode must not silence the next.
            self._offset_ns = self._last_ns + self._contract.chunk_size * self._contract.dt_ns + NS_PER_S
            environment.reset(request.initial_state, request.seed)
            begun = environment
            self._wait_for_listeners()
            if self.parameters.record:
                self._wait_until_taken(self._episode)  # which scene it is: the recorder writes it into the bag
                self._call("start")
                recording = True
            self._begin(request, environment)
            limit = self.parameters.max_steps or environment.task.step_limit
            success = self._act(request, environment, limit)
            state, reason = ("succeeded", "") if success else ("failed", f"the limit of {limit} steps is reached")
        except (RuntimeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            self._failed_batch = self._running_batch
            self.get_logger().error(f"the episode ended in an error: {reason}")
        steps, trajectory = (begun.steps, begun.trajectory) if begun is not None else (0, "")
        self._counts[state] += 1
        self._announce(state, request, index, reason=reason, steps=steps)
        if recording:
            self._finish_recording(state)
        episode = Episode(
            suite=request.suite,
            task=index,
            initial_state=request.initial_state,
            seed=request.seed,
            state=state,
            reason=reason,
            steps=steps,
            trajectory=trajectory,
            wall_s=time.monotonic() - began,
        )
        if self.parameters.progress:
            with Path(self.parameters.progress).open("a") as file:
                file.write(json.dumps(asdict(episode)) + "\n")

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

    def _begin(self, request: Request, environment: LiberoEnvironment) -> None:
        self._instruction.publish(String(data=environment.instruction))
        self._announce("running", request, environment.task.index)
        for publisher in (self._instruction, self._episode):
            # Pictures must not overtake them: a policy would take the first one for the episode before.
            self._wait_until_taken(publisher)

    def _act(self, request: Request, environment: LiberoEnvironment, limit: int) -> bool:
        """Steps until the goal holds or the limit is reached. Raises BridgeError where no chunk comes."""
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
            if self._ended:
                raise BridgeError(self._ended)
            since = environment.steps % self.parameters.replan_steps
            # A recording shows every step; a policy looks at the ones that it plans from.
            self._publish_observation(environment, render=self.parameters.record or (commanded and since == 0))
            if commanded and since == 0:
                actions = self._next_actions(environment)
            action = actions[since] if expert is None else expert.act()
            self._publish_command(environment, action)
            executed = action if disturbance is None else disturbance.apply(action)
            success = environment.step(executed).success
        # The last command takes effect at this time: without this observation its outcome would be unseen.
        self._publish_observation(environment, render=commanded or self.parameters.record)
        return success

    def _next_actions(self, environment: LiberoEnvironment) -> NDArray[np.float64]:
        """(replan_steps or more, 7): the chunk predicted from the observation just published."""
        wanted_ns, timeout_s = environment.time_ns + self._offset_ns, self.parameters.timeout_s
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    bool(self._ended)
                    or (self._chunk is not None and stamp_to_ns(self._chunk.header.stamp) == wanted_ns)
                ),
                timeout_s,
            )
            message = self._chunk
        if self._ended:
            raise BridgeError(self._ended)
        if message is None or stamp_to_ns(message.header.stamp) != wanted_ns:
            last = "none came" if message is None else f"the newest is of {stamp_to_ns(message.header.stamp)} ns"
            raise BridgeError(
                f"no /action_chunk for the observation of {wanted_ns} ns within {timeout_s:g} s ({last}); do camera "
                "and policy nodes run, active, on the same contract, with use_sim_time and the same replan_steps?"
            )
        chunk = trajectory_to_chunk(message, self._contract)
        if chunk.horizon < self.parameters.replan_steps:
            raise BridgeError(f"the chunk has {chunk.horizon} steps; replan_steps is {self.parameters.replan_steps}")
        return chunk.actions_HA

    def _publish_observation(self, environment: LiberoEnvironment, *, render: bool) -> None:
        stamp_ns = self._last_ns = environment.time_ns + self._offset_ns
        clock = Clock()
        set_stamp(clock.clock, stamp_ns)
        self._clock_out.publish(clock)
        set_stamp(self._state_message.header.stamp, stamp_ns)
        self._state_message.position = environment.state().tolist()
        self._states.publish(self._state_message)
        for name, image in (environment.raw_images() if render else {}).items():
            self._cameras[name].publish(self._buffers[name].fill(image, stamp_ns))

    def _publish_command(self, environment: LiberoEnvironment, action: NDArray[np.float64]) -> None:
        """The action of this step, as commanded: what a disturbance adds in the executed one is not the label."""
        set_stamp(self._command_message.header.stamp, environment.time_ns + self._offset_ns)
        self._command_message.points[0].positions = [float(v) for v in action]
        self._commands.publish(self._command_message)

    def _announce(self, state: str, request: Request, task: int, **more: Any) -> None:
        provenance = self._assets.provenance
        data = {
            "source": "simulator",
            "state": state,
            **asdict(request),
            "task": task if task >= 0 else request.task,
            "instruction": self._environment.instruction if self._environment is not None else "",
            "assets": provenance.hash,
            "comparable": provenance.comparable,
            **more,
        }
        self._episode.publish(String(data=json.dumps(data)))

    # The other side.

    def _wait_for_listeners(self) -> None:
        """Until somebody listens to every stream that an episode needs. Raises BridgeError naming what is missing."""
        parameters = self.parameters
        commanded = parameters.commander == "topic"
        needed = [self._states, self._instruction] if commanded or parameters.record else []
        needed += list(self._cameras.values()) if commanded or parameters.record else []
        needed += [self._commands] if parameters.record else []
        deadline = time.monotonic() + parameters.timeout_s
        while True:
            missing = [f"subscriber of {p.topic_name}" for p in needed if p.get_subscription_count() == 0]
            if commanded and self.count_publishers("/action_chunk") == 0:
                missing.append("publisher of /action_chunk")
            if not missing:
                return
            if self._ended:
                raise BridgeError(self._ended)
            if time.monotonic() > deadline:
                who = ["camera node"] + ["policy node"] * commanded + ["recorder"] * parameters.record
                raise BridgeError(
                    f"no {', no '.join(missing)} after {parameters.timeout_s:g} s; do {' and '.join(who)} run, active?"
                )
            time.sleep(0.05)

    def _wait_until_taken(self, publisher: Any) -> None:
        if not publisher.wait_for_all_acked(Duration(seconds=self.parameters.timeout_s)):
            raise BridgeError(f"a subscriber of {publisher.topic_name} takes no message")

    def _call(self, verb: str, request: Any = None) -> None:
        call(self._recorder[verb], request or Trigger.Request(), self.parameters.timeout_s)

    def _finish_recording(self, state: str) -> None:
        """Keep the bag, marked; one of an episode in error is marked as failed, and its state says why."""
        try:
            self._call("mark", SetBool.Request(data=state == "succeeded"))
            self._call("stop")
        except ServiceError as error:
            self.fail(f"the recorder did not finish the episode: {error}")

    def _out(self, kind: Any, topic: str, qos: Any = RELIABLE_DEPTH) -> Any:
        publisher = self.create_publisher(kind, topic, qos)
        self._outputs.append(publisher)
        return publisher

    def diagnose(self, report: Report) -> None:
        for state, count in self._counts.items():
            report.value(f"episodes.{state}", count)
        environment = self._environment
        if environment is not None:
            report.value("suite", environment.task.suite)
            report.value("task", environment.task.index)
            report.value("steps", environment.steps)
        report.value("assets", self._assets.folder)
        if not self._assets.provenance.comparable:
            report.value("comparable", self._assets.provenance.statement)


def main() -> int:
    return run_node(LiberoNode)


if __name__ == "__main__":
    sys.exit(main())
