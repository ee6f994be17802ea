"""Validation of a whole file: the report that a user reads before any training starts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from core.data.examples import Conversation, Example, Judged, Labelled, Preference, TextPair
from core.data.formats import FormatName
from core.data.reader import BadLine, parse, read_records
from core.data.tally import Facts, Tally
from core.errors import InvalidData
from core.spec import Spec

MAX_SHOWN = 100
MAX_MESSAGE_CHARACTERS = 500


class LineError(Spec):
    line: int
    message: str


class Report(Spec):
    filename: str
    format: FormatName
    num_examples: int
    """rows that can be used"""
    num_errors: int
    errors: tuple[LineError, ...]
    """the first of them"""
    num_characters: int
    """of text that the model will see, templates excluded"""
    variant: str = ""
    """which of the format's ways to write a row all rows use, where that matters"""
    facts: Facts = Field(default_factory=dict)
    """what else there is to know, by name: mean characters of each part, classes or tags, messages by role, …"""

    def error(self) -> InvalidData | None:
        """What stands between this file and training; None when nothing does."""
        if self.num_errors:
            shown = "; ".join(f"line {e.line}: {e.message}" for e in self.errors[:3])
            more = f" (and {self.num_errors - 3} more)" if self.num_errors > 3 else ""
            rows = self.num_errors + self.num_examples
            return InvalidData(
                f"{self.filename} {shown}{more}",
                hint=f"{self.num_errors} of {rows} rows cannot be used; correct or remove them",
                param=self.filename,
                line_errors=[(e.line, e.message) for e in self.errors],
            )
        if not self.num_examples:
            return InvalidData(
                f"{self.filename} is empty", code="empty_file", hint="upload a file with at least one row"
            )
        return None


def check_file(
    path: Path, filename: str, format: FormatName, *, progress: Callable[[float], None] | None = None
) -> Report:
    """Parse every row.

    Raises:
        InvalidData: the file as a whole is nothing that can be read.
    """
    tally = Tally()
    errors: list[LineError] = []
    num_errors = 0
    variant: str | None = None
    for line, record in read_records(path, filename, progress=progress):
        try:
            if isinstance(record, BadLine):
                raise ValueError(record.message)
            example = parse(record, format)
            variant = _variant(record, example) if variant is None else variant
            _check_variant(_variant(record, example), variant)
            tally.add(example)
        except ValueError as error:
            num_errors += 1
            if len(errors) < MAX_SHOWN:
                errors.append(LineError(line=line, message=str(error)[:MAX_MESSAGE_CHARACTERS]))
    return Report(
        filename=filename,
        format=format,
        num_examples=tally.num_examples,
        num_errors=num_errors,
        errors=tuple(errors),
        num_characters=tally.num_characters,
        variant=variant or "",
        facts=tally.facts(),
    )


def _variant(record: Mapping[str, Any], example: Example) -> str:
    """What all rows of a file have in common besides their format."""
    match example:
        case Preference(answered) | Judged(answered):
            return "messages" if isinstance(answered, Conversation) else "strings"
        case Labelled(many=many):
            return "all labels that apply" if many else "one label"
        case TextPair() if record.get("translation"):
            return " to ".join(record["translation"])
    return ""


def _check_variant(variant: str, first: str) -> None:
    if variant != first:
        raise ValueError(
            f"the row has {variant}, the first row has {first}; one file holds one of the two: "
            "write all rows in one way, or put these into a file of their own"
        )
