"""Child processes that cannot outlive us, and that come back when they die.

On Linux the kernel kills a child when the thread that started it ends (PR_SET_PDEATHSIG), kill -9 included. So children
are started from the main thread only, through a launcher that asks for the signal, sees whether we are still there and
then becomes the program: no Python code runs between fork and exec, and no moment is left uncovered. Elsewhere a
child that ignores a closed standard input can be left behind by kill -9 of its parent.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[3], sys.argv[3:])
"""
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A child that has lived this long starts with a fresh backoff."""
LOG_BYTES = 20 << 20


class Stopping(Exception):
    """Someone asked this program to end."""


class StopSignals:
    """Ctrl-C, SIGTERM and a closed terminal, noted instead of thrown: nothing is interrupted half-way."""

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    def pause(self, seconds: float = 0.1) -> None:
        """Wait a moment.

        Raises:
            Stopping: we were asked to end.
        """
        if self.count:
            raise Stopping
        time.sleep(seconds)
        if self.count:
            raise Stopping


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C does not reach it. Its output is appended to `log`."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(int(death_signal))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *map(str, command)],
            env=dict(environment) if environment is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )


@dataclass
class Child:
    """A program that should always run."""

    name: str
    command: Sequence[str | Path]
    log: Path
    environment: Mapping[str, str]
    cwd: Path
    pass_fds: Sequence[int] = ()
    patience_seconds: float = 10.0
    """What it gets to end after SIGTERM."""
    deaths: int = 0
    """in a row, without a steady life between"""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started_at: float = 0.0
    _again_at: float = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it. Call from the main thread."""
        self._process = spawn(
            self.command, log=self.log, environment=self.environment, cwd=self.cwd, pass_fds=self.pass_fds
        )
        self._started_at = time.monotonic()

    def look(self, tell: Callable[[str], None]) -> None:
        """Notice that it died, start it again when its backoff is over, and keep its log short."""
        now = time.monotonic()
        _cut(self.log)
        if self._process is None:
            if now >= self._again_at:
                self.start()
            return
        if (code := self._process.poll()) is None:
            return
        self.deaths = 1 if now - self._started_at > STEADY_SECONDS else self.deaths + 1
        backoff = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (self.deaths - 1))
        self._process, self._again_at = None, now + backoff
        tell(f"{self.name} has ended ({how(code)}); it starts again in {backoff:g} s. Log: {self.log}")

    def ask_to_end(self) -> None:
        if self.running:
            assert self._process is not None
            self._process.terminate()

    def kill(self) -> None:
        """End it and its session now."""
        if self.running:
            assert self._process is not None
            os.killpg(self._process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            self._process.wait()

    def log_tail(self, lines: int = 12) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 16_384))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def end(children: Sequence[Child], hurry: Callable[[], bool]) -> list[str]:
    """Ask children to end, give each its patience (none once `hurry` says so), then kill. Returns who was killed."""
    for child in children:
        child.ask_to_end()
    began = time.monotonic()
    killed = []
    for child in children:
        while child.running and not hurry() and time.monotonic() - began < child.patience_seconds:
            time.sleep(0.02)
        if child.running:
            killed.append(child.name)
        child.kill()
    return killed


def how(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cut(log: Path) -> None:
    """Put a log that has grown aside. Its writers append, so they go on at the beginning."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".old.log"))
        os.truncate(log, 0)
