"""What goes wrong, one function each: it breaks something while the arm moves at 0.8 rad/s, and mends it again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.safety.rig import Policy, Rig, driver_options, free_end_effector, sway
from lavla_ros.control.executor import ExecutorState
from lavla_ros.control.servo_config import ServoConfig
from lavla_ros.control.servo_link import ServoLink, ServoLinkError
from lavla_ros.typing import FloatArray

COAST = ("--without-commands", "coast", "--coast-s", "0.5")
LONG_TEXT = "碰撞检测触发保护性停止，" * 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table."""

    name: str
    act: Callable[[Rig], None]
    """Called when the arm is at its top speed."""
    settle_s: float = 1.5
    """How long is looked on afterwards."""
    emulator: tuple[str, ...] = ()
    """Options of the emulator."""
    policy: Policy = field(default_factory=sway)
    servo: dict[str, Any] = field(default_factory=dict)
    """Parameters of the servo process."""
    from_rest: bool = False
    """Act at once, with the arm at rest; the servo process isn't started."""


def nothing(_: Rig) -> None:
    """The stream as it should be."""


def stall(rig: Rig, seconds: float) -> None:
    """The servo process does not run for a while."""
    os.kill(rig.pid, signal.SIGSTOP)
    try:
        _pause(seconds)
    finally:
        os.kill(rig.pid, signal.SIGCONT)


def end_by(rig: Rig, number: signal.Signals) -> None:
    """A signal ends the servo process."""
    os.kill(rig.pid, number)


def silence(rig: Rig) -> None:
    """The ROS side does not say that it lives for 3 s: hold, then fault."""
    rig.beating = rig.streaming = False
    _pause(3.0)
    rig.beating = rig.streaming = True
    rig.recover()


def lull(rig: Rig) -> None:
    """No chunks any more, heart still beating."""
    rig.streaming = False


def switch(rig: Rig, seconds: float | None = None, **faults: Any) -> None:
    """A fault of the emulator; after ``seconds`` everything is switched back."""
    rig.emulator.fault(**faults)
    if seconds is not None:
        _pause(seconds)
        rig.emulator.fault(**{name: type(value)() for name, value in faults.items()})


def stop_and_recover(rig: Rig, powered: bool = False, **faults: Any) -> None:
    """A stop of the controller's; a second later a person mends it and lets the arm move again."""
    rig.emulator.fault(**faults)
    _pause(0.3)
    rig.mark()  # how fast the controller itself stops isn't ours
    _pause(0.7)
    if faults.get("error_text"):
        rig.emulator.fault(delay_s=0.2)  # chunks are refused meanwhile, each with the text
    if faults.get("emergency_stop"):
        rig.emulator.fault(emergency_stop=False)
        _pause(0.2)
    rig.recover(powered=powered)


def stop_unmended(rig: Rig, **faults: Any) -> None:
    """A stop by the controller that is never cleared."""
    rig.emulator.fault(**faults)
    _pause(0.3)
    rig.mark()


def drift_then_hold(rig: Rig) -> None:
    """Follow for 8 s with another clock than the controller's, then a person asks for a hold."""
    _pause(8.0)
    rig.wait_fast()
    rig.ask("hold")


def drop(rig: Rig) -> None:
    """The connection breaks and cannot be made again for 3 s."""
    with rig.emulator.control() as fault:
        fault(drop_connection=True, refuse_connections=True)
        _pause(3.0)
        fault(refuse_connections=False)


def reboot(rig: Rig) -> None:
    """The controller restarts; for 2 s it answers on no port."""
    rig.emulator.fault(reboot_s=2.0)
    _pause(3.0)
    rig.mark()


def second_client(rig: Rig) -> None:
    """Another servo process is started for the same controller."""
    other = ServoLink(ServoConfig(contract=rig.contract.name, arm=driver_options(rig.emulator), activate=False))
    try:
        other.start()
        rig.say("the second client was let in")
        _pause(1.0)
    except ServoLinkError as error:
        rig.say(f"the second client was refused: {error}")
    finally:
        other.stop()


def hand_moved(rig: Rig, speed_rad_s: float) -> None:
    """Activation while a person moves the arm, with a firmware that does not tell of drag mode."""
    rig.streaming = False
    emulator = rig.emulator
    try:
        rig.start()
    except ServoLinkError as error:
        rig.say(f"refused to start: {error}")
        return
    emulator.fault(drag=True, hand_speed_rad_s=speed_rad_s)
    _pause(0.4)
    rig.mark()  # how the hand begins isn't ours
    _pause(0.1)
    rig.ask("activate")
    _pause(1.0)


def nan_chunk(rig: Rig) -> None:
    """A chunk with NaN; acknowledged and resumed it must go on."""
    rig.spoil = lambda actions: actions * np.nan
    rig.wait(lambda s: s.state is ExecutorState.FAULT)
    _pause(0.6)
    rig.recover()
    before = rig.accepted
    _pause(1.5)
    rig.say("it goes on" if rig.accepted > before else "every chunk is refused afterwards")


def joint_jump(rig: Rig) -> None:
    """Joint 1 is measured 1.5 rad away; a person acknowledges, and asks for a hold 0.4 s later."""
    rig.emulator.fault(measured_offset_rad=1.5)
    _pause(1.0)
    rig.recover()
    _pause(0.4)
    rig.ask("hold")


def odd_lengths(rig: Rig) -> None:
    """Every chunk has another length."""
    rng = np.random.default_rng(0)
    rig.chunk_steps = lambda _: int(rng.integers(100, 256))
    _pause(3.0)


