"""Where the facts come from: this machine, made-up folders of the kernel, the emulated controller."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jaka"))

from jaka_peers import ON_FREE_PORTS

from benchmarks.doctor import probes
from lavla_ros import cli
from lavla_ros.contract import load_contract
from lavla_ros.jaka.driver_config import JakaDriverConfig
from lavla_ros.jaka.lock import ControllerLock
from sim_bridges.jaka_controller.emulator import ControllerEmulator
from sim_bridges.jaka_controller.plant import KinematicPlant

CONTRACT = load_contract("jaka_minicobo")


@pytest.fixture
def emulator() -> Iterator[ControllerEmulator]:
    with ControllerEmulator(KinematicPlant(), ON_FREE_PORTS, realtime=False) as running:
        yield running


def config_of(emulator: ControllerEmulator) -> JakaDriverConfig:
    return JakaDriverConfig(host="127.0.0.1", port=emulator.port, status_port=emulator.status_port)


def test_two_doctors_at_once(tmp_path: Path) -> None:
    """Everything of this machine is looked at, by both, and nothing is left behind."""
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: list(probes.machine(tmp_path / "bags", CONTRACT)), range(2))
    names = [finding.name for finding in first]
    assert names == [finding.name for finding in second] and len(names) == len(set(names)) == 11
    assert {"GL", "ROS", "shared memory", "DDS transport", "clock", "governor", "real time", "disk", "GPU"} < set(names)
    assert all(finding.fix for finding in first if finding.level != "ok")
    assert list(tmp_path.iterdir()) == []


def test_the_kernel_s_folders_are_read(tmp_path: Path) -> None:
    for core, governor in enumerate(("powersave", "powersave", "performance")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    (tmp_path / "cpufreq").mkdir()
    assert probes.governors(tmp_path) == {"powersave": 2, "performance": 1}
    listing = tmp_path / "devices"
    listing.write_text('I: Bus=0003\nN: Name="SpaceMouse"\nH: Handlers=event3 \n\nN: Name="Gone"\nH: Handlers=event9\n')
    (tmp_path / "event3").touch()
    assert probes.input_devices(listing, tmp_path) == {"SpaceMouse (event3)": True}
    assert probes.input_devices(tmp_path / "none", tmp_path) == {}


def test_files_of_dead_participants_are_counted(tmp_path: Path) -> None:
    import fcntl

    dead, alive = tmp_path / "fastrtps_port7411_el", tmp_path / "fastrtps_port7413_el"
    dead.touch()
    with alive.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "1 files are left" in probes.shared_memory(tmp_path).seen


def test_the_controller_is_looked_at_and_not_disturbed(emulator: ControllerEmulator) -> None:
    config, before = config_of(emulator), emulator.snapshot
    levels = {finding.name: finding.level for finding in probes.controller(config, CONTRACT)}
    assert (levels["controller"], levels["arm's model"], levels["arm"]) == ("ok", "ok", "warn")  # it has no power
    lock = ControllerLock(config.host, config.port)
    lock.acquire()
    try:
        (model,) = (each for each in probes.controller(config, CONTRACT) if each.name == "arm's model")
        assert "not asked: the controller is commanded by" in model.seen and str(os.getpid()) in model.seen
    finally:
        lock.release()
    after = emulator.snapshot
    assert (after.powered, after.enabled, after.servo_mode) == (before.powered, before.enabled, before.servo_mode)


def test_the_command_tells_by_its_status_and_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^1$"):
        arguments = ["--robot-ip", "127.0.0.1", "--port", "1", "--status-port", "1", "--bags", str(tmp_path), "--json"]
        cli.main(["doctor", *arguments])
    said = json.loads(capsys.readouterr().out)
    (controller,) = (each for each in said["findings"] if each["name"] == "controller")
    assert controller["level"] == "wrong" and "127.0.0.1:1" in controller["seen"] and controller["fix"]
    assert said["wrong"] >= 1
