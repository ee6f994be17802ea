"""Validation of a whole file: the report that a user reads before any training starts."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from core.data.examples import Conversation, Example, characters
from core.data.formats import FormatName
from core.data.reader import BadLine, parse, read_records
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
    num_turns: int = 0
    num_learned_turns: int = 0
    roles: dict[str, int] = Field(default_factory=dict)
    """messages by role"""
    num_with_tools: int = 0

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
    errors: list[LineError] = []
    counts: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    for line, record in read_records(path, filename, progress=progress):
        try:
            if isinstance(record, BadLine):
                raise ValueError(record.message)
            _count(parse(record, format), counts, roles)
        except ValueError as error:
            counts["errors"] += 1
            if len(errors) < MAX_SHOWN:
                errors.append(LineError(line=line, message=str(error)[:MAX_MESSAGE_CHARACTERS]))
    return Report(
        filename=filename,
        format=format,
        num_examples=counts["examples"],
        num_errors=counts["errors"],
        errors=tuple(errors),
        num_characters=counts["characters"],
        num_turns=roles.total(),
        num_learned_turns=counts["learned"],
        roles=dict(roles),
        num_with_tools=counts["tools"],
    )


def _count(example: Example, counts: Counter[str], roles: Counter[str]) -> None:
    counts["examples"] += 1
    counts["characters"] += characters(example)
    if isinstance(example, Conversation):
        roles.update(turn.role for turn in example.turns)
        counts["learned"] += sum(1 for turn in example.turns if turn.weight)
        counts["tools"] += bool(example.tools)
