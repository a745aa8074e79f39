"""The emulated controller without sockets and threads: commands in, replies out, one 8 ms cycle at a time.

Commands, replies and units as in the vendor's document "TCP protocol" v2.0.4. The texts of the errors are ours:
clients may rely on ``errorCode`` alone.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavla_ros.config import check
from lavla_ros.control.arm import JointLimits, KinematicsError
from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.jaka.arm import jaka_arm
from lavla_ros.jaka.dh import dh_of
from lavla_ros.jaka.limits import JOINTS, SERVO_PERIOD_S
from lavla_ros.jaka.units import (
    deg_to_rad,
    joints_to_deg,
    joints_to_rad,
    m_to_mm,
    mm_to_m,
    pose_from_wire,
    pose_to_wire,
    rad_to_deg,
)
from lavla_ros.typing import FloatArray
from sim_bridges.jaka_controller.config import COLLISION_FORCE_N, ControllerConfig
from sim_bridges.jaka_controller.faults import Faults
from sim_bridges.jaka_controller.filter import FilterLimits, NonlinearFilter
from sim_bridges.jaka_controller.planner import MotionError, MotionPlayer, plan_joint_motion, plan_linear_motion
from sim_bridges.jaka_controller.plant import ArmPlant, ForceSensing
from sim_bridges.jaka_controller.servo import MotionLog, Push, ServoLog, ServoQueue

Message = dict[str, Any]
CABINET_OUTPUTS = 8
TOOL_OUTPUTS = 2
MAX_STEPS = 100
_STILL_RAD_S = 1e-3
"""Below this the arm counts as standing where a motion is to begin."""
_LOCKING = ("moveL", "kine_forward", "kine_inverse", "get_dh_param")


class CommandRefused(Exception):
    """A command answered with errorCode "2" and this text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the status push shows; made after every cycle and command, immutable, read without a lock."""

    measured_rad: FloatArray
    commanded_rad: FloatArray
    powered: bool
    enabled: bool
    servo_mode: bool
    moving: bool
    paused: bool
    """By the network exception handle."""
    drag: bool
    manual: bool
    protective_stop: bool
    emergency_stop: bool
    on_soft_limit: bool
    error_code: int
    error_text: str
    rapid_rate: float
    cabinet_outputs: tuple[int, ...]
    tool_outputs: tuple[int, ...]
    queued: int
    """Periods of servo motion that wait."""


class EmulatedController:
    """State and commands. :meth:`handle` and :meth:`cycle` may be called from two different threads."""

    def __init__(self, plant: ArmPlant, config: ControllerConfig, faults: Faults) -> None:
        """Raises ConfigError for a model that there is not, or that a JAKA controller cannot have."""
        arm = jaka_arm(config.model)
        assert arm.chain is not None
        check(len(arm.joint_names) == JOINTS, "model", config.model, f"an arm of {JOINTS} joints")
        self.kinematics, self.limits, self._dh = ChainKinematics(arm.chain), arm.limits, dh_of(arm.chain)
        self._plant = plant
        self.config = config
        self._faults = faults
        self._lock = threading.Lock()
        self.servo_log = ServoLog(config.log_size)
        self.motion_log = MotionLog(config.log_size)
        self._queue = ServoQueue(
            config.servo_depth,
            config.servo_lead_periods,
            coast_periods=round(config.coast_s / SERVO_PERIOD_S) if config.without_commands == "coast" else 0,
            overflow=config.overflow,
        )
        self._filter: NonlinearFilter | None = None
        self._motion = MotionPlayer()
        self._measured_rad = plant.joint_position_rad().copy()
        self._commanded_rad = self._measured_rad.copy()
        self._cycle = 0
        self._silent_cycles = 0
        """Since the newest command."""
        self._offline_cycles = 0
        self._paused = False
        self._drag_switched = False
        self._drag = False
        """Guided by hand now: drag mode is on, and nothing else moves the arm."""
        self._powered = False
        self._enabled = False
        self._power_delay_cycles: int | None = None
        self._enable_delay_cycles: int | None = None
        self._servo_mode = False
        self._protective_stop = False
        self._emergency_stop = False
        self._on_soft_limit = False
        self._error_code = 0
        self._error_text = ""
        self._rapid_rate = 1.0
        self._cabinet_outputs = [0] * CABINET_OUTPUTS
        self._tool_outputs = [0] * TOOL_OUTPUTS
        self._output_changes: list[tuple[int, bool]] = []
        self._collision_sensitivity = config.collision_sensitivity
        self._settings: dict[str, Message] = {}
        self.snapshot = self._take_snapshot()

    @classmethod
    def commands(cls) -> list[str]:
        """Every cmdName that is understood; the method ``do_`` + cmdName carries it out."""
        return [name.removeprefix("do_") for name in vars(cls) if name.startswith("do_")]

    @property
    def settings(self) -> dict[str, Message]:
        """What the client has set, by cmdName: payload, collision sensitivity, network exception, servo filter."""
        return {name: dict(values) for name, values in self._settings.items()}

    @property
    def offline(self) -> bool:
        """Switched off or starting: nothing is answered."""
        return self._offline_cycles > 0

    # ---- one command ----

    def handle(self, message: Mapping[str, Any], arrival_ns: int) -> Message:
        """Execute one command, return its reply. ``arrival_ns``: monotonic clock when it arrived."""
        name = str(message.get("cmdName"))
        servo = name in ("servo_j", "servo_p")
        if servo:
            self.servo_log.append(arrival_ns)
        counters = self.servo_log.counters
        counters.received += servo
        # A network that speaks again ends the pause that its silence began.
        self._silent_cycles, self._paused = 0, False
        try:
            if self._faults.rejects(name):
                raise CommandRefused("rejected by a fault of the emulator")
            command: Callable[[Message], Message] | None = getattr(self, f"do_{name}", None)
            if command is None:
                raise CommandRefused(f"unknown command {name!r}")
            # Those that compute for long take the lock themselves, so that the cycle does not wait for them.
            with contextlib.nullcontext() if name in _LOCKING else self._lock:
                fields = command(dict(message))
            if not servo:
                with self._lock:
                    self.snapshot = self._take_snapshot()
        except (CommandRefused, MotionError) as error:
            counters.refused += servo
            return {"cmdName": name, "errorCode": "2", "errorMsg": str(error)}
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            counters.refused += servo
            return {"cmdName": name, "errorCode": "1", "errorMsg": f"exception: {error!r}"}
        return {"cmdName": name, "errorCode": "0", "errorMsg": "", **fields}

    # ---- one 8 ms cycle ----

    def cycle(self, skipped: int = 0) -> None:
        """Run one cycle. ``skipped`` cycles before it could not be run in time: their servo motion is left out,
        so that the arm is where it would be by now instead of falling behind for ever."""
        with self._lock:
            counters = self.servo_log.counters
            counters.cycles += 1
            counters.late_cycles += skipped
            self._cycle += 1 + skipped
            self._silent_cycles += 1 + skipped
            self._take_faults()
            self._count_down()
            self._watch_network()
            if self._servo_mode:
                fresh = self._servo_target(skipped)
            elif self._drag:
                fresh = self._measured_rad + self._by_hand()
            elif self._filter is not None and self._filter_moves(0.0):
                fresh = self._filter.brake()
            else:
                fresh = self._motion.next(self._rapid_rate)
            if fresh is not None:
                self._commanded_rad = fresh
            changes, self._output_changes = self._output_changes, []
            target = self._commanded_rad
        # The plant may take a while (physics): commands are accepted meanwhile.
        for index, value in changes:
            self._plant.set_tool_output(index, value)
        self._plant.command_joints_rad(target)
        self._plant.advance(SERVO_PERIOD_S)
        position = self._plant.joint_position_rad().copy()
        force_n = self._plant.external_force_n() if isinstance(self._plant, ForceSensing) else 0.0
        self.motion_log.append(self._cycle, position)
        with self._lock:
            self._measured_rad = position
            if self._enabled and not self._protective_stop and force_n > COLLISION_FORCE_N[self._collision_sensitivity]:
                self._protective_stop = True
                self._halt(0x1, f"protective stop: collision detected ({force_n:.0f} N)")
            self.snapshot = self._take_snapshot()

    def _servo_target(self, skipped: int) -> FloatArray | None:
        """Where the arm is to be at the end of this cycle, (6,), rad; None: where it was told to be before."""
        queue, counters = self._queue, self.servo_log.counters
        left_out = queue.trim(skipped)
        counters.trimmed += len(left_out)
        if not queue.started:
            fresh = None
        else:
            counters.active_cycles += 1
            counters.deepest_queue = max(counters.deepest_queue, len(queue))
            fresh = None if queue.leading() else self._next_servo_position(1 + skipped - len(left_out))
        if self._filter is None:
            return fresh
        if self._paused:
            return self._filter.brake()
        for target in left_out:
            self._filter.follow(target)
        return self._filter.follow(self._filter.target if fresh is None else fresh)

    def _next_servo_position(self, periods: int) -> FloatArray | None:
        """The next queued position, or where the arm coasts to within this many periods."""
        counters = self.servo_log.counters
        if (fresh := self._queue.pop()) is not None:
            return fresh
        counters.missed += 1
        for _ in range(periods):
            if (coasted := self._queue.coast()) is None:
                break
            if not self.limits.contains(coasted):
                self._on_soft_limit = True
                self._queue.stand()
                break
            fresh = coasted
            counters.coasted += 1
        return fresh

    def _filter_moves(self, above_rad_s: float) -> bool:
        return self._filter is not None and self._filter.speed_rad_s > above_rad_s

    def _by_hand(self) -> FloatArray:
        shift = np.zeros(JOINTS)
        shift[0] = self._faults.hand_speed_rad_s * SERVO_PERIOD_S
        return shift

    def _watch_network(self) -> None:
        """Nothing heard for longer than set_network_exception_handle allows: act, once."""
        handle = self._settings.get("set_network_exception_handle")
        if (
            handle is None
            or handle["motType"] == 0
            or self._silent_cycles * SERVO_PERIOD_S * 1e3 <= handle["timeLimit"]
        ):
            return
        in_servo = self._servo_mode and self.config.network_exception_acts
        if self._paused or not (in_servo or self._motion.busy):
            return
        if handle["motType"] == 1:
            self._paused = True
            self._queue.stand()
            self._motion.stop()
        else:
            self._servo_mode = False
            self._queue.end()
            self._motion.stop()

    def _take_faults(self) -> None:
        faults = self._faults
        if faults.reboot_s > 0:
            self._reboot(faults.reboot_s)
            faults.reboot_s = 0.0
        if faults.servo_mode_lost:
            faults.servo_mode_lost = False
            self._servo_mode = False
            self._queue.end()
        if faults.drag and not self._drag_switched:
            self._stand()
        self._drag_switched = faults.drag
        self._drag = faults.drag and not (self._servo_mode or self._motion.busy)
        if faults.protective_stop:
            faults.protective_stop = False
            self._protective_stop = True
            self._halt(0x1, faults.error_text or "protective stop: collision detected")
        if faults.emergency_stop != self._emergency_stop:
            self._emergency_stop = faults.emergency_stop
            if self._emergency_stop:
                self._halt(0x2, "emergency stop pressed")
                self._lose_power()
            elif not self._protective_stop:
                self._error_code, self._error_text = 0, ""

    def _reboot(self, duration_s: float) -> None:
        self._stand()
        self._lose_power()
        self._offline_cycles = max(1, round(duration_s / SERVO_PERIOD_S))
        self._protective_stop = self._on_soft_limit = False
        self._error_code, self._error_text = 0, ""
        self._settings = {}
        self._filter = None
        self._collision_sensitivity = self.config.collision_sensitivity
        self._rapid_rate = 1.0
        for index in range(TOOL_OUTPUTS):
            self._set_output(1, index, False)
        self._cabinet_outputs = [0] * CABINET_OUTPUTS

    def _lose_power(self) -> None:
        self._powered = self._enabled = False
        self._power_delay_cycles = self._enable_delay_cycles = None
        if self.config.power_loss_clears_outputs:
            for index in range(TOOL_OUTPUTS):
                self._set_output(1, index, False)

    def _halt(self, code: int, text: str) -> None:
        self._stand()
        self._error_code, self._error_text = code, text

    def _stand(self) -> None:
        """Stop dead, out of servo mode. What is commanded from now on is where the arm came to stand."""
        self._servo_mode = self._paused = False
        self._queue.end()
        self._motion.abort()
        self._commanded_rad = self._measured_rad
        if self._filter is not None:
            self._filter.begin(self._commanded_rad)

    def _count_down(self) -> None:
        self._offline_cycles = max(0, self._offline_cycles - 1)
        if self._power_delay_cycles is not None:
            self._power_delay_cycles -= 1
            if self._power_delay_cycles < 0:
                self._power_delay_cycles, self._powered = None, True
        if self._enable_delay_cycles is not None:
            self._enable_delay_cycles -= 1
            if self._enable_delay_cycles < 0:
                self._enable_delay_cycles, self._enabled = None, self._powered

    def _take_snapshot(self) -> Snapshot:
        measured = self._measured_rad
        if self._faults.measured_offset_rad:
            measured = measured.copy()
            measured[0] += self._faults.measured_offset_rad
        return Snapshot(
            measured_rad=measured,
            commanded_rad=self._commanded_rad,
            powered=self._powered,
            enabled=self._enabled,
            servo_mode=self._servo_mode,
            moving=self._motion.busy or len(self._queue) > 0 or self._queue.coasting or self._filter_moves(0.0),
            paused=self._paused,
            drag=self._drag,
            manual=self._faults.manual,
            protective_stop=self._protective_stop,
            emergency_stop=self._emergency_stop,
            on_soft_limit=self._on_soft_limit,
            error_code=self._error_code,
            error_text=self._error_text,
            rapid_rate=self._rapid_rate,
            cabinet_outputs=tuple(self._cabinet_outputs),
            tool_outputs=tuple(self._tool_outputs),
            queued=len(self._queue),
        )

    # ---- power and state ----

    def do_power_on(self, message: Message) -> Message:
        if self._emergency_stop:
            raise CommandRefused("emergency stop is pressed")
        if not (self._powered or self._faults.power_on_fails):
            self._power_delay_cycles = round(self.config.power_on_s / SERVO_PERIOD_S)
        return {"power status": "True"}

    def do_power_off(self, message: Message) -> Message:
        if self._enabled:
            raise CommandRefused("disable the robot before switching its power off")
        self._lose_power()
        return {}

    def do_enable_robot(self, message: Message) -> Message:
        self._require_ready(enabled=False)
        if not (self._enabled or self._faults.enable_fails):
            self._enable_delay_cycles = round(self.config.enable_s / SERVO_PERIOD_S)
        return {"enabled status": "True"}

    def do_disable_robot(self, message: Message) -> Message:
        self._stand()
        self._enabled, self._enable_delay_cycles = False, None
        return {}

    def do_get_robot_state(self, message: Message) -> Message:
        return {
            "enable": "robot_enabled" if self._enabled else "robot_disabled",
            "power": "powered_on" if self._powered else "powered_off",
        }

    def do_protective_stop_status(self, message: Message) -> Message:
        return {"protective_stop": "1" if self._protective_stop else "0"}

    def do_clear_error(self, message: Message) -> Message:
        if self._emergency_stop:
            raise CommandRefused("emergency stop is pressed: release it first")
        self._protective_stop = False
        self._error_code, self._error_text = 0, ""
        return {}

    def _require_ready(self, *, enabled: bool = True) -> None:
        if self._emergency_stop:
            raise CommandRefused("emergency stop is pressed")
        if self._protective_stop:
            raise CommandRefused("protective stop: clear the error first")
        if not self._powered:
            raise CommandRefused("robot is not powered on")
        if enabled and not self._enabled:
            raise CommandRefused("robot is not enabled")

    def _require_movable(self) -> None:
        self._require_ready()
        for mode, on in (("drag", self._faults.drag), ("manual", self._faults.manual)):
            if on and self.config.modes_refuse:
                raise CommandRefused(f"robot is in {mode} mode")

    # ---- planned motion ----

    def _require_planner(self) -> None:
        self._require_movable()
        if self._servo_mode:
            raise CommandRefused("robot is in servo mode")
        if self._filter_moves(_STILL_RAD_S):
            raise CommandRefused("robot is moving: it comes to rest from servo mode")

    def do_joint_move(self, message: Message) -> Message:
        self._require_planner()
        start = self._motion.end(self._commanded_rad)
        goal = _joints(message, "jointPosition") + (start if _flag(message, "relFlag") else 0.0)
        self._queue_joint_motion(message, start, goal)
        return {}

    def do_end_move(self, message: Message) -> Message:
        self._require_planner()
        start = self._motion.end(self._commanded_rad)
        goal = self._joints_at(pose_from_wire(message["endPosition"]), start)
        self._queue_joint_motion(message, start, goal)
        return {}

    def _queue_joint_motion(self, message: Message, start: FloatArray, goal: FloatArray) -> None:
        speed, acceleration = deg_to_rad(_number(message, "speed")), deg_to_rad(_number(message, "accel"))
        self._motion.add(start, plan_joint_motion(start, goal, speed, acceleration, self.limits))

    def do_moveL(self, message: Message) -> Message:
        with self._lock:
            self._require_planner()
            start = self._motion.end(self._commanded_rad)
        goal = self._pose(message, "cartPosition", start)
        speed, acceleration = mm_to_m(_number(message, "speed")), mm_to_m(_number(message, "accel"))
        path = plan_linear_motion(start, goal, speed, acceleration, self.limits, self.kinematics)
        with self._lock:
            self._require_planner()
            if not np.array_equal(start, self._motion.end(self._commanded_rad)):
                raise CommandRefused("the robot was stopped while the motion was planned")
            self._motion.add(start, path)
        return {}

    def _pose(self, message: Message, key: str, start_rad: FloatArray) -> FloatArray:
        """Target pose (4, 4); relative ones shift and turn the pose at ``start_rad`` along the base's axes."""
        pose = pose_from_wire(message[key])
        if _flag(message, "relFlag"):
            start = self.kinematics.forward(start_rad)
            pose[:3, 3] += start[:3, 3]
            pose[:3, :3] = pose[:3, :3] @ start[:3, :3]
        return pose

    def _joints_at(self, pose: FloatArray, near_rad: FloatArray) -> FloatArray:
        try:
            return self.kinematics.inverse(pose, near_rad, self.limits)
        except KinematicsError as error:
            raise CommandRefused(f"inverse kinematics failed: {error}") from error

    def do_stop_program(self, message: Message) -> Message:
        self._motion.stop()
        return {}

    def do_rapid_rate(self, message: Message) -> Message:
        rate = _number(message, "rate_value")
        if not 0.0 <= rate <= 1.0:
            raise CommandRefused(f"rate_value must lie in 0 to 1, got {rate}")
        self._rapid_rate = rate
        return {}

    # ---- servo mode ----

    def do_servo_move(self, message: Message) -> Message:
        if not _flag(message, "relFlag"):
            self._servo_mode = False
            self._queue.end()
            return {}
        self._require_movable()
        if self._motion.busy or (not self._servo_mode and self._filter_moves(_STILL_RAD_S)):
            raise CommandRefused("robot is moving: stop it before entering servo mode")
        if not self._servo_mode:
            self._servo_mode, self._paused = True, False
            self._queue.begin(self._commanded_rad)
            if self._filter is not None:
                self._filter.begin(self._commanded_rad)
        return {}

    def do_is_in_servomove(self, message: Message) -> Message:
        return {"in_servomove": self._servo_mode}

    def do_servo_j(self, message: Message) -> Message:
        target = _joints(message, "jointPosition")
        if self._ignores_servo():
            return {}
        self._require_servo()
        if _flag(message, "relFlag"):
            target = target + self._queue.tail()
        self._push(message, target)
        return {}

    def do_servo_p(self, message: Message) -> Message:
        if self._ignores_servo():
            return {}
        self._require_servo()
        tail = self._queue.tail()
        self._push(message, self._joints_at(self._pose(message, "catPosition", tail), tail))  # the vendor's spelling
        return {}

    def _ignores_servo(self) -> bool:
        if self._servo_mode or self.config.outside_servo == "refuse":
            return False
        self.servo_log.counters.lost += 1
        return True

    def _require_servo(self) -> None:
        self._require_ready()
        if not self._servo_mode:
            raise CommandRefused("robot is not in servo mode")

    def _push(self, message: Message, target_rad: FloatArray) -> None:
        steps = message.get("stepNum", 1)
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"stepNum must be a whole number of 1 to {MAX_STEPS}, got {steps!r}")
        self._on_soft_limit = not self.limits.contains(target_rad)
        if self._on_soft_limit:
            raise CommandRefused(f"soft limit: {_outside(target_rad, self.limits)}")
        counters = self.servo_log.counters
        if self._faults.lose_servo_frames > 0:
            self._faults.lose_servo_frames -= 1
            counters.lost += 1
            return
        result = self._queue.push(target_rad, steps)
        if result is Push.FULL:
            raise CommandRefused(f"servo queue is full ({self.config.servo_depth} periods)")
        if result is Push.INEFFECTIVE:
            counters.ineffective += 1
        elif result is Push.DROPPED:
            counters.lost += 1
        else:
            counters.queued += 1

    def do_set_servo_move_filter(self, message: Message) -> Message:
        if self._servo_mode:
            raise CommandRefused("the servo filter can only be set outside servo mode")
        kind = message["filter_type"]
        needed = {
            0: (),
            1: ("lpf_cf",),
            2: ("nlf_max_vr", "nlf_max_ar", "nlf_max_jr"),
            3: ("mmf_max_buf", "mmf_kp", "mmf_kv", "mmf_ka"),
            4: ("nlf_max_vr", "nlf_max_ar", "nlf_max_jr", "nlf_max_vp", "nlf_max_ap", "nlf_max_jp"),
            5: ("mmf_max_buf", "mmf_kp"),
        }
        if kind not in needed:
            raise CommandRefused(f"filter_type must be one of {sorted(needed)}, got {kind!r}")
        values = {name: _number(message, name) for name in needed[kind]}
        # The other types are accepted and remembered, and filter nothing.
        self._filter = None
        if kind == 2 and self.config.filter_acts:
            self._filter = NonlinearFilter(FilterLimits(*(deg_to_rad(values[name]) for name in needed[2])))
            self._filter.begin(self._commanded_rad)
        self._settings["set_servo_move_filter"] = {"filter_type": kind, **values}
        return {}

    # ---- readings ----

    def do_get_joint_pos(self, message: Message) -> Message:
        return {"joint_pos": joints_to_deg(self._measured_rad)}

    def do_get_tcp_pos(self, message: Message) -> Message:
        return {"tcp_pos": pose_to_wire(self.kinematics.forward(self._measured_rad))}

    def do_kine_forward(self, message: Message) -> Message:
        return {"cartPosition": pose_to_wire(self.kinematics.forward(_joints(message, "jointPosition")))}

    def do_kine_inverse(self, message: Message) -> Message:
        reference = _joints(message, "jointPosition")
        try:
            found = self.kinematics.inverse(pose_from_wire(message["cartPosition"]), reference, self.limits)
        except KinematicsError as error:
            raise CommandRefused("call kine_inverse failed") from error
        return {"jointPosition": joints_to_deg(found)}

    def do_get_dh_param(self, message: Message) -> Message:
        return {
            "alpha": [rad_to_deg(v) for v in self._dh.alpha_rad],
            "a": [m_to_mm(v) for v in self._dh.a_m],
            "d": [m_to_mm(v) for v in self._dh.d_m],
            "joint_homeoff": [rad_to_deg(v) for v in self._dh.home_offset_rad],
        }

    # ---- settings ----

    def do_set_digital_output(self, message: Message) -> Message:
        kind, index, value = message["type"], message["index"], _flag(message, "value")
        outputs = {0: self._cabinet_outputs, 1: self._tool_outputs}.get(kind)
        if outputs is None:
            raise CommandRefused(f"no digital outputs of type {kind!r} (0 cabinet, 1 tool)")
        if not isinstance(index, int) or not 0 <= index < len(outputs):
            raise CommandRefused(f"digital output index must lie in 0 to {len(outputs) - 1}, got {index!r}")
        self._set_output(kind, index, value)
        return {}

    def _set_output(self, kind: int, index: int, value: bool) -> None:
        if kind == 0:
            self._cabinet_outputs[index] = int(value)
            return
        self._tool_outputs[index] = int(value)
        self._output_changes.append((index, value))

    def do_set_payload(self, message: Message) -> Message:
        mass_kg, centroid = _number(message, "mass"), message["centroid"]
        if mass_kg < 0 or len(centroid) != 3:
            raise CommandRefused(f"mass must be 0 or more and centroid 3 numbers, got {mass_kg} and {centroid!r}")
        self._settings["set_payload"] = {"mass": mass_kg, "centroid": [float(v) for v in centroid]}
        return {}

    def do_get_payload(self, message: Message) -> Message:
        return dict(self._settings.get("set_payload", {"mass": 0.0, "centroid": [0.0, 0.0, 0.0]}))

    def do_set_clsn_sensitivity(self, message: Message) -> Message:
        level = message["sensitivityVal"]
        if level not in range(6):
            raise CommandRefused(f"sensitivityVal must lie in 0 to 5, got {level!r}")
        self._collision_sensitivity = level
        self._settings["set_clsn_sensitivity"] = {"sensitivityVal": level}
        return {}

    def do_get_clsn_sensitivity(self, message: Message) -> Message:
        return {"sensitivityVal": self._collision_sensitivity}

    def do_set_network_exception_handle(self, message: Message) -> Message:
        limit_ms, action = _number(message, "timeLimit"), message["motType"]
        if limit_ms < 0 or action not in (0, 1, 2):
            raise CommandRefused(f"timeLimit must be 0 or more and motType 0 to 2, got {limit_ms} and {action!r}")
        self._settings["set_network_exception_handle"] = {"timeLimit": limit_ms, "motType": action}
        return {}


def _joints(message: Message, key: str) -> FloatArray:
    values = message[key]
    if not isinstance(values, list) or len(values) != JOINTS:
        raise ValueError(f"{key} must be {JOINTS} numbers, got {values!r}")
    q = joints_to_rad(values)
    if not np.isfinite(q).all():
        raise ValueError(f"{key} must be finite, got {values!r}")
    return q


def _number(message: Message, key: str) -> float:
    value = message[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{key} must be a number, got {value!r}")
    return float(value)


def _flag(message: Message, key: str) -> bool:
    value = message[key]
    if value not in (0, 1):
        raise ValueError(f"{key} must be 0 or 1, got {value!r}")
    return bool(value)


def _outside(q_rad: FloatArray, limits: JointLimits) -> str:
    return ", ".join(
        f"joint {i} at {rad_to_deg(float(q)):.2f} deg"
        for i, (q, lower, upper) in enumerate(zip(q_rad, limits.lower_rad, limits.upper_rad, strict=True), start=1)
        if not lower <= q <= upper
    )
