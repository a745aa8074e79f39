"""Supervision of the stream of servo commands: does it arrive, is it accepted, does it have effect, and how late.

Pure bookkeeping, without sockets and clocks. The first sign of trouble is a concern (the motion is to be brought to
rest while that is still possible), the second a fault. Four things are looked at:

- replies: commands without one yet;
- refusals within a window;
- lag: for how long the command after the one that the controller carries out now has been waiting. It shows commands
  that have no effect, a queue that has filled up, and a controller whose clock is slower than ours;
- distance of the controller's own command from everything that was sent of late.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.jaka.limits import JOINTS, SERVO_PERIOD_S
from lavla_ros.jaka.status import ArmStatus

_PERIOD_NS = round(SERVO_PERIOD_S * 1e9)
_REMEMBERED = 128
"""Commands that a status is compared with: one second."""
_SUSTAINED_NS = 100_000_000
"""A lag counts if every status of this time shows it: one of them may be late because this machine was."""
_SAME_RAD = 1e-4
"""Commanded positions come back with the digits of the wire, and smoothed by the servo filter."""
_MEASURED_SAME_RAD = 0.02
"""The arm itself may stand this far off its command without being late."""
_AT_REST_CYCLES = 3
_DRAIN_ABOVE_PERIODS = 5.0
FLOODED_READS = 5
"""After this many cycles in a row in which more arrived than is read: a concern; after five times as many: a fault."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the stream looks like now."""

    concern: str | None = None
    fault: str | None = None


