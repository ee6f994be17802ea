"""Jobs over HTTP: submitted once, resolved, refused, listed, steered."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from core.jobs import idempotency, journal, registry
from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.tables import File, IdempotentRequest, Job, JobUse, Model
from tests.apis import CHAT, TINY, Api, running_api, train
from tests.jobs import train_spec
from tests.services import Valkey, wait_until


def refused(api: Api, body: Any, status: int = 400, **headers: str) -> Any:
    answer = api.http.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def count_jobs(api: Api) -> int:
    with api.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def add_model(api: Api, name: str = "pt:lab:plays:1a2b3c4d", **fields: Any) -> str:
    config = train_spec().model.shape(vocab_size=327)  # type: ignore[union-attr]
    row = Model(
        **{
            "name": name,
            "project_id": api.project_id(),
            "root": "plays",
            "config": config.model_dump(mode="json"),
            "num_parameters": config.num_parameters(),
            "metrics": {},
            "has_chat_template": True,
            "storage_key": "models/x",
            "manifest_sha256": "0",
            "size_bytes": 1,
        }
        | fields
    )
    with api.database.transaction() as session:
        session.add(row)
    return name


def test_a_job_is_resolved_and_shown(any_api: Api) -> None:
    file_id = any_api.put()["id"]
    answer = any_api.http.post("/v1/jobs", json=train(file_id, suffix="plays/one", metadata={"who": "me"}))
    assert answer.status_code == 201
    job = answer.json()
    assert job["id"].startswith("job_")
    assert len(job["id"]) == 28
    assert (job["state"], job["desired"], job["attempts"], job["queue_position"]) == ("validating", "run", 0, 1)
    spec = job["spec"]
    assert spec["data"]["format"] == "text"
    assert spec["data"]["sequence_length"] == 64
    assert spec["batch"]["sequences"] == 32
    assert spec["optimizer"]["learning_rate"] > 0
    assert job["model"].startswith("pt:lab:plays/one:")
    assert job["metadata"] == {"who": "me"}
    assert any_api.http.get(f"/v1/jobs/{job['id']}").json() == job
    with any_api.database.reading() as session:
        assert list(session.scalars(select(JobUse.object_id))) == [file_id]


def test_a_tokenizer_job(any_api: Api) -> None:
    body = {"kind": "tokenizer", "vocab_size": 600, "data": {"train": [{"file": any_api.put()["id"]}]}}
    job = any_api.http.post("/v1/jobs", json=body).json()
    assert job["kind"] == "tokenizer"
    assert job["model"] is None
    assert job["spec"]["data"]["format"] == "text"


def test_a_job_from_a_model_by_its_alias(any_api: Api) -> None:
    name = add_model(any_api)
    any_api.http.put("/v1/models/pet/alias", json={"model": name})
    job = any_api.submit(model={"init": "pretrained", "from": "pet"}, suffix="x")
    assert job["spec"]["model"]["from"] == name
    assert job["spec"]["batch"]["sequences"] == 8
    assert job["model"].startswith("ft:plays:lab:x:")
    with any_api.database.reading() as session:
        assert registry.users_of(session, name) == [job["id"]]


def test_a_models_tokenizer_is_taken(any_api: Api) -> None:
    name = add_model(any_api)
    job = any_api.submit(model={"init": "random", "dimensions": TINY, "tokenizer": name})
    assert job["spec"]["model"]["tokenizer"] == name
    with any_api.database.reading() as session:
        row = session.get_one(Job, job["id"])
        assert row.config is not None
        assert row.config["vocab_size"] == 327
        assert set(session.scalars(select(JobUse.object_id).where(JobUse.job_id == row.id))) >= {name}


def test_refusals(any_api: Api) -> None:
    text, chat = any_api.put()["id"], any_api.put(CHAT, filename="chat.jsonl")["id"]
    other = any_api.put(b"\x00", filename="a.bin", purpose="user_data")["id"]
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        (train("file-nope"), "file_not_found", "data.train.0.file"),
        (train(other), "wrong_purpose", "data.train.0.file"),
        (train(text, data={"train": [{"file": text}, {"file": chat}]}), "mixed_formats", "data.train.1.file"),
        (train(text, data={"train": [{"file": text}], "format": "chat"}), "invalid_request", None),
        (
            train(chat, objective={"kind": "supervised"}, data={"train": [{"file": text}], "format": "chat"}),
            "mixed_formats",
            "data.train.0.file",
        ),
        (train(chat), "format_mismatch", "objective.kind"),
        (train(text, objective={"kind": "supervised"}), "format_mismatch", "objective.kind"),
        (
            train(text, data={"train": [{"file": text}], "validation": {"file": chat}}),
            "mixed_formats",
            "data.validation.file",
        ),
        (
            train(text, data={"train": [{"file": text}], "sequence_length": 65}),
            "sequence_too_long",
            "data.sequence_length",
        ),
        (train(text, model={"init": "pretrained", "from": "gpt-9"}), "model_not_found", "model.from"),
        (
            train(text, model={"init": "random", "preset": "nano", "tokenizer": "tok_x"}),
            "tokenizer_not_found",
            "model.tokenizer",
        ),
        (
            train(text, model={"init": "random", "dimensions": TINY | {"num_heads": 3}, "tokenizer": "bytes"}),
            "invalid_request",
            "model.dimensions",
        ),
    ]
    for body, code, param in cases:
        error = refused(any_api, body)
        assert (error["code"], error["param"]) == (code, param), error
    assert count_jobs(any_api) == 0


def test_every_optimizer_goes_with_every_schedule_but_muon_with_no_adapter(api: Api) -> None:
    file_id = api.put()["id"]
    optimizers = [{"kind": "adamw", "state": "int8"}, {"kind": "muon"}, {"kind": "adafactor"}, {"kind": "sgd"}]
    for optimizer in optimizers:
        for schedule in ("cosine", "linear", "warmup_stable_decay", "constant", "inverse_sqrt"):
            body = train(file_id, optimizer=optimizer, schedule={"kind": schedule})
            answer = api.http.post("/v1/jobs?dry_run=true", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["spec"]["optimizer"]["learning_rate"] > 0
    adapted = train(file_id, adapter={"kind": "lora"}, model={"init": "pretrained", "from": "x"})
    error = refused(api, adapted | {"optimizer": {"kind": "muon"}})
    assert "`optimizer.kind` 'adamw'" in error["message"]


def test_text_with_scores_is_trained_as_text_where_that_is_said(any_api: Api) -> None:
    """Web text often has a quality score beside it."""
    file = any_api.put(b'{"text": "Once upon a time.", "score": 3.5}\n' * 12, filename="web.jsonl")
    assert file["format"] == "scored"
    error = refused(any_api, train(file["id"]))
    assert error["code"] == "format_mismatch"
    assert "or say `data.format`: 'text'" in error["message"]
    job = any_api.submit(data={"train": [{"file": file["id"]}], "format": "text"})
    assert job["spec"]["data"]["format"] == "text"


def test_a_dry_run_creates_nothing(any_api: Api) -> None:
    body = train(any_api.put()["id"], budget={"epochs": 2})
    answer = any_api.http.post("/v1/jobs?dry_run=true", json=body)
    assert answer.status_code == 200
    found = answer.json()
    assert found["spec"]["optimizer"]["learning_rate"]
    assert found["parameters"] == found["model"]["vocab_size"] * 32 + 32 + (32 * 16 * 8 + 3 * 32 * 96 + 64)
    size = found["estimate"]["data_bytes"]
    assert found["estimate"]["epoch_tokens"] == size  # of bytes
    assert found["estimate"]["total_steps"] == -(-2 * size // (32 * 64))
    assert count_jobs(any_api) == 0
    assert any_api.http.post("/v1/jobs?dry_run=true", json=train("file-x")).status_code == 400


# --- once ---


def test_an_idempotency_key_names_one_job(any_api: Api) -> None:
    body, headers = train(any_api.put()["id"]), {"idempotency-key": "abc"}
    first = any_api.http.post("/v1/jobs", json=body, headers=headers)
    second = any_api.http.post("/v1/jobs", json=body, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    assert second.status_code == 201
    answer = any_api.http.post("/v1/jobs", json=body | {"seed": 3}, headers=headers)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "idempotency_conflict"
    assert answer.headers["x-should-retry"] == "false"
    assert any_api.http.post(f"/v1/jobs/{first.json()['id']}/clone", headers=headers).status_code == 409
    assert count_jobs(any_api) == 1
    other = any_api.headers("other")
    assert any_api.http.post("/v1/jobs", json=body, headers=other | headers).status_code == 400  # its own key space


def test_a_refused_request_frees_its_key(any_api: Api) -> None:
    headers = {"idempotency-key": "abc"}
    refused(any_api, train("file-x"), **headers)
    assert any_api.http.post("/v1/jobs", json=train(any_api.put()["id"]), headers=headers).status_code == 201


def test_keys_are_forgotten_after_a_day(any_api: Api) -> None:
    body, headers = train(any_api.put()["id"]), {"idempotency-key": "abc"}
    any_api.http.post("/v1/jobs", json=body, headers=headers)
    with any_api.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(created_at=now() - 86_401))
    any_api.http.post("/v1/jobs", json=body | {"seed": 1}, headers=headers)
    assert count_jobs(any_api) == 2
    with any_api.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(created_at=now() - 86_401))
        idempotency.forget(session)
        assert session.scalar(select(func.count()).select_from(IdempotentRequest)) == 0


def test_twenty_equal_posts_at_once_make_one_job(any_api: Api) -> None:
    body, headers = train(any_api.put()["id"]), {"idempotency-key": "abc"}
    gate = threading.Barrier(20)

    def post(_: int) -> Any:
        gate.wait()
        return any_api.http.post("/v1/jobs", json=body, headers=headers)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count_jobs(any_api) == 1


def test_what_the_sdk_sends_again_is_made_once(any_api: Api) -> None:
    """It sends no key, but says that it tries again: then equal bytes are one request. Sent anew, they are another."""
    body = train(any_api.put()["id"])

    def post(retry: int, **changed: Any) -> str:
        headers = {"x-stainless-retry-count": str(retry)}
        return str(any_api.http.post("/v1/jobs", json=body | changed, headers=headers).json()["id"])

    first, again = post(0), post(1)
    assert first == again
    anew = post(0)
    assert anew != first
    assert post(2) == anew
    assert post(1, seed=5) not in (first, anew)
    assert post(1) == anew
    with any_api.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(created_at=now() - 601))
    assert post(1) != anew  # that long afterwards it is meant


def test_a_submit_wakes_a_worker_at_once(tmp_path: Path, sqlite_url: str, valkey: Valkey) -> None:
    """Without waiting for the dispatcher's next look, and without asking the database."""
    with running_api(tmp_path, sqlite_url, redis_url=valkey.url, reap_seconds=1000.0) as api:
        api.submit()
        with valkey.connect() as broker:
            wait_until(lambda: broker.llen("ws:light") > 0, what="a hint")  # the first look may send it too
            job_id = api.submit(seed=1)["id"]
            wait_until(lambda: job_id in str(broker.lrange("ws:light", 0, -1)), what="another hint")


