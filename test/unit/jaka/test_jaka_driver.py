"""The driver against the emulator: connecting, servo mode, the gripper, and every fault on the way."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from every_command import EveryCommand
from jaka_peers import ON_FREE_PORTS, QUICK, answer_by_name, answer_with, free_port, jaka_driver, raw_peer, wait_until

from lavla_ros.config import ConfigError
from lavla_ros.control.arm import ArmDriver, DriverError, JointLimits, Payload
from lavla_ros.control.kinematics import ChainKinematics
from lavla_ros.jaka.arm import MINICOBO, jaka_arm
from lavla_ros.jaka.controller_settings import SettingRefused, apply_settings
from lavla_ros.jaka.dh import dh_of
from lavla_ros.jaka.driver import JakaDriverConfig, JakaTcpDriver
from sim_bridges.jaka_controller.config import EmulatorOptions
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

pytestmark = pytest.mark.timed


PATIENT = {
    "reply_timeout_s": 2.0,
    "connect_timeout_s": 5.0,
    "power_timeout_s": 5.0,
    "status_timeout_s": 2.0,
    "network_timeout_s": 2.0,
    "output_timeout_s": 5.0,
    "unanswered_concern": 250,
    "unanswered_fault": 260,
    "lag_concern_s": 1.5,
    "lag_fault_s": 2.0,
}
"""Driver, controller and test are threads of one process. Where that waits for a core, each of them looks silent to the
others: only a test of what is done about silence has the limits that it is about."""


def config_of(emulator: ControllerEmulator, **changes: float) -> JakaDriverConfig:
    settings = {**PATIENT, "power_on": True}
    return JakaDriverConfig(
        host="127.0.0.1",
        port=emulator.port,
        status_port=emulator.status_port,
        **{**settings, **changes},  # type: ignore[arg-type]
    )


@pytest.fixture
def driver(emulator: ControllerEmulator) -> Iterator[JakaTcpDriver]:
    with closing(jaka_driver(config_of(emulator))) as made:
        yield made


def stream(driver: JakaTcpDriver, start: float, count: int, step: float = 1e-3) -> float:
    """Send ``count`` targets at about 125 Hz; returns the last."""
    for _ in range(count):
        start += step
        driver.command(np.full(6, start))
        time.sleep(0.008)
    return start


def test_connect_makes_the_arm_ready(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    arm: ArmDriver = driver
    assert driver.read().fault == "not connected"
    before_ns = time.time_ns()
    arm.connect()
    state = arm.read()
    assert state.enabled
    assert not state.servo_mode
    assert state.fault is None
    assert state.gripper == 1.0
    assert before_ns <= state.stamp_ns <= time.time_ns()
    np.testing.assert_array_equal(state.position_rad, 0.0)
    arm.connect()
    assert emulator.snapshot.enabled


def test_servo_motion_is_measured_and_left(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    driver.enter_servo()
    assert driver.read().servo_mode
    last, sent = stream(driver, 0.0, 40), 40
    while np.abs(driver.read().position_rad - last).max() > 1e-6:  # what is queued is played out
        stream(driver, last, 1, step=0.0)
        sent += 1
        assert sent < 1000
    assert driver.read().fault is None
    driver.exit_servo()
    driver.exit_servo()
    assert not driver.read().servo_mode
    assert not emulator.snapshot.servo_mode
    with pytest.raises(RuntimeError, match="outside servo mode"):
        driver.command(np.zeros(6))
    counters = emulator.servo_log.counters
    assert counters.received == counters.queued == sent - driver.report().get("wire_withheld_at_rest", 0) >= 40
    assert driver.counters.posted["servo_j"] == driver.counters.acknowledged["servo_j"] == counters.received
    driver.close()
    driver.close()
    assert driver.read().fault == "not connected"


def test_the_gripper_switches_on_change_only(
    emulator: ControllerEmulator, driver: JakaTcpDriver, plant: KinematicPlant
) -> None:
    driver.connect()
    for fraction in (1.0, 0.9, 0.45, 0.3, 0.0, 0.5, 0.55, 0.1):
        driver.set_gripper(fraction)
    wait_until(lambda: driver.read().gripper == 0.0)
    wait_until(lambda: plant.tool_outputs == {0: True})
    driver.set_gripper(0.8)
    wait_until(lambda: driver.read().gripper == 1.0)
    wait_until(lambda: plant.tool_outputs == {0: False})
    assert driver.counters.posted["set_digital_output"] == 2


def test_the_gripper_can_be_wired_the_other_way_and_is_read_at_connect(
    emulator: ControllerEmulator, plant: KinematicPlant
) -> None:
    with EveryCommand("127.0.0.1", emulator.port, None) as client:
        client.set_digital_output("tool", 1, True)
    driver = jaka_driver(
        JakaDriverConfig(
            host="127.0.0.1",
            port=emulator.port,
            status_port=emulator.status_port,
            tool_output=1,
            output_closes=False,
        )
    )
    driver.connect()
    assert driver.read().gripper == 1.0, "output on means open here"
    driver.set_gripper(0.0)
    wait_until(lambda: plant.tool_outputs == {1: False})
    driver.close()


def test_the_gripper_is_what_the_output_is_and_not_what_was_commanded(plant: KinematicPlant) -> None:
    config = replace(QUICK, power_loss_clears_outputs=True)
    with (
        ControllerEmulator(
            plant, EmulatorOptions(port=0, status_port=0, controller=config), realtime=False
        ) as emulator,
        closing(jaka_driver(config_of(emulator))) as driver,
    ):
        driver.connect()
        driver.enter_servo()
        driver.set_gripper(0.0)
        wait_until(lambda: driver.read().gripper == 0.0)
        # The emergency stop lets go of what was gripped.
        emulator.faults.emergency_stop = True
        wait_until(lambda: driver.read().gripper == 1.0)
        emulator.faults.emergency_stop = False
        wait_until(lambda: not emulator.snapshot.emergency_stop)
        driver.clear_fault()
        driver.power_on()
        driver.enable()
        driver.enter_servo()
        assert driver.read().gripper == 1.0
        driver.set_gripper(0.0)
        wait_until(lambda: driver.read().gripper == 0.0)
        assert driver.read().fault is None


def test_an_output_that_does_not_switch_is_a_fault(emulator: ControllerEmulator, plant: KinematicPlant) -> None:
    with closing(jaka_driver(config_of(emulator, output_timeout_s=0.1))) as driver:
        driver.connect()
        driver.enter_servo()
        # Half-open: what is commanded goes nowhere, long before that is noticed otherwise.
        emulator.faults.swallow_commands = True
        driver.set_gripper(0.0)
        assert driver.read().gripper == 1.0
        wait_until(lambda: "tool output 0 was switched" in str(driver.read().fault))
        emulator.faults.swallow_commands = False


# ---- powering on, enabling, clearing: one act each ----


def test_connecting_switches_nothing_on(emulator: ControllerEmulator) -> None:
    with closing(jaka_driver(config_of(emulator, power_on=False))) as driver:
        driver.connect()
        state = driver.read()
        assert (state.powered_on, state.enabled, state.fault) == (False, False, None)
        with pytest.raises(DriverError, match=r"without power; .*/executor/power_on"):
            driver.enter_servo()
        with pytest.raises(DriverError, match=r"refused enable_robot.*not powered on"):
            driver.enable()
        driver.power_on()
        driver.power_on()
        assert driver.read().powered_on
        assert not driver.read().enabled
        with pytest.raises(DriverError, match="disabled"):
            driver.enter_servo()
        driver.enable()
        assert driver.read().enabled
        driver.enter_servo()
        with pytest.raises(DriverError, match="in servo mode: leave it first"):
            driver.enable()


def test_a_fault_in_standby_is_shown_and_cleared(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    emulator.faults.protective_stop = True
    wait_until(lambda: "protective stop" in str(driver.read().fault))
    with pytest.raises(DriverError, match="protective stop"):
        driver.enter_servo()
    driver.clear_fault()
    assert driver.read().fault is None
    driver.enter_servo()


def test_an_arm_in_protective_stop_can_be_looked_at(emulator: ControllerEmulator) -> None:
    with closing(jaka_driver(config_of(emulator, power_on=False))) as driver:
        emulator.faults.protective_stop = True
        wait_until(lambda: emulator.snapshot.protective_stop)
        time.sleep(0.05)
        driver.connect()
        assert "protective stop" in str(driver.read().fault)
        driver.clear_fault()
        assert driver.read().fault is None
        assert not driver.read().powered_on


# ---- what is set in the controller ----


def test_the_controller_is_set_up_before_servo_mode(emulator: ControllerEmulator) -> None:
    changes = {
        "network_timeout_s": 0.2,
        "collision_sensitivity": 2,
        "payload_kg": 0.45,
        "payload_centroid_m": (0.0, 0.01, 0.06),
    }
    with closing(jaka_driver(config_of(emulator, **changes))) as driver:  # type: ignore[arg-type]
        driver.connect()
        assert not emulator.controller.settings, "nothing is set where nothing is commanded"
        driver.enter_servo()
    settings = emulator.controller.settings
    in_filter = settings["set_servo_move_filter"]
    assert in_filter["filter_type"] == 2
    assert in_filter["nlf_max_vr"] == pytest.approx(np.degrees(1.2 * 1.57))
    assert in_filter["nlf_max_ar"] == pytest.approx(np.degrees(2 * 5.0))
    assert in_filter["nlf_max_jr"] == pytest.approx(np.degrees(2 * 50.0))
    assert settings["set_network_exception_handle"] == {"timeLimit": 200, "motType": 2}
    assert settings["set_clsn_sensitivity"] == {"sensitivityVal": 2}
    assert settings["set_payload"]["mass"] == 0.45
    assert settings["set_payload"]["centroid"] == pytest.approx([0.0, 10.0, 60.0])


@pytest.mark.parametrize(
    ("command", "parameter"),
    [
        ("set_servo_move_filter", "filter_factor"),
        ("set_network_exception_handle", "network_timeout_s"),
        ("set_clsn_sensitivity", "collision_sensitivity"),
        ("set_payload", "payload_kg"),
    ],
)
def test_a_setting_that_the_controller_refuses_keeps_servo_mode_off(
    emulator: ControllerEmulator, command: str, parameter: str
) -> None:
    with closing(jaka_driver(config_of(emulator, payload_kg=0.4))) as driver:
        driver.connect()
        emulator.faults.reject = (command,)
        with pytest.raises(DriverError, match=rf"{parameter}: the controller refused {command}.*set it to"):
            driver.enter_servo()
        assert not emulator.snapshot.servo_mode
        emulator.faults.reject = ("get_clsn_sensitivity", "get_payload")
        driver.enter_servo()


@pytest.mark.parametrize(
    ("replies", "match"),
    [
        ({"get_clsn_sensitivity": {"sensitivityVal": 5}}, "collision_sensitivity was set to 1, but .* has 5"),
        (
            {
                "get_clsn_sensitivity": {"sensitivityVal": 1},
                "get_payload": {"mass": 0.0, "centroid": [0, 0, 0]},
            },
            r"payload was set to 0\.4 kg .* has 0\.0 kg",
        ),
    ],
)
def test_a_setting_that_does_not_read_back_is_refused(replies: dict[str, dict[str, object]], match: str) -> None:
    config = JakaDriverConfig(host="127.0.0.1", payload_kg=0.4)
    with (
        raw_peer(answer_by_name(replies)) as port,
        EveryCommand("127.0.0.1", port, None) as client,
        pytest.raises(SettingRefused, match=match),
    ):
        apply_settings(client, config, None)


# ---- what can be wrong when connecting ----


def test_nothing_connects_while_something_moves_the_arm(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    driver.close()
    with EveryCommand("127.0.0.1", emulator.port, None) as other:
        other.joint_move(np.full(6, 1.0), speed_rad_s=0.1, acceleration_rad_s2=3.0)
        wait_until(lambda: emulator.snapshot.moving)
        time.sleep(0.2)
        with pytest.raises(DriverError, match=r"the arm moves .*another client"):
            driver.connect()
        assert other.get_robot_state().enabled, "the other client was not replaced"
        other.stop_program()
        wait_until(lambda: not emulator.snapshot.moving)
    time.sleep(0.2)
    driver.connect()


def test_unreachable_controller() -> None:
    port = free_port()
    driver = jaka_driver(JakaDriverConfig(host="127.0.0.1", port=port, status_port=free_port(), connect_timeout_s=0.3))
    with pytest.raises(DriverError, match=rf"127\.0\.0\.1:{port}.*check that the controller is switched on"):
        driver.connect()
    assert driver.read().fault == "not connected"


def test_wrong_port_is_not_a_jaka(emulator: ControllerEmulator) -> None:
    with raw_peer(answer_with(b"SSH-2.0-OpenSSH_9.6\r\n", keep_open_s=0.5)) as port:
        driver = jaka_driver(
            JakaDriverConfig(host="127.0.0.1", port=port, status_port=emulator.status_port, reply_timeout_s=0.5)
        )
        with pytest.raises(DriverError, match=rf":{port}.*does not speak the JAKA protocol.*check host and port"):
            driver.connect()


def test_ports_swapped(emulator: ControllerEmulator) -> None:
    driver = jaka_driver(
        JakaDriverConfig(
            host="127.0.0.1",
            port=emulator.status_port,
            status_port=emulator.port,
            reply_timeout_s=0.4,
            connect_timeout_s=0.4,
        )
    )
    with pytest.raises(DriverError, match=rf":{emulator.status_port}.*no status from"):
        driver.connect()


@pytest.mark.parametrize(
    ("faults", "match"),
    [
        ({"power_on_fails": True}, "power_on was accepted but had no effect within 0.4 s"),
        ({"enable_fails": True}, "enable_robot was accepted but had no effect within 0.4 s"),
        ({"reject": ["power_on"]}, "refused power_on"),
        ({"silent": ["get_robot_state"]}, "did not answer get_robot_state within 0.5 s"),
        ({"emergency_stop": True}, "emergency stop is pressed; release it"),
        ({"protective_stop": True}, "protective stop"),
        ({"status_stalled": True}, "no status from"),
        ({"garble": "malformed"}, "malformed"),
        ({"garble": "truncated"}, "in the middle of a message"),
        ({"garble": "oversized"}, "longer than 65536"),
        ({"refuse_connections": True}, "broke at|did not answer|closed the connection"),
    ],
)
def test_connect_fails_loudly_and_leaves_nothing_connected(
    emulator: ControllerEmulator, faults: dict[str, object], match: str
) -> None:
    hasty = {"power_timeout_s": 0.4, "reply_timeout_s": 0.5, "connect_timeout_s": 1.0}
    with closing(jaka_driver(config_of(emulator, **hasty))) as driver:
        emulator.faults.update(faults)
        for stop in ("emergency_stop", "protective_stop"):
            wait_until(lambda stop=stop: getattr(emulator.snapshot, stop) is faults.get(stop, False))
        time.sleep(0.03)
        with pytest.raises(DriverError, match=match) as caught:
            driver.connect()
        assert f"127.0.0.1:{emulator.port}" in str(caught.value)
        assert driver.read().fault == "not connected"
        assert not emulator.snapshot.enabled


def test_servo_mode_left_by_a_dead_client_is_left_first(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    driver.close()
    with EveryCommand("127.0.0.1", emulator.port, None) as dead:
        dead.servo_move(True)
    assert emulator.snapshot.servo_mode
    driver.connect()
    assert not emulator.snapshot.servo_mode
    driver.enter_servo()


@pytest.mark.parametrize("reject", ["servo_move", "is_in_servomove"])
def test_enter_servo_fails_loudly(emulator: ControllerEmulator, driver: JakaTcpDriver, reject: str) -> None:
    with pytest.raises(DriverError, match="before connect"):
        driver.enter_servo()
    driver.connect()
    emulator.faults.reject = (reject,)
    with pytest.raises(DriverError, match=f"servo mode could not be entered.*refused {reject}"):
        driver.enter_servo()
    assert not driver.read().servo_mode


# ---- faults in servo mode ----


@pytest.mark.parametrize(
    ("faults", "match"),
    [
        ({"protective_stop": True}, "protective stop"),
        # Said by the status or by the refusal of servo commands, whichever comes first.
        ({"emergency_stop": True}, "emergency stop (is )?pressed"),
        ({"status_stalled": True}, "no status from .* for 2 s"),
        ({"drop_connection": True}, "connection lost in servo mode"),
        ({"garble": "malformed"}, "connection lost in servo mode.*malformed"),
        ({"reject": ["servo_j"]}, r"the controller refused ([3-9]|\d\d) servo commands"),
    ],
)
def test_faults_latch_until_a_person_clears_them(
    emulator: ControllerEmulator, driver: JakaTcpDriver, faults: dict[str, object], match: str
) -> None:
    driver.connect()
    driver.enter_servo()
    at = stream(driver, 0.0, 10)
    emulator.faults.update(faults)
    deadline = time.monotonic() + 20.0
    while driver.read().fault is None:
        assert time.monotonic() < deadline, "the fault was never seen"
        at = stream(driver, at, 1, step=1e-4)
    state = driver.read()
    assert state.fault is not None
    assert re.search(match, state.fault), state.fault
    assert not state.servo_mode
    reconnects = driver.counters.reconnects
    # The cause goes away by itself: the fault stays, nothing reconnects, nothing raises.
    emulator.faults.update({"emergency_stop": False, "status_stalled": False, "reject": []})
    at = stream(driver, at, 20, step=0.0)
    assert driver.read().fault == state.fault
    assert driver.counters.reconnects == reconnects
    driver.exit_servo()
    with pytest.raises(DriverError, match="acknowledged first"):
        driver.enter_servo()
    driver.clear_fault()
    assert driver.read().fault is None
    assert driver.read().enabled is ("emergency_stop" not in faults), "clearing a fault switches nothing on"
    driver.power_on()
    driver.enable()
    wait_until(lambda: driver.read().taken is None)  # what was queued when servo mode ended comes to rest
    driver.enter_servo()
    stream(driver, float(emulator.snapshot.commanded_rad[0]), 10)
    assert driver.read().fault is None


def test_a_fault_whose_cause_persists_stays(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    driver.enter_servo()
    emulator.faults.emergency_stop = True
    wait_until(lambda: driver.read().fault is not None)
    with pytest.raises(DriverError, match=r"could not be cleared.*release it first"):
        driver.clear_fault()
    assert driver.read().fault is not None
    with pytest.raises(DriverError):
        driver.enter_servo()


def test_a_refused_gripper_is_a_fault(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    driver.enter_servo()
    emulator.faults.reject = ("set_digital_output",)
    driver.set_gripper(0.0)
    wait_until(lambda: "gripper's tool output 0" in str(driver.read().fault))


def test_command_and_read_stay_short_whatever_happens(emulator: ControllerEmulator, driver: JakaTcpDriver) -> None:
    driver.connect()
    driver.enter_servo()
    durations, waits = [], []
    for i in range(150):
        if i == 50:
            emulator.faults.silent = ("*",)
        if i == 100:
            emulator.faults.drop_connection = True
        started = time.perf_counter()
        driver.read()
        driver.command(np.full(6, i * 1e-3))
        done = time.perf_counter()
        time.sleep(0.004)
        durations.append(done - started)
        waits.append(time.perf_counter() - done - 0.004)
    # By what one of the sleeps is late, this machine may keep back any of the calls.
    assert sorted(durations)[-5] < 0.01 + max(waits)
    emulator.faults.silent = ()
    driver.clear_fault()
    driver.enter_servo()
    with pytest.raises(ValueError, match="6 finite numbers"):
        driver.command(np.full(6, np.nan))


@pytest.mark.parametrize(
    "bad",
    [
        {"host": ""},
        {"port": 0},
        {"status_port": 70000},
        {"reply_timeout_s": 0.0},
        {"close_below": 0.7},
        {"tool_output": -1},
        {"network_timeout_s": 0.01},
        {"filter_factor": 1.0},
        {"collision_sensitivity": 0},
        {"payload_kg": -1.0},
        {"payload_centroid_m": (0.0, 0.0)},
        {"unanswered_concern": 30},
        {"refused_fault": 1},
        {"lag_fault_s": 0.05},
        {"still_rad": 0.0},
    ],
)
def test_configuration_is_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        JakaDriverConfig(**{"host": "127.0.0.1", **bad})  # type: ignore[arg-type]


@contextmanager
def controller_of(model: str) -> Iterator[ControllerEmulator]:
    options = replace(ON_FREE_PORTS, controller=replace(QUICK, model=model))
    with ControllerEmulator(KinematicPlant(jaka_arm(model).start_rad), options, realtime=False) as running:
        yield running


def test_the_controller_of_another_model_is_refused_before_anything_is_switched_on() -> None:
    with controller_of("zu5") as zu5:
        with closing(jaka_driver(config_of(zu5))) as driver:
            with pytest.raises(
                DriverError,
                match="the commands are for a jaka_minicobo, but the controller has another arm: its "
                r"Denavit-Hartenberg parameters differ \(joint 1: d 120.15 mm, not 187.00 mm;.*\), and they are those",
            ):
                driver.connect()
            assert not zu5.snapshot.powered and driver.read().fault == "not connected"
        with pytest.raises(
            DriverError, match=r"for a jaka_zu7, but .*joint 3: a 430\.00 mm, not 360\.00 mm; joint 4: a"
        ):
            jaka_driver(config_of(zu5), jaka_arm("zu7")).connect()
        with closing(jaka_driver(config_of(zu5, other_geometry="accept"))) as driver:
            driver.connect()


def test_another_model_has_its_own_geometry_and_limits() -> None:
    zu5 = jaka_arm("zu5")
    start = np.array(zu5.start_rad)
    with controller_of("zu5") as emulator, closing(jaka_driver(config_of(emulator), zu5)) as driver:
        driver.connect()
        driver.enter_servo()
        np.testing.assert_allclose(driver.read().position_rad, start, atol=1e-9)
        driver.exit_servo()
        with EveryCommand("127.0.0.1", emulator.port, None) as client:
            np.testing.assert_allclose(client.get_dh_param().d_m, dh_of(zu5.chain).d_m, atol=1e-12)
            np.testing.assert_allclose(client.kine_forward(start), ChainKinematics(zu5.chain).forward(start), atol=1e-9)
            # The elbow bends to 175 degrees; the MiniCobo's would end at 125.
            client.joint_move(np.array([0, 1.5, 3.0, 0, 0, 0]), speed_rad_s=3.0, acceleration_rad_s2=30.0)


def test_a_firmware_that_does_not_tell_its_geometry_is_warned_of(
    emulator: ControllerEmulator, driver: JakaTcpDriver, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.faults.reject = ("get_dh_param",)
    driver.connect()
    assert "whether the controller's arm is a jaka_minicobo cannot be told" in caplog.text


def test_a_payload_above_the_arms_is_refused_before_connecting() -> None:
    config = JakaDriverConfig(host="127.0.0.1", payload_kg=1.2)
    with pytest.raises(ConfigError, match=r"payload_kg is 1\.2; expected at most 1\.0, as jaka_minicobo carries"):
        jaka_driver(config)
    jaka_driver(config, jaka_arm("zu5"))


def test_the_mass_of_the_arms_tool_is_told_to_the_controller(emulator: ControllerEmulator) -> None:
    arm = replace(MINICOBO, payload=Payload(limit_kg=1.0, tool_kg=0.3, tool_centroid_m=(0.0, 0.0, 0.05)))
    with closing(jaka_driver(config_of(emulator), arm)) as driver:
        driver.connect()
        driver.enter_servo()
        assert emulator.controller.settings["set_payload"] == {"mass": 0.3, "centroid": [0.0, 0.0, 50.0]}


def test_limits_that_servo_commands_cannot_reach_are_refused() -> None:
    fast = replace(MINICOBO, limits=replace(MINICOBO.limits, velocity_rad_s=(3.2,) * 6))
    with pytest.raises(ConfigError, match=r"must not exceed 3\.142 rad/s, above which servo commands have no effect"):
        jaka_driver(JakaDriverConfig(host="127.0.0.1"), fast)


def test_a_jaka_controller_moves_six_joints() -> None:
    limits = JointLimits(**{name: getattr(MINICOBO.limits, name)[:1] * 7 for name in JointLimits.__dataclass_fields__})
    seven = replace(MINICOBO, joint_names=tuple("abcdefg"), limits=limits, chain=None, start_rad=(), poses={})
    with pytest.raises(ConfigError, match="has 7 joints; JAKA's controller moves 6"):
        jaka_driver(JakaDriverConfig(host="127.0.0.1"), seven)
