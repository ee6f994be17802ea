"""Dataset formats: how one record of a file is read. One file each; this dict is the list.

A format is a class with `kind`, `keys` (sets of keys, each of which makes a record one of it), `yields` (an example
type) and `parse(record) -> Example`, which raises `ValueError` with what is wrong, what is allowed and what to do. The
same `parse` validates an upload and feeds training.
"""

from typing import Any, ClassVar, Literal, Protocol

from core.data.examples import Example
from core.data.formats.alpaca import Alpaca
from core.data.formats.chat import Chat
from core.data.formats.graded import Graded
from core.data.formats.kto import KTO
from core.data.formats.labelled import LabelledFormat
from core.data.formats.preference import PreferenceFormat
from core.data.formats.prompt_completion import PromptCompletionFormat
from core.data.formats.question import QuestionFormat
from core.data.formats.scored import ScoredFormat
from core.data.formats.sharegpt import ShareGPT
from core.data.formats.similar import SimilarFormat
from core.data.formats.tagged import TaggedFormat
from core.data.formats.text import Text
from core.data.formats.text_pair import TextPairFormat


class Format(Protocol):
    """What the classes of this folder have in common."""

    kind: ClassVar[str]
    keys: ClassVar[tuple[tuple[str, ...], ...]]
    yields: ClassVar[type]

    @staticmethod
    def parse(record: dict[str, Any]) -> Example: ...


FormatName = Literal[
    "text",
    "chat",
    "prompt_completion",
    "preference",
    "kto",
    "alpaca",
    "sharegpt",
    "labelled",
    "scored",
    "text_pair",
    "tagged",
    "question",
    "similar",
    "graded",
]
FORMATS: dict[FormatName, type[Format]] = {
    "text": Text,
    "chat": Chat,
    "prompt_completion": PromptCompletionFormat,
    "preference": PreferenceFormat,
    "kto": KTO,
    "alpaca": Alpaca,
    "sharegpt": ShareGPT,
    "labelled": LabelledFormat,
    "scored": ScoredFormat,
    "text_pair": TextPairFormat,
    "tagged": TaggedFormat,
    "question": QuestionFormat,
    "similar": SimilarFormat,
    "graded": Graded,
}
