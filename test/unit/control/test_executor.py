"""Alignment, tracking accuracy, the state machine and its faults."""

from __future__ import annotations

import numpy as np
import pytest
from arms import CONTRACT, HOME, MS, T0, Bench, arm, chunk_of, variant

from lavla_ros.contract import ActionChunk
from lavla_ros.control.executor import ChunkExecutor, ConfigError, ExecutorConfig, ExecutorError, ExecutorState

DT = CONTRACT.dt_ns


def sway(t_s):
    """(…, 6) a smooth motion inside the limits: at most 0.48 rad/s, 0.58 rad/s²."""
    t = np.asarray(t_s)[..., None]
    return np.array(HOME) + 0.4 * (np.sin(1.2 * t + np.arange(6)) - np.sin(np.arange(6)))


def sway_chunk(stamp_ns, horizon=20):
    times = (stamp_ns - T0) * 1e-9 + 0.1 * np.arange(1, horizon + 1)
    return chunk_of(sway(times), stamp_ns)


@pytest.mark.parametrize("blend", ["latest", "temporal_ensemble", "soft_mask"])
@pytest.mark.parametrize("latency_ms", [0, 130])
def test_a_smooth_trajectory_is_executed_without_lag(blend, latency_ms):
    bench = Bench(blend=blend)
    for k in range(60):
        bench.run_until(T0 + k * DT + latency_ms * MS)
        assert bench.submit(sway_chunk(T0 + k * DT)).accepted
    times = np.arange(len(bench.positions)) * 0.008
    error = np.abs(bench.positions - sway(times)).max(axis=1)
    # From rest into a motion at speed it has to catch up (1.6 s here); then it is on it.
    assert error[times > 2.5].max() < 2e-5
    assert bench.executor.state is ExecutorState.TRACKING
    bench.assert_within_limits()


def test_points_are_reached_at_their_times():
    bench = Bench()
    points = np.array(HOME) + np.cumsum(np.linspace(0, 0.02, 20))[:, None]
    bench.submit(chunk_of(points, T0))
    bench.run_until(T0 + 2 * DT * 10)
    # Point h is commanded for T0 + (h+1)·100 ms; every fifth one lies on the 8 ms grid (25, 50, … ticks: 200 ms).
    for h in range(3, 20, 2):
        tick = (h + 1) * 100 // 8
        np.testing.assert_allclose(bench.positions[tick], points[h], atol=1e-6)


def test_consecutive_noisy_chunks_never_jump():
    random = np.random.default_rng(0)
    bench = Bench()
    for k in range(40):
        bench.run_until(T0 + k * DT)
        chunk = sway_chunk(T0 + k * DT)
        noisy = chunk.actions_HA[:, :6] + random.normal(0, 0.005, (20, 6))
        assert bench.submit(chunk_of(noisy, chunk.stamp_ns)).accepted
    bench.assert_within_limits()
    times = np.arange(len(bench.positions)) * 0.008
    assert np.abs(bench.positions - sway(times))[times > 2.5].max() < 0.03


