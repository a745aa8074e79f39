"""The limiter: one admissible state per tick, whatever is asked for.

Invariant, true after every call: from the present state each joint can be braked to rest without leaving
its position limits or exceeding its velocity limit. A wanted next state is taken only if it keeps the
invariant; otherwise that joint takes the first tick of its braking instead, which keeps it by
definition. So position limits hold although ruckig (community version) does not know any.
Velocity, acceleration and jerk limits hold because the commands are always samples of a curve with
continuous acceleration that keeps them: a curve's feasible piece, a ruckig trajectory, or braking.
Finite differences of consecutive samples are averages of the derivatives and so keep them too.
"""

from __future__ import annotations

from collections import Counter
from math import ceil

import numpy as np
from ruckig import InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from lavla_ros.control.arm import JointLimits
from lavla_ros.control.curve import Curve, State
from lavla_ros.control.stopping import brake_step, longest_stop, still, stop_range
from lavla_ros.typing import FloatArray

SEARCH_ATTEMPTS = 3
"""ruckig solutions per tick while looking for the point where a curve can be met."""
HALVINGS = 6
"""Landings that are tried after the limits rose, between now and the one that was committed to."""
SWING_RAD = 1e-3
"""A joint may leave the way to its goal by this much so that all joints arrive together."""
_TOLERANCE_RAD = 1e-9
# Rounding of ruckig's solutions (its own checks are at 1e-8).
_SLACK_P, SLACK_V, SLACK_A = 1e-8, 1e-7, 1e-6


