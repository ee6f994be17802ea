"""OpenAI's fine-tuning words over our jobs: the translation, both ways."""

import csv
import io
import json
from typing import Any

import pytest
from sqlalchemy import update

from api import fine_tuning
from core.events import Evaluated, Finished, Saved, Started, Step
from core.jobs import journal, registry, store
from core.jobs.tables import Checkpoint, Job, Model
from core.models.config import Dimensions, ModelConfig
from core.optimizers import default_learning_rate
from tests.apis import CHAT, TINY, Api

BASE = "pt:lab:plays:1a2b3c4d"
PREFERENCES = "".join(
    json.dumps(
        {
            "input": {"messages": [{"role": "user", "content": f"{n}?"}], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [{"role": "assistant", "content": "yes"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
    )
    + "\n"
    for n in range(12)
)
CONFIG = ModelConfig.from_dimensions("llama", Dimensions(**TINY), vocab_size=327)


def error_of(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


@pytest.fixture
def tuned(any_api: Api) -> Api:
    """With a model to start from."""
    row = Model(
        name=BASE,
        project_id=any_api.project_id(),
        root="plays",
        config=CONFIG.model_dump(mode="json"),
        num_parameters=CONFIG.num_parameters(),
        metrics={},
        has_chat_template=True,
        storage_key="models/x",
        manifest_sha256="0",
        size_bytes=1,
    )
    with any_api.database.transaction() as session:
        session.add(row)
    return any_api


def create(api: Api, **fields: Any) -> Any:
    file_id = fields.pop("training_file", None) or api.put(CHAT, filename="chat.jsonl")["id"]
    answer = api.http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(api: Api, **fields: Any) -> Any:
    file_id = api.put(CHAT, filename="chat.jsonl")["id"]
    body = {"model": BASE, "training_file": file_id} | fields
    return error_of(api.http.post("/v1/fine_tuning/jobs", json=body), 400)


def test_a_request_becomes_a_job_and_is_shown_in_its_words(tuned: Api) -> None:
    validation = tuned.put(CHAT, filename="held.jsonl")["id"]
    made = create(
        tuned,
        validation_file=validation,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}},
        },
        suffix="help/er",
        seed=5,
        metadata={"k": "v"},
    )
    assert made["object"] == "fine_tuning.job"
    assert made["status"] == "validating_files"
    assert made["hyperparameters"] == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    assert made["method"]["supervised"]["hyperparameters"] == made["hyperparameters"]
    assert (made["model"], made["seed"], made["metadata"], made["validation_file"]) == (BASE, 5, {"k": "v"}, validation)
    assert made["fine_tuned_model"] is made["finished_at"] is made["error"] is made["trained_tokens"] is None
    assert made["result_files"] == []
    job = tuned.http.get(f"/v1/jobs/{made['id'].replace('ftjob-', 'job_')}").json()
    spec = job["spec"]
    assert spec["budget"]["epochs"] == 2
    assert spec["batch"]["sequences"] == 4
    assert spec["objective"]["kind"] == "supervised"
    assert spec["data"]["validation"] == {"file": validation}
    usual = default_learning_rate(CONFIG.num_parameters(), pretrained=True)
    assert spec["optimizer"]["learning_rate"] == pytest.approx(usual / 2)
    assert job["model"].startswith("ft:plays:lab:help/er:")
    assert tuned.http.get(f"/v1/fine_tuning/jobs/{made['id']}").json() == made


def test_auto_is_resolved(tuned: Api) -> None:
    made = create(tuned, hyperparameters={"n_epochs": "auto"}, suffix=None, seed=None, integrations=None)
    assert made["hyperparameters"] == {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}


def dpo(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}


def test_preferences_become_a_dpo_job(tuned: Api) -> None:
    pairs = tuned.put(PREFERENCES, filename="pairs.jsonl")["id"]
    given = dpo(beta=0.3, n_epochs=2, batch_size=4, learning_rate_multiplier=2.0)
    made = create(tuned, training_file=pairs, validation_file=pairs, method=given)
    assert made["method"] == given
    assert made["hyperparameters"] == given["dpo"]["hyperparameters"]
    job = tuned.http.get(f"/v1/jobs/{made['id'].replace('ftjob-', 'job_')}").json()
    assert job["spec"]["objective"] | {"kind": "dpo", "beta": 0.3} == job["spec"]["objective"]
    assert job["spec"]["data"]["format"] == "preference"
    usual = default_learning_rate(CONFIG.num_parameters(), pretrained=True)
    assert job["spec"]["optimizer"]["learning_rate"] == pytest.approx(0.2 * usual, rel=1e-2)
    assert tuned.http.get(f"/v1/fine_tuning/jobs/{made['id']}").json() == made


@pytest.mark.parametrize("method", [{"type": "dpo"}, {"type": "dpo", "dpo": {}}, dpo(beta="auto")])
def test_auto_of_dpo_is_resolved(tuned: Api, method: dict[str, Any]) -> None:
    made = create(tuned, training_file=tuned.put(PREFERENCES, filename="pairs.jsonl")["id"], method=method)
    auto = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0, "beta": 0.1}
    assert made["method"] == {"type": "dpo", "dpo": {"hyperparameters": auto}}


def test_what_does_not_fit_dpo_is_named(tuned: Api) -> None:
    error = refused(tuned, method=dpo(beta=0.1))
    assert (error["code"], error["param"]) == ("format_mismatch", "training_file")
    assert "preference" in error["message"]
    for beta in (0, 2.5, "much"):
        assert refused(tuned, method=dpo(beta=beta))["param"].startswith("method.dpo.hyperparameters.beta")
    mixed = {"type": "dpo", "supervised": {"hyperparameters": {"n_epochs": 1}}}
    assert "`supervised` is given" in refused(tuned, method=mixed)["message"]


PROMPTS = "".join(
    json.dumps({"messages": [{"role": "user", "content": f"{n} + 1?"}], "reference_answer": str(n + 1)}) + "\n"
    for n in range(12)
)
EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
}


