"""What the nodes of simulators in lock-step share: episodes that are asked for, run, recorded and told of.

Which episode: parameters that may be set at any time and take effect at ``/episode/reset``. With ``episodes`` > 0 so
many begin by themselves, one after another; with ``exit_when_done`` the process ends after the last. ``/episode/state``
says, latched, as JSON: ``resetting``, ``running``, then ``succeeded``, ``failed`` (the step limit) or ``error``
(whatever else, with its reason: no chunk in time, a bad one, a stop), which is never a failure. After an error the
episodes that were to follow wait for a reset, or, with ``exit_when_done``, never come.

Episodes run in a thread of their own, messages arrive in the executor's. One process per simulator.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.contract import Contract, load_contract
from lavla_ros.episode import EpisodePhase
from lavla_ros.ros.client import ServiceError, call
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import LavlaNode
from lavla_ros.ros.parameters import NodeParameters, ParameterError, parameter
from sim_bridges.lockstep_topics import LockstepTopics


@dataclass(frozen=True, kw_only=True)
class EpisodeParameters(NodeParameters):
    """Those that every such node has; a node gives its contract."""

    contract: str = parameter("", "Contract: a shipped name or a YAML file.")
    commander: str = parameter("topic", "Who acts: /action_chunk, or the expert.", choices=("topic", "expert"))
    disturb: bool = parameter(False, "Expert: push the arm now and then; the published commands stay clean (DART).")
    replan_steps: int = parameter(8, "Steps between two pictures for the policy.", low=1, high=256)
    max_steps: int = parameter(0, "An episode this long has failed; 0: the official limit.", low=0, high=10_000)
    episodes: int = parameter(0, "Episodes that begin by themselves; 0: only at /episode/reset.", low=0, high=10_000)
    exit_when_done: bool = parameter(False, "End after the last of these; with status 1 after an error.")
    record: bool = parameter(False, "Record every episode through the recorder node's services.")
    progress: str = parameter("", "File that gets one JSON line per episode.")
    timeout_s: float = parameter(10.0, "Wait for a chunk, a subscriber or a service.", low=0.1, high=600.0, unit="s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What an episode takes place in."""

    instruction: str
    about: dict[str, Any]
    """JSON-ready: what /episode/state and the progress file say of it."""


class Simulator(Protocol):
    """How far a running episode is."""

    @property
    def steps(self) -> int: ...

    @property
    def trajectory(self) -> str:
        """Hash over the simulator's states."""
        ...


