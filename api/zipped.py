"""A directory as one zip, written while it is sent: stored, not compressed (weights do not shrink)."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from core.adapters.merged_files import Computed

BLOCK_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""of all files, so that equal directories give equal zips"""
_LOCAL_HEADER, _DESCRIPTOR, _ENTRY, _END = 30, 16, 46, 22
_LARGE = 1 << 31
"""from here on sizes are written differently"""


Source = Path | Computed


class _Pipe:
    """A file that can only be written; what was written is taken out in between."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.blocks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data, self.blocks = b"".join(self.blocks), []
        return data


def stream(files: Mapping[str, Source]) -> Iterator[bytes]:
    """The zip of these files by their names in it."""
    pipe = _Pipe()
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as archive:
        for name, source in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=_size(source) >= _LARGE) as entry:
                for block in _blocks(source):
                    entry.write(block)
                    yield pipe.take()
    yield pipe.take()


def _blocks(source: Source) -> Iterator[bytes | memoryview]:
    if not isinstance(source, Path):
        yield from source.blocks()
        return
    with source.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _size(source: Source) -> int:
    return source.stat().st_size if isinstance(source, Path) else source.num_bytes


def num_bytes(files: Mapping[str, Source]) -> int | None:
    """How long the zip will be, for a client's progress bar; None where it is too large to tell."""
    total = _END
    for name, source in files.items():
        total += _size(source) + _LOCAL_HEADER + _DESCRIPTOR + _ENTRY + 2 * len(name.encode())
    return total if total < _LARGE else None
