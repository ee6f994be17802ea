"""The manifest of a checkpoint or model: every file with its size and hash. Written last; what it names is whole."""

import hashlib
import json
import os
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = "weightsmith-checkpoint-1"


def write_manifest(path: Path, *, step: int) -> tuple[str, int]:
    """Sync every file below `path`, then list them with sizes and hashes. Returns the manifest's hash and all bytes."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = []
    for file in files:
        sync(file)
        entries.append({"name": str(file.relative_to(path)), "bytes": file.stat().st_size, "sha256": sha256_of(file)})
    text = json.dumps({"format": FORMAT, "step": step, "files": entries}, indent=1).encode()
    (path / MANIFEST).write_bytes(text)
    sync(path / MANIFEST)
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
