"""The ring between processes: order, loss, torn records, foreign files."""

from __future__ import annotations

import multiprocessing as mp
import struct
import time

import pytest

from lavla_ros.control.ring import Ring, RingError

pytestmark = pytest.mark.timed


def test_records_come_in_order_and_once(tmp_path):
    writer = Ring.create(tmp_path / "r", slots=4, capacity=32)
    reader = Ring.open(tmp_path / "r")
    assert reader.read() is None and reader.newest() is None
    for i in range(3):
        writer.write(bytes([i]) * i)
    assert [reader.read() for _ in range(4)] == [b"", b"\x01", b"\x02\x02", None]
    assert reader.newest() == b"\x02\x02"


def test_a_slow_reader_loses_the_oldest_and_counts_them(tmp_path):
    writer = Ring.create(tmp_path / "r", slots=4, capacity=8)
    reader = Ring.open(tmp_path / "r")
    for i in range(10):
        writer.write(str(i).encode())
    assert [reader.read() for _ in range(5)] == [b"6", b"7", b"8", b"9", None]
    assert reader.lost == 6


def test_a_torn_record_is_never_returned(tmp_path):
    writer = Ring.create(tmp_path / "r", slots=2, capacity=16)
    reader = Ring.open(tmp_path / "r")
    writer.write(b"first")
    writer.write(b"x" * 16)
    content = bytearray((tmp_path / "r").read_bytes())
    content[content.index(b"xxxx") + 2] = ord("y")
    with (tmp_path / "r").open("r+b") as file:
        file.write(content)
    assert reader.newest() == b"first"
    assert reader.read() == b"first" and reader.read() is None
    assert reader.torn >= 1


def _write_many(path, seconds):
    ring = Ring.open(path)
    number, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1
        ring.write(struct.pack("<Q", number) * (1 + number % 400))


def test_no_torn_record_under_stress(tmp_path):
    path = tmp_path / "r"
    Ring.create(path, slots=4, capacity=3208)
    reader = Ring.open(path)
    process = mp.get_context("spawn").Process(target=_write_many, args=(path, 1.5))
    process.start()
    last = count = 0
    while process.is_alive():
        payload = reader.newest()
        if payload is not None:
            numbers = set(struct.unpack(f"<{len(payload) // 8}Q", payload))
            assert len(numbers) == 1, "torn"
            number = numbers.pop()
            assert number >= last
            assert len(payload) // 8 == 1 + number % 400
            last, count = number, count + 1
    process.join()
    assert process.exitcode == 0 and count > 1000


def test_what_is_no_ring_is_refused(tmp_path):
    (tmp_path / "foreign").write_bytes(b"hello" * 100)
    (tmp_path / "empty").write_bytes(b"")
    for name, text in (("foreign", "not a ring"), ("empty", "cannot map"), ("absent", "cannot map")):
        with pytest.raises(RingError, match=text):
            Ring.open(tmp_path / name)
    ring = Ring.create(tmp_path / "r", slots=2, capacity=4)
    with pytest.raises(RingError, match="capacity is 4"):
        ring.write(b"12345")
    content = (tmp_path / "r").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-3])
    with pytest.raises(RingError, match="truncated"):
        Ring.open(tmp_path / "cut")
