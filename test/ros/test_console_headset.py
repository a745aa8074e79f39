"""A headset holds the console's pad (WebXR, emulated in ``webxr.js``): the arm follows a hand that surely is there."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console_harness import NEEDS_CHROMIUM, PATIENCE_MS, Console, Person, sync_api
from ros_harness import World, wait_until
from std_msgs.msg import String

from lavla_ros.console.access import Access, address_of, listening_at, serve
from lavla_ros.console.robot import Joint, Snapshot
from lavla_ros.control.arms import arm_named
from lavla_ros.control.kinematics import rotation_vector
from lavla_ros.episode import ExecutorReport
from lavla_ros.recording.library import Library
from lavla_ros.ros.messages import LATCHED_INPUT_QOS
from lavla_ros.teleop.config import Mapping, load_mapping
from lavla_ros.teleop.devices import Messages
from lavla_ros.teleop.operator import Event
from lavla_ros.typing import FloatArray
from lavla_ros.yaml_text import dump_yaml

sys.path += [str(Path(__file__).parents[1] / "unit" / room) for room in ("teleop", "control")]
from drive import Drive

pad = pytest.importorskip("lavla_ros.console.pad", reason="NiceGUI is not installed")
page_of = pytest.importorskip("lavla_ros.console.page")

pytestmark = [pytest.mark.long, NEEDS_CHROMIUM]
EMULATION = Path(__file__).with_name("webxr.js")
KINEMATICS = arm_named("jaka_minicobo").kinematics
ACROSS_M = 0.06
"""How far a hand goes; the arm goes as far, and one that does not follow, nowhere."""
SETTLED_M, SETTLED_RAD = 0.006, 0.03


class ArmHere:
    """A :class:`lavla_ros.console.robot.Robot` in this process: the real teleoperation and executor, whose time goes on
    as fast as this process gets on, so that a busy machine is a slow one and nothing else."""

    cameras: tuple[str, ...] = ()
    models = None

    def __init__(self, mapping: Mapping) -> None:
        self._drive, self._device = Drive(mapping=mapping, level=2), Messages(mapping)
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        while True:
            self._drive.run(0.05, alive=False, device=self)
            time.sleep(0.05)

    def read(self, now_ns: int) -> list[Event]:
        while not self._said.empty():
            self._device.take(self._said.get(), now_ns)
        return self._device.read(now_ns)

    def steer(self, held: str) -> None:
        self._said.put(held)

    def snapshot(self) -> Snapshot:
        bench = self._drive.bench
        command = bench.commands[-1]
        values = [*map(float, command.position_rad), float(command.gripper)]
        names = [*(f"joint_{i}" for i in range(1, 7)), "gripper"]
        joints = (Joint(name=n, unit="", measured=v, commanded=v) for n, v in zip(names, values, strict=True))
        report = ExecutorReport(state=bench.executor.state.name.lower(), commander=bench.executor.commander)
        steered = f"here | {self._drive.teleop.why or 'moving'}"
        return Snapshot(executor=report, joints=tuple(joints), steered=steered, age_s=0.0)

    def ask(self, what: str) -> str:
        raise NotImplementedError(what)

    picture = mark = set_speed_scale = run_model = stop_model = instruct = ask  # none of it is clicked here


def _serve(folder: Path, started: Connection) -> None:
    """The console's page for it, until the process is ended; its address is sent."""
    pad.LATE_S = 5.0
    mapping = replace(load_mapping("browser"), silence_s=2.0)
    listening = listening_at("localhost", 0)
    application = page_of.application(ArmHere(mapping), Library(folder), title="here", mapping=mapping)
    started.send(address_of(listening, "localhost", ""))
    serve(Access(application, host="localhost"), listening)


@dataclass(frozen=True)
class ConsoleHere:
    """A page whose arm is in the process that serves it: NiceGUI has one application a process."""

    address: str


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleHere]:
    here, there = multiprocessing.Pipe()
    folder = tmp_path_factory.mktemp("console")
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, there), daemon=True)
    process.start()
    assert here.poll(120.0), "it is up"
    yield ConsoleHere(here.recv())
    process.kill()
    process.join()


