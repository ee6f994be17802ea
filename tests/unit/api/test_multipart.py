"""Multipart bodies are read the same however they are cut, and hold little in memory."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from api.multipart import BATCH_BYTES, Form, Sink, receive
from core.errors import InvalidRequest


def body(*parts: tuple[str, str | None, bytes]) -> bytes:
    out = b""
    for name, filename, content in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        out += f'--B\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return out + b"--B--\r\n"


def read(
    chunks: Iterable[bytes], *, content_type: str = "multipart/form-data; boundary=B"
) -> tuple[Form, bytes, list[int]]:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    received: list[bytes] = []

    async def next_message() -> dict[str, object]:
        return messages.pop(0)

    def begin(filename: str) -> Sink:
        return received.append

    async def main() -> Form:
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}
        return await receive(Request(scope, next_message), file_field="file", begin=begin)

    form = asyncio.run(main())
    return form, b"".join(received), [len(block) for block in received]


WHOLE = body(("purpose", None, b"fine-tune"), ("file", "ä.txt", b"one\r\n--B\r\ntwo"), ("more", None, b"x"))


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    content = body(("purpose", None, b"fine-tune"), ("file", "ä.txt", b"one\r\n--C\r\ntwo"), ("more", None, b"x"))
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    form, received, _ = read(content[a:b] for a, b in pairwise(places))
    assert form.fields == {"purpose": "fine-tune", "more": "x"}
    assert form.filename == "ä.txt"
    assert received == b"one\r\n--C\r\ntwo"


def test_memory_holds_a_batch_at_most() -> None:
    content = body(("file", "a", b"x" * (5 * BATCH_BYTES)))
    chunk = 64 << 10
    _, received, sizes = read(content[i : i + chunk] for i in range(0, len(content), chunk))
    assert len(received) == 5 * BATCH_BYTES
    assert max(sizes) <= BATCH_BYTES + chunk


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (body(("file", "a", b"abc"))[:-6], "truncated_upload"),
        (b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nab', "truncated_upload"),
        (body(("purpose", None, b"x")), "invalid_request"),
        (body(("file", "a", b"1"), ("file", "b", b"2")), "invalid_request"),
        (body(*((f"f{i}", None, b"") for i in range(40))), "malformed_body"),
        (body(("long", None, b"x" * (65 << 10)), ("file", "a", b"1")), "invalid_request"),
        (b"nonsense", "malformed_body"),
    ],
)
def test_refuses(content: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read([content])
    assert raised.value.code == code


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", ""])
def test_needs_multipart(content_type: str) -> None:
    with pytest.raises(InvalidRequest, match="multipart/form-data"):
        read([b""], content_type=content_type)
