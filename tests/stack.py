"""A whole deployment as real processes: Celery workers, api, generator, on a database and a broker that tests own.

Everything is quick to notice things (leases of 3 s) and dies with the test, or with the test run that is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import psutil

from core.jobs import workers
from core.jobs.database import Database
from core.jobs.states import TERMINAL
from core.jobs.tables import Job
from core.settings import Settings
from core.storage import open_storage
from tests.jobs import look
from tests.services import spawn

ROOT = Path(__file__).resolve().parent.parent
QUICK: dict[str, Any] = {
    "lease_seconds": 3.0,
    "poll_seconds": 0.1,
    "reap_seconds": 0.5,
    "rehint_seconds": 2.0,
    "retry_base_seconds": 0.2,
    "drain_seconds": 30.0,
    "step_timeout_seconds": 120.0,
    "slot_threads": 1,
    "slot_memory_bytes": 1 << 30,
    "generator_token": "secret-of-the-tests",
    "warm_spare": False,
}
LOOK_SECONDS = 0.05
"""Looking costs processor time that the workers need."""
TRAINER = "core.training.run"
Process = subprocess.Popen[bytes]


class Stack:
    """`with Stack(tmp_path, database_url=…, redis_url=…) as stack: stack.start_workers(); …`"""

    def __init__(self, folder: Path, *, database_url: str, redis_url: str, **settings: Any) -> None:
        self.settings = Settings(
            home=folder / "home", database_url=database_url, redis_url=redis_url, **(QUICK | settings)
        )
        self.folder = folder
        self.database = Database(database_url, pool_size=4)
        self.storage = open_storage(self.settings.storage_url)
        self.started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            kill_tree(process.pid)
            process.wait(10)
        self.database.close()
        shutil.rmtree(self.settings.home, ignore_errors=True)

    # --- processes ---

    def start(self, name: str, *command: str, **settings: Any) -> Process:
        """Run a program of ours; its output goes to `<folder>/<name>.log`."""
        given = Settings(**(self.settings.model_dump(exclude_unset=True) | settings)).environment()
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | given
        env |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        process = spawn([sys.executable, *command], log=self.folder / f"{name}.log", env=env, cwd=ROOT)
        self.started.append(process)
        return process

    def start_worker(
        self,
        name: str = "worker",
        *,
        queues: str = "light,train",
        processes: int = 2,
        wait: bool = True,
        **settings: Any,
    ) -> Process:
        """A Celery worker; by default one for both queues, which starts quicker than two."""
        process = self.start(
            name,
            *("-m", "celery", "-q", "-A", "worker.app", "worker", "-Q", queues, "-c", str(processes)),
            *("-n", f"{name}@test", "--without-gossip", "--without-mingle"),
            **settings,
        )
        if wait:
            self.wait_for(lambda: self._beats(process.pid), what=f"{name} beats")
        return process

    def start_api(self, port: int, **settings: Any) -> Process:
        server = ("-m", "uvicorn", "--factory", "api.app:create_app", "--host", "127.0.0.1", "--port", str(port))
        return self.start("api", *server, **settings)

    def start_generator(self, **settings: Any) -> Process:
        process = self.start("generator", "-m", "worker.generator", **settings)
        self.wait_for(lambda: self._beats(process.pid), what="the generator beats")
        return process

    def _beats(self, pid: int) -> bool:
        with self.database.reading() as session:
            return any(worker.pid == pid for worker in workers.alive(session))

    def pool(self, worker: Process) -> list[psutil.Process]:
        """The pool processes of a Celery worker."""
        found = []
        for child in psutil.Process(worker.pid).children():
            try:
                found += [child] if "celery" in child.cmdline() else []
            except psutil.Error:
                continue
        return found

    def trainers(self) -> list[psutil.Process]:
        """Training processes of this stack at work: their output is a run's log (a waiting spare's is not)."""
        found = []
        for process in psutil.process_iter():
            try:
                if TRAINER not in process.cmdline():
                    continue
                output = os.readlink(f"/proc/{process.pid}/fd/1")
            except (psutil.Error, OSError):
                continue
            if output.startswith(str(self.folder)) and output.endswith("child.log"):
                found.append(process)
        return found

    def spares(self, program: str) -> list[psutil.Process]:
        """Warm spares of this stack: those whose output is not yet a run's log."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if program in words and "--spare" in words:
                    output = os.readlink(f"/proc/{process.pid}/fd/1")
                    if output.startswith(str(self.settings.scratch_dir / "spares")):
                        found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    # --- waiting ---

    def wait_for_spares(self, program: str, count: int) -> None:
        """Until so many have nothing left to import: they sleep, and use no processor time."""
        used: dict[int, float] = {}

        def settled() -> bool:
            calm = 0
            for process in self.spares(program):
                times = process.cpu_times()
                now = times.user + times.system
                calm += now > 0.5 and now == used.get(process.pid) and process.status() == psutil.STATUS_SLEEPING
                used[process.pid] = now
            return calm >= count

        self.wait_for(settled, what=f"{count} warm spares of {program}", every=0.5)

    def wait_for(
        self, condition: Callable[[], Any], *, what: str, timeout: float = 60.0, every: float = LOOK_SECONDS
    ) -> None:
        """TimeoutError shows the end of every log."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout:g} s\n{self.logs()}")
            time.sleep(every)

    def wait_for_state(self, job_id: str, *states: str, timeout: float = 60.0) -> Job:
        """Until the job is in one of the states; at once an error when it has ended in another."""

        def there() -> bool:
            job = look(self.database, job_id)
            if job.state in TERMINAL and job.state not in states:
                raise AssertionError(f"{job.state}: {job.error_code}: {job.error_message}\n{self.logs()}")
            return job.state in states

        self.wait_for(there, what=f"{job_id} is {' or '.join(states)}", timeout=timeout)
        return look(self.database, job_id)

    def wait_for_step(self, job_id: str, step: int, *, timeout: float = 60.0) -> Job:
        self.wait_for(lambda: look(self.database, job_id).step >= step, what=f"step {step}", timeout=timeout)
        return look(self.database, job_id)

    def logs(self) -> str:
        paths: Iterable[Path] = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in paths)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and to all below it, the deepest last to be noticed."""
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether all of them are dead (a zombie is)."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
