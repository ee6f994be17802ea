"""Checkpoints between scratch and storage: stored whole or not at all, and tidied up after attempts that lost."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import CoreError
from core.jobs.store import Claim
from core.jobs.tables import Checkpoint
from core.storage import Storage

MANIFEST = "manifest.json"


class NotWhole(CoreError):
    """What lies in storage is not what the trainer wrote."""

    retryable = True
    default_code = "checkpoint_not_stored"


def folder(job_id: str) -> str:
    """Below it lies a directory `<fence>-<step>` for each checkpoint of the job."""
    return f"checkpoints/{job_id}"


def store_whole(storage: Storage, key: str, source: Path, manifest_sha256: str) -> None:
    """Put a finished checkpoint into storage and read back that it is all there.

    Raises:
        StorageFull: nothing is left behind.
        NotWhole: names the first file that is missing or has another size.
    """
    seal(source)
    storage.put_directory(key, source)
    stored = storage.directory(key)
    text = (stored / MANIFEST).read_bytes()
    if hashlib.sha256(text).hexdigest() != manifest_sha256:
        raise NotWhole(f"{MANIFEST} has another hash than the one reported.")
    for entry in json.loads(text)["files"]:
        file = stored / entry["name"]
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            raise NotWhole(f"{entry['name']} is missing or has another size.")


def seal(source: Path) -> None:
    """Take what a child of another user has written out of its hands: storage may hold links to the same files."""
    if os.geteuid() != 0 or source.stat().st_uid == 0:
        return
    for path in (source, *source.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def remove_local(path: Path) -> None:
    """Drop the trainer's own copy of a checkpoint that has a successor in storage."""
    shutil.rmtree(path, ignore_errors=True)


def debris(session: Session, storage: Storage, claim: Claim) -> list[str]:
    """Storage keys of checkpoints that fenced-off attempts stored and could not commit: no row knows them."""
    known = set(session.scalars(select(Checkpoint.storage_key).where(Checkpoint.job_id == claim.job_id)))
    names = [name for name in storage.names(folder(claim.job_id)) if not name.startswith(".")]
    older = (name for name in names if int(name.partition("-")[0]) < claim.fence)
    return sorted({f"{folder(claim.job_id)}/{name}" for name in older} - known)
