import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from core.data import reader, streams
from core.data.check import check_file
from core.data.reader import BadLine, read_records, sniff
from core.errors import InvalidData

Write = Callable[[str, bytes | str | list[Any]], Path]
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ROWS = [{"text": "a"}, {"text": "é\n"}, {"text": "春"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def records(path: Path) -> list[Any]:
    return [record for _, record in read_records(path, path.name)]


def problems(path: Path) -> list[tuple[int, str]]:
    return [(line, r.message) for line, r in read_records(path, path.name) if isinstance(r, BadLine)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL.encode()),
        ("a.ndjson", JSONL.encode()),
        ("A.JSONL", JSONL.encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL.encode()),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n").encode()),
        ("blank.jsonl", b"\n" + JSONL.replace("\n", "\n\n").encode() + b"  \n"),
        ("no_newline.jsonl", JSONL.rstrip().encode()),
        ("array.json", json.dumps(ROWS).encode()),
        ("pretty.json", json.dumps(ROWS, indent=2).encode()),
        ("lines.json", JSONL.encode()),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("a.csv", 'text\na\n"é\n"\n春\n'.encode()),
        ("crlf.csv", 'text\r\na\r\n"é\n"\r\n春\r\n'.encode()),
        ("a.tsv", 'text\na\n"é\n"\n春\n'.encode()),
        ("a.jsonl.gz", gzip.compress(JSONL.encode())),
        ("two.jsonl.gz", gzip.compress(JSONL[:20].encode()) + gzip.compress(JSONL[20:].encode())),
        ("a.jsonl.zst", zstandard.compress(JSONL.encode())),
        ("two.jsonl.zst", zstandard.compress(JSONL[:20].encode()) + zstandard.compress(JSONL[20:].encode())),
        ("unnamed_gzip.jsonl", gzip.compress(JSONL.encode())),
        ("array.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    ],
)
def test_every_way_to_write_the_same_rows(write: Write, name: str, content: bytes) -> None:
    path = write(name, content)
    assert records(path) == ROWS
    assert sniff(path, name) == "text"
    assert check_file(path, name, "text").num_examples == 3


def test_lines_are_counted_as_an_editor_does(write: Write) -> None:
    path = write("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')
    assert [line for line, _ in read_records(path, path.name)] == [1, 3]
    pretty = write("a.json", json.dumps(ROWS, indent=2))
    assert [line for line, _ in read_records(pretty, pretty.name)] == [2, 5, 8]
    table = write("a.csv", 'text\n"one\ntwo"\nthree\n')
    assert [line for line, _ in read_records(table, table.name)] == [2, 4]


def test_plain_text_is_cut_into_sections_and_nothing_is_lost(write: Write) -> None:
    paragraphs = [f"paragraph {i} " + "word " * (i % 200) + "\n\n" for i in range(500)]
    path = write("book.txt", "".join(paragraphs))
    sections = [record["text"] for record in records(path)]
    assert "".join(sections) == "".join(paragraphs)
    assert all(len(section.encode()) <= reader.SECTION_BYTES for section in sections)
    assert all(section.endswith("\n\n") for section in sections)
    assert len(sections) == pytest.approx(path.stat().st_size / reader.SECTION_BYTES, abs=2)


@pytest.mark.parametrize("unit", ["春", "🙂", "ab ", "line\n", "é"])
def test_long_lines_are_cut_between_characters(write: Write, unit: str) -> None:
    text = unit * 40_000
    path = write("notes.md", text)
    assert "".join(record["text"] for record in records(path)) == text


@given(st.text(alphabet="ab\n é春🙂", max_size=300))
def test_sections_of_any_size_join_to_the_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("t") / "a.txt"
    path.write_text(text, newline="")
    before, reader.SECTION_BYTES = reader.SECTION_BYTES, 16
    try:
        sections = [record["text"] for record in records(path)]
    finally:
        reader.SECTION_BYTES = before
    assert "".join(sections).split() == text.split()
    assert all(section.strip() for section in sections)


def test_windows_line_ends_in_plain_text_become_newlines(write: Write) -> None:
    assert records(write("a.txt", "a\r\nb\r\n")) == [{"text": "a\nb\n"}]


def test_one_bad_line_does_not_hide_the_next(write: Write) -> None:
    lines = [json.dumps(CHAT)] * 12
    lines[6] = '{"messages": [}'
    lines[8] = "[1, 2]"
    lines[9] = '{"messages": [{"role": "user", "content": "\ud800"}]}'.encode("utf-8", "surrogatepass").decode(
        "latin-1"
    )
    path = write("train.jsonl", "\n".join(lines).encode("latin-1"))
    assert [line for line, _ in problems(path)] == [7, 9, 10]
    report = check_file(path, path.name, "chat")
    assert (report.num_examples, report.num_errors) == (9, 3)
    error = report.error()
    assert error is not None
    assert error.message.startswith("train.jsonl line 7: not JSON: Expecting value at character 15")
    assert "line 9: is an array; give a JSON object" in error.message
    assert "line 10: not UTF-8: byte 0xed" in error.message


def test_the_report_counts_everything_and_shows_the_first_hundred(write: Write) -> None:
    path = write("a.jsonl", [CHAT, *[{"messages": []}] * 150, CHAT])
    report = check_file(path, path.name, "chat")
    assert (report.num_examples, report.num_errors, len(report.errors)) == (2, 150, 100)
    assert report.errors[0].line == 2
    assert report.facts["messages"] == {"user": 2, "assistant": 2}
    assert (report.facts["learned_messages"], report.num_characters) == (2, 4)
    assert "and 147 more" in report.error().message  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "at"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', (2, "not UTF-8: byte 0xff at position 11")),
        ("a.jsonl", b'{"text": "' + b"a" * 5000 + b'"}\n{"text": "\x00"}\n', (2, "NUL")),
        ("a.txt", b"a" * 5000 + b"\nb\x00c\n", (2, "NUL")),
        ("a.jsonl", b'{"text": NaN}', (1, "NaN is not JSON")),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, (1, "nested too deeply")),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", (1, "not JSON")),
        ("a.txt", b"one\ntwo \xe9t\xe9\n", (2, "not UTF-8: byte 0xe9 at position 5")),
        ("a.json", b'[{"text": "a"},\n{"text": "b"]', (2, "not JSON")),
        ("a.json", b'[{"text": "a"},\n{"text": "b"}', (2, "not closed")),
        ("a.json", b'[{"text": "a"}\n{"text": "b"}]', (2, "expected ','")),
        ("a.json", b'[{"text": "a"},\n"b"]', (2, "is a string; give a JSON object")),
        ("a.json", b'[{"text": "\xff"}]', (1, "not UTF-8")),
        ("a.json", b"[" * 100_000, (1, "nested too deeply")),
        ("a.csv", b"text,title\na,b\nc\n", (3, "has 1 fields, the header has 2")),
        ("a.csv", b"text,text\na,b\n", (1, "names a column twice")),
        ("a.csv", b'text\n"a\nb\n', (2, "not CSV: unexpected end of data")),
        ("a.csv", b"text\na\n\xff\n", (3, "not UTF-8")),
    ],
)
def test_bad_lines_have_their_number(write: Write, name: str, content: bytes, at: tuple[int, str]) -> None:
    found = problems(write(name, content))
    assert [line for line, _ in found] == [at[0]]
    assert at[1] in found[0][1]


