"""The servo loop in this process, with arms that misbehave: what it sends and what it says."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from arms import CONTRACT, HOME, chunk_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.control.actions import ChunkRejected, PreparedChunk
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig, ExecutorState
from lavla_ros.control.loopback import LoopbackDriver
from lavla_ros.control.ring import Ring
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.servo_loop import ServoLoop
from lavla_ros.control.wire import (
    MAX_TEXT_BYTES,
    RING_FILES,
    SNAPSHOT_CAPACITY,
    Answer,
    ServoSnapshot,
    WireError,
    cut,
    decode_chunk,
    decode_request,
    encode_chunk,
    encode_rejection,
    encode_request,
)

pytestmark = pytest.mark.timed


class Arm(LoopbackDriver):
    """Remembers what it was told, and misbehaves on demand."""

    def __init__(self):
        super().__init__(start_rad=HOME)
        self.commands = []
        self.grippers = []
        self.broken = self.lossy = False
        self.concern = None

    def read(self):
        if self.broken:
            raise OSError("the arm is in flames")
        return replace(super().read(), concern=self.concern)

    def command(self, position_rad):
        self.commands.append(position_rad.copy())
        super().command(position_rad)

    def set_gripper(self, open_fraction):
        self.grippers.append(open_fraction)
        if not self.lossy:
            super().set_gripper(open_fraction)


class Stand:
    """A running loop and the other ends of its rings."""

    def __init__(self, folder):
        ours, theirs = ({}, {})
        for name, (slots, capacity) in RING_FILES.items():
            ours[name] = Ring.create(folder / name, slots=slots, capacity=capacity)
            theirs[name] = Ring.open(folder / name)
        self.rings, self.arm = ours, Arm()
        config = ServoConfig(
            contract="jaka_minicobo", heartbeat_hold_s=50.0, heartbeat_fault_s=60.0, orphan_exit_s=70.0
        )
        self.executor = ChunkExecutor(CONTRACT, ExecutorConfig.from_contract(CONTRACT))
        self.loop = ServoLoop(config, self.executor, self.arm, theirs)
        self.error = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        reason = ""
        try:
            reason = self.loop.run()
        except Exception as error:  # noqa: BLE001  it is what the test looks at
            self.error = error
        finally:
            self.loop.end(reason)

    def submit(self, points, gripper=1.0):
        chunk = chunk_of(points, time.time_ns(), gripper=gripper)
        self.rings["chunks"].write(encode_chunk(self.executor._decoder.prepare(chunk, HOME, chunk.stamp_ns)))

    def snapshot(self):
        payload = self.rings["snapshots"].newest()
        return None if payload is None else ServoSnapshot.decode(payload)

    def wait_for(self, condition, timeout_s=5.0):
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            snapshot = self.snapshot()
            if snapshot is not None and condition(snapshot):
                return snapshot
            time.sleep(0.005)
        raise AssertionError(f"not within {timeout_s} s; newest: {snapshot}")


@pytest.fixture
def stand(tmp_path):
    made = Stand(tmp_path)
    made.wait_for(lambda s: s.state is ExecutorState.HOLDING)
    yield made
    made.loop.request_stop("the test is over")
    made.thread.join(5.0)


def away(distance=0.3):
    """A chunk's points (20, 6) that lead away from home."""
    return np.array(HOME) + np.linspace(0.02, distance, 20)[:, None]


def test_an_error_in_the_loop_ramps_down_and_ends_with_the_cause(stand):
    stand.submit(away())
    stand.wait_for(lambda s: np.abs(s.command_velocity_rad_s).max() > 0.05)
    stand.arm.broken = True
    stand.thread.join(5.0)
    assert "flames" in str(stand.error)
    steps = np.abs(np.diff(stand.arm.commands, axis=0)).max(axis=1)
    assert steps[-1] < 1e-6 < steps[-10], "it did not come to rest by braking"
    assert np.abs(np.diff(steps)).max() <= 5.0 * 0.008**2 + 1e-6
    assert not stand.arm._servo_mode


def test_a_concern_holds_while_it_lasts(stand):
    stand.submit(away())
    stand.wait_for(lambda s: s.state is ExecutorState.TRACKING)
    stand.arm.concern = "6 commands are unanswered"
    snapshot = stand.wait_for(lambda s: s.state is ExecutorState.HOLDING)
    assert snapshot.concern == snapshot.hold_reason == "6 commands are unanswered"
    assert snapshot.held is None and snapshot.counters["concerns"] == 1
    stand.submit(away())
    stand.wait_for(lambda s: s.counters["accepted"] == 2)
    assert stand.wait_for(lambda s: s.concern is not None).state is ExecutorState.HOLDING
    stand.arm.concern = None
    stand.wait_for(lambda s: s.concern is None)
    stand.submit(away())
    stand.wait_for(lambda s: s.state is ExecutorState.TRACKING)


