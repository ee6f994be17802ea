"""Where bytes rest between processes. Keys are `/`-separated and made by the server.

Writing is atomic: a reader sees all or nothing. What is read is a local path, for reading only.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from core.errors import InvalidRequest, NotFound, StorageFull


class Storage:
    """A folder on a disk that all processes of the deployment see."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where `key` lies. Refuses what would leave the root."""
        path = (self.root / key).resolve()
        if not key or path == self.root or not path.is_relative_to(self.root):
            raise InvalidRequest(f"storage key {key!r} is not allowed", code="bad_storage_key")
        return path

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A file that appears under `key` when the block ends well, and leaves nothing behind when it does not."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with _full_disk_named(), partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def put_directory(self, key: str, source: Path) -> None:
        """Copy (or link, on the same disk) a finished directory to `key`. An existing one is kept."""
        target = self.path(key)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with _full_disk_named():
                shutil.copytree(source, partial, copy_function=_link_or_copy)
                _fsync(partial)
                partial.rename(target)
                _fsync(target.parent)
        except OSError as error:  # someone was faster: then ours is not needed
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def directory(self, key: str) -> Path:
        """A local path of the directory under `key`, for reading only."""
        return self._existing(key)

    def file(self, key: str) -> Path:
        """A local path of the file under `key`, for reading only."""
        return self._existing(key)

    def delete(self, key: str) -> None:
        """Remove a file or a directory; nothing there is fine."""
        path = self.path(key)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def names(self, key: str) -> list[str]:
        """What lies directly below `key`; nothing there is fine."""
        path = self.path(key)
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def _existing(self, key: str) -> Path:
        path = self.path(key)
        if not path.exists():
            raise NotFound(f"storage holds nothing under {key!r}", code="bytes_missing")
        return path


def open_storage(url: str) -> Storage:
    """`file:///folder`.

    Raises:
        InvalidRequest: a scheme that is not supported.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Storage(Path(parts.path))
    raise InvalidRequest(
        f"STORAGE_URL {url!r} is not supported; give file:///a/folder that all machines mount",
        code="bad_storage_url",
    )


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        _fsync(Path(target))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _full_disk_named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                "The storage is full.", hint="Delete files, models or jobs that are not needed, or add space."
            ) from error
        raise
