"""One attempt and every way in which it may end, with children that follow a script."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.errors import StorageFull
from core.jobs import registry, store
from core.jobs.tables import Checkpoint, Dataset, Job, LogChunk, Model, TokenizerRow
from core.settings import Settings
from tests.jobs import attempts, check_invariants, events, look, losses, submit, train_spec
from tests.services import wait_until
from tests.unit.worker.conftest import Bench
from worker import inputs, outcome, supervisor
from worker import place as places

WHOLE_RUN: list[list[Any]] = [
    *(["steps", 5], ["save"], ["steps", 5], ["save"], ["steps", 5], ["save"]),
    *(["steps", 5], ["save", "final"], ["finish"]),
]


def kinds(bench: Bench, job: Job) -> list[str]:
    return [event.kind for event in events(bench.database, job.id)]


def rows(bench: Bench, table: type[Any]) -> list[Any]:
    with bench.database.reading() as session:
        return list(session.scalars(select(table)))


def log_of(bench: Bench, job: Job, fence: int = 2) -> str:
    query = select(LogChunk).where(LogChunk.job_id == job.id, LogChunk.fence == fence).order_by(LogChunk.offset)
    with bench.database.reading() as session:
        return "".join(chunk.text for chunk in session.scalars(query))


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Run something beside the supervisor, which needs the main thread."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def test_a_run_becomes_a_model(bench: Bench) -> None:
    job_id = bench.submit(*WHOLE_RUN)
    bench.work("light", "train")
    job = look(bench.database, job_id)
    assert job.state == "succeeded", job.error_message
    assert job.result is not None
    assert losses(bench.database, job.id) == [(step, 1 / step) for step in range(1, 21)]
    model = rows(bench, Model)[0]
    assert (model.name, model.has_chat_template, model.metrics) == (job.model_name, True, {"loss": 0.5})
    stored = bench.storage.directory(model.storage_key)
    assert (stored / "model" / "model.safetensors").read_bytes() == b"weights of step 20"
    visible = [row.step for row in rows(bench, Checkpoint) if row.deleted_at is None]
    assert visible == [15, 20], "keep: 2"
    assert [row.hash for row in rows(bench, Dataset)] == ["d1"]
    assert job.plan is not None
    assert job.plan["threads"] == 1
    assert bench.hints.sent == [("train", job.id)], "the train queue is told when the data is prepared"
    assert not list(bench.settings.scratch_dir.glob("job_*")), "scratch is left clean"
    check_invariants(bench.database, bench.storage)


def test_a_tokenizer_needs_no_preparation_and_no_slot(bench: Bench) -> None:
    job_id = bench.submit_tokenizer(["tokenizer"])
    bench.work("light", "light")
    job = look(bench.database, job_id)
    assert job.state == "succeeded", job.error_message
    row = rows(bench, TokenizerRow)[0]
    assert (row.vocab_size, row.job_id) == (512, job.id)
    assert (bench.storage.directory(row.storage_key) / "tokenizer.json").exists()
    assert job.result is not None
    assert job.result["tokenizer"] == row.id


def test_a_damaged_dataset_is_replaced(bench: Bench) -> None:
    with bench.database.transaction() as session:
        registry.add_dataset(session, "d1", storage_key="datasets/d1", size_bytes=1)
    damaged = bench.storage.path("datasets/d1")
    damaged.mkdir(parents=True)
    bench.submit()
    bench.work("light")  # the scripted child makes it anew whether it is offered or not
    assert (damaged / "tokens").exists()
    assert [row.size_bytes for row in rows(bench, Dataset)] == [1], "the row stays"


@pytest.mark.parametrize(
    ("end", "said"),
    [(["die", 9], "SIGKILL"), (["die", 11], "SIGSEGV"), (["exit", 3], "exit code 3"), (["exit", 137], "SIGKILL")],
)
def test_a_child_without_a_last_word_has_crashed_and_is_tried_again(bench: Bench, end: list[Any], said: str) -> None:
    job = bench.do(["steps", 7], ["save"], ["steps", 2], end, script_3=[["steps", 13], ["save"], ["finish"]])
    assert job.state == "queued"
    assert said in (attempts(bench.database, job.id)[-1].reason or "")
    assert job.no_progress_failures == 0, "it has saved"
    bench.work("train")
    job = look(bench.database, job.id)
    assert job.state == "succeeded", job.error_message
    assert losses(bench.database, job.id) == [(step, 1 / step) for step in range(1, 21)], "each step once"
    assert "resumed" in kinds(bench, job)
    check_invariants(bench.database, bench.storage)


def test_three_deaths_without_progress_are_poison(bench: Bench) -> None:
    job = bench.do(["steps", 3], ["die", 9])
    for _ in range(2):
        wait_until(lambda: look(bench.database, job.id).run_after < time.time(), what="the backoff is over")
        bench.work("train")
    job = look(bench.database, job.id)
    assert (job.state, job.error_code) == ("failed", "poison")
    assert "step 4" in (job.error_message or ""), "the message names the batch"


def test_what_the_user_has_to_mend_is_not_tried_again(bench: Bench) -> None:
    fault = {"code": "invalid_data", "message": "line 3 is no JSON", "hint": "mend it", "param": "data.train"}
    job_id = bench.submit(prepare=[["fail", fault]])
    bench.work("light")
    job = look(bench.database, job_id)
    assert (job.state, job.error_code, job.error_hint) == ("failed", "invalid_data", "mend it")
    assert job.attempts == 1


def test_memory_running_out_halves_the_micro_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(100))
    monkeypatch.setattr(outcome, "oom_kills", lambda: next(counter))
    job = bench.do(["steps", 1], ["die", 9])
    assert job.plan is not None
    assert job.state == "queued"
    assert job.plan["micro_batch"] == 2, "of 4 sequences"
    assert "plan_revised" in kinds(bench, job)
    assert (attempts(bench.database, job.id)[-1].reason or "").startswith("host_oom")


def test_a_corrupt_checkpoint_is_hidden_and_the_one_before_it_used(bench: Bench) -> None:
    corrupt = {"code": "checkpoint_corrupt", "message": "model.safetensors is altered", "retryable": True}
    job = bench.do(
        *(["steps", 5], ["save"], ["steps", 5], ["save"], ["die", 9]),
        script_3=[["fail", corrupt]],
        script_4=[["steps", 15], ["save"], ["finish"]],
    )
    bench.work("train")
    job = look(bench.database, job.id)
    assert job.state == "queued"
    assert [row.step for row in rows(bench, Checkpoint) if row.deleted_at is None] == [5]
    bench.work("train")
    job = look(bench.database, job.id)
    assert job.state == "succeeded", job.error_message
    assert losses(bench.database, job.id) == [(step, 1 / step) for step in range(1, 21)]
    assert [e.data["resumes_at"] for e in events(bench.database, job.id) if e.kind == "checkpoint_rejected"] == [5]


def test_checkpoints_whose_files_are_gone_are_passed_over(bench: Bench) -> None:
    job = bench.do(["steps", 5], ["save"], ["die", 9], script_3=[["steps", 20], ["save"], ["finish"]])
    bench.storage.delete(rows(bench, Checkpoint)[0].storage_key)
    bench.work("train")
    job = look(bench.database, job.id)
    assert job.state == "succeeded", job.error_message
    assert losses(bench.database, job.id) == [(step, 1 / step) for step in range(1, 21)]


# --- being asked to stop ---


def ask(bench: Bench, verb: Callable[..., Job], *, at_step: int = 3) -> Callable[[], None]:
    """Ask for something as soon as the run has come to a step."""

    def act() -> None:
        def job() -> Job:
            return rows(bench, Job)[0]  # type: ignore[no-any-return]

        wait_until(lambda: job().step >= at_step, what=f"step {at_step}")
        with bench.database.transaction() as session:
            verb(session, bench.project, job().id)

    return act


STOPS = [["steps", 3], ["until_asked"], ["save", "interrupted"], ["finish", "interrupted"]]


def test_pause_saves_and_resume_goes_on(bench: Bench) -> None:
    job_id = bench.submit(*STOPS, script_3=[["steps", 17], ["save"], ["finish"]])
    bench.prepare()
    with meanwhile(ask(bench, store.request_pause)):
        bench.work("train")
    job = look(bench.database, job_id)
    assert job.state == "paused"
    assert [row.step for row in rows(bench, Checkpoint)] == [3]
    states = [event.data["state"] for event in events(bench.database, job_id) if event.kind == "state"]
    assert states == ["validating", "queued", "running", "stopping", "paused"]
    bench.work("train")
    assert look(bench.database, job_id).state == "paused", "nobody takes it"
    with bench.database.transaction() as session:
        store.request_resume(session, bench.project, job_id)
    bench.work("train")
    assert look(bench.database, job_id).state == "succeeded"
    assert losses(bench.database, job_id) == [(step, 1 / step) for step in range(1, 21)]


def test_cancel_kills_a_child_that_does_not_listen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CANCEL_SECONDS", 0.3)
    job_id = bench.submit(["deaf"], ["steps", 3], ["sleep", 60])
    bench.prepare()
    begun = time.monotonic()
    with meanwhile(ask(bench, store.request_cancel)):
        bench.work("train")
    assert look(bench.database, job_id).state == "cancelled"
    assert time.monotonic() - begun < 10
    assert bench.place.started[-1].exit_code == -signal.SIGKILL


def test_a_job_that_was_done_before_the_cancel_was_seen_ends_cancelled(bench: Bench) -> None:
    job_id = bench.submit(["steps", 3], ["until_asked"], ["steps", 17], ["save"], ["finish"])
    bench.prepare()
    with meanwhile(ask(bench, store.request_cancel)):
        bench.work("train")
    assert look(bench.database, job_id).state == "cancelled"
    assert rows(bench, Model) == []


def test_a_job_that_was_done_before_the_pause_was_seen_has_succeeded(bench: Bench) -> None:
    job_id = bench.submit(["steps", 3], ["until_asked"], ["steps", 17], ["save"], ["finish"])
    bench.prepare()
    with meanwhile(ask(bench, store.request_pause)):
        bench.work("train")
    assert look(bench.database, job_id).state == "succeeded"


def test_resume_while_stopping_puts_the_job_back_in_the_queue(bench: Bench) -> None:
    job_id = bench.submit(["steps", 3], ["until_asked"], ["sleep", 0.5], ["save"], ["finish", "interrupted"])
    bench.prepare()

    def act() -> None:
        ask(bench, store.request_pause)()
        wait_until(lambda: look(bench.database, job_id).state == "stopping", what="stopping")
        ask(bench, store.request_resume)()

    with meanwhile(act):
        bench.work("train")
    assert look(bench.database, job_id).state == "queued"
    check_invariants(bench.database)


@pytest.mark.parametrize("verb", [store.request_pause, store.request_cancel])
def test_validating_can_be_stopped(bench: Bench, verb: Callable[..., Job]) -> None:
    job_id = bench.submit(prepare=[["steps", 3], ["until_asked"], ["finish", "interrupted"]])
    with meanwhile(ask(bench, verb)):
        bench.work("light")
    assert look(bench.database, job_id).state == ("paused" if verb is store.request_pause else "cancelled")
    check_invariants(bench.database)


def test_drain_loses_no_step_and_counts_no_attempt(bench: Bench) -> None:
    job_id = bench.submit(*STOPS)
    bench.prepare()

    def act() -> None:
        wait_until(lambda: look(bench.database, job_id).step >= 3, what="step 3")
        bench.drain()

    with meanwhile(act):
        bench.work("train")
    job = look(bench.database, job_id)
    assert (job.state, job.attempts, job.step) == ("queued", 1, 3)
    assert attempts(bench.database, job_id)[-1].outcome == "released"
    assert [row.step for row in rows(bench, Checkpoint)] == [3]
    assert bench.hints.sent[-1] == ("train", job_id), "others are told at once"
    check_invariants(bench.database, bench.storage)


def test_a_child_that_says_nothing_is_hung(settings: Settings) -> None:
    bench = Bench(settings.model_copy(update={"step_timeout_seconds": 0.7}))
    job = bench.do(["steps", 3], ["sleep", 60])
    assert job.state == "queued"
    assert (attempts(bench.database, job.id)[-1].reason or "").startswith("hung")
    bench.close()


def test_max_runtime_ends_the_job_and_keeps_its_checkpoint(bench: Bench) -> None:
    job = bench.do(*STOPS, spec={"resources": {"max_runtime_seconds": 3.0}})
    assert (job.state, job.error_code) == ("failed", "max_runtime")
    assert [row.step for row in rows(bench, Checkpoint)] == [3]


# --- what the child must not break ---


def test_a_lost_lease_kills_the_child_and_leaves_nothing(bench: Bench) -> None:
    job_id = bench.submit(["steps", 3], ["sleep", 0.3], ["steps", 2], ["save"], ["sleep", 60])
    bench.prepare()

    def act() -> None:
        wait_until(lambda: look(bench.database, job_id).step >= 3, what="step 3")
        with bench.database.transaction() as session:  # the reaper, seen from here
            session.execute(update(Job).values(lease_expires_at=1.0))
            store.reap(session, max_attempts=100, retry_base_seconds=1.0)

    with meanwhile(act):
        bench.work("train")
    assert bench.place.started[-1].exit_code == -signal.SIGKILL
    assert [step for step, _ in losses(bench.database, job_id)] == [1, 2, 3]
    assert rows(bench, Checkpoint) == []
    assert bench.storage.names(f"checkpoints/{job_id}") == []
    check_invariants(bench.database, bench.storage)


def test_what_a_fenced_off_attempt_has_stored_is_removed_by_the_next(bench: Bench) -> None:
    job_id = bench.submit(*WHOLE_RUN)
    bench.prepare()
    debris = bench.storage.path(f"checkpoints/{job_id}/1-40")
    debris.mkdir(parents=True)
    bench.work("train")
    assert look(bench.database, job_id).state == "succeeded"
    assert not debris.exists()


def test_a_line_that_is_no_event_ends_the_attempt_not_the_worker(bench: Bench) -> None:
    job = bench.do(["steps", 1], ["line", '{"kind": "surprise"}\n'], ["sleep", 60])
    assert job.state == "queued"
    assert (attempts(bench.database, job.id)[-1].reason or "").startswith("internal_error")


def test_half_a_line_is_no_event_yet(bench: Bench) -> None:
    half = '{"kind": "warned", "code": "c", "mess'
    job = bench.do(["steps", 1], ["line", half], ["sleep", 0.5], ["line", 'age": "m"}\n'], *WHOLE_RUN[1:], ["finish"])
    assert job.state == "succeeded", job.error_message
    assert "warned" in kinds(bench, job)


def test_the_log_is_kept_with_all_its_bytes(bench: Bench) -> None:
    last = "a \x00 and no end"
    job = bench.do(["say_much", "ä line\n", 20_000], ["say", last], ["steps", 1], ["exit", 1])
    assert log_of(bench, job) == "ä line\n" * 20_000 + last.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def test_a_child_knows_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cr3t@host/db")
    monkeypatch.setenv("WEIGHTSMITH_GENERATOR_TOKEN", "s3cr3t")
    job = bench.do(["say_environment"], ["steps", 1], ["exit", 1])
    said = json.loads(log_of(bench, job))
    assert "s3cr3t" not in json.dumps(said["env"])
    assert said["env"]["OMP_NUM_THREADS"] == "1"
    assert Path(said["cwd"]).parts[-2:] == ("attempts", "2")


# --- storage and database fail ---


def test_full_storage_costs_one_checkpoint(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put, full = bench.storage.put_directory, iter([True, True])

    def sometimes_full(key: str, source: Path) -> None:
        if key.startswith("checkpoints/") and next(full, False):
            raise StorageFull("The storage is full.")
        put(key, source)

    monkeypatch.setattr(bench.storage, "put_directory", sometimes_full)
    job = bench.do(*(["steps", 5], ["save"], ["steps", 5], ["save"], ["steps", 10], ["save"], ["finish"]))
    assert job.state == "succeeded", job.error_message
    assert [row.step for row in rows(bench, Checkpoint)] == [20]
    assert [e.data["code"] for e in events(bench.database, job.id) if e.kind == "warned"] == ["storage_full"] * 2


def test_the_last_checkpoint_waits_for_space(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put, full = bench.storage.put_directory, iter([True, True])

    def full_at_first(key: str, source: Path) -> None:
        if key.startswith("checkpoints/") and next(full, False):
            raise StorageFull("The storage is full.")
        put(key, source)

    monkeypatch.setattr(bench.storage, "put_directory", full_at_first)
    job = bench.do(["steps", 20], ["save"], ["finish"])
    assert job.state == "succeeded", job.error_message


def test_storage_that_stays_full_fails_the_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(key: str, source: Path) -> None:
        raise StorageFull("The storage is full.")

    job_id = bench.submit(["steps", 20], ["save"], ["finish"])
    bench.work("light")
    monkeypatch.setattr(bench.storage, "put_directory", full)
    bench.work("train")
    job = look(bench.database, job_id)
    assert job.state == "queued"
    assert (attempts(bench.database, job_id)[-1].reason or "").startswith("storage_full")


class Outage:
    """The database refuses, or its answers to COMMIT get lost, while it lasts."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, *, commits: bool) -> None:
        self.on = False
        self.refused = 0
        working = bench.database.transaction

        @contextmanager
        def transaction() -> Iterator[Session]:
            if self.on and not commits and threading.current_thread() is threading.main_thread():
                self.refused += 1
                raise OperationalError("SELECT 1", None, Exception("server closed the connection"))
            with working() as session:
                yield session
            if self.on and commits and threading.current_thread() is threading.main_thread():
                self.refused += 1
                self.on = self.refused < 3
                raise OperationalError("COMMIT", None, Exception("server closed the connection"))

        monkeypatch.setattr(bench.database, "transaction", transaction)


