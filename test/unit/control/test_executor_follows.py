"""The arm gets where it is told, whatever the chunks' length, rate and timing, and restarts from rest after a stall."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from arms import CONTRACT, HOME, MS, T0, Bench, arm, assert_within_limits, chunk_of, restarts_of
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from lavla_ros.contract import Contract
from lavla_ros.control.executor import ExecutorState

DIRECTION = np.array([1.0, -0.7, 0.5, 0.3, -0.2, 0.0])
"""How far each joint steps, as a fraction of the step."""
BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=(Phase.explicit, Phase.generate),
)


@cache
def contract_at(rate_hz: float) -> Contract:
    """The MiniCobo's contract at another rate, with chunks of up to 25 steps."""
    return Contract.from_dict(CONTRACT.to_dict() | {"rate_hz": rate_hz, "chunk_size": 25})


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How a policy (or a person's teleoperation) sends chunks."""

    horizon: int
    rate_hz: float
    period_ms: float
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    """Every chunk arrives up to this much later than its latency says."""
    blend: str = "latest"
    scale: float = 1.0
    seed: int = 0

    @property
    def span_ms(self) -> float:
        return 1000.0 * self.horizon / self.rate_hz

    @property
    def gapless(self) -> bool:
        """Whether every chunk arrives before the one before has ended."""
        return self.period_ms + self.latency_ms + self.jitter_ms + 8 <= self.span_ms

    def bench(self) -> Bench:
        return Bench(
            contract=contract_at(self.rate_hz),
            blend=self.blend,
            speed_scale=self.scale,
            ensemble_size=4,
            execution_horizon=max(1, self.horizon // 2),
        )

    def run(self, bench: Bench, target: Any, until_ms: float) -> None:
        """``target(observed_s, times_s)``: points (H, 6) of the chunk that was observed then, for these times."""
        random = np.random.default_rng(self.seed)
        contract = bench.contract
        count = int(until_ms / self.period_ms) + 1
        stamps = [T0 + int(k * self.period_ms * MS) for k in range(count)]
        arrivals = [s + int((self.latency_ms + random.uniform(0, self.jitter_ms)) * MS) for s in stamps]
        for arrival, stamp in sorted(zip(arrivals, stamps, strict=True)):
            bench.run_until(arrival)
            times = (stamp - T0) * 1e-9 + np.arange(1, self.horizon + 1) / self.rate_hz
            bench.submit(chunk_of(target((stamp - T0) * 1e-9, times), stamp, contract=contract))
        bench.run_until(T0 + int(until_ms * MS))


@st.composite
def streams(draw: Any) -> Stream:
    horizon = draw(st.one_of(st.integers(1, 5), st.integers(1, 25)))
    rate_hz = draw(st.sampled_from([5.0, 10.0, 20.0, 50.0]))
    span_ms = 1000.0 * horizon / rate_hz
    period_ms = max(8.0, draw(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])) * min(span_ms, 1500.0))
    rest_ms = max(0.0, min(span_ms, 1800.0) - period_ms - 8.0)
    latency_ms = draw(st.sampled_from([0.0, 0.0, 0.3, 0.7])) * rest_ms
    jitter_ms = draw(st.sampled_from([0.0, 0.5, 1.0])) * (rest_ms - latency_ms)
    return Stream(
        horizon=horizon,
        rate_hz=rate_hz,
        period_ms=period_ms,
        latency_ms=latency_ms,
        jitter_ms=jitter_ms,
        blend=draw(st.sampled_from(["latest", "temporal_ensemble", "soft_mask"])),
        scale=draw(st.sampled_from([1.0, 1.0, 0.3, 0.1])),
        seed=draw(st.integers(0, 1000)),
    )


