"""Bytes on their way into storage: what is refused, where, and that nothing of it remains."""

import gzip
import hashlib
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.intake import Intake, clean_name
from core.errors import CoreError, InvalidData, StorageFull, TooLarge
from core.storage import Storage


def intake(storage: Storage, filename: str = "a.txt", **limits: int) -> Intake:
    return Intake(storage, "files/a", filename=filename, **({"min_free_bytes": 0, "max_bytes": 1 << 30} | limits))


def leftovers(storage: Storage) -> list[str]:
    return [str(path) for path in storage.root.rglob("*") if path.is_file()]


def fail(storage: Storage, filename: str, *blocks: bytes) -> CoreError:
    arriving = intake(storage, filename)
    for block in blocks:
        arriving.write(block)
    with pytest.raises(InvalidData) as raised:
        arriving.keep(for_training=True)
    arriving.discard()
    assert leftovers(storage) == []
    assert raised.value.param == "file"
    return raised.value


def test_keeps_what_is_good(tmp_path: Path) -> None:
    storage, content = Storage(tmp_path), "größer\n".encode() * 50
    arriving = intake(storage)
    for i in range(0, len(content), 7):  # cuts through characters
        arriving.write(content[i : i + 7])
    assert arriving.keep(for_training=True) == "text"
    assert storage.file("files/a").read_bytes() == content
    assert (arriving.size_bytes, arriving.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("filename", "blocks", "code", "words"),
    [
        ("a.txt", [], "empty_file", "empty"),
        ("a.txt", [b""], "empty_file", "empty"),
        ("a.txt", [b"one\ntwo\n", b"th\xffree\n"], "invalid_file_format", "line 3 is not UTF-8 (byte 0xff)"),
        ("a.txt", [b"one\n", b"two\x00"], "invalid_file_format", "line 2 holds a NUL byte"),
        ("a.txt", [b"PK\x03\x04\x00\x00"], "invalid_file_format", "line 1 holds a NUL byte"),
        ("a.jsonl", [b'{"text": "a"}\n{"te'], "truncated_file", "cut off"),
        ("a.jsonl", [b'{"colour": "a"}\n'], "unknown_format", "'colour'"),
        ("a.txt", [b'{"text": "a"}\n'], "wrong_extension", "JSON lines"),
    ],
)
def test_refuses_what_cannot_be_trained_on(
    tmp_path: Path, filename: str, blocks: list[bytes], code: str, words: str
) -> None:
    error = fail(Storage(tmp_path), filename, *blocks)
    assert error.code == code
    assert words in error.message


def test_other_purposes_take_any_bytes(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    arriving = intake(storage, "a.png")
    arriving.write(b"\x89PNG\x00\xff")
    assert arriving.keep(for_training=False) is None
    assert storage.file("files/a").exists()


def test_compressed_files_are_looked_into(tmp_path: Path) -> None:
    arriving = intake(Storage(tmp_path), "a.jsonl.gz")
    arriving.write(gzip.compress(b'{"prompt": "a", "completion": "b"}\n'))
    assert arriving.keep(for_training=True) == "prompt_completion"


def test_more_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    arriving = intake(storage, max_bytes=10)
    arriving.write(b"12345")
    with pytest.raises(TooLarge, match="10 bytes"):
        arriving.write(b"678901")
    arriving.discard()
    assert leftovers(storage) == []


def test_keeps_space_free(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="MiB left"):
        intake(Storage(tmp_path), min_free_bytes=1 << 60).write(b"a")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    arriving = intake(storage)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # Python ignores SIGXFSZ: writing fails with EFBIG
    try:
        with pytest.raises(StorageFull):
            arriving.write(b"x" * (2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        arriving.discard()
    assert leftovers(storage) == []


@given(st.text())
def test_a_name_is_never_a_path(name: str) -> None:
    cleaned = clean_name(name)
    assert cleaned
    assert "/" not in cleaned
    assert "\\" not in cleaned
    assert "\x00" not in cleaned
    assert len(cleaned) <= 255


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\x\\passwd", "a/b\\passwd"])
def test_only_the_last_part_of_a_path_is_kept(name: str) -> None:
    assert clean_name(name) == "passwd"
