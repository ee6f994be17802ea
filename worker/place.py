"""What one pool process works with: its settings, database, storage, slots, warm spare, and the word to stop."""

import os
import select
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from celery import Celery

from core.jobs.database import Database
from core.run_dir import LOG
from core.settings import Settings
from core.storage import open_storage
from worker import child
from worker.child import Child
from worker.slots import Slots, shares
from worker.spare import Spare

TRAINER = "core.training.run"


class Drain:
    """Whether this process should finish what it does and take nothing new.

    The main process says so by closing its end of a pipe, which its death does too; SIGTERM says it as well.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._asked = False

    def requested(self) -> bool:
        self._asked = self._asked or bool(select.select([self.descriptor], [], [], 0)[0])
        return self._asked

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """While it lasts, SIGTERM is a request; it is obeyed in the usual way afterwards."""
        came: list[int] = []

        def note(number: int, _frame: FrameType | None) -> None:
            came.append(number)
            self._asked = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if came:
                os.kill(os.getpid(), signal.SIGTERM)


class Place:
    """Made in the pool process, after the fork."""

    def __init__(self, settings: Settings, celery: Celery, *, worker: str, drain: Drain, trains: bool) -> None:
        self.settings, self.celery, self.drain = settings, celery, drain
        self.name = f"{worker}/{os.getpid()}"
        self.database = Database(settings.database_url, pool_size=2)
        self.storage = open_storage(settings.storage_url)
        self.light_threads = max(1, (os.cpu_count() or 1) // 2)
        self.slots: Slots | None = None
        self.spare: Spare | None = None
        if trains:
            self.slots = Slots(settings.scratch_dir / "slots", shares(settings))
            if settings.warm_spare:
                self.spare = Spare(
                    TRAINER,
                    settings.scratch_dir / "spares" / str(os.getpid()),
                    threads=self.slots.shares[0].slot.threads,
                    user=settings.child_user,
                    descriptors=self.slots.descriptors,
                )
                self.spare.warm()

    def start(self, program: str, run_dir: Path, *, env: Mapping[str, str], threads: int) -> Child:
        """Start a child that holds this process's slot files."""
        return Child(
            child.command(program, str(run_dir)),
            env={**child.environment(threads=threads), **env},
            log=run_dir / LOG,
            cwd=run_dir,
            user=self.settings.child_user if os.geteuid() == 0 else None,
            descriptors=self.slots.descriptors if self.slots else (),
        )
