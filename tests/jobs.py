"""Jobs for tests: rows as a submit would make them, without HTTP, and the invariants that no failure may break."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.data.tokenizer import Tokenizer
from core.job_spec import TokenizerSpec, TrainSpec
from core.jobs import metrics, registry, store
from core.jobs.database import Database
from core.jobs.ids import new_id
from core.jobs.states import TRANSITIONS
from core.jobs.tables import Attempt, Checkpoint, File, Job, JobEvent, Project
from core.storage import Storage

TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 32}


def add_project(database: Database, name: str = "lab") -> str:
    with database.transaction() as session:
        project = Project(id=new_id("proj_"), name=name)
        session.add(project)
    return project.id


def add_file(
    database: Database,
    storage: Storage,
    project_id: str,
    text: str,
    *,
    filename: str = "text.txt",
    format: str | None = None,
) -> str:
    """A file of plain text or JSONL (chat unless said otherwise), as an upload leaves it."""
    file_id = new_id("file-")
    with storage.writing(f"files/{file_id}") as file:
        file.write(text.encode())
    row = File(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose="fine-tune",
        size_bytes=len(text.encode()),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        format=format or ("chat" if filename.endswith(".jsonl") else "text"),
        status="processed",
        storage_key=f"files/{file_id}",
    )
    with database.transaction() as session:
        session.add(row)
    return file_id


def train_spec(file_id: str = "file-none", *, steps: int = 20, **fields: Any) -> TrainSpec:
    """A tiny model from random weights on the byte tokenizer, resolved."""
    given: dict[str, Any] = {
        "model": {"init": "random", "dimensions": TINY, "tokenizer": "bytes"},
        "data": {"train": [{"file": file_id}]},
        "budget": {"steps": steps},
        "batch": {"sequences": 4},
        "precision": "fp32",
        "evaluation": {"samples": 0},
        "checkpoints": {"every": 5, "keep": 2},
    }
    spec = TrainSpec.model_validate(given | fields)
    assert spec.model.init == "random"
    return spec.resolved(spec.model.shape(vocab_size=Tokenizer.bytes().vocab_size), format="text")


def submit(database: Database, project_id: str, spec: TrainSpec | TokenizerSpec) -> str:
    """What the api does with a POST /v1/jobs."""
    with database.transaction() as session:
        if isinstance(spec, TokenizerSpec):
            job = store.insert(
                session, project_id=project_id, spec=spec, uses=[source.file for source in spec.data.train]
            )
        else:
            base = None
            if spec.model.init == "pretrained":
                base = registry.resolve_model(session, project_id, spec.model.from_)
                config, used = base.config, [base.object_id]
            else:
                config, used = spec.model.shape(vocab_size=Tokenizer.bytes().vocab_size), []
            name = registry.new_model_name(session, project_id, suffix=spec.suffix, base=base)
            job = store.insert(
                session,
                project_id=project_id,
                spec=spec,
                uses=[*used, *(source.file for source in spec.data.train)],
                base_model=base.name if base else None,
                model_name=name,
                config=config,
            )
    return job.id


def look(database: Database, job_id: str) -> Job:
    with database.reading() as session:
        return session.get_one(Job, job_id)


def events(database: Database, job_id: str) -> list[JobEvent]:
    with database.reading() as session:
        return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)))


def attempts(database: Database, job_id: str) -> list[Attempt]:
    with database.reading() as session:
        return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.fence)))


def losses(database: Database, job_id: str) -> list[tuple[int, float]]:
    """The visible training loss, step by step."""
    with database.reading() as session:
        return [
            (bucket.last_step, bucket.last) for bucket in metrics.read(session, job_id, "train_loss", max_points=10**6)
        ]


def check_invariants(database: Database, storage: Storage | None = None, *, jobs: Sequence[str] | None = None) -> None:
    """What must be true of every job at every moment, whatever has failed (numbers as in the reliability notes)."""
    with database.reading() as session:
        query = select(Job) if jobs is None else select(Job).where(Job.id.in_(jobs))
        rows = list(session.scalars(query))
    for job in rows:
        _check_attempts(job, attempts(database, job.id))
        _check_events(job, events(database, job.id))
        _check_steps(job, losses(database, job.id))
        _check_checkpoints(database, storage, job)
        # I4: nobody is stuck.
        waits = job.desired == "run" and job.lease_owner is None
        fits = {
            "validating": waits or job.lease_owner is not None,
            "queued": waits,
            "running": job.lease_expires_at is not None,
            "stopping": job.lease_expires_at is not None,
            "paused": job.desired == "pause" and job.lease_owner is None,
        }
        assert fits.get(job.state, job.lease_owner is None), f"I4: {job.state}/{job.desired}/{job.lease_owner}"


def _check_attempts(job: Job, rows: Sequence[Attempt]) -> None:
    running = [row for row in rows if row.ended_at is None]
    assert len(running) == (job.lease_owner is not None), "I1: one open attempt where there is a lease, else none"
    for earlier, later in pairwise(rows):
        assert earlier.ended_at is not None, "I1"
        assert earlier.ended_at <= later.started_at, "I2: attempts overlap"
    succeeded = [row.fence for row in rows if row.outcome == "succeeded"]
    assert succeeded == ([job.fence] if job.state == "succeeded" else []), f"I3: {succeeded} {job.state} {job.fence}"
    assert job.attempts == len([row for row in rows if row.outcome != "released"]), "I6: attempts are claims"
    assert all(row.fence <= job.fence for row in rows)


def _check_events(job: Job, rows: Sequence[JobEvent]) -> None:
    assert [row.seq for row in rows] == list(range(1, job.event_seq + 1)), "I10: a gap in the events"
    states = [row.data["state"] for row in rows if row.kind == "state"]
    assert states[0] == "validating"
    assert states[-1] == job.state, "I10: a change of state without its event"
    for before, after in pairwise(states):
        assert after in TRANSITIONS[before], f"I7: {before} -> {after}"
    cancelled = [row.seq for row in rows if row.kind == "cancel_requested"]
    assert not (cancelled and job.state == "succeeded"), "I8: cancelled, then succeeded"
    fences = [row.fence for row in rows]
    assert fences == sorted(fences), "an older attempt wrote after a younger one"


def _check_steps(job: Job, series: Iterable[tuple[int, float]]) -> None:
    steps = [step for step, _ in series]
    assert steps == list(range(1, len(steps) + 1)), f"I5: steps are not contiguous: {steps}"
    if job.state == "succeeded" and job.kind == "train":
        assert job.total_steps is None or len(steps) <= job.total_steps


def _check_checkpoints(database: Database, storage: Storage | None, job: Job) -> None:
    with database.reading() as session:
        rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id)).all()
        visible = {row.id for row in rows if row.deleted_at is None}
        assert job.checkpoint_id is None or job.checkpoint_id in visible, "the newest checkpoint is hidden"
    if storage is not None:
        for row in rows:
            if row.swept_at is None:
                assert_checkpoint_is_whole(storage.directory(row.storage_key), row.manifest_sha256)


def assert_checkpoint_is_whole(path: Path, manifest_sha256: str) -> None:
    """I9: every file of a committed checkpoint has the size and the hash of its manifest."""
    text = (path / "manifest.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == manifest_sha256, "I9"
    for entry in json.loads(text)["files"]:
        file = path / entry["name"]
        assert file.stat().st_size == entry["bytes"], f"I9: {entry['name']}"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"], f"I9: {entry['name']}"
