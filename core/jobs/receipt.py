"""The receipt of a job: all that is needed to run it again and to tell whether it was the same."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.jobs import listing
from core.jobs.tables import Checkpoint, File, Job, JobUse, Model, TokenizerRow, Worker


def receipt(session: Session, job: Job) -> dict[str, Any]:
    """Spec as it was obeyed, plan, inputs by hash, versions, machines, attempts, result."""
    attempts = listing.attempts(session, job.id)
    workers = {
        row.id: row for row in session.scalars(select(Worker).where(Worker.id.in_([a.worker for a in attempts])))
    }
    plan = job.plan or {}
    exactness = [a.resume_exactness for a in attempts if a.resume_exactness is not None]
    return {
        "object": "job.receipt",
        "job": job.id,
        "kind": job.kind,
        "state": job.state,
        "seed": job.spec.get("seed"),
        "spec": job.spec,
        "model": job.config,
        "parent": job.parent_id,
        "inputs": _inputs(session, job),
        "preparation": job.preparation,
        "plan": job.plan,
        "versions": {
            "torch": plan.get("torch"),
            "weightsmith": sorted({workers[a.worker].version for a in attempts if a.worker in workers}),
        },
        "hardware": {name: plan.get(name) for name in ("device", "device_name", "threads", "precision", "compiled")},
        "attempts": [
            {
                "fence": a.fence,
                "stage": a.stage,
                "worker": a.worker,
                "started_at": a.started_at,
                "ended_at": a.ended_at,
                "outcome": a.outcome,
                "first_step": a.first_step,
                "resume_exactness": a.resume_exactness,
            }
            for a in attempts
        ],
        "resume_exactness": "state" if "state" in exactness else "exact",
        "result": _result(session, job),
    }


def _inputs(session: Session, job: Job) -> list[dict[str, Any]]:
    """What the job reads, deleted or not: a hash outlives its bytes."""
    used = list(session.scalars(select(JobUse.object_id).where(JobUse.job_id == job.id).order_by(JobUse.object_id)))
    files = session.scalars(select(File).where(File.id.in_(used)).order_by(File.id))
    tokenizers = session.scalars(select(TokenizerRow).where(TokenizerRow.id.in_(used)))
    models = session.scalars(select(Model).where(Model.name.in_(used)))
    checkpoints = session.scalars(select(Checkpoint).where(Checkpoint.id.in_(used)))
    return [
        *(
            {
                "object": "file",
                "id": row.id,
                "filename": row.filename,
                "format": row.format,
                "bytes": row.size_bytes,
                "sha256": row.sha256,
            }
            for row in files
        ),
        *({"object": "tokenizer", "id": row.id, "sha256": row.sha256} for row in tokenizers),
        *({"object": "model", "id": row.name, "sha256": row.manifest_sha256} for row in models),
        *({"object": "checkpoint", "id": row.model_name, "sha256": row.manifest_sha256} for row in checkpoints),
    ]


def _result(session: Session, job: Job) -> dict[str, Any] | None:
    if job.result is None:
        return None
    last = session.get(Checkpoint, job.result.get("checkpoint") or "")
    return dict(job.result) | ({"manifest_sha256": last.manifest_sha256} if last else {})
