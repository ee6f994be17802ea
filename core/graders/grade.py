"""What every grader takes and gives, and what can go wrong in between."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import StringConstraints

from core.data.records import check_depth, parse_json
from core.spec import Spec

if TYPE_CHECKING:
    from core.graders.sandbox import Sandbox

Item = Mapping[str, Any]
"""the fields of a row of data besides its messages"""
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
ErrorName = Literal[
    "formula_parse_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
]
"""OpenAI's names of what can go wrong, without those that only a grading model can cause"""


@dataclass(frozen=True)
class Sample:
    """What a model answered."""

    output_text: str

    @property
    def output_json(self) -> Any:
        """The answer as JSON.

        Raises:
            ValueError: it is none.
        """
        value = parse_json(self.output_text)
        check_depth(value, where="the answer")
        return value


@dataclass(frozen=True)
class GradingError:
    name: ErrorName
    details: str


class Ungradable(Exception):
    """This sample got no score."""

    def __init__(self, name: ErrorName, details: str) -> None:
        super().__init__(details)
        self.error = GradingError(name, details)


@dataclass(frozen=True)
class Grade:
    score: float
    """0 where there is an error"""
    sub_scores: dict[str, float] = field(default_factory=dict)
    """of the graders that a `multi` combines, by their names in its formula"""
    errors: tuple[GradingError, ...] = ()


class GraderSpec(Spec):
    """What the user says of a grader. Each kind adds `type`, its fields and `grade`."""

    name: Name

    @abstractmethod
    def grade(self, sample: Sample, item: Item, sandbox: "Sandbox") -> Grade:
        """The same for the same arguments. Foreign code runs in the sandbox and nowhere else."""

    def item_fields(self) -> frozenset[str]:
        """Names that every item must have, as far as the spec tells."""
        return frozenset()

    @property
    def runs_code(self) -> bool:
        return False


class SingleGrader(GraderSpec):
    """A grader that is not made of others."""

    @abstractmethod
    def score(self, sample: Sample, item: Item, sandbox: "Sandbox") -> float:
        """A finite number.

        Raises:
            Ungradable: there is none, and why.
        """

    def grade(self, sample: Sample, item: Item, sandbox: "Sandbox") -> Grade:
        try:
            return Grade(self.score(sample, item, sandbox))
        except Ungradable as ungradable:
            return Grade(0.0, errors=(ungradable.error,))
