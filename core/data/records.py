"""Checks that every format makes on a record, each saying what is wrong, what is allowed and what to do."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_TURNS = 2048
MAX_NAME_CHARACTERS = 256
HARMLESS = frozenset(
    (
        "_id", "author", "category", "created", "created_at", "custom_id", "dataset", "date", "id", "idx", "index",
        "lang", "language", "license", "meta", "metadata", "name", "path", "score", "source", "split", "subset", "tags",
        "timestamp", "title", "topic", "url", "uuid",
    )
)  # fmt: skip
"""keys that people keep beside their data and that no format learns from"""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""strict: no NaN, no Infinity"""


def parse_json(text: str) -> Any:
    """
    Raises:
        ValueError: what is wrong and at which character.
    """
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_keys(
    record: Mapping[str, Any], *, known: Iterable[str], where: str, harmless: frozenset[str] = HARMLESS
) -> None:
    """Refuse unknown keys by name. A key whose value is null counts as absent."""
    known = tuple(known)
    unknown = [key for key, value in record.items() if key not in known and key not in harmless and value is not None]
    if unknown:
        names = ", ".join(repr(key[:64]) for key in unknown[:5])
        raise ValueError(f"{where} has the unknown key {names}; allowed are {', '.join(known)}: remove or rename it")


def text_of(record: Mapping[str, Any], key: str, *, where: str) -> str:
    """The string at `key`, which must be Unicode: JSON can smuggle in half a surrogate pair."""
    value = record.get(key)
    if not isinstance(value, str):
        found = "missing" if value is None else f"{kind_of(value)}, not a string"
        raise ValueError(f"{where}: {key!r} is {found}; give a string")
    return checked_text(value, where=f"{where}: {key!r}")


def checked_text(text: str, *, where: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where} holds half a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start}, "
                "which is no Unicode character; write the whole pair or the character itself"
            ) from None
    return text


def check_depth(value: object, *, where: str) -> None:
    """Refuse nesting beyond `MAX_DEPTH` and strings that are not Unicode, keys included. Walks without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                checked_text(item, where=where)
        if not below:
            return
        level = below
    raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep; flatten it")


def kind_of(value: object) -> str:
    """JSON's word for a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
