"""`weightsmith up` as people meet it: it starts a stack, says when it is ready, and leaves nothing behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.services import wait_until

CLI = [sys.executable, "-m", "cli.main"]
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 30.0
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start `up` on the test's folder; whatever happens, nothing survives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [*CLI, "up", "--home", str(home), *(options or ("--port", "0"))]
        log = (home.parent / f"up-{len(started)}.log").open("w")
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        log.close()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
    wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)


def processes_of(home: Path) -> list[str]:
    """Command lines of all processes that know this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            lives = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if lives and any(str(home) in text for text in (*words, *process.environ().values())):
                found.append(" ".join(words))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def is_ready(home: Path) -> bool:
    try:
        return bool(json.loads((home / "up.json").read_text())["ready"])
    except (OSError, ValueError):
        return False


def wait_ready(process: subprocess.Popen[str], home: Path) -> str:
    """The stack's base URL once it is ready."""
    wait_until(lambda: process.poll() is not None or is_ready(home), what="up is ready", timeout=START_SECONDS)
    assert process.poll() is None, (home.parent / "up-0.log").read_text()
    return str(json.loads((home / "up.json").read_text())["base_url"])


def cli(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Another command, in the folder above: it finds the key by itself."""
    environment = os.environ | {"WEIGHTSMITH_HOME": str(home)}
    return subprocess.run([*CLI, *words], env=environment, capture_output=True, text=True, timeout=60)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def assert_all_end(left: list[psutil.Process]) -> None:
    def living() -> list[psutil.Process]:
        return [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def over() -> bool:
        try:
            return not living()
        except psutil.NoSuchProcess:
            return False

    wait_until(over, what=f"the end of {[process.pid for process in left]}", timeout=STOP_SECONDS)


@pytest.mark.slow
def test_a_whole_life(start: Start, home: Path) -> None:
    process = start()
    base_url = wait_ready(process, home)

    # Folder, key and state are for their owner alone.
    credentials = json.loads((home / "credentials.json").read_text())
    assert credentials["base_url"] == base_url
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "credentials.json").stat().st_mode) == 0o600

    # Ready means ready: api, both workers and the generator have said so.
    assert httpx.get(base_url.removesuffix("/v1") + "/readyz", trust_env=False).status_code == 200
    workers = json.loads(cli(home, "workers", "--json").stdout)["data"]
    assert {worker["kind"] for worker in workers} == {"train", "light", "generator"}
    doctor = cli(home, "doctor")
    assert doctor.returncode == 0, doctor.stdout
    said = (home.parent / "up-0.log").read_text()
    assert base_url.removesuffix("/v1") in said
    assert credentials["api_key"] not in said

    # A second one on the same folder says who is there and how to get rid of it.
    second = cli(home, "up", "--home", str(home))
    assert second.returncode == 6
    assert f"kill {process.pid}" in second.stderr
    assert base_url in second.stderr
    assert process.poll() is None

    # What dies comes back, and callers of the api meanwhile wait instead of being refused.
    api = next(child for child in descendants(process) if "api.app:create_app" in child.cmdline())
    api.kill()
    assert httpx.get(base_url + "/models", headers=bearer(credentials), timeout=60, trust_env=False).status_code == 200
    assert "api has ended (killed by SIGKILL)" in (home.parent / "up-0.log").read_text()

    # Ctrl-C ends all of it, soon and for good.
    left = descendants(process)
    assert len(left) >= 5
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP_SECONDS) == 0
    assert time.monotonic() - began < STOP_SECONDS
    assert_all_end(left)
    assert processes_of(home) == []
    assert not (home / "up.json").exists()
    assert "killed" not in (home.parent / "up-0.log").read_text().partition("stopping")[2]

    # The next start keeps the key.
    again = start()
    wait_ready(again, home)
    assert json.loads((home / "credentials.json").read_text())["api_key"] == credentials["api_key"]
    sockets = Path(json.loads((home / "up.json").read_text())["sockets"])
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700

    # Killed without a word, it takes everything along.
    left = descendants(again)
    again.kill()
    again.wait()
    assert_all_end(left)
    assert processes_of(home) == []


def bearer(credentials: dict[str, str]) -> dict[str, str]:
    return {"authorization": f"Bearer {credentials['api_key']}"}


@pytest.mark.parametrize(
    ("children", "number"),
    [
        (0, signal.SIGKILL),
        (1, signal.SIGINT),
        (1, signal.SIGKILL),
        (3, signal.SIGINT),
        (4, signal.SIGKILL),
        (6, signal.SIGTERM),
        (6, signal.SIGKILL),
    ],
)
def test_nothing_is_left_at_any_moment_of_the_start(
    children: int, number: signal.Signals, start: Start, home: Path
) -> None:
    process = start()
    left: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + START_SECONDS
    while len(left) < children and process.poll() is None and time.monotonic() < deadline:
        left |= {child.pid: child for child in descendants(process)}
    left |= {child.pid: child for child in descendants(process)}
    process.send_signal(number)
    code = process.wait(STOP_SECONDS)
    assert code in (0, -number, 130)  # before its handlers are there, a signal kills it
    assert_all_end(list(left.values()))
    wait_until(lambda: not processes_of(home), what="the stack is gone", timeout=STOP_SECONDS)


def test_what_cannot_start_says_why_and_stops(start: Start, home: Path) -> None:
    home.mkdir()
    (home / "queue").write_text("not a folder")
    process = start()
    assert process.wait(START_SECONDS) == 1
    said = (home.parent / "up-0.log").read_text()
    assert "Traceback" not in said
    assert "queue" in said
    assert processes_of(home) == []
