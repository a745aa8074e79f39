"""Faults, holds and what a person does about them: nothing but a chunk ever moves the arm."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from arms import CONTRACT, HOME, MS, T0, Bench, arm, chunk_of, variant
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.contract import ActionChunk
from lavla_ros.control.actions import ActionDecoder, ChunkRejected
from lavla_ros.control.executor import ExecutorConfig, ExecutorError, ExecutorState, NotAtCommandError, PreparedChunk

DT = CONTRACT.dt_ns
NAN_CHUNK = [[np.nan] * 6]


def moving_chunk(bench: Bench) -> ActionChunk:
    """Joint 1 at 0.3 rad/s, for 2 s from now on."""
    points = np.array(bench.measured)[None] + np.array([0.03, 0, 0, 0, 0, 0]) * np.arange(1, 21)[:, None]
    return chunk_of(points, bench.now_ns)


def faulted(offset_rad: np.ndarray | float = 0.0) -> tuple[Bench, np.ndarray]:
    """A bench in FAULT, at rest after a motion, and the position of its arm, which is ``offset_rad`` off."""
    bench = Bench()
    bench.submit(moving_chunk(bench))
    bench.tick(60)
    assert not bench.submit(chunk_of(NAN_CHUNK, bench.now_ns)).accepted
    bench.tick(100)
    assert bench.executor.state is ExecutorState.FAULT and bench.executor.at_rest
    measured = bench.measured + offset_rad
    for _ in range(3):
        bench.tick(position=measured)
    return bench, measured


def assert_usable(bench: Bench) -> None:
    """A chunk moves the arm, a hold stops it, and it can be put away."""
    assert bench.submit(moving_chunk(bench)).accepted
    bench.tick(50)
    assert bench.executor.state is ExecutorState.TRACKING and np.abs(bench.commands[-1].velocity_rad_s).max() > 0.1
    bench.executor.hold("enough", latch=True)
    bench.tick(100)
    assert bench.executor.at_rest
    bench.executor.deactivate()
    bench.assert_within_limits()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    offset=st.lists(st.sampled_from([0.0, 1e-8, -1e-6, 1e-4, 0.003, -0.015, 0.019]), min_size=6, max_size=6),
)
def test_a_fault_can_always_be_cleared_and_clearing_moves_nothing(offset):
    bench, measured = faulted(np.array(offset))
    stands = bench.positions[-1]
    assert bench.executor.acknowledge(bench.now_ns)
    assert "acknowledged after" in bench.executor.held and bench.executor.waiting_for == "resume"
    for _ in range(200):
        bench.tick(position=measured)
    bench.executor.resume(bench.now_ns - 1)
    for _ in range(20):
        bench.tick(position=measured)
    np.testing.assert_array_equal(bench.positions[-220:], np.broadcast_to(stands, (220, 6)))
    assert_usable(bench)


@pytest.mark.parametrize("offset_rad", [0.021, 0.1, 0.24, 1.0, 6.0])
def test_an_arm_apart_from_its_command_is_not_moved_by_anything_but_starts_anew_where_it_is(offset_rad):
    offset = np.array([0, 0, 0, 0, 0, -offset_rad])
    bench, measured = faulted(offset)
    stands = bench.positions[-1]
    assert bench.executor.acknowledge(bench.now_ns)
    for _ in range(100):
        assert bench.tick(position=measured).state is ExecutorState.HOLDING
    with pytest.raises(NotAtCommandError, match="joint_6"):
        bench.executor.resume(bench.now_ns - 1)
    bench.executor.hold("a person asks again", latch=True)
    assert bench.tick(position=measured).state is ExecutorState.HOLDING
    np.testing.assert_array_equal(bench.positions[-1], stands)
    # Servo mode is left and entered again, which takes its time.
    bench.executor.deactivate()
    bench.now_ns += 3000 * MS
    bench.executor.activate(arm(bench.now_ns, measured), bench.now_ns)
    bench.measured = bench.start = measured
    bench.commands.clear()
    assert bench.tick().state is ExecutorState.HOLDING
    np.testing.assert_array_equal(bench.positions[-1], measured)
    assert_usable(bench)


def test_an_arm_outside_its_limits_is_never_started():
    bench, measured = faulted(np.array([0, 2.2, 0, 0, 0, 0]))
    assert bench.executor.acknowledge(bench.now_ns)
    bench.tick(position=measured)
    with pytest.raises(ExecutorError, match=r"joint_2.*jog it back"):
        bench.executor.resume(bench.now_ns - 1)
    bench.executor.deactivate()
    with pytest.raises(ExecutorError, match=r"joint_2.*jog it back"):
        bench.executor.activate(arm(bench.now_ns, measured), bench.now_ns)
    assert bench.executor.state is ExecutorState.IDLE


def test_an_arm_that_moves_by_itself_while_held_faults_again():
    bench, measured = faulted(np.array([0.4, 0, 0, 0, 0, 0]))
    assert bench.executor.acknowledge(bench.now_ns)
    for i in range(100):
        state = bench.tick(position=measured + 0.004 * i * np.eye(6)[0]).state
    assert state is ExecutorState.FAULT and "from its command" in bench.executor.fault_reason


def test_an_arm_that_does_not_follow_faults():
    bench = Bench()
    bench.submit(moving_chunk(bench))
    for _ in range(200):
        bench.tick(position=HOME)
    assert bench.commands[-1].state is ExecutorState.FAULT and "from its command" in bench.commands[-1].fault
    bench.assert_within_limits()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"enabled": False}, "not enabled"),
        ({"enabled": False, "servo_mode": False}, "not enabled"),
        ({"servo_mode": False}, "not in servo mode"),
    ],
)
def test_an_arm_that_was_switched_off_faults_and_starts_anew_once_it_is_switched_on(state, text):
    bench = Bench()
    bench.submit(moving_chunk(bench))
    bench.tick(30)
    assert bench.tick(**state).state is ExecutorState.FAULT and bench.executor.waiting_for == "acknowledge"
    bench.tick(100)
    bench.tick(**state)
    # Commands have no effect now: in servo mode the cause persists, and a fault is only cleared outside it.
    assert not bench.executor.acknowledge(bench.now_ns) and text in bench.executor.refusal
    bench.executor.deactivate()
    assert bench.executor.acknowledge(bench.now_ns) and bench.executor.waiting_for == "activate"
    with pytest.raises(ExecutorError, match=text):
        bench.executor.activate(arm(bench.now_ns, bench.measured, **state), bench.now_ns)
    bench.executor.activate(arm(bench.now_ns, bench.measured), bench.now_ns)
    assert_usable(bench)


@pytest.mark.parametrize("state", [{"enabled": False}, {"servo_mode": False}])
def test_an_arm_that_is_switched_off_while_held_faults_again(state):
    bench, _ = faulted()
    assert bench.executor.acknowledge(bench.now_ns) and bench.tick().state is ExecutorState.HOLDING
    assert bench.tick(**state).state is ExecutorState.FAULT
    with pytest.raises(ExecutorError, match="acknowledge it first"):
        bench.executor.resume(bench.now_ns - 1)


def test_faults_survive_deactivation_and_holds_do_not():
    bench, _ = faulted()
    fault = bench.executor.fault_reason
    bench.executor.deactivate()
    assert bench.executor.fault_reason == fault and bench.executor.waiting_for == "acknowledge"
    with pytest.raises(ExecutorError, match="nan"):
        bench.executor.activate(arm(bench.now_ns, bench.measured), bench.now_ns)
    with pytest.raises(ExecutorError, match="acknowledge"):
        bench.executor.resume(bench.now_ns)
    assert bench.executor.acknowledge(bench.now_ns)
    assert bench.executor.fault_reason is None and bench.executor.waiting_for == "activate"
    assert not bench.executor.acknowledge(bench.now_ns) and "nothing" in bench.executor.refusal
    bench.executor.activate(arm(bench.now_ns, bench.measured), bench.now_ns)
    bench.executor.hold("a person asked", latch=True)
    bench.executor.deactivate()
    bench.executor.activate(arm(bench.now_ns, bench.measured), bench.now_ns)
    assert bench.executor.held is None
    assert_usable(bench)


def test_a_hold_asked_for_in_standby_stays_through_the_activation():
    bench = Bench()
    bench.executor.deactivate()
    bench.executor.hold("a person asked", latch=True)
    bench.executor.activate(arm(bench.now_ns, bench.measured), bench.now_ns)
    assert "a person asked" in bench.submit(moving_chunk(bench)).reason and bench.executor.waiting_for == "resume"


@pytest.mark.parametrize("fields", [{"enabled": False}, {"servo_mode": False}, {"fault": "protective stop"}])
def test_activation_refuses_an_arm_that_would_not_follow(fields):
    bench = Bench()
    bench.executor.deactivate()
    with pytest.raises(ExecutorError):
        bench.executor.activate(arm(bench.now_ns, bench.measured, **fields), bench.now_ns)
    with pytest.raises(ExecutorError, match="old"):
        bench.executor.activate(arm(bench.now_ns - 10**9, bench.measured), bench.now_ns)
    assert bench.executor.state is ExecutorState.IDLE


@pytest.mark.parametrize("latch", [True, False])
def test_no_chunk_from_before_a_hold_runs_after_it(latch):
    bench = Bench()
    bench.submit(moving_chunk(bench))
    bench.tick(50)
    before = moving_chunk(bench)
    bench.tick()
    bench.executor.hold("a person asked", latch=latch)
    bench.tick(100)
    between = moving_chunk(bench)
    if latch:
        assert "a person asked" in bench.submit(between).reason
        bench.tick()
        bench.executor.resume(bench.now_ns - 1)
        assert bench.submit(between).reason.startswith("stamp")
    assert bench.submit(before).reason.startswith("stamp")
    assert bench.tick().state is ExecutorState.HOLDING and bench.executor.at_rest
    assert_usable(bench)


def test_resuming_waits_for_rest():
    bench = Bench()
    bench.submit(moving_chunk(bench))
    bench.tick(50)
    bench.executor.hold("a person asked", latch=True)
    bench.tick()
    with pytest.raises(ExecutorError, match="ramping"):
        bench.executor.resume(bench.now_ns - 1)


def test_it_says_why_it_stands_what_it_waits_for_and_since_when():
    bench = Bench()
    executor = bench.executor
    assert (executor.waiting_for, executor.hold_reason, executor.since_ns) == ("a chunk", "activated", T0)
    bench.tick(10)
    bench.submit(moving_chunk(bench))
    assert (executor.waiting_for, executor.since_ns) == ("", bench.now_ns)
    bench.tick(50)
    executor.hold("held by request", latch=True)
    held_ns = executor.since_ns
    bench.tick(100)
    # A passing hiccup neither hides nor outlives it.
    executor.hold("the ROS side is silent for 0.30 s")
    assert executor.held == executor.hold_reason == "held by request"
    assert (executor.waiting_for, executor.since_ns) == ("resume", held_ns)
    bench.tick()
    executor.resume(bench.now_ns - 1)
    assert (executor.held, executor.hold_reason, executor.waiting_for) == (None, "resumed", "a chunk")
    assert executor.since_ns == bench.now_ns - 1
    executor.fault("test")
    assert executor.waiting_for == "acknowledge"


def test_a_silent_policy_is_not_followed_to_the_end_of_its_last_chunk():
    bench = Bench(chunk_timeout_s=0.3)
    bench.submit(moving_chunk(bench))
    bench.run_until(T0 + 250 * MS)
    assert bench.submit(moving_chunk(bench)).accepted
    bench.run_until(T0 + 540 * MS)
    assert bench.commands[-1].state is ExecutorState.TRACKING
    bench.run_until(T0 + 570 * MS)
    assert bench.commands[-1].state is ExecutorState.HOLDING and "no new chunk" in bench.executor.hold_reason
    assert bench.counters["chunk_timeouts"] == 1
    bench.tick(100)
    assert bench.executor.at_rest
    # A late one is followed again, by itself.
    assert bench.submit(moving_chunk(bench)).accepted


BROKEN = [
    {"actions_HA": np.array([["0.1"] * 7])},
    {"actions_HA": np.array([[None] * 7], dtype=object)},
    {"actions_HA": np.full((1, 7), 1j)},
    {"actions_HA": [[0.0] * 7, [0.0] * 3]},
    {"actions_HA": "chunk"},
    {"actions_HA": np.zeros((21, 7))},
    {"actions_HA": np.zeros((100_000, 7))},
    {"dt_ns": float("nan")},
    {"dt_ns": "100"},
    {"dt_ns": 0},
    {"stamp_ns": float("nan")},
    {"stamp_ns": "now"},
    {"names": None},
    {"names": 7},
    {"names": (1, 2, 3, 4, 5, 6, 7)},
]


@pytest.mark.parametrize("spoiled", BROKEN, ids=lambda d: "-".join(f"{k}={str(v)[:12]}" for k, v in d.items()))
def test_nothing_in_a_chunk_raises_out_of_submit(spoiled):
    bench = Bench()
    good = moving_chunk(bench)
    fields = {"stamp_ns": good.stamp_ns, "dt_ns": DT, "actions_HA": good.actions_HA, "names": good.names} | spoiled
    assert not bench.submit(ActionChunk(**fields)).accepted
    assert bench.tick().state is ExecutorState.FAULT


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("mode", ["absolute", "delta"])
@pytest.mark.parametrize("value", [1e200, -1e308, 1e20, 1e9, 50.0])
@pytest.mark.parametrize("column", range(6))
def test_a_huge_end_effector_value_is_refused_also_without_bounds(mode, value, column):
    data = variant("end_effector", mode).to_dict()
    for dim in data["action"]["dims"][:6]:
        dim |= {"low": -np.inf, "high": np.inf}
    contract = type(CONTRACT).from_dict(data)
    bench = Bench(contract=contract)
    points = np.zeros((3, 6))
    points[1, column] = value
    result = bench.submit(chunk_of(points, T0, contract=contract))
    assert not result.accepted and bench.tick().state is ExecutorState.HOLDING
    assert bench.counters["rejected_range"] == 1


def test_refused_chunks_leave_nothing_for_the_garbage_collector():
    contract = variant("end_effector", "absolute")
    bench = Bench(contract=contract)
    bench.submit(chunk_of([2.0, 0, 0.3, 0, 0, 0], T0, contract=contract))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert not bench.submit(chunk_of([2.0, 0, 0.3, 0, 0, 0], T0, contract=contract)).accepted
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert bench.counters["rejected_ik"] == 21


@pytest.mark.parametrize(("space", "mode"), [("joint", "absolute"), ("joint", "delta"), ("end_effector", "delta")])
def test_a_chunk_prepared_elsewhere_moves_the_arm_as_a_submitted_one(space, mode):
    contract = variant(space, mode)
    here, elsewhere = Bench(contract=contract), Bench(contract=contract)
    decoder = ActionDecoder(contract, ExecutorConfig.from_contract(contract))
    step = np.array([0.004, -0.003, 0.002, 0.01, 0, 0.005])
    for k in range(5):
        for bench in (here, elsewhere):
            bench.run_until(T0 + k * DT)
        base = here.measured if mode == "absolute" else 0.0
        steps = np.arange(1, 21)[:, None] if mode == "absolute" else np.ones((20, 1))
        chunk = chunk_of(base + step * steps, here.now_ns, contract=contract)
        assert here.submit(chunk).accepted
        prepared = decoder.prepare(chunk, elsewhere.measured.tolist(), elsewhere.now_ns)
        assert elsewhere.executor.submit_prepared(prepared, elsewhere.now_ns).accepted
    here.tick(60)
    elsewhere.tick(60)
    assert np.abs(here.positions[-1] - HOME).max() > 0.03
    # Deltas of an end effector go from the command there, and from the goal that it is on the way to here.
    np.testing.assert_allclose(elsewhere.positions, here.positions, atol=5e-3 if space == "end_effector" else 0.0)


def test_what_was_prepared_for_another_command_or_arm_is_refused():
    bench = Bench()
    decoder = ActionDecoder(CONTRACT, bench.config)
    far = decoder.prepare(chunk_of([np.add(HOME, 0.8)], T0), HOME, T0)
    assert "from the present" in bench.executor.submit_prepared(far, T0).reason
    with pytest.raises(ChunkRejected) as caught:
        decoder.prepare(chunk_of(NAN_CHUNK, T0), HOME, T0)
    with pytest.raises(ValueError, match="finite"):
        PreparedChunk(stamp_ns=T0, dt_ns=DT, points_HJ=np.full((1, 6), np.nan))
    odd = PreparedChunk(stamp_ns=T0, dt_ns=DT, increments_HJ=np.zeros((1, 6)))
    assert "another arm" in bench.executor.submit_prepared(odd, T0).reason
    assert bench.executor.state is ExecutorState.FAULT
    bench = Bench()
    assert not bench.executor.submit_rejected(T0, caught.value, T0).accepted
    assert bench.counters["rejected_not_finite"] == 1 and "nan" in bench.executor.fault_reason
