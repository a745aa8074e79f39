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

from lavla_ros.bringup.environment import enter_ros
from lavla_ros.errors import UserError
from lavla_ros.ros.client import ServiceError, call, spinning
from lavla_ros.ros.messages import LATCHED_INPUT_QOS


class ConductorError(UserError, RuntimeError):
    """The stack does not do what an episode needs."""


class Conductor(Node):  # type: ignore[misc]  # rclpy is untyped
    """One episode at a time; every wait has an end."""

    def __init__(self) -> None:
        super().__init__("conductor")
        self._state: dict[str, Any] = {}
        self._fault: str | None = None
        self._start = self.create_client(Trigger, "/episode/start")
        self._stop = self.create_client(Trigger, "/episode/stop")
        self._mark = self.create_client(SetBool, "/episode/mark")
        self._reset = self.create_client(Trigger, "/episode/reset")
        self.create_subscription(String, "/episode/state", self._on_state, LATCHED_INPUT_QOS)
        self.create_subscription(String, "/executor/state", self._on_executor, LATCHED_INPUT_QOS)

    def run_episode(self, timeout_s: float) -> dict[str, Any]:
        """Record the episode that is about to run and return the referee's last word.

        Raises ConductorError or ServiceError when it does not start, does not end, or the executor reports a fault.
        """
        self._wait_for({"running"}, timeout_s)
        bag = call(self._start, Trigger.Request())
        verdict = self._wait_for({"succeeded", "failed"}, timeout_s)
        call(self._mark, SetBool.Request(data=verdict["state"] == "succeeded"))
        call(self._stop, Trigger.Request())
        return {**verdict, "bag": bag}

    def reset(self) -> None:
        """Begin the next episode: the arm comes home, a new scene is set up, the referee announces it."""
        self._state = {}  # what is over must not be taken for what is to come
        call(self._reset, Trigger.Request())

    def _wait_for(self, states: set[str], timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while self._state.get("state") not in states:
            if self._fault is not None:
                raise ConductorError(f"the executor reports a fault: {self._fault}")
            if time.monotonic() > deadline:
                raise ConductorError(
                    f"the episode is {self._state.get('state', 'unheard of')} after {timeout_s:.0f} s; "
                    f"expected {sorted(states)}"
                )
            time.sleep(0.02)
        return dict(self._state)

    def _on_state(self, message: String) -> None:
        state = json.loads(message.data)
        if state.get("source") == "simulator":
            self._state = state

    def _on_executor(self, message: String) -> None:
        self._fault = json.loads(message.data).get("fault")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds an episode may take to start, and to end")
    parser.add_argument("--progress", type=Path, required=True, help="file that gets one JSON line per episode")
    options = parser.parse_args(argv)
    enter_ros()
    rclpy.init()
    conductor = Conductor()
    try:
        with spinning(conductor):
            for index in range(options.episodes):
                conductor.reset()
                result = conductor.run_episode(options.timeout)
                with options.progress.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"index": index, **result}) + "\n")
    except (ConductorError, ServiceError) as error:
        print(f"conductor: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        conductor.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
