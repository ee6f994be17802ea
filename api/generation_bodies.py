"""OpenAI's generation requests, field by field, and what of them a generator is asked.

A field that would change the answer but is not available here is refused by name, unless it holds the value at which it
does nothing. Fields that are for OpenAI's bookkeeping (`user`, `metadata`, cache keys) are accepted and do nothing.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StrictInt, StrictStr, ValidationInfo, field_validator, model_validator

from core.data.messages import conversation_of
from core.errors import InvalidRequest
from core.generation_request import MAX_CHOICES, Message, Prompt
from core.models.config import Kind
from core.sampling_params import SamplingParams
from core.spec import Spec

MAX_PROMPT_IDS = 1_048_576


def _only(*harmless: object) -> AfterValidator:
    def check(value: object) -> object:
        if value is not None and value not in harmless:
            raise ValueError("this is not available here; leave it out")
        return value

    return AfterValidator(check)


def _unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is not a character; send whole ones") from None
    return value


Text = Annotated[StrictStr, AfterValidator(_unicode)]
Absent = Annotated[Any, _only()]
Ids = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1, max_length=MAX_PROMPT_IDS)]
Stop = Text | Annotated[list[Text], Field(max_length=4)] | None


class StreamOptions(Spec):
    include_usage: bool = False
    include_obfuscation: Annotated[bool, _only(False)] = False


class _Sampled(Spec):
    """What both kinds of request have."""

    model: Annotated[Text, Field(min_length=1, max_length=512)]
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0)] | None = Field(default=None, description="ours; 0: no limit")
    n: Annotated[StrictInt, Field(ge=1, le=16)] | None = None
    stop: Stop = None
    seed: StrictInt | None = None
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    logit_bias: Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    num_beams: Annotated[StrictInt, Field(ge=1, le=16)] | None = Field(
        default=None, description="ours, for encoder-decoders; more than 1: beam search, `n` of them at most are given"
    )
    length_penalty: Annotated[float, Field(ge=-10.0, le=10.0)] | None = Field(
        default=None, description="ours, of beam search: scores are divided by length to this power; default: 1"
    )
    user: Text | None = None

    @field_validator("stream_options")
    @classmethod
    def _needs_a_stream(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and not info.data.get("stream"):
            raise ValueError("this needs `stream: true`; set it, or leave this out")
        return value

    @model_validator(mode="after")
    def _beams_do_not_draw(self) -> Self:
        if (self.num_beams or 1) == 1:
            if self.length_penalty is not None:
                raise ValueError("`length_penalty` needs `num_beams` of 2 or more; set it, or leave this out")
            return self
        harmless: dict[str, object] = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "presence_penalty": 0.0}
        harmless |= {"frequency_penalty": 0.0, "logit_bias": {}, "best_of": self.n}
        for name, value in harmless.items():
            if getattr(self, name, None) not in (None, value):
                raise ValueError(f"`{name}` has no meaning in beam search (`num_beams`); leave one of the two out")
        if getattr(self, "logprobs", None) not in (None, False) or type(getattr(self, "logprobs", None)) is int:
            raise ValueError("`logprobs` are not told of beam search (`num_beams`); leave one of the two out")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _sampling(self, **more: object) -> SamplingParams:
        """Nulls are defaults."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        names = ("temperature", "top_p", "top_k", "n", "seed", "presence_penalty", "frequency_penalty", "logit_bias",
                 "num_beams", "length_penalty")  # fmt: skip
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return SamplingParams.model_validate(given | {"stop": [text for text in stop if text]} | more)


class CompletionBody(_Sampled):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Annotated[StrictInt, Field(ge=1)] | None = None
    suffix: Annotated[Text | None, _only("")] = None

    @field_validator("best_of")
    @classmethod
    def _is_n(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value != (info.data.get("n") or 1):
            raise ValueError("another number than `n` is not available here; leave it out")
        return value

    @field_validator("prompt")
    @classmethod
    def _is_not_too_many(cls, value: Any, info: ValidationInfo) -> Any:
        count = 1 if isinstance(value, str) or isinstance(value[0], int) else len(value)
        if count * (info.data.get("n") or 1) > MAX_CHOICES:
            raise ValueError(f"prompts times `n` may be {MAX_CHOICES} at most; send fewer at once")
        return value

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return (prompt,)
        if isinstance(prompt[0], int):
            return (tuple(id for id in prompt if isinstance(id, int)),)
        return tuple(part if isinstance(part, str) else tuple(part) for part in prompt if not isinstance(part, int))

    def sampling(self, kind: Kind) -> SamplingParams:
        """What nobody asks more of ends after 16 tokens, as OpenAI's; an encoder-decoder's answer ends by itself."""
        usual = None if kind == "encoder_decoder" else 16
        max_tokens = usual if self.max_tokens is None else self.max_tokens
        return self._sampling(max_tokens=max_tokens, logprobs=self.logprobs, echo=bool(self.echo))


class ChatBody(_Sampled):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = Field(default=None, description="default: all that is left")
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None

    response_format: Annotated[Any, _only({"type": "text"})] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    reasoning_effort: Annotated[Any, _only("none")] = None
    verbosity: Annotated[Any, _only("medium")] = None
    modalities: Annotated[Any, _only(["text"])] = None
    audio: Absent = None
    prediction: Absent = None
    web_search_options: Absent = None
    moderation: Absent = None
    store: Annotated[Any, _only(False)] = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_options: Absent = None
    prompt_cache_retention: Absent = None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("this needs `logprobs: true`; set it, or leave this out")
        return value

    @field_validator("max_completion_tokens")
    @classmethod
    def _is_max_tokens(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_tokens") not in (None, value):
            raise ValueError("`max_tokens` says another number; give one of the two")
        return value

    def sampling(self, kind: Kind) -> SamplingParams:
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._sampling(max_tokens=self.max_completion_tokens or self.max_tokens, logprobs=logprobs)

    @property
    def turns(self) -> tuple[Message, ...]:
        """
        Raises:
            InvalidRequest: a message is not one, or holds what is not text.
        """
        return turns_of(self.messages)


class TokenizeBody(Spec):
    """`POST /v1/tokenize`: a text, or the messages of a chat."""

    model: Annotated[Text, Field(min_length=1, max_length=512)]
    text: Text | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either `text` or `messages`, and not both")
        return self


def turns_of(messages: list[dict[str, Any]]) -> tuple[Message, ...]:
    """Read a chat by the same function that reads training data."""
    try:
        turns = conversation_of({"messages": messages}).turns
    except ValueError as error:
        raise InvalidRequest(str(error), param="messages") from None
    return tuple(
        Message(
            role=turn.role,
            content=turn.content,
            name=turn.name,
            tool_calls=turn.tool_calls,
            tool_call_id=turn.tool_call_id,
        )
        for turn in turns
    )
