"""Text with places to fill: `{{item.answer}}`, `{{sample.output_text}}`, `{{sample.output_json.steps[0].result}}`.

Nothing else is known between the braces: no expressions, no filters, no loops. What is filled in is never looked at
again, so a sample that contains braces stays as it is. Texts are filled in as they are, anything else as JSON.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from core.graders.grade import Item, Sample, Ungradable

MAX_TEMPLATE_CHARACTERS = 1 << 16
MAX_CHARACTERS = 100_000
"""of a filled template"""
SAMPLE_NAMES = ("output_text", "output_json")
_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAME = r"[^\W\d][\w-]*"
_STEP = re.compile(rf"""\.({_NAME})|\[(\d{{1,9}})\]|\[(?:"([^"\]]*)"|'([^'\]]*)')\]""")
_PATH = re.compile(rf"(item|sample)((?:{_STEP.pattern})+)")

Path = tuple[str | int, ...]


def check(template: str) -> str:
    """
    Raises:
        ValueError: a place names something that there never is.
    """
    for match in _PLACE.finditer(template):
        _path(match[1])
    outside = _PLACE.sub("", template)
    if "{{" in outside or "}}" in outside:
        raise ValueError("a `{{` has no `}}`, or the other way round; write {{item.field}} or {{sample.output_text}}")
    return template


Template = Annotated[str, StringConstraints(max_length=MAX_TEMPLATE_CHARACTERS), AfterValidator(check)]


def item_fields(*templates: str) -> frozenset[str]:
    """Names that an item must have."""
    paths = (_path(match[1]) for template in templates for match in _PLACE.finditer(template))
    return frozenset(str(path[1]) for path in paths if path[0] == "item")


def render(template: str, sample: Sample, item: Item) -> str:
    """
    Raises:
        Ungradable: the item or the sample has not what a place names, or the text gets too long.
    """
    parts: list[str] = []
    size = at = 0
    for match in _PLACE.finditer(template):
        parts += [template[at : match.start()], _value(_path(match[1]), sample, item)]
        size, at = size + len(parts[-2]) + len(parts[-1]), match.end()
        if size > MAX_CHARACTERS:
            break
    parts.append(template[at:])
    if size + len(parts[-1]) > MAX_CHARACTERS:
        raise Ungradable("other_error", f"the filled template has more than {MAX_CHARACTERS} characters")
    return "".join(parts)


def _path(place: str) -> Path:
    """`item.a[0]` as ("item", "a", 0)."""
    found = _PATH.fullmatch(place.strip())
    if found is None:
        raise ValueError(
            f"{{{{{place[:80]}}}}} is no place to fill; allowed are {{{{item.field}}}}, {{{{sample.output_text}}}} and "
            "{{sample.output_json.field}}, with further .name, [0] or ['name']"
        )
    steps = tuple(
        int(number) if number else name or double or single for name, number, double, single in _STEP.findall(found[2])
    )
    if found[1] == "sample" and (steps[0] not in SAMPLE_NAMES or (steps[0] == "output_text" and len(steps) > 1)):
        raise ValueError(
            f"{{{{{place[:80]}}}}}: a sample has {' and '.join(SAMPLE_NAMES)}; the first is text without fields"
        )
    if found[1] == "item" and isinstance(steps[0], int):
        raise ValueError(f"{{{{{place[:80]}}}}}: an item has fields with names, not numbers")
    return (found[1], *steps)


def _value(path: Path, sample: Sample, item: Item) -> str:
    root, first, *rest = path
    value: Any
    if root == "item":
        value = _step(item, first, "item")
    elif first == "output_text":
        value = sample.output_text
    else:
        try:
            value = sample.output_json
        except ValueError as error:
            raise Ungradable("sample_parse_error", f"the sample is not JSON: {error}") from None
    where = f"{root}.{first}"
    for step in rest:
        value = _step(value, step, where)
        where += f"[{step!r}]" if isinstance(step, int) else f".{step}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _step(value: Any, step: str | int, where: str) -> Any:
    if isinstance(value, Mapping) and step in value:
        return value[step]
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    if isinstance(value, Mapping):
        what = f"it has {', '.join(map(str, value))[:200] or 'no fields'}"
    else:
        what = f"it is an array of {len(value)}" if isinstance(value, list) else "it is no object"
    raise Ungradable("invalid_variable_error", f"`{where}` has no {step!r}: {what}")