class EpisodeNode(LavlaNode, ABC):
    """See the module. A simulator's node says what a request is, and what happens in an episode. Requests are frozen
    dataclasses."""

    parameters_type = EpisodeParameters
    parameters: Any

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._contract: Contract
        self._thread: threading.Thread | None = None
        self._requests: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        # What is asked for at one time is one batch: a reset, a stop or an error ends all of it.
        self._batch, self._running_batch, self._failed_batch = 0, -1, -1
        self._why_ended = ""
        self._made_topics: LockstepTopics | None = None
        self._recorder: dict[str, Any] = {}
        self._counts = dict.fromkeys((EpisodePhase.SUCCEEDED, EpisodePhase.FAILED, EpisodePhase.ERROR), 0)

    # What a simulator's node says.

    @abstractmethod
    def request(self, index: int | None = None) -> Any:
        """What the parameters ask for now; ``index``: of an episode that begins by itself, the first is 0."""

    @abstractmethod
    def check(self, request: Any) -> None:
        """Raises ValueError for what does not exist."""

    @abstractmethod
    def open(self, first: Any) -> None:
        """Make what episodes need, in ``setup``; ``first`` is the present request, and was checked."""

    @abstractmethod
    def close(self) -> None:
        """Undo it; it may be half made."""

    @abstractmethod
    def describe(self, request: Any) -> Scene:
        """The scene of a request, in the episodes' thread as everything below. What any of this raises as RuntimeError
        or ValueError ends the episode in an error."""

    @abstractmethod
    def begin(self, request: Any) -> Simulator:
        """Reset to the scene that was just described."""

    @abstractmethod
    def act(self, request: Any) -> tuple[bool, str]:
        """Run the episode: whether the goal was reached, and why not. ``ended`` says when to give up."""

    def rest(self) -> None:
        """The episodes' thread ends: let go of what belongs to it."""

    # Lifecycle.

    def setup(self) -> None:
        parameters = self.parameters
        self._contract = contract = load_contract(parameters.contract)
        if parameters.replan_steps > contract.chunk_size:
            raise ParameterError(
                f"replan_steps is {parameters.replan_steps}; a chunk of contract {contract.name} has "
                f"{contract.chunk_size} steps, and nothing is left to do after them"
            )
        first = self.request()
        self.open(first)
        self._made_topics = LockstepTopics(
            self,
            contract,
            timeout_s=parameters.timeout_s,
            commanded=parameters.commander == "topic",
            ended=lambda: self.ended,
        )

    def start(self) -> None:
        self._requests = queue.SimpleQueue()
        if self.parameters.record:
            self._recorder = {
                "start": self.create_client(Trigger, topics.EPISODE_START),
                "stop": self.create_client(Trigger, topics.EPISODE_STOP),
                "mark": self.create_client(SetBool, topics.EPISODE_MARK),
            }
        self._service = self.create_service(Trigger, topics.EPISODE_RESET, self._on_reset)
        for index in range(self.parameters.episodes):
            self._requests.put((self._batch, self.request(index)))
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
        for client in self._recorder.values():
            self.destroy_client(client)
        self._recorder = {}

    def teardown(self) -> None:
        if self._made_topics is not None:
            self._made_topics.close()
            self._made_topics = None
        self.close()

    @property
    def topics(self) -> LockstepTopics:
        assert self._made_topics is not None
        return self._made_topics

    @property
    def ended(self) -> str:
        """Why the present batch is over; empty while it is not."""
        return self._why_ended if self._running_batch != self._batch else ""

    # Requests.

    def _on_reset(self, _request: Any, response: Any) -> Any:
        try:
            request = self.request()
            self.check(request)
        except ValueError as error:
            response.success, response.message = False, str(error)
            return response
        self._end_batch("/episode/reset was called")
        self._requests.put((self._batch, request))
        response.success, response.message = True, json.dumps(asdict(request))
        return response

    def _end_batch(self, reason: str) -> None:
        """Whatever runs or waits to run is over."""
        self._why_ended = reason
        self._batch += 1
        if self._made_topics is not None:
            self._made_topics.wake()

    # Episodes: everything below runs in their thread.

    def _work(self) -> None:
        while (item := self._requests.get()) is not None:
            self._running_batch, request = item
            if self.ended or self._running_batch == self._failed_batch:
                continue
            try:
                self._run_episode(request)
            except Exception as error:  # noqa: BLE001  # a thread must not end in silence
                self.fail(f"the episode thread ended: {type(error).__name__}: {error}")
                break
            failed = self._running_batch == self._failed_batch
            if self._may_finish and not self.ended and (failed or self._requests.empty()):
                self.finish(int(failed))
                break
        self.rest()

    @property
    def _may_finish(self) -> bool:
        return bool(self.parameters.exit_when_done and self.parameters.episodes > 0)

    def _run_episode(self, request: Any) -> None:
        """One episode to its end, whatever that is; after an error, what was queued behind it waits for a reset."""
        began, phase, reason, recording = time.monotonic(), EpisodePhase.ERROR, "", False
        begun: Simulator | None = None
        about: dict[str, Any] = asdict(request)
        try:
            self.topics.wait_for_listeners(recorded=self.parameters.record)
            scene = self.describe(request)
            about = scene.about
            self.topics.prepare(scene.instruction, **about)
            begun = self.begin(request)
            if self.parameters.record:
                self._call("start")
                recording = True
            self.topics.begin()
            success, reason = self.act(request)
            phase = EpisodePhase.SUCCEEDED if success else EpisodePhase.FAILED
        except (RuntimeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            self._failed_batch = self._running_batch
            self.get_logger().error(f"the episode ended in an error: {reason}")
        steps, trajectory = (begun.steps, begun.trajectory) if begun is not None else (0, "")
        self._counts[phase] += 1
        self.topics.announce(phase, reason=reason, steps=steps)
        if recording:
            self._finish_recording(phase)
        if self.parameters.progress:
            over = {"state": phase, "reason": reason, "steps": steps, "trajectory": trajectory}
            line = json.dumps({**about, **over, "wall_s": time.monotonic() - began})
            with Path(self.parameters.progress).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _call(self, verb: str, request: Any = None) -> None:
        call(self._recorder[verb], request or Trigger.Request(), self.parameters.timeout_s)

    def _finish_recording(self, phase: EpisodePhase) -> None:
        """Keep the bag; one of an episode in error stays unmarked, and what it says on /episode/state tells why."""
        try:
            if phase is not EpisodePhase.ERROR:
                self._call("mark", SetBool.Request(data=phase is EpisodePhase.SUCCEEDED))
            self._call("stop")
        except ServiceError as error:
            self.fail(f"the recorder did not finish the episode: {error}")

    def diagnose(self, report: Report) -> None:
        for phase, count in self._counts.items():
            report.value(f"episodes.{phase}", count)