def test_a_late_chunk_starts_at_the_step_that_is_due():
    bench = Bench()
    bench.run_until(T0 + 350 * MS)
    ramp = np.array(HOME) + 0.004 * np.arange(1, 21)[:, None]
    assert bench.submit(chunk_of(ramp, T0)).accepted
    assert bench.counters["steps_skipped"] == 3
    bench.run_until(T0 + 1200 * MS)
    np.testing.assert_allclose(bench.positions[1200 // 8], ramp[11], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "counter"),
    [
        (lambda: sway_chunk(T0), "rejected_old"),
        (lambda: sway_chunk(T0 - DT), "rejected_old"),
        (lambda: sway_chunk(T0 + 800 * MS), "rejected_future"),
        (lambda: chunk_of([np.array(HOME) + 6.0] * 20, T0 + 1), "rejected_range"),
        (lambda: chunk_of([np.add(HOME, [0.7, 0, 0, 0, 0, 0])] * 20, T0 + 1), "rejected_jump"),
        (lambda: chunk_of([HOME] * 9 + [np.add(HOME, [0, 0.7, 0, 0, 0, 0])], T0 + 1), "rejected_jump"),
        (lambda: chunk_of([HOME] * 9, T0 + 1, gripper=3.0), "rejected_range"),
        (lambda: chunk_of([HOME] * 3, T0 + 1), "rejected_expired"),
    ],
)
def test_an_inadmissible_chunk_is_refused_and_counted_and_the_old_one_goes_on(make, counter):
    bench = Bench()
    bench.submit(chunk_of([HOME] * 20, T0))
    bench.run_until(T0 + 320 * MS)
    result = bench.submit(make())
    assert not result.accepted and result.reason
    assert bench.counters[counter] == 1
    assert bench.tick().state is ExecutorState.TRACKING
    assert bench.commands[-1].chunk_stamp_ns == T0


@pytest.mark.parametrize(
    ("spoil", "counter"),
    [
        (lambda c: {"names": ("joint_7", *c.names[1:])}, "rejected_names"),
        (lambda c: {"names": c.names[:6]}, "rejected_names"),
        (lambda c: {"actions_HA": c.actions_HA[:, :6]}, "rejected_shape"),
        (lambda c: {"actions_HA": np.zeros((0, 7))}, "rejected_shape"),
        (lambda c: {"actions_HA": np.where(c.actions_HA == 1.0, np.nan, c.actions_HA)}, "rejected_not_finite"),
        (lambda c: {"dt_ns": c.dt_ns * 2}, "rejected_rate"),
    ],
)
def test_a_malformed_chunk_latches_a_fault(spoil, counter):
    bench = Bench()
    chunk = sway_chunk(T0)
    fields = {k: getattr(chunk, k) for k in ("stamp_ns", "dt_ns", "actions_HA", "names")}
    assert not bench.submit(ActionChunk(**{**fields, **spoil(chunk)})).accepted
    assert bench.counters[counter] == 1
    assert bench.tick().state is ExecutorState.FAULT
    assert not bench.submit(sway_chunk(bench.now_ns)).accepted


def test_joints_are_matched_by_name():
    bench = Bench()
    chunk = sway_chunk(T0)
    order = [3, 6, 0, 5, 1, 4, 2]
    shuffled = ActionChunk(
        stamp_ns=T0, dt_ns=DT, actions_HA=chunk.actions_HA[:, order], names=tuple(chunk.names[i] for i in order)
    )
    other = Bench()
    assert bench.submit(shuffled).accepted and other.submit(chunk).accepted
    bench.tick(60)
    other.tick(60)
    np.testing.assert_array_equal(bench.positions, other.positions)


def test_an_exhausted_chunk_ramps_to_rest_and_keeps_sending():
    bench = Bench()
    bench.submit(chunk_of(np.array(HOME) + 0.03 * np.arange(1, 11)[:, None], T0))
    bench.run_until(T0 + 3_000 * MS)
    assert bench.counters["exhausted"] == 1
    assert bench.commands[-1].state is ExecutorState.HOLDING
    assert "exhausted" in bench.executor.hold_reason
    assert bench.executor.at_rest and not bench.commands[-1].velocity_rad_s.any()
    bench.assert_within_limits()
    # And back into motion, from rest.
    assert bench.submit(sway_chunk(T0)).reason.startswith("stamp")
    assert bench.submit(chunk_of(bench.measured + 0.02 * np.arange(1, 11)[:, None], bench.now_ns)).accepted
    bench.tick(60)
    assert bench.commands[-1].state is ExecutorState.TRACKING
    bench.assert_within_limits()


def test_a_stale_chunk_holds():
    bench = Bench(max_chunk_age_s=0.5)
    bench.submit(sway_chunk(T0))
    bench.run_until(T0 + 600 * MS)
    assert bench.commands[-1].state is ExecutorState.HOLDING and bench.counters["stale"] == 1
    assert not bench.submit(sway_chunk(T0 + 50 * MS)).accepted
    assert bench.counters["rejected_stale"] == 1


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"position": [np.nan] * 6}, "nan"),
        ({"position": [0.0] * 5}, "5 joints"),
        ({"age_ns": 700 * MS}, "0.700 s old"),
        ({"age_ns": -300 * MS}, "future"),
        ({"fault": "protective stop"}, "protective stop"),
    ],
)
def test_an_unfit_arm_latches_a_fault_until_acknowledged(state, text):
    bench = Bench()
    bench.submit(sway_chunk(T0))
    bench.tick(100)
    command = bench.tick(**state)
    assert command.state is ExecutorState.FAULT and text in command.fault
    bench.executor.fault("a later cause")
    bench.tick(100)
    assert bench.commands[-1].state is ExecutorState.FAULT and bench.commands[-1].fault == command.fault
    assert bench.executor.at_rest
    bench.tick(**state)
    assert not bench.executor.acknowledge(bench.now_ns) and text in bench.executor.refusal
    bench.tick()
    held = bench.positions[-1]
    assert bench.executor.acknowledge(bench.now_ns)
    assert bench.tick().state is ExecutorState.HOLDING
    assert "held" in bench.submit(chunk_of([bench.measured] * 5, bench.now_ns)).reason
    bench.tick(10)
    bench.executor.resume(bench.now_ns - 1)
    assert (bench.positions[-10:] == held).all()
    assert bench.submit(chunk_of([bench.measured] * 5, bench.now_ns)).accepted
    assert bench.tick().state is ExecutorState.TRACKING
    bench.assert_within_limits()


