"""The client against raw peers that misbehave, and against the emulator."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from every_command import EveryCommand
from jaka_peers import answer_with, free_port, raw_peer, wait_until

from lavla_ros.jaka.arm import MINICOBO
from lavla_ros.jaka.codec import MAX_MESSAGE_BYTES, FrameReader, JakaProtocolError, encode
from lavla_ros.jaka.dh import dh_of
from lavla_ros.jaka.errors import JakaConnectionError, JakaError, JakaTimeoutError
from lavla_ros.jaka.status import StatusStream, parse_status
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

forward = MINICOBO.kinematics.forward
MINICOBO_DH = dh_of(MINICOBO.chain)

pytestmark = pytest.mark.timed

OK = b'{"cmdName":"power_on","errorCode":"0","errorMsg":""}'


def client_of(port: int, *, reply_timeout_s: float = 0.3) -> EveryCommand:
    return EveryCommand("127.0.0.1", port, None, connect_timeout_s=0.5, reply_timeout_s=reply_timeout_s)


@pytest.fixture
def client(emulator: ControllerEmulator) -> Iterator[EveryCommand]:
    with EveryCommand("127.0.0.1", emulator.port, emulator.status_port, reply_timeout_s=1.0) as connected:
        yield connected


# ---- peers that misbehave ----


def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(JakaConnectionError, match=rf"127\.0\.0\.1:{port}.*check that it is switched on"):
        client_of(port).connect()


@pytest.mark.parametrize(
    ("reply", "error", "match"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", JakaProtocolError, "does not speak the JAKA protocol.*check host"),
        (b'{"cmdName":"power_on","errorCode":}', JakaProtocolError, "malformed JSON"),
        (b'{"cmdName":"power_on"}', JakaProtocolError, "no errorCode string"),
        (b'{"cmdName":"power_on","errorCode":0}', JakaProtocolError, "no errorCode string"),
        (b'{"a":"' + b"x" * MAX_MESSAGE_BYTES + b'"}', JakaProtocolError, "longer than 65536"),
        (b'{"a":"' + b"x" * 3 * MAX_MESSAGE_BYTES, JakaProtocolError, "longer than 65536"),
        (OK[:20], JakaConnectionError, "in the middle of a message .20 bytes"),
        (b"", JakaConnectionError, "closed the connection"),
        (b'{"cmdName":"power_on","errorCode":"2","errorMsg":"no power"}', JakaError, "refused power_on.*no power"),
        (b'{"cmdName":"power_on","errorCode":"1"}', JakaError, "no text"),
    ],
)
def test_bad_replies(reply: bytes, error: type[Exception], match: str) -> None:
    peer = raw_peer(answer_with(reply))
    with peer as port, client_of(port, reply_timeout_s=1.0) as client, pytest.raises(error, match=match):
        client.power_on()


@pytest.mark.parametrize(
    ("reply", "match"),
    [(b"", "did not answer power_on"), (OK[:30], "only 30 bytes"), (b'{"cmdName":"x","errorCode":"0"}', "did not")],
)
def test_time_outs_close_the_connection(reply: bytes, match: str) -> None:
    with raw_peer(answer_with(reply, keep_open_s=1.0)) as port, client_of(port) as client:
        started = time.monotonic()
        with pytest.raises(JakaTimeoutError, match=match):
            client.power_on()
        assert time.monotonic() - started < 0.8
        assert not client.connected


def test_a_peer_that_never_stops_talking_does_not_outlast_the_time_out() -> None:
    def chatter(connection: socket.socket) -> None:
        while True:
            connection.sendall(b'{"cmdName":"noise","errorCode":"0"}')
            time.sleep(0.01)

    with raw_peer(chatter) as port, client_of(port) as client:
        started = time.monotonic()
        with pytest.raises(JakaTimeoutError):
            client.power_on()
        assert time.monotonic() - started < 0.8
        assert client.counters.stray_replies["noise"] > 3


def test_a_late_reply_is_never_taken_for_the_next_answer() -> None:
    def late_once(connection: socket.socket) -> None:
        reader = FrameReader()
        while data := connection.recv(4096):
            for message in reader.feed(data):
                if message["cmdName"] == "get_joint_pos":
                    time.sleep(0.4)
                    connection.sendall(encode({**message, "errorCode": "0", "joint_pos": [99.0] * 6}))
                else:
                    connection.sendall(encode({**message, "errorCode": "0"}))

    with raw_peer(late_once) as port, client_of(port) as client:
        with pytest.raises(JakaTimeoutError):
            client.get_joint_position()
        time.sleep(0.3)
        client.power_on()
        assert client.counters.reconnects == 1
        assert not client.counters.stray_replies, "the late reply died with its connection"


def test_stray_replies_are_counted_and_never_the_answer() -> None:
    glued = encode({"cmdName": "unasked", "errorCode": "2"}) + OK + OK
    with raw_peer(answer_with(glued, keep_open_s=0.3)) as port, client_of(port) as client:
        client.power_on()
        assert client.counters.stray_replies == {"unasked": 1, "power_on": 1}


@pytest.mark.parametrize(
    ("command", "fields", "match"),
    [
        ("get_joint_pos", {"joint_pos": [1, 2]}, "joint_pos is not 6 finite numbers"),
        ("get_joint_pos", {"joint_pos": [10**400] * 6}, "joint_pos is not 6 finite numbers"),
        ("get_joint_pos", {}, "no field 'joint_pos'"),
        ("get_robot_state", {"power": "powered_on", "enable": "maybe"}, "maybe"),
        ("protective_stop_status", {"protective_stop": "x"}, "neither '0' nor '1'"),
        ("is_in_servomove", {"in_servomove": "x"}, "no flag"),
    ],
)
def test_a_missing_or_odd_field_is_named(command: str, fields: dict[str, object], match: str) -> None:
    peer = raw_peer(answer_with(encode({"cmdName": command, "errorCode": "0", **fields})))
    calls = {
        "get_joint_pos": EveryCommand.get_joint_position,
        "get_robot_state": EveryCommand.get_robot_state,
        "protective_stop_status": EveryCommand.protective_stop,
        "is_in_servomove": EveryCommand.is_in_servo_move,
    }
    with peer as port, client_of(port) as client, pytest.raises(JakaProtocolError, match=match):
        calls[command](client)


def test_a_peer_that_takes_no_bytes_cannot_block_the_servo_loop() -> None:
    def deaf(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        time.sleep(3.0)

    with raw_peer(deaf) as port, client_of(port) as client:
        client.in_servo_mode = True
        longest = 0.0
        with pytest.raises(JakaConnectionError, match="took no data for 2 ms"):
            for _ in range(100_000):
                started = time.monotonic()
                try:
                    client.post_servo_j([0.0] * 6)
                finally:
                    longest = max(longest, time.monotonic() - started)
        assert longest < 0.1
        with pytest.raises(JakaConnectionError, match="lost in servo mode"):
            client.post_servo_j([0.0] * 6)
        assert client.counters.reconnects == 0


def test_arguments_are_checked() -> None:
    client = client_of(1)
    with pytest.raises(JakaConnectionError, match=r"call connect\(\)"):
        client.power_on()
    with pytest.raises(ValueError, match="6 finite"):
        client.post_servo_j([math.nan] * 6)
    with pytest.raises(ValueError, match="6 finite"):
        client.joint_move([0.0] * 5, speed_rad_s=1, acceleration_rad_s2=1)
    with pytest.raises(ValueError, match="0 to 5"):
        client.set_collision_sensitivity(9)
    with pytest.raises(ValueError, match="0 to 1"):
        client.rapid_rate(2)
    with pytest.raises(ValueError, match="finite and above 0"):
        client.set_servo_move_filter((1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="positive time"):
        EveryCommand("x", reply_timeout_s=0.0)


# ---- against the emulator ----


def make_ready(client: EveryCommand) -> None:
    client.power_on()
    wait_until(lambda: client.get_robot_state().powered_on)
    client.enable_robot()
    wait_until(lambda: client.get_robot_state().enabled)


def test_every_typed_command(emulator: ControllerEmulator, client: EveryCommand, plant: KinematicPlant) -> None:
    make_ready(client)
    goal = np.array([0.1, 0.3, 1.3, 0.0, 1.2, -0.2])
    client.joint_move(goal, speed_rad_s=3.0, acceleration_rad_s2=30.0)
    wait_until(lambda: bool(np.abs(client.get_joint_position() - goal).max() < 1e-9))
    np.testing.assert_allclose(client.get_tcp_pose(), forward(goal), atol=1e-9)
    pose = forward(goal)
    pose[1, 3] += 0.02
    client.move_linear(pose, speed_m_s=0.2, acceleration_m_s2=2.0)
    wait_until(lambda: bool(np.abs(client.get_tcp_pose() - pose).max() < 1e-5))
    client.end_move(forward(goal), speed_rad_s=3.0, acceleration_rad_s2=30.0)
    wait_until(lambda: bool(np.abs(client.get_joint_position() - goal).max() < 1e-4))
    np.testing.assert_allclose(client.kine_forward(goal), forward(goal), atol=1e-9)
    np.testing.assert_allclose(client.kine_inverse(forward(goal), goal + 0.05), goal, atol=1e-4)
    with pytest.raises(JakaError, match="call kine_inverse failed"):
        client.kine_inverse(forward(np.zeros(6)) + np.diag([0, 0, 0, 0.0]) + np.eye(4, k=3) * 2, goal)
    dh = client.get_dh_param()
    np.testing.assert_allclose(dh.alpha_rad, MINICOBO_DH.alpha_rad)
    np.testing.assert_allclose(dh.d_m, MINICOBO_DH.d_m)
    client.set_digital_output("tool", 1, True)
    client.set_payload(0.4, (0.0, 0.0, 0.03))
    client.set_collision_sensitivity(2)
    client.set_network_exception_handle(0.1, "abort")
    client.rapid_rate(0.5)
    client.stop_program()
    client.set_servo_move_filter((3.0, 10.0, 100.0))
    assert not client.is_in_servo_move()
    client.servo_move(True)
    assert client.is_in_servo_move()
    client.servo_j(client.get_joint_position())
    client.servo_p(client.get_tcp_pose())
    with pytest.raises(JakaError, match="outside servo mode"):
        client.set_servo_move_filter(None)
    client.servo_move(False)
    assert not client.protective_stop()
    client.clear_error()
    client.disable_robot()
    client.power_off()
    assert not client.get_robot_state().powered_on
    wait_until(lambda: plant.tool_outputs == {1: True})
    assert not client.counters.stray_replies


def test_posted_commands_are_matched_with_their_replies(emulator: ControllerEmulator, client: EveryCommand) -> None:
    make_ready(client)
    client.servo_move(True)
    for i in range(20):
        client.post_servo_j([i * 1e-3] * 6)
        if i == 10:
            client.post_tool_output(0, True)
    assert client.get_robot_state().enabled, "a request in between gets its own reply"
    client.servo_j([0.02] * 6)
    client.drain()
    assert client.counters.posted == client.counters.acknowledged == {"servo_j": 20, "set_digital_output": 1}
    emulator.faults.reject = ("servo_j",)
    client.post_servo_j([0.02] * 6)
    wait_until(lambda: (client.drain(), client.counters.refused["servo_j"] == 1)[1])
    assert "fault of the emulator" in client.counters.last_refusal["servo_j"]
    assert not client.counters.stray_replies


def test_it_reconnects_outside_servo_mode_only(emulator: ControllerEmulator, client: EveryCommand) -> None:
    make_ready(client)
    emulator.faults.drop_connection = True
    wait_until(lambda: not emulator.faults.drop_connection)
    assert client.get_robot_state().enabled
    assert client.counters.reconnects == 1
    client.servo_move(True)
    emulator.faults.drop_connection = True
    wait_until(lambda: not emulator.faults.drop_connection)
    with pytest.raises(JakaConnectionError, match="broke at get_robot_state"):
        client.get_robot_state()
    with pytest.raises(JakaConnectionError, match="lost in servo mode"):
        client.get_robot_state()
    assert client.counters.reconnects == 1


# ---- status stream ----


def test_status_follows_the_arm(emulator: ControllerEmulator, client: EveryCommand) -> None:
    stream = client.status
    assert stream is not None
    status = stream.wait_newer(0, 1.0)
    assert (status.powered_on, status.enabled, status.emergency_stop) == (False, False, False)
    assert status.fault == "power lost"
    make_ready(client)
    wait_until(lambda: client.latest_status is not None and client.latest_status.fault is None)
    emulator.faults.protective_stop = True
    wait_until(lambda: client.latest_status is not None and "protective stop" in str(client.latest_status.fault))
    received, since = stream.counters.messages, time.monotonic()
    wait_until(lambda: stream.counters.messages - received >= 50, 1.0)
    assert (stream.counters.messages - received) / (time.monotonic() - since) < 150.0, "125 Hz"
    wait_until(lambda: stream.age_s() < 0.2)
    emulator.faults.status_stalled = True
    wait_until(lambda: stream.age_s() > 0.2)
    with pytest.raises(JakaTimeoutError, match=rf"no status from 127\.0\.0\.1:{emulator.status_port} within 0\.1 s"):
        stream.wait_newer(time.monotonic_ns(), 0.1)
    assert stream.counters.malformed == stream.counters.length_mismatches == 0


def test_status_that_is_no_status_is_reported() -> None:
    def nonsense(connection: socket.socket) -> None:
        connection.sendall(b'{"len":10,"hello":"world"}')
        time.sleep(0.2)

    with raw_peer(nonsense) as port:
        stream = StatusStream("127.0.0.1", port, retry_s=0.05)
        stream.start()
        with pytest.raises(JakaTimeoutError, match="joint_actual_position"):
            stream.wait_newer(0, 0.4)
        stream.stop()
        assert stream.counters.malformed >= 1
        assert stream.counters.connections >= 2


def test_a_flooded_status_port_is_given_up() -> None:
    message = encode({"joint_actual_position": [0.0] * 6, "padding": "x" * 60_000})

    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(message)

    with raw_peer(flood) as port:
        stream = StatusStream("127.0.0.1", port, retry_s=0.5)
        stream.start()
        wait_until(lambda: stream.counters.malformed > 0, 5.0)
        assert stream.latest is not None
        stream.stop()


def test_status_fields_are_tolerant_of_firmwares() -> None:
    base = {"joint_actual_position": [0, 90, 0, 0, 0, 0], "future_field": {"a": [1]}}
    status = parse_status(base, 1, 2)
    assert status.position_rad[1] == pytest.approx(math.pi / 2)
    assert status.enabled is None
    assert status.fault is None, "what is not sent is unknown, not a fault"
    for value in (1, True, "1", "true", 1.0):
        assert parse_status({**base, "protective_stop": value}, 1, 2).protective_stop is True
    assert (status.commanded_rad, status.taken) == (None, None)
    assert parse_status({**base, "joint_position": [1, 2]}, 1, 2).commanded_rad is None
    commanded = parse_status({**base, "joint_position": [0, 180, 0, 0, 0, 0]}, 1, 2).commanded_rad
    assert commanded is not None
    assert commanded[1] == pytest.approx(math.pi)
    assert parse_status({**base, "drag_status": True}, 1, 2).taken == "in drag mode"
    assert parse_status({**base, "drag_status": False, "task_mode": 4}, 1, 2).taken == "in drag mode"
    assert parse_status({**base, "task_mode": 1}, 1, 2).taken == "in manual mode"
    assert "program" in str(parse_status({**base, "task_mode": 2, "interp_state": 3}, 1, 2).taken)
    assert parse_status({**base, "errcode": "0x10F", "errmsg": "drive"}, 1, 2).fault == "controller error (0x10F drive)"


def test_the_force_at_the_tool_is_what_the_status_says_it_is_or_unknown() -> None:
    base = {"joint_actual_position": [0.0] * 6}
    setup, read = ["10.5.5.101", 55555, [0.4, [0, 0, 20]]], [1.0, -2.0, 3.0, 0.1, 0.2, 0.3]

    def wrench(torqsensor: object) -> object:
        return parse_status({**base, "torqsensor": torqsensor}, 1, 2).tool_wrench

    found = wrench([setup, [1, 0, read, [9.0] * 6, [9.0] * 6]])
    assert isinstance(found, np.ndarray) and found.tolist() == read and not found.flags.writeable
    assert parse_status(base, 1, 2).tool_wrench is None
    no_readings = ([], {}, "on", [setup], [setup, None], [setup, [1, 0]], [setup, [1, 0, read[:5]]])
    for other in (*no_readings, [[0] * 6] * 3, [setup, [1, 0, [*read[:5], 1e999]]]):
        assert wrench(other) is None, other
    assert parse_status({**base, "emergency_stop": "1", "protective_stop": 1}, 1, 2).fault == "emergency stop pressed"
    joints = [{"joint_actual_position": j} for j in ([1], [math.inf] * 6, ["0"] * 6, None)]
    for bad in ({"enabled": "perhaps"}, {"enabled": [1]}, {"tio_dout": 3}, *joints):
        with pytest.raises(JakaProtocolError):
            parse_status({**base, **bad}, 1, 2)
