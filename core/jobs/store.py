"""The life of a job: every statement that writes a job's state, and no other.

A claim bumps `fence`; each later write of that attempt names its fence in the WHERE clause, and zero rows means that
the lease is lost (`LeaseLost`): kill the child, write nothing. Each change of state adds exactly one event in the same
transaction.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, case, not_, select, true, update
from sqlalchemy.orm import Session

from core.errors import Conflict, LeaseLost, NotFound
from core.events import Failed, Finished
from core.job_spec import JOB_SPEC, JobSpec
from core.jobs import journal, retry
from core.jobs.dialect import clock, needs_gpu, now
from core.jobs.ids import new_id
from core.jobs.states import LEASED, TERMINAL, JobState
from core.jobs.tables import Attempt, Checkpoint, Job, JobUse
from core.models.config import ModelConfig

LIGHT, TRAIN = "light", "train"


@dataclass(frozen=True)
class Claim:
    """What a worker may do: this job, under this fence, until the lease runs out."""

    job_id: str
    fence: int
    stage: Literal["validating", "running"]


# --- what users do ---


def insert(
    session: Session,
    *,
    project_id: str,
    spec: JobSpec,
    uses: Iterable[str],
    base_model: str | None = None,
    model_name: str | None = None,
    config: ModelConfig | None = None,
    request: dict[str, Any] | None = None,
    parent_id: str | None = None,
    job_id: str | None = None,
) -> Job:
    """Create a job in `validating`. `spec` is resolved; `uses` are the ids of all it reads."""
    job = Job(
        id=job_id or new_id("job_"),
        project_id=project_id,
        kind=spec.kind,
        spec=spec.model_dump(mode="json"),
        metadata_=dict(spec.metadata),
        request=request,
        base_model=base_model,
        model_name=model_name,
        config=config.model_dump(mode="json") if config else None,
        parent_id=parent_id,
        queue=LIGHT,
        priority=spec.priority,
        state="validating",
        desired="run",
    )
    session.add(job)
    session.flush()
    session.add_all(JobUse(job_id=job.id, object_id=used) for used in sorted(set(uses)))
    journal.append(session, job, "state", "Job created", data={"state": "validating"})
    return job


def get(session: Session, project_id: str, job_id: str) -> Job:
    """Raises NotFound for what does not exist and for what another project owns."""
    job = session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))
    if job is None:
        raise NotFound(f"No job {job_id!r} in this project.", code="job_not_found", param="job_id")
    return job


def spec_of(job: Job) -> JobSpec:
    return JOB_SPEC.validate_python(job.spec)


def request_cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel at once where nobody holds a lease; else ask the holder, who looks every second."""
    job = _locked(session, project_id, job_id)
    if job.state in TERMINAL or job.desired == "cancel":
        said = f"Job {job_id} is {_shown(job)} and can no longer be cancelled."
        raise Conflict(said, code="job_not_cancellable")
    job.desired = "cancel"
    if job.lease_owner is None:
        _move(session, job, "cancelled", "Cancelled")
    else:
        journal.append(session, job, "cancel_requested", "Cancel requested")
    return job


def request_pause(session: Session, project_id: str, job_id: str) -> Job:
    """Pause at once where nobody holds a lease; else the holder saves a checkpoint and lets go."""
    job = _locked(session, project_id, job_id)
    if job.state not in ("validating", "queued", "running") or job.desired != "run":
        raise Conflict(f"Job {job_id} is {_shown(job)} and cannot be paused.", code="job_not_pausable")
    job.desired = "pause"
    if job.lease_owner is None:
        _move(session, job, "paused", "Paused")
    else:
        journal.append(session, job, "pause_requested", "Pause requested")
    return job


def request_resume(session: Session, project_id: str, job_id: str) -> Job:
    """Put a paused job back in the queue; while it is still stopping, ask that it goes on."""
    job = _locked(session, project_id, job_id)
    if job.desired != "pause" or job.state in TERMINAL:
        raise Conflict(f"Job {job_id} is {_shown(job)} and cannot be resumed.", code="job_not_resumable")
    job.desired = "run"
    if job.state == "paused":
        _enqueue(session, job, "Resumed")
    else:
        journal.append(session, job, "resume_requested", "Resume requested")
    return job


# --- what a lease holder does ---


