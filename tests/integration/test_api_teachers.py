"""Jobs that compare a model with another one: what cannot work is refused at submit, and what they read is held."""

from typing import Any

import pytest

from core.jobs.tables import Model
from core.models.config import Dimensions, ModelConfig
from tests.apis import TINY, Api, train

TEACHER = "pt:lab:teacher:1a2b3c4d"


def add_model(api: Api, name: str, *, vocab_size: int = 327, **dimensions: Any) -> str:
    config = ModelConfig.from_dimensions("llama", Dimensions(**(TINY | dimensions)), vocab_size=vocab_size)
    row = Model(
        name=name,
        project_id=api.project_id(),
        root="teacher",
        config=config.model_dump(mode="json"),
        num_parameters=config.num_parameters(),
        metrics={},
        has_chat_template=True,
        storage_key=f"models/{name}",
        manifest_sha256="0",
        size_bytes=1,
    )
    with api.database.transaction() as session:
        session.add(row)
    return name


@pytest.fixture
def taught(any_api: Api) -> Api:
    """With a teacher on the byte tokenizer."""
    add_model(any_api, TEACHER, hidden_size=64)
    return any_api


def refused(api: Api, **fields: Any) -> Any:
    answer = api.http.post("/v1/jobs", json=train(api.put()["id"], **fields))
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def distillation(teacher: str = TEACHER, **fields: Any) -> dict[str, Any]:
    return {"kind": "distillation", "teacher": teacher} | fields


def test_a_teacher_is_resolved_and_held(taught: Api) -> None:
    taught.http.put("/v1/models/the-teacher/alias", json={"model": TEACHER})
    job = taught.submit(objective=distillation("the-teacher"))
    assert job["spec"]["objective"] == {
        "kind": "distillation", "teacher": TEACHER, "alpha": 0.5, "temperature": 1.0, "divergence": "forward"
    }  # fmt: skip
    answer = taught.http.delete(f"/v1/models/{TEACHER}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "in_use")
    assert job["id"] in answer.json()["error"]["message"]
    taught.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert taught.http.delete(f"/v1/models/{TEACHER}").status_code == 200


def test_a_model_can_be_start_and_teacher(taught: Api) -> None:
    start = {"init": "pretrained", "from": TEACHER}
    assert taught.submit(model=start, objective=distillation())["state"] == "validating"


def test_a_teacher_that_cannot_teach_is_refused(taught: Api) -> None:
    error = refused(taught, objective=distillation("gpt-4"))
    assert (error["code"], error["param"]) == ("model_not_found", "objective.teacher")
    add_model(taught, "other-words", vocab_size=500)
    error = refused(taught, objective=distillation("other-words"))
    assert (error["code"], error["param"]) == ("vocabulary_mismatch", "objective.teacher")
    assert "500" in error["message"]
    assert "327" in error["message"]
    add_model(taught, "short-sighted", context_length=32)
    error = refused(taught, objective=distillation("short-sighted"))
    assert (error["code"], error["param"]) == ("sequence_too_long", "data.sequence_length")
    data = {"train": [{"file": taught.put()["id"]}], "sequence_length": 32}
    assert taught.submit(objective=distillation("short-sighted"), data=data)
    error = refused(taught, objective=distillation(alpha=0.0))
    assert error["param"] == "objective.alpha"
