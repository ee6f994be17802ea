"""Graders tried out over HTTP: what they say, what is refused, and how many may run."""

from typing import Any

import pytest

from core.graders import sandbox as sandbox_module
from core.graders.grade import Sample, Ungradable
from core.graders.sandbox import Sandbox
from tests.apis import Api

EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference_answer}}",
}
LENGTH = {
    "type": "python",
    "name": "length",
    "source": "def grade(sample, item):\n    return len(sample['output_text'])",
}
MULTI = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "length": LENGTH},
    "calculate_output": "exact + length / 10",
}


@pytest.fixture(autouse=True, scope="module")
def _there_is_a_sandbox() -> None:
    with Sandbox() as opened:
        try:
            opened.run("def grade(sample, item): return 0", Sample(""), {})
        except Ungradable as ungradable:
            if ungradable.error.name == "python_grader_server_error":
                pytest.skip("this machine's kernel cannot hold a python grader")


def run(api: Api, grader: dict[str, Any], sample: str = "42", **item: Any) -> Any:
    body = {"grader": grader, "model_sample": sample, "item": item}
    answer = api.http.post("/v1/fine_tuning/alpha/graders/run", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(api: Api, verb: str, **body: Any) -> Any:
    answer = api.http.post(f"/v1/fine_tuning/alpha/graders/{verb}", json=body)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_a_reward_and_what_it_is_made_of(api: Api) -> None:
    found = run(api, MULTI, reference_answer="42")
    assert found["reward"] == pytest.approx(1.2)
    assert found["sub_rewards"] == found["metadata"]["scores"] == {"exact": 1.0, "length": 2.0}
    assert found["model_grader_token_usage_per_model"] == {}
    assert (found["metadata"]["name"], found["metadata"]["type"]) == ("both", "multi")
    assert found["metadata"]["execution_time"] > 0
    assert [name for name, said in found["metadata"]["errors"].items() if said] == []


@pytest.mark.parametrize(
    ("grader", "name", "says"),
    [
        (EXACT, "invalid_variable_error", "`item` has no 'reference_answer': it has no fields"),
        (
            EXACT | {"reference": "{{sample.output_json.x}}"},
            "invalid_variable_error",
            "`sample.output_json` has no 'x'",
        ),
        (LENGTH | {"source": "def grade(s, i): return 1 / 0"}, "python_grader_runtime_error", "ZeroDivisionError"),
        (MULTI | {"graders": [LENGTH], "calculate_output": "1 / (length - 2)"}, "other_error", "division by zero"),
    ],
)
def test_an_error_is_named(api: Api, grader: dict[str, Any], name: str, says: str) -> None:
    found = run(api, grader)
    assert found["reward"] == 0.0
    errors = found["metadata"]["errors"]
    assert [key for key, said in errors.items() if said is True] == [name]
    assert says in found["metadata"]["error_details"][0]
    if name == "python_grader_runtime_error":
        assert says in errors["python_grader_runtime_error_details"]


def test_a_sample_that_is_no_json(api: Api) -> None:
    found = run(api, EXACT | {"reference": "{{sample.output_json.x}}"}, sample="no JSON")
    assert found["metadata"]["errors"]["sample_parse_error"] is True


def test_a_grader_that_hangs_is_ended(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "SECONDS_A_SAMPLE", 0.2)
    found = run(api, LENGTH | {"source": "def grade(s, i):\n    while True: pass"})
    assert "took longer than 0.2 seconds" in found["metadata"]["errors"]["python_grader_runtime_error_details"]


def test_what_is_valid_comes_back_as_it_was_understood(api: Api) -> None:
    given = {"grader": MULTI | {"graders": [EXACT, LENGTH]}}
    answer = api.http.post("/v1/fine_tuning/alpha/graders/validate", json=given)
    assert answer.status_code == 200
    shown = answer.json()["grader"]
    assert shown["graders"]["exact"] == EXACT
    assert shown["graders"]["length"] == LENGTH | {"image_tag": None}


@pytest.mark.parametrize("verb", ["run", "validate"])
@pytest.mark.parametrize(
    ("grader", "param", "says"),
    [
        (EXACT | {"input": "{{item}}"}, "grader.input", "no place to fill"),
        (EXACT | {"operation": "matches"}, "grader.operation", "allowed: 'eq', 'ne', 'like' or 'ilike'"),
        (EXACT | {"type": "text_similarity", "evaluation_metric": "cosine"}, "grader", "embedding model"),
        (LENGTH | {"source": "x = 1"}, "grader.source", "defines no function `grade`"),
        (MULTI | {"calculate_output": "exact + short"}, "grader", "names 'short'; the graders are exact, length"),
        (MULTI | {"graders": {"a": LENGTH | {"source": ""}}}, "grader.graders.a.source", "defines no function"),
        ({"type": "score_model", "name": "judge", "model": "m", "input": []}, "grader", "not available yet"),
        ({"type": "regex", "name": "x"}, "grader", "'string_check', 'text_similarity', 'python', 'multi'"),
        (None, "grader", ""),
    ],
)
def test_what_is_not_valid_is_refused(api: Api, verb: str, grader: Any, param: str, says: str) -> None:
    sample = {"model_sample": "x"} if verb == "run" else {}
    error = refused(api, verb, grader=grader, **sample)
    assert says in error["message"]
    assert (error["param"] or "").startswith(param)


def test_an_item_that_is_nested_too_deeply(api: Api) -> None:
    item: dict[str, Any] = {}
    for _ in range(100):
        item = {"a": item}
    assert "nested more than 64" in refused(api, "run", grader=EXACT, model_sample="x", item=item)["message"]


def test_places_are_few(api: Api) -> None:
    places = api.app.state.services.grader_places
    places.acquire()
    run(api, LENGTH)
    places.acquire()
    try:
        body = {"grader": LENGTH, "model_sample": "x"}
        answer = api.http.post("/v1/fine_tuning/alpha/graders/run", json=body)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert answer.headers["retry-after-ms"] == "1000"
        run(api, EXACT, reference_answer="42")
    finally:
        places.release()
        places.release()
    run(api, LENGTH)


@pytest.mark.parametrize("verb", ["run", "validate"])
def test_a_key_that_may_only_read_may_not(api: Api, verb: str) -> None:
    headers = api.headers(scopes=["read", "generate"])
    answer = api.http.post(f"/v1/fine_tuning/alpha/graders/{verb}", json={"grader": EXACT}, headers=headers)
    assert answer.status_code == 403
