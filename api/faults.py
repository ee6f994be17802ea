"""What is wrong with a body, in the words of whoever wrote it: pydantic's errors as one message and one param."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from core.job_spec import JOB_SPEC, JobSpec

MAX_SHOWN = 3
_TAGS = ("kind", "init", "type")
"""fields that choose between classes; pydantic puts their value into the path, where no user wrote it"""
_WRONG_TYPE = ("literal_error", "int_parsing", "int_type", "float_type", "string_type", "model_type", "dict_type")
_SCALARS = ("int", "float", "str", "bool", "constrained-int", "constrained-float", "constrained-str")

Error = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    message: str
    param: str | None
    code: str


def fault_of(errors: Sequence[Error], body: Any) -> Fault:
    """`errors` are pydantic's; `body` is what was parsed. The first fault gives the param."""
    if errors and errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "")
        return Fault(f"The body is not JSON: {reason} at character {errors[0]['loc'][-1]}.", None, "invalid_json")
    said: dict[str, str] = {}
    for error in _likeliest(errors):
        in_body = error["loc"][:1] == ("body",)
        param = param_of(error, body if in_body else None)
        said.setdefault(param, _sentence(error, param, in_body=in_body))
    for param in [param for param in said if any(other.startswith(f"{param}.") for other in said)]:
        del said[param]  # a list is too short because its items are wrong
    shown = "; ".join(list(said.values())[:MAX_SHOWN])
    more = f" (and {len(said) - MAX_SHOWN} more)" if len(said) > MAX_SHOWN else ""
    return Fault(f"{shown[:1].upper()}{shown[1:]}{more}.", next(iter(said), "") or None, "invalid_request")


def parse_spec(body: Any) -> JobSpec:
    """A spec that was put together here, held to the same words as one in a body.

    Raises:
        RequestValidationError: what FastAPI raises for a body.
    """
    try:
        return JOB_SPEC.validate_python(body)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(errors, body=body) from None


def param_of(error: Error, body: Any) -> str:
    """The dotted path through the body as its writer sees it: names of classes and tags of unions are left out."""
    names: list[str] = []
    value, tagged = body, False
    for i, part in enumerate(error["loc"][1:], start=2):
        ends_here = i == len(error["loc"]) and error["type"] in ("missing", "extra_forbidden")
        is_key = isinstance(value, Mapping) and part in value
        is_inside = isinstance(value, Mapping) and (i < len(error["loc"]) or part in map(value.get, _TAGS))
        if is_inside and not ends_here and not is_key and not tagged:
            tagged = True  # the tag that was written, or the one that is meant where none was
            continue
        if not ends_here and not is_key and _names_a_member(part):
            continue
        names.append(str(part))
        value, tagged = _step(value, part), False
    if error["type"].startswith("union_tag_"):
        names.append(str(error["ctx"]["discriminator"]).strip("'"))
    return ".".join(names)


def _step(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _likeliest(errors: Sequence[Error]) -> list[Error]:
    """Of a union without a tag, pydantic reports the errors of every member; the one with the fewest was meant."""
    counts: dict[tuple[Any, ...], dict[Any, float]] = {}
    for error in errors:
        for i, part in enumerate(error["loc"]):
            if _names_a_member(part):
                members = counts.setdefault(tuple(error["loc"][:i]), {})
                members[part] = members.get(part, 0.0) + (1.5 if error["type"] in _WRONG_TYPE else 1.0)
    meant = {prefix: min(members, key=members.__getitem__) for prefix, members in counts.items()}
    return [error for error in errors if _is_meant(error["loc"], meant)]


def _is_meant(path: Sequence[Any], meant: Mapping[tuple[Any, ...], Any]) -> bool:
    return all(meant.get(tuple(path[:i]), part) == part for i, part in enumerate(path) if _names_a_member(part))


def _names_a_member(part: Any) -> bool:
    """`ValidationFile`, `int`, `literal['auto']`: which member of a union, not a field."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in _SCALARS)


def _sentence(error: Error, param: str, *, in_body: bool) -> str:
    name = f"`{param}`" if param else "the body" if in_body else "the request"
    context = error.get("ctx") or {}
    match error["type"]:
        case "missing" | "union_tag_not_found":
            return f"{name} is missing"
        case "extra_forbidden":
            parent, _, field = param.rpartition(".")
            return f"unknown field `{field}`" + (f" in `{parent}`" if parent else "")
        case "union_tag_invalid":
            return f"{name} is {_shown(context.get('tag'))}; allowed: {context.get('expected_tags')}"
        case "literal_error" | "enum":
            return f"{name} is {_shown(error['input'])}; allowed: {context.get('expected')}"
        case "value_error":
            said = str(context.get("error", error["msg"]))
            return f"{name}: {said}" if param else said
        case _:
            return f"{name} is {_shown(error['input'])}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
