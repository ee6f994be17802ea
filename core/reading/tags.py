"""Tags of words, and the spans that they join. A text that is too long is read in windows, as in training.

Legend: W words, C tags.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from core.data.chunks import OUTSIDE, chunks, read_tag
from core.data.encodings.reading import read_as, room
from core.data.encodings.tagged import read_words, windows
from core.reading.inputs import param_of, refuse_kind
from core.reading.reader import Reader
from core.reading_request import Input, Reading, ReadingRequest, Span, Tags, TextInput, Word, WordInput

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+(?:[-.'\u2019][^\W{_IDEOGRAPHS}]+)*|\S")
"""Ideographs and kana stand alone; letters and digits run together, also over a hyphen, point or apostrophe between
two of them; every other character is a word."""


@dataclass(frozen=True)
class Worded:
    """A text, and where its words stand in it, in characters."""

    text: str
    places: list[tuple[int, int]]

    @property
    def words(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.places]


def tags(reader: Reader, request: ReadingRequest) -> tuple[list[Reading], int]:
    texts = [_worded(given, param_of(request, i)) for i, given in enumerate(request.inputs)]
    encoder = reader.encoder(request.window)
    ids: list[list[int]] = []
    reads: list[tuple[int, list[tuple[int, int]]]] = []
    """of each row: which text, and (word, place in the row)"""
    for number, (all_ids, firsts) in enumerate(read_words([text.words for text in texts], encoder)):
        for begin, end in windows(len(all_ids), firsts, room(encoder)):
            framed = read_as(encoder, all_ids[begin:end])
            before = len(framed.ids) - 1 - (end - begin)
            here = [(word, before + at - begin) for word, at in enumerate(firsts) if at is not None]
            here = [(word, place) for word, place in here if before <= place < before + end - begin]
            ids.append(framed.ids)
            reads.append((number, here))
    said: list[dict[int, Tensor]] = [{} for _ in texts]
    for (number, here), logits_TC in zip(reads, reader.of_tokens(ids), strict=True):
        said[number].update((word, logits_TC[place]) for word, place in here)
    labels = reader.config.labels
    return [_tagged(text, found, labels) for text, found in zip(texts, said, strict=True)], sum(map(len, ids))


def _worded(given: Input, param: str) -> Worded:
    """Words that come alone are joined by single spaces, as in training."""
    if isinstance(given, TextInput) and given.pair is None:
        return Worded(given.text, [match.span() for match in _WORD.finditer(given.text)])
    if isinstance(given, WordInput):
        begins = accumulate((len(word) + 1 for word in given.words), initial=0)
        places = [(begin, begin + len(word)) for begin, word in zip(begins, given.words, strict=False)]
        return Worded(" ".join(given.words), places)
    raise refuse_kind("one text at a time: send a string, or {words}", param)


def _tagged(text: Worded, logits_C: dict[int, Tensor], labels: Sequence[str]) -> Tags:
    words = [Word(text=word, start=begin, end=end, label=None, score=None)
             for word, (begin, end) in zip(text.words, text.places, strict=True)]  # fmt: skip
    if logits_C:
        best = torch.stack(list(logits_C.values())).softmax(-1).max(-1)
        for at, score, number in zip(logits_C, best.values.tolist(), best.indices.tolist(), strict=True):
            words[at] = words[at].model_copy(update={"label": labels[number], "score": score})
    return Tags(words=tuple(words), spans=tuple(_spans(text, words, labels)))


def _spans(text: Worded, words: Sequence[Word], labels: Sequence[str]) -> list[Span]:
    found = []
    for chunk in chunks([read_tag(word.label or OUTSIDE, labels) for word in words]):
        inside = words[chunk.first : chunk.last + 1]
        begin, end = inside[0].start, inside[-1].end
        scores = [word.score for word in inside if word.score is not None]
        found.append(
            Span(
                label=chunk.kind,
                text=text.text[begin:end],
                start=begin,
                end=end,
                first_word=chunk.first,
                last_word=chunk.last,
                score=sum(scores) / len(scores),
            )
        )
    return found
