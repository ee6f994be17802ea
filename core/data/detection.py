"""Which format a row has, told by its keys.

A row is of every format of which it has all keys, but for those whose keys are among another's: prompt, completion and
label make `kto`, not `prompt_completion`. Two that remain are a mixture, which is refused. What has `messages` is
`graded` where it has a `reference_answer`, or where the user speaks last and there are keys that a chat does not have.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from core.data.formats import FORMATS, FormatName
from core.data.messages import KEYS as MESSAGES
from core.data.records import HARMLESS
from core.errors import InvalidData

Record = Mapping[str, Any]
HINTS = {
    "question": "for answers within a text add 'context'; else rename 'question' to 'prompt' and 'answer' to "
    "'completion', or write both as 'messages'",
    "instruction": "the answer to an 'instruction' stands at 'output': rename the key that holds it",
    "chosen_messages": "rename 'chosen_messages' and 'rejected_messages' to 'chosen' and 'rejected'",
    "sentence1": "rename 'sentence1' and 'sentence2' to 'text' and 'pair'",
    "premise": "rename 'premise' and 'hypothesis' to 'text' and 'pair'",
    "query": "rename 'query' to 'anchor', and the key of what belongs to it to 'positive'",
    "ner_tags": "rename 'ner_tags' to 'tags'",
    "label": "rename the key that holds the text to 'text'",
    "labels": "rename the key that holds the text to 'text'",
    "input_ids": "give text instead of token ids",
}
"""what to do about a row of no format, by a key that it has"""


def formats_of(record: Record) -> list[FormatName]:
    """Usually one; none where no format knows such keys."""
    return [*_keys_by_format(record)]


def has_keys_of(format: FormatName, record: Record) -> bool:
    return bool(_most_keys(format, _present(record)))


def reads(format: FormatName, found: FormatName) -> bool:
    """Whether rows of the format `found` have all that `format` needs and nothing that it refuses: plain text that was
    found to be `scored`."""
    return any(
        set(keys) <= set(others) and set(others) - set(keys) <= HARMLESS
        for keys in FORMATS[format].keys
        for others in FORMATS[found].keys
    )


def _keys_by_format(record: Record) -> dict[FormatName, frozenset[str]]:
    """The row's formats, each with the keys that make it one."""
    there = _present(record)
    found = {name: keys for name in FORMATS if (keys := _most_keys(name, there))}
    if "chat" in found and _is_for_graders(record):
        made_of = record.keys() if "reference_answer" in record else found["chat"]
        found.pop("kto", None)
        found |= {"chat": frozenset(), "graded": frozenset(made_of)}
    return {name: keys for name, keys in found.items() if not any(keys < others for others in found.values())}


def _present(record: Record) -> set[str]:
    return {key for key, value in record.items() if value is not None}


def _most_keys(name: FormatName, there: set[str]) -> frozenset[str]:
    """The largest set of keys that makes it a row of that format; empty where none does."""
    return max((frozenset(keys) for keys in FORMATS[name].keys if there.issuperset(keys)), key=len, default=frozenset())


def _is_for_graders(record: Record) -> bool:
    if "reference_answer" in record:
        return True
    messages = record["messages"]
    last = messages[-1] if isinstance(messages, list) and messages else None
    more = record.keys() - {*MESSAGES} - HARMLESS
    return isinstance(last, dict) and last.get("role") == "user" and bool(more)


def mixed(filename: str, records: Iterable[tuple[int, Record]], usual: FormatName) -> InvalidData:
    """Why these rows are refused: the lines that are not of the format that most are, or of two."""
    odd = [(line, found) for line, record in records if [*(found := _keys_by_format(record))] != [usual]]
    line, found = odd[0]
    hint = "put each format into a file of its own"
    if len(found) > 1:
        made = "; ".join(f"{_listed(sorted(keys))} make it {name}" for name, keys in found.items())
        hint = f"{made}: remove or rename the keys of all but one format"
    names = " and ".join(found) or "none"
    return InvalidData(
        f"{filename} mixes formats: line {line} is {names}, most rows are {usual}",
        code="mixed_formats",
        hint=hint,
        line_errors=[(at, f"is {' and '.join(several) or 'no known format'}, not {usual}") for at, several in odd],
    )


def unknown(filename: str, line: int, record: Record, *, is_table: bool) -> InvalidData:
    """Why a row of no format is refused, and what would make it one."""
    keys = ", ".join(repr(key[:64]) for key in list(record)[:10]) or "none"
    needs = "; ".join(
        f"{name} needs {' or '.join(_listed(keys) for keys in known.keys)}" for name, known in FORMATS.items()
    )
    usual = "rename the keys to those of one format"
    if is_table:
        usual = "the first line must name the columns: rename them to the keys of one format"
    elif len(record) == 2 and all(len(key) in (2, 3) for key in record):
        usual = 'a pair of two languages stands below one key: {"translation": {"en": "…", "de": "…"}}'
    return InvalidData(
        f"{filename} fits no format: line {line} has the keys {keys}; {needs}",
        code="unknown_format",
        hint=next((hint for key, hint in HINTS.items() if key in record), usual),
        line_errors=[(line, f"has the keys {keys}")],
    )


def _listed(keys: Iterable[str]) -> str:
    return " and ".join(map(repr, keys))
