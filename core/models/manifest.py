"""The manifest of a checkpoint or model: every file with its size and hash. Written last; what it names is whole."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = "weightsmith-checkpoint-1"


def write_manifest(path: Path, *, step: int) -> tuple[str, int]:
    """Sync all below `path`, then list the files with sizes and hashes. Returns the manifest's hash and all bytes."""
    entries = []
    for found in sorted(path.rglob("*")):
        sync(found)  # of a directory: its entries
        if found.is_file():
            name, size = str(found.relative_to(path)), found.stat().st_size
            entries.append({"name": name, "bytes": size, "sha256": sha256_of(found)})
    created = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"format": FORMAT, "step": step, "created": created, "files": entries}, indent=1).encode()
    (path / MANIFEST).write_bytes(text)
    sync(path / MANIFEST)
    sync(path)
    return hashlib.sha256(text).hexdigest(), sum(int(str(entry["bytes"])) for entry in entries) + len(text)


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
