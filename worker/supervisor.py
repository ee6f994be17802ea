"""The supervision of one attempt: stage the inputs, start the child, watch it, store what it made, end the attempt.

The child does the work and reports it; the supervisor alone speaks to the database and to storage. Whatever the child
does, the attempt ends in one transaction under its fence; when the lease is lost, in none.
"""

import hashlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from core.child import failure
from core.errors import CoreError, LeaseLost, StorageFull
from core.events import Failed, Finished, Prepared
from core.job_spec import TrainSpec
from core.jobs import queue, registry, store
from core.jobs.store import Claim
from core.jobs.tables import Checkpoint, Job
from core.run_dir import RunDir
from core.training.plan import Preparation
from worker import checkpoints, inputs, outcome
from worker.child import Child
from worker.event_file import EventFile, folder_of_run
from worker.place import Place
from worker.recorder import DatabaseGone, Recorder
from worker.slots import Share

_log = logging.getLogger(__name__)
Reason = Literal["pause", "cancel", "drain", "hung", "max_runtime"]
LOOK_SECONDS = 0.05
CANCEL_SECONDS = 2.0
"""What a child gets to end by itself when its work is not wanted any more."""
HUNG_SECONDS = 5.0
YOUNG_SECONDS = 100.0
"""So long a run has all cores for itself: a spare's imports cost them more than a second."""


def supervise(place: Place, claim: Claim, share: Share | None) -> bool:
    """One attempt, from the claim to its end. False: its child could not be killed."""
    attempt = Supervisor(place, claim, share)
    try:
        attempt.run()
    except LeaseLost as error:
        attempt.log.warning("%s The child is killed and nothing is written.", error)
        attempt.abandon()
    except DatabaseGone as error:
        attempt.log.error("%s The attempt is given up.", error)
    except Exception as error:  # a bug of ours must not look like a silent worker
        attempt.log.exception("supervision has failed")
        attempt.give_up(error)
    finally:
        died = attempt.clean_up()
    return died


