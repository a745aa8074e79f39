"""Whether the arm is fit to be commanded: checks of the measured state, every tick."""

from __future__ import annotations

from math import isfinite

from lavla_ros.control.arm import ArmState
from lavla_ros.control.config import ExecutorConfig


class HealthMonitor:
    """Remembers how long the tracking error has been excessive, and how far apart arm and command are known to be."""

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self._timeout_ns = round(config.state_timeout_s * 1e9)
        self._future_ns = round(config.max_future_s * 1e9)
        self._apart_ticks = 0
        self._known: list[float] = [0.0] * len(config.joint_names)

    def reset(self) -> None:
        """Start counting again, with the arm at its command (a new activation, a resumption)."""
        self._apart_ticks = 0
        self._known = [0.0] * len(self._known)

    def accept(self, position: list[float], commanded_rad: list[float]) -> None:
        """The arm stands apart from its command, and a person knows it: supervise that it stays as far apart."""
        self._apart_ticks = 0
        self._known = [p - c for p, c in zip(position, commanded_rad, strict=True)]

    def cause(self, state: ArmState, position: list[float], now_ns: int) -> str | None:
        """Why the arm would not follow commands now, or None. ``position``: the state's, as floats."""
        if len(position) != len(self._config.joint_names):
            return f"measured state has {len(position)} joints, expected {len(self._config.joint_names)}"
        for value, name in zip(position, self._config.joint_names, strict=True):
            if not isfinite(value):
                return f"measured position of {name} is {value}"
        age_ns = now_ns - state.stamp_ns
        if age_ns > self._timeout_ns:
            return f"measured state is {age_ns / 1e9:.3f} s old; allowed {self._config.state_timeout_s} s"
        if age_ns < -self._future_ns:
            return f"measured state is stamped {-age_ns / 1e9:.3f} s in the future: the clocks differ"
        if state.fault is not None:
            return f"driver: {state.fault}"
        if not state.enabled:
            return "the arm is not enabled"
        if not state.servo_mode:
            return "the controller is not in servo mode"
        return None

    def tracking_error(self, position: list[float], commanded_rad: list[float]) -> str | None:
        """The fault, once measured and commanded position have been apart for too many ticks."""
        apart, worst = 0.0, 0
        for i, (measured, wanted, known) in enumerate(zip(position, commanded_rad, self._known, strict=True)):
            if not abs(measured - wanted - known) <= apart:
                apart, worst = abs(measured - wanted - known), i
        if apart <= self._config.tracking_error_rad:
            self._apart_ticks = 0
            return None
        self._apart_ticks += 1
        if self._apart_ticks < self._config.tracking_error_ticks:
            return None
        return (
            f"{self._config.joint_names[worst]} is {apart:.3f} rad from its command; allowed "
            f"{self._config.tracking_error_rad} rad"
        )