def test_training_goes_on_while_the_database_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(bench, monkeypatch, commits=False)
    job_id = bench.submit(["steps", 3], ["sleep", 0.5], ["steps", 7], ["save"], ["steps", 10], ["save"], ["finish"])
    bench.prepare()

    def act() -> None:
        wait_until(lambda: look(bench.database, job_id).step >= 3, what="step 3")
        outage.on = True
        wait_until(lambda: bench.place.started[-1].exit_code == 0, what="the child is done all the same")
        outage.on = False

    with meanwhile(act):
        bench.work("train")
    assert outage.refused > 0
    assert look(bench.database, job_id).state == "succeeded"
    assert losses(bench.database, job_id) == [(step, 1 / step) for step in range(1, 21)]
    check_invariants(bench.database, bench.storage)


def test_an_outage_that_lasts_ends_the_attempt_without_a_word(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(settings.model_copy(update={"max_offline_seconds": 0.5}))
    outage = Outage(bench, monkeypatch, commits=False)
    job_id = bench.submit(["steps", 3], ["sleep", 60])
    bench.prepare()

    def act() -> None:
        wait_until(lambda: look(bench.database, job_id).step >= 3, what="step 3")
        outage.on = True

    with meanwhile(act):
        bench.work("train")
    assert bench.place.started[-1].exit_code == -signal.SIGKILL
    assert look(bench.database, job_id).state == "running", "its lease runs out"
    bench.close()


def test_a_commit_whose_answer_is_lost_counts_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = Outage(bench, monkeypatch, commits=True)
    job_id = bench.submit(
        *(["say", "one line\n"], ["steps", 3], ["sleep", 0.5], ["say", "and one\n"], ["steps", 7], ["save"]),
        *(["sleep", 1], ["steps", 10], ["save"], ["finish"]),
    )
    bench.prepare()

    def act() -> None:
        wait_until(lambda: look(bench.database, job_id).step >= 3, what="step 3")
        outage.on = True

    with meanwhile(act):
        bench.work("train")
    assert outage.refused == 3
    job = look(bench.database, job_id)
    assert job.state == "succeeded", job.error_message
    assert losses(bench.database, job_id) == [(step, 1 / step) for step in range(1, 21)]
    assert [row.step for row in rows(bench, Checkpoint)] == [10, 20]
    check_invariants(bench.database, bench.storage)


def test_the_end_of_an_attempt_whose_answer_is_lost_is_not_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(bench, monkeypatch, commits=True)
    succeed = store.succeed

    def succeed_and_lose_the_answer(*args: Any) -> bool:
        outage.on = True
        return succeed(*args)

    monkeypatch.setattr(store, "succeed", succeed_and_lose_the_answer)
    job = bench.do(*WHOLE_RUN)
    assert job.state == "succeeded"
    assert len(rows(bench, Model)) == 1
    check_invariants(bench.database, bench.storage)


# --- processes ---


def test_nothing_of_the_child_survives_it(bench: Bench) -> None:
    """A grandchild in the child's session ends with it."""
    job = bench.do(["grandchild"], ["steps", 1], ["exit", 1])
    pid = int(log_of(bench, job).split()[-1])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_spares_take_both_stages_and_are_replaced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PREPARE", "tests.unit.worker.fake_child")
    monkeypatch.setattr(inputs, "TRAIN", "tests.unit.worker.other_fake_child")
    monkeypatch.setattr(places, "PREPARE", "tests.unit.worker.fake_child")
    monkeypatch.setattr(places, "TRAIN", "tests.unit.worker.other_fake_child")
    bench = Bench(settings.model_copy(update={"warm_spare": True}))
    waiting = {spare._waiting[0].pid for spare in bench.place.spares.values() if spare._waiting}
    job_id = bench.submit(["say", "hello\n"], *WHOLE_RUN)
    bench.work("light", "train")
    job = look(bench.database, job_id)
    assert job.state == "succeeded", job.error_message
    assert log_of(bench, job) == "hello\n"
    assert {child.pid for child in bench.place.started} == waiting
    assert all(spare._waiting for spare in bench.place.spares.values())
    bench.close()


def test_jobs_for_gpus_are_left_to_workers_with_gpus(bench: Bench) -> None:
    job_id = submit(bench.database, bench.project, train_spec(bench.file, resources={"gpus": 1}))
    bench.prepare()
    bench.work("train")
    assert look(bench.database, job_id).state == "queued"