class Supervisor:
    def __init__(self, place: Place, claim: Claim, share: Share | None) -> None:
        self.place, self.claim, self.share = place, claim, share
        self.log = logging.LoggerAdapter(_log, {"job": claim.job_id, "attempt": claim.fence})
        self.settings, self.storage = place.settings, place.storage
        self.folder = place.settings.scratch_dir / claim.job_id / "attempts"
        self.run_dir = RunDir(self.folder / str(claim.fence))
        self.recorder = Recorder(place.database, place.storage, place.settings, claim, self.run_dir)
        self.board: EventFile | None = None
        self.child: Child | None = None
        self.last_word: Finished | Prepared | Failed | None = None
        self.stopping: Reason | None = None
        self.deadline = float("inf")
        self.heard_at = self.started_at = time.monotonic()
        self.oom_kills = outcome.oom_kills()

    def run(self) -> None:
        try:
            self.work = self.recorder.insist(self._gather)
        except LeaseLost:
            raise
        except CoreError as error:
            return self._end_failed(failure(error))
        if self.claim.stage == "validating" and not isinstance(self.work.spec, TrainSpec):
            return self._end(lambda session: store.finish_validating(session, self.claim, None))
        self._lay_out()
        self._start()
        self._watch()
        self.recorder.finish()
        self._conclude()

    # --- before ---

    def _gather(self, session: Session) -> inputs.Work:
        return inputs.gather(session, self.storage, self.claim, self.share.slot if self.share else None)

    def _lay_out(self) -> None:
        """The run directory; what older attempts of the job left here and in storage goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.run_dir.path / "tmp").mkdir(parents=True)
        self.work.write(self.run_dir)
        if self.settings.child_user is not None and os.geteuid() == 0:
            for path in (self.run_dir.path, *self.run_dir.path.iterdir()):
                shutil.chown(path, self.settings.child_user)
        if isinstance(self.work.spec, TrainSpec):
            kept = self.work.spec.checkpoints
            self.recorder.keep, self.recorder.keep_best = kept.keep, kept.keep_best
            if self.settings.tensorboard_folder is not None:
                folder = folder_of_run(self.settings.tensorboard_folder, self.work.spec.suffix, self.claim.job_id)
                self.board = EventFile(folder, fence=self.claim.fence)
        left = self.recorder.insist(lambda session: checkpoints.debris(session, self.storage, self.claim))
        for key in left:
            self.storage.delete(key)

    def _start(self) -> None:
        path = self.run_dir.path
        env = {"HOME": str(path), "TMPDIR": str(path / "tmp")} | (self.share.env if self.share else {})
        threads = self.work.plan.threads if self.work.plan else self.place.light_threads
        self.child = self.place.start(self.work.program, path, env=env, threads=threads)
        self.log.info("%s is process %d", self.claim.stage, self.child.pid)

    # --- while it runs ---

    def _watch(self) -> None:
        assert self.child is not None
        drain = self.place.drain
        while not self.child.wait(LOOK_SECONDS, or_readable=None if drain.requested() else drain.descriptor):
            self._listen()
            if self.recorder.is_due():
                self.recorder.sync()
            self._steer(self.child)
        self._listen()

    def _listen(self) -> None:
        for event in self.recorder.read():
            self.heard_at = time.monotonic()
            if self.board is not None:
                self.board.add(event)
            if isinstance(event, Finished | Prepared | Failed):
                self.last_word = event
            elif event.kind == "step" and time.monotonic() - self.started_at > YOUNG_SECONDS:
                self.place.warm()  # for this run's next attempt, or the next run

    def _steer(self, running: Child) -> None:
        """Pass on what the user, the operator and the clock want."""
        if self.stopping is None and (reason := self._reason_to_stop()) is not None:
            self._stop(running, reason)
        elif self.stopping not in (None, "cancel") and self.recorder.desired == "cancel":
            self._stop(running, "cancel")
        if time.monotonic() > self.deadline and self.stopping is not None:
            self.log.warning("no end within the grace (%s): killed", self.stopping)
            running.kill()

    def _reason_to_stop(self) -> Reason | None:
        if self.recorder.desired == "cancel":
            return "cancel"
        if self.recorder.desired == "pause":
            return "pause"
        if self.place.drain.requested():
            return "drain"
        now = time.monotonic()
        if now - self.heard_at > self.settings.step_timeout_seconds:
            return "hung"
        if self.work.seconds_before + now - self.started_at > self._max_seconds():
            return "max_runtime"
        return None

    def _max_seconds(self) -> float:
        limit = self.work.spec.resources.max_runtime_seconds if isinstance(self.work.spec, TrainSpec) else None
        return float("inf") if limit is None else limit

    def _stop(self, running: Child, reason: Reason) -> None:
        grace = {"cancel": CANCEL_SECONDS, "hung": HUNG_SECONDS}.get(reason, self.settings.drain_seconds)
        self.stopping, self.deadline = reason, time.monotonic() + grace
        self.log.info("stopping (%s)", reason)
        if reason == "hung":
            running.send(signal.SIGUSR1)  # a trace of where it stands, into its log
        running.send(signal.SIGTERM)
        if reason in ("pause", "cancel"):
            self.recorder.insist(lambda session: store.begin_stop(session, self.claim))

    # --- afterwards ---

    def _conclude(self) -> None:
        """End the attempt. What is finished is finished, whatever was wanted meanwhile (but see `store.succeed`)."""
        word = self.last_word
        if isinstance(word, Prepared):
            self._end_prepared(word)
        elif isinstance(word, Finished) and word.reason != "interrupted":
            self._end_finished(word)
        elif self.stopping in ("pause", "cancel"):
            self._end(lambda session: store.end_stopped(session, self.claim))
        elif self.stopping == "hung":
            self._end_failed(outcome.hung(self.settings.step_timeout_seconds))
        elif self.stopping == "max_runtime":
            self._end_failed(outcome.too_long(self._max_seconds()))
        elif isinstance(word, Failed):
            self._end_failed(word)
        elif self.stopping == "drain" or isinstance(word, Finished):
            why = "the worker is shut down" if self.stopping else "the run was asked to end by someone else"
            self._end(lambda session: store.release(session, self.claim, why))
        else:
            assert self.child is not None
            assert self.child.exit_code is not None
            killed_for_memory = outcome.oom_kills() > self.oom_kills
            self._end_failed(outcome.of_exit(self.child.exit_code, out_of_memory=killed_for_memory))

    def _end_prepared(self, prepared: Prepared) -> None:
        """Token datasets into storage, then the job into the queue."""
        sizes = {}
        for hash, path in prepared.datasets.items():
            source = self.run_dir.path / path
            if hash in self.work.inputs.datasets:  # it was offered, found damaged and made anew
                self.storage.delete(inputs.dataset_key(hash))
            sizes[hash] = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
            if not self._stored(inputs.dataset_key(hash), source):
                return

        def end(session: Session) -> None:
            for hash, size in sizes.items():
                registry.add_dataset(session, hash, storage_key=inputs.dataset_key(hash), size_bytes=size)
            registry.name_outputs(session, self.claim, Preparation.model_validate(prepared.facts).labels)
            store.finish_validating(session, self.claim, prepared.facts)

        self._end(end)

    def _end_finished(self, finished: Finished) -> None:
        if isinstance(self.work.spec, TrainSpec):
            self._end_trained(finished)
        else:
            self._end_tokenizer(finished)

    def _end_trained(self, finished: Finished) -> None:
        """The last checkpoint becomes the model."""
        key = self.recorder.committed.get(finished.path or "")
        if key is None:
            return self._end_failed(failure(StorageFull("The last checkpoint could not be stored.")))
        has_template = (self.storage.directory(key) / "model" / "chat_template.jinja").exists()

        def end(session: Session) -> None:
            job = store.held(session, self.claim)
            checkpoint = session.get_one(Checkpoint, job.checkpoint_id)
            assert checkpoint.storage_key == key
            if store.succeed(session, self.claim, finished):
                registry.add_model(session, job, checkpoint, metrics=finished.metrics, has_chat_template=has_template)

        self._end(end)

    def _end_tokenizer(self, finished: Finished) -> None:
        key = f"tokenizers/{self.claim.job_id}-{self.claim.fence}"
        source = self.run_dir.path / (finished.path or "tokenizer")
        if not self._stored(key, source):
            return
        digest = hashlib.sha256((source / "tokenizer.json").read_bytes()).hexdigest()

        def end(session: Session) -> None:
            job = store.held(session, self.claim)
            if store.succeed(session, self.claim, finished):
                size = int(finished.metrics["vocab_size"])
                registry.add_tokenizer(
                    session, job, vocab_size=size, storage_key=key, sha256=digest, metrics=finished.metrics
                )

        self._end(end)

    def _stored(self, key: str, source: Path) -> bool:
        """Put a result into storage, keeping the lease. False: storage is full, and the attempt has ended so."""

        def put() -> None:
            checkpoints.seal(source)
            self.storage.put_directory(key, source)

        try:
            self.recorder.meanwhile(put)
        except StorageFull as error:
            self._end_failed(failure(error))
            return False
        return True

    def _end_failed(self, failure: Failed) -> None:
        def end(session: Session) -> None:
            job = store.held(session, self.claim)
            store.fail(
                session,
                self.claim,
                self._mended(session, job, failure),
                max_attempts=self.settings.max_attempts,
                retry_base_seconds=self.settings.retry_base_seconds,
            )

        self.log.warning("%s: %s", failure.code, failure.message)
        self._end(end)

    def _mended(self, session: Session, job: Job, failure: Failed) -> Failed:
        """Do what makes another attempt worth while: fall back to an older checkpoint, ask for less memory."""
        if failure.code == "checkpoint_corrupt" and job.checkpoint_id is not None:
            registry.reject_newest_checkpoint(session, job, failure.message)
            return failure.model_copy(update={"retryable": True})
        if failure.code in ("host_oom", "out_of_memory") and job.plan is not None and job.plan["micro_batch"] > 1:
            half = job.plan["micro_batch"] // 2
            why = f"Not enough memory: going on with micro-batches of {half} sequences; the global batch stays."
            store.revise_plan(session, self.claim, job.plan | {"micro_batch": half}, why)
            return failure.model_copy(update={"retryable": True})
        return failure

    def _end(self, body: Callable[[Session], object]) -> None:
        """The attempt's last transaction; then whoever may take the job next is told."""

        def write(session: Session) -> tuple[str, str]:
            job = store.held(session, self.claim)
            body(session)
            return job.state, job.queue

        state, name = self.recorder.insist(write)
        self.log.info("the attempt is over, the job is %s", state)
        if state in ("validating", "queued"):
            queue.send_hint(self.place.celery, name, self.claim.job_id)

    def abandon(self) -> None:
        """The lease is lost: what this attempt has made and not committed goes."""
        if self.child is not None:
            self.child.kill()
        self.recorder.take_back()

    def give_up(self, error: Exception) -> None:
        """A bug of ours, or a child that breaks the contract: end the attempt as honestly as is still possible."""
        if self.child is not None:
            self.child.kill()
        try:
            self._end_failed(failure(error).model_copy(update={"retryable": True}))
        except Exception:  # the lease runs out, and the reaper ends the attempt
            self.log.exception("the failure could not be recorded")

    def clean_up(self) -> bool:
        """Nothing stays behind on scratch, and nobody stays alive. False: the child does not die."""
        died = self.child is None or self.child.kill()
        self.recorder.close()
        self.place.warm()
        shutil.rmtree(self.run_dir.path, ignore_errors=True)
        for folder in (self.folder, self.folder.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return died
