"""A person takes the arm from a policy and gives it back: in both directions a chunk like any other, within limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arms import HOME, MS, T0, Bench, chunk_of, variant
from drive import REST_S, Drive
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lavla_ros.control.actions import ChunkRejected
from lavla_ros.control.executor import ExecutorState
from lavla_ros.control.wire import decode_chunk, encode_chunk, encode_rejection, is_persons

BOUNDED = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate),
)


class Policy:
    """Swings joints 1 and 2, with a chunk of two seconds each 0.3 s."""

    def __init__(self, drive: Drive, speed: float = 1.0) -> None:
        self.bench, self.speed = drive.bench, speed
        self.refused: list[str] = []
        self._next_ns = self.bench.now_ns

    def submit(self) -> None:
        bench = self.bench
        if bench.now_ns < self._next_ns:
            return
        self._next_ns += 300 * MS
        contract = bench.contract
        t = (bench.now_ns - T0) * 1e-9 + np.arange(21) * contract.dt_s
        swing = np.zeros((21, 6))
        swing[:, 0], swing[:, 1] = 0.25 * np.sin(self.speed * t), 0.15 * np.sin(0.7 * self.speed * t)
        rows = np.diff(swing, axis=0) if contract.action.mode == "delta" else np.array(HOME) + swing[1:]
        result = bench.submit(chunk_of(rows, bench.now_ns, contract=contract))
        if not result.accepted:
            self.refused.append(result.reason)


def drive_with_policy(drive: Drive, policy: Policy, seconds: float, **inputs: float) -> None:
    for _ in range(round(seconds / 0.048)):
        policy.submit()
        drive.run(0.048, **inputs)
        if drive.teleop.take_hand_back():
            drive.bench.executor.hand_back(drive.bench.now_ns)


@pytest.mark.parametrize("mode", ["absolute", "delta"])
def test_who_has_let_go_commands_no_more_and_can_be_asked_to_hand_back(mode):
    """By the executor's service, too, of which the person's program knows nothing."""
    drive = Drive(variant("joint", mode))
    executor = drive.bench.executor
    drive.run(1.0, deadman=1.0, y=1.0)
    drive.run(REST_S + 2.0, deadman=0.0, y=0.0)
    assert executor.state is ExecutorState.HOLDING and executor.waiting_for == "hand_back"
    executor.hand_back(drive.bench.now_ns)
    drive.run(0.5)
    assert executor.commander == "", "no chunk of the person's takes it again"


@BOUNDED
@given(
    mode=st.sampled_from(["absolute", "absolute", "delta"]),
    blend=st.sampled_from(["latest", "temporal_ensemble", "soft_mask"]),
    speed=st.sampled_from([1.0, 4.0]),
    before_s=st.sampled_from([0.0, 0.3, 0.9, 1.3]),
    held_s=st.sampled_from([0.1, 0.5, 0.9]),
    stick=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=3),
    rests=st.booleans(),
)
def test_a_change_of_hands_keeps_every_limit_in_both_directions(mode, blend, speed, before_s, held_s, stick, rests):
    drive = Drive(variant("joint", mode), executor={"blend": blend})
    policy = Policy(drive, speed)
    drive_with_policy(drive, policy, before_s)
    drive_with_policy(drive, policy, held_s, deadman=1.0, **dict(zip("xyz", stick, strict=True)))
    assert drive.bench.executor.commander == "person" and not drive.refused
    if rests:
        drive_with_policy(drive, policy, REST_S, deadman=0.0)
        assert drive.joint_speed(last=3) < 2e-3, "the policy does not take it by itself"
    drive_with_policy(drive, policy, 0.048, hand_back=1.0)
    drive_with_policy(drive, policy, 0.8)
    away = any("rad from" in reason for reason in policy.refused)  # this policy does not see where the arm is
    assert drive.bench.executor.commander == "policy" or away
    assert all(
        "person has the arm" in reason or "not newer" in reason or "rad from" in reason for reason in policy.refused
    )
    assert drive.bench.executor.fault_reason is None
    drive.bench.assert_within_limits()


@pytest.mark.parametrize("blend", ["latest", "temporal_ensemble", "soft_mask"])
def test_the_person_commands_at_once_and_alone(blend):
    drive = Drive(executor={"blend": blend})
    policy = Policy(drive, 3.0)
    drive_with_policy(drive, policy, 0.6)
    assert drive.bench.executor.commander == "policy" and drive.joint_speed(last=3) > 0.2
    drive_with_policy(drive, policy, REST_S, deadman=1.0)
    assert drive.joint_speed(last=3) < 1e-3, "the stick is in its middle: nothing of the policy's wish is left"
    drive_with_policy(drive, policy, 0.6, z=-1.0)
    assert np.abs(drive.velocities(last=3) - [0.0, 0.0, -0.25]).max() < 0.01
    assert drive.bench.counters["rejected_person"] == len(policy.refused) > 3
    assert drive.bench.executor.fault_reason is None


def test_the_speed_rises_again_with_every_change_of_hands():
    bench = Bench(engage_ramp_s=2.0)
    fast = np.linspace(0.1, 2.0, 20)[:, None] * np.eye(6)[0]  # joint 1 at 1 rad/s

    def move(seconds: float, sign: float, *, person: bool) -> float:
        """Speed of joint 1 at the end of chunks that come every 0.2 s."""
        for _ in range(round(seconds / 0.2)):
            chunk = chunk_of(bench.measured + sign * fast, bench.now_ns)
            assert bench.executor.submit(chunk, bench.now_ns, person=person).accepted
            bench.tick(25)
        return float(np.abs(np.diff(bench.positions[-3:, 0])).max() / 0.008)

    assert move(2.4, 1.0, person=False) > 0.9
    slowed = 1.57 * (0.1 + 0.9 * 0.3)  # the ramp's value 0.6 s after its begin
    assert 0.1 < move(0.6, 1.0, person=True) <= slowed * (1.0 + 1e-6)
    assert move(2.0, -1.0, person=True) > 0.9
    bench.executor.hand_back(bench.now_ns - 1)
    assert 0.1 < move(0.6, -1.0, person=False) <= slowed * (1.0 + 1e-6)
    bench.assert_within_limits()


def test_a_policy_is_refused_until_handed_back_and_then_by_what_it_observed_before():
    bench = Bench()
    assert bench.submit(chunk_of([HOME] * 5, T0)).accepted
    bench.tick(3)
    assert bench.executor.submit(chunk_of([HOME] * 5, bench.now_ns), bench.now_ns, person=True).accepted
    bench.tick(3)
    broken = replace(chunk_of([HOME] * 5, bench.now_ns), names=("a",))
    assert "person has the arm" in bench.submit(broken).reason
    assert bench.executor.state is ExecutorState.TRACKING, "what is refused is no fault"
    bench.tick(80)
    assert bench.executor.state is ExecutorState.HOLDING and bench.executor.waiting_for == "hand_back"
    observed_ns = bench.now_ns
    assert bench.executor.hand_back(bench.now_ns).startswith("handed back")
    assert "no person" in bench.executor.hand_back(bench.now_ns)
    bench.tick(2)
    assert not bench.submit(chunk_of([HOME] * 5, observed_ns)).accepted
    late = bench.executor.submit(chunk_of([HOME] * 5, observed_ns), bench.now_ns, person=True)
    assert not late.accepted and bench.executor.commander == "", "a late message takes nothing back"
    assert bench.submit(chunk_of([HOME] * 5, bench.now_ns)).accepted and bench.executor.commander == "policy"


def test_who_takes_over_with_a_chunk_that_is_refused_has_a_resting_arm():
    bench = Bench()
    bench.submit(chunk_of(np.array(HOME) + np.linspace(0, 0.5, 20)[:, None], T0))
    bench.tick(40)
    far = chunk_of(np.array(HOME) + 2.0, bench.now_ns)
    assert not bench.executor.submit(far, bench.now_ns, person=True).accepted
    assert bench.executor.state is ExecutorState.HOLDING and "a person took over" in bench.executor.hold_reason
    bench.tick(80)
    assert bench.executor.at_rest
    assert not bench.submit(chunk_of([bench.measured] * 5, bench.now_ns)).accepted
    bench.assert_within_limits()


def test_hands_survive_a_hold_and_its_end():
    bench = Bench()
    bench.executor.submit(chunk_of([HOME] * 5, T0), T0, person=True)
    bench.executor.hold("a person said so", latch=True)
    bench.tick(5)
    bench.executor.resume(bench.now_ns)
    bench.tick(1)
    assert "person has the arm" in bench.submit(chunk_of([HOME] * 5, bench.now_ns)).reason


def test_whose_a_chunk_is_goes_through_the_ring():
    bench = Bench()
    prepared = replace(bench.executor.prepare(chunk_of([HOME] * 5, T0)), person=True)
    rejection = ChunkRejected("rejected_ik", "too far")
    for mine in (True, False):
        payload = encode_chunk(replace(prepared, person=mine))
        assert is_persons(payload) is mine and decode_chunk(payload)[1].person is mine
        rejection.person = mine
        payload = encode_rejection(1, rejection)
        assert is_persons(payload) is mine and decode_chunk(payload)[1].person is mine
