"""The OpenAPI document: FastAPI's, with an example for every operation and with the errors as they really are."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import examples

_LIST = "ListOut_"
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "what was wrong, what is allowed, the way out"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "dotted path of the field at fault"},
                "code": {"type": ["string", "null"], "description": "stable"},
            },
        }
    },
}
ERROR_EXAMPLE = {
    "error": {
        "message": "`budget`: give exactly one of steps, tokens, epochs, seconds; got none.",
        "type": "invalid_request_error",
        "param": "budget",
        "code": "invalid_request",
    }
}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` give the document; it is built when first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = ERROR
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(operation, f"{method.upper()} {path}")
    return found


def _complete(operation: dict[str, Any], name: str) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if name in examples.BODIES:
            content["examples"] = examples.BODIES[name]
        elif "example" not in content:
            _give_example(content)
    responses = operation["responses"]
    responses.pop("422", None)
    content = {"schema": {"$ref": "#/components/schemas/Error"}, "example": ERROR_EXAMPLE}
    responses["4XX"] = {"description": "Something in the request", "content": {"application/json": content}}
    answer = next(responses[code] for code in responses if code.startswith("2"))
    if name in examples.ANSWERS:
        kind, example = examples.ANSWERS[name]
        answer.setdefault("content", {}).setdefault(kind, {})["example"] = example
    else:
        for content in answer.get("content", {}).values():
            _give_example(content)


def _give_example(content: dict[str, Any]) -> None:
    """That of its schema, of the first of its alternatives, or of what it is a list of."""
    schema = content.get("schema", {})
    reference = schema.get("$ref") or next((one.get("$ref") for one in schema.get("anyOf", [])), None) or ""
    name = reference.rpartition("/")[2]
    if name in examples.OF_SCHEMA:
        content["example"] = examples.OF_SCHEMA[name]
    elif name.startswith(_LIST):
        item = examples.OF_SCHEMA[name.removeprefix(_LIST).strip("_")]
        content["example"] = {
            "object": "list",
            "data": [item],
            "has_more": False,
            "first_id": item["id"],
            "last_id": item["id"],
        }
