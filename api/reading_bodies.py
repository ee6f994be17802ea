"""Requests for embeddings and classifications, field by field, and what of them a generator is asked."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictInt, Tag, field_validator

from api.generation_bodies import Ids, Text, turns_of
from core.reading_request import (
    MAX_INPUTS,
    ChatInput,
    CompletionInput,
    Input,
    QuestionInput,
    TextInput,
    TokenInput,
    WordInput,
)
from core.spec import Spec

Model = Annotated[Text, Field(min_length=1, max_length=512)]
Written = Annotated[Text, Field(min_length=1)]


def _no_empty_text(value: Any) -> Any:
    texts = value if isinstance(value, list) else [value]
    empty = next((i for i, text in enumerate(texts) if text == ""), None)
    if empty is not None:
        raise ValueError(f"text {empty} is empty; send at least one character" if len(texts) > 1 else "it is empty")
    return value


class EmbeddingBody(Spec):
    """`POST /v1/embeddings`."""

    model: Model
    input: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="only the first ones, at length 1 again; default: all"
    )
    truncate: StrictBool = Field(default=False, description="ours; drop the end of what is too long, not refuse it")
    user: Text | None = None

    _check = field_validator("input")(_no_empty_text)

    @property
    def inputs(self) -> tuple[Input, ...]:
        given: Any = self.input
        if isinstance(given, str) or isinstance(given[0], int):
            given = [given]
        return tuple(TextInput(text=one) if isinstance(one, str) else TokenInput(ids=tuple(one)) for one in given)


class PairItem(Spec):
    """A text, or two that the model reads together."""

    text: Written
    text_pair: Written | None = None

    @property
    def asked(self) -> Input:
        return TextInput(text=self.text, pair=self.text_pair)


class WordsItem(Spec):
    """A text that is cut into words already, for taggers."""

    words: Annotated[list[Written], Field(min_length=1, max_length=65536)]

    @property
    def asked(self) -> Input:
        return WordInput(words=tuple(self.words))


class QuestionItem(Spec):
    """A question and the text that may answer it."""

    question: Written
    context: Written

    @property
    def asked(self) -> Input:
        return QuestionInput(question=self.question, context=self.context)


class CompletionItem(Spec):
    """A prompt and an answer to it, for reward models."""

    prompt: Text
    completion: Written

    @property
    def asked(self) -> Input:
        return CompletionInput(prompt=self.prompt, completion=self.completion)


class ChatItem(Spec):
    """A chat that ends with the answer to be scored, for reward models."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]

    @property
    def asked(self) -> Input:
        """
        Raises:
            InvalidRequest: a message is not one, or holds what is not text.
        """
        return ChatInput(messages=turns_of(self.messages))


def _shape(item: Any) -> str:
    """Which of the items is meant, by its keys; one that has none of them is taken for a text."""
    if isinstance(item, str):
        return "String"
    keys = item if isinstance(item, Mapping) else vars(item) if isinstance(item, Spec) else ()
    named = (("messages", "Chat"), ("completion", "Completion"), ("prompt", "Completion"), ("words", "Words"),
             ("question", "Question"), ("context", "Question"))  # fmt: skip
    return next((shape for key, shape in named if key in keys), "Pair")


Item = Annotated[
    Annotated[Text, Tag("String")]
    | Annotated[PairItem, Tag("Pair")]
    | Annotated[WordsItem, Tag("Words")]
    | Annotated[QuestionItem, Tag("Question")]
    | Annotated[CompletionItem, Tag("Completion")]
    | Annotated[ChatItem, Tag("Chat")],
    Discriminator(_shape),
]


Items = Annotated[
    Annotated[list[Item], Field(min_length=1, max_length=MAX_INPUTS), Tag("List")] | Annotated[Item, Tag("One")],
    Discriminator(lambda value: "List" if isinstance(value, list) else "One"),
]


class ClassificationBody(Spec):
    """`POST /v1/classifications`."""

    model: Model
    input: Items = Field(
        description="a string (for masked language models with [MASK] in it); {text, text_pair}; for taggers also "
        "{words}; for models that answer questions {question, context}; for reward models {messages} or "
        "{prompt, completion}; or a list of these"
    )
    top_k: Annotated[StrictInt, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="at most so many labels, answers, or tokens for a mask; default: all labels, 3 of the others",
    )
    truncate: StrictBool = Field(
        default=False,
        description="drop the end of what is too long, not refuse it; texts to tag, and contexts, have no limit",
    )
    user: Text | None = None

    _check = field_validator("input")(_no_empty_text)

    @property
    def inputs(self) -> tuple[Input, ...]:
        items = self.input if isinstance(self.input, list) else [self.input]
        return tuple(TextInput(text=item) if isinstance(item, str) else item.asked for item in items)
