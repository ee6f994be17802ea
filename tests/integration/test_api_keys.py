"""Who may what: keys, scopes and projects; and that one project can never tell that another exists."""

import re
import threading
import time
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import select, update

from core.job_spec import JOB_SPEC
from core.jobs import journal, submit, workers
from core.jobs.dialect import now
from core.jobs.ids import new_key
from core.jobs.keys import SCOPES, Scope
from core.jobs.tables import Alias, ApiKey, Checkpoint, Job, Model, TokenizerRow
from tests.apis import TEXT, Api, train


def code(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


def test_a_key_is_needed(api: Api) -> None:
    del api.http.headers["authorization"]
    answer = api.http.get("/v1/jobs")
    assert code(answer, 401) == "missing_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    for header in ("Bearer", "Bearer ", "Basic abc", "Bearer sk-123", f"Bearer {new_key()[0]}", "Bearer ws_a_b_c"):
        assert api.http.get("/v1/jobs", headers={"authorization": header}).status_code == 401


def test_the_right_id_with_the_wrong_secret(api: Api) -> None:
    key, other = api.key(), new_key()[0]
    with api.database.transaction() as session:
        lookup = key.split("_")[1]
        forged = other.split("_")[1]
        session.execute(update(ApiKey).where(ApiKey.lookup == lookup).values(lookup=forged))
    assert code(api.http.get("/v1/jobs", headers={"authorization": f"Bearer {other}"}), 401) == "invalid_api_key"


def test_expired_and_revoked_keys(api: Api) -> None:
    short = {"authorization": f"Bearer {api.key(seconds=3600)}"}
    assert api.http.get("/v1/jobs", headers=short).status_code == 200
    with api.database.transaction() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.expires_at.is_not(None))).one()
        row.expires_at = time.time() - 1
    assert code(api.http.get("/v1/jobs", headers=short), 401) == "expired_api_key"
    made = api.http.post("/v1/keys", json={"name": "gone", "scopes": ["read"]}).json()
    gone = {"authorization": f"Bearer {made['value']}"}
    assert api.http.get("/v1/jobs", headers=gone).status_code == 200
    assert api.http.delete(f"/v1/keys/{made['id']}").json()["deleted"] is True
    assert "revoked" in api.http.get("/v1/jobs", headers=gone).json()["error"]["message"]


@pytest.mark.parametrize("scope", SCOPES)
def test_scopes(api: Api, scope: Scope) -> None:
    headers = api.headers(scopes=[scope])
    asked = {
        "read": api.http.get("/v1/jobs", headers=headers),
        "write": api.http.post("/v1/jobs", json={}, headers=headers),
        "generate": api.http.post("/v1/completions", json={}, headers=headers),
        "metrics": api.http.get("/metrics", headers=headers),
        "admin": api.http.get("/v1/keys", headers=headers),
    }
    allowed = {name for name, answer in asked.items() if answer.status_code != 403}
    expected = {"admin": set(SCOPES), "read": {"read", "metrics"}}.get(scope, {scope})
    assert allowed == expected
    for name in set(SCOPES) - expected:
        assert f"`{name}`" in asked[name].json()["error"]["message"]
        assert code(asked[name], 403) == "missing_scope"
    assert api.http.get("/openapi.json", headers=headers).status_code == (200 if "metrics" in expected else 403)


def test_the_last_use_is_written_once_a_minute(api: Api) -> None:
    headers = api.headers(scopes=["read"])
    lookup = headers["authorization"].split("_")[1]

    def used() -> float | None:
        with api.database.reading() as session:
            return session.scalar(select(ApiKey.last_used_at).where(ApiKey.lookup == lookup))

    assert used() is None
    api.http.get("/v1/jobs", headers=headers)
    first = used()
    assert first is not None
    api.http.get("/v1/jobs", headers=headers)
    assert used() == first
    with api.database.transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.lookup == lookup).values(last_used_at=now() - 61))
    api.http.get("/v1/jobs", headers=headers)
    assert (used() or 0) >= first