def many_chunks(rig: Rig) -> None:
    """As many chunks as the ROS side can make, for 2 s."""
    until = time.monotonic() + 2.0
    while time.monotonic() < until and rig.link.alive:
        rig.submit()
        time.sleep(0.001)


def huge_pose(rig: Rig) -> None:
    """Finite but huge values for an end effector whose dimensions have no bounds."""
    rig.streaming = False
    rng = np.random.default_rng(0)

    def huge(actions: FloatArray) -> NDArray[np.bool_]:
        """Some of the values, the gripper's not among them."""
        found = rng.random(actions.shape) < 0.3
        found[:, -1] = False
        return found

    for _ in range(24):
        rig.spoil = lambda actions: np.where(huge(actions), 1e200, actions)
        rig.submit()
        _pause(0.05)


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def scenarios(folder: Path) -> list[Scenario]:
    """All of them, in the order of the table. ``folder`` takes the contract of one."""
    rows = [Scenario(name="regular", act=nothing, settle_s=4.0)]
    for kind, options in (("", ()), (", coasting", COAST)):
        stalls = (0.1, 0.3, 2.0) if options else (0.1, 0.3, 2.0, 10.0)
        signals = (signal.SIGKILL,) if options else (signal.SIGKILL, signal.SIGTERM)
        garbles = ("malformed",) if options else ("malformed", "oversized")
        losses = (1, 3) if options else (1, 2, 3)
        pauses = (0.28,) if options else (0.15, 0.28, 1.0)
        broken: list[tuple[str, Callable[[Rig], None]]] = [
            *((f"stalled {s:g} s", partial(stall, seconds=s)) for s in stalls),
            *((number.name, partial(end_by, number=number)) for number in signals),
            *((f"{garble} reply", partial(switch, garble=garble)) for garble in garbles),
            *((f"{n} commands lost", partial(switch, lose_servo_frames=n)) for n in losses),
            *((f"command path paused {s:g} s", partial(switch, pause_commands_s=s)) for s in pauses),
            ("half-open", partial(switch, swallow_commands=True)),
        ]
        rows += [Scenario(name=f"{name}{kind}", act=act, emulator=options) for name, act in broken]
    rows += [
        Scenario(name="connection dropped for 3 s", act=drop, settle_s=0.5),
        Scenario(
            name="half-open at 0.05 rad/s",
            act=partial(switch, swallow_commands=True),
            policy=sway(0.05, 0.2),
            settle_s=5.0,
        ),
        Scenario(name="refused for 24 ms", act=partial(switch, seconds=0.024, reject=("servo_j",))),
        Scenario(name="refused for 60 ms", act=partial(switch, seconds=0.06, reject=("servo_j",))),
        Scenario(name="never answered", act=partial(switch, silent=("servo_j",)), settle_s=3.0),
        Scenario(name="no heartbeat for 3 s", act=silence),
        Scenario(name="no chunks any more", act=lull, settle_s=3.0),
        Scenario(name="flooded for 3 s", act=partial(switch, seconds=3.0, flood=True), settle_s=1.0),
        Scenario(name="controller 1% slower, then hold", act=drift_then_hold, emulator=("--clock-drift", "0.01")),
        Scenario(name="controller 1% faster, then hold", act=drift_then_hold, emulator=("--clock-drift", "-0.01")),
        Scenario(
            name="queue of 6, controller 5% slower",
            act=nothing,
            settle_s=4.0,
            emulator=("--clock-drift", "0.05", "--servo-depth", "6", "--overflow", "drop_newest"),
        ),
        Scenario(name="status stalled 1.5 s", act=partial(switch, seconds=1.5, status_stalled=True)),
        Scenario(name="protective stop, recovered", act=partial(stop_and_recover, protective_stop=True)),
        Scenario(name="emergency stop, recovered", act=partial(stop_and_recover, powered=True, emergency_stop=True)),
        Scenario(
            name="emergency stop, old firmware",
            act=partial(stop_unmended, emergency_stop=True),
            emulator=("--no-reports-safety", "--no-reports-commanded"),
        ),
        Scenario(
            name="servo mode lost silently",
            act=partial(switch, servo_mode_lost=True),
            emulator=("--outside-servo", "ignore"),
        ),
        Scenario(
            name="servo mode lost silently, old firmware",
            act=partial(switch, servo_mode_lost=True),
            emulator=("--outside-servo", "ignore", "--no-reports-commanded", "--status-rate-hz", "10"),
        ),
        Scenario(name="controller reboots", act=reboot, settle_s=3.0),
        Scenario(name="second client", act=second_client),
        *(
            Scenario(
                name=f"activated while moved by hand at {v:g} rad/s, status {hz} Hz",
                act=partial(hand_moved, speed_rad_s=v),
                from_rest=True,
                settle_s=0.3,
                servo={"activate": False},
                emulator=("--no-modes-refuse", "--no-reports-modes", "--status-rate-hz", str(hz)),
            )
            for v, hz in ((0.3, 125), (1.0, 125), (1.0, 10))
        ),
        Scenario(name="chunk of NaN, acknowledged, resumed", act=nan_chunk),
        Scenario(name="joint 1 measured 1.5 rad off, acknowledged, held", act=joint_jump),
        Scenario(name="chunks of changing length", act=odd_lengths, settle_s=0.5),
        Scenario(name="1000 chunks a second", act=many_chunks, settle_s=0.5),
        Scenario(
            name="end effector at 1e200",
            act=huge_pose,
            from_rest=True,
            settle_s=0.5,
            servo={"contract": free_end_effector(folder)},
        ),
        Scenario(
            name="long text that isn't ASCII", act=partial(stop_and_recover, protective_stop=True, error_text=LONG_TEXT)
        ),
    ]
    return rows
