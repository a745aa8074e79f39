"""What goes through the rings between the ROS side and the servo process, as bytes. No pickle.

Chunks are in joint space already: a small header and raw float64. Everything else is JSON (a snapshot costs about
20 µs).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavla_ros.control.actions import ChunkRejected, PreparedChunk
from lavla_ros.control.types import ExecutorState

CHUNK_CAPACITY = 128 * 1024
SNAPSHOT_CAPACITY = 16 * 1024
REQUEST_CAPACITY = 4 * 1024
RING_FILES = {
    # name: (slots, capacity); who writes
    "chunks": (4, CHUNK_CAPACITY),  # ROS side
    "requests": (16, REQUEST_CAPACITY),  # ROS side
    "heartbeat": (4, 64),  # ROS side
    "snapshots": (1024, SNAPSHOT_CAPACITY),  # servo process; 8 s of ticks
}
_CHUNK = struct.Struct("<IqqIIIId")  # flags, stamp, dt, steps, joints, first step, values clipped, most speed
_ABSOLUTE, _GRIPPER, _REJECTED, _MALFORMED, _PERSON = 1, 2, 4, 8, 16
MAX_TEXT_BYTES = 600
"""Of one text as JSON has it, where a character takes up to 12 bytes."""
MAX_RESULTS = MAX_ANSWERS = 4
"""Verdicts and answers in one snapshot."""
_TEXTS = ("fault", "hold_reason", "held", "concern", "waiting_for", "busy", "driver_fault", "taken", "exit_reason")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    ok: bool
    text: str
    retry: bool = False
    """Refused only for now: the command is still ramping to rest, and the same request will be obeyed then."""


class WireError(ValueError):
    """Bytes that are no message of the expected kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServoSnapshot:
    """One servo tick, as seen by the ROS side."""

    tick: int
    """Ticks since the process started."""
    stamp_ns: int
    """Wall clock of the tick's place on the 8 ms grid; the command is due one period later."""
    command_rad: NDArray[np.float64]
    """(6,) commanded joint positions. Not sent while ``state`` is IDLE."""
    command_velocity_rad_s: NDArray[np.float64]
    gripper: float
    """Commanded opening, 1 open."""
    state: ExecutorState
    fault: str | None
    hold_reason: str
    held: str | None = None
    """Why chunks are refused until a person resumes; None if they are not."""
    waiting_for: str = ""
    """What has to come before the arm moves (again): a chunk, resume, acknowledge, power_on, enable, activate;
    empty while it moves."""
    since_ns: int = 0
    """Wall clock since when ``state`` is what it is."""
    concern: str | None = None
    """The driver's first sign of trouble, while it lasts."""
    busy: str = ""
    """What the process does instead of ticking, beginning now; empty in an ordinary tick."""
    chunk_stamp_ns: int | None
    commander: str = ""
    """See :attr:`ChunkExecutor.commander`."""
    measured_rad: NDArray[np.float64]
    """(6,) measured joint positions."""
    measured_gripper: float
    measured_stamp_ns: int
    tool_wrench: NDArray[np.float64] | None = None
    """(6,) force in N and torque in Nm at the tool, measured with the joints; None without a sensor."""
    taken: str | None = None
    """What else has the arm, see :attr:`ArmState.taken`."""
    powered_on: bool
    enabled: bool
    servo_mode: bool
    driver_fault: str | None
    late_ns: int
    """Wake-up after the deadline."""
    missed: int
    """Ticks skipped by overruns since the start."""
    results: tuple[tuple[int, bool, str], ...] = ()
    """(chunk stamp, accepted, reason) of every chunk taken from the ring since the last tick."""
    answers: tuple[tuple[int, Answer], ...] = ()
    """(request id, answer) of every request carried out since the last tick."""
    counters: dict[str, int] = field(default_factory=dict)
    exit_reason: str | None = None
    """Set in the last snapshot of a process: why it ended."""

    def encode(self) -> bytes:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("command_rad", "command_velocity_rad_s", "measured_rad"):
            data[name] = data[name].tolist()
        data["tool_wrench"] = None if self.tool_wrench is None else self.tool_wrench.tolist()
        data["state"] = int(self.state)
        for name in _TEXTS:
            data[name] = data[name] if data[name] is None else cut(data[name])
        data["results"] = [(s, ok, cut(why)) for s, ok, why in self.results[-MAX_RESULTS:]]
        data["answers"] = [(i, a.ok, cut(a.text), a.retry) for i, a in self.answers[-MAX_ANSWERS:]]
        return json.dumps(data).encode()

    @classmethod
    def decode(cls, payload: bytes) -> ServoSnapshot:
        """Raises WireError."""
        try:
            data: dict[str, Any] = json.loads(payload)
            for name in ("command_rad", "command_velocity_rad_s", "measured_rad"):
                data[name] = np.array(data[name], dtype=np.float64)
            if data["tool_wrench"] is not None:
                data["tool_wrench"] = np.array(data["tool_wrench"], dtype=np.float64)
            data["state"] = ExecutorState(data["state"])
            data["results"] = tuple((int(s), bool(ok), str(why)) for s, ok, why in data["results"])
            data["answers"] = tuple((int(i), Answer(bool(a), str(b), bool(c))) for i, a, b, c in data["answers"])
            return cls(**data)
        except (ValueError, TypeError, KeyError) as error:
            raise WireError(f"not a servo snapshot: {error}") from None


