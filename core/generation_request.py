"""What the api asks a generator and what it answers: one `GenerationRequest`, then a stream of `Answer` lines (NDJSON).
The same classes on both sides; no torch, no HTTP."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from core.data.examples import Conversation, Role, Turn
from core.sampling_params import SamplingParams
from core.spec import Spec

Prompt = str | tuple[Annotated[int, Field(ge=0)], ...]
MAX_CHOICES = 128
"""prompts times `n` of one request"""


class StoredModel(Spec):
    """A model by the place where it lies."""

    storage_key: str
    manifest_sha256: str


class ServedModel(StoredModel):
    """`id` is its resolved name."""

    id: str
    base: StoredModel | None = None
    """of an adapter: the model that it stands on"""


class Message(Spec):
    """One turn of a chat, as the template sees it."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None


class GenerationRequest(Spec):
    """Either `prompts` or `messages`. `sampling.max_tokens` None means: all that is left of the context."""

    id: str
    model: ServedModel
    prompts: tuple[Prompt, ...] = Field(default=(), max_length=MAX_CHOICES)
    messages: tuple[Message, ...] = Field(default=(), max_length=4096)
    tools: tuple[dict[str, Any], ...] = Field(default=(), max_length=128)
    sampling: SamplingParams

    @model_validator(mode="after")
    def _prompts_or_messages(self) -> Self:
        if bool(self.prompts) == bool(self.messages):
            raise ValueError("give either `prompts` or `messages`, and not both")
        if len(self.prompts) * self.sampling.n > MAX_CHOICES:
            raise ValueError(
                f"{len(self.prompts)} prompts with n = {self.sampling.n} are more than {MAX_CHOICES} answers"
            )
        return self

    @property
    def conversation(self) -> Conversation:
        return conversation_of(self.messages, self.tools)


class TokenizeRequest(Spec):
    """The ids of a text or of a rendered chat."""

    model: ServedModel
    text: str | None = None
    messages: tuple[Message, ...] = Field(default=(), max_length=4096)
    tools: tuple[dict[str, Any], ...] = Field(default=(), max_length=128)

    @property
    def conversation(self) -> Conversation:
        return conversation_of(self.messages, self.tools)


def conversation_of(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> Conversation:
    return Conversation(turns=tuple(Turn(**message.model_dump()) for message in messages), tools=tools)


class TokenIds(Spec):
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    context_length: int


class ScoredToken(Spec):
    """A token and the natural logarithm of its probability under the model: before temperature, penalties and bias.

    `logprob` is None for the first token of a prompt, which nothing stands before. A special token has a name, and no
    bytes in the text.
    """

    token: str
    bytes: tuple[int, ...]
    logprob: float | None


class Scores(ScoredToken):
    """The token that was taken and the most probable ones at its place."""

    top: tuple[ScoredToken, ...] = ()


class Token(Spec):
    """One token of answer number `choice` (prompt by prompt, `n` each). `text` is what it adds: nothing while a
    character is not whole. What may become a stop string waits."""

    kind: Literal["token"] = "token"
    choice: int
    text: str
    scores: Scores | None = None


class Done(Spec):
    """Answer number `choice` is over: a stop string or stop token, or `max_tokens`."""

    kind: Literal["done"] = "done"
    choice: int
    finish_reason: Literal["stop", "length"]


class Usage(Spec):
    """The last line of a request that went well. Each prompt counts once, however many answers it has."""

    kind: Literal["usage"] = "usage"
    prompt_tokens: int
    completion_tokens: int


class Error(Spec):
    """The last line of a request that failed after it was admitted; also the body where it was not."""

    kind: Literal["error"] = "error"
    code: str
    message: str
    param: str | None = None
    hint: str | None = None
    retry_after_seconds: float | None = None


Answer = Annotated[Token | Done | Usage | Error, Field(discriminator="kind")]
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def parse_answer(line: str | bytes) -> Answer:
    """Read one line of a generator's answer."""
    return _ANSWER.validate_json(line)
