"""What a model says of texts: labels, tags and the spans they join, answers to questions, scores."""

from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.concurrency import run_in_threadpool

from api import generators
from api.dependencies import Provided, Services, Speaker
from api.reading_answers import Json, classification_list
from api.reading_bodies import ClassificationBody
from core.endpoints import CLASSIFICATIONS
from core.jobs import models
from core.jobs.registry import Servable
from core.reading_request import ReadingRequest, Readings

router = APIRouter(prefix="/v1", tags=["generation"])
ANSWERS = 3
"""to a question, or tokens for a mask, where nobody says how many"""


@router.post("/classifications", summary="Labels, tags, answers or scores of texts", response_class=Response)
async def create_classifications(
    body: Annotated[ClassificationBody, Body()], caller: Speaker, provided: Provided
) -> Response:
    inputs = body.inputs
    model, places = await generators.serving(provided, caller, body.model, CLASSIFICATIONS)
    window = None
    if model.config.head in ("tagger", "span"):
        window = await run_in_threadpool(_trained_length, provided, model)
    request = ReadingRequest(
        model=generators.served(model),
        inputs=inputs,
        truncate=body.truncate,
        window=window,
        max_answers=body.top_k or ANSWERS,
    )

    def shown(said: Readings) -> Json:
        return classification_list(model.name, said, many_labels=model.config.many_labels, top_k=body.top_k)

    return generators.Read(provided, places, request, shown)


def _trained_length(provided: Services, model: Servable) -> int | None:
    """Long texts are read in pieces as long as those of training."""
    with provided.database.reading() as session:
        return models.trained_length(session, model)
