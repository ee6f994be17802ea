"""What a job tells: events in order, live without gaps or doubles, thinned metrics, checkpoints."""

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import event

from api import tail
from api.app import create_app
from api.dependencies import Services
from core.events import Evaluated, Event, Finished, Saved, Started, Step
from core.jobs import journal, registry, store
from core.jobs.store import Claim
from core.jobs.tables import Checkpoint, Job
from tests.apis import Api
from tests.services import Postgres, free_port, wait_until


def running_job(api: Api, *, total_steps: int = 1000) -> tuple[str, Claim]:
    """A job in its training stage, as a supervisor sees it."""
    job_id = api.submit(budget={"steps": total_steps})["id"]
    validating = api.claim()
    with api.database.transaction() as session:
        store.finish_validating(session, validating, {"num_rows": 1})
    claim = api.claim("train")
    record(api, claim, Started(total_steps=total_steps))
    return job_id, claim


def step(n: int, loss: float = 1.0) -> Step:
    return Step(
        step=n, loss=loss, learning_rate=0.1, grad_norm=1.0, tokens=n * 10, tokens_per_second=100.0, seconds=0.5
    )


def record(api: Api, claim: Claim, *events: Event) -> None:
    with api.database.transaction() as session:
        journal.record(session, store.held(session, claim), events, offset=0)


def save(api: Api, claim: Claim, at: int, **metrics: float) -> Checkpoint:
    saved = Saved(step=at, path="x", manifest_sha256="0", size_bytes=1, metrics=metrics)
    with api.database.transaction() as session:
        return registry.commit_checkpoint(session, store.held(session, claim), saved, storage_key="checkpoints/x")


def succeed(api: Api, claim: Claim) -> None:
    with api.database.transaction() as session:
        job = store.held(session, claim)
        checkpoint = session.get_one(Checkpoint, job.checkpoint_id)
        store.succeed(session, claim, Finished(step=1000))
        registry.add_model(session, job, checkpoint, metrics={"validation_loss": 1.0}, has_chat_template=True)


def test_events_in_order(any_api: Api) -> None:
    job_id, claim = running_job(any_api)
    record(any_api, claim, step(1), step(2))
    page = any_api.http.get(f"/v1/jobs/{job_id}/events?limit=3").json()
    assert [one["seq"] for one in page["data"]] == [1, 2, 3]
    assert page["has_more"] is True
    rest = any_api.http.get(f"/v1/jobs/{job_id}/events?after={page['last_id']}").json()
    assert [one["seq"] for one in rest["data"]] == list(range(4, 4 + len(rest["data"])))
    assert rest["has_more"] is False
    assert any_api.http.get(f"/v1/jobs/{job_id}/events?after=3").json() == rest
    newest = any_api.http.get(f"/v1/jobs/{job_id}/events?order=desc&limit=1").json()["data"][0]
    assert newest == rest["data"][-1]
    error = any_api.http.get(f"/v1/jobs/{job_id}/events?after=yesterday").json()["error"]
    assert error["code"] == "invalid_cursor"


def test_progress_and_its_eta(any_api: Api) -> None:
    job_id, claim = running_job(any_api)
    record(
        any_api, claim, *(step(n, 1 / n) for n in range(1, 101)), Evaluated(step=100, metrics={"validation_loss": 2.0})
    )
    job = any_api.http.get(f"/v1/jobs/{job_id}").json()
    progress = job["progress"]
    assert (progress["step"], progress["total_steps"], progress["fraction"]) == (100, 1000, 0.1)
    assert progress["eta_seconds"] == pytest.approx(450)
    assert progress["eta_low"] <= progress["eta_seconds"] <= progress["eta_high"]
    assert job["metrics"]["validation_loss"] == 2.0
    assert job["state"] == "running"
    assert [one["stage"] for one in job["history"]] == ["validating", "running"]


