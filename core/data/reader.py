"""Files as records, streamed: plain text, JSONL, JSON and CSV, as they are or compressed.

A record is a dict with the file's keys. A line that cannot be read becomes a `BadLine` and reading goes on behind it.
"""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from core.data import detection, streams
from core.data.detection import formats_of, has_keys_of
from core.data.examples import Example
from core.data.formats import FORMATS, FormatName
from core.data.records import DECODER, kind_of, parse_json
from core.errors import InvalidData

Record = dict[str, Any]
MAX_LINE_BYTES = 16 << 20
SECTION_BYTES = 32 << 10
SNIFFED_ROWS = 64
KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip


@dataclass(frozen=True)
class BadLine:
    """Why a line gives no record."""

    message: str


def read_records(
    path: Path, filename: str, *, progress: Callable[[float], None] | None = None
) -> Iterator[tuple[int, Record | BadLine]]:
    """Every record with the line (from 1) that it starts on. `filename` says by its ending what the bytes are.

    `progress` is called now and then with the fraction of the file that has been read.

    Raises:
        InvalidData: the file as a whole is nothing that can be read.
    """
    with streams.open_stream(path, progress=progress) as stream:
        last = 1
        try:
            for last, record in _records(stream, _kind(filename)):
                yield last, record
        except streams.Damaged as damage:
            yield last, BadLine(f"{damage}")


def parse(record: Record, format: FormatName) -> Example:
    """The record as an example.

    Raises:
        ValueError: what is wrong, what is allowed and what to do.
    """
    try:
        return FORMATS[format].parse(record)
    except ValueError as error:
        others = formats_of(record)
        if others and not has_keys_of(format, record):
            raise ValueError(f"the row is {others[0]}, the file is {format}; one file holds one format") from error
        raise


def sniff(path: Path, filename: str) -> FormatName:
    """The format of the file, from its first rows.

    Raises:
        InvalidData: nothing fits, or the rows mix formats; `line_errors` names the lines.
    """
    rows = list(islice(read_records(path, filename), SNIFFED_ROWS))
    bad = [(line, row.message) for line, row in rows if isinstance(row, BadLine)]
    records = [(line, row) for line, row in rows if not isinstance(row, BadLine)]
    if not rows:
        raise InvalidData(f"{filename} is empty", code="empty_file", hint="upload a file with at least one row")
    if not records:
        line, message = bad[0]
        raise InvalidData(f"{filename} line {line}: {message}", code="invalid_data", line_errors=bad)
    found = Counter(name for _, record in records for name in formats_of(record))
    if not found:
        line, record = records[0]
        raise detection.unknown(filename, line, record, is_table=_kind(filename) in ("csv", "tsv"))
    format = found.most_common(1)[0][0]
    if len(found) > 1:
        raise detection.mixed(filename, records, format)
    if _kind(filename) == "text":
        _refuse_hidden_json(filename, records[0][1]["text"])
    errors = _parse_errors(records, format)
    if len(errors) == len(records):
        raise InvalidData(
            f"{filename} looks like format {format!r}, but line {errors[0][0]} says otherwise: {errors[0][1]}",
            line_errors=errors,
        )
    return format


def _refuse_hidden_json(filename: str, text: str) -> None:
    """A name that does not say JSONL would have the model learn braces and quotes."""
    line = text.lstrip().split("\n", 1)[0]
    if line.startswith("{"):
        try:
            record = parse_json(line)
        except ValueError:
            return
        if formats_of(record):
            raise InvalidData(
                f"{filename} holds JSON lines, but its name says plain text",
                code="wrong_extension",
                hint="rename it so that it ends in .jsonl (or .json, .csv)",
            )


def _parse_errors(records: list[tuple[int, Record]], format: FormatName) -> list[tuple[int, str]]:
    errors = []
    for line, record in records:
        try:
            parse(record, format)
        except ValueError as error:
            errors.append((line, str(error)))
    return errors


def _kind(filename: str) -> str:
    name = PurePath(filename.lower())
    if name.suffix in (".gz", ".gzip", ".zst", ".zstd"):
        name = name.with_suffix("")
    return KINDS.get(name.suffix, "text")


def _records(stream: BufferedReader, kind: str) -> Iterator[tuple[int, Record | BadLine]]:
    match kind:
        case "jsonl":
            return _jsonl(stream)
        case "json":
            return _json(stream)
        case "csv":
            return _csv(stream, delimiter=",")
        case "tsv":
            return _csv(stream, delimiter="\t")
        case _:
            return _sections(stream)


def _jsonl(stream: BufferedReader) -> Iterator[tuple[int, Record | BadLine]]:
    for number, line in _lines(stream):
        if isinstance(line, BadLine):
            yield number, line
        elif not line.isspace():
            try:
                text = line.decode()
                yield number, _object(parse_json(text))
            except UnicodeDecodeError as error:
                yield number, _not_utf8(error)
            except ValueError as error:
                yield number, BadLine(f"not JSON: {error}; give one JSON object per line")


def _lines(stream: BufferedReader) -> Iterator[tuple[int, bytes | BadLine]]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield number, BadLine(f"longer than {MAX_LINE_BYTES >> 20} MiB; split it")
        elif b"\x00" in line:
            yield number, BadLine("contains a NUL byte: this is not text")
        else:
            yield number, line


def _object(value: object) -> Record | BadLine:
    if isinstance(value, dict):
        return value
    return BadLine(f"is {kind_of(value)}; give a JSON object")


