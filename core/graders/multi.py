"""Grader `multi`: a formula over the scores of several graders."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from core.graders import formula
from core.graders.grade import Grade, GraderSpec, GradingError, Item, Sample, Ungradable
from core.graders.python import Python
from core.graders.sandbox import Sandbox
from core.graders.string_check import StringCheck
from core.graders.text_similarity import TextSimilarity

MAX_GRADERS = 10

Part = Annotated[StringCheck | TextSimilarity | Python, Field(discriminator="type")]
Identifier = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _by_name(given: Any) -> Any:
    """OpenAI's guide gives the graders by name, its reference as an array, its SDK's types as a single one."""
    parts = [given] if isinstance(given, Mapping) and isinstance(given.get("type"), str) else given
    if not isinstance(parts, list | tuple):
        return parts
    named: dict[str, Any] = {}
    for part in parts:
        name = part.get("name") if isinstance(part, Mapping) else getattr(part, "name", None)
        if not isinstance(name, str):
            raise ValueError("each grader needs a `name`, by which `calculate_output` calls it")
        if name in named:
            raise ValueError(f"two graders are called {name!r}; give each a name of its own")
        named[name] = part
    return named


class Multi(GraderSpec):
    """Its score is `calculate_output` of the others'; an error of one of them is an error of the whole."""

    type: Literal["multi"] = "multi"
    graders: Annotated[dict[Identifier, Part], BeforeValidator(_by_name), Field(min_length=1, max_length=MAX_GRADERS)]
    """by the names that the formula calls them; an array is taken too, by their own names"""
    calculate_output: Annotated[str, StringConstraints(max_length=formula.MAX_CHARACTERS)]
    """+ - * / ^, min, max, abs, sqrt, floor, ceil, exp, log"""

    @model_validator(mode="after")
    def _formula_fits(self) -> Self:
        try:
            needed = set(formula.names(formula.parse(self.calculate_output)))
        except ValueError as error:
            raise ValueError(f"calculate_output: {error}") from None
        unknown = sorted(needed - self.graders.keys())
        if unknown:
            raise ValueError(
                f"calculate_output names {', '.join(map(repr, unknown))}; the graders are {', '.join(self.graders)}"
            )
        return self

    def grade(self, sample: Sample, item: Item, sandbox: Sandbox) -> Grade:
        grades = {name: part.grade(sample, item, sandbox) for name, part in self.graders.items()}
        scores = {name: grade.score for name, grade in grades.items()}
        errors = tuple(
            GradingError(error.name, f"{name}: {error.details}")
            for name, grade in grades.items()
            for error in grade.errors
        )
        if errors:
            return Grade(0.0, scores, errors)
        try:
            return Grade(formula.evaluate(formula.parse(self.calculate_output), scores), scores)
        except Ungradable as ungradable:
            return Grade(0.0, scores, (ungradable.error,))

    def item_fields(self) -> frozenset[str]:
        return frozenset().union(*(part.item_fields() for part in self.graders.values()))

    @property
    def runs_code(self) -> bool:
        return any(part.runs_code for part in self.graders.values())
