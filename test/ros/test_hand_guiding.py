"""What a person does to the arm by hand, and what presses on its tool, as the executor node says it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import WrenchStamped
from ros_harness import World, running, wait_until
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from lavla_ros.contract import load_contract
from lavla_ros.recording.reader import BagReader
from lavla_ros.ros.lifecycle import stamp_to_ns
from lavla_ros.ros.messages import LATCHED_INPUT_QOS, STATE_QOS
from lavla_ros.yaml_text import dump_yaml
from sim_bridges.jaka_controller.config import ControllerConfig, EmulatorOptions
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

PRESSED = (1.5, -2.0, 12.25, 0.0, 0.5, -0.125)


@pytest.mark.parametrize("force_sensor", [True, False])
def test_the_force_at_the_tool_is_published_and_recorded_while_a_person_guides_the_arm(
    world: World, tmp_path: Path, force_sensor: bool
) -> None:
    contract = load_contract("jaka_minicobo").to_dict()
    contract["record"] = [{"topic": "/tool_wrench", "type": "geometry_msgs/msg/WrenchStamped"}]
    contract_file = tmp_path / "contract.yaml"
    contract_file.write_text(dump_yaml(contract), encoding="utf-8")
    states = world.collect(JointState, "/joint_states", STATE_QOS)
    wrenches = world.collect(WrenchStamped, "/tool_wrench", STATE_QOS)
    diagnostics = world.diagnostics()
    announced = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)

    def reason() -> str:
        return str(json.loads(announced[-1].data)["reason"]) if announced else ""

    controller = ControllerConfig(power_on_s=0.0, enable_s=0.0, force_sensor=force_sensor)
    options = EmulatorOptions(port=0, status_port=0, controller=controller)
    with ControllerEmulator(KinematicPlant(), options, realtime=False) as emulator:
        arm = {"port": emulator.port, "status_port": emulator.status_port, "force_sensor": True}
        config = tmp_path / "servo.yaml"
        servo = {"extends": "control/jaka_minicobo", "arm": {**arm, "status_timeout_s": 4.0, "power_on": True}}
        config.write_text(yaml.safe_dump(servo))
        shared = {"contract": str(contract_file)}
        with (
            running("lavla_ros.nodes.executor_node", "executor", tmp_path, config=str(config), standby=True, **shared),
            running("lavla_ros.nodes.recorder_node", "recorder", tmp_path, root=str(tmp_path / "bags"), **shared),
        ):
            wait_until(lambda: states, "the arm's state")
            assert reason() == ""
            emulator.faults.update({"drag": True, "hand_speed_rad_s": 0.2, "tool_wrench": PRESSED})
            wait_until(lambda: reason() == "the arm is in drag mode", "that a person guides the arm")
            began = states[-1].position[0]
            bag = Path(world.call("/episode/start").message)
            wait_until(lambda: states[-1].position[0] > began + 0.02, "the arm moved by hand")
            if force_sensor:
                wait_until(lambda: len(wrenches) > 5 and wrenches[-1].wrench.force.z == PRESSED[2], "the force")
                written = "/tool_wrench.messages"
                wait_until(
                    lambda: int(diagnostics.values("recorder").get(written, 0)) > 1, "the force in the bag", 30.0
                )
            assert world.call("/episode/stop").success
            emulator.faults.update({"drag": False})
            wait_until(lambda: reason() == "", "that nobody does any more")
    if not force_sensor:
        assert wrenches == []
        return
    force, torque = wrenches[-1].wrench.force, wrenches[-1].wrench.torque
    assert (force.x, force.y, force.z, torque.x, torque.y, torque.z) == PRESSED
    assert wrenches[-1].header.frame_id == "force_sensor"
    stamps = {stamp_to_ns(state.header.stamp) for state in states}
    assert stamp_to_ns(wrenches[-1].header.stamp) in stamps, "measured with the joints"
    with BagReader(bag) as reader:
        recorded = [reader.deserialize(message) for message in reader.messages(["/tool_wrench"])]
    assert len(recorded) > 1 and np.isclose(recorded[-1].wrench.force.z, PRESSED[2])