def test_keys_are_shown_once(any_api: Api) -> None:
    made = any_api.http.post("/v1/keys", json={"name": "laptop", "expires_in_days": 1}).json()
    assert made["value"].startswith("ws_")
    assert made["scopes"] == ["generate", "read", "write"]
    assert made["expires_at"] == pytest.approx(made["created_at"] + 86400)
    listed = any_api.http.get("/v1/keys").json()["data"]
    assert [key["name"] for key in listed] == ["laptop", "test"]
    assert all(key["value"] is None for key in listed)
    assert made["value"] not in any_api.http.get("/v1/keys").text
    assert any_api.http.get(f"/v1/keys/{made['id']}").json()["redacted_value"] == f"{made['value'][:11]}_…"
    with any_api.database.reading() as session:
        assert all(made["value"] not in (row.sha256, row.lookup) for row in session.scalars(select(ApiKey)))
    assert code(any_api.http.get("/v1/keys/key_x"), 404) == "key_not_found"
    assert code(any_api.http.post("/v1/keys", json={"name": "x", "scopes": ["fly"]}), 400) == "invalid_request"


def test_nobody_locks_everybody_out(api: Api) -> None:
    own = api.http.get("/v1/keys").json()["data"][0]
    assert code(api.http.delete(f"/v1/keys/{own['id']}"), 409) == "last_admin_key"
    api.http.post("/v1/keys", json={"name": "second", "scopes": ["admin"]})
    assert api.http.delete(f"/v1/keys/{own['id']}").status_code == 200
    assert api.http.get("/v1/jobs").status_code == 401


def test_projects(any_api: Api) -> None:
    made = any_api.http.post("/v1/projects", json={"name": "research"}).json()
    assert code(any_api.http.post("/v1/projects", json={"name": "research"}), 409) == "project_exists"
    assert code(any_api.http.post("/v1/projects", json={"name": "Not A Slug"}), 400) == "invalid_request"
    key = any_api.http.post("/v1/keys", json={"name": "k", "project": "research", "scopes": ["read"]}).json()
    assert key["project"] == "research"
    assert [row["name"] for row in any_api.http.get("/v1/projects").json()["data"]] == ["lab", "research"]
    held = any_api.http.delete(f"/v1/projects/{made['id']}")
    assert code(held, 409) == "in_use"
    assert "valid keys" in held.json()["error"]["message"]
    any_api.http.delete(f"/v1/keys/{key['id']}")
    assert any_api.http.delete(f"/v1/projects/{made['id']}").json()["deleted"] is True
    assert code(any_api.http.delete(f"/v1/projects/{made['id']}"), 404) == "project_not_found"


def everything_of(api: Api) -> dict[str, str]:
    """One of each thing in project `lab`, by the name that routes call it."""
    file_id = api.put()["id"]
    job_id = api.submit(file=file_id)["id"]
    upload = api.http.post("/v1/uploads", json={"bytes": 5, "filename": "a.txt", "purpose": "fine-tune"}).json()
    api.http.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("p", b"abcde")})
    project = api.project_id()
    with api.database.transaction() as session:
        job = session.get_one(Job, job_id)
        journal.append_log(session, job, "hello\n", offset=0)
        config = job.config
        stored = {"storage_key": "files/x", "manifest_sha256": "0", "size_bytes": 1}
        session.add_all(
            [
                Model(
                    name="pt:lab:secret:1a2b3c4d",
                    project_id=project,
                    root="secret",
                    config=config,
                    num_parameters=1,
                    metrics={},
                    has_chat_template=True,
                    **stored,
                ),
                Alias(project_id=project, alias="pet", model_name="pt:lab:secret:1a2b3c4d"),
                TokenizerRow(
                    id="tok_secret", project_id=project, vocab_size=9, sha256="0", metrics={}, storage_key="files/x"
                ),
                Checkpoint(
                    id="ckpt_secret",
                    job_id=job_id,
                    project_id=project,
                    fence=0,
                    step=1,
                    model_name=f"{job.model_name}:ckpt-step-1",
                    metrics={},
                    best=False,
                    **stored,
                ),
            ]
        )
    return {
        "job_id": job_id,
        "file_id": file_id,
        "upload_id": upload["id"],
        "model": "pt:lab:secret:1a2b3c4d",
        "alias": "pet",
        "tokenizer_id": "tok_secret",
    }


