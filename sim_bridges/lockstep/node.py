"""A suite's simulator as topics in lock-step: simulated time stands still until the one who acts has answered.

At each contract step the node publishes /clock and the state of simulated time t, at every replanning step the pictures
too, and awaits the chunk for t; it executes the step, and publishes the command that took effect by t + dt. A policy
node acts on ``/action_chunk``, or the suite's scripted expert in this process (demonstrations).

Which episode: the parameters ``suite``, ``task``, ``seed`` and ``initial_state``, which may be set at any time and take
effect at ``/episode/reset``; a suite's own options are parameters too. With ``episodes`` > 0 that many begin by
themselves, one after another: the following initial states, or seeds where the suite has none. With ``exit_when_done``
the process ends after the last. ``/episode/state`` says, latched, as JSON: ``resetting``, ``running``, then
``succeeded``, ``failed`` (the step limit) or ``error`` (anything else, with its reason: no chunk in time, a bad one, a
stop), which is never a failure. After an error the episodes that were to follow wait for a reset, or, with
``exit_when_done``, never come.

The simulator lives in a thread of its own, messages arrive in the executor's. One process per simulator.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from lavla_ros import topics
from lavla_ros.config import parse_options
from lavla_ros.contract import load_contract, require_same_contract
from lavla_ros.episode import EpisodePhase
from lavla_ros.ros.client import ServiceError
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import LavlaNode
from lavla_ros.ros.parameters import ParameterError
from lavla_ros.ros.process import run_node
from sim_bridges.lockstep.episodes import Episodes, Recorder
from sim_bridges.lockstep.parameters import LockstepParameters, Request
from sim_bridges.lockstep.thread import SimulatorThread
from sim_bridges.lockstep.topics import LockstepTopics
from sim_bridges.suites import choose_tasks, load_suite, options_of
from sim_bridges.world import Assets, EpisodeStart, HasExtraTopics, Suite, SuiteError
from sim_bridges.worlds import DEFAULT_SUITE


class LockstepNode(LavlaNode):
    """A suite as topics. One per process."""

    parameters_type = LockstepParameters
    parameters: LockstepParameters

    def __init__(self, suite: str = DEFAULT_SUITE, **options: Any) -> None:
        """``suite``: the one that runs unless the parameter names another."""
        super().__init__("lockstep", **options)
        self._suite = self._declare_episode(suite)
        self._assets = Assets(source="")
        self._thread: SimulatorThread
        self._episodes: Episodes
        self._topics: LockstepTopics
        self._recorder: Recorder | None = None
        # What is asked for at one time is one batch: a reset, a stop or an error ends all of it.
        self._batch, self._running_batch, self._failed_batch = 0, -1, -1
        self._why_ended = ""
        self._counts = dict.fromkeys((EpisodePhase.SUCCEEDED, EpisodePhase.FAILED, EpisodePhase.ERROR), 0)

    def _declare_episode(self, suite: str) -> Suite:
        """The parameters that say which episode, a suite's own options among them; the suite that they name."""
        described = ParameterDescriptor(description="Suite of tasks, or module:factory.")
        name = str(self.declare_parameter("suite", suite, described).value)
        described = ParameterDescriptor(description="Options of the suite, name=value each, with spaces between.")
        self.declare_parameter("options", "", described)
        self._options = options_of(name)
        for option, default in self._options.items():
            words = f"Option of the suite; default is {default}." if default else "Option of the suite."
            self.declare_parameter(option, "", ParameterDescriptor(dynamic_typing=True, description=words))
        if "contract" not in self._options:
            described = ParameterDescriptor(description="Contract of the other nodes, which must be the suite's.")
            self.declare_parameter("contract", "", described)
        loaded = self._load_suite(name)
        task = self._declare("task", (*loaded.default_tasks, *loaded.tasks)[0], "Its number in the suite, or its name.")
        (first, *_) = choose_tasks(loaded, [str(task)])
        self._declare("seed", loaded.plan(first, 0, loaded.rules.seed).seed, "Seed of the scene.")
        self.declare_parameter("initial_state", 0, ParameterDescriptor(description="Recorded initial state, from 0."))
        return loaded

    def _declare(self, key: str, default: str | int, words: str) -> Any:
        """Its value; an empty text stands for the default."""
        described = ParameterDescriptor(dynamic_typing=True, description=f"{words} Default is {default}.")
        if self.declare_parameter(key, default, described).value == "":
            self.set_parameters([Parameter(key, value=default)])
        return self.get_parameter(key).value

    # Lifecycle.

    def setup(self) -> None:
        parameters = self.parameters
        first = self.request()
        self._suite = suite = self._load_suite(first.suite)
        contract, steps = suite.contract, parameters.replan_steps or suite.rules.replan_steps
        if "contract" not in self._options and (name := self.get_parameter("contract").value):
            theirs = f"parameter contract, {name}"
            require_same_contract(contract, load_contract(name), ours_from=f"suite {suite.name}", theirs_from=theirs)
        if steps > contract.chunk_size:
            raise ParameterError(
                f"replan_steps is {steps}; a chunk of contract {contract.name} has {contract.chunk_size} steps, and "
                "nothing is left to do after them"
            )
        commanded = parameters.commander == "topic"
        if parameters.policy and commanded:
            raise ParameterError(
                f"policy is {parameters.policy!r}, which the expert corrects in this process: set commander to expert"
            )
        if parameters.record and commanded and contract.step != "period":
            raise ParameterError(
                f"record is for the expert's demonstrations where steps take unequal times, as those of contract "
                f"{contract.name} do: set commander to expert"
            )
        task, start = self._start_of(suite, first)
        self._start_of(suite, self.request(max(parameters.episodes, 1) - 1))
        self._assets = suite.assets()
        if self._assets.statement:
            self.get_logger().info(self._assets.statement)
        self._topics = LockstepTopics(
            self.configured,
            contract,
            timeout_s=parameters.timeout_s,
            commanded=commanded,
            recorded=parameters.record,
            two_commanders=bool(parameters.policy),
            ended=lambda: self.ended,
        )
        extra = suite.extra_topics(self.configured) if isinstance(suite, HasExtraTopics) else None
        self._episodes = Episodes(self._topics, extra, lambda: self._recorder, lambda: self.ended, parameters)
        self._thread = SimulatorThread(self.fail)
        self.configured.callback(self._thread.close, self._episodes.close)
        self._thread.call(partial(self._episodes.prepare, first.suite, suite, task, start))

    def start(self) -> None:
        self._recorder = Recorder(self.activated, self.parameters.timeout_s) if self.parameters.record else None
        self.activated.service(Trigger, topics.EPISODE_RESET, self._on_reset)
        for number in range(self.parameters.episodes):
            self._put(self.request(number))

    def stop(self) -> None:
        """An episode in progress ends as an error: how it would have ended is unknown."""
        self._end_batch("the node was deactivated")
        # The thread may wait for this one to take a message; a step and a picture are all that it may still do.
        with suppress(TimeoutError):
            self._thread.call(lambda: None, self.parameters.timeout_s + 30.0)

    @property
    def ended(self) -> str:
        """Why the present batch is over; empty while it is not."""
        return self._why_ended if self._running_batch != self._batch else ""

    # Requests.

    def request(self, number: int | None = None) -> Request:
        """What the parameters ask for now."""
        names = ("suite", "task", "seed", "initial_state")
        suite, task, seed, initial_state = (self.get_parameter(name).value for name in names)
        return Request(
            suite=str(suite), task=str(task), seed=int(seed), initial_state=int(initial_state), number=number
        )

    def _load_suite(self, name: str) -> Suite:
        given = {option: str(self.get_parameter(option).value) for option in self._options}
        together = parse_options(shlex.split(self.get_parameter("options").value))
        return load_suite(name, together | {option: value for option, value in given.items() if value})

    def _start_of(self, suite: Suite, request: Request) -> tuple[str, EpisodeStart]:
        """Its task and how it begins. Raises SuiteError for what does not exist."""
        tasks = choose_tasks(suite, [request.task])
        if len(tasks) != 1:
            raise SuiteError(f"{request.task!r} is {len(tasks)} tasks of {suite.name}; name one")
        if request.seed < 0:
            raise SuiteError(f"the seed is {request.seed}; expected an integer >= 0")
        following = (request.number or 0) * self.parameters.every
        first = suite.plan(tasks[0], 0, request.seed)
        if first.state_index is None:
            return tasks[0], first._replace(seed=request.seed + following)
        return tasks[0], suite.plan(tasks[0], request.initial_state + following, request.seed)

    def _on_reset(self, _request: Any, response: Any) -> Any:
        try:
            request = self.request()
            self._start_of(self._load_suite(request.suite), request)
        except ValueError as error:
            response.success, response.message = False, str(error)
            return response
        self._end_batch(f"{self.resolve_service_name(topics.EPISODE_RESET)} was called")
        self._put(request)
        response.success, response.message = True, json.dumps(asdict(request))
        return response

    def _end_batch(self, reason: str) -> None:
        """Whatever runs or waits to run is over."""
        self._why_ended = reason
        self._batch += 1
        self._topics.wake()

    def _put(self, request: Request) -> None:
        self._thread.put(partial(self._run_episode, self._batch, request))

    # In the simulator's thread.

    def _run_episode(self, batch: int, request: Request) -> None:
        """One episode to its end, whatever that is; after an error, what was queued behind it waits for a reset."""
        self._running_batch = batch
        if self.ended or batch == self._failed_batch:
            return
        began = time.monotonic()
        suite = self._load_suite(request.suite)
        task, start = self._start_of(suite, request)
        phase, row = self._episodes.run(request.suite, suite, task, start, request.number)
        self._counts[phase] += 1
        if phase is EpisodePhase.ERROR:
            self._failed_batch = batch
            self.get_logger().error(f"the episode ended in an error: {row['reason']}")
        try:
            if self._recorder is not None:
                self._recorder.finish(phase)
        except ServiceError as error:
            self.fail(f"the recorder did not finish the episode: {error}")
        if self.parameters.progress:
            with Path(self.parameters.progress).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "wall_s": time.monotonic() - began}) + "\n")
        failed = batch == self._failed_batch
        finishes = self.parameters.exit_when_done and self.parameters.episodes > 0
        if finishes and not self.ended and (failed or self._thread.idle):
            self.finish(int(failed))

    def diagnose(self, report: Report) -> None:
        for phase, count in self._counts.items():
            report.value(f"episodes.{phase}", count)
        report.value("suite", self._suite.name)
        report.value("assets", self._assets.source)
        report.value("task", self._episodes.task)


def main() -> int:
    """``python -m sim_bridges.lockstep.node [SUITE] [--ros-args …]``."""
    suite = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else DEFAULT_SUITE
    return run_node(lambda: LockstepNode(suite))


if __name__ == "__main__":
    sys.exit(main())
