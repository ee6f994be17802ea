"""What a line of training data means, before it becomes tokens. Formats yield these; objectives consume them."""

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
class TokenExample:
    """What every text example becomes: ids with a loss weight each. `weights[i]` is that of `ids[i]` as a target."""

    ids: list[int]
    weights: list[float]


Example = Document | Conversation | PromptCompletion
