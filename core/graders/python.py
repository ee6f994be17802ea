"""Grader `python`: a function `grade(sample, item)` of the user's own, run in a sandbox."""

import ast
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from core.graders.grade import Item, Sample, SingleGrader
from core.graders.sandbox import Sandbox

MAX_SOURCE_CHARACTERS = 1 << 18


def _check_source(source: str) -> str:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is not Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is not Python: {error}") from None
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "grade"]
    if not found:
        raise ValueError("it defines no function `grade`; write `def grade(sample, item):` that returns a number")
    arguments = found[-1].args
    given = [*arguments.posonlyargs, *arguments.args]
    needed = len(given) - len(arguments.defaults)
    if needed > 2 or (len(given) < 2 and arguments.vararg is None):
        raise ValueError("`grade` must take two arguments: the sample and the item")
    return source


class Python(SingleGrader):
    """`grade` gets `sample` (a dict with `output_text` and `output_json`, which is None where the text is not JSON) and
    `item` (a dict of the row's other fields), and returns a number. It has no network, no files but Python's own
    packages, one thread, ten seconds and one gigabyte."""

    type: Literal["python"] = "python"
    source: Annotated[str, StringConstraints(max_length=MAX_SOURCE_CHARACTERS), AfterValidator(_check_source)]
    image_tag: str | None = Field(
        default=None, max_length=256, description="accepted for OpenAI's sake; there is one image, this Python"
    )

    def score(self, sample: Sample, item: Item, sandbox: Sandbox) -> float:
        return sandbox.run(self.source, sample, item)

    @property
    def runs_code(self) -> bool:
        return True