@pytest.fixture
def live_console(tmp_path: Path) -> Iterator[Console]:
    """Beside an arm alone, without cameras, a table and a recorder: they cost most of a small machine."""
    bags = {"default": "", "description": "Folder of the console's episodes, of which there are none."}
    stack = {"extends": "jaka_arm", "description": "An arm alone.", "arguments": {"bags": bags}}
    (tmp_path / "arm_alone.yaml").write_text(dump_yaml(stack))
    started = Console(tmp_path, stack=str(tmp_path / "arm_alone.yaml"))
    world = World()  # in the test's domain, which the stack has taken
    reports = world.collect(String, "/executor/state", LATCHED_INPUT_QOS)
    assert world.call("/executor/home").success  # the emulated arm is stretched out at first
    wait_until(lambda: reports and "arrived at home" in reports[-1].data, "home", 60.0)
    world.close()
    yield started
    started.close()
    assert "Traceback" not in started.log.read_text()


class Wearer(Person):
    """A person with a headset, or a phone, and its hands."""

    def __init__(self, browser: Any, console: Any, *, phone: bool = False) -> None:
        super().__init__(browser, console)
        self.context.add_init_script(path=EMULATION)
        self.page.close()
        self.open(console.address)
        self.operates()
        if phone:
            self.headset("is_a_phone")
        self.enter = self.page.locator("button.headset")
        self.enter.click()
        sync_api.expect(self.enter).to_have_text("Leave the headset", use_inner_text=True, timeout=PATIENCE_MS)
        wait_until(lambda: len(self.measured()) == 7, "joints")
        self.place = {side: np.array([0.2, 1.1, -0.4]) for side in ("left", "right", "phone")}

    def headset(self, does: str, *words: Any) -> Any:
        return self.page.evaluate("([does, words]) => window.headset[does](...words)", [does, words])

    def carries(self, side: str, *way_m: float, seconds: float = 0.8, turn: tuple[float, ...] = ()) -> None:
        """The hand moves in its room (x right, y up, z back), evenly."""
        steps = round(seconds / 0.04)
        for step in range(steps):
            self.place[side] = self.place[side] + np.array(way_m) / steps
            given = dict(zip("xyz", self.place[side].tolist(), strict=True))
            q = [dict(zip("xyzw", self._turned(turn, (step + 1) / steps), strict=True))] if turn else []
            self.headset("put", side, given, *q)
            self.page.wait_for_timeout(40)

    @staticmethod
    def _turned(turn: tuple[float, ...], share: float) -> list[float]:
        angle = float(np.linalg.norm(turn))
        return [*(np.array(turn) / angle * np.sin(share * angle / 2)).tolist(), float(np.cos(share * angle / 2))]

    def tool(self) -> FloatArray:
        assert KINEMATICS is not None
        return KINEMATICS.forward(np.array(self.measured()[:6]))

    def moving(self) -> bool:
        return "| moving" in self.shows("steered")

    def grasps(self, side: str, button: str) -> None:
        """Presses until the arm has heard of it: on a busy machine an answer may come too late, which lets go."""

        def held() -> bool:
            if not self.moving():
                self.headset("lift", side, button)
                self.headset("press", side, button)
                self.page.wait_for_timeout(700)
            return self.moving()

        wait_until(held, "the dead-man is held", 60.0)

    def arrives(self, there: Callable[[], bool]) -> bool:
        """Whether the arm comes there, however slowly, as long as the dead-man is held."""
        give_up_s = time.monotonic() + 30.0
        while self.moving() and time.monotonic() < give_up_s:
            self.page.wait_for_timeout(250)
            if there():
                return True
        return False

    def is_followed(self, side: str = "right", button: str = "squeeze") -> None:
        """The dead-man is held, and the arm goes with the hand."""

        def followed() -> bool:
            self.grasps(side, button)
            before = self.tool()
            self.carries(side, 0.0, ACROSS_M * self.way, 0.0)
            self.way = -self.way
            return self.arrives(lambda: abs(self.tool()[2, 3] - before[2, 3]) > 0.5 * ACROSS_M)

        wait_until(followed, "the arm follows", 90.0)

    way = 1
    """Up or down, or left or right, in turn."""

    def is_not_followed(self, side: str = "right") -> None:
        """The arm is at rest, and wherever the hand goes, it stays there."""
        self.comes_to_rest()
        before = self.tool()
        self.carries(side, 0.0, ACROSS_M * self.way, 0.0)
        self.page.wait_for_timeout(600)
        assert not self.moving()
        assert np.abs(self.tool() - before).max() < 0.002


