"""How quickly the api answers with ten thousand jobs in the queue: submit, list, look, on PostgreSQL.

One client that waits for each answer gives the latency; eight at once give the throughput.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.jobs import database, keys
from core.jobs.database import Database
from core.jobs.tables import Job
from core.settings import Settings
from tests.services import Postgres, Valkey, free_port, spawn, wait_until

JOBS, REQUESTS, AT_ONCE = 10_000, 300, 8
TEXT = b"It was the best of times, it was the worst of times.\n" * 200


def measure() -> dict[str, Any]:
    """Milliseconds at the median and at the 99th of a hundred; requests per second."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Postgres() as postgres, Valkey() as valkey:
        url = postgres.url(postgres.create_database())
        database.migrate(url)
        settings = Settings(home=Path(folder), database_url=url, redis_url=valkey.url, min_free_bytes=0)
        store = Database(url)
        with store.transaction() as session:
            project = keys.ensure_project(session, "bench")
            key, _ = keys.create_key(session, project, name="bench", scopes=["admin"])
        port = free_port()
        server = spawn(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "api.app:create_app"),
                *("--port", str(port), "--no-access-log"),
            ],
            log=Path(folder) / "api.log",
            env=settings.child_environment(),
        )
        headers = {"authorization": f"Bearer {key}"}
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
                wait_until(lambda: _answers(client), what="the api")
                return _measure(client, store)
        finally:
            server.kill()
            server.wait(10)
            store.close()


def _measure(client: httpx.Client, store: Database) -> dict[str, Any]:
    file = client.post("/v1/files", files={"file": ("a.txt", TEXT)}, data={"purpose": "fine-tune"}).json()["id"]
    spec = {
        "kind": "train",
        "model": {"init": "random", "preset": "nano", "tokenizer": "bytes"},
        "data": {"train": [{"file": file}]},
        "budget": {"steps": 10},
        "metadata": {"sweep": "a"},
    }
    client.post("/v1/jobs", json=spec).raise_for_status()
    with store.transaction() as session:
        _multiply(session)
    job = client.get("/v1/jobs?limit=1").json()["data"][0]["id"]
    asked: dict[str, Callable[[int], httpx.Response]] = {
        "submit": lambda i: client.post("/v1/jobs", json=spec | {"seed": JOBS + i}),
        "list": lambda i: client.get("/v1/jobs?limit=20"),
        "list_metadata": lambda i: client.get("/v1/jobs?limit=20&metadata[sweep]=a"),
        "job": lambda i: client.get(f"/v1/jobs/{job}"),
        "events": lambda i: client.get(f"/v1/jobs/{job}/events"),
    }
    figures: dict[str, Any] = {"jobs": JOBS}
    for name, ask in asked.items():
        took = sorted(_timed(ask, i) for i in range(REQUESTS))
        figures[f"{name}_p50_ms"] = round(1000 * statistics.median(took), 2)
        figures[f"{name}_p99_ms"] = round(1000 * took[int(0.99 * REQUESTS)], 2)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.perf_counter()
        list(pool.map(lambda i: _timed(asked["submit"], REQUESTS + i), range(REQUESTS)))
        figures[f"submits_per_second_at_{AT_ONCE}"] = round(REQUESTS / (time.perf_counter() - began), 1)
    return figures


def _multiply(session: Session) -> None:
    """Rows like the one that is there, a second apart, in no time."""
    kept = {"id": "'job_' || lpad(n::text, 24, '0')", "created_at": "created_at - n"}
    names = [column.name for column in Job.__table__.columns]
    values = ", ".join(kept.get(name, f'"{name}"') for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    session.execute(text(f"INSERT INTO jobs ({columns}) SELECT {values} FROM jobs, generate_series(1, {JOBS}) AS n"))
    session.execute(text("ANALYZE"))


def _timed(ask: Callable[[int], httpx.Response], i: int) -> float:
    began = time.perf_counter()
    answer = ask(i)
    took = time.perf_counter() - began
    answer.raise_for_status()
    return took


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
