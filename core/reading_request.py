"""What the api asks of a model that says something of texts (embeddings, labels, tags, answers, scores), and what it
answers: one `ReadingRequest`, one `Readings`. The same classes on both sides; no torch, no HTTP."""

from typing import Annotated, Literal

from pydantic import Field

from core.generation_request import Message, ServedModel
from core.spec import Spec

MAX_INPUTS = 2048
Ids = tuple[Annotated[int, Field(ge=0)], ...]


class TextInput(Spec):
    """A text, or two that are read together."""

    kind: Literal["text"] = "text"
    text: str
    pair: str | None = None


class TokenInput(Spec):
    """A text as ids of the model's own tokenizer."""

    kind: Literal["tokens"] = "tokens"
    ids: Ids = Field(min_length=1)


class WordInput(Spec):
    """A text that is cut into words already."""

    kind: Literal["words"] = "words"
    words: tuple[str, ...] = Field(min_length=1)


class QuestionInput(Spec):
    """A question, and the text in which its answer may stand."""

    kind: Literal["question"] = "question"
    question: str
    context: str


class CompletionInput(Spec):
    """An answer to be scored, with the prompt before it."""

    kind: Literal["completion"] = "completion"
    prompt: str
    completion: str


class ChatInput(Spec):
    """A chat whose last message is the answer to be scored."""

    kind: Literal["chat"] = "chat"
    messages: tuple[Message, ...] = Field(min_length=1, max_length=4096)


Input = Annotated[
    TextInput | TokenInput | WordInput | QuestionInput | CompletionInput | ChatInput, Field(discriminator="kind")
]


class ReadingRequest(Spec):
    """All inputs are read as one batch."""

    model: ServedModel
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=MAX_INPUTS)
    truncate: bool = False
    """drop the end of what is longer than the model's context; else that is an error"""
    dimensions: int | None = Field(default=None, ge=1)
    """of embeddings: only the first ones, at length 1 again"""
    window: int | None = Field(default=None, ge=8)
    """tokens of the pieces in which long texts are tagged or searched for answers; default: the context. What a model
    was trained on is what it knows best"""
    max_answers: int = Field(default=3, ge=1, le=100)
    """to each question, or for each hidden token"""


class Embedding(Spec):
    kind: Literal["embedding"] = "embedding"
    vector: str
    """base64 of float32, little-endian; of length 1"""


class Label(Spec):
    label: str
    score: float
    """probability"""


class Labels(Spec):
    """Every label of the model, the likeliest first: of one label they sum to 1, of many each is a yes or no."""

    kind: Literal["labels"] = "labels"
    labels: tuple[Label, ...]


class Score(Spec):
    kind: Literal["score"] = "score"
    score: float


class Word(Spec):
    """A word and its tag; no tag where nothing of the word is a token. `start` and `end` are characters."""

    text: str
    start: int
    end: int
    label: str | None
    score: float | None


class Span(Spec):
    """Words that the tags join: B-X and the I-X that follow. `score` is the mean of its words'."""

    label: str
    text: str
    start: int
    end: int
    first_word: int
    last_word: int
    score: float


class Tags(Spec):
    kind: Literal["tags"] = "tags"
    words: tuple[Word, ...]
    spans: tuple[Span, ...]


class Answer(Spec):
    """`text == context[start:end]`; without a place: the text does not answer the question."""

    text: str
    start: int | None
    end: int | None
    score: float


class Answers(Spec):
    """The best first."""

    kind: Literal["answers"] = "answers"
    answers: tuple[Answer, ...]


class Guess(Spec):
    token: str
    score: float


class Mask(Spec):
    """An open place of a text, in characters, and which tokens are the likeliest there."""

    start: int
    end: int
    tokens: tuple[Guess, ...]


class Masks(Spec):
    kind: Literal["masks"] = "masks"
    masks: tuple[Mask, ...]


Reading = Annotated[Embedding | Labels | Score | Tags | Answers | Masks, Field(discriminator="kind")]


class Readings(Spec):
    """One for each input, in order."""

    readings: tuple[Reading, ...]
    num_tokens: int
    """read in all, with what stands around texts"""
