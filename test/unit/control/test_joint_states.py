"""Joint states are read from their bytes as a library for messages reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lavla_ros.recording.types import jazzy
from lavla_ros.ros.joint_states import StateReader

KIND = "sensor_msgs/msg/JointState"
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


def encoded(
    names: list[str],
    positions: list[float],
    *,
    stamp: tuple[int, int] = (1, 2),
    frame_id: str = "",
    velocities: int = 0,
    little_endian: bool = True,
) -> bytes:
    types = jazzy().types
    time = types["builtin_interfaces/msg/Time"](sec=stamp[0], nanosec=stamp[1])
    message = types[KIND](
        header=types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id),
        name=names,
        position=np.array(positions, dtype=float),
        velocity=np.zeros(velocities),
        effort=np.zeros(0),
    )
    return bytes(jazzy().serialize_cdr(message, KIND, little_endian=little_endian))


class Library:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, raw: bytes) -> Any:
        self.asked += 1
        return jazzy().deserialize_cdr(raw, KIND)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    names=st.lists(TEXTS, max_size=8),
    frame_id=TEXTS,
    velocities=st.integers(0, 3),
    numbers=st.lists(st.floats(), min_size=16, max_size=16),
    stamps=st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)), min_size=2, max_size=2),
)
def test_it_reads_what_the_library_reads_and_asks_it_once(names, frame_id, velocities, numbers, stamps):
    library = Library()
    reader = StateReader(library)
    for stamp, values in zip(stamps, (numbers[:8], numbers[8:]), strict=True):
        positions = values[: len(names)]
        raw = encoded(names, positions, stamp=stamp, frame_id=frame_id, velocities=velocities)
        found, at, stamp_ns = reader.read(raw)
        assert list(found) == names and stamp_ns == stamp[0] * 10**9 + stamp[1]
        assert np.array_equal(at, positions, equal_nan=True)
    assert library.asked == 1


def test_messages_of_the_same_size_are_told_apart():
    reader = StateReader(Library())
    sent = [
        encoded(["a", "b"], [1.0, 2.0]),
        encoded(["b", "a"], [3.0, 4.0]),
        encoded(["a", "b"], [5.0], velocities=1),
        encoded(["a", "b"], [], velocities=2),
        encoded(["a", "b"], [6.0, 7.0], little_endian=False),
        encoded(["a"], [8.0], frame_id="seven77"),
    ]
    for _ in range(2):
        told = [(list(names), list(positions)) for names, positions, _ in map(reader.read, sent)]
        assert told == [
            (["a", "b"], [1.0, 2.0]),
            (["b", "a"], [3.0, 4.0]),
            (["a", "b"], [5.0]),
            (["a", "b"], []),
            (["a", "b"], [6.0, 7.0]),
            (["a"], [8.0]),
        ]


def test_many_kinds_of_messages_fill_no_memory():
    library = Library()
    reader = StateReader(library)
    for number in range(100):
        reader.read(encoded([f"joint {number:03}"], [0.0]))
    assert library.asked == 100 and len(reader._layouts) < 20