def claim(session: Session, *, queue: str, worker: str, lease_seconds: float, gpu: bool = True) -> Claim | None:
    """Take the first job of the queue: highest priority, then oldest. None: nothing to do.

    One conditional UPDATE decides; a hint is never more than a reason to call this. `gpu`: the slot has one.
    """
    claimable = and_(
        Job.desired == "run",
        Job.lease_owner.is_(None),
        Job.run_after <= now(),
        Job.queue == queue,
        Job.state.in_(("queued", "validating")),
        true() if gpu else not_(needs_gpu(Job.spec)),
    )
    first = select(Job.id).where(claimable).order_by(Job.priority.desc(), Job.created_at, Job.id).limit(1)
    job_id = session.scalar(first.with_for_update(skip_locked=True))
    if job_id is None:
        return None
    job = session.scalar(
        update(Job)
        .where(Job.id == job_id, claimable)
        .values(
            state=case((Job.state == "queued", "running"), else_=Job.state),
            fence=Job.fence + 1,
            attempts=Job.attempts + 1,
            lease_owner=worker,
            lease_expires_at=now() + lease_seconds,
            heartbeat_at=now(),
            checkpoint_at_claim=Job.checkpoint_id,
            phase=None,
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    )
    assert job is not None, "the row is locked"
    stage: Literal["validating", "running"] = "running" if job.state == "running" else "validating"
    resumes_at = session.scalar(select(Checkpoint.step).where(Checkpoint.id == job.checkpoint_id)) or 0
    session.add(Attempt(job_id=job.id, fence=job.fence, stage=stage, worker=worker, first_step=resumes_at))
    if stage == "running":
        job.step = resumes_at
        job.started_at = job.started_at or clock(session)
        _move(session, job, "running", f"Attempt {job.fence} runs on {worker}")
    else:
        journal.append(session, job, "validating", f"Validating the data on {worker}")
    return Claim(job_id=job.id, fence=job.fence, stage=stage)


def renew(session: Session, claim: Claim, *, lease_seconds: float) -> str:
    """Keep the lease. Returns what the user wants now: run, pause or cancel."""
    desired: str | None = session.scalar(
        update(Job)
        .where(_held(claim))
        .values(lease_expires_at=now() + lease_seconds, heartbeat_at=now())
        .returning(Job.desired)
    )
    if desired is None:
        raise _lost(claim)
    return desired


def held(session: Session, claim: Claim) -> Job:
    """The job's row, locked, under this fence: the first statement of every write of an attempt."""
    job = session.scalar(select(Job).where(_held(claim)).with_for_update().execution_options(populate_existing=True))
    if job is None:
        raise _lost(claim)
    return job


def begin_stop(session: Session, claim: Claim) -> None:
    """The holder has seen that the user wants something else than running."""
    job = held(session, claim)
    if job.state == "running":
        _move(session, job, "stopping", f"Stopping to {job.desired}")


def fix_plan(session: Session, claim: Claim, plan: dict[str, Any]) -> None:
    """Store the plan, once; every later attempt obeys it."""
    job = held(session, claim)
    if job.plan is None:
        job.plan = plan
        job.total_steps = plan.get("total_steps")


def finish_validating(session: Session, claim: Claim, preparation: dict[str, Any] | None) -> None:
    """The data is fit to run on: queue the job (or leave it to what the user wants meanwhile)."""
    job = held(session, claim)
    job.preparation = preparation
    job.phase, job.fraction, job.no_progress_failures = None, 0.0, 0
    _close(session, job, "prepared")
    if job.desired == "run":
        _enqueue(session, job, "Data prepared")
    else:
        _stop_as_desired(session, job)


def succeed(session: Session, claim: Claim, finished: Finished) -> bool:
    """The work is done; its result becomes a model or a tokenizer in the same transaction (see core.jobs.registry).

    False, and the job ends cancelled, when that was promised to the user before.
    """
    job = held(session, claim)
    if job.desired == "cancel":
        end_stopped(session, claim)
        return False
    job.fraction = 1.0
    _close(session, job, "succeeded")
    _move(session, job, "succeeded", f"Done: {finished.reason.replace('_', ' ')}", data=finished.model_dump())
    return True


def revise_plan(session: Session, claim: Claim, plan: dict[str, Any], why: str) -> None:
    """The plan cannot be carried out here (no memory for it): the next attempt follows another one."""
    job = held(session, claim)
    job.plan = plan
    journal.append(session, job, "plan_revised", why, level="warn", data={"plan": plan})


def end_stopped(session: Session, claim: Claim) -> None:
    """The child has stopped on request and saved: end as the user wants by now."""
    job = held(session, claim)
    _close(session, job, "stopped")
    if job.desired == "run":
        _requeue(session, job, "Resumed while stopping")
    else:
        _stop_as_desired(session, job)


def release(session: Session, claim: Claim, reason: str) -> None:
    """Give the job back unharmed (a drain): no attempt is counted."""
    job = held(session, claim)
    job.attempts -= 1
    _close(session, job, "released", reason)
    if job.desired == "run":
        _requeue(session, job, f"Released: {reason}")
    else:
        _stop_as_desired(session, job)


def fail(session: Session, claim: Claim, failure: Failed, *, max_attempts: int, retry_base_seconds: float) -> None:
    """A child failed or died. Retryable failures go back to the queue until three in a row made no progress."""
    job = held(session, claim)
    _end_failed(session, job, failure, max_attempts=max_attempts, retry_base_seconds=retry_base_seconds)


# --- what the reaper does ---


def expire(session: Session, owner: str) -> None:
    """This holder is known to be dead: its lease need not be waited for."""
    session.execute(update(Job).where(Job.lease_owner == owner).values(lease_expires_at=now() - 1.0))


def reap(session: Session, *, max_attempts: int, retry_base_seconds: float) -> list[str]:
    """End the attempts whose lease ran out. Bumps the fence, so the old holder can write nothing more."""
    expired = session.scalars(
        select(Job)
        .where(Job.lease_owner.is_not(None), Job.lease_expires_at < now())
        .limit(50)
        .with_for_update(skip_locked=True)
    ).all()
    for job in expired:
        job.fence += 1
        silent = retry.worker_lost(job.lease_owner or "")
        _end_failed(session, job, silent, max_attempts=max_attempts, retry_base_seconds=retry_base_seconds)
    return [job.id for job in expired]


# --- inside ---


def _locked(session: Session, project_id: str, job_id: str) -> Job:
    get(session, project_id, job_id)
    return session.scalars(
        select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    ).one()


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(Job.id == claim.job_id, Job.fence == claim.fence, Job.state.in_(LEASED), Job.lease_owner.is_not(None))


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"Attempt {claim.fence} of {claim.job_id} no longer holds the job.")


