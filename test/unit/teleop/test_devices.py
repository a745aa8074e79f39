"""What keyboards, input devices and recordings say, and what the shipped mappings make of it."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
from drive import REST_S, Drive

from lavla_ros.teleop.config import TWIST, TeleopOptions, load_mapping
from lavla_ros.teleop.devices import (
    DEADMAN_KEY,
    DeviceError,
    InputDevice,
    Keyboard,
    Keys,
    Messages,
    Recording,
    find_input_device,
    open_device,
)
from lavla_ros.teleop.operator import GONE, Event, Operator

MS = 1_000_000
JOINTS = tuple(f"joint_{i}" for i in range(1, 7))


@pytest.mark.parametrize("name", ["keyboard", "gamepad", "spacemouse", "browser"])
def test_every_shipped_mapping_moves_the_tool(name):
    mapping = load_mapping(name)
    assert mapping.moves(JOINTS) == TWIST
    assert set(TWIST) <= {binding.does for binding in mapping.bindings}


class Typist:
    """Presses keys of a terminal, which repeats the last one until the focus is lost."""

    def __init__(self) -> None:
        self.operator = Operator(load_mapping("keyboard"), TeleopOptions(), JOINTS)
        does = {b.input: b.does for b in load_mapping("keyboard").bindings}
        others = {"deadman", "frame", "faster", "slower", "hand_back", "stop"}
        moving = {key for key, what in does.items() if what not in others}
        self.keys, self.now_ns = Keys(moving, set(does) - moving), 10**18

    def run(self, text_by_ms: dict[int, str], until_ms: int) -> list[bool]:
        """Whether the dead-man is held, each 10 ms."""
        held = []
        for ms in range(0, until_ms, 10):
            now_ns = self.now_ns + ms * MS
            self.operator.feed(self.keys.take(text_by_ms.get(ms, ""), now_ns), now_ns)
            held.append(self.operator.wish(now_ns).held)
        self.now_ns += until_ms * MS
        return held


def test_a_key_moves_while_it_repeats_and_no_longer_when_the_focus_is_lost():
    typist = Typist()
    held = typist.run({0: "w"} | dict.fromkeys(range(500, 1000, 30), "w"), 1500)
    assert held[0] and held[11] and not held[14], "a tap is a small step"
    assert all(held[50:98]), "from the first repetition on it is held"
    assert not any(held[115:]), "the focus was lost at 1 s: nothing repeats any more"
    assert typist.operator.wish(typist.now_ns).velocity == (0.0,) * 6


def test_keys_that_move_nothing_do_not_hold_the_dead_man_and_unknown_ones_let_go():
    typist = Typist()
    assert not any(typist.run({0: "+", 50: "t"}, 100))
    assert typist.operator.level == 3 and typist.operator.frame == "tool"
    held = typist.run({0: "w", 50: "z"}, 100)
    assert held[4] and not held[5], "z has no meaning"
    held = typist.run({0: "w", 50: " "}, 100)
    assert held[4] and not held[5] and "stopped" in typist.operator.why
    typist.run({0: "h"}, 50)
    assert typist.operator.take_hand_back() and not typist.operator.take_hand_back()


def test_the_gripper_key_works_the_gripper():
    typist = Typist()
    typist.run({0: "g"}, 50)
    assert typist.operator.gripper_open == 0.0


def test_a_terminal_is_read_and_given_back_and_its_end_is_a_device_that_is_gone():
    leader, follower = os.openpty()
    keyboard = Keyboard(load_mapping("keyboard"), follower)
    os.write(leader, b"w")
    assert [e.input for e in keyboard.read(10**18)] == [DEADMAN_KEY, "w", ""]
    os.close(leader)
    assert [e.input for e in keyboard.read(10**18)] == [GONE]
    keyboard.close()
    keyboard.close()
    os.close(follower)


def test_without_a_terminal_there_is_no_keyboard():
    reader, writer = os.pipe()
    with pytest.raises(DeviceError, match="standard input is none"):
        Keyboard(load_mapping("keyboard"), reader)
    os.close(reader)
    os.close(writer)


def raw(kind: int, code: int, value: int) -> bytes:
    return struct.pack("@llHHi", 1, 2, kind, code, value)


def test_an_input_device_of_linux_is_read_without_blocking_until_it_is_unplugged(tmp_path):
    path = tmp_path / "event0"
    os.mkfifo(path)
    device = InputDevice(str(path))
    writer = os.open(path, os.O_WRONLY)
    assert [(e.input, e.value) for e in device.read(10**18)] == [("", 0.0)], "it is there, and nothing moved"
    whole = raw(1, 0x136, 1) + raw(3, 1, -32768) + raw(2, 5, 350)
    os.write(writer, whole[:-7])
    first = device.read(10**18)
    os.write(writer, whole[-7:])
    later = device.read(10**18)
    assert [(e.input, round(e.value, 3)) for e in first] == [("BTN_TL", 1.0), ("ABS_Y", -1.0), ("", 0.0)]
    assert [(e.input, e.value) for e in later] == [("REL_RZ", 1.0), ("", 0.0)]
    assert ("REL_RZ", 0.0) in [(e.input, e.value) for e in device.read(10**18 + 200 * MS)], "the cap was let go"
    os.write(writer, raw(0, 3, 0))
    assert GONE in [e.input for e in device.read(10**18)], "the kernel lost events: what is held is not known"
    os.close(writer)
    assert [e.input for e in device.read(10**18)] == [GONE]
    assert [e.input for e in device.read(10**18)] == [GONE]


def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DeviceError, match=r"event9: No such file or directory; name another --device"):
        InputDevice(str(tmp_path / "event9"))
    listing = tmp_path / "devices"
    listing.write_text('N: Name="A Mouse"\nH: Handlers=mouse0 event3\n\nN: Name="Xbox Pad"\nH: Handlers=event7 js0\n')
    assert find_input_device(["xbox", "pad"], listing) == "/dev/input/event7"
    with pytest.raises(DeviceError, match=r"\['SpaceMouse'\] in its name; there are \['A Mouse', 'Xbox Pad'\]"):
        find_input_device(["SpaceMouse"], listing)


def test_a_recorded_stream_of_events_plays_a_gamepad(tmp_path):
    recorded = tmp_path / "pad.jsonl"
    events = [
        (0.0, "BTN_TL", 1.0),
        (0.1, "ABS_RY", 1.0),
        *((0.1 * k, "", 0.0) for k in range(2, 9)),
        (0.8, "BTN_TL", 0.0),
    ]
    recorded.write_text("\n".join(json.dumps(event) for event in events))
    device = open_device(str(recorded), load_mapping("gamepad"))
    assert isinstance(device, Recording)
    drive = Drive(mapping=load_mapping("gamepad"))
    drive.run(0.7, alive=False, device=device)
    assert np.abs(drive.velocities(last=3)[:, 2] + 0.25).max() < 0.01, "the right stick, pulled back, moves down"
    drive.run(0.1 + REST_S, alive=False, device=device)
    assert device.over and drive.joint_speed(last=3) < 1e-3 and drive.teleop.why == "the dead-man is not held"


class Browser:
    """Says what is held every 50 ms, as long as it says anything."""

    def __init__(self) -> None:
        self.device = open_device("", load_mapping("browser"))
        assert isinstance(self.device, Messages)
        self.operator, self.now_ns = Operator(load_mapping("browser"), TeleopOptions(), JOINTS), 10**18

    def run(self, ms: int, held: dict[str, float] | None) -> list[bool]:
        """Whether the dead-man is held, each 50 ms. ``held``: None: nothing is said."""
        found = []
        for _ in range(0, ms, 50):
            self.now_ns += 50 * MS
            if held is not None:
                self.device.take(json.dumps(held), self.now_ns)
            self.operator.feed(self.device.read(self.now_ns), self.now_ns)
            found.append(self.operator.wish(self.now_ns).held)
        return found


def test_what_a_message_does_not_name_is_let_go():
    browser = Browser()
    assert all(browser.run(100, {"deadman": 1, "w": 1, "right_y": -1}))
    assert browser.operator.wish(browser.now_ns).velocity == (0.0625, 0.0, -0.0625, 0.0, 0.0, 0.0)
    assert all(browser.run(100, {"deadman": 1}))
    assert browser.operator.wish(browser.now_ns).velocity == (0.0,) * 6
    assert not any(browser.run(50, {})) and browser.operator.why == "the dead-man is not held"
    assert all(browser.run(6000, {"deadman": 1, "w": 1})), "a key may be held for long while the page repeats it"
    browser.run(100, {"deadman": 1, "g": 1})
    assert browser.operator.gripper_open == 0.0, "one press, however often it is repeated"


def test_a_page_that_falls_silent_has_let_go_and_has_to_press_again():
    browser = Browser()
    assert all(browser.run(1000, {"deadman": 1, "w": 1}))
    held = browser.run(500, None)
    assert held == [True] * 6 + [False] * 4 and "silent for 0.3 s" in browser.operator.why
    assert not any(browser.run(500, {"deadman": 1, "w": 1})), "what comes after a gap is no new press"
    browser.run(50, {})
    assert all(browser.run(100, {"deadman": 1, "w": 1}))


@pytest.mark.parametrize(
    "text",
    [
        *("", "w", "1", "null", "[]", '["w"]', '{"w": "1"}', '{"w": true}', '{"w": null}', '{"w": {"w": 1}}'),
        *('{"w": NaN}', '{"w": Infinity}', '{"w": 1e9}', '{"w": -2}', '{"w": 1', '{"w": 0.1%s}' % ("1" * 5000)),
        *("[" * 4000, '{"gone": 1}', '{"": 1}'),
    ],
)
def test_a_message_that_says_no_events_is_refused_whole_and_is_no_sign_of_life(text):
    device = Messages(load_mapping("browser"))
    with pytest.raises(DeviceError, match=r"^the message .{0,90} (says no events; expected|names '(gone|)', no input)"):
        device.take(text, 1)
    assert device.read(2) == []
    device.take('{"deadman": 1}', 3)
    with pytest.raises(DeviceError):
        device.take(text, 4)
    device.read(5)
    device.take("{}", 6)
    assert Event(6, "deadman", 0.0) in device.read(7), "what is held is known still"


@pytest.mark.parametrize(
    ("text", "said"), [("[0, 1]", r":1: '\[0, 1\]' is no"), ("[1,'a',0]", "is no"), ('[1,"a",0]\n[0,"a",1]', "order")]
)
def test_a_recording_that_cannot_be_read_is_named(tmp_path, text, said):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DeviceError, match=said):
        Recording(tmp_path / "bad.jsonl")


def test_events_of_the_future_are_no_sign_of_life():
    operator = Operator(load_mapping("gamepad"), TeleopOptions(), JOINTS)
    operator.feed([Event(2 * 10**9, "BTN_TL", 1.0)], 10**9)
    assert not operator.held and "silent" in operator.why


def test_a_deflected_stick_that_says_nothing_any_more_is_let_go():
    """A device without a wire that is out of reach: Linux still answers for it."""
    operator = Operator(load_mapping("gamepad"), TeleopOptions(), JOINTS)

    def held(ms: int, *events: Event) -> bool:
        now_ns = 10**18 + ms * MS
        operator.feed([*events, Event(now_ns)], now_ns)
        return operator.wish(now_ns).held

    assert held(0, Event(10**18, "BTN_TL", 1.0))
    assert all(held(ms) for ms in range(0, 9000, 100)), "a stick in its middle may stay there"
    assert held(9000, Event(10**18, "ABS_Y", 1.0))
    assert all(held(ms) for ms in range(9000, 13000, 100)) and not held(13100)
    assert "nothing has changed on the device for 4.0 s" in operator.why
    assert not held(13200, Event(10**18, "ABS_Y", 0.9)), "the dead-man has to be pressed again"
