"""TFRecord files and the ``tf.train.Example`` messages in them, without TensorFlow.

A record is its length (8 bytes, little-endian), the masked CRC32C of these 8 bytes, the data, and the masked CRC32C of
the data. The messages are declared to protobuf here, because TensorFlow's own declarations come only with TensorFlow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
"""Of CRC32C, with its bits reversed."""
_LANES = 4096
"""Parts of a record whose sums are computed side by side."""


class RecordError(ValueError):
    """A record cannot be read, and where the next one begins is not known; those before it can be."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its data, or why there is none."""

    data: bytes = b""
    error: str = ""


def records(file: Path) -> Iterator[Record]:
    """The records of a file, in order; one whose data fail their checksum has an error.

    Raises RecordError after the last whole record if the file is cut off or the next length fails its checksum, and
    OSError if the file cannot be read.
    """
    with file.open("rb") as opened:
        while True:
            begin = opened.tell()
            head = opened.read(12)
            if not head:
                return
            if len(head) < 12:
                raise RecordError(f"the file is cut off at byte {begin + len(head)}, in the head of a record")
            length, stated = struct.unpack("<QI", head)
            if masked_crc32c(head[:8]) != stated:
                raise RecordError(f"no record begins at byte {begin}: the checksum of its length is wrong")
            data = opened.read(length)
            tail = opened.read(4)
            if len(tail) < 4:
                raise RecordError(
                    f"the file is cut off at byte {opened.tell()}: the record at byte {begin} ends at byte "
                    f"{begin + length + 16}"
                )
            wrong = masked_crc32c(data) != struct.unpack("<I", tail)[0]
            yield Record(error=f"the checksum of the record at byte {begin} is wrong") if wrong else Record(data)


def parse_example(data: bytes) -> dict[str, Sequence[Any]]:
    """Feature → its values (bytes, floats or integers) of one ``tf.train.Example``. Raises ValueError."""
    try:
        features = _example_class().FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"the record of {len(data)} bytes is no tf.train.Example: {error}") from None
    found: dict[str, Sequence[Any]] = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        found[name] = getattr(feature, kind).value if kind else ()
    return found


def masked_crc32c(data: bytes) -> int:
    """CRC32C as TFRecord files have it: rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC32C (Castagnoli) of ``data``.

    Pictures make records of megabytes. So a long one is cut into lanes of equal length, whose sums are computed side by
    side and then joined: the sum of ``a + b`` is that of ``a`` moved on by ``len(b)`` zero bytes, plus that of ``b``.
    """
    rest = len(data) % _LANES if len(data) >= 4 * _LANES else len(data)
    table = _table()
    crc = 0xFFFFFFFF
    for byte in data[:rest]:
        crc = int(table[(crc ^ byte) & 0xFF]) ^ crc >> 8
    if rest == len(data):
        return crc ^ 0xFFFFFFFF
    columns_NL = np.ascontiguousarray(np.frombuffer(data, np.uint8, offset=rest).reshape(_LANES, -1).T)
    sums_L = np.zeros(_LANES, np.uint32)
    sums_L[0] = crc
    for column_L in columns_NL:
        sums_L = table[(sums_L ^ column_L) & 0xFF] ^ sums_L >> 8
    moved = _zero_bytes(len(columns_NL))
    while len(sums_L) > 1:
        sums_L = _times(moved, sums_L[::2]) ^ sums_L[1::2]
        moved = _times(moved, moved)
    return int(sums_L[0]) ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint32]:
    """(256,) what one byte does to the sum."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ np.uint32(_POLYNOMIAL), values >> 1)
    return values


def _times(matrix_32: NDArray[np.uint32], values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The matrix over bits, given by what it makes of each single bit, times each value."""
    made = np.zeros_like(values)
    for bit, column in enumerate(matrix_32):
        made ^= np.where(values >> np.uint32(bit) & 1, column, np.uint32(0))
    return made


def _zero_bytes(count: int) -> NDArray[np.uint32]:
    """(32,) what ``count`` zero bytes make of each single bit of a sum."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power, made = _table()[bits & 0xFF] ^ bits >> 8, bits
    while count:
        made = _times(power, made) if count & 1 else made
        power, count = _times(power, power), count >> 1
    return made


@lru_cache(maxsize=1)
def _example_class() -> Any:
    """``tf.train.Example``: a map from names to lists of bytes, floats or integers."""
    kinds = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
    messages: Mapping[str, Sequence[tuple[str, str, bool]]] = {
        "BytesList": [("value", "TYPE_BYTES", True)],
        "FloatList": [("value", "TYPE_FLOAT", True)],
        "Int64List": [("value", "TYPE_INT64", True)],
        "Feature": [(name, kind, False) for name, kind in kinds.items()],
        "Features": [("feature", "Features.FeatureEntry", True)],
        "Example": [("features", "Features", False)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="lavla", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        _add_fields(message, fields)
        if name == "Feature":
            message.oneof_decl.add(name="kind")
            for field in message.field:
                field.oneof_index = 0
        if name == "Features":
            entry = message.nested_type.add(name="FeatureEntry")
            entry.options.map_entry = True
            _add_fields(entry, [("key", "TYPE_STRING", False), ("value", "Feature", False)])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lavla.Example"))


def _add_fields(message: Any, fields: Sequence[tuple[str, str, bool]]) -> None:
    field_type = descriptor_pb2.FieldDescriptorProto
    for number, (name, kind, repeated) in enumerate(fields, 1):
        field = message.field.add(name=name, number=number)
        field.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
        if kind.startswith("TYPE_"):
            field.type = getattr(field_type, kind)
        else:
            field.type, field.type_name = field_type.TYPE_MESSAGE, f".lavla.{kind}"
