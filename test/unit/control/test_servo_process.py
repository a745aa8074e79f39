"""The servo process, alone and against the controller emulator over TCP. Each starts a real process."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import pairwise

import numpy as np
import pytest
from arms import CONTRACT, HOME, chunk_of, over, ramp

from lavla_ros.config import ConfigError
from lavla_ros.control import servo_process
from lavla_ros.control.executor import ExecutorState
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.servo_link import ServoLink, ServoLinkError
from lavla_ros.jaka.arm import MINICOBO
from sim_bridges.jaka_controller.config import EmulatorOptions
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

pytestmark = pytest.mark.timed

LOOPBACK = {"loopback": True, "arm": {"start_rad": HOME}}


@pytest.fixture
def emulator():
    running = ControllerEmulator(KinematicPlant(HOME), EmulatorOptions(port=0, status_port=0))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def link_to(request):
    """Start a link; it is stopped at the end of the test whatever happens."""
    links = []

    def start(driver, **parameters):
        given = {"contract": "jaka_minicobo", **driver, **parameters}
        link = ServoLink(ServoConfig.from_dict(given, source="the test"))
        links.append(link)
        link.start()
        return link

    yield start
    for link in links:
        link.stop()


def tcp(emulator, **options):
    ports = {"port": emulator.port, "status_port": emulator.status_port}
    return {"arm": {"host": "127.0.0.1", **ports, "power_on": True, **options}}


def sway(link, seconds, amplitude=0.2):
    """Feed chunks of a slow sway and heartbeats at 20 Hz; returns every tick."""
    base = link.snapshot().command_rad
    ticks, begin = [], time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        steps = elapsed + 0.1 * np.arange(1, 21)
        wave = amplitude * (1 - np.cos(1.5 * steps))[:, None]
        link.submit(chunk_of(base + wave, time.time_ns(), gripper=float(elapsed < 0.5)))
        link.heartbeat()
        ticks += link.drain()
        time.sleep(0.05)
    return ticks


def wait_for(link, condition, timeout_s=5.0, *, beat=True):
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if beat:
            link.heartbeat()
        snapshot = link.snapshot()
        if condition(snapshot):
            return snapshot
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s; newest: {link.snapshot()}")


def assert_smooth(ticks):
    """No command jumps: consecutive ones differ by at most the velocity limit (skipped cycles excepted)."""
    steps = [np.abs(b.command_rad - a.command_rad).max() for a, b in pairwise(ticks) if b.tick == a.tick + 1]
    assert max(steps) <= 1.57 * 0.008 + 1e-6


def test_chunks_move_the_emulated_arm(emulator, link_to):
    link = link_to(tcp(emulator))
    ticks = sway(link, 2.0)
    assert {t.state for t in ticks[20:]} == {ExecutorState.TRACKING}
    assert all(ok for t in ticks for _, ok, _ in t.results)
    assert np.abs(ticks[-1].measured_rad - ticks[-1].command_rad).max() < 0.05
    assert np.abs(ticks[-1].measured_rad - HOME).max() > 0.1
    assert [t.tick for t in ticks] == list(range(ticks[0].tick, ticks[0].tick + len(ticks)))
    assert_smooth(ticks)
    assert emulator.snapshot.tool_outputs[0] and ticks[-1].gripper == 0.0
    before = emulator.servo_log.counters.received
    assert link.stop() == 0
    counters = emulator.servo_log.counters
    assert counters.received > before, "the ramp to rest was not sent"
    assert counters.ineffective == 0 and counters.refused == 0
    assert not emulator.snapshot.servo_mode
    assert "SIGTERM" in link.exit_reason


def test_the_arm_rests_before_the_table_of_its_scene(link_to):
    """A chunk leads the tool 10 cm down into it; the process says what was too close, and takes the next chunk."""
    low = over(0.05, table_m=-0.10)
    link = link_to({"loopback": True, "arm": {"start_rad": low.tolist()}}, scene="tabletop")
    wait_for(link, lambda s: s.state is ExecutorState.HOLDING)
    link.submit(chunk_of(ramp(low, over(-0.05, table_m=-0.10) - low, 1.5), time.time_ns()))
    held = wait_for(link, lambda s: "too close" in s.hold_reason)
    assert "table; the margin is 0 mm" in held.hold_reason
    rested = wait_for(link, lambda s: not s.command_velocity_rad_s.any())
    assert rested.counters["stops_before_contact"] == 1
    height = MINICOBO.kinematics.forward(rested.command_rad)[2, 3] - 0.152 + 0.10
    assert -0.002 <= height < 0.015
    link.submit(chunk_of(ramp(rested.command_rad, low - rested.command_rad, 1.5), time.time_ns()))
    wait_for(link, lambda s: s.state is ExecutorState.TRACKING)
    assert_smooth(link.drain())


def test_a_scene_that_does_not_fit_ends_the_process_before_the_arm_is_touched(emulator, link_to):
    with pytest.raises(ServoLinkError, match="no_such_cell"):
        link_to(tcp(emulator), scene="no_such_cell")
    assert not emulator.snapshot.servo_mode


def test_a_silent_ros_side_means_holding_then_fault_then_the_end(emulator, link_to):
    link = link_to(tcp(emulator), heartbeat_hold_s=0.2, heartbeat_fault_s=0.8, orphan_exit_s=1.6)
    sway(link, 1.0)
    held = wait_for(link, lambda s: s.state is ExecutorState.HOLDING, beat=False)
    assert "silent" in held.hold_reason
    fault = wait_for(link, lambda s: s.state is ExecutorState.FAULT, beat=False)
    assert "silent" in fault.fault
    wait_for(link, lambda s: s.exit_reason is not None, beat=False)
    assert "without a heartbeat" in link.exit_reason
    assert not emulator.snapshot.servo_mode
    assert_smooth(link.drain())


def test_a_protective_stop_is_latched_until_acknowledged(emulator, link_to):
    link = link_to(tcp(emulator))
    sway(link, 0.8)
    emulator.faults.protective_stop = True
    snapshot = wait_for(link, lambda s: s.state is ExecutorState.FAULT)
    assert "protective stop" in snapshot.fault
    time.sleep(0.3)
    link.heartbeat()
    assert link.snapshot().state is ExecutorState.FAULT
    assert link.acknowledge(), link.reason
    snapshot = wait_for(link, lambda s: s.fault is None)
    assert "protective stop" in snapshot.held and not snapshot.servo_mode and not emulator.snapshot.servo_mode
    assert snapshot.waiting_for == "resume"
    link.drain()
    ticks = sway(link, 0.5)
    assert np.ptp([t.measured_rad for t in ticks], axis=0).max() == 0.0, "acknowledging is not resuming"
    observed_before_ns = time.time_ns()
    assert link.resume(), link.reason
    snapshot = wait_for(link, lambda s: s.state is ExecutorState.HOLDING)
    assert snapshot.held is None and snapshot.waiting_for == "a chunk"
    assert np.abs(snapshot.command_rad - snapshot.measured_rad).max() < 1e-3
    link.submit(chunk_of([snapshot.command_rad] * 20, observed_before_ns))
    wait_for(link, lambda s: s.counters.get("rejected_old", 0) > 0)
    ticks = sway(link, 0.8)
    assert ticks[-1].state is ExecutorState.TRACKING
    assert emulator.servo_log.counters.ineffective == 0


def test_a_lost_connection_is_a_fault_and_never_reconnects_by_itself(emulator, link_to):
    link = link_to(tcp(emulator))
    sway(link, 0.6)
    emulator.faults.drop_connection = True
    snapshot = wait_for(link, lambda s: s.state is ExecutorState.FAULT)
    assert "connection" in snapshot.fault
    assert link.alive
    link.submit(chunk_of([HOME] * 20, time.time_ns()))
    wait_for(link, lambda s: s.counters.get("rejected_fault", 0) > 0)
    assert link.acknowledge() and link.resume(), link.reason
    assert sway(link, 0.5)[-1].state is ExecutorState.TRACKING


def test_an_unreachable_controller_ends_the_start_with_the_cause(link_to):
    with pytest.raises(ServoLinkError, match=r"127\.0\.0\.1:9"):
        link_to({"arm": {"host": "127.0.0.1", "port": 9, "status_port": 9}})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"driver": "teleport"}, "driver"),
        ({"arm": {"hots": "10.5.5.100"}}, "hots"),
        ({"arm": {"port": 9}}, "host"),
        ({"arm": {"host": "10.5.5.100", "power_on": "yes"}}, "arm: power_on is 'yes'; expected bool"),
        ({"arm": {"host": "10.5.5.100", "start_rad": [0, 0, 0, 0, 0, 0]}}, "start_rad"),
        ({"loopback": True, "arm": {"host": "10.5.5.100"}}, "host"),
        ({"loopback": True, "arm": {"start_rad": [0.0]}}, "start_rad"),
        ({"limits": {"velocity": 1.0}}, "velocity"),
        ({"limits": {"jerk_rad_s3": [1.0]}, "loopback": True}, "jerk_rad_s3"),
        (
            {"arm": {"host": "h"}, "limits": {"velocity_rad_s": 4.0}},
            "is 4.0 for joint 1; expected at most the arm's own 1.57",
        ),
        (
            {"arm": {"host": "h"}, "limits": {"lower_rad": -7.0}},
            "lower_rad is -7.0 for joint 1; expected at least the arm's",
        ),
        ({"executor": {"speed_scale": 7.0}}, "speed_scale"),
        ({"hartbeat_hold_s": 1.0}, "hartbeat_hold_s"),
        ({"heartbeat_hold_s": "soon"}, "soon"),
        ({"contract": "no_such_robot"}, "no_such_robot"),
        ([1], "mapping"),
    ],
)
def test_a_bad_configuration_ends_with_code_2_and_says_what(tmp_path, caplog, content, text):
    file = tmp_path / "servo.yaml"
    file.write_text(json.dumps({"contract": "jaka_minicobo", **content} if isinstance(content, dict) else content))
    assert servo_process.main(["--config", str(file)]) == 2
    assert text in caplog.text


def test_a_killed_process_is_noticed(link_to):
    link = link_to(LOOPBACK)
    os.kill(link.pid, signal.SIGKILL)
    until = time.monotonic() + 3
    while link.alive and time.monotonic() < until:
        time.sleep(0.01)
    assert not link.alive and "exit code -9" in link.exit_reason
    assert not link.acknowledge() and "ended" in link.reason


def test_servo_mode_on_request_and_hold_and_speed(link_to):
    link = link_to(LOOPBACK, activate=False)
    assert link.snapshot().state is ExecutorState.IDLE and not link.snapshot().servo_mode
    assert link.activate() and link.hold() and link.set_speed_scale(0.1)
    assert not link.activate() and "already" in link.reason
    assert not link.set_speed_scale(3.0) and "0.01" in link.reason
    link.submit(chunk_of([HOME] * 20, time.time_ns()))
    snapshot = wait_for(link, lambda s: s.counters.get("rejected_hold", 0) == 1)
    assert snapshot.state is ExecutorState.HOLDING
    assert link.resume()
    ticks = sway(link, 1.0, amplitude=0.5)
    assert max(np.abs(t.command_velocity_rad_s).max() for t in ticks) <= 0.157 + 1e-6
    assert link.deactivate() and link.snapshot().state is ExecutorState.IDLE


def test_a_broken_chunk_is_a_fault_until_acknowledged_and_resumed(emulator, link_to):
    link = link_to(tcp(emulator))
    sway(link, 0.8)
    link.submit(chunk_of([[np.nan] * 6] * 20, time.time_ns()))
    assert "nan" in wait_for(link, lambda s: s.fault is not None).fault
    assert link.acknowledge(), link.reason
    held = wait_for(link, lambda s: s.state is ExecutorState.HOLDING)
    assert "nan" in held.held and held.waiting_for == "resume" and held.servo_mode
    link.drain()
    assert not any(ok for t in sway(link, 0.3) for _, ok, _ in t.results)
    assert link.resume(), link.reason
    ticks = sway(link, 0.5)
    assert ticks[-1].state is ExecutorState.TRACKING and ticks[-1].waiting_for == ""
    assert_smooth(ticks)


@pytest.mark.parametrize(("stall_s", "state"), [(0.15, ExecutorState.TRACKING), (1.2, ExecutorState.FAULT)])
def test_after_a_stall_the_motion_restarts_from_rest(emulator, link_to, stall_s, state):
    link = link_to(tcp(emulator))
    before = sway(link, 1.0, amplitude=0.3)[-1]
    assert np.abs(before.command_velocity_rad_s).max() > 0.2
    os.kill(link.pid, signal.SIGSTOP)
    time.sleep(stall_s)
    os.kill(link.pid, signal.SIGCONT)
    sway(link, 0.0)
    link.heartbeat()
    wait_for(link, lambda s: s.missed > before.missed)
    ticks = [before, *link.drain()]
    # The arm has stopped at the last command before the stall: a first step of more than a * dt * dt would be a jump.
    after = next(i for i, (a, b) in enumerate(pairwise(ticks)) if b.missed > a.missed + 1) + 1
    assert np.abs(ticks[after].command_rad - ticks[after - 1].command_rad).max() <= 5.0 * 0.008**2 + 1e-9
    assert ticks[after].state is state or ticks[after].state is ExecutorState.HOLDING


def test_a_fault_outlives_deactivation(emulator, link_to):
    link = link_to(tcp(emulator))
    assert link.fault("something that the ROS side saw")
    assert link.deactivate(), link.reason
    assert not link.activate() and "something that the ROS side saw" in link.reason
    assert not emulator.snapshot.servo_mode
    assert link.acknowledge() and link.activate(), link.reason
    assert wait_for(link, lambda s: s.state is ExecutorState.HOLDING).held is None


def test_power_brakes_and_servo_mode_are_asked_for_one_by_one(emulator, link_to):
    link = link_to(tcp(emulator, power_on=False), activate=False)
    assert wait_for(link, lambda s: s.measured_stamp_ns > 0).waiting_for == "power_on"
    assert not link.activate() and "/executor/power_on" in link.reason
    assert not link.enable()
    assert link.power_on(), link.reason
    assert not emulator.snapshot.enabled and wait_for(link, lambda s: s.powered_on).waiting_for == "enable"
    assert link.enable(), link.reason
    assert wait_for(link, lambda s: s.enabled).waiting_for == "activate"
    assert not emulator.snapshot.servo_mode
    assert link.activate(), link.reason
    assert not link.power_on() and "HOLDING" in link.reason


def test_a_fault_in_standby_can_be_acknowledged(emulator, link_to):
    link = link_to(tcp(emulator), activate=False)
    emulator.faults.protective_stop = True
    wait_for(link, lambda s: s.waiting_for == "acknowledge")
    assert not link.activate() and "protective stop" in link.reason
    assert link.acknowledge(), link.reason
    assert wait_for(link, lambda s: s.waiting_for == "activate").fault is None
    assert not emulator.snapshot.servo_mode


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGSTOP])
def test_servo_mode_is_left_in_the_place_of_a_process_that_cannot(emulator, link_to, ended_by):
    link = link_to(tcp(emulator))
    sway(link, 0.5)
    assert emulator.snapshot.servo_mode and link.silent_s < 1.0
    os.kill(link.pid, ended_by)
    time.sleep(0.4)
    if ended_by == signal.SIGSTOP:
        assert link.alive and link.silent_s > 0.3
        text = link.kill()
    else:
        assert not link.alive
        text = link.leave_servo()
    assert "left" in text and not emulator.snapshot.servo_mode
    assert link.leave_servo() == "", "once is enough"


def test_long_texts_and_malformed_requests_end_nothing(link_to):
    link = link_to(LOOPBACK)
    assert link.hold("\N{SNOWMAN}" * 3000) and link.fault('\\"\N{GRINNING FACE}\x00' * 500)
    link._rings["requests"].write(b"\xff not a request")
    link._rings["requests"].write(b'{"id": 1e999, "name": [], "value": {}}')
    snapshot = wait_for(link, lambda s: s.counters.get("requests_malformed") == 2)
    assert snapshot.held.startswith("\N{SNOWMAN}") and snapshot.held.endswith("…")
    assert link.alive and link.acknowledge(), link.reason


def test_of_chunks_that_come_too_fast_the_newest_is_followed(link_to):
    link = link_to(LOOPBACK)
    os.kill(link.pid, signal.SIGSTOP)
    stamp_ns = time.time_ns()
    for i in range(3):
        link.submit(chunk_of([HOME] * 20, stamp_ns + i))
    os.kill(link.pid, signal.SIGCONT)
    snapshot = wait_for(link, lambda s: s.counters.get("accepted", 0) == 1)
    assert snapshot.chunk_stamp_ns == stamp_ns + 2 and snapshot.counters["superseded"] == 2


def test_the_shipped_configuration_is_valid():
    from lavla_ros.resources import config_path

    config = ServoConfig.load(config_path("control/jaka_minicobo.yaml"))
    assert ServoConfig.from_dict(config.to_dict(), source="itself") == config
    config.driver(config.executor_config(config.load_contract()))
    with pytest.raises(ConfigError, match="heartbeat_hold_s"):
        ServoConfig(contract="jaka_minicobo", heartbeat_hold_s=5.0)
    with pytest.raises(ConfigError, match=r"ramp_timeout_s.*at least 1\.8 with a scene"):
        ServoConfig(contract="jaka_minicobo", scene="tabletop", ramp_timeout_s=1.0)
    assert CONTRACT.robot == "jaka_minicobo"
