"""Whatever goes wrong, the answer is the envelope, with a request id, and says nothing that it should not."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.dependencies import Services
from tests.apis import Api, running_api
from tests.services import Postgres


def error_of(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    body = answer.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.fixture
def small(tmp_path: Path, sqlite_url: str) -> Iterator[Api]:
    with running_api(tmp_path / "home", sqlite_url, max_body_bytes=2000, max_post_bytes=5000) as running:
        yield running


def test_unknown_routes_and_methods(small: Api) -> None:
    assert error_of(small.http.get("/v1/nothing"), 404)["code"] == "unknown_route"
    assert error_of(small.http.get("/v1/jobs/"), 404)["code"] == "unknown_route"  # no redirect that loses a body
    error = error_of(small.http.patch("/v1/jobs"), 405)
    assert error["code"] == "method_not_allowed"


def test_bad_json(small: Api) -> None:
    for content in (b"{", b"[1, 2", b'"\xff"', b"nothing", b"[" * 1900):
        answer = small.http.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
        assert error_of(answer, 400)["type"] == "invalid_request_error"
    error = error_of(small.http.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}), 400)
    assert error["code"] == "invalid_json"
    assert "character 1" in error["message"]


def test_query_faults_name_the_parameter(small: Api) -> None:
    error = error_of(small.http.get("/v1/jobs?limit=1000"), 400)
    assert error["param"] == "limit"
    assert "100" in error["message"]
    assert error_of(small.http.get("/v1/jobs?state=asleep"), 400)["param"] == "state"
    assert error_of(small.http.get("/v1/jobs?metadata=x"), 400)["param"] == "metadata"
    assert error_of(small.http.get("/v1/jobs?after=job_x"), 400)["code"] == "invalid_cursor"


def test_ids_are_the_servers_and_the_clients_is_kept_beside(small: Api) -> None:
    answer = small.http.get("/healthz", headers={"x-request-id": "mine\x1b[31m"})
    assert answer.headers["x-client-request-id"] == "mine[31m"
    assert answer.headers["x-request-id"] != "mine"
    assert int(answer.headers["openai-processing-ms"]) >= 0


def test_security_headers(small: Api) -> None:
    for path in ("/healthz", "/v1/jobs", "/v1/nothing", "/docs"):
        headers = small.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_other_hosts_are_refused(small: Api) -> None:
    """A page of somebody else, rebound to our address, sends its own name as the host."""
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[::2]:8000"):
        answer = small.http.get("/v1/jobs", headers={"host": host})
        assert error_of(answer, 400)["code"] == "unknown_host"
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
        assert small.http.get("/healthz", headers={"host": host}).status_code == 200


def test_a_body_that_is_too_large(small: Api) -> None:
    spec = json.dumps({"kind": "x" * 3000})
    headers = {"content-type": "application/json"}
    assert error_of(small.http.post("/v1/jobs", content=spec, headers=headers), 413)["code"] == "too_large"
    error = error_of(small.http.post("/v1/jobs", content=iter([spec.encode()] * 3), headers=headers), 413)
    assert "2000 bytes" in error["message"]
    form = {"files": {"file": ("a.txt", b"x" * 6000)}, "data": {"purpose": "fine-tune"}}
    assert "/v1/uploads" in error_of(small.http.post("/v1/files", **form), 413)["message"]


def test_a_content_length_that_lies(small: Api) -> None:
    """The server counts what comes; a header that promises less changes nothing."""
    sent: list[Any] = []
    chunks = iter([b'{"kind": "' + b"x" * 900 for _ in range(5)])

    async def receive() -> Any:
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    key = small.http.headers["authorization"].encode()
    headers = [(b"host", b"localhost"), (b"authorization", key), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/jobs",
        "raw_path": b"/v1/jobs",
        "query_string": b"",
        "scheme": "http",
        "headers": [*headers, (b"content-length", b"10")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    asyncio.run(small.app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert next(chunks, None) is not None  # it stopped reading


def test_a_crash_says_nothing_but_where_to_look(
    small: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def boom(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the secret of line 17")

    monkeypatch.setattr("core.jobs.listing.jobs", boom)
    with caplog.at_level(logging.ERROR):
        answer = small.http.get("/v1/jobs")
    error = error_of(answer, 500)
    assert error["type"] == "server_error"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"] in error["message"]
    logged = [record for record in caplog.records if answer.headers["x-request-id"] in record.getMessage()]
    assert logged
    assert logged[0].exc_info


def test_the_access_log_has_no_secrets(small: Api, caplog: pytest.LogCaptureFixture) -> None:
    key = small.http.headers["authorization"].removeprefix("Bearer ")
    with caplog.at_level(logging.INFO, "api.access"):
        small.http.get("/v1/jobs?metadata[secret]=hidden")
        small.http.post("/v1/jobs", json={"kind": "whisper"})
    lines = [vars(record) for record in caplog.records if record.name == "api.access"]
    assert [line["status"] for line in lines] == [200, 400]
    assert lines[0]["route"] == "/v1/jobs"
    assert lines[0]["project"].startswith("proj_")
    text = repr(lines)
    assert "hidden" not in text
    assert "whisper" not in text
    assert key not in text


def test_the_database_is_away(api: Api, postgres: Postgres) -> None:
    file_id = api.put()["id"]
    postgres.stop()
    for answer in (api.http.get("/v1/jobs"), api.http.delete(f"/v1/files/{file_id}")):
        error = error_of(answer, 503)
        assert error["code"] == "database_unavailable"
        assert answer.headers["retry-after"] == "2"
        assert int(answer.headers["retry-after-ms"]) <= 120_000
    assert api.http.get("/healthz").status_code == 200
    ready = api.http.get("/readyz")
    assert error_of_ready(ready) == "not_ready"
    postgres.start()
    assert api.http.get("/v1/jobs").status_code == 200
    assert api.http.get(f"/v1/files/{file_id}").status_code == 200
    assert api.http.get("/readyz").status_code == 200


def error_of_ready(answer: Any) -> str:
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    return str(answer.json()["error"]["code"])


def test_connections_run_out(tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever, and the health endpoints answer meanwhile."""
    with running_api(tmp_path, postgresql_url) as api:
        services: Services = api.app.state.services
        pool = services.database.engine.pool
        monkeypatch.setattr(pool, "_timeout", 0.3)
        held = [services.database.engine.connect() for _ in range(20)]
        try:
            answers: list[Any] = []
            threads = [threading.Thread(target=lambda: answers.append(api.http.get("/v1/jobs"))) for _ in range(4)]
            for thread in threads:
                thread.start()
            assert api.http.get("/healthz").status_code == 200
            assert api.http.get("/readyz").status_code == 200
            for thread in threads:
                thread.join()
        finally:
            for connection in held:
                connection.close()
        assert [error_of(answer, 503)["code"] for answer in answers] == ["database_unavailable"] * 4
        assert api.http.get("/v1/jobs").status_code == 200


def test_texts_that_cannot_be_stored(api: Api) -> None:
    file_id = api.put()["id"]
    for value in ("a\x00b", "\ud800"):
        body = json.dumps({"kind": "tokenizer", "data": {"train": [{"file": file_id}]}, "metadata": {"k": value}})
        answer = api.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        assert error_of(answer, 400)["type"] == "invalid_request_error"
    error_of(api.http.get("/v1/jobs/%00"), 400)
    assert api.http.get("/v1/jobs?metadata[a]=%ED%A0%80").status_code == 200


def test_an_old_schema_is_not_ready(tmp_path: Path) -> None:
    api = Api(tmp_path, f"sqlite:///{tmp_path / 'empty.db'}", reap_seconds=1000)
    with api.http:
        answer = api.http.get("/readyz")
    assert error_of_ready(answer) == "not_ready"
    assert "alembic upgrade head" in answer.json()["checks"]["schema"]
