"""The emulator over real sockets: faults as a client meets them, the servo log, its own command, its ports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from every_command import EveryCommand
from jaka_peers import ON_FREE_PORTS, QUICK, free_port, wait_until

from lavla_ros.jaka.codec import FrameReader, JakaProtocolError, encode
from lavla_ros.jaka.errors import JakaConnectionError, JakaError, JakaTimeoutError
from sim_bridges.jaka_controller.config import EmulatorOptions
from sim_bridges.jaka_controller.emulator import ControllerEmulator, emulator_command, main
from sim_bridges.jaka_controller.plant import KinematicPlant
from sim_bridges.jaka_controller.server import encode_with_length

pytestmark = pytest.mark.timed


@contextlib.contextmanager
def connected(emulator: ControllerEmulator, reply_timeout_s: float = 1.0) -> Iterator[EveryCommand]:
    with EveryCommand("127.0.0.1", emulator.port, None, reply_timeout_s=reply_timeout_s) as client:
        yield client


def make_ready(client: EveryCommand, *, servo: bool = False) -> None:
    client.power_on()
    wait_until(lambda: client.get_robot_state().powered_on)
    client.enable_robot()
    wait_until(lambda: client.get_robot_state().enabled)
    if servo:
        client.servo_move(True)


@pytest.mark.parametrize(
    "faults",
    [
        {"split_replies": True},
        {"glue_replies": 3},
        {"split_replies": True, "glue_replies": 2, "delay_s": 0.003},
        {"delay_s": 0.005},
    ],
)
def test_split_glued_and_delayed_replies_arrive_whole_and_in_order(
    emulator: ControllerEmulator, faults: dict[str, object]
) -> None:
    with connected(emulator) as client:
        make_ready(client, servo=True)
        emulator.faults.update(faults)
        for i in range(30):
            client.post_servo_j([i * 1e-3] * 6)
            if i % 10 == 0:
                assert client.get_robot_state().enabled
        assert client.is_in_servo_move()
        client.drain()
        assert client.counters.acknowledged["servo_j"] == 30
        assert not client.counters.stray_replies


def test_a_long_delay_is_a_time_out(emulator: ControllerEmulator) -> None:
    emulator.faults.delay_s = 0.5
    with connected(emulator, reply_timeout_s=0.1) as client, pytest.raises(JakaTimeoutError):
        client.get_robot_state()


@pytest.mark.parametrize(
    ("garble", "error"),
    [("malformed", JakaProtocolError), ("truncated", JakaConnectionError), ("oversized", JakaProtocolError)],
)
def test_garbled_replies_once(emulator: ControllerEmulator, garble: str, error: type[Exception]) -> None:
    with connected(emulator) as client:
        emulator.faults.update({"garble": garble})
        with pytest.raises(error):
            client.get_robot_state()
        assert not client.get_robot_state().powered_on, "once, and outside servo mode the client connects again"


def test_reject_silent_nameless_and_refused_connections(emulator: ControllerEmulator) -> None:
    with connected(emulator, reply_timeout_s=0.2) as client:
        emulator.faults.reject = ("get_joint_pos",)
        with pytest.raises(JakaError, match="fault"):
            client.get_joint_position()
        emulator.faults.update({"reject": [], "silent": ["*"]})
        with pytest.raises(JakaTimeoutError):
            client.get_joint_position()
        emulator.faults.update({"silent": [], "garble": "nameless"})
        client.get_joint_position()
        assert client.counters.stray_replies == {"unasked": 1}
        emulator.faults.update({"refuse_connections": True, "drop_connection": True})
        wait_until(lambda: not emulator.faults.drop_connection)
        with pytest.raises(JakaConnectionError):
            client.get_joint_position()


def test_a_later_client_replaces_the_earlier_one_but_the_control_connection_does_not(
    emulator: ControllerEmulator,
) -> None:
    with connected(emulator) as first:
        make_ready(first, servo=True)
        assert emulator_command("127.0.0.1", emulator.port, query="state")["state"]["servo_mode"] is True
        assert first.get_robot_state().enabled
        with connected(emulator) as second:
            assert second.get_robot_state().enabled
            with pytest.raises(JakaConnectionError):
                first.get_robot_state()


def test_faults_and_the_servo_log_from_outside(emulator: ControllerEmulator) -> None:
    port = emulator.port
    reply = emulator_command("127.0.0.1", port, fault={"delay_s": 0.01, "lose_servo_frames": 1})
    assert reply["faults"]["delay_s"] == 0.01
    assert emulator.faults.lose_servo_frames == 1
    with pytest.raises(RuntimeError, match=r"unknown keys \['nonsense'\]"):
        emulator_command("127.0.0.1", port, fault={"nonsense": 1})
    with pytest.raises(RuntimeError, match="takes fault"):
        emulator_command("127.0.0.1", port, query="weather")
    emulator_command("127.0.0.1", port, fault={"delay_s": 0.0, "lose_servo_frames": 0})
    with connected(emulator) as client:
        make_ready(client, servo=True)
        before_ns = time.monotonic_ns()
        for i in range(10):
            client.post_servo_j([i * 1e-3] * 6)
        wait_until(lambda: emulator.servo_log.counters.received == 10)
        after_ns = time.monotonic_ns()
    log = emulator_command("127.0.0.1", port, query="servo_log", since=0, count=4)["servo_log"]
    assert (log["first"], log["next"], log["total"]) == (0, 4, 10)
    rest = emulator_command("127.0.0.1", port, query="servo_log", since=4)["servo_log"]
    arrivals = log["arrival_ns"] + rest["arrival_ns"]
    assert arrivals == emulator.servo_log.arrivals_ns().tolist() == sorted(arrivals)
    assert before_ns <= arrivals[0] <= arrivals[-1] <= after_ns
    assert log["counters"]["received"] == 10
    emulator_command("127.0.0.1", port, clear="servo_log")
    assert emulator_command("127.0.0.1", port, query="servo_log", since=0)["servo_log"]["arrival_ns"] == []


def test_a_full_page_of_the_servo_log_fits_a_message(emulator: ControllerEmulator) -> None:
    for i in range(5000):
        emulator.servo_log.append(10**18 + i)
    log = emulator_command("127.0.0.1", emulator.port, query="servo_log", since=0, count=10**6)["servo_log"]
    assert len(log["arrival_ns"]) == 2000
    assert log["total"] == 5000


def test_when_the_frames_stop_the_arm_holds_its_last_target(
    emulator: ControllerEmulator, plant: KinematicPlant
) -> None:
    with connected(emulator) as client:
        make_ready(client, servo=True)
        for i in range(1, 6):
            client.post_servo_j([i * 2e-3] * 6)
        wait_until(lambda: emulator.servo_log.counters.missed > 3)
        np.testing.assert_allclose(plant.joint_position_rad(), 0.01, atol=1e-6)
        emulator.faults.drop_connection = True
        missed = emulator.servo_log.counters.missed
        wait_until(lambda: emulator.servo_log.counters.missed > missed + 3)
        np.testing.assert_allclose(plant.joint_position_rad(), 0.01, atol=1e-6)
        assert emulator.snapshot.servo_mode, "a lost connection alone does not end servo mode"


def test_cycles_run_at_125_hz(plant: KinematicPlant) -> None:
    with ControllerEmulator(plant, ON_FREE_PORTS, realtime=False) as emulator:
        time.sleep(0.2)
        counters, started = emulator.servo_log.counters, time.monotonic()
        begun = counters.cycles + counters.late_cycles
        time.sleep(0.8)

        def in_time() -> bool:  # a thread that waits for the processor makes up for it, at a wrong rate it never does
            cycles = counters.cycles + counters.late_cycles - begun
            return abs(cycles - (time.monotonic() - started) / 0.008) <= 8

        wait_until(in_time)


def test_a_failing_plant_hangs_up_and_is_reported() -> None:
    class Broken(KinematicPlant):
        def advance(self, dt_s: float) -> None:
            if self.elapsed_s > 0.05:
                raise FloatingPointError("the physics diverged")
            super().advance(dt_s)

    with ControllerEmulator(Broken(), ON_FREE_PORTS, realtime=False) as emulator:
        wait_until(lambda: emulator.failure is not None)
        assert "diverged" in str(emulator.failure)
        with connected(emulator, reply_timeout_s=0.3) as client, pytest.raises(JakaConnectionError):
            client.get_robot_state()


def test_a_port_in_use_is_named(emulator: ControllerEmulator, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OSError, match=f"status port 127.0.0.1:{emulator.port}: .*another program"):
        ControllerEmulator(KinematicPlant(), EmulatorOptions(port=0, status_port=emulator.port)).start()
    assert main(["--port", str(emulator.port), "--status-port", "0"]) == 1
    assert f"cannot open the command port 127.0.0.1:{emulator.port}" in caplog.text


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b'{"cmdName":}', b'{"a":"' + b"x" * 70_000, b'{"a":' * 40])
def test_malformed_commands_are_answered_and_hung_up_on(emulator: ControllerEmulator, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=2.0) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):  # bytes that it left unread make its close a reset
            while piece := connection.recv(4096):
                received += piece
    assert b'"errorCode":"1"' in received
    assert emulator_command("127.0.0.1", emulator.port, query="state")["state"]["powered"] is False


def test_emulator_command_to_nobody() -> None:
    with pytest.raises(OSError, match="refused"):
        emulator_command("127.0.0.1", free_port(), query="faults", timeout_s=0.5)


@pytest.mark.parametrize("padding", range(0, 1010, 101))
def test_len_is_the_length(padding: int) -> None:
    data = encode_with_length({"a": "x" * padding})
    assert data.startswith(b'{"len":%d,' % len(data))


@contextlib.contextmanager
def running(
    plant: KinematicPlant | None = None, status_rate_hz: float = 125.0, **options: Any
) -> Iterator[ControllerEmulator]:
    """An emulator with options, on free ports."""
    controller = replace(QUICK, **options)
    where = EmulatorOptions(port=0, status_port=0, status_rate_hz=status_rate_hz, controller=controller)
    with ControllerEmulator(plant or KinematicPlant(), where, realtime=False) as emulator:
        yield emulator
        assert emulator.failure is None


def status_messages(emulator: ControllerEmulator, count: int) -> list[dict[str, Any]]:
    """The first messages of the status push."""
    reader, messages = FrameReader(), []
    with socket.create_connection(("127.0.0.1", emulator.status_port), timeout=3.0) as connection:
        while len(messages) < count:
            messages += reader.feed(connection.recv(65536))
    return messages[:count]


def test_an_older_firmware_reports_less() -> None:
    everything = {"protective_stop", "emergency_stop", "on_soft_limit", "joint_position", "drag_status", "task_mode"}
    with running() as emulator:
        assert everything <= set(status_messages(emulator, 1)[0])
    with running(reports_safety=False, reports_commanded=False, reports_modes=False) as emulator:
        message = status_messages(emulator, 1)[0]
        assert not everything & set(message)
        assert {"joint_actual_position", "enabled", "powered_on", "errcode", "tio_dout"} <= set(message)


def test_the_status_may_come_ten_times_a_second() -> None:
    with running(status_rate_hz=10.0) as emulator:
        started = time.monotonic()
        status_messages(emulator, 4)
        assert time.monotonic() - started > 0.25


def test_modes_and_tool_outputs_are_in_the_status(emulator: ControllerEmulator) -> None:
    with connected(emulator) as client:
        make_ready(client, servo=True)
        client.set_digital_output("tool", 0, True)
        assert status_messages(emulator, 1)[0]["tio_dout"] == [1, 0]
        assert status_messages(emulator, 1)[0]["task_mode"] == 2
        emulator_command("127.0.0.1", emulator.port, fault={"drag": True})
        wait_until(lambda: status_messages(emulator, 1)[0]["drag_status"] is True)
        assert status_messages(emulator, 1)[0]["task_mode"] == 4
        assert not client.is_in_servo_move()
        with pytest.raises(JakaError, match="drag mode"):
            client.servo_move(True)
        emulator_command("127.0.0.1", emulator.port, fault={"drag": False, "manual": True})
        wait_until(lambda: status_messages(emulator, 1)[0]["task_mode"] == 1)


def test_coasting_over_the_wire() -> None:
    with running(without_commands="coast", coast_s=0.1) as emulator, connected(emulator) as client:
        make_ready(client, servo=True)
        for i in range(1, 6):
            client.post_servo_j([i * 2e-3] * 6)
        wait_until(lambda: emulator.servo_log.counters.coasted >= 8)
        wait_until(lambda: not emulator.snapshot.moving)
        # 12 periods of 2 mrad after the last command; a period that this machine left out counts as well.
        reached = emulator.snapshot.measured_rad[0]
        assert reached == pytest.approx(0.01 + 12 * 2e-3, abs=1e-6)


def test_the_controllers_clock_may_be_slow() -> None:
    with running(clock_drift=0.25) as emulator:
        time.sleep(0.1)
        begun, started = emulator.servo_log.counters, time.monotonic()
        before = begun.cycles + begun.late_cycles
        time.sleep(0.8)

        def in_time() -> bool:
            cycles = begun.cycles + begun.late_cycles - before
            return abs(cycles - (time.monotonic() - started) / 0.010) <= 8

        wait_until(in_time)


@pytest.mark.parametrize(("overflow", "refused"), [("refuse", 15), ("drop_newest", 0), ("drop_oldest", 0)])
def test_a_full_queue_over_the_wire(overflow: str, refused: int) -> None:
    # A lead of four periods keeps the queue from being emptied while the commands arrive.
    with running(overflow=overflow, servo_depth=5, clock_drift=0.5) as emulator, connected(emulator) as client:
        make_ready(client, servo=True)
        commands = b"".join(
            encode({"cmdName": "servo_j", "relFlag": 0, "jointPosition": [0.05 * i] * 6, "stepNum": 1})
            for i in range(1, 21)
        )
        client.post("servo_j", commands)
        wait_until(lambda: emulator.servo_log.counters.received == 20 and emulator.servo_log.counters.missed > 1)
        counters = emulator.servo_log.counters
        assert counters.refused == pytest.approx(refused, abs=2)
        assert counters.lost == pytest.approx(15 if overflow == "drop_newest" else 0, abs=2)
        if overflow == "drop_oldest":
            assert np.degrees(emulator.snapshot.measured_rad[0]) == pytest.approx(1.0)


def test_servo_mode_is_lost_silently_over_the_wire() -> None:
    with running(outside_servo="ignore") as emulator, connected(emulator) as client:
        make_ready(client, servo=True)
        emulator_command("127.0.0.1", emulator.port, fault={"servo_mode_lost": True})
        wait_until(lambda: not client.is_in_servo_move())
        client.servo_j([0.01] * 6)  # no error
        assert emulator.snapshot.commanded_rad[0] == 0.0
        assert status_messages(emulator, 1)[0]["errcode"] == "0x0"


def test_a_paused_connection_delivers_in_a_burst(emulator: ControllerEmulator) -> None:
    with connected(emulator) as client:
        make_ready(client, servo=True)
        emulator_command("127.0.0.1", emulator.port, fault={"pause_commands_s": 1.0})
        wait_until(lambda: emulator.faults.pause_commands_s == 0.0)
        for i in range(10):
            client.post_servo_j([i * 1e-3] * 6)
        time.sleep(0.1)
        assert emulator.servo_log.counters.received == 0
        assert emulator_command("127.0.0.1", emulator.port, query="state")["state"]["servo_mode"] is True
        wait_until(lambda: emulator.servo_log.counters.received == 10)


def test_a_half_open_connection_swallows_commands(emulator: ControllerEmulator) -> None:
    with connected(emulator, reply_timeout_s=0.2) as client:
        make_ready(client)
        emulator.faults.swallow_commands = True
        with pytest.raises(JakaTimeoutError):
            client.servo_move(True)
        assert not emulator.snapshot.servo_mode


def test_a_flood_of_objects_that_nobody_asked_for(emulator: ControllerEmulator) -> None:
    with socket.create_connection(("127.0.0.1", emulator.port), timeout=2.0) as connection:
        connection.sendall(encode({"cmdName": "get_robot_state"}))
        assert connection.recv(4096)
        emulator_command("127.0.0.1", emulator.port, fault={"flood": True})
        reader, objects = FrameReader(), 0
        while objects < 5000:
            objects += len(reader.feed(connection.recv(4096)))
        emulator_command("127.0.0.1", emulator.port, fault={"flood": False})


def test_a_reboot_takes_both_ports_away_for_a_while(emulator: ControllerEmulator) -> None:
    with connected(emulator, reply_timeout_s=0.3) as client:
        make_ready(client, servo=True)
        client.set_payload(0.5, (0.0, 0.0, 0.03))
        settings = emulator_command("127.0.0.1", emulator.port, query="settings")["settings"]
        assert settings == {"set_payload": {"mass": 0.5, "centroid": [0.0, 0.0, 30.0]}}
        with socket.create_connection(("127.0.0.1", emulator.status_port), timeout=3.0) as status:
            emulator_command("127.0.0.1", emulator.port, fault={"reboot_s": 0.5})
            with contextlib.suppress(ConnectionResetError):
                while status.recv(65536):
                    pass
        with pytest.raises(OSError, match=r"did not answer|refused|reset"):
            emulator_command("127.0.0.1", emulator.port, query="state", timeout_s=0.2)
        wait_until(lambda: not emulator.controller.offline)
    wait_until(lambda: status_messages(emulator, 1)[0]["powered_on"] == 0)
    assert emulator_command("127.0.0.1", emulator.port, query="settings")["settings"] == {}


def test_the_network_exception_handle_over_the_wire() -> None:
    with running(without_commands="coast", coast_s=5.0) as emulator, connected(emulator) as client:
        make_ready(client)
        client.set_network_exception_handle(0.1, "abort")
        client.servo_move(True)
        for i in range(1, 6):
            client.post_servo_j([i * 1e-3] * 6)
        wait_until(lambda: not emulator.snapshot.servo_mode)
        assert 0.01 < emulator.snapshot.commanded_rad[0] < 0.2
        wait_until(lambda: not emulator.snapshot.moving)


def test_motion_is_logged_cycle_by_cycle_and_filtered() -> None:
    nlf = {"filter_type": 2, "nlf_max_vr": 90.0, "nlf_max_ar": 500.0, "nlf_max_jr": 5000.0}
    with running() as emulator, connected(emulator) as client:
        make_ready(client)
        client.request("set_servo_move_filter", nlf)
        client.servo_move(True)
        for i in range(1, 20):
            client.post_servo_j([i * 0.02] * 6)  # from rest to 2.5 rad/s at once
        wait_until(lambda: emulator.servo_log.counters.missed > 1 and not emulator.snapshot.moving)
        rows, since = [], 0
        while since is not None:
            page = emulator_command("127.0.0.1", emulator.port, query="motion", since=since)["motion"]
            rows += page["rows"]
            since = page["next"]
    track = np.array(rows)
    assert track[-1, 1] == pytest.approx(19 * 0.02, abs=1e-6)
    assert (np.diff(track[:, 0]) >= 1).all()
    # Cycles that the machine left out are steps of several periods.
    velocity = np.diff(track[:, 1]) / (np.diff(track[:, 0]) * 0.008)
    assert 1.0 < np.abs(velocity).max() <= np.radians(90.0) * (1 + 1e-6)


def test_a_full_page_of_motion_fits_a_message(emulator: ControllerEmulator) -> None:
    for i in range(1000):
        emulator.controller.motion_log.append(10**9 + i, -np.ones(6) / 3.0)
    page = emulator_command("127.0.0.1", emulator.port, query="motion", since=10**9)["motion"]
    assert (len(page["rows"]), page["next"]) == (400, 10**9 + 400)


@contextlib.contextmanager
def emulator_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A stand-alone emulator that answers, and its port."""
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sim_bridges.jaka_controller.emulator",
            "--port",
            str(port),
            "--status-port",
            "0",
            *arguments,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    def answers() -> bool:
        try:
            return bool(emulator_command("127.0.0.1", port, query="state"))
        except ConnectionRefusedError:
            assert process.poll() is None, process.communicate()
            return False

    try:
        wait_until(answers, 20.0)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def test_an_interrupt_waits_for_a_client_in_servo_mode() -> None:
    with emulator_process("--without-commands", "coast", "--servo-depth", "7") as (process, port):
        with EveryCommand("127.0.0.1", port, None) as client:
            make_ready(client, servo=True)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert client.is_in_servo_move(), "a terminal's Ctrl-C reaches the client too, which brings the arm to rest"
            client.servo_move(False)
        assert process.wait(5.0) == 0
    with emulator_process() as (process, port), EveryCommand("127.0.0.1", port, None) as client:
        make_ready(client, servo=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(10.0) == 0, "not for ever"
    with emulator_process() as (process, port), EveryCommand("127.0.0.1", port, None) as client:
        make_ready(client)
        client.set_servo_move_filter((1.0, 10.0, 100.0))
        client.servo_move(True)
        process.terminate()
        assert process.wait(2.0) == 0, "SIGTERM does not wait"
        assert process.stderr is not None and "leaked" not in process.stderr.read(), "the library of the filter"


def test_options_of_the_command_line_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--without-commands", "fly"])
    assert "coast" in capsys.readouterr().err


def test_a_stand_alone_process_stops_at_an_interrupt() -> None:
    with emulator_process("--without-commands", "coast", "--no-reports-safety") as (process, _port):
        process.send_signal(signal.SIGINT)
        assert process.wait(5.0) == 0


def test_any_number_of_signals_at_once_ends_it() -> None:
    """A handler must never wait for what it has interrupted."""
    for _ in range(5):
        command = [sys.executable, "-m", "sim_bridges.jaka_controller.emulator", "--port", "0", "--status-port", "0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        next(line for line in process.stderr if "commands on" in line)
        try:
            for number in (signal.SIGINT, signal.SIGTERM) * 200:
                if process.poll() is None:
                    process.send_signal(number)
            assert process.wait(10.0) in (0, -signal.SIGTERM, -signal.SIGINT)
        finally:
            process.kill()
            process.stderr.close()
            process.wait()
