"""The warm spare: a trainer that has already imported torch and waits for its run directory.

It belongs to one pool process and holds no device. Its output lies in a file that a rename makes the run's own log.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.run_dir import LOG
from worker import child
from worker.child import Child

log = logging.getLogger(__name__)


class Spare:
    """At most one waiting child."""

    def __init__(
        self, program: str, folder: Path, *, threads: int, user: str | None, descriptors: Sequence[int]
    ) -> None:
        self._program, self._folder, self._threads, self._user = program, folder, threads, user
        self._descriptors = descriptors
        self._waiting: tuple[Child, Path] | None = None
        self._count = 0

    def warm(self) -> None:
        """Start one if none waits. From the main thread."""
        if self._waiting is not None and not self._waiting[0].wait(0.0):
            return
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        output = self._folder / f"{self._count}.log"
        process = Child(
            child.command(self._program, "--spare"),
            env=child.environment(threads=self._threads),
            log=output,
            cwd=self._folder,
            user=self._user,
            descriptors=self._descriptors,
        )
        self._waiting = process, output

    def hand_over(self, run_dir: Path, *, env: Mapping[str, str], threads: int) -> Child | None:
        """Give the waiting child its work. None when there is none: start a fresh one."""
        if self._waiting is None:
            return None
        (process, output), self._waiting = self._waiting, None
        if process.wait(0.0):
            log.warning("the warm spare has died: %s", output.read_text(errors="replace")[-2000:])
            output.unlink(missing_ok=True)
            return None
        output.rename(run_dir / LOG)
        order = {"run_dir": str(run_dir), "env": dict(env), "threads": threads}
        try:
            process.say(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            process.kill()
            return None
        return process

    def close(self) -> None:
        if self._waiting is not None:
            process, output = self._waiting
            process.kill()
            output.unlink(missing_ok=True)
            self._waiting = None