class WayOnto:
    """A motion that lands on a curve, and the curve from there on."""

    def __init__(self, trajectory: Trajectory, curve: Curve, from_ns: int, to_ns: int) -> None:
        """``from_ns``: where it begins, in the curve's time; ``to_ns``: where it lands."""
        self._trajectory, self._curve = trajectory, curve
        self.from_ns, self.to_ns = from_ns, to_ns

    def sample(self, at_ns: int) -> State:
        """As of a curve."""
        if at_ns >= self.to_ns:
            return self._curve.sample(at_ns)
        position, velocity, acceleration = self._trajectory.at_time((at_ns - self.from_ns) * 1e-9)
        return position, velocity, acceleration

    def table(self, start_ns: int, tick_ns: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """As of a curve. Before it lands the jerk is infinite: nothing is known of it but that it keeps its limit."""
        before = [self.sample(at_ns) for at_ns in range(start_ns, self.to_ns, tick_ns)]
        landed_ns = start_ns + len(before) * tick_ns
        if landed_ns <= self._curve.end_ns:
            after = self._curve.table(landed_ns, tick_ns)
        else:
            rest = np.array([self._curve.sample(landed_ns)[0]] * 2)
            still = np.zeros_like(rest)
            after = rest, still, still, still
        if not before:
            return after
        known = np.array(before)
        jerk = np.vstack((np.full_like(known[:, 0], np.inf), after[3]))
        position, velocity, acceleration = (np.vstack((known[:, i], after[i])) for i in range(3))
        return position, velocity, acceleration, jerk


class Limiter:
    """Commanded position, velocity and acceleration of every joint, advanced one tick at a time."""

    def __init__(self, limits: JointLimits, tick_ns: int, speed_scale: float, counters: Counter[str]) -> None:
        """``counters`` get limiter.braked_joints, the joint-ticks in which a wanted state was replaced by braking, and
        limiter.solver_failures, the times that ruckig gave no trajectory."""
        self._limits = limits
        self._dof = len(limits.lower_rad)
        self._tick_ns = tick_ns
        self._tick_s = tick_ns * 1e-9
        self._a_max = list(limits.acceleration_rad_s2)
        self._j_max = list(limits.jerk_rad_s3)
        self._ruckig = Ruckig(self._dof, self._tick_s)
        self._input = InputParameter(self._dof)
        self._input.max_acceleration = self._a_max
        self._input.max_jerk = self._j_max
        self._scratch = Trajectory(self._dof)
        self._committed: WayOnto | None = None
        self._guess_ticks = 1
        self._rose = False
        """Whether the limits rose since the trajectory was committed to: a faster one may be found."""
        self._counters = counters
        self.speed_scale = speed_scale
        self.position = [0.0] * self._dof
        self.velocity = [0.0] * self._dof
        self.acceleration = [0.0] * self._dof
        self.set_speed_scale(speed_scale)
        self.reset(self.position)

    def set_speed_scale(self, scale: float) -> None:
        """Velocity limits = scale x the configured ones. A faster motion brakes within the other limits."""
        if scale < self.speed_scale:
            self._committed = None
        self._rose = self._committed is not None
        self.speed_scale = scale
        self._v_max = [v * scale for v in self._limits.velocity_rad_s]
        self._input.max_velocity = self._v_max

    def reset(self, position: list[float]) -> None:
        """At rest at a position. Limits that it violates are widened to it, so that nothing jumps."""
        self.position = list(position)
        self.velocity = [0.0] * self._dof
        self.acceleration = [0.0] * self._dof
        self._lower = [min(p, low) for p, low in zip(position, self._limits.lower_rad, strict=True)]
        self._upper = [max(p, high) for p, high in zip(position, self._limits.upper_rad, strict=True)]
        room = [longest_stop(*m) for m in zip(self._limits.velocity_rad_s, self._a_max, self._j_max, strict=True)]
        self._inner_lower = [low + r for low, r in zip(self._lower, room, strict=True)]
        self._inner_upper = [high - r for high, r in zip(self._upper, room, strict=True)]
        self.forget()

    def forget(self) -> None:
        """Drop the trajectory being followed (a new curve is to be met)."""
        self._committed = None
        self._guess_ticks = 1

    def stop(self) -> None:
        """The arm stands at the last position already (nothing was sent for some cycles): start from rest there."""
        self.velocity = [0.0] * self._dof
        self.acceleration = [0.0] * self._dof
        self.forget()

    @property
    def state(self) -> State:
        """The present state; a copy."""
        return list(self.position), list(self.velocity), list(self.acceleration)

    def take(self, state: State) -> None:
        """Be in a state that was found to keep the limits from the present one."""
        self.position, self.velocity, self.acceleration = (list(values) for values in state)
        self._committed = None

    @property
    def at_rest(self) -> bool:
        """Whether every joint stands still, up to the rounding that a trajectory to rest leaves behind."""
        return still(self.velocity, self.acceleration)

    def keeps_speed(self, wanted: State) -> bool:
        """Whether no joint is, or becomes while it brakes, faster than the speed scale allows now."""
        return all(
            abs(v + a * abs(a) / (2.0 * j_max)) <= v_max
            for v, a, v_max, j_max in zip(wanted[1], wanted[2], self._v_max, self._j_max, strict=True)
        )

    def advance(self, wanted: State) -> bool:
        """Take the wanted state one tick ahead, or brake the joints in which it is not admissible.

        The wanted state must come from a curve within the limits through the present state. Returns
        whether every joint took it.
        """
        position, velocity, acceleration = wanted
        all_taken, t = True, self._tick_s
        for i in range(self._dof):
            p, v, a, j_max = position[i], velocity[i], acceleration[i], self._j_max[i]
            p0, v0, a0, change = self.position[i], self.velocity[i], self.acceleration[i], j_max * t
            # What a curve with |jerk| ≤ j_max can reach in one tick; false for NaN.
            ok = (
                abs(a - a0) <= change + SLACK_A
                and abs(v - v0 - t * a0) <= 0.5 * t * change + SLACK_V
                and abs(p - p0 - t * (v0 + 0.5 * t * a0)) <= t * t * change / 6.0 + _SLACK_P
                and abs(a) <= self._a_max[i] + SLACK_A
                and abs(v + a * abs(a) / (2.0 * j_max)) <= self._v_max[i] + SLACK_V
            )
            if ok and not self._inner_lower[i] <= p <= self._inner_upper[i]:
                low, high = stop_range(p, v, a, self._a_max[i], j_max)
                ok = low >= self._lower[i] - _TOLERANCE_RAD and high <= self._upper[i] + _TOLERANCE_RAD
            if ok:
                self.position[i], self.velocity[i], self.acceleration[i] = p, v, a
            else:
                self._brake_joint(i)
                self._counters["limiter.braked_joints"] += 1
                all_taken = False
        return all_taken

    def brake(self) -> None:
        """One tick of braking, each joint as fast as its limits allow; at rest it stays."""
        self._committed = None
        for i in range(self._dof):
            self._brake_joint(i)

    def toward(self, goal: list[float]) -> None:
        """One tick of the time-optimal motion to rest at a goal (clamped to the position limits)."""
        self._committed = None
        still = [0.0] * self._dof
        goal = [min(max(g, low), high) for g, low, high in zip(goal, self._lower, self._upper, strict=True)]
        if self._solve((goal, still, still), None) is None:
            self.brake()
        else:
            self.advance(self._scratch.at_time(self._tick_s))

    def pursue(self, curve: Curve, now_ns: int) -> bool:
        """One tick of catching up with a curve, from the state at ``now_ns``.

        Looks for the earliest time at which the curve's own state can be reached, commits to that
        trajectory and follows it until it lands. Returns True on the tick that lands on the curve.
        """
        next_ns = now_ns + self._tick_ns
        if self._committed is not None and not self._committed.from_ns <= now_ns < self._committed.to_ns:
            self._committed = None
        # Not before the curve begins; beyond its end it is at rest in its last point.
        earliest = -((now_ns - curve.start_ns) // self._tick_ns)
        if self._committed is not None:
            if self._rose:
                self._land_earlier(curve, now_ns, max(0, earliest - 1))
            return self._follow_committed(next_ns)
        ticks, solved = max(self._guess_ticks, earliest), False
        for _ in range(SEARCH_ATTEMPTS):
            at_ns = now_ns + ticks * self._tick_ns
            target, exact = self._admissible(curve.sample(at_ns))
            duration_s = self._solve(target, None)
            solved = duration_s is not None
            if duration_s is None:
                break
            needed = max(1, ceil(duration_s / self._tick_s - 1e-6))
            if needed > ticks:
                ticks = needed + 1 + needed // 8
                continue
            if exact:
                if self._commit(curve, target, ticks, now_ns):
                    return self._follow_committed(next_ns)
                solved = self._solve(target, None) is not None
            break
        self._guess_ticks = max(1, ticks - 1)
        if solved:
            self.advance(self._scratch.at_time(self._tick_s))
        else:
            self.brake()
        return False

    def _land_earlier(self, curve: Curve, now_ns: int, low: int) -> None:
        """The limits rose: halve the time until the landing, more than ``low`` ticks away, as long as that succeeds."""
        assert self._committed is not None
        self._rose = False
        high = (self._committed.to_ns - now_ns) // self._tick_ns
        for _ in range(HALVINGS):
            ticks = (low + high) // 2
            if ticks <= low:
                break
            target, exact = self._admissible(curve.sample(now_ns + ticks * self._tick_ns))
            if exact and self._commit(curve, target, ticks, now_ns):
                high = ticks
            else:
                low = ticks

    def _commit(self, curve: Curve, target: State, ticks: int, now_ns: int) -> bool:
        """Stretch the trajectory so that it lands on the target exactly ``ticks`` from now."""
        duration_s = self._solve(target, ticks * self._tick_s)
        if duration_s is None or abs(duration_s - ticks * self._tick_s) > 1e-9:
            return False
        if _at_rest(target) and self._swings(target[0]):
            return False
        self._committed = WayOnto(self._scratch, curve, now_ns, now_ns + ticks * self._tick_ns)
        self._scratch = Trajectory(self._dof)
        self._guess_ticks = 1
        return True

    def _swings(self, goal: list[float]) -> bool:
        """Whether a joint leaves the way between here and its goal to fill the time until the others arrive."""
        return any(
            extrema.min < min(p, g) - SWING_RAD or extrema.max > max(p, g) + SWING_RAD
            for extrema, p, g in zip(self._scratch.position_extrema, self.position, goal, strict=True)
        )

    def _follow_committed(self, next_ns: int) -> bool:
        """One tick of the trajectory that was committed to. True on the tick that lands on the curve."""
        assert self._committed is not None
        landed, taken = next_ns == self._committed.to_ns, self.advance(self._committed.sample(next_ns))
        if landed or not taken:
            self._committed = None
        return landed and taken

    @property
    def way_onto(self) -> WayOnto | None:
        """The way onto a curve that is being followed; None: there is none, or the curve is reached."""
        return self._committed

    def _admissible(self, target: State) -> tuple[State, bool]:
        """The target inside the limits (ruckig refuses others), and whether it is unchanged."""
        position, velocity, acceleration = target
        exact = True
        for i in range(self._dof):
            p, v, a, v_max = position[i], velocity[i], acceleration[i], self._v_max[i]
            clamped = min(max(p, self._lower[i]), self._upper[i])
            drift = a * abs(a) / (2.0 * self._j_max[i])
            inside = (
                clamped == p
                and abs(a) <= self._a_max[i]
                and abs(v) < v_max
                and abs(v + drift) < v_max
                and abs(v - drift) < v_max
            )
            if not inside:
                exact = False
                # A target that keeps a velocity is passed through; one at a limit must be stopped at.
                velocity[i] = min(max(v, -0.98 * v_max), 0.98 * v_max) if clamped == p else 0.0
                position[i], acceleration[i] = clamped, 0.0
        return (position, velocity, acceleration), exact

    def _solve(self, target: State, duration_s: float | None) -> float | None:
        """Trajectory from the present state into the scratch; its duration, or None if ruckig gives none."""
        given = self._input
        given.current_position, given.current_velocity, given.current_acceleration = (
            self.position,
            self.velocity,
            self.acceleration,
        )
        given.target_position, given.target_velocity, given.target_acceleration = target
        given.minimum_duration = duration_s
        # Joints that come to rest need not arrive together.
        alone = duration_s is None and _at_rest(target)
        given.synchronization = Synchronization.No if alone else Synchronization.Time
        try:
            solved = self._ruckig.calculate(given, self._scratch) in (Result.Working, Result.Finished)
        except (RuckigError, ValueError):  # ValueError: the binding cannot express some of ruckig's own result codes
            solved = False
        if not solved:
            self._counters["limiter.solver_failures"] += 1
            return None
        return float(self._scratch.duration)

    def _brake_joint(self, i: int) -> None:
        self.position[i], self.velocity[i], self.acceleration[i] = brake_step(
            self.position[i], self.velocity[i], self.acceleration[i], self._a_max[i], self._j_max[i], self._tick_s
        )


def _at_rest(target: State) -> bool:
    return not any(target[1]) and not any(target[2])
