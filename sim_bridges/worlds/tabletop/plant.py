"""The tabletop as the arm of the controller emulator, live: physics in the emulator's cycle, its state in a ring.

A camera process maps the ring and renders from it (rendering takes longer than a servo cycle). It asks for a
new episode through a second ring beside it.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavla_ros.control.ring import Ring
from lavla_ros.errors import UserError
from sim_bridges.worlds.tabletop.sim import TabletopSim

GRIPPER_OUTPUT = 0
"""Tool output of the gripper; on closes it."""
STATE_SLOTS = 16
REQUEST_SLOTS, REQUEST_BYTES = 8, 256
_HEADER = struct.Struct("<qq")  # wall clock ns, episode


class SceneError(UserError, RuntimeError):
    """The shared state is not there, or not of the expected scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneState:
    """The whole scene at one moment."""

    stamp_ns: int
    """Wall clock when the physics had reached this state: the capture time of its pictures."""
    episode: int
    """Counts the resets."""
    snapshot: NDArray[np.float64]
    """As made by :meth:`TabletopSim.snapshot`."""

    def encode(self) -> bytes:
        return _HEADER.pack(self.stamp_ns, self.episode) + self.snapshot.astype("<f8").tobytes()

    @classmethod
    def decode(cls, payload: bytes) -> SceneState:
        stamp_ns, episode = _HEADER.unpack_from(payload)
        snapshot = np.frombuffer(payload, "<f8", offset=_HEADER.size).astype(np.float64)
        return cls(stamp_ns=stamp_ns, episode=episode, snapshot=snapshot)


class TabletopPlant:
    """Implements ``ArmPlant`` and ``ForceSensing`` of :mod:`sim_bridges.jaka_controller.emulator`.

    :meth:`request_reset` may come from any thread.
    """

    def __init__(self, sim: TabletopSim, state: Ring | None = None, *, feels_collisions: bool = False) -> None:
        """``feels_collisions``: otherwise the arm presses unfelt, as the scripted expert does when it nests bowls."""
        self._sim = sim
        self._feels_collisions = feels_collisions
        self._state = state
        self._target_rad = sim.joint_position_rad
        self._gripper_open = True
        self._episode = 0
        self._wanted_seed: int | None = None
        self._lock = threading.Lock()
        self._publish()

    def joint_position_rad(self) -> NDArray[np.float64]:
        """See ArmPlant."""
        return self._sim.joint_position_rad

    def command_joints_rad(self, q_rad: NDArray[np.float64]) -> None:
        """See ArmPlant."""
        self._target_rad = q_rad

    def set_tool_output(self, index: int, value: bool) -> None:
        """See ArmPlant."""
        if index == GRIPPER_OUTPUT:
            self._gripper_open = not value

    def advance(self, dt_s: float) -> None:
        """See ArmPlant."""
        with self._lock:
            seed, self._wanted_seed = self._wanted_seed, None
        if seed is not None:
            self._sim.reset(seed)
            self._episode += 1
        self._sim.set_targets(self._target_rad, float(self._gripper_open))
        self._sim.advance(round(dt_s * 1e9))
        self._publish()

    def external_force_n(self) -> float:
        """See ForceSensing."""
        return self._sim.external_force_n() if self._feels_collisions else 0.0

    def request_reset(self, seed: int) -> None:
        """New objects in the next cycle. Bring the arm to the seed's home pose first: it is set there."""
        with self._lock:
            self._wanted_seed = seed

    def _publish(self) -> None:
        if self._state is not None:
            state = SceneState(stamp_ns=time.time_ns(), episode=self._episode, snapshot=self._sim.snapshot())
            self._state.write(state.encode())


def create_rings(path: Path, sim: TabletopSim) -> tuple[Ring, Ring]:
    """The rings of the state (written here) and of the requests (read here)."""
    capacity = _HEADER.size + 8 * sim.snapshot_size
    requests = Ring.create(_requests_path(path), slots=REQUEST_SLOTS, capacity=REQUEST_BYTES)
    return Ring.create(path, slots=STATE_SLOTS, capacity=capacity), requests


def open_rings(path: Path) -> tuple[Ring, Ring]:
    """The same from the camera's side. Raises RingError naming the file."""
    return Ring.open(path), Ring.open(_requests_path(path))


def encode_reset(seed: int) -> bytes:
    return json.dumps({"reset": seed}).encode()


def decode_reset(payload: bytes) -> int:
    """Raises SceneError for anything else."""
    try:
        return int(json.loads(payload)["reset"])
    except (ValueError, KeyError, TypeError) as error:
        raise SceneError(f"not a reset request: {payload[:60]!r} ({error})") from None


def _requests_path(path: Path) -> Path:
    return path.with_name(path.name + ".requests")
