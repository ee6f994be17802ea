"""What one pool process works with: its settings, database, storage, slots, warm spare, and the word to stop."""

import os
import select
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from celery import Celery

from core.jobs import store
from core.jobs.database import Database
from core.run_dir import LOG
from core.settings import Settings
from core.storage import open_storage
from worker import child
from worker.child import Child
from worker.inputs import PREPARE, TRAIN
from worker.slots import Slots, shares
from worker.spare import Spare


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

    def __init__(self, settings: Settings, celery: Celery, *, worker: str, queues: set[str], drain: Drain) -> None:
        self.settings, self.celery, self.drain = settings, celery, drain
        self.name = f"{worker}/{os.getpid()}"
        self.database = Database(settings.database_url, pool_size=2)
        self.storage = open_storage(settings.storage_url)
        self.light_threads = max(1, (os.cpu_count() or 1) // 2)
        self.slots = Slots(settings.scratch_dir / "slots", shares(settings)) if store.TRAIN in queues else None
        self.user = settings.child_user if os.geteuid() == 0 else None
        self.spares: dict[str, Spare] = {}
        if settings.warm_spare:
            if self.slots is not None:
                self._keep_spare(TRAIN, threads=self.slots.shares[0].slot.threads)
            if store.LIGHT in queues:
                self._keep_spare(PREPARE, threads=self.light_threads)

    def _keep_spare(self, program: str, *, threads: int) -> None:
        folder = self.settings.scratch_dir / "spares" / str(os.getpid()) / program
        self.spares[program] = Spare(program, folder, threads=threads, user=self.user, descriptors=self.descriptors)
        self.spares[program].warm()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The slot files, which every child holds open."""
        return self.slots.descriptors if self.slots else ()

    def start(self, program: str, run_dir: Path, *, env: Mapping[str, str], threads: int) -> Child:
        """A child that works in `run_dir`: the warm spare where there is one, else a fresh process."""
        spare = self.spares.get(program)
        ready = spare.hand_over(run_dir, env=env, threads=threads) if spare else None
        return ready or Child(
            child.command(program, str(run_dir)),
            env={**child.environment(threads=threads), **env},
            log=run_dir / LOG,
            cwd=run_dir,
            user=self.user,
            descriptors=self.descriptors,
        )

    def warm(self) -> None:
        """Have a spare ready again for each program."""
        for spare in self.spares.values():
            if not self.drain.requested():
                spare.warm()

    def close(self) -> None:
        for spare in self.spares.values():
            spare.close()
        shutil.rmtree(self.settings.scratch_dir / "spares" / str(os.getpid()), ignore_errors=True)