def reinforcement(grader: Any = EXACT, **hyperparameters: Any) -> dict[str, Any]:
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}


def test_prompts_and_a_grader_become_a_grpo_job(tuned: Api) -> None:
    prompts = tuned.put(PROMPTS, filename="prompts.jsonl")["id"]
    given = reinforcement(
        n_epochs=2,
        batch_size=4,
        learning_rate_multiplier=2.0,
        compute_multiplier=0.5,
        eval_interval=3,
        eval_samples=2,
        reasoning_effort="low",
    )
    made = create(tuned, training_file=prompts, validation_file=prompts, method=given)
    assert made["method"] == given
    job = tuned.http.get(f"/v1/jobs/{made['id'].replace('ftjob-', 'job_')}").json()
    objective = job["spec"]["objective"]
    assert {
        "kind": "grpo",
        "grader": EXACT,
        "copies": 4,
        "validation_copies": 2,
        "max_tokens": 128,
    } | objective == objective
    assert job["spec"]["data"] | {"format": "graded", "packing": "none"} == job["spec"]["data"]
    assert (job["spec"]["batch"], job["spec"]["evaluation"]["every"]) == ({"sequences": 4}, 3)
    usual = default_learning_rate(CONFIG.num_parameters(), pretrained=True)
    assert job["spec"]["optimizer"]["learning_rate"] == pytest.approx(0.2 * usual, rel=1e-2)
    assert tuned.http.get(f"/v1/fine_tuning/jobs/{made['id']}").json() == made


@pytest.mark.parametrize("given", [{}, {"n_epochs": "auto", "compute_multiplier": "auto", "eval_samples": "auto"}])
def test_auto_of_reinforcement_is_resolved(tuned: Api, given: dict[str, Any]) -> None:
    prompts = tuned.put(PROMPTS, filename="prompts.jsonl")["id"]
    made = create(tuned, training_file=prompts, method=reinforcement(**given))
    assert made["hyperparameters"] == {
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "compute_multiplier": 1.0,
        "eval_interval": "auto",
        "eval_samples": 1,
        "reasoning_effort": "medium",
    }


@pytest.mark.parametrize(
    ("method", "param", "says"),
    [
        ({"type": "reinforcement"}, "method", 'give at least {"grader"'),
        (reinforcement({}), "method.reinforcement.grader.type", "is missing"),
        (reinforcement(EXACT | {"input": "{{x}}"}), "method.reinforcement.grader.input", "no place to fill"),
        (reinforcement({"type": "score_model", "name": "j"}), "method.reinforcement.grader", "not available yet"),
        (reinforcement(compute_multiplier=0), "method.reinforcement.hyperparameters.compute_multiplier", "greater"),
        (reinforcement(), "training_file", "'grpo' cannot learn from data in format 'chat'"),
    ],
)
def test_what_does_not_fit_reinforcement_is_named(tuned: Api, method: Any, param: str, says: str) -> None:
    error = refused(tuned, method=method)
    assert says in error["message"]
    assert error["param"].startswith(param)


def test_what_is_not_available_is_named(tuned: Api) -> None:
    wandb = [{"type": "wandb", "wandb": {"project": "p"}}]
    error = refused(tuned, integrations=wandb)
    assert (error["code"], error["param"]) == ("integrations_not_available", "integrations")
    assert refused(tuned, method={"type": "magic"})["param"] == "method.type"
    assert refused(tuned, colour="red")["message"].startswith("Unknown field `colour`")


