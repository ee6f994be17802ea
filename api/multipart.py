"""Multipart bodies, streamed: the file goes to a sink as it comes, and memory holds a megabyte of it at most."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from core.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BATCH_BYTES = 1 << 20
MAX_FIELDS = 32
MAX_FIELD_BYTES = 64 << 10

Sink = Callable[[bytes], None]


@dataclass
class Form:
    """What stands around the file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """as the client says; None: there was no file"""


async def receive(request: Request, *, file_field: str, begin: Callable[[str], Sink]) -> Form:
    """Read the whole body. `begin(filename)` gives the sink, which is then called in the thread pool.

    Raises:
        InvalidRequest: not multipart, cut off, two files, or fields without measure.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest(
            f"The body must be multipart/form-data with the file in the field `{file_field}`.",
            code="multipart_required",
            param=file_field,
        )
    reader = _Reader(file_field, begin)
    parser = MultipartParser(boundary, reader.callbacks())
    try:
        async for chunk in request.stream():
            parser.write(chunk)
            if reader.waiting_bytes >= BATCH_BYTES:
                await run_in_threadpool(reader.flush)
        await run_in_threadpool(reader.flush)
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body is malformed: {error}.", code="malformed_body") from None
    if not reader.ended:
        raise InvalidRequest(
            "The multipart body ends in the middle: the upload was cut off.",
            code="truncated_upload",
            param=file_field,
            hint="Send it again.",
        )
    if reader.form.filename is None:
        raise InvalidRequest(f"There is no file in the field `{file_field}`.", param=file_field)
    return reader.form


class _Reader:
    """The parser's callbacks. They only collect; writing is done by `flush`."""

    def __init__(self, file_field: str, begin: Callable[[str], Sink]) -> None:
        self.file_field, self.begin = file_field, begin
        self.form = Form()
        self.ended = False
        self._name, self._filename = "", ""
        self._header, self._value = b"", b""
        self._disposition = b""
        self._text = bytearray()
        self._sink: Sink | None = None
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def flush(self) -> None:
        if self._waiting and self._sink is not None:
            data = b"".join(self._waiting)
            self._waiting, self.waiting_bytes = [], 0
            self._sink(data)

    @property
    def _in_file(self) -> bool:
        return self._name == self.file_field

    def _part_begin(self) -> None:
        self._name = ""
        self._disposition = b""
        self._text = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._in_file:
            if len(self.form.fields) >= MAX_FIELDS:
                raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields.", code="malformed_body")
            return
        if self.form.filename is not None:
            raise InvalidRequest("The form has two files; send one.", param=self.file_field)
        self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        self._sink = self.begin(self.form.filename)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._waiting.append(data[start:end])
            self.waiting_bytes += end - start
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The field `{self._name[:64]}` has more than {MAX_FIELD_BYTES} bytes.", param=self._name[:64] or None
            )

    def _part_end(self) -> None:
        if not self._in_file:
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
