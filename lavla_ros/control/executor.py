"""The chunk executor: action chunks in, one limited command per servo cycle out.

Pure and deterministic: it knows no clock, thread or socket; the same calls give bitwise the same
commands. The way through a tick:

    time grid → health of the arm → state machine → motion (curve, increments, braking) → limiter → Command

Time. Ticks lie on a grid of ``tick_ns``. A tick that is less than one period off its place still counts
for its place; a later one skips whole places (never bursts), an earlier one moves the grid. Each
command is what the arm should reach one period after its place, and consecutive commands keep every
limit for that period, however late the tick was. A chunk stamped t is executed from the step that is
due at the next tick; what lies before has been consumed and is counted as skipped.

Hands. A person's chunks come before a policy's: from the first one on the policy's are refused and counted, whatever
they hold, until :meth:`hand_back`, and then those that were observed before it. What the policy was following ends with
the person's chunk, or at rest if that one is refused. A change of hands is a chunk like any other: limits hold.

Moves. :meth:`move_to` brings an arm that rests and that nobody commands to a pose. Until it is there a policy's chunks
are refused; a person's take the arm from a move as from a policy.

Missed ticks. The arm stands where it was told to be last when some cycles bring nothing. A single one is
bridged (``bridged_ticks``); after more the motion restarts from rest at the last command, in every state.

Faults. See :mod:`lavla_ros.control.actions` for chunks and :mod:`lavla_ros.control.health` for the arm. A
fault is latched: the command ramps to rest and stays, chunks are refused, also after :meth:`deactivate`, until
:meth:`acknowledge` succeeds, which needs the arm at rest and the cause gone. It ends in a latched hold. Nothing
but a chunk ever moves the arm, and no chunk is accepted until a person calls :meth:`resume`, which is refused
where the arm is not where it was commanded to be. Then only leaving servo mode and entering it again, which is
:meth:`deactivate` and :meth:`activate` here, puts the measured position in place of the command.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lavla_ros.config import ConfigError
from lavla_ros.contract import ActionChunk, Contract
from lavla_ros.control.actions import ActionDecoder, ChunkRejected, PreparedChunk, first_step
from lavla_ros.control.arm import ArmState
from lavla_ros.control.blending import Prediction, soft_mask, temporal_ensemble
from lavla_ros.control.config import ExecutorConfig
from lavla_ros.control.curve import Curve, LimitArrays, build_curve
from lavla_ros.control.health import HealthMonitor
from lavla_ros.control.limiter import Limiter
from lavla_ros.control.move import ARRIVED_RAD, straight
from lavla_ros.control.plan import History, Plan
from lavla_ros.control.shield import Clearances, Shield
from lavla_ros.control.types import Command, ExecutorState, SubmitResult
from lavla_ros.errors import UserError
from lavla_ros.typing import FloatArray

__all__ = [
    "ChunkExecutor",
    "Command",
    "ConfigError",
    "ExecutorConfig",
    "ExecutorError",
    "ExecutorState",
    "NotAtCommandError",
    "PreparedChunk",
    "StillMovingError",
    "SubmitResult",
]

_log = logging.getLogger(__name__)
ENGAGE_SCALE, RAMP_STEPS = 0.1, 20
"""Where the speed scale begins after the arm was activated, resumed or acknowledged, or has changed hands; steps of its
rise."""
SLOWER_TRIES = 4
"""Curves that are tried for a chunk, each slower, until the tool keeps its speed."""
PERSON_LEAD_RAD = 0.08
"""Chunks of deltas of a person: a longer lead of the goal would be gone on with after the person has let go."""
OUTSIDE_TOLERANCE_RAD = 0.02
"""The arm is not moved if it is outside its position limits by more than this."""


class ExecutorError(UserError, RuntimeError):
    """The executor was asked for something that its state does not allow; the message names the fix."""


class NotAtCommandError(ExecutorError):
    """The arm is not where it was commanded to be: leave servo mode, enter it again and activate where it is."""


class StillMovingError(ExecutorError):
    """The command is still ramping to rest: the same request will be obeyed then."""


class ChunkExecutor:
    """Follows action chunks for one arm. Not thread-safe: one caller."""

    def __init__(self, contract: Contract, config: ExecutorConfig, clearance: Clearances | None = None) -> None:
        """``clearance``: distances of the arm to itself and to its cell, which motion keeps; None: joints alone are
        limited. Raises ConfigError if the contract's action space cannot be executed by this arm."""
        self.contract, self.config = contract, config
        self._clearance = clearance
        self._tick_ns = config.tick_ns
        self._decoder = ActionDecoder(contract, config)
        self.counters: Counter[str] = Counter()
        """Everything refused, skipped, clipped or braked since construction, by name."""
        self._limiter = Limiter(config.limits, config.tick_ns, config.speed_scale, self.counters)
        self._arrays = LimitArrays.of(config.limits, config.speed_scale)
        self._scale, self._most_speed = config.speed_scale, 1.0
        """What was set, and what the chunk that is followed may have at most."""
        self._engaged_ns: int | None = None
        """When the first chunk began since a person let the arm move; None: none has."""
        self._shield = None if clearance is None else Shield(clearance, config.limits, config.tick_ns)
        self._health = HealthMonitor(config)
        self._history = History()
        self._state = ExecutorState.IDLE
        self._fault: str | None = None
        self._cause: str | None = None
        self._held: str | None = None
        self._hold_reason = ""
        self._plan: Plan | None = None
        self._predictions: list[Prediction] = []
        self._on_curve = False
        self._goal: list[float] = []
        self._consumed_until_ns: int | None = None
        self._newest_stamp_ns: int | None = None
        self._accepted_ns = 0
        """When the chunk being followed was accepted."""
        self._since_ns = 0
        self._measured: list[float] = []
        """Joint positions of the newest state of a fit arm."""
        self._gripper = 1.0
        self._person = self._led = False
        """A person has the arm; the newest chunk that was accepted was a person's."""
        self._handed_back_ns: int | None = None
        self._place_ns: int | None = None
        """Grid place of the newest tick; None before the first one."""
        self._motion_ns = 0
        """Time at which the limiter's state is due: the grid place of the next tick."""
        self._last_now_ns = 0
        self.refusal = ""
        """Why the last :meth:`acknowledge` returned False."""

    def fresh(self) -> ChunkExecutor:
        """A new one for the same arm and scene."""
        return ChunkExecutor(self.contract, self.config, self._clearance)

    @property
    def state(self) -> ExecutorState:
        return self._state

    @property
    def fault_reason(self) -> str | None:
        """Cause of the latched fault, or None. It stays while IDLE: a fault outlives :meth:`deactivate`."""
        return self._fault

    @property
    def held(self) -> str | None:
        """Reason of the latched hold, or None. Chunks are refused until :meth:`resume`."""
        return self._held

    @property
    def hold_reason(self) -> str:
        """Why the executor is HOLDING, or was last: a latched hold's reason before any passing one."""
        return self._held or self._hold_reason

    @property
    def waiting_for(self) -> str:
        """What has to come before the arm moves on: "a chunk", or what a person has to do; "" while TRACKING.

        One of acknowledge, activate, resume: requests to the servo process; hand_back, unless the person moves on.
        """
        if self._fault is not None:
            return "acknowledge"
        if self._state is ExecutorState.IDLE:
            return "activate"
        if self._held is not None:
            return "resume"
        if self._state is ExecutorState.TRACKING:
            return ""
        return "hand_back" if self._person else "a chunk"

    @property
    def commander(self) -> str:
        """Who has the arm: "person" from a person's chunk until :meth:`hand_back`; "move" on the way of a move;
        "policy" while a chunk of another source is followed; else "".
        """
        if self._person or self._plan is None:
            return "person" if self._person else ""
        return "move" if self._plan.to else "policy"

    @property
    def since_ns(self) -> int:
        """When :attr:`state`, or whether a hold is latched, changed last; on the clock of the ticks."""
        return self._since_ns

    @property
    def at_rest(self) -> bool:
        """Whether the commanded motion stands still."""
        return self._limiter.at_rest

    def activate(self, state: ArmState, now_ns: int) -> None:
        """IDLE → HOLDING at the measured position. The first tick follows at ``now_ns`` or later.

        A latched hold stays. Raises ExecutorError if already active, a fault is latched, or the arm is unfit,
        not ready for commands or outside its limits.
        """
        if self._state is not ExecutorState.IDLE:
            raise ExecutorError(f"activate: the executor is {self._state.name}; deactivate it first")
        if self._fault is not None:
            raise ExecutorError(f"activate: a fault is latched: {self._fault}; acknowledge it first")
        measured: list[float] = np.asarray(state.position_rad, dtype=np.float64).tolist()
        cause = self._health.cause(state, measured, now_ns)
        if cause is not None:
            raise ExecutorError(f"activate: {cause}")
        self._check_inside("activate", measured)
        self._cause = self._engaged_ns = None
        self._hold_reason = "activated"
        # What was observed before does not know the arm as it is now.
        self._newest_stamp_ns, self._consumed_until_ns = now_ns - 1, None
        self._gripper = 1.0 if state.gripper >= self.config.gripper_threshold else 0.0
        self._drop_plan()
        self._measured = measured
        self._place_ns, self._motion_ns, self._last_now_ns = None, now_ns, now_ns
        self._health.reset()
        self._limiter.reset(measured)
        if self._shield is not None:
            self._shield.reset(measured)
        self._history.reset(now_ns, measured)
        self._enter(ExecutorState.HOLDING)

    def deactivate(self) -> None:
        """→ IDLE; ends a latched hold, not a fault. Raises ExecutorError while the command moves: hold() and tick
        until ``at_rest``."""
        if self._state is not ExecutorState.IDLE and not self.at_rest:
            raise StillMovingError("deactivate: the command is moving; hold() and tick until at_rest")
        self._held = None
        self._drop_plan()
        self._enter(ExecutorState.IDLE)

    def set_speed_scale(self, scale: float) -> None:
        """Velocity limits = scale x the configured ones, from now on. Raises ConfigError outside 0.01 to 1."""
        if not 0.01 <= scale <= 1.0:
            raise ConfigError(f"speed scale is {scale}; expected 0.01 to 1.0")
        self._scale = scale
        self._allow()
        self._on_curve = False

    def _allow(self) -> None:
        """The speed scale, or what the chunk may have at most, was set."""
        self._arrays = LimitArrays.of(self.config.limits, min(self._scale, self._most_speed))
        self._rescale()

    def _rescale(self) -> None:
        """The speed scale as it is now: its value, or what the ramp allows after the first chunk.

        The ramp bounds the motion, not the curve: a curve within limits that rise while it is followed would be
        another one than the chunk's.
        """
        scale, ramp_s = min(self._scale, self._most_speed), self.config.engage_ramp_s
        if self._engaged_ns is not None and ramp_s > 0.0:
            risen = (self._motion_ns - self._engaged_ns) * 1e-9 / ramp_s
            # In steps, as every change makes the limiter look for its way again.
            risen = min(1.0, int(max(0.0, risen) * RAMP_STEPS) / RAMP_STEPS)
            begin = min(scale, ENGAGE_SCALE)
            scale = begin + risen * (scale - begin)
        if scale != self._limiter.speed_scale:
            self._limiter.set_speed_scale(scale)

    def hold(self, reason: str, *, latch: bool = False) -> None:
        """Drop the chunk and ramp to rest. With ``latch`` new chunks are refused until :meth:`resume`.

        No chunk that was observed before the newest tick is executed afterwards, latched or not.
        """
        if latch:
            if self._held is None:
                self._since_ns = self._last_now_ns
            self._held = reason
        if self._state in (ExecutorState.TRACKING, ExecutorState.HOLDING):
            self._refuse_until(self._last_now_ns)
            self._enter_holding(reason)

    def resume(self, now_ns: int) -> None:
        """End a latched hold: chunks observed after ``now_ns`` are accepted again. Without effect if nothing is
        held; while IDLE the hold just ends.

        Raises ExecutorError if a fault is latched, the command moves, the arm is unfit, not ready for commands or
        outside its limits; NotAtCommandError if a joint is further than ``resume_error_rad`` from its command.
        """
        if self._fault is not None:
            raise ExecutorError(f"resume: a fault is latched: {self._fault}; acknowledge it first")
        if self._state is not ExecutorState.IDLE and self._held is not None:
            self._check_movable("resume", now_ns)
            self._refuse_until(now_ns)
            self._health.reset()
            self._hold_reason, self._since_ns = "resumed", now_ns
            self._engaged_ns = None
        self._held = None

    def hand_back(self, now_ns: int) -> str:
        """The person gives the arm back: chunks of the policy that are observed after ``now_ns`` are accepted again.

        Returns what that means, in words. Without effect if no person has the arm.
        """
        if not self._person:
            return "no person has the arm"
        self._person, self._handed_back_ns = False, now_ns
        self._refuse_until(now_ns)
        self.counters["handed_back"] += 1
        return "handed back; waiting for a chunk of the policy"

    def move_to(self, goal_rad: Sequence[float], now_ns: int, *, to: str) -> str:
        """Bring the arm to rest at joint positions (dof,), rad, on the straight way of the joints; then it holds.

        ``to``: what that pose is, in words. Returns what is done, in words. Raises ExecutorError for a pose that is not
        finite or outside the limits, and where :meth:`resume` would raise, the arm is held, or somebody commands it.
        """
        what, limits = f"move to {to}", self.config.limits
        if len(goal_rad) != len(self.config.joint_names):
            raise ExecutorError(f"{what}: {len(goal_rad)} values for the joints {list(self.config.joint_names)}")
        for name, p, low, high in zip(
            self.config.joint_names, goal_rad, limits.lower_rad, limits.upper_rad, strict=True
        ):
            if not math.isfinite(p) or not low <= p <= high:
                raise ExecutorError(f"{what}: {name} would be at {p} rad; expected {low} to {high}")
        if self._fault is not None:
            raise ExecutorError(f"{what}: a fault is latched: {self._fault}; acknowledge it first")
        if self._state is ExecutorState.IDLE:
            raise ExecutorError(f"{what}: the executor is not active; activate it first")
        if self._held is not None:
            raise ExecutorError(f"{what}: held: {self._held}; resume first")
        if self._person:
            raise ExecutorError(f"{what}: a person has the arm; executor/hand_back gives it back")
        if self._plan is not None:
            raise ExecutorError(
                f"{what}: the arm is on its way to {self._plan.to}; ask again when it is there"
                if self._plan.to
                else f"{what}: a policy commands the arm; stop it first"
            )
        self._check_movable(what, now_ns)
        if self._is_at(goal_rad):
            self._hold_reason = f"arrived at {to}"
            return f"the arm is at {to} already"
        self.counters["moves"] += 1
        self._led, self._engaged_ns, self._most_speed = False, None, self.config.move_speed_scale
        self._allow()
        self._drop_plan()
        curve, slower = self._way_to(goal_rad, self._motion_ns)
        self._plan = Plan(
            stamp_ns=now_ns,
            origin_ns=self._motion_ns,
            dt_ns=curve.end_ns - self._motion_ns,
            horizon=1,
            curve=curve,
            increments_HJ=None,
            gripper_H=None,
            next_step=1,
            to=to,
        )
        self._on_curve = True
        self._enter(ExecutorState.TRACKING, now_ns)
        return f"moving to {to}, which takes {self._plan.dt_ns * 1e-9:.1f} s" + (
            f", {slower:.1f} times longer than the joints need, as the tool would be too fast" if slower > 1.0 else ""
        )

    def fault(self, reason: str) -> None:
        """Latch a fault; the first cause stays. Without effect while IDLE."""
        if self._state is ExecutorState.IDLE:
            return
        self.counters["faults"] += 1
        if self._state is not ExecutorState.FAULT:
            self._fault = reason
            self._drop_plan()
            self._enter(ExecutorState.FAULT)

    def acknowledge(self, now_ns: int) -> bool:
        """Clear the latched fault: FAULT → HOLDING, held until :meth:`resume`; IDLE stays. Moves nothing.

        False if its cause persists or the ramp is not over (see ``refusal``).
        """
        if self._fault is None:
            self.refusal = f"nothing to acknowledge: the executor is {self._state.name}"
        elif self._state is ExecutorState.IDLE:
            self.refusal, self._fault = "", None
            self.counters["acknowledged"] += 1
            return True
        elif self._cause is not None:
            self.refusal = f"the cause persists: {self._cause}"
        elif not self.at_rest:
            self.refusal = "the command is still ramping to rest"
        elif not self._recent(now_ns):
            self.refusal = "no recent tick: the state of the arm is not known"
        else:
            self.refusal = ""
            self._held, self._fault = f"acknowledged after: {self._fault}", None
            self._health.accept(self._measured, self._limiter.position)
            self.counters["acknowledged"] += 1
            self._enter(ExecutorState.HOLDING)
            return True
        return False

    def prepare(self, chunk: ActionChunk) -> PreparedChunk:
        """The chunk in joint space, from the present command and for the next tick on. Changes nothing.

        Raises ChunkRejected. A process that must not wait for it lets another one call :meth:`ActionDecoder.prepare`.
        """
        tracking = self._state is ExecutorState.TRACKING and not self._decoder.absolute
        seed_rad = self._goal if tracking else self._limiter.position
        return self._decoder.prepare(chunk, seed_rad, self._motion_ns, self._consumed_until_ns)

    def submit(self, chunk: ActionChunk, now_ns: int, *, person: bool = False) -> SubmitResult:
        """Take over a chunk at ``now_ns`` (between two ticks), or say why not. Never raises, whatever it holds."""
        return self._take(chunk.stamp_ns, now_ns, lambda: self.prepare(chunk), person)

    def submit_prepared(self, prepared: PreparedChunk, now_ns: int) -> SubmitResult:
        """:meth:`submit` for a chunk that was prepared elsewhere."""
        return self._take(prepared.stamp_ns, now_ns, lambda: prepared, prepared.person)

    def submit_rejected(self, stamp_ns: int, rejection: ChunkRejected, now_ns: int) -> SubmitResult:
        """:meth:`submit` for a chunk whose preparation elsewhere failed: counted, and a fault where malformed."""

        def again() -> PreparedChunk:
            raise rejection

        return self._take(stamp_ns, now_ns, again, rejection.person)

    def tick(self, now_ns: int, state: ArmState, missed: int | None = None) -> Command:
        """One servo cycle. Raises nothing for any state or time; call it every cycle while not IDLE.

        ``missed``: cycles since the last tick in which nothing was sent, from a caller that counts them on a clock
        that is never set; None: as many as the grid of ``now_ns`` has places between.
        """
        measured: list[float] = np.asarray(state.position_rad, dtype=np.float64).tolist()
        if self._state is ExecutorState.IDLE:
            still = np.zeros(len(measured))
            return Command(
                stamp_ns=now_ns,
                position_rad=np.array(measured),
                velocity_rad_s=still,
                gripper=self._gripper,
                state=self._state,
                fault=None,
                chunk_stamp_ns=None,
            )
        place_ns, skipped = self._next_place(now_ns)
        if place_ns != self._motion_ns:
            if self._plan is not None and self._plan.to:
                self._plan.late_ns += place_ns - self._motion_ns
            else:
                self._on_curve = False
            self._limiter.forget()
        if (skipped if missed is None else missed) > self.config.bridged_ticks:
            self._stop_with_the_arm(place_ns)
        self._supervise(state, measured, now_ns)
        self._move(place_ns)
        self._motion_ns = place_ns + self._tick_ns
        self._history.add(self._motion_ns, self._limiter.position, self._limiter.velocity)
        plan = self._plan
        return Command(
            stamp_ns=place_ns,
            position_rad=np.array(self._limiter.position),
            velocity_rad_s=np.array(self._limiter.velocity),
            gripper=self._gripper,
            state=self._state,
            fault=self._fault,
            chunk_stamp_ns=None if plan is None or plan.to else plan.stamp_ns,
        )

    def brake(self) -> FloatArray:
        """One cycle of braking outside :meth:`tick`: the last resort when ticking failed. Returns positions (dof,)."""
        self._drop_plan()
        self._brake()
        return np.array(self._limiter.position)

    def _next_place(self, now_ns: int) -> tuple[int, int]:
        """The grid place of this tick and how many were skipped before it; latches a fault on a clock jump."""
        last_now_ns, self._last_now_ns = self._last_now_ns, now_ns
        gap_ns = now_ns - last_now_ns
        if self._place_ns is None:
            if gap_ns < 0:
                self.fault(f"the clock jumped by {gap_ns / 1e9:.3f} s between two ticks")
            self._place_ns = now_ns
            return now_ns, 0
        late_ns = now_ns - (self._place_ns + self._tick_ns)
        skipped = max(0, late_ns // self._tick_ns)
        if gap_ns < 0 or gap_ns > self.config.max_clock_gap_s * 1e9:
            self.fault(f"the clock jumped by {gap_ns / 1e9:.3f} s between two ticks")
            self._place_ns = now_ns
            return now_ns, skipped
        if skipped:
            self.counters["ticks_skipped"] += skipped
        self._place_ns += (1 + skipped) * self._tick_ns
        if late_ns <= -self._tick_ns:
            self.counters["ticks_early"] += 1
            self._place_ns = now_ns
        return self._place_ns, skipped

    def _stop_with_the_arm(self, place_ns: int) -> None:
        """The cycles without a command have stopped the arm: go on from rest at the last command."""
        if not self.at_rest:
            self.counters["restarts_from_rest"] += 1
        elif self._plan is not None and self._plan.to:
            return  # it has not begun
        self._limiter.stop()
        if self._shield is not None:
            self._shield.rest()
        self._history.stop()
        self._on_curve = False
        if self._plan is not None and self._plan.to and self._plan.curve is not None:
            goal_rad, _, _ = self._plan.curve.sample(self._plan.curve.end_ns)
            if not self._is_at(goal_rad):
                self._plan.curve, _ = self._way_to(goal_rad, place_ns)
                self._plan.late_ns, self._on_curve = 0, True

    def _supervise(self, state: ArmState, measured: list[float], now_ns: int) -> None:
        """Latch a fault if the arm is unfit, not ready, or not where it was commanded to be."""
        self._cause = cause = self._health.cause(state, measured, now_ns)
        if cause is None:
            self._measured = measured
        if self._state is ExecutorState.FAULT:
            return
        if cause is None:
            cause = self._health.tracking_error(measured, self._limiter.position)
        if cause is not None:
            self.fault(cause)

    def _check_inside(self, what: str, position: list[float]) -> None:
        limits = self.config.limits
        for name, p, low, high in zip(
            self.config.joint_names, position, limits.lower_rad, limits.upper_rad, strict=True
        ):
            if not low - OUTSIDE_TOLERANCE_RAD <= p <= high + OUTSIDE_TOLERANCE_RAD:
                raise ExecutorError(f"{what}: {name} is at {p:.4f} rad, outside {low} to {high}; jog it back first")

    def _check_movable(self, what: str, now_ns: int) -> None:
        """Raises ExecutorError unless the arm rests, fit to move, where it was commanded to be."""
        if not self.at_rest:
            raise StillMovingError(f"{what}: the command is still ramping to rest; ask again")
        if self._cause is not None or not self._recent(now_ns):
            raise ExecutorError(f"{what}: {self._cause or 'no recent tick: the state of the arm is not known'}")
        self._check_inside(what, self._measured)
        for name, p, c in zip(self.config.joint_names, self._measured, self._limiter.position, strict=True):
            if not abs(p - c) <= self.config.resume_error_rad:
                raise NotAtCommandError(
                    f"{what}: {name} is at {p:.4f} rad, {abs(p - c):.4f} rad from its command; allowed "
                    f"{self.config.resume_error_rad} rad: leave servo mode and start again from where the arm is"
                )

    def _recent(self, now_ns: int) -> bool:
        """Whether the last tick is recent enough for what it saw of the arm to hold."""
        return 0 <= now_ns - self._last_now_ns <= self.config.max_clock_gap_s * 1e9

    def _take(self, stamp_ns: int, now_ns: int, prepare: Callable[[], PreparedChunk], person: bool) -> SubmitResult:
        result = self._taken(stamp_ns, now_ns, prepare, person)
        if person and not result.accepted and self._person and self._plan is not None and not self._plan.person:
            self._enter_holding(f"a person took over, and the chunk was refused: {result.reason}")
        return result

    def _taken(self, stamp_ns: int, now_ns: int, prepare: Callable[[], PreparedChunk], person: bool) -> SubmitResult:
        self.counters["submitted"] += 1
        try:
            self._check_hands(stamp_ns, now_ns, person)
            self._check_accepting(stamp_ns, now_ns)
            if person != self._led:
                self._change_hands()
            self._accept(prepare(), now_ns, person)
        except ChunkRejected as error:
            return self._refused(stamp_ns, error)
        except Exception as error:  # noqa: BLE001  whatever a chunk holds, the arm must go on being commanded
            _log.exception("a chunk could not be taken over")
            return self._refused(
                stamp_ns, ChunkRejected("rejected_broken", f"{type(error).__name__}: {error}", malformed=True)
            )
        self.counters["accepted"] += 1
        return SubmitResult(accepted=True, reason="accepted")

    def _refused(self, stamp_ns: int, rejection: ChunkRejected) -> SubmitResult:
        self.counters[rejection.counter] += 1
        if rejection.malformed:
            self.fault(f"chunk stamped {stamp_ns}: {rejection}")
        return SubmitResult(accepted=False, reason=str(rejection))

    def _check_hands(self, stamp_ns: int, now_ns: int, person: bool) -> None:
        if not person and self._person:
            raise ChunkRejected("rejected_person", "a person has the arm; executor/hand_back gives it back")
        if not person and self._plan is not None and self._plan.to:
            raise ChunkRejected("rejected_move", f"the arm is on its way to {self._plan.to}")
        fresh = -self.config.max_future_s * 1e9 <= now_ns - stamp_ns <= self.config.max_chunk_age_s * 1e9
        late = self._handed_back_ns is not None and stamp_ns <= self._handed_back_ns
        if person and not self._person and self._state is not ExecutorState.IDLE and fresh and not late:
            self._person = True
            if self._plan is not None and self._newest_stamp_ns == self._plan.stamp_ns:
                self._newest_stamp_ns = self._handed_back_ns  # a person is not refused for what the policy has sent
            self.counters["taken_over"] += 1

    def _change_hands(self) -> None:
        """Nothing of what the other one wanted is left to be blended or caught up with; the speed rises again."""
        self._predictions, self._consumed_until_ns, self._engaged_ns = [], None, None
        self._goal = [
            min(max(p + 0.5 * v * abs(v) / a, low), high)
            for p, v, a, low, high in zip(
                self._limiter.position,
                self._limiter.velocity,
                self.config.limits.acceleration_rad_s2,
                self.config.limits.lower_rad,
                self.config.limits.upper_rad,
                strict=True,
            )
        ]

    def _check_accepting(self, stamp_ns: int, now_ns: int) -> None:
        age_ns = now_ns - stamp_ns
        if self._state is ExecutorState.IDLE:
            raise ChunkRejected("rejected_idle", "the executor is not activated")
        if self._state is ExecutorState.FAULT:
            raise ChunkRejected("rejected_fault", f"fault latched: {self._fault}; acknowledge it first")
        if self._held is not None:
            raise ChunkRejected("rejected_hold", f"held: {self._held}; resume first")
        if age_ns < -self.config.max_future_s * 1e9:
            raise ChunkRejected(
                "rejected_future",
                f"the chunk is stamped {-age_ns / 1e9:.3f} s in the future: the clocks of policy and executor differ",
            )
        if self._newest_stamp_ns is not None and stamp_ns <= self._newest_stamp_ns:
            raise ChunkRejected(
                "rejected_old",
                f"stamp {stamp_ns} is not newer than {self._newest_stamp_ns}: a newer chunk was taken, or the arm was "
                "held, resumed or activated since",
            )
        if age_ns > self.config.max_chunk_age_s * 1e9:
            raise ChunkRejected(
                "rejected_stale", f"the chunk is {age_ns / 1e9:.3f} s old; allowed {self.config.max_chunk_age_s} s"
            )

    def _accept(self, chunk: PreparedChunk, now_ns: int, person: bool) -> None:
        """Build the plan from the step that is due at the next tick. Raises ChunkRejected."""
        dt_ns, horizon = chunk.dt_ns, chunk.horizon
        expected = (self.contract.chunk_size, len(self.config.joint_names))
        if (
            horizon > expected[0]
            or chunk.rows_HJ.shape[1] != expected[1]
            or self._decoder.absolute != (chunk.points_HJ is not None)
        ):
            raise ChunkRejected(
                "rejected_shape",
                f"the chunk was prepared for another arm or contract: its shape is {chunk.rows_HJ.shape}, expected "
                f"(1 to {expected[0]}, {expected[1]})",
                malformed=True,
            )
        due = max(chunk.from_step, first_step(chunk.stamp_ns, dt_ns, self._motion_ns, self._consumed_until_ns))
        if due >= horizon:
            raise ChunkRejected("rejected_expired", f"all {horizon} steps of the chunk lie in the past")
        plan = Plan(
            stamp_ns=chunk.stamp_ns,
            origin_ns=chunk.stamp_ns,
            dt_ns=dt_ns,
            horizon=horizon,
            curve=None,
            increments_HJ=chunk.increments_HJ,
            gripper_H=None if chunk.gripper_H is None else chunk.gripper_H.tolist(),
            next_step=due,
            person=person,
        )
        if chunk.points_HJ is not None:
            config = self.config
            jump = config.max_start_jump_rad
            allowed = jump if self._engaged_ns is not None else min(jump, config.max_engage_jump_rad)
            self._decoder.check_start(chunk.points_HJ, due, self._limiter.position, allowed)
            self._engage(chunk.most_speed)
            self._follow_curve(plan, chunk.points_HJ, due)
            assert plan.curve is not None
            self._on_curve = plan.curve.joined
            if plan.curve.smoothed:
                self.counters["chunks_smoothed"] += 1
            self._limiter.forget()
        else:
            self._engage(chunk.most_speed)
            if self._state is not ExecutorState.TRACKING:
                self._goal = list(self._limiter.position)
        self._plan, self._led = plan, person
        self._newest_stamp_ns, self._accepted_ns = chunk.stamp_ns, now_ns
        self._enter(ExecutorState.TRACKING, now_ns)
        if due:
            self.counters["steps_skipped"] += due
        if chunk.clipped:
            self.counters["values_clipped"] += chunk.clipped

    def _engage(self, most_speed: float) -> None:
        """A chunk is accepted, to be followed at this speed scale at most; maybe the first since a person let the arm
        move."""
        first = self._engaged_ns is None
        if first:
            self._engaged_ns = self._motion_ns
        if first or most_speed != self._most_speed:
            self._most_speed = most_speed
            self._allow()

    def _follow_curve(self, plan: Plan, points_HJ: FloatArray, due: int) -> None:
        """Give the plan a curve through the points, with its time stretched if the tool would be too fast."""
        points = points_HJ  # of a person: what was wanted before must not drag it along
        if not plan.person:
            points = self._blend(Prediction(stamp_ns=plan.stamp_ns, dt_ns=plan.dt_ns, points_HJ=points_HJ), due)
        before, before_velocity = self._history.at(plan.stamp_ns)
        passed_ns, dt_ns, slower = self._motion_ns - plan.stamp_ns, plan.dt_ns, 1.0
        for _ in range(SLOWER_TRIES):
            plan.origin_ns, plan.dt_ns = self._motion_ns - round(slower * passed_ns), round(slower * dt_ns)
            plan.curve = build_curve(
                points,
                first_knot_ns=plan.origin_ns + plan.dt_ns,
                dt_ns=plan.dt_ns,
                before_J=before,
                before_velocity_J=before_velocity / slower,
                start_ns=self._motion_ns,
                limits=self._arrays,
                start=(self._limiter.position, self._limiter.velocity, self._limiter.acceleration),
            )
            further = 1.0 if self._shield is None else self._shield.slower(plan.curve, self._motion_ns)
            if further <= 1.0:
                break
            slower *= further
        if slower > 1.0:
            self.counters["chunks_slowed"] += 1
        if self._shield is not None and plan.curve is not None:
            self._shield.expect(plan.curve, self._motion_ns)

    def _way_to(self, goal_rad: Sequence[float], start_ns: int) -> tuple[Curve, float]:
        """The straight way to a goal from rest at a time; how many times longer it takes than the joints need."""
        slower = 1.0
        for _ in range(SLOWER_TRIES):
            curve = straight(self._limiter.position, goal_rad, start_ns, self._tick_ns, self._arrays, slower)
            further = 1.0 if self._shield is None else self._shield.slower(curve, start_ns)
            if further <= 1.0:
                break
            slower *= further
        if self._shield is not None:
            self._shield.expect(curve, start_ns)
        return curve, slower

    def _is_at(self, goal_rad: Sequence[float]) -> bool:
        return self.at_rest and all(
            abs(p - goal) <= ARRIVED_RAD for p, goal in zip(self._limiter.position, goal_rad, strict=True)
        )

    def _blend(self, newest: Prediction, due: int) -> FloatArray:
        """Points (H, J) to follow, and what is remembered for the next chunk."""
        config = self.config
        if config.blend == "temporal_ensemble":
            self._predictions = [*self._predictions, newest][-config.ensemble_size :]
            return temporal_ensemble(self._predictions, config.ensemble_m)
        points = newest.points_HJ
        if config.blend == "soft_mask":
            if self._predictions:
                points = soft_mask(self._predictions[0], newest, due, config.execution_horizon)
            self._predictions = [Prediction(stamp_ns=newest.stamp_ns, dt_ns=newest.dt_ns, points_HJ=points)]
        return points

    def _move(self, place_ns: int) -> None:
        """One tick of motion in the present state."""
        if self._state is ExecutorState.TRACKING:
            plan = self._plan
            assert plan is not None
            if plan.to:
                self._move_on(plan, place_ns)
                return
            silent_s = (self._last_now_ns - self._accepted_ns) * 1e-9
            if 0.0 < self.config.chunk_timeout_s < silent_s:
                self.counters["chunk_timeouts"] += 1
                self._enter_holding(f"no new chunk for {silent_s:.2f} s")
            elif place_ns - plan.stamp_ns > self.config.max_chunk_age_s * 1e9:
                self.counters["stale"] += 1
                self._enter_holding(f"the chunk is older than {self.config.max_chunk_age_s} s")
            elif place_ns >= plan.end_ns or (plan.curve is not None and place_ns + self._tick_ns > plan.end_ns):
                self.counters["exhausted"] += 1
                self._enter_holding("the chunk is exhausted and no newer one has come")
            elif self._followed(plan, place_ns):
                return
        self._brake()

    def _move_on(self, plan: Plan, place_ns: int) -> None:
        """One tick of a move."""
        assert plan.curve is not None
        if self._is_at(plan.curve.sample(plan.curve.end_ns)[0]):
            self._refuse_until(self._last_now_ns)  # what was observed on the way
            self._enter_holding(f"arrived at {plan.to}")
        elif self._followed(plan, place_ns):
            return
        self._brake()

    def _followed(self, plan: Plan, place_ns: int) -> bool:
        """Whether the plan was followed by one tick; else it leads too close to something, and is dropped."""
        if self.config.engage_ramp_s > 0.0:
            self._rescale()
        if self._shield is None:
            self._follow(plan, place_ns)
            return True
        before, gripper = self._limiter.state, self._gripper
        self._follow(plan, place_ns)
        limiter, at_ns = self._limiter, place_ns - plan.late_ns + self._tick_ns
        planned = plan.curve if self._on_curve else limiter.way_onto
        if self._shield.admits(limiter.state, planned, at_ns, limiter.speed_scale):
            return True
        self._limiter.take(before)
        self._gripper = gripper
        self.counters[self._shield.counter] += 1
        self._enter_holding(self._shield.reason)
        return False

    def _brake(self) -> None:
        """One tick on the way to rest."""
        if self._shield is None:
            self._limiter.brake()
        else:
            self._shield.brake(self._limiter)

    def _follow(self, plan: Plan, place_ns: int) -> None:
        self._follow_gripper(plan, place_ns)
        if plan.curve is None:
            self._follow_increments(plan, place_ns)
            return
        place_ns -= plan.late_ns
        next_ns = place_ns + self._tick_ns
        wanted = plan.curve.sample(next_ns)
        if self._on_curve and plan.curve.feasible(place_ns, next_ns) and self._limiter.keeps_speed(wanted):
            self._on_curve = self._limiter.advance(wanted)
        else:
            self.counters["ticks_catching_up"] += 1
            self._on_curve = self._limiter.pursue(plan.curve, place_ns)

    def _follow_increments(self, plan: Plan, place_ns: int) -> None:
        step = plan.step_at(place_ns)
        if step >= plan.next_step:
            assert plan.increments_HJ is not None
            if step > plan.next_step:
                self.counters["steps_skipped"] += step - plan.next_step
            lead, limits = self.config.max_goal_lead_rad, self.config.limits
            if plan.person:
                lead = min(lead, PERSON_LEAD_RAD)
            self._goal = [
                min(max(goal + delta, p - lead, low), p + lead, high)
                for goal, delta, p, low, high in zip(
                    self._goal,
                    plan.increments_HJ[step].tolist(),
                    self._limiter.position,
                    limits.lower_rad,
                    limits.upper_rad,
                    strict=True,
                )
            ]
            plan.next_step = step + 1
            self._consumed_until_ns = plan.stamp_ns + plan.next_step * plan.dt_ns
        self._limiter.toward(self._goal)

    def _follow_gripper(self, plan: Plan, place_ns: int) -> None:
        if plan.gripper_H is None:
            return
        value = plan.gripper_H[min(max(plan.step_at(place_ns), 0), plan.horizon - 1)]
        threshold, band = self.config.gripper_threshold, self.config.gripper_hysteresis
        if value > threshold + band:
            self._gripper = 1.0
        elif value < threshold - band:
            self._gripper = 0.0

    def _enter_holding(self, reason: str) -> None:
        self._hold_reason = reason
        self._drop_plan()
        self._enter(ExecutorState.HOLDING)

    def _enter(self, state: ExecutorState, now_ns: int | None = None) -> None:
        if state is not self._state:
            self._state, self._since_ns = state, self._last_now_ns if now_ns is None else now_ns

    def _refuse_until(self, at_ns: int) -> None:
        """No chunk that was observed at or before this time is accepted any more."""
        self._newest_stamp_ns = at_ns if self._newest_stamp_ns is None else max(self._newest_stamp_ns, at_ns)

    def _drop_plan(self) -> None:
        self._plan = None
        self._predictions = []
        self._on_curve = False
        self._limiter.forget()