def assert_settles(bench: Bench, step_rad: float) -> None:
    """Reached, never overshot by more than 5% of the step or 0.01 rad, not left again, never turned away from."""
    sign = np.sign(step_rad * DIRECTION)
    room = max(0.05 * abs(step_rad), 0.01)
    past = (bench.positions - (np.array(HOME) + step_rad * DIRECTION)) * sign
    back = (np.array(HOME) - bench.positions) * sign
    assert past.max() <= room and back.max() <= 1e-3, (past.max(), back.max())
    error = np.abs(bench.positions - (np.array(HOME) + step_rad * DIRECTION)).max(axis=1)
    assert error[-60:].max() < 1e-3, error[-1]
    reached = int(np.argmax(error < 1e-3))
    assert error[reached:].max() <= room
    bench.assert_within_limits()


@BOUNDED
@given(stream=streams(), step_rad=st.sampled_from([0.005, -0.02, 0.05, 0.1, -0.3, 0.55]))
def test_a_constant_target_is_reached_and_not_left_again(stream, step_rad):
    assume(stream.gapless)
    bench = stream.bench()
    goal = np.array(HOME) + step_rad * DIRECTION
    # At rest at first, then the target jumps and stays.
    still_ms = 2 * stream.period_ms
    travel_ms = 1400.0 * abs(step_rad) / (1.57 * stream.scale)
    until_ms = still_ms + 2500 + travel_ms + 6 * stream.period_ms + stream.latency_ms
    stream.run(
        bench,
        lambda observed_s, times: np.tile(goal if observed_s * 1000 >= still_ms else HOME, (len(times), 1)),
        until_ms,
    )
    assert_settles(bench, step_rad)


@pytest.mark.parametrize("step_rad", [0.02, 0.1, -0.3])
@pytest.mark.parametrize(
    "stream",
    [
        Stream(horizon=1, rate_hz=10, period_ms=100),
        Stream(horizon=1, rate_hz=10, period_ms=90),
        Stream(horizon=1, rate_hz=10, period_ms=50, jitter_ms=60),
        Stream(horizon=1, rate_hz=10, period_ms=20),
        Stream(horizon=1, rate_hz=5, period_ms=200),
        Stream(horizon=1, rate_hz=50, period_ms=20),
        Stream(horizon=2, rate_hz=50, period_ms=20),
        Stream(horizon=2, rate_hz=10, period_ms=100, jitter_ms=60, latency_ms=50),
        Stream(horizon=5, rate_hz=50, period_ms=60, jitter_ms=20),
        Stream(horizon=3, rate_hz=10, period_ms=100, latency_ms=200),
    ],
    ids=str,
)
def test_short_chunks_bring_the_arm_to_their_point(stream, step_rad):
    bench = stream.bench()
    stream.run(bench, lambda _, times: np.tile(HOME + step_rad * DIRECTION, (len(times), 1)), 4500)
    assert_settles(bench, step_rad)


@settings(BOUNDED, max_examples=40)
@given(stream=streams(), step_rad=st.sampled_from([0.02, -0.1, 0.3]), period_ms=st.sampled_from([60, 150, 400]))
def test_chunks_with_gaps_between_them_never_swing_the_arm(stream, step_rad, period_ms):
    # The arm brakes in every gap: it may take its time, but it never goes past its target nor back.
    bench = Stream(**(vars(stream) | {"period_ms": float(period_ms)})).bench()
    stream.run(bench, lambda _, times: np.tile(HOME + step_rad * DIRECTION, (len(times), 1)), 2500)
    sign, room = np.sign(step_rad * DIRECTION), max(0.05 * abs(step_rad), 0.01)
    gone = (bench.positions - HOME) * sign
    assert (gone - np.abs(step_rad * DIRECTION)).max() <= room
    assert (np.maximum.accumulate(gone) - gone).max() <= room
    bench.assert_within_limits()