def test_a_fault_while_moving_ramps_and_cannot_be_acknowledged_meanwhile():
    bench = Bench()
    bench.submit(sway_chunk(T0))
    bench.tick(150)
    bench.executor.fault("test")
    bench.tick()
    assert not bench.executor.acknowledge(bench.now_ns) and "ramping" in bench.executor.refusal
    assert np.abs(bench.commands[-1].velocity_rad_s).max() > 0.05


@pytest.mark.parametrize("jump_ms", [-20, 700])
def test_a_clock_jump_latches_a_fault(jump_ms):
    bench = Bench()
    bench.submit(sway_chunk(T0))
    bench.tick(50)
    bench.now_ns += jump_ms * MS
    assert bench.tick().state is ExecutorState.FAULT
    assert "clock jumped" in bench.commands[-1].fault
    bench.tick(100)
    assert bench.executor.acknowledge(bench.now_ns)
    bench.assert_within_limits()


def test_a_late_tick_skips_and_catches_up_within_the_limits():
    bench = Bench()
    for k in range(30):
        bench.run_until(T0 + k * DT)
        bench.submit(sway_chunk(T0 + k * DT))
        if k == 25:
            bench.now_ns += 40 * MS
    assert bench.counters["ticks_skipped"] == 5 and bench.counters["restarts_from_rest"] == 1
    bench.assert_within_limits()
    for k in range(30, 45):
        bench.run_until(T0 + k * DT)
        bench.submit(sway_chunk(T0 + k * DT))
    elapsed_s = (bench.commands[-1].stamp_ns + 8 * MS - T0) * 1e-9
    np.testing.assert_allclose(bench.positions[-1], sway(elapsed_s), atol=1e-4)


def test_lateness_below_a_period_does_not_change_the_commands():
    first, second = Bench(), Bench()
    random = np.random.default_rng(1)
    for k in range(20):
        for bench in (first, second):
            assert bench.submit(sway_chunk(T0 + k * 12 * 8 * MS), at_ns=T0 + k * 12 * 8 * MS).accepted
        for i in range(12):
            place = T0 + (k * 12 + i) * 8 * MS
            first.now_ns, second.now_ns = place, place + int(random.integers(0, 7 * MS)) * (k + i > 0)
            first.tick()
            second.tick()
    np.testing.assert_array_equal(first.positions, second.positions)


def test_the_gripper_switches_with_hysteresis_at_the_due_step_and_is_never_interpolated():
    bench = Bench()
    values = [1.0, 0.52, 0.46, 0.44, 0.2, 0.53, 0.56, 1.02]
    bench.submit(chunk_of([HOME] * 8, T0, gripper=np.array(values)))
    bench.run_until(T0 + 800 * MS)
    seen = {round((c.stamp_ns - T0) / 1e8 - 0.5): c.gripper for c in bench.commands}
    assert [seen[h] for h in range(8)] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert bench.counters["values_clipped"] == 1


