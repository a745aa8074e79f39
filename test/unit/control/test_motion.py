"""Braking, curves and blending against direct evaluation."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.control.blending import Prediction, soft_mask, soft_mask_weights, temporal_ensemble
from lavla_ros.control.curve import LimitArrays, build_curve
from lavla_ros.control.limiter import Limiter
from lavla_ros.control.stopping import brake_phases, brake_step, stop_range
from lavla_ros.jaka.arm import MINICOBO

A_MAX, J_MAX = 5.0, 50.0
STATES = st.tuples(st.floats(-1.57, 1.57), st.floats(-A_MAX, A_MAX))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(state=STATES)
def test_braking_ends_at_rest_within_the_limits_and_the_predicted_range(state):
    v, a = state
    low, high = stop_range(0.0, v, a, A_MAX, J_MAX)
    p, path = 0.0, [0.0]
    for _ in range(400):
        before = a
        p, v, a = brake_step(p, v, a, A_MAX, J_MAX, 0.002)
        assert abs(a) <= A_MAX + 1e-9 and abs(a - before) <= J_MAX * 0.002 + 1e-6
        path.append(p)
    assert v == 0.0 and a == 0.0
    assert min(path) >= low - 1e-9 and max(path) <= high + 1e-9
    assert min(path) <= low + 2e-5 and max(path) >= high - 2e-5


@settings(max_examples=100, deadline=None, derandomize=True)
@given(state=STATES)
def test_braking_again_from_any_tick_is_the_same_braking(state):
    v, a = state
    whole = sum(d for d, _ in brake_phases(v, a, A_MAX, J_MAX))
    _, v1, a1 = brake_step(0.0, v, a, A_MAX, J_MAX, 0.008)
    rest = sum(d for d, _ in brake_phases(v1, a1, A_MAX, J_MAX))
    assert abs(max(0.0, whole - 0.008) - rest) < 1e-6


def test_the_curve_is_twice_differentiable_and_passes_through_the_points():
    random = np.random.default_rng(2)
    dt_ns = 100_000_000
    points = np.cumsum(random.normal(0, 0.002, (12, 6)), axis=0) + 0.01 * np.arange(1, 13)[:, None]
    before = np.zeros(6)
    state = ([0.0] * 6, [0.1] * 6, [0.2] * 6)
    curve = build_curve(
        points,
        first_knot_ns=dt_ns,
        dt_ns=dt_ns,
        before_J=before,
        before_velocity_J=np.full(6, 0.1),
        start=state,
        start_ns=0,
        limits=LimitArrays.of(MINICOBO.limits, 1.0),
    )
    assert curve.joined and curve.end_ns == 12 * dt_ns
    np.testing.assert_allclose(np.array(curve.sample(0)), np.array(state), atol=1e-12)
    for piece in curve.pieces[1:]:
        left, right = (np.array(curve.sample(piece.start_ns + d)) for d in (-1, 0))
        np.testing.assert_allclose(left, right, atol=1e-6)
    landed = curve.pieces[1].start_ns
    for h in range(landed // dt_ns, 12):
        np.testing.assert_allclose(curve.sample((h + 1) * dt_ns)[0], points[h], atol=1e-12)
    fine = np.array([curve.sample(t)[0] for t in range(0, curve.end_ns, 1_000_000)])
    velocity = np.array([curve.sample(t)[1] for t in range(500_000, curve.end_ns - 10**6, 1_000_000)])
    np.testing.assert_allclose(np.diff(fine, axis=0) / 1e-3, velocity, atol=1e-4)


def prediction(stamp_steps, values):
    return Prediction(stamp_ns=stamp_steps * 100, dt_ns=100, points_HJ=np.array(values, dtype=float)[:, None])


def test_temporal_ensemble_is_the_weighted_mean_of_act():
    m = 0.5
    chunks = [prediction(0, [1, 2, 3, 4]), prediction(1, [10, 20, 30, 40]), prediction(2, [100, 200, 300, 400])]
    got = temporal_ensemble(chunks, m)[:, 0]
    w = [math.exp(-m * i) for i in range(3)]
    # The newest chunk's points are due at steps 3, 4, 5, 6; the oldest covers 1 to 4, the middle one 2 to 5.
    want = [
        (w[0] * 3 + w[1] * 20 + w[2] * 100) / sum(w),
        (w[0] * 4 + w[1] * 30 + w[2] * 200) / sum(w),
        (w[0] * 40 + w[1] * 300) / (w[0] + w[1]),
        400,
    ]
    np.testing.assert_allclose(got, want)


def test_soft_mask_follows_the_formula_of_real_time_chunking():
    horizon, delay, executed = 10, 3, 4
    weights = soft_mask_weights(horizon, delay, executed)
    end = horizon - executed
    for i, got in enumerate(weights):
        if i < delay:
            want = 1.0
        elif i < end:
            c = (end - i) / (end - delay + 1)
            want = c * (math.exp(c) - 1) / (math.e - 1)
        else:
            want = 0.0
        assert got == np.float64(want) or abs(got - want) < 1e-12
    old, new = prediction(0, np.arange(10.0)), prediction(3, np.full(10, 50.0))
    blended = soft_mask(old, new, delay, executed)[:, 0]
    # Step i of the new chunk is due when step i + 3 of the old one is; the old one ends 7 steps in.
    want = [weights[i] * (i + 3) + (1 - weights[i]) * 50 if i + 3 < 10 else 50.0 for i in range(10)]
    np.testing.assert_allclose(blended, want)


def test_what_the_limiter_does_against_the_plan_is_counted():
    counters = Counter()
    limiter = Limiter(MINICOBO.limits, 8_000_000, 1.0, counters)
    limiter.reset([0.0] * 6)
    still = [0.0] * 6
    assert limiter.advance((still, still, still)) and not +counters
    assert not limiter.advance(([1.0, *still[1:]], still, still)), "no joint can be 1 rad further in one tick"
    limiter.toward([math.nan] * 6)
    assert counters == {"limiter.braked_joints": 1, "limiter.solver_failures": 1} and limiter.position == still
