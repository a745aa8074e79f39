"""The supervision of the stream of servo commands, against a controller made of a queue: exact, without sockets."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.jaka.status import ArmStatus, parse_status
from lavla_ros.jaka.stream import StreamWatch, Verdict

CONFIG = JakaDriverConfig(host="10.5.5.100")
PERIOD_NS = 8_000_000
T0 = 10**12


def status_at(now_ns: int, commanded: np.ndarray, *, reported: bool = True) -> ArmStatus:
    status = parse_status({"joint_actual_position": [0.0] * 6}, now_ns, now_ns)
    return replace(status, position_rad=commanded, commanded_rad=commanded if reported else None)


class Bench:
    """A watch and a controller that plays one queued command a period; time in periods of 8 ms."""

    def __init__(self, config: JakaDriverConfig = CONFIG, *, reported: bool = True, status_every: int = 1) -> None:
        self.watch = StreamWatch(config)
        self.reported, self.status_every = reported, status_every
        self.target, self.now_ns = np.zeros(6), T0
        self.queue: deque[np.ndarray] = deque()
        self.on_its_way: deque[np.ndarray] = deque()
        self.played = np.zeros(6)
        self.path_open = self.effective = True
        self.refusing = False
        self.play_per_cycle, self._due = 1.0, 0.0
        self.verdict = Verdict()
        self.unanswered = 0
        self._cycles = 0
        self.watch.begin(self.played, self.now_ns)

    def run(self, cycles: int, speed_rad_s: float = 0.0) -> list[Verdict]:
        return [self.cycle(speed_rad_s) for _ in range(cycles)]

    def cycle(self, speed_rad_s: float) -> Verdict:
        self.now_ns += PERIOD_NS
        self._cycles += 1
        accepted = refused = 0
        while self.path_open and self.on_its_way:
            position = self.on_its_way.popleft()
            self.unanswered -= 1
            if self.refusing:
                refused += 1
                continue
            accepted += 1
            if self.effective:
                self.queue.append(position)
        self._due += self.play_per_cycle
        while self._due >= 1.0:
            self._due -= 1.0
            if self.queue:
                self.played = self.queue.popleft()
        if self._cycles % self.status_every == 0:
            self.watch.status(status_at(self.now_ns, self.played, reported=self.reported))
        self.watch.replies(accepted, refused, self.unanswered, self.now_ns)
        self.verdict = self.watch.judge(self.now_ns, 0, "queue full")
        self.target = self.target + speed_rad_s * 0.008
        if self.watch.command(self.target, self.now_ns):
            self.on_its_way.append(self.target)
            self.unanswered += 1
        return self.verdict


def first(verdicts: list[Verdict], what: str) -> int:
    """Cycle of the first concern or fault."""
    return next(i for i, v in enumerate(verdicts, start=1) if getattr(v, what) is not None)


@pytest.mark.parametrize(("reported", "status_every"), [(True, 1), (True, 12), (False, 1), (False, 12)])
def test_a_stream_that_is_well_raises_nothing(reported: bool, status_every: int) -> None:
    bench = Bench(reported=reported, status_every=status_every)
    verdicts = bench.run(200, 1.5) + bench.run(50) + bench.run(200, -0.3) + bench.run(100, 0.01)
    assert set(verdicts) == {Verdict()}
    assert bench.watch.withheld == 0
    assert bench.watch.lag_s < 0.03


@pytest.mark.parametrize("speed", [0.0, 0.05, 1.0])
def test_a_half_open_path_is_noticed_at_any_speed(speed: float) -> None:
    bench = Bench()
    bench.run(50, speed)
    bench.path_open = False
    verdicts = bench.run(40, speed)
    assert first(verdicts, "concern") <= 8
    assert first(verdicts, "fault") <= 26


def test_one_refusal_is_a_concern_several_are_a_fault_and_both_pass() -> None:
    bench = Bench()
    bench.run(10, 0.1)
    bench.refusing = True
    bench.run(2, 0.1)
    bench.refusing = False
    assert bench.run(1, 0.1)[0].concern == "the controller refused a servo command: queue full"
    assert bench.verdict.fault is None
    assert bench.run(130, 0.0)[-1] == Verdict(), "a refusal is forgotten after a second"
    bench.refusing = True
    verdicts = bench.run(4, 0.1)
    assert first(verdicts, "concern") <= 2
    assert "refused 3 servo commands" in str(verdicts[2].fault)


@pytest.mark.parametrize(("speed", "reported"), [(0.8, True), (0.1, True), (0.8, False)])
def test_commands_without_effect_are_noticed(speed: float, reported: bool) -> None:
    bench = Bench(reported=reported)
    bench.run(60, speed)
    bench.effective = False
    verdicts = bench.run(150, speed)
    factor = 1 if reported else CONFIG.measured_lag_factor
    assert first(verdicts, "concern") * 0.008 <= factor * CONFIG.lag_concern_s + 0.15
    assert first(verdicts, "fault") * 0.008 <= factor * CONFIG.lag_fault_s + 0.15
    if reported:
        # At rest again, and long after: the controller stands elsewhere, and that is still said.
        assert "no effect" in str(bench.run(300)[-1].fault)


@pytest.mark.parametrize("pause", [15, 20])
def test_a_backlog_is_a_concern_until_it_is_worked_off_at_rest(pause: int) -> None:
    bench = Bench()
    bench.run(60, 0.5)
    bench.path_open = False
    bench.run(pause, 0.5)
    bench.path_open = True
    bench.run(2, 0.5)
    assert len(bench.queue) > 10
    assert bench.verdict.concern is not None
    assert bench.verdict.fault is None
    verdicts = bench.run(100)
    assert len(bench.queue) <= 6, "every second command was left out at rest"
    assert bench.watch.withheld >= pause - 7
    assert verdicts[-1] == Verdict()
    assert bench.run(100, 0.5)[-1] == Verdict(), "motion is on time again"


def test_a_slower_clock_is_a_concern_before_commands_are_late_for_long() -> None:
    bench = Bench()
    bench.play_per_cycle = 0.99
    verdicts = bench.run(6000, 0.02)
    assert 0.08 < first(verdicts, "concern") * 0.008 * 0.01 < 0.13
    assert first(verdicts, "fault") > first(verdicts, "concern")
    bench.run(400)
    assert len(bench.queue) <= 12
    assert bench.verdict == Verdict()


def test_a_pause_of_ours_is_no_lag_of_the_controller() -> None:
    bench = Bench()
    bench.run(60, 0.5)
    for _ in range(20):
        bench.run(3, 0.5)
        # Nothing was sent for 0.3 s: the command after the one it carries out was not waiting.
        for _ in range(37):
            bench.now_ns += PERIOD_NS
            if bench.queue:
                bench.played = bench.queue.popleft()
            bench.watch.status(status_at(bench.now_ns, bench.played))
        assert bench.run(1, 0.5)[0].fault is None
    assert bench.run(60, 0.5)[-1] == Verdict()


@settings(max_examples=60, deadline=None)
@given(
    speeds=st.lists(st.tuples(st.integers(1, 40), st.floats(-1.5, 1.5)), min_size=1, max_size=12),
    status_every=st.sampled_from([1, 2, 12]),
    reported=st.booleans(),
)
def test_no_motion_alone_raises_anything(speeds: list[tuple[int, float]], status_every: int, reported: bool) -> None:
    bench = Bench(reported=reported, status_every=status_every)
    for cycles, speed in speeds:
        assert set(bench.run(cycles, speed)) == {Verdict()}
    assert bench.watch.withheld == 0