def test_the_speed_scale_bounds_the_velocity():
    bench = Bench(speed_scale=0.1)
    for k in range(40):
        bench.run_until(T0 + k * DT)
        bench.submit(chunk_of(bench.measured + 0.1 * np.arange(1, 6)[:, None], bench.now_ns))
    bench.assert_within_limits(scale=0.1)
    assert np.abs(np.diff(bench.positions, axis=0)).max() / 0.008 == pytest.approx(0.157, rel=1e-3)
    with pytest.raises(ConfigError, match=r"0\.01 to 1"):
        bench.executor.set_speed_scale(0.0)


def test_position_limits_hold_although_the_points_lie_on_them():
    bench = Bench(max_engage_jump_rad=1.0)
    for k in range(80):
        bench.run_until(T0 + k * DT)
        target = np.clip(bench.measured + 0.5, None, bench.config.limits.upper())
        bench.submit(chunk_of([target] * 20, bench.now_ns))
    bench.assert_within_limits()
    bench.run_until(T0 + 100 * DT)
    np.testing.assert_allclose(bench.positions[-1], bench.config.limits.upper(), atol=2e-3)


def test_delta_steps_are_applied_once_each_at_the_contracts_rate():
    contract = variant("joint", "delta")
    bench = Bench(contract=contract)
    step = 0.01 * np.arange(1, 7)
    for k in range(10):
        bench.run_until(T0 + k * DT)
        # Every chunk repeats the same motion; overlapping steps must not be executed twice.
        assert bench.submit(chunk_of([step] * 20, T0 + k * DT, contract=contract)).accepted
    bench.run_until(T0 + 10 * DT)
    bench.executor.hold("enough")
    bench.tick(60)
    moved = bench.positions[-1] - np.array(HOME)
    # Ten steps were begun; the last ones may be cut short by the ramp to rest.
    assert (moved <= 10 * step + 1e-6).all() and (moved >= 8.8 * step).all()
    bench.assert_within_limits()


def test_end_effector_poses_and_deltas_move_the_flange():
    from lavla_ros.control.kinematics import rotation_vector
    from lavla_ros.jaka.arm import MINICOBO

    forward = MINICOBO.kinematics.forward

    start = forward(HOME)
    for mode in ("absolute", "delta"):
        contract = variant("end_effector", mode)
        bench = Bench(contract=contract)
        if mode == "absolute":
            line = [[*(start[:3, 3] + [0.004 * h, 0, 0]), *rotation_vector(start[:3, :3])] for h in range(1, 21)]
        else:
            line = [[0.004, 0, 0, 0, 0, 0]] * 20
        assert bench.submit(chunk_of(line, T0, contract=contract)).accepted
        bench.run_until(T0 + 1900 * MS)
        moved = forward(bench.positions[-1])
        assert moved[0, 3] - start[0, 3] == pytest.approx(0.076, abs=2e-3)
        np.testing.assert_allclose(moved[1:3, 3], start[1:3, 3], atol=1e-3)
        np.testing.assert_allclose(moved[:3, :3], start[:3, :3], atol=5e-3)
        bench.assert_within_limits()


def test_an_unreachable_pose_is_refused_with_the_reason():
    contract = variant("end_effector", "absolute")
    bench = Bench(contract=contract)
    result = bench.submit(chunk_of([2.0, 0, 0.3, 0, 0, 0], T0, contract=contract))
    assert not result.accepted and "inverse kinematics" in result.reason
    assert bench.counters["rejected_ik"] == 1 and bench.executor.state is ExecutorState.HOLDING


def test_activation_and_deactivation():
    executor = ChunkExecutor(CONTRACT, ExecutorConfig.from_contract(CONTRACT))
    assert executor.tick(T0, arm(T0, HOME)).state is ExecutorState.IDLE
    assert "not activated" in executor.submit(sway_chunk(T0), T0).reason
    with pytest.raises(ExecutorError, match="joint_3"):
        executor.activate(arm(T0, [0, 0, 3.0, 0, 0, 0]), T0)
    with pytest.raises(ExecutorError, match="joint_1 is nan"):
        executor.activate(arm(T0, [np.nan] * 6), T0)
    bench = Bench()
    bench.submit(sway_chunk(T0))
    bench.tick(100)
    with pytest.raises(ExecutorError, match="moving"):
        bench.executor.deactivate()
    with pytest.raises(ExecutorError, match="TRACKING"):
        bench.executor.activate(arm(bench.now_ns, HOME), bench.now_ns)
    bench.executor.hold("stopping")
    bench.tick(100)
    bench.executor.deactivate()
    assert bench.executor.state is ExecutorState.IDLE