@pytest.fixture
def wearer(browser: Any, console: ConsoleHere) -> Iterator[Wearer]:
    made = Wearer(browser, console)
    yield made
    made.context.close()


def test_the_tool_goes_and_turns_as_the_hand_does(wearer: Wearer) -> None:
    """In the robot's axes: a hand that goes back, to the right and down."""

    def goes() -> bool:
        wearer.grasps("right", "squeeze")
        before = wearer.tool()
        wearer.carries("right", 0.04, -0.05, 0.03, turn=(0.0, 0.3, 0.0))

        def off() -> tuple[float, float]:
            after = wearer.tool()
            turned = rotation_vector(after[:3, :3] @ before[:3, :3].T)
            way = after[:3, 3] - before[:3, 3]
            return np.abs(way - [-0.03, -0.04, -0.05]).max(), np.abs(turned - [0.0, 0.0, 0.3]).max()

        def settled() -> bool:
            off_m, off_rad = off()
            return off_m < SETTLED_M and off_rad < SETTLED_RAD

        arrived = wearer.arrives(settled)
        wearer.page.wait_for_timeout(1500)
        stays, kept = settled(), wearer.moving()
        wearer.headset("lift", "right", "squeeze")
        wearer.comes_to_rest()
        wearer.carries("right", -0.04, 0.05, -0.03, turn=(0.0, 0.0001, 0.0))
        if not arrived or not kept:  # an answer came too late
            return False
        assert stays, "and no further"
        return True

    wearer.is_not_followed()  # nothing is held
    wait_until(goes, "a whole way", 120.0)
    wearer.sees("commander", "A person has the arm")
    wearer.is_not_followed()


def test_the_second_button_works_the_gripper(wearer: Wearer) -> None:
    """And is no dead-man."""

    def gripper() -> float:
        return wearer.measured()[6]

    def worked() -> bool:
        wearer.grasps("left", "select")
        before = gripper()
        wearer.headset("press", "left", "squeeze")
        worked = wearer.arrives(lambda: abs(gripper() - before) > 0.5)
        wearer.headset("lift", "left", "squeeze")
        return worked

    wait_until(worked, "the gripper", 90.0)
    wearer.is_followed("left", "select")
    wearer.headset("press", "left", "squeeze")
    wearer.headset("lift", "left", "select")
    wearer.is_not_followed("left")


def _is_lost(wearer: Wearer) -> Callable[[], None]:
    wearer.headset("lose", "right")
    return lambda: wearer.headset("find", "right")


def _is_guessed(wearer: Wearer) -> Callable[[], None]:
    """The hand is out of sight, and its place is taken from a model of an arm."""
    wearer.headset("guess", "right")
    return lambda: wearer.headset("find", "right")


def _opens_a_menu(wearer: Wearer) -> Callable[[], None]:
    wearer.headset("menu", True)
    return lambda: wearer.headset("menu", False)


def _is_recentred(wearer: Wearer) -> Callable[[], None]:
    wearer.headset("recentre")
    return lambda: None


def _sends_no_frames(wearer: Wearer) -> Callable[[], None]:
    """It was taken off, or its program hangs: the page goes on."""
    wearer.headset("freeze", True)
    return lambda: wearer.headset("freeze", False)


def _is_switched_off(wearer: Wearer) -> Callable[[], None]:
    wearer.headset("unplug", "right")
    wearer.headset("plug", "right")
    return lambda: None


