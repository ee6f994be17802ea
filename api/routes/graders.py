"""OpenAI's alpha routes that try a grader out before a job depends on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, Field, StringConstraints

from api.dependencies import Provided, Services, Writer
from api.schemas import Out
from core.data.records import check_depth
from core.errors import CapacityExceeded
from core.graders import Grader
from core.graders.grade import ErrorName, Grade, Sample
from core.graders.sandbox import Sandbox
from core.spec import Spec

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning (OpenAI)"])


def _shallow(item: dict[str, Any]) -> dict[str, Any]:
    check_depth(item, where="the item")
    return item


class GraderRun(Spec):
    grader: Grader
    model_sample: Annotated[str, StringConstraints(max_length=1 << 20)] = Field(
        description="what a model answered: `sample.output_text`, and `sample.output_json` where it is JSON"
    )
    item: Annotated[dict[str, Any], AfterValidator(_shallow)] = Field(
        default_factory=dict, description="what the row has besides its messages"
    )


class GraderValidate(Spec):
    grader: Grader


class GraderErrors(Out):
    formula_parse_error: bool = False
    invalid_variable_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    other_error: bool = False
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False


class GraderMetadata(Out):
    name: str
    type: str
    errors: GraderErrors
    execution_time: float
    """seconds"""
    scores: dict[str, float]
    """of the graders that a `multi` combines"""
    sampled_model_name: str | None = None
    token_usage: int | None = None
    error_details: list[str]
    """what OpenAI's fields have no room for: every error in words"""


class GraderRunOut(Out):
    reward: float
    """0 where there is an error"""
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, int]
    metadata: GraderMetadata


class GraderValidateOut(Out):
    grader: Grader
    """as it was understood"""


@router.post("/run", summary="Grade one answer")
def run_grader(body: GraderRun, caller: Writer, provided: Provided) -> GraderRunOut:
    begun = time.monotonic()
    with _place(provided, needed=body.grader.runs_code), Sandbox() as sandbox:
        grade = body.grader.grade(Sample(body.model_sample), body.item, sandbox)
    return GraderRunOut(
        reward=grade.score,
        sub_rewards=grade.sub_scores,
        model_grader_token_usage_per_model={},
        metadata=GraderMetadata(
            name=body.grader.name,
            type=body.grader.type,
            errors=_errors(grade),
            execution_time=time.monotonic() - begun,
            scores=grade.sub_scores,
            error_details=[error.details for error in grade.errors],
        ),
    )


@router.post("/validate", summary="Check a grader without running it")
def validate_grader(body: GraderValidate, caller: Writer) -> GraderValidateOut:
    return GraderValidateOut(grader=body.grader)


@contextmanager
def _place(provided: Services, *, needed: bool) -> Iterator[None]:
    """One of the few children that may run code at a time.

    Raises:
        CapacityExceeded: all are taken.
    """
    if needed and not provided.grader_places.acquire(blocking=False):
        raise CapacityExceeded("All sandboxes for python graders are taken.", retry_after_seconds=1.0)
    try:
        yield
    finally:
        if needed:
            provided.grader_places.release()


def _errors(grade: Grade) -> GraderErrors:
    said: dict[ErrorName, str] = {}
    for error in grade.errors:
        said.setdefault(error.name, error.details)
    return GraderErrors(
        **dict.fromkeys(said, True),
        python_grader_runtime_error_details=said.get("python_grader_runtime_error"),
        python_grader_server_error_type=said.get("python_grader_server_error"),
    )
