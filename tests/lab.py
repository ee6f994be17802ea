"""Where real workers train one little job again and again: whatever happens to it, its numbers must not change."""

import json
import random
from typing import Any

import psutil
from sqlalchemy import select

from core.jobs.tables import Model
from tests.jobs import add_file, add_project, attempts, check_invariants, losses, submit, train_spec
from tests.stack import Stack

STEPS = 200
DIMENSIONS = {"hidden_size": 48, "num_layers": 2, "num_heads": 2, "context_length": 64}
TEXT = "".join(f"Line {n} of a text that is read again and again, in {n * 7 % 11} ways.\n" for n in range(400))


class Lab:
    """A stack with one project, one file, and the job that is submitted again and again."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.database, self.storage = stack.database, stack.storage
        self.project = add_project(self.database)
        self.file = add_file(self.database, self.storage, self.project, TEXT)

    def submit(self, *, dropout: float = 0.1, **fields: Any) -> str:
        model = {"init": "random", "tokenizer": "bytes", "dropout": dropout, "dimensions": DIMENSIONS}
        given: dict[str, Any] = {"batch": {"sequences": 8}, "checkpoints": {"every": 10, "keep": 2}, "model": model}
        spec = train_spec(self.file, steps=STEPS, **(given | fields))
        return submit(self.database, self.project, spec)

    def finish(self, job_id: str, *, timeout: float = 90) -> dict[str, str]:
        """Wait for the end; returns what must be equal."""
        job = self.stack.wait_for_state(job_id, "succeeded", timeout=timeout)
        check_invariants(self.database, self.storage, jobs=[job_id])
        assert [step for step, _ in losses(self.database, job_id)] == list(range(1, (job.total_steps or 0) + 1))
        return self.tensors(job_id)

    def outcomes(self, job_id: str) -> list[str | None]:
        return [row.outcome for row in attempts(self.database, job_id)]

    def tensors(self, job_id: str) -> dict[str, str]:
        """sha256 of every file of numbers in the final checkpoint."""
        with self.database.reading() as session:
            model = session.scalars(select(Model).where(Model.job_id == job_id)).one()
        manifest = json.loads((self.storage.directory(model.storage_key) / "manifest.json").read_text())
        found = {f["name"]: f["sha256"] for f in manifest["files"] if f["name"].endswith(".safetensors")}
        assert len(found) >= 2, "weights and optimizer"
        return found

    def wait_until_somewhere(self, job_id: str) -> int:
        """Let the run come to a random step between the first checkpoint and the end."""
        step = random.randint(12, STEPS // 2)
        self.stack.wait_for_step(job_id, step, timeout=90)
        return step

    def trainer(self) -> psutil.Process:
        (process,) = self.stack.trainers()
        return process
