"""Jobs that compare a model with another one: what cannot work is refused at submit, and what they read is held."""

import json
from typing import Any

import pytest

from core.jobs.tables import Job, Model
from core.models.config import Dimensions, Head, ModelConfig
from tests.apis import TINY, Api, train

TEACHER = "pt:lab:teacher:1a2b3c4d"
PREFERENCES = "".join(json.dumps({"prompt": f"{n}?", "chosen": "yes", "rejected": "no"}) + "\n" for n in range(8))
JUDGED = "".join(json.dumps({"prompt": f"{n}?", "completion": "yes", "label": n % 2 == 0}) + "\n" for n in range(8))


def add_model(api: Api, name: str, *, vocab_size: int = 327, head: Head = "language_model", **dimensions: Any) -> str:
    config = ModelConfig.from_dimensions("llama", Dimensions(**(TINY | dimensions)), vocab_size=vocab_size)
    config = config.with_head(head)
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


def with_data(api: Api, text: str, status: int, **fields: Any) -> Any:
    file_id = api.put(text, filename="pairs.jsonl")["id"]
    answer = api.http.post("/v1/jobs", json=train(file_id, **fields))
    assert answer.status_code == status, answer.text
    return answer.json().get("error") or answer.json()


def test_a_reference_is_the_model_that_training_starts_from(any_api: Api) -> None:
    for text, objective in ((PREFERENCES, {"kind": "dpo"}), (JUDGED, {"kind": "kto"})):
        error = with_data(any_api, text, 400, objective=objective)
        assert (error["code"], error["param"]) == ("model_mismatch", "model.init")
        assert "random weights" in error["message"]
        start = {"init": "pretrained", "from": add_model(any_api, f"start-of-{objective['kind']}")}
        assert with_data(any_api, text, 201, objective=objective, model=start)["state"] == "validating"


@pytest.mark.parametrize("objective", [{"kind": "orpo"}, {"kind": "simpo"}, {"kind": "dpo", "reference": "none"}])
def test_where_there_is_no_reference_random_weights_will_do(any_api: Api, objective: dict[str, Any]) -> None:
    job = with_data(any_api, PREFERENCES, 201, objective=objective)
    assert (job["spec"]["data"]["format"], job["state"]) == ("preference", "validating")


def test_data_must_be_of_the_objectives_kind(any_api: Api) -> None:
    for text, kind, fitting in (
        (PREFERENCES, "kto", "kto"),
        (JUDGED, "orpo", "preference"),
        (JUDGED, "reward", "pref"),
    ):
        error = with_data(any_api, text, 400, objective={"kind": kind})
        assert (error["code"], error["param"]) == ("format_mismatch", "objective.kind")
        assert f"it takes {fitting}" in error["message"]


def test_a_reward_model_scores_and_is_no_reference_for_texts(any_api: Api) -> None:
    job = with_data(any_api, PREFERENCES, 201, objective={"kind": "reward"})
    with any_api.database.reading() as session:
        row = session.get_one(Job, job["id"])
        assert row.config is not None
        assert ModelConfig.model_validate(row.config).head == "score"
    scorer = add_model(any_api, "scorer", head="score")
    start = {"init": "pretrained", "from": scorer}
    assert with_data(any_api, PREFERENCES, 201, objective={"kind": "reward"}, model=start)
    error = with_data(any_api, PREFERENCES, 400, objective={"kind": "dpo"}, model=start)
    assert (error["code"], error["param"]) == ("model_mismatch", "model.from")
    error = refused(any_api, objective=distillation(scorer))
    assert (error["code"], error["param"]) == ("model_mismatch", "objective.teacher")


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"kind": "dpo", "beta": 0.0}, "objective.beta"),
        ({"kind": "dpo", "variant": "ipo", "label_smoothing": 0.1}, "objective"),
        ({"kind": "orpo", "beta": 0.1}, "objective.beta"),
        ({"kind": "reward", "centre": -1.0}, "objective.centre"),
    ],
)
def test_hyperparameters_out_of_range_are_named(any_api: Api, objective: dict[str, Any], words: str) -> None:
    assert with_data(any_api, PREFERENCES, 400, objective=objective)["param"] == words