class StreamWatch:
    """One servo session at a time, from :meth:`begin` on. Times in ns of the monotonic clock."""

    def __init__(self, config: JakaDriverConfig) -> None:
        self._config = config
        self._positions = np.zeros((_REMEMBERED, JOINTS))
        self._sent_ns = np.zeros(_REMEMBERED, dtype=np.int64)
        self._count = 0
        self._still_cycles = 0
        self._refusals: deque[int] = deque()
        self._lags: deque[tuple[int, float]] = deque()
        self._off_path_since_ns: int | None = None
        self._newest_status_ns = 0
        self._answered_ns = 0
        self._unanswered = 0
        self._measured_only = False
        self.lag_s = 0.0
        """Smallest lag in the last 0.1 s."""
        self.off_path_rad = 0.0
        """Distance of the controller's commanded position from the nearest recent command."""
        self.queue_periods = 0.0
        """Commands that wait in the controller, as far as that can be told."""
        self.withheld = 0
        """Commands at rest that were not sent, so that the controller's queue runs empty."""

    def begin(self, position_rad: NDArray[np.float64], now_ns: int) -> None:
        """A servo session starts at a position (6,), rad."""
        self._count = 0
        self._refusals.clear()
        self._lags.clear()
        self._off_path_since_ns = None
        self._newest_status_ns = self._answered_ns = now_ns
        self._unanswered = 0
        self.lag_s = self.off_path_rad = self.queue_periods = 0.0
        self._remember(position_rad, now_ns)
        self._still_cycles = 0

    def command(self, position_rad: NDArray[np.float64], now_ns: int) -> bool:
        """Note the command of this cycle; returns whether it should be sent.

        At rest, commands repeat one position. While others wait in the controller every second of them is left out:
        its queue gets shorter and later motion is on time. Where nothing is answered any more, none is sent.
        """
        at_rest = self._still_cycles >= _AT_REST_CYCLES
        self._remember(position_rad, now_ns)
        if self._still_cycles == 0 or not at_rest:
            return True
        late = self.queue_periods > _DRAIN_ABOVE_PERIODS and self._count % 2 == 0
        if late or self._unanswered >= self._config.unanswered_fault:
            self.withheld += 1
            return False
        return True

    @property
    def still_cycles(self) -> int:
        """Cycles since the command last changed."""
        return self._still_cycles

    def replies(self, accepted: int, refused: int, unanswered: int, now_ns: int) -> None:
        """Replies that have arrived since the last call, and how many commands still have none."""
        elapsed = (now_ns - self._answered_ns) / _PERIOD_NS
        self._answered_ns = now_ns
        # What arrives at once was held up on its way, and is carried out one after the other.
        self.queue_periods = max(0.0, self.queue_periods - elapsed) + accepted
        self._unanswered = unanswered
        self._refusals.extend([now_ns] * refused)
        while self._refusals and now_ns - self._refusals[0] > self._config.window_s * 1e9:
            self._refusals.popleft()

    def status(self, status: ArmStatus) -> None:
        """Compare a status with what was sent. Does nothing for one that was seen already."""
        at_ns = status.received_monotonic_ns
        if at_ns <= self._newest_status_ns:
            return
        self._newest_status_ns = at_ns
        commanded = status.commanded_rad
        filled = min(self._count, _REMEMBERED)
        order = np.arange(self._count - filled, self._count) % _REMEMBERED
        times = self._sent_ns[order]
        known = int(np.searchsorted(times, at_ns, side="right"))
        if known == 0:
            return
        path = self._positions[order[:known]]
        reference = status.position_rad if commanded is None else commanded
        distances = np.abs(path - reference).max(axis=1)
        nearest = float(distances.min())
        same_rad = _MEASURED_SAME_RAD if commanded is None else _SAME_RAD
        match = int(np.flatnonzero(distances <= nearest + same_rad)[-1])
        lag_ns = int(at_ns - times[match + 1]) if match + 1 < known else 0
        self._lags.append((at_ns, lag_ns * 1e-9))
        while len(self._lags) > 2 and at_ns - self._lags[1][0] >= _SUSTAINED_NS:
            self._lags.popleft()
        covered = len(self._lags) > 1 and at_ns - self._lags[0][0] >= _SUSTAINED_NS
        self.lag_s = min(lag for _, lag in self._lags) if covered else 0.0
        self._measured_only = commanded is None
        if commanded is None:
            return
        if covered and np.abs(path[-1] - path[-min(known, 6)]).max() > 2 * _SAME_RAD:
            # Only while the command moves: at rest every waiting command looks like the one carried out.
            longest_s = max(lag for _, lag in self._lags)
            self.queue_periods = min(max(self.queue_periods, self.lag_s / SERVO_PERIOD_S), longest_s / SERVO_PERIOD_S)
        self.off_path_rad = nearest
        if nearest <= self._config.path_error_rad:
            self._off_path_since_ns = None
        elif self._off_path_since_ns is None:
            self._off_path_since_ns = at_ns

    def judge(self, now_ns: int, flooded_reads: int, refusal: str) -> Verdict:
        """``flooded_reads``: cycles in a row that left something unread; ``refusal``: the newest refusal's text."""
        signs = (
            self._judge_replies(),
            self._judge_refusals(refusal),
            self._judge_lag(now_ns),
            self._judge_flood(flooded_reads),
        )
        fault = next((s.fault for s in signs if s.fault is not None), None)
        return Verdict(next((s.concern for s in signs if s.concern is not None), fault), fault)

    def _judge_replies(self) -> Verdict:
        text = f"{self._unanswered} servo commands are unanswered"
        if self._unanswered >= self._config.unanswered_fault:
            return Verdict(fault=text + "; check the cable and the load of the network")
        return Verdict(concern=text if self._unanswered >= self._config.unanswered_concern else None)

    def _judge_refusals(self, refusal: str) -> Verdict:
        count = len(self._refusals)
        if count >= self._config.refused_fault:
            return Verdict(fault=f"the controller refused {count} servo commands: {refusal}")
        return Verdict(concern=f"the controller refused a servo command: {refusal}" if count else None)

    def _judge_lag(self, now_ns: int) -> Verdict:
        c = self._config
        if self._off_path_since_ns is not None:
            text = (
                f"servo commands have no effect: the controller's own command is {self.off_path_rad:.3f} rad from "
                "everything sent in the last second"
            )
            # After a gap in the commands the servo filter overshoots and comes back.
            lasting = self._newest_status_ns - self._off_path_since_ns > 2.0 * c.lag_fault_s * 1e9
            return Verdict(concern=text, fault=text if lasting else None)
        factor = c.measured_lag_factor if self._measured_only else 1.0
        text = f"the arm is {self.lag_s:.2f} s behind its commands: they have no effect, or wait in a queue"
        if self.lag_s > c.lag_fault_s * factor:
            return Verdict(fault=text)
        if self.lag_s > c.lag_concern_s * factor:
            return Verdict(concern=text)
        if self.queue_periods * SERVO_PERIOD_S > c.lag_concern_s:
            return Verdict(concern=f"{self.queue_periods:.0f} servo commands wait in the controller's queue")
        return Verdict()

    def _judge_flood(self, flooded_reads: int) -> Verdict:
        text = "the controller sends more than is read"
        if flooded_reads >= 5 * FLOODED_READS:
            return Verdict(fault=text + "; is that the command port of a JAKA controller?")
        return Verdict(concern=text if flooded_reads >= FLOODED_READS else None)

    def _remember(self, position_rad: NDArray[np.float64], now_ns: int) -> None:
        row = self._count % _REMEMBERED
        previous = self._positions[(self._count - 1) % _REMEMBERED]
        self._still_cycles = self._still_cycles + 1 if self._count and np.array_equal(previous, position_rad) else 0
        self._positions[row] = position_rad
        self._sent_ns[row] = now_ns
        self._count += 1
