"""Files and uploads over HTTP: streamed, checked, listed, imported, deleted."""

import hashlib
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import select, update

from core.jobs import keys, sweeping
from core.jobs.database import Database
from core.jobs.dialect import now
from core.jobs.tables import File, Upload
from tests.apis import CHAT, TEXT, Api, running_api
from tests.services import free_port, wait_until
from tests.stack import Stack


def error_of(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def stored(api: Api) -> set[str]:
    """Files in storage, partial ones too."""
    folders = ("files", "uploads")
    return {str(p) for folder in folders for p in (api.storage.root / folder).rglob("*") if p.is_file()}


def test_a_file_comes_back_as_it_went(any_api: Api) -> None:
    file = any_api.put(TEXT, filename="../../times.txt")
    assert file["filename"] == "times.txt"
    assert (file["object"], file["purpose"], file["status"], file["format"]) == (
        "file",
        "fine-tune",
        "processed",
        "text",
    )
    assert file["bytes"] == len(TEXT.encode())
    assert file["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert any_api.http.get(f"/v1/files/{file['id']}").json() == file
    content = any_api.http.get(f"/v1/files/{file['id']}/content")
    assert content.content == TEXT.encode()
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-disposition"] == 'attachment; filename="times.txt"'
    deleted = any_api.http.delete(f"/v1/files/{file['id']}").json()
    assert deleted == {"id": file["id"], "object": "file", "deleted": True}
    for path in ("", "/content", "/report"):
        assert error_of(any_api.http.get(f"/v1/files/{file['id']}{path}"), 404)["code"] == "file_not_found"


def test_fields_may_come_in_any_order(api: Api) -> None:
    boundary = "b"
    parts = [
        'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello there\n',
        'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune',
    ]
    body = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + f"--{boundary}--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    assert api.http.post("/v1/files", content=body, headers=headers).json()["bytes"] == 12


def test_what_is_refused_leaves_nothing(api: Api) -> None:
    before = stored(api)
    cases = {
        "empty_file": ("a.txt", b""),
        "invalid_file_format": ("a.txt", b"\xff\xfe\x00"),
        "truncated_file": ("a.jsonl", CHAT + b'{"messages": ['),
        "unknown_format": ("a.jsonl", b'{"x": 1}\n'),
    }
    for code, content in cases.items():
        answer = api.http.post("/v1/files", files={"file": content}, data={"purpose": "fine-tune"})
        error = error_of(answer, 400)
        assert (error["code"], error["param"]) == (code, "file")
    answer = api.http.post("/v1/files", files={"file": ("a", b"x")}, data={"purpose": "gossip"})
    assert error_of(answer, 400)["param"] == "purpose"
    answer = api.http.post("/v1/files", files={"file": ("a", b"x")})
    assert "fine-tune" in error_of(answer, 400)["message"]
    assert stored(api) == before
    assert api.http.get("/v1/files").json()["data"] == []


def test_expiry(any_api: Api) -> None:
    form = {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = any_api.http.post("/v1/files", files={"file": ("a.txt", TEXT)}, data=form).json()
    assert file["expires_at"] == file["created_at"] + 3600
    for wrong in (
        {"expires_after[seconds]": "3599"},
        {"expires_after[anchor]": "now", "expires_after[seconds]": "4000"},
    ):
        answer = any_api.http.post("/v1/files", files={"file": ("a.txt", TEXT)}, data={"purpose": "fine-tune"} | wrong)
        assert error_of(answer, 400)["param"].startswith("expires_after.")
    with any_api.database.transaction() as session:
        session.execute(update(File).values(expires_at=now() - 1))
    sweeping.sweep(any_api.database, any_api.storage, grace_seconds=600)
    assert any_api.http.get(f"/v1/files/{file['id']}").status_code == 404


def test_lists(any_api: Api) -> None:
    ids = [any_api.put(f"{i} {TEXT}")["id"] for i in range(4)]
    other = any_api.put(b"x", filename="a.bin", purpose="user_data")["id"]

    def listed(query: str) -> list[str]:
        return [file["id"] for file in any_api.http.get(f"/v1/files?{query}").json()["data"]]

    assert listed("") == [other, *ids[::-1]]
    assert listed("purpose=fine-tune&order=asc") == ids
    assert listed("order=asc&limit=2") == ids[:2]
    assert listed(f"order=asc&after={ids[1]}&limit=2") == ids[2:]
    any_api.http.delete(f"/v1/files/{ids[1]}")
    assert listed(f"order=asc&after={ids[1]}&limit=2") == ids[2:]  # a cursor that is gone still marks its place


def test_the_report_has_every_bad_line(api: Api) -> None:
    lines = [
        '{"prompt": "a", "completion": "b"}',
        '{"prompt": "a"}',
        "{broken",
        '{"prompt": "a", "completion": "b", "colour": 1}',
        '{"prompt": "a", "completion": "b"}',
    ]
    file = api.put("\n".join(lines) + "\n", filename="a.jsonl")
    report = api.http.get(f"/v1/files/{file['id']}/report").json()
    assert (report["num_examples"], report["num_errors"]) == (2, 3)
    assert [error["line"] for error in report["errors"]] == [2, 3, 4]
    assert "colour" in report["errors"][2]["message"]
    other = api.put(b"x", purpose="user_data")
    assert error_of(api.http.get(f"/v1/files/{other['id']}/report"), 404)["code"] == "no_report"


def test_the_report_says_what_is_in_the_file(api: Api) -> None:
    rows = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}, {"text": "fine", "label": "pos"}]
    file = api.put("".join(json.dumps(row) + "\n" for row in rows), filename="a.jsonl")
    assert file["format"] == "labelled"
    report = api.http.get(f"/v1/files/{file['id']}/report").json()
    assert (report["num_examples"], report["num_characters"], report["variant"]) == (3, 11, "one label")
    assert report["facts"] == {
        "num_labels": 2,
        "labels": {"pos": 2, "neg": 1},
        "mean_characters": {"text": 3.7},
    }


def test_a_report_takes_no_longer_than_allowed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    file = api.put(TEXT * 500)
    monkeypatch.setattr("api.routes.files.REPORT_SECONDS", -1.0)
    error = error_of(api.http.get(f"/v1/files/{file['id']}/report"), 400)
    assert error["code"] == "file_too_large_for_report"


def test_a_file_that_is_sent_again_is_kept_once(any_api: Api) -> None:
    def post(content: str, **headers: str) -> Any:
        form = {"files": {"file": ("a.txt", content)}, "data": {"purpose": "fine-tune"}}
        return any_api.http.post("/v1/files", headers=headers, **form)

    first = post(TEXT, **{"x-stainless-retry-count": "0"}).json()["id"]
    assert post(TEXT, **{"x-stainless-retry-count": "1"}).json()["id"] == first
    assert post(TEXT + "x", **{"x-stainless-retry-count": "1"}).json()["id"] != first
    chosen = post(TEXT, **{"idempotency-key": "k"}).json()["id"]
    assert post(TEXT, **{"idempotency-key": "k"}).json()["id"] == chosen
    assert error_of(post("other\n", **{"idempotency-key": "k"}), 409)["code"] == "idempotency_conflict"
    with any_api.database.reading() as session:
        rows = list(session.scalars(select(File.storage_key)))
    assert {Path(path).name for path in stored(any_api)} >= {Path(key).name for key in rows}
    assert len(rows) == 3


def test_storage_that_is_full(tmp_path: Path, sqlite_url: str) -> None:
    with running_api(tmp_path, sqlite_url, min_free_bytes=1 << 60) as api:
        answer = api.http.post("/v1/files", files={"file": ("a.txt", TEXT)}, data={"purpose": "fine-tune"})
        assert error_of(answer, 507)["code"] == "storage_full"
        assert answer.headers["x-should-retry"] == "false"
        body = {"bytes": 5, "filename": "a", "purpose": "fine-tune"}
        assert api.http.post("/v1/uploads", json=body).status_code == 507
        assert stored(api) == set()


# --- import ---


def test_import(tmp_path: Path, sqlite_url: str) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.txt"
    allowed.mkdir()
    secret.write_text(TEXT)
    (allowed / "a b.txt").write_text(TEXT)
    (allowed / "link.txt").symlink_to(secret)
    (allowed / "folder").mkdir()
    os.mkfifo(allowed / "pipe")
    with running_api(tmp_path / "home", sqlite_url, import_folders=[allowed]) as api:

        def take(uri: str) -> Any:
            return api.http.post("/v1/files/import", json={"uri": uri})

        for uri in (f"{allowed}/a b.txt", f"file://{allowed}/a%20b.txt", f"{allowed}/folder/../a b.txt"):
            file = take(uri).json()
            assert file["filename"] == "a b.txt"
            (allowed / "a b.txt").write_text(TEXT)  # changed later: the file is not
            assert api.http.get(f"/v1/files/{file['id']}/content").text == TEXT
        for uri in (f"{allowed}/link.txt", str(secret), f"{allowed}/../secret.txt", "/etc/passwd", f"{allowed}x/y"):
            assert error_of(take(uri), 403)["code"] == "import_not_allowed"
        assert error_of(take("https://example.com/a"), 400)["code"] == "bad_uri"
        assert error_of(take(f"file://other{allowed}/a"), 400)["code"] == "bad_uri"
        for name in ("none.txt", "folder", "pipe"):
            assert error_of(take(f"{allowed}/{name}"), 400)["code"] == "not_a_file"
    with running_api(tmp_path / "home", sqlite_url) as api:
        answer = api.http.post("/v1/files/import", json={"uri": f"{allowed}/a b.txt"})
        assert error_of(answer, 403)["code"] == "import_not_allowed"


# --- uploads ---


def begin(api: Api, content: bytes, **fields: Any) -> Any:
    body = {"bytes": len(content), "filename": "chat.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
    answer = api.http.post("/v1/uploads", json=body | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def send(api: Api, upload: Any, content: bytes) -> str:
    answer = api.http.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("part", content)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["upload_id"] == upload["id"]
    return str(answer.json()["id"])


def test_parts_are_put_together_in_the_callers_order(any_api: Api) -> None:
    upload = begin(any_api, CHAT, expires_after={"anchor": "created_at", "seconds": 3600})
    assert upload["expires_at"] == upload["created_at"] + 3600
    half = len(CHAT) // 2 + 7
    with ThreadPoolExecutor(2) as pool:
        second, first = pool.map(lambda content: send(any_api, upload, content), (CHAT[half:], CHAT[:half]))
    path = f"/v1/uploads/{upload['id']}/complete"
    md5 = hashlib.md5(CHAT).hexdigest()
    error = error_of(any_api.http.post(path, json={"part_ids": [second, first], "md5": md5}), 400)
    assert (error["code"], error["param"]) == ("md5_mismatch", "md5")
    for ids in ([first], [first, first], [first, second, second]):
        assert error_of(any_api.http.post(path, json={"part_ids": ids}), 400)["param"] == "part_ids"
    assert error_of(any_api.http.post(path, json={"part_ids": ["part_x"]}), 400)["code"] == "part_not_found"
    done = any_api.http.post(path, json={"part_ids": [first, second], "md5": md5.upper()}).json()
    assert (done["status"], done["file"]["format"]) == ("completed", "chat")
    assert any_api.http.get(f"/v1/files/{done['file']['id']}/content").content == CHAT
    assert done["file"]["expires_at"] > done["created_at"]
    again = any_api.http.post(path, json={"part_ids": [first, second]}).json()
    assert again["file"]["id"] == done["file"]["id"]
    assert not any(upload["id"] in path for path in stored(any_api))
    assert error_of(any_api.http.post(f"/v1/uploads/{upload['id']}/cancel"), 409)["code"] == "upload_not_pending"


def test_a_cancelled_upload(any_api: Api) -> None:
    upload = begin(any_api, CHAT)
    part = send(any_api, upload, CHAT)
    assert any_api.http.post(f"/v1/uploads/{upload['id']}/cancel").json()["status"] == "cancelled"
    assert not any(upload["id"] in path for path in stored(any_api))
    for path, body in {"parts": {"files": {"data": ("p", b"x")}}, "complete": {"json": {"part_ids": [part]}}}.items():
        answer = any_api.http.post(f"/v1/uploads/{upload['id']}/{path}", **body)
        assert error_of(answer, 409)["code"] == "upload_not_pending"


def test_an_upload_that_is_forgotten(any_api: Api) -> None:
    upload = begin(any_api, CHAT)
    send(any_api, upload, CHAT)
    with any_api.database.transaction() as session:
        session.execute(update(Upload).values(expires_at=now() - 1))
    answer = any_api.http.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": ["part_x"]})
    assert error_of(answer, 409)["message"].startswith("The upload is expired")
    with any_api.database.transaction() as session:
        session.execute(update(Upload).values(expires_at=now() - 3601))
    sweeping.sweep(any_api.database, any_api.storage, grace_seconds=600)
    assert not any(upload["id"] in path for path in stored(any_api))
    with any_api.database.reading() as session:
        assert session.get_one(Upload, upload["id"]).status == "expired"


def test_an_upload_takes_no_more_than_was_announced(api: Api) -> None:
    upload = begin(api, b"x" * 10)
    answer = api.http.post(f"/v1/uploads/{upload['id']}/parts", files={"data": ("p", b"x" * 21)})
    assert error_of(answer, 413)["param"] == "data"
    assert not any(upload["id"] in path for path in stored(api))
    answer = api.http.post("/v1/uploads", json={"bytes": 1 << 50, "filename": "a", "purpose": "fine-tune"})
    assert error_of(answer, 413)["param"] == "bytes"


def test_bad_data_in_parts_is_refused_at_the_end(api: Api) -> None:
    upload = begin(api, b'{"x": 1}\n')
    part = send(api, upload, b'{"x": 1}\n')
    answer = api.http.post(f"/v1/uploads/{upload['id']}/complete", json={"part_ids": [part]})
    assert error_of(answer, 400)["code"] == "unknown_format"
    assert api.http.get("/v1/files").json()["data"] == []


# --- a real server ---


def test_large_files_pass_through_little_memory(tmp_path: Path, sqlite_url: str) -> None:
    """And who hangs up in the middle leaves nothing behind."""
    port, size = free_port(), 96 << 20
    with Stack(tmp_path, database_url=sqlite_url, redis_url="redis://127.0.0.1:1/0", min_free_bytes=0) as stack:
        process = stack.start_api(port)
        headers = {"authorization": f"Bearer {make_key(sqlite_url)}"}
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, what="the api")
        server = psutil.Process(process.pid)
        httpx.post(f"{url}/v1/files", headers=headers, files={"file": ("a.txt", TEXT)}, data={"purpose": "fine-tune"})
        before = server.memory_info().rss
        peak = [before]
        block = b"All work and no play makes Jack a dull boy.\n" * 1000

        def blocks() -> Any:
            yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n\r\n'
            for _ in range(size // len(block)):
                yield block
                peak.append(server.memory_info().rss)
            yield b"\r\n--b--\r\n"

        form = headers | {"content-type": "multipart/form-data; boundary=b"}
        began = time.monotonic()
        answer = httpx.post(f"{url}/v1/files", headers=form, content=blocks(), timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.json()["bytes"] == size // len(block) * len(block)
        assert max(peak) - before < 32 << 20, f"{(max(peak) - before) >> 20} MiB more"
        assert time.monotonic() - began < 30

        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(
                b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n"
                + "".join(f"{name}: {value}\r\n" for name, value in form.items()).encode()
                + b'\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
                + block * 60
            )
            partial = Path(stack.storage.root / "files")
            wait_until(lambda: any(p.name.startswith(".") for p in partial.iterdir()), what="bytes in storage")
        wait_until(lambda: not any(p.name.startswith(".") for p in partial.iterdir()), what="nothing left")
        for line in (tmp_path / "api.log").read_text().splitlines():
            assert json.loads(line)["level"], "every line of the log is JSON, the server's own too"


def make_key(database_url: str) -> str:
    database = Database(database_url)
    with database.transaction() as session:
        key, _ = keys.create_key(session, keys.ensure_project(session, "lab"), name="t", scopes=["write"])
    database.close()
    return key