def test_faults_are_named_in_the_requests_words(tuned: Api) -> None:
    text = tuned.put()["id"]
    assert refused(tuned, training_file="file-x") | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "training_file",
        "code": "file_not_found",
    }
    assert refused(tuned, validation_file="file-x")["param"] == "validation_file"
    assert refused(tuned, training_file=text)["param"] == "training_file"
    error = refused(tuned, model="gpt-4o-mini")
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "models alias" in error["message"]
    assert refused(tuned, suffix="x" * 65)["param"] == "suffix"
    assert refused(tuned, suffix="two words")["param"] == "suffix"
    error = refused(tuned, hyperparameters={"n_epochs": 0})
    assert error["param"] == "hyperparameters.n_epochs"
    assert "1" in error["message"]
    deep = {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": -1}}}
    assert refused(tuned, method=deep)["param"] == "method.supervised.hyperparameters.batch_size"
    assert refused(tuned, metadata={"k": "v" * 513})["param"] == "metadata.k"


def test_lists_only_what_openai_would_call_fine_tuning(tuned: Api) -> None:
    ids = [create(tuned, metadata={"n": str(i)} if i else None)["id"] for i in range(3)]
    scratch = tuned.submit()["id"]
    listed = tuned.http.get("/v1/fine_tuning/jobs").json()
    assert [job["id"] for job in listed["data"]] == ids[::-1]
    first = tuned.http.get("/v1/fine_tuning/jobs?limit=2").json()
    assert first["has_more"] is True
    rest = tuned.http.get(f"/v1/fine_tuning/jobs?limit=2&after={first['data'][-1]['id']}").json()
    assert [job["id"] for job in rest["data"]] == ids[:1]
    found = tuned.http.get("/v1/fine_tuning/jobs?metadata[n]=2").json()["data"]
    assert [job["id"] for job in found] == ids[2:]
    none = tuned.http.get("/v1/fine_tuning/jobs?metadata=null").json()["data"]
    assert [job["id"] for job in none] == ids[:1]
    for wrong in (scratch, scratch.replace("job_", "ftjob-"), "ftjob-x", "x"):
        assert error_of(tuned.http.get(f"/v1/fine_tuning/jobs/{wrong}"), 404)["code"] == "job_not_found"
        assert error_of(tuned.http.post(f"/v1/fine_tuning/jobs/{wrong}/cancel"), 404)["code"] == "job_not_found"
    assert len(tuned.http.get("/v1/jobs").json()["data"]) == 4


def test_the_same_key_makes_one_job(tuned: Api) -> None:
    body = {"model": BASE, "training_file": tuned.put(CHAT, filename="chat.jsonl")["id"]}
    headers = {"idempotency-key": "k"}
    first, second = (tuned.http.post("/v1/fine_tuning/jobs", json=body, headers=headers).json() for _ in range(2))
    assert first["id"] == second["id"]
    answer = tuned.http.post("/v1/fine_tuning/jobs", json=body | {"seed": 1}, headers=headers)
    assert answer.headers["x-should-retry"] == "false"
    assert error_of(answer, 409)["code"] == "idempotency_conflict"


def test_cancel(tuned: Api) -> None:
    job_id = create(tuned)["id"]
    assert tuned.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    error = error_of(tuned.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel"), 400)
    assert (error["code"], error["param"]) == ("job_not_cancellable", None)
    assert error_of(tuned.http.post(f"/v1/fine_tuning/jobs/{job_id}/pause"), 409)["code"] == "job_not_pausable"


@pytest.mark.parametrize(
    ("state", "desired", "shown"),
    [
        ("validating", "run", "validating_files"),
        ("validating", "pause", "pausing"),
        ("validating", "cancel", "cancelled"),
        ("queued", "run", "queued"),
        ("running", "run", "running"),
        ("running", "pause", "pausing"),
        ("running", "cancel", "cancelled"),
        ("stopping", "pause", "pausing"),
        ("stopping", "cancel", "cancelled"),
        ("stopping", "run", "running"),
        ("paused", "pause", "paused"),
        ("succeeded", "run", "succeeded"),
        ("failed", "run", "failed"),
        ("cancelled", "cancel", "cancelled"),
    ],
)
def test_states(state: str, desired: str, shown: str) -> None:
    assert fine_tuning.status(Job(state=state, desired=desired)) == shown


def test_pause_and_resume(tuned: Api) -> None:
    job_id = create(tuned)["id"]
    path = f"/v1/fine_tuning/jobs/{job_id}"
    assert tuned.http.post(f"{path}/pause").json()["status"] == "paused"
    assert tuned.http.post(f"{path}/resume").json()["status"] == "validating_files"
    tuned.claim()
    assert tuned.http.post(f"{path}/pause").json()["status"] == "pausing"
    assert tuned.http.post(f"{path}/cancel").json()["status"] == "cancelled"


def test_from_the_first_step_to_the_result_files(tuned: Api) -> None:
    job_id = create(tuned)["id"]
    path = f"/v1/fine_tuning/jobs/{job_id}"
    validating = tuned.claim()
    with tuned.database.transaction() as session:
        store.finish_validating(session, validating, {"num_rows": 1})
    claim = tuned.claim("train")
    speed = {"learning_rate": 0.1, "grad_norm": 1.0, "tokens_per_second": 9.0, "seconds": 2.0}
    with tuned.database.transaction() as session:
        row = store.held(session, claim)
        steps = [
            Step(step=n, loss=1.0 / n, tokens=n * 10, metrics={"token_accuracy": n / 10}, **speed) for n in (1, 2, 3)
        ]
        found = Evaluated(step=2, metrics={"validation_loss": 0.7, "validation_token_accuracy": 0.6})
        journal.record(session, row, [Started(total_steps=10), *steps, found], offset=0)
        saved = Saved(step=3, path="x", manifest_sha256="0", size_bytes=1, metrics={"validation_loss": 0.7})
        checkpoint = registry.commit_checkpoint(session, row, saved, storage_key="checkpoints/x")
    shown = tuned.http.get(path).json()
    assert shown["status"] == "running"
    assert shown["estimated_finish"] > shown["created_at"]

    events = tuned.http.get(f"{path}/events?limit=4").json()
    assert events["has_more"] is True
    assert [event["object"] for event in events["data"]] == ["fine_tuning.job.event"] * 4
    seqs = [int(event["id"].rpartition("-")[2]) for event in events["data"]]
    assert seqs == sorted(seqs, reverse=True)
    older = tuned.http.get(f"{path}/events?limit=100&after={events['data'][-1]['id']}").json()
    assert int(older["data"][0]["id"].rpartition("-")[2]) == seqs[-1] - 1
    metrics = [event["data"] for event in events["data"] + older["data"] if event["type"] == "metrics"]
    assert {
        "step": 2,
        "valid_loss": 0.7,
        "full_valid_loss": 0.7,
        "valid_mean_token_accuracy": 0.6,
        "full_valid_mean_token_accuracy": 0.6,
    } in metrics
    assert {"step": 3, "total_steps": 10, "train_loss": 1 / 3, "train_mean_token_accuracy": 0.3} in metrics

    one = tuned.http.get(f"{path}/checkpoints").json()["data"][0]
    assert one["id"] == checkpoint.id.replace("ckpt_", "ftckpt_")
    assert one["step_number"] == 3
    assert one["fine_tuning_job_id"] == job_id
    assert one["fine_tuned_model_checkpoint"].endswith(":ckpt-step-3")
    assert one["metrics"] == {
        "step": 3.0,
        "train_loss": 1 / 3,
        "train_mean_token_accuracy": 0.3,
        "full_valid_loss": 0.7,
        "valid_loss": 0.7,
    }
    assert tuned.http.get(f"{path}/checkpoints?after={one['id']}").json()["data"] == []

    with tuned.database.transaction() as session:
        row = store.held(session, claim)
        store.succeed(session, claim, Finished(step=3))
        registry.add_model(session, row, session.get_one(Checkpoint, checkpoint.id), metrics={}, has_chat_template=True)
    done = tuned.http.get(path).json()
    assert done["status"] == "succeeded"
    assert done["fine_tuned_model"].startswith("ft:plays:lab:")
    assert done["trained_tokens"] == 30
    assert tuned.http.get(path).json()["result_files"] == done["result_files"]
    assert tuned.http.get("/v1/fine_tuning/jobs").json()["data"][0]["result_files"] == done["result_files"]
    plain, lines = (tuned.http.get(f"/v1/files/{file}/content").text for file in done["result_files"])
    rows = list(csv.DictReader(io.StringIO(plain)))
    assert list(rows[0]) == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert rows[1] == {
        "step": "2",
        "train_loss": "0.5",
        "train_accuracy": "0.2",
        "valid_loss": "0.7",
        "valid_mean_token_accuracy": "0.6",
    }
    assert json.loads(lines.splitlines()[2])["train_loss"] == pytest.approx(1 / 3)
    listed = tuned.http.get("/v1/files?purpose=fine-tune-results").json()["data"]
    assert {file["id"] for file in listed} == set(done["result_files"])


def test_a_failed_job_says_why(tuned: Api) -> None:
    job_id = create(tuned)["id"]
    with tuned.database.transaction() as session:
        values = {"error_code": "invalid_data", "error_message": "line 3 is bad", "error_param": "a.jsonl"}
        session.execute(update(Job).values(**values))
    error = tuned.http.get(f"/v1/fine_tuning/jobs/{job_id}").json()["error"]
    assert error == {"code": "invalid_data", "message": "line 3 is bad", "param": "a.jsonl"}
