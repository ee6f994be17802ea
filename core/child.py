"""Manners of the three programs that work in a run directory: how they learn that they should stop, how they die
with their supervisor, and how an exception becomes the `Failed` event that is their last word.

`run(main)` is the whole body of such a program. SIGTERM (and Ctrl-C) only sets `stop.requested`: the program saves
what it must and reports `Finished(reason="interrupted")` itself. A supervisor holds the other end of standard input;
when it is gone, the child ends at once. By hand, with a terminal or a file as standard input, neither applies.
"""

import ctypes
import errno
import json
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from core.errors import CoreError, StorageFull
from core.events import Failed, Finished
from core.run_dir import LOG, RunDir

PR_SET_PDEATHSIG = 1
TRACE_CHARACTERS = 4000
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SUPERVISOR_GONE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the work


class Interrupted(Exception):
    """The program was asked to end and has nothing to save."""


class Stop:
    """Whether someone asked the program to end."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        self.requested = True

    def check(self) -> None:
        """For programs with nothing to save: end here if it was asked for."""
        if self.requested:
            raise Interrupted


@dataclass(frozen=True)
class Order:
    """What a warm spare is told when there is work for it."""

    run_dir: Path
    threads: int


def wait_as_spare() -> Order:
    """For a process that was started before its work was known, with everything imported: wait on standard input for
    one line `{"run_dir": …, "env": {…}, "threads": …}`, then live as if it had been started for that run.

    The end of standard input means that there will be no work.
    """
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    order = json.loads(line)
    for name, value in order["env"].items():
        os.putenv(name, value)  # for libraries that read it at first use; nothing of ours does
    os.chdir(order["run_dir"])
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return Order(Path(order["run_dir"]), order["threads"])


def run(main: Callable[[RunDir, Stop], None], run_dir: Path | None = None) -> NoReturn:
    """Run `main` and exit: 0 when it returns or was interrupted, 1 after a `Failed` event.

    `run_dir` is the program's only command-line argument unless it is given; with `--spare` it is learnt later.
    """
    if run_dir is None and sys.argv[1:] == ["--spare"]:
        run_dir = wait_as_spare().run_dir
    if run_dir is None and len(sys.argv) != 2:
        sys.exit("give one argument: the run directory")
    where = RunDir((run_dir or Path(sys.argv[1])).resolve())
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.request)
    signal.signal(signal.SIGINT, stop.request)
    if is_supervised():
        die_with_parent()
        threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    try:
        main(where, stop)
    except Interrupted:
        where.report(Finished(reason="interrupted"))
    except Exception as error:
        traceback.print_exc()
        where.report(failure(error))
        _exit(1)
    _exit(0)


def is_supervised() -> bool:
    """Standard input is a pipe or a socket, whose other end is the supervisor's life."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends (Linux; elsewhere stdin does).

    If the parent was gone before this call, no signal comes: then standard input is at its end already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def failure(error: BaseException) -> Failed:
    """What an exception says to the person who started the job."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        error = StorageFull(
            f"no space left while writing ({error.strerror})",
            hint="free some space, then start the job again",
        )
    if isinstance(error, CoreError):
        return Failed(
            code=error.code,
            message=error.message,
            hint=error.hint,
            param=error.param,
            retryable=error.retryable,
        )
    if isinstance(error, MemoryError):
        return Failed(code="out_of_memory", message="the program ran out of memory", trace_tail=_tail(error))
    name = type(error).__name__
    return Failed(code="internal_error", message=f"{name}: {error}"[:TRACE_CHARACTERS], trace_tail=_tail(error))


def _tail(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-TRACE_CHARACTERS:]


def _exit_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(SUPERVISOR_GONE)


def _exit(code: int) -> NoReturn:
    """Leave without waiting for anybody's threads: all that matters has been written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
