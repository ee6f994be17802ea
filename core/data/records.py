"""Checks that every format makes on a record, each saying what is wrong, what is allowed and what to do."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_TURNS = 2048
MAX_NAME_CHARACTERS = 256
MAX_LABELS = 1024
"""of one row"""
MAX_WORDS = 65_536
"""of one row"""
MAX_NUMBER = 1e30
"""well inside what four bytes hold"""
ROW = "the row"
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


def filled_text_of(record: Mapping[str, Any], key: str, *, where: str = ROW) -> str:
    """The string at `key`, which must hold more than white space."""
    text = text_of(record, key, where=where)
    if not text or text.isspace():
        raise ValueError(f"{where}: {key!r} is empty, so it teaches nothing; fill it in or remove the row")
    return text


def optional_text_of(record: Mapping[str, Any], key: str, *, where: str = ROW) -> str | None:
    """The string at `key`; None where it is missing, null, or empty as the cell of a table is."""
    return None if record.get(key) in (None, "") else text_of(record, key, where=where)


def number_of(record: Mapping[str, Any], key: str, *, where: str = ROW) -> float:
    """The number at `key`, also as text, because the cells of a table are text."""
    value = record.get(key)
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value) if len(value) < 64 and "_" not in value else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {key!r} is {shown(value)}; give a number")
    if not -MAX_NUMBER <= value <= MAX_NUMBER:  # NaN is refused too
        raise ValueError(
            f"{where}: {key!r} is {shown(value)}; give a number between {-MAX_NUMBER:g} and {MAX_NUMBER:g}"
        )
    return float(value)


def truth_of(record: Mapping[str, Any], key: str, *, where: str = ROW) -> bool:
    """The boolean at `key`, also as text, because the cells of a table are text."""
    value = record.get(key)
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {key!r} is {shown(value)}; allowed are true and false")
    return value


def name_of(value: object, what: str) -> str:
    """A class or a tag: a string or a whole number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 1 << 63:
        return str(value)
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"{what} is {shown(value)}; give a name of 1 to {MAX_NAME_CHARACTERS} characters, or a whole number"
        )
    return checked_text(value, where=what)


def array_of(record: Mapping[str, Any], key: str, *, max_items: int, where: str = ROW) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {key!r} is {found(value)}; give an array")
    if len(value) > max_items:
        raise ValueError(f"{where}: {key!r} has {len(value)} items; at most {max_items} are allowed: split the row")
    return value


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


def found(value: object) -> str:
    """What stands where something else was expected."""
    if value is None:
        return "missing"
    return f"an empty {kind_of(value).split()[-1]}" if value in ([], "", {}) else kind_of(value)


def shown(value: object) -> str:
    """The value itself, where it is short."""
    return "missing" if value is None else repr(value)[:80]
