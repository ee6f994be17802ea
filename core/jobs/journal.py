"""What people see of a job: its events in order, its progress, its metric series and its log. Never its state."""

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.events import (
    Entered,
    Evaluated,
    Event,
    Failed,
    Finished,
    Prepared,
    Progressed,
    Resumed,
    Sampled,
    Saved,
    Started,
    Step,
    Warned,
)
from core.jobs import metrics
from core.jobs.dialect import clock
from core.jobs.tables import Attempt, Job, JobEvent, LogChunk

Level = Literal["info", "warn", "error"]
MAX_LOG_BYTES = 16 << 20
_STEP_EVENTS_PER_RUN = 100


def append(
    session: Session,
    job: Job,
    kind: str,
    message: str,
    *,
    level: Level = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """The next event of a job; the row lock that the caller holds keeps `seq` without gaps."""
    job.event_seq += 1
    session.add(
        JobEvent(
            job_id=job.id,
            seq=job.event_seq,
            fence=job.fence,
            kind=kind,
            level=level,
            message=message,
            data=data or {},
        )
    )


def recorded_offset(session: Session, job: Job) -> int:
    """Bytes of this attempt's events file that are recorded. The database decides, so a commit whose answer was lost
    records nothing twice."""
    query = select(Attempt.event_offset).where(Attempt.job_id == job.id, Attempt.fence == job.fence)
    return session.scalar(query) or 0


def record(session: Session, job: Job, events: Sequence[Event], *, offset: int) -> None:
    """Store what a child reported up to byte `offset` of its events file. `job` is `store.held` in this transaction,
    so rows and offset land together or not at all, and nothing is recorded twice."""
    points: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        _record_one(session, job, event, points)
    if points:
        metrics.append(session, job.id, job.fence, points)
        job.latest = job.latest | {name: series[-1][1] for name, series in points.items()}
    if events:
        job.progress_at = clock(session)
    session.execute(
        update(Attempt).where(Attempt.job_id == job.id, Attempt.fence == job.fence).values(event_offset=offset)
    )


def _record_one(session: Session, job: Job, event: Event, points: dict[str, list[tuple[int, float]]]) -> None:
    match event:
        case Step():
            _record_step(session, job, event, points)
        case Evaluated():
            for name, value in event.metrics.items():
                points.setdefault(name, []).append((event.step, value))
            shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(event.metrics.items()))
            append(session, job, "evaluated", f"Step {event.step}: {shown}", data=event.model_dump())
        case Entered():
            job.phase = event.phase
        case Progressed():
            job.fraction = event.fraction
        case Started():
            job.step = event.step
            job.total_steps = event.total_steps or job.total_steps
            append(session, job, "started", "The run has started", data=event.model_dump())
        case Resumed():
            session.execute(
                update(Attempt)
                .where(Attempt.job_id == job.id, Attempt.fence == job.fence)
                .values(first_step=event.step, resume_exactness=event.exactness)
            )
            job.step = event.step
            append(session, job, "resumed", f"Resumed from step {event.step}", data=event.model_dump())
        case Sampled():
            append(session, job, "sampled", f"Sample at step {event.step}", data=event.model_dump())
        case Warned():
            append(session, job, "warned", event.message, level="warn", data=event.model_dump())
        case Saved() | Prepared() | Finished() | Failed():
            pass  # acted upon by the supervisor, which then writes the state or the checkpoint


def _record_step(session: Session, job: Job, event: Step, points: dict[str, list[tuple[int, float]]]) -> None:
    job.step, job.tokens = event.step, event.tokens
    job.tokens_per_second = event.tokens_per_second
    # Smoothed over about fifty steps, for the ETA.
    previous = job.seconds_per_step
    job.seconds_per_step = event.seconds if previous is None else 0.98 * previous + 0.02 * event.seconds
    if job.total_steps:
        job.fraction = min(1.0, event.step / job.total_steps)
    elif seconds := job.spec.get("budget", {}).get("seconds"):
        job.fraction = min(1.0, job.fraction + event.seconds / seconds)
    for name, value in event.series.items():
        points.setdefault(name, []).append((event.step, value))
    total = job.total_steps or 0
    every = max(1, total // _STEP_EVENTS_PER_RUN) if total else 10
    if event.step == 1 or event.step % every == 0 or event.step == total:
        data = {
            "step": event.step,
            "total_steps": job.total_steps,
            "train_loss": event.loss,
            **{f"train_mean_{name}": value for name, value in event.metrics.items()},
        }
        message = f"Step {event.step}/{job.total_steps or '?'}: training loss={event.loss:.4f}"
        append(session, job, "step", message, data=data)


def append_log(session: Session, job: Job, text: str, *, offset: int) -> None:
    """Keep a piece of the child's output, up to 16 MiB an attempt. `offset` is where it begins, in bytes: a piece that
    is there already (a commit whose answer was lost) is not added again."""
    if text and offset < MAX_LOG_BYTES and session.get(LogChunk, (job.id, job.fence, offset)) is None:
        clean = text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
        session.add(LogChunk(job_id=job.id, fence=job.fence, offset=offset, text=clean))
