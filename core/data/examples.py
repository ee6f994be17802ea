"""What a line of training data means, before it becomes tokens. Formats yield these; objectives consume them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Document:
    """Plain text; every token is learned."""

    text: str


@dataclass(frozen=True)
class Turn:
    """One message. `weight` is 0 or 1 and is only ever 1 on assistant turns."""

    role: Role
    content: str
    weight: float = 0.0
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Conversation:
    """A chat; rendered by the model's chat template, learned on weighted assistant turns."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class PromptCompletion:
    """Text and its continuation, without a chat template; only the completion is learned."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Preference:
    """Two answers to the same prompt, of which the chosen one is better. Both are of one type."""

    chosen: Conversation | PromptCompletion
    rejected: Conversation | PromptCompletion


@dataclass(frozen=True)
class Judged:
    """An answer that somebody found good or bad."""

    example: Conversation | PromptCompletion
    is_good: bool


@dataclass(frozen=True)
class Labelled:
    """A text, or two that belong together, with its classes by name."""

    text: str
    pair: str | None
    labels: tuple[tuple[str, float], ...]
    """each class with its probability: one of 1, or several that sum to 1; where `many`, each that applies with 1"""
    many: bool = False
    """each class is a yes or no of its own; none may apply"""


@dataclass(frozen=True)
class Scored:
    """A text, or two that belong together, with a number."""

    text: str
    pair: str | None
    value: float


@dataclass(frozen=True)
class Tagged:
    """Words with a tag each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question whose answer stands in the context: `context[start : start + len(answer)] == answer`.

    Where the context does not answer it, `answer` is empty and `start` -1.
    """

    question: str
    context: str
    answer: str
    start: int
    """in characters"""


@dataclass(frozen=True)
class TextPair:
    """A text and what is to be made of it: its translation, its summary."""

    source: str
    target: str


@dataclass(frozen=True)
class Similar:
    """Two texts that mean the same, and maybe one that does not although it looks like it."""

    anchor: str
    positive: str
    negative: str | None = None


@dataclass(frozen=True)
class GradedPrompt:
    """A conversation that ends with the user's turn; the model's answer is judged by graders."""

    conversation: Conversation
    item: dict[str, Any]
    """what graders may look at: the other keys of the row, `reference_answer` among them"""


@dataclass(frozen=True)
class TokenSequence:
    """Ids with a loss weight each. `weights[i]` is that of `ids[i]` as a target; `targets[i]`, where it is not
    `ids[i]` itself that is learned there (a tag)."""

    ids: list[int]
    weights: list[float]
    targets: list[int] | None = None


@dataclass(frozen=True)
class TokenExample:
    """What every example becomes: one sequence, or several that lie in lanes of their own (source and target, chosen
    and rejected, anchor and positive), and what is to be known of the whole."""

    sequences: tuple[TokenSequence, ...]
    labels: tuple[float, ...] = ()
    """class probabilities, a value, a span: of the same width in a whole dataset"""
    item: str = ""
    """JSON, for who judges answers"""
    is_cut: bool = False
    """some of its text did not fit"""

    @classmethod
    def of(cls, ids: list[int], weights: list[float]) -> "TokenExample":
        """One sequence."""
        return cls((TokenSequence(ids, weights),))


Example = (
    Document
    | Conversation
    | PromptCompletion
    | Preference
    | Judged
    | Labelled
    | Scored
    | Tagged
    | Question
    | TextPair
    | Similar
    | GradedPrompt
)


def texts_of(example: Example) -> list[str]:
    """All that a model will see of it, templates excluded."""
    match example:
        case Document(text):
            return [text]
        case Conversation(turns):
            return [turn.content for turn in turns]
        case PromptCompletion(prompt, completion):
            return [prompt, completion]
        case Preference(chosen, rejected):
            return [*texts_of(chosen), *texts_of(rejected)]
        case Judged(answered) | GradedPrompt(answered):
            return texts_of(answered)
        case Labelled(text, pair) | Scored(text, pair):
            return [text] if pair is None else [text, pair]
        case Tagged(words):
            return [*words]
        case Question(question, context):
            return [question, context]
        case TextPair(source, target):
            return [source, target]
        case Similar(anchor, positive, negative):
            return [anchor, positive] if negative is None else [anchor, positive, negative]


def characters(example: Example) -> int:
    return sum(map(len, texts_of(example)))


def labels_of(example: Example) -> Iterable[str]:
    """Names of the classes or tags that the example has, the same name as often as it stands there."""
    match example:
        case Labelled(labels=labels):
            return [name for name, _ in labels]
        case Tagged(tags=tags):
            return tags
    return ()
