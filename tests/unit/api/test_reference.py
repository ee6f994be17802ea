"""The reference: nothing is open that should not be, every operation has an example, and the examples are true."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, TypeAdapter

import api.fine_tuning
import api.generation_bodies
import api.routes.files
import api.routes.graders
import api.routes.keys
import api.routes.models
import api.routes.previews
import api.routes.uploads
import api.schemas
from api import example_readings, examples
from api.app import create_app
from api.dependencies import Guard
from api.generation_bodies import CompletionBody
from api.reading_bodies import ClassificationBody, EmbeddingBody
from api.routes.catalog import catalog
from core.job_spec import JOB_SPEC
from core.objectives import OBJECTIVES
from core.settings import Settings

OPEN = {"/healthz", "/readyz", "/docs", "/docs/docs.js", "/docs/docs.css"}
SCHEMAS = (
    api.schemas,
    api.fine_tuning,
    api.generation_bodies,
    api.routes.files,
    api.routes.graders,
    api.routes.keys,
    api.routes.models,
    api.routes.previews,
    api.routes.uploads,
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    home = tmp_path_factory.mktemp("reference")
    return create_app(Settings(home=home, log_level="error"))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def guards(dependant: Any) -> list[Guard]:
    found = [dependant.call] if isinstance(dependant.call, Guard) else []
    return found + [guard for inner in dependant.dependencies for guard in guards(inner)]


def test_no_route_without_a_key(app: FastAPI) -> None:
    seen = set()
    for context in iter_route_contexts(app.routes):
        seen.add(context.path)
        found = guards(context.dependant)
        assert bool(found) != (context.path in OPEN), f"{context.path}: {found}"
        assert all(guard.scopes for guard in found)
    assert seen >= OPEN
    assert len(seen) > 30


def test_who_changes_something_needs_more_than_read(app: FastAPI) -> None:
    for context in iter_route_contexts(app.routes):
        if context.methods & {"POST", "PUT", "DELETE", "PATCH"}:
            for guard in guards(context.dependant):
                assert not set(guard.scopes) & {"read", "metrics"}, context.path


def test_every_operation_has_a_summary_and_examples(app: FastAPI) -> None:
    for name, operation in operations(app.openapi()):
        assert operation.get("summary"), name
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert "example" in content or content.get("examples"), f"{name}: its body has no example"
        answer = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
        contents = answer.get("content", {})
        assert contents, f"{name}: what does it answer?"
        assert all("example" in content or content.get("examples") for content in contents.values()), name


def test_errors_are_shown_as_they_are(app: FastAPI) -> None:
    document = app.openapi()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for name, operation in operations(document):
        assert "422" not in operation["responses"], name
        assert "4XX" in operation["responses"], name


def models() -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for module in SCHEMAS:
        found |= {
            name: cls for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, BaseModel)
        }
    return found


@pytest.mark.parametrize("name", sorted(examples.OF_SCHEMA))
def test_examples_are_true(name: str) -> None:
    example = examples.OF_SCHEMA[name]
    found = TypeAdapter(models()[name]).validate_python(example)
    assert set(example) <= set(type(found).model_fields), name


def test_examples_of_readings_are_true() -> None:
    bodies = {"POST /v1/embeddings": EmbeddingBody, "POST /v1/classifications": ClassificationBody}
    for name, body in bodies.items():
        for example in example_readings.BODIES[name].values():
            assert body.model_validate(example["value"]).inputs


def test_the_requests_in_the_guide_are_true() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "asking.md").read_text()
    kinds: tuple[type[BaseModel], ...] = (EmbeddingBody, ClassificationBody, CompletionBody)
    found = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    assert len(found) == 7
    for body, kind in zip(found, (kinds[0], *[kinds[1]] * 5, kinds[2]), strict=True):
        kind.model_validate(body)


def test_examples_of_jobs_are_true() -> None:
    for spec in (examples.TRAIN, examples.FINE_TUNE, examples.REINFORCE, examples.TOKENIZER):
        JOB_SPEC.validate_python(spec)


def test_examples_belong_to_something(app: FastAPI) -> None:
    names = {name for name, _ in operations(app.openapi())}
    assert set(examples.ANSWERS) | set(examples.BODIES) <= names


def test_the_page_needs_no_other_host() -> None:
    for path in (Path(__file__).resolve().parents[3] / "api" / "static").iterdir():
        text = path.read_text()
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML =" not in text
        assert " style=" not in text


def test_the_catalog_is_drawn_from_the_classes() -> None:
    found = catalog()
    presets = {preset["name"]: preset for preset in found["families"][0]["presets"]}
    assert presets["nano"]["parameters"] == 1_787_008
    assert {one["kind"] for one in found["objectives"]} == set(OBJECTIVES)
    assert next(one for one in found["objectives"] if one["kind"] == "supervised")["formats"] == [
        *("chat", "prompt_completion", "alpaca", "sharegpt"),
    ]
    served = {one["kind"]: one["endpoints"] for one in found["objectives"]}
    assert served["sequence_to_sequence"] == ["/v1/chat/completions", "/v1/completions"]
    assert (served["contrastive"], served["masked_lm"]) == (["/v1/embeddings"], ["/v1/classifications"])
    assert [one["kind"] for one in found["schedules"]] == [
        *("cosine", "warmup_stable_decay", "linear", "constant", "inverse_sqrt"),
    ]
    assert [one["kind"] for one in found["optimizers"]] == ["adamw", "muon", "adafactor", "sgd"]
    assert found["optimizers"][0]["schema"]["properties"]["learning_rate"]
    assert "train" in found["job_schema"]["discriminator"]["mapping"]
    assert {"loss", "perplexity"} <= set(found["metrics"])