def test_another_projects_ids_do_not_exist(api: Api) -> None:
    """For every route with an id: the same answer as for an id that nobody has, and nothing is changed."""
    theirs = everything_of(api)
    stranger = api.headers("other", scopes=["read", "write", "generate", "metrics"])
    bodies: dict[str, Any] = {
        "/v1/uploads/{upload_id}/complete": {"json": {"part_ids": ["part_x"]}},
        "/v1/uploads/{upload_id}/parts": {"files": {"data": ("p", b"x")}},
        "/v1/models/{alias}/alias": {"json": {"model": theirs["model"]}},
        "/v1/files/{file_id}/preview": {"json": {"tokenizer": "bytes"}},
    }
    looked_at = 0
    for context in iter_route_contexts(api.app.routes):
        template = re.sub(r":path\}", "}", context.path)
        names = re.findall(r"\{(\w+)\}", template)
        if not names or names[0] in ("project_id", "key_id"):
            continue
        for method in context.methods:
            path = template.format(**theirs)
            if template.startswith("/v1/fine_tuning"):
                path = path.replace("job_", "ftjob-")
            body = bodies.get(template, {}) if method != "GET" else {}
            found = api.http.request(method, path, headers=stranger, **body)
            nobodys = api.http.request(
                method, template.format(**dict.fromkeys(theirs, "nobody")), headers=stranger, **body
            )
            assert found.status_code == 404, f"{method} {path}: {found.status_code} {found.text}"
            assert found.json()["error"]["code"] == nobodys.json()["error"]["code"]
            looked_at += 1
    assert looked_at > 25
    for name, path in {
        "file_id": "files",
        "job_id": "jobs",
        "model": "models",
        "tokenizer_id": "tokenizers",
    }.items():
        assert api.http.get(f"/v1/{path}/{theirs[name]}").status_code == 200
        assert api.http.get(f"/v1/{path}", headers=stranger).json()["data"] == []
    assert api.http.get("/v1/models/pet/alias").json()["model"] == theirs["model"]


def test_another_projects_ids_in_a_body_do_not_exist(api: Api) -> None:
    theirs = everything_of(api)
    stranger = api.headers("other")
    own = api.http.post(
        "/v1/files", files={"file": ("a.txt", TEXT)}, data={"purpose": "fine-tune"}, headers=stranger
    ).json()["id"]
    refused = {
        "file_not_found": train(theirs["file_id"]),
        "model_not_found": train(own, model={"init": "pretrained", "from": theirs["model"]}),
        "tokenizer_not_found": train(
            own, model={"init": "random", "preset": "nano", "tokenizer": theirs["tokenizer_id"]}
        ),
    }
    for expected, body in refused.items():
        assert code(api.http.post("/v1/jobs", json=body, headers=stranger), 400) == expected
    for cursor in (f"/v1/jobs?after={theirs['job_id']}", f"/v1/files?after={theirs['file_id']}"):
        assert code(api.http.get(cursor, headers=stranger), 400) == "invalid_cursor"
    body = {"model": theirs["model"], "prompt": "x"}
    assert code(api.http.post("/v1/completions", json=body, headers=stranger), 404) == "model_not_found"
    assert code(api.http.put("/v1/models/mine/alias", json={"model": theirs["model"]}, headers=stranger), 404) == (
        "model_not_found"
    )


def test_workers_do_not_show_other_projects_jobs(api: Api) -> None:
    job_id = api.submit()["id"]
    with api.database.transaction() as session:
        workers.beat(session, "w1", kind="train", host="box", pid=1, version="0", job_id=job_id)
    assert [row["job"] for row in api.http.get("/v1/workers").json()["data"]] == [job_id]
    other = api.http.get("/v1/workers", headers=api.headers("other")).json()["data"]
    assert [row["job"] for row in other] == [None]
    assert "address" not in other[0]


def test_a_submit_holds_what_it_uses(api: Api) -> None:
    """Whoever deletes a file meanwhile waits, and then finds that it is in use."""
    file_id, project_id = api.put()["id"], api.project_id()
    deleted: list[int] = []
    with api.database.transaction() as session:
        spec = JOB_SPEC.validate_python(train(file_id))
        job = submit.submit(session, project_id, spec)
        deleting = threading.Thread(target=lambda: deleted.append(api.http.delete(f"/v1/files/{file_id}").status_code))
        deleting.start()
        deleting.join(0.3)
        assert deleting.is_alive(), "the file was deleted under a job that is being submitted"
    deleting.join()
    assert deleted == [409]
    assert api.http.get(f"/v1/jobs/{job.id}").status_code == 200
