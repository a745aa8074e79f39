"""A gamepad that a script holds, as a file: what Linux would write of it comes out, for any reader of gamepads.

The hands are idle but for the time in which an episode is recorded: then they solve the task of the live tabletop.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from std_msgs.msg import String

from lavla_ros import topics
from lavla_ros.contract import load_contract
from lavla_ros.control.ring import Ring
from lavla_ros.episode import RECORDER, EpisodePhase, EpisodeState
from lavla_ros.ros.diagnostics import Report
from lavla_ros.ros.lifecycle import LavlaNode, wall_ns
from lavla_ros.ros.messages import LATCHED_INPUT_QOS
from lavla_ros.ros.parameters import NodeParameters, ParameterError, parameter
from lavla_ros.ros.process import run_node
from lavla_ros.teleop.config import load_mapping
from lavla_ros.teleop.devices import written
from sim_bridges.worlds.tabletop.gamepad import Inputs, ScriptedHands
from sim_bridges.worlds.tabletop.names import STATE_FILE, TRAINED_LAYOUT, USUAL_TASK, LayoutName, TaskName
from sim_bridges.worlds.tabletop.plant import SceneState
from sim_bridges.worlds.tabletop.sim import TabletopSim

PERIOD_S = 0.05
STALE_S = 0.5
"""Older than this the scene is not known."""


@dataclass(frozen=True, kw_only=True)
class TabletopGamepadParameters(NodeParameters):
    contract: str = parameter(help="Contract: a shipped name or a YAML file.")
    state_file: str = parameter(STATE_FILE, "Ring file of the physics process (--state-file).")
    task: str = parameter(USUAL_TASK, "Task of the physics process.", choices=get_args(TaskName))
    layout: str = parameter(TRAINED_LAYOUT, "Layout of the physics process.", choices=get_args(LayoutName))
    mapping: str = parameter("gamepad", "What the gamepad's inputs do: that of who reads it.")
    file: str = parameter("runs/gamepad", "What is read as --device; it is there as long as the node is.")


class TabletopGamepadNode(LavlaNode):
    """The file, and a timer that moves the hands."""

    parameters_type = TabletopGamepadParameters
    parameters: TabletopGamepadParameters

    def __init__(self, **options: Any) -> None:
        super().__init__("tabletop_gamepad", **options)

    def setup(self) -> None:
        p = self.parameters
        contract = load_contract(p.contract)
        self._ring = Ring.open(Path(p.state_file))
        self.configured.callback(self._ring.close)
        task: Any = p.task
        layout: Any = p.layout
        self._sim = TabletopSim(task, layout=layout)
        self._hands = ScriptedHands(self._sim, contract, load_mapping(p.mapping))
        self._file = self._plug_in(Path(p.file).expanduser())

    def start(self) -> None:
        self._recording = False
        self.activated.subscription(String, topics.EPISODE_STATE, self._on_episode, LATCHED_INPUT_QOS)
        self.activated.timer(PERIOD_S, self._step)

    def stop(self) -> None:
        self._write(self._hands.let_go())

    def _plug_in(self, path: Path) -> int:
        """The writing end of the file. Raises ParameterError if something else is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not stat.S_ISFIFO(path.stat().st_mode):
            raise ParameterError(f"{path} is there, and is no gamepad; name another file")
        path.unlink(missing_ok=True)  # of a node that was killed
        os.mkfifo(path, 0o600)
        self.configured.callback(lambda: path.unlink(missing_ok=True))
        # Open for reading too, so that it is no end of the file to whoever reads that nobody has written yet.
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.configured.callback(lambda: os.close(file))
        return file

    def _on_episode(self, message: String) -> None:
        state = EpisodeState.from_json(message.data)
        if state.source == RECORDER:
            self._recording = state.phase is EpisodePhase.RUNNING

    def _step(self) -> None:
        payload = self._ring.newest() if self._recording else None
        state = SceneState.decode(payload) if payload is not None else None
        if state is None or wall_ns() - state.stamp_ns > STALE_S * 1e9:
            self._write(self._hands.let_go())
            return
        self._sim.restore(state.snapshot)
        self._write(self._hands.steer(time.monotonic()))

    def _write(self, inputs: Inputs) -> None:
        with suppress(BlockingIOError):  # nobody reads: as with a gamepad, what was done then is lost
            os.write(self._file, b"".join(written(*each) for each in inputs))

    def diagnose(self, report: Report) -> None:
        report.value("file", self.parameters.file)
        if self.active:
            report.value("hands", "teach" if self._recording else "idle")


def main() -> int:
    return run_node(TabletopGamepadNode)


if __name__ == "__main__":
    sys.exit(main())
