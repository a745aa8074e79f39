"""Runs episodes on the live tabletop, one after another: reset, record, wait for the referee's verdict.

The simulator's ``/episode/state`` says when an episode runs and how it ended; the recorder is started and stopped
through its services. One JSON line per finished episode goes to ``--progress``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from lavla_ros import topics
from lavla_ros.bringup.environment import enter_ros
from lavla_ros.episode import SIMULATOR, EpisodePhase, EpisodeState, ExecutorReport
from lavla_ros.errors import UserError, one_line_errors
from lavla_ros.ros.client import call, own_arguments, spinning
from lavla_ros.ros.messages import LATCHED_INPUT_QOS
from lavla_ros.ros.process import secured


class ConductorError(UserError, RuntimeError):
    """The stack does not do what an episode needs."""


class Conductor(Node):  # type: ignore[misc]  # rclpy is untyped
    """One episode at a time; every wait has an end."""

    def __init__(self) -> None:
        super().__init__("conductor")
        self._state: EpisodeState | None = None
        self._fault: str | None = None
        self._start = self.create_client(Trigger, topics.EPISODE_START)
        self._stop = self.create_client(Trigger, topics.EPISODE_STOP)
        self._mark = self.create_client(SetBool, topics.EPISODE_MARK)
        self._reset = self.create_client(Trigger, topics.EPISODE_RESET)
        self.create_subscription(String, topics.EPISODE_STATE, self._on_state, LATCHED_INPUT_QOS)
        self.create_subscription(String, topics.EXECUTOR_STATE, self._on_executor, LATCHED_INPUT_QOS)

    def run_episode(self, timeout_s: float) -> dict[str, Any]:
        """Record the episode that is about to run and return the referee's last word.

        Raises ConductorError or ServiceError when it does not start, does not end, or the executor reports a fault.
        """
        self._wait_for({EpisodePhase.RUNNING}, timeout_s)
        bag = call(self._start, Trigger.Request())
        verdict = self._wait_for({EpisodePhase.SUCCEEDED, EpisodePhase.FAILED}, timeout_s)
        call(self._mark, SetBool.Request(data=verdict.phase is EpisodePhase.SUCCEEDED))
        call(self._stop, Trigger.Request())
        return {**verdict.to_dict(), "bag": bag}

    def reset(self) -> None:
        """Begin the next episode: the arm comes home, a new scene is set up, the referee announces it."""
        self._state = None  # what is over must not be taken for what is to come
        call(self._reset, Trigger.Request())

    def _wait_for(self, phases: set[EpisodePhase], timeout_s: float) -> EpisodeState:
        deadline = time.monotonic() + timeout_s
        while (state := self._state) is None or state.phase not in phases:
            if self._fault is not None:
                raise ConductorError(f"the executor reports a fault: {self._fault}")
            if time.monotonic() > deadline:
                raise ConductorError(
                    f"the episode is {state.phase if state is not None else 'unheard of'} after {timeout_s:.0f} s; "
                    f"expected {[*map(str, sorted(phases))]}"
                )
            time.sleep(0.02)
        return state

    def _on_state(self, message: String) -> None:
        state = EpisodeState.from_json(message.data)
        if state.source == SIMULATOR:
            self._state = state

    def _on_executor(self, message: String) -> None:
        self._fault = ExecutorReport.from_json(message.data).fault


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds an episode may take to start, and to end")
    parser.add_argument("--progress", type=Path, required=True, help="file that gets one JSON line per episode")
    enter_ros()
    options = parser.parse_args(own_arguments(argv))
    with one_line_errors("conductor"), secured():
        rclpy.init(args=argv)
        conductor = Conductor()
    try:
        with one_line_errors("conductor"), spinning(conductor):
            for index in range(options.episodes):
                conductor.reset()
                result = conductor.run_episode(options.timeout)
                with options.progress.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"index": index, **result}) + "\n")
    except KeyboardInterrupt:
        return 130
    finally:
        conductor.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
