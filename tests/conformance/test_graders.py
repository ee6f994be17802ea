"""`client.fine_tuning.alpha.graders` of the real SDK."""

import json
from typing import Any

import openai
import pytest
from openai.types.graders import PythonGrader, StringCheckGrader, TextSimilarityGrader

from tests.conformance.conftest import Service
from tests.conformance.test_openai_sdk import status_becomes

STRING: Any = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
}
SIMILAR: Any = {
    "type": "text_similarity",
    "name": "alike",
    "evaluation_metric": "rouge_l",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
}
PYTHON: Any = {
    "type": "python",
    "name": "own",
    "source": "def grade(sample, item):\n    return float(sample['output_json']['n'] == item['n'])",
    "image_tag": "2025-05-08",
}
MULTI: Any = {"type": "multi", "name": "all", "graders": STRING, "calculate_output": "1 - exact"}


@pytest.mark.parametrize(
    ("grader", "cls"),
    [(STRING, StringCheckGrader), (SIMILAR, TextSimilarityGrader), (PYTHON, PythonGrader)],
)
def test_validate(client: openai.OpenAI, grader: Any, cls: type) -> None:
    shown = client.fine_tuning.alpha.graders.validate(grader=grader).grader
    assert type(shown) is cls
    assert shown.to_dict(exclude_none=True) == grader


def test_validate_a_multi(client: openai.OpenAI) -> None:
    """OpenAI's SDK types say that `graders` is one grader, its guide that they go by name; the answer is by name."""
    for graders in (STRING, {"exact": STRING}):
        shown: Any = client.fine_tuning.alpha.graders.validate(grader=MULTI | {"graders": graders}).grader
        assert (shown.type, shown.calculate_output) == ("multi", "1 - exact")
        assert shown.to_dict()["graders"] == {"exact": STRING}


@pytest.mark.parametrize(
    ("grader", "sample", "item", "reward"),
    [
        (STRING, "Paris", {"reference_answer": "Paris"}, 1.0),
        (SIMILAR, "in Paris", {"reference_answer": "Paris"}, 2 / 3),
        (PYTHON, '{"n": 3}', {"n": 3}, 1.0),
        (MULTI, "Paris", {"reference_answer": "Paris"}, 0.0),
    ],
)
def test_run(client: openai.OpenAI, grader: Any, sample: str, item: Any, reward: float) -> None:
    found = client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=item)
    assert found.reward == pytest.approx(reward)
    assert found.sub_rewards == ({"exact": 1.0} if grader is MULTI else {})
    assert (found.metadata.name, found.metadata.type) == (grader["name"], grader["type"])
    errors = found.metadata.errors
    assert not any(value for value in errors.to_dict().values())
    assert errors.api_model_grader_parse_error is False
    assert found.api_model_grader_token_usage_per_model == {}


def test_a_python_grader_that_fails(client: openai.OpenAI) -> None:
    found = client.fine_tuning.alpha.graders.run(grader=PYTHON, model_sample="no JSON", item={"n": 3})
    errors = found.metadata.errors
    assert (found.reward, errors.python_grader_runtime_error) == (0.0, True)
    assert "TypeError" in (errors.python_grader_runtime_error_details or "")


def test_what_is_refused(client: openai.OpenAI) -> None:
    judge: Any = {
        "type": "score_model",
        "name": "judge",
        "model": "gpt-4o",
        "input": [{"role": "user", "content": "?"}],
    }
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.alpha.graders.validate(grader=judge)
    assert "need a model that judges" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.alpha.graders.run(grader=STRING | {"input": "{{item}}"}, model_sample="x", item={})
    assert refused.value.param == "grader.input"


PROMPTS = "".join(
    json.dumps({"messages": [{"role": "user", "content": f"{n}?"}], "reference_answer": str(n), "n": n}) + "\n"
    for n in range(6)
)
LENGTH: Any = {
    "type": "python",
    "name": "length",
    "source": "def grade(sample, item):\n    return (1 + len(sample['output_text'])) / 50",
}


def reinforcement(grader: Any) -> Any:
    hyperparameters = {"n_epochs": 1, "batch_size": 2, "compute_multiplier": 0.5, "eval_interval": 2, "eval_samples": 2}
    return {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}}


@pytest.mark.slow
def test_reinforcement_from_file_to_model(client: openai.OpenAI, service: Service) -> None:
    service.ensure_worker()
    file = client.files.create(file=("prompts.jsonl", PROMPTS.encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="base-model", training_file=file.id, validation_file=file.id, method=reinforcement(LENGTH), seed=7
    )
    status_becomes(client, job.id, "succeeded")
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.method is not None
    assert done.method.reinforcement is not None
    assert done.method.reinforcement.grader.name == "length"
    shown = done.method.reinforcement.hyperparameters
    assert shown is not None
    assert (shown.n_epochs, shown.batch_size, shown.compute_multiplier, shown.eval_interval) == (1, 2, 0.5, 2)
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    rewards = [data["train_mean_reward"] for data in events if "train_mean_reward" in data]  # type: ignore[operator,index]
    validated = [data for data in events if "full_valid_mean_reward" in data]  # type: ignore[operator]
    assert len(rewards) == 3
    assert all(reward > 0 for reward in rewards)
    assert validated
    assert client.models.retrieve(done.fine_tuned_model or "").id == done.fine_tuned_model


@pytest.mark.slow
def test_a_grader_that_reads_what_is_not_there_fails_the_job(client: openai.OpenAI, service: Service) -> None:
    service.ensure_worker()
    file = client.files.create(file=("prompts.jsonl", PROMPTS.encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="base-model", training_file=file.id, method=reinforcement(STRING | {"reference": "{{item.level}}"})
    )
    service.stack.wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "failed", what="the failure")
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error is not None
    assert error.code == "grader_field_missing"
    assert "line 1: the row has no 'level'" in error.message
