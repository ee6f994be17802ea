"""A file's bytes, inflated where they are gzip or zstd, under limits: a small upload must not become a large disk or
memory. Archives (zip, tar, 7z) are refused."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import zstandard

from core.errors import InvalidData

MAX_RATIO = 100
FREE_BYTES = 32 << 20
"""inflated bytes up to which any ratio is fine"""
MAX_INFLATED_BYTES = 64 << 30
MAX_WINDOW_BYTES = 128 << 20
CHUNK_BYTES = 1 << 20
GZIP_OUTPUT_BYTES = 1 << 16
"""what is lost in front of the place where the data breaks off"""
ZSTD_INPUT_BYTES = 1 << 11
"""one block of 4 bytes can inflate to 128 KiB, and the library returns all that an input gives"""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BINARY = {
    b"PK\x03\x04": "a zip archive (or an Office document)",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"SQLite format 3\x00": "a SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF model",
}
UTF_16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
WAY_OUT = "upload text, JSONL, JSON or CSV in UTF-8, as it is or compressed with gzip or zstd"


class Damaged(Exception):
    """The compressed stream cannot be read further; the message says why."""


def open_stream(path: Path, *, progress: Callable[[float], None] | None = None) -> io.BufferedReader:
    """The file's bytes without compression and without a UTF-8 byte order mark.

    `progress` is called with the fraction of the file that has been read.

    Raises:
        InvalidData: it is binary or UTF-16. Reading may raise `Damaged` later.
    """
    file = path.open("rb")
    size = max(path.stat().st_size, 1)

    def bounded() -> Iterator[bytes]:
        inflated = 0
        for chunk in _chunks(file):
            inflated += len(chunk)
            if inflated > max(FREE_BYTES, MAX_RATIO * file.tell()) or inflated > MAX_INFLATED_BYTES:
                raise Damaged(
                    f"the compressed data inflates to more than {MAX_RATIO} times its size; upload it uncompressed"
                )
            if progress is not None:
                progress(min(1.0, file.tell() / size))
            yield chunk

    stream: io.BufferedReader = io.BufferedReader(_Chunked(bounded(), file), CHUNK_BYTES)
    try:
        head = stream.peek(16)[:4096]
        _refuse_binary(head)
    except Damaged:  # the reader meets it again, at line 1
        return stream
    except InvalidData:
        stream.close()
        raise
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    return stream


class _Chunked(io.RawIOBase):
    """Chunks of bytes as a raw stream."""

    def __init__(self, chunks: Iterator[bytes], file: IO[bytes]) -> None:
        self._chunks, self._file, self._rest = chunks, file, memoryview(b"")
        self._damage: Damaged | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._damage is not None:
            raise self._damage
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except Damaged as damage:
                self._damage = damage
                raise
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(GZIP):
        yield from _gunzip(file)
    elif magic == ZSTD:
        yield from _unzstd(file)
    else:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _gunzip(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as inflater:
        while True:
            try:
                chunk = inflater.read(GZIP_OUTPUT_BYTES)
            except EOFError:
                raise Damaged("the gzip data ends too early: the file was cut off; upload it whole") from None
            except (OSError, zlib.error) as error:
                raise Damaged(f"the gzip data is damaged ({error}); compress the file again") from None
            if not chunk:
                return
            yield chunk


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
    library = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    inflater = None
    rest = b""
    while block := rest or file.read(ZSTD_INPUT_BYTES):
        inflater = inflater or library.decompressobj()
        try:
            chunk = inflater.decompress(block)
        except zstandard.ZstdError as error:
            raise Damaged(f"the zstd data is damaged or has a window above 128 MiB ({error})") from None
        rest = inflater.unused_data if inflater.eof else b""
        if inflater.eof:
            inflater = None
        if chunk:
            yield chunk
    if inflater is not None:
        raise Damaged("the zstd data ends too early: the file was cut off; upload it whole")


def _refuse_binary(head: bytes) -> None:
    kind = next((kind for magic, kind in BINARY.items() if head.startswith(magic)), None)
    if kind is None and head.startswith(UTF_16_OR_32):
        raise InvalidData("the file is UTF-16 or UTF-32 text", code="not_utf8", hint="save it as UTF-8")
    if kind is not None or b"\x00" in head:
        raise InvalidData(f"the file is {kind or 'binary: it contains NUL bytes'}", code="binary_file", hint=WAY_OUT)
