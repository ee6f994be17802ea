"""What a model says of texts: labels, tags and the spans they join, answers to questions, scores."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api import generators
from api.dependencies import Provided, Speaker
from api.reading_answers import Json, classification_list
from api.reading_bodies import ClassificationBody
from core.endpoints import CLASSIFICATIONS
from core.reading_request import ReadingRequest, Readings

router = APIRouter(prefix="/v1", tags=["generation"])
ANSWERS = 3


@router.post("/classifications", summary="Labels, tags, answers or scores of texts", response_class=Response)
async def create_classifications(
    body: Annotated[ClassificationBody, Body()], caller: Speaker, provided: Provided
) -> Response:
    inputs = body.inputs
    model, places = await generators.serving(provided, caller, body.model, CLASSIFICATIONS)
    request = ReadingRequest(
        model=generators.served(model), inputs=inputs, truncate=body.truncate, max_answers=body.top_k or ANSWERS
    )

    def shown(said: Readings) -> Json:
        return classification_list(model.name, said, many_labels=model.config.many_labels, top_k=body.top_k)

    return generators.Read(provided, places, request, shown)