def test_a_broker_that_is_away_costs_a_submit_nothing(tmp_path: Path, sqlite_url: str) -> None:
    with running_api(tmp_path, sqlite_url, redis_url="redis://127.0.0.1:1/0") as api:
        assert api.submit()["state"] == "validating"


# --- lists ---


def test_pages_are_stable_while_jobs_come(any_api: Api) -> None:
    file_id = any_api.put()["id"]
    made = [any_api.submit(file=file_id, seed=i)["id"] for i in range(7)]
    seen: list[str] = []
    after = None
    while True:
        page = any_api.http.get("/v1/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += [job["id"] for job in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        any_api.submit(file=file_id, seed=100 + len(seen))  # newer ones come meanwhile
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == made[::-1]


def test_equal_times_do_not_confuse_pages(any_api: Api) -> None:
    file_id = any_api.put()["id"]
    made = {any_api.submit(file=file_id, seed=i)["id"] for i in range(5)}
    with any_api.database.transaction() as session:
        session.execute(update(Job).values(created_at=1000.5))
    seen, after = [], None
    for _ in range(5):
        page = any_api.http.get("/v1/jobs", params={"limit": 1} | ({"after": after} if after else {})).json()
        after = page["data"][0]["id"]
        seen.append(after)
    assert set(seen) == made
    assert not page["has_more"]


def test_filters(any_api: Api) -> None:
    file_id = any_api.put()["id"]
    a = any_api.submit(file=file_id, metadata={"run": "1", 'it\'s "odd".$': "ä"})["id"]
    b = any_api.submit(file=file_id, metadata={"run": "2"})["id"]
    c = any_api.submit(file=file_id)["id"]
    body = {"kind": "tokenizer", "vocab_size": 600, "data": {"train": [{"file": file_id}]}, "metadata": {"run": "1"}}
    d = any_api.http.post("/v1/jobs", json=body).json()["id"]
    any_api.http.post(f"/v1/jobs/{b}/cancel")

    def ids(**params: str) -> list[str]:
        answer = any_api.http.get("/v1/jobs", params=params)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert ids(**{"metadata[run]": "1"}) == [d, a]
    assert ids(**{"metadata[run]": "1", "kind": "train"}) == [a]
    assert ids(**{'metadata[it\'s "odd".$]': "ä"}) == [a]
    assert ids(**{"metadata[run]": "1", 'metadata[it\'s "odd".$]': "x"}) == []
    assert ids(metadata="null") == [c]
    assert ids(state="cancelled") == [b]
    assert ids(kind="tokenizer") == [d]


def test_places_in_the_queue(any_api: Api) -> None:
    file_id = any_api.put()["id"]
    low = any_api.submit(file=file_id, priority=-1)["id"]
    first = any_api.submit(file=file_id)["id"]
    second = any_api.submit(file=file_id, seed=1)["id"]
    urgent = any_api.submit(file=file_id, priority=9)["id"]
    places = {job["id"]: job["queue_position"] for job in any_api.http.get("/v1/jobs").json()["data"]}
    assert places == {urgent: 1, first: 2, second: 3, low: 4}
    any_api.http.post(f"/v1/jobs/{first}/pause")
    assert any_api.http.get(f"/v1/jobs/{first}").json()["queue_position"] is None
    assert any_api.http.get(f"/v1/jobs/{second}").json()["queue_position"] == 2


def test_a_claim_reads_its_index(database_url: str) -> None:
    """However long the queue is, the first job is one step away."""
    database = Database(database_url)
    explain = "EXPLAIN QUERY PLAN" if database_url.startswith("sqlite") else "EXPLAIN"
    query = (
        f"{explain} SELECT id FROM jobs WHERE queue = 'light' AND state IN ('queued', 'validating') "
        "AND desired = 'run' AND lease_owner IS NULL ORDER BY priority DESC, created_at, id LIMIT 1"
    )
    with database.reading() as session:
        plan = " ".join(str(tuple(row)) for row in session.execute(text(query)))
    assert "ix_jobs_claim" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan
    database.close()


# --- steering ---


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_wrong_states_are_named(api: Api, action: str) -> None:
    job_id = api.submit()["id"]
    api.http.post(f"/v1/jobs/{job_id}/cancel")
    answer = api.http.post(f"/v1/jobs/{job_id}/{action}")
    assert answer.status_code == 409
    ending = {"cancel": "cancellable", "pause": "pausable", "resume": "resumable"}[action]
    assert answer.json()["error"]["code"] == f"job_not_{ending}"
    assert answer.headers["x-should-retry"] == "false"


def test_pause_and_resume(any_api: Api) -> None:
    job_id = any_api.submit()["id"]
    assert any_api.http.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "paused"
    assert any_api.http.post(f"/v1/jobs/{job_id}/resume").json()["state"] == "validating"
    assert any_api.http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"


def test_a_leased_job_is_asked(any_api: Api) -> None:
    job_id = any_api.submit()["id"]
    any_api.claim()
    job = any_api.http.post(f"/v1/jobs/{job_id}/pause").json()
    assert (job["state"], job["desired"], job["attempts"]) == ("validating", "pause", 1)
    assert job["queue_position"] is None
    assert [attempt["worker"] for attempt in job["history"]] == ["w"]
    assert any_api.http.post(f"/v1/jobs/{job_id}/resume").json()["desired"] == "run"


def test_a_clone_with_changes(any_api: Api) -> None:
    job = any_api.submit(seed=3, metadata={"a": "b"}, stop=None)
    changes = {"optimizer": {"learning_rate": 0.5}, "metadata": {"a": None, "c": "d"}, "seed": 4}
    clone = any_api.http.post(f"/v1/jobs/{job['id']}/clone", json=changes)
    assert clone.status_code == 201
    made = clone.json()
    assert made["parent"] == job["id"]
    assert made["id"] != job["id"]
    assert made["model"] != job["model"]
    assert made["spec"]["optimizer"] == job["spec"]["optimizer"] | {"learning_rate": 0.5}
    assert made["metadata"] == {"c": "d"}
    same = any_api.http.post(f"/v1/jobs/{job['id']}/clone").json()
    assert same["spec"] == job["spec"]
    error = any_api.http.post(f"/v1/jobs/{job['id']}/clone", json={"seed": -1}).json()["error"]
    assert error["param"] == "seed"


def test_what_a_job_uses_is_not_deleted(any_api: Api) -> None:
    job = any_api.submit()
    file_id = job["spec"]["data"]["train"][0]["file"]
    answer = any_api.http.delete(f"/v1/files/{file_id}")
    assert answer.status_code == 409
    assert job["id"] in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "in_use"
    any_api.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert any_api.http.delete(f"/v1/files/{file_id}").status_code == 200
    with any_api.database.reading() as session:
        assert session.get_one(File, file_id).deleted_at is not None


def test_the_receipt(any_api: Api) -> None:
    job = any_api.submit(seed=11)
    any_api.claim()
    with any_api.database.transaction() as session:
        journal.append_log(session, session.get_one(Job, job["id"]), "one\ntwo\nthree\n", offset=0)
    found = any_api.http.get(f"/v1/jobs/{job['id']}/receipt").json()
    assert found["seed"] == 11
    assert found["spec"] == job["spec"]
    assert found["inputs"][0]["sha256"] == any_api.http.get(f"/v1/files/{found['inputs'][0]['id']}").json()["sha256"]
    assert [attempt["stage"] for attempt in found["attempts"]] == ["validating"]
    log = any_api.http.get(f"/v1/jobs/{job['id']}/logs?tail=2").json()
    assert log["text"] == "two\nthree\n"
    assert log["truncated"] is True
    assert any_api.http.get(f"/v1/jobs/{job['id']}/logs").json()["truncated"] is False
