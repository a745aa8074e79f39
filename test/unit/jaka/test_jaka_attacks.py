"""What can happen to the stream of servo commands, over real sockets: noticed in time, and the arm comes to rest.

The rider does what the servo loop does: every 8 ms it reads, a concern or fault ramps the command to rest, and the
command goes out.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from jaka_peers import jaka_driver, wait_until

from lavla_ros.control.arm import DriverError
from lavla_ros.control.stopping import brake_step
from lavla_ros.jaka.client import JakaClient
from lavla_ros.jaka.driver import JakaDriverConfig, JakaTcpDriver, leave_servo_mode
from sim_bridges.jaka_controller.config import ControllerConfig, EmulatorOptions
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

pytestmark = pytest.mark.timed

HOME = (0.0, 0.0, 1.2, 0.0, 1.2, 0.0)
SPEED = 0.8
PERIOD_S = 0.008
RAMP_S = 0.4
"""From one speed to another, smoothly: 3 rad/s² and 25 rad/s³ for 0.8 rad/s."""


@contextmanager
def arm(*, status_rate_hz: float = 125.0, **options: object) -> Iterator[ControllerEmulator]:
    controller = ControllerConfig(power_on_s=0.0, enable_s=0.0, **options)  # type: ignore[arg-type]
    where = EmulatorOptions(port=0, status_port=0, status_rate_hz=status_rate_hz, controller=controller)
    with ControllerEmulator(KinematicPlant(HOME), where, realtime=False) as running:
        yield running
        assert running.failure is None


@contextmanager
def driver_of(emulator: ControllerEmulator, **changes: object) -> Iterator[JakaTcpDriver]:
    settings: dict[str, object] = {
        "host": "127.0.0.1",
        "port": emulator.port,
        "status_port": emulator.status_port,
        "power_on": True,
        "reply_timeout_s": 0.5,
        "connect_timeout_s": 1.5,
        "status_timeout_s": 0.4,
        **changes,
    }
    driver = jaka_driver(JakaDriverConfig(**settings))  # type: ignore[arg-type]
    try:
        yield driver
    finally:
        driver.close()


class Rider:
    """Moves joint 1 at a speed; at the first sign of trouble down to rest, as an executor does."""

    def __init__(self, driver: JakaTcpDriver) -> None:
        self.driver = driver
        self.position = driver.read().position_rad.copy()
        self.velocity = self.acceleration = 0.0
        self.concern: str | None = None
        self.fault: str | None = None
        self.concern_s = self.fault_s = float("inf")
        self.cycles = self.late_cycles = 0

    def ride(
        self,
        seconds: float,
        speed: float = SPEED,
        *,
        stop: bool = True,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        """``stop``: a concern or fault brakes, for good. Time is counted in cycles: while this machine has no core for
        them nothing can be noticed."""
        at = time.monotonic()
        first, elapsed, begun = self.velocity, 0.0, self.cycles
        while (ridden_s := (self.cycles - begun) * PERIOD_S) < seconds and not until():
            state = self.driver.read()
            if state.concern is not None and self.concern is None:
                self.concern, self.concern_s = state.concern, ridden_s
            if state.fault is not None and self.fault is None:
                self.fault, self.fault_s = state.fault, ridden_s
            q = float(self.position[0])
            if stop and (self.concern or self.fault):
                q, self.velocity, self.acceleration = brake_step(
                    q, self.velocity, self.acceleration, 5.0, 50.0, PERIOD_S
                )
            else:
                elapsed = min(elapsed + PERIOD_S, RAMP_S)
                phase = math.pi * elapsed / RAMP_S
                self.velocity = first + 0.5 * (speed - first) * (1.0 - math.cos(phase))
                self.acceleration = 0.5 * (speed - first) * math.pi / RAMP_S * math.sin(phase)
                q += self.velocity * PERIOD_S
            self.position = self.position.copy()
            self.position[0] = q
            self.driver.command(self.position)
            self.cycles += 1
            # Late cycles are left out, never made up for in a burst.
            self.late_cycles += time.monotonic() > at + 1.5 * PERIOD_S
            at = max(at + PERIOD_S, time.monotonic() - 0.5 * PERIOD_S)
            time.sleep(max(0.0, at - time.monotonic()))


@contextmanager
def moving(speed: float = SPEED, seconds: float = 0.5, **options: object) -> Iterator[tuple[ControllerEmulator, Rider]]:
    with arm(**options) as emulator, driver_of(emulator) as driver:
        driver.connect()
        driver.enter_servo()
        rider = Rider(driver)
        rider.ride(seconds, speed)
        assert rider.fault is None
        rider.concern, rider.concern_s = None, float("inf")
        yield emulator, rider


# ---- commands that do not arrive, are not accepted, or have no effect ----


def test_refusals_of_24_ms_are_a_concern_and_leave_no_jump() -> None:
    with moving() as (emulator, rider):
        before = emulator.servo_log.counters.refused
        emulator.faults.reject = ("servo_j",)
        rider.ride(0.2, until=lambda: emulator.servo_log.counters.refused > before)
        emulator.faults.reject = ()
        rider.ride(1.0)
        assert "refused" in str(rider.concern)
        assert rider.concern_s < 0.1
        counters = emulator.servo_log.counters
        assert counters.ineffective == 0, "the next target got the time of the refused ones"
        assert abs(emulator.snapshot.commanded_rad[0] - rider.position[0]) < 1e-6
        assert rider.velocity == 0.0


def test_refusals_of_60_ms_are_a_fault() -> None:
    with moving() as (emulator, rider):
        emulator.faults.reject = ("servo_j",)
        rider.ride(0.3, until=lambda: rider.fault is not None)
        emulator.faults.reject = ()
        assert "refused" in str(rider.fault)
        assert rider.fault_s < 0.1
        rider.ride(0.8)
        assert emulator.servo_log.counters.ineffective == 0
        assert abs(emulator.snapshot.commanded_rad[0] - rider.position[0]) < 1e-6


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_lost_commands_never_go_on_unnoticed(lost: int) -> None:
    with moving() as (emulator, rider):
        emulator.faults.lose_servo_frames = lost
        rider.ride(1.2)
        ineffective = emulator.servo_log.counters.ineffective
        if ineffective == 0:
            assert rider.fault is None, "the controller caught up, rounded off by its filter"
        else:
            assert rider.fault is not None
            assert "no effect" in rider.fault
            assert rider.concern_s < 0.5


@pytest.mark.parametrize(("pause_s", "fault"), [(0.15, False), (0.28, True), (1.0, True)])
def test_a_paused_command_path(pause_s: float, fault: bool) -> None:
    with moving() as (emulator, rider):
        emulator.faults.pause_commands_s = pause_s
        rider.ride(pause_s + 1.1)
        assert rider.concern_s < 0.2
        assert "unanswered" in str(rider.concern)
        if fault:
            assert rider.fault_s < 0.35
            assert "unanswered" in str(rider.fault)
        # The way to rest came through, or the controller stopped by itself after 0.2 s of silence; in either case
        # nothing is left that could move the arm later.
        where = emulator.snapshot.commanded_rad[0]
        assert pause_s > 0.2 or abs(where - rider.position[0]) < 1e-6
        assert emulator.snapshot.servo_mode is (pause_s < 0.2)
        assert emulator.servo_log.counters.ineffective == 0
        rider.ride(0.2)
        assert emulator.snapshot.commanded_rad[0] == where
        if rider.fault is None:
            assert rider.driver.read().concern is None, "worked off at rest"
            rider.concern = None
            rider.ride(0.6)
            assert rider.concern is None, "motion is on time again"


@pytest.mark.parametrize("speed", [0.05, SPEED])
def test_a_half_open_connection_is_noticed_also_when_slow(speed: float) -> None:
    with moving(speed) as (emulator, rider):
        emulator.faults.swallow_commands = True
        rider.ride(0.8, speed)
        assert rider.concern_s < 0.2
        assert rider.fault_s < 0.4
        sent = rider.driver.counters.posted["servo_j"]
        rider.ride(0.4)
        rider.ride(0.2)
        assert rider.driver.counters.posted["servo_j"] - sent < 60, "at rest nothing more is piled up"
        emulator.faults.swallow_commands = False


def test_a_flood_stops_no_cycle_and_is_a_fault() -> None:
    with moving() as (emulator, rider):
        cycles, posted = rider.cycles, rider.driver.counters.posted["servo_j"]
        emulator.faults.flood = True
        rider.ride(1.0, until=lambda: rider.fault is not None and rider.velocity == 0.0)
        emulator.faults.flood = False
        assert rider.fault is not None
        assert rider.fault_s < 0.5
        assert rider.driver.report()["wire_full_reads"] > 0, "what the diagnostics show"
        assert rider.driver.counters.posted["servo_j"] - posted >= 0.95 * (rider.cycles - cycles)


@pytest.mark.parametrize("garble", ["malformed", "oversized"])
def test_the_ramp_is_sent_after_a_reply_that_is_none(garble: str) -> None:
    with moving() as (emulator, rider):
        emulator.faults.update({"garble": garble})
        rider.ride(1.2, until=lambda: not emulator.snapshot.servo_mode)
        assert "connection lost in servo mode" in str(rider.fault)
        assert rider.fault_s < 0.15
        assert rider.velocity == 0.0
        assert abs(emulator.snapshot.commanded_rad[0] - rider.position[0]) < 1e-6, "all of the ramp arrived"
        assert not emulator.snapshot.servo_mode, "left at rest, over the same connection"
        received = emulator.servo_log.counters.received
        rider.ride(0.1)
        assert emulator.servo_log.counters.received == received, "and then it was closed"
        assert emulator.servo_log.counters.ineffective == 0


def test_a_truncated_reply_with_which_the_controller_hangs_up() -> None:
    with moving() as (emulator, rider):
        emulator.faults.garble = "truncated"
        rider.ride(0.5)
        assert "in the middle of a message" in str(rider.fault)
        rider.driver.exit_servo()
        assert not emulator.snapshot.servo_mode


def test_servo_mode_that_is_lost_without_a_word() -> None:
    for options in ({}, {"outside_servo": "ignore"}):
        with moving(**options) as (emulator, rider):
            emulator.faults.servo_mode_lost = True
            rider.ride(1.0, until=lambda: rider.fault is not None)
            assert rider.fault is not None, options
            assert rider.fault_s < 0.6


def test_a_clock_that_is_slower_is_noticed_and_made_up_for_at_rest() -> None:
    for _ in range(4):
        with moving(clock_drift=0.08, seconds=0.2) as (emulator, rider):
            rider.ride(4.0, 0.1, until=lambda r=rider: r.concern is not None)
            concern_s = rider.concern_s
            rider.ride(0.8)
            if emulator.servo_log.counters.late_cycles or rider.late_cycles > 5:
                continue  # not only the controller's clock was slow: this machine was
            assert concern_s > 0.4
            assert rider.fault is None
            assert rider.driver.read().concern is None
            assert rider.driver.report()["wire_withheld_at_rest"] > 3
            return
    pytest.skip("this machine missed cycles in four tries: whose clock was slow cannot be told")


def test_an_old_firmware_still_stops_at_an_emergency_stop() -> None:
    with moving(reports_safety=False, reports_commanded=False, reports_modes=False) as (emulator, rider):
        emulator.faults.emergency_stop = True
        rider.ride(0.5)
        assert rider.fault_s < 0.2


# ---- who may have the arm ----


def test_a_second_client_is_refused_and_the_first_goes_on() -> None:
    with moving() as (emulator, rider), driver_of(emulator) as second:
        with pytest.raises(DriverError, match=rf"commanded by process {os.getpid()}: "):
            second.connect()
        # As from another machine, where the lock is not known: the status tells.
        second._lock.acquire = lambda timeout_s=0.0: None  # type: ignore[method-assign]
        rider.ride(0.1, until=lambda: False)
        replaced = emulator._commands.replaced_clients  # type: ignore[union-attr]
        result: list[str] = []

        def connect() -> None:
            try:
                second.connect()
            except DriverError as error:
                result.append(str(error))

        thread = threading.Thread(target=connect)
        thread.start()
        rider.ride(2.0, until=lambda: not thread.is_alive())
        thread.join()
        assert "the arm moves" in result[0]
        assert emulator._commands.replaced_clients == replaced  # type: ignore[union-attr]
        assert rider.fault is None


@pytest.mark.parametrize("user", [None, "nobody"])
def test_the_lock_names_its_holder_of_whatever_user_and_goes_with_it(user: str | None) -> None:
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    script = (
        "import encodings.idna, os, pwd, sys, time; from lavla_ros.jaka.lock import ControllerLock\n"
        "lock = ControllerLock('localhost', int(sys.argv[1]))\n"
        "if user := sys.argv[2]: os.setgroups([]); os.setgid(65534); os.setuid(pwd.getpwnam(user).pw_uid)\n"
        "lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    with arm() as emulator, driver_of(emulator) as driver:
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(emulator.port), user or ""], stdout=subprocess.PIPE, env=os.environ
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            whose = f" of user {user}" if user else ""
            with pytest.raises(DriverError, match=rf"commanded by process {holder.pid}{whose}: .*python.*stop that"):
                driver.connect()
        finally:
            holder.kill()
            holder.wait()
        driver.connect()


@pytest.mark.parametrize("modes", [True, False])
def test_an_arm_that_is_moved_by_hand_is_not_commanded(modes: bool) -> None:
    with arm(reports_modes=modes) as emulator, driver_of(emulator) as driver:
        driver.connect()
        emulator.faults.update({"drag": True, "hand_speed_rad_s": 0.3})
        wait_until(lambda: emulator.snapshot.drag)
        time.sleep(0.1)
        with pytest.raises(DriverError, match="drag mode" if modes else "the arm moves|drag"):
            driver.enter_servo()
        assert not emulator.snapshot.servo_mode
        emulator.faults.update({"drag": False, "hand_speed_rad_s": 0.0})
        wait_until(lambda: not driver.read().moving)
        driver.enter_servo()


def test_manual_mode_is_not_ours_unless_we_are_told_so() -> None:
    with arm(modes_refuse=False) as emulator:
        with driver_of(emulator) as driver:
            driver.connect()
            emulator.faults.manual = True
            wait_until(lambda: emulator.snapshot.manual)
            time.sleep(0.1)
            with pytest.raises(DriverError, match=r"manual mode.*accept_manual_mode"):
                driver.enter_servo()
        with driver_of(emulator, accept_manual_mode=True) as driver:
            driver.connect()
            driver.enter_servo()


def test_servo_mode_is_refused_where_the_controllers_own_command_is_elsewhere() -> None:
    with arm() as emulator, driver_of(emulator) as driver:
        driver.connect()
        emulator.faults.measured_offset_rad = 0.1
        wait_until(lambda: abs(emulator.snapshot.measured_rad - emulator.snapshot.commanded_rad).max() > 0.05)
        time.sleep(0.1)
        with pytest.raises(DriverError, match=r"own command is 0\.100 rad from the arm"):
            driver.enter_servo()
        assert not emulator.snapshot.servo_mode


def test_servo_mode_of_a_process_that_is_gone_is_left() -> None:
    with arm() as emulator, driver_of(emulator) as driver:
        config = driver._config
        driver.connect()
        driver.close()
        assert leave_servo_mode(config) is False
        with JakaClient("127.0.0.1", emulator.port, None) as dead:
            dead.servo_move(True)
        assert leave_servo_mode(config) is True
        assert not emulator.snapshot.servo_mode
        driver.connect()
        with pytest.raises(DriverError, match="commanded by process"):
            leave_servo_mode(config, lock_timeout_s=0.0)
    with pytest.raises(DriverError, match="servo mode could not be left"):
        leave_servo_mode(config)


# ---- every kind of controller ----

ORDINARY: dict[str, object] = {}
OLD = {"reports_safety": False, "reports_commanded": False, "reports_modes": False}


@pytest.mark.parametrize(
    "options",
    [
        ORDINARY,
        OLD,
        {"reports_safety": False},
        {"reports_commanded": False},
        {"reports_modes": False, "modes_refuse": False},
        {"without_commands": "coast"},
        {"clock_drift": 0.002},
        {"clock_drift": -0.002},
        {"servo_depth": 20, "servo_lead_periods": 3},
        {"servo_depth": 20, "overflow": "drop_newest", "servo_lead_periods": 0},
        {"servo_depth": 20, "overflow": "drop_oldest"},
        {"outside_servo": "ignore", "filter_acts": False, "network_exception_acts": False},
        {"power_loss_clears_outputs": True, "collision_sensitivity": 3},
        {"status_rate_hz": 10.0},
        {**OLD, "status_rate_hz": 10.0},
    ],
    ids=str,
)
def test_every_controller_is_moved_stopped_and_taken_up_again(options: dict[str, object]) -> None:
    with arm(**options) as emulator, driver_of(emulator) as driver:
        driver.connect()
        driver.enter_servo()
        rider = Rider(driver)
        rider.ride(0.4, 0.5)
        driver.set_gripper(0.0)
        rider.ride(0.5, 0.0, until=lambda: rider.velocity == 0.0)
        rider.ride(1.0, 0.0, until=lambda: abs(emulator.snapshot.measured_rad[0] - rider.position[0]) < 1e-6)
        assert (rider.concern, rider.fault) == (None, None)
        assert abs(emulator.snapshot.measured_rad[0] - rider.position[0]) < 1e-6
        assert emulator.servo_log.counters.ineffective == emulator.servo_log.counters.refused == 0
        wait_until(lambda: driver.read().gripper == 0.0)
        emulator.faults.protective_stop = True
        rider.ride(1.0, 0.0, until=lambda: rider.fault is not None)
        assert rider.fault is not None, "by the status, or by refused commands"
        driver.clear_fault()
        driver.enter_servo()
        assert driver.read().fault is None
        driver.exit_servo()
        assert not emulator.snapshot.servo_mode