def encode_chunk(chunk: PreparedChunk) -> bytes:
    """Raises WireError if the chunk does not fit the ring."""
    rows = np.ascontiguousarray(chunk.rows_HJ, dtype="<f8")
    flags = _ABSOLUTE * (chunk.points_HJ is not None) | _GRIPPER * (chunk.gripper_H is not None)
    flags |= _PERSON * chunk.person
    payload = _CHUNK.pack(
        flags, chunk.stamp_ns, chunk.dt_ns, *rows.shape, chunk.from_step, chunk.clipped, chunk.most_speed
    )
    payload += rows.tobytes()
    if chunk.gripper_H is not None:
        payload += np.ascontiguousarray(chunk.gripper_H, dtype="<f8").tobytes()
    if len(payload) > CHUNK_CAPACITY:
        raise WireError(f"the chunk has shape {rows.shape}, {len(payload)} bytes; at most {CHUNK_CAPACITY} fit")
    return payload


def encode_rejection(stamp_ns: int, rejection: ChunkRejected) -> bytes:
    """Stands for a chunk that could not be prepared, so that the executor can count it and latch the fault."""
    flags = _REJECTED | _MALFORMED * rejection.malformed | _PERSON * rejection.person
    text = json.dumps([rejection.counter, cut(str(rejection))]).encode()
    return _CHUNK.pack(flags, stamp_ns, 0, 0, 0, 0, 0, 0.0) + text


def decode_chunk(payload: bytes) -> tuple[int, PreparedChunk | ChunkRejected]:
    """Stamp, and what :func:`encode_chunk` or :func:`encode_rejection` was given. Raises WireError."""
    try:
        flags, stamp_ns, dt_ns, steps, joints, from_step, clipped, speed = _CHUNK.unpack_from(payload)
        if flags & _REJECTED:
            counter, text = json.loads(payload[_CHUNK.size :])
            rejection = ChunkRejected(str(counter), str(text), malformed=bool(flags & _MALFORMED))
            rejection.person = bool(flags & _PERSON)
            return stamp_ns, rejection
        values = np.frombuffer(payload, dtype="<f8", offset=_CHUNK.size).astype(np.float64)
        rows, gripper = values[: steps * joints].reshape(steps, joints), values[steps * joints :]
        return stamp_ns, PreparedChunk(
            stamp_ns=stamp_ns,
            dt_ns=dt_ns,
            points_HJ=rows if flags & _ABSOLUTE else None,
            increments_HJ=None if flags & _ABSOLUTE else rows,
            gripper_H=gripper if flags & _GRIPPER else None,
            from_step=from_step,
            clipped=clipped,
            person=bool(flags & _PERSON),
            most_speed=speed,
        )
    except (struct.error, ValueError, TypeError) as error:
        raise WireError(f"not an action chunk: {error}") from None


def is_persons(payload: bytes) -> bool:
    """Whether the bytes say that they are a person's chunk."""
    return bool(payload[:1] and payload[0] & _PERSON)


def encode_request(request_id: int, name: str, values: Sequence[float] = (), text: str = "") -> bytes:
    return json.dumps({"id": request_id, "name": cut(name), "values": list(values), "text": cut(text)}).encode()


def decode_request(payload: bytes) -> tuple[int, str, list[float], str]:
    """Identity, name, values and text. Raises WireError."""
    try:
        data = json.loads(payload)
        return int(data["id"]), str(data["name"]), [float(value) for value in data["values"]], str(data["text"])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise WireError(f"not a request: {error}") from None


def cut(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """``text``, shortened if it takes more than ``limit`` bytes as JSON."""
    if 12 * len(text) + 2 <= limit or (size := len(json.dumps(text))) <= limit:
        return text
    while size > limit:
        text = text[: min(len(text) - 1, len(text) * (limit - 10) // size)]
        size = len(json.dumps(text + "…"))
    return text + "…"
