"""A run's series as a TensorBoard event file: a copy for people who look there.

A file is a row of records: length, its checksum, an Event, its checksum (tensorflow/core/lib/io/record_writer.h). Of
the protobuf message Event (tensorflow/core/util/event.proto) five fields are written here. Writing may fail, a run may
not: after the first failure nothing more is written.
"""

import logging
import math
import re
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from core.events import Evaluated, Event, Started, Step

_log = logging.getLogger(__name__)
VERSION = b"brain.Event:2"
SESSION_START = b"\x08\x01"
"""of SessionLog: whoever reads it drops what older files say from its step on"""
_CASTAGNOLI = 0x82F63B78


class EventFile:
    """One attempt's file. Made with the first event, so that an attempt that says nothing leaves none."""

    def __init__(self, folder: Path, *, fence: int) -> None:
        self.folder, self.fence = folder, fence
        self._path: Path | None = None
        self._has_failed = False

    def add(self, event: Event) -> None:
        """Write what a child reported, where it is a point of a series, or the beginning of an attempt."""
        match event:
            case Started(step=step):
                self._write(_event(step + 1, _bytes(7, SESSION_START)))
            case Step(step=step):
                self._write(_event(step, _bytes(5, _summary(event.series))))
            case Evaluated(step=step, metrics=metrics):
                self._write(_event(step, _bytes(5, _summary(metrics))))
            case _:
                pass

    def _write(self, event: bytes) -> None:
        if self._has_failed:
            return
        try:
            with self._opened().open("ab") as file:
                file.write(_record(event))
        except OSError as error:
            self._has_failed = True
            _log.warning("no more event files for TensorBoard in this attempt: %s", error)

    def _opened(self) -> Path:
        if self._path is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{self.fence}"
            self._path = self.folder / name  # files are read in the order of their names
            with self._path.open("xb") as file:
                file.write(_record(_event(0, _bytes(3, VERSION))))
        return self._path


def folder_of_run(root: Path, name: str | None, job_id: str) -> Path:
    """Below `root`, by a name that people chose; it can hold slashes, a folder's name cannot."""
    return root / re.sub(r"[^\w.-]", "-", f"{name or 'run'}-{job_id}")


def _event(step: int, what: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + what


def _summary(values: Mapping[str, float]) -> bytes:
    """Message Summary: a Value for each number, its tag and its fp32."""
    return b"".join(_bytes(1, _bytes(1, name.encode()) + b"\x15" + _float(value)) for name, value in values.items())


def _float(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + _checksum(length) + event + _checksum(event)


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted ("masked") as the format wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _table()