def _not_utf8(error: UnicodeDecodeError) -> BadLine:
    byte = error.object[error.start]
    return BadLine(f"not UTF-8: byte 0x{byte:02x} at position {error.start + 1}; save the file as UTF-8")


def _json(stream: BufferedReader) -> Iterator[tuple[int, Record | BadLine]]:
    """Items of one array, or objects one after the other, without holding the whole file."""
    text = _Text(stream)
    try:
        in_array = text.skip_space() == "["
        if in_array:
            text.advance(1)
        first = True
        while (character := text.skip_space()) and character != "]":
            if in_array and not first:
                if character != ",":
                    yield text.line, BadLine("not JSON: expected ',' or ']' behind the item")
                    return
                text.advance(1)
                text.skip_space()
            first = False
            line = text.line
            yield line, _object(text.item())
        if in_array and not character:
            yield text.line, BadLine("not JSON: the array is not closed; the file may have been cut off")
    except UnicodeDecodeError as error:
        yield text.line, _not_utf8(error)
    except RecursionError:
        yield text.line, BadLine("nested too deeply; nothing behind this item could be read")
    except ValueError as error:
        yield text.line, BadLine(f"not JSON: {error}; nothing behind this item could be read")


class _Text:
    """A window on decoded text that moves forward, with the line it is at."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8")()
        self._window, self._at, self._ended = "", 0, False
        self.line = 1

    def advance(self, size: int) -> None:
        self.line += self._window.count("\n", self._at, self._at + size)
        self._at += size

    def skip_space(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            rest = len(self._window) - self._at
            stripped = len(self._window[self._at : self._at + 256].lstrip())
            self.advance(min(rest, 256) - stripped)
            if stripped:
                return self._window[self._at]
            if self._at == len(self._window) and not self._more():
                return ""

    def item(self) -> object:
        """Decode the JSON value that starts here."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._window, self._at)
                if end < len(self._window) or self._ended:  # else it may go on: 12|3
                    self.advance(end - self._at)
                    return value
            except json.JSONDecodeError as error:
                if self._ended:
                    self.advance(error.pos - self._at)
                    raise ValueError(error.msg) from None
            if len(self._window) - self._at > MAX_LINE_BYTES:
                raise ValueError(f"the item is broken, or longer than {MAX_LINE_BYTES >> 20} MiB")
            self._more()

    def _more(self) -> bool:
        """Double what is in sight. False at the end of the file."""
        chunk = self._stream.read(max(streams.CHUNK_BYTES, len(self._window) - self._at))
        self._ended = not chunk
        self._window = self._window[self._at :] + self._decoder.decode(chunk, final=self._ended)
        self._at = 0
        return bool(self._window)


def _csv(stream: BufferedReader, *, delimiter: str) -> Iterator[tuple[int, Record | BadLine]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(_csv_lines(stream), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for row in rows:
            line, starts = rows.line_num + 1, line
            if not row:
                continue
            if header is None:
                header = row
                if len(set(header)) < len(header):
                    yield starts, BadLine(f"the header names a column twice: {', '.join(header)}"[:500])
                    return
            else:
                yield starts, _csv_record(header, row)
    except csv.Error as error:
        yield line, BadLine(f"not CSV: {error}; nothing behind this line could be read")


def _csv_record(header: list[str], row: list[str]) -> Record | BadLine:
    if len(row) != len(header):
        return BadLine(f"has {len(row)} fields, the header has {len(header)}; quote fields that contain the delimiter")
    if not all(field.isascii() for field in row):
        try:
            "".join(row).encode()
        except UnicodeEncodeError:
            return BadLine("not UTF-8; save the file as UTF-8")
    return dict(zip(header, row, strict=True))


def _csv_lines(stream: BufferedReader) -> Iterator[str]:
    """A line that is too long or binary ends the file; bytes that are no UTF-8 become surrogates, refused by row."""
    for _, line in _lines(stream):
        if isinstance(line, BadLine):
            raise csv.Error(line.message)
        yield line.decode("utf-8", "surrogateescape")


def _sections(stream: BufferedReader) -> Iterator[tuple[int, Record | BadLine]]:
    """Plain text in pieces of at most 32 KiB, cut behind a paragraph, else a line, else a word."""
    line, rest = 1, b""
    while block := rest + stream.read(SECTION_BYTES - len(rest)):
        size = len(block) if len(block) < SECTION_BYTES else _cut(block)
        section, rest = block[:size], block[size:]
        if b"\x00" in section:
            at = line + section.count(b"\n", 0, section.index(b"\x00"))
            yield at, BadLine("contains a NUL byte: this is not text")
        else:
            try:
                text = section.decode().replace("\r\n", "\n")
                if not text.isspace():
                    yield line, {"text": text}
            except UnicodeDecodeError as error:
                begins = section.rfind(b"\n", 0, error.start) + 1
                in_line = UnicodeDecodeError("utf-8", section[begins:], error.start - begins, error.end - begins, "")
                yield line + section.count(b"\n", 0, error.start), _not_utf8(in_line)
        line += section.count(b"\n")


def _cut(block: bytes) -> int:
    """Where a full block ends best."""
    half = len(block) // 2
    for boundary in (b"\n\n", b"\r\n\r\n", b"\n", b" "):
        at = block.rfind(boundary, half)
        if at >= 0:
            return at + len(boundary)
    size = len(block)
    while size > half and block[size - 1] & 0xC0 == 0x80:  # not between the bytes of a character
        size -= 1
    return size - 1 if block[size - 1] >= 0xC0 else size
