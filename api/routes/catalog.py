"""The catalog: what there is to choose from, drawn from the classes themselves. A form or a command line reads it."""

import sys
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.dependencies import Reader
from core.data.formats import FORMATS
from core.endpoints import endpoints_of
from core.job_spec import JOB_SPEC, TrainSpec
from core.models.families import FAMILIES, shape
from core.objectives import OBJECTIVES

router = APIRouter(prefix="/v1/catalog", tags=["catalog"])
USUAL_VOCABULARY = 8192


@router.get("", summary="Families, presets, objectives, formats, optimizers, schedules, metrics, with JSON schemas")
async def get_catalog(caller: Reader) -> JSONResponse:
    return JSONResponse(catalog())


@cache
def catalog() -> dict[str, Any]:
    return {
        "object": "catalog",
        "families": [
            {
                "kind": kind,
                "description": first_words(family),
                "presets": [
                    {
                        "name": name,
                        "dimensions": dims.model_dump(mode="json"),
                        "vocab_size": USUAL_VOCABULARY,
                        "parameters": shape(kind, dims, vocab_size=USUAL_VOCABULARY).num_parameters(),
                    }
                    for name, dims in family.PRESETS.items()
                ],
            }
            for kind, family in FAMILIES.items()
        ],
        "objectives": [
            choice(kind, cls)
            | {
                "formats": [name for name, known in FORMATS.items() if known.yields in cls.consumes],
                "models": list(cls.models),
                "endpoints": sorted({endpoint for kind in cls.models for endpoint in endpoints_of(kind, cls.head)}),
                "metrics": list(cls.metrics),
            }
            for kind, cls in OBJECTIVES.items()
        ],
        "formats": [
            {
                "kind": kind,
                "keys": [list(keys) for keys in format.keys],
                "description": first_words(sys.modules[format.__module__]),
            }
            for kind, format in FORMATS.items()
        ],
        "optimizers": choices("optimizer"),
        "schedules": choices("schedule"),
        "adapters": choices("adapter"),
        "metrics": sorted({name for cls in OBJECTIVES.values() for name in cls.metrics}),
        "job_schema": JOB_SPEC.json_schema(),
    }


def choices(field: str) -> list[dict[str, Any]]:
    """The classes among which a field of the train spec chooses."""
    annotation = TrainSpec.model_fields[field].annotation
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [choice(cls.model_fields["kind"].default, cls) for cls in members]


def choice(kind: str, cls: type[BaseModel]) -> dict[str, Any]:
    _, schema = models_json_schema([(cls, "validation")])
    return {"kind": kind, "description": first_words(cls), "schema": schema["$defs"][cls.__name__]}


def first_words(thing: Any) -> str:
    """The first paragraph of its docstring."""
    return " ".join((thing.__doc__ or "").partition("\n\n")[0].split())