def test_a_line_that_is_too_long(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 1000)
    rows = [{"text": "a"}, {"text": "b" * 5000}, {"text": "c"}]
    path = write("a.jsonl", rows)
    assert [line for line, _ in problems(path)] == [2]
    assert [r for r in records(path) if not isinstance(r, BadLine)] == [rows[0], rows[2]]


def test_an_item_of_json_may_be_longer_than_what_is_read_at_once(write: Write) -> None:
    rows = [{"text": "x" * (3 << 20)}, {"text": "y"}]
    assert records(write("a.json", json.dumps(rows))) == rows


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_compressed_file_that_was_cut_off(write: Write, compress: Callable[[bytes], bytes]) -> None:
    rows = "".join(json.dumps({"text": os.urandom(40).hex()}) + "\n" for _ in range(20_000))
    whole = compress(rows.encode())
    path = write("a.jsonl.x", whole[: len(whole) // 2])
    found = list(read_records(path, "a.jsonl.gz"))
    assert isinstance(found[-1][1], BadLine)
    assert "ends too early" in found[-1][1].message
    assert len(found) > 1000
    assert check_file(path, "a.jsonl.gz", "text").num_errors == 1
    small = write("b", whole[:2000])
    with pytest.raises(InvalidData, match="ends too early"):
        sniff(small, "b.jsonl.gz")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_bomb_is_given_up_early(write: Write, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(b'{"text": "' + b" " * (40 << 20))
    assert len(bomb) < 1 << 20
    path = write("bomb.jsonl", bomb)
    assert any("inflates to more than 100 times" in message for _, message in problems(path))


def test_damaged_compression(write: Write) -> None:
    data = bytearray(gzip.compress(os.urandom(1000)))
    data[100] ^= 0xFF
    assert "damaged" in problems(write("a.txt.gz", bytes(data)))[0][1]
    assert "damaged" in problems(write("a.txt.zst", streams.ZSTD + b"\xff" * 100))[0][1]


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"PK\x03\x04zip", "binary_file", "zip archive"),
        (b"PAR1data", "binary_file", "Parquet"),
        (b"%PDF-1.7", "binary_file", "PDF"),
        (b"ab\x00cd", "binary_file", "NUL"),
        (gzip.compress(b"PK\x03\x04zip"), "binary_file", "zip archive"),
        ("text".encode("utf-16"), "not_utf8", "UTF-16"),
        (b"", "empty_file", "empty"),
        (b"\n \n", "empty_file", "empty"),
    ],
)
def test_files_that_are_nothing(write: Write, content: bytes, code: str, says: str) -> None:
    for name in ("a.jsonl", "a.txt", "a.csv", "a.json"):
        with pytest.raises(InvalidData, match=says) as error:
            sniff(write(name, content), name)
        assert error.value.code == code


