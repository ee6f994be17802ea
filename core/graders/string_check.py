"""Grader `string_check`: 1 if a text is, is not, or contains another; else 0."""

from typing import Literal

from core.graders import template
from core.graders.grade import Item, Sample, SingleGrader
from core.graders.sandbox import Sandbox
from core.graders.template import Template


class StringCheck(SingleGrader):
    """Compares two texts letter by letter; nothing is trimmed."""

    type: Literal["string_check"] = "string_check"
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]
    """`eq`: equal; `ne`: not equal; `like`: the input contains the reference; `ilike`: so it does without regard to
    upper and lower case"""

    def score(self, sample: Sample, item: Item, sandbox: Sandbox) -> float:
        text = template.render(self.input, sample, item)
        reference = template.render(self.reference, sample, item)
        match self.operation:
            case "eq":
                return float(text == reference)
            case "ne":
                return float(text != reference)
            case "like":
                return float(reference in text)
            case "ilike":
                return float(reference.casefold() in text.casefold())

    def item_fields(self) -> frozenset[str]:
        return template.item_fields(self.input, self.reference)