def test_configuration_errors_name_the_value_and_the_fix():
    with pytest.raises(ConfigError, match=r"speed_scale is 2\.0.*0\.01 to 1\.0"):
        ExecutorConfig.from_contract(CONTRACT, speed_scale=2.0)
    with pytest.raises(ConfigError, match=r"unknown executor parameters \['blending'\]"):
        ExecutorConfig.from_contract(CONTRACT, blending="latest")
    narrow = CONTRACT.to_dict()
    narrow["action"]["dims"][2] |= {"low": -1.0, "high": 1.9}
    limits = ExecutorConfig.from_contract(type(CONTRACT).from_dict(narrow)).limits
    assert (limits.lower_rad[2], limits.upper_rad[2]) == (-1.0, 1.9)


def test_the_first_chunk_begins_where_the_arm_is():
    """A policy that sees another pose is refused after activation and again after a hold, and named; not in motion."""
    bench = Bench()
    far = np.array(HOME) + np.array([0.4, 0.0, 0.0, 0.0, 0.0, 0.0])
    refused = bench.submit(chunk_of([far] * 10, bench.now_ns))
    assert not refused.accepted and "joint_1" in refused.reason and "allowed 0.3 rad" in refused.reason
    assert bench.submit(chunk_of([HOME] * 10, bench.now_ns)).accepted
    bench.tick(5)
    assert bench.submit(chunk_of([far] * 10, bench.now_ns)).accepted
    bench.tick(200)
    bench.executor.hold("asked to", latch=True)
    bench.tick(100)
    bench.executor.resume(bench.now_ns)
    bench.tick()
    assert not bench.submit(chunk_of([bench.measured + 0.4] * 10, bench.now_ns)).accepted


@pytest.mark.parametrize("late_ms", [0, 100, 300])
def test_a_chunk_faster_than_the_engage_ramp_is_caught_up_with(late_ms):
    bench = Bench(engage_ramp_s=2.0)
    points = np.array(HOME) + np.linspace(0.02, 0.2, 10)[:, None] * np.eye(6)[0]  # 0.2 rad/s; the ramp begins at 0.157
    bench.run_until(T0 + late_ms * MS)
    assert bench.submit(chunk_of(points, T0)).accepted
    bench.run_until(T0 + 1000 * MS)
    np.testing.assert_allclose(bench.positions[-1], points[-1], atol=0.003)
    if late_ms == 0:  # it is on the chunk's curve long before the ramp is over
        np.testing.assert_allclose(bench.positions[600 // 8], points[5], atol=1e-3)
        assert bench.counters["ticks_catching_up"] < 60
    assert bench.counters["chunks_smoothed"] == 0
    bench.assert_within_limits()


def test_the_speed_rises_after_the_first_chunk_and_again_after_a_hold():
    bench = Bench(engage_ramp_s=2.0, speed_scale=0.8, max_start_jump_rad=10.0, max_engage_jump_rad=10.0)
    full = 0.8 * bench.config.limits.velocity_rad_s[0]
    early = (0.1 + 0.05 * (0.8 - 0.1)) / 0.8 * full * (1.0 + 1e-6)  # the ramp's value from 0.1 to 0.2 s

    def fastest(ticks):
        before = len(bench.positions)
        for _ in range(ticks // 25):
            goal = bench.measured[0] + 1.5
            points = np.tile(HOME, (20, 1))
            points[:, 0] = np.clip(goal, -6.0, 6.0)
            assert bench.submit(chunk_of(points, bench.now_ns)).accepted
            bench.tick(25)
        return np.abs(np.diff(bench.positions[before - 1 :, 0])).max() / 0.008

    bench.tick(300)  # time that passes without a chunk does not count
    assert 0.05 * full < fastest(25) <= early
    assert fastest(100) < 0.7 * full
    fastest(150)
    assert 0.75 * full < fastest(100) <= full * (1.0 + 1e-6)
    bench.executor.hold("asked to", latch=True)
    bench.tick(200)
    bench.executor.resume(bench.now_ns)
    bench.tick()
    assert fastest(25) <= early
    bench.assert_within_limits()