def _shown(job: Job) -> str:
    return "being cancelled" if job.desired == "cancel" and job.state not in TERMINAL else job.state


def _move(
    session: Session,
    job: Job,
    to: JobState,
    message: str,
    *,
    level: journal.Level = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """The one place where `state` changes (the database's trigger refuses what TRANSITIONS does not list)."""
    job.state = to
    if to not in ("running", "stopping"):  # nobody enters `validating` by a move and holds a lease
        job.lease_owner = job.lease_expires_at = None
    if to in TERMINAL:
        job.phase, job.finished_at = None, clock(session)
    journal.append(session, job, "state", message, level=level, data=(data or {}) | {"state": to})


def _close(session: Session, job: Job, outcome: str, reason: str | None = None) -> None:
    """End the open attempt and drop the lease; a change of state must follow in the same transaction."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.ended_at.is_(None))
        .values(ended_at=now(), outcome=outcome, reason=reason)
    )
    if job.checkpoint_id != job.checkpoint_at_claim:
        job.no_progress_failures = 0


def _enqueue(session: Session, job: Job, message: str) -> None:
    """To `queued`, or back to `validating` where the data was never prepared."""
    job.run_after, job.hinted_at, job.phase = clock(session), None, None
    if job.preparation is None and job.kind == "train":
        job.queue = LIGHT
        _move(session, job, "validating", message)
        return
    job.queue = TRAIN if job.kind == "train" else LIGHT
    job.queued_at = job.run_after
    _move(session, job, "queued", message)


def _requeue(session: Session, job: Job, message: str, *, delay_seconds: float = 0.0) -> None:
    """To be claimed again: a validating job stays validating (without a lease), others go to `queued`."""
    job.run_after, job.hinted_at, job.phase = clock(session) + delay_seconds, None, None
    if job.state == "validating":
        job.lease_owner = job.lease_expires_at = None
        journal.append(session, job, "retrying", message, level="warn")
    else:
        _move(session, job, "queued", message)


def _stop_as_desired(session: Session, job: Job) -> None:
    if job.state == "running":  # seen only now, at the attempt's end: the life of a job has no shorter way
        _move(session, job, "stopping", f"Stopping to {job.desired}")
        session.flush()
    if job.desired == "cancel":
        _move(session, job, "cancelled", "Cancelled")
    else:
        _move(session, job, "paused", "Paused")


def _end_failed(session: Session, job: Job, failure: Failed, *, max_attempts: int, retry_base_seconds: float) -> None:
    progressed = job.checkpoint_id != job.checkpoint_at_claim
    _close(session, job, "failed", f"{failure.code}: {failure.message}")
    if job.desired == "cancel" or (job.desired == "pause" and failure.retryable):
        return _stop_as_desired(session, job)
    job.no_progress_failures = 0 if progressed else job.no_progress_failures + 1
    given_up = retry.last_word(
        failure,
        no_progress_failures=job.no_progress_failures,
        attempts=job.attempts,
        max_attempts=max_attempts,
        step=job.step,
    )
    if given_up is None:
        delay = retry.delay_seconds(job.no_progress_failures, base_seconds=retry_base_seconds)
        return _requeue(session, job, f"Will be tried again: {failure.message}", delay_seconds=delay)
    job.error_code, job.error_message = given_up
    job.error_hint, job.error_param = failure.hint, failure.param
    _move(session, job, "failed", job.error_message, level="error", data={"code": job.error_code})