def test_metrics_keep_extremes(any_api: Api) -> None:
    job_id, claim = running_job(any_api)
    losses = [5.0 + math.sin(n) for n in range(1, 601)]
    losses[300] = 99.0
    record(any_api, claim, *(step(n + 1, loss) for n, loss in enumerate(losses)))
    found = any_api.http.get(f"/v1/jobs/{job_id}/metrics?names=train_loss,grad_norm&max_points=50").json()
    assert [series["name"] for series in found["data"]] == ["grad_norm", "train_loss"]
    points = found["data"][1]["points"]
    assert len(points) < 80
    assert max(point["max"] for point in points) == 99.0
    assert sum(point["count"] for point in points) == 600
    assert points[-1]["step"] == 600
    assert points[0]["first_step"] == 1
    whole = any_api.http.get(f"/v1/jobs/{job_id}/metrics?names=train_loss&since_step=590").json()
    assert [point["value"] for point in whole["data"][0]["points"]] == losses[589:]
    assert {series["name"] for series in any_api.http.get(f"/v1/jobs/{job_id}/metrics").json()["data"]} > {"train_loss"}
    assert any_api.http.get(f"/v1/jobs/{job_id}/metrics?names=nope").json()["data"] == []


def test_checkpoints(any_api: Api) -> None:
    job_id, claim = running_job(any_api)
    for at in (10, 20, 30):
        save(any_api, claim, at, validation_loss=1.0 / at)
    page = any_api.http.get(f"/v1/jobs/{job_id}/checkpoints?limit=2").json()
    assert [one["step"] for one in page["data"]] == [30, 20]
    assert page["has_more"] is True
    rest = any_api.http.get(f"/v1/jobs/{job_id}/checkpoints?after={page['last_id']}").json()
    assert [one["step"] for one in rest["data"]] == [10]
    name = page["data"][0]["model"]
    assert name.endswith(":ckpt-step-30")
    shown = any_api.http.get(f"/v1/models/{name}").json()
    assert shown["id"] == name
    assert shown["job"] == job_id
    held = any_api.http.delete(f"/v1/models/{name}")
    assert held.status_code == 409
    assert held.json()["error"]["code"] == "in_use"
    assert any_api.http.delete(f"/v1/models/{rest['data'][0]['model']}").status_code == 200
    assert len(any_api.http.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]) == 2


# --- live ---


@contextlib.contextmanager
def served(api: Api) -> Iterator[tuple[str, Services]]:
    """Another app on the same database behind a real server: a test client would wait for a stream's end."""
    app, port = create_app(api.settings), free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, what="the server")
        yield f"http://127.0.0.1:{port}", app.state.services
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


