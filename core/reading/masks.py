"""What hidden tokens may be: the masked language model's own words, at each place that a text leaves open.

Legend: M open places of a text, V vocabulary.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from core.data.encodings.reading import read_as, room
from core.data.special_tokens import MASKS, SPARES
from core.data.tokenizer import Tokenizer
from core.errors import InvalidRequest
from core.reading.inputs import param_of, refuse_kind, too_long
from core.reading.reader import Reader
from core.reading_request import Guess, Input, Mask, Masks, Reading, ReadingRequest, TextInput

_MARKS = [name for name in MASKS if name not in SPARES]
"""how people write an open place, whatever the model's own mark is"""


@dataclass(frozen=True)
class Gapped:
    """A text with open places: its ids, and where the places stand: among them, and in characters."""

    ids: list[int]
    at: list[int]
    spans: list[tuple[int, int]]


def masks(reader: Reader, request: ReadingRequest) -> tuple[list[Reading], int]:
    texts = [_gapped(reader, given, param_of(request, i)) for i, given in enumerate(request.inputs)]
    hidden = reader.hidden_at([text.ids for text in texts], [text.at for text in texts])
    readings: list[Reading] = []
    for text, hidden_MD in zip(texts, hidden, strict=True):
        logits_MV = reader.model.logits(hidden_MD).float()
        guesses = _likeliest(logits_MV, request.max_answers, reader.tokenizer)
        found = zip(text.spans, guesses, strict=True)
        readings.append(Masks(masks=tuple(Mask(start=a, end=b, tokens=tokens) for (a, b), tokens in found)))
    return readings, sum(len(text.ids) for text in texts)


def _gapped(reader: Reader, given: Input, param: str) -> Gapped:
    """
    Raises:
        InvalidRequest: the text has no open place, or is too long (cutting it might cut off the place).
    """
    tokenizer = reader.tokenizer
    if not isinstance(given, TextInput) or given.pair is not None:
        raise refuse_kind(f"one text at a time: send a string with {_MARKS[0]} in it", param)
    if tokenizer.mask is None:
        raise InvalidRequest("The model's tokenizer has no token that stands for a hidden one.", param="model")
    own = tokenizer.token_bytes(tokenizer.mask).decode()
    marks = list(re.compile("|".join(map(re.escape, (*_MARKS, own)))).finditer(given.text))
    if not marks:
        raise InvalidRequest(
            f"{param}: this model predicts hidden tokens; write {_MARKS[0]} where one is.",
            code="no_mask",
            param=param,
        )
    ids, at, begin = [], [], 0
    for mark in marks:
        ids += tokenizer.encode(given.text[begin : mark.start()], continues=begin > 0)
        at.append(len(ids))
        ids.append(tokenizer.mask)
        begin = mark.end()
    ids += tokenizer.encode(given.text[begin:], continues=True)
    most = room(reader.encoder())
    if most is not None and len(ids) > most:
        raise too_long(param, "the text", len(ids), most, hint="Shorten it.")
    framed = read_as(reader.encoder(), ids)
    before = framed.weights.index(1.0)
    return Gapped(framed.ids, [before + place for place in at], [mark.span() for mark in marks])


def _likeliest(logits_MV: Tensor, count: int, tokenizer: Tokenizer) -> Sequence[tuple[Guess, ...]]:
    best = logits_MV.softmax(-1).topk(min(count, logits_MV.shape[-1]))
    return [
        tuple(
            Guess(token=tokenizer.token_bytes(id).decode("utf-8", "replace"), score=score)
            for id, score in zip(ids, scores, strict=True)
        )
        for ids, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
