"""Bytes on their way into storage: counted, hashed and looked at as they come. A file's name is data, never a path."""

import codecs
import hashlib
import re
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import BinaryIO

from core.data import reader
from core.data.formats import FormatName
from core.data.records import parse_json
from core.errors import CoreError, InvalidData, StorageFull, TooLarge
from core.storage import Storage

SPACE_CHECKED_EVERY = 64 << 20
_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")
_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Intake:
    """One file that arrives. `write` in order; then `keep`, or `discard`: what was not kept was never there."""

    def __init__(self, storage: Storage, key: str, *, filename: str, min_free_bytes: int, max_bytes: int) -> None:
        self.storage, self.key = storage, key
        self.filename = clean_name(filename)
        self.min_free_bytes, self.max_bytes = min_free_bytes, max_bytes
        self.size_bytes = 0
        self.lines = 0
        """line ends so far"""
        self.fault: str | None = None
        """why this is no text"""
        self._sha256 = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._looks = PurePath(self.filename.lower()).suffix not in _COMPRESSED
        self._next_check = 0
        self._opened = ExitStack()
        self._file: BinaryIO | None = None

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def write(self, data: bytes) -> None:
        """
        Raises:
            TooLarge: more than a file may have.
            StorageFull: too little would be left.
        """
        if self._file is None:
            self._file = self._opened.enter_context(self.storage.writing(self.key))
        if self.size_bytes + len(data) > self.max_bytes:
            raise TooLarge(
                f"The file is larger than the {self.max_bytes} bytes that are allowed here.",
                param="file",
                hint="Send larger files in parts: POST /v1/uploads.",
            )
        if self.size_bytes + len(data) > self._next_check:
            check_space(self.storage, SPACE_CHECKED_EVERY + self.min_free_bytes)
            self._next_check = self.size_bytes + SPACE_CHECKED_EVERY
        try:
            self._file.write(data)
        except OSError as error:
            self._opened.__exit__(type(error), error, error.__traceback__)  # the storage says what it means
            raise
        self._sha256.update(data)
        if self._looks and self.fault is None:
            self._look(data)
        self.size_bytes += len(data)

    def keep(self, *, for_training: bool) -> FormatName | None:
        """Put the file into its place. For training it must hold data that can be read; its format is returned.

        Raises:
            InvalidData: empty, binary, not UTF-8, cut off, or of no known format.
        """
        try:
            if not self.size_bytes:
                raise InvalidData(f"{self.filename} is empty.", code="empty_file", param="file")
            if for_training and self.fault is not None:
                raise InvalidData(f"{self.filename}: {self.fault}", code="invalid_file_format", param="file")
        except InvalidData:
            self.discard()
            raise
        self._opened.close()
        if not for_training:
            return None
        try:
            return self._format(self.storage.file(self.key))
        except CoreError:
            self.storage.delete(self.key)
            raise

    def discard(self) -> None:
        """Nothing remains."""
        self._opened.__exit__(_Discarded, _Discarded(), None)

    def _look(self, data: bytes) -> None:
        try:
            if 0 in data:
                at = data.index(0)
                line = self.lines + data.count(b"\n", 0, at) + 1
                self.fault = f"line {line} holds a NUL byte: this is a binary file, not text."
            else:
                self._decoder.decode(data)
        except UnicodeDecodeError as error:
            line = self.lines + error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            self.fault = f"line {line} is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8."
        self.lines += data.count(b"\n")

    def _format(self, path: Path) -> FormatName:
        if PurePath(self.filename.lower()).suffix in _JSON_LINES:
            self._check_last_line(path)
        try:
            return reader.sniff(path, self.filename)
        except InvalidData as error:
            raise InvalidData(
                error.message, code=error.code, param="file", hint=error.hint, line_errors=error.line_errors
            ) from None

    def _check_last_line(self, path: Path) -> None:
        """A file that was cut off while it was written ends in the middle of a line."""
        with path.open("rb") as file:
            file.seek(max(0, self.size_bytes - reader.MAX_LINE_BYTES))
            line = file.read().rstrip().rpartition(b"\n")[2]
        try:
            parse_json(line.decode() or "{}")
        except ValueError as error:
            raise InvalidData(
                f"{self.filename}: its last line is not JSON ({error}); the file may have been cut off.",
                code="truncated_file",
                param="file",
            ) from None


class _Discarded(Exception):
    pass


def check_space(storage: Storage, needed_bytes: int) -> None:
    """
    Raises:
        StorageFull: less than this is free.
    """
    free = storage.free_bytes()
    if free < needed_bytes:
        raise StorageFull(
            f"The storage has {free >> 20} MiB left, which is too little to take this.",
            hint="Delete files and models that are not needed, or ask the operator for space.",
        )


def clean_name(filename: str) -> str:
    """The last part of a path, without control characters."""
    name = _CONTROL.sub("", filename.replace("\\", "/")).rpartition("/")[2].strip()
    return name[-255:] or "upload"