@pytest.mark.parametrize(
    ("row", "format"),
    [({"text": "a"}, "text"), (CHAT, "chat"), ({"prompt": "a", "completion": "b"}, "prompt_completion")],
)
def test_formats_are_told_by_their_keys(write: Write, row: Any, format: str) -> None:
    path = write("a.jsonl", [row] * 3)
    assert sniff(path, path.name) == format
    assert sniff(write("code.py", "def f(): ...\n"), "code.py") == "text"


@pytest.mark.parametrize(
    ("rows", "code", "says", "hint"),
    [
        ([{"a": 1}], "unknown_format", "keys 'a'", "rename"),
        ([CHAT, CHAT, {"text": "a"}], "mixed_formats", "line 3 is text, most rows are chat", "file of its own"),
        (
            [{"text": "a", **CHAT}],
            "mixed_formats",
            "line 1 is text and chat",
            "remove or rename the keys of all but one",
        ),
        ([{"conversations": []}], "invalid_data", "looks like format 'sharegpt', but line 1", ""),
        ([{"messages": []}], "invalid_data", "looks like format 'chat', but line 1", ""),
        ([[1]], "invalid_data", "line 1: is an array", ""),
    ],
)
def test_rows_that_fit_nothing(write: Write, rows: list[Any], code: str, says: str, hint: str) -> None:
    path = write("data.jsonl", rows)
    with pytest.raises(InvalidData, match=says) as error:
        sniff(path, path.name)
    assert error.value.code == code
    assert hint in (error.value.hint or "")
    assert error.value.line_errors


def test_a_table_without_a_header(write: Write) -> None:
    with pytest.raises(InvalidData, match="fits no format") as error:
        sniff(write("a.csv", "3,Some news\n4,Other news\n"), "a.csv")
    assert (error.value.hint or "").startswith("the first line must name the columns")


def test_a_format_that_changes_far_into_the_file_is_found_by_the_check(write: Write) -> None:
    path = write("a.jsonl", [*[CHAT] * 100, {"text": "a"}])
    assert sniff(path, path.name) == "chat"
    errors = check_file(path, path.name, "chat").errors
    assert [(e.line, e.message) for e in errors] == [
        (101, "the row is text, the file is chat; one file holds one format")
    ]


def test_json_lines_with_a_name_of_plain_text(write: Write) -> None:
    with pytest.raises(InvalidData, match="holds JSON lines") as error:
        sniff(write("train.txt", [CHAT]), "train.txt")
    assert error.value.code == "wrong_extension"
    assert sniff(write("code.txt", "{ not json }\n"), "code.txt") == "text"


def test_progress_goes_to_one(write: Write) -> None:
    fractions: list[float] = []
    path = write("a.jsonl", [{"text": "x" * 1000}] * 5000)
    assert len(list(read_records(path, path.name, progress=fractions.append))) == 5000
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) > 2