@settings(BOUNDED, max_examples=40)
@given(stream=streams())
def test_a_smooth_target_is_followed_within_a_stated_lag(stream):
    assume(stream.gapless)
    bench = stream.bench()
    fastest = 0.48 * stream.scale

    def sway(t_s: Any) -> Any:
        """(…, 6): at most 0.48 rad/s times the scale."""
        t = np.asarray(t_s)[..., None]
        return np.array(HOME) + fastest / 1.2 * (np.sin(1.2 * t + np.arange(6)) - np.sin(np.arange(6)))

    stream.run(bench, lambda _, times: sway(times), 6000)
    times = np.arange(len(bench.positions)) * 0.008
    error = np.abs(bench.positions - sway(times)).max(axis=1)
    # A chunk ends at rest in its last point, so near its end the arm is as far behind as it needs to stop: the time
    # of that twice, and the age at which a chunk is replaced.
    stop_s = 2.0 * np.sqrt(fastest / 50.0)
    lag_s = 2.0 * stop_s + (stream.period_ms + stream.latency_ms + stream.jitter_ms) * 1e-3
    if stream.blend != "latest":
        lag_s += 1.0 / stream.rate_hz + 4.0 * stream.period_ms * 1e-3
    assert error[times > 3.0].max() <= fastest * lag_s
    bench.assert_within_limits()


@settings(BOUNDED, max_examples=80)
@given(
    doing=st.sampled_from(list(ExecutorState)[1:]),
    stall=st.sampled_from([1, 2, 3, 5, 12, 25, 61, 62, 63, 125, 1250]),
    ticks=st.integers(20, 120),
    late_ms=st.sampled_from([0, 1, 6]),
    joint=st.integers(0, 5),
)
def test_after_a_stall_the_motion_restarts_from_rest(doing, stall, ticks, late_ms, joint):
    bench = Bench()
    sway = 0.35 * np.sin(1.4 * np.arange(1, 21) * 0.1)[:, None] * np.eye(6)[joint]

    def chunk() -> Any:
        return chunk_of(bench.measured + sway, bench.now_ns)

    bench.submit(chunk())
    bench.tick(ticks)
    if doing is ExecutorState.HOLDING:
        bench.executor.hold("test")
    if doing is ExecutorState.FAULT:
        bench.executor.fault("test")
    bench.tick(5 if doing is not ExecutorState.TRACKING else 1)
    stood = bench.positions[-1]
    bench.now_ns += stall * 8 * MS + late_ms * MS
    bench.tick()
    if stall > bench.config.bridged_ticks:
        assert np.abs(bench.positions[-1] - stood).max() <= 50.0 * 0.008**3 / 6 + 1e-9
    if stall * 0.008 + 0.008 > 0.51:
        assert bench.commands[-1].state is ExecutorState.FAULT
    bench.tick(150)
    if stall > bench.config.bridged_ticks and bench.commands[-1].state is ExecutorState.FAULT:
        np.testing.assert_array_equal(bench.positions[-1], stood)
    bench.assert_within_limits()
    # Chunks go on being valid.
    if bench.commands[-1].state is ExecutorState.FAULT:
        bench.clear()
    else:
        bench.tick(20)
    assert bench.submit(chunk()).accepted
    bench.tick(100)
    assert np.abs(bench.positions[-1] - bench.positions[-100]).max() > 0.05
    bench.assert_within_limits()


def test_a_clock_that_is_set_is_no_stall_where_the_caller_counts_its_cycles():
    bench = Bench()
    bench.submit(chunk_of(HOME + 0.04 * np.arange(1, 21)[:, None] * np.eye(6)[0], T0))
    bench.tick(80)
    commands = list(bench.commands)
    bench.now_ns += 40 * MS
    for _ in range(40):
        commands.append(bench.executor.tick(bench.now_ns, arm(bench.now_ns, bench.measured), 0))
        bench.measured = commands[-1].position_rad
        bench.now_ns += 8 * MS
    positions = np.vstack(([HOME], [c.position_rad for c in commands]))
    assert restarts_of(commands, bench.config) == [80]
    assert_within_limits(positions, bench.config)
    # And a stall that the clock does not show is one.
    commands.append(bench.executor.tick(bench.now_ns, arm(bench.now_ns, bench.measured), 5))
    assert_within_limits(np.vstack((positions, commands[-1].position_rad)), bench.config, restarts=[120])
