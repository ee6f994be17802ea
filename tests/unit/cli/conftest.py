"""A service that says what a test tells it to, over real HTTP, and a way to call the command line in this process."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cli.main import main

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeService:
    """Replies by `METHOD /path`, in turn; the last one stays."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    base_url: str = ""

    def says(self, what: str, *replies: Any) -> None:
        """`says("GET /v1/jobs", {...}, (404, {...}))`: bodies, or (status, body[, headers])."""
        self.replies[what] = [reply if isinstance(reply, tuple) else (200, reply) for reply in replies]

    def answer(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        queue = self.replies.get(f"{asked.method} {asked.path}")
        if not queue:
            return 404, {"error": {"message": f"nothing at {asked.path}", "type": "not_found_error", "param": None}}
        return queue.pop(0) if len(queue) > 1 else queue[0]

    def last(self, method: str) -> Asked:
        return next(asked for asked in reversed(self.asked) if asked.method == method)


class Handler(BaseHTTPRequestHandler):
    service: FakeService

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.service.answer(Asked(self.command, parts.path, query, body, headers))
        content = reply[1] if isinstance(reply[1], bytes) else json.dumps(reply[1]).encode()
        self.send_response(reply[0])
        for name, value in (reply[2] if len(reply) > 2 else {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """The service that the command line finds by its variables."""
    fake = FakeService()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"service": fake}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("WEIGHTSMITH_BASE_URL", fake.base_url)
    monkeypatch.setenv("WEIGHTSMITH_API_KEY", "ws_test")
    monkeypatch.setattr("cli.watch.LOOK_SECONDS", 0.001)
    monkeypatch.setattr("cli.logs.LOOK_SECONDS", 0.001)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line: `run("jobs", "ls")`."""

    def call(*words: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich believe that it writes to a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def a_job(**changes: Any) -> dict[str, Any]:
    """A job as the API shows it."""
    progress = {
        "step": 0,
        "total_steps": None,
        "tokens": 0,
        "fraction": 0.0,
        "tokens_per_second": None,
        "eta_seconds": None,
    }
    job: dict[str, Any] = {
        "id": "job_" + "a" * 24,
        "object": "job",
        "kind": "train",
        "state": "running",
        "phase": None,
        "queue_position": None,
        "progress": progress | changes.pop("progress", {}),
        "spec": {"kind": "train", "seed": 7},
        "metadata": {},
        "metrics": {},
        "attempts": 1,
        "error": None,
        "result": None,
        "created_at": 1_790_000_000.0,
        "queued_at": None,
        "started_at": None,
        "finished_at": None,
    }
    return job | changes


def a_page(*objects: Any, has_more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(objects), "has_more": has_more}
