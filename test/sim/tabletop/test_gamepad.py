"""A script with a gamepad in its hands solves the task: Linux' events, teleoperation, executor, physics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lavla_ros.contract import Contract
from lavla_ros.control.arm import ArmState
from lavla_ros.control.executor import ChunkExecutor, ExecutorConfig
from lavla_ros.teleop.config import load_mapping
from lavla_ros.teleop.devices import DeviceError, InputDevice, written
from lavla_ros.teleop.motion import ArmMotion
from lavla_ros.teleop.teleoperator import Teleoperator
from sim_bridges.worlds.tabletop.gamepad import ScriptedHands
from sim_bridges.worlds.tabletop.sim import TabletopSim

pytestmark = pytest.mark.sim
MS = 1_000_000
T0_NS = 10**18


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[tuple[int, InputDevice]]:
    """The end that the hands write to, and the device that is read."""
    path = tmp_path / "gamepad"
    os.mkfifo(path)
    file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with closing(InputDevice(str(path))) as device:
        yield file, device
    os.close(file)


def taught(sim: TabletopSim, contract: Contract, wire: tuple[int, InputDevice], limit_s: float) -> float:
    """Seconds until the task is solved and the hands have let go."""
    file, device = wire
    config, mapping = ExecutorConfig.from_contract(contract), load_mapping("gamepad")
    executor, teleop = ChunkExecutor(contract, config), Teleoperator(contract, config, mapping)
    hands = ScriptedHands(sim, contract, mapping)

    def arm(now_ns: int) -> ArmState:
        return ArmState(
            stamp_ns=now_ns, position_rad=sim.joint_position_rad, gripper=float(sim.gripper_target_open),
            enabled=True, servo_mode=True, fault=None,
        )  # fmt: skip

    executor.activate(arm(T0_NS), T0_NS)
    before = sim.joint_target_rad
    for tick in range(round(limit_s / 0.008)):
        now_ns = T0_NS + tick * 8 * MS
        if tick % 6 == 0:
            os.write(file, b"".join(written(*each) for each in hands.steer(tick * 0.008)))
            motion = ArmMotion(
                at_ns=now_ns,
                position_rad=sim.joint_target_rad,
                velocity_rad_s=(sim.joint_target_rad - before) / 0.008,
                gripper_open=float(sim.gripper_target_open),
            )
            chunk = teleop.step(device.read(now_ns), motion, now_ns)
            assert chunk is None or executor.submit(chunk, now_ns, person=True).accepted
        before = sim.joint_target_rad
        command = executor.tick(now_ns, arm(now_ns))
        sim.set_targets(command.position_rad, command.gripper)
        sim.advance(8 * MS)
        if sim.outcome().success and teleop.why == "the dead-man is not held":
            return tick * 0.008
    raise AssertionError(f"seed {sim.seed}: {sim.outcome()}")


@pytest.mark.parametrize("seed", range(3))
def test_a_scripted_gamepad_picks_and_places(
    seed: int, pick_sim: TabletopSim, contract: Contract, wire: tuple[int, InputDevice]
) -> None:
    pick_sim.reset(seed)
    assert taught(pick_sim, contract, wire, limit_s=40.0) > 3.0


def test_what_is_written_is_what_is_read(wire: tuple[int, InputDevice]) -> None:
    file, device = wire
    said = [("BTN_TL", 1.0), ("ABS_RY", -0.5), ("ABS_16", 1.0)]
    os.write(file, b"".join(written(*each) for each in said))
    read = [(event.input, event.value) for event in device.read(T0_NS)[:-1]]
    assert [name for name, _ in read] == [name for name, _ in said]
    assert np.allclose([value for _, value in read], [value for _, value in said], atol=1e-4)
    with pytest.raises(DeviceError, match="'REL_X' is no button"):
        written("REL_X", 1.0)
