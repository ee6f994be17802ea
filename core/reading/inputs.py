"""Inputs as tokens, as training reads whole texts; what is too long is refused, or cut where that is wanted."""

from collections.abc import Sequence
from dataclasses import replace

from core.data.encodings.encoder import Encoder
from core.data.encodings.preference import answers
from core.data.encodings.reading import fitted, read_as, room
from core.data.examples import Conversation, PromptCompletion
from core.errors import InvalidData, InvalidRequest
from core.generation_request import conversation_of
from core.reading.reader import Reader
from core.reading_request import ChatInput, CompletionInput, Input, ReadingRequest, TextInput, TokenInput


def rows(reader: Reader, request: ReadingRequest) -> list[list[int]]:
    """Of each input, the ids that the model reads.

    Raises:
        InvalidRequest: an input of another kind, an id that does not exist, or a text that is too long.
    """
    texts = _Texts(reader.encoder(), [*request.inputs])
    return [
        _scored(reader, given, param_of(request, i))
        if isinstance(given, ChatInput | CompletionInput)
        else _read(reader, texts.ids(given, reader, param_of(request, i)), request, param_of(request, i))
        for i, given in enumerate(request.inputs)
    ]


def param_of(request: ReadingRequest, i: int) -> str:
    return "input" if len(request.inputs) == 1 else f"input.{i}"


def refuse_kind(wanted: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: this model reads {wanted}.", code="wrong_input", param=param)


def too_long(param: str, what: str, tokens: int, most: int, *, hint: str | None = None) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: {what} has {tokens} tokens; this model reads {most} at most.",
        code="context_length_exceeded",
        param=param,
        hint=hint or "Shorten it, or set `truncate` to true: then its end is left out.",
    )


class _Texts:
    """All texts of a request, tokenized together."""

    def __init__(self, encoder: Encoder, inputs: Sequence[Input]) -> None:
        given = [one for one in inputs if isinstance(one, TextInput)]
        texts = dict.fromkeys(text for one in given for text in (one.text, one.pair) if text is not None)
        self._ids = dict(zip(texts, encoder.tokenizer.encode_batch(list(texts)), strict=True))

    def ids(self, given: Input, reader: Reader, param: str) -> tuple[list[int], list[int] | None]:
        """Of the text and of its pair."""
        match given:
            case TextInput(text=text, pair=pair):
                return self._ids[text], None if pair is None else self._ids[pair]
            case TokenInput(ids=ids):
                if max(ids) >= reader.config.vocab_size:
                    raise InvalidRequest(
                        f"{param}: token id {max(ids)} does not exist; this model's ids are 0 to "
                        f"{reader.config.vocab_size - 1}.",
                        param=param,
                    )
                return list(ids), None
        raise refuse_kind("texts: send a string, or {text, text_pair}", param)


def _read(reader: Reader, texts: tuple[list[int], list[int] | None], request: ReadingRequest, param: str) -> list[int]:
    first, second = texts
    kept_first, kept_second, is_cut = fitted(reader.encoder(), first, second)
    if is_cut and not request.truncate:
        most = room(reader.encoder(), texts=1 if second is None else 2)
        assert most is not None
        raise too_long(param, "the text", len(first) + len(second or []), most)
    return read_as(reader.encoder(), kept_first, kept_second).ids


def _scored(reader: Reader, given: ChatInput | CompletionInput, param: str) -> list[int]:
    """An answer with what stands before it, as reward models learn them."""
    if reader.config.head != "score" or reader.config.kind != "decoder":
        raise refuse_kind("texts: send a string, or {text, text_pair}", param)
    example: Conversation | PromptCompletion
    if isinstance(given, CompletionInput):
        example = PromptCompletion(given.prompt, given.completion)
    else:
        *before, last = conversation_of(given.messages).turns
        if last.role != "assistant":
            raise InvalidRequest(
                f"{param}: the last message is the {last.role}'s; an answer of the assistant is what is scored.",
                param=f"{param}.messages",
            )
        example = Conversation((*before, replace(last, weight=1.0)))
    try:
        [sequence] = answers([example], reader.encoder())
    except InvalidData as error:
        raise InvalidRequest(error.message, code=error.code, param=param, hint=error.hint) from None
    most = reader.config.context_length
    if len(sequence.ids) > most:
        raise too_long(param, "the conversation", len(sequence.ids), most, hint="Leave out what was said first.")
    return sequence.ids