def test_a_gripper_that_did_not_follow_is_commanded_again_but_only_by_a_chunk(stand):
    stand.arm.lossy = True
    deadline = time.monotonic() + 10.0
    while not stand.snapshot().counters.get("gripper_sent_again"):
        assert time.monotonic() < deadline, stand.arm.grippers
        stand.submit([HOME] * 20, gripper=0.0)
        time.sleep(0.1)
    assert stand.arm.grippers[0] == 0.0 and len(stand.arm.grippers) >= 2
    stand.executor.hold("a person looks", latch=True)
    stand.wait_for(lambda s: s.state is ExecutorState.HOLDING)
    sent = len(stand.arm.grippers)
    time.sleep(0.8)
    assert len(stand.arm.grippers) == sent


def test_snapshots_fit_their_ring_whatever_the_texts_hold():
    for letter in ("x", '"', "\x00", "é", "\N{GRINNING FACE}", "\ud800"):
        text = letter * 5000
        still = np.zeros(6)
        snapshot = ServoSnapshot(
            tick=2**62, stamp_ns=2**62, command_rad=still - 1 / 3, command_velocity_rad_s=still - 1 / 3, gripper=1.0,
            state=ExecutorState.FAULT, fault=text, hold_reason=text, held=text, waiting_for=text, since_ns=2**62,
            concern=text, busy=text, chunk_stamp_ns=2**62, measured_rad=still - 1 / 3, measured_gripper=0.0,
            measured_stamp_ns=2**62, powered_on=True, enabled=True, servo_mode=True, driver_fault=text, late_ns=2**62,
            missed=2**62, results=((1, False, text),) * 20, answers=((1, Answer(False, text, True)),) * 20,
            counters={f"a_counter_with_a_long_name_{i}": 2**62 for i in range(60)}, exit_reason=text,
        )  # fmt: skip
        payload = snapshot.encode()
        assert len(payload) <= SNAPSHOT_CAPACITY
        assert ServoSnapshot.decode(payload).fault == cut(text)
        assert ServoSnapshot.decode(payload).answers[-1] == (1, Answer(False, cut(text), True))


@given(st.text(max_size=2000))
@settings(max_examples=200, deadline=None)
def test_a_cut_text_is_its_beginning_and_short_enough(text):
    short = cut(text)
    assert len(json.dumps(short)) <= MAX_TEXT_BYTES
    assert text == short or text.startswith(short.removesuffix("…"))


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_message_are_refused_by_name(payload):
    for decode in (decode_chunk, decode_request, ServoSnapshot.decode):
        try:
            decode(payload)
        except WireError:
            continue


@pytest.mark.parametrize("gripper", [True, False])
@pytest.mark.parametrize("absolute", [True, False])
def test_chunks_and_rejections_survive_the_ring(absolute, gripper):
    rows = np.random.default_rng(0).normal(size=(7, 6))
    sent = PreparedChunk(
        stamp_ns=3, dt_ns=100, points_HJ=rows if absolute else None, increments_HJ=None if absolute else rows,
        gripper_H=rows[:, 0] if gripper else None, from_step=2, clipped=1,
    )  # fmt: skip
    stamp_ns, found = decode_chunk(encode_chunk(sent))
    assert stamp_ns == 3 and found.from_step == 2 and found.clipped == 1 and found.dt_ns == 100
    np.testing.assert_array_equal(found.rows_HJ, rows)
    assert (found.points_HJ is not None) == absolute and (found.gripper_H is not None) == gripper
    stamp_ns, found = decode_chunk(encode_rejection(4, ChunkRejected("rejected_ik", "too far", malformed=True)))
    assert stamp_ns == 4 and isinstance(found, ChunkRejected)
    assert (found.counter, str(found), found.malformed) == ("rejected_ik", "too far", True)
    for payload in (b"", b"\x00" * 20, encode_chunk(sent)[:-5], encode_chunk(sent)[:-8]):
        with pytest.raises(WireError):
            decode_chunk(payload)


def test_requests_survive_the_ring():
    assert decode_request(encode_request(3, "speed_scale", [0.1])) == (3, "speed_scale", [0.1], "")
    assert decode_request(encode_request(4, "hold", text="why")) == (4, "hold", [], "why")
    with pytest.raises(WireError):
        decode_request(b'{"id": 1}')
