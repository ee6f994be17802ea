"""Answers to questions, found in a text. A long text is read in windows that overlap, as in training, and what they say
is put together: an answer is as likely as in the window that likes it most; that there is none must be said by all.

    score of a span      q_start(i) q_end(j), both softmaxes over the places of one window
    score of "none"      the smallest q_start(0) q_end(0) of all windows (Devlin et al. 2019, in the code, likewise)

Legend: T positions of a window, P places of its text.
"""

import math

import torch
from torch import Tensor

from core.data.encodings.question import Window, windows
from core.data.encodings.reading import room
from core.reading.inputs import param_of, refuse_kind, too_long
from core.reading.reader import Reader
from core.reading_request import Answer, Answers, QuestionInput, Reading, ReadingRequest

Places = dict[tuple[int, int], float]
"""scores by first character and the one behind the last"""


def answers(reader: Reader, request: ReadingRequest) -> tuple[list[Reading], int]:
    asked = []
    for i, given in enumerate(request.inputs):
        if not isinstance(given, QuestionInput):
            raise refuse_kind("a question and a text: send {question, context}", param_of(request, i))
        asked.append(given)
    encoder = reader.encoder(request.window)
    most = (room(encoder, texts=2) or 0) // 2
    for i, question in enumerate(reader.tokenizer.encode_batch([given.question for given in asked])):
        if len(question) > most and not request.truncate:
            raise too_long(f"{param_of(request, i)}.question", "the question", len(question), most)
    found = windows([given.question for given in asked], [given.context for given in asked], encoder)
    ids = [window.sequence.ids for of_one in found for window in of_one]
    logits = iter(reader.of_tokens(ids))
    readings: list[Reading] = [
        _best(given.context, [(window, next(logits)) for window in of_one], request.max_answers)
        for given, of_one in zip(asked, found, strict=True)
    ]
    return readings, sum(map(len, ids))


def _best(context: str, said: list[tuple[Window, Tensor]], count: int) -> Answers:
    places: Places = {}
    none = 1.0
    for window, logits_T2 in said:
        here, none_here = _of_window(window, logits_T2, count)
        none = min(none, none_here)
        for place, score in here.items():
            places[place] = max(score, places.get(place, 0.0))
    found = [
        Answer(text=context[begin:end], start=begin, end=end, score=score) for (begin, end), score in places.items()
    ]
    found.append(Answer(text="", start=None, end=None, score=none))
    return Answers(answers=tuple(sorted(found, key=lambda answer: -answer.score)[:count]))


def _of_window(window: Window, logits_T2: Tensor, count: int) -> tuple[Places, float]:
    """The likeliest span from each of the likeliest places on, and how likely it is that there is none."""
    allowed_T = torch.tensor(window.sequence.weights) > 0
    start_T, end_T = logits_T2.masked_fill(~allowed_T[:, None], -math.inf).log_softmax(0).unbind(-1)
    none = float((start_T[0] + end_T[0]).exp())
    if not window.spans:
        return {}, none
    text = slice(window.before, window.before + len(window.spans))
    best_end_P, end_P = (found.flip(0) for found in end_T[text].flip(0).cummax(0))
    end_P = len(window.spans) - 1 - end_P
    score_P, first_P = (start_T[text] + best_end_P).topk(min(count, len(window.spans)))
    places: Places = {}
    for first, score in zip(first_P.tolist(), score_P.exp().tolist(), strict=True):
        begin, end = window.spans[first][0], window.spans[int(end_P[first])][1]
        if begin < end:
            places[begin, end] = max(score, places.get((begin, end), 0.0))
    return places, none
