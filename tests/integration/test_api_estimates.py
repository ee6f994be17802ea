"""What a dry run says of work, memory, disk and time: from shapes, and from runs that have ended."""

from typing import Any

import pytest

from core.jobs import workers
from core.jobs.dialect import clock
from core.jobs.tables import Attempt, Job
from tests.apis import Api, train

SLOT = {"device": "cpu", "device_name": "Abacus", "threads": 2, "memory_bytes": 8 << 30, "job_id": None}


def dry(api: Api, body: Any) -> Any:
    answer = api.http.post("/v1/jobs?dry_run=true", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["estimate"]


def put_worker(api: Api) -> None:
    with api.database.transaction() as session:
        workers.beat(session, "w", kind="train", host="h", pid=1, version="1", slots=[SLOT])


def put_run(api: Api, found: Any, *, steps: int, seconds: float, device_name: str = "Abacus") -> None:
    """A run that has ended, as the journal leaves it."""
    with api.database.transaction() as session:
        began = clock(session)
        job = Job(
            id=f"job_{seconds}",
            project_id=api.project_id(),
            kind="train",
            spec=found["spec"],
            config=found["model"],
            plan={"device_name": device_name, "threads": 2},
            state="succeeded",
            step=steps,
            queue="train",
        )
        session.add(job)
        session.flush()
        session.add(
            Attempt(job_id=job.id, fence=1, stage="running", worker="w", started_at=began, ended_at=began + seconds)
        )


def test_memory_is_the_sum_of_its_parts(any_api: Api) -> None:
    body = train(any_api.put()["id"], budget={"steps": 10})
    assert dry(any_api, body)["memory_bytes"] is None, "no worker lives"
    put_worker(any_api)
    said = dry(any_api, body)
    parts = ("weights", "frozen_weights", "gradients", "optimizer", "average", "reference", "rollouts")
    parts += ("activations", "likelihood", "process")
    assert said["memory_bytes"] == sum(said[f"{part}_bytes"] for part in parts)
    assert (said["average_bytes"], said["frozen_weights_bytes"], said["reference_bytes"]) == (0, 0, 0)
    averaged = dry(any_api, body | {"optimizer": {"ema_decay": 0.9}})
    assert averaged["memory_bytes"] - said["memory_bytes"] == averaged["average_bytes"] == said["weights_bytes"]
    assert (
        averaged["disk_bytes"] == said["disk_bytes"] * 16 / 12 == 4 * averaged["checkpoint_bytes"]
    )  # keep 3, and best
    assert said["compute_optimal_tokens"] == 20 * said["trained_parameters"]
    assert dry(any_api, body | {"activation_checkpointing": True})["flops"] > said["flops"]


def test_seconds_come_from_the_nearest_run_on_the_same_machine(any_api: Api) -> None:
    put_worker(any_api)
    body = train(any_api.put()["id"], budget={"steps": 10})
    assert dry(any_api, body)["seconds"] is None, "nothing was measured yet"
    found = any_api.http.post("/v1/jobs?dry_run=true", json=body).json()
    put_run(any_api, found, steps=10, seconds=100.0)
    larger = found | {"spec": found["spec"] | {"batch": {"sequences": 64}}}
    put_run(any_api, larger, steps=10, seconds=50.0)
    put_run(any_api, found, steps=10, seconds=1.0, device_name="Another")
    assert dry(any_api, body | {"budget": {"steps": 20}})["seconds"] == pytest.approx(200.0, rel=1e-3)
    assert dry(any_api, body | {"batch": {"sequences": 60}})["seconds"] == pytest.approx(50.0 * 60 / 64, rel=1e-3)
    assert dry(any_api, body | {"precision": "fp32"})["seconds"] is None
    assert dry(any_api, body | {"budget": {"seconds": 7.0}})["seconds"] == 7.0