class Stream:
    """Reads server-sent events in a thread."""

    def __init__(self, api: Api, url: str, job_id: str, **headers: str) -> None:
        self.messages: list[dict[str, Any]] = []
        self.comments: list[str] = []
        self.status = 0
        self._response: httpx.Response | None = None
        path = f"{url}/v1/jobs/{job_id}/events/stream"
        headers["authorization"] = api.http.headers["authorization"]
        self.thread = threading.Thread(target=self._read, args=(path, headers))
        self.thread.start()

    def _read(self, path: str, headers: dict[str, str]) -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.Client(trust_env=False, timeout=30) as client,
            client.stream("GET", path, headers=headers) as response,
        ):
            self._response, self.status = response, response.status_code
            message: dict[str, Any] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments.append(line)
                elif line:
                    message[name] = json.loads(value) if name == "data" else value
                elif message:
                    self.messages.append(message)
                    message = {}

    @property
    def seqs(self) -> list[int]:
        return [int(message["id"]) for message in list(self.messages) if "id" in message]

    def wait_for(self, seq: int) -> None:
        wait_until(lambda: seq in self.seqs, what=f"event {seq}")

    def end(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(tail, "PING_SECONDS", 0.2)


def test_a_stream_has_no_gaps_and_no_doubles(api: Api, quick: None) -> None:
    job_id, claim = running_job(api)
    with served(api) as (url, _):
        early = Stream(api, url, job_id)
        early.wait_for(5)
        record(api, claim, *(step(n) for n in range(1, 200)))
        late = Stream(api, url, job_id)
        save(api, claim, 200)
        record(api, claim, *(step(n) for n in range(201, 900)))
        wait_until(lambda: bool(early.comments), what="a ping")
        resumed = Stream(api, url, job_id, **{"Last-Event-ID": "3"})
        succeed(api, claim)
        for stream in (early, late, resumed):
            stream.end()
    with api.database.reading() as session:
        total = session.get_one(Job, job_id).event_seq
    assert early.seqs == late.seqs == list(range(1, total + 1))
    assert resumed.seqs == list(range(4, total + 1))
    last = early.messages[-1]
    assert (last["event"], last["data"]["data"]["state"]) == ("state", "succeeded")
    moving = [message for message in early.messages if message["event"] == "progress"]
    assert moving
    assert all("id" not in message for message in moving)
    assert moving[-1]["data"]["progress"]["step"] > 0
    assert all(message["data"]["object"] in ("job.event", "job.progress") for message in early.messages)


def test_a_stream_of_a_job_that_is_over(api: Api, quick: None) -> None:
    job_id = api.submit()["id"]
    api.http.post(f"/v1/jobs/{job_id}/cancel")
    with served(api) as (url, _):
        whole = Stream(api, url, job_id)
        whole.end()
        assert whole.seqs == [1, 2]
        nothing = Stream(api, url, job_id, **{"Last-Event-ID": "2"})
        nothing.end()
        assert (nothing.status, nothing.messages) == (204, [])
        assert httpx.get(
            f"{url}/v1/jobs/job_x/events/stream", headers={"authorization": api.http.headers["authorization"]}
        ).json()["error"]["code"] == ("job_not_found")


def test_one_look_feeds_all_streams(api: Api, quick: None) -> None:
    """Ten people who watch cost the database no more than one."""
    job_id, claim = running_job(api)
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "job_events" in statement and statement.startswith("SELECT"):
            asked.append(statement)

    with served(api) as (url, services):
        streams = [Stream(api, url, job_id) for _ in range(10)]
        for stream in streams:
            stream.wait_for(5)
        wait_until(lambda: all(stream.comments for stream in streams), what="quiet")
        engine = services.database.engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            for n in range(1, 6):
                with api.database.reading() as session:
                    before = session.get_one(Job, job_id).event_seq
                record(api, claim, Evaluated(step=n, metrics={"validation_loss": 1.0}))
                for stream in streams:
                    stream.wait_for(before + 1)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        assert len(asked) == 5
        succeed_or_cancel(api, job_id, claim)
        for stream in streams:
            stream.end()


def succeed_or_cancel(api: Api, job_id: str, claim: Claim) -> None:
    api.http.post(f"/v1/jobs/{job_id}/cancel")
    with api.database.transaction() as session:
        store.begin_stop(session, claim)
    with api.database.transaction() as session:
        store.end_stopped(session, claim)


def test_who_leaves_is_forgotten(api: Api, quick: None) -> None:
    job_id, claim = running_job(api)
    with served(api) as (url, services), httpx.Client(trust_env=False) as client:
        watched = services.tail._watched
        headers = {"authorization": api.http.headers["authorization"]}
        with client.stream("GET", f"{url}/v1/jobs/{job_id}/events/stream", headers=headers) as response:
            lines = response.iter_lines()  # held: a dropped iterator hangs up
            next(lines)
            assert list(watched) == [job_id]
        wait_until(lambda: not watched, what="the stream is forgotten")
        succeed_or_cancel(api, job_id, claim)


def test_a_stream_outlives_a_crash_of_the_database(api: Api, quick: None, postgres: Postgres) -> None:
    job_id, claim = running_job(api)
    with served(api) as (url, _):
        stream = Stream(api, url, job_id)
        stream.wait_for(5)
        postgres.stop("immediate")
        pings = len(stream.comments)
        wait_until(lambda: len(stream.comments) > pings + 1, what="it goes on")
        postgres.start()
        record(api, claim, step(1))
        stream.wait_for(6)
        succeed_or_cancel(api, job_id, claim)
        stream.end()
    assert stream.seqs == list(range(1, len(stream.seqs) + 1))


def test_there_is_a_limit_of_streams(api: Api, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MAX_STREAMS", 0)
    answer = api.http.get(f"/v1/jobs/{api.submit()['id']}/events/stream")
    assert answer.status_code == 429
    assert answer.headers["retry-after-ms"] == "10000"


def test_more_at_once_than_is_held(api: Api, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst that the shared look does not carry is read from the database by each stream."""
    monkeypatch.setattr(tail, "_CHUNK", 5)
    job_id, claim = running_job(api)
    with served(api) as (url, _):
        stream = Stream(api, url, job_id)
        stream.wait_for(5)
        for start in (1, 30):
            record(api, claim, *(Evaluated(step=n, metrics={"validation_loss": 1.0}) for n in range(start, start + 23)))
        succeed_or_cancel(api, job_id, claim)
        stream.end()
    assert stream.seqs == list(range(1, len(stream.seqs) + 1))
    assert len(stream.seqs) > 50
