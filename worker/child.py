"""Child processes: started in a session of their own, told to stop, killed as a group.

A child's standard input is a pipe that we hold and never write to (a warm spare gets one line): its end tells the child
that we are gone. Start children from the main thread: the kernel's death signal watches the thread that forked.
"""

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import core
from core.settings import machine_environment

KILL_SECONDS = 10.0
LOOK_SECONDS = 0.05


class Child:
    """A running program. `exit_code` is None while it lives, negative for a signal."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        user: str | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.exit_code: int | None = None
        with log.open("ab") as output:
            if user is not None:
                shutil.chown(log, user)
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(descriptors),
                user=user,
                group=None if user is None else _group_of(user),
                extra_groups=None if user is None else [],
            )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None

    def wait(self, seconds: float, *, or_readable: int | None = None) -> bool:
        """Wait until it ends, until the descriptor has something to say, or until the time is over.
        True when it has ended; what it left behind in its session is killed then."""
        if self.exit_code is None and not self._has_ended():
            watched = [fd for fd in (self._pidfd, or_readable) if fd is not None]
            select.select(watched, [], [], seconds if self._pidfd is not None else min(seconds, LOOK_SECONDS))
        if self.exit_code is None and self._has_ended():
            self._signal_group(signal.SIGKILL)  # before it is reaped: its number is still its own
            self.exit_code = self._process.wait()
            self.close()
        return self.exit_code is not None

    def say(self, line: bytes) -> None:
        """Write to its standard input.

        Raises:
            BrokenPipeError: it is dead.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            os.kill(self.pid, number)  # Popen's own way would reap one that has just ended, unseen by `wait`

    def kill(self) -> bool:
        """SIGKILL to the whole session. False when the kernel does not let it die (a device that does not answer)."""
        if self.exit_code is None:
            self._signal_group(signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while not self.wait(LOOK_SECONDS):
            if time.monotonic() > deadline:
                return False
        return True

    def close(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _has_ended(self) -> bool:
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return self._process.poll() is not None

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS answers so for a group of zombies
            os.killpg(self.pid, number)


MALLOC = {"mmap_max": 0, "trim_threshold": 1 << 40, "top_pad": 256 << 20, "hugetlb": 1}


def command(program: str, *arguments: str) -> list[str]:
    """A module of ours as a program; -P keeps the working directory off its import path."""
    return [sys.executable, "-P", "-m", program, *arguments]


def environment(*, threads: int) -> dict[str, str]:
    """All that a child knows of the world: paths and thread counts, no URL, no key."""
    root = str(Path(core.__path__[0]).parent)
    return machine_environment() | {
        "PYTHONPATH": root,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # libgomp waits at barriers by spinning for milliseconds, which costs a factor of ten where cores are shared.
        "GOMP_SPINCOUNT": "3000",
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "RAYON_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic cuBLAS
        # Memory stays with the process, in huge pages. Else the kernel hands out and zeroes the pages of every large
        # tensor anew, which takes a fourth of a training step on a CPU.
        "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in MALLOC.items()),
        "HF_HUB_OFFLINE": "1",
    }


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
