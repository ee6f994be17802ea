"""Result files of a train job: its metrics as plain CSV, with the columns that OpenAI's clients read, and as JSONL."""

import csv
import hashlib
import io
import json
import math
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.jobs import files, metrics
from core.jobs.database import Database
from core.jobs.ids import new_id
from core.jobs.tables import Job
from core.storage import Storage

MAX_POINTS = 50_000
"""of a series; longer ones are thinned out"""
COLUMNS = {
    "train_loss": "train_loss",
    "train_accuracy": "train_token_accuracy",
    "valid_loss": "validation_loss",
    "valid_mean_token_accuracy": "validation_token_accuracy",
}


def ensure(database: Database, storage: Storage, job: Job) -> list[str]:
    """Ids of the result files of a succeeded train job; written when they are first asked for."""
    known = (job.result or {}).get("files")
    if known is not None or job.state != "succeeded" or job.kind != "train":
        return list(known or [])
    with database.reading() as session:
        rows = _rows(session, job.id)
    contents = {"step_metrics.csv": _as_csv(rows), "step_metrics.jsonl": _as_jsonl(rows)}
    written = {}
    for name, content in contents.items():
        file_id = new_id("file-")
        with storage.writing(files.storage_key(file_id)) as file:
            file.write(content)
        written[file_id] = (name, content)
    with database.transaction() as session:
        locked = session.scalars(select(Job).where(Job.id == job.id).with_for_update()).one()
        known = (locked.result or {}).get("files")
        if known is None:
            for file_id, (name, content) in written.items():
                files.add(
                    session,
                    job.project_id,
                    file_id=file_id,
                    filename=name,
                    purpose=files.RESULTS,
                    size_bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                    format=None,
                )
            locked.result = dict(locked.result or {}) | {"files": list(written)}
            return list(written)
    for file_id in written:  # another request was faster
        storage.delete(files.storage_key(file_id))
    return list(known)


def _rows(session: Session, job_id: str) -> list[dict[str, Any]]:
    """One dict a step, with the series that have a value there."""
    steps: dict[int, dict[str, Any]] = {}
    for name in metrics.names(session, job_id):
        for bucket in metrics.read(session, job_id, name, max_points=MAX_POINTS):
            if math.isfinite(bucket.last):
                steps.setdefault(bucket.last_step, {"step": bucket.last_step})[name] = bucket.last
    return [steps[step] for step in sorted(steps)]


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *COLUMNS])
    writer.writerows([row["step"], *(row.get(name, "") for name in COLUMNS.values())] for row in rows)
    return text.getvalue().encode()


def _as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
