"""Jobs that compare answers or models, from the submit to the finished model, with a real worker."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.job_spec import TrainSpec
from core.jobs import registry, submit
from core.jobs.tables import Job
from core.models.directory import read_model_config
from tests.jobs import add_file, add_project, check_invariants, look
from tests.services import Valkey
from tests.stack import Stack

pytestmark = pytest.mark.slow

TEXT = "".join(json.dumps({"text": f"{n} and {n + 1} are {2 * n + 1}. " * 4}) + "\n" for n in range(24))
PAIRS = "".join(
    json.dumps({"prompt": f"{n} and {n}", "chosen": f" are {2 * n}.", "rejected": " are many."}) + "\n"
    for n in range(24)
)
JUDGED = "".join(
    json.dumps({"prompt": f"{n} and {n}", "completion": f" are {2 * n if n % 2 else 'many'}.", "label": bool(n % 2)})
    + "\n"
    for n in range(24)
)


class Lab:
    """A stack with a worker, and the data of all objectives."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.project = add_project(stack.database)
        self.files = {
            format: add_file(stack.database, stack.storage, self.project, text, filename=filename, format=format)
            for format, filename, text in (
                ("text", "texts.jsonl", TEXT),
                ("preference", "pairs.jsonl", PAIRS),
                ("kto", "judged.jsonl", JUDGED),
            )
        }

    def submit(self, format: str, objective: dict[str, Any], **fields: Any) -> str:
        given: dict[str, Any] = {
            "model": {
                "init": "random",
                "dimensions": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64},
                "tokenizer": "bytes",
            },
            "data": {"train": [{"file": self.files[format]}], "validation": {"fraction": 0.2}},
            "objective": objective,
            "budget": {"steps": 4},
            "batch": {"sequences": 2},
            "evaluation": {"every": 2, "samples": 1},
        }
        with self.stack.database.transaction() as session:
            return submit.submit(session, self.project, TrainSpec.model_validate(given | fields)).id

    def finished(self, job_id: str) -> Job:
        self.stack.wait_for_state(job_id, "succeeded", timeout=120)
        check_invariants(self.stack.database, self.stack.storage, jobs=[job_id])
        return look(self.stack.database, job_id)


def test_every_objective_from_submit_to_model(tmp_path: Path, sqlite_url: str, valkey: Valkey) -> None:
    with Stack(tmp_path, database_url=sqlite_url, redis_url=valkey.url, warm_spare=True) as stack:
        lab = Lab(stack)
        stack.start_worker()
        base = lab.finished(lab.submit("text", {"kind": "causal_lm"})).model_name
        start = {"model": {"init": "pretrained", "from": base}}
        jobs = {
            "dpo": lab.submit("preference", {"kind": "dpo"}, **start),
            "dpo beside an adapter": lab.submit(
                "preference", {"kind": "dpo"}, adapter={"kind": "lora", "rank": 2}, **start
            ),
            "kto": lab.submit("kto", {"kind": "kto"}, **start),
            "orpo": lab.submit("preference", {"kind": "orpo"}),
            "simpo": lab.submit("preference", {"kind": "simpo"}, **start),
            "reward": lab.submit("preference", {"kind": "reward"}, **start),
            "distillation": lab.submit("text", {"kind": "distillation", "teacher": base}),
        }
        done = {name: lab.finished(job_id) for name, job_id in jobs.items()}
        for name, job in done.items():
            assert job.result is not None
            told = {f"validation_{metric}" for metric in TrainSpec.model_validate(job.spec).objective.metrics}
            assert set(job.result["metrics"]) == told, name
        for name in ("dpo", "dpo beside an adapter"):
            assert done[name].latest["train_reward_margin"] != 0, "the model has left its reference"
        with stack.database.reading() as session:
            scorer = registry.resolve_model(session, lab.project, str(done["reward"].model_name))
        assert read_model_config(stack.storage.directory(scorer.storage_key) / "model").head == "score"