def _page_is_hidden(wearer: Wearer) -> Callable[[], None]:
    wearer.page.evaluate("document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")
    return lambda: None


def _jumps(wearer: Wearer) -> Callable[[], None]:
    wearer.place["right"] = wearer.place["right"] + [0.0, 0.5, 0.0]
    wearer.carries("right", 0.0, 0.0, 0.0, seconds=0.04)
    return lambda: None


@pytest.mark.parametrize(
    "ends",
    [_is_lost, _is_guessed, _opens_a_menu, _is_recentred, _sends_no_frames, _is_switched_off, _page_is_hidden, _jumps],
)
def test_a_hand_that_is_not_surely_there_has_let_go(
    wearer: Wearer, ends: Callable[[Wearer], Callable[[], None]]
) -> None:
    """With the button held on: nothing moves before it is pressed again, even if the hand is found."""
    wearer.is_followed()
    back = ends(wearer)
    if ends is not _is_switched_off:
        wearer.is_not_followed()
    back()
    wearer.is_not_followed()
    wearer.headset("lift", "right", "squeeze")
    wearer.is_followed()
    wearer.headset("lift", "right", "squeeze")
    wearer.comes_to_rest()


@pytest.mark.parametrize("by", ["the headset", "the page", "the console"])
def test_the_end_of_a_session_has_let_go_and_another_may_begin(wearer: Wearer, by: str) -> None:
    wearer.is_followed()
    if by == "the headset":
        wearer.headset("take_off")
    elif by == "the page":
        wearer.enter.click()
    else:
        wearer.page.reload()
        wearer.operates()
    sync_api.expect(wearer.enter).to_have_text("Headset", use_inner_text=True, timeout=PATIENCE_MS)
    wearer.comes_to_rest()
    assert not wearer.headset("worn")
    wearer.enter.click()
    wearer.is_followed()
    wearer.button("Give the controls away").click()  # which lets go as well
    wearer.sees("role", "You watch")
    wearer.is_not_followed()


def test_a_phone_is_held_up_and_touched(browser: Any, console: ConsoleHere) -> None:
    wearer = Wearer(browser, console, phone=True)
    try:

        def followed() -> bool:
            if not wearer.moving():
                wearer.headset("touch", "finger")
                wearer.page.wait_for_timeout(700)
            before = wearer.tool()
            wearer.carries("phone", ACROSS_M * wearer.way, 0.0, 0.0)
            if wearer.arrives(lambda: (wearer.tool()[1, 3] - before[1, 3]) * wearer.way < -0.5 * ACROSS_M):
                return True
            wearer.headset("leave", "finger")
            wearer.carries("phone", -ACROSS_M * wearer.way, 0.0, 0.0)
            wearer.way = -wearer.way  # the arm may be at the end of its reach on one side
            return False

        wait_until(followed, "the arm follows", 90.0)
        wearer.headset("leave", "finger")
        wearer.is_not_followed("phone")
    finally:
        wearer.context.close()


def test_a_browser_without_a_headset_offers_none(browser: Any, console: ConsoleHere) -> None:
    person = Person(browser, console)
    person.sees("pad", "Hold to move")
    sync_api.expect(person.page.locator("button.headset")).to_be_hidden()
    sync_api.expect(person.page.locator("p.insecure")).to_be_hidden()  # localhost is secure
    person.context.close()


@pytest.mark.alone
def test_the_live_arm_follows_and_comes_to_rest(browser: Any, live_console: Console) -> None:
    """The same over ROS 2, through the servo process, to the emulated controller."""
    wearer = Wearer(browser, live_console)
    try:
        wearer.is_followed()
        wearer.headset("lift", "right", "squeeze")
        wearer.is_not_followed()
        wearer.is_followed()
        wearer.headset("lose", "right")
        wearer.is_not_followed()
        wearer.headset("find", "right")
        wearer.is_followed()
        wearer.headset("take_off")
        wearer.comes_to_rest()
        assert not wearer.moving()
    finally:
        wearer.context.close()
