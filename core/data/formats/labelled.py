"""Format `labelled`: {"text": "…", "label": a name or a whole number}, also with "labels": […] for all that apply, or
{"labels": {"a": 0.6, "b": 0.4}} for probabilities; "sentence" may stand for "text", and "pair" holds a second text.
"""

from typing import Any, ClassVar

from core.data.examples import Labelled
from core.data.records import (
    MAX_LABELS,
    ROW,
    array_of,
    check_keys,
    filled_text_of,
    name_of,
    number_of,
    optional_text_of,
    shown,
)

TOLERANCE = 1e-3
"""by which probabilities may miss 1, because they were rounded"""


class LabelledFormat:
    kind: ClassVar[str] = "labelled"
    keys: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("text", "label"),
        ("text", "labels"),
        ("sentence", "label"),
        ("sentence", "labels"),
    )
    yields: ClassVar[type] = Labelled

    @staticmethod
    def parse(record: dict[str, Any]) -> Labelled:
        text = "sentence" if record.get("text") is None and "sentence" in record else "text"
        key = "labels" if record.get("label") is None else "label"
        check_keys(record, known=(text, "pair", key), where=ROW)
        first, pair = filled_text_of(record, text), optional_text_of(record, "pair")
        value = record.get(key)
        if key == "label":
            return Labelled(first, pair, ((_label(value), 1.0),))
        if isinstance(value, dict):
            return Labelled(first, pair, _probabilities(value))
        names = [
            name_of(name, f"labels[{i}]") for i, name in enumerate(array_of(record, "labels", max_items=MAX_LABELS))
        ]
        if len(set(names)) < len(names):
            raise ValueError(f"'labels' names {next(n for n in names if names.count(n) > 1)!r} twice; name it once")
        return Labelled(first, pair, tuple((name, 1.0) for name in names), many=True)


def _label(value: object) -> str:
    if isinstance(value, list | dict):
        raise ValueError(f"'label' is {shown(value)}; give one name, or write several as 'labels'")
    if isinstance(value, float):
        raise ValueError(
            f"'label' is {shown(value)}; give a name or a whole number, or call it 'score' where a number is to be told"
        )
    return name_of(value, "'label'")


def _probabilities(labels: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    if len(labels) > MAX_LABELS:
        raise ValueError(f"'labels' has {len(labels)} classes; at most {MAX_LABELS} are allowed")
    found = [(name_of(name, "a key of 'labels'"), number_of(labels, name, where="'labels'")) for name in labels]
    total = sum(share for _, share in found)
    if any(share < 0 for _, share in found) or abs(total - 1) > TOLERANCE:
        raise ValueError(
            f"'labels' are probabilities that sum to {total:g}; give numbers from 0 that sum to 1, "
            "or an array of names where several classes apply"
        )
    return tuple((name, share / total) for name, share in found)
