"""Embeddings in OpenAI's words."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from api import generators
from api.dependencies import Provided, Speaker
from api.reading_answers import Json, embedding_list
from api.reading_bodies import EmbeddingBody
from core.endpoints import EMBEDDINGS
from core.errors import InvalidRequest
from core.reading_request import ReadingRequest, Readings

router = APIRouter(prefix="/v1", tags=["generation"])


@router.post("/embeddings", summary="Vectors of texts, of length 1", response_class=Response)
async def create_embeddings(body: Annotated[EmbeddingBody, Body()], caller: Speaker, provided: Provided) -> Response:
    model, places = await generators.serving(provided, caller, body.model, EMBEDDINGS)
    width = model.config.hidden_size
    if body.dimensions is not None and body.dimensions > width:
        raise InvalidRequest(
            f"`dimensions` is {body.dimensions}; this model's embeddings have {width}.", param="dimensions"
        )
    request = ReadingRequest(
        model=generators.served(model), inputs=body.inputs, truncate=body.truncate, dimensions=body.dimensions
    )

    def shown(said: Readings) -> Json:
        return embedding_list(model.name, said, body.encoding_format)

    return generators.Read(provided, places, request, shown)
